/* Many threads on one handle, and callbacks on many threads. Also meant for ThreadSanitizer and valgrind's helgrind. */
#include "../support/check.h"

#define PRODUCERS 8

struct producer {
    pthread_t thread;
    udsipc_writer *writer;
    uint32_t sender;
    uint32_t messages;
    uint32_t accepted;
    uint64_t refused;
};

/* Writes numbered messages, each until it is taken or the writer is stopped. */
static void *produce(void *argument)
{
    struct producer *producer = (struct producer *)argument;
    while (producer->accepted < producer->messages) {
        udsipc_status status = write_numbered(producer->writer, producer->sender, producer->accepted);
        if (status == UDSIPC_OK)
            producer->accepted++;
        else if (status == UDSIPC_ERR_BUFFER_FULL)
            producer->refused++;
        else
            return (void *)(uintptr_t)status;
    }
    return NULL;
}

static void start_producers(struct producer *producers, udsipc_writer *writer, uint32_t messages)
{
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.writer = writer, .sender = i, .messages = messages};
        CHECK(pthread_create(&producers[i].thread, NULL, produce, &producers[i]) == 0);
    }
}

static uint64_t join_producers(struct producer *producers, udsipc_status wanted)
{
    uint64_t accepted = 0;
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        void *status;
        pthread_join(producers[i].thread, &status);
        CHECK_STATUS((uintptr_t)status, wanted);
        accepted += producers[i].accepted;
    }
    return accepted;
}

