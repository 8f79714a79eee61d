/* Children as daemons have them: forked twice with everything closed between, started in callbacks, forked by the thousand. */
#include "../support/check.h"

#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>

extern char **environ;

/* What a child reports in, since it may have closed everything else. */
static void *shared_memory(void)
{
    void *memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

/* closefrom(3), which older C libraries lack. */
static void close_from(int first)
{
#ifdef SYS_close_range
    if (syscall(SYS_close_range, first, ~0u, 0) == 0) return;
#endif
    for (int fd = first; fd < 4096; fd++)
        close(fd);
}

/* Messages go all the way between handles that are made here and now. */
static void exchange_among_own_handles(const char *name, uint32_t messages)
{
    struct path path = in_scratch(name);
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    udsipc_writer *writer = started_writer(path.text);
    for (uint32_t i = 0; i < messages; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    CHECK_OK(udsipc_writer_flush(writer, PATIENCE_MS));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), messages);
    CHECK_INT(inbox.gaps, 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* ---- daemon(3) and its kin ---- */

struct daemon {
    udsipc_reader *reader; /* the parent's, which runs */
    udsipc_writer *writer;
    int closes_from; /* 0: standard input and output too */
    atomic_int *progress;
};

static void be_a_daemon(struct daemon *daemon)
{
    umask(0);
    if (daemon->closes_from == 0)
        for (int fd = 0; fd < 3; fd++)
            CHECK(open("/dev/null", O_RDWR) == fd);
    CHECK_STATUS(udsipc_write_message(daemon->writer, "x", 1), UDSIPC_ERR_FORKED);
    exchange_among_own_handles("daemon", 100);
    udsipc_writer_free(daemon->writer);
    udsipc_reader_free(daemon->reader);
    exchange_among_own_handles("daemon", 100);
    atomic_store(daemon->progress, 2);
    _exit(0);
}

static void fork_close_and_fork(void *argument)
{
    struct daemon *daemon = (struct daemon *)argument;
    CHECK(setsid() > 0);
    close_from(daemon->closes_from);
    pid_t child = fork();
    if (child < 0) _exit(1);
    if (child == 0) be_a_daemon(daemon);
    atomic_store(daemon->progress, 1);
}

static void a_daemon_forks_twice_and_closes_everything_between(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    struct daemon daemon = {.progress = (atomic_int *)shared_memory()};
    daemon.reader = started_reader(path.text, &inbox);
    daemon.writer = started_writer(path.text);
    for (uint32_t round = 0; round < 6; round++) {
        atomic_store(daemon.progress, 0);
        daemon.closes_from = round % 2 == 0 ? 3 : 0;
        join_child(start_child(fork_close_and_fork, &daemon));
        WAIT_UNTIL(atomic_load(daemon.progress) == 2);
        CHECK_OK(write_numbered(daemon.writer, 0, round));
        WAIT_UNTIL(inbox_count(&inbox) == round + 1);
    }
    CHECK_INT(inbox_gaps(&inbox), 0);
    CHECK_INT(writer_metrics(daemon.writer).connections, 1);
    CHECK_OK(udsipc_writer_stop(daemon.writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(daemon.reader, PATIENCE_MS));
    udsipc_writer_free(daemon.writer);
    udsipc_reader_free(daemon.reader);
}

/* ---- programs that callbacks start ---- */

/* Ends by SIGTERM, or with the number of its descriptors if SIGTERM is blocked. */
#define SCRIPT "kill -TERM $$; set -- /proc/self/fd/*; exit $#"

static int outcome(pid_t child)
{
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static int spawned(const posix_spawnattr_t *attributes)
{
    char *argv[] = {(char *)"sh", (char *)"-c", (char *)SCRIPT, NULL};
    pid_t child;
    CHECK(posix_spawn(&child, "/bin/sh", NULL, attributes, argv, environ) == 0);
    return outcome(child);
}

/* As the header shows it. */
static int spawned_with_an_empty_mask(void)
{
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attributes, &none);
    int status = spawned(&attributes);
    posix_spawnattr_destroy(&attributes);
    return status;
}

static int forked(void)
{
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        execl("/bin/sh", "sh", "-c", SCRIPT, (char *)NULL);
        _exit(127);
    }
    return outcome(child);
}

static atomic_bool programs_started;

static int32_t start_programs(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)data, (void)len, (void)connection, (void)userdata;
    const int told = spawned_with_an_empty_mask(), untold = spawned(NULL), by_fork = forked(), by_system = system(SCRIPT);
    CHECK(WIFSIGNALED(told) && WTERMSIG(told) == SIGTERM);
    CHECK(WIFSIGNALED(by_fork) && WTERMSIG(by_fork) == SIGTERM);
    /* They have the mask of this thread, and of descriptors the standard ones and that of the listing, or its end. */
    CHECK(WIFEXITED(untold) && WEXITSTATUS(untold) >= 3 && WEXITSTATUS(untold) <= 4);
    CHECK(WIFEXITED(by_system) && WEXITSTATUS(by_system) >= 3 && WEXITSTATUS(by_system) <= 4);
    atomic_store(&programs_started, true);
    return 0;
}

static void a_program_started_in_a_callback_has_its_mask_unless_told_and_no_descriptor(void)
{
    close_from(3); /* what whoever runs this has left open */
    struct path path = in_scratch("s");
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path.text, start_programs, NULL, NULL, &reader));
    CHECK_OK(udsipc_reader_start(reader));
    udsipc_writer *writer = started_writer(path.text);
    CHECK_OK(udsipc_write_message(writer, "x", 1));
    WAIT_UNTIL(atomic_load(&programs_started));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(reader, PATIENCE_MS));
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* ---- by the thousand ---- */

