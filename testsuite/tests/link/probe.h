/* Buffers for one inference of any model, with painted bytes around them: for the programs of link.rs, which include a model's header first.
 *
 * Open dimensions have their largest values. f32 inputs hold ((7 i) mod 13 - 6) / 8, i counted over all inputs, as in bare/main.c.
 */
#ifndef PROBE_H
#define PROBE_H

#include <stdio.h>
#include <stdlib.h>

enum { PROBE_GUARD = 64, PROBE_MOST = 4, PROBE_PAINT = 0xa5 };

typedef struct probe {
    const onnxc_model *model;
    const void *inputs[PROBE_MOST];
    void *outputs[PROBE_MOST];
    uint64_t dims[PROBE_MOST];
    onnxc_call call;
} probe;

static void probe_die(const char *why) {
    fprintf(stderr, "probe: %s\n", why);
    exit(1);
}

/* A painted buffer with PROBE_GUARD painted bytes, or more, on both sides. */
static unsigned char *probe_take(uint64_t bytes, uint64_t align) {
    uint64_t before, all = bytes + 2 * align + 2 * PROBE_GUARD, i;
    unsigned char *block = (unsigned char *)malloc((size_t)all);
    if (block == 0) probe_die("no memory");
    for (i = 0; i < all; i++) block[i] = PROBE_PAINT;
    before = PROBE_GUARD + align - 1 - ((uintptr_t)block + PROBE_GUARD - 1) % align;
    return block + before;
}

static void probe_guards(const unsigned char *p, uint64_t bytes, const char *what) {
    uint64_t i;
    for (i = 0; i < PROBE_GUARD; i++)
        if (p[bytes + i] != PROBE_PAINT || *(p - 1 - i) != PROBE_PAINT) probe_die(what);
}

static void probe_open(probe *p, const onnxc_model *m) {
    uint64_t e, element = 0;
    uint32_t i;
    if (m->magic != ONNXC_MAGIC || m->abi_version != ONNXC_ABI_VERSION || m->model_bytes < sizeof *m) probe_die("not a descriptor");
    if (m->n_inputs > PROBE_MOST || m->n_outputs > PROBE_MOST || m->n_dims > PROBE_MOST) probe_die("too many buffers");
    p->model = m;
    for (i = 0; i < m->n_inputs; i++) {
        float *x = (float *)(void *)probe_take(m->inputs[i].bytes, 64);
        if (m->inputs[i].dtype != 1) probe_die("an input is not f32");
        for (e = 0; e < m->inputs[i].bytes / 4; e++, element++) x[e] = ((float)(element * 7 % 13) - 6.0f) / 8.0f;
        p->inputs[i] = x;
    }
    for (i = 0; i < m->n_outputs; i++) p->outputs[i] = probe_take(m->outputs[i].bytes, 64);
    for (i = 0; i < m->n_dims; i++) p->dims[i] = m->dims[i].ranges[m->dims[i].n_ranges - 1].last;
    p->call.dims = p->dims;
    p->call.inputs = p->inputs;
    p->call.outputs = p->outputs;
    p->call.arena = probe_take(m->arena_bytes, m->arena_align);
    p->call.weights = 0;
    p->call.hooks = 0;
}

/* Ends the program when something beside a buffer was written. */
static void probe_check(const probe *p) {
    const onnxc_model *m = p->model;
    uint32_t i;
    for (i = 0; i < m->n_inputs; i++) probe_guards((const unsigned char *)p->inputs[i], m->inputs[i].bytes, "written beside an input");
    for (i = 0; i < m->n_outputs; i++) probe_guards((unsigned char *)p->outputs[i], m->outputs[i].bytes, "written beside an output");
    probe_guards((unsigned char *)p->call.arena, m->arena_bytes, "written beside the arena");
}

/* A line `NAME J HEX` for each output. */
static void probe_print(const probe *p) {
    uint32_t j;
    uint64_t i;
    for (j = 0; j < p->model->n_outputs; j++) {
        printf("%s %u ", p->model->name, (unsigned)j);
        for (i = 0; i < p->model->outputs[j].bytes; i++) printf("%02x", ((unsigned char *)p->outputs[j])[i]);
        printf("\n");
    }
}

/* One inference, checked and printed. */
static void probe_run(const probe *p) {
    int32_t status = p->model->run(&p->call);
    if (status != ONNXC_OK) {
        fprintf(stderr, "probe: %s answered %d\n", p->model->name, (int)status);
        exit(1);
    }
    probe_check(p);
    probe_print(p);
}

#endif
