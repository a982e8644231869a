//! The hypervisor's binary: the point where the machine, once up, is handed to what runs on it.
//!
//! `ebb_main` is called by `boot/entry.S` on the boot processor; everything else is in the library `ebb_hypervisor`,
//! whose pure modules are also tested on the host.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod image {
    use ebb_hypervisor::boot::Boot;
    use ebb_hypervisor::{cpu, glue, machine};

    /// First Rust code on the boot processor, on the boot stack, with the boot page tables.
    ///
    /// `protocol` is the magic number of the boot protocol, `info` the physical address of the loader's structure.
    #[expect(unsafe_code, reason = "the assembly entry needs an unmangled name; nothing else defines this symbol")]
    #[unsafe(no_mangle)]
    extern "C" fn ebb_main(protocol: u32, info: u32) -> ! {
        machine::bring_up(protocol, u64::from(info), run, ap_run)
    }

    /// The boot processor, machine up: all processors started, timers calibrated, memory known.
    fn run(boot: Boot) -> ! {
        machine::refuse_if_unusable(&boot);
        glue::start(&boot)
    }

    /// Every other processor, after its own bring-up.
    fn ap_run(_cpu: cpu::CpuId) -> ! {
        glue::run::wait_for_start()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("ebb-hypervisor runs on the bare machine: build it with --target x86_64-unknown-none");
    std::process::exit(1);
}
