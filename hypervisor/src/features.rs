//! What the processor must have, read from CPUID through a function, so that tests can be any processor.

use raw_cpuid::{CpuId, CpuIdReader};

/// Why guests cannot run here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Neither AMD's nor Intel's virtualisation.
    Virtualisation,
    /// AMD's, without nested paging.
    NestedPaging,
}

impl Missing {
    /// One line for a person.
    pub fn text(self) -> &'static str {
        match self {
            Self::Virtualisation => {
                "this CPU has no hardware virtualisation (AMD SVM or Intel VMX), or it is hidden; under QEMU use -cpu EPYC or max"
            }
            Self::NestedPaging => "this CPU has AMD SVM without nested paging, which is needed",
        }
    }
}

/// Checks for virtualisation. Whether firmware has switched it off, and what Intel's has, is in MSRs and is found later.
///
/// # Errors
/// [`Missing`].
pub fn check<R: CpuIdReader>(cpuid: &CpuId<R>) -> Result<(), Missing> {
    let svm = cpuid.get_extended_processor_and_feature_identifiers().is_some_and(|features| features.has_svm());
    if svm {
        let nested = cpuid.get_svm_info().is_some_and(|info| info.has_nested_paging());
        return if nested { Ok(()) } else { Err(Missing::NestedPaging) };
    }
    let vmx = cpuid.get_feature_info().is_some_and(|features| features.has_vmx());
    if vmx { Ok(()) } else { Err(Missing::Virtualisation) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raw_cpuid::CpuIdResult;

    /// An AMD processor with these bits.
    fn processor(leaf1_ecx: u32, ext1_ecx: u32, svm_edx: u32) -> CpuId<impl CpuIdReader> {
        CpuId::with_cpuid_reader(move |leaf: u32, _sub: u32| match leaf {
            0 => CpuIdResult { eax: 1, ebx: 0x6874_7541, ecx: 0x444d_4163, edx: 0x6974_6e65 },
            1 => CpuIdResult { eax: 0, ebx: 0, ecx: leaf1_ecx, edx: 0 },
            0x8000_0000 => CpuIdResult { eax: 0x8000_000a, ebx: 0x6874_7541, ecx: 0x444d_4163, edx: 0x6974_6e65 },
            0x8000_0001 => CpuIdResult { eax: 0, ebx: 0, ecx: ext1_ecx, edx: 0 },
            0x8000_000a => CpuIdResult { eax: 1, ebx: 16, ecx: 0, edx: svm_edx },
            _ => CpuIdResult { eax: 0, ebx: 0, ecx: 0, edx: 0 },
        })
    }

    #[test]
    fn each_refusal() {
        assert_eq!(check(&processor(0, 1 << 2, 1)), Ok(()));
        assert_eq!(check(&processor(0, 1 << 2, 0)), Err(Missing::NestedPaging));
        assert_eq!(check(&processor(1 << 5, 0, 0)), Ok(()));
        assert_eq!(check(&processor(0, 0, 0)), Err(Missing::Virtualisation));
    }
}
