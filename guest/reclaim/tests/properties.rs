//! Random operations on a guest and its host: every page is verified by the operations themselves, every link and every
//! book after each, on hosts that are too small, with transcendent memory and without.

mod common;

use common::host::Host;
use common::{CONFIG, guest};
use ebb_reclaim::{Config, Failure};
use ebb_tmem::Kind;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    Read(usize, u32),
    Write(usize, u32),
    Truncate(usize, u32),
    Invalidate(usize),
    Touch(usize, u32, bool),
    Resize(usize, u32),
    Remap(usize),
    Balloon(i64),
    /// Another domain takes or gives frames of the host.
    Host(i64),
    Reclaim(u64),
    Balance,
    WriteBack(u64),
    Shrink(u64),
    Remount,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..3_usize, 0..40_u32).prop_map(|(file, page)| Op::Read(file, page)),
        6 => (0..3_usize, 0..40_u32).prop_map(|(file, page)| Op::Write(file, page)),
        1 => (0..3_usize, 0..40_u32).prop_map(|(file, len)| Op::Truncate(file, len)),
        1 => (0..3_usize).prop_map(Op::Invalidate),
        16 => (0..2_usize, 0..60_u32, any::<bool>()).prop_map(|(region, page, write)| Op::Touch(region, page, write)),
        3 => (0..2_usize, 0..60_u32).prop_map(|(region, pages)| Op::Resize(region, pages)),
        1 => (0..2_usize).prop_map(Op::Remap),
        3 => (-40..40_i64).prop_map(Op::Balloon),
        3 => (-40..40_i64).prop_map(Op::Host),
        2 => (0..30_u64).prop_map(Op::Reclaim),
        2 => Just(Op::Balance),
        1 => (0..30_u64).prop_map(Op::WriteBack),
        2 => (0..40_u64).prop_map(Op::Shrink),
        1 => Just(Op::Remount),
    ]
}

/// What the host has beside the guest.
struct Others {
    taken: u64,
}

impl Others {
    fn change(&mut self, host: &Host, by: i64) {
        if by < 0 {
            for _ in 0..by.unsigned_abs().min(self.taken) {
                host.decrease(9);
                self.taken -= 1;
            }
        } else {
            self.taken += (0..by).filter(|_| host.populate(9)).count() as u64;
        }
    }
}

fn run(config: Config, compress: bool, frames: usize, ops: &[Op]) -> Result<(), TestCaseError> {
    let host = Host::with(frames, compress);
    host.set_maximum(1, 110);
    {
        let mut guest = guest(&host, 1, 60, 120, config);
        let mut others = Others { taken: 0 };
        let mut mount = guest.mount(None).unwrap();
        let mut files: Vec<_> = (0..3).map(|_| guest.create(mount, 40)).collect();
        let mut regions = [guest.map(60), guest.map(60)];
        let mut now = 0;
        for op in ops {
            let outcome = match op {
                Op::Read(file, page) => guest.read(now, files[*file], *page),
                Op::Write(file, page) => guest.write(now, files[*file], *page),
                Op::Truncate(file, len) => guest.truncate(files[*file], *len).map(|()| now),
                Op::Invalidate(file) => {
                    guest.invalidate(files[*file]);
                    Ok(now)
                }
                Op::Touch(region, page, write) => guest.touch(now, regions[*region], *page, *write),
                Op::Resize(region, pages) => guest.resize(regions[*region], *pages).map(|()| now),
                Op::Remap(region) => {
                    guest.unmap(regions[*region]).unwrap();
                    regions[*region] = guest.map(60);
                    Ok(now)
                }
                Op::Balloon(pages) => {
                    if *pages < 0 {
                        guest.source().shrink(pages.unsigned_abs());
                    } else {
                        guest.source().grow(*pages as u64);
                    }
                    Ok(now)
                }
                Op::Host(frames) => {
                    others.change(&host, *frames);
                    Ok(now)
                }
                Op::Reclaim(pages) => guest.reclaim(now, *pages).map(|(_, done)| done),
                Op::Balance => guest.balance(now),
                Op::WriteBack(pages) => guest.write_back(now, *pages),
                Op::Shrink(target) => guest.shrink_frontswap(now, *target, 100).map(|(_, done)| done),
                Op::Remount => {
                    let done = guest.unmount(now, mount);
                    mount = guest.mount(None).unwrap_or(mount);
                    files = (0..3).map(|_| guest.create(mount, 40)).collect();
                    done
                }
            };
            match outcome {
                Ok(done) => {
                    prop_assert!(done >= now);
                    now = done;
                }
                Err(Failure::OutOfMemory | Failure::OutOfRange) => {}
                Err(wrong) => prop_assert!(false, "{op:?}: {wrong:?}"),
            }
            guest.audit();
            host.audit();
        }
    }
    host.end(1);
    prop_assert_eq!(host.tmem(1, Kind::Ephemeral) + host.tmem(1, Kind::Persistent), 0);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_with_transcendent_memory(
        ops in prop::collection::vec(op(), 1..250), compress: bool, frames in 130..260_usize,
    ) {
        run(CONFIG, compress, frames, &ops)?;
    }

    #[test]
    fn nothing_is_lost_without(ops in prop::collection::vec(op(), 1..250)) {
        run(Config { cleancache: false, frontswap: false, ..CONFIG }, false, 200, &ops)?;
    }

    /// What is promised has a place: no operation runs out of memory while committed pages fit in memory and swap.
    #[test]
    fn what_fits_never_runs_out(
        accesses in prop::collection::vec((0..100_u32, any::<bool>(), 0..40_u32), 1..400), balloon in 0..30_u64,
    ) {
        let host = Host::new(80);
        let mut guest = guest(&host, 1, 60, 60, CONFIG);
        let mount = guest.mount(None).unwrap();
        let file = guest.create(mount, 40);
        let region = guest.map(100);
        let current = 60 - guest.source().shrink(balloon);
        // One page is the operation's own.
        let fits = current - CONFIG.watermarks.min - 1 + u64::from(CONFIG.swap);
        guest.resize(region, fits.min(100) as u32).unwrap();
        for (page, write, file_page) in accesses {
            match guest.touch(0, region, page, write) {
                Ok(_) | Err(Failure::OutOfRange) => {}
                Err(failure) => prop_assert!(false, "{failure:?} with {:?}", guest.figures()),
            }
            prop_assert!(guest.read(0, file, file_page).is_ok());
            guest.audit();
        }
    }
}
