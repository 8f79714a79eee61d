/* Several threads that write into one queue: large messages beside small ones, and races for the last place. */
#include "../support/check.h"

#include <sched.h>

#define LARGE (10 << 20)
#define RACES 400

/* ---- large messages are copied beside the small ones, and not before their eyes ---- */

enum call { PLAIN, TIMEOUT, MANY };

struct copier {
    udsipc_writer *writer;
    enum call call;
    const uint8_t *message;
    atomic_bool over;
};

static void *write_large_messages(void *argument)
{
    struct copier *copier = (struct copier *)argument;
    for (int i = 0; i < 6; i++) {
        udsipc_buffer buffer = {copier->message, LARGE};
        size_t accepted = 0;
        switch (copier->call) {
        case PLAIN:
            CHECK_OK(udsipc_write_message(copier->writer, copier->message, LARGE));
            break;
        case TIMEOUT:
            CHECK_OK(udsipc_write_message_timeout(copier->writer, copier->message, LARGE, PATIENCE_MS));
            break;
        case MANY:
            CHECK_OK(udsipc_write_messages(copier->writer, &buffer, 1, &accepted));
            break;
        }
    }
    atomic_store(&copier->over, true);
    return NULL;
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    CHECK(clock_gettime(clock, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* How long this thread was ready to run and had no processor (sched-stats.rst of the kernel); UINT64_MAX if nobody counts. */
static uint64_t without_processor_ns(void)
{
    unsigned long long ran = 0, was_ready = 0;
    FILE *file = fopen("/proc/thread-self/schedstat", "r");
    if (file == NULL) return UINT64_MAX;
    CHECK(fscanf(file, "%llu %llu", &ran, &was_ready) == 2);
    fclose(file);
    return was_ready;
}

/* The share of the time of six large messages, in percent, that a producer of small ones spent in calls that took half a
 * millisecond or more, without what the scheduler took. */
static uint64_t share_waited(enum call call, const uint8_t *message)
{
    udsipc_writer *writer = NULL;
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 1 << 20));
    CHECK_OK(udsipc_writer_options_set_max_buffered_bytes(options, 0));
    CHECK_OK(udsipc_writer_new(in_scratch("s").text, options, &writer));
    udsipc_writer_options_free(options);
    struct copier copier = {.writer = writer, .call = call, .message = message};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, write_large_messages, &copier) == 0);
    uint64_t waited = 0, absent = without_processor_ns(), begun = clock_ns(CLOCK_MONOTONIC), now = begun;
    while (!atomic_load(&copier.over)) {
        uint64_t before = clock_ns(CLOCK_MONOTONIC);
        CHECK_OK(udsipc_write_message(writer, "small", 5));
        now = clock_ns(CLOCK_MONOTONIC);
        if (now - before > 500000) {
            uint64_t absent_now = without_processor_ns(), lost = absent_now - absent;
            if (now - before > lost) waited += now - before - lost;
            absent = absent_now;
        }
        for (uint64_t next = now + 2000; clock_ns(CLOCK_MONOTONIC) < next;) {} /* leaves places in the queue */
    }
    pthread_join(thread, NULL);
    udsipc_writer_free(writer);
    return waited * 100 / (now - begun);
}

#define ATTEMPTS 15

/* One attempt proves little, where both threads had to share a processor. A plain write, which has always copied large
 * messages before it takes the lock, comes to 0 in all of them; a copy under the lock to hundreds. */
static void small_messages_do_not_wait_for_large_ones(void)
{
    if (UNDER_CHECKER || without_processor_ns() == UINT64_MAX) return; /* valgrind lets one thread run at a time */
    uint8_t *message = (uint8_t *)malloc(LARGE);
    CHECK(message != NULL);
    memset(message, 'x', LARGE);
    uint64_t sum = 0;
    for (int attempt = 0; attempt < ATTEMPTS; attempt++)
        for (enum call call = PLAIN; call <= MANY; call++)
            sum += share_waited(call, message);
    if (sum >= 20) {
        fprintf(stderr, "small messages waited %" PRIu64 " %% of the time\n", sum / ATTEMPTS / 3);
        fail(__FILE__, __LINE__, "small messages wait for large ones");
    }
    free(message);
}

/* ---- the last place, and the end ---- */

struct racer {
    pthread_t thread;
    pthread_barrier_t *start;
    udsipc_writer *writer;
    enum call call;
    size_t len;
    udsipc_status status;
};

static uint8_t payload[1 << 20];

static void *race(void *argument)
{
    struct racer *racer = (struct racer *)argument;
    udsipc_buffer buffer = {payload, racer->len};
    size_t accepted = 0;
    pthread_barrier_wait(racer->start);
    switch (racer->call) {
    case PLAIN:
        racer->status = udsipc_write_message(racer->writer, payload, racer->len);
        break;
    case TIMEOUT:
        racer->status = udsipc_write_message_timeout(racer->writer, payload, racer->len, 1);
        break;
    case MANY:
        racer->status = udsipc_write_messages(racer->writer, &buffer, 1, &accepted);
        CHECK((racer->status == UDSIPC_OK) == (accepted == 1));
        break;
    }
    return NULL;
}

