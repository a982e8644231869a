//! Slots of the swap area: which are used, and by which page.

use alloc::vec;
use alloc::vec::Vec;

/// No owner.
const FREE: u64 = u64::MAX;

/// The page of anonymous memory whose contents a slot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotOwner {
    pub region: u16,
    pub index: u32,
}

/// The swap area. Slots are given out one behind the other, so that pages that leave together lie together.
#[derive(Debug)]
pub struct Slots {
    owners: Vec<u64>,
    cursor: u32,
    used: u32,
}

impl Slots {
    pub fn new(slots: u32) -> Self {
        Self { owners: vec![FREE; slots as usize], cursor: 0, used: 0 }
    }

    pub fn total(&self) -> u32 {
        self.owners.len() as u32
    }

    pub fn used(&self) -> u32 {
        self.used
    }

    pub fn take(&mut self, owner: SlotOwner) -> Option<u32> {
        if self.used == self.total() {
            return None;
        }
        let (total, start) = (self.owners.len(), self.cursor as usize);
        let place = (0..total).map(|step| (start + step) % total).find(|place| self.owners[*place] == FREE)?;
        self.owners[place] = u64::from(owner.region) << 32 | u64::from(owner.index);
        self.cursor = ((place + 1) % total) as u32;
        self.used += 1;
        Some(place as u32)
    }

    pub fn give(&mut self, slot: u32) {
        assert_ne!(self.owners[slot as usize], FREE, "slot {slot} freed twice");
        self.owners[slot as usize] = FREE;
        self.used -= 1;
    }

    pub fn owner(&self, slot: u32) -> Option<SlotOwner> {
        let owner = *self.owners.get(slot as usize)?;
        (owner != FREE).then_some(SlotOwner { region: (owner >> 32) as u16, index: owner as u32 })
    }
}
