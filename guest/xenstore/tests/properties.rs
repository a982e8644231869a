//! Random clients: what the server answers is what a simple model answers, committed transactions are as if they had run
//! alone at their commit, watches see what changed, and whatever hostile clients send, accounts and bounds hold.
//!
//! The seeds are fixed, so a run repeats; `PROPTEST_CASES` and `PROPTEST_RNG_SEED` ask for more and for others.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::model::{Model, Op, Reply};
use common::*;
use ebb_xenstore::{Access, Broken, Permission, Quotas, Server};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use shared_abi::io::xs_wire::MessageType as T;
use shared_abi::xen::DomId;

fn config(cases: u32) -> ProptestConfig {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: number("PROPTEST_CASES").map_or(cases, |cases| cases as u32),
        rng_seed: RngSeed::Fixed(number("PROPTEST_RNG_SEED").unwrap_or(0xebb)),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// The clients of the model's test: the control domain on a connection of its own, and two others.
const CLIENTS: [u16; 3] = [0, 3, 4];

#[derive(Clone, Debug)]
enum Step {
    Do(Op),
    Inside(Op),
    Start,
    End(bool),
}

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", "a-b"]);
    let names = prop::collection::vec(name, 0..3);
    let start =
        prop::sample::select(vec!["/local/domain/3/data", "/local/domain/4/data", "/shared", "data", "/local", ""]);
    (start, names).prop_map(|(start, names)| {
        let path = names.iter().fold(start.to_string(), |path, name| format!("{path}/{name}"));
        if path.is_empty() { "/".into() } else { path }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let entry = (prop::sample::select(vec!['n', 'r', 'w', 'b']), prop::sample::select(CLIENTS.to_vec()));
    prop_oneof![
        3 => path().prop_map(Op::Read),
        2 => path().prop_map(Op::Directory),
        1 => path().prop_map(Op::GetPerms),
        4 => (path(), prop::collection::vec(any::<u8>(), 0..4)).prop_map(|(path, value)| Op::Write(path, value)),
        2 => path().prop_map(Op::Mkdir),
        2 => path().prop_map(Op::Rm),
        2 => (path(), prop::collection::vec(entry, 1..4)).prop_map(|(path, list)| Op::SetPerms(path, list)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => op().prop_map(Step::Do),
        6 => op().prop_map(Step::Inside),
        1 => Just(Step::Start),
        2 => prop::bool::weighted(0.85).prop_map(Step::End),
    ]
}

/// A transaction that is open in the server: what it did and was answered, and how many changes there had been when it
/// started.
struct Open {
    id: u32,
    done: Vec<(Op, Reply)>,
    started: usize,
}

struct Pair {
    server: Server,
    model: Model,
    open: BTreeMap<u16, Open>,
    /// Changes that everyone could see.
    changes: usize,
}

impl Pair {
    fn new() -> Pair {
        let mut server = Server::new(Quotas::default(), CONTROL);
        let mut model = Model::new();
        for domain in CLIENTS {
            server.introduce(DomId(domain), domain == CONTROL.0).unwrap();
            let path = format!("/local/domain/{domain}/data");
            let setup = [Op::Write(path.clone(), vec![]), Op::SetPerms(path, vec![('n', domain)])];
            for op in setup
                .into_iter()
                .chain([Op::Write("/shared".into(), vec![]), Op::SetPerms("/shared".into(), vec![('b', 0)])])
            {
                let (type_, payload) = op.request();
                assert_eq!(call(&mut server, 0, 0, type_, &payload), model.apply(0, &op).0);
            }
        }
        server.watch(b"/", b"all").unwrap();
        let mut pair = Pair { server, model, open: BTreeMap::new(), changes: 0 };
        pair.seen();
        pair
    }

    /// The paths that a watch of everything saw.
    fn seen(&mut self) -> BTreeSet<String> {
        std::iter::from_fn(|| self.server.take_event()).map(|event| String::from_utf8(event.path).unwrap()).collect()
    }

    fn step(&mut self, domain: u16, step: &Step) {
        match step {
            Step::Do(op) => {
                let (type_, payload) = op.request();
                let (expected, changed) = self.model.apply(domain, op);
                self.changes += usize::from(changed.is_some());
                assert_eq!(call(&mut self.server, domain, 0, type_, &payload), expected, "{domain}: {op:?}");
                assert_eq!(self.seen(), changed.into_iter().collect(), "{domain}: {op:?}");
            }
            Step::Inside(op) => {
                let Some(open) = self.open.get_mut(&domain) else { return self.step(domain, &Step::Start) };
                let (type_, payload) = op.request();
                let reply = call(&mut self.server, domain, open.id, type_, &payload);
                open.done.push((op.clone(), reply));
                assert!(self.seen().is_empty(), "a transaction is seen before its commit");
            }
            Step::Start => {
                if !self.open.contains_key(&domain) {
                    let open = Open { id: start(&mut self.server, domain), done: vec![], started: self.changes };
                    self.open.insert(domain, open);
                }
            }
            Step::End(commit) => {
                let Some(open) = self.open.remove(&domain) else { return };
                self.end(domain, open, *commit);
            }
        }
    }

    fn end(&mut self, domain: u16, open: Open, commit: bool) {
        let payload: &[u8] = if commit { b"T\0" } else { b"F\0" };
        let reply = call(&mut self.server, domain, open.id, T::TRANSACTION_END, payload);
        let seen = self.seen();
        if !commit || reply.is_err() {
            assert_eq!(reply, if commit { Err("EAGAIN".into()) } else { Ok(b"OK\0".to_vec()) });
            assert!(seen.is_empty());
            assert!(!commit || open.started != self.changes, "a conflict with nobody");
            return;
        }
        // As if it had run alone, now: every answer it got is the answer it would get.
        let before = self.model.clone();
        let mut changed = BTreeSet::new();
        for (op, reply) in &open.done {
            let (expected, path) = self.model.apply(domain, op);
            assert_eq!(*reply, expected, "{domain}: {op:?} of {:?}", open.done);
            changed.extend(path);
        }
        self.changes += changed.len();
        changed.retain(|path| before.nodes.contains_key(path) || self.model.nodes.contains_key(path));
        assert_eq!(seen, changed, "{:?}", open.done);
    }

    /// The two trees are equal.
    fn compare(&mut self) {
        self.server.check().unwrap();
        let mut wait = vec!["/".to_string()];
        let mut count = 0;
        while let Some(path) = wait.pop() {
            let node = &self.model.nodes[&path];
            count += 1;
            assert_eq!(self.server.read(path.as_bytes()).unwrap(), node.value, "{path}");
            let children: Vec<_> = self
                .server
                .list(path.as_bytes())
                .unwrap()
                .into_iter()
                .map(|name| String::from_utf8(name).unwrap())
                .collect();
            assert_eq!(children, node.children, "{path}");
            let permissions = self.server.permissions(path.as_bytes()).unwrap();
            let expected = node.permissions.iter().map(|(kind, domain)| Permission::new(DomId(*domain), access(*kind)));
            assert_eq!(permissions, expected.collect::<Vec<_>>(), "{path}");
            wait.extend(children.iter().map(|name| format!("{}/{name}", path.trim_end_matches('/'))));
        }
        assert_eq!(count, self.model.nodes.len());
    }
}

fn access(kind: char) -> Access {
    match kind {
        'r' => Access::READ,
        'w' => Access::WRITE,
        'b' => Access::BOTH,
        _ => Access::NONE,
    }
}

/// What hostile clients and an unsteady host do.
#[derive(Clone, Debug)]
enum Act {
    /// Bytes as they come.
    Bytes(u16, Vec<u8>),
    /// A request that may make sense, in pieces.
    Request(u16, u32, u32, Vec<u8>, usize),
    /// The client reads so many bytes.
    Read(u16, usize),
    Introduce(u16),
    Release(u16),
    Reconnect(u16),
    Down(u16),
}

fn hostile_payload() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        6 => path(),
        2 => "[nrwb][0-9]",
        2 => prop::sample::select(vec!["@introduceDomain", "@releaseDomain", "T", "F", "data", "3", "0", "", "help"]).prop_map(String::from),
        1 => (1..300usize).prop_map(|length| "x".repeat(length)),
        1 => (1..80usize).prop_map(|depth| "/d".repeat(depth)),
    ];
    (prop::collection::vec(word, 0..4), prop::bool::weighted(0.9))
        .prop_map(|(words, end)| [words.join("\0").as_bytes(), if end { b"\0" } else { b"" }].concat())
}

fn act() -> impl Strategy<Value = Act> {
    let domain = || 2..6u16;
    prop_oneof![
        1 => (domain(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(domain, bytes)| Act::Bytes(domain, bytes)),
        40 => (domain(), 0..24u32, prop::sample::select(vec![0, 0, 1, 2]), hostile_payload(), 1..200usize)
            .prop_map(|(domain, type_, tx, payload, piece)| Act::Request(domain, type_, tx, payload, piece)),
        8 => (domain(), 0..400usize).prop_map(|(domain, length)| Act::Read(domain, length)),
        2 => domain().prop_map(Act::Introduce),
        1 => domain().prop_map(Act::Release),
        1 => domain().prop_map(Act::Reconnect),
        1 => domain().prop_map(Act::Down),
    ]
}

const SMALL: Quotas = Quotas {
    nodes: 12,
    node_size: 120,
    permissions: 3,
    watches: 5,
    transactions: 2,
    transaction_nodes: 30,
    path: 200,
    depth: 16,
    memory: 5000,
    replies: 3,
    events: 6,
};

fn perform(server: &mut Server, act: &Act) {
    match act {
        Act::Bytes(domain, bytes) => {
            let taken = server.input(DomId(*domain), bytes);
            assert!(taken.is_err() || taken.is_ok_and(|taken| taken <= bytes.len()));
        }
        Act::Request(domain, type_, tx, payload, piece) => {
            let request = bytes(T(*type_), 1, *tx, payload);
            let mut rest = &request[..];
            while !rest.is_empty() {
                let length = rest.len().min(*piece);
                match server.input(DomId(*domain), &rest[..length]) {
                    // It has to read first; the request stays cut, as a hostile client may leave it.
                    Ok(0) => break,
                    Ok(taken) => rest = &rest[taken..],
                    Err(broken) => {
                        assert_eq!(broken == Broken::Unknown, !server.is_introduced(DomId(*domain)));
                        break;
                    }
                }
            }
        }
        Act::Read(domain, length) => {
            let mut buffer = vec![0; *length];
            assert!(server.output(DomId(*domain), &mut buffer) <= *length);
        }
        Act::Introduce(domain) => {
            if !server.is_introduced(DomId(*domain)) {
                prepare(server, *domain);
            }
        }
        Act::Release(domain) => {
            let _ = server.release(DomId(*domain));
            assert_eq!(server.usage(DomId(*domain)), Default::default());
        }
        Act::Reconnect(domain) => {
            let there = server.is_introduced(DomId(*domain));
            assert_eq!(server.reconnect(DomId(*domain)).is_ok(), there);
        }
        Act::Down(domain) => {
            let there = server.is_introduced(DomId(*domain));
            assert_eq!(server.domain_down(DomId(*domain)).is_ok(), there);
        }
    }
}

fn check_bounds(server: &Server) {
    server.check().unwrap();
    for domain in 2..6 {
        let usage = server.usage(DomId(domain));
        assert!(usage.nodes <= SMALL.nodes && usage.node_memory <= SMALL.memory, "{usage:?}");
        assert!(usage.watches <= SMALL.watches && usage.transactions <= SMALL.transactions, "{usage:?}");
        // One event may always wait.
        assert!(usage.client_memory <= SMALL.memory + 128 + 4096, "{usage:?}");
        assert!(usage.replies <= SMALL.replies && usage.events <= SMALL.events, "{usage:?}");
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn answers_are_the_model_s(steps in prop::collection::vec((prop::sample::select(CLIENTS.to_vec()), step()), 1..80)) {
        let mut pair = Pair::new();
        for (domain, step) in &steps {
            pair.step(*domain, step);
        }
        for domain in CLIENTS {
            pair.step(domain, &Step::End(true));
        }
        pair.compare();
    }

    #[test]
    fn hostile_clients_stay_within_bounds(acts in prop::collection::vec(act(), 1..150)) {
        let mut server = server(SMALL, &[2, 3, 4]);
        for act in &acts {
            perform(&mut server, act);
            check_bounds(&server);
        }
        // A client that was never here is served as ever.
        prepare(&mut server, 9);
        assert_eq!(call(&mut server, 9, 0, T::WRITE, b"data/a\x001"), Ok(b"OK\0".to_vec()));
        assert_eq!(call(&mut server, 9, 0, T::READ, b"data/a\0"), Ok(b"1".to_vec()));
        for domain in 2..6 {
            let _ = server.release(DomId(domain));
        }
        check_bounds(&server);
    }

    #[test]
    fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1..40usize) {
        let mut server = server(Quotas::default(), &[3]);
        for piece in bytes.chunks(piece) {
            let _ = server.input(DomId(3), piece);
            server.output(DomId(3), &mut [0; 64]);
        }
        server.check().unwrap();
    }
}
