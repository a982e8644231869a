//! `sysctl.h`: control of the machine, as of Xen 4.17, with tmem's control as in the last tree that had it.
//! Privileged. What Ebb offers or knows by name.

use crate::domctl::{GetDomainInfo, payload, set_payload};
use crate::tmem::TmemOid;
use crate::xen::{CtlBitmap, DomId, GuestHandle};
use bitflags::bitflags;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `XEN_SYSCTL_INTERFACE_VERSION`: a call with another is -EACCES.
pub const INTERFACE_VERSION: u32 = 0x15;

/// `XEN_SYSCTL_readconsole`: read the console ring ([`ReadConsole`]).
pub const READCONSOLE: u32 = 1;
/// `XEN_SYSCTL_tbuf_op`: the trace buffers ([`TbufOp`]).
pub const TBUF_OP: u32 = 2;
/// `XEN_SYSCTL_physinfo`: the machine ([`PhysInfo`]).
pub const PHYSINFO: u32 = 3;
/// `XEN_SYSCTL_sched_id`: the scheduler ([`SchedId`]).
pub const SCHED_ID: u32 = 4;
/// `XEN_SYSCTL_getdomaininfolist`: figures of many domains ([`GetDomainInfoList`]).
pub const GETDOMAININFOLIST: u32 = 6;
/// `XEN_SYSCTL_debug_keys`: send debug keys ([`DebugKeys`]).
pub const DEBUG_KEYS: u32 = 7;
/// `XEN_SYSCTL_getcpuinfo`: idle times ([`GetCpuInfo`]).
pub const GETCPUINFO: u32 = 8;
/// `XEN_SYSCTL_availheap`: free memory ([`AvailHeap`]).
pub const AVAILHEAP: u32 = 9;
/// `XEN_SYSCTL_cputopoinfo`: where CPUs are ([`CpuTopoInfo`]).
pub const CPUTOPOINFO: u32 = 16;
/// `XEN_SYSCTL_numainfo`: nodes.
pub const NUMAINFO: u32 = 17;
/// `XEN_SYSCTL_cpupool_op`: CPU pools.
pub const CPUPOOL_OP: u32 = 18;
/// `XEN_SYSCTL_scheduler_op`: the scheduler's parameters ([`SchedulerOp`]).
pub const SCHEDULER_OP: u32 = 19;
/// `XEN_SYSCTL_tmem_op`: control of tmem ([`TmemControl`]). Removed from Xen in 2019.
pub const TMEM_OP: u32 = 24;

/// `struct xen_sysctl`: the argument of every call. `u` is read and written by [`Sysctl::payload`] and
/// [`Sysctl::set_payload`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Sysctl {
    /// The operation.
    pub cmd: u32,
    /// [`INTERFACE_VERSION`].
    pub interface_version: u32,
    /// The union.
    pub u: [u64; 16],
}

impl Sysctl {
    /// A call with an empty union.
    pub const fn new(cmd: u32) -> Self {
        Self { cmd, interface_version: INTERFACE_VERSION, u: [0; 16] }
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

/// `struct xen_sysctl_readconsole`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct ReadConsole {
    /// Non-zero: clear the ring afterwards.
    pub clear: u8,
    /// Non-zero: start at `index`.
    pub incremental: u8,
    /// Padding.
    pub pad0: u8,
    /// Padding.
    pub pad1: u8,
    /// In and out: where to start.
    pub index: u32,
    /// Where to.
    pub buffer: GuestHandle<u8>,
    /// In: room. Out: bytes.
    pub count: u32,
    /// Padding.
    pub pad2: u32,
}

/// `XEN_SYSCTL_TBUFOP_get_info`: where the buffers are.
pub const TBUFOP_GET_INFO: u32 = 0;
/// `XEN_SYSCTL_TBUFOP_set_cpu_mask`: which CPUs.
pub const TBUFOP_SET_CPU_MASK: u32 = 1;
/// `XEN_SYSCTL_TBUFOP_set_evt_mask`: which events.
pub const TBUFOP_SET_EVT_MASK: u32 = 2;
/// `XEN_SYSCTL_TBUFOP_set_size`: their size.
pub const TBUFOP_SET_SIZE: u32 = 3;
/// `XEN_SYSCTL_TBUFOP_enable`: start.
pub const TBUFOP_ENABLE: u32 = 4;
/// `XEN_SYSCTL_TBUFOP_disable`: stop.
pub const TBUFOP_DISABLE: u32 = 5;

/// `struct xen_sysctl_tbuf_op`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct TbufOp {
    /// `XEN_SYSCTL_TBUFOP_*`.
    pub cmd: u32,
    /// Padding.
    pub pad0: u32,
    /// Which CPUs.
    pub cpu_mask: CtlBitmap,
    /// Which events.
    pub evt_mask: u32,
    /// Padding.
    pub pad1: u32,
    /// Out: where the buffers are.
    pub buffer_mfn: u64,
    /// In and out: their size, pages.
    pub size: u32,
    /// Padding.
    pub pad2: u32,
}

