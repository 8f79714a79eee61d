/* --stat: what can be known about a path without connecting to it. */
#ifndef UDSIPCCAT_STAT_H
#define UDSIPCCAT_STAT_H

#include "options.h"

/* Prints it. EXIT_OK if somebody listens, EXIT_FAILED if nobody does or the kernel does not tell. */
int print_stat(const struct options *options);

#endif
