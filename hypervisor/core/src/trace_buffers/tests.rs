//! The buffers against a reader that follows Xen's, and the control calls.

use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use shared_abi::hypercall as number;
use shared_abi::memory::{self, AddToPhysmapBatch, MemoryReservation};
use shared_abi::sysctl::{self, Sysctl, TbufOp};
use shared_abi::trace as abi;
use shared_abi::xen::{CtlBitmap, DomId, Errno, GuestHandle, Mfn};
use zerocopy::{FromZeros, IntoBytes};

use super::ring::{Producer, Pushed, Ring};
use crate::domain::Domain;
use crate::heap::Owner;
use crate::hypervisor::{CpuAttention, Hypervisor};
use crate::machine::{Machine, MachineAddress, PAGE_SIZE};
use crate::testing::{self, FakeMachine, domain_config, domain_of, hypervisor, peek, poke};

const ARGUMENT: u64 = 0x1000;
const LISTS: u64 = 0x2000;
/// Where the privileged domain maps what is shared, beyond its memory.
const WINDOW: u64 = 0x100;

/// A record as a reader sees it: event, time, extra words.
type Record = (u32, Option<u64>, Vec<u32>);

/// Reads a buffer as Xen's tools do.
struct Reader {
    first: Mfn,
    size: u32,
}

impl Reader {
    fn word(&self, machine: &FakeMachine, offset: u32) -> u32 {
        let at = MachineAddress(self.first.0 * PAGE_SIZE as u64 + u64::from(offset));
        machine.word32(at).load(std::sync::atomic::Ordering::Acquire)
    }

    fn set_cons(&self, machine: &FakeMachine, cons: u32) {
        let at = MachineAddress(self.first.0 * PAGE_SIZE as u64);
        machine.word32(at).store(cons, std::sync::atomic::Ordering::Release);
    }

    /// Takes up to `most` records out.
    fn take(&self, machine: &FakeMachine, most: usize) -> Vec<Record> {
        let (mut cons, prod) = (self.word(machine, 0), self.word(machine, 4));
        let mut records = Vec::new();
        while cons != prod && records.len() < most {
            let at = 8 + cons % self.size;
            let head = self.word(machine, at);
            let (count, timed) = (head >> abi::EXTRA_SHIFT & 7, head & abi::CYCLES_INCLUDED != 0);
            let words: Vec<u32> =
                (1..1 + count + if timed { 2 } else { 0 }).map(|index| self.word(machine, at + index * 4)).collect();
            let length = 4 * (1 + words.len() as u32);
            assert!(cons % self.size + length <= self.size, "a record goes round the end");
            cons = (cons + length) % (2 * self.size);
            let time = timed.then(|| u64::from(words[0]) | u64::from(words[1]) << 32);
            let event = head & abi::EVENT_MASK;
            if event != abi::WRAP_BUFFER {
                records.push((event, time, words[if timed { 2 } else { 0 }..].to_vec()));
            }
        }
        self.set_cons(machine, cons);
        records
    }
}

/// Records of every length, written and read at different speeds: none is damaged, and those lost are counted.
#[test]
fn a_reader_gets_every_record_or_is_told_how_many_are_lost() {
    let hv = hypervisor(1, 512);
    let first = hv.heap.take_for_ever(&hv.machine, 1).unwrap();
    let ring = Ring::new(&hv.machine, first, 2);
    let reader = Reader { first, size: 2 * PAGE_SIZE as u32 - 8 };
    let producer = Producer::default();
    let (mut seed, mut sent, mut seen, mut half_full) = (7u64, 0u32, 0u32, 0);
    for round in 0..3000u64 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        hv.machine.advance(1 + (seed >> 40) % 5);
        for index in 0..seed >> 33 & 31 {
            let extra: Vec<u32> = (0..(seed >> (index % 40)) as usize % 8).map(|word| sent ^ word as u32).collect();
            half_full += u32::from(ring.push(&producer, sent, &extra) == Pushed::HalfFull);
            sent += 1;
        }
        // Sometimes the reader sleeps for long.
        let most = if round % 200 < 60 { 0 } else { (seed >> 20 & 63) as usize };
        for (event, time, words) in reader.take(&hv.machine, most) {
            assert!(time.is_some_and(|time| time <= hv.machine.tsc()));
            if event == abi::LOST_RECORDS {
                assert_eq!(words.len(), 4);
                assert!(words[0] > 0 && u64::from(words[2]) | u64::from(words[3]) << 32 <= time.unwrap());
                seen += words[0];
            } else {
                assert_eq!(event, seen, "the next one");
                assert!(words.iter().zip(0..).all(|(word, index)| *word == event ^ index), "{words:x?}");
                seen += 1;
            }
        }
    }
    assert!(half_full > 3, "half full {half_full} times");
    // What was lost last is told with the next record.
    reader.take(&hv.machine, usize::MAX);
    assert_eq!(ring.push(&producer, 1, &[]), Pushed::Quiet);
    assert!(seen > sent / 4 && seen <= sent, "{seen} of {sent}");
}

