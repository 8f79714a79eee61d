/* Handles made and freed a thousand times leave nothing behind: no descriptor, no thread, no file, no memory. */
#include "../support/check.h"

#include <malloc.h>

#define CYCLES 1000

struct footprint {
    size_t fds;
    size_t threads;
    size_t files;
    size_t heap;
};

/* Without what is there for a moment only: a writer that dials has a socket, and a thread that has been joined is in /proc. */
static size_t steady(size_t (*count)(void))
{
    size_t least = SIZE_MAX;
    for (int look = 0; look < 10; look++) {
        size_t now = count();
        if (now < least) least = now;
        look_again_soon();
    }
    return least;
}

static struct footprint footprint(void)
{
    struct mallinfo2 heap = mallinfo2();
    return (struct footprint){steady(open_fds), steady(threads), entries_of("."), heap.uordblks + heap.hblkhd};
}

/* 100 bytes kept per cycle would show. What may differ are a batch of 64 KiB that a queue keeps for later, and small
 * blocks in the caches of malloc. Under a checker its own search for leaks looks instead. */
static void heap_is_constant(struct footprint before, struct footprint after)
{
    CHECK(UNDER_CHECKER || after.heap < before.heap + 100 * CYCLES);
}

/* Runs a cycle often enough for caches to fill, and then a thousand times more. */
static void stays_constant(void (*cycle)(void))
{
    for (int i = 0; i < CYCLES / 10; i++)
        cycle();
    WAIT_UNTIL(threads() == 1);
    struct footprint before = footprint();
    for (int i = 0; i < CYCLES; i++)
        cycle();
    WAIT_UNTIL(threads() == 1);
    struct footprint after = footprint();
    CHECK_INT(after.fds, before.fds);
    CHECK_INT(after.threads, before.threads);
    CHECK_INT(after.files, before.files);
    heap_is_constant(before, after);
}

static void new_and_free(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader_free(new_reader(path.text, &inbox));
    udsipc_writer_free(new_writer(path.text));
    CHECK(!exists(path.text));
}

static void churn_new_and_free(void)
{
    stays_constant(new_and_free);
}

