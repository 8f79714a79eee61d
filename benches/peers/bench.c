/*
 * PROGRAM recv|send|rest KEY=VALUE ...   one side of one run of the side-by-side bench; see run.py, which starts both.
 *
 * The receiver prints "ready", and at the end one line of JSON. The sender sends, waits until its standard input ends
 * (by then the receiver has everything: no peer loses messages because its sender left too early), and prints its line.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define LATENCY_PERIOD_NS 200000u
#define LATENCY_WARM_UP 200u
#define IDLE_WARM_UP 1000u
#define TIMED_BURST 64u

struct stream {
    _Alignas(128) uint64_t next; /* a cache line of its own: streams are received by different threads */
    uint64_t expected;
    uint64_t bytes;
    uint64_t wrong;
};

static struct config config;
static struct stream *streams;
static unsigned stream_count;
static atomic_uint streams_open;
static atomic_uint_fast64_t first_message, last_message;
static uint64_t raw_bytes, raw_expected;
static uint64_t sum_sent; /* of each message, behind its tag */
static volatile uint64_t raw_sum;
static uint64_t *latencies;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t complete = PTHREAD_COND_INITIALIZER;
static struct rusage usage_before;
static void (*at_end)(void);

void bench_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

void bench_at_end(void (*leave)(void))
{
    at_end = leave;
}

/* Not by way of the peer's own end, unless it asked: what comes now is not measured. */
static _Noreturn void end_run(int status)
{
    if (at_end != NULL)
        at_end();
    _exit(status);
}

uint64_t bench_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void bench_fill(uint8_t *message, unsigned stream, uint64_t sequence)
{
    uint64_t tag = (uint64_t)stream << 40 | sequence;
    memcpy(message, &tag, sizeof tag);
}

static uint8_t *new_message(void)
{
    uint8_t *message = malloc(config.size);
    if (message == NULL)
        bench_fail("no memory for a message of %zu bytes", config.size);
    for (size_t i = 0; i < config.size; i++)
        message[i] = (uint8_t)i;
    return message;
}

static uint64_t sum_of(const uint8_t *data, size_t len)
{
    uint64_t sum = 0, word;
    for (; len >= sizeof word; data += sizeof word, len -= sizeof word) {
        memcpy(&word, data, sizeof word);
        sum += word;
    }
    while (len-- > 0)
        sum += *data++;
    return sum;
}

static bool is_as_sent(const uint8_t *data, size_t len)
{
    if (config.sum)
        return sum_of(data + 8, len - 8) == sum_sent;
    return data[len - 1] == (uint8_t)(len - 1);
}

static void note_first(void)
{
    uint_fast64_t none = 0;
    atomic_compare_exchange_strong(&first_message, &none, bench_now());
}

static void note_end_of_stream(void)
{
    if (atomic_fetch_sub(&streams_open, 1) != 1)
        return;
    atomic_store(&last_message, bench_now());
    pthread_mutex_lock(&lock);
    pthread_cond_broadcast(&complete);
    pthread_mutex_unlock(&lock);
}

void bench_received(const uint8_t *data, size_t len)
{
    uint64_t tag;
    if (len < 16)
        bench_fail("a message of %zu bytes arrived, and none such was sent", len);
    memcpy(&tag, data, sizeof tag);
    uint64_t sequence = tag & 0xffffffffffu;
    if (tag >> 40 >= stream_count)
        bench_fail("a message of stream %u arrived, and there is none", (unsigned)(tag >> 40));
    struct stream *stream = &streams[tag >> 40];
    if (stream->next == 0)
        note_first();
    if (sequence != stream->next || (config.mode == MODE_STREAM && !is_as_sent(data, len)))
        stream->wrong++;
    if (latencies != NULL && stream->next < config.count) {
        uint64_t stamp;
        memcpy(&stamp, data + 8, sizeof stamp);
        latencies[stream->next] = bench_now() - stamp;
    }
    stream->bytes += len;
    if (++stream->next == stream->expected)
        note_end_of_stream();
}

void bench_received_bytes(const uint8_t *data, size_t len)
{
    if (raw_bytes == 0)
        note_first();
    raw_sum = config.sum ? sum_of(data, len) : (uint64_t)data[0] + data[len - 1];
    raw_bytes += len;
    if (raw_bytes >= raw_expected && !bench_is_complete()) {
        atomic_store(&streams_open, 1);
        note_end_of_stream();
    }
}

bool bench_is_complete(void)
{
    return atomic_load_explicit(&streams_open, memory_order_acquire) == 0;
}

