//! Sleeps and wake-ups on real threads.

use ebb_core::sched;

use crate::sim::Ref;
use crate::testing;

/// Two threads, one of which runs a vCPU that halts with interrupts off, the other of which ends each halt by an NMI.
/// A lost wake-up hangs the first.
#[test]
fn no_wake_up_is_lost_between_threads() {
    const ROUNDS: u64 = 20_000;
    use ebb_core::vcpu::Attention;
    use std::sync::atomic::{AtomicU64, Ordering};
    let hv = testing::hypervisor(2, 1024);
    let domain = testing::domain(&hv, 1, 4, 2);
    assert!(sched::admit(&hv, &domain));
    let vcpu = testing::vcpu(&domain, 0);
    assert!(sched::set_affinity(&hv, &vcpu, [1, 0, 0, 0]));
    // The other one stays runnable, so that the domain does not power itself off.
    let other = testing::vcpu(&domain, 1);
    assert!(sched::set_affinity(&hv, &other, [2, 0, 0, 0]));
    sched::set_up(&hv, &other);
    sched::set_up(&hv, &vcpu);
    let taken = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            testing::set_cpu(0);
            let mut loaded: Option<Ref> = None;
            while taken.load(Ordering::SeqCst) < ROUNDS {
                if loaded.as_ref().is_none_or(|loaded| hv.must_schedule(loaded)) {
                    let next = hv.schedule();
                    if next != loaded {
                        if let Some(old) = loaded.take() {
                            hv.context_saved(&old);
                        }
                        loaded = next;
                    }
                }
                if let Some(current) = &loaded {
                    if current.attention().contains(Attention::NMI) {
                        current.withdraw(Attention::NMI);
                        taken.fetch_add(1, Ordering::SeqCst);
                    }
                    hv.halt(current, false);
                } else {
                    std::thread::yield_now();
                }
            }
        });
        testing::set_cpu(1);
        for round in 0..ROUNDS {
            vcpu.raise(Attention::NMI);
            hv.notify_vcpu(&vcpu);
            let started = std::time::Instant::now();
            while taken.load(Ordering::SeqCst) <= round {
                assert!(started.elapsed().as_secs() < 20, "wake-up {round} is lost: {:?}", vcpu.sched.state());
                std::thread::yield_now();
            }
        }
    });
}
