//! Ebb's trace stream: what leaves the machine on the trace port, and what the host tool reads.
//!
//! Little endian. A record is a 16-byte [`Header`] and a payload; its length is the header's, a multiple of 8. The first
//! record of a stream is [`Start`]. The decoder takes any bytes: it never panics, reads outside the slice, or loops
//! without progress; what it cannot understand comes out as [`Record::Unknown`] or an error, and [`find_start`] finds a
//! stream again after noise.

pub use crate::exit_reason::ExitReason;
use crate::xen::{DomId, Port};
use core::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The kind of a record.
#[repr(transparent)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
pub struct Kind(pub u16);

impl Kind {
    /// [`Start`].
    pub const START: Kind = Kind(1);
    /// [`HostSample`].
    pub const HOST_SAMPLE: Kind = Kind(2);
    /// [`DomainSample`].
    pub const DOMAIN_SAMPLE: Kind = Kind(3);
    /// [`GuestEvent`].
    pub const GUEST_EVENT: Kind = Kind(4);
    /// [`DomainEnd`].
    pub const DOMAIN_END: Kind = Kind(5);
    /// [`Lost`].
    pub const LOST: Kind = Kind(6);
    /// [`End`].
    pub const END: Kind = Kind(7);
    /// [`VmExit`].
    pub const VM_EXIT: Kind = Kind(8);
    /// [`VcpuSwitch`].
    pub const VCPU_SWITCH: Kind = Kind(9);
    /// [`EventSend`].
    pub const EVENT_SEND: Kind = Kind(10);
    /// [`DomainStart`].
    pub const DOMAIN_START: Kind = Kind(11);
    /// [`Initialised`].
    pub const INITIALISED: Kind = Kind(12);
    /// [`DomainBuild`].
    pub const DOMAIN_BUILD: Kind = Kind(13);
    /// [`VcpuStart`].
    pub const VCPU_START: Kind = Kind(14);
    /// [`DomainExits`].
    pub const DOMAIN_EXITS: Kind = Kind(15);
    /// [`Poll`].
    pub const POLL: Kind = Kind(16);
    /// [`DomainSpins`].
    pub const DOMAIN_SPINS: Kind = Kind(17);

    /// The kind's bit in a trace mask, for kinds below 64.
    pub const fn mask(self) -> u64 {
        if self.0 < 64 { 1 << self.0 } else { 0 }
    }
}

/// Magic bytes of [`Start`].
pub const MAGIC: [u8; 8] = *b"EBBTRACE";
/// Version of the format.
pub const VERSION: u32 = 1;
/// Bytes of a header.
pub const HEADER_SIZE: usize = size_of::<Header>();
/// No record is longer.
pub const MAX_RECORD_SIZE: usize = 4096;
/// The longest record this version writes.
pub const MAX_WRITTEN_SIZE: usize = HEADER_SIZE + size_of::<DomainExits>();

/// A record's first 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Header {
    /// What follows.
    pub kind: Kind,
    /// Which physical CPU wrote it.
    pub cpu: u16,
    /// Bytes of the whole record, a multiple of 8.
    pub length: u32,
    /// System time, ns.
    pub time_ns: u64,
}

/// A payload of a known kind.
pub trait Payload: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {
    /// Its kind.
    const KIND: Kind;
}

/// The stream's first record.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Start {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`VERSION`].
    pub version: u32,
    /// Physical CPUs.
    pub cpus: u32,
    /// TSC frequency, kHz.
    pub tsc_khz: u64,
    /// Pages of the ledger.
    pub total_pages: u64,
}

impl Start {
    /// A start record of this version.
    pub const fn new(cpus: u32, tsc_khz: u64, total_pages: u64) -> Self {
        Self { magic: MAGIC, version: VERSION, cpus, tsc_khz, total_pages }
    }
}

/// The ledger, in pages. `total` is the sum of the others but `claimed`, which is part of `free`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct HostSample {
    /// Free and scrubbed.
    pub free: u64,
    /// Free and dirty.
    pub scrubbing: u64,
    /// Domains'.
    pub domains: u64,
    /// The hypervisor's own.
    pub hypervisor: u64,
    /// Promised to domains about to be built.
    pub claimed: u64,
    /// tmem, may be taken back.
    pub tmem_ephemeral: u64,
    /// tmem, persistent.
    pub tmem_persistent: u64,
    /// The machine.
    pub total: u64,
}

