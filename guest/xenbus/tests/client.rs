//! The client against the server of `ebb-xenstore`, over one shared page, whose bytes arrive in any pieces: the page
//! shows each side an older index of the other's than the newest, at random, as a processor with a slow bus might.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex};

use ebb_ring::{Page, SharedPage};
use ebb_xenbus::{Blocking, Connection, Error, Event, Exchange, Fault, MAX_EVENTS, Signal, Store};
use ebb_xenstore::ring::Connection as Served;
use ebb_xenstore::{Access, Permission, Quotas, Server};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use shared_abi::Errno;
use shared_abi::io::xs_wire::{self, MessageType};
use shared_abi::xen::DomId;

const ME: DomId = DomId(7);

/// A page on which indexes of the other side come late.
struct Late {
    page: SharedPage,
    random: Cell<u64>,
    /// By place of the word: what was shown last.
    shown: [Cell<u32>; 4],
}

impl Late {
    fn new(seed: u64, start: u32) -> Late {
        let page = SharedPage::new();
        (0..4).for_each(|word| page.store(xs_wire::REQ_CONS + 4 * word, start));
        Late { page, random: Cell::new(seed | 1), shown: [start; 4].map(Cell::new) }
    }

    fn below(&self, bound: u32) -> u32 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        (x >> 32) as u32 % bound
    }
}

impl Page for Late {
    fn load(&self, offset: usize) -> u32 {
        let newest = self.page.load(offset);
        let Some(shown) = offset.checked_sub(xs_wire::REQ_CONS).and_then(|at| self.shown.get(at / 4)) else {
            return newest;
        };
        let ahead = newest.wrapping_sub(shown.get());
        let late = if ahead > 1024 { newest } else { shown.get().wrapping_add(self.below(ahead + 1)) };
        shown.set(late);
        late
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

/// The server's side; waiting for an event is serving.
#[derive(Clone)]
struct Other<'a>(Rc<RefCell<(Server, Served<&'a Late>, usize)>>);

impl Signal for Other<'_> {
    fn send(&mut self) {}

    fn wait(&mut self) -> bool {
        let (server, served, idle) = &mut *self.0.borrow_mut();
        let progress = served.service(server, 2);
        // Late indexes are at last seen: a wait that finds nothing a hundred times would wait for ever.
        *idle = if progress.notify || progress.more { 0 } else { *idle + 1 };
        *idle < 100
    }
}

impl Other<'_> {
    fn server<T>(&self, work: impl FnOnce(&mut Server) -> T) -> T {
        let mut inner = self.0.borrow_mut();
        inner.2 = 0;
        work(&mut inner.0)
    }
}

fn serve(page: &Late) -> Other<'_> {
    let mut server = Server::new(Quotas::default(), DomId(0));
    let home = format!("/local/domain/{}", ME.0);
    for (name, own) in [("", false), ("/memory", false), ("/data", true), ("/control", true)] {
        let owner = [Permission::new(ME, Access::NONE)];
        let reader = Permission::readable_by(DomId(0), ME);
        let permissions: &[Permission] = if own { &owner } else { &reader };
        server.write_for(format!("{home}{name}").as_bytes(), b"", permissions).unwrap();
    }
    server.write(format!("{home}/memory/target").as_bytes(), b"65536").unwrap();
    server.introduce(ME, false).unwrap();
    let served = Served::new(ME, page);
    Other(Rc::new(RefCell::new((server, served, 0))))
}

fn with(seed: u64, test: impl FnOnce(&Other<'_>, &Blocking<&Late, Other<'_>>, &Late)) {
    let page = Late::new(seed, (seed >> 3) as u32);
    let other = serve(&page);
    let client = Blocking::new(Connection::new(&page), other.clone());
    test(&other, &client, &page);
    other.server(|server| server.check().unwrap());
}

fn refused<T>(errno: Errno) -> Result<T, Error> {
    Err(Error::Refused(errno))
}