/* Everything accepted arrives once, in the order of the thread that wrote it; everything refused is in `dropped`. */
static void eight_threads_on_one_writer(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer *writer = started_writer(path.text);
    struct producer producers[PRODUCERS];
    start_producers(producers, writer, 20000);
    uint64_t accepted = join_producers(producers, UDSIPC_OK), refused = 0;
    for (size_t i = 0; i < PRODUCERS; i++)
        refused += producers[i].refused;
    CHECK_INT(accepted, PRODUCERS * 20000);
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    WAIT_UNTIL(inbox_count(&inbox) == accepted);
    CHECK_INT(inbox.gaps, 0);
    CHECK_INT(writer_metrics(writer).sent, accepted);
    CHECK_INT(writer_metrics(writer).sent_bytes, accepted * sizeof(struct numbered));
    CHECK_INT(writer_metrics(writer).dropped, refused);
    WAIT_UNTIL(reader_metrics(reader).received == accepted); /* counted when its callback has returned */
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* As above with calls that wait for room in a small queue: nothing is refused. */
static void *produce_patiently(void *argument)
{
    struct producer *producer = (struct producer *)argument;
    for (; producer->accepted < producer->messages; producer->accepted++) {
        struct numbered message = {producer->sender, producer->accepted};
        CHECK_OK(udsipc_write_message_timeout(producer->writer, &message, sizeof message, PATIENCE_MS));
    }
    return NULL;
}

static void eight_threads_wait_for_room(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 16));
    struct failures failures = FAILURES;
    udsipc_writer *writer = watched_writer(path.text, options, &failures);
    CHECK_OK(udsipc_writer_start(writer));
    struct producer producers[PRODUCERS];
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.writer = writer, .sender = i, .messages = 2000};
        CHECK(pthread_create(&producers[i].thread, NULL, produce_patiently, &producers[i]) == 0);
    }
    CHECK_INT(join_producers(producers, UDSIPC_OK), PRODUCERS * 2000);
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    WAIT_UNTIL(inbox_count(&inbox) == PRODUCERS * 2000);
    CHECK_INT(inbox.gaps, 0);
    CHECK_INT(writer_metrics(writer).dropped, 0);
    CHECK_INT(failures_of(&failures, -1, NULL), 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* Stopped in the middle: what was accepted is delivered, whoever wrote it. */
static void stop_under_load(void)
{
    struct path path = in_scratch("s");
    for (int round = 0; round < 10; round++) {
        struct inbox inbox = INBOX;
        udsipc_reader *reader = started_reader(path.text, &inbox);
        udsipc_writer *writer = started_writer(path.text);
        struct producer producers[PRODUCERS];
        start_producers(producers, writer, UINT32_MAX);
        WAIT_UNTIL(inbox_count(&inbox) > 2000);
        CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
        uint64_t accepted = join_producers(producers, UDSIPC_ERR_STOPPED);
        CHECK_INT(writer_metrics(writer).sent, accepted);
        WAIT_UNTIL(inbox_count(&inbox) == accepted);
        CHECK_INT(inbox.gaps, 0);
        udsipc_writer_free(writer);
        udsipc_reader_free(reader);
    }
}

/* Stopped with no time at all: every accepted message is either sent or abandoned, and the sum is exact. */
static void forced_stop_under_load(void)
{
    struct path path = in_scratch("s");
    for (int round = 0; round < 10; round++) {
        struct inbox inbox = INBOX;
        udsipc_reader *reader = started_reader(path.text, &inbox);
        udsipc_writer *writer = started_writer(path.text);
        struct producer producers[PRODUCERS];
        start_producers(producers, writer, UINT32_MAX);
        WAIT_UNTIL(inbox_count(&inbox) > 1000);
        udsipc_status status = udsipc_writer_stop(writer, 0);
        uint64_t accepted = join_producers(producers, UDSIPC_ERR_STOPPED);
        udsipc_writer_metrics metrics = writer_metrics(writer);
        CHECK_INT(metrics.sent + metrics.abandoned, accepted);
        CHECK_INT(metrics.queue_depth, 0);
        CHECK_STATUS(status, metrics.abandoned + metrics.suspected_lost == 0 ? UDSIPC_OK : UDSIPC_ERR_TIMEOUT);
        WAIT_UNTIL(inbox_count(&inbox) == metrics.sent);
        udsipc_writer_free(writer);
        udsipc_reader_free(reader);
    }
}

struct observer {
    pthread_t thread;
    udsipc_writer *writer;
    udsipc_reader *reader;
    atomic_bool *stop;
    atomic_uint looks;
};

/* Counters only rise, whenever one looks. */
static void *observe(void *argument)
{
    struct observer *observer = (struct observer *)argument;
    uint64_t sent = 0, received = 0;
    while (!atomic_load(observer->stop)) {
        udsipc_writer_metrics writer = writer_metrics(observer->writer);
        udsipc_reader_metrics reader = reader_metrics(observer->reader);
        CHECK(writer.sent >= sent && reader.received >= received);
        sent = writer.sent;
        received = reader.received;
        udsipc_writer_is_connected(observer->writer);
        CHECK(udsipc_writer_socket_path(observer->writer)[0] == '/');
        CHECK_OK(udsipc_writer_start(observer->writer));
        CHECK_OK(udsipc_reader_start(observer->reader));
        udsipc_status flushed = udsipc_writer_flush(observer->writer, 1);
        CHECK(flushed == UDSIPC_OK || flushed == UDSIPC_ERR_TIMEOUT);
        atomic_fetch_add(&observer->looks, 1);
    }
    return NULL;
}

static void every_call_from_other_threads_under_load(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer *writer = started_writer(path.text);
    atomic_bool stop = false;
    struct observer observers[4];
    for (size_t i = 0; i < 4; i++) {
        observers[i].writer = writer;
        observers[i].reader = reader;
        observers[i].stop = &stop;
        atomic_init(&observers[i].looks, 0);
        CHECK(pthread_create(&observers[i].thread, NULL, observe, &observers[i]) == 0);
    }
    struct producer producers[PRODUCERS];
    start_producers(producers, writer, 5000);
    uint64_t accepted = join_producers(producers, UDSIPC_OK);
    WAIT_UNTIL(inbox_count(&inbox) == accepted);
    for (size_t i = 0; i < 4; i++)
        WAIT_UNTIL(atomic_load(&observers[i].looks) > 10);
    atomic_store(&stop, true);
    for (size_t i = 0; i < 4; i++)
        pthread_join(observers[i].thread, NULL);
    CHECK_INT(inbox.gaps, 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* Eight writers, eight connections, one reader: each connection in its order. */
static void eight_writers_one_reader(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    struct producer producers[PRODUCERS];
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        producers[i] = (struct producer){.writer = started_writer(path.text), .sender = i, .messages = 10000};
        CHECK(pthread_create(&producers[i].thread, NULL, produce, &producers[i]) == 0);
    }
    uint64_t accepted = join_producers(producers, UDSIPC_OK);
    for (uint32_t i = 0; i < PRODUCERS; i++) {
        CHECK_OK(udsipc_writer_stop(producers[i].writer, PATIENCE_MS));
        udsipc_writer_free(producers[i].writer);
    }
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), accepted);
    CHECK_INT(inbox.gaps, 0);
    CHECK_INT(reader_metrics(reader).connections, PRODUCERS);
    CHECK_INT(reader_metrics(reader).active_connections, 0);
    udsipc_reader_free(reader);
}

