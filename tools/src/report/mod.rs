//! What is left of a run: comma-separated values, a plot, and a summary for people.

pub mod csv;
pub mod plot;
pub mod summary;
