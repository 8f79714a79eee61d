/* A message is acknowledged when the callback for it has returned. So the callback returns when the message is where it
 * should be: printed, in the recording, and handled by the reader of the other side. If that fails the process ends inside
 * the callback, and the message's writer sends it to the next reader. The reader has no thread: callbacks run in
 * udsipc_reader_dispatch and udsipc_reader_stop. */
#include "receive.h"

#include <inttypes.h>
#include <unistd.h>

#include <udsipc.h>

#include "control.h"
#include "format.h"
#include "output.h"
#include "progress.h"
#include "recording.h"
#include "report.h"
#include "sender.h"

struct receiver {
    const struct options *options;
    udsipc_reader *reader; /* NULL when the last message of --count has freed it */
    struct totals totals;
    struct output output;
    struct buffer text;
    struct recorder recorder;
    struct sender sender;
};

/* Ends the process inside a callback. */
static void leave_unacknowledged(const struct message *message, size_t count)
{
    if (message->numbered)
        report("%zu messages were not acknowledged: their writer sends them to the next reader", count);
    else
        report("%zu messages are lost: their writer does not ask for acknowledgement", count);
    progress_hide();
    _exit(ending() == TIMED_OUT ? EXIT_TIMED_OUT : EXIT_FAILED);
}

static bool record(struct receiver *receiver, struct message message, const udsipc_buffer *messages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        message.data = messages[i].data;
        message.size = messages[i].len;
        recorder_add(&receiver->recorder, &message);
        message.sequence += message.numbered ? 1 : 0;
    }
    return recorder_commit(&receiver->recorder);
}

static bool print(struct receiver *receiver, struct message message, const udsipc_buffer *messages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        message.data = messages[i].data;
        message.size = messages[i].len;
        format_message(&receiver->text, receiver->options->format, &message, receiver->output.terminal);
        message.sequence += message.numbered ? 1 : 0;
    }
    return output_write(&receiver->output, &receiver->text);
}

/* What --tap has passed on it prints, not what it is about to. */
static bool pass_on(struct receiver *receiver, const udsipc_buffer *messages, size_t count)
{
    if (sender_put(&receiver->sender, messages, count) && sender_settle(&receiver->sender))
        return true;
    report("the reader at %s has not acknowledged the messages", receiver->options->target);
    return false;
}

static void handle(struct receiver *receiver, const udsipc_buffer *messages, size_t count,
                   const udsipc_connection *connection)
{
    struct message message;
    if (!message_describe(&message, connection)) {
        report("cannot tell who the sender is: %s", failure_text(UDSIPC_ERR_IO));
        leave_unacknowledged(&message, count);
    }
    bool ok = receiver->options->target == NULL || pass_on(receiver, messages, count);
    ok = ok && (receiver->options->record == NULL || record(receiver, message, messages, count));
    ok = ok && (receiver->options->format == FORMAT_NONE || print(receiver, message, messages, count));
    if (!ok)
        leave_unacknowledged(&message, count);
    receiver->totals.messages += count;
    for (size_t i = 0; i < count; i++)
        receiver->totals.bytes += messages[i].len;
}

static size_t on_messages(const udsipc_buffer *messages, size_t count, const udsipc_connection *connection,
                          void *userdata)
{
    handle(userdata, messages, count, connection);
    return count;
}

/* With --count, one by one: a batch could be acknowledged as a whole only. After a _free inside a callback no other callback
 * begins, so the next message stays with its writer. */
static int32_t on_message(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    struct receiver *receiver = userdata;
    handle(receiver, &(udsipc_buffer){.data = data, .len = len}, 1, connection);
    if (receiver->totals.messages == receiver->options->count) {
        udsipc_reader_free(receiver->reader);
        receiver->reader = NULL;
    }
    return 0;
}

/* The commonest mistake gets an explanation: text that is sent without a length in front of it. */
static void on_error(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)os_errno, (void)userdata; /* the text has it */
    bool malformed = status == UDSIPC_ERR_CONNECTION_CLOSED || status == UDSIPC_ERR_INVALID_LENGTH_PREFIX ||
                     status == UDSIPC_ERR_MESSAGE_TOO_LARGE;
    remark("%s: %s%s", context, failure_text(status),
           malformed ? " (a message needs its length in front; does the peer send plain text?)" : "");
}