void bench_wait_until_complete(void)
{
    pthread_mutex_lock(&lock);
    while (!bench_is_complete())
        pthread_cond_wait(&complete, &lock);
    pthread_mutex_unlock(&lock);
}

/* A field of a file of /proc/self, in KiB. */
static unsigned long proc_kib(const char *file, const char *field)
{
    char line[256];
    unsigned long kib = 0;
    FILE *stream = fopen(file, "r");
    if (stream == NULL)
        bench_fail("cannot read %s: %s", file, strerror(errno));
    while (fgets(line, sizeof line, stream) != NULL) {
        if (strncmp(line, field, strlen(field)) == 0) {
            kib = strtoul(line + strlen(field), NULL, 10);
            break;
        }
    }
    fclose(stream);
    return kib;
}

static double seconds(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

/* VmHWM and not ru_maxrss: that one also knows the program that this process was before exec. */
static void print_costs(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("\"user\": %.6f, \"system\": %.6f, \"switches\": %ld, \"peak_kib\": %lu}\n",
           seconds(usage.ru_utime) - seconds(usage_before.ru_utime),
           seconds(usage.ru_stime) - seconds(usage_before.ru_stime),
           usage.ru_nvcsw + usage.ru_nivcsw - usage_before.ru_nvcsw - usage_before.ru_nivcsw,
           proc_kib("/proc/self/status", "VmHWM:"));
    fflush(stdout);
}

static int compare(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static void print_latencies(void)
{
    uint64_t *sample = latencies + LATENCY_WARM_UP;
    size_t size = (size_t)config.count - LATENCY_WARM_UP;
    qsort(sample, size, sizeof *sample, compare);
    printf("\"p50\": %llu, \"p99\": %llu, \"p999\": %llu, ", (unsigned long long)sample[size / 2],
           (unsigned long long)sample[size * 99 / 100], (unsigned long long)sample[size * 999 / 1000]);
}

static int print_received(void)
{
    uint64_t received = 0, expected = 0, bytes = 0, wrong = 0;
    if (peer_has_messages) {
        for (unsigned i = 0; i < stream_count; i++) {
            received += streams[i].next;
            expected += streams[i].expected;
            bytes += streams[i].bytes;
            wrong += streams[i].wrong;
        }
    } else {
        bytes = raw_bytes;
        received = raw_bytes / config.size;
        expected = raw_expected / config.size;
    }
    bool good = received == expected && bytes == expected * config.size && wrong == 0;
    double time = (double)(atomic_load(&last_message) - atomic_load(&first_message)) / 1e9;
    printf("{\"complete\": %s, \"received\": %llu, \"expected\": %llu, \"bytes\": %llu, \"out_of_order\": %llu, "
           "\"seconds\": %.9f, ",
           good ? "true" : "false", (unsigned long long)received, (unsigned long long)expected,
           (unsigned long long)bytes, (unsigned long long)wrong, good ? time : 0.0);
    if (good && latencies != NULL)
        print_latencies();
    return good ? 0 : 1;
}

/* Ends a run that does not end by itself, and says how far it came. */
static void *watch(void *unused)
{
    (void)unused;
    sleep(config.patience);
    print_received();
    print_costs();
    _exit(1);
}

static void start_thread(void *(*body)(void *), void *argument, pthread_t *thread)
{
    int error = pthread_create(thread, NULL, body, argument);
    if (error != 0)
        bench_fail("cannot start a thread: %s", strerror(error));
}

static void expect_streams(void)
{
    stream_count = config.threads > 1 ? config.threads : config.connections;
    streams = aligned_alloc(128, stream_count * sizeof *streams);
    if (streams == NULL)
        bench_fail("no memory for %u streams", stream_count);
    memset(streams, 0, stream_count * sizeof *streams);
    for (unsigned i = 0; i < stream_count; i++)
        streams[i].expected = config.mode != MODE_IDLE ? config.count : i == 0 ? IDLE_WARM_UP : 1;
    atomic_store(&streams_open, stream_count);
    raw_expected = config.size * config.count * stream_count;
    uint8_t *message = new_message();
    sum_sent = sum_of(message + 8, config.size - 8);
    free(message);
    if (config.mode == MODE_LATENCY) {
        if (config.count <= LATENCY_WARM_UP)
            bench_fail("count must be above %u", LATENCY_WARM_UP);
        latencies = calloc(config.count, sizeof *latencies);
    }
}

static unsigned long private_memory(void)
{
    return proc_kib("/proc/self/smaps_rollup", "Private_Dirty:");
}

/* What an idle connection costs: growth since the first connection, which has warmed everything up. */
static void *weigh(void *unused)
{
    (void)unused;
    while (*(volatile uint64_t *)&streams[0].next < IDLE_WARM_UP)
        usleep(1000);
    usleep(200000);
    unsigned long before = private_memory();
    puts("warm");
    fflush(stdout);
    bench_wait_until_complete();
    usleep(500000); /* what is only needed while connecting is given back meanwhile, by those who do */
    unsigned long after = private_memory();
    print_received();
    printf("\"growth_kib\": %ld, ", (long)after - (long)before);
    print_costs();
    _exit(0);
}

static int receive(void)
{
    pthread_t watcher, scales;
    expect_streams();
    peer_listen(&config);
    start_thread(watch, NULL, &watcher);
    if (config.mode == MODE_IDLE)
        start_thread(weigh, NULL, &scales);
    getrusage(RUSAGE_SELF, &usage_before);
    puts("ready");
    fflush(stdout);
    peer_receive();
    if (config.mode == MODE_IDLE)
        pthread_join(scales, NULL);
    int status = print_received();
    print_costs();
    end_run(status);
}

struct producer {
    pthread_t thread;
    unsigned stream;
    uint64_t *bursts; /* nanoseconds of each burst in which no call had to wait */
    size_t burst_count;
};

static void *produce(void *argument)
{
    struct producer *producer = argument;
    unsigned connection = peer_shares_connection ? 0 : producer->stream;
    uint8_t *message = new_message();
    for (uint64_t i = 0; i < config.count; i++) {
        bench_fill(message, producer->stream, i);
        peer_send(connection, message, config.size);
    }
    peer_flush(connection);
    free(message);
    return NULL;
}

static void produce_timed(struct producer *producer)
{
    uint8_t *message = new_message();
    producer->bursts = malloc((config.count / TIMED_BURST + 1) * sizeof *producer->bursts);
    for (uint64_t i = 0; i < config.count;) {
        bool waited = false;
        uint64_t begin = bench_now();
        uint64_t end = i + TIMED_BURST < config.count ? i + TIMED_BURST : config.count;
        uint64_t size = end - i;
        for (; i < end; i++) {
            bench_fill(message, 0, i);
            waited |= peer_send(0, message, config.size);
        }
        if (!waited && size == TIMED_BURST)
            producer->bursts[producer->burst_count++] = bench_now() - begin;
    }
    peer_flush(0);
    free(message);
}

/* 64 KiB to each connection in turn: enough for every peer to do its batching. */
static void produce_round(void)
{
    uint64_t burst = (64u << 10) / config.size > 0 ? (64u << 10) / config.size : 1;
    uint8_t *message = new_message();
    for (uint64_t sent = 0; sent < config.count; sent += burst) {
        uint64_t end = sent + burst < config.count ? sent + burst : config.count;
        for (unsigned connection = 0; connection < config.connections; connection++) {
            for (uint64_t i = sent; i < end; i++) {
                bench_fill(message, connection, i);
                peer_send(connection, message, config.size);
            }
            peer_flush(connection);
        }
    }
    free(message);
}

static void produce_slowly(void)
{
    struct timespec next;
    uint8_t *message = new_message();
    prctl(PR_SET_TIMERSLACK, 1ul); /* the default lets each sleep be 50 us late */
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (uint64_t i = 0; i < config.count; i++) {
        next.tv_nsec += LATENCY_PERIOD_NS;
        if (next.tv_nsec >= 1000000000) {
            next.tv_nsec -= 1000000000;
            next.tv_sec++;
        }
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL) == EINTR)
            ;
        bench_fill(message, 0, i);
        uint64_t now = bench_now();
        memcpy(message + 8, &now, sizeof now);
        peer_send(0, message, config.size);
        peer_flush(0);
    }
    free(message);
}

