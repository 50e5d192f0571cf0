/* A bundle beside the archives that its points are by themselves: every point answers what they answer, through its descriptor and through the selector.
 * The argument, if there is one, is the weight file of the bundle; coded weights are decoded once for all points. */
#include "net.h"
#include "dense.h"
#include "tight.h"
#include "loose.h"
#include "probe.h"

#include <string.h>

static const onnxc_model *const alone[NET_POINT_COUNT] = {&dense_model, &tight_model, &loose_model};
static const char *const names[NET_POINT_COUNT] = {"dense", "tight", "loose"};
static const uint64_t arena[NET_POINT_COUNT] = {NET_POINT_0_ARENA_BYTES, NET_POINT_1_ARENA_BYTES, NET_POINT_2_ARENA_BYTES};
static const uint64_t stack[NET_POINT_COUNT] = {NET_POINT_0_STACK_BYTES, NET_POINT_1_STACK_BYTES, NET_POINT_2_STACK_BYTES};
static const uint64_t weights[NET_POINT_COUNT] = {NET_POINT_0_WEIGHTS_BYTES, NET_POINT_1_WEIGHTS_BYTES, NET_POINT_2_WEIGHTS_BYTES};
typedef char places[NET_POINT_DENSE == 0 && NET_POINT_TIGHT == 1 && NET_POINT_LOOSE == 2 ? 1 : -1];

static void facts(uint32_t i) {
    const onnxc_point *p = &net_points[i];
    const onnxc_model *m = p->model;
    if (strcmp(p->name, names[i]) != 0) probe_die("the point has another name");
    if (m->arena_bytes != arena[i] || p->arena_bytes != arena[i] || m->arena_bytes != alone[i]->arena_bytes || arena[i] > NET_ARENA_BYTES)
        probe_die("the arena has another size");
    if (m->stack_bytes != stack[i] || stack[i] > NET_STACK_BYTES) probe_die("the stack has another size");
    if (p->weights_bytes != weights[i] || weights[i] != alone[i]->weights_bytes || m->weights_bytes != NET_WEIGHTS_BYTES)
        probe_die("the weights have another size");
    if (m->n_steps != alone[i]->n_steps || strcmp(m->steps[0].name, alone[i]->steps[0].name) != 0) probe_die("the steps are others");
    if (!(p->predicted_seconds > 0.0) || (i == 0 ? p->drop != 0.0 : !(p->drop >= 0.0 && p->drop < 0.5))) probe_die("no prediction, or no drop");
}

static uint32_t begun, most;

static void step(void *ctx, uint32_t number, uint32_t phase) {
    (void)ctx;
    begun += phase == 0;
    if (number > most) most = number;
}

static void *file_of(const char *path) {
    void *to = probe_take(NET_WEIGHTS_BYTES, 64);
    FILE *f = fopen(path, "rb");
    if (f == 0 || fread(to, 1, NET_WEIGHTS_BYTES, f) != NET_WEIGHTS_BYTES || fgetc(f) != EOF) probe_die("the weight file has another size");
    fclose(f);
    return to;
}

static void *unpacked(void) {
    const onnxc_model *m = net_points[0].model;
    void *to = probe_take(m->weights_bytes, 64);
    if (net_points[1].model->unpack != m->unpack || m->coded_bytes == 0 || m->unpack(to) != ONNXC_OK) probe_die("the weights are not decoded");
    return to;
}

int main(int argc, char **argv) {
    const void *file = argc > 1 ? file_of(argv[1]) : net_points[0].model->unpack != 0 ? unpacked() : 0;
    uint32_t i;
    probe own[NET_POINT_COUNT], single;
    if (net_point_count != NET_POINT_COUNT) probe_die("header and object differ");
    for (i = 0; i < NET_POINT_COUNT; i++) {
        onnxc_hooks hooks = {0, 0, step};
        onnxc_sizes sizes = {0, 0, 0, 0, 0, 0};
        uint64_t bytes = net_points[i].model->outputs[0].bytes;
        facts(i);
        probe_open(&own[i], net_points[i].model);
        probe_open(&single, alone[i]);
        own[i].call.weights = file;
        own[i].call.hooks = &hooks;
        probe_run(&own[i]);
        probe_run(&single);
        if (memcmp(own[i].outputs[0], single.outputs[0], bytes) != 0) probe_die("the point answers something else");
        if (begun == 0 || begun > own[i].model->n_steps || most >= own[i].model->n_steps) probe_die("profiles count the steps of other points");
        begun = most = 0;
        own[i].call.hooks = 0;
        memset(own[i].outputs[0], 0, bytes);
        if (net_run(i, &own[i].call) != ONNXC_OK) probe_die("the selector does not run the point");
        probe_check(&own[i]);
        if (memcmp(own[i].outputs[0], single.outputs[0], bytes) != 0) probe_die("the selector runs another point");
        if (net_sizes(i, 0, &sizes) != ONNXC_OK || sizes.arena_bytes != arena[i]) probe_die("the selector has other sizes");
        if (net_sizes(NET_POINT_COUNT, 0, &sizes) != ONNXC_POINT) probe_die("sizes of no point");
        if (net_run(i, 0) != ONNXC_NULL) probe_die("a point without a call");
    }
    for (i = 0; i < NET_POINT_COUNT - 1; i++)
        if (memcmp(own[i].outputs[0], own[i + 1].outputs[0], own[i].model->outputs[0].bytes) == 0) probe_die("two points answer the same");
    memset(own[0].outputs[0], 0x5a, own[0].model->outputs[0].bytes);
    if (net_run(NET_POINT_COUNT, &own[0].call) != ONNXC_POINT || net_run(0xffffffffu, &own[0].call) != ONNXC_POINT)
        probe_die("there are more points than there are");
    if (*(unsigned char *)own[0].outputs[0] != 0x5a) probe_die("no point has written");
    return (int)sizeof(places) - 1;
}
