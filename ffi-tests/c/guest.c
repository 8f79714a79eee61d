/* A good guest in somebody else's process: signals, fork, exec, environment, descriptors. That nothing is printed is
 * checked by the harness, for every scenario of every program. */
#include "../support/check.h"

#include <sched.h>
#include <sys/mman.h>

extern char **environ;

/* A writer and a reader at work. */
struct traffic {
    struct path path;
    struct inbox inbox;
    udsipc_reader *reader;
    udsipc_writer *writer;
    uint32_t written;
};

static void traffic_begin(struct traffic *traffic)
{
    *traffic = (struct traffic){.path = in_scratch("s"), .inbox = INBOX};
    traffic->reader = started_reader(traffic->path.text, &traffic->inbox);
    traffic->writer = started_writer(traffic->path.text);
}

/* One more message goes all the way, and nothing was lost or doubled before it. */
static void traffic_flows(struct traffic *traffic)
{
    CHECK_OK(write_numbered(traffic->writer, 0, traffic->written++));
    WAIT_UNTIL(inbox_count(&traffic->inbox) == traffic->written);
    CHECK_INT(inbox_gaps(&traffic->inbox), 0);
}

static void traffic_end(struct traffic *traffic)
{
    traffic_flows(traffic);
    CHECK_INT(reader_metrics(traffic->reader).connections, 1);
    CHECK_INT(reader_metrics(traffic->reader).errors, 0);
    CHECK_INT(writer_metrics(traffic->writer).connections, 1);
    CHECK_OK(udsipc_writer_stop(traffic->writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(traffic->reader, PATIENCE_MS));
    udsipc_writer_free(traffic->writer);
    udsipc_reader_free(traffic->reader);
}

/* ---- signals ---- */

/* SIGPIPE at its default ends the process at the first send to a closed connection. */
static void sigpipe_at_its_default(void)
{
    struct path path = in_scratch("s");
    CHECK(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    int listener = raw_listen(path.text);
    udsipc_writer *writer = started_writer(path.text);
    static uint8_t large[2000000];
    CHECK_OK(udsipc_write_message(writer, large, sizeof large));
    for (int i = 0; i < 3; i++) {
        int peer = raw_accept(listener);
        uint8_t byte;
        CHECK(raw_read(peer, &byte, 1));
        close(peer);
    }
    WAIT_UNTIL(writer_metrics(writer).failed >= 3);
    CHECK(udsipc_writer_stop(writer, 0) != UDSIPC_OK);
    udsipc_writer_free(writer);
    close(listener);

    struct sigaction pipe;
    CHECK(sigaction(SIGPIPE, NULL, &pipe) == 0);
    CHECK(pipe.sa_handler == SIG_DFL);
}

static uint64_t blocked_signals(const char *task)
{
    char path[64], line[256];
    uint64_t mask = 0;
    bool found = false;
    snprintf(path, sizeof path, "/proc/self/task/%s/status", task);
    FILE *status = fopen(path, "r");
    CHECK(status != NULL);
    while (fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "SigBlk: %" SCNx64, &mask) == 1) found = true;
    fclose(status);
    CHECK(found);
    return mask;
}

static int32_t wait_at_gate(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)data, (void)len, (void)connection;
    gate_pass((struct gate *)userdata);
    return 0;
}

/* Every thread but the main one blocks every signal that can be blocked, except those of faults. 32 and 33 are the C
 * library's (nptl(7)). */
/* How many threads there are beside the main one, or 0 if one of them has another mask: the C library blocks everything in a
   thread that is just being born. */
static size_t threads_that_block(uint64_t expected, uint64_t cannot, const char *main_task)
{
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    size_t seen = 0;
    bool as_expected = true;
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, main_task) == 0) continue;
        as_expected &= (blocked_signals(entry->d_name) | cannot) == expected;
        seen++;
    }
    closedir(tasks);
    return as_expected ? seen : 0;
}

