/* Sizes, prefixes and strangers: what is at a limit passes, what is beyond it is refused, counted and reported under
 * the right name, and nobody else notices. Peers are raw sockets, so that every byte is ours.
 *
 * Here is what a sanitizer should see of it. The contract in full, case by case, is in test_framing.py, test_options.py and
 * test_reader.py. */
#include "../support/check.h"

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

static void set_up(struct fixture *fixture, uint64_t max_message_size)
{
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_max_message_size(options, max_message_size));
    *fixture = (struct fixture){.path = in_scratch("s"), .failures = FAILURES, .inbox = INBOX};
    fixture->reader = watched_reader(fixture->path.text, &fixture->inbox, options, &fixture->failures);
    CHECK_OK(udsipc_reader_start(fixture->reader));
    fixture->bystander = raw_connect(fixture->path.text);
    WAIT_UNTIL(reader_metrics(fixture->reader).active_connections == 1);
}

/* The bystander speaks on its old connection and is heard. */
static void bystander_is_untouched(struct fixture *fixture)
{
    uint64_t before = inbox_count(&fixture->inbox);
    raw_send_numbered(fixture->bystander, 63, fixture->said++);
    WAIT_UNTIL(inbox_count(&fixture->inbox) == before + 1);
    CHECK_INT(fixture->inbox.gaps, 0);
    /* Counted when its callback has returned: what counters say next is compared with this. */
    WAIT_UNTIL(reader_metrics(fixture->reader).received == before + 1);
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

/* Else a message between max_buffered_bytes and max_message_size could never be sent. */
static void one_message_may_be_above_the_byte_limit(void)
{
    static uint8_t payload[100000];
    static const size_t lengths[] = {1001, sizeof payload};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t len = lengths[i], accepted = 9;
        udsipc_writer_options *options = udsipc_writer_options_new();
        CHECK_OK(udsipc_writer_options_set_max_buffered_bytes(options, 1000));
        struct failures failures = FAILURES;
        udsipc_writer *writer = watched_writer(in_scratch("s").text, options, &failures);
        CHECK_OK(udsipc_write_message(writer, payload, len));
        CHECK_STATUS(udsipc_write_message(writer, payload, len), UDSIPC_ERR_BUFFER_FULL);
        CHECK_STATUS(udsipc_write_message(writer, payload, 1), UDSIPC_ERR_BUFFER_FULL);
        CHECK_STATUS(udsipc_write_message_timeout(writer, payload, len, 0), UDSIPC_ERR_BUFFER_FULL);
        CHECK_STATUS(udsipc_write_message_timeout(writer, payload, len, 1), UDSIPC_ERR_TIMEOUT);
        udsipc_buffer many[] = {{payload, len}};
        CHECK_STATUS(udsipc_write_messages(writer, many, 1, &accepted), UDSIPC_ERR_BUFFER_FULL);
        CHECK_INT(accepted, 0);
        CHECK_INT(writer_metrics(writer).queue_bytes, len);
        CHECK_INT(writer_metrics(writer).dropped, 5);

        struct inbox inbox = INBOX;
        udsipc_reader *reader = started_reader(in_scratch("s").text, &inbox);
        CHECK_OK(udsipc_writer_start(writer));
        CHECK_OK(udsipc_write_message_timeout(writer, payload, len, PATIENCE_MS));
        CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
        CHECK_OK(udsipc_write_messages(writer, many, 1, &accepted));
        CHECK_INT(accepted, 1);
        CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
        WAIT_UNTIL(inbox_count(&inbox) == 3);
        udsipc_writer_free(writer);
        udsipc_reader_free(reader);
    }
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
    SCENARIO(writer_takes_max_and_refuses_one_more),
    SCENARIO(queue_holds_exactly_its_limit),
    SCENARIO(write_messages_says_how_far_it_came),
    SCENARIO(queue_has_a_limit_in_bytes),
    SCENARIO(one_message_may_be_above_the_byte_limit),
    SCENARIO(malformed_prefixes),
    SCENARIO(huge_lengths),
    SCENARIO(truncated_frames),
    SCENARIO(frames_in_any_number_of_pieces),
    SCENARIO(inactivity_is_silent_between_frames),
    SCENARIO(inactivity_inside_a_payload_is_an_error),
    SCENARIO(writers_lose_nothing_to_inactivity),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
