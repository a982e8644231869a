//! Random hypercalls: how a call becomes registers and bytes in the caller's memory.
//!
//! A call is *tidy* when it writes nowhere but into its own argument buffers and names pages that are meant for what it
//! asks: then nothing it does can spoil the pages its domain shares with the hypervisor.

use shared_abi::event_channel as evt;
use shared_abi::hvm;
use shared_abi::hvm::hvm_vcpu::{HvmContext, X86_32, X86_64};
use shared_abi::hypercall as number;
use shared_abi::memory as mem;
use shared_abi::memory::{
    AddToPhysmap, AddToPhysmapBatch, MemAcquireResource, MemoryDomain, MemoryExchange, MemoryMap, MemoryReservation,
    RemoveFromPhysmap,
};
use shared_abi::sched;
use shared_abi::vcpu;
use shared_abi::xen::compat::{
    AddToPhysmap32, AddToPhysmapBatch32, MemAcquireResource32, MemoryExchange32, MemoryMap32, MemoryReservation32,
    MulticallEntry32, Poll32, RemoveFromPhysmap32, SetSingleshotTimer32,
};
use shared_abi::xen::{DomId, Gfn, GuestHandle, MulticallEntry, Port, VcpuId, Virq};
use zerocopy::{Immutable, IntoBytes};

use ebb_core::hypercall::Width;

use super::calls::{Event, GuestCall, Hvm, Memory, Scene, Sched, Vcpu, When, Who};
use super::layout::{ARRAY_GFN, BUFFERS, CONTROL_GFN, FIRST_FREE_GFN, INFO_GFN, LONG_LIST, MULTICALLS, RUNSTATE_GFN};

/// A call in registers and memory.
#[derive(Clone, Debug)]
pub struct Encoded {
    pub number: u64,
    pub args: [u64; 5],
    /// Bytes to be put at guest addresses first.
    pub writes: Vec<(u64, Vec<u8>)>,
}

impl Encoded {
    fn new(number: u32, args: [u64; 5]) -> Self {
        Self { number: number.into(), args, writes: Vec::new() }
    }

    fn put(mut self, address: u64, bytes: &(impl IntoBytes + Immutable + ?Sized)) -> Self {
        self.writes.push((address, bytes.as_bytes().to_vec()));
        self
    }

    fn put_words(self, address: u64, words: impl IntoIterator<Item = u64>, width: Width) -> Self {
        let bytes: Vec<u8> = match width {
            Width::Bits64 => words.into_iter().flat_map(u64::to_le_bytes).collect(),
            Width::Bits32 => words.into_iter().flat_map(|word| (word as u32).to_le_bytes()).collect(),
        };
        self.put(address, bytes.as_slice())
    }
}

/// Where a call's buffers are: the structure, and two lists.
#[derive(Clone, Copy)]
struct Slot(u64);

impl Slot {
    /// Bytes of a slot.
    const SIZE: u64 = 0x800;

    fn list(self) -> u64 {
        self.0.wrapping_add(0x100)
    }

    fn second_list(self) -> u64 {
        self.0.wrapping_add(0x480)
    }
}

fn reservation(list: u64, count: u64, order: u32, flags: u32, domid: DomId) -> MemoryReservation {
    MemoryReservation {
        extent_start: GuestHandle::new(list),
        nr_extents: count,
        extent_order: order,
        mem_flags: flags,
        domid,
        pad: [0; 3],
    }
}

fn narrow_reservation(wide: &MemoryReservation) -> MemoryReservation32 {
    MemoryReservation32 {
        extent_start: wide.extent_start.address() as u32,
        nr_extents: wide.nr_extents as u32,
        extent_order: wide.extent_order,
        mem_flags: wide.mem_flags,
        domid: wide.domid,
        pad: 0,
    }
}

