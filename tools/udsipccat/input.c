#include "input.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "report.h"

#define READ_SIZE (256 << 10)

bool input_open(struct input *input, const char *file, enum format format, uint64_t max_size)
{
    bool standard = strcmp(file, "-") == 0;
    *input = (struct input){.name = standard ? "standard input" : file, .format = format, .max_size = max_size};
    buffer_room(&input->data, READ_SIZE);
    input->fd = standard ? STDIN_FILENO : open(file, O_RDONLY | O_CLOEXEC);
    if (input->fd < 0)
        report("cannot open %s: %s", file, strerror(errno));
    return input->fd >= 0;
}

static void fail(struct input *input, const char *why)
{
    report("cannot read %s: %s", input->name, why);
    input->ended = input->failed = true;
}

void input_read(struct input *input)
{
    struct buffer *data = &input->data;
    memmove(data->data, data->data + input->at, data->length - input->at);
    data->length -= input->at;
    input->at = 0;
    ssize_t got = read(input->fd, buffer_room(data, READ_SIZE), READ_SIZE);
    if (got > 0)
        data->length += (size_t)got;
    else if (got == 0)
        input->ended = true;
    else if (errno != EINTR && errno != EAGAIN)
        fail(input, strerror(errno));
}

/* The next `size` bytes are a message, and `separator` more belong to it. */
static bool take(struct input *input, udsipc_buffer *message, size_t size, size_t separator)
{
    *message = (udsipc_buffer){.data = input->data.data + input->at, .len = size};
    input->at += size + separator;
    input->searched = 0;
    if (size == 0)
        input->empty++;
    else if (size > input->max_size)
        input->too_large++;
    return size > 0 && size <= input->max_size;
}

static size_t left(const struct input *input)
{
    return input->data.length - input->at;
}

/* One line, or what ends with a NUL. True if something was taken off; `*found` if that is a message. */
static bool next_line(struct input *input, udsipc_buffer *message, bool *found)
{
    const uint8_t *begin = input->data.data + input->at;
    int separator = input->format == FORMAT_NULL ? '\0' : '\n';
    const uint8_t *end = memchr(begin + input->searched, separator, left(input) - input->searched);
    if (input->skip_rest) {
        input->at += end != NULL ? (size_t)(end - begin) + 1 : left(input);
        input->skip_rest = end == NULL;
        return end != NULL;
    }
    if (end != NULL)
        *found = take(input, message, (size_t)(end - begin), 1);
    else if (input->ended && left(input) > 0)
        *found = take(input, message, left(input), 0);
    else if (left(input) > input->max_size) {
        /* Its end is not kept in memory. */
        input->too_large++;
        input->at += left(input);
        input->searched = 0;
        input->skip_rest = true;
    } else {
        input->searched = left(input);
        return false;
    }
    return !input->skip_rest;
}

static bool next_frame(struct input *input, udsipc_buffer *message, bool *found)
{
    size_t skipped = input->skip < left(input) ? (size_t)input->skip : left(input);
    input->at += skipped;
    input->skip -= skipped;
    const uint8_t *begin = input->data.data + input->at;
    uint64_t size = 0;
    size_t length = 0;
    bool complete = false;
    while (!complete && length < left(input) && length < 10) {
        size |= (uint64_t)(begin[length] & 0x7f) << 7 * length;
        complete = (begin[length++] & 0x80) == 0;
    }
    if ((!complete && length == 10) || (length == 10 && begin[9] > 1)) {
        fail(input, "a length prefix is malformed; are these frames?");
        return false;
    }
    if (complete && size > input->max_size) {
        input->too_large++;
        input->at += length;
        input->skip = size;
        return true;
    }
    if (complete && size <= left(input) - length) {
        input->at += length;
        *found = take(input, message, (size_t)size, 0);
        return true;
    }
    if (input->ended && !input->failed && (length > 0 || input->skip > 0))
        fail(input, "it ends in the middle of a frame");
    return false;
}

/* All of the input is one message. */
static bool next_raw(struct input *input, udsipc_buffer *message, bool *found)
{
    bool too_large = left(input) > input->max_size;
    if (input->skip_rest) {
        input->at = input->data.length;
    } else if (too_large || input->ended) {
        *found = take(input, message, left(input), 0);
        input->skip_rest = true;
    }
    return false;
}

bool input_next(struct input *input, udsipc_buffer *message)
{
    bool found = false, more = true;
    while (more && !found) {
        if (input->format == FORMAT_RAW)
            more = next_raw(input, message, &found);
        else if (left(input) == 0 && input->skip == 0)
            more = false;
        else if (input->format == FORMAT_FRAMES)
            more = next_frame(input, message, &found);
        else
            more = next_line(input, message, &found);
    }
    return found;
}

void input_close(struct input *input)
{
    if (input->fd > STDIN_FILENO)
        close(input->fd);
    buffer_free(&input->data);
}
