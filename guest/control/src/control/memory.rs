//! Setting memory targets, by the script and by the policy.

use super::Control;
use crate::domain::{PAGE_KIB, Phase};
use crate::machine::Machine;
use crate::policy::{Figures, Host, Report, floor_of, steer};
use crate::tree;
use alloc::format;
use alloc::vec::Vec;
use shared_abi::Errno;
use shared_abi::xen::DomId;

/// What a domain may have beyond its target, KiB: the pages that are not RAM to it, and room for its balloon to be a
/// little off. libxl's `LIBXL_MAXMEM_CONSTANT`.
pub const SLACK: u64 = 1024;

impl<M: Machine> Control<M> {
    /// Has a domain come to have `kib`. What it may have follows, as with libxl: raised before it is told, so that it can
    /// obey, and lowered after.
    pub(super) fn set_target(&mut self, id: DomId, kib: u64) -> Result<(), Errno> {
        let record = self.domains.get_mut(&id).ok_or(Errno::ESRCH)?;
        self.machine.max_mem(id, kib + SLACK)?;
        record.target = kib;
        tree::set_target(&mut self.server, id, kib)
    }

    /// Lets the policy look, when it is time.
    pub(super) fn follow_policy(&mut self) {
        let now = self.machine.now();
        if now < self.policy_due {
            return;
        }
        self.policy_due = now.saturating_add(self.options.interval);
        let Some((host, figures)) = self.figures() else { return };
        let goals = self.policy.goals(&host, &figures);
        for change in steer(&host, &figures, &goals) {
            if let Err(errno) = self.set_target(change.id, change.target) {
                self.say(&format!("domain {}: target {} KiB: {errno}", change.id.0, change.target));
            }
        }
    }

    /// The figures of the host and of the domains whose targets a policy may set.
    fn figures(&mut self) -> Option<(Host, Vec<Figures>)> {
        let list = self.machine.domains().ok()?;
        let physical = self.machine.physical_info().ok()?;
        let free = physical.free_pages.saturating_sub(physical.outstanding_pages) * PAGE_KIB;
        let host = Host { free, reserve: self.options.reserve };
        let (mut figures, mut times) = (Vec::new(), Vec::new());
        for record in self.domains.values_mut().filter(|record| record.phase == Phase::Running) {
            let Some(info) = list.iter().find(|info| info.domain == record.id) else { continue };
            times.push(info.cpu_time.saturating_sub(record.cpu_time));
            record.cpu_time = info.cpu_time;
            record.info = *info;
            let mut reported = |name| tree::reported(&mut self.server, record.id, name);
            let report = Report { committed: reported("committed"), free: reported("free"), wish: reported("wish") };
            figures.push((
                record.pinned,
                Figures {
                    id: record.id,
                    boot: record.boot,
                    floor: floor_of(record.boot).min(record.ceiling),
                    ceiling: record.ceiling,
                    target: record.target,
                    current: info.tot_pages * PAGE_KIB,
                    weight: record.weight,
                    activity: 0,
                    report,
                },
            ));
        }
        let total: u64 = times.iter().sum::<u64>().max(1);
        for ((_, figures), time) in figures.iter_mut().zip(times) {
            figures.activity = (u128::from(time) * 1000 / u128::from(total)) as u32;
        }
        let free = figures.into_iter().filter(|(pinned, _)| !pinned).map(|(_, figures)| figures).collect();
        Some((host, free))
    }
}
