/* Start of a program on `qemu-system-aarch64 -M virt`: vectors, floating point, a flat memory map, a stack, main.
 * The map is needed because memory is "device" memory without it, where unaligned vector loads fault. */
    .section .init, "ax"
    .globl _start
_start:
    adr     x0, vectors
    msr     vbar_el1, x0
    mov     x0, #(3 << 20)          /* floating point and SIMD do not trap */
    msr     cpacr_el1, x0

    adrp    x1, table               /* blocks of 1 GB: devices at 0, memory at 1 GB */
    ldr     x2, =0x401              /* valid, accessed, attribute 0 */
    str     x2, [x1]
    ldr     x2, =0x40000705         /* valid, accessed, inner shareable, attribute 1 */
    str     x2, [x1, #8]
    ldr     x2, =0xff00             /* attribute 0: device; 1: normal, write back */
    msr     mair_el1, x2
    ldr     x2, =0x100803519        /* 39-bit addresses, 4 KB pages, cached walks, no upper half */
    msr     tcr_el1, x2
    msr     ttbr0_el1, x1
    dsb     sy
    tlbi    vmalle1
    dsb     sy
    isb
    mrs     x2, sctlr_el1
    ldr     x3, =0x1005             /* map, data cache, instruction cache */
    orr     x2, x2, x3
    bic     x2, x2, #2              /* no alignment faults */
    msr     sctlr_el1, x2
    isb

    ldr     x0, =_stack
    mov     sp, x0
    bl      main
    bl      board_exit

fault:
    ldr     x0, =_stack
    mov     sp, x0
    mrs     x0, esr_el1
    mrs     x1, elr_el1
    bl      board_fault

    .balign 2048
vectors:
    .rept 16
    .balign 128
    b       fault
    .endr

    .bss
    .balign 4096
table:
    .skip   4096

    .section .note.GNU-stack, "", %progbits
