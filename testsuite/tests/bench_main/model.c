/* y[i] = 2 x[i], each element a task of the pool when there is one. */
#include "model.h"
#include <stddef.h>

struct job { const float *x; float *y; };

static void twice(void *arg, uint32_t i, uint32_t worker) {
    struct job *job = arg;
    job->y[i] = worker < 2 ? 2 * job->x[i] : -1;
}

static int32_t run(const onnxc_call *call) {
    struct job job = {call->inputs[0], call->outputs[0]};
    if ((uintptr_t)call->arena % 64) return 2;
    if (call->hooks != NULL && call->hooks->parallel_for != NULL) return call->hooks->parallel_for(call->hooks->ctx, 6, twice, &job);
    for (uint32_t i = 0; i < 6; i++) twice(&job, i, 0);
    return 0;
}

static const uint64_t dims[] = {2, 3};
static const onnxc_tensor x = {"x", 1, 2, dims, 24}, y = {"y", 1, 2, dims, 24};
const onnxc_model model_model = {1, 1, &x, &y, 128, 64, 2, run};
