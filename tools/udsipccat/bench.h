/* --bench: how fast messages go. */
#ifndef UDSIPCCAT_BENCH_H
#define UDSIPCCAT_BENCH_H

#include "options.h"

/* Measures and prints, and returns an exit code. Starts a reader of its own if no path is given. */
int bench(const struct options *options);

#endif
