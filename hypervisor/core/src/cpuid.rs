//! The CPUID policy: what a guest sees of the processor. One table; a leaf or a bit that is not in it is hidden.
//!
//! A bit is offered when the host has it *and* the table allows it, except for the few that Ebb provides itself
//! (x2APIC, the hypervisor bit). Offered is what guests can use without our help: nothing that needs an MSR we do not
//! have, state we do not switch, or a device. In particular hidden: SVM and VMX, performance counters, MONITOR, the
//! TSC-deadline timer, PCID and INVPCID, protection keys, AVX-512, topology extensions. Speculation controls are offered
//! with their MSRs ([`GuestControls`] follows from what is offered).
//!
//! Xen's own leaves begin at 0x40000000. `XEN_HVM_CPUID_UPCALL_VECTOR` is not announced although the operation exists:
//! a kernel that sees it switches to upcalls through its local APIC, which cost an end-of-interrupt exit each.
//!
//! The reasons, bit by bit: docs/decisions/0003-cpuid-policy.md.
//!
//! Specifications: AMD64 manual volume 3 appendix E; Intel SDM volume 2A, CPUID; Xen's public arch-x86/cpuid.h.

use shared_abi::arch_x86::cpuid as xen;
use shared_abi::xen::{DomId, VcpuId};

use crate::machine::PAGE_SHIFT;
use crate::p2m::GFN_LIMIT;
use crate::speculation::GuestControls;

/// Reads a leaf of the host: (leaf, subleaf) to eax, ebx, ecx, edx.
pub type Reader = fn(u32, u32) -> [u32; 4];

const XEN_BASE: u32 = xen::FIRST_LEAF;
/// Xen's TSC mode "never emulated": the processor's own, at the same rate on every vCPU.
const TSC_MODE_NEVER_EMULATE: u32 = 2;
const EXTENDED: u32 = 0x8000_0000;
const BASIC_COUNT: usize = 0xe;
const EXTENDED_COUNT: usize = 9;

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;
const EDX: usize = 3;

/// Bits of a guest-physical address: what the nested table covers.
const PHYSICAL_BITS: u32 = GFN_LIMIT.ilog2() + PAGE_SHIFT;
/// Bits of a linear address with four levels of page tables; the fifth is not offered.
const LINEAR_BITS: u32 = 48;

/// All bits of a register pass.
const ALL: u32 = u32::MAX;

/// A row: what may pass of a host's leaf.
struct Row {
    leaf: u32,
    masks: [u32; 4],
}

/// The table. Leaves with subleaves or values of our own are completed in [`Policy::new`] and [`Policy::lookup`].
const TABLE: &[Row] = &[
    Row { leaf: 0, masks: [ALL; 4] },
    Row { leaf: 1, masks: [ALL, 0x0000_ff00, feature1::ECX, feature1::EDX] },
    Row { leaf: 2, masks: [ALL; 4] },
    // Always-running APIC timer: ours never stops.
    Row { leaf: 6, masks: [1 << 2, 0, 0, 0] },
    Row { leaf: 7, masks: [0, feature7::EBX, feature7::ECX, feature7::EDX] },
    Row { leaf: 0x8000_0000, masks: [ALL; 4] },
    Row { leaf: 0x8000_0001, masks: [ALL, 0, extended1::ECX, extended1::EDX] },
    Row { leaf: 0x8000_0002, masks: [ALL; 4] },
    Row { leaf: 0x8000_0003, masks: [ALL; 4] },
    Row { leaf: 0x8000_0004, masks: [ALL; 4] },
    Row { leaf: 0x8000_0005, masks: [ALL; 4] },
    Row { leaf: 0x8000_0006, masks: [ALL; 4] },
    Row { leaf: 0x8000_0007, masks: [0, 0, 0, extended7::INVARIANT_TSC] },
    Row { leaf: 0x8000_0008, masks: [0xffff, extended8::EBX, 0, 0] },
];

/// A mask from bit numbers.
const fn bits(numbers: &[u32]) -> u32 {
    let mut mask = 0;
    let mut index = 0;
    while index < numbers.len() {
        mask |= 1 << numbers[index];
        index += 1;
    }
    mask
}

