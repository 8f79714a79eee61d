/* A host that makes life hard: signals all the time, callbacks that fail, stops that race with every other call. */
#include "../support/account.h"

#include <sys/time.h>

static struct path path;
static struct reader_job reader_job;

static void begin(uint32_t writers)
{
    path = in_scratch("s");
    reader_job.path = path.text;
    open_ledger(writers);
}

/* ---- interrupted calls ---- */

static _Atomic uint64_t signals;

static void count_signal(int number)
{
    (void)number;
    atomic_fetch_add(&signals, 1);
}

/* Without SA_RESTART, so that every call of the host's threads that can be interrupted is. */
static void let_signals_interrupt(int number)
{
    struct sigaction action = {.sa_handler = count_signal};
    CHECK(sigaction(number, &action, NULL) == 0);
}

static void start_timer(void)
{
    let_signals_interrupt(SIGALRM);
    struct itimerval every = {{0, 1000}, {0, 1000}};
    CHECK(setitimer(ITIMER_REAL, &every, NULL) == 0);
}

#define STORMED 3
static pthread_t stormed[STORMED];
static _Atomic bool storm_over;

static void *storm(void *argument)
{
    (void)argument;
    while (!atomic_load(&storm_over)) {
        for (size_t i = 0; i < STORMED; i++)
            pthread_kill(stormed[i], SIGUSR1);
        struct timespec breath = {0, 20000};
        nanosleep(&breath, NULL);
    }
    return NULL;
}

/* Every call that waits, in a thread that is interrupted all the time. */
static void *use_everything(void *argument)
{
    uint32_t id = (uint32_t)(uintptr_t)argument;
    struct book *book = &ledger->books[id];
    udsipc_writer_options *options = udsipc_writer_options_new();
    udsipc_writer *writer = NULL;
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 100));
    CHECK_OK(udsipc_writer_options_set_error_callback(options, count_writer_report, book));
    CHECK_OK(udsipc_writer_new(path.text, options, &writer));
    udsipc_writer_options_free(options);
    if (id % 2 == 0) CHECK_OK(udsipc_writer_start(writer));
    struct writer_page page = {.writer = writer, .book = book};
    uint8_t buffer[3000];
    uint32_t seed = id + 1;
    while (!atomic_load(&storm_over)) {
        size_t len = compose(buffer, id, atomic_load(&book->accepted), sizeof buffer, &seed);
        atomic_fetch_add(&book->begun, 1);
        if (id % 2 == 1) udsipc_writer_dispatch(writer, 0);
        CHECK_OK(udsipc_write_message_timeout(writer, buffer, len, PATIENCE_MS));
        uint64_t accepted = atomic_fetch_add(&book->accepted, 1);
        if (accepted % 50 == 0) CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
        if (accepted % 50 == 25) {
            /* Readers of its own: made, dispatched, stopped under fire. */
            char name[32];
            snprintf(name, sizeof name, "own%" PRIu32, id);
            struct inbox inbox = INBOX;
            udsipc_reader *reader = new_reader(in_scratch(name).text, &inbox);
            CHECK_OK(udsipc_reader_dispatch(reader, 2));
            CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
            udsipc_reader_free(reader);
        }
        audit(&page);
    }
    atomic_store(&book->stopped, (int32_t)udsipc_writer_stop(writer, PATIENCE_MS));
    audit(&page);
    atomic_store(&book->closed, true);
    udsipc_writer_free(writer);
    return NULL;
}

static void stormy_process(void *argument)
{
    (void)argument;
    let_signals_interrupt(SIGUSR1);
    start_timer();
    for (size_t i = 0; i < STORMED; i++)
        CHECK(pthread_create(&stormed[i], NULL, use_everything, (void *)(uintptr_t)i) == 0);
    pthread_t thunder;
    CHECK(pthread_create(&thunder, NULL, storm, NULL) == 0);
    WAIT_UNTIL(atomic_load(&ledger->writers_end));
    atomic_store(&storm_over, true);
    pthread_join(thunder, NULL);
    for (size_t i = 0; i < STORMED; i++)
        pthread_join(stormed[i], NULL);
    printf("%" PRIu64 " signals\n", atomic_load(&signals));
    CHECK(atomic_load(&signals) > 1000);
}

