//! `domctl.h`: control of domains, as of Xen 4.17. Privileged. What Ebb offers or knows by name; layouts are 64-bit
//! and, by Xen's design of this interface, the same for 32-bit callers.

use crate::arch_x86::ArchDomainConfig;
use crate::xen::{CtlBitmap, DomId, DomainHandle, GuestHandle, VcpuId};
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XEN_DOMCTL_INTERFACE_VERSION`: a call with another is -EACCES.
pub const INTERFACE_VERSION: u32 = 0x15;

/// `XEN_DOMCTL_createdomain`: make a domain ([`CreateDomain`]).
pub const CREATEDOMAIN: u32 = 1;
/// `XEN_DOMCTL_destroydomain`: destroy it.
pub const DESTROYDOMAIN: u32 = 2;
/// `XEN_DOMCTL_pausedomain`: pause it; counted.
pub const PAUSEDOMAIN: u32 = 3;
/// `XEN_DOMCTL_unpausedomain`: undo one pause.
pub const UNPAUSEDOMAIN: u32 = 4;
/// `XEN_DOMCTL_getdomaininfo`: its figures, or the next domain's ([`GetDomainInfo`]).
pub const GETDOMAININFO: u32 = 5;
/// `XEN_DOMCTL_setvcpuaffinity`: where a vCPU may run ([`VcpuAffinity`]).
pub const SETVCPUAFFINITY: u32 = 9;
/// `XEN_DOMCTL_shadow_op`: paging modes and logs.
pub const SHADOW_OP: u32 = 10;
/// `XEN_DOMCTL_max_mem`: how much memory it may have ([`MaxMem`]).
pub const MAX_MEM: u32 = 11;
/// `XEN_DOMCTL_setvcpucontext`: a vCPU's registers ([`VcpuContext`]).
pub const SETVCPUCONTEXT: u32 = 12;
/// `XEN_DOMCTL_getvcpucontext`: a vCPU's registers ([`VcpuContext`]).
pub const GETVCPUCONTEXT: u32 = 13;
/// `XEN_DOMCTL_getvcpuinfo`: a vCPU's figures ([`GetVcpuInfo`]).
pub const GETVCPUINFO: u32 = 14;
/// `XEN_DOMCTL_max_vcpus`: make its vCPUs ([`MaxVcpus`]).
pub const MAX_VCPUS: u32 = 15;
/// `XEN_DOMCTL_scheduler_op`: its scheduling parameters ([`SchedulerOp`]).
pub const SCHEDULER_OP: u32 = 16;
/// `XEN_DOMCTL_setdomainhandle`: its UUID ([`SetDomainHandle`]).
pub const SETDOMAINHANDLE: u32 = 17;
/// `XEN_DOMCTL_hypercall_init`: fill its hypercall page ([`HypercallInit`]).
pub const HYPERCALL_INIT: u32 = 22;
/// `XEN_DOMCTL_settimeoffset`: its wall clock's offset ([`SetTimeOffset`]).
pub const SETTIMEOFFSET: u32 = 24;
/// `XEN_DOMCTL_getvcpuaffinity`: where a vCPU may run ([`VcpuAffinity`]).
pub const GETVCPUAFFINITY: u32 = 25;
/// `XEN_DOMCTL_resumedomain`: resume it after a suspend.
pub const RESUMEDOMAIN: u32 = 27;
/// `XEN_DOMCTL_sendtrigger`: send an NMI or a button.
pub const SENDTRIGGER: u32 = 28;
/// `XEN_DOMCTL_gethvmcontext`: its whole state.
pub const GETHVMCONTEXT: u32 = 33;
/// `XEN_DOMCTL_sethvmcontext`: its whole state.
pub const SETHVMCONTEXT: u32 = 34;
/// `XEN_DOMCTL_set_address_size`: its width ([`AddressSize`]).
pub const SET_ADDRESS_SIZE: u32 = 35;
/// `XEN_DOMCTL_get_address_size`: its width ([`AddressSize`]).
pub const GET_ADDRESS_SIZE: u32 = 36;
/// `XEN_DOMCTL_set_target`: which domain it may control.
pub const SET_TARGET: u32 = 46;
/// `XEN_DOMCTL_gettscinfo`: its TSC mode.
pub const GETTSCINFO: u32 = 59;
/// `XEN_DOMCTL_settscinfo`: its TSC mode.
pub const SETTSCINFO: u32 = 60;
/// `XEN_DOMCTL_getpageframeinfo3`: types of its frames.
pub const GETPAGEFRAMEINFO3: u32 = 61;
/// `XEN_DOMCTL_set_virq_handler`: which domain gets a global VIRQ.
pub const SET_VIRQ_HANDLER: u32 = 66;
/// `XEN_DOMCTL_get_cpu_policy`: its CPUID and MSR policy ([`CpuPolicy`]).
pub const GET_CPU_POLICY: u32 = 82;
/// `XEN_DOMCTL_set_cpu_policy`: its CPUID and MSR policy ([`CpuPolicy`]).
pub const SET_CPU_POLICY: u32 = 83;
/// `XEN_DOMCTL_get_paging_mempool_size`: its memory for page tables ([`PagingMempool`]).
pub const GET_PAGING_MEMPOOL_SIZE: u32 = 85;
/// `XEN_DOMCTL_set_paging_mempool_size`: its memory for page tables ([`PagingMempool`]).
pub const SET_PAGING_MEMPOOL_SIZE: u32 = 86;

/// `struct xen_domctl`: the argument of every call. `u` is read and written by [`Domctl::payload`] and
/// [`Domctl::set_payload`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Domctl {
    /// The operation.
    pub cmd: u32,
    /// [`INTERFACE_VERSION`].
    pub interface_version: u32,
    /// The target. In and out for [`CREATEDOMAIN`] and [`GETDOMAININFO`].
    pub domain: DomId,
    /// Padding.
    pub _pad: [u16; 3],
    /// The union.
    pub u: [u64; 16],
}

impl Domctl {
    /// A call on `domain` with an empty union.
    pub const fn new(cmd: u32, domain: DomId) -> Self {
        Self { cmd, interface_version: INTERFACE_VERSION, domain, _pad: [0; 3], u: [0; 16] }
    }

    /// The union as a `T` of this module.
    pub fn payload<T: FromBytes>(&self) -> T {
        payload(&self.u)
    }

    /// Writes a `T` of this module to the union.
    pub fn set_payload<T: IntoBytes + Immutable>(&mut self, value: &T) {
        set_payload(&mut self.u, value);
    }
}

/// The beginning of a control call's union, as a `T`. That `T` fits is checked when compiling.
pub(crate) fn payload<T: FromBytes>(union: &[u64; 16]) -> T {
    const { assert!(size_of::<T>() <= 128) };
    match T::read_from_prefix(union.as_bytes()) {
        Ok((value, _)) => value,
        Err(_) => T::new_zeroed(), // Unreachable: the size was checked.
    }
}

/// Writes the beginning of a control call's union; the rest stays. That `T` fits is checked when compiling.
pub(crate) fn set_payload<T: IntoBytes + Immutable>(union: &mut [u64; 16], value: &T) {
    const { assert!(size_of::<T>() <= 128) };
    union.as_mut_bytes()[..size_of::<T>()].copy_from_slice(value.as_bytes());
}

bitflags! {
    /// `XEN_DOMCTL_CDF_*`: what kind of domain to make.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct CreateFlags: u32 {
        /// `XEN_DOMCTL_CDF_hvm`: hardware-virtualised (a PVH domain is).
        const HVM = 1 << 0;
        /// `XEN_DOMCTL_CDF_hap`: with nested paging.
        const HAP = 1 << 1;
        /// `XEN_DOMCTL_CDF_s3_integrity`: checked over sleep.
        const S3_INTEGRITY = 1 << 2;
        /// `XEN_DOMCTL_CDF_oos_off`: no out-of-sync shadow pages.
        const OOS_OFF = 1 << 3;
        /// `XEN_DOMCTL_CDF_xs_domain`: the XenStore domain.
        const XS_DOMAIN = 1 << 4;
        /// `XEN_DOMCTL_CDF_iommu`: with devices.
        const IOMMU = 1 << 5;
        /// `XEN_DOMCTL_CDF_nested_virt`: with nested virtualisation.
        const NESTED_VIRT = 1 << 6;
        /// `XEN_DOMCTL_CDF_vpmu`: with performance counters.
        const VPMU = 1 << 7;
        const _ = !0;
    }
}

/// `struct xen_domctl_createdomain`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct CreateDomain {
    /// Security label.
    pub ssidref: u32,
    /// UUID.
    pub handle: DomainHandle,
    /// [`CreateFlags`].
    pub flags: u32,
    /// IOMMU options.
    pub iommu_opts: u32,
    /// How many vCPUs it may have.
    pub max_vcpus: u32,
    /// Its greatest event channel port.
    pub max_evtchn_port: u32,
    /// Frames of its grant table; negative for the default.
    pub max_grant_frames: i32,
    /// Frames for its mappings; negative for the default.
    pub max_maptrack_frames: i32,
    /// Greatest grant table version, in the low four bits.
    pub grant_opts: u32,
    /// Bytes of processor trace per vCPU.
    pub vmtrace_size: u32,
    /// Its CPU pool.
    pub cpupool_id: u32,
    /// Architecture's part.
    pub arch: ArchDomainConfig,
}

bitflags! {
    /// `XEN_DOMINF_*`: state of a domain; bits 16 to 23 are its shutdown reason.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct InfoFlags: u32 {
        /// `XEN_DOMINF_dying`: its memory is being taken back.
        const DYING = 1 << 0;
        /// `XEN_DOMINF_hvm_guest`: hardware-virtualised.
        const HVM_GUEST = 1 << 1;
        /// `XEN_DOMINF_shutdown`: it has shut down.
        const SHUTDOWN = 1 << 2;
        /// `XEN_DOMINF_paused`: paused by a control call.
        const PAUSED = 1 << 3;
        /// `XEN_DOMINF_blocked`: all its vCPUs are blocked.
        const BLOCKED = 1 << 4;
        /// `XEN_DOMINF_running`: a vCPU of it is running.
        const RUNNING = 1 << 5;
        /// `XEN_DOMINF_debugged`: paused for a debugger.
        const DEBUGGED = 1 << 6;
        /// `XEN_DOMINF_xs_domain`: the XenStore domain.
        const XS_DOMAIN = 1 << 7;
        /// `XEN_DOMINF_hap`: with nested paging.
        const HAP = 1 << 8;
        const _ = !0;
    }
}

/// `XEN_DOMINF_shutdownmask`: width of the shutdown reason in [`GetDomainInfo::flags`].
pub const INFO_SHUTDOWN_MASK: u32 = 255;
/// `XEN_DOMINF_shutdownshift`: where it is.
pub const INFO_SHUTDOWN_SHIFT: u32 = 16;
/// `XEN_INVALID_MAX_VCPU_ID`: the domain has no vCPU.
pub const INVALID_MAX_VCPU_ID: u32 = u32::MAX;

/// `struct xen_domctl_getdomaininfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GetDomainInfo {
    /// Which domain.
    pub domain: DomId,
    /// Padding.
    pub pad1: u16,
    /// [`InfoFlags`] and shutdown reason.
    pub flags: u32,
    /// Pages it has.
    pub tot_pages: u64,
    /// Pages it may have.
    pub max_pages: u64,
    /// Pages claimed for it.
    pub outstanding_pages: u64,
    /// Pages it shares.
    pub shr_pages: u64,
    /// Pages paged out.
    pub paged_pages: u64,
    /// gfn of its shared_info.
    pub shared_info_frame: u64,
    /// Time its vCPUs ran, ns.
    pub cpu_time: u64,
    /// vCPUs online.
    pub nr_online_vcpus: u32,
    /// Its greatest vCPU number.
    pub max_vcpu_id: u32,
    /// Security label.
    pub ssidref: u32,
    /// UUID.
    pub handle: DomainHandle,
    /// Its CPU pool.
    pub cpupool: u32,
    /// Width of its physical addresses.
    pub gpaddr_bits: u8,
    /// Padding.
    pub pad2: [u8; 7],
    /// Architecture's part.
    pub arch_config: ArchDomainConfig,
}

