//! Every operation on the wire, with the exact bytes that Linux's xenbus relies on.

mod common;

use common::*;
use ebb_xenstore::{Access, Broken, Notice, Permission, Quotas, Server};
use shared_abi::io::xs_wire::MessageType as T;
use shared_abi::xen::DomId;

type Reply = Result<Vec<u8>, String>;

fn ok() -> Reply {
    Ok(b"OK\0".to_vec())
}

fn error(name: &str) -> Reply {
    Err(name.into())
}

fn pair(path: &str, token: &str) -> (String, String) {
    (path.into(), token.into())
}

fn new() -> Server {
    server(Quotas::default(), &[3, 4])
}

/// A server with a privileged client, domain 1, besides 3 and 4.
fn with_privileged() -> Server {
    let mut server = new();
    server.introduce(DomId(1), true).unwrap();
    server
}

#[test]
fn linux_boots() {
    let mut s = new();
    s.write(b"/local/domain/3/control/platform-feature-xs_reset_watches", b"1").unwrap();
    s.write(b"/local/domain/3/memory/target", b"262144").unwrap();
    // The first request, byte by byte, and its reply, byte by byte.
    let request = bytes(T::READ, 0, 0, b"control/platform-feature-xs_reset_watches\0");
    for byte in &request {
        assert_eq!(s.output(DomId(3), &mut [0; 64]), 0);
        assert_eq!(s.input(DomId(3), &[*byte]), Ok(1));
    }
    let mut reply = Vec::new();
    let mut byte = [0];
    while s.output(DomId(3), &mut byte) == 1 {
        reply.push(byte[0]);
    }
    assert_eq!(reply, bytes(T::READ, 0, 0, b"1"));

    assert_eq!(call(&mut s, 3, 0, T::RESET_WATCHES, b"\0"), ok());
    for (path, token) in
        [("cpu", "c"), ("memory/target", "FFFFFFFF8293"), ("control/shutdown", "s"), ("control/sysrq", "q")]
    {
        let payload = format!("{path}\0{token}\0");
        // The reply comes before the first event, and the event names the path as it was given.
        send(&mut s, 3, 0, T::WATCH, payload.as_bytes());
        let mut raw = vec![0; 256];
        let length = s.output(DomId(3), &mut raw);
        let expected = [bytes(T::WATCH, 7, 0, b"OK\0"), bytes(T::WATCH_EVENT, 0, 0, payload.as_bytes())].concat();
        assert_eq!(&raw[..length], expected);
    }
    assert_eq!(call(&mut s, 3, 0, T::READ, b"memory/target\0"), Ok(b"262144".to_vec()));
    assert_eq!(call(&mut s, 3, 0, T::READ, b"memory/static-max\0"), error("ENOENT"));
    assert_eq!(call(&mut s, 3, 0, T::WRITE, b"control/feature-poweroff\x001"), ok());
    assert_eq!(s.read(b"/local/domain/3/control/feature-poweroff").unwrap(), b"1");
    assert_eq!(call(&mut s, 3, 0, T::DIRECTORY, b"device\0"), Ok(vec![]));
    // Reading and clearing the shutdown request in a transaction.
    s.write(b"/local/domain/3/control/shutdown", b"poweroff").unwrap();
    assert_eq!(events(&mut s, 3), [pair("control/shutdown", "s")]);
    let tx = start(&mut s, 3);
    assert_eq!(call(&mut s, 3, tx, T::READ, b"control/shutdown\0"), Ok(b"poweroff".to_vec()));
    assert_eq!(call(&mut s, 3, tx, T::WRITE, b"control/shutdown\0"), ok());
    assert_eq!(ask(&mut s, 3, tx, T::TRANSACTION_END, b"T\0"), (ok(), vec![pair("control/shutdown", "s")]));
    assert_eq!(s.read(b"/local/domain/3/control/shutdown").unwrap(), b"");
    // A new target, as the balloon sees it.
    s.write(b"/local/domain/3/memory/target", b"131072").unwrap();
    assert_eq!(events(&mut s, 3), [pair("memory/target", "FFFFFFFF8293")]);
    s.check().unwrap();
}

#[test]
fn read_and_write() {
    let mut s = new();
    assert_eq!(call(&mut s, 3, 0, T::READ, b"data/a\0"), error("ENOENT"));
    assert_eq!(call(&mut s, 3, 0, T::WRITE, b"data/a/b/c\0x\0y\0"), ok());
    assert_eq!(call(&mut s, 3, 0, T::READ, b"/local/domain/3/data/a/b/c\0"), Ok(b"x\0y\0".to_vec()));
    assert_eq!(call(&mut s, 3, 0, T::READ, b"data/a\0"), Ok(vec![]));
    assert_eq!(call(&mut s, 3, 0, T::WRITE, b"data/a/b/c\0"), ok());
    assert_eq!(call(&mut s, 3, 0, T::READ, b"data/a/b/c\0"), Ok(vec![]));
    for bad in [&b""[..], b"data/a", b"data/a\0x", b"data/a\0\0", b"\0", b"data/\0", b"@introduceDomain\0", b"da ta\0"]
    {
        assert_eq!(call(&mut s, 3, 0, T::READ, bad), error("EINVAL"), "{}", bad.escape_ascii());
    }
    assert_eq!(call(&mut s, 3, 0, T::WRITE, b"data/a"), error("EINVAL"));
    assert_eq!(call(&mut s, 3, 0, T::WRITE, b"@x\0v"), error("EINVAL"));
    s.check().unwrap();
}

