//! A vCPU on SVM: its control block, general registers and extended state.
#![allow(unsafe_code)] // The world switch itself.

use alloc::boxed::Box;
use core::fmt;

use ebb_core::hypercall::{GuestPaging, Width};
use ebb_core::sched::pause::Window;
use ebb_core::speculation::msr::SPEC_CTRL;
use ebb_core::vcpu::{EntryPlan, Injection, Interruptibility, Segment, StartState};
use shared_abi::xen::Mfn;

use super::vmcb::{
    ControlArea, SaveArea, Vmcb, VmcbSegment, clean, event, exit as code, intercept, tlb_control, vintr,
};
use super::{EFER_SVME, exit, feature, has, host_block, permissions, run};
use crate::cpu::this_cpu;
use crate::memory;
use crate::virt::asid::{self, Asid};
use crate::virt::fpu::Fpu;
use crate::virt::speculation::EntryGuard;
use crate::virt::{InstructionBytes, SegmentName, VirtualCpu, VmExit, register, vector};

const CS_LONG: u16 = 1 << 9;
const CS_DEFAULT_32: u16 = 1 << 10;
const EFER_LMA: u64 = 1 << 10;
/// PSE, PAE, PGE, SMEP, SMAP: a change drops all translations, global ones too.
const CR4_PAGING: u64 = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 20 | 1 << 21;
const RFLAGS_IF: u64 = 1 << 9;
const RESET_PAT: u64 = 0x0007_0406_0007_0406;
/// PAUSEs of a tight loop before an exit, by the usual window, and the gap in cycles that still counts as tight.
const PAUSE_COUNT: u32 = 3000;
const PAUSE_THRESHOLD: u16 = 128;

const MSR_EFER: u32 = 0xc000_0080;
const MSR_PAT: u32 = 0x277;
const MSR_DEBUGCTL: u32 = 0x1d9;

/// A vCPU on SVM.
pub struct SvmVcpu {
    pub(super) vmcb: Box<Vmcb>,
    vmcb_address: u64,
    registers: run::GuestRegisters,
    fpu: Fpu,
    guard: EntryGuard,
    asid: Asid,
    /// The identifier is not valid on the CPU that has this vCPU: the next entry takes a new one.
    needs_asid: bool,
    /// Parts of the control block that the CPU may still hold; see [`clean`].
    clean: u64,
    /// What those are right after an exit: all, or nothing on processors without clean bits.
    all_clean: u64,
    /// CPU the block was last entered on.
    last_cpu: u16,
    /// The host's own block on the CPU that has this vCPU.
    host_block: u64,
    /// An NMI handler runs (an NMI was injected and no IRET seen).
    nmi_blocked: bool,
    /// The IRET of an NMI handler is about to run: blocked for one more entry.
    pub(super) nmi_ending: bool,
    /// The external interrupt that was put as a software interrupt for this entry; see [`SvmVcpu::inject_external`].
    pub(super) as_software: u64,
    /// Task priority class (bits 7:4 of TPR) as last told to the hardware.
    tpr: u8,
    /// Translations are to go at the next entry.
    flush: bool,
    /// How long the guest may spin.
    pause_window: Window,
}

fn segment(from: &Segment) -> VmcbSegment {
    VmcbSegment { selector: from.selector, attributes: from.attributes, limit: from.limit, base: from.base }
}

impl SvmVcpu {
    /// A vCPU that must be started before it is entered.
    pub fn new() -> Self {
        // SAFETY: a control block is integers only, for which zero is a value; zero is what reserved space must be.
        let vmcb: Box<Vmcb> = unsafe { Box::<Vmcb>::new_zeroed().assume_init() };
        let vmcb_address = memory::virt_to_phys(&raw const *vmcb);
        Self {
            vmcb,
            vmcb_address,
            registers: run::GuestRegisters::default(),
            fpu: Fpu::default(),
            guard: EntryGuard::after_reset(),
            asid: Asid::NONE,
            needs_asid: true,
            clean: 0,
            all_clean: 0,
            last_cpu: u16::MAX,
            host_block: 0,
            nmi_blocked: false,
            nmi_ending: false,
            as_software: 0,
            tpr: 0,
            flush: false,
            pause_window: Window::USUAL,
        }
    }

