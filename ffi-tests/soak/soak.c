/* Endurance: random load and random faults for as many minutes as one likes, with the account checked all the while.
 *
 *     soak MINUTES [SEED]
 *
 * Two readers. The first is killed, stopped, frozen, restarted and robbed of its socket file, at random. The second lives
 * from the beginning to the end, is attacked by strangers, and must need no more at the end than after the warm-up. Each
 * has writers that never end; they audit themselves in every millisecond, and at the end the whole account must close.
 */
#include "../support/account.h"

#define SITES 2
#define WRITERS_PER_SITE 4
#define PROCESSES 2 /* per site */

enum fault { KILL, STOP, FREEZE, RESTART, DELETE, NOISE, CROWD, VICTIM, FAULTS };
static const char *const fault_names[FAULTS] = {
    "reader killed", "reader stopped", "callback frozen", "reader restarted", "socket file deleted",
    "strangers' noise", "crowds of strangers", "writers killed",
};

struct footprint {
    size_t resident_kib, fds, threads;
};

static struct path paths[SITES];
static struct reader_job reader_jobs[SITES];
static struct writer_job writer_jobs[SITES * PROCESSES];
static pid_t readers[SITES], writers[SITES * PROCESSES];
static uint64_t counts[FAULTS];
static uint32_t random_state;

static uint32_t random_below(uint32_t limit)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % limit;
}

/* For a random part of a second, with whatever load there is. */
static void let_it_last(void)
{
    uint64_t until = now_ms() + 10 + random_below(400);
    while (now_ms() < until)
        look_again_soon();
}

static void start_site(unsigned site)
{
    reader_jobs[site] = (struct reader_job){.path = paths[site].text, .site = site};
    readers[site] = start_reader(&reader_jobs[site]);
    for (uint32_t i = 0; i < PROCESSES; i++) {
        uint32_t process = site * PROCESSES + i, each = WRITERS_PER_SITE / PROCESSES;
        writer_jobs[process] = (struct writer_job){
            .path = paths[site].text,
            .first = process * each,
            .count = each,
            .burst = 1 + random_below(20),
            .longest = i == 0 ? 300 : 20000,
        };
        writers[process] = start_writers(&writer_jobs[process]);
    }
}

/* ---- faults of the first reader ---- */

static void restart_first(void)
{
    atomic_store(&ledger->site_ends[0], true);
    join_child(readers[0]);
    atomic_store(&ledger->site_ends[0], false);
    readers[0] = start_reader(&reader_jobs[0]);
}

static void kill_first(void)
{
    kill_reader(readers[0]);
    if (random_below(2) == 0) let_it_last(); /* writers find nobody, and their queues fill */
    readers[0] = start_reader(&reader_jobs[0]);
}

static void stop_first(void)
{
    stop_process(readers[0]);
    let_it_last();
    CHECK(kill(readers[0], SIGCONT) == 0);
}

static void freeze_first(void)
{
    atomic_store(&ledger->frozen, 1 + random_below(WRITERS_PER_SITE));
    let_it_last();
    atomic_store(&ledger->frozen, 0);
}

static void delete_first(void)
{
    CHECK(unlink(paths[0].text) == 0);
    let_it_last();
    restart_first();
}

/* ---- what the second reader has to bear ---- */

static void make_noise(void)
{
    uint8_t noise[2000];
    for (int stranger = 0; stranger < 200; stranger++) {
        size_t len = 1 + random_below(sizeof noise);
        for (size_t i = 0; i < len; i++)
            noise[i] = (uint8_t)random_below(256);
        int client = raw_try_connect(paths[1].text);
        if (client < 0) continue;
        send(client, noise, len, MSG_NOSIGNAL);
        close(client);
    }
}

static void make_a_crowd(void)
{
    int clients[300];
    for (int i = 0; i < 300; i++)
        if ((clients[i] = raw_try_connect(paths[1].text)) >= 0) send(clients[i], "\5he", 3, MSG_NOSIGNAL);
    let_it_last();
    for (int i = 0; i < 300; i++)
        if (clients[i] >= 0) close(clients[i]);
}

/* A writer beside the account, whose messages are too short to be counted as anybody's. */
static void write_until_killed(void *argument)
{
    udsipc_writer *writer = started_writer((const char *)argument);
    atomic_fetch_add(&ledger->done, 1);
    while (true)
        IGNORE(udsipc_write_message_timeout(writer, "victim", 6, 100));
}

static void kill_a_writer(void)
{
    uint32_t done = atomic_load(&ledger->done);
    pid_t victim = start_child(write_until_killed, paths[1].text);
    WAIT_UNTIL(atomic_load(&ledger->done) > done);
    let_it_last();
    kill_child(victim);
}

