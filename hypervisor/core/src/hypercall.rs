//! Hypercalls: one table, one signature.
//!
//! The machine turns a VMMCALL/VMCALL exit into a [`Call`] and hands it to [`Hypervisor::hypercall`]. Arguments are
//! copied in once, validated completely, and only then acted on. A call that works through a list does a bounded
//! amount of work and then answers [`Next::Again`]: the machine stores the new arguments in the guest's registers and
//! leaves the instruction pointer where it is, so that the guest repeats the call (Xen's continuation) after whatever
//! was waiting has been served.

use shared_abi::hypercall as number;
use shared_abi::xen::Errno;

use crate::hypervisor::Hypervisor;
use crate::machine::Machine;
use crate::vcpu::VcpuRef;
use crate::{
    console, domctl, evtchn, grant, hvm, memory, multicall, sched, sysctl, timer, tmem, vcpu_op, version, vm_assist,
};

/// The width of the caller's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 16- or 32-bit code: arguments are ebx, ecx, edx, esi, edi; upper halves are ignored.
    Bits32,
    /// 64-bit code: arguments are rdi, rsi, rdx, r10, r8.
    Bits64,
}

/// How the calling vCPU translates virtual addresses, read at the exit.
#[derive(Clone, Copy, Debug)]
pub struct GuestPaging {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER, the guest's view.
    pub efer: u64,
    /// Current privilege level.
    pub cpl: u8,
    /// RFLAGS.IF: whether the caller takes interrupts.
    pub interrupts: bool,
}

/// A hypercall in progress.
pub struct Call<'a, M: Machine> {
    /// The hypervisor.
    pub hv: &'a Hypervisor<M>,
    /// Who calls.
    pub current: &'a VcpuRef<M>,
    /// The arguments, already cut to the caller's width.
    pub args: [u64; 5],
    /// The caller's width.
    pub width: Width,
    /// How the caller's addresses translate.
    pub paging: GuestPaging,
}

/// How a hypercall went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is done; this goes into rax.
    Return(i64),
    /// It is not done: call again with these arguments.
    Again([u64; 5]),
}

/// What a hypercall's function gives back: an error is the guest's.
pub type CallResult = Result<Next, Errno>;

/// One row of the table.
struct Row<M: Machine> {
    name: &'static str,
    privileged: bool,
    function: fn(&mut Call<'_, M>) -> CallResult,
}

/// Numbers at and above this are unknown.
const TABLE_SIZE: usize = 64;

struct Table<M>(core::marker::PhantomData<M>);

impl<M: Machine> Table<M> {
    const ROWS: [Option<Row<M>>; TABLE_SIZE] = {
        let mut rows = [const { None }; TABLE_SIZE];
        macro_rules! row {
            ($number:expr, $name:literal, $privileged:expr, $function:path) => {
                rows[$number as usize] = Some(Row { name: $name, privileged: $privileged, function: $function });
            };
        }
        row!(number::MEMORY_OP, "memory_op", false, memory::memory_op);
        row!(number::MULTICALL, "multicall", false, multicall::multicall);
        row!(number::SET_TIMER_OP, "set_timer_op", false, timer::set_timer_op);
        row!(number::XEN_VERSION, "xen_version", false, version::xen_version);
        row!(number::CONSOLE_IO, "console_io", false, console::console_io);
        row!(number::GRANT_TABLE_OP, "grant_table_op", false, grant::grant_table_op);
        row!(number::VM_ASSIST, "vm_assist", false, vm_assist::vm_assist);
        row!(number::VCPU_OP, "vcpu_op", false, vcpu_op::vcpu_op);
        row!(number::XSM_OP, "xsm_op", false, vm_assist::xsm_op);
        row!(number::SCHED_OP, "sched_op", false, sched::sched_op);
        row!(number::EVENT_CHANNEL_OP, "event_channel_op", false, evtchn::event_channel_op);
        row!(number::PHYSDEV_OP, "physdev_op", false, vm_assist::physdev_op);
        row!(number::HVM_OP, "hvm_op", false, hvm::hvm_op);
        row!(number::TMEM_OP, "tmem_op", false, tmem::tmem_op);
        row!(number::SYSCTL, "sysctl", true, sysctl::sysctl);
        row!(number::DOMCTL, "domctl", true, domctl::domctl);
        rows
    };
}

/// The name of a hypercall, for reports.
pub fn name<M: Machine>(number: u64) -> Option<&'static str> {
    Table::<M>::ROWS.get(usize::try_from(number).ok()?)?.as_ref().map(|row| row.name)
}

/// Runs hypercall `number`. Also used by `multicall` for its entries.
///
/// # Errors
/// `EPERM` when the caller is not in kernel mode or lacks the privilege, `ENOSYS` for a call that is not offered, and
/// whatever the call says.
pub fn dispatch<M: Machine>(call: &mut Call<'_, M>, number: u64) -> CallResult {
    if call.paging.cpl != 0 {
        return Err(Errno::EPERM);
    }
    let row = usize::try_from(number).ok().and_then(|index| Table::<M>::ROWS.get(index)).and_then(Option::as_ref);
    let row = row.ok_or(Errno::ENOSYS)?;
    if row.privileged && !call.current.domain().is_privileged() {
        return Err(Errno::EPERM);
    }
    (row.function)(call)
}

impl<M: Machine> Hypervisor<M> {
    /// Runs a hypercall for the vCPU that exited with it.
    pub fn hypercall(
        &self,
        current: &VcpuRef<M>,
        number: u64,
        args: [u64; 5],
        width: Width,
        paging: GuestPaging,
    ) -> Next {
        let (number, args) = match width {
            Width::Bits64 => (number, args),
            Width::Bits32 => (number & 0xffff_ffff, args.map(|arg| arg & 0xffff_ffff)),
        };
        let mut call = Call { hv: self, current, args, width, paging };
        match dispatch(&mut call, number) {
            Ok(next) => next,
            Err(errno) => Next::Return(errno.to_return()),
        }
    }
}

impl<M: Machine> Call<'_, M> {
    /// Whether a long call should give way now: something on this CPU waits for attention.
    pub fn should_preempt(&self) -> bool {
        !self.hv.cpu().attention().is_empty() || self.hv.machine.interrupt_waiting()
    }
}
