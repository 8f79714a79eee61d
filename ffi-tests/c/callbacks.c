/* What callbacks are given, what they may return, and what they may call: anything, `_stop` and `_free` included. */
#include "../support/check.h"

/* ---- what they are given ---- */

struct expectation {
    const void *userdata;
    const uint8_t *data;
    size_t len;
    atomic_uint calls;
};

static struct expectation expected;

static int32_t check_message(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    CHECK(userdata == expected.userdata);
    CHECK(connection != NULL);
    CHECK_INT(len, expected.len);
    CHECK(memcmp(data, expected.data, len) == 0);
    atomic_fetch_add(&expected.calls, 1);
    return 0;
}

static size_t check_batch(const udsipc_buffer *messages, size_t count, const udsipc_connection *connection,
                          void *userdata)
{
    CHECK(count >= 1 && messages != NULL);
    for (size_t i = 0; i < count; i++)
        check_message(messages[i].data, messages[i].len, connection, userdata);
    return count;
}

/* Every byte value, and lengths on both sides of each length of prefix. */
static void data_and_userdata_arrive_as_they_were(void)
{
    struct path path = in_scratch("s");
    static uint8_t bytes[300000];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 256);
    static const size_t lengths[] = {1, 2, 127, 128, 255, 256, 16383, 16384, 65535, 65536, 65537, sizeof bytes};
    expected.userdata = &bytes;
    expected.data = bytes;
    for (int batched = 0; batched < 2; batched++) {
        udsipc_reader *reader = NULL;
        if (batched)
            CHECK_OK(udsipc_reader_new_batched(path.text, check_batch, bytes, NULL, &reader));
        else
            CHECK_OK(udsipc_reader_new(path.text, check_message, bytes, NULL, &reader));
        CHECK_OK(udsipc_reader_start(reader));
        udsipc_writer *writer = started_writer(path.text);
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
            expected.len = lengths[i];
            atomic_store(&expected.calls, 0);
            for (int copy = 0; copy < 20; copy++)
                CHECK_OK(udsipc_write_message(writer, bytes, lengths[i]));
            WAIT_UNTIL(atomic_load(&expected.calls) == 20);
        }
        CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
        CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
        CHECK_INT(reader_metrics(reader).received_bytes, writer_metrics(writer).sent_bytes);
        udsipc_writer_free(writer);
        udsipc_reader_free(reader);
    }
}

/* The caller's buffer is its own again as soon as the call returns. */
static void write_copies(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_writer *writer = new_writer(path.text);
    char *message = strdup("before");
    CHECK_OK(udsipc_write_message(writer, message, 6));
    memset(message, '#', 6);
    free(message);
    udsipc_reader *reader = started_reader(path.text, &inbox);
    CHECK_OK(udsipc_writer_start(writer));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    CHECK(memcmp(inbox.last, "before", 6) == 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

struct told {
    atomic_uint calls;
    char message[512];
};

static void remember_text(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)os_errno;
    CHECK(status != UDSIPC_OK);
    CHECK(context != NULL && strlen(context) > 0);
    struct told *told = (struct told *)userdata;
    if (atomic_load(&told->calls) == 0)
        CHECK(udsipc_last_error_message(told->message, sizeof told->message) < sizeof told->message);
    atomic_fetch_add(&told->calls, 1);
}

/* The error callback gets its own userdata, and the whole text of the error: which path, which limit. */
static void error_callbacks_get_userdata_and_text(void)
{
    struct path path = in_scratch("s");
    struct told writer_told = {.calls = 0}, reader_told = {.calls = 0};
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_error_callback(options, remember_text, &writer_told));
    udsipc_writer *writer = NULL;
    CHECK_OK(udsipc_writer_new(path.text, options, &writer));
    udsipc_writer_options_free(options);
    CHECK_OK(udsipc_writer_start(writer));
    WAIT_UNTIL(atomic_load(&writer_told.calls) > 0);
    udsipc_writer_free(writer);
    CHECK(strstr(writer_told.message, path.text) != NULL);

    struct inbox inbox = INBOX;
    udsipc_reader_options *reader_options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_error_callback(reader_options, remember_text, &reader_told));
    CHECK_OK(udsipc_reader_options_set_max_message_size(reader_options, 1234));
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, receive, &inbox, reader_options, &reader));
    udsipc_reader_options_free(reader_options);
    CHECK_OK(udsipc_reader_start(reader));
    int client = raw_connect(path.text);
    uint8_t prefix[10];
    raw_send(client, prefix, put_varint(prefix, 4321));
    WAIT_UNTIL(atomic_load(&reader_told.calls) > 0);
    CHECK(strstr(reader_told.message, "1234") != NULL && strstr(reader_told.message, "4321") != NULL);
    udsipc_reader_free(reader);
    close(client);
}

