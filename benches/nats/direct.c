/* Publishes messages without a bridge, for comparison: the bytes that ffi-tests/nats/writer.c sends.
 *
 *     direct URL STREAM SUBJECT COUNT LENGTH acknowledged|unacknowledged
 *
 * acknowledged: JetStream publishes with an id each, as the bridge makes them, WINDOW at most without acknowledgement.
 * unacknowledged: what `nats pub` does. Ends when the stream has all of them, in both cases.
 */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <nats/nats.h>

#define WINDOW 4096
#define PATIENCE_MS 60000

static void check(natsStatus status, const char *what)
{
    if (status == NATS_OK)
        return;
    fprintf(stderr, "direct: %s: %s\n", what, natsStatus_GetText(status));
    exit(EXIT_FAILURE);
}

static void on_answer(jsCtx *js, natsMsg *message, jsPubAck *ack, jsPubAckErr *error, void *closure)
{
    (void)js, (void)ack, (void)closure;
    if (error != NULL)
        check(error->Err, "acknowledgement");
    natsMsg_Destroy(message);
}

static uint64_t stored(jsCtx *js, const char *stream)
{
    jsStreamInfo *info = NULL;
    check(js_GetStreamInfo(&info, js, stream, NULL, NULL), "info");
    uint64_t count = info->State.Msgs;
    jsStreamInfo_Destroy(info);
    return count;
}

static void publish(jsCtx *js, const char *subject, const char *data, int size, uint64_t number)
{
    natsMsg *message = NULL;
    char id[64];
    snprintf(id, sizeof id, "%032x-%" PRIu64, 0xd12ec7, number);
    check(natsMsg_Create(&message, subject, NULL, data, size), "message");
    check(natsMsgHeader_Set(message, "Nats-Msg-Id", id), "header");
    check(js_PublishMsgAsync(js, &message, NULL), "publish");
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: %s URL STREAM SUBJECT COUNT LENGTH acknowledged|unacknowledged\n", argv[0]);
        return 2;
    }
    uint64_t count = strtoull(argv[4], NULL, 10);
    size_t length = strtoul(argv[5], NULL, 10);
    bool acknowledged = strcmp(argv[6], "acknowledged") == 0;
    natsConnection *connection = NULL;
    jsCtx *js = NULL;
    jsOptions options;
    jsOptions_Init(&options);
    options.PublishAsync.MaxPending = WINDOW;
    options.PublishAsync.StallWait = PATIENCE_MS;
    options.PublishAsync.AckHandler = on_answer;
    check(natsConnection_ConnectTo(&connection, argv[1]), "connect");
    check(natsConnection_JetStream(&js, connection, &options), "context");

    char *data = malloc(length + 64);
    memset(data, 'x', length + 64);
    for (uint64_t i = 1; i <= count; i++) {
        data[sprintf(data, "w 0 %" PRIu64, i)] = ' ';
        if (acknowledged)
            publish(js, argv[3], data, (int)length, i);
        else
            check(natsConnection_Publish(connection, argv[3], data, (int)length), "publish");
    }
    check(natsConnection_Flush(connection), "flush");
    check(js_PublishAsyncComplete(js, NULL), "complete");
    while (stored(js, argv[2]) < count)
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    free(data);
    jsCtx_Destroy(js);
    natsConnection_Destroy(connection);
    return EXIT_SUCCESS;
}
