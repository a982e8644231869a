//! `vcpu_op`, `sched_op` and `set_timer_op` as a guest sees them: results, errors, and the memory they write.

#[path = "../src/testing.rs"]
mod testing;

use std::sync::Arc;

use ebb_core::domain::Domain;
use ebb_core::evtchn;
use ebb_core::heap::Owner;
use ebb_core::hypercall::{Next, Width};
use ebb_core::hypervisor::Hypervisor;
use ebb_core::machine::{Machine, MachineAddress};
use ebb_core::sched;
use ebb_core::timer::Kind;
use ebb_core::vcpu::{Attention, VcpuRef};
use shared_abi::event_channel as evtchn_abi;
use shared_abi::hvm::hvm_vcpu::{HvmContext, X86_32, X86_64};
use shared_abi::sched as sched_abi;
use shared_abi::trace_stream::{self, POLL_SENT, POLL_SLEEPS, POLL_TIMED_OUT};
use shared_abi::vcpu as abi;
use shared_abi::xen::{Errno, Port, VcpuId, hypercall, shared_info_offset};
use testing::FakeMachine;
use zerocopy::{FromBytes, IntoBytes};

type Hv = Hypervisor<FakeMachine>;
type Ref = VcpuRef<FakeMachine>;

/// Where the guest keeps its arguments.
const ARGUMENTS: u64 = 0x1000;
/// Where the guest has its areas.
const AREA: u64 = 0x2000;
/// Nothing is mapped there.
const UNMAPPED: u64 = 0x7000_0000;

struct Guest {
    hv: Hv,
    domain: Arc<Domain<FakeMachine>>,
    vcpu: Ref,
}

impl Guest {
    /// A domain of three vCPUs, the first of which is up and runs here.
    fn new() -> Self {
        let hv = testing::hypervisor(1, 1024);
        let domain = testing::domain(&hv, 1, 8, 3);
        assert!(sched::admit(&hv, &domain));
        let vcpu = testing::vcpu(&domain, 0);
        sched::set_up(&hv, &vcpu);
        assert!(hv.schedule() == Some(vcpu.clone()));
        Self { hv, domain, vcpu }
    }

    fn vcpu_op(&self, command: u32, vcpu: u32, argument: &[u8]) -> Result<i64, Errno> {
        testing::poke(&self.hv, &self.domain, ARGUMENTS, argument);
        self.vcpu_op_at(command, vcpu, ARGUMENTS)
    }

    fn vcpu_op_at(&self, command: u32, vcpu: u32, address: u64) -> Result<i64, Errno> {
        let args = [u64::from(command), u64::from(vcpu), address, 0, 0];
        Errno::from_return(testing::hypercall(&self.hv, &self.vcpu, hypercall::VCPU_OP, args))
    }

    fn sched_op(&self, command: u32, argument: &[u8]) -> Result<i64, Errno> {
        testing::poke(&self.hv, &self.domain, ARGUMENTS, argument);
        let args = [u64::from(command), ARGUMENTS, 0, 0, 0];
        Errno::from_return(testing::hypercall(&self.hv, &self.vcpu, hypercall::SCHED_OP, args))
    }

    fn narrow(&self, number: u32, args: [u64; 5]) -> Result<i64, Errno> {
        match self.hv.hypercall(&self.vcpu, u64::from(number), args, Width::Bits32, testing::UNPAGED) {
            Next::Return(value) => Errno::from_return(value),
            Next::Again(_) => panic!("a short call is continued"),
        }
    }

    fn runstate_at(&self, address: u64) -> abi::RunstateInfo {
        abi::RunstateInfo::read_from_bytes(&testing::peek::<48>(&self.hv, &self.domain, address)).unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // What is pinned may not be dropped.
        sched::retire(&self.hv, &self.domain);
    }
}

fn flat_32() -> X86_32 {
    X86_32 {
        eip: 0x1000,
        cr0: 0x11,
        cs_ar: 0xc9b,
        cs_limit: u32::MAX,
        ss_ar: 0xc93,
        ss_limit: u32::MAX,
        ds_ar: 0xc93,
        es_ar: 0,
        tr_ar: 0x8b,
        tr_limit: 0x67,
        ..X86_32::default()
    }
}

