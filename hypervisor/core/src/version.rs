//! `xen_version`: what the hypervisor is and can do.
//!
//! Answers are true: version 4.17 is the level of the interface, the extra version says that this is Ebb, capabilities
//! and features name what guests have here.
//!
//! Specification: Xen 4.17's `version.h` and `features.h`.

use shared_abi::features::Features;
use shared_abi::version as abi;
use shared_abi::xen::{DomainHandle, Errno};

use crate::hypercall::{Call, CallResult, Next, Width};
use crate::machine::{Machine, PAGE_SIZE};

/// What follows 4.17 in the version.
const EXTRA: &str = "-ebb";
/// The guests that can run: no paravirtual ones.
const CAPABILITIES: &str = "hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 ";
/// What those without privilege read instead of what is not their business.
const DENIED: &str = "<denied>";

/// Features of every domain: translated physical memory, so page tables are the guest's own; a callback vector; a PV
/// clock that may be read without precautions; NUMA hints to memory operations are understood (there is one node).
pub const FEATURES: Features = Features::WRITABLE_PAGE_TABLES
    .union(Features::AUTO_TRANSLATED_PHYSMAP)
    .union(Features::HVM_CALLBACK_VECTOR)
    .union(Features::HVM_SAFE_PVCLOCK)
    .union(Features::MEMORY_OP_VNODE_SUPPORTED)
    .union(Features::NOT_DIRECT_MAPPED);

/// The hypercall: arg 0 is the operation, arg 1 the address of its structure, if it has one.
///
/// # Errors
/// `EFAULT` when the structure cannot be read or written, `ENOSYS` for an operation that is not offered, and what the
/// operation says.
pub fn xen_version<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    if call.args[0] as u32 == abi::VERSION {
        return Ok(Next::Return(i64::from(abi::REPORTED_VERSION)));
    }
    others(call)
}

/// Every operation but the one that guests use to let the hypervisor look at their events.
#[inline(never)]
fn others<M: Machine>(call: &mut Call<'_, M>) -> CallResult {
    let address = call.args[1];
    match call.args[0] as u32 {
        abi::PAGESIZE if address == 0 => return Ok(Next::Return(PAGE_SIZE as i64)),
        abi::PAGESIZE => return Err(Errno::EINVAL),
        abi::EXTRAVERSION => call.write_guest(address, &text::<16>(EXTRA))?,
        abi::COMPILE_INFO => call.write_guest(address, &compile_info())?,
        abi::CAPABILITIES => call.write_guest(address, &text::<1024>(CAPABILITIES))?,
        abi::CHANGESET => call.write_guest(address, &text::<64>("unavailable"))?,
        abi::PLATFORM_PARAMETERS => platform_parameters(call, address)?,
        abi::GET_FEATURES => get_features(call, address)?,
        // Domains have no UUIDs until a control domain gives them some.
        abi::GUEST_HANDLE => call.write_guest(address, &DomainHandle::default())?,
        abi::COMMANDLINE => command_line(call, address)?,
        abi::BUILD_ID if !call.current.domain().is_privileged() => return Err(Errno::EPERM),
        // As Xen answers when it was linked without one.
        abi::BUILD_ID => return Err(Errno::ENODATA),
        _ => return Err(Errno::ENOSYS),
    }
    Ok(Next::Return(0))
}

/// A text cut to fit, with at least one NUL after it.
fn text<const SIZE: usize>(text: &str) -> [u8; SIZE] {
    let mut field = [0; SIZE];
    let length = text.len().min(SIZE - 1);
    field[..length].copy_from_slice(&text.as_bytes()[..length]);
    field
}

fn compile_info() -> abi::CompileInfo {
    abi::CompileInfo {
        compiler: text("rustc"),
        compile_by: text("ebb"),
        compile_domain: text(env!("CARGO_PKG_VERSION")),
        // A date would make two builds of one source differ.
        compile_date: text("reproducible"),
    }
}

/// No hypervisor area in a guest's address space: it begins nowhere.
fn platform_parameters<M: Machine>(call: &mut Call<'_, M>, address: u64) -> Result<(), Errno> {
    match call.width {
        Width::Bits64 => call.write_guest(address, &abi::PlatformParameters { virt_start: 0 }),
        Width::Bits32 => call.write_guest(address, &0u32),
    }
}

