//! What a control domain can do by domctl, sysctl, event channels, parameters and foreign mappings, and that nobody else
//! can; and the calls that a PVH guest expects to be refused.

#[path = "../src/testing.rs"]
mod testing;

#[path = "domctl/control.rs"]
mod control;
#[path = "domctl/machine.rs"]
mod machine;
#[path = "domctl/rings.rs"]
mod rings;
#[path = "domctl/unprivileged.rs"]
mod unprivileged;
#[path = "domctl/world.rs"]
mod world;
