//! A vCPU on VMX: its control structure, general registers, and what is switched with the vCPU.
//!
//! The control structure is current from [`VirtualCpu::load`] to [`VirtualCpu::unload`], and every other method is
//! called in between. `unload` writes it to memory, so that any CPU can load it next.
#![allow(unsafe_code)] // The world switch itself, and MSRs that are switched by hand.

use alloc::boxed::Box;
use core::fmt;
use core::sync::atomic::Ordering;

use ebb_core::hypercall::{GuestPaging, Width};
use ebb_core::sched::pause::Window;
use ebb_core::speculation::msr::SPEC_CTRL;
use ebb_core::vcpu::{EntryPlan, Injection, Interruptibility, StartState};
use shared_abi::xen::Mfn;
use x86::vmx::vmcs::control::{EntryControls, PrimaryControls};
use x86::vmx::vmcs::{control, guest, ro};

use super::exit::{self, INFO_ERROR, INFO_TYPE_MASK, INFO_TYPE_NMI, INFO_VALID, reason};
use super::setup::{self, CR0_MASK, CR4_VMXE};
use super::{POLLED_INTERRUPTS, controls, invalidate, region, run, vmcs};
use crate::cpu::this_cpu;
use crate::virt::asid::{self, Asid};
use crate::virt::fpu::Fpu;
use crate::virt::page::Page;
use crate::virt::speculation::EntryGuard;
use crate::virt::{InstructionBytes, SegmentName, VirtualCpu, VmExit, register};
use crate::{instr, memory};

const AR_LONG: u32 = 1 << 13;
const AR_DEFAULT_32: u32 = 1 << 14;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_IF: u64 = 1 << 9;
const RESET_DR6: u64 = 0xffff_0ff0;

const INTERRUPTIBILITY_STI: u32 = 1 << 0;
const INTERRUPTIBILITY_MOV_SS: u32 = 1 << 1;
const INTERRUPTIBILITY_NMI: u32 = 1 << 3;
const TYPE_HARDWARE_EXCEPTION: u32 = 3 << 8;

/// The preemption timer's ticks where interrupts are looked for by it.
const POLL_TICKS: u64 = 20_000;

const MSR_EFER: u32 = 0xc000_0080;
const MSR_PAT: u32 = 0x277;
const MSR_DEBUGCTL: u32 = 0x1d9;
/// MSRs that no field of the control structure switches: STAR, LSTAR, CSTAR, SFMASK, kernel GS base. The hypervisor uses
/// none of them.
const SWITCHED: [u32; 5] = [0xc000_0081, 0xc000_0082, 0xc000_0083, 0xc000_0084, 0xc000_0102];
/// Where the virtual-APIC page has the task priority.
const APIC_TPR: usize = 0x80;

/// The guest's stack pointer, which no exit needs in a hurry.
#[cold]
#[inline(never)]
fn stack_pointer() -> u64 {
    vmcs::read(guest::RSP)
}

/// A vCPU on VMX.
pub struct VmxVcpu {
    _structure: Box<Page>,
    address: u64,
    apic: Box<Page>,
    registers: run::GuestRegisters,
    fpu: Fpu,
    guard: EntryGuard,
    switched: [u64; SWITCHED.len()],
    /// CR2 and DR6 while the vCPU is not loaded.
    page_fault_address: u64,
    debug_status: u64,
    asid: Asid,
    /// Whether the structure has this CPU's state and a valid identifier. Only entries of other vCPUs use identifiers up:
    /// while this one is here, a valid one stays valid.
    placed: bool,
    ept_pointer: u64,
    /// Whether the structure has been launched since it was last cleared.
    launched: bool,
    /// CPU the structure was last entered on.
    last_cpu: u16,
    /// Why the last entry was refused, if it was (VM-instruction error).
    refused: u32,
    /// The primary controls as they are in the structure.
    primary: u32,
    /// Task priority as last told to the hardware.
    tpr: u8,
    /// How long the guest may spin.
    pause_window: Window,
}

