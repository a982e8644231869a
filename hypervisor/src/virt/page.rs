//! Pages that the processor reads or writes by physical address.

use alloc::boxed::Box;
use alloc::vec;

/// A page of its own.
#[derive(Clone)]
#[repr(C, align(4096))]
pub struct Page(pub [u8; 4096]);

impl Page {
    /// `count` contiguous pages full of `byte`. Not inlined: one passes over the stack, and stacks are small.
    #[inline(never)]
    pub fn run(count: usize, byte: u8) -> Box<[Self]> {
        vec![Self([byte; 4096]); count].into_boxed_slice()
    }

    /// One page of zeroes.
    #[inline(never)]
    pub fn zeroed() -> Box<Self> {
        Box::new(Self([0; 4096]))
    }
}
