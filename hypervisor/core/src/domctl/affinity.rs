//! Where vCPUs may run: `XEN_DOMCTL_setvcpuaffinity` and its counterpart.
//!
//! There is hard affinity only: a request for soft affinity alone is refused, and asked for it the answer is the hard one.
//!
//! Locking: none of its own.
//!
//! Specification: Xen 4.17's `domctl.h` (`struct xen_domctl_vcpuaffinity`) and what its hypervisor answers.

use shared_abi::domctl::{self as abi, VcpuAffinity};
use shared_abi::xen::{CtlBitmap, Errno};

use crate::domain::Domain;
use crate::hypercall::Call;
use crate::machine::Machine;
use crate::sched::{self, MAX_CPUS};
use crate::vcpu::VcpuRef;
use alloc::sync::Arc;

/// A mask as bytes.
type Bytes = [u8; MAX_CPUS / 8];

fn vcpu_of<M: Machine>(domain: &Arc<Domain<M>>, request: &VcpuAffinity) -> Result<VcpuRef<M>, Errno> {
    let known = abi::VCPUAFFINITY_HARD | abi::VCPUAFFINITY_SOFT | abi::VCPUAFFINITY_FORCE;
    if request.flags & (abi::VCPUAFFINITY_HARD | abi::VCPUAFFINITY_SOFT) == 0 || request.flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    VcpuRef::new(domain, request.vcpu).ok_or(Errno::ESRCH)
}

/// Limits a vCPU to some CPUs; what came of it is written back where the mask was.
///
/// # Errors
/// `EINVAL` for unknown flags or a mask without a CPU of this machine, `ESRCH` for a vCPU that there is not,
/// `EOPNOTSUPP` for soft affinity, `EFAULT` for a mask that the guest does not map.
pub fn set<M: Machine>(call: &Call<'_, M>, domain: &Arc<Domain<M>>, request: &VcpuAffinity) -> Result<(), Errno> {
    let vcpu = vcpu_of(domain, request)?;
    if request.flags & abi::VCPUAFFINITY_SOFT != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let mask = read_mask(call, &request.cpumap_hard)?;
    if !sched::set_affinity(call.hv, &vcpu, mask) {
        return Err(Errno::EINVAL);
    }
    tell(call, &vcpu, request.cpumap_hard)
}

/// Reads a mask of CPUs out of the caller's memory; what is beyond it, or beyond any CPU, is not in it.
///
/// # Errors
/// `EFAULT` for a mask that the guest does not map.
pub(crate) fn read_mask<M: Machine>(call: &Call<'_, M>, map: &CtlBitmap) -> Result<[u64; MAX_CPUS / 64], Errno> {
    let mut bytes: Bytes = [0; _];
    let bits = map.nr_bits.min(MAX_CPUS as u32) as usize;
    let length = bits.div_ceil(8);
    call.read_guest_bytes(map.bitmap.address(), &mut bytes[..length])?;
    if !bits.is_multiple_of(8) {
        bytes[length - 1] &= (1 << (bits % 8)) - 1;
    }
    let (words, _) = bytes.as_chunks::<8>();
    let mut mask = [0; MAX_CPUS / 64];
    mask.iter_mut().zip(words).for_each(|(word, bytes)| *word = u64::from_le_bytes(*bytes));
    Ok(mask)
}

/// Says where a vCPU may run.
///
/// # Errors
/// As of [`set`].
pub fn get<M: Machine>(call: &Call<'_, M>, domain: &Arc<Domain<M>>, request: &VcpuAffinity) -> Result<(), Errno> {
    let vcpu = vcpu_of(domain, request)?;
    for (flag, map) in [(abi::VCPUAFFINITY_HARD, request.cpumap_hard), (abi::VCPUAFFINITY_SOFT, request.cpumap_soft)] {
        if request.flags & flag != 0 {
            tell(call, &vcpu, map)?;
        }
    }
    Ok(())
}

/// Writes the vCPU's mask, of this machine's CPUs, as far as there is room.
fn tell<M: Machine>(call: &Call<'_, M>, vcpu: &VcpuRef<M>, map: CtlBitmap) -> Result<(), Errno> {
    let mut bytes: Bytes = [0; _];
    for cpu in call.hv.cpus.iter().filter(|cpu| vcpu.sched.may_run_on(cpu.id)) {
        if let Some(byte) = bytes.get_mut(cpu.id.index() / 8) {
            *byte |= 1 << (cpu.id.index() % 8);
        }
    }
    let length = (map.nr_bits.div_ceil(8) as usize).min(bytes.len());
    call.write_guest_bytes(map.bitmap.address(), &bytes[..length])
}
