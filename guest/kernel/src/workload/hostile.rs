//! `workload=hostile`: random hypercalls with random arguments, `calls=` of them (default 1000000) from `seed=`
//! (default 1). The hypervisor must answer each with an errno or a result, and nobody else may notice.
//!
//! Two kinds of calls are mixed. *Garbage*: any number and any words, with addresses that are unmapped, non-canonical,
//! null or at the edge of a page. *Crafted*: a structure in this program's own scratch memory whose fields are odd but
//! whose addresses are valid, so that a call gets past the first check. Left out, for they would rightly end or cripple
//! this domain: shutting itself down, sleeping for ever, taking its own vCPU down, giving away or replacing pages that
//! the kernel uses, moving its upcalls. Memory calls go to a sacrificial range instead, and beyond the end of memory.
#![allow(unsafe_code)] // Wrong arguments are the point.

use crate::{clock, page, percpu, println, thread};
use alloc::format;
use alloc::string::String;
use core::arch::asm;
use core::sync::atomic::Ordering;
use ebb_guest_hypercall::{Errno, cpuid};
use ebb_guest_logic::args::Args;
use ebb_guest_logic::frames::{BLOCK_ORDER, BLOCK_PAGES};
use ebb_guest_logic::rng::Rng;
use shared_abi::hypercall as number;
use shared_abi::xen::PAGE_SIZE;
use shared_abi::{hvm, memory, sched, vcpu};

/// Pages of scratch memory: structures first, lists behind them.
const SCRATCH_PAGES: u64 = 64;

/// Calls whose numbers are picked more often than others.
const KNOWN: &[u32] = &[
    number::MEMORY_OP,
    number::MEMORY_OP,
    number::EVENT_CHANNEL_OP,
    number::EVENT_CHANNEL_OP,
    number::SCHED_OP,
    number::VCPU_OP,
    number::HVM_OP,
    number::XEN_VERSION,
    number::CONSOLE_IO,
    number::SET_TIMER_OP,
    number::GRANT_TABLE_OP,
    number::PHYSDEV_OP,
    number::VM_ASSIST,
    number::DOMCTL,
    number::SYSCTL,
    number::TMEM_OP,
    number::XSM_OP,
    number::PLATFORM_OP,
];

/// A call, ready to be made.
#[derive(Clone, Copy, Debug)]
struct Call {
    number: u64,
    args: [u64; 5],
}

/// The source of calls.
struct Hostile {
    rng: Rng,
    /// First byte of the scratch memory.
    scratch: u64,
    /// First page of the sacrificial range (512 pages).
    victim: u64,
    /// One past the last page of the domain's memory.
    end: u64,
    /// Ports of the kernel's own.
    ports: [u32; 2],
    /// A place where mapped memory ends.
    edge: u64,
}

/// Makes the call by the vendor's instruction, with all 64 bits of the number.
fn trap(call: &Call, amd: bool) -> i64 {
    let result: u64;
    macro_rules! make {
        ($instruction:literal) => {
            asm!($instruction, inlateout("rax") call.number => result, inlateout("rdi") call.args[0] => _,
                inlateout("rsi") call.args[1] => _, inlateout("rdx") call.args[2] => _,
                inlateout("r10") call.args[3] => _, inlateout("r8") call.args[4] => _, lateout("r9") _,
                lateout("rcx") _, lateout("r11") _)
        };
    }
    // SAFETY: the calls' addresses lead into the scratch memory or nowhere, and their pages are sacrificial.
    unsafe {
        if amd {
            make!("vmmcall");
        } else {
            make!("vmcall");
        }
    }
    result as i64
}

impl Hostile {
    fn new(seed: u64) -> Result<Self, String> {
        let scratch = page::take(SCRATCH_PAGES.ilog2()).ok_or("no memory for scratch")? * PAGE_SIZE;
        let one = page::take(BLOCK_ORDER).ok_or("no memory to sacrifice")?;
        let own = percpu::own();
        Ok(Self {
            rng: Rng::new(seed),
            scratch,
            victim: one,
            end: page::layout().end,
            ports: [own.timer_port.load(Ordering::Relaxed), own.kick_port.load(Ordering::Relaxed)],
            edge: thread::cpu_stack_top(0),
        })
    }

    /// Writes words to the scratch memory at `offset`; their address.
    fn place(&self, offset: u64, words: &[u64]) -> u64 {
        let address = self.scratch + offset;
        for (index, word) in words.iter().enumerate() {
            let place = core::ptr::with_exposed_provenance_mut::<u64>(address as usize + index * 8);
            // SAFETY: the scratch memory is this program's own, and the offsets stay inside.
            unsafe { place.write_unaligned(*word) };
        }
        address
    }

