//! One connection: the request that is arriving, the messages that wait, watches and open transactions.
//!
//! Bounds: the arriving request has at most 4096 bytes; as many replies wait as the quota says, because no further
//! request is taken then; events wait as long as their number and memory are within the quotas. An event beyond that
//! only marks its watch, and the watch fires with its own path once there is room.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use shared_abi::Errno;
use shared_abi::io::xs_wire::{ERRORS, Header, MessageType, PAYLOAD_MAX};
use shared_abi::xen::DomId;

use crate::path::Path;
use crate::permissions::Caller;
use crate::quotas::Quotas;
use crate::transaction::Transaction;

/// Bytes of a message's header.
const HEADER: usize = size_of::<Header>();
/// Bytes charged for a watch besides path and token.
const WATCH_OVERHEAD: usize = 192;
/// Bytes charged for a waiting event besides its payload.
const EVENT_OVERHEAD: usize = 128;

/// A request: its header and payload.
pub(crate) type Request = (Header, Vec<u8>);

/// A watch's token.
pub(crate) type Token = Arc<[u8]>;

/// Why nothing can be taken from a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The domain was not introduced, or was released.
    Unknown,
    /// It sent a payload longer than 4096 bytes (`XENSTORE_ERROR_PROTO`); only [`Server::reconnect`](crate::Server::reconnect) helps.
    Protocol,
}

/// A watch, besides its path and token.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch {
    /// Bytes of the path that the client does not see: its home, when it gave a relative path.
    prefix: usize,
    /// An event found no room.
    missed: bool,
}

/// A message that waits.
struct Message {
    header: Header,
    payload: Arc<[u8]>,
}

impl Message {
    fn is_event(&self) -> bool {
        self.header.type_ == MessageType::WATCH_EVENT
    }
}

/// A connection.
pub(crate) struct Client {
    pub(crate) privileged: bool,
    pub(crate) target: Option<DomId>,
    /// Its end was announced already.
    pub(crate) down: bool,
    pub(crate) watches: BTreeMap<(Path, Token), Watch>,
    pub(crate) transactions: BTreeMap<u32, Transaction>,
    next_transaction: u32,
    /// Bytes of watches, transactions and events.
    pub(crate) memory: usize,
    arriving: Vec<u8>,
    broken: bool,
    waiting: VecDeque<Message>,
    /// Bytes of the first message that were taken.
    taken: usize,
    replies: usize,
    events: usize,
    /// Payloads of events of which nothing was taken yet, to leave out repetitions.
    pending: BTreeSet<Arc<[u8]>>,
    /// Watches marked as missed.
    missed: usize,
}

impl Client {
    pub(crate) fn new(privileged: bool) -> Client {
        Client {
            privileged,
            target: None,
            down: false,
            watches: BTreeMap::new(),
            transactions: BTreeMap::new(),
            next_transaction: 1,
            memory: 0,
            arriving: Vec::new(),
            broken: false,
            waiting: VecDeque::new(),
            taken: 0,
            replies: 0,
            events: 0,
            pending: BTreeSet::new(),
            missed: 0,
        }
    }

    /// Who it is, for questions of permission.
    pub(crate) fn caller(&self, domain: DomId) -> Caller {
        Caller { domain, privileged: self.privileged, target: self.target }
    }

    /// Takes bytes of at most one request: how many, and the request when it is complete.
    pub(crate) fn take(&mut self, bytes: &[u8], quotas: &Quotas) -> Result<(usize, Option<Request>), Broken> {
        if self.broken {
            return Err(Broken::Protocol);
        }
        if self.replies >= quotas.replies {
            return Ok((0, None));
        }
        let mut used = 0;
        if self.arriving.len() < HEADER {
            used = bytes.len().min(HEADER - self.arriving.len());
            self.arriving.extend_from_slice(&bytes[..used]);
        }
        let Some(header) = self.arriving.get(..HEADER).map(parse_header) else { return Ok((used, None)) };
        if header.len > PAYLOAD_MAX {
            self.broken = true;
            self.arriving = Vec::new();
            return Err(Broken::Protocol);
        }
        let missing = HEADER + header.len as usize - self.arriving.len();
        let more = missing.min(bytes.len() - used);
        self.arriving.extend_from_slice(&bytes[used..used + more]);
        used += more;
        if more < missing {
            return Ok((used, None));
        }
        let payload = self.arriving[HEADER..].to_vec();
        self.arriving.clear();
        // A long request does not hold its memory for ever.
        self.arriving.shrink_to(256);
        Ok((used, Some((header, payload))))
    }

