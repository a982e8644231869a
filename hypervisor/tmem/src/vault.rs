//! Contents: each kept once, counted, raw in a frame or compressed in a pack.
//!
//! A vault belongs to one client and one kind of pool (or to one shared pool), so equal pages of two clients are never
//! found equal: how long a put takes would tell one what the other has. It is sharded by hash.
//!
//! A record, 4 words: next in the table's chain; hash (high half) and references; where it is; the whole hash.
//! A page of zeros has no record.
//!
//! Locking: the shard's lock over all but the count (see [`crate::refs`]). The bytes of a raw content never change and
//! never move while somebody has a reference, so they are read without it. Those in a pack move under it.

use alloc::boxed::Box;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use spin::{Mutex, MutexGuard};

use crate::account::Payer;
use crate::filter::COMPARED;
use crate::frames::{Frame, Frames, Page, Spares, few};
use crate::pack::{Pack, Place};
use crate::refs;
use crate::scratch::Scratch;
use crate::slab::{Slab, SlotId};
use crate::table::Table;

/// Shards of a vault.
pub const SHARDS: usize = 4;

/// A reference to a content. Not a value with an owner: the place that records it says who gives it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content(u64);

const SHARD_SHIFT: u32 = 60;
const WORDS: usize = 4;
const COUNT: usize = 1;
const PLACE: usize = 2;
const HASH: usize = 3;

/// In a record's place: kind of storage, and whether the table has it.
const PACKED: u64 = 1 << 62;
const LISTED: u64 = 1 << 63;

type Records = Slab<WORDS>;

impl Content {
    /// A page of zeros.
    pub const ZERO: Content = Content(1 << 63);

    /// As recorded in a node.
    pub fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// For a node.
    pub fn word(self) -> u64 {
        self.0
    }

    fn new(shard: usize, record: SlotId) -> Self {
        Self((shard as u64) << SHARD_SHIFT | record)
    }

    fn record(self) -> SlotId {
        self.0 & ((1 << SHARD_SHIFT) - 1)
    }

    fn shard(self) -> usize {
        (self.0 >> SHARD_SHIFT) as usize % SHARDS
    }

    fn count<F: Frames>(self, frames: &F) -> &AtomicU64 {
        let (frame, slot) = Records::place(self.record());
        frames.word(frame, slot * WORDS + COUNT)
    }

    /// One more reference, by somebody who knows of one that stays meanwhile.
    pub fn acquire<F: Frames>(self, frames: &F) {
        if self != Self::ZERO {
            refs::acquire(self.count(frames));
        }
    }
}

/// Where a content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    Raw(u32),
    Packed(Place),
}

impl Storage {
    fn word(self) -> u64 {
        match self {
            Storage::Raw(frame) => u64::from(frame),
            Storage::Packed(Place { frame, chunk, length }) => {
                PACKED | u64::from(length) << 40 | u64::from(chunk) << 32 | u64::from(frame)
            }
        }
    }

    fn from_word(word: u64) -> Self {
        let frame = word as u32;
        if word & PACKED == 0 {
            return Storage::Raw(frame);
        }
        Storage::Packed(Place { frame, chunk: (word >> 32) as u8, length: (word >> 40) as u16 & 0xfff })
    }
}

/// What a get found.
pub enum Found {
    /// The bytes are in this frame for as long as the reference is held.
    Frame(u32),
    /// The bytes are in the scratch page.
    Scratch,
    /// They are zero.
    Zero,
}

/// A page to be kept.
#[derive(Clone, Copy)]
pub enum Bytes<'a> {
    /// As it is.
    Raw(&'a Page),
    /// Compressed.
    Packed(&'a [u8]),
}

/// What a vault keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VaultFigures {
    /// Contents.
    pub contents: u64,
    /// Of these, how many raw.
    pub raw: u64,
    /// Bytes of the compressed ones.
    pub packed_bytes: u64,
    /// Frames that hold compressed ones.
    pub pack_frames: u64,
    /// Frames of metadata.
    pub metadata_frames: u64,
    /// Puts that found their content there.
    pub deduplicated: u64,
}

