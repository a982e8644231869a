//! The tree as simply as possible: every node a value in a map, no log, no accounts, no sharing.

use std::collections::BTreeMap;

use shared_abi::io::xs_wire::MessageType;

use super::CONTROL;

/// A request about a node.
#[derive(Clone, Debug)]
pub enum Op {
    Read(String),
    Directory(String),
    GetPerms(String),
    Write(String, Vec<u8>),
    Mkdir(String),
    Rm(String),
    SetPerms(String, Vec<(char, u16)>),
}

impl Op {
    /// As on the wire.
    pub fn request(&self) -> (MessageType, Vec<u8>) {
        let one = |path: &String| [path.as_bytes(), b"\0"].concat();
        match self {
            Op::Read(path) => (MessageType::READ, one(path)),
            Op::Directory(path) => (MessageType::DIRECTORY, one(path)),
            Op::GetPerms(path) => (MessageType::GET_PERMS, one(path)),
            Op::Write(path, value) => (MessageType::WRITE, [&one(path), &value[..]].concat()),
            Op::Mkdir(path) => (MessageType::MKDIR, one(path)),
            Op::Rm(path) => (MessageType::RM, one(path)),
            Op::SetPerms(path, list) => (MessageType::SET_PERMS, [one(path), print(list)].concat()),
        }
    }
}

fn print(list: &[(char, u16)]) -> Vec<u8> {
    list.iter().flat_map(|(kind, domain)| format!("{kind}{domain}\0").into_bytes()).collect()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub value: Vec<u8>,
    pub children: Vec<String>,
    pub permissions: Vec<(char, u16)>,
}

/// The tree. Paths in it are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    pub nodes: BTreeMap<String, Node>,
}

pub type Reply = Result<Vec<u8>, String>;

fn parent(path: &str) -> String {
    match path.rfind('/') {
        Some(0) | None => "/".into(),
        Some(slash) => path[..slash].into(),
    }
}

impl Model {
    pub fn new() -> Model {
        let root = Node { value: vec![], children: vec![], permissions: vec![('n', CONTROL.0)] };
        Model { nodes: BTreeMap::from([("/".into(), root)]) }
    }

    fn may(&self, caller: u16, path: &str, kinds: &str, own: bool) -> bool {
        let list = &self.nodes[path].permissions;
        if caller == CONTROL.0 || list[0].1 == caller {
            return true;
        }
        let entry = list[1..].iter().find(|entry| entry.1 == caller).unwrap_or(&list[0]);
        !own && kinds.contains(entry.0)
    }

    fn failure(&self, caller: u16, path: &str, kinds: &str, error: &str) -> String {
        let mut above = parent(path);
        while !self.nodes.contains_key(&above) {
            above = parent(&above);
        }
        if self.may(caller, &above, kinds, false) { error.into() } else { "EACCES".into() }
    }

    fn check(&self, caller: u16, path: &str, kinds: &str, own: bool) -> Result<(), String> {
        if !self.nodes.contains_key(path) {
            return Err(self.failure(caller, path, kinds, "ENOENT"));
        }
        if self.may(caller, path, kinds, own) { Ok(()) } else { Err("EACCES".into()) }
    }

    fn create(&mut self, caller: u16, path: &str) {
        let above = parent(path);
        if !self.nodes.contains_key(&above) {
            self.create(caller, &above);
        }
        let name = path[path.rfind('/').unwrap() + 1..].to_string();
        let above = self.nodes.get_mut(&above).unwrap();
        above.children.push(name);
        let mut permissions = above.permissions.clone();
        if caller != CONTROL.0 {
            permissions[0].1 = caller;
        }
        self.nodes.insert(path.into(), Node { value: vec![], children: vec![], permissions });
    }

    /// The reply, and the path that watches are to see.
    pub fn apply(&mut self, caller: u16, op: &Op) -> (Reply, Option<String>) {
        let absolute =
            |path: &String| if path.starts_with('/') { path.clone() } else { format!("/local/domain/{caller}/{path}") };
        let result = match op {
            Op::Read(path) => {
                let path = absolute(path);
                self.check(caller, &path, "rb", false).map(|()| (self.nodes[&path].value.clone(), None))
            }
            Op::Directory(path) => {
                let path = absolute(path);
                let list = |model: &Model| {
                    model.nodes[&path].children.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()).collect()
                };
                self.check(caller, &path, "rb", false).map(|()| (list(self), None))
            }
            Op::GetPerms(path) => {
                let path = absolute(path);
                self.check(caller, &path, "rb", false).map(|()| (print(&self.nodes[&path].permissions), None))
            }
            Op::Write(path, value) => self.write(caller, absolute(path), Some(value)),
            Op::Mkdir(path) => self.write(caller, absolute(path), None),
            Op::Rm(path) => self.remove(caller, absolute(path)),
            Op::SetPerms(path, list) => {
                let path = absolute(path);
                self.check(caller, &path, "wb", true).and_then(|()| {
                    let node = self.nodes.get_mut(&path).unwrap();
                    if caller != CONTROL.0 && list[0].1 != node.permissions[0].1 {
                        return Err("EPERM".into());
                    }
                    node.permissions = list.clone();
                    Ok((b"OK\0".to_vec(), Some(path)))
                })
            }
        };
        match result {
            Ok((reply, changed)) => (Ok(reply), changed),
            Err(error) => (Err(error), None),
        }
    }

    fn write(
        &mut self,
        caller: u16,
        path: String,
        value: Option<&Vec<u8>>,
    ) -> Result<(Vec<u8>, Option<String>), String> {
        let absent = match self.check(caller, &path, "wb", false) {
            Err(error) if error == "ENOENT" => true,
            other => {
                other?;
                false
            }
        };
        if absent {
            self.create(caller, &path);
        }
        if let Some(value) = value {
            self.nodes.get_mut(&path).unwrap().value = value.clone();
        }
        Ok((b"OK\0".to_vec(), (absent || value.is_some()).then_some(path)))
    }

    fn remove(&mut self, caller: u16, path: String) -> Result<(Vec<u8>, Option<String>), String> {
        let above = parent(&path);
        match self.check(caller, &path, "wb", false) {
            Err(error) if error == "ENOENT" && self.nodes.contains_key(&above) => return Ok((b"OK\0".to_vec(), None)),
            other => other?,
        }
        if path == "/" {
            return Err("EINVAL".into());
        }
        let below = format!("{path}/");
        self.nodes.retain(|other, _| *other != path && !other.starts_with(&below));
        let name = &path[path.rfind('/').unwrap() + 1..];
        self.nodes.get_mut(&above).unwrap().children.retain(|child| child != name);
        Ok((b"OK\0".to_vec(), Some(path)))
    }
}
