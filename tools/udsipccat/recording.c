#include "recording.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control.h"
#include "report.h"

static const char first_line[] = "udsipc-recording 1\n";

/* Reads an existing recording to the end of its last complete record. */
static bool find_end(struct recorder *recorder, const char *file)
{
    struct playback playback;
    if (!playback_open(&playback, file, SIZE_MAX / 2))
        return false;
    struct message message;
    enum next next;
    while ((next = playback_next(&playback, &message)) == NEXT_MESSAGE)
        ;
    recorder->good = playback.good;
    if (next == NEXT_CUT_OFF)
        remark("%s: removed a record that was cut off when its recorder died", file);
    playback_close(&playback);
    return next == NEXT_END || next == NEXT_CUT_OFF;
}

static bool continue_file(struct recorder *recorder, const char *file)
{
    struct stat status;
    if (fstat(recorder->output.fd, &status) == 0 && status.st_size > 0 && !find_end(recorder, file))
        return false;
    if (ftruncate(recorder->output.fd, recorder->good) == 0 && lseek(recorder->output.fd, recorder->good, SEEK_SET) >= 0)
        return true;
    report("cannot continue %s: %s", file, strerror(errno));
    return false;
}

bool recorder_open(struct recorder *recorder, const char *file, bool sync)
{
    *recorder = (struct recorder){.sync = sync};
    bool standard = strcmp(file, "-") == 0;
    int fd = standard ? STDOUT_FILENO : open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        report("cannot open %s: %s", file, strerror(errno));
        return false;
    }
    recorder->output = output_on(fd, standard ? "standard output" : file);
    if (!standard && flock(fd, LOCK_EX | LOCK_NB) != 0) {
        report("cannot record to %s: another process does", file);
        return false;
    }
    if (!standard && recorder->output.file && !continue_file(recorder, file))
        return false;
    if (recorder->good == 0)
        buffer_append(&recorder->pending, first_line, strlen(first_line));
    return recorder_commit(recorder);
}

void recorder_add(struct recorder *recorder, const struct message *message)
{
    char writer[WRITER_TEXT];
    buffer_print(&recorder->pending,
                 "%" PRId64 ".%06ld %" PRIu64 " %" PRId32 " %" PRIu32 " %" PRIu32 " %s %" PRIu64 " %zu\n",
                 (int64_t)message->time.tv_sec, message->time.tv_nsec / 1000, message->connection, message->pid,
                 message->uid, message->gid, message_writer(message, writer), message->sequence, message->size);
    buffer_append(&recorder->pending, message->data, message->size);
    buffer_append(&recorder->pending, "\n", 1);
}

bool recorder_commit(struct recorder *recorder)
{
    size_t size = recorder->pending.length;
    bool ok = output_write(&recorder->output, &recorder->pending);
    if (ok && recorder->sync && fdatasync(recorder->output.fd) != 0 && errno != EINVAL && errno != EROFS) {
        report("cannot write %s to the disk: %s", recorder->output.name, strerror(errno));
        ok = false;
    }
    if (ok)
        recorder->good += (off_t)size;
    else if (recorder->output.file && ftruncate(recorder->output.fd, recorder->good) != 0)
        report("%s now ends in the middle of a record: %s", recorder->output.name, strerror(errno));
    return ok;
}

void recorder_close(struct recorder *recorder)
{
    if (recorder->output.fd != STDOUT_FILENO)
        close(recorder->output.fd);
    buffer_free(&recorder->pending);
}

/* Reads more of the file. NEXT_MESSAGE: there is more now. */
static enum next read_more(struct playback *playback)
{
    struct buffer *data = &playback->data;
    memmove(data->data, data->data + playback->at, data->length - playback->at);
    data->length -= playback->at;
    playback->at = 0;
    struct pollfd fds[2] = {{.fd = -1}, {.fd = playback->fd, .events = POLLIN}};
    do {
        if (ending() != RUNNING)
            return NEXT_STOPPED;
        if (!control_poll(fds, 2, UDSIPC_WAIT_FOREVER))
            return NEXT_BROKEN;
    } while (fds[1].revents == 0);
    ssize_t got = read(playback->fd, buffer_room(data, 1 << 18), 1 << 18);
    if (got < 0)
        report("cannot read %s: %s", playback->name, strerror(errno));
    else
        data->length += (size_t)got;
    return got < 0 ? NEXT_BROKEN : got == 0 ? NEXT_END : NEXT_MESSAGE;
}

