/* Too little of everything: descriptors, memory, room on the file system, room in the backlog. Nothing is lost. */
#include "../support/account.h"

#include <malloc.h>
#include <sched.h>
#include <sys/mount.h>

static struct path path;
static struct reader_job reader_job;
static struct writer_job writer_job;

/* A light load: what the processor is busy with should be the fault. */
static pid_t start_writer(uint32_t longest)
{
    writer_job.path = reader_job.path;
    writer_job.count = ledger->writers;
    writer_job.burst = writer_job.burst > 0 ? writer_job.burst : 1;
    writer_job.longest = longest;
    return start_writers(&writer_job);
}

static void begin(uint32_t writers)
{
    path = in_scratch("s");
    reader_job.path = path.text;
    open_ledger(writers);
}

/* Tells the child what to do, and waits until it has. */
static void command(uint32_t order)
{
    atomic_store(&ledger->order, order);
    WAIT_UNTIL(atomic_load(&ledger->done) == order);
}

/* ---- descriptors ---- */

#define TABLE 64
static int held[TABLE];
static int held_count;
static bool keep_full;

static void fill_table(void)
{
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    limit.rlim_cur = TABLE;
    CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    for (int fd; held_count < TABLE && (fd = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0;)
        held[held_count++] = fd;
    CHECK(errno == EMFILE);
}

static void empty_table(void)
{
    while (held_count > 0)
        close(held[--held_count]);
}

enum { FILL = 1, EMPTY };

static void obey_descriptors(udsipc_reader *reader)
{
    (void)reader;
    uint32_t order = atomic_load(&ledger->order);
    if (keep_full) fill_table(); /* what was in use for a moment when it was filled */
    if (order == atomic_load(&ledger->done)) return;
    keep_full = order == FILL;
    if (keep_full)
        fill_table();
    else
        empty_table();
    atomic_store(&ledger->done, order);
}

/* Who is connected goes on, who comes waits in the backlog and is served afterwards, and nothing spins meanwhile. */
static void descriptor_table_full_for_five_seconds(void)
{
    begin(1);
    ledger->strangers = true;
    reader_job.meanwhile = obey_descriptors;
    pid_t reader = start_reader(&reader_job);
    pid_t writer = start_writer(16);
    WAIT_DELIVERED(10);
    uint64_t idle_cpu = cpu_ms_of(reader), begun = now_ms();
    WAIT_UNTIL(now_ms() - begun >= 1000);
    idle_cpu = cpu_ms_of(reader) - idle_cpu; /* what the light load costs in a second */

    command(FILL);
    int clients[20];
    for (uint32_t i = 0; i < 20; i++) {
        clients[i] = raw_connect(path.text);
        raw_send_frame(clients[i], "waits", 5);
    }
    WAIT_UNTIL(atomic_load(&ledger->accept_errors) > 0);
    uint64_t cpu = cpu_ms_of(reader), before = delivered_by(0, 1);
    begun = now_ms();
    WAIT_UNTIL(now_ms() - begun >= 5000);
    cpu = cpu_ms_of(reader) - cpu;
    printf("5 s with a full table: %" PRIu64 " ms of processor time, of which the load %" PRIu64 " ms\n", cpu,
           5 * idle_cpu);
    CHECK(cpu < 5 * idle_cpu + 250); /* 5 % of a core */
    CHECK(delivered_by(0, 1) > before + 100);
    CHECK_INT(atomic_load(&ledger->connections), 1);

    command(EMPTY);
    WAIT_UNTIL(atomic_load(&ledger->connections) == 21);
    for (uint32_t i = 0; i < 20; i++) {
        WAIT_UNTIL(raw_is_read(clients[i]));
        close(clients[i]);
    }
    end_writers(&writer, 1);
    end_readers(reader);
    settle_without_loss();
    CHECK_INT(ledger->books[0].connections, 1);
    CHECK_INT(ledger->delivered_sum, ledger->books[0].delivered + 20);
    CHECK_INT(ledger->reader_reports, 1);
}

/* The writer's own table: it cannot connect, says so, does not spin, and connects when there is room. */
static void *obey_in_background(void *argument)
{
    (void)argument;
    while (true) {
        obey_descriptors(NULL);
        pause_ms(2);
    }
    return NULL;
}

static void obey_from_a_thread(void)
{
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, obey_in_background, NULL) == 0);
    pthread_detach(thread);
}

