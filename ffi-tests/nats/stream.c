/* What the tests do with a stream.
 *
 *     stream URL NAME create SUBJECT [ROOM]          with ROOM a work queue: it refuses what is more than so many messages
 *     stream URL NAME drain COUNT                    takes so many messages out of a work queue, and prints them as dump does
 *     stream URL NAME count                          how many messages it has
 *     stream URL NAME verify                         reads it and checks the numbers of each writer (writer.c)
 *     stream URL NAME dump                           prints "SUBJECT ID DATA" for each message; "-" for no id
 *     stream URL NAME limit BYTES                    the largest message that it takes from now on
 */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nats/nats.h>

#define WRITERS 16
#define PATIENCE_MS 20000

static struct {
    char name[32];
    uint64_t messages, last, wrong, ids;
} writers[WRITERS];

static void check(natsStatus status, const char *what)
{
    if (status == NATS_OK)
        return;
    const char *text = nats_GetLastError(NULL);
    fprintf(stderr, "stream: %s: %s: %s\n", what, natsStatus_GetText(status), text != NULL ? text : "");
    exit(EXIT_FAILURE);
}

static void note(const char *data, bool has_id)
{
    char name[32];
    uint64_t number;
    if (sscanf(data, "%31s %" SCNu64, name, &number) != 2) {
        fprintf(stderr, "stream: not a message of writer.c: %.80s\n", data);
        exit(EXIT_FAILURE);
    }
    size_t i = 0;
    while (i < WRITERS - 1 && writers[i].name[0] != '\0' && strcmp(writers[i].name, name) != 0)
        i++;
    strcpy(writers[i].name, name);
    if (number != writers[i].last + 1 && writers[i].wrong++ == 0)
        fprintf(stderr, "stream: %s: %" PRIu64 " comes behind %" PRIu64 "\n", name, number, writers[i].last);
    writers[i].last = number;
    writers[i].messages++;
    writers[i].ids += has_id;
}

static uint64_t count_messages(jsCtx *js, const char *name)
{
    jsStreamInfo *info = NULL;
    check(js_GetStreamInfo(&info, js, name, NULL, NULL), "info");
    uint64_t count = info->State.Msgs;
    jsStreamInfo_Destroy(info);
    return count;
}

static void print(natsMsg *message)
{
    const char *id = NULL;
    natsMsgHeader_Get(message, "Nats-Msg-Id", &id);
    printf("%s %s %.*s\n", natsMsg_GetSubject(message), id != NULL ? id : "-", natsMsg_GetDataLength(message),
           natsMsg_GetData(message));
}

static void read_all(jsCtx *js, const char *name, bool dump)
{
    uint64_t count = count_messages(js, name);
    jsSubOptions options;
    jsSubOptions_Init(&options);
    options.Stream = name;
    options.Ordered = true;
    natsSubscription *subscription = NULL;
    check(js_SubscribeSync(&subscription, js, ">", NULL, &options, NULL), "subscribe");
    check(natsSubscription_SetPendingLimits(subscription, -1, -1), "limits"); /* the server may be faster than this program */
    for (uint64_t i = 0; i < count; i++) {
        natsMsg *message = NULL;
        const char *id = NULL;
        check(natsSubscription_NextMsg(&message, subscription, PATIENCE_MS), "next message");
        natsMsgHeader_Get(message, "Nats-Msg-Id", &id);
        if (dump)
            print(message);
        else
            note(natsMsg_GetData(message), id != NULL);
        natsMsg_Destroy(message);
    }
    natsSubscription_Destroy(subscription);
}

/* Each acknowledgement makes room for one message, at any moment of a publisher's batch. */
static void drain(jsCtx *js, const char *name, uint64_t count)
{
    jsSubOptions options;
    jsSubOptions_Init(&options);
    options.Stream = name;
    natsSubscription *subscription = NULL;
    check(js_PullSubscribe(&subscription, js, ">", "drain", NULL, &options, NULL), "subscribe");
    for (uint64_t taken = 0; taken < count;) {
        natsMsgList list = {0};
        check(natsSubscription_Fetch(&list, subscription, 10, PATIENCE_MS, NULL), "fetch");
        for (int i = 0; i < list.Count; i++) {
            print(list.Msgs[i]);
            check(natsMsg_AckSync(list.Msgs[i], NULL, NULL), "ack");
        }
        taken += (uint64_t)list.Count;
        natsMsgList_Destroy(&list);
    }
    natsSubscription_Destroy(subscription);
}

static void create(jsCtx *js, const char *name, const char *subject, int64_t room)
{
    jsStreamConfig config;
    jsStreamConfig_Init(&config);
    config.Name = name;
    config.Subjects = &subject;
    config.SubjectsLen = 1;
    if (room > 0) {
        config.MaxMsgs = room;
        config.Discard = js_DiscardNew;
        config.Retention = js_WorkQueuePolicy;
    }
    check(js_AddStream(NULL, js, &config, NULL, NULL), "create");
}

static void limit(jsCtx *js, const char *name, int32_t bytes)
{
    jsStreamInfo *info = NULL;
    check(js_GetStreamInfo(&info, js, name, NULL, NULL), "info");
    info->Config->MaxMsgSize = bytes;
    check(js_UpdateStream(NULL, js, info->Config, NULL, NULL), "update");
    jsStreamInfo_Destroy(info);
}

int main(int argc, char **argv)
{
    const char *verb = argc > 3 ? argv[3] : "";
    const char *name = argc > 2 ? argv[2] : "";
    if (argc < 4) {
        fprintf(stderr, "usage: %s URL NAME create|drain|count|verify|dump|limit\n", argv[0]);
        return 2;
    }
    natsConnection *connection = NULL;
    jsCtx *js = NULL;
    check(natsConnection_ConnectTo(&connection, argv[1]), "connect");
    check(natsConnection_JetStream(&js, connection, NULL), "context");
    if (strcmp(verb, "create") == 0 && argc > 4)
        create(js, name, argv[4], argc > 5 ? strtoll(argv[5], NULL, 10) : 0);
    else if (strcmp(verb, "drain") == 0 && argc == 5)
        drain(js, name, strtoull(argv[4], NULL, 10));
    else if (strcmp(verb, "count") == 0)
        printf("%" PRIu64 "\n", count_messages(js, name));
    else if (strcmp(verb, "limit") == 0 && argc == 5)
        limit(js, name, (int32_t)strtol(argv[4], NULL, 10));
    else
        read_all(js, name, strcmp(verb, "dump") == 0);
    for (size_t i = 0; i < WRITERS && writers[i].name[0] != '\0'; i++)
        printf("%s messages=%" PRIu64 " last=%" PRIu64 " wrong=%" PRIu64 " ids=%" PRIu64 "\n", writers[i].name,
               writers[i].messages, writers[i].last, writers[i].wrong, writers[i].ids);
    jsCtx_Destroy(js);
    natsConnection_Destroy(connection);
    return EXIT_SUCCESS;
}
