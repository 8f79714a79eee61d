/* What the two cost programs share: the size of the work, and the counters of count.c if it is loaded. */
#ifndef COST_H
#define COST_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <udsipc.h>

/* A round fits into the kernel's buffer of one connection, so that one thread can fill it and then empty it. */
enum { MESSAGE = 100, FRAME = MESSAGE + 1, ROUND = 1500, ROUNDS = 40, STREAM = 2000000, WARM_UP = 200000 };

/* Supplied by count.c by way of LD_PRELOAD; absent otherwise. */
extern uint64_t count_of_allocations(void) __attribute__((weak));
extern uint64_t count_of_system_calls(void) __attribute__((weak));

static inline void fail(const char *what)
{
    char text[512] = "";
    udsipc_last_error_message(text, sizeof text);
    fprintf(stderr, "%s: %s\n", what, text);
    perror("the last errno");
    exit(1);
}

static inline void require(int holds, const char *what)
{
    if (!holds)
        fail(what);
}

static inline int raw_socket(const char *path, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    require(strlen(path) < sizeof address->sun_path, "the path is too long");
    strcpy(address->sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    require(fd >= 0, "socket");
    return fd;
}

static inline int raw_listener(const char *path)
{
    struct sockaddr_un address;
    int fd = raw_socket(path, &address);
    require(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 16) == 0, "listen");
    return fd;
}

static inline int raw_connection(const char *path)
{
    struct sockaddr_un address;
    int fd = raw_socket(path, &address), size = 256 << 10;
    require(connect(fd, (struct sockaddr *)&address, sizeof address) == 0, "connect");
    require(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0, "SO_SNDBUF");
    return fd;
}

/* As a writer that wants its messages acknowledged. What the reader sends is left alone. */
static inline int named_connection(const char *path)
{
    static const char name[] = "udsipc/1/%032x/%016x/1";
    struct sockaddr_un own = {.sun_family = AF_UNIX}, address;
    int fd = raw_socket(path, &address), size = 256 << 10;
    int length = snprintf(own.sun_path + 1, sizeof own.sun_path - 1, name, (unsigned)getpid(), 1u);
    require(bind(fd, (struct sockaddr *)&own, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)) == 0, "bind");
    require(connect(fd, (struct sockaddr *)&address, sizeof address) == 0, "connect");
    require(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size) == 0, "SO_SNDBUF");
    return fd;
}

static inline void write_all(int fd, const uint8_t *data, size_t len)
{
    while (len > 0) {
        ssize_t written = write(fd, data, len);
        require(written > 0, "write");
        data += written;
        len -= (size_t)written;
    }
}

static inline void read_all(int fd, size_t len)
{
    static uint8_t buffer[256 << 10];
    while (len > 0) {
        ssize_t got = read(fd, buffer, len < sizeof buffer ? len : sizeof buffer);
        require(got > 0, "read");
        len -= (size_t)got;
    }
}

struct counts {
    uint64_t allocations, system_calls;
};

static inline struct counts counts_now(void)
{
    require(count_of_allocations != NULL && count_of_system_calls != NULL, "count.so is not preloaded");
    return (struct counts){count_of_allocations(), count_of_system_calls()};
}

static inline void print_counts(struct counts before, uint64_t messages)
{
    struct counts after = counts_now();
    printf("messages %llu allocations %llu system_calls %llu\n", (unsigned long long)messages,
           (unsigned long long)(after.allocations - before.allocations),
           (unsigned long long)(after.system_calls - before.system_calls));
}

#endif