#[test]
fn a_counter_that_cannot_be_is_refused() {
    let hv = hypervisor(1, 512);
    let first = hv.heap.take_for_ever(&hv.machine, 0).unwrap();
    let ring = Ring::new(&hv.machine, first, 1);
    let reader = Reader { first, size: PAGE_SIZE as u32 - 8 };
    let producer = Producer::default();
    for cons in [1, 2, 2 * reader.size, 2 * reader.size + 4, u32::MAX, 4, reader.size - 4, 0x8000_0000] {
        reader.set_cons(&hv.machine, cons);
        assert_eq!(ring.push(&producer, 5, &[]), Pushed::Nonsense(cons), "{cons:#x}");
    }
    reader.set_cons(&hv.machine, reader.size);
    assert_eq!(ring.push(&producer, 5, &[]), Pushed::Quiet, "full, and so lost");
    reader.set_cons(&hv.machine, 0);
    assert_eq!(ring.push(&producer, 6, &[]), Pushed::Quiet);
    let records = reader.take(&hv.machine, 9);
    assert_eq!(records.iter().map(|it| it.0).collect::<Vec<_>>(), [abi::LOST_RECORDS, 6]);
}

struct World {
    hv: Hypervisor<FakeMachine>,
    /// The first is privileged.
    domains: [Arc<Domain<FakeMachine>>; 2],
}

impl World {
    fn new(frames: u64) -> Self {
        let hv = hypervisor(2, frames);
        let domains = [0, 1].map(|id| {
            let mut config = domain_config("traced", 64, 256, 1);
            config.privileged = id == 0;
            domain_of(&hv, id, config)
        });
        Self { hv, domains }
    }

    fn call(&self, domain: usize, number: u32, args: [u64; 2]) -> i64 {
        let vcpu = testing::vcpu(&self.domains[domain], 0);
        testing::hypercall(&self.hv, &vcpu, number, [args[0], args[1], 0, 0, 0])
    }

    fn tbuf(&self, domain: usize, op: TbufOp) -> Result<TbufOp, i64> {
        let mut request = Sysctl { cmd: sysctl::TBUF_OP, ..Sysctl::new_zeroed() };
        request.interface_version = sysctl::INTERFACE_VERSION;
        request.set_payload(&op);
        poke(&self.hv, &self.domains[domain], ARGUMENT, request.as_bytes());
        match self.call(domain, number::SYSCTL, [ARGUMENT, 0]) {
            0 => {
                let bytes: [u8; size_of::<Sysctl>()] = peek(&self.hv, &self.domains[domain], ARGUMENT);
                request.as_mut_bytes().copy_from_slice(&bytes);
                Ok(request.payload())
            }
            errno => Err(errno),
        }
    }

    fn order(&self, cmd: u32, size: u32) -> Result<TbufOp, i64> {
        self.tbuf(0, TbufOp { cmd, size, ..TbufOp::default() })
    }

    /// Maps a frame of the hypervisor's at gfn `at`; the errno of the page.
    fn map(&self, domain: usize, mfn: u64, at: u64) -> i64 {
        let memory = &self.domains[domain];
        poke(&self.hv, memory, LISTS, mfn.as_bytes());
        poke(&self.hv, memory, LISTS + 8, at.as_bytes());
        let batch = AddToPhysmapBatch {
            domid: DomId::SELF,
            space: memory::MAPSPACE_GMFN_FOREIGN as u16,
            size: 1,
            foreign_domid: DomId::XEN,
            idxs: GuestHandle::new(LISTS),
            gpfns: GuestHandle::new(LISTS + 8),
            errs: GuestHandle::new(LISTS + 16),
        };
        poke(&self.hv, memory, ARGUMENT, batch.as_bytes());
        let result = self.call(domain, number::MEMORY_OP, [memory::ADD_TO_PHYSMAP_BATCH.into(), ARGUMENT]);
        assert_eq!(result, 0);
        i64::from(i32::from_le_bytes(peek(&self.hv, memory, LISTS + 16)))
    }

