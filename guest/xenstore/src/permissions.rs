//! Who may do what with a node: the first entry names its owner and the rights of everyone not named, each further one a
//! domain and its rights. Owners and privileged clients may do everything.

use alloc::sync::Arc;
use alloc::vec::Vec;
use shared_abi::Errno;
use shared_abi::xen::DomId;

/// A set of rights: [`READ`](Access::READ), [`WRITE`](Access::WRITE) and, in a question, [`OWN`](Access::OWN).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u8);

impl Access {
    /// No rights.
    pub const NONE: Access = Access(0);
    /// May read value, children and permissions.
    pub const READ: Access = Access(1);
    /// May write the value, make children, remove it.
    pub const WRITE: Access = Access(2);
    /// Both.
    pub const BOTH: Access = Access(3);
    /// May change the permissions.
    pub const OWN: Access = Access(4);
    /// Everything.
    pub(crate) const ALL: Access = Access(7);

    /// Whether all of `wanted` is here.
    pub(crate) fn covers(self, wanted: Access) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    /// Whether some of `wanted` is here.
    pub(crate) fn meets(self, wanted: Access) -> bool {
        self.0 & wanted.0 != 0
    }

    /// Both sets together.
    pub(crate) const fn with(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permission {
    /// Whom it is about.
    pub domain: DomId,
    /// The rights.
    pub access: Access,
    /// The domain is gone, or never was: the entry gives nothing, also to a later domain of the same number.
    pub(crate) void: bool,
}

impl Permission {
    /// An entry.
    pub const fn new(domain: DomId, access: Access) -> Permission {
        Permission { domain, access, void: false }
    }

    /// From its form on the wire: `r`, `w`, `b` or `n`, then the domain's number in decimal.
    pub(crate) fn parse(text: &[u8]) -> Result<Permission, Errno> {
        let (kind, number) = text.split_first().ok_or(Errno::EINVAL)?;
        let access = match kind {
            b'n' => Access::NONE,
            b'r' => Access::READ,
            b'w' => Access::WRITE,
            b'b' => Access::BOTH,
            _ => return Err(Errno::EINVAL),
        };
        Ok(Permission::new(parse_domid(number)?, access))
    }

    /// Appends its form on the wire, with the NUL.
    fn print(&self, out: &mut Vec<u8>) {
        out.push(match (self.access.covers(Access::READ), self.access.covers(Access::WRITE)) {
            (false, false) => b'n',
            (true, false) => b'r',
            (false, true) => b'w',
            (true, true) => b'b',
        });
        out.extend_from_slice(alloc::format!("{}\0", self.domain.0).as_bytes());
    }
}

/// A domain's number in decimal; anything else is EINVAL.
pub(crate) fn parse_domid(text: &[u8]) -> Result<DomId, Errno> {
    let number = parse_number(text).and_then(|number| u16::try_from(number).ok());
    number.map(DomId).ok_or(Errno::EINVAL)
}

/// Decimal digits and nothing else, in 63 bits.
pub(crate) fn parse_number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 {
        return None;
    }
    text.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0')))
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    /// The domain.
    pub(crate) domain: DomId,
    /// May do everything.
    pub(crate) privileged: bool,
    /// The domain whose rights it has besides its own.
    pub(crate) target: Option<DomId>,
}

impl Caller {
    fn is(&self, domain: DomId) -> bool {
        domain == self.domain || Some(domain) == self.target
    }
}

/// A node's permissions; at least one entry. Cloning shares them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Permissions(Arc<[Permission]>);

impl Permissions {
    /// From a list; EINVAL when it is empty.
    pub(crate) fn new(list: &[Permission]) -> Result<Permissions, Errno> {
        if list.is_empty() { Err(Errno::EINVAL) } else { Ok(Permissions(list.into())) }
    }

    /// Only the owner, and nothing for others.
    pub(crate) fn private(owner: DomId) -> Permissions {
        Permissions(Arc::from([Permission::new(owner, Access::NONE)]))
    }

    pub(crate) fn list(&self) -> &[Permission] {
        &self.0
    }

    pub(crate) fn owner(&self) -> DomId {
        self.0[0].domain
    }

    /// The same with another owner.
    pub(crate) fn owned_by(&self, owner: DomId) -> Permissions {
        if self.owner() == owner {
            return self.clone();
        }
        let mut list = self.0.to_vec();
        list[0].domain = owner;
        Permissions(list.into())
    }

    /// What the caller may do. Its first entry counts, as in xenstored.
    pub(crate) fn access(&self, caller: &Caller) -> Access {
        if caller.privileged || caller.is(self.owner()) {
            return Access::ALL;
        }
        let named = self.0[1..].iter().find(|entry| !entry.void && caller.is(entry.domain));
        named.unwrap_or(&self.0[0]).access
    }

    /// Whether a living entry names the domain.
    pub(crate) fn names(&self, domain: DomId) -> bool {
        self.0.iter().any(|entry| !entry.void && entry.domain == domain)
    }

    /// The same without what it gave a domain that is not the owner.
    pub(crate) fn without(&self, domain: DomId) -> Permissions {
        let mut list = self.0.to_vec();
        list[1..].iter_mut().filter(|entry| entry.domain == domain).for_each(|entry| entry.void = true);
        Permissions(list.into())
    }

    /// As on the wire.
    pub(crate) fn print(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() * 7);
        self.0.iter().for_each(|entry| entry.print(&mut out));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(domain: u16) -> Caller {
        Caller { domain: DomId(domain), privileged: false, target: None }
    }

    fn parse(list: &[&str]) -> Permissions {
        let list: Result<Vec<_>, _> = list.iter().map(|text| Permission::parse(text.as_bytes())).collect();
        Permissions::new(&list.unwrap()).unwrap()
    }

    #[test]
    fn the_owner_the_named_and_the_rest() {
        let permissions = parse(&["r1", "n2", "b3", "w4"]);
        let access = |domain| permissions.access(&caller(domain));
        assert_eq!(access(1), Access::ALL);
        assert_eq!(access(2), Access::NONE);
        assert_eq!(access(3), Access::BOTH);
        assert_eq!(access(4), Access::WRITE);
        assert_eq!(access(5), Access::READ);
        assert_eq!(permissions.without(DomId(3)).access(&caller(3)), Access::READ);
        let helper = Caller { target: Some(DomId(1)), ..caller(9) };
        assert_eq!(permissions.access(&helper), Access::ALL);
        assert_eq!(permissions.access(&Caller { privileged: true, ..caller(8) }), Access::ALL);
        assert_eq!(permissions.print(), b"r1\0n2\0b3\0w4\0");
    }

    #[test]
    fn texts_that_are_no_permissions() {
        for bad in ["", "r", "x1", "r-1", "r65536", "r1x", "r 1", "1", "r99999999999999999999"] {
            assert_eq!(Permission::parse(bad.as_bytes()), Err(Errno::EINVAL), "{bad}");
        }
        assert_eq!(Permission::parse(b"b65535"), Ok(Permission::new(DomId(65535), Access::BOTH)));
    }
}
