/* One model, while another one may be linked unused. */
#include "tiny.h"
#include "probe.h"

int main(void) {
    probe p;
    probe_open(&p, &tiny_model);
    probe_run(&p);
    return 0;
}
