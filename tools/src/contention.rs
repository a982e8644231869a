//! The overcommit experiment's results: what guests reported of each lock, as a table, as comma-separated values, and
//! as a plot, beside the shapes that were published.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use shared_abi::guest_event::{Contention, KickTimes, LOCKS, WAIT_BUCKETS, WaitTimes};

/// Everything guests said of locks, each with its domain.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    /// Shares of vCPUs.
    pub shares: Vec<(u16, Contention)>,
    /// What goes with them.
    pub kicks: Vec<(u16, KickTimes)>,
    /// Waits.
    pub waits: Vec<(u16, WaitTimes)>,
}

/// One machine of the experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The emulator's processor, what its time follows, and the hypervisor's options beyond the usual.
    pub machine: String,
    /// Physical processors.
    pub cpus: u32,
    /// Domains.
    pub domains: u32,
    /// vCPUs in each.
    pub vcpus: u32,
    /// What the critical section is called.
    pub section: &'static str,
    /// How long each lock was tried, ms.
    pub duration_ms: u64,
}

impl Setting {
    /// vCPUs for each processor.
    #[must_use]
    pub fn overcommit(&self) -> f64 {
        f64::from(self.domains * self.vcpus) / f64::from(self.cpus)
    }
}

/// What came of one lock in one machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The machine.
    pub setting: Setting,
    /// The lock's name.
    pub lock: &'static str,
    /// Times it was had, by all, in a second.
    pub per_second: f64,
    /// Jain's index over all vCPUs of all domains.
    pub fairness: f64,
    /// The longest wait, µs.
    pub worst_us: u32,
    /// The wait that half of all, and 99 of 100, did not exceed, ns (powers of two).
    pub median_ns: u64,
    /// See above.
    pub p99_ns: u64,
    /// Thousands of looks in vain.
    pub spins: u64,
    /// Sleeps.
    pub blocks: u64,
    /// Kicks.
    pub kicks: u64,
    /// From a kick to the end of the sleep, ns: the mean and the worst.
    pub kick_mean_ns: u64,
    /// See above.
    pub kick_worst_ns: u32,
    /// How often the hypervisor took the processor from a holder.
    pub holder_preempted: u64,
    /// And from a waiter.
    pub waiter_preempted: u64,
    /// Processor time used, ms.
    pub ran_ms: f64,
}

/// One row for each lock that was reported.
#[must_use]
pub fn rows(setting: &Setting, reports: &Reports) -> Vec<Row> {
    (0..LOCKS.len()).filter_map(|lock| row(setting, lock as u8, reports)).collect()
}

fn row(setting: &Setting, lock: u8, reports: &Reports) -> Option<Row> {
    let shares: Vec<&Contention> = reports.shares.iter().map(|(_, s)| s).filter(|s| s.lock == lock).collect();
    let kicks: Vec<&KickTimes> = reports.kicks.iter().map(|(_, k)| k).filter(|k| k.lock == lock).collect();
    let first = shares.first()?;
    let sum = |pick: fn(&Contention) -> u32| shares.iter().map(|s| u64::from(pick(s))).sum::<u64>();
    let sum_kicks = |pick: fn(&KickTimes) -> u32| kicks.iter().map(|k| u64::from(pick(k))).sum::<u64>();
    let operations = sum(|s| s.operations) as f64;
    let squares: f64 = shares.iter().map(|s| f64::from(s.operations).powi(2)).sum();
    let woken = sum_kicks(|k| k.woken);
    let latency: u64 = kicks.iter().map(|k| u64::from(k.woken) * u64::from(k.mean_ns)).sum();
    let waits = histogram(lock, reports);
    Some(Row {
        setting: setting.clone(),
        lock: LOCKS.get(usize::from(first.lock))?,
        per_second: operations * 1000.0 / setting.duration_ms as f64,
        fairness: operations * operations / (shares.len() as f64 * squares).max(1.0),
        worst_us: shares.iter().map(|s| s.worst_us).max()?,
        median_ns: quantile(&waits, 50),
        p99_ns: quantile(&waits, 99),
        spins: sum(|s| s.spins),
        blocks: sum(|s| s.blocks),
        kicks: sum(|s| s.kicks),
        kick_mean_ns: latency.checked_div(woken).unwrap_or(0),
        kick_worst_ns: kicks.iter().map(|k| k.worst_ns).max().unwrap_or(0),
        holder_preempted: sum_kicks(|k| k.holder_preempted),
        waiter_preempted: sum_kicks(|k| k.waiter_preempted),
        ran_ms: sum_kicks(|k| k.ran_us) as f64 / 1000.0,
    })
}

