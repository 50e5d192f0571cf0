/* The `virt` boards of QEMU: serial port and exit, and text made of them. */
#include "board.h"

#if defined(__aarch64__)

void board_put(char c) { *(volatile uint32_t *)0x09000000 = (unsigned char)c; }

_Noreturn void board_exit(int code) {
    /* Semihosting: SYS_EXIT_EXTENDED with ADP_Stopped_ApplicationExit. */
    uint64_t block[2] = {0x20026, (uint64_t)code};
    register uint64_t operation __asm__("x0") = 0x20;
    register uint64_t *argument __asm__("x1") = block;
    for (;;) __asm__ volatile("hlt #0xf000" : : "r"(operation), "r"(argument) : "memory");
}

#elif defined(__riscv)

void board_put(char c) { *(volatile uint8_t *)0x10000000 = (uint8_t)c; }

_Noreturn void board_exit(int code) {
    /* The test device: pass, or fail with a code. */
    *(volatile uint32_t *)0x100000 = code ? (uint32_t)code << 16 | 0x3333u : 0x5555u;
    for (;;) {}
}

#endif

void put_text(const char *s) {
    while (*s) board_put(*s++);
}

void put_number(uint64_t n) {
    char digits[20];
    int i = 0;
    do digits[i++] = (char)('0' + n % 10);
    while (n /= 10);
    while (i) board_put(digits[--i]);
}

void put_hex(const void *bytes, uint64_t n) {
    const unsigned char *b = bytes;
    for (uint64_t i = 0; i < n; i++) board_put("0123456789abcdef"[b[i] >> 4]), board_put("0123456789abcdef"[b[i] & 15]);
}

_Noreturn void board_fault(uint64_t cause, uint64_t pc) {
    put_text("fault ");
    put_number(cause);
    put_text(" at ");
    put_number(pc);
    put_text("\n");
    board_exit(99);
}
