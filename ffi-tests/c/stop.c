/* Every row of the contract about `_stop`, and `_free` of a handle that runs. */
#include "../support/check.h"

/* ---- stopping a writer ---- */

static void writer_stop_before_start_empty(void)
{
    udsipc_writer *writer = new_writer(in_scratch("s").text);
    CHECK_OK(udsipc_writer_stop(writer, UDSIPC_WAIT_FOREVER));
    CHECK_OK(udsipc_writer_stop(writer, 0));
    udsipc_writer_free(writer);
}

static void writer_stop_before_start_with_messages(void)
{
    struct failures failures = FAILURES;
    udsipc_writer *writer = watched_writer(in_scratch("s").text, udsipc_writer_options_new(), &failures);
    for (uint32_t i = 0; i < 7; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    CHECK_STATUS(udsipc_writer_stop(writer, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_UNDELIVERED);
    CHECK_INT(writer_metrics(writer).abandoned, 7);
    CHECK_INT(writer_metrics(writer).queue_depth, 0);
    CHECK_INT(writer_metrics(writer).queue_bytes, 0);
    CHECK_INT(writer_metrics(writer).sent, 0);
    CHECK_INT(failures_of(&failures, -1, "write failure during drain"), 1); /* one report for all of them */
    CHECK_STATUS(udsipc_writer_stop(writer, 0), UDSIPC_ERR_UNDELIVERED);
    CHECK_STATUS(udsipc_write_message(writer, "x", 1), UDSIPC_ERR_STOPPED);
    udsipc_writer_free(writer);
}

/* Later calls return what the first returned, and change nothing. */
static void writer_stop_twice(void)
{
    struct path path = in_scratch("s");
    udsipc_writer *writer = started_writer(path.text);
    CHECK_OK(write_numbered(writer, 0, 0));
    CHECK_STATUS(udsipc_writer_stop(writer, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_UNDELIVERED);
    CHECK_STATUS(udsipc_writer_stop(writer, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_UNDELIVERED);
    CHECK_STATUS(udsipc_writer_stop(writer, 0), UDSIPC_ERR_UNDELIVERED);
    CHECK_INT(writer_metrics(writer).abandoned, 1);
    udsipc_writer_free(writer);

    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    writer = started_writer(path.text);
    CHECK_OK(write_numbered(writer, 0, 0));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    CHECK_OK(udsipc_writer_stop(writer, 0));
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

struct stopper {
    pthread_t thread;
    void *handle;
    udsipc_status status;
};

static void *stop_writer_thread(void *argument)
{
    struct stopper *stopper = (struct stopper *)argument;
    stopper->status = udsipc_writer_stop((udsipc_writer *)stopper->handle, PATIENCE_MS);
    return NULL;
}

static void *stop_reader_thread(void *argument)
{
    struct stopper *stopper = (struct stopper *)argument;
    stopper->status = udsipc_reader_stop((udsipc_reader *)stopper->handle, PATIENCE_MS);
    return NULL;
}

static void stop_from_ten_threads(void *handle, void *(*stop)(void *), udsipc_status wanted)
{
    struct stopper stoppers[10];
    for (size_t i = 0; i < 10; i++) {
        stoppers[i].handle = handle;
        CHECK(pthread_create(&stoppers[i].thread, NULL, stop, &stoppers[i]) == 0);
    }
    for (size_t i = 0; i < 10; i++) {
        pthread_join(stoppers[i].thread, NULL);
        CHECK_STATUS(stoppers[i].status, wanted);
    }
}

static void writer_stop_from_ten_threads(void)
{
    struct path path = in_scratch("s");
    udsipc_writer *writer = started_writer(path.text);
    for (uint32_t i = 0; i < 50; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    stop_from_ten_threads(writer, stop_writer_thread, UDSIPC_ERR_UNDELIVERED);
    CHECK_INT(writer_metrics(writer).abandoned, 50);
    udsipc_writer_free(writer);

    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    writer = started_writer(path.text);
    for (uint32_t i = 0; i < 5000; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    stop_from_ten_threads(writer, stop_writer_thread, UDSIPC_OK);
    WAIT_UNTIL(inbox_count(&inbox) == 5000);
    CHECK_INT(inbox.gaps, 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* `stop(0)` with anything undelivered: within 100 ms. A busy machine gets three tries and five times as long. */
static void writer_stop_zero_with_messages(void)
{
    uint64_t best = UINT64_MAX;
    for (int attempt = 0; attempt < 3; attempt++) {
        udsipc_writer *writer = started_writer(in_scratch("s").text);
        for (uint32_t i = 0; i < 100; i++)
            CHECK_OK(write_numbered(writer, 0, i));
        uint64_t begun = now_ms();
        CHECK_STATUS(udsipc_writer_stop(writer, 0), UDSIPC_ERR_TIMEOUT);
        uint64_t taken = now_ms() - begun;
        if (taken < best) best = taken;
        CHECK_INT(writer_metrics(writer).abandoned, 100);
        CHECK_INT(writer_metrics(writer).queue_depth, 0);
        CHECK_STATUS(udsipc_writer_stop(writer, PATIENCE_MS), UDSIPC_ERR_TIMEOUT);
        udsipc_writer_free(writer);
    }
    CHECK(best < 500);
}

static void writer_stop_zero_with_nothing(void)
{
    struct path path = in_scratch("s");
    udsipc_writer *writer = started_writer(path.text);
    CHECK_OK(udsipc_writer_stop(writer, 0));
    udsipc_writer_free(writer);

    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    writer = started_writer(path.text);
    CHECK_OK(write_numbered(writer, 0, 0));
    CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
    CHECK_OK(udsipc_writer_stop(writer, 0));
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* When nobody listens, stop gives up within 250 ms even if it may wait for ever. Slack for a busy machine, as above. */
static void stop_gives_up_early(const char *path, uint64_t timeout_ms)
{
    uint64_t best = UINT64_MAX;
    for (int attempt = 0; attempt < 3; attempt++) {
        struct failures failures = FAILURES;
        udsipc_writer *writer = watched_writer(path, udsipc_writer_options_new(), &failures);
        CHECK_OK(udsipc_writer_start(writer));
        for (uint32_t i = 0; i < 50; i++)
            CHECK_OK(write_numbered(writer, 0, i));
        uint64_t begun = now_ms();
        CHECK_STATUS(udsipc_writer_stop(writer, timeout_ms), UDSIPC_ERR_UNDELIVERED);
        uint64_t taken = now_ms() - begun;
        if (taken < best) best = taken;
        CHECK_INT(writer_metrics(writer).abandoned, 50);
        CHECK_INT(writer_metrics(writer).sent, 0);
        CHECK_INT(writer_metrics(writer).queue_depth, 0);
        CHECK_INT(failures_of(&failures, -1, "write failure during drain"), 1); /* one report for all of them */
        CHECK(failures_of(&failures, UDSIPC_ERR_NOT_CONNECTED, "failed to connect") > 0);
        CHECK(writer_metrics(writer).connect_failures > 0);
        udsipc_writer_free(writer);
    }
    CHECK(best < 1000);
}

static void writer_stop_nobody_listens(void)
{
    stop_gives_up_early(in_scratch("s").text, UDSIPC_WAIT_FOREVER);
    stop_gives_up_early(in_scratch("s").text, PATIENCE_MS);
}

static void writer_stop_stale_socket(void)
{
    struct path path = in_scratch("s");
    close(raw_listen(path.text));
    CHECK(exists(path.text));
    stop_gives_up_early(path.text, UDSIPC_WAIT_FOREVER);
}

/* The reader was there and has gone: the same as if it had never been. */
static void writer_stop_reader_gone(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer *writer = started_writer(path.text);
    CHECK_OK(write_numbered(writer, 0, 0));
    CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
    udsipc_reader_free(reader);
    WAIT_UNTIL(udsipc_writer_is_connected(writer) == 0);
    CHECK_OK(write_numbered(writer, 0, 1));
    uint64_t begun = now_ms();
    CHECK_STATUS(udsipc_writer_stop(writer, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_UNDELIVERED);
    CHECK(now_ms() - begun < 5000);
    CHECK_INT(writer_metrics(writer).sent, 1);
    CHECK_INT(writer_metrics(writer).abandoned, 1);
    udsipc_writer_free(writer);
}

static udsipc_writer *patient_writer(const char *path, struct failures *failures)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_drain_until_deadline(options, 1));
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 50));
    udsipc_writer *writer = watched_writer(path, options, failures);
    CHECK_OK(udsipc_writer_start(writer));
    return writer;
}

static void writer_stop_drain_until_deadline(void)
{
    struct failures failures = FAILURES;
    udsipc_writer *writer = patient_writer(in_scratch("s").text, &failures);
    for (uint32_t i = 0; i < 5; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    uint64_t begun = now_ms();
    CHECK_STATUS(udsipc_writer_stop(writer, 700), UDSIPC_ERR_TIMEOUT);
    /* It used its time: the option says so. The clock of this check is a millisecond coarse. */
    CHECK(now_ms() - begun >= 699);
    CHECK_INT(writer_metrics(writer).abandoned, 5);
    CHECK_INT(failures_of(&failures, -1, "write failure during drain"), 1); /* one report for all of them */
    udsipc_writer_free(writer);
}

static void writer_stop_reader_appears_during_drain(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    struct inbox inbox = INBOX;
    udsipc_writer *writer = patient_writer(path.text, &failures);
    for (uint32_t i = 0; i < 5; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    struct stopper stopper = {.handle = writer};
    CHECK(pthread_create(&stopper.thread, NULL, stop_writer_thread, &stopper) == 0);
    /* The stop has begun when writes are refused. One that comes before counts with the others. */
    uint32_t accepted = 5;
    for (udsipc_status status = UDSIPC_OK; status != UDSIPC_ERR_STOPPED;) {
        status = write_numbered(writer, 0, accepted);
        accepted += status == UDSIPC_OK;
    }
    udsipc_reader *reader = started_reader(path.text, &inbox);
    pthread_join(stopper.thread, NULL);
    CHECK_OK(stopper.status);
    WAIT_UNTIL(inbox_count(&inbox) == accepted);
    CHECK_INT(inbox.gaps, 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* A reader that takes nothing: the time passes, and every message is accounted for. */
static void writer_stop_reader_never_reads(void)
{
    struct path path = in_scratch("s");
    int listener = raw_listen(path.text);
    udsipc_writer *writer = started_writer(path.text);
    static uint8_t kilobyte[1024];
    const uint64_t accepted = 4000;
    for (uint64_t i = 0; i < accepted; i++)
        CHECK_OK(udsipc_write_message(writer, kilobyte, sizeof kilobyte));
    WAIT_UNTIL(writer_metrics(writer).sent > 0);
    uint64_t begun = now_ms();
    CHECK_STATUS(udsipc_writer_stop(writer, 300), UDSIPC_ERR_TIMEOUT);
    CHECK(now_ms() - begun >= 299);
    udsipc_writer_metrics metrics = writer_metrics(writer);
    CHECK_INT(metrics.queue_depth, 0);
    CHECK_INT(metrics.sent + metrics.abandoned, accepted);
    CHECK(metrics.abandoned > 0);
    CHECK_INT(metrics.sent_bytes, metrics.sent * sizeof kilobyte);

    /* What was called sent is whole in the kernel; a cut frame may stand behind it, never a further whole one. */
    int peer = raw_accept(listener);
    static uint8_t frame[2048];
    size_t len;
    uint64_t whole = 0;
    while (raw_read_frame(peer, frame, sizeof frame, &len))
        whole++;
    CHECK_INT(whole, metrics.sent);
    udsipc_writer_free(writer);
    close(peer);
    close(listener);
}

/* A reader that is slow is not one that is gone: with time enough, stop waits until all of it is out. */
static void *read_slowly(void *argument)
{
    int peer = raw_accept(*(int *)argument);
    static uint8_t piece[50000];
    uintptr_t total = 0;
    for (ssize_t got; (got = recv(peer, piece, sizeof piece, MSG_WAITALL)) > 0; total += (uintptr_t)got)
        look_again_soon();
    close(peer);
    return (void *)total;
}

static void writer_stop_waits_for_a_slow_reader(void)
{
    struct path path = in_scratch("s");
    int listener = raw_listen(path.text);
    pthread_t reading;
    CHECK(pthread_create(&reading, NULL, read_slowly, &listener) == 0);
    udsipc_writer *writer = started_writer(path.text);
    static uint8_t message[10000];
    for (int i = 0; i < 1000; i++)
        CHECK_OK(udsipc_write_message(writer, message, sizeof message));
    CHECK_OK(udsipc_writer_stop(writer, UDSIPC_WAIT_FOREVER));
    CHECK_INT(writer_metrics(writer).sent, 1000);
    void *total;
    pthread_join(reading, &total);
    CHECK_INT((uintptr_t)total, 1000 * (sizeof message + 2));
    udsipc_writer_free(writer);
    close(listener);
}

/* A connection that breaks while stop drains is made again, and the whole frame is sent again. */
static void writer_stop_reconnects(void)
{
    struct path path = in_scratch("s");
    int listener = raw_listen(path.text);
    udsipc_writer *writer = started_writer(path.text);
    int first = raw_accept(listener);
    static uint8_t large[4000000];
    CHECK_OK(udsipc_write_message(writer, large, sizeof large));
    CHECK_OK(udsipc_write_message(writer, large, sizeof large));
    CHECK_OK(write_numbered(writer, 0, 0));
    struct stopper stopper = {.handle = writer};
    CHECK(pthread_create(&stopper.thread, NULL, stop_writer_thread, &stopper) == 0);
    static uint8_t part[400000];
    CHECK(raw_read(first, part, sizeof part));
    close(first);

    int second = raw_accept(listener);
    static uint8_t frame[sizeof large];
    size_t len = 0;
    CHECK(raw_read_frame(second, frame, sizeof frame, &len));
    CHECK_INT(len, sizeof large);
    CHECK(raw_read_frame(second, frame, sizeof frame, &len));
    CHECK_INT(len, sizeof large);
    CHECK(raw_read_frame(second, frame, sizeof frame, &len));
    CHECK_INT(len, sizeof(struct numbered));
    CHECK(!raw_read_frame(second, frame, sizeof frame, &len));
    pthread_join(stopper.thread, NULL);
    CHECK_OK(stopper.status);
    CHECK_INT(writer_metrics(writer).sent, 3);
    CHECK_INT(writer_metrics(writer).abandoned, 0);
    CHECK_INT(writer_metrics(writer).connections, 2);
    CHECK(writer_metrics(writer).retried >= 1);
    udsipc_writer_free(writer);
    close(second);
    close(listener);
}

static void *write_until_refused(void *argument)
{
    struct stopper *producer = (struct stopper *)argument;
    for (uint32_t number = 0;;) {
        producer->status = write_numbered((udsipc_writer *)producer->handle, 0, number);
        if (producer->status == UDSIPC_OK)
            number++;
        else if (producer->status != UDSIPC_ERR_BUFFER_FULL)
            return (void *)(uintptr_t)number;
    }
}

/* A producer that never stops by itself does not keep stop from ending. */
static void writer_stop_with_a_tireless_producer(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer *writer = started_writer(path.text);
    struct stopper producer = {.handle = writer};
    CHECK(pthread_create(&producer.thread, NULL, write_until_refused, &producer) == 0);
    WAIT_UNTIL(inbox_count(&inbox) > 1000);
    CHECK_OK(udsipc_writer_stop(writer, UDSIPC_WAIT_FOREVER));
    void *accepted;
    pthread_join(producer.thread, &accepted);
    CHECK_STATUS(producer.status, UDSIPC_ERR_STOPPED);
    CHECK_INT(writer_metrics(writer).sent, (uintptr_t)accepted);
    CHECK_INT(writer_metrics(writer).abandoned, 0);
    WAIT_UNTIL(inbox_count(&inbox) == (uintptr_t)accepted);
    CHECK_INT(inbox.gaps, 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* A writer that the host drives is stopped by whoever calls: the call itself sends what is queued. */
static void writer_stop_dispatched(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer *writer = new_writer(path.text);
    CHECK_OK(udsipc_writer_dispatch(writer, 0));
    for (uint32_t i = 0; i < 1000; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    WAIT_UNTIL(inbox_count(&inbox) == 1000);
    CHECK_INT(inbox.gaps, 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);

    writer = new_writer(path.text);
    CHECK_OK(udsipc_writer_dispatch(writer, 0));
    CHECK_OK(write_numbered(writer, 0, 0));
    CHECK_STATUS(udsipc_writer_stop(writer, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_UNDELIVERED);
    CHECK_INT(writer_metrics(writer).abandoned, 1);
    udsipc_writer_free(writer);
}

/* A caller that waits for room is told at once that there will be none. */
static void *wait_for_room(void *argument)
{
    struct stopper *waiter = (struct stopper *)argument;
    waiter->status = udsipc_write_message_timeout((udsipc_writer *)waiter->handle, "late", 4, UDSIPC_WAIT_FOREVER);
    return NULL;
}

static void writer_stop_wakes_waiting_callers(void)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 1));
    struct failures failures = FAILURES;
    udsipc_writer *writer = watched_writer(in_scratch("s").text, options, &failures);
    CHECK_OK(udsipc_writer_start(writer));
    CHECK_OK(udsipc_write_message(writer, "first", 5));
    struct stopper waiters[4];
    for (size_t i = 0; i < 4; i++) {
        waiters[i].handle = writer;
        CHECK(pthread_create(&waiters[i].thread, NULL, wait_for_room, &waiters[i]) == 0);
    }
    CHECK_STATUS(udsipc_writer_stop(writer, PATIENCE_MS), UDSIPC_ERR_UNDELIVERED);
    for (size_t i = 0; i < 4; i++) {
        pthread_join(waiters[i].thread, NULL);
        CHECK_STATUS(waiters[i].status, UDSIPC_ERR_STOPPED);
    }
    CHECK_INT(writer_metrics(writer).abandoned, 1);
    udsipc_writer_free(writer);
}

/* `_free` of a running writer is a forced stop: short, and nothing of it is left. */
static void writer_free_while_running(void)
{
    struct path path = in_scratch("s");
    size_t fds = open_fds();
    int listener = raw_listen(path.text);
    udsipc_writer *writer = started_writer(path.text);
    static uint8_t kilobyte[1024];
    for (int i = 0; i < 4000; i++)
        CHECK_OK(udsipc_write_message(writer, kilobyte, sizeof kilobyte));
    WAIT_UNTIL(writer_metrics(writer).sent > 0);
    uint64_t begun = now_ms();
    udsipc_writer_free(writer);
    CHECK(now_ms() - begun < 5000);
    WAIT_UNTIL(threads() == 1);
    close(listener);
    CHECK_INT(open_fds(), fds);
}

/* ---- stopping a reader ---- */

static void reader_stop_before_start(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = new_reader(path.text, &inbox);
    CHECK(exists(path.text));
    CHECK_OK(udsipc_reader_stop(reader, UDSIPC_WAIT_FOREVER));
    CHECK(!exists(path.text));
    CHECK_OK(udsipc_reader_stop(reader, 0));
    CHECK_INT(threads(), 1);
    udsipc_reader_free(reader);
}

/* Its callback was never asked for: what waits is not delivered, and neither side takes that for success. */
static void reader_stop_before_start_with_messages(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = new_reader(path.text, &inbox);
    int silent = raw_connect(path.text);
    CHECK_OK(udsipc_reader_stop(reader, UDSIPC_WAIT_FOREVER));
    udsipc_reader_free(reader);

    reader = new_reader(path.text, &inbox);
    int client = raw_connect(path.text);
    raw_send_frame(client, "lost", 4);
    CHECK_STATUS(udsipc_reader_stop(reader, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_TIMEOUT);
    CHECK_STATUS(udsipc_reader_stop(reader, 0), UDSIPC_ERR_TIMEOUT);
    CHECK_INT(inbox_count(&inbox), 0);
    CHECK(recv(client, &(char){0}, 1, 0) == -1 && errno == ECONNRESET);
    CHECK(!exists(path.text));
    udsipc_reader_free(reader);
    close(client);
    close(silent);
}

static void reader_stop_twice_and_from_ten_threads(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    int client = raw_connect(path.text);
    raw_send_numbered(client, 0, 0);
    stop_from_ten_threads(reader, stop_reader_thread, UDSIPC_OK);
    CHECK_OK(udsipc_reader_stop(reader, 0));
    CHECK_INT(inbox_count(&inbox), 1);
    WAIT_UNTIL(threads() == 1);
    udsipc_reader_free(reader);
    close(client);
}

/* An idle connection does not delay a stop: nothing is waited for that will not come. */
static void reader_stop_with_idle_connections(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    uint64_t best = UINT64_MAX;
    for (int attempt = 0; attempt < 3; attempt++) {
        udsipc_reader *reader = started_reader(path.text, &inbox);
        int clients[20];
        for (size_t i = 0; i < 20; i++)
            clients[i] = raw_connect(path.text);
        WAIT_UNTIL(reader_metrics(reader).active_connections == 20);
        uint64_t begun = now_ms();
        CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
        uint64_t taken = now_ms() - begun;
        if (taken < best) best = taken;
        CHECK_INT(reader_metrics(reader).active_connections, 0);
        CHECK_INT(reader_metrics(reader).errors, 0);
        for (size_t i = 0; i < 20; i++) {
            raw_wait_closed(clients[i]);
            close(clients[i]);
        }
        udsipc_reader_free(reader);
    }
    /* Far below the inactivity timeout of 10 s, which is what must not be waited for. */
    CHECK(best < 2000);
}

static void reader_stop_zero(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    uint64_t best = UINT64_MAX;
    for (int attempt = 0; attempt < 3; attempt++) {
        udsipc_reader *reader = started_reader(path.text, &inbox);
        int client = raw_connect(path.text);
        WAIT_UNTIL(reader_metrics(reader).active_connections == 1);
        uint64_t begun = now_ms();
        udsipc_status status = udsipc_reader_stop(reader, 0);
        uint64_t taken = now_ms() - begun;
        if (taken < best) best = taken;
        CHECK(status == UDSIPC_OK || status == UDSIPC_ERR_TIMEOUT);
        CHECK_STATUS(udsipc_reader_stop(reader, PATIENCE_MS), status);
        CHECK(!exists(path.text));
        udsipc_reader_free(reader);
        close(client);
    }
    CHECK(best < 500);
}

/* "Connect, write, go away" just before a stop: what waits in the backlog is served. */
static void reader_stop_serves_the_backlog(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = new_reader(path.text, &inbox);
    for (uint32_t i = 0; i < 50; i++) {
        int client = raw_connect(path.text);
        raw_send_numbered(client, i, 0);
        close(client);
    }
    CHECK_OK(udsipc_reader_start(reader));
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), 50);
    CHECK_INT(inbox.gaps, 0);
    CHECK_INT(reader_metrics(reader).received, 50);
    CHECK_INT(reader_metrics(reader).connections, 50);
    CHECK_INT(reader_metrics(reader).errors, 0);
    CHECK(!exists(path.text));
    CHECK(raw_try_connect(path.text) == -1);
    udsipc_reader_free(reader);
}

/* What a peer was told is sent is handled before stop returns, and from then on the peer is told EPIPE. */
static void reader_stop_empties_the_kernel_buffers(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    int client = raw_connect(path.text);
    for (uint32_t i = 0; i < 200; i++)
        raw_send_numbered(client, 0, i);
    /* A frame that is cut by the stop is no error: its writer is told, and sends it again elsewhere. */
    uint8_t cut[3] = {100, 'a', 'b'};
    raw_send(client, cut, sizeof cut);
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), 200);
    CHECK_INT(inbox.gaps, 0);
    CHECK_INT(reader_metrics(reader).errors, 0);
    CHECK(send(client, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
    int lost = -1;
    socklen_t size = sizeof lost;
    CHECK(getsockopt(client, SOL_SOCKET, SO_ERROR, &lost, &size) == 0);
    CHECK_INT(lost, 0);
    udsipc_reader_free(reader);
    close(client);
}

struct slow_inbox {
    struct inbox inbox;
    struct gate gate;
    atomic_bool stopped;
    atomic_uint late;
};

static int32_t receive_slowly(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)connection;
    struct slow_inbox *slow = (struct slow_inbox *)userdata;
    if (atomic_load(&slow->stopped)) atomic_fetch_add(&slow->late, 1);
    gate_pass(&slow->gate);
    inbox_put(&slow->inbox, data, len);
    if (atomic_load(&slow->stopped)) atomic_fetch_add(&slow->late, 1);
    return 0;
}

/* Stops the reader of a slow inbox, with too little time, and says when the call has come back. */
struct short_stop {
    struct stopper stopper;
    struct slow_inbox slow;
};

static void *stop_too_soon(void *argument)
{
    struct short_stop *stop = (struct short_stop *)argument;
    stop->stopper.status = udsipc_reader_stop((udsipc_reader *)stop->stopper.handle, 200);
    atomic_store(&stop->slow.stopped, true);
    return NULL;
}

/* Stop waits for a callback that runs, past its time if it must; then it cuts short what stands behind. */
static void reader_stop_waits_for_running_callbacks(void)
{
    struct path path = in_scratch("s");
    struct short_stop stop = {.slow = {.inbox = INBOX, .gate = GATE}};
    struct slow_inbox *slow = &stop.slow;
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, receive_slowly, slow, NULL, &reader));
    CHECK_OK(udsipc_reader_start(reader));
    int client = raw_connect(path.text);
    for (uint32_t i = 0; i < 3; i++)
        raw_send_numbered(client, 0, i);
    WAIT_UNTIL(gate_arrived(&slow->gate) == 1);

    stop.stopper.handle = reader;
    uint64_t begun = now_ms();
    CHECK(pthread_create(&stop.stopper.thread, NULL, stop_too_soon, &stop) == 0);
    /* Four times as long as the stop was given: it must not come back over a running callback. */
    STAYS_TRUE(800, !atomic_load(&slow->stopped));
    gate_open(&slow->gate);
    pthread_join(stop.stopper.thread, NULL);
    CHECK(now_ms() - begun >= 800);
    CHECK_STATUS(stop.stopper.status, UDSIPC_ERR_TIMEOUT);
    CHECK_INT(inbox_count(&slow->inbox), 1);
    CHECK_INT(atomic_load(&slow->late), 0);
    CHECK_STATUS(udsipc_reader_stop(reader, PATIENCE_MS), UDSIPC_ERR_TIMEOUT);
    udsipc_reader_free(reader);
    CHECK_INT(inbox_count(&slow->inbox), 1);
    close(client);
}

static void *flood(void *argument)
{
    struct stopper *producer = (struct stopper *)argument;
    int client = raw_try_connect((const char *)producer->handle);
    if (client < 0) return NULL;
    uint32_t number = 0;
    uint8_t frame[9] = {8};
    for (;;) {
        struct numbered message = {0, number};
        memcpy(frame + 1, &message, sizeof message);
        ssize_t sent = send(client, frame, sizeof frame, MSG_NOSIGNAL);
        if (sent != (ssize_t)sizeof frame) break;
        number++;
    }
    close(client);
    return (void *)(uintptr_t)number;
}

/* A flood does not keep the reader from stopping, and what the flood was told is sent has been handled. */
static void reader_stop_under_a_flood(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    struct stopper producer = {.handle = path.text};
    CHECK(pthread_create(&producer.thread, NULL, flood, &producer) == 0);
    WAIT_UNTIL(inbox_count(&inbox) > 1000);
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    uint64_t handled = inbox_count(&inbox);
    void *sent;
    pthread_join(producer.thread, &sent);
    CHECK_INT(handled, (uintptr_t)sent);
    CHECK_INT(inbox.gaps, 0);
    CHECK_INT(inbox_count(&inbox), handled);
    udsipc_reader_free(reader);
}

/* Law 9: after stop has returned, no callback runs. Stopped at any moment under load, many times. */
static void no_callback_after_stop(void)
{
    struct path path = in_scratch("s");
    for (int round = 0; round < 30; round++) {
        struct slow_inbox slow = {.inbox = INBOX, .gate = GATE};
        gate_open(&slow.gate);
        udsipc_reader *reader = NULL;
        CHECK_OK(udsipc_reader_new(path.text, receive_slowly, &slow, NULL, &reader));
        CHECK_OK(udsipc_reader_start(reader));
        struct stopper producers[2];
        for (size_t i = 0; i < 2; i++) {
            producers[i].handle = path.text;
            CHECK(pthread_create(&producers[i].thread, NULL, flood, &producers[i]) == 0);
        }
        WAIT_UNTIL(inbox_count(&slow.inbox) > 100);
        udsipc_status status = udsipc_reader_stop(reader, round % 3 == 0 ? 0 : PATIENCE_MS);
        atomic_store(&slow.stopped, true);
        CHECK(status == UDSIPC_OK || (round % 3 == 0 && status == UDSIPC_ERR_TIMEOUT));
        uint64_t handled = inbox_count(&slow.inbox);
        for (size_t i = 0; i < 2; i++)
            pthread_join(producers[i].thread, NULL);
        udsipc_reader_free(reader);
        CHECK_INT(inbox_count(&slow.inbox), handled);
        CHECK_INT(atomic_load(&slow.late), 0);
    }
}

/* A reader that the host drives is stopped by whoever calls: callbacks run in that call. */
static void reader_stop_dispatched(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = new_reader(path.text, &inbox);
    CHECK_OK(udsipc_reader_dispatch(reader, 0));
    int client = raw_connect(path.text);
    for (uint32_t i = 0; i < 100; i++)
        raw_send_numbered(client, 0, i);
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), 100);
    CHECK_INT(inbox.gaps, 0);
    CHECK_INT(threads(), 1);
    CHECK(!exists(path.text));
    udsipc_reader_free(reader);
    close(client);
}

static void *dispatch_until_stopped(void *reader)
{
    udsipc_status status;
    do
        status = udsipc_reader_dispatch((udsipc_reader *)reader, 1000);
    while (status == UDSIPC_OK);
    CHECK_STATUS(status, UDSIPC_ERR_STOPPED);
    return NULL;
}

/* Threads of the host that dispatch again and again must not keep the stop from ever seeing them all outside. */
static void reader_stop_while_eight_threads_dispatch(void)
{
    struct inbox inbox = INBOX;
    udsipc_reader *reader = new_reader(in_scratch("s").text, &inbox);
    CHECK_OK(udsipc_reader_dispatch(reader, 0));
    pthread_t host[8];
    for (int i = 0; i < 8; i++)
        CHECK_INT(pthread_create(&host[i], NULL, dispatch_until_stopped, reader), 0);
    uint64_t begun = now_ms();
    CHECK_OK(udsipc_reader_stop(reader, 1000));
    CHECK(now_ms() - begun < PATIENCE_MS / 2);
    for (int i = 0; i < 8; i++)
        CHECK_INT(pthread_join(host[i], NULL), 0);
    udsipc_reader_free(reader);
}

static void reader_free_while_running(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    size_t fds = open_fds();
    udsipc_reader *reader = started_reader(path.text, &inbox);
    int client = raw_connect(path.text);
    raw_send_numbered(client, 0, 0);
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    udsipc_reader_free(reader);
    CHECK(!exists(path.text));
    raw_wait_closed(client);
    close(client);
    WAIT_UNTIL(threads() == 1);
    CHECK_INT(open_fds(), fds);
}

static const struct scenario scenarios[] = {
    SCENARIO(writer_stop_before_start_empty),
    SCENARIO(writer_stop_before_start_with_messages),
    SCENARIO(writer_stop_twice),
    SCENARIO(writer_stop_from_ten_threads),
    SCENARIO(writer_stop_zero_with_messages),
    SCENARIO(writer_stop_zero_with_nothing),
    SCENARIO(writer_stop_nobody_listens),
    SCENARIO(writer_stop_stale_socket),
    SCENARIO(writer_stop_reader_gone),
    SCENARIO(writer_stop_drain_until_deadline),
    SCENARIO(writer_stop_reader_appears_during_drain),
    SCENARIO(writer_stop_reader_never_reads),
    SCENARIO(writer_stop_waits_for_a_slow_reader),
    SCENARIO(writer_stop_reconnects),
    SCENARIO(writer_stop_with_a_tireless_producer),
    SCENARIO(writer_stop_dispatched),
    SCENARIO(writer_stop_wakes_waiting_callers),
    SCENARIO(writer_free_while_running),
    SCENARIO(reader_stop_before_start),
    SCENARIO(reader_stop_before_start_with_messages),
    SCENARIO(reader_stop_twice_and_from_ten_threads),
    SCENARIO(reader_stop_with_idle_connections),
    SCENARIO(reader_stop_zero),
    SCENARIO(reader_stop_serves_the_backlog),
    SCENARIO(reader_stop_empties_the_kernel_buffers),
    SCENARIO(reader_stop_waits_for_running_callbacks),
    SCENARIO(reader_stop_under_a_flood),
    SCENARIO(no_callback_after_stop),
    SCENARIO(reader_stop_dispatched),
    SCENARIO(reader_stop_while_eight_threads_dispatch),
    SCENARIO(reader_free_while_running),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
