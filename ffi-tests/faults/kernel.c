/* A kernel that has no memory for a moment, a file system that does not answer, an inotify(7) that is not to be had.
 *
 * The calls are replaced in this program, and so in the library: the dynamic linker looks here first. Under a checker, whose
 * runtime replaces the same calls, the scenarios do nothing.
 */
#include "../support/account.h"

#include <sys/inotify.h>
#include <sys/syscall.h>

static _Atomic int refused_sends; /* so many of the next ones */
static _Atomic int refusal;       /* the errno */
static _Atomic uint64_t sends, connects;
static _Atomic int slow_ms;
static const char *slow_directory; /* what lies in it is found after `slow_ms` */
static atomic_bool quick_connects; /* only a watch is slow */
static _Atomic int inotify_init_errno, inotify_add_errno;
static _Atomic uint64_t watched;

#ifndef UDSIPC_CHECKER

static void wait_for_the_file_system(const char *path)
{
    int milliseconds = atomic_load(&slow_ms);
    if (milliseconds > 0 && strncmp(path, slow_directory, strlen(slow_directory)) == 0) pause_ms(milliseconds);
}

static bool refuse_send(void)
{
    atomic_fetch_add(&sends, 1);
    if (atomic_load(&refused_sends) <= 0) return false;
    atomic_fetch_sub(&refused_sends, 1);
    errno = atomic_load(&refusal);
    return true;
}

ssize_t send(int fd, const void *data, size_t len, int flags)
{
    return refuse_send() ? -1 : syscall(SYS_sendto, fd, data, len, flags, NULL, 0);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    return refuse_send() ? -1 : syscall(SYS_sendmsg, fd, message, flags);
}

/* Under a name of its own: with _GNU_SOURCE the address of `connect` is of a type that only the C library may spell. */
int replaced_connect(int fd, const struct sockaddr *address, socklen_t len) __asm__("connect");

int replaced_connect(int fd, const struct sockaddr *address, socklen_t len)
{
    atomic_fetch_add(&connects, 1);
    if (address->sa_family == AF_UNIX && !atomic_load(&quick_connects))
        wait_for_the_file_system(((const struct sockaddr_un *)address)->sun_path);
    return (int)syscall(SYS_connect, fd, address, len);
}

int inotify_init1(int flags)
{
    errno = atomic_load(&inotify_init_errno);
    return errno != 0 ? -1 : (int)syscall(SYS_inotify_init1, flags);
}

int inotify_add_watch(int fd, const char *path, uint32_t mask)
{
    atomic_fetch_add(&watched, 1);
    wait_for_the_file_system(path);
    errno = atomic_load(&inotify_add_errno);
    return errno != 0 ? -1 : (int)syscall(SYS_inotify_add_watch, fd, path, mask);
}

#endif

/* How many watches the inotify instances of this process have (proc_pid_fdinfo(5)). */
static size_t watches(void)
{
    size_t count = 0;
    char line[512];
    DIR *descriptors = opendir("/proc/self/fdinfo");
    CHECK(descriptors != NULL);
    for (struct dirent *entry; (entry = readdir(descriptors)) != NULL;) {
        snprintf(line, sizeof line, "/proc/self/fdinfo/%s", entry->d_name);
        FILE *info = fopen(line, "r");
        if (info == NULL) continue;
        while (fgets(line, sizeof line, info) != NULL)
            count += strncmp(line, "inotify ", 8) == 0;
        fclose(info);
    }
    closedir(descriptors);
    return count;
}

enum driver { THREADS, HOST };

/* A host's event loop, in a thread of its own. */
struct loop {
    pthread_t thread;
    udsipc_writer *writer;
    atomic_bool over;
    _Atomic uint64_t turns;
};

static void *run_loop(void *argument)
{
    struct loop *loop = (struct loop *)argument;
    while (!atomic_load(&loop->over)) {
        struct pollfd ready = {.fd = udsipc_writer_fd(loop->writer), .events = POLLIN};
        if (poll(&ready, 1, 20) == 1) {
            udsipc_writer_dispatch(loop->writer, 0); /* UDSIPC_ERR_STOPPED after the stop */
            atomic_fetch_add(&loop->turns, 1);
        }
    }
    return NULL;
}

