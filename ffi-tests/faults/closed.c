/* A host that closes every descriptor, also those of the library: closefrom(3), as programs do that become daemons.
 *
 * There is nothing left to wait on, and nobody who could be woken. A stop keeps its time all the same, and so does every
 * other call; what was not sent is given up and counted.
 */
#include "../support/account.h"

#define STOP_MS 1000

/* What a stop may take on a busy machine. The harness ends what hangs for good, with the place where it hangs. */
#define LATE_MS 2500

static void *give_up_waiting(void *unused)
{
    pause_ms(20000);
    fail(__FILE__, __LINE__, "a call has not returned within 20 s");
    return unused;
}

static void begin(void)
{
    pthread_t watchdog;
    CHECK(pthread_create(&watchdog, NULL, give_up_waiting, NULL) == 0);
    CHECK(pthread_detach(watchdog) == 0);
}

static void close_everything(void)
{
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
}

#define WITHIN(limit_ms, call) \
    do { \
        uint64_t begun_ = now_ms(); \
        call; \
        uint64_t taken_ = now_ms() - begun_; \
        printf("%s: %" PRIu64 " ms\n", #call, taken_); \
        fflush(stdout); \
        CHECK(taken_ < (limit_ms)); \
    } while (0)

/* ---- the peers live in processes of their own: their descriptors stay ---- */

static struct path path;

static void peer_that_reads(void *unused)
{
    (void)unused;
    int listener = raw_listen(path.text);
    char buffer[4096];
    while (true) {
        int fd = accept(listener, NULL, NULL);
        while (fd >= 0 && read(fd, buffer, sizeof buffer) > 0) {}
        close(fd);
    }
}

static void peer_that_never_reads(void *unused)
{
    (void)unused;
    int listener = raw_listen(path.text);
    CHECK(accept(listener, NULL, NULL) >= 0);
    while (true)
        pause();
}

#define nobody NULL

enum driver { THREADS, HOST };

static pthread_t host; /* dispatches for as long as it may */

struct situation {
    void (*peer)(void *);
    enum driver driver;
    bool messages; /* that do not fit into the kernel's buffer */
};

static void *dispatch_for_ever(void *argument)
{
    while (udsipc_writer_dispatch((udsipc_writer *)argument, 10) != UDSIPC_ERR_STOPPED)
        look_again_soon();
    return NULL;
}

static void free_writer(enum driver driver, udsipc_writer *writer)
{
    if (driver == HOST) pthread_join(host, NULL);
    WITHIN(LATE_MS, udsipc_writer_free(writer));
}

/* A writer in the situation, whose descriptors are gone. */
static udsipc_writer *closed_writer(const struct situation *situation)
{
    path = in_scratch("s");
    if (situation->peer != nobody) {
        start_child(situation->peer, NULL); /* ends with this process */
        WAIT_UNTIL(exists(path.text));
    }
    udsipc_writer *writer = new_writer(path.text);
    if (situation->driver == THREADS) {
        CHECK_OK(udsipc_writer_start(writer));
    } else {
        CHECK(udsipc_writer_fd(writer) >= 0);
        CHECK(pthread_create(&host, NULL, dispatch_for_ever, writer) == 0);
    }
    if (situation->peer != nobody) WAIT_UNTIL(udsipc_writer_is_connected(writer));
    if (situation->peer == nobody) WAIT_UNTIL(writer_metrics(writer).connect_failures > 2);
    static uint8_t message[1 << 20];
    for (int i = 0; situation->messages && i < 4; i++)
        CHECK_OK(udsipc_write_message(writer, message, sizeof message));
    pause_ms(50); /* who has something to do does it, and waits */
    close_everything();
    return writer;
}

static void check_account(udsipc_writer *writer, uint64_t accepted)
{
    udsipc_writer_metrics metrics = writer_metrics(writer);
    CHECK_INT(metrics.sent + metrics.abandoned, accepted);
    CHECK_INT(metrics.queue_depth, 0);
}

static void stop_writer(struct situation situation)
{
    begin();
    udsipc_writer *writer = closed_writer(&situation);
    udsipc_status status = UDSIPC_OK;
    WITHIN(LATE_MS, status = udsipc_writer_stop(writer, STOP_MS));
    if (situation.messages) CHECK(status != UDSIPC_OK);
    check_account(writer, situation.messages ? 4 : 0);
    free_writer(situation.driver, writer);
}

static void writer_threads_idle(void)
{
    stop_writer((struct situation){peer_that_reads, THREADS, false});
}

static void writer_threads_with_messages(void)
{
    stop_writer((struct situation){peer_that_never_reads, THREADS, true});
}

static void writer_threads_without_a_reader(void)
{
    stop_writer((struct situation){nobody, THREADS, true});
}

static void writer_dispatched_idle(void)
{
    stop_writer((struct situation){peer_that_reads, HOST, false});
}

static void writer_dispatched_with_messages(void)
{
    stop_writer((struct situation){peer_that_never_reads, HOST, true});
}

static void writer_dispatched_without_a_reader(void)
{
    stop_writer((struct situation){nobody, HOST, true});
}

static void writer_freed_without_a_stop(void)
{
    begin();
    udsipc_writer *writer = closed_writer(&(struct situation){peer_that_never_reads, THREADS, true});
    WITHIN(LATE_MS, udsipc_writer_free(writer));
}

static void writer_stop_without_a_time_limit(void)
{
    begin();
    udsipc_writer *writer = closed_writer(&(struct situation){nobody, THREADS, true});
    WITHIN(LATE_MS, CHECK(udsipc_writer_stop(writer, UDSIPC_WAIT_FOREVER) != UDSIPC_OK));
    check_account(writer, 4);
    udsipc_writer_free(writer);
}

/* Writes and waits keep their times too. */
static void calls_of_a_writer(enum driver driver)
{
    begin();
    udsipc_writer *writer = closed_writer(&(struct situation){peer_that_never_reads, driver, true});
    WITHIN(500, CHECK_OK(udsipc_write_message(writer, "x", 1)));
    WITHIN(1500, CHECK(udsipc_writer_flush(writer, 300) != UDSIPC_OK));
    WITHIN(1500, IGNORE(udsipc_write_message_timeout(writer, "x", 1, 300)));
    WITHIN(LATE_MS, CHECK(udsipc_writer_stop(writer, STOP_MS) != UDSIPC_OK));
    free_writer(driver, writer);
}

static void calls_of_a_writer_threaded(void)
{
    calls_of_a_writer(THREADS);
}

static void calls_of_a_writer_dispatched(void)
{
    calls_of_a_writer(HOST);
}

/* A host that waits in the call is told, and does not spin with a call that says that all is well. */
static void dispatch_says_so(void)
{
    begin();
    path = in_scratch("s");
    udsipc_writer *writer = new_writer(path.text);
    CHECK(udsipc_writer_fd(writer) >= 0);
    CHECK_OK(udsipc_writer_dispatch(writer, 0));
    close_everything();
    udsipc_status status = UDSIPC_OK;
    WITHIN(LATE_MS, status = udsipc_writer_dispatch(writer, 500));
    CHECK_STATUS(status, UDSIPC_ERR_IO);
    CHECK_STATUS(udsipc_writer_dispatch(writer, 0), UDSIPC_ERR_IO);
    CHECK_OK(udsipc_write_message(writer, "x", 1));
    WITHIN(LATE_MS, CHECK(udsipc_writer_stop(writer, STOP_MS) != UDSIPC_OK));
    check_account(writer, 1);
    udsipc_writer_free(writer);
}

/* The threads of the library have nothing to wait on: they wait all the same. */
static void threads_do_not_spin(void)
{
    begin();
    udsipc_writer *writer = closed_writer(&(struct situation){peer_that_never_reads, THREADS, true});
    uint64_t cpu = cpu_ms_of(getpid()), begun = now_ms();
    WAIT_UNTIL(now_ms() - begun >= 1000);
    cpu = cpu_ms_of(getpid()) - cpu;
    printf("1 s without descriptors: %" PRIu64 " ms of processor time\n", cpu);
    CHECK(cpu < 300);
    WITHIN(LATE_MS, CHECK(udsipc_writer_stop(writer, STOP_MS) != UDSIPC_OK));
    udsipc_writer_free(writer);
}

/* ---- readers ---- */

static atomic_bool callback_may_leave;
static _Atomic int in_callback;

static int32_t slow_callback(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)data, (void)len, (void)connection, (void)userdata;
    atomic_fetch_add(&in_callback, 1);
    WAIT_UNTIL(atomic_load(&callback_may_leave));
    atomic_fetch_sub(&in_callback, 1);
    return 0;
}

