/*
 * What every peer of the side-by-side bench does alike: arguments, what is sent, what is counted, what is printed.
 * A peer is a file that supplies the functions at the end of this header and is linked with bench.c.
 */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A run has `streams` streams of `count` messages each. A stream is a connection (`threads` is 1 then: one thread sends
 * bursts over the connections in turn), or a producer thread (all of them on one connection, if the peer allows it).
 */
enum mode {
    MODE_STREAM,  /* as fast as it goes */
    MODE_LATENCY, /* one message each 200 us, stamped */
    MODE_IDLE,    /* many connections that have sent one message each */
    MODE_REST     /* a started reader and writer that do nothing */
};

struct config {
    const char *path;
    enum mode mode;
    size_t size;           /* bytes of a message, at least 16 */
    uint64_t count;        /* messages of each stream */
    unsigned connections;
    unsigned threads;
    uint32_t queue;        /* limit of the queue in messages, for every peer the same */
    uint64_t queue_bytes;  /* limit of the queue in bytes, for peers that have such a limit */
    size_t chunk;          /* raw socket: bytes of a write */
    unsigned patience;     /* seconds until a run counts as failed */
    bool batched;          /* libudsipc: the callback that takes many messages */
    bool socket;           /* libudsipc: no shared memory */
    bool framed;           /* raw socket: prefix the messages of an idle connection with their length */
    bool timed;            /* measure the caller's time for an enqueue */
    bool waits;            /* libudsipc: each message is written with the call that waits for room, when there is room too */
    bool sum;              /* the receiver reads every byte of a message, and not only its beginning and its last byte */
};

/* Ends the program with a message: a bench that goes on after an error measures nothing. */
_Noreturn void bench_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint64_t bench_now(void); /* CLOCK_MONOTONIC in nanoseconds: the same clock in both processes */

/* The receiver calls this for each message; any thread may, but for one stream only one at a time. */
void bench_received(const uint8_t *data, size_t len);
/* For a receiver of bytes without messages. */
void bench_received_bytes(const uint8_t *data, size_t len);
bool bench_is_complete(void);
/* For peers that leave something behind where a process just ends: called when everything is measured. */
void bench_at_end(void (*leave)(void));
/* For peers that receive on threads of their own. */
void bench_wait_until_complete(void);

/* Supplied by the peer. */
extern const bool peer_shares_connection; /* many threads may send on one connection */
extern const bool peer_has_messages;      /* false: a stream of bytes, counted as such */
void peer_listen(const struct config *config);                      /* returns when others can connect */
void peer_receive(void);                                            /* returns when bench_is_complete() */
void peer_connect(const struct config *config);                     /* all connections of the sender */
bool peer_send(unsigned connection, const uint8_t *data, size_t len); /* waits for room; true: it had to */
void peer_flush(unsigned connection);                               /* what it gathered itself is on its way */
void peer_idle_connections(const struct config *config, unsigned first, unsigned end); /* one message on each */
void peer_rest(const struct config *config);                        /* a started reader and writer, connected */

/* For peer_idle_connections: the message of a stream. */
void bench_fill(uint8_t *message, unsigned stream, uint64_t sequence);

#endif
