//! What a control structure is filled with: controls and registers when a vCPU starts, the host's state when it comes to
//! another CPU.
#![allow(unsafe_code)] // Reads of MSRs.

use ebb_core::sched::pause::Window;
use ebb_core::vcpu::{Segment, StartState};
use shared_abi::xen::Mfn;
use x86::vmx::vmcs::{control, guest, host as host_field};

use super::{capability, controls, has, permissions, run, vmcs};
use crate::cpu::{CODE_SELECTOR, DATA_SELECTOR, TSS_SELECTOR, this_cpu};
use crate::instr;
use crate::virt::{register, vector};

const AR_UNUSABLE: u32 = 1 << 16;
const CR0_NE: u64 = 1 << 5;
/// Bits of CR0 that are not the guest's: numeric errors stay on, as VMX demands, and caches too. It sees what it wrote.
pub const CR0_MASK: u64 = CR0_NE | 3 << 29;
/// Always on in VMX operation, and never seen by a guest.
pub const CR4_VMXE: u64 = 1 << 13;
const RESET_PAT: u64 = 0x0007_0406_0007_0406;
const MSR_EFER: u32 = 0xc000_0080;
const MSR_PAT: u32 = 0x277;

/// Cycles between two PAUSEs of one loop, and cycles of such a loop before an exit, by the usual window.
const PAUSE_GAP: u64 = 128;
const PAUSE_WINDOW: u32 = 4096;

/// The four fields of a segment, by the encoding of its selector.
struct SegmentFields {
    selector: u32,
    limit: u32,
    rights: u32,
    base: u32,
}

impl SegmentFields {
    fn at(selector: u32) -> Self {
        let index = selector - guest::ES_SELECTOR;
        Self {
            selector,
            limit: guest::ES_LIMIT + index,
            rights: guest::ES_ACCESS_RIGHTS + index,
            base: guest::ES_BASE + index,
        }
    }

    fn write(&self, segment: &Segment) {
        let attributes = u32::from(segment.attributes);
        let usable = attributes & 0x80 != 0;
        let rights = if usable { attributes & 0xff | (attributes & 0xf00) << 4 } else { AR_UNUSABLE };
        vmcs::write(self.selector, u64::from(segment.selector));
        vmcs::write32(self.limit, segment.limit);
        vmcs::write32(self.rights, rights);
        vmcs::write(self.base, segment.base);
    }
}

/// The controls, for a vCPU whose nested table begins at `nested_root` and whose virtual-APIC page is at `apic`. Its EPT
/// pointer.
pub fn controls(nested_root: Mfn, apic: u64) -> u64 {
    const WRITE_BACK: u64 = 6;
    const WALK_OF_FOUR: u64 = 3 << 3;
    const ACCESSED_DIRTY: u64 = 1 << 6;
    let flags = if has(capability::ACCESSED_DIRTY) { ACCESSED_DIRTY } else { 0 };
    let ept_pointer = nested_root.0 << 12 | WRITE_BACK | WALK_OF_FOUR | flags;
    vmcs::write32(control::PINBASED_EXEC_CONTROLS, controls::PIN.get());
    vmcs::write32(control::PRIMARY_PROCBASED_EXEC_CONTROLS, controls::PRIMARY.get());
    vmcs::write32(control::SECONDARY_PROCBASED_EXEC_CONTROLS, controls::SECONDARY.get());
    vmcs::write32(control::VMEXIT_CONTROLS, controls::EXIT.get());
    let watched = 1 << vector::DEBUG | 1 << vector::ALIGNMENT_CHECK | 1 << vector::MACHINE_CHECK;
    vmcs::write32(control::EXCEPTION_BITMAP, watched);
    vmcs::write(control::EPTP_FULL, ept_pointer);
    vmcs::write(control::MSR_BITMAPS_ADDR_FULL, permissions::address());
    vmcs::write(control::VIRT_APIC_ADDR_FULL, apic);
    vmcs::write(control::PLE_GAP, PAUSE_GAP);
    pause_window(Window::USUAL);
    for field in [
        control::TPR_THRESHOLD,
        control::PAGE_FAULT_ERR_CODE_MASK,
        control::PAGE_FAULT_ERR_CODE_MATCH,
        control::CR3_TARGET_COUNT,
        control::VMEXIT_MSR_STORE_COUNT,
        control::VMEXIT_MSR_LOAD_COUNT,
        control::VMENTRY_MSR_LOAD_COUNT,
        control::VMENTRY_INTERRUPTION_INFO_FIELD,
    ] {
        vmcs::write(field, 0);
    }
    ept_pointer
}