static void clients(void *unused)
{
    (void)unused;
    WAIT_UNTIL(exists(path.text));
    int fd = -1;
    WAIT_UNTIL((fd = raw_try_connect(path.text)) >= 0);
    raw_send_frame(fd, "hello", 5);
    for (int i = 0; i < 5; i++)
        raw_connect(path.text);
    while (true)
        pause();
}

static void *dispatch_reader_for_ever(void *argument)
{
    while (udsipc_reader_dispatch((udsipc_reader *)argument, 10) != UDSIPC_ERR_STOPPED)
        look_again_soon();
    return NULL;
}

static udsipc_reader *closed_reader(enum driver driver, udsipc_message_callback callback, struct inbox *inbox)
{
    path = in_scratch("s");
    start_child(clients, NULL);
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, callback, inbox, NULL, &reader));
    if (driver == THREADS) {
        CHECK_OK(udsipc_reader_start(reader));
    } else {
        CHECK(pthread_create(&host, NULL, dispatch_reader_for_ever, reader) == 0);
    }
    WAIT_UNTIL(reader_metrics(reader).connections == 6);
    if (inbox != NULL) WAIT_UNTIL(inbox_count(inbox) == 1);
    if (inbox == NULL) WAIT_UNTIL(atomic_load(&in_callback) == 1);
    pause_ms(50);
    close_everything();
    return reader;
}

