/* Runs a compiled model once on raw bytes:  program IN_DIR OUT_DIR
 *
 * Reads IN_DIR/input_<i>.bin, writes OUT_DIR/output_<j>.bin and, to standard output, a line for each output: type code and extents,
 * as the counts that the run reports say.
 * An output that may have an input's buffer is given it. The exit code is the model's status. Knows no model: everything comes from the descriptor `model_model`.
 */
#include "onnxc.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const onnxc_model model_model;

static void die(const char *what, const char *which) {
    fprintf(stderr, "raw: %s: %s\n", what, which);
    exit(100);
}

static void *aligned(size_t bytes, size_t align) {
    size_t step = align < 64 ? 64 : align;
    void *p = aligned_alloc(step, (bytes / step + 1) * step);
    if (!p) die("no memory", "");
    memset(p, 0, bytes);
    return p;
}

int main(int argc, char **argv) {
    if (argc != 3) die("usage", "program IN_DIR OUT_DIR");
    const onnxc_model *m = &model_model;
    const void **inputs = calloc(m->n_inputs + 1, sizeof *inputs);
    void **outputs = calloc(m->n_outputs + 1, sizeof *outputs);
    char path[4096];
    for (uint32_t i = 0; i < m->n_inputs; i++) {
        void *data = aligned(m->inputs[i].bytes, 64);
        snprintf(path, sizeof path, "%s/input_%u.bin", argv[1], i);
        FILE *f = fopen(path, "rb");
        if (!f || fread(data, 1, m->inputs[i].bytes, f) != m->inputs[i].bytes || fgetc(f) != EOF) die("not the model's input", path);
        fclose(f);
        inputs[i] = data;
    }
    for (uint32_t j = 0; j < m->n_outputs; j++) {
        int32_t alias = m->outputs[j].alias;
        outputs[j] = alias < 0 ? aligned(m->outputs[j].bytes, 64) : (void *)inputs[alias];
    }
    onnxc_call call = {.inputs = inputs, .outputs = outputs, .arena = aligned(m->arena_bytes, m->arena_align)};
    call.counts = calloc(m->n_counts + 1, sizeof *call.counts);
    int status = m->run(&call);
    if (status) return status;
    uint64_t ranks = 1;
    for (uint32_t j = 0; j < m->n_outputs; j++) ranks += m->outputs[j].rank;
    uint64_t *extents = calloc(ranks, sizeof *extents);
    onnxc_sizes sizes = {.output_dims = extents, .counts = call.counts};
    if (m->sizes(0, &sizes)) die("no sizes", "");
    for (uint32_t j = 0; j < m->n_outputs; j++) {
        const onnxc_tensor *t = &m->outputs[j];
        uint64_t elements = 1, most = 1;
        for (uint32_t d = 0; d < t->rank; d++) elements *= extents[d], most *= t->dims[d];
        uint64_t bytes = elements == most ? t->bytes : t->bytes / most * elements;
        snprintf(path, sizeof path, "%s/output_%u.bin", argv[2], j);
        FILE *f = fopen(path, "wb");
        if (!f || fwrite(outputs[j], 1, bytes, f) != bytes || fclose(f)) die("cannot write", path);
        printf("%u", (unsigned)t->dtype);
        for (uint32_t d = 0; d < t->rank; d++) printf(" %llu", (unsigned long long)*extents++);
        printf("\n");
    }
    return 0;
}
