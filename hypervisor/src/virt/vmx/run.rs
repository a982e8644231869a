//! The world switch: general registers in, VMLAUNCH or VMRESUME, general registers out.
//!
//! Entered with interrupts off; a physical interrupt that comes before or during the guest ends it, and stays pending
//! for the hypervisor to take. All other host state is in the control structure.
#![allow(unsafe_code)] // Assembly; the contract is on `vmx_run`.

use core::arch::global_asm;

use crate::cpu::DATA_SELECTOR;

/// The guest's general registers in the order of their numbers; the slot of rsp, which is in the control structure, is
/// unused.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct GuestRegisters(pub [u64; 16]);

/// [`vmx_run`] or [`vmx_run_verw`].
pub type Run = unsafe extern "C" fn(*mut GuestRegisters, u64) -> u64;

unsafe extern "C" {
    /// Runs the guest until it exits. 0, or 1 when the entry was refused (VMfail).
    ///
    /// # Safety
    /// The current control structure is complete, with [`vmx_exit`] as the host's RIP; `launched` says whether it has
    /// been launched since it was cleared; `registers` is valid; interrupts are off.
    pub fn vmx_run(registers: *mut GuestRegisters, launched: u64) -> u64;
    /// [`vmx_run`] with VERW as the last instruction before the entry: it overwrites the processor's buffers.
    ///
    /// # Safety
    /// As for [`vmx_run`].
    pub fn vmx_run_verw(registers: *mut GuestRegisters, launched: u64) -> u64;
    /// Where the processor goes at an exit. Not to be called.
    pub fn vmx_exit();
    /// Returns from an interrupt that there was not: ends the blocking of NMIs that an NMI's exit leaves behind.
    ///
    /// # Safety
    /// No NMI handler is being run.
    pub fn vmx_unblock_nmis();
}

global_asm!(
    r#"
.macro vmx_entry name, last:vararg
.global \name
.type \name, @function
\name:
    push rbp
    push rbx
    push r12
    push r13
    push r14
    push r15
    push rdi
    mov eax, 0x6c14
    vmwrite rax, rsp
    test rsi, rsi
    mov rax, [rdi + 0]
    mov rcx, [rdi + 8]
    mov rdx, [rdi + 16]
    mov rbx, [rdi + 24]
    mov rbp, [rdi + 40]
    mov rsi, [rdi + 48]
    mov r8,  [rdi + 64]
    mov r9,  [rdi + 72]
    mov r10, [rdi + 80]
    mov r11, [rdi + 88]
    mov r12, [rdi + 96]
    mov r13, [rdi + 104]
    mov r14, [rdi + 112]
    mov r15, [rdi + 120]
    mov rdi, [rdi + 56]
    jnz 1f
    \last
    vmlaunch
    jmp vmx_refused
1:  \last
    vmresume
    jmp vmx_refused
.size \name, . - \name
.endm

vmx_entry vmx_run
vmx_entry vmx_run_verw, verw word ptr [rip + vmx_data_selector]

.global vmx_exit
.type vmx_exit, @function
vmx_refused:
    add rsp, 8
    mov eax, 1
    jmp 3f
vmx_exit:
    xchg rdi, [rsp]
    mov [rdi + 0], rax
    mov [rdi + 8], rcx
    mov [rdi + 16], rdx
    mov [rdi + 24], rbx
    mov [rdi + 40], rbp
    mov [rdi + 48], rsi
    mov [rdi + 64], r8
    mov [rdi + 72], r9
    mov [rdi + 80], r10
    mov [rdi + 88], r11
    mov [rdi + 96], r12
    mov [rdi + 104], r13
    mov [rdi + 112], r14
    mov [rdi + 120], r15
    pop rcx
    mov [rdi + 56], rcx
    xor eax, eax
3:  pop r15
    pop r14
    pop r13
    pop r12
    pop rbx
    pop rbp
    ret
.size vmx_exit, . - vmx_exit

.global vmx_unblock_nmis
.type vmx_unblock_nmis, @function
vmx_unblock_nmis:
    mov rax, rsp
    mov rcx, [rsp]
    add rax, 8
    mov edx, ss
    push rdx
    push rax
    pushfq
    mov edx, cs
    push rdx
    push rcx
    iretq
.size vmx_unblock_nmis, . - vmx_unblock_nmis

.pushsection .rodata.vmx_data_selector, "a"
// VERW overwrites buffers only with the selector of a segment that may be written.
vmx_data_selector:
    .word {data}
.popsection
"#,
    data = const DATA_SELECTOR,
);
