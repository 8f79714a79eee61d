/* Publishes the messages of a batch, and returns when the engine has all of them.
 *
 * What is promised for the messages of one writer, and why:
 *
 *  1. Stored before acknowledged. The callback returns when each message of its batch has its own acknowledgement, which the
 *     engine sends when the message is in the stream. Until then the message is on the writer's books. A process that dies
 *     inside the callback has acknowledged nothing of the batch, and the writer sends it again.
 *  2. Once. A message has the id WRITER-NUMBER, whoever publishes it and how often. The stream drops an id that it has seen
 *     within its duplicate window, and acknowledges it with the number of the first copy.
 *  3. In order. An attempt publishes the messages that are not acknowledged, in order, over one connection, beginning with the
 *     first of them. So everything in front of an attempt is stored. A connection that breaks delivers a prefix of what was
 *     written to it, so what an attempt has stored is a sequence without a hole. Several attempts may overlap at the server: it
 *     may still read the connection of a process that was killed, while the next process publishes the same messages. Each
 *     is in order and without a hole, so in front of any copy of a message stand copies of its predecessors, or they have
 *     been stored before: the first copies, which the stream keeps, are in order.
 *
 * Number 3 needs attempts without a hole. The engine itself can make one, and nothing on this side prevents that while many
 * publishes are on their way:
 *
 *   - The stream refuses a message and takes one behind it: it was full (max_msgs or max_bytes with discard new, the account's
 *     or the server's storage), and a consumer made room, or the later message is smaller.
 *   - The leader of a replicated stream changes: what arrives in between is lost, what arrives later is stored.
 *
 * Then the messages in front are published again, and lie behind. Their number is out_of_order: acknowledgements carry the
 * place in the stream, so each such case within a batch is seen. After a refusal, and after an attempt that stored nothing,
 * only one message is on its way until the engine takes one again. With in_flight 1 there is nothing behind a message that is
 * not acknowledged, and the order is kept in these cases too. (The headers that make a publish depend on its predecessor
 * speak of the last message of the whole stream, so they are of no use where several writers share one.)
 *
 * Messages of peers that take part in no acknowledgement have no id. What is published again of them may be stored twice.
 */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "publisher.h"

#define PROBE_FIRST_MS 50
#define PROBE_LONGEST_MS 2000

/* Answers of the engine that no repetition changes. */
#define MESSAGE_TOO_LARGE 10054
#define HEADER_TOO_LARGE 10097

/* The process ends inside the callback, so nothing of its batch is acknowledged. */
_Noreturn void leave(struct engine *engine, int status)
{
    /* With engine->lock held until the end: the other callbacks leave no second line. */
    report_totals(&engine->counters);
    _exit(status);
}

/* With engine->lock held. Every wait of a callback begins here. */
void leave_if_stopped(struct engine *engine)
{
    if (now_ms() < engine->stop_at)
        return;
    report("stopped while the engine was away: acknowledging writers keep what it does not have");
    leave(engine, EXIT_UNDELIVERED);
}

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Which message of the current batch this publish was. Answers come in the order of the publishes, so it is the first one
 * nearly always. */
static struct entry *entry_of(struct publisher *publisher, const natsMsg *message)
{
    for (size_t i = publisher->first; i < publisher->end; i++)
        if (publisher->entries[i].published == message)
            return &publisher->entries[i];
    return NULL;
}

static void note_success(struct publisher *publisher, struct entry *entry, const jsPubAck *ack)
{
    entry->acknowledged = true;
    entry->place = ack->Sequence;
    publisher->window = publisher->engine->settings->in_flight;
    while (publisher->first < publisher->count && publisher->entries[publisher->first].acknowledged)
        publisher->first++;
    if (ack->Duplicate)
        publisher->engine->counters.repeated++;
    else
        publisher->engine->counters.stored++;
}

