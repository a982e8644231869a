//! A client of the server under test: builds requests, reads messages.
#![allow(dead_code, reason = "each test file uses its part")]

pub mod model;

use ebb_xenstore::{Quotas, Server};
use shared_abi::io::xs_wire::MessageType;
use shared_abi::xen::DomId;

/// What a request got: the payload, or the error's name.
pub type Reply = Result<Vec<u8>, String>;

/// The domain that owns the root.
pub const CONTROL: DomId = DomId(0);

/// A message as it left the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub type_: u32,
    pub req_id: u32,
    pub tx_id: u32,
    pub payload: Vec<u8>,
}

/// A message's bytes.
pub fn bytes(type_: MessageType, req_id: u32, tx_id: u32, payload: &[u8]) -> Vec<u8> {
    let words = [type_.0, req_id, tx_id, payload.len() as u32];
    words.iter().flat_map(|word| word.to_le_bytes()).chain(payload.iter().copied()).collect()
}

/// The whole messages at the start of `bytes`, which must end with one.
pub fn parse(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let end = 16 + word(12) as usize;
        messages.push(Message { type_: word(0), req_id: word(4), tx_id: word(8), payload: bytes[16..end].to_vec() });
        bytes = &bytes[end..];
    }
    messages
}

/// A server with the domains named, each at home, as a toolstack would prepare them.
pub fn server(quotas: Quotas, domains: &[u16]) -> Server {
    let mut server = Server::new(quotas, CONTROL);
    for domain in domains {
        prepare(&mut server, *domain);
    }
    server
}

/// A domain's home, and the domain.
pub fn prepare(server: &mut Server, domain: u16) {
    use ebb_xenstore::{Access, Permission};
    let id = DomId(domain);
    let home = format!("/local/domain/{domain}");
    server.write_for(home.as_bytes(), b"", &Permission::readable_by(CONTROL, id)).unwrap();
    for name in ["memory", "cpu"] {
        server.write_for(format!("{home}/{name}").as_bytes(), b"", &Permission::readable_by(CONTROL, id)).unwrap();
    }
    for name in ["control", "device", "data"] {
        let own = [Permission::new(id, Access::NONE)];
        server.write_for(format!("{home}/{name}").as_bytes(), b"", &own).unwrap();
    }
    server.introduce(id, false).unwrap();
}

/// Everything a domain can read now.
pub fn drain(server: &mut Server, domain: u16) -> Vec<Message> {
    let mut all = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let length = server.output(DomId(domain), &mut buffer);
        if length == 0 {
            return parse(&all);
        }
        all.extend_from_slice(&buffer[..length]);
    }
}

/// Sends one request whole.
pub fn send(server: &mut Server, domain: u16, tx_id: u32, type_: MessageType, payload: &[u8]) {
    let request = bytes(type_, 7, tx_id, payload);
    assert_eq!(server.input(DomId(domain), &request), Ok(request.len()));
}

/// Sends one request, reads everything; the reply's payload or the error's name, and the events.
pub fn ask(
    server: &mut Server,
    domain: u16,
    tx_id: u32,
    type_: MessageType,
    payload: &[u8],
) -> (Reply, Vec<(String, String)>) {
    send(server, domain, tx_id, type_, payload);
    let mut reply = None;
    let mut events = Vec::new();
    for message in drain(server, domain) {
        if message.type_ == MessageType::WATCH_EVENT.0 {
            assert_eq!((message.req_id, message.tx_id), (0, 0));
            events.push(event(&message));
            continue;
        }
        assert!(reply.is_none(), "two replies");
        assert_eq!((message.req_id, message.tx_id), (7, tx_id));
        reply = Some(if message.type_ == MessageType::ERROR.0 {
            assert_eq!(message.payload.last(), Some(&0));
            Err(String::from_utf8(message.payload[..message.payload.len() - 1].to_vec()).unwrap())
        } else {
            assert_eq!(message.type_, type_.0);
            Ok(message.payload)
        });
    }
    (reply.expect("a reply"), events)
}

/// The reply alone.
pub fn call(server: &mut Server, domain: u16, tx: u32, type_: MessageType, payload: &[u8]) -> Result<Vec<u8>, String> {
    ask(server, domain, tx, type_, payload).0
}

/// An event's path and token.
pub fn event(message: &Message) -> (String, String) {
    let text = String::from_utf8(message.payload.clone()).unwrap();
    let parts: Vec<&str> = text.split('\0').collect();
    assert_eq!(parts.len(), 3, "{text:?}");
    (parts[0].into(), parts[1].into())
}

/// The events a domain has not read yet.
pub fn events(server: &mut Server, domain: u16) -> Vec<(String, String)> {
    drain(server, domain).iter().filter(|message| message.type_ == MessageType::WATCH_EVENT.0).map(event).collect()
}

/// Starts a transaction.
pub fn start(server: &mut Server, domain: u16) -> u32 {
    let reply = call(server, domain, 0, MessageType::TRANSACTION_START, b"\0").unwrap();
    String::from_utf8(reply).unwrap().trim_end_matches('\0').parse().unwrap()
}