impl VmxVcpu {
    /// A vCPU that must be started before it is entered.
    pub fn new() -> Self {
        let structure = region();
        let address = memory::virt_to_phys(&raw const *structure);
        Self {
            _structure: structure,
            address,
            apic: Page::zeroed(),
            registers: run::GuestRegisters::default(),
            fpu: Fpu::default(),
            guard: EntryGuard::after_reset(),
            switched: [0; SWITCHED.len()],
            page_fault_address: 0,
            debug_status: RESET_DR6,
            asid: Asid::NONE,
            placed: false,
            ept_pointer: 0,
            launched: false,
            last_cpu: u16::MAX,
            refused: 0,
            primary: 0,
            tpr: 0,
            pause_window: Window::USUAL,
        }
    }

    /// Gives the entry what the CPU and the vCPU's start ask for, and drops translations that must go.
    #[inline]
    fn place(&mut self, flush: bool) {
        if flush || !self.placed {
            self.place_anew(flush);
        }
    }

    /// Gives the entry an address-space identifier, a new one on another CPU. Translations of guest-physical addresses
    /// belong to the table, not to the identifier: on another CPU than the last one there may be old ones.
    #[cold]
    fn place_anew(&mut self, flush: bool) {
        self.placed = true;
        let cpu = this_cpu().id();
        let moved = self.last_cpu != cpu.0;
        if moved {
            self.last_cpu = cpu.0;
            setup::host();
        }
        if !self.asid.is_valid_on(cpu) {
            let (asid, flush_all) = asid::allocate(cpu);
            self.asid = asid;
            vmcs::write(control::VPID, u64::from(asid.number));
            if flush_all {
                invalidate::everything();
            }
        }
        if moved || flush {
            invalidate::translations_of(self.ept_pointer);
        }
    }

    /// Changes the primary controls if they are others.
    fn set_primary(&mut self, value: u32) {
        if self.primary != value {
            self.primary = value;
            vmcs::write32(control::PRIMARY_PROCBASED_EXEC_CONTROLS, value);
        }
    }

    /// Asks for exits when the guest can take an interrupt, or an NMI, or withdraws that.
    fn set_windows(&mut self, interrupt: bool, nmi: bool) {
        let interrupt = if interrupt { PrimaryControls::INTERRUPT_WINDOW_EXITING.bits() } else { 0 };
        let nmi = if nmi { PrimaryControls::NMI_WINDOW_EXITING.bits() } else { 0 };
        self.set_primary(controls::PRIMARY.get() | interrupt | nmi);
    }

    /// Has the entry deliver an event; the error code, if there is one, is written besides.
    fn inject(info: u32) {
        vmcs::write32(control::VMENTRY_INTERRUPTION_INFO_FIELD, info);
    }

    /// An event whose delivery the exit cut short is delivered by the next entry.
    fn repeat_interrupted_event() {
        let info = vmcs::read32(ro::IDT_VECTORING_INFO);
        if info & INFO_VALID == 0 {
            return;
        }
        let mut state = vmcs::read32(guest::INTERRUPTIBILITY_STATE);
        if info & INFO_TYPE_MASK == INFO_TYPE_NMI {
            state &= !INTERRUPTIBILITY_NMI;
        }
        vmcs::write32(guest::INTERRUPTIBILITY_STATE, state & !(INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS));
        // Software interrupts and exceptions need the length of the instruction they come from.
        vmcs::write(control::VMENTRY_INSTRUCTION_LEN, vmcs::read(ro::VMEXIT_INSTRUCTION_LEN));
        if info & INFO_ERROR != 0 {
            vmcs::write32(control::VMENTRY_EXCEPTION_ERR_CODE, vmcs::read32(ro::IDT_VECTORING_ERR_CODE));
        }
        // Bit 12 is undefined here and reserved there.
        Self::inject(info & !(1 << 12));
    }

