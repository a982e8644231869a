//! Timers, from several CPUs.

use std::collections::HashMap;

use ebb_core::machine::{CpuId, Machine};
use ebb_core::sched;
use ebb_core::timer::{self, Kind};
use proptest::prelude::*;

use crate::sim::{Hv, MS};
use crate::testing;

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Timers of several vCPUs, set and stopped from several CPUs: each that is due expires, none that is not does.
    #[test]
    fn timers_expire_when_they_are_due(
        steps in proptest::collection::vec((0u16..3, 0u32..5, 0usize..3, any::<bool>(), 0u64..5 * MS), 1..120),
    ) {
        const KINDS: [Kind; 3] = [Kind::Singleshot, Kind::Poll, Kind::Lapic];
        let hv = testing::hypervisor(3, 1024);
        let domain = testing::domain(&hv, 1, 4, 5);
        prop_assert!(sched::admit(&hv, &domain));
        let mut model: HashMap<(u32, usize), u64> = HashMap::new();
        for (cpu, vcpu, kind, sets, time) in steps {
            testing::set_cpu(cpu);
            let reference = testing::vcpu(&domain, vcpu);
            if sets {
                let deadline = (time % 7 != 0).then(|| hv.machine.now() + time);
                timer::set(&hv, &reference, KINDS[kind], deadline);
                match deadline {
                    Some(deadline) => model.insert((vcpu, kind), deadline),
                    None => model.remove(&(vcpu, kind)),
                };
            } else {
                hv.machine.advance(time);
                // Twice the least distance: what was due at once has fired, too.
                for _ in 0..2 {
                    fire(&hv, 3);
                    hv.machine.advance(1_000);
                }
                fire(&hv, 3);
                let now = hv.machine.now();
                model.retain(|_, deadline| *deadline > now);
            }
            for vcpu in 0..5 {
                for (kind, name) in KINDS.iter().enumerate() {
                    let found = testing::vcpu(&domain, vcpu).timers.deadline(*name);
                    prop_assert_eq!(found, model.get(&(vcpu, kind)).copied());
                }
            }
            // Somebody will look in time.
            let earliest = model.values().min().copied();
            let armed = (0..3).filter_map(|cpu| hv.machine.armed(CpuId(cpu))).min();
            if let Some(earliest) = earliest {
                let due = earliest.max(hv.machine.now() + 1_000);
                prop_assert!(armed.is_some_and(|armed| armed <= due), "{armed:?} for {earliest}");
            }
        }
    }
}

/// Lets the timers that are due fire.
fn fire(hv: &Hv, cpus: u16) {
    for cpu in 0..cpus {
        testing::set_cpu(cpu);
        if hv.machine.armed(CpuId(cpu)).is_some_and(|at| at <= hv.machine.now()) {
            hv.machine.arm_timer(None);
            hv.on_timer();
        }
    }
}
