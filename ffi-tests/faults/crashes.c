/* Processes that are killed, stopped, frozen, restarted, or just exit: the account holds all the same. */
#include "../support/account.h"

static struct reader_job reader_job;
static struct writer_job writer_jobs[4];
static pid_t writers[4];

static void start_load(uint32_t count, uint32_t burst, uint32_t longest)
{
    static struct path path;
    path = in_scratch("s");
    open_ledger(count);
    reader_job.path = path.text;
    for (uint32_t i = 0; i < count; i++) {
        writer_jobs[i] = (struct writer_job){.path = path.text, .first = i, .count = 1, .burst = burst,
                                             .longest = longest, .configure = writer_jobs[i].configure};
        writers[i] = start_writers(&writer_jobs[i]);
    }
}

static void unacknowledged(udsipc_writer_options *options)
{
    CHECK_OK(udsipc_writer_options_set_acknowledge(options, 0));
}

/* kill -9 at any moment, and writers that ask for no acknowledgement: what was sent and not read is suspected, what was not
   sent goes to the next reader. With acknowledgement: see kills.c. */
static void reader_killed_under_load(void)
{
    for (int i = 0; i < 3; i++)
        writer_jobs[i].configure = unacknowledged;
    start_load(3, 40, 4000);
    ledger->unacknowledged = true;
    for (int kills = 0; kills < 60; kills++) {
        pid_t reader = start_reader(&reader_job);
        WAIT_DELIVERED(100 + kills * 7);
        kill_reader(reader);
    }
    pid_t reader = start_reader(&reader_job);
    WAIT_DELIVERED(100);
    end_writers(writers, 3);
    end_readers(reader);
    struct sums all = settle();
    CHECK_INT(all.abandoned, 0);
    CHECK(all.connections >= 60);
}

/* Sixty-four writers of one process wait for each other's turns, and send the end of a burst along with its beginning. The
   small buffer lets most sends end in the middle of one of the two batches. */
static void small_buffer(udsipc_writer_options *options)
{
    CHECK_OK(udsipc_writer_options_set_write_buffer_size(options, 24 << 10));
}

static void reader_of_many_writers_killed(void)
{
    struct path path = in_scratch("s");
    struct writer_job job = {.path = path.text, .count = 64, .burst = 70, .longest = 2000, .configure = small_buffer};
    open_ledger(job.count);
    reader_job.path = path.text;
    writers[0] = start_writers(&job);
    for (int kills = 0; kills < 40; kills++) {
        pid_t reader = start_reader(&reader_job);
        WAIT_DELIVERED(5000 + kills * 977);
        kill_reader(reader);
    }
    pid_t reader = start_reader(&reader_job);
    WAIT_DELIVERED(1000);
    end_writers(writers, 1);
    end_readers(reader);
    struct sums all = settle();
    CHECK_INT(all.abandoned, 0);
    CHECK(all.connections >= 40 * job.count / 2);
}

/* A reader that is killed while it holds back many unread messages. */
static void reader_killed_while_frozen(void)
{
    start_load(2, 50, 1000);
    for (int kills = 0; kills < 5; kills++) {
        pid_t reader = start_reader(&reader_job);
        WAIT_DELIVERED(500);
        atomic_store(&ledger->frozen, 2);
        WAIT_UNTIL(atomic_load(&ledger->in_callback) == 2);
        uint64_t refused = ledger->books[0].refused + ledger->books[1].refused;
        WAIT_UNTIL(ledger->books[0].refused + ledger->books[1].refused > refused + 100);
        kill_reader(reader);
        atomic_store(&ledger->frozen, 0);
        atomic_store(&ledger->in_callback, 0);
    }
    pid_t reader = start_reader(&reader_job);
    WAIT_DELIVERED(100);
    end_writers(writers, 2);
    end_readers(reader);
    struct sums all = settle();
    CHECK_INT(all.missing, 0);
    CHECK_INT(all.suspected_lost, 0);
}

static void impatient(udsipc_writer_options *options)
{
    CHECK_OK(udsipc_writer_options_set_write_timeout_ms(options, 200));
}