static void library_threads_block_all_signals_but_those_of_faults(void)
{
    struct path path = in_scratch("s");
    struct gate gate = GATE;
    char main_task[16];
    snprintf(main_task, sizeof main_task, "%d", (int)getpid());
    const uint64_t main_before = blocked_signals(main_task);
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, wait_at_gate, &gate, NULL, &reader));
    CHECK_OK(udsipc_reader_start(reader));
    udsipc_writer *writers[4];
    for (size_t i = 0; i < 4; i++) {
        writers[i] = started_writer(path.text);
        CHECK_OK(udsipc_write_message(writers[i], "x", 1));
    }
    /* Four callbacks at a time: the threads that the pool has grown are looked at as well. */
    WAIT_UNTIL(gate_arrived(&gate) == 4);

    const uint64_t cannot = 1ull << (SIGKILL - 1) | 1ull << (SIGSTOP - 1) | 1ull << 31 | 1ull << 32;
    const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    uint64_t open = 0;
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        open |= 1ull << (faults[i] - 1);
    /* Four that call back, one that waits, and the one that all writers share. */
    WAIT_UNTIL(threads_that_block(~open, cannot, main_task) >= 6);
    CHECK_INT(blocked_signals(main_task), main_before);
    gate_open(&gate);
    for (size_t i = 0; i < 4; i++)
        udsipc_writer_free(writers[i]);
    udsipc_reader_free(reader);
}

static atomic_int handled_by;

static void note_thread(int number)
{
    (void)number;
    atomic_store(&handled_by, (int)gettid());
}

/* A signal for the process goes to the host's threads: while those block it, it waits. */
static void signals_are_the_hosts(void)
{
    static struct traffic traffic;
    traffic_begin(&traffic);
    traffic_flows(&traffic);
    struct sigaction action = {.sa_handler = note_thread};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    sigset_t usr1, pending;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    CHECK(pthread_sigmask(SIG_BLOCK, &usr1, NULL) == 0);
    CHECK(kill(getpid(), SIGUSR1) == 0);
    for (int i = 0; i < 100; i++)
        traffic_flows(&traffic);
    CHECK_INT(atomic_load(&handled_by), 0);
    CHECK(sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1) == 1);
    CHECK(pthread_sigmask(SIG_UNBLOCK, &usr1, NULL) == 0);
    CHECK_INT(atomic_load(&handled_by), getpid());
    traffic_end(&traffic);
}

/* ---- faults ---- */

static const int fault_signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
#define FAULTS (sizeof fault_signals / sizeof *fault_signals)

struct faults {
    char *page; /* cannot be written to until the handler has been called */
    atomic_uint callbacks;
    _Atomic(pid_t) at_fault;
};

static struct faults faults;
static atomic_uint handled[FAULTS + 1];

/* A real fault comes again until its cause is gone. */
static void handle_fault(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (gettid() != atomic_load(&faults.at_fault)) _exit(3);
    if (info->si_addr == faults.page && number == SIGSEGV) {
        atomic_fetch_add(&handled[FAULTS], 1);
        mprotect(faults.page, 4096, PROT_READ | PROT_WRITE);
        return;
    }
    for (size_t i = 0; i < FAULTS; i++)
        if (fault_signals[i] == number) atomic_fetch_add(&handled[i], 1);
}

static void make_faults(void)
{
    atomic_store(&faults.at_fault, gettid());
    CHECK(mprotect(faults.page, 4096, PROT_NONE) == 0);
    *(volatile char *)faults.page = 1;
    for (size_t i = 0; i < FAULTS; i++)
        CHECK(raise(fault_signals[i]) == 0);
    atomic_fetch_add(&faults.callbacks, 1);
}

static int32_t fault_at_a_message(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)data, (void)len, (void)connection, (void)userdata;
    make_faults();
    return 0;
}

static void fault_at_an_error(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)status, (void)os_errno, (void)context, (void)userdata;
    if (atomic_load(&faults.callbacks) < 2) make_faults();
}

