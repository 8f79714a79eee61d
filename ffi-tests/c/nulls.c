/* Every export with NULL in each slot: a status function answers UDSIPC_ERR_NULL_POINTER, `_free` does nothing, and
 * nothing crashes. Outputs are untouched by a refused call. */
#include "../support/check.h"

static void writer_options_null(void)
{
    CHECK_NULL_POINTER(udsipc_writer_options_set_max_buffered_writes(NULL, 1));
    CHECK_NULL_POINTER(udsipc_writer_options_set_max_buffered_bytes(NULL, 1));
    CHECK_NULL_POINTER(udsipc_writer_options_set_max_message_size(NULL, 1));
    CHECK_NULL_POINTER(udsipc_writer_options_set_write_timeout_ms(NULL, 1));
    CHECK_NULL_POINTER(udsipc_writer_options_set_dial_timeout_ms(NULL, 1));
    CHECK_NULL_POINTER(udsipc_writer_options_set_max_backoff_ms(NULL, 1));
    CHECK_NULL_POINTER(udsipc_writer_options_set_write_buffer_size(NULL, 1));
    CHECK_NULL_POINTER(udsipc_writer_options_set_max_attempts(NULL, 1));
    CHECK_NULL_POINTER(udsipc_writer_options_set_drain_until_deadline(NULL, 1));
    CHECK_NULL_POINTER(udsipc_writer_options_set_linger_ms(NULL, 1));
    CHECK_NULL_POINTER(udsipc_writer_options_set_error_callback(NULL, record_failure, NULL));
    udsipc_writer_options_free(NULL);

    /* No callback, and no userdata, are values like others. */
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_error_callback(options, record_failure, NULL));
    CHECK_OK(udsipc_writer_options_set_error_callback(options, NULL, NULL));
    udsipc_writer *writer = NULL;
    CHECK_OK(udsipc_writer_new(in_scratch("s").text, options, &writer));
    CHECK_OK(udsipc_write_message(writer, "unheard", 7));
    CHECK_STATUS(udsipc_writer_stop(writer, PATIENCE_MS), UDSIPC_ERR_UNDELIVERED);
    udsipc_writer_free(writer);
    udsipc_writer_options_free(options);
}

static void reader_options_null(void)
{
    CHECK_NULL_POINTER(udsipc_reader_options_set_max_message_size(NULL, 1));
    CHECK_NULL_POINTER(udsipc_reader_options_set_inactivity_timeout_ms(NULL, 1));
    CHECK_NULL_POINTER(udsipc_reader_options_set_max_accept_errors(NULL, 1));
    CHECK_NULL_POINTER(udsipc_reader_options_set_read_buffer_size(NULL, 1));
    CHECK_NULL_POINTER(udsipc_reader_options_set_max_handler_threads(NULL, 1));
    CHECK_NULL_POINTER(udsipc_reader_options_set_max_connections(NULL, 1));
    CHECK_NULL_POINTER(udsipc_reader_options_set_max_shared_memory(NULL, 1));
    CHECK_NULL_POINTER(udsipc_reader_options_set_socket_mode(NULL, 0600));
    CHECK_NULL_POINTER(udsipc_reader_options_set_socket_group(NULL, 1));
    CHECK_NULL_POINTER(udsipc_reader_options_allow_uid(NULL, 1));
    CHECK_NULL_POINTER(udsipc_reader_options_allow_gid(NULL, 1));
    CHECK_NULL_POINTER(udsipc_reader_options_set_listen_fd_name(NULL, "name"));
    CHECK_NULL_POINTER(udsipc_reader_options_set_listen_fd(NULL, 1));
    CHECK_NULL_POINTER(udsipc_reader_options_set_linger_ms(NULL, 1));
    CHECK_NULL_POINTER(udsipc_reader_options_set_callback_stack_size(NULL, 0));
    CHECK_NULL_POINTER(udsipc_reader_options_set_use_systemd(NULL, 1));
    CHECK_NULL_POINTER(udsipc_reader_options_set_error_callback(NULL, record_failure, NULL));
    udsipc_reader_options_free(NULL);

    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_error_callback(options, record_failure, NULL));
    CHECK_OK(udsipc_reader_options_set_error_callback(options, NULL, NULL));
    CHECK_OK(udsipc_reader_options_set_listen_fd_name(options, "name"));
    CHECK_OK(udsipc_reader_options_set_listen_fd_name(options, NULL));
    udsipc_reader_options_free(options);
}

