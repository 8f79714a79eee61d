/* A message as it is printed. */
#ifndef UDSIPCCAT_FORMAT_H
#define UDSIPCCAT_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include <udsipc.h>

#include "buffer.h"
#include "options.h"

/* A message, and what is known about it. */
struct message {
    const uint8_t *data;
    size_t size;
    struct timespec time; /* of its arrival */
    uint64_t connection;
    int32_t pid;
    uint32_t uid, gid;
    bool numbered;        /* the writer takes part in acknowledged delivery: it has an id, and the message a number */
    uint8_t writer[16];
    uint64_t sequence;
};

/* Room for the id of a writer in hexadecimal. */
#define WRITER_TEXT 33

/* Fills in what is known about the messages of a batch: all but data and size; the sequence is that of the first. */
bool message_describe(struct message *message, const udsipc_connection *connection);

/* The writer's id, or "-" if it has none. */
const char *message_writer(const struct message *message, char text[WRITER_TEXT]);

/* Appends the message. On a terminal the control characters of a line are made visible: whoever may send messages must not
 * control the terminal. */
void format_message(struct buffer *out, enum format format, const struct message *message, bool terminal);

#endif
