//! XenStore through the kernel's `/dev/xen/xenbus`: a request in one write, its reply in a read of the header and one of
//! the rest (`io/xs_wire.h`). No watches are set, so every message that comes is a reply.

use std::fs::File;
use std::io::{Read, Write};

use shared_abi::io::xs_wire::{Header, MessageType, PAYLOAD_MAX};
use zerocopy::{FromBytes, IntoBytes};

use crate::job::Failed;
use crate::{report, tick};

/// Reads a node `requests` times, and says how long that took.
///
/// # Errors
/// A request was refused.
pub fn ask_often(requests: u64) -> Result<(), Failed> {
    let mut store = Store::open()?;
    store.write("data/bench", "value")?;
    let began = tick::now();
    for _ in 0..requests {
        store.ask(MessageType::READ, b"data/bench\0")?.map_err(Failed)?;
    }
    let ticks = tick::now() - began;
    report::say(&format!("asked the store {requests} times in {ticks} ticks"));
    Ok(())
}

/// A connection.
pub struct Store(File);

impl Store {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel has no XenStore.
    pub fn open() -> Result<Self, Failed> {
        Ok(Self(File::options().read(true).write(true).open("/dev/xen/xenbus")?))
    }

    /// Sets the node `path`.
    ///
    /// # Errors
    /// The server's.
    pub fn write(&mut self, path: &str, value: &str) -> Result<(), Failed> {
        let reply = self.ask(MessageType::WRITE, &[path.as_bytes(), b"\0", value.as_bytes()].concat())?;
        reply.map(drop).map_err(|error| Failed(format!("writing {path}: {error}")))
    }

    /// The value of the node `path`.
    ///
    /// # Errors
    /// The server's.
    pub fn read(&mut self, path: &str) -> Result<Vec<u8>, Failed> {
        let reply = self.ask(MessageType::READ, &[path.as_bytes(), b"\0"].concat())?;
        reply.map_err(|error| Failed(format!("reading {path}: {error}")))
    }

    /// Sends a request. The inner error is the server's answer, the outer one that the connection is broken.
    ///
    /// # Errors
    /// The kernel refused the request or the reply makes no sense.
    pub fn ask(&mut self, type_: MessageType, payload: &[u8]) -> Result<Result<Vec<u8>, String>, Failed> {
        let len = u32::try_from(payload.len()).map_err(|_| Failed("the request is too long".into()))?;
        let header = Header { type_, req_id: 1, tx_id: 0, len };
        self.0.write_all(&[header.as_bytes(), payload].concat())?;
        let mut bytes = [0; size_of::<Header>()];
        self.0.read_exact(&mut bytes)?;
        let reply = Header::read_from_bytes(&bytes).map_err(|_| Failed("a header is too short".into()))?;
        if reply.len > PAYLOAD_MAX {
            return Err(Failed(format!("a reply of {} bytes", reply.len)));
        }
        let mut payload = vec![0; reply.len as usize];
        self.0.read_exact(&mut payload)?;
        Ok(if reply.type_ == MessageType::ERROR {
            Err(String::from_utf8_lossy(&payload).trim_end_matches('\0').to_owned())
        } else {
            Ok(payload)
        })
    }
}
