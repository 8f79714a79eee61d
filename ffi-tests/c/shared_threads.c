/* Many writers in one process share few threads. No writer notices the others: not their blocked callbacks, not their
   traffic, not their end. */
#include "../support/check.h"

#define WRITERS 50

/* As many threads as processors at most, and one more for each that is away in a callback. */
static size_t processors(void)
{
    return (size_t)sysconf(_SC_NPROCESSORS_ONLN);
}

static void fifty_writers_keep_their_order(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer *writers[WRITERS];
    for (uint32_t i = 0; i < WRITERS; i++)
        writers[i] = started_writer(path.text);
    for (uint32_t n = 0; n < 1000; n++) {
        for (uint32_t i = 0; i < WRITERS; i++)
            while (write_numbered(writers[i], i, n) == UDSIPC_ERR_BUFFER_FULL)
                look_again_soon();
    }
    WAIT_UNTIL(inbox_count(&inbox) == WRITERS * 1000);
    CHECK_INT(inbox.gaps, 0);
    for (uint32_t i = 0; i < WRITERS; i++) {
        CHECK_OK(udsipc_writer_stop(writers[i], PATIENCE_MS));
        CHECK_INT(writer_metrics(writers[i]).sent, 1000);
        udsipc_writer_free(writers[i]);
    }
    udsipc_reader_free(reader);
}

/* Without a reader in the process, whose pool has threads of its own, the count is exact. */
static void a_hundred_idle_writers_are_no_more_threads_than_one(void)
{
    struct path path = in_scratch("s");
    int listener = raw_listen(path.text);
    size_t before = threads(), fds = open_fds();
    udsipc_writer *writers[100];
    int accepted[100];
    for (uint32_t i = 0; i < 100; i++) {
        writers[i] = started_writer(path.text);
        accepted[i] = raw_accept(listener);
    }
    CHECK(threads() - before >= 1);
    CHECK(threads() - before <= processors() + 2);
    for (uint32_t i = 0; i < 100; i++) {
        WAIT_UNTIL(udsipc_writer_is_connected(writers[i]) == 1);
        CHECK_OK(udsipc_writer_stop(writers[i], PATIENCE_MS));
        if (i < 99) CHECK(threads() - before >= 1);
        close(accepted[i]);
    }
    WAIT_UNTIL(threads() == before); /* a thread that has been joined is in /proc for a moment more */
    for (uint32_t i = 0; i < 100; i++)
        udsipc_writer_free(writers[i]);
    CHECK_INT(open_fds(), fds);
    close(listener);
}

/* The threads go with the last writer, and come again with the next one. */
static void the_last_stop_takes_the_threads_along(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    for (uint32_t round = 0; round < 20; round++) {
        udsipc_writer *first = started_writer(path.text);
        udsipc_writer *second = started_writer(path.text);
        CHECK_OK(write_numbered(first, 0, round));
        CHECK_OK(udsipc_writer_stop(first, PATIENCE_MS));
        CHECK_OK(write_numbered(second, 1, round));
        CHECK_OK(udsipc_writer_stop(second, PATIENCE_MS));
        udsipc_writer_free(first);
        udsipc_writer_free(second);
        WAIT_UNTIL(inbox_count(&inbox) == 2 * (round + 1));
    }
    CHECK_INT(inbox.gaps, 0);
    udsipc_reader_free(reader);
}

struct away {
    struct gate gate;
    struct path path;
    udsipc_writer *other;
    struct inbox *inbox;
    uint32_t written;
};

static void block_at_gate(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)status, (void)os_errno, (void)context;
    gate_pass(&((struct away *)userdata)->gate);
}

/* Of three writers, two are blocked in their error callbacks for as long as it takes. The third one sends, is stopped,
   and a fourth one starts, sends and stops. */