bitflags! {
    /// `XEN_SYSCTL_PHYSCAP_*`: what the machine can.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct PhysCapabilities: u32 {
        /// `XEN_SYSCTL_PHYSCAP_hvm`: hardware-virtualised guests.
        const HVM = 1 << 0;
        /// `XEN_SYSCTL_PHYSCAP_pv`: paravirtual guests.
        const PV = 1 << 1;
        /// `XEN_SYSCTL_PHYSCAP_directio`: devices for guests.
        const DIRECTIO = 1 << 2;
        /// `XEN_SYSCTL_PHYSCAP_hap`: nested paging.
        const HAP = 1 << 3;
        /// `XEN_SYSCTL_PHYSCAP_shadow`: shadow paging.
        const SHADOW = 1 << 4;
        /// `XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share`: IOMMU and nested paging share tables.
        const IOMMU_HAP_PT_SHARE = 1 << 5;
        /// `XEN_SYSCTL_PHYSCAP_vmtrace`: processor trace.
        const VMTRACE = 1 << 6;
        /// `XEN_SYSCTL_PHYSCAP_vpmu`: performance counters.
        const VPMU = 1 << 7;
        /// `XEN_SYSCTL_PHYSCAP_gnttab_v1`: grant tables of version 1.
        const GNTTAB_V1 = 1 << 8;
        /// `XEN_SYSCTL_PHYSCAP_gnttab_v2`: grant tables of version 2.
        const GNTTAB_V2 = 1 << 9;
        const _ = !0;
    }
}

/// `struct xen_sysctl_physinfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct PhysInfo {
    /// Threads of a core.
    pub threads_per_core: u32,
    /// Cores of a socket.
    pub cores_per_socket: u32,
    /// CPUs online.
    pub nr_cpus: u32,
    /// Greatest CPU number.
    pub max_cpu_id: u32,
    /// Nodes online.
    pub nr_nodes: u32,
    /// Greatest node number.
    pub max_node_id: u32,
    /// Frequency, kHz.
    pub cpu_khz: u32,
    /// [`PhysCapabilities`].
    pub capabilities: u32,
    /// Architecture's capabilities.
    pub arch_capabilities: u32,
    /// Padding.
    pub pad: u32,
    /// Pages of the machine.
    pub total_pages: u64,
    /// Pages free.
    pub free_pages: u64,
    /// Pages waiting to be scrubbed.
    pub scrub_pages: u64,
    /// Pages claimed.
    pub outstanding_pages: u64,
    /// Greatest frame number.
    pub max_mfn: u64,
    /// CPUID features.
    pub hw_cap: [u32; 8],
}

/// `struct xen_sysctl_sched_id`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SchedId {
    /// `XEN_SCHEDULER_*` ([`crate::domctl`]).
    pub sched_id: u32,
}

/// `struct xen_sysctl_getdomaininfolist`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GetDomainInfoList {
    /// Start at this number.
    pub first_domain: DomId,
    /// Padding.
    pub pad0: u16,
    /// Room.
    pub max_domains: u32,
    /// Where to.
    pub buffer: GuestHandle<GetDomainInfo>,
    /// Out: how many.
    pub num_domains: u32,
    /// Padding.
    pub pad1: u32,
}

/// `struct xen_sysctl_debug_keys`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DebugKeys {
    /// The keys.
    pub keys: GuestHandle<u8>,
    /// How many.
    pub nr_keys: u32,
    /// Padding.
    pub pad: u32,
}

/// `struct xen_sysctl_cpuinfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct CpuInfo {
    /// Time idle, ns.
    pub idletime: u64,
}

/// `struct xen_sysctl_getcpuinfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GetCpuInfo {
    /// Room.
    pub max_cpus: u32,
    /// Padding.
    pub pad0: u32,
    /// Where to.
    pub info: GuestHandle<CpuInfo>,
    /// Out: how many.
    pub nr_cpus: u32,
    /// Padding.
    pub pad1: u32,
}

/// `struct xen_sysctl_availheap`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct AvailHeap {
    /// Least address width; 0 for any.
    pub min_bitwidth: u32,
    /// Greatest address width; 0 for any.
    pub max_bitwidth: u32,
    /// Node; -1 for all.
    pub node: i32,
    /// Padding.
    pub pad: u32,
    /// Out.
    pub avail_bytes: u64,
}

