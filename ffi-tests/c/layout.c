/* Numbers, sizes and offsets that programs have compiled in: none of them may ever change. */
#include "../support/check.h"

_Static_assert(sizeof(udsipc_status) == 4, "a status travels as an int32_t");
_Static_assert(UDSIPC_WAIT_FOREVER == UINT64_MAX, "for ever");

#define NUMBER(name, number) _Static_assert((name) == (number), #name " was renumbered")
NUMBER(UDSIPC_OK, 0);
NUMBER(UDSIPC_ERR_NULL_POINTER, 1);
NUMBER(UDSIPC_ERR_INVALID_ARGUMENT, 2);
NUMBER(UDSIPC_ERR_INVALID_SOCKET_PATH, 3);
NUMBER(UDSIPC_ERR_INVALID_TIMEOUT, 4);
NUMBER(UDSIPC_ERR_INVALID_BUFFER_SIZE, 5);
NUMBER(UDSIPC_ERR_HANDLER_NULL, 6);
NUMBER(UDSIPC_ERR_MAX_ACCEPT_ERRORS_TOO_LARGE, 7);
NUMBER(UDSIPC_ERR_WOULD_DEADLOCK, 8);
NUMBER(UDSIPC_ERR_FORKED, 9);
NUMBER(UDSIPC_ERR_WRONG_STATE, 10);
NUMBER(UDSIPC_ERR_BUFFER_FULL, 20);
NUMBER(UDSIPC_ERR_STOPPED, 21);
NUMBER(UDSIPC_ERR_MESSAGE_TOO_LARGE, 22);
NUMBER(UDSIPC_ERR_TIMEOUT, 23);
NUMBER(UDSIPC_ERR_BACKPRESSURE, 24);
NUMBER(UDSIPC_ERR_NO_CONSUMER, 25);
NUMBER(UDSIPC_ERR_NOT_CONNECTED, 26);
NUMBER(UDSIPC_ERR_CONNECTION_CLOSED, 27);
NUMBER(UDSIPC_ERR_UNDELIVERED, 28);
NUMBER(UDSIPC_ERR_NOT_ACKNOWLEDGED, 29);
NUMBER(UDSIPC_ERR_IO, 40);
NUMBER(UDSIPC_ERR_INVALID_LENGTH_PREFIX, 41);
NUMBER(UDSIPC_ERR_HANDLER_FAILED, 42);
NUMBER(UDSIPC_ERR_ADDRESS_IN_USE, 43);
NUMBER(UDSIPC_ERR_PERMISSION_DENIED, 44);
NUMBER(UDSIPC_ERR_SYSTEMD, 45);
NUMBER(UDSIPC_ERR_NO_RESOURCES, 46);
NUMBER(UDSIPC_ERR_SOCKET_GONE, 47);
NUMBER(UDSIPC_ERR_PANIC, 90);

static const int32_t statuses[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 20, 21, 22,
                                   23, 24, 25, 26, 27, 28, 40, 41, 42, 43, 44, 45, 46, 47, 90};

/* Growth is allowed at the end alone, so the fields of today keep their offsets while the size may only rise. */
#define FIELD(type, field, index) \
    _Static_assert(offsetof(type, field) == 8 * (index) && sizeof(((type *)0)->field) == 8, #type "." #field " moved")
FIELD(udsipc_writer_metrics, sent, 0);
FIELD(udsipc_writer_metrics, dropped, 1);
FIELD(udsipc_writer_metrics, failed, 2);
FIELD(udsipc_writer_metrics, queue_depth, 3);
FIELD(udsipc_writer_metrics, queue_bytes, 4);
FIELD(udsipc_writer_metrics, sent_bytes, 5);
FIELD(udsipc_writer_metrics, retried, 6);
FIELD(udsipc_writer_metrics, abandoned, 7);
FIELD(udsipc_writer_metrics, suspected_lost, 8);
FIELD(udsipc_writer_metrics, connections, 9);
FIELD(udsipc_writer_metrics, connect_failures, 10);
_Static_assert(sizeof(udsipc_writer_metrics) >= 11 * 8, "a field is gone");

FIELD(udsipc_reader_metrics, received, 0);
FIELD(udsipc_reader_metrics, connections, 1);
FIELD(udsipc_reader_metrics, errors, 2);
FIELD(udsipc_reader_metrics, active_connections, 3);
FIELD(udsipc_reader_metrics, received_bytes, 4);
FIELD(udsipc_reader_metrics, accept_errors, 5);
FIELD(udsipc_reader_metrics, idle_closed, 6);
FIELD(udsipc_reader_metrics, refused, 7);
FIELD(udsipc_reader_metrics, relistened, 8);
_Static_assert(sizeof(udsipc_reader_metrics) >= 9 * 8, "a field is gone");

_Static_assert(offsetof(udsipc_buffer, data) == 0, "udsipc_buffer.data moved");
_Static_assert(offsetof(udsipc_buffer, len) == sizeof(void *), "udsipc_buffer.len moved");
_Static_assert(sizeof(udsipc_buffer) == sizeof(void *) + sizeof(size_t), "udsipc_buffer grew");

/* The types that callers write down: a changed prototype does not compile here. */
static udsipc_status (*const write_message)(udsipc_writer *, const void *, size_t) = udsipc_write_message;
static udsipc_status (*const write_messages)(udsipc_writer *, const udsipc_buffer *, size_t, size_t *) =
    udsipc_write_messages;
static const char *(*const strerror_function)(int32_t) = udsipc_strerror;

static void numbers_and_prototypes_compile(void)
{
    /* What the compiler has asserted above holds for the library that is linked, too. */
    CHECK_NULL_POINTER(write_message(NULL, "x", 1));
    CHECK_NULL_POINTER(write_messages(NULL, NULL, 0, NULL));
    CHECK(strerror_function(0) != NULL);
}

static void strerror_knows_every_status(void)
{
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++) {
        const char *text = udsipc_strerror(statuses[i]);
        CHECK(text != NULL && strlen(text) > 0);
        CHECK(text == udsipc_strerror(statuses[i]));
        for (size_t j = 0; j < i; j++)
            CHECK(strcmp(text, udsipc_strerror(statuses[j])) != 0);
    }
}

