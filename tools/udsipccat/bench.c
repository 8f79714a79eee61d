/* Two processes, as in use: this one writes, and a child reads unless the reader at PATH does. Both use a thread of the
 * library. They have the same clock, so the time of a message is that from before its write to its callback. */
#include "bench.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <udsipc.h>

#include "control.h"
#include "progress.h"
#include "report.h"

#define BATCH 64
#define SECONDS 2           /* of each part, if neither --count nor --timeout says more */
#define PACE_NS 200000      /* between two messages whose time is measured */
#define LATENCIES 5000      /* how many of them there are */
#define TIMED UINT64_C(0x756473697063) /* the first eight bytes of a message whose time is measured; the time follows */

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* The child's results: how long the measured messages took. */
struct latencies {
    uint32_t count;
    uint64_t ns[LATENCIES];
};

static size_t on_messages(const udsipc_buffer *messages, size_t count, const udsipc_connection *connection, void *userdata)
{
    struct latencies *latencies = userdata;
    (void)connection;
    uint64_t head[2], now = now_ns();
    for (size_t i = 0; i < count; i++) {
        if (messages[i].len != sizeof head)
            continue;
        memcpy(head, messages[i].data, sizeof head);
        if (head[0] == TIMED && latencies->count < LATENCIES)
            latencies->ns[latencies->count++] = now - head[1];
    }
    return count;
}

/* The child: reads until its parent closes the pipe `go_on`, and writes what it has measured to `results`. */
static int read_messages(const char *path, uint64_t max_size, int go_on, int results)
{
    static struct latencies latencies;
    udsipc_reader_options *options = udsipc_reader_options_new();
    udsipc_reader *reader = NULL;
    udsipc_status status = udsipc_reader_options_set_max_message_size(options, max_size);
    if (status == UDSIPC_OK)
        status = udsipc_reader_options_set_use_systemd(options, 0);
    if (status == UDSIPC_OK)
        status = udsipc_reader_new_batched(path, on_messages, &latencies, options, &reader);
    if (status == UDSIPC_OK)
        status = udsipc_reader_start(reader);
    if (status != UDSIPC_OK) {
        report("%s", failure_text((int32_t)status));
        return EXIT_FAILED;
    }
    char byte = 0;
    if (write(results, &byte, 1) != 1) /* it listens */
        return EXIT_FAILED;
    while (read(go_on, &byte, 1) < 0 && errno == EINTR)
        ;
    udsipc_reader_stop(reader, GRACE_MS);
    udsipc_reader_free(reader);
    const char *at = (const char *)&latencies;
    for (size_t left = sizeof latencies; left > 0;) {
        ssize_t written = write(results, at, left);
        if (written <= 0)
            return EXIT_FAILED;
        at += written;
        left -= (size_t)written;
    }
    return EXIT_OK;
}

struct child {
    pid_t pid;
    int go_on, results;
    char path[48];
};

static bool read_all(int fd, void *to, size_t size)
{
    for (char *at = to; size > 0;) {
        ssize_t got = read(fd, at, size);
        if (got <= 0)
            return false;
        at += got;
        size -= (size_t)got;
    }
    return true;
}

static bool start_child(struct child *child, uint64_t max_size)
{
    int go_on[2], results[2];
    if (pipe(go_on) != 0 || pipe(results) != 0) {
        report("cannot start a reader: %s", strerror(errno));
        return false;
    }
    snprintf(child->path, sizeof child->path, "@udsipccat-bench-%ld", (long)getpid());
    child->pid = fork();
    if (child->pid == 0) {
        close(go_on[1]);
        close(results[0]);
        _exit(read_messages(child->path, max_size, go_on[0], results[1]));
    }
    close(go_on[0]);
    close(results[1]);
    child->go_on = go_on[1];
    child->results = results[0];
    char byte;
    return child->pid > 0 && read_all(child->results, &byte, 1);
}

static void end_child(struct child *child, struct latencies *latencies)
{
    close(child->go_on);
    if (!read_all(child->results, latencies, sizeof *latencies))
        latencies->count = 0;
    close(child->results);
    if (child->pid > 0)
        waitpid(child->pid, NULL, 0);
}

