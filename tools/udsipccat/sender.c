#include "sender.h"

#include <inttypes.h>
#include <stdio.h>

#include "control.h"
#include "report.h"

static udsipc_writer_metrics metrics_of(const struct sender *sender)
{
    udsipc_writer_metrics metrics;
    if (udsipc_writer_get_metrics(sender->writer, &metrics, sizeof metrics) != UDSIPC_OK)
        metrics = (udsipc_writer_metrics){0};
    return metrics;
}

/* Runs inside the calls of this file: the writer has no thread. */
static void on_error(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    struct sender *sender = userdata;
    (void)os_errno; /* the text has it */
    if (status == UDSIPC_ERR_NOT_ACKNOWLEDGED)
        sender->refused = true;
    /* A reader that has gone is of interest when there is something for it. */
    udsipc_writer_metrics metrics = metrics_of(sender);
    bool idle = metrics.queue_depth == 0 && metrics.acknowledged == metrics.sent;
    if (status == UDSIPC_ERR_NOT_CONNECTED && sender->opened && idle)
        return;
    bool repeated = status == sender->told;
    sender->told = status;
    snprintf(sender->text, sizeof sender->text, "%s: %s", context, failure_text(status));
    if (repeated || (!sender->opened && !sender->wait)) /* sender_open reports it */
        return;
    if (!sender->opened && status == UDSIPC_ERR_NOT_CONNECTED)
        remark("waiting until somebody listens at %s", sender->path);
    else
        remark("%s", sender->text);
}

static bool make(struct sender *sender, const struct options *options, uint32_t attempts)
{
    udsipc_writer_options *set = udsipc_writer_options_new();
    if (set == NULL) {
        report("out of memory");
        return false;
    }
    udsipc_status status = udsipc_writer_options_set_max_message_size(set, options->max_size);
    if (status == UDSIPC_OK)
        status = udsipc_writer_options_set_acknowledge(set, options->acknowledge);
    if (status == UDSIPC_OK)
        status = udsipc_writer_options_set_drain_until_deadline(set, options->wait);
    if (status == UDSIPC_OK)
        status = udsipc_writer_options_set_max_attempts(set, attempts);
    if (status == UDSIPC_OK)
        status = udsipc_writer_options_set_error_callback(set, on_error, sender);
    if (status == UDSIPC_OK)
        status = udsipc_writer_new(sender->path, set, &sender->writer);
    udsipc_writer_options_free(set);
    if (status != UDSIPC_OK)
        report("%s", failure_text(status));
    return status == UDSIPC_OK;
}

static void report_refusal(const struct sender *sender)
{
    report("the reader at %s does not acknowledge: it is no reader of this library", sender->path);
}

static int fail_to_connect(struct sender *sender, int code)
{
    if (code == EXIT_TIMED_OUT)
        report("nobody has listened at %s in time", sender->path);
    else if (ending() == RUNNING && sender->told == UDSIPC_ERR_NOT_CONNECTED)
        report("nobody listens at %s: start the reader first, or wait for it (--wait)", sender->path);
    else if (ending() == RUNNING && sender->refused)
        report_refusal(sender);
    else if (ending() == RUNNING)
        report("%s", sender->text);
    udsipc_writer_free(sender->writer);
    sender->writer = NULL;
    return code;
}

int sender_open(struct sender *sender, const char *path, const struct options *options, uint32_t attempts,
                const struct totals *totals)
{
    *sender = (struct sender){.path = path, .wait = options->wait, .drop = options->drop,
                              .totals = totals};
    if (!make(sender, options, attempts))
        return EXIT_FAILED;
    while (!udsipc_writer_is_connected(sender->writer)) {
        sender_work(sender);
        if (!sender->wait && sender->told != UDSIPC_OK)
            return fail_to_connect(sender, EXIT_FAILED);
        enum ending why = ending();
        if (why != RUNNING)
            return fail_to_connect(sender, why == TIMED_OUT ? EXIT_TIMED_OUT : EXIT_FAILED);
        struct pollfd fds[2] = {{.fd = -1}, {.fd = sender_fd(sender), .events = POLLIN}};
        progress_show(totals, 0);
        if (!udsipc_writer_is_connected(sender->writer) && !control_poll(fds, 2, UDSIPC_WAIT_FOREVER))
            return fail_to_connect(sender, EXIT_FAILED);
    }
    sender->opened = true;
    sender->told = UDSIPC_OK;
    return EXIT_OK;
}