/// `struct xen_domctl_max_mem`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MaxMem {
    /// KiB.
    pub max_memkb: u64,
}

/// `struct xen_domctl_vcpucontext`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VcpuContext {
    /// Which vCPU.
    pub vcpu: VcpuId,
    /// Padding.
    pub pad: u32,
    /// A `vcpu_guest_context`.
    pub ctxt: GuestHandle<u8>,
}

/// `struct xen_domctl_getvcpuinfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GetVcpuInfo {
    /// In: which vCPU.
    pub vcpu: VcpuId,
    /// Not taken down?
    pub online: u8,
    /// Waits for an event?
    pub blocked: u8,
    /// On a CPU?
    pub running: u8,
    /// Padding.
    pub pad0: u8,
    /// Time it ran, ns.
    pub cpu_time: u64,
    /// Where it ran last.
    pub cpu: u32,
    /// Padding.
    pub pad1: u32,
}

/// `XEN_VCPUAFFINITY_HARD`: in [`VcpuAffinity::flags`].
pub const VCPUAFFINITY_HARD: u32 = 1 << 0;
/// `XEN_VCPUAFFINITY_SOFT`: in [`VcpuAffinity::flags`].
pub const VCPUAFFINITY_SOFT: u32 = 1 << 1;
/// `XEN_VCPUAFFINITY_FORCE`: in [`VcpuAffinity::flags`].
pub const VCPUAFFINITY_FORCE: u32 = 1 << 2;

