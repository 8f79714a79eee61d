/* A reader inside a libuv loop: the library starts no thread, its callbacks run in the loop's.
 *
 *     libuv_reader SOCKET
 *
 * Prints every message as one line, and ends at SIGINT or SIGTERM. Build with $(pkg-config --cflags --libs libuv udsipc).
 */
#define _POSIX_C_SOURCE 200809L /* uv.h uses pthread_rwlock_t */

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include <uv.h>

#include <udsipc.h>

#define PATIENCE_MS 5000

/* This thread's last failure in full: it names the path, the limit or the errno, which the status alone does not. */
static bool failed(const char *what, udsipc_status status)
{
    char text[512];
    bool detailed = udsipc_last_error_message(text, sizeof text) > 0;
    fprintf(stderr, "libuv_reader: %s: %s\n", what, detailed ? text : udsipc_strerror(status));
    return false;
}

static bool checked(const char *what, int result)
{
    if (result < 0)
        fprintf(stderr, "libuv_reader: %s: %s\n", what, uv_strerror(result));
    return result >= 0;
}

struct app {
    udsipc_reader *reader;
    bool ok;
};

static int32_t on_message(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)connection;
    FILE *out = userdata;
    return fwrite(data, 1, len, out) == len && fputc('\n', out) != EOF && fflush(out) == 0 ? 0 : 1;
}

/* The descriptor is level-triggered: what this call leaves, the loop reports again. */
static void on_readable(uv_poll_t *handle, int result, int events)
{
    (void)events;
    struct app *app = handle->data;
    app->ok = checked("poll", result);
    if (app->ok) {
        udsipc_status status = udsipc_reader_dispatch(app->reader, 0);
        app->ok = status == UDSIPC_OK || failed("cannot serve", status);
    }
    if (!app->ok)
        uv_stop(handle->loop);
}

static void on_signal(uv_signal_t *handle, int signal_number)
{
    (void)signal_number;
    uv_stop(handle->loop);
}

/* Runs until a signal. The handles are closed before the reader is freed: the loop must not watch a descriptor that has
 * been closed. */
static bool serve(udsipc_reader *reader, uv_loop_t *loop)
{
    uv_poll_t readable;
    uv_signal_t interrupt, terminate;
    if (!checked("watch the reader", uv_poll_init(loop, &readable, udsipc_reader_fd(reader))))
        return false;
    uv_signal_init(loop, &interrupt);
    uv_signal_init(loop, &terminate);
    struct app app = {.reader = reader, .ok = true};
    readable.data = &app;
    bool ok = checked("watch the reader", uv_poll_start(&readable, UV_READABLE, on_readable)) &&
              checked("SIGINT", uv_signal_start(&interrupt, on_signal, SIGINT)) &&
              checked("SIGTERM", uv_signal_start(&terminate, on_signal, SIGTERM));
    if (ok) {
        fprintf(stderr, "libuv_reader: listening on %s\n", udsipc_reader_socket_path(reader));
        uv_run(loop, UV_RUN_DEFAULT);
    }
    uv_close((uv_handle_t *)&readable, NULL);
    uv_close((uv_handle_t *)&interrupt, NULL);
    uv_close((uv_handle_t *)&terminate, NULL);
    uv_run(loop, UV_RUN_DEFAULT);
    return ok && app.ok;
}

/* Stop drains as it does with threads; the last callbacks run inside this call. */
static bool finish(udsipc_reader *reader)
{
    udsipc_status status = udsipc_reader_stop(reader, PATIENCE_MS);
    bool ok = status == UDSIPC_OK || failed("stopped before everything was read", status);
    udsipc_reader_metrics metrics;
    status = udsipc_reader_get_metrics(reader, &metrics, sizeof metrics);
    if (status != UDSIPC_OK)
        return failed("cannot read the metrics", status);
    fprintf(stderr, "libuv_reader: received=%" PRIu64 " connections=%" PRIu64 " errors=%" PRIu64 "\n",
            metrics.received, metrics.connections, metrics.errors);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s SOCKET\n", argv[0]);
        return 2;
    }
    udsipc_reader *reader = NULL;
    udsipc_status status = udsipc_reader_new(argv[1], on_message, stdout, NULL, &reader);
    if (status != UDSIPC_OK)
        return failed("cannot listen", status) ? EXIT_SUCCESS : EXIT_FAILURE;
    uv_loop_t loop;
    bool ok = checked("loop", uv_loop_init(&loop)) && serve(reader, &loop);
    ok = finish(reader) && ok;
    udsipc_reader_free(reader);
    ok = checked("loop", uv_loop_close(&loop)) && ok;
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
