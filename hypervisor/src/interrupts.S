# One entry per vector, 16 bytes apart, all to ebb_interrupt(frame) (interrupts.rs, `Frame`).
# Vectors 8, 10-14, 17, 21, 29, 30 push an error code themselves.

.section .text.interrupt_entries, "ax"
.balign 16
.global interrupt_entries
interrupt_entries:
.set vector, 0
.rept 256
    .balign 16
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    push 0
    .endif
    .byte 0x68                      # push imm32; written out because `push SYM` would be a memory operand
    .long vector
    jmp interrupt_common
    .set vector, vector + 1
.endr

.balign 16
interrupt_common:
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    cld
    mov rdi, rsp
    call ebb_interrupt
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rbp
    pop rbx
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
