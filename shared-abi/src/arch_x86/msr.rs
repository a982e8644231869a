//! The MSR by which a guest asks for its hypercall page, and that page's layout (`arch-x86/cpuid.h`, leaf 3 of Xen's).

/// Writing a guest physical address here fills that page with hypercall stubs. Guests learn the number from
/// [`super::cpuid::LEAF_HYPERCALL`].
pub const HYPERCALL_PAGE: u32 = 0x4000_0000;
/// In the value written: which of the hypercall pages; there is one, number 0.
pub const HYPERCALL_PAGE_INDEX_MASK: u64 = 0xfff;
/// Bytes of each stub; call `n` is at `n` times this.
pub const HYPERCALL_STUB_SIZE: usize = 32;
