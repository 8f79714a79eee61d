/* The account of a run with many processes, and the check that it holds.
 *
 * Writers and readers run in child processes, so that they can be killed, stopped and starved. What they know lies in a
 * ledger of shared memory, which outlives them:
 *
 *     at every moment, for every writer:   accepted = sent + abandoned + queue_depth
 *     for every reader:                    delivered to callbacks = received + failed callbacks
 *     at the end, over all of a writer's readers:   sent = delivered + missing,  0 <= missing <= suspected_lost,
 *                                                   and no message out of order, damaged, or twice, but what was in
 *                                                   the callback of a reader that was killed
 *
 * The parent has no thread and no handle of the library, so that it can fork at any time.
 */
#ifndef ACCOUNT_H
#define ACCOUNT_H

#include "check.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define MAX_WRITERS 256
#define LARGEST_MESSAGE (16 << 20)

/* What every message begins with; the rest is filled with a byte that follows from the number. */
struct header {
    uint32_t writer;
    uint32_t len;
    uint64_t number;
};

/* One writer's page. Counters of both sides, so that they can be compared. */
struct book {
    _Atomic uint64_t begun;      /* writes that may have been accepted */
    _Atomic uint64_t accepted;   /* writes that were */
    _Atomic uint64_t refused;
    _Atomic uint64_t delivered;  /* what callbacks were given */
    _Atomic uint64_t next;       /* the number that the next one must at least have */
    _Atomic uint64_t skipped;    /* numbers that did not come */
    _Atomic uint64_t repeated;   /* those that came again after a reader was killed: not in `delivered` */
    _Atomic uint64_t disordered; /* messages that came twice without that, too late, or damaged */
    _Atomic uint64_t looks;
    _Atomic uint64_t reports;    /* calls of the error callback */
    _Atomic uint64_t backpressure;
    /* As last looked at. */
    _Atomic uint64_t sent, abandoned, depth, suspected_lost, connections, connect_failures;
    _Atomic bool closed;
    _Atomic int32_t stopped;     /* what udsipc_writer_stop said */
};

struct ledger {
    _Atomic bool writers_end;
    _Atomic bool readers_end;
    _Atomic bool site_ends[2];     /* as readers_end, for the readers of one site */
    _Atomic uint32_t frozen;       /* callbacks for writers below this number do not return */
    _Atomic uint32_t in_callback;  /* how many are held that way */
    _Atomic bool strangers;        /* messages that are no writer's are expected */
    _Atomic uint64_t foreign;
    _Atomic bool failing;          /* every third callback fails */
    _Atomic bool sated;            /* producers pause */
    _Atomic uint32_t order;        /* what a test tells its reader to do, and what that has done */
    _Atomic uint32_t done;
    /* The living reader's metrics, and the sums of the readers that ended in order. */
    _Atomic uint64_t generation, received, errors, connections, active, accept_errors, idle_closed, refused;
    _Atomic uint64_t readers, received_sum, errors_sum, failed_sum, delivered_sum;
    _Atomic uint64_t reader_reports;
    uint32_t writers;
    uint64_t kills;                /* of readers; see settle */
    bool unacknowledged;           /* the writers ask for no acknowledgement */
    uint32_t at_once;              /* how many messages one callback gets at most; 0: 1 */
    struct book books[MAX_WRITERS];
};

static struct ledger *ledger;

