// Entry of the boot processor (PVH: 32-bit protected mode, paging off, ebx = hvm_start_info) and of the
// others (real mode by SIPI, 32-bit flat or 64-bit by VCPUOP_initialise). AT&T syntax.

    .section .note.Xen, "a", @note
    .balign 4
    .long 4                     // length of the name
    .long 8                     // length of the value
    .long 18                    // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

    .section .text.boot, "ax", @progbits
    .code32
    .global pvh_entry
pvh_entry:
    cli
    cld
    movl %ebx, %ebp             // kept until the jump to long mode
    movl $boot_stack_top, %esp

    // Identity map of the first 4 GiB by 2 MiB pages: one PML4 entry, four directories.
    movl $boot_pdpt, %eax
    orl $3, %eax
    movl %eax, boot_pml4
    movl $boot_pd, %eax
    orl $3, %eax
    movl $boot_pdpt, %edi
    movl $4, %ecx
1:  movl %eax, (%edi)
    addl $4096, %eax
    addl $8, %edi
    loop 1b
    movl $0x83, %eax            // present, writable, large
    movl $boot_pd, %edi
    movl $2048, %ecx
2:  movl %eax, (%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b

    movl $boot_pml4, %eax
    call enter_long_mode
    pushl $0x08
    pushl $boot64
    lret

// Turns on long mode with the page tables at eax. NX is used when the processor has it.
enter_long_mode:
    movl %eax, %esi
    movl %cr4, %eax
    orl $0x20, %eax             // PAE
    movl %eax, %cr4
    movl %esi, %cr3
    movl $0x80000001, %eax
    cpuid
    movl %edx, %edi
    movl $0xC0000080, %ecx      // EFER
    rdmsr
    orl $0x100, %eax            // LME
    testl $0x100000, %edi
    jz 3f
    orl $0x800, %eax            // NXE
3:  wrmsr
    movl %cr0, %eax
    orl $0x80010001, %eax       // PG, WP, PE
    andl $0x9FFFFFFF, %eax      // caches on
    movl %eax, %cr0
    lgdt boot_gdt_pointer
    ret

    .code64
boot64:
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    leaq boot_stack_top(%rip), %rsp
    movl %ebp, %edi             // hvm_start_info
    xorl %ebp, %ebp             // end of the chain of frames
    call {kernel_main}
4:  hlt
    jmp 4b

// Other processors, 32-bit flat protected mode with paging off: by SIPI or VCPU_HVM_MODE_32B.
    .code32
    .global ap_entry32
ap_entry32:
    cli
    cld
    // By VCPUOP_initialise there is no table yet, by SIPI the data segment is not flat; the code segment always is.
    lgdt %cs:boot_gdt_pointer
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $ap_early_stack_top, %esp
    movl {ap_root}, %eax
    call enter_long_mode
    pushl $0x08
    pushl $ap_entry64
    lret

// Other processors, 64-bit mode with the kernel's page tables: by VCPU_HVM_MODE_64B or from above.
    .code64
    .global ap_entry64
ap_entry64:
    cli
    cld
    lgdt boot_gdt_pointer(%rip)
    xorl %eax, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    movq {ap_stack}(%rip), %rsp
    pushq $0x08
    leaq 5f(%rip), %rax
    pushq %rax
    lretq
5:  movl {ap_cpu}(%rip), %edi
    xorl %ebp, %ebp
    call {ap_main}
6:  hlt
    jmp 6b

// Copied to a page below 1 MiB; runs there in real mode with cs = page >> 4.
    .code16
    .global ap_trampoline
ap_trampoline:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    data32 lgdt (ap_trampoline_gdt - ap_trampoline)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    .byte 0x66, 0xEA            // jump far to a 32-bit offset
    .long ap_entry32
    .word 0x18
    .balign 4
ap_trampoline_gdt:
    .word boot_gdt_end - boot_gdt - 1
    .long boot_gdt
    .global ap_trampoline_end
ap_trampoline_end:
    .code64

    .section .data.boot, "aw", @progbits
    .balign 16
boot_gdt:
    .quad 0
    .quad 0x00AF9B000000FFFF    // 0x08: 64-bit code
    .quad 0x00CF93000000FFFF    // 0x10: data
    .quad 0x00CF9B000000FFFF    // 0x18: 32-bit code
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4 * 4096
    .global boot_stack_guard
boot_stack_guard: .skip 4096
    .skip 32768
    .global boot_stack_top
boot_stack_top:
    .skip 256
ap_early_stack_top:
    .balign 4096
