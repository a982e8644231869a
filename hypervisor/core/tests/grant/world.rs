//! Domains that grant each other pages, and their hypercalls.

use std::sync::Arc;

use ebb_core::{Domain, Hypervisor, lifecycle};
use shared_abi::grant_table::{self as abi, GrantHandle, GrantRef, GrantStatus, MapFlags, MapGrantRef, UnmapGrantRef};
use shared_abi::hypercall as number;
use shared_abi::memory::{self, AddToPhysmap, MemAcquireResource, MemoryReservation, RemoveFromPhysmap};
use shared_abi::xen::{DomId, Errno, Gfn, GuestHandle};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::testing::{self, FakeMachine, poke};

pub type Hv = Hypervisor<FakeMachine>;
pub type Dom = Arc<Domain<FakeMachine>>;

/// Pages of each domain, from gfn 0 on.
pub const PAGES: u64 = 64;
/// Where arguments of hypercalls are: from here to the end of memory.
const ARGUMENTS: u64 = 32 << 12;
/// Where the table's first frame is mapped.
pub const TABLE: u64 = 0x1000;
/// Where nothing is.
pub const EMPTY: u64 = 0x2000;

/// `ENTRY_PERMIT_ACCESS` with nothing else.
pub const PERMIT: u16 = abi::ENTRY_PERMIT_ACCESS;
pub const READONLY: u16 = abi::EntryFlags::READONLY.bits();
pub const READING: u16 = abi::EntryFlags::READING.bits();
pub const WRITING: u16 = abi::EntryFlags::WRITING.bits();

/// One domain and its hypercalls.
pub struct Guest<'a> {
    pub hv: &'a Hv,
    pub domain: Dom,
    /// Of its two vCPUs, the one that calls.
    pub vcpu: u32,
}

impl<'a> Guest<'a> {
    /// A domain with its table's first frame at [`TABLE`].
    pub fn new(hv: &'a Hv, id: u16) -> Self {
        Self::of(hv, id, false)
    }

    /// The same, with privilege.
    pub fn privileged(hv: &'a Hv, id: u16) -> Self {
        Self::of(hv, id, true)
    }

    fn of(hv: &'a Hv, id: u16, privileged: bool) -> Self {
        let mut config = testing::domain_config(&std::format!("guest{id}"), PAGES, 2 * PAGES, 2);
        config.privileged = privileged;
        let domain = testing::domain_of(hv, id, config);
        {
            let mut table = hv.domain_table.lock();
            table.alive += 1;
            table.taken |= 1 << id;
        }
        hv.start_domain(&domain).expect("room in the queues");
        let guest = Self { hv, domain, vcpu: 0 };
        assert_eq!(guest.add(memory::MAPSPACE_GRANT_TABLE, 0, TABLE), Ok(()));
        guest
    }

    /// The same domain, calling on another vCPU.
    pub fn on(&self, vcpu: u32) -> Self {
        Self { hv: self.hv, domain: self.domain.clone(), vcpu }
    }

    pub fn id(&self) -> DomId {
        self.domain.id
    }

    /// Arguments of different vCPUs do not overlap.
    fn arguments(&self) -> u64 {
        ARGUMENTS + u64::from(self.vcpu) * (16 << 12)
    }