    /// An exit in the middle of an IRET that would have ended an NMI: the NMI goes on.
    fn restore_nmi_blocking(code: u32) {
        const BY_IRET: u64 = 1 << 12;
        let by_iret = match code {
            reason::EPT_VIOLATION => vmcs::read(ro::EXIT_QUALIFICATION) & BY_IRET != 0,
            reason::EXCEPTION_OR_NMI => {
                let info = vmcs::read(ro::VMEXIT_INTERRUPTION_INFO);
                info & BY_IRET != 0 && info as u8 != 8
            }
            _ => false,
        };
        if by_iret && vmcs::read32(ro::IDT_VECTORING_INFO) & INFO_VALID == 0 {
            let state = vmcs::read32(guest::INTERRUPTIBILITY_STATE);
            vmcs::write32(guest::INTERRUPTIBILITY_STATE, state | INTERRUPTIBILITY_NMI);
        }
    }

    /// Whether the guest is in long mode is a control of the entry, too: each exit brings it up to date, and this does when
    /// the guest's EFER is changed here.
    fn set_efer(value: u64) {
        vmcs::write(guest::IA32_EFER_FULL, value);
        let bit = if value & EFER_LMA != 0 { EntryControls::IA32E_MODE_GUEST.bits() } else { 0 };
        vmcs::write32(control::VMENTRY_CONTROLS, controls::ENTRY.get() | bit);
    }

    /// A write of CR0 that changes bits of ours: the guest sees them as it wants, and runs the instruction again.
    fn rewrite_cr0(&self) -> bool {
        let qualification = vmcs::read(ro::EXIT_QUALIFICATION);
        let is_move_to_cr0 = qualification & 0x3f == 0;
        if is_move_to_cr0 {
            let value = self.general((qualification >> 8 & 0xf) as usize);
            vmcs::write(control::CR0_READ_SHADOW, value);
        }
        is_move_to_cr0
    }

    /// What an entry came to that no hypercall ended; none when there is nothing to do but to go on.
    #[inline(never)]
    fn came_out(&mut self, entered: bool, code: u32) -> Option<VmExit> {
        if !entered {
            self.refused = vmcs::read32(ro::VM_INSTRUCTION_ERROR);
            return Some(VmExit::InvalidState);
        }
        if code & reason::ENTRY_FAILED != 0 {
            return Some(exit::translate(code));
        }
        self.launched = true;
        Self::restore_nmi_blocking(code);
        Self::repeat_interrupted_event();
        if code == reason::CONTROL_REGISTER && self.rewrite_cr0() {
            return None;
        }
        let exit = exit::translate(code);
        if exit == VmExit::Nmi {
            // SAFETY: no handler of an NMI runs; this ends the blocking that the exit began.
            unsafe { run::vmx_unblock_nmis() };
        }
        Some(exit)
    }

    fn write_apic_tpr(&mut self, tpr: u8) {
        // SAFETY: a byte of our own page, which the processor reads while the guest runs.
        unsafe { (&raw mut self.apic.0[APIC_TPR]).write_volatile(tpr) };
    }

    /// Changes the instruction pointer and ends the interrupt shadow.
    #[inline]
    fn go_on_at(rip: u64) {
        vmcs::write(guest::RIP, rip);
        let state = vmcs::read32(guest::INTERRUPTIBILITY_STATE);
        if state & (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS) != 0 {
            vmcs::write32(guest::INTERRUPTIBILITY_STATE, state & !(INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS));
        }
    }

    /// Whether the entry was not refused.
    #[inline(always)]
    fn enter(&mut self, run: run::Run) -> bool {
        // SAFETY: the structure is current and complete (`load`, `start`, `place`), `launched` is kept with it, and the
        // hypervisor runs with interrupts off.
        unsafe { run(&raw mut self.registers, u64::from(self.launched)) == 0 }
    }

