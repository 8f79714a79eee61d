#include "send.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "control.h"
#include "input.h"
#include "progress.h"
#include "recording.h"
#include "report.h"
#include "sender.h"

/* As the library has it: a message on which one reader after the other breaks is given up. */
#define ATTEMPTS 5

/* How many messages are handed over at a time. */
#define BATCH 512

struct sending {
    struct sender sender;
    struct totals totals;
    uint64_t left;             /* of --count */
    uint64_t empty, too_large; /* not sent */
    bool failed;               /* some input could not be read */
    bool stuck;                /* the sender takes no more */
};

/* Queues what has been read. */
static void put_messages(struct sending *sending, struct input *input)
{
    udsipc_buffer batch[BATCH];
    size_t count;
    do {
        uint64_t bytes = 0;
        for (count = 0; count < BATCH && count < sending->left && input_next(input, &batch[count]); count++)
            bytes += batch[count].len;
        if (!sender_put(&sending->sender, batch, count)) {
            sending->stuck = true;
            while (count++ < sending->left && input_next(input, &batch[0]))
                sending->sender.unsent++;
            return;
        }
        sending->left -= count;
        sending->totals.messages += count;
        sending->totals.bytes += bytes;
    } while (count == BATCH);
}

static void put_input(struct sending *sending, const char *file, const struct options *options)
{
    struct input input;
    if (!input_open(&input, file, options->format, options->max_size)) {
        sending->failed = true;
        return;
    }
    while (ending() == RUNNING && sending->left > 0 && !sending->stuck && !input.ended) {
        if (progress_is_on() && !isatty(input.fd)) /* what is typed stands there already */
            progress_show(&sending->totals, sender_queued(&sending->sender));
        struct pollfd fds[3] = {{.fd = -1}, {.fd = input.fd, .events = POLLIN},
                                {.fd = sender_fd(&sending->sender), .events = POLLIN}};
        if (!control_poll(fds, 3, UDSIPC_WAIT_FOREVER))
            break;
        if (fds[2].revents != 0)
            sender_work(&sending->sender);
        if (fds[1].revents == 0 || ending() != RUNNING)
            continue;
        input_read(&input);
        if (!input.failed) /* whatever has ended the program meanwhile: what was read is nowhere else */
            put_messages(sending, &input);
    }
    sending->failed |= input.failed;
    sending->empty += input.empty;
    sending->too_large += input.too_large;
    input_close(&input);
}

/* Connects; a service is ready then. */
static int open_sender(struct sending *sending, const struct options *options)
{
    sending->left = options->count;
    int code = sender_open(&sending->sender, options->path, options, ATTEMPTS, &sending->totals);
    if (code == EXIT_OK)
        udsipc_systemd_notify("READY=1"); /* does nothing without systemd, and a failure is not worth an end */
    return code;
}

static int finish(struct sending *sending)
{
    bool cut_short = ending() == TIMED_OUT;
    int code = sender_close(&sending->sender);
    if (sending->empty > 0)
        remark("%" PRIu64 " empty messages were not sent: the protocol has none", sending->empty);
    if (sending->too_large > 0)
        report("%" PRIu64 " messages were not sent: they are larger than --max-size", sending->too_large);
    if (code == EXIT_OK && (sending->failed || sending->stuck || sending->too_large > 0))
        code = EXIT_FAILED;
    return cut_short ? EXIT_TIMED_OUT : code;
}

int send_input(const struct options *options)
{
    static char standard_input[] = "-";
    char *standard[] = {standard_input};
    struct sending sending = {0};
    int code = open_sender(&sending, options);
    if (code != EXIT_OK)
        return code;
    char **files = options->file_count > 0 ? options->files : standard;
    size_t count = options->file_count > 0 ? options->file_count : 1;
    for (size_t i = 0; i < count && ending() == RUNNING; i++)
        put_input(&sending, files[i], options);
    return finish(&sending);
}

/* Waits until a message is due. False if the program is to end before. */
static bool wait_until_due(struct sending *sending, double due_ms, uint64_t start)
{
    for (;;) {
        if (ending() != RUNNING)
            return false;
        double left = due_ms - (double)(now_ms() - start);
        if (left <= 0)
            return true;
        progress_show(&sending->totals, sender_queued(&sending->sender));
        struct pollfd fds[2] = {{.fd = -1}, {.fd = sender_fd(&sending->sender), .events = POLLIN}};
        if (!control_poll(fds, 2, left < 1e9 ? (uint64_t)left + 1 : 1000000000))
            return false;
        if (fds[1].revents != 0)
            sender_work(&sending->sender);
    }
}

static double ms_between(const struct timespec *from, const struct timespec *to)
{
    return (double)(to->tv_sec - from->tv_sec) * 1e3 + (double)(to->tv_nsec - from->tv_nsec) / 1e6;
}

static void put_recording(struct sending *sending, struct playback *playback, double speed)
{
    struct timespec first = {0};
    struct message message;
    enum next next = NEXT_END;
    uint64_t start = now_ms();
    while (sending->left > 0 && !sending->stuck && (next = playback_next(playback, &message)) == NEXT_MESSAGE) {
        if (sending->totals.messages == 0)
            first = message.time;
        double due_ms = speed > 0 ? ms_between(&first, &message.time) / speed : 0;
        if (!wait_until_due(sending, due_ms, start))
            return;
        udsipc_buffer buffer = {.data = message.data, .len = message.size};
        sending->stuck = !sender_put(&sending->sender, &buffer, 1);
        if (sending->stuck)
            return;
        sending->left--;
        sending->totals.messages++;
        sending->totals.bytes += message.size;
    }
    if (next == NEXT_CUT_OFF)
        report("%s ends in the middle of a record: its recorder died; all before it was sent", playback->name);
    sending->failed |= next == NEXT_CUT_OFF || next == NEXT_BROKEN;
}

int send_recording(const struct options *options)
{
    struct sending sending = {0};
    struct playback playback;
    if (!playback_open(&playback, options->replay, options->max_size))
        return EXIT_FAILED;
    int code = open_sender(&sending, options);
    if (code == EXIT_OK) {
        put_recording(&sending, &playback, options->speed);
        code = finish(&sending);
    }
    playback_close(&playback);
    return code;
}
