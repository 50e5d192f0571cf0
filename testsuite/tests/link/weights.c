/* A model with its weights in a file: `weights FILE`. Without the file it refuses, with it it runs. */
#include MODEL_HEADER
#include "probe.h"

int main(int n, char **argument) {
    const onnxc_model *m = &MODEL;
    probe p;
    FILE *file;
    unsigned char *weights;
    if (n != 2 || m->weights_mode != ONNXC_WEIGHTS_FILE || m->weights_bytes == 0) probe_die("not a model with a weight file");
    probe_open(&p, m);
    printf("status without %d\n", (int)m->run(&p.call));
    weights = probe_take(m->weights_bytes, 64);
    file = fopen(argument[1], "rb");
    if (file == 0 || fread(weights, 1, (size_t)m->weights_bytes, file) != m->weights_bytes || fgetc(file) != EOF)
        probe_die("the weight file has another size");
    fclose(file);
    p.call.weights = weights + 4;
    printf("status misaligned %d\n", (int)m->run(&p.call));
    p.call.weights = weights;
    probe_run(&p);
    probe_guards(weights, m->weights_bytes, "written beside the weights");
    return 0;
}