fn histogram(lock: u8, reports: &Reports) -> [u64; WAIT_BUCKETS] {
    let mut sums = [0; WAIT_BUCKETS];
    for (_, waits) in reports.waits.iter().filter(|(_, w)| w.lock == lock) {
        let from = usize::from(waits.part) * WaitTimes::COUNTS;
        // A guest may write any part: what is beyond the end counts for nothing.
        sums.iter_mut().skip(from).zip(waits.counts).for_each(|(sum, more)| *sum += u64::from(more));
    }
    sums
}

/// The end of the bucket that holds the wait at so many per cent.
fn quantile(waits: &[u64; WAIT_BUCKETS], percent: u64) -> u64 {
    let all: u64 = waits.iter().sum();
    let mut below = 0;
    let bucket = waits.iter().position(|count| {
        below += count;
        below * 100 >= all * percent && all > 0
    });
    bucket.map_or(0, |bucket| 2 << bucket)
}

/// What was published of other systems, for the shape.
pub const PUBLISHED: &str = "Published: PV ticketlocks on Xen gained 0.8, 16.6, 14.0 and 5.0 % in dbench at rising overcommit; \
                             a kernel build on 60 vCPUs over 32 CPUs took 15m50 with fair PV ticketlocks and 4m15 with unfair \
                             queued ones. Linux's test-mutex: a mutex had 2.4 times a semaphore's throughput at 2.8 times \
                             less CPU.";

/// The table for people.
#[must_use]
pub fn text(rows: &[Row]) -> String {
    let machine = rows.first().map_or("", |row| row.setting.machine.as_str());
    let mut out = format!(
        "On {machine}:\n{:<4} {:<7} {:<6} {:<12} {:>10} {:>8} {:>10} {:>10} {:>8} {:>8} {:>9} {:>7} {:>7}\n",
        "CPUs",
        "vCPUs",
        "hold",
        "lock",
        "locks/s",
        "fairness",
        "worst us",
        "99% ns",
        "kspins",
        "kicks",
        "kick ns",
        "h.pre",
        "w.pre"
    );
    for row in rows {
        let vcpus = format!("{}x{}", row.setting.domains, row.setting.vcpus);
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "{:<4} {:<7} {:<6} {:<12} {:>10.0} {:>8.3} {:>10} {:>10} {:>8} {:>8} {:>9} {:>7} {:>7}",
            row.setting.cpus,
            vcpus,
            row.setting.section,
            row.lock,
            row.per_second,
            row.fairness,
            row.worst_us,
            row.p99_ns,
            row.spins,
            row.kicks,
            row.kick_mean_ns,
            row.holder_preempted,
            row.waiter_preempted
        );
    }
    out + PUBLISHED + "\n"
}

/// Writes all rows as comma-separated values.
///
/// # Errors
/// What `out` answers.
pub fn csv(rows: &[Row], out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "machine,cpus,domains,vcpus,section,lock,locks_per_s,fairness,worst_us,median_ns,p99_ns,kspins,blocks,kicks,kick_mean_ns,\
         kick_worst_ns,holder_preempted,waiter_preempted,ran_ms"
    )?;
    for r in rows {
        let s = &r.setting;
        writeln!(
            out,
            "\"{}\",{},{},{},{},{},{:.1},{:.4},{},{},{},{},{},{},{},{},{},{},{:.1}",
            s.machine,
            s.cpus,
            s.domains,
            s.vcpus,
            s.section,
            r.lock,
            r.per_second,
            r.fairness,
            r.worst_us,
            r.median_ns,
            r.p99_ns,
            r.spins,
            r.blocks,
            r.kicks,
            r.kick_mean_ns,
            r.kick_worst_ns,
            r.holder_preempted,
            r.waiter_preempted,
            r.ran_ms
        )?;
    }
    Ok(())
}

