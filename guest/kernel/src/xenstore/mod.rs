//! XenStore: the client of `ebb-xenbus` for a kernel with threads.
//!
//! A thread of its own waits for the ring's event channel and moves bytes; whoever makes a request, or waits for a watch,
//! sleeps until it is woken. The connection is behind a plain spin lock: threads only, and none sleeps with it. A
//! connection that breaks stays so: every request says why.
//!
//! Without a store nothing here runs: the HVM parameters are 0, or refused.
#![allow(unsafe_code)] // The ring's page.

pub mod agent;

use crate::events::EventPort;
use crate::thread::{self, ThreadId};
use crate::{clock, page, paging, println};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::mem::take;
use ebb_guest_hypercall::shared::{self, EventPage};
use ebb_guest_hypercall::{Port, event_channel, hvm};
use ebb_xenbus::{Connection, Error, Event, Exchange, Request, Store};
use shared_abi::hvm::params::{STORE_EVTCHN, STORE_PFN};
use shared_abi::io::xs_wire::MessageType;
use shared_abi::xen::PAGE_SIZE;
use spin::{Mutex, Once};

/// How long a reply may take.
const PATIENCE: u64 = 300_000_000_000;
/// Events of one watch that wait; beyond, they become one for the watch's own path.
const MAX_WAITING: usize = 128;
/// The last gfn that the lower half of the address space reaches.
const MAX_GFN: u64 = (1 << 35) - 1;

static CLIENT: Once<&'static Client> = Once::new();

/// A page that is shared with another domain, as atomic words.
pub type RingPage = EventPage;

/// A connection to a XenStore server.
pub struct Client {
    state: Mutex<State>,
    port: EventPort,
}

struct State {
    connection: Connection<&'static RingPage>,
    /// By number, which is what the token says.
    watches: BTreeMap<u64, Queue>,
    next_watch: u64,
    /// Who waits for replies.
    waiters: Vec<ThreadId>,
    broken: bool,
}

/// The events of one watch.
struct Queue {
    path: String,
    paths: VecDeque<Vec<u8>>,
    waiter: Option<ThreadId>,
}

impl Queue {
    fn push(&mut self, path: Vec<u8>) {
        if self.paths.contains(&path) {
            return;
        }
        if self.paths.len() >= MAX_WAITING {
            self.paths.clear();
            self.paths.push_back(self.path.clone().into_bytes());
        } else {
            self.paths.push_back(path);
        }
    }
}

/// Maps a page that another domain shares with us, at its physical address. It must not be RAM of the memory map.
pub fn map_ring(gfn: u64) -> Result<&'static RingPage, &'static str> {
    let layout = page::layout();
    if layout.ram.contains(gfn) || (layout.growth.start..layout.growth.end).contains(&gfn) || gfn > MAX_GFN {
        return Err("a shared ring lies in RAM, or nowhere");
    }
    let address = gfn * PAGE_SIZE;
    // SAFETY: not memory that Rust knows, so nothing is mapped there; what appears is used as atomics only.
    unsafe { paging::map(address, address, PAGE_SIZE, paging::WRITE | paging::NO_EXECUTE)? };
    // SAFETY: mapped just now, for ever; atomic words are fine with any contents and writers.
    Ok(unsafe { shared::at(address) })
}

/// The page and the port that two HVM parameters name, if they do.
pub fn ring_of(pfn: u32, evtchn: u32) -> Option<(u64, Port)> {
    let parameter = |index| hvm::get_param(index).ok().filter(|value| *value != 0);
    let (gfn, port) = (parameter(pfn)?, parameter(evtchn)?);
    Some((gfn, Port(u32::try_from(port).ok()?)))
}

/// Connects to the store, if there is one.
pub fn start() -> Result<(), &'static str> {
    let Some((gfn, port)) = ring_of(STORE_PFN, STORE_EVTCHN) else { return Ok(()) };
    let client = Client::connect(map_ring(gfn)?, EventPort::new(port)?)?;
    CLIENT.call_once(|| client);
    Ok(())
}

/// The connection to the domain's store.
pub fn client() -> Option<&'static Client> {
    CLIENT.get().copied()
}

impl Client {
    /// Connects over a page and a port, for ever.
    pub fn connect(page: &'static RingPage, port: EventPort) -> Result<&'static Client, &'static str> {
        let state = State {
            connection: Connection::new(page),
            watches: BTreeMap::new(),
            next_watch: 1,
            waiters: Vec::new(),
            broken: false,
        };
        let client: &'static Client = Box::leak(Box::new(Client { state: Mutex::new(state), port }));
        // It runs for ever.
        let _ = thread::spawn("xenstore", None, || client.serve())?;
        Ok(client)
    }

