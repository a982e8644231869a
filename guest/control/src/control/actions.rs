//! Obeying the script.

use super::Control;
use crate::domain::Phase;
use crate::machine::Machine;
use crate::script::{Action, Directive};
use crate::tree;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use shared_abi::Errno;
use shared_abi::xen::DomId;

impl<M: Machine> Control<M> {
    /// How long ago a domain of that name, which is there, was first unpaused or reached `stage`, ns.
    fn age(&self, name: &str, stage: u64) -> Option<u64> {
        let there = self.domains.values().any(|record| record.name == name && record.phase == Phase::Running);
        let since = if stage == 0 {
            self.first_started.get(name)
        } else {
            let stages = self.stages.get(name)?;
            stages.iter().find(|(reached, _)| *reached >= stage).map(|(_, time)| time)
        };
        let since = since.filter(|_| there)?;
        Some(self.machine.now().saturating_sub(*since))
    }

    /// Notes which stages domains have reached that a line waits for.
    fn note_stages(&mut self) {
        let now = self.machine.now();
        for record in self.domains.values().filter(|record| record.phase == Phase::Running) {
            let waits = |line: &Directive| line.stage > 0 && line.name == record.name;
            if !self.script.waiting().iter().any(waits) {
                continue;
            }
            let Some(stage) = tree::stage(&mut self.server, record.id) else { continue };
            let stages = self.stages.entry(record.name.clone()).or_default();
            // Only forward, and so no more entries than the script has use for.
            let known = stages.last().map_or(0, |(stage, _)| *stage);
            if stage > known && self.script.waiting().iter().any(|line| waits(line) && line.stage > known) {
                stages.push((stage, now));
            }
        }
    }

    /// When there is something to do for the script, ns.
    pub(super) fn script_due(&self) -> u64 {
        let wait = self.script.next_in(|name, stage| self.age(name, stage));
        let line = wait.map_or(u64::MAX, |wait| self.machine.now().saturating_add(wait));
        let check = if self.names_checked { u64::MAX } else { self.patience };
        line.min(check)
    }

    /// Says which lines are for nobody, once, when everybody should be there.
    fn check_names(&mut self) {
        if self.names_checked || self.machine.now() < self.patience {
            return;
        }
        self.names_checked = true;
        let unknown = |directive: &&Directive| !self.first_started.contains_key(&directive.name);
        let lines: Vec<String> = self
            .script
            .waiting()
            .iter()
            .filter(unknown)
            .map(|directive| format!("script line {}: there is no domain {}", directive.line, directive.name))
            .collect();
        lines.iter().for_each(|text| self.say(text));
    }

    /// Obeys the lines that are due.
    pub(super) fn obey_script(&mut self) {
        self.check_names();
        self.note_stages();
        loop {
            let mut script = core::mem::take(&mut self.script);
            let due = script.take_due(|name, stage| self.age(name, stage));
            self.script = script;
            let Some(directive) = due else { return };
            self.obey(&directive);
        }
    }

    fn obey(&mut self, directive: &Directive) {
        let running =
            |name: &str| self.domains.values().find(|record| record.name == name && record.phase == Phase::Running);
        let Some(id) = running(&directive.name).map(|record| record.id) else { return };
        let result = self.act(id, &directive.action);
        let outcome = result.err().map_or_else(|| "done".into(), |errno| format!("{errno}"));
        let Directive { line, name, action, .. } = directive;
        self.say(&format!("script line {line}: {name} (domain {}): {action}: {outcome}", id.0));
    }

    fn act(&mut self, id: DomId, action: &Action) -> Result<(), Errno> {
        match action {
            Action::Target(kib) => {
                if let Some(record) = self.domains.get_mut(&id) {
                    record.pinned = true;
                    record.ceiling = record.ceiling.max(*kib);
                }
                self.set_target(id, *kib)
            }
            Action::MaxMem(kib) => {
                self.machine.max_mem(id, *kib)?;
                if let Some(record) = self.domains.get_mut(&id) {
                    record.ceiling = *kib;
                }
                Ok(())
            }
            Action::Pause => self.machine.pause(id),
            Action::Unpause => self.machine.unpause(id),
            Action::Destroy => {
                self.machine.destroy(id)?;
                self.look = true;
                Ok(())
            }
            Action::Ask(request) => tree::ask(&mut self.server, id, request),
            Action::SysRq(key) => tree::sysrq(&mut self.server, id, *key),
        }
    }
}
