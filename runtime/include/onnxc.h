/* The C ABI of models compiled by onnxc, version 1: docs/abi.md. For C99, C++ and newer; 64-bit targets. */
#ifndef ONNXC_H
#define ONNXC_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ONNXC_MAGIC 0x43584e4fu
#define ONNXC_ABI_VERSION 1u

/* Status codes of a run. */
#define ONNXC_OK 0         /* the inference has run */
#define ONNXC_NULL 1       /* a pointer that the model needs is null */
#define ONNXC_MISALIGNED 2 /* the arena (or the weights) is not aligned as stated */
#define ONNXC_CPU 3        /* the CPU lacks a feature that the code was compiled for */
#define ONNXC_OVERLAP 4    /* an output or the arena overlaps another buffer */
#define ONNXC_NO_WEIGHTS 5 /* the model needs its weight file, or its weights unpacked, and `weights` is null */
#define ONNXC_PARALLEL 6   /* parallel_for answered with an error; outputs are undefined */
#define ONNXC_DATA 7       /* an input's value contradicts the sizes that were compiled; outputs are undefined. From unpack: damaged weights */
#define ONNXC_DIMS 8       /* the model was not compiled for these values of its open dimensions */
#define ONNXC_POINT 9      /* a bundle has no point of this number */

/* Where the weights are. */
#define ONNXC_WEIGHTS_EMBED 0u   /* in the object's read-only data */
#define ONNXC_WEIGHTS_FILE 1u    /* the caller passes the contents of the weight file */
#define ONNXC_WEIGHTS_SECTION 2u /* in a section of their own, which a linker script may place */
#define ONNXC_WEIGHTS_CODED 3u   /* in the object's read-only data, coded; the caller passes what unpack makes of them */

/* A task of parallel_for. */
typedef void (*onnxc_task)(void *arg, uint32_t i, uint32_t worker);

/* What the caller may lend to an inference; every member may be null. */
typedef struct onnxc_hooks {
    void *ctx; /* first argument of the functions */
    /* Runs task(arg, i, worker) for every i < tasks, with worker below the model's max_threads and no worker number in use twice at
     * the same time; returns 0 when all have run. */
    int32_t (*parallel_for)(void *ctx, uint32_t tasks, onnxc_task task, void *arg);
    /* Called at the begin (phase 0) and end (phase 1) of each step, by the thread that called the model. */
    void (*profile)(void *ctx, uint32_t step, uint32_t phase);
} onnxc_hooks;

/* Everything that one inference needs; owned by the caller. */
typedef struct onnxc_call {
    const void *const *inputs; /* one pointer per model input, aligned for the element type */
    void *const *outputs;      /* one pointer per model output, aligned for the element type */
    void *arena;               /* working memory of arena_bytes, aligned to arena_align; contents need not survive between calls */
    const void *weights;       /* the weight file's contents or unpacked weights, 64-byte aligned; null unless weights_mode is _FILE or _CODED */
    const onnxc_hooks *hooks;  /* or null */
    const uint64_t *dims;      /* values of the n_dims open dimensions; not read when there are none */
    uint64_t *counts;          /* where the n_counts sizes go that data decides on; not read when there are none */
} onnxc_call;

/* Values from one to another. */
typedef struct onnxc_range {
    uint64_t first;
    uint64_t last;
} onnxc_range;

/* An open dimension: its value comes with each call. */
typedef struct onnxc_dim {
    const char *name;          /* in the ONNX graph, or the one that the compiler was given */
    const onnxc_range *ranges; /* the values that the model was compiled for, ascending; a single one is a range too */
    uint32_t n_ranges;
    uint32_t input;  /* an input with an axis whose extent is factor times the value */
    uint32_t axis;   /* that axis */
    uint32_t factor; /* extent of the axis for a value of 1 */
} onnxc_dim;

/* A size that the data of a call decide on: extents of outputs. Every call reports it. */
typedef struct onnxc_count {
    const char *name; /* the output and the axis that it is first seen at */
    uint64_t bound;   /* its largest value, which buffers must have room for */
} onnxc_count;

/* What a call with certain values of the open dimensions needs. */
typedef struct onnxc_sizes {
    uint64_t arena_bytes;   /* at most that of the descriptor */
    uint64_t *input_dims;   /* null, or where the extents of all inputs go, one input behind the other */
    uint64_t *output_dims;  /* null, or where the extents of all outputs go */
    uint64_t *input_bytes;  /* null, or where the size of each input goes */
    uint64_t *output_bytes; /* null, or where the size of each output goes: of its buffer, whatever the counts */
    const uint64_t *counts; /* read, not written: null, or the counts that a call has reported; null: output_dims are the largest */
} onnxc_sizes;