static void a_blocked_error_callback_delays_its_own_writer_only(void)
{
    struct path path = in_scratch("s"), nobody = in_scratch("nobody");
    struct inbox inbox = INBOX;
    struct away away = {.gate = GATE};
    udsipc_writer *blocked[2];
    for (size_t i = 0; i < 2; i++) {
        udsipc_writer_options *options = udsipc_writer_options_new();
        CHECK_OK(udsipc_writer_options_set_error_callback(options, block_at_gate, &away));
        CHECK_OK(udsipc_writer_new(nobody.text, options, &blocked[i]));
        udsipc_writer_options_free(options);
        CHECK_OK(udsipc_writer_start(blocked[i]));
    }
    WAIT_UNTIL(gate_arrived(&away.gate) == 2);
    udsipc_reader *reader = started_reader(path.text, &inbox);
    for (uint32_t i = 0; i < 2; i++) {
        udsipc_writer *writer = started_writer(path.text);
        for (uint32_t n = 0; n < 5000; n++)
            CHECK_OK(write_numbered(writer, i, n));
        CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
        CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
        udsipc_writer_free(writer);
    }
    CHECK_INT(inbox_count(&inbox), 10000);
    CHECK_INT(inbox.gaps, 0);
    gate_open(&away.gate);
    for (size_t i = 0; i < 2; i++) {
        CHECK_OK(udsipc_writer_stop(blocked[i], PATIENCE_MS));
        udsipc_writer_free(blocked[i]);
    }
    udsipc_reader_free(reader);
}

/* In the callback of one writer all of another one's life can pass. */
static void live_and_die(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)status, (void)os_errno, (void)context;
    struct away *away = (struct away *)userdata;
    if (away->written > 0) return;
    CHECK_OK(udsipc_writer_flush(away->other, PATIENCE_MS));
    CHECK_OK(udsipc_writer_stop(away->other, PATIENCE_MS));
    udsipc_writer *writer = started_writer(away->path.text);
    for (uint32_t n = 0; n < 100; n++)
        CHECK_OK(write_numbered(writer, 1, n));
    CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    udsipc_writer_free(writer);
    away->written = 100;
    gate_pass(&away->gate);
}

static void a_callback_may_do_anything_with_other_writers(void)
{
    struct path nobody = in_scratch("nobody");
    struct inbox inbox = INBOX;
    struct away away = {.gate = GATE, .path = in_scratch("s"), .inbox = &inbox};
    gate_open(&away.gate);
    udsipc_reader *reader = started_reader(away.path.text, &inbox);
    away.other = started_writer(away.path.text);
    for (uint32_t n = 0; n < 100; n++)
        CHECK_OK(write_numbered(away.other, 0, n));
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_error_callback(options, live_and_die, &away));
    udsipc_writer *writer = NULL;
    CHECK_OK(udsipc_writer_new(nobody.text, options, &writer));
    udsipc_writer_options_free(options);
    CHECK_OK(udsipc_writer_start(writer));
    WAIT_UNTIL(gate_arrived(&away.gate) == 1);
    WAIT_UNTIL(inbox_count(&inbox) == 200);
    CHECK_INT(inbox.gaps, 0);
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    udsipc_writer_free(writer);
    udsipc_writer_free(away.other);
    udsipc_reader_free(reader);
}

