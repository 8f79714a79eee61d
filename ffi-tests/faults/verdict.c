/* Readers that end at every moment, thousands of times, while their writers send as fast as they can.
 *
 * What the kernel says about the end of a peer comes in pieces that are far apart for a processor: EPIPE, the hang-up, the
 * error of the socket, the empty buffer. Whatever order a writer meets them in, what its readers did not get lies within
 * suspected_lost; and after ends in order nothing is missing and nothing is suspected.
 */
#include "../support/account.h"

#define SECONDS 6

/* Many in one send, and one in many pieces of the kernel's, so that the end finds the send in the middle. */
static const size_t lengths[] = {16, 300000};
#define WRITERS 2

enum end {
    OVER_UNREAD,      /* close(2) while there may be unread bytes: they are thrown away */
    IN_ORDER,         /* SHUT_RD, read to the end, close */
    IN_ORDER_IDLE,    /* as above, and the writer pauses now and then, so that its ends fall into idle moments */
};

struct pair {
    struct path path;
    enum end end;
    size_t len, frame;  /* of a message, without and with its prefix */
    udsipc_writer *writer;
    pthread_t producer, reader;
    atomic_bool producer_ends;
    _Atomic uint64_t accepted;
    uint64_t received, connections, disordered;
    uint64_t next;      /* the number that the next message must at least have */
    /* When the last connection began: what was missing and what was suspected; and how often the difference that one
       connection made to the first was more than that to the second. */
    uint64_t missing, suspected, exceeded;
    uint64_t seed;
};

static uint64_t draw(struct pair *pair, uint64_t below)
{
    pair->seed = pair->seed * 6364136223846793005u + 1442695040888963407u;
    return (pair->seed >> 33) % below;
}

static void *keep_writing(void *argument)
{
    struct pair *pair = (struct pair *)argument;
    uint8_t *message = (uint8_t *)calloc(1, pair->len);
    CHECK(message != NULL);
    while (!atomic_load(&pair->producer_ends)) {
        uint64_t number = atomic_load(&pair->accepted);
        memcpy(message, &number, sizeof number);
        memcpy(message + pair->len - sizeof number, &number, sizeof number);
        udsipc_status status = udsipc_write_message(pair->writer, message, pair->len);
        if (status == UDSIPC_OK)
            atomic_fetch_add(&pair->accepted, 1);
        else
            look_again_soon();
        if (pair->end == IN_ORDER_IDLE && number % (pair->len < 1000 ? 1000 : 5) == 0) look_again_soon();
    }
    free(message);
    return NULL;
}

/* Whole frames of one connection: a cut one is its writer's to send again. */
static void take(struct pair *pair, const uint8_t *stream, size_t len)
{
    for (size_t at = 0; at + pair->frame <= len; at += pair->frame) {
        uint64_t number, again;
        memcpy(&number, stream + at + pair->frame - pair->len, sizeof number);
        memcpy(&again, stream + at + pair->frame - sizeof again, sizeof again);
        if (number != again || number < pair->next) pair->disordered++;
        pair->next = number + 1;
        pair->received++;
    }
}

static ssize_t receive_some(int fd, uint8_t *buffer, size_t len)
{
    ssize_t got = 0;
    do
        got = recv(fd, buffer, len, 0);
    while (got < 0 && errno == EINTR);
    return got;
}

/* Reads up to `most` bytes, and to the end of the stream if that is 0. Returns how many there were. */
static size_t read_stream(int fd, uint8_t *buffer, size_t capacity, size_t done, size_t most)
{
    while (done < capacity && (most == 0 || done < most)) {
        ssize_t got = receive_some(fd, buffer + done, most == 0 ? capacity - done : most - done);
        if (got <= 0) break;
        done += (size_t)got;
    }
    return done;
}

static void spin_us(uint64_t microseconds)
{
    struct timespec begun, now;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    do
        clock_gettime(CLOCK_MONOTONIC, &now);
    while ((uint64_t)((now.tv_sec - begun.tv_sec) * 1000000 + (now.tv_nsec - begun.tv_nsec) / 1000) < microseconds);
}

/* A connection begins, so the verdict on the one before has been given. Its first message says what the other one lost. */
static void judge_the_last_one(struct pair *pair, const uint8_t *stream)
{
    uint64_t first, suspected = writer_metrics(pair->writer).suspected_lost;
    memcpy(&first, stream + pair->frame - pair->len, sizeof first);
    uint64_t missing = first - pair->received;
    if (missing - pair->missing > suspected - pair->suspected) pair->exceeded++;
    pair->missing = missing;
    pair->suspected = suspected;
}

