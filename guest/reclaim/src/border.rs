//! What is needed of a kernel: pages.

use shared_abi::xen::Gfn;

/// 64-bit words of a page.
pub const WORDS: usize = 512;
/// A page's contents.
pub type Words = [u64; WORDS];

/// The kernel's page allocator.
pub trait PageSource {
    /// A page that is held. It cannot be copied: whoever has it alone may use the page.
    type Frame;

    /// Takes a free page; its contents are anything.
    fn take(&mut self) -> Option<Self::Frame>;
    /// Gives a page back.
    fn give(&mut self, frame: Self::Frame);
    /// Pages that are free now. Others may take them too.
    fn free(&self) -> u64;
    /// Where a page is, for hypercalls.
    fn gfn(&self, frame: &Self::Frame) -> Gfn;
    /// Works on a page's contents.
    fn with<R>(&mut self, frame: &mut Self::Frame, work: impl FnOnce(&mut Words) -> R) -> R;
}
