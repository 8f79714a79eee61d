/* udsipc-nats: what its files share. main.c says what the program does, publisher.c what it promises and why.
 *
 * Threads: the reader's threads run deliver() (publishers.c); one thread connects to the engine (engine.c); libnats has threads
 * of its own, which call back for acknowledgements and for the end of a connection; the main thread waits for signals.
 *
 * One lock, engine.lock, guards everything below that changes after the start. No function of libnats that may wait for the
 * network is called while it is held.
 */
#ifndef UDSIPC_NATS_BRIDGE_H
#define UDSIPC_NATS_BRIDGE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <nats/nats.h>
#include <udsipc.h>

#define MAX_LIST 64         /* entries of an option that may be given several times */
#define SUBJECT_SIZE 512    /* of a whole subject, with its NUL */
#define REASON_SIZE 256

/* EX_TEMPFAIL of sysexits.h: stopped before the engine had everything; acknowledging writers keep the rest. */
#define EXIT_UNDELIVERED 75

struct label {
    uint32_t uid;
    const char *text;
};

/* The command line. */
struct settings {
    const char *socket_path;
    const char *subject; /* with {uid} or {label} in it */
    const char *servers[MAX_LIST];
    size_t server_count;
    struct label labels[MAX_LIST];
    size_t label_count;
    uint32_t allow_uids[MAX_LIST];
    size_t allow_uid_count;
    const char *credentials, *tls_ca, *tls_cert, *tls_key; /* files, or NULL */
    const char *create_stream;                             /* a name, or NULL */
    uint64_t duplicate_window_s;
    uint32_t in_flight; /* publishes of one writer that may wait for their acknowledgement */
    uint32_t threads;   /* writers that are served at the same time */
    uint64_t ack_timeout_ms, stop_time_ms;
    uint32_t socket_mode;
    bool has_socket_mode;
};

struct counters {
    uint64_t stored;          /* acknowledged: the stream had not seen the message */
    uint64_t repeated;        /* acknowledged: the stream had it already, and dropped this copy */
    uint64_t published_again; /* publishes of a message after its first in this process */
    uint64_t refused;         /* answers of the engine that were errors */
    uint64_t out_of_order;    /* messages that the stream has in front of their predecessor */
    uint64_t connects;
};

struct publisher;

struct engine {
    const struct settings *settings;
    natsOptions *options;
    pthread_mutex_t lock;
    pthread_cond_t down; /* `up` has become false */
    pthread_cond_t free; /* a publisher has become free */
    bool up;             /* connected, and a stream takes the subject */
    natsConnection *connection;
    uint64_t generation;  /* of the connection: one more for each */
    uint64_t max_message; /* the largest payload that the engine takes; 0 before the first connection */
    struct publisher *publishers;
    size_t publisher_count;
    int64_t stop_at; /* when callbacks give up waiting and end the process; INT64_MAX before a stop */
    struct counters counters;
};

/* options.c: parses the command line; prints the reason and returns false if it is wrong. Exits after --help. */
bool parse_settings(int argc, char **argv, struct settings *settings);

/* subject.c */
bool subject_is_valid(const struct settings *settings);
void subject_for(const struct settings *settings, const udsipc_connection *connection, char subject[SUBJECT_SIZE]);
void subject_filter(const struct settings *settings, char filter[SUBJECT_SIZE]);

/* stream.c */
enum stream_state { STREAM_FOUND, STREAM_UNKNOWN, STREAM_MISSING };
enum stream_state check_stream(natsConnection *connection, const struct settings *settings, uint64_t *max_message);

/* engine.c; engine_lost and wait_until with engine->lock held */
bool engine_open(struct engine *engine, const struct settings *settings);
bool engine_start(struct engine *engine);
void engine_lost(struct engine *engine, uint64_t generation, const char *reason);
int64_t now_ms(void);
const char *client_error(natsStatus status);
void make_condition(pthread_cond_t *condition);
void wait_until(pthread_cond_t *condition, pthread_mutex_t *lock, int64_t time_ms);

/* publishers.c; publishers_wake with engine->lock held */
bool publishers_open(struct engine *engine);
bool publishers_use(struct engine *engine, natsConnection *connection);
void publishers_wake(struct engine *engine);
size_t deliver(const udsipc_buffer *messages, size_t count, const udsipc_connection *connection, void *userdata);

/* report.c */
enum topic { TOPIC_CONNECT, TOPIC_STREAM, TOPIC_LOST, TOPIC_REFUSED, TOPIC_ORDER, TOPIC_CLIENT, TOPIC_READER, TOPICS };
void report(const char *format, ...) __attribute__((format(printf, 1, 2)));
void report_limited(enum topic topic, const char *format, ...) __attribute__((format(printf, 2, 3)));
void report_progress(const struct counters *counters, const udsipc_reader_metrics *metrics);
void report_totals(const struct counters *counters);

#endif
