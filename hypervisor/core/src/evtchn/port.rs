//! A domain's ports: one atomic word each says what a port is bound to, so that a send needs no lock.
//!
//! The table grows by chunks that never move or go away while the domain's structures live. Its growth, and every change
//! of a binding, happens under the domain's EVENT lock; reading needs nothing. A reader may see a binding that is being
//! replaced: what that can lead to is argued in [`super::deliver`].

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64, Ordering};

use shared_abi::event_channel::{FIFO_NR_CHANNELS, FIFO_PRIORITY_DEFAULT};
use shared_abi::xen::{DomId, Errno, Port, VcpuId, Virq};

/// What a port is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// Nothing. Any such port but 0 may be allocated.
    Free,
    /// Waits for this domain to bind it. Sending is allowed and does nothing.
    Unbound(DomId),
    /// Connected to a port of a domain (perhaps the same), whose binding points back here.
    Interdomain(DomId, Port),
    /// Receives a virtual interrupt.
    Virq(Virq),
    /// Carries signals between the domain's vCPUs.
    Ipi,
}

/// A binding and the vCPU it signals, in one word: kind in bits 0–7, vCPU in 8–15, domain in 16–31, port or VIRQ in
/// 32–63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed(u64);

const FREE: u8 = 0;
const UNBOUND: u8 = 1;
const INTERDOMAIN: u8 = 2;
const VIRQ: u8 = 3;
const IPI: u8 = 4;

impl Packed {
    /// Packs a binding that signals `vcpu`.
    #[inline]
    pub fn new(binding: Binding, vcpu: VcpuId) -> Self {
        debug_assert!(vcpu.0 < 256);
        let (kind, domain, rest) = match binding {
            Binding::Free => (FREE, 0, 0),
            Binding::Unbound(domain) => (UNBOUND, domain.0, 0),
            Binding::Interdomain(domain, port) => (INTERDOMAIN, domain.0, port.0),
            Binding::Virq(virq) => (VIRQ, 0, virq.0),
            Binding::Ipi => (IPI, 0, 0),
        };
        let vcpu = u64::from(vcpu.0 as u8);
        Self(u64::from(kind) | vcpu << 8 | u64::from(domain) << 16 | u64::from(rest) << 32)
    }

    /// What the port is bound to.
    #[inline]
    pub fn binding(self) -> Binding {
        let domain = DomId((self.0 >> 16) as u16);
        let rest = (self.0 >> 32) as u32;
        match self.0 as u8 {
            UNBOUND => Binding::Unbound(domain),
            INTERDOMAIN => Binding::Interdomain(domain, Port(rest)),
            VIRQ => Binding::Virq(Virq(rest)),
            IPI => Binding::Ipi,
            _ => Binding::Free,
        }
    }

    /// The vCPU it signals: always one the domain has.
    #[inline]
    pub fn vcpu(self) -> VcpuId {
        VcpuId(u32::from((self.0 >> 8) as u8))
    }
}

/// One port.
#[derive(Debug)]
pub struct PortEntry {
    binding: AtomicU64,
    /// FIFO: the queue it was last linked on (vCPU and priority), changed only with that queue's lock and the new one's.
    pub last_queue: AtomicU16,
    /// FIFO: the priority for its next event.
    pub priority: AtomicU8,
    /// FIFO: became pending while the page with its event word did not exist.
    pub saved_pending: AtomicBool,
}

impl PortEntry {
    fn new() -> Self {
        Self {
            binding: AtomicU64::new(Packed::new(Binding::Free, VcpuId(0)).0),
            last_queue: AtomicU16::new(0),
            priority: AtomicU8::new(FIFO_PRIORITY_DEFAULT as u8),
            saved_pending: AtomicBool::new(false),
        }
    }

    /// The binding now.
    #[inline]
    pub fn load(&self) -> Packed {
        Packed(self.binding.load(Ordering::SeqCst))
    }