static void descriptor_table_of_the_writer_full(void)
{
    begin(1);
    writer_job.before = obey_from_a_thread;
    pid_t reader = start_reader(&reader_job);
    pid_t writer = start_writer(16);
    WAIT_DELIVERED(10);
    atomic_store(&ledger->sated, true);
    WAIT_UNTIL(ledger->books[0].delivered == ledger->books[0].accepted);
    kill_reader(reader);
    WAIT_UNTIL(ledger->books[0].connect_failures > 0);
    command(FILL);
    uint64_t refused = ledger->books[0].connect_failures;
    WAIT_UNTIL(ledger->books[0].connect_failures > refused + 30); /* what a dial had open meanwhile is taken as well by then */
    reader = start_reader(&reader_job);
    uint64_t failures = ledger->books[0].connect_failures;
    atomic_store(&ledger->sated, false);
    uint64_t cpu = cpu_ms_of(writer), begun = now_ms();
    WAIT_UNTIL(now_ms() - begun >= 1000);
    printf("1 s without a descriptor: %" PRIu64 " ms of processor time\n", cpu_ms_of(writer) - cpu);
    CHECK(ledger->books[0].connect_failures > failures);
    CHECK_INT(atomic_load(&ledger->connections), 0);
    command(EMPTY);
    WAIT_DELIVERED(100);
    end_writers(&writer, 1);
    end_readers(reader);
    settle();
    CHECK_INT(ledger->books[0].suspected_lost, 0);
}

static void *empty_table_soon(void *unused)
{
    pause_ms(500);
    empty_table();
    return unused;
}

/* There is a reader: what hinders the writer is its own, and passes. */
static void writer_stopped_without_descriptors(void)
{
    path = in_scratch("s");
    int listener = raw_listen(path.text);
    udsipc_writer *writer = new_writer(path.text);
    CHECK(udsipc_writer_fd(writer) >= 0);
    fill_table();
    CHECK_OK(udsipc_write_message(writer, "patient", 7));
    CHECK_OK(udsipc_writer_dispatch(writer, 0));
    CHECK(writer_metrics(writer).connect_failures > 0);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, empty_table_soon, NULL) == 0);
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    pthread_join(thread, NULL);
    CHECK_INT(writer_metrics(writer).sent, 1);
    udsipc_writer_free(writer);
    char message[8];
    size_t len = 0;
    int accepted = raw_accept(listener);
    CHECK(raw_read_frame(accepted, message, sizeof message, &len) && len == 7);
    close(accepted);
    close(listener);
}

/* Wherever it is that it has one descriptor too few. */
static void reader_made_without_descriptors(void)
{
    path = in_scratch("s");
    udsipc_reader *reader = NULL;
    udsipc_status made;
    int refused = 0;
    fill_table();
    while ((made = udsipc_reader_new(path.text, deliver, NULL, NULL, &reader)) != UDSIPC_OK) {
        CHECK_STATUS(made, UDSIPC_ERR_NO_RESOURCES);
        CHECK(held_count > 0);
        close(held[--held_count]);
        int spare = open(".", O_RDONLY | O_CLOEXEC); /* a look at the folder takes one as well */
        CHECK(spare >= 0);
        close(spare);
        CHECK(!exists(path.text));
        refused++;
    }
    CHECK(refused > 2);
    CHECK(exists(path.text));
    udsipc_reader_free(reader);
    CHECK(!exists(path.text));
    empty_table();
}

/* ---- memory ---- */

