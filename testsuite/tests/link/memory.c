/* How much of the arena and of the stack a model uses: `arena USED STATED SHARED` and `stack USED STATED`, after the outputs.
 *
 * The arena's contents are compared after two runs that began with different paint: a byte that the model writes differs from at
 * least one of them. The stack is measured on a thread of its own, painted below the caller's frame.
 */
#include MODEL_HEADER
#include "probe.h"
#include <pthread.h>
#include <string.h>

enum { STACK = 256 << 10 };

static unsigned char stack[STACK] __attribute__((aligned(4096)));

#if defined(__x86_64__)
#define SP "rsp"
#else
#define SP "sp"
#endif

/* Paints what is free of the thread's stack, runs, and looks how deep the paint is gone. Nothing else is called in between. */
static void *run_painted(void *argument) {
    onnxc_call *call = argument;
    register unsigned char *sp __asm__(SP);
    unsigned char *top;
    __asm__ volatile("" : "=r"(top) : "0"(sp));
    for (volatile unsigned char *p = stack; p < top; p++) *p = PROBE_PAINT;
    if (MODEL.run(call) != ONNXC_OK) probe_die("refused");
    volatile unsigned char *low = stack;
    while (low < top && *low == PROBE_PAINT) low++;
    return (void *)(uintptr_t)(top - low);
}

/* Bytes of stack that an inference needs. */
static uint64_t stack_used(onnxc_call *call) {
    pthread_attr_t attributes;
    pthread_t thread;
    void *used;
    if (pthread_attr_init(&attributes) || pthread_attr_setstack(&attributes, stack, STACK)) probe_die("stack");
    if (pthread_create(&thread, &attributes, run_painted, call) || pthread_join(thread, &used)) probe_die("thread");
    return (uintptr_t)used;
}

static uint64_t highest_change(const unsigned char *p, uint64_t bytes, int paint) {
    while (bytes > 0 && p[bytes - 1] == paint) bytes--;
    return bytes;
}

int main(void) {
    const onnxc_model *m = &MODEL;
    probe p;
    probe_open(&p, m);
    probe_run(&p);
    memset(p.call.arena, PROBE_PAINT, m->arena_bytes);
    uint64_t used = stack_used(&p.call);
    probe_check(&p);
    probe_print(&p);
    uint64_t first = highest_change(p.call.arena, m->arena_bytes, PROBE_PAINT);
    memset(p.call.arena, 0x3c, m->arena_bytes);
    if (m->run(&p.call) != ONNXC_OK) probe_die("the second run was refused");
    probe_print(&p);
    uint64_t second = highest_change(p.call.arena, m->arena_bytes, 0x3c);
    printf("arena %llu %llu %llu\n", (unsigned long long)(first > second ? first : second), (unsigned long long)m->arena_bytes,
           (unsigned long long)m->arena_shared);
    printf("stack %llu %llu\n", (unsigned long long)used, (unsigned long long)m->stack_bytes);
    return 0;
}