/* Options are borrowed by `_new`: what becomes of them afterwards does not matter to the handle. */
static void options_may_be_changed_and_freed_after_new(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    struct inbox inbox = INBOX;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_max_message_size(options, 10));
    CHECK_OK(udsipc_reader_options_set_error_callback(options, record_failure, &failures));
    udsipc_reader *reader = NULL, *other = NULL;
    CHECK_OK(udsipc_reader_new(path.text, receive, &inbox, options, &reader));
    CHECK_OK(udsipc_reader_options_set_max_message_size(options, 1000));
    CHECK_OK(udsipc_reader_new(in_scratch("other").text, receive, &inbox, options, &other));
    udsipc_reader_options_free(options);
    CHECK_OK(udsipc_reader_start(reader));
    CHECK_OK(udsipc_reader_start(other));
    int client = raw_connect(path.text), client_of_other = raw_connect(in_scratch("other").text);
    raw_send_frame(client, "eleven byte", 11);
    raw_send_frame(client_of_other, "eleven byte", 11);
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    WAIT_UNTIL(failures_of(&failures, UDSIPC_ERR_MESSAGE_TOO_LARGE, "message too large") == 1);
    WAIT_UNTIL(reader_metrics(other).received == 1); /* counted when its callback has returned */
    udsipc_reader_free(reader);
    udsipc_reader_free(other);
    close(client);
    close(client_of_other);
}

/* ---- what they return ---- */

static const int32_t results[] = {0, 1, -1, 0, INT32_MAX, INT32_MIN, 0, 42};
static atomic_uint result_calls;

static int32_t return_results(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)connection, (void)userdata;
    CHECK_INT(len, 1);
    unsigned call = atomic_fetch_add(&result_calls, 1);
    CHECK_INT(data[0], call);
    return results[call];
}

/* A failed message is counted and reported, the connection stays, and the next message comes. */
static void failing_handler(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_error_callback(options, record_failure, &failures));
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, return_results, NULL, options, &reader));
    udsipc_reader_options_free(options);
    CHECK_OK(udsipc_reader_start(reader));
    int client = raw_connect(path.text);
    for (uint8_t i = 0; i < sizeof results / sizeof *results; i++)
        raw_send_frame(client, &i, 1);
    WAIT_UNTIL(failures_of(&failures, UDSIPC_ERR_HANDLER_FAILED, "handler failed to process a message") == 5);
    WAIT_UNTIL(reader_metrics(reader).received == 3);
    CHECK_INT(reader_metrics(reader).errors, 5);
    CHECK_INT(reader_metrics(reader).received_bytes, 3);
    CHECK_INT(reader_metrics(reader).connections, 1);
    CHECK_INT(reader_metrics(reader).active_connections, 1);
    CHECK_INT(failures_of(&failures, -1, NULL), 5);
    udsipc_reader_free(reader);
    close(client);
}

/* A batch callback that fails each message whose number divides by ten. */
struct picky {
    struct inbox good;
    atomic_uint failed;
    atomic_uint largest;
    uint32_t next;
};

