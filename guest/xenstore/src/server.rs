//! The whole: the tree, the clients, and which watches a change fires.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use shared_abi::Errno;
use shared_abi::xen::DomId;

use crate::client::{Broken, Client, Token};
use crate::domains::Notice;
use crate::path::{self, Path};
use crate::permissions::{Access, Caller, Permissions};
use crate::quotas::{Quotas, Usage};
use crate::store::Store;
use crate::transaction::{Change, Transaction};
use crate::view::View;

/// The key of the holder's own watches: a number that no domain can have.
pub(crate) const OWNER: DomId = DomId::SELF;

/// A XenStore server.
///
/// One domain, the control domain, owns the root; the holder of this value acts as that domain, with all rights.
pub struct Server {
    pub(crate) quotas: Quotas,
    pub(crate) control: DomId,
    pub(crate) store: Store,
    pub(crate) clients: BTreeMap<DomId, Client>,
    /// Who watches a path, with which tokens.
    pub(crate) watchers: BTreeMap<Path, BTreeSet<(DomId, Token)>>,
    /// Clients that got something to read since the holder last asked.
    ready: BTreeSet<DomId>,
    pub(crate) notices: VecDeque<Notice>,
}

impl Server {
    /// An empty tree that belongs to the domain `control`.
    pub fn new(quotas: Quotas, control: DomId) -> Server {
        let mut clients = BTreeMap::new();
        clients.insert(OWNER, Client::new(true));
        Server {
            quotas,
            control,
            store: Store::new(control),
            clients,
            watchers: BTreeMap::new(),
            ready: BTreeSet::new(),
            notices: VecDeque::new(),
        }
    }

    /// Takes bytes from a domain's request ring, in any pieces; returns how many. At most one request is finished in a
    /// call, so that the caller can serve its clients in turn; 0 for a non-empty slice means that the client has to
    /// read its replies first.
    pub fn input(&mut self, domain: DomId, bytes: &[u8]) -> Result<usize, Broken> {
        let client = self.connected_mut(domain).ok_or(Broken::Unknown)?;
        let quotas = client.1;
        let (used, request) = client.0.take(bytes, quotas)?;
        if let Some((header, payload)) = request {
            self.request(domain, &header, &payload);
        }
        Ok(used)
    }

    /// Copies replies and events for a domain into `out` (the free part of its response ring); returns how many bytes.
    pub fn output(&mut self, domain: DomId, out: &mut [u8]) -> usize {
        match self.connected_mut(domain) {
            Some((client, quotas)) => client.output(out, quotas),
            None => 0,
        }
    }

    /// Whether there are bytes for a domain to read.
    pub fn has_output(&self, domain: DomId) -> bool {
        self.connected(domain).is_some_and(Client::has_output)
    }

    /// Whether a request from a domain would be taken.
    pub fn accepts_input(&self, domain: DomId) -> bool {
        self.connected(domain).is_some_and(|client| client.accepts(&self.quotas))
    }

    /// A domain that got something to read since it was last named here; `None` when there is no further one. For
    /// events: whatever one client writes may have another one woken.
    pub fn take_ready(&mut self) -> Option<DomId> {
        self.ready.pop_first()
    }

    /// What a domain uses.
    pub fn usage(&self, domain: DomId) -> Usage {
        let account = self.store.account(domain);
        let mut usage = Usage { nodes: account.nodes, node_memory: account.memory, ..Usage::default() };
        if let Some(client) = self.connected(domain) {
            usage.watches = client.watches.len();
            usage.transactions = client.transactions.len();
            usage.client_memory = client.memory;
            (usage.replies, usage.events) = client.waiting();
        }
        usage
    }