    fn set_up_control(control: &mut ControlArea, nested_root: Mfn) {
        let (io, msr) = permissions::addresses();
        control.intercept_cr_write = intercept::CR4;
        control.intercept_exceptions = 1 << vector::DEBUG | 1 << vector::ALIGNMENT_CHECK | 1 << vector::MACHINE_CHECK;
        control.intercept_misc1 = intercept::INTR
            | intercept::NMI
            | intercept::SMI
            | intercept::INIT
            | intercept::RDPMC
            | intercept::CPUID
            | intercept::INVD
            | intercept::HLT
            | intercept::INVLPGA
            | intercept::IOIO
            | intercept::MSR
            | intercept::FERR_FREEZE
            | intercept::SHUTDOWN;
        control.intercept_misc2 =
            intercept::SVM_INSTRUCTIONS | intercept::WBINVD | intercept::MONITOR | intercept::XSETBV | intercept::RDPRU;
        if has(feature::PAUSE_FILTER) {
            control.intercept_misc1 |= intercept::PAUSE;
            control.pause_filter_count = PAUSE_COUNT as u16;
            control.pause_filter_threshold = if has(feature::PAUSE_THRESHOLD) { PAUSE_THRESHOLD } else { 0 };
        }
        control.iopm_base = io;
        control.msrpm_base = msr;
        control.vintr = vintr::MASKING;
        control.interrupt_shadow = 0;
        control.event_injection = 0;
        control.exit_int_info = 0;
        control.nested_control = 1;
        control.nested_cr3 = nested_root.0 << 12;
    }

    fn set_up_save(save: &mut SaveArea, state: &StartState) {
        save.es = segment(&state.es);
        save.cs = segment(&state.cs);
        save.ss = segment(&state.ss);
        save.ds = segment(&state.ds);
        save.fs = segment(&state.es);
        save.gs = segment(&state.es);
        save.gdtr = VmcbSegment { limit: 0xffff, ..VmcbSegment::default() };
        save.ldtr = VmcbSegment { attributes: 0x82, limit: 0xffff, ..VmcbSegment::default() };
        save.idtr = VmcbSegment { limit: 0xffff, ..VmcbSegment::default() };
        save.tr = segment(&state.tr);
        save.cpl = 0;
        save.efer = state.efer | EFER_SVME;
        save.cr0 = state.cr0;
        save.cr2 = 0;
        save.cr3 = state.cr3;
        save.cr4 = state.cr4;
        save.dr6 = 0xffff_0ff0;
        save.dr7 = 0x400;
        save.rflags = state.rflags | 2;
        save.rip = state.rip;
        save.rsp = state.general[register::RSP];
        save.rax = state.general[register::RAX];
        save.g_pat = RESET_PAT;
        save.debug_control = 0;
        save.spec_ctrl = 0;
        for value in [
            &mut save.star,
            &mut save.lstar,
            &mut save.cstar,
            &mut save.sfmask,
            &mut save.kernel_gs_base,
            &mut save.sysenter_cs,
            &mut save.sysenter_esp,
            &mut save.sysenter_eip,
        ] {
            *value = 0;
        }
    }

    /// Gives the entry an address-space identifier, a new one where translations must go.
    #[inline]
    fn place(&mut self, flush: bool) {
        self.vmcb.control.tlb_control = tlb_control::NONE;
        if self.needs_asid || self.flush || flush {
            self.drop_translations();
        }
    }

    #[cold]
    fn drop_translations(&mut self) {
        self.flush = false;
        let control = &mut self.vmcb.control;
        if self.needs_asid || !has(feature::FLUSH_BY_ASID) {
            let (asid, flush_all) = asid::allocate(this_cpu().id());
            self.asid = asid;
            self.needs_asid = false;
            control.asid = asid.number;
            control.tlb_control = if flush_all { tlb_control::FLUSH_ALL } else { tlb_control::NONE };
            self.clean &= !clean::ASID;
        } else {
            control.tlb_control = tlb_control::FLUSH_ASID;
        }
    }

    /// Asks for an exit when the guest can next take an interrupt, or withdraws that.
    #[inline]
    fn set_window(&mut self, wanted: bool) {
        let open = self.vmcb.control.intercept_misc1 & intercept::VINTR != 0;
        if wanted != open {
            self.change_window(wanted);
        }
    }

