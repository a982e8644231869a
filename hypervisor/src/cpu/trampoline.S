# Where a processor starts after INIT/SIPI: real mode, CS = page >> 4, IP = 0. This code is copied to that page.
#
# AT&T syntax, since only that takes the difference of two symbols as a displacement.
#
# It goes to 64-bit mode with temporary page tables, the hypervisor's plus an identity mapping of this page, and then
# to ap_entry in the image. The last words of the page are filled in by cpu/start.rs for each processor:
#   TRAMPOLINE_CR3 (u32), TRAMPOLINE_STACK (u64), TRAMPOLINE_INDEX (u64);
# and one is the processor's sign of life, the first thing it writes: TRAMPOLINE_ALIVE (u8).

.set TRAMPOLINE_CR3, 0xfe0
.set TRAMPOLINE_STACK, 0xfe8
.set TRAMPOLINE_INDEX, 0xff0
.set TRAMPOLINE_ALIVE, 0xff8

.section .rodata.trampoline, "a"
.global trampoline_start
.global trampoline_end
.balign 16
.code16
trampoline_start:
    cli
    cld
    movw %cs, %ax
    movw %ax, %ds
    movb $1, TRAMPOLINE_ALIVE
    movzwl %ax, %ebx
    shll $4, %ebx                   # ebx = this page

    # The descriptor table's pointer and the far jumps need linear addresses.
    leal (tr_gdt - trampoline_start)(%ebx), %eax
    movl %eax, (tr_gdt_pointer - trampoline_start + 2)
    leal (tr_protected - trampoline_start)(%ebx), %eax
    movl %eax, (tr_jump_32 - trampoline_start)
    leal (tr_long - trampoline_start)(%ebx), %eax
    movl %eax, (tr_jump_64 - trampoline_start)

    lgdtl (tr_gdt_pointer - trampoline_start)
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl *(tr_jump_32 - trampoline_start)

.code32
tr_protected:
    movw $0x18, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $0x20, %eax                # CR4.PAE
    movl %eax, %cr4
    movl TRAMPOLINE_CR3(%ebx), %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx          # EFER: LME and NXE
    rdmsr
    orl $0x900, %eax
    wrmsr
    movl $0x80010033, %eax          # PG WP NE ET MP PE
    movl %eax, %cr0
    ljmpl *(tr_jump_64 - trampoline_start)(%ebx)
.code64
tr_long:
    xorl %eax, %eax
    movw %ax, %fs
    movw %ax, %gs
    movq TRAMPOLINE_STACK(%rbx), %rsp
    movq TRAMPOLINE_INDEX(%rbx), %rdi
    xorl %ebp, %ebp
    movabsq $ap_entry, %rax
    callq *%rax
    ud2

.balign 8
tr_gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        # 0x08: 32-bit code
    .quad 0x00af9b000000ffff        # 0x10: 64-bit code
    .quad 0x00cf93000000ffff        # 0x18: data
tr_gdt_pointer:
    .short tr_gdt_pointer - tr_gdt - 1
    .long 0
.balign 4
tr_jump_32:
    .long 0
    .short 0x08
.balign 4
tr_jump_64:
    .long 0
    .short 0x10
trampoline_end:
.code64
