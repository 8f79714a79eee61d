/* What reads: -r, --tap and --record. */
#ifndef UDSIPCCAT_RECEIVE_H
#define UDSIPCCAT_RECEIVE_H

#include "options.h"

/* Runs until a signal, --count or --timeout ends it, and returns an exit code. */
int receive(const struct options *options);

#endif
