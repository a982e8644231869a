//! What the compiler makes of the uncontended paths: the machine code of a lock and an unlock is decoded, and the shortest
//! way through it that calls nothing is counted.
#![cfg(target_arch = "x86_64")]

use ebb_locks::lab::{PlainTicket, SpinLock};
use ebb_locks::{Large, Platform, RawTicketLock, WaitKey};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

/// A kernel that nobody ever waits in.
struct Quiet;

impl Platform for Quiet {
    type Interrupts = ();

    fn spin_threshold(&self) -> u32 {
        1 << 11
    }

    fn relax(&self) {
        core::hint::spin_loop();
    }

    fn can_block(&self) -> bool {
        true
    }

    fn interrupts_off(&self) {}

    fn interrupts_restore(&self, (): ()) {}

    fn publish(&self, _: Option<WaitKey>) -> Option<WaitKey> {
        None
    }

    fn waiter(&self, _: WaitKey) -> Option<usize> {
        None
    }

    fn clear_kick(&self) {}

    fn block(&self, (): &()) {}

    fn kick(&self, _: usize) {}

    fn kick_self(&self) {}
}

#[inline(never)]
extern "C" fn paravirtual(lock: &RawTicketLock<Large>) {
    let ticket = lock.lock(&Quiet);
    lock.unlock(&Quiet, ticket);
}

#[inline(never)]
extern "C" fn native(lock: &PlainTicket) {
    let ticket = SpinLock::<Quiet>::lock(lock, &Quiet);
    lock.unlock(&Quiet, ticket);
}

/// Instructions, and how many of them are atomic.
type Path = (usize, usize);

/// The shortest way from `address` to a return, without calls.
#[allow(unsafe_code)] // Reading code.
fn shortest(address: u64, left: usize) -> Option<Path> {
    let start = core::ptr::with_exposed_provenance::<u8>(address as usize);
    // SAFETY: an instruction of this program has at most 15 bytes, and its text does not end with these functions.
    let bytes = unsafe { core::slice::from_raw_parts(start, 15) };
    let instruction: Instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
    let here = (1, usize::from(instruction.has_lock_prefix()));
    let more = |target| shortest(target, left.checked_sub(1)?);
    let rest = match instruction.flow_control() {
        FlowControl::Return => Some((0, 0)),
        FlowControl::Next => more(instruction.next_ip()),
        FlowControl::UnconditionalBranch => more(instruction.near_branch_target()),
        FlowControl::ConditionalBranch => {
            [more(instruction.next_ip()), more(instruction.near_branch_target())].into_iter().flatten().min()
        }
        _ => None,
    }?;
    Some((here.0 + rest.0, here.1 + rest.1))
}

#[test]
fn the_fast_path_is_the_native_one() {
    let lock = RawTicketLock::new(Large::new(0));
    paravirtual(&lock);
    let plain = PlainTicket::new();
    native(&plain);
    let (pv, plain) = (paravirtual as extern "C" fn(_), native as extern "C" fn(_));
    let pv = shortest((pv as *const ()).expose_provenance() as u64, 48).expect("a way without calls");
    let plain = shortest((plain as *const ()).expose_provenance() as u64, 48).expect("a way without calls");
    assert_eq!((pv.1, plain.1), (2, 2), "one atomic instruction to lock, one to unlock");
    // More than the native lock it has the test of the flag and its branch, and what the slow ways want saved.
    assert!(pv.0 <= plain.0 + 12, "{} instructions against {}", pv.0, plain.0);
    assert!(pv.0 <= 32, "{} instructions", pv.0);
}
