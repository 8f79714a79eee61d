/* Forked children: what they hold of their parent, and what they can do themselves. */
#include "../support/check.h"

#include <sys/mman.h>
#include <sys/syscall.h>

/* All descriptors from 3 on, as closefrom(3) does, which older C libraries lack. */
static void close_from_3(void)
{
#ifdef SYS_close_range
    if (syscall(SYS_close_range, 3, ~0u, 0) == 0) return;
#endif
    for (int fd = 3; fd < 4096; fd++)
        close(fd);
}

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) != -1;
}

struct handles {
    udsipc_reader *reader;
    udsipc_writer *writer;
    struct inbox inbox;
    uint32_t written;
};

static void make_handles(struct handles *handles, const char *path)
{
    handles->inbox = (struct inbox)INBOX;
    handles->written = 0;
    handles->reader = started_reader(path, &handles->inbox);
    handles->writer = started_writer(path);
}

static void exchange(struct handles *handles)
{
    CHECK_OK(write_numbered(handles->writer, 0, handles->written++));
    WAIT_UNTIL(inbox_count(&handles->inbox) == handles->written);
    CHECK_INT(inbox_gaps(&handles->inbox), 0);
}

static void stop_handles(struct handles *handles)
{
    CHECK_OK(udsipc_writer_stop(handles->writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(handles->reader, PATIENCE_MS));
    CHECK_INT(writer_metrics(handles->writer).connections, 1);
    udsipc_writer_free(handles->writer);
    udsipc_reader_free(handles->reader);
}

static void free_handles(struct handles *handles)
{
    udsipc_writer_free(handles->writer);
    udsipc_reader_free(handles->reader);
}

/* ---- numbers that mean something else by now ---- */

/* The child's own descriptors have the numbers of the inherited handles when those are freed. */
static void close_all_and_begin_anew(void *argument)
{
    struct handles *inherited = (struct handles *)argument;
    close_from_3();
    static struct handles own;
    struct path path = in_scratch("child");
    make_handles(&own, path.text);
    exchange(&own);
    int files[64];
    for (size_t i = 0; i < 64; i++)
        CHECK((files[i] = open("/dev/null", O_RDONLY)) >= 0);
    free_handles(inherited);
    for (size_t i = 0; i < 64; i++)
        CHECK(is_open(files[i]));
    exchange(&own);
    stop_handles(&own);
}

static void regress_a_child_that_ran_closefrom_keeps_its_own_descriptors(void)
{
    static struct handles handles;
    struct path path = in_scratch("s");
    make_handles(&handles, path.text);
    exchange(&handles);
    for (int child = 0; child < 5; child++) {
        join_child(start_child(close_all_and_begin_anew, &handles));
        exchange(&handles);
    }
    stop_handles(&handles);
}

/* The same for handles that were never started, whose descriptors are the first that a child makes anew. */
static void open_files_and_free(void *argument)
{
    struct handles *inherited = (struct handles *)argument;
    int files[64];
    for (size_t i = 0; i < 64; i++)
        CHECK((files[i] = open("/dev/null", O_RDONLY)) >= 0);
    free_handles(inherited);
    for (size_t i = 0; i < 64; i++)
        CHECK(is_open(files[i]));
}

static void a_child_that_opens_files_and_then_frees_keeps_them(void)
{
    static struct handles handles;
    struct path path = in_scratch("s");
    handles.inbox = (struct inbox)INBOX;
    handles.reader = new_reader(path.text, &handles.inbox);
    handles.writer = new_writer(path.text);
    for (int child = 0; child < 5; child++)
        join_child(start_child(open_files_and_free, &handles));
    CHECK(exists(path.text));
    free_handles(&handles);
}

/* ---- a child that outlives its parent ---- */

struct family {
    struct path readers, writers;
    int reports[2]; /* the parent writes the number of its child */
    int lifeline[2]; /* the child ends when this end of it is closed */
};

/* Without PR_SET_PDEATHSIG: it is to live on. */
static void live_on(struct family *family)
{
    char byte;
    close(family->lifeline[1]);
    while (read(family->lifeline[0], &byte, 1) > 0)
        ;
    _exit(0);
}

static void work_and_fork(void *argument)
{
    struct family *family = (struct family *)argument;
    static struct handles handles;
    make_handles(&handles, family->readers.text);
    udsipc_writer *writer = started_writer(family->writers.text);
    exchange(&handles);
    WAIT_UNTIL(udsipc_writer_is_connected(writer));
    pid_t worker = fork();
    CHECK(worker >= 0);
    if (worker == 0) live_on(family);
    CHECK(write(family->reports[1], &worker, sizeof worker) == sizeof worker);
    pause();
}

static void regress_a_worker_that_outlives_its_parent_holds_neither_listener_nor_connections(void)
{
    static struct family family;
    family = (struct family){.readers = in_scratch("readers"), .writers = in_scratch("writers")};
    CHECK(pipe2(family.reports, O_CLOEXEC) == 0 && pipe2(family.lifeline, O_CLOEXEC) == 0);
    int listener = raw_listen(family.writers.text);
    pid_t parent = start_child(work_and_fork, &family), worker;
    int of_its_writer = raw_accept(listener);
    CHECK(read(family.reports[0], &worker, sizeof worker) == sizeof worker);
    int to_its_reader = raw_connect(family.readers.text);
    kill_child(parent);

    raw_wait_closed(to_its_reader);
    raw_wait_closed(of_its_writer);
    CHECK(raw_try_connect(family.readers.text) == -1 && errno == ECONNREFUSED);
    static struct handles handles;
    make_handles(&handles, family.readers.text);
    exchange(&handles);
    stop_handles(&handles);
    CHECK(kill(worker, 0) == 0); /* and it was there all the time */
    close(family.lifeline[1]);
    close(to_its_reader);
    close(of_its_writer);
    close(listener);
}

/* ---- a child's first handle ---- */

static void *make_and_free(void *stop)
{
    static atomic_uint threads;
    struct path nobody = in_scratch("nobody");
    char name[32];
    snprintf(name, sizeof name, "r%u-%d", atomic_fetch_add(&threads, 1), (int)getpid());
    struct path path = in_scratch(name);
    struct inbox inbox = INBOX;
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_linger_ms(options, 0));
    do {
        udsipc_writer *writer = NULL;
        CHECK_OK(udsipc_writer_new(nobody.text, options, &writer));
        CHECK_OK(udsipc_writer_start(writer));
        udsipc_reader *reader = new_reader(path.text, &inbox);
        CHECK_OK(udsipc_write_message(writer, "x", 1));
        udsipc_writer_free(writer);
        udsipc_reader_free(reader);
    } while (!atomic_load((atomic_bool *)stop));
    udsipc_writer_options_free(options);
    return NULL;
}

