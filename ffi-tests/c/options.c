/* Ranges of the options: each setter takes both ends of its range, refuses what lies outside under the right name, and
 * a refusal leaves the options as they were. And paths: what is refused, what is replaced, what is left alone. */
#include "../support/check.h"

static void writer_options_ranges(void)
{
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK(options != NULL);
    CHECK_STATUS(udsipc_writer_options_set_max_buffered_writes(options, 0), UDSIPC_ERR_INVALID_BUFFER_SIZE);
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 1));
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 1u << 20));
    CHECK_STATUS(udsipc_writer_options_set_max_buffered_writes(options, (1u << 20) + 1),
                 UDSIPC_ERR_INVALID_BUFFER_SIZE);
    CHECK_STATUS(udsipc_writer_options_set_max_buffered_writes(options, UINT32_MAX), UDSIPC_ERR_INVALID_BUFFER_SIZE);
    CHECK_OK(udsipc_writer_options_set_max_buffered_bytes(options, 0));
    CHECK_OK(udsipc_writer_options_set_max_buffered_bytes(options, UINT64_MAX));
    CHECK_OK(udsipc_writer_options_set_max_message_size(options, 0));
    CHECK_OK(udsipc_writer_options_set_max_message_size(options, UINT64_MAX));
    CHECK_STATUS(udsipc_writer_options_set_write_timeout_ms(options, 0), UDSIPC_ERR_INVALID_TIMEOUT);
    CHECK_OK(udsipc_writer_options_set_write_timeout_ms(options, 1));
    CHECK_OK(udsipc_writer_options_set_write_timeout_ms(options, UDSIPC_WAIT_FOREVER));
    CHECK_STATUS(udsipc_writer_options_set_dial_timeout_ms(options, 0), UDSIPC_ERR_INVALID_TIMEOUT);
    CHECK_OK(udsipc_writer_options_set_dial_timeout_ms(options, 1));
    CHECK_OK(udsipc_writer_options_set_dial_timeout_ms(options, UINT64_MAX - 1));
    CHECK_STATUS(udsipc_writer_options_set_max_backoff_ms(options, 0), UDSIPC_ERR_INVALID_TIMEOUT);
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 1));
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, UINT64_MAX));
    CHECK_OK(udsipc_writer_options_set_write_buffer_size(options, 0));
    CHECK_OK(udsipc_writer_options_set_write_buffer_size(options, 1 << 20));
    CHECK_OK(udsipc_writer_options_set_max_attempts(options, 0));
    CHECK_OK(udsipc_writer_options_set_max_attempts(options, UINT32_MAX));
    CHECK_OK(udsipc_writer_options_set_drain_until_deadline(options, INT32_MIN));
    CHECK_OK(udsipc_writer_options_set_drain_until_deadline(options, 0));
    CHECK_OK(udsipc_writer_options_set_linger_ms(options, 0));
    CHECK_OK(udsipc_writer_options_set_linger_ms(options, UDSIPC_WAIT_FOREVER));
    udsipc_writer_options_free(options);
}

