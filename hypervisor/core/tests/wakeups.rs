//! No wake-up is lost: two threads are two CPUs, each runs a vCPU by the machine's loop, and the two vCPUs hand a ball to
//! and fro by event channel, asleep whenever they have not got it. If a wake-up is lost, both sleep for ever.

#[path = "../src/testing.rs"]
mod testing;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ebb_core::domain::Domain;
use ebb_core::evtchn;
use ebb_core::heap::Owner;
use ebb_core::hypervisor::{CpuAttention, Hypervisor};
use ebb_core::machine::{Machine, MachineAddress};
use ebb_core::sched;
use ebb_core::vcpu::VcpuRef;
use shared_abi::event_channel as events;
use shared_abi::sched as abi;
use shared_abi::xen::{GuestHandle, Port, VcpuId, hypercall, shared_info_offset, vcpu_info_offset};
use testing::FakeMachine;
use zerocopy::{FromBytes, IntoBytes};

const ROUNDS: u64 = 20_000;

/// How a vCPU sleeps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// `SCHEDOP_poll` on its port, which is masked, as a PV spinlock does.
    Poll,
    /// HLT with interrupts on, as an idle loop does.
    Halt,
    /// `SCHEDOP_block`.
    Block,
}

struct Table {
    hv: Hypervisor<FakeMachine>,
    domain: Arc<Domain<FakeMachine>>,
    /// Each vCPU's port: what is sent there goes to that vCPU.
    ports: [Port; 2],
    /// How often each has had the ball.
    caught: [AtomicU64; 2],
    way: Way,
}

impl Table {
    fn new(way: Way) -> Self {
        let hv = testing::hypervisor(2, 1024);
        let domain = testing::domain(&hv, 1, 8, 2);
        let frame = hv.heap.allocate(&hv.machine, 0, Owner::Hypervisor).expect("a frame");
        evtchn::attach_shared_info(&hv, &domain, frame.first());
        // It goes with the machine's memory.
        std::mem::forget(frame);
        assert!(sched::admit(&hv, &domain));
        let mut table = Self { hv, domain, ports: [Port(0); 2], caught: [const { AtomicU64::new(0) }; 2], way };
        let callback = shared_abi::hvm::Param {
            domid: shared_abi::xen::DomId::SELF,
            index: shared_abi::hvm::params::CALLBACK_IRQ,
            value: 2 << 56 | 0xf3,
            ..Default::default()
        };
        table.call(0, hypercall::HVM_OP, shared_abi::hvm::SET_PARAM, callback.as_bytes());
        for vcpu in 0..2 {
            let request = events::BindIpi { vcpu: VcpuId(vcpu), port: Port(0) };
            table.call(0, hypercall::EVENT_CHANNEL_OP, events::BIND_IPI, request.as_bytes());
            let bytes = testing::peek::<8>(&table.hv, &table.domain, 0);
            let port = events::BindIpi::read_from_bytes(&bytes).unwrap().port;
            table.ports[vcpu as usize] = port;
            let mask = if way == Way::Poll { 1 << port.0 } else { 0 };
            table.word(shared_info_offset::EVTCHN_MASK).fetch_or(mask, Ordering::SeqCst);
            let vcpu = testing::vcpu(&table.domain, vcpu);
            let mut affinity = [0; 4];
            affinity[0] = 1 << vcpu.id.0;
            assert!(sched::set_affinity(&table.hv, &vcpu, affinity));
            sched::set_up(&table.hv, &vcpu);
        }
        table
    }

    fn call(&self, vcpu: u32, number: u32, operation: u32, argument: &[u8]) {
        let address = u64::from(vcpu) * 4096;
        testing::poke(&self.hv, &self.domain, address, argument);
        let args = [u64::from(operation), address, 0, 0, 0];
        assert_eq!(testing::hypercall(&self.hv, &testing::vcpu(&self.domain, vcpu), number, args), 0);
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        let frame = self.domain.events.shared_info_frame().expect("it is attached");
        self.hv.machine.word64(MachineAddress::in_frame(frame, offset))
    }