static void stop_reader(enum driver driver, uint64_t timeout_ms)
{
    struct inbox inbox = INBOX;
    begin();
    udsipc_reader *reader = closed_reader(driver, receive, &inbox);
    WITHIN(LATE_MS, udsipc_reader_stop(reader, timeout_ms));
    CHECK_INT(reader_metrics(reader).active_connections, 0);
    CHECK_INT(reader_metrics(reader).received, 1);
    if (driver == HOST) pthread_join(host, NULL);
    WITHIN(LATE_MS, udsipc_reader_free(reader));
}

static void reader_threads(void)
{
    stop_reader(THREADS, STOP_MS);
}

static void reader_dispatched(void)
{
    stop_reader(HOST, STOP_MS);
}

static void reader_threads_stop_zero(void)
{
    stop_reader(THREADS, 0);
}

static void reader_freed_without_a_stop(void)
{
    struct inbox inbox = INBOX;
    begin();
    udsipc_reader *reader = closed_reader(THREADS, receive, &inbox);
    WITHIN(LATE_MS, udsipc_reader_free(reader));
}

static void *let_callback_leave(void *unused)
{
    pause_ms(500);
    atomic_store(&callback_may_leave, true);
    return unused;
}

/* The time, plus the callbacks that are running. */
static void reader_with_a_running_callback(void)
{
    pthread_t thread;
    begin();
    udsipc_reader *reader = closed_reader(THREADS, slow_callback, NULL);
    CHECK(pthread_create(&thread, NULL, let_callback_leave, NULL) == 0);
    WITHIN(LATE_MS, udsipc_reader_stop(reader, 100));
    CHECK_INT(atomic_load(&in_callback), 0);
    pthread_join(thread, NULL);
    udsipc_reader_free(reader);
}

static const struct scenario scenarios[] = {
    SCENARIO(writer_threads_idle),
    SCENARIO(writer_threads_with_messages),
    SCENARIO(writer_threads_without_a_reader),
    SCENARIO(writer_dispatched_idle),
    SCENARIO(writer_dispatched_with_messages),
    SCENARIO(writer_dispatched_without_a_reader),
    SCENARIO(writer_freed_without_a_stop),
    SCENARIO(writer_stop_without_a_time_limit),
    SCENARIO(calls_of_a_writer_threaded),
    SCENARIO(calls_of_a_writer_dispatched),
    SCENARIO(dispatch_says_so),
    SCENARIO(threads_do_not_spin),
    SCENARIO(reader_threads),
    SCENARIO(reader_dispatched),
    SCENARIO(reader_threads_stop_zero),
    SCENARIO(reader_freed_without_a_stop),
    SCENARIO(reader_with_a_running_callback),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
