//! The index of pages: a shard of it. What is where is in slots of frames; this is the code that links them.
//!
//! A handle is (pool, object, index). The pages of an object are in one shard, chosen by the object's hash. A node is
//! a slot of 8 words; word 0 chains it in the table, the high half of word 1 is its hash:
//!
//! | word | object | page | log entry |
//! |---|---|---|---|
//! | 1, low | pool | index | index |
//! | 2 | next and previous object of the pool | next and previous page of the object | pool |
//! | 3 | first page, number of pages | next and previous in order of age | next and previous entry |
//! | 4 | object id | content | object id |
//! | 5 | object id | stamp | object id |
//! | 6 | object id | object, and whether a get is under way | object id |
//!
//! Invariants: an object has at least one page; every page is in its object's list and in the order of age; a page's
//! node holds one reference to its content. Nodes are named by 32 bits, so they lie in the first 256 GiB.
//!
//! Locking: the shard's own lock, held over short sequences of loads and stores; no copying under it.

use crate::account::Payer;
use crate::frames::{Frame, Frames, Spares};
use crate::slab::Slab;
use crate::table::Table;
use crate::vault::Content;

/// The name of a node; 0 is none.
pub type Node = u32;

/// Frames at and above this number are no good for nodes.
pub const NODE_FRAMES: u32 = 1 << 26;
/// Pools of a client.
pub const POOLS: usize = 16;

const WORDS: usize = 8;
type Nodes = Slab<WORDS>;

const KEY: usize = 1;
const SIBLINGS: usize = 2;
const PAGES: usize = 3;
const ORDER: usize = 3;
const OID: usize = 4;
const CONTENT: usize = 4;
const STAMP: usize = 5;
const OWNER: usize = 6;
const TYPE: usize = 7;

const OBJECT: u64 = 1;
const PAGE: u64 = 2;
const ENTRY: u64 = 3;
/// In a page's OWNER: an exclusive get is copying it.
const TAKEN: u64 = 1 << 32;

/// An object's name.
pub type ObjectId = [u64; 3];

/// A page's handle, with its object's hash.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The pool's number in its arena.
    pub pool: u8,
    /// The object.
    pub oid: ObjectId,
    /// The page.
    pub index: u32,
    /// The hash of pool and object.
    pub hash: u64,
}

/// The finaliser of splitmix64.
pub fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

impl Key {
    /// The handle. `seed` is the store's secret: no guest can choose names that collide.
    pub fn new(seed: u64, pool: u8, oid: ObjectId, index: u32) -> Self {
        let hash = oid.iter().fold(seed ^ u64::from(pool), |hash, word| mix(hash ^ word).wrapping_add(seed));
        Self { pool, oid, index, hash }
    }

    fn object_hash(&self) -> u32 {
        (self.hash >> 32) as u32
    }

    fn page_hash(object: Node, index: u32) -> u32 {
        (mix(u64::from(object) << 32 | u64::from(index)) >> 32) as u32
    }
}

/// First and last of a list of nodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct List {
    head: Node,
    tail: Node,
}

fn get<F: Frames>(frames: &F, node: Node, word: usize) -> u64 {
    Nodes::get(frames, u64::from(node), word)
}

fn set<F: Frames>(frames: &F, node: Node, word: usize, value: u64) {
    Nodes::set(frames, u64::from(node), word, value);
}

fn pair(low: Node, high: Node) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

fn low<F: Frames>(frames: &F, node: Node, word: usize) -> Node {
    get(frames, node, word) as Node
}

fn high<F: Frames>(frames: &F, node: Node, word: usize) -> Node {
    (get(frames, node, word) >> 32) as Node
}

fn set_low<F: Frames>(frames: &F, node: Node, word: usize, value: Node) {
    set(frames, node, word, pair(value, high(frames, node, word)));
}

fn set_high<F: Frames>(frames: &F, node: Node, word: usize, value: Node) {
    set(frames, node, word, pair(low(frames, node, word), value));
}

impl List {
    /// Adds at the end. `word` of the node links it: next low, previous high.
    fn append<F: Frames>(&mut self, frames: &F, node: Node, word: usize) {
        set(frames, node, word, pair(0, self.tail));
        if self.tail == 0 {
            self.head = node;
        } else {
            set_low(frames, self.tail, word, node);
        }
        self.tail = node;
    }

