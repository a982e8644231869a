//! One domain: how it is prepared, what we hold of it, and what is known of it.

use crate::console::Console;
use crate::machine::{Machine, Signal};
use alloc::format;
use alloc::string::String;
use ebb_xenstore::Server;
use ebb_xenstore::ring::{Connection, Fault};
use shared_abi::Errno;
use shared_abi::domctl::{GetDomainInfo, INFO_SHUTDOWN_MASK, INFO_SHUTDOWN_SHIFT, InfoFlags};
use shared_abi::grant_table::{GrantRef, RESERVED_CONSOLE, RESERVED_XENSTORE};
use shared_abi::hvm::params;
use shared_abi::xen::{DomId, DomainHandle, Gfn, PAGE_SIZE, Port};

/// Where the console's page appears in a domain, outside its RAM. The same as on Xen.
pub const CONSOLE_GFN: Gfn = Gfn(0xf_efff);
/// Where XenStore's page appears.
pub const STORE_GFN: Gfn = Gfn(0xf_effc);
/// Pages that preparing a domain gives it.
pub const SPECIAL_PAGES: u64 = 2;
/// KiB of a page.
pub const PAGE_KIB: u64 = PAGE_SIZE / 1024;
/// Pieces of XenStore requests served in one turn.
const STORE_TURN: usize = 8;

/// What a domain's name is: the handle's bytes up to the first NUL. Ebb's convention. Anything that could not stand in a
/// line of text is a question mark; a domain without a name is called by its number.
pub fn name_of(id: DomId, handle: &DomainHandle) -> String {
    let bytes = handle.split(|byte| *byte == 0).next().unwrap_or_default();
    if bytes.is_empty() {
        return format!("domain-{}", id.0);
    }
    bytes.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' }).collect()
}

/// The flags of a domain's figures.
pub fn flags(info: &GetDomainInfo) -> InfoFlags {
    InfoFlags::from_bits_retain(info.flags)
}

/// Why a domain has ended, in a word.
pub fn end_reason(info: &GetDomainInfo) -> &'static str {
    use shared_abi::sched;
    match info.flags >> INFO_SHUTDOWN_SHIFT & INFO_SHUTDOWN_MASK {
        sched::SHUTDOWN_POWEROFF => "powered off",
        sched::SHUTDOWN_REBOOT => "reboots",
        sched::SHUTDOWN_SUSPEND => "suspended",
        sched::SHUTDOWN_CRASH => "crashed",
        sched::SHUTDOWN_WATCHDOG => "was ended by its watchdog",
        _ => "was destroyed",
    }
}

/// Whether it is started anew, by the last that was seen of it: its end may have come and gone between two looks.
pub fn may_come_back(info: &GetDomainInfo) -> bool {
    let flags = flags(info);
    if flags.contains(InfoFlags::SHUTDOWN) {
        return info.flags >> INFO_SHUTDOWN_SHIFT & INFO_SHUTDOWN_MASK == shared_abi::sched::SHUTDOWN_REBOOT;
    }
    !flags.contains(InfoFlags::DYING)
}

/// A step of the preparation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which step.
    pub step: &'static str,
    /// Why.
    pub errno: Errno,
}

/// What we hold of a domain that was prepared.
pub struct Links<M: Machine> {
    /// Its console.
    pub console: Console<M>,
    /// Its connection to XenStore.
    store: Connection<M::Page>,
    store_signal: M::Signal,
    /// The console's place and the domain's port.
    pub console_at: (Gfn, Port),
    /// XenStore's place and the domain's port.
    pub store_at: (Gfn, Port),
    /// XenStore has more to do without an event.
    store_turn: bool,
}