static void drive(enum driver driver, struct loop *loop, udsipc_writer *writer)
{
    *loop = (struct loop){.writer = writer};
    if (driver == THREADS)
        CHECK_OK(udsipc_writer_start(writer));
    else
        CHECK(pthread_create(&loop->thread, NULL, run_loop, loop) == 0);
}

static void end_loop(enum driver driver, struct loop *loop)
{
    atomic_store(&loop->over, true);
    if (driver == HOST) pthread_join(loop->thread, NULL);
}

/* ---- no memory for a send ---- */

/* The connection is as good as before, and so are the messages: nothing is broken, blamed, reordered or lost. */
static void sends_refused_for_a_moment(enum driver driver, int errno_value)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    struct loop loop;
    int listener = raw_listen(path.text);
    udsipc_writer *writer = watched_writer(path.text, udsipc_writer_options_new(), &failures);
    drive(driver, &loop, writer);
    int peer = raw_accept(listener);
    WAIT_UNTIL(udsipc_writer_is_connected(writer));
    for (int round = 0; round < 5; round++) {
        atomic_store(&refusal, errno_value);
        atomic_store(&refused_sends, 8); /* more than max_attempts */
        for (uint32_t i = 0; i < 100; i++)
            CHECK_OK(write_numbered(writer, 0, (uint32_t)round * 100 + i));
        for (uint32_t i = 0; i < 100; i++) {
            uint32_t message[2];
            size_t len = 0;
            CHECK(raw_read_frame(peer, message, sizeof message, &len));
            CHECK_INT(len, sizeof message);
            CHECK_INT(message[1], (uint32_t)round * 100 + i);
        }
    }
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    end_loop(driver, &loop);
    udsipc_writer_metrics metrics = writer_metrics(writer);
    CHECK_INT(metrics.sent, 500);
    CHECK_INT(metrics.connections, 1);
    CHECK_INT(metrics.failed, 0);
    CHECK_INT(metrics.abandoned, 0);
    CHECK_INT(metrics.suspected_lost, 0);
    CHECK_INT(failures_of(&failures, UDSIPC_ERR_NO_CONSUMER, NULL), 0);
    udsipc_writer_free(writer);
    close(peer);
    close(listener);
    unlink(path.text);
}

static void sends_without_memory(void)
{
    if (UNDER_CHECKER) return;
    for (enum driver driver = THREADS; driver <= HOST; driver++) {
        sends_refused_for_a_moment(driver, ENOBUFS);
        sends_refused_for_a_moment(driver, ENOMEM);
    }
}

/* In the middle of a frame as well: it goes on where it was cut. */
static void a_large_send_without_memory(void)
{
    if (UNDER_CHECKER) return;
    enum { LEN = 8 << 20 };
    struct path path = in_scratch("s");
    int listener = raw_listen(path.text);
    udsipc_writer *writer = started_writer(path.text);
    int peer = raw_accept(listener);
    uint8_t *message = (uint8_t *)malloc(LEN), *received = (uint8_t *)malloc(LEN);
    CHECK(message != NULL && received != NULL);
    for (size_t i = 0; i < LEN; i++)
        message[i] = (uint8_t)(i * 7919 >> 8);
    CHECK_OK(udsipc_write_message(writer, message, LEN));
    uint8_t prefix[4];
    CHECK(raw_read(peer, prefix, sizeof prefix));
    atomic_store(&refusal, ENOBUFS);
    for (size_t done = 0; done < LEN; done += LEN / 8) {
        atomic_store(&refused_sends, 3);
        CHECK(raw_read(peer, received + done, LEN / 8));
    }
    CHECK(memcmp(message, received, LEN) == 0);
    atomic_store(&refused_sends, 0);
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    CHECK_INT(writer_metrics(writer).connections, 1);
    CHECK_INT(writer_metrics(writer).failed, 0);
    udsipc_writer_free(writer);
    free(message);
    free(received);
    close(peer);
    close(listener);
}