fn flat_64() -> X86_64 {
    X86_64 { rip: 0x1000, cr0: 0x8000_0011, cr3: 0x3000, cr4: 0x20, efer: 0x100, ..X86_64::default() }
}

#[test]
fn numbers_and_vcpus_are_checked() {
    let guest = Guest::new();
    assert_eq!(guest.vcpu_op(abi::IS_UP, 3, &[]), Err(Errno::ENOENT));
    assert_eq!(guest.vcpu_op(abi::IS_UP, u32::MAX, &[]), Err(Errno::ENOENT));
    assert_eq!(guest.vcpu_op(99, 0, &[]), Err(Errno::ENOSYS));
    assert_eq!(guest.vcpu_op(abi::GET_PHYSID, 0, &[]), Err(Errno::EINVAL));
    assert_eq!(guest.vcpu_op_at(abi::SET_SINGLESHOT_TIMER, 0, UNMAPPED), Err(Errno::EFAULT));
    assert_eq!(guest.sched_op(77, &[]), Err(Errno::ENOSYS));
    assert_eq!(guest.sched_op(sched_abi::PIN_OVERRIDE, &[0; 4]), Err(Errno::EPERM));
}

#[test]
fn a_vcpu_is_initialised_once_and_then_comes_up() {
    let guest = Guest::new();
    assert_eq!(guest.vcpu_op(abi::UP, 1, &[]), Err(Errno::EINVAL));
    assert_eq!(guest.vcpu_op(abi::IS_UP, 1, &[]), Ok(0));
    let context = HvmContext::new_64(&flat_64());
    assert_eq!(guest.vcpu_op(abi::INITIALISE, 1, context.as_bytes()), Ok(0));
    assert_eq!(guest.vcpu_op(abi::INITIALISE, 1, context.as_bytes()), Err(Errno::EEXIST));
    let vcpu = testing::vcpu(&guest.domain, 1);
    assert!(vcpu.attention().contains(Attention::START));
    let start = vcpu.start.lock().expect("a state to start from");
    assert_eq!((start.rip, start.efer, start.rflags, start.cs.attributes), (0x1000, 0x500, 2, 0xa9b));
    assert_eq!(guest.vcpu_op(abi::UP, 1, &[]), Ok(0));
    assert_eq!(guest.vcpu_op(abi::IS_UP, 1, &[]), Ok(1));
    assert!(vcpu.sched.state().is_runnable());
    assert_eq!(guest.vcpu_op(abi::DOWN, 1, &[]), Ok(0));
    assert_eq!(guest.vcpu_op(abi::IS_UP, 1, &[]), Ok(0));
}

#[test]
fn impossible_32_bit_states_are_refused() {
    let guest = Guest::new();
    let good = flat_32();
    let refused: [(&str, X86_32); 15] = [
        ("padding", X86_32 { pad1: 1, ..good }),
        ("padding at the end", X86_32 { pad2: [0, 0, 1], ..good }),
        ("reserved attributes", X86_32 { cs_ar: 0x1c9b, ..good }),
        ("no code segment", X86_32 { cs_ar: 0, ..good }),
        ("no stack segment", X86_32 { ss_ar: 0, ..good }),
        ("no task register", X86_32 { tr_ar: 0, ..good }),
        ("data as code", X86_32 { cs_ar: 0xc93, ..good }),
        ("read-only stack", X86_32 { ss_ar: 0xc91, ..good }),
        ("execute-only data", X86_32 { ds_ar: 0xc99, ..good }),
        ("an absent segment", X86_32 { ds_ar: 0xc13, ..good }),
        ("a system segment as data", X86_32 { es_ar: 0x8b, ..good }),
        ("a 16-bit task", X86_32 { tr_ar: 0x83, ..good }),
        ("another ring's stack", X86_32 { ss_ar: 0xcf3, ..good }),
        ("eip past the limit", X86_32 { cs_ar: 0x49b, cs_limit: 0xfff, ..good }),
        ("LMA without LME", X86_32 { efer: 0x400, ..good }),
    ];
    for (what, registers) in refused {
        let context = HvmContext::new_32(&registers);
        assert_eq!(guest.vcpu_op(abi::INITIALISE, 1, context.as_bytes()), Err(Errno::EINVAL), "{what}");
    }
    let mut context = HvmContext::new_32(&good);
    context.pad = 1;
    assert_eq!(guest.vcpu_op(abi::INITIALISE, 1, context.as_bytes()), Err(Errno::EINVAL));
    context.pad = 0;
    context.mode = 2;
    assert_eq!(guest.vcpu_op(abi::INITIALISE, 1, context.as_bytes()), Err(Errno::EINVAL));
    assert!(!testing::vcpu(&guest.domain, 1).attention().contains(Attention::START));
    // Segments need not be marked as accessed, nor the task as busy.
    let unmarked = X86_32 { cs_ar: 0xc9a, ss_ar: 0xc92, ds_ar: 0xc92, tr_ar: 0x89, ..good };
    assert_eq!(guest.vcpu_op(abi::INITIALISE, 1, HvmContext::new_32(&unmarked).as_bytes()), Ok(0));
    let start = testing::vcpu(&guest.domain, 1).start.lock().expect("a state");
    assert_eq!((start.cs.attributes, start.ds.attributes, start.tr.attributes), (0xc9b, 0xc93, 0x8b));
}

