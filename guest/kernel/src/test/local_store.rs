//! A XenStore server in this very domain, for tests where the machine has none: the server of `ebb-xenstore` in a thread,
//! over a page and a pair of ports of our own. Bytes, events and threads are as with a real one.
#![allow(unsafe_code)] // The ring's page.

use super::Stop;
use crate::events::EventPort;
use crate::xenstore::{self, Client, RingPage};
use crate::{balloon, page, thread};
use alloc::format;
use ebb_guest_hypercall::{DomId, event_channel, shared};
use ebb_xenstore::ring::Connection;
use ebb_xenstore::{Access, Permission, Quotas, Server};
use shared_abi::xen::PAGE_SIZE;
use spin::Mutex;

/// The number of this domain in its own store.
const SELF: DomId = DomId(7);
/// Who owns the rest.
const CONTROL: DomId = DomId(0);

struct Local {
    server: Server,
    connection: Connection<&'static RingPage>,
}

static LOCAL: Mutex<Option<Local>> = Mutex::new(None);
static CLIENT: Mutex<Option<&'static Client>> = Mutex::new(None);
static PORT: spin::Once<EventPort> = spin::Once::new();

/// The store: the domain's own, or a local one.
pub fn client() -> Result<&'static Client, Stop> {
    if let Some(client) = xenstore::client() {
        return Ok(client);
    }
    local()
}

/// The local one.
pub fn local() -> Result<&'static Client, Stop> {
    let mut place = CLIENT.lock();
    if let Some(client) = *place {
        return Ok(client);
    }
    let page = page::take_zeroed().ok_or("no page for a ring")?;
    // SAFETY: the page was just taken and is a ring for ever; atomic words.
    let ring: &'static RingPage = unsafe { shared::at(page * PAGE_SIZE) };
    let theirs = EventPort::new(event_channel::alloc_unbound(DomId::SELF)?)?;
    let ours = EventPort::new(event_channel::bind_interdomain(DomId::SELF, theirs.port())?)?;
    let mut server = Server::new(Quotas::default(), CONTROL);
    let static_max = 4 * (balloon::start().map(|()| balloon::stats().current)?);
    build(&mut server, static_max).map_err(|errno| format!("a tree cannot be built: {errno}"))?;
    *LOCAL.lock() = Some(Local { server, connection: Connection::new(SELF, ring) });
    PORT.call_once(|| theirs);
    // It runs for ever.
    let _ = thread::spawn("store", None, serve)?;
    let client = Client::connect(ring, ours)?;
    *place = Some(client);
    Ok(client)
}

/// The domain's home as a toolstack would make it.
fn build(server: &mut Server, static_max: u64) -> Result<(), ebb_guest_hypercall::Errno> {
    let read = Permission::readable_by(CONTROL, SELF);
    let own = [Permission::new(SELF, Access::NONE)];
    for (name, permissions) in [("", &read[..]), ("/memory", &read), ("/control", &own), ("/data", &own)] {
        server.write_for(format!("/local/domain/7{name}").as_bytes(), b"", permissions)?;
    }
    for name in ["target", "static-max"] {
        let path = format!("/local/domain/7/memory/{name}");
        server.write_for(path.as_bytes(), format!("{static_max}").as_bytes(), &read)?;
    }
    server.introduce(SELF, false)
}

fn serve() {
    let Some(port) = PORT.get() else { return };
    loop {
        let seen = port.count();
        while turn() {
            thread::yield_now();
        }
        port.wait(seen + 1, u64::MAX);
    }
}

/// Serves the domain once; whether there is more to do.
fn turn() -> bool {
    let mut local = LOCAL.lock();
    let Some(Local { server, connection }) = &mut *local else { return false };
    let progress = connection.service(server, 8);
    while server.take_ready().is_some() {}
    drop(local);
    if progress.notify
        && let Some(port) = PORT.get()
    {
        // The port exists as long as the kernel.
        let _ = event_channel::send(port.port());
    }
    progress.more
}

/// Does what a control domain does with the local store.
pub fn control<R>(work: impl FnOnce(&mut Server) -> R) -> Result<R, Stop> {
    let result = LOCAL.lock().as_mut().map(|local| work(&mut local.server)).ok_or("there is no local store")?;
    while turn() {}
    Ok(result)
}
