/* Tells the type of each file that is named on the command line, by the magika network: 1024 bytes from its begin and 1024 from its end. */
#include "magika.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { BEGIN = 1024, END = 1024, BLOCK = 4096, PADDING = 256 };

static const char *const labels[] = {
#include "labels.inc"
};

static int32_t tokens[BEGIN + END];
static float scores[sizeof labels / sizeof *labels];
static _Alignas(MAGIKA_ARENA_ALIGN) unsigned char arena[MAGIKA_ARENA_BYTES];

_Static_assert(sizeof tokens == MAGIKA_INPUT_0_BYTES, "input");
_Static_assert(sizeof scores == MAGIKA_OUTPUT_0_BYTES, "output");

/* White space as magika strips it. */
static int blank(unsigned char c) {
    return c < 128 && isspace(c);
}

static int read_tokens(const char *path) {
    unsigned char block[BLOCK];
    FILE *f = fopen(path, "rb");
    if (!f) return -1;
    for (size_t i = 0; i < BEGIN + END; i++) tokens[i] = PADDING;
    size_t n = fread(block, 1, BLOCK, f), skip = 0;
    while (skip < n && blank(block[skip])) skip++;
    for (size_t i = 0; i < BEGIN && skip + i < n; i++) tokens[i] = block[skip + i];
    if (fseek(f, 0, SEEK_END)) return -1;
    long size = ftell(f);
    if (fseek(f, size > BLOCK ? size - BLOCK : 0, SEEK_SET)) return -1;
    n = fread(block, 1, BLOCK, f);
    while (n && blank(block[n - 1])) n--;
    for (size_t i = 0; i < END && i < n; i++) tokens[BEGIN + END - 1 - i] = block[n - 1 - i];
    return fclose(f);
}

int main(int argc, char **argv) {
    const void *inputs[] = {tokens};
    void *outputs[] = {scores};
    onnxc_call call = {.inputs = inputs, .outputs = outputs, .arena = arena};
    for (int i = 1; i < argc; i++) {
        if (read_tokens(argv[i])) {
            perror(argv[i]);
            return 1;
        }
        int32_t status = magika_run(&call);
        if (status != ONNXC_OK) {
            fprintf(stderr, "the model answered with status %d\n", (int)status);
            return 1;
        }
        size_t best = 0;
        for (size_t k = 1; k < sizeof scores / sizeof *scores; k++)
            if (scores[k] > scores[best]) best = k;
        const char *name = strrchr(argv[i], '/');
        printf("%-16s %-12s %5.1f %%\n", name ? name + 1 : argv[i], labels[best], 100 * (double)scores[best]);
    }
    return 0;
}
