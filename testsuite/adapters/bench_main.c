/* Times a compiled model by native calls; speaks the line protocol of testsuite/zoo/bench_peers.py.
 *
 *   program IN_DIR THREADS      reads IN_DIR/input_<i>.npy, prints `ready`, then answers lines of standard input:
 *   run N                       N timed inferences, their times in ns on one line
 *   out DIR                     one inference, DIR/output_<j>.npy written, `ok` printed
 *   anything else, or the end   leaves
 *
 * Knows no model: everything comes from the descriptor MODEL that MODEL_HEADER declares.
 */
#define _GNU_SOURCE
#include MODEL_HEADER
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void die(const char *what, const char *which) {
    fprintf(stderr, "bench: %s: %s\n", what, which);
    exit(1);
}

/* ---- a thread pool behind parallel_for: workers spin briefly, then sleep. Each has tasks of its own, the same ones in every layer, so that it finds
 * what it has written in its caches; who is done takes others'. ---- */

enum { MAX_THREADS = 64 };

typedef void task_fn(void *arg, uint32_t i, uint32_t worker);
static struct {
    uint32_t threads; /* the caller included */
    task_fn *task;
    void *arg;
    uint32_t tasks;
    _Atomic uint32_t busy, generation;
    struct {
        _Atomic uint32_t next;
        char apart[60];
    } of[MAX_THREADS];
    pthread_mutex_t lock;
    pthread_cond_t wake;
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void take_tasks(uint32_t worker) {
    uint32_t n = pool.threads;
    for (uint32_t k = 0; k < n; k++) {
        uint32_t owner = (worker + k) % n, end = (uint32_t)((uint64_t)(owner + 1) * pool.tasks / n);
        for (uint32_t i; (i = atomic_fetch_add(&pool.of[owner].next, 1)) < end;) pool.task(pool.arg, i, worker);
    }
}

static void *work(void *number) {
    uint32_t worker = (uint32_t)(uintptr_t)number, seen = 0;
    for (;;) {
        for (int spin = 0; spin < 20000 && atomic_load(&pool.generation) == seen; spin++) relax();
        if (atomic_load(&pool.generation) == seen) {
            pthread_mutex_lock(&pool.lock);
            while (atomic_load(&pool.generation) == seen) pthread_cond_wait(&pool.wake, &pool.lock);
            pthread_mutex_unlock(&pool.lock);
        }
        seen = atomic_load(&pool.generation);
        take_tasks(worker);
        atomic_fetch_sub(&pool.busy, 1);
    }
    return NULL;
}

static int parallel_for(void *ctx, uint32_t tasks, task_fn *task, void *arg) {
    (void)ctx;
    pool.task = task, pool.arg = arg, pool.tasks = tasks;
    for (uint32_t w = 0; w < pool.threads; w++) atomic_store(&pool.of[w].next, (uint32_t)((uint64_t)w * tasks / pool.threads));
    atomic_store(&pool.busy, pool.threads - 1);
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.generation, 1);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    take_tasks(0);
    while (atomic_load(&pool.busy)) relax();
    return 0;
}

/* ---- npy files ---- */

static void read_npy(const char *path, void *to, size_t bytes) {
    FILE *f = fopen(path, "rb");
    unsigned char head[12];
    if (!f || fread(head, 1, 10, f) != 10 || memcmp(head, "\x93NUMPY", 6)) die("not an npy file", path);
    size_t length = head[8] | head[9] << 8;
    if (head[6] != 1) {
        if (fread(head + 10, 1, 2, f) != 2) die("truncated", path);
        length |= (size_t)head[10] << 16 | (size_t)head[11] << 24;
    }
    if (fseek(f, (long)length, SEEK_CUR) || fread(to, 1, bytes, f) != bytes || fgetc(f) != EOF)
        die("the data has another size than the model's input", path);
    fclose(f);
}

static const char *descr(uint32_t dtype) {
    static const char *const names[] = {"", "<f4", "|u1", "|i1", "<u2", "<i2", "<i4", "<i8", "", "|b1", "<f2", "<f8", "<u4", "<u8"};
    return dtype < sizeof names / sizeof *names && *names[dtype] ? names[dtype] : "|V1";
}

