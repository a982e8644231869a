//! Event channels in the kernel: setting up the ABI, the upcall, and ports that threads wait on.
//!
//! FIFO is used when the hypervisor has it, unless the argument `evtchn=2l` asks for the 2-level ABI. Upcalls come by
//! a vector per vCPU through the local APIC where CPUID offers that, otherwise (or with `upcall=via`) by the
//! domain-wide callback vector.
#![allow(unsafe_code)] // Registering shared pages.

use crate::lock::IrqLock;
use crate::percpu::{self, MAX_CPUS};
use crate::thread::{self, ThreadId};
use crate::{apic, clock, cpu, interrupt, page, start_info, timer, xen};
use core::num::NonZeroU64;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use ebb_guest_hypercall::cpuid::FEATURE_UPCALL_VECTOR;
use ebb_guest_hypercall::evtchn::Channels;
use ebb_guest_hypercall::evtchn::bindings::Bindings;
use ebb_guest_hypercall::evtchn::fifo::Fifo;
use ebb_guest_hypercall::evtchn::two_level::TwoLevel;
use ebb_guest_hypercall::shared::{self, ControlBlock, VcpuInfo};
use ebb_guest_hypercall::{Errno, Gfn, Port, VcpuId, Virq, event_channel, hvm, vcpu};
use ebb_kref::Kref;
use shared_abi::hvm::params::{CALLBACK_IRQ, CallbackVia};
use shared_abi::xen::PAGE_SIZE;
use spin::{Mutex, Once};

/// Ports the kernel has bindings for.
const MAX_PORTS: usize = 8192;
/// Ports that threads wait on at one time.
const MAX_SIGNALS: usize = 512;

static INFO: [VcpuInfo; MAX_CPUS] = [const {
    // SAFETY: all bits zero is a value of a structure of atomic integers.
    unsafe { core::mem::zeroed() }
}; MAX_CPUS];
static CONTROL: [ControlBlock; MAX_CPUS] = [const {
    // SAFETY: as above.
    unsafe { core::mem::zeroed() }
}; MAX_CPUS];
static FIFO: Fifo = Fifo::new();
static CHANNELS: Once<Channels<'static>> = Once::new();
static BINDINGS: Bindings<MAX_PORTS> = Bindings::new();
static GROWING: Mutex<()> = Mutex::new(());
/// Upcalls shall come through the local APICs.
static BY_APIC: AtomicBool = AtomicBool::new(false);

/// What a port is for: the low byte of its token. The rest is a number.
const KIND_TIMER: u64 = 1;
const KIND_KICK: u64 = 2;
const KIND_SIGNAL: u64 = 3;
const KIND_CALL: u64 = 4;

/// What the handler of a port of [`KIND_CALL`] calls.
static CALL: IrqLock<Option<fn()>> = IrqLock::new(None);

struct Signal {
    used: AtomicBool,
    /// The [`EventPort`], and every upcall that is about to count an event: the place is used anew after the last.
    refs: Kref,
    count: AtomicU64,
    vcpu: AtomicU32,
    sequence: AtomicU64,
    waiter: AtomicU64,
}

impl Signal {
    fn put(&self) {
        let released = self.refs.put_with(|| self.used.store(false, Ordering::SeqCst));
        assert!(released.is_ok(), "a signal was given back twice");
    }
}

/// Counts all events that are counted, so that their order can be told.
static SEQUENCE: AtomicU64 = AtomicU64::new(0);

static SIGNALS: [Signal; MAX_SIGNALS] = [const {
    Signal {
        used: AtomicBool::new(false),
        refs: Kref::with(AtomicU32::new(0)),
        count: AtomicU64::new(0),
        vcpu: AtomicU32::new(0),
        sequence: AtomicU64::new(0),
        waiter: AtomicU64::new(0),
    }
}; MAX_SIGNALS];

fn place_of<T>(shared: &'static T) -> (Gfn, u32) {
    let address = core::ptr::from_ref(shared).expose_provenance() as u64;
    (Gfn(address / PAGE_SIZE), (address % PAGE_SIZE) as u32)
}

/// The `vcpu_info` of a vCPU.
pub fn vcpu_info(id: usize) -> &'static VcpuInfo {
    &INFO[id]
}

/// The ABI in use.
pub fn channels() -> &'static Channels<'static> {
    CHANNELS.get().expect("event channels are set up first")
}

/// Is the FIFO ABI in use?
pub fn is_fifo() -> bool {
    matches!(channels(), Channels::Fifo(_))
}

/// Do this vCPU's upcalls come through its local APIC?
pub fn by_apic() -> bool {
    percpu::own().upcalls_by_apic.load(Ordering::Relaxed)
}