    fn unlink<F: Frames>(&mut self, frames: &F, node: Node, word: usize) {
        let (next, previous) = (low(frames, node, word), high(frames, node, word));
        if next == 0 {
            self.tail = previous;
        } else {
            set_high(frames, next, word, previous);
        }
        if previous == 0 {
            self.head = next;
        } else {
            set_low(frames, previous, word, next);
        }
    }
}

/// A list without a tail: new ones come first.
fn push_first<F: Frames>(frames: &F, head: &mut Node, node: Node) {
    set(frames, node, SIBLINGS, pair(*head, 0));
    if *head != 0 {
        set_high(frames, *head, SIBLINGS, node);
    }
    *head = node;
}

fn unlink_sibling<F: Frames>(frames: &F, head: &mut Node, node: Node) {
    let (next, previous) = (low(frames, node, SIBLINGS), high(frames, node, SIBLINGS));
    if next != 0 {
        set_high(frames, next, SIBLINGS, previous);
    }
    if previous == 0 {
        *head = next;
    } else {
        set_low(frames, previous, SIBLINGS, next);
    }
}

/// Frames wanted before a page can be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wants {
    /// How many.
    pub frames: usize,
    /// It goes without them too, only slower.
    pub optional: bool,
}

/// A shard.
#[derive(Debug)]
pub struct Shard {
    nodes: Slab<WORDS>,
    table: Table<WORDS>,
    /// All pages, oldest first.
    order: List,
    /// The first object of each pool.
    pools: [Node; POOLS],
    /// Pages flushed while the client is being saved.
    log: List,
    /// The next page that saving hands out, 0 when it has not begun or is through.
    cursor: Node,
    /// The youngest page's stamp.
    stamp: u64,
    /// Pages by pool.
    pages: [u32; POOLS],
    objects: u64,
    entries: u64,
}

impl Shard {
    /// An empty one.
    pub const fn new() -> Self {
        Self {
            nodes: Slab::new(),
            table: Table::new(),
            order: List { head: 0, tail: 0 },
            pools: [0; POOLS],
            log: List { head: 0, tail: 0 },
            cursor: 0,
            stamp: 0,
            pages: [0; POOLS],
            objects: 0,
            entries: 0,
        }
    }

    /// Pages of a pool.
    pub fn pages(&self, pool: u8) -> u64 {
        u64::from(self.pages[usize::from(pool)])
    }

    /// A stamp greater than all before.
    fn stamp<F: Frames>(&mut self, frames: &F) -> u64 {
        self.stamp = frames.time().max(self.stamp + 1);
        self.stamp
    }

    /// Objects in it.
    pub fn objects(&self) -> u64 {
        self.objects
    }

    /// Frames of metadata.
    pub fn frames(&self) -> u64 {
        self.nodes.frames() + self.table.frames()
    }

    fn find_object<F: Frames>(&self, frames: &F, key: &Key) -> Option<Node> {
        let found = self.table.find(frames, key.object_hash(), |slot| {
            let word = |index| Nodes::get(frames, slot, index);
            word(TYPE) == OBJECT
                && word(KEY) as u8 == key.pool
                && (0..3).all(|index| word(OID + index) == key.oid[index])
        });
        found.map(|slot| slot as Node)
    }

    fn find_in<F: Frames>(&self, frames: &F, object: Node, index: u32) -> Option<Node> {
        let found = self.table.find(frames, Key::page_hash(object, index), |slot| {
            let word = |index| Nodes::get(frames, slot, index);
            word(TYPE) == PAGE && word(KEY) as u32 == index && word(OWNER) as Node == object
        });
        found.map(|slot| slot as Node)
    }

    /// The page of a handle.
    pub fn find<F: Frames>(&self, frames: &F, key: &Key) -> Option<Node> {
        self.find_in(frames, self.find_object(frames, key)?, key.index)
    }

    /// What it would want before the next insertion.
    fn wants(&self, spares: &Spares, asked: bool) -> Option<Wants> {
        if self.table.must_have() > spares.len() {
            return Some(Wants { frames: 2, optional: false });
        }
        let growth = self.table.could_use();
        (growth > spares.len() && !asked).then_some(Wants { frames: growth, optional: true })
    }

