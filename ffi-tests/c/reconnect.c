/* Readers that stop, die, refuse and stall: what a writer does about it, and that its account stays exact. */
#include "../support/check.h"

#include <sys/mman.h>

/* At any moment; here when nothing moves, so that the three can be read together. */
static void account_is_exact(udsipc_writer *writer, uint64_t accepted)
{
    udsipc_writer_metrics metrics = writer_metrics(writer);
    CHECK_INT(metrics.sent + metrics.abandoned + metrics.queue_depth, accepted);
}

static udsipc_writer *quick_writer(const char *path, struct failures *failures)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 20));
    udsipc_writer *writer = watched_writer(path, options, failures);
    CHECK_OK(udsipc_writer_start(writer));
    return writer;
}

static void write_until_taken(udsipc_writer *writer, uint32_t number)
{
    struct numbered message = {0, number};
    CHECK_OK(udsipc_write_message_timeout(writer, &message, sizeof message, PATIENCE_MS));
}

/* ---- nobody listens ---- */

/* Each cause has its own errno, and a failed connect is no failed message. */
static void nobody_listens(void)
{
    static const struct {
        const char *name;
        int os_errno;
    } cases[] = {{"missing", ENOENT}, {"stale", ECONNREFUSED}};
    close(raw_listen(in_scratch("stale").text));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct failures failures = FAILURES;
        udsipc_writer *writer = quick_writer(in_scratch(cases[i].name).text, &failures);
        CHECK_OK(write_numbered(writer, 0, 0));
        WAIT_UNTIL(failures_of(&failures, UDSIPC_ERR_NOT_CONNECTED, "failed to connect") >= 2);
        CHECK_INT(failures.list[0].os_errno, cases[i].os_errno);
        CHECK(writer_metrics(writer).connect_failures >= 2);
        CHECK_INT(writer_metrics(writer).failed, 0);
        CHECK_INT(writer_metrics(writer).queue_depth, 1);
        CHECK_INT(udsipc_writer_is_connected(writer), 0);
        udsipc_writer_free(writer);
    }
}

