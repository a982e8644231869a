//! Three guests out of step on a host with too little memory, as the experiment has them on the real machine: static,
//! with selfballooning, and with transcendent memory too. A host simulation of minutes in a second.

mod common;

use std::rc::Rc;

use common::host::Host;
use common::{CONFIG, Guest, guest};
use ebb_reclaim::{Config, Load, Plan, Stats, Timing, Watermarks, Work};
use ebb_selfballoon::{Inputs, SelfShrink, Tunables, Why, relief, step};
use ebb_tmem::Kind;

const GUESTS: u16 = 3;
/// Frames of the host, and of each guest when they are divided equally.
const FRAMES: usize = 1536;
const SHARE: u64 = FRAMES as u64 / GUESTS as u64;
const MOST: u64 = 1024;
/// The kernel of such a guest: pages beside those that the engine manages.
const KERNEL: u64 = 32;
const INTERVAL: u64 = 100_000_000;

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Static,
    Selfballoon,
    All,
}

struct Player {
    client: u16,
    guest: Guest,
    load: Load,
    shrink: SelfShrink,
    now: u64,
    next_loop: u64,
    work: u64,
    /// Times that the target turned.
    turns: u64,
    up: bool,
}

impl Player {
    fn new(host: &Rc<Host>, client: u16, way: Way) -> Self {
        let tmem = way == Way::All;
        let config = Config {
            seed: 1000,
            pages: MOST as usize,
            watermarks: Watermarks { min: 8, low: 16, high: 24 },
            swap: 1200,
            disk: Timing::SSD,
            cleancache: tmem,
            frontswap: tmem,
            dirty: 64,
            ..CONFIG
        };
        host.set_maximum(client, MOST as usize);
        let mut guest = guest(host, client, SHARE, MOST, config);
        let mount = guest.mount(None).unwrap();
        let (file, region) = (guest.create(mount, 800), guest.map(900));
        let plan = Plan {
            seed: u64::from(client),
            file: 800,
            low: 60,
            high: 700,
            period_ms: 6000,
            phase_ms: u64::from(client) * 2000,
            write_one_in: 12,
        };
        let (load, shrink) = (Load::new(plan, file, region), SelfShrink::new());
        Self { client, guest, load, shrink, now: 0, next_loop: 0, work: 0, turns: 0, up: false }
    }

    fn inputs(&mut self) -> Inputs {
        let (figures, min) = (self.guest.figures(), self.guest.watermarks().min);
        let current = self.guest.source().current();
        Inputs {
            committed: figures.committed,
            current,
            total: current,
            unreclaimable: KERNEL,
            reserve: min + 1,
            swap: figures.swap,
            most: MOST,
        }
    }

    fn aim(&mut self, target: u64) {
        let current = self.guest.source().current();
        if target > current {
            self.guest.source().grow(target - current);
        } else {
            let (excess, free) = (current - target, self.guest.source().shrink(current - target));
            if free < excess {
                self.guest.reclaim(self.now, excess - free).unwrap();
                self.guest.source().shrink(excess - free);
            }
        }
    }

    /// The loops, once an interval.
    fn loops(&mut self, way: Way) {
        self.next_loop = self.now + INTERVAL;
        if way == Way::Static {
            return;
        }
        let inputs = self.inputs();
        let step = step(&Tunables::DEFAULT, &inputs);
        assert!(step.target >= inputs.floor().min(step.current));
        if matches!(step.why, Why::Up | Why::Down) {
            self.turns += u64::from((step.why == Why::Up) != self.up);
            self.up = step.why == Why::Up;
        }
        self.aim(step.target);
        let frontswap = self.guest.figures().frontswap;
        if let Some(target) = self.shrink.step(&Tunables::DEFAULT, frontswap) {
            self.guest.shrink_frontswap(self.now, target, 64).unwrap();
        }
    }

