//! Machine checks: what the processor says of errors of the hardware, and whether Ebb can go on.
//!
//! Each CPU has banks of registers. A machine-check exception, a look at boot ("left over from before") and one at each
//! NMI read them, report what is there and clear it. What is corrected is reported, and Ebb goes on; anything else ends
//! the machine with a report: whose memory is wrong cannot be told.
//!
//! Decoding is a plain function, tested on the host. Specifications: Intel SDM volume 3, chapter 16; AMD64 manual
//! volume 2, chapter 9.

mod decode;
#[cfg(target_os = "none")]
mod machine;

pub use decode::{Record, is_survivable};
#[cfg(target_os = "none")]
pub use machine::*;