static size_t take_some(const udsipc_buffer *messages, size_t count, const udsipc_connection *connection,
                        void *userdata)
{
    (void)connection;
    struct picky *picky = (struct picky *)userdata;
    if (count > atomic_load(&picky->largest)) atomic_store(&picky->largest, (unsigned)count);
    for (size_t i = 0; i < count; i++) {
        struct numbered message;
        CHECK_INT(messages[i].len, sizeof message);
        memcpy(&message, messages[i].data, sizeof message);
        /* In order, none left out and none twice, whatever this function has answered before. */
        CHECK_INT(message.number, picky->next);
        picky->next++;
        if (message.number % 10 == 0) {
            atomic_fetch_add(&picky->failed, 1);
            return i;
        }
        inbox_put(&picky->good, messages[i].data, messages[i].len);
    }
    return count;
}

static void batch_with_partial_results(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    struct picky picky = {.good = INBOX};
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_error_callback(options, record_failure, &failures));
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new_batched(path.text, take_some, &picky, options, &reader));
    udsipc_reader_options_free(options);

    /* All of it is in the kernel before the reader starts, so that there is something to batch. */
    int client = raw_connect(path.text);
    uint8_t frames[9 * 1000];
    for (uint32_t i = 0; i < 1000; i++) {
        struct numbered message = {0, i};
        frames[9 * i] = sizeof message;
        memcpy(frames + 9 * i + 1, &message, sizeof message);
    }
    raw_send(client, frames, sizeof frames);
    CHECK_OK(udsipc_reader_start(reader));
    WAIT_UNTIL(reader_metrics(reader).received == 900);
    WAIT_UNTIL(reader_metrics(reader).errors == 100);
    CHECK_INT(inbox_count(&picky.good), 900);
    CHECK_INT(atomic_load(&picky.failed), 100);
    WAIT_UNTIL(failures_of(&failures, UDSIPC_ERR_HANDLER_FAILED, "handler failed to process a message") == 100);
    CHECK_INT(reader_metrics(reader).received_bytes, 900 * 8);
    CHECK_INT(reader_metrics(reader).active_connections, 1);
    /* Many messages in one call is what this kind of callback is for. */
    CHECK(atomic_load(&picky.largest) > 1);
    udsipc_reader_free(reader);
    close(client);
}

static atomic_uint batched_messages;

static size_t claim_too_many(const udsipc_buffer *messages, size_t count, const udsipc_connection *connection,
                             void *userdata)
{
    (void)messages, (void)connection, (void)userdata;
    unsigned before = atomic_fetch_add(&batched_messages, (unsigned)count);
    return before % 2 == 0 ? count + 1 : SIZE_MAX;
}

/* What a callback returns is not trusted: more than there were is all of them. */
static void batch_that_claims_too_many(void)
{
    struct path path = in_scratch("s");
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new_batched(path.text, claim_too_many, NULL, NULL, &reader));
    int client = raw_connect(path.text);
    for (uint32_t i = 0; i < 100; i++)
        raw_send_numbered(client, 0, i);
    CHECK_OK(udsipc_reader_start(reader));
    WAIT_UNTIL(reader_metrics(reader).received == 100);
    CHECK_INT(atomic_load(&batched_messages), 100);
    CHECK_INT(reader_metrics(reader).errors, 0);
    udsipc_reader_free(reader);
    close(client);
}

/* ---- stop inside a callback ---- */

/* The handle that callbacks work on: they begin to come before `_new` has a variable to give them. */
static udsipc_reader *own_reader;
static udsipc_writer *own_writer;
static atomic_uint calls;

