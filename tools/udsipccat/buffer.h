/* Bytes that grow at their end. */
#ifndef UDSIPCCAT_BUFFER_H
#define UDSIPCCAT_BUFFER_H

#include <stddef.h>
#include <stdint.h>

struct buffer {
    uint8_t *data;
    size_t length, capacity;
};

/* Makes room for so many more bytes, and returns where they go. Ends the process if there is no memory. */
uint8_t *buffer_room(struct buffer *buffer, size_t size);

void buffer_append(struct buffer *buffer, const void *data, size_t size);
void buffer_print(struct buffer *buffer, const char *text, ...) __attribute__((format(printf, 2, 3)));

/* The length of a message in front of it on the wire: an unsigned LEB128 varint. */
void buffer_append_varint(struct buffer *buffer, uint64_t number);

void buffer_free(struct buffer *buffer);

#endif
