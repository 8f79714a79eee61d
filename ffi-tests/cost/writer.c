/*
 * writer instructions|stream PATH: what the writer's side of 100 byte messages costs.
 *
 * instructions: callgrind collects inside `measured` only. One thread does all (the writer is dispatched), so that
 * every run executes the same instructions. stream: the writer's own thread sends, another process reads, and the
 * preloaded counters say what the whole process did for a message once it was warm.
 */
#define _GNU_SOURCE
#include "cost.h"

static const uint8_t message[MESSAGE];

__attribute__((noinline)) static void measured(udsipc_writer *writer)
{
    for (int i = 0; i < ROUND; i++)
        require(udsipc_write_message(writer, message, sizeof message) == UDSIPC_OK, "write");
    require(udsipc_writer_dispatch(writer, 0) == UDSIPC_OK, "dispatch");
}

static uint64_t sent(const udsipc_writer *writer)
{
    udsipc_writer_metrics metrics;
    require(udsipc_writer_get_metrics(writer, &metrics, sizeof metrics) == UDSIPC_OK, "metrics");
    return metrics.sent;
}

static void instructions(udsipc_writer *writer, int listener)
{
    /* Connects, and warms up. */
    require(udsipc_write_message(writer, message, sizeof message) == UDSIPC_OK, "first write");
    require(udsipc_writer_dispatch(writer, 1000) == UDSIPC_OK, "first dispatch");
    int peer = accept(listener, NULL, NULL);
    require(peer >= 0, "accept");
    read_all(peer, FRAME);
    for (int round = 0; round < ROUNDS; round++) {
        measured(writer);
        require(sent(writer) == 1u + (uint64_t)(round + 1) * ROUND, "one dispatch sends a round");
        read_all(peer, (size_t)ROUND * FRAME);
    }
    printf("messages %d\n", ROUND * ROUNDS);
}

static void stream_messages(udsipc_writer *writer, uint64_t messages)
{
    for (uint64_t i = 0; i < messages; i++) {
        udsipc_status status = udsipc_write_message(writer, message, sizeof message);
        if (status == UDSIPC_ERR_BUFFER_FULL)
            status = udsipc_write_message_timeout(writer, message, sizeof message, UDSIPC_WAIT_FOREVER);
        require(status == UDSIPC_OK, "write");
    }
    require(udsipc_writer_flush(writer, 60000) == UDSIPC_OK, "flush");
}

static void stream(udsipc_writer *writer, pid_t child)
{
    require(udsipc_writer_start(writer) == UDSIPC_OK, "start");
    stream_messages(writer, WARM_UP);
    struct counts before = counts_now();
    stream_messages(writer, STREAM);
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
    require(argc == 3, "usage: writer instructions|stream PATH");
    int listener = raw_listener(argv[2]);
    int streams = strcmp(argv[1], "stream") == 0;
    pid_t child = streams ? reading_child(listener) : -1;
    udsipc_writer *writer = NULL;
    require(udsipc_writer_new(argv[2], NULL, &writer) == UDSIPC_OK, "writer");
    if (streams)
        stream(writer, child);
    else
        instructions(writer, listener);
    udsipc_writer_free(writer);
    return 0;
}
