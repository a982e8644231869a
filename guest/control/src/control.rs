//! The whole: what one step of the control domain does.

mod actions;
mod memory;
mod typing;

use crate::console::Wish;
use crate::console::input::Keys;
use crate::console::output::Output;
use crate::domain::{self, Phase, Record};
use crate::machine::Machine;
use crate::options::{Options, PolicyKind};
use crate::policy::Policy;
use crate::script::Script;
use crate::tree;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use ebb_xenstore::ring::Fault;
use ebb_xenstore::{Quotas, Server};
use shared_abi::domctl::{GetDomainInfo, InfoFlags};
use shared_abi::xen::{DomId, DomainHandle};

/// Without any domain to serve since the start, the machine ends after this time, ns: domains may still be being built.
const PATIENCE: u64 = 2_000_000_000;

/// A domain that reboots (or may have: its end was not seen) is built anew within this time after its end, ns: until
/// then it is not the last one's end.
const REBUILDING: u64 = 10_000_000_000;

/// What the holder of a [`Control`] does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Step again at once, after whoever else wants to run.
    Again,
    /// Step when an event comes or at this time (ns; `u64::MAX`: no time), whichever is first.
    Wait(u64),
    /// Nobody is left to be served: power off.
    End,
}

/// The control domain.
pub struct Control<M: Machine> {
    machine: M,
    own: DomId,
    options: Options,
    server: Server,
    domains: BTreeMap<DomId, Record<M>>,
    /// When a domain of that name was first unpaused, ns.
    first_started: BTreeMap<String, u64>,
    /// The stages of the script that a domain of that name has reached, and when, ns. Both rise.
    stages: BTreeMap<String, Vec<(u64, u64)>>,
    out: Output,
    keys: Keys,
    /// Whose console gets what is typed.
    chosen: Option<DomId>,
    /// The name of whoever was chosen last.
    chosen_name: String,
    /// There may be more to read than was read.
    typing: bool,
    script: Script,
    policy: Box<dyn Policy>,
    /// When the policy looks next, ns.
    policy_due: u64,
    /// When all domains of the boot configuration should have been seen, ns.
    patience: u64,
    /// The domains that rebooted and are not back yet, and until when they may come back, ns.
    awaited: Vec<(DomainHandle, u64)>,
    /// The script's names were compared with the domains'.
    names_checked: bool,
    /// The list of domains must be looked at although no event said so.
    look: bool,
}

impl<M: Machine> Control<M> {
    /// A control domain with number `own` that knows of nobody yet.
    pub fn new(mut machine: M, own: DomId, options: Options, script: Script) -> Self {
        let mut server = Server::new(Quotas::default(), own);
        let mut out = Output::default();
        let now = machine.now();
        let policy = options.policy.make();
        if let Err(errno) = tree::write_own(&mut server, own, &format!("Domain-{}", own.0)) {
            out.say(&mut machine, own, &format!("the own nodes are missing: {errno}"));
        }
        let text = format!("domain {}, policy {}, {} script lines", own.0, policy.name(), script.waiting().len());
        out.say(&mut machine, own, &text);
        Self {
            machine,
            own,
            options,
            server,
            domains: BTreeMap::new(),
            first_started: BTreeMap::new(),
            stages: BTreeMap::new(),
            out,
            keys: Keys::default(),
            chosen: None,
            chosen_name: String::new(),
            typing: false,
            policy,
            policy_due: if options.policy == PolicyKind::Fixed {
                u64::MAX
            } else {
                now.saturating_add(options.interval)
            },
            patience: now.saturating_add(PATIENCE),
            awaited: Vec::new(),
            names_checked: script.waiting().is_empty(),
            script,
            look: true,
        }
    }

    /// The machine, for tests.
    pub fn machine(&mut self) -> &mut M {
        &mut self.machine
    }

    /// XenStore, for tests.
    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    /// What is known of a domain.
    pub fn record(&self, domain: DomId) -> Option<&Record<M>> {
        self.domains.get(&domain)
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.out.say(&mut self.machine, self.own, text);
    }