impl Memory {
    fn encode(&self, scene: &Scene<'_>, slot: Slot, start: u64) -> Encoded {
        let narrow = scene.width == Width::Bits32;
        let base = |op: u32| Encoded::new(number::MEMORY_OP, [mem::continue_command(op, start), slot.0, 0, 0, 0]);
        match self {
            Memory::Reservation { op, gfns, count, order, flags, whose } => {
                let count = count.unwrap_or(gfns.len() as u64);
                let argument = reservation(slot.list(), count, *order, *flags, scene.who(*whose));
                let call = base(*op).put_words(slot.list(), gfns.iter().copied(), scene.width);
                put_reservation(call, slot.0, &argument, narrow)
            }
            Memory::Run { op, first, count } => {
                let argument = reservation(LONG_LIST, *count, 0, 0, DomId::SELF);
                let gfns = (0..*count).map(|index| first.wrapping_add(index));
                put_reservation(base(*op).put_words(LONG_LIST, gfns, scene.width), slot.0, &argument, narrow)
            }
            Memory::Exchange { given, given_order, wanted, wanted_order, done } => {
                let argument = MemoryExchange {
                    in_: reservation(slot.list(), given.len() as u64, *given_order, 0, DomId::SELF),
                    out: reservation(slot.second_list(), wanted.len() as u64, *wanted_order, 0, DomId::SELF),
                    nr_exchanged: *done,
                };
                let call = base(mem::EXCHANGE).put_words(slot.list(), given.iter().copied(), scene.width).put_words(
                    slot.second_list(),
                    wanted.iter().copied(),
                    scene.width,
                );
                if !narrow {
                    return call.put(slot.0, &argument);
                }
                let argument = MemoryExchange32 {
                    in_: narrow_reservation(&argument.in_),
                    out: narrow_reservation(&argument.out),
                    nr_exchanged: *done as u32,
                };
                call.put(slot.0, &argument)
            }
            Memory::Figure { op, whose } => base(*op).put(slot.0, &MemoryDomain { domid: scene.who(*whose) }),
            Memory::Map { op, entries } if narrow => {
                base(*op).put(slot.0, &MemoryMap32 { nr_entries: *entries, buffer: slot.list() as u32 })
            }
            Memory::Map { op, entries } => base(*op)
                .put(slot.0, &MemoryMap { nr_entries: *entries, pad: 0, buffer: GuestHandle::new(slot.list()) }),
            Memory::Claim { pages, whose } => {
                let argument = reservation(0, *pages, 0, 0, scene.who(*whose));
                put_reservation(base(mem::CLAIM_PAGES), slot.0, &argument, narrow)
            }
            Memory::MaximumRamPage => base(mem::MAXIMUM_RAM_PAGE),
            _ => self.encode_physmap(scene, slot, base),
        }
    }

