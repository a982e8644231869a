//! A domain's ring: moves bytes between its page and the [`Server`].
//!
//! The holder keeps a [`Connection`] for each introduced domain, calls [`Connection::service`] when the domain's event
//! channel fires and when [`Server::take_ready`] names the domain, and sends an event when told to. Whatever the domain
//! does to its page, only its own connection suffers: a broken one is marked in the page (`error`), its watches and
//! transactions are dropped, and it stays silent until the domain asks for a new one (`connection`).
//!
//! Specification: `io/xs_wire.h`, `docs/misc/xenstore-ring.txt`.

use core::mem::offset_of;

use ebb_ring::{BadIndex, Consumer, Layout, Page, Producer};
use shared_abi::io::xs_wire::{self, DomainInterface};
use shared_abi::xen::DomId;

use crate::client::Broken;
use crate::server::Server;

const SERVER_FEATURES: usize = offset_of!(DomainInterface, server_features);
const CONNECTION: usize = offset_of!(DomainInterface, connection);
const ERROR: usize = offset_of!(DomainInterface, error);

/// Bytes that are moved at once.
const CHUNK: usize = 256;

/// Why a connection was ended (`XENSTORE_ERROR_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `XENSTORE_ERROR_COMM`: the event channel does not work.
    Communication,
    /// `XENSTORE_ERROR_RINGIDX`: the domain's index claims more than the ring holds.
    Index,
    /// `XENSTORE_ERROR_PROTO`: a payload longer than 4096 bytes.
    Protocol,
    /// The server does not know the domain; nothing is written to its page.
    Unknown,
}

impl Fault {
    fn code(self) -> u32 {
        match self {
            Fault::Communication => xs_wire::ERROR_COMM,
            Fault::Index => xs_wire::ERROR_RINGIDX,
            Fault::Protocol => xs_wire::ERROR_PROTO,
            Fault::Unknown => xs_wire::ERROR_NONE,
        }
    }
}

impl From<BadIndex> for Fault {
    fn from(_: BadIndex) -> Fault {
        Fault::Index
    }
}

impl From<Broken> for Fault {
    fn from(broken: Broken) -> Fault {
        match broken {
            Broken::Protocol => Fault::Protocol,
            Broken::Unknown => Fault::Unknown,
        }
    }
}

/// What came of a [`Connection::service`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The page was changed: send the domain an event.
    pub notify: bool,
    /// The budget ended it: call again, after the other domains' turn.
    pub more: bool,
}

/// One domain's connection over its page.
#[derive(Debug)]
pub struct Connection<P> {
    domain: DomId,
    page: P,
    requests: Consumer,
    replies: Producer,
    fault: Option<Fault>,
}

impl<P: Page> Connection<P> {
    /// Connects an introduced domain's page: says what the server can do and that the connection stands, and goes on
    /// at the indexes found. Afterwards, call [`service`](Self::service) and send the domain an event.
    pub fn new(domain: DomId, page: P) -> Connection<P> {
        page.store(SERVER_FEATURES, xs_wire::SERVER_FEATURE_RECONNECTION | xs_wire::SERVER_FEATURE_ERROR);
        page.store(ERROR, xs_wire::ERROR_NONE);
        // A domain that waits for its ring to be reset is served so in the first `service`.
        if page.load(CONNECTION) != xs_wire::RECONNECT {
            page.store(CONNECTION, xs_wire::CONNECTED);
        }
        let requests = Consumer::attach(Layout::STORE_REQUESTS, &page);
        let replies = Producer::attach(Layout::STORE_REPLIES, &page);
        Connection { domain, page, requests, replies, fault: None }
    }

    /// Whose connection this is.
    pub fn domain(&self) -> DomId {
        self.domain
    }

    /// Why it was ended, if it was.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The page, for who unmaps it.
    pub fn into_page(self) -> P {
        self.page
    }

    /// Moves replies and events to the domain and requests from it, in at most `budget` pieces (of one request and of
    /// 256 bytes at most). Bounded, whatever the domain does meanwhile.
    pub fn service(&mut self, server: &mut Server, budget: usize) -> Progress {
        let mut progress = Progress::default();
        if self.page.load(CONNECTION) == xs_wire::RECONNECT {
            self.reconnect(server);
            progress.notify = true;
        }
        if self.fault.is_some() {
            return progress;
        }
        if let Err(fault) = self.transfer(server, budget, &mut progress) {
            self.end(server, fault);
            progress = Progress { notify: true, more: false };
        }
        progress
    }

    /// Ends the connection: for a holder whose event channel to the domain fails. Send an event, if one still can.
    pub fn end(&mut self, server: &mut Server, fault: Fault) {
        // It has no watches any more, so nothing gathers for it.
        let _ = server.reconnect(self.domain);
        self.page.store(ERROR, fault.code());
        self.fault = Some(fault);
    }

    /// The domain asked for a ring as new.
    fn reconnect(&mut self, server: &mut Server) {
        let known = server.reconnect(self.domain).is_ok();
        Layout::STORE_REQUESTS.clear(&self.page);
        Layout::STORE_REPLIES.clear(&self.page);
        // Whatever the domain writes there meanwhile: both ends begin at 0.
        self.requests = Consumer::at(Layout::STORE_REQUESTS, 0);
        self.replies = Producer::at(Layout::STORE_REPLIES, 0);
        self.fault = (!known).then_some(Fault::Unknown);
        self.page.store(ERROR, xs_wire::ERROR_NONE);
        self.page.store(CONNECTION, xs_wire::CONNECTED);
    }

    fn transfer(&mut self, server: &mut Server, budget: usize, progress: &mut Progress) -> Result<(), Fault> {
        let mut buffer = [0; CHUNK];
        for pieces in 0.. {
            progress.notify |= self.send(server)?;
            let there = self.requests.peek(&self.page, &mut buffer)?;
            if there == 0 || !server.accepts_input(self.domain) {
                return if server.is_introduced(self.domain) { Ok(()) } else { Err(Fault::Unknown) };
            }
            if pieces == budget {
                progress.more = true;
                break;
            }
            let used = server.input(self.domain, &buffer[..there])?;
            self.requests.advance(&self.page, used);
            progress.notify |= used > 0;
        }
        Ok(())
    }

    /// Moves replies and events while there is room; whether there were any.
    fn send(&mut self, server: &mut Server) -> Result<bool, Fault> {
        let mut any = false;
        let mut buffer = [0; CHUNK];
        loop {
            let room = self.replies.room(&self.page)?.min(CHUNK);
            let length = server.output(self.domain, &mut buffer[..room]);
            if length == 0 {
                return Ok(any);
            }
            any = true;
            let mut rest = &buffer[..length];
            while !rest.is_empty() {
                // There was room. A domain that takes it back by changing its index is no longer to be understood.
                let written = self.replies.write(&self.page, rest)?;
                if written == 0 {
                    return Err(Fault::Index);
                }
                rest = &rest[written..];
            }
        }
    }
}
