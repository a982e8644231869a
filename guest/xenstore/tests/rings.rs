//! The transport: bytes through a shared page, in whatever pieces; a peer that breaks its page hurts only itself.

mod common;

use common::*;
use ebb_ring::{Consumer, Layout, Page, Producer, SharedPage};
use ebb_xenstore::ring::{Connection, Fault};
use ebb_xenstore::{Quotas, Server};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use shared_abi::io::xs_wire::{self, MessageType as T};
use shared_abi::xen::DomId;

const FEATURES: usize = 2064;
const CONNECTION: usize = 2068;
const ERROR: usize = 2072;

/// The client's side of a page.
struct Guest<'a> {
    page: &'a SharedPage,
    requests: Producer,
    replies: Consumer,
    unread: Vec<u8>,
}

impl<'a> Guest<'a> {
    fn new(page: &'a SharedPage) -> Guest<'a> {
        let requests = Producer::attach(Layout::STORE_REQUESTS, page);
        let replies = Consumer::attach(Layout::STORE_REPLIES, page);
        Guest { page, requests, replies, unread: Vec::new() }
    }

    /// Writes what fits; how many bytes.
    fn put(&mut self, bytes: &[u8]) -> usize {
        self.requests.write(&self.page, bytes).unwrap()
    }

    fn take(&mut self, limit: usize) {
        let mut buffer = vec![0; limit];
        let length = self.replies.read(&self.page, &mut buffer).unwrap();
        self.unread.extend_from_slice(&buffer[..length]);
    }

    /// Sends a request and returns all messages that come until the server has no more.
    fn ask(
        &mut self,
        server: &mut Server,
        connection: &mut Connection<&SharedPage>,
        tx: u32,
        type_: T,
        payload: &[u8],
    ) -> Vec<Message> {
        let request = bytes(type_, 7, tx, payload);
        let mut rest = &request[..];
        loop {
            let put = self.put(rest);
            rest = &rest[put..];
            let progress = connection.service(server, 3);
            let before = self.unread.len();
            self.take(1024);
            if rest.is_empty() && !progress.more && self.unread.len() == before {
                return parse(&std::mem::take(&mut self.unread));
            }
        }
    }
}

fn start_at(page: &SharedPage, requests: u32, replies: u32) {
    for (offset, value) in [
        (xs_wire::REQ_CONS, requests),
        (xs_wire::REQ_PROD, requests),
        (xs_wire::RSP_CONS, replies),
        (xs_wire::RSP_PROD, replies),
    ] {
        page.store(offset, value);
    }
}

#[test]
fn a_page_is_connected_and_answers() {
    let mut server = server(Quotas::default(), &[3]);
    let page = SharedPage::new();
    start_at(&page, u32::MAX - 20, u32::MAX - 3);
    let mut connection = Connection::new(DomId(3), &page);
    assert_eq!(page.load(FEATURES), 3);
    assert_eq!((page.load(CONNECTION), page.load(ERROR)), (0, 0));
    let mut guest = Guest::new(&page);
    let messages = guest.ask(&mut server, &mut connection, 0, T::WRITE, b"data/x\0value");
    assert_eq!(messages[0].payload, b"OK\0");
    let messages = guest.ask(&mut server, &mut connection, 0, T::READ, b"data/x\0");
    assert_eq!(messages[0].payload, b"value");
    assert_eq!(connection.fault(), None);
    // Nothing to do: nobody needs an event.
    assert_eq!(connection.service(&mut server, 10), Default::default());
}

#[test]
fn the_longest_messages_pass() {
    let mut server = server(Quotas { node_size: 8192, ..Quotas::default() }, &[3]);
    let page = SharedPage::new();
    let mut connection = Connection::new(DomId(3), &page);
    let mut guest = Guest::new(&page);
    let value = vec![0xab; 4096 - 7];
    let messages = guest.ask(&mut server, &mut connection, 0, T::WRITE, &[b"data/x\0", &value[..]].concat());
    assert_eq!(messages[0].payload, b"OK\0");
    let messages = guest.ask(&mut server, &mut connection, 0, T::READ, b"data/x\0");
    assert_eq!(messages[0].payload, value);
}

#[test]
fn bad_indexes_end_the_connection() {
    for (offset, value) in [(xs_wire::REQ_PROD, 1025), (xs_wire::REQ_PROD, u32::MAX), (xs_wire::RSP_CONS, 1)] {
        let mut server = server(Quotas::default(), &[3]);
        let page = SharedPage::new();
        let mut connection = Connection::new(DomId(3), &page);
        let mut guest = Guest::new(&page);
        guest.ask(&mut server, &mut connection, 0, T::WATCH, b"data\0token\0");
        let other = if offset == xs_wire::RSP_CONS { xs_wire::RSP_PROD } else { xs_wire::REQ_CONS };
        page.store(offset, page.load(other).wrapping_add(value));
        let progress = connection.service(&mut server, 10);
        assert!(progress.notify && !progress.more);
        assert_eq!(connection.fault(), Some(Fault::Index));
        assert_eq!(page.load(ERROR), xs_wire::ERROR_RINGIDX);
        assert_eq!(server.usage(DomId(3)).watches, 0);
        assert_eq!(connection.service(&mut server, 10), Default::default());
        server.check().unwrap();
    }
}

#[test]
fn a_long_payload_ends_the_connection_and_a_reconnect_revives_it() {
    let mut server = server(Quotas::default(), &[3]);
    let page = SharedPage::new();
    let mut connection = Connection::new(DomId(3), &page);
    let mut guest = Guest::new(&page);
    guest.ask(&mut server, &mut connection, 0, T::WATCH, b"data\0token\0");
    let header = [T::READ.0, 1, 0, 4097];
    guest.put(&header.map(u32::to_le_bytes).concat());
    connection.service(&mut server, 10);
    assert_eq!(connection.fault(), Some(Fault::Protocol));
    assert_eq!(page.load(ERROR), xs_wire::ERROR_PROTO);

    page.store(CONNECTION, xs_wire::RECONNECT);
    assert!(connection.service(&mut server, 10).notify);
    assert_eq!((page.load(CONNECTION), page.load(ERROR)), (0, 0));
    assert_eq!([2048, 2052, 2056, 2060].map(|offset| page.load(offset)), [0; 4]);
    let mut guest = Guest::new(&page);
    let messages = guest.ask(&mut server, &mut connection, 0, T::WRITE, b"data/x\0value");
    // The watch is gone with the old connection.
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].payload, b"OK\0");
}

