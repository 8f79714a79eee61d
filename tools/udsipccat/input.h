/* Cuts a stream of bytes into messages. */
#ifndef UDSIPCCAT_INPUT_H
#define UDSIPCCAT_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <udsipc.h>

#include "buffer.h"
#include "options.h"

struct input {
    int fd;
    const char *name;
    enum format format;
    uint64_t max_size;
    struct buffer data;
    size_t at;          /* how far `data` has been handed out */
    size_t searched;    /* how far behind that no separator was found */
    uint64_t skip;      /* bytes of a frame that is too large */
    bool skip_rest;     /* of a line that is too large; raw: of the input */
    bool ended;         /* nothing more will come */
    bool failed;        /* reading failed, or the frames are malformed; it has been reported */
    uint64_t empty;     /* messages without a byte: the protocol has none */
    uint64_t too_large; /* messages above max_size */
};

/* Opens a file, or standard input for "-". False on failure, which has been reported. */
bool input_open(struct input *input, const char *file, enum format format, uint64_t max_size);

/* Reads once; waits until there is something to read. */
void input_read(struct input *input);

/* The next message of what has been read, valid until input_read. False if there is none. */
bool input_next(struct input *input, udsipc_buffer *message);

void input_close(struct input *input);

#endif
