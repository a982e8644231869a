//! The store against a model that forgets nothing it must not forget, step by step, on a machine that is too small.

mod common;

use std::collections::BTreeMap;

use common::{Guest, Machine, page_of};
use ebb_tmem::{ClientId, Config, Error, Handle, Kind, Page, Progress, Scratch, Store, Tmem};
use proptest::prelude::*;

const CLIENTS: u16 = 3;
const UUID: [u64; 2] = [7, 9];
/// The pools of each client: persistent, ephemeral, shared, and a second persistent one.
const FLAGS: [u32; 4] = [0x0100_0001, 0x0100_0000, 0x0100_0002, 0x0100_0001];

#[derive(Clone, Debug)]
enum Step {
    Put { client: u16, pool: u32, object: u8, index: u32, kind: u8, number: u64, mapped: bool },
    Get { client: u16, pool: u32, object: u8, index: u32, mapped: bool },
    FlushPage { client: u16, pool: u32, object: u8, index: u32 },
    FlushObject { client: u16, pool: u32, object: u8 },
    Remake { client: u16, pool: u32 },
    Destroy { client: u16 },
    Reclaim { frames: u64 },
    Compact,
    Squeeze { frames: usize },
    Compress { client: u16, on: bool },
    Deduplicate { client: u16, on: bool },
    Limits { client: u16, floor: u64, cap: u64, weight: u32 },
    Freeze { client: u16, on: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..CLIENTS, 0..4u32, 0..4u8, 0..24u32);
    prop_oneof![
        24 => (place(), 0..4u8, 0..12u64, prop::bool::weighted(0.97)).prop_map(
            |((client, pool, object, index), kind, number, mapped)| Step::Put {
                client, pool, object, index, kind, number, mapped
            }
        ),
        16 => (place(), prop::bool::weighted(0.95)).prop_map(|((client, pool, object, index), mapped)| Step::Get {
            client, pool, object, index, mapped
        }),
        4 => place().prop_map(|(client, pool, object, index)| Step::FlushPage { client, pool, object, index }),
        1 => place().prop_map(|(client, pool, object, _)| Step::FlushObject { client, pool, object }),
        1 => (0..CLIENTS, 0..4u32).prop_map(|(client, pool)| Step::Remake { client, pool }),
        1 => (0..CLIENTS).prop_map(|client| Step::Destroy { client }),
        1 => (1..40u64).prop_map(|frames| Step::Reclaim { frames }),
        1 => Just(Step::Compact),
        1 => (0..150usize).prop_map(|frames| Step::Squeeze { frames }),
        1 => (0..CLIENTS, any::<bool>()).prop_map(|(client, on)| Step::Compress { client, on }),
        1 => (0..CLIENTS, any::<bool>()).prop_map(|(client, on)| Step::Deduplicate { client, on }),
        1 => (0..CLIENTS, 0..30u64, 30..100u64, 0..4u32).prop_map(|(client, floor, cap, weight)| Step::Limits {
            client, floor, cap, weight: weight * 100
        }),
        1 => (0..CLIENTS, prop::bool::weighted(0.2)).prop_map(|(client, on)| Step::Freeze { client, on }),
    ]
}

/// Where a page is in the model: the client (none for the shared pool), the pool, the object, the index.
type Place = (Option<u16>, u32, u8, u32);

struct Model<'a> {
    tmem: Tmem<'a, Machine>,
    machine: &'a Machine,
    store: &'a Store,
    pages: BTreeMap<Place, Box<Page>>,
    frozen: [bool; CLIENTS as usize],
    scratch: Scratch,
    squeezed: Vec<u32>,
}

fn handle(pool: u32, object: u8, index: u32) -> Handle {
    Handle { pool, oid: [u64::from(object), 1, u64::MAX], index }
}

impl<'a> Model<'a> {
    fn new(store: &'a Store, machine: &'a Machine) -> Self {
        let mut model = Self {
            tmem: store.on(machine),
            machine,
            store,
            pages: BTreeMap::new(),
            frozen: [false; CLIENTS as usize],
            scratch: Scratch::try_new().expect("memory"),
            squeezed: Vec::new(),
        };
        (0..CLIENTS).for_each(|client| model.enter(client));
        model
    }

