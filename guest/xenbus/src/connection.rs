//! The protocol over a page: requests, replies by number, events; nothing waits.

use core::mem::{offset_of, take};

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use ebb_ring::{BadIndex, Consumer, Layout, Page, Producer};
use shared_abi::io::xs_wire::{self, DomainInterface, Header, MessageType, PAYLOAD_MAX};

use crate::error::{self, Error, Fault};

const HEADER: usize = size_of::<Header>();
const SERVER_FEATURES: usize = offset_of!(DomainInterface, server_features);
const CONNECTION: usize = offset_of!(DomainInterface, connection);
const ERROR: usize = offset_of!(DomainInterface, error);

/// Events that wait for [`Connection::take_event`]; what does not fit is lost, and known to be.
pub const MAX_EVENTS: usize = 256;

/// A watch has fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What changed; relative if the watch is.
    pub path: Vec<u8>,
    /// The watch's token.
    pub token: Vec<u8>,
}

/// A request that waits for its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request(u32);

/// What became of a request.
#[derive(Debug)]
enum Pending {
    /// Its type, which the reply must have.
    Waits(MessageType),
    Done(Result<Vec<u8>, Error>),
}

/// A connection.
#[derive(Debug)]
pub struct Connection<P> {
    page: P,
    requests: Producer,
    replies: Consumer,
    /// The server has yet to answer a request for a new connection.
    resetting: bool,
    fault: Option<Fault>,
    next: u32,
    pending: BTreeMap<Request, Pending>,
    /// Bytes of requests that found no room in the ring yet.
    unsent: VecDeque<u8>,
    arriving: Vec<u8>,
    events: VecDeque<Event>,
    events_lost: bool,
}

impl<P: Page> Connection<P> {
    /// Connects over a page whose server may be there already. Replies to an earlier user of the page are dropped; its
    /// watches, if any, go with RESET_WATCHES ([`Store::reset_watches`](crate::Store::reset_watches)).
    pub fn new(page: P) -> Connection<P> {
        let resetting = page.load(CONNECTION) == xs_wire::RECONNECT;
        let requests = Producer::attach(Layout::STORE_REQUESTS, &page);
        let mut replies = Consumer::attach(Layout::STORE_REPLIES, &page);
        if !resetting && let Ok(stale) = replies.available(&page) {
            replies.advance(&page, stale);
        }
        Connection {
            page,
            requests,
            replies,
            resetting,
            fault: None,
            next: 1,
            pending: BTreeMap::new(),
            unsent: VecDeque::new(),
            arriving: Vec::new(),
            events: VecDeque::new(),
            events_lost: false,
        }
    }

    /// Queues a request whose payload is the parts in a row; it goes out with the next [`poll`](Self::poll). Whoever
    /// queues it must [`take_reply`](Self::take_reply) or [`forget`](Self::forget) it.
    pub fn submit(&mut self, type_: MessageType, transaction: u32, parts: &[&[u8]]) -> Result<Request, Error> {
        if let Some(fault) = self.fault {
            return Err(fault.into());
        }
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > PAYLOAD_MAX as usize {
            return Err(Error::TooLong);
        }
        let request = self.new_number();
        for word in [type_.0, request.0, transaction, length as u32] {
            self.unsent.extend(word.to_le_bytes());
        }
        parts.iter().for_each(|part| self.unsent.extend(*part));
        self.pending.insert(request, Pending::Waits(type_));
        Ok(request)
    }

    /// A number that no request has which waits; never 0, which events carry.
    fn new_number(&mut self) -> Request {
        loop {
            let request = Request(self.next);
            self.next = self.next.wrapping_add(1).max(1);
            if !self.pending.contains_key(&request) {
                return request;
            }
        }
    }

    /// Moves what can be moved, in both directions. Whether the page was changed: the server is to be sent an event.
    /// Once this fails, so does every request until [`reconnect`](Self::reconnect).
    pub fn poll(&mut self) -> Result<bool, Fault> {
        if self.resetting && !self.finish_reset() {
            return Ok(false);
        }
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let moved = self.transfer();
        let (features, error) = (self.page.load(SERVER_FEATURES), self.page.load(ERROR));
        let result = match moved {
            _ if features & xs_wire::SERVER_FEATURE_ERROR != 0 && error != xs_wire::ERROR_NONE => {
                Err(Fault::Server(error))
            }
            other => other,
        };
        if let Err(fault) = result {
            self.fault = Some(fault);
            self.fail_all(fault.into());
        }
        result
    }

    /// The reply's payload, or what went wrong; `None` while there is none.
    pub fn take_reply(&mut self, request: Request) -> Option<Result<Vec<u8>, Error>> {
        match self.pending.get(&request) {
            Some(Pending::Waits(_)) => None,
            Some(Pending::Done(_)) => match self.pending.remove(&request) {
                Some(Pending::Done(result)) => Some(result),
                _ => None,
            },
            None => Some(Err(Error::Reset)),
        }
    }