#[test]
fn the_operations() {
    with(1, |_, client, _| {
        let store = Store::new(client);
        assert_eq!(store.reset_watches(), Ok(()));
        assert_eq!(store.read_number("memory/target"), Ok(65536));
        assert_eq!(store.write("data/a/b", b"\0\xffvalue"), Ok(()));
        assert_eq!(store.read("data/a/b"), Ok(b"\0\xffvalue".to_vec()));
        assert_eq!(store.read_number("data/a/b"), Err(Error::Malformed));
        assert_eq!(store.make("data/c"), Ok(()));
        assert_eq!(store.list("data"), Ok(vec![b"a".to_vec(), b"c".to_vec()]));
        assert_eq!(store.list("data/c"), Ok(vec![]));
        assert_eq!(store.exists("data/c"), Ok(true));
        assert_eq!(store.remove("data/c"), Ok(()));
        assert_eq!(store.exists("data/c"), Ok(false));
        assert_eq!(store.read("data/c"), refused(Errno::ENOENT));
        assert_eq!(store.write("memory/target", b"1"), refused(Errno::EACCES));
        assert_eq!(store.set_permissions("data/a", &["n7", "r0"]), Ok(()));
        assert_eq!(store.permissions("data/a"), Ok(vec![b"n7".to_vec(), b"r0".to_vec()]));
        assert_eq!(store.domain_path(DomId(12)), Ok("/local/domain/12".into()));
        assert_eq!(store.write("data/\0", b""), Err(Error::Nul));
        assert_eq!(store.write("data/x", &[0; 4096]), Err(Error::TooLong));
    });
}

#[test]
fn long_lists_come_whole() {
    with(2, |other, client, _| {
        let names: Vec<Vec<u8>> = (0..700).map(|n| format!("a-child-with-a-long-name-{n}").into_bytes()).collect();
        other.server(|server| {
            for name in &names {
                let path = [b"/local/domain/7/memory/", &name[..]].concat();
                server.write_for(&path, b"", &Permission::readable_by(DomId(0), ME)).unwrap();
            }
        });
        assert_eq!(Store::new(client).list("memory").unwrap()[1..], names[..]);
    });
}

#[test]
fn watches_fire() {
    with(3, |other, client, _| {
        let store = Store::new(client);
        let event = |path: &str, token: &str| Ok(Event { path: path.into(), token: token.into() });
        store.watch("memory/target", "t").unwrap();
        assert_eq!(client.next_event(), event("memory/target", "t"));
        assert_eq!(client.next_event(), Err(Error::TimedOut));
        other.server(|server| server.write(b"/local/domain/7/memory/target", b"1").unwrap());
        assert_eq!(client.next_event(), event("memory/target", "t"));
        assert_eq!(store.unwatch("memory/target", "u"), refused(Errno::ENOENT));
        assert_eq!(store.unwatch("memory/target", "t"), Ok(()));
        other.server(|server| server.write(b"/local/domain/7/memory/target", b"2").unwrap());
        assert_eq!(client.next_event(), Err(Error::TimedOut));
    });
}

#[test]
fn events_are_merged_and_bounded() {
    with(4, |_, client, _| {
        let store = Store::new(client);
        store.watch("data", "t").unwrap();
        for _ in 0..3 {
            store.write("data/x", b"").unwrap();
        }
        // The first from the watch itself; the equal ones are one.
        let paths: Vec<_> = std::iter::from_fn(|| client.next_event().ok()).map(|event| event.path).collect();
        assert_eq!(paths, [b"data".to_vec(), b"data/x".to_vec()]);
        for n in 0..MAX_EVENTS + 5 {
            store.write(&format!("data/y{n}"), b"").unwrap();
        }
        assert_eq!(client.next_event(), Err(Error::Reset));
        assert_eq!(std::iter::from_fn(|| client.next_event().ok()).count(), MAX_EVENTS);
    });
}