/// How long the guest may spin before it exits. For ever is the longest there is: seconds.
pub fn pause_window(window: Window) {
    vmcs::write32(control::PLE_WINDOW, window.scale(PAUSE_WINDOW).unwrap_or(u32::MAX));
}

/// All but EFER, on which a control depends. CR0 and CR4 have bits that are not the guest's. Writing a forbidden bit of CR4 exits, and faults; a write of CR0
/// that changes one of ours exits, and runs again once the guest's view of those bits is what it writes.
pub fn registers(state: &StartState) {
    let cr4_offered = crate::virt::offered_cr4();
    vmcs::write(control::CR0_GUEST_HOST_MASK, CR0_MASK);
    vmcs::write(control::CR0_READ_SHADOW, state.cr0);
    vmcs::write(guest::CR0, state.cr0 & !CR0_MASK | CR0_NE);
    vmcs::write(control::CR4_GUEST_HOST_MASK, !cr4_offered);
    vmcs::write(control::CR4_READ_SHADOW, 0);
    vmcs::write(guest::CR4, state.cr4 & cr4_offered | CR4_VMXE);
    vmcs::write(guest::CR3, state.cr3);
    vmcs::write(guest::DR7, 0x400);
    vmcs::write(guest::RSP, state.general[register::RSP]);
    vmcs::write(guest::RIP, state.rip);
    vmcs::write(guest::RFLAGS, state.rflags | 2);
    vmcs::write(guest::IA32_PAT_FULL, RESET_PAT);
    vmcs::write(guest::LINK_PTR_FULL, u64::MAX);
    for field in [
        guest::IA32_DEBUGCTL_FULL,
        guest::INTERRUPTIBILITY_STATE,
        guest::ACTIVITY_STATE,
        guest::PENDING_DBG_EXCEPTIONS,
        guest::IA32_SYSENTER_CS,
        guest::IA32_SYSENTER_ESP,
        guest::IA32_SYSENTER_EIP,
        guest::GDTR_BASE,
        guest::IDTR_BASE,
    ] {
        vmcs::write(field, 0);
    }
    vmcs::write32(guest::GDTR_LIMIT, 0xffff);
    vmcs::write32(guest::IDTR_LIMIT, 0xffff);
}

/// Segments.
pub fn segments(state: &StartState) {
    let absent = Segment { selector: 0, attributes: 0, limit: 0xffff, base: 0 };
    let all = [
        (guest::ES_SELECTOR, &state.es),
        (guest::CS_SELECTOR, &state.cs),
        (guest::SS_SELECTOR, &state.ss),
        (guest::DS_SELECTOR, &state.ds),
        (guest::FS_SELECTOR, &state.es),
        (guest::GS_SELECTOR, &state.es),
        (guest::LDTR_SELECTOR, &absent),
        (guest::TR_SELECTOR, &state.tr),
    ];
    for (fields, segment) in all {
        SegmentFields::at(fields).write(segment);
    }
}

/// What the processor is to be after an exit on this CPU.
pub fn host() {
    let (_, tss) = this_cpu().table_addresses();
    // SAFETY: these registers exist on every processor with VMX and long mode.
    let (efer, pat) = unsafe { (instr::rdmsr(MSR_EFER), instr::rdmsr(MSR_PAT)) };
    let (gdt, idt) = instr::descriptor_table_bases();
    let area = core::ptr::from_ref(this_cpu()) as u64;
    for (field, value) in [
        (host_field::CR0, instr::cr0()),
        (host_field::CR3, instr::cr3()),
        (host_field::CR4, instr::cr4()),
        (host_field::CS_SELECTOR, u64::from(CODE_SELECTOR)),
        (host_field::SS_SELECTOR, u64::from(DATA_SELECTOR)),
        (host_field::DS_SELECTOR, u64::from(DATA_SELECTOR)),
        (host_field::ES_SELECTOR, u64::from(DATA_SELECTOR)),
        (host_field::FS_SELECTOR, 0),
        (host_field::GS_SELECTOR, 0),
        (host_field::TR_SELECTOR, u64::from(TSS_SELECTOR)),
        (host_field::FS_BASE, 0),
        (host_field::GS_BASE, area),
        (host_field::TR_BASE, tss),
        (host_field::GDTR_BASE, gdt),
        (host_field::IDTR_BASE, idt),
        (host_field::IA32_EFER_FULL, efer),
        (host_field::IA32_PAT_FULL, pat),
        (host_field::IA32_SYSENTER_CS, 0),
        (host_field::IA32_SYSENTER_ESP, 0),
        (host_field::IA32_SYSENTER_EIP, 0),
        (host_field::RIP, run::vmx_exit as *const () as u64),
    ] {
        vmcs::write(field, value);
    }
}
