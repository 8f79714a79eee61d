/* Sizes, prefixes and strangers: what is at a limit passes, what is beyond it is refused, counted and reported under
 * the right name, and nobody else notices. Peers are raw sockets, so that every byte is ours. */
#include "check.h"

#define PREFIX_FAILURE "failed to read the length prefix"
#define PAYLOAD_FAILURE "failed to read the complete message"
#define SIZE_FAILURE "message too large"

/* A reader with a small limit, and a well-behaved client that must not be touched by what others do. */
struct fixture {
    struct path path;
    struct failures failures;
    struct inbox inbox;
    udsipc_reader *reader;
    int bystander;
    uint32_t said;
};

static void set_up_with(struct fixture *fixture, udsipc_reader_options *options)
{
    *fixture = (struct fixture){.path = in_scratch("s"), .failures = FAILURES, .inbox = INBOX};
    fixture->reader = watched_reader(fixture->path.text, &fixture->inbox, options, &fixture->failures);
    CHECK_OK(udsipc_reader_start(fixture->reader));
    fixture->bystander = raw_connect(fixture->path.text);
    WAIT_UNTIL(reader_metrics(fixture->reader).active_connections == 1);
}

static void set_up(struct fixture *fixture, uint64_t max_message_size)
{
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_max_message_size(options, max_message_size));
    set_up_with(fixture, options);
}

/* The bystander speaks on its old connection and is heard. */
static void bystander_is_untouched(struct fixture *fixture)
{
    uint64_t before = inbox_count(&fixture->inbox);
    raw_send_numbered(fixture->bystander, 63, fixture->said++);
    WAIT_UNTIL(inbox_count(&fixture->inbox) == before + 1);
    CHECK_INT(fixture->inbox.gaps, 0);
}

static void tear_down(struct fixture *fixture)
{
    bystander_is_untouched(fixture);
    CHECK_OK(udsipc_reader_stop(fixture->reader, PATIENCE_MS));
    udsipc_reader_free(fixture->reader);
    close(fixture->bystander);
}

/* Bytes that make the reader close this connection: one error, of this status and context, and no message. */
static void expect_refusal(struct fixture *fixture, const void *bytes, size_t len, bool then_close, int32_t status,
                           const char *context)
{
    udsipc_reader_metrics before = reader_metrics(fixture->reader);
    size_t reported = failures_of(&fixture->failures, -1, NULL);
    size_t reported_so = failures_of(&fixture->failures, status, context);
    int client = raw_connect(fixture->path.text);
    raw_send(client, bytes, len);
    if (then_close)
        close(client);
    else
        raw_wait_closed(client);
    WAIT_UNTIL(failures_of(&fixture->failures, -1, NULL) == reported + 1);
    CHECK_INT(failures_of(&fixture->failures, status, context), reported_so + 1);
    WAIT_UNTIL(reader_metrics(fixture->reader).active_connections == before.active_connections);
    udsipc_reader_metrics after = reader_metrics(fixture->reader);
    CHECK_INT(after.errors, before.errors + 1);
    CHECK_INT(after.received, before.received);
    CHECK_INT(after.idle_closed, before.idle_closed);
    if (!then_close) close(client);
    bystander_is_untouched(fixture);
}

/* ---- sizes ---- */

static void reader_takes_max_and_refuses_one_more(void)
{
    static struct fixture fixture;
    set_up(&fixture, 1000);
    static uint8_t payload[1000];
    int client = raw_connect(fixture.path.text);
    raw_send_frame(client, payload, sizeof payload);
    WAIT_UNTIL(inbox_count(&fixture.inbox) == 1);
    CHECK_INT(fixture.inbox.last_len, sizeof payload);
    close(client);
    WAIT_UNTIL(reader_metrics(fixture.reader).active_connections == 1);

    /* Decided from the prefix alone: not one byte of payload is needed. */
    uint8_t prefix[10];
    expect_refusal(&fixture, prefix, put_varint(prefix, 1001), false, UDSIPC_ERR_MESSAGE_TOO_LARGE, SIZE_FAILURE);
    tear_down(&fixture);
}

