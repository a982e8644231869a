//! Allocating, binding, closing and moving ports; reset. Everything here changes bindings, under the EVENT lock of each
//! domain concerned, after the whole request has been checked.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use shared_abi::event_channel::{
    FIFO_NR_CHANNELS, FIFO_PRIORITY_DEFAULT, FIFO_PRIORITY_MIN, STATUS_CLOSED, STATUS_INTERDOMAIN, STATUS_IPI,
    STATUS_UNBOUND, STATUS_VIRQ, Status,
};
use shared_abi::xen::{DomId, Errno, Port, VcpuId, Virq};

use super::port::{Binding, PortEntry};
use super::{MAX_PORTS, MAX_PORTS_PRIVILEGED, deliver, fifo, pages, two_level};
use crate::domain::Domain;
use crate::hypercall::Call;
use crate::hypervisor::Hypervisor;
use crate::locks::{MutexGuard, rank};
use crate::machine::Machine;

/// What is known about a domain's ports besides the ports; under its EVENT lock.
#[derive(Debug)]
pub struct Book {
    /// Ports bound now.
    pub active: u32,
    /// No free port is below this one.
    first_free: u32,
    /// Ports looked at so far by a reset under way; 0: none is.
    reset_next: u32,
    /// No bound port is below this one, once the domain is being torn down.
    close_next: u32,
    /// The domain is being torn down: no more bindings.
    pub closed: bool,
}

impl Book {
    /// Port 0 is taken, nothing else.
    pub const fn new() -> Self {
        Self { active: 0, first_free: 1, reset_next: 0, close_next: 1, closed: false }
    }
}

impl Default for Book {
    fn default() -> Self {
        Self::new()
    }
}

type First<'a> = MutexGuard<'a, Book, { rank::EVENT }>;
type Second<'a> = MutexGuard<'a, Book, { rank::EVENT_SECOND }>;

/// The EVENT locks of two domains, taken in order of their ids.
struct Pair<'a> {
    outer: First<'a>,
    inner: Option<Second<'a>>,
    /// The first argument's book is the outer one.
    first_is_outer: bool,
}

impl<'a> Pair<'a> {
    fn lock<M: Machine>(one: &'a Domain<M>, two: &'a Domain<M>) -> Self {
        const SECOND: u8 = rank::EVENT_SECOND;
        let (one_book, two_book) = (&one.events.book, &two.events.book);
        if one.id == two.id {
            return Self { outer: one_book.lock(), inner: None, first_is_outer: true };
        }
        let first_is_outer = one.id < two.id;
        let (outer, inner) = if first_is_outer { (one_book, two_book) } else { (two_book, one_book) };
        let outer = outer.lock();
        let inner = inner.lock_as::<SECOND>();
        Self { outer, inner: Some(inner), first_is_outer }
    }

    /// The book of the first domain.
    fn first(&mut self) -> &mut Book {
        match &mut self.inner {
            Some(inner) if !self.first_is_outer => inner,
            _ => &mut self.outer,
        }
    }

    /// The book of the second domain (of the only one, when both are the same).
    fn second(&mut self) -> &mut Book {
        match &mut self.inner {
            Some(inner) if self.first_is_outer => inner,
            _ => &mut self.outer,
        }
    }
}

/// The number from which on the domain has no ports.
fn port_limit<M: Machine>(domain: &Domain<M>) -> u32 {
    let abi = if domain.events.uses_fifo() { FIFO_NR_CHANNELS } else { two_level::limit(&domain.events) };
    abi.min(if domain.is_privileged() { MAX_PORTS_PRIVILEGED } else { MAX_PORTS })
}

/// The lowest free port, not yet bound.
fn free_port<'a, M: Machine>(
    hv: &Hypervisor<M>,
    domain: &'a Domain<M>,
    book: &mut Book,
) -> Result<(Port, &'a PortEntry), Errno> {
    if book.closed {
        return Err(Errno::EINVAL);
    }
    let mut all_bound = true;
    for number in book.first_free..port_limit(domain) {
        let port = Port(number);
        let entry = domain.events.ports.get_or_create(port)?;
        if entry.load().binding() != Binding::Free {
            continue;
        }
        if all_bound {
            book.first_free = number;
        }
        // A closed port may still be on a queue; it is free when the guest has taken it off.
        if !domain.events.uses_fifo() || !fifo::is_linked(hv, domain, port) {
            return Ok((port, entry));
        }
        all_bound = false;
    }
    Err(Errno::ENOSPC)
}

/// Binds a free port.
fn occupy(book: &mut Book, entry: &PortEntry, binding: Binding, vcpu: VcpuId) {
    book.active += 1;
    entry.priority.store(FIFO_PRIORITY_DEFAULT as u8, Ordering::Relaxed);
    entry.store(binding, vcpu);
}

