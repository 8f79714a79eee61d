#include "buffer.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "options.h"
#include "report.h"

uint8_t *buffer_room(struct buffer *buffer, size_t size)
{
    if (size > buffer->capacity - buffer->length) {
        size_t capacity = buffer->capacity == 0 ? 65536 : buffer->capacity;
        while (capacity - buffer->length < size && capacity <= SIZE_MAX / 2)
            capacity *= 2;
        uint8_t *grown = capacity - buffer->length < size ? NULL : realloc(buffer->data, capacity);
        if (grown == NULL) {
            /* Perhaps inside a callback: what it has at hand is not acknowledged, and comes again. */
            report("out of memory");
            _exit(EXIT_FAILED);
        }
        buffer->data = grown;
        buffer->capacity = capacity;
    }
    return buffer->data + buffer->length;
}

void buffer_append(struct buffer *buffer, const void *data, size_t size)
{
    memcpy(buffer_room(buffer, size + 1), data, size);
    buffer->length += size;
}

void buffer_print(struct buffer *buffer, const char *text, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, text);
    int length = vsnprintf(line, sizeof line, text, arguments);
    va_end(arguments);
    if (length > 0)
        buffer_append(buffer, line, (size_t)length < sizeof line ? (size_t)length : sizeof line - 1);
}

void buffer_append_varint(struct buffer *buffer, uint64_t number)
{
    uint8_t *end = buffer_room(buffer, 10);
    for (; number >= 0x80; number >>= 7)
        *end++ = (uint8_t)(number | 0x80);
    *end++ = (uint8_t)number;
    buffer->length = (size_t)(end - buffer->data);
}

void buffer_free(struct buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct buffer){0};
}