    /// Enters a page with a reference to its content; gives the content that was there. `asked`: frames that were
    /// optional have been asked for.
    pub fn insert<F: Frames>(
        &mut self,
        frames: &F,
        key: &Key,
        content: Content,
        spares: &mut Spares,
        asked: bool,
    ) -> Result<Option<Content>, Wants> {
        let object = self.find_object(frames, key);
        if let Some(node) = object.and_then(|object| self.find_in(frames, object, key.index)) {
            let old = Content::from_word(get(frames, node, CONTENT));
            set(frames, node, CONTENT, content.word());
            // A get of the old content that is under way has nothing to take out any more.
            set(frames, node, OWNER, get(frames, node, OWNER) & !TAKEN);
            self.refresh(frames, node);
            return Ok(Some(old));
        }
        if let Some(wants) = self.wants(spares, asked) {
            return Err(wants);
        }
        if self.table.must_have() != 0
            && let Some(segment) = spares.pop()
        {
            self.table.begin(segment);
        }
        let node = self.node(frames, spares)?;
        let object = match object {
            Some(object) => object,
            None => match self.node(frames, spares) {
                Ok(object) => self.new_object(frames, object, key, spares),
                Err(wants) => {
                    if let Some(frame) = self.nodes.free(frames, u64::from(node)) {
                        spares.push(frame);
                    }
                    return Err(wants);
                }
            },
        };
        self.new_page(frames, node, object, key, content);
        self.table.grow(frames, spares);
        Ok(None)
    }

    fn node<F: Frames>(&mut self, frames: &F, spares: &mut Spares) -> Result<Node, Wants> {
        if let Some(slot) = self.nodes.allocate(frames) {
            return Ok(slot as Node);
        }
        let frame = spares.pop().ok_or(Wants { frames: 1, optional: false })?;
        self.nodes.add(frames, frame);
        self.nodes.allocate(frames).map(|slot| slot as Node).ok_or(Wants { frames: 1, optional: false })
    }

    fn new_object<F: Frames>(&mut self, frames: &F, object: Node, key: &Key, spares: &mut Spares) -> Node {
        set(frames, object, KEY, pair(u32::from(key.pool), key.object_hash()));
        for (index, word) in key.oid.iter().enumerate() {
            set(frames, object, OID + index, *word);
        }
        set(frames, object, PAGES, 0);
        set(frames, object, TYPE, OBJECT);
        push_first(frames, &mut self.pools[usize::from(key.pool)], object);
        self.table.insert(frames, u64::from(object));
        self.table.grow(frames, spares);
        self.objects += 1;
        object
    }

    fn new_page<F: Frames>(&mut self, frames: &F, node: Node, object: Node, key: &Key, content: Content) {
        set(frames, node, KEY, pair(key.index, Key::page_hash(object, key.index)));
        set(frames, node, CONTENT, content.word());
        set(frames, node, STAMP, self.stamp(frames));
        set(frames, node, OWNER, u64::from(object));
        set(frames, node, TYPE, PAGE);
        let mut first = low(frames, object, PAGES);
        push_first(frames, &mut first, node);
        set(frames, object, PAGES, pair(first, high(frames, object, PAGES) + 1));
        self.order.append(frames, node, ORDER);
        self.table.insert(frames, u64::from(node));
        self.pages[usize::from(key.pool)] += 1;
    }

    /// Makes a page the youngest.
    pub fn refresh<F: Frames>(&mut self, frames: &F, node: Node) {
        self.order.unlink(frames, node, ORDER);
        self.order.append(frames, node, ORDER);
        set(frames, node, STAMP, self.stamp(frames));
    }

    /// Begins a get: the content, with a reference for the caller, and the stamp that [`Shard::end_get`] wants. An
    /// `exclusive` one marks the page, so that no second one finds it.
    pub fn begin_get<F: Frames>(&mut self, frames: &F, node: Node, exclusive: bool) -> Option<(Content, u64)> {
        let owner = get(frames, node, OWNER);
        if owner & TAKEN != 0 {
            return None;
        }
        if exclusive {
            set(frames, node, OWNER, owner | TAKEN);
        }
        let content = Content::from_word(get(frames, node, CONTENT));
        content.acquire(frames);
        Some((content, get(frames, node, STAMP)))
    }