#[test]
fn mkdir_directory_rm() {
    let mut s = new();
    assert_eq!(call(&mut s, 3, 0, T::MKDIR, b"data/x/one\0"), ok());
    assert_eq!(call(&mut s, 3, 0, T::WRITE, b"data/x/two\0v"), ok());
    assert_eq!(call(&mut s, 3, 0, T::MKDIR, b"data/x/two\0"), ok());
    assert_eq!(call(&mut s, 3, 0, T::READ, b"data/x/two\0"), Ok(b"v".to_vec()));
    assert_eq!(call(&mut s, 3, 0, T::DIRECTORY, b"data/x\0"), Ok(b"one\0two\0".to_vec()));
    assert_eq!(call(&mut s, 3, 0, T::RM, b"data/x/one\0"), ok());
    assert_eq!(call(&mut s, 3, 0, T::DIRECTORY, b"data/x\0"), Ok(b"two\0".to_vec()));
    // Not there, but its parent is; then neither.
    assert_eq!(call(&mut s, 3, 0, T::RM, b"data/x/one\0"), ok());
    assert_eq!(call(&mut s, 3, 0, T::RM, b"data/x/one/more\0"), error("ENOENT"));
    assert_eq!(call(&mut s, 3, 0, T::RM, b"data/x\0"), ok());
    assert_eq!(call(&mut s, 3, 0, T::DIRECTORY, b"data/x\0"), error("ENOENT"));
    assert_eq!(call(&mut s, 3, 0, T::RM, b"/\0"), error("EACCES"));
    let mut p = with_privileged();
    assert_eq!(call(&mut p, 1, 0, T::RM, b"/\0"), error("EINVAL"));
    assert_eq!(call(&mut p, 1, 0, T::RM, b"/local\0"), ok());
    assert_eq!(p.usage(DomId(3)).nodes, 0);
    p.check().unwrap();
}

#[test]
fn long_directories_come_in_parts() {
    let mut s = with_privileged();
    let names: Vec<String> = (0..700).map(|index| format!("child-{index}")).collect();
    for name in &names {
        s.write(format!("/big/{name}").as_bytes(), b"").unwrap();
    }
    assert_eq!(call(&mut s, 1, 0, T::DIRECTORY, b"/big\0"), error("E2BIG"));
    let mut list = Vec::new();
    let mut generation = None;
    loop {
        let reply = call(&mut s, 1, 0, T::DIRECTORY_PART, format!("/big\0{}\0", list.len()).as_bytes()).unwrap();
        assert!(reply.len() <= 4096);
        let end = reply.iter().position(|byte| *byte == 0).unwrap();
        assert_eq!(*generation.get_or_insert(reply[..end].to_vec()), reply[..end]);
        let part = &reply[end + 1..];
        if part == b"\0" || part.ends_with(b"\0\0") {
            list.extend_from_slice(&part[..part.len() - 1]);
            break;
        }
        list.extend_from_slice(part);
    }
    let expected: Vec<u8> = names.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect();
    assert_eq!(list, expected);
    let behind = call(&mut s, 1, 0, T::DIRECTORY_PART, b"/big\x00999999\0").unwrap();
    assert_eq!(behind, [generation.clone().unwrap(), b"\0\0".to_vec()].concat());
    s.write(b"/big/new", b"").unwrap();
    let reply = call(&mut s, 1, 0, T::DIRECTORY_PART, b"/big\x000\0").unwrap();
    assert!(!reply.starts_with(&[generation.unwrap(), vec![0]].concat()));
    for bad in [&b"/big\0"[..], b"/big\0-1\0", b"/big\x001\x002\0", b"/big\0x\0"] {
        assert_eq!(call(&mut s, 1, 0, T::DIRECTORY_PART, bad), error("EINVAL"));
    }
}

