//! Linux as a guest: its kernel's file formats, Debian's packages of it, and initial RAM disks.

pub mod deb;
pub mod image;
pub mod initramfs;
mod lzop;
pub mod package;
