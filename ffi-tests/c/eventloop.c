/* Writer and reader without threads of the library, driven by a poll loop of the host. */
#include "../support/check.h"

#include <sys/epoll.h>

static bool readable(int fd)
{
    struct pollfd look = {.fd = fd, .events = POLLIN};
    int ready = poll(&look, 1, 0);
    CHECK(ready >= 0 && (look.revents & (POLLERR | POLLNVAL)) == 0);
    return ready == 1;
}

/* A host: it sleeps in poll, and dispatches what is readable, without ever waiting in the library. */
struct host {
    udsipc_writer *writer;
    udsipc_reader *reader;
    uint64_t wakeups;
};

static void turn(struct host *host, int timeout_ms)
{
    struct pollfd look[2] = {{.fd = -1, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
    if (host->writer != NULL) look[0].fd = udsipc_writer_fd(host->writer);
    if (host->reader != NULL) look[1].fd = udsipc_reader_fd(host->reader);
    int ready = poll(look, 2, timeout_ms);
    CHECK(ready >= 0);
    host->wakeups += ready > 0;
    if (look[0].revents != 0) CHECK_OK(udsipc_writer_dispatch(host->writer, 0));
    if (look[1].revents != 0) CHECK_OK(udsipc_reader_dispatch(host->reader, 0));
}

#define TURN_UNTIL(host, condition) \
    do { \
        uint64_t turn_until_ = now_ms() + PATIENCE_MS; \
        while (!(condition)) { \
            if (now_ms() > turn_until_) fail(__FILE__, __LINE__, "turned in vain for: " #condition); \
            turn(host, 100); \
        } \
    } while (0)

static void free_host(struct host *host)
{
    udsipc_writer_free(host->writer);
    udsipc_reader_free(host->reader);
}

/* One thread, two descriptors, everything arrives. */
static void exchange_in_one_thread(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    struct host host = {.writer = new_writer(path.text), .reader = new_reader(path.text, &inbox)};
    CHECK(udsipc_writer_fd(host.writer) >= 0);
    CHECK(udsipc_reader_fd(host.reader) >= 0);
    for (uint32_t i = 0; i < 50000;) {
        udsipc_status status = write_numbered(host.writer, 0, i);
        if (status == UDSIPC_OK)
            i++;
        else
            CHECK_STATUS(status, UDSIPC_ERR_BUFFER_FULL);
        if (status != UDSIPC_OK || i % 1000 == 0) turn(&host, 0);
    }
    TURN_UNTIL(&host, inbox_count(&inbox) == 50000);
    CHECK_INT(inbox.gaps, 0);
    CHECK_INT(threads(), 1);
    CHECK_INT(writer_metrics(host.writer).sent, 50000);
    free_host(&host);
}

/* The descriptor stays the same as long as the handle lives: a host registers it once. */
static void the_descriptor_is_stable(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    struct host host = {.writer = new_writer(path.text), .reader = new_reader(path.text, &inbox)};
    int writer_fd = udsipc_writer_fd(host.writer), reader_fd = udsipc_reader_fd(host.reader);
    CHECK(writer_fd != reader_fd);
    CHECK_OK(write_numbered(host.writer, 0, 0));
    TURN_UNTIL(&host, inbox_count(&inbox) == 1);
    udsipc_reader_free(host.reader);
    host.reader = new_reader(path.text, &inbox);
    CHECK_OK(write_numbered(host.writer, 0, 1));
    TURN_UNTIL(&host, inbox_count(&inbox) == 2);
    CHECK_INT(udsipc_writer_fd(host.writer), writer_fd);
    free_host(&host);
}

/* Readable as long as there is work, however often one looks; not any more when it is done. */
static void readable_while_there_is_work(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = new_reader(path.text, &inbox);
    int fd = udsipc_reader_fd(reader);
    CHECK_OK(udsipc_reader_dispatch(reader, 0));
    CHECK(!readable(fd));

    int client = raw_connect(path.text);
    for (int look = 0; look < 10; look++)
        CHECK(readable(fd));
    while (readable(fd))
        CHECK_OK(udsipc_reader_dispatch(reader, 0));
    CHECK_INT(reader_metrics(reader).active_connections, 1);

    raw_send_numbered(client, 0, 0);
    for (int look = 0; look < 10; look++)
        CHECK(readable(fd));
    while (readable(fd))
        CHECK_OK(udsipc_reader_dispatch(reader, 0));
    CHECK_INT(inbox_count(&inbox), 1);

    close(client);
    for (int look = 0; look < 10; look++)
        CHECK(readable(fd));
    while (readable(fd))
        CHECK_OK(udsipc_reader_dispatch(reader, 0));
    CHECK_INT(reader_metrics(reader).active_connections, 0);
    udsipc_reader_free(reader);
}

static void a_writer_is_readable_while_there_is_work(void)
{
    struct path path = in_scratch("s");
    int listener = raw_listen(path.text);
    udsipc_writer *writer = new_writer(path.text);
    int fd = udsipc_writer_fd(writer);
    /* A new writer has a connection to make. */
    for (int look = 0; look < 10; look++)
        CHECK(readable(fd));
    while (readable(fd))
        CHECK_OK(udsipc_writer_dispatch(writer, 0));
    CHECK_INT(udsipc_writer_is_connected(writer), 1);
    int peer = raw_accept(listener);

    /* A message is work, unless the call that took it has sent it already. */
    CHECK_OK(write_numbered(writer, 0, 0));
    for (int look = 0; look < 10; look++)
        CHECK(readable(fd) || writer_metrics(writer).sent == 1);
    while (readable(fd))
        CHECK_OK(udsipc_writer_dispatch(writer, 0));
    uint8_t frame[16];
    size_t len;
    CHECK(raw_read_frame(peer, frame, sizeof frame, &len));
    CHECK_INT(writer_metrics(writer).sent, 1);

    /* A peer that goes away is work, too. */
    close(peer);
    WAIT_UNTIL(readable(fd));
    for (uint64_t deadline = now_ms() + PATIENCE_MS; writer_metrics(writer).connections < 2;) {
        CHECK(now_ms() < deadline);
        CHECK_OK(udsipc_writer_dispatch(writer, 100));
    }
    udsipc_writer_free(writer);
    close(listener);
}

/* A kernel buffer that is full is no work: the loop sleeps until the reader has made room. */
static void a_full_pipe_is_no_busy_loop(void)
{
    struct path path = in_scratch("s");
    int listener = raw_listen(path.text);
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_write_timeout_ms(options, UDSIPC_WAIT_FOREVER));
    struct failures failures = FAILURES;
    struct host host = {.writer = watched_writer(path.text, options, &failures)};
    static uint8_t kilobyte[1024], sink[65536];
    uint64_t accepted = 0;
    for (; accepted < 5000; accepted++)
        CHECK_OK(udsipc_write_message(host.writer, kilobyte, sizeof kilobyte));
    TURN_UNTIL(&host, writer_metrics(host.writer).sent > 0);
    int peer = raw_accept(listener);
    for (uint64_t quiet = now_ms() + 300; now_ms() < quiet;)
        turn(&host, 50);
    uint64_t before = host.wakeups;
    for (uint64_t quiet = now_ms() + 500; now_ms() < quiet;)
        turn(&host, 50);
    CHECK(host.wakeups - before <= 5);
    CHECK(writer_metrics(host.writer).queue_depth > 0);

    while (writer_metrics(host.writer).queue_depth > 0) {
        CHECK(recv(peer, sink, sizeof sink, 0) > 0);
        turn(&host, 0);
    }
    CHECK_INT(writer_metrics(host.writer).sent, accepted);
    CHECK_INT(writer_metrics(host.writer).connections, 1);
    free_host(&host);
    close(peer);
    close(listener);
}

/* Nothing to do is nothing to wake up for. A few wake-ups are allowed: a timer may have something to put away. */
static void idle_is_no_busy_loop(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    struct host host = {.writer = new_writer(path.text), .reader = new_reader(path.text, &inbox)};
    CHECK_OK(write_numbered(host.writer, 0, 0));
    TURN_UNTIL(&host, inbox_count(&inbox) == 1);
    for (uint64_t quiet = now_ms() + 200; now_ms() < quiet;)
        turn(&host, 50);
    uint64_t before = host.wakeups;
    for (uint64_t quiet = now_ms() + 1000; now_ms() < quiet;)
        turn(&host, 50);
    CHECK(host.wakeups - before <= 5);
    CHECK(!readable(udsipc_writer_fd(host.writer)));
    CHECK(!readable(udsipc_reader_fd(host.reader)));
    free_host(&host);
}

/* A deadline makes the descriptor readable by itself: here the inactivity timeout. */
static void idle_close_wakes_the_host(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    struct failures failures = FAILURES;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_inactivity_timeout_ms(options, 300));
    struct host host = {.reader = watched_reader(path.text, &inbox, options, &failures)};
    uint64_t begun = now_ms();
    int client = raw_connect(path.text);
    TURN_UNTIL(&host, reader_metrics(host.reader).active_connections == 1);
    TURN_UNTIL(&host, reader_metrics(host.reader).idle_closed == 1);
    CHECK(now_ms() - begun >= 299);
    TURN_UNTIL(&host, reader_metrics(host.reader).active_connections == 0);
    CHECK(host.wakeups <= 20);
    raw_wait_closed(client);
    free_host(&host);
    close(client);
}

/* And the writer's backoff: with nobody to connect to it comes back by itself, not in a busy loop. */
static void backoff_wakes_the_host(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    struct failures failures = FAILURES;
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 100));
    struct host host = {.writer = watched_writer(path.text, options, &failures)};
    CHECK_OK(write_numbered(host.writer, 0, 0));
    TURN_UNTIL(&host, writer_metrics(host.writer).connect_failures >= 6);
    uint64_t before = host.wakeups;
    for (uint64_t quiet = now_ms() + 1000; now_ms() < quiet;)
        turn(&host, 1000);
    /* Pauses of up to 100 ms, with a random part, and as many wake-ups again for luck. */
    CHECK(host.wakeups - before <= 100);
    host.reader = new_reader(path.text, &inbox);
    TURN_UNTIL(&host, inbox_count(&inbox) == 1);
    free_host(&host);
}

