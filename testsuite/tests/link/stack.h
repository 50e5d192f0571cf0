/* How much stack a call needs: STACK_CALL(argument), a macro that is defined before this file is included, with a status as its value.
 *
 * It is measured on a thread of its own, painted below the caller's frame.
 */
#ifndef STACK_H
#define STACK_H

#include "probe.h"
#include <pthread.h>

enum { STACK = 256 << 10 };

static unsigned char stack[STACK] __attribute__((aligned(4096)));

#if defined(__x86_64__)
#define SP "rsp"
#else
#define SP "sp"
#endif

/* Paints what is free of the thread's stack, calls, and looks how deep the paint is gone. Nothing else is called in between. */
static void *run_painted(void *argument) {
    register unsigned char *sp __asm__(SP);
    unsigned char *top;
    __asm__ volatile("" : "=r"(top) : "0"(sp));
    for (volatile unsigned char *p = stack; p < top; p++) *p = PROBE_PAINT;
    if (STACK_CALL(argument) != ONNXC_OK) probe_die("refused");
    volatile unsigned char *low = stack;
    while (low < top && *low == PROBE_PAINT) low++;
    return (void *)(uintptr_t)(top - low);
}

/* Bytes of stack that STACK_CALL(argument) needs. */
static uint64_t stack_used(void *argument) {
    pthread_attr_t attributes;
    pthread_t thread;
    void *used;
    if (pthread_attr_init(&attributes) || pthread_attr_setstack(&attributes, stack, STACK)) probe_die("stack");
    if (pthread_create(&thread, &attributes, run_painted, argument) || pthread_join(thread, &used)) probe_die("thread");
    return (uintptr_t)used;
}

#endif