static size_t address_space(void)
{
    unsigned long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    CHECK(statm != NULL && fscanf(statm, "%lu", &pages) == 1);
    fclose(statm);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void limit_memory(size_t more)
{
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
    limit.rlim_cur = more == SIZE_MAX ? limit.rlim_max : address_space() + more;
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

/* A thread's own arena reserves 64 MiB of addresses, in which memory is found although none may be added (mallopt(3)). */
static void one_arena(void)
{
    CHECK(mallopt(M_ARENA_MAX, 1) == 1);
}

/* Writes messages of a size until one is refused for want of memory, and says how many were taken. */
static uint64_t write_until_refused(udsipc_writer *writer, uint32_t *number, uint32_t len)
{
    static uint8_t buffer[100000];
    for (uint64_t taken = 0; taken < 1000000; taken++) {
        struct header header = {0, len, *number};
        memcpy(buffer, &header, sizeof header);
        memset(buffer + sizeof header, (uint8_t)*number, len - sizeof header);
        udsipc_status status = udsipc_write_message(writer, buffer, len);
        udsipc_writer_metrics metrics = writer_metrics(writer);
        if (status != UDSIPC_OK) {
            CHECK_STATUS(status, UDSIPC_ERR_NO_RESOURCES);
            CHECK_INT(metrics.sent + metrics.abandoned + metrics.queue_depth, *number);
            return taken;
        }
        ++*number;
        CHECK_INT(metrics.sent + metrics.abandoned + metrics.queue_depth, *number);
    }
    fail(__FILE__, __LINE__, "memory is never refused");
    return 0;
}

/* A queue that cannot grow refuses the message, keeps what it has, and goes on when there is memory again. */
static void enqueue_without_memory(void *argument)
{
    (void)argument;
    struct book *book = &ledger->books[0];
    udsipc_writer *writer = NULL;
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 1 << 20));
    CHECK_OK(udsipc_writer_new(path.text, options, &writer));
    udsipc_writer_options_free(options);
    CHECK_OK(udsipc_writer_start(writer));
    /* By now the thread has the arena that malloc gives each one: 64 MiB of addresses, and for a moment twice that. */
    WAIT_UNTIL(writer_metrics(writer).connect_failures >= 2);
    uint32_t number = 0;
    const uint32_t sizes[] = {16, 1000, 100000};
    for (size_t i = 0; i < 3; i++) {
        limit_memory(8 << 20);
        uint64_t taken = write_until_refused(writer, &number, sizes[i]);
        limit_memory(SIZE_MAX);
        printf("8 MiB took %" PRIu64 " messages of %" PRIu32 " bytes\n", taken, sizes[i]);
        CHECK(taken > 10);
    }
    atomic_store(&book->begun, number);
    atomic_store(&book->accepted, number);
    atomic_store(&ledger->done, 1);
    WAIT_UNTIL(atomic_load(&ledger->writers_end));
    CHECK_OK(udsipc_writer_stop(writer, PATIENCE_MS));
    struct writer_page page = {.writer = writer, .book = book};
    audit(&page);
    CHECK_INT(page.last.dropped, 0);
    atomic_store(&book->closed, true);
    udsipc_writer_free(writer);
}

static void memory_refused_at_enqueue(void)
{
    if (UNDER_CHECKER) return; /* its shadow takes terabytes of addresses */
    begin(1);
    pid_t writer = start_child(enqueue_without_memory, NULL);
    WAIT_UNTIL(atomic_load(&ledger->done) == 1);
    pid_t reader = start_reader(&reader_job);
    end_writers(&writer, 1);
    end_readers(reader);
    settle_without_loss();
}

/* The longest queue is made with little memory, because it takes memory as it fills. */
static void longest_queue_with_little_memory(void)
{
    if (UNDER_CHECKER) return;
    path = in_scratch("s");
    udsipc_writer *writer = NULL;
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 1 << 20));
    CHECK_OK(udsipc_writer_options_set_max_buffered_bytes(options, 0));
    limit_memory(1 << 20);
    CHECK_OK(udsipc_writer_new(path.text, options, &writer));
    uint32_t number = 0;
    uint64_t small = write_until_refused(writer, &number, 100), large = write_until_refused(writer, &number, 40000);
    limit_memory(SIZE_MAX);
    printf("1 MiB took %" PRIu64 " messages of 100 and %" PRIu64 " of 40000 bytes\n", small, large);
    CHECK(small > 1000);
    static uint8_t buffer[40000];
    udsipc_buffer many[] = {{buffer, 100}, {buffer, sizeof buffer}, {buffer, 100}};
    size_t accepted = 0;
    CHECK_OK(udsipc_write_messages(writer, many, 3, &accepted));
    CHECK_INT(writer_metrics(writer).queue_depth, number + 3);
    udsipc_writer_free(writer);
    udsipc_writer_options_free(options);
}