/// [`DomainSample::state`]: being built.
pub const STATE_BUILDING: u16 = 0;
/// [`DomainSample::state`]: at least one vCPU runs or could.
pub const STATE_RUNNING: u16 = 1;
/// [`DomainSample::state`]: all vCPUs are blocked.
pub const STATE_BLOCKED: u16 = 2;
/// [`DomainSample::state`]: paused.
pub const STATE_PAUSED: u16 = 3;
/// [`DomainSample::state`]: its memory is being taken back.
pub const STATE_DYING: u16 = 4;

/// Bytes of a domain's name.
pub const NAME_SIZE: usize = 16;

/// A domain's figures.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DomainSample {
    /// Which.
    pub domid: DomId,
    /// `STATE_*`.
    pub state: u16,
    /// vCPUs online.
    pub vcpus: u32,
    /// Pages it has.
    pub current: u64,
    /// Pages it may have.
    pub maximum: u64,
    /// Time its vCPUs ran, ns.
    pub runtime_ns: u64,
    /// Time they waited for a CPU, ns.
    pub runnable_ns: u64,
    /// Events sent to it.
    pub events: u64,
    /// Hypercalls it made.
    pub hypercalls: u64,
    /// Its exits.
    pub exits: u64,
    /// Its name, NUL-padded: [`name_text`].
    pub name: [u8; NAME_SIZE],
    /// Frames of its ephemeral pages in transcendent memory, metadata included.
    pub tmem_ephemeral: u64,
    /// Frames of its persistent ones.
    pub tmem_persistent: u64,
    /// Tables of its second-stage translation, the root not counted: one more for each 2 MiB that are not one mapping.
    pub tables: u64,
}

/// An event that a guest reported ([`crate::guest_event`]).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct GuestEvent {
    /// Which domain.
    pub domid: DomId,
    /// Which of its vCPUs.
    pub vcpu: u16,
    /// The event's number.
    pub event: u16,
    /// Bytes of `extra` in use.
    pub extra_bytes: u16,
    /// What came with it.
    pub extra: [u8; 28],
    /// Padding.
    pub pad: u32,
}

impl GuestEvent {
    /// The bytes in use; never more than there are.
    pub fn payload(&self) -> &[u8] {
        let length = usize::from(self.extra_bytes).min(self.extra.len());
        &self.extra[..length]
    }

    /// The payload as type `T`, when the number is `T`'s and enough bytes are in use.
    pub fn decode<T: crate::guest_event::GuestEvent>(&self) -> Option<T> {
        T::decode(self.event, self.payload())
    }
}

/// [`DomainEnd::reason`]: destroyed from outside. Smaller reasons are `SHUTDOWN_*`.
pub const REASON_DESTROYED: u16 = 0xfffe;
/// [`DomainEnd::reason`]: triple fault.
pub const REASON_TRIPLE_FAULT: u16 = 0xffff;

/// A domain has ended and its memory is back.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DomainEnd {
    /// Which.
    pub domid: DomId,
    /// `SHUTDOWN_*` or `REASON_*`.
    pub reason: u16,
    /// Padding.
    pub pad: u32,
}

/// Records were lost here.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Lost {
    /// How many.
    pub count: u64,
}

/// The stream's last record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct End {
    /// The machine's status.
    pub status: u64,
}

/// A guest left to the hypervisor; stamped before the exit is handled.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VmExit {
    /// Which domain.
    pub domid: DomId,
    /// Which of its vCPUs.
    pub vcpu: u16,
    /// The vendor's exit code.
    pub reason: u32,
    /// Where.
    pub rip: u64,
    /// The exit's first information word.
    pub info: u64,
}

/// Another vCPU runs on this CPU from now on. [`DomId::IDLE`] stands for none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VcpuSwitch {
    /// Domain that ran.
    pub prev_domid: DomId,
    /// Its vCPU.
    pub prev_vcpu: u16,
    /// Domain that runs.
    pub next_domid: DomId,
    /// Its vCPU.
    pub next_vcpu: u16,
}

/// An event was sent to a domain.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct EventSend {
    /// To which domain.
    pub domid: DomId,
    /// Padding.
    pub pad: u16,
    /// Its port.
    pub port: Port,
}

/// A domain starts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DomainStart {
    /// Which.
    pub domid: DomId,
    /// Padding.
    pub pad: [u8; 6],
    /// Its name, NUL-padded.
    pub name: [u8; NAME_SIZE],
}

/// The hypervisor's own initialisation is over; what follows is the building of domains. Under an emulator that counts
/// instructions a tick is one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Initialised {
    /// TSC ticks from the first Rust instruction, waits included.
    pub ticks: u64,
    /// Those of them in which the boot processor waited: for clocks to be calibrated, for other processors.
    pub waited: u64,
    /// The TSC at this time: with the record's time it tells what guests mean by a value of theirs.
    pub tsc: u64,
}