/* A stop keeps its time however busy the threads are with others. A busy machine may delay some of them. */
static void a_stop_does_not_wait_for_busy_writers(void)
{
    struct path path = in_scratch("s"), nobody = in_scratch("nobody");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer *busy[20];
    uint32_t written[20] = {0}, late = 0;
    for (uint32_t i = 0; i < 20; i++)
        busy[i] = started_writer(path.text);
    for (uint32_t round = 0; round < 20; round++) {
        for (uint32_t i = 0; i < 20; i++)
            while (write_numbered(busy[i], i, written[i]) == UDSIPC_OK)
                if (++written[i] % 500 == 0) break;
        udsipc_writer *writer = started_writer(nobody.text);
        CHECK_OK(udsipc_write_message(writer, "x", 1));
        uint64_t before = now_ms();
        CHECK_STATUS(udsipc_writer_stop(writer, 0), UDSIPC_ERR_TIMEOUT);
        late += now_ms() - before > 100;
        CHECK(UNDER_CHECKER || now_ms() - before <= 2000);
        CHECK_INT(writer_metrics(writer).abandoned, 1);
        udsipc_writer_free(writer);
    }
    CHECK(UNDER_CHECKER || late <= 5);
    uint64_t all = 0;
    for (uint32_t i = 0; i < 20; i++) {
        CHECK_OK(udsipc_writer_stop(busy[i], PATIENCE_MS));
        udsipc_writer_free(busy[i]);
        all += written[i];
    }
    WAIT_UNTIL(inbox_count(&inbox) == all);
    CHECK_INT(inbox.gaps, 0);
    udsipc_reader_free(reader);
}

/* ---- starting and stopping from many threads ---- */

static void *come_and_go(void *argument)
{
    const struct path *path = (const struct path *)argument;
    for (int round = 0; round < 50; round++) {
        udsipc_writer *writer = started_writer(path->text);
        CHECK_OK(udsipc_write_message(writer, "x", 1));
        CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
        CHECK_INT(writer_metrics(writer).sent, 1);
        udsipc_writer_free(writer);
    }
    return NULL;
}

static int32_t count_one(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)data, (void)len, (void)connection;
    atomic_fetch_add((atomic_uint *)userdata, 1);
    return 0;
}

static void writers_come_and_go_in_eight_threads(void)
{
    struct path path = in_scratch("s");
    static atomic_uint received;
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, count_one, &received, NULL, &reader));
    CHECK_OK(udsipc_reader_start(reader));
    pthread_t all[8];
    for (size_t i = 0; i < 8; i++)
        CHECK(pthread_create(&all[i], NULL, come_and_go, &path) == 0);
    for (size_t i = 0; i < 8; i++)
        pthread_join(all[i], NULL);
    WAIT_UNTIL(atomic_load(&received) == 8 * 50);
    udsipc_reader_free(reader);
}

/* ---- fork ---- */

struct inheritance {
    udsipc_writer *writers[3];
    size_t fds;
    struct path path;
};

/* In the child: the parent's descriptors are closed already, and new writers have threads of their own. */
static void free_in_child(void *argument)
{
    struct inheritance *inherited = (struct inheritance *)argument;
    CHECK_INT(open_fds(), inherited->fds);
    for (size_t i = 0; i < 3; i++)
        udsipc_writer_free(inherited->writers[i]);
    CHECK_INT(open_fds(), inherited->fds);
    for (uint32_t i = 1; i < 3; i++) {
        udsipc_writer *writer = started_writer(inherited->path.text);
        CHECK_OK(write_numbered(writer, i, 0));
        CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
        udsipc_writer_free(writer);
    }
    CHECK_INT(open_fds(), inherited->fds);
}

static void a_forked_child_has_threads_of_its_own(void)
{
    struct inbox inbox = INBOX;
    struct inheritance inherited = {.path = in_scratch("s"), .fds = open_fds()};
    udsipc_reader *reader = started_reader(inherited.path.text, &inbox);
    for (size_t i = 0; i < 3; i++)
        inherited.writers[i] = started_writer(inherited.path.text);
    for (size_t i = 0; i < 3; i++)
        WAIT_UNTIL(udsipc_writer_is_connected(inherited.writers[i]));
    WAIT_UNTIL(reader_metrics(reader).connections == 3);
    join_child(start_child(free_in_child, &inherited));
    WAIT_UNTIL(inbox_count(&inbox) == 2);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK_OK(write_numbered(inherited.writers[i], 10 + i, 0));
        CHECK_OK(udsipc_writer_stop(inherited.writers[i], PATIENCE_MS));
        udsipc_writer_free(inherited.writers[i]);
    }
    WAIT_UNTIL(inbox_count(&inbox) == 5);
    udsipc_reader_free(reader);
}