#[test]
fn a_reconnect_drops_what_was_under_way() {
    let mut server = server(Quotas::default(), &[3]);
    let page = SharedPage::new();
    let mut connection = Connection::new(DomId(3), &page);
    let mut guest = Guest::new(&page);
    guest.ask(&mut server, &mut connection, 0, T::WATCH, b"data\0token\0");
    guest.ask(&mut server, &mut connection, 0, T::TRANSACTION_START, b"\0");
    // Half a request, and an event that nobody has read.
    guest.put(&bytes(T::WRITE, 1, 0, b"data/x\0value")[..20]);
    connection.service(&mut server, 10);
    server.write(b"/local/domain/3/data/y", b"").unwrap();
    connection.service(&mut server, 10);
    page.store(CONNECTION, xs_wire::RECONNECT);
    connection.service(&mut server, 10);
    let usage = server.usage(DomId(3));
    assert_eq!((usage.watches, usage.transactions, usage.events, usage.replies), (0, 0, 0, 0));
    let mut guest = Guest::new(&page);
    let messages = guest.ask(&mut server, &mut connection, 0, T::READ, b"data/y\0");
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].payload, b"");
}

#[test]
fn a_new_connection_resets_for_who_waits_for_it() {
    let mut server = server(Quotas::default(), &[3]);
    let page = SharedPage::new();
    start_at(&page, 77, 5);
    page.store(xs_wire::REQ_PROD, 5000);
    page.store(CONNECTION, xs_wire::RECONNECT);
    let mut connection = Connection::new(DomId(3), &page);
    assert!(connection.service(&mut server, 10).notify);
    assert_eq!((connection.fault(), page.load(CONNECTION)), (None, 0));
    let messages = Guest::new(&page).ask(&mut server, &mut connection, 0, T::DIRECTORY, b"data\0");
    assert_eq!(messages.len(), 1);
}