#[test]
fn permissions() {
    let mut s = new();
    assert_eq!(call(&mut s, 3, 0, T::GET_PERMS, b"memory\0"), Ok(b"n0\0r3\0".to_vec()));
    assert_eq!(call(&mut s, 3, 0, T::WRITE, b"data/a\x001"), ok());
    assert_eq!(call(&mut s, 3, 0, T::GET_PERMS, b"data/a\0"), Ok(b"n3\0".to_vec()));
    let mine = b"/local/domain/3/data/a\0";
    assert_eq!(call(&mut s, 4, 0, T::READ, mine), error("EACCES"));
    assert_eq!(call(&mut s, 4, 0, T::READ, b"/local/domain/3/data/none\0"), error("EACCES"));
    assert_eq!(call(&mut s, 3, 0, T::SET_PERMS, b"data/a\0n3\0r4\0"), ok());
    assert_eq!(call(&mut s, 4, 0, T::READ, mine), Ok(b"1".to_vec()));
    assert_eq!(call(&mut s, 4, 0, T::WRITE, b"/local/domain/3/data/a\x002"), error("EACCES"));
    assert_eq!(call(&mut s, 4, 0, T::SET_PERMS, b"/local/domain/3/data/a\0b4\0"), error("EACCES"));
    assert_eq!(call(&mut s, 3, 0, T::SET_PERMS, b"data/a\0n3\0b4\0"), ok());
    // A child belongs to who makes it, in a node of somebody else.
    assert_eq!(call(&mut s, 4, 0, T::WRITE, b"/local/domain/3/data/a/b\0x"), ok());
    assert_eq!(call(&mut s, 4, 0, T::GET_PERMS, b"/local/domain/3/data/a/b\0"), Ok(b"n4\0b4\0".to_vec()));
    assert_eq!(call(&mut s, 3, 0, T::READ, b"data/a/b\0"), error("EACCES"));
    assert_eq!(call(&mut s, 3, 0, T::SET_PERMS, b"data/a\0n4\0"), error("EPERM"));
    assert_eq!(call(&mut s, 3, 0, T::SET_PERMS, b"data/a\0n99\0"), error("ENOENT"));
    for bad in [&b"data/a\0"[..], b"data/a\0x3\0", b"data/a\0\0", b"", b"data/a\0n3"] {
        assert_eq!(call(&mut s, 3, 0, T::SET_PERMS, bad), error("EINVAL"), "{}", bad.escape_ascii());
    }
    assert_eq!(call(&mut s, 3, 0, T::SET_PERMS, b"data/a\0n3\0r4\0r4\0r4\0r4\0"), ok());
    assert_eq!(call(&mut s, 3, 0, T::SET_PERMS, b"data/a\0n3\0r4\0r4\0r4\0r4\0r4\0"), error("ENOSPC"));
    // The owner removes even what it may not read.
    assert_eq!(call(&mut s, 3, 0, T::RM, b"data/a\0"), ok());
    assert_eq!(s.usage(DomId(4)).nodes, 3);
    s.check().unwrap();
}

#[test]
fn what_a_domain_may_not_do() {
    let mut s = new();
    for path in ["memory/target", "/tool", "/local/domain/4/data/x", "/local/domain/9", "name"] {
        let payload = format!("{path}\0x");
        assert_eq!(call(&mut s, 3, 0, T::WRITE, payload.as_bytes()), error("EACCES"), "{path}");
    }
    for type_ in [T::CONTROL, T::INTRODUCE, T::RELEASE, T::IS_DOMAIN_INTRODUCED, T::RESUME, T::SET_TARGET] {
        assert_eq!(call(&mut s, 3, 0, type_, b"4\x001\x001\0"), error("EACCES"), "{}", type_.0);
    }
    for type_ in [T::WATCH_EVENT, T::ERROR, T(20), T(23), T::INVALID, T(u32::MAX)] {
        assert_eq!(call(&mut s, 3, 0, type_, b"x\0"), error("ENOSYS"), "{}", type_.0);
    }
    s.check().unwrap();
}

#[test]
fn watches() {
    let mut s = new();
    let watch = |s: &mut Server, payload: &[u8]| ask(s, 3, 0, T::WATCH, payload);
    assert_eq!(watch(&mut s, b"data\0rel\0"), (ok(), vec![pair("data", "rel")]));
    assert_eq!(watch(&mut s, b"/local/domain/3/data\0abs\0"), (ok(), vec![pair("/local/domain/3/data", "abs")]));
    assert_eq!(watch(&mut s, b"data/a/b\0deep\0"), (ok(), vec![pair("data/a/b", "deep")]));
    assert_eq!(watch(&mut s, b"/local/domain/3/data\0rel\0").0, error("EEXIST"));
    let (reply, mut fired) = ask(&mut s, 3, 0, T::WRITE, b"data/a/b/c\0x");
    fired.sort();
    let expected = [pair("/local/domain/3/data/a/b/c", "abs"), pair("data/a/b/c", "deep"), pair("data/a/b/c", "rel")];
    assert_eq!((reply, fired), (ok(), expected.to_vec()));
    // Reading, and making what is there, fire nothing.
    assert_eq!(ask(&mut s, 3, 0, T::READ, b"data/a\0").1, []);
    assert_eq!(ask(&mut s, 3, 0, T::MKDIR, b"data/a\0").1, []);
    // A node removed with its parent fires only watches of itself.
    let mut fired = ask(&mut s, 3, 0, T::RM, b"data/a\0").1;
    fired.sort();
    assert_eq!(fired, [pair("/local/domain/3/data/a", "abs"), pair("data/a", "rel"), pair("data/a/b", "deep")]);
    assert_eq!(call(&mut s, 3, 0, T::UNWATCH, b"data\0other\0"), error("ENOENT"));
    assert_eq!(call(&mut s, 3, 0, T::UNWATCH, b"/local/domain/3/data\0rel\0"), ok());
    assert_eq!(ask(&mut s, 3, 0, T::MKDIR, b"data/a\0").1, [pair("/local/domain/3/data/a", "abs")]);
    assert_eq!(ask(&mut s, 3, 0, T::SET_PERMS, b"data/a\0r3\0").1, [pair("/local/domain/3/data/a", "abs")]);
    for bad in [&b"data\0"[..], b"", b"data\0t\0x\0", b"data/\0t\0", b"\0t\0"] {
        assert_eq!(call(&mut s, 3, 0, T::WATCH, bad), error("EINVAL"), "{}", bad.escape_ascii());
    }
    assert_eq!(call(&mut s, 3, 0, T::RESET_WATCHES, b"\0"), ok());
    assert_eq!(s.usage(DomId(3)).watches, 0);
    assert_eq!(ask(&mut s, 3, 0, T::MKDIR, b"data/q\0").1, []);
    s.check().unwrap();
}

