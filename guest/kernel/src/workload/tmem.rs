//! `workload=hostile-tmem`: transcendent memory used wrongly, `calls=` times (default 200000) on each vCPU, from `seed=`:
//! puts from and gets into pages that are not there, other domains' pool numbers, pools destroyed while the other vCPU
//! puts into them, wrong versions and flags, structures that begin where memory ends, and commands out of all 2^32.
//! Each answer must be one of those that the interface has, and a page that comes must be one that this domain put.
//!
//! `workload=hoard-tmem`: fills a pool of each kind, keeps at it, and waits for its end: `end=crash`, `poweroff` or
//! `reboot` after `after=` ms, or to be destroyed.
#![allow(unsafe_code)] // Wrong arguments are the point.

use crate::{clock, page, panic, println, smp, thread};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use ebb_guest_hypercall::{Errno, Gfn, call, tmem};
use ebb_guest_logic::args::{Args, BadValue};
use ebb_guest_logic::pattern::{self, WORDS};
use ebb_guest_logic::rng::Rng;
use ebb_guest_tmem::{EPHEMERAL_POOL, PERSISTENT_POOL, SHARED_POOL};
use shared_abi::hypercall::TMEM_OP;
use shared_abi::tmem::{DESTROY_POOL, FLUSH_OBJECT, FLUSH_PAGE, GET_PAGE, NEW_POOL, PUT_PAGE, TmemOid, TmemOp};
use shared_abi::xen::PAGE_SIZE;

/// What `tmem_op` may answer beside 0, 1 and a pool's number.
const ANSWERS: [Errno; 10] = [
    Errno::EPERM,
    Errno::ENOMEM,
    Errno::EFAULT,
    Errno::ENODEV,
    Errno::EINVAL,
    Errno::ENOSPC,
    Errno::ENOSYS,
    Errno::EOPNOTSUPP,
    Errno::EFROZEN,
    Errno::EEMPTY,
];
/// The shared pool that everybody would like to be in.
const UUID: [u64; 2] = [0xebb, 0x7e3];

fn bad(bad: BadValue<'_>) -> String {
    format!("{}={} is no number", bad.key, bad.value)
}

/// A vCPU's share of the calls.
struct Hostile {
    rng: Rng,
    /// Tells this domain's pages from others'.
    seed: u64,
    /// The page that is put and got.
    own: u64,
    hits: u64,
    puts: u64,
}

impl Hostile {
    fn oid(&mut self) -> TmemOid {
        TmemOid { oid: [self.rng.below(4), self.rng.below(2) << 63, 0] }
    }

    fn contents(&mut self) -> &'static mut [u64; WORDS] {
        // SAFETY: the page was taken for this value, and the reference ends before the next one is made.
        unsafe { page::words(self.own) }
    }

    /// What a page under this handle holds when this domain put it, in whichever pool.
    fn name(&self, op: &TmemOp) -> u64 {
        op.oid.oid[0] << 32 | (op.oid.oid[1] >> 63) << 40 | u64::from(op.index)
    }

    /// A page: mostly our own, otherwise one that is not there, or absurd.
    fn gfn(&mut self) -> u64 {
        match self.rng.below(8) {
            0 => page::layout().end + self.rng.below(1 << 20),
            1 => self.rng.next_u64(),
            2 => 0xF_0000 + self.rng.below(0x1_0000),
            _ => self.own,
        }
    }

    fn op(&mut self) -> TmemOp {
        let any = self.rng.next_u64();
        let cmd = match self.rng.below(128) {
            0..8 => any as u32,
            8 => DESTROY_POOL,
            9..12 => NEW_POOL,
            12 => FLUSH_OBJECT,
            13..16 => FLUSH_PAGE,
            16..64 => GET_PAGE,
            _ => PUT_PAGE,
        };
        let pool_id = match self.rng.below(8) {
            0 => any as i32,
            1 => -1,
            2 => 16,
            _ => self.rng.below(5) as i32,
        };
        let (oid, index) = (self.oid(), self.rng.below(64) as u32);
        let mut op = TmemOp { cmd, pool_id, oid, index, cmfn: Gfn(self.gfn()), ..Default::default() };
        (op.tmem_offset, op.pfn_offset, op.len) = (any as u32, (any >> 16) as u32, (any >> 32) as u32);
        if cmd == NEW_POOL {
            let flags = [EPHEMERAL_POOL, PERSISTENT_POOL, SHARED_POOL, PERSISTENT_POOL | SHARED_POOL, any as u32, 0];
            op.oid.oid = [UUID[0], UUID[1], u64::from(self.rng.pick(&flags)) | any << 32];
        }
        op
    }

    /// Makes a call, and judges what came of it.
    fn step(&mut self) -> Result<(), String> {
        let op = self.op();
        if op.cmd == GET_PAGE && op.cmfn.0 != self.own && page::layout().ram.contains(op.cmfn.0) {
            // It would be the kernel's own page.
            return Ok(());
        }
        let name = self.name(&op);
        let seed = self.seed;
        if op.cmd == PUT_PAGE {
            pattern::fill(self.contents(), name, seed);
        } else if op.cmd == GET_PAGE {
            self.contents().fill(0);
        }
        // SAFETY: a get's page is the one that is ours, or no memory of the kernel's.
        let answer = unsafe { tmem::operate(&op) };
        match answer {
            Ok(1) if op.cmd == GET_PAGE && op.cmfn.0 == self.own => {
                self.hits += 1;
                pattern::check(self.contents(), name, seed)
                    .map_err(|wrong| format!("somebody else's page, or an old one: {wrong:?} for {op:?}"))
            }
            Ok(1) if op.cmd == PUT_PAGE && op.cmfn.0 == self.own => {
                self.puts += 1;
                Ok(())
            }
            Ok(1) if matches!(op.cmd, PUT_PAGE | GET_PAGE) => Err(format!("a page that is not there: {op:?}")),
            Ok(0..16) => Ok(()),
            Err(errno) if ANSWERS.contains(&errno) => Ok(()),
            other => Err(format!("{other:?} is no answer to {op:?}")),
        }
    }

    /// A structure that cannot be read.
    fn nowhere(&mut self) -> Result<(), String> {
        let address = match self.rng.below(4) {
            0 => 0,
            1 => 0x8000_0000_0000 + self.rng.below(1 << 20),
            2 => u64::MAX - self.rng.below(64),
            _ => thread::cpu_stack_top(0) - self.rng.below(40) - 32 * 1024,
        };
        // SAFETY: nothing can be read there, or what is read is a few bytes of a structure that goes on nowhere.
        match unsafe { call::call(TMEM_OP, [address, 0, 0, 0, 0]) } {
            Err(errno) if ANSWERS.contains(&errno) => Ok(()),
            other => Err(format!("{other:?} for a structure at {address:#x}")),
        }
    }

    fn run(&mut self, calls: u64) -> Result<(), String> {
        for number in 0..calls {
            if number % 64 == 0 {
                self.nowhere()?;
                thread::yield_now();
            }
            self.step()?;
        }
        Ok(())
    }
}