/// `struct xen_sysctl_cputopo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct CpuTopo {
    /// Core.
    pub core: u32,
    /// Socket.
    pub socket: u32,
    /// Node.
    pub node: u32,
}

/// `struct xen_sysctl_cputopoinfo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct CpuTopoInfo {
    /// In: room. Out: how many.
    pub num_cpus: u32,
    /// Padding.
    pub pad: u32,
    /// Where to.
    pub cputopo: GuestHandle<CpuTopo>,
}

/// `struct xen_sysctl_credit_schedule`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct CreditSchedule {
    /// Time slice, ms.
    pub tslice_ms: u32,
    /// How long a vCPU runs at least, µs.
    pub ratelimit_us: u32,
    /// How long it is thought to be warm, µs.
    pub vcpu_migr_delay_us: u32,
}

/// `XEN_SYSCTL_SCHEDOP_putinfo`: set.
pub const SCHEDOP_PUTINFO: u32 = 0;
/// `XEN_SYSCTL_SCHEDOP_getinfo`: get.
pub const SCHEDOP_GETINFO: u32 = 1;
/// `XEN_SYSCTL_CSCHED_TSLICE_MAX`: the longest time slice, ms.
pub const CSCHED_TSLICE_MAX: u32 = 1000;
/// `XEN_SYSCTL_CSCHED_TSLICE_MIN`: the shortest, ms.
pub const CSCHED_TSLICE_MIN: u32 = 1;

/// `struct xen_sysctl_scheduler_op`; its union as the credit scheduler's.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct SchedulerOp {
    /// Its CPU pool.
    pub cpupool_id: u32,
    /// `XEN_SCHEDULER_*` ([`crate::domctl`]).
    pub sched_id: u32,
    /// `XEN_SYSCTL_SCHEDOP_*`.
    pub cmd: u32,
    /// Padding.
    pub pad0: u32,
    /// `u.sched_credit`.
    pub sched_credit: CreditSchedule,
    /// The rest of the union.
    pub pad1: u32,
}

/// `XEN_SYSCTL_TMEM_OP_ALL_CLIENTS`: in [`TmemControl::cli_id`].
pub const TMEM_ALL_CLIENTS: u32 = 0xffff;
/// `XEN_SYSCTL_TMEM_OP_THAW`: undo a freeze.
pub const TMEM_THAW: u32 = 0;
/// `XEN_SYSCTL_TMEM_OP_FREEZE`: refuse operations.
pub const TMEM_FREEZE: u32 = 1;
/// `XEN_SYSCTL_TMEM_OP_FLUSH`: give ephemeral memory back.
pub const TMEM_FLUSH: u32 = 2;
/// `XEN_SYSCTL_TMEM_OP_DESTROY`: destroy all pools of a client.
pub const TMEM_DESTROY: u32 = 3;
/// `XEN_SYSCTL_TMEM_OP_LIST`: statistics as text.
pub const TMEM_LIST: u32 = 4;
/// `XEN_SYSCTL_TMEM_OP_GET_CLIENT_INFO`: a client ([`TmemClient`]).
pub const TMEM_GET_CLIENT_INFO: u32 = 5;
/// `XEN_SYSCTL_TMEM_OP_SET_CLIENT_INFO`: its weight and flags.
pub const TMEM_SET_CLIENT_INFO: u32 = 6;
/// `XEN_SYSCTL_TMEM_OP_GET_POOLS`: its pools ([`TmemPoolInfo`]).
pub const TMEM_GET_POOLS: u32 = 7;
/// `XEN_SYSCTL_TMEM_OP_QUERY_FREEABLE_MB`: what eviction could give back, MiB.
pub const TMEM_QUERY_FREEABLE_MB: u32 = 8;
/// `XEN_SYSCTL_TMEM_OP_SET_POOLS`: make pools again.
pub const TMEM_SET_POOLS: u32 = 9;
/// `XEN_SYSCTL_TMEM_OP_SAVE_BEGIN`: start saving a client.
pub const TMEM_SAVE_BEGIN: u32 = 10;
/// `XEN_SYSCTL_TMEM_OP_SET_AUTH`: which UUIDs it may share.
pub const TMEM_SET_AUTH: u32 = 11;
/// `XEN_SYSCTL_TMEM_OP_SAVE_GET_NEXT_PAGE`: the next page of it.
pub const TMEM_SAVE_GET_NEXT_PAGE: u32 = 19;
/// `XEN_SYSCTL_TMEM_OP_SAVE_GET_NEXT_INV`: the next page it has flushed meanwhile.
pub const TMEM_SAVE_GET_NEXT_INV: u32 = 20;
/// `XEN_SYSCTL_TMEM_OP_SAVE_END`: end saving.
pub const TMEM_SAVE_END: u32 = 21;
/// `XEN_SYSCTL_TMEM_OP_RESTORE_BEGIN`: start restoring a client.
pub const TMEM_RESTORE_BEGIN: u32 = 30;
/// `XEN_SYSCTL_TMEM_OP_RESTORE_PUT_PAGE`: a page of it.
pub const TMEM_RESTORE_PUT_PAGE: u32 = 32;
/// `XEN_SYSCTL_TMEM_OP_RESTORE_FLUSH_PAGE`: a page it has flushed meanwhile.
pub const TMEM_RESTORE_FLUSH_PAGE: u32 = 33;

