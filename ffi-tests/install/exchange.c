/* Built against an installed libudsipc: a reader and a writer in one process exchange messages and count them. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <udsipc.h>

#define MESSAGES 1000
#define PATIENCE_MS 60000

struct tally {
    uint32_t next; /* the number that the next message must carry */
    bool wrong;
};

static bool failed(const char *what, udsipc_status status)
{
    char text[256];
    udsipc_last_error_message(text, sizeof text);
    fprintf(stderr, "%s: %s: %s\n", what, udsipc_strerror(status), text);
    return false;
}

/* The n-th message is n bytes and its number: all sizes, and no two alike. */
static size_t fill(unsigned char *message, uint32_t n)
{
    memcpy(message, &n, sizeof n);
    memset(message + sizeof n, (int)(n & 0xff), n);
    return sizeof n + n;
}

static int32_t on_message(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    struct tally *tally = userdata;
    unsigned char expected[MESSAGES + sizeof(uint32_t)];
    (void)connection;
    if (tally->next >= MESSAGES || fill(expected, tally->next) != len || memcmp(expected, data, len) != 0)
        tally->wrong = true;
    tally->next++;
    return 0;
}

static bool send_all(udsipc_writer *writer)
{
    unsigned char message[MESSAGES + sizeof(uint32_t)];
    for (uint32_t n = 0; n < MESSAGES; n++) {
        size_t size = fill(message, n);
        udsipc_status status = udsipc_write_message(writer, message, size);
        if (status != UDSIPC_OK)
            return failed("write", status);
    }
    udsipc_status status = udsipc_writer_flush(writer, PATIENCE_MS);
    if (status != UDSIPC_OK)
        return failed("flush", status);
    status = udsipc_writer_stop(writer, PATIENCE_MS);
    return status == UDSIPC_OK || failed("stop the writer", status);
}

int main(int argc, char **argv)
{
    if (argc != 2 || strcmp(udsipc_version(), UDSIPC_VERSION_STRING) != 0) {
        fprintf(stderr, "usage: %s SOCKET; library %s, header %s\n", argv[0], udsipc_version(), UDSIPC_VERSION_STRING);
        return 2;
    }
    struct tally tally = {0, false};
    udsipc_reader *reader = NULL;
    udsipc_writer *writer = NULL;
    udsipc_status status = udsipc_reader_new(argv[1], on_message, &tally, NULL, &reader);
    if (status == UDSIPC_OK)
        status = udsipc_reader_start(reader);
    if (status == UDSIPC_OK)
        status = udsipc_writer_new(argv[1], NULL, &writer);
    if (status == UDSIPC_OK)
        status = udsipc_writer_start(writer);
    bool ok = status == UDSIPC_OK ? send_all(writer) : failed("start", status);
    if (ok && (status = udsipc_reader_stop(reader, PATIENCE_MS)) != UDSIPC_OK)
        ok = failed("stop the reader", status);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);

    printf("C: %u messages%s\n", (unsigned)tally.next, tally.wrong ? ", not all as sent" : "");
    return ok && !tally.wrong && tally.next == MESSAGES ? 0 : 1;
}
