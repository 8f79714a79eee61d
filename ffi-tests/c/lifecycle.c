/* Every call in every state, and how a handle begins. */
#include "../support/check.h"

/* ---- all pairs of state and call ---- */

enum state { NEW, STARTED, DISPATCHED, STOPPED, STATES };
static const char *const state_names[STATES] = {"new", "started", "dispatched", "stopped"};

/* The contract names no single answer; the call must come back all the same. */

static udsipc_status writer_state(udsipc_writer *writer, enum state state)
{
    switch (state) {
    case STARTED: return udsipc_writer_start(writer);
    case DISPATCHED: return udsipc_writer_dispatch(writer, 0);
    case STOPPED: return udsipc_writer_stop(writer, PATIENCE_MS);
    default: return UDSIPC_OK;
    }
}

static udsipc_status writer_write(udsipc_writer *writer)
{
    return udsipc_write_message(writer, "x", 1);
}

static udsipc_status writer_write_timeout(udsipc_writer *writer)
{
    return udsipc_write_message_timeout(writer, "x", 1, 0);
}

static udsipc_status writer_write_messages(udsipc_writer *writer)
{
    udsipc_buffer buffer = {(const uint8_t *)"x", 1};
    size_t accepted = 77;
    udsipc_status status = udsipc_write_messages(writer, &buffer, 1, &accepted);
    CHECK_INT(accepted, status == UDSIPC_OK);
    return status;
}

static udsipc_status writer_flush(udsipc_writer *writer)
{
    return udsipc_writer_flush(writer, PATIENCE_MS);
}

static udsipc_status writer_stop(udsipc_writer *writer)
{
    return udsipc_writer_stop(writer, PATIENCE_MS);
}

static udsipc_status writer_dispatch(udsipc_writer *writer)
{
    return udsipc_writer_dispatch(writer, 0);
}

static udsipc_status writer_get_metrics(udsipc_writer *writer)
{
    udsipc_writer_metrics metrics;
    return udsipc_writer_get_metrics(writer, &metrics, sizeof metrics);
}

static udsipc_status writer_look(udsipc_writer *writer)
{
    CHECK_TEXT(udsipc_writer_socket_path(writer), in_scratch("s").text);
    int32_t connected = udsipc_writer_is_connected(writer);
    CHECK(connected == 0 || connected == 1);
    udsipc_writer_fd(writer);
    return UDSIPC_OK;
}

static void every_call_of_a_writer_in_every_state(void)
{
    static const struct {
        const char *name;
        udsipc_status (*call)(udsipc_writer *);
        int32_t expected[STATES];
    } rows[] = {
        {"start", udsipc_writer_start, {UDSIPC_OK, UDSIPC_OK, UDSIPC_ERR_WRONG_STATE, UDSIPC_ERR_STOPPED}},
        {"dispatch", writer_dispatch, {UDSIPC_OK, UDSIPC_ERR_WRONG_STATE, UDSIPC_OK, UDSIPC_ERR_STOPPED}},
        {"write", writer_write, {UDSIPC_OK, UDSIPC_OK, UDSIPC_OK, UDSIPC_ERR_STOPPED}},
        {"write_timeout", writer_write_timeout, {UDSIPC_OK, UDSIPC_OK, UDSIPC_OK, UDSIPC_ERR_STOPPED}},
        {"write_messages", writer_write_messages, {UDSIPC_OK, UDSIPC_OK, UDSIPC_OK, UDSIPC_ERR_STOPPED}},
        {"flush", writer_flush, {UDSIPC_OK, UDSIPC_OK, UDSIPC_OK, UDSIPC_ERR_STOPPED}},
        {"stop", writer_stop, {UDSIPC_OK, UDSIPC_OK, UDSIPC_OK, UDSIPC_OK}},
        {"get_metrics", writer_get_metrics, {UDSIPC_OK, UDSIPC_OK, UDSIPC_OK, UDSIPC_OK}},
        {"look", writer_look, {UDSIPC_OK, UDSIPC_OK, UDSIPC_OK, UDSIPC_OK}},
    };
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    for (size_t row = 0; row < sizeof rows / sizeof *rows; row++) {
        for (enum state state = NEW; state < STATES; state++) {
            udsipc_writer *writer = new_writer(path.text);
            CHECK_OK(writer_state(writer, state));
            int32_t got = (int32_t)rows[row].call(writer);
            int32_t wanted = rows[row].expected[state];
            if (got != wanted) fprintf(stderr, "%s writer: ", state_names[state]);
            check_status(__FILE__, __LINE__, rows[row].name, got, wanted);
            udsipc_writer_free(writer);
        }
    }
    udsipc_reader_free(reader);
}

static udsipc_status reader_state(udsipc_reader *reader, enum state state)
{
    switch (state) {
    case STARTED: return udsipc_reader_start(reader);
    case DISPATCHED: return udsipc_reader_dispatch(reader, 0);
    case STOPPED: return udsipc_reader_stop(reader, PATIENCE_MS);
    default: return UDSIPC_OK;
    }
}

