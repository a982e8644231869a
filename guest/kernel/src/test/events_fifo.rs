//! What the FIFO ABI has and the 2-level one has not: priorities, control blocks, event arrays.

use super::{Outcome, Stop, Test};
use crate::events::{self, EventPort};
use crate::{check, check_eq, cpu, page, percpu};
use ebb_guest_hypercall::{Errno, Gfn, Port, VcpuId, event_channel};
use shared_abi::xen::PAGE_SIZE;

/// This group's tests.
pub const TESTS: &[Test] = &[("fifo-priority", priority), ("fifo-errors", errors), ("fifo-without", without)];

const PATIENCE: u64 = 2_000_000_000;

fn need_fifo() -> Outcome {
    if events::is_fifo() { Ok(()) } else { Err(Stop::Skip("the kernel uses the 2-level ABI".into())) }
}

fn priority() -> Outcome {
    need_fifo()?;
    let vcpu = VcpuId(percpu::id() as u32);
    let low = EventPort::new(event_channel::bind_ipi(vcpu)?)?;
    let middle = EventPort::new(event_channel::bind_ipi(vcpu)?)?;
    let high = EventPort::new(event_channel::bind_ipi(vcpu)?)?;
    event_channel::set_priority(low.port(), 15)?;
    event_channel::set_priority(high.port(), 0)?;
    for round in 1..=10 {
        let interrupts = cpu::interrupts_off();
        let sent = [&low, &middle, &high].map(|port| event_channel::send(port.port()));
        if interrupts {
            cpu::interrupts_on();
        }
        check_eq!(sent, [Ok(()); 3], "the sends");
        for port in [&low, &middle, &high] {
            check!(port.wait(round, PATIENCE), "an event of round {round} did not arrive");
        }
        let order = [&high, &middle, &low].map(EventPort::last_sequence);
        check!(order.is_sorted(), "events came in the order {order:?}, most urgent first");
    }
    check_eq!(event_channel::set_priority(low.port(), 16), Err(Errno::EINVAL), "priority 16");
    let nowhere = event_channel::set_priority(Port(u32::MAX), 3);
    check_eq!(nowhere, Err(Errno::EINVAL), "the priority of a port that cannot be");
    Ok(())
}

fn errors() -> Outcome {
    need_fifo()?;
    let absent = Gfn(page::layout().end + (1 << 20));
    let own = VcpuId(0);
    check_eq!(event_channel::init_control(absent, 0, VcpuId(9999)), Err(Errno::ENOENT), "a block for no vCPU");
    let taken = page::take(0).ok_or("no memory")?;
    let last = PAGE_SIZE as u32 - 8;
    for (gfn, offset, what) in [
        (absent, 0, "a block at a gfn that is absent"),
        (Gfn(taken), 4, "a block that is not aligned"),
        (Gfn(taken), last, "a block that leaves its page"),
        (Gfn(taken), u32::MAX - 7, "a block far outside its page"),
        (Gfn(taken), 0, "a second block"),
    ] {
        check_eq!(event_channel::init_control(gfn, offset, own), Err(Errno::EINVAL), what);
    }
    check_eq!(event_channel::expand_array(absent), Err(Errno::EINVAL), "event words at a gfn that is absent");
    page::give(taken, 0);
    Ok(())
}

fn without() -> Outcome {
    if events::is_fifo() {
        return Err(Stop::Skip("the kernel uses the FIFO ABI: evtchn=2l".into()));
    }
    let port = event_channel::bind_ipi(VcpuId(0))?;
    let result = event_channel::set_priority(port, 3);
    event_channel::close(port)?;
    check_eq!(result, Err(Errno::ENOSYS), "a priority without FIFO");
    Ok(())
}
