//! Leaks by speculation: what the processor has against them, what Ebb does of that, what guests are given.
//!
//! Plain functions of CPUID, IA32_ARCH_CAPABILITIES and the command line; the instructions are the machine's. A part is
//! taken to be affected unless it says that it is not, where it has the means against the leak at all: those that were
//! never affected were not given the means. What is covered and what is not: docs/speculation.md.
//!
//! Specifications: Intel SDM volume 4, and Intel's guidance on speculative execution; AMD64 manual volume 2, 3.2.9, and
//! AMD's "Indirect branch control extension".

use core::fmt;

use crate::cpuid::Reader;

/// IA32_SPEC_CTRL and IA32_PRED_CMD, IA32_ARCH_CAPABILITIES and IA32_FLUSH_CMD.
pub mod msr {
    /// Restrictions of speculation that stay on.
    pub const SPEC_CTRL: u32 = 0x48;
    /// Commands to the predictors.
    pub const PRED_CMD: u32 = 0x49;
    /// What the processor is not open to.
    pub const ARCH_CAPABILITIES: u32 = 0x10a;
    /// Commands to the caches.
    pub const FLUSH_CMD: u32 = 0x10b;
}

/// Bits of IA32_SPEC_CTRL.
mod spec_ctrl {
    pub const IBRS: u64 = 1 << 0;
    pub const STIBP: u64 = 1 << 1;
    pub const SSBD: u64 = 1 << 2;
}

/// The only bit of IA32_PRED_CMD and of IA32_FLUSH_CMD: the barrier, the flush.
pub const COMMAND: u64 = 1;

bitflags::bitflags! {
    /// What a processor has, whoever made it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Means: u16 {
        /// Indirect branches can be restricted.
        const IBRS = 1 << 0;
        /// What was learnt about indirect branches can be forgotten.
        const IBPB = 1 << 1;
        /// Sibling threads can be kept from steering indirect branches.
        const STIBP = 1 << 2;
        /// Loads can be kept from passing stores.
        const SSBD = 1 << 3;
        /// The first-level data cache can be flushed.
        const L1D_FLUSH = 1 << 4;
        /// VERW overwrites the buffers between core and cache.
        const MD_CLEAR = 1 << 5;
        /// IA32_ARCH_CAPABILITIES.
        const CAPABILITIES = 1 << 6;
        /// The processor restricts indirect branches by itself when it enters CPL 0 (AMD).
        const AUTOMATIC_IBRS = 1 << 7;
    }
}

bitflags::bitflags! {
    /// IA32_ARCH_CAPABILITIES, as far as it matters here.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Capabilities: u64 {
        /// Not open to Meltdown and L1TF.
        const RDCL_NO = 1 << 0;
        /// IBRS may be left on.
        const IBRS_ALL = 1 << 1;
        /// The return predictor may fall back on that of indirect branches.
        const RSBA = 1 << 2;
        /// The first-level cache need not be flushed before an entry.
        const SKIP_L1DFL_VMENTRY = 1 << 3;
        /// Loads do not pass stores in a way that matters.
        const SSB_NO = 1 << 4;
        /// Not open to MDS.
        const MDS_NO = 1 << 5;
        /// No machine check when the size of a page changes.
        const IF_PSCHANGE_MC_NO = 1 << 6;
        /// Not open to asynchronous aborts of TSX.
        const TAA_NO = 1 << 8;
        /// Not open to three leaks by device memory.
        const SBDR_SSDP_NO = 1 << 13;
        /// The second.
        const FBSDP_NO = 1 << 14;
        /// The third.
        const PSDP_NO = 1 << 15;
        /// VERW overwrites fill buffers.
        const FB_CLEAR = 1 << 17;
        /// As RSBA, within what IBRS restricts.
        const RRSBA = 1 << 19;
        /// Not open to branch history injection.
        const BHI_NO = 1 << 20;
        /// Returns after a barrier are not predicted from before.
        const PBRSB_NO = 1 << 24;
        /// Not open to gather data sampling.
        const GDS_NO = 1 << 26;
        /// Not open to register file data sampling.
        const RFDS_NO = 1 << 27;
        /// VERW clears register files.
        const RFDS_CLEAR = 1 << 28;
        /// Not open to indirect target selection.
        const ITS_NO = 1 << 62;
    }
}

/// What a processor says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Processor {
    means: Means,
    capabilities: Capabilities,
    raw_capabilities: Option<u64>,
    is_intel: bool,
    has_tsx: bool,
}

const EXTENDED: u32 = 0x8000_0000;
/// "GenuineIntel", in ebx, edx, ecx.
const INTEL: [u32; 3] = [0x756e_6547, 0x4965_6e69, 0x6c65_746e];