/// `struct xen_domctl_vcpuaffinity`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VcpuAffinity {
    /// Which vCPU.
    pub vcpu: VcpuId,
    /// `XEN_VCPUAFFINITY_*`.
    pub flags: u32,
    /// Where it may run.
    pub cpumap_hard: CtlBitmap,
    /// Where it likes to run.
    pub cpumap_soft: CtlBitmap,
}

/// `struct xen_domctl_max_vcpus`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MaxVcpus {
    /// How many.
    pub max: u32,
}

/// `XEN_SCHEDULER_CREDIT`: the credit scheduler.
pub const SCHEDULER_CREDIT: u32 = 5;
/// `XEN_SCHEDULER_CREDIT2`: its successor.
pub const SCHEDULER_CREDIT2: u32 = 6;
/// `XEN_SCHEDULER_ARINC653`: a fixed table.
pub const SCHEDULER_ARINC653: u32 = 7;
/// `XEN_SCHEDULER_RTDS`: real time.
pub const SCHEDULER_RTDS: u32 = 8;
/// `XEN_SCHEDULER_NULL`: a CPU for each vCPU.
pub const SCHEDULER_NULL: u32 = 9;

/// `XEN_DOMCTL_SCHEDOP_putinfo`: set.
pub const SCHEDOP_PUTINFO: u32 = 0;
/// `XEN_DOMCTL_SCHEDOP_getinfo`: get.
pub const SCHEDOP_GETINFO: u32 = 1;
/// `XEN_DOMCTL_SCHEDOP_putvcpuinfo`: set for vCPUs.
pub const SCHEDOP_PUTVCPUINFO: u32 = 2;
/// `XEN_DOMCTL_SCHEDOP_getvcpuinfo`: get for vCPUs.
pub const SCHEDOP_GETVCPUINFO: u32 = 3;

