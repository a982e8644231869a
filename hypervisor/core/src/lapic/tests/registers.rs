//! Registers as guests reach them: modes, reserved bits, errors.

use super::*;
use crate::vcpu::Attention;

const MSR: u32 = 0x800;

#[test]
fn reset_values_are_those_of_the_manual() {
    let mut lapic = Lapic::new(6);
    let read = |lapic: &mut Lapic, number| lapic.read(number, 0);
    assert_eq!(read(&mut lapic, register::ID), 6 << 24);
    assert_eq!(read(&mut lapic, register::VERSION), 0x0005_0014);
    assert_eq!(read(&mut lapic, register::DFR), u32::MAX);
    assert_eq!(read(&mut lapic, register::SVR), 0xff);
    for number in register::LVT_TIMER..=register::LVT_ERROR {
        assert_eq!(read(&mut lapic, number), LVT_MASKED);
    }
    for number in [register::TPR, register::PPR, register::LDR, register::ESR, register::ICR, register::DIVIDE] {
        assert_eq!(read(&mut lapic, number), 0);
    }
    assert_eq!(lapic.base(), APIC_DEFAULT_BASE | BASE_ENABLED);
    assert_eq!(Lapic::new(0).base(), APIC_DEFAULT_BASE | BASE_ENABLED | BASE_BSP);
}

#[test]
fn the_base_register_allows_the_manuals_transitions_only() {
    let modes = [0, BASE_ENABLED, BASE_ENABLED | BASE_X2APIC, BASE_X2APIC];
    let allowed = |from: u64, to: u64| match (from, to) {
        (_, BASE_X2APIC) => false,
        (0, to) => to & BASE_X2APIC == 0,
        (from, to) if from & BASE_X2APIC != 0 => to != BASE_ENABLED,
        _ => true,
    };
    for from in &modes[..3] {
        for to in modes {
            let mut lapic = Lapic::new(0);
            for step in [BASE_ENABLED, *from] {
                lapic.set_base(APIC_DEFAULT_BASE | step).unwrap();
            }
            let result = lapic.set_base(APIC_DEFAULT_BASE | to);
            assert_eq!(result.is_ok(), allowed(*from, to), "{from:#x} to {to:#x}");
            let mode = lapic.base() & (BASE_ENABLED | BASE_X2APIC);
            assert_eq!(mode, if result.is_ok() { to } else { *from });
            assert_ne!(lapic.base() & BASE_BSP, 0, "what the boot processor is does not change");
        }
    }
    let mut lapic = Lapic::new(0);
    for bad in [0xfee0_1000 | BASE_ENABLED, APIC_DEFAULT_BASE | BASE_ENABLED | 1, 1 << 52 | APIC_DEFAULT_BASE] {
        assert_eq!(lapic.set_base(bad), Err(GP));
    }
}

#[test]
fn x2apic_mode_has_its_own_ids() {
    let (hv, domain) = with_domain(20);
    let eighteenth = vcpu(&domain, 18);
    assert_eq!(hv.apic_msr_read(&eighteenth, MSR + register::ID), Err(GP), "not before the mode is on");
    assert_eq!(hv.apic_window(&eighteenth), Some(APIC_DEFAULT_BASE));
    to_x2apic(&hv, &domain);
    assert_eq!(hv.apic_window(&eighteenth), None);
    assert_eq!(hv.apic_msr_read(&eighteenth, MSR + register::ID), Ok(36));
    assert_eq!(hv.apic_msr_read(&eighteenth, MSR + register::LDR), Ok(2 << 16 | 1 << 4));
    release(&hv, &domain);
}

#[test]
fn x2apic_registers_fault_as_the_manual_says() {
    let (hv, domain) = with_domain(1);
    let vcpu = vcpu(&domain, 0);
    to_x2apic(&hv, &domain);
    let read_only = [0x02, 0x03, 0x0a, 0x0d, 0x39];
    let write_only = [0x0b, 0x3f];
    let both = [0x08, 0x0f, 0x28, 0x30, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x3e];
    for number in 0..0x100 {
        let bitmap = (0x10..0x28).contains(&number);
        let readable = read_only.contains(&number) || both.contains(&number) || bitmap;
        let writable = write_only.contains(&number) || both.contains(&number);
        assert_eq!(hv.apic_msr_read(&vcpu, MSR + number).is_ok(), readable, "read {number:#x}");
        assert_eq!(hv.apic_msr_write(&vcpu, MSR + number, 0).is_ok(), writable, "write {number:#x}");
    }
    let legal = [
        (register::TPR, 0xff),
        (register::EOI, 0),
        (register::SVR, 0x1ff),
        (register::ESR, 0),
        (register::ICR, 0xffff_ffff_000c_cfff),
        (register::LVT_TIMER, 0x310ff),
        (0x33, 0x117ff),
        (0x34, 0x117ff),
        (0x35, 0x1f7ff),
        (0x36, 0x1f7ff),
        (register::LVT_ERROR, 0x110ff),
        (register::INITIAL_COUNT, 0xffff_ffff),
        (register::DIVIDE, 0b1011),
        (register::SELF_IPI, 0xff),
    ];
    for (number, mask) in legal {
        for bit in 0..64 {
            let expected = 1_u64 << bit & mask != 0;
            let result = hv.apic_msr_write(&vcpu, MSR + number, 1 << bit);
            assert_eq!(result.is_ok(), expected, "register {number:#x} bit {bit}");
        }
    }
    release(&hv, &domain);
}

