//! A control domain, a guest, and their hypercalls.

use std::sync::Arc;

use ebb_core::heap::Owner;
use ebb_core::{Domain, Hypervisor, evtchn};
use shared_abi::domctl::{Domctl, UNPAUSEDOMAIN};
use shared_abi::hypercall as number;
use shared_abi::sysctl::Sysctl;
use shared_abi::xen::{DomId, Errno};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::testing::{self, FakeMachine};

pub type Hv = Hypervisor<FakeMachine>;

/// Pages of each domain, from gfn 0 on.
pub const PAGES: u64 = 64;
/// Where arguments of hypercalls are.
pub const ARGUMENTS: u64 = 40 << 12;

pub struct Guest<'a> {
    pub hv: &'a Hv,
    pub domain: Arc<Domain<FakeMachine>>,
}

impl<'a> Guest<'a> {
    /// A domain that runs, with shared_info (mapped nowhere). Beside a control domain, that one lets it run.
    pub fn new(hv: &'a Hv, id: u16, privileged: bool) -> Self {
        let guest = Self::built(hv, id, privileged);
        if guest.domain.control.is_paused() {
            let control = Guest { hv, domain: hv.find_domain(DomId(0)).expect("who paused it") };
            control.domctl(UNPAUSEDOMAIN, guest.id(), ()).expect("paused once");
        }
        guest
    }

    /// The same as its construction leaves it.
    pub fn built(hv: &'a Hv, id: u16, privileged: bool) -> Self {
        let mut config = testing::domain_config(&std::format!("guest{id}"), PAGES, 2 * PAGES, 2);
        config.privileged = privileged;
        let domain = testing::domain_of(hv, id, config);
        {
            let mut table = hv.domain_table.lock();
            table.alive += 1;
            table.taken |= 1 << id;
        }
        let frame = hv.heap.allocate(&hv.machine, 0, Owner::Hypervisor).expect("a frame");
        evtchn::attach_shared_info(hv, &domain, frame.first());
        // The fake machine goes with its memory: nobody has to give this back.
        std::mem::forget(frame);
        hv.start_domain(&domain).expect("room in the queues");
        Self { hv, domain }
    }

    pub fn id(&self) -> DomId {
        self.domain.id
    }

    pub fn raw(&self, number: u32, args: [u64; 5]) -> Result<i64, Errno> {
        Errno::from_return(testing::hypercall(self.hv, &testing::vcpu(&self.domain, 0), number, args))
    }

    pub fn put<T: IntoBytes + Immutable>(&self, address: u64, value: &T) {
        self.hv.write_physical(&self.domain, address, value.as_bytes()).expect("memory");
    }

    pub fn take<T: IntoBytes + FromBytes>(&self, address: u64) -> T {
        let mut value = T::new_zeroed();
        self.hv.read_physical(&self.domain, address, value.as_mut_bytes()).expect("memory");
        value
    }

    /// A call whose second argument points to a structure, which comes back.
    pub fn op<T: IntoBytes + FromBytes + Immutable>(&self, number: u32, operation: u32, value: T) -> Result<T, Errno> {
        self.put(ARGUMENTS, &value);
        self.raw(number, [operation.into(), ARGUMENTS, 0, 0, 0])?;
        Ok(self.take(ARGUMENTS))
    }

    pub fn domctl<T: IntoBytes + FromBytes + Immutable>(
        &self,
        operation: u32,
        domain: DomId,
        payload: T,
    ) -> Result<T, Errno> {
        let mut request = Domctl::new(operation, domain);
        request.set_payload(&payload);
        self.put(ARGUMENTS, &request);
        self.raw(number::DOMCTL, [ARGUMENTS, 0, 0, 0, 0])?;
        Ok(self.take::<Domctl>(ARGUMENTS).payload())
    }

    pub fn sysctl<T: IntoBytes + FromBytes + Immutable>(&self, operation: u32, payload: T) -> Result<T, Errno> {
        let mut request = Sysctl::new(operation);
        request.set_payload(&payload);
        self.put(ARGUMENTS, &request);
        self.raw(number::SYSCTL, [ARGUMENTS, 0, 0, 0, 0])?;
        Ok(self.take::<Sysctl>(ARGUMENTS).payload())
    }
}
