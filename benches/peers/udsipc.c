/*
 * libudsipc, in its plain use: udsipc_write_message in a loop, and when the queue is full the call that waits for room.
 * With waits=1 always the call that waits for room.
 * One callback for each message, or with batched=1 the callback that takes many. With socket=1 no shared memory.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <udsipc.h>
#include <unistd.h>

const bool peer_shares_connection = true;
const bool peer_has_messages = true;

static udsipc_writer **writers;
static bool waits;

static void check(udsipc_status status, const char *what)
{
    char text[512];
    if (status == UDSIPC_OK)
        return;
    udsipc_last_error_message(text, sizeof text);
    bench_fail("%s: %s: %s", what, udsipc_strerror(status), text);
}

static int32_t on_message(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)connection;
    (void)userdata;
    bench_received(data, len);
    return 0;
}

static size_t on_messages(const udsipc_buffer *messages, size_t count, const udsipc_connection *connection,
                          void *userdata)
{
    (void)connection;
    (void)userdata;
    for (size_t i = 0; i < count; i++)
        bench_received(messages[i].data, messages[i].len);
    return count;
}

void peer_listen(const struct config *config)
{
    udsipc_reader *reader;
    udsipc_reader_options *options = udsipc_reader_options_new();
    check(udsipc_reader_options_set_inactivity_timeout_ms(options, UDSIPC_WAIT_FOREVER), "inactivity timeout");
    if (config->socket)
        check(udsipc_reader_options_set_max_shared_memory(options, 0), "shared memory");
    if (config->batched)
        check(udsipc_reader_new_batched(config->path, on_messages, NULL, options, &reader), "reader");
    else
        check(udsipc_reader_new(config->path, on_message, NULL, options, &reader), "reader");
    check(udsipc_reader_start(reader), "reader start");
    udsipc_reader_options_free(options);
}

void peer_receive(void)
{
    bench_wait_until_complete();
}

static void await_connection(const udsipc_writer *writer)
{
    while (!udsipc_writer_is_connected(writer))
        usleep(100);
}

void peer_connect(const struct config *config)
{
    waits = config->waits;
    udsipc_writer_options *options = udsipc_writer_options_new();
    check(udsipc_writer_options_set_max_buffered_writes(options, config->queue), "max_buffered_writes");
    check(udsipc_writer_options_set_max_buffered_bytes(options, config->queue_bytes), "max_buffered_bytes");
    writers = calloc(config->connections, sizeof *writers);
    for (unsigned i = 0; i < config->connections; i++) {
        check(udsipc_writer_new(config->path, options, &writers[i]), "writer");
        check(udsipc_writer_start(writers[i]), "writer start");
        await_connection(writers[i]);
    }
    udsipc_writer_options_free(options);
}

bool peer_send(unsigned connection, const uint8_t *data, size_t len)
{
    if (waits) {
        check(udsipc_write_message_timeout(writers[connection], data, len, UDSIPC_WAIT_FOREVER), "timed write");
        return false;
    }
    udsipc_status status = udsipc_write_message(writers[connection], data, len);
    if (status == UDSIPC_OK)
        return false;
    if (status != UDSIPC_ERR_BUFFER_FULL)
        check(status, "write");
    check(udsipc_write_message_timeout(writers[connection], data, len, UDSIPC_WAIT_FOREVER), "write");
    return true;
}

void peer_flush(unsigned connection)
{
    (void)connection; /* the writer never waits for more */
}

void peer_idle_connections(const struct config *config, unsigned first, unsigned end)
{
    (void)config;
    (void)first;
    (void)end;
    bench_fail("idle connections are made by the raw program with framed=1: a writer each would be a thread each");
}

void peer_rest(const struct config *config)
{
    peer_listen(config);
    peer_connect(config);
}