/// Frees a port, and withdraws its pending event so that it starts clean when it is bound again.
fn vacate<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, book: &mut Book, port: Port, entry: &PortEntry) {
    entry.store(Binding::Free, VcpuId(0));
    entry.saved_pending.store(false, Ordering::SeqCst);
    if domain.events.uses_fifo() {
        fifo::clear_pending(hv, domain, port);
    } else {
        two_level::clear_pending(hv, domain, port);
    }
    book.active -= 1;
    book.first_free = book.first_free.min(port.0);
}

/// A port for `remote` to bind.
pub(super) fn alloc_unbound<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, remote: DomId) -> Result<Port, Errno> {
    let mut book = domain.events.book.lock();
    let (port, entry) = free_port(hv, domain, &mut book)?;
    occupy(&mut book, entry, Binding::Unbound(remote), VcpuId(0));
    Ok(port)
}

/// Connects a new port of `local` to `remote_port`, which `remote` must have offered to it.
pub(super) fn bind_interdomain<M: Machine>(
    hv: &Hypervisor<M>,
    local: &Arc<Domain<M>>,
    remote: &Arc<Domain<M>>,
    remote_port: Port,
) -> Result<Port, Errno> {
    let mut books = Pair::lock(local, remote);
    let (port, entry) = free_port(hv, local, books.first())?;
    let there = remote.events.ports.get(remote_port).ok_or(Errno::EINVAL)?;
    if books.second().closed || there.load().binding() != Binding::Unbound(local.id) {
        return Err(Errno::EINVAL);
    }
    there.store(Binding::Interdomain(local.id, port), there.load().vcpu());
    occupy(books.first(), entry, Binding::Interdomain(remote.id, remote_port), VcpuId(0));
    drop(books);
    // The remote may have sent while nobody listened.
    deliver::raise(hv, local, port, entry, VcpuId(0));
    Ok(port)
}

/// Binds a virtual interrupt.
pub(super) fn bind_virq<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain<M>,
    virq: Virq,
    vcpu_id: VcpuId,
) -> Result<Port, Errno> {
    if virq.0 >= Virq::COUNT || (!virq.is_per_vcpu() && vcpu_id.0 != 0) {
        return Err(Errno::EINVAL);
    }
    let vcpu = domain.vcpus.get(vcpu_id.index()).ok_or(Errno::ENOENT)?;
    let slot = &vcpu.events.virqs[virq.index()];
    let mut book = domain.events.book.lock();
    if slot.load(Ordering::SeqCst) != 0 {
        return Err(Errno::EEXIST);
    }
    let (port, entry) = free_port(hv, domain, &mut book)?;
    occupy(&mut book, entry, Binding::Virq(virq), vcpu_id);
    slot.store(port.0, Ordering::SeqCst);
    Ok(port)
}

/// A port for signals to `vcpu` from the domain itself.
pub(super) fn bind_ipi<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, vcpu: VcpuId) -> Result<Port, Errno> {
    if domain.vcpus.get(vcpu.index()).is_none() {
        return Err(Errno::ENOENT);
    }
    let mut book = domain.events.book.lock();
    let (port, entry) = free_port(hv, domain, &mut book)?;
    occupy(&mut book, entry, Binding::Ipi, vcpu);
    Ok(port)
}

/// Closes a port; an inter-domain port's other end waits for the domain again.
pub(super) fn close<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, port: Port) -> Result<(), Errno> {
    let entry = domain.events.ports.get(port).ok_or(Errno::EINVAL)?;
    loop {
        // Which locks are needed depends on the binding, which may change until they are held. A domain that is
        // closing takes no new bindings, so even against hostile neighbours this ends.
        let seen = entry.load().binding();
        let remote = match seen {
            Binding::Free => return Err(Errno::EINVAL),
            Binding::Interdomain(remote, _) if remote != domain.id => hv.find_domain(remote),
            _ => None,
        };
        let done = match &remote {
            Some(remote) => {
                let mut books = Pair::lock(domain, remote);
                close_locked(hv, domain, Some(remote), books.first(), port, entry, seen)
            }
            None => {
                let mut book = domain.events.book.lock();
                close_locked(hv, domain, None, &mut book, port, entry, seen)
            }
        };
        if done {
            return Ok(());
        }
    }
}

/// Closes a port if it is still bound as `seen`; false if not. `remote` is another domain the binding names.
fn close_locked<M: Machine>(
    hv: &Hypervisor<M>,
    domain: &Domain<M>,
    remote: Option<&Domain<M>>,
    book: &mut Book,
    port: Port,
    entry: &PortEntry,
    seen: Binding,
) -> bool {
    let now = entry.load();
    if now.binding() != seen {
        return false;
    }
    match seen {
        Binding::Interdomain(remote_id, remote_port) => {
            let remote = if remote_id == domain.id { Some(domain) } else { remote };
            let there = remote.and_then(|remote| remote.events.ports.get(remote_port));
            debug_assert!(
                there.is_none_or(|there| { there.load().binding() == Binding::Interdomain(domain.id, port) })
            );
            if let Some(there) = there {
                there.store(Binding::Unbound(domain.id), there.load().vcpu());
            }
        }
        Binding::Virq(virq) => {
            let holder = if virq.is_per_vcpu() { now.vcpu() } else { VcpuId(0) };
            domain.vcpus[holder.index()].events.virqs[virq.index()].store(0, Ordering::SeqCst);
        }
        Binding::Free | Binding::Unbound(_) | Binding::Ipi => {}
    }
    vacate(hv, domain, book, port, entry);
    true
}

