//! The one place that knows which vendors there are: finds the one this machine has, and gives the rest of Ebb types
//! that are either's.
//!
//! The core is compiled once, over these types, and so are most exits; the run loop and the hypercall are compiled once
//! for each vendor, so that they never ask whose they are.

use core::sync::atomic::{AtomicBool, Ordering};

use ebb_core::p2m::{Entry, EntryFormat, Leaf};
use shared_abi::xen::Mfn;

use super::Backend;
use super::svm::Svm;
use super::vmx::Vmx;

/// Set when the machine is Intel's.
static IS_VMX: AtomicBool = AtomicBool::new(false);

#[inline(always)]
fn is_vmx() -> bool {
    IS_VMX.load(Ordering::Relaxed)
}

/// A vCPU of either vendor.
pub enum AnyVcpu {
    /// AMD's.
    Svm(<Svm as Backend>::Vcpu),
    /// Intel's.
    Vmx(<Vmx as Backend>::Vcpu),
}

impl AnyVcpu {
    /// State for a new vCPU, or `None` when memory is short.
    pub fn new() -> Option<Self> {
        Some(if is_vmx() { Self::Vmx(Vmx::new_vcpu()?) } else { Self::Svm(Svm::new_vcpu()?) })
    }
}

/// Nested page-table entries of either vendor.
#[derive(Clone, Copy, Debug)]
pub struct AnyFormat;

type SvmFormat = <Svm as Backend>::Format;
type VmxFormat = <Vmx as Backend>::Format;

impl EntryFormat for AnyFormat {
    #[inline]
    fn table(table: Mfn) -> u64 {
        if is_vmx() { VmxFormat::table(table) } else { SvmFormat::table(table) }
    }

    #[inline]
    fn leaf(leaf: Leaf, level: u32) -> u64 {
        if is_vmx() { VmxFormat::leaf(leaf, level) } else { SvmFormat::leaf(leaf, level) }
    }

    #[inline]
    fn decode(entry: u64, level: u32) -> Entry {
        if is_vmx() { VmxFormat::decode(entry, level) } else { SvmFormat::decode(entry, level) }
    }

    #[inline]
    fn largest_leaf_level() -> u32 {
        if is_vmx() { VmxFormat::largest_leaf_level() } else { SvmFormat::largest_leaf_level() }
    }
}

/// Works around an emulator that loses interrupts' exits, where the extension needs it. Before [`probe`].
pub fn poll_interrupts() {
    Vmx::poll_interrupts();
}

/// Finds the machine's extension.
///
/// # Errors
/// One line that says what the processor's extension lacks.
pub fn probe() -> Result<(), &'static str> {
    let Err(no_svm) = Svm::probe() else { return Ok(()) };
    match Vmx::probe() {
        Ok(()) => {
            IS_VMX.store(true, Ordering::Relaxed);
            Ok(())
        }
        Err(no_vmx) => Err(if Vmx::is_present() { no_vmx } else { no_svm }),
    }
}

/// The name of the extension in use.
pub fn name() -> &'static str {
    if is_vmx() { Vmx::NAME } else { Svm::NAME }
}

/// The instruction by which guests call the hypervisor.
pub fn hypercall_instruction() -> [u8; 3] {
    if is_vmx() { Vmx::HYPERCALL_INSTRUCTION } else { Svm::HYPERCALL_INSTRUCTION }
}

/// What guests read from IA32_MISC_ENABLE, where the vendor has it.
pub fn misc_enable() -> Option<u64> {
    if is_vmx() { Vmx::MISC_ENABLE } else { Svm::MISC_ENABLE }
}

/// Whether the hypervisor's handler has been given, right after the exit, the NMI that ended a guest.
pub fn nmi_is_pending() -> bool {
    if is_vmx() { Vmx::NMI_STAYS_PENDING } else { Svm::NMI_STAYS_PENDING }
}

/// Whether `rip` is where such an NMI is taken.
pub fn is_world_switch(rip: u64) -> bool {
    !is_vmx() && Svm::is_world_switch(rip)
}

/// Turns the extension on, on this CPU.
///
/// # Errors
/// Why it cannot be.
pub fn enable_this_cpu() -> Result<(), &'static str> {
    if is_vmx() { Vmx::enable_this_cpu() } else { Svm::enable_this_cpu() }
}
