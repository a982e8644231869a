//! The operations, over whatever sends a request and waits for its reply.

use alloc::string::String;
use alloc::vec::Vec;
use shared_abi::Errno;
use shared_abi::io::xs_wire::MessageType;
use shared_abi::xen::DomId;

use crate::error::Error;

/// How often a transaction that conflicts is tried before its EAGAIN is handed on.
pub const TRANSACTION_ATTEMPTS: usize = 100;

/// Bytes of the longest list of children that is believed.
const LONGEST_LIST: usize = 1 << 20;

/// Sends one request and waits for its reply.
pub trait Exchange {
    /// The reply's payload to a request whose payload is the parts in a row.
    fn exchange(&self, type_: MessageType, transaction: u32, parts: &[&[u8]]) -> Result<Vec<u8>, Error>;
}

/// The store as this client sees it: as it is, or inside a transaction. Paths are absolute, or relative to the domain's
/// home.
#[derive(Debug)]
pub struct Store<'a, X: ?Sized> {
    exchange: &'a X,
    transaction: u32,
}

impl<X: ?Sized> Clone for Store<'_, X> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<X: ?Sized> Copy for Store<'_, X> {}

impl<'a, X: Exchange + ?Sized> Store<'a, X> {
    /// Outside of any transaction.
    pub fn new(exchange: &'a X) -> Store<'a, X> {
        Store { exchange, transaction: 0 }
    }

    /// A request with strings, each followed by a NUL, and what follows them.
    fn ask(&self, type_: MessageType, strings: &[&str], rest: &[u8]) -> Result<Vec<u8>, Error> {
        let mut parts: Vec<&[u8]> = Vec::with_capacity(2 * strings.len() + 1);
        for string in strings {
            if string.contains('\0') {
                return Err(Error::Nul);
            }
            parts.extend([string.as_bytes(), b"\0"]);
        }
        parts.push(rest);
        self.exchange.exchange(type_, self.transaction, &parts)
    }

    /// A request that is only acknowledged.
    fn tell(&self, type_: MessageType, strings: &[&str], rest: &[u8]) -> Result<(), Error> {
        match &self.ask(type_, strings, rest)?[..] {
            b"OK\0" => Ok(()),
            _ => Err(Error::Malformed),
        }
    }

    /// A node's value.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.ask(MessageType::READ, &[path], b"")
    }

    /// A node's value as a decimal number; [`Error::Malformed`] when it is none.
    pub fn read_number(&self, path: &str) -> Result<u64, Error> {
        let value = self.read(path)?;
        core::str::from_utf8(&value).ok().and_then(|text| text.trim().parse().ok()).ok_or(Error::Malformed)
    }

    /// Sets a value; makes the node and its parents when they are missing.
    pub fn write(&self, path: &str, value: &[u8]) -> Result<(), Error> {
        self.tell(MessageType::WRITE, &[path], value)
    }

    /// Makes a node unless it is there.
    pub fn make(&self, path: &str) -> Result<(), Error> {
        self.tell(MessageType::MKDIR, &[path], b"")
    }

    /// Removes a node and everything below it.
    pub fn remove(&self, path: &str) -> Result<(), Error> {
        self.tell(MessageType::RM, &[path], b"")
    }

