//! The PV clock: nanoseconds since the domain's start out of the TSC.
//!
//! The hypervisor keeps a snapshot (TSC and system time) with a scale in each vCPU's `time`; a version number tells a
//! reader that it was overtaken by an update. The snapshot belongs to the physical CPU the vCPU runs on, so it is read
//! on that vCPU, and read again when the vCPU was moved in between (the version changes then).

use crate::shared::{SharedInfo, TimeInfo};
use core::sync::atomic::{Ordering, fence};

/// Converts a TSC difference by the clock's scale: shift, then multiply by a fraction of 2^32.
pub fn scale(ticks: u64, multiplier: u32, shift: i8) -> u64 {
    let ticks = if shift >= 0 {
        ticks.checked_shl(shift.unsigned_abs().into()).unwrap_or(0)
    } else {
        ticks.checked_shr(shift.unsigned_abs().into()).unwrap_or(0)
    };
    ((u128::from(ticks) * u128::from(multiplier)) >> 32) as u64
}

/// System time, ns. `read_tsc` must read the calling vCPU's TSC, ordered after earlier loads.
pub fn now(time: &TimeInfo, read_tsc: impl Fn() -> u64) -> u64 {
    loop {
        let version = time.version.load(Ordering::Acquire);
        let timestamp = time.tsc_timestamp.load(Ordering::Relaxed);
        let system_time = time.system_time.load(Ordering::Relaxed);
        let multiplier = time.tsc_to_system_mul.load(Ordering::Relaxed);
        let shift = time.tsc_shift.load(Ordering::Relaxed);
        let ticks = read_tsc().saturating_sub(timestamp);
        fence(Ordering::Acquire);
        if version & 1 == 0 && time.version.load(Ordering::Relaxed) == version {
            return system_time.wrapping_add(scale(ticks, multiplier, shift));
        }
        core::hint::spin_loop();
    }
}

/// The TSC's frequency in kHz as the clock's scale implies it; 0 when there is none.
pub fn tsc_khz(time: &TimeInfo) -> u64 {
    let multiplier = u64::from(time.tsc_to_system_mul.load(Ordering::Relaxed));
    let shift = time.tsc_shift.load(Ordering::Relaxed);
    if multiplier == 0 {
        return 0;
    }
    let khz = (1_000_000u64 << 32) / multiplier;
    if shift >= 0 {
        khz.checked_shr(shift.unsigned_abs().into()).unwrap_or(0)
    } else {
        khz.checked_shl(shift.unsigned_abs().into()).unwrap_or(0)
    }
}

/// Wall clock at system time 0: seconds since 1970, and nanoseconds.
pub fn wall_clock(shared: &SharedInfo) -> (u64, u32) {
    loop {
        let version = shared.wc_version.load(Ordering::Acquire);
        let low = shared.wc_sec.load(Ordering::Relaxed);
        let high = shared.wc_sec_hi.load(Ordering::Relaxed);
        let nanoseconds = shared.wc_nsec.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        if version & 1 == 0 && shared.wc_version.load(Ordering::Relaxed) == version {
            return (u64::from(high) << 32 | u64::from(low), nanoseconds);
        }
        core::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;

    fn clock(version: u32, multiplier: u32, shift: i8) -> TimeInfo {
        let time = TimeInfo::default();
        time.version.store(version, Ordering::Relaxed);
        time.tsc_timestamp.store(1000, Ordering::Relaxed);
        time.system_time.store(500, Ordering::Relaxed);
        time.tsc_to_system_mul.store(multiplier, Ordering::Relaxed);
        time.tsc_shift.store(shift, Ordering::Relaxed);
        time
    }

    #[test]
    fn scales_both_ways() {
        assert_eq!(now(&clock(2, 1 << 31, 1), || 3000), 2500, "1 GHz as half of twice");
        assert_eq!(now(&clock(2, 1 << 31, -1), || 3000), 1000);
        assert_eq!(scale(u64::MAX, u32::MAX, 127), 0);
        assert_eq!(tsc_khz(&clock(2, 1 << 31, 1)), 1_000_000);
        assert_eq!(tsc_khz(&clock(2, 0, 1)), 0);
    }

    #[test]
    fn an_update_in_between_is_noticed() {
        let time = clock(2, 1 << 31, 1);
        let reads = Cell::new(0);
        let result = now(&time, || {
            if reads.replace(reads.get() + 1) == 0 {
                time.version.store(4, Ordering::Relaxed);
                time.system_time.store(700, Ordering::Relaxed);
            }
            1000
        });
        assert_eq!((result, reads.get()), (700, 2));
    }

    #[test]
    fn a_tsc_behind_the_snapshot_does_not_wrap() {
        assert_eq!(now(&clock(2, 1 << 31, 1), || 10), 500);
    }
}
