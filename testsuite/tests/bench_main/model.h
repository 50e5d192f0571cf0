/* The part of the ABI that the benchmark's main program reads, for a model written by hand. */
#include <stdint.h>
typedef struct onnxc_tensor { const char *name; uint32_t dtype, rank; const uint64_t *dims; uint64_t bytes; } onnxc_tensor;
typedef struct onnxc_hooks {
    void *ctx;
    int (*parallel_for)(void *ctx, uint32_t tasks, void (*task)(void *arg, uint32_t i, uint32_t worker), void *arg);
    void (*profile)(void *ctx, uint32_t step, uint32_t phase);
} onnxc_hooks;
typedef struct onnxc_call {
    const void *const *inputs;
    void *const *outputs;
    void *arena;
    const void *weights;
    const onnxc_hooks *hooks;
} onnxc_call;
typedef struct onnxc_model {
    uint32_t n_inputs, n_outputs;
    const onnxc_tensor *inputs, *outputs;
    uint64_t arena_bytes, arena_align;
    uint32_t max_threads;
    int32_t (*run)(const onnxc_call *call);
} onnxc_model;
extern const onnxc_model model_model;