static void start_racers(struct racer *racers, size_t count, pthread_barrier_t *start, udsipc_writer *writer,
                         enum call call, size_t len)
{
    CHECK(pthread_barrier_init(start, NULL, (unsigned)count + 1) == 0);
    for (size_t i = 0; i < count; i++) {
        racers[i] = (struct racer){.start = start, .writer = writer, .call = call, .len = len};
        CHECK(pthread_create(&racers[i].thread, NULL, race, &racers[i]) == 0);
    }
}

static size_t taken_by(struct racer *racers, size_t count)
{
    size_t taken = 0;
    for (size_t i = 0; i < count; i++) {
        pthread_join(racers[i].thread, NULL);
        taken += racers[i].status == UDSIPC_OK;
    }
    return taken;
}

static udsipc_writer *writer_with_room(uint32_t messages, uint64_t bytes)
{
    udsipc_writer *writer = NULL;
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, messages));
    CHECK_OK(udsipc_writer_options_set_max_buffered_bytes(options, bytes));
    CHECK_OK(udsipc_writer_new(in_scratch("s").text, options, &writer));
    udsipc_writer_options_free(options);
    return writer;
}

static void one_is_taken(uint32_t messages, uint64_t bytes, size_t already, size_t len)
{
    static const udsipc_status refusals[] = {UDSIPC_ERR_BUFFER_FULL, UDSIPC_ERR_TIMEOUT, UDSIPC_ERR_BUFFER_FULL};
    for (int i = 0; i < RACES / (UNDER_CHECKER ? 10 : 1); i++) {
        enum call call = (enum call)(i % 3);
        struct racer racers[3];
        pthread_barrier_t start;
        udsipc_writer *writer = writer_with_room(messages, bytes);
        for (size_t before = 0; before < already; before++)
            CHECK_OK(udsipc_write_message(writer, "x", 1));
        start_racers(racers, 3, &start, writer, call, len);
        pthread_barrier_wait(&start);
        CHECK_INT(taken_by(racers, 3), 1);
        for (size_t n = 0; n < 3; n++)
            if (racers[n].status != UDSIPC_OK) CHECK_STATUS(racers[n].status, refusals[call]);
        CHECK_INT(writer_metrics(writer).queue_depth, already + 1);
        CHECK_INT(writer_metrics(writer).queue_bytes, already + len);
        CHECK_INT(writer_metrics(writer).dropped, 2);
        pthread_barrier_destroy(&start);
        udsipc_writer_free(writer);
    }
}

/* Large ones are copied before they are put into the queue, so each of them finds room at first. */
static void of_large_messages_one_takes_the_last_place(void)
{
    one_is_taken(1, 0, 0, 100000);
    one_is_taken(3, 0, 2, 100000);
}

static void of_large_messages_one_takes_the_last_bytes(void)
{
    one_is_taken(100, 150000, 0, 100000);
    one_is_taken(100, 150000, 10, 100000);
}

static void of_small_messages_one_takes_the_last_place(void)
{
    one_is_taken(1, 0, 0, 16);
    one_is_taken(100, 20, 3, 16);
}

/* What was taken is given up and counted, and what was not taken is told so: nothing comes in behind a stop. */
static void races_with_a_stop(size_t len)
{
    for (int i = 0; i < RACES / (UNDER_CHECKER ? 10 : 1); i++) {
        struct racer racers[3];
        pthread_barrier_t start;
        udsipc_writer *writer = writer_with_room(100, 0);
        start_racers(racers, 3, &start, writer, (enum call)(i % 3), len);
        pthread_barrier_wait(&start);
        if (i % 4 > 0) sched_yield();
        udsipc_status stopped = udsipc_writer_stop(writer, 0);
        udsipc_writer_metrics before = writer_metrics(writer);
        size_t taken = taken_by(racers, 3);
        udsipc_writer_metrics after = writer_metrics(writer);
        for (size_t n = 0; n < 3; n++)
            if (racers[n].status != UDSIPC_OK) CHECK_STATUS(racers[n].status, UDSIPC_ERR_STOPPED);
        CHECK_INT(after.abandoned, taken);
        CHECK_INT(after.queue_depth, 0);
        CHECK_INT(before.abandoned, after.abandoned);
        CHECK_INT(before.queue_depth, 0);
        CHECK((stopped == UDSIPC_OK) == (taken == 0));
        pthread_barrier_destroy(&start);
        udsipc_writer_free(writer);
    }
}

static void large_messages_race_with_a_stop(void)
{
    races_with_a_stop(sizeof payload);
}

static void small_messages_race_with_a_stop(void)
{
    races_with_a_stop(16);
}

static const struct scenario scenarios[] = {
    SCENARIO(small_messages_do_not_wait_for_large_ones),
    SCENARIO(of_large_messages_one_takes_the_last_place),
    SCENARIO(of_large_messages_one_takes_the_last_bytes),
    SCENARIO(of_small_messages_one_takes_the_last_place),
    SCENARIO(large_messages_race_with_a_stop),
    SCENARIO(small_messages_race_with_a_stop),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
