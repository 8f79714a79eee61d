/* What the C test programs share: checks, waiting with a deadline, raw sockets, recorders for callbacks.
 *
 * A program is a list of scenarios. `PROGRAM --list` prints their names, `PROGRAM NAME` runs one in a process of its
 * own, with the current directory as its scratch folder: that is what the harness does, and what a person does by hand.
 */
#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "udsipc.h"

/* How long to wait for something that must happen. It bounds a hang; it measures nothing. */
#define PATIENCE_MS 30000

/* ---- checks ---- */

static inline void fail(const char *file, int line, const char *what)
{
    char detail[512] = "";
    udsipc_last_error_message(detail, sizeof detail);
    fprintf(stderr, "%s:%d: failed: %s (last error of this thread: \"%s\")\n", file, line, what, detail);
    fflush(NULL);
    _exit(1);
}

static inline void check_int(const char *file, int line, const char *what, int64_t got, int64_t wanted)
{
    if (got != wanted) {
        char text[512];
        snprintf(text, sizeof text, "%s is %" PRId64 ", not %" PRId64, what, got, wanted);
        fail(file, line, text);
    }
}

static inline void check_status(const char *file, int line, const char *what, int32_t got, int32_t wanted)
{
    if (got != wanted) {
        char text[512];
        snprintf(text, sizeof text, "%s is %" PRId32 " \"%s\", not %" PRId32 " \"%s\"", what, got, udsipc_strerror(got),
                 wanted, udsipc_strerror(wanted));
        fail(file, line, text);
    }
}

static inline void check_text(const char *file, int line, const char *what, const char *got, const char *wanted)
{
    if (got == NULL || strcmp(got, wanted) != 0) {
        char text[512];
        snprintf(text, sizeof text, "%s is \"%s\", not \"%s\"", what, got == NULL ? "(null)" : got, wanted);
        fail(file, line, text);
    }
}

#define CHECK(condition) \
    do { \
        if (!(condition)) fail(__FILE__, __LINE__, #condition); \
    } while (0)
#define CHECK_INT(got, wanted) check_int(__FILE__, __LINE__, #got, (int64_t)(got), (int64_t)(wanted))
#define CHECK_STATUS(got, wanted) check_status(__FILE__, __LINE__, #got, (int32_t)(got), (int32_t)(wanted))
#define CHECK_OK(got) CHECK_STATUS(got, UDSIPC_OK)
#define CHECK_NULL_POINTER(got) CHECK_STATUS(got, UDSIPC_ERR_NULL_POINTER)
/* Any answer will do. GCC warns about a cast to void where a result is marked. */
#define IGNORE(status) \
    do { \
        if (status) break; \
    } while (0)
#define CHECK_TEXT(got, wanted) check_text(__FILE__, __LINE__, #got, got, wanted)

/* ---- time ---- */

static inline uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Between two looks at a condition; never on its own. */
static inline void look_again_soon(void)
{
    struct timespec pause = {0, 1000000};
    nanosleep(&pause, NULL);
}

#define WAIT_UNTIL(condition) \
    do { \
        uint64_t wait_until_ = now_ms() + PATIENCE_MS; \
        while (!(condition)) { \
            if (now_ms() > wait_until_) fail(__FILE__, __LINE__, "waited in vain for: " #condition); \
            look_again_soon(); \
        } \
    } while (0)

/* Watches for `milliseconds` that a condition, true now, stays true. */
#define STAYS_TRUE(milliseconds, condition) \
    do { \
        uint64_t stays_until_ = now_ms() + (milliseconds); \
        do { \
            if (!(condition)) fail(__FILE__, __LINE__, "did not stay true: " #condition); \
            look_again_soon(); \
        } while (now_ms() < stays_until_); \
    } while (0)

/* ---- scenarios ---- */

struct scenario {
    const char *name;
    void (*run)(void);
};

#define SCENARIO(function) {#function, function}
#define RUN_SCENARIOS(argc, argv, scenarios) run_scenarios(argc, argv, scenarios, sizeof scenarios / sizeof *scenarios)

/* ThreadSanitizer makes a thread of its own with the first one of the program, and a process to name functions when it
 * looks whether to suppress a report. Both are there from the beginning, so that threads and descriptors can be counted. */
#if defined(__SANITIZE_THREAD__)
#define CHECKER_THREADS 1

extern void __sanitizer_symbolize_pc(void *address, const char *format, char *text, size_t size);

static inline void *do_nothing(void *unused)
{
    return unused;
}

__attribute__((constructor)) static void settle_checker(void)
{
    char text[64];
    __sanitizer_symbolize_pc((void *)__builtin_return_address(0), "%f", text, sizeof text);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, do_nothing, NULL) == 0 && pthread_join(thread, NULL) == 0);
}
#else
#define CHECKER_THREADS 0
#endif

static inline int run_scenarios(int argc, char **argv, const struct scenario *scenarios, size_t count)
{
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (size_t i = 0; i < count; i++)
            puts(scenarios[i].name);
        return 0;
    }
    for (size_t i = 0; argc == 2 && i < count; i++) {
        if (strcmp(argv[1], scenarios[i].name) == 0) {
            scenarios[i].run();
            return 0;
        }
    }
    fprintf(stderr, "usage: %s --list | SCENARIO\n", argv[0]);
    return 2;
}