/* As long as it lasts, the kernel is asked now and then, and a stop keeps its time. */
static void no_memory_for_a_second(enum driver driver)
{
    struct path path = in_scratch("s");
    struct loop loop;
    int listener = raw_listen(path.text);
    udsipc_writer *writer = new_writer(path.text);
    drive(driver, &loop, writer);
    int peer = raw_accept(listener);
    WAIT_UNTIL(udsipc_writer_is_connected(writer));
    atomic_store(&refusal, ENOBUFS);
    atomic_store(&refused_sends, INT32_MAX);
    for (uint32_t i = 0; i < 10; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    uint64_t before = atomic_load(&sends), begun = now_ms();
    WAIT_UNTIL(now_ms() - begun >= 1000);
    uint64_t asked = atomic_load(&sends) - before;
    printf("%s: asked %" PRIu64 " times in a second\n", driver == THREADS ? "threads" : "host", asked);
    CHECK(asked >= 5 && asked < 2000);
    CHECK(driver == THREADS || atomic_load(&loop.turns) < 2000);
    CHECK_INT(writer_metrics(writer).queue_depth, 10);
    CHECK_INT(writer_metrics(writer).connections, 1);
    begun = now_ms();
    CHECK_STATUS(udsipc_writer_stop(writer, 300), UDSIPC_ERR_TIMEOUT);
    CHECK(now_ms() - begun < 1500);
    CHECK_INT(writer_metrics(writer).abandoned, 10);
    end_loop(driver, &loop);
    atomic_store(&refused_sends, 0);
    udsipc_writer_free(writer);
    close(peer);
    close(listener);
    unlink(path.text);
}

static void sends_without_memory_for_a_second(void)
{
    if (UNDER_CHECKER) return;
    no_memory_for_a_second(THREADS);
    no_memory_for_a_second(HOST);
}

/* ---- a file system that does not answer ---- */

#define SLOW_MS 3000

/* Runs a call, prints how long it took, and fails if that was nearly as long as the file system needs. */
#define KEEPS_ITS_TIME(call) \
    do { \
        uint64_t begun_ = now_ms(); \
        call; \
        uint64_t taken_ = now_ms() - begun_; \
        printf("%s: %" PRIu64 " ms\n", #call, taken_); \
        CHECK(taken_ < 1000); \
    } while (0)

static void *dispatch_once(void *argument)
{
    udsipc_writer_dispatch((udsipc_writer *)argument, 0);
    return NULL;
}

/* No call of a caller waits for the thread that looks for the path, and neither do other writers. */
static void slow_path(enum driver driver)
{
    struct path slow = in_scratch("slow/s"), quick = in_scratch("quick"), directory = in_scratch("slow");
    struct inbox inbox = INBOX;
    slow_directory = directory.text;
    CHECK(mkdir(directory.text, 0700) == 0);
    udsipc_reader *reader = started_reader(quick.text, &inbox);
    udsipc_writer *other = started_writer(quick.text), *writer = NULL;
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 2));
    CHECK_OK(udsipc_writer_new(slow.text, options, &writer));
    udsipc_writer_options_free(options);
    uint64_t before = atomic_load(&connects);
    atomic_store(&slow_ms, SLOW_MS);
    CHECK_OK(write_numbered(writer, 1, 0));
    pthread_t thread;
    if (driver == THREADS)
        KEEPS_ITS_TIME(CHECK_OK(udsipc_writer_start(writer)));
    else
        CHECK(pthread_create(&thread, NULL, dispatch_once, writer) == 0);
    WAIT_UNTIL(atomic_load(&connects) > before + 1);

    KEEPS_ITS_TIME(CHECK_OK(write_numbered(writer, 1, 1)));
    KEEPS_ITS_TIME(CHECK(!udsipc_writer_is_connected(writer)));
    KEEPS_ITS_TIME(CHECK_INT(writer_metrics(writer).queue_depth, 2));
    KEEPS_ITS_TIME(CHECK_STATUS(udsipc_write_message_timeout(writer, "x", 1, 100), UDSIPC_ERR_TIMEOUT));
    KEEPS_ITS_TIME(CHECK_STATUS(udsipc_writer_flush(writer, 100), UDSIPC_ERR_TIMEOUT));
    CHECK_OK(write_numbered(other, 0, 0));
    KEEPS_ITS_TIME(CHECK_OK(udsipc_writer_flush(other, 800)));
    KEEPS_ITS_TIME(CHECK(udsipc_writer_stop(writer, 200) != UDSIPC_OK));
    CHECK_INT(writer_metrics(writer).abandoned, 2);
    CHECK_INT(writer_metrics(writer).queue_depth, 0);
    if (driver == THREADS) KEEPS_ITS_TIME(udsipc_writer_free(writer));

    atomic_store(&slow_ms, 0);
    if (driver == HOST) {
        pthread_join(thread, NULL);
        udsipc_writer_free(writer);
    }
    CHECK_OK(udsipc_writer_stop(other, PATIENCE_MS));
    CHECK_INT(inbox_count(&inbox), 1);
    udsipc_writer_free(other);
    udsipc_reader_free(reader);
}