/// What a put changes comes first, so that it is in as few cache lines as can be.
#[repr(C)]
struct VaultShard {
    records: Slab<WORDS>,
    raw: u64,
    packed_bytes: u64,
    deduplicated: u64,
    table: Table<WORDS>,
    pack: Pack,
}

/// In cache lines of its own, with its lock.
#[repr(align(128))]
struct Locked(Mutex<VaultShard>);

impl Locked {
    fn lock(&self) -> MutexGuard<'_, VaultShard> {
        self.0.lock()
    }
}

/// The contents of one client's pools of one kind, or of a shared pool.
pub struct Vault {
    shards: Box<[Locked; SHARDS]>,
}

/// What a shard has to be given before it can keep a page.
struct Needs {
    metadata: usize,
    data: bool,
    /// It goes without them too, only slower.
    optional: bool,
}

impl Needs {
    const DATA: Needs = Needs { metadata: 0, data: true, optional: false };

    fn metadata(count: usize) -> Self {
        Self { metadata: count, data: false, optional: false }
    }
}

impl VaultShard {
    const fn new() -> Self {
        Self { records: Slab::new(), table: Table::new(), pack: Pack::new(), raw: 0, packed_bytes: 0, deduplicated: 0 }
    }

    /// An equal content, with a reference; or whether there is room in the table for one more with this hash.
    fn find<F: Frames>(&self, frames: &F, hash: u64, bytes: Bytes<'_>) -> Result<SlotId, bool> {
        let mut left = COMPARED;
        let found = self.table.find(frames, (hash >> 32) as u32, |record| {
            if Records::get(frames, record, HASH) != hash {
                return false;
            }
            left -= 1;
            let equal = match (Storage::from_word(Records::get(frames, record, PLACE)), bytes) {
                (Storage::Raw(frame), Bytes::Raw(page)) => frames.equal(frame, 0, page),
                (Storage::Packed(place), Bytes::Packed(bytes)) => Pack::equal(frames, place, bytes),
                _ => false,
            };
            let (frame, slot) = Records::place(record);
            equal && refs::try_acquire(frames.word(frame, slot * WORDS + COUNT))
        });
        found.ok_or(left != 0)
    }

    /// Makes a record with one reference, or says what is missing.
    fn keep<F: Frames>(
        &mut self,
        frames: &F,
        hash: u64,
        list: bool,
        bytes: Bytes<'_>,
        spares: &mut Spares,
        data: &mut Option<Frame>,
    ) -> Result<SlotId, Needs> {
        let raw = matches!(bytes, Bytes::Raw(_));
        if list && self.table.must_have() != 0 {
            let Some(segment) = spares.pop() else { return Err(Needs { data: raw, ..Needs::metadata(2) }) };
            self.table.begin(segment);
        }
        if raw && data.is_none() {
            return Err(Needs::DATA);
        }
        let Some(record) = self.records.allocate(frames) else {
            let Some(frame) = spares.pop() else { return Err(Needs::metadata(1)) };
            self.records.add(frames, frame);
            return self.keep(frames, hash, list, bytes, spares, data);
        };
        let storage = match bytes {
            Bytes::Raw(_) => data.take().map(|frame| Storage::Raw(frame.into_number())),
            Bytes::Packed(bytes) => self.place(frames, record, bytes, data).map(Storage::Packed),
        };
        let Some(storage) = storage else {
            // The frame stays in the slab only if something else is in it; what is left over goes to the spares.
            if let Some(frame) = self.records.free(frames, record) {
                spares.push(frame);
            }
            return Err(Needs::DATA);
        };
        self.enter(frames, record, hash, storage, list);
        if list {
            self.table.grow(frames, spares);
            self.table.insert(frames, record);
        }
        Ok(record)
    }

    /// Fills a record in, with one reference.
    fn enter<F: Frames>(&mut self, frames: &F, record: SlotId, hash: u64, storage: Storage, list: bool) {
        Records::set(frames, record, COUNT, hash >> 32 << 32 | 1);
        Records::set(frames, record, PLACE, storage.word() | if list { LISTED } else { 0 });
        Records::set(frames, record, HASH, hash);
        match storage {
            Storage::Raw(_) => self.raw += 1,
            Storage::Packed(place) => self.packed_bytes += u64::from(place.length),
        }
    }

