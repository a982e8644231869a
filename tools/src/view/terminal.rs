//! The live table: figures above, the console scrolling beneath.

use std::collections::VecDeque;
use std::io::{self, Stdout, Write};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyModifiers};
use crossterm::style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor};
use crossterm::terminal::{self, BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate};
use crossterm::{cursor, execute, queue};

use crate::trace::model::Model;
use crate::view::View;
use crate::view::table::{self, Tone};

/// Console lines kept for the lower part.
const KEPT: usize = 500;

/// The whole screen, until it is finished or dropped.
#[derive(Debug)]
pub struct Terminal {
    out: Stdout,
    title: String,
    console: VecDeque<String>,
    open: bool,
}

impl Terminal {
    /// Takes the screen over.
    ///
    /// # Errors
    /// The terminal's.
    pub fn open(title: String) -> io::Result<Self> {
        let mut out = io::stdout();
        terminal::enable_raw_mode()?;
        let view = Self { out: io::stdout(), title, console: VecDeque::new(), open: true };
        execute!(out, terminal::EnterAlternateScreen, cursor::Hide)?;
        Ok(view)
    }

    fn close(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.open) {
            execute!(self.out, cursor::Show, terminal::LeaveAlternateScreen)?;
            terminal::disable_raw_mode()?;
        }
        Ok(())
    }

    fn draw(&mut self, model: &Model) -> io::Result<()> {
        let (width, height) = terminal::size()?;
        let screen = compose(&self.title, model, &self.console, width.into(), height.into());
        queue!(self.out, BeginSynchronizedUpdate)?;
        for (row, (tone, text)) in screen.iter().enumerate() {
            queue!(self.out, cursor::MoveTo(0, row as u16))?;
            match tone {
                Tone::Plain => {}
                Tone::Heading => queue!(self.out, SetAttribute(Attribute::Bold))?,
                Tone::Short => queue!(self.out, SetForegroundColor(Color::Yellow))?,
                Tone::Ended => queue!(self.out, SetAttribute(Attribute::Dim))?,
            }
            queue!(self.out, Print(text), ResetColor, SetAttribute(Attribute::Reset), Clear(ClearType::UntilNewLine))?;
        }
        queue!(self.out, EndSynchronizedUpdate)?;
        self.out.flush()
    }
}

/// Exactly `height` lines of at most `width` characters.
fn compose(title: &str, model: &Model, console: &VecDeque<String>, width: usize, height: usize) -> Vec<(Tone, String)> {
    let mut screen = table::lines(title, model);
    screen.push((Tone::Heading, format!("{0} console (q or Ctrl-C stops) {0}", "─".repeat(8))));
    screen.truncate(height);
    let room = height - screen.len();
    let skip = console.len().saturating_sub(room);
    screen.extend(console.iter().skip(skip).map(|line| (Tone::Plain, line.clone())));
    screen.resize(height, (Tone::Plain, String::new()));
    for (_, text) in &mut screen {
        if let Some((cut, _)) = text.char_indices().nth(width) {
            text.truncate(cut);
        }
    }
    screen
}

/// Whether the keys pressed so far ask to stop.
fn asked_to_stop() -> io::Result<bool> {
    while event::poll(Duration::ZERO)? {
        if let Event::Key(key) = event::read()? {
            let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
            if control_c || key.code == KeyCode::Char('q') {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

impl View for Terminal {
    fn console(&mut self, line: &str) -> io::Result<()> {
        if self.console.len() == KEPT {
            self.console.pop_front();
        }
        self.console.push_back(line.to_owned());
        Ok(())
    }

    fn tick(&mut self, model: &Model) -> io::Result<bool> {
        self.draw(model)?;
        asked_to_stop()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.close()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // The terminal is restored as far as it lets us; there is nobody to tell.
        let _ = self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::model::tests::{made_up_run, model_of};

    #[test]
    fn the_screen_is_filled_exactly() {
        let model = model_of(&made_up_run());
        let console: VecDeque<String> = (0..100).map(|n| format!("line {n} {}", "é".repeat(200))).collect();
        for (width, height) in [(80, 24), (20, 3), (200, 60), (1, 1), (0, 0)] {
            let screen = compose("Ebb", &model, &console, width, height);
            assert_eq!(screen.len(), height);
            assert!(screen.iter().all(|(_, text)| text.chars().count() <= width));
        }
        let screen = compose("Ebb", &model, &console, 80, 24);
        assert!(screen[23].1.starts_with("line 99"));
        assert!(screen[6].1.starts_with("line 82"), "{:?}", screen[6]);
    }
}