    fn encode_physmap(&self, scene: &Scene<'_>, slot: Slot, base: impl Fn(u32) -> Encoded) -> Encoded {
        let narrow = scene.width == Width::Bits32;
        match self {
            Memory::Add { space, size, idx, gpfn, whose } => {
                let (space, size, domid) = (*space, *size, scene.who(*whose));
                let call = base(mem::ADD_TO_PHYSMAP);
                if narrow {
                    let (idx, gpfn) = (*idx as u32, *gpfn as u32);
                    return call.put(slot.0, &AddToPhysmap32 { domid, size, space, idx, gpfn });
                }
                call.put(slot.0, &AddToPhysmap { domid, size, space, idx: *idx, gpfn: Gfn(*gpfn) })
            }
            Memory::Batch { space, pairs, foreign, whose } => {
                let (domid, foreign_domid) = (scene.who(*whose), scene.who(*foreign));
                let (space, size, errs) = (*space, pairs.len() as u16, slot.0.wrapping_add(0x40));
                let call = base(mem::ADD_TO_PHYSMAP_BATCH)
                    .put_words(slot.list(), pairs.iter().map(|pair| pair.0), scene.width)
                    .put_words(slot.second_list(), pairs.iter().map(|pair| pair.1), scene.width);
                if narrow {
                    let (idxs, gpfns, errs) = (slot.list() as u32, slot.second_list() as u32, errs as u32);
                    let argument = AddToPhysmapBatch32 { domid, space, size, foreign_domid, idxs, gpfns, errs };
                    return call.put(slot.0, &argument);
                }
                let argument = AddToPhysmapBatch {
                    domid,
                    space,
                    size,
                    foreign_domid,
                    idxs: GuestHandle::new(slot.list()),
                    gpfns: GuestHandle::new(slot.second_list()),
                    errs: GuestHandle::new(errs),
                };
                call.put(slot.0, &argument)
            }
            Memory::Remove { gpfn, whose } => {
                let (domid, call) = (scene.who(*whose), base(mem::REMOVE_FROM_PHYSMAP));
                if narrow {
                    return call.put(slot.0, &RemoveFromPhysmap32 { domid, pad: 0, gpfn: *gpfn as u32 });
                }
                call.put(slot.0, &RemoveFromPhysmap { domid, pad: [0; 3], gpfn: Gfn(*gpfn) })
            }
            Memory::Acquire { kind, frame, frames, whose } => {
                let call = base(mem::ACQUIRE_RESOURCE);
                let argument = MemAcquireResource {
                    domid: scene.who(*whose),
                    type_: *kind,
                    id: 0,
                    nr_frames: *frames,
                    pad: 0,
                    frame: *frame,
                    frame_list: GuestHandle::new(slot.list()),
                };
                if !narrow {
                    return call.put(slot.0, &argument);
                }
                let mut bytes = vec![0; size_of::<MemAcquireResource32>()];
                let length = bytes.len();
                bytes.copy_from_slice(&argument.as_bytes()[..length]);
                call.put(slot.0, bytes.as_slice())
            }
            other => unreachable!("{other:?} is encoded elsewhere"),
        }
    }

    fn is_tidy(&self) -> bool {
        let free = |gfn: &u64| *gfn >= FIRST_FREE_GFN;
        match self {
            Memory::Reservation { gfns, count, order, .. } => {
                gfns.iter().all(free) && count.is_none_or(|count| count <= gfns.len() as u64) && *order <= 9
            }
            Memory::Run { first, count, .. } => free(first) && first.checked_add(*count).is_some(),
            Memory::Exchange { given, wanted, .. } => given.iter().chain(wanted).all(free),
            Memory::Add { space, size, idx, gpfn, whose } => {
                let range = *space == mem::MAPSPACE_GMFN_RANGE || *space == mem::MAPSPACE_GMFN;
                let ends = idx.checked_add(u64::from(*size)).is_some() && gpfn.checked_add(u64::from(*size)).is_some();
                matches!(whose, Who::Me) && free(gpfn) && (!range || free(idx)) && ends
            }
            Memory::Batch { space, pairs, whose, .. } => {
                let moves = u32::from(*space) == mem::MAPSPACE_GMFN;
                // The errors go to 16 words behind the structure.
                matches!(whose, Who::Me)
                    && pairs.len() <= 16
                    && pairs.iter().all(|(idx, gpfn)| free(gpfn) && (!moves || free(idx)))
            }
            Memory::Remove { gpfn, whose } => matches!(whose, Who::Me) && free(gpfn),
            Memory::Map { entries, .. } => *entries < 32,
            Memory::Figure { .. } | Memory::Claim { .. } | Memory::Acquire { .. } | Memory::MaximumRamPage => true,
        }
    }
}

fn put_reservation(call: Encoded, at: u64, argument: &MemoryReservation, narrow: bool) -> Encoded {
    if narrow { call.put(at, &narrow_reservation(argument)) } else { call.put(at, argument) }
}