static void start_and_free(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_writer *writer = started_writer(path.text);
    udsipc_reader *reader = started_reader(path.text, &inbox);
    CHECK_OK(write_numbered(writer, 0, 0));
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static void churn_start_and_free(void)
{
    stays_constant(start_and_free);
}

static void whole_life(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    struct failures failures = FAILURES;
    udsipc_reader *reader = watched_reader(path.text, &inbox, udsipc_reader_options_new(), &failures);
    udsipc_writer *writer = watched_writer(path.text, udsipc_writer_options_new(), &failures);
    CHECK_OK(udsipc_reader_start(reader));
    CHECK_OK(udsipc_writer_start(writer));
    for (uint32_t i = 0; i < 10; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), 10);
    CHECK_INT(inbox.gaps, 0);
    CHECK_INT(failures_of(&failures, -1, NULL), 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static void churn_whole_life(void)
{
    stays_constant(whole_life);
}

static void dispatched_life(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = new_reader(path.text, &inbox);
    udsipc_writer *writer = new_writer(path.text);
    CHECK(udsipc_writer_fd(writer) >= 0 && udsipc_reader_fd(reader) >= 0);
    CHECK_OK(write_numbered(writer, 0, 0));
    for (uint64_t deadline = now_ms() + PATIENCE_MS; inbox_count(&inbox) == 0;) {
        CHECK(now_ms() < deadline);
        CHECK_OK(udsipc_writer_dispatch(writer, 0));
        CHECK_OK(udsipc_reader_dispatch(reader, 0));
    }
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static void churn_dispatched_life(void)
{
    stays_constant(dispatched_life);
}

/* What fails leaves nothing behind either. */
static void refused_life(void)
{
    udsipc_reader *reader = NULL;
    udsipc_writer *writer = NULL;
    char long_path[300];
    memset(long_path, 'x', sizeof long_path - 1);
    long_path[0] = '/';
    long_path[sizeof long_path - 1] = '\0';
    CHECK_STATUS(udsipc_reader_new("", receive, NULL, NULL, &reader), UDSIPC_ERR_INVALID_SOCKET_PATH);
    CHECK_STATUS(udsipc_reader_new(long_path, receive, NULL, NULL, &reader), UDSIPC_ERR_INVALID_SOCKET_PATH);
    CHECK_STATUS(udsipc_writer_new("", NULL, &writer), UDSIPC_ERR_INVALID_SOCKET_PATH);
    CHECK_STATUS(udsipc_writer_new(long_path, NULL, &writer), UDSIPC_ERR_INVALID_SOCKET_PATH);
    CHECK_STATUS(udsipc_reader_new(in_scratch("file").text, receive, NULL, NULL, &reader), UDSIPC_ERR_ADDRESS_IN_USE);
    CHECK(udsipc_reader_new(in_scratch("file/s").text, receive, NULL, NULL, &reader) != UDSIPC_OK);

    struct inbox inbox = INBOX;
    udsipc_reader *owner = new_reader(in_scratch("s").text, &inbox);
    CHECK_STATUS(udsipc_reader_new(in_scratch("s").text, receive, NULL, NULL, &reader), UDSIPC_ERR_ADDRESS_IN_USE);
    udsipc_reader_free(owner);
    CHECK(reader == NULL && writer == NULL);
}

static void churn_refused_life(void)
{
    int file = open("file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(file >= 0);
    close(file);
    stays_constant(refused_life);
}

static void options_life(void)
{
    struct failures failures = FAILURES;
    udsipc_writer_options *writer_options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_error_callback(writer_options, record_failure, &failures));
    udsipc_writer_options_free(writer_options);
    udsipc_reader_options *reader_options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_listen_fd_name(reader_options, "first"));
    CHECK_OK(udsipc_reader_options_set_listen_fd_name(reader_options, "second"));
    for (uint32_t id = 0; id < 10; id++) {
        CHECK_OK(udsipc_reader_options_allow_uid(reader_options, id));
        CHECK_OK(udsipc_reader_options_allow_gid(reader_options, id));
    }
    udsipc_reader_options_free(reader_options);
}

static void churn_options(void)
{
    stays_constant(options_life);
}

/* Connections that come and go at one reader, and readers that come and go under one writer. */
static udsipc_reader *lasting_reader;
static udsipc_writer *lasting_writer;

static void one_connection(void)
{
    uint64_t received = reader_metrics(lasting_reader).received;
    int client = raw_connect(udsipc_reader_socket_path(lasting_reader));
    raw_send_frame(client, "hello", 5);
    close(client);
    WAIT_UNTIL(reader_metrics(lasting_reader).received == received + 1);
    WAIT_UNTIL(reader_metrics(lasting_reader).active_connections == 0);
}

static void churn_connections(void)
{
    struct inbox inbox = INBOX;
    lasting_reader = started_reader(in_scratch("s").text, &inbox);
    size_t fds = open_fds();
    for (int i = 0; i < CYCLES / 10; i++)
        one_connection();
    WAIT_UNTIL(open_fds() == fds); /* the last one is not counted any more, and closed in a moment */
    struct footprint before = footprint();
    for (int i = 0; i < CYCLES; i++)
        one_connection();
    WAIT_UNTIL(open_fds() == fds);
    struct footprint after = footprint();
    CHECK_INT(after.fds, before.fds);
    heap_is_constant(before, after);
    udsipc_reader_free(lasting_reader);
}

static void one_reader(void)
{
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(udsipc_writer_socket_path(lasting_writer), &inbox);
    CHECK_OK(udsipc_write_message(lasting_writer, "hello", 5));
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    udsipc_reader_free(reader);
}

static void churn_readers_under_a_writer(void)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 1));
    struct failures failures = FAILURES;
    lasting_writer = watched_writer(in_scratch("s").text, options, &failures);
    CHECK_OK(udsipc_writer_start(lasting_writer));
    for (int i = 0; i < CYCLES / 20; i++)
        one_reader();
    WAIT_UNTIL(udsipc_writer_is_connected(lasting_writer) == 0);
    struct footprint before = footprint();
    for (int i = 0; i < CYCLES / 2; i++)
        one_reader();
    WAIT_UNTIL(udsipc_writer_is_connected(lasting_writer) == 0);
    struct footprint after = footprint();
    CHECK_INT(after.fds, before.fds);
    CHECK_INT(after.threads, before.threads);
    heap_is_constant(before, after);
    udsipc_writer_free(lasting_writer);
}

static const struct scenario scenarios[] = {
    SCENARIO(churn_new_and_free),
    SCENARIO(churn_start_and_free),
    SCENARIO(churn_whole_life),
    SCENARIO(churn_dispatched_life),
    SCENARIO(churn_refused_life),
    SCENARIO(churn_options),
    SCENARIO(churn_connections),
    SCENARIO(churn_readers_under_a_writer),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
