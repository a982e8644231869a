//! From `vcpu_hvm_context` to the state a vCPU starts from, with every check Xen makes.

use shared_abi::hvm::hvm_vcpu::{HvmContext, X86_32, X86_64};
use shared_abi::xen::Errno;

use crate::machine::ControlMasks;
use crate::vcpu::{Segment, StartState};

const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Attribute bits in the packed form of [`Segment::attributes`].
const TYPE: u16 = 0xf;
const TYPE_ACCESSED: u16 = 1;
const TYPE_BUSY: u16 = 2;
const TYPE_WRITABLE: u16 = 2;
const TYPE_CODE: u16 = 8;
const TYPE_BUSY_TSS: u16 = 11;
const NOT_SYSTEM: u16 = 1 << 4;
const PRESENT: u16 = 1 << 7;
const GRANULAR: u16 = 1 << 11;
const RESERVED: u16 = 0xf000;

/// Which segment register is checked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Register {
    Code,
    Stack,
    Data,
    Task,
}

/// The state that `context` describes.
///
/// # Errors
/// `EINVAL` for one that no processor could be in, or that uses what guests are not offered.
pub fn state_from(context: &HvmContext, masks: ControlMasks) -> Result<StartState, Errno> {
    if context.pad != 0 {
        return Err(Errno::EINVAL);
    }
    let mut state = if let Some(registers) = context.as_32() {
        narrow(&registers)?
    } else if let Some(registers) = context.as_64() {
        wide(&registers)?
    } else {
        return Err(Errno::EINVAL);
    };
    if state.efer & EFER_LME != 0 {
        state.efer |= EFER_LMA;
    }
    // Long mode is active only with paging; without it the processor clears LMA by itself.
    if state.cr0 & CR0_PG == 0 {
        state.efer &= !EFER_LMA;
    }
    if state.cr4 & !masks.cr4 != 0 || state.efer & !(masks.efer | EFER_LMA) != 0 {
        return Err(Errno::EINVAL);
    }
    // Always one in a processor.
    state.rflags |= 2;
    Ok(state)
}

fn dpl(segment: &Segment) -> u16 {
    segment.attributes >> 5 & 3
}

/// A segment as given, accessed or busy if it is present.
fn segment(register: Register, attributes: u16, limit: u32, base: u32) -> Result<Segment, Errno> {
    let mut attributes = attributes;
    if attributes & PRESENT != 0 {
        attributes |= if register == Register::Task { TYPE_BUSY } else { TYPE_ACCESSED };
    }
    let segment = Segment { selector: 0, attributes, limit, base: u64::from(base) };
    if is_valid(register, attributes) { Ok(segment) } else { Err(Errno::EINVAL) }
}

fn is_valid(register: Register, attributes: u16) -> bool {
    if attributes & RESERVED != 0 {
        return false;
    }
    if attributes == 0 {
        return register == Register::Data;
    }
    let kind = attributes & TYPE;
    let code = kind & TYPE_CODE != 0;
    // Readable, in a code segment.
    let writable = kind & TYPE_WRITABLE != 0;
    let system = attributes & NOT_SYSTEM == 0;
    let fits = match register {
        Register::Task => system && kind == TYPE_BUSY_TSS,
        Register::Code => !system && code,
        Register::Stack => !system && !code && writable,
        Register::Data => !system && (!code || writable),
    };
    fits && attributes & PRESENT != 0
}

fn narrow(registers: &X86_32) -> Result<StartState, Errno> {
    let r = registers;
    if r.pad1 != 0 || r.pad2 != [0; 3] {
        return Err(Errno::EINVAL);
    }
    let cs = segment(Register::Code, r.cs_ar, r.cs_limit, r.cs_base)?;
    let ds = segment(Register::Data, r.ds_ar, r.ds_limit, r.ds_base)?;
    let ss = segment(Register::Stack, r.ss_ar, r.ss_limit, r.ss_base)?;
    let es = segment(Register::Data, r.es_ar, r.es_limit, r.es_base)?;
    let tr = segment(Register::Task, r.tr_ar, r.tr_limit, r.tr_base)?;
    let limit = if cs.attributes & GRANULAR != 0 { cs.limit << 12 | 0xfff } else { cs.limit };
    let too_privileged = |data: &Segment| data.attributes & PRESENT != 0 && dpl(data) > dpl(&cs);
    if r.eip > limit || dpl(&ss) != dpl(&cs) || too_privileged(&ds) || too_privileged(&es) {
        return Err(Errno::EINVAL);
    }
    if r.efer & EFER_LMA != 0 && r.efer & EFER_LME == 0 {
        return Err(Errno::EINVAL);
    }
    let general = [r.eax, r.ecx, r.edx, r.ebx, r.esp, r.ebp, r.esi, r.edi];
    Ok(StartState {
        general: general.map(u64::from),
        rip: u64::from(r.eip),
        rflags: u64::from(r.eflags),
        cr0: u64::from(r.cr0),
        cr3: u64::from(r.cr3),
        cr4: u64::from(r.cr4),
        efer: r.efer,
        cs,
        ds,
        es,
        ss,
        tr,
    })
}

fn wide(registers: &X86_64) -> Result<StartState, Errno> {
    let r = registers;
    let canonical = (r.rip.cast_signed() << 16 >> 16).cast_unsigned() == r.rip;
    if !canonical || r.cr0 & CR0_PG == 0 || r.cr4 & CR4_PAE == 0 || r.efer & EFER_LME == 0 {
        return Err(Errno::EINVAL);
    }
    let flat = |attributes| Segment { selector: 0, attributes, limit: u32::MAX, base: 0 };
    Ok(StartState {
        general: [r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi],
        rip: r.rip,
        rflags: r.rflags,
        cr0: r.cr0,
        cr3: r.cr3,
        cr4: r.cr4,
        efer: r.efer,
        cs: flat(0xa9b),
        ds: flat(0xc93),
        es: flat(0xc93),
        ss: flat(0xc93),
        tr: Segment { selector: 0, attributes: 0x8b, limit: 0x67, base: 0 },
    })
}
