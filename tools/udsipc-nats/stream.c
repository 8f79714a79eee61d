/* Which stream takes the subject, and what it promises. */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "bridge.h"

#define REQUEST_MS 3000
#define NS_PER_S 1000000000

/* "NATS/1.0", "Nats-Msg-Id: " with 32 digits, "-" and at most 20 digits, line ends: 80 bytes, which count as payload. */
#define HEADER_SIZE 96

static void limit(uint64_t *max_message, int64_t payload)
{
    uint64_t bytes = payload > HEADER_SIZE ? (uint64_t)payload - HEADER_SIZE : 1;
    if (bytes < *max_message)
        *max_message = bytes;
}

/* Stores the name of the stream that takes the subject. */
static natsStatus find_stream(jsCtx *js, const char *filter, char *name, size_t size)
{
    jsOptions options;
    jsOptions_Init(&options);
    options.Wait = REQUEST_MS;
    options.Stream.Info.SubjectsFilter = filter;
    jsStreamNamesList *names = NULL;
    natsStatus status = js_StreamNames(&names, js, &options, NULL);
    if (status == NATS_OK && names->Count == 0)
        status = NATS_NOT_FOUND;
    if (status == NATS_OK)
        snprintf(name, size, "%s", names->List[0]);
    jsStreamNamesList_Destroy(names);
    return status;
}

static bool create_stream(jsCtx *js, const struct settings *settings, const char *filter)
{
    const char *subjects[] = {filter};
    jsStreamConfig config;
    jsStreamConfig_Init(&config);
    config.Name = settings->create_stream;
    config.Subjects = subjects;
    config.SubjectsLen = 1;
    config.Storage = js_FileStorage;
    config.Duplicates = (int64_t)settings->duplicate_window_s * NS_PER_S;
    jsOptions options;
    jsOptions_Init(&options);
    options.Wait = REQUEST_MS;
    jsErrCode code = 0;
    natsStatus status = js_AddStream(NULL, js, &config, &options, &code);
    if (status != NATS_OK) {
        report_limited(TOPIC_STREAM, "cannot create the stream %s for %s: %s (error %d)", settings->create_stream, filter,
                       client_error(status), (int)code);
        return false;
    }
    report("created the stream %s for %s", settings->create_stream, filter);
    return true;
}

/* Takes over the stream's own limit, and tells what matters for the promise. False for a stream that acknowledges nothing. */
static bool inspect(jsCtx *js, const struct settings *settings, const char *name, const char *filter,
                    uint64_t *max_message)
{
    jsOptions options;
    jsOptions_Init(&options);
    options.Wait = REQUEST_MS;
    jsStreamInfo *info = NULL;
    if (js_GetStreamInfo(&info, js, name, &options, NULL) != NATS_OK)
        return true; /* the stream is there, but this user may not look at it */
    const jsStreamConfig *config = info->Config;
    bool acknowledges = !config->NoAck;
    if (config->MaxMsgSize > 0)
        limit(max_message, config->MaxMsgSize);
    if (acknowledges)
        report("the stream %s takes %s: %s storage, %" PRId64 " replicas, duplicate window %.3g s", name, filter,
               config->Storage == js_FileStorage ? "file" : "memory", config->Replicas,
               (double)config->Duplicates / NS_PER_S);
    else
        report_limited(TOPIC_STREAM, "the stream %s does not acknowledge (no_ack): change that, or use another one", name);
    if (acknowledges && config->Replicas > 1 && settings->in_flight > 1)
        report("a change of the stream's leader may reorder messages in flight; --in-flight 1 keeps the order");
    jsStreamInfo_Destroy(info);
    return acknowledges;
}

/* Asks the engine. STREAM_UNKNOWN: it does not say, as when this user may publish only. */
enum stream_state check_stream(natsConnection *connection, const struct settings *settings, uint64_t *max_message)
{
    *max_message = UINT64_MAX;
    limit(max_message, natsConnection_GetMaxPayload(connection));
    char filter[SUBJECT_SIZE], name[256];
    subject_filter(settings, filter);
    jsCtx *js = NULL;
    natsStatus status = natsConnection_JetStream(&js, connection, NULL);
    if (status == NATS_OK)
        status = find_stream(js, filter, name, sizeof name);
    if (status == NATS_NOT_FOUND && settings->create_stream != NULL && create_stream(js, settings, filter))
        status = find_stream(js, filter, name, sizeof name);

    enum stream_state state = STREAM_MISSING;
    if (status == NATS_OK) {
        state = inspect(js, settings, name, filter, max_message) ? STREAM_FOUND : STREAM_MISSING;
    } else if (status == NATS_TIMEOUT) {
        report_limited(TOPIC_STREAM, "the server does not say which stream takes %s: publishing all the same", filter);
        state = STREAM_UNKNOWN;
    } else if (status == NATS_NOT_FOUND) {
        report_limited(TOPIC_STREAM, "no stream takes %s: make one, or give --create-stream NAME; trying again", filter);
    } else {
        report_limited(TOPIC_STREAM, "JetStream does not answer: %s. Is it enabled (nats-server -js)? Trying again",
                       client_error(status));
    }
    jsCtx_Destroy(js);
    return state;
}
