/* The connection to the engine: made by a thread of its own, and made anew whenever it ends.
 *
 * The client's own reconnect is off. It would carry on with publishes that were on their way when the connection broke: those
 * in the client's buffer, or made right after the reconnect, would be stored before the lost ones in front of them are
 * published again (publisher.c). With it, ffi-tests/nats.rs finds messages out of order when connections break in the middle of
 * a batch. Here a connection that has ended stays ended, so what was written to it is a prefix of what was meant to be.
 *
 * The list of servers is the client's: those of the command line, and those that a cluster has told.
 */
#define _POSIX_C_SOURCE 200809L

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bridge.h"

#define CONNECT_MS 2000
#define RETRY_FIRST_MS 100
#define RETRY_LONGEST_MS 2000 /* the client's own pause between two rounds */
#define PING_MS 10000
#define PINGS_OUT 2

int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* What the client says about this thread's last failure, without the place in its sources that it puts in front. */
const char *client_error(natsStatus status)
{
    const char *text = nats_GetLastError(NULL);
    if (text == NULL || text[0] == '\0')
        return natsStatus_GetText(status);
    const char *place = strstr(text, "): ");
    return text[0] == '(' && place != NULL ? place + 3 : text;
}

void make_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

/* Waits for a signal, until now_ms() is `time_ms` at the latest. May return early. */
void wait_until(pthread_cond_t *condition, pthread_mutex_t *lock, int64_t time_ms)
{
    if (time_ms == INT64_MAX) {
        pthread_cond_wait(condition, lock);
        return;
    }
    struct timespec time = {.tv_sec = (time_t)(time_ms / 1000), .tv_nsec = (long)(time_ms % 1000) * 1000000};
    pthread_cond_timedwait(condition, lock, &time);
}

/* With engine->lock held. */
static void mark_down(struct engine *engine, const char *reason)
{
    engine->up = false;
    report_limited(TOPIC_LOST, "the engine is away: %s", reason);
    pthread_cond_signal(&engine->down);
    publishers_wake(engine);
}

/* Ends the connection of this generation, if it is still the current one. */
void engine_lost(struct engine *engine, uint64_t generation, const char *reason)
{
    if (engine->up && engine->generation == generation)
        mark_down(engine, reason);
}

/* Runs in a thread of libnats. */
static void on_closed(natsConnection *connection, void *closure)
{
    struct engine *engine = closure;
    const char *reason = NULL;
    natsStatus status = natsConnection_GetLastError(connection, &reason);
    char text[REASON_SIZE];
    snprintf(text, sizeof text, "%s", reason != NULL && reason[0] != '\0' ? reason : natsStatus_GetText(status));
    pthread_mutex_lock(&engine->lock);
    if (engine->up && engine->connection == connection)
        mark_down(engine, text);
    pthread_mutex_unlock(&engine->lock);
}

/* Errors that end nothing, such as a missing permission. Without this handler libnats would print them itself. */
static void on_error(natsConnection *connection, natsSubscription *subscription, natsStatus status, void *closure)
{
    (void)subscription, (void)closure;
    const char *text = NULL;
    natsConnection_GetLastError(connection, &text);
    report_limited(TOPIC_CLIENT, "%s", text != NULL && text[0] != '\0' ? text : natsStatus_GetText(status));
}

/* The servers of the command line, and those that the last connection has learnt. */
static void learn_servers(struct engine *engine, natsConnection *connection)
{
    char **discovered = NULL;
    int count = 0;
    if (natsConnection_GetDiscoveredServers(connection, &discovered, &count) != NATS_OK)
        return;
    const char *all[2 * MAX_LIST];
    size_t length = engine->settings->server_count;
    memcpy(all, engine->settings->servers, length * sizeof all[0]);
    for (int i = 0; i < count && length < 2 * MAX_LIST; i++)
        all[length++] = discovered[i];
    if (count > 0)
        natsOptions_SetServers(engine->options, all, (int)length); /* copies */
    for (int i = 0; i < count; i++)
        free(discovered[i]);
    free(discovered);
}

static natsConnection *try_to_connect(struct engine *engine, uint64_t *max_message)
{
    natsConnection *connection = NULL;
    natsStatus status = natsConnection_Connect(&connection, engine->options);
    if (status != NATS_OK) {
        report_limited(TOPIC_CONNECT, "cannot connect to %s: %s; trying again", engine->settings->servers[0],
                       client_error(status));
        return NULL;
    }
    if (check_stream(connection, engine->settings, max_message) == STREAM_MISSING) {
        natsConnection_Destroy(connection);
        return NULL;
    }
    learn_servers(engine, connection);
    return connection;
}

static void pause_ms(uint64_t ms)
{
    struct timespec pause = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&pause, NULL);
}