/* ---- what a review found ---- */

/* The last free waited for a thread that waited for a lock of the one that freed. */
static void regress_free_while_a_thread_starts(void)
{
    struct path path = in_scratch("s");
    int listener = raw_listen(path.text);
    fcntl(listener, F_SETFL, O_NONBLOCK);
    uint64_t end = now_ms() + 1500;
    for (unsigned round = 0; now_ms() < end; round++) {
        udsipc_writer *writers[3];
        for (size_t i = 0; i < 3; i++)
            writers[i] = started_writer(path.text);
        for (size_t i = 0; i < 9; i++)
            CHECK_OK(udsipc_write_message(writers[i / 3], "x", 1));
        for (size_t i = 0; i < 3; i++)
            udsipc_writer_free(writers[i]);
        for (int accepted; (accepted = accept(listener, NULL, NULL)) >= 0;)
            close(accepted);
    }
    close(listener);
}

struct ended {
    udsipc_writer *writer;
    atomic_bool stopped, quit;
    atomic_uint late;
};

static void note_late(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)status, (void)os_errno, (void)context;
    struct ended *ended = (struct ended *)userdata;
    if (atomic_load(&ended->stopped)) atomic_fetch_add(&ended->late, 1);
}

static void *flush_again_and_again(void *argument)
{
    struct ended *ended = (struct ended *)argument;
    while (!atomic_load(&ended->quit))
        IGNORE(udsipc_writer_flush(ended->writer, 0));
    return NULL;
}

/* A thread that knew that the writer ran, and waited for its turn while it was stopped, dialled again and reported. */
static void regress_nothing_happens_after_stop(void)
{
    struct path nobody = in_scratch("nobody");
    udsipc_writer *other = started_writer(nobody.text);
    uint64_t end = now_ms() + 1500;
    for (unsigned round = 0; now_ms() < end; round++) {
        struct ended ended = {0};
        udsipc_writer_options *options = udsipc_writer_options_new();
        CHECK_OK(udsipc_writer_options_set_error_callback(options, note_late, &ended));
        CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 1));
        CHECK_OK(udsipc_writer_new(nobody.text, options, &ended.writer));
        udsipc_writer_options_free(options);
        CHECK_OK(udsipc_write_message(ended.writer, "x", 1));
        pthread_t flushing[3];
        for (size_t i = 0; i < 3; i++)
            CHECK(pthread_create(&flushing[i], NULL, flush_again_and_again, &ended) == 0);
        CHECK_OK(udsipc_writer_start(ended.writer));
        usleep(500 + round * 37 % 2000);
        CHECK_STATUS(udsipc_writer_stop(ended.writer, 0), UDSIPC_ERR_TIMEOUT);
        atomic_store(&ended.stopped, true);
        uint64_t dials = writer_metrics(ended.writer).connect_failures;
        usleep(1500);
        CHECK_INT(writer_metrics(ended.writer).connect_failures, dials);
        atomic_store(&ended.quit, true);
        for (size_t i = 0; i < 3; i++)
            pthread_join(flushing[i], NULL);
        CHECK_INT(atomic_load(&ended.late), 0);
        udsipc_writer_free(ended.writer);
    }
    udsipc_writer_free(other);
}

static void take_long_over_a_drain(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)status, (void)os_errno, (void)userdata;
    if (strstr(context, "drain") != NULL) usleep(60000);
}