static int by_time(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void print_latencies(struct latencies *latencies)
{
    if (latencies->count == 0)
        return;
    qsort(latencies->ns, latencies->count, sizeof *latencies->ns, by_time);
    static const struct { const char *name; double share; } shown[] = {{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}};
    printf("one way      16 B every %d us:", PACE_NS / 1000);
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        printf(" %s %.1f us,", shown[i].name, (double)latencies->ns[(size_t)(shown[i].share * latencies->count)] / 1e3);
    printf(" max %.1f us (%" PRIu32 " messages)\n", (double)latencies->ns[latencies->count - 1] / 1e3, latencies->count);
}

/* As many messages as the queue takes, until the time is over or the count is reached. */
static bool write_fast(udsipc_writer *writer, const struct options *options, uint64_t end, struct totals *totals)
{
    uint8_t *data = calloc(1, options->size);
    if (data == NULL) {
        report("out of memory");
        return false;
    }
    udsipc_buffer batch[BATCH];
    for (size_t i = 0; i < BATCH; i++)
        batch[i] = (udsipc_buffer){.data = data, .len = options->size};
    udsipc_status status = UDSIPC_OK;
    while (totals->messages < options->count && now_ms() < end && ending() != INTERRUPTED) {
        uint64_t left = options->count - totals->messages;
        size_t accepted = 0;
        status = udsipc_write_messages(writer, batch, left < BATCH ? (size_t)left : BATCH, &accepted);
        if (status == UDSIPC_ERR_BUFFER_FULL) {
            status = udsipc_write_message_timeout(writer, data, options->size, SLICE_MS);
            accepted += status == UDSIPC_OK ? 1 : 0;
        }
        totals->messages += accepted;
        totals->bytes += accepted * options->size;
        if (status != UDSIPC_OK && status != UDSIPC_ERR_TIMEOUT)
            break;
        progress_show(totals, 0);
    }
    free(data);
    if (status != UDSIPC_OK && status != UDSIPC_ERR_TIMEOUT)
        report("%s", failure_text((int32_t)status));
    return status == UDSIPC_OK || status == UDSIPC_ERR_TIMEOUT;
}

static bool write_paced(udsipc_writer *writer)
{
    uint64_t next = now_ns(), end = now_ms() + SECONDS * 1000;
    for (int i = 0; i < LATENCIES && now_ms() < end && ending() == RUNNING; i++) {
        next += PACE_NS;
        struct timespec until = {.tv_sec = (time_t)(next / 1000000000), .tv_nsec = (long)(next % 1000000000)};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
        uint64_t head[2] = {TIMED, now_ns()};
        if (udsipc_write_message(writer, head, sizeof head) != UDSIPC_OK)
            return false;
    }
    return udsipc_writer_flush(writer, GRACE_MS) == UDSIPC_OK;
}

static int measure(udsipc_writer *writer, const char *path, const struct options *options, bool paced)
{
    udsipc_status status = udsipc_writer_start(writer);
    if (status != UDSIPC_OK) {
        report("%s", failure_text((int32_t)status));
        return EXIT_FAILED;
    }
    struct totals totals = {0};
    uint64_t begin = now_ns();
    bool limited = options->count != COUNT_UNLIMITED;
    uint64_t end = now_ms() + (limited ? remaining_ms(UDSIPC_WAIT_FOREVER / 2) : remaining_ms(SECONDS * 1000));
    if (!write_fast(writer, options, end, &totals))
        return EXIT_FAILED;
    status = udsipc_writer_flush(writer, GRACE_MS);
    double seconds = (double)(now_ns() - begin) / 1e9;
    progress_hide();
    udsipc_writer_metrics metrics;
    if (udsipc_writer_get_metrics(writer, &metrics, sizeof metrics) != UDSIPC_OK)
        metrics = (udsipc_writer_metrics){0};
    if (metrics.connections == 0) {
        report("nobody listens at %s", path);
        return EXIT_FAILED;
    }
    if (status != UDSIPC_OK) {
        report("the reader has not taken all %" PRIu64 " messages: %s", totals.messages, failure_text((int32_t)status));
        return EXIT_FAILED;
    }
    char rate[32];
    printf("throughput   %" PRIu64 " messages of %" PRIu64 " B in %.2f s: %.0f messages/s, %s/s, %s\n", totals.messages,
           options->size, seconds, (double)totals.messages / seconds,
           progress_bytes((double)totals.bytes / seconds, rate, sizeof rate),
           metrics.acknowledged > 0 ? "all handled by the reader" : "all read by the reader");
    if (limited && totals.messages < options->count)
        return EXIT_TIMED_OUT;
    return !paced || write_paced(writer) ? EXIT_OK : EXIT_FAILED;
}

int bench(const struct options *options)
{
    static struct latencies latencies;
    struct child child = {0};
    bool own = options->path == NULL;
    if (own && !start_child(&child, options->size > 16 ? options->size : 16))
        return EXIT_FAILED;
    const char *path = own ? child.path : options->path;
    udsipc_writer_options *set = udsipc_writer_options_new();
    udsipc_writer *writer = NULL;
    udsipc_status status = udsipc_writer_options_set_max_message_size(set, options->size > 16 ? options->size : 16);
    if (status == UDSIPC_OK)
        status = udsipc_writer_options_set_acknowledge(set, options->acknowledge);
    if (status == UDSIPC_OK)
        status = udsipc_writer_new(path, set, &writer);
    udsipc_writer_options_free(set);
    int code = EXIT_FAILED;
    if (status == UDSIPC_OK)
        code = measure(writer, path, options, own);
    else
        report("%s", failure_text((int32_t)status));
    udsipc_writer_stop(writer, remaining_ms(GRACE_MS));
    udsipc_writer_free(writer);
    if (own) {
        end_child(&child, &latencies);
        print_latencies(&latencies);
    }
    return fflush(stdout) == 0 ? code : EXIT_FAILED;
}
