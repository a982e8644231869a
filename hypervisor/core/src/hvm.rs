//! `hvm_op`: HVM parameters, the upcall vector of a vCPU, time, and guest trace records.
//!
//! A parameter that only a control domain provides (the rings of console and XenStore) is absent until it is set, and an
//! absent one is an error to its reader: a guest that saw a 0 with success might wait for a server that never comes.
//!
//! Locking: none; parameters are atomic words, set rarely.
//!
//! Specification: Xen 4.17's `hvm_op.h`, `params.h`, and its rules for a PVH domain.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use shared_abi::hvm::params::{self, CallbackVia};
use shared_abi::hvm::{self as abi};
use shared_abi::sched;
use shared_abi::trace;
use shared_abi::trace_stream::{GuestEvent, Kind};
use shared_abi::xen::{Errno, VcpuId};
use zerocopy::IntoBytes;

use crate::domain::Domain;
use crate::evtchn;
use crate::hypercall::{Call, CallResult, Next};
use crate::machine::Machine;
use crate::vcpu::VcpuRef;

/// The bits of a trace event's number that a guest chooses.
const XENTRACE_EVENT_BITS: u16 = 0xfff;

/// A domain's HVM parameters.
#[derive(Debug)]
pub struct HvmParameters {
    values: [AtomicU64; params::COUNT as usize],
    /// A bit per parameter that has been set.
    present: AtomicU64,
    /// Vector of the callback; 0: none.
    callback: AtomicU8,
}

impl HvmParameters {
    /// Nothing set.
    pub const fn new() -> Self {
        Self {
            values: [const { AtomicU64::new(0) }; params::COUNT as usize],
            present: AtomicU64::new(0),
            callback: AtomicU8::new(0),
        }
    }

    /// The vector that announces upcalls on every vCPU without a vector of its own.
    #[inline]
    pub fn callback_vector(&self) -> Option<u8> {
        match self.callback.load(Ordering::SeqCst) {
            0 => None,
            vector => Some(vector),
        }
    }

    /// Sets a parameter (`HVM_PARAM_*`, below [`params::COUNT`]).
    pub fn set(&self, index: u32, value: u64) {
        self.values[index as usize].store(value, Ordering::SeqCst);
        self.present.fetch_or(1 << index, Ordering::SeqCst);
    }

    /// A parameter's value, if it has been set.
    pub fn get(&self, index: u32) -> Option<u64> {
        let present = self.present.load(Ordering::SeqCst) >> index & 1 != 0;
        present.then(|| self.values[index as usize].load(Ordering::SeqCst))
    }
}

impl Default for HvmParameters {
    fn default() -> Self {
        Self::new()
    }
}

/// Who may touch a parameter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// The domain itself.
    Guest,
    /// Only a domain that governs it.
    Governor,
    /// Nobody: it has gone from the interface.
    Removed,
}

fn removed(index: u32) -> bool {
    matches!(
        index,
        params::PAE_ENABLED
            | params::DM_DOMAIN
            | params::MEMORY_EVENT_CR0
            | params::MEMORY_EVENT_CR3
            | params::MEMORY_EVENT_CR4
            | params::MEMORY_EVENT_INT3
            | params::NESTEDHVM
            | params::MEMORY_EVENT_SINGLE_STEP
            | params::BUFIOREQ_EVTCHN
            | params::MEMORY_EVENT_MSR
    )
}

fn set_access(index: u32) -> Access {
    match index {
        params::CALLBACK_IRQ
        | params::VM86_TSS
        | params::VM86_TSS_SIZED
        | params::ACPI_IOPORTS_LOCATION
        | params::VM_GENERATION_ID_ADDR
        | params::STORE_EVTCHN
        | params::CONSOLE_EVTCHN
        | params::X87_FIP_WIDTH => Access::Guest,
        index if removed(index) => Access::Removed,
        _ => Access::Governor,
    }
}

fn get_access(index: u32) -> Access {
    match index {
        params::STORE_PFN | params::CONSOLE_PFN | params::ALTP2M => Access::Guest,
        index => set_access(index),
    }
}