static inline void open_ledger(uint32_t writers)
{
    CHECK(writers <= MAX_WRITERS);
    ledger = (struct ledger *)mmap(NULL, sizeof *ledger, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(ledger != MAP_FAILED);
    ledger->writers = writers;
}

static inline uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static inline void pause_ms(long milliseconds)
{
    struct timespec pause = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

/* ---- the reader's side ---- */

/* Of this process, to compare with its metrics. */
static _Atomic uint64_t delivered_here, failed_here;
static uint32_t work_us;

static inline bool is_whole(const struct header *header, const uint8_t *data, size_t len)
{
    const uint8_t *filler = data + sizeof *header;
    size_t rest = len - sizeof *header;
    if (header->len != len || header->writer >= ledger->writers) return false;
    return rest == 0 || (filler[0] == (uint8_t)header->number && memcmp(filler, filler + 1, rest - 1) == 0);
}

/* A message that a writer sends again is the last one, or of the last ones, that came. `delivered` follows from the numbers, so
   that a process which is killed between two stores leaves nothing uncounted. */
static inline void note_number(struct book *book, uint64_t number)
{
    uint64_t next = atomic_load(&book->next), at_once = ledger->at_once > 0 ? ledger->at_once : 1;
    if (number >= next) {
        if (number > next) atomic_fetch_add(&book->skipped, number - next);
        next = number + 1;
        atomic_store(&book->next, next);
    } else {
        atomic_fetch_add(next - number <= at_once ? &book->repeated : &book->disordered, 1);
    }
    atomic_store(&book->delivered, next - atomic_load(&book->skipped));
}

static inline int32_t deliver(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    (void)connection, (void)userdata;
    struct header header;
    uint64_t count = atomic_fetch_add(&delivered_here, 1);
    if (len >= sizeof header) memcpy(&header, data, sizeof header);
    if (len < sizeof header || !is_whole(&header, data, len)) {
        atomic_fetch_add(ledger->strangers ? &ledger->foreign : &ledger->books[0].disordered, 1);
        return 0;
    }
    struct book *book = &ledger->books[header.writer];
    note_number(book, header.number);
    for (uint64_t end = work_us > 0 ? now_ns() + 1000 * (uint64_t)work_us : 0; end > 0 && now_ns() < end;)
        ;
    if (header.writer < atomic_load(&ledger->frozen)) {
        atomic_fetch_add(&ledger->in_callback, 1);
        WAIT_UNTIL(header.writer >= atomic_load(&ledger->frozen));
        atomic_fetch_sub(&ledger->in_callback, 1);
    }
    if (atomic_load(&ledger->failing) && count % 3 == 0) {
        atomic_fetch_add(&failed_here, 1);
        return 1;
    }
    return 0;
}

static inline size_t deliver_many(const udsipc_buffer *messages, size_t count, const udsipc_connection *connection,
                                  void *userdata)
{
    for (size_t i = 0; i < count; i++)
        if (deliver(messages[i].data, messages[i].len, connection, userdata) != 0) return i;
    return count;
}

static inline void count_reader_report(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)status, (void)os_errno, (void)context, (void)userdata;
    atomic_fetch_add(&ledger->reader_reports, 1);
}

static inline void publish_reader(const udsipc_reader *reader)
{
    /* Callbacks that run meanwhile are in one number and not yet, or no longer, in the other. */
    udsipc_reader_metrics metrics = reader_metrics(reader);
    uint64_t delivered = atomic_load(&delivered_here);
    CHECK(metrics.received <= delivered);
    atomic_store(&ledger->received, metrics.received);
    atomic_store(&ledger->errors, metrics.errors);
    atomic_store(&ledger->connections, metrics.connections);
    atomic_store(&ledger->active, metrics.active_connections);
    atomic_store(&ledger->accept_errors, metrics.accept_errors);
    atomic_store(&ledger->idle_closed, metrics.idle_closed);
    atomic_store(&ledger->refused, metrics.refused);
}

/* The reader has stopped: what it says must be what its callbacks have seen. */
static inline void close_reader_page(const udsipc_reader *reader)
{
    publish_reader(reader);
    udsipc_reader_metrics metrics = reader_metrics(reader);
    uint64_t delivered = atomic_exchange(&delivered_here, 0), failed = atomic_exchange(&failed_here, 0);
    CHECK_INT(metrics.received + failed, delivered);
    CHECK(metrics.errors >= failed);
    CHECK_INT(metrics.active_connections, 0);
    atomic_fetch_add(&ledger->readers, 1);
    atomic_fetch_add(&ledger->received_sum, metrics.received);
    atomic_fetch_add(&ledger->errors_sum, metrics.errors);
    atomic_fetch_add(&ledger->failed_sum, failed);
    atomic_fetch_add(&ledger->delivered_sum, delivered);
}

struct reader_job {
    const char *path;
    unsigned site;
    void (*configure)(udsipc_reader_options *options);
    void (*before)(void);                  /* in the child, before the reader is made */
    void (*meanwhile)(udsipc_reader *reader); /* again and again while it runs */
    bool may_time_out;                     /* the stop may be cut short */
    bool batched;                          /* a batch callback */
    bool dispatched;                       /* without threads: the process calls dispatch */
    uint32_t work_us;                      /* how long the callback works on a message */
};

static inline udsipc_reader *make_reader(const struct reader_job *job)
{
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_error_callback(options, count_reader_report, NULL));
    if (job->configure != NULL) job->configure(options);
    udsipc_reader *reader = NULL;
    work_us = job->work_us;
    CHECK_OK(job->batched ? udsipc_reader_new_batched(job->path, deliver_many, NULL, options, &reader)
                          : udsipc_reader_new(job->path, deliver, NULL, options, &reader));
    udsipc_reader_options_free(options);
    return reader;
}