#[test]
fn watches_need_the_right_to_read() {
    let mut s = new();
    assert_eq!(call(&mut s, 4, 0, T::WATCH, b"/local/domain/3\0t\0"), ok());
    assert_eq!(call(&mut s, 4, 0, T::WATCH, b"/\0root\0"), ok());
    assert_eq!(call(&mut s, 3, 0, T::WRITE, b"data/a\x001"), ok());
    assert_eq!(events(&mut s, 4), []);
    // Who loses the right is told once more; so is who could read what is removed.
    assert_eq!(call(&mut s, 3, 0, T::SET_PERMS, b"data/a\0n3\0r4\0"), ok());
    assert_eq!(events(&mut s, 4).len(), 2);
    assert_eq!(call(&mut s, 3, 0, T::SET_PERMS, b"data/a\0n3\0"), ok());
    assert_eq!(events(&mut s, 4).len(), 2);
    assert_eq!(call(&mut s, 3, 0, T::WRITE, b"data/a\x002"), ok());
    assert_eq!(events(&mut s, 4), []);
    assert_eq!(call(&mut s, 3, 0, T::SET_PERMS, b"data/a\0r3\0"), ok());
    events(&mut s, 4);
    assert_eq!(call(&mut s, 3, 0, T::RM, b"data/a\0"), ok());
    assert_eq!(events(&mut s, 4).len(), 2);
}

#[test]
fn equal_events_are_sent_once_until_read() {
    let mut s = new();
    call(&mut s, 3, 0, T::WATCH, b"memory/target\0t\0").unwrap();
    for target in 0..50 {
        s.write(b"/local/domain/3/memory/target", format!("{target}").as_bytes()).unwrap();
    }
    assert_eq!(s.usage(DomId(3)).events, 1);
    // Half an event is out: a further change needs a further event.
    assert_eq!(s.output(DomId(3), &mut [0; 5]), 5);
    s.write(b"/local/domain/3/memory/target", b"last").unwrap();
    assert_eq!(s.usage(DomId(3)).events, 2);
    s.check().unwrap();
}

#[test]
fn transactions_are_isolated() {
    let mut s = new();
    call(&mut s, 3, 0, T::WRITE, b"data/a\x001").unwrap();
    call(&mut s, 3, 0, T::WATCH, b"data\0w\0").unwrap();
    let tx = start(&mut s, 3);
    assert_eq!(ask(&mut s, 3, tx, T::WRITE, b"data/a\x002"), (ok(), vec![]));
    assert_eq!(ask(&mut s, 3, tx, T::WRITE, b"data/new/deep\0x"), (ok(), vec![]));
    assert_eq!(ask(&mut s, 3, tx, T::MKDIR, b"data/gone\0"), (ok(), vec![]));
    assert_eq!(ask(&mut s, 3, tx, T::RM, b"data/gone\0"), (ok(), vec![]));
    assert_eq!(call(&mut s, 3, tx, T::READ, b"data/a\0"), Ok(b"2".to_vec()));
    assert_eq!(call(&mut s, 3, 0, T::READ, b"data/a\0"), Ok(b"1".to_vec()));
    assert_eq!(call(&mut s, 3, 0, T::DIRECTORY, b"data\0"), Ok(b"a\0".to_vec()));
    assert_eq!(call(&mut s, 3, tx, T::DIRECTORY, b"data\0"), Ok(b"a\0new\0".to_vec()));
    s.check().unwrap();
    let fired = vec![pair("data/a", "w"), pair("data/new/deep", "w")];
    assert_eq!(ask(&mut s, 3, tx, T::TRANSACTION_END, b"T\0"), (ok(), fired));
    assert_eq!(call(&mut s, 3, 0, T::READ, b"data/a\0"), Ok(b"2".to_vec()));
    assert_eq!(call(&mut s, 3, tx, T::READ, b"data/a\0"), error("ENOENT"));
    assert_eq!(call(&mut s, 3, tx, T::TRANSACTION_END, b"T\0"), error("ENOENT"));
    assert_eq!(call(&mut s, 3, 0, T::TRANSACTION_END, b"T\0"), error("ENOENT"));
    s.check().unwrap();
}