/// Whether a parameter is absent until it is set; the others begin as 0.
fn may_be_absent(index: u32) -> bool {
    matches!(index, params::STORE_PFN | params::STORE_EVTCHN | params::CONSOLE_PFN | params::CONSOLE_EVTCHN)
}

/// The hypercall: arg 0 is the operation, arg 1 the address of its structure.
///
/// # Errors
/// `EFAULT` when the structure cannot be read or written, `ENOSYS` for an operation that is not offered, and what the
/// operation says.
pub fn hvm_op<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    let address = call.args[1];
    let Ok(operation) = u32::try_from(call.args[0]) else {
        return Err(Errno::ENOSYS);
    };
    match operation {
        abi::SET_PARAM => set_param(call, address)?,
        abi::GET_PARAM => get_param(call, address)?,
        abi::SET_EVTCHN_UPCALL_VECTOR => set_upcall_vector(call, address)?,
        abi::GET_TIME => {
            let answer = abi::GetTime { now: call.hv.machine.now() };
            call.write_guest(address, &answer)?;
        }
        abi::XENTRACE => xentrace(call, address)?,
        // The address-space identifiers go, and with them all that is cached of the guest's own tables too.
        abi::FLUSH_TLBS if address == 0 => call.hv.flush_translations(call.current.domain()),
        abi::FLUSH_TLBS => return Err(Errno::EINVAL),
        abi::PAGETABLE_DYING => pagetable_dying(call, address)?,
        _ => return Err(Errno::ENOSYS),
    }
    Ok(Next::Return(0))
}

fn set_param<M: Machine>(call: &mut Call<'_, M>, address: u64) -> Result<(), Errno> {
    let request: abi::Param = call.read_guest(address)?;
    if request.index >= params::COUNT {
        return Err(Errno::EINVAL);
    }
    let caller = call.current.domain();
    let domain = call.hv.target_domain(caller, request.domid)?;
    let own = domain.id == caller.id;
    match set_access(request.index) {
        Access::Removed => return Err(Errno::EINVAL),
        Access::Governor if own => return Err(Errno::EPERM),
        Access::Governor | Access::Guest => {}
    }
    let hvm = &domain.hvm;
    let once = matches!(
        request.index,
        params::VIRIDIAN
            | params::IOREQ_PFN
            | params::BUFIOREQ_PFN
            | params::IOREQ_SERVER_PFN
            | params::NR_IOREQ_SERVER_PAGES
            | params::ALTP2M
            | params::MCA_CAP
    );
    if once && hvm.get(request.index).is_some_and(|old| old != 0 && old != request.value) {
        return Err(Errno::EEXIST);
    }
    check_value(request.index, request.value)?;
    hvm.set(request.index, request.value);
    if request.index == params::CALLBACK_IRQ {
        set_callback(call, &domain, request.value, own);
    }
    Ok(())
}

