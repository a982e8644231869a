//! Memory as Linux counts it, and memory that is held to see that nobody else writes to it.

use std::fmt;
use std::fs;
use std::thread;
use std::time::Duration;

use crate::job::Failed;
use crate::report::{failed, say};
use crate::xenbus::Store;

/// Figures of `/proc/meminfo`, KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// What the kernel manages; the balloon's pages are not in it.
    pub total: u64,
    /// What nobody uses.
    pub free: u64,
    /// What could be given to programs.
    pub available: u64,
    /// What programs were promised.
    pub committed: u64,
}

impl Figures {
    /// Reads them.
    ///
    /// # Errors
    /// `/proc/meminfo` cannot be read or lacks one.
    pub fn read() -> Result<Self, Failed> {
        Self::parse(&fs::read_to_string("/proc/meminfo")?)
    }

    fn parse(text: &str) -> Result<Self, Failed> {
        let value = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            let number = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
            number.ok_or_else(|| Failed(format!("/proc/meminfo lacks {name}")))
        };
        Ok(Self {
            total: value("MemTotal")?,
            free: value("MemFree")?,
            available: value("MemAvailable")?,
            committed: value("Committed_AS")?,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemTotal={} MemFree={} Committed={}", self.total, self.free, self.committed)
    }
}

/// From now on says when MemTotal has changed, and reports free and committed memory to XenStore where there is one.
pub fn watch(period: Duration) -> Result<(), Failed> {
    let mut last = Figures::read()?;
    let mut store = Store::open().ok();
    thread::Builder::new().spawn(move || {
        loop {
            thread::sleep(period);
            let now = match Figures::read() {
                Ok(now) => now,
                Err(error) => return failed("watching memory", &error),
            };
            if now.total != last.total {
                say(&format!("memory {now}"));
            }
            if let Some(open) = &mut store
                && let Err(error) = report(open, &now)
            {
                failed("reporting memory", &error);
                store = None;
            }
            last = now;
        }
    })?;
    Ok(())
}

fn report(store: &mut Store, figures: &Figures) -> Result<(), Failed> {
    store.write("data/memory/committed", &figures.committed.to_string())?;
    store.write("data/memory/free", &figures.available.to_string())
}

/// Waits until MemTotal is from `low` to `high` KiB, and says so.
pub fn wait_for(low: u64, high: u64) -> Result<(), Failed> {
    loop {
        let now = Figures::read()?;
        if (low..=high).contains(&now.total) {
            say(&format!("reached {now}"));
            return Ok(());
        }
        // The kernel has no event for it that a program could wait on.
        thread::sleep(Duration::from_millis(20));
    }
}

/// Memory filled with a pattern.
#[derive(Default)]
pub struct Held {
    words: Vec<Vec<u64>>,
}

/// What is allocated at a time.
const CHUNK: usize = 1 << 20;

impl Held {
    /// Holds `bytes` more.
    ///
    /// # Errors
    /// There is not so much.
    pub fn hold(&mut self, bytes: usize) -> Result<(), Failed> {
        let words_per_chunk = CHUNK / size_of::<u64>();
        for _ in 0..bytes.div_ceil(CHUNK) {
            let mut chunk = Vec::new();
            chunk.try_reserve_exact(words_per_chunk).map_err(|e| Failed(e.to_string()))?;
            let number = self.words.len();
            chunk.extend((0..words_per_chunk).map(|i| pattern(number, i)));
            self.words.push(chunk);
        }
        say(&format!("holding {} MiB", self.words.len()));
        Ok(())
    }

    /// Gives everything up.
    pub fn drop_all(&mut self) {
        self.words = Vec::new();
        say("holding 0 MiB");
    }

    /// Looks at all of it.
    ///
    /// # Errors
    /// A word is not what was written.
    pub fn verify(&self) -> Result<(), Failed> {
        for (number, chunk) in self.words.iter().enumerate() {
            if let Some(i) = chunk.iter().enumerate().position(|(i, word)| *word != pattern(number, i)) {
                return Err(Failed(format!("word {i} of MiB {number} is {:#x}", chunk[i])));
            }
        }
        say(&format!("verified {} MiB", self.words.len()));
        Ok(())
    }
}

/// A word that depends on where it is.
fn pattern(chunk: usize, index: usize) -> u64 {
    (((chunk as u64) << 32) | index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:  100 kB\nMemFree:  50 kB\nMemAvailable: 60 kB\nCommitted_AS: 7 kB\n";
        let figures = Figures { total: 100, free: 50, available: 60, committed: 7 };
        assert_eq!(Figures::parse(text).unwrap(), figures);
        assert!(Figures::parse("MemTotal: x kB").is_err());
    }

    #[test]
    fn a_changed_word_is_found() {
        let mut held = Held::default();
        held.hold(CHUNK + 1).unwrap();
        assert_eq!(held.words.len(), 2);
        held.verify().unwrap();
        held.words[1][77] ^= 1;
        assert!(held.verify().unwrap_err().0.starts_with("word 77 of MiB 1"));
    }
}
