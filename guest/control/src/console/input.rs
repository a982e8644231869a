//! What is typed: bytes for the chosen console, and the escape key Ctrl-A for choosing.
//!
//! Ctrl-A, then: digits and Enter, a domain's number; `n` and `p`, the next and the previous console; `l`, a list; `?`,
//! help; Ctrl-A again, a Ctrl-A for the guest.

/// The escape key: Ctrl-A.
pub const ESCAPE: u8 = 0x01;

/// The help text, a line each.
pub const HELP: &[&str] = &[
    "Ctrl-A, then:",
    "  a number and Enter   type to that domain",
    "  n, p                 type to the next, the previous domain",
    "  l                    list the domains",
    "  Ctrl-A               type a Ctrl-A",
    "  ?                    this help",
];

/// What a byte means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// Nothing (yet).
    Nothing,
    /// A byte for the chosen console.
    Byte(u8),
    /// Choose the domain of that number.
    Choose(u16),
    /// Choose the next one.
    Next,
    /// Choose the previous one.
    Previous,
    /// List the domains.
    List,
    /// Print the help.
    Help,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Plain,
    Escaped,
    Number(u32),
}

/// Makes sense of bytes, one at a time.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    state: State,
}

impl Keys {
    /// What `byte` means.
    pub fn next(&mut self, byte: u8) -> Key {
        let (state, key) = match (self.state, byte) {
            (State::Plain, ESCAPE) => (State::Escaped, Key::Nothing),
            (State::Plain, byte) => (State::Plain, Key::Byte(byte)),
            (State::Escaped, ESCAPE) => (State::Plain, Key::Byte(ESCAPE)),
            (State::Escaped, b'n') => (State::Plain, Key::Next),
            (State::Escaped, b'p') => (State::Plain, Key::Previous),
            (State::Escaped, b'l') => (State::Plain, Key::List),
            (State::Escaped, b'0'..=b'9') => (State::Number(u32::from(byte - b'0')), Key::Nothing),
            (State::Escaped, _) => (State::Plain, Key::Help),
            (State::Number(number), b'0'..=b'9') => {
                // Beyond 16 bits it is nobody's, however it goes on.
                let number = (number * 10 + u32::from(byte - b'0')).min(u32::from(u16::MAX));
                (State::Number(number), Key::Nothing)
            }
            (State::Number(number), b'\r' | b'\n') => (State::Plain, Key::Choose(number as u16)),
            (State::Number(_), ESCAPE) => (State::Escaped, Key::Nothing),
            (State::Number(_), _) => (State::Plain, Key::Help),
        };
        self.state = state;
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut keys = Keys::default();
        bytes.iter().map(|byte| keys.next(*byte)).filter(|key| *key != Key::Nothing).collect()
    }

    #[test]
    fn plain_bytes_go_through() {
        assert_eq!(keys(b"a\r\x03"), [Key::Byte(b'a'), Key::Byte(b'\r'), Key::Byte(3)]);
        assert_eq!(keys(b"\x01\x01x"), [Key::Byte(ESCAPE), Key::Byte(b'x')]);
    }

    #[test]
    fn the_escape_key_chooses() {
        assert_eq!(keys(b"\x0112\rz"), [Key::Choose(12), Key::Byte(b'z')]);
        assert_eq!(keys(b"\x01n\x01p\x01l\x01?"), [Key::Next, Key::Previous, Key::List, Key::Help]);
        assert_eq!(keys(b"\x0199999999999\n"), [Key::Choose(u16::MAX)]);
        assert_eq!(keys(b"\x011x"), [Key::Help]);
        assert_eq!(keys(b"\x011\x01n"), [Key::Next]);
    }
}
