//! Random guests and random meddling.

use ebb_core::sched;
use proptest::prelude::*;

use crate::sim::{Behaviour, MS, Sim, name};
use crate::testing;

/// What somebody does to the vCPUs from outside.
#[derive(Clone, Debug)]
enum Meddling {
    Pause(usize),
    Unpause(usize),
    Wake(usize),
    Weight(usize, u16),
    Cap(usize, u16),
    /// A domain comes.
    Add(Vec<Behaviour>),
    Affinity(usize, u64),
    Run(u64),
}

fn meddling() -> impl Strategy<Value = (u16, Meddling)> {
    let one = prop_oneof![
        any::<usize>().prop_map(Meddling::Pause),
        any::<usize>().prop_map(Meddling::Unpause),
        any::<usize>().prop_map(Meddling::Wake),
        (any::<usize>(), any::<u16>()).prop_map(|(which, weight)| Meddling::Weight(which, weight)),
        (any::<usize>(), prop_oneof![Just(0u16), 1u16..250]).prop_map(|(which, cap)| Meddling::Cap(which, cap)),
        proptest::collection::vec(behaviour(), 1..3).prop_map(Meddling::Add),
        (any::<usize>(), 1u64..16).prop_map(|(which, mask)| Meddling::Affinity(which, mask)),
        (1u64..50 * MS).prop_map(Meddling::Run),
    ];
    (0u16..4, one)
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    prop_oneof![
        Just(Behaviour::Hog),
        (50_000u64..20 * MS, 1u64..40 * MS).prop_map(|(run, sleep)| Behaviour::Sleeper(run, sleep)),
        (100_000u64..5 * MS).prop_map(Behaviour::Yielder),
        (100_000u64..5 * MS).prop_map(Behaviour::Spinner),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random guests and random meddling, from random CPUs. `check` sees to the invariants all along, among them that
    /// the four runstate times of each vCPU add up to the time since it was admitted, and that the one for "running" is
    /// what the machine saw; at the end everything that may run does, and nothing has starved.
    #[test]
    fn nothing_runs_twice_or_starves(
        cpus in 1u16..=4,
        // Lighter ones would pay longer for a slice than the test waits, once others have come.
        domains in proptest::collection::vec((100u16..2000, proptest::collection::vec(behaviour(), 1..4)), 1..4),
        steps in proptest::collection::vec(meddling(), 0..40),
    ) {
        let mut sim = Sim::new(cpus);
        let mut vcpus = Vec::new();
        for (index, (weight, behaviours)) in domains.iter().enumerate() {
            let domain = sim.add(index as u16 + 1, *weight, behaviours);
            vcpus.extend(sched::each_vcpu(&domain));
        }
        let mut pauses = vec![0; vcpus.len()];
        for (cpu, step) in steps {
            testing::set_cpu(cpu % cpus);
            match step {
                Meddling::Pause(which) => {
                    let which = which % vcpus.len();
                    pauses[which] += 1;
                    sched::pause(&sim.hv, &vcpus[which]);
                }
                Meddling::Unpause(which) => {
                    let which = which % vcpus.len();
                    if pauses[which] > 0 {
                        pauses[which] -= 1;
                        sched::unpause(&sim.hv, &vcpus[which]);
                    }
                }
                Meddling::Wake(which) => sched::wake(&sim.hv, &vcpus[which % vcpus.len()]),
                Meddling::Weight(which, weight) => vcpus[which % vcpus.len()].domain().sched.set_weight(weight.max(100)),
                Meddling::Cap(which, cap) => sched::set_cap(&sim.hv, vcpus[which % vcpus.len()].domain(), cap),
                Meddling::Add(behaviours) => {
                    let domain = sim.add(sim.hv.each_domain().count() as u16 + 1, 256, &behaviours);
                    vcpus.extend(sched::each_vcpu(&domain));
                    pauses.resize(vcpus.len(), 0);
                }
                Meddling::Affinity(which, mask) => {
                    sched::set_affinity(&sim.hv, &vcpus[which % vcpus.len()], [mask, 0, 0, 0]);
                }
                Meddling::Run(time) => sim.run(time),
            }
        }
        for (vcpu, pauses) in vcpus.iter().zip(pauses) {
            (0..pauses).for_each(|_| sched::unpause(&sim.hv, vcpu));
            vcpu.domain().sched.set_weight(256);
            sched::set_affinity(&sim.hv, vcpu, [u64::MAX; 4]);
        }
        let before: Vec<u64> = vcpus.iter().map(|vcpu| sim.guests[&name(vcpu)].ran).collect();
        sim.run(8_000 * MS);
        for (vcpu, before) in vcpus.iter().zip(before) {
            let guest = &sim.guests[&name(vcpu)];
            prop_assert!(guest.ran > before, "{:?} ({:?}) starves", name(vcpu), guest.behaviour);
        }
    }
}