    #[inline(never)]
    fn change_window(&mut self, wanted: bool) {
        let control = &mut self.vmcb.control;
        if wanted {
            control.vintr |= vintr::IRQ | vintr::IGNORE_TPR;
            control.intercept_misc1 |= intercept::VINTR;
        } else {
            control.vintr &= !(vintr::IRQ | vintr::IGNORE_TPR);
            control.intercept_misc1 &= !intercept::VINTR;
        }
        self.clean &= !(clean::TPR | clean::INTERCEPTS);
    }

    #[inline(always)]
    fn enter(&mut self) {
        let shadow = self.vmcb.control.interrupt_shadow & 1 != 0;
        self.vmcb.control.clean_bits = self.clean;
        // SAFETY: the control block is ours, complete (`start`), and in memory that stays; `host_block` is this CPU's
        // (`load` ran here) and was filled by `enable_this_cpu`; SVM is on; the hypervisor runs with interrupts off.
        unsafe { run::svm_run(self.vmcb_address, &raw mut self.registers, self.host_block, shadow) };
    }

    #[cold]
    fn enter_guarded(&mut self) {
        // No processor with SVM is open to what VERW is for.
        self.guard.before();
        self.enter();
        self.guard.after();
    }

    /// The guest can take what waited for it: an interrupt, or, after this instruction, an NMI.
    #[inline(never)]
    fn window_came(&mut self) {
        let control = &mut self.vmcb.control;
        if control.exit_code == code::IRET {
            control.intercept_misc1 &= !intercept::IRET;
            self.clean &= !clean::INTERCEPTS;
            self.nmi_blocked = false;
            self.nmi_ending = true;
        } else {
            self.set_window(false);
        }
    }

    fn is_64_bit(&self) -> bool {
        self.vmcb.save.cs.attributes & CS_LONG != 0 && self.vmcb.save.efer & EFER_LMA != 0
    }
}

impl VirtualCpu for SvmVcpu {
    fn start(&mut self, state: &StartState, nested_root: Mfn) {
        Self::set_up_control(&mut self.vmcb.control, nested_root);
        Self::set_up_save(&mut self.vmcb.save, state);
        self.registers.0 = [0; 16];
        self.registers.0[..8].copy_from_slice(&state.general);
        self.clean = 0;
        self.needs_asid = true;
        self.nmi_blocked = false;
        self.nmi_ending = false;
        self.tpr = 0;
        self.guard.set_spec_ctrl(0);
        self.pause_window = Window::USUAL;
    }

    fn load(&mut self) {
        let cpu = this_cpu().id();
        if self.last_cpu != cpu.0 {
            self.last_cpu = cpu.0;
            self.clean = 0;
        }
        // Only entries of other vCPUs use up identifiers: while this one is here, a valid one stays valid.
        self.needs_asid |= !self.asid.is_valid_on(cpu);
        self.all_clean = if has(feature::CLEAN_BITS) { clean::ALL } else { 0 };
        self.host_block = host_block();
        self.fpu.load();
    }

    fn has_pause_exits(&self) -> bool {
        has(feature::PAUSE_FILTER)
    }

    fn set_pause_window(&mut self, window: Window) {
        if window == self.pause_window || !self.has_pause_exits() {
            return;
        }
        self.pause_window = window;
        let control = &mut self.vmcb.control;
        match window.scale(PAUSE_COUNT) {
            Some(count) => {
                control.intercept_misc1 |= intercept::PAUSE;
                control.pause_filter_count = u16::try_from(count).unwrap_or(u16::MAX);
            }
            None => control.intercept_misc1 &= !intercept::PAUSE,
        }
        self.clean &= !clean::INTERCEPTS;
    }

    fn unload(&mut self) {
        self.fpu.save();
    }

    fn prepare(&mut self, plan: &EntryPlan) {
        self.place(plan.flush_tlb);
        self.set_window(plan.interrupt_window || (plan.nmi_window && !self.nmi_blocked));
        match plan.inject {
            Some(Injection::External(number)) => {
                self.inject_external(number);
            }
            Some(Injection::Nmi) => {
                self.vmcb.control.event_injection = event::VALID | event::TYPE_NMI | 2;
                self.vmcb.control.intercept_misc1 |= intercept::IRET;
                self.clean &= !clean::INTERCEPTS;
                self.nmi_blocked = true;
            }
            None => {}
        }
    }

