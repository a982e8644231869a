//! The PV clock: `vcpu_time_info` of each vCPU, and the wall clock in shared_info.
//!
//! The machine's TSC is stable and the same on every CPU, guests see it without an offset, and the scale from TSC to
//! nanoseconds never changes after boot. So what is written is right for ever: it is written when the place comes into
//! being (shared_info attached, `vcpu_info` moved, a second copy asked for), and the guest computes [`Machine::now`] from
//! it exactly. `version` is odd during a write and even after it, as readers expect. Were a machine's scale to change,
//! [`update_vcpu`] would have to be called for every vCPU.
//!
//! Locking: none; places are written by the CPU that sets them up. A guest may scribble over its clock; only it reads it.

use core::sync::atomic::{AtomicU32, Ordering, fence};

use shared_abi::xen::shared_info::PVCLOCK_TSC_STABLE_BIT;
use shared_abi::xen::{Errno, VcpuTimeInfo, shared_info_offset, vcpu_info_offset};
use zerocopy::IntoBytes;

use crate::domain::Domain;
use crate::hypercall::{Call, CallResult, Next};
use crate::hypervisor::Hypervisor;
use crate::machine::{Machine, MachineAddress};
use crate::vcpu::{Vcpu, VcpuRef};

/// Bytes of a `vcpu_time_info` after its `version`.
const TIME_BODY: usize = size_of::<u32>();

/// Where the wall clock begins in a 32-bit guest's shared_info: after two bitmaps of 128 bytes.
const WC_VERSION_32: usize = shared_info_offset::EVTCHN_PENDING + 2 * 128;
/// Where `arch.wc_sec_hi` is there: after the three words of the wall clock and six of `arch`.
const WC_SEC_HI_32: usize = WC_VERSION_32 + 12 + 24;

const NS_PER_S: u64 = 1_000_000_000;

/// A vCPU's clock: how often it has been written.
#[derive(Debug, Default)]
pub struct VcpuClock {
    version: AtomicU32,
}

impl VcpuClock {
    /// Never written.
    pub const fn new() -> Self {
        Self { version: AtomicU32::new(0) }
    }

    /// The even version for the next write.
    fn next_version(&self) -> u32 {
        self.version.fetch_add(2, Ordering::Relaxed).wrapping_add(2)
    }
}

/// What a guest computes the time from, with `version` 0.
fn time_info<M: Machine>(hv: &Hypervisor<M>) -> VcpuTimeInfo {
    let scale = hv.machine.tsc_scale();
    VcpuTimeInfo {
        version: 0,
        pad0: 0,
        tsc_timestamp: scale.tsc_base,
        system_time: scale.ns_base,
        tsc_to_system_mul: scale.mul,
        tsc_shift: scale.shift,
        flags: PVCLOCK_TSC_STABLE_BIT,
        pad1: [0; 2],
    }
}

/// Writes the clock in the vCPU's `vcpu_info`, if it has one.
pub fn update_vcpu<M: Machine>(hv: &Hypervisor<M>, vcpu: &Vcpu<M>) {
    let Some(info) = vcpu.events.info() else {
        return;
    };
    let at = MachineAddress(info.0 + vcpu_info_offset::TIME as u64);
    let body = time_info(hv);
    publish(hv, at, vcpu.clock.next_version(), || {
        hv.machine.write(MachineAddress(at.0 + TIME_BODY as u64), &body.as_bytes()[TIME_BODY..]);
    });
}

/// Writes the wall clock (the time at system time 0) in the domain's shared_info, if it has one.
pub fn update_wall_clock<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>) {
    let Some(frame) = domain.events.shared_info_frame() else {
        return;
    };
    let (version_at, high_at) = if domain.events.is_narrow() {
        (WC_VERSION_32, WC_SEC_HI_32)
    } else {
        (shared_info_offset::WC_VERSION, shared_info_offset::WC_SEC_HI)
    };
    let base = hv.machine.wall_clock_base();
    let (seconds, nanoseconds) = (base / NS_PER_S, (base % NS_PER_S) as u32);
    let word = |offset: usize| hv.machine.word32(MachineAddress::in_frame(frame, offset));
    let version = word(version_at).load(Ordering::Relaxed) & !1;
    publish(hv, MachineAddress::in_frame(frame, version_at), version.wrapping_add(2), || {
        word(version_at + 4).store(seconds as u32, Ordering::Relaxed);
        word(version_at + 8).store(nanoseconds, Ordering::Relaxed);
        word(high_at).store((seconds >> 32) as u32, Ordering::Relaxed);
    });
}

/// Writes what a version at `at` protects: odd, contents, even.
fn publish<M: Machine>(hv: &Hypervisor<M>, at: MachineAddress, even: u32, write: impl FnOnce()) {
    let version = hv.machine.word32(at);
    version.store(even.wrapping_sub(1), Ordering::SeqCst);
    fence(Ordering::SeqCst);
    write();
    fence(Ordering::SeqCst);
    version.store(even, Ordering::SeqCst);
}