static void writer_null(void)
{
    struct path path = in_scratch("s");
    udsipc_writer *const untouched = (udsipc_writer *)&path;
    udsipc_writer *writer = untouched;
    CHECK_NULL_POINTER(udsipc_writer_new(NULL, NULL, &writer));
    CHECK(writer == untouched);
    CHECK_NULL_POINTER(udsipc_writer_new(path.text, NULL, NULL));

    size_t accepted = 77;
    udsipc_buffer buffer = {(const uint8_t *)"x", 1};
    udsipc_writer_metrics metrics;
    CHECK_NULL_POINTER(udsipc_writer_start(NULL));
    CHECK_NULL_POINTER(udsipc_write_message(NULL, "x", 1));
    CHECK_NULL_POINTER(udsipc_write_message_timeout(NULL, "x", 1, 0));
    CHECK_NULL_POINTER(udsipc_write_messages(NULL, &buffer, 1, &accepted));
    CHECK_NULL_POINTER(udsipc_writer_flush(NULL, 0));
    CHECK_NULL_POINTER(udsipc_writer_stop(NULL, 0));
    CHECK_NULL_POINTER(udsipc_writer_dispatch(NULL, 0));
    CHECK_NULL_POINTER(udsipc_writer_get_metrics(NULL, &metrics, sizeof metrics));
    /* No status comes back from these: they must say something harmless. */
    CHECK_INT(udsipc_writer_fd(NULL), -1);
    CHECK_INT(udsipc_writer_is_connected(NULL), 0);
    CHECK_TEXT(udsipc_writer_socket_path(NULL), "");
    char text[64] = "x";
    CHECK_INT(udsipc_writer_describe(NULL, text, sizeof text), 0);
    CHECK_TEXT(text, "");
    CHECK_INT(udsipc_writer_metrics_prometheus(NULL, NULL, text, sizeof text), 0);
    udsipc_writer_free(NULL);
}

static void writer_arguments_null(void)
{
    udsipc_writer *writer = new_writer(in_scratch("s").text);
    CHECK_NULL_POINTER(udsipc_write_message(writer, NULL, 1));
    CHECK_NULL_POINTER(udsipc_write_message_timeout(writer, NULL, 1, 0));
    CHECK_NULL_POINTER(udsipc_writer_get_metrics(writer, NULL, sizeof(udsipc_writer_metrics)));
    size_t accepted = 77;
    CHECK_NULL_POINTER(udsipc_write_messages(writer, NULL, 1, &accepted));
    CHECK_INT(accepted, 0);
    CHECK_INT(writer_metrics(writer).queue_depth, 0);
    udsipc_writer_free(writer);
}

/* The messages before the bad one have been taken, and `accepted` says so. */
static void a_null_buffer_among_messages(void)
{
    udsipc_writer *writer = new_writer(in_scratch("s").text);
    udsipc_buffer buffers[3] = {{(const uint8_t *)"x", 1}, {NULL, 1}, {(const uint8_t *)"y", 1}};
    size_t accepted = 77;
    CHECK_NULL_POINTER(udsipc_write_messages(writer, buffers, 3, &accepted));
    CHECK_INT(accepted, 1);
    CHECK_INT(writer_metrics(writer).queue_depth, 1);
    udsipc_writer_free(writer);
}

static void null_and_zero_is_an_empty_message(void)
{
    udsipc_writer *writer = new_writer(in_scratch("s").text);
    CHECK_OK(udsipc_write_message(writer, NULL, 0));
    CHECK_OK(udsipc_write_message(writer, "", 0));
    CHECK_OK(udsipc_write_message_timeout(writer, NULL, 0, 0));
    size_t accepted = 77;
    CHECK_OK(udsipc_write_messages(writer, NULL, 0, &accepted));
    CHECK_INT(accepted, 0);
    udsipc_buffer buffers[2] = {{NULL, 0}, {(const uint8_t *)"x", 1}};
    CHECK_OK(udsipc_write_messages(writer, buffers, 2, &accepted));
    CHECK_INT(accepted, 2);
    CHECK_INT(writer_metrics(writer).queue_depth, 1);
    udsipc_writer_free(writer);
}

