/* Eight threads share one model, each with its own arena; then one inference with a parallel_for of four workers, which must give the
 * same bytes. Prints the outputs, and `tasks N` with the number of tasks that parallel_for was given.
 */
#include MODEL_HEADER
#include "probe.h"
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { SHARERS = 8, ROUNDS = 4, WORKERS = 4 };

static void same(const probe *a, const probe *b, const char *what) {
    for (uint32_t j = 0; j < a->model->n_outputs; j++)
        if (memcmp(a->outputs[j], b->outputs[j], a->model->outputs[j].bytes)) probe_die(what);
}

static void *share(void *argument) {
    probe *p = argument;
    for (int i = 0; i < ROUNDS; i++) {
        for (uint32_t j = 0; j < p->model->n_outputs; j++) memset(p->outputs[j], i, p->model->outputs[j].bytes);
        if (p->model->run(&p->call) != ONNXC_OK) probe_die("a thread was refused");
    }
    probe_check(p);
    return 0;
}

typedef struct {
    onnxc_task task;
    void *argument;
    uint32_t tasks, worker;
    atomic_uint *next;
} job;

static atomic_uint tasks_seen, parallel_calls;

static void *work(void *argument) {
    job *j = argument;
    for (uint32_t i; (i = atomic_fetch_add(j->next, 1)) < j->tasks;) j->task(j->argument, i, j->worker);
    return 0;
}

static int32_t parallel_for(void *ctx, uint32_t tasks, onnxc_task task, void *argument) {
    pthread_t threads[WORKERS];
    job jobs[WORKERS];
    atomic_uint next = 0;
    if (ctx != &tasks_seen) return 1;
    tasks_seen += tasks;
    parallel_calls++;
    for (uint32_t w = 0; w < WORKERS; w++) {
        jobs[w] = (job){task, argument, tasks, w, &next};
        if (w && pthread_create(&threads[w], 0, work, &jobs[w])) return 1;
    }
    work(&jobs[0]);
    for (uint32_t w = 1; w < WORKERS; w++)
        if (pthread_join(threads[w], 0)) return 1;
    return 0;
}

static int32_t refuse(void *ctx, uint32_t tasks, onnxc_task task, void *argument) {
    (void)ctx, (void)tasks, (void)task, (void)argument;
    return 7;
}

int main(void) {
    const onnxc_model *m = &MODEL;
    probe alone, shared[SHARERS], parallel;
    pthread_t threads[SHARERS];
    if (m->max_threads != WORKERS) probe_die("compiled for another number of threads");
    probe_open(&alone, m);
    probe_run(&alone);
    for (int i = 0; i < SHARERS; i++) {
        probe_open(&shared[i], m);
        if (pthread_create(&threads[i], 0, share, &shared[i])) probe_die("thread");
    }
    for (int i = 0; i < SHARERS; i++) {
        if (pthread_join(threads[i], 0)) probe_die("thread");
        same(&alone, &shared[i], "a thread got another result");
    }
    onnxc_hooks hooks = {&tasks_seen, parallel_for, 0};
    probe_open(&parallel, m);
    parallel.call.hooks = &hooks;
    for (int i = 0; i < ROUNDS; i++) {
        if (m->run(&parallel.call) != ONNXC_OK) probe_die("refused with parallel_for");
        same(&alone, &parallel, "four workers got another result");
    }
    probe_check(&parallel);
    printf("tasks %u calls %u\n", tasks_seen / ROUNDS, parallel_calls / ROUNDS);
    hooks.parallel_for = refuse;
    printf("refused %d\n", (int)m->run(&parallel.call));
    return 0;
}