/* SIGSTOP for seconds: the writers say so, keep everything, and go on over the same connection. */
static void reader_stopped_for_seconds(void)
{
    writer_jobs[0].configure = writer_jobs[1].configure = impatient;
    start_load(2, 40, 4000);
    pid_t reader = start_reader(&reader_job);
    WAIT_DELIVERED(1000);
    stop_process(reader);
    uint64_t begun = now_ms();
    WAIT_UNTIL(now_ms() - begun > 2500);
    CHECK(ledger->books[0].backpressure >= 2 && ledger->books[1].backpressure >= 2);
    CHECK(kill(reader, SIGCONT) == 0);
    WAIT_DELIVERED(1000);
    end_writers(writers, 2);
    end_readers(reader);
    settle_without_loss();
    CHECK_INT(ledger->books[0].connections + ledger->books[1].connections, 2);
}

/* A callback that does not come back for seconds delays its own connection only. */
static void reader_frozen_in_a_callback(void)
{
    start_load(3, 20, 2000);
    pid_t reader = start_reader(&reader_job);
    WAIT_DELIVERED(1000);
    atomic_store(&ledger->frozen, 1);
    WAIT_UNTIL(atomic_load(&ledger->in_callback) == 1);
    uint64_t stuck = atomic_load(&ledger->books[0].delivered), others = delivered_by(1, 3);
    uint64_t begun = now_ms();
    WAIT_UNTIL(now_ms() - begun > 2000);
    CHECK(delivered_by(1, 3) > others + 500);
    CHECK_INT(atomic_load(&ledger->books[0].delivered), stuck);
    atomic_store(&ledger->frozen, 0);
    WAIT_UNTIL(atomic_load(&ledger->books[0].delivered) > stuck);
    end_writers(writers, 3);
    end_readers(reader);
    settle_without_loss();
}

/* A thousand readers, one after the other, in one process. */
static void restart_reader_process(void *argument)
{
    const struct reader_job *job = (const struct reader_job *)argument;
    for (int restart = 0; restart < 1000; restart++) {
        udsipc_reader *reader = make_reader(job);
        uint64_t before = delivered_by(0, ledger->writers);
        CHECK_OK(udsipc_reader_start(reader));
        WAIT_UNTIL(delivered_by(0, ledger->writers) > before);
        end_reader(reader, false);
    }
    reader_process(argument);
}

static void quick_to_return(udsipc_writer_options *options)
{
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 2));
}

static void reader_restarted_a_thousand_times(void)
{
    writer_jobs[0].configure = writer_jobs[1].configure = quick_to_return;
    start_load(2, 2, 200);
    pid_t reader = start_child(restart_reader_process, &reader_job);
    uint64_t deadline = now_ms() + 120000;
    while (atomic_load(&ledger->generation) == 0) {
        CHECK(now_ms() < deadline);
        look_again_soon();
    }
    CHECK_INT(atomic_load(&ledger->readers), 1000);
    end_writers(writers, 2);
    end_readers(reader);
    settle_without_loss();
    CHECK_INT(ledger->errors_sum, 0);
}

/* ---- a writer that is killed ---- */

static void note_that_it_stands_still(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)os_errno, (void)context, (void)userdata;
    if (status == UDSIPC_ERR_BACKPRESSURE) atomic_store(&ledger->done, ledger->order);
}

/* One message that no kernel buffer holds, so that its frame is cut for certain. */
static void send_too_much(void *argument)
{
    const char *path = (const char *)argument;
    udsipc_writer *writer = NULL;
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_write_timeout_ms(options, 50));
    CHECK_OK(udsipc_writer_options_set_error_callback(options, note_that_it_stands_still, NULL));
    CHECK_OK(udsipc_writer_new(path, options, &writer));
    CHECK_OK(udsipc_writer_start(writer));
    uint8_t *much = (uint8_t *)calloc(1, 8 << 20);
    CHECK(much != NULL);
    CHECK_OK(udsipc_write_message(writer, "hello", 5));
    CHECK_OK(udsipc_write_message(writer, much, 8 << 20));
    while (true)
        pause();
}