    /// Makes buffers of `pages` and finds them as a tool does: through the list.
    fn readers(&self, pages: u32) -> Vec<Reader> {
        self.order(sysctl::TBUFOP_SET_SIZE, pages).unwrap();
        let info = self.order(sysctl::TBUFOP_GET_INFO, 0).unwrap();
        for page in 0..u64::from(info.size) / PAGE_SIZE as u64 {
            assert_eq!(self.map(0, info.buffer_mfn + page, WINDOW + page), 0);
        }
        let half = |index: u64| {
            u64::from(u16::from_le_bytes(peek(&self.hv, &self.domains[0], WINDOW * PAGE_SIZE as u64 + 2 * index)))
        };
        let word = |index: u64| u32::from_le_bytes(peek(&self.hv, &self.domains[0], WINDOW * 4096 + 4 * index));
        assert_eq!(half(0), u64::from(pages));
        let readers = (0..2u64).map(|cpu| {
            let frames: Vec<u32> = (0..half(0)).map(|page| word(half(1 + cpu) + page)).collect();
            assert!(frames.windows(2).all(|pair| pair[1] == pair[0] + 1));
            Reader { first: Mfn(frames[0].into()), size: pages * PAGE_SIZE as u32 - 8 }
        });
        readers.collect()
    }

    fn code(errno: Errno) -> Result<TbufOp, i64> {
        Err(errno.to_return())
    }
}

#[test]
fn the_control_calls_answer_as_xens() {
    let w = World::new(2048);
    let refused = w.tbuf(1, TbufOp { cmd: sysctl::TBUFOP_GET_INFO, ..TbufOp::default() });
    assert_eq!(refused, World::code(Errno::EPERM));
    let nothing = w.order(sysctl::TBUFOP_GET_INFO, 0).unwrap();
    assert_eq!((nothing.buffer_mfn, nothing.size, nothing.evt_mask), (0, 0, abi::ALL));
    assert_eq!(w.order(sysctl::TBUFOP_ENABLE, 0), World::code(Errno::EINVAL), "no buffers");
    assert_eq!(w.order(sysctl::TBUFOP_SET_SIZE, 0), World::code(Errno::EINVAL));
    assert_eq!(w.order(sysctl::TBUFOP_SET_SIZE, 1 << 30), World::code(Errno::ENOMEM), "not for this machine");
    assert_eq!(w.order(6, 0), World::code(Errno::EINVAL));
    w.hv.audit_memory().unwrap();
    w.order(sysctl::TBUFOP_SET_SIZE, 3).unwrap();
    assert_eq!(w.order(sysctl::TBUFOP_SET_SIZE, 4), World::code(Errno::EBUSY), "3 has become 4");
    assert_eq!(w.order(sysctl::TBUFOP_SET_SIZE, 8), World::code(Errno::EINVAL));
    assert_eq!(w.order(sysctl::TBUFOP_GET_INFO, 0).unwrap().size, PAGE_SIZE as u32);
    let mask = TbufOp { cmd: sysctl::TBUFOP_SET_CPU_MASK, ..TbufOp::default() };
    let unmapped = CtlBitmap { bitmap: GuestHandle::new(0x7fff_f000), nr_bits: 2, pad: 0 };
    assert_eq!(w.tbuf(0, TbufOp { cpu_mask: unmapped, ..mask }), World::code(Errno::EFAULT));
    w.hv.audit_memory().unwrap();
}

#[test]
fn only_a_privileged_domain_maps_the_buffers_and_nothing_else() {
    let w = World::new(2048);
    let before = w.map(0, 1, WINDOW);
    assert_eq!(before, Errno::EINVAL.to_return(), "there are no buffers");
    let readers = w.readers(2);
    let own = w.hv.heap.allocate(&w.hv.machine, 0, Owner::Hypervisor).unwrap();
    assert_eq!(w.map(0, own.first().0, WINDOW + 9), Errno::EINVAL.to_return());
    assert_eq!(w.map(0, u64::MAX, WINDOW + 9), Errno::EINVAL.to_return());
    w.hv.heap.free(own);
    assert_eq!(w.map(1, readers[0].first.0, WINDOW), Errno::EPERM.to_return());
    assert_eq!(w.map(0, readers[0].first.0 + 1, WINDOW + 8), 0);
    let writable =
        |gfn| w.domains[0].memory.p2m.read().lookup(&w.hv.machine, shared_abi::xen::Gfn(gfn)).unwrap().writable;
    assert!(writable(WINDOW + 8) && !writable(WINDOW), "the list is for reading");
    w.hv.audit_memory().unwrap();
}