    /// A word with no meaning, small as often as large.
    fn word(&mut self) -> u64 {
        let word = self.rng.next_u64();
        match self.rng.below(6) {
            0 => word & 0xF,
            1 => word & 0xFFFF,
            2 => word & 0xFFFF_FFFF,
            3 => u64::MAX - (word & 0xFF),
            4 => 1 << (word & 63),
            _ => word,
        }
    }

    /// An address at which nothing of ours lies.
    fn nowhere(&mut self) -> u64 {
        let low = self.rng.next_u64() & 0xFFFF;
        match self.rng.below(8) {
            0 => 0,
            1 => low & 0xFFF,
            2 => 0x7000_0000_0000 + low,
            3 => 0x8000_0000_0000 + low,
            4 => 0xFFFF_7FFF_FFFF_F000 + (low & 0xFFF),
            5 => u64::MAX - (low & 0x3F),
            6 => 0xFFFF_8000_0000_0000 + low,
            // A structure that begins where memory ends.
            _ => self.edge - (low & 7),
        }
    }

    /// A page that may be harmed, or that does not exist. The 2^`order` pages from it on are the same.
    fn gfn(&mut self, order: u64) -> u64 {
        match self.rng.below(8) {
            0 => self.end + self.rng.below(1 << 20),
            1 => self.rng.next_u64() | 1 << 45,
            2 => u64::MAX - self.rng.below(4),
            // A larger extent than the sacrifice is refused, or it does not exist.
            _ if order > u64::from(BLOCK_ORDER) => self.end + self.rng.below(1 << 20),
            3 => self.victim,
            // Aligned or not, but inside. A range of pages (`XENMAPSPACE_gmfn_range`) has up to four.
            _ => self.victim + self.rng.below(BLOCK_PAGES + 1 - (4 << order.min(9)).min(BLOCK_PAGES)),
        }
    }

    /// A port that is not the kernel's.
    fn port(&mut self) -> u64 {
        let port = match self.rng.below(3) {
            0 => self.rng.below(64),
            1 => self.rng.below(1 << 18),
            _ => self.word() & 0xFFFF_FFFF,
        };
        if self.ports.contains(&(port as u32)) { port + 1000 } else { port }
    }

    /// A domain's number: mostly our own.
    fn domid(&mut self) -> u64 {
        match self.rng.below(5) {
            0 => self.rng.below(8),
            1 => self.rng.next_u64() & 0xFFFF,
            _ => 0x7FF0,
        }
    }

    /// A list of pages in the scratch memory, or nowhere; how many are claimed to be there.
    fn list(&mut self, offset: u64, order: u64) -> (u64, u64) {
        let count = match self.rng.below(8) {
            0 => self.word(),
            1 => 512,
            _ => self.rng.below(16),
        };
        if self.rng.one_in(6) {
            return (self.nowhere(), count);
        }
        // Behind the list lie pages of the same kind, so that a wrong count does no harm.
        let mut words = [0; 1024];
        words.iter_mut().for_each(|word| *word = self.gfn(order));
        (self.place(offset, &words), count.min(1024))
    }

    fn reservation(&mut self, offset: u64) -> [u64; 4] {
        let order = match self.rng.below(5) {
            0 => self.rng.below(64),
            1 => self.rng.next_u64() & 0xFFFF_FFFF,
            2 => 9,
            _ => 0,
        };
        let (list, count) = self.list(offset, order);
        [list, count, order | self.word() << 32, self.domid()]
    }

    fn memory_op(&mut self) -> Call {
        let op = self.rng.below(32);
        let start = if self.rng.one_in(8) { self.word() << 6 } else { 0 };
        let words: [u64; 9] = match op as u32 {
            memory::EXCHANGE => {
                let (given, wanted) = (self.reservation(0x2000), self.reservation(0x4000));
                let done = if self.rng.one_in(4) { self.word() } else { 0 };
                core::array::from_fn(|index| match index {
                    0..4 => given[index],
                    4..8 => wanted[index - 4],
                    _ => done,
                })
            }
            memory::ADD_TO_PHYSMAP => {
                // Not shared_info (space 0): the kernel's own is in use.
                let space = 1 + self.rng.below(7);
                let idx = if space == 1 { self.word() } else { self.gfn(0) };
                [self.domid() | self.rng.below(4) << 16 | space << 32, idx, self.gfn(0), 0, 0, 0, 0, 0, 0]
            }
            memory::ADD_TO_PHYSMAP_BATCH => {
                let (idxs, count) = self.list(0x2000, 0);
                let (gpfns, _) = self.list(0x4000, 0);
                let errs = self.scratch + 0x6000;
                [self.domid() | 2 << 16 | (count & 0x3FF) << 32, idxs, gpfns, errs, 0, 0, 0, 0, 0]
            }
            memory::REMOVE_FROM_PHYSMAP => [self.domid(), self.gfn(0), 0, 0, 0, 0, 0, 0, 0],
            memory::MEMORY_MAP | memory::MACHINE_MEMORY_MAP => {
                [self.word() & 0xFFFF_FFFF, self.scratch + 0x8000, 0, 0, 0, 0, 0, 0, 0]
            }
            _ => {
                let reservation = self.reservation(0x2000);
                core::array::from_fn(|index| reservation.get(index).copied().unwrap_or(0))
            }
        };
        Call { number: number::MEMORY_OP.into(), args: [op | start, self.place(0, &words), 0, 0, 0] }
    }