    #[cold]
    fn enter_guarded(&mut self) -> bool {
        let verw = self.guard.before();
        let entered = self.enter(if verw { run::vmx_run_verw } else { run::vmx_run });
        self.guard.after();
        entered
    }

    fn is_64_bit(&self) -> bool {
        vmcs::read32(guest::CS_ACCESS_RIGHTS) & AR_LONG != 0 && vmcs::read(guest::IA32_EFER_FULL) & EFER_LMA != 0
    }
}

impl VirtualCpu for VmxVcpu {
    fn start(&mut self, state: &StartState, nested_root: Mfn) {
        self.ept_pointer = setup::controls(nested_root, memory::virt_to_phys(&raw const *self.apic));
        self.primary = controls::PRIMARY.get();
        setup::registers(state);
        Self::set_efer(state.efer);
        setup::segments(state);
        self.registers.0 = [0; 16];
        self.registers.0[..8].copy_from_slice(&state.general);
        self.write_apic_tpr(0);
        self.asid = Asid::NONE;
        self.placed = false;
        self.tpr = 0;
        self.guard.set_spec_ctrl(0);
        self.pause_window = Window::USUAL;
    }

    fn load(&mut self) {
        if self.last_cpu == u16::MAX {
            // What a new structure's page holds besides the revision is the processor's to make.
            assert!(vmcs::clear(self.address), "VMCLEAR failed");
        }
        assert!(vmcs::load(self.address), "VMPTRLD failed");
        let cpu = this_cpu().id();
        self.placed = self.last_cpu == cpu.0 && self.asid.is_valid_on(cpu);
        for (msr, value) in SWITCHED.into_iter().zip(self.switched) {
            // SAFETY: the MSR exists on every processor with long mode; the value is one that it had, or zero; the
            // hypervisor neither uses SYSCALL nor SWAPGS.
            unsafe { instr::wrmsr(msr, value) };
        }
        // SAFETY: neither register has an effect on the hypervisor, which reads CR2 only in its own page faults, and then
        // stops; every value of CR2 is legal, and DR6 gets what it had.
        unsafe {
            instr::set_cr2(self.page_fault_address);
            instr::set_dr6(self.debug_status);
        }
        self.fpu.load();
    }

    fn has_pause_exits(&self) -> bool {
        controls::has_pause_exits()
    }

    fn set_pause_window(&mut self, window: Window) {
        if window == self.pause_window || !self.has_pause_exits() {
            return;
        }
        self.pause_window = window;
        setup::pause_window(window);
    }

    fn unload(&mut self) {
        self.fpu.save();
        self.page_fault_address = instr::cr2();
        self.debug_status = instr::dr6();
        for (msr, value) in SWITCHED.into_iter().zip(&mut self.switched) {
            // SAFETY: the MSR exists, as in `load`.
            *value = unsafe { instr::rdmsr(msr) };
        }
        assert!(vmcs::clear(self.address), "VMCLEAR failed");
        self.launched = false;
    }

    fn prepare(&mut self, plan: &EntryPlan) {
        self.place(plan.flush_tlb);
        self.set_windows(plan.interrupt_window, plan.nmi_window);
        match plan.inject {
            Some(Injection::External(number)) => Self::inject(INFO_VALID | u32::from(number)),
            Some(Injection::Nmi) => Self::inject(INFO_VALID | INFO_TYPE_NMI | 2),
            None => {}
        }
    }

    #[inline]
    fn prepare_quiet(&mut self, flush_tlb: bool) {
        self.place(flush_tlb);
        self.set_windows(false, false);
    }

    #[inline]
    fn prepare_interrupt(&mut self, vector: u8, flush_tlb: bool) {
        self.place(flush_tlb);
        let can = self.interruptibility();
        let now = can.interrupts && !can.occupied;
        if now {
            Self::inject(INFO_VALID | u32::from(vector));
        }
        self.set_windows(!now, false);
    }