/* What stands behind a refused frame is not read as a message. */
static void nothing_behind_a_refused_frame_is_delivered(void)
{
    static struct fixture fixture;
    set_up(&fixture, 8);
    uint8_t bytes[] = {9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 8, 1, 0, 0, 0, 0, 0, 0, 0};
    expect_refusal(&fixture, bytes, sizeof bytes, false, UDSIPC_ERR_MESSAGE_TOO_LARGE, SIZE_FAILURE);
    tear_down(&fixture);
}

/* What came before it is. */
static void what_stands_before_a_refused_frame_is_delivered(void)
{
    static struct fixture fixture;
    set_up(&fixture, 8);
    int client = raw_connect(fixture.path.text);
    uint8_t bytes[] = {3, 'o', 'n', 'e', 3, 't', 'w', 'o', 9};
    raw_send(client, bytes, sizeof bytes);
    raw_wait_closed(client);
    CHECK_INT(inbox_count(&fixture.inbox), 2);
    CHECK(memcmp(fixture.inbox.last, "two", 3) == 0);
    CHECK_INT(reader_metrics(fixture.reader).errors, 1);
    close(client);
    tear_down(&fixture);
}

static void default_limit_is_ten_mebibytes(void)
{
    static struct fixture fixture;
    set_up_with(&fixture, udsipc_reader_options_new());
    static uint8_t payload[10 << 20];
    memset(payload, 'x', sizeof payload);
    int client = raw_connect(fixture.path.text);
    raw_send_frame(client, payload, sizeof payload);
    WAIT_UNTIL(inbox_count(&fixture.inbox) == 1);
    CHECK_INT(fixture.inbox.last_len, sizeof payload);
    close(client);
    WAIT_UNTIL(reader_metrics(fixture.reader).active_connections == 1);
    uint8_t prefix[10];
    size_t len = put_varint(prefix, sizeof payload + 1);
    expect_refusal(&fixture, prefix, len, false, UDSIPC_ERR_MESSAGE_TOO_LARGE, SIZE_FAILURE);
    tear_down(&fixture);
}

/* 0 is a limit like any other: empty frames pass, everything else is too large. */
static void limit_zero_refuses_every_message(void)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    struct inbox inbox = INBOX;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_max_message_size(options, 0));
    udsipc_reader *reader = watched_reader(path.text, &inbox, options, &failures);
    CHECK_OK(udsipc_reader_start(reader));
    int client = raw_connect(path.text);
    uint8_t bytes[] = {0, 0, 1, 'x'};
    raw_send(client, bytes, 2);
    WAIT_UNTIL(reader_metrics(reader).active_connections == 1);
    CHECK_INT(failures_of(&failures, -1, NULL), 0);
    raw_send(client, bytes + 2, 2);
    raw_wait_closed(client);
    WAIT_UNTIL(failures_of(&failures, UDSIPC_ERR_MESSAGE_TOO_LARGE, SIZE_FAILURE) == 1);
    CHECK_INT(inbox_count(&inbox), 0);
    udsipc_reader_free(reader);
    close(client);
}

/* An empty frame is not delivered and not counted, and the connection goes on. */
static void empty_frames_are_passed_over(void)
{
    static struct fixture fixture;
    set_up(&fixture, 1000);
    int client = raw_connect(fixture.path.text);
    uint8_t bytes[] = {0, 0, 2, 'h', 'i', 0, 0x80, 0x00, 2, 'y', 'o', 0};
    raw_send(client, bytes, sizeof bytes);
    WAIT_UNTIL(inbox_count(&fixture.inbox) == 2);
    CHECK(memcmp(fixture.inbox.last, "yo", 2) == 0);
    CHECK_INT(reader_metrics(fixture.reader).received_bytes, 4);
    CHECK_INT(reader_metrics(fixture.reader).errors, 0);
    CHECK_INT(reader_metrics(fixture.reader).active_connections, 2);
    CHECK_INT(failures_of(&fixture.failures, -1, NULL), 0);
    close(client);
    tear_down(&fixture);
}

