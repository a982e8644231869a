//! Event channels on a fake machine, seen from guests: a guest of the tests makes hypercalls, reads its own pages, and takes
//! events off exactly as the ABI says a guest must.

mod binding;
mod delivery;
mod errors;
pub(crate) mod guest;
mod hostile;
mod parallel;
