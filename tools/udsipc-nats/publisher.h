/* What the files share that publish: publishers.c takes a batch, publisher.c publishes it. */
#ifndef UDSIPC_NATS_PUBLISHER_H
#define UDSIPC_NATS_PUBLISHER_H

#include "bridge.h"

/* One message of a batch. */
struct entry {
    natsMsg *published; /* which publish its acknowledgement belongs to; NULL while none is on its way */
    bool tried, acknowledged;
    uint64_t place; /* its sequence number in the stream; 0 if unknown */
};

/* What one running callback needs. */
struct publisher {
    struct engine *engine;
    bool taken;
    pthread_cond_t changed;
    jsCtx *context, *next; /* of the connection in use, and of a newer one */
    uint64_t generation;   /* of the connection to which `context` belongs */

    struct entry *entries;
    size_t capacity, count;
    size_t first;    /* the first that is not acknowledged */
    size_t end;      /* behind the last that this attempt has published */
    size_t on_way;   /* published and not answered */
    int64_t last_ms; /* of the last answer, or of the first publish since there was none on its way */
    size_t window;   /* how many may be on their way */
    size_t wake_at;  /* how few of them wake up the callback */
    bool refused;
    jsErrCode code;
    char reason[REASON_SIZE];
};

struct batch {
    const udsipc_buffer *messages;
    size_t count;
    uint64_t sequence; /* of the first message; 0 without an id */
    char writer[33];
    char subject[SUBJECT_SIZE];
};

/* publisher.c; all with engine->lock held, except on_answer, which is libnats' callback. */
void publish_all(struct publisher *publisher, const struct batch *batch);
void on_answer(jsCtx *context, natsMsg *message, jsPubAck *ack, jsPubAckErr *error, void *closure);
void leave_if_stopped(struct engine *engine);
_Noreturn void leave(struct engine *engine, int status);

/* publishers.c */
natsStatus make_message(const struct batch *batch, size_t index, natsMsg **message);

#endif