static void a_path_that_is_slow_to_find_threaded(void)
{
    if (!UNDER_CHECKER) slow_path(THREADS);
}

static void a_path_that_is_slow_to_find_dispatched(void)
{
    if (!UNDER_CHECKER) slow_path(HOST);
}

/* With the last writer of the process as well, whose threads have nobody else to work for. */
static void the_last_writer_does_not_wait_for_its_path(void)
{
    if (UNDER_CHECKER) return;
    struct path slow = in_scratch("slow/s"), directory = in_scratch("slow");
    slow_directory = directory.text;
    CHECK(mkdir(directory.text, 0700) == 0);
    atomic_store(&slow_ms, SLOW_MS);
    udsipc_writer *writer = started_writer(slow.text);
    CHECK_OK(write_numbered(writer, 0, 0));
    WAIT_UNTIL(atomic_load(&connects) > 0);
    KEEPS_ITS_TIME(CHECK(udsipc_writer_stop(writer, 200) != UDSIPC_OK));
    KEEPS_ITS_TIME(udsipc_writer_free(writer));
    pause_ms(SLOW_MS); /* the thread comes back to a writer that is gone */
    atomic_store(&slow_ms, 0);
}

/* A stop that comes in the middle of a long pause dials at once: not in its own thread. */
static void a_stop_does_not_dial_itself(void)
{
    if (UNDER_CHECKER) return;
    struct path slow = in_scratch("slow/s"), directory = in_scratch("slow");
    slow_directory = directory.text;
    CHECK(mkdir(directory.text, 0700) == 0);
    udsipc_writer *writer = started_writer(slow.text);
    CHECK_OK(write_numbered(writer, 0, 0));
    WAIT_UNTIL(writer_metrics(writer).connect_failures > 8);
    pause_ms(100);
    atomic_store(&slow_ms, SLOW_MS);
    KEEPS_ITS_TIME(CHECK(udsipc_writer_stop(writer, 200) != UDSIPC_OK));
    KEEPS_ITS_TIME(udsipc_writer_free(writer));
    atomic_store(&slow_ms, 0);
}

/* The directory is found at once by connect(2), and then no more. */
static void slow_watch(enum driver driver)
{
    struct path slow = in_scratch("slow/s"), directory = in_scratch("slow");
    struct loop loop;
    slow_directory = directory.text;
    mkdir(directory.text, 0700);
    uint64_t before = atomic_load(&watched);
    atomic_store(&slow_ms, SLOW_MS);
    atomic_store(&quick_connects, true);
    udsipc_writer *writer = new_writer(slow.text);
    CHECK_OK(write_numbered(writer, 0, 0));
    drive(driver, &loop, writer);
    WAIT_UNTIL(atomic_load(&watched) > before);
    KEEPS_ITS_TIME(CHECK(udsipc_writer_stop(writer, 200) != UDSIPC_OK));
    atomic_store(&slow_ms, 0);
    end_loop(driver, &loop);
    KEEPS_ITS_TIME(udsipc_writer_free(writer));
    atomic_store(&quick_connects, false);
}