/* With next to nothing left a writer is refused, and is made when there is memory again. */
static void writer_made_without_memory(void)
{
    if (UNDER_CHECKER) return;
    path = in_scratch("s");
    one_arena();
    udsipc_writer_options *options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_buffered_writes(options, 1 << 20));
    limit_memory(1 << 20);
    struct block {
        struct block *before;
        uint8_t rest[4000];
    } *newest = NULL;
    uint32_t blocks = 0, refused = 0;
    for (struct block *block; (block = malloc(sizeof *block)) != NULL; blocks++) {
        block->before = newest;
        newest = block;
    }
    CHECK(blocks > 20);
    udsipc_writer *writer = NULL;
    udsipc_status made;
    while ((made = udsipc_writer_new(path.text, options, &writer)) != UDSIPC_OK) {
        CHECK_STATUS(made, UDSIPC_ERR_NO_RESOURCES);
        CHECK(newest != NULL);
        struct block *before = newest->before;
        free(newest);
        newest = before;
        refused++;
    }
    CHECK(refused >= 2 && refused < blocks / 2);
    limit_memory(SIZE_MAX);
    CHECK_OK(udsipc_write_message(writer, "there is room again", 20));
    udsipc_writer_free(writer);
    udsipc_writer_options_free(options);
    for (struct block *before; newest != NULL; newest = before) {
        before = newest->before;
        free(newest);
    }
}

/* A program may have thousands of writers of which few are busy. */
static void a_default_writer_costs_some_kib(void)
{
    if (UNDER_CHECKER) return;
    enum { WRITERS = 100 };
    path = in_scratch("s");
    static udsipc_writer *writers[WRITERS + 1];
    CHECK_OK(udsipc_writer_new(path.text, NULL, &writers[WRITERS])); /* what the process needs once */
    size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
    for (int i = 0; i < WRITERS; i++)
        CHECK_OK(udsipc_writer_new(path.text, NULL, &writers[i]));
    size_t each = (mallinfo2().uordblks + mallinfo2().hblkhd - before) / WRITERS;
    printf("a default writer: %zu bytes\n", each);
    CHECK(each > 100 && each < 8 << 10);
    for (int i = 0; i <= WRITERS; i++)
        udsipc_writer_free(writers[i]);
}

enum { LIMIT = 1, LIFT };

static void obey_memory(udsipc_reader *reader)
{
    (void)reader;
    uint32_t order = atomic_load(&ledger->order);
    if (order == atomic_load(&ledger->done)) return;
    limit_memory(order == LIMIT ? 4 << 20 : SIZE_MAX);
    atomic_store(&ledger->done, order);
}

/* Whether a frame of so many bytes could be handed over before the reader closed the connection. */
static bool send_large_frame(size_t len)
{
    static uint8_t zeros[1 << 20];
    uint8_t prefix[10];
    int client = raw_connect(path.text);
    raw_send(client, prefix, put_varint(prefix, len));
    bool sent = true;
    for (size_t done = 0; done < len && sent;) {
        ssize_t now = send(client, zeros, len - done < sizeof zeros ? len - done : sizeof zeros, MSG_NOSIGNAL);
        CHECK(now > 0 || errno == EPIPE || errno == ECONNRESET);
        sent = now > 0;
        if (sent) done += (size_t)now;
    }
    if (sent) WAIT_UNTIL(raw_is_read(client));
    close(client);
    return sent;
}

/* A frame for which there is no memory costs its own connection only; the next one finds memory again. */
static void memory_refused_at_read(void)
{
    if (UNDER_CHECKER) return;
    begin(1);
    ledger->strangers = true;
    reader_job.before = one_arena;
    reader_job.meanwhile = obey_memory;
    pid_t reader = start_reader(&reader_job);
    pid_t writer = start_writer(2000);
    WAIT_DELIVERED(100);
    command(LIMIT);
    uint64_t errors = atomic_load(&ledger->errors);
    for (int i = 0; i < 10; i++)
        CHECK(!send_large_frame(9 << 20));
    WAIT_UNTIL(atomic_load(&ledger->errors) == errors + 10);
    WAIT_DELIVERED(100);
    command(LIFT);
    CHECK(send_large_frame(9 << 20));
    end_writers(&writer, 1);
    end_readers(reader);
    settle_without_loss();
    CHECK_INT(ledger->errors_sum, 10);
    CHECK_INT(ledger->reader_reports, 10);
    CHECK_INT(ledger->delivered_sum, ledger->books[0].delivered + 1);
    CHECK_INT(ledger->books[0].connections, 1);
}