#[test]
fn events_are_chosen_by_class_and_cpu() {
    let w = World::new(2048);
    let readers = w.readers(2);
    let vcpu = testing::vcpu(&w.domains[1], 0);
    let send = || {
        w.hv.record(abi::SCHED_DOM_ADD, &[1]);
        w.hv.record_vcpu(abi::SCHED_BLOCK, &vcpu);
        w.hv.record(abi::HVM_VMEXIT64, &[0x81, 2, 3]);
        w.hv.record(abi::GUEST + 5, &[9]);
    };
    let read = |cpu: usize| -> Vec<Record> { readers[cpu].take(&w.hv.machine, 99) };
    let events = |records: Vec<Record>| -> Vec<u32> { records.iter().map(|record| record.0).collect() };
    send();
    let all = read(0);
    assert_eq!(all[1].2, [1, 0], "domain and vCPU");
    assert_eq!(events(all), [abi::SCHED_DOM_ADD, abi::SCHED_BLOCK, abi::HVM_VMEXIT64, abi::GUEST + 5]);
    let mask = TbufOp { cmd: sysctl::TBUFOP_SET_EVT_MASK, evt_mask: abi::SCHED, ..TbufOp::default() };
    w.tbuf(0, mask).unwrap();
    send();
    assert_eq!(events(read(0)), [abi::SCHED_DOM_ADD, abi::SCHED_BLOCK]);
    // One subclass: runstates, which none of these is.
    w.tbuf(0, TbufOp { evt_mask: 0x0002_1000, ..mask }).unwrap();
    send();
    assert_eq!(events(read(0)), []);
    w.tbuf(0, TbufOp { evt_mask: abi::GUEST, ..mask }).unwrap();
    // Only CPU 1.
    poke(&w.hv, &w.domains[0], LISTS, &[2]);
    let cpus = CtlBitmap { bitmap: GuestHandle::new(LISTS), nr_bits: 2, pad: 0 };
    w.tbuf(0, TbufOp { cmd: sysctl::TBUFOP_SET_CPU_MASK, cpu_mask: cpus, ..TbufOp::default() }).unwrap();
    send();
    testing::set_cpu(1);
    send();
    testing::set_cpu(0);
    assert_eq!((events(read(0)), events(read(1))), (vec![], vec![abi::GUEST + 5]));
    w.order(sysctl::TBUFOP_DISABLE, 0).unwrap();
    assert!(!w.hv.trace_buffers.are_on());
    w.order(sysctl::TBUFOP_GET_INFO, 0).unwrap();
    assert!(!w.hv.trace_buffers.are_on(), "a look changes nothing");
    w.order(sysctl::TBUFOP_ENABLE, 0).unwrap();
    assert!(w.hv.trace_buffers.are_on());
}

#[test]
fn memory_that_is_given_back_is_recorded_frame_by_frame() {
    let w = World::new(2048);
    let readers = w.readers(1);
    poke(&w.hv, &w.domains[1], LISTS, [5u64, 9, 5].as_bytes());
    let request = MemoryReservation {
        extent_start: GuestHandle::new(LISTS),
        nr_extents: 3,
        domid: DomId::SELF,
        ..MemoryReservation::default()
    };
    poke(&w.hv, &w.domains[1], ARGUMENT, request.as_bytes());
    let done = w.call(1, number::MEMORY_OP, [memory::DECREASE_RESERVATION.into(), ARGUMENT]);
    assert_eq!(done, 2, "5 is gone the second time");
    let records: Vec<_> =
        readers[0].take(&w.hv.machine, 99).into_iter().map(|(event, _, words)| (event, words)).collect();
    assert_eq!(records, [5, 9].map(|gfn| (abi::MEM_DECREASE_RESERVATION, vec![gfn, 0, 1, 0])));
}

#[test]
fn a_half_full_buffer_is_told_and_a_mad_reader_stops_it() {
    let w = World::new(2048);
    let readers = w.readers(1);
    let raised = || w.hv.cpu().attention().contains(CpuAttention::TRACE);
    for _ in 0..170 {
        w.hv.record(abi::SCHED_DOM_ADD, &[]);
    }
    assert!(!raised());
    w.hv.record(abi::SCHED_DOM_ADD, &[]);
    assert!(raised(), "{:#x}", readers[0].word(&w.hv.machine, 4));
    w.hv.cpu().withdraw(CpuAttention::TRACE);
    w.hv.announce_trace();
    readers[0].set_cons(&w.hv.machine, 3);
    w.hv.record(abi::SCHED_DOM_ADD, &[]);
    assert!(!w.hv.trace_buffers.are_on());
    readers[0].set_cons(&w.hv.machine, 0);
    w.order(sysctl::TBUFOP_ENABLE, 0).unwrap();
    w.hv.record(abi::SCHED_DOM_REM, &[]);
    assert_eq!(readers[0].take(&w.hv.machine, 999).last().unwrap().0, abi::SCHED_DOM_REM);
}