/* The absolute path of a name in the scratch folder. */
struct path {
    char text[108];
};

static inline struct path in_scratch(const char *name)
{
    char here[96];
    CHECK(getcwd(here, sizeof here) != NULL);
    struct path path;
    CHECK((size_t)snprintf(path.text, sizeof path.text, "%s/%s", here, name) < sizeof path.text);
    return path;
}

static inline bool exists(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0;
}

/* ---- the process itself ---- */

static inline size_t entries_of(const char *directory)
{
    DIR *open = opendir(directory);
    CHECK(open != NULL);
    size_t entries = 0;
    for (struct dirent *entry; (entry = readdir(open)) != NULL;)
        entries += entry->d_name[0] != '.';
    closedir(open);
    return entries;
}

/* One more than are open: reading the directory needs one. Good for comparing. */
static inline size_t open_fds(void)
{
    return entries_of("/proc/self/fd");
}

static inline size_t threads(void)
{
    return entries_of("/proc/self/task") - CHECKER_THREADS;
}

static inline size_t resident_kib(void)
{
    unsigned long size = 0, resident = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    CHECK(statm != NULL && fscanf(statm, "%lu %lu", &size, &resident) == 2);
    fclose(statm);
    return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE) / 1024;
}

/* Whether a sanitizer or valgrind watches this program: what those keep makes memory figures meaningless, and their
 * shadow takes more addresses than a limit would leave them. The harness says so, since valgrind leaves no trace here. */
#if defined(UDSIPC_CHECKER)
#define UNDER_CHECKER true
#else
#define UNDER_CHECKER false
#endif

/* ---- child processes ---- */

static inline pid_t start_child(void (*body)(void *), void *argument)
{
    fflush(NULL);
    pid_t parent = getpid();
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(1);
        body(argument);
        fflush(NULL);
        _exit(0);
    }
    return child;
}

static inline void join_child(pid_t child)
{
    int status = 0;
    uint64_t deadline = now_ms() + PATIENCE_MS;
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (now_ms() > deadline) {
            kill(child, SIGKILL);
            waitpid(child, &status, 0);
            fail(__FILE__, __LINE__, "the child process hangs");
        }
        look_again_soon();
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static inline void kill_child(pid_t child)
{
    CHECK(kill(child, SIGKILL) == 0);
    int status = 0;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));
}

/* ---- raw sockets: a peer that does not use the library ---- */

static inline struct sockaddr_un address_of(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CHECK(strlen(path) < sizeof address.sun_path);
    memcpy(address.sun_path, path, strlen(path));
    return address;
}

/* The descriptor, or -1 with errno. */
static inline int raw_try_connect(const char *path)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    struct sockaddr_un address = address_of(path);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    /* Nothing that a test waits for may take longer than its patience. */
    struct timeval patience = {PATIENCE_MS / 1000, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    return fd;
}

static inline int raw_connect(const char *path)
{
    int fd = raw_try_connect(path);
    CHECK(fd >= 0);
    return fd;
}

static inline int raw_listen(const char *path)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0);
    struct sockaddr_un address = address_of(path);
    unlink(path);
    CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(listen(fd, 128) == 0);
    return fd;
}

