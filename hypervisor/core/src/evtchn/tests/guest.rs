//! A guest for the tests: its calls, and its half of both delivery protocols.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::vec::Vec;

use shared_abi::event_channel as abi;
use shared_abi::hvm;
use shared_abi::hypercall as number;
use shared_abi::xen::{DomId, Errno, Gfn, Port, VcpuId, Virq, shared_info_offset, vcpu_info_offset};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::domain::Domain;
use crate::evtchn;
use crate::heap::Owner;
use crate::hypervisor::Hypervisor;
use crate::machine::{Machine, MachineAddress};
use crate::testing::{self, FakeMachine};

const PENDING: u32 = 1 << abi::FIFO_PENDING;
const MASKED: u32 = 1 << abi::FIFO_MASKED;
const LINKED: u32 = 1 << abi::FIFO_LINKED;
const BUSY: u32 = 1 << abi::FIFO_BUSY;

/// Pages of each test guest: scratch pages, one per CPU, from 0; control blocks from 16; event words from 32.
const PAGES: u64 = 48;
const CONTROL_GFN: u64 = 16;
const ARRAY_GFN: u64 = 32;

/// The vector test guests are called back on.
pub const CALLBACK: u64 = 2 << 56 | 0xf3;

/// A guest.
pub struct Guest<'a> {
    pub hv: &'a Hypervisor<FakeMachine>,
    pub domain: Arc<Domain<FakeMachine>>,
    /// The guest's own idea of each queue's head, by vCPU and priority.
    heads: Vec<[AtomicU32; abi::FIFO_MAX_QUEUES]>,
}

impl<'a> Guest<'a> {
    /// A guest with `vcpus` vCPUs, a callback, and the 2-level ABI.
    pub fn new(hv: &'a Hypervisor<FakeMachine>, id: u16, vcpus: u32) -> Self {
        Self::of(hv, id, testing::domain_config("guest", PAGES, PAGES, vcpus))
    }

    /// A guest that may govern others.
    pub fn privileged(hv: &'a Hypervisor<FakeMachine>, id: u16) -> Self {
        let mut config = testing::domain_config("governor", PAGES, PAGES, 1);
        config.privileged = true;
        Self::of(hv, id, config)
    }

    fn of(hv: &'a Hypervisor<FakeMachine>, id: u16, config: crate::domain::DomainConfig) -> Self {
        let vcpus = config.vcpus;
        let domain = testing::domain_of(hv, id, config);
        let frame = hv.heap.allocate(&hv.machine, 0, Owner::Hypervisor).expect("a frame");
        // The fake machine goes with its memory: nobody has to give this back.
        evtchn::attach_shared_info(hv, &domain, frame.into_record().0);
        let heads = (0..vcpus).map(|_| [const { AtomicU32::new(0) }; 16]).collect();
        let guest = Self { hv, domain, heads };
        let callback = hvm::Param { domid: DomId::SELF, index: 0, value: CALLBACK, ..Default::default() };
        assert_eq!(guest.call(number::HVM_OP.into(), hvm::SET_PARAM.into(), &mut { callback }), 0);
        guest
    }

    /// A hypercall of vCPU 0's with a structure, which is copied in and out.
    pub fn call<T: IntoBytes + FromBytes + Immutable>(&self, number: u64, operation: u64, request: &mut T) -> i64 {
        let address = u64::from(self.hv.machine.this_cpu().0) * 4096;
        testing::poke(self.hv, &self.domain, address, request.as_bytes());
        let vcpu = testing::vcpu(&self.domain, 0);
        let result = testing::hypercall(self.hv, &vcpu, number, [operation, address, 0, 0, 0]);
        let bytes = testing::peek::<64>(self.hv, &self.domain, address);
        *request = T::read_from_prefix(&bytes).expect("a small structure").0;
        result
    }

    /// An event channel operation.
    pub fn op<T: IntoBytes + FromBytes + Immutable>(&self, operation: u32, request: &mut T) -> Result<(), Errno> {
        let value = self.call(number::EVENT_CHANNEL_OP.into(), operation.into(), request);
        Errno::from_return(value).map(|value| assert_eq!(value, 0))
    }

    pub fn id(&self) -> DomId {
        self.domain.id
    }

    pub fn alloc_unbound(&self, remote: DomId) -> Result<Port, Errno> {
        let mut request = abi::AllocUnbound { dom: DomId::SELF, remote_dom: remote, port: Port(0) };
        self.op(abi::ALLOC_UNBOUND, &mut request).map(|()| request.port)
    }