/* A blocked fault ends the process at once; a blocked signal that is raised does not come. */
static void a_fault_in_a_callback_reaches_the_hosts_handler(void)
{
    struct path path = in_scratch("s"), nobody = in_scratch("nobody");
    faults.page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(faults.page != MAP_FAILED);
    struct sigaction action = {.sa_sigaction = handle_fault, .sa_flags = SA_SIGINFO};
    for (size_t i = 0; i < FAULTS; i++)
        CHECK(sigaction(fault_signals[i], &action, NULL) == 0);

    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, fault_at_a_message, NULL, NULL, &reader));
    CHECK_OK(udsipc_reader_start(reader));
    udsipc_writer *writer = started_writer(path.text);
    CHECK_OK(udsipc_write_message(writer, "x", 1));
    WAIT_UNTIL(atomic_load(&faults.callbacks) == 1);

    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_error_callback(options, fault_at_an_error, NULL));
    udsipc_writer *unheard = NULL;
    CHECK_OK(udsipc_writer_new(nobody.text, options, &unheard));
    udsipc_writer_options_free(options);
    CHECK_OK(udsipc_writer_start(unheard));
    WAIT_UNTIL(atomic_load(&faults.callbacks) == 2);
    for (size_t i = 0; i < FAULTS + 1; i++)
        CHECK_INT(atomic_load(&handled[i]), 2);
    udsipc_writer_free(unheard);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* A storm of signals whose handler interrupts system calls: nothing fails with EINTR. */
struct storm {
    atomic_bool over;
    pthread_t target;
};

static void *signal_storm(void *argument)
{
    struct storm *storm = (struct storm *)argument;
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, NULL);
    while (!atomic_load(&storm->over)) {
        pthread_kill(storm->target, SIGUSR1);
        sched_yield();
    }
    return NULL;
}

static void interrupted_calls_go_on(void)
{
    struct storm storm = {.target = pthread_self()};
    struct sigaction action = {.sa_handler = note_thread};
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
    pthread_t sender;
    CHECK(pthread_create(&sender, NULL, signal_storm, &storm) == 0);
    for (int round = 0; round < 20; round++) {
        struct path path = in_scratch("s");
        struct inbox inbox = INBOX;
        udsipc_reader *reader = new_reader(path.text, &inbox);
        udsipc_writer *writer = new_writer(path.text);
        for (uint32_t i = 0; i < 100; i++)
            CHECK_OK(write_numbered(writer, 0, i));
        /* Everything on this thread, so that all of it is interrupted. */
        for (uint64_t deadline = now_ms() + PATIENCE_MS; inbox_count(&inbox) < 100;) {
            CHECK(now_ms() < deadline);
            CHECK_OK(udsipc_writer_dispatch(writer, 1));
            CHECK_OK(udsipc_reader_dispatch(reader, 1));
        }
        CHECK_INT(inbox.gaps, 0);
        CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
        CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
        CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
        udsipc_writer_free(writer);
        udsipc_reader_free(reader);
    }
    atomic_store(&storm.over, true);
    pthread_join(sender, NULL);
}

/* ---- what belongs to the host stays as it was ---- */

