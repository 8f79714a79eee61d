/*
 * reader instructions|stream PATH [ledger]: what the reader's side of 100 byte messages costs, or of those of a writer that
 * wants them acknowledged. See writer.c.
 */
#define _GNU_SOURCE
#include "cost.h"

#include <stdatomic.h>

static uint8_t frames[ROUND * FRAME];
static atomic_uint_fast64_t received;
static int (*connection)(const char *path) = raw_connection;

static int32_t on_message(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)data;
    (void)connection;
    (void)userdata;
    require(len == MESSAGE, "the size of a message");
    /* Callbacks of one connection never overlap, so this needs no locked instruction. */
    uint64_t before = atomic_load_explicit(&received, memory_order_relaxed);
    atomic_store_explicit(&received, before + 1, memory_order_relaxed);
    return 0;
}

__attribute__((noinline)) static void measured(udsipc_reader *reader)
{
    require(udsipc_reader_dispatch(reader, 0) == UDSIPC_OK, "dispatch");
}

static void instructions(udsipc_reader *reader, const char *path)
{
    int peer = connection(path);
    write_all(peer, frames, FRAME);
    while (received == 0)
        require(udsipc_reader_dispatch(reader, 1000) == UDSIPC_OK, "first dispatch");
    for (int round = 0; round < ROUNDS; round++) {
        write_all(peer, frames, sizeof frames);
        uint64_t expected = 1u + (uint64_t)(round + 1) * ROUND;
        while (received < expected)
            measured(reader);
    }
    printf("messages %d\n", ROUND * ROUNDS);
}

static void write_rounds(int fd, int messages)
{
    for (int i = 0; i < messages / ROUND; i++)
        write_all(fd, frames, sizeof frames);
    write_all(fd, frames, (size_t)(messages % ROUND) * FRAME);
}

/* Sends the second part when it is told that the first has arrived. */
static pid_t writing_child(int go)
{
    char path[128];
    pid_t child = fork();
    require(child >= 0, "fork");
    if (child != 0)
        return child;
    ssize_t got = read(go, path, sizeof path);
    if (got <= 0)
        _exit(1);
    int fd = connection(path);
    write_rounds(fd, WARM_UP);
    if (read(go, path, 1) != 1)
        _exit(1);
    write_rounds(fd, STREAM);
    if (read(go, path, 1) != 1)
        _exit(1);
    _exit(0);
}

static void await(uint64_t messages)
{
    while (received < messages)
        usleep(1000); /* not through the counters: see count.c */
}

static void stream(udsipc_reader *reader, const char *path, pid_t child, int go)
{
    require(udsipc_reader_start(reader) == UDSIPC_OK, "start");
    require(write(go, path, strlen(path) + 1) == (ssize_t)strlen(path) + 1, "tell the child");
    await(WARM_UP);
    struct counts before = counts_now();
    require(write(go, "x", 1) == 1, "tell the child");
    await(WARM_UP + STREAM);
    print_counts(before, STREAM);
    require(write(go, "x", 1) == 1, "tell the child");
    int status;
    require(waitpid(child, &status, 0) == child && status == 0, "the child wrote everything");
}

int main(int argc, char **argv)
{
    require(argc == 3 || argc == 4, "usage: reader instructions|stream PATH [ledger]");
    if (argc == 4)
        connection = named_connection;
    for (int i = 0; i < ROUND; i++)
        frames[i * FRAME] = MESSAGE;
    int streams = strcmp(argv[1], "stream") == 0;
    int go[2];
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, go) == 0, "socketpair");
    pid_t child = streams ? writing_child(go[1]) : -1;
    udsipc_reader *reader = NULL;
    require(udsipc_reader_new(argv[2], on_message, NULL, NULL, &reader) == UDSIPC_OK, "reader");
    if (streams)
        stream(reader, argv[2], child, go[0]);
    else
        instructions(reader, argv[2]);
    udsipc_reader_free(reader);
    return 0;
}