/* An input or output: dense, row-major, in the host's byte order. */
typedef struct onnxc_tensor {
    const char *name;     /* name in the ONNX graph, UTF-8 */
    const uint64_t *dims; /* rank extents, outermost first, the largest where dimensions are open; null when the rank is 0 */
    uint64_t bytes;       /* size of a buffer of these extents */
    uint32_t dtype;       /* element type as ONNX numbers it: 1 f32, 2 u8, 3 i8, 6 i32, 7 i64, 9 bool (a byte, 0 or 1), 10 f16, ... */
    uint32_t rank;        /* number of dimensions */
    int32_t alias;        /* output: index of the input whose buffer it may share, or -1; input: -1 */
    uint32_t reserved;    /* zero */
} onnxc_tensor;

/* A step of the model, as profiles number them. */
typedef struct onnxc_step {
    const char *name; /* ONNX nodes that the step does the work of, separated by a space */
    const char *op;   /* mnemonic of the operator */
} onnxc_step;

/* A compiled model: NAME_model. */
typedef struct onnxc_model {
    uint32_t magic;                          /* ONNXC_MAGIC */
    uint32_t abi_version;                    /* ONNXC_ABI_VERSION */
    uint32_t model_bytes;                    /* size of this struct */
    uint32_t tensor_bytes;                   /* size of onnxc_tensor */
    const char *name;                        /* prefix of the model's symbols */
    const char *producer;                    /* name and version of the compiler */
    const char *target;                      /* target triple */
    const char *cpu_features;                /* CPU features that the code needs, separated by a space */
    int32_t (*run)(const onnxc_call *call);  /* the inference: a status, ONNXC_OK or another code */
    const onnxc_tensor *inputs;              /* n_inputs inputs */
    const onnxc_tensor *outputs;             /* n_outputs outputs */
    const onnxc_step *steps;                 /* n_steps steps */
    uint32_t n_inputs;
    uint32_t n_outputs;
    uint32_t n_steps;
    uint32_t max_threads;        /* most workers that a parallel_for may use */
    uint64_t arena_bytes;        /* arena_shared + max_threads * scratch_per_thread */
    uint64_t arena_shared;       /* the part of the arena that all workers share */
    uint64_t scratch_per_thread; /* the part of the arena that each worker has for itself */
    uint64_t arena_align;        /* a power of two */
    uint64_t stack_bytes;        /* deepest stack of run and of a task, hooks not counted */
    uint64_t weights_bytes;
    uint32_t weights_mode;       /* an ONNXC_WEIGHTS_ code */
    uint32_t reserved;           /* zero */
    uint8_t model_sha256[32];    /* of the ONNX file */
    uint8_t weights_sha256[32];  /* of the weights when the caller passes them, otherwise zeros */
    /* Fills in *sizes for these values of the open dimensions (null when there are none): ONNXC_OK or another code. */
    int32_t (*sizes)(const uint64_t *dims, onnxc_sizes *sizes);
    const onnxc_dim *dims;       /* n_dims open dimensions */
    uint32_t n_dims;             /* 0 when all shapes were fixed by the compiler */
    uint32_t dim_bytes;          /* size of onnxc_dim */
    const onnxc_count *counts;   /* n_counts sizes that data decides on */
    uint32_t n_counts;
    uint32_t count_bytes;        /* size of onnxc_count */
    /* Decodes the weights of ONNXC_WEIGHTS_CODED into weights_bytes of memory aligned to 64 bytes: a status; null in other modes. */
    int32_t (*unpack)(void *weights);
    uint64_t coded_bytes;        /* what the object has of coded weights, otherwise 0 */
    uint64_t unpack_stack_bytes; /* deepest stack of unpack, otherwise 0 */
} onnxc_model;

/* A point of a bundle, one of several forms of a model that were compiled together: NAME_points. */
typedef struct onnxc_point {
    const char *name;         /* of its recipe, or "dense" */
    const onnxc_model *model; /* the point as a model like others: its own run, sizes, steps, arena_bytes and stack_bytes */
    double predicted_seconds; /* of an inference on the target */
    double drop;              /* what is lost of the metric that its recipe states, 0 to 1; 0 for dense, negative: not known */
    uint64_t arena_bytes;     /* as in its model */
    uint64_t weights_bytes;   /* of the weights that it reads; weights_bytes of its model is that of all points */
} onnxc_point;

#ifdef __cplusplus
}
#endif

#endif /* ONNXC_H */
