/* The file of --record and --replay. udsipccat(1) describes its format. */
#ifndef UDSIPCCAT_RECORDING_H
#define UDSIPCCAT_RECORDING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "buffer.h"
#include "format.h"
#include "output.h"

/* A recording that grows. */
struct recorder {
    struct output output;
    struct buffer pending;
    off_t good; /* where the last complete record ends; only of a regular file */
    bool sync;
};

/* Opens FILE, or "-" for standard output. An existing recording grows at its end; a record that is cut off there is removed
 * first. False on failure, which has been reported. */
bool recorder_open(struct recorder *recorder, const char *file, bool sync);

/* Adds a message to what recorder_commit writes. */
void recorder_add(struct recorder *recorder, const struct message *message);

/* Writes what was added. On failure, which has been reported, a regular file is as it was before. */
bool recorder_commit(struct recorder *recorder);

void recorder_close(struct recorder *recorder);

/* A recording that is read. */
struct playback {
    int fd;
    const char *name;
    struct buffer data;
    size_t at;        /* how far `data` has been handed out */
    off_t good;       /* where the last complete record ends */
    uint64_t max_size;
};

enum next { NEXT_MESSAGE, NEXT_END, NEXT_CUT_OFF, NEXT_BROKEN, NEXT_STOPPED };

/* Opens FILE, or "-" for standard input. False on failure, which has been reported. */
bool playback_open(struct playback *playback, const char *file, uint64_t max_size);

/* The next message; its data is valid until the next call. NEXT_CUT_OFF: the file ends in the middle of a record.
 * NEXT_BROKEN has been reported. NEXT_STOPPED: a signal, or the time is over. */
enum next playback_next(struct playback *playback, struct message *message);

void playback_close(struct playback *playback);

#endif