/* write_timeout reaches the error callback through the loop as well. */
static void backpressure_wakes_the_host(void)
{
    struct path path = in_scratch("s");
    int listener = raw_listen(path.text);
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_write_timeout_ms(options, 200));
    struct failures failures = FAILURES;
    struct host host = {.writer = watched_writer(path.text, options, &failures)};
    static uint8_t kilobyte[1024];
    for (int i = 0; i < 5000; i++)
        CHECK_OK(udsipc_write_message(host.writer, kilobyte, sizeof kilobyte));
    TURN_UNTIL(&host, failures_of(&failures, UDSIPC_ERR_BACKPRESSURE, NULL) == 1);
    free_host(&host);
    close(listener);
}

/* The descriptor works inside an epoll set of the host, level triggered. */
static void nested_in_an_epoll_set_of_the_host(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = new_reader(path.text, &inbox);
    udsipc_writer *writer = new_writer(path.text);
    int set = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = 1};
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, udsipc_writer_fd(writer), &event) == 0);
    event.data.u32 = 2;
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, udsipc_reader_fd(reader), &event) == 0);
    for (uint32_t i = 0; i < 1000; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    for (uint64_t deadline = now_ms() + PATIENCE_MS; inbox_count(&inbox) < 1000;) {
        CHECK(now_ms() < deadline);
        struct epoll_event events[2];
        int ready = epoll_wait(set, events, 2, PATIENCE_MS);
        CHECK(ready > 0);
        for (int i = 0; i < ready; i++)
            CHECK_OK(events[i].data.u32 == 1 ? udsipc_writer_dispatch(writer, 0) : udsipc_reader_dispatch(reader, 0));
    }
    CHECK_INT(inbox.gaps, 0);
    close(set);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* ---- dispatch itself ---- */

static pthread_t called_on;

static int32_t note_caller(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    called_on = pthread_self();
    return receive(data, len, connection, userdata);
}

static void callbacks_run_in_the_dispatching_call(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, note_caller, &inbox, NULL, &reader));
    int client = raw_connect(path.text);
    raw_send_numbered(client, 0, 0);
    STAYS_TRUE(100, inbox_count(&inbox) == 0);
    for (uint64_t deadline = now_ms() + PATIENCE_MS; inbox_count(&inbox) == 0;) {
        CHECK(now_ms() < deadline);
        CHECK_OK(udsipc_reader_dispatch(reader, 100));
    }
    CHECK(pthread_equal(called_on, pthread_self()));
    udsipc_reader_free(reader);
    close(client);
}

