/* Sends every line of standard input as one message.
 *
 *     writer SOCKET < FILE
 *
 * Ends at the end of the input, or at SIGINT or SIGTERM, and leaves only when the reader has everything or PATIENCE_MS
 * has passed. An empty line is an empty message, which the library takes and does not send.
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

static volatile sig_atomic_t stop_requested;
static int null_fd = -1;

/* This thread's last failure in full: it names the path, the limit or the errno, which the status alone does not. */
static bool failed(const char *what, udsipc_status status)
{
    char text[512];
    bool detailed = udsipc_last_error_message(text, sizeof text) > 0;
    fprintf(stderr, "writer: %s: %s\n", what, detailed ? text : udsipc_strerror(status));
    return false;
}

/* Called from the library's thread for what no call could return: nobody listens, the connection broke ... The message
 * is still in the queue and will be sent again, so there is nothing to do but to tell. */
static void on_error(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)os_errno; /* the text has it */
    (void)userdata;
    failed(context, (udsipc_status)status);
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
        perror("writer: cannot catch signals");
        return false;
    }
    return true;
}

static udsipc_writer *open_writer(const char *path)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    if (options == NULL) {
        fprintf(stderr, "writer: out of memory\n");
        return NULL;
    }

    /* Stop then waits for a reader that is not there yet, instead of giving up at once. */
    udsipc_writer *writer = NULL;
    udsipc_status status = udsipc_writer_options_set_drain_until_deadline(options, 1);
    if (status == UDSIPC_OK)
        status = udsipc_writer_options_set_error_callback(options, on_error, NULL);
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

static bool send_lines(udsipc_writer *writer)
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
        /* Waits while the queue is full. buffer_full_writer.c shows what to do where waiting is not allowed. */
        udsipc_status status = udsipc_write_message_timeout(writer, line, size, PATIENCE_MS);
        if (status != UDSIPC_OK)
            ok = failed("cannot send", status);
    }
    free(line);
    if (ferror(stdin)) {
        perror("writer: cannot read standard input");
        return false;
    }
    return ok;
}

static bool finish(udsipc_writer *writer)
{
    /* Flush: the reader has handled everything, or has read it, if it does not acknowledge. Stop: everything went out, and
     * the thread is gone. When the flush has used up the time, the stop gets none. */
    bool ok = true;
    udsipc_status status = udsipc_writer_flush(writer, PATIENCE_MS);
    if (status == UDSIPC_ERR_UNDELIVERED) {
        /* A reader that does not acknowledge died with messages. That is told once, and counted below; the next flush
         * waits for the others. */
        failed("on the way", status);
        status = udsipc_writer_flush(writer, PATIENCE_MS);
    }
    if (status != UDSIPC_OK)
        ok = failed("the reader has not read everything", status);
    status = udsipc_writer_stop(writer, status == UDSIPC_ERR_TIMEOUT ? 0 : PATIENCE_MS);
    if (status != UDSIPC_OK)
        ok = failed("stopped with messages left", status);

    udsipc_writer_metrics metrics;
    status = udsipc_writer_get_metrics(writer, &metrics, sizeof metrics);
    if (status != UDSIPC_OK)
        return failed("cannot read the metrics", status);
    fprintf(stderr,
            "writer: sent=%" PRIu64 " sent_bytes=%" PRIu64 " acknowledged=%" PRIu64 " redelivered=%" PRIu64
            " retried=%" PRIu64 " dropped=%" PRIu64 " abandoned=%" PRIu64 " suspected_lost=%" PRIu64
            " connections=%" PRIu64 "\n",
            metrics.sent, metrics.sent_bytes, metrics.acknowledged, metrics.redelivered, metrics.retried,
            metrics.dropped, metrics.abandoned, metrics.suspected_lost, metrics.connections);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s SOCKET < FILE\n", argv[0]);
        return 2;
    }
    if (!catch_signals())
        return EXIT_FAILURE;
    udsipc_writer *writer = open_writer(argv[1]);
    if (writer == NULL)
        return EXIT_FAILURE;

    bool ok = send_lines(writer);
    ok = finish(writer) && ok;
    udsipc_writer_free(writer);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