static inline int raw_accept(int listener)
{
    struct pollfd wait = {.fd = listener, .events = POLLIN};
    CHECK(poll(&wait, 1, PATIENCE_MS) == 1);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(fd >= 0);
    struct timeval patience = {PATIENCE_MS / 1000, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    return fd;
}

static inline void raw_send(int fd, const void *data, size_t len)
{
    const uint8_t *next = (const uint8_t *)data;
    while (len > 0) {
        ssize_t sent = send(fd, next, len, MSG_NOSIGNAL);
        CHECK(sent > 0);
        next += sent;
        len -= (size_t)sent;
    }
}

static inline size_t put_varint(uint8_t *buffer, uint64_t value)
{
    size_t len = 0;
    for (; value >= 0x80; value >>= 7)
        buffer[len++] = (uint8_t)(value | 0x80);
    buffer[len++] = (uint8_t)value;
    return len;
}

/* A small frame goes out in one piece: a reader that refuses it by its prefix may close before a second one. */
static inline void raw_send_frame(int fd, const void *payload, size_t len)
{
    uint8_t frame[512];
    size_t prefix = put_varint(frame, len);
    bool small = len <= sizeof frame - prefix;
    if (small) memcpy(frame + prefix, payload, len);
    raw_send(fd, frame, small ? prefix + len : prefix);
    if (!small) raw_send(fd, payload, len);
}

/* Whether the peer's process has read all that was sent (SIOCOUTQ, unix(7)). */
static inline bool raw_is_read(int fd)
{
    int unread = -1;
    CHECK(ioctl(fd, SIOCOUTQ, &unread) == 0);
    return unread == 0;
}

/* Reads exactly `len` bytes; false at the end of the connection. */
static inline bool raw_read(int fd, void *buffer, size_t len)
{
    uint8_t *next = (uint8_t *)buffer;
    while (len > 0) {
        ssize_t got = recv(fd, next, len, 0);
        CHECK(got >= 0 || errno == ECONNRESET);
        if (got <= 0) return false;
        next += got;
        len -= (size_t)got;
    }
    return true;
}

/* One frame, at most `capacity` long; false at the end of the connection. */
static inline bool raw_read_frame(int fd, void *buffer, size_t capacity, size_t *len)
{
    uint64_t announced = 0;
    uint8_t byte = 0x80;
    for (unsigned shift = 0; byte >= 0x80; shift += 7) {
        if (!raw_read(fd, &byte, 1)) return false;
        announced |= (uint64_t)(byte & 0x7f) << shift;
    }
    CHECK(announced <= capacity);
    *len = (size_t)announced;
    return raw_read(fd, buffer, *len);
}

/* Waits until the peer has closed. A reader never sends, so nothing may come before the end. */
static inline void raw_wait_closed(int fd)
{
    uint8_t byte;
    ssize_t got = recv(fd, &byte, 1, 0);
    CHECK(got == 0 || (got < 0 && errno == ECONNRESET));
}

/* ---- metrics ---- */

static inline udsipc_writer_metrics writer_metrics(const udsipc_writer *writer)
{
    udsipc_writer_metrics metrics;
    CHECK_OK(udsipc_writer_get_metrics(writer, &metrics, sizeof metrics));
    return metrics;
}

static inline udsipc_reader_metrics reader_metrics(const udsipc_reader *reader)
{
    udsipc_reader_metrics metrics;
    CHECK_OK(udsipc_reader_get_metrics(reader, &metrics, sizeof metrics));
    return metrics;
}

/* ---- recorders ---- */

#define MAX_SENDERS 64

/* A message that tells who sent it and the how manieth it is. */
struct numbered {
    uint32_t sender;
    uint32_t number;
};

/* What a reader's callback got. `gaps` counts numbered messages that were not the next of their sender. */
struct inbox {
    pthread_mutex_t lock;
    uint64_t count;
    uint64_t bytes;
    uint64_t gaps;
    uint32_t next[MAX_SENDERS];
    size_t last_len;
    uint8_t last[256];
};

#define INBOX {.lock = PTHREAD_MUTEX_INITIALIZER}

static inline void inbox_put(struct inbox *inbox, const uint8_t *data, size_t len)
{
    pthread_mutex_lock(&inbox->lock);
    inbox->count++;
    inbox->bytes += len;
    inbox->last_len = len;
    memcpy(inbox->last, data, len < sizeof inbox->last ? len : sizeof inbox->last);
    struct numbered message;
    if (len == sizeof message) {
        memcpy(&message, data, sizeof message);
        if (message.sender < MAX_SENDERS) {
            inbox->gaps += message.number != inbox->next[message.sender];
            inbox->next[message.sender] = message.number + 1;
        }
    }
    pthread_mutex_unlock(&inbox->lock);
}

static inline int32_t receive(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)connection;
    inbox_put((struct inbox *)userdata, data, len);
    return 0;
}

static inline uint64_t inbox_count(struct inbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    uint64_t count = inbox->count;
    pthread_mutex_unlock(&inbox->lock);
    return count;
}