/// Refuses values that mean what Ebb's domains do not have, or nothing.
fn check_value(index: u32, value: u64) -> Result<(), Errno> {
    let valid = match index {
        // No device model, no Hyper-V interface, no alternate maps, no sleep, no machine-check banks: only 0 is true.
        params::VIRIDIAN
        | params::IOREQ_PFN
        | params::BUFIOREQ_PFN
        | params::IOREQ_SERVER_PFN
        | params::NR_IOREQ_SERVER_PAGES
        | params::ALTP2M
        | params::MCA_CAP
        | params::HPET_ENABLED
        | params::ACPI_S_STATE => value == 0,
        // There is no power-management timer to move.
        params::ACPI_IOPORTS_LOCATION => return Err(Errno::ENODEV),
        params::X87_FIP_WIDTH => matches!(value, 0 | 4 | 8),
        params::VM86_TSS => u32::try_from(value).is_ok(),
        params::TRIPLE_FAULT_REASON => value <= u64::from(sched::SHUTDOWN_MAX),
        // A vector below 16 is an exception's.
        params::CALLBACK_IRQ => !matches!(CallbackVia::from_param(value), CallbackVia::Vector(0..16)),
        _ => true,
    };
    if valid { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Takes a new callback into use. Only a vector means anything here: there is no interrupt controller with lines, and as
/// on Xen, asking such a domain for one changes nothing.
fn set_callback<M: Machine>(call: &Call<'_, M>, domain: &alloc::sync::Arc<Domain<M>>, value: u64, own: bool) {
    if own {
        evtchn::latch_width(call.hv, domain, call.width);
    }
    let CallbackVia::Vector(vector) = CallbackVia::from_param(value) else {
        return;
    };
    domain.hvm.callback.store(vector, Ordering::SeqCst);
    // What became pending before there was a way to say so is said now.
    for index in 0..domain.vcpus.len() as u32 {
        let Some(vcpu) = VcpuRef::new(domain, VcpuId(index)) else {
            break;
        };
        if evtchn::upcall_pending(call.hv, &vcpu) {
            evtchn::announce(call.hv, &vcpu);
        }
    }
}

fn get_param<M: Machine>(call: &mut Call<'_, M>, address: u64) -> Result<(), Errno> {
    let mut request: abi::Param = call.read_guest(address)?;
    if request.index >= params::COUNT {
        return Err(Errno::EINVAL);
    }
    let caller = call.current.domain();
    let domain = call.hv.target_domain(caller, request.domid)?;
    match get_access(request.index) {
        Access::Removed => return Err(Errno::EINVAL),
        Access::Governor if domain.id == caller.id => return Err(Errno::EPERM),
        Access::Governor | Access::Guest => {}
    }
    request.value = match domain.hvm.get(request.index) {
        Some(value) => value,
        None if may_be_absent(request.index) => return Err(Errno::ENOENT),
        None => 0,
    };
    call.write_guest(address, &request)
}

fn set_upcall_vector<M: Machine>(call: &mut Call<'_, M>, address: u64) -> Result<(), Errno> {
    let request: abi::EvtchnUpcallVector = call.read_guest(address)?;
    if request.vector < 16 {
        return Err(Errno::EINVAL);
    }
    let vcpu = VcpuRef::new(call.current.domain(), request.vcpu).ok_or(Errno::ENOENT)?;
    vcpu.events.set_upcall_vector(request.vector);
    // As on Xen, whether or not something waits: the guest looks for itself.
    evtchn::announce(call.hv, &vcpu);
    Ok(())
}

/// A record of the guest's in the trace stream, and in the trace buffers.
fn xentrace<M: Machine>(call: &mut Call<'_, M>, address: u64) -> Result<(), Errno> {
    let request: abi::Xentrace = call.read_guest(address)?;
    if usize::from(request.extra_bytes) > request.extra.len() || request.event & !XENTRACE_EVENT_BITS != 0 {
        return Err(Errno::EINVAL);
    }
    if call.hv.trace_buffers.are_on() {
        let mut extra = [0; 28];
        let used = usize::from(request.extra_bytes);
        extra[..used].copy_from_slice(&request.extra[..used]);
        let (words, _) = extra.as_chunks::<4>();
        let words: [u32; 7] = core::array::from_fn(|index| u32::from_le_bytes(words[index]));
        call.hv.record(trace::GUEST | u32::from(request.event), &words[..used.div_ceil(4)]);
    }
    if call.hv.machine.trace_enabled(Kind::GUEST_EVENT.0) {
        let mut extra = [0; 28];
        let used = usize::from(request.extra_bytes);
        extra[..used].copy_from_slice(&request.extra[..used]);
        let record = GuestEvent {
            domid: call.current.domain().id,
            vcpu: call.current.id.0 as u16,
            event: request.event,
            extra_bytes: request.extra_bytes,
            extra,
            pad: 0,
        };
        call.hv.machine.trace(Kind::GUEST_EVENT.0, record.as_bytes());
    }
    Ok(())
}

/// A hint for shadow page tables, which no domain here has: an error, or guests would go on giving it.
fn pagetable_dying<M: Machine>(call: &mut Call<'_, M>, address: u64) -> Result<(), Errno> {
    let request: abi::PagetableDying = call.read_guest(address)?;
    let caller = call.current.domain();
    if request.domid == shared_abi::xen::DomId::SELF || request.domid == caller.id {
        return Err(Errno::EINVAL);
    }
    call.hv.find_domain(request.domid).ok_or(Errno::ESRCH)?;
    Err(Errno::EOPNOTSUPP)
}

#[cfg(test)]
mod tests {
    use shared_abi::hypercall as number;
    use shared_abi::xen::DomId;
    use zerocopy::{FromBytes, Immutable};

    use super::*;
    use crate::evtchn::tests::guest::{CALLBACK, Guest};
    use crate::testing;

    fn op<T: IntoBytes + FromBytes + Immutable>(
        guest: &Guest<'_>,
        operation: u32,
        request: &mut T,
    ) -> Result<(), Errno> {
        let value = guest.call(number::HVM_OP.into(), operation.into(), request);
        Errno::from_return(value).map(|value| assert_eq!(value, 0))
    }

    fn set(guest: &Guest<'_>, domid: DomId, index: u32, value: u64) -> Result<(), Errno> {
        op(guest, abi::SET_PARAM, &mut abi::Param { domid, pad: 0, index, value })
    }

    fn get(guest: &Guest<'_>, domid: DomId, index: u32) -> Result<u64, Errno> {
        let mut request = abi::Param { domid, pad: 0, index, value: 77 };
        op(guest, abi::GET_PARAM, &mut request).map(|()| request.value)
    }

    #[test]
    fn rings_are_absent_until_a_governor_gives_them() {
        let hv = testing::hypervisor(1, 512);
        let (guest, governor) = (Guest::new(&hv, 1, 1), Guest::privileged(&hv, 2));
        for index in [params::STORE_PFN, params::STORE_EVTCHN, params::CONSOLE_PFN, params::CONSOLE_EVTCHN] {
            assert_eq!(get(&guest, DomId::SELF, index), Err(Errno::ENOENT));
            assert_eq!(set(&governor, guest.id(), index, 5), Ok(()));
            assert_eq!(get(&guest, DomId::SELF, index), Ok(5));
        }
        assert_eq!(set(&guest, DomId::SELF, params::STORE_PFN, 6), Err(Errno::EPERM));
        assert_eq!(set(&guest, DomId::SELF, params::STORE_EVTCHN, 6), Ok(()));
        assert_eq!(set(&guest, governor.id(), params::STORE_EVTCHN, 6), Err(Errno::EPERM));
        assert_eq!(get(&guest, governor.id(), params::STORE_EVTCHN), Err(Errno::EPERM));
        assert_eq!(get(&governor, DomId(50), params::STORE_EVTCHN), Err(Errno::ESRCH));
    }

    #[test]
    fn parameters_have_bounds() {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 1, 1);
        let own = DomId::SELF;
        assert_eq!(get(&guest, own, params::CALLBACK_IRQ), Ok(CALLBACK));
        assert_eq!(set(&guest, own, params::COUNT, 0), Err(Errno::EINVAL));
        assert_eq!(get(&guest, own, u32::MAX), Err(Errno::EINVAL));
        assert_eq!(get(&guest, own, params::PAE_ENABLED), Err(Errno::EINVAL));
        assert_eq!(set(&guest, own, params::MEMORY_EVENT_CR3, 0), Err(Errno::EINVAL));
        assert_eq!(get(&guest, own, params::IOREQ_PFN), Err(Errno::EPERM));
        assert_eq!(set(&guest, own, params::IDENT_PT, 0), Err(Errno::EPERM));
        assert_eq!(set(&guest, own, params::X87_FIP_WIDTH, 5), Err(Errno::EINVAL));
        assert_eq!(set(&guest, own, params::X87_FIP_WIDTH, 8), Ok(()));
        assert_eq!(set(&guest, own, params::ACPI_IOPORTS_LOCATION, 1), Err(Errno::ENODEV));
        assert_eq!(set(&guest, own, params::CALLBACK_IRQ, 2 << 56 | 15), Err(Errno::EINVAL));
        assert_eq!(guest.domain.hvm.callback_vector(), Some(0xf3), "what fails changes nothing");
        assert_eq!(set(&guest, own, params::CALLBACK_IRQ, 9), Ok(()), "a line: recorded");
        assert_eq!(guest.domain.hvm.callback_vector(), Some(0xf3), "and without effect");
    }

    #[test]
    fn a_vector_of_its_own_takes_a_vcpu_from_the_callback() {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 1, 2);
        let mut request = abi::EvtchnUpcallVector { vcpu: VcpuId(1), vector: 15, pad: [0; 3] };
        assert_eq!(op(&guest, abi::SET_EVTCHN_UPCALL_VECTOR, &mut request), Err(Errno::EINVAL));
        request = abi::EvtchnUpcallVector { vcpu: VcpuId(2), vector: 0x40, pad: [0; 3] };
        assert_eq!(op(&guest, abi::SET_EVTCHN_UPCALL_VECTOR, &mut request), Err(Errno::ENOENT));
        request.vcpu = VcpuId(1);
        assert_eq!(op(&guest, abi::SET_EVTCHN_UPCALL_VECTOR, &mut request), Ok(()));
        let port = guest.bind_ipi(1).unwrap();
        guest.send(port).unwrap();
        let vcpu = testing::vcpu(&guest.domain, 1);
        assert!(evtchn::upcall_pending(&hv, &vcpu) && !guest.upcall(1));
        assert_eq!(vcpu.events.upcall_vector(), Some(0x40));
    }

    #[test]
    fn guests_put_records_into_the_trace() {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 3, 1);
        let mut request = abi::Xentrace { event: 0x11, extra_bytes: 5, extra: [7; 28] };
        assert_eq!(op(&guest, abi::XENTRACE, &mut request), Ok(()));
        let records = hv.machine.traced_of(Kind::GUEST_EVENT.0);
        let record = GuestEvent::read_from_bytes(&records[0]).unwrap();
        assert_eq!((record.domid, record.event, record.payload()), (DomId(3), 0x11, &[7; 5][..]));
        assert_eq!(record.extra[5..], [0; 23], "only what the guest said is in use");
        request.extra_bytes = 29;
        assert_eq!(op(&guest, abi::XENTRACE, &mut request), Err(Errno::EINVAL));
        request = abi::Xentrace { event: 0x1000, extra_bytes: 0, extra: [0; 28] };
        assert_eq!(op(&guest, abi::XENTRACE, &mut request), Err(Errno::EINVAL));
    }

    #[test]
    fn the_rest_answers_as_xen_does() {
        let hv = testing::hypervisor(1, 512);
        let (guest, other) = (Guest::new(&hv, 1, 1), Guest::new(&hv, 2, 1));
        let mut time = abi::GetTime { now: 0 };
        hv.machine.set_now(123_456_789);
        assert_eq!(op(&guest, abi::GET_TIME, &mut time), Ok(()));
        assert_eq!(time.now, 123_456_789);
        for (domid, errno) in [
            (DomId::SELF, Errno::EINVAL),
            (guest.id(), Errno::EINVAL),
            (other.id(), Errno::EOPNOTSUPP),
            (DomId(9), Errno::ESRCH),
        ] {
            let mut request = abi::PagetableDying { domid, ..Default::default() };
            assert_eq!(op(&guest, abi::PAGETABLE_DYING, &mut request), Err(errno));
        }
        let before = guest.domain.memory.translation_generation();
        let vcpu = testing::vcpu(&guest.domain, 0);
        let flush = |address| {
            let args = [abi::FLUSH_TLBS.into(), address, 0, 0, 0];
            testing::hypercall(&hv, &vcpu, shared_abi::hypercall::HVM_OP, args)
        };
        assert_eq!(flush(0x1000), Errno::EINVAL.to_return(), "its argument is null");
        assert_eq!(guest.domain.memory.translation_generation(), before);
        assert_eq!(flush(0), 0);
        assert_ne!(guest.domain.memory.translation_generation(), before, "every vCPU flushes before it next runs");
        for operation in [abi::GET_MEM_TYPE, abi::ALTP2M, 26, u32::MAX] {
            assert_eq!(op(&guest, operation, &mut time), Err(Errno::ENOSYS));
        }
    }
}