static void host_state_is_left_alone(void)
{
    umask(027);
    CHECK(setenv("UDSIPC_CANARY", "sings", 1) == 0);
    char **const environment = environ;
    size_t variables = 0;
    while (environ[variables] != NULL)
        variables++;
    struct sigaction before[65], after;
    for (int number = 1; number <= 64; number++)
        sigaction(number, NULL, &before[number]);
    sigset_t mask_before, mask_after;
    pthread_sigmask(SIG_SETMASK, NULL, &mask_before);

    for (int round = 0; round < 3; round++) {
        struct path path = in_scratch("s");
        struct inbox inbox = INBOX;
        struct failures failures = FAILURES;
        udsipc_reader_options *options = udsipc_reader_options_new();
        CHECK_OK(udsipc_reader_options_set_socket_mode(options, 0666));
        udsipc_reader *reader = watched_reader(path.text, &inbox, options, &failures);
        CHECK_OK(udsipc_reader_start(reader));
        udsipc_writer *writer = started_writer(path.text);
        CHECK_OK(write_numbered(writer, 0, 0));
        CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
        CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
        CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
        udsipc_writer_free(writer);
        udsipc_reader_free(reader);
    }

    pthread_sigmask(SIG_SETMASK, NULL, &mask_after);
    for (int number = 1; number <= 64; number++) {
        if (sigaction(number, NULL, &after) != 0) continue;
        CHECK(after.sa_handler == before[number].sa_handler && after.sa_flags == before[number].sa_flags);
        CHECK(sigismember(&mask_after, number) == sigismember(&mask_before, number));
    }
    CHECK(environ == environment);
    size_t still = 0;
    while (environ[still] != NULL)
        still++;
    CHECK_INT(still, variables);
    CHECK_TEXT(getenv("UDSIPC_CANARY"), "sings");
    CHECK_INT(umask(022), 027);
}

/* exec in the host takes no descriptor of ours along. */
static void descriptors_are_closed_on_exec(void)
{
    bool foreign[1024];
    for (int fd = 0; fd < 1024; fd++)
        foreign[fd] = fcntl(fd, F_GETFD) >= 0;
    static struct traffic traffic;
    traffic_begin(&traffic);
    traffic_flows(&traffic);
    size_t ours = 0;
    for (int fd = 0; fd < 1024; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags < 0 || foreign[fd]) continue;
        ours++;
        CHECK((flags & FD_CLOEXEC) != 0);
    }
    CHECK(ours >= 5);
    traffic_end(&traffic);
}

/* Standard output of a host that has closed it must not be a socket of the library. */
static void with_0_1_and_2_closed_no_descriptor_is_below_3(void)
{
    static struct traffic traffic;
    int saved = fcntl(2, F_DUPFD_CLOEXEC, 200);
    CHECK(saved >= 200);
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    traffic_begin(&traffic);
    for (int i = 0; i < 20; i++) {
        traffic_flows(&traffic);
        /* What a host does that does not know that they are closed. */
        CHECK(write(1, "hello", 5) == -1 && errno == EBADF);
        CHECK(printf("hello\n") > 0 && fflush(stdout) == EOF);
        clearerr(stdout);
    }
    struct path path = in_scratch("dispatched");
    udsipc_reader *reader = new_reader(path.text, &traffic.inbox);
    udsipc_writer *writer = new_writer(path.text);
    CHECK(udsipc_reader_fd(reader) >= 3 && udsipc_writer_fd(writer) >= 3);
    CHECK_OK(udsipc_writer_dispatch(writer, 0));
    CHECK_OK(udsipc_reader_dispatch(reader, 0));
    bool closed = fcntl(0, F_GETFD) == -1 && fcntl(1, F_GETFD) == -1 && fcntl(2, F_GETFD) == -1;
    CHECK(dup2(saved, 2) == 2);
    CHECK(closed);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
    traffic_end(&traffic);
    close(2);
}

/* ---- fork ---- */

struct inheritance {
    udsipc_writer *writer;
    udsipc_reader *reader;
    size_t fds_before;
};