#[test]
fn transactions_conflict() {
    let mut s = new();
    call(&mut s, 3, 0, T::WRITE, b"data/a\x001").unwrap();
    call(&mut s, 3, 0, T::WRITE, b"data/b\x001").unwrap();
    // What was read has changed; reads stay as they were.
    let tx = start(&mut s, 3);
    assert_eq!(call(&mut s, 3, tx, T::READ, b"data/a\0"), Ok(b"1".to_vec()));
    call(&mut s, 3, 0, T::WRITE, b"data/a\x009").unwrap();
    assert_eq!(call(&mut s, 3, tx, T::READ, b"data/a\0"), Ok(b"1".to_vec()));
    call(&mut s, 3, tx, T::WRITE, b"data/b\x002").unwrap();
    assert_eq!(call(&mut s, 3, tx, T::TRANSACTION_END, b"T\0"), error("EAGAIN"));
    assert_eq!(call(&mut s, 3, 0, T::READ, b"data/b\0"), Ok(b"1".to_vec()));
    // Others' changes elsewhere do not matter; an end without commit always works.
    let tx = start(&mut s, 3);
    call(&mut s, 3, tx, T::WRITE, b"data/a\x002").unwrap();
    call(&mut s, 4, 0, T::WRITE, b"data/a\x002").unwrap();
    assert_eq!(call(&mut s, 3, tx, T::TRANSACTION_END, b"T\0"), ok());
    let tx = start(&mut s, 3);
    call(&mut s, 3, tx, T::WRITE, b"data/a\x003").unwrap();
    assert_eq!(call(&mut s, 3, tx, T::TRANSACTION_START, b"\0"), error("EBUSY"));
    assert_eq!(call(&mut s, 3, tx, T::TRANSACTION_END, b"x\0"), error("EINVAL"));
    assert_eq!(call(&mut s, 3, tx, T::TRANSACTION_END, b"F\0"), ok());
    assert_eq!(call(&mut s, 3, 0, T::READ, b"data/a\0"), Ok(b"2".to_vec()));
    // A name that was absent and is there now; a node removed with a child that somebody adds.
    let tx = start(&mut s, 3);
    assert_eq!(call(&mut s, 3, tx, T::READ, b"data/c\0"), error("ENOENT"));
    let other = start(&mut s, 3);
    call(&mut s, 3, other, T::RM, b"data/a\0").unwrap();
    call(&mut s, 3, 0, T::WRITE, b"data/c\0").unwrap();
    call(&mut s, 3, 0, T::WRITE, b"data/a/child\0").unwrap();
    assert_eq!(call(&mut s, 3, tx, T::TRANSACTION_END, b"T\0"), error("EAGAIN"));
    assert_eq!(call(&mut s, 3, other, T::TRANSACTION_END, b"T\0"), error("EAGAIN"));
    assert_eq!(s.usage(DomId(3)).transactions, 0);
    s.check().unwrap();
}