static int32_t stop_own_reader(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    receive(data, len, connection, userdata);
    CHECK_STATUS(udsipc_reader_stop(own_reader, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_WOULD_DEADLOCK);
    CHECK_STATUS(udsipc_reader_stop(own_reader, 0), UDSIPC_ERR_WOULD_DEADLOCK);
    atomic_fetch_add(&calls, 1);
    return 0;
}

static void reader_stop_inside_its_callback(bool dispatched)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    CHECK_OK(udsipc_reader_new(path.text, stop_own_reader, &inbox, NULL, &own_reader));
    if (!dispatched) CHECK_OK(udsipc_reader_start(own_reader));
    int client = raw_connect(path.text);
    for (uint32_t i = 0; i < 10; i++) {
        raw_send_numbered(client, 0, i);
        while (dispatched && atomic_load(&calls) <= i)
            udsipc_reader_dispatch(own_reader, 100);
        WAIT_UNTIL(atomic_load(&calls) == i + 1);
    }
    /* It has changed nothing: the same connection, and new ones, are served. */
    WAIT_UNTIL(reader_metrics(own_reader).received == 10); /* counted when its callback has returned */
    CHECK_INT(reader_metrics(own_reader).active_connections, 1);
    CHECK(exists(path.text));
    /* A message that stop itself delivers is a callback like any other. */
    raw_send_numbered(client, 0, 10);
    CHECK_OK(udsipc_reader_stop(own_reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), 11);
    CHECK_INT(inbox.gaps, 0);
    udsipc_reader_free(own_reader);
    close(client);
}

static void reader_stop_inside_a_callback_threaded(void)
{
    reader_stop_inside_its_callback(false);
}

static void reader_stop_inside_a_callback_dispatched(void)
{
    reader_stop_inside_its_callback(true);
}

static void stop_own_reader_on_error(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    record_failure(status, os_errno, context, userdata);
    CHECK_STATUS(udsipc_reader_stop(own_reader, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_WOULD_DEADLOCK);
    atomic_fetch_add(&calls, 1);
}

static void reader_stop_inside_an_error_callback(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    struct inbox inbox = INBOX;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_error_callback(options, stop_own_reader_on_error, &failures));
    CHECK_OK(udsipc_reader_new(path.text, receive, &inbox, options, &own_reader));
    udsipc_reader_options_free(options);
    CHECK_OK(udsipc_reader_start(own_reader));
    int bad = raw_connect(path.text);
    raw_send(bad, "\x80", 1);
    close(bad);
    WAIT_UNTIL(atomic_load(&calls) == 1);
    int good = raw_connect(path.text);
    raw_send_numbered(good, 0, 0);
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    CHECK_OK(udsipc_reader_stop(own_reader, PATIENCE_MS));
    udsipc_reader_free(own_reader);
    close(good);
}

static void stop_own_writer(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    record_failure(status, os_errno, context, userdata);
    CHECK_STATUS(udsipc_writer_stop(own_writer, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_WOULD_DEADLOCK);
    CHECK_STATUS(udsipc_writer_stop(own_writer, 0), UDSIPC_ERR_WOULD_DEADLOCK);
    atomic_fetch_add(&calls, 1);
}

static void writer_stop_inside_its_callback(bool dispatched)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_error_callback(options, stop_own_writer, &failures));
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 20));
    CHECK_OK(udsipc_writer_new(path.text, options, &own_writer));
    udsipc_writer_options_free(options);
    if (!dispatched) CHECK_OK(udsipc_writer_start(own_writer));
    CHECK_OK(write_numbered(own_writer, 0, 0));
    for (uint64_t deadline = now_ms() + PATIENCE_MS; atomic_load(&calls) < 3;) {
        CHECK(now_ms() < deadline);
        if (dispatched)
            udsipc_writer_dispatch(own_writer, 100);
        else
            look_again_soon();
    }
    /* It has changed nothing: the writer still takes messages. Stop's own reports are callbacks like any other. */
    CHECK_OK(write_numbered(own_writer, 0, 1));
    CHECK_STATUS(udsipc_writer_stop(own_writer, PATIENCE_MS), UDSIPC_ERR_UNDELIVERED);
    CHECK_INT(failures_of(&failures, -1, "write failure during drain"), 1); /* one report for all of them */
    CHECK_INT(writer_metrics(own_writer).abandoned, 2);
    udsipc_writer_free(own_writer);
}