static void every_call_is_forked(struct inheritance *inherited)
{
    size_t accepted = 77;
    udsipc_buffer buffer = {(const uint8_t *)"x", 1};
    uint64_t metrics[32];
    udsipc_writer *writer = inherited->writer;
    udsipc_reader *reader = inherited->reader;
    CHECK_STATUS(udsipc_writer_start(writer), UDSIPC_ERR_FORKED);
    CHECK_STATUS(udsipc_write_message(writer, "x", 1), UDSIPC_ERR_FORKED);
    CHECK_STATUS(udsipc_write_message_timeout(writer, "x", 1, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_FORKED);
    CHECK_STATUS(udsipc_write_messages(writer, &buffer, 1, &accepted), UDSIPC_ERR_FORKED);
    CHECK_INT(accepted, 0);
    CHECK_STATUS(udsipc_writer_flush(writer, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_FORKED);
    CHECK_STATUS(udsipc_writer_stop(writer, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_FORKED);
    CHECK_STATUS(udsipc_writer_dispatch(writer, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_FORKED);
    CHECK_STATUS(udsipc_writer_get_metrics(writer, (udsipc_writer_metrics *)metrics, sizeof metrics),
                 UDSIPC_ERR_FORKED);
    CHECK_INT(udsipc_writer_fd(writer), -1);
    CHECK_INT(udsipc_writer_is_connected(writer), 0);
    CHECK_STATUS(udsipc_reader_start(reader), UDSIPC_ERR_FORKED);
    CHECK_STATUS(udsipc_reader_stop(reader, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_FORKED);
    CHECK_STATUS(udsipc_reader_dispatch(reader, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_FORKED);
    CHECK_STATUS(udsipc_reader_get_metrics(reader, (udsipc_reader_metrics *)metrics, sizeof metrics),
                 UDSIPC_ERR_FORKED);
    CHECK_INT(udsipc_reader_fd(reader), -1);
}

/* The child uses what it inherited, frees it, and makes handles of its own. */
static void live_in_child(void *argument)
{
    struct inheritance *inherited = (struct inheritance *)argument;
    /* Those of the handles are closed already, and no others. */
    CHECK_INT(open_fds(), inherited->fds_before);
    every_call_is_forked(inherited);
    udsipc_writer_free(inherited->writer);
    udsipc_reader_free(inherited->reader);
    CHECK_INT(open_fds(), inherited->fds_before);

    struct path path = in_scratch("child");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer *writer = started_writer(path.text);
    CHECK_OK(write_numbered(writer, 0, 0));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), 1);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static void a_forked_child_leaves_the_parent_alone(void)
{
    static struct traffic traffic;
    size_t fds = open_fds();
    traffic_begin(&traffic);
    traffic_flows(&traffic);
    size_t threads_before = threads(), fds_before = open_fds();
    struct inheritance inherited = {traffic.writer, traffic.reader, fds};
    for (int child = 0; child < 5; child++) {
        join_child(start_child(live_in_child, &inherited));
        CHECK(exists(traffic.path.text));
        traffic_flows(&traffic);
    }
    CHECK(threads() <= threads_before); /* fewer, if one had nothing to do for some seconds */
    CHECK_INT(open_fds(), fds_before);
    /* New connections are served as before, and the path is still the parent's. */
    int client = raw_connect(traffic.path.text);
    raw_send_numbered(client, 1, 0);
    WAIT_UNTIL(inbox_count(&traffic.inbox) == traffic.written + 1);
    close(client);
    udsipc_reader *second = NULL;
    CHECK_STATUS(udsipc_reader_new(traffic.path.text, receive, NULL, NULL, &second), UDSIPC_ERR_ADDRESS_IN_USE);
    CHECK_INT(writer_metrics(traffic.writer).connections, 1);
    CHECK_OK(udsipc_writer_stop(traffic.writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(traffic.reader, PATIENCE_MS));
    CHECK(!exists(traffic.path.text));
    udsipc_writer_free(traffic.writer);
    udsipc_reader_free(traffic.reader);
}

/* A child that frees nothing and ends: its copies of the descriptors keep nothing of the parent's open or locked. */
static void end_at_once(void *argument)
{
    (void)argument;
}

static void a_forked_child_that_just_exits(void)
{
    static struct traffic traffic;
    traffic_begin(&traffic);
    traffic_flows(&traffic);
    for (int child = 0; child < 5; child++) {
        join_child(start_child(end_at_once, NULL));
        traffic_flows(&traffic);
    }
    traffic_end(&traffic);
    CHECK(!exists(in_scratch("s").text));
}

/* Handles without threads: the epoll set is shared with the child, whose `_free` must not take anything out of it. */
static void a_forked_child_frees_dispatched_handles(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    size_t fds = open_fds();
    udsipc_reader *reader = new_reader(path.text, &inbox);
    udsipc_writer *writer = new_writer(path.text);
    struct inheritance inherited = {writer, reader, fds};
    for (uint32_t i = 0; i < 5; i++) {
        CHECK_OK(write_numbered(writer, 0, i));
        for (uint64_t deadline = now_ms() + PATIENCE_MS; inbox_count(&inbox) < i + 1;) {
            CHECK(now_ms() < deadline);
            CHECK_OK(udsipc_writer_dispatch(writer, 1));
            CHECK_OK(udsipc_reader_dispatch(reader, 1));
        }
        join_child(start_child(live_in_child, &inherited));
    }
    CHECK_INT(inbox.gaps, 0);
    CHECK_INT(writer_metrics(writer).connections, 1);
    CHECK_INT(reader_metrics(reader).connections, 1);
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

struct load {
    pthread_t thread;
    struct traffic *traffic;
    uint32_t sender;
    atomic_bool *stop;
};

static void *keep_writing(void *argument)
{
    struct load *load = (struct load *)argument;
    uint32_t number = 0;
    while (!atomic_load(load->stop)) {
        udsipc_status status = write_numbered(load->traffic->writer, load->sender, number);
        CHECK(status == UDSIPC_OK || status == UDSIPC_ERR_BUFFER_FULL);
        number += status == UDSIPC_OK;
    }
    return (void *)(uintptr_t)number;
}

static void use_and_free_in_child(void *argument)
{
    struct inheritance *inherited = (struct inheritance *)argument;
    every_call_is_forked(inherited);
    udsipc_writer_free(inherited->writer);
    udsipc_reader_free(inherited->reader);
}

/* Forked at any moment, with any lock held by some thread that does not exist in the child: no call there hangs. */
static void fork_under_load(void)
{
    static struct traffic traffic;
    traffic_begin(&traffic);
    atomic_bool stop = false;
    struct load loads[2];
    for (uint32_t i = 0; i < 2; i++) {
        loads[i] = (struct load){.traffic = &traffic, .sender = i + 1, .stop = &stop};
        CHECK(pthread_create(&loads[i].thread, NULL, keep_writing, &loads[i]) == 0);
    }
    struct inheritance inherited = {traffic.writer, traffic.reader, 0};
    for (int child = 0; child < 40; child++) {
        uint64_t before = inbox_count(&traffic.inbox);
        join_child(start_child(use_and_free_in_child, &inherited));
        WAIT_UNTIL(inbox_count(&traffic.inbox) > before);
    }
    atomic_store(&stop, true);
    uint64_t accepted = 0;
    for (size_t i = 0; i < 2; i++) {
        void *written;
        pthread_join(loads[i].thread, &written);
        accepted += (uintptr_t)written;
    }
    WAIT_UNTIL(inbox_count(&traffic.inbox) == accepted);
    CHECK_INT(traffic.inbox.gaps, 0);
    CHECK_INT(writer_metrics(traffic.writer).connections, 1);
    CHECK_OK(udsipc_writer_stop(traffic.writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(traffic.reader, PATIENCE_MS));
    udsipc_writer_free(traffic.writer);
    udsipc_reader_free(traffic.reader);
}

static const struct scenario scenarios[] = {
    SCENARIO(sigpipe_at_its_default),
    SCENARIO(library_threads_block_all_signals_but_those_of_faults),
    SCENARIO(signals_are_the_hosts),
    SCENARIO(a_fault_in_a_callback_reaches_the_hosts_handler),
    SCENARIO(interrupted_calls_go_on),
    SCENARIO(host_state_is_left_alone),
    SCENARIO(descriptors_are_closed_on_exec),
    SCENARIO(with_0_1_and_2_closed_no_descriptor_is_below_3),
    SCENARIO(a_forked_child_leaves_the_parent_alone),
    SCENARIO(a_forked_child_that_just_exits),
    SCENARIO(a_forked_child_frees_dispatched_handles),
    SCENARIO(fork_under_load),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
