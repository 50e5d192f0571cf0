/* Start of a program on `qemu-system-riscv64 -M virt -bios none`: traps, floating point and vectors, a stack, main. */
    .section .init, "ax"
    .globl _start
_start:
    la      t0, fault
    csrw    mtvec, t0
    li      t0, 0x6600              /* floating point and vector state: on */
    csrs    mstatus, t0
    la      sp, _stack
    call    main
    call    board_exit

    .balign 4
fault:
    la      sp, _stack
    csrr    a0, mcause
    csrr    a1, mepc
    call    board_fault

    .section .note.GNU-stack, "", %progbits
