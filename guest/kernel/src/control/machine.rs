//! The calls of the control domain as hypercalls.
#![allow(unsafe_code)] // Mapping other domains' pages.

use super::window::Slot;
use crate::events::EventPort;
use crate::{clock, println, thread};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::Ordering;
use ebb_control::{Machine, Signal};
use ebb_guest_hypercall::grant_table::{self, GrantHandle, GrantRef, Refused};
use ebb_guest_hypercall::shared::{self, GrantFrame};
use ebb_guest_hypercall::{DomId, Errno, Gfn, Port, VcpuId, Virq};
use ebb_guest_hypercall::{console, domctl, event_channel, hvm, memory, sysctl};
use ebb_ring::{Page, SharedPage};
use shared_abi::domctl::{GetDomainInfo, InfoFlags};
use shared_abi::grant_table::ENTRY_PERMIT_ACCESS;
use shared_abi::memory::RESOURCE_GRANT_TABLE;
use shared_abi::sysctl::PhysInfo;

/// Whether a domain waits to be prepared.
pub fn waits(info: &GetDomainInfo) -> bool {
    InfoFlags::from_bits_retain(info.flags).contains(InfoFlags::PAUSED)
}

/// Domains asked for at once.
const LIST: usize = 32;

/// An event channel that wakes the control thread.
pub struct Channel {
    port: EventPort,
    seen: Cell<u64>,
}

impl Channel {
    /// Takes a port over that was just bound; the calling thread will be woken.
    fn new(port: Port) -> Result<Self, &'static str> {
        let port = EventPort::new(port)?;
        port.wake(thread::current());
        Ok(Self { port, seen: Cell::new(0) })
    }
}

impl Signal for Channel {
    fn take(&self) -> bool {
        let count = self.port.count();
        self.seen.replace(count) != count
    }

    fn send(&self) -> Result<(), Errno> {
        event_channel::send(self.port.port())
    }
}

/// A page that another domain granted.
pub struct GrantedPage {
    handle: GrantHandle,
    page: &'static SharedPage,
    slot: Option<Slot>,
}

impl Page for GrantedPage {
    fn load(&self, offset: usize) -> u32 {
        self.page.load(offset)
    }

    fn store(&self, offset: usize, value: u32) {
        self.page.store(offset, value);
    }

    fn read(&self, offset: usize, to: &mut [u8]) {
        self.page.read(offset, to);
    }

    fn write(&self, offset: usize, from: &[u8]) {
        self.page.write(offset, from);
    }
}

impl Drop for GrantedPage {
    fn drop(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        // SAFETY: this was the only way to the page, and it ends here.
        if let Err(why) = unsafe { grant_table::unmap(self.handle, slot.gfn()) } {
            println!("control: a page stays mapped: {why}");
            slot.lose();
        }
    }
}

fn errno(refused: Refused) -> Errno {
    match refused {
        Refused::Call(errno) => errno,
        Refused::Entry(_) => Errno::EACCES,
    }
}

/// For what the own kernel has too little of.
fn short(why: &'static str) -> Errno {
    println!("control: {why}");
    Errno::ENOSPC
}

/// The hypercalls.
pub struct Calls {
    domains: Channel,
    /// For who reads what is typed.
    console: Option<Channel>,
}

impl Calls {
    /// Binds `VIRQ_DOM_EXC`, which wakes the calling thread.
    pub fn new() -> Result<Self, &'static str> {
        let port = event_channel::bind_virq(Virq::DOM_EXC, VcpuId(0)).map_err(|_| "VIRQ_DOM_EXC cannot be bound")?;
        Ok(Self { domains: Channel::new(port)?, console: None })
    }

    /// Has `VIRQ_DOM_EXC` wake the calling thread from now on.
    pub fn wake_me(&self) {
        self.domains.port.wake(thread::current());
    }

    /// Binds `VIRQ_CONSOLE` too.
    pub fn bind_console(&mut self) -> Result<(), &'static str> {
        let port = event_channel::bind_virq(Virq::CONSOLE, VcpuId(0)).map_err(|_| "VIRQ_CONSOLE cannot be bound")?;
        self.console = Some(Channel::new(port)?);
        Ok(())
    }
}

impl Machine for Calls {
    type Page = GrantedPage;
    type Signal = Channel;

    fn now(&self) -> u64 {
        clock::now()
    }

    fn domains_changed(&self) -> bool {
        self.domains.take()
    }

