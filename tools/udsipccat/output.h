/* Writing to a file, a pipe or a terminal without being stuck in it. */
#ifndef UDSIPCCAT_OUTPUT_H
#define UDSIPCCAT_OUTPUT_H

#include <stdbool.h>

#include "buffer.h"

struct output {
    int fd;
    const char *name; /* for reports */
    bool terminal;
    bool file;        /* a regular file: it takes any number of bytes at once */
};

struct output output_on(int fd, const char *name);

/* Writes and empties the buffer. Waits while a pipe is full, until out_of_time(). False if not all could be written, which
 * has been reported. */
bool output_write(const struct output *output, struct buffer *buffer);

#endif