#[test]
fn a_domain_unknown_to_the_server_gets_nothing() {
    let mut server = server(Quotas::default(), &[3]);
    let page = SharedPage::new();
    let mut connection = Connection::new(DomId(3), &page);
    server.release(DomId(3)).unwrap();
    Guest::new(&page).put(&bytes(T::READ, 1, 0, b"data\0"));
    connection.service(&mut server, 10);
    assert_eq!(connection.fault(), Some(Fault::Unknown));
    page.store(CONNECTION, xs_wire::RECONNECT);
    connection.service(&mut server, 10);
    assert_eq!(connection.fault(), Some(Fault::Unknown));
}

#[test]
fn the_budget_is_kept() {
    let mut server = server(Quotas::default(), &[3]);
    let page = SharedPage::new();
    let mut connection = Connection::new(DomId(3), &page);
    let mut guest = Guest::new(&page);
    for _ in 0..5 {
        guest.put(&bytes(T::READ, 1, 0, b"data\0"));
    }
    for left in [true, true, false] {
        let progress = connection.service(&mut server, 2);
        assert_eq!((progress.notify, progress.more), (true, left));
    }
    guest.take(1024);
    assert_eq!(parse(&guest.unread).len(), 5);
}

fn config(cases: u32) -> ProptestConfig {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: number("PROPTEST_CASES").map_or(cases, |cases| cases as u32),
        rng_seed: RngSeed::Fixed(number("PROPTEST_RNG_SEED").unwrap_or(0xebb)),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// What a hostile domain does to its page, or an honest one at its own.
#[derive(Clone, Debug)]
enum Step {
    /// The hostile one writes a word.
    Word(usize, u32),
    /// And moves its request index so that these bytes are sent.
    Bytes(Vec<u8>),
    /// And asks for a new connection.
    Reconnect,
    /// And pretends to have read everything.
    ReadAll,
    /// Both are served, with this budget.
    Serve(usize),
    /// The honest one writes and reads a value.
    Honest(u8),
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        Just(b"data\0token\0".to_vec()),
        Just(b"data/x\0value".to_vec()),
        Just(b"/local/domain/4/data\0x\0".to_vec()),
        Just(b"data\0".to_vec()),
        Just(b"\0".to_vec()),
        prop::collection::vec(any::<u8>(), 0..600),
    ];
    (0u32..24, 0u32..3, payload, 0u32..40).prop_map(|(type_, tx, payload, lie)| {
        let mut request = bytes(T(type_), 1, tx, &payload);
        if lie == 0 {
            request[12..16].copy_from_slice(&5000u32.to_le_bytes());
        }
        request
    })
}