/* Messages wait for the reader, and come in order, on one connection. */
static void messages_wait_for_the_reader(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    struct inbox inbox = INBOX;
    udsipc_writer *writer = quick_writer(path.text, &failures);
    for (uint32_t i = 0; i < 1000; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    WAIT_UNTIL(writer_metrics(writer).connect_failures > 0);
    CHECK_INT(writer_metrics(writer).queue_depth, 1000);
    udsipc_reader *reader = started_reader(path.text, &inbox);
    WAIT_UNTIL(inbox_count(&inbox) == 1000);
    CHECK_INT(inbox.gaps, 0);
    CHECK_INT(reader_metrics(reader).connections, 1);
    WAIT_UNTIL(udsipc_writer_is_connected(writer) == 1); /* noted by the thread that sent, a moment later */
    CHECK_INT(writer_metrics(writer).failed, 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* ---- a reader that stops and comes back ---- */

/* Stopped and started again and again under load: everything arrives exactly once, in order. */
static void reader_restarts_lose_nothing(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    struct inbox inbox = INBOX;
    udsipc_writer *writer = quick_writer(path.text, &failures);
    uint32_t number = 0;
    for (int round = 0; round < 20; round++) {
        udsipc_reader *reader = started_reader(path.text, &inbox);
        uint64_t goal = inbox_count(&inbox) + 500;
        for (uint64_t deadline = now_ms() + PATIENCE_MS; inbox_count(&inbox) < goal;) {
            CHECK(now_ms() < deadline);
            /* Without a reader there must be room for what is written below. */
            if (writer_metrics(writer).queue_depth < 1000)
                write_until_taken(writer, number++);
            else
                look_again_soon();
        }
        CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
        CHECK_INT(reader_metrics(reader).errors, 0);
        udsipc_reader_free(reader);
        for (int i = 0; i < 100; i++)
            write_until_taken(writer, number++);
    }
    udsipc_reader *reader = started_reader(path.text, &inbox);
    CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    WAIT_UNTIL(inbox_count(&inbox) == number);
    CHECK_INT(inbox.gaps, 0);
    CHECK_INT(writer_metrics(writer).sent, number);
    CHECK_INT(writer_metrics(writer).suspected_lost, 0);
    CHECK_INT(writer_metrics(writer).abandoned, 0);
    CHECK(writer_metrics(writer).connections >= 21);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* A peer that goes away while the writer is idle is noticed then, and is no failure. */
static void idle_peer_close_is_noticed(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    int listener = raw_listen(path.text);
    udsipc_writer *writer = quick_writer(path.text, &failures);
    int peer = raw_accept(listener);
    WAIT_UNTIL(udsipc_writer_is_connected(writer) == 1);
    for (uint64_t connection = 2; connection < 7; connection++) {
        close(peer);
        /* Without a message: it connects again because it has seen the end. */
        peer = raw_accept(listener);
        WAIT_UNTIL(writer_metrics(writer).connections == connection);
    }
    CHECK_OK(write_numbered(writer, 0, 0));
    uint8_t frame[16];
    size_t len;
    CHECK(raw_read_frame(peer, frame, sizeof frame, &len));
    CHECK_INT(writer_metrics(writer).failed, 0);
    CHECK_INT(writer_metrics(writer).suspected_lost, 0);
    CHECK_INT(failures_of(&failures, -1, NULL), 0);
    udsipc_writer_free(writer);
    close(peer);
    close(listener);
}

/* ---- a reader that is killed ---- */

struct shared {
    atomic_uint ready;
    atomic_uint handled;
    atomic_uchar seen[200000];
};

struct victim {
    const char *path;
    struct shared *shared;
};

static int32_t mark_seen(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)connection;
    struct shared *shared = (struct shared *)userdata;
    struct numbered message;
    CHECK_INT(len, sizeof message);
    memcpy(&message, data, sizeof message);
    CHECK(message.number < sizeof shared->seen);
    atomic_fetch_add(&shared->seen[message.number], 1);
    atomic_fetch_add(&shared->handled, 1);
    return 0;
}

static void read_until_killed(void *argument)
{
    struct victim *victim = (struct victim *)argument;
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(victim->path, mark_seen, victim->shared, NULL, &reader));
    CHECK_OK(udsipc_reader_start(reader));
    atomic_fetch_add(&victim->shared->ready, 1);
    for (;;)
        pause();
}

/* After kill -9 the next start works at once; what was in the callback may come twice, and nothing is lost. */
static void killed_readers(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    struct shared *shared =
        (struct shared *)mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
    struct victim victim = {path.text, shared};
    pid_t child = start_child(read_until_killed, &victim);
    udsipc_writer *writer = NULL;
    uint32_t number = 0;
    for (unsigned round = 1; round <= 5; round++) {
        WAIT_UNTIL(atomic_load(&shared->ready) == round);
        if (writer == NULL) writer = quick_writer(path.text, &failures);
        unsigned goal = atomic_load(&shared->handled) + 2000;
        for (uint64_t deadline = now_ms() + PATIENCE_MS; atomic_load(&shared->handled) < goal;) {
            CHECK(now_ms() < deadline);
            if (number < 190000)
                write_until_taken(writer, number++);
            else
                look_again_soon();
        }
        kill_child(child);
        CHECK(exists(path.text));
        child = start_child(read_until_killed, &victim);
    }
    WAIT_UNTIL(atomic_load(&shared->ready) == 6);
    WAIT_UNTIL(writer_metrics(writer).connections >= 6);
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    account_is_exact(writer, number);
    CHECK_INT(writer_metrics(writer).sent, number);
    CHECK_INT(writer_metrics(writer).suspected_lost, 0);
    uint32_t repeated = 0;
    for (uint32_t i = 0; i < number; i++) {
        CHECK(atomic_load(&shared->seen[i]) >= 1);
        repeated += atomic_load(&shared->seen[i]) - 1;
    }
    CHECK(repeated <= 5);
    udsipc_writer_free(writer);
    kill_child(child);
    munmap(shared, sizeof *shared);
}

/* What the kernel had taken and the reader threw away unread: an upper bound, never too low. */
static void unread_messages_are_suspected_lost(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    int listener = raw_listen(path.text);
    udsipc_writer *writer = quick_writer(path.text, &failures);
    int peer = raw_accept(listener);
    for (uint32_t i = 0; i < 100; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    WAIT_UNTIL(writer_metrics(writer).sent == 100);
    uint8_t frame[16];
    size_t len;
    for (int i = 0; i < 30; i++)
        CHECK(raw_read_frame(peer, frame, sizeof frame, &len));
    close(peer);
    WAIT_UNTIL(writer_metrics(writer).suspected_lost > 0);
    CHECK(writer_metrics(writer).suspected_lost >= 70);
    CHECK(writer_metrics(writer).suspected_lost <= 100);
    CHECK_INT(writer_metrics(writer).sent, 100);

    peer = raw_accept(listener);
    CHECK_OK(write_numbered(writer, 0, 100));
    struct numbered message;
    CHECK(raw_read_frame(peer, frame, sizeof frame, &len));
    memcpy(&message, frame, sizeof message);
    CHECK_INT(message.number, 100);
    account_is_exact(writer, 101);
    udsipc_writer_free(writer);
    close(peer);
    close(listener);
}

/* A flush that waits for what has been thrown away is told so: it would wait for ever. */
struct flusher {
    pthread_t thread;
    udsipc_writer *writer;
    udsipc_status status;
    atomic_bool begun;
    atomic_bool back;
};

static void *flush_for_ever(void *argument)
{
    struct flusher *flusher = (struct flusher *)argument;
    atomic_store(&flusher->begun, true);
    flusher->status = udsipc_writer_flush(flusher->writer, UDSIPC_WAIT_FOREVER);
    atomic_store(&flusher->back, true);
    return NULL;
}

static void flush_is_told_of_a_loss(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    int listener = raw_listen(path.text);
    udsipc_writer *writer = quick_writer(path.text, &failures);
    int peer = raw_accept(listener);
    CHECK_OK(write_numbered(writer, 0, 0));
    WAIT_UNTIL(writer_metrics(writer).sent == 1);
    struct flusher flusher = {.writer = writer};
    CHECK(pthread_create(&flusher.thread, NULL, flush_for_ever, &flusher) == 0);
    WAIT_UNTIL(atomic_load(&flusher.begun));
    STAYS_TRUE(200, !atomic_load(&flusher.back));
    close(peer);
    pthread_join(flusher.thread, NULL);
    CHECK_STATUS(flusher.status, UDSIPC_ERR_UNDELIVERED);
    CHECK_INT(writer_metrics(writer).suspected_lost, 1);

    /* What comes after the loss is another matter. */
    peer = raw_accept(listener);
    CHECK_OK(write_numbered(writer, 0, 1));
    uint8_t frame[9];
    CHECK(raw_read(peer, frame, sizeof frame));
    CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
    udsipc_writer_free(writer);
    close(peer);
    close(listener);
}

/* All read, then closed: nothing is suspected. */
static void read_messages_are_not_suspected_lost(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    int listener = raw_listen(path.text);
    udsipc_writer *writer = quick_writer(path.text, &failures);
    int peer = raw_accept(listener);
    uint8_t frame[16];
    size_t len;
    for (uint32_t i = 0; i < 100; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    for (int i = 0; i < 100; i++)
        CHECK(raw_read_frame(peer, frame, sizeof frame, &len));
    close(peer);
    peer = raw_accept(listener);
    WAIT_UNTIL(writer_metrics(writer).connections == 2);
    CHECK_INT(writer_metrics(writer).suspected_lost, 0);
    CHECK_INT(writer_metrics(writer).failed, 0);
    udsipc_writer_free(writer);
    close(peer);
    close(listener);
}

/* ---- a connection that breaks inside a frame ---- */

/* The message that failed comes first on the next connection, whole; what follows it keeps its order. */
static void a_cut_frame_is_sent_again_whole(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    int listener = raw_listen(path.text);
    udsipc_writer *writer = quick_writer(path.text, &failures);
    int peer = raw_accept(listener);
    static uint8_t large[4000000], frame[sizeof large];
    for (size_t i = 0; i < sizeof large; i++)
        large[i] = (uint8_t)(i * 31 + i / 1000);
    CHECK_OK(udsipc_write_message(writer, large, sizeof large));
    CHECK_OK(write_numbered(writer, 0, 1));
    CHECK(raw_read(peer, frame, 100000));
    close(peer);
    WAIT_UNTIL(failures_of(&failures, UDSIPC_ERR_NO_CONSUMER, "write failure") == 1);

    peer = raw_accept(listener);
    size_t len;
    CHECK(raw_read_frame(peer, frame, sizeof frame, &len));
    CHECK_INT(len, sizeof large);
    CHECK(memcmp(frame, large, sizeof large) == 0);
    CHECK(raw_read_frame(peer, frame, sizeof frame, &len));
    CHECK_INT(len, sizeof(struct numbered));
    WAIT_UNTIL(writer_metrics(writer).sent == 2);
    CHECK_INT(writer_metrics(writer).failed, 1);
    CHECK_INT(writer_metrics(writer).retried, 1);
    CHECK_INT(writer_metrics(writer).suspected_lost, 0);
    account_is_exact(writer, 2);
    udsipc_writer_free(writer);
    close(peer);
    close(listener);
}

/* A message on which connection after connection breaks is given up, and does not block what is behind it. */
static void a_poison_message_is_given_up(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    int listener = raw_listen(path.text);
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_attempts(options, 3));
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 20));
    udsipc_writer *writer = watched_writer(path.text, options, &failures);
    CHECK_OK(udsipc_writer_start(writer));
    static uint8_t poison[4000000];
    CHECK_OK(udsipc_write_message(writer, poison, sizeof poison));
    CHECK_OK(write_numbered(writer, 0, 1));
    CHECK_OK(write_numbered(writer, 0, 2));
    uint8_t frame[16];
    for (int attempt = 0; attempt < 3; attempt++) {
        int peer = raw_accept(listener);
        CHECK(raw_read(peer, frame, sizeof frame));
        close(peer);
    }
    int peer = raw_accept(listener);
    for (uint32_t i = 1; i <= 2; i++) {
        struct numbered message;
        size_t len;
        CHECK(raw_read_frame(peer, frame, sizeof frame, &len));
        CHECK_INT(len, sizeof message);
        memcpy(&message, frame, sizeof message);
        CHECK_INT(message.number, i);
    }
    WAIT_UNTIL(writer_metrics(writer).sent == 2);
    CHECK_INT(writer_metrics(writer).abandoned, 1);
    CHECK_INT(writer_metrics(writer).queue_depth, 0);
    CHECK_INT(writer_metrics(writer).queue_bytes, 0);
    CHECK_INT(writer_metrics(writer).failed, 3);
    CHECK_INT(writer_metrics(writer).retried, 2);
    CHECK_INT(writer_metrics(writer).connections, 4);
    WAIT_UNTIL(failures_of(&failures, UDSIPC_ERR_NO_CONSUMER, "write failure") == 1);
    WAIT_UNTIL(failures_of(&failures, UDSIPC_ERR_NO_CONSUMER, "write failure after reconnect") >= 1);
    WAIT_UNTIL(failures_of(&failures, -1, NULL) >= 3);
    udsipc_writer_free(writer);
    close(peer);
    close(listener);
}

/* With 0 attempts allowed there is no limit: it is tried until somebody takes it. */
static void without_a_limit_a_message_is_tried_for_ever(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    int listener = raw_listen(path.text);
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_attempts(options, 0));
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 5));
    udsipc_writer *writer = watched_writer(path.text, options, &failures);
    CHECK_OK(udsipc_writer_start(writer));
    static uint8_t large[4000000], frame[sizeof large];
    CHECK_OK(udsipc_write_message(writer, large, sizeof large));
    for (int attempt = 0; attempt < 20; attempt++) {
        int peer = raw_accept(listener);
        CHECK(raw_read(peer, frame, 16));
        close(peer);
    }
    int peer = raw_accept(listener);
    size_t len;
    CHECK(raw_read_frame(peer, frame, sizeof frame, &len));
    CHECK_INT(len, sizeof large);
    WAIT_UNTIL(writer_metrics(writer).sent == 1);
    CHECK_INT(writer_metrics(writer).failed, 20);
    CHECK_INT(writer_metrics(writer).abandoned, 0);
    udsipc_writer_free(writer);
    close(peer);
    close(listener);
}