static void signal_storm(void)
{
    begin(STORMED);
    reader_job.before = start_timer;
    pid_t reader = start_reader(&reader_job);
    pid_t writers = start_child(stormy_process, NULL);
    uint64_t begun = now_ms();
    WAIT_UNTIL(now_ms() - begun > 2000 && delivered_by(0, STORMED) > 1000);
    end_writers(&writers, 1);
    end_readers(reader);
    settle_without_loss();
}

/* Both hosts have a timer of a millisecond, as a profiler sets it. */
static void millisecond_timers(void)
{
    begin(2);
    reader_job.before = start_timer;
    pid_t reader = start_reader(&reader_job);
    struct writer_job job = {.path = path.text, .count = 2, .burst = 20, .longest = 3000, .before = start_timer};
    pid_t writer = start_writers(&job);
    uint64_t begun = now_ms();
    WAIT_UNTIL(now_ms() - begun > 1500);
    WAIT_DELIVERED(1000);
    end_writers(&writer, 1);
    end_readers(reader);
    settle_without_loss();
}

/* ---- callbacks that fail ---- */

static void callbacks_that_fail(void)
{
    begin(2);
    atomic_store(&ledger->failing, true);
    pid_t reader = start_reader(&reader_job);
    struct writer_job job = {.path = path.text, .count = 2, .burst = 10, .longest = 1000};
    pid_t writer = start_writers(&job);
    WAIT_DELIVERED(10000);
    end_writers(&writer, 1);
    end_readers(reader);
    settle_without_loss();
    CHECK(ledger->failed_sum > 3000);
    CHECK_INT(ledger->errors_sum, ledger->failed_sum);
    CHECK_INT(ledger->reader_reports, ledger->failed_sum);
    CHECK_INT(ledger->received_sum + ledger->errors_sum, ledger->books[0].sent + ledger->books[1].sent);
}

/* ---- stop against everything ---- */

struct race {
    udsipc_reader *reader;
    udsipc_writer *writer;
    struct gate gate;
    _Atomic uint64_t accepted;
    _Atomic uint64_t received;
};

static int32_t count_received(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)data, (void)len, (void)connection;
    struct race *race = (struct race *)userdata;
    atomic_fetch_add(&race->received, 1);
    CHECK_STATUS(udsipc_reader_stop(race->reader, 0), UDSIPC_ERR_WOULD_DEADLOCK);
    return 0;
}

static bool is_one_of(udsipc_status status, const udsipc_status *allowed, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (status == allowed[i]) return true;
    return false;
}

