/* Loads a shared library with models: `load LIBRARY SYMBOL...` runs each. */
#include "tiny.h"
#include "probe.h"
#include <dlfcn.h>

int main(int n, char **argument) {
    if (n < 3) probe_die("usage: load LIBRARY SYMBOL...");
    void *library = dlopen(argument[1], RTLD_NOW);
    if (library == 0) probe_die(dlerror());
    for (int i = 2; i < n; i++) {
        const onnxc_model *m = dlsym(library, argument[i]);
        if (m == 0) probe_die(dlerror());
        probe p;
        probe_open(&p, m);
        probe_run(&p);
    }
    return dlclose(library);
}
