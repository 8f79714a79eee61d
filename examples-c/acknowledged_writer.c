/* Sends every line of standard input as one message to a reader that acknowledges: sqlite_reader.c, for instance.
 *
 *     acknowledged_writer SOCKET < FILE
 *
 * However often the reader is killed, it gets every message, some of them twice. At the end of its input this program waits
 * until the reader has handled everything, and exits with 0 then, or with 1 after PATIENCE_MS. What is in its memory dies
 * with it: a producer that must survive its own end keeps its input until the messages have been handled. What it sends
 * again after that has new numbers. An empty line is accepted and not sent.
 */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>

#include <udsipc.h>

#define PATIENCE_MS 60000

/* This thread's last failure in full: it names the path, the limit or the errno, which the status alone does not. */
static bool failed(const char *what, udsipc_status status)
{
    char text[512];
    bool detailed = udsipc_last_error_message(text, sizeof text) > 0;
    fprintf(stderr, "acknowledged_writer: %s: %s\n", what, detailed ? text : udsipc_strerror(status));
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

static udsipc_writer *open_writer(const char *path)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    if (options == NULL) {
        fprintf(stderr, "acknowledged_writer: out of memory\n");
        return NULL;
    }

    /* Required: nothing goes to a reader that does not acknowledge. No limit of attempts: by default a message is given up
     * when five readers have died in its callback one after another, and the kills may have had another reason. Until the
     * deadline: a stop waits for a reader that is not there yet. */
    udsipc_writer *writer = NULL;
    udsipc_status status = udsipc_writer_options_set_acknowledge(options, 2);
    if (status == UDSIPC_OK)
        status = udsipc_writer_options_set_max_attempts(options, 0);
    if (status == UDSIPC_OK)
        status = udsipc_writer_options_set_drain_until_deadline(options, 1);
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

    while (ok && (length = getline(&line, &capacity, stdin)) >= 0) {
        size_t size = (size_t)length;
        if (size > 0 && line[size - 1] == '\n')
            size--;
        /* Waits while the queue is full, as it is while no reader runs. */
        udsipc_status status = udsipc_write_message_timeout(writer, line, size, PATIENCE_MS);
        if (status != UDSIPC_OK)
            ok = failed("cannot send", status);
    }
    free(line);
    if (ferror(stdin)) {
        perror("acknowledged_writer: cannot read standard input");
        return false;
    }
    return ok;
}

static bool finish(udsipc_writer *writer)
{
    /* OK: the reader has handled everything. */
    bool ok = true;
    udsipc_status status = udsipc_writer_stop(writer, PATIENCE_MS);
    if (status != UDSIPC_OK)
        ok = failed("stopped with messages that were not handled", status);

    udsipc_writer_metrics metrics;
    status = udsipc_writer_get_metrics(writer, &metrics, sizeof metrics);
    if (status != UDSIPC_OK)
        return failed("cannot read the metrics", status);
    fprintf(stderr,
            "acknowledged_writer: sent=%" PRIu64 " acknowledged=%" PRIu64 " redelivered=%" PRIu64 " abandoned=%" PRIu64
            " suspected_lost=%" PRIu64 " connections=%" PRIu64 "\n",
            metrics.sent, metrics.acknowledged, metrics.redelivered, metrics.abandoned, metrics.suspected_lost,
            metrics.connections);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s SOCKET < FILE\n", argv[0]);
        return 2;
    }
    udsipc_writer *writer = open_writer(argv[1]);
    if (writer == NULL)
        return EXIT_FAILURE;

    bool ok = send_lines(writer);
    ok = finish(writer) && ok;
    udsipc_writer_free(writer);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