/// Runs `hostile-tmem`.
pub fn hostile(args: Args<'static>) -> Result<(), String> {
    let calls = args.number("calls", 200_000).map_err(bad)?;
    let seed = args.number("seed", 1).map_err(bad)?;
    let failed = Arc::new(AtomicBool::new(false));
    let (hits, puts) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut threads = alloc::vec::Vec::new();
    for cpu in 0..smp::online() {
        let own = page::take(0).ok_or("no memory")?;
        let mut hostile = Hostile { rng: Rng::new(seed * 100 + cpu as u64), seed, own, hits: 0, puts: 0 };
        let (failed, hits, puts) = (failed.clone(), hits.clone(), puts.clone());
        threads.push(thread::spawn("hostile", Some(cpu), move || {
            if let Err(why) = hostile.run(calls) {
                println!("hostile-tmem: {why}");
                failed.store(true, Ordering::SeqCst);
            }
            hits.fetch_add(hostile.hits, Ordering::SeqCst);
            puts.fetch_add(hostile.puts, Ordering::SeqCst);
        })?);
    }
    threads.into_iter().for_each(thread::JoinHandle::join);
    if failed.load(Ordering::SeqCst) {
        return Err("the interface broke its promises".into());
    }
    let (hits, puts) = (hits.load(Ordering::SeqCst), puts.load(Ordering::SeqCst));
    println!("hostile-tmem: done: {puts} puts, {hits} gets of own pages");
    Ok(())
}

/// Runs `hoard-tmem`.
pub fn hoard(args: Args<'static>) -> Result<(), String> {
    let after = args.number("after", u64::MAX / 2_000_000).map_err(bad)?;
    let until = clock::now().saturating_add(after.saturating_mul(1_000_000));
    let own = page::take(0).ok_or("no memory")?;
    let kinds = [(EPHEMERAL_POOL, [0; 2]), (PERSISTENT_POOL, [0; 2]), (SHARED_POOL, UUID)];
    let mut pools = [0; 3];
    for (pool, (flags, uuid)) in pools.iter_mut().zip(kinds) {
        *pool = tmem::new_pool(uuid, flags).map_err(|errno| format!("no pool of flags {flags:#x}: {errno}"))?;
    }
    let (mut kept, mut told) = ([0_u64; 3], false);
    for index in 0_u32.. {
        for (pool, kept) in pools.iter().zip(&mut kept) {
            // SAFETY: the page was taken above, and this is the only reference to it.
            unsafe { page::words(own) }.fill(u64::from(index) | 1 << 40);
            *kept +=
                u64::from(tmem::put(*pool, TmemOid { oid: [u64::from(index % 7), 0, 0] }, index, Gfn(own)) == Ok(true));
        }
        if index % 256 == 0 {
            thread::sleep(1_000_000);
        }
        if !told && index >= 512 {
            told = true;
            println!("hoard-tmem: {kept:?} pages put, {} KiB in all", kept.iter().sum::<u64>() * PAGE_SIZE / 1024);
        }
        if clock::now() >= until {
            break;
        }
    }
    match args.get("end") {
        Some("crash") => panic::crash(),
        Some("reboot") => panic::reboot(),
        _ => Ok(()),
    }
}
