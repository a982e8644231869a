//! What is typed, and choosing whose it is.

use super::Control;
use crate::console::input::{HELP, Key};
use crate::domain::{Phase, Record};
use crate::machine::Machine;
use alloc::format;
use alloc::vec::Vec;
use shared_abi::xen::DomId;

/// Bytes read at once.
const READ: usize = 128;

impl<M: Machine> Control<M> {
    /// Reads what was typed, if anything was; whether there may be more.
    pub(super) fn take_input(&mut self) -> bool {
        if !self.machine.has_input() && !self.typing {
            return false;
        }
        let mut buffer = [0; READ];
        let count = self.machine.read_input(&mut buffer).min(READ);
        let mut text = Vec::new();
        for byte in &buffer[..count] {
            match self.keys.next(*byte) {
                Key::Byte(byte) => text.push(byte),
                Key::Nothing => {}
                key => {
                    self.type_in(&text);
                    text.clear();
                    self.obey_key(key);
                }
            }
        }
        self.type_in(&text);
        self.typing = count == READ;
        self.typing
    }

    fn type_in(&mut self, text: &[u8]) {
        let chosen = self.chosen.and_then(|id| self.domains.get_mut(&id));
        let Some(links) = chosen.and_then(|record| record.links.as_mut()) else { return };
        if links.console.type_in(text) {
            let id = self.chosen.map_or(0, |id| id.0);
            self.say(&format!("domain {id} does not read what is typed: it is lost"));
        }
    }

    fn obey_key(&mut self, key: Key) {
        match key {
            Key::Nothing | Key::Byte(_) => {}
            Key::Choose(number) => {
                let id = DomId(number);
                if self.domains.get(&id).is_some_and(|record| record.links.is_some()) {
                    self.choose(id);
                } else {
                    self.say(&format!("there is no domain {number} with a console"));
                }
            }
            Key::Next => self.choose_beside(true),
            Key::Previous => self.choose_beside(false),
            Key::List => self.list(),
            Key::Help => HELP.iter().for_each(|line| self.out.answer(&mut self.machine, self.own, line)),
        }
    }

    fn choose(&mut self, id: DomId) {
        let Some(record) = self.domains.get(&id) else { return };
        let text = format!("what is typed goes to domain {} ({})", id.0, record.name);
        self.chosen_name = record.name.clone();
        self.chosen = Some(id);
        self.say(&text);
    }

    /// The consoles, in the order of their domains' numbers.
    fn consoles(&self) -> Vec<DomId> {
        self.domains.values().filter(|record| record.links.is_some()).map(|record| record.id).collect()
    }

    fn choose_beside(&mut self, next: bool) {
        let consoles = self.consoles();
        let beside = match self.chosen {
            Some(chosen) if next => consoles.iter().find(|id| **id > chosen).or(consoles.first()),
            Some(chosen) => consoles.iter().rfind(|id| **id < chosen).or(consoles.last()),
            None => consoles.first(),
        };
        match beside {
            Some(id) => self.choose(*id),
            None => self.say("there is no console"),
        }
    }

    /// When nobody is chosen: the domain that has the last one's name (it was started anew), or the first.
    pub(super) fn choose_if_none(&mut self) {
        if self.chosen.is_some() {
            return;
        }
        let serving = |record: &&Record<M>| record.links.is_some();
        let named = self.domains.values().filter(serving).find(|record| record.name == self.chosen_name);
        let heir = self.domains.values().find(|record| record.name == self.chosen_name);
        if named.is_none() && heir.is_some_and(|record| record.phase == Phase::Ending && self.may_restart(record)) {
            return;
        }
        if let Some(id) = named.or(self.domains.values().find(serving)).map(|record| record.id) {
            self.choose(id);
        }
    }

    /// Whether a domain that ends may be started anew.
    fn may_restart(&self, record: &Record<M>) -> bool {
        crate::domain::end_reason(&record.info) == "reboots"
    }

    fn list(&mut self) {
        let line = |record: &Record<M>| {
            let mark = if self.chosen == Some(record.id) { '*' } else { ' ' };
            let state = match record.phase {
                Phase::Running => "served",
                Phase::Foreign => "not served",
                Phase::Ending => "ending",
            };
            format!("{mark} domain {} ({}) {state}, target {} KiB", record.id.0, record.name, record.target)
        };
        let lines: Vec<_> = self.domains.values().map(line).collect();
        for text in lines {
            self.out.answer(&mut self.machine, self.own, &text);
        }
    }
}
