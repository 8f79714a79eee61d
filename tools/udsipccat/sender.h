/* A writer that waits for room, and knows what became of its messages. */
#ifndef UDSIPCCAT_SENDER_H
#define UDSIPCCAT_SENDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <udsipc.h>

#include "options.h"
#include "progress.h"

struct sender {
    udsipc_writer *writer;
    const char *path;
    const struct totals *totals; /* for the progress line */
    bool wait;    /* for a reader, before the first message and after the last one */
    bool drop;    /* leave out what finds no room */
    bool opened;  /* there has been a connection */
    bool refused; /* the reader does not acknowledge, and --acknowledge always */
    uint64_t dropped;
    uint64_t unsent; /* were to be queued, when sender_put gave up */
    int32_t told; /* the status of the last error in the background, and its text */
    char text[512];
};

/* Makes the writer and waits for its connection: while nobody listens, only with --wait. The writer has no thread: it works
 * inside the calls below, and in sender_work. `attempts` as udsipc_writer_options_set_max_attempts has it. Returns an exit
 * code; a failure has been reported. */
int sender_open(struct sender *sender, const char *path, const struct options *options, uint32_t attempts,
                const struct totals *totals);

/* Queues the messages, and waits for room. False if that ended before all were queued: out_of_time(), or the reader is
 * refused, which has been reported. */
bool sender_put(struct sender *sender, const udsipc_buffer *messages, size_t count);

/* Waits until the reader has handled what was queued, or read it if it does not acknowledge. While nobody listens it waits
 * for the next reader. False if that ended before: out_of_time(), a signal while nobody listens, or a loss. */
bool sender_settle(struct sender *sender);

/* Readable when sender_work has something to do. */
int sender_fd(const struct sender *sender);
void sender_work(struct sender *sender);

uint64_t sender_queued(const struct sender *sender);

/* Waits for the reader as sender_settle does, but for another reader only with --wait. Then frees the writer. Returns an
 * exit code; what was not delivered has been reported. */
int sender_close(struct sender *sender);

#endif
