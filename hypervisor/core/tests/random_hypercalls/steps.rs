//! What may happen next, at random.

use proptest::prelude::*;

use super::calls::GuestCall;
use super::layout::BUFFERS;
use super::random_calls;

/// How a caller's addresses translate.
#[derive(Clone, Copy, Debug)]
pub enum Paging {
    Off,
    Long,
    FiveLevel,
    Pae,
    Legacy,
    /// Not the kernel.
    User,
    Garbage {
        cr0: u64,
        cr3: u64,
        cr4: u64,
        efer: u64,
    },
}

impl Paging {
    /// A mode in which addresses are guest-physical ones.
    pub fn orderly(self) -> Self {
        match self {
            Paging::User | Paging::Garbage { .. } => Paging::Off,
            orderly => orderly,
        }
    }
}

/// The caller's registers.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    pub wide: bool,
    /// Where the call's structure is.
    pub at: u64,
    pub paging: Paging,
    /// Whether it takes interrupts.
    pub interrupts: bool,
}

/// Where a wild guest writes.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    SharedInfo,
    Info,
    Control,
    Array,
    Runstate,
    Tables,
    Buffers,
}

/// What a guest does that makes it exit, or before it next does.
#[derive(Clone, Debug)]
pub enum Exit {
    Call {
        call: GuestCall,
        caller: Caller,
    },
    Halt {
        interrupts: bool,
    },
    Pause,
    /// Its upcall handler runs.
    Drain,
    Mask {
        port: u32,
    },
    /// It waits for a lock as a paravirtual spinlock does: masks a port and polls it.
    Wait {
        port: u32,
        interrupts: bool,
    },
    Apic {
        offset: u32,
        value: u32,
    },
    ApicMsr {
        msr: u32,
        value: u64,
    },
    Tpr {
        value: u8,
    },
    ApicBase {
        value: u64,
    },
    TripleFault,
    Scribble {
        spot: Place,
        index: u16,
        value: u32,
        how: u8,
    },
    /// A physical interrupt.
    External,
}

/// A domain to be built.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer {
    pub tidy: bool,
    pub wide: bool,
    pub privileged: bool,
    pub pages: u64,
    /// Pages that it may have besides.
    pub more: u64,
    pub vcpus: u32,
    pub restarts: bool,
    pub weight: u16,
    pub cap: u16,
    /// It begins with the FIFO ABI.
    pub fifo: bool,
}

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    Turn {
        cpu: u8,
        exit: Exit,
        can: u8,
        stall: bool,
    },
    Advance {
        time: u64,
    },
    Build {
        cpu: u8,
        newcomer: Newcomer,
    },
    Destroy {
        cpu: u8,
        which: u8,
    },
    Pause {
        cpu: u8,
        which: u8,
        vcpu: u8,
    },
    Unpause {
        cpu: u8,
        which: u8,
        vcpu: u8,
    },
    Affinity {
        cpu: u8,
        which: u8,
        vcpu: u8,
        mask: u8,
    },
    Virq {
        cpu: u8,
        which: u8,
        vcpu: u8,
        virq: u32,
    },
    Background {
        cpu: u8,
        pieces: u8,
    },
    /// Whether something waits that makes long calls give way.
    Interrupt(bool),
}

fn caller() -> impl Strategy<Value = Caller> {
    let paging = prop_oneof![
        12 => Just(Paging::Off),
        8 => Just(Paging::Long),
        1 => Just(Paging::FiveLevel),
        2 => Just(Paging::Pae),
        1 => Just(Paging::Legacy),
        1 => Just(Paging::User),
        1 => (any::<u64>(), prop_oneof![0..0x100_0000u64, any::<u64>()], any::<u64>(), any::<u64>())
            .prop_map(|(cr0, cr3, cr4, efer)| Paging::Garbage { cr0, cr3, cr4, efer }),
    ];
    let at = prop_oneof![
        16 => Just(BUFFERS),
        1 => Just(BUFFERS + 0xff8),
        1 => prop_oneof![Just(0x5_0000u64), Just(0x6_0000), Just(1 << 30), Just(u64::MAX - 7), Just(0xfff), any::<u64>()],
    ];
    (prop::bool::weighted(0.7), at, paging, prop::bool::weighted(0.85))
        .prop_map(|(wide, at, paging, interrupts)| Caller { wide, at, paging, interrupts })
}

