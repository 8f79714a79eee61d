/* How long the reader works on one connection before others get a turn, and who else is held up: with callbacks that are slow
 * and messages that are tiny. Each fails with a library whose turns end between two reads only. */
#include "../support/check.h"

/* A turn is 5 ms and the running callback; the rest is for a busy machine. The old turns took seconds. */
#define SOON_MS 700
#define TINY 30000

static _Atomic uint64_t handled;
static _Atomic uint64_t pause_us = 1000;

static void take_a_while(void)
{
    struct timespec pause = {0, (long)atomic_load(&pause_us) * 1000};
    nanosleep(&pause, NULL);
}

static int32_t slowly(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)connection;
    if (len == 1) take_a_while();
    inbox_put((struct inbox *)userdata, data, len);
    atomic_fetch_add(&handled, 1);
    return 0;
}

static size_t slowly_in_batches(const udsipc_buffer *messages, size_t count, const udsipc_connection *connection,
                                void *userdata)
{
    (void)connection;
    take_a_while();
    for (size_t i = 0; i < count; i++)
        inbox_put((struct inbox *)userdata, messages[i].data, messages[i].len);
    atomic_fetch_add(&handled, count);
    return count;
}

/* A connection on which that many messages of one byte wait. */
static int flood(const char *path)
{
    static uint8_t stream[2 * TINY];
    for (size_t i = 0; i < sizeof stream; i++)
        stream[i] = 1;
    int client = raw_connect(path);
    raw_send(client, stream, sizeof stream);
    return client;
}

static udsipc_reader *slow_reader(const char *path, struct inbox *inbox, uint32_t threads, bool batched)
{
    udsipc_reader *reader = NULL;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_max_handler_threads(options, threads));
    CHECK_OK(batched ? udsipc_reader_new_batched(path, slowly_in_batches, inbox, options, &reader)
                     : udsipc_reader_new(path, slowly, inbox, options, &reader));
    udsipc_reader_options_free(options);
    return reader;
}

#define SOON(call) \
    do { \
        uint64_t begun_ = now_ms(); \
        call; \
        uint64_t took_ = now_ms() - begun_; \
        if (took_ > SOON_MS) check_int(__FILE__, __LINE__, "milliseconds of " #call, (int64_t)took_, SOON_MS); \
    } while (0)

static void dispatch_returns_soon_with(bool batched)
{
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    udsipc_reader *reader = slow_reader(path.text, &inbox, 64, batched);
    int client = flood(path.text);
    for (int call = 0; call < 5; call++)
        SOON(CHECK_OK(udsipc_reader_dispatch(reader, 0)));
    CHECK(atomic_load(&handled) > 0 && atomic_load(&handled) < TINY);
    /* Nothing of it is lost or mixed up when callbacks are fast again. */
    atomic_store(&pause_us, 0);
    while (atomic_load(&handled) < TINY)
        CHECK_OK(udsipc_reader_dispatch(reader, 1000));
    CHECK_INT(inbox.bytes, TINY);
    CHECK(raw_is_read(client));
    CHECK_OK(udsipc_reader_stop(reader, 10000));
    udsipc_reader_free(reader);
    close(client);
}

static void dispatch_returns_soon(void)
{
    dispatch_returns_soon_with(false);
}

static void dispatch_returns_soon_in_batches(void)
{
    atomic_store(&pause_us, 50000);
    dispatch_returns_soon_with(true);
}

/* The time of a call is not that of each connection. */
static void dispatch_returns_soon_with_many_connections(void)
{
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    udsipc_reader *reader = slow_reader(path.text, &inbox, 64, false);
    int clients[40];
    atomic_store(&pause_us, 50000);
    for (int i = 0; i < 40; i++) {
        clients[i] = raw_connect(path.text);
        raw_send(clients[i], "\1x\1y", 4);
    }
    for (int call = 0; call < 5; call++)
        SOON(CHECK_OK(udsipc_reader_dispatch(reader, 0)));
    /* Everybody has a turn before anybody has the next. */
    atomic_store(&pause_us, 5000);
    while (atomic_load(&handled) < 40)
        CHECK_OK(udsipc_reader_dispatch(reader, 1000));
    int begun = 0;
    for (int i = 0; i < 40; i++) {
        int waiting = 0;
        CHECK(ioctl(clients[i], SIOCOUTQ, &waiting) == 0);
        begun += waiting > 0;
        close(clients[i]);
    }
    CHECK(begun > 0);
    udsipc_reader_free(reader);
}

static void stop_of_a_dispatched_reader_keeps_its_time(void)
{
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    udsipc_reader *reader = slow_reader(path.text, &inbox, 64, false);
    int client = flood(path.text);
    SOON(CHECK_OK(udsipc_reader_dispatch(reader, 0)));
    SOON(CHECK_STATUS(udsipc_reader_stop(reader, 100), UDSIPC_ERR_TIMEOUT));
    uint64_t at_stop = atomic_load(&handled);
    STAYS_TRUE(50, atomic_load(&handled) == at_stop);
    udsipc_reader_free(reader);
    close(client);
}

static void others_are_served_by_the_only_thread(void)
{
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    udsipc_reader *reader = slow_reader(path.text, &inbox, 1, false);
    CHECK_OK(udsipc_reader_start(reader));
    int busy = flood(path.text);
    WAIT_UNTIL(inbox_count(&inbox) > 0);
    int other = raw_connect(path.text);
    SOON(raw_send_numbered(other, 7, 0); WAIT_UNTIL(inbox_next(&inbox, 7) == 1));
    SOON(CHECK_STATUS(udsipc_reader_stop(reader, 100), UDSIPC_ERR_TIMEOUT));
    udsipc_reader_free(reader);
    close(busy);
    close(other);
}

/* ---- after a stop ---- */

static void is_quiet(int fd)
{
    struct pollfd entry = {.fd = fd, .events = POLLIN};
    CHECK_INT(poll(&entry, 1, 600), 0);
}

static void quiet_after_stop_with(bool started)
{
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    udsipc_reader *reader = NULL;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_inactivity_timeout_ms(options, 300)); /* a timer that would still fire */
    CHECK_OK(udsipc_reader_new(path.text, receive, &inbox, options, &reader));
    udsipc_reader_options_free(options);
    int client = raw_connect(path.text);
    raw_send(client, "\1x", 2);
    if (started) {
        CHECK_OK(udsipc_reader_start(reader));
        WAIT_UNTIL(inbox_count(&inbox) == 1);
    } else {
        while (inbox_count(&inbox) == 0)
            CHECK_OK(udsipc_reader_dispatch(reader, 1000));
    }
    int fd = udsipc_reader_fd(reader);
    CHECK_OK(udsipc_reader_stop(reader, 1000));
    is_quiet(fd);
    CHECK_STATUS(udsipc_reader_dispatch(reader, 0), UDSIPC_ERR_STOPPED);
    is_quiet(fd);
    udsipc_reader_free(reader);
    close(client);
}