bool playback_open(struct playback *playback, const char *file, uint64_t max_size)
{
    bool standard = strcmp(file, "-") == 0;
    *playback = (struct playback){.name = standard ? "standard input" : file, .max_size = max_size};
    buffer_room(&playback->data, 1);
    playback->fd = standard ? STDIN_FILENO : open(file, O_RDONLY | O_CLOEXEC);
    if (playback->fd < 0) {
        report("cannot open %s: %s", file, strerror(errno));
        return false;
    }
    size_t length = strlen(first_line);
    enum next next = NEXT_MESSAGE;
    while (playback->data.length < length && next == NEXT_MESSAGE)
        next = read_more(playback);
    if (next == NEXT_MESSAGE && memcmp(playback->data.data, first_line, length) == 0) {
        playback->at = length;
        playback->good = (off_t)length;
        return true;
    }
    if (next == NEXT_MESSAGE || next == NEXT_END)
        report("%s is no recording: it does not begin with \"udsipc-recording 1\"", playback->name);
    playback_close(playback);
    return false;
}

static enum next broken(const struct playback *playback, const char *why)
{
    report("%s: %s at byte %" PRId64, playback->name, why, (int64_t)playback->good);
    return NEXT_BROKEN;
}

/* Parses the line in front of a message; it has been copied to a string. */
static bool parse(const char *line, struct message *message)
{
    char writer[WRITER_TEXT];
    int64_t seconds;
    long micros;
    int end = 0;
    int fields = sscanf(line, "%" SCNd64 ".%6ld %" SCNu64 " %" SCNd32 " %" SCNu32 " %" SCNu32 " %32s %" SCNu64 " %zu%n",
                        &seconds, &micros, &message->connection, &message->pid, &message->uid, &message->gid, writer,
                        &message->sequence, &message->size, &end);
    if (fields != 9 || line[end] != '\0' || seconds < 0 || micros < 0)
        return false;
    message->time = (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = micros * 1000};
    return true;
}

enum next playback_next(struct playback *playback, struct message *message)
{
    char line[256];
    const uint8_t *end;
    enum next next = NEXT_MESSAGE;
    while ((end = memchr(playback->data.data + playback->at, '\n', playback->data.length - playback->at)) == NULL) {
        size_t begun = playback->data.length - playback->at;
        if (begun >= sizeof line)
            return broken(playback, "no record");
        next = read_more(playback);
        if (next == NEXT_END && begun > 0)
            return NEXT_CUT_OFF;
        if (next != NEXT_MESSAGE)
            return next;
    }
    size_t length = (size_t)(end - playback->data.data) - playback->at;
    if (length >= sizeof line)
        return broken(playback, "no record");
    memcpy(line, playback->data.data + playback->at, length);
    line[length] = '\0';
    *message = (struct message){0};
    if (!parse(line, message))
        return broken(playback, "no record");
    if (message->size > playback->max_size)
        return broken(playback, "a message that is larger than --max-size");

    size_t whole = length + 1 + message->size + 1;
    while (playback->data.length - playback->at < whole) {
        next = read_more(playback);
        if (next != NEXT_MESSAGE)
            return next == NEXT_END ? NEXT_CUT_OFF : next;
    }
    message->data = playback->data.data + playback->at + length + 1;
    if (message->data[message->size] != '\n')
        return broken(playback, "no record");
    playback->at += whole;
    playback->good += (off_t)whole;
    return NEXT_MESSAGE;
}

void playback_close(struct playback *playback)
{
    if (playback->fd != STDIN_FILENO)
        close(playback->fd);
    buffer_free(&playback->data);
}