    pub fn bind_interdomain(&self, remote: DomId, port: Port) -> Result<Port, Errno> {
        let mut request = abi::BindInterdomain { remote_dom: remote, remote_port: port, ..Default::default() };
        self.op(abi::BIND_INTERDOMAIN, &mut request).map(|()| request.local_port)
    }

    pub fn bind_virq(&self, virq: Virq, vcpu: u32) -> Result<Port, Errno> {
        let mut request = abi::BindVirq { virq, vcpu: VcpuId(vcpu), port: Port(0) };
        self.op(abi::BIND_VIRQ, &mut request).map(|()| request.port)
    }

    pub fn bind_ipi(&self, vcpu: u32) -> Result<Port, Errno> {
        let mut request = abi::BindIpi { vcpu: VcpuId(vcpu), port: Port(0) };
        self.op(abi::BIND_IPI, &mut request).map(|()| request.port)
    }

    pub fn close(&self, port: Port) -> Result<(), Errno> {
        self.op(abi::CLOSE, &mut abi::Close { port })
    }

    pub fn send(&self, port: Port) -> Result<(), Errno> {
        self.op(abi::SEND, &mut abi::Send { port })
    }

    pub fn bind_vcpu(&self, port: Port, vcpu: u32) -> Result<(), Errno> {
        self.op(abi::BIND_VCPU, &mut abi::BindVcpu { port, vcpu: VcpuId(vcpu) })
    }

    pub fn set_priority(&self, port: Port, priority: u32) -> Result<(), Errno> {
        self.op(abi::SET_PRIORITY, &mut abi::SetPriority { port, priority })
    }

    pub fn reset(&self) -> Result<(), Errno> {
        self.op(abi::RESET, &mut abi::Reset { dom: DomId::SELF })
    }

    pub fn status(&self, port: Port) -> Result<abi::Status, Errno> {
        let mut request = abi::Status { dom: DomId::SELF, port, ..Default::default() };
        self.op(abi::STATUS, &mut request).map(|()| request)
    }

    pub fn init_control(&self, vcpu: u32) -> Result<(), Errno> {
        let mut request = abi::InitControl {
            control_gfn: Gfn(CONTROL_GFN + u64::from(vcpu)),
            offset: 128,
            vcpu: VcpuId(vcpu),
            ..Default::default()
        };
        self.op(abi::INIT_CONTROL, &mut request)?;
        assert_eq!(request.link_bits, 17);
        Ok(())
    }

    pub fn expand_array(&self, page: u64) -> Result<(), Errno> {
        self.op(abi::EXPAND_ARRAY, &mut abi::ExpandArray { array_gfn: Gfn(ARRAY_GFN + page) })
    }

    /// Everything a guest does to use the FIFO ABI: control blocks, one page of words, all masked.
    pub fn use_fifo(&self) {
        for vcpu in 0..self.domain.vcpus.len() as u32 {
            self.init_control(vcpu).expect("a control block");
        }
        for port in 0..1024 {
            self.word(Port(port)).store(MASKED, Ordering::SeqCst);
        }
        self.expand_array(0).expect("a page of event words");
    }