    #[inline]
    fn run(&mut self) -> VmExit {
        loop {
            let polled = POLLED_INTERRUPTS.load(Ordering::Relaxed);
            if polled {
                vmcs::write(guest::VMX_PREEMPTION_TIMER_VALUE, POLL_TICKS);
            }
            let entered = if self.guard.is_needed() { self.enter_guarded() } else { self.enter(run::vmx_run) };
            let code = vmcs::read32(ro::EXIT_REASON);
            if entered && code == reason::VMCALL {
                // The instruction ended: no event was being delivered.
                self.launched = true;
                if polled {
                    instr::take_interrupts();
                }
                return VmExit::Hypercall;
            }
            let exit = self.came_out(entered, code);
            if polled {
                instr::take_interrupts();
            }
            if let Some(exit) = exit {
                return exit;
            }
        }
    }

    #[inline(always)]
    fn general(&self, number: usize) -> u64 {
        if number == register::RSP { stack_pointer() } else { self.registers.0[number & 15] }
    }

    fn set_general(&mut self, number: usize, value: u64) {
        if number == register::RSP {
            vmcs::write(guest::RSP, value);
        } else {
            self.registers.0[number] = value;
        }
    }

    fn exit_code(&self) -> u32 {
        vmcs::read32(ro::EXIT_REASON)
    }

    fn rip(&self) -> u64 {
        vmcs::read(guest::RIP)
    }

    fn set_rip(&mut self, rip: u64) {
        Self::go_on_at(if self.is_64_bit() { rip } else { rip & 0xffff_ffff });
    }

    #[inline]
    fn advance(&mut self, _length: u64) {
        let rip = self.rip();
        let next = rip.wrapping_add(vmcs::read(ro::VMEXIT_INSTRUCTION_LEN));
        if (rip ^ next) >> 32 == 0 {
            // As wide as it was, whatever the mode.
            Self::go_on_at(next);
        } else {
            self.set_rip(next);
        }
    }

    fn advance_io(&mut self) {
        self.advance(0);
    }

    fn rflags(&self) -> u64 {
        vmcs::read(guest::RFLAGS)
    }

    fn set_rflags(&mut self, rflags: u64) {
        vmcs::write(guest::RFLAGS, rflags | 2);
    }

    fn paging(&self) -> GuestPaging {
        let shadow = vmcs::read(control::CR0_READ_SHADOW);
        GuestPaging {
            cr0: vmcs::read(guest::CR0) & !CR0_MASK | shadow & CR0_MASK,
            cr3: vmcs::read(guest::CR3),
            cr4: vmcs::read(guest::CR4) & !CR4_VMXE,
            efer: vmcs::read(guest::IA32_EFER_FULL),
            cpl: (vmcs::read32(guest::SS_ACCESS_RIGHTS) >> 5 & 3) as u8,
            interrupts: self.rflags() & RFLAGS_IF != 0,
        }
    }

    fn width(&self) -> Width {
        if self.is_64_bit() { Width::Bits64 } else { Width::Bits32 }
    }

    fn segment_base(&self, segment: SegmentName) -> u64 {
        let flat = self.is_64_bit() && !matches!(segment, SegmentName::Fs | SegmentName::Gs);
        if flat { 0 } else { vmcs::read(guest::ES_BASE + 2 * segment as u32) }
    }

    fn code_bits(&self) -> u32 {
        match vmcs::read32(guest::CS_ACCESS_RIGHTS) {
            _ if self.is_64_bit() => 64,
            rights if rights & AR_DEFAULT_32 != 0 => 32,
            _ => 16,
        }
    }

    fn interruptibility(&self) -> Interruptibility {
        let state = vmcs::read32(guest::INTERRUPTIBILITY_STATE);
        let shadow = state & (INTERRUPTIBILITY_STI | INTERRUPTIBILITY_MOV_SS) != 0;
        Interruptibility {
            interrupts: self.rflags() & RFLAGS_IF != 0 && !shadow,
            nmi: state & INTERRUPTIBILITY_NMI == 0 && !shadow,
            occupied: vmcs::read32(control::VMENTRY_INTERRUPTION_INFO_FIELD) & INFO_VALID != 0,
        }
    }

