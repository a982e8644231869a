//! A transaction: a log of every node it looked at, as it found it, and of what it made of it.
//!
//! Nothing is copied when it starts. A node's first use notes the shared node itself, so that later uses see the same
//! state whatever others do; changes stay in the log. It can be committed when every node in the log still has the
//! generation (or the absence) it was found with: what the transaction saw is then what it would see if it ran alone at
//! that moment, so committed transactions are serialisable in the order of their commits.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use shared_abi::Errno;
use shared_abi::xen::DomId;

use crate::path::Path;
use crate::permissions::Permissions;
use crate::quotas::Quotas;
use crate::store::{Node, Store};

/// Bytes charged for an entry of the log besides the path and the nodes in it.
const ENTRY_OVERHEAD: usize = 192;
/// Bytes charged for a transaction.
pub(crate) const TRANSACTION_OVERHEAD: usize = 256;

/// Something that watches may want to know.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The node.
    pub(crate) path: Path,
    /// Only watches of this very path match: a node removed with its parent.
    pub(crate) exact: bool,
    /// Permissions that it, or its parent, had before.
    pub(crate) before: [Option<Permissions>; 2],
}

/// A node in the log.
struct Entry {
    before: Option<Arc<Node>>,
    now: Option<Arc<Node>>,
    modified: bool,
    /// The place among the changes to announce, and whether only to watches of this path.
    announce: Option<(usize, bool)>,
}

/// A transaction.
pub(crate) struct Transaction {
    log: BTreeMap<Path, Entry>,
    /// Nodes more or less for a domain.
    owned: BTreeMap<DomId, isize>,
    announced: usize,
    memory: usize,
    /// It met a limit half-way or lost its ground: why it cannot be committed.
    failed: Option<Errno>,
}

impl Transaction {
    pub(crate) fn new() -> Transaction {
        Transaction {
            log: BTreeMap::new(),
            owned: BTreeMap::new(),
            announced: 0,
            memory: TRANSACTION_OVERHEAD,
            failed: None,
        }
    }

    /// Bytes charged to its client.
    pub(crate) fn memory(&self) -> usize {
        self.memory
    }

    /// Nodes more or less for a domain, so far.
    pub(crate) fn owned(&self, domain: DomId) -> isize {
        self.owned.get(&domain).copied().unwrap_or(0)
    }

    /// The node as this transaction sees it. `limit` holds for unprivileged clients: quotas, and bytes it may take.
    pub(crate) fn get(&mut self, store: &Store, path: &[u8], limit: Limit<'_>) -> Result<Option<Arc<Node>>, Errno> {
        if let Some(entry) = self.log.get(path) {
            return Ok(entry.now.clone());
        }
        let node = store.get(path).cloned();
        self.room(ENTRY_OVERHEAD + path.len() + node.as_ref().map_or(0, |node| node.memory(path)), 1, limit)?;
        let entry = Entry { before: node.clone(), now: node.clone(), modified: false, announce: None };
        self.log.insert(Path::trusted(path), entry);
        Ok(node)
    }

    /// Makes, replaces or removes a node that [`get`](Self::get) was asked for before.
    pub(crate) fn set(
        &mut self,
        path: &Path,
        node: Option<Node>,
        generation: u64,
        limit: Limit<'_>,
    ) -> Result<(), Errno> {
        let node = node.map(|node| Arc::new(Node { generation, ..node }));
        self.room(node.as_ref().map_or(0, |node| node.memory(path)), 0, limit)?;
        let entry = self.log.get_mut(path).ok_or(Errno::EIO)?;
        if let Some(old) = &entry.now {
            *self.owned.entry(old.permissions.owner()).or_default() -= 1;
            if entry.modified {
                self.memory -= old.memory(path);
            }
        }
        if let Some(node) = &node {
            *self.owned.entry(node.permissions.owner()).or_default() += 1;
        }
        entry.now = node;
        entry.modified = true;
        Ok(())
    }

    /// Takes memory and a number of entries, or fails for good.
    fn room(&mut self, bytes: usize, entries: usize, limit: Limit<'_>) -> Result<(), Errno> {
        if let Some((quotas, memory)) = limit {
            let full = entries > 0 && self.log.len() + entries > quotas.transaction_nodes;
            let error = if full {
                Some(Errno::ENOSPC)
            } else if self.memory + bytes > memory {
                Some(Errno::ENOMEM)
            } else {
                None
            };
            if let Some(error) = error {
                self.failed = Some(Errno::ENOMEM);
                return Err(error);
            }
        }
        self.memory += bytes;
        Ok(())
    }

    /// Notes a change of a node in the log, to be announced at the commit.
    pub(crate) fn announce(&mut self, path: &[u8], exact: bool) {
        let place = self.announced;
        self.announced += 1;
        if let Some(entry) = self.log.get_mut(path) {
            entry.announce = Some(match entry.announce {
                Some((first, was_exact)) => (first, was_exact && exact),
                None => (place, exact),
            });
        }
    }

    /// A domain is gone: if the transaction was to make a node that names it, it must start again.
    pub(crate) fn forget(&mut self, domain: DomId) {
        let names =
            |entry: &Entry| entry.modified && entry.now.as_ref().is_some_and(|node| node.permissions.names(domain));
        if self.failed.is_none() && self.log.values().any(names) {
            self.failed = Some(Errno::EAGAIN);
        }
    }

    /// Makes its changes everyone's; returns what to announce. EAGAIN: something it used has changed. ENOSPC, ENOMEM:
    /// its domain's quota does not allow it any more. `quotas` is `None` for privileged clients.
    pub(crate) fn commit(self, store: &mut Store, quotas: Option<&Quotas>) -> Result<Vec<Change>, Errno> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let generation = |node: Option<&Arc<Node>>| node.map(|node| node.generation);
        let stale = |(path, entry): (&Path, &Entry)| generation(store.get(path)) != generation(entry.before.as_ref());
        if self.log.iter().any(stale) {
            return Err(Errno::EAGAIN);
        }
        if let Some(quotas) = quotas {
            self.check_quotas(store, quotas)?;
        }
        let mut changes = Vec::new();
        for (path, entry) in self.log {
            let Entry { before, now, modified, announce } = entry;
            if let Some((place, exact)) = announce
                && (before.is_some() || now.is_some())
            {
                let permissions = before.as_ref().map(|node| node.permissions.clone());
                changes.push((place, Change { path: path.clone(), exact, before: [permissions, None] }));
            }
            drop(before);
            if modified {
                store.set(&path, now);
            }
        }
        changes.sort_by_key(|(place, _)| *place);
        Ok(changes.into_iter().map(|(_, change)| change).collect())
    }

    /// Whether every domain that would own more may own it.
    fn check_quotas(&self, store: &Store, quotas: &Quotas) -> Result<(), Errno> {
        let mut memory: BTreeMap<DomId, isize> = BTreeMap::new();
        for (path, entry) in self.log.iter().filter(|(_, entry)| entry.modified) {
            for (node, sign) in [(&entry.before, -1), (&entry.now, 1)] {
                if let Some(node) = node {
                    *memory.entry(node.permissions.owner()).or_default() += sign * node.memory(path) as isize;
                }
            }
        }
        for (domain, nodes) in &self.owned {
            store.check_account(*domain, *nodes, 0, quotas)?;
        }
        for (domain, bytes) in &memory {
            store.check_account(*domain, 0, *bytes, quotas)?;
        }
        Ok(())
    }
}

/// The quotas and the bytes a transaction may take; `None` for privileged clients.
pub(crate) type Limit<'a> = Option<(&'a Quotas, usize)>;