/* A length that no object can have is refused before anything is read through it. */
static void impossible_lengths(void)
{
    udsipc_writer *writer = new_writer(in_scratch("s").text);
    CHECK(udsipc_write_message(writer, "x", SIZE_MAX) != UDSIPC_OK);
    CHECK(udsipc_write_message_timeout(writer, "x", SIZE_MAX, 0) != UDSIPC_OK);
    udsipc_buffer buffer = {(const uint8_t *)"x", SIZE_MAX};
    size_t accepted = 77;
    CHECK(udsipc_write_messages(writer, &buffer, 1, &accepted) != UDSIPC_OK);
    CHECK_INT(accepted, 0);
    CHECK(udsipc_write_messages(writer, &buffer, SIZE_MAX, &accepted) != UDSIPC_OK);
    CHECK_INT(writer_metrics(writer).queue_depth, 0);
    udsipc_writer_free(writer);
}

static size_t receive_batch(const udsipc_buffer *messages, size_t count, const udsipc_connection *connection,
                            void *userdata)
{
    (void)messages, (void)connection, (void)userdata;
    return count;
}

static void reader_null(void)
{
    struct path path = in_scratch("s");
    udsipc_reader *const untouched = (udsipc_reader *)&path;
    udsipc_reader *reader = untouched;
    CHECK_NULL_POINTER(udsipc_reader_new(NULL, receive, NULL, NULL, &reader));
    CHECK_STATUS(udsipc_reader_new(path.text, NULL, NULL, NULL, &reader), UDSIPC_ERR_HANDLER_NULL);
    CHECK_NULL_POINTER(udsipc_reader_new(path.text, receive, NULL, NULL, NULL));
    CHECK_NULL_POINTER(udsipc_reader_new_batched(NULL, receive_batch, NULL, NULL, &reader));
    CHECK_STATUS(udsipc_reader_new_batched(path.text, NULL, NULL, NULL, &reader), UDSIPC_ERR_HANDLER_NULL);
    CHECK_NULL_POINTER(udsipc_reader_new_batched(path.text, receive_batch, NULL, NULL, NULL));
    CHECK(reader == untouched);
    /* None of the refused calls has touched the file system. */
    CHECK(!exists(path.text));

    udsipc_reader_metrics metrics;
    char text[64];
    CHECK_NULL_POINTER(udsipc_reader_start(NULL));
    CHECK_NULL_POINTER(udsipc_reader_stop(NULL, 0));
    CHECK_NULL_POINTER(udsipc_reader_dispatch(NULL, 0));
    CHECK_NULL_POINTER(udsipc_reader_get_metrics(NULL, &metrics, sizeof metrics));
    CHECK_INT(udsipc_reader_fd(NULL), -1);
    CHECK_TEXT(udsipc_reader_socket_path(NULL), "");
    memset(text, 'x', sizeof text);
    CHECK_INT(udsipc_reader_describe(NULL, text, sizeof text), 0);
    CHECK_TEXT(text, "");
    memset(text, 'x', sizeof text);
    CHECK_INT(udsipc_reader_metrics_prometheus(NULL, NULL, text, sizeof text), 0);
    CHECK_TEXT(text, "");
    udsipc_reader_free(NULL);
}

static void reader_arguments_null(void)
{
    struct inbox inbox = INBOX;
    udsipc_reader *reader = new_reader(in_scratch("s").text, &inbox);
    CHECK_NULL_POINTER(udsipc_reader_get_metrics(reader, NULL, sizeof(udsipc_reader_metrics)));
    /* As snprintf: no buffer and no capacity asks for the length. */
    size_t needed = udsipc_reader_describe(reader, NULL, 0);
    CHECK(needed > 0);
    char text[1024];
    CHECK_INT(udsipc_reader_describe(reader, text, sizeof text), needed);
    CHECK_INT(strlen(text), needed);
    CHECK_INT(udsipc_reader_describe(reader, NULL, sizeof text), needed);
    udsipc_reader_free(reader);
}