    fn inject_exception(&mut self, number: u8, error: Option<u32>) {
        let with_error = error.map_or(0, |error| {
            vmcs::write32(control::VMENTRY_EXCEPTION_ERR_CODE, error);
            INFO_ERROR
        });
        Self::inject(INFO_VALID | TYPE_HARDWARE_EXCEPTION | with_error | u32::from(number));
    }

    fn set_page_fault_address(&mut self, address: u64) {
        // CR2 is not switched by the processor: what is in it when the guest runs is the guest's.
        // SAFETY: the hypervisor reads CR2 only in its own page faults, which stop it.
        unsafe { instr::set_cr2(address) };
    }

    fn instruction_bytes(&self) -> InstructionBytes {
        InstructionBytes::default()
    }

    fn take_changed_tpr(&mut self) -> Option<u8> {
        // SAFETY: a byte of our own page, which the processor writes while the guest runs.
        let now = unsafe { (&raw const self.apic.0[APIC_TPR]).read_volatile() } & 0xf0;
        (now != self.tpr & 0xf0).then(|| {
            self.tpr = now;
            now
        })
    }

    fn set_tpr(&mut self, tpr: u8) {
        self.tpr = tpr;
        self.write_apic_tpr(tpr);
    }

    fn read_msr(&self, msr: u32) -> Option<u64> {
        Some(match msr {
            MSR_EFER => vmcs::read(guest::IA32_EFER_FULL),
            MSR_PAT => vmcs::read(guest::IA32_PAT_FULL),
            MSR_DEBUGCTL => vmcs::read(guest::IA32_DEBUGCTL_FULL),
            SPEC_CTRL => self.guard.spec_ctrl(),
            _ => return None,
        })
    }

    fn write_msr(&mut self, msr: u32, value: u64) -> bool {
        match msr {
            MSR_EFER => Self::set_efer(value),
            MSR_PAT => vmcs::write(guest::IA32_PAT_FULL, value),
            SPEC_CTRL => self.guard.set_spec_ctrl(value),
            _ => return false,
        }
        true
    }

    fn set_cr4(&mut self, value: u64) {
        vmcs::write(guest::CR4, value | CR4_VMXE);
    }

    fn xcr0(&self) -> u64 {
        self.fpu.current_xcr0()
    }

    fn set_xcr0(&mut self, value: u64) {
        self.fpu.set_xcr0(value);
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let field = vmcs::read;
        writeln!(
            out,
            "rip {:#x} cs {:#x}/{:#x} rflags {:#x} rsp {:#x}",
            field(guest::RIP),
            field(guest::CS_SELECTOR),
            field(guest::CS_ACCESS_RIGHTS),
            field(guest::RFLAGS),
            field(guest::RSP)
        )?;
        writeln!(
            out,
            "cr0 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x}",
            field(guest::CR0),
            field(guest::CR3),
            field(guest::CR4),
            field(guest::IA32_EFER_FULL)
        )?;
        for (index, four) in self.registers.0.chunks_exact(4).enumerate() {
            writeln!(out, "r{:<2} {:016x} {:016x} {:016x} {:016x}", index * 4, four[0], four[1], four[2], four[3])?;
        }
        writeln!(
            out,
            "exit {:#x} qualification {:#x} vectoring {:#x} entry {:#x} interruptibility {:#x} refused {} ept {:#x}",
            field(ro::EXIT_REASON),
            field(ro::EXIT_QUALIFICATION),
            field(ro::IDT_VECTORING_INFO),
            field(control::VMENTRY_INTERRUPTION_INFO_FIELD),
            field(guest::INTERRUPTIBILITY_STATE),
            self.refused,
            self.ept_pointer
        )
    }
}