/// `VCPUOP_register_vcpu_time_memory_area`: a copy of the vCPU's clock at a virtual address of the caller's.
///
/// # Errors
/// `EFAULT` when the address cannot be written.
pub fn register_time_area<M: Machine>(call: &mut Call<'_, M>, vcpu: &Vcpu<M>, address: u64) -> CallResult {
    let copy = VcpuTimeInfo { version: vcpu.clock.next_version(), ..time_info(call.hv) };
    call.write_guest(address, &copy)?;
    Ok(Next::Return(0))
}

/// `VCPUOP_register_vcpu_time_phys_area`: a copy of the vCPU's clock at a guest-physical address.
///
/// # Errors
/// `ENXIO` when it crosses a page or is not aligned, `EINVAL` when there is no memory of the domain's.
pub fn register_time_area_physical<M: Machine>(call: &mut Call<'_, M>, vcpu: &VcpuRef<M>, address: u64) -> CallResult {
    const PAGE: u64 = shared_abi::xen::PAGE_SIZE;
    let size = size_of::<VcpuTimeInfo>() as u64;
    if address == u64::MAX {
        // The way to take a registration back; nothing is kept that would have to be.
        return Ok(Next::Return(0));
    }
    if !address.is_multiple_of(8) || address % PAGE > PAGE - size {
        return Err(Errno::ENXIO);
    }
    let copy = VcpuTimeInfo { version: vcpu.clock.next_version(), ..time_info(call.hv) };
    let domain = vcpu.domain();
    call.hv.write_physical(domain, address, copy.as_bytes()).map_err(|_| Errno::EINVAL)?;
    Ok(Next::Return(0))
}

#[cfg(test)]
mod tests {
    use zerocopy::FromBytes;

    use super::*;
    use crate::evtchn::tests::guest::Guest;
    use crate::testing;

    fn read(hv: &Hypervisor<testing::FakeMachine>, at: MachineAddress) -> VcpuTimeInfo {
        let mut bytes = [0; 32];
        hv.machine.read(at, &mut bytes);
        VcpuTimeInfo::read_from_bytes(&bytes).unwrap()
    }

    /// What a guest computes from it at a TSC value.
    fn time_at(info: &VcpuTimeInfo, tsc: u64) -> u64 {
        let delta = tsc - info.tsc_timestamp;
        let shifted = if info.tsc_shift < 0 { delta >> -info.tsc_shift } else { delta << info.tsc_shift };
        info.system_time + ((u128::from(shifted) * u128::from(info.tsc_to_system_mul)) >> 32) as u64
    }

    #[test]
    fn guests_compute_the_machine_s_time() {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 1, 2);
        hv.machine.set_now(987_654_321);
        for vcpu in &guest.domain.vcpus {
            let at = MachineAddress(vcpu.events.info().unwrap().0 + vcpu_info_offset::TIME as u64);
            let info = read(&hv, at);
            assert_eq!(time_at(&info, hv.machine.tsc()), 987_654_321);
            assert_eq!(info.flags, PVCLOCK_TSC_STABLE_BIT);
            assert!(info.version != 0 && info.version.is_multiple_of(2));
        }
    }

    #[test]
    fn the_wall_clock_is_that_of_boot() {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 1, 1);
        let frame = guest.domain.events.shared_info_frame().unwrap();
        let word = |offset| hv.machine.word32(MachineAddress::in_frame(frame, offset)).load(Ordering::SeqCst);
        let seconds =
            u64::from(word(shared_info_offset::WC_SEC_HI)) << 32 | u64::from(word(shared_info_offset::WC_SEC));
        let total = seconds * NS_PER_S + u64::from(word(shared_info_offset::WC_NSEC));
        assert_eq!(total, testing::WALL_CLOCK_BASE);
        assert!(word(shared_info_offset::WC_VERSION) != 0 && word(shared_info_offset::WC_VERSION) % 2 == 0);
    }

    #[test]
    fn a_second_copy_tells_the_same() {
        let hv = testing::hypervisor(1, 512);
        let guest = Guest::new(&hv, 1, 1);
        let vcpu = testing::vcpu(&guest.domain, 0);
        let call = &mut testing::call(&hv, &vcpu, [0; 5]);
        assert_eq!(register_time_area(call, &vcpu, 0x1ff8), Ok(Next::Return(0)), "may cross pages");
        assert_eq!(register_time_area(call, &vcpu, 0xffff_0000), Err(Errno::EFAULT));
        assert_eq!(register_time_area_physical(call, &vcpu, 0x1ff8), Err(Errno::ENXIO));
        assert_eq!(register_time_area_physical(call, &vcpu, 0x3004), Err(Errno::ENXIO));
        assert_eq!(register_time_area_physical(call, &vcpu, 1 << 40), Err(Errno::EINVAL));
        assert_eq!(register_time_area_physical(call, &vcpu, 0x3008), Ok(Next::Return(0)));
        let info = read(&hv, testing::machine_address(&hv, &guest.domain, 0x3008));
        assert_eq!(time_at(&info, hv.machine.tsc()), hv.machine.now());
    }
}