/* ---- the file system ---- */

static void begin_below(const char *directory, uint32_t writers)
{
    begin(writers);
    CHECK(mkdir(directory, 0755) == 0);
    char name[64];
    snprintf(name, sizeof name, "%s/s", directory);
    path = in_scratch(name);
}

/* A writer that comes after the fault, with books of its own. */
static pid_t start_late_writer(struct writer_job *late, uint32_t first)
{
    *late = (struct writer_job){.path = path.text, .first = first, .count = 1, .burst = 1, .longest = 500};
    return start_writers(late);
}

/* Without its file a socket cannot be found, but those who are connected do not need it. */
static void directory_removed_while_running(void)
{
    begin_below("d", 2);
    pid_t reader = start_reader(&reader_job);
    writer_job = (struct writer_job){.path = path.text, .count = 1, .burst = 1, .longest = 500};
    pid_t writers[2] = {start_writers(&writer_job)};
    WAIT_DELIVERED(100);
    CHECK(unlink(path.text) == 0);
    CHECK(rmdir(in_scratch("d").text) == 0);
    struct writer_job late;
    writers[1] = start_late_writer(&late, 1);
    WAIT_UNTIL(ledger->books[1].connect_failures > 3);
    WAIT_DELIVERED(100);
    CHECK_INT(atomic_load(&ledger->books[1].delivered), 0);

    end_readers(reader); /* its stop finds nothing to remove, and that is no failure */
    atomic_store(&ledger->readers_end, false);
    reader = start_reader(&reader_job); /* makes the directory again */
    WAIT_UNTIL(atomic_load(&ledger->books[1].delivered) > 100);
    WAIT_DELIVERED(100);
    end_writers(writers, 2);
    end_readers(reader);
    settle_without_loss();
}

