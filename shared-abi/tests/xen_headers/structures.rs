//! Rows of the comparison with Xen's headers: structures. Each names the Rust type, the C type, and the fields; a field
//! that C spells differently says how.

use crate::structures;

structures! {
    /// Structures as a 64-bit guest lays them out.
    long:
    arch_x86::ArchDomainConfig = "struct xen_arch_domainconfig" {
        emulation_flags, misc_flags,
    }
    arch_x86::CpuidLeaf = "struct xen_cpuid_leaf" {
        leaf, subleaf, a, b, c, d,
    }
    arch_x86::MsrEntry = "struct xen_msr_entry" {
        idx, flags, val,
    }
    callback::CallbackRegister = "struct callback_register" {
        type_ = "type", flags, address,
    }
    callback::CallbackUnregister = "struct callback_unregister" {
        type_ = "type",
    }
    domctl::Domctl = "struct xen_domctl" {
        cmd, interface_version, domain, u,
    }
    domctl::CreateDomain = "struct xen_domctl_createdomain" {
        ssidref, handle, flags, iommu_opts, max_vcpus, max_evtchn_port, max_grant_frames,
        max_maptrack_frames, grant_opts, vmtrace_size, cpupool_id, arch,
    }
    domctl::GetDomainInfo = "struct xen_domctl_getdomaininfo" {
        domain, flags, tot_pages, max_pages, outstanding_pages, shr_pages, paged_pages,
        shared_info_frame, cpu_time, nr_online_vcpus, max_vcpu_id, ssidref, handle, cpupool,
        gpaddr_bits, arch_config,
    }
    domctl::MaxMem = "struct xen_domctl_max_mem" {
        max_memkb,
    }
    domctl::VcpuContext = "struct xen_domctl_vcpucontext" {
        vcpu, ctxt,
    }
    domctl::GetVcpuInfo = "struct xen_domctl_getvcpuinfo" {
        vcpu, online, blocked, running, cpu_time, cpu,
    }
    domctl::VcpuAffinity = "struct xen_domctl_vcpuaffinity" {
        vcpu, flags, cpumap_hard, cpumap_soft,
    }
    domctl::MaxVcpus = "struct xen_domctl_max_vcpus" {
        max,
    }
    domctl::SchedCredit = "struct xen_domctl_sched_credit" {
        weight, cap,
    }
    domctl::SchedulerOp = "struct xen_domctl_scheduler_op" {
        sched_id, cmd, u,
    }
    domctl::SetDomainHandle = "struct xen_domctl_setdomainhandle" {
        handle,
    }
    domctl::HypercallInit = "struct xen_domctl_hypercall_init" {
        gmfn,
    }
    domctl::SetTimeOffset = "struct xen_domctl_settimeoffset" {
        time_offset_seconds,
    }
    domctl::AddressSize = "struct xen_domctl_address_size" {
        size,
    }
    domctl::CpuPolicy = "struct xen_domctl_cpu_policy" {
        nr_leaves, nr_msrs, leaves, msrs, err_leaf, err_subleaf, err_msr,
    }
    domctl::PagingMempool = "struct xen_domctl_paging_mempool" {
        size,
    }
    event_channel::FifoControlBlock = "struct evtchn_fifo_control_block" {
        ready, head,
    }
    event_channel::AllocUnbound = "struct evtchn_alloc_unbound" {
        dom, remote_dom, port,
    }
    event_channel::BindInterdomain = "struct evtchn_bind_interdomain" {
        remote_dom, remote_port, local_port,
    }
    event_channel::BindVirq = "struct evtchn_bind_virq" {
        virq, vcpu, port,
    }
    event_channel::BindPirq = "struct evtchn_bind_pirq" {
        pirq, flags, port,
    }
    event_channel::BindIpi = "struct evtchn_bind_ipi" {
        vcpu, port,
    }
    event_channel::Close = "struct evtchn_close" {
        port,
    }
    event_channel::Send = "struct evtchn_send" {
        port,
    }
    event_channel::Status = "struct evtchn_status" {
        dom, port, status, vcpu, u,
    }
    event_channel::BindVcpu = "struct evtchn_bind_vcpu" {
        port, vcpu,
    }
    event_channel::Unmask = "struct evtchn_unmask" {
        port,
    }
    event_channel::Reset = "struct evtchn_reset" {
        dom,
    }
    event_channel::InitControl = "struct evtchn_init_control" {
        control_gfn, offset, vcpu, link_bits,
    }
    event_channel::ExpandArray = "struct evtchn_expand_array" {
        array_gfn,
    }
    event_channel::SetPriority = "struct evtchn_set_priority" {
        port, priority,
    }
    grant_table::GrantRef = "grant_ref_t" {}
    grant_table::GrantHandle = "grant_handle_t" {}
    grant_table::GrantEntryV1 = "struct grant_entry_v1" {
        flags, domid, frame,
    }
    grant_table::MapGrantRef = "struct gnttab_map_grant_ref" {
        host_addr, flags, ref_ = "ref", dom, status, handle, dev_bus_addr,
    }
    grant_table::UnmapGrantRef = "struct gnttab_unmap_grant_ref" {
        host_addr, dev_bus_addr, handle, status,
    }
    grant_table::SetupTable = "struct gnttab_setup_table" {
        dom, nr_frames, status, frame_list,
    }
    grant_table::GrantCopyPtr = "struct gnttab_copy_ptr" {
        u, domid, offset,
    }
    grant_table::GrantCopy = "struct gnttab_copy" {
        source, dest, len, flags, status,
    }
    grant_table::QuerySize = "struct gnttab_query_size" {
        dom, nr_frames, max_nr_frames, status,
    }
    grant_table::UnmapAndReplace = "struct gnttab_unmap_and_replace" {
        host_addr, new_addr, handle, status,
    }
    grant_table::SetVersion = "struct gnttab_set_version" {
        version,
    }
    grant_table::GetVersion = "struct gnttab_get_version" {
        dom, version,
    }
    grant_table::SwapGrantRef = "struct gnttab_swap_grant_ref" {
        ref_a, ref_b, status,
    }
    grant_table::CacheFlush = "struct gnttab_cache_flush" {
        a, offset, length, op,
    }
    hvm::hvm_vcpu::X86_32 = "struct vcpu_hvm_x86_32" {
        eax, ecx, edx, ebx, esp, ebp, esi, edi, eip, eflags, cr0, cr3, cr4, efer, cs_base,
        ds_base, ss_base, es_base, tr_base, cs_limit, ds_limit, ss_limit, es_limit, tr_limit,
        cs_ar, ds_ar, ss_ar, es_ar, tr_ar,
    }
    hvm::hvm_vcpu::X86_64 = "struct vcpu_hvm_x86_64" {
        rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, rip, rflags, cr0, cr3, cr4, efer,
    }
    hvm::hvm_vcpu::HvmContext = "struct vcpu_hvm_context" {
        mode, cpu_regs,
    }
    hvm::Param = "struct xen_hvm_param" {
        domid, index, value,
    }
    hvm::PagetableDying = "struct xen_hvm_pagetable_dying" {
        domid, gpa,
    }
    hvm::GetTime = "struct xen_hvm_get_time" {
        now,
    }
    hvm::Xentrace = "struct xen_hvm_xentrace" {
        event, extra_bytes, extra,
    }
    hvm::GetMemType = "struct xen_hvm_get_mem_type" {
        domid, mem_type, pfn,
    }
    hvm::EvtchnUpcallVector = "struct xen_hvm_evtchn_upcall_vector" {
        vcpu, vector,
    }
    hvm::start_info::StartInfo = "struct hvm_start_info" {
        magic, version, flags, nr_modules, modlist_paddr, cmdline_paddr, rsdp_paddr, memmap_paddr,
        memmap_entries, reserved,
    }
    hvm::start_info::ModlistEntry = "struct hvm_modlist_entry" {
        size, cmdline_paddr, reserved,
    }
    hvm::start_info::MemmapTableEntry = "struct hvm_memmap_table_entry" {
        addr, size, type_ = "type", reserved,
    }
    io::console::ConsoleInterface = "struct xencons_interface" {
        in_ = "in", out, in_cons, in_prod, out_cons, out_prod,
    }
    io::xs_wire::Header = "struct xsd_sockmsg" {
        type_ = "type", req_id, tx_id, len,
    }
    io::xs_wire::DomainInterface = "struct xenstore_domain_interface" {
        req, rsp, req_cons, req_prod, rsp_cons, rsp_prod, server_features, connection, error,
    }
    memory::MemoryReservation = "struct xen_memory_reservation" {
        extent_start, nr_extents, extent_order, mem_flags, domid,
    }
    memory::MemoryExchange = "struct xen_memory_exchange" {
        in_ = "in", out, nr_exchanged,
    }
    memory::MemoryDomain = "struct xen_memory_domain" {
        domid,
    }
    memory::AddToPhysmap = "struct xen_add_to_physmap" {
        domid, size, space, idx, gpfn,
    }
    memory::AddToPhysmapBatch = "struct xen_add_to_physmap_batch" {
        domid, space, size, foreign_domid = "u.foreign_domid", idxs, gpfns, errs,
    }
    memory::RemoveFromPhysmap = "struct xen_remove_from_physmap" {
        domid, gpfn,
    }
    memory::MemoryMap = "struct xen_memory_map" {
        nr_entries, buffer,
    }
    memory::ForeignMemoryMap = "struct xen_foreign_memory_map" {
        domid, map,
    }
    memory::MemAcquireResource = "struct xen_mem_acquire_resource" {
        domid, type_ = "type", id, nr_frames, frame, frame_list,
    }
    memory::PodTarget = "struct xen_pod_target" {
        target_pages, tot_pages, pod_cache_pages, pod_entries, domid,
    }
    sched::Shutdown = "struct sched_shutdown" {
        reason,
    }
    sched::Poll = "struct sched_poll" {
        ports, nr_ports, timeout,
    }
    sched::RemoteShutdown = "struct sched_remote_shutdown" {
        domain_id, reason,
    }
    sched::Watchdog = "struct sched_watchdog" {
        id, timeout,
    }
    sched::PinOverride = "struct sched_pin_override" {
        pcpu,
    }
    sysctl::Sysctl = "struct xen_sysctl" {
        cmd, interface_version, u,
    }
    sysctl::ReadConsole = "struct xen_sysctl_readconsole" {
        clear, incremental, index, buffer, count,
    }
    sysctl::TbufOp = "struct xen_sysctl_tbuf_op" {
        cmd, cpu_mask, evt_mask, buffer_mfn, size,
    }
    sysctl::PhysInfo = "struct xen_sysctl_physinfo" {
        threads_per_core, cores_per_socket, nr_cpus, max_cpu_id, nr_nodes, max_node_id, cpu_khz,
        capabilities, arch_capabilities, total_pages, free_pages, scrub_pages, outstanding_pages,
        max_mfn, hw_cap,
    }
    sysctl::SchedId = "struct xen_sysctl_sched_id" {
        sched_id,
    }
    sysctl::GetDomainInfoList = "struct xen_sysctl_getdomaininfolist" {
        first_domain, max_domains, buffer, num_domains,
    }
    sysctl::DebugKeys = "struct xen_sysctl_debug_keys" {
        keys, nr_keys,
    }
    sysctl::CpuInfo = "struct xen_sysctl_cpuinfo" {
        idletime,
    }
    sysctl::GetCpuInfo = "struct xen_sysctl_getcpuinfo" {
        max_cpus, info, nr_cpus,
    }
    sysctl::AvailHeap = "struct xen_sysctl_availheap" {
        min_bitwidth, max_bitwidth, node, avail_bytes,
    }
    sysctl::CpuTopo = "struct xen_sysctl_cputopo" {
        core, socket, node,
    }
    sysctl::CpuTopoInfo = "struct xen_sysctl_cputopoinfo" {
        num_cpus, cputopo,
    }
    sysctl::CreditSchedule = "struct xen_sysctl_credit_schedule" {
        tslice_ms, ratelimit_us, vcpu_migr_delay_us,
    }
    sysctl::SchedulerOp = "struct xen_sysctl_scheduler_op" {
        cpupool_id, sched_id, cmd, sched_credit = "u.sched_credit",
    }
    tmem::TmemOid = "struct xen_tmem_oid" {
        oid,
    }
    tmem::TmemOp = "struct tmem_op" {
        cmd, pool_id, oid = "u.gen.oid", index = "u.gen.index", tmem_offset = "u.gen.tmem_offset",
        pfn_offset = "u.gen.pfn_offset", len = "u.gen.len", cmfn = "u.gen.cmfn",
    }
    trace::TraceBuffer = "struct t_buf" {
        cons, prod,
    }
    vcpu::RunstateInfo = "struct vcpu_runstate_info" {
        state, state_entry_time, time,
    }
    vcpu::RegisterRunstateMemoryArea = "struct vcpu_register_runstate_memory_area" {
        addr,
    }
    vcpu::RegisterTimeMemoryArea = "struct vcpu_register_time_memory_area" {
        addr,
    }
    vcpu::SetPeriodicTimer = "struct vcpu_set_periodic_timer" {
        period_ns,
    }
    vcpu::SetSingleshotTimer = "struct vcpu_set_singleshot_timer" {
        timeout_abs_ns, flags,
    }
    vcpu::RegisterVcpuInfo = "struct vcpu_register_vcpu_info" {
        mfn, offset, rsvd,
    }
    vcpu::GetPhysid = "struct vcpu_get_physid" {
        phys_id,
    }
    version::ExtraVersion = "xen_extraversion_t" {}
    version::CapabilitiesInfo = "xen_capabilities_info_t" {}
    version::ChangesetInfo = "xen_changeset_info_t" {}
    version::CommandLine = "xen_commandline_t" {}
    version::CompileInfo = "struct xen_compile_info" {
        compiler, compile_by, compile_domain, compile_date,
    }
    version::PlatformParameters = "struct xen_platform_parameters" {
        virt_start,
    }
    version::FeatureInfo = "struct xen_feature_info" {
        submap_idx, submap,
    }
    version::BuildId = "struct xen_build_id" {
        len,
    }
    xen::MulticallEntry = "struct multicall_entry" {
        op, result, args,
    }
    xen::DomainHandle = "xen_domain_handle_t" {}
    xen::CtlBitmap = "struct xenctl_bitmap" {
        bitmap, nr_bits,
    }
    xen::shared_info::VcpuTimeInfo = "struct vcpu_time_info" {
        version, tsc_timestamp, system_time, tsc_to_system_mul, tsc_shift, flags,
    }
    xen::shared_info::ArchVcpuInfo = "struct arch_vcpu_info" {
        cr2,
    }
    xen::shared_info::VcpuInfo = "struct vcpu_info" {
        evtchn_upcall_pending, evtchn_upcall_mask, evtchn_pending_sel, arch, time,
    }
    xen::shared_info::ArchSharedInfo = "struct arch_shared_info" {
        max_pfn, pfn_to_mfn_frame_list_list, nmi_reason, p2m_cr3, p2m_vaddr, p2m_generation,
    }
    xen::shared_info::SharedInfo = "struct shared_info" {
        vcpu_info, evtchn_pending, evtchn_mask, wc_version, wc_sec, wc_nsec, wc_sec_hi, arch,
    }
}