#[test]
fn impossible_64_bit_states_are_refused() {
    let guest = Guest::new();
    let good = flat_64();
    let refused: [(&str, X86_64); 6] = [
        ("a rip that is not canonical", X86_64 { rip: 1 << 47, ..good }),
        ("no paging", X86_64 { cr0: 0x11, ..good }),
        ("no PAE", X86_64 { cr4: 0, ..good }),
        ("no LME", X86_64 { efer: 0, ..good }),
        ("unknown CR4 bits", X86_64 { cr4: 0x20 | 1 << 40, ..good }),
        ("SVME", X86_64 { efer: 0x100 | 1 << 12, ..good }),
    ];
    for (what, registers) in refused {
        let context = HvmContext::new_64(&registers);
        assert_eq!(guest.vcpu_op(abi::INITIALISE, 1, context.as_bytes()), Err(Errno::EINVAL), "{what}");
    }
    let high = X86_64 { rip: 0xffff_ffff_8000_0000, ..good };
    assert_eq!(guest.vcpu_op(abi::INITIALISE, 1, HvmContext::new_64(&high).as_bytes()), Ok(0));
}

#[test]
fn single_shot_timers_are_the_callers_own() {
    let guest = Guest::new();
    let now = guest.hv.machine.now();
    let past = abi::SetSingleshotTimer { timeout_abs_ns: now - 1, flags: 0, pad: 0 };
    assert_eq!(guest.vcpu_op(abi::SET_SINGLESHOT_TIMER, 1, past.as_bytes()), Err(Errno::EINVAL));
    let future_only = abi::SetSingleshotTimer { flags: abi::SINGLESHOT_FUTURE, ..past };
    assert_eq!(guest.vcpu_op(abi::SET_SINGLESHOT_TIMER, 0, future_only.as_bytes()), Err(Errno::ETIME));
    assert_eq!(guest.vcpu.timers.deadline(Kind::Singleshot), None);
    // In the past: at once.
    assert_eq!(guest.vcpu_op(abi::SET_SINGLESHOT_TIMER, 0, past.as_bytes()), Ok(0));
    assert!(guest.hv.machine.armed(guest.hv.machine.this_cpu()).is_some_and(|at| at <= now + 1_000));
    guest.hv.machine.advance(1_000);
    guest.hv.on_timer();
    assert_eq!(guest.vcpu.timers.deadline(Kind::Singleshot), None);
    let later = abi::SetSingleshotTimer { timeout_abs_ns: now + 5_000_000, ..past };
    assert_eq!(guest.vcpu_op(abi::SET_SINGLESHOT_TIMER, 0, later.as_bytes()), Ok(0));
    assert_eq!(guest.vcpu.timers.deadline(Kind::Singleshot), Some(now + 5_000_000));
    assert_eq!(guest.vcpu_op(abi::STOP_SINGLESHOT_TIMER, 1, &[]), Err(Errno::EINVAL));
    assert_eq!(guest.vcpu_op(abi::STOP_SINGLESHOT_TIMER, 0, &[]), Ok(0));
    assert_eq!(guest.vcpu.timers.deadline(Kind::Singleshot), None);
}

