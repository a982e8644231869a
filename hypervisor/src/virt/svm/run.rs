//! The world switch: general registers in, VMRUN, general registers out.
//!
//! Entered with interrupts off. The global interrupt flag is cleared around the switch, and RFLAGS.IF set inside it,
//! so that a physical interrupt that comes before or during VMRUN turns into an exit right after entry: none is lost,
//! and none is taken in the hypervisor.
//!
//! QEMU's emulation (7.2 at least) does not take the guest's interrupt shadow from the control block, but carries the
//! host's own into the guest. So a STI stands right before VMRUN when, and only when, the guest is in a shadow: else
//! its `sti; hlt` would take an interrupt in between, or one STI too many would swallow the shadow of the guest's.
//!
//! FS, GS, TR, LDTR and the SYSCALL/SYSENTER MSRs are exchanged by VMLOAD and VMSAVE, for which the host has a block of
//! its own on each CPU.
#![allow(unsafe_code)] // Assembly; the contract is on `svm_run`.

use core::arch::global_asm;

/// The guest's general registers except rax and rsp (those are in the VMCB), in the order of their numbers; the
/// slots of rax and rsp are unused.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct GuestRegisters(pub [u64; 16]);

unsafe extern "C" {
    /// Runs the guest until it exits.
    ///
    /// # Safety
    /// `guest` and `host` are physical addresses of valid control blocks, the second one filled by VMSAVE on this CPU;
    /// SVM is enabled; `registers` is valid; interrupts are off. `shadow` is the control block's interrupt shadow.
    /// Registers outside the ABI's preserved set change.
    pub fn svm_run(guest: u64, registers: *mut GuestRegisters, host: u64, shadow: bool);
    /// Where it ends. Not to be called.
    pub fn svm_run_end();
}

global_asm!(
    r#"
.global svm_run
.type svm_run, @function
svm_run:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    movzx ecx, cl
    push rcx
    push rdx
    push rsi
    mov rax, rdi
    clgi
    sti
    vmload rax
    mov rcx, [rsi + 8]
    mov rdx, [rsi + 16]
    mov rbx, [rsi + 24]
    mov rbp, [rsi + 40]
    mov rdi, [rsi + 56]
    mov r8,  [rsi + 64]
    mov r9,  [rsi + 72]
    mov r10, [rsi + 80]
    mov r11, [rsi + 88]
    mov r12, [rsi + 96]
    mov r13, [rsi + 104]
    mov r14, [rsi + 112]
    mov r15, [rsi + 120]
    mov rsi, [rsi + 48]
    cmp byte ptr [rsp + 16], 0
    je 2f
    sti
2:
    vmrun rax
    cli
    vmsave rax
    xchg rsi, [rsp]
    mov [rsi + 8], rcx
    mov [rsi + 16], rdx
    mov [rsi + 24], rbx
    mov [rsi + 40], rbp
    mov [rsi + 56], rdi
    mov [rsi + 64], r8
    mov [rsi + 72], r9
    mov [rsi + 80], r10
    mov [rsi + 88], r11
    mov [rsi + 96], r12
    mov [rsi + 104], r13
    mov [rsi + 112], r14
    mov [rsi + 120], r15
    pop rcx
    mov [rsi + 48], rcx
    pop rax
    vmload rax
    stgi
    pop rcx
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret
.global svm_run_end
svm_run_end:
.size svm_run, . - svm_run
"#
);
