//! `ebb bench`: a guest measures hypercalls in instructions, in a machine whose time counts them.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;
use shared_abi::trace_stream::Kind;

use crate::accel::Accel;
use crate::archive::{Archive, Check};
use crate::bench;
use crate::bochs;
use crate::bochs_bench::{self, Column};
use crate::cmd::{Programs, exit_code, watched_options, watched_records};
use crate::iso::{self, Modules};
use crate::library::Source;
use crate::machine_bench::{self, Figure, LinuxBoot, Rate};
use crate::paths;
use crate::qemu::{Boot, Firmware, Machine};
use crate::scenario::Scenario;
use crate::session::{self, Files, Session, SessionEnd, Silent};
use crate::trace::model::Model;
use crate::trade_bench::{self, Trade};
use crate::view::View;

/// One processor, so that the figures for a kick and for ping-pong include the switch.
const SCENARIO: &str = include_str!("../../scenarios/bench.toml");

/// Its domain.
const BENCH_NAME: &str = "bench";

/// A domain that is built a second time.
const AGAIN: &str = include_str!("../../scenarios/bench-again.toml");
/// A boot of Linux.
const LINUX: &str = include_str!("../../scenarios/bench-linux.toml");
/// Memory that goes from one domain to another.
const TRADE: &str = include_str!("../../scenarios/bench-trade.toml");
/// Events between two domains.
const EVENTS: &str = include_str!("../../scenarios/bench-events.toml");
/// Its RAM disk.
const EVENTS_DISK: &str = "ebb-init+xen-evtchn";
/// The domain of [`LINUX`] and the kernel of all, as the scenarios have them.
const LINUX_NAME: &str = "linux";
const LINUX_KERNEL: &str = "debian-cloud";
/// What Linux prints when a processor does not get on.
const STALL: &str = "detected stalls on CPUs";
/// How often a machine with Linux is tried: one that hangs is spared, once it differs a little. QEMU with -icount delivered
/// interrupts twice before that was worked around (docs/hardware.md); none has hung since.
const TRIES: u32 = 4;
/// A Linux that has nothing to say for so long on the wall clock waits like that: with one vCPU there is no other one to
/// tell of it.
const SILENCE: Duration = Duration::from_secs(60);
/// The records that only measurements look at.
const RECORDS: [Kind; 4] = [Kind::INITIALISED, Kind::DOMAIN_BUILD, Kind::VCPU_START, Kind::DOMAIN_EXITS];
/// Its boots: the vCPUs it is given, and a hypervisor option. vCPUs that wait for each other by spinning, as Linux's do
/// while they start, use their slices up on the one processor; with long slices that is more.
const LINUX_BOOTS: [(u32, &str); 4] = [(1, ""), (2, ""), (2, "timeslice=30000"), (4, "")];

/// The boot of Linux with so many vCPUs and one more option.
fn linux_with(vcpus: u32, option: &str) -> String {
    LINUX.replace("vcpus = 2", &format!("vcpus = {vcpus}")).replace("sample=10000", &format!("sample=10000 {option}"))
}

/// The hypervisor's command line for a scenario.
fn options(scenario: &Scenario, more: &str) -> String {
    watched_options(&[&scenario.host.options, &watched_records(&RECORDS), more], true)
}

/// Shows nothing, and stops when so many domains have been built and begun.
struct UntilBuilt(usize);

impl View for UntilBuilt {
    fn console(&mut self, _line: &str) -> io::Result<()> {
        Ok(())
    }