    pub fn hypercall(&self, number: u32, args: [u64; 5]) -> i64 {
        testing::hypercall(self.hv, &testing::vcpu(&self.domain, self.vcpu), number, args)
    }

    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.hv.write_physical(&self.domain, address, bytes)
    }

    pub fn read<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.hv.read_physical(&self.domain, address, &mut bytes).expect("memory");
        bytes
    }

    /// `grant_table_op` on structures, which come back as the hypervisor leaves them.
    pub fn grant_op<T: IntoBytes + FromBytes + Immutable>(&self, operation: u32, items: &mut [T]) -> i64 {
        let at = self.arguments();
        self.write(at, items.as_bytes()).expect("memory");
        let result = self.hypercall(number::GRANT_TABLE_OP, [operation.into(), at, items.len() as u64, 0, 0]);
        self.hv.read_physical(&self.domain, at, items.as_mut_bytes()).expect("memory");
        result
    }

    fn memory_op<T: IntoBytes + Immutable>(&self, operation: u32, argument: &T) -> i64 {
        let at = self.arguments();
        self.write(at, argument.as_bytes()).expect("memory");
        self.hypercall(number::MEMORY_OP, [operation.into(), at, 0, 0, 0])
    }

    pub fn add(&self, space: u32, idx: u64, gfn: u64) -> Result<(), Errno> {
        self.add_to(DomId::SELF, space, idx, gfn)
    }

    pub fn add_to(&self, domid: DomId, space: u32, idx: u64, gfn: u64) -> Result<(), Errno> {
        let argument = AddToPhysmap { domid, size: 0, space, idx, gpfn: Gfn(gfn) };
        Errno::from_return(self.memory_op(memory::ADD_TO_PHYSMAP, &argument)).map(|_| ())
    }

    pub fn remove(&self, gfn: u64) -> Result<(), Errno> {
        let argument = RemoveFromPhysmap { domid: DomId::SELF, pad: [0; 3], gpfn: Gfn(gfn) };
        Errno::from_return(self.memory_op(memory::REMOVE_FROM_PHYSMAP, &argument)).map(|_| ())
    }

    /// Populates or decreases one page: how many were done.
    pub fn reservation(&self, operation: u32, gfn: u64) -> i64 {
        let list = self.arguments() + 0x800;
        self.write(list, &gfn.to_le_bytes()).expect("memory");
        let argument = MemoryReservation {
            extent_start: GuestHandle::new(list),
            nr_extents: 1,
            domid: DomId::SELF,
            ..MemoryReservation::default()
        };
        self.memory_op(operation, &argument)
    }

    pub fn acquire(&self, owner: DomId, frame: u64, nr_frames: u32, gfns: &[u64]) -> Result<(), Errno> {
        let list = self.arguments() + 0x800;
        self.write(list, gfns.as_bytes()).expect("memory");
        let argument = MemAcquireResource {
            domid: owner,
            type_: memory::RESOURCE_GRANT_TABLE,
            id: memory::RESOURCE_GRANT_TABLE_ID_SHARED,
            nr_frames,
            frame,
            frame_list: GuestHandle::new(if gfns.is_empty() { 0 } else { list }),
            pad: 0,
        };
        Errno::from_return(self.memory_op(memory::ACQUIRE_RESOURCE, &argument)).map(|_| ())
    }

    /// The `nr_frames` that the latest `acquire` left.
    pub fn acquired_frames(&self) -> u32 {
        u32::from_le_bytes(self.read(self.arguments() + core::mem::offset_of!(MemAcquireResource, nr_frames) as u64))
    }

    /// Writes an entry of the table's first frame, as a guest does: flags last.
    pub fn grant(&self, gref: u32, flags: u16, to: DomId, frame: u64) {
        let at = (TABLE << 12) + 8 * u64::from(gref);
        poke(self.hv, &self.domain, at + 4, &(frame as u32).to_le_bytes());
        poke(self.hv, &self.domain, at + 2, &to.0.to_le_bytes());
        poke(self.hv, &self.domain, at, &flags.to_le_bytes());
    }

    pub fn flags(&self, gref: u32) -> u16 {
        u16::from_le_bytes(self.read((TABLE << 12) + 8 * u64::from(gref)))
    }

    pub fn map(&self, from: DomId, gref: u32, gfn: u64, flags: MapFlags) -> Result<GrantHandle, GrantStatus> {
        let mut request = [map_request(from, gref, gfn, flags)];
        assert_eq!(self.grant_op(abi::MAP_GRANT_REF, &mut request), 0);
        let [done] = request;
        if done.status == GrantStatus::OKAY { Ok(done.handle) } else { Err(done.status) }
    }

    pub fn unmap(&self, handle: GrantHandle, gfn: u64) -> GrantStatus {
        let mut request = [unmap_request(handle, gfn)];
        assert_eq!(self.grant_op(abi::UNMAP_GRANT_REF, &mut request), 0);
        request[0].status
    }

    /// Ends the domain, and waits until it is gone.
    pub fn die(self) {
        lifecycle::destroy(self.hv, &self.domain);
        for _ in 0..10_000 {
            if self.hv.find_domain(self.domain.id).is_none() {
                return;
            }
            self.hv.teardown_step();
        }
        panic!("{} does not end", self.domain.id);
    }
}

pub fn map_request(from: DomId, gref: u32, gfn: u64, flags: MapFlags) -> MapGrantRef {
    let flags = flags.bits();
    MapGrantRef { host_addr: gfn << 12, flags, ref_: GrantRef(gref), dom: from, ..MapGrantRef::default() }
}

pub fn unmap_request(handle: GrantHandle, gfn: u64) -> UnmapGrantRef {
    UnmapGrantRef { host_addr: gfn << 12, handle, ..UnmapGrantRef::default() }
}

pub fn audit(hv: &Hv) {
    if let Err(why) = hv.audit_memory() {
        panic!("{why}");
    }
}