static void write_npy(const char *path, const onnxc_tensor *t, const void *data) {
    char header[512];
    int n = snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr(t->dtype));
    for (uint32_t i = 0; i < t->rank; i++) n += snprintf(header + n, sizeof header - n, "%llu, ", (unsigned long long)t->dims[i]);
    n += snprintf(header + n, sizeof header - n, "), }");
    while ((n + 11) % 64) header[n++] = ' ';
    header[n++] = '\n';
    FILE *f = fopen(path, "wb");
    if (!f) die("cannot write", path);
    fwrite("\x93NUMPY\x01", 1, 8, f); /* the string's own 0 is the minor version */
    fputc(n & 255, f), fputc(n >> 8, f);
    fwrite(header, 1, (size_t)n, f);
    fwrite(data, 1, t->bytes, f);
    if (fclose(f)) die("cannot write", path);
}

/* ---- */

static void *aligned(size_t bytes, size_t align) {
    void *p = NULL;
    if (align < sizeof(void *)) align = sizeof(void *);
    if (posix_memalign(&p, align, bytes ? bytes : 1)) die("no memory", "");
    memset(p, 0, bytes);
    return p;
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void infer(const onnxc_call *call) {
    int32_t status = MODEL.run(call);
    if (status) {
        fprintf(stderr, "bench: run returned %d\n", (int)status);
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 3) die("usage", "program IN_DIR THREADS");
    const onnxc_model *m = &MODEL;
    char path[4096], line[4096];
    void **inputs = calloc(m->n_inputs + 1u, sizeof *inputs), **outputs = calloc(m->n_outputs + 1u, sizeof *outputs);
    for (uint32_t i = 0; i < m->n_inputs; i++) {
        inputs[i] = aligned(m->inputs[i].bytes, 64);
        snprintf(path, sizeof path, "%s/input_%u.npy", argv[1], i);
        read_npy(path, inputs[i], m->inputs[i].bytes);
    }
    for (uint32_t j = 0; j < m->n_outputs; j++) outputs[j] = aligned(m->outputs[j].bytes, 64);

    onnxc_hooks hooks = {0};
    pool.threads = (uint32_t)atoi(argv[2]);
    if (pool.threads < 1 || pool.threads > MAX_THREADS || pool.threads > m->max_threads) die("the model was compiled for fewer threads than", argv[2]);
    if (pool.threads > 1) hooks.parallel_for = parallel_for;
    for (uintptr_t worker = 1; worker < pool.threads; worker++) {
        pthread_t t;
        if (pthread_create(&t, NULL, work, (void *)worker)) die("cannot start a thread", "");
    }
    onnxc_call call = {.inputs = (const void *const *)inputs, .outputs = outputs, .arena = aligned(m->arena_bytes, m->arena_align), .hooks = &hooks};
    infer(&call); /* a model that refuses must not say ready */
    puts("ready");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        if (!strncmp(line, "run ", 4)) {
            long n = atol(line + 4);
            uint64_t *ns = calloc((size_t)(n > 0 ? n : 1), sizeof *ns);
            infer(&call); /* one untimed run, as the other engines do, brings the caches back */
            for (long i = 0; i < n; i++) {
                uint64_t start = now_ns();
                infer(&call);
                ns[i] = now_ns() - start;
            }
            for (long i = 0; i < n; i++) printf("%llu ", (unsigned long long)ns[i]);
            free(ns);
            puts("");
        } else if (!strncmp(line, "out ", 4)) {
            infer(&call);
            for (uint32_t j = 0; j < m->n_outputs; j++) {
                if (snprintf(path, sizeof path, "%.4000s/output_%u.npy", line + 4, j) < 0) die("path", line);
                write_npy(path, &m->outputs[j], outputs[j]);
            }
            puts("ok");
        } else {
            break;
        }
        fflush(stdout);
    }
    return 0;
}
