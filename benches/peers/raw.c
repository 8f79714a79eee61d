/*
 * The floor: write of whole chunks and read of 256 KiB, nothing else. No messages, so nothing is decoded or counted but
 * bytes, and what the others look at in each message is looked at in each read; only the latency run receives messages,
 * each read by itself.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define READ_SIZE (256u << 10)
#define SEND_BUFFER (256 << 10) /* what libudsipc and the Go library ask for */

const bool peer_shares_connection = true;
const bool peer_has_messages = false;

static const struct config *config;
static int listener;

/* What is gathered for one connection until it fills a chunk. */
static struct output {
    int fd;
    size_t filled;
    uint8_t *chunk;
} *outputs;

static struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        bench_fail("path too long: %s", path);
    strcpy(address.sun_path, path);
    return address;
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = address_of(path);
    int size = SEND_BUFFER;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) != 0)
        bench_fail("cannot connect to %s: %s", path, strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    return fd;
}

static void write_all(int fd, const uint8_t *data, size_t len)
{
    while (len > 0) {
        ssize_t written = write(fd, data, len);
        if (written < 0)
            bench_fail("write: %s", strerror(errno));
        data += written;
        len -= (size_t)written;
    }
}

/* The prefix of uvarint framing is one byte for a message this short. */
static void write_frame(int fd, const uint8_t *data, size_t len)
{
    uint8_t frame[128] = {(uint8_t)len};
    if (len > 127)
        bench_fail("a framed message has at most 127 bytes");
    memcpy(frame + 1, data, len);
    write_all(fd, frame, len + 1);
}

void peer_listen(const struct config *given)
{
    config = given;
    struct sockaddr_un address = address_of(config->path);
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 4096) != 0)
        bench_fail("cannot listen at %s: %s", config->path, strerror(errno));
}

static int accept_one(void)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        bench_fail("accept: %s", strerror(errno));
    return fd;
}

static void receive_one(uint8_t *buffer)
{
    int fd = accept_one();
    while (!bench_is_complete()) {
        ssize_t got = read(fd, buffer, READ_SIZE);
        if (got <= 0)
            bench_fail("read: %s", got == 0 ? "the sender has gone" : strerror(errno));
        bench_received_bytes(buffer, (size_t)got);
    }
}

static void receive_many(uint8_t *buffer)
{
    struct epoll_event events[64];
    int poller = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned i = 0; i < config->connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = accept_one()};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, event.data.fd, &event) != 0)
            bench_fail("epoll_ctl: %s", strerror(errno));
    }
    while (!bench_is_complete()) {
        int ready = epoll_wait(poller, events, 64, -1);
        for (int i = 0; i < ready; i++) {
            ssize_t got = read(events[i].data.fd, buffer, READ_SIZE);
            if (got <= 0)
                bench_fail("read: %s", got == 0 ? "a sender has gone" : strerror(errno));
            bench_received_bytes(buffer, (size_t)got);
        }
    }
}

/* The time of each message is taken when its last byte is there. */
static void receive_messages(uint8_t *buffer)
{
    int fd = accept_one();
    size_t filled = 0;
    while (!bench_is_complete()) {
        ssize_t got = read(fd, buffer + filled, config->size - filled);
        if (got <= 0)
            bench_fail("read: %s", got == 0 ? "the sender has gone" : strerror(errno));
        filled += (size_t)got;
        if (filled == config->size) {
            bench_received(buffer, filled);
            bench_received_bytes(buffer, filled);
            filled = 0;
        }
    }
}

void peer_receive(void)
{
    uint8_t *buffer = malloc(READ_SIZE);
    if (config->mode == MODE_LATENCY)
        receive_messages(buffer);
    else if (config->connections == 1)
        receive_one(buffer);
    else
        receive_many(buffer);
    free(buffer);
}

void peer_connect(const struct config *given)
{
    config = given;
    outputs = calloc(config->connections, sizeof *outputs);
    for (unsigned i = 0; i < config->connections; i++) {
        outputs[i].fd = connect_to(config->path);
        outputs[i].chunk = malloc(config->chunk);
    }
}

/* A message as long as a chunk is written as it is; what gathers shorter ones is not part of the floor. */
bool peer_send(unsigned connection, const uint8_t *data, size_t len)
{
    struct output *output = &outputs[connection];
    if (config->framed) {
        write_frame(output->fd, data, len);
        return false;
    }
    if (output->filled == 0 && len == config->chunk) {
        write_all(output->fd, data, len);
        return false;
    }
    while (len > 0) {
        size_t part = config->chunk - output->filled < len ? config->chunk - output->filled : len;
        memcpy(output->chunk + output->filled, data, part);
        output->filled += part;
        data += part;
        len -= part;
        if (output->filled == config->chunk)
            peer_flush(connection);
    }
    return false;
}

void peer_flush(unsigned connection)
{
    write_all(outputs[connection].fd, outputs[connection].chunk, outputs[connection].filled);
    outputs[connection].filled = 0;
}

void peer_idle_connections(const struct config *given, unsigned first, unsigned end)
{
    uint8_t message[127] = {0};
    for (unsigned i = first; i < end; i++) {
        bench_fill(message, i, 0);
        write_frame(connect_to(given->path), message, given->size);
    }
}

/* An empty program, to compare with. */
void peer_rest(const struct config *given)
{
    (void)given;
}