/// Gives a domain its two rings and event channels and connects to them. It must be paused, and known to the server.
///
/// What fails leaves the domain as it is, half prepared: it is good for nothing then but to be destroyed.
pub fn prepare<M: Machine>(machine: &mut M, own: DomId, info: &GetDomainInfo) -> Result<Links<M>, Failure> {
    let id = info.domain;
    let at = |step: &'static str| move |errno: Errno| Failure { step, errno };
    machine.max_mem(id, (info.max_pages + SPECIAL_PAGES) * PAGE_KIB).map_err(at("max_mem"))?;
    for gfn in [CONSOLE_GFN, STORE_GFN] {
        machine.populate(id, gfn).map_err(at("populate_physmap"))?;
    }
    let console_port = machine.alloc_unbound(id).map_err(at("alloc_unbound"))?;
    let store_port = machine.alloc_unbound(id).map_err(at("alloc_unbound"))?;
    let parameters = [
        (params::CONSOLE_PFN, CONSOLE_GFN.0),
        (params::CONSOLE_EVTCHN, console_port.0.into()),
        (params::STORE_PFN, STORE_GFN.0),
        (params::STORE_EVTCHN, store_port.0.into()),
    ];
    for (index, value) in parameters {
        machine.set_param(id, index, value).map_err(at("set_param"))?;
    }
    let entries: [(GrantRef, Gfn); 2] = [(RESERVED_CONSOLE, CONSOLE_GFN), (RESERVED_XENSTORE, STORE_GFN)];
    machine.grant_to_us(id, own, &entries).map_err(at("acquire_resource"))?;
    let console_signal = machine.bind(id, console_port).map_err(at("bind_interdomain"))?;
    let store_signal = machine.bind(id, store_port).map_err(at("bind_interdomain"))?;
    let console_page = machine.map(id, RESERVED_CONSOLE).map_err(at("map_grant_ref"))?;
    let store_page = machine.map(id, RESERVED_XENSTORE).map_err(at("map_grant_ref"))?;
    Ok(Links {
        console: Console::new(id, console_page, console_signal),
        store: Connection::new(id, store_page),
        store_signal,
        console_at: (CONSOLE_GFN, console_port),
        store_at: (STORE_GFN, store_port),
        store_turn: true,
    })
}

impl<M: Machine> Links<M> {
    /// Serves XenStore for this domain if it signalled or has more to do; whether it wants another turn. The fault that
    /// ended its connection, the first time.
    pub fn serve_store(&mut self, server: &mut Server) -> (bool, Option<Fault>) {
        if !self.store_signal.take() && !self.store_turn {
            return (false, None);
        }
        self.move_bytes(server, STORE_TURN)
    }

    /// Moves what waits for the domain to its ring, without taking a request.
    pub fn answer_store(&mut self, server: &mut Server) -> Option<Fault> {
        let turn = self.store_turn;
        let (more, fault) = self.move_bytes(server, 0);
        self.store_turn = turn | more;
        fault
    }

    fn move_bytes(&mut self, server: &mut Server, budget: usize) -> (bool, Option<Fault>) {
        let before = self.store.fault();
        let progress = self.store.service(server, budget);
        if progress.notify && self.store_signal.send().is_err() {
            // The domain has closed the channel or is ending: nobody would hear of an answer.
            self.store.end(server, Fault::Communication);
        }
        self.store_turn = progress.more;
        let fault = self.store.fault().filter(|_| before.is_none());
        (progress.more, fault)
    }
}

/// How far a domain has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It was prepared and runs, or is paused.
    Running,
    /// It is privileged, or ran before we came: not ours to serve.
    Foreign,
    /// It is ending; all of ours is released.
    Ending,
}

/// A domain as we know it.
pub struct Record<M: Machine> {
    /// Its number.
    pub id: DomId,
    /// Its handle.
    pub handle: DomainHandle,
    /// Its name.
    pub name: String,
    /// How far it has come.
    pub phase: Phase,
    /// What we hold of it, while it runs.
    pub links: Option<Links<M>>,
    /// When it was unpaused, ns.
    pub started: u64,
    /// What it was booted with, KiB.
    pub boot: u64,
    /// What it may be given at most, KiB: from its configuration, or as the script said.
    pub ceiling: u64,
    /// What it is to have, KiB.
    pub target: u64,
    /// The script has set its target: no policy changes it.
    pub pinned: bool,
    /// The last figures.
    pub info: GetDomainInfo,
    /// Its scheduling weight.
    pub weight: u16,
    /// Time its vCPUs had run when the policy last looked, ns.
    pub cpu_time: u64,
}

impl<M: Machine> Record<M> {
    /// A domain that was found.
    pub fn new(info: &GetDomainInfo, phase: Phase) -> Self {
        let boot = info.tot_pages * PAGE_KIB;
        Self {
            id: info.domain,
            handle: info.handle,
            name: name_of(info.domain, &info.handle),
            phase,
            links: None,
            started: 0,
            boot,
            ceiling: (info.max_pages * PAGE_KIB).max(boot),
            target: boot,
            pinned: false,
            info: *info,
            weight: 256,
            cpu_time: info.cpu_time,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_can_stand_in_a_line() {
        assert_eq!(name_of(DomId(4), b"lin\0\0\0\0\0\0\0\0\0\0\0\0\0"), "lin");
        assert_eq!(name_of(DomId(4), b"0123456789abcdef"), "0123456789abcdef");
        assert_eq!(name_of(DomId(4), &[0; 16]), "domain-4");
        assert_eq!(name_of(DomId(4), b"a\nb\x1b\xff\0\0\0\0\0\0\0\0\0\0\0"), "a?b??");
    }
}