static inline void end_reader(udsipc_reader *reader, bool may_time_out)
{
    udsipc_status stopped = udsipc_reader_stop(reader, PATIENCE_MS);
    if (!may_time_out) CHECK_OK(stopped);
    close_reader_page(reader);
    udsipc_reader_free(reader);
}

static inline void reader_process(void *argument)
{
    const struct reader_job *job = (const struct reader_job *)argument;
    if (job->before != NULL) job->before();
    udsipc_reader *reader = make_reader(job);
    CHECK_OK(job->dispatched ? udsipc_reader_dispatch(reader, 0) : udsipc_reader_start(reader));
    publish_reader(reader);
    atomic_fetch_add(&ledger->generation, 1);
    while (!atomic_load(&ledger->readers_end) && !atomic_load(&ledger->site_ends[job->site])) {
        publish_reader(reader);
        if (job->meanwhile != NULL) job->meanwhile(reader);
        if (job->dispatched) CHECK_OK(udsipc_reader_dispatch(reader, 2));
        else pause_ms(2);
    }
    end_reader(reader, job->may_time_out);
}

/* Starts one and waits until it serves. */
static inline pid_t start_reader(struct reader_job *job)
{
    uint64_t generation = atomic_load(&ledger->generation);
    pid_t reader = start_child(reader_process, job);
    WAIT_UNTIL(atomic_load(&ledger->generation) > generation);
    return reader;
}

/* ---- the writer's side ---- */

struct writer_job {
    const char *path;
    uint32_t first, count;   /* which books */
    uint32_t burst;          /* messages of each writer between two pauses of a millisecond */
    uint32_t longest;        /* the length of the longest message */
    uint64_t limit;          /* messages of each writer; 0: until told to end */
    void (*configure)(udsipc_writer_options *options);
    void (*before)(void);
    uint64_t stop_ms;        /* 0: PATIENCE_MS */
};

struct writer_page {
    udsipc_writer *writer;
    struct book *book;
    udsipc_writer_metrics last;
};

static inline void count_writer_report(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)os_errno, (void)context;
    struct book *book = (struct book *)userdata;
    atomic_fetch_add(&book->reports, 1);
    if (status == UDSIPC_ERR_BACKPRESSURE) atomic_fetch_add(&book->backpressure, 1);
}