mod feature1 {
    use super::bits;
    /// SSE3, PCLMULQDQ, SSSE3, FMA, CX16, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C, RDRAND.
    pub const ECX: u32 = bits(&[0, 1, 9, 12, 13, 19, 20, 22, 23, 25, 26, 28, 29, 30]);
    pub const X2APIC: u32 = 1 << 21;
    pub const XSAVE: u32 = 1 << 26;
    pub const OSXSAVE: u32 = 1 << 27;
    pub const AVX: u32 = 1 << 28;
    /// Features that mean nothing without AVX state: FMA, AVX, F16C.
    pub const NEED_AVX: u32 = bits(&[12, 28, 29]);
    pub const HYPERVISOR: u32 = 1 << 31;
    /// FPU to PGE, MCA, CMOV, PAT, PSE36, CLFLUSH, MMX, FXSR, SSE, SSE2.
    pub const EDX: u32 = bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26]);
    pub const APIC: u32 = 1 << 9;
}

mod feature7 {
    use super::bits;
    /// FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA.
    pub const EBX: u32 = bits(&[0, 3, 5, 7, 8, 9, 18, 19, 20, 23, 24, 29]);
    pub const AVX2: u32 = 1 << 5;
    /// UMIP, RDPID.
    pub const ECX: u32 = bits(&[2, 22]);
    /// Fast short REP MOV; MD_CLEAR, IBRS and IBPB, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD.
    pub const EDX: u32 = bits(&[4, 10, 26, 27, 28, 29, 31]);
    pub const ARCH_CAPABILITIES: u32 = 1 << 29;
}

mod extended1 {
    use super::bits;
    /// LAHF, ALTMOVCR8, ABM, SSE4A, misaligned SSE, PREFETCHW.
    pub const ECX: u32 = bits(&[0, 4, 5, 6, 7, 8]);
    /// The bits that repeat leaf 1, then SYSCALL, NX, MMX extensions, FFXSR, 1 GiB pages, RDTSCP, long mode.
    pub const EDX: u32 =
        bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 20, 22, 23, 24, 25, 26, 27, 29]);
    pub const NX: u32 = 1 << 20;
    pub const FFXSR: u32 = 1 << 25;
    pub const LONG_MODE: u32 = 1 << 29;
    pub const SYSCALL: u32 = 1 << 11;
    pub const RDTSCP: u32 = 1 << 27;
}

mod extended7 {
    pub const INVARIANT_TSC: u32 = 1 << 8;
}

mod extended8 {
    use super::bits;
    /// IBPB, IBRS, STIBP; IBRS always on, STIBP always on, IBRS preferred, IBRS for one mode; SSBD, SSB_NO, BTC_NO, IBPB
    /// for returns too.
    pub const EBX: u32 = bits(&[12, 14, 15, 16, 17, 18, 19, 24, 26, 29, 30]);
}

/// What of a vCPU shows in its CPUID.
#[derive(Clone, Copy, Debug)]
pub struct VcpuView {
    /// Its domain.
    pub domain: DomId,
    /// Its number.
    pub vcpu: VcpuId,
    /// vCPUs of the domain.
    pub vcpus: u32,
    /// CR4, for OSXSAVE.
    pub cr4: u64,
    /// XCR0, for the size of the XSAVE area.
    pub xcr0: u64,
    /// The local APIC is on.
    pub apic_enabled: bool,
}

/// The local APIC id of a vCPU: even numbers, as on Xen.
pub const fn apic_id(vcpu: VcpuId) -> u32 {
    vcpu.0 * 2
}

/// The policy, computed once from the host.
#[derive(Clone, Debug)]
pub struct Policy {
    basic: [[u32; 4]; BASIC_COUNT],
    extended: [[u32; 4]; EXTENDED_COUNT],
    /// Leaf 0xd subleaves 1 and 2.
    xsave: [[u32; 4]; 2],
    xcr0: u64,
    speculation: GuestControls,
    tsc_khz: u32,
    tsc_mul: u32,
    tsc_shift: i8,
}

const CR4_OSXSAVE: u64 = 1 << 18;
const XCR0_X87: u64 = 1;
const XCR0_SSE: u64 = 2;
const XCR0_AVX: u64 = 4;
/// Bytes of the legacy region and header of the XSAVE area.
const XSAVE_BASE: u32 = 576;