    /// A word of the guest's memory.
    pub fn memory(&self, address: u64) -> &'a AtomicU32 {
        let hv: &'a Hypervisor<FakeMachine> = self.hv;
        hv.machine.word32(testing::machine_address(hv, &self.domain, address))
    }

    /// The FIFO event word of a port.
    pub fn word(&self, port: Port) -> &'a AtomicU32 {
        self.memory(ARRAY_GFN * 4096 + u64::from(port.0) * 4)
    }

    /// Word `index` of a vCPU's control block: ready, reserved, heads.
    pub fn control(&self, vcpu: u32, index: u64) -> &'a AtomicU32 {
        self.memory((CONTROL_GFN + u64::from(vcpu)) * 4096 + 128 + index * 4)
    }

    fn shared(&self, offset: usize) -> MachineAddress {
        MachineAddress::in_frame(self.domain.events.shared_info_frame().expect("a frame"), offset)
    }

    /// Whether the guest would be called back on this vCPU.
    pub fn upcall(&self, vcpu: u32) -> bool {
        evtchn::upcall_deliverable(self.hv, &self.domain, &testing::vcpu(&self.domain, vcpu))
    }

    fn fifo(&self) -> bool {
        self.domain.events.uses_fifo()
    }

    /// Masks a port, as a guest does.
    pub fn mask(&self, port: Port) {
        if self.fifo() {
            self.word(port).fetch_or(MASKED, Ordering::SeqCst);
        } else {
            let at = self.shared(shared_info_offset::EVTCHN_MASK + port.index() / 64 * 8);
            self.hv.machine.word64(at).fetch_or(1 << (port.0 % 64), Ordering::SeqCst);
        }
    }

    /// Unmasks a port by the hypercall, which is always right.
    pub fn unmask(&self, port: Port) {
        self.op(abi::UNMASK, &mut abi::Unmask { port }).expect("unmask");
    }

    /// Unmasks a FIFO port without the hypercall where that is enough, as Linux does.
    pub fn unmask_fifo(&self, port: Port) {
        let word = self.word(port);
        loop {
            let seen = word.load(Ordering::SeqCst);
            if seen & BUSY != 0 {
                std::thread::yield_now();
                continue;
            }
            let clear = seen & !MASKED;
            if word.compare_exchange(seen, clear, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                if clear & PENDING != 0 {
                    self.unmask(port);
                }
                return;
            }
        }
    }

    /// Takes all events of a vCPU off, as the upcall's handler does; only if there is an upcall.
    pub fn drain(&self, vcpu: u32, mut handle: impl FnMut(Port)) {
        let info = self.domain.vcpus[vcpu as usize].events.info().expect("a vcpu_info");
        let machine = &self.hv.machine;
        let pending = MachineAddress(info.0 + vcpu_info_offset::EVTCHN_UPCALL_PENDING as u64);
        while machine.byte(pending).swap(0, Ordering::SeqCst) != 0 {
            if self.fifo() {
                self.drain_fifo(vcpu, &mut handle);
            } else {
                self.drain_two_level(info, &mut handle);
            }
        }
    }

    fn drain_two_level(&self, info: MachineAddress, handle: &mut impl FnMut(Port)) {
        let machine = &self.hv.machine;
        let selector = MachineAddress(info.0 + vcpu_info_offset::EVTCHN_PENDING_SEL as u64);
        let selected = machine.word64(selector).swap(0, Ordering::SeqCst);
        for index in (0..64).filter(|index| selected >> index & 1 != 0) {
            let pending = machine.word64(self.shared(shared_info_offset::EVTCHN_PENDING + index * 8));
            let mask = machine.word64(self.shared(shared_info_offset::EVTCHN_MASK + index * 8));
            let ready = pending.load(Ordering::SeqCst) & !mask.load(Ordering::SeqCst);
            for bit in (0..64).filter(|bit| ready >> bit & 1 != 0) {
                pending.fetch_and(!(1 << bit), Ordering::SeqCst);
                handle(Port(index as u32 * 64 + bit));
            }
        }
    }

    fn drain_fifo(&self, vcpu: u32, handle: &mut impl FnMut(Port)) {
        let mut ready = self.control(vcpu, 0).swap(0, Ordering::SeqCst);
        while ready != 0 {
            let priority = ready.trailing_zeros();
            if self.consume(vcpu, priority, handle) {
                ready &= !(1 << priority);
            }
            ready |= self.control(vcpu, 0).swap(0, Ordering::SeqCst);
        }
    }

    /// Takes one event off a queue; true when the queue is empty now.
    fn consume(&self, vcpu: u32, priority: u32, handle: &mut impl FnMut(Port)) -> bool {
        let cached = &self.heads[vcpu as usize][priority as usize];
        let mut head = cached.load(Ordering::SeqCst);
        if head == 0 {
            head = self.control(vcpu, 2 + u64::from(priority)).load(Ordering::SeqCst);
        }
        let port = Port(head);
        let word = self.word(port);
        let seen = word.fetch_and(!(LINKED | abi::FIFO_LINK_MASK), Ordering::SeqCst);
        let link = seen & abi::FIFO_LINK_MASK;
        cached.store(link, Ordering::SeqCst);
        if word.load(Ordering::SeqCst) & (PENDING | MASKED) == PENDING {
            word.fetch_and(!PENDING, Ordering::SeqCst);
            handle(port);
        }
        link == 0
    }

    /// Forgets where queues stood, after the control blocks went away.
    pub fn forget_queues(&self) {
        self.heads.iter().flatten().for_each(|head| head.store(0, Ordering::SeqCst));
    }
}

/// Counts what arrives, by port.
#[derive(Default)]
pub struct Arrivals(pub Vec<(u32, u64)>);

impl Arrivals {
    pub fn note(&mut self, port: Port) {
        match self.0.iter_mut().find(|(number, _)| *number == port.0) {
            Some((_, count)) => *count += 1,
            None => self.0.push((port.0, 1)),
        }
    }

    pub fn of(&self, port: Port) -> u64 {
        self.0.iter().find(|(number, _)| *number == port.0).map_or(0, |(_, count)| *count)
    }
}

/// A counter per port that threads share.
pub fn counters(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}