/* One look: the sum must lie between what was surely accepted before it and what may have been after it. */
static inline void audit(struct writer_page *page)
{
    struct book *book = page->book;
    uint64_t surely = atomic_load(&book->accepted);
    udsipc_writer_metrics now = writer_metrics(page->writer);
    uint64_t at_most = atomic_load(&book->begun), sum = now.sent + now.abandoned + now.queue_depth;
    CHECK(surely <= sum);
    CHECK(sum <= at_most);
    CHECK(page->last.suspected_lost <= now.sent);
    CHECK(now.sent >= page->last.sent && now.abandoned >= page->last.abandoned);
    CHECK(now.suspected_lost >= page->last.suspected_lost && now.sent_bytes >= page->last.sent_bytes);
    CHECK(atomic_load(&book->delivered) <= atomic_load(&book->begun));
    page->last = now;
    atomic_store(&book->sent, now.sent);
    atomic_store(&book->abandoned, now.abandoned);
    atomic_store(&book->depth, now.queue_depth);
    atomic_store(&book->suspected_lost, now.suspected_lost);
    atomic_store(&book->connections, now.connections);
    atomic_store(&book->connect_failures, now.connect_failures);
    atomic_fetch_add(&book->looks, 1);
}

struct auditor {
    struct writer_page *pages;
    uint32_t count;
    atomic_bool over;
};

static inline void *keep_auditing(void *argument)
{
    struct auditor *auditor = (struct auditor *)argument;
    while (!atomic_load(&auditor->over)) {
        for (uint32_t i = 0; i < auditor->count; i++)
            audit(&auditor->pages[i]);
        pause_ms(1 + auditor->count / 10);
    }
    return NULL;
}

/* A message of a random length; 16 bytes at least. */
static inline size_t compose(uint8_t *buffer, uint32_t writer, uint64_t number, uint32_t longest, uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    size_t len = sizeof(struct header);
    if (longest > len) len += (*seed >> 8) % (longest - (uint32_t)len + 1);
    struct header header = {writer, (uint32_t)len, number};
    memcpy(buffer, &header, sizeof header);
    memset(buffer + sizeof header, (uint8_t)number, len - sizeof header);
    return len;
}

static inline void write_one(struct writer_page *page, uint32_t index, uint8_t *buffer, uint32_t longest,
                             uint32_t *seed)
{
    struct book *book = page->book;
    size_t len = compose(buffer, index, atomic_load(&book->accepted), longest, seed);
    atomic_fetch_add(&book->begun, 1);
    udsipc_status status = udsipc_write_message(page->writer, buffer, len);
    if (status == UDSIPC_OK) {
        atomic_fetch_add(&book->accepted, 1);
        return;
    }
    atomic_fetch_sub(&book->begun, 1);
    atomic_fetch_add(&book->refused, 1);
    CHECK_STATUS(status, UDSIPC_ERR_BUFFER_FULL);
}

static inline void produce(const struct writer_job *job, struct writer_page *pages)
{
    uint8_t *buffer = (uint8_t *)malloc(LARGEST_MESSAGE);
    CHECK(buffer != NULL && job->longest <= LARGEST_MESSAGE);
    uint32_t seed = job->first + 1;
    while (!atomic_load(&ledger->writers_end)) {
        for (uint32_t i = 0; i < job->count && !atomic_load(&ledger->sated); i++) {
            for (uint32_t n = 0; n < job->burst; n++) {
                if (job->limit > 0 && atomic_load(&pages[i].book->accepted) == job->limit) break;
                write_one(&pages[i], job->first + i, buffer, job->longest, &seed);
            }
        }
        pause_ms(1);
    }
    free(buffer);
}

static inline void writer_process(void *argument)
{
    const struct writer_job *job = (const struct writer_job *)argument;
    if (job->before != NULL) job->before();
    struct writer_page *pages = (struct writer_page *)calloc(job->count, sizeof *pages);
    CHECK(pages != NULL);
    for (uint32_t i = 0; i < job->count; i++) {
        pages[i].book = &ledger->books[job->first + i];
        udsipc_writer_options *options = udsipc_writer_options_new();
        CHECK_OK(udsipc_writer_options_set_error_callback(options, count_writer_report, pages[i].book));
        CHECK_OK(udsipc_writer_options_set_max_backoff_ms(options, 10));
        if (job->configure != NULL) job->configure(options);
        CHECK_OK(udsipc_writer_new(job->path, options, &pages[i].writer));
        udsipc_writer_options_free(options);
        CHECK_OK(udsipc_writer_start(pages[i].writer));
    }
    struct auditor auditor = {.pages = pages, .count = job->count};
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, keep_auditing, &auditor) == 0);
    produce(job, pages);
    uint64_t stop_ms = job->stop_ms > 0 ? job->stop_ms : PATIENCE_MS;
    for (uint32_t i = 0; i < job->count; i++)
        atomic_store(&pages[i].book->stopped, (int32_t)udsipc_writer_stop(pages[i].writer, stop_ms));
    atomic_store(&auditor.over, true);
    pthread_join(thread, NULL);
    for (uint32_t i = 0; i < job->count; i++) {
        audit(&pages[i]);
        atomic_store(&pages[i].book->closed, true);
        udsipc_writer_free(pages[i].writer);
    }
    free(pages);
}

