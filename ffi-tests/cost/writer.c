/*
 * writer instructions|stream PATH [plain|timed|many]: what the writer's side of 100 byte messages costs, written with
 * udsipc_write_message, udsipc_write_message_timeout or udsipc_write_messages.
 *
 * instructions: callgrind collects inside `measured` only. One thread does all (the writer is dispatched), so that
 * every run executes the same instructions. stream: the writer's own thread sends, another process reads, and the
 * preloaded counters say what the whole process did for a message once it was warm.
 */
#define _GNU_SOURCE
#include "cost.h"

enum { MANY = 500 }; /* messages in one call of udsipc_write_messages; ROUND is a multiple */

static const uint8_t message[MESSAGE];
static udsipc_buffer many[MANY];

static udsipc_status write_plain(udsipc_writer *writer)
{
    return udsipc_write_message(writer, message, sizeof message);
}

static udsipc_status write_timed(udsipc_writer *writer)
{
    return udsipc_write_message_timeout(writer, message, sizeof message, 60000);
}

static udsipc_status write_many(udsipc_writer *writer)
{
    size_t accepted;
    udsipc_status status = udsipc_write_messages(writer, many, MANY, &accepted);
    require((status == UDSIPC_OK) == (accepted == MANY), "all or a reason");
    return status;
}

/* One kind of call, and how many messages it writes. */
struct way {
    const char *name;
    udsipc_status (*write)(udsipc_writer *writer);
    int messages;
};

static const struct way ways[] = {{"plain", write_plain, 1}, {"timed", write_timed, 1}, {"many", write_many, MANY}};

static const struct way *way_named(const char *name)
{
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        if (strcmp(ways[i].name, name) == 0)
            return &ways[i];
    }
    fail("plain, timed or many?");
    return NULL;
}

__attribute__((noinline)) static void measured(udsipc_writer *writer, const struct way *way)
{
    for (int i = 0; i < ROUND; i += way->messages)
        require(way->write(writer) == UDSIPC_OK, "write");
    require(udsipc_writer_dispatch(writer, 0) == UDSIPC_OK, "dispatch");
}

static uint64_t sent(const udsipc_writer *writer)
{
    udsipc_writer_metrics metrics;
    require(udsipc_writer_get_metrics(writer, &metrics, sizeof metrics) == UDSIPC_OK, "metrics");
    return metrics.sent;
}

static void instructions(udsipc_writer *writer, int listener, const struct way *way)
{
    /* Connects, and warms up. */
    require(udsipc_write_message(writer, message, sizeof message) == UDSIPC_OK, "first write");
    require(udsipc_writer_dispatch(writer, 1000) == UDSIPC_OK, "first dispatch");
    int peer = accept(listener, NULL, NULL);
    require(peer >= 0, "accept");
    read_all(peer, FRAME);
    for (int round = 0; round < ROUNDS; round++) {
        measured(writer, way);
        require(sent(writer) == 1u + (uint64_t)(round + 1) * ROUND, "one dispatch sends a round");
        read_all(peer, (size_t)ROUND * FRAME);
    }
    printf("messages %d\n", ROUND * ROUNDS);
}

/* As `many` messages as there is room for; the first that finds none waits, and the others follow it. */
static udsipc_status write_many_or_wait(udsipc_writer *writer)
{
    for (size_t done = 0; done < MANY;) {
        size_t accepted;
        udsipc_status status = udsipc_write_messages(writer, many + done, MANY - done, &accepted);
        done += accepted;
        if (status == UDSIPC_ERR_BUFFER_FULL) {
            status = udsipc_write_message_timeout(writer, message, sizeof message, UDSIPC_WAIT_FOREVER);
            done++;
        }
        if (status != UDSIPC_OK)
            return status;
    }
    return UDSIPC_OK;
}

static udsipc_status write_plain_or_wait(udsipc_writer *writer)
{
    udsipc_status status = write_plain(writer);
    return status == UDSIPC_ERR_BUFFER_FULL ? write_timed(writer) : status;
}

static void stream_messages(udsipc_writer *writer, uint64_t messages, const struct way *way)
{
    udsipc_status (*write)(udsipc_writer *) = way->write == write_plain ? write_plain_or_wait
                                              : way->write == write_many ? write_many_or_wait
                                                                         : write_timed;
    for (uint64_t i = 0; i < messages; i += (uint64_t)way->messages)
        require(write(writer) == UDSIPC_OK, "write");
    require(udsipc_writer_flush(writer, 60000) == UDSIPC_OK, "flush");
}

static void stream(udsipc_writer *writer, pid_t child, const struct way *way)
{
    require(udsipc_writer_start(writer) == UDSIPC_OK, "start");
    stream_messages(writer, WARM_UP, way);
    struct counts before = counts_now();
    stream_messages(writer, STREAM, way);
    print_counts(before, STREAM);
    int status;
    require(waitpid(child, &status, 0) == child && status == 0, "the child read everything");
}

/* Before the writer is made: handles are made after fork. */
static pid_t reading_child(int listener)
{
    pid_t child = fork();
    require(child >= 0, "fork");
    if (child == 0) {
        read_all(accept(listener, NULL, NULL), (size_t)(WARM_UP + STREAM) * FRAME);
        _exit(0);
    }
    return child;
}

int main(int argc, char **argv)
{
    require(argc == 3 || argc == 4, "usage: writer instructions|stream PATH [plain|timed|many]");
    const struct way *way = argc == 4 ? way_named(argv[3]) : &ways[0];
    for (int i = 0; i < MANY; i++)
        many[i] = (udsipc_buffer){message, sizeof message};
    int listener = raw_listener(argv[2]);
    int streams = strcmp(argv[1], "stream") == 0;
    pid_t child = streams ? reading_child(listener) : -1;
    udsipc_writer *writer = NULL;
    require(udsipc_writer_new(argv[2], NULL, &writer) == UDSIPC_OK, "writer");
    if (streams)
        stream(writer, child, way);
    else
        instructions(writer, listener, way);
    udsipc_writer_free(writer);
    return 0;
}