#[test]
fn periodic_timers_have_bounds_and_go_on() {
    let guest = Guest::new();
    for period in [0, 999_999, u64::MAX] {
        assert_eq!(guest.vcpu_op(abi::SET_PERIODIC_TIMER, 0, &period.to_le_bytes()), Err(Errno::EINVAL));
    }
    let start = guest.hv.machine.now();
    assert_eq!(guest.vcpu_op(abi::SET_PERIODIC_TIMER, 1, &2_000_000u64.to_le_bytes()), Ok(0));
    let other = testing::vcpu(&guest.domain, 1);
    assert_eq!(other.timers.deadline(Kind::Periodic), Some(start + 2_000_000));
    guest.hv.machine.set_now(start + 2_000_000);
    guest.hv.on_timer();
    assert_eq!(other.timers.deadline(Kind::Periodic), Some(start + 4_000_000));
    assert_eq!(guest.vcpu_op(abi::STOP_PERIODIC_TIMER, 1, &[]), Ok(0));
    assert_eq!(other.timers.deadline(Kind::Periodic), None);
}

#[test]
fn set_timer_op_knows_what_old_guests_mean() {
    let guest = Guest::new();
    let now = guest.hv.machine.now();
    let set = |timeout: u64| {
        let result = testing::hypercall(&guest.hv, &guest.vcpu, hypercall::SET_TIMER_OP, [timeout, 0, 0, 0, 0]);
        assert_eq!(result, 0);
        guest.vcpu.timers.deadline(Kind::Singleshot)
    };
    assert_eq!(set(now + 77), Some(now + 77));
    assert_eq!(set(0), None);
    assert_eq!(set(u64::MAX), Some(now + 100_000_000));
    assert_eq!(set(now + (1 << 50)), Some(now + 100_000_000));
    assert_eq!(set(now + (1 << 50) - 1), Some(now + (1 << 50) - 1));
    // 32-bit code gives two halves.
    assert_eq!(guest.narrow(hypercall::SET_TIMER_OP, [5, 1, 0, 0, 0]), Ok(0));
    assert_eq!(guest.vcpu.timers.deadline(Kind::Singleshot), Some(1 << 32 | 5));
}

#[test]
fn runstates_are_told_and_kept_up_to_date() {
    let guest = Guest::new();
    let started = guest.hv.machine.now();
    let area = AREA + 0x10;
    assert_eq!(guest.vcpu_op(abi::REGISTER_RUNSTATE_MEMORY_AREA, 0, &area.to_le_bytes()), Ok(0));
    assert_eq!(guest.runstate_at(area).state, abi::RUNSTATE_RUNNING);
    guest.hv.machine.advance(1_000);
    // Asleep for a while.
    let poll = sched_abi::Poll { timeout: started + 50_000, ..sched_abi::Poll::default() };
    assert_eq!(guest.sched_op(sched_abi::POLL, poll.as_bytes()), Ok(0));
    assert!(guest.hv.must_schedule(&guest.vcpu));
    assert!(guest.hv.schedule().is_none());
    guest.hv.context_saved(&guest.vcpu);
    let asleep = guest.runstate_at(area);
    assert_eq!((asleep.state, asleep.state_entry_time), (abi::RUNSTATE_BLOCKED, started + 1_000));
    assert_eq!(asleep.time, [1_000, 0, 0, 0]);
    guest.hv.machine.set_now(started + 50_000);
    guest.hv.on_timer();
    assert_eq!(guest.runstate_at(area).state, abi::RUNSTATE_RUNNABLE);
    guest.hv.machine.advance(500);
    assert!(guest.hv.schedule().is_some());
    assert_eq!(guest.runstate_at(area).time, [1_000, 500, 49_000, 0]);
    // By the hypercall: up to now.
    guest.hv.machine.advance(100);
    assert_eq!(guest.vcpu_op(abi::GET_RUNSTATE_INFO, 0, &[]), Ok(0));
    assert_eq!(guest.runstate_at(ARGUMENTS).time, [1_100, 500, 49_000, 0]);
    assert_eq!(guest.vcpu_op(abi::GET_RUNSTATE_INFO, 2, &[]), Ok(0));
    let offline = guest.runstate_at(ARGUMENTS);
    assert_eq!((offline.state, offline.time), (abi::RUNSTATE_OFFLINE, [0, 0, 0, 50_600]));
    assert_eq!(guest.vcpu_op_at(abi::GET_RUNSTATE_INFO, 0, UNMAPPED), Err(Errno::EFAULT));
}