static inline pid_t start_writers(struct writer_job *job)
{
    return start_child(writer_process, job);
}

/* ---- the end ---- */

static inline void end_writers(const pid_t *writers, size_t count)
{
    atomic_store(&ledger->writers_end, true);
    for (size_t i = 0; i < count; i++)
        join_child(writers[i]);
}

static inline void end_readers(pid_t reader)
{
    atomic_store(&ledger->readers_end, true);
    join_child(reader);
}

struct sums {
    uint64_t accepted, refused, sent, abandoned, depth, delivered, repeated, missing, suspected_lost, connections, looks;
};

static inline void add_page(struct sums *sums, const struct book *book)
{
    sums->accepted += book->accepted;
    sums->refused += book->refused;
    sums->sent += book->sent;
    sums->abandoned += book->abandoned;
    sums->depth += book->depth;
    sums->delivered += book->delivered;
    sums->repeated += book->repeated;
    sums->missing += book->sent - book->delivered;
    sums->suspected_lost += book->suspected_lost;
    sums->connections += book->connections;
    sums->looks += book->looks;
}

static inline void print_sums(const char *who, const struct sums *sums)
{
    printf("%s: accepted %" PRIu64 " = sent %" PRIu64 " + abandoned %" PRIu64 " + queued %" PRIu64
           "; sent = delivered %" PRIu64 " + missing %" PRIu64 ", repeated %" PRIu64 ", suspected_lost %" PRIu64 "; refused %" PRIu64
           ", connections %" PRIu64 ", looks %" PRIu64 "\n",
           who, sums->accepted, sums->sent, sums->abandoned, sums->depth, sums->delivered, sums->missing,
           sums->repeated, sums->suspected_lost, sums->refused, sums->connections, sums->looks);
}

/* Prints the whole account. */
static inline struct sums print_account(void)
{
    struct sums all = {0};
    for (uint32_t i = 0; i < ledger->writers; i++) {
        struct sums one = {0};
        char name[32];
        snprintf(name, sizeof name, "account of writer %" PRIu32, i);
        add_page(&one, &ledger->books[i]);
        add_page(&all, &ledger->books[i]);
        if (ledger->writers <= 4) print_sums(name, &one);
    }
    print_sums("account of all writers", &all);
    printf("account of %" PRIu64 " readers that ended in order: delivered %" PRIu64 " = received %" PRIu64
           " + failed callbacks %" PRIu64 "; errors %" PRIu64 ", refused %" PRIu64 "\n",
           ledger->readers, ledger->delivered_sum, ledger->received_sum, ledger->failed_sum, ledger->errors_sum,
           ledger->refused);
    fflush(stdout);
    return all;
}

/* kill -9. */
static inline void kill_reader(pid_t reader)
{
    ledger->kills++;
    kill_child(reader);
}

/* Prints the account of a run whose writers have ended, and checks it. Returns its sums.
 *
 * Without acknowledgement the kernel knows what the reader's process has read, not what that was about to do with it: of each
 * connection, one message that had left the kernel when the process was killed, and had not reached the callback, is beyond
 * its account. With it nothing is: what was in the callback comes again.
 */
