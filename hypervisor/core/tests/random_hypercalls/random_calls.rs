//! Hypercalls at random: mostly such as mean something, at the limits, or nonsense.

use proptest::prelude::*;
use shared_abi::event_channel as evt;
use shared_abi::hvm;
use shared_abi::memory as mem;
use shared_abi::sched;
use shared_abi::vcpu;
use shared_abi::xen::DomId;

use super::calls::{Event, GuestCall, Hvm, Memory, Sched, Vcpu, When, Who};
use super::layout::{ARRAY_GFN, BUFFERS, CONTROL_GFN, FIRST_FREE_GFN, INFO_GFN, RUNSTATE_GFN};

/// A domain to name.
fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        5 => Just(Who::Me),
        4 => (0..4u8).prop_map(Who::Alive),
        1 => prop_oneof![0..8u16, Just(DomId::INVALID.0), any::<u16>()].prop_map(Who::Number),
    ]
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        6 => (0..3_000_000i64).prop_map(When::In),
        2 => (0..200_000_000i64).prop_map(When::In),
        1 => (-5_000_000..0i64).prop_map(When::In),
        1 => Just(When::At(0)),
        1 => prop_oneof![Just(1), Just(u64::MAX), Just(i64::MAX as u64), any::<u64>()].prop_map(When::At),
    ]
}

fn gfn() -> impl Strategy<Value = u64> {
    prop_oneof![
        12 => FIRST_FREE_GFN..0x400u64,
        3 => (1..5u64).prop_map(|superpage| superpage * 512),
        2 => 0..FIRST_FREE_GFN,
        1 => prop_oneof![Just(0xfc000u64), Just(1 << 20), Just((1 << 28) - 1), Just(1 << 28), Just(u64::MAX), any::<u64>()],
    ]
}

fn port() -> impl Strategy<Value = u32> {
    prop_oneof![
        12 => 1..10u32,
        1 => prop_oneof![Just(0u32), Just(1023), Just(1024), Just(4095), Just(4096), Just(1 << 17), any::<u32>()],
    ]
}

fn vcpu_id() -> impl Strategy<Value = u32> {
    prop_oneof![12 => 0..3u32, 1 => prop_oneof![3..5u32, Just(63), Just(256), any::<u32>()]]
}

fn memory() -> impl Strategy<Value = GuestCall> {
    let operation = || prop_oneof![3 => Just(mem::DECREASE_RESERVATION), 3 => Just(mem::POPULATE_PHYSMAP), 1 => Just(mem::INCREASE_RESERVATION)];
    let order = || prop_oneof![8 => Just(0u32), 2 => 1..4u32, 2 => Just(9u32), 1 => prop_oneof![Just(10u32), Just(18), Just(19), any::<u32>()]];
    let list = || prop::collection::vec(gfn(), 1..40);
    let count = prop_oneof![10 => Just(None), 1 => prop_oneof![Just(0u64), Just(1000), Just(u64::from(u32::MAX) >> 6), any::<u64>()].prop_map(Some)];
    let flags = prop_oneof![8 => Just(0u32), 1 => any::<u32>()];
    let space = prop_oneof![2 => Just(mem::MAPSPACE_SHARED_INFO), 4 => Just(mem::MAPSPACE_GMFN), 3 => Just(mem::MAPSPACE_GMFN_RANGE), 1 => 0..7u32];
    let call = prop_oneof![
        10 => (operation(), list(), count, order(), flags, who()).prop_map(|(op, gfns, count, order, flags, whose)| {
            Memory::Reservation { op, gfns, count, order, flags, whose }
        }),
        5 => (operation(), gfn(), 1..600u64).prop_map(|(op, first, count)| Memory::Run { op, first, count }),
        2 => (list(), order(), list(), order(), prop_oneof![8 => Just(0u64), 1 => any::<u64>()]).prop_map(
            |(given, given_order, wanted, wanted_order, done)| Memory::Exchange {
                given, given_order, wanted, wanted_order, done
            }
        ),
        3 => prop::collection::vec(gfn(), 1..16).prop_map(|gfns| Memory::Exchange {
            given: gfns.clone(), given_order: 0, wanted: gfns, wanted_order: 0, done: 0
        }),
        5 => (space, prop_oneof![0..20u16, any::<u16>()], gfn(), gfn(), who())
            .prop_map(|(space, size, idx, gpfn, whose)| Memory::Add { space, size, idx, gpfn, whose }),
        4 => (prop_oneof![Just(2u16), Just(4), 0..6u16], prop::collection::vec((gfn(), gfn()), 0..20), who(), who())
            .prop_map(|(space, pairs, foreign, whose)| Memory::Batch { space, pairs, foreign, whose }),
        2 => (gfn(), who()).prop_map(|(gpfn, whose)| Memory::Remove { gpfn, whose }),
        1 => (prop_oneof![Just(mem::CURRENT_RESERVATION), Just(mem::MAXIMUM_RESERVATION), Just(mem::MAXIMUM_GPFN)], who())
            .prop_map(|(op, whose)| Memory::Figure { op, whose }),
        1 => (prop_oneof![Just(mem::MEMORY_MAP), Just(mem::MACHINE_MEMORY_MAP)], prop_oneof![0..16u32, any::<u32>()])
            .prop_map(|(op, entries)| Memory::Map { op, entries }),
        2 => (prop_oneof![4 => 0..2500u64, 1 => any::<u64>()], who()).prop_map(|(pages, whose)| Memory::Claim { pages, whose }),
        1 => (0..4u16, prop_oneof![0..8u64, any::<u64>()], any::<u32>(), who())
            .prop_map(|(kind, frame, frames, whose)| Memory::Acquire { kind, frame, frames, whose }),
        1 => Just(Memory::MaximumRamPage),
    ];
    let start = prop_oneof![12 => Just(0u64), 1 => 0..50u64, 1 => any::<u64>()];
    (start, call).prop_map(|(start, call)| GuestCall::Memory { start, call })
}

