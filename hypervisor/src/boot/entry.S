# The two entry points, 32-bit protected mode, paging off, to 64-bit mode in the higher half.
#
# pvh_start:       Xen's PVH boot ABI: ebx = physical address of hvm_start_info.
# multiboot_start: multiboot2, i386 state: eax = 0x36d76289, ebx = physical address of the boot information.
#
# No framebuffer is asked for: GRUB then leaves VGA text under BIOS and a framebuffer under UEFI, and does not change
# modes (in Bochs, its mode change crashes GRUB itself).
#
# Both leave: ebp = which protocol (the start-info magic or the multiboot2 magic), ebx = the address.
# The boot page tables map physical 0..4 GiB with 2 MiB pages three times: at 0 (so that the switch itself goes on),
# at the direct map's base, and its first GiB at the image's base. memory::paging replaces them soon.

.section .boot.multiboot2, "a"
.balign 8
mb2_header:
    .long 0xe85250d6                # magic
    .long 0                         # architecture: i386
    .long mb2_end - mb2_header
    .long 0x100000000 - (0xe85250d6 + (mb2_end - mb2_header))
    .balign 8                       # information request, optional
    .short 1, 1
    .long 8 + 6 * 4
    .long 1, 3, 6, 8, 14, 15        # command line, modules, memory map, framebuffer, RSDP old and new
    .balign 8                       # console: EGA text is supported
    .short 4, 1
    .long 12
    .long 2
    .balign 8                       # modules on page boundaries
    .short 6, 1
    .long 8
    .balign 8                       # end
    .short 0, 0
    .long 8
mb2_end:

.section .note.Xen, "a", @note
.balign 4
    .long 4                         # name size
    .long 8                         # descriptor size
    .long 18                        # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start

.section .boot.text, "ax"
.code32
.global pvh_start
pvh_start:
    mov ebp, 0x336ec578             # XEN_HVM_START_MAGIC_VALUE
    jmp 1f
.global multiboot_start
multiboot_start:
    mov ebp, eax
1:  cli
    cld
    mov esp, offset boot_stack_top_phys

    # Long mode and no-execute are needed.
    mov edi, ebx                    # cpuid destroys ebx
    mov eax, 0x80000000
    cpuid
    cmp eax, 0x80000001
    jb no_long_mode
    mov eax, 0x80000001
    cpuid
    mov ebx, edi
    bt edx, 29
    jnc no_long_mode
    bt edx, 20
    jnc no_long_mode

    # Four page directories: 2048 entries of 2 MiB, present, writable, large.
    mov edi, offset boot_pd_phys
    mov eax, 0x83
    mov ecx, 2048
2:  mov [edi], eax
    mov dword ptr [edi + 4], 0
    add eax, 0x200000
    add edi, 8
    dec ecx
    jnz 2b

    mov edi, offset boot_pdpt_low_phys
    mov eax, offset boot_pd_phys
    or eax, 3
    mov [edi], eax
    add eax, 0x1000
    mov [edi + 8], eax
    add eax, 0x1000
    mov [edi + 16], eax
    add eax, 0x1000
    mov [edi + 24], eax

    mov edi, offset boot_pdpt_high_phys
    mov eax, offset boot_pd_phys
    or eax, 3
    mov [edi + 510 * 8], eax

    mov edi, offset boot_pml4_phys
    mov eax, offset boot_pdpt_low_phys
    or eax, 3
    mov [edi], eax                  # identity
    mov [edi + 256 * 8], eax        # direct map
    mov eax, offset boot_pdpt_high_phys
    or eax, 3
    mov [edi + 511 * 8], eax        # image
    mov cr3, edi

    mov eax, 0x20                   # CR4.PAE, and nothing the firmware may have left
    mov cr4, eax
    mov ecx, 0xc0000080             # EFER: LME and NXE
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, 0x80010033             # PG WP NE ET MP PE
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    .byte 0xea                      # far jump to 0x08:start64
    .long start64
    .short 0x08

no_long_mode:
    mov esi, offset no_long_mode_text
    mov edi, 0xb8000
3:  lodsb
    test al, al
    jz 5f
    mov ah, 0x07
    mov [edi], ax
    add edi, 2
    mov bl, al
    mov dx, 0x3fd
    mov ecx, 100000
4:  in al, dx
    test al, 0x20
    loopz 4b
    mov dx, 0x3f8
    mov al, bl
    out dx, al
    jmp 3b
5:  cli
    hlt
    jmp 5b
no_long_mode_text:
    .asciz "(ebb) error: this processor has no 64-bit mode with no-execute pages; Ebb cannot run\r\n"

.code64
start64:
    mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    movabs rax, offset start64_high
    jmp rax

.balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff        # 0x08: 64-bit code
    .quad 0x00cf92000000ffff        # 0x10: data
boot_gdt_pointer:
    .short boot_gdt_pointer - boot_gdt - 1
    .long boot_gdt
    .long 0

.section .text.start64_high, "ax"
start64_high:
    lea rsp, [rip + boot_stack_top]
    xor ecx, ecx
    mov edi, ebp                    # protocol
    mov esi, ebx                    # physical address of what the loader left
    xor ebp, ebp
    call ebb_main
    ud2

.section .bss.boot, "aw", @nobits
.global boot_pml4, boot_pdpt_low, boot_pdpt_high, boot_pd, boot_stack, boot_stack_top
.balign 4096
boot_pml4:      .skip 4096
boot_pdpt_low:  .skip 4096
boot_pdpt_high: .skip 4096
boot_pd:        .skip 4 * 4096
boot_stack:     .skip 131072
boot_stack_top:
