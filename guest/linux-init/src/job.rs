//! The jobs on the kernel's command line: `ebb.run=job[:argument...],job,...`, several such words being one list.
//!
//! A word that is not understood is an error: a test that says something else than it means must not pass.

use std::fmt;
use std::time::Duration;

use shared_abi::xen::DomId;

use crate::power::End;

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// `poweroff`, `reboot`, `halt`.
    End(End),
    /// `exit`: init ends, and the kernel panics for it.
    Exit,
    /// `crash`: as the magic SysRq key `c`.
    Crash,
    /// `sleep:MS`.
    Sleep(Duration),
    /// `echo`: answer lines of the console until `quit`.
    Echo,
    /// `locks:THREADS:OPERATIONS`: contend for futexes, the address space, files and pipes.
    Locks {
        /// Threads at it.
        threads: usize,
        /// Operations of all threads together.
        operations: u64,
    },
    /// `spin:THREADS:MS`: use processors, then say what share of the time was stolen.
    Spin {
        /// Threads at it.
        threads: usize,
        /// For how long.
        time: Duration,
    },
    /// `hold:KIB`: fill so much memory with a pattern and keep it.
    Hold(usize),
    /// `drop`: give up what is held.
    Drop,
    /// `verify`: look at the pattern in what is held.
    Verify,
    /// `watch:MS`: from now on look at the kernel's memory figures so often, say when they change, report them to XenStore.
    Watch(Duration),
    /// `await:LOW:HIGH`: wait until MemTotal (KiB) is within these.
    Await {
        /// At least.
        low: u64,
        /// At most.
        high: u64,
    },
    /// `stage:N`: say in XenStore's `data/stage` how far we are; lines of the control script wait for it.
    Stage(u64),
    /// `follow`: wait until asked to power off or reboot, and do so.
    Follow,
    /// `ask-store:REQUESTS`: so many reads from XenStore; says how many ticks of the TSC they took.
    AskStore(u64),
    /// `answer-events:DOMAIN:ROUNDS`: offer the domain an event channel, and send as many events back. Domains count from
    /// 1 in the order of the scenario.
    AnswerEvents {
        /// Who sends them.
        peer: DomId,
        /// How many.
        rounds: u64,
    },
    /// `ping-events:DOMAIN:ROUNDS`: send events to the domain, each when the last came back; says how many ticks of the TSC
    /// that took.
    PingEvents {
        /// Who answers them.
        peer: DomId,
        /// How many.
        rounds: u64,
    },
    /// `flood:LINES`: so many lines to the console, as fast as it takes them.
    Flood(u64),
    /// `flood-store:REQUESTS`: so many requests to XenStore, valid ones and others.
    FloodStore(u64),
    /// `spoil-rings`: write nonsense to the console's and XenStore's ring indexes.
    SpoilRings,
    /// `module:NAME`: load `/modules/NAME.ko`.
    Module(String),
    /// `machine`: run the command whose words are the lines of `/machine`.
    Machine,
    /// `lose-page-tables`: give the pages of the kernel's own page tables back to the hypervisor.
    LosePageTables,
}

/// Why a job could not be done.
#[derive(Debug)]
pub struct Failed(pub String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<rustix::io::Errno> for Failed {
    fn from(error: rustix::io::Errno) -> Self {
        Self(error.to_string())
    }
}

/// The jobs that `command_line` asks for.
///
/// # Errors
/// The first that is not understood.
pub fn from_command_line(command_line: &str) -> Result<Vec<Job>, Failed> {
    let lists = command_line.split_whitespace().filter_map(|word| word.strip_prefix("ebb.run="));
    lists.flat_map(|list| list.split(',')).filter(|word| !word.is_empty()).map(parse).collect()
}

fn parse(word: &str) -> Result<Job, Failed> {
    let mut parts = word.split(':');
    let name = parts.next().unwrap_or_default();
    let arguments: Vec<&str> = parts.collect();
    let wrong = || Failed(format!("`{word}` is no job"));
    if let ("module", [module]) = (name, arguments.as_slice()) {
        return Ok(Job::Module((*module).to_owned()));
    }
    let numbers: Vec<u64> = arguments.iter().map(|a| a.parse()).collect::<Result<_, _>>().map_err(|_| wrong())?;
    let size = |n: u64| usize::try_from(n).map_err(|_| wrong());
    let domain = |n: u64| u16::try_from(n).map(DomId).map_err(|_| wrong());
    Ok(match (name, numbers.as_slice()) {
        ("poweroff", []) => Job::End(End::PowerOff),
        ("reboot", []) => Job::End(End::Reboot),
        ("halt", []) => Job::End(End::Halt),
        ("exit", []) => Job::Exit,
        ("crash", []) => Job::Crash,
        ("sleep", [ms]) => Job::Sleep(Duration::from_millis(*ms)),
        ("echo", []) => Job::Echo,
        ("locks", [threads, operations]) => Job::Locks { threads: size(*threads)?, operations: *operations },
        ("spin", [threads, ms]) => Job::Spin { threads: size(*threads)?, time: Duration::from_millis(*ms) },
        ("hold", [kib]) => Job::Hold(size(*kib)?.checked_mul(1024).ok_or_else(wrong)?),
        ("drop", []) => Job::Drop,
        ("verify", []) => Job::Verify,
        ("watch", [ms]) => Job::Watch(Duration::from_millis(*ms)),
        ("await", [low, high]) => Job::Await { low: *low, high: *high },
        ("stage", [stage]) => Job::Stage(*stage),
        ("follow", []) => Job::Follow,
        ("ask-store", [requests]) => Job::AskStore(*requests),
        ("answer-events", [peer, rounds]) => Job::AnswerEvents { peer: domain(*peer)?, rounds: *rounds },
        ("ping-events", [peer, rounds]) => Job::PingEvents { peer: domain(*peer)?, rounds: *rounds },
        ("flood", [lines]) => Job::Flood(*lines),
        ("flood-store", [requests]) => Job::FloodStore(*requests),
        ("spoil-rings", []) => Job::SpoilRings,
        ("machine", []) => Job::Machine,
        ("lose-page-tables", []) => Job::LosePageTables,
        _ => return Err(wrong()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_are_read_in_order_from_all_words() {
        let line = "console=hvc0 ebb.run=locks:8:2000,sleep:5 quiet ebb.run=module:xen-privcmd,halt\n";
        let jobs = from_command_line(line).unwrap();
        let locks = Job::Locks { threads: 8, operations: 2000 };
        let sleep = Job::Sleep(Duration::from_millis(5));
        assert_eq!(jobs, [locks, sleep, Job::Module("xen-privcmd".into()), Job::End(End::Halt)]);
        let ping = Job::PingEvents { peer: DomId(2), rounds: 10 };
        assert_eq!(from_command_line("ebb.run=ping-events:2:10").unwrap(), [ping]);
        assert!(from_command_line("console=hvc0").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_job_is_an_error() {
        for word in [
            "dance",
            "sleep",
            "sleep:x",
            "locks:1",
            "halt:1",
            "hold:99999999999999999999",
            "module",
            "ping-events:65536:1",
        ] {
            assert!(from_command_line(&format!("ebb.run={word}")).is_err(), "{word}");
        }
    }
}
