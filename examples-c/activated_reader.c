/* A reader that systemd starts when the first writer connects.
 *
 *     activated_reader SOCKET
 *
 * Under systemd (systemd/udsipc-example.socket and .service) the reader takes the socket that systemd passes, and
 * SOCKET is only the name to fall back to; without systemd it makes SOCKET itself. Nothing in this program differs
 * between the two: the library reads LISTEN_FDS, tells systemd READY=1 and STOPPING=1, and leaves a passed socket alone
 * when it stops, so that writers which connect meanwhile wait in its backlog for the next start and lose nothing.
 */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <udsipc.h>

/* Below TimeoutStopSec= of the unit: this program must be gone before systemd kills it. */
#define PATIENCE_MS 20000

/* This thread's last failure in full: it names the path, the limit or the errno, which the status alone does not. */
static bool failed(const char *what, udsipc_status status)
{
    char text[512];
    bool detailed = udsipc_last_error_message(text, sizeof text) > 0;
    fprintf(stderr, "activated_reader: %s: %s\n", what, detailed ? text : udsipc_strerror(status));
    return false;
}

/* The journal takes one line per message from standard output. The socket may be open to many users (SocketMode= of the
 * unit), so each line says who sent it: the kernel vouches for the ids, the peer cannot invent them. */
static int32_t on_message(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    FILE *out = userdata;
    int32_t pid;
    uint32_t uid, gid;
    udsipc_status status = udsipc_connection_credentials(connection, &pid, &uid, &gid);
    if (status != UDSIPC_OK) {
        failed("cannot tell who the sender is", status);
        return 1;
    }
    bool written = fprintf(out, "uid %" PRIu32 ": ", uid) >= 0 && fwrite(data, 1, len, out) == len &&
                   fputc('\n', out) != EOF;
    return written ? 0 : 1;
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
        fprintf(stderr, "activated_reader: out of memory\n");
        return NULL;
    }

    /* One handler thread: lines of different writers do not mix. */
    udsipc_reader *reader = NULL;
    udsipc_status status = udsipc_reader_options_set_max_handler_threads(options, 1);
    if (status == UDSIPC_OK)
        status = udsipc_reader_options_set_error_callback(options, on_error, NULL);
    if (status == UDSIPC_OK)
        status = udsipc_reader_new(path, on_message, stdout, options, &reader);
    if (status == UDSIPC_OK)
        status = udsipc_reader_start(reader); /* tells systemd READY=1 */
    udsipc_reader_options_free(options);      /* _new has copied them */

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
    udsipc_status status = udsipc_reader_stop(reader, PATIENCE_MS); /* tells systemd STOPPING=1 */
    if (status != UDSIPC_OK)
        ok = failed("stopped before everything was read", status);

    udsipc_reader_metrics metrics;
    status = udsipc_reader_get_metrics(reader, &metrics, sizeof metrics);
    if (status != UDSIPC_OK)
        return failed("cannot read the metrics", status);
    char text[128];
    int length = snprintf(text, sizeof text, "STATUS=Stopped after %" PRIu64 " messages, %" PRIu64 " errors",
                          metrics.received, metrics.errors);
    if (length < 0 || (size_t)length >= sizeof text) {
        fprintf(stderr, "activated_reader: status text too long\n");
        return false;
    }
    status = udsipc_systemd_notify(text); /* does nothing without systemd */
    if (status != UDSIPC_OK)
        ok = failed("cannot tell systemd the status", status);
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
        perror("activated_reader: cannot set up signals and output");
        return EXIT_FAILURE;
    }
    udsipc_reader *reader = open_reader(argv[1]);
    if (reader == NULL)
        return EXIT_FAILURE;

    char description[512];
    if (udsipc_reader_describe(reader, description, sizeof description) > 0)
        fprintf(stderr, "activated_reader: %s\n", description);

    bool ok = true;
    int signal_number;
    int error = sigwait(&signals, &signal_number);
    if (error != 0) {
        fprintf(stderr, "activated_reader: cannot wait for a signal: %s\n", strerror(error));
        ok = false;
    }
    ok = finish(reader) && ok;
    udsipc_reader_free(reader);
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
