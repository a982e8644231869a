//! What stands in XenStore for a domain, as libxl lays it out: who owns which node decides what a guest may say.
//!
//! The control domain owns a domain's home and the domain may read it. The domain owns what it answers or reports by:
//! `control/shutdown`, `control/sysrq`, `control/feature-*`, `data`, `drivers`, `feature`, `attr`, `error` and
//! `device/suspend/event-channel`.

use alloc::format;
use alloc::string::String;
use ebb_xenstore::{Access, Permission, Server};
use shared_abi::Errno;
use shared_abi::xen::{DomId, DomainHandle, Gfn, Port};

/// What a domain's part of the tree tells.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Its number.
    pub id: DomId,
    /// Its name.
    pub name: &'a str,
    /// Its handle.
    pub handle: DomainHandle,
    /// vCPUs it may have.
    pub vcpus: u32,
    /// What it was booted with, KiB.
    pub boot: u64,
    /// What it is to have now, KiB.
    pub target: u64,
    /// The console's page and port, of the domain's side.
    pub console: (Gfn, Port),
    /// XenStore's page and port, of the domain's side.
    pub store: (Gfn, Port),
}

/// A domain's home.
pub fn home(domain: DomId) -> String {
    format!("/local/domain/{}", domain.0)
}

/// Its node for a virtual machine, by its handle in the form of a UUID.
pub fn vm(handle: &DomainHandle) -> String {
    format!("/vm/{}", uuid(handle))
}