#[test]
fn runstate_areas_lie_anywhere_and_are_given_back() {
    let guest = Guest::new();
    let unpinned = guest.domain.memory.current();
    // Across two pages, and without alignment.
    for area in [AREA + 0xff0, AREA + 3] {
        assert_eq!(guest.vcpu_op(abi::REGISTER_RUNSTATE_MEMORY_AREA, 0, &area.to_le_bytes()), Ok(0));
        let mut bytes = Vec::new();
        for at in area..area + 48 {
            bytes.extend(testing::peek::<1>(&guest.hv, &guest.domain, at));
        }
        let info = abi::RunstateInfo::read_from_bytes(&bytes).unwrap();
        assert_eq!((info.state, info.state_entry_time), (abi::RUNSTATE_RUNNING, guest.hv.machine.now()));
    }
    let register = |area: u64| guest.vcpu_op(abi::REGISTER_RUNSTATE_MEMORY_AREA, 0, &area.to_le_bytes());
    assert_eq!(register(UNMAPPED), Err(Errno::EFAULT));
    let physical = |area: u64| guest.vcpu_op(abi::REGISTER_RUNSTATE_PHYS_AREA, 0, &area.to_le_bytes());
    assert_eq!(physical(AREA + 0xff0), Err(Errno::ENXIO));
    assert_eq!(physical(UNMAPPED), Err(Errno::EINVAL));
    assert_eq!(physical(AREA + 0x100), Ok(0));
    assert_eq!(guest.runstate_at(AREA + 0x100).state, abi::RUNSTATE_RUNNING);
    assert_eq!(physical(u64::MAX), Ok(0));
    sched::retire(&guest.hv, &guest.domain);
    // Too late: it is not kept, and its memory is not held.
    assert_eq!(physical(AREA + 0x100), Ok(0));
    assert_eq!(guest.domain.memory.current(), unpinned);
}

#[test]
fn narrow_guests_have_their_own_layouts() {
    let guest = Guest::new();
    let now = guest.hv.machine.now();
    testing::poke(&guest.hv, &guest.domain, ARGUMENTS, &(AREA as u32).to_le_bytes());
    let args = [u64::from(abi::REGISTER_RUNSTATE_MEMORY_AREA), 0, ARGUMENTS, 0, 0];
    assert_eq!(guest.narrow(hypercall::VCPU_OP, args), Ok(0));
    let bytes = testing::peek::<44>(&guest.hv, &guest.domain, AREA);
    assert_eq!(bytes[..4], 0u32.to_le_bytes());
    assert_eq!(bytes[4..12], now.to_le_bytes());
    let [low, high] = [now as u32 + 99, 0];
    testing::poke(&guest.hv, &guest.domain, ARGUMENTS, [low, high, 0].as_bytes());
    let args = [u64::from(abi::SET_SINGLESHOT_TIMER), 0, ARGUMENTS, 0, 0];
    assert_eq!(guest.narrow(hypercall::VCPU_OP, args), Ok(0));
    assert_eq!(guest.vcpu.timers.deadline(Kind::Singleshot), Some(now + 99));
    // ports, nr_ports, timeout
    testing::poke(&guest.hv, &guest.domain, ARGUMENTS, [0, 0, low, high].as_bytes());
    assert_eq!(guest.narrow(hypercall::SCHED_OP, [u64::from(sched_abi::POLL), ARGUMENTS, 0, 0, 0]), Ok(0));
    assert_eq!(guest.vcpu.timers.deadline(Kind::Poll), Some(now + 99));
}