static void reader_options_ranges(void)
{
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK(options != NULL);
    CHECK_OK(udsipc_reader_options_set_max_message_size(options, 0));
    CHECK_OK(udsipc_reader_options_set_max_message_size(options, UINT64_MAX));
    CHECK_STATUS(udsipc_reader_options_set_inactivity_timeout_ms(options, 0), UDSIPC_ERR_INVALID_TIMEOUT);
    CHECK_OK(udsipc_reader_options_set_inactivity_timeout_ms(options, 1));
    CHECK_OK(udsipc_reader_options_set_inactivity_timeout_ms(options, UINT64_MAX - 1));
    CHECK_OK(udsipc_reader_options_set_inactivity_timeout_ms(options, UDSIPC_WAIT_FOREVER));
    CHECK_OK(udsipc_reader_options_set_max_accept_errors(options, 0));
    CHECK_OK(udsipc_reader_options_set_max_accept_errors(options, 63));
    CHECK_STATUS(udsipc_reader_options_set_max_accept_errors(options, 64), UDSIPC_ERR_MAX_ACCEPT_ERRORS_TOO_LARGE);
    CHECK_OK(udsipc_reader_options_set_read_buffer_size(options, 0));
    CHECK_OK(udsipc_reader_options_set_read_buffer_size(options, 1 << 20));
    CHECK_STATUS(udsipc_reader_options_set_max_handler_threads(options, 0), UDSIPC_ERR_INVALID_ARGUMENT);
    CHECK_OK(udsipc_reader_options_set_max_handler_threads(options, 1));
    CHECK_OK(udsipc_reader_options_set_max_connections(options, 0));
    CHECK_OK(udsipc_reader_options_set_max_connections(options, UINT32_MAX));
    CHECK_OK(udsipc_reader_options_set_max_shared_memory(options, 0));
    CHECK_OK(udsipc_reader_options_set_max_shared_memory(options, UINT64_MAX));
    CHECK_OK(udsipc_reader_options_set_socket_mode(options, 0));
    CHECK_OK(udsipc_reader_options_set_socket_mode(options, 0777));
    CHECK_STATUS(udsipc_reader_options_set_socket_mode(options, 01000), UDSIPC_ERR_INVALID_ARGUMENT);
    CHECK_OK(udsipc_reader_options_set_socket_group(options, 0));
    CHECK_STATUS(udsipc_reader_options_set_socket_group(options, UINT32_MAX), UDSIPC_ERR_INVALID_ARGUMENT);
    CHECK_OK(udsipc_reader_options_allow_uid(options, 0));
    CHECK_OK(udsipc_reader_options_allow_uid(options, UINT32_MAX));
    CHECK_OK(udsipc_reader_options_allow_gid(options, 0));
    CHECK_OK(udsipc_reader_options_set_listen_fd_name(options, "control"));
    CHECK_STATUS(udsipc_reader_options_set_listen_fd_name(options, ""), UDSIPC_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(udsipc_reader_options_set_listen_fd_name(options, "a:b"), UDSIPC_ERR_INVALID_ARGUMENT);
    CHECK_OK(udsipc_reader_options_set_use_systemd(options, 0));
    CHECK_OK(udsipc_reader_options_set_use_systemd(options, -1));
    CHECK_OK(udsipc_reader_options_set_linger_ms(options, 0));
    CHECK_OK(udsipc_reader_options_set_linger_ms(options, UDSIPC_WAIT_FOREVER));
    CHECK_OK(udsipc_reader_options_set_callback_stack_size(options, 0));
    CHECK_OK(udsipc_reader_options_set_callback_stack_size(options, 64 << 10));
    CHECK_STATUS(udsipc_reader_options_set_callback_stack_size(options, (64 << 10) - 1), UDSIPC_ERR_INVALID_BUFFER_SIZE);
    CHECK_STATUS(udsipc_reader_options_set_callback_stack_size(options, UINT64_MAX), UDSIPC_ERR_INVALID_BUFFER_SIZE);
    CHECK_STATUS(udsipc_reader_options_set_listen_fd(options, -1), UDSIPC_ERR_INVALID_ARGUMENT);
    CHECK_STATUS(udsipc_reader_options_set_listen_fd(options, 0), UDSIPC_ERR_INVALID_ARGUMENT);
    udsipc_reader_options_free(options);
}

/* A text tells which option, which value, which range. */
static void a_refusal_says_what_is_wrong(void)
{
    char text[256];
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_STATUS(udsipc_writer_options_set_max_buffered_writes(options, 1048577), UDSIPC_ERR_INVALID_BUFFER_SIZE);
    udsipc_last_error_message(text, sizeof text);
    CHECK(strstr(text, "max_buffered_writes") && strstr(text, "1048577") && strstr(text, "1048576"));
    CHECK_STATUS(udsipc_writer_options_set_dial_timeout_ms(options, 0), UDSIPC_ERR_INVALID_TIMEOUT);
    udsipc_last_error_message(text, sizeof text);
    CHECK(strstr(text, "dial_timeout"));
    udsipc_writer_options_free(options);
}

/* ---- paths ---- */

static void parents_are_made(void)
{
    umask(0);
    struct path path = in_scratch("one/two/s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    struct stat status;
    CHECK(stat(in_scratch("one/two").text, &status) == 0);
    CHECK_INT(status.st_mode & 07777, 0750);
    CHECK(stat(in_scratch("one").text, &status) == 0);
    CHECK_INT(status.st_mode & 07777, 0750);
    udsipc_reader_free(reader);
    CHECK_OK(udsipc_ensure_socket_dir(in_scratch("three/four/s").text));
    CHECK(exists(in_scratch("three/four").text) && !exists(in_scratch("three/four/s").text));
    CHECK_OK(udsipc_ensure_socket_dir(in_scratch("three/four/s").text));
}

static void a_live_reader_keeps_its_path(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *owner = started_reader(path.text, &inbox), *second = NULL;
    CHECK_STATUS(udsipc_reader_new(path.text, receive, NULL, NULL, &second), UDSIPC_ERR_ADDRESS_IN_USE);
    CHECK_STATUS(udsipc_cleanup_socket(path.text), UDSIPC_ERR_ADDRESS_IN_USE);
    int client = raw_connect(path.text);
    raw_send_frame(client, "still here", 10);
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    /* The attempts were seen by nobody: a probe is no client. */
    CHECK_INT(reader_metrics(owner).errors, 0);
    udsipc_reader_free(owner);
    close(client);

    /* A listener that is not ours is a live one as well. */
    int listener = raw_listen(path.text);
    CHECK_STATUS(udsipc_reader_new(path.text, receive, NULL, NULL, &second), UDSIPC_ERR_ADDRESS_IN_USE);
    CHECK(exists(path.text));
    close(listener);
}

static void a_stale_socket_is_replaced(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    close(raw_listen(path.text));
    udsipc_reader *reader = started_reader(path.text, &inbox);
    int client = raw_connect(path.text);
    raw_send_frame(client, "x", 1);
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    udsipc_reader_free(reader);
    close(client);

    close(raw_listen(path.text));
    CHECK_OK(udsipc_cleanup_socket(path.text));
    CHECK(!exists(path.text));
    CHECK_OK(udsipc_cleanup_socket(path.text));
}

/* Anything that is not a socket stays as it is. */
static void other_files_are_left_alone(void)
{
    udsipc_reader *reader = NULL;
    int file = open("file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(file >= 0 && write(file, "precious", 8) == 8);
    close(file);
    CHECK(mkdir("folder", 0700) == 0);
    CHECK(symlink("nowhere", "link") == 0);
    CHECK(mkfifo("fifo", 0600) == 0);
    static const char *const names[] = {"file", "folder", "link", "fifo"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct path path = in_scratch(names[i]);
        CHECK_STATUS(udsipc_reader_new(path.text, receive, NULL, NULL, &reader), UDSIPC_ERR_ADDRESS_IN_USE);
        CHECK_STATUS(udsipc_cleanup_socket(path.text), UDSIPC_ERR_ADDRESS_IN_USE);
        CHECK(exists(path.text));
    }
    struct stat status;
    CHECK(stat("file", &status) == 0 && status.st_size == 8);
}

/* At stop only a socket file that is still ours is removed. */
static void a_foreign_socket_file_is_not_removed(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    CHECK(unlink(path.text) == 0);
    int listener = raw_listen(path.text);
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    udsipc_reader_free(reader);
    CHECK(exists(path.text));
    int client = raw_connect(path.text);
    close(client);
    close(listener);
}

static void mode_and_group(void)
{
    umask(0);
    static const uint32_t modes[] = {0600, 0660, 0622, 0777, 0};
    struct inbox inbox = INBOX;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        struct path path = in_scratch("s");
        udsipc_reader_options *options = udsipc_reader_options_new();
        CHECK_OK(udsipc_reader_options_set_socket_mode(options, modes[i]));
        CHECK_OK(udsipc_reader_options_set_socket_group(options, getgid()));
        udsipc_reader *reader = NULL;
        CHECK_OK(udsipc_reader_new(path.text, receive, &inbox, options, &reader));
        udsipc_reader_options_free(options);
        struct stat status;
        CHECK(stat(path.text, &status) == 0);
        CHECK_INT(status.st_mode & 07777, modes[i]);
        CHECK_INT(status.st_gid, getgid());
        CHECK_TEXT(udsipc_reader_socket_path(reader), path.text);
        udsipc_reader_free(reader);
        CHECK(!exists(path.text));
    }
    /* Without the option the umask decides. */
    umask(027);
    udsipc_reader *reader = new_reader(in_scratch("s").text, &inbox);
    struct stat status;
    CHECK(stat(in_scratch("s").text, &status) == 0);
    CHECK_INT(status.st_mode & 07777, 0750);
    udsipc_reader_free(reader);
}

/* An abstract address: exact length, no file, no directory. */
static void abstract_addresses(void)
{
    char name[64];
    snprintf(name, sizeof name, "@udsipc-test/%d/s", (int)getpid());
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(name, &inbox), *second = NULL;
    CHECK_INT(entries_of("."), 0);
    CHECK_TEXT(udsipc_reader_socket_path(reader), name);
    CHECK_STATUS(udsipc_reader_new(name, receive, NULL, NULL, &second), UDSIPC_ERR_ADDRESS_IN_USE);

    /* Exactly that many bytes: a peer that counts the NUL would not find it. */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, name, strlen(name));
    address.sun_path[0] = '\0';
    int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
    CHECK(connect(client, (struct sockaddr *)&address, size) == 0);
    raw_send_frame(client, "x", 1);
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    close(client);

    udsipc_writer *writer = started_writer(name);
    CHECK_OK(write_numbered(writer, 0, 0));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), 2);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
    CHECK_OK(udsipc_ensure_socket_dir(name));
    CHECK_OK(udsipc_cleanup_socket(name));
    CHECK_INT(entries_of("."), 0);

    reader = new_reader(name, &inbox);
    udsipc_reader_free(reader);
}

