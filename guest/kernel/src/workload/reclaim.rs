//! `workload=reclaim`: a load on files and anonymous memory with real reclaim, selfballooning beside it, and
//! transcendent memory where `tmem` is among the arguments and the hypervisor has it.
//!
//! The load (`ebb_reclaim::Load`): `file=`, `low=`, `high=` (sizes), `period=`, `phase=` (ms), `write=` (one run of the
//! file in so many is written), `seed=`. `duration=` (ms), `think=` (µs of computing per access, spent sleeping),
//! `swap=` (size of the swap area), `seek=` and `transfer=` (the disk's times in µs; a solid-state disk's by default),
//! `zero=` and `compressible=` (16ths of pages), `sample=` (ms). `nocleancache` and `nofrontswap` leave one out.
//!
//! Every page is verified whenever it is touched, and all of them at the end. A wrong one, or one that transcendent
//! memory lost, ends the domain as crashed; so does running out of memory.

use crate::xenstore::agent;
use crate::{balloon, clock, heap, println, reclaim, selfballoon, thread, trace};
use alloc::format;
use alloc::string::String;
use ebb_guest_logic::args::{Args, BadValue};
use ebb_reclaim::{Config, Contents, Failure, FileId, Load, MountId, Phase, Plan, RegionId, Timing, Work};
use shared_abi::guest_event::ReclaimStatus;

const MS: u64 = 1_000_000;
const US: u64 = 1_000;
/// Computing that is owed before it is spent, ns.
const DEBT: u64 = MS;
/// How long a resting load sleeps at a time, ns.
const REST: u64 = 10 * MS;
/// How long an allocation waits for the balloon at a time, and how often, before the domain is out of memory.
const PATIENCE: u64 = 20 * MS;
const ATTEMPTS: u32 = 500;
/// How often dirty pages are written back, and how many.
const WRITE_BACK: u64 = 500 * MS;
const WRITE_BACK_PAGES: u64 = 128;

struct Run {
    load: Load,
    mount: MountId,
    file: FileId,
    region: RegionId,
    plan: Plan,
    start: u64,
    think: u64,
    debt: u64,
    sample: u64,
    accesses: u64,
    /// Promises that had to be refused.
    refused: u64,
}

fn bad(bad: BadValue<'_>) -> String {
    format!("{}={} is no number", bad.key, bad.value)
}

fn small(args: Args<'static>, key: &str, default: u64) -> Result<u32, String> {
    u32::try_from(args.pages(key, default).map_err(bad)?).map_err(|_| format!("{key} is too large"))
}

fn plan(args: Args<'static>) -> Result<Plan, String> {
    let number = |key, default| args.number(key, default).map_err(bad);
    Ok(Plan {
        seed: number("seed", 1)?,
        file: small(args, "file", 2048)?,
        low: small(args, "low", 128)?,
        high: small(args, "high", 2048)?,
        period_ms: number("period", 6000)?,
        phase_ms: number("phase", 0)?,
        write_one_in: number("write", 12)? as u32,
    })
}

fn config(args: Args<'static>, plan: &Plan) -> Result<Config, String> {
    let number = |key, default| args.number(key, default).map_err(bad);
    let tmem = args.flag("tmem");
    let pages = balloon::stats().total.min(u64::from(plan.file) + u64::from(plan.high)) as usize;
    let share = |key, default| number(key, default).map(|share| share.min(16) as u8);
    Ok(Config {
        seed: plan.seed,
        pages,
        watermarks: reclaim::WATERMARKS,
        swap: small(args, "swap", u64::from(plan.high) * 5 / 4)?,
        disk: Timing {
            seek_ns: number("seek", Timing::SSD.seek_ns / US)? * US,
            page_ns: number("transfer", Timing::SSD.page_ns / US)? * US,
            queue_ns: Timing::SSD.queue_ns,
        },
        contents: Contents {
            zero: share("zero", Contents::USUAL.zero.into())?,
            compressible: share("compressible", Contents::USUAL.compressible.into())?,
        },
        cleancache: tmem && !args.flag("nocleancache"),
        frontswap: tmem && !args.flag("nofrontswap"),
        dirty: 256,
    })
}

impl Run {
    fn new(args: Args<'static>) -> Result<Self, String> {
        let plan = plan(args)?;
        reclaim::start(config(args, &plan)?);
        let made = reclaim::with(|engine| {
            let mount = engine.mount(None)?;
            Some((mount, engine.create(mount, plan.file), engine.map(plan.high.max(plan.low)), engine.uses_tmem()))
        });
        let (mount, file, region, tmem) = made.flatten().ok_or("nothing can be mounted")?;
        heap::make_room(256 * 1024);
        selfballoon::start(tmem)?;
        println!(
            "reclaim: file of {} pages, {} to {} anonymous, transcendent memory {}",
            plan.file,
            plan.low,
            plan.high,
            if tmem { "used" } else { "not used" }
        );
        let number = |key, default| args.number(key, default).map_err(bad);
        let (think, sample) = (number("think", 60)? * US, number("sample", 250)?.max(1) * MS);
        let load = Load::new(plan, file, region);
        let start = clock::now();
        Ok(Self { load, mount, file, region, plan, start, think, debt: 0, sample, accesses: 0, refused: 0 })
    }

