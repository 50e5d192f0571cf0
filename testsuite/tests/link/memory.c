/* How much of the arena and of the stack a model uses: `arena USED STATED SHARED` and `stack USED STATED`, after the outputs.
 *
 * The arena's contents are compared after two runs that began with different paint: a byte that the model writes differs from at
 * least one of them.
 */
#include MODEL_HEADER
#define STACK_CALL(call) MODEL.run((const onnxc_call *)(call))
#include "stack.h"
#include <string.h>

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