/// Has the calling vCPU's upcalls come through its local APIC from now on. There is no way back.
pub fn use_apic() -> Result<(), Errno> {
    let interrupts = cpu::interrupts_off();
    let vcpu = VcpuId(percpu::id() as u32);
    let result = hvm::set_evtchn_upcall_vector(vcpu, interrupt::UPCALL_VECTOR);
    if result.is_ok() {
        percpu::own().upcalls_by_apic.store(true, Ordering::Relaxed);
    }
    if interrupts {
        cpu::interrupts_on();
    }
    result
}

/// Chooses the ABI and prepares the boot processor.
pub fn init() -> Result<(), &'static str> {
    register_info(0)?;
    let shared = xen::shared_info();
    let two_level = TwoLevel::new(&shared.evtchn_pending, &shared.evtchn_mask);
    two_level.mask_all();
    let wants_fifo = start_info::args().get("evtchn") != Some("2l");
    let channels =
        if wants_fifo && add_control(0).is_ok() { Channels::Fifo(&FIFO) } else { Channels::TwoLevel(two_level) };
    CHANNELS.call_once(|| channels);
    let wants_apic = start_info::args().get("upcall") != Some("via");
    if xen::hypervisor().features & FEATURE_UPCALL_VECTOR != 0 && wants_apic {
        BY_APIC.store(true, Ordering::Relaxed);
    } else {
        hvm::set_param(CALLBACK_IRQ, CallbackVia::Vector(interrupt::UPCALL_VECTOR).to_param())
            .map_err(|_| "the callback vector is refused")?;
    }
    bind_own_ports(0)
}

/// Prepares another vCPU, from the boot processor, before it starts.
pub fn prepare(id: usize) -> Result<(), &'static str> {
    register_info(id)?;
    if is_fifo() {
        add_control(id).map_err(|_| "a FIFO control block is refused")?;
    }
    bind_own_ports(id)
}

/// Chooses the upcall's way on the calling vCPU, whose local APIC is enabled.
pub fn init_cpu() -> Result<(), &'static str> {
    if BY_APIC.load(Ordering::Relaxed) {
        use_apic().map_err(|_| "the upcall vector is refused")?;
    }
    Ok(())
}

fn register_info(id: usize) -> Result<(), &'static str> {
    let (gfn, offset) = place_of(&INFO[id]);
    // SAFETY: the place is a static that is used as this vCPU's `vcpu_info` only.
    unsafe { vcpu::register_vcpu_info(VcpuId(id as u32), gfn, offset) }.map_err(|_| "a vcpu_info is refused")
}

fn add_control(id: usize) -> Result<(), Errno> {
    let (gfn, offset) = place_of(&CONTROL[id]);
    FIFO.set_control(id, &CONTROL[id]);
    event_channel::init_control(gfn, offset, VcpuId(id as u32)).map(drop)
}

/// The timer's and the wake-up port of a vCPU.
fn bind_own_ports(id: usize) -> Result<(), &'static str> {
    let own = percpu::of(id).ok_or("too many vCPUs")?;
    let vcpu = VcpuId(id as u32);
    let timer = event_channel::bind_virq(Virq::TIMER, vcpu).map_err(|_| "VIRQ_TIMER cannot be bound")?;
    adopt(timer, (id as u64) << 8 | KIND_TIMER)?;
    own.timer_port.store(timer.0, Ordering::Relaxed);
    let kick = event_channel::bind_ipi(vcpu).map_err(|_| "an IPI port cannot be bound")?;
    adopt(kick, KIND_KICK)?;
    own.kick_port.store(kick.0, Ordering::Relaxed);
    crate::pv::prepare(id)
}

/// Makes sure that the port has an event word.
pub fn make_room(port: Port) -> Result<(), &'static str> {
    let _growing = GROWING.lock();
    while channels().capacity() <= port.0 {
        let page = page::take_zeroed().ok_or("no memory for event words")?;
        // SAFETY: the page was just taken and is given to the event channels for ever.
        FIFO.add_page(unsafe { shared::at(page * PAGE_SIZE) });
        event_channel::expand_array(Gfn(page)).map_err(|_| "an event array page is refused")?;
    }
    Ok(())
}

fn adopt(port: Port, token: u64) -> Result<(), &'static str> {
    make_room(port)?;
    let token = NonZeroU64::new(token).ok_or("a token is not 0")?;
    if !BINDINGS.bind(port, token) {
        return Err("the port is bound already, or too large");
    }
    channels().unmask(port).map_err(|_| "a port cannot be unmasked")
}

/// The upcall: hands all pending events of this vCPU to those who wait for them. Interrupts are off.
pub fn upcall() {
    let own = percpu::own();
    if own.stamp_upcalls.load(Ordering::Relaxed) {
        own.upcall_stamp.store(cpu::rdtsc(), Ordering::Relaxed);
    }
    if by_apic() {
        apic::end_of_interrupt();
    }
    let id = percpu::id();
    own.upcalls.fetch_add(1, Ordering::Relaxed);
    channels().drain(id, &INFO[id], |port| dispatch(id, port));
}