static void the_descriptor_is_quiet_after_stop(void)
{
    quiet_after_stop_with(false);
}

static void the_descriptor_of_a_started_reader_is_quiet_after_stop(void)
{
    quiet_after_stop_with(true);
}

static void the_descriptor_is_quiet_after_a_stop_that_was_cut_short(void)
{
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    udsipc_reader *reader = slow_reader(path.text, &inbox, 64, false);
    int client = flood(path.text);
    CHECK_OK(udsipc_reader_dispatch(reader, 100));
    CHECK_STATUS(udsipc_reader_stop(reader, 0), UDSIPC_ERR_TIMEOUT);
    is_quiet(udsipc_reader_fd(reader));
    udsipc_reader_free(reader);
    close(client);
}

/* ---- one handler thread ---- */

static _Atomic bool in_message, overlapped;
static _Atomic uint64_t errors;

static int32_t look_for_overlap(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)connection;
    atomic_store(&in_message, true);
    take_a_while();
    atomic_store(&in_message, false);
    inbox_put((struct inbox *)userdata, data, len);
    return 0;
}

static void note_overlap(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)status, (void)os_errno, (void)context, (void)userdata;
    if (atomic_load(&in_message)) atomic_store(&overlapped, true);
    atomic_fetch_add(&errors, 1);
}

/* systemd goes away between READY=1 and STOPPING=1: the stop has an error to report while a message is being handled. */
static void an_error_callback_waits_for_a_message_callback(void)
{
    struct path path = in_scratch("s"), notify = in_scratch("n");
    int systemd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = address_of(notify.text);
    CHECK(bind(systemd, (const struct sockaddr *)&address, sizeof address) == 0);
    CHECK(setenv("NOTIFY_SOCKET", notify.text, 1) == 0);
    static struct inbox inbox = INBOX;
    udsipc_reader *reader = NULL;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_max_handler_threads(options, 1));
    CHECK_OK(udsipc_reader_options_set_error_callback(options, note_overlap, NULL));
    CHECK_OK(udsipc_reader_new(path.text, look_for_overlap, &inbox, options, &reader));
    udsipc_reader_options_free(options);
    CHECK_OK(udsipc_reader_start(reader));
    CHECK(unlink(notify.text) == 0 && close(systemd) == 0);
    atomic_store(&pause_us, 300000);
    int client = raw_connect(path.text);
    raw_send(client, "\1x", 2);
    WAIT_UNTIL(atomic_load(&in_message));
    CHECK_OK(udsipc_reader_stop(reader, 5000));
    CHECK_INT(atomic_load(&errors), 1);
    CHECK(!atomic_load(&overlapped));
    udsipc_reader_free(reader);
    close(client);
}

/* ---- the stack of a callback ---- */

static int32_t use_stack(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)connection;
    volatile uint8_t locals[4 << 20];
    for (size_t i = 0; i < sizeof locals; i += 4096)
        locals[i] = data[0];
    CHECK(locals[0] == locals[sizeof locals - 4096]);
    inbox_put((struct inbox *)userdata, data, len);
    return 0;
}

static void callbacks_have_the_stack_of_any_thread(void)
{
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, use_stack, &inbox, NULL, &reader));
    CHECK_OK(udsipc_reader_start(reader));
    int client = raw_connect(path.text);
    raw_send(client, "\1x", 2);
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    udsipc_reader_free(reader);
    close(client);
}

static const struct scenario scenarios[] = {
    SCENARIO(dispatch_returns_soon),
    SCENARIO(dispatch_returns_soon_in_batches),
    SCENARIO(dispatch_returns_soon_with_many_connections),
    SCENARIO(stop_of_a_dispatched_reader_keeps_its_time),
    SCENARIO(others_are_served_by_the_only_thread),
    SCENARIO(the_descriptor_is_quiet_after_stop),
    SCENARIO(the_descriptor_of_a_started_reader_is_quiet_after_stop),
    SCENARIO(the_descriptor_is_quiet_after_a_stop_that_was_cut_short),
    SCENARIO(an_error_callback_waits_for_a_message_callback),
    SCENARIO(callbacks_have_the_stack_of_any_thread),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
