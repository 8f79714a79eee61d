/* A writer inside the program's own poll(2) loop: sends every line of standard input as one message, without a thread.
 *
 *     poll_writer SOCKET < FILE
 *
 * While the queue is full the program does not read its input: whoever writes to the other end of the pipe has to wait,
 * and no line is left out. Ends at the end of the input when the reader has everything or PATIENCE_MS has passed; at
 * SIGINT or SIGTERM too, and then without the lines that are not in the queue yet.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <udsipc.h>

#define PATIENCE_MS 10000
#define MAX_LINE (1 << 20)

/* What has been read and not yet accepted by the writer. */
struct input {
    char data[MAX_LINE];
    size_t used;
    bool ended;
};

/* This thread's last failure in full: it names the path, the limit or the errno, which the status alone does not. */
static bool failed(const char *what, udsipc_status status)
{
    char text[512];
    bool detailed = udsipc_last_error_message(text, sizeof text) > 0;
    fprintf(stderr, "poll_writer: %s: %s\n", what, detailed ? text : udsipc_strerror(status));
    return false;
}

/* Called inside udsipc_writer_dispatch for what no call could return. The message is still in the queue. */
static void on_error(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)os_errno; /* the text has it */
    (void)userdata;
    failed(context, (udsipc_status)status);
}

/* Not started: a writer that is never started has no thread and works when it is dispatched. */
static udsipc_writer *open_writer(const char *path)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    if (options == NULL) {
        fprintf(stderr, "poll_writer: out of memory\n");
        return NULL;
    }
    udsipc_writer *writer = NULL;
    udsipc_status status = udsipc_writer_options_set_drain_until_deadline(options, 1);
    if (status == UDSIPC_OK)
        status = udsipc_writer_options_set_error_callback(options, on_error, NULL);
    if (status == UDSIPC_OK)
        status = udsipc_writer_new(path, options, &writer);
    udsipc_writer_options_free(options); /* _new has copied them */
    if (status != UDSIPC_OK)
        failed("cannot make a writer", status);
    return writer;
}

/* SIGINT and SIGTERM as a descriptor, so that one poll() waits for all events. */
static int open_signals(void)
{
    sigset_t signals;
    if (sigemptyset(&signals) != 0 || sigaddset(&signals, SIGINT) != 0 || sigaddset(&signals, SIGTERM) != 0 ||
        sigprocmask(SIG_BLOCK, &signals, NULL) != 0)
        return -1;
    return signalfd(-1, &signals, SFD_CLOEXEC);
}

static bool read_some(struct input *input)
{
    ssize_t got = read(STDIN_FILENO, input->data + input->used, sizeof input->data - input->used);
    if (got < 0 && errno != EINTR) {
        perror("poll_writer: cannot read standard input");
        return false;
    }
    input->used += got > 0 ? (size_t)got : 0;
    input->ended = got == 0;
    return true;
}

/* The length of the first line, if there is a whole one; the last line may lack its line break. */
static bool first_line(const struct input *input, size_t start, size_t *length)
{
    const char *from = input->data + start;
    const char *end = memchr(from, '\n', input->used - start);
    *length = end != NULL ? (size_t)(end - from) : input->used - start;
    return end != NULL || (input->ended && *length > 0) || *length == sizeof input->data;
}

/* Queues lines until the queue is full. `full` tells whether some had to stay. Each refusal counts in the metric
 * `dropped`, also of a line that is accepted later. */
static bool write_lines(udsipc_writer *writer, struct input *input, bool *full)
{
    size_t start = 0, length;
    udsipc_status status = UDSIPC_OK;
    while (start < input->used && first_line(input, start, &length)) {
        status = udsipc_write_message(writer, input->data + start, length);
        if (status != UDSIPC_OK)
            break;
        start += length;
        if (start < input->used && input->data[start] == '\n')
            start++;
    }
    memmove(input->data, input->data + start, input->used - start);
    input->used -= start;
    *full = status == UDSIPC_ERR_BUFFER_FULL;
    return status == UDSIPC_OK || *full || failed("cannot send", status);
}

static bool serve(udsipc_writer *writer, int signal_fd)
{
    static struct input input;
    bool full = false;
    while (!input.ended || full) {
        struct pollfd events[] = {
            {.fd = signal_fd, .events = POLLIN},
            {.fd = udsipc_writer_fd(writer), .events = POLLIN},
            {.fd = full ? -1 : STDIN_FILENO, .events = POLLIN}, /* poll() passes over a negative number */
        };
        if (poll(events, sizeof events / sizeof events[0], -1) < 0) {
            if (errno == EINTR)
                continue;
            perror("poll_writer: poll");
            return false;
        }
        if (events[0].revents != 0)
            return true;
        if (events[2].revents != 0 && !read_some(&input))
            return false;
        /* 0: do what can be done at once and come back, the loop does the waiting. */
        udsipc_status status = events[1].revents != 0 ? udsipc_writer_dispatch(writer, 0) : UDSIPC_OK;
        if (status != UDSIPC_OK)
            return failed("cannot serve", status);
        if (!write_lines(writer, &input, &full))
            return false;
    }
    return true;
}

/* Stop sends what is queued, as it does with threads; the work is done inside this call. */
static bool finish(udsipc_writer *writer)
{
    bool ok = true;
    udsipc_status status = udsipc_writer_stop(writer, PATIENCE_MS);
    if (status != UDSIPC_OK)
        ok = failed("stopped with messages left", status);

    udsipc_writer_metrics metrics;
    status = udsipc_writer_get_metrics(writer, &metrics, sizeof metrics);
    if (status != UDSIPC_OK)
        return failed("cannot read the metrics", status);
    fprintf(stderr,
            "poll_writer: sent=%" PRIu64 " abandoned=%" PRIu64 " suspected_lost=%" PRIu64 " connections=%" PRIu64 "\n",
            metrics.sent, metrics.abandoned, metrics.suspected_lost, metrics.connections);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s SOCKET < FILE\n", argv[0]);
        return 2;
    }
    /* A parent may have closed it: the next descriptor would get its number, and be read as the input. */
    if (fcntl(STDIN_FILENO, F_GETFD) < 0) {
        perror("poll_writer: standard input");
        return EXIT_FAILURE;
    }
    int signal_fd = open_signals();
    if (signal_fd < 0) {
        perror("poll_writer: signalfd");
        return EXIT_FAILURE;
    }
    udsipc_writer *writer = open_writer(argv[1]);
    if (writer == NULL)
        return EXIT_FAILURE;
    bool ok = serve(writer, signal_fd);
    ok = finish(writer) && ok;
    udsipc_writer_free(writer);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
