//! Which domains are there: introduced, gone down, released.

use alloc::vec::Vec;
use shared_abi::Errno;
use shared_abi::xen::DomId;

use crate::client::Client;
use crate::path::{self, Path};
use crate::permissions::Permissions;
use crate::server::{OWNER, Server};

/// Notices that may wait; further requests that would make one get EBUSY.
const NOTICES: usize = 64;

/// Something a privileged client asked for over the wire that the holder has to act upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// INTRODUCE: the server knows the domain now; map its ring (again) and bind its port. If that fails, release it.
    Introduced {
        /// The domain.
        domain: DomId,
        /// The ring's frame, as the client gave it.
        gfn: u64,
        /// The domain's event channel.
        port: u32,
    },
    /// RELEASE: the server has forgotten the domain; unmap its ring and close the port.
    Released {
        /// The domain.
        domain: DomId,
    },
}

impl Server {
    /// A domain is there and may send requests. `@introduceDomain` fires. EEXIST when it is there already, EINVAL when
    /// the number is not a domain's.
    pub fn introduce(&mut self, domain: DomId, privileged: bool) -> Result<(), Errno> {
        if domain.is_special() {
            return Err(Errno::EINVAL);
        }
        if self.clients.contains_key(&domain) {
            return Err(Errno::EEXIST);
        }
        self.clients.insert(domain, Client::new(privileged));
        self.fire_special(path::INTRODUCE_DOMAIN);
        Ok(())
    }

    /// Whether a domain is there.
    pub fn is_introduced(&self, domain: DomId) -> bool {
        self.connected(domain).is_some()
    }

    /// The domains that are there.
    pub fn domains(&self) -> impl Iterator<Item = DomId> + '_ {
        self.clients.keys().copied().filter(|key| *key != OWNER)
    }

    /// A domain's ring is new (it asked to reconnect, or was introduced again): half a request, replies, events,
    /// watches and transactions are forgotten. ENOENT when the domain is not there.
    pub fn reconnect(&mut self, domain: DomId) -> Result<(), Errno> {
        if !self.is_introduced(domain) {
            return Err(Errno::ENOENT);
        }
        self.reset_client(domain);
        if let Some(client) = self.clients.get_mut(&domain) {
            client.reconnect();
        }
        Ok(())
    }

    /// A domain has shut down or crashed: `@releaseDomain` fires, once until RESUME. ENOENT when it is not there.
    pub fn domain_down(&mut self, domain: DomId) -> Result<(), Errno> {
        let client = self.clients.get_mut(&domain).filter(|_| domain != OWNER).ok_or(Errno::ENOENT)?;
        if !core::mem::replace(&mut client.down, true) {
            self.fire_special(path::RELEASE_DOMAIN);
        }
        Ok(())
    }

    /// A domain that went down runs again. ENOENT when it is not there.
    pub fn resume(&mut self, domain: DomId) -> Result<(), Errno> {
        let client = self.clients.get_mut(&domain).filter(|_| domain != OWNER).ok_or(Errno::ENOENT)?;
        client.down = false;
        Ok(())
    }

    /// Gives a domain the rights of another one besides its own. ENOENT when one of them is not there.
    pub fn set_target(&mut self, domain: DomId, target: DomId) -> Result<(), Errno> {
        if !self.is_introduced(target) || !self.is_introduced(domain) {
            return Err(Errno::ENOENT);
        }
        if let Some(client) = self.clients.get_mut(&domain) {
            client.target = Some(target);
        }
        Ok(())
    }

    /// A domain is gone: its connection, watches and transactions go, its nodes with all below them, and what others'
    /// permissions gave it, so that a later domain of the same number inherits nothing. `@releaseDomain` fires.
    /// EINVAL for the control domain, ENOENT when it is not there and owns nothing.
    pub fn release(&mut self, domain: DomId) -> Result<(), Errno> {
        if domain.is_special() || domain == self.control {
            return Err(Errno::EINVAL);
        }
        if !self.is_introduced(domain) && self.store.account(domain).nodes == 0 {
            return Err(Errno::ENOENT);
        }
        self.reset_client(domain);
        self.clients.remove(&domain);
        for client in self.clients.values_mut() {
            client.transactions.values_mut().for_each(|transaction| transaction.forget(domain));
            if client.target == Some(domain) {
                client.target = None;
            }
        }
        self.remove_owned(domain);
        self.revoke(domain);
        self.fire_special(path::RELEASE_DOMAIN);
        Ok(())
    }

    /// Removes a domain's nodes. The root and special nodes go back to the control domain.
    fn remove_owned(&mut self, domain: DomId) {
        let owned = self.store.nodes().filter(|(_, node)| node.permissions.owner() == domain);
        let owned: Vec<Path> = owned.map(|(path, _)| path.clone()).collect();
        for path in owned {
            if path::parent(&path).is_none() {
                let control = self.control;
                self.store.change(&path, |node| node.permissions = Permissions::private(control));
            } else if self.store.get(&path).is_some() {
                // In order of paths, a parent comes before its children and takes them along. The owner's view has no
                // limits that could end it early.
                let removed = self.view(OWNER, 0, |view| view.remove_tree(&path));
                debug_assert!(removed.is_ok());
            }
        }
    }

    /// Makes void what permissions gave a domain.
    fn revoke(&mut self, domain: DomId) {
        let naming = self.store.nodes().filter(|(_, node)| node.permissions.names(domain));
        let naming: Vec<Path> = naming.map(|(path, _)| path.clone()).collect();
        for path in naming {
            self.store.change(&path, |node| node.permissions = node.permissions.without(domain));
        }
    }

    fn fire_special(&mut self, special: &[u8]) {
        self.fire(&Path::trusted(special), true, &[None, None]);
    }

    /// Queues a notice, EBUSY when too many wait.
    pub(crate) fn notify(&mut self, notice: Notice) {
        self.notices.push_back(notice);
    }

    /// EBUSY when the holder has too many notices to take.
    pub(crate) fn check_notices(&self) -> Result<(), Errno> {
        if self.notices.len() >= NOTICES { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// The next thing that a privileged client asked the holder to do.
    pub fn take_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }
}