static void writer_takes_max_and_refuses_one_more(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    struct failures failures = FAILURES;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_message_size(options, 100));
    udsipc_writer *writer = watched_writer(path.text, options, &failures);
    CHECK_OK(udsipc_writer_start(writer));
    uint8_t payload[101] = {0};
    CHECK_OK(udsipc_write_message(writer, payload, 100));
    CHECK_STATUS(udsipc_write_message(writer, payload, 101), UDSIPC_ERR_MESSAGE_TOO_LARGE);
    CHECK_STATUS(udsipc_write_message_timeout(writer, payload, 101, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_MESSAGE_TOO_LARGE);
    udsipc_buffer buffers[3] = {{payload, 100}, {payload, 101}, {payload, 1}};
    size_t accepted = 77;
    CHECK_STATUS(udsipc_write_messages(writer, buffers, 3, &accepted), UDSIPC_ERR_MESSAGE_TOO_LARGE);
    CHECK_INT(accepted, 1);
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    CHECK_INT(writer_metrics(writer).sent, 2);
    /* Refused for its size, not for want of room. */
    CHECK_INT(writer_metrics(writer).dropped, 0);
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), 2);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* The default of both sides is the same, so nothing that a writer takes is poison to a reader. */
static void writer_default_limit_is_ten_mebibytes(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    static uint8_t payload[(10 << 20) + 1];
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer *writer = started_writer(path.text);
    CHECK_STATUS(udsipc_write_message(writer, payload, sizeof payload), UDSIPC_ERR_MESSAGE_TOO_LARGE);
    CHECK_OK(udsipc_write_message(writer, payload, sizeof payload - 1));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    CHECK_INT(inbox.last_len, sizeof payload - 1);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* ---- the queue ---- */

static void queue_holds_exactly_its_limit(void)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 5));
    struct failures failures = FAILURES;
    udsipc_writer *writer = watched_writer(in_scratch("s").text, options, &failures);
    CHECK_OK(udsipc_writer_start(writer));
    for (uint32_t i = 0; i < 5; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    CHECK_STATUS(write_numbered(writer, 0, 5), UDSIPC_ERR_BUFFER_FULL);
    /* An empty message takes no room. */
    CHECK_OK(udsipc_write_message(writer, NULL, 0));
    CHECK_INT(writer_metrics(writer).dropped, 1);
    CHECK_INT(writer_metrics(writer).queue_depth, 5);
    CHECK_STATUS(udsipc_writer_stop(writer, PATIENCE_MS), UDSIPC_ERR_UNDELIVERED);
    CHECK_INT(writer_metrics(writer).abandoned, 5);
    udsipc_writer_free(writer);
}

static void write_messages_says_how_far_it_came(void)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 5));
    struct failures failures = FAILURES;
    udsipc_writer *writer = watched_writer(in_scratch("s").text, options, &failures);
    udsipc_buffer buffers[8];
    for (size_t i = 0; i < 8; i++)
        buffers[i] = (udsipc_buffer){(const uint8_t *)"abcdefgh" + i, 1};
    size_t accepted = 77;
    CHECK_STATUS(udsipc_write_messages(writer, buffers, 8, &accepted), UDSIPC_ERR_BUFFER_FULL);
    CHECK_INT(accepted, 5);
    CHECK_INT(writer_metrics(writer).queue_depth, 5);
    CHECK_STATUS(udsipc_write_messages(writer, buffers + 5, 3, &accepted), UDSIPC_ERR_BUFFER_FULL);
    CHECK_INT(accepted, 0);

    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(in_scratch("s").text, &inbox);
    CHECK_OK(udsipc_writer_start(writer));
    CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
    CHECK_OK(udsipc_write_messages(writer, buffers + 5, 3, &accepted));
    CHECK_INT(accepted, 3);
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    WAIT_UNTIL(inbox_count(&inbox) == 8);
    CHECK_INT(inbox.last[0], 'h');
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static void queue_has_a_limit_in_bytes(void)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_bytes(options, 1000));
    struct failures failures = FAILURES;
    udsipc_writer *writer = watched_writer(in_scratch("s").text, options, &failures);
    static uint8_t payload[1000];
    CHECK_OK(udsipc_write_message(writer, payload, 600));
    CHECK_STATUS(udsipc_write_message(writer, payload, 500), UDSIPC_ERR_BUFFER_FULL);
    char text[200];
    udsipc_last_error_message(text, sizeof text);
    CHECK_TEXT(text, "send buffer full: 1 of 10000 messages, 600 of 1000 bytes are queued");
    CHECK_OK(udsipc_write_message(writer, payload, 400));
    CHECK_STATUS(udsipc_write_message(writer, payload, 1), UDSIPC_ERR_BUFFER_FULL);
    CHECK_INT(writer_metrics(writer).queue_bytes, 1000);
    CHECK_INT(writer_metrics(writer).queue_depth, 2);
    CHECK_INT(writer_metrics(writer).dropped, 2);
    udsipc_writer_free(writer);
}