/* The socket file is deleted, and another reader takes the path, while the first one still serves. */
static void socket_file_deleted_and_replaced(void)
{
    begin(2);
    pid_t first = start_reader(&reader_job);
    writer_job = (struct writer_job){.path = path.text, .count = 1, .burst = 1, .longest = 500};
    pid_t writers[2] = {start_writers(&writer_job)};
    WAIT_DELIVERED(100);
    CHECK(unlink(path.text) == 0);
    pid_t second = start_reader(&reader_job);
    struct writer_job late;
    writers[1] = start_late_writer(&late, 1);
    WAIT_UNTIL(atomic_load(&ledger->books[1].delivered) > 100);
    uint64_t old = atomic_load(&ledger->books[0].delivered);
    WAIT_UNTIL(atomic_load(&ledger->books[0].delivered) > old + 100);
    CHECK_INT(ledger->books[0].connections, 1);

    /* The first goes: what it had is drained, its writer finds the second, whose file it has left alone. */
    kill_reader(first);
    CHECK(exists(path.text));
    old = atomic_load(&ledger->books[0].delivered);
    WAIT_UNTIL(atomic_load(&ledger->books[0].delivered) > old + 100);
    CHECK_INT(ledger->books[0].connections, 2);

    /* Something else at the path: nobody new comes in, and the reader's stop leaves it alone. */
    CHECK(unlink(path.text) == 0);
    int other = open(path.text, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(other >= 0);
    close(other);
    end_writers(writers, 2);
    end_readers(second);
    settle();
    CHECK_INT(ledger->books[1].suspected_lost, 0);
    struct stat status;
    CHECK(lstat(path.text, &status) == 0 && S_ISREG(status.st_mode));
}

static void become_nobody(void)
{
    if (geteuid() == 0) CHECK(setgid(65534) == 0 && setuid(65534) == 0);
}

/* With one thread, which a frozen callback holds, new connections stay in the backlog. */
static void one_thread(udsipc_reader_options *options)
{
    CHECK_OK(udsipc_reader_options_set_max_handler_threads(options, 1));
}

/* Freezes the reader with one client in the callback and `count` more, with a message each, in the backlog. */
static void fill_backlog(int *clients, int count)
{
    struct header header = {0, sizeof header, 0};
    atomic_store(&ledger->frozen, 1);
    for (int i = 0; i <= count; i++) {
        clients[i] = raw_connect(path.text);
        header.number = (uint64_t)i;
        raw_send_frame(clients[i], &header, sizeof header);
        if (i == 0) WAIT_UNTIL(atomic_load(&ledger->in_callback) == 1);
    }
    WAIT_UNTIL(atomic_load(&ledger->connections) == 1);
}

static void thaw_and_end(pid_t reader, int *clients, int count)
{
    atomic_store(&ledger->readers_end, true);
    /* The stop has begun when the listener refuses. */
    int probe;
    WAIT_UNTIL((probe = raw_try_connect(path.text)) < 0 || close(probe) != 0);
    atomic_store(&ledger->frozen, 0);
    join_child(reader);
    CHECK(ledger->delivered_sum >= (uint64_t)count + 1);
    for (int i = 0; i <= count; i++)
        close(clients[i]);
}

/* The folder that the harness made is its owner's: opened for a child that gives its rights up. */
static void let_nobody_in(void)
{
    CHECK(chmod(".", 0755) == 0);
}

/* The directory cannot be entered any more: nobody finds the reader, and its stop serves what waits all the same. */
static void directory_made_unreadable(void)
{
    let_nobody_in();
    begin_below("d", 1);
    struct path d = in_scratch("d");
    const char *directory = d.text;
    CHECK(chmod(directory, 0777) == 0);
    reader_job.before = become_nobody;
    reader_job.configure = one_thread;
    pid_t reader = start_reader(&reader_job);
    int clients[6];
    fill_backlog(clients, 5);
    CHECK(chmod(directory, 0) == 0);
    atomic_store(&ledger->readers_end, true);
    uint64_t begun = now_ms();
    WAIT_UNTIL(now_ms() - begun > 300); /* the stop has begun, and nothing can be seen of it from here */
    atomic_store(&ledger->frozen, 0);
    join_child(reader);
    for (int i = 0; i < 6; i++)
        close(clients[i]);
    CHECK(chmod(directory, 0755) == 0);
    printf("delivered %" PRIu64 " of 6\n", ledger->delivered_sum);
    CHECK_INT(ledger->delivered_sum, 6);
}

/* A writer that may not enter says so, and goes on as soon as it may. */
static void directory_unreadable_for_the_writer(void)
{
    let_nobody_in();
    begin_below("d", 1);
    const char *directory = "d";
    pid_t reader = start_reader(&reader_job);
    CHECK(chmod(path.text, 0777) == 0);
    CHECK(chmod(directory, 0700) == 0);
    if (geteuid() != 0) CHECK(chmod(directory, 0) == 0);
    writer_job.before = become_nobody;
    pid_t writer = start_writer(500);
    WAIT_UNTIL(ledger->books[0].connect_failures > 2);
    CHECK(ledger->books[0].reports > 0);
    CHECK_INT(ledger->books[0].connections, 0);
    CHECK(chmod(directory, 0755) == 0);
    WAIT_DELIVERED(100);
    end_writers(&writer, 1);
    end_readers(reader);
    settle_without_loss();
}

/* A small file system that only this process and its children see, so that it ends with them; false, with a word about
 * it, where that may not be. */
static bool mount_small(const char *directory, const char *options)
{
    CHECK(mkdir(directory, 0755) == 0);
    if (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
        mount("udsipc-test", directory, "tmpfs", 0, options) == 0) return true;
    printf("skipped: no tmpfs can be mounted here: %s\n", strerror(errno));
    return false;
}

static int fill_inodes(const char *directory)
{
    char name[160];
    for (int i = 0;; i++) {
        snprintf(name, sizeof name, "%s/filler%d", directory, i);
        int file = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        if (file < 0) {
            CHECK(errno == ENOSPC);
            return i;
        }
        close(file);
    }
}

static void remove_filler(const char *directory, int count)
{
    char name[160];
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s/filler%d", directory, i);
        CHECK(unlink(name) == 0);
    }
}

