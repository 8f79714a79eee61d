/* Readers and writers that are killed (kill -9) while messages pass through a ring, again and again, at any moment. What a write has
   answered OK for and lies in the ring arrives, whoever dies. */
#include "../support/check.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

#define KILLS 40

/* What both processes see. */
struct shared {
    _Atomic uint64_t next;     /* the number that the reader expects */
    _Atomic uint64_t missing;
    _Atomic uint64_t repeated;
    _Atomic uint64_t damaged;
    _Atomic uint64_t sent;     /* as the writer has seen it last */
    _Atomic uint64_t in_rings; /* bytes */
    _Atomic bool listens;
};

static struct shared *shared;
static struct path path;
static size_t length;

static void begin(size_t len)
{
    path = in_scratch("s");
    length = len;
    shared = (struct shared *)mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED);
}

static int32_t on_message(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)connection, (void)userdata;
    uint64_t number, next = atomic_load(&shared->next);
    memcpy(&number, data, sizeof number);
    if (len != length || data[len - 1] != (uint8_t)number) atomic_fetch_add(&shared->damaged, 1);
    if (number < next) {
        atomic_fetch_add(&shared->repeated, 1);
        return 0;
    }
    atomic_fetch_add(&shared->missing, number - next);
    atomic_store(&shared->next, number + 1);
    return 0;
}

static udsipc_reader *listen_here(void)
{
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, on_message, NULL, NULL, &reader));
    CHECK_OK(udsipc_reader_start(reader));
    atomic_store(&shared->listens, true);
    return reader;
}

static void read_until_killed(void *argument)
{
    (void)argument;
    listen_here();
    pause();
}

static udsipc_writer *connect_there(void)
{
    udsipc_writer *writer = NULL;
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_attempts(options, 0));
    CHECK_OK(udsipc_writer_new(path.text, options, &writer));
    CHECK_OK(udsipc_writer_start(writer));
    udsipc_writer_options_free(options);
    return writer;
}

static udsipc_writer_metrics metrics_of(const udsipc_writer *writer)
{
    udsipc_writer_metrics metrics;
    CHECK_OK(udsipc_writer_get_metrics(writer, &metrics, sizeof metrics));
    return metrics;
}

/* Writes for a time, as fast as the reader is. Returns the next number. */
static uint64_t write_for(udsipc_writer *writer, uint8_t *message, uint64_t number, uint64_t milliseconds)
{
    for (uint64_t end = now_ms() + milliseconds; now_ms() < end; number++) {
        memcpy(message, &number, sizeof number);
        message[length - 1] = (uint8_t)number;
        CHECK_OK(udsipc_write_message_timeout(writer, message, length, PATIENCE_MS));
        if (number % 16 == 0) {
            udsipc_writer_metrics metrics = metrics_of(writer);
            atomic_store(&shared->sent, metrics.sent);
            atomic_store(&shared->in_rings, metrics.ring_bytes);
        }
    }
    return number;
}

static pid_t start_reader(void)
{
    atomic_store(&shared->listens, false);
    pid_t reader = start_child(read_until_killed, NULL);
    WAIT_UNTIL(atomic_load(&shared->listens));
    return reader;
}

/* The longest time between two kills, so that most of them meet a ring. */
#define ROUND_MS 150

static void readers_are_killed(size_t len)
{
    begin(len);
    uint8_t *message = (uint8_t *)calloc(1, len);
    pid_t reader = start_reader();
    udsipc_writer *writer = connect_there();
    uint64_t number = 0, rings = 0, before = 0;
    for (int kills = 0; kills < KILLS; kills++) {
        number = write_for(writer, message, number, ROUND_MS - (uint64_t)kills);
        rings += atomic_load(&shared->in_rings) > before;
        before = atomic_load(&shared->in_rings);
        kill_child(reader);
        reader = start_reader();
    }
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    udsipc_writer_metrics metrics = metrics_of(writer);
    udsipc_writer_free(writer);
    kill_child(reader);
    CHECK_INT(metrics.sent, number);
    CHECK_INT(metrics.acknowledged, number);
    CHECK_INT(metrics.suspected_lost, 0);
    CHECK_INT(atomic_load(&shared->next), number);
    CHECK_INT(atomic_load(&shared->missing), 0);
    CHECK_INT(atomic_load(&shared->damaged), 0);
    CHECK(atomic_load(&shared->repeated) <= KILLS); /* what was in the callback */
    CHECK(UNDER_CHECKER || rings > 0);
    printf("%d readers killed, %lu times in a ring; %lu messages, %lu of them twice\n", KILLS, (unsigned long)rings,
           (unsigned long)number, (unsigned long)atomic_load(&shared->repeated));
    free(message);
}

static void readers_are_killed_small(void) { readers_are_killed(300); }
static void readers_are_killed_medium(void) { readers_are_killed(5000); }
static void readers_are_killed_large(void) { readers_are_killed(200000); }

static void write_until_killed(void *argument)
{
    (void)argument;
    uint8_t *message = (uint8_t *)calloc(1, length);
    write_for(connect_there(), message, 0, PATIENCE_MS);
    free(message);
}

static uint64_t active_connections(const udsipc_reader *reader)
{
    udsipc_reader_metrics metrics;
    CHECK_OK(udsipc_reader_get_metrics(reader, &metrics, sizeof metrics));
    return metrics.active_connections;
}

static void writers_are_killed(size_t len)
{
    begin(len);
    udsipc_reader *reader = listen_here();
    unsigned long rings = 0, messages = 0;
    for (int kills = 0; kills < KILLS; kills++) {
        atomic_store(&shared->next, 0);
        atomic_store(&shared->sent, 0);
        atomic_store(&shared->in_rings, 0);
        pid_t writer = start_child(write_until_killed, NULL);
        WAIT_UNTIL(atomic_load(&shared->sent) > 0);
        uint64_t round = now_ms() + ROUND_MS - (uint64_t)kills;
        WAIT_UNTIL(now_ms() >= round);
        kill_child(writer);
        WAIT_UNTIL(active_connections(reader) == 0);
        CHECK(atomic_load(&shared->next) >= atomic_load(&shared->sent));
        rings += atomic_load(&shared->in_rings) > 0;
        messages += atomic_load(&shared->next);
    }
    CHECK_INT(atomic_load(&shared->missing), 0);
    CHECK_INT(atomic_load(&shared->repeated), 0);
    CHECK_INT(atomic_load(&shared->damaged), 0);
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    udsipc_reader_free(reader);
    CHECK(UNDER_CHECKER || rings > 0);
    printf("%d writers killed, %lu of them in a ring; %lu messages, each sent one arrived\n", KILLS, rings, messages);
}

static void writers_are_killed_small(void) { writers_are_killed(300); }
static void writers_are_killed_large(void) { writers_are_killed(200000); }

static const struct scenario scenarios[] = {
    SCENARIO(readers_are_killed_small),
    SCENARIO(readers_are_killed_medium),
    SCENARIO(readers_are_killed_large),
    SCENARIO(writers_are_killed_small),
    SCENARIO(writers_are_killed_large),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