/* A real one: the reader's limit is below the writer's. The reader refuses it each time, and the rest arrives. */
static void a_message_too_large_for_the_reader(void)
{
    struct path path = in_scratch("s");
    struct failures reader_failures = FAILURES, failures = FAILURES;
    struct inbox inbox = INBOX;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_max_message_size(options, 1000));
    udsipc_reader *reader = watched_reader(path.text, &inbox, options, &reader_failures);
    CHECK_OK(udsipc_reader_start(reader));
    udsipc_writer_options *writer_options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(writer_options, 20));
    CHECK_OK(udsipc_writer_options_set_acknowledge(writer_options, 0)); /* else the first attempt would be the last */
    udsipc_writer *writer = watched_writer(path.text, writer_options, &failures);
    CHECK_OK(udsipc_writer_start(writer));
    static uint8_t poison[4000000];
    CHECK_OK(udsipc_write_message(writer, poison, sizeof poison));
    WAIT_UNTIL(writer_metrics(writer).abandoned == 1);
    WAIT_UNTIL(failures_of(&reader_failures, UDSIPC_ERR_MESSAGE_TOO_LARGE, "message too large") == 5);
    CHECK_OK(write_numbered(writer, 0, 0));
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    WAIT_UNTIL(writer_metrics(writer).sent == 1);
    account_is_exact(writer, 2);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* ---- a reader that takes nothing ---- */

