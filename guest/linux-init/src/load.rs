//! Load that makes vCPUs wait for each other: locks in user space (futexes), the address space (page faults, mmap and
//! munmap of one process), a directory, pipes. With more vCPUs than processors the kernel's spinlocks are held by vCPUs
//! that do not run, and its waiters go to sleep in the hypervisor.
//!
//! Everything counted is checked: a lock that let two in, or a page that was not zero, is a failure.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::job::Failed;
use crate::report::say;

/// Pages that one operation maps, touches and unmaps; above what the allocator keeps.
const PAGES: usize = 64;
const PAGE: usize = 4096;

/// What all threads of [`locks`] share.
struct Shared {
    /// Operations still to begin.
    left: AtomicU64,
    /// Behind a futex; must end as the number of operations of its kind.
    counter: Mutex<u64>,
    /// What it must end as.
    increments: AtomicU64,
    /// All threads write to and read from one pipe.
    pipe: (std::io::PipeReader, std::io::PipeWriter),
    begin: Barrier,
}

/// Contends with `threads` for `operations` altogether.
///
/// # Errors
/// A lock or a page did not behave, or the kernel refused something.
pub fn locks(threads: usize, operations: u64) -> Result<(), Failed> {
    fs::create_dir_all("/load")?;
    let shared = Shared {
        left: AtomicU64::new(operations),
        counter: Mutex::new(0),
        increments: AtomicU64::new(0),
        pipe: std::io::pipe()?,
        begin: Barrier::new(threads),
    };
    let faults = faults_so_far();
    let before = Times::read()?;
    thread::scope(|scope| {
        let shared = &shared;
        let all: Vec<_> = (0..threads).map(|number| scope.spawn(move || work(shared, number))).collect();
        all.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| Err(Failed("a thread panicked".into()))))
    })?;
    let counted = *shared.counter.lock().unwrap_or_else(PoisonError::into_inner);
    let expected = shared.increments.load(Ordering::Relaxed);
    if counted != expected {
        return Err(Failed(format!("{expected} increments under a lock made {counted}")));
    }
    let faults = faults_so_far() - faults;
    say(&format!("locks threads={threads} operations={operations} counted={counted} faults={faults}"));
    say(&format!("times {}", Times::read()?.since(&before)));
    Ok(())
}

fn work(shared: &Shared, number: usize) -> Result<(), Failed> {
    let path = format!("/load/{number}");
    shared.begin.wait();
    loop {
        let taken = shared.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let Ok(operation) = taken else { return Ok(()) };
        match operation % 4 {
            0 => {
                shared.increments.fetch_add(1, Ordering::Relaxed);
                let mut counter = shared.counter.lock().unwrap_or_else(PoisonError::into_inner);
                let seen = *counter;
                // Long enough for others to find it taken.
                thread::yield_now();
                *counter = seen + 1;
            }
            1 => touch()?,
            2 => {
                File::create(&path)?.write_all(b"x")?;
                fs::remove_file(&path)?;
            }
            _ => {
                // As many bytes go in as come out, so nobody waits for ever.
                (&shared.pipe.1).write_all(&[1; 64])?;
                (&shared.pipe.0).read_exact(&mut [0; 64])?;
            }
        }
    }
}

/// Maps memory, reads and writes each of its pages, unmaps it.
fn touch() -> Result<(), Failed> {
    let mut bytes = vec![0_u8; PAGES * PAGE];
    for page in bytes.chunks_mut(PAGE) {
        if page[0] != 0 || page[PAGE - 1] != 0 {
            return Err(Failed("a fresh page is not zero".into()));
        }
        page[0] = 1;
    }
    // Keeps the writes, which nobody reads, from being left out.
    std::hint::black_box(&bytes);
    Ok(())
}

/// Minor page faults of this process so far.
fn faults_so_far() -> u64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields after the program's name, which is in parentheses; the eighth of them.
    let rest = text.rsplit(')').next().unwrap_or_default();
    rest.split_whitespace().nth(7).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Uses `threads` processors for `time`, then says how the kernel accounted for it.
///
/// # Errors
/// `/proc/stat` makes no sense.
pub fn spin(threads: usize, time: Duration) -> Result<(), Failed> {
    let before = Times::read()?;
    let begun = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while begun.elapsed() < time {
                    std::hint::spin_loop();
                }
            });
        }
    });
    let spent = Times::read()?.since(&before);
    say(&format!("spun threads={threads} stolen={}% {spent}", spent.steal * 100 / spent.all().max(1)));
    Ok(())
}

/// How the kernel accounts for its processors' time, in ticks of 10 ms (`/proc/stat`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    user: u64,
    system: u64,
    idle: u64,
    interrupts: u64,
    steal: u64,
}

impl Times {
    /// Since boot.
    ///
    /// # Errors
    /// `/proc/stat` makes no sense.
    pub fn read() -> Result<Self, Failed> {
        Self::parse(&fs::read_to_string("/proc/stat")?)
    }

    fn parse(text: &str) -> Result<Self, Failed> {
        let line = text.lines().find_map(|l| l.strip_prefix("cpu ")).unwrap_or_default();
        let n: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        match n.as_slice() {
            [user, nice, system, idle, wait, irq, softirq, steal, ..] => Ok(Self {
                user: user + nice,
                system: *system,
                idle: idle + wait,
                interrupts: irq + softirq,
                steal: *steal,
            }),
            _ => Err(Failed("/proc/stat has no line for all processors".into())),
        }
    }

    /// From `earlier` to this.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            idle: self.idle.saturating_sub(earlier.idle),
            interrupts: self.interrupts.saturating_sub(earlier.interrupts),
            steal: self.steal.saturating_sub(earlier.steal),
        }
    }

    fn all(&self) -> u64 {
        self.user + self.system + self.idle + self.interrupts + self.steal
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, system, idle, interrupts, steal } = self;
        write!(f, "user={user} system={system} idle={idle} interrupts={interrupts} steal={steal}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_subtracted() {
        let earlier = Times::parse("cpu  1 1 1 1 1 1 1 1 0 0\ncpu0 1\n").unwrap();
        let later = Times::parse("cpu  11 1 3 1 1 1 1 9 0 0\n").unwrap();
        let spent = later.since(&earlier);
        assert_eq!(spent, Times { user: 10, system: 2, idle: 0, interrupts: 0, steal: 8 });
        assert_eq!(spent.all(), 20);
        assert!(Times::parse("cpu 1 2").is_err());
    }

    #[test]
    fn a_fresh_allocation_is_zero() {
        touch().unwrap();
        touch().unwrap();
    }
}
