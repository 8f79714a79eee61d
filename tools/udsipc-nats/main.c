/* udsipc-nats: messages of writers on this machine go to NATS JetStream, and nothing is lost on the way.
 *
 *     udsipc-nats [OPTION]... SOCKET SUBJECT
 *
 * A reader whose callback returns when the stream has acknowledged the messages (publisher.c). While the engine is away
 * callbacks wait, the writers' queues fill, and the writers' limits and counters apply.
 *
 * The reader begins when the engine is there: its limit of the message size is the engine's, and READY=1 means that messages
 * go through. SIGTERM and SIGINT end the program when the engine has what writers have sent. If that does not work in
 * --stop-time, the process ends inside the callbacks, so that acknowledging writers send again.
 */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bridge.h"

static bool failed(const char *what, udsipc_status status)
{
    char text[512];
    bool detailed = udsipc_last_error_message(text, sizeof text) > 0;
    report("%s: %s", what, detailed ? text : udsipc_strerror(status));
    return false;
}

static void on_error(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)os_errno, (void)userdata;
    char text[512];
    bool detailed = udsipc_last_error_message(text, sizeof text) > 0;
    report_limited(TOPIC_READER, "%s: %s", context, detailed ? text : udsipc_strerror(status));
}

static udsipc_status set_options(udsipc_reader_options *options, const struct engine *engine)
{
    const struct settings *settings = engine->settings;
    /* What the engine can never take stays with the writer: it gives such a message up, and says so. */
    udsipc_status status = udsipc_reader_options_set_max_message_size(options, engine->max_message);
    if (status == UDSIPC_OK)
        status = udsipc_reader_options_set_max_handler_threads(options, settings->threads);
    if (status == UDSIPC_OK)
        status = udsipc_reader_options_set_error_callback(options, on_error, NULL);
    if (status == UDSIPC_OK && settings->has_socket_mode)
        status = udsipc_reader_options_set_socket_mode(options, settings->socket_mode);
    for (size_t i = 0; i < settings->allow_uid_count && status == UDSIPC_OK; i++)
        status = udsipc_reader_options_allow_uid(options, settings->allow_uids[i]);
    return status;
}

static udsipc_reader *open_reader(struct engine *engine)
{
    udsipc_reader_options *options = udsipc_reader_options_new();
    if (options == NULL) {
        report("out of memory");
        return NULL;
    }
    udsipc_reader *reader = NULL;
    udsipc_status status = set_options(options, engine);
    if (status == UDSIPC_OK)
        status = udsipc_reader_new_batched(engine->settings->socket_path, deliver, engine, options, &reader);
    if (status == UDSIPC_OK)
        status = udsipc_reader_start(reader);
    udsipc_reader_options_free(options); /* _new has copied them */
    if (status == UDSIPC_OK)
        return reader;
    failed("cannot start", status);
    udsipc_reader_free(reader);
    return NULL;
}

/* Waits for a signal to stop, `ms` at most. */
static bool wait_for_signal(const sigset_t *signals, long ms)
{
    struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    return sigtimedwait(signals, NULL, &time) > 0;
}

static bool is_up(struct engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    bool up = engine->up;
    pthread_mutex_unlock(&engine->lock);
    return up;
}

static struct counters counters_of(struct engine *engine)
{
    pthread_mutex_lock(&engine->lock);
    struct counters counters = engine->counters;
    pthread_mutex_unlock(&engine->lock);
    return counters;
}

static int stop(struct engine *engine, udsipc_reader *reader)
{
    uint64_t ms = engine->settings->stop_time_ms;
    pthread_mutex_lock(&engine->lock);
    engine->stop_at = now_ms() + (int64_t)ms;
    publishers_wake(engine); /* they wait until then at most */
    pthread_cond_broadcast(&engine->free);
    pthread_mutex_unlock(&engine->lock);

    udsipc_status status = udsipc_reader_stop(reader, ms);
    udsipc_reader_free(reader);
    struct counters counters = counters_of(engine);
    if (status != UDSIPC_OK)
        failed("stopped before everything was read: acknowledging writers keep the rest", status);
    report_totals(&counters);
    return status == UDSIPC_OK ? EXIT_SUCCESS : EXIT_UNDELIVERED;
}

static int serve(struct engine *engine, const sigset_t *signals)
{
    while (!is_up(engine))
        if (wait_for_signal(signals, 50))
            return EXIT_SUCCESS; /* nothing has been taken from anybody */
    udsipc_reader *reader = open_reader(engine);
    if (reader == NULL)
        return EXIT_FAILURE;
    report("listening on %s", udsipc_reader_socket_path(reader));

    while (!wait_for_signal(signals, 1000)) {
        udsipc_reader_metrics metrics;
        struct counters counters = counters_of(engine);
        if (udsipc_reader_get_metrics(reader, &metrics, sizeof metrics) == UDSIPC_OK)
            report_progress(&counters, &metrics);
    }
    report("stopping");
    return stop(engine, reader);
}

int main(int argc, char **argv)
{
    static struct settings settings;
    static struct engine engine;
    if (!parse_settings(argc, argv, &settings))
        return 2;

    /* Blocked before there is a second thread, so that the signals wait for sigtimedwait(). */
    sigset_t signals;
    if (sigemptyset(&signals) != 0 || sigaddset(&signals, SIGINT) != 0 || sigaddset(&signals, SIGTERM) != 0 ||
        sigprocmask(SIG_BLOCK, &signals, NULL) != 0) {
        report("cannot set up signals: %s", strerror(errno));
        return EXIT_FAILURE;
    }
    signal(SIGPIPE, SIG_IGN); /* a server that hangs up is an error of a call */
    if (!engine_open(&engine, &settings) || !engine_start(&engine))
        return EXIT_FAILURE;
    return serve(&engine, &signals);
}