    fn event_channel_op(&mut self) -> Call {
        // Not reset (10): it takes the kernel's own ports.
        let op = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15][self.rng.below(15) as usize];
        let odd = self.word() & 0xFFFF_FFFF;
        let words: [u64; 3] = match op {
            0 => [self.domid() | self.port() << 32, 0, 0],
            1 | 7 => [self.rng.below(30) | odd << 32, 0, 0],
            5 => [self.domid() | self.port() << 32, 0, 0],
            6 => [self.domid() | self.domid() << 16, 0, 0],
            11 => [self.gfn(0), (odd & 0xFFFF) | self.rng.below(80) << 32, 0],
            12 => [self.gfn(0), 0, 0],
            _ => [self.port() | odd << 32, self.word(), 0],
        };
        Call { number: number::EVENT_CHANNEL_OP.into(), args: [op, self.place(0, &words), 0, 0, 0] }
    }

    fn sched_op(&mut self) -> Call {
        let op = self.rng.pick(&[sched::YIELD, sched::POLL, sched::POLL, sched::REMOTE_SHUTDOWN, 7, 8, 99]);
        let words: [u64; 3] = match op {
            // In the past: a poll may look, but not sleep for ever.
            sched::POLL => {
                let ports: [u64; 64] = core::array::from_fn(|_| self.port() | self.port() << 32);
                let list = if self.rng.one_in(5) { self.nowhere() } else { self.place(0x2000, &ports) };
                let count = if self.rng.one_in(5) { self.word() } else { self.rng.below(128) };
                [list, count, 1 + clock::now() / 2]
            }
            // Somebody who does not exist.
            sched::REMOTE_SHUTDOWN => [(0x1000 + self.rng.below(0x7000)) | self.word() << 32, 0, 0],
            _ => [self.word(), self.word(), 1],
        };
        Call {
            number: number::SCHED_OP.into(),
            args: [op.into(), self.place(0, &words), self.word(), self.word(), self.word()],
        }
    }

    fn vcpu_op(&mut self) -> Call {
        let op = self.rng.below(18) as u32;
        let absent = 64 + self.rng.below(1 << 31);
        let harmless = matches!(
            op,
            vcpu::IS_UP | vcpu::GET_RUNSTATE_INFO | 5..=9 | vcpu::SEND_NMI | 12..=15
        );
        let vcpu = if harmless && !self.rng.one_in(4) { 0 } else { absent };
        let words = match op {
            // An area: in the scratch memory, or nowhere.
            5 | 13..=15 if self.rng.one_in(2) => [self.scratch + 0x9000, 0],
            5 | 13..=15 => [self.nowhere(), 0],
            _ => [self.word(), self.word()],
        };
        Call {
            number: number::VCPU_OP.into(),
            args: [op.into(), vcpu, self.place(0, &words), self.word(), self.word()],
        }
    }

    fn hvm_op(&mut self) -> Call {
        let op = self.rng.below(28) as u32;
        let words = match op {
            // Not the upcall's vector (0) and not the sleep state (14).
            hvm::SET_PARAM => {
                let index = self.rng.pick(&[1, 2, 4, 5, 9, 12, 17, 18, 31, 33, 38, 39, 77, u32::MAX]);
                [self.domid() | u64::from(index) << 32, self.word()]
            }
            hvm::GET_PARAM => [self.domid() | self.rng.below(64) << 32, 0],
            hvm::SET_EVTCHN_UPCALL_VECTOR => [(64 + self.rng.below(1 << 20)) | self.word() << 32, 0],
            _ => [self.domid() | self.word() << 16, self.word()],
        };
        Call { number: number::HVM_OP.into(), args: [op.into(), self.place(0, &words), self.word(), 0, 0] }
    }

    fn console_io(&mut self) -> Call {
        let (length, address) = match self.rng.below(50) {
            0 => (self.rng.below(32), self.scratch + 0xA000),
            _ => (self.word() | 1, self.nowhere()),
        };
        Call { number: number::CONSOLE_IO.into(), args: [self.rng.below(3), length, address, self.word(), 0] }
    }

    /// Another call with a structure of random words.
    fn other(&mut self, number: u32) -> Call {
        let words: [u64; 16] = core::array::from_fn(|_| self.word());
        let address = self.place(0, &words);
        let args = if number == number::GRANT_TABLE_OP {
            [self.rng.below(16), address, self.word() & 0xFF, 0, 0]
        } else if matches!(number, number::DOMCTL | number::SYSCTL | number::TMEM_OP | number::XSM_OP) {
            [address, self.word(), self.word(), 0, 0]
        } else {
            [self.rng.below(40), address, self.word(), self.word(), self.word()]
        };
        Call { number: number.into(), args }
    }

    fn crafted(&mut self) -> Call {
        let number = self.rng.pick(KNOWN);
        match number {
            number::MEMORY_OP => self.memory_op(),
            number::EVENT_CHANNEL_OP => self.event_channel_op(),
            number::SCHED_OP => self.sched_op(),
            number::VCPU_OP => self.vcpu_op(),
            number::HVM_OP => self.hvm_op(),
            number::CONSOLE_IO => self.console_io(),
            number => self.other(number),
        }
    }

    /// Any number, any words. The operations that need no argument to do harm are kept out.
    fn garbage(&mut self) -> Call {
        let low = if self.rng.one_in(4) { self.rng.next_u64() as u32 & 0x7F } else { self.rng.pick(KNOWN) };
        let upper = if self.rng.one_in(4) { self.rng.next_u64() << 32 } else { 0 };
        let mut args = [0; 5];
        args.iter_mut().for_each(|arg| *arg = if self.rng.one_in(2) { self.nowhere() } else { self.word() });
        let harmful = |op: u64| match low {
            number::SCHED_OP => matches!(op as u32, sched::BLOCK | sched::SHUTDOWN | sched::SHUTDOWN_CODE),
            number::VCPU_OP => matches!(op as u32, vcpu::DOWN),
            _ => false,
        };
        if harmful(args[0]) {
            args[0] = 77;
        }
        // Whatever might be taken for an address: never one in memory of the kernel's.
        for arg in args.iter_mut().filter(|arg| (PAGE_SIZE..self.end * PAGE_SIZE).contains(*arg)) {
            *arg |= 0x7000_0000_0000;
        }
        Call { number: upper | u64::from(low), args }
    }

    /// Several crafted calls in one, all but the last with structures that a later one has overwritten.
    fn multicall(&mut self) -> Call {
        const LIST: u64 = 0x10000;
        let count = self.rng.below(8);
        let mut words = [0; 64];
        for entry in 0..count as usize {
            // Calls that take their arguments in registers only, or garbage: structures would overwrite each other.
            let call = if self.rng.one_in(2) { self.garbage() } else { self.console_io() };
            words[entry * 8] = call.number;
            words[entry * 8 + 2..entry * 8 + 7].copy_from_slice(&call.args);
        }
        let claimed = if self.rng.one_in(8) { self.word() & 7 } else { count };
        Call { number: number::MULTICALL.into(), args: [self.place(LIST, &words), claimed.min(8), 0, 0, 0] }
    }

    fn next(&mut self) -> Call {
        match self.rng.below(10) {
            0..3 => self.garbage(),
            3 => self.multicall(),
            _ => self.crafted(),
        }
    }
}

/// Runs the workload.
pub fn run(args: Args<'static>) -> Result<(), String> {
    let bad = |bad: ebb_guest_logic::args::BadValue<'_>| format!("{}={} is no number", bad.key, bad.value);
    let calls = args.number("calls", 1_000_000).map_err(bad)?;
    let seed = args.number("seed", 1).map_err(bad)?;
    let amd = cpuid::is_amd();
    let mut hostile = Hostile::new(seed)?;
    let (mut fine, mut refused) = (0u64, 0u64);
    println!("hostile: seed {seed}, {calls} calls");
    for done in 0..calls {
        if done > 0 && done % (calls / 10).max(1) == 0 {
            println!("hostile: {done} calls, {fine} accepted, {refused} refused");
        }
        let call = hostile.next();
        if args.flag("verbose") {
            println!("hostile: {done} {call:x?}");
        }
        match Errno::from_return(trap(&call, amd)) {
            Ok(_) => fine += 1,
            Err(_) => refused += 1,
        }
    }
    println!("hostile: done {calls} calls, {fine} accepted, {refused} refused");
    Ok(())
}