/* A full file system: a reader cannot be made and says why; one that runs goes on and stops without losing its backlog. */
static void file_system_full(void)
{
    if (!mount_small("small", "size=64k,nr_inodes=12")) return;
    struct path small = in_scratch("small");
    const char *directory = small.text;
    begin(1);
    path = in_scratch("small/s");

    int fillers = fill_inodes(directory);
    struct inbox inbox = INBOX;
    udsipc_reader *refused = NULL;
    udsipc_status status = udsipc_reader_new(path.text, receive, &inbox, NULL, &refused);
    char text[512];
    udsipc_last_error_message(text, sizeof text);
    printf("on a full file system: %d, %s\n", (int)status, text);
    CHECK(status == UDSIPC_ERR_IO || status == UDSIPC_ERR_NO_RESOURCES);
    CHECK(strstr(text, path.text) != NULL);
    CHECK(refused == NULL && entries_of(directory) == (size_t)fillers);
    remove_filler(directory, fillers);

    reader_job.configure = one_thread;
    pid_t reader = start_reader(&reader_job);
    int clients[6];
    fill_backlog(clients, 5);
    fillers = fill_inodes(directory);
    thaw_and_end(reader, clients, 5);
    remove_filler(directory, fillers);
    bool left_behind = exists(path.text);
    CHECK_OK(udsipc_reader_new(path.text, receive, &inbox, NULL, &refused));
    udsipc_reader_free(refused);
    printf("delivered %" PRIu64 " of 6, the socket file %s\n", ledger->delivered_sum,
           left_behind ? "was left behind" : "is gone");
}

/* ---- the backlog ---- */

static int small_listener = -1;

/* As systemd passes it (sd_listen_fds(3)): the library's own backlog is as long as the system allows. */
static void adopt_small_listener(void)
{
    char pid[16];
    CHECK(dup2(small_listener, 3) == 3);
    snprintf(pid, sizeof pid, "%d", (int)getpid());
    CHECK(setenv("LISTEN_PID", pid, 1) == 0 && setenv("LISTEN_FDS", "1", 1) == 0);
}

static void quick_to_dial(udsipc_writer_options *options)
{
    CHECK_OK(udsipc_writer_options_set_dial_timeout_ms(options, 50));
}

static uint64_t connections_of(uint32_t writers)
{
    uint64_t connections = 0;
    for (uint32_t i = 0; i < writers; i++)
        connections += ledger->books[i].connections;
    return connections;
}

/* Two hundred writers before a backlog of four: all come in, and each message once. */
static void backlog_full_with_200_writers(void)
{
    begin(200);
    small_listener = raw_listen(path.text);
    CHECK(listen(small_listener, 4) == 0);
    writer_job = (struct writer_job){.limit = 50, .configure = quick_to_dial};
    pid_t writer = start_writer(500);
    WAIT_UNTIL(ledger->books[199].accepted == 50);
    uint64_t failures = 0, connected = 0;
    WAIT_UNTIL((failures = ledger->books[0].connect_failures + ledger->books[100].connect_failures +
                           ledger->books[199].connect_failures) > 2);
    WAIT_UNTIL((connected = connections_of(200)) >= 5);
    uint64_t cpu = cpu_ms_of(writer), begun = now_ms();
    WAIT_UNTIL(now_ms() - begun >= 1000);
    cpu = cpu_ms_of(writer) - cpu;
    connected = connections_of(200);
    CHECK_INT(connected, 5); /* a backlog of n holds n + 1 (unix_stream_connect) */
    printf("195 writers before a full backlog: %" PRIu64 " ms of processor time in a second\n", cpu);

    reader_job.before = adopt_small_listener;
    pid_t reader = start_reader(&reader_job);
    WAIT_UNTIL(delivered_by(0, 200) == 200 * 50);
    end_writers(&writer, 1);
    end_readers(reader);
    settle_without_loss();
    CHECK_INT(ledger->errors_sum, 0);
}

static const struct scenario scenarios[] = {
    SCENARIO(descriptor_table_full_for_five_seconds),
    SCENARIO(descriptor_table_of_the_writer_full),
    SCENARIO(writer_stopped_without_descriptors),
    SCENARIO(reader_made_without_descriptors),
    SCENARIO(memory_refused_at_enqueue),
    SCENARIO(longest_queue_with_little_memory),
    SCENARIO(writer_made_without_memory),
    SCENARIO(a_default_writer_costs_some_kib),
    SCENARIO(memory_refused_at_read),
    SCENARIO(directory_removed_while_running),
    SCENARIO(socket_file_deleted_and_replaced),
    SCENARIO(directory_made_unreadable),
    SCENARIO(directory_unreadable_for_the_writer),
    SCENARIO(file_system_full),
    SCENARIO(backlog_full_with_200_writers),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