structures! {
    /// Structures as a 32-bit guest lays them out.
    compat:
    xen::compat::ArchVcpuInfo32 = "struct arch_vcpu_info" {
        cr2,
    }
    xen::compat::VcpuInfo32 = "struct vcpu_info" {
        evtchn_upcall_pending, evtchn_upcall_mask, evtchn_pending_sel, arch, time,
    }
    xen::compat::ArchSharedInfo32 = "struct arch_shared_info" {
        max_pfn, pfn_to_mfn_frame_list_list, nmi_reason, p2m_cr3, p2m_vaddr, p2m_generation,
        wc_sec_hi,
    }
    xen::compat::SharedInfo32 = "struct shared_info" {
        vcpu_info, evtchn_pending, evtchn_mask, wc_version, wc_sec, wc_nsec, arch,
    }
    xen::compat::RunstateInfo32 = "struct vcpu_runstate_info" {
        state, state_entry_time, time,
    }
    xen::compat::SetSingleshotTimer32 = "struct vcpu_set_singleshot_timer" {
        timeout_abs_ns, flags,
    }
    xen::compat::Poll32 = "struct sched_poll" {
        ports, nr_ports, timeout,
    }
    xen::compat::MulticallEntry32 = "struct multicall_entry" {
        op, result, args,
    }
    xen::compat::MemoryReservation32 = "struct xen_memory_reservation" {
        extent_start, nr_extents, extent_order, mem_flags, domid,
    }
    xen::compat::MemoryExchange32 = "struct xen_memory_exchange" {
        in_ = "in", out, nr_exchanged,
    }
    xen::compat::AddToPhysmap32 = "struct xen_add_to_physmap" {
        domid, size, space, idx, gpfn,
    }
    xen::compat::AddToPhysmapBatch32 = "struct xen_add_to_physmap_batch" {
        domid, space, size, foreign_domid = "u.foreign_domid", idxs, gpfns, errs,
    }
    xen::compat::RemoveFromPhysmap32 = "struct xen_remove_from_physmap" {
        domid, gpfn,
    }
    xen::compat::MemoryMap32 = "struct xen_memory_map" {
        nr_entries, buffer,
    }
    xen::compat::ForeignMemoryMap32 = "struct xen_foreign_memory_map" {
        domid, map,
    }
    xen::compat::PodTarget32 = "struct xen_pod_target" {
        target_pages, tot_pages, pod_cache_pages, pod_entries, domid,
    }
    xen::compat::PlatformParameters32 = "struct xen_platform_parameters" {
        virt_start,
    }
    xen::compat::MemAcquireResource32 = "struct xen_mem_acquire_resource" {
        domid, type_ = "type", id, nr_frames, frame, frame_list,
    }
    xen::compat::SetupTable32 = "struct gnttab_setup_table" {
        dom, nr_frames, status, frame_list,
    }
    xen::compat::GrantCopyPtr32 = "struct gnttab_copy_ptr" {
        u, domid, offset,
    }
    xen::compat::GrantCopy32 = "struct gnttab_copy" {
        source, dest, len, flags, status,
    }
    xen::compat::TmemOp32 = "struct tmem_op" {
        cmd, pool_id, oid = "u.gen.oid", index = "u.gen.index", tmem_offset = "u.gen.tmem_offset",
        pfn_offset = "u.gen.pfn_offset", len = "u.gen.len", cmfn = "u.gen.cmfn",
    }
}
