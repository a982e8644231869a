//! The operations on the tree, as one caller sees it: in a transaction or not.
//!
//! Every operation checks everything before it changes anything. Only a transaction that meets its own limits stops
//! half-way, and such a transaction cannot be committed.

use alloc::sync::Arc;
use alloc::vec::Vec;
use shared_abi::Errno;

use crate::path::{self, Path};
use crate::permissions::{Access, Caller, Permission, Permissions};
use crate::quotas::Quotas;
use crate::store::{Node, Store, node_size};
use crate::transaction::{Change, Transaction};

/// A caller's view of the tree.
pub(crate) struct View<'a> {
    pub(crate) store: &'a mut Store,
    pub(crate) transaction: Option<&'a mut Transaction>,
    pub(crate) caller: Caller,
    pub(crate) quotas: &'a Quotas,
    /// Bytes the transaction may take.
    pub(crate) memory: usize,
    /// What was done outside of a transaction, to be announced.
    pub(crate) changes: Vec<Change>,
}

impl View<'_> {
    /// The quotas, when they hold for the caller.
    fn limits(&self) -> Option<&Quotas> {
        (!self.caller.privileged).then_some(self.quotas)
    }

    /// A path as the caller gave it, made absolute.
    pub(crate) fn path(&self, given: &[u8], special: bool) -> Result<Path, Errno> {
        path::canonical(given, self.caller.domain, special, self.limits(), self.quotas.depth)
    }

    /// A node as the caller sees it, whatever its rights.
    pub(crate) fn get(&mut self, path: &[u8]) -> Result<Option<Arc<Node>>, Errno> {
        let limit = (!self.caller.privileged).then_some((self.quotas, self.memory));
        match &mut self.transaction {
            Some(transaction) => transaction.get(self.store, path, limit),
            None => Ok(self.store.get(path).cloned()),
        }
    }

    /// Makes or removes a node.
    fn set(&mut self, path: &Path, node: Option<Node>) -> Result<(), Errno> {
        let limit = (!self.caller.privileged).then_some((self.quotas, self.memory));
        match &mut self.transaction {
            Some(transaction) => {
                let generation = self.store.next_generation();
                transaction.set(path, node, generation, limit)
            }
            None => {
                self.store.set(path, node.map(Arc::new));
                Ok(())
            }
        }
    }

    /// Changes a node that is there.
    fn change(&mut self, path: &Path, change: impl FnOnce(&mut Node)) -> Result<(), Errno> {
        if self.transaction.is_none() {
            self.store.change(path, change);
            return Ok(());
        }
        let mut node = Node::clone(&*self.get(path)?.ok_or(Errno::ENOENT)?);
        change(&mut node);
        self.set(path, Some(node))
    }

    fn announce(&mut self, path: &Path, exact: bool, before: [Option<Permissions>; 2]) {
        match &mut self.transaction {
            Some(transaction) => transaction.announce(path, exact),
            None => self.changes.push(Change { path: path.clone(), exact, before }),
        }
    }

    /// The nearest node above `path`, with its path.
    fn ancestor(&mut self, path: &[u8]) -> Result<Option<(Path, Arc<Node>)>, Errno> {
        let mut at = path;
        while let Some(parent) = path::parent(at) {
            if let Some(node) = self.get(parent)? {
                return Ok(Some((Path::trusted(parent), node)));
            }
            at = parent;
        }
        Ok(None)
    }

    /// `error`, unless the caller has no such right in the nearest node above: then it may not know and gets EACCES.
    fn error_for(&mut self, path: &[u8], error: Errno, wanted: Access) -> Result<Errno, Errno> {
        let known = match self.ancestor(path)? {
            Some((_, node)) => node.permissions.access(&self.caller).meets(wanted),
            None => self.get(path)?.is_some_and(|node| node.permissions.access(&self.caller).meets(wanted)),
        };
        Ok(if known { error } else { Errno::EACCES })
    }

    /// A node for which the caller has all the rights wanted.
    fn permitted(&mut self, path: &[u8], wanted: Access) -> Result<Arc<Node>, Errno> {
        let error = match self.get(path)? {
            Some(node) if node.permissions.access(&self.caller).covers(wanted) => return Ok(node),
            Some(_) => Errno::EACCES,
            None => Errno::ENOENT,
        };
        Err(self.error_for(path, error, wanted)?)
    }

    /// A node for reading.
    pub(crate) fn readable(&mut self, given: &[u8], special: bool) -> Result<Arc<Node>, Errno> {
        let path = self.path(given, special)?;
        self.permitted(&path, Access::READ)
    }

    /// WRITE: sets a value, makes the node and its parents when they are missing.
    pub(crate) fn write(&mut self, given: &[u8], value: &[u8]) -> Result<(), Errno> {
        let path = self.path(given, false)?;
        match self.permitted(&path, Access::WRITE) {
            Ok(node) => {
                let more = value.len().saturating_sub(node.value.len());
                self.check_growth(&node, node_size(value.len(), node.children.len(), &node.permissions), more)?;
                drop(node);
                self.change(&path, |node| {
                    node.value.clear();
                    node.value.extend_from_slice(value);
                })?;
            }
            Err(Errno::ENOENT) => self.create(&path, value)?,
            Err(error) => return Err(error),
        }
        self.announce(&path, false, [None, None]);
        Ok(())
    }

    /// MKDIR: makes a node unless it is there.
    pub(crate) fn make(&mut self, given: &[u8]) -> Result<(), Errno> {
        let path = self.path(given, false)?;
        match self.permitted(&path, Access::WRITE) {
            Ok(_) => Ok(()),
            Err(Errno::ENOENT) => {
                self.create(&path, b"")?;
                self.announce(&path, false, [None, None]);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a node may become `size` large, and its owner have `more` bytes.
    fn check_growth(&self, node: &Node, size: usize, more: usize) -> Result<(), Errno> {
        let Some(quotas) = self.limits() else { return Ok(()) };
        if size > quotas.node_size {
            return Err(Errno::ENOSPC);
        }
        // Inside a transaction, the owner's memory is checked at the commit.
        if self.transaction.is_some() {
            return Ok(());
        }
        self.store.check_account(node.permissions.owner(), 0, more as isize, quotas)
    }

    /// Makes a node and the parents it lacks; they inherit the permissions of the nearest node above, and belong to
    /// the caller if it is unprivileged.
    fn create(&mut self, path: &Path, value: &[u8]) -> Result<(), Errno> {
        let (above, parent) = self.ancestor(path)?.ok_or(Errno::EIO)?;
        let inherited = match self.caller.privileged {
            true => parent.permissions.clone(),
            false => parent.permissions.owned_by(self.caller.domain),
        };
        let start = if above.is_root() { 1 } else { above.len() + 1 };
        let names: Vec<&[u8]> = path[start..].split(|byte| *byte == b'/').collect();
        self.check_new(path, &parent, &names, value, &inherited)?;
        drop(parent);

        self.change(&above, |node| node.add_child(names[0]))?;
        let mut at = above;
        for (index, name) in names.iter().enumerate() {
            at = at.child(name);
            let mut node = Node::new(b"", inherited.clone());
            match names.get(index + 1) {
                Some(next) => node.add_child(next),
                None => node.value.extend_from_slice(value),
            }
            self.set(&at, Some(node))?;
        }
        Ok(())
    }

    /// The quotas for nodes to be made under `parent`.
    fn check_new(
        &self,
        path: &[u8],
        parent: &Node,
        names: &[&[u8]],
        value: &[u8],
        inherited: &Permissions,
    ) -> Result<(), Errno> {
        let Some(quotas) = self.limits() else { return Ok(()) };
        let before = self.transaction.as_ref().map_or(0, |transaction| transaction.owned(self.caller.domain));
        self.store.check_account(self.caller.domain, before + names.len() as isize, 0, quotas)?;
        let largest_name = names.iter().skip(1).map(|name| name.len() + 1).max().unwrap_or(0);
        if node_size(value.len().max(largest_name), 0, inherited) > quotas.node_size {
            return Err(Errno::ENOSPC);
        }
        let listed = names[0].len() + 1;
        self.check_growth(parent, parent.size() + listed, listed)?;
        let each = Node::new(b"", inherited.clone()).memory(path) + largest_name;
        let bytes = each * names.len() + value.len();
        if self.transaction.is_none() {
            self.store.check_account(self.caller.domain, 0, bytes as isize, quotas)?;
        }
        Ok(())
    }

    /// RM: removes a node and everything below it.
    pub(crate) fn remove(&mut self, given: &[u8]) -> Result<(), Errno> {
        let path = self.path(given, false)?;
        match self.permitted(&path, Access::WRITE) {
            Ok(_) if path.is_root() => Err(Errno::EINVAL),
            Ok(_) => self.remove_tree(&path),
            Err(Errno::ENOENT) => match path::parent(&path) {
                Some(parent) if self.get(parent)?.is_some() => Ok(()),
                _ => Err(Errno::ENOENT),
            },
            Err(error) => Err(error),
        }
    }

    /// Removes a node other than the root, and everything below it; children are announced before their parents.
    pub(crate) fn remove_tree(&mut self, top: &Path) -> Result<(), Errno> {
        let parent = Path::trusted(path::parent(top).ok_or(Errno::EINVAL)?);
        let above = self.get(&parent)?.map(|node| node.permissions.clone());
        let mut found = Vec::new();
        let mut wait = Vec::from([(top.clone(), above)]);
        while let Some((path, above)) = wait.pop() {
            let node = self.get(&path)?.ok_or(Errno::EIO)?;
            let permissions = Some(node.permissions.clone());
            wait.extend(node.names().map(|name| (path.child(name), permissions.clone())));
            found.push((path, [permissions, above]));
        }
        self.change(&parent, |node| node.remove_child(path::name(top)))?;
        for (path, before) in found.into_iter().rev() {
            self.set(&path, None)?;
            self.announce(&path, path != *top, before);
        }
        Ok(())
    }

    /// SET_PERMS.
    pub(crate) fn set_permissions(&mut self, given: &[u8], list: &[Permission]) -> Result<(), Errno> {
        if self.limits().is_some_and(|quotas| list.len() > quotas.permissions) {
            return Err(Errno::ENOSPC);
        }
        let permissions = Permissions::new(list)?;
        if permissions.list()[0].void {
            return Err(Errno::ENOENT);
        }
        let path = self.path(given, true)?;
        let node = self.permitted(&path, Access::WRITE.with(Access::OWN))?;
        if !self.caller.privileged && permissions.owner() != node.permissions.owner() {
            return Err(Errno::EPERM);
        }
        let size = node_size(node.value.len(), node.children.len(), &permissions);
        self.check_growth(&node, size, size.saturating_sub(node.size()))?;
        let before = node.permissions.clone();
        drop(node);
        self.change(&path, |node| node.permissions = permissions)?;
        self.announce(&path, false, [Some(before), None]);
        Ok(())
    }
}