/* A line, or the end of the input: the run is over. */
static void await_driver(void)
{
    char byte;
    ssize_t got;
    do
        got = read(STDIN_FILENO, &byte, 1);
    while (got == 1 ? byte != '\n' : got < 0 && errno == EINTR);
}

static void produce_idle(void)
{
    uint8_t *message = new_message();
    for (uint64_t i = 0; i < IDLE_WARM_UP; i++) {
        bench_fill(message, 0, i);
        peer_send(0, message, config.size);
    }
    peer_flush(0);
    await_driver(); /* the receiver weighs itself */
    peer_idle_connections(&config, 1, config.connections);
    free(message);
}

static void produce_all(struct producer *producers)
{
    if (config.mode == MODE_LATENCY)
        produce_slowly();
    else if (config.mode == MODE_IDLE)
        produce_idle();
    else if (config.connections > 1)
        produce_round();
    else if (config.timed)
        produce_timed(&producers[0]);
    else if (config.threads == 1)
        produce(&producers[0]);
    else {
        for (unsigned i = 0; i < config.threads; i++)
            start_thread(produce, &producers[i], &producers[i].thread);
        for (unsigned i = 0; i < config.threads; i++)
            pthread_join(producers[i].thread, NULL);
    }
}

static int send_all(void)
{
    struct config own = config;
    struct producer *producers = calloc(config.threads, sizeof *producers);
    for (unsigned i = 0; i < config.threads; i++)
        producers[i].stream = i;
    if (config.threads > 1 && !peer_shares_connection)
        own.connections = config.threads;
    if (config.mode == MODE_IDLE)
        own.connections = 1;
    peer_connect(&own);
    getrusage(RUSAGE_SELF, &usage_before);
    uint64_t begin = bench_now();
    produce_all(producers);
    uint64_t end = bench_now();
    await_driver();
    printf("{\"sending\": %.9f, ", (double)(end - begin) / 1e9);
    struct producer *timed = &producers[0];
    if (timed->burst_count > 0) {
        double sum = 0;
        for (size_t i = 0; i < timed->burst_count; i++)
            sum += (double)timed->bursts[i];
        qsort(timed->bursts, timed->burst_count, sizeof *timed->bursts, compare);
        printf("\"enqueue_ns\": %.2f, \"enqueue_mean_ns\": %.2f, \"enqueue_bursts\": %zu, ",
               (double)timed->bursts[timed->burst_count / 2] / TIMED_BURST,
               sum / (double)timed->burst_count / TIMED_BURST, timed->burst_count);
    }
    print_costs();
    end_run(0);
}

