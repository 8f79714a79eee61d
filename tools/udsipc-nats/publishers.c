/* The publishers: one for each callback that runs, with a context of the connection to the engine. */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "publisher.h"

#define ID_SIZE 64

static void describe(struct batch *batch, const udsipc_connection *connection)
{
    uint8_t id[16];
    batch->sequence = 0;
    if (udsipc_connection_writer_id(connection, id) != UDSIPC_OK)
        return; /* a plain peer */
    batch->sequence = udsipc_message_sequence(connection);
    for (size_t i = 0; i < sizeof id; i++)
        snprintf(batch->writer + 2 * i, 3, "%02x", id[i]);
}

natsStatus make_message(const struct batch *batch, size_t index, natsMsg **message)
{
    const udsipc_buffer *buffer = &batch->messages[index];
    natsStatus status = natsMsg_Create(message, batch->subject, NULL, (const char *)buffer->data, (int)buffer->len);
    if (status != NATS_OK || batch->sequence == 0)
        return status;
    char id[ID_SIZE];
    snprintf(id, sizeof id, "%s-%" PRIu64, batch->writer, batch->sequence + index);
    status = natsMsgHeader_Set(*message, "Nats-Msg-Id", id);
    if (status != NATS_OK) {
        natsMsg_Destroy(*message);
        *message = NULL;
    }
    return status;
}

/* With engine->lock held. There are as many as threads that call back, so one is free, or will be at once. */
static struct publisher *take_publisher(struct engine *engine)
{
    for (;;) {
        for (size_t i = 0; i < engine->publisher_count; i++) {
            if (engine->publishers[i].taken)
                continue;
            engine->publishers[i].taken = true;
            return &engine->publishers[i];
        }
        leave_if_stopped(engine);
        wait_until(&engine->free, &engine->lock, engine->stop_at);
    }
}

static void begin(struct publisher *publisher, size_t count)
{
    if (count > publisher->capacity) {
        free(publisher->entries);
        publisher->entries = malloc(count * sizeof *publisher->entries);
        publisher->capacity = count;
        if (publisher->entries == NULL) {
            report("out of memory");
            leave(publisher->engine, EXIT_FAILURE);
        }
    }
    memset(publisher->entries, 0, count * sizeof *publisher->entries);
    publisher->count = count;
    publisher->first = publisher->end = publisher->on_way = 0;
    publisher->window = publisher->engine->settings->in_flight;
}

size_t deliver(const udsipc_buffer *messages, size_t count, const udsipc_connection *connection, void *userdata)
{
    struct engine *engine = userdata;
    struct batch batch = {.messages = messages, .count = count};
    subject_for(engine->settings, connection, batch.subject);
    describe(&batch, connection);

    pthread_mutex_lock(&engine->lock);
    struct publisher *publisher = take_publisher(engine);
    begin(publisher, count);
    publish_all(publisher, &batch);
    publisher->taken = false;
    pthread_cond_signal(&engine->free);
    pthread_mutex_unlock(&engine->lock);
    return count;
}

/* One for each thread that may call back, and one for the thread that stops the reader. */
bool publishers_open(struct engine *engine)
{
    engine->publisher_count = engine->settings->threads + 1;
    engine->publishers = calloc(engine->publisher_count, sizeof *engine->publishers);
    if (engine->publishers == NULL) {
        report("out of memory");
        return false;
    }
    for (size_t i = 0; i < engine->publisher_count; i++) {
        engine->publishers[i].engine = engine;
        make_condition(&engine->publishers[i].changed);
    }
    return true;
}

/* Makes a context of the new connection for each publisher. Called while the engine is down, when no publisher looks at
 * `next`. A context costs nothing before its first publish. */
bool publishers_use(struct engine *engine, natsConnection *connection)
{
    for (size_t i = 0; i < engine->publisher_count; i++) {
        struct publisher *publisher = &engine->publishers[i];
        jsOptions options;
        jsOptions_Init(&options);
        options.PublishAsync.AckHandler = on_answer;
        options.PublishAsync.AckHandlerClosure = publisher;
        jsCtx_Destroy(publisher->next); /* of a connection that this publisher has not used */
        publisher->next = NULL;
        natsStatus status = natsConnection_JetStream(&publisher->next, connection, &options);
        if (status != NATS_OK) {
            report_limited(TOPIC_CLIENT, "cannot publish: %s", client_error(status));
            return false;
        }
    }
    return true;
}

/* With engine->lock held. */
void publishers_wake(struct engine *engine)
{
    for (size_t i = 0; i < engine->publisher_count; i++)
        pthread_cond_signal(&engine->publishers[i].changed);
}
