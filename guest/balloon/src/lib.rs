//! A balloon driver that keeps what it got and never gives up.
//!
//! A balloon moves a guest between the memory it has and the memory it was told to have. Below its target it asks the
//! hypervisor to back pages of its address space again (`populate_physmap`); above it, it hands free pages back
//! (`decrease_reservation`). Linux once took the first short answer for a hard limit and stopped asking; here a short
//! answer is what it says: some pages came, the rest may come later.
//!
//! What a caller may rely on (each is a property test in `tests/`):
//!
//! - **Partial success is success.** Every page a call moved is kept, whatever became of the rest of the call.
//! - **There is no hard limit.** While current differs from target, [`Balloon::step`] answers [`Next::At`], in both
//!   directions, for ever; the wait doubles from [`Tuning::first_delay_ns`] to [`Tuning::longest_delay_ns`] and starts
//!   anew upon progress or a new target.
//! - **A page is in one place**: with the guest, or in the balloon, never in both.
//! - **A step is bounded**: a few hypercalls over at most one batch, so the guest stays responsive.
//! - **No allocation, no `unsafe`, no panic** for any input. A hypervisor that claims to have done more than it was
//!   asked, or a page source that hands out pages it does not have, is counted and contained.
//!
//! Two traits are the border to the kernel that adopts the crate: [`PageSource`], its page allocator, and [`Host`],
//! its hypercalls. There is no locking in here: the kernel wraps the [`Balloon`] in a lock of its own, or lets one
//! thread own it, which the exclusive references ask for.
//!
//! ```
//! # use ebb_balloon::{Balloon, Next, Presence, Region, SetupError, Tuning};
//! # use shared_abi::xen::Gfn;
//! // 64 MiB of address space, all of it backed at the start.
//! let mut regions = [Region::EMPTY; 32];
//! let mut balloon = Balloon::new(&mut regions, Tuning::DEFAULT);
//! balloon.add_ram(Gfn(0), 32 * 512, Presence::Present)?;
//! assert_eq!(balloon.set_target(16 * 512), 16 * 512);
//! // then, from a thread: loop { match balloon.step(now, &mut allocator, &mut hypercalls) { .. } }
//! # Ok::<(), SetupError>(())
//! ```
//!
//! The model, the figures and the tunables are described in `docs/balloon.md`.
#![no_std]
#![forbid(unsafe_code)]

mod balloon;
mod border;
mod extent;
mod heal;
mod regions;
mod schedule;
mod stats;
mod tuning;

pub use balloon::{Balloon, Next};
pub use border::{Backing, Host, Outcome, PageSource};
pub use extent::{Batch, Extent, MAX_EXTENTS, PAGES_PER_SUPERPAGE, SUPERPAGE_ORDER};
pub use regions::{Presence, Region, SetupError};
pub use stats::{Shortage, Stats};
pub use tuning::Tuning;
