/* Runs a compiled model on a machine without operating system or C library, and checks what the descriptor promises.
 *
 * Inputs are f32 with the values ((7 i) mod 13 - 6) / 8, i counted over all inputs. Prints a line `output J HEX` per output and
 * the stack (used, stated); exit code 0 when everything held.
 */
#include MODEL_HEADER
#include "board.h"

enum { CANARY = 64, POOL = 1 << 20, PAINT = 0xa5 };

static unsigned char pool[POOL] __attribute__((aligned(4096)));
static uint64_t used;

static void fail(const char *why, int code) {
    put_text(why);
    put_text("\n");
    board_exit(code);
}

static unsigned char *take(uint64_t bytes, uint64_t align) {
    used = (used + align - 1) / align * align;
    if (bytes > POOL || used > POOL - bytes) fail("the pool is too small", 2);
    unsigned char *p = pool + used;
    used += bytes;
    return p;
}

/* A buffer with painted bytes on both sides. */
static unsigned char *guarded(uint64_t bytes, uint64_t align) {
    unsigned char *before = take(CANARY, align > CANARY ? align : CANARY), *p = take(bytes, align), *after = take(CANARY, 1);
    for (unsigned char *c = before; c < after + CANARY; c++) *c = PAINT;
    return p;
}

static void check_guard(const unsigned char *p, uint64_t bytes, const char *what) {
    for (int i = 1; i <= CANARY; i++)
        if (p[-i] != PAINT || p[bytes + (uint64_t)i - 1] != PAINT) fail(what, 3);
}

static void report(const char *what, uint64_t is, uint64_t stated) {
    put_text(what);
    put_number(is);
    put_text(" of ");
    put_number(stated);
    put_text("\n");
}

/* Runs on a painted stack; returns how deep the model went. Nothing else is called here, so all paint that is gone is the model's work. */
static __attribute__((noinline)) uint64_t run_painted(const onnxc_call *call, int32_t *status) {
    register unsigned char *sp __asm__("sp");
    unsigned char *top;
    __asm__ volatile("" : "=r"(top) : "0"(sp));
    for (volatile unsigned char *p = _stack_low; p < top; p++) *p = PAINT;
    *status = MODEL.run(call);
    volatile unsigned char *low = _stack_low;
    while (low < top && *low == PAINT) low++;
    return (uint64_t)(top - low);
}

/* FNV-1a. */
static uint64_t outputs_hash(const onnxc_model *m, void *const *outputs) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (uint32_t j = 0; j < m->n_outputs; j++)
        for (uint64_t i = 0; i < m->outputs[j].bytes; i++) hash = (hash ^ ((unsigned char *)outputs[j])[i]) * 0x100000001b3u;
    return hash;
}

int main(void) {
    const onnxc_model *m = &MODEL;
    if (m->magic != ONNXC_MAGIC || m->abi_version != ONNXC_ABI_VERSION || m->model_bytes < sizeof *m) fail("not a descriptor", 4);
    const void *inputs[16];
    void *outputs[16];
    if (m->n_inputs > 16 || m->n_outputs > 16) fail("too many buffers", 2);
    unsigned element = 0;
    for (uint32_t i = 0; i < m->n_inputs; i++) {
        if (m->inputs[i].dtype != 1) fail("an input is not f32", 2);
        float *x = (float *)(void *)guarded(m->inputs[i].bytes, 64);
        for (uint64_t e = 0; e < m->inputs[i].bytes / 4; e++, element++) x[e] = ((float)(element * 7 % 13) - 6.0f) / 8.0f;
        inputs[i] = x;
    }
    for (uint32_t j = 0; j < m->n_outputs; j++) outputs[j] = guarded(m->outputs[j].bytes, 64);
    unsigned char *arena = guarded(m->arena_bytes, m->arena_align);
    onnxc_call call = {.inputs = inputs, .outputs = outputs, .arena = arena};

    int32_t status;
    uint64_t stack = run_painted(&call, &status);
    if (status != ONNXC_OK) report("run answered ", (uint64_t)status, 0), board_exit(5);
    for (uint32_t j = 0; j < m->n_outputs; j++) {
        check_guard(outputs[j], m->outputs[j].bytes, "written beside an output");
        put_text("output ");
        put_number(j);
        put_text(" ");
        put_hex(outputs[j], m->outputs[j].bytes);
        put_text("\n");
    }
    for (uint32_t i = 0; i < m->n_inputs; i++) check_guard(inputs[i], m->inputs[i].bytes, "written beside an input");
    check_guard(arena, m->arena_bytes, "written beside the arena");
    report("stack ", stack, m->stack_bytes);
    if (stack > m->stack_bytes) fail("the stack is deeper than stated", 6);

    /* The first run found paint in the arena, the second finds what the first one left: that must not matter. */
    uint64_t first = outputs_hash(m, outputs);
    if (MODEL.run(&call) != ONNXC_OK || outputs_hash(m, outputs) != first) fail("a second run answers something else", 7);
    call.arena = arena + 1;
    if (m->arena_bytes && MODEL.run(&call) != ONNXC_MISALIGNED) fail("a misaligned arena was taken", 7);
    call.arena = arena;
    call.inputs = 0;
    if (m->n_inputs && MODEL.run(&call) != ONNXC_NULL) fail("no inputs were taken", 7);
    put_text("done\n");
    return 0;
}