#define FORKERS 2
#define BUSY 2

struct crowd {
    udsipc_reader *reader;
    udsipc_writer *writer;
    atomic_bool over;
    atomic_uint forks;
};

/* Every kind of call, so that a fork meets every lock. */
static void *stay_busy(void *argument)
{
    struct crowd *crowd = (struct crowd *)argument;
    struct path nobody = in_scratch("nobody");
    while (!atomic_load(&crowd->over)) {
        IGNORE(udsipc_write_message(crowd->writer, "message", 7));
        IGNORE(udsipc_writer_flush(crowd->writer, 1));
        writer_metrics(crowd->writer);
        udsipc_writer *writer = started_writer(nobody.text);
        CHECK_STATUS(udsipc_writer_flush(writer, 0), UDSIPC_OK);
        udsipc_writer_free(writer);
    }
    return NULL;
}

static void use_inherited(void *argument)
{
    struct crowd *crowd = (struct crowd *)argument;
    CHECK_STATUS(udsipc_write_message(crowd->writer, "x", 1), UDSIPC_ERR_FORKED);
    CHECK_STATUS(udsipc_writer_flush(crowd->writer, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_FORKED);
    CHECK_STATUS(udsipc_reader_stop(crowd->reader, UDSIPC_WAIT_FOREVER), UDSIPC_ERR_FORKED);
    udsipc_writer_free(crowd->writer);
    udsipc_reader_free(crowd->reader);
}

static void use_own(void *argument)
{
    char name[32];
    snprintf(name, sizeof name, "own%d", (int)getpid());
    exchange_among_own_handles(name, 3);
    use_inherited(argument);
}

static void *keep_forking(void *argument)
{
    struct crowd *crowd = (struct crowd *)argument;
    const unsigned most = UNDER_CHECKER ? 60 : 2000;
    for (unsigned number; (number = atomic_fetch_add(&crowd->forks, 1)) < most;)
        join_child(start_child(number % 2 == 0 ? use_own : use_inherited, crowd));
    return NULL;
}

/* Two threads fork at the same time, beside threads that are in every call of the library. */
static void two_thousand_forks_beside_busy_threads(void)
{
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    static struct crowd crowd;
    crowd.reader = started_reader(path.text, &inbox);
    crowd.writer = started_writer(path.text);
    pthread_t forkers[FORKERS], busy[BUSY];
    for (size_t i = 0; i < BUSY; i++)
        CHECK(pthread_create(&busy[i], NULL, stay_busy, &crowd) == 0);
    for (size_t i = 0; i < FORKERS; i++)
        CHECK(pthread_create(&forkers[i], NULL, keep_forking, &crowd) == 0);
    for (size_t i = 0; i < FORKERS; i++)
        pthread_join(forkers[i], NULL);
    atomic_store(&crowd.over, true);
    for (size_t i = 0; i < BUSY; i++)
        pthread_join(busy[i], NULL);
    CHECK_OK(udsipc_writer_stop(crowd.writer, PATIENCE_MS));
    CHECK_INT(writer_metrics(crowd.writer).connections, 1);
    CHECK_INT(writer_metrics(crowd.writer).sent, inbox_count(&inbox));
    CHECK_OK(udsipc_reader_stop(crowd.reader, PATIENCE_MS));
    udsipc_writer_free(crowd.writer);
    udsipc_reader_free(crowd.reader);
}

/* ---- the host's own handlers of fork ---- */

static udsipc_writer *stopped_at_fork;
static int handlers_run;

/* What a careful host does before a fork: everything comes to rest. The library's own handler may have run already. */
static void rest_before_fork(void)
{
    if (stopped_at_fork == NULL) return;
    CHECK_OK(udsipc_writer_flush(stopped_at_fork, PATIENCE_MS));
    handlers_run++;
}

static void a_host_that_flushes_in_its_own_fork_handler(void)
{
    CHECK(pthread_atfork(rest_before_fork, NULL, NULL) == 0); /* before the library's: called after it */
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    stopped_at_fork = started_writer(path.text);
    CHECK(pthread_atfork(rest_before_fork, NULL, NULL) == 0); /* and after it: called before */
    for (uint32_t i = 0; i < 10; i++) {
        CHECK_OK(write_numbered(stopped_at_fork, 0, i));
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) _exit(udsipc_write_message(stopped_at_fork, "x", 1) == UDSIPC_ERR_FORKED ? 0 : 1);
        join_child(child);
    }
    CHECK_INT(handlers_run, 20);
    CHECK_INT(inbox_count(&inbox), 10);
    udsipc_writer *writer = stopped_at_fork;
    stopped_at_fork = NULL;
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static bool makes_handles_at_fork;
static udsipc_reader *reader_of_child;
static udsipc_writer *writer_of_child;
static struct inbox inbox_of_child = INBOX;

static void make_handles_in_child(void)
{
    if (!makes_handles_at_fork) return;
    struct path path = in_scratch("child");
    reader_of_child = started_reader(path.text, &inbox_of_child);
    writer_of_child = started_writer(path.text);
}

struct parent {
    udsipc_reader *reader;
    udsipc_writer *writer;
    size_t fds_before;
};

static void use_handles_of_fork_handler(void *argument)
{
    struct parent *parent = (struct parent *)argument;
    CHECK_OK(write_numbered(writer_of_child, 0, 0));
    WAIT_UNTIL(inbox_count(&inbox_of_child) == 1);
    CHECK_STATUS(udsipc_write_message(parent->writer, "x", 1), UDSIPC_ERR_FORKED);
    CHECK_OK(udsipc_writer_stop(writer_of_child, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(reader_of_child, PATIENCE_MS));
    udsipc_writer_free(writer_of_child);
    udsipc_reader_free(reader_of_child);
    /* Of the parent's listener and connections there is no copy; the last of its own may be closed a moment later. */
    WAIT_UNTIL(open_fds() == parent->fds_before);
}

/* A handler that was registered before that of the library is called before it in the child. */
static void regress_a_host_that_makes_handles_in_its_own_fork_handler(void)
{
    CHECK(pthread_atfork(NULL, NULL, make_handles_in_child) == 0);
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    struct parent parent = {.fds_before = open_fds()};
    parent.reader = started_reader(path.text, &inbox);
    parent.writer = started_writer(path.text);
    makes_handles_at_fork = true;
    for (uint32_t i = 0; i < 5; i++) {
        CHECK_OK(write_numbered(parent.writer, 0, i));
        join_child(start_child(use_handles_of_fork_handler, &parent));
        WAIT_UNTIL(inbox_count(&inbox) == i + 1);
    }
    CHECK_OK(udsipc_writer_stop(parent.writer, PATIENCE_MS));
    CHECK_OK(udsipc_reader_stop(parent.reader, PATIENCE_MS));
    udsipc_writer_free(parent.writer);
    udsipc_reader_free(parent.reader);
}

static const struct scenario scenarios[] = {
    SCENARIO(a_daemon_forks_twice_and_closes_everything_between),
    SCENARIO(a_program_started_in_a_callback_has_its_mask_unless_told_and_no_descriptor),
    SCENARIO(two_thousand_forks_beside_busy_threads),
    SCENARIO(a_host_that_flushes_in_its_own_fork_handler),
    SCENARIO(regress_a_host_that_makes_handles_in_its_own_fork_handler),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
