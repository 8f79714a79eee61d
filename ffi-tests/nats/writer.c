/* Sends numbered messages to the bridge: "NAME NUMBER xxx...", the numbers from 1 on.
 *
 *     writer SOCKET NAME COUNT LENGTH [QUEUE]
 *
 * Waits for room when the queue is full, and at the end until everything has been handled. With QUEUE, the queue holds that
 * many messages, nothing waits, and what is refused is left out of the numbers. Prints one line of figures. Its last wait ends
 * at SIGTERM's default, so a test that gives up kills it.
 */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <udsipc.h>

static void check(udsipc_status status, const char *what)
{
    if (status == UDSIPC_OK)
        return;
    char text[512] = "";
    udsipc_last_error_message(text, sizeof text);
    fprintf(stderr, "writer: %s: %s: %s\n", what, udsipc_strerror(status), text);
    exit(EXIT_FAILURE);
}

static udsipc_writer *open_writer(const char *path, uint32_t queue)
{
    udsipc_writer *writer;
    udsipc_writer_options *options = udsipc_writer_options_new();
    check(udsipc_writer_options_set_acknowledge(options, 2), "acknowledge");
    check(udsipc_writer_options_set_max_attempts(options, 0), "max_attempts");
    check(udsipc_writer_options_set_max_backoff_ms(options, 200), "max_backoff");
    check(udsipc_writer_options_set_drain_until_deadline(options, 1), "drain_until_deadline");
    if (queue > 0)
        check(udsipc_writer_options_set_max_buffered_writes(options, queue), "max_buffered_writes");
    check(udsipc_writer_new(path, options, &writer), "new");
    check(udsipc_writer_start(writer), "start");
    udsipc_writer_options_free(options);
    return writer;
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fprintf(stderr, "usage: %s SOCKET NAME COUNT LENGTH [QUEUE]\n", argv[0]);
        return 2;
    }
    const char *name = argv[2];
    uint64_t count = strtoull(argv[3], NULL, 10), accepted = 0, refused = 0;
    size_t length = strtoul(argv[4], NULL, 10);
    uint32_t queue = argc > 5 ? (uint32_t)strtoul(argv[5], NULL, 10) : 0;
    udsipc_writer *writer = open_writer(argv[1], queue);
    char *message = malloc(length + 64);
    for (uint64_t i = 0; i < count; i++) {
        int head = sprintf(message, "%s %" PRIu64 " ", name, accepted + 1);
        size_t size = (size_t)head > length ? (size_t)head : length;
        memset(message + head, 'x', size - (size_t)head);
        udsipc_status status = udsipc_write_message_timeout(writer, message, size, queue > 0 ? 0 : UDSIPC_WAIT_FOREVER);
        if (status == UDSIPC_ERR_BUFFER_FULL) {
            refused++;
            continue;
        }
        check(status, "write");
        accepted++;
    }
    printf("accepted=%" PRIu64 " refused=%" PRIu64 "\n", accepted, refused);
    fflush(stdout);

    check(udsipc_writer_stop(writer, 3600000), "stop");
    udsipc_writer_metrics metrics;
    check(udsipc_writer_get_metrics(writer, &metrics, sizeof metrics), "metrics");
    printf("acknowledged=%" PRIu64 " redelivered=%" PRIu64 " dropped=%" PRIu64 " abandoned=%" PRIu64 " suspected_lost=%" PRIu64
           " connections=%" PRIu64 "\n",
           metrics.acknowledged, metrics.redelivered, metrics.dropped, metrics.abandoned, metrics.suspected_lost,
           metrics.connections);
    free(message);
    udsipc_writer_free(writer);
    return EXIT_SUCCESS;
}
