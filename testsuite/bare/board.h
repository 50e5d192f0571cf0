/* What a bare-metal program needs of the board. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

/* Ends of the stack, from the linker script. */
extern unsigned char _stack_low[], _stack[];

void board_put(char c);
/* Ends the emulator with an exit code. */
_Noreturn void board_exit(int code);
/* Where traps end: says why and where, exit code 99. */
_Noreturn void board_fault(uint64_t cause, uint64_t pc);

void put_text(const char *s);
void put_number(uint64_t n);
void put_hex(const void *bytes, uint64_t n);

#endif