/* ---- callbacks on many threads ---- */

struct crowd {
    struct inbox inbox;
    struct gate gate;
    atomic_int inside;
    atomic_int most;
};

static int32_t enter_crowd(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    struct crowd *crowd = (struct crowd *)userdata;
    int inside = atomic_fetch_add(&crowd->inside, 1) + 1;
    for (int most = atomic_load(&crowd->most); inside > most;)
        if (atomic_compare_exchange_weak(&crowd->most, &most, inside)) break;
    if (data[0] == 'w') gate_pass(&crowd->gate);
    atomic_fetch_sub(&crowd->inside, 1);
    return receive(data, len, connection, &crowd->inbox);
}

static udsipc_reader *crowd_reader(const char *path, struct crowd *crowd, uint32_t threads_allowed)
{
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_max_handler_threads(options, threads_allowed));
    CHECK_OK(udsipc_reader_options_set_inactivity_timeout_ms(options, UDSIPC_WAIT_FOREVER));
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path, enter_crowd, crowd, options, &reader));
    udsipc_reader_options_free(options);
    CHECK_OK(udsipc_reader_start(reader));
    return reader;
}

/* Callbacks of different connections run at the same time, and one that blocks delays its own connection only. */
static void a_blocked_callback_delays_its_own_connection_only(void)
{
    struct path path = in_scratch("s");
    struct crowd crowd = {.inbox = INBOX, .gate = GATE};
    udsipc_reader *reader = crowd_reader(path.text, &crowd, 64);
    int blocked[5], free_one = raw_connect(path.text);
    for (size_t i = 0; i < 5; i++) {
        blocked[i] = raw_connect(path.text);
        raw_send_frame(blocked[i], "wait", 4);
        raw_send_frame(blocked[i], "behind", 6);
    }
    WAIT_UNTIL(gate_arrived(&crowd.gate) == 5);
    for (uint64_t i = 0; i < 100; i++) {
        raw_send_frame(free_one, "go", 2);
        WAIT_UNTIL(inbox_count(&crowd.inbox) == i + 1);
    }
    gate_open(&crowd.gate);
    WAIT_UNTIL(inbox_count(&crowd.inbox) == 110);
    CHECK(atomic_load(&crowd.most) >= 6);
    udsipc_reader_free(reader);
    for (size_t i = 0; i < 5; i++)
        close(blocked[i]);
    close(free_one);
}

/* With one thread callbacks never overlap, from however many connections. */
static void one_handler_thread_never_overlaps(void)
{
    struct path path = in_scratch("s");
    struct crowd crowd = {.inbox = INBOX, .gate = GATE};
    udsipc_reader *reader = crowd_reader(path.text, &crowd, 1);
    int clients[20];
    for (size_t i = 0; i < 20; i++)
        clients[i] = raw_connect(path.text);
    for (int message = 0; message < 200; message++)
        for (size_t i = 0; i < 20; i++)
            raw_send_frame(clients[i], "go", 2);
    WAIT_UNTIL(inbox_count(&crowd.inbox) == 4000);
    CHECK_INT(atomic_load(&crowd.most), 1);
    udsipc_reader_free(reader);
    for (size_t i = 0; i < 20; i++)
        close(clients[i]);
}