fn event() -> impl Strategy<Value = GuestCall> {
    let with_port = prop_oneof![6 => Just(evt::SEND), 3 => Just(evt::UNMASK), 2 => Just(evt::CLOSE)];
    let control = prop_oneof![
        6 => vcpu_id().prop_map(|vcpu| Event::InitControl { gfn: CONTROL_GFN + u64::from(vcpu), offset: 0, vcpu }),
        1 => (gfn(), prop_oneof![0..4096u32, any::<u32>()], vcpu_id())
            .prop_map(|(gfn, offset, vcpu)| Event::InitControl { gfn, offset, vcpu }),
    ];
    prop_oneof![
        5 => (who(), who()).prop_map(|(whose, remote)| Event::AllocUnbound { whose, remote }),
        6 => (who(), port()).prop_map(|(remote, port)| Event::BindInterdomain { remote, port }),
        3 => (prop_oneof![0..5u32, 0..30u32], vcpu_id()).prop_map(|(virq, vcpu)| Event::BindVirq { virq, vcpu }),
        3 => vcpu_id().prop_map(|vcpu| Event::BindIpi { vcpu }),
        22 => (with_port, port()).prop_map(|(op, port)| Event::Port { op, port }),
        2 => (who(), port()).prop_map(|(whose, port)| Event::Status { whose, port }),
        3 => (port(), vcpu_id()).prop_map(|(port, vcpu)| Event::BindVcpu { port, vcpu }),
        1 => who().prop_map(|whose| Event::Reset { whose }),
        3 => control,
        2 => prop_oneof![6 => Just(ARRAY_GFN), 1 => gfn()].prop_map(|gfn| Event::ExpandArray { gfn }),
        2 => (port(), 0..20u32).prop_map(|(port, priority)| Event::SetPriority { port, priority }),
    ]
    .prop_map(GuestCall::Event)
}

fn sched_call() -> impl Strategy<Value = GuestCall> {
    let reason = || prop_oneof![0..6u32, any::<u32>()];
    let ports = || prop::collection::vec(port(), 0..3);
    let count = prop_oneof![12 => Just(None), 1 => any::<u32>().prop_map(Some)];
    prop_oneof![
        6 => Just(Sched::Yield),
        14 => Just(Sched::Block),
        2 => (prop_oneof![1 => Just(sched::SHUTDOWN), 1 => Just(sched::SHUTDOWN_CODE)], reason())
            .prop_map(|(op, reason)| Sched::Shutdown { op, reason }),
        20 => (ports(), count, when()).prop_map(|(ports, count, timeout)| Sched::Poll { ports, count, timeout }),
        1 => (who(), reason()).prop_map(|(whom, reason)| Sched::Remote { whom, reason }),
        1 => (0..4u32, prop_oneof![0..3u32, any::<u32>()]).prop_map(|(id, seconds)| Sched::Watchdog { id, seconds }),
    ]
    .prop_map(GuestCall::Sched)
}