    fn tick(&mut self, model: &Model) -> io::Result<bool> {
        Ok(model.creations.len() >= self.0)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A part of the measurements, for `--only`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// What a guest measures: hypercalls, events, memory, XenStore
    Calls,
    /// The hypervisor's initialisation, the making of a domain, clearing memory
    Start,
    /// Boots of Debian's Linux
    Linux,
    /// Events between two Linux domains
    Events,
    /// Memory that goes from one domain to another, XenStore between domains
    Trade,
}

/// Shows nothing, and stops when Linux says that it stalls, or nothing at all.
struct UntilStalled {
    stalled: bool,
    last_line: Instant,
}

impl UntilStalled {
    fn new() -> Self {
        Self { stalled: false, last_line: Instant::now() }
    }
}

impl View for UntilStalled {
    fn console(&mut self, line: &str) -> io::Result<()> {
        self.stalled |= line.contains(STALL);
        self.last_line = Instant::now();
        Ok(())
    }

    fn tick(&mut self, _model: &Model) -> io::Result<bool> {
        self.stalled |= self.last_line.elapsed() > SILENCE;
        Ok(self.stalled)
    }

    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The options of `ebb bench`.
#[derive(Args, Debug)]
pub struct Bench {
    /// Where bench.json and bench.csv go
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,

    /// QEMU's processor model
    #[arg(long, value_name = "MODEL")]
    cpu_model: Option<String>,

    /// Stop a machine after so many seconds of wall-clock time; there is one for each part, and for each boot of Linux
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    timeout: u64,

    /// The calls on Bochs' processors too, beside QEMU's: skylake_x, ryzen, or another of its models; without --only,
    /// nothing else
    #[arg(long, value_delimiter = ',', value_name = "MODEL")]
    bochs: Vec<String>,

    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    only: Vec<Part>,

    #[command(flatten)]
    programs: Programs,
}

/// What came of all parts.
#[derive(Default)]
struct Results {
    rows: Vec<bench::Row>,
    /// The same on QEMU's processor and on Bochs'.
    columns: Vec<Column>,
    figures: Vec<Figure>,
    rates: Vec<Rate>,
    boots: Vec<LinuxBoot>,
    /// Trades, and XenStore requests a second.
    trades: Option<(Vec<Trade>, Option<u64>)>,
    /// What was asked for and could not be measured, with the reason.
    missing: Vec<String>,
    /// What the tool exits with.
    code: u8,
}

impl Bench {
    /// Measures and prints.
    ///
    /// # Errors
    /// The machine could not be started, or results not be written.
    pub fn run(&self) -> Result<ExitCode> {
        if let Some(why) = bochs::missing().filter(|_| !self.bochs.is_empty()) {
            bail!("{why}");
        }
        if !self.bochs.is_empty() && !self.wants(Part::Calls) {
            bail!("--bochs measures the calls, which --only leaves out");
        }
        let files = Files::create(&self.out)?;
        eprintln!("Measuring in instructions (TCG, -icount shift=0); a few minutes in all, --only leaves parts out.");
        let mut results = Results::default();
        if self.wants(Part::Calls) {
            self.calls(&files, &mut results)?;
        }
        if self.wants(Part::Start) {
            self.start(&files, &mut results)?;
        }
        if self.wants(Part::Linux) {
            self.linux(&files, &mut results)?;
        }
        if self.wants(Part::Events) {
            self.events(&files, &mut results)?;
        }
        if self.wants(Part::Trade) {
            self.trade(&files, &mut results)?;
        }
        let Results { rows, columns, figures, rates, boots, trades, missing, code } = results;
        if !rows.is_empty() {
            println!("{}", bench::text(&rows));
        }
        if !columns.is_empty() {
            println!("{}", bochs_bench::text(&columns));
        }
        print!("{}", machine_bench::text(&figures, &rates, &boots));
        let mut machine = machine_bench::json(&figures, &rates, &boots);
        machine["bochs"] = bochs_bench::json(&columns);
        if let Some((trades, store)) = trades {
            print!("{}", trade_bench::text(&trades, store));
            machine["trade"] = trade_bench::json(&trades, store);
        }
        self.write(&files, &rows, machine)?;
        for what in missing {
            eprintln!("ebb: not measured: {what}");
        }
        Ok(ExitCode::from(code))
    }

