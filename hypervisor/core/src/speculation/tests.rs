use std::string::ToString;

use super::*;

/// A processor: vendor, leaf 7's ebx and edx, leaf 0x8000_0008's ebx, leaf 0x8000_0021's eax.
#[derive(Clone, Copy)]
struct Leaves {
    vendor: [u32; 3],
    ebx7: u32,
    edx7: u32,
    ebx8: u32,
    eax21: u32,
}

const AMD: [u32; 3] = [0x6874_7541, 0x6974_6e65, 0x444d_4163];
const TSX: u32 = 1 << 11;
const MD_CLEAR: u32 = 1 << 10;
const BRANCHES: u32 = 1 << 26 | 1 << 27 | 1 << 31;
const L1D: u32 = 1 << 28;
const CAPABILITIES: u32 = 1 << 29;

std::thread_local! {
    static HOST: core::cell::Cell<Leaves> =
        const { core::cell::Cell::new(Leaves { vendor: AMD, ebx7: 0, edx7: 0, ebx8: 0, eax21: 0 }) };
}

fn read(leaf: u32, _: u32) -> [u32; 4] {
    let host = HOST.get();
    match leaf {
        0 => [7, host.vendor[0], host.vendor[2], host.vendor[1]],
        7 => [0, host.ebx7, 0, host.edx7],
        0x8000_0000 => [0x8000_0021, 0, 0, 0],
        0x8000_0008 => [0, host.ebx8, 0, 0],
        0x8000_0021 => [host.eax21, 0, 0, 0],
        _ => [u32::MAX; 4],
    }
}

fn processor(leaves: Leaves, capabilities: Option<u64>) -> Processor {
    HOST.set(leaves);
    Processor::new(read, |number| {
        assert_eq!(number, msr::ARCH_CAPABILITIES);
        capabilities
    })
}

fn intel(ebx7: u32, edx7: u32, capabilities: Option<u64>) -> Processor {
    processor(Leaves { vendor: INTEL, ebx7, edx7, ebx8: 0, eax21: 0 }, capabilities)
}

fn amd(ebx8: u32, eax21: u32) -> Processor {
    processor(Leaves { vendor: AMD, ebx7: 0, edx7: 0, ebx8, eax21 }, None)
}

const IDLE: Plan = Plan { ibpb: false, l1d: false, verw: false, host_spec_ctrl: None, automatic_ibrs: false };

#[test]
fn where_there_is_nothing_nothing_is_done() {
    for processor in [amd(0, 0), intel(0, 0, None)] {
        assert_eq!(processor.plan(Wanted::ALL), IDLE);
        assert!(!processor.has_spec_ctrl());
        assert_eq!(processor.to_string(), "nothing");
    }
    assert_eq!(IDLE.to_string(), "nothing");
    assert!(intel(0, 0, None).lacks_microcode());
    assert!(!amd(0, 0).lacks_microcode());
}

#[test]
fn an_old_intel_processor_needs_everything() {
    // Skylake with new microcode: no capabilities, or some that say nothing good.
    for (edx7, capabilities) in [(0, None), (CAPABILITIES, Some(0)), (CAPABILITIES, None)] {
        let processor = intel(TSX, MD_CLEAR | BRANCHES | L1D | edx7, capabilities);
        let plan = processor.plan(Wanted::ALL);
        assert_eq!(plan, Plan { ibpb: true, l1d: true, verw: true, host_spec_ctrl: Some(0), automatic_ibrs: false });
        assert_eq!(plan.to_string(), "IBPB between domains, L1D flush at entries, VERW at entries");
        assert!(!processor.lacks_microcode());
    }
}

#[test]
fn what_a_processor_is_not_open_to_is_not_paid_for() {
    let plan = |ebx7, capabilities: Capabilities| {
        let processor = intel(ebx7, MD_CLEAR | BRANCHES | L1D | CAPABILITIES, Some(capabilities.bits()));
        let plan = processor.plan(Wanted::ALL);
        (plan.l1d, plan.verw)
    };
    let new = Capabilities::RDCL_NO | Capabilities::MDS_NO;
    assert_eq!(plan(0, new), (false, false));
    assert_eq!(plan(0, Capabilities::RDCL_NO), (false, true));
    assert_eq!(plan(0, Capabilities::MDS_NO), (true, false));
    assert_eq!(plan(0, Capabilities::MDS_NO | Capabilities::SKIP_L1DFL_VMENTRY), (false, false));
    // Cascade Lake: asynchronous aborts of TSX reach the buffers all the same.
    assert_eq!(plan(TSX, new), (false, true));
    assert_eq!(plan(TSX, new | Capabilities::TAA_NO), (false, false));
    // Gracemont: register files.
    assert_eq!(plan(0, new | Capabilities::RFDS_CLEAR), (false, true));
    assert_eq!(plan(0, new | Capabilities::RFDS_CLEAR | Capabilities::RFDS_NO), (false, false));
}

