//! `/init` of Ebb's Linux test domains: says what the kernel found, then does the jobs that the kernel's command line names.
//!
//! Invariants: every fact is one line beginning with `init: ` in the kernel's log, so that lines of several processors
//! never mix; `init: failed ...` is written for whatever goes wrong and the machine then powers off, so that a test ends
//! with a reason instead of a time limit. As `/sbin/poweroff` and `/sbin/reboot` (which Linux starts when XenStore's
//! `control/shutdown` asks) the same program asks the one that runs as init.
//!
//! Locking: threads of a load share only what `load` says. Specification: docs/linux.md lists the jobs; the kernel's
//! side is `Documentation/ABI/testing/dev-kmsg`, `proc(5)` and `drivers/xen/manage.c`.

mod asked;
mod echo;
mod events;
mod facts;
mod hostile;
mod job;
mod load;
mod machine;
mod memory;
mod power;
mod report;
mod tick;
mod xenbus;

use std::process::ExitCode;

use job::Job;

fn main() -> ExitCode {
    let name = std::env::args().next().unwrap_or_default();
    match name.rsplit('/').next() {
        Some(what @ ("poweroff" | "reboot" | "halt")) => asked::ask(what),
        _ => init(),
    }
}

/// Runs as process 1. It returns only when the kernel shall panic for want of it.
fn init() -> ExitCode {
    let began = tick::now();
    if let Err(error) = report::set_up() {
        // There is no console yet: the kernel's panic tells of it.
        eprintln!("init: failed to set up: {error}");
        return ExitCode::FAILURE;
    }
    report::say(&format!("began at tick {began}"));
    facts::say_all();
    let jobs = match job::from_command_line(&facts::command_line()) {
        Ok(jobs) => jobs,
        Err(error) => {
            report::failed("reading the jobs", &error);
            power::end(power::End::PowerOff);
        }
    };
    let mut state = State::default();
    for job in &jobs {
        if *job == Job::Exit {
            return ExitCode::FAILURE;
        }
        if let Err(error) = state.run(job) {
            report::failed(&format!("{job:?}"), &error);
            power::end(power::End::PowerOff);
        }
    }
    report::say("done");
    power::end(power::End::PowerOff)
}

/// What jobs leave for later ones.
#[derive(Default)]
struct State {
    held: memory::Held,
}

impl State {
    fn run(&mut self, job: &Job) -> Result<(), job::Failed> {
        match job {
            Job::End(end) => power::end(*end),
            Job::Exit => Ok(()),
            Job::Crash => power::crash(),
            Job::Sleep(time) => {
                std::thread::sleep(*time);
                Ok(())
            }
            Job::Echo => echo::answer(),
            Job::Locks { threads, operations } => load::locks(*threads, *operations),
            Job::Spin { threads, time } => load::spin(*threads, *time),
            Job::Hold(bytes) => self.held.hold(*bytes),
            Job::Drop => {
                self.held.drop_all();
                Ok(())
            }
            Job::Verify => self.held.verify(),
            Job::Watch(period) => memory::watch(*period),
            Job::Await { low, high } => memory::wait_for(*low, *high),
            Job::Stage(stage) => {
                xenbus::Store::open()?.write("data/stage", &stage.to_string())?;
                report::say(&format!("stage {stage}"));
                Ok(())
            }
            Job::Follow => {
                let end = asked::follow()?;
                self.held.verify()?;
                power::end(end)
            }
            Job::AskStore(requests) => xenbus::ask_often(*requests),
            Job::AnswerEvents { peer, rounds } => events::answer(*peer, *rounds),
            Job::PingEvents { peer, rounds } => events::ping(*peer, *rounds),
            Job::Flood(lines) => hostile::flood_console(*lines),
            Job::FloodStore(requests) => hostile::flood_store(*requests),
            Job::SpoilRings => hostile::spoil_rings(),
            Job::Module(name) => hostile::load_module(name),
            Job::Machine => machine::run(),
            Job::LosePageTables => hostile::lose_page_tables(),
        }
    }
}