fn vcpu_call() -> impl Strategy<Value = GuestCall> {
    let area = prop_oneof![
        Just(vcpu::REGISTER_RUNSTATE_MEMORY_AREA),
        Just(vcpu::REGISTER_RUNSTATE_PHYS_AREA),
        Just(vcpu::REGISTER_VCPU_TIME_MEMORY_AREA),
        Just(vcpu::REGISTER_VCPU_TIME_PHYS_AREA)
    ];
    let address = prop_oneof![
        6 => (0..63u64).prop_map(|slot| (RUNSTATE_GFN << 12) + slot * 64),
        1 => prop_oneof![Just(u64::MAX), gfn().prop_map(|gfn| (gfn << 12).wrapping_sub(20)), any::<u64>()]
    ];
    let plain = prop_oneof![
        4 => Just(vcpu::UP),
        2 => Just(vcpu::DOWN),
        1 => Just(vcpu::IS_UP),
        1 => Just(vcpu::STOP_PERIODIC_TIMER),
        1 => Just(vcpu::STOP_SINGLESHOT_TIMER),
        1 => Just(vcpu::GET_PHYSID)
    ];
    let info = prop_oneof![
        6 => (0..3u64, (0..64u32).prop_map(|slot| slot * 64))
            .prop_map(|(vcpu, offset)| Vcpu::RegisterInfo { gfn: INFO_GFN + vcpu, offset }),
        1 => (gfn(), any::<u32>()).prop_map(|(gfn, offset)| Vcpu::RegisterInfo { gfn, offset }),
    ];
    let call = prop_oneof![
        2 => (any::<bool>(), prop::bool::weighted(0.8)).prop_map(|(wide, valid)| Vcpu::Initialise { wide, valid }),
        8 => plain.prop_map(|op| Vcpu::Plain { op }),
        2 => prop_oneof![4 => Just(0u64), 1 => any::<u64>()].prop_map(|argument| Vcpu::Nmi { argument }),
        1 => Just(Vcpu::GetRunstate),
        2 => prop_oneof![4 => 1_000_000..5_000_000u64, 1 => any::<u64>(), 1 => Just(i64::MAX as u64 >> 2)]
            .prop_map(|period| Vcpu::Periodic { period }),
        5 => (when(), 0..2u32).prop_map(|(at, flags)| Vcpu::Singleshot { at, flags }),
        2 => info,
        2 => (area, address).prop_map(|(op, address)| Vcpu::Area { op, address }),
    ];
    (vcpu_id(), call).prop_map(|(vcpu, call)| {
        // Most registrations are for the page's vCPU.
        let vcpu = match call {
            Vcpu::RegisterInfo { gfn, .. } if (INFO_GFN..INFO_GFN + 3).contains(&gfn) => (gfn - INFO_GFN) as u32,
            _ => vcpu,
        };
        GuestCall::Vcpu { vcpu, call }
    })
}

fn hvm_call() -> impl Strategy<Value = GuestCall> {
    let callback =
        prop_oneof![4 => Just(2u64 << 56 | 0xf3), 1 => Just(2u64 << 56 | 3), 1 => Just(2u64 << 56), 1 => any::<u64>()];
    prop_oneof![
        5 => callback.prop_map(|value| Hvm::Param { op: hvm::SET_PARAM, whose: Who::Me, index: 0, value }),
        2 => (0..2u32, who(), 0..45u32, prop_oneof![Just(0u64), any::<u64>()])
            .prop_map(|(op, whose, index, value)| Hvm::Param { op, whose, index, value }),
        1 => (vcpu_id(), any::<u8>()).prop_map(|(vcpu, vector)| Hvm::UpcallVector { vcpu, vector }),
        1 => Just(Hvm::GetTime),
        1 => (any::<u16>(), 0..40u16).prop_map(|(event, bytes)| Hvm::Trace { event: event & 0x1fff, bytes }),
        1 => who().prop_map(|whose| Hvm::PagetableDying { whose }),
    ]
    .prop_map(GuestCall::Hvm)
}

fn raw() -> impl Strategy<Value = GuestCall> {
    let number = prop_oneof![
        3 => prop::sample::select(vec![12u64, 13, 15, 17, 18, 24, 29, 32, 34]),
        1 => 0..70u64,
        1 => any::<u64>(),
    ];
    let word = || prop_oneof![3 => 0..40u64, 3 => Just(BUFFERS), 1 => gfn(), 1 => any::<u64>(), 1 => Just(u64::MAX)];
    (number, prop::array::uniform5(word()), prop::collection::vec(word(), 0..12))
        .prop_map(|(number, args, words)| GuestCall::Raw { number, args, words })
}

fn single() -> impl Strategy<Value = GuestCall> {
    prop_oneof![
        14 => memory(),
        16 => event(),
        9 => sched_call(),
        7 => vcpu_call(),
        3 => hvm_call(),
        1 => (0..12u32).prop_map(|op| GuestCall::Version { op }),
        1 => (0..3u32, prop_oneof![0..300u32, any::<u32>()]).prop_map(|(op, count)| GuestCall::Console { op, count: count.min(100_000) }),
        3 => when().prop_map(|at| GuestCall::SetTimer { at }),
        4 => raw(),
    ]
}

/// Any hypercall.
pub fn call() -> impl Strategy<Value = GuestCall> {
    let count = prop_oneof![8 => Just(None), 1 => (0..2000u64).prop_map(Some)];
    prop_oneof![
        16 => single(),
        1 => (prop::collection::vec(single(), 0..7), count)
            .prop_map(|(calls, count)| GuestCall::Multicall { calls, count }),
    ]
}
