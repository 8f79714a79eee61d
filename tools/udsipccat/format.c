#include "format.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char hex_digits[] = "0123456789abcdef";

bool message_describe(struct message *message, const udsipc_connection *connection)
{
    *message = (struct message){.connection = udsipc_connection_id(connection)};
    clock_gettime(CLOCK_REALTIME, &message->time);
    message->numbered = udsipc_connection_writer_id(connection, message->writer) == UDSIPC_OK;
    message->sequence = udsipc_message_sequence(connection);
    return udsipc_connection_credentials(connection, &message->pid, &message->uid, &message->gid) == UDSIPC_OK;
}

static void append_hex(struct buffer *out, const uint8_t *data, size_t size)
{
    uint8_t *end = buffer_room(out, 2 * size);
    for (size_t i = 0; i < size; i++) {
        *end++ = (uint8_t)hex_digits[data[i] >> 4];
        *end++ = (uint8_t)hex_digits[data[i] & 15];
    }
    out->length += 2 * size;
}

const char *message_writer(const struct message *message, char text[WRITER_TEXT])
{
    if (!message->numbered)
        return strcpy(text, "-");
    for (size_t i = 0; i < sizeof message->writer; i++)
        snprintf(text + 2 * i, 3, "%02x", message->writer[i]);
    return text;
}

/* How many bytes the UTF-8 character at `at` has; 0 if there is none. No overlong form, no surrogate (RFC 3629). */
static size_t utf8_length(const uint8_t *at, size_t left)
{
    uint8_t first = at[0], low = 0x80, high = 0xbf;
    size_t length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
    if (length < 2)
        return length;
    low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : low;
    high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : high;
    if (left < length || at[1] < low || at[1] > high)
        return 0;
    for (size_t i = 2; i < length; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    return length;
}

static bool is_utf8(const uint8_t *data, size_t size)
{
    for (size_t at = 0, length; at < size; at += length)
        if ((length = utf8_length(data + at, size - at)) == 0)
            return false;
    return true;
}

static void append_json_string(struct buffer *out, const uint8_t *data, size_t size)
{
    static const char *const escapes[] = {['"'] = "\\\"", ['\\'] = "\\\\", ['\n'] = "\\n", ['\r'] = "\\r", ['\t'] = "\\t"};
    size_t plain = 0; /* where the bytes begin that need no escape */
    for (size_t i = 0; i < size; i++) {
        bool named = data[i] < sizeof escapes / sizeof *escapes && escapes[data[i]] != NULL;
        if (!named && data[i] >= 0x20 && data[i] != 0x7f)
            continue;
        buffer_append(out, data + plain, i - plain);
        if (named)
            buffer_append(out, escapes[data[i]], 2);
        else
            buffer_print(out, "\\u%04x", data[i]);
        plain = i + 1;
    }
    buffer_append(out, data + plain, size - plain);
}

static void append_base64(struct buffer *out, const uint8_t *data, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < size; i += 3) {
        size_t left = size - i;
        uint32_t bits = (uint32_t)data[i] << 16;
        bits |= left > 1 ? (uint32_t)data[i + 1] << 8 : 0;
        bits |= left > 2 ? data[i + 2] : 0U;
        char four[] = {digits[bits >> 18], digits[bits >> 12 & 63], left > 1 ? digits[bits >> 6 & 63] : '=',
                       left > 2 ? digits[bits & 63] : '='};
        buffer_append(out, four, sizeof four);
    }
}

static void append_json(struct buffer *out, const struct message *message)
{
    char seconds[32] = "", writer[WRITER_TEXT];
    struct tm utc;
    if (gmtime_r(&message->time.tv_sec, &utc) != NULL)
        strftime(seconds, sizeof seconds, "%Y-%m-%dT%H:%M:%S", &utc);
    buffer_print(out, "{\"time\":\"%s.%06ldZ\",\"connection\":%" PRIu64 ",\"pid\":%" PRId32 ",\"uid\":%" PRIu32
                 ",\"gid\":%" PRIu32, seconds, message->time.tv_nsec / 1000, message->connection, message->pid,
                 message->uid, message->gid);
    if (message->numbered)
        buffer_print(out, ",\"writer\":\"%s\",\"sequence\":%" PRIu64, message_writer(message, writer),
                     message->sequence);
    else
        buffer_print(out, ",\"writer\":null,\"sequence\":null");
    bool text = is_utf8(message->data, message->size);
    buffer_print(out, ",\"size\":%zu,\"%s\":\"", message->size, text ? "data" : "data_base64");
    (text ? append_json_string : append_base64)(out, message->data, message->size);
    buffer_append(out, "\"}\n", 3);
}

static void append_visible(struct buffer *out, const uint8_t *data, size_t size)
{
    for (size_t i = 0, length; i < size; i += length) {
        length = utf8_length(data + i, size - i);
        /* U+0080 to U+009F are control characters too. */
        bool control = length == 0 || (length == 1 && data[i] != '\t' && (data[i] < 0x20 || data[i] == 0x7f)) ||
                       (length == 2 && data[i] == 0xc2 && data[i + 1] < 0xa0);
        length = length == 0 ? 1 : length;
        if (!control)
            buffer_append(out, data + i, length);
        else
            for (size_t byte = 0; byte < length; byte++)
                buffer_print(out, "\\x%02x", data[i + byte]);
    }
}

void format_message(struct buffer *out, enum format format, const struct message *message, bool terminal)
{
    switch (format) {
    case FORMAT_LINES:
        if (terminal)
            append_visible(out, message->data, message->size);
        else
            buffer_append(out, message->data, message->size);
        buffer_append(out, "\n", 1);
        break;
    case FORMAT_NULL:
        buffer_append(out, message->data, message->size);
        buffer_append(out, "", 1);
        break;
    case FORMAT_RAW: buffer_append(out, message->data, message->size); break;
    case FORMAT_FRAMES:
        buffer_append_varint(out, message->size);
        buffer_append(out, message->data, message->size);
        break;
    case FORMAT_HEX:
        append_hex(out, message->data, message->size);
        buffer_append(out, "\n", 1);
        break;
    case FORMAT_JSON: append_json(out, message); break;
    case FORMAT_NONE: break;
    }
}