static void note_refusal(struct publisher *publisher, const jsPubAckErr *error)
{
    publisher->engine->counters.refused++;
    if (publisher->refused)
        return; /* the first one counts: those behind it follow from it */
    publisher->refused = true;
    publisher->code = error->ErrCode;
    snprintf(publisher->reason, sizeof publisher->reason, "%s", error->ErrText != NULL ? error->ErrText : "no reason");
}

/* Runs in a thread of libnats, one for each context. */
void on_answer(jsCtx *context, natsMsg *message, jsPubAck *ack, jsPubAckErr *error, void *closure)
{
    struct publisher *publisher = closure;
    struct engine *engine = publisher->engine;
    pthread_mutex_lock(&engine->lock);
    struct entry *entry = publisher->context == context ? entry_of(publisher, message) : NULL;
    if (entry != NULL) {
        entry->published = NULL;
        publisher->on_way--;
        publisher->last_ms = now_ms();
        if (ack != NULL)
            note_success(publisher, entry, ack);
        else
            note_refusal(publisher, error);
        if (publisher->refused || publisher->on_way <= publisher->wake_at)
            pthread_cond_signal(&publisher->changed);
    }
    pthread_mutex_unlock(&engine->lock);
    natsMsg_Destroy(message);
}

/* Frees a context together with the messages that wait in it. No answer of it is looked at any more. */
static void drop_context(jsCtx *context)
{
    natsMsgList pending;
    if (context != NULL && js_PublishAsyncGetPendingList(&pending, context) == NATS_OK)
        natsMsgList_Destroy(&pending);
    jsCtx_Destroy(context);
}

static bool is_current(const struct publisher *publisher)
{
    return publisher->engine->up && publisher->generation == publisher->engine->generation;
}

/* With engine->lock held: waits until the engine is there, and takes its newest connection. */
static void wait_for_engine(struct publisher *publisher)
{
    struct engine *engine = publisher->engine;
    while (!engine->up) {
        leave_if_stopped(engine);
        wait_until(&publisher->changed, &engine->lock, engine->stop_at);
    }
    if (is_current(publisher))
        return;
    jsCtx *old = publisher->context;
    publisher->context = publisher->next;
    publisher->next = NULL;
    publisher->generation = engine->generation;
    pthread_mutex_unlock(&engine->lock);
    drop_context(old);
    pthread_mutex_lock(&engine->lock);
}

/* With engine->lock held: waits until at most `few` publishes are on their way. False: the attempt is over. */
static bool wait_for_answers(struct publisher *publisher, size_t few)
{
    struct engine *engine = publisher->engine;
    publisher->wake_at = few;
    while (publisher->on_way > few) {
        if (!is_current(publisher))
            return false;
        if (publisher->refused && few > 0)
            return false;
        leave_if_stopped(engine);
        int64_t patience = publisher->last_ms + (int64_t)engine->settings->ack_timeout_ms;
        if (now_ms() >= patience) {
            engine_lost(engine, publisher->generation, "no acknowledgement came in time");
            return false;
        }
        wait_until(&publisher->changed, &engine->lock, earlier(patience, engine->stop_at));
    }
    return is_current(publisher) && !publisher->refused;
}

/* With engine->lock held, which is released meanwhile. False: the attempt is over. */
static bool publish(struct publisher *publisher, const struct batch *batch, size_t index)
{
    struct engine *engine = publisher->engine;
    struct entry *entry = &publisher->entries[index];
    jsCtx *context = publisher->context;
    pthread_mutex_unlock(&engine->lock);
    natsMsg *message = NULL;
    natsStatus status = make_message(batch, index, &message);
    pthread_mutex_lock(&engine->lock);

    if (status == NATS_OK) {
        engine->counters.published_again += entry->tried;
        entry->tried = true;
        entry->published = message;
        publisher->end = index + 1;
        if (publisher->on_way++ == 0)
            publisher->last_ms = now_ms();
        pthread_mutex_unlock(&engine->lock);
        status = js_PublishMsgAsync(context, &message, NULL); /* its message, on success */
        pthread_mutex_lock(&engine->lock);
    }
    if (status == NATS_OK)
        return true;
    if (message != NULL) {
        entry->published = NULL;
        publisher->on_way--;
        natsMsg_Destroy(message);
    }
    if (status == NATS_MAX_PAYLOAD) {
        publisher->refused = true;
        publisher->code = MESSAGE_TOO_LARGE;
        snprintf(publisher->reason, sizeof publisher->reason, "%s", natsStatus_GetText(status));
    } else {
        engine_lost(engine, publisher->generation, client_error(status));
    }
    return false;
}