fn exit() -> impl Strategy<Value = Exit> {
    let spot = prop_oneof![
        4 => Just(Place::SharedInfo),
        2 => Just(Place::Info),
        2 => Just(Place::Control),
        3 => Just(Place::Array),
        1 => Just(Place::Runstate),
        1 => Just(Place::Tables),
        1 => Just(Place::Buffers)
    ];
    let scribbled = prop_oneof![Just(0u32), Just(u32::MAX), 0..16u32, any::<u32>()];
    // ICR, SVR, TPR, LVT timer and its count, EOI, then anything.
    let register = prop_oneof![
        4 => Just(0x300u32), 1 => Just(0x310), 2 => Just(0xf0), 1 => Just(0x80), 2 => Just(0x320), 2 => Just(0x380),
        2 => Just(0xb0), 2 => (0..0x400u32).prop_map(|offset| offset & !3)
    ];
    // Fixed, NMI, INIT and start-up commands to self, all, others or by number.
    let command = prop_oneof![
        3 => (0..4u32, prop::sample::select(vec![0u32, 4, 5, 6]), any::<u8>())
            .prop_map(|(to, mode, vector)| to << 18 | 1 << 14 | mode << 8 | u32::from(vector)),
        1 => Just(0x1ff), 1 => 0..4_000_000u32, 1 => any::<u32>()
    ];
    prop_oneof![
        90 => (random_calls::call(), caller()).prop_map(|(call, caller)| Exit::Call { call, caller }),
        6 => prop::bool::weighted(0.95).prop_map(|interrupts| Exit::Halt { interrupts }),
        2 => Just(Exit::Pause),
        14 => Just(Exit::Drain),
        4 => (1..10u32).prop_map(|port| Exit::Mask { port }),
        8 => (1..10u32, any::<bool>()).prop_map(|(port, interrupts)| Exit::Wait { port, interrupts }),
        5 => (register, command).prop_map(|(offset, value)| Exit::Apic { offset, value }),
        2 => (0x800..0x840u32, any::<u64>()).prop_map(|(msr, value)| Exit::ApicMsr { msr, value }),
        1 => prop_oneof![8 => any::<u8>().prop_map(|value| Exit::Tpr { value }), 1 => Just(Exit::TripleFault)],
        1 => prop_oneof![Just(0xfee0_0c00u64), Just(0xfee0_0800), any::<u64>()].prop_map(|value| Exit::ApicBase { value }),
        14 => (spot, any::<u16>(), scribbled, any::<u8>())
            .prop_map(|(spot, index, value, how)| Exit::Scribble { spot, index, value, how }),
        3 => Just(Exit::External),
    ]
}

fn newcomer() -> impl Strategy<Value = Newcomer> {
    let sizes = (prop_oneof![4 => 300..900u64, 1 => 0..9000u64], 0..1200u64);
    let weight = prop_oneof![Just(64u16), Just(256), Just(1024)];
    let cap = prop_oneof![3 => Just(0u16), 1 => 1..150u16];
    (any::<[bool; 4]>(), prop::bool::weighted(0.2), sizes, 1..4u32, (weight, cap)).prop_map(
        |([tidy, wide, restarts, fifo], privileged, (pages, more), vcpus, (weight, cap))| Newcomer {
            tidy,
            wide,
            privileged,
            pages,
            more,
            vcpus,
            restarts,
            weight,
            cap,
            fifo,
        },
    )
}

/// Any step.
pub fn step() -> impl Strategy<Value = Step> {
    let cpu = || 0..4u8;
    let time = prop_oneof![4 => 0..100_000u64, 4 => 0..5_000_000u64, 2 => 0..60_000_000u64, 1 => 0..4_000_000_000u64];
    let named = || (0..4u8, 0..5u8, 0..3u8);
    prop_oneof![
        160 => (0..32u8, exit(), prop_oneof![3 => Just(7u8), 1 => 0..8u8], prop::bool::weighted(0.15))
            .prop_map(|(cpu, exit, can, stall)| Step::Turn { cpu, exit, can, stall }),
        12 => time.prop_map(|time| Step::Advance { time }),
        2 => (cpu(), newcomer()).prop_map(|(cpu, newcomer)| Step::Build { cpu, newcomer }),
        1 => (cpu(), 0..5u8).prop_map(|(cpu, which)| Step::Destroy { cpu, which }),
        2 => named().prop_map(|(cpu, which, vcpu)| Step::Pause { cpu, which, vcpu }),
        3 => named().prop_map(|(cpu, which, vcpu)| Step::Unpause { cpu, which, vcpu }),
        1 => (named(), 1..16u8).prop_map(|((cpu, which, vcpu), mask)| Step::Affinity { cpu, which, vcpu, mask }),
        3 => (named(), 0..13u32).prop_map(|((cpu, which, vcpu), virq)| Step::Virq { cpu, which, vcpu, virq }),
        6 => (cpu(), 1..40u8).prop_map(|(cpu, pieces)| Step::Background { cpu, pieces }),
        3 => any::<bool>().prop_map(Step::Interrupt),
    ]
}
