//! `sched.h`: `sched_op`.

use crate::xen::{DomId, GuestHandle, Port};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `SCHEDOP_yield`: let another vCPU run.
pub const YIELD: u32 = 0;
/// `SCHEDOP_block`: sleep until an event, with events enabled.
pub const BLOCK: u32 = 1;
/// `SCHEDOP_shutdown`: end the calling domain.
pub const SHUTDOWN: u32 = 2;
/// `SCHEDOP_poll`: sleep until one of some ports is pending.
pub const POLL: u32 = 3;
/// `SCHEDOP_remote_shutdown`: end another domain. Privileged.
pub const REMOTE_SHUTDOWN: u32 = 4;
/// `SCHEDOP_shutdown_code`: set the reason of a shutdown under way.
pub const SHUTDOWN_CODE: u32 = 5;
/// `SCHEDOP_watchdog`: set, restart or stop a watchdog timer.
pub const WATCHDOG: u32 = 6;
/// `SCHEDOP_pin_override`: pin the calling vCPU. Hardware domain.
pub const PIN_OVERRIDE: u32 = 7;

/// `SHUTDOWN_poweroff`: the guest is done.
pub const SHUTDOWN_POWEROFF: u32 = 0;
/// `SHUTDOWN_reboot`: rebuild it.
pub const SHUTDOWN_REBOOT: u32 = 1;
/// `SHUTDOWN_suspend`: saved.
pub const SHUTDOWN_SUSPEND: u32 = 2;
/// `SHUTDOWN_crash`: it crashed.
pub const SHUTDOWN_CRASH: u32 = 3;
/// `SHUTDOWN_watchdog`: its watchdog expired.
pub const SHUTDOWN_WATCHDOG: u32 = 4;
/// `SHUTDOWN_soft_reset`: reset it, keeping its memory.
pub const SHUTDOWN_SOFT_RESET: u32 = 5;
/// `SHUTDOWN_MAX`: the greatest reason.
pub const SHUTDOWN_MAX: u32 = 5;

/// The most ports that `POLL` accepts.
pub const POLL_MAX_PORTS: u32 = 128;
/// Watchdog timers of a domain.
pub const WATCHDOG_COUNT: u32 = 2;

/// `struct sched_shutdown`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Shutdown {
    /// `SHUTDOWN_*`.
    pub reason: u32,
}

/// `struct sched_poll`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Poll {
    /// The ports.
    pub ports: GuestHandle<Port>,
    /// How many.
    pub nr_ports: u32,
    /// Padding.
    pub pad: u32,
    /// System time at which to give up, ns; 0 for never.
    pub timeout: u64,
}

/// `struct sched_remote_shutdown`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RemoteShutdown {
    /// Whom.
    pub domain_id: DomId,
    /// Padding.
    pub pad: u16,
    /// `SHUTDOWN_*`.
    pub reason: u32,
}

/// `struct sched_watchdog`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Watchdog {
    /// 0: a new one; else which (from 1).
    pub id: u32,
    /// Seconds; 0 stops it.
    pub timeout: u32,
}

/// `struct sched_pin_override`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct PinOverride {
    /// The CPU; negative undoes it.
    pub pcpu: i32,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Shutdown>() == 4);
    assert!(size_of::<Poll>() == 24);
    assert!(offset_of!(Poll, nr_ports) == 8);
    assert!(offset_of!(Poll, timeout) == 16);
    assert!(size_of::<RemoteShutdown>() == 8);
    assert!(offset_of!(RemoteShutdown, reason) == 4);
    assert!(size_of::<Watchdog>() == 8);
    assert!(size_of::<PinOverride>() == 4);
};