static void writer_stop_inside_a_callback_threaded(void)
{
    writer_stop_inside_its_callback(false);
}

static void writer_stop_inside_a_callback_dispatched(void)
{
    writer_stop_inside_its_callback(true);
}

/* ---- free inside a callback ---- */

/* A handle may be freed inside its callback, not while another thread is in a call on it: `_start` must be back. */
static struct gate started = GATE;

static int32_t free_own_reader(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    uint8_t before = data[0];
    gate_pass(&started);
    udsipc_reader_free(own_reader);
    /* What the callback was given stays valid until it returns. */
    CHECK_INT(data[0], before);
    CHECK(udsipc_connection_id(connection) != 0);
    receive(data, len, connection, userdata);
    return 0;
}

static void reader_free_inside_its_callback(bool dispatched)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    size_t fds = open_fds();
    CHECK_OK(udsipc_reader_new(path.text, free_own_reader, &inbox, NULL, &own_reader));
    int client = raw_connect(path.text), idle = raw_connect(path.text);
    uint8_t frames[] = {1, 'a', 1, 'b', 1, 'c'};
    raw_send(client, frames, sizeof frames);
    if (dispatched) {
        gate_open(&started);
        /* The handle is gone when a dispatch has delivered the message: only then it may not be named again. */
        for (uint64_t deadline = now_ms() + PATIENCE_MS; inbox_count(&inbox) == 0;) {
            CHECK(now_ms() < deadline);
            udsipc_reader_dispatch(own_reader, 100);
        }
    } else {
        CHECK_OK(udsipc_reader_start(own_reader));
        gate_open(&started);
    }
    raw_wait_closed(client);
    raw_wait_closed(idle);
    WAIT_UNTIL(threads() == 1);
    WAIT_UNTIL(!exists(path.text));
    close(client);
    close(idle);
    WAIT_UNTIL(open_fds() == fds);
    CHECK_INT(inbox_count(&inbox), 1);
    CHECK_INT(inbox.last[0], 'a');
}

static void reader_free_inside_a_callback_threaded(void)
{
    reader_free_inside_its_callback(false);
}

static void reader_free_inside_a_callback_dispatched(void)
{
    reader_free_inside_its_callback(true);
}

static size_t free_own_reader_batched(const udsipc_buffer *messages, size_t count, const udsipc_connection *connection,
                                      void *userdata)
{
    CHECK(count >= 1);
    free_own_reader(messages[0].data, messages[0].len, connection, userdata);
    return 0;
}

static void reader_free_inside_a_batch_callback(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    CHECK_OK(udsipc_reader_new_batched(path.text, free_own_reader_batched, &inbox, NULL, &own_reader));
    int client = raw_connect(path.text);
    uint8_t frames[] = {1, 'a', 1, 'b', 1, 'c'};
    raw_send(client, frames, sizeof frames);
    CHECK_OK(udsipc_reader_start(own_reader));
    gate_open(&started);
    raw_wait_closed(client);
    WAIT_UNTIL(threads() == 1);
    WAIT_UNTIL(!exists(path.text));
    CHECK_INT(inbox_count(&inbox), 1);
    close(client);
}

static void free_own_writer(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)status, (void)os_errno, (void)context;
    CHECK_INT(atomic_fetch_add((atomic_uint *)userdata, 1), 0);
    gate_pass(&started);
    udsipc_writer_free(own_writer);
}

static void writer_free_inside_its_callback(bool dispatched)
{
    struct path path = in_scratch("s");
    size_t fds = open_fds();
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_error_callback(options, free_own_writer, &calls));
    CHECK_OK(udsipc_writer_new(path.text, options, &own_writer));
    udsipc_writer_options_free(options);
    CHECK_OK(write_numbered(own_writer, 0, 0));
    CHECK_OK(write_numbered(own_writer, 0, 1));
    if (dispatched) {
        gate_open(&started);
        for (uint64_t deadline = now_ms() + PATIENCE_MS; atomic_load(&calls) == 0;) {
            CHECK(now_ms() < deadline);
            udsipc_writer_dispatch(own_writer, 100);
        }
    } else {
        CHECK_OK(udsipc_writer_start(own_writer));
        gate_open(&started);
    }
    WAIT_UNTIL(atomic_load(&calls) == 1);
    WAIT_UNTIL(threads() == 1);
    WAIT_UNTIL(open_fds() == fds);
    CHECK_INT(atomic_load(&calls), 1);
}