/// The building of a domain begins: nothing has been done for it yet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DomainBuild {
    /// Which.
    pub domid: DomId,
    /// Padding.
    pub pad: [u8; 6],
    /// Free pages that were clear at this time: with fewer than `pages`, the rest is cleared while it is built.
    pub clean: u64,
    /// Pages it begins with.
    pub pages: u64,
}

/// A vCPU is about to execute the first instruction from the state it was given.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct VcpuStart {
    /// Which domain.
    pub domid: DomId,
    /// Which of its vCPUs.
    pub vcpu: u16,
    /// Padding.
    pub pad: u32,
}

/// How often a domain left to the hypervisor, by reason, over all its vCPUs. Comes before its [`DomainEnd`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DomainExits {
    /// Which domain.
    pub domid: DomId,
    /// Padding.
    pub pad: [u8; 6],
    /// By the number of an [`ExitReason`].
    pub counts: [u64; ExitReason::COUNT],
}

/// What a domain's pause exits led to, over all its vCPUs. Comes with its [`DomainExits`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct DomainSpins {
    /// Which domain.
    pub domid: DomId,
    /// Padding.
    pub pad: [u8; 6],
    /// The processor went to a vCPU of the domain that waited for one.
    pub directed: u64,
    /// None of the domain's waited for one.
    pub undirected: u64,
    /// The domain's locks sleep by themselves: it was left alone.
    pub left_alone: u64,
}

/// [`Poll::what`]: the vCPU goes to sleep.
pub const POLL_SLEEPS: u16 = 0;
/// [`Poll::what`]: a port that it polls was sent to, which ended its sleep.
pub const POLL_SENT: u16 = 1;
/// [`Poll::what`]: the poll's time was up, which ended its sleep.
pub const POLL_TIMED_OUT: u16 = 2;

/// A vCPU begins or ends a sleep in `SCHEDOP_poll`. A sleep that ends for another reason, an interrupt for instance, has
/// no second record.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
pub struct Poll {
    /// Which domain.
    pub domid: DomId,
    /// Which of its vCPUs.
    pub vcpu: u16,
    /// `POLL_*`.
    pub what: u16,
    /// Padding.
    pub pad: u16,
    /// The port that is polled, or that was sent to; 0: none or several.
    pub port: Port,
    /// Padding.
    pub pad2: u32,
}

/// Declares the payloads and the enum of decoded records.
macro_rules! payloads {
    ($($name:ident = $kind:ident),* $(,)?) => {
        $(impl Payload for $name {
            const KIND: Kind = Kind::$kind;
        })*

        /// A decoded payload.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Record<'a> {
            $(
                #[doc = concat!("A [`struct@", stringify!($name), "`].")]
                $name($name),
            )*
            /// A kind this version does not know, or a known one whose payload is too short.
            Unknown(&'a [u8]),
        }

        fn decode_payload(kind: Kind, payload: &[u8]) -> Record<'_> {
            match kind {
                $(Kind::$kind => match $name::read_from_prefix(payload) {
                    Ok((record, _)) => Record::$name(record),
                    Err(_) => Record::Unknown(payload),
                },)*
                _ => Record::Unknown(payload),
            }
        }

        // A record's length is a multiple of 8, so a payload's size is too.
        const _: () = { $(assert!(size_of::<$name>() % 8 == 0 && size_of::<$name>() <= MAX_WRITTEN_SIZE - HEADER_SIZE);)* };
    };
}

payloads! {
    Start = START,
    HostSample = HOST_SAMPLE,
    DomainSample = DOMAIN_SAMPLE,
    GuestEvent = GUEST_EVENT,
    DomainEnd = DOMAIN_END,
    Lost = LOST,
    End = END,
    VmExit = VM_EXIT,
    VcpuSwitch = VCPU_SWITCH,
    EventSend = EVENT_SEND,
    DomainStart = DOMAIN_START,
    Initialised = INITIALISED,
    DomainBuild = DOMAIN_BUILD,
    VcpuStart = VCPU_START,
    DomainExits = DOMAIN_EXITS,
    Poll = POLL,
    DomainSpins = DOMAIN_SPINS,
}

/// Bytes of the record that carries a `P`.
pub const fn record_size<P: Payload>() -> usize {
    HEADER_SIZE + size_of::<P>()
}

