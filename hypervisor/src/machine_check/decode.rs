//! What a bank's registers say.

use core::fmt;

/// Bits of MCi_STATUS.
mod status {
    pub const VALID: u64 = 1 << 63;
    pub const OVERFLOW: u64 = 1 << 62;
    pub const UNCORRECTED: u64 = 1 << 61;
    pub const MISC_VALID: u64 = 1 << 59;
    pub const ADDRESS_VALID: u64 = 1 << 58;
    pub const CONTEXT_CORRUPT: u64 = 1 << 57;
}

/// MCG_STATUS: the interrupted program can go on.
const RESTART_VALID: u64 = 1 << 0;

/// An error that a bank has recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The bank's number.
    pub bank: u32,
    status: u64,
    address: Option<u64>,
    misc: Option<u64>,
}

impl Record {
    /// The record in a bank; none when the bank has none. `read` reads the bank's registers by their places: 1 is the
    /// status, 2 the address, 3 further information; the last two only where the status says that they are valid.
    pub fn read(bank: u32, mut read: impl FnMut(u32) -> Option<u64>) -> Option<Self> {
        let status = read(1).filter(|status| status & status::VALID != 0)?;
        let mut when = |bit, place| if status & bit != 0 { read(place) } else { None };
        let (address, misc) = (when(status::ADDRESS_VALID, 2), when(status::MISC_VALID, 3));
        Some(Self { bank, status, address, misc })
    }

    /// Whether nothing is lost: the hardware has put it right.
    pub fn is_corrected(&self) -> bool {
        self.status & (status::UNCORRECTED | status::CONTEXT_CORRUPT) == 0
    }

    /// What the architectural code says, the same for both vendors.
    fn kind(&self) -> &'static str {
        match self.status as u16 & 0xefff {
            0 => "no error",
            1 => "unclassified",
            2 => "parity of the microcode",
            3 => "external",
            5 => "internal parity",
            0x0400 => "internal timer",
            code if code & 0xf800 == 0x0800 => "bus or interconnect",
            code if code & 0xff80 == 0x0080 => "memory controller",
            code if code & 0xff00 == 0x0100 => "cache",
            code if code & 0xfff0 == 0x0010 => "TLB",
            code if code & 0xfffc == 0x000c => "cache hierarchy",
            _ => "of the model's own",
        }
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worth = if self.is_corrected() { "corrected" } else { "uncorrected" };
        write!(f, "bank {}: {worth} error, {}", self.bank, self.kind())?;
        if self.status & status::CONTEXT_CORRUPT != 0 {
            f.write_str(", processor state corrupt")?;
        }
        if self.status & status::OVERFLOW != 0 {
            f.write_str(", others before it lost")?;
        }
        write!(f, "; status {:#x}", self.status)?;
        self.address.map_or(Ok(()), |address| write!(f, " address {address:#x}"))?;
        self.misc.map_or(Ok(()), |misc| write!(f, " misc {misc:#x}"))
    }
}

/// Whether the machine can go on after a machine-check exception: what was interrupted can, and everything recorded was
/// corrected. A CPU that has recorded nothing has heard of another one's error (Intel tells all).
pub fn is_survivable(mcg_status: u64, records: impl IntoIterator<Item = Record>) -> bool {
    mcg_status & RESTART_VALID != 0 && records.into_iter().all(|record| record.is_corrected())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    const EXCEPTION: u64 = 4 | RESTART_VALID;

    fn record(status: u64) -> Option<Record> {
        Record::read(3, |place| Some([0, status, 0x1234_5000, 0x86][place as usize]))
    }

    fn text(status: u64) -> std::string::String {
        record(status).expect("a valid record").to_string()
    }

    #[test]
    fn an_empty_bank_is_no_record() {
        assert_eq!(record(0), None);
        assert_eq!(record(!status::VALID), None);
        assert_eq!(Record::read(0, |_| None), None, "a bank that cannot be read");
    }

    #[test]
    fn only_registers_that_are_valid_are_read() {
        let only_status = |place| {
            assert_eq!(place, 1);
            Some(status::VALID | 0x135)
        };
        assert_eq!(
            Record::read(0, only_status).expect("valid").to_string(),
            "bank 0: corrected error, cache; status 0x8000000000000135"
        );
    }

    #[test]
    fn a_memory_error_is_told() {
        assert_eq!(
            text(0xbe00_0000_0080_0090),
            "bank 3: uncorrected error, memory controller, processor state corrupt; status 0xbe00000000800090 \
             address 0x12345000 misc 0x86"
        );
        assert_eq!(
            text(0xd400_0000_0000_0090),
            "bank 3: corrected error, memory controller, others before it lost; status 0xd400000000000090 \
             address 0x12345000"
        );
    }

    #[test]
    fn kinds() {
        let kind = |code: u64| record(status::VALID | code).expect("valid").kind();
        for (code, expected) in [
            (0, "no error"),
            (5, "internal parity"),
            (0x14, "TLB"),
            (0x0f, "cache hierarchy"),
            (0x0e0b, "bus or interconnect"),
            (0x1135, "cache"),
            (0x9f, "memory controller"),
            (0x406, "of the model's own"),
        ] {
            assert_eq!(kind(code), expected, "{code:#x}");
        }
    }

    #[test]
    fn what_can_be_survived() {
        let (corrected, lost) = (status::VALID | 0x90, status::VALID | status::UNCORRECTED | 0x90);
        let corrupt = status::VALID | status::CONTEXT_CORRUPT;
        let survivable = |mcg, list: &[u64]| is_survivable(mcg, list.iter().filter_map(|&status| record(status)));
        assert!(survivable(EXCEPTION, &[]));
        assert!(survivable(EXCEPTION, &[corrected, corrected]));
        assert!(!survivable(EXCEPTION, &[corrected, lost]));
        assert!(!survivable(EXCEPTION, &[corrupt]));
        assert!(!survivable(4, &[corrected]), "what was interrupted cannot go on");
        assert!(!survivable(0, &[]));
    }
}