/* ---- prefixes ---- */

static void malformed_prefixes(void)
{
    static struct fixture fixture;
    set_up(&fixture, UINT64_MAX);
    static const uint8_t eleven[11] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t two_in_the_tenth[10] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02};
    static const uint8_t most_in_the_tenth[10] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f};
    /* Decided on the tenth byte: nobody waits for an eleventh. */
    const int32_t status = UDSIPC_ERR_INVALID_LENGTH_PREFIX;
    expect_refusal(&fixture, eleven, 10, false, status, PREFIX_FAILURE);
    expect_refusal(&fixture, eleven, 11, false, status, PREFIX_FAILURE);
    expect_refusal(&fixture, two_in_the_tenth, 10, false, status, PREFIX_FAILURE);
    expect_refusal(&fixture, most_in_the_tenth, 10, false, status, PREFIX_FAILURE);
    tear_down(&fixture);
}

/* Lengths of 2^31 and beyond are refused like any other, and reserve nothing. */
static void huge_lengths(void)
{
    static struct fixture fixture;
    set_up(&fixture, 1000);
    static const uint64_t lengths[] = {1u << 31, UINT32_MAX, 1ull << 32, INT64_MAX, 1ull << 63, UINT64_MAX};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint8_t prefix[10];
        size_t len = put_varint(prefix, lengths[i]);
        expect_refusal(&fixture, prefix, len, false, UDSIPC_ERR_MESSAGE_TOO_LARGE, SIZE_FAILURE);
    }
    tear_down(&fixture);
}

/* Without a limit the same lengths are believed, and still reserve nothing: the end comes first. */
static void huge_lengths_without_a_limit(void)
{
    static struct fixture fixture;
    set_up(&fixture, UINT64_MAX);
    static const uint64_t lengths[] = {1u << 31, UINT32_MAX, 1ull << 32};
    size_t before = resident_kib();
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        uint8_t bytes[20] = {0};
        size_t len = put_varint(bytes, lengths[i]);
        expect_refusal(&fixture, bytes, len + 10, true, UDSIPC_ERR_CONNECTION_CLOSED, PAYLOAD_FAILURE);
    }
    /* More than any memory holds: whether it is refused or waited for, it is one error and no crash. */
    static const uint64_t impossible[] = {INT64_MAX, 1ull << 63, UINT64_MAX};
    for (size_t i = 0; i < sizeof impossible / sizeof *impossible; i++) {
        uint8_t bytes[20] = {0};
        size_t len = put_varint(bytes, impossible[i]);
        uint64_t errors = reader_metrics(fixture.reader).errors;
        int client = raw_connect(fixture.path.text);
        raw_send(client, bytes, len + 10);
        close(client);
        WAIT_UNTIL(reader_metrics(fixture.reader).errors == errors + 1);
        WAIT_UNTIL(reader_metrics(fixture.reader).active_connections == 1);
        bystander_is_untouched(&fixture);
    }
    CHECK(UNDER_CHECKER || resident_kib() < before + 50 * 1024);
    tear_down(&fixture);
}

static void non_minimal_prefixes_are_accepted(void)
{
    static struct fixture fixture;
    set_up(&fixture, 1000);
    int client = raw_connect(fixture.path.text);
    static const uint8_t five_in_two[] = {0x85, 0x00, 'a', 'b', 'c', 'd', 'e'};
    static const uint8_t one_in_ten[] = {0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00, 'z'};
    static const uint8_t zero_in_ten[] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00};
    raw_send(client, five_in_two, sizeof five_in_two);
    WAIT_UNTIL(inbox_count(&fixture.inbox) == 1);
    CHECK_INT(fixture.inbox.last_len, 5);
    raw_send(client, zero_in_ten, sizeof zero_in_ten);
    raw_send(client, one_in_ten, sizeof one_in_ten);
    WAIT_UNTIL(inbox_count(&fixture.inbox) == 2);
    CHECK(fixture.inbox.last_len == 1 && fixture.inbox.last[0] == 'z');
    CHECK_INT(reader_metrics(fixture.reader).errors, 0);
    close(client);
    tear_down(&fixture);
}

