/* The command line. */
#ifndef UDSIPCCAT_OPTIONS_H
#define UDSIPCCAT_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The exit codes, for scripts. */
enum {
    EXIT_OK = 0,
    EXIT_FAILED = 1,    /* nothing was delivered, or not everything; --stat: nobody listens */
    EXIT_USAGE = 2,     /* the command line is wrong */
    EXIT_TIMED_OUT = 3, /* --timeout passed first */
};

enum task { TASK_NONE, TASK_WRITE, TASK_READ, TASK_TAP, TASK_STAT, TASK_BENCH };

enum format { FORMAT_LINES, FORMAT_NULL, FORMAT_RAW, FORMAT_FRAMES, FORMAT_HEX, FORMAT_JSON, FORMAT_NONE };

/* No limit of --count. */
#define COUNT_UNLIMITED UINT64_MAX

struct options {
    enum task task;
    const char *path;   /* where to write or read; NULL: --bench without a path */
    const char *target; /* B of --tap A B, otherwise NULL */
    char **files;       /* what -w sends; none: standard input */
    size_t file_count;
    const char *record; /* the file of --record, or NULL */
    const char *replay; /* the file of --replay, or NULL */
    enum format format;
    uint64_t count;      /* COUNT_UNLIMITED if not given */
    uint64_t timeout_ms; /* UDSIPC_WAIT_FOREVER if not given */
    uint64_t max_size;   /* of a message, in bytes */
    uint64_t size;       /* of a message of --bench, in bytes */
    double speed;        /* of --replay: 1 as recorded, 0 without pauses */
    int acknowledge;     /* as udsipc_writer_options_set_acknowledge has it */
    bool wait;
    bool drop;
    bool sync;
    bool quiet;
};

/* Reads the command line. Prints help, version or what is wrong, and ends the process then. */
void options_parse(struct options *options, int argc, char **argv);

#endif