    fn place<F: Frames>(
        &mut self,
        frames: &F,
        record: SlotId,
        bytes: &[u8],
        data: &mut Option<Frame>,
    ) -> Option<Place> {
        let length = bytes.len() as u16;
        let place = match self.pack.allocate(frames, record, length) {
            Some(place) => place,
            None => {
                self.pack.add(frames, data.take()?);
                self.pack.allocate(frames, record, length)?
            }
        };
        Pack::write(frames, place, bytes);
        Some(place)
    }

    /// Frees a record that has no references any more.
    fn discard<F: Frames>(&mut self, payer: &Payer<'_, F>, record: SlotId) {
        let frames = payer.frames;
        let word = Records::get(frames, record, PLACE);
        if word & LISTED != 0 {
            self.table.remove(frames, record);
            self.table.shrink(frames, &mut |frame| payer.free(frame));
        }
        match Storage::from_word(word) {
            Storage::Raw(frame) => {
                self.raw -= 1;
                payer.free(Frame::new(frame));
            }
            Storage::Packed(place) => {
                self.packed_bytes -= u64::from(place.length);
                if let Some(frame) = self.pack.free(frames, place) {
                    payer.free(frame);
                }
            }
        }
        if let Some(frame) = self.records.free(frames, record) {
            payer.free(frame);
        }
    }

    /// Empties one frame of a loose pack.
    fn compact<F: Frames>(&mut self, payer: &Payer<'_, F>) -> bool {
        let frames = payer.frames;
        let emptied = self.pack.empty(frames, |record, place| {
            let listed = Records::get(frames, record, PLACE) & LISTED;
            Records::set(frames, record, PLACE, Storage::Packed(place).word() | listed);
        });
        let Some(frame) = emptied else { return false };
        payer.free(frame);
        true
    }
}

impl Vault {
    /// An empty one; `None` when there is no memory.
    pub fn try_new() -> Option<Self> {
        Some(Self { shards: few(|| Locked(Mutex::new(VaultShard::new())))? })
    }

    /// Keeps a page that is in a frame already and is not compared with others, and gives a reference. `obtain` as for
    /// [`Vault::store`].
    pub fn store_frame<F: Frames, E>(
        &self,
        payer: &Payer<'_, F>,
        data: Frame,
        mut obtain: impl FnMut() -> Result<Frame, E>,
    ) -> Result<Content, E> {
        // What nobody looks for by its contents can be where no other CPU is.
        let index = payer.lane() % SHARDS;
        let mut shard = self.shards[index].lock();
        let record = loop {
            if let Some(record) = shard.records.allocate(payer.frames) {
                break record;
            }
            drop(shard);
            let frame = match obtain() {
                Ok(frame) => frame,
                Err(error) => {
                    payer.free(data);
                    return Err(error);
                }
            };
            shard = self.shards[index].lock();
            shard.records.add(payer.frames, frame);
        };
        shard.enter(payer.frames, record, 0, Storage::Raw(data.into_number()), false);
        Ok(Content::new(index, record))
    }