    fn now_ms(&self) -> u64 {
        (clock::now() - self.start) / MS
    }

    /// What to do now: a promise that cannot be kept is not made, and the load works with what it has.
    fn next(&mut self) -> Work {
        let now = self.now_ms();
        let work = self.load.next(now);
        let Work::Commit(pages) = work else { return work };
        let more = u64::from(pages.saturating_sub(self.load.promised()));
        if more == 0 || selfballoon::may_commit(more) {
            return work;
        }
        if selfballoon::relieve(more, PATIENCE) && selfballoon::may_commit(more) {
            return work;
        }
        self.refused += 1;
        self.load.access(self.load.phase(now) == Phase::Anon)
    }

    /// Does one thing and waits until its I/O is done.
    fn work(&mut self) -> Result<(), String> {
        let work = self.next();
        if work == Work::Rest {
            thread::sleep(REST);
            return Ok(());
        }
        let done = keep_trying(|now| {
            let done =
                reclaim::with(|engine| self.load.perform(engine, now, work).and_then(|done| engine.balance(done)));
            done.expect("the engine was started")
        })?;
        if !matches!(work, Work::Commit(_)) {
            self.accesses += 1;
            self.debt += self.think;
        }
        if done > clock::now() || self.debt >= DEBT {
            thread::sleep_until(done.max(clock::now()) + core::mem::take(&mut self.debt));
        }
        Ok(())
    }

    fn report(&self) {
        let cut = |pages: u64| u32::try_from(pages).unwrap_or(u32::MAX);
        reclaim::with(|engine| {
            let (stats, disk) = (engine.stats(), engine.disk());
            trace::report(&ReclaimStatus {
                accesses: cut(self.accesses),
                file_reads: cut(stats.file_disk_reads),
                swap_reads: cut(stats.swap_disk_reads),
                writes: cut(disk.writes),
                cleancache_gets: cut(engine.cleancache().succ_gets),
                frontswap_loads: cut(engine.frontswap().loads),
                verified: cut(stats.verified),
            });
        });
        balloon::report();
    }

    /// Touches everything once more, which verifies it, and gives all of it up.
    fn finish(&mut self) -> Result<(), String> {
        let engine = |work: &mut dyn FnMut(&mut reclaim::Engine, u64) -> Result<u64, Failure>| {
            keep_trying(|now| reclaim::with(|engine| work(engine, now)).expect("the engine was started"))
                .map(thread::sleep_until)
        };
        for page in 0..self.load.promised() {
            engine(&mut |engine, now| engine.touch(now, self.region, page, false))?;
        }
        for page in 0..self.plan.file {
            engine(&mut |engine, now| engine.read(now, self.file, page))?;
        }
        engine(&mut |engine, now| engine.unmap(self.region).map(|()| now))?;
        engine(&mut |engine, now| engine.unmount(now, self.mount))
    }
}

/// Does something; when memory is short the balloon is asked for more, and it is done again.
fn keep_trying(mut work: impl FnMut(u64) -> Result<u64, Failure>) -> Result<u64, String> {
    for _ in 0..ATTEMPTS {
        match work(clock::now()) {
            Ok(done) => return Ok(done),
            Err(Failure::OutOfMemory) => {
                if !selfballoon::relieve(balloon::RESERVE, PATIENCE) {
                    thread::sleep(PATIENCE);
                }
            }
            Err(Failure::Wrong(wrong)) => {
                return Err(format!(
                    "a page is wrong at word {}: {:#x} instead of {:#x}",
                    wrong.index, wrong.found, wrong.expected
                ));
            }
            Err(failure) => return Err(format!("{failure:?}")),
        }
    }
    Err("out of memory".into())
}

/// Runs the workload.
pub fn run(args: Args<'static>) -> Result<(), String> {
    balloon::start()?;
    let duration = args.number("duration", 12_000).map_err(bad)? * MS;
    let mut run = Run::new(args)?;
    agent::take_orders();
    let (end, mut sampled, mut written) = (run.start + duration, run.start, run.start);
    while clock::now() < end && agent::order().is_none() {
        run.work()?;
        let now = clock::now();
        if now >= sampled {
            run.report();
            sampled = now + run.sample;
        }
        if now >= written {
            written = now + WRITE_BACK;
            keep_trying(|now| {
                reclaim::with(|engine| engine.write_back(now, WRITE_BACK_PAGES)).expect("the engine was started")
            })?;
        }
    }
    // What the end takes is not the load's.
    run.report();
    let accesses = run.accesses;
    run.finish()?;
    let told = reclaim::with(|engine| (engine.stats(), engine.cleancache(), engine.frontswap()));
    let (stats, cache, swap) = told.expect("the engine was started");
    println!("reclaim: done: {accesses} accesses, {} pages verified, {} promises refused", stats.verified, run.refused);
    println!(
        "reclaim: files: {} read from the disk, {} written, {} of {} puts kept and got back",
        stats.file_disk_reads, stats.file_disk_writes, cache.succ_gets, cache.puts
    );
    println!(
        "reclaim: swap: {} out ({} to the disk), {} in ({} from the disk), {} refused",
        stats.swap_outs, stats.swap_disk_writes, stats.swap_ins, stats.swap_disk_reads, swap.failed_stores
    );
    Ok(())
}