static void a_directory_that_is_slow_to_watch(void)
{
    if (UNDER_CHECKER) return;
    slow_watch(THREADS);
    slow_watch(HOST);
}

/* Nothing of them stays where another one goes on waiting for its path. */
static void writers_that_end_unconnected_leave_no_watch(void)
{
    if (UNDER_CHECKER) return;
    struct path path = in_scratch("kept/s");
    CHECK(mkdir("kept", 0700) == 0);
    udsipc_writer *kept = started_writer(path.text);
    WAIT_UNTIL(watches() == 1);
    for (int i = 0; i < 50; i++) {
        char name[16];
        snprintf(name, sizeof name, "d%d", i);
        CHECK(mkdir(name, 0700) == 0);
        snprintf(name, sizeof name, "d%d/s", i);
        udsipc_writer *writer = started_writer(in_scratch(name).text);
        WAIT_UNTIL(watches() == 2);
        if (i % 2 == 0) CHECK_OK(udsipc_writer_stop(writer, 100));
        udsipc_writer_free(writer);
        CHECK_INT(watches(), 1);
    }
    udsipc_writer_free(kept);
    CHECK_INT(watches(), 0);
}

/* ---- no inotify ---- */

/* The backoff alone finds the reader, and the host is told of the reader's absence only. */
static void found_without_inotify(enum driver driver)
{
    struct path path = in_scratch("s");
    struct failures failures = FAILURES;
    struct loop loop;
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 50));
    udsipc_writer *writer = watched_writer(path.text, options, &failures);
    CHECK_OK(write_numbered(writer, 0, 0));
    drive(driver, &loop, writer);
    uint64_t before = atomic_load(&connects), begun = now_ms();
    WAIT_UNTIL(now_ms() - begun >= 1000);
    uint64_t dialled = atomic_load(&connects) - before;
    printf("%s: dialled %" PRIu64 " times in a second\n", driver == THREADS ? "threads" : "host", dialled);
    CHECK(dialled >= 10 && dialled < 200);
    CHECK_INT(failures_of(&failures, UDSIPC_ERR_NOT_CONNECTED, NULL), failures_of(&failures, -1, NULL));
    int listener = raw_listen(path.text);
    begun = now_ms();
    WAIT_UNTIL(udsipc_writer_is_connected(writer));
    CHECK(now_ms() - begun < 1000);
    int peer = raw_accept(listener);
    uint8_t frame[9];
    CHECK(raw_read(peer, frame, sizeof frame));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    end_loop(driver, &loop);
    udsipc_writer_free(writer);
    close(peer);
    close(listener);
    unlink(path.text);
}

static void without_inotify(void)
{
    if (UNDER_CHECKER) return;
    for (enum driver driver = THREADS; driver <= HOST; driver++) {
        atomic_store(&inotify_init_errno, EMFILE);
        found_without_inotify(driver);
        atomic_store(&inotify_init_errno, 0);
        atomic_store(&inotify_add_errno, ENOSPC);
        found_without_inotify(driver);
        atomic_store(&inotify_add_errno, 0);
    }
}

static const struct scenario scenarios[] = {
    SCENARIO(sends_without_memory),
    SCENARIO(a_large_send_without_memory),
    SCENARIO(sends_without_memory_for_a_second),
    SCENARIO(a_path_that_is_slow_to_find_threaded),
    SCENARIO(a_path_that_is_slow_to_find_dispatched),
    SCENARIO(the_last_writer_does_not_wait_for_its_path),
    SCENARIO(a_stop_does_not_dial_itself),
    SCENARIO(a_directory_that_is_slow_to_watch),
    SCENARIO(writers_that_end_unconnected_leave_no_watch),
    SCENARIO(without_inotify),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