    /// Whether a request would be taken.
    pub(crate) fn accepts(&self, quotas: &Quotas) -> bool {
        !self.broken && self.replies < quotas.replies
    }

    /// Queues the reply to a request.
    pub(crate) fn reply(&mut self, request: &Header, result: Result<Vec<u8>, Errno>) {
        let result = result
            .and_then(|payload| if payload.len() > PAYLOAD_MAX as usize { Err(Errno::E2BIG) } else { Ok(payload) });
        let (type_, payload) = match result {
            Ok(payload) => (request.type_, payload),
            Err(error) => (MessageType::ERROR, error_name(error)),
        };
        let header = Header { type_, req_id: request.req_id, tx_id: request.tx_id, len: payload.len() as u32 };
        self.waiting.push_back(Message { header, payload: payload.into() });
        self.replies += 1;
    }

    /// Adds a watch. E2BIG and ENOMEM by the quotas, EEXIST when it is there.
    pub(crate) fn add_watch(&mut self, path: Path, token: Token, prefix: usize, quotas: &Quotas) -> Result<(), Errno> {
        let key = (path, token);
        if self.watches.contains_key(&key) {
            return Err(Errno::EEXIST);
        }
        let bytes = watch_memory(&key);
        if !self.privileged {
            if self.watches.len() >= quotas.watches {
                return Err(Errno::E2BIG);
            }
            if self.memory + bytes > quotas.memory {
                return Err(Errno::ENOMEM);
            }
        }
        self.memory += bytes;
        self.watches.insert(key, Watch { prefix, missed: false });
        Ok(())
    }

    /// Removes a watch; whether it was there. Its events that wait stay.
    pub(crate) fn remove_watch(&mut self, key: &(Path, Token)) -> bool {
        let Some(watch) = self.watches.remove(key) else { return false };
        self.memory -= watch_memory(key);
        self.missed -= usize::from(watch.missed);
        true
    }

    /// Forgets watches, transactions and events; replies stay.
    pub(crate) fn reset(&mut self) {
        self.watches.clear();
        self.transactions.clear();
        self.missed = 0;
        self.memory = 0;
        let started = self.taken > 0;
        let mut first = true;
        self.waiting.retain(|message| {
            let keep = !message.is_event() || (first && started);
            first = false;
            keep
        });
        self.events = self.waiting.iter().filter(|message| message.is_event()).count();
        self.memory =
            self.waiting.iter().filter(|message| message.is_event()).map(|event| event_memory(&event.payload)).sum();
        self.pending.clear();
    }

    /// Forgets everything that came and that waits: the ring is new.
    pub(crate) fn reconnect(&mut self) {
        let old = core::mem::replace(self, Client::new(self.privileged));
        self.target = old.target;
        self.down = old.down;
    }

    /// Fires a watch for a path at or below it.
    pub(crate) fn fire(&mut self, key: &(Path, Token), path: &[u8], quotas: &Quotas) {
        let Some(watch) = self.watches.get(key) else { return };
        let mut payload = event_payload(&path[watch.prefix..], &key.1);
        if payload.len() > PAYLOAD_MAX as usize {
            payload = event_payload(&key.0[watch.prefix..], &key.1);
        }
        // Special events are counted by their watchers: none is left out.
        if path[0] != b'@' && self.pending.contains(&payload[..]) {
            return;
        }
        if self.has_room(payload.len(), quotas) {
            self.push_event(payload.into());
        } else if let Some(watch) = self.watches.get_mut(key)
            && !watch.missed
        {
            watch.missed = true;
            self.missed += 1;
        }
    }

    /// Whether a further event may wait. One always may, so that every watch fires in the end.
    fn has_room(&self, payload: usize, quotas: &Quotas) -> bool {
        let memory = self.privileged || self.memory + EVENT_OVERHEAD + payload <= quotas.memory;
        self.events == 0 || (self.events < quotas.events && memory)
    }

    fn push_event(&mut self, payload: Arc<[u8]>) {
        let header = Header { type_: MessageType::WATCH_EVENT, req_id: 0, tx_id: 0, len: payload.len() as u32 };
        self.memory += event_memory(&payload);
        self.events += 1;
        self.pending.insert(payload.clone());
        self.waiting.push_back(Message { header, payload });
    }

    /// Queues events of watches that missed some, while there is room.
    fn catch_up(&mut self, quotas: &Quotas) {
        while self.missed > 0 {
            let Some((key, watch)) = self.watches.iter_mut().find(|(_, watch)| watch.missed) else { return };
            let payload = event_payload(&key.0[watch.prefix..], &key.1);
            let memory = self.privileged || self.memory + EVENT_OVERHEAD + payload.len() <= quotas.memory;
            if self.events != 0 && (self.events >= quotas.events || !memory) {
                return;
            }
            watch.missed = false;
            self.missed -= 1;
            if !self.pending.contains(&payload[..]) {
                self.push_event(payload.into());
            }
        }
    }