    /// One piece of work, of which 60 µs are computing.
    fn work(&mut self, way: Way) {
        if self.now >= self.next_loop {
            self.loops(way);
        }
        let ms = self.now / 1_000_000;
        let mut work = self.load.next(ms);
        if let Work::Commit(pages) = work
            && let Some(more) = pages.checked_sub(self.load.promised())
            && !self.inputs().may_commit(more.into())
        {
            let inputs = self.inputs();
            if way != Way::Static {
                self.aim(relief(&Tunables::DEFAULT, &inputs, more.into()).target);
            }
            if !self.inputs().may_commit(more.into()) {
                work = self.load.access(true);
            }
        }
        if !matches!(work, Work::Commit(_) | Work::Rest) {
            self.work += 1;
        }
        let done = self.load.perform(&mut self.guest, self.now, work).expect("no page is wrong and memory suffices");
        let takes = if work == Work::Rest { 5_000_000 } else { 60_000 };
        self.now = self.guest.balance(done).unwrap() + takes;
    }
}

struct Result {
    work: u64,
    stats: Vec<Stats>,
    disk_reads: u64,
    turns: u64,
}

fn run(way: Way, seconds: u64) -> Result {
    let host = Host::new(FRAMES);
    let mut players: Vec<Player> = (1..=GUESTS).map(|client| Player::new(&host, client, way)).collect();
    let (mut pieces, end) = (0_u64, seconds * 1_000_000_000);
    // Whose clock is furthest behind goes next.
    while let Some(player) = players.iter_mut().min_by_key(|player| player.now).filter(|player| player.now < end) {
        player.work(way);
        pieces += 1;
        if pieces.is_multiple_of(20_000) {
            host.audit();
            players.iter().for_each(|player| player.guest.audit());
        }
    }
    host.audit();
    let result = Result {
        work: players.iter().map(|player| player.work).sum(),
        stats: players.iter().map(|player| player.guest.stats()).collect(),
        disk_reads: players.iter().map(|player| player.guest.disk().reads).sum(),
        turns: players.iter().map(|player| player.turns).max().unwrap(),
    };
    for player in players {
        let client = player.client;
        drop(player);
        host.end(client);
        assert_eq!(host.tmem(client, Kind::Ephemeral) + host.tmem(client, Kind::Persistent), 0);
    }
    assert_eq!(host.free(), FRAMES, "everything is back");
    result
}

#[test]
fn memory_that_one_does_not_need_saves_the_others_reads() {
    const SECONDS: u64 = 12;
    let [fixed, selfballoon, all] = [Way::Static, Way::Selfballoon, Way::All].map(|way| run(way, SECONDS));
    for (name, result) in [("static", &fixed), ("selfballoon", &selfballoon), ("all", &all)] {
        let sum = |pick: fn(&Stats) -> u64| result.stats.iter().map(pick).sum::<u64>();
        println!(
            "{name:12} work {:7} disk reads {:6} swap in {:6} (disk {:6}) out {:6} (disk {:6}) turns {} ooo {}",
            result.work,
            result.disk_reads,
            sum(|stats| stats.swap_ins),
            sum(|stats| stats.swap_disk_reads),
            sum(|stats| stats.swap_outs),
            sum(|stats| stats.swap_disk_writes),
            result.turns,
            sum(|stats| stats.direct_reclaims),
        );
    }
    assert!(all.disk_reads * 10 < fixed.disk_reads * 9, "a tenth of all reads are saved at least");
    assert!(all.work > fixed.work);
    // Of the periods each turns the need twice; a turn more at the start.
    for result in [&selfballoon, &all] {
        assert!((3..=2 * SECONDS / 6 + 2).contains(&result.turns), "{} turns", result.turns);
    }
}

#[test]
fn the_simulation_repeats() {
    let [one, two] = [(); 2].map(|()| run(Way::All, 6));
    assert_eq!((one.work, one.disk_reads, one.stats), (two.work, two.disk_reads, two.stats));
}