impl Processor {
    /// The processor that `read` reads; `read_msr` is asked for IA32_ARCH_CAPABILITIES where CPUID has it.
    pub fn new(read: Reader, read_msr: impl FnOnce(u32) -> Option<u64>) -> Self {
        let [last, ebx, ecx, edx] = read(0, 0);
        let [last_extended, ..] = read(EXTENDED, 0);
        let [_, ebx7, _, edx7] = if last >= 7 { read(7, 0) } else { [0; 4] };
        let [_, ebx8, ..] = if last_extended >= EXTENDED + 8 { read(EXTENDED + 8, 0) } else { [0; 4] };
        let [eax21, ..] = if last_extended >= EXTENDED + 0x21 { read(EXTENDED + 0x21, 0) } else { [0; 4] };
        let mut means = means_in(edx7, ebx8);
        means.set(Means::AUTOMATIC_IBRS, eax21 & 1 << 8 != 0);
        let raw = if means.contains(Means::CAPABILITIES) { read_msr(msr::ARCH_CAPABILITIES) } else { None };
        means.set(Means::CAPABILITIES, raw.is_some());
        Self {
            means,
            capabilities: Capabilities::from_bits_truncate(raw.unwrap_or(0)),
            raw_capabilities: raw,
            is_intel: [ebx, edx, ecx] == INTEL,
            has_tsx: ebx7 & 1 << 11 != 0,
        }
    }

    /// IA32_ARCH_CAPABILITIES, where it is.
    pub fn capabilities(&self) -> Option<u64> {
        self.raw_capabilities
    }

    /// Whether IA32_SPEC_CTRL is there.
    pub fn has_spec_ctrl(&self) -> bool {
        self.means.intersects(Means::IBRS.union(Means::STIBP).union(Means::SSBD))
    }

    /// What Ebb does on this processor.
    pub fn plan(&self, wanted: Wanted) -> Plan {
        let has = |capability| self.capabilities.contains(capability);
        let open_to_l1tf = self.is_intel && !has(Capabilities::RDCL_NO) && !has(Capabilities::SKIP_L1DFL_VMENTRY);
        let open_to_mds = !has(Capabilities::MDS_NO) || self.has_tsx && !has(Capabilities::TAA_NO);
        let by_verw = self.means.contains(Means::MD_CLEAR) && open_to_mds
            || has(Capabilities::RFDS_CLEAR) && !has(Capabilities::RFDS_NO);
        let ibrs = self.means.contains(Means::IBRS) && has(Capabilities::IBRS_ALL);
        Plan {
            ibpb: wanted.ibpb && self.means.contains(Means::IBPB),
            l1d: wanted.l1d && open_to_l1tf && self.means.contains(Means::L1D_FLUSH),
            verw: wanted.verw && self.is_intel && by_verw,
            host_spec_ctrl: self.has_spec_ctrl().then_some(if wanted.ibrs && ibrs { spec_ctrl::IBRS } else { 0 }),
            automatic_ibrs: wanted.ibrs && self.means.contains(Means::AUTOMATIC_IBRS),
        }
    }

    /// Whether the processor is of those that leak between domains, and cannot be helped: its microcode is old.
    pub fn lacks_microcode(&self) -> bool {
        let l1tf = !self.capabilities.contains(Capabilities::RDCL_NO) && !self.means.contains(Means::L1D_FLUSH);
        let mds = !self.capabilities.contains(Capabilities::MDS_NO) && !self.means.contains(Means::MD_CLEAR);
        self.is_intel && (l1tf || mds)
    }
}

/// From leaf 7's edx (Intel's bits) and leaf 0x8000_0008's ebx (AMD's).
fn means_in(edx7: u32, ebx8: u32) -> Means {
    let mut means = Means::empty();
    for (register, bit, adds) in [
        (edx7, 10, Means::MD_CLEAR),
        (edx7, 26, Means::IBRS.union(Means::IBPB)),
        (edx7, 27, Means::STIBP),
        (edx7, 28, Means::L1D_FLUSH),
        (edx7, 29, Means::CAPABILITIES),
        (edx7, 31, Means::SSBD),
        (ebx8, 12, Means::IBPB),
        (ebx8, 14, Means::IBRS),
        (ebx8, 15, Means::STIBP),
        (ebx8, 24, Means::SSBD),
    ] {
        means.set(adds, means.contains(adds) || register & 1 << bit != 0);
    }
    means
}

/// What a person wants done, as far as the processor has it: `spec-ctrl=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The barrier between domains.
    pub ibpb: bool,
    /// The flush of the first-level cache.
    pub l1d: bool,
    /// VERW.
    pub verw: bool,
    /// IBRS for the hypervisor itself.
    pub ibrs: bool,
}

impl Wanted {
    /// Whatever the processor needs: `auto`.
    pub const ALL: Self = Self { ibpb: true, l1d: true, verw: true, ibrs: true };
    /// `off`.
    pub const NOTHING: Self = Self { ibpb: false, l1d: false, verw: false, ibrs: false };

