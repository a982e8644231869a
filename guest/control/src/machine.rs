//! The border to the machine: the calls a control domain makes, and what it gets from them.
//!
//! Each call is one of Xen's; the guest kernel implements them by hypercalls, the tests by a model.

use alloc::vec::Vec;
use ebb_ring::Page;
use shared_abi::domctl::GetDomainInfo;
use shared_abi::grant_table::GrantRef;
use shared_abi::sysctl::PhysInfo;
use shared_abi::xen::{DomId, Errno, Gfn, Port};

/// Our end of an event channel to a domain. Dropping it closes it.
pub trait Signal {
    /// Whether an event came since the last call.
    fn take(&self) -> bool;

    /// Sends the domain an event. An error means that the channel is gone.
    fn send(&self) -> Result<(), Errno>;
}

/// What a control domain can do. All calls answer at once.
pub trait Machine {
    /// A page of another domain's, mapped. Dropping it unmaps it.
    type Page: Page;
    /// Our end of an event channel.
    type Signal: Signal;

    /// System time, ns.
    fn now(&self) -> u64;

    /// Whether `VIRQ_DOM_EXC` came since the last call: a domain was built, began to end, or is gone.
    fn domains_changed(&self) -> bool;

    /// Whether `VIRQ_CONSOLE` came since the last call: something was typed.
    fn has_input(&self) -> bool;

    /// `XEN_SYSCTL_getdomaininfolist`: every domain, in the order of their numbers.
    fn domains(&mut self) -> Result<Vec<GetDomainInfo>, Errno>;

    /// `XEN_SYSCTL_physinfo`.
    fn physical_info(&mut self) -> Result<PhysInfo, Errno>;

    /// `XEN_DOMCTL_SCHEDULER_op`: the domain's weight.
    fn weight(&mut self, domain: DomId) -> Result<u16, Errno>;

    /// `XEN_DOMCTL_max_mem`, KiB.
    fn max_mem(&mut self, domain: DomId, kib: u64) -> Result<(), Errno>;

    /// `XEN_DOMCTL_pausedomain`.
    fn pause(&mut self, domain: DomId) -> Result<(), Errno>;

    /// `XEN_DOMCTL_unpausedomain`.
    fn unpause(&mut self, domain: DomId) -> Result<(), Errno>;

    /// `XEN_DOMCTL_destroydomain`.
    fn destroy(&mut self, domain: DomId) -> Result<(), Errno>;

    /// `XENMEM_populate_physmap` of one page of the domain's; ENOMEM when there is none.
    fn populate(&mut self, domain: DomId, gfn: Gfn) -> Result<(), Errno>;

    /// `EVTCHNOP_alloc_unbound`: a port of the domain's for us.
    fn alloc_unbound(&mut self, domain: DomId) -> Result<Port, Errno>;

    /// `HVMOP_set_param`.
    fn set_param(&mut self, domain: DomId, index: u32, value: u64) -> Result<(), Errno>;

    /// Fills entries of the domain's grant table so that they give us, `own`, its pages.
    fn grant_to_us(&mut self, domain: DomId, own: DomId, entries: &[(GrantRef, Gfn)]) -> Result<(), Errno>;

    /// `EVTCHNOP_bind_interdomain` to a port of the domain's.
    fn bind(&mut self, domain: DomId, port: Port) -> Result<Self::Signal, Errno>;

    /// `GNTTABOP_map_grant_ref` of an entry of the domain's.
    fn map(&mut self, domain: DomId, entry: GrantRef) -> Result<Self::Page, Errno>;

    /// `CONSOLEIO_write`.
    fn print(&mut self, bytes: &[u8]);

    /// `CONSOLEIO_read`: how many bytes of what was typed came.
    fn read_input(&mut self, buffer: &mut [u8]) -> usize;
}
