//! Random hypercalls: what a call is.

use shared_abi::xen::DomId;

use ebb_core::hypercall::Width;

/// A domain, as a call names it.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    /// `DOMID_SELF`.
    Me,
    /// One of those alive.
    Alive(u8),
    /// Any number.
    Number(u16),
}

/// A time, as a call gives it.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// So far from now.
    In(i64),
    /// That number.
    At(u64),
}

/// What is known where a call is made.
pub struct Scene<'a> {
    /// Time.
    pub now: u64,
    /// The domains alive.
    pub alive: &'a [DomId],
    /// The caller's registers.
    pub width: Width,
}

impl Scene<'_> {
    pub fn who(&self, who: Who) -> DomId {
        match who {
            Who::Me => DomId::SELF,
            Who::Alive(_) if self.alive.is_empty() => DomId::INVALID,
            Who::Alive(index) => self.alive[usize::from(index) % self.alive.len()],
            Who::Number(number) => DomId(number),
        }
    }

    /// A time as a number.
    pub fn when(&self, when: When) -> u64 {
        match when {
            When::In(distance) => self.now.saturating_add_signed(distance),
            When::At(time) => time,
        }
    }
}

/// `memory_op`.
#[derive(Clone, Debug)]
pub enum Memory {
    /// increase, decrease, populate.
    Reservation {
        op: u32,
        gfns: Vec<u64>,
        count: Option<u64>,
        order: u32,
        flags: u32,
        whose: Who,
    },
    /// The same for a long run of pages.
    Run {
        op: u32,
        first: u64,
        count: u64,
    },
    Exchange {
        given: Vec<u64>,
        given_order: u32,
        wanted: Vec<u64>,
        wanted_order: u32,
        done: u64,
    },
    Add {
        space: u32,
        size: u16,
        idx: u64,
        gpfn: u64,
        whose: Who,
    },
    Batch {
        space: u16,
        pairs: Vec<(u64, u64)>,
        foreign: Who,
        whose: Who,
    },
    Remove {
        gpfn: u64,
        whose: Who,
    },
    /// current_reservation, maximum_reservation, maximum_gpfn.
    Figure {
        op: u32,
        whose: Who,
    },
    /// memory_map, machine_memory_map.
    Map {
        op: u32,
        entries: u32,
    },
    Claim {
        pages: u64,
        whose: Who,
    },
    Acquire {
        kind: u16,
        frame: u64,
        frames: u32,
        whose: Who,
    },
    MaximumRamPage,
}

/// `event_channel_op`.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    AllocUnbound {
        whose: Who,
        remote: Who,
    },
    BindInterdomain {
        remote: Who,
        port: u32,
    },
    BindVirq {
        virq: u32,
        vcpu: u32,
    },
    BindIpi {
        vcpu: u32,
    },
    /// close, send, unmask.
    Port {
        op: u32,
        port: u32,
    },
    Status {
        whose: Who,
        port: u32,
    },
    BindVcpu {
        port: u32,
        vcpu: u32,
    },
    Reset {
        whose: Who,
    },
    InitControl {
        gfn: u64,
        offset: u32,
        vcpu: u32,
    },
    ExpandArray {
        gfn: u64,
    },
    SetPriority {
        port: u32,
        priority: u32,
    },
}

/// `sched_op`.
#[derive(Clone, Debug)]
pub enum Sched {
    Yield,
    Block,
    Shutdown { op: u32, reason: u32 },
    Poll { ports: Vec<u32>, count: Option<u32>, timeout: When },
    Remote { whom: Who, reason: u32 },
    Watchdog { id: u32, seconds: u32 },
}

/// `vcpu_op`.
#[derive(Clone, Copy, Debug)]
pub enum Vcpu {
    Initialise {
        wide: bool,
        valid: bool,
    },
    /// up, down, is_up, stop timers: no argument.
    Plain {
        op: u32,
    },
    Nmi {
        argument: u64,
    },
    GetRunstate,
    Periodic {
        period: u64,
    },
    Singleshot {
        at: When,
        flags: u32,
    },
    RegisterInfo {
        gfn: u64,
        offset: u32,
    },
    /// The runstate and time areas, by either kind of address.
    Area {
        op: u32,
        address: u64,
    },
}

/// `hvm_op`.
#[derive(Clone, Copy, Debug)]
pub enum Hvm {
    Param { op: u32, whose: Who, index: u32, value: u64 },
    UpcallVector { vcpu: u32, vector: u8 },
    GetTime,
    Trace { event: u16, bytes: u16 },
    PagetableDying { whose: Who },
}

/// A hypercall.
#[derive(Clone, Debug)]
pub enum GuestCall {
    Memory {
        start: u64,
        call: Memory,
    },
    Event(Event),
    Sched(Sched),
    Vcpu {
        vcpu: u32,
        call: Vcpu,
    },
    Hvm(Hvm),
    Version {
        op: u32,
    },
    Console {
        op: u32,
        count: u32,
    },
    SetTimer {
        at: When,
    },
    Multicall {
        calls: Vec<GuestCall>,
        count: Option<u64>,
    },
    /// Anything.
    Raw {
        number: u64,
        args: [u64; 5],
        words: Vec<u64>,
    },
}
