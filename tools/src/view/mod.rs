//! What a person sees while a machine runs: a live table, or plain lines.

pub mod plain;
pub mod table;
pub mod terminal;

use std::io;

use crate::trace::model::Model;

/// A way to show a run.
pub trait View {
    /// A line of the machine's console.
    ///
    /// # Errors
    /// The output's.
    fn console(&mut self, line: &str) -> io::Result<()>;

    /// The console's last line so far, which has no end yet: a prompt, perhaps.
    fn prompt(&mut self, _text: &str) {}

    /// Called a few times a second, and once more at the end. Gives true when the person asked to stop.
    ///
    /// # Errors
    /// The output's.
    fn tick(&mut self, model: &Model) -> io::Result<bool>;

    /// What is to be typed on the machine's console now; asked for after each [`View::tick`].
    fn take_typed(&mut self) -> Vec<u8> {
        Vec::new()
    }

    /// What is to be said to the emulator's monitor now; asked for after each [`View::tick`].
    fn take_commands(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// The run is over; the terminal must be as it was.
    ///
    /// # Errors
    /// The output's.
    fn finish(&mut self) -> io::Result<()>;
}
