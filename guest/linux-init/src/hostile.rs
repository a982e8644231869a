//! What a Linux domain can do to others, were they not protected: flood what it shares with the control domain, spoil
//! its half of the rings, throw its own memory away.

use std::fs::File;
use std::io::Write;
use std::thread;
use std::time::Duration;

use rustix::cstr;
use shared_abi::io::xs_wire::MessageType;

use crate::job::Failed;
use crate::report::say;
use crate::xenbus::Store;

mod raw;

/// Writes `lines` to the console as fast as it takes them.
pub fn flood_console(lines: u64) -> Result<(), Failed> {
    let mut console = File::options().write(true).open("/dev/hvc0")?;
    for number in 0..lines {
        console.write_all(format!("flood {number} {}\n", "x".repeat(60)).as_bytes())?;
    }
    say(&format!("flooded {lines} lines"));
    Ok(())
}

/// Sends `requests` to XenStore: nodes until there may be no more of them, and what no client should ask.
pub fn flood_store(requests: u64) -> Result<(), Failed> {
    let mut store = Store::open()?;
    let (mut done, mut refused) = (0_u64, 0_u64);
    for number in 0..requests {
        let text = |path: String| [path.as_bytes(), b"\0", &[b'v'; 1500]].concat();
        let (type_, payload) = match number % 6 {
            0 | 1 => (MessageType::WRITE, text(format!("data/flood/{number}"))),
            2 => (MessageType::WRITE, text(format!("/local/domain/0/flood/{number}"))),
            3 => (MessageType::READ, text(format!("data/{}", "a/".repeat(1000)))),
            4 => (MessageType::DIRECTORY, b"/\0".to_vec()),
            _ => (MessageType::SET_PERMS, b"/\0b0\0".to_vec()),
        };
        match store.ask(type_, &payload) {
            Ok(Ok(_)) => done += 1,
            // The kernel itself refuses some; that is an answer too.
            Ok(Err(_)) | Err(_) => refused += 1,
        }
    }
    say(&format!("store-flood done={done} refused={refused}"));
    if done == 0 || refused == 0 { Err(Failed("XenStore answered all alike".into())) } else { Ok(()) }
}

/// Writes nonsense to the indexes of both rings while the kernel uses them. What becomes of this domain's own console
/// and XenStore is its own affair.
pub fn spoil_rings() -> Result<(), Failed> {
    say("spoiling");
    let rings = raw::Rings::map()?;
    // These may never come back: their rings are broken.
    thread::spawn(|| flood_console(u64::MAX));
    thread::spawn(|| flood_store(u64::MAX));
    let mut value = 0x9e37_79b9_u32;
    for _ in 0..200 {
        for index in 0..raw::Rings::INDEXES {
            value = value.rotate_left(7).wrapping_mul(0x85eb_ca6b).wrapping_add(1);
            rings.set(index, value);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Loads `/modules/NAME.ko`.
pub fn load_module(name: &str) -> Result<(), Failed> {
    let file = File::open(format!("/modules/{name}.ko"))?;
    rustix::system::finit_module(&file, cstr!(""), 0)?;
    say(&format!("module {name}"));
    Ok(())
}

/// Gives the kernel's data, its page tables among them, back to the hypervisor.
pub fn lose_page_tables() -> Result<(), Failed> {
    let text = std::fs::read_to_string("/proc/iomem")?;
    let range = kernel_data(&text).ok_or_else(|| Failed("/proc/iomem does not tell where the kernel is".into()))?;
    say(&format!("losing {:#x} to {:#x}", range.0, range.1));
    let lost = raw::decrease_reservation(range.0 >> 12, (range.1 - range.0) >> 12)?;
    Err(Failed(format!("the kernel lives on without {lost} pages of its data")))
}

/// First byte and end of the kernel's data.
fn kernel_data(iomem: &str) -> Option<(u64, u64)> {
    let line = iomem.lines().find(|l| l.ends_with(": Kernel data"))?;
    let (start, last) = line.split(':').next()?.trim().split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let range = (number(start)?, number(last)? + 1);
    (range.0 != 0).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_found() {
        let text =
            "00100000-0fffffff : System RAM\n  01000000-01ffffff : Kernel code\n  02a00000-02f3cfff : Kernel data\n";
        assert_eq!(kernel_data(text), Some((0x02a0_0000, 0x02f3_d000)));
        assert_eq!(kernel_data("  00000000-00000000 : Kernel data\n"), None);
        assert_eq!(kernel_data(""), None);
    }
}