/* Never more callbacks at a time than allowed, and what waits for a thread is served when one is free. */
static void no_more_handler_threads_than_allowed(void)
{
    struct path path = in_scratch("s");
    struct crowd crowd = {.inbox = INBOX, .gate = GATE};
    udsipc_reader *reader = crowd_reader(path.text, &crowd, 3);
    int clients[10];
    for (size_t i = 0; i < 10; i++) {
        clients[i] = raw_connect(path.text);
        raw_send_frame(clients[i], "wait", 4);
    }
    WAIT_UNTIL(gate_arrived(&crowd.gate) == 3);
    STAYS_TRUE(200, gate_arrived(&crowd.gate) == 3);
    gate_open(&crowd.gate);
    WAIT_UNTIL(inbox_count(&crowd.inbox) == 10);
    CHECK_INT(atomic_load(&crowd.most), 3);
    udsipc_reader_free(reader);
    for (size_t i = 0; i < 10; i++)
        close(clients[i]);
}

/* Threads are there while they are needed, and leave when they have had nothing to do for some seconds. */
static void idle_handler_threads_leave(void)
{
    struct path path = in_scratch("s");
    struct crowd crowd = {.inbox = INBOX, .gate = GATE};
    udsipc_reader *reader = crowd_reader(path.text, &crowd, 64);
    int clients[20];
    for (size_t i = 0; i < 20; i++) {
        clients[i] = raw_connect(path.text);
        raw_send_frame(clients[i], "wait", 4);
    }
    WAIT_UNTIL(gate_arrived(&crowd.gate) == 20);
    CHECK(threads() >= 21);
    gate_open(&crowd.gate);
    WAIT_UNTIL(inbox_count(&crowd.inbox) == 20);
    WAIT_UNTIL(threads() <= 4);
    /* And come back. */
    raw_send_frame(clients[7], "go", 2);
    WAIT_UNTIL(inbox_count(&crowd.inbox) == 21);
    udsipc_reader_free(reader);
    for (size_t i = 0; i < 20; i++)
        close(clients[i]);
}

static void *flood_with_messages(void *argument)
{
    static uint8_t frames[3 * 1000];
    for (size_t i = 0; i < 1000; i++)
        memcpy(frames + 3 * i, "\x02no", 3);
    int client = raw_connect((const char *)argument);
    while (send(client, frames, sizeof frames, MSG_NOSIGNAL) > 0)
        ;
    close(client);
    return NULL;
}

/* Even with one thread for all, a connection that never runs dry leaves room for the others. */
static void a_flood_does_not_starve_the_others(void)
{
    struct path path = in_scratch("s");
    struct crowd crowd = {.inbox = INBOX, .gate = GATE};
    udsipc_reader *reader = crowd_reader(path.text, &crowd, 1);
    pthread_t flooding;
    CHECK(pthread_create(&flooding, NULL, flood_with_messages, path.text) == 0);
    WAIT_UNTIL(inbox_count(&crowd.inbox) > 10000);
    for (uint32_t i = 0; i < 20; i++) {
        int client = raw_connect(path.text);
        raw_send_numbered(client, i, 0);
        WAIT_UNTIL(inbox_next(&crowd.inbox, i) == 1);
        close(client);
    }
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    pthread_join(flooding, NULL);
    udsipc_reader_free(reader);
}

/* ---- waiting for room ---- */

static void write_timeout_passes(void)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 2));
    struct failures failures = FAILURES;
    udsipc_writer *writer = watched_writer(in_scratch("s").text, options, &failures);
    CHECK_OK(udsipc_writer_start(writer));
    CHECK_OK(udsipc_write_message_timeout(writer, "1", 1, 0));
    CHECK_OK(udsipc_write_message_timeout(writer, "2", 1, 0));
    uint64_t begun = now_ms();
    CHECK_STATUS(udsipc_write_message_timeout(writer, "3", 1, 200), UDSIPC_ERR_TIMEOUT);
    CHECK(now_ms() - begun >= 199);
    CHECK_INT(writer_metrics(writer).queue_depth, 2);
    /* No time to wait is the call that does not wait. */
    CHECK_STATUS(udsipc_write_message_timeout(writer, "3", 1, 0), UDSIPC_ERR_BUFFER_FULL);
    CHECK_STATUS(udsipc_write_message(writer, "3", 1), UDSIPC_ERR_BUFFER_FULL);
    CHECK_INT(writer_metrics(writer).dropped, 3);
    udsipc_writer_free(writer);
}

struct waiting {
    pthread_t thread;
    udsipc_writer *writer;
    udsipc_status status;
    atomic_bool back;
};