impl Event {
    fn encode(&self, scene: &Scene<'_>, slot: Slot) -> Encoded {
        let base = |op: u32| Encoded::new(number::EVENT_CHANNEL_OP, [op.into(), slot.0, 0, 0, 0]);
        match *self {
            Event::AllocUnbound { whose, remote } => {
                let (dom, remote_dom) = (scene.who(whose), scene.who(remote));
                base(evt::ALLOC_UNBOUND).put(slot.0, &evt::AllocUnbound { dom, remote_dom, port: Port(0) })
            }
            Event::BindInterdomain { remote, port } => {
                let argument = evt::BindInterdomain {
                    remote_dom: scene.who(remote),
                    remote_port: Port(port),
                    ..Default::default()
                };
                base(evt::BIND_INTERDOMAIN).put(slot.0, &argument)
            }
            Event::BindVirq { virq, vcpu } => {
                let argument = evt::BindVirq { virq: Virq(virq), vcpu: VcpuId(vcpu), port: Port(0) };
                base(evt::BIND_VIRQ).put(slot.0, &argument)
            }
            Event::BindIpi { vcpu } => {
                base(evt::BIND_IPI).put(slot.0, &evt::BindIpi { vcpu: VcpuId(vcpu), port: Port(0) })
            }
            Event::Port { op, port } => base(op).put(slot.0, &evt::Send { port: Port(port) }),
            Event::Status { whose, port } => {
                let argument = evt::Status { dom: scene.who(whose), port: Port(port), ..Default::default() };
                base(evt::STATUS).put(slot.0, &argument)
            }
            Event::BindVcpu { port, vcpu } => {
                base(evt::BIND_VCPU).put(slot.0, &evt::BindVcpu { port: Port(port), vcpu: VcpuId(vcpu) })
            }
            Event::Reset { whose } => base(evt::RESET).put(slot.0, &evt::Reset { dom: scene.who(whose) }),
            Event::InitControl { gfn, offset, vcpu } => {
                let argument =
                    evt::InitControl { control_gfn: Gfn(gfn), offset, vcpu: VcpuId(vcpu), ..Default::default() };
                base(evt::INIT_CONTROL).put(slot.0, &argument)
            }
            Event::ExpandArray { gfn } => {
                base(evt::EXPAND_ARRAY).put(slot.0, &evt::ExpandArray { array_gfn: Gfn(gfn) })
            }
            Event::SetPriority { port, priority } => {
                base(evt::SET_PRIORITY).put(slot.0, &evt::SetPriority { port: Port(port), priority })
            }
        }
    }

    fn is_tidy(&self) -> bool {
        match *self {
            Event::InitControl { gfn, offset, vcpu } => gfn == CONTROL_GFN + u64::from(vcpu) && vcpu < 4 && offset == 0,
            Event::ExpandArray { gfn } => gfn == ARRAY_GFN,
            _ => true,
        }
    }
}

impl Sched {
    fn encode(&self, scene: &Scene<'_>, slot: Slot) -> Encoded {
        let base = |op: u32| Encoded::new(number::SCHED_OP, [op.into(), slot.0, 0, 0, 0]);
        match self {
            Sched::Yield => base(sched::YIELD),
            Sched::Block => base(sched::BLOCK),
            Sched::Shutdown { op, reason } => base(*op).put(slot.0, &sched::Shutdown { reason: *reason }),
            Sched::Poll { ports, count, timeout } => {
                let (nr_ports, timeout) = (count.unwrap_or(ports.len() as u32), scene.when(*timeout));
                let call = base(sched::POLL).put(slot.list(), ports.as_slice());
                if scene.width == Width::Bits32 {
                    return call.put(slot.0, &Poll32 { ports: slot.list() as u32, nr_ports, timeout });
                }
                let ports = GuestHandle::new(slot.list());
                call.put(slot.0, &sched::Poll { ports, nr_ports, pad: 0, timeout })
            }
            Sched::Remote { whom, reason } => {
                let argument = sched::RemoteShutdown { domain_id: scene.who(*whom), pad: 0, reason: *reason };
                base(sched::REMOTE_SHUTDOWN).put(slot.0, &argument)
            }
            Sched::Watchdog { id, seconds } => {
                base(sched::WATCHDOG).put(slot.0, &sched::Watchdog { id: *id, timeout: *seconds })
            }
        }
    }
}