/* While the stop reported what it had given up, another thread found nothing left, and its answer was told. */
static void regress_the_first_ending_is_the_one_that_is_told(void)
{
    struct path nobody = in_scratch("nobody");
    for (int round = 0; round < 10; round++) {
        udsipc_writer_options *options = udsipc_writer_options_new();
        CHECK_OK(udsipc_writer_options_set_error_callback(options, take_long_over_a_drain, NULL));
        CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 5));
        udsipc_writer *writer = NULL;
        CHECK_OK(udsipc_writer_new(nobody.text, options, &writer));
        udsipc_writer_options_free(options);
        CHECK_OK(udsipc_write_message(writer, "x", 1));
        CHECK_OK(udsipc_writer_start(writer));
        WAIT_UNTIL(writer_metrics(writer).connect_failures > 2);
        CHECK_STATUS(udsipc_writer_stop(writer, 0), UDSIPC_ERR_TIMEOUT);
        udsipc_writer_free(writer);
    }
}

static void *stop_at_once(void *writer)
{
    udsipc_writer_stop((udsipc_writer *)writer, 0);
    return NULL;
}

/* One writer is being stopped, which waits for its callback; the stop of the other one, the last, waited for that too. */
static void regress_a_stop_does_not_wait_for_the_callback_of_another(void)
{
    struct path nobody = in_scratch("nobody");
    struct away away = {.gate = GATE};
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_error_callback(options, block_at_gate, &away));
    udsipc_writer *blocked = NULL, *other = started_writer(nobody.text);
    CHECK_OK(udsipc_writer_new(nobody.text, options, &blocked));
    udsipc_writer_options_free(options);
    CHECK_OK(udsipc_writer_start(blocked));
    WAIT_UNTIL(gate_arrived(&away.gate) == 1);
    pthread_t stopping;
    CHECK(pthread_create(&stopping, NULL, stop_at_once, blocked) == 0);
    /* It has begun when a message is refused. */
    WAIT_UNTIL(udsipc_write_message(blocked, "x", 1) == UDSIPC_ERR_STOPPED);
    CHECK_OK(udsipc_write_message(other, "x", 1));
    CHECK_STATUS(udsipc_writer_stop(other, 0), UDSIPC_ERR_TIMEOUT);
    udsipc_writer_free(other);
    gate_open(&away.gate);
    pthread_join(stopping, NULL);
    udsipc_writer_free(blocked);
}

struct busy {
    udsipc_writer *writers[4];
    atomic_bool quit;
};

static void *write_to_all(void *argument)
{
    struct busy *busy = (struct busy *)argument;
    for (unsigned i = 0; !atomic_load(&busy->quit); i++)
        IGNORE(udsipc_write_message(busy->writers[i % 4], "some hundred bytes or so", 24));
    return NULL;
}

static void *read_to_the_end(void *fd)
{
    static __thread uint8_t buffer[65536];
    while (read(*(int *)fd, buffer, sizeof buffer) > 0)
        ;
    return NULL;
}

/* A thread that was busy with others still had a turn of the writer before it when free returned: its descriptors were
   open for a moment more, and for ever in a child that was forked in that moment. */
static void regress_nothing_is_left_when_free_returns(void)
{
    struct path path = in_scratch("s"), other = in_scratch("other");
    int listener = raw_listen(path.text), strangers = raw_listen(other.text), accepted[4];
    fcntl(strangers, F_SETFL, O_NONBLOCK);
    struct busy busy = {.quit = false};
    pthread_t readers[4], producer;
    for (size_t i = 0; i < 4; i++) {
        busy.writers[i] = started_writer(path.text);
        accepted[i] = raw_accept(listener);
        CHECK(pthread_create(&readers[i], NULL, read_to_the_end, &accepted[i]) == 0);
    }
    for (size_t i = 0; i < 4; i++)
        WAIT_UNTIL(udsipc_writer_is_connected(busy.writers[i]) == 1);
    size_t fds = open_fds();
    CHECK(pthread_create(&producer, NULL, write_to_all, &busy) == 0);
    for (uint64_t end = now_ms() + 1500; now_ms() < end;) {
        udsipc_writer *writer = started_writer(other.text);
        for (size_t i = 0; i < 3; i++)
            CHECK_OK(udsipc_write_message(writer, "x", 1));
        udsipc_writer_free(writer);
        for (int one; (one = accept(strangers, NULL, NULL)) >= 0;)
            close(one);
        CHECK_INT(open_fds(), fds);
    }
    atomic_store(&busy.quit, true);
    pthread_join(producer, NULL);
    for (size_t i = 0; i < 4; i++) {
        CHECK_OK(udsipc_writer_stop(busy.writers[i], PATIENCE_MS));
        udsipc_writer_free(busy.writers[i]);
        pthread_join(readers[i], NULL);
        close(accepted[i]);
    }
    close(listener);
    close(strangers);
}