static void *write_and_wait(void *argument)
{
    struct waiting *waiting = (struct waiting *)argument;
    waiting->status = udsipc_write_message_timeout(waiting->writer, "waited", 6, UDSIPC_WAIT_FOREVER);
    atomic_store(&waiting->back, true);
    return NULL;
}

static void write_timeout_is_woken_by_room(void)
{
    struct path path = in_scratch("s");
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 1));
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 20));
    struct failures failures = FAILURES;
    udsipc_writer *writer = watched_writer(path.text, options, &failures);
    CHECK_OK(udsipc_writer_start(writer));
    CHECK_OK(udsipc_write_message(writer, "first", 5));
    struct waiting waiting = {.writer = writer};
    CHECK(pthread_create(&waiting.thread, NULL, write_and_wait, &waiting) == 0);
    STAYS_TRUE(200, !atomic_load(&waiting.back));
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    pthread_join(waiting.thread, NULL);
    CHECK_OK(waiting.status);
    WAIT_UNTIL(inbox_count(&inbox) == 2);
    CHECK(memcmp(inbox.last, "waited", 6) == 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* Flush comes back when the reader's process has read everything, not before. */
static void *flush_and_say(void *argument)
{
    struct waiting *waiting = (struct waiting *)argument;
    waiting->status = udsipc_writer_flush(waiting->writer, UDSIPC_WAIT_FOREVER);
    atomic_store(&waiting->back, true);
    return NULL;
}

static void flush_waits_for_the_reader(void)
{
    struct path path = in_scratch("s");
    int listener = raw_listen(path.text);
    udsipc_writer *writer = started_writer(path.text);
    CHECK_OK(write_numbered(writer, 0, 0));
    CHECK_OK(write_numbered(writer, 0, 1));
    int peer = raw_accept(listener);
    WAIT_UNTIL(writer_metrics(writer).sent == 2);
    CHECK_STATUS(udsipc_writer_flush(writer, 0), UDSIPC_ERR_TIMEOUT);
    uint64_t begun = now_ms();
    CHECK_STATUS(udsipc_writer_flush(writer, 100), UDSIPC_ERR_TIMEOUT);
    CHECK(now_ms() - begun >= 99);

    struct waiting waiting = {.writer = writer};
    CHECK(pthread_create(&waiting.thread, NULL, flush_and_say, &waiting) == 0);
    uint8_t frames[18];
    CHECK(raw_read(peer, frames, 9));
    STAYS_TRUE(100, !atomic_load(&waiting.back));
    CHECK(raw_read(peer, frames, 9));
    pthread_join(waiting.thread, NULL);
    CHECK_OK(waiting.status);
    CHECK_OK(udsipc_writer_flush(writer, 0));
    udsipc_writer_free(writer);
    close(peer);
    close(listener);
}

/* Until everything accepted *before* the call: a producer that goes on does not keep it waiting for ever. */
static void flush_comes_back_under_load(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer *writer = started_writer(path.text);
    struct producer producers[PRODUCERS];
    start_producers(producers, writer, UINT32_MAX);
    WAIT_UNTIL(inbox_count(&inbox) > 1000);
    for (int i = 0; i < 5; i++) {
        uint64_t sent_before = writer_metrics(writer).sent;
        CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
        /* Read by the process is a little less than handled by the callback. */
        WAIT_UNTIL(inbox_count(&inbox) >= sent_before);
    }
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    join_producers(producers, UDSIPC_ERR_STOPPED);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static const struct scenario scenarios[] = {
    SCENARIO(eight_threads_on_one_writer),
    SCENARIO(eight_threads_wait_for_room),
    SCENARIO(stop_under_load),
    SCENARIO(forced_stop_under_load),
    SCENARIO(every_call_from_other_threads_under_load),
    SCENARIO(eight_writers_one_reader),
    SCENARIO(a_blocked_callback_delays_its_own_connection_only),
    SCENARIO(one_handler_thread_never_overlaps),
    SCENARIO(no_more_handler_threads_than_allowed),
    SCENARIO(idle_handler_threads_leave),
    SCENARIO(a_flood_does_not_starve_the_others),
    SCENARIO(write_timeout_passes),
    SCENARIO(write_timeout_is_woken_by_room),
    SCENARIO(flush_waits_for_the_reader),
    SCENARIO(flush_comes_back_under_load),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
