//! A guest that does something at the moment its page is copied.

mod common;

use std::cell::Cell;

use common::{Guest, Machine, page_of};
use ebb_tmem::{ClientId, Config, Error, Fault, GuestPage, Handle, Page, Progress, Scratch, Store, Tmem};

const EPHEMERAL: u32 = 0x0100_0000;
const A: ClientId = ClientId(0);

fn store(compress: bool, deduplicate: bool) -> Store {
    Store::new(Config { clients: 2, seed: 0x5eed, compress, deduplicate })
}

fn at(pool: u32, index: u32) -> Handle {
    Handle { pool, oid: [1, 2, 3], index }
}

struct Tester<'a> {
    tmem: Tmem<'a, Machine>,
    scratch: Scratch,
}

impl<'a> Tester<'a> {
    fn new(store: &'a Store, machine: &'a Machine) -> Self {
        Self { tmem: store.on(machine), scratch: Scratch::try_new().expect("memory") }
    }

    fn put(&mut self, index: u32, page: Page) -> Result<(), Error> {
        self.tmem.put(A, &at(0, index), &Guest::new(page), &mut self.scratch)
    }

    fn get(&mut self, index: u32) -> Result<Option<Page>, Error> {
        let guest = Guest::empty();
        let found = self.tmem.get(A, &at(0, index), &guest, &mut self.scratch)?;
        Ok(found.then(|| guest.page()))
    }

    fn destroy(&self, client: ClientId) {
        while self.tmem.destroy_client(client, 100) == Progress::More {}
    }
}

/// A guest that does something at the moment its page is copied.
struct Meddler<'a> {
    page: Guest,
    act: &'a dyn Fn(),
    acted: Cell<bool>,
}

impl Meddler<'_> {
    fn meddle(&self) {
        if !self.acted.replace(true) {
            (self.act)();
        }
    }
}

impl GuestPage<Machine> for Meddler<'_> {
    fn read(&self, page: &mut Page) -> Result<(), Fault> {
        self.meddle();
        self.page.read(page)
    }
    fn read_frame(&self, frames: &Machine, frame: u32) -> Result<(), Fault> {
        self.meddle();
        self.page.read_frame(frames, frame)
    }
    fn write(&self, page: &Page) -> Result<(), Fault> {
        self.meddle();
        self.page.write(page)
    }
    fn write_frame(&self, frames: &Machine, frame: u32) -> Result<(), Fault> {
        self.meddle();
        self.page.write_frame(frames, frame)
    }
}

#[test]
fn nothing_that_happens_during_a_copy_breaks_it() {
    for kind in if cfg!(miri) { 3..=3 } else { 1..=3 } {
        for action in 0..6 {
            let (machine, store) = (Machine::new(100), store(kind != 3, true));
            let mut t = Tester::new(&store, &machine);
            t.tmem.new_pool(A, EPHEMERAL, [1, 2]).unwrap();
            t.put(0, page_of(kind, 1)).unwrap();
            let other = store.on(&machine);
            let mapped = action != 5;
            let act = || {
                let mut scratch = Scratch::try_new().expect("memory");
                match action {
                    0 => assert_eq!(other.flush_page(A, &at(0, 0)), Ok(true)),
                    1 => other.put(A, &at(0, 0), &Guest::new(page_of(kind, 2)), &mut scratch).unwrap(),
                    2 => assert_eq!(other.get(A, &at(0, 0), &Guest::empty(), &mut scratch), Ok(false)),
                    3 => drop(other.reclaim(100, 100)),
                    4 => assert_eq!(other.destroy_pool(A, 0, 100), (true, Progress::More), "it is in use"),
                    _ => {}
                }
            };
            let page = if mapped { Guest::empty() } else { Guest::unmapped() };
            let meddler = Meddler { page, act: &act, acted: Cell::new(false) };
            let found = t.tmem.get(A, &at(0, 0), &meddler, &mut t.scratch);
            if mapped {
                assert_eq!(found, Ok(true));
                assert!(meddler.page.page() == page_of(kind, 1), "kind {kind} action {action}: another page");
            } else {
                assert_eq!(found, Err(Error::Fault));
            }
            let after = t.get(0);
            match action {
                1 => assert_eq!(after, Ok(Some(page_of(kind, 2))), "the newer page stays"),
                4 => assert_eq!(after, Err(Error::NoPool)),
                5 => assert_eq!(after, Ok(Some(page_of(kind, 1))), "a get that failed has changed nothing"),
                _ => assert_eq!(after, Err(Error::Empty)),
            }
            t.tmem.audit();
            t.destroy(A);
            assert_eq!(machine.free_frames(), 100);
        }
    }
}

#[test]
fn a_put_is_the_last_word_whatever_happens_during_its_copy() {
    let ways: &[_] =
        if cfg!(miri) { &[(false, true)] } else { &[(false, false), (false, true), (true, false), (true, true)] };
    for (compress, deduplicate) in ways.iter().copied() {
        for action in 0..6 {
            let (machine, store) = (Machine::new(100), store(compress, deduplicate));
            let mut t = Tester::new(&store, &machine);
            t.tmem.new_pool(A, EPHEMERAL, [1, 2]).unwrap();
            t.put(0, page_of(3, 1)).unwrap();
            let other = store.on(&machine);
            let act = || {
                let mut scratch = Scratch::try_new().expect("memory");
                match action {
                    0 => assert_eq!(other.flush_page(A, &at(0, 0)), Ok(true)),
                    1 => other.put(A, &at(0, 0), &Guest::new(page_of(3, 9)), &mut scratch).unwrap(),
                    2 => assert_eq!(other.get(A, &at(0, 0), &Guest::empty(), &mut scratch), Ok(true)),
                    3 => drop(other.reclaim(100, 100)),
                    4 => assert_eq!(other.destroy_pool(A, 0, 100), (true, Progress::More), "it is in use"),
                    _ => {}
                }
            };
            let page = if action == 5 { Guest::unmapped() } else { Guest::new(page_of(3, 2)) };
            let meddler = Meddler { page, act: &act, acted: Cell::new(false) };
            let put = t.tmem.put(A, &at(0, 0), &meddler, &mut t.scratch);
            match action {
                4 => assert_eq!((put, t.get(0)), (Ok(()), Err(Error::NoPool))),
                5 => assert_eq!((put, t.get(0)), (Err(Error::Fault), Ok(Some(page_of(3, 1)))), "nothing has changed"),
                _ => assert_eq!((put, t.get(0)), (Ok(()), Ok(Some(page_of(3, 2))))),
            }
            t.tmem.audit();
            t.destroy(A);
            assert_eq!(machine.free_frames(), 100);
        }
    }
}
