//! The time of day at boot, from the battery-backed clock. Guests get it through shared_info.
#![allow(unsafe_code)] // Ports 0x70 and 0x71.

use spin::Once;

use crate::{instr, time};

const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS_A: u8 = 10;
const STATUS_B: u8 = 11;
const UPDATE_IN_PROGRESS: u8 = 1 << 7;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
const AFTERNOON: u8 = 1 << 7;

static BASE: Once<u64> = Once::new();

/// Nanoseconds from 1970 to the hypervisor's time 0. Read once; a machine without the clock gives 1970.
pub fn base() -> u64 {
    *BASE.call_once(|| (read_seconds() * 1_000_000_000).saturating_sub(time::now_ns()))
}

fn register(index: u8) -> u8 {
    // SAFETY: reading the real-time clock's registers disturbs nothing; NMIs stay enabled (index bit 7 clear).
    unsafe {
        instr::outb(INDEX, index);
        instr::inb(DATA)
    }
}

fn read_seconds() -> u64 {
    // Two equal readings outside an update; on a floating bus the readings are equal too, and nonsense below.
    let mut last = [0; 6];
    for _ in 0..1000 {
        if register(STATUS_A) & UPDATE_IN_PROGRESS != 0 && register(STATUS_A) != 0xff {
            continue;
        }
        let now = [SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR].map(register);
        if now == last {
            break;
        }
        last = now;
    }
    to_seconds(last, register(STATUS_B)).unwrap_or(0)
}

fn to_seconds(raw: [u8; 6], mode: u8) -> Option<u64> {
    let afternoon = mode & HOURS_24 == 0 && raw[2] & AFTERNOON != 0;
    let decode = |value: u8| u64::from(if mode & BINARY != 0 { value } else { (value >> 4) * 10 + (value & 0xf) });
    let [second, minute, _, day, month, year] = raw.map(decode);
    let hour = decode(raw[2] & if mode & HOURS_24 == 0 { !AFTERNOON } else { 0xff });
    let hour = if mode & HOURS_24 == 0 { hour % 12 + if afternoon { 12 } else { 0 } } else { hour };
    if second > 59 || minute > 59 || hour > 23 || !(1..=31).contains(&day) || !(1..=12).contains(&month) || year > 99 {
        return None;
    }
    Some(((days(2000 + year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days from 1970-01-01 to a date of the years 2000 to 2099, where every fourth year is a leap year.
fn days(year: u64, month: u64, day: u64) -> u64 {
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap_days = (year - 2000).div_ceil(4) + u64::from(year.is_multiple_of(4) && month > 2);
    10957 + (year - 2000) * 365 + leap_days + BEFORE[month as usize - 1] + day - 1
}