/// Writes a record to the start of `out` and returns its length, or `None` when it does not fit (`out` is unchanged then).
pub fn encode<P: Payload>(payload: &P, cpu: u16, time_ns: u64, out: &mut [u8]) -> Option<usize> {
    let length = record_size::<P>();
    let out = out.get_mut(..length)?;
    let (head, body) = out.split_at_mut(HEADER_SIZE);
    let header = Header { kind: P::KIND, cpu, length: length as u32, time_ns };
    head.copy_from_slice(header.as_bytes());
    body.copy_from_slice(payload.as_bytes());
    Some(length)
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// At least this many bytes are needed from the record's start; a live stream may bring them.
    Truncated {
        /// Bytes of the header or, once that is there, of the whole record.
        needed: usize,
    },
    /// The length is not a multiple of 8, shorter than a header, or longer than [`MAX_RECORD_SIZE`].
    BadLength(u32),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { needed } => {
                write!(f, "the record is cut off: {needed} bytes are needed")
            }
            Self::BadLength(length) => write!(f, "a record cannot be {length} bytes long"),
        }
    }
}

impl core::error::Error for DecodeError {}

/// Takes the first record off `bytes`: its header, its payload, and what follows it.
pub fn decode(bytes: &[u8]) -> Result<(Header, Record<'_>, &[u8]), DecodeError> {
    let (header, _) = Header::read_from_prefix(bytes).map_err(|_| DecodeError::Truncated { needed: HEADER_SIZE })?;
    let length = header.length as usize;
    if !(HEADER_SIZE..=MAX_RECORD_SIZE).contains(&length) || !length.is_multiple_of(8) {
        return Err(DecodeError::BadLength(header.length));
    }
    let Some((record, rest)) = bytes.split_at_checked(length) else {
        return Err(DecodeError::Truncated { needed: length });
    };
    Ok((header, decode_payload(header.kind, &record[HEADER_SIZE..]), rest))
}

/// The records of a byte slice. After an error the iterator is at its end; [`Records::rest`] is what it did not take.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    failed: bool,
}

impl<'a> Records<'a> {
    /// The records of `bytes`, which start with a record.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, failed: false }
    }

    /// The bytes not taken yet: after [`DecodeError::Truncated`], the beginning of the next record.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<(Header, Record<'a>), DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.rest.is_empty() {
            return None;
        }
        match decode(self.rest) {
            Ok((header, record, rest)) => {
                self.rest = rest;
                Some(Ok((header, record)))
            }
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

impl core::iter::FusedIterator for Records<'_> {}

/// Where in `bytes` a stream starts (the first whole header of a [`Start`] record with its magic), if anywhere.
pub fn find_start(bytes: &[u8]) -> Option<usize> {
    bytes.windows(HEADER_SIZE + MAGIC.len()).position(|window| {
        window[HEADER_SIZE..] == MAGIC
            && Header::read_from_prefix(window)
                .is_ok_and(|(header, _)| header.kind == Kind::START && header.length as usize == record_size::<Start>())
    })
}

/// A name as it stands in a record: cut to fit, at a character's border, and NUL-padded.
pub fn name_field(name: &str) -> [u8; NAME_SIZE] {
    let mut length = name.len().min(NAME_SIZE);
    while !name.is_char_boundary(length) {
        length -= 1;
    }
    let mut field = [0; NAME_SIZE];
    field[..length].copy_from_slice(&name.as_bytes()[..length]);
    field
}

/// The text of a name field; what is not UTF-8 is left off.
pub fn name_text(field: &[u8; NAME_SIZE]) -> &str {
    let length = field.iter().position(|byte| *byte == 0).unwrap_or(NAME_SIZE);
    let bytes = &field[..length];
    match core::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or(""),
    }
}

const _: () = {
    use core::mem::offset_of;
    assert!(HEADER_SIZE == 16);
    assert!(offset_of!(Header, length) == 4 && offset_of!(Header, time_ns) == 8);
    assert!(size_of::<Start>() == 32);
    assert!(size_of::<HostSample>() == 64);
    assert!(size_of::<DomainSample>() == 104);
    assert!(offset_of!(DomainSample, name) == 64);
    assert!(size_of::<GuestEvent>() == 40);
    assert!(size_of::<DomainEnd>() == 8);
    assert!(size_of::<VmExit>() == 24);
    assert!(size_of::<VcpuSwitch>() == 8);
    assert!(size_of::<EventSend>() == 8);
    assert!(size_of::<DomainStart>() == 24);
    assert!(size_of::<Initialised>() == 24);
    assert!(size_of::<DomainBuild>() == 24);
    assert!(size_of::<VcpuStart>() == 8);
    assert!(size_of::<DomainExits>() == 168);
    assert!(size_of::<Poll>() == 16);
    assert!(size_of::<DomainSpins>() == 32);
};