/* ---- a child of fork, and threads that waited in the library when it was forked ---- */

static udsipc_writer *writer_for_few(const char *path, uint32_t messages)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    udsipc_writer *writer = NULL;
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, messages));
    CHECK_OK(udsipc_writer_new(path, options, &writer));
    CHECK_OK(udsipc_writer_start(writer));
    udsipc_writer_options_free(options);
    return writer;
}

static void *wait_for_room_again_and_again(void *writer)
{
    while (udsipc_write_message_timeout((udsipc_writer *)writer, "x", 1, 1000) == UDSIPC_ERR_TIMEOUT)
        continue;
    return NULL;
}

static void *write_beyond_the_limit(void *path)
{
    udsipc_writer *writer = writer_for_few((const char *)path, 4);
    for (int i = 0; i < 500; i++)
        CHECK_OK(udsipc_write_message_timeout(writer, "hello", 5, PATIENCE_MS));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    udsipc_writer_free(writer);
    return NULL;
}

static void write_and_read_in_child(void *path)
{
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader((const char *)path, &inbox);
    pthread_t producers[4];
    for (size_t i = 0; i < 4; i++)
        CHECK(pthread_create(&producers[i], NULL, write_beyond_the_limit, path) == 0);
    for (size_t i = 0; i < 4; i++)
        pthread_join(producers[i], NULL);
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), 2000);
    udsipc_reader_free(reader);
}

/* Locks of the library remembered who waited, and a child waited for them, or followed pointers to their stacks. */
static void regress_a_forked_child_meets_no_thread_of_its_parent(void)
{
    struct path nobody = in_scratch("nobody"), path = in_scratch("child");
    udsipc_writer *writer = writer_for_few(nobody.text, 1);
    CHECK_OK(udsipc_write_message(writer, "x", 1));
    pthread_t waiting;
    CHECK(pthread_create(&waiting, NULL, wait_for_room_again_and_again, writer) == 0);
    for (int i = 0; i < 30; i++)
        join_child(start_child(write_and_read_in_child, path.text));
    CHECK_STATUS(udsipc_writer_stop(writer, 0), UDSIPC_ERR_TIMEOUT);
    pthread_join(waiting, NULL);
    udsipc_writer_free(writer);
}

static const struct scenario scenarios[] = {
    SCENARIO(fifty_writers_keep_their_order),
    SCENARIO(a_hundred_idle_writers_are_no_more_threads_than_one),
    SCENARIO(the_last_stop_takes_the_threads_along),
    SCENARIO(a_blocked_error_callback_delays_its_own_writer_only),
    SCENARIO(a_callback_may_do_anything_with_other_writers),
    SCENARIO(a_stop_does_not_wait_for_busy_writers),
    SCENARIO(writers_come_and_go_in_eight_threads),
    SCENARIO(a_forked_child_has_threads_of_its_own),
    SCENARIO(regress_free_while_a_thread_starts),
    SCENARIO(regress_nothing_happens_after_stop),
    SCENARIO(regress_the_first_ending_is_the_one_that_is_told),
    SCENARIO(regress_a_stop_does_not_wait_for_the_callback_of_another),
    SCENARIO(regress_nothing_is_left_when_free_returns),
    SCENARIO(regress_a_forked_child_meets_no_thread_of_its_parent),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