static void writer_free_inside_a_callback_threaded(void)
{
    writer_free_inside_its_callback(false);
}

static void writer_free_inside_a_callback_dispatched(void)
{
    writer_free_inside_its_callback(true);
}

/* ---- any function inside a callback ---- */

/* A whole exchange through handles that are made and freed inside the callback of another. */
static void exchange_inside_a_callback(void)
{
    struct path path = in_scratch("inner");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer *writer = started_writer(path.text);
    CHECK_OK(write_numbered(writer, 0, 0));
    CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), 1);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static void functions_without_a_handle(void)
{
    char text[256];
    size_t needed = 0;
    struct path path = in_scratch("nothing");
    CHECK(udsipc_version() != NULL);
    CHECK(udsipc_strerror(UDSIPC_OK) != NULL);
    CHECK(udsipc_max_socket_path_length() >= 100);
    CHECK_OK(udsipc_resolve_socket_path(path.text, text, sizeof text, &needed));
    CHECK_OK(udsipc_ensure_socket_dir(path.text));
    CHECK_OK(udsipc_cleanup_socket(path.text));
    CHECK_INT(udsipc_systemd_is_active(), 0);
    CHECK_TEXT(udsipc_systemd_runtime_dir(), "");
    CHECK_TEXT(udsipc_systemd_state_dir(), "");
    CHECK_OK(udsipc_systemd_notify("STATUS=from a callback"));
    udsipc_last_error_message(text, sizeof text);
}

static int32_t call_everything(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    char text[512];
    int32_t pid = 0;
    uint32_t uid = 77, gid = 77;
    CHECK(udsipc_connection_id(connection) != 0);
    CHECK_OK(udsipc_connection_credentials(connection, &pid, &uid, &gid));
    CHECK(pid == getpid() && uid == getuid() && gid == getgid());

    CHECK_OK(udsipc_reader_start(own_reader));
    CHECK(udsipc_reader_dispatch(own_reader, 0) != UDSIPC_OK);
    CHECK_STATUS(udsipc_reader_stop(own_reader, 0), UDSIPC_ERR_WOULD_DEADLOCK);
    CHECK_INT(reader_metrics(own_reader).active_connections, 1);
    CHECK_TEXT(udsipc_reader_socket_path(own_reader), in_scratch("s").text);
    CHECK(udsipc_reader_describe(own_reader, text, sizeof text) > 0);
    udsipc_reader_fd(own_reader);

    if (inbox_count((struct inbox *)userdata) == 0) {
        /* The writer that this very message came from. What it is given now can be read after this callback only. */
        udsipc_buffer buffer = {(const uint8_t *)"third", 5};
        size_t accepted = 0;
        CHECK_OK(udsipc_write_message(own_writer, "first", 5));
        CHECK_OK(udsipc_write_message_timeout(own_writer, "second", 6, UDSIPC_WAIT_FOREVER));
        CHECK_OK(udsipc_write_messages(own_writer, &buffer, 1, &accepted));
        CHECK_STATUS(udsipc_writer_flush(own_writer, 50), UDSIPC_ERR_TIMEOUT);
        CHECK_OK(udsipc_writer_start(own_writer));
        CHECK_STATUS(udsipc_writer_dispatch(own_writer, 0), UDSIPC_ERR_WRONG_STATE);
        CHECK_INT(udsipc_writer_is_connected(own_writer), 1);
        CHECK_TEXT(udsipc_writer_socket_path(own_writer), in_scratch("s").text);
        udsipc_writer_fd(own_writer);
        writer_metrics(own_writer);
    }
    functions_without_a_handle();
    exchange_inside_a_callback();
    return receive(data, len, connection, userdata);
}

