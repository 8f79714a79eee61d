/*
 * nng, push0 to pull0 over ipc, with nng_msg, which the manual prefers to nng_send of a buffer: one copy fewer. Sockets
 * may be shared between threads. nng_sendmsg waits when the queue is full.
 */
#include "bench.h"

#include <nng/nng.h>
#include <nng/protocol/pipeline0/pull.h>
#include <nng/protocol/pipeline0/push.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LONGEST_QUEUE 8192u /* nng takes no larger number */

const bool peer_shares_connection = true;
const bool peer_has_messages = true;

static nng_socket receiver;
static nng_socket *senders;
static char endpoint[256];

static void check(int result, const char *what)
{
    if (result != 0)
        bench_fail("%s: %s", what, nng_strerror(result));
}

/* Not every version has a queue at each end of a pipeline. */
static void set_queue(nng_socket socket, const char *option, const struct config *config)
{
    uint32_t limit = config->queue < LONGEST_QUEUE ? config->queue : LONGEST_QUEUE;
    int result = nng_socket_set_int(socket, option, (int)limit);
    if (result != NNG_ENOTSUP)
        check(result, option);
}

void peer_listen(const struct config *config)
{
    snprintf(endpoint, sizeof endpoint, "ipc://%s", config->path);
    check(nng_pull0_open(&receiver), "nng_pull0_open");
    set_queue(receiver, NNG_OPT_RECVBUF, config);
    check(nng_socket_set_size(receiver, NNG_OPT_RECVMAXSZ, 0), "NNG_OPT_RECVMAXSZ");
    check(nng_listen(receiver, endpoint, NULL, 0), "nng_listen");
}

void peer_receive(void)
{
    while (!bench_is_complete()) {
        nng_msg *message;
        check(nng_recvmsg(receiver, &message, 0), "nng_recvmsg");
        bench_received(nng_msg_body(message), nng_msg_len(message));
        nng_msg_free(message);
    }
}

void peer_connect(const struct config *config)
{
    snprintf(endpoint, sizeof endpoint, "ipc://%s", config->path);
    senders = calloc(config->connections, sizeof *senders);
    for (unsigned i = 0; i < config->connections; i++) {
        check(nng_push0_open(&senders[i]), "nng_push0_open");
        set_queue(senders[i], NNG_OPT_SENDBUF, config);
        check(nng_dial(senders[i], endpoint, NULL, 0), "nng_dial");
    }
}

bool peer_send(unsigned connection, const uint8_t *data, size_t len)
{
    nng_msg *message;
    check(nng_msg_alloc(&message, len), "nng_msg_alloc");
    memcpy(nng_msg_body(message), data, len);
    int result = nng_sendmsg(senders[connection], message, NNG_FLAG_NONBLOCK);
    if (result == 0)
        return false;
    if (result != NNG_EAGAIN)
        check(result, "nng_sendmsg");
    check(nng_sendmsg(senders[connection], message, 0), "nng_sendmsg");
    return true;
}

void peer_flush(unsigned connection)
{
    (void)connection;
}

/* One socket, many pipes: push0 gives a message to each pipe that is ready, in turn. */
void peer_idle_connections(const struct config *config, unsigned first, unsigned end)
{
    uint8_t *message = calloc(1, config->size);
    for (unsigned i = first; i < end; i++)
        check(nng_dial(senders[0], endpoint, NULL, 0), "nng_dial");
    for (unsigned i = first; i < end; i++) {
        bench_fill(message, i, 0);
        peer_send(0, message, config->size);
    }
    free(message);
}

void peer_rest(const struct config *config)
{
    peer_listen(config);
    peer_connect(config);
}