impl Policy {
    /// The policy for a host read by `read`, which can switch the components `xcr0`; `capabilities` is its
    /// IA32_ARCH_CAPABILITIES, if it has that.
    pub fn new(read: Reader, xcr0: u64, capabilities: Option<u64>, scale: crate::machine::TscScale) -> Self {
        let mut policy = Self {
            basic: [[0; 4]; BASIC_COUNT],
            extended: [[0; 4]; EXTENDED_COUNT],
            xsave: [[0; 4]; 2],
            xcr0,
            speculation: GuestControls::default(),
            tsc_khz: scale.khz as u32,
            tsc_mul: scale.mul,
            tsc_shift: scale.shift,
        };
        let (last_basic, last_extended) = (read(0, 0)[EAX], read(EXTENDED, 0)[EAX]);
        for row in TABLE {
            let last = if row.leaf >= EXTENDED { last_extended } else { last_basic };
            if row.leaf <= last {
                let host = read(row.leaf, 0);
                *policy.slot(row.leaf) = core::array::from_fn(|index| host[index] & row.masks[index]);
            }
        }
        policy.complete(read, last_basic, last_extended);
        if capabilities.is_none() {
            policy.basic[7][EDX] &= !feature7::ARCH_CAPABILITIES;
        }
        policy.speculation = GuestControls::new(policy.basic[7][EDX], policy.extended[8][EBX], capabilities);
        policy
    }

    fn slot(&mut self, leaf: u32) -> &mut [u32; 4] {
        if leaf >= EXTENDED { &mut self.extended[(leaf - EXTENDED) as usize] } else { &mut self.basic[leaf as usize] }
    }

    /// What is not a plain mask.
    fn complete(&mut self, read: Reader, last_basic: u32, last_extended: u32) {
        self.basic[1][ECX] |= feature1::X2APIC | feature1::HYPERVISOR;
        let has_xsave = self.basic[1][ECX] & feature1::XSAVE != 0 && last_basic >= 0xd;
        if !has_xsave {
            self.basic[1][ECX] &= !feature1::XSAVE;
        }
        if !has_xsave || self.xcr0 & XCR0_AVX == 0 {
            self.basic[1][ECX] &= !feature1::NEED_AVX;
            self.basic[7][EBX] &= !feature7::AVX2;
        }
        if has_xsave {
            // XSAVEOPT, XSAVEC, XGETBV with ECX=1; the area of AVX. No supervisor components.
            self.xsave[0] = [read(0xd, 1)[EAX] & 0b111, 0, 0, 0];
            if self.xcr0 & XCR0_AVX != 0 {
                self.xsave[1] = read(0xd, 2);
            }
        }
        self.basic[0][EAX] = last_basic.min(if has_xsave { 0xd } else { 7 });
        self.extended[0][EAX] = last_extended.min(EXTENDED + EXTENDED_COUNT as u32 - 1);
        self.basic[7][EAX] = 0;
        let host = self.extended[8][EAX];
        let physical_bits = (host & 0xff).clamp(36, PHYSICAL_BITS);
        let linear_bits = (host >> 8 & 0xff).clamp(32, LINEAR_BITS);
        self.extended[8][EAX] = linear_bits << 8 | physical_bits;
    }

    /// What CPUID answers to this vCPU.
    pub fn lookup(&self, leaf: u32, subleaf: u32, view: &VcpuView) -> [u32; 4] {
        match leaf {
            1 => self.features(view),
            0xd => self.extended_state(subleaf, view),
            7 if subleaf != 0 => [0; 4],
            XEN_BASE..=0x4000_00ff => self.xen(leaf - XEN_BASE, subleaf, view),
            _ if leaf >= EXTENDED => self.extended_leaf(leaf, view),
            // Beyond the last leaf: nothing. (Intel's manual would repeat the last one; AMD's says zero.)
            _ => self.basic.get(leaf as usize).copied().unwrap_or([0; 4]),
        }
    }

    fn features(&self, view: &VcpuView) -> [u32; 4] {
        let mut leaf = self.basic[1];
        leaf[EBX] |= (apic_id(view.vcpu) & 0xff) << 24 | (view.vcpus & 0xff) << 16;
        if view.cr4 & CR4_OSXSAVE != 0 {
            leaf[ECX] |= feature1::OSXSAVE;
        }
        if !view.apic_enabled {
            leaf[EDX] &= !feature1::APIC;
        }
        leaf
    }