fn step() -> impl Strategy<Value = Step> {
    let index = prop_oneof![any::<u32>(), 0u32..3000];
    prop_oneof![
        1 => (512usize..1024, index).prop_map(|(word, value)| Step::Word(4 * word, value)),
        8 => request().prop_map(Step::Bytes),
        2 => Just(Step::Reconnect),
        6 => Just(Step::ReadAll),
        8 => (0usize..6).prop_map(Step::Serve),
        3 => any::<u8>().prop_map(Step::Honest),
    ]
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn a_hostile_domain_hurts_only_itself(steps in prop::collection::vec(step(), 1..80)) {
        let mut server = server(Quotas::default(), &[3, 4]);
        let (bad, good) = (SharedPage::new(), SharedPage::new());
        let mut hostile = Connection::new(DomId(3), &bad);
        let mut honest = Connection::new(DomId(4), &good);
        let mut guest = Guest::new(&good);
        for step in steps {
            match step {
                Step::Word(offset, value) => bad.store(offset, value),
                Step::Bytes(bytes) => {
                    let start = bad.load(xs_wire::REQ_PROD);
                    for (at, byte) in bytes.iter().enumerate() {
                        bad.write((start as usize + at) % 1024, &[*byte]);
                    }
                    bad.store(xs_wire::REQ_PROD, start.wrapping_add(bytes.len() as u32));
                }
                Step::Reconnect => bad.store(CONNECTION, xs_wire::RECONNECT),
                Step::ReadAll => bad.store(xs_wire::RSP_CONS, bad.load(xs_wire::RSP_PROD)),
                Step::Serve(budget) => {
                    hostile.service(&mut server, budget);
                    honest.service(&mut server, budget);
                }
                Step::Honest(value) => {
                    let request = [b"data/mine\0", &[value][..]].concat();
                    let wrote = guest.ask(&mut server, &mut honest, 0, T::WRITE, &request);
                    prop_assert_eq!(&wrote[0].payload, b"OK\0");
                    let read = guest.ask(&mut server, &mut honest, 0, T::READ, b"data/mine\0");
                    prop_assert_eq!(&read[0].payload, &[value]);
                }
            }
            prop_assert_eq!(honest.fault(), None);
            prop_assert_eq!(server.check(), Ok(()));
            if hostile.fault().is_some() {
                let usage = server.usage(DomId(3));
                prop_assert_eq!((usage.watches, usage.transactions, usage.events), (0, 0, 0));
            }
        }
        // It can always have its connection back, and then be served as anyone.
        bad.store(CONNECTION, xs_wire::RECONNECT);
        hostile.service(&mut server, 10);
        prop_assert_eq!((hostile.fault(), bad.load(CONNECTION)), (None, 0));
        let reply = Guest::new(&bad).ask(&mut server, &mut hostile, 0, T::DIRECTORY, b"data\0");
        prop_assert_eq!(reply.len(), 1);
    }

    #[test]
    fn pieces_of_any_size_arrive_whole(
        start in any::<u32>(),
        pieces in prop::collection::vec((1usize..400, 0usize..4, 1usize..1024), 20..120),
    ) {
        let mut server = server(Quotas::default(), &[3]);
        let page = SharedPage::new();
        start_at(&page, start, start.wrapping_mul(7));
        let mut connection = Connection::new(DomId(3), &page);
        let mut guest = Guest::new(&page);
        let value = vec![0x55; 900];
        let stream: Vec<u8> = (0..200u32)
            .flat_map(|id| match id % 3 {
                0 => bytes(T::WRITE, id, 0, &[b"data/x\0", &value[..id as usize * 4]].concat()),
                1 => bytes(T::READ, id, 0, b"data/x\0"),
                _ => bytes(T::WATCH, id, 0, format!("data\0t{id}\0").as_bytes()),
            })
            .collect();
        let mut rest = &stream[..];
        let mut pieces = pieces.iter().cycle();
        let mut idle = 0;
        while idle < 1000 {
            let (put, budget, take) = *pieces.next().unwrap();
            let done = guest.put(&rest[..put.min(rest.len())]);
            rest = &rest[done..];
            let before = guest.unread.len();
            connection.service(&mut server, budget);
            guest.take(take);
            idle = if done == 0 && guest.unread.len() == before { idle + 1 } else { 0 };
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(connection.fault(), None);
        let replies: Vec<u32> =
            parse(&guest.unread).iter().filter(|m| m.type_ != T::WATCH_EVENT.0).map(|m| m.req_id).collect();
        prop_assert_eq!(replies, (0..200).collect::<Vec<_>>());
        let events: Vec<_> = parse(&guest.unread).iter().filter(|m| m.type_ == T::WATCH_EVENT.0).map(event).collect();
        for id in (2..200).step_by(3) {
            let seen = events.contains(&("data".into(), format!("t{id}")));
            prop_assert!(seen);
        }
    }
}
