//! The nodes that everyone sees, and what each domain's nodes cost.
//!
//! Nodes are in one ordered map by absolute path; a node also lists its children's names as DIRECTORY sends them, in
//! the order of their creation. Invariants ([`Store::check`]): a node's parent exists and lists it once, a listed child
//! exists, and the accounts are what a count of all nodes gives. Nodes are shared with transactions that looked at them
//! and copied when they change (`Arc::make_mut`).

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use shared_abi::Errno;
use shared_abi::xen::DomId;

use crate::path::{self, Path};
use crate::permissions::Permissions;
use crate::quotas::Quotas;

/// Bytes charged for a node besides its contents.
const NODE_OVERHEAD: usize = 128;

/// A node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The value; any bytes.
    pub(crate) value: Vec<u8>,
    /// The children's names, a NUL behind each.
    pub(crate) children: Vec<u8>,
    /// Who may do what.
    pub(crate) permissions: Permissions,
    /// Different for any two states of any two nodes.
    pub(crate) generation: u64,
}

impl Node {
    /// A node without children.
    pub(crate) fn new(value: &[u8], permissions: Permissions) -> Node {
        Node { value: value.to_vec(), children: Vec::new(), permissions, generation: 0 }
    }

    /// Its size in the sense of the quota.
    pub(crate) fn size(&self) -> usize {
        node_size(self.value.len(), self.children.len(), &self.permissions)
    }

    /// Bytes charged for it.
    pub(crate) fn memory(&self, path: &[u8]) -> usize {
        NODE_OVERHEAD + path.len() + self.size()
    }

    /// The children's names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.children.split(|byte| *byte == 0).filter(|name| !name.is_empty())
    }

    /// Lists a child.
    pub(crate) fn add_child(&mut self, name: &[u8]) {
        self.children.extend_from_slice(name);
        self.children.push(0);
    }

    /// Lists it no longer.
    pub(crate) fn remove_child(&mut self, name: &[u8]) {
        let mut start = 0;
        while start < self.children.len() {
            let length = self.children[start..].iter().take_while(|byte| **byte != 0).count();
            if &self.children[start..start + length] == name {
                self.children.drain(start..start + length + 1);
                return;
            }
            start += length + 1;
        }
    }
}

/// A node's size in the sense of the quota.
pub(crate) fn node_size(value: usize, children: usize, permissions: &Permissions) -> usize {
    16 + 8 * permissions.list().len() + value + children
}

/// What a domain's nodes cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) nodes: usize,
    pub(crate) memory: usize,
}

/// The nodes.
pub(crate) struct Store {
    nodes: BTreeMap<Path, Arc<Node>>,
    accounts: BTreeMap<DomId, Account>,
    generation: u64,
    /// Owner of the root, whose account nothing limits.
    owner: DomId,
}

impl Store {
    /// The root and the two special nodes, private to `owner`.
    pub(crate) fn new(owner: DomId) -> Store {
        let mut store = Store { nodes: BTreeMap::new(), accounts: BTreeMap::new(), generation: 0, owner };
        for path in [&b"/"[..], path::INTRODUCE_DOMAIN, path::RELEASE_DOMAIN] {
            store.set(&Path::trusted(path), Some(Arc::new(Node::new(b"", Permissions::private(owner)))));
        }
        store
    }

    /// A number not given before.
    pub(crate) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    pub(crate) fn get(&self, path: &[u8]) -> Option<&Arc<Node>> {
        self.nodes.get(path)
    }

    pub(crate) fn account(&self, domain: DomId) -> Account {
        self.accounts.get(&domain).copied().unwrap_or_default()
    }

    /// Whether a domain that owns `nodes` and `memory` more stays within the quotas: else ENOSPC or ENOMEM.
    pub(crate) fn check_account(
        &self,
        domain: DomId,
        nodes: isize,
        memory: isize,
        quotas: &Quotas,
    ) -> Result<(), Errno> {
        let account = self.account(domain);
        if domain == self.owner {
            return Ok(());
        }
        if nodes > 0 && account.nodes.saturating_add_signed(nodes) > quotas.nodes {
            return Err(Errno::ENOSPC);
        }
        if memory > 0 && account.memory.saturating_add_signed(memory) > quotas.memory {
            return Err(Errno::ENOMEM);
        }
        Ok(())
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&Path, &Arc<Node>)> {
        self.nodes.iter()
    }

    /// Makes, replaces or removes one node, without regard to its parent's list.
    pub(crate) fn set(&mut self, path: &Path, node: Option<Arc<Node>>) {
        let old = match node {
            Some(mut node) => {
                Arc::make_mut(&mut node).generation = self.next_generation();
                self.charge(&node, path);
                self.nodes.insert(path.clone(), node)
            }
            None => self.nodes.remove(path),
        };
        if let Some(old) = old {
            self.refund(&old, path);
        }
    }

    /// Changes one node in place; nothing happens when it is not there.
    pub(crate) fn change(&mut self, path: &[u8], change: impl FnOnce(&mut Node)) {
        let generation = self.next_generation();
        let Some(node) = self.nodes.get_mut(path) else { return };
        let node = Arc::make_mut(node);
        let before = (node.permissions.owner(), node.memory(path));
        change(node);
        node.generation = generation;
        let after = (node.permissions.owner(), node.memory(path));
        self.adjust(before.0, false, before.1);
        self.adjust(after.0, true, after.1);
    }

    fn charge(&mut self, node: &Node, path: &[u8]) {
        self.adjust(node.permissions.owner(), true, node.memory(path));
    }

    fn refund(&mut self, node: &Node, path: &[u8]) {
        self.adjust(node.permissions.owner(), false, node.memory(path));
    }

    /// One node of `memory` bytes more or less for `owner`. Accounts of nothing are not kept.
    fn adjust(&mut self, owner: DomId, more: bool, memory: usize) {
        let account = self.accounts.entry(owner).or_default();
        if more {
            account.nodes += 1;
            account.memory += memory;
        } else {
            account.nodes -= 1;
            account.memory -= memory;
        }
        if account.nodes == 0 {
            self.accounts.remove(&owner);
        }
    }

    /// The invariants above; the first thing found wrong. For tests and CONTROL check: looks at every node.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let mut accounts: BTreeMap<DomId, Account> = BTreeMap::new();
        let mut listed = 0;
        for (path, node) in &self.nodes {
            let account = accounts.entry(node.permissions.owner()).or_default();
            account.nodes += 1;
            account.memory += node.memory(path);
            if let Some(parent) = path::parent(path) {
                let parent = self.nodes.get(parent).ok_or("a node without a parent")?;
                if parent.names().filter(|name| *name == path::name(path)).count() != 1 {
                    return Err("a node that its parent does not list once");
                }
            }
            listed += node.names().count();
            if node.names().any(|name| !self.nodes.contains_key(&path.child(name))) {
                return Err("a child that does not exist");
            }
        }
        if listed + 3 != self.nodes.len() {
            return Err("children and nodes differ in number");
        }
        if accounts != self.accounts { Err("accounts are wrong") } else { Ok(()) }
    }
}