static udsipc_status reader_stop(udsipc_reader *reader)
{
    return udsipc_reader_stop(reader, PATIENCE_MS);
}

static udsipc_status reader_dispatch(udsipc_reader *reader)
{
    return udsipc_reader_dispatch(reader, 0);
}

static udsipc_status reader_get_metrics(udsipc_reader *reader)
{
    udsipc_reader_metrics metrics;
    return udsipc_reader_get_metrics(reader, &metrics, sizeof metrics);
}

static udsipc_status reader_look(udsipc_reader *reader)
{
    char text[1024];
    CHECK_TEXT(udsipc_reader_socket_path(reader), in_scratch("s").text);
    CHECK(udsipc_reader_describe(reader, text, sizeof text) > 0);
    CHECK(strstr(text, in_scratch("s").text) != NULL && strchr(text, '\n') == NULL);
    udsipc_reader_fd(reader);
    return UDSIPC_OK;
}

static void every_call_of_a_reader_in_every_state(void)
{
    static const struct {
        const char *name;
        udsipc_status (*call)(udsipc_reader *);
        int32_t expected[STATES];
    } rows[] = {
        {"start", udsipc_reader_start, {UDSIPC_OK, UDSIPC_OK, UDSIPC_ERR_WRONG_STATE, UDSIPC_ERR_STOPPED}},
        {"dispatch", reader_dispatch, {UDSIPC_OK, UDSIPC_ERR_WRONG_STATE, UDSIPC_OK, UDSIPC_ERR_STOPPED}},
        {"stop", reader_stop, {UDSIPC_OK, UDSIPC_OK, UDSIPC_OK, UDSIPC_OK}},
        {"get_metrics", reader_get_metrics, {UDSIPC_OK, UDSIPC_OK, UDSIPC_OK, UDSIPC_OK}},
        {"look", reader_look, {UDSIPC_OK, UDSIPC_OK, UDSIPC_OK, UDSIPC_OK}},
    };
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    for (size_t row = 0; row < sizeof rows / sizeof *rows; row++) {
        for (enum state state = NEW; state < STATES; state++) {
            udsipc_reader *reader = new_reader(path.text, &inbox);
            CHECK_OK(reader_state(reader, state));
            int32_t got = (int32_t)rows[row].call(reader);
            if (got != rows[row].expected[state]) fprintf(stderr, "%s reader: ", state_names[state]);
            check_status(__FILE__, __LINE__, rows[row].name, got, rows[row].expected[state]);
            udsipc_reader_free(reader);
            CHECK(!exists(path.text));
        }
    }
}

/* ---- start and write ---- */

static void *start_writer_thread(void *writer)
{
    CHECK_OK(udsipc_writer_start((udsipc_writer *)writer));
    return NULL;
}

static void start_from_eight_threads_starts_once(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = new_reader(path.text, &inbox);
    udsipc_writer *writer = new_writer(path.text);
    pthread_t starters[8];
    for (size_t i = 0; i < 8; i++)
        CHECK(pthread_create(&starters[i], NULL, start_writer_thread, writer) == 0);
    for (size_t i = 0; i < 8; i++)
        pthread_join(starters[i], NULL);
    /* One sender, so one connection. */
    WAIT_UNTIL(udsipc_writer_is_connected(writer) == 1);
    CHECK_INT(writer_metrics(writer).connections, 1);
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    WAIT_UNTIL(threads() == 1);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static void new_touches_no_file(void)
{
    struct path path = in_scratch("no/such/folder/s");
    size_t fds = open_fds();
    udsipc_writer *writer = new_writer(path.text);
    CHECK(!exists(in_scratch("no").text));
    CHECK_TEXT(udsipc_writer_socket_path(writer), path.text);
    CHECK_INT(threads(), 1);
    udsipc_writer_free(writer);
    CHECK_INT(open_fds(), fds);
}

static void messages_queued_before_start_arrive(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_writer *writer = new_writer(path.text);
    for (uint32_t i = 0; i < 100; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    CHECK_INT(writer_metrics(writer).queue_depth, 100);
    CHECK_INT(writer_metrics(writer).queue_bytes, 800);
    udsipc_reader *reader = started_reader(path.text, &inbox);
    CHECK_OK(udsipc_writer_start(writer));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    WAIT_UNTIL(inbox_count(&inbox) == 100);
    CHECK_INT(inbox.gaps, 0);
    CHECK_INT(writer_metrics(writer).sent, 100);
    CHECK_INT(writer_metrics(writer).sent_bytes, 800);
    CHECK_INT(writer_metrics(writer).queue_depth, 0);
    CHECK_INT(writer_metrics(writer).queue_bytes, 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static const struct scenario scenarios[] = {
    SCENARIO(every_call_of_a_writer_in_every_state),
    SCENARIO(every_call_of_a_reader_in_every_state),
    SCENARIO(start_from_eight_threads_starts_once),
    SCENARIO(new_touches_no_file),
    SCENARIO(messages_queued_before_start_arrive),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