fn dispatch(id: usize, port: Port) {
    // A port that was closed meanwhile has no binding: its event is of no interest.
    let Some(token) = BINDINGS.lookup(port) else {
        return;
    };
    match token.get() & 0xFF {
        // With the 2-level ABI all vCPUs share the pending words: this may be another one's timer.
        KIND_TIMER => timer::expired((token.get() >> 8) as usize),
        KIND_SIGNAL => {
            let signal = &SIGNALS[(token.get() >> 8) as usize];
            // Looked up without a lock: the port may have been closed by another vCPU meanwhile.
            if !signal.refs.get_unless_zero() {
                return;
            }
            signal.vcpu.store(id as u32, Ordering::Relaxed);
            let sequence = SEQUENCE.fetch_add(1, Ordering::SeqCst);
            signal.sequence.store(sequence, Ordering::SeqCst);
            signal.count.fetch_add(1, Ordering::SeqCst);
            if let Some(waiter) = ThreadId::from_bits(signal.waiter.load(Ordering::SeqCst)) {
                thread::unpark(waiter);
            }
            signal.put();
        }
        KIND_CALL => {
            let call = *CALL.lock();
            call.into_iter().for_each(|call| call());
        }
        // A kick ends the sleep by having come.
        _ => {}
    }
}

/// Wakes an idle vCPU.
pub fn kick(id: usize) {
    if let Some(other) = percpu::of(id) {
        let port = other.kick_port.load(Ordering::Relaxed);
        if port != 0 {
            // The port exists as long as the kernel; an error would mean that the hypervisor lost it.
            let _ = event_channel::send(Port(port));
        }
    }
}

/// A port whose events are counted, and which a thread may wait on. Closed when dropped.
#[derive(Debug)]
pub struct EventPort {
    port: Port,
    signal: usize,
}

impl EventPort {
    /// Takes a port over from the hypervisor call that made it, and unmasks it.
    pub fn new(port: Port) -> Result<Self, &'static str> {
        let signal = SIGNALS
            .iter()
            .position(|signal| signal.used.compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst).is_ok())
            .ok_or("too many ports are waited on")?;
        SIGNALS[signal].count.store(0, Ordering::SeqCst);
        SIGNALS[signal].waiter.store(0, Ordering::SeqCst);
        assert!(SIGNALS[signal].refs.init(), "an unused signal has references");
        match adopt(port, (signal as u64) << 8 | KIND_SIGNAL) {
            Ok(()) => Ok(Self { port, signal }),
            Err(why) => {
                SIGNALS[signal].put();
                Err(why)
            }
        }
    }

    /// The port.
    pub fn port(&self) -> Port {
        self.port
    }

    /// From now on, each event wakes `thread` (until somebody waits by [`wait`](Self::wait)).
    pub fn wake(&self, thread: ThreadId) {
        SIGNALS[self.signal].waiter.store(thread.to_bits(), Ordering::SeqCst);
    }

    /// Events that were delivered so far.
    pub fn count(&self) -> u64 {
        SIGNALS[self.signal].count.load(Ordering::SeqCst)
    }

    /// The vCPU that took the last one.
    pub fn last_vcpu(&self) -> usize {
        SIGNALS[self.signal].vcpu.load(Ordering::Relaxed) as usize
    }

    /// The place of the last one among all events that are counted.
    pub fn last_sequence(&self) -> u64 {
        SIGNALS[self.signal].sequence.load(Ordering::SeqCst)
    }

    /// Waits until `count` events have been delivered in all; false when `timeout_ns` has passed before.
    pub fn wait(&self, count: u64, timeout_ns: u64) -> bool {
        let signal = &SIGNALS[self.signal];
        let deadline = clock::now().saturating_add(timeout_ns);
        signal.waiter.store(thread::current().to_bits(), Ordering::SeqCst);
        while self.count() < count && clock::now() < deadline {
            thread::park_until(deadline);
        }
        signal.waiter.store(0, Ordering::SeqCst);
        self.count() >= count
    }
}

/// From now on an event of `port` calls a function in its handler, and is not counted.
pub fn call_at(port: &EventPort, call: fn()) {
    *CALL.lock() = Some(call);
    BINDINGS.unbind(port.port);
    BINDINGS.bind(port.port, const { NonZeroU64::new(KIND_CALL).unwrap() });
}

impl Drop for EventPort {
    fn drop(&mut self) {
        BINDINGS.unbind(self.port);
        // It may have been closed by a test already.
        let _ = event_channel::close(self.port);
        SIGNALS[self.signal].put();
    }
}