#define CHECK_ONE_OF(status, ...) \
    do { \
        const udsipc_status allowed_[] = {__VA_ARGS__}; \
        udsipc_status is_ = (status); \
        if (!is_one_of(is_, allowed_, sizeof allowed_ / sizeof *allowed_)) \
            check_status(__FILE__, __LINE__, #status, (int32_t)is_, (int32_t)allowed_[0]); \
    } while (0)

static void *race_to_write(void *argument)
{
    struct race *race = (struct race *)argument;
    uint8_t message[64] = {1};
    udsipc_buffer buffers[3] = {{message, 10}, {message, 64}, {message, 1}};
    gate_pass(&race->gate);
    for (int i = 0; i < 25; i++) {
        size_t many = 0;
        udsipc_status one = udsipc_write_message(race->writer, message, sizeof message);
        udsipc_status patient = udsipc_write_message_timeout(race->writer, message, sizeof message, 5);
        udsipc_status some = udsipc_write_messages(race->writer, buffers, 3, &many);
        CHECK_ONE_OF(one, UDSIPC_OK, UDSIPC_ERR_BUFFER_FULL, UDSIPC_ERR_STOPPED);
        CHECK_ONE_OF(patient, UDSIPC_OK, UDSIPC_ERR_TIMEOUT, UDSIPC_ERR_STOPPED);
        CHECK_ONE_OF(some, UDSIPC_OK, UDSIPC_ERR_BUFFER_FULL, UDSIPC_ERR_STOPPED);
        atomic_fetch_add(&race->accepted, (one == UDSIPC_OK) + (patient == UDSIPC_OK) + many);
    }
    return NULL;
}

static void *race_to_look(void *argument)
{
    struct race *race = (struct race *)argument;
    gate_pass(&race->gate);
    for (int i = 0; i < 25; i++) {
        writer_metrics(race->writer);
        reader_metrics(race->reader);
        udsipc_writer_is_connected(race->writer);
        udsipc_writer_fd(race->writer);
        udsipc_reader_fd(race->reader);
        char line[200];
        udsipc_reader_describe(race->reader, line, sizeof line);
        CHECK_ONE_OF(udsipc_writer_flush(race->writer, 1), UDSIPC_OK, UDSIPC_ERR_TIMEOUT, UDSIPC_ERR_STOPPED,
                     UDSIPC_ERR_UNDELIVERED);
        CHECK_ONE_OF(udsipc_reader_start(race->reader), UDSIPC_OK, UDSIPC_ERR_STOPPED);
        CHECK_ONE_OF(udsipc_writer_start(race->writer), UDSIPC_OK, UDSIPC_ERR_STOPPED);
        CHECK_ONE_OF(udsipc_reader_dispatch(race->reader, 0), UDSIPC_ERR_WRONG_STATE, UDSIPC_ERR_STOPPED);
        CHECK_ONE_OF(udsipc_writer_dispatch(race->writer, 0), UDSIPC_ERR_WRONG_STATE, UDSIPC_ERR_STOPPED);
    }
    return NULL;
}

static void *race_to_stop_writer(void *argument)
{
    struct race *race = (struct race *)argument;
    gate_pass(&race->gate);
    CHECK_ONE_OF(udsipc_writer_stop(race->writer, 500), UDSIPC_OK, UDSIPC_ERR_UNDELIVERED, UDSIPC_ERR_TIMEOUT);
    return NULL;
}

static void *race_to_stop_reader(void *argument)
{
    struct race *race = (struct race *)argument;
    gate_pass(&race->gate);
    CHECK_OK(udsipc_reader_stop(race->reader, PATIENCE_MS));
    return NULL;
}

static void one_race(int round)
{
    struct race race = {.gate = GATE};
    CHECK_OK(udsipc_reader_new(path.text, count_received, &race, NULL, &race.reader));
    race.writer = new_writer(path.text);
    CHECK_OK(udsipc_reader_start(race.reader));
    CHECK_OK(udsipc_writer_start(race.writer));
    void *(*const runners[])(void *) = {race_to_write, race_to_write, race_to_look, race_to_stop_writer,
                                        race_to_stop_writer, race_to_stop_reader, race_to_stop_reader};
    enum { RUNNERS = sizeof runners / sizeof *runners };
    pthread_t runner[RUNNERS];
    for (int i = 0; i < RUNNERS; i++)
        CHECK(pthread_create(&runner[i], NULL, runners[i], &race) == 0);
    if (round % 2 == 0) WAIT_UNTIL(gate_arrived(&race.gate) == RUNNERS);
    gate_open(&race.gate);
    for (int i = 0; i < RUNNERS; i++)
        pthread_join(runner[i], NULL);
    udsipc_writer_metrics writer = writer_metrics(race.writer);
    udsipc_reader_metrics reader = reader_metrics(race.reader);
    CHECK_INT(writer.sent + writer.abandoned + writer.queue_depth, race.accepted);
    CHECK_INT(writer.queue_depth, 0);
    CHECK_INT(reader.received, race.received);
    CHECK(writer.sent - reader.received <= writer.suspected_lost);
    CHECK_INT(reader.errors, 0);
    CHECK_INT(writer.suspected_lost, 0); /* an orderly stop loses nothing */
    udsipc_writer_free(race.writer);
    udsipc_reader_free(race.reader);
}

static void stop_races_with_everything(void)
{
    path = in_scratch("s");
    for (int round = 0; round < 60; round++)
        one_race(round);
    WAIT_UNTIL(threads() == 1); /* a thread that has been joined is in /proc for a moment more */
}

static const struct scenario scenarios[] = {
    SCENARIO(signal_storm),
    SCENARIO(millisecond_timers),
    SCENARIO(callbacks_that_fail),
    SCENARIO(stop_races_with_everything),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
