//! Plain lines, for pipes and logs: the console as it comes, and the figures every two seconds of
//! the machine's time.

use std::io::{self, Read, Write};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crate::size::pages_as_mib;
use crate::trace::model::Model;
use crate::view::View;
use crate::view::table::short_text;

const PERIOD_NS: u64 = 2_000_000_000;

/// Writes plain lines to `out`.
#[derive(Debug)]
pub struct Plain<W: Write> {
    out: W,
    next_ns: u64,
    /// What is typed.
    input: Option<Receiver<Vec<u8>>>,
}

impl<W: Write> Plain<W> {
    /// A view on `out`.
    pub fn new(out: W) -> Self {
        Self { out, next_ns: 0, input: None }
    }

    /// The same view, which passes what can be read from `input` to the machine's console.
    #[must_use]
    pub fn with_input(mut self, mut input: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        // It waits in a read, and ends with the program or the input.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = input.read(&mut buffer) {
                if sender.send(buffer[..len].to_vec()).is_err() {
                    break;
                }
            }
        });
        self.input = Some(receiver);
        self
    }
}

/// The figures in one line.
fn figures(model: &Model) -> String {
    let mut text = format!("[{:7.2} s]", model.now_ns as f64 / 1e9);
    if let Some(host) = &model.host {
        text += &format!(" free {} scrubbing {} pages", host.free, host.scrubbing);
    }
    for (_, domain) in model.shown() {
        text += &format!(" | {} {}", domain.name, pages_as_mib(domain.sample.current));
        if let Some(balloon) = domain.balloon {
            text += &format!("/{}", pages_as_mib(balloon.target.into()));
        }
        text += &format!(" MiB {}", domain.state_text());
        let short = short_text(domain);
        if !short.is_empty() {
            text += &format!(" ({short})");
        }
    }
    text
}

impl<W: Write> View for Plain<W> {
    fn console(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.out, "{line}")
    }

    fn tick(&mut self, model: &Model) -> io::Result<bool> {
        if model.host.is_some() && model.now_ns >= self.next_ns {
            writeln!(self.out, "{}", figures(model))?;
            self.next_ns = model.now_ns - model.now_ns % PERIOD_NS + PERIOD_NS;
        }
        self.out.flush()?;
        Ok(false)
    }

    fn take_typed(&mut self) -> Vec<u8> {
        self.input.as_ref().map_or_else(Vec::new, |input| input.try_iter().flatten().collect())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::model::tests::{made_up_run, model_of};

    #[test]
    fn figures_come_once_a_period() {
        let model = model_of(&made_up_run());
        let mut view = Plain::new(Vec::new());
        view.console("(d1) hello").unwrap();
        assert!(!view.tick(&model).unwrap());
        assert!(!view.tick(&model).unwrap());
        assert!(view.take_typed().is_empty());
        let text = String::from_utf8(view.out).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(
            text.starts_with("(d1) hello\n[   7.00 s] free 49000 scrubbing 0 pages | spring 0.0 MiB powered off"),
            "{text}"
        );
    }

    #[test]
    fn what_is_read_is_typed() {
        let mut view = Plain::new(Vec::new()).with_input("hello\n".as_bytes());
        let mut typed = Vec::new();
        while typed.len() < 6 {
            typed.extend(view.take_typed());
            thread::yield_now();
        }
        assert_eq!(typed, b"hello\n");
    }
}