/// A handle as text.
pub fn uuid(handle: &DomainHandle) -> String {
    let mut text = String::new();
    for (index, byte) in handle.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Nodes below a home that the domain may read, without a value.
const READABLE: &[&str] = &["cpu", "memory", "device", "control", "store", "console"];
/// Nodes below a home that are the domain's own.
const OWNED: &[&str] = &[
    "device/suspend/event-channel",
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
];

/// Writes a domain's nodes, in place of whatever stands there.
pub fn write(server: &mut Server, control: DomId, facts: &Facts<'_>) -> Result<(), Errno> {
    remove(server, facts.id, &facts.handle);
    let (home, vm) = (home(facts.id), vm(&facts.handle));
    let readable = Permission::readable_by(control, facts.id);
    let owned = [Permission::new(facts.id, Access::NONE)];
    server.write_for(home.as_bytes(), b"", &readable)?;
    server.write_for(vm.as_bytes(), b"", &readable)?;
    for name in READABLE {
        server.write_for(format!("{home}/{name}").as_bytes(), b"", &readable)?;
    }
    for name in OWNED {
        server.write_for(format!("{home}/{name}").as_bytes(), b"", &owned)?;
    }
    let mut put = |path: String, value: &str| server.write(path.as_bytes(), value.as_bytes());
    put(format!("{home}/vm"), &vm)?;
    put(format!("{home}/name"), facts.name)?;
    put(format!("{home}/domid"), &format!("{}", facts.id.0))?;
    put(format!("{home}/control/platform-feature-multiprocessor-suspend"), "1")?;
    put(format!("{home}/control/platform-feature-xs_reset_watches"), "1")?;
    put(format!("{home}/memory/static-max"), &format!("{}", facts.boot))?;
    put(format!("{home}/memory/target"), &format!("{}", facts.target))?;
    put(format!("{home}/memory/videoram"), "0")?;
    for vcpu in 0..facts.vcpus {
        put(format!("{home}/cpu/{vcpu}/availability"), "online")?;
    }
    put(format!("{home}/store/ring-ref"), &format!("{}", facts.store.0.0))?;
    put(format!("{home}/store/port"), &format!("{}", facts.store.1.0))?;
    put(format!("{home}/console/ring-ref"), &format!("{}", facts.console.0.0))?;
    put(format!("{home}/console/port"), &format!("{}", facts.console.1.0))?;
    put(format!("{home}/console/backend-id"), &format!("{}", control.0))?;
    put(format!("{home}/console/limit"), "65536")?;
    put(format!("{home}/console/type"), "ebb")?;
    put(format!("{home}/console/output"), "pty")?;
    put(format!("{home}/console/tty"), "com1")?;
    put(format!("{vm}/uuid"), &uuid(&facts.handle))?;
    put(format!("{vm}/name"), facts.name)
}

/// Writes the nodes of the control domain itself.
pub fn write_own(server: &mut Server, control: DomId, name: &str) -> Result<(), Errno> {
    let home = home(control);
    server.write(format!("{home}/name").as_bytes(), name.as_bytes())?;
    server.write(format!("{home}/domid").as_bytes(), format!("{}", control.0).as_bytes())
}

/// Removes a domain's nodes. What is not there is removed already.
pub fn remove(server: &mut Server, domain: DomId, handle: &DomainHandle) {
    let _ = server.remove(home(domain).as_bytes());
    let _ = server.remove(vm(handle).as_bytes());
}

/// Sets a domain's memory target, KiB.
pub fn set_target(server: &mut Server, domain: DomId, kib: u64) -> Result<(), Errno> {
    server.write(format!("{}/memory/target", home(domain)).as_bytes(), format!("{kib}").as_bytes())
}

/// Asks a domain to end: `poweroff`, `reboot`, `halt`, `suspend`.
pub fn ask(server: &mut Server, domain: DomId, request: &str) -> Result<(), Errno> {
    server.write(format!("{}/control/shutdown", home(domain)).as_bytes(), request.as_bytes())
}

/// Presses a SysRq key in a domain.
pub fn sysrq(server: &mut Server, domain: DomId, key: char) -> Result<(), Errno> {
    let mut bytes = [0; 4];
    server.write(format!("{}/control/sysrq", home(domain)).as_bytes(), key.encode_utf8(&mut bytes).as_bytes())
}

/// The stage that a domain says it is at, in `data/stage`.
pub fn stage(server: &mut Server, domain: DomId) -> Option<u64> {
    number(server, &format!("{}/data/stage", home(domain)))
}

/// A figure that a domain reports under `data/memory`, KiB; `None` when it does not, or it is no number.
pub fn reported(server: &mut Server, domain: DomId, name: &str) -> Option<u64> {
    number(server, &format!("{}/data/memory/{name}", home(domain)))
}

fn number(server: &mut Server, path: &str) -> Option<u64> {
    let value = server.read(path.as_bytes()).ok()?;
    core::str::from_utf8(&value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use ebb_xenstore::Quotas;

    const CONTROL: DomId = DomId(0);

    fn facts() -> Facts<'static> {
        Facts {
            id: DomId(3),
            name: "lin",
            handle: *b"lin\0\0\0\0\0\0\0\0\0\0\0\0\0",
            vcpus: 2,
            boot: 262_144,
            target: 262_144,
            console: (Gfn(0xfefff), Port(1)),
            store: (Gfn(0xfeffc), Port(2)),
        }
    }

    fn text(server: &mut Server, path: &str) -> String {
        String::from_utf8(server.read(path.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn a_domain_finds_what_linux_looks_for() {
        let mut server = Server::new(Quotas::default(), CONTROL);
        write(&mut server, CONTROL, &facts()).unwrap();
        assert_eq!(text(&mut server, "/local/domain/3/memory/static-max"), "262144");
        assert_eq!(text(&mut server, "/local/domain/3/memory/target"), "262144");
        assert_eq!(text(&mut server, "/local/domain/3/cpu/1/availability"), "online");
        assert_eq!(text(&mut server, "/local/domain/3/control/platform-feature-xs_reset_watches"), "1");
        assert_eq!(text(&mut server, "/local/domain/3/console/ring-ref"), "1044479");
        assert_eq!(text(&mut server, "/local/domain/3/vm"), "/vm/6c696e00-0000-0000-0000-000000000000");
        assert!(server.list(b"/local/domain/3/device").is_ok());
        set_target(&mut server, DomId(3), 1024).unwrap();
        assert_eq!(text(&mut server, "/local/domain/3/memory/target"), "1024");
        server.check().unwrap();
    }

    #[test]
    fn the_domain_owns_its_answers_and_nothing_else() {
        let mut server = Server::new(Quotas::default(), CONTROL);
        write(&mut server, CONTROL, &facts()).unwrap();
        let owner = |server: &mut Server, path: &str| {
            server.permissions(format!("/local/domain/3/{path}").as_bytes()).unwrap()[0].domain
        };
        for mine in OWNED {
            assert_eq!(owner(&mut server, mine), DomId(3), "{mine}");
        }
        for theirs in ["memory/target", "memory/static-max", "console/port", "store/port", "cpu/0/availability"] {
            assert_eq!(owner(&mut server, theirs), CONTROL, "{theirs}");
        }
    }

    #[test]
    fn removed_and_written_again() {
        let mut server = Server::new(Quotas::default(), CONTROL);
        write(&mut server, CONTROL, &facts()).unwrap();
        set_target(&mut server, DomId(3), 1).unwrap();
        write(&mut server, CONTROL, &facts()).unwrap();
        assert_eq!(text(&mut server, "/local/domain/3/memory/target"), "262144");
        remove(&mut server, DomId(3), &facts().handle);
        let left: Vec<_> = server.list(b"/local/domain").unwrap();
        assert!(left.is_empty());
        assert!(server.list(b"/vm").unwrap().is_empty());
        remove(&mut server, DomId(3), &facts().handle);
    }

    #[test]
    fn reports_are_numbers_or_nothing() {
        let mut server = Server::new(Quotas::default(), CONTROL);
        write(&mut server, CONTROL, &facts()).unwrap();
        assert_eq!(reported(&mut server, DomId(3), "committed"), None);
        server.write(b"/local/domain/3/data/memory/committed", b"4711").unwrap();
        server.write(b"/local/domain/3/data/memory/free", b"lots\xff").unwrap();
        assert_eq!(reported(&mut server, DomId(3), "committed"), Some(4711));
        assert_eq!(reported(&mut server, DomId(3), "free"), None);
    }
}