#[test]
fn marked_areas_end_up_unmarked() {
    let guest = Guest::new();
    guest.domain.sched.runstate_update_flag.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(guest.vcpu_op(abi::REGISTER_RUNSTATE_MEMORY_AREA, 0, &AREA.to_le_bytes()), Ok(0));
    let before = guest.hv.machine.accesses.load(std::sync::atomic::Ordering::Relaxed);
    guest.hv.machine.advance(10);
    sched::pause(&guest.hv, &guest.vcpu);
    assert!(guest.hv.schedule().is_none());
    let writes = guest.hv.machine.accesses.load(std::sync::atomic::Ordering::Relaxed) - before;
    assert_eq!(writes, 12, "six words, twice");
    let info = guest.runstate_at(AREA);
    assert_eq!(info.state, abi::RUNSTATE_OFFLINE);
    assert_eq!(info.state_entry_time & abi::RUNSTATE_UPDATE, 0);
}

#[test]
fn the_trace_tells_who_polls_and_what_ended_it() {
    let guest = Guest::new();
    let frame = guest.hv.heap.allocate(&guest.hv.machine, 0, Owner::Hypervisor).expect("a frame");
    let shared = frame.first();
    evtchn::attach_shared_info(&guest.hv, &guest.domain, shared);
    // It goes with the machine's memory.
    std::mem::forget(frame);
    let mut ipi = evtchn_abi::BindIpi { vcpu: VcpuId(0), port: Port(0) };
    testing::poke(&guest.hv, &guest.domain, ARGUMENTS, ipi.as_bytes());
    let args = [u64::from(evtchn_abi::BIND_IPI), ARGUMENTS, 0, 0, 0];
    assert_eq!(testing::hypercall(&guest.hv, &guest.vcpu, hypercall::EVENT_CHANNEL_OP, args), 0);
    ipi = FromBytes::read_from_bytes(&testing::peek::<8>(&guest.hv, &guest.domain, ARGUMENTS)).unwrap();
    testing::poke(&guest.hv, &guest.domain, AREA, ipi.port.as_bytes());
    // As a spinlock's waiter has it: masked, so that nothing but the poll can end.
    let mask = MachineAddress(shared.0 * 4096 + shared_info_offset::EVTCHN_MASK as u64);
    guest.hv.machine.word64(mask).fetch_or(1 << ipi.port.0, std::sync::atomic::Ordering::SeqCst);
    let start = guest.hv.machine.now();
    let ports = shared_abi::xen::GuestHandle::new(AREA);
    let poll = sched_abi::Poll { ports, nr_ports: 1, timeout: start + 9, ..sched_abi::Poll::default() };
    let wakes: [&dyn Fn(); 2] = [&|| evtchn::send(&guest.hv, &guest.domain, ipi.port).unwrap(), &|| {
        guest.hv.machine.set_now(start + 9);
        guest.hv.on_timer();
    }];
    // The pending bit that the first one leaves would keep the second from sleeping.
    for (wake, nr_ports) in wakes.into_iter().zip([1, 0]) {
        assert_eq!(guest.sched_op(sched_abi::POLL, sched_abi::Poll { nr_ports, ..poll }.as_bytes()), Ok(0));
        assert!(guest.hv.schedule().is_none());
        guest.hv.context_saved(&guest.vcpu);
        wake();
        assert!(guest.hv.schedule().is_some());
    }
    let traced = guest.hv.machine.traced_of(trace_stream::Kind::POLL.0);
    let seen = traced.iter().map(|bytes| trace_stream::Poll::read_from_bytes(bytes).unwrap());
    let record = |what, port| trace_stream::Poll { domid: guest.domain.id, what, port, ..Default::default() };
    let none = Port(0);
    let expected = [
        record(POLL_SLEEPS, ipi.port),
        record(POLL_SENT, ipi.port),
        record(POLL_SLEEPS, none),
        record(POLL_TIMED_OUT, none),
    ];
    assert_eq!(seen.collect::<Vec<_>>(), expected);
}

