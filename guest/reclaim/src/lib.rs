//! A page cache and anonymous memory with real reclaim, so that a small kernel has something to give when it is asked
//! for memory: active and inactive lists, watermarks, write-back of dirty pages, swap slots; with cleancache and
//! frontswap (`ebb-guest-tmem`) between them and the disk.
//!
//! The disk is simulated: it takes a stated time for each request and remembers of each block only what was written
//! there ([`Tag`]), because contents can be computed from that. **Every page that comes back, from the page cache,
//! transcendent memory, the disk or swap, is compared in whole with what was last written to it.**
//!
//! The pages themselves come through [`PageSource`], the hypercalls through [`ebb_guest_tmem::Calls`], the time with each
//! operation; an operation answers when its I/O is done, and whoever called sleeps until then.
//!
//! What holds (property tests against a model in `tests/`):
//!
//! - A page that differs from what was last written is [`Failure::Wrong`], and nothing goes on with it.
//! - A frame is in one place: held by one page on one list, or with the source. Figures add up after every operation.
//! - Reclaim is bounded: it looks at each page a fixed number of times. It never takes the frame an operation works on.
//! - While committed pages fit in memory above the watermark and on the swap device, no operation runs out of memory.
//!
//! Not here: mappings. A page is touched by operation, not through a page table, so "referenced" is exact.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod border;
mod contents;
mod disk;
mod lists;
mod load;
mod memory;
mod swap;

pub use border::{PageSource, WORDS, Words};
pub use contents::{Contents, Mismatch, Tag};
pub use disk::{Disk, DiskStats, Timing};
pub use load::{Load, Phase, Plan, Work};
pub use memory::{Config, Failure, Figures, FileId, Memory, MountId, RegionId, Stats, Watermarks};