    /// Whether a node is there.
    pub fn exists(&self, path: &str) -> Result<bool, Error> {
        match self.read(path) {
            Ok(_) => Ok(true),
            Err(Error::Refused(Errno::ENOENT)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The names of a node's children, however many they are.
    pub fn list(&self, path: &str) -> Result<Vec<Vec<u8>>, Error> {
        match self.ask(MessageType::DIRECTORY, &[path], b"") {
            Ok(names) => Ok(split(&names)),
            Err(Error::Refused(Errno::E2BIG)) => self.list_in_parts(path),
            Err(error) => Err(error),
        }
    }

    /// A list too long for one reply; read from the start again when it changes in between.
    fn list_in_parts(&self, path: &str) -> Result<Vec<Vec<u8>>, Error> {
        for _ in 0..TRANSACTION_ATTEMPTS {
            if let Some(names) = self.list_once(path)? {
                return Ok(split(&names));
            }
        }
        Err(Error::Refused(Errno::EAGAIN))
    }

    fn list_once(&self, path: &str) -> Result<Option<Vec<u8>>, Error> {
        let mut names = Vec::new();
        let mut generation = None;
        loop {
            let offset = alloc::format!("{}", names.len());
            let reply = self.ask(MessageType::DIRECTORY_PART, &[path, &offset], b"")?;
            let end = reply.iter().position(|byte| *byte == 0).ok_or(Error::Malformed)?;
            let (count, rest) = (&reply[..end], &reply[end + 1..]);
            if generation.get_or_insert_with(|| count.to_vec()) != count {
                return Ok(None);
            }
            // An empty name ends the list: two NULs, or one alone.
            match rest {
                [] => return Err(Error::Malformed),
                [0] => return Ok(Some(names)),
                [more @ .., 0, 0] => {
                    names.extend_from_slice(more);
                    names.push(0);
                    return Ok(Some(names));
                }
                more => names.extend_from_slice(more),
            }
            if names.len() > LONGEST_LIST {
                return Err(Error::Malformed);
            }
        }
    }

    /// A node's permissions as on the wire: `n0`, `r5`; the first names the owner.
    pub fn permissions(&self, path: &str) -> Result<Vec<Vec<u8>>, Error> {
        Ok(split(&self.ask(MessageType::GET_PERMS, &[path], b"")?))
    }

    /// Sets them.
    pub fn set_permissions(&self, path: &str, permissions: &[&str]) -> Result<(), Error> {
        let strings: Vec<&str> = core::iter::once(path).chain(permissions.iter().copied()).collect();
        self.tell(MessageType::SET_PERMS, &strings, b"")
    }

    /// Watches a path and all below it. Fires once at once.
    pub fn watch(&self, path: &str, token: &str) -> Result<(), Error> {
        self.tell(MessageType::WATCH, &[path, token], b"")
    }

    /// Watches it no longer. Events that are under way still arrive.
    pub fn unwatch(&self, path: &str, token: &str) -> Result<(), Error> {
        self.tell(MessageType::UNWATCH, &[path, token], b"")
    }

    /// Removes all watches and transactions of this domain; old servers do not know it (EINVAL or ENOSYS).
    pub fn reset_watches(&self) -> Result<(), Error> {
        self.tell(MessageType::RESET_WATCHES, &[""], b"")
    }

    /// A domain's home.
    pub fn domain_path(&self, domain: DomId) -> Result<String, Error> {
        let reply = self.ask(MessageType::GET_DOMAIN_PATH, &[&alloc::format!("{}", domain.0)], b"")?;
        let text = reply.strip_suffix(b"\0").unwrap_or(&reply);
        String::from_utf8(text.to_vec()).map_err(|_| Error::Malformed)
    }

    /// Does `work` as one transaction: all of it or nothing, and nothing changed in between. It is done again when what
    /// it used has changed meanwhile; when `work` fails, nothing of it has happened.
    pub fn transaction<T>(&self, work: impl Fn(Store<'a, X>) -> Result<T, Error>) -> Result<T, Error> {
        for _ in 0..TRANSACTION_ATTEMPTS {
            let inside = Store { exchange: self.exchange, transaction: self.start()? };
            let result = match work(inside) {
                Ok(result) => result,
                Err(error) => {
                    // Its own error is the one to report.
                    let _ = inside.tell(MessageType::TRANSACTION_END, &["F"], b"");
                    return Err(error);
                }
            };
            match inside.tell(MessageType::TRANSACTION_END, &["T"], b"") {
                Err(Error::Refused(Errno::EAGAIN)) => {}
                other => return other.map(|()| result),
            }
        }
        Err(Error::Refused(Errno::EAGAIN))
    }

    fn start(&self) -> Result<u32, Error> {
        let reply = self.ask(MessageType::TRANSACTION_START, &[""], b"")?;
        let text = reply.strip_suffix(b"\0").unwrap_or(&reply);
        let id = core::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        id.filter(|id| *id != 0).ok_or(Error::Malformed)
    }
}

/// The strings of a payload in which each ends with a NUL.
fn split(payload: &[u8]) -> Vec<Vec<u8>> {
    payload.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect()
}
