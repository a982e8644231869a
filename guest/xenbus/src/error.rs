//! What can go wrong.

use core::fmt;

use shared_abi::Errno;
use shared_abi::io::xs_wire::ERRORS;

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The server refused it. Names that the protocol does not have come out as EINVAL.
    Refused(Errno),
    /// The server's reply is not what the request asks for.
    Malformed,
    /// The request's payload is longer than 4096 bytes; it was not sent.
    TooLong,
    /// A string with a NUL in it; it was not sent.
    Nul,
    /// The connection was reset while the request waited; whether it was carried out is unknown.
    Reset,
    /// No reply came in time; whether the request was, or will be, carried out is unknown.
    TimedOut,
    /// The connection does not work.
    Broken(Fault),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused(errno) => write!(f, "XenStore answers {}", errno.name().unwrap_or("an error")),
            Error::Malformed => f.write_str("XenStore's reply makes no sense"),
            Error::TooLong => f.write_str("the request is too long"),
            Error::Nul => f.write_str("a string has a NUL in it"),
            Error::Reset => f.write_str("the connection was reset"),
            Error::TimedOut => f.write_str("no reply in time"),
            Error::Broken(fault) => write!(f, "the connection is broken ({fault:?})"),
        }
    }
}

impl core::error::Error for Error {}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Error {
        Error::Broken(fault)
    }
}

/// Why a connection does not work. [`Connection::reconnect`](crate::Connection::reconnect) may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server's index claims more than the ring holds.
    Index,
    /// The server sent a payload longer than 4096 bytes.
    Protocol,
    /// The server has ended the connection, with this value of `XENSTORE_ERROR_*`.
    Server(u32),
}

/// The error of an ERROR reply.
pub(crate) fn parse(payload: &[u8]) -> Errno {
    let name = payload.strip_suffix(b"\0").unwrap_or(payload);
    let known = ERRORS.iter().find(|error| error.name().is_some_and(|known| known.as_bytes() == name));
    known.copied().unwrap_or(Errno::EINVAL)
}
