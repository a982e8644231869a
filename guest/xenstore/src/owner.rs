//! What the server's holder does with the tree itself: as the control domain, with all rights, and at once. Since no
//! request runs in between, a row of these calls is a transaction by nature.

use alloc::vec::Vec;
use shared_abi::Errno;
use shared_abi::io::xs_wire::PAYLOAD_MAX;

use crate::permissions::{Access, Permission, Permissions};
use crate::server::{OWNER, Server};

/// A watch of the holder's has fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What changed; relative if the watch is.
    pub path: Vec<u8>,
    /// The watch's token.
    pub token: Vec<u8>,
}

impl Server {
    /// A node's value. Paths here are absolute or relative to the control domain's home. Errors as on the wire: EINVAL
    /// for a bad path, ENOENT.
    pub fn read(&mut self, path: &[u8]) -> Result<Vec<u8>, Errno> {
        self.view(OWNER, 0, |view| Ok(view.readable(path, false)?.value.clone()))
    }

    /// The names of a node's children, in the order of their creation.
    pub fn list(&mut self, path: &[u8]) -> Result<Vec<Vec<u8>>, Errno> {
        self.view(OWNER, 0, |view| Ok(view.readable(path, false)?.names().map(<[u8]>::to_vec).collect()))
    }

    /// Sets a value; makes the node and its parents when they are missing, with the permissions of the nearest node
    /// above. E2BIG when no READ could carry it.
    pub fn write(&mut self, path: &[u8], value: &[u8]) -> Result<(), Errno> {
        if value.len() > PAYLOAD_MAX as usize {
            return Err(Errno::E2BIG);
        }
        self.view(OWNER, 0, |view| view.write(path, value))
    }

    /// Makes a node with a value that belongs to someone and others may use as said, and its parents when they are
    /// missing. The first entry is the owner's. Watches see it once, complete.
    pub fn write_for(&mut self, path: &[u8], value: &[u8], permissions: &[Permission]) -> Result<(), Errno> {
        if value.len() > PAYLOAD_MAX as usize {
            return Err(Errno::E2BIG);
        }
        self.view(OWNER, 0, |view| {
            // What could go wrong, before anything is done.
            view.path(path, false)?;
            Permissions::new(permissions)?;
            view.write(path, value)?;
            // The event of the permissions tells both.
            view.changes.clear();
            view.set_permissions(path, permissions)
        })
    }

    /// Makes a node unless it is there.
    pub fn make(&mut self, path: &[u8]) -> Result<(), Errno> {
        self.view(OWNER, 0, |view| view.make(path))
    }

    /// Removes a node and everything below it; ENOENT when its parent is not there either.
    pub fn remove(&mut self, path: &[u8]) -> Result<(), Errno> {
        self.view(OWNER, 0, |view| view.remove(path))
    }

    /// Sets a node's permissions; also those of the special paths, to let a domain watch them.
    pub fn set_permissions(&mut self, path: &[u8], permissions: &[Permission]) -> Result<(), Errno> {
        self.view(OWNER, 0, |view| view.set_permissions(path, permissions))
    }

    /// A node's permissions, without those void because their domain is gone.
    pub fn permissions(&mut self, path: &[u8]) -> Result<Vec<Permission>, Errno> {
        let node = self.view(OWNER, 0, |view| view.readable(path, true))?;
        Ok(node.permissions.list().iter().filter(|entry| !entry.void).copied().collect())
    }

    /// Watches a path or a special path. Fires at once, and then [`take_event`](Self::take_event) gives the events.
    /// EEXIST for the same path and token twice; EINVAL for a NUL in the token.
    pub fn watch(&mut self, path: &[u8], token: &[u8]) -> Result<(), Errno> {
        if token.contains(&0) || path.len() + token.len() + 2 > PAYLOAD_MAX as usize {
            return Err(Errno::EINVAL);
        }
        let watch = self.add_watch(OWNER, path, token)?;
        self.fire_new(OWNER, &watch);
        Ok(())
    }

    /// Watches no longer; ENOENT when there is no such watch.
    pub fn unwatch(&mut self, path: &[u8], token: &[u8]) -> Result<(), Errno> {
        self.remove_watch(OWNER, path, token)
    }

    /// The next event of the holder's own watches.
    pub fn take_event(&mut self) -> Option<Event> {
        let payload = self.clients.get_mut(&OWNER)?.take_event(&self.quotas)?;
        let mut parts = payload.split(|byte| *byte == 0);
        let path = parts.next()?.to_vec();
        let token = parts.next()?.to_vec();
        Some(Event { path, token })
    }
}

impl Permission {
    /// The usual permissions of a node that `owner` owns and `reader` may read.
    pub const fn readable_by(owner: shared_abi::xen::DomId, reader: shared_abi::xen::DomId) -> [Permission; 2] {
        [Permission::new(owner, Access::NONE), Permission::new(reader, Access::READ)]
    }
}