/* With nothing to do it waits for the given time, and for no longer than that once there is something. */
static void dispatch_waits_as_long_as_it_was_told(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = new_reader(path.text, &inbox);
    CHECK_OK(udsipc_reader_dispatch(reader, 0));
    uint64_t begun = now_ms();
    CHECK_OK(udsipc_reader_dispatch(reader, 200));
    CHECK(now_ms() - begun >= 199);
    begun = now_ms();
    CHECK_OK(udsipc_reader_dispatch(reader, 0));
    CHECK(now_ms() - begun < 5000);
    int client = raw_connect(path.text);
    raw_send_numbered(client, 0, 0);
    for (uint64_t deadline = now_ms() + PATIENCE_MS; inbox_count(&inbox) == 0;) {
        CHECK(now_ms() < deadline);
        CHECK_OK(udsipc_reader_dispatch(reader, UDSIPC_WAIT_FOREVER));
    }
    udsipc_reader_free(reader);
    close(client);
}

/* Flush and a write that waits drive a dispatched writer themselves: nobody else would. */
static void flush_and_waiting_writes_drive_the_writer(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 10));
    struct failures failures = FAILURES;
    udsipc_writer *writer = watched_writer(path.text, options, &failures);
    CHECK_OK(udsipc_writer_dispatch(writer, 0));
    for (uint32_t i = 0; i < 1000; i++) {
        struct numbered message = {0, i};
        CHECK_OK(udsipc_write_message_timeout(writer, &message, sizeof message, PATIENCE_MS));
    }
    CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
    CHECK_INT(writer_metrics(writer).sent, 1000);
    WAIT_UNTIL(inbox_count(&inbox) == 1000);
    CHECK_INT(inbox.gaps, 0);
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* A stop from another thread ends a dispatch that waits for ever. */
static void *dispatch_reader_for_ever(void *argument)
{
    udsipc_status status;
    while ((status = udsipc_reader_dispatch((udsipc_reader *)argument, UDSIPC_WAIT_FOREVER)) == UDSIPC_OK)
        ;
    return (void *)(uintptr_t)status;
}