/* A path is bytes, not text. */
static void paths_need_not_be_utf8(void)
{
    struct path path = in_scratch("\xff\xfe socket");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer *writer = started_writer(path.text);
    CHECK_TEXT(udsipc_writer_socket_path(writer), path.text);
    CHECK_TEXT(udsipc_reader_socket_path(reader), path.text);
    CHECK_OK(write_numbered(writer, 0, 0));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), 1);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* Two starters at the same instant: exactly one wins. */
struct starter {
    pthread_t thread;
    pthread_barrier_t *line;
    udsipc_reader *reader;
    udsipc_status status;
};

static void *race_for_path(void *argument)
{
    struct starter *starter = (struct starter *)argument;
    struct path path = in_scratch("s");
    pthread_barrier_wait(starter->line);
    starter->status = udsipc_reader_new(path.text, receive, NULL, NULL, &starter->reader);
    return NULL;
}

static void of_many_starters_one_wins(void)
{
    for (int round = 0; round < 50; round++) {
        pthread_barrier_t line;
        struct starter starters[4] = {0};
        size_t winners = 0;
        pthread_barrier_init(&line, NULL, 4);
        /* Every other round over a stale socket. */
        if (round % 2 == 1) close(raw_listen(in_scratch("s").text));
        for (size_t i = 0; i < 4; i++) {
            starters[i].line = &line;
            CHECK(pthread_create(&starters[i].thread, NULL, race_for_path, &starters[i]) == 0);
        }
        for (size_t i = 0; i < 4; i++)
            pthread_join(starters[i].thread, NULL);
        for (size_t i = 0; i < 4; i++) {
            CHECK(starters[i].status == UDSIPC_OK || starters[i].status == UDSIPC_ERR_ADDRESS_IN_USE);
            winners += starters[i].status == UDSIPC_OK;
        }
        CHECK_INT(winners, 1);
        close(raw_connect(in_scratch("s").text));
        for (size_t i = 0; i < 4; i++)
            udsipc_reader_free(starters[i].reader);
        pthread_barrier_destroy(&line);
    }
}