    /// Ends an exclusive get, if the page is still the one that it found: takes it out, and gives the content; or
    /// leaves it as it was if the copy failed.
    pub fn end_get<F: Frames>(&mut self, payer: &Payer<'_, F>, key: &Key, stamp: u64, copied: bool) -> Option<Content> {
        let frames = payer.frames;
        let node = self.find(frames, key).filter(|node| get(frames, *node, STAMP) == stamp)?;
        if copied {
            return Some(self.remove(payer, node));
        }
        set(frames, node, OWNER, get(frames, node, OWNER) & !TAKEN);
        None
    }

    /// Takes a page out, and gives its content, with the node's reference.
    pub fn remove<F: Frames>(&mut self, payer: &Payer<'_, F>, node: Node) -> Content {
        let content = self.detach(payer, node);
        self.free_node(payer, node);
        content
    }

    /// Takes a page out and leaves an entry in the log of flushed pages.
    pub fn remove_logged<F: Frames>(&mut self, payer: &Payer<'_, F>, node: Node) -> Content {
        let frames = payer.frames;
        let object = low(frames, node, OWNER);
        let pool = low(frames, object, KEY);
        let oid: [u64; 3] = core::array::from_fn(|index| get(frames, object, OID + index));
        let content = self.detach(payer, node);
        set(frames, node, SIBLINGS, u64::from(pool));
        self.log.append(frames, node, ORDER);
        for (index, word) in oid.iter().enumerate() {
            set(frames, node, OID + index, *word);
        }
        set(frames, node, TYPE, ENTRY);
        self.entries += 1;
        content
    }

    fn detach<F: Frames>(&mut self, payer: &Payer<'_, F>, node: Node) -> Content {
        let frames = payer.frames;
        if self.cursor == node {
            self.cursor = self.successor(frames, node);
        }
        let object = low(frames, node, OWNER);
        self.table.remove(frames, u64::from(node));
        self.order.unlink(frames, node, ORDER);
        let mut first = low(frames, object, PAGES);
        unlink_sibling(frames, &mut first, node);
        let left = high(frames, object, PAGES) - 1;
        set(frames, object, PAGES, pair(first, left));
        let pool = low(frames, object, KEY) as usize % POOLS;
        self.pages[pool] -= 1;
        if left == 0 {
            self.table.remove(frames, u64::from(object));
            unlink_sibling(frames, &mut self.pools[pool], object);
            self.objects -= 1;
            self.free_node(payer, object);
        }
        self.table.shrink(frames, &mut |frame| payer.free(frame));
        Content::from_word(get(frames, node, CONTENT))
    }

    fn free_node<F: Frames>(&mut self, payer: &Payer<'_, F>, node: Node) {
        if let Some(frame) = self.nodes.free(payer.frames, u64::from(node)) {
            payer.free(frame);
        }
    }

    /// Gives up what was prepared for a page that did not come.
    pub fn trim<F: Frames>(&mut self, payer: &Payer<'_, F>) {
        self.table.trim(payer.frames, &mut |frame| payer.free(frame));
    }

    /// The first page of an object.
    pub fn first_of_object<F: Frames>(&self, frames: &F, key: &Key) -> Option<Node> {
        self.find_object(frames, key).map(|object| low(frames, object, PAGES))
    }

    /// Some page of a pool.
    pub fn first_of_pool<F: Frames>(&self, frames: &F, pool: u8) -> Option<Node> {
        let object = self.pools[usize::from(pool)];
        (object != 0).then(|| low(frames, object, PAGES))
    }

    /// The oldest page.
    pub fn oldest(&self) -> Option<Node> {
        (self.order.head != 0).then_some(self.order.head)
    }

    /// The stamp of the oldest page; the greatest number when there is none.
    pub fn oldest_stamp<F: Frames>(&self, frames: &F) -> u64 {
        if self.order.head == 0 { u64::MAX } else { get(frames, self.order.head, STAMP) }
    }

    /// The page of a pool that comes after `node`.
    fn successor<F: Frames>(&self, frames: &F, node: Node) -> Node {
        let next = low(frames, node, SIBLINGS);
        if next != 0 {
            return next;
        }
        let object = low(frames, low(frames, node, OWNER), SIBLINGS);
        if object == 0 { 0 } else { low(frames, object, PAGES) }
    }