#[test]
fn the_hypervisor_keeps_ibrs_where_it_may_stay_on() {
    let enhanced = Some(Capabilities::IBRS_ALL.bits());
    let plan = intel(0, BRANCHES | CAPABILITIES, enhanced).plan(Wanted::ALL);
    assert_eq!(plan.host_spec_ctrl, Some(1));
    assert_eq!(plan.to_string(), "IBPB between domains, IBRS in Ebb");
    assert_eq!(intel(0, CAPABILITIES, enhanced).plan(Wanted::ALL), IDLE);
    let zen4 = amd(1 << 12 | 1 << 14, 1 << 8).plan(Wanted::ALL);
    assert_eq!(zen4, Plan { ibpb: true, host_spec_ctrl: Some(0), automatic_ibrs: true, ..IDLE });
}

#[test]
fn amd_processors_get_the_barrier() {
    let epyc = amd(1 << 12, 0);
    assert_eq!(epyc.plan(Wanted::ALL), Plan { ibpb: true, ..IDLE });
    assert_eq!(epyc.to_string(), "IBPB");
    // Intel's bits, as some hosts of virtual machines show them, do not make it open to Intel's leaks.
    let leaves = Leaves { vendor: AMD, ebx7: TSX, edx7: MD_CLEAR | L1D, ebx8: 0, eax21: 0 };
    assert_eq!(processor(leaves, None).plan(Wanted::ALL), IDLE);
}

#[test]
fn the_command_line_takes_away() {
    let everything = Capabilities::IBRS_ALL.bits();
    let processor = intel(0, MD_CLEAR | BRANCHES | L1D | CAPABILITIES, Some(everything));
    let plan = |value| processor.plan(Wanted::parse(value).expect("a value with a sense"));
    let all = Plan { ibpb: true, l1d: true, verw: true, host_spec_ctrl: Some(1), automatic_ibrs: false };
    assert_eq!(plan("auto"), all);
    assert_eq!(plan("no-ibpb"), Plan { ibpb: false, ..all });
    assert_eq!(plan("no-l1d,no-verw"), Plan { l1d: false, verw: false, ..all });
    assert_eq!(plan("no-ibrs"), Plan { host_spec_ctrl: Some(0), ..all });
    assert_eq!(plan("off"), Plan { host_spec_ctrl: Some(0), ..IDLE });
    for nonsense in ["", "on", "no-ibpb,", "ibpb", "auto,no-l1d", "no-ibpb no-l1d"] {
        assert_eq!(Wanted::parse(nonsense), None, "{nonsense}");
    }
}

#[test]
fn guests_have_the_registers_of_what_they_are_offered() {
    let none = GuestControls::new(0, 0, Some(0x1f));
    assert_eq!(none, GuestControls::default());
    assert!(!none.has_spec_ctrl());
    for number in [msr::SPEC_CTRL, msr::PRED_CMD, msr::FLUSH_CMD, msr::ARCH_CAPABILITIES] {
        assert!(!none.takes(number, 0), "MSR {number:#x} is not there, whatever is written");
    }
    let all = GuestControls::new(BRANCHES | L1D, 0, None);
    assert!(all.has_spec_ctrl());
    assert_eq!(all.capabilities(), None);
    assert!(all.takes(msr::SPEC_CTRL, 0) && all.takes(msr::SPEC_CTRL, 7));
    assert!(!all.takes(msr::SPEC_CTRL, 8) && !all.takes(msr::SPEC_CTRL, 1 << 63 | 1));
    for command in [msr::PRED_CMD, msr::FLUSH_CMD] {
        assert!(all.takes(command, 0) && all.takes(command, 1));
        assert!(!all.takes(command, 2) && !all.takes(command, 1 << 32));
    }
    // Each bit needs its feature, AMD's or Intel's.
    let some = GuestControls::new(0, 1 << 24, None);
    assert!(some.takes(msr::SPEC_CTRL, 4) && !some.takes(msr::SPEC_CTRL, 1) && !some.takes(msr::SPEC_CTRL, 2));
    assert!(!some.takes(msr::PRED_CMD, 0));
    assert!(GuestControls::new(0, 1 << 12, None).takes(msr::PRED_CMD, 1));
}

#[test]
fn guests_are_told_only_capabilities_without_registers_of_their_own() {
    let shown = |raw| GuestControls::new(CAPABILITIES, 0, Some(raw)).capabilities();
    assert_eq!(shown(0x1f), Some(0x1f));
    // TSX_CTRL, microcode control, energy filtering, FB_CLEAR_CTRL, GDS_CTRL and whatever comes next.
    assert_eq!(shown(1 << 7 | 1 << 9 | 1 << 11 | 1 << 18 | 1 << 25 | 1 << 40), Some(0));
    assert_eq!(shown(u64::MAX), Some(Capabilities::all().bits()));
    assert_eq!(GuestControls::new(0, 0, Some(0x1f)).capabilities(), None);
}
