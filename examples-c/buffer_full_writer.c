/* A writer that must never wait: a sampler, a logger, a network callback. When the queue is full it leaves lines out,
 * and as soon as there is room again it tells the reader, in their place, how many.
 *
 *     buffer_full_writer SOCKET QUEUE_LENGTH < FILE
 *
 * Sends every line of standard input as one message, and "[N lines left out]" for each gap.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <udsipc.h>

#define PATIENCE_MS 10000

struct sender {
    udsipc_writer *writer;
    uint64_t gap;      /* lines left out since the last message that was taken */
    uint64_t left_out; /* lines left out at all */
};

static volatile sig_atomic_t stop_requested;
static int null_fd = -1;

/* This thread's last failure in full: it names the path, the limit or the errno, which the status alone does not. */
static bool failed(const char *what, udsipc_status status)
{
    char text[512];
    bool detailed = udsipc_last_error_message(text, sizeof text) > 0;
    fprintf(stderr, "buffer_full_writer: %s: %s\n", what, detailed ? text : udsipc_strerror(status));
    return false;
}

/* From now on standard input is at its end: a read() that is blocked is restarted (SA_RESTART) on the new file, one
 * that has not begun meets it too. So there is no moment at which the signal can be missed. dup2() is
 * async-signal-safe. */
static void on_signal(int signal_number)
{
    (void)signal_number;
    int saved_errno = errno;
    stop_requested = 1;
    if (dup2(null_fd, STDIN_FILENO) < 0)
        _exit(EXIT_FAILURE);
    errno = saved_errno;
}

static bool catch_signals(void)
{
    null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    if (null_fd < 0 || sigemptyset(&action.sa_mask) != 0 || sigaction(SIGINT, &action, NULL) != 0 ||
        sigaction(SIGTERM, &action, NULL) != 0) {
        perror("buffer_full_writer: cannot catch signals");
        return false;
    }
    return true;
}

static udsipc_writer *open_writer(const char *path, uint32_t queue_length)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    if (options == NULL) {
        fprintf(stderr, "buffer_full_writer: out of memory\n");
        return NULL;
    }

    udsipc_writer *writer = NULL;
    udsipc_status status = udsipc_writer_options_set_max_buffered_writes(options, queue_length);
    if (status == UDSIPC_OK)
        status = udsipc_writer_options_set_drain_until_deadline(options, 1);
    if (status == UDSIPC_OK)
        status = udsipc_writer_new(path, options, &writer);
    if (status == UDSIPC_OK)
        status = udsipc_writer_start(writer);
    udsipc_writer_options_free(options); /* _new has copied them */

    if (status != UDSIPC_OK) {
        failed("cannot start", status);
        udsipc_writer_free(writer);
        return NULL;
    }
    return writer;
}

/* A gap is told before the line behind it, so that the reader finds it where it happened. */
static udsipc_status tell_gap(struct sender *sender, uint64_t timeout_ms)
{
    if (sender->gap == 0)
        return UDSIPC_OK;
    char text[64];
    int length = snprintf(text, sizeof text, "[%" PRIu64 " lines left out]", sender->gap);
    if (length < 0)
        return UDSIPC_ERR_INVALID_ARGUMENT;
    udsipc_status status = timeout_ms == 0
                               ? udsipc_write_message(sender->writer, text, (size_t)length)
                               : udsipc_write_message_timeout(sender->writer, text, (size_t)length, timeout_ms);
    if (status == UDSIPC_OK)
        sender->gap = 0;
    return status;
}

static bool send_line(struct sender *sender, const char *line, size_t size)
{
    udsipc_status status = tell_gap(sender, 0);
    if (status == UDSIPC_OK)
        status = udsipc_write_message(sender->writer, line, size);
    if (status == UDSIPC_ERR_BUFFER_FULL) {
        if (sender->gap == 0)
            fprintf(stderr, "buffer_full_writer: the queue is full, leaving lines out\n");
        sender->gap++;
        sender->left_out++;
        return true;
    }
    return status == UDSIPC_OK || failed("cannot send", status);
}

static bool send_lines(struct sender *sender)
{
    char *line = NULL;
    size_t capacity = 0;
    ssize_t length;
    bool ok = true;

    /* After a signal the last "line" may be a part of one: it is left out. */
    while (ok && (length = getline(&line, &capacity, stdin)) >= 0 && !stop_requested) {
        size_t size = (size_t)length;
        if (size > 0 && line[size - 1] == '\n')
            size--;
        ok = send_line(sender, line, size);
    }
    free(line);
    if (ferror(stdin)) {
        perror("buffer_full_writer: cannot read standard input");
        return false;
    }
    return ok;
}

static bool finish(struct sender *sender)
{
    /* At the end waiting is allowed: the last gap must not go untold. */
    if (sender->gap > 0)
        fprintf(stderr, "buffer_full_writer: end of input, waiting for room to tell of %" PRIu64 " lines\n",
                sender->gap);
    bool ok = true;
    udsipc_status status = tell_gap(sender, PATIENCE_MS);
    if (status != UDSIPC_OK)
        ok = failed("cannot tell the last gap", status);
    status = udsipc_writer_stop(sender->writer, PATIENCE_MS);
    if (status != UDSIPC_OK)
        ok = failed("stopped with messages left", status);

    udsipc_writer_metrics metrics;
    status = udsipc_writer_get_metrics(sender->writer, &metrics, sizeof metrics);
    if (status != UDSIPC_OK)
        return failed("cannot read the metrics", status);
    fprintf(stderr, "buffer_full_writer: sent=%" PRIu64 " left_out=%" PRIu64 " abandoned=%" PRIu64 "\n", metrics.sent,
            sender->left_out, metrics.abandoned);
    return ok;
}

int main(int argc, char **argv)
{
    char *end = NULL;
    errno = 0;
    unsigned long queue_length = argc == 3 ? strtoul(argv[2], &end, 10) : 0;
    if (argc != 3 || errno != 0 || *end != '\0' || queue_length > UINT32_MAX) {
        fprintf(stderr, "usage: %s SOCKET QUEUE_LENGTH < FILE\n", argv[0]);
        return 2;
    }
    if (!catch_signals())
        return EXIT_FAILURE;
    struct sender sender = {.writer = open_writer(argv[1], (uint32_t)queue_length)};
    if (sender.writer == NULL)
        return EXIT_FAILURE;

    bool ok = send_lines(&sender);
    ok = finish(&sender) && ok;
    udsipc_writer_free(sender.writer);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