    /// Keeps a page, and gives a reference. `hash`: with which equal pages are found, if they are to be. `obtain` gets a
    /// frame (cleared if told so) with no lock held; when it cannot, nothing has changed.
    pub fn store<F: Frames, E>(
        &self,
        payer: &Payer<'_, F>,
        hash: Option<u64>,
        bytes: Bytes<'_>,
        mut obtain: impl FnMut(bool) -> Result<Frame, E>,
    ) -> Result<Content, E> {
        let frames = payer.frames;
        let mut data = None;
        let index = hash.map_or(payer.lane(), |hash| hash as usize) % SHARDS;
        let (mut spares, mut asked) = (Spares::new(), false);
        let result = loop {
            let needs = {
                let mut shard = self.shards[index].lock();
                let list = match hash.map_or(Err(false), |hash| shard.find(frames, hash, bytes)) {
                    Ok(record) => {
                        shard.deduplicated += 1;
                        break Ok(Content::new(index, record));
                    }
                    Err(list) => list,
                };
                let growth = shard.table.could_use();
                if list && growth != 0 && !asked {
                    asked = true;
                    Needs { optional: true, ..Needs::metadata(growth) }
                } else {
                    match shard.keep(frames, hash.unwrap_or_default(), list, bytes, &mut spares, &mut data) {
                        Ok(record) => break Ok(Content::new(index, record)),
                        Err(needs) => needs,
                    }
                }
            };
            if let Err(error) = supply(&needs, frames, bytes, &mut spares, &mut data, &mut obtain)
                && !needs.optional
            {
                // What was prepared for a first page goes with it.
                self.shards[index].lock().table.trim(frames, &mut |frame| payer.free(frame));
                break Err(error);
            }
        };
        while let Some(frame) = spares.pop().or_else(|| data.take()) {
            payer.free(frame);
        }
        result
    }

    /// The bytes of a content that the caller has a reference to.
    pub fn load<F: Frames>(&self, frames: &F, content: Content, scratch: &mut Scratch) -> Found {
        if content == Content::ZERO {
            return Found::Zero;
        }
        // Which of the two it is never changes.
        if let Storage::Raw(frame) = Storage::from_word(Records::get(frames, content.record(), PLACE)) {
            return Found::Frame(frame);
        }
        let shard = self.shards[content.shard()].lock();
        let Storage::Packed(place) = Storage::from_word(Records::get(frames, content.record(), PLACE)) else {
            unreachable!("a content that was packed and is not")
        };
        let length = usize::from(place.length);
        Pack::read(frames, place, scratch.packed_mut(length));
        drop(shard);
        assert!(scratch.decompress(length), "a compressed page does not decompress");
        Found::Scratch
    }

    /// Gives a reference up.
    pub fn release<F: Frames>(&self, payer: &Payer<'_, F>, content: Content) {
        if content == Content::ZERO || !refs::release(content.count(payer.frames)) {
            return;
        }
        let mut shard = self.shards[content.shard()].lock();
        shard.discard(payer, content.record());
        if shard.pack.is_loose() {
            let _ = shard.compact(payer);
        }
    }

    /// Empties at most `budget` frames of packed pages by moving what is in them together. True when that was all
    /// there is to do.
    pub fn compact<F: Frames>(&self, payer: &Payer<'_, F>, budget: usize) -> bool {
        let mut left = budget;
        for shard in self.shards.iter() {
            loop {
                if left == 0 {
                    return false;
                }
                if !shard.lock().compact(payer) {
                    break;
                }
                left -= 1;
            }
        }
        true
    }

    /// What it keeps.
    pub fn figures(&self) -> VaultFigures {
        let mut sum = VaultFigures::default();
        for shard in self.shards.iter() {
            let shard = shard.lock();
            sum.contents += shard.records.used();
            sum.raw += shard.raw;
            sum.packed_bytes += shard.packed_bytes;
            sum.pack_frames += shard.pack.frames();
            sum.metadata_frames += shard.records.frames() + shard.table.frames();
            sum.deduplicated += shard.deduplicated;
        }
        sum
    }

    /// The references of a content, for the audit.
    pub(crate) fn references<F: Frames>(frames: &F, content: Content) -> u64 {
        content.count(frames).load(Relaxed) & 0xffff_ffff
    }
}

fn supply<F: Frames, E>(
    needs: &Needs,
    frames: &F,
    bytes: Bytes<'_>,
    spares: &mut Spares,
    data: &mut Option<Frame>,
    obtain: &mut impl FnMut(bool) -> Result<Frame, E>,
) -> Result<(), E> {
    if needs.data && data.is_none() {
        // All of it is written, or only what has been written is read.
        let frame = obtain(false)?;
        if let Bytes::Raw(page) = bytes {
            frames.write(frame.number(), 0, page);
        }
        *data = Some(frame);
    }
    while spares.len() < needs.metadata {
        spares.push(obtain(true)?);
    }
    Ok(())
}