    fn wants(&self, part: Part) -> bool {
        match self.only.as_slice() {
            [] => self.bochs.is_empty() || part == Part::Calls,
            only => only.contains(&part),
        }
    }

    /// The table that a guest fills.
    fn calls(&self, files: &Files, results: &mut Results) -> Result<()> {
        let session = self.session(files, "bench", "a guest measures calls", SCENARIO, &mut Silent)?;
        results.rows = bench::rows(&session.model.benches);
        results.rates.extend(machine_bench::extent_rates(&results.rows));
        let missing = bench::missing(&results.rows);
        if !missing.is_empty() || exit_code(session.end) != 0 {
            results.code = self.report(&session);
            results.missing.extend(missing.into_iter().map(str::to_owned));
        }
        if !self.bochs.is_empty() {
            let qemu = self.cpu_model.as_deref().unwrap_or("EPYC");
            results.columns.push(Column::read(qemu, results.rows.clone(), &session.model, BENCH_NAME));
        }
        for model in &self.bochs {
            self.calls_on_bochs(files, model, results)?;
        }
        Ok(())
    }

    /// The same table on one of Bochs' processors.
    fn calls_on_bochs(&self, files: &Files, model: &str, results: &mut Results) -> Result<()> {
        let name = format!("bench-{model}");
        let machine = self.bochs_machine(files, &name, model, Scenario::parse(SCENARIO, PathBuf::new())?)?;
        let session = self.run_machine(&machine, &format!("the same on Bochs' {model}"), &mut Silent)?;
        let rows = bench::rows(&session.model.benches);
        let missing = bench::missing(&rows);
        if !missing.is_empty() || exit_code(session.end) != 0 {
            results.code = self.report(&session);
            results.missing.extend(missing.into_iter().map(|row| format!("{row}, on {model}")));
        }
        results.columns.push(Column::read(model, rows, &session.model, BENCH_NAME));
        Ok(())
    }

    /// The machine's start, a domain's, and one's from memory that has been cleared.
    fn start(&self, files: &Files, results: &mut Results) -> Result<()> {
        let mut view = UntilBuilt(2);
        let session = self.session(files, "bench-start", "a domain is built twice", AGAIN, &mut view)?;
        let figures = machine_bench::start_up(&session.model);
        results.rates.extend(machine_bench::clearing(&session.model));
        let missing: Vec<_> = figures.iter().filter(|figure| figure.ebb.is_none()).collect();
        if !missing.is_empty() {
            results.code = self.report(&session);
            results.missing.extend(missing.into_iter().map(|figure| figure.name.clone()));
        }
        results.figures.extend(figures);
        Ok(())
    }

    /// Linux with 1, 2 and 4 vCPUs. Where its kernel cannot be had the reason is told, and that is no error.
    fn linux(&self, files: &Files, results: &mut Results) -> Result<()> {
        if !self.has(Source::Image(LINUX_KERNEL), "boots of Linux", results) {
            return Ok(());
        }
        for (vcpus, option) in LINUX_BOOTS {
            let what = format!("Linux boots with {vcpus} vCPUs {option}").trim_end().to_owned();
            let name = format!("bench-linux-{vcpus}{option}");
            let session = self.with_linux(files, &name, &what, &linux_with(vcpus, option))?;
            let boot = LinuxBoot::read(&session.model, &session.console, LINUX_NAME, vcpus, option);
            if boot.instructions.is_none() || exit_code(session.end) != 0 {
                results.code = self.report(&session);
                results.missing.push(what);
            }
            results.figures.push(boot.figure());
            results.boots.push(boot);
        }
        Ok(())
    }