/// `struct xen_domctl_sched_credit` (and `..._credit2`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SchedCredit {
    /// Share; the default is 256.
    pub weight: u16,
    /// Upper limit in per cent of a CPU; 0 for none.
    pub cap: u16,
}

/// `struct xen_domctl_scheduler_op`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SchedulerOp {
    /// `XEN_SCHEDULER_*`.
    pub sched_id: u32,
    /// `XEN_DOMCTL_SCHEDOP_*`.
    pub cmd: u32,
    /// The union: [`SchedulerOp::credit`] for the credit schedulers.
    pub u: [u64; 2],
}

impl SchedulerOp {
    /// `u.credit`.
    pub const fn credit(&self) -> SchedCredit {
        SchedCredit { weight: self.u[0] as u16, cap: (self.u[0] >> 16) as u16 }
    }

    /// Sets `u.credit`.
    pub const fn set_credit(&mut self, credit: SchedCredit) {
        self.u = [credit.weight as u64 | (credit.cap as u64) << 16, 0];
    }
}

/// `struct xen_domctl_setdomainhandle`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SetDomainHandle {
    /// UUID.
    pub handle: DomainHandle,
}

/// `struct xen_domctl_hypercall_init`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct HypercallInit {
    /// The page.
    pub gmfn: u64,
}