/* With engine->lock held. Publishes what is not acknowledged, in order. False: something is left. */
static bool attempt(struct publisher *publisher, const struct batch *batch)
{
    for (size_t i = publisher->first; i < publisher->count; i++) {
        if (publisher->entries[i].acknowledged)
            continue;
        if (publisher->on_way >= publisher->window && !wait_for_answers(publisher, publisher->window / 2))
            break;
        if (publisher->refused || !is_current(publisher) || !publish(publisher, batch, i))
            break;
    }
    wait_for_answers(publisher, 0);
    return publisher->first == publisher->count;
}

/* With engine->lock held. Nothing of the old attempt is looked at any more. */
static void end_attempt(struct publisher *publisher)
{
    for (size_t i = publisher->first; i < publisher->end; i++)
        publisher->entries[i].published = NULL;
    publisher->on_way = 0;
    publisher->end = publisher->first;
}

/* With engine->lock held: waits before the next attempt, in which only one message is on its way. */
static void pause_after_refusal(struct publisher *publisher, const struct batch *batch, int64_t pause_ms)
{
    struct engine *engine = publisher->engine;
    if (publisher->code == MESSAGE_TOO_LARGE || publisher->code == HEADER_TOO_LARGE) {
        report("a message of %zu bytes is larger than the engine takes now (%s): ending, so that the next start tells writers",
               batch->messages[publisher->first].len, publisher->reason);
        leave(engine, EXIT_FAILURE);
    }
    report_limited(TOPIC_REFUSED, "the engine refuses a message for %s: %s (error %d); trying again", batch->subject,
                   publisher->reason, (int)publisher->code);
    for (int64_t over = now_ms() + pause_ms; now_ms() < over;) {
        leave_if_stopped(engine);
        wait_until(&publisher->changed, &engine->lock, earlier(over, engine->stop_at));
    }
}

/* Acknowledgements carry the place in the stream, which must grow from message to message. */
static void check_order(struct publisher *publisher, const struct batch *batch)
{
    uint64_t before = 0, found = 0;
    for (size_t i = 0; i < publisher->count; i++) {
        uint64_t place = publisher->entries[i].place;
        found += place != 0 && place < before;
        before = place != 0 ? place : before;
    }
    if (found == 0)
        return;
    publisher->engine->counters.out_of_order += found;
    report_limited(TOPIC_ORDER, "%" PRIu64 " messages for %s lie in the stream in front of their predecessor", found,
                   batch->subject);
}

/* With engine->lock held. */
void publish_all(struct publisher *publisher, const struct batch *batch)
{
    int64_t pause = PROBE_FIRST_MS;
    while (publisher->first < publisher->count) {
        size_t before = publisher->first;
        wait_for_engine(publisher);
        publisher->refused = false;
        bool done = attempt(publisher, batch);
        end_attempt(publisher);
        if (publisher->first > before)
            pause = PROBE_FIRST_MS;
        else
            publisher->window = 1; /* a connection that breaks at once then carries one message at least */
        if (!done && publisher->refused) {
            publisher->window = 1;
            pause_after_refusal(publisher, batch, pause);
            pause = pause * 2 < PROBE_LONGEST_MS ? pause * 2 : PROBE_LONGEST_MS;
        }
    }
    check_order(publisher, batch);
}
