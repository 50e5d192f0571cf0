/* Makes every call of models.h, a model with values of its open dimensions: `program INPUTS OUTPUTS FIRST`.
 *
 * INPUTS holds the bytes of all inputs of all calls, in order. OUTPUTS receives, for each call from number FIRST on, its status (i32)
 * and, when that is ONNXC_OK, size (u64) and bytes of each output. It is flushed after each call, so that a crash tells which call it
 * was. Bytes behind the outputs and the arena are checked: a write beyond the end gives the status GUARD. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models.h"

enum { MAX_TENSORS = 64, GUARD_BYTES = 256, GUARD_VALUE = 0xa5, GUARD = 100 };

static void fail(const char *what) {
    perror(what);
    exit(2);
}

/* `bytes` bytes, aligned to `align`, with the guard behind them. */
static unsigned char *guarded(uint64_t bytes, uint64_t align) {
    uint64_t whole = (bytes + GUARD_BYTES + align - 1) / align * align;
    unsigned char *p = aligned_alloc(align, whole);
    if (!p) fail("memory");
    memset(p, 0xff, bytes);
    memset(p + bytes, GUARD_VALUE, whole - bytes);
    return p;
}

static int intact(const unsigned char *p, uint64_t bytes) {
    for (int i = 0; i < GUARD_BYTES; i++)
        if (p[bytes + i] != GUARD_VALUE) return 0;
    return 1;
}

static void put(const void *p, uint64_t bytes, FILE *f) {
    if (bytes && fwrite(p, 1, bytes, f) != bytes) fail("outputs");
}

static int32_t check(const onnxc_model *m, const onnxc_call *call, const uint64_t *bytes) {
    int32_t status = m->run(call);
    int good = intact(call->arena, m->arena_bytes);
    for (uint32_t j = 0; j < m->n_outputs; j++) good &= intact(call->outputs[j], bytes[j]);
    return status == ONNXC_OK && !good ? GUARD : status;
}

static void run(const onnxc_model *m, const uint64_t *dims, const uint64_t *bytes, unsigned char *const *inputs, FILE *to) {
    unsigned char *outputs[MAX_TENSORS];
    unsigned char *arena = guarded(m->arena_bytes, m->arena_align);
    for (uint32_t j = 0; j < m->n_outputs; j++) outputs[j] = guarded(bytes[j], 64);
    onnxc_call call = {.inputs = (const void *const *)inputs, .outputs = (void *const *)outputs, .arena = arena, .dims = dims};
    int32_t status = check(m, &call, bytes);
    put(&status, sizeof status, to);
    for (uint32_t j = 0; j < m->n_outputs; j++) {
        if (status == ONNXC_OK) {
            put(&bytes[j], sizeof(uint64_t), to);
            put(outputs[j], bytes[j], to);
        }
        free(outputs[j]);
    }
    free(arena);
    if (fflush(to)) fail("outputs");
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    FILE *from = fopen(argv[1], "rb"), *to = fopen(argv[2], "wb");
    if (!from || !to) fail("files");
    unsigned long first = strtoul(argv[3], NULL, 10);
    for (unsigned long i = 0; i < sizeof calls / sizeof *calls; i++) {
        const onnxc_model *m = calls[i].model;
        unsigned char *inputs[MAX_TENSORS];
        uint64_t bytes[MAX_TENSORS], output_bytes[MAX_TENSORS];
        if (m->n_inputs > MAX_TENSORS || m->n_outputs > MAX_TENSORS) return 3;
        onnxc_sizes sizes = {.input_bytes = bytes, .output_bytes = output_bytes};
        if (m->sizes(calls[i].dims, &sizes) != ONNXC_OK) return 3;
        for (uint32_t j = 0; j < m->n_inputs; j++) {
            inputs[j] = guarded(bytes[j], 64);
            if (bytes[j] && fread(inputs[j], 1, bytes[j], from) != bytes[j]) fail("inputs");
        }
        if (i >= first) run(m, calls[i].dims, output_bytes, inputs, to);
        for (uint32_t j = 0; j < m->n_inputs; j++) free(inputs[j]);
    }
    return fclose(to) ? 2 : 0;
}
