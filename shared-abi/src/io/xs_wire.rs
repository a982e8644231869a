//! `io/xs_wire.h`: XenStore's messages and its ring, one page. The ring is accessed in place by both sides.

use core::mem::offset_of;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `enum xsd_sockmsg_type`: what a message is.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct MessageType(pub u32);

impl MessageType {
    /// `XS_CONTROL`: control of the server.
    pub const CONTROL: MessageType = MessageType(0);
    /// `XS_DIRECTORY`: a node's children.
    pub const DIRECTORY: MessageType = MessageType(1);
    /// `XS_READ`: a node's value.
    pub const READ: MessageType = MessageType(2);
    /// `XS_GET_PERMS`: its permissions.
    pub const GET_PERMS: MessageType = MessageType(3);
    /// `XS_WATCH`: set a watch.
    pub const WATCH: MessageType = MessageType(4);
    /// `XS_UNWATCH`: remove it.
    pub const UNWATCH: MessageType = MessageType(5);
    /// `XS_TRANSACTION_START`: start a transaction.
    pub const TRANSACTION_START: MessageType = MessageType(6);
    /// `XS_TRANSACTION_END`: end it.
    pub const TRANSACTION_END: MessageType = MessageType(7);
    /// `XS_INTRODUCE`: a domain is there.
    pub const INTRODUCE: MessageType = MessageType(8);
    /// `XS_RELEASE`: it is gone.
    pub const RELEASE: MessageType = MessageType(9);
    /// `XS_GET_DOMAIN_PATH`: a domain's home.
    pub const GET_DOMAIN_PATH: MessageType = MessageType(10);
    /// `XS_WRITE`: set a node's value.
    pub const WRITE: MessageType = MessageType(11);
    /// `XS_MKDIR`: make a node.
    pub const MKDIR: MessageType = MessageType(12);
    /// `XS_RM`: remove it.
    pub const RM: MessageType = MessageType(13);
    /// `XS_SET_PERMS`: set its permissions.
    pub const SET_PERMS: MessageType = MessageType(14);
    /// `XS_WATCH_EVENT`: a watch has fired.
    pub const WATCH_EVENT: MessageType = MessageType(15);
    /// `XS_ERROR`: an answer: it failed.
    pub const ERROR: MessageType = MessageType(16);
    /// `XS_IS_DOMAIN_INTRODUCED`: whether a domain is there.
    pub const IS_DOMAIN_INTRODUCED: MessageType = MessageType(17);
    /// `XS_RESUME`: a domain was resumed.
    pub const RESUME: MessageType = MessageType(18);
    /// `XS_SET_TARGET`: a domain has another's rights.
    pub const SET_TARGET: MessageType = MessageType(19);
    /// `XS_RESET_WATCHES`: remove all watches and transactions.
    pub const RESET_WATCHES: MessageType = MessageType(21);
    /// `XS_DIRECTORY_PART`: a part of a node's children.
    pub const DIRECTORY_PART: MessageType = MessageType(22);
    /// `XS_TYPE_COUNT`: types from this one on do not exist.
    pub const COUNT: u32 = 23;
    /// `XS_INVALID`: never valid.
    pub const INVALID: MessageType = MessageType(0xffff);
}

/// `struct xsd_sockmsg`: the header of every message; `len` bytes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Header {
    /// `type`.
    pub type_: MessageType,
    /// The answer carries the same.
    pub req_id: u32,
    /// The transaction; 0 for none.
    pub tx_id: u32,
    /// Bytes that follow; at most [`PAYLOAD_MAX`].
    pub len: u32,
}

/// Error names that an [`MessageType::ERROR`] message can carry, NUL-terminated on the wire. A client that does not know
/// one takes it for EINVAL.
pub const ERRORS: &[crate::Errno] = {
    use crate::Errno;
    &[
        Errno::EINVAL,
        Errno::EACCES,
        Errno::EEXIST,
        Errno::EISDIR,
        Errno::ENOENT,
        Errno::ENOMEM,
        Errno::ENOSPC,
        Errno::EIO,
        Errno::ENOTEMPTY,
        Errno::ENOSYS,
        Errno::EROFS,
        Errno::EBUSY,
        Errno::EAGAIN,
        Errno::EISCONN,
        Errno::E2BIG,
        Errno::EPERM,
    ]
};

/// `XENSTORE_RING_SIZE`: bytes that each direction holds.
pub const RING_SIZE: u32 = 1024;
/// `XENSTORE_PAYLOAD_MAX`: the longest payload.
pub const PAYLOAD_MAX: u32 = 4096;
/// `XENSTORE_ABS_PATH_MAX`: the longest absolute path.
pub const ABS_PATH_MAX: u32 = 3072;
/// `XENSTORE_REL_PATH_MAX`: the longest relative path.
pub const REL_PATH_MAX: u32 = 2048;

/// `XENSTORE_SERVER_FEATURE_RECONNECTION`: the server can reconnect.
pub const SERVER_FEATURE_RECONNECTION: u32 = 1;
/// `XENSTORE_SERVER_FEATURE_ERROR`: the server reports errors in the ring.
pub const SERVER_FEATURE_ERROR: u32 = 2;
/// `XENSTORE_CONNECTED`: the connection stands.
pub const CONNECTED: u32 = 0;
/// `XENSTORE_RECONNECT`: the guest asks for a new one.
pub const RECONNECT: u32 = 1;
/// `XENSTORE_ERROR_NONE`: no error.
pub const ERROR_NONE: u32 = 0;
/// `XENSTORE_ERROR_COMM`: communication failed.
pub const ERROR_COMM: u32 = 1;
/// `XENSTORE_ERROR_RINGIDX`: the guest's index was invalid.
pub const ERROR_RINGIDX: u32 = 2;
/// `XENSTORE_ERROR_PROTO`: the guest broke the protocol.
pub const ERROR_PROTO: u32 = 3;

/// `struct xenstore_domain_interface`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DomainInterface {
    /// Requests.
    pub req: [u8; RING_SIZE as usize],
    /// Answers and watch events.
    pub rsp: [u8; RING_SIZE as usize],
    /// Requests consumed by the server.
    pub req_cons: u32,
    /// Requests produced by the guest.
    pub req_prod: u32,
    /// Answers consumed by the guest.
    pub rsp_cons: u32,
    /// Answers produced by the server.
    pub rsp_prod: u32,
    /// `XENSTORE_SERVER_FEATURE_*`.
    pub server_features: u32,
    /// `XENSTORE_CONNECTED` or `..._RECONNECT`.
    pub connection: u32,
    /// `XENSTORE_ERROR_*`.
    pub error: u32,
}

/// Offset of `req`.
pub const REQ: usize = offset_of!(DomainInterface, req);
/// Offset of `rsp`.
pub const RSP: usize = offset_of!(DomainInterface, rsp);
/// Offset of `req_cons`.
pub const REQ_CONS: usize = offset_of!(DomainInterface, req_cons);
/// Offset of `req_prod`.
pub const REQ_PROD: usize = offset_of!(DomainInterface, req_prod);
/// Offset of `rsp_cons`.
pub const RSP_CONS: usize = offset_of!(DomainInterface, rsp_cons);
/// Offset of `rsp_prod`.
pub const RSP_PROD: usize = offset_of!(DomainInterface, rsp_prod);

const _: () = {
    assert!(size_of::<Header>() == 16);
    assert!(size_of::<DomainInterface>() == 2076);
    assert!(RSP == 1024 && REQ_CONS == 2048 && RSP_PROD == 2060);
};
