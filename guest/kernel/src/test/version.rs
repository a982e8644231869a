//! `xen_version`, and hypercalls that do not exist.

use super::{Outcome, Test, is_privileged, wrong_call};
use crate::{check, check_eq, xen};
use ebb_guest_hypercall::{Errno, version};
use shared_abi::features::Features;
use shared_abi::hypercall as number;
use shared_abi::version as abi;
use zerocopy::FromZeros;

/// This group's tests.
pub const TESTS: &[Test] = &[
    ("version-numbers", numbers),
    ("version-texts", texts),
    ("version-features", features),
    ("version-errors", errors),
    ("hypercall-unknown", unknown),
];

fn numbers() -> Outcome {
    let found = version::version()?;
    check_eq!(found >> 16, 4, "major version");
    check_eq!(found, xen::hypervisor().version, "version by CPUID and by hypercall");
    check_eq!(version::pagesize()?, 4096, "page size");
    Ok(())
}

fn ends(text: &[u8]) -> bool {
    text.contains(&0)
}

fn texts() -> Outcome {
    check!(ends(&version::extraversion()?), "the extra version does not end");
    check!(ends(&version::changeset()?), "the changeset does not end");
    let mut capabilities = [0xFF; 1024];
    version::capabilities(&mut capabilities)?;
    check!(ends(&capabilities), "the capabilities do not end");
    check!(capabilities.windows(14).any(|part| part == b"hvm-3.0-x86_64"), "the capabilities lack hvm-3.0-x86_64");
    let mut info = abi::CompileInfo::new_zeroed();
    version::compile_info(&mut info)?;
    check!(ends(&info.compiler) && ends(&info.compile_date), "the compile info does not end");
    version::guest_handle()?;
    let mut line = [0; 1024];
    match version::commandline(&mut line) {
        Ok(()) => check!(
            is_privileged() || line.starts_with(b"<denied>") || line[0] == 0,
            "an unprivileged domain sees the hypervisor's command line"
        ),
        Err(errno) => check_eq!(errno, Errno::EPERM, "the command line"),
    }
    Ok(())
}

fn features() -> Outcome {
    let found = version::features(0)?;
    let needed = Features::AUTO_TRANSLATED_PHYSMAP | Features::HVM_CALLBACK_VECTOR | Features::HVM_SAFE_PVCLOCK;
    check!(found.contains(needed), "{found:?} lacks one of {needed:?}");
    check_eq!(found.contains(Features::DOM0), is_privileged(), "XENFEAT_dom0");
    check_eq!(version::features(1), Err(Errno::EINVAL), "a submap that does not exist");
    Ok(())
}

fn errors() -> Outcome {
    let call = |op: u32, address: u64| wrong_call(number::XEN_VERSION, [op.into(), address, 0, 0, 0]);
    check_eq!(call(99, 0), Err(Errno::ENOSYS), "an operation that does not exist");
    for address in [0, 0x8000_0000_0000, u64::MAX - 3] {
        check_eq!(call(abi::GET_FEATURES, address), Err(Errno::EFAULT), "an argument that is not mapped");
        check_eq!(call(abi::CAPABILITIES, address), Err(Errno::EFAULT), "a buffer that is not mapped");
    }
    Ok(())
}

fn unknown() -> Outcome {
    let numbers = [number::SET_TRAP_TABLE, number::MMU_UPDATE, number::EVENT_CHANNEL_OP_COMPAT, 55, 56, 63];
    for unknown in numbers {
        check_eq!(wrong_call(unknown, [0; 5]), Err(Errno::ENOSYS), unknown);
    }
    Ok(())
}
