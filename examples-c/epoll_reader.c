/* A reader inside the program's own event loop: the library starts no thread, its callbacks run in this one.
 *
 *     epoll_reader SOCKET
 *
 * Prints every message as one line. The descriptor of the reader is level-triggered and stays the same, so it fits
 * epoll, poll, libuv, GLib, libevent and asyncio alike. Messages come in batches here: one call, many messages.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <udsipc.h>

#define PATIENCE_MS 5000

/* This thread's last failure in full: it names the path, the limit or the errno, which the status alone does not. */
static bool failed(const char *what, udsipc_status status)
{
    char text[512];
    bool detailed = udsipc_last_error_message(text, sizeof text) > 0;
    fprintf(stderr, "epoll_reader: %s: %s\n", what, detailed ? text : udsipc_strerror(status));
    return false;
}

/* Returns how many messages were handled well. Flushing once per batch is what makes batches cheap; if it fails nothing
 * of the batch is known to be out, and the first message counts as failed. */
static size_t on_messages(const udsipc_buffer *messages, size_t count, const udsipc_connection *connection,
                          void *userdata)
{
    (void)connection;
    FILE *out = userdata;
    for (size_t i = 0; i < count; i++)
        if (fwrite(messages[i].data, 1, messages[i].len, out) != messages[i].len || fputc('\n', out) == EOF)
            return i;
    return fflush(out) == 0 ? count : 0;
}

/* Called for what no call could return: a peer sent nonsense, this process has no descriptors left ... The reader goes
 * on, so there is nothing to do but to tell. */
static void on_error(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)os_errno; /* the text has it */
    (void)userdata;
    failed(context, (udsipc_status)status);
}

/* Not started: a reader that is never started has no threads and works when it is dispatched. */
static udsipc_reader *open_reader(const char *path)
{
    udsipc_reader_options *options = udsipc_reader_options_new();
    if (options == NULL) {
        fprintf(stderr, "epoll_reader: out of memory\n");
        return NULL;
    }

    udsipc_reader *reader = NULL;
    udsipc_status status = udsipc_reader_options_set_error_callback(options, on_error, NULL);
    if (status == UDSIPC_OK)
        status = udsipc_reader_new_batched(path, on_messages, stdout, options, &reader);
    udsipc_reader_options_free(options); /* _new has copied them */

    if (status != UDSIPC_OK) {
        failed("cannot listen", status);
        return NULL;
    }
    return reader;
}

/* SIGINT and SIGTERM as a descriptor, so that one epoll_wait() waits for both kinds of events. */
static int open_signals(void)
{
    sigset_t signals;
    if (sigemptyset(&signals) != 0 || sigaddset(&signals, SIGINT) != 0 || sigaddset(&signals, SIGTERM) != 0 ||
        sigprocmask(SIG_BLOCK, &signals, NULL) != 0)
        return -1;
    return signalfd(-1, &signals, SFD_CLOEXEC);
}

static bool watch(int epoll_fd, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

static bool serve(udsipc_reader *reader, int epoll_fd, int signal_fd)
{
    for (;;) {
        struct epoll_event event;
        int ready = epoll_wait(epoll_fd, &event, 1, -1);
        if (ready < 0 && errno != EINTR) {
            perror("epoll_reader: epoll_wait");
            return false;
        }
        if (ready <= 0)
            continue;
        if (event.data.fd == signal_fd)
            return true;
        /* 0: do what is ready and come back, the loop does the waiting. */
        udsipc_status status = udsipc_reader_dispatch(reader, 0);
        if (status != UDSIPC_OK)
            return failed("cannot serve", status);
    }
}

/* Stop drains as it does with threads; the last callbacks run inside this call. */
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
    fprintf(stderr, "epoll_reader: received=%" PRIu64 " connections=%" PRIu64 " errors=%" PRIu64 "\n",
            metrics.received, metrics.connections, metrics.errors);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s SOCKET\n", argv[0]);
        return 2;
    }
    int signal_fd = open_signals();
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (signal_fd < 0 || epoll_fd < 0) {
        perror("epoll_reader: cannot set up the event loop");
        return EXIT_FAILURE;
    }
    udsipc_reader *reader = open_reader(argv[1]);
    if (reader == NULL)
        return EXIT_FAILURE;

    bool ok = true;
    if (!watch(epoll_fd, signal_fd) || !watch(epoll_fd, udsipc_reader_fd(reader))) {
        perror("epoll_reader: epoll_ctl");
        ok = false;
    } else {
        fprintf(stderr, "epoll_reader: listening on %s\n", udsipc_reader_socket_path(reader));
        ok = serve(reader, epoll_fd, signal_fd);
    }
    ok = finish(reader) && ok;
    udsipc_reader_free(reader);
    if (close(epoll_fd) != 0 || close(signal_fd) != 0) {
        perror("epoll_reader: close");
        ok = false;
    }
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
