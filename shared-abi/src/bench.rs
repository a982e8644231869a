//! Ebb's benches: what a guest measures, what Xen 4.17 took in the same emulated machine, and what Ebb aims at.
//! Figures are instructions, medians, under QEMU's `-icount shift=0,sleep=off`, from a PVH guest.

/// A bench's number in [`crate::guest_event::BenchResult`].
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BenchId(pub u16);

/// A row of [`TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bench {
    /// Its number.
    pub id: BenchId,
    /// What is measured.
    pub name: &'static str,
    /// Xen in TCG as it is; 0: not measured there.
    pub xen_tcg: u64,
    /// Xen with next-RIP save added to the emulator: the fair figure to beat; 0: not measured.
    pub xen_next_rip: u64,
    /// Ebb's aim.
    pub aim: u64,
}

/// Declares the numbers and the table.
macro_rules! benches {
    ($($(#[$doc:meta])* $ident:ident = $id:literal, $name:literal, $tcg:literal, $next_rip:literal, $aim:literal;)*) => {
        impl BenchId {
            $($(#[$doc])* pub const $ident: BenchId = BenchId($id);)*
        }

        /// Every bench that a guest runs, in the order of their numbers.
        pub const TABLE: &[Bench] = &[
            $(Bench { id: BenchId($id), name: $name, xen_tcg: $tcg, xen_next_rip: $next_rip, aim: $aim }),*
        ];
    };
}

benches! {
    /// `xen_version`.
    NULL_HYPERCALL = 1, "null hypercall (xen_version)", 5_474, 707, 350;
    /// CPUID.
    CPUID_EXIT = 2, "CPUID exit", 5_364, 736, 350;
    /// A send that changes nothing.
    SEND_PENDING = 3, "event send, already pending or masked", 10_111, 5_009, 600;
    /// A send to self, to the first instruction of the upcall.
    SEND_SELF_UPCALL = 4, "event send to self until the upcall runs", 10_873, 5_771, 900;
    /// A send to another port of the domain.
    SEND_OTHER_PORT = 5, "event send to another port of the domain", 10_167, 5_065, 700;
    /// A poll that returns at once.
    POLL_PENDING = 6, "poll on a pending port", 14_468, 9_366, 900;
    /// A yield that changes nothing.
    YIELD_ALONE = 7, "yield with nothing else to run", 7_815, 2_506, 700;
    /// Setting the single-shot timer.
    SET_SINGLESHOT = 8, "set single-shot timer", 10_360, 5_258, 700;
    /// `XENMEM_current_reservation`.
    CURRENT_RESERVATION = 9, "current_reservation", 10_094, 4_992, 600;
    /// An xAPIC register by MMIO.
    XAPIC_READ = 10, "xAPIC register read (decoded)", 14_170, 14_165, 2_000;
    /// Giving a page.
    DECREASE_4K = 11, "decrease_reservation, one 4 KiB", 18_501, 13_399, 1_500;
    /// Getting a page.
    POPULATE_4K = 12, "populate_physmap, one 4 KiB", 17_535, 12_433, 1_500;
    /// Giving 512 pages, each.
    DECREASE_4K_OF_512 = 13, "decrease_reservation, per page in 512 x 4 KiB", 8_394, 8_384, 500;
    /// Getting 512 pages, each.
    POPULATE_4K_OF_512 = 14, "populate_physmap, per page in 512 x 4 KiB", 7_314, 7_304, 500;
    /// Giving a superpage.
    DECREASE_2M = 15, "decrease_reservation, one 2 MiB extent", 2_010_242, 2_005_140, 3_000;
    /// Getting a superpage, from scrubbed memory.
    POPULATE_2M = 16, "populate_physmap, one 2 MiB extent", 239_098, 233_996, 3_000;
    /// From a send to the other vCPU's return from poll, on one CPU.
    KICK_TO_WAKE = 17, "kick to wake, one CPU", 29_336, 19_132, 3_000;
    /// There and back by poll, on one CPU.
    PING_PONG_POLL = 18, "ping-pong round trip by poll, one CPU", 58_701, 38_293, 6_000;
    /// There and back by halt, on one CPU.
    PING_PONG_HALT = 19, "ping-pong round trip by halt, one CPU", 42_256, 22_302, 6_000;
    /// A request to XenStore and its reply.
    XENSTORE_READ = 20, "XenStore read, request and reply", 0, 0, 20_000;
    /// Start, read, write and end.
    XENSTORE_TRANSACTION = 21, "XenStore transaction of four requests", 0, 0, 80_000;
    /// A page that does not compress, into a private ephemeral pool. Two copies of 512 steps, four instructions for each
    /// word that is hashed, and the books.
    TMEM_PUT = 22, "tmem put of a page", 0, 0, 5_000;
    /// The same page back: one copy, and the books.
    TMEM_GET = 23, "tmem get of a page", 0, 0, 3_000;
    /// A get of a page that is not there.
    TMEM_MISS = 24, "tmem get that misses", 0, 0, 1_200;
    /// A page forgotten.
    TMEM_FLUSH = 25, "tmem flush of a page", 0, 0, 2_000;
    /// The plain ticketlock taken and let go, nobody else wanting it.
    NATIVE_LOCK = 26, "native ticketlock, lock and unlock", 0, 0, 20;
    /// The PV ticketlock: as much.
    PV_LOCK = 27, "PV ticketlock, lock and unlock", 0, 0, 20;
    /// The kernel's mutex.
    MUTEX_LOCK = 28, "mutex, lock and unlock", 0, 0, 40;
    /// From the call of a lock's waiter that goes to sleep to the first instruction of the vCPU that was waiting for the
    /// CPU.
    BLOCK = 29, "block: poll until the other vCPU runs, one CPU", 0, 0, 2_500;
    /// What it costs to wake such a sleeper: the call. [`BenchId::KICK_TO_WAKE`] is the whole way.
    KICK = 30, "kick: send that wakes a sleeper", 0, 0, 1_200;
}

impl BenchId {
    /// Its row, when the number is known.
    pub fn row(self) -> Option<&'static Bench> {
        TABLE.get(usize::from(self.0).checked_sub(1)?)
    }
}

/// A row of [`MACHINE_TABLE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MachineBench {
    /// What is measured.
    pub name: &'static str,
    /// Xen in TCG as it is.
    pub xen_tcg: u64,
    /// Xen with next-RIP save, where it was measured.
    pub xen_next_rip: Option<u64>,
    /// Ebb's aim.
    pub aim: u64,
}

/// The hypervisor's own initialisation, waits and decompression left out.
pub const INITIALISATION: MachineBench = MachineBench {
    name: "initialisation of the hypervisor",
    xen_tcg: 160_000_000,
    xen_next_rip: None,
    aim: 16_000_000,
};
/// From creating a domain (128 MiB, 2 vCPUs) to its first instruction.
pub const DOMAIN_CREATE: MachineBench = MachineBench {
    name: "domain create to its first instruction",
    xen_tcg: 40_500_000,
    xen_next_rip: None,
    aim: 4_000_000,
};
/// Debian's Linux 6.1 cloud kernel (256 MiB, 2 vCPUs), from domain start to init.
pub const LINUX_BOOT: MachineBench = MachineBench {
    name: "Linux, domain start to /init, by vCPUs",
    xen_tcg: 2_030_000_000,
    xen_next_rip: Some(1_990_000_000),
    aim: 1_800_000_000,
};

/// What is measured from outside the guests.
pub const MACHINE_TABLE: &[MachineBench] = &[INITIALISATION, DOMAIN_CREATE, LINUX_BOOT];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_find_their_rows() {
        for (index, bench) in TABLE.iter().enumerate() {
            assert_eq!(usize::from(bench.id.0), index + 1);
            assert_eq!(bench.id.row(), Some(bench));
            let measured = bench.xen_tcg != 0;
            assert!(!measured || bench.aim < bench.xen_next_rip && bench.xen_next_rip <= bench.xen_tcg);
        }
        assert_eq!(BenchId(0).row(), None);
        assert_eq!(BenchId(31).row(), None);
        assert_eq!(BenchId(u16::MAX).row(), None);
    }
}