#[test]
fn status_bits_cannot_be_written() {
    let mut lapic = on(0);
    for number in register::LVT_TIMER..=register::LVT_ERROR {
        lapic.write(number, u32::MAX, 0);
        assert_eq!(lapic.read(number, 0), LVT_WRITABLE[(number - register::LVT_TIMER) as usize]);
    }
    lapic.write(register::ICR_HIGH, u32::MAX, 0);
    lapic.write(register::ICR, !0x700 | 0x200, 0);
    assert_eq!((lapic.read(register::ICR, 0), lapic.read(register::ICR_HIGH, 0)), (0xccaff, 0xff00_0000));
    lapic.write(register::SVR, u32::MAX, 0);
    lapic.write(register::LDR, u32::MAX, 0);
    lapic.write(register::DFR, 0, 0);
    let all = [register::SVR, register::LDR, register::DFR].map(|number| lapic.read(number, 0));
    assert_eq!(all, [0x1ff, 0xff00_0000, 0x0fff_ffff]);
}

#[test]
fn errors_show_after_the_register_is_written() {
    let mut lapic = on(0);
    lapic.read(0x3f, 0);
    lapic.write(register::ICR, 0x0f, 0);
    lapic.set_irr(3);
    assert_eq!(lapic.read(register::ESR, 0), 0, "not before");
    lapic.write(register::ESR, 0, 0);
    let all = ESR_ILLEGAL_REGISTER | ESR_SEND_ILLEGAL_VECTOR | ESR_RECEIVE_ILLEGAL_VECTOR;
    assert_eq!(lapic.read(register::ESR, 0), all);
    lapic.write(register::ESR, 0, 0);
    assert_eq!(lapic.read(register::ESR, 0), 0);
    for number in [register::ID, register::VERSION, register::PPR, register::ISR, 0x27, register::CURRENT_COUNT] {
        lapic.write(number, 7, 0);
    }
    lapic.write(register::ESR, 0, 0);
    assert_eq!(lapic.read(register::ESR, 0), 0, "writing what can only be read is no error");
}

#[test]
fn an_error_has_an_interrupt_once() {
    let (hv, domain) = with_domain(1);
    let vcpu = vcpu(&domain, 0);
    hv.apic_mmio_write(&vcpu, register::LVT_ERROR << 4, 0xe0);
    hv.apic_mmio_read(&vcpu, 0x10);
    assert!(vcpu.attention().contains(Attention::LAPIC));
    assert_eq!(vcpu.lapic.lock().deliverable(), Some(0xe0));
    vcpu.lapic.lock().accept(0xe0);
    hv.apic_mmio_write(&vcpu, register::EOI << 4, 0);
    hv.apic_mmio_read(&vcpu, 0x10);
    assert_eq!(vcpu.lapic.lock().deliverable(), None, "the same error again");
    hv.apic_mmio_write(&vcpu, register::ESR << 4, 0);
    hv.apic_mmio_write(&vcpu, register::LVT_ERROR << 4, 0x05);
    hv.apic_mmio_read(&vcpu, 0x10);
    hv.apic_mmio_write(&vcpu, register::ESR << 4, 0);
    let expected = ESR_ILLEGAL_REGISTER | ESR_RECEIVE_ILLEGAL_VECTOR;
    assert_eq!(hv.apic_mmio_read(&vcpu, register::ESR << 4), expected, "its own vector is illegal: that is all");
    release(&hv, &domain);
}

#[test]
fn only_the_first_word_of_a_slot_is_a_register() {
    let (hv, domain) = with_domain(1);
    let vcpu = vcpu(&domain, 0);
    hv.apic_mmio_write(&vcpu, 0x84, 0x50);
    assert_eq!(hv.tpr(&vcpu), 0);
    hv.apic_mmio_write(&vcpu, 0x80, 0x50);
    assert_eq!((hv.tpr(&vcpu), hv.apic_mmio_read(&vcpu, 0x80), hv.apic_mmio_read(&vcpu, 0x88)), (0x50, 0x50, 0));
    release(&hv, &domain);
}