/// `struct xen_sysctl_tmem_op`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct TmemControl {
    /// `XEN_SYSCTL_TMEM_OP_*`.
    pub cmd: u32,
    /// Which pool, for saving and restoring.
    pub pool_id: i32,
    /// Which client: a domain, or [`TMEM_ALL_CLIENTS`].
    pub cli_id: u32,
    /// Bytes or entries of the buffer.
    pub len: u32,
    /// Depends on the operation.
    pub arg: u32,
    /// Must be 0.
    pub pad: u32,
    /// Which object, for saving and restoring.
    pub oid: TmemOid,
    /// `u.buf`, `u.client` or `u.pool`: the buffer, by the operation.
    pub buf: GuestHandle<u8>,
}

/// `struct tmem_handle`: a page's name while saving; the page itself follows it in the buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct TmemHandle {
    /// Pool.
    pub pool_id: u32,
    /// Page in the object.
    pub index: u32,
    /// Object.
    pub oid: TmemOid,
}

/// `struct xen_tmem_client`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct TmemClient {
    /// [`crate::tmem::SPEC_VERSION`]; -EOPNOTSUPP for another.
    pub version: u32,
    /// Pools it may have; -ERANGE for too many.
    pub maxpools: u32,
    /// Pools it has.
    pub nr_pools: u32,
    /// Bit 0 frozen, bit 1 compress, bit 2 migrating.
    pub flags: u32,
    /// Its weight in eviction.
    pub weight: u32,
}

/// [`TmemClient::flags`]: frozen.
pub const TMEM_CLIENT_FLAG_FROZEN: u32 = 1 << 0;
/// [`TmemClient::flags`]: its pages are compressed.
pub const TMEM_CLIENT_FLAG_COMPRESS: u32 = 1 << 1;
/// [`TmemClient::flags`]: it is being saved.
pub const TMEM_CLIENT_FLAG_MIGRATING: u32 = 1 << 2;

/// `struct xen_tmem_pool_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct TmemPoolInfo {
    /// Bit 0 persistent, 1 shared, 2 authorised; bits 4-11 page size, 24-31 version.
    pub flags: u32,
    /// Its number.
    pub id: u32,
    /// Its pages; 0 when setting.
    pub n_pages: u64,
    /// Its UUID.
    pub uuid: [u64; 2],
}

/// [`TmemPoolInfo::flags`]: the client may share this UUID.
pub const TMEM_POOL_FLAG_AUTH: u32 = 1 << 2;

const _: () = {
    use core::mem::offset_of;
    assert!(size_of::<Sysctl>() == 136);
    assert!(offset_of!(Sysctl, u) == 8);
    assert!(size_of::<ReadConsole>() == 24);
    assert!(size_of::<TbufOp>() == 48);
    assert!(offset_of!(TbufOp, buffer_mfn) == 32);
    assert!(size_of::<PhysInfo>() == 112);
    assert!(offset_of!(PhysInfo, total_pages) == 40);
    assert!(offset_of!(PhysInfo, hw_cap) == 80);
    assert!(size_of::<GetDomainInfoList>() == 24);
    assert!(offset_of!(GetDomainInfoList, buffer) == 8);
    assert!(size_of::<DebugKeys>() == 16);
    assert!(size_of::<GetCpuInfo>() == 24);
    assert!(size_of::<AvailHeap>() == 24);
    assert!(size_of::<CpuTopoInfo>() == 16);
    assert!(size_of::<SchedulerOp>() == 32);
    assert!(offset_of!(SchedulerOp, sched_credit) == 16);
    assert!(size_of::<TmemControl>() == 56);
    assert!(offset_of!(TmemControl, oid) == 24);
    assert!(offset_of!(TmemControl, buf) == 48);
    assert!(size_of::<TmemHandle>() == 32);
    assert!(size_of::<TmemClient>() == 20);
    assert!(size_of::<TmemPoolInfo>() == 32);
};