/* The end of a connection: between frames it is silent, inside one it is an error. */
static void truncated_frames(void)
{
    static struct fixture fixture;
    set_up(&fixture, 1000);
    const int32_t status = UDSIPC_ERR_CONNECTION_CLOSED;
    static const uint8_t two_byte_prefix[] = {0x80};
    static const uint8_t nine_bytes[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t no_payload[] = {5};
    static const uint8_t half_payload[] = {5, 'h', 'a'};
    static const uint8_t last_byte_missing[] = {5, 'h', 'a', 'l', 'f'};
    expect_refusal(&fixture, two_byte_prefix, sizeof two_byte_prefix, true, status, PREFIX_FAILURE);
    expect_refusal(&fixture, nine_bytes, sizeof nine_bytes, true, status, PREFIX_FAILURE);
    expect_refusal(&fixture, no_payload, sizeof no_payload, true, status, PAYLOAD_FAILURE);
    expect_refusal(&fixture, half_payload, sizeof half_payload, true, status, PAYLOAD_FAILURE);
    expect_refusal(&fixture, last_byte_missing, sizeof last_byte_missing, true, status, PAYLOAD_FAILURE);
    tear_down(&fixture);
}

static void the_end_between_frames_is_silent(void)
{
    static struct fixture fixture;
    set_up(&fixture, 1000);
    for (int i = 0; i < 10; i++) {
        /* Connect and close is what a probe does: the reader treats it as silence. */
        close(raw_connect(fixture.path.text));
        int client = raw_connect(fixture.path.text);
        raw_send_frame(client, "whole", 5);
        close(client);
    }
    WAIT_UNTIL(inbox_count(&fixture.inbox) == 10);
    WAIT_UNTIL(reader_metrics(fixture.reader).active_connections == 1);
    CHECK_INT(reader_metrics(fixture.reader).errors, 0);
    CHECK_INT(failures_of(&fixture.failures, -1, NULL), 0);
    tear_down(&fixture);
}

/* A stream has no seams: a frame may come byte by byte, and many may come at once. */
static void frames_in_any_number_of_pieces(void)
{
    static struct fixture fixture;
    set_up(&fixture, 1000);
    int client = raw_connect(fixture.path.text);
    uint8_t frame[302] = {0xac, 0x02};
    for (size_t i = 2; i < sizeof frame; i++)
        frame[i] = (uint8_t)i;
    for (uint64_t cut = 0; cut <= sizeof frame; cut += 1 + cut / 8) {
        uint64_t before = inbox_count(&fixture.inbox);
        if (cut > 0) raw_send(client, frame, cut);
        WAIT_UNTIL(raw_is_read(client));
        if (cut < sizeof frame) raw_send(client, frame + cut, sizeof frame - cut);
        WAIT_UNTIL(inbox_count(&fixture.inbox) == before + 1);
    }
    uint64_t before = inbox_count(&fixture.inbox);
    for (size_t i = 0; i < sizeof frame; i++)
        raw_send(client, frame + i, 1);
    WAIT_UNTIL(inbox_count(&fixture.inbox) == before + 1);
    CHECK(fixture.inbox.last_len == 300 && memcmp(fixture.inbox.last, frame + 2, sizeof fixture.inbox.last) == 0);
    CHECK_INT(reader_metrics(fixture.reader).errors, 0);
    close(client);
    tear_down(&fixture);
}

/* ---- strangers ---- */

/* 200 connections that announce 10 MiB each and then stall would be 2 GB if the announcement were believed. */
static void announcements_reserve_no_memory(void)
{
    static struct fixture fixture;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_inactivity_timeout_ms(options, UDSIPC_WAIT_FOREVER));
    set_up_with(&fixture, options);
    bystander_is_untouched(&fixture);
    size_t before = resident_kib();
    int strangers[200];
    for (size_t i = 0; i < 200; i++) {
        uint8_t bytes[104] = {0};
        strangers[i] = raw_connect(fixture.path.text);
        raw_send(strangers[i], bytes, put_varint(bytes, 10 << 20) + 100);
    }
    for (size_t i = 0; i < 200; i++)
        WAIT_UNTIL(raw_is_read(strangers[i]));
    bystander_is_untouched(&fixture);
    CHECK(UNDER_CHECKER || resident_kib() < before + 50 * 1024);
    for (size_t i = 0; i < 200; i++)
        close(strangers[i]);
    WAIT_UNTIL(reader_metrics(fixture.reader).errors == 200);
    WAIT_UNTIL(failures_of(&fixture.failures, UDSIPC_ERR_CONNECTION_CLOSED, PAYLOAD_FAILURE) == 200);
    tear_down(&fixture);
}