#[test]
fn transactions_are_tried_again() {
    with(5, |other, client, _| {
        let store = Store::new(client);
        let tries = Cell::new(0);
        let add = |inside: Store<'_, Blocking<&Late, Other<'_>>>| {
            tries.set(tries.get() + 1);
            let value = inside.read_number("memory/target")?;
            if tries.get() <= 2 {
                other.server(|server| {
                    server.write(b"/local/domain/7/memory/target", (value + 1).to_string().as_bytes()).unwrap();
                });
            }
            inside.write("data/seen", value.to_string().as_bytes())?;
            Ok(value)
        };
        assert_eq!(store.transaction(add), Ok(65538));
        assert_eq!((tries.get(), store.read_number("data/seen")), (3, Ok(65538)));
        let failing = store.transaction(|inside| {
            inside.write("data/seen", b"no")?;
            inside.read("data/none")
        });
        assert_eq!(failing, refused(Errno::ENOENT));
        assert_eq!(store.read_number("data/seen"), Ok(65538));
        assert_eq!(other.server(|server| server.usage(ME).transactions), 0);
        // One that always conflicts ends.
        let never = store.transaction(|inside| {
            inside.read("memory/target")?;
            other.server(|server| server.write(b"/local/domain/7/memory/target", b"0").unwrap());
            Ok(())
        });
        assert_eq!(never, refused(Errno::EAGAIN));
    });
}

#[test]
fn a_broken_connection_is_revived() {
    with(6, |other, client, page| {
        let store = Store::new(client);
        store.watch("data", "t").unwrap();
        page.store(xs_wire::REQ_PROD, page.page.load(xs_wire::REQ_PROD).wrapping_add(5000));
        other.clone().wait();
        // The server has ended it.
        assert_eq!(store.read("data"), Err(Error::Broken(Fault::Server(xs_wire::ERROR_RINGIDX))));
        assert_eq!(store.read("data"), Err(Error::Broken(Fault::Server(xs_wire::ERROR_RINGIDX))));
        assert!(client.reconnect());
        assert_eq!(store.read("data"), Ok(vec![]));
        assert_eq!(client.next_event(), Err(Error::Reset));
        assert_eq!(other.server(|server| server.usage(ME).watches), 0);
        assert_eq!(store.watch("data", "t"), Ok(()));
    });
}

#[test]
fn a_hostile_server_breaks_only_the_connection() {
    let header = |type_: u32, id: u32, len: u32| [type_, id, 0, len].map(u32::to_le_bytes).concat();
    let put = |page: &SharedPage, bytes: &[u8]| {
        let at = page.load(xs_wire::RSP_PROD);
        bytes.iter().enumerate().for_each(|(n, byte)| page.write(1024 + (at as usize + n) % 1024, &[*byte]));
        page.store(xs_wire::RSP_PROD, at.wrapping_add(bytes.len() as u32));
    };
    let page = SharedPage::new();
    let mut connection = Connection::new(&page);
    let request = connection.submit(MessageType::READ, 0, &[b"x\0"]).unwrap();
    assert_eq!(connection.poll(), Ok(true));
    // Replies to nobody, an event without strings, a reply of another type.
    put(&page, &[header(2, 99, 0), header(15, 0, 1), b"x".to_vec(), header(11, 1, 0)].concat());
    assert_eq!(connection.poll(), Ok(true));
    assert_eq!(connection.take_reply(request), Some(Err(Error::Malformed)));
    assert!(!connection.has_event());
    // A name of an error that does not exist.
    let request = connection.submit(MessageType::READ, 0, &[b"x\0"]).unwrap();
    put(&page, &[header(16, 2, 4), b"EXYZ".to_vec()].concat());
    connection.poll().unwrap();
    assert_eq!(connection.take_reply(request), Some(refused(Errno::EINVAL)));
    // A payload too long; then nothing works any more, and what waited knows.
    let request = connection.submit(MessageType::READ, 0, &[b"x\0"]).unwrap();
    put(&page, &header(2, 3, 4097));
    assert_eq!(connection.poll(), Err(Fault::Protocol));
    assert_eq!(connection.take_reply(request), Some(Err(Error::Broken(Fault::Protocol))));
    assert_eq!(connection.submit(MessageType::READ, 0, &[]), Err(Error::Broken(Fault::Protocol)));

    let mut connection = Connection::new(&page);
    page.store(xs_wire::RSP_PROD, page.load(xs_wire::RSP_CONS).wrapping_add(1025));
    assert_eq!(connection.poll(), Err(Fault::Index));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(200),
        rng_seed: RngSeed::Fixed(0xebb),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_pieces_and_any_order(seed in any::<u64>(), lengths in prop::collection::vec(0usize..1900, 1..30)) {
        let page = Late::new(seed, seed as u32);
        let other = serve(&page);
        let mut connection = Connection::new(&page);
        // Many requests at once; the replies are asked for in another order.
        let mut requests = Vec::new();
        for (n, length) in lengths.iter().enumerate() {
            let (path, value) = (format!("data/{n}\0"), vec![n as u8; *length]);
            let write = connection.submit(MessageType::WRITE, 0, &[path.as_bytes(), &value]).unwrap();
            let read = connection.submit(MessageType::READ, 0, &[path.as_bytes()]).unwrap();
            requests.push((write, Ok(b"OK\0".to_vec())));
            requests.push((read, Ok(value)));
        }
        let client = RefCell::new((&mut connection, other.clone()));
        for (request, expected) in requests.into_iter().rev() {
            let (connection, other) = &mut *client.borrow_mut();
            let reply = loop {
                connection.poll().unwrap();
                if let Some(reply) = connection.take_reply(request) {
                    break reply;
                }
                if !other.wait() {
                    break Err(Error::TimedOut);
                }
            };
            prop_assert_eq!(reply, expected);
        }
    }
}

