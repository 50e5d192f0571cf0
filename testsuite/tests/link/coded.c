/* A model with coded weights beside the same one with its weights in the object: both give the same bytes. Prints the outputs, `stack USED STATED` and
 * `sizes CODED WEIGHTS`. */
#include "coded.h"
#include "plain.h"
#define STACK_CALL(weights) coded_unpack(weights)
#include "stack.h"
#include <string.h>

int main(void) {
    const onnxc_model *m = &coded_model;
    probe p, plain;
    unsigned char *weights = probe_take(m->weights_bytes, 64);
    uint64_t used, i;
    if (m->weights_mode != ONNXC_WEIGHTS_CODED || m->unpack != coded_unpack || m->weights_bytes != CODED_WEIGHTS_BYTES) probe_die("not coded");
    if (m->coded_bytes != CODED_CODED_BYTES || m->unpack_stack_bytes != CODED_UNPACK_STACK_BYTES) probe_die("header and descriptor differ");
    if (plain_model.unpack != 0 || plain_model.coded_bytes != 0) probe_die("embedded weights are not coded");
    probe_open(&p, m);
    probe_open(&plain, &plain_model);
    printf("status without %d\n", (int)m->run(&p.call));
    printf("status nowhere %d\n", (int)m->unpack(0));
    printf("status misaligned %d\n", (int)m->unpack(weights + 4));
    used = stack_used(weights);
    probe_guards(weights, m->weights_bytes, "written beside the weights");
    p.call.weights = weights;
    probe_run(&p);
    probe_run(&plain);
    for (i = 0; i < m->n_outputs; i++)
        if (memcmp(p.outputs[i], plain.outputs[i], (size_t)m->outputs[i].bytes) != 0) probe_die("coded weights answer something else");
    printf("stack %llu %llu\n", (unsigned long long)used, (unsigned long long)m->unpack_stack_bytes);
    printf("sizes %llu %llu\n", (unsigned long long)m->coded_bytes, (unsigned long long)m->weights_bytes);
    return 0;
}
