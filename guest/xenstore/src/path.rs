//! Paths: `/`-separated names of letters, digits and `-/_@`, from a root, without a slash at the end or two in a row.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::fmt;
use core::ops::Deref;
use shared_abi::Errno;
use shared_abi::io::xs_wire::ABS_PATH_MAX;
use shared_abi::xen::DomId;

use crate::quotas::Quotas;

/// The special path whose watches fire when a domain is introduced.
pub const INTRODUCE_DOMAIN: &[u8] = b"@introduceDomain";
/// The special path whose watches fire when a domain has gone down or was released.
pub const RELEASE_DOMAIN: &[u8] = b"@releaseDomain";

/// A path that was checked: absolute, or special (`@` at its start). Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Path(Arc<[u8]>);

impl Path {
    /// A path known to be good: part of one that was checked, or a constant.
    pub(crate) fn trusted(bytes: &[u8]) -> Path {
        Path(Arc::from(bytes))
    }

    /// This path's child of that name.
    pub(crate) fn child(&self, name: &[u8]) -> Path {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        if !self.is_root() {
            bytes.extend_from_slice(&self.0);
        }
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Path(bytes.into())
    }

    /// Whether this is `/`.
    pub(crate) fn is_root(&self) -> bool {
        self.0.len() == 1
    }
}

impl Deref for Path {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Path {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

/// A domain's home, which its relative paths start from.
pub(crate) fn home(domain: DomId) -> Vec<u8> {
    format!("/local/domain/{}", domain.0).into_bytes()
}

/// The parent's path; `None` for the root and for special paths.
pub(crate) fn parent(path: &[u8]) -> Option<&[u8]> {
    if path.len() <= 1 || path[0] != b'/' {
        return None;
    }
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(0) | None => Some(b"/"),
        Some(slash) => Some(&path[..slash]),
    }
}

/// The last name in a path that has a parent.
pub(crate) fn name(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(path, |slash| &path[slash + 1..])
}

/// Whether a path given by a client is relative to its home.
pub(crate) fn is_relative(path: &[u8]) -> bool {
    !matches!(path.first(), Some(b'/' | b'@'))
}

/// Checks a path that a client gave and makes it absolute. Everything wrong with it is EINVAL.
pub(crate) fn canonical(
    given: &[u8],
    caller: DomId,
    special: bool,
    quotas: Option<&Quotas>,
    depth: usize,
) -> Result<Path, Errno> {
    let good = |byte: &u8| byte.is_ascii_alphanumeric() || b"-/_@".contains(byte);
    if given.is_empty() || given.len() > ABS_PATH_MAX as usize || !given.iter().all(good) {
        return Err(Errno::EINVAL);
    }
    if given[0] == b'@' && !special {
        return Err(Errno::EINVAL);
    }
    let path = if is_relative(given) {
        let mut absolute = home(caller);
        absolute.push(b'/');
        absolute.extend_from_slice(given);
        Path(absolute.into())
    } else {
        Path(given.into())
    };
    let trailing = path.len() > 1 && path.ends_with(b"/");
    let doubled = path.windows(2).any(|two| two == b"//");
    let deep = path.iter().filter(|byte| **byte == b'/').count() > depth;
    let long = path.len() > ABS_PATH_MAX as usize
        || quotas.is_some_and(|quotas| path.len() - home_length(&path) > quotas.path);
    if trailing || doubled || deep || long { Err(Errno::EINVAL) } else { Ok(path) }
}

/// Bytes of `/local/domain/<number>/` at the path's start, 0 when it does not start so.
fn home_length(path: &[u8]) -> usize {
    const PREFIX: &[u8] = b"/local/domain/";
    let Some(rest) = path.strip_prefix(PREFIX) else { return 0 };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if (1..=5).contains(&digits) && rest.get(digits) == Some(&b'/') { PREFIX.len() + digits + 1 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn check(given: &[u8]) -> Result<Vec<u8>, Errno> {
        canonical(given, DomId(7), false, Some(&Quotas::default()), 64).map(|path| path.to_vec())
    }

    #[test]
    fn relative_paths_start_at_home() {
        assert_eq!(check(b"memory/target").unwrap(), b"/local/domain/7/memory/target");
        assert_eq!(check(b"/a/b").unwrap(), b"/a/b");
        assert_eq!(check(b"/").unwrap(), b"/");
    }

    #[test]
    fn bad_paths_are_refused() {
        for bad in
            [&b""[..], b"//", b"/a/", b"a/", b"/a//b", b"/a b", b"/a\0", b"/\xc3\xa4", b"@introduceDomain", b"/a.b"]
        {
            assert_eq!(check(bad), Err(Errno::EINVAL), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn lengths_and_depth_are_bounded() {
        let long = |n: usize| vec![b'x'; n];
        assert!(check(&long(2048)).is_ok());
        assert_eq!(check(&long(2049)), Err(Errno::EINVAL));
        let absolute = |n: usize| [b"/".to_vec(), long(n)].concat();
        assert!(check(&absolute(2047)).is_ok());
        assert_eq!(check(&absolute(2048)), Err(Errno::EINVAL));
        let privileged = |path: &[u8]| canonical(path, DomId(0), false, None, 64);
        assert!(privileged(&absolute(3071)).is_ok());
        assert_eq!(privileged(&absolute(3072)), Err(Errno::EINVAL));
        // The home of domain 0 makes the longest relative path too long.
        assert_eq!(privileged(&long(3072 - 16 + 1)), Err(Errno::EINVAL));
        assert!(privileged(&long(3072 - 16)).is_ok());
        assert!(check(&b"/a".repeat(64)).is_ok());
        assert_eq!(check(&b"/a".repeat(65)), Err(Errno::EINVAL));
    }

    #[test]
    fn parents_and_names() {
        assert_eq!(parent(b"/a/b"), Some(&b"/a"[..]));
        assert_eq!(parent(b"/a"), Some(&b"/"[..]));
        assert_eq!(parent(b"/"), None);
        assert_eq!(parent(b"@releaseDomain"), None);
        assert_eq!(name(b"/a/b"), b"b");
        assert_eq!(&*Path::trusted(b"/").child(b"a").child(b"b"), b"/a/b");
    }
}