/* ---- the environment of a service ---- */

static void resolve_follows_the_runtime_directory(void)
{
    char buffer[64];
    size_t needed = 0;
    CHECK_INT(udsipc_systemd_is_active(), 0);
    CHECK_OK(udsipc_resolve_socket_path("/tmp/app.sock", buffer, sizeof buffer, &needed));
    CHECK_TEXT(buffer, "/tmp/app.sock");
    CHECK_INT(needed, 14);
    CHECK(setenv("RUNTIME_DIRECTORY", "/run/one:/run/two", 1) == 0);
    CHECK(setenv("STATE_DIRECTORY", "/var/lib/one", 1) == 0);
    CHECK_INT(udsipc_systemd_is_active(), 1);
    CHECK_TEXT(udsipc_systemd_runtime_dir(), "/run/one");
    CHECK_TEXT(udsipc_systemd_state_dir(), "/var/lib/one");
    CHECK_OK(udsipc_resolve_socket_path("/tmp/app.sock", buffer, sizeof buffer, &needed));
    CHECK_TEXT(buffer, "/run/one/app.sock");
    CHECK_INT(needed, 18);
    /* Too small: nothing is stored, and the size that it takes is told. */
    strcpy(buffer, "untouched");
    CHECK_STATUS(udsipc_resolve_socket_path("/tmp/app.sock", buffer, 17, &needed), UDSIPC_ERR_INVALID_BUFFER_SIZE);
    CHECK_TEXT(buffer, "untouched");
    CHECK_INT(needed, 18);
    CHECK_OK(udsipc_resolve_socket_path("@name", buffer, sizeof buffer, &needed));
    CHECK_TEXT(buffer, "@name");
}