/* Descriptors that a stranger sends along do not fill the reader's table. */
static void passed_descriptors_do_not_pile_up(void)
{
    static struct fixture fixture;
    set_up(&fixture, 1000);
    int client = raw_connect(fixture.path.text);
    bystander_is_untouched(&fixture);
    size_t fds = open_fds();
    for (uint64_t i = 0; i < 50; i++) {
        uint8_t frame[3] = {2, 'f', 'd'};
        union {
            struct cmsghdr header;
            uint8_t space[CMSG_SPACE(3 * sizeof(int))];
        } control = {.space = {0}};
        struct iovec data = {frame, sizeof frame};
        struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control,
                                 .msg_controllen = sizeof control.space};
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(3 * sizeof(int));
        const int passed[3] = {0, 1, 2};
        memcpy(CMSG_DATA(&control.header), passed, sizeof passed);
        CHECK(sendmsg(client, &message, MSG_NOSIGNAL) == sizeof frame);
        WAIT_UNTIL(inbox_count(&fixture.inbox) == i + 2);
    }
    CHECK_INT(open_fds(), fds);
    CHECK_INT(reader_metrics(fixture.reader).errors, 0);
    close(client);
    tear_down(&fixture);
}

/* ---- inactivity ---- */

static void set_up_impatient(struct fixture *fixture, uint64_t inactivity_ms)
{
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_inactivity_timeout_ms(options, inactivity_ms));
    *fixture = (struct fixture){.path = in_scratch("s"), .failures = FAILURES, .inbox = INBOX};
    fixture->reader = watched_reader(fixture->path.text, &fixture->inbox, options, &fixture->failures);
    CHECK_OK(udsipc_reader_start(fixture->reader));
}