    /// Does what there is to do, in bounded time.
    pub fn step(&mut self) -> Next {
        if self.machine.domains_changed() || self.look {
            self.look_at_domains();
        }
        let typed = self.take_input();
        let stores = self.serve_stores();
        let consoles = self.serve_consoles();
        self.obey_script();
        self.follow_policy();
        // Last: what was just done for the script or the policy may be an event for somebody.
        self.answer_stores();
        if self.is_over() {
            return Next::End;
        }
        if typed || stores || consoles == Wish::Turn || self.look {
            return Next::Again;
        }
        let mut due = self.policy_due.min(self.next_line_due()).min(self.script_due());
        if let Wish::At(time) = consoles {
            due = due.min(time);
        }
        if !self.serves() && !self.options.stay {
            let awaited = self.awaited.iter().map(|&(_, until)| until).max();
            due = due.min(awaited.unwrap_or(0).max(self.patience));
        }
        Next::Wait(due)
    }

    /// Whether there is a domain of ours.
    fn serves(&self) -> bool {
        self.domains.values().any(|record| record.phase != Phase::Foreign)
    }

    /// Whether there is nobody to serve any more.
    fn is_over(&self) -> bool {
        let now = self.machine.now();
        let began = !self.first_started.is_empty() || now >= self.patience;
        !self.options.stay && !self.serves() && began && self.awaited.iter().all(|&(_, until)| now >= until)
    }

    /// Compares the list of domains with what is known.
    fn look_at_domains(&mut self) {
        self.look = false;
        let list = match self.machine.domains() {
            Ok(list) => list,
            Err(errno) => {
                self.say(&format!("the domains cannot be listed: {errno}"));
                return;
            }
        };
        let gone: Vec<DomId> =
            self.domains.keys().copied().filter(|id| !list.iter().any(|info| info.domain == *id)).collect();
        for id in gone {
            self.end_domain(id, "is gone");
            if let Some(record) = self.domains.remove(&id)
                && record.phase != Phase::Foreign
                && domain::may_come_back(&record.info)
            {
                self.awaited.push((record.info.handle, self.machine.now().saturating_add(REBUILDING)));
            }
        }
        for info in &list {
            if info.domain != self.own {
                self.look_at(info);
            }
        }
        self.choose_if_none();
    }

    fn look_at(&mut self, info: &GetDomainInfo) {
        let flags = domain::flags(info);
        let ending = flags.intersects(InfoFlags::DYING | InfoFlags::SHUTDOWN);
        match self.domains.get_mut(&info.domain) {
            Some(record) if ending => {
                record.info = *info;
                if record.phase == Phase::Running {
                    self.end_domain(info.domain, domain::end_reason(info));
                }
            }
            Some(record) => record.info = *info,
            // One that we never served and that ends needs nothing.
            None if ending => {}
            None if flags.contains(InfoFlags::PAUSED) => self.begin_domain(info),
            None => {
                // Only domains that wait are ours: this one is privileged, or was served by one before us.
                self.domains.insert(info.domain, Record::new(info, Phase::Foreign));
            }
        }
    }

    /// Prepares a domain that was built, and lets it run.
    fn begin_domain(&mut self, info: &GetDomainInfo) {
        let mut record = Record::new(info, Phase::Running);
        let id = record.id;
        self.awaited.retain(|(handle, _)| *handle != info.handle);
        record.weight = self.machine.weight(id).unwrap_or(record.weight);
        if let Err(why) = self.connect(info, &mut record) {
            self.say(&format!("domain {id} ({}) cannot be prepared and is destroyed: {why}", record.name, id = id.0));
            self.release(id, &record);
            record.links = None;
            record.phase = Phase::Ending;
            self.domains.insert(id, record);
            if let Err(errno) = self.machine.destroy(id) {
                self.say(&format!("domain {} cannot be destroyed: {errno}", id.0));
            }
            return;
        }
        record.started = self.machine.now();
        self.first_started.entry(record.name.clone()).or_insert(record.started);
        self.say(&format!("domain {} ({}) starts with {} KiB", id.0, record.name, record.boot));
        self.domains.insert(id, record);
    }

