/* Lines on standard error, as journald wants them, and the progress. */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "bridge.h"

#define LIMIT_MS 10000 /* between two lines of one topic */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool progress_shown;
static struct {
    int64_t last_ms;
    uint64_t left_out;
} topics[TOPICS];

/* One write for a line: lines of several threads do not mix. */
static void print(uint64_t left_out, const char *format, va_list arguments)
{
    char text[1024];
    vsnprintf(text, sizeof text, format, arguments);
    char more[64] = "";
    if (left_out > 0)
        snprintf(more, sizeof more, " (%" PRIu64 " times since the last line)", left_out + 1);
    fprintf(stderr, "%sudsipc-nats: %s%s\n", progress_shown ? "\r\033[K" : "", text, more);
    progress_shown = false;
}

void report(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    pthread_mutex_lock(&lock);
    print(0, format, arguments);
    pthread_mutex_unlock(&lock);
    va_end(arguments);
}

/* For what may happen many times a second while the engine is away. */
void report_limited(enum topic topic, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    pthread_mutex_lock(&lock);
    int64_t now = now_ms();
    if (topics[topic].last_ms == 0 || now - topics[topic].last_ms >= LIMIT_MS) {
        print(topics[topic].left_out, format, arguments);
        topics[topic].last_ms = now;
        topics[topic].left_out = 0;
    } else {
        topics[topic].left_out++;
    }
    pthread_mutex_unlock(&lock);
    va_end(arguments);
}

/* Called about once a second. On a terminal the line stays where it is; a service manager shows it as the unit's status. */
void report_progress(const struct counters *counters, const udsipc_reader_metrics *metrics)
{
    static uint64_t last;
    char text[256];
    snprintf(text, sizeof text,
             "%" PRIu64 " stored (+%" PRIu64 "), %" PRIu64 " repeats dropped, %" PRIu64 " writers, %" PRIu64 " connects",
             counters->stored, counters->stored - last, counters->repeated, metrics->active_connections,
             counters->connects);
    last = counters->stored;

    char state[300];
    snprintf(state, sizeof state, "STATUS=%s", text);
    (void)udsipc_systemd_notify(state); /* does nothing without NOTIFY_SOCKET, and nothing depends on it */
    if (!isatty(STDERR_FILENO))
        return;
    pthread_mutex_lock(&lock);
    fprintf(stderr, "\r\033[K%s", text);
    progress_shown = true;
    pthread_mutex_unlock(&lock);
}

void report_totals(const struct counters *counters)
{
    report("stored=%" PRIu64 " repeated=%" PRIu64 " published_again=%" PRIu64 " refused=%" PRIu64 " out_of_order=%" PRIu64
           " connects=%" PRIu64,
           counters->stored, counters->repeated, counters->published_again, counters->refused, counters->out_of_order,
           counters->connects);
}