    /// A machine with Linux on one processor, tried again where the emulator stalls it.
    fn with_linux(&self, files: &Files, name: &str, what: &str, scenario: &str) -> Result<Session> {
        let mut tries = 1;
        loop {
            // A sample now and then is of little consequence, and shifts what happens when.
            let period = if tries == 1 { 10_000 } else { 100 + 7 * tries };
            let scenario = scenario.replace("sample=10000", &format!("sample={period}"));
            let mut view = UntilStalled::new();
            let session = self.session(files, name, what, &scenario, &mut view)?;
            if !view.stalled || tries == TRIES {
                return Ok(session);
            }
            eprintln!("  nothing comes from it any more; once more");
            tries += 1;
        }
    }

    /// Two Linux domains send each other events. As for [`Bench::linux`] without a kernel or its module.
    fn events(&self, files: &Files, results: &mut Results) -> Result<()> {
        if !self.has(Source::ramdisk(EVENTS_DISK, LINUX_KERNEL), "events between two Linux domains", results) {
            return Ok(());
        }
        let session = self.with_linux(files, "bench-events", "events go round between two Linux domains", EVENTS)?;
        let figure = machine_bench::event_round_trip(&session.model, &session.console);
        if figure.ebb.is_none() || exit_code(session.end) != 0 {
            results.code = self.report(&session);
            results.missing.push(figure.name.clone());
        }
        results.figures.push(figure);
        Ok(())
    }

    /// Two Linux domains and two Rust guests trade memory. As for [`Bench::linux`] without a kernel.
    fn trade(&self, files: &Files, results: &mut Results) -> Result<()> {
        if !self.has(Source::Image(LINUX_KERNEL), "memory from one Linux to another", results) {
            return Ok(());
        }
        let session = self.session(files, "bench-trade", "domains trade memory", TRADE, &mut Silent)?;
        let trades = trade_bench::trades(&session.model);
        let store = trade_bench::store_rate(&session.model, &session.console);
        let complete = trades.iter().all(|trade| trade.giver.is_some() && trade.taker.is_some());
        if !complete || store.is_none() || exit_code(session.end) != 0 {
            results.code = self.report(&session);
            results.missing.push("memory from one domain to another, or XenStore between them".into());
        }
        results.trades = Some((trades, store));
        Ok(())
    }

    /// Whether Debian's kernel, or a RAM disk with its modules, can be had. If not, `what` is missing, which is no error.
    fn has(&self, image: Source<'_>, what: &str, results: &mut Results) -> bool {
        match self.programs.library().load(image) {
            Ok(_) => true,
            Err(error) => {
                results.missing.push(format!("{what}: {error:#}"));
                false
            }
        }
    }

    /// Shows how a machine ended that did not do what it was started for; the status to exit with.
    fn report(&self, session: &Session) -> u8 {
        for line in session.console.iter().rev().take(20).rev() {
            eprintln!("  {line}");
        }
        match session.end {
            SessionEnd::Machine(end) => eprintln!("ebb: {end}"),
            _ => eprintln!("ebb: stopped after {} s", self.timeout),
        }
        exit_code(session.end).max(1)
    }

    fn session(&self, files: &Files, name: &str, what: &str, scenario: &str, view: &mut dyn View) -> Result<Session> {
        let machine = self.machine(files, name, Scenario::parse(scenario, PathBuf::new())?)?;
        self.run_machine(&machine, what, view)
    }

    fn run_machine(&self, machine: &Machine, what: &str, view: &mut dyn View) -> Result<Session> {
        eprint!("{what} ... ");
        let session = session::run(machine, Some(Duration::from_secs(self.timeout)), view, &|| false)?;
        eprintln!("{:.0} s", session.wall.as_secs_f32());
        Ok(session)
    }

    /// A machine of QEMU's.
    fn machine(&self, files: &Files, name: &str, scenario: Scenario) -> Result<Machine> {
        let path = files.path(&format!("{name}.tar"));
        let archive = self.pack(&scenario)?;
        fs::write(&path, archive.to_bytes()?).with_context(|| format!("cannot write {}", path.display()))?;
        let boot = Boot::Pvh {
            hypervisor: paths::hypervisor(self.programs.hypervisor.as_deref())?,
            archive: Some(path),
            options: options(&scenario, ""),
        };
        Ok(Self::machine_that_boots(files, name, &scenario, boot, Accel::Tcg, self.cpu_model.clone()))
    }