    fn extended_leaf(&self, leaf: u32, view: &VcpuView) -> [u32; 4] {
        let mut value = self.extended.get((leaf - EXTENDED) as usize).copied().unwrap_or([0; 4]);
        if leaf == EXTENDED + 1 && !view.apic_enabled {
            value[EDX] &= !feature1::APIC;
        }
        value
    }

    fn extended_state(&self, subleaf: u32, view: &VcpuView) -> [u32; 4] {
        if self.basic[1][ECX] & feature1::XSAVE == 0 {
            return [0; 4];
        }
        match subleaf {
            0 => [self.xcr0 as u32, self.area_size(view.xcr0), self.area_size(self.xcr0), (self.xcr0 >> 32) as u32],
            1 => [self.xsave[0][EAX], self.area_size(view.xcr0), 0, 0],
            2 => self.xsave[1],
            _ => [0; 4],
        }
    }

    fn area_size(&self, xcr0: u64) -> u32 {
        let [size, offset, ..] = self.xsave[1];
        if xcr0 & self.xcr0 & XCR0_AVX != 0 { XSAVE_BASE.max(offset.saturating_add(size)) } else { XSAVE_BASE }
    }

    /// Xen's leaves.
    fn xen(&self, leaf: u32, subleaf: u32, view: &VcpuView) -> [u32; 4] {
        const HVM_FEATURES: u32 = xen::HvmFeatures::VCPU_ID_PRESENT.union(xen::HvmFeatures::DOMID_PRESENT).bits();
        match (leaf, subleaf) {
            (xen::LEAF_SIGNATURE, _) => {
                [XEN_BASE + xen::LEAF_HVM, xen::SIGNATURE_EBX, xen::SIGNATURE_ECX, xen::SIGNATURE_EDX]
            }
            (xen::LEAF_VERSION, _) => [shared_abi::version::REPORTED_VERSION, 0, 0, 0],
            (xen::LEAF_HYPERCALL, _) => [1, XEN_BASE, 0, 0],
            (xen::LEAF_TIME, 0) => [self.time_features(), TSC_MODE_NEVER_EMULATE, self.tsc_khz, 0],
            (xen::LEAF_TIME, 1) => [0, 0, self.tsc_mul, self.tsc_shift as u32],
            (xen::LEAF_TIME, 2) => [self.tsc_khz, 0, 0, 0],
            (xen::LEAF_HVM, 0) => [HVM_FEATURES, view.vcpu.0, u32::from(view.domain.0), 0],
            _ => [0; 4],
        }
    }

    fn time_features(&self) -> u32 {
        let invariant = self.extended[7][EDX] & extended7::INVARIANT_TSC != 0;
        let rdtscp = self.extended[1][EDX] & extended1::RDTSCP != 0;
        let mut features = if invariant { xen::TIME_HOST_TSC_RELIABLE } else { 0 };
        if rdtscp {
            features |= xen::TIME_RDTSCP;
        }
        features
    }

    /// The MSRs that go with the speculation controls guests are offered.
    pub fn speculation(&self) -> &GuestControls {
        &self.speculation
    }

    /// Whether XSETBV may set this.
    pub fn xcr0_is_valid(&self, value: u64) -> bool {
        let avx_without_sse = value & XCR0_AVX != 0 && value & XCR0_SSE == 0;
        value & XCR0_X87 != 0 && value & !self.xcr0 == 0 && !avx_without_sse
    }

    /// Bits a guest may set in EFER.
    pub fn efer_mask(&self) -> u64 {
        let edx = self.extended[1][EDX];
        let mut mask = 0;
        if edx & extended1::SYSCALL != 0 {
            mask |= 1;
        }
        if edx & extended1::LONG_MODE != 0 {
            mask |= 1 << 8;
        }
        if edx & extended1::NX != 0 {
            mask |= 1 << 11;
        }
        if edx & extended1::FFXSR != 0 {
            mask |= 1 << 14;
        }
        mask
    }