static void (*const faults[FAULTS])(void) = {
    kill_first, stop_first, freeze_first, restart_first, delete_first, make_noise, make_a_crowd, kill_a_writer,
};

/* ---- the run ---- */

static struct footprint footprint_of(pid_t pid)
{
    return (struct footprint){resident_kib_of(pid), steady_fds_of(pid), threads_of(pid)};
}

/* After a fault every writer must get through again: one that hangs would leave its account in perfect order. */
static void wait_for_progress(void)
{
    for (uint32_t i = 0; i < ledger->writers; i++) {
        uint64_t delivered = atomic_load(&ledger->books[i].delivered);
        WAIT_UNTIL(atomic_load(&ledger->books[i].delivered) > delivered);
    }
    for (size_t i = 0; i < SITES * PROCESSES; i++)
        CHECK(waitpid(writers[i], NULL, WNOHANG) == 0);
}

/* The strangers' connections end a moment after the strangers. */
static struct footprint settled_footprint(pid_t pid, size_t fds)
{
    WAIT_UNTIL(fds_of(pid) <= fds);
    return footprint_of(pid);
}

static void cause_faults(uint64_t until)
{
    while (now_ms() < until) {
        enum fault fault = (enum fault)random_below(FAULTS);
        faults[fault]();
        counts[fault]++;
        wait_for_progress();
    }
}

static void check_flat(const char *who, struct footprint early, struct footprint late)
{
    printf("%s: %zu KiB, %zu descriptors, %zu threads after the warm-up; %zu KiB, %zu descriptors, %zu threads at "
           "the end\n", who, early.resident_kib, early.fds, early.threads, late.resident_kib, late.fds, late.threads);
    CHECK_INT(late.fds, early.fds);
    CHECK(UNDER_CHECKER || late.resident_kib < early.resident_kib + 32768);
}

static void run(double minutes)
{
    open_ledger(SITES * WRITERS_PER_SITE);
    ledger->strangers = true;
    paths[0] = in_scratch("soak-a");
    paths[1] = in_scratch("soak-b");
    for (unsigned site = 0; site < SITES; site++)
        start_site(site);
    WAIT_DELIVERED(1000);
    wait_for_progress(); /* now every writer has its connection */
    size_t reader_fds = steady_fds_of(readers[1]);

    uint64_t begun = now_ms(), length = (uint64_t)(minutes * 60000);
    cause_faults(begun + length / 5);
    wait_for_progress();
    struct footprint early_writer = settled_footprint(writers[0], SIZE_MAX);
    struct footprint early_reader = settled_footprint(readers[1], reader_fds);
    cause_faults(begun + length);
    wait_for_progress();
    struct footprint late_reader = settled_footprint(readers[1], reader_fds);
    struct footprint late_writer = settled_footprint(writers[0], early_writer.fds);
    uint64_t cpu = cpu_ms_of(readers[1]);

    end_writers(writers, SITES * PROCESSES);
    atomic_store(&ledger->readers_end, true);
    for (unsigned site = 0; site < SITES; site++)
        join_child(readers[site]);

    printf("%.1f minutes:", (double)(now_ms() - begun) / 60000);
    for (int fault = 0; fault < FAULTS; fault++)
        printf(" %s %" PRIu64 "%s", fault_names[fault], counts[fault], fault + 1 < FAULTS ? "," : "\n");
    check_flat("a writers' process", early_writer, late_writer);
    check_flat("the lasting reader", early_reader, late_reader);
    printf("the lasting reader: %" PRIu64 " ms of processor time, %" PRIu64 " messages of strangers in all\n", cpu,
           ledger->foreign);
    struct sums all = settle();
    CHECK(all.abandoned == 0);
    for (uint32_t i = WRITERS_PER_SITE; i < ledger->writers; i++) {
        const struct book *book = &ledger->books[i];
        CHECK_INT(book->suspected_lost, 0);
        CHECK_INT(book->delivered, book->accepted);
        CHECK_INT(book->connections, 1);
    }
}

int main(int argc, char **argv)
{
    double minutes = argc > 1 ? atof(argv[1]) : 0;
    if (minutes <= 0 || argc > 3) {
        fprintf(stderr, "usage: soak MINUTES [SEED]\n");
        return 2;
    }
    random_state = argc == 3 ? (uint32_t)strtoul(argv[2], NULL, 10) : (uint32_t)now_ms();
    if (random_state == 0) random_state = 1;
    printf("seed %" PRIu32 "\n", random_state);
    run(minutes);
    return 0;
}