/* Reported after write_timeout, and nothing else: the connection, the order and the partial frame stay. */
static void backpressure_keeps_everything(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    int listener = raw_listen(path.text);
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_write_timeout_ms(options, 100));
    udsipc_writer *writer = watched_writer(path.text, options, &failures);
    CHECK_OK(udsipc_writer_start(writer));
    int peer = raw_accept(listener);
    static uint8_t message[10000], frame[sizeof message];
    const uint32_t count = 500;
    for (uint32_t i = 0; i < count; i++) {
        memcpy(message, &i, sizeof i);
        CHECK_OK(udsipc_write_message(writer, message, sizeof message));
    }
    WAIT_UNTIL(failures_of(&failures, UDSIPC_ERR_BACKPRESSURE, NULL) >= 1);
    CHECK_INT(udsipc_writer_is_connected(writer), 1);
    account_is_exact(writer, count);
    CHECK(writer_metrics(writer).queue_depth > 0);
    for (uint32_t i = 0; i < count; i++) {
        size_t len;
        uint32_t number;
        CHECK(raw_read_frame(peer, frame, sizeof frame, &len));
        CHECK_INT(len, sizeof message);
        memcpy(&number, frame, sizeof number);
        CHECK_INT(number, i);
    }
    WAIT_UNTIL(writer_metrics(writer).sent == count);
    CHECK_INT(writer_metrics(writer).connections, 1);
    CHECK_INT(writer_metrics(writer).retried, 0);
    CHECK_INT(writer_metrics(writer).abandoned, 0);
    CHECK_INT(failures_of(&failures, -1, NULL), failures_of(&failures, UDSIPC_ERR_BACKPRESSURE, NULL));
    udsipc_writer_free(writer);
    close(peer);
    close(listener);
}