/// `struct xen_domctl_settimeoffset`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SetTimeOffset {
    /// Seconds.
    pub time_offset_seconds: i64,
}

/// `struct xen_domctl_address_size`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct AddressSize {
    /// Bits.
    pub size: u32,
}

/// `struct xen_domctl_cpu_policy`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct CpuPolicy {
    /// In and out: how many leaves.
    pub nr_leaves: u32,
    /// In and out: how many MSRs.
    pub nr_msrs: u32,
    /// The leaves.
    pub leaves: GuestHandle<crate::arch_x86::CpuidLeaf>,
    /// The MSRs.
    pub msrs: GuestHandle<crate::arch_x86::MsrEntry>,
    /// Out: the leaf that was wrong.
    pub err_leaf: u32,
    /// Out: its subleaf.
    pub err_subleaf: u32,
    /// Out: the MSR that was wrong.
    pub err_msr: u32,
    /// Padding.
    pub pad: u32,
}

/// `struct xen_domctl_paging_mempool`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct PagingMempool {
    /// Bytes.
    pub size: u64,
}

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Domctl>() == 144);
    assert!(offset_of!(Domctl, domain) == 8);
    assert!(offset_of!(Domctl, u) == 16);
    assert!(size_of::<CreateDomain>() == 64);
    assert!(offset_of!(CreateDomain, flags) == 20);
    assert!(offset_of!(CreateDomain, cpupool_id) == 52);
    assert!(offset_of!(CreateDomain, arch) == 56);
    assert!(size_of::<GetDomainInfo>() == 112);
    assert!(offset_of!(GetDomainInfo, tot_pages) == 8);
    assert!(offset_of!(GetDomainInfo, cpu_time) == 56);
    assert!(offset_of!(GetDomainInfo, handle) == 76);
    assert!(offset_of!(GetDomainInfo, arch_config) == 104);
    assert!(size_of::<GetVcpuInfo>() == 24);
    assert!(size_of::<VcpuAffinity>() == 40);
    assert!(size_of::<SchedulerOp>() == 24);
    assert!(size_of::<CpuPolicy>() == 40);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_union_keeps_what_is_put_in() {
        let mut call = Domctl::new(SCHEDULER_OP, DomId(3));
        let mut op = SchedulerOp { sched_id: SCHEDULER_CREDIT, cmd: SCHEDOP_PUTINFO, ..Default::default() };
        op.set_credit(SchedCredit { weight: 512, cap: 50 });
        call.set_payload(&op);
        assert_eq!(call.payload::<SchedulerOp>().credit(), SchedCredit { weight: 512, cap: 50 });
        assert_eq!(call.payload::<SchedulerOp>(), op);
    }
}
