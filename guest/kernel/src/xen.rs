//! The hypervisor: found by CPUID, called through the hypercall page, its `shared_info` mapped outside RAM.
#![allow(unsafe_code)] // Opening the hypercall page and mapping the shared page.

use crate::paging;
use crate::start_info::{self, StartInfo};
use ebb_guest_hypercall::call::{self, Gate};
use ebb_guest_hypercall::cpuid::{self, Hypervisor};
use ebb_guest_hypercall::shared::{self, SharedInfo};
use ebb_guest_hypercall::{Gfn, memory};
use shared_abi::memory::MAPSPACE_SHARED_INFO;
use shared_abi::xen::PAGE_SIZE;
use spin::Once;

static HYPERVISOR: Once<Hypervisor> = Once::new();
static SHARED: Once<(&'static SharedInfo, Gfn)> = Once::new();

/// The gfn at which Xen's own firmware puts `shared_info`, below the local APIC; usually free.
const USUAL_GFN: u64 = 0xF_E700;

/// Finds the hypervisor and makes hypercalls possible.
pub fn find() -> Result<&'static Hypervisor, &'static str> {
    let found = cpuid::find().ok_or("no Xen interface: CPUID has no XenVMMXenVMM leaves")?;
    // SAFETY: leaf 2 names the MSR; the image is identity mapped and the page is in its text.
    unsafe { call::open_page(found.msr, call::page_address()) };
    Ok(HYPERVISOR.call_once(|| found))
}

/// What was found.
pub fn hypervisor() -> &'static Hypervisor {
    HYPERVISOR.get().expect("the hypervisor is found first")
}

/// Obeys the argument `gate=page|vmcall|vmmcall|instruction`.
pub fn choose_gate() {
    let gate = match start_info::args().get("gate") {
        Some("vmcall") => Gate::Vmcall,
        Some("vmmcall") => Gate::Vmmcall,
        Some("instruction") if cpuid::is_amd() => Gate::Vmmcall,
        Some("instruction") => Gate::Vmcall,
        _ => return,
    };
    // SAFETY: Xen and Ebb take the vendor's own instruction; another one is the caller's explicit wish.
    unsafe { call::open(gate) };
}

/// A gfn that the memory map does not mention.
fn free_gfn(info: &StartInfo) -> u64 {
    let taken = |gfn: u64| {
        info.memory_map.iter().any(|entry| {
            let pages = entry.pages_touched();
            (pages.start..pages.end).contains(&gfn)
        })
    };
    (USUAL_GFN..USUAL_GFN + 0x800).find(|gfn| !taken(*gfn)).unwrap_or(USUAL_GFN)
}

/// Maps the `shared_info` page.
pub fn map_shared_info() -> Result<&'static SharedInfo, &'static str> {
    let gfn = Gfn(free_gfn(start_info::get()));
    let address = gfn.0 * PAGE_SIZE;
    // SAFETY: nothing of the kernel's is at this gfn or address: the memory map does not mention it.
    unsafe {
        memory::add_to_physmap(MAPSPACE_SHARED_INFO, 0, gfn).map_err(|_| "shared_info cannot be mapped")?;
        paging::map(address, address, PAGE_SIZE, paging::WRITE | paging::NO_EXECUTE)?;
        Ok(SHARED.call_once(|| (shared::at(address), gfn)).0)
    }
}

/// The `shared_info` page.
pub fn shared_info() -> &'static SharedInfo {
    SHARED.get().expect("shared_info is mapped first").0
}

/// Where it is mapped.
pub fn shared_info_gfn() -> Gfn {
    SHARED.get().expect("shared_info is mapped first").1
}
