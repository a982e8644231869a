//! Rows of the comparison with Xen's headers: constants. Each names the Rust item and its C spelling once.

use crate::constants;

constants! {
    /// Constants of the current interface.
    current:
    arch_x86 {
        MSR_RELAXED = "XEN_X86_MSR_RELAXED",
    }
    arch_x86::CpuidLeaf {
        NO_SUBLEAF = "XEN_CPUID_NO_SUBLEAF",
    }
    arch_x86::EmulationFlags {
        LAPIC = "XEN_X86_EMU_LAPIC", HPET = "XEN_X86_EMU_HPET", PM = "XEN_X86_EMU_PM",
        RTC = "XEN_X86_EMU_RTC", IOAPIC = "XEN_X86_EMU_IOAPIC", PIC = "XEN_X86_EMU_PIC",
        VGA = "XEN_X86_EMU_VGA", IOMMU = "XEN_X86_EMU_IOMMU", PIT = "XEN_X86_EMU_PIT",
        USE_PIRQ = "XEN_X86_EMU_USE_PIRQ", VPCI = "XEN_X86_EMU_VPCI",
    }
    arch_x86::cpuid {
        FIRST_LEAF = "XEN_CPUID_FIRST_LEAF", MAX_NUM_LEAVES = "XEN_CPUID_MAX_NUM_LEAVES",
        SIGNATURE_EBX = "XEN_CPUID_SIGNATURE_EBX", SIGNATURE_ECX = "XEN_CPUID_SIGNATURE_ECX",
        SIGNATURE_EDX = "XEN_CPUID_SIGNATURE_EDX",
        FEAT1_MMU_PT_UPDATE_PRESERVE_AD = "XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD",
    }
    arch_x86::cpuid::HvmFeatures {
        APIC_ACCESS_VIRT = "XEN_HVM_CPUID_APIC_ACCESS_VIRT", X2APIC_VIRT = "XEN_HVM_CPUID_X2APIC_VIRT",
        IOMMU_MAPPINGS = "XEN_HVM_CPUID_IOMMU_MAPPINGS", VCPU_ID_PRESENT = "XEN_HVM_CPUID_VCPU_ID_PRESENT",
        DOMID_PRESENT = "XEN_HVM_CPUID_DOMID_PRESENT", EXT_DEST_ID = "XEN_HVM_CPUID_EXT_DEST_ID",
        UPCALL_VECTOR = "XEN_HVM_CPUID_UPCALL_VECTOR",
    }
    callback {
        REGISTER = "CALLBACKOP_register", UNREGISTER = "CALLBACKOP_unregister",
        TYPE_EVENT = "CALLBACKTYPE_event", TYPE_FAILSAFE = "CALLBACKTYPE_failsafe",
        TYPE_SYSCALL = "CALLBACKTYPE_syscall", TYPE_NMI = "CALLBACKTYPE_nmi",
        TYPE_SYSENTER = "CALLBACKTYPE_sysenter", TYPE_SYSCALL32 = "CALLBACKTYPE_syscall32",
        FLAG_MASK_EVENTS = "CALLBACKF_mask_events",
    }
    domctl {
        INTERFACE_VERSION = "XEN_DOMCTL_INTERFACE_VERSION", CREATEDOMAIN = "XEN_DOMCTL_createdomain",
        DESTROYDOMAIN = "XEN_DOMCTL_destroydomain", PAUSEDOMAIN = "XEN_DOMCTL_pausedomain",
        UNPAUSEDOMAIN = "XEN_DOMCTL_unpausedomain", GETDOMAININFO = "XEN_DOMCTL_getdomaininfo",
        SETVCPUAFFINITY = "XEN_DOMCTL_setvcpuaffinity", SHADOW_OP = "XEN_DOMCTL_shadow_op",
        MAX_MEM = "XEN_DOMCTL_max_mem", SETVCPUCONTEXT = "XEN_DOMCTL_setvcpucontext",
        GETVCPUCONTEXT = "XEN_DOMCTL_getvcpucontext", GETVCPUINFO = "XEN_DOMCTL_getvcpuinfo",
        MAX_VCPUS = "XEN_DOMCTL_max_vcpus", SCHEDULER_OP = "XEN_DOMCTL_scheduler_op",
        SETDOMAINHANDLE = "XEN_DOMCTL_setdomainhandle", HYPERCALL_INIT = "XEN_DOMCTL_hypercall_init",
        SETTIMEOFFSET = "XEN_DOMCTL_settimeoffset", GETVCPUAFFINITY = "XEN_DOMCTL_getvcpuaffinity",
        RESUMEDOMAIN = "XEN_DOMCTL_resumedomain", SENDTRIGGER = "XEN_DOMCTL_sendtrigger",
        GETHVMCONTEXT = "XEN_DOMCTL_gethvmcontext", SETHVMCONTEXT = "XEN_DOMCTL_sethvmcontext",
        SET_ADDRESS_SIZE = "XEN_DOMCTL_set_address_size", GET_ADDRESS_SIZE = "XEN_DOMCTL_get_address_size",
        SET_TARGET = "XEN_DOMCTL_set_target", GETTSCINFO = "XEN_DOMCTL_gettscinfo",
        SETTSCINFO = "XEN_DOMCTL_settscinfo", GETPAGEFRAMEINFO3 = "XEN_DOMCTL_getpageframeinfo3",
        SET_VIRQ_HANDLER = "XEN_DOMCTL_set_virq_handler", GET_CPU_POLICY = "XEN_DOMCTL_get_cpu_policy",
        SET_CPU_POLICY = "XEN_DOMCTL_set_cpu_policy",
        GET_PAGING_MEMPOOL_SIZE = "XEN_DOMCTL_get_paging_mempool_size",
        SET_PAGING_MEMPOOL_SIZE = "XEN_DOMCTL_set_paging_mempool_size",
        INFO_SHUTDOWN_MASK = "XEN_DOMINF_shutdownmask", INFO_SHUTDOWN_SHIFT = "XEN_DOMINF_shutdownshift",
        INVALID_MAX_VCPU_ID = "XEN_INVALID_MAX_VCPU_ID", VCPUAFFINITY_HARD = "XEN_VCPUAFFINITY_HARD",
        VCPUAFFINITY_SOFT = "XEN_VCPUAFFINITY_SOFT", VCPUAFFINITY_FORCE = "XEN_VCPUAFFINITY_FORCE",
        SCHEDULER_CREDIT = "XEN_SCHEDULER_CREDIT", SCHEDULER_CREDIT2 = "XEN_SCHEDULER_CREDIT2",
        SCHEDULER_ARINC653 = "XEN_SCHEDULER_ARINC653", SCHEDULER_RTDS = "XEN_SCHEDULER_RTDS",
        SCHEDULER_NULL = "XEN_SCHEDULER_NULL", SCHEDOP_PUTINFO = "XEN_DOMCTL_SCHEDOP_putinfo",
        SCHEDOP_GETINFO = "XEN_DOMCTL_SCHEDOP_getinfo",
        SCHEDOP_PUTVCPUINFO = "XEN_DOMCTL_SCHEDOP_putvcpuinfo",
        SCHEDOP_GETVCPUINFO = "XEN_DOMCTL_SCHEDOP_getvcpuinfo",
    }
    domctl::CreateFlags {
        HVM = "XEN_DOMCTL_CDF_hvm", HAP = "XEN_DOMCTL_CDF_hap", S3_INTEGRITY = "XEN_DOMCTL_CDF_s3_integrity",
        OOS_OFF = "XEN_DOMCTL_CDF_oos_off", XS_DOMAIN = "XEN_DOMCTL_CDF_xs_domain",
        IOMMU = "XEN_DOMCTL_CDF_iommu", NESTED_VIRT = "XEN_DOMCTL_CDF_nested_virt",
        VPMU = "XEN_DOMCTL_CDF_vpmu",
    }
    domctl::InfoFlags {
        DYING = "XEN_DOMINF_dying", HVM_GUEST = "XEN_DOMINF_hvm_guest", SHUTDOWN = "XEN_DOMINF_shutdown",
        PAUSED = "XEN_DOMINF_paused", BLOCKED = "XEN_DOMINF_blocked", RUNNING = "XEN_DOMINF_running",
        DEBUGGED = "XEN_DOMINF_debugged", XS_DOMAIN = "XEN_DOMINF_xs_domain", HAP = "XEN_DOMINF_hap",
    }
    elfnote {
        INFO = "XEN_ELFNOTE_INFO", ENTRY = "XEN_ELFNOTE_ENTRY", HYPERCALL_PAGE = "XEN_ELFNOTE_HYPERCALL_PAGE",
        VIRT_BASE = "XEN_ELFNOTE_VIRT_BASE", PADDR_OFFSET = "XEN_ELFNOTE_PADDR_OFFSET",
        XEN_VERSION = "XEN_ELFNOTE_XEN_VERSION", GUEST_OS = "XEN_ELFNOTE_GUEST_OS",
        GUEST_VERSION = "XEN_ELFNOTE_GUEST_VERSION", LOADER = "XEN_ELFNOTE_LOADER",
        PAE_MODE = "XEN_ELFNOTE_PAE_MODE", FEATURES = "XEN_ELFNOTE_FEATURES",
        BSD_SYMTAB = "XEN_ELFNOTE_BSD_SYMTAB", HV_START_LOW = "XEN_ELFNOTE_HV_START_LOW",
        L1_MFN_VALID = "XEN_ELFNOTE_L1_MFN_VALID", SUSPEND_CANCEL = "XEN_ELFNOTE_SUSPEND_CANCEL",
        INIT_P2M = "XEN_ELFNOTE_INIT_P2M", MOD_START_PFN = "XEN_ELFNOTE_MOD_START_PFN",
        SUPPORTED_FEATURES = "XEN_ELFNOTE_SUPPORTED_FEATURES", PHYS32_ENTRY = "XEN_ELFNOTE_PHYS32_ENTRY",
        MAX = "XEN_ELFNOTE_MAX", CRASH_INFO = "XEN_ELFNOTE_CRASH_INFO", CRASH_REGS = "XEN_ELFNOTE_CRASH_REGS",
        DUMPCORE_NONE = "XEN_ELFNOTE_DUMPCORE_NONE", DUMPCORE_HEADER = "XEN_ELFNOTE_DUMPCORE_HEADER",
        DUMPCORE_XEN_VERSION = "XEN_ELFNOTE_DUMPCORE_XEN_VERSION",
        DUMPCORE_FORMAT_VERSION = "XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION",
    }
    event_channel {
        BIND_INTERDOMAIN = "EVTCHNOP_bind_interdomain", BIND_VIRQ = "EVTCHNOP_bind_virq",
        BIND_PIRQ = "EVTCHNOP_bind_pirq", CLOSE = "EVTCHNOP_close", SEND = "EVTCHNOP_send",
        STATUS = "EVTCHNOP_status", ALLOC_UNBOUND = "EVTCHNOP_alloc_unbound", BIND_IPI = "EVTCHNOP_bind_ipi",
        BIND_VCPU = "EVTCHNOP_bind_vcpu", UNMASK = "EVTCHNOP_unmask", RESET = "EVTCHNOP_reset",
        INIT_CONTROL = "EVTCHNOP_init_control", EXPAND_ARRAY = "EVTCHNOP_expand_array",
        SET_PRIORITY = "EVTCHNOP_set_priority", TWO_LEVEL_NR_CHANNELS = "EVTCHN_2L_NR_CHANNELS",
        FIFO_PRIORITY_MAX = "EVTCHN_FIFO_PRIORITY_MAX",
        FIFO_PRIORITY_DEFAULT = "EVTCHN_FIFO_PRIORITY_DEFAULT",
        FIFO_PRIORITY_MIN = "EVTCHN_FIFO_PRIORITY_MIN", FIFO_MAX_QUEUES = "EVTCHN_FIFO_MAX_QUEUES",
        FIFO_PENDING = "EVTCHN_FIFO_PENDING", FIFO_MASKED = "EVTCHN_FIFO_MASKED",
        FIFO_LINKED = "EVTCHN_FIFO_LINKED", FIFO_BUSY = "EVTCHN_FIFO_BUSY",
        FIFO_LINK_BITS = "EVTCHN_FIFO_LINK_BITS", FIFO_LINK_MASK = "EVTCHN_FIFO_LINK_MASK",
        FIFO_NR_CHANNELS = "EVTCHN_FIFO_NR_CHANNELS", BIND_PIRQ_WILL_SHARE = "BIND_PIRQ__WILL_SHARE",
        STATUS_CLOSED = "EVTCHNSTAT_closed", STATUS_UNBOUND = "EVTCHNSTAT_unbound",
        STATUS_INTERDOMAIN = "EVTCHNSTAT_interdomain", STATUS_PIRQ = "EVTCHNSTAT_pirq",
        STATUS_VIRQ = "EVTCHNSTAT_virq", STATUS_IPI = "EVTCHNSTAT_ipi",
    }
    features {
        NR_SUBMAPS = "XENFEAT_NR_SUBMAPS",
    }
    features::Features {
        WRITABLE_PAGE_TABLES = "1u << XENFEAT_writable_page_tables",
        WRITABLE_DESCRIPTOR_TABLES = "1u << XENFEAT_writable_descriptor_tables",
        AUTO_TRANSLATED_PHYSMAP = "1u << XENFEAT_auto_translated_physmap",
        SUPERVISOR_MODE_KERNEL = "1u << XENFEAT_supervisor_mode_kernel",
        PAE_PGDIR_ABOVE_4GB = "1u << XENFEAT_pae_pgdir_above_4gb",
        MMU_PT_UPDATE_PRESERVE_AD = "1u << XENFEAT_mmu_pt_update_preserve_ad",
        HIGHMEM_ASSIST = "1u << XENFEAT_highmem_assist",
        GNTTAB_MAP_AVAIL_BITS = "1u << XENFEAT_gnttab_map_avail_bits",
        HVM_CALLBACK_VECTOR = "1u << XENFEAT_hvm_callback_vector",
        HVM_SAFE_PVCLOCK = "1u << XENFEAT_hvm_safe_pvclock", HVM_PIRQS = "1u << XENFEAT_hvm_pirqs",
        DOM0 = "1u << XENFEAT_dom0", MEMORY_OP_VNODE_SUPPORTED = "1u << XENFEAT_memory_op_vnode_supported",
        ARM_SMCCC_SUPPORTED = "1u << XENFEAT_ARM_SMCCC_supported",
        LINUX_RSDP_UNRESTRICTED = "1u << XENFEAT_linux_rsdp_unrestricted",
        NOT_DIRECT_MAPPED = "1u << XENFEAT_not_direct_mapped", DIRECT_MAPPED = "1u << XENFEAT_direct_mapped",
    }
    grant_table {
        MAP_GRANT_REF = "GNTTABOP_map_grant_ref", UNMAP_GRANT_REF = "GNTTABOP_unmap_grant_ref",
        SETUP_TABLE = "GNTTABOP_setup_table", DUMP_TABLE = "GNTTABOP_dump_table",
        TRANSFER = "GNTTABOP_transfer", COPY = "GNTTABOP_copy", QUERY_SIZE = "GNTTABOP_query_size",
        UNMAP_AND_REPLACE = "GNTTABOP_unmap_and_replace", SET_VERSION = "GNTTABOP_set_version",
        GET_STATUS_FRAMES = "GNTTABOP_get_status_frames", GET_VERSION = "GNTTABOP_get_version",
        SWAP_GRANT_REF = "GNTTABOP_swap_grant_ref", CACHE_FLUSH = "GNTTABOP_cache_flush",
        NR_RESERVED_ENTRIES = "GNTTAB_NR_RESERVED_ENTRIES", RESERVED_CONSOLE = "GNTTAB_RESERVED_CONSOLE",
        RESERVED_XENSTORE = "GNTTAB_RESERVED_XENSTORE", ENTRY_INVALID = "GTF_invalid",
        ENTRY_PERMIT_ACCESS = "GTF_permit_access", ENTRY_ACCEPT_TRANSFER = "GTF_accept_transfer",
        ENTRY_TRANSITIVE = "GTF_transitive", ENTRY_TYPE_MASK = "GTF_type_mask",
        COPY_SOURCE_GREF = "GNTCOPY_source_gref", COPY_DEST_GREF = "GNTCOPY_dest_gref",
        CACHE_CLEAN = "GNTTAB_CACHE_CLEAN", CACHE_INVAL = "GNTTAB_CACHE_INVAL",
        CACHE_SOURCE_GREF = "GNTTAB_CACHE_SOURCE_GREF",
    }
    grant_table::EntryFlags {
        READONLY = "GTF_readonly", READING = "GTF_reading", WRITING = "GTF_writing", PWT = "GTF_PWT",
        PCD = "GTF_PCD", PAT = "GTF_PAT", SUB_PAGE = "GTF_sub_page",
    }
    grant_table::GrantStatus {
        OKAY = "GNTST_okay", GENERAL_ERROR = "GNTST_general_error", BAD_DOMAIN = "GNTST_bad_domain",
        BAD_GNTREF = "GNTST_bad_gntref", BAD_HANDLE = "GNTST_bad_handle",
        BAD_VIRT_ADDR = "GNTST_bad_virt_addr", BAD_DEV_ADDR = "GNTST_bad_dev_addr",
        NO_DEVICE_SPACE = "GNTST_no_device_space", PERMISSION_DENIED = "GNTST_permission_denied",
        BAD_PAGE = "GNTST_bad_page", BAD_COPY_ARG = "GNTST_bad_copy_arg",
        ADDRESS_TOO_BIG = "GNTST_address_too_big", EAGAIN = "GNTST_eagain", NO_SPACE = "GNTST_no_space",
    }
    grant_table::MapFlags {
        DEVICE_MAP = "GNTMAP_device_map", HOST_MAP = "GNTMAP_host_map", READONLY = "GNTMAP_readonly",
        APPLICATION_MAP = "GNTMAP_application_map", CONTAINS_PTE = "GNTMAP_contains_pte",
    }
    hvm {
        SET_PARAM = "HVMOP_set_param", GET_PARAM = "HVMOP_get_param", FLUSH_TLBS = "HVMOP_flush_tlbs",
        PAGETABLE_DYING = "HVMOP_pagetable_dying", GET_TIME = "HVMOP_get_time", XENTRACE = "HVMOP_xentrace",
        SET_MEM_ACCESS = "HVMOP_set_mem_access", GET_MEM_ACCESS = "HVMOP_get_mem_access",
        GET_MEM_TYPE = "HVMOP_get_mem_type", SET_EVTCHN_UPCALL_VECTOR = "HVMOP_set_evtchn_upcall_vector",
        GUEST_REQUEST_VM_EVENT = "HVMOP_guest_request_vm_event", ALTP2M = "HVMOP_altp2m",
        MEM_RAM_RW = "HVMMEM_ram_rw", MEM_RAM_RO = "HVMMEM_ram_ro", MEM_MMIO_DM = "HVMMEM_mmio_dm",
        MEM_IOREQ_SERVER = "HVMMEM_ioreq_server", TRACE_EXTRA_MAX = "TRACE_EXTRA_MAX",
    }
    hvm::hvm_vcpu {
        MODE_32B = "VCPU_HVM_MODE_32B", MODE_64B = "VCPU_HVM_MODE_64B",
    }
    hvm::params {
        CALLBACK_IRQ = "HVM_PARAM_CALLBACK_IRQ", STORE_PFN = "HVM_PARAM_STORE_PFN",
        STORE_EVTCHN = "HVM_PARAM_STORE_EVTCHN", PAE_ENABLED = "HVM_PARAM_PAE_ENABLED",
        IOREQ_PFN = "HVM_PARAM_IOREQ_PFN", BUFIOREQ_PFN = "HVM_PARAM_BUFIOREQ_PFN",
        VIRIDIAN = "HVM_PARAM_VIRIDIAN", TIMER_MODE = "HVM_PARAM_TIMER_MODE",
        HPET_ENABLED = "HVM_PARAM_HPET_ENABLED", IDENT_PT = "HVM_PARAM_IDENT_PT",
        DM_DOMAIN = "HVM_PARAM_DM_DOMAIN", ACPI_S_STATE = "HVM_PARAM_ACPI_S_STATE",
        VM86_TSS = "HVM_PARAM_VM86_TSS", VPT_ALIGN = "HVM_PARAM_VPT_ALIGN",
        CONSOLE_PFN = "HVM_PARAM_CONSOLE_PFN", CONSOLE_EVTCHN = "HVM_PARAM_CONSOLE_EVTCHN",
        ACPI_IOPORTS_LOCATION = "HVM_PARAM_ACPI_IOPORTS_LOCATION",
        MEMORY_EVENT_CR0 = "HVM_PARAM_MEMORY_EVENT_CR0", MEMORY_EVENT_CR3 = "HVM_PARAM_MEMORY_EVENT_CR3",
        MEMORY_EVENT_CR4 = "HVM_PARAM_MEMORY_EVENT_CR4", MEMORY_EVENT_INT3 = "HVM_PARAM_MEMORY_EVENT_INT3",
        NESTEDHVM = "HVM_PARAM_NESTEDHVM", MEMORY_EVENT_SINGLE_STEP = "HVM_PARAM_MEMORY_EVENT_SINGLE_STEP",
        BUFIOREQ_EVTCHN = "HVM_PARAM_BUFIOREQ_EVTCHN", PAGING_RING_PFN = "HVM_PARAM_PAGING_RING_PFN",
        MONITOR_RING_PFN = "HVM_PARAM_MONITOR_RING_PFN", SHARING_RING_PFN = "HVM_PARAM_SHARING_RING_PFN",
        MEMORY_EVENT_MSR = "HVM_PARAM_MEMORY_EVENT_MSR",
        TRIPLE_FAULT_REASON = "HVM_PARAM_TRIPLE_FAULT_REASON",
        IOREQ_SERVER_PFN = "HVM_PARAM_IOREQ_SERVER_PFN",
        NR_IOREQ_SERVER_PAGES = "HVM_PARAM_NR_IOREQ_SERVER_PAGES",
        VM_GENERATION_ID_ADDR = "HVM_PARAM_VM_GENERATION_ID_ADDR", ALTP2M = "HVM_PARAM_ALTP2M",
        X87_FIP_WIDTH = "HVM_PARAM_X87_FIP_WIDTH", VM86_TSS_SIZED = "HVM_PARAM_VM86_TSS_SIZED",
        MCA_CAP = "HVM_PARAM_MCA_CAP", COUNT = "HVM_NR_PARAMS",
        CALLBACK_TYPE_GSI = "HVM_PARAM_CALLBACK_TYPE_GSI",
        CALLBACK_TYPE_PCI_INTX = "HVM_PARAM_CALLBACK_TYPE_PCI_INTX",
        CALLBACK_TYPE_VECTOR = "HVM_PARAM_CALLBACK_TYPE_VECTOR",
    }
    hvm::start_info {
        MAGIC = "XEN_HVM_START_MAGIC_VALUE", SIF_PRIVILEGED = "SIF_PRIVILEGED",
        SIF_INITDOMAIN = "SIF_INITDOMAIN", MEMMAP_TYPE_RAM = "XEN_HVM_MEMMAP_TYPE_RAM",
        MEMMAP_TYPE_RESERVED = "XEN_HVM_MEMMAP_TYPE_RESERVED", MEMMAP_TYPE_ACPI = "XEN_HVM_MEMMAP_TYPE_ACPI",
        MEMMAP_TYPE_NVS = "XEN_HVM_MEMMAP_TYPE_NVS", MEMMAP_TYPE_UNUSABLE = "XEN_HVM_MEMMAP_TYPE_UNUSABLE",
        MEMMAP_TYPE_DISABLED = "XEN_HVM_MEMMAP_TYPE_DISABLED", MEMMAP_TYPE_PMEM = "XEN_HVM_MEMMAP_TYPE_PMEM",
    }
    io::xs_wire {
        RING_SIZE = "XENSTORE_RING_SIZE", PAYLOAD_MAX = "XENSTORE_PAYLOAD_MAX",
        ABS_PATH_MAX = "XENSTORE_ABS_PATH_MAX", REL_PATH_MAX = "XENSTORE_REL_PATH_MAX",
        SERVER_FEATURE_RECONNECTION = "XENSTORE_SERVER_FEATURE_RECONNECTION",
        SERVER_FEATURE_ERROR = "XENSTORE_SERVER_FEATURE_ERROR", CONNECTED = "XENSTORE_CONNECTED",
        RECONNECT = "XENSTORE_RECONNECT", ERROR_NONE = "XENSTORE_ERROR_NONE",
        ERROR_COMM = "XENSTORE_ERROR_COMM", ERROR_RINGIDX = "XENSTORE_ERROR_RINGIDX",
        ERROR_PROTO = "XENSTORE_ERROR_PROTO",
    }
    io::xs_wire::MessageType {
        CONTROL = "XS_CONTROL", DIRECTORY = "XS_DIRECTORY", READ = "XS_READ", GET_PERMS = "XS_GET_PERMS",
        WATCH = "XS_WATCH", UNWATCH = "XS_UNWATCH", TRANSACTION_START = "XS_TRANSACTION_START",
        TRANSACTION_END = "XS_TRANSACTION_END", INTRODUCE = "XS_INTRODUCE", RELEASE = "XS_RELEASE",
        GET_DOMAIN_PATH = "XS_GET_DOMAIN_PATH", WRITE = "XS_WRITE", MKDIR = "XS_MKDIR", RM = "XS_RM",
        SET_PERMS = "XS_SET_PERMS", WATCH_EVENT = "XS_WATCH_EVENT", ERROR = "XS_ERROR",
        IS_DOMAIN_INTRODUCED = "XS_IS_DOMAIN_INTRODUCED", RESUME = "XS_RESUME", SET_TARGET = "XS_SET_TARGET",
        RESET_WATCHES = "XS_RESET_WATCHES", DIRECTORY_PART = "XS_DIRECTORY_PART", COUNT = "XS_TYPE_COUNT",
        INVALID = "XS_INVALID",
    }
    memory {
        INCREASE_RESERVATION = "XENMEM_increase_reservation",
        DECREASE_RESERVATION = "XENMEM_decrease_reservation", MAXIMUM_RAM_PAGE = "XENMEM_maximum_ram_page",
        CURRENT_RESERVATION = "XENMEM_current_reservation",
        MAXIMUM_RESERVATION = "XENMEM_maximum_reservation", MACHPHYS_MFN_LIST = "XENMEM_machphys_mfn_list",
        POPULATE_PHYSMAP = "XENMEM_populate_physmap", ADD_TO_PHYSMAP = "XENMEM_add_to_physmap",
        MEMORY_MAP = "XENMEM_memory_map", MACHINE_MEMORY_MAP = "XENMEM_machine_memory_map",
        EXCHANGE = "XENMEM_exchange", MACHPHYS_MAPPING = "XENMEM_machphys_mapping",
        SET_MEMORY_MAP = "XENMEM_set_memory_map", MAXIMUM_GPFN = "XENMEM_maximum_gpfn",
        REMOVE_FROM_PHYSMAP = "XENMEM_remove_from_physmap", SET_POD_TARGET = "XENMEM_set_pod_target",
        GET_POD_TARGET = "XENMEM_get_pod_target", GET_SHARING_FREED_PAGES = "XENMEM_get_sharing_freed_pages",
        GET_SHARING_SHARED_PAGES = "XENMEM_get_sharing_shared_pages", PAGING_OP = "XENMEM_paging_op",
        ACCESS_OP = "XENMEM_access_op", SHARING_OP = "XENMEM_sharing_op",
        ADD_TO_PHYSMAP_BATCH = "XENMEM_add_to_physmap_batch", CLAIM_PAGES = "XENMEM_claim_pages",
        MACHPHYS_COMPAT_MFN_LIST = "XENMEM_machphys_compat_mfn_list", GET_VNUMAINFO = "XENMEM_get_vnumainfo",
        RESERVED_DEVICE_MEMORY_MAP = "XENMEM_reserved_device_memory_map",
        ACQUIRE_RESOURCE = "XENMEM_acquire_resource", MEMF_POPULATE_ON_DEMAND = "XENMEMF_populate_on_demand",
        MEMF_EXACT_NODE_REQUEST = "XENMEMF_exact_node_request", MEMF_VNODE = "XENMEMF_vnode",
        MAPSPACE_SHARED_INFO = "XENMAPSPACE_shared_info", MAPSPACE_GRANT_TABLE = "XENMAPSPACE_grant_table",
        MAPSPACE_GMFN = "XENMAPSPACE_gmfn", MAPSPACE_GMFN_RANGE = "XENMAPSPACE_gmfn_range",
        MAPSPACE_GMFN_FOREIGN = "XENMAPSPACE_gmfn_foreign", MAPSPACE_DEV_MMIO = "XENMAPSPACE_dev_mmio",
        MAPIDX_GRANT_TABLE_STATUS = "XENMAPIDX_grant_table_status",
        RESOURCE_IOREQ_SERVER = "XENMEM_resource_ioreq_server",
        RESOURCE_GRANT_TABLE = "XENMEM_resource_grant_table",
        RESOURCE_VMTRACE_BUF = "XENMEM_resource_vmtrace_buf",
        RESOURCE_GRANT_TABLE_ID_SHARED = "XENMEM_resource_grant_table_id_shared",
        RESOURCE_GRANT_TABLE_ID_STATUS = "XENMEM_resource_grant_table_id_status",
    }
    physdev {
        IRQ_UNMASK_NOTIFY = "PHYSDEVOP_IRQ_UNMASK_NOTIFY", IRQ_STATUS_QUERY = "PHYSDEVOP_irq_status_query",
        SET_IOPL = "PHYSDEVOP_set_iopl", SET_IOBITMAP = "PHYSDEVOP_set_iobitmap",
        APIC_READ = "PHYSDEVOP_apic_read", APIC_WRITE = "PHYSDEVOP_apic_write",
        ALLOC_IRQ_VECTOR = "PHYSDEVOP_alloc_irq_vector", FREE_IRQ_VECTOR = "PHYSDEVOP_free_irq_vector",
        EOI = "PHYSDEVOP_eoi", MAP_PIRQ = "PHYSDEVOP_map_pirq", UNMAP_PIRQ = "PHYSDEVOP_unmap_pirq",
        MANAGE_PCI_ADD = "PHYSDEVOP_manage_pci_add", MANAGE_PCI_REMOVE = "PHYSDEVOP_manage_pci_remove",
        PIRQ_EOI_GMFN_V1 = "PHYSDEVOP_pirq_eoi_gmfn_v1", RESTORE_MSI = "PHYSDEVOP_restore_msi",
        MANAGE_PCI_ADD_EXT = "PHYSDEVOP_manage_pci_add_ext", SETUP_GSI = "PHYSDEVOP_setup_gsi",
        GET_FREE_PIRQ = "PHYSDEVOP_get_free_pirq", PCI_MMCFG_RESERVED = "PHYSDEVOP_pci_mmcfg_reserved",
        PCI_DEVICE_ADD = "PHYSDEVOP_pci_device_add", PCI_DEVICE_REMOVE = "PHYSDEVOP_pci_device_remove",
        RESTORE_MSI_EXT = "PHYSDEVOP_restore_msi_ext", PIRQ_EOI_GMFN_V2 = "PHYSDEVOP_pirq_eoi_gmfn_v2",
        DBGP_OP = "PHYSDEVOP_dbgp_op", PREPARE_MSIX = "PHYSDEVOP_prepare_msix",
        RELEASE_MSIX = "PHYSDEVOP_release_msix",
    }
    sched {
        YIELD = "SCHEDOP_yield", BLOCK = "SCHEDOP_block", SHUTDOWN = "SCHEDOP_shutdown",
        POLL = "SCHEDOP_poll", REMOTE_SHUTDOWN = "SCHEDOP_remote_shutdown",
        SHUTDOWN_CODE = "SCHEDOP_shutdown_code", WATCHDOG = "SCHEDOP_watchdog",
        PIN_OVERRIDE = "SCHEDOP_pin_override", SHUTDOWN_POWEROFF = "SHUTDOWN_poweroff",
        SHUTDOWN_REBOOT = "SHUTDOWN_reboot", SHUTDOWN_SUSPEND = "SHUTDOWN_suspend",
        SHUTDOWN_CRASH = "SHUTDOWN_crash", SHUTDOWN_WATCHDOG = "SHUTDOWN_watchdog",
        SHUTDOWN_SOFT_RESET = "SHUTDOWN_soft_reset", SHUTDOWN_MAX = "SHUTDOWN_MAX",
    }
    sysctl {
        INTERFACE_VERSION = "XEN_SYSCTL_INTERFACE_VERSION", READCONSOLE = "XEN_SYSCTL_readconsole",
        TBUF_OP = "XEN_SYSCTL_tbuf_op", PHYSINFO = "XEN_SYSCTL_physinfo", SCHED_ID = "XEN_SYSCTL_sched_id",
        GETDOMAININFOLIST = "XEN_SYSCTL_getdomaininfolist", DEBUG_KEYS = "XEN_SYSCTL_debug_keys",
        GETCPUINFO = "XEN_SYSCTL_getcpuinfo", AVAILHEAP = "XEN_SYSCTL_availheap",
        CPUTOPOINFO = "XEN_SYSCTL_cputopoinfo", NUMAINFO = "XEN_SYSCTL_numainfo",
        CPUPOOL_OP = "XEN_SYSCTL_cpupool_op", SCHEDULER_OP = "XEN_SYSCTL_scheduler_op",
        TBUFOP_GET_INFO = "XEN_SYSCTL_TBUFOP_get_info",
        TBUFOP_SET_CPU_MASK = "XEN_SYSCTL_TBUFOP_set_cpu_mask",
        TBUFOP_SET_EVT_MASK = "XEN_SYSCTL_TBUFOP_set_evt_mask",
        TBUFOP_SET_SIZE = "XEN_SYSCTL_TBUFOP_set_size", TBUFOP_ENABLE = "XEN_SYSCTL_TBUFOP_enable",
        TBUFOP_DISABLE = "XEN_SYSCTL_TBUFOP_disable", SCHEDOP_PUTINFO = "XEN_SYSCTL_SCHEDOP_putinfo",
        SCHEDOP_GETINFO = "XEN_SYSCTL_SCHEDOP_getinfo", CSCHED_TSLICE_MAX = "XEN_SYSCTL_CSCHED_TSLICE_MAX",
        CSCHED_TSLICE_MIN = "XEN_SYSCTL_CSCHED_TSLICE_MIN",
    }
    sysctl::PhysCapabilities {
        HVM = "XEN_SYSCTL_PHYSCAP_hvm", PV = "XEN_SYSCTL_PHYSCAP_pv",
        DIRECTIO = "XEN_SYSCTL_PHYSCAP_directio", HAP = "XEN_SYSCTL_PHYSCAP_hap",
        SHADOW = "XEN_SYSCTL_PHYSCAP_shadow", IOMMU_HAP_PT_SHARE = "XEN_SYSCTL_PHYSCAP_iommu_hap_pt_share",
        VMTRACE = "XEN_SYSCTL_PHYSCAP_vmtrace", VPMU = "XEN_SYSCTL_PHYSCAP_vpmu",
        GNTTAB_V1 = "XEN_SYSCTL_PHYSCAP_gnttab_v1", GNTTAB_V2 = "XEN_SYSCTL_PHYSCAP_gnttab_v2",
    }
    tmem {
        SPEC_VERSION = "TMEM_SPEC_VERSION", NEW_POOL = "TMEM_NEW_POOL", DESTROY_POOL = "TMEM_DESTROY_POOL",
        PUT_PAGE = "TMEM_PUT_PAGE", GET_PAGE = "TMEM_GET_PAGE", FLUSH_PAGE = "TMEM_FLUSH_PAGE",
        FLUSH_OBJECT = "TMEM_FLUSH_OBJECT", AUTH = "TMEM_AUTH", RESTORE_NEW = "TMEM_RESTORE_NEW",
        POOL_PERSIST = "TMEM_POOL_PERSIST", POOL_SHARED = "TMEM_POOL_SHARED",
        POOL_PRECOMPRESSED = "TMEM_POOL_PRECOMPRESSED", POOL_PAGESIZE_SHIFT = "TMEM_POOL_PAGESIZE_SHIFT",
        POOL_PAGESIZE_MASK = "TMEM_POOL_PAGESIZE_MASK", POOL_VERSION_SHIFT = "TMEM_POOL_VERSION_SHIFT",
        POOL_VERSION_MASK = "TMEM_POOL_VERSION_MASK", POOL_RESERVED_BITS = "TMEM_POOL_RESERVED_BITS",
        CLIENT_COMPRESS = "TMEM_CLIENT_COMPRESS", CLIENT_FROZEN = "TMEM_CLIENT_FROZEN",
    }
    vcpu {
        INITIALISE = "VCPUOP_initialise", UP = "VCPUOP_up", DOWN = "VCPUOP_down", IS_UP = "VCPUOP_is_up",
        GET_RUNSTATE_INFO = "VCPUOP_get_runstate_info",
        REGISTER_RUNSTATE_MEMORY_AREA = "VCPUOP_register_runstate_memory_area",
        SET_PERIODIC_TIMER = "VCPUOP_set_periodic_timer", STOP_PERIODIC_TIMER = "VCPUOP_stop_periodic_timer",
        SET_SINGLESHOT_TIMER = "VCPUOP_set_singleshot_timer",
        STOP_SINGLESHOT_TIMER = "VCPUOP_stop_singleshot_timer",
        REGISTER_VCPU_INFO = "VCPUOP_register_vcpu_info", SEND_NMI = "VCPUOP_send_nmi",
        GET_PHYSID = "VCPUOP_get_physid",
        REGISTER_VCPU_TIME_MEMORY_AREA = "VCPUOP_register_vcpu_time_memory_area",
        RUNSTATE_RUNNING = "RUNSTATE_running", RUNSTATE_RUNNABLE = "RUNSTATE_runnable",
        RUNSTATE_BLOCKED = "RUNSTATE_blocked", RUNSTATE_OFFLINE = "RUNSTATE_offline",
        RUNSTATE_UPDATE = "XEN_RUNSTATE_UPDATE", SINGLESHOT_FUTURE = "VCPU_SSHOTTMR_future",
    }
    version {
        VERSION = "XENVER_version", EXTRAVERSION = "XENVER_extraversion",
        COMPILE_INFO = "XENVER_compile_info", CAPABILITIES = "XENVER_capabilities",
        CHANGESET = "XENVER_changeset", PLATFORM_PARAMETERS = "XENVER_platform_parameters",
        GET_FEATURES = "XENVER_get_features", PAGESIZE = "XENVER_pagesize",
        GUEST_HANDLE = "XENVER_guest_handle", COMMANDLINE = "XENVER_commandline",
        BUILD_ID = "XENVER_build_id",
    }
    xen {
        HVM_DEBUGCONS_IOPORT = "XEN_HVM_DEBUGCONS_IOPORT",
    }
    xen::DomId {
        FIRST_RESERVED = "DOMID_FIRST_RESERVED", SELF = "DOMID_SELF", IO = "DOMID_IO", XEN = "DOMID_XEN",
        COW = "DOMID_COW", INVALID = "DOMID_INVALID", IDLE = "DOMID_IDLE", MASK = "DOMID_MASK",
    }
    xen::Errno {
        EPERM = "XEN_EPERM", ENOENT = "XEN_ENOENT", ESRCH = "XEN_ESRCH", EIO = "XEN_EIO", ENXIO = "XEN_ENXIO",
        E2BIG = "XEN_E2BIG", ENOEXEC = "XEN_ENOEXEC", EBADF = "XEN_EBADF", ECHILD = "XEN_ECHILD",
        EAGAIN = "XEN_EAGAIN", ENOMEM = "XEN_ENOMEM", EACCES = "XEN_EACCES", EFAULT = "XEN_EFAULT",
        EBUSY = "XEN_EBUSY", EEXIST = "XEN_EEXIST", EXDEV = "XEN_EXDEV", ENODEV = "XEN_ENODEV",
        ENOTDIR = "XEN_ENOTDIR", EISDIR = "XEN_EISDIR", EINVAL = "XEN_EINVAL", ENFILE = "XEN_ENFILE",
        EMFILE = "XEN_EMFILE", ENOSPC = "XEN_ENOSPC", EROFS = "XEN_EROFS", EMLINK = "XEN_EMLINK",
        EDOM = "XEN_EDOM", ERANGE = "XEN_ERANGE", EDEADLK = "XEN_EDEADLK", ENAMETOOLONG = "XEN_ENAMETOOLONG",
        ENOLCK = "XEN_ENOLCK", ENOSYS = "XEN_ENOSYS", ENOTEMPTY = "XEN_ENOTEMPTY", ENODATA = "XEN_ENODATA",
        ETIME = "XEN_ETIME", EBADMSG = "XEN_EBADMSG", EOVERFLOW = "XEN_EOVERFLOW", EILSEQ = "XEN_EILSEQ",
        ENOTSOCK = "XEN_ENOTSOCK", EMSGSIZE = "XEN_EMSGSIZE", EOPNOTSUPP = "XEN_EOPNOTSUPP",
        EADDRINUSE = "XEN_EADDRINUSE", EADDRNOTAVAIL = "XEN_EADDRNOTAVAIL", ENOBUFS = "XEN_ENOBUFS",
        EISCONN = "XEN_EISCONN", ENOTCONN = "XEN_ENOTCONN", ETIMEDOUT = "XEN_ETIMEDOUT",
        ECONNREFUSED = "XEN_ECONNREFUSED", EFROZEN = "EFROZEN", EEMPTY = "EEMPTY",
    }
    xen::Virq {
        TIMER = "VIRQ_TIMER", DEBUG = "VIRQ_DEBUG", CONSOLE = "VIRQ_CONSOLE", DOM_EXC = "VIRQ_DOM_EXC",
        TBUF = "VIRQ_TBUF", DEBUGGER = "VIRQ_DEBUGGER", XENOPROF = "VIRQ_XENOPROF",
        CON_RING = "VIRQ_CON_RING", PCPU_STATE = "VIRQ_PCPU_STATE", MEM_EVENT = "VIRQ_MEM_EVENT",
        ARGO = "VIRQ_ARGO", ENOMEM = "VIRQ_ENOMEM", XENPMU = "VIRQ_XENPMU", ARCH_0 = "VIRQ_ARCH_0",
        COUNT = "NR_VIRQS",
    }
    xen::console_io {
        WRITE = "CONSOLEIO_write", READ = "CONSOLEIO_read",
    }
    xen::hypercall {
        SET_TRAP_TABLE = "__HYPERVISOR_set_trap_table", MMU_UPDATE = "__HYPERVISOR_mmu_update",
        SET_GDT = "__HYPERVISOR_set_gdt", STACK_SWITCH = "__HYPERVISOR_stack_switch",
        SET_CALLBACKS = "__HYPERVISOR_set_callbacks", FPU_TASKSWITCH = "__HYPERVISOR_fpu_taskswitch",
        SCHED_OP_COMPAT = "__HYPERVISOR_sched_op_compat", PLATFORM_OP = "__HYPERVISOR_platform_op",
        SET_DEBUGREG = "__HYPERVISOR_set_debugreg", GET_DEBUGREG = "__HYPERVISOR_get_debugreg",
        UPDATE_DESCRIPTOR = "__HYPERVISOR_update_descriptor", MEMORY_OP = "__HYPERVISOR_memory_op",
        MULTICALL = "__HYPERVISOR_multicall", UPDATE_VA_MAPPING = "__HYPERVISOR_update_va_mapping",
        SET_TIMER_OP = "__HYPERVISOR_set_timer_op",
        EVENT_CHANNEL_OP_COMPAT = "__HYPERVISOR_event_channel_op_compat",
        XEN_VERSION = "__HYPERVISOR_xen_version", CONSOLE_IO = "__HYPERVISOR_console_io",
        PHYSDEV_OP_COMPAT = "__HYPERVISOR_physdev_op_compat", GRANT_TABLE_OP = "__HYPERVISOR_grant_table_op",
        VM_ASSIST = "__HYPERVISOR_vm_assist",
        UPDATE_VA_MAPPING_OTHERDOMAIN = "__HYPERVISOR_update_va_mapping_otherdomain",
        IRET = "__HYPERVISOR_iret", VCPU_OP = "__HYPERVISOR_vcpu_op",
        SET_SEGMENT_BASE = "__HYPERVISOR_set_segment_base", MMUEXT_OP = "__HYPERVISOR_mmuext_op",
        XSM_OP = "__HYPERVISOR_xsm_op", NMI_OP = "__HYPERVISOR_nmi_op", SCHED_OP = "__HYPERVISOR_sched_op",
        CALLBACK_OP = "__HYPERVISOR_callback_op", XENOPROF_OP = "__HYPERVISOR_xenoprof_op",
        EVENT_CHANNEL_OP = "__HYPERVISOR_event_channel_op", PHYSDEV_OP = "__HYPERVISOR_physdev_op",
        HVM_OP = "__HYPERVISOR_hvm_op", SYSCTL = "__HYPERVISOR_sysctl", DOMCTL = "__HYPERVISOR_domctl",
        KEXEC_OP = "__HYPERVISOR_kexec_op", TMEM_OP = "__HYPERVISOR_tmem_op",
        ARGO_OP = "__HYPERVISOR_argo_op", XENPMU_OP = "__HYPERVISOR_xenpmu_op", DM_OP = "__HYPERVISOR_dm_op",
        HYPFS_OP = "__HYPERVISOR_hypfs_op", ARCH_0 = "__HYPERVISOR_arch_0", ARCH_1 = "__HYPERVISOR_arch_1",
        ARCH_2 = "__HYPERVISOR_arch_2", ARCH_3 = "__HYPERVISOR_arch_3", ARCH_4 = "__HYPERVISOR_arch_4",
        ARCH_5 = "__HYPERVISOR_arch_5", ARCH_6 = "__HYPERVISOR_arch_6", ARCH_7 = "__HYPERVISOR_arch_7",
    }
    xen::shared_info {
        LEGACY_MAX_VCPUS = "XEN_LEGACY_MAX_VCPUS", PVCLOCK_TSC_STABLE_BIT = "XEN_PVCLOCK_TSC_STABLE_BIT",
        PVCLOCK_GUEST_STOPPED = "XEN_PVCLOCK_GUEST_STOPPED", NMIREASON_IO_ERROR = "XEN_NMIREASON_io_error",
        NMIREASON_PCI_SERR = "XEN_NMIREASON_pci_serr", NMIREASON_UNKNOWN = "XEN_NMIREASON_unknown",
    }
    xen::vm_assist {
        ENABLE = "VMASST_CMD_enable", DISABLE = "VMASST_CMD_disable",
        TYPE_4GB_SEGMENTS = "VMASST_TYPE_4gb_segments",
        TYPE_4GB_SEGMENTS_NOTIFY = "VMASST_TYPE_4gb_segments_notify",
        TYPE_WRITABLE_PAGETABLES = "VMASST_TYPE_writable_pagetables",
        TYPE_PAE_EXTENDED_CR3 = "VMASST_TYPE_pae_extended_cr3",
        TYPE_ARCHITECTURAL_IOPL = "VMASST_TYPE_architectural_iopl",
        TYPE_RUNSTATE_UPDATE_FLAG = "VMASST_TYPE_runstate_update_flag",
        TYPE_M2P_STRICT = "VMASST_TYPE_m2p_strict",
    }
}

constants! {
    /// Constants that were in older interfaces and keep their numbers.
    legacy:
    hvm {
        SET_PCI_INTX_LEVEL = "HVMOP_set_pci_intx_level", SET_ISA_IRQ_LEVEL = "HVMOP_set_isa_irq_level",
        SET_PCI_LINK_ROUTE = "HVMOP_set_pci_link_route",
    }
}