static inline struct sums settle(void)
{
    struct sums all = print_account();
    for (uint32_t i = 0; i < ledger->writers; i++) {
        const struct book *book = &ledger->books[i];
        CHECK(book->closed);
        CHECK_INT(book->begun, book->accepted);
        CHECK_INT(book->sent + book->abandoned + book->depth, book->accepted);
        CHECK_INT(book->depth, 0);
        CHECK_INT(book->disordered, 0);
        CHECK(book->delivered <= book->sent);
        uint64_t unknown = ledger->unacknowledged ? ledger->kills : 0, callbacks = ledger->unacknowledged ? 0 : ledger->kills;
        CHECK(book->sent - book->delivered <= book->suspected_lost + unknown);
        CHECK(book->repeated <= callbacks * (ledger->at_once > 0 ? ledger->at_once : 1));
        CHECK(book->accepted > 0 && book->looks > 0);
    }
    return all;
}

/* As settle, where nothing may be missing or even suspected. */
static inline void settle_without_loss(void)
{
    struct sums all = settle();
    CHECK_INT(all.delivered, all.accepted);
    CHECK_INT(all.suspected_lost, 0);
    for (uint32_t i = 0; i < ledger->writers; i++)
        CHECK_STATUS(ledger->books[i].stopped, UDSIPC_OK);
}

/* How many messages all writers together have got through. */
static inline uint64_t delivered_by(uint32_t first, uint32_t end)
{
    uint64_t sum = 0;
    for (uint32_t i = first; i < end; i++)
        sum += atomic_load(&ledger->books[i].delivered);
    return sum;
}

#define WAIT_DELIVERED(more) \
    do { \
        uint64_t goal_ = delivered_by(0, ledger->writers) + (more); \
        WAIT_UNTIL(delivered_by(0, ledger->writers) >= goal_); \
    } while (0)

/* ---- other processes, seen from outside ---- */

static inline size_t fds_of(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    return entries_of(path);
}

/* Without what is open for a moment only, such as the file in which the C library counts the processors. */
static inline size_t steady_fds_of(pid_t pid)
{
    size_t least = SIZE_MAX;
    for (int look = 0; look < 10; look++) {
        size_t now = fds_of(pid);
        if (now < least) least = now;
        look_again_soon();
    }
    return least;
}

static inline size_t threads_of(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    return entries_of(path) - CHECKER_THREADS;
}

static inline size_t resident_kib_of(pid_t pid)
{
    char path[64];
    unsigned long size = 0, resident = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    FILE *statm = fopen(path, "r");
    CHECK(statm != NULL && fscanf(statm, "%lu %lu", &size, &resident) == 2);
    fclose(statm);
    return (size_t)resident * (size_t)sysconf(_SC_PAGESIZE) / 1024;
}

/* Processor time in milliseconds, user and system (proc_pid_stat(5)). */
static inline uint64_t cpu_ms_of(pid_t pid)
{
    char path[64], line[1024];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *stat = fopen(path, "r");
    CHECK(stat != NULL && fgets(line, sizeof line, stat) != NULL);
    fclose(stat);
    char *behind_name = strrchr(line, ')');
    CHECK(behind_name != NULL);
    CHECK(sscanf(behind_name + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) == 2);
    return (uint64_t)(user + system) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

/* SIGSTOP, and the wait until every thread stands: the signal alone leaves a thread the time to end its system call. */
static inline void stop_process(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    CHECK(kill(pid, SIGSTOP) == 0);
    DIR *tasks = opendir(path);
    CHECK(tasks != NULL);
    for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
        if (task->d_name[0] == '.') continue;
        char name[400], line[512], state = '?';
        snprintf(name, sizeof name, "%s/%s/stat", path, task->d_name);
        do {
            FILE *stat = fopen(name, "r");
            if (stat == NULL) break; /* it has ended meanwhile */
            if (fgets(line, sizeof line, stat) != NULL && strrchr(line, ')') != NULL) state = strrchr(line, ')')[2];
            fclose(stat);
        } while (state != 'T');
    }
    closedir(tasks);
}

/* For as long as a fault shall last. */
#define FOR_MS(milliseconds) for (uint64_t end_ = now_ms() + (milliseconds); now_ms() < end_;)

#endif