fn get_features<M: Machine>(call: &mut Call<'_, M>, address: u64) -> Result<(), Errno> {
    let mut request: abi::FeatureInfo = call.read_guest(address)?;
    if request.submap_idx != 0 {
        return Err(Errno::EINVAL);
    }
    request.submap = FEATURES.bits();
    call.write_guest(address, &request)
}

/// The hypervisor's command line, to a privileged domain. Others are told so in a success, as on Xen, and only as much of
/// their buffer is written as the word needs.
fn command_line<M: Machine>(call: &mut Call<'_, M>, address: u64) -> Result<(), Errno> {
    if call.current.domain().is_privileged() {
        call.write_guest(address, &text::<1024>(&call.hv.command_line))
    } else {
        call.write_guest(address, &text::<{ DENIED.len() + 1 }>(DENIED))
    }
}

#[cfg(test)]
mod tests {
    use shared_abi::hypercall as number;

    use super::*;
    use crate::evtchn::tests::guest::Guest;
    use crate::testing;

    #[test]
    fn features_are_what_xen_gives_such_domains() {
        assert_eq!(FEATURES.bits(), 0x12305);
    }

    #[test]
    fn every_operation_answers() {
        let hv = testing::hypervisor(1, 512);
        let (guest, governor) = (Guest::new(&hv, 1, 1), Guest::privileged(&hv, 2));
        let ask = |guest: &Guest<'_>, operation: u32, address: u64| {
            let vcpu = testing::vcpu(&guest.domain, 0);
            let args = [operation.into(), address, 0, 0, 0];
            testing::hypercall(&hv, &vcpu, number::XEN_VERSION, args)
        };
        assert_eq!(ask(&guest, abi::VERSION, 0), 4 << 16 | 17);
        assert_eq!(ask(&guest, abi::PAGESIZE, 0), 4096);
        assert_eq!(ask(&guest, abi::PAGESIZE, 8), Errno::EINVAL.to_return());
        assert_eq!(ask(&guest, abi::EXTRAVERSION, 0x1000), 0);
        assert_eq!(testing::peek::<16>(&hv, &guest.domain, 0x1000), text::<16>(EXTRA));
        assert_eq!(ask(&guest, abi::CAPABILITIES, 0x1000), 0);
        assert_eq!(testing::peek::<12>(&hv, &guest.domain, 0x1000), *b"hvm-3.0-x86_");
        assert_eq!(ask(&guest, abi::COMMANDLINE, 0x1ff0), 0, "16 bytes are enough");
        assert_eq!(testing::peek::<9>(&hv, &guest.domain, 0x1ff0), *b"<denied>\0");
        assert_eq!(ask(&governor, abi::COMMANDLINE, 0x1000), 0);
        assert_eq!(testing::peek::<8>(&hv, &governor.domain, 0x1000), *b"testing\0");
        assert_eq!(ask(&guest, abi::BUILD_ID, 0), Errno::EPERM.to_return());
        assert_eq!(ask(&governor, abi::BUILD_ID, 0), Errno::ENODATA.to_return());
        testing::poke(&hv, &guest.domain, 0x1000, &0u64.to_le_bytes());
        assert_eq!(ask(&guest, abi::GET_FEATURES, 0x1000), 0);
        assert_eq!(testing::peek::<8>(&hv, &guest.domain, 0x1000), (0x12305u64 << 32).to_le_bytes());
        testing::poke(&hv, &guest.domain, 0x1000, &1u32.to_le_bytes());
        assert_eq!(ask(&guest, abi::GET_FEATURES, 0x1000), Errno::EINVAL.to_return());
        for operation in [abi::COMPILE_INFO, abi::CHANGESET, abi::PLATFORM_PARAMETERS, abi::GUEST_HANDLE] {
            assert_eq!(ask(&guest, operation, 0x1000), 0);
        }
        for operation in (1..7).chain([8, 9]) {
            assert_eq!(ask(&guest, operation, 0xffff_0000), Errno::EFAULT.to_return());
        }
        assert_eq!(ask(&guest, 11, 0), Errno::ENOSYS.to_return());
    }

    #[test]
    fn texts_end_with_a_nul() {
        assert_eq!(text::<4>("abcdef"), *b"abc\0");
        assert_eq!(text::<4>("a"), *b"a\0\0\0");
    }
}
