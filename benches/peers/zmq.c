/*
 * libzmq, PUSH to PULL over ipc. A socket must not be shared between threads, so each producer thread has one of its
 * own, as the guide says. zmq_send copies the message, and waits when the queue is at its high-water mark.
 */
#include "bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <zmq.h>

const bool peer_shares_connection = false;
const bool peer_has_messages = true;

static void *context;
static void *receiver;
static void **senders;
static char endpoint[256];

static void check(int result, const char *what)
{
    if (result < 0)
        bench_fail("%s: %s", what, zmq_strerror(errno));
}

static void *new_socket(int type, const struct config *config)
{
    int limit = (int)config->queue;
    void *socket = zmq_socket(context, type);
    if (socket == NULL)
        bench_fail("zmq_socket: %s", zmq_strerror(errno));
    check(zmq_setsockopt(socket, type == ZMQ_PUSH ? ZMQ_SNDHWM : ZMQ_RCVHWM, &limit, sizeof limit), "high-water mark");
    return socket;
}

static void new_context(const struct config *config)
{
    context = zmq_ctx_new();
    check(zmq_ctx_set(context, ZMQ_MAX_SOCKETS, (int)config->connections + 1024), "ZMQ_MAX_SOCKETS");
    snprintf(endpoint, sizeof endpoint, "ipc://%s", config->path);
}

void peer_listen(const struct config *config)
{
    int backlog = 4096; /* as many as the others: the default of 100 is for few connections */
    new_context(config);
    receiver = new_socket(ZMQ_PULL, config);
    check(zmq_setsockopt(receiver, ZMQ_BACKLOG, &backlog, sizeof backlog), "ZMQ_BACKLOG");
    check(zmq_bind(receiver, endpoint), "zmq_bind");
}

void peer_receive(void)
{
    zmq_msg_t message;
    check(zmq_msg_init(&message), "zmq_msg_init");
    while (!bench_is_complete()) {
        check(zmq_msg_recv(&message, receiver, 0), "zmq_msg_recv");
        bench_received(zmq_msg_data(&message), zmq_msg_size(&message));
    }
}

void peer_connect(const struct config *config)
{
    new_context(config);
    senders = calloc(config->connections, sizeof *senders);
    for (unsigned i = 0; i < config->connections; i++) {
        senders[i] = new_socket(ZMQ_PUSH, config);
        check(zmq_connect(senders[i], endpoint), "zmq_connect");
    }
}

bool peer_send(unsigned connection, const uint8_t *data, size_t len)
{
    if (zmq_send(senders[connection], data, len, ZMQ_DONTWAIT) >= 0)
        return false;
    if (errno != EAGAIN)
        check(-1, "zmq_send");
    check(zmq_send(senders[connection], data, len, 0), "zmq_send");
    return true;
}

void peer_flush(unsigned connection)
{
    (void)connection;
}

/* A PUSH socket may connect any number of times; it then deals its messages out in turn. */
void peer_idle_connections(const struct config *config, unsigned first, unsigned end)
{
    uint8_t *message = calloc(1, config->size);
    for (unsigned i = first; i < end; i++)
        check(zmq_connect(senders[0], endpoint), "zmq_connect");
    for (unsigned i = first; i < end; i++) {
        bench_fill(message, i, 0);
        peer_send(0, message, config->size);
    }
    free(message);
}

void peer_rest(const struct config *config)
{
    peer_listen(config);
    senders = calloc(1, sizeof *senders);
    senders[0] = new_socket(ZMQ_PUSH, config);
    check(zmq_connect(senders[0], endpoint), "zmq_connect");
}
