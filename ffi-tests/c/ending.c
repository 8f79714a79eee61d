/* How a host ends: by exit(3) while callbacks run, by pthread_exit(3) in its main thread, by freeing without a stop. */
#include "../support/check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>

#define SENDERS 3

static struct {
    struct path path;
    udsipc_reader *reader;
    udsipc_writer *writers[SENDERS];
    udsipc_writer *failing;
    pthread_t producers[SENDERS];
    atomic_bool over;
    atomic_uint messages, errors;
    atomic_bool exits_in_message, exits_in_error;
} host;

static int32_t work(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)data, (void)len, (void)userdata;
    if (atomic_fetch_add(&host.messages, 1) > 500 && atomic_exchange(&host.exits_in_message, false)) exit(0);
    return udsipc_connection_id(connection) == 0;
}

static void note_error(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)status, (void)os_errno, (void)context, (void)userdata;
    char text[256];
    CHECK(udsipc_last_error_message(text, sizeof text) > 0);
    if (atomic_fetch_add(&host.errors, 1) > 3 && atomic_exchange(&host.exits_in_error, false)) exit(0);
}

static void *produce(void *writer)
{
    while (!atomic_load(&host.over)) {
        IGNORE(udsipc_write_message((udsipc_writer *)writer, "message", 7));
        if (atomic_load(&host.messages) % 1000 == 0) IGNORE(udsipc_writer_flush((udsipc_writer *)writer, 1));
    }
    return NULL;
}

/* Callbacks of a reader and of a writer, on threads of the library, and threads of the host that call it. */
static void make_busy(void)
{
    host.path = in_scratch("s");
    CHECK_OK(udsipc_reader_new(host.path.text, work, NULL, NULL, &host.reader));
    CHECK_OK(udsipc_reader_start(host.reader));
    for (size_t i = 0; i < SENDERS; i++) {
        host.writers[i] = started_writer(host.path.text);
        CHECK(pthread_create(&host.producers[i], NULL, produce, host.writers[i]) == 0);
    }
    struct path nobody = in_scratch("nobody");
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 1));
    CHECK_OK(udsipc_writer_options_set_error_callback(options, note_error, NULL));
    CHECK_OK(udsipc_writer_new(nobody.text, options, &host.failing));
    udsipc_writer_options_free(options);
    CHECK_OK(udsipc_writer_start(host.failing));
    CHECK_OK(udsipc_write_message(host.failing, "x", 1));
    WAIT_UNTIL(atomic_load(&host.messages) > 300 && atomic_load(&host.errors) > 2);
}

static void stop_producers(void)
{
    if (atomic_exchange(&host.over, true)) return;
    for (size_t i = 0; i < SENDERS; i++)
        pthread_join(host.producers[i], NULL);
}

static void free_all(void)
{
    stop_producers();
    udsipc_writer_free(host.failing);
    for (size_t i = 0; i < SENDERS; i++)
        udsipc_writer_free(host.writers[i]);
    udsipc_reader_free(host.reader);
}

/* ---- exit(3) ---- */

static void exit_at_once(void *argument)
{
    (void)argument;
    make_busy();
    exit(0);
}

static void exit_in_a_message_callback(void *argument)
{
    (void)argument;
    make_busy();
    atomic_store(&host.exits_in_message, true);
    for (;;)
        pause();
}

static void exit_in_an_error_callback(void *argument)
{
    (void)argument;
    make_busy();
    atomic_store(&host.exits_in_error, true);
    for (;;)
        pause();
}

static void exit_with_an_exit_handler(void *argument)
{
    (void)argument;
    CHECK(atexit(free_all) == 0);
    make_busy();
    exit(0);
}

/* The exit handler frees the handle whose callback has called exit(3), and that never returns. */
static void exit_in_a_callback_with_an_exit_handler(void *argument)
{
    CHECK(atexit(free_all) == 0);
    exit_in_a_message_callback(argument);
}

static void exit_in_an_error_callback_with_an_exit_handler(void *argument)
{
    CHECK(atexit(free_all) == 0);
    exit_in_an_error_callback(argument);
}

static void again_and_again(void (*body)(void *))
{
    for (int i = 0; i < (UNDER_CHECKER ? 3 : 12); i++)
        join_child(start_child(body, NULL));
}

static void exit_while_callbacks_run(void)
{
    again_and_again(exit_at_once);
}

static void exit_inside_a_message_callback(void)
{
    again_and_again(exit_in_a_message_callback);
}

static void exit_inside_an_error_callback(void)
{
    again_and_again(exit_in_an_error_callback);
}

static void exit_whose_handler_frees_while_callbacks_run(void)
{
    again_and_again(exit_with_an_exit_handler);
}

static void exit_inside_a_callback_whose_handler_frees(void)
{
    again_and_again(exit_in_a_callback_with_an_exit_handler);
    again_and_again(exit_in_an_error_callback_with_an_exit_handler);
}

/* ---- pthread_exit(3) in the main thread ---- */

/* glibc destroys no thread-local values of a main thread that ends by pthread_exit(3), and LeakSanitizer finds its list of them. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:__cxa_thread_atexit_impl";
}

const char *__lsan_default_options(void);
const char *__lsan_default_options(void)
{
    return "print_suppressions=0";
}

/* ThreadSanitizer reports threads that have ended and were not joined yet, as there are when a process ends at any moment. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "report_thread_leaks=0";
}

/* /proc/self is the main thread's, and has neither descriptors nor files any more. */
static bool main_has_ended(void)
{
    return access("/proc/self/fd/0", F_OK) == -1;
}

