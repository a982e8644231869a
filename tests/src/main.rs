//! `ebb-tests` boots Ebb in QEMU with real guests, a directory per test, and judges what came of it.
//!
//! Outcomes: pass, skip, error (the test is broken), failure (Ebb is broken), crash (Ebb panicked or
//! hung). docs/tests.md tells how to write a test.

mod check;
mod image_size;
mod images;
mod runner;
mod suite;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Parser;

use crate::check::Outcome;
use crate::runner::{Environment, Report};
use crate::suite::{Case, Test};

/// Whole-machine tests of Ebb
#[derive(Parser)]
struct Cli {
    /// Only cases whose name contains one of these
    filters: Vec<String>,

    /// List the cases and what they are about
    #[arg(long)]
    list: bool,

    /// The whole matrix of machines
    #[arg(long)]
    full: bool,

    /// Under KVM of a Linux on an emulated machine with SVM: all cases that can
    #[arg(long)]
    nested: bool,

    /// Machines at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    jobs: usize,

    /// Multiply every time limit by this, on a slow host
    #[arg(long, value_name = "N", default_value_t = 1, env = "EBB_TEST_PATIENCE")]
    patience: u32,

    /// Seconds for the whole run; what has not started by then is an error
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    budget: u64,

    /// Where the cases' files go [default: ebb-tests in cargo's target directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ebb-tests: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = suite::directories(root)?.iter().map(|d| Test::load(d)).collect::<Result<Vec<_>>>()?;
    let mut cases: Vec<Case> = tests.iter().enumerate().flat_map(|(i, test)| test.cases(i, cli.full)).collect();
    let wanted = |name: &str| cli.filters.is_empty() || cli.filters.iter().any(|f| name.contains(f.as_str()));
    if cli.nested {
        cases = cases.into_iter().filter_map(|case| tests[case.test].nested(case)).collect();
    }
    cases.retain(|case| wanted(&case.name));
    let wants_size = wanted(image_size::NAME) && !cli.nested;
    if cases.is_empty() && !wants_size {
        bail!("no case matches {:?}", cli.filters);
    }
    if cli.list {
        if wants_size {
            println!("{:<44} {}", image_size::NAME, image_size::SUMMARY);
        }
        for case in &cases {
            println!("{:<44} {}", case.name, tests[case.test].spec.summary);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let out = match &cli.out {
        Some(out) => out.clone(),
        None => default_out()?,
    };
    let environment = runner::environment(&out, cli.patience.max(1))?;
    let mut reports = Vec::new();
    if wants_size {
        reports.push(image_size::report(&environment.hypervisor));
        reports.iter().for_each(print);
    }
    reports.extend(run_all(&environment, &tests, &cases, cli));
    Ok(summarise(&reports))
}

/// `ebb-tests` in the directory that holds `debug/ebb-tests`.
fn default_out() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    Ok(me.ancestors().nth(2).unwrap_or(Path::new(".")).join("ebb-tests"))
}

fn run_all(environment: &Environment, tests: &[Test], cases: &[Case], cli: &Cli) -> Vec<Report> {
    let deadline = Instant::now() + Duration::from_secs(cli.budget);
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..cli.jobs.max(1) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let report = if Instant::now() < deadline {
                        environment.run(&tests[case.test], case)
                    } else {
                        out_of_time(case, cli.budget)
                    };
                    print(&report);
                    // A thread that panicked has already failed the run when its scope ends.
                    if let Ok(mut reports) = reports.lock() {
                        reports.push(report);
                    }
                }
            });
        }
    });
    reports.into_inner().unwrap_or_default()
}

fn out_of_time(case: &Case, budget: u64) -> Report {
    Report {
        name: case.name.clone(),
        outcome: Outcome::Error(format!("not run: the {budget} s for all tests were over")),
        last_lines: Vec::new(),
        seconds: 0.0,
        directory: PathBuf::new(),
    }
}

fn print(report: &Report) {
    let mut text = format!("{:<8} {:<44} {:6.1} s", report.outcome.word(), report.name, report.seconds);
    for reason in report.outcome.reasons() {
        text += &format!("\n         {reason}");
    }
    if report.outcome.is_bad() {
        text += &format!("\n         files: {}", report.directory.display());
        for line in &report.last_lines {
            text += &format!("\n         | {line}");
        }
    }
    // One call, so that lines of two cases do not mix.
    println!("{text}");
}

fn summarise(reports: &[Report]) -> ExitCode {
    let count = |wanted: fn(&Outcome) -> bool| reports.iter().filter(|r| wanted(&r.outcome)).count();
    let passed = count(|o| *o == Outcome::Pass);
    let failed = count(Outcome::is_bad);
    let skipped = count(|o| matches!(o, Outcome::Skip(_)));
    if failed > 0 {
        println!("\nNot passed:");
        for report in reports.iter().filter(|r| r.outcome.is_bad()) {
            println!("  {:<8} {}", report.outcome.word(), report.name);
        }
    }
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 && passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
