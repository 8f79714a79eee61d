/* The progress line on a terminal: how many messages, how fast. */
#ifndef UDSIPCCAT_PROGRESS_H
#define UDSIPCCAT_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

/* What has been done. */
struct totals {
    uint64_t messages;
    uint64_t bytes;
};

/* Shows the line from now on, if standard error is a terminal that can erase one. `what` stands in front of it. */
void progress_begin(const char *what);

/* Is there a line to keep up to date? */
bool progress_is_on(void);

/* Writes the line anew if it is hidden, or older than a fifth of a second. `queued`: messages that wait to be sent. */
void progress_show(const struct totals *totals, uint64_t queued);

/* Erases the line, so that something else can be written there. It comes back with progress_show. */
void progress_hide(void);

/* Before standard output is written: hides the line if both are terminals. */
void progress_make_way(void);

/* "12.3 MB" */
const char *progress_bytes(double bytes, char *text, unsigned capacity);

#endif