/* `userdata` may be NULL: it is the caller's own. */
static void userdata_null(void)
{
    struct path path = in_scratch("s");
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new_batched(path.text, receive_batch, NULL, NULL, &reader));
    CHECK_OK(udsipc_reader_start(reader));
    udsipc_writer *writer = started_writer(path.text);
    CHECK_OK(udsipc_write_message(writer, "x", 1));
    WAIT_UNTIL(reader_metrics(reader).received == 1);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static int32_t ask_for_nothing(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    int32_t pid = 77;
    uint32_t uid = 77, gid = 77;
    CHECK_NULL_POINTER(udsipc_connection_credentials(connection, NULL, &uid, &gid));
    CHECK_NULL_POINTER(udsipc_connection_credentials(connection, &pid, NULL, &gid));
    CHECK_NULL_POINTER(udsipc_connection_credentials(connection, &pid, &uid, NULL));
    CHECK(pid == 77 && uid == 77 && gid == 77);
    uint8_t id[16] = {77};
    CHECK_NULL_POINTER(udsipc_connection_writer_id(connection, NULL));
    CHECK_STATUS(udsipc_connection_writer_id(connection, id), UDSIPC_ERR_NOT_ACKNOWLEDGED);
    CHECK(id[0] == 77 && udsipc_message_sequence(connection) == 0);
    return receive(data, len, connection, userdata);
}

static void connection_arguments_null(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, ask_for_nothing, &inbox, NULL, &reader));
    CHECK_OK(udsipc_reader_start(reader));
    int client = raw_connect(path.text);
    raw_send_frame(client, "x", 1);
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    udsipc_reader_free(reader);
    close(client);
}

static void connection_null(void)
{
    int32_t pid = 77;
    uint32_t uid = 77, gid = 77;
    CHECK_INT(udsipc_connection_id(NULL), 0);
    CHECK_NULL_POINTER(udsipc_connection_credentials(NULL, &pid, &uid, &gid));
    CHECK(pid == 77 && uid == 77 && gid == 77);
    uint8_t id[16] = {77};
    CHECK_NULL_POINTER(udsipc_connection_writer_id(NULL, id));
    CHECK(id[0] == 77);
    CHECK_INT(udsipc_message_sequence(NULL), 0);
}

static void paths_null(void)
{
    char buffer[108] = "untouched";
    size_t needed = 77;
    CHECK_NULL_POINTER(udsipc_resolve_socket_path(NULL, buffer, sizeof buffer, &needed));
    CHECK_TEXT(buffer, "untouched");
    CHECK_INT(needed, 77);
    CHECK_NULL_POINTER(udsipc_resolve_socket_path("/s", buffer, sizeof buffer, NULL));
    CHECK_NULL_POINTER(udsipc_resolve_socket_path("/s", NULL, 10, &needed));
    CHECK_TEXT(buffer, "untouched");
    /* No buffer and no capacity asks for the size. */
    CHECK_OK(udsipc_resolve_socket_path("/s", NULL, 0, &needed));
    CHECK_INT(needed, 3);
    CHECK_NULL_POINTER(udsipc_ensure_socket_dir(NULL));
    CHECK_NULL_POINTER(udsipc_cleanup_socket(NULL));
    CHECK_NULL_POINTER(udsipc_systemd_notify(NULL));
}

static void last_error_message_null(void)
{
    CHECK_NULL_POINTER(udsipc_writer_start(NULL));
    size_t needed = udsipc_last_error_message(NULL, 0);
    CHECK(needed > 0);
    CHECK_INT(udsipc_last_error_message(NULL, 100), needed);

    /* A short buffer gets a prefix that ends in NUL, and nothing behind it is touched. */
    char whole[1024], cut[8];
    CHECK(needed < sizeof whole && needed > 4);
    CHECK_INT(udsipc_last_error_message(whole, sizeof whole), needed);
    CHECK_INT(strlen(whole), needed);
    memset(cut, '#', sizeof cut);
    CHECK_INT(udsipc_last_error_message(cut, 5), needed);
    CHECK(memcmp(cut, whole, 4) == 0 && cut[4] == '\0' && cut[5] == '#');
    memset(cut, '#', sizeof cut);
    CHECK_INT(udsipc_last_error_message(cut, 0), needed);
    CHECK(cut[0] == '#');
}

static const struct scenario scenarios[] = {
    SCENARIO(writer_options_null),
    SCENARIO(reader_options_null),
    SCENARIO(writer_null),
    SCENARIO(writer_arguments_null),
    SCENARIO(a_null_buffer_among_messages),
    SCENARIO(null_and_zero_is_an_empty_message),
    SCENARIO(impossible_lengths),
    SCENARIO(reader_null),
    SCENARIO(reader_arguments_null),
    SCENARIO(userdata_null),
    SCENARIO(connection_arguments_null),
    SCENARIO(connection_null),
    SCENARIO(paths_null),
    SCENARIO(last_error_message_null),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