static int rest(void)
{
    peer_rest(&config);
    usleep(200000);
    printf("{\"rss_kib\": %lu, \"private_kib\": %lu, ", proc_kib("/proc/self/status", "VmRSS:"), private_memory());
    print_costs();
    _exit(0);
}

static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static enum mode mode_named(const char *name)
{
    const char *const names[] = {"stream", "latency", "idle", "rest"};
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0)
            return (enum mode)i;
    }
    bench_fail("unknown mode %s", name);
}

static void parse(const char *argument)
{
    const char *value = strchr(argument, '=');
    if (value == NULL)
        bench_fail("not KEY=VALUE: %s", argument);
    size_t key = (size_t)(value++ - argument);
    unsigned long long number = strtoull(value, NULL, 10);
#define KEY(name) (key == sizeof(name) - 1 && memcmp(argument, name, key) == 0)
    if (KEY("path"))
        config.path = value;
    else if (KEY("mode"))
        config.mode = mode_named(value);
    else if (KEY("size"))
        config.size = number;
    else if (KEY("count"))
        config.count = number;
    else if (KEY("connections"))
        config.connections = (unsigned)number;
    else if (KEY("threads"))
        config.threads = (unsigned)number;
    else if (KEY("queue"))
        config.queue = (uint32_t)number;
    else if (KEY("queue_bytes"))
        config.queue_bytes = number;
    else if (KEY("chunk"))
        config.chunk = number;
    else if (KEY("patience"))
        config.patience = (unsigned)number;
    else if (KEY("batched"))
        config.batched = number != 0;
    else if (KEY("socket"))
        config.socket = number != 0;
    else if (KEY("framed"))
        config.framed = number != 0;
    else if (KEY("timed"))
        config.timed = number != 0;
    else if (KEY("waits"))
        config.waits = number != 0;
    else if (KEY("sum"))
        config.sum = number != 0;
    else
        bench_fail("unknown argument %s", argument);
#undef KEY
}

int main(int argc, char **argv)
{
    config = (struct config){.path = "", .size = 100, .count = 1, .connections = 1, .threads = 1, .queue = 10000,
                             .chunk = 32u << 10, .patience = 60};
    for (int i = 2; i < argc; i++)
        parse(argv[i]);
    raise_descriptor_limit();
    if (config.size < 16 || config.count == 0 || config.connections == 0 || config.threads == 0 ||
        (config.connections > 1 && config.threads > 1))
        bench_fail("size must be 16 or more, the other numbers 1 or more, and one of connections and threads 1");
    if (argc >= 2 && strcmp(argv[1], "recv") == 0)
        return receive();
    if (argc >= 2 && strcmp(argv[1], "send") == 0)
        return send_all();
    if (argc >= 2 && strcmp(argv[1], "rest") == 0)
        return rest();
    bench_fail("usage: %s recv|send|rest KEY=VALUE ...", argc > 0 ? argv[0] : "bench");
}