    /// Makes a client with its four pools.
    fn enter(&mut self, client: u16) {
        let id = ClientId(client);
        self.tmem.create_client(id).unwrap();
        self.tmem.authorise(id, UUID, true).unwrap();
        for (pool, flags) in FLAGS.iter().enumerate() {
            assert_eq!(self.tmem.new_pool(id, *flags, UUID), Ok(pool as u32));
        }
        self.frozen[usize::from(client)] = false;
    }

    fn place(client: u16, pool: u32, object: u8, index: u32) -> Place {
        ((pool != 2).then_some(client), pool, object, index)
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Put { client, pool, object, index, kind, number, mapped } => {
                let page = page_of(kind, number);
                self.put(client, pool, object, index, mapped.then_some(page));
            }
            Step::Get { client, pool, object, index, mapped } => self.get(client, pool, object, index, mapped),
            Step::FlushPage { client, pool, object, index } => {
                let result = self.tmem.flush_page(ClientId(client), &handle(pool, object, index));
                let there = self.pages.remove(&Self::place(client, pool, object, index)).is_some();
                match result {
                    Err(error) => assert!(error == Error::Frozen && self.frozen[usize::from(client)]),
                    Ok(found) => assert!(found == there || !found && is_ephemeral(pool), "flush found {found}"),
                }
            }
            Step::FlushObject { client, pool, object } => self.flush_object(client, pool, object),
            Step::Remake { client, pool } => self.remake(client, pool),
            Step::Destroy { client } => {
                while self.tmem.destroy_client(ClientId(client), 3) == Progress::More {}
                self.forget(|place| place.0 == Some(client));
                assert_eq!(self.machine.charged(ClientId(client), Kind::Ephemeral), 0);
                assert_eq!(self.machine.charged(ClientId(client), Kind::Persistent), 0);
                self.enter(client);
                self.forget_shared();
            }
            Step::Reclaim { frames } => {
                let before = self.machine.free_frames();
                let (freed, more) = self.tmem.reclaim(frames, 1000);
                assert_eq!(self.machine.free_frames() - before, freed as usize, "frames said to be free");
                assert!(freed >= frames || !more || self.tmem.freeable() != 0);
                assert!(more || self.tmem.freeable() == 0, "something is left to take");
            }
            Step::Compact => assert!(self.tmem.compact(1000)),
            Step::Squeeze { frames } => {
                self.machine.give(std::mem::take(&mut self.squeezed));
                self.squeezed = self.machine.take(frames);
            }
            Step::Compress { client, on } => self.tmem.set_client_info(Some(ClientId(client)), 256, on).unwrap(),
            Step::Deduplicate { client, on } => self.tmem.set_deduplication(ClientId(client), on).unwrap(),
            Step::Limits { client, floor, cap, weight } => {
                let account = self.store.account(ClientId(client)).unwrap();
                account.set_limits(floor, cap);
                account.set_weight(weight);
            }
            Step::Freeze { client, on } => {
                self.tmem.freeze(Some(ClientId(client)), on).unwrap();
                self.frozen[usize::from(client)] = on;
            }
        }
        self.check();
    }

    fn put(&mut self, client: u16, pool: u32, object: u8, index: u32, page: Option<Page>) {
        let guest = page.map_or_else(Guest::unmapped, Guest::new);
        let place = Self::place(client, pool, object, index);
        let caps = (0..CLIENTS).map(|client| self.store.account(ClientId(client)).unwrap());
        let before: Vec<_> = caps.clone().map(|account| account.frames(Kind::Ephemeral)).collect();
        let result = self.tmem.put(ClientId(client), &handle(pool, object, index), &guest, &mut self.scratch);
        for (account, before) in caps.zip(before) {
            let now = account.frames(Kind::Ephemeral);
            assert!(now <= before.max(account.limits().1), "{now} frames, above the cap");
        }
        match result {
            Ok(()) => {
                self.pages.insert(place, Box::new(page.expect("a put from nowhere was accepted")));
            }
            Err(Error::Fault) => assert!(page.is_none()),
            Err(Error::Frozen) => {
                assert!(self.frozen[usize::from(client)]);
                assert!(is_ephemeral(pool) || !self.pages.contains_key(&place));
            }
            Err(Error::NoMemory) => assert!(is_ephemeral(pool) || !self.pages.contains_key(&place)),
            Err(Error::NoSpace) => assert!(self.pages.remove(&place).is_some()),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn get(&mut self, client: u16, pool: u32, object: u8, index: u32, mapped: bool) {
        let guest = if mapped { Guest::empty() } else { Guest::unmapped() };
        let place = Self::place(client, pool, object, index);
        match self.tmem.get(ClientId(client), &handle(pool, object, index), &guest, &mut self.scratch) {
            Ok(true) => {
                let expected = self.pages.get(&place).expect("a page that was never put, or is gone");
                assert!(guest.page() == **expected, "another page");
                if pool == 1 {
                    self.pages.remove(&place);
                }
            }
            Ok(false) | Err(Error::Empty) => {
                assert!(is_ephemeral(pool) || !self.pages.contains_key(&place), "a persistent page is lost");
                self.pages.remove(&place);
            }
            Err(Error::Fault) => assert!(!mapped && self.pages.contains_key(&place)),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn flush_object(&mut self, client: u16, pool: u32, object: u8) {
        loop {
            match self.tmem.flush_object(ClientId(client), pool, [u64::from(object), 1, u64::MAX], 2) {
                Ok(Progress::More) => {}
                Ok(Progress::Done) => break,
                Err(error) => {
                    assert!(error == Error::Frozen && self.frozen[usize::from(client)]);
                    break;
                }
            }
        }
        let owner = Self::place(client, pool, object, 0).0;
        self.forget(|place| (place.0, place.1, place.2) == (owner, pool, object));
    }

    /// Destroys a pool, and makes it again: nothing of the old one is in it.
    fn remake(&mut self, client: u16, pool: u32) {
        let id = ClientId(client);
        let mut rounds = 0;
        while self.tmem.destroy_pool(id, pool, 3) == (true, Progress::More) {
            rounds += 1;
            assert!(rounds < 1000, "destroying does not end");
        }
        assert_eq!(self.tmem.destroy_pool(id, pool, 3), (false, Progress::Done));
        let nobody = Guest::unmapped();
        let gone = self.tmem.get(id, &handle(pool, 0, 0), &nobody, &mut self.scratch);
        assert_eq!(gone, Err(Error::NoPool));
        assert_eq!(self.tmem.new_pool(id, FLAGS[pool as usize], UUID), Ok(pool));
        if pool == 2 {
            self.forget_shared();
        } else {
            self.forget(|place| place.0 == Some(client) && place.1 == pool);
        }
    }

    /// The shared pool may have been emptied; whether it was is seen by getting.
    fn forget_shared(&mut self) {
        let (client, mut lost) = (ClientId(0), Vec::new());
        for place in self.pages.keys().filter(|place| place.0.is_none()) {
            let guest = Guest::empty();
            let found = self.tmem.get(client, &handle(2, place.2, place.3), &guest, &mut self.scratch);
            if found != Ok(true) {
                lost.push(*place);
            }
        }
        lost.iter().for_each(|place| drop(self.pages.remove(place)));
    }

    fn forget(&mut self, gone: impl Fn(&Place) -> bool) {
        self.pages.retain(|place, _| !gone(place));
    }

    fn check(&self) {
        self.tmem.audit();
        for client in (0..CLIENTS).map(ClientId) {
            for kind in [Kind::Ephemeral, Kind::Persistent] {
                let account = self.store.account(client).unwrap();
                assert_eq!(account.frames(kind), self.machine.charged(client, kind), "{client:?} {kind:?}");
            }
        }
    }
}

fn is_ephemeral(pool: u32) -> bool {
    FLAGS[pool as usize] & 1 == 0
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 1 } else { 1500 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_store_does_what_the_model_does(
        steps in prop::collection::vec(step(), 1..if cfg!(miri) { 20 } else { 250 }),
        compress: bool, deduplicate: bool, frames in 100..220usize,
    ) {
        let machine = Machine::new(frames);
        machine.set_maximum(ClientId(1), 60);
        let store = Store::new(Config { clients: usize::from(CLIENTS), seed: 42, compress, deduplicate });
        let mut model = Model::new(&store, &machine);
        steps.iter().for_each(|step| model.run(step));
        for client in (0..CLIENTS).map(ClientId) {
            while model.tmem.destroy_client(client, 7) == Progress::More {}
        }
        machine.give(std::mem::take(&mut model.squeezed));
        prop_assert_eq!(machine.free_frames(), frames, "frames are missing");
    }
}