/// Chooses the vCPU a port signals.
pub(super) fn bind_vcpu<M: Machine>(domain: &Domain<M>, port: Port, vcpu: VcpuId) -> Result<(), Errno> {
    if domain.vcpus.get(vcpu.index()).is_none() {
        return Err(Errno::ENOENT);
    }
    let entry = domain.events.ports.get(port).ok_or(Errno::EINVAL)?;
    let _book = domain.events.book.lock();
    let binding = entry.load().binding();
    let movable = match binding {
        Binding::Unbound(_) | Binding::Interdomain(..) => true,
        Binding::Virq(virq) => !virq.is_per_vcpu(),
        Binding::Free | Binding::Ipi => false,
    };
    if !movable {
        return Err(Errno::EINVAL);
    }
    entry.store(binding, vcpu);
    Ok(())
}

/// Fills in what `EVTCHNOP_status` answers about a port.
pub(super) fn status<M: Machine>(domain: &Domain<M>, answer: &mut Status) -> Result<(), Errno> {
    let entry = domain.events.ports.get(answer.port).ok_or(Errno::EINVAL)?;
    let now = entry.load();
    answer.vcpu = now.vcpu();
    answer.status = match now.binding() {
        Binding::Free => STATUS_CLOSED,
        Binding::Unbound(remote) => {
            answer.set_unbound(remote);
            STATUS_UNBOUND
        }
        Binding::Interdomain(remote, port) => {
            answer.set_interdomain(remote, port);
            STATUS_INTERDOMAIN
        }
        Binding::Virq(virq) => {
            answer.set_virq(virq);
            STATUS_VIRQ
        }
        Binding::Ipi => STATUS_IPI,
    };
    Ok(())
}

/// Chooses the queue of a port's next event.
pub(super) fn set_priority<M: Machine>(domain: &Domain<M>, port: Port, priority: u32) -> Result<(), Errno> {
    let entry = domain.events.ports.get(port).ok_or(Errno::EINVAL)?;
    if !domain.events.uses_fifo() {
        return Err(Errno::ENOSYS);
    }
    if priority > FIFO_PRIORITY_MIN {
        return Err(Errno::EINVAL);
    }
    entry.priority.store(priority as u8, Ordering::Relaxed);
    Ok(())
}

/// Ports closed between two looks at whether to give way.
const RESET_BATCH: u32 = 64;

/// Closes all ports of the calling domain and goes back to the 2-level ABI, in steps: `Ok(false)` means that there is
/// more to do, by calling again with `resuming`.
///
/// # Errors
/// `EBUSY` when a reset is under way already (or, resuming, is not), `EAGAIN` when ports were bound meanwhile.
pub fn reset<M: Machine>(call: &Call<'_, M>, domain: &Domain<M>, resuming: bool) -> Result<bool, Errno> {
    let events = &domain.events;
    let mut next = {
        let mut book = events.book.lock();
        match (book.reset_next, resuming) {
            (0, false) => book.reset_next = 1,
            (1.., true) => {}
            _ => return Err(Errno::EBUSY),
        }
        book.reset_next
    };
    while events.book.lock().active != 0 && events.ports.get(Port(next)).is_some() {
        // A port that is not bound has nothing to be closed.
        let _ = close(call.hv, domain, Port(next));
        next += 1;
        if next % RESET_BATCH == 0 && call.should_preempt() {
            events.book.lock().reset_next = next;
            return Ok(false);
        }
    }
    let mut book = events.book.lock();
    book.reset_next = 0;
    if book.active != 0 {
        return Err(Errno::EAGAIN);
    }
    pages::back_to_two_level(call.hv, domain, book);
    Ok(true)
}

/// Closes at most `budget` ports of a domain at its end, for ever; true when all are closed and the pages pinned for
/// events are given back. Its vCPUs are off all CPUs and stay there, and one CPU at a time calls this.
pub fn close_some<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>, budget: u32) -> bool {
    let events = &domain.events;
    let mut next = {
        let mut book = events.book.lock();
        book.closed = true;
        book.close_next
    };
    for _ in 0..budget {
        if events.book.lock().active == 0 || events.ports.get(Port(next)).is_none() {
            pages::detach(hv, domain);
            return true;
        }
        // A port that is not bound has nothing to be closed.
        let _ = close(hv, domain, Port(next));
        next += 1;
    }
    events.book.lock().close_next = next;
    false
}

/// Closes all ports at once: see [`close_some`].
pub fn close_all<M: Machine>(hv: &Hypervisor<M>, domain: &Domain<M>) {
    while !close_some(hv, domain, u32::MAX) {}
}
