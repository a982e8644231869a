//! The control fields: what Ebb wants, cut to what the processor allows, and refused where it must have more.

use core::sync::atomic::{AtomicU32, Ordering};

use x86::vmx::vmcs::control::{EntryControls, ExitControls, PinbasedControls, PrimaryControls, SecondaryControls};

use crate::instr;
use crate::options::options;

const TRUE_CONTROLS: u64 = 1 << 55;
const MSR_SECONDARY: u32 = 0x48b;

/// One control field: its bits for every vCPU, once the machine has been asked.
pub struct Field(AtomicU32);

impl Field {
    const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Its value.
    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Pin-based controls.
pub static PIN: Field = Field::new();
/// Primary processor-based controls.
pub static PRIMARY: Field = Field::new();
/// Secondary processor-based controls.
pub static SECONDARY: Field = Field::new();
/// Exit controls.
pub static EXIT: Field = Field::new();
/// Entry controls.
pub static ENTRY: Field = Field::new();

/// Whether this machine's processors notice spin loops.
pub fn has_pause_exits() -> bool {
    SECONDARY.get() & SecondaryControls::PAUSE_LOOP_EXITING.bits() != 0
}

/// What every machine must allow, and what is used where it is allowed.
struct Wish {
    name: &'static str,
    msr: u32,
    true_msr: u32,
    needed: u32,
    welcome: u32,
}

fn wishes() -> [(&'static Field, Wish); 4] {
    let pin =
        PinbasedControls::EXTERNAL_INTERRUPT_EXITING | PinbasedControls::NMI_EXITING | PinbasedControls::VIRTUAL_NMIS;
    let primary = PrimaryControls::HLT_EXITING
        | PrimaryControls::MWAIT_EXITING
        | PrimaryControls::RDPMC_EXITING
        | PrimaryControls::USE_TPR_SHADOW
        | PrimaryControls::UNCOND_IO_EXITING
        | PrimaryControls::USE_MSR_BITMAPS
        | PrimaryControls::MONITOR_EXITING
        | PrimaryControls::SECONDARY_CONTROLS;
    let exit = ExitControls::SAVE_DEBUG_CONTROLS
        | ExitControls::HOST_ADDRESS_SPACE_SIZE
        | ExitControls::SAVE_IA32_PAT
        | ExitControls::LOAD_IA32_PAT
        | ExitControls::SAVE_IA32_EFER
        | ExitControls::LOAD_IA32_EFER;
    let entry = EntryControls::LOAD_DEBUG_CONTROLS | EntryControls::LOAD_IA32_PAT | EntryControls::LOAD_IA32_EFER;
    let timer = if super::POLLED_INTERRUPTS.load(Ordering::Relaxed) {
        PinbasedControls::VMX_PREEMPTION_TIMER.bits()
    } else {
        0
    };
    [
        (
            &PIN,
            Wish { name: "VMX without virtual NMIs", msr: 0x481, true_msr: 0x48d, needed: pin.bits(), welcome: timer },
        ),
        (
            &PRIMARY,
            Wish {
                name: "VMX without secondary controls",
                msr: 0x482,
                true_msr: 0x48e,
                needed: primary.bits(),
                welcome: 0,
            },
        ),
        (
            &EXIT,
            Wish {
                name: "VMX without EFER and PAT at exits",
                msr: 0x483,
                true_msr: 0x48f,
                needed: exit.bits(),
                welcome: 0,
            },
        ),
        (
            &ENTRY,
            Wish {
                name: "VMX without EFER and PAT at entries",
                msr: 0x484,
                true_msr: 0x490,
                needed: entry.bits(),
                welcome: 0,
            },
        ),
    ]
}

/// Asks the machine, given IA32_VMX_BASIC.
///
/// # Errors
/// What is missing.
pub fn probe(basic: u64) -> Result<(), &'static str> {
    let needed = [
        (SecondaryControls::ENABLE_EPT, "this processor has VMX without EPT"),
        (SecondaryControls::UNRESTRICTED_GUEST, "this processor has EPT without unrestricted guest"),
        (SecondaryControls::ENABLE_VPID, "this processor has VMX without VPID"),
        (SecondaryControls::WBINVD_EXITING, "this processor has VMX without WBINVD exits"),
    ];
    let mut all = 0;
    for (control, missing) in needed {
        allowed(MSR_SECONDARY, control.bits(), 0).ok_or(missing)?;
        all |= control.bits();
    }
    let mut welcome = SecondaryControls::ENABLE_RDTSCP;
    welcome.set(SecondaryControls::PAUSE_LOOP_EXITING, !options().no_pause_exits);
    let value = allowed(MSR_SECONDARY, all, welcome.bits()).ok_or("VMX without secondary controls")?;
    SECONDARY.0.store(value, Ordering::Relaxed);
    for (field, wish) in wishes() {
        let msr = if basic & TRUE_CONTROLS != 0 { wish.true_msr } else { wish.msr };
        let value = allowed(msr, wish.needed, wish.welcome).ok_or(wish.name)?;
        field.0.store(value, Ordering::Relaxed);
    }
    Ok(())
}

/// `needed`, as much of `welcome` as is allowed, and what must be set; `None` when something needed is not allowed.
fn allowed(msr: u32, needed: u32, welcome: u32) -> Option<u32> {
    let capability = instr::rdmsr_safe(msr)?;
    let (must, may) = (capability as u32, (capability >> 32) as u32);
    (needed & !may == 0).then_some(must | needed | welcome & may)
}