static inline uint64_t inbox_gaps(struct inbox *inbox)
{
    pthread_mutex_lock(&inbox->lock);
    uint64_t gaps = inbox->gaps;
    pthread_mutex_unlock(&inbox->lock);
    return gaps;
}

/* The number that the next message of this sender must have: how many have come. */
static inline uint32_t inbox_next(struct inbox *inbox, uint32_t sender)
{
    pthread_mutex_lock(&inbox->lock);
    uint32_t next = inbox->next[sender];
    pthread_mutex_unlock(&inbox->lock);
    return next;
}

static inline udsipc_status write_numbered(udsipc_writer *writer, uint32_t sender, uint32_t number)
{
    struct numbered message = {sender, number};
    return udsipc_write_message(writer, &message, sizeof message);
}

static inline void raw_send_numbered(int fd, uint32_t sender, uint32_t number)
{
    struct numbered message = {sender, number};
    raw_send_frame(fd, &message, sizeof message);
}

/* What an error callback was told. */
struct failures {
    pthread_mutex_t lock;
    size_t count;
    struct {
        int32_t status;
        int32_t os_errno;
        char context[64];
    } list[512];
};

#define FAILURES {.lock = PTHREAD_MUTEX_INITIALIZER}

static inline void record_failure(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    struct failures *failures = (struct failures *)userdata;
    pthread_mutex_lock(&failures->lock);
    if (failures->count < sizeof failures->list / sizeof *failures->list) {
        failures->list[failures->count].status = status;
        failures->list[failures->count].os_errno = os_errno;
        snprintf(failures->list[failures->count].context, sizeof failures->list[0].context, "%s", context);
    }
    failures->count++;
    pthread_mutex_unlock(&failures->lock);
}

/* How many failures of this status and context were reported; -1 and NULL stand for any. */
static inline size_t failures_of(struct failures *failures, int32_t status, const char *context)
{
    pthread_mutex_lock(&failures->lock);
    size_t kept = failures->count, found = 0;
    if (kept > sizeof failures->list / sizeof *failures->list) kept = sizeof failures->list / sizeof *failures->list;
    for (size_t i = 0; i < kept; i++)
        found += (status == -1 || failures->list[i].status == status) &&
                 (context == NULL || strcmp(failures->list[i].context, context) == 0);
    pthread_mutex_unlock(&failures->lock);
    return found;
}

/* Holds threads back until it is opened, and knows how many have come. */
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool open;
    unsigned arrived;
};

#define GATE {.lock = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER}

static inline void gate_pass(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->arrived++;
    while (!gate->open)
        pthread_cond_wait(&gate->opened, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

static inline void gate_open(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    gate->open = true;
    pthread_cond_broadcast(&gate->opened);
    pthread_mutex_unlock(&gate->lock);
}

static inline unsigned gate_arrived(struct gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    unsigned arrived = gate->arrived;
    pthread_mutex_unlock(&gate->lock);
    return arrived;
}

/* ---- handles with the usual settings ---- */

static inline udsipc_reader *new_reader(const char *path, struct inbox *inbox)
{
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_new(path, receive, inbox, NULL, &reader));
    CHECK(reader != NULL);
    return reader;
}

static inline udsipc_reader *started_reader(const char *path, struct inbox *inbox)
{
    udsipc_reader *reader = new_reader(path, inbox);
    CHECK_OK(udsipc_reader_start(reader));
    return reader;
}

/* With an error callback that records. */
static inline udsipc_reader *watched_reader(const char *path, struct inbox *inbox, udsipc_reader_options *options,
                                            struct failures *failures)
{
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_options_set_error_callback(options, record_failure, failures));
    CHECK_OK(udsipc_reader_new(path, receive, inbox, options, &reader));
    udsipc_reader_options_free(options);
    return reader;
}

static inline udsipc_writer *new_writer(const char *path)
{
    udsipc_writer *writer = NULL;
    CHECK_OK(udsipc_writer_new(path, NULL, &writer));
    CHECK(writer != NULL);
    return writer;
}

static inline udsipc_writer *started_writer(const char *path)
{
    udsipc_writer *writer = new_writer(path);
    CHECK_OK(udsipc_writer_start(writer));
    return writer;
}

static inline udsipc_writer *watched_writer(const char *path, udsipc_writer_options *options,
                                            struct failures *failures)
{
    udsipc_writer *writer = NULL;
    CHECK_OK(udsipc_writer_options_set_error_callback(options, record_failure, failures));
    CHECK_OK(udsipc_writer_new(path, options, &writer));
    udsipc_writer_options_free(options);
    return writer;
}

#endif
