/* Two models in one program, through their headers; C99 and C++. */
#include "tiny.h"
#include "pair.h"
#include "tiny.h"
#include "probe.h"

/* The macros are constants that arrays and assertions may use. */
typedef char tiny_io[TINY_N_INPUTS == 1 && TINY_N_OUTPUTS == 1 && TINY_INPUT_0_BYTES == 576 && TINY_OUTPUT_0_BYTES == 20 ? 1 : -1];
typedef char pair_io[PAIR_N_INPUTS == 2 && PAIR_N_OUTPUTS == 2 && PAIR_INPUT_1_BYTES == 32 && PAIR_OUTPUT_0_BYTES == 96 ? 1 : -1];

int main(void) {
    const onnxc_model *m = &tiny_model;
    probe tiny, pair;
    if (m->run != tiny_run || pair_model.run != pair_run) probe_die("the descriptor has another entry");
    if (m->arena_bytes != TINY_ARENA_BYTES || m->arena_align != TINY_ARENA_ALIGN || m->stack_bytes != TINY_STACK_BYTES ||
        m->max_threads != TINY_MAX_THREADS || m->weights_bytes != TINY_WEIGHTS_BYTES)
        probe_die("header and descriptor differ");
    probe_open(&tiny, m);
    probe_open(&pair, &pair_model);
    probe_run(&tiny);
    probe_run(&pair);
    return (int)(sizeof(tiny_io) + sizeof(pair_io)) - 2;
}