static void make_the_first_handle(void *argument)
{
    (void)argument;
    struct path path = in_scratch("child");
    static struct handles own;
    make_handles(&own, path.text);
    exchange(&own);
    stop_handles(&own);
}

#define BUSY 3

static void fork_beside_busy_threads(unsigned forks)
{
    atomic_bool stop = false;
    pthread_t busy[BUSY];
    for (size_t i = 0; i < BUSY; i++)
        CHECK(pthread_create(&busy[i], NULL, make_and_free, &stop) == 0);
    for (unsigned i = 0; i < forks; i++)
        join_child(start_child(make_the_first_handle, NULL));
    atomic_store(&stop, true);
    for (size_t i = 0; i < BUSY; i++)
        pthread_join(busy[i], NULL);
}

static void fork_while_the_first_handles_are_made(void *argument)
{
    (void)argument;
    fork_beside_busy_threads(2);
}

/* Each round in a process that has never made a handle: what is done once for all is done while it forks. */
static void regress_a_childs_first_handle_does_not_wait_for_its_parents(void)
{
    for (unsigned round = 0; round < (UNDER_CHECKER ? 20 : 150); round++)
        join_child(start_child(fork_while_the_first_handles_are_made, NULL));
}

static void forks_beside_threads_that_make_and_free_handles(void)
{
    fork_beside_busy_threads(UNDER_CHECKER ? 40 : 700);
}

/* No copy of a socket gets into a child, whatever the parent's threads are doing: but in the moment of its close. */
static void count_children_with_sockets(void *argument)
{
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory != NULL);
    bool any = false;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        char target[16] = "";
        any |= readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1) > 0 &&
               strncmp(target, "socket:", 7) == 0;
    }
    closedir(directory);
    *(unsigned *)argument += any;
}

static void sockets_do_not_get_into_children(void)
{
    unsigned *children = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(children != MAP_FAILED);
    atomic_bool stop = false;
    pthread_t busy[BUSY];
    for (size_t i = 0; i < BUSY; i++)
        CHECK(pthread_create(&busy[i], NULL, make_and_free, &stop) == 0);
    const unsigned forks = UNDER_CHECKER ? 40 : 1000;
    for (unsigned i = 0; i < forks; i++)
        join_child(start_child(count_children_with_sockets, children));
    atomic_store(&stop, true);
    for (size_t i = 0; i < BUSY; i++)
        pthread_join(busy[i], NULL);
    CHECK(*children <= (UNDER_CHECKER ? 4 : forks / 100));
}