    /// Changes the binding. The caller holds the domain's EVENT lock.
    pub fn store(&self, binding: Binding, vcpu: VcpuId) {
        self.binding.store(Packed::new(binding, vcpu).0, Ordering::SeqCst);
    }
}

const CHUNK_BITS: u32 = 7;
const GROUP_BITS: u32 = 5;
const CHUNK: usize = 1 << CHUNK_BITS;
const GROUP: usize = 1 << GROUP_BITS;
const GROUPS: usize = FIFO_NR_CHANNELS as usize >> (CHUNK_BITS + GROUP_BITS);

// Arrays of a length known at compile time: no length to load and compare on the way of a send.
type Chunk = spin::Once<Box<[PortEntry; CHUNK]>>;
type Group = spin::Once<Box<[Chunk; GROUP]>>;

/// All ports of a domain that have ever been needed.
#[derive(Debug)]
pub struct PortTable {
    groups: [Group; GROUPS],
}

impl PortTable {
    /// A table without ports.
    pub const fn new() -> Self {
        Self { groups: [const { spin::Once::new() }; GROUPS] }
    }

    /// A port, if its chunk exists.
    #[inline]
    pub fn get(&self, port: Port) -> Option<&PortEntry> {
        let index = port.0 as usize;
        let group = self.groups.get(index >> (CHUNK_BITS + GROUP_BITS))?.get()?;
        let chunk = group[(index >> CHUNK_BITS) % GROUP].get()?;
        Some(&chunk[index % CHUNK])
    }

    /// A port, making its chunk if need be. The caller holds the domain's EVENT lock.
    ///
    /// # Errors
    /// `ENOSPC` beyond the last port of the ABI, `ENOMEM` when memory is short.
    pub fn get_or_create(&self, port: Port) -> Result<&PortEntry, Errno> {
        if let Some(entry) = self.get(port) {
            return Ok(entry);
        }
        let index = port.0 as usize;
        let group = self.groups.get(index >> (CHUNK_BITS + GROUP_BITS)).ok_or(Errno::ENOSPC)?;
        let group = group.try_call_once(|| fallible_box(spin::Once::new))?;
        let chunk = &group[(index >> CHUNK_BITS) % GROUP];
        let chunk = chunk.try_call_once(|| fallible_box(PortEntry::new))?;
        Ok(&chunk[index % CHUNK])
    }
}

impl Default for PortTable {
    fn default() -> Self {
        Self::new()
    }
}

/// A boxed array of fresh values, or `ENOMEM`: a guest's wish may not end the hypervisor.
fn fallible_box<T, const COUNT: usize>(make: impl Fn() -> T) -> Result<Box<[T; COUNT]>, Errno> {
    let mut items = Vec::new();
    items.try_reserve_exact(COUNT).map_err(|_| Errno::ENOMEM)?;
    items.extend((0..COUNT).map(|_| make()));
    items.try_into().map_err(|_| Errno::ENOMEM)
}

const _: () = assert!(size_of::<PortEntry>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_survive_packing() {
        let all = [
            Binding::Free,
            Binding::Unbound(DomId(0x7fef)),
            Binding::Interdomain(DomId(77), Port(131_071)),
            Binding::Virq(Virq(23)),
            Binding::Ipi,
        ];
        for binding in all {
            let packed = Packed::new(binding, VcpuId(63));
            assert_eq!(packed.binding(), binding);
            assert_eq!(packed.vcpu(), VcpuId(63));
        }
    }

    #[test]
    fn the_table_ends_where_the_abi_does() {
        let table = PortTable::new();
        assert!(table.get(Port(0)).is_none());
        assert!(table.get_or_create(Port(FIFO_NR_CHANNELS - 1)).is_ok());
        assert_eq!(table.get_or_create(Port(FIFO_NR_CHANNELS)).err(), Some(Errno::ENOSPC));
        assert!(table.get(Port(FIFO_NR_CHANNELS)).is_none());
        assert!(table.get(Port(u32::MAX)).is_none());
        assert!(table.get(Port(5)).is_none(), "only the chunk asked for is made");
    }
}
