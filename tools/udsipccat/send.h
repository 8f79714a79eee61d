/* What writes: -w and --replay. */
#ifndef UDSIPCCAT_SEND_H
#define UDSIPCCAT_SEND_H

#include "options.h"

/* Each runs until its work is done, and returns an exit code. */
int send_input(const struct options *options);
int send_recording(const struct options *options);

#endif