    #[inline]
    fn prepare_quiet(&mut self, flush_tlb: bool) {
        self.place(flush_tlb);
        self.set_window(false);
    }

    #[inline]
    fn prepare_interrupt(&mut self, vector: u8, flush_tlb: bool) {
        self.place(flush_tlb);
        let can = self.interruptibility();
        let now = can.interrupts && !can.occupied;
        if now {
            self.inject_external(vector);
        }
        self.set_window(!now);
    }

    #[inline]
    fn run(&mut self) -> VmExit {
        if self.guard.is_needed() {
            self.enter_guarded();
        } else {
            self.enter();
        }
        self.clean = self.all_clean;
        self.after_exit();
        if self.vmcb.control.exit_code == code::VMMCALL {
            return VmExit::Hypercall;
        }
        let exit = exit::translate(&self.vmcb.control);
        if matches!(exit, VmExit::Window) {
            self.window_came();
        }
        exit
    }

    fn general(&self, number: usize) -> u64 {
        match number {
            register::RAX => self.vmcb.save.rax,
            register::RSP => self.vmcb.save.rsp,
            other => self.registers.0[other],
        }
    }

    fn set_general(&mut self, number: usize, value: u64) {
        match number {
            register::RAX => self.vmcb.save.rax = value,
            register::RSP => self.vmcb.save.rsp = value,
            other => self.registers.0[other] = value,
        }
    }

    fn exit_code(&self) -> u32 {
        self.vmcb.control.exit_code as u32
    }

    fn rip(&self) -> u64 {
        self.vmcb.save.rip
    }

    fn set_rip(&mut self, rip: u64) {
        self.vmcb.save.rip = if self.is_64_bit() { rip } else { rip & 0xffff_ffff };
        self.vmcb.control.interrupt_shadow &= !1;
    }

    #[inline]
    fn advance(&mut self, length: u64) {
        let next = if has(feature::NEXT_RIP) && self.vmcb.control.next_rip != 0 {
            self.vmcb.control.next_rip
        } else {
            self.vmcb.save.rip.wrapping_add(length)
        };
        self.set_rip(next);
    }

    fn advance_io(&mut self) {
        self.set_rip(self.vmcb.control.exit_info_2);
    }

    fn rflags(&self) -> u64 {
        self.vmcb.save.rflags
    }

    fn set_rflags(&mut self, rflags: u64) {
        self.vmcb.save.rflags = rflags | 2;
    }

    fn paging(&self) -> GuestPaging {
        let save = &self.vmcb.save;
        GuestPaging {
            cr0: save.cr0,
            cr3: save.cr3,
            cr4: save.cr4,
            efer: save.efer & !EFER_SVME,
            cpl: save.cpl,
            interrupts: save.rflags & RFLAGS_IF != 0,
        }
    }

    fn width(&self) -> Width {
        if self.is_64_bit() { Width::Bits64 } else { Width::Bits32 }
    }

    fn segment_base(&self, segment: SegmentName) -> u64 {
        let save = &self.vmcb.save;
        let value = match segment {
            SegmentName::Es => save.es,
            SegmentName::Cs => save.cs,
            SegmentName::Ss => save.ss,
            SegmentName::Ds => save.ds,
            SegmentName::Fs => save.fs,
            SegmentName::Gs => save.gs,
        };
        let flat = self.is_64_bit() && !matches!(segment, SegmentName::Fs | SegmentName::Gs);
        if flat { 0 } else { value.base }
    }

    fn code_bits(&self) -> u32 {
        match self.vmcb.save.cs.attributes {
            _ if self.is_64_bit() => 64,
            attributes if attributes & CS_DEFAULT_32 != 0 => 32,
            _ => 16,
        }
    }

    fn interruptibility(&self) -> Interruptibility {
        let control = &self.vmcb.control;
        let shadow = control.interrupt_shadow & 1 != 0;
        Interruptibility {
            interrupts: self.vmcb.save.rflags & RFLAGS_IF != 0 && !shadow,
            nmi: !self.nmi_blocked && !self.nmi_ending && !shadow,
            occupied: control.event_injection & event::VALID != 0,
        }
    }

    fn inject_exception(&mut self, number: u8, error: Option<u32>) {
        let mut value = event::VALID | event::TYPE_EXCEPTION | u64::from(number);
        if let Some(error) = error {
            value |= event::ERROR_VALID | u64::from(error) << 32;
        }
        self.vmcb.control.event_injection = value;
    }

