//! `errno.h`: the error numbers that hypercalls return, negated.

use core::fmt;

/// An error number of the ABI. Positive inside, negative on the wire; unknown numbers survive a round trip.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(i64);

/// Declares the known numbers and their names.
macro_rules! errno_table {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        impl Errno {
            $($(#[$doc])* pub const $name: Errno = Errno($number);)*

            /// Every number that has a name, with the name.
            pub const ALL: &'static [(&'static str, Errno)] = &[$((stringify!($name), Errno::$name)),*];
        }
    };
}

errno_table! {
    /// Operation not permitted.
    EPERM = 1;
    /// No such thing.
    ENOENT = 2;
    /// No such domain or vCPU.
    ESRCH = 3;
    /// Interrupted.
    EINTR = 4;
    /// Input or output failed.
    EIO = 5;
    /// No such device or address.
    ENXIO = 6;
    /// Argument list too long.
    E2BIG = 7;
    /// Not an executable format.
    ENOEXEC = 8;
    /// Bad descriptor.
    EBADF = 9;
    /// No child.
    ECHILD = 10;
    /// Try again.
    EAGAIN = 11;
    /// Out of memory.
    ENOMEM = 12;
    /// Access denied.
    EACCES = 13;
    /// Bad address.
    EFAULT = 14;
    /// Busy.
    EBUSY = 16;
    /// Exists already.
    EEXIST = 17;
    /// Crosses a border.
    EXDEV = 18;
    /// No such device (or tmem pool).
    ENODEV = 19;
    /// Not a directory.
    ENOTDIR = 20;
    /// Is a directory.
    EISDIR = 21;
    /// Invalid argument.
    EINVAL = 22;
    /// Table full.
    ENFILE = 23;
    /// Too many open.
    EMFILE = 24;
    /// No space (or port) left.
    ENOSPC = 28;
    /// Read-only.
    EROFS = 30;
    /// Too many links.
    EMLINK = 31;
    /// Outside the function's domain.
    EDOM = 33;
    /// Result out of range.
    ERANGE = 34;
    /// Deadlock would follow.
    EDEADLK = 35;
    /// Name too long.
    ENAMETOOLONG = 36;
    /// No locks available.
    ENOLCK = 37;
    /// No such call.
    ENOSYS = 38;
    /// Directory not empty.
    ENOTEMPTY = 39;
    /// No data.
    ENODATA = 61;
    /// Timer expired.
    ETIME = 62;
    /// Bad message.
    EBADMSG = 74;
    /// Value too large.
    EOVERFLOW = 75;
    /// Illegal byte sequence.
    EILSEQ = 84;
    /// Restart the call (inside the hypervisor only).
    ERESTART = 85;
    /// Not a socket.
    ENOTSOCK = 88;
    /// Message too large.
    EMSGSIZE = 90;
    /// Not supported here.
    EOPNOTSUPP = 95;
    /// Address in use.
    EADDRINUSE = 98;
    /// Address not available.
    EADDRNOTAVAIL = 99;
    /// No buffer space.
    ENOBUFS = 105;
    /// Connected already.
    EISCONN = 106;
    /// Not connected.
    ENOTCONN = 107;
    /// Timed out.
    ETIMEDOUT = 110;
    /// Connection refused.
    ECONNREFUSED = 111;
    /// tmem: the pool or client is frozen.
    EFROZEN = 1000;
    /// tmem: nothing there.
    EEMPTY = 1001;
}

impl Errno {
    /// The greatest number a return value can carry; below its negative, a value is a result, not an error.
    pub const MAX: i64 = 4095;

    /// The error with this (positive) number; `None` outside 1 to [`Errno::MAX`].
    pub const fn new(number: i64) -> Option<Errno> {
        if number >= 1 && number <= Self::MAX { Some(Errno(number)) } else { None }
    }

    /// The positive number.
    pub const fn number(self) -> i64 {
        self.0
    }

    /// The value of the result register: the negated number.
    pub const fn to_return(self) -> i64 {
        -self.0
    }

    /// Splits a result register: `Err` for -4095 to -1, else the value.
    pub const fn from_return(value: i64) -> Result<i64, Errno> {
        if value < 0 && value >= -Self::MAX { Err(Errno(-value)) } else { Ok(value) }
    }

    /// The number's name, when it has one.
    pub fn name(self) -> Option<&'static str> {
        Self::ALL.iter().find(|(_, errno)| *errno == self).map(|(name, _)| *name)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "-{name}"),
            None => write!(f, "-{}", self.0),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_register_round_trips() {
        for (_, errno) in Errno::ALL {
            assert_eq!(Errno::from_return(errno.to_return()), Err(*errno));
        }
        assert_eq!(Errno::from_return(0), Ok(0));
        assert_eq!(Errno::from_return(i64::MIN), Ok(i64::MIN));
        assert_eq!(Errno::from_return(-4095), Err(Errno(4095)));
        assert_eq!(Errno::from_return(-4096), Ok(-4096));
        assert_eq!(Errno::new(0), None);
        assert_eq!(Errno::new(4096), None);
        assert_eq!(Errno::new(22), Some(Errno::EINVAL));
    }

    #[test]
    fn unknown_numbers_keep_their_value() {
        let unknown = Errno::new(777).unwrap();
        assert_eq!(unknown.name(), None);
        assert_eq!(unknown.to_return(), -777);
    }
}