static void every_function_inside_a_message_callback(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    CHECK_OK(udsipc_reader_new(path.text, call_everything, &inbox, NULL, &own_reader));
    own_writer = new_writer(path.text);
    CHECK_OK(udsipc_reader_start(own_reader));
    CHECK_OK(udsipc_write_message(own_writer, "zeroth", 6));
    CHECK_OK(udsipc_writer_start(own_writer));
    WAIT_UNTIL(inbox_count(&inbox) == 4);
    CHECK(memcmp(inbox.last, "third", 5) == 0);
    CHECK_OK(udsipc_writer_stop(own_writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(own_reader, PATIENCE_MS));
    CHECK_INT(reader_metrics(own_reader).received, 4);
    udsipc_writer_free(own_writer);
    udsipc_reader_free(own_reader);
}

static void call_everything_on_error(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    record_failure(status, os_errno, context, userdata);
    /* Stopping reports each message that it gives up, so only the first call may add some. */
    if (atomic_fetch_add(&calls, 1) == 0) {
        udsipc_buffer buffer = {(const uint8_t *)"second", 6};
        size_t accepted = 0;
        CHECK_OK(udsipc_write_message(own_writer, "first", 5));
        CHECK_OK(udsipc_write_messages(own_writer, &buffer, 1, &accepted));
        /* The queue is full, and nothing can move while its sender is in here: waiting would be for ever. */
        CHECK_STATUS(udsipc_write_message_timeout(own_writer, "third", 5, UDSIPC_WAIT_FOREVER),
                     UDSIPC_ERR_WOULD_DEADLOCK);
        CHECK_STATUS(udsipc_writer_flush(own_writer, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_WOULD_DEADLOCK);
        CHECK_OK(udsipc_writer_start(own_writer));
        CHECK(udsipc_writer_dispatch(own_writer, 0) != UDSIPC_OK);
        functions_without_a_handle();
        exchange_inside_a_callback();
    }
    CHECK_STATUS(udsipc_writer_stop(own_writer, 0), UDSIPC_ERR_WOULD_DEADLOCK);
    CHECK_INT(udsipc_writer_is_connected(own_writer), 0);
    CHECK_TEXT(udsipc_writer_socket_path(own_writer), in_scratch("s").text);
    udsipc_writer_fd(own_writer);
    writer_metrics(own_writer);
}

static void every_function_inside_an_error_callback(void)
{
    struct failures failures = FAILURES;
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_error_callback(options, call_everything_on_error, &failures));
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 2));
    CHECK_OK(udsipc_writer_new(in_scratch("s").text, options, &own_writer));
    udsipc_writer_options_free(options);
    CHECK_OK(udsipc_writer_start(own_writer));
    WAIT_UNTIL(writer_metrics(own_writer).connect_failures >= 2);
    CHECK_STATUS(udsipc_writer_stop(own_writer, PATIENCE_MS), UDSIPC_ERR_UNDELIVERED);
    CHECK_INT(failures_of(&failures, -1, "write failure during drain"), 1); /* one report for all of them */
    udsipc_writer_free(own_writer);
}

/* Any other handle may be stopped and freed inside a callback. With acknowledgement the stop would wait for this very callback
   to return, for as long as its time lasts. */
static int32_t stop_the_writer(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    gate_pass(&started);
    CHECK_OK(udsipc_writer_stop(own_writer, PATIENCE_MS));
    udsipc_writer_free(own_writer);
    return receive(data, len, connection, userdata);
}