static natsConnection *connect_at_last(struct engine *engine, uint64_t *max_message)
{
    for (uint64_t pause = RETRY_FIRST_MS;; pause = pause < RETRY_LONGEST_MS / 2 ? pause * 2 : RETRY_LONGEST_MS) {
        natsConnection *connection = try_to_connect(engine, max_message);
        if (connection != NULL && publishers_use(engine, connection))
            return connection;
        natsConnection_Destroy(connection);
        pause_ms(pause);
    }
}

static void announce(const struct engine *engine, natsConnection *connection, uint64_t max_message)
{
    char url[256] = "";
    natsConnection_GetConnectedUrl(connection, url, sizeof url);
    report("connected to %s, which takes messages of up to %llu bytes", url, (unsigned long long)max_message);
    if (engine->max_message != 0 && max_message < engine->max_message)
        report("that is less than before: restart this program, so that writers learn it");
}

static void *run(void *closure)
{
    struct engine *engine = closure;
    for (;;) {
        uint64_t max_message;
        natsConnection *connection = connect_at_last(engine, &max_message);
        announce(engine, connection, max_message);

        pthread_mutex_lock(&engine->lock);
        if (engine->max_message == 0)
            engine->max_message = max_message; /* the reader's limit, which cannot change */
        engine->connection = connection;
        engine->generation++;
        engine->counters.connects++;
        engine->up = true;
        publishers_wake(engine);
        pthread_mutex_unlock(&engine->lock);
        if (natsConnection_IsClosed(connection)) /* before it was the current one */
            on_closed(connection, engine);

        pthread_mutex_lock(&engine->lock);
        while (engine->up)
            pthread_cond_wait(&engine->down, &engine->lock);
        engine->connection = NULL;
        pthread_mutex_unlock(&engine->lock);
        natsConnection_Destroy(connection); /* closes it; the publishers' contexts keep its memory */
        pause_ms(RETRY_FIRST_MS);
    }
    return NULL;
}

static natsStatus set_security(natsOptions *options, const struct settings *settings)
{
    natsStatus status = NATS_OK;
    if (settings->credentials != NULL)
        status = natsOptions_SetUserCredentialsFromFiles(options, settings->credentials, NULL);
    if (status == NATS_OK && settings->tls_ca != NULL)
        status = natsOptions_LoadCATrustedCertificates(options, settings->tls_ca);
    if (status == NATS_OK && settings->tls_cert != NULL)
        status = natsOptions_LoadCertificatesChain(options, settings->tls_cert, settings->tls_key);
    if (status == NATS_OK && (settings->tls_ca != NULL || settings->tls_cert != NULL))
        status = natsOptions_SetSecure(options, true);
    return status;
}

bool engine_open(struct engine *engine, const struct settings *settings)
{
    memset(engine, 0, sizeof *engine);
    engine->settings = settings;
    engine->stop_at = INT64_MAX;
    pthread_mutex_init(&engine->lock, NULL);
    make_condition(&engine->down);
    make_condition(&engine->free);

    natsStatus status = natsOptions_Create(&engine->options);
    const char *servers[MAX_LIST];
    memcpy(servers, settings->servers, sizeof servers);
    if (status == NATS_OK)
        status = natsOptions_SetServers(engine->options, servers, (int)settings->server_count);
    if (status == NATS_OK)
        status = natsOptions_SetName(engine->options, "udsipc-nats");
    if (status == NATS_OK)
        status = natsOptions_SetAllowReconnect(engine->options, false);
    if (status == NATS_OK)
        status = natsOptions_SetTimeout(engine->options, CONNECT_MS);
    if (status == NATS_OK)
        status = natsOptions_SetPingInterval(engine->options, PING_MS);
    if (status == NATS_OK)
        status = natsOptions_SetMaxPingsOut(engine->options, PINGS_OUT);
    if (status == NATS_OK)
        status = natsOptions_SetWriteDeadline(engine->options, (int64_t)settings->ack_timeout_ms);
    if (status == NATS_OK) /* else a message waits for others up to a millisecond: too long where only one is on its way */
        status = natsOptions_SetSendAsap(engine->options, settings->in_flight == 1);
    if (status == NATS_OK)
        status = natsOptions_SetClosedCB(engine->options, on_closed, engine);
    if (status == NATS_OK)
        status = natsOptions_SetErrorHandler(engine->options, on_error, engine);
    if (status == NATS_OK)
        status = set_security(engine->options, settings);
    if (status != NATS_OK)
        report("cannot use these options: %s", client_error(status));
    return status == NATS_OK && publishers_open(engine);
}

/* The thread runs until the process ends: it may be in a connect that takes its time. */
bool engine_start(struct engine *engine)
{
    pthread_t thread;
    int error = pthread_create(&thread, NULL, run, engine);
    if (error != 0) {
        report("cannot start a thread: %s", strerror(error));
        return false;
    }
    pthread_detach(thread);
    return true;
}