static bool open_reader(struct receiver *receiver)
{
    const struct options *options = receiver->options;
    udsipc_reader_options *set = udsipc_reader_options_new();
    if (set == NULL) {
        report("out of memory");
        return false;
    }
    udsipc_status status = udsipc_reader_options_set_max_message_size(set, options->max_size);
    if (status == UDSIPC_OK) /* a connection keeps its number, however seldom it is used */
        status = udsipc_reader_options_set_inactivity_timeout_ms(set, UDSIPC_WAIT_FOREVER);
    if (status == UDSIPC_OK)
        status = udsipc_reader_options_set_error_callback(set, on_error, NULL);
    if (status == UDSIPC_OK && options->count != COUNT_UNLIMITED)
        status = udsipc_reader_new(options->path, on_message, receiver, set, &receiver->reader);
    else if (status == UDSIPC_OK)
        status = udsipc_reader_new_batched(options->path, on_messages, receiver, set, &receiver->reader);
    udsipc_reader_options_free(set);
    if (status != UDSIPC_OK)
        report("%s", failure_text((int32_t)status));
    return status == UDSIPC_OK;
}

/* Until there is a reason to end. False on a failure, which has been reported. */
static bool serve(struct receiver *receiver)
{
    bool passes_on = receiver->options->target != NULL, prints = receiver->options->format != FORMAT_NONE;
    int work = udsipc_reader_fd(receiver->reader);
    udsipc_status status = udsipc_reader_dispatch(receiver->reader, 0); /* tells systemd READY=1 */
    while (status == UDSIPC_OK && receiver->reader != NULL && ending() == RUNNING) {
        progress_show(&receiver->totals, 0);
        struct pollfd fds[4] = {{.fd = -1},
                                {.fd = work, .events = POLLIN},
                                {.fd = passes_on ? sender_fd(&receiver->sender) : -1, .events = POLLIN},
                                {.fd = prints ? receiver->output.fd : -1}};
        if (!control_poll(fds, 4, UDSIPC_WAIT_FOREVER))
            return false;
        if ((fds[3].revents & (POLLERR | POLLHUP)) != 0) {
            report("nobody reads %s any more", receiver->output.name);
            return false;
        }
        if (fds[2].revents != 0)
            sender_work(&receiver->sender);
        if (fds[1].revents != 0)
            status = udsipc_reader_dispatch(receiver->reader, 0);
    }
    if (status != UDSIPC_OK)
        report("%s", failure_text((int32_t)status));
    return status == UDSIPC_OK;
}

/* Receives what writers have sent already, within --count. */
static int stop(struct receiver *receiver, bool served)
{
    enum ending why = ending();
    bool counted = receiver->options->count != COUNT_UNLIMITED;
    udsipc_status status = UDSIPC_OK;
    if (receiver->reader != NULL && !served)
        status = udsipc_reader_stop(receiver->reader, 0); /* the messages would find no place */
    else if (receiver->reader != NULL)
        status = udsipc_reader_stop(receiver->reader, why == TIMED_OUT ? 1000 : remaining_ms(GRACE_MS));
    bool complete = receiver->reader == NULL;
    udsipc_reader_free(receiver->reader);
    receiver->reader = NULL;
    if (!served)
        return EXIT_FAILED;
    if (counted && !complete) {
        report("%" PRIu64 " of %" PRIu64 " messages have come", receiver->totals.messages, receiver->options->count);
        return why == TIMED_OUT ? EXIT_TIMED_OUT : EXIT_FAILED;
    }
    if (status == UDSIPC_OK)
        return EXIT_OK;
    report("stopped before everything was read: %s", failure_text((int32_t)status));
    return EXIT_FAILED;
}

/* Opens everything that messages go to, and then the reader. */
static int open_all(struct receiver *receiver)
{
    const struct options *options = receiver->options;
    receiver->output = output_on(STDOUT_FILENO, "standard output");
    if (options->record != NULL && !recorder_open(&receiver->recorder, options->record, options->sync))
        return EXIT_FAILED;
    /* A reader that is killed again and again by the same message is no reason to lose it: attempts have no limit. */
    if (options->target != NULL) {
        int code = sender_open(&receiver->sender, options->target, options, 0, &receiver->totals);
        if (code != EXIT_OK)
            return code;
    }
    return open_reader(receiver) ? EXIT_OK : EXIT_FAILED;
}

int receive(const struct options *options)
{
    struct receiver receiver = {.options = options};
    int code = open_all(&receiver);
    if (code == EXIT_OK)
        code = stop(&receiver, serve(&receiver));
    if (receiver.sender.writer != NULL) {
        int closed = sender_close(&receiver.sender);
        code = code != EXIT_OK ? code : closed;
    }
    if (options->record != NULL)
        recorder_close(&receiver.recorder);
    buffer_free(&receiver.text);
    return code;
}