    /// Whether everything adds up: no dangling children, exact accounts. Looks at everything; the text says what is
    /// wrong, which would be this crate's fault.
    pub fn check(&self) -> Result<(), &'static str> {
        self.store.check()?;
        let mut watches = 0;
        for (key, client) in &self.clients {
            client.check()?;
            watches += client.watches.len();
            let indexed = |(path, token): &(Path, Token)| {
                self.watchers.get(path).is_some_and(|set| set.contains(&(*key, token.clone())))
            };
            if !client.watches.keys().all(indexed) {
                return Err("a watch that nothing would fire");
            }
        }
        let indexed: usize = self.watchers.values().map(BTreeSet::len).sum();
        if indexed != watches || self.watchers.values().any(BTreeSet::is_empty) {
            Err("watches of nobody")
        } else {
            Ok(())
        }
    }

    /// A client that is a domain.
    pub(crate) fn connected(&self, domain: DomId) -> Option<&Client> {
        if domain == OWNER { None } else { self.clients.get(&domain) }
    }

    fn connected_mut(&mut self, domain: DomId) -> Option<(&mut Client, &Quotas)> {
        let client = if domain == OWNER { None } else { self.clients.get_mut(&domain) };
        client.map(|client| (client, &self.quotas))
    }

    /// Notes that a client has something to read.
    pub(crate) fn wake(&mut self, client: DomId) {
        if client != OWNER {
            self.ready.insert(client);
        }
    }

    /// Who a client is.
    pub(crate) fn caller(&self, key: DomId) -> Caller {
        match self.clients.get(&key) {
            Some(client) if key != OWNER => client.caller(key),
            _ => Caller { domain: self.control, privileged: key == OWNER, target: None },
        }
    }

    /// Lets a client work on the tree, inside its transaction unless `transaction` is 0, and fires what watches this
    /// causes. ENOENT when it has no such transaction.
    pub(crate) fn view<T>(
        &mut self,
        key: DomId,
        transaction: u32,
        work: impl FnOnce(&mut View<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let caller = self.caller(key);
        let client = self.clients.get_mut(&key).ok_or(Errno::EINVAL)?;
        let mut open = match transaction {
            0 => None,
            id => Some(client.transactions.remove(&id).ok_or(Errno::ENOENT)?),
        };
        client.memory -= open.as_ref().map_or(0, Transaction::memory);
        let memory = self.quotas.memory.saturating_sub(client.memory);
        let mut view = View {
            store: &mut self.store,
            transaction: open.as_mut(),
            caller,
            quotas: &self.quotas,
            memory,
            changes: Vec::new(),
        };
        let result = work(&mut view);
        let changes = view.changes;
        if let Some(open) = open {
            client.memory += open.memory();
            client.transactions.insert(transaction, open);
        }
        self.fire_all(&changes);
        result
    }

    /// Fires the watches for all changes, in order.
    pub(crate) fn fire_all(&mut self, changes: &[Change]) {
        for change in changes {
            self.fire(&change.path, change.exact, &change.before);
        }
    }

    /// Fires the watches for a change of `path`: those of the path itself, and unless `exact` those above it. A client
    /// gets the event if it may read the node or its parent, or might before.
    pub(crate) fn fire(&mut self, path: &Path, exact: bool, before: &[Option<Permissions>; 2]) {
        let Server { quotas, store, clients, watchers, ready, .. } = self;
        let now = |path: Option<&[u8]>| path.and_then(|path| store.get(path)).map(|node| &node.permissions);
        let parents = [now(Some(path)), now(path::parent(path))];
        let permitted = |caller: &Caller| {
            let all = before.iter().flatten().chain(parents.iter().flatten().copied());
            all.into_iter().any(|permissions| permissions.access(caller).covers(Access::READ))
        };
        let mut at: Option<&[u8]> = Some(path);
        while let Some(watched) = at {
            if let Some((watched, set)) = watchers.get_key_value(watched) {
                let mut last = None;
                for (key, token) in set {
                    let Some(client) = clients.get_mut(key) else { continue };
                    if last.is_none_or(|(client, _)| client != *key) {
                        last = Some((*key, permitted(&client.caller(*key))));
                    }
                    if last.is_some_and(|(_, permitted)| permitted) {
                        client.fire(&(watched.clone(), token.clone()), path, quotas);
                        if *key != OWNER {
                            ready.insert(*key);
                        }
                    }
                }
            }
            at = if exact { None } else { path::parent(watched) };
        }
    }

    /// Adds a watch; the caller fires it once the reply is queued.
    pub(crate) fn add_watch(&mut self, key: DomId, given: &[u8], token: &[u8]) -> Result<(Path, Token), Errno> {
        let path = self.watch_path(key, given)?;
        let prefix = if path::is_relative(given) { path.len() - given.len() } else { 0 };
        let watch = (path, Token::from(token));
        let client = self.clients.get_mut(&key).ok_or(Errno::EINVAL)?;
        client.add_watch(watch.0.clone(), watch.1.clone(), prefix, &self.quotas)?;
        self.watchers.entry(watch.0.clone()).or_default().insert((key, watch.1.clone()));
        Ok(watch)
    }

    /// Fires a new watch with its own path.
    pub(crate) fn fire_new(&mut self, key: DomId, watch: &(Path, Token)) {
        if let Some(client) = self.clients.get_mut(&key) {
            client.fire(watch, &watch.0, &self.quotas);
            self.wake(key);
        }
    }

    /// Removes a watch; ENOENT when there is no such one.
    pub(crate) fn remove_watch(&mut self, key: DomId, given: &[u8], token: &[u8]) -> Result<(), Errno> {
        let watch = (self.watch_path(key, given)?, Token::from(token));
        let client = self.clients.get_mut(&key).ok_or(Errno::EINVAL)?;
        if !client.remove_watch(&watch) {
            return Err(Errno::ENOENT);
        }
        self.unindex(key, &watch);
        Ok(())
    }

    /// Removes all of a client's watches, transactions and waiting events.
    pub(crate) fn reset_client(&mut self, key: DomId) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        let watches: Vec<_> = client.watches.keys().cloned().collect();
        client.reset();
        for watch in &watches {
            self.unindex(key, watch);
        }
    }

    fn unindex(&mut self, key: DomId, watch: &(Path, Token)) {
        if let Some(set) = self.watchers.get_mut(&watch.0) {
            set.remove(&(key, watch.1.clone()));
            if set.is_empty() {
                self.watchers.remove(&watch.0);
            }
        }
    }

    fn watch_path(&self, key: DomId, given: &[u8]) -> Result<Path, Errno> {
        let caller = self.caller(key);
        let quotas = (!caller.privileged).then_some(&self.quotas);
        path::canonical(given, caller.domain, true, quotas, self.quotas.depth)
    }
}