/* ---- forks of other kinds ---- */

/* A child for which no handler of pthread_atfork(3) runs, as with _Fork(3) and vfork(2). */
static pid_t bare_fork(void)
{
    return (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
}

static void a_child_without_fork_handlers_frees_and_touches_nothing(void)
{
    static struct handles handles;
    struct path path = in_scratch("s");
    make_handles(&handles, path.text);
    exchange(&handles);
    for (int i = 0; i < 5; i++) {
        size_t fds = open_fds();
        pid_t child = bare_fork();
        CHECK(child >= 0);
        if (child == 0) {
            CHECK_STATUS(udsipc_write_message(handles.writer, "x", 1), UDSIPC_ERR_FORKED);
            CHECK_STATUS(udsipc_reader_stop(handles.reader, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_FORKED);
            free_handles(&handles);
            CHECK_INT(open_fds(), fds); /* nobody has closed anything */
            make_the_first_handle(NULL);
            CHECK_INT(open_fds(), fds);
            /* Its own child gets none of them, and those of the grandparent mean nothing to the library any more. */
            join_child(start_child(make_the_first_handle, NULL));
            _exit(0);
        }
        join_child(child);
        exchange(&handles);
    }
    stop_handles(&handles);
}

/* ---- forks in callbacks ---- */

struct fork_in_callback {
    struct inbox inbox;
    atomic_int forks;
};

static void check_mask_in_child(void *argument)
{
    (void)argument;
    sigset_t mask;
    CHECK(pthread_sigmask(SIG_BLOCK, NULL, &mask) == 0);
    CHECK(sigismember(&mask, SIGUSR2) == 1); /* as the host has it */
    CHECK(sigismember(&mask, SIGTERM) == 0 && sigismember(&mask, SIGINT) == 0 && sigismember(&mask, SIGCHLD) == 0);
}

static int32_t fork_a_child(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)data, (void)len, (void)connection;
    join_child(start_child(check_mask_in_child, NULL));
    atomic_fetch_add(&((struct fork_in_callback *)userdata)->forks, 1);
    return 0;
}

static void fork_at_an_error(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)status, (void)os_errno, (void)context;
    join_child(start_child(check_mask_in_child, NULL));
    atomic_fetch_add(&((struct fork_in_callback *)userdata)->forks, 1);
}

static void a_child_forked_in_a_callback_has_the_hosts_signal_mask(void)
{
    struct fork_in_callback context = {.inbox = INBOX};
    struct path path = in_scratch("s"), nobody = in_scratch("nobody");
    sigset_t usr2;
    sigemptyset(&usr2);
    sigaddset(&usr2, SIGUSR2);
    CHECK(pthread_sigmask(SIG_BLOCK, &usr2, NULL) == 0);
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, fork_a_child, &context, NULL, &reader));
    CHECK_OK(udsipc_reader_start(reader));
    udsipc_writer *writers[4];
    for (size_t i = 0; i < 4; i++) { /* threads of the library that other threads of it have started as well */
        writers[i] = started_writer(path.text);
        CHECK_OK(udsipc_write_message(writers[i], "x", 1));
    }
    WAIT_UNTIL(atomic_load(&context.forks) == 4);

    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_error_callback(options, fork_at_an_error, &context));
    udsipc_writer *writer = NULL;
    CHECK_OK(udsipc_writer_new(nobody.text, options, &writer));
    udsipc_writer_options_free(options);
    CHECK_OK(udsipc_writer_start(writer));
    WAIT_UNTIL(atomic_load(&context.forks) > 4);
    udsipc_writer_free(writer);
    for (size_t i = 0; i < 4; i++)
        udsipc_writer_free(writers[i]);
    udsipc_reader_free(reader);
}

static const struct scenario scenarios[] = {
    SCENARIO(regress_a_child_that_ran_closefrom_keeps_its_own_descriptors),
    SCENARIO(a_child_that_opens_files_and_then_frees_keeps_them),
    SCENARIO(regress_a_worker_that_outlives_its_parent_holds_neither_listener_nor_connections),
    SCENARIO(regress_a_childs_first_handle_does_not_wait_for_its_parents),
    SCENARIO(forks_beside_threads_that_make_and_free_handles),
    SCENARIO(sockets_do_not_get_into_children),
    SCENARIO(a_child_without_fork_handlers_frees_and_touches_nothing),
    SCENARIO(a_child_forked_in_a_callback_has_the_hosts_signal_mask),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