/// Registers that a vCPU can start from.
fn context(wide: bool, valid: bool) -> HvmContext {
    if wide {
        let cr0 = if valid { 0x8000_0011 } else { 0x11 };
        return HvmContext::new_64(&X86_64 { rip: 0x10_0000, cr0, cr4: 0x20, efer: 0x500, ..Default::default() });
    }
    HvmContext::new_32(&X86_32 {
        eip: 0x10_0000,
        cr0: 0x11,
        cs_limit: u32::MAX,
        ds_limit: u32::MAX,
        ss_limit: u32::MAX,
        es_limit: u32::MAX,
        tr_limit: 0x67,
        cs_ar: 0xc9b,
        ds_ar: 0xc93,
        ss_ar: if valid { 0xc93 } else { 0xc9b },
        es_ar: 0xc93,
        tr_ar: 0x8b,
        ..Default::default()
    })
}

impl Vcpu {
    fn encode(&self, scene: &Scene<'_>, slot: Slot, id: u32) -> Encoded {
        let base = |op: u32| Encoded::new(number::VCPU_OP, [op.into(), id.into(), slot.0, 0, 0]);
        match *self {
            Vcpu::Initialise { wide, valid } => base(vcpu::INITIALISE).put(slot.0, &context(wide, valid)),
            Vcpu::Plain { op } => base(op),
            Vcpu::Nmi { argument } => Encoded::new(number::VCPU_OP, [vcpu::SEND_NMI.into(), id.into(), argument, 0, 0]),
            Vcpu::GetRunstate => base(vcpu::GET_RUNSTATE_INFO),
            Vcpu::Periodic { period } => base(vcpu::SET_PERIODIC_TIMER).put(slot.0, &period),
            Vcpu::Singleshot { at, flags } => {
                let timeout_abs_ns = scene.when(at);
                let call = base(vcpu::SET_SINGLESHOT_TIMER);
                if scene.width == Width::Bits32 {
                    return call.put(slot.0, &SetSingleshotTimer32 { timeout_abs_ns, flags });
                }
                call.put(slot.0, &vcpu::SetSingleshotTimer { timeout_abs_ns, flags, pad: 0 })
            }
            Vcpu::RegisterInfo { gfn, offset } => {
                base(vcpu::REGISTER_VCPU_INFO).put(slot.0, &vcpu::RegisterVcpuInfo { mfn: Gfn(gfn), offset, rsvd: 0 })
            }
            Vcpu::Area { op, address } => base(op).put(slot.0, &address),
        }
    }

    fn is_tidy(&self, id: u32) -> bool {
        match *self {
            Vcpu::RegisterInfo { gfn, .. } => id < 4 && gfn == INFO_GFN + u64::from(id),
            // The highest address takes a registration back.
            Vcpu::Area { address, .. } => address == u64::MAX || address >> 12 == RUNSTATE_GFN && address % 4096 < 4032,
            _ => true,
        }
    }
}

impl Hvm {
    fn encode(&self, scene: &Scene<'_>, slot: Slot) -> Encoded {
        let base = |op: u32| Encoded::new(number::HVM_OP, [op.into(), slot.0, 0, 0, 0]);
        match *self {
            Hvm::Param { op, whose, index, value } => {
                base(op).put(slot.0, &hvm::Param { domid: scene.who(whose), pad: 0, index, value })
            }
            Hvm::UpcallVector { vcpu, vector } => {
                let argument = hvm::EvtchnUpcallVector { vcpu: VcpuId(vcpu), vector, pad: [0; 3] };
                base(hvm::SET_EVTCHN_UPCALL_VECTOR).put(slot.0, &argument)
            }
            Hvm::GetTime => base(hvm::GET_TIME),
            Hvm::Trace { event, bytes } => {
                base(hvm::XENTRACE).put(slot.0, &hvm::Xentrace { event, extra_bytes: bytes, extra: [7; 28] })
            }
            Hvm::PagetableDying { whose } => {
                let argument = hvm::PagetableDying { domid: scene.who(whose), ..Default::default() };
                base(hvm::PAGETABLE_DYING).put(slot.0, &argument)
            }
        }
    }
}

