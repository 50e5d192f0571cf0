/* One model, while another one may be linked unused. */
#include "tiny.h"
#include "probe.h"

int main(void) {
    probe p;
    probe_run(&p, &tiny_model);
    return 0;
}
