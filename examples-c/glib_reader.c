/* A reader inside a GLib main loop, as GTK and many daemons have one: the library starts no thread.
 *
 *     glib_reader SOCKET
 *
 * Prints every message as one line, and ends at SIGINT or SIGTERM. Build with
 * $(pkg-config --cflags --libs glib-2.0 udsipc).
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#include <glib-unix.h>
#include <glib.h>

#include <udsipc.h>

#define PATIENCE_MS 5000

/* This thread's last failure in full: it names the path, the limit or the errno, which the status alone does not. */
static void failed(const char *what, udsipc_status status)
{
    char text[512];
    gboolean detailed = udsipc_last_error_message(text, sizeof text) > 0;
    fprintf(stderr, "glib_reader: %s: %s\n", what, detailed ? text : udsipc_strerror(status));
}

struct app {
    GMainLoop *loop;
    udsipc_reader *reader;
    gboolean ok;
};

static int32_t on_message(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)connection;
    FILE *out = userdata;
    return fwrite(data, 1, len, out) == len && fputc('\n', out) != EOF && fflush(out) == 0 ? 0 : 1;
}

/* The descriptor is level-triggered: what this call leaves, the loop reports again. */
static gboolean on_readable(gint fd, GIOCondition condition, gpointer userdata)
{
    (void)fd;
    (void)condition;
    struct app *app = userdata;
    udsipc_status status = udsipc_reader_dispatch(app->reader, 0);
    if (status == UDSIPC_OK)
        return G_SOURCE_CONTINUE;
    failed("cannot serve", status);
    app->ok = FALSE;
    g_main_loop_quit(app->loop);
    return G_SOURCE_CONTINUE; /* main removes it */
}

static gboolean on_signal(gpointer userdata)
{
    g_main_loop_quit(((struct app *)userdata)->loop);
    return G_SOURCE_CONTINUE;
}

/* Stop drains as it does with threads; the last callbacks run inside this call. */
static void finish(struct app *app)
{
    udsipc_status status = udsipc_reader_stop(app->reader, PATIENCE_MS);
    if (status != UDSIPC_OK) {
        failed("stopped before everything was read", status);
        app->ok = FALSE;
    }
    udsipc_reader_metrics metrics;
    status = udsipc_reader_get_metrics(app->reader, &metrics, sizeof metrics);
    if (status != UDSIPC_OK) {
        failed("cannot read the metrics", status);
        app->ok = FALSE;
        return;
    }
    fprintf(stderr,
            "glib_reader: received=%" G_GUINT64_FORMAT " connections=%" G_GUINT64_FORMAT " errors=%" G_GUINT64_FORMAT
            "\n",
            metrics.received, metrics.connections, metrics.errors);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s SOCKET\n", argv[0]);
        return 2;
    }
    struct app app = {.ok = TRUE};
    udsipc_status status = udsipc_reader_new(argv[1], on_message, stdout, NULL, &app.reader);
    if (status != UDSIPC_OK) {
        failed("cannot listen", status);
        return EXIT_FAILURE;
    }
    app.loop = g_main_loop_new(NULL, FALSE);
    guint sources[] = {
        g_unix_fd_add(udsipc_reader_fd(app.reader), G_IO_IN, on_readable, &app),
        g_unix_signal_add(SIGINT, on_signal, &app),
        g_unix_signal_add(SIGTERM, on_signal, &app),
    };
    fprintf(stderr, "glib_reader: listening on %s\n", udsipc_reader_socket_path(app.reader));
    g_main_loop_run(app.loop);

    /* Before the reader is freed: the loop must not watch a descriptor that has been closed. */
    for (size_t i = 0; i < G_N_ELEMENTS(sources); i++)
        g_source_remove(sources[i]);
    g_main_loop_unref(app.loop);
    finish(&app);
    udsipc_reader_free(app.reader);
    return app.ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
