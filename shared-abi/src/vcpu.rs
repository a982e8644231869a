//! `vcpu.h`: `vcpu_op`.

use crate::xen::Gfn;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `VCPUOP_initialise`: set a vCPU's first registers ([`crate::hvm::hvm_vcpu::HvmContext`]).
pub const INITIALISE: u32 = 0;
/// `VCPUOP_up`: bring it online.
pub const UP: u32 = 1;
/// `VCPUOP_down`: take it offline.
pub const DOWN: u32 = 2;
/// `VCPUOP_is_up`: 1 when online.
pub const IS_UP: u32 = 3;
/// `VCPUOP_get_runstate_info`: its run state and times.
pub const GET_RUNSTATE_INFO: u32 = 4;
/// `VCPUOP_register_runstate_memory_area`: keep them at a guest virtual address.
pub const REGISTER_RUNSTATE_MEMORY_AREA: u32 = 5;
/// `VCPUOP_set_periodic_timer`: a periodic timer.
pub const SET_PERIODIC_TIMER: u32 = 6;
/// `VCPUOP_stop_periodic_timer`: stop it.
pub const STOP_PERIODIC_TIMER: u32 = 7;
/// `VCPUOP_set_singleshot_timer`: a timer that fires once.
pub const SET_SINGLESHOT_TIMER: u32 = 8;
/// `VCPUOP_stop_singleshot_timer`: stop it.
pub const STOP_SINGLESHOT_TIMER: u32 = 9;
/// `VCPUOP_register_vcpu_info`: move the `vcpu_info`. Once.
pub const REGISTER_VCPU_INFO: u32 = 10;
/// `VCPUOP_send_nmi`: send an NMI.
pub const SEND_NMI: u32 = 11;
/// `VCPUOP_get_physid`: the physical CPU's identity. Pinned vCPUs of the hardware domain.
pub const GET_PHYSID: u32 = 12;
/// `VCPUOP_register_vcpu_time_memory_area`: keep the PV clock at a guest virtual address.
pub const REGISTER_VCPU_TIME_MEMORY_AREA: u32 = 13;
/// `VCPUOP_register_runstate_phys_area`: as 5, at a guest physical address. Newer than 4.17.
pub const REGISTER_RUNSTATE_PHYS_AREA: u32 = 14;
/// `VCPUOP_register_vcpu_time_phys_area`: as 13, at a guest physical address. Newer than 4.17.
pub const REGISTER_VCPU_TIME_PHYS_AREA: u32 = 15;

/// `RUNSTATE_running`: on a CPU.
pub const RUNSTATE_RUNNING: i32 = 0;
/// `RUNSTATE_runnable`: would run, but has no CPU.
pub const RUNSTATE_RUNNABLE: i32 = 1;
/// `RUNSTATE_blocked`: waits for an event.
pub const RUNSTATE_BLOCKED: i32 = 2;
/// `RUNSTATE_offline`: neither.
pub const RUNSTATE_OFFLINE: i32 = 3;
/// `XEN_RUNSTATE_UPDATE`: bit of `state_entry_time` that is set during an update, when the guest asked for it.
pub const RUNSTATE_UPDATE: u64 = 1 << 63;

/// `struct vcpu_runstate_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RunstateInfo {
    /// `RUNSTATE_*`.
    pub state: i32,
    /// Padding.
    pub pad: u32,
    /// When it was entered, system time in ns.
    pub state_entry_time: u64,
    /// Time spent in each, ns. Their sum is the wall time since the vCPU was made.
    pub time: [u64; 4],
}

/// `struct vcpu_register_runstate_memory_area`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RegisterRunstateMemoryArea {
    /// Guest virtual address (physical for the newer form) of a [`RunstateInfo`].
    pub addr: u64,
}

/// `struct vcpu_register_time_memory_area`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RegisterTimeMemoryArea {
    /// Guest virtual address (physical for the newer form) of a [`crate::xen::VcpuTimeInfo`].
    pub addr: u64,
}

/// `struct vcpu_set_periodic_timer`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SetPeriodicTimer {
    /// Period, ns; at least 1 ms.
    pub period_ns: u64,
}

/// `VCPU_SSHOTTMR_future`: in [`SetSingleshotTimer::flags`]: -ETIME when the time is past.
pub const SINGLESHOT_FUTURE: u32 = 1 << 0;

/// `struct vcpu_set_singleshot_timer`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SetSingleshotTimer {
    /// System time at which to fire, ns.
    pub timeout_abs_ns: u64,
    /// `VCPU_SSHOTTMR_*`.
    pub flags: u32,
    /// Padding.
    pub pad: u32,
}

/// `struct vcpu_register_vcpu_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct RegisterVcpuInfo {
    /// The page (a gfn for translated guests).
    pub mfn: Gfn,
    /// Where in it; the whole structure lies in the page.
    pub offset: u32,
    /// Reserved.
    pub rsvd: u32,
}

/// `struct vcpu_get_physid`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GetPhysid {
    /// Low half the APIC id, high half the ACPI id.
    pub phys_id: u64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<RunstateInfo>() == 48);
    assert!(offset_of!(RunstateInfo, state_entry_time) == 8);
    assert!(offset_of!(RunstateInfo, time) == 16);
    assert!(size_of::<RegisterRunstateMemoryArea>() == 8);
    assert!(size_of::<RegisterTimeMemoryArea>() == 8);
    assert!(size_of::<SetPeriodicTimer>() == 8);
    assert!(size_of::<SetSingleshotTimer>() == 16);
    assert!(offset_of!(SetSingleshotTimer, flags) == 8);
    assert!(size_of::<RegisterVcpuInfo>() == 16);
    assert!(offset_of!(RegisterVcpuInfo, offset) == 8);
    assert!(size_of::<GetPhysid>() == 8);
};