/* Between frames and inside a prefix: closed silently. Not before its time. */
static void inactivity_is_silent_between_frames(void)
{
    static const struct {
        const char *bytes;
        size_t len;
        uint64_t messages;
    } cases[] = {{"", 0, 0}, {"\x02hi", 3, 1}, {"\x80", 1, 0}, {"\x02hi\x80\x80", 5, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static struct fixture fixture;
        set_up_impatient(&fixture, 300);
        uint64_t begun = now_ms();
        int client = raw_connect(fixture.path.text);
        if (cases[i].len > 0) raw_send(client, cases[i].bytes, cases[i].len);
        raw_wait_closed(client);
        CHECK(now_ms() - begun >= 299);
        WAIT_UNTIL(reader_metrics(fixture.reader).idle_closed == 1);
        WAIT_UNTIL(reader_metrics(fixture.reader).active_connections == 0);
        CHECK_INT(reader_metrics(fixture.reader).errors, 0);
        CHECK_INT(inbox_count(&fixture.inbox), cases[i].messages);
        CHECK_INT(failures_of(&fixture.failures, -1, NULL), 0);
        udsipc_reader_free(fixture.reader);
        close(client);
    }
}

/* Inside a payload it is an error: somebody waits for the rest of a message. */
static void inactivity_inside_a_payload_is_an_error(void)
{
    static struct fixture fixture;
    set_up_impatient(&fixture, 300);
    int client = raw_connect(fixture.path.text);
    raw_send(client, "\x05stal", 5);
    raw_wait_closed(client);
    WAIT_UNTIL(failures_of(&fixture.failures, -1, PAYLOAD_FAILURE) == 1);
    CHECK_INT(reader_metrics(fixture.reader).errors, 1);
    CHECK_INT(reader_metrics(fixture.reader).idle_closed, 0);
    CHECK_INT(inbox_count(&fixture.inbox), 0);
    udsipc_reader_free(fixture.reader);
    close(client);
}

/* Each frame, an empty one too, begins the time anew. */
static void every_frame_restarts_the_inactivity_timeout(void)
{
    static struct fixture fixture;
    set_up_impatient(&fixture, 2000);
    int client = raw_connect(fixture.path.text);
    struct inbox *inbox = &fixture.inbox;
    uint64_t begun = now_ms();
    for (uint64_t sent = 0; now_ms() - begun < 5000; sent++) {
        raw_send(client, sent % 2 == 0 ? "\x01x" : "\x00", sent % 2 == 0 ? 2 : 1);
        uint64_t until = now_ms() + 250;
        WAIT_UNTIL(inbox_count(inbox) == sent / 2 + 1 && now_ms() >= until);
    }
    CHECK_INT(reader_metrics(fixture.reader).idle_closed, 0);
    CHECK_INT(reader_metrics(fixture.reader).active_connections, 1);
    raw_wait_closed(client);
    WAIT_UNTIL(reader_metrics(fixture.reader).idle_closed == 1);
    udsipc_reader_free(fixture.reader);
    close(client);
}

/* WAIT_FOREVER means never. */
static void inactivity_can_be_switched_off(void)
{
    static struct fixture fixture;
    set_up_impatient(&fixture, UDSIPC_WAIT_FOREVER);
    int client = raw_connect(fixture.path.text);
    raw_send(client, "\x02hi", 3);
    WAIT_UNTIL(inbox_count(&fixture.inbox) == 1);
    STAYS_TRUE(500, reader_metrics(fixture.reader).active_connections == 1);
    udsipc_reader_free(fixture.reader);
    close(client);
}

/* An idle close loses nothing: a writer whose pauses are about as long as the timeout, over and over. */
static void writers_lose_nothing_to_inactivity(void)
{
    static struct fixture fixture;
    set_up_impatient(&fixture, 20);
    udsipc_writer *writer = started_writer(fixture.path.text);
    for (uint32_t i = 0; i < 100; i++) {
        uint64_t next = now_ms() + 15 + i % 10;
        CHECK_OK(write_numbered(writer, 0, i));
        WAIT_UNTIL(now_ms() >= next);
    }
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    WAIT_UNTIL(inbox_count(&fixture.inbox) == 100);
    CHECK_INT(fixture.inbox.gaps, 0);
    CHECK(reader_metrics(fixture.reader).idle_closed > 0);
    CHECK_INT(reader_metrics(fixture.reader).errors, 0);
    CHECK_INT(writer_metrics(writer).sent, 100);
    CHECK_INT(writer_metrics(writer).abandoned, 0);
    CHECK_INT(writer_metrics(writer).suspected_lost, 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(fixture.reader);
}

static const struct scenario scenarios[] = {
    SCENARIO(reader_takes_max_and_refuses_one_more),
    SCENARIO(nothing_behind_a_refused_frame_is_delivered),
    SCENARIO(what_stands_before_a_refused_frame_is_delivered),
    SCENARIO(default_limit_is_ten_mebibytes),
    SCENARIO(limit_zero_refuses_every_message),
    SCENARIO(empty_frames_are_passed_over),
    SCENARIO(writer_takes_max_and_refuses_one_more),
    SCENARIO(writer_default_limit_is_ten_mebibytes),
    SCENARIO(queue_holds_exactly_its_limit),
    SCENARIO(write_messages_says_how_far_it_came),
    SCENARIO(queue_has_a_limit_in_bytes),
    SCENARIO(malformed_prefixes),
    SCENARIO(huge_lengths),
    SCENARIO(huge_lengths_without_a_limit),
    SCENARIO(non_minimal_prefixes_are_accepted),
    SCENARIO(truncated_frames),
    SCENARIO(the_end_between_frames_is_silent),
    SCENARIO(frames_in_any_number_of_pieces),
    SCENARIO(announcements_reserve_no_memory),
    SCENARIO(passed_descriptors_do_not_pile_up),
    SCENARIO(inactivity_is_silent_between_frames),
    SCENARIO(inactivity_inside_a_payload_is_an_error),
    SCENARIO(every_frame_restarts_the_inactivity_timeout),
    SCENARIO(inactivity_can_be_switched_off),
    SCENARIO(writers_lose_nothing_to_inactivity),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