/* A full backlog (EAGAIN) is waited out within dial_timeout: it is no reason to back off for long, and no failure. */
static void a_full_backlog_is_waited_out(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    int listener = raw_listen(path.text);
    CHECK(listen(listener, 0) == 0);
    int filler = raw_connect(path.text);
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_dial_timeout_ms(options, PATIENCE_MS));
    udsipc_writer *writer = watched_writer(path.text, options, &failures);
    CHECK_OK(udsipc_writer_start(writer));
    CHECK_OK(write_numbered(writer, 0, 0));
    STAYS_TRUE(200, udsipc_writer_is_connected(writer) == 0);
    int first = raw_accept(listener);
    int peer = raw_accept(listener);
    uint8_t frame[16];
    size_t len;
    CHECK(raw_read_frame(peer, frame, sizeof frame, &len));
    CHECK_INT(failures_of(&failures, -1, NULL), 0);
    CHECK_INT(writer_metrics(writer).connect_failures, 0);
    udsipc_writer_free(writer);
    close(filler);
    close(first);
    close(peer);
    close(listener);
}

/* Stop is not kept waiting by it. */
static void stop_ends_a_wait_for_a_full_backlog(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    int listener = raw_listen(path.text);
    CHECK(listen(listener, 0) == 0);
    int filler = raw_connect(path.text);
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_dial_timeout_ms(options, UDSIPC_WAIT_FOREVER));
    udsipc_writer *writer = watched_writer(path.text, options, &failures);
    CHECK_OK(udsipc_writer_start(writer));
    CHECK_OK(write_numbered(writer, 0, 0));
    uint64_t begun = now_ms();
    CHECK(udsipc_writer_stop(writer, 300) != UDSIPC_OK);
    CHECK(now_ms() - begun < 5000);
    CHECK_INT(writer_metrics(writer).abandoned, 1);
    udsipc_writer_free(writer);
    close(filler);
    close(listener);
}

static const struct scenario scenarios[] = {
    SCENARIO(nobody_listens),
    SCENARIO(messages_wait_for_the_reader),
    SCENARIO(reader_restarts_lose_nothing),
    SCENARIO(idle_peer_close_is_noticed),
    SCENARIO(killed_readers),
    SCENARIO(unread_messages_are_suspected_lost),
    SCENARIO(flush_is_told_of_a_loss),
    SCENARIO(read_messages_are_not_suspected_lost),
    SCENARIO(a_cut_frame_is_sent_again_whole),
    SCENARIO(a_poison_message_is_given_up),
    SCENARIO(without_a_limit_a_message_is_tried_for_ever),
    SCENARIO(a_message_too_large_for_the_reader),
    SCENARIO(backpressure_keeps_everything),
    SCENARIO(a_full_backlog_is_waited_out),
    SCENARIO(stop_ends_a_wait_for_a_full_backlog),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