    fn has_input(&self) -> bool {
        self.console.as_ref().is_some_and(Channel::take)
    }

    fn domains(&mut self) -> Result<Vec<GetDomainInfo>, Errno> {
        let mut all = Vec::new();
        let mut first = DomId(0);
        loop {
            let mut buffer = vec![GetDomainInfo::default(); LIST];
            let count = sysctl::domain_list(first, &mut buffer)?;
            all.extend_from_slice(&buffer[..count]);
            match all.last() {
                Some(last) if count == LIST => first = DomId(last.domain.0 + 1),
                _ => return Ok(all),
            }
        }
    }

    fn physical_info(&mut self) -> Result<PhysInfo, Errno> {
        sysctl::physical_info()
    }

    fn weight(&mut self, domain: DomId) -> Result<u16, Errno> {
        domctl::scheduler_info(domain).map(|credit| credit.weight)
    }

    fn max_mem(&mut self, domain: DomId, kib: u64) -> Result<(), Errno> {
        domctl::max_mem(domain, kib)
    }

    fn pause(&mut self, domain: DomId) -> Result<(), Errno> {
        domctl::pause(domain)
    }

    fn unpause(&mut self, domain: DomId) -> Result<(), Errno> {
        domctl::unpause(domain)
    }

    fn destroy(&mut self, domain: DomId) -> Result<(), Errno> {
        domctl::destroy(domain)
    }

    fn populate(&mut self, domain: DomId, gfn: Gfn) -> Result<(), Errno> {
        // SAFETY: the logic prepares other domains only.
        match unsafe { memory::populate_physmap_of(domain, &[gfn], 0) }? {
            0 => Err(Errno::ENOMEM),
            _ => Ok(()),
        }
    }

    fn alloc_unbound(&mut self, domain: DomId) -> Result<Port, Errno> {
        event_channel::alloc_unbound_of(domain, DomId::SELF)
    }

    fn set_param(&mut self, domain: DomId, index: u32, value: u64) -> Result<(), Errno> {
        hvm::set_param_of(domain, index, value)
    }

    fn grant_to_us(&mut self, domain: DomId, own: DomId, entries: &[(GrantRef, Gfn)]) -> Result<(), Errno> {
        let slot = Slot::take().map_err(short)?;
        // SAFETY: the slot is ours and empty; what appears there is accessed by atomics.
        unsafe { memory::acquire_resource_of(domain, RESOURCE_GRANT_TABLE, 0, &[slot.gfn()])? };
        // SAFETY: the page is there until it is removed below, after the last use.
        let table: &GrantFrame = unsafe { shared::at(slot.address()) };
        for (entry, gfn) in entries {
            let entry = &table[entry.0 as usize];
            entry.frame.store(gfn.0 as u32, Ordering::Relaxed);
            entry.domid.store(own.0, Ordering::Relaxed);
            entry.flags.store(ENTRY_PERMIT_ACCESS, Ordering::Release);
        }
        // SAFETY: the table was used for the last time.
        if let Err(errno) = unsafe { memory::remove_from_physmap(slot.gfn()) } {
            slot.lose();
            return Err(errno);
        }
        Ok(())
    }

    fn bind(&mut self, domain: DomId, port: Port) -> Result<Channel, Errno> {
        let port = event_channel::bind_interdomain(domain, port)?;
        Channel::new(port).map_err(|why| {
            let _ = event_channel::close(port);
            short(why)
        })
    }

    fn map(&mut self, domain: DomId, entry: GrantRef) -> Result<GrantedPage, Errno> {
        let slot = Slot::take().map_err(short)?;
        // SAFETY: the slot is ours and empty; what appears there is accessed as a `SharedPage`, by atomics.
        let handle = unsafe { grant_table::map(domain, entry, slot.gfn()) }.map_err(errno)?;
        let address = core::ptr::with_exposed_provenance::<SharedPage>(slot.address() as usize);
        // SAFETY: a whole page is mapped there until `GrantedPage` is dropped, which hands out no reference that outlives
        // it; a `SharedPage` is atomic words, of which any contents and any writers are fine.
        let page = unsafe { &*address };
        Ok(GrantedPage { handle, page, slot: Some(slot) })
    }

    fn print(&mut self, bytes: &[u8]) {
        // Nobody could be told of an error.
        let _ = console::write(bytes);
    }

    fn read_input(&mut self, buffer: &mut [u8]) -> usize {
        console::read(buffer).unwrap_or(0)
    }
}