static void strerror_answers_every_number(void)
{
    static const int32_t unknown[] = {-1, 11, 19, 30, 48, 89, 91, 1000, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        const char *text = udsipc_strerror(unknown[i]);
        CHECK(text != NULL && strlen(text) > 0);
        CHECK_TEXT(text, udsipc_strerror(-1));
        CHECK(strcmp(text, udsipc_strerror(UDSIPC_OK)) != 0);
    }
}

static void versions_agree(void)
{
    char text[64];
    snprintf(text, sizeof text, "%d.%d.%d", (int)UDSIPC_VERSION_MAJOR, (int)UDSIPC_VERSION_MINOR,
             (int)UDSIPC_VERSION_PATCH);
    CHECK_TEXT(UDSIPC_VERSION_STRING, text);
    CHECK_TEXT(udsipc_version(), text);
    /* A later version has a greater number: each part must count in it. */
    CHECK(UDSIPC_VERSION_NUMBER >= UDSIPC_VERSION_MAJOR + UDSIPC_VERSION_MINOR + UDSIPC_VERSION_PATCH);
    CHECK(UDSIPC_VERSION_NUMBER > 0);
}

/* A program built against an older header passes a smaller size: nothing behind it may be written. */
static void metrics_of_an_older_program(void)
{
    struct inbox inbox = INBOX;
    struct path path = in_scratch("s");
    udsipc_reader *reader = new_reader(path.text, &inbox);
    udsipc_writer *writer = new_writer(path.text);
    CHECK_OK(udsipc_write_message(writer, "12345", 5));

    const size_t whole = sizeof(udsipc_writer_metrics);
    uint64_t full[64], part[64];
    CHECK(whole <= sizeof full);
    CHECK_OK(udsipc_writer_get_metrics(writer, (udsipc_writer_metrics *)full, whole));
    CHECK_INT(full[3], 1);
    CHECK_INT(full[4], 5);
    for (size_t fields = 1; fields < whole / 8; fields++) {
        memset(part, 0xa5, sizeof part);
        CHECK_OK(udsipc_writer_get_metrics(writer, (udsipc_writer_metrics *)part, fields * 8));
        CHECK(memcmp(part, full, fields * 8) == 0);
        CHECK_INT(part[fields], 0xa5a5a5a5a5a5a5a5);
    }
    for (size_t fields = 1; fields < sizeof(udsipc_reader_metrics) / 8; fields++) {
        memset(part, 0xa5, sizeof part);
        CHECK_OK(udsipc_reader_get_metrics(reader, (udsipc_reader_metrics *)part, fields * 8));
        CHECK_INT(part[fields - 1], 0);
        CHECK_INT(part[fields], 0xa5a5a5a5a5a5a5a5);
    }
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* A program built against a newer header passes a greater size: the fields that exist are right, and a field that this
 * library does not know is no garbage that a program could take for a count. */
static void metrics_of_a_newer_program(void)
{
    struct inbox inbox = INBOX;
    struct path path = in_scratch("s");
    udsipc_reader *reader = new_reader(path.text, &inbox);
    udsipc_writer *writer = new_writer(path.text);
    CHECK_OK(udsipc_write_message(writer, "12345", 5));

    const size_t known = sizeof(udsipc_writer_metrics) / 8;
    uint64_t larger[64] = {0};
    CHECK_OK(udsipc_writer_get_metrics(writer, (udsipc_writer_metrics *)larger, (known + 4) * 8));
    CHECK_INT(larger[3], 1);
    CHECK_INT(larger[4], 5);
    for (size_t i = known; i < known + 4; i++)
        CHECK_INT(larger[i], 0);
    memset(larger, 0, sizeof larger);
    CHECK_OK(udsipc_reader_get_metrics(reader, (udsipc_reader_metrics *)larger, sizeof larger));
    for (size_t i = 0; i < 64; i++)
        CHECK_INT(larger[i], 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* A size that is no whole number of fields: never a byte too many. */
static void metrics_of_an_odd_size(void)
{
    udsipc_writer *writer = new_writer(in_scratch("s").text);
    for (size_t size = 0; size <= sizeof(udsipc_writer_metrics); size++) {
        _Alignas(uint64_t) uint8_t bytes[sizeof(udsipc_writer_metrics) + 1];
        memset(bytes, 0xa5, sizeof bytes);
        IGNORE(udsipc_writer_get_metrics(writer, (udsipc_writer_metrics *)(void *)bytes, size));
        CHECK_INT(bytes[size], 0xa5);
    }
    udsipc_writer_free(writer);
}

static const struct scenario scenarios[] = {
    SCENARIO(numbers_and_prototypes_compile), SCENARIO(strerror_knows_every_status),
    SCENARIO(strerror_answers_every_number),  SCENARIO(versions_agree),
    SCENARIO(metrics_of_an_older_program),    SCENARIO(metrics_of_a_newer_program),
    SCENARIO(metrics_of_an_odd_size),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