    /// Takes the ball, if it is here: the guest's half of the 2-level protocol.
    fn take(&self, vcpu: &VcpuRef<FakeMachine>) -> bool {
        let info = vcpu.events.info().expect("a vcpu_info");
        let upcall = MachineAddress(info.0 + vcpu_info_offset::EVTCHN_UPCALL_PENDING as u64);
        self.hv.machine.byte(upcall).store(0, Ordering::SeqCst);
        let selector = MachineAddress(info.0 + vcpu_info_offset::EVTCHN_PENDING_SEL as u64);
        self.hv.machine.word64(selector).store(0, Ordering::SeqCst);
        let bit = 1 << self.ports[vcpu.id.0 as usize].0;
        self.word(shared_info_offset::EVTCHN_PENDING).fetch_and(!bit, Ordering::SeqCst) & bit != 0
    }

    fn throw(&self, from: u32) {
        let port = self.ports[1 - from as usize];
        self.call(from, hypercall::EVENT_CHANNEL_OP, events::SEND, events::Send { port }.as_bytes());
    }

    fn sleep(&self, vcpu: &VcpuRef<FakeMachine>) {
        let id = vcpu.id.0;
        match self.way {
            Way::Poll => {
                let at = u64::from(id) * 4096 + 256;
                testing::poke(&self.hv, &self.domain, at, &self.ports[id as usize].0.to_le_bytes());
                let poll = abi::Poll { ports: GuestHandle::new(at), nr_ports: 1, ..abi::Poll::default() };
                self.call(id, hypercall::SCHED_OP, abi::POLL, poll.as_bytes());
            }
            Way::Halt => self.hv.halt(vcpu, true),
            Way::Block => self.call(id, hypercall::SCHED_OP, abi::BLOCK, &[]),
        }
    }

    /// A CPU's loop, with the guest's program in it.
    fn run(&self, cpu: u16) {
        testing::set_cpu(cpu);
        let hv = &self.hv;
        let mut loaded: Option<VcpuRef<FakeMachine>> = None;
        let mut looked = (0, Instant::now());
        while self.caught[usize::from(cpu)].load(Ordering::SeqCst) < ROUNDS {
            hv.cpu().withdraw(CpuAttention::KICK);
            if hv.cpu().attention().contains(CpuAttention::TIMER) {
                hv.on_timer();
            }
            if loaded.as_ref().is_none_or(|loaded| hv.must_schedule(loaded)) {
                let next = hv.schedule();
                if next != loaded {
                    if let Some(old) = loaded.take() {
                        hv.context_saved(&old);
                    }
                    loaded = next;
                }
            }
            let Some(vcpu) = &loaded else {
                self.watch(cpu, &mut looked);
                std::thread::yield_now();
                continue;
            };
            if self.take(vcpu) {
                self.caught[usize::from(cpu)].fetch_add(1, Ordering::SeqCst);
                self.throw(u32::from(cpu));
            } else {
                self.sleep(vcpu);
            }
        }
    }

    /// Complains when the ball has not moved for long.
    fn watch(&self, cpu: u16, looked: &mut (u64, Instant)) {
        let sum = self.caught.iter().map(|caught| caught.load(Ordering::SeqCst)).sum();
        if looked.0 != sum {
            *looked = (sum, Instant::now());
        }
        let states = [0, 1].map(|id| testing::vcpu(&self.domain, id).sched.state());
        assert!(looked.1.elapsed().as_secs() < 20, "CPU {cpu}: a wake-up is lost after {sum}: {states:?}");
    }
}

fn play(way: Way) {
    let table = Table::new(way);
    testing::set_cpu(0);
    table.throw(0);
    std::thread::scope(|scope| {
        scope.spawn(|| table.run(1));
        table.run(0);
    });
    sched::retire(&table.hv, &table.domain);
}

#[test]
fn polls_are_woken_by_masked_ports() {
    play(Way::Poll);
}

#[test]
fn halts_are_woken_by_upcalls() {
    play(Way::Halt);
}

#[test]
fn blocks_are_woken_by_upcalls() {
    play(Way::Block);
}
