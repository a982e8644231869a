//! What a console's bytes look like to people: printable text in lines, without what would drive their terminal.
//!
//! Escape sequences (ESC, CSI, OSC and their kin, ECMA-48) are dropped whole, so that no remains of them stand in the
//! text. Carriage returns and other control characters are dropped, tabs stay, a backspace takes back a character that
//! has not been printed yet. Bytes beyond ASCII are dropped, as the hypervisor's own console does.

/// Where in an escape sequence the last byte was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC.
    Escape,
    /// After ESC and an intermediate byte: one more follows.
    Intermediate,
    /// In a control sequence: up to its final byte.
    Control,
    /// In a string (OSC, DCS, ...): up to BEL or ESC `\`.
    String,
    /// After an ESC in a string.
    StringEscape,
}

/// What a byte comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Nothing.
    Nothing,
    /// A character.
    Byte(u8),
    /// The end of the line.
    Newline,
    /// The last character goes.
    Backspace,
}

/// Longest string sequence that is swallowed; one without an end must not silence a console for ever.
const STRING_MAX: u16 = 256;

/// Filters the bytes of one console.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    state: State,
    length: u16,
}

impl Filter {
    /// What the next byte comes to.
    pub fn next(&mut self, byte: u8) -> Shown {
        match self.state {
            State::Text => self.text(byte),
            State::Escape => {
                self.length = 0;
                self.state = match byte {
                    b'[' => State::Control,
                    b']' | b'P' | b'X' | b'^' | b'_' => State::String,
                    b' '..=b'/' => State::Intermediate,
                    0x1b => State::Escape,
                    _ => State::Text,
                };
                Shown::Nothing
            }
            State::Intermediate => {
                self.state = State::Text;
                Shown::Nothing
            }
            State::Control => match byte {
                b' '..=b'?' if self.length < STRING_MAX => {
                    self.length += 1;
                    Shown::Nothing
                }
                b'@'..=b'~' | b' '..=b'?' => {
                    self.state = State::Text;
                    Shown::Nothing
                }
                // A control character ends it and counts.
                _ => {
                    self.state = State::Text;
                    self.text(byte)
                }
            },
            State::String | State::StringEscape => self.string(byte),
        }
    }

    fn text(&mut self, byte: u8) -> Shown {
        match byte {
            0x1b => {
                self.state = State::Escape;
                Shown::Nothing
            }
            b'\n' => Shown::Newline,
            b'\t' | b' '..=b'~' => Shown::Byte(byte),
            0x08 => Shown::Backspace,
            _ => Shown::Nothing,
        }
    }

    fn string(&mut self, byte: u8) -> Shown {
        self.length += 1;
        let over = byte == 0x07 || (self.state == State::StringEscape && byte == b'\\');
        self.state = match byte {
            _ if over || self.length >= STRING_MAX => State::Text,
            b'\n' => State::Text,
            0x1b => State::StringEscape,
            _ => State::String,
        };
        if byte == b'\n' { Shown::Newline } else { Shown::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn shown(bytes: &[u8]) -> Vec<u8> {
        let mut filter = Filter::default();
        let mut out = Vec::new();
        for byte in bytes {
            match filter.next(*byte) {
                Shown::Byte(byte) => out.push(byte),
                Shown::Newline => out.push(b'\n'),
                Shown::Backspace => {
                    out.pop();
                }
                Shown::Nothing => {}
            }
        }
        out
    }

    #[test]
    fn sequences_vanish_whole() {
        assert_eq!(shown(b"a\x1b[2Jb\x1b[1;31mc\x1b[0m\n"), b"abc\n");
        assert_eq!(shown(b"\x1b]0;title\x07text\x1bP q\x1b\\more"), b"textmore");
        assert_eq!(shown(b"\x1b(Bx\x1b=y\x1b7z"), b"xyz");
        assert_eq!(shown(b"ab\x08c\r\n\x00\xc3\xa4\td\x7f"), b"ac\n\td");
        assert_eq!(shown(b"\x1b[12\nline"), b"\nline");
    }

    #[test]
    fn a_sequence_without_an_end_does_not_silence() {
        let mut endless = b"\x1b]".to_vec();
        endless.extend([b'x'; 300]);
        assert_eq!(shown(&endless).len(), 300 - usize::from(STRING_MAX));
        let mut digits = b"\x1b[".to_vec();
        digits.extend([b'1'; 300]);
        assert!(shown(&digits).len() >= 40);
        assert_eq!(shown(b"\x1b]never\nnext"), b"\nnext");
    }
}