/* What a killed writer leaves is whole messages and one cut frame: one error, and nobody else notices. */
static void writer_killed_inside_a_frame(void)
{
    start_load(1, 10, 500);
    ledger->strangers = true;
    pid_t reader = start_reader(&reader_job);
    for (uint32_t kills = 1; kills <= 10; kills++) {
        stop_process(reader);
        atomic_store(&ledger->order, kills);
        pid_t victim = start_child(send_too_much, (void *)(uintptr_t)reader_job.path);
        WAIT_UNTIL(atomic_load(&ledger->done) == kills);
        kill_child(victim);
        CHECK(kill(reader, SIGCONT) == 0);
        WAIT_UNTIL(atomic_load(&ledger->errors) == kills);
        WAIT_UNTIL(atomic_load(&ledger->active) == 1);
    }
    WAIT_DELIVERED(100);
    end_writers(writers, 1);
    end_readers(reader);
    settle_without_loss();
    CHECK_INT(ledger->errors_sum, 10);
    CHECK_INT(ledger->delivered_sum, ledger->books[0].delivered + 10);
}

/* ---- exit without stop ---- */

static void join_exited(pid_t child, int code)
{
    int status = 0;
    uint64_t deadline = now_ms() + PATIENCE_MS;
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (now_ms() > deadline) {
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
            fail(__FILE__, __LINE__, "the child does not exit");
        }
        look_again_soon();
    }
    CHECK(WIFEXITED(status));
    CHECK_INT(WEXITSTATUS(status), code);
}

static udsipc_reader *host_reader;
static udsipc_writer *host_writer;
static _Atomic uint64_t host_received;
static uint64_t exit_at = UINT64_MAX;

static int32_t receive_or_exit(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)data, (void)len, (void)connection, (void)userdata;
    if (atomic_fetch_add(&host_received, 1) == exit_at) exit(7);
    return 0;
}

static void *write_for_ever(void *argument)
{
    while (true)
        IGNORE(udsipc_write_message_timeout(host_writer, argument, 100, 10));
    return NULL;
}

static void start_host(void)
{
    static char text[100];
    struct path path = in_scratch("host");
    CHECK_OK(udsipc_reader_new(path.text, receive_or_exit, NULL, NULL, &host_reader));
    host_writer = new_writer(path.text);
    CHECK_OK(udsipc_reader_start(host_reader));
    CHECK_OK(udsipc_writer_start(host_writer));
    pthread_t thread;
    for (int i = 0; i < 2; i++)
        CHECK(pthread_create(&thread, NULL, write_for_ever, text) == 0);
    WAIT_UNTIL(atomic_load(&host_received) > 1000);
}

static void exit_under_load(void *argument)
{
    (void)argument;
    start_host();
    exit(7);
}

static void exit_inside_a_callback(void *argument)
{
    (void)argument;
    exit_at = 2000;
    start_host();
    while (true)
        pause();
}

static void free_both(void)
{
    udsipc_reader_free(host_reader);
}

/* Handlers of exit run while the library's threads and the host's go on. */
static void free_in_an_exit_handler(void *argument)
{
    (void)argument;
    CHECK(atexit(free_both) == 0);
    start_host();
    exit(7);
}

static void *exit_now(void *argument)
{
    (void)argument;
    exit(7);
}

static void exit_while_another_thread_stops(void *argument)
{
    (void)argument;
    start_host();
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, exit_now, NULL) == 0);
    udsipc_reader_stop(host_reader, 1000);
    udsipc_writer_stop(host_writer, 1000);
    while (true)
        pause();
}

static void host_exits_without_stop(void)
{
    void (*const ways[])(void *) = {exit_under_load, exit_inside_a_callback, free_in_an_exit_handler,
                                    exit_while_another_thread_stops};
    for (int round = 0; round < 15; round++) {
        for (size_t way = 0; way < sizeof ways / sizeof *ways; way++)
            join_exited(start_child(ways[way], NULL), 7);
    }
    /* What they left at the path is stale, and no hindrance. */
    struct inbox inbox = INBOX;
    udsipc_reader_free(started_reader(in_scratch("host").text, &inbox));
}

static const struct scenario scenarios[] = {
    SCENARIO(reader_killed_under_load),
    SCENARIO(reader_of_many_writers_killed),
    SCENARIO(reader_killed_while_frozen),
    SCENARIO(reader_stopped_for_seconds),
    SCENARIO(reader_frozen_in_a_callback),
    SCENARIO(reader_restarted_a_thousand_times),
    SCENARIO(writer_killed_inside_a_frame),
    SCENARIO(host_exits_without_stop),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