    /// Bits a guest may set in CR4: those whose feature it is offered (SDM vol. 3, 2.5; APM vol. 2, 3.1.3).
    pub fn cr4_mask(&self) -> u64 {
        let ([_, _, ecx1, edx1], [_, ebx7, ecx7, _]) = (self.basic[1], self.basic[7]);
        let mut mask = 1 << 8; // PCE: which RDPMC, that faults anyway.
        let mut allow = |register: u32, feature: u32, bits: u64| {
            if register & 1 << feature != 0 {
                mask |= bits;
            }
        };
        allow(edx1, 1, 1 << 0 | 1 << 1); // VME, PVI
        allow(edx1, 4, 1 << 2); // TSD
        allow(edx1, 2, 1 << 3); // DE
        allow(edx1, 3, 1 << 4); // PSE
        allow(edx1, 6, 1 << 5); // PAE
        allow(edx1, 7, 1 << 6); // MCE
        allow(edx1, 13, 1 << 7); // PGE
        allow(edx1, 24, 1 << 9); // OSFXSR
        allow(edx1, 25, 1 << 10); // OSXMMEXCPT
        allow(ecx7, 2, 1 << 11); // UMIP
        allow(ebx7, 0, 1 << 16); // FSGSBASE
        allow(ecx1, 26, CR4_OSXSAVE);
        allow(ebx7, 7, 1 << 20); // SMEP
        allow(ebx7, 20, 1 << 21); // SMAP
        mask
    }

