/* Calls a C function again and again and writes down what each call took: `gcc -O2 -shared -fPIC native_timer.c -o native_timer.so`.
 *
 * native_peers.py loads this, so that engines with a C interface are timed as compiled models are, without an interpreter in between.
 * Up to eight arguments of a word each; what a function does not take is ignored by the calling conventions of 64-bit machines. */
#include <stdint.h>
#include <time.h>

typedef uintptr_t word;
typedef word function(word, word, word, word, word, word, word, word);

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Answers the first result that is not zero, or zero. Functions that answer 32 bits have `mask` 0xffffffff. */
word time_calls(function *f, const word *a, word mask, long n, uint64_t *ns) {
    for (long i = 0; i < n; i++) {
        uint64_t start = now_ns();
        word status = f(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]) & mask;
        ns[i] = now_ns() - start;
        if (status) return status;
    }
    return 0;
}
