/* Runs a model with open dimensions, or with sizes that data decides on, on raw bytes:  program IN_DIR OUT_DIR VALUE...
 *
 * A value for each open dimension follows the folders. Buffers have just the sizes that the model states for these values, with painted
 * bytes behind them. Reads IN_DIR/input_<i>.bin, writes OUT_DIR/output_<j>.bin and, to standard output, type and extents of each output, as the
 * counts that the run reports say.
 * Without inputs in IN_DIR it fills them with zeros. The exit code is the first status that is not ONNXC_OK.
 */
#include MODEL_HEADER
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD = 64, PAINT = 0xa5 };

static void die(const char *what, const char *which) {
    fprintf(stderr, "open_dims: %s: %s\n", what, which);
    exit(100);
}

static unsigned char *painted(uint64_t bytes) {
    uint64_t all = (bytes + GUARD + 127) / 64 * 64;
    unsigned char *p = aligned_alloc(64, all);
    if (!p) die("no memory", "");
    memset(p, PAINT, all);
    return p;
}

static void guarded(const unsigned char *p, uint64_t bytes, const char *what) {
    for (int i = 0; i < GUARD; i++)
        if (p[bytes + i] != PAINT) die("written behind its end", what);
}

static uint64_t extents(const onnxc_tensor *t, uint32_t n) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += t[i].rank;
    return sum;
}

int main(int argc, char **argv) {
    const onnxc_model *m = &MODEL;
    if (argc != 3 + (int)m->n_dims) die("usage", "program IN_DIR OUT_DIR VALUE...");
    uint64_t *dims = calloc(m->n_dims, sizeof *dims);
    for (uint32_t d = 0; d < m->n_dims; d++) dims[d] = strtoull(argv[3 + d], 0, 10);

    uint64_t *input_dims = calloc(extents(m->inputs, m->n_inputs) + 1, 8), *output_dims = calloc(extents(m->outputs, m->n_outputs) + 1, 8);
    uint64_t *input_bytes = calloc(m->n_inputs + 1, 8), *output_bytes = calloc(m->n_outputs + 1, 8);
    onnxc_sizes sizes = {.input_dims = input_dims, .output_dims = output_dims, .input_bytes = input_bytes, .output_bytes = output_bytes};
    onnxc_sizes arena_only = {.arena_bytes = 0};
    const void **inputs = calloc(m->n_inputs + 1, sizeof *inputs);
    void **outputs = calloc(m->n_outputs + 1, sizeof *outputs);
    int status = m->sizes(dims, &sizes);
    if (status) {
        /* The run must say the same, before it touches anything. */
        for (uint32_t i = 0; i < m->n_inputs; i++) inputs[i] = painted(0);
        for (uint32_t j = 0; j < m->n_outputs; j++) outputs[j] = painted(0);
        onnxc_call call = {.inputs = inputs, .outputs = outputs, .arena = painted(0), .dims = dims};
        if (m->run(&call) != status) die("run and sizes disagree", "");
        for (uint32_t j = 0; j < m->n_outputs; j++) guarded(outputs[j], 0, "output");
        guarded(call.arena, 0, "arena");
        return status;
    }
    if (m->sizes(dims, &arena_only) || arena_only.arena_bytes != sizes.arena_bytes) die("sizes", "without lists");
    if (sizes.arena_bytes > m->arena_bytes || m->sizes(dims, 0) != ONNXC_NULL || (m->n_dims && m->sizes(0, &sizes) != ONNXC_NULL)) die("sizes", "wrong");

    char path[4096];
    for (uint32_t i = 0; i < m->n_inputs; i++) {
        unsigned char *data = painted(input_bytes[i]);
        if (input_bytes[i] > m->inputs[i].bytes) die("larger than the descriptor says", m->inputs[i].name);
        snprintf(path, sizeof path, "%s/input_%u.bin", argv[1], i);
        FILE *f = fopen(path, "rb");
        if (!f || fread(data, 1, input_bytes[i], f) != input_bytes[i] || fgetc(f) != EOF) die("not the model's input", path);
        fclose(f);
        inputs[i] = data;
    }
    for (uint32_t j = 0; j < m->n_outputs; j++) outputs[j] = painted(output_bytes[j]);
    onnxc_call call = {.inputs = inputs, .outputs = outputs, .arena = painted(sizes.arena_bytes)};
    if (m->n_dims && m->run(&call) != ONNXC_NULL) die("run", "without dimensions");
    call.dims = dims;
    if (m->n_counts && m->run(&call) != ONNXC_NULL) die("run", "without a place for counts");
    call.counts = (uint64_t *)painted(8 * m->n_counts);
    status = m->run(&call);
    guarded(call.arena, sizes.arena_bytes, "arena");
    guarded((unsigned char *)call.counts, 8 * m->n_counts, "counts");
    for (uint32_t j = 0; j < m->n_outputs; j++) guarded(outputs[j], output_bytes[j], m->outputs[j].name);
    if (status) return status;
    for (uint32_t c = 0; c < m->n_counts; c++)
        if (call.counts[c] > m->counts[c].bound) die("beyond its bound", m->counts[c].name);

    uint64_t *actual_dims = calloc(extents(m->outputs, m->n_outputs) + 1, 8);
    onnxc_sizes actual = {.output_dims = actual_dims, .counts = call.counts};
    if (m->sizes(dims, &actual)) die("sizes", "with counts");
    const uint64_t *extent = actual_dims, *largest = output_dims;
    for (uint32_t j = 0; j < m->n_outputs; j++) {
        uint64_t elements = 1, most = 1;
        for (uint32_t d = 0; d < m->outputs[j].rank; d++) elements *= extent[d], most *= *largest++;
        if (elements > most) die("larger than its buffer", m->outputs[j].name);
        uint64_t bytes = most ? output_bytes[j] / most * elements : 0;
        snprintf(path, sizeof path, "%s/output_%u.bin", argv[2], j);
        FILE *f = fopen(path, "wb");
        if (!f || fwrite(outputs[j], 1, bytes, f) != bytes || fclose(f)) die("cannot write", path);
        printf("%u", (unsigned)m->outputs[j].dtype);
        for (uint32_t d = 0; d < m->outputs[j].rank; d++) printf(" %llu", (unsigned long long)*extent++);
        printf("\n");
    }
    return 0;
}