static void *end_again_and_again(void *argument)
{
    struct pair *pair = (struct pair *)argument;
    const size_t capacity = 32 << 20; /* the queue's limit and more: the last connection gets all of it */
    uint8_t *stream = (uint8_t *)malloc(capacity);
    CHECK(stream != NULL);
    int listener = raw_listen(pair->path.text);
    uint64_t begun = now_ms();
    for (bool last = false; !last;) {
        int fd = raw_accept(listener);
        last = now_ms() - begun > SECONDS * 1000;
        if (last) atomic_store(&pair->producer_ends, true);
        pair->connections++;
        size_t len = read_stream(fd, stream, capacity, 0, pair->frame);
        if (len == pair->frame) judge_the_last_one(pair, stream);
        size_t more = draw(pair, draw(pair, 4) == 0 ? 200000 : 2000);
        if (!last) len = read_stream(fd, stream, capacity, len, pair->frame + more);
        if (!last && pair->end != OVER_UNREAD) CHECK(shutdown(fd, SHUT_RD) == 0);
        if (!last && draw(pair, 2) == 0) spin_us(draw(pair, 30));
        if (last || pair->end != OVER_UNREAD) len = read_stream(fd, stream, capacity, len, 0);
        take(pair, stream, len);
        close(fd);
    }
    close(listener);
    free(stream);
    return NULL;
}

static void run(enum end end)
{
    static struct pair pairs[WRITERS];
    for (int i = 0; i < WRITERS; i++) {
        char name[16];
        snprintf(name, sizeof name, "s%d", i);
        uint8_t prefix[10];
        pairs[i] = (struct pair){.path = in_scratch(name), .end = end, .len = lengths[i], .seed = (uint64_t)i + 1};
        pairs[i].frame = pairs[i].len + put_varint(prefix, pairs[i].len);
        udsipc_writer_options *options = udsipc_writer_options_new();
        CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 1));
        CHECK_OK(udsipc_writer_options_set_max_attempts(options, 0));
        CHECK_OK(udsipc_writer_options_set_max_buffered_bytes(options, 16 << 20));
        CHECK_OK(udsipc_writer_new(pairs[i].path.text, options, &pairs[i].writer));
        udsipc_writer_options_free(options);
        CHECK_OK(udsipc_writer_start(pairs[i].writer));
        CHECK(pthread_create(&pairs[i].reader, NULL, end_again_and_again, &pairs[i]) == 0);
        CHECK(pthread_create(&pairs[i].producer, NULL, keep_writing, &pairs[i]) == 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        struct pair *pair = &pairs[i];
        pthread_join(pair->producer, NULL);
        CHECK_OK(udsipc_writer_stop(pair->writer, PATIENCE_MS));
        pthread_join(pair->reader, NULL);
        udsipc_writer_metrics metrics = writer_metrics(pair->writer);
        printf("%" PRIu64 " connections, accepted %" PRIu64 ", received %" PRIu64 ", missing %" PRIu64
               ", suspected_lost %" PRIu64 "; too low %" PRIu64 " times\n",
               pair->connections, pair->accepted, pair->received, metrics.sent - pair->received, metrics.suspected_lost,
               pair->exceeded);
        fflush(stdout);
        CHECK_INT(metrics.sent, pair->accepted);
        CHECK_INT(metrics.abandoned, 0);
        CHECK_INT(metrics.queue_depth, 0);
        CHECK_INT(pair->disordered, 0);
        CHECK(pair->received <= metrics.sent);
        CHECK(metrics.sent - pair->received <= metrics.suspected_lost);
        CHECK_INT(pair->exceeded, 0);
        CHECK(pair->connections > (UNDER_CHECKER ? 5 : 100));
        if (end != OVER_UNREAD) CHECK_INT(metrics.suspected_lost, 0);
        udsipc_writer_free(pair->writer);
    }
}

static void ends_over_unread_messages(void)
{
    run(OVER_UNREAD);
}

static void ends_in_order(void)
{
    run(IN_ORDER);
}

static void ends_in_order_in_idle_moments(void)
{
    run(IN_ORDER_IDLE);
}

static const struct scenario scenarios[] = {
    SCENARIO(ends_over_unread_messages),
    SCENARIO(ends_in_order),
    SCENARIO(ends_in_order_in_idle_moments),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