static void another_handle_is_freed_inside_a_callback(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    CHECK_OK(udsipc_reader_new(path.text, stop_the_writer, &inbox, NULL, &own_reader));
    CHECK_OK(udsipc_reader_start(own_reader));
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_acknowledge(options, 0));
    CHECK_OK(udsipc_writer_new(path.text, options, &own_writer));
    udsipc_writer_options_free(options);
    CHECK_OK(write_numbered(own_writer, 0, 0));
    CHECK_OK(udsipc_writer_start(own_writer));
    gate_open(&started);
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    WAIT_UNTIL(reader_metrics(own_reader).active_connections == 0);
    CHECK_OK(udsipc_reader_stop(own_reader, PATIENCE_MS));
    udsipc_reader_free(own_reader);
}

/* A callback may dispatch another handle, and even then knows whose callback it is inside of. */
static udsipc_reader *inner_reader;

static int32_t stop_both(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    CHECK_STATUS(udsipc_reader_stop(own_reader, 0), UDSIPC_ERR_WOULD_DEADLOCK);
    CHECK_STATUS(udsipc_reader_stop(inner_reader, 0), UDSIPC_ERR_WOULD_DEADLOCK);
    return receive(data, len, connection, userdata);
}

static int32_t dispatch_inner(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    struct inbox *inner = (struct inbox *)userdata;
    for (uint64_t deadline = now_ms() + PATIENCE_MS; inbox_count(inner) == 0;) {
        CHECK(now_ms() < deadline);
        udsipc_reader_dispatch(inner_reader, 100);
    }
    CHECK_STATUS(udsipc_reader_stop(own_reader, 0), UDSIPC_ERR_WOULD_DEADLOCK);
    CHECK_OK(udsipc_reader_stop(inner_reader, PATIENCE_MS));
    (void)data, (void)len, (void)connection;
    atomic_fetch_add(&calls, 1);
    return 0;
}

static void callbacks_inside_callbacks(void)
{
    struct path outer_path = in_scratch("outer"), inner_path = in_scratch("inner");
    struct inbox inner = INBOX;
    CHECK_OK(udsipc_reader_new(outer_path.text, dispatch_inner, &inner, NULL, &own_reader));
    CHECK_OK(udsipc_reader_new(inner_path.text, stop_both, &inner, NULL, &inner_reader));
    int outer_client = raw_connect(outer_path.text), inner_client = raw_connect(inner_path.text);
    raw_send_numbered(inner_client, 0, 0);
    raw_send_numbered(outer_client, 0, 0);
    CHECK_OK(udsipc_reader_start(own_reader));
    WAIT_UNTIL(atomic_load(&calls) == 1);
    CHECK_OK(udsipc_reader_stop(own_reader, PATIENCE_MS));
    udsipc_reader_free(own_reader);
    udsipc_reader_free(inner_reader);
    close(outer_client);
    close(inner_client);
}

static const struct scenario scenarios[] = {
    SCENARIO(data_and_userdata_arrive_as_they_were),
    SCENARIO(write_copies),
    SCENARIO(error_callbacks_get_userdata_and_text),
    SCENARIO(options_may_be_changed_and_freed_after_new),
    SCENARIO(failing_handler),
    SCENARIO(batch_with_partial_results),
    SCENARIO(batch_that_claims_too_many),
    SCENARIO(reader_stop_inside_a_callback_threaded),
    SCENARIO(reader_stop_inside_a_callback_dispatched),
    SCENARIO(reader_stop_inside_an_error_callback),
    SCENARIO(writer_stop_inside_a_callback_threaded),
    SCENARIO(writer_stop_inside_a_callback_dispatched),
    SCENARIO(reader_free_inside_a_callback_threaded),
    SCENARIO(reader_free_inside_a_callback_dispatched),
    SCENARIO(reader_free_inside_a_batch_callback),
    SCENARIO(writer_free_inside_a_callback_threaded),
    SCENARIO(writer_free_inside_a_callback_dispatched),
    SCENARIO(every_function_inside_a_message_callback),
    SCENARIO(every_function_inside_an_error_callback),
    SCENARIO(another_handle_is_freed_inside_a_callback),
    SCENARIO(callbacks_inside_callbacks),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
