//! Grant tables: what a granter, a mapper and a control domain can do to pages of each other's, and what they cannot,
//! whatever is in the table and whoever dies when.

#[path = "../src/testing.rs"]
mod testing;

#[path = "grant/copying.rs"]
mod copying;
#[path = "grant/deaths.rs"]
mod deaths;
#[path = "grant/hostile.rs"]
mod hostile;
#[path = "grant/mapping.rs"]
mod mapping;
#[path = "grant/parallel.rs"]
mod parallel;
#[path = "grant/table.rs"]
mod table;
#[path = "grant/world.rs"]
mod world;