static size_t other_threads(void)
{
    return threads() - 2; /* but this one, and the main one, which is a zombie */
}

static void use_what_main_has_left_and_more(void)
{
    stop_producers();
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_socket_mode(options, 0600));
    struct path path = in_scratch("made-later");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, receive, &inbox, options, &reader));
    udsipc_reader_options_free(options);
    CHECK_OK(udsipc_reader_start(reader));
    udsipc_writer *writer = started_writer(path.text);
    for (uint32_t i = 0; i < 100; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), 100);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static void *outlive_main(void *argument)
{
    (void)argument;
    WAIT_UNTIL(main_has_ended());
    use_what_main_has_left_and_more();
    CHECK(other_threads() > 0);
    CHECK_STATUS(udsipc_writer_stop(host.failing, 0), UDSIPC_ERR_TIMEOUT);
    for (size_t i = 0; i < SENDERS; i++)
        CHECK_OK(udsipc_writer_stop(host.writers[i], PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(host.reader, PATIENCE_MS));
    WAIT_UNTIL(other_threads() == 0); /* a thread that has been joined is in /proc for a moment more */
    free_all();
    return NULL; /* the last thread of the process: it ends now, or never */
}

static void end_main_by_pthread_exit(void *argument)
{
    (void)argument;
    make_busy();
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, outlive_main, NULL) == 0 && pthread_detach(thread) == 0);
    pthread_exit(NULL);
}

static void nothing_outlives_stop_and_free_when_main_has_ended(void)
{
    for (int i = 0; i < (UNDER_CHECKER ? 2 : 10); i++)
        join_child(start_child(end_main_by_pthread_exit, NULL));
}

/* As a kernel before 6.6: the mode of a socket is set by way of /proc there. */
static void refuse_fchmodat2(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 452, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

static void *set_a_mode_without_main(void *argument)
{
    (void)argument;
    WAIT_UNTIL(main_has_ended());
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_socket_mode(options, 0666));
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, receive, &inbox, options, &reader));
    struct stat status;
    CHECK(stat(path.text, &status) == 0 && (status.st_mode & 0777) == 0666);
    udsipc_reader_options_free(options);
    udsipc_reader_free(reader);
    return NULL;
}

static void end_main_on_an_older_kernel(void *argument)
{
    (void)argument;
    CHECK(chmod(".", 0777) == 0); /* in a directory of this user alone a mode needs no help */
    umask(022); /* and one that is no wider than this neither */
    refuse_fchmodat2();
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, set_a_mode_without_main, NULL) == 0 && pthread_detach(thread) == 0);
    pthread_exit(NULL);
}

static void a_socket_gets_its_mode_when_main_has_ended(void)
{
    join_child(start_child(end_main_on_an_older_kernel, NULL));
}

/* The handles are freed inside their own callbacks: the last threads of the library end by themselves, and the process with them. */
static int32_t free_the_reader(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)data, (void)len, (void)connection;
    gate_pass((struct gate *)userdata);
    udsipc_reader_free(host.reader);
    return 0;
}

static void free_the_writer(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)status, (void)os_errno, (void)context;
    gate_pass((struct gate *)userdata);
    udsipc_writer_free(host.failing);
}

static void *open_gate_and_end(void *gate)
{
    WAIT_UNTIL(main_has_ended() && gate_arrived((struct gate *)gate) == 2);
    gate_open((struct gate *)gate);
    return NULL;
}

static void leave_the_end_to_callbacks(void *argument)
{
    (void)argument;
    static struct gate gate = GATE;
    struct path path = in_scratch("s"), nobody = in_scratch("nobody");
    CHECK_OK(udsipc_reader_new(path.text, free_the_reader, &gate, NULL, &host.reader));
    CHECK_OK(udsipc_reader_start(host.reader));
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_error_callback(options, free_the_writer, &gate));
    CHECK_OK(udsipc_writer_new(nobody.text, options, &host.failing));
    udsipc_writer_options_free(options);
    CHECK_OK(udsipc_writer_start(host.failing));
    int client = raw_connect(path.text);
    raw_send_numbered(client, 0, 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, open_gate_and_end, &gate) == 0 && pthread_detach(thread) == 0);
    pthread_exit(NULL);
}

static void the_process_ends_when_the_last_handles_are_freed_in_their_callbacks(void)
{
    for (int i = 0; i < (UNDER_CHECKER ? 2 : 10); i++)
        join_child(start_child(leave_the_end_to_callbacks, NULL));
}

static const struct scenario scenarios[] = {
    SCENARIO(exit_while_callbacks_run),
    SCENARIO(exit_inside_a_message_callback),
    SCENARIO(exit_inside_an_error_callback),
    SCENARIO(exit_whose_handler_frees_while_callbacks_run),
    SCENARIO(exit_inside_a_callback_whose_handler_frees),
    SCENARIO(nothing_outlives_stop_and_free_when_main_has_ended),
    SCENARIO(a_socket_gets_its_mode_when_main_has_ended),
    SCENARIO(the_process_ends_when_the_last_handles_are_freed_in_their_callbacks),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