    /// Copies out as many bytes as there are and fit.
    pub(crate) fn output(&mut self, out: &mut [u8], quotas: &Quotas) -> usize {
        let mut done = 0;
        while done < out.len() {
            self.catch_up(quotas);
            let Some(message) = self.waiting.front() else { break };
            if self.taken == 0 && message.is_event() {
                self.pending.remove(&message.payload);
            }
            let header = print_header(&message.header);
            for part in [&header[self.taken.min(HEADER)..], &message.payload[self.taken.saturating_sub(HEADER)..]] {
                let length = part.len().min(out.len() - done);
                out[done..done + length].copy_from_slice(&part[..length]);
                done += length;
                self.taken += length;
                if length < part.len() {
                    return done;
                }
            }
            self.drop_first();
        }
        done
    }

    /// Takes the first message whole, if it is an event of which nothing was taken: for the owner's events.
    pub(crate) fn take_event(&mut self, quotas: &Quotas) -> Option<Arc<[u8]>> {
        self.catch_up(quotas);
        let payload = self.waiting.front()?.payload.clone();
        self.pending.remove(&payload);
        self.drop_first();
        Some(payload)
    }

    fn drop_first(&mut self) {
        self.taken = 0;
        let Some(message) = self.waiting.pop_front() else { return };
        if message.is_event() {
            self.events -= 1;
            self.memory -= event_memory(&message.payload);
        } else {
            self.replies -= 1;
        }
    }

    /// Whether there is something to copy out.
    pub(crate) fn has_output(&self) -> bool {
        !self.waiting.is_empty() || self.missed > 0
    }

    /// A number for a new transaction.
    pub(crate) fn new_transaction_id(&mut self) -> u32 {
        loop {
            let id = self.next_transaction;
            self.next_transaction = id.wrapping_add(1).max(1);
            if !self.transactions.contains_key(&id) {
                return id;
            }
        }
    }

    /// Replies and events that wait.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        (self.replies, self.events)
    }

    /// Whether the counts are what counting gives.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let events = || self.waiting.iter().filter(|message| message.is_event());
        let memory = self.watches.keys().map(watch_memory).sum::<usize>()
            + self.transactions.values().map(Transaction::memory).sum::<usize>()
            + events().map(|event| event_memory(&event.payload)).sum::<usize>();
        if memory != self.memory {
            return Err("a client's memory is wrong");
        }
        if events().count() != self.events || self.waiting.len() != self.events + self.replies {
            return Err("a client's messages are wrong");
        }
        if self.watches.values().filter(|watch| watch.missed).count() != self.missed {
            return Err("a client's missed watches are wrong");
        }
        let unsent = events().skip(usize::from(self.taken > 0 && self.waiting[0].is_event()));
        let pending: BTreeSet<_> = unsent.map(|event| event.payload.clone()).collect();
        if !self.pending.is_subset(&pending) { Err("an event is pending that does not wait") } else { Ok(()) }
    }
}

fn watch_memory(key: &(Path, Token)) -> usize {
    WATCH_OVERHEAD + key.0.len() + key.1.len()
}

fn event_memory(payload: &[u8]) -> usize {
    EVENT_OVERHEAD + payload.len()
}

fn event_payload(path: &[u8], token: &[u8]) -> Vec<u8> {
    [path, b"\0", token, b"\0"].concat()
}

/// An error's name with its NUL; EINVAL for one that the wire does not have.
fn error_name(error: Errno) -> Vec<u8> {
    let known = if ERRORS.contains(&error) { error } else { Errno::EINVAL };
    [known.name().unwrap_or("EINVAL").as_bytes(), b"\0"].concat()
}

/// A header from its 16 bytes.
fn parse_header(bytes: &[u8]) -> Header {
    let word = |index: usize| {
        let mut word = [0; 4];
        word.copy_from_slice(&bytes[4 * index..4 * index + 4]);
        u32::from_le_bytes(word)
    };
    Header { type_: MessageType(word(0)), req_id: word(1), tx_id: word(2), len: word(3) }
}

/// A header's 16 bytes.
fn print_header(header: &Header) -> [u8; HEADER] {
    let mut bytes = [0; HEADER];
    let words = [header.type_.0, header.req_id, header.tx_id, header.len];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}