    /// The option's value: `auto`, `off`, or what is left out, with commas between. `None` when it has no sense.
    pub fn parse(value: &str) -> Option<Self> {
        match value {
            "auto" => return Some(Self::ALL),
            "off" => return Some(Self::NOTHING),
            _ => {}
        }
        let mut wanted = Self::ALL;
        for word in value.split(',') {
            match word {
                "no-ibpb" => wanted.ibpb = false,
                "no-l1d" => wanted.l1d = false,
                "no-verw" => wanted.verw = false,
                "no-ibrs" => wanted.ibrs = false,
                _ => return None,
            }
        }
        Some(wanted)
    }
}

/// What Ebb does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// A barrier for indirect branches, and a filled return predictor, when another domain's vCPU comes to a CPU.
    pub ibpb: bool,
    /// The first-level data cache is flushed before every entry: whatever the hypervisor has touched is in it.
    pub l1d: bool,
    /// VERW before every entry.
    pub verw: bool,
    /// IA32_SPEC_CTRL while the hypervisor runs, where it exists.
    pub host_spec_ctrl: Option<u64>,
    /// EFER.AIBRSE.
    pub automatic_ibrs: bool,
}

/// Words with commas between, or `none` for none.
struct List<const N: usize>([(bool, &'static str); N], &'static str);

impl<const N: usize> fmt::Display for List<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = self.0.iter().filter(|(there, _)| *there).map(|(_, word)| *word);
        f.write_str(words.next().unwrap_or(self.1))?;
        words.try_for_each(|word| write!(f, ", {word}"))
    }
}

/// What was found, in a few words.
impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |means| self.means.contains(means);
        let list = [
            (has(Means::IBPB), "IBPB"),
            (has(Means::IBRS), "IBRS"),
            (has(Means::STIBP), "STIBP"),
            (has(Means::SSBD), "SSBD"),
            (has(Means::L1D_FLUSH), "L1D flush"),
            (has(Means::MD_CLEAR), "VERW"),
            (has(Means::AUTOMATIC_IBRS), "automatic IBRS"),
        ];
        write!(f, "{}", List(list, "nothing"))?;
        self.raw_capabilities.map_or(Ok(()), |raw| write!(f, " (capabilities {raw:#x})"))
    }
}

/// What is done, in a few words.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ibrs = self.automatic_ibrs || self.host_spec_ctrl.is_some_and(|value| value & spec_ctrl::IBRS != 0);
        let list = [
            (self.ibpb, "IBPB between domains"),
            (self.l1d, "L1D flush at entries"),
            (self.verw, "VERW at entries"),
            (ibrs, "IBRS in Ebb"),
        ];
        write!(f, "{}", List(list, "nothing"))
    }
}

/// What guests have, which follows from what CPUID offers them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuestControls {
    spec_ctrl: u64,
    pred_cmd: u64,
    flush_cmd: u64,
    capabilities: Option<u64>,
}

impl GuestControls {
    /// For guests that are offered these bits, on a processor with these capabilities.
    pub(crate) fn new(edx7: u32, ebx8: u32, capabilities: Option<u64>) -> Self {
        let means = means_in(edx7, ebx8);
        let bit = |needs, bit| if means.contains(needs) { bit } else { 0 };
        Self {
            spec_ctrl: bit(Means::IBRS, spec_ctrl::IBRS)
                | bit(Means::STIBP, spec_ctrl::STIBP)
                | bit(Means::SSBD, spec_ctrl::SSBD),
            pred_cmd: bit(Means::IBPB, COMMAND),
            flush_cmd: bit(Means::L1D_FLUSH, COMMAND),
            // Of what is not known nothing is said; neither of MSRs that guests have not.
            capabilities: capabilities
                .filter(|_| means.contains(Means::CAPABILITIES))
                .map(|raw| Capabilities::from_bits_truncate(raw).bits()),
        }
    }

    /// IA32_ARCH_CAPABILITIES, for guests that have it.
    pub fn capabilities(&self) -> Option<u64> {
        self.capabilities
    }

    /// Whether guests have IA32_SPEC_CTRL.
    pub fn has_spec_ctrl(&self) -> bool {
        self.spec_ctrl != 0
    }

    /// Whether a guest may write `value` to the MSR; not to one it has not.
    pub fn takes(&self, number: u32, value: u64) -> bool {
        let bits = match number {
            msr::SPEC_CTRL => self.spec_ctrl,
            msr::PRED_CMD => self.pred_cmd,
            msr::FLUSH_CMD => self.flush_cmd,
            _ => 0,
        };
        bits != 0 && value & !bits == 0
    }
}

#[cfg(test)]
mod tests;