#[test]
fn domains_come_and_go() {
    let mut s = with_privileged();
    s.watch(b"@introduceDomain", b"in").unwrap();
    s.watch(b"@releaseDomain", b"out").unwrap();
    while s.take_event().is_some() {}
    assert_eq!(call(&mut s, 1, 0, T::WATCH, b"@releaseDomain\0r\0"), ok());
    // An unprivileged domain may set the watch, and hears something only if it is allowed to read.
    assert_eq!(ask(&mut s, 3, 0, T::WATCH, b"@introduceDomain\0mine\0").1, [pair("@introduceDomain", "mine")]);
    assert_eq!(call(&mut s, 1, 0, T::INTRODUCE, b"8\x001044476\x002\0"), ok());
    assert_eq!(s.take_notice(), Some(Notice::Introduced { domain: DomId(8), gfn: 1044476, port: 2 }));
    assert_eq!(s.take_event().unwrap().path, b"@introduceDomain");
    assert_eq!(events(&mut s, 3), []);
    s.set_permissions(b"@introduceDomain", &Permission::readable_by(CONTROL, DomId(3))).unwrap();
    assert_eq!(events(&mut s, 3), [pair("@introduceDomain", "mine")], "the change of permissions itself");
    while s.take_event().is_some() {}
    assert_eq!(call(&mut s, 1, 0, T::IS_DOMAIN_INTRODUCED, b"8\0"), Ok(b"T\0".to_vec()));
    assert_eq!(call(&mut s, 1, 0, T::IS_DOMAIN_INTRODUCED, b"9\0"), Ok(b"F\0".to_vec()));
    s.introduce(DomId(9), false).unwrap();
    assert_eq!(events(&mut s, 3), [pair("@introduceDomain", "mine")]);
    assert_eq!(call(&mut s, 3, 0, T::GET_DOMAIN_PATH, b"9\0"), Ok(b"/local/domain/9\0".to_vec()));
    assert_eq!(call(&mut s, 3, 0, T::GET_DOMAIN_PATH, b"x\0"), error("EINVAL"));
    // Gone down once; again only after it was resumed.
    events(&mut s, 1);
    s.domain_down(DomId(9)).unwrap();
    s.domain_down(DomId(9)).unwrap();
    assert_eq!(events(&mut s, 1), [pair("@releaseDomain", "r")]);
    assert_eq!(call(&mut s, 1, 0, T::RESUME, b"9\0"), ok());
    s.domain_down(DomId(9)).unwrap();
    assert_eq!(events(&mut s, 1), [pair("@releaseDomain", "r")]);
    assert_eq!(ask(&mut s, 1, 0, T::RELEASE, b"9\0"), (ok(), vec![pair("@releaseDomain", "r")]));
    s.take_notice().unwrap();
    assert_eq!(call(&mut s, 1, 0, T::RELEASE, b"9\0"), error("ENOENT"));
    assert_eq!(call(&mut s, 1, 0, T::RESUME, b"9\0"), error("ENOENT"));
    assert_eq!(call(&mut s, 1, 0, T::RELEASE, b"0\0"), error("EINVAL"));
    assert_eq!(call(&mut s, 1, 0, T::RELEASE, b"1\0"), error("EINVAL"));
    for bad in [&b"8\x001\0"[..], b"8\x001\x000\0", b"40000\x001\x001\0", b"0\x001\x001\0", b"x\x001\x001\0"] {
        assert_eq!(call(&mut s, 1, 0, T::INTRODUCE, bad), error("EINVAL"), "{}", bad.escape_ascii());
    }
    s.check().unwrap();
}

#[test]
fn a_released_domain_leaves_nothing() {
    let mut s = new();
    call(&mut s, 3, 0, T::WRITE, b"data/a/b\x001").unwrap();
    call(&mut s, 3, 0, T::WATCH, b"data\0t\0").unwrap();
    start(&mut s, 3);
    call(&mut s, 4, 0, T::WRITE, b"data/shared\0v").unwrap();
    call(&mut s, 4, 0, T::SET_PERMS, b"data/shared\0n4\0r3\0").unwrap();
    call(&mut s, 3, 0, T::READ, b"/local/domain/4/data/shared\0").unwrap();
    let tx = start(&mut s, 4);
    call(&mut s, 4, tx, T::WRITE, b"data/x\0").unwrap();
    call(&mut s, 4, tx, T::SET_PERMS, b"data/x\0n4\0r3\0").unwrap();
    s.release(DomId(3)).unwrap();
    s.check().unwrap();
    assert_eq!(s.input(DomId(3), b"x"), Err(Broken::Unknown));
    assert_eq!(s.usage(DomId(3)), Default::default());
    assert!(s.read(b"/local/domain/3/data").is_err());
    assert!(s.read(b"/local/domain/3/memory").is_ok(), "what is the control domain's stays");
    assert_eq!(call(&mut s, 4, tx, T::TRANSACTION_END, b"T\0"), error("EAGAIN"));
    // A later domain of the same number has none of its rights, and a grant ahead of time is worth nothing.
    call(&mut s, 4, 0, T::WRITE, b"data/ahead\0v").unwrap();
    call(&mut s, 4, 0, T::SET_PERMS, b"data/ahead\0n4\0r3\0").unwrap();
    s.introduce(DomId(3), false).unwrap();
    assert_eq!(call(&mut s, 3, 0, T::READ, b"/local/domain/4/data/shared\0"), error("EACCES"));
    assert_eq!(call(&mut s, 3, 0, T::READ, b"/local/domain/4/data/ahead\0"), error("EACCES"));
    assert_eq!(s.release(CONTROL), Err(shared_abi::Errno::EINVAL));
    s.check().unwrap();
}

#[test]
fn a_target_gives_its_rights() {
    let mut s = with_privileged();
    assert_eq!(call(&mut s, 3, 0, T::WRITE, b"/local/domain/4/data/x\0v"), error("EACCES"));
    assert_eq!(call(&mut s, 1, 0, T::SET_TARGET, b"3\x004\0"), ok());
    assert_eq!(call(&mut s, 3, 0, T::WRITE, b"/local/domain/4/data/x\0v"), ok());
    assert_eq!(call(&mut s, 3, 0, T::READ, b"/local/domain/4/memory\0"), Ok(vec![]));
    assert_eq!(call(&mut s, 1, 0, T::SET_TARGET, b"3\x0099\0"), error("ENOENT"));
    s.release(DomId(4)).unwrap();
    assert_eq!(call(&mut s, 3, 0, T::READ, b"/local/domain/4/memory\0"), error("EACCES"));
}