/* Is it of no use to wait on? */
static bool hopeless(const struct sender *sender)
{
    if (sender->refused && !sender->wait) {
        report_refusal(sender);
        return true;
    }
    return out_of_time() || (ending() == INTERRUPTED && !udsipc_writer_is_connected(sender->writer));
}

static bool put_one(struct sender *sender, const udsipc_buffer *message)
{
    for (;;) {
        udsipc_status status =
            udsipc_write_message_timeout(sender->writer, message->data, message->len, remaining_ms(SLICE_MS));
        if (status == UDSIPC_OK)
            return true;
        if (status != UDSIPC_ERR_TIMEOUT && status != UDSIPC_ERR_BUFFER_FULL) {
            report("%s", failure_text(status));
            return false;
        }
        if (hopeless(sender))
            return false;
        progress_show(sender->totals, sender_queued(sender));
    }
}

bool sender_put(struct sender *sender, const udsipc_buffer *messages, size_t count)
{
    while (count > 0) {
        size_t accepted = 0;
        udsipc_status status = udsipc_write_messages(sender->writer, messages, count, &accepted);
        messages += accepted;
        count -= accepted;
        if (status == UDSIPC_OK)
            return true;
        if (status == UDSIPC_ERR_BUFFER_FULL && sender->drop) {
            sender_work(sender); /* perhaps only this writer has been slow, not the reader */
            if (udsipc_write_message(sender->writer, messages->data, messages->len) != UDSIPC_OK)
                sender->dropped++;
        } else if (!put_one(sender, messages)) {
            sender->unsent += count;
            return false;
        }
        messages++;
        count--;
    }
    return true;
}

static bool settle(struct sender *sender, bool wait_for_a_reader)
{
    udsipc_status status;
    while ((status = udsipc_writer_flush(sender->writer, remaining_ms(SLICE_MS))) == UDSIPC_ERR_TIMEOUT) {
        if (hopeless(sender) || (!wait_for_a_reader && !udsipc_writer_is_connected(sender->writer)))
            break;
        progress_show(sender->totals, sender_queued(sender));
    }
    return status == UDSIPC_OK;
}

bool sender_settle(struct sender *sender)
{
    return settle(sender, true);
}

int sender_fd(const struct sender *sender)
{
    return udsipc_writer_fd(sender->writer);
}

void sender_work(struct sender *sender)
{
    udsipc_status status = udsipc_writer_dispatch(sender->writer, 0);
    if (status != UDSIPC_OK && sender->told == UDSIPC_OK) {
        sender->told = (int32_t)status;
        report("%s", failure_text((int32_t)status));
    }
}

uint64_t sender_queued(const struct sender *sender)
{
    return metrics_of(sender).queue_depth;
}

int sender_close(struct sender *sender)
{
    bool late = !settle(sender, sender->wait) && out_of_time();
    /* When nobody listens, this gives up after a quarter of a second. */
    udsipc_status status = udsipc_writer_stop(sender->writer, out_of_time() ? 0 : remaining_ms(GRACE_MS));
    udsipc_writer_metrics metrics = metrics_of(sender);
    udsipc_writer_free(sender->writer);
    sender->writer = NULL;
    if (metrics.abandoned > 0)
        report("%" PRIu64 " of %" PRIu64 " messages were not delivered", metrics.abandoned,
               metrics.abandoned + metrics.sent);
    if (metrics.suspected_lost > 0)
        report("%" PRIu64 " messages may be lost: they were sent, and the reader has not acknowledged or read them",
               metrics.suspected_lost);
    if (sender->dropped > 0)
        report("%" PRIu64 " messages were left out: the queue was full", sender->dropped);
    if (sender->unsent > 0)
        report("%" PRIu64 " messages more that had been read were not sent", sender->unsent);
    bool told = sender->unsent > 0 || metrics.abandoned > 0 || metrics.suspected_lost > 0;
    if (late && !told)
        report("the reader at %s has not read everything in time", sender->path);
    if (late && ending() == TIMED_OUT)
        return EXIT_TIMED_OUT;
    bool all = !late && status == UDSIPC_OK && metrics.abandoned == 0 && metrics.suspected_lost == 0 && sender->dropped == 0;
    return all ? EXIT_OK : EXIT_FAILED;
}
