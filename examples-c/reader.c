/* Prints every message as one line.
 *
 *     reader SOCKET
 *
 * Runs until SIGINT or SIGTERM, then takes what writers have already sent and leaves.
 */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <udsipc.h>

#define PATIENCE_MS 5000

/* This thread's last failure in full: it names the path, the limit or the errno, which the status alone does not. */
static bool failed(const char *what, udsipc_status status)
{
    char text[512];
    bool detailed = udsipc_last_error_message(text, sizeof text) > 0;
    fprintf(stderr, "reader: %s: %s\n", what, detailed ? text : udsipc_strerror(status));
    return false;
}

/* Runs in a thread of the library. `data` belongs to the library and is gone when this returns. Standard output is line
 * buffered (main), so a message is out of this process before it counts as handled, also if the process is killed. */
static int32_t on_message(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)connection;
    FILE *out = userdata;
    bool written = fwrite(data, 1, len, out) == len && fputc('\n', out) != EOF;
    return written ? 0 : 1; /* 1 is counted in `errors` and reported to on_error */
}

/* Called for what no call could return: a peer sent nonsense, this process has no descriptors left ... The reader goes
 * on, so there is nothing to do but to tell. */
static void on_error(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)os_errno; /* the text has it */
    (void)userdata;
    failed(context, (udsipc_status)status);
}

static udsipc_reader *open_reader(const char *path)
{
    udsipc_reader_options *options = udsipc_reader_options_new();
    if (options == NULL) {
        fprintf(stderr, "reader: out of memory\n");
        return NULL;
    }

    /* One handler thread: callbacks of different connections never overlap, so their lines do not mix. */
    udsipc_reader *reader = NULL;
    udsipc_status status = udsipc_reader_options_set_max_handler_threads(options, 1);
    if (status == UDSIPC_OK)
        status = udsipc_reader_options_set_socket_mode(options, 0600);
    if (status == UDSIPC_OK)
        status = udsipc_reader_options_set_error_callback(options, on_error, NULL);
    if (status == UDSIPC_OK)
        status = udsipc_reader_new(path, on_message, stdout, options, &reader);
    if (status == UDSIPC_OK)
        status = udsipc_reader_start(reader);
    udsipc_reader_options_free(options); /* _new has copied them */

    if (status != UDSIPC_OK) {
        failed("cannot start", status);
        udsipc_reader_free(reader);
        return NULL;
    }
    return reader;
}

static bool finish(udsipc_reader *reader)
{
    bool ok = true;
    udsipc_status status = udsipc_reader_stop(reader, PATIENCE_MS);
    if (status != UDSIPC_OK)
        ok = failed("stopped before everything was read", status);

    udsipc_reader_metrics metrics;
    status = udsipc_reader_get_metrics(reader, &metrics, sizeof metrics);
    if (status != UDSIPC_OK)
        return failed("cannot read the metrics", status);
    fprintf(stderr,
            "reader: received=%" PRIu64 " received_bytes=%" PRIu64 " connections=%" PRIu64 " errors=%" PRIu64 "\n",
            metrics.received, metrics.received_bytes, metrics.connections, metrics.errors);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s SOCKET\n", argv[0]);
        return 2;
    }

    /* Blocked before the reader exists, so that a signal waits for sigwait() and does not end the process half way. */
    sigset_t signals;
    if (sigemptyset(&signals) != 0 || sigaddset(&signals, SIGINT) != 0 || sigaddset(&signals, SIGTERM) != 0 ||
        sigprocmask(SIG_BLOCK, &signals, NULL) != 0 || setvbuf(stdout, NULL, _IOLBF, BUFSIZ) != 0) {
        perror("reader: cannot set up signals and output");
        return EXIT_FAILURE;
    }
    udsipc_reader *reader = open_reader(argv[1]);
    if (reader == NULL)
        return EXIT_FAILURE;
    fprintf(stderr, "reader: listening on %s\n", udsipc_reader_socket_path(reader));

    bool ok = true;
    int signal_number;
    int error = sigwait(&signals, &signal_number);
    if (error != 0) {
        fprintf(stderr, "reader: cannot wait for a signal: %s\n", strerror(error));
        ok = false;
    }
    ok = finish(reader) && ok;
    udsipc_reader_free(reader);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