    /// The features of leaf 1 as a guest sees them at boot, for tests and reports.
    pub fn has_avx(&self) -> bool {
        self.basic[1][ECX] & feature1::AVX != 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::machine::TscScale;

    const SCALE: TscScale = TscScale { mul: 1 << 31, shift: 1, tsc_base: 0, ns_base: 0, khz: 1_000_000 };
    const VIEW: VcpuView =
        VcpuView { domain: DomId(3), vcpu: VcpuId(2), vcpus: 4, cr4: 0, xcr0: 1, apic_enabled: true };

    fn everything(leaf: u32, subleaf: u32) -> [u32; 4] {
        match (leaf, subleaf) {
            (0, _) => [0x20, 1, 2, 3],
            (0x8000_0000, _) => [0x8000_0021, 0, 0, 0],
            (0xd, 2) => [256, 576, 0, 0],
            _ => [u32::MAX; 4],
        }
    }

    fn nothing(leaf: u32, _: u32) -> [u32; 4] {
        if leaf & 0x7fff_ffff == 0 { [leaf | 1, 0, 0, 0] } else { [0; 4] }
    }

    #[test]
    fn unknown_leaves_and_bits_are_hidden() {
        let policy = Policy::new(everything, 7, None, SCALE);
        assert_eq!(policy.lookup(0, 0, &VIEW)[EAX], 0xd);
        assert_eq!(policy.lookup(0x8000_0000, 0, &VIEW)[EAX], 0x8000_0008);
        for leaf in [3, 4, 5, 8, 9, 0xa, 0xb, 0xc, 0xe, 0x14, 0x4000_0005, 0x4000_0100, 0x8000_000a, 0x8000_001f, ALL] {
            assert_eq!(policy.lookup(leaf, 0, &VIEW), [0; 4], "leaf {leaf:#x}");
        }
        let features = policy.lookup(1, 0, &VIEW);
        assert_eq!(features[ECX] & (1 << 3 | 1 << 5 | 1 << 17 | 1 << 24 | 1 << 27), 0);
        assert_eq!(policy.lookup(0x8000_0001, 0, &VIEW)[ECX] & (1 << 2), 0, "SVM is hidden");
        assert_eq!(policy.lookup(7, 1, &VIEW), [0; 4]);
    }

    #[test]
    fn what_ebb_provides_is_there_on_any_host() {
        let policy = Policy::new(nothing, 3, None, SCALE);
        let features = policy.lookup(1, 0, &VIEW);
        assert_ne!(features[ECX] & feature1::X2APIC, 0);
        assert_ne!(features[ECX] & feature1::HYPERVISOR, 0);
        assert_eq!(features[EBX], 4 << 24 | 4 << 16);
        assert!(!policy.has_avx());
        assert_eq!(policy.lookup(0xd, 0, &VIEW), [0; 4]);
    }

    #[test]
    fn xen_is_found() {
        let policy = Policy::new(everything, 7, None, SCALE);
        let [last, b, c, d] = policy.lookup(0x4000_0000, 0, &VIEW);
        assert_eq!(last, 0x4000_0004);
        let name: std::vec::Vec<u8> = [b, c, d].iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(name, b"XenVMMXenVMM");
        assert_eq!(policy.lookup(0x4000_0004, 0, &VIEW)[1..3], [2, 3]);
    }

    #[test]
    fn extended_state_follows_xcr0() {
        let policy = Policy::new(everything, 7, None, SCALE);
        assert_eq!(policy.lookup(0xd, 0, &VIEW), [7, 576, 832, 0]);
        assert_eq!(policy.lookup(0xd, 0, &VcpuView { xcr0: 7, ..VIEW })[EBX], 832);
        assert!(policy.xcr0_is_valid(1) && policy.xcr0_is_valid(7) && policy.xcr0_is_valid(3));
        assert!(!policy.xcr0_is_valid(0) && !policy.xcr0_is_valid(5) && !policy.xcr0_is_valid(0xf));
        let osxsave = policy.lookup(1, 0, &VcpuView { cr4: CR4_OSXSAVE, ..VIEW })[ECX] & feature1::OSXSAVE;
        assert_ne!(osxsave, 0);
    }

    std::thread_local! {
        static HOST: core::cell::RefCell<std::vec::Vec<u32>> = const { core::cell::RefCell::new(std::vec::Vec::new()) };
    }

    /// A host whose leaves hold the numbers of `HOST`, by a hash of leaf and subleaf.
    fn random_host(leaf: u32, subleaf: u32) -> [u32; 4] {
        let mut value = HOST.with_borrow(|host| {
            core::array::from_fn(|index| {
                let key = (leaf as usize ^ leaf as usize >> 24).wrapping_mul(31) + subleaf as usize * 7 + index;
                host[key % host.len()]
            })
        });
        if leaf & 0x7fff_ffff == 0 {
            value[EAX] = leaf | (value[EAX] % 0x30);
        }
        value
    }

    proptest! {
        #[test]
        fn nothing_is_offered_that_the_host_has_not(
            host in proptest::collection::vec(any::<u32>(), 64),
            xcr0 in prop_oneof![Just(1_u64), Just(3), Just(7)],
            leaf in prop_oneof![0..0x40_u32, 0x8000_0000..0x8000_0040_u32],
        ) {
            HOST.set(host);
            let policy = Policy::new(random_host, xcr0, None, SCALE);
            let (offered, there) = (policy.lookup(leaf, 0, &VIEW), random_host(leaf, 0));
            let last = random_host(leaf & EXTENDED, 0)[EAX];
            match leaf {
                0 | EXTENDED => prop_assert!(offered[EAX] <= last && offered[1..] == there[1..]),
                1 => {
                    prop_assert_eq!(offered[ECX] & !there[ECX] & !(feature1::X2APIC | feature1::HYPERVISOR), 0);
                    prop_assert_eq!(offered[EDX] & !there[EDX], 0);
                }
                // Sizes, not bits.
                0xd | 0x8000_0008 => {}
                _ => for (offered, there) in offered.into_iter().zip(there) {
                    prop_assert_eq!(offered & !there, 0);
                },
            }
            let avx = [policy.lookup(1, 0, &VIEW)[ECX] & feature1::NEED_AVX, policy.lookup(7, 0, &VIEW)[EBX] & feature7::AVX2];
            prop_assert!(xcr0 & XCR0_AVX != 0 && policy.lookup(0xd, 0, &VIEW)[EAX] != 0 || avx == [0, 0]);
            let xsave = policy.lookup(1, 0, &VIEW)[ECX] & feature1::XSAVE != 0;
            prop_assert_eq!(xsave, policy.lookup(0xd, 0, &VIEW)[EAX] != 0);
            prop_assert!(!xsave || policy.lookup(0, 0, &VIEW)[EAX] >= 0xd);
        }
    }

    #[test]
    fn features_that_guests_could_not_use_are_hidden() {
        let policy = Policy::new(everything, 7, None, SCALE);
        let shown = |leaf, register: usize| policy.lookup(leaf, 0, &VIEW)[register];
        let hidden = [
            (
                1,
                ECX,
                &[2, 3, 5, 6, 7, 8, 14, 15, 17, 18, 24, 27][..],
                "MONITOR, VMX, SMX, EST, PDCM, PCID, DCA, TSC deadline",
            ),
            (1, EDX, &[18, 21, 22, 27, 28, 29], "serial number, DS, ACPI thermal control, self-snoop, HTT, TM"),
            (
                7,
                EBX,
                &[1, 2, 4, 10, 11, 12, 14, 15, 16, 25, 30],
                "TSC_ADJUST, SGX, HLE, INVPCID, RTM, MPX, RDT, AVX-512, PT",
            ),
            (7, ECX, &[1, 3, 4, 5, 7, 16], "AVX-512, PKU, OSPKE, WAITPKG, CET, five levels"),
            (7, EDX, &[9, 13, 20, 30], "SRBDS_CTRL, TSX_FORCE_ABORT, CET, CORE_CAPABILITIES"),
            (
                0x8000_0001,
                ECX,
                &[2, 3, 9, 10, 12, 13, 15, 22, 23, 24, 26, 28, 29],
                "SVM, extended APIC, OSVW, IBS, … performance counters, MONITORX",
            ),
            (6, EAX, &[0, 1, 3, 4, 7], "thermal sensors, turbo, HWP"),
            (0x8000_0008, EBX, &[0, 9, 25, 28], "CLZERO, WBNOINVD, VIRT_SSBD, PSFD"),
        ];
        for (leaf, register, numbers, what) in hidden {
            assert_eq!(shown(leaf, register) & bits(numbers), 0, "leaf {leaf:#x}: {what}");
        }
        assert_eq!(shown(0x8000_0008, EAX), 48 << 8 | 40);
        assert_eq!(shown(0x8000_0008, ECX), 0, "each vCPU is a package of its own");
    }

    #[test]
    fn speculation_controls_come_with_their_registers() {
        use crate::speculation::msr;
        let with = Policy::new(everything, 7, Some(0x1f), SCALE);
        assert_eq!(with.lookup(7, 0, &VIEW)[EDX] >> 26, 0b10_1111);
        assert_eq!(with.speculation().capabilities(), Some(0x1f));
        assert!(with.speculation().takes(msr::SPEC_CTRL, 7) && with.speculation().takes(msr::PRED_CMD, 1));
        let without = Policy::new(everything, 7, None, SCALE);
        assert_eq!(without.lookup(7, 0, &VIEW)[EDX] >> 26, 0b10_0111, "a register that cannot be read is not offered");
        assert_eq!(without.speculation().capabilities(), None);
        assert_eq!(*Policy::new(nothing, 7, Some(0x1f), SCALE).speculation(), GuestControls::default());
    }

    #[test]
    fn an_apic_that_is_off_does_not_show() {
        let policy = Policy::new(everything, 7, None, SCALE);
        let off = VcpuView { apic_enabled: false, ..VIEW };
        for leaf in [1, 0x8000_0001] {
            assert_ne!(policy.lookup(leaf, 0, &VIEW)[EDX] & feature1::APIC, 0);
            assert_eq!(policy.lookup(leaf, 0, &off)[EDX] & feature1::APIC, 0);
        }
    }

    #[test]
    fn time_is_described_as_it_is() {
        let policy = Policy::new(everything, 7, None, SCALE);
        let time = |policy: &Policy, subleaf| policy.lookup(0x4000_0003, subleaf, &VIEW);
        assert_eq!(time(&policy, 0), [0b110, 2, 1_000_000, 0]);
        assert_eq!(time(&policy, 1), [0, 0, 1 << 31, 1]);
        assert_eq!(time(&policy, 2), [1_000_000, 0, 0, 0]);
        let slow = TscScale { shift: -2, ..SCALE };
        assert_eq!(time(&Policy::new(nothing, 3, None, slow), 0)[EAX], 0);
        assert_eq!(time(&Policy::new(nothing, 3, None, slow), 1)[EDX], u32::MAX - 1);
    }

    #[test]
    fn cr4_allows_what_is_offered() {
        assert_eq!(Policy::new(nothing, 3, None, SCALE).cr4_mask(), 1 << 8);
        let all = Policy::new(everything, 3, None, SCALE).cr4_mask();
        assert_eq!(all, 0x35_0fff, "neither five levels, PCIDs, protection keys nor anything newer");
    }

    #[test]
    fn efer_allows_what_is_offered() {
        assert_eq!(Policy::new(nothing, 3, None, SCALE).efer_mask(), 0);
        assert_eq!(Policy::new(everything, 3, None, SCALE).efer_mask(), 1 | 1 << 8 | 1 << 11 | 1 << 14);
    }
}