    /// All steps of the preparation, in the order in which a guest relies on them; its unpausing last.
    fn connect(&mut self, info: &GetDomainInfo, record: &mut Record<M>) -> Result<(), String> {
        let links =
            domain::prepare(&mut self.machine, self.own, info).map_err(|why| format!("{}: {}", why.step, why.errno))?;
        let facts = tree::Facts {
            id: record.id,
            name: &record.name,
            handle: record.handle,
            vcpus: info.max_vcpu_id.wrapping_add(1),
            boot: record.boot,
            target: record.target,
            console: links.console_at,
            store: links.store_at,
        };
        tree::write(&mut self.server, self.own, &facts).map_err(|errno| format!("its nodes: {errno}"))?;
        self.server.introduce(record.id, false).map_err(|errno| format!("its introduction: {errno}"))?;
        record.links = Some(links);
        self.machine.unpause(record.id).map_err(|errno| format!("unpausedomain: {errno}"))
    }

    /// Lets go of everything of a domain that ends. Its record stays until it is gone.
    fn end_domain(&mut self, id: DomId, how: &str) {
        let Some(record) = self.domains.get_mut(&id) else { return };
        if record.phase != Phase::Running {
            return;
        }
        record.phase = Phase::Ending;
        if let Some(links) = record.links.take() {
            links.console.finish(&mut self.machine, &mut self.out);
        }
        let text = format!("domain {} ({}) {how}", id.0, record.name);
        let handle = record.handle;
        self.say(&text);
        let _ = self.server.release(id);
        tree::remove(&mut self.server, id, &handle);
        if self.chosen == Some(id) {
            self.chosen = None;
        }
    }

    fn release(&mut self, id: DomId, record: &Record<M>) {
        // It may not have come as far as having been introduced.
        let _ = self.server.release(id);
        tree::remove(&mut self.server, id, &record.handle);
    }

    /// A turn of XenStore for each domain that asks; whether one wants another.
    fn serve_stores(&mut self) -> bool {
        let mut again = false;
        let mut faults = Vec::new();
        for record in self.domains.values_mut() {
            if let Some(links) = &mut record.links {
                let (more, fault) = links.serve_store(&mut self.server);
                again |= more;
                faults.extend(fault.map(|fault| (record.id, fault)));
            }
        }
        self.report_faults(&faults);
        again
    }

    /// Answers and events for those who got some, also by what others did.
    fn answer_stores(&mut self) {
        let mut faults = Vec::new();
        while let Some(id) = self.server.take_ready() {
            if let Some(links) = self.domains.get_mut(&id).and_then(|record| record.links.as_mut()) {
                faults.extend(links.answer_store(&mut self.server).map(|fault| (id, fault)));
            }
        }
        self.report_faults(&faults);
        // Only domains with privilege can cause notices, and none of those is connected.
        while self.server.take_notice().is_some() {}
    }

    fn report_faults(&mut self, faults: &[(DomId, Fault)]) {
        for (id, fault) in faults {
            self.say(&format!("domain {} has lost its XenStore connection: {fault:?}", id.0));
        }
    }

    /// A turn of each console; what the most urgent one wants next.
    fn serve_consoles(&mut self) -> Wish {
        let mut wish = Wish::Nothing;
        let mut closed = Vec::new();
        for record in self.domains.values_mut() {
            let Some(links) = &mut record.links else { continue };
            match links.console.turn(&mut self.machine, &mut self.out) {
                Ok(wanted) => wish = wish.most_urgent(wanted),
                Err(_) => closed.push(record.id),
            }
            links.console.flush_line(&mut self.machine, &mut self.out);
        }
        for id in closed {
            self.say(&format!("domain {} has lost its console: its ring makes no sense", id.0));
        }
        wish
    }

    /// When the next unended line must be printed, ns.
    fn next_line_due(&self) -> u64 {
        let links = self.domains.values().filter_map(|record| record.links.as_ref());
        links.map(|links| links.console.line_due()).min().unwrap_or(u64::MAX)
    }
}
