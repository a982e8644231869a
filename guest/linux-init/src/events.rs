//! Events between two Linux domains: one offers the other an event channel and tells its port by XenStore; then each
//! event is answered by one, so that there is never more than one on its way.
//!
//! A program gets events from `/dev/xen/evtchn`: a read gives the ports that had one, 32 bits each, and these stay masked
//! until they are written back.

use std::fs::File;
use std::io::{Read, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shared_abi::io::xs_wire::MessageType;
use shared_abi::xen::{DomId, Port};

use crate::job::Failed;
use crate::report::say;
use crate::tick;
use crate::xenbus::Store;

mod raw;

/// How long the other domain has to come up and take part.
const PATIENCE: Duration = Duration::from_secs(240);
/// How often to look whether it has.
const PERIOD: Duration = Duration::from_millis(20);
/// How long an event may take that the hypervisor sends when a port is bound.
const SETTLING: Duration = Duration::from_millis(100);
/// Where the port is told, in one's own part of XenStore.
const NODE: &str = "data/event-port";

/// Offers `peer` a channel, and answers `rounds` events after the first.
///
/// # Errors
/// None came, or the kernel refuses something.
pub fn answer(peer: DomId, rounds: u64) -> Result<(), Failed> {
    let device = open()?;
    let channel = Channel { port: raw::offer(&device, peer)?, device };
    let mut store = Store::open()?;
    store.write(NODE, &channel.port.0.to_string())?;
    let own = String::from_utf8_lossy(&store.read("domid")?).into_owned();
    // All may know the number: the hypervisor lets nobody but `peer` use the port.
    store.ask(MessageType::SET_PERMS, format!("{NODE}\0r{own}\0").as_bytes())?.map_err(Failed)?;
    say(&format!("offering domain {} port {}", peer.0, channel.port.0));
    channel.expect_within(PATIENCE)?;
    for _ in 0..=rounds {
        channel.wait()?;
        channel.notify()?;
    }
    say(&format!("answered {rounds} events after the first"));
    Ok(())
}

/// Sends events over the channel that `peer` offers, each when the last was answered: one to see that it is there, then
/// `rounds` more; says how long these took.
///
/// # Errors
/// No channel is offered, no answer came, or the kernel refuses something.
pub fn ping(peer: DomId, rounds: u64) -> Result<(), Failed> {
    let device = open()?;
    let remote = offered_by(peer)?;
    let channel = Channel { port: raw::bind(&device, peer, remote)?, device };
    // A port that is being bound gets an event in case the other side has sent one before; it answers nothing.
    while channel.has_event_within(SETTLING)? {
        channel.wait()?;
    }
    channel.notify()?;
    channel.expect_within(PATIENCE)?;
    channel.wait()?;
    let mut ticks = (0..rounds).map(|_| channel.round()).collect::<Result<Vec<u64>, Failed>>()?;
    ticks.sort_unstable();
    let (all, median) = (ticks.iter().sum::<u64>(), ticks.get(ticks.len() / 2).copied().unwrap_or_default());
    say(&format!("events went round {rounds} times in {all} ticks, median {median}"));
    Ok(())
}

fn open() -> Result<File, Failed> {
    let path = "/dev/xen/evtchn";
    File::options().read(true).write(true).open(path).map_err(|error| Failed(format!("{path}: {error}")))
}

/// The port that `peer` tells, waited for.
fn offered_by(peer: DomId) -> Result<Port, Failed> {
    let mut store = Store::open()?;
    let path = format!("/local/domain/{}/{NODE}", peer.0);
    let mut waited = Duration::ZERO;
    loop {
        // Until the node is there, its place may not be looked at.
        match store.read(&path) {
            Ok(port) => {
                let port = std::str::from_utf8(&port).ok().and_then(|port| port.parse().ok());
                return port.map(Port).ok_or_else(|| Failed(format!("{path} holds no port")));
            }
            Err(error) if waited >= PATIENCE => return Err(error),
            Err(_) => std::thread::sleep(PERIOD),
        }
        waited += PERIOD;
    }
}

/// A port of this domain.
struct Channel {
    device: File,
    port: Port,
}

impl Channel {
    fn notify(&self) -> Result<(), Failed> {
        raw::notify(&self.device, self.port)
    }

    /// Waits for an event, and lets the next one come.
    fn wait(&self) -> Result<(), Failed> {
        let mut port = [0; 4];
        (&self.device).read_exact(&mut port)?;
        if u32::from_ne_bytes(port) != self.port.0 {
            return Err(Failed(format!("an event of port {}, which is not ours", u32::from_ne_bytes(port))));
        }
        Ok((&self.device).write_all(&port)?)
    }

    /// An event there and back; the ticks that it took.
    fn round(&self) -> Result<u64, Failed> {
        let began = tick::now();
        self.notify()?;
        self.wait()?;
        Ok(tick::now() - began)
    }

    fn has_event_within(&self, time: Duration) -> Result<bool, Failed> {
        let timeout = Timespec::try_from(time).map_err(|_| Failed(format!("{time:?} is too long")))?;
        Ok(poll(&mut [PollFd::new(&self.device, PollFlags::IN)], Some(&timeout))? > 0)
    }

    fn expect_within(&self, time: Duration) -> Result<(), Failed> {
        if self.has_event_within(time)? { Ok(()) } else { Err(Failed(format!("no event within {} s", time.as_secs()))) }
    }
}