const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(213, 94, 0),
    RGBColor(230, 159, 0),
    RGBColor(204, 121, 167),
    RGBColor(0, 114, 178),
    RGBColor(86, 180, 233),
    RGBColor(0, 158, 115),
];

/// Draws throughput over overcommit, on a logarithmic scale, a line for each lock; the rows of one section.
///
/// # Errors
/// The file cannot be written.
pub fn plot(rows: &[Row], section: &str, path: &Path) -> Result<()> {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.setting.section == section).collect();
    // The backend's errors borrow the path; keep their text.
    draw(&rows, section, path).map_err(|e| anyhow!("cannot draw {}: {e}", path.display()))
}

fn draw(rows: &[&Row], section: &str, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let most = rows.iter().map(|row| row.per_second).fold(10.0, f64::max) * 2.0;
    let widest = rows.iter().map(|row| row.setting.overcommit()).fold(1.0, f64::max) + 0.2;
    let setting = rows.first().map(|row| &row.setting);
    let machine = setting.map_or("", |setting| setting.machine.as_str());
    let cpus = setting.map_or_else(String::new, |setting| match setting.cpus {
        1 => "1 CPU".to_owned(),
        cpus => format!("{cpus} CPUs"),
    });
    let root = SVGBackend::new(path, (900, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(format!("Locks taken in a second, {section} critical sections; {cpus}, {machine}"), ("sans-serif", 18))
        .margin(14)
        .x_label_area_size(42)
        .y_label_area_size(70)
        .build_cartesian_2d(0.8..widest, (1.0..most).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("vCPUs for each CPU")
        .y_desc("locks/s")
        .y_label_formatter(&|value| format!("{value:.0}"))
        .light_line_style(WHITE.mix(0.0))
        .draw()?;
    for (index, lock) in LOCKS.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let mut points: Vec<(f64, f64)> = rows
            .iter()
            .filter(|row| row.lock == *lock)
            .map(|row| (row.setting.overcommit(), row.per_second.max(1.0)))
            .collect();
        if points.is_empty() {
            continue;
        }
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(3))?
            .label(*lock)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting() -> Setting {
        Setting { machine: "QEMU".into(), cpus: 1, domains: 1, vcpus: 2, section: "short", duration_ms: 500 }
    }

    fn reports() -> Reports {
        let share = |vcpu, operations| Contention {
            lock: 4,
            vcpu,
            operations,
            worst_us: 70 + operations,
            ..Default::default()
        };
        let kick = |woken, mean_ns| KickTimes { lock: 4, woken, mean_ns, holder_preempted: 2, ..Default::default() };
        let mut counts = [0; WaitTimes::COUNTS];
        counts[1] = 99;
        counts[3] = 1;
        Reports {
            shares: vec![(1, share(0, 300)), (1, share(1, 100))],
            kicks: vec![(1, kick(1, 1000)), (1, kick(3, 2000))],
            waits: vec![
                (1, WaitTimes { lock: 4, part: 1, counts, ..Default::default() }),
                (1, WaitTimes { lock: 4, part: 200, counts, ..Default::default() }),
            ],
        }
    }

    #[test]
    fn shares_add_up() {
        let rows = rows(&setting(), &reports());
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!((row.lock, row.worst_us, row.kick_mean_ns, row.holder_preempted), ("pvticket", 370, 1750, 4));
        assert!((row.per_second - 800.0).abs() < 1e-9);
        assert!((row.fairness - 0.8).abs() < 1e-9);
        assert_eq!((row.median_ns, row.p99_ns), (256, 256));
        assert!((row.setting.overcommit() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn table_values_and_plot_have_every_row() {
        let rows = rows(&setting(), &reports());
        assert!(text(&rows).contains("pvticket"));
        let mut out = Vec::new();
        csv(&rows, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let columns: Vec<usize> = out.lines().map(|line| line.split(',').count()).collect();
        assert_eq!(columns, [19, 19]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks.svg");
        plot(&rows, "short", &path).unwrap();
        assert!(std::fs::read_to_string(path).unwrap().contains("pvticket"));
        assert!(plot(&rows, "short", Path::new("/nonexistent/x.svg")).is_err());
    }
}