    /// Begins to hand out a pool's pages.
    pub fn begin_walk<F: Frames>(&mut self, frames: &F, pool: u8) {
        self.cursor = self.first_of_pool(frames, pool).unwrap_or(0);
    }

    /// The next page that has not been handed out: its object, its index and its content with a reference.
    pub fn walk<F: Frames>(&mut self, frames: &F) -> Option<(ObjectId, u32, Content)> {
        let node = self.cursor;
        if node == 0 {
            return None;
        }
        let object = low(frames, node, OWNER);
        let oid = core::array::from_fn(|index| get(frames, object, OID + index));
        let content = Content::from_word(get(frames, node, CONTENT));
        content.acquire(frames);
        Some((oid, low(frames, node, KEY), content))
    }

    /// The page of `key` has been handed out: the walk goes on behind it, unless flushing it has done that already.
    pub fn walked<F: Frames>(&mut self, frames: &F, key: &Key) {
        if self.cursor != 0 && self.find(frames, key) == Some(self.cursor) {
            self.cursor = self.successor(frames, self.cursor);
        }
    }

    /// The log's entry after `entry` (the first one after 0), with what it says.
    pub fn log_after<F: Frames>(&self, frames: &F, entry: Node) -> Option<(Node, u8, ObjectId, u32)> {
        let next = if entry == 0 { self.log.head } else { low(frames, entry, ORDER) };
        let oid = |node| core::array::from_fn(|index| get(frames, node, OID + index));
        (next != 0).then(|| (next, low(frames, next, SIBLINGS) as u8, oid(next), low(frames, next, KEY)))
    }

    /// Forgets at most `budget` entries of the log; true when none is left.
    pub fn clear_log<F: Frames>(&mut self, payer: &Payer<'_, F>, budget: &mut usize) -> bool {
        while self.log.head != 0 && *budget != 0 {
            let entry = self.log.head;
            self.log.unlink(payer.frames, entry, ORDER);
            self.entries -= 1;
            self.free_node(payer, entry);
            *budget -= 1;
        }
        self.log.head == 0
    }

    /// Calls `visit` with each page's pool, content and object, for the audit; checks the links on the way.
    pub(crate) fn each_page<F: Frames>(&self, frames: &F, mut visit: impl FnMut(u8, Content)) {
        let (mut pages, mut objects) = ([0; POOLS], 0);
        for (pool, first) in self.pools.iter().enumerate() {
            let mut object = *first;
            while object != 0 {
                objects += 1;
                assert_eq!(get(frames, object, TYPE), OBJECT, "an object that is none");
                let (mut node, mut count) = (low(frames, object, PAGES), 0);
                while node != 0 {
                    assert_eq!(get(frames, node, TYPE), PAGE, "a page that is none");
                    assert_eq!(low(frames, node, OWNER), object, "a page of another object");
                    let index = low(frames, node, KEY);
                    assert_eq!(self.find_in(frames, object, index), Some(node), "a page that is not found");
                    visit(pool as u8, Content::from_word(get(frames, node, CONTENT)));
                    count += 1;
                    node = low(frames, node, SIBLINGS);
                }
                assert_eq!(high(frames, object, PAGES), count, "pages of an object");
                pages[pool] += count;
                object = low(frames, object, SIBLINGS);
            }
        }
        assert_eq!((self.pages, self.objects), (pages, objects), "pages and objects of a shard");
        let pages = pages.into_iter().map(u64::from).sum::<u64>();
        assert_eq!(self.nodes.used(), pages + objects + self.entries, "nodes of a shard");
        let (mut node, mut aged, mut stamp) = (self.order.head, 0, 0);
        while node != 0 {
            assert!(get(frames, node, STAMP) >= stamp, "the order of age");
            stamp = get(frames, node, STAMP);
            aged += 1;
            node = low(frames, node, ORDER);
        }
        assert_eq!(aged, pages, "pages in order of age");
    }
}

/// Whether a frame can hold nodes.
pub fn holds_nodes(frame: &Frame) -> bool {
    frame.number() < NODE_FRAMES
}
