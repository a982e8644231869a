//! The live table: figures above, the console scrolling beneath.

use std::collections::VecDeque;
use std::io::{self, Stdout, Write};
use std::time::Duration;

use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
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
    /// The console's last line, without an end.
    prompt: String,
    /// What was typed for the machine; none when keys are not for it.
    typed: Option<Vec<u8>>,
    open: bool,
}

impl Terminal {
    /// Takes the screen over. With `keyboard`, keys are for the machine.
    ///
    /// # Errors
    /// The terminal's.
    pub fn open(title: String, keyboard: bool) -> io::Result<Self> {
        let mut out = io::stdout();
        terminal::enable_raw_mode()?;
        let view = Self {
            out: io::stdout(),
            title,
            console: VecDeque::new(),
            prompt: String::new(),
            typed: keyboard.then(Vec::new),
            open: true,
        };
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
        let keys = if self.typed.is_some() { "Ctrl-C stops, Ctrl-A ? explains" } else { "q or Ctrl-C stops" };
        let mut top = table::lines(&self.title, model);
        top.push((Tone::Heading, format!("{0} console ({keys}) {0}", "─".repeat(8))));
        let prompt = Some(&self.prompt).filter(|prompt| !prompt.is_empty());
        let screen = compose(top, self.console.iter().chain(prompt), width.into(), height.into());
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
fn compose<'c>(
    top: Vec<(Tone, String)>,
    console: impl Iterator<Item = &'c String> + Clone,
    width: usize,
    height: usize,
) -> Vec<(Tone, String)> {
    let mut screen = top;
    screen.truncate(height);
    let room = height - screen.len();
    let skip = console.clone().count().saturating_sub(room);
    screen.extend(console.skip(skip).map(|line| (Tone::Plain, line.clone())));
    screen.resize(height, (Tone::Plain, String::new()));
    for (_, text) in &mut screen {
        if let Some((cut, _)) = text.char_indices().nth(width) {
            text.truncate(cut);
        }
    }
    screen
}

/// Takes the keys pressed so far, those for the machine into `typed`; true when they ask to stop.
fn take_keys(mut typed: Option<&mut Vec<u8>>) -> io::Result<bool> {
    while event::poll(Duration::ZERO)? {
        let Event::Key(key) = event::read()? else {
            continue;
        };
        let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        match &mut typed {
            _ if control_c => return Ok(true),
            Some(typed) => typed.extend(bytes_of(key)),
            None if key.code == KeyCode::Char('q') => return Ok(true),
            None => {}
        }
    }
    Ok(false)
}

/// What a serial terminal sends for a key.
fn bytes_of(key: KeyEvent) -> Vec<u8> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char(c @ ('a'..='z' | '@'..='_')) if control => vec![c as u8 & 0x1f],
        KeyCode::Char(c) => c.to_string().into_bytes(),
        KeyCode::Enter => b"\r".to_vec(),
        KeyCode::Tab => b"\t".to_vec(),
        KeyCode::Backspace => vec![0x7f],
        KeyCode::Esc => vec![0x1b],
        KeyCode::Up => b"\x1b[A".to_vec(),
        KeyCode::Down => b"\x1b[B".to_vec(),
        KeyCode::Right => b"\x1b[C".to_vec(),
        KeyCode::Left => b"\x1b[D".to_vec(),
        _ => Vec::new(),
    }
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
        take_keys(self.typed.as_mut())
    }

    fn prompt(&mut self, text: &str) {
        text.clone_into(&mut self.prompt);
    }

    fn take_typed(&mut self) -> Vec<u8> {
        self.typed.as_mut().map(std::mem::take).unwrap_or_default()
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
        let top = || {
            let mut top = table::lines("Ebb", &model);
            top.push((Tone::Heading, "console".into()));
            top
        };
        for (width, height) in [(80, 24), (20, 3), (200, 60), (1, 1), (0, 0)] {
            let screen = compose(top(), console.iter(), width, height);
            assert_eq!(screen.len(), height);
            assert!(screen.iter().all(|(_, text)| text.chars().count() <= width));
        }
        let screen = compose(top(), console.iter(), 80, 24);
        assert!(screen[23].1.starts_with("line 99"));
        assert!(screen[6].1.starts_with("line 82"), "{:?}", screen[6]);
    }

    #[test]
    fn keys_are_what_a_terminal_sends() {
        let key = |code, modifiers| bytes_of(KeyEvent::new(code, modifiers));
        assert_eq!(key(KeyCode::Char('a'), KeyModifiers::CONTROL), [1]);
        assert_eq!(key(KeyCode::Char(']'), KeyModifiers::CONTROL), [0x1d]);
        assert_eq!(key(KeyCode::Char('é'), KeyModifiers::NONE), "é".as_bytes());
        assert_eq!(key(KeyCode::Enter, KeyModifiers::NONE), b"\r");
        assert_eq!(key(KeyCode::F(1), KeyModifiers::NONE), b"");
    }
}