    /// Nobody waits for this reply any more. The request itself is still sent.
    pub fn forget(&mut self, request: Request) {
        self.pending.remove(&request);
    }

    /// The oldest event.
    pub fn take_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether there is an event, or some were lost.
    pub fn has_event(&self) -> bool {
        !self.events.is_empty() || self.events_lost
    }

    /// Whether events were lost since this was last asked, for lack of room or by a reset: who watches has to look
    /// again at everything.
    pub fn take_events_lost(&mut self) -> bool {
        take(&mut self.events_lost)
    }

    /// Whether the server offers to reset the connection.
    pub fn can_reconnect(&self) -> bool {
        self.page.load(SERVER_FEATURES) & xs_wire::SERVER_FEATURE_RECONNECTION != 0
    }

    /// Asks the server for the connection as new: without watches, transactions, requests under way. False when it
    /// does not offer that. Send it an event, and [`poll`](Self::poll) at its answer; until then requests queue up.
    pub fn reconnect(&mut self) -> bool {
        if !self.can_reconnect() {
            return false;
        }
        self.resetting = true;
        self.fault = None;
        self.unsent.clear();
        self.arriving.clear();
        self.events.clear();
        self.events_lost = true;
        self.fail_all(Error::Reset);
        self.page.store(CONNECTION, xs_wire::RECONNECT);
        true
    }

    /// Whether the server has answered a request for a new connection.
    fn finish_reset(&mut self) -> bool {
        if self.page.load(CONNECTION) == xs_wire::RECONNECT {
            return false;
        }
        self.resetting = false;
        self.requests = Producer::attach(Layout::STORE_REQUESTS, &self.page);
        self.replies = Consumer::attach(Layout::STORE_REPLIES, &self.page);
        true
    }

    fn fail_all(&mut self, error: Error) {
        for pending in self.pending.values_mut() {
            if let Pending::Waits(_) = pending {
                *pending = Pending::Done(Err(error));
            }
        }
    }

    fn transfer(&mut self) -> Result<bool, Fault> {
        let index = |BadIndex| Fault::Index;
        let mut changed = false;
        loop {
            let (first, _) = self.unsent.as_slices();
            if first.is_empty() {
                break;
            }
            let sent = self.requests.write(&self.page, first).map_err(index)?;
            if sent == 0 {
                break;
            }
            changed = true;
            self.unsent.drain(..sent);
        }
        let mut buffer = [0; 256];
        // A server that goes on writing is heard again at the next poll.
        for _ in 0..2 * xs_wire::RING_SIZE as usize / buffer.len() {
            let got = self.replies.read(&self.page, &mut buffer).map_err(index)?;
            if got == 0 {
                break;
            }
            changed = true;
            self.receive(&buffer[..got])?;
        }
        Ok(changed)
    }

    /// Takes bytes from the server, in any pieces.
    fn receive(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while !bytes.is_empty() {
            let wanted = match self.arriving.first_chunk() {
                Some(header) => HEADER + parse_header(header).len as usize,
                None => HEADER,
            };
            let (piece, rest) = bytes.split_at(bytes.len().min(wanted - self.arriving.len()));
            self.arriving.extend_from_slice(piece);
            bytes = rest;
            let Some(header) = self.arriving.first_chunk().map(parse_header) else { continue };
            if header.len > PAYLOAD_MAX {
                return Err(Fault::Protocol);
            }
            if self.arriving.len() == HEADER + header.len as usize {
                let message = take(&mut self.arriving);
                self.dispatch(&header, &message[HEADER..]);
            }
        }
        Ok(())
    }

    fn dispatch(&mut self, header: &Header, payload: &[u8]) {
        if header.type_ == MessageType::WATCH_EVENT {
            self.note_event(payload);
            return;
        }
        let Some(pending) = self.pending.get_mut(&Request(header.req_id)) else { return };
        let Pending::Waits(type_) = *pending else { return };
        *pending = Pending::Done(match header.type_ {
            MessageType::ERROR => Err(Error::Refused(error::parse(payload))),
            same if same == type_ => Ok(payload.to_vec()),
            _ => Err(Error::Malformed),
        });
    }

    fn note_event(&mut self, payload: &[u8]) {
        let mut strings = payload.split(|byte| *byte == 0);
        let (Some(path), Some(token)) = (strings.next(), strings.next()) else { return };
        let event = Event { path: path.to_vec(), token: token.to_vec() };
        if self.events.contains(&event) {
            return;
        }
        if self.events.len() < MAX_EVENTS {
            self.events.push_back(event);
        } else {
            self.events_lost = true;
        }
    }
}

/// A header from its 16 bytes.
fn parse_header(bytes: &[u8; HEADER]) -> Header {
    let word = |index: usize| {
        let bytes = &bytes[4 * index..4 * index + 4];
        bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
    };
    Header { type_: MessageType(word(0)), req_id: word(1), tx_id: word(2), len: word(3) }
}