#[test]
fn control_answers_the_privileged() {
    let mut s = with_privileged();
    assert_eq!(call(&mut s, 1, 0, T::CONTROL, b"help\0"), Ok(b"commands: check help\0".to_vec()));
    assert_eq!(call(&mut s, 1, 0, T::CONTROL, b"check\0"), ok());
    assert_eq!(call(&mut s, 1, 0, T::CONTROL, b"log\0on\0"), error("EINVAL"));
}

#[test]
fn a_long_payload_ends_the_connection() {
    let mut s = new();
    call(&mut s, 3, 0, T::WATCH, b"data\0t\0").unwrap();
    let mut request = bytes(T::READ, 1, 0, b"");
    request[12..16].copy_from_slice(&4097u32.to_le_bytes());
    assert_eq!(s.input(DomId(3), &request), Err(Broken::Protocol));
    assert_eq!(s.input(DomId(3), &bytes(T::READ, 1, 0, b"data\0")), Err(Broken::Protocol));
    assert!(!s.accepts_input(DomId(3)));
    assert_eq!(call(&mut s, 4, 0, T::READ, b"data\0"), Ok(vec![]));
    s.reconnect(DomId(3)).unwrap();
    assert_eq!(s.usage(DomId(3)).watches, 0);
    assert_eq!(call(&mut s, 3, 0, T::READ, b"data\0"), Ok(vec![]));
    // The longest payload that is allowed, in pieces.
    let path = b"data/long\0";
    let longest = bytes(T::WRITE, 7, 0, &[&path[..], &vec![b'v'; 4096 - path.len()]].concat());
    for piece in longest.chunks(1000) {
        assert_eq!(s.input(DomId(3), piece), Ok(piece.len()));
    }
    let reply = drain(&mut s, 3);
    assert_eq!((reply[0].type_, &reply[0].payload[..]), (T::ERROR.0, &b"ENOSPC\0"[..]));
    s.check().unwrap();
}

#[test]
fn who_does_not_read_is_not_read_from() {
    let quotas = Quotas { replies: 3, ..Quotas::default() };
    let mut s = server(quotas, &[3, 4]);
    let request = bytes(T::READ, 7, 0, b"data\0");
    let two = [request.clone(), request.clone()].concat();
    // One request a call.
    assert_eq!(s.input(DomId(3), &two), Ok(request.len()));
    for _ in 0..2 {
        assert_eq!(s.input(DomId(3), &request), Ok(request.len()));
    }
    assert!(!s.accepts_input(DomId(3)));
    assert_eq!(s.input(DomId(3), &request), Ok(0));
    assert_eq!(call(&mut s, 4, 0, T::READ, b"data\0"), Ok(vec![]));
    assert_eq!(s.output(DomId(3), &mut [0; 16]), 16);
    assert!(s.accepts_input(DomId(3)));
    assert_eq!(s.take_ready(), Some(DomId(3)));
    assert_eq!(s.take_ready(), Some(DomId(4)));
    assert_eq!(s.take_ready(), None);
}

#[test]
fn events_without_room_are_merged_not_lost() {
    let quotas = Quotas { events: 4, ..Quotas::default() };
    let mut s = server(quotas, &[3]);
    call(&mut s, 3, 0, T::WATCH, b"memory\0m\0").unwrap();
    call(&mut s, 3, 0, T::WATCH, b"cpu\0c\0").unwrap();
    for index in 0..20 {
        s.write(format!("/local/domain/3/memory/n{index}").as_bytes(), b"").unwrap();
    }
    s.write(b"/local/domain/3/cpu/0", b"offline").unwrap();
    assert_eq!(s.usage(DomId(3)).events, 4);
    let fired = events(&mut s, 3);
    let expected = ["memory/n0", "memory/n1", "memory/n2", "memory/n3", "cpu", "memory"];
    assert_eq!(fired.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), expected);
    s.check().unwrap();
}