/// An event channel between two threads: a latch.
#[derive(Default)]
struct Latch {
    fired: Mutex<[bool; 2]>,
    changed: Condvar,
}

impl Latch {
    fn fire(&self, side: usize) {
        self.fired.lock().unwrap()[side] = true;
        self.changed.notify_all();
    }

    fn wait(&self, side: usize) {
        let fired = self.changed.wait_while(self.fired.lock().unwrap(), |fired| !fired[side]);
        fired.unwrap()[side] = false;
    }
}

struct Channel(Arc<Latch>);

impl Signal for Channel {
    fn send(&mut self) {
        self.0.fire(1);
    }

    fn wait(&mut self) -> bool {
        self.0.wait(0);
        true
    }
}

#[test]
fn client_and_server_run_at_the_same_time() {
    let page = SharedPage::new();
    let latch = Arc::new(Latch::default());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut server = Server::new(Quotas::default(), DomId(0));
            server.write_for(b"/local/domain/7/data", b"", &[Permission::new(ME, Access::NONE)]).unwrap();
            server.introduce(ME, false).unwrap();
            let mut served = Served::new(ME, &page);
            while !done.load(std::sync::atomic::Ordering::Acquire) {
                latch.wait(1);
                while served.service(&mut server, 4).notify {
                    latch.fire(0);
                }
            }
            server.check().unwrap();
        });
        let client = Blocking::new(Connection::new(&page), Channel(latch.clone()));
        let store = Store::new(&client);
        // The server may not have said yet that the domain is there: it comes with its thread's start.
        for n in 0..2000usize {
            let value = vec![n as u8; n % 700];
            store.write("data/x", &value).unwrap();
            assert_eq!(store.read("data/x").unwrap(), value);
        }
        store.watch("data", "t").unwrap();
        assert_eq!(client.next_event().unwrap().path, b"data");
        done.store(true, std::sync::atomic::Ordering::Release);
        latch.fire(1);
    });
}

/// The operations need no more than the trait.
#[test]
fn an_exchange_may_be_anything() {
    struct Echo;
    impl Exchange for Echo {
        fn exchange(&self, type_: MessageType, transaction: u32, parts: &[&[u8]]) -> Result<Vec<u8>, Error> {
            assert_eq!((type_, transaction), (MessageType::WRITE, 0));
            assert_eq!(parts.concat(), b"a\0b");
            Ok(b"OK\0".to_vec())
        }
    }
    let echo: &dyn Exchange = &Echo;
    assert_eq!(Store::new(echo).write("a", b"b"), Ok(()));
}