static void *dispatch_writer_for_ever(void *argument)
{
    udsipc_status status;
    while ((status = udsipc_writer_dispatch((udsipc_writer *)argument, UDSIPC_WAIT_FOREVER)) == UDSIPC_OK)
        ;
    return (void *)(uintptr_t)status;
}

static void stop_from_another_thread_ends_a_dispatch(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = new_reader(path.text, &inbox);
    udsipc_writer *writer = new_writer(path.text);
    pthread_t reading, writing;
    void *status;
    CHECK(pthread_create(&reading, NULL, dispatch_reader_for_ever, reader) == 0);
    CHECK(pthread_create(&writing, NULL, dispatch_writer_for_ever, writer) == 0);
    for (uint32_t i = 0; i < 1000; i++) {
        /* Written from this thread while another one waits in dispatch: it must be woken. */
        CHECK_OK(write_numbered(writer, 0, i));
        if (i % 100 == 0) WAIT_UNTIL(inbox_count(&inbox) == i + 1);
    }
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    pthread_join(writing, &status);
    CHECK_STATUS((uintptr_t)status, UDSIPC_ERR_STOPPED);
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    pthread_join(reading, &status);
    CHECK_STATUS((uintptr_t)status, UDSIPC_ERR_STOPPED);
    CHECK_INT(inbox_count(&inbox), 1000);
    CHECK_INT(inbox.gaps, 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* Start and dispatch exclude each other, in either order and for good. */
static void start_and_dispatch_exclude_each_other(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    struct host host = {.writer = new_writer(path.text), .reader = new_reader(path.text, &inbox)};
    CHECK_OK(udsipc_writer_dispatch(host.writer, 0));
    CHECK_OK(udsipc_reader_dispatch(host.reader, 0));
    for (int again = 0; again < 2; again++) {
        CHECK_STATUS(udsipc_writer_start(host.writer), UDSIPC_ERR_WRONG_STATE);
        CHECK_STATUS(udsipc_reader_start(host.reader), UDSIPC_ERR_WRONG_STATE);
    }
    CHECK_INT(threads(), 1);
    CHECK_OK(write_numbered(host.writer, 0, 0));
    TURN_UNTIL(&host, inbox_count(&inbox) == 1);
    free_host(&host);

    host.reader = started_reader(path.text, &inbox);
    host.writer = started_writer(path.text);
    for (int again = 0; again < 2; again++) {
        CHECK_STATUS(udsipc_writer_dispatch(host.writer, 0), UDSIPC_ERR_WRONG_STATE);
        CHECK_STATUS(udsipc_reader_dispatch(host.reader, 0), UDSIPC_ERR_WRONG_STATE);
    }
    CHECK_OK(write_numbered(host.writer, 0, 1));
    WAIT_UNTIL(inbox_count(&inbox) == 2);
    free_host(&host);
}

/* A flood on one connection cannot keep a dispatch from coming back, nor starve another connection. */
static void *flood(void *argument)
{
    static uint8_t frames[9 * 1000];
    for (size_t i = 0; i < 1000; i++)
        frames[9 * i] = 8;
    int client = raw_connect((const char *)argument);
    while (send(client, frames, sizeof frames, MSG_NOSIGNAL) > 0)
        ;
    close(client);
    return NULL;
}

static void a_flood_does_not_capture_dispatch(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    struct host host = {.reader = new_reader(path.text, &inbox)};
    pthread_t flooding;
    CHECK(pthread_create(&flooding, NULL, flood, path.text) == 0);
    TURN_UNTIL(&host, inbox_count(&inbox) > 10000);
    int client = raw_connect(path.text);
    for (uint32_t i = 0; i < 20; i++) {
        raw_send_numbered(client, 5, i);
        TURN_UNTIL(&host, inbox_next(&inbox, 5) == i + 1);
    }
    CHECK_OK(udsipc_reader_stop(host.reader, PATIENCE_MS));
    pthread_join(flooding, NULL);
    free_host(&host);
    close(client);
}

static const struct scenario scenarios[] = {
    SCENARIO(exchange_in_one_thread),
    SCENARIO(the_descriptor_is_stable),
    SCENARIO(readable_while_there_is_work),
    SCENARIO(a_writer_is_readable_while_there_is_work),
    SCENARIO(a_full_pipe_is_no_busy_loop),
    SCENARIO(idle_is_no_busy_loop),
    SCENARIO(idle_close_wakes_the_host),
    SCENARIO(backoff_wakes_the_host),
    SCENARIO(backpressure_wakes_the_host),
    SCENARIO(nested_in_an_epoll_set_of_the_host),
    SCENARIO(callbacks_run_in_the_dispatching_call),
    SCENARIO(dispatch_waits_as_long_as_it_was_told),
    SCENARIO(flush_and_waiting_writes_drive_the_writer),
    SCENARIO(stop_from_another_thread_ends_a_dispatch),
    SCENARIO(start_and_dispatch_exclude_each_other),
    SCENARIO(a_flood_does_not_capture_dispatch),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
