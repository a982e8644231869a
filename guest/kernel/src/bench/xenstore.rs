//! Requests to XenStore: the domain's own store, or where the machine has none one in a thread of this domain.

use super::{Outcome, repeat};
use crate::test::{Stop, local_store};
use crate::xenstore::Client;
use alloc::format;
use alloc::string::String;

/// The store and a node of our own in it.
fn client() -> Result<&'static Client, String> {
    local_store::client().map_err(|stop| match stop {
        Stop::Skip(why) | Stop::Error(why) | Stop::Failure(why) => why,
    })
}

/// A request and its reply.
pub fn read() -> Outcome {
    let store = client()?.store();
    store.write("data/bench", b"value").map_err(|why| format!("{why}"))?;
    repeat(|| store.read("data/bench").map(drop))
}

/// A transaction of four requests.
pub fn transaction() -> Outcome {
    let store = client()?.store();
    repeat(|| {
        store.transaction(|inside| {
            let value = inside.read("data/bench")?;
            inside.write("data/bench", &value)
        })
    })
}
