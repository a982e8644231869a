//! `workload=control`: the control domain. Its logic is the crate `ebb_control`; here is what joins it to the machine.
//!
//! One thread steps the logic and sleeps until an event channel of its wakes it or its time has come. The script is the
//! first module. A mistake in the arguments or the script ends the machine before any domain has started: the domains
//! that wait are destroyed, and the control domain crashes.
#![allow(unsafe_code)] // Reading the module.

mod machine;
pub mod release;
pub mod window;

use crate::{panic, println, start_info, thread, xen};
use alloc::string::String;
use alloc::vec::Vec;
use ebb_control::script::Script;
use ebb_control::{Control, Machine, Next, Options};
use ebb_guest_hypercall::DomId;
use ebb_guest_logic::args::Args;
use machine::{Calls, waits};
use shared_abi::hvm::start_info::SIF_PRIVILEGED;

/// The workload.
pub fn run(args: Args<'static>) -> Result<(), String> {
    if start_info::get().flags & SIF_PRIVILEGED == 0 {
        return Err("the control domain must be privileged".into());
    }
    let own = xen::hypervisor().domid.and_then(|id| u16::try_from(id).ok()).ok_or("CPUID tells no domain number")?;
    let own = DomId(own);
    let mut calls = Calls::new()?;
    calls.bind_console()?;
    let prepared = Options::parse(args.text()).map_err(|why| Vec::from([why]));
    let prepared = prepared.and_then(|options| Ok((options, Script::parse(script())?)));
    let (options, script) = match prepared {
        Ok(prepared) => prepared,
        Err(errors) => {
            errors.iter().for_each(|why| println!("control: {why}"));
            destroy_waiting(&mut calls, own);
            panic::crash();
        }
    };
    let mut control = Control::new(calls, own, options, script);
    loop {
        match control.step() {
            Next::Again => thread::yield_now(),
            Next::Wait(until) => {
                thread::park_until(until);
            }
            Next::End => return Ok(()),
        }
    }
}

/// The first module's bytes; none without one.
fn script() -> &'static [u8] {
    let Some(module) = start_info::get().modules.first() else { return &[] };
    let address = core::ptr::with_exposed_provenance::<u8>(module.start as usize);
    // SAFETY: modules lie in RAM, which is mapped, and are kept out of the page allocator's hands for ever; nobody writes
    // there.
    unsafe { core::slice::from_raw_parts(address, (module.end - module.start) as usize) }
}

/// Destroys every domain that waits to be prepared: nobody will.
fn destroy_waiting(calls: &mut Calls, own: DomId) {
    let list = calls.domains().unwrap_or_default();
    for info in list.iter().filter(|info| info.domain != own && waits(info)) {
        if let Err(errno) = calls.destroy(info.domain) {
            println!("control: domain {} cannot be destroyed: {errno}", info.domain.0);
        }
    }
}