#[test]
fn polls_are_checked_before_they_sleep() {
    let guest = Guest::new();
    let awake = || !guest.hv.must_schedule(&guest.vcpu);
    let poll = |ports: u64, nr_ports: u32| sched_abi::Poll {
        ports: shared_abi::xen::GuestHandle::new(ports),
        nr_ports,
        ..sched_abi::Poll::default()
    };
    assert_eq!(guest.sched_op(sched_abi::POLL, poll(AREA, 129).as_bytes()), Err(Errno::EINVAL));
    assert_eq!(guest.sched_op(sched_abi::POLL, poll(UNMAPPED, 1).as_bytes()), Err(Errno::EFAULT));
    assert_eq!(guest.sched_op(sched_abi::POLL, poll(u64::MAX - 3, 2).as_bytes()), Err(Errno::EFAULT));
    // Port 0, and one far too large.
    for port in [0u32, u32::MAX] {
        testing::poke(&guest.hv, &guest.domain, AREA, &port.to_le_bytes());
        assert_eq!(guest.sched_op(sched_abi::POLL, poll(AREA, 1).as_bytes()), Err(Errno::EINVAL));
    }
    assert!(awake());
    assert!(!guest.domain.sched.has_pollers());
    // With an NMI waiting it does not sleep.
    guest.vcpu.raise(Attention::NMI);
    assert_eq!(guest.sched_op(sched_abi::POLL, poll(AREA, 0).as_bytes()), Ok(0));
    assert!(awake() && !guest.domain.sched.has_pollers());
    guest.vcpu.withdraw(Attention::NMI);
    assert_eq!(guest.sched_op(sched_abi::POLL, poll(AREA, 0).as_bytes()), Ok(0));
    assert!(!awake() && guest.domain.sched.has_pollers());
}

#[test]
fn an_nmi_ends_any_sleep() {
    let guest = Guest::new();
    assert_eq!(guest.vcpu_op(abi::SEND_NMI, 0, &[]), Err(Errno::EINVAL), "its argument must be null");
    guest.hv.halt(&guest.vcpu, true);
    assert!(guest.hv.must_schedule(&guest.vcpu));
    assert_eq!(guest.vcpu_op_at(abi::SEND_NMI, 0, 0), Ok(0));
    assert!(!guest.hv.must_schedule(&guest.vcpu));
    assert!(guest.vcpu.attention().contains(Attention::NMI));
}

#[test]
fn watchdogs_are_two_and_bite() {
    let guest = Guest::new();
    let watchdog =
        |id: u32, timeout: u32| guest.sched_op(sched_abi::WATCHDOG, sched_abi::Watchdog { id, timeout }.as_bytes());
    assert_eq!(watchdog(3, 1), Err(Errno::EINVAL));
    assert_eq!(watchdog(1, 1), Err(Errno::EINVAL), "not in use");
    assert_eq!(watchdog(0, 2), Ok(1));
    assert_eq!(watchdog(0, 3), Ok(2));
    assert_eq!(watchdog(0, 3), Err(Errno::ENOSPC));
    assert_eq!(watchdog(1, 0), Ok(0));
    assert_eq!(guest.vcpu.timers.deadline(Kind::Watchdog0), None);
    assert_eq!(watchdog(1, 5), Err(Errno::EINVAL));
    assert_eq!(watchdog(2, 10), Ok(0));
    let due = guest.vcpu.timers.deadline(Kind::Watchdog1).expect("it runs");
    assert_eq!(due, guest.hv.machine.now() + 10_000_000_000);
    guest.hv.machine.set_now(due);
    guest.hv.on_timer();
    let logged = guest.hv.machine.logged.lock().unwrap();
    assert!(logged.iter().any(|(_, line)| line.contains("watchdog")), "{logged:?}");
}

#[test]
fn the_first_shutdown_code_counts() {
    let guest = Guest::new();
    let code = |reason: u32| guest.sched_op(sched_abi::SHUTDOWN_CODE, sched_abi::Shutdown { reason }.as_bytes());
    assert_eq!(code(sched_abi::SHUTDOWN_CRASH), Ok(0));
    assert_eq!(code(sched_abi::SHUTDOWN_REBOOT), Ok(0));
    assert_eq!(guest.domain.sched.shutdown_reason(sched_abi::SHUTDOWN_POWEROFF), sched_abi::SHUTDOWN_CRASH);
    let remote = sched_abi::RemoteShutdown { domain_id: guest.domain.id, pad: 0, reason: 0 };
    assert_eq!(guest.sched_op(sched_abi::REMOTE_SHUTDOWN, remote.as_bytes()), Err(Errno::EPERM));
    let stranger = sched_abi::RemoteShutdown { domain_id: shared_abi::xen::DomId(9), ..remote };
    assert_eq!(guest.sched_op(sched_abi::REMOTE_SHUTDOWN, stranger.as_bytes()), Err(Errno::ESRCH));
}