static void a_reader_follows_the_runtime_directory(void)
{
    struct inbox inbox = INBOX;
    struct path folder = in_scratch("run");
    CHECK(mkdir(folder.text, 0750) == 0);
    CHECK(setenv("RUNTIME_DIRECTORY", folder.text, 1) == 0);
    udsipc_reader *reader = new_reader("/tmp/s", &inbox);
    CHECK_TEXT(udsipc_reader_socket_path(reader), in_scratch("run/s").text);
    CHECK(exists(in_scratch("run/s").text));
    char line[1024];
    CHECK(udsipc_reader_describe(reader, line, sizeof line) < sizeof line);
    CHECK(strstr(line, "systemd") != NULL && strstr(line, folder.text) != NULL);
    udsipc_reader_free(reader);

    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_use_systemd(options, 0));
    CHECK_OK(udsipc_reader_new(in_scratch("s").text, receive, &inbox, options, &reader));
    udsipc_reader_options_free(options);
    CHECK_TEXT(udsipc_reader_socket_path(reader), in_scratch("s").text);
    CHECK(udsipc_reader_describe(reader, line, sizeof line) < sizeof line);
    CHECK(strstr(line, "standalone") != NULL);
    udsipc_reader_free(reader);
}

static const struct scenario scenarios[] = {
    SCENARIO(writer_options_ranges),
    SCENARIO(reader_options_ranges),
    SCENARIO(a_refusal_says_what_is_wrong),
    SCENARIO(parents_are_made),
    SCENARIO(a_live_reader_keeps_its_path),
    SCENARIO(a_stale_socket_is_replaced),
    SCENARIO(other_files_are_left_alone),
    SCENARIO(a_foreign_socket_file_is_not_removed),
    SCENARIO(mode_and_group),
    SCENARIO(abstract_addresses),
    SCENARIO(paths_need_not_be_utf8),
    SCENARIO(of_many_starters_one_wins),
    SCENARIO(resolve_follows_the_runtime_directory),
    SCENARIO(a_reader_follows_the_runtime_directory),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