    /// The operations.
    pub fn store(&self) -> Store<'_, Client> {
        Store::new(self)
    }

    /// The thread that waits for the server.
    fn serve(&self) {
        loop {
            let seen = self.port.count();
            self.turn();
            self.port.wait(seen + 1, u64::MAX);
        }
    }

    /// Moves bytes, tells the server, hands out events, wakes who waits.
    fn turn(&self) {
        let mut state = self.state.lock();
        let moved = state.connection.poll();
        while let Some(event) = state.connection.take_event() {
            state.hand_out(&event);
        }
        if state.connection.take_events_lost() {
            state.watches.values_mut().for_each(Queue::fire);
        }
        let mut woken = state.waiters.clone();
        woken.extend(state.watches.values().filter(|queue| !queue.paths.is_empty()).filter_map(|queue| queue.waiter));
        let complaint = moved.err().filter(|_| !core::mem::replace(&mut state.broken, moved.is_err()));
        drop(state);
        if moved == Ok(true) {
            // The port exists as long as the connection; an error would mean that the hypervisor lost it.
            let _ = event_channel::send(self.port.port());
        }
        if let Some(fault) = complaint {
            println!("xenstore: {}", Error::from(fault));
        }
        // The caller looks for itself.
        let this = thread::current();
        woken.into_iter().filter(|waiter| *waiter != this).for_each(thread::unpark);
    }

    /// Watches a path and all below it. The first event comes at once.
    pub fn watch(&'static self, path: &str) -> Result<Watch, Error> {
        let mut state = self.state.lock();
        let number = state.next_watch;
        state.next_watch += 1;
        state.watches.insert(number, Queue { path: path.into(), paths: VecDeque::new(), waiter: None });
        drop(state);
        let watch = Watch { client: self, number };
        // When it fails, the drop removes a watch that is not there.
        self.store().watch(path, &token(number))?;
        Ok(watch)
    }
}

fn token(number: u64) -> String {
    format!("ebb-{number}")
}

impl Queue {
    /// Something below the path may have changed.
    fn fire(&mut self) {
        self.push(self.path.clone().into_bytes());
    }
}

impl State {
    fn hand_out(&mut self, event: &Event) {
        let number = event.token.strip_prefix(b"ebb-").and_then(|text| core::str::from_utf8(text).ok()?.parse().ok());
        // An event of a watch that was removed meanwhile is of no interest.
        if let Some(queue) = number.and_then(|number: u64| self.watches.get_mut(&number)) {
            queue.push(event.path.clone());
        }
    }
}

impl Exchange for Client {
    fn exchange(&self, type_: MessageType, transaction: u32, parts: &[&[u8]]) -> Result<Vec<u8>, Error> {
        let deadline = clock::now().saturating_add(PATIENCE);
        let this = thread::current();
        let request = {
            let mut state = self.state.lock();
            let request = state.connection.submit(type_, transaction, parts)?;
            state.waiters.push(this);
            request
        };
        self.turn();
        loop {
            if let Some(reply) = self.reply(request, this, clock::now() >= deadline) {
                return reply;
            }
            thread::park_until(deadline);
        }
    }
}

impl Client {
    /// The reply, if it is there or nobody wants to wait any more.
    fn reply(&self, request: Request, waiter: ThreadId, give_up: bool) -> Option<Result<Vec<u8>, Error>> {
        let mut state = self.state.lock();
        let reply = match state.connection.take_reply(request) {
            None if give_up => {
                state.connection.forget(request);
                Some(Err(Error::TimedOut))
            }
            other => other,
        };
        if reply.is_some()
            && let Some(place) = state.waiters.iter().position(|other| *other == waiter)
        {
            state.waiters.swap_remove(place);
        }
        reply
    }
}

/// A watch; removed when dropped.
pub struct Watch {
    client: &'static Client,
    number: u64,
}

impl Watch {
    /// What changed next; `None` when system time `deadline` comes before. One thread at a time.
    pub fn next(&self, deadline: u64) -> Option<Vec<u8>> {
        let this = thread::current();
        loop {
            let mut state = self.client.state.lock();
            let queue = state.watches.get_mut(&self.number)?;
            let path = queue.paths.pop_front();
            queue.waiter = if path.is_none() { Some(this) } else { None };
            drop(state);
            if path.is_some() || clock::now() >= deadline {
                return path;
            }
            thread::park_until(deadline);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let queue = self.client.state.lock().watches.remove(&self.number);
        if let Some(mut queue) = queue {
            // A watch that was never set, or that a reset removed, is not there: that is fine.
            let _ = self.client.store().unwatch(&take(&mut queue.path), &token(self.number));
        }
    }
}