#[test]
fn quotas_hold_exactly() {
    let quotas =
        Quotas { nodes: 10, node_size: 200, watches: 3, transactions: 2, transaction_nodes: 8, ..Quotas::default() };
    let mut s = server(quotas, &[3]);
    let own = s.usage(DomId(3)).nodes;
    assert_eq!(own, 3);
    for index in own..10 {
        assert_eq!(call(&mut s, 3, 0, T::MKDIR, format!("data/{index}\0").as_bytes()), ok());
    }
    assert_eq!(call(&mut s, 3, 0, T::MKDIR, b"data/more\0"), error("ENOSPC"));
    assert_eq!(call(&mut s, 3, 0, T::RM, b"data/9\0"), ok());
    assert_eq!(call(&mut s, 3, 0, T::MKDIR, b"data/x/y\0"), error("ENOSPC"));
    let tx = start(&mut s, 3);
    assert_eq!(call(&mut s, 3, tx, T::MKDIR, b"data/x\0"), ok());
    assert_eq!(call(&mut s, 3, tx, T::MKDIR, b"data/y\0"), error("ENOSPC"));
    assert_eq!(call(&mut s, 3, 0, T::MKDIR, b"control/z\0"), ok());
    assert_eq!(call(&mut s, 3, tx, T::TRANSACTION_END, b"T\0"), error("ENOSPC"));
    assert_eq!(s.usage(DomId(3)).nodes, 10);
    // 16 and one permission of 8 leave 176.
    let write = |length: usize| [&b"data/3\0"[..], &vec![b'v'; length]].concat();
    assert_eq!(call(&mut s, 3, 0, T::WRITE, &write(176)), ok());
    assert_eq!(call(&mut s, 3, 0, T::WRITE, &write(177)), error("ENOSPC"));
    for token in ["a", "b", "c"] {
        assert_eq!(call(&mut s, 3, 0, T::WATCH, format!("data\0{token}\0").as_bytes()), ok());
    }
    assert_eq!(call(&mut s, 3, 0, T::WATCH, b"data\0d\0"), error("E2BIG"));
    let (one, _) = (start(&mut s, 3), start(&mut s, 3));
    assert_eq!(call(&mut s, 3, 0, T::TRANSACTION_START, b"\0"), error("ENOSPC"));
    for index in 3..9 {
        call(&mut s, 3, one, T::READ, format!("data/{index}\0").as_bytes()).unwrap();
    }
    assert_eq!(call(&mut s, 3, one, T::READ, b"data\0"), Ok(vec![]));
    assert_eq!(call(&mut s, 3, one, T::READ, b"control\0"), Ok(vec![]));
    assert_eq!(call(&mut s, 3, one, T::READ, b"device\0"), error("ENOSPC"));
    assert_eq!(call(&mut s, 3, one, T::TRANSACTION_END, b"T\0"), error("ENOMEM"));
    s.check().unwrap();
}

#[test]
fn memory_is_bounded() {
    let quotas = Quotas { memory: 20_000, ..Quotas::default() };
    let mut s = server(quotas, &[3]);
    let mut made = 0;
    loop {
        let payload = [format!("data/{made}\0").as_bytes(), &vec![b'v'; 1000]].concat();
        match call(&mut s, 3, 0, T::WRITE, &payload) {
            Ok(_) => made += 1,
            Err(name) => break assert_eq!(name, "ENOMEM"),
        }
    }
    assert!((15..20).contains(&made), "{made}");
    assert!(s.usage(DomId(3)).node_memory <= 20_000);
    // A transaction holds what it read, and is charged for it.
    let tx = start(&mut s, 3);
    let results: Vec<_> =
        (0..made).map(|index| call(&mut s, 3, tx, T::READ, format!("data/{index}\0").as_bytes())).collect();
    assert_eq!(results.last().unwrap(), &error("ENOMEM"));
    assert!(s.usage(DomId(3)).client_memory <= 20_000);
    assert_eq!(call(&mut s, 3, tx, T::TRANSACTION_END, b"T\0"), error("ENOMEM"));
    assert_eq!(s.usage(DomId(3)).client_memory, 0);
    let mut watches = 0;
    while call(&mut s, 3, 0, T::WATCH, format!("data\0{}{watches}\0", "t".repeat(1000)).as_bytes()).is_ok() {
        watches += 1;
    }
    assert!(watches < 20);
    s.check().unwrap();
}

#[test]
fn the_holder_s_own_calls() {
    let mut s = new();
    s.watch(b"/local/domain", b"all").unwrap();
    assert_eq!(s.take_event().unwrap().path, b"/local/domain");
    call(&mut s, 3, 0, T::WRITE, b"data/report\x0017").unwrap();
    let event = s.take_event().unwrap();
    assert_eq!((&event.path[..], &event.token[..]), (&b"/local/domain/3/data/report"[..], &b"all"[..]));
    assert_eq!(s.take_event(), None);
    assert_eq!(s.read(&event.path).unwrap(), b"17");
    assert_eq!(s.list(b"/local/domain/3").unwrap(), [&b"memory"[..], b"cpu", b"control", b"device", b"data"]);
    let permissions = [Permission::new(DomId(3), Access::READ)];
    s.write_for(b"/local/domain/3/vm", b"/vm/3", &permissions).unwrap();
    assert_eq!(s.take_event().unwrap().path, b"/local/domain/3/vm");
    assert_eq!(s.take_event(), None);
    assert_eq!(s.permissions(b"/local/domain/3/vm").unwrap(), permissions);
    s.unwatch(b"/local/domain", b"all").unwrap();
    s.remove(b"/local/domain/3").unwrap();
    assert_eq!(s.take_event(), None);
    assert_eq!(s.usage(DomId(3)).nodes, 0);
    assert_eq!(s.domains().collect::<Vec<_>>(), [DomId(3), DomId(4)]);
    s.check().unwrap();
}