    /// One of Bochs', which starts from a disc.
    fn bochs_machine(&self, files: &Files, name: &str, model: &str, scenario: Scenario) -> Result<Machine> {
        let path = files.path(&format!("{name}.iso"));
        let hypervisor = paths::hypervisor(self.programs.hypervisor.as_deref())?;
        let options = options(&scenario, bochs::OPTION);
        iso::build(&path, &hypervisor, &self.pack(&scenario)?, Modules::Archive, &options, 0)?;
        let boot = Boot::Iso { path, firmware: Firmware::Bios };
        let model = Some(bochs::model(model).to_owned());
        Ok(Self::machine_that_boots(files, name, &scenario, boot, Accel::Bochs, model))
    }

    fn pack(&self, scenario: &Scenario) -> Result<Archive> {
        let mut library = self.programs.library();
        let domains = scenario.to_boot(&mut library)?;
        crate::cmd::pack(&domains, &library, Check::Images)
    }

    fn machine_that_boots(
        files: &Files,
        name: &str,
        scenario: &Scenario,
        boot: Boot,
        accel: Accel,
        cpu_model: Option<String>,
    ) -> Machine {
        Machine {
            cpus: scenario.host.cpus,
            memory: scenario.host.memory,
            accel,
            cpu_model,
            deterministic: true,
            mhz: bochs::MHZ,
            boot,
            console: files.path(&format!("{name}-console.log")),
            keyboard: false,
            trace: files.path(&format!("{name}-trace.bin")),
            messages: files.path(&format!("{name}-{}.log", accel.program())),
            extra: Vec::new(),
        }
    }

    fn write(&self, files: &Files, rows: &[bench::Row], machine: Value) -> Result<()> {
        let (csv, json) = (files.path("bench.csv"), files.path("bench.json"));
        let write = || {
            let mut out = BufWriter::new(File::create(&csv)?);
            bench::csv(rows, &mut out)?;
            out.flush()?;
            fs::write(&json, format!("{:#}\n", bench::json(rows, machine)))
        };
        write().with_context(|| format!("cannot write {} or {}", csv.display(), json.display()))?;
        println!("Written: {}, {}", csv.display(), json.display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scenarios_are_sound() {
        let linux = linux_with(4, "timeslice=30000");
        for (text, domains) in [(SCENARIO, 1), (AGAIN, 1), (LINUX, 1), (&linux, 1), (EVENTS, 2), (TRADE, 4)] {
            let scenario = Scenario::parse(text, PathBuf::new()).unwrap();
            let is_control = |domain: &&crate::config::Domain| domain.privileged;
            assert_eq!(scenario.domains().iter().filter(|domain| !is_control(domain)).count(), domains);
            assert_eq!(scenario.host.cpus, 1);
            crate::scenario::check_fits(&scenario.domains(), 1 << 20, scenario.host.memory).unwrap();
        }
    }

    #[test]
    fn events_have_their_disk() {
        let domains = Scenario::parse(EVENTS, PathBuf::new()).unwrap().domains();
        let disks = domains.iter().map(|domain| (domain.ramdisk.as_deref(), domain.kernel.as_str()));
        assert_eq!(disks.collect::<Vec<_>>(), [(Some(EVENTS_DISK), LINUX_KERNEL); 2]);
    }

    #[test]
    fn linux_gets_its_vcpus() {
        let domains = Scenario::parse(&linux_with(4, "timeslice=30000"), PathBuf::new()).unwrap().domains();
        assert_eq!(
            (domains[0].name.as_str(), domains[0].vcpus, domains[0].kernel.as_str()),
            (LINUX_NAME, 4, LINUX_KERNEL)
        );
    }
}