    fn set_page_fault_address(&mut self, address: u64) {
        self.vmcb.save.cr2 = address;
        self.clean &= !clean::CR2;
    }

    fn instruction_bytes(&self) -> InstructionBytes {
        let control = &self.vmcb.control;
        let length = usize::from(control.instruction_length & 0xf);
        let usable = has(feature::DECODE_ASSISTS) && length > 0;
        InstructionBytes { bytes: control.instruction_bytes, length: if usable { length } else { 0 } }
    }

    #[inline]
    fn take_changed_tpr(&mut self) -> Option<u8> {
        let now = (self.vmcb.control.vintr & vintr::TPR_MASK) as u8;
        (now != self.tpr).then(|| {
            self.tpr = now;
            now << 4
        })
    }

    fn set_tpr(&mut self, tpr: u8) {
        let class = tpr >> 4;
        if self.tpr != class {
            self.tpr = class;
            let control = &mut self.vmcb.control;
            control.vintr = control.vintr & !vintr::TPR_MASK | u64::from(class);
            self.clean &= !clean::TPR;
        }
    }

    fn read_msr(&self, msr: u32) -> Option<u64> {
        let save = &self.vmcb.save;
        Some(match msr {
            MSR_EFER => save.efer & !EFER_SVME,
            MSR_PAT => save.g_pat,
            MSR_DEBUGCTL => save.debug_control,
            SPEC_CTRL if has(feature::VIRTUAL_SPEC_CTRL) => save.spec_ctrl,
            SPEC_CTRL => self.guard.spec_ctrl(),
            _ => return None,
        })
    }

    fn write_msr(&mut self, msr: u32, value: u64) -> bool {
        let save = &mut self.vmcb.save;
        match msr {
            MSR_EFER => {
                save.efer = value | EFER_SVME;
                self.clean &= !clean::CRX;
            }
            MSR_PAT => {
                save.g_pat = value;
                self.clean &= !clean::NESTED;
            }
            SPEC_CTRL if has(feature::VIRTUAL_SPEC_CTRL) => {
                save.spec_ctrl = value;
                self.clean = 0;
            }
            SPEC_CTRL => self.guard.set_spec_ctrl(value),
            _ => return false,
        }
        true
    }

    fn set_cr4(&mut self, value: u64) {
        let save = &mut self.vmcb.save;
        self.flush |= (save.cr4 ^ value) & CR4_PAGING != 0;
        save.cr4 = value;
        self.clean &= !clean::CRX;
    }

    fn xcr0(&self) -> u64 {
        self.fpu.current_xcr0()
    }

    fn set_xcr0(&mut self, value: u64) {
        self.fpu.set_xcr0(value);
    }

    fn describe(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let (save, control) = (&self.vmcb.save, &self.vmcb.control);
        writeln!(
            out,
            "rip {:#x} cs {:#x}/{:#x} rflags {:#x} rsp {:#x} cpl {}",
            save.rip, save.cs.selector, save.cs.attributes, save.rflags, save.rsp, save.cpl
        )?;
        writeln!(
            out,
            "cr0 {:#x} cr2 {:#x} cr3 {:#x} cr4 {:#x} efer {:#x}",
            save.cr0, save.cr2, save.cr3, save.cr4, save.efer
        )?;
        writeln!(
            out,
            "gdt {:#x}/{:#x} idt {:#x}/{:#x} tr {:#x}/{:#x} gs {:#x}",
            save.gdtr.base, save.gdtr.limit, save.idtr.base, save.idtr.limit, save.tr.base, save.tr.limit, save.gs.base
        )?;
        for (index, pair) in self.registers.0.chunks_exact(4).enumerate() {
            writeln!(out, "r{:<2} {:016x} {:016x} {:016x} {:016x}", index * 4, pair[0], pair[1], pair[2], pair[3])?;
        }
        writeln!(
            out,
            "rax {:#x}; exit {:#x} info {:#x} {:#x} intinfo {:#x} inject {:#x} vintr {:#x} nested cr3 {:#x}",
            save.rax,
            control.exit_code,
            control.exit_info_1,
            control.exit_info_2,
            control.exit_int_info,
            control.event_injection,
            control.vintr,
            control.nested_cr3
        )
    }
}