impl GuestCall {
    /// The call with its structure at `at` (an ordinary buffer, unless the caller means harm).
    pub fn encode(&self, scene: &Scene<'_>, at: u64) -> Encoded {
        let slot = Slot(at);
        match self {
            GuestCall::Memory { start, call } => call.encode(scene, slot, *start),
            GuestCall::Event(call) => call.encode(scene, slot),
            GuestCall::Sched(call) => call.encode(scene, slot),
            GuestCall::Vcpu { vcpu, call } => call.encode(scene, slot, *vcpu),
            GuestCall::Hvm(call) => call.encode(scene, slot),
            GuestCall::Version { op } => Encoded::new(number::XEN_VERSION, [u64::from(*op), slot.0, 0, 0, 0]),
            GuestCall::Console { op, count } => {
                Encoded::new(number::CONSOLE_IO, [u64::from(*op), u64::from(*count), slot.0, 0, 0])
                    .put(slot.0, b"\x1b[2Jhello\n")
            }
            GuestCall::SetTimer { at } => {
                let time = scene.when(*at);
                let high = if scene.width == Width::Bits32 { time >> 32 } else { 0 };
                Encoded::new(number::SET_TIMER_OP, [time, high, 0, 0, 0])
            }
            GuestCall::Multicall { calls, count } => encode_multicall(scene, calls, *count),
            GuestCall::Raw { number, args, words } => {
                let call = Encoded { number: *number, args: *args, writes: Vec::new() };
                call.put_words(slot.0, words.iter().copied(), Width::Bits64)
            }
        }
    }

    /// See the module.
    pub fn is_tidy(&self) -> bool {
        match self {
            GuestCall::Memory { call, .. } => call.is_tidy(),
            GuestCall::Event(call) => call.is_tidy(),
            GuestCall::Vcpu { vcpu, call } => call.is_tidy(*vcpu),
            GuestCall::Multicall { calls, count } => {
                count.is_none() && calls.iter().all(|call| call.is_tidy() && !call.changes_pages())
            }
            GuestCall::Console { op, count } => *op != shared_abi::xen::console_io::READ || *count < 256,
            GuestCall::Raw { .. } => false,
            GuestCall::Sched(_) | GuestCall::Hvm(_) | GuestCall::Version { .. } | GuestCall::SetTimer { .. } => true,
        }
    }

    /// Whether it sets up or takes down pages for events.
    pub fn changes_pages(&self) -> bool {
        matches!(
            self,
            GuestCall::Event(Event::InitControl { .. } | Event::ExpandArray { .. } | Event::Reset { .. })
                | GuestCall::Vcpu { call: Vcpu::RegisterInfo { .. }, .. }
        )
    }

    /// Whether it may unmask an event.
    pub fn unmasks(&self) -> bool {
        match self {
            GuestCall::Event(Event::Port { op, .. }) => *op == evt::UNMASK,
            GuestCall::Multicall { calls, .. } => calls.iter().any(GuestCall::unmasks),
            _ => false,
        }
    }

    /// The ports and timeout of a poll.
    pub fn polls(&self) -> Option<(&[u32], &When)> {
        match self {
            GuestCall::Sched(Sched::Poll { ports, count: None, timeout }) => Some((ports, timeout)),
            _ => None,
        }
    }
}

fn encode_multicall(scene: &Scene<'_>, calls: &[GuestCall], count: Option<u64>) -> Encoded {
    let count = count.unwrap_or(calls.len() as u64);
    let mut whole = Encoded::new(number::MULTICALL, [MULTICALLS, count, 0, 0, 0]);
    let mut entries = Vec::new();
    for (index, call) in calls.iter().enumerate() {
        let Encoded { number, args: [a, b, c, d, e], writes } = call.encode(scene, BUFFERS + index as u64 * Slot::SIZE);
        whole.writes.extend(writes);
        let entry = MulticallEntry { op: number, result: 0x5a5a, args: [a, b, c, d, e, 0] };
        if scene.width == Width::Bits64 {
            entries.extend_from_slice(entry.as_bytes());
        } else {
            let args = entry.args.map(|arg| arg as u32);
            entries.extend_from_slice(MulticallEntry32 { op: number as u32, result: 0, args }.as_bytes());
        }
    }
    whole.writes.push((MULTICALLS, entries));
    whole
}
