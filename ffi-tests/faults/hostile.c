/* Peers that mean harm. Whatever they do: bounded memory, bounded processor time, no descriptor kept, and the writer
 * that is connected all the while loses nothing and is not disconnected. */
#include "../support/account.h"

/* What a busy reader may take: at most 64 handler threads (the default), each with 256 KiB to read into and a stack. */
#define POOL_KIB (64 * 256 + 8192)

static struct path path;
static struct reader_job reader_job;
static struct writer_job writer_job;
static pid_t reader, writer;

struct cost {
    uint64_t cpu_ms;
    size_t fds;
    size_t resident_kib;
    uint64_t errors;
    uint64_t delivered;
};

static struct cost before;

static struct cost cost_now(void)
{
    return (struct cost){cpu_ms_of(reader), steady_fds_of(reader), resident_kib_of(reader), atomic_load(&ledger->errors),
                         delivered_by(0, 1)};
}

/* A reader with a writer that behaves. */
static void begin(void (*configure)(udsipc_reader_options *options))
{
    path = in_scratch("s");
    open_ledger(1);
    ledger->strangers = true;
    reader_job = (struct reader_job){.path = path.text, .configure = configure};
    reader = start_reader(&reader_job);
    writer_job = (struct writer_job){.path = path.text, .count = 1, .burst = 1, .longest = 500};
    writer = start_writers(&writer_job);
    WAIT_DELIVERED(50);
    before = cost_now();
}

/* The strangers are gone: what they cost must be gone too. */
static void end(void)
{
    WAIT_UNTIL(atomic_load(&ledger->active) == 1);
    WAIT_UNTIL(fds_of(reader) == before.fds);
    WAIT_DELIVERED(50); /* the one that behaves still gets through */
    end_writers(&writer, 1);
    end_readers(reader);
    settle_without_loss();
    CHECK_INT(ledger->books[0].connections, 1);
    CHECK(ledger->delivered_sum == ledger->books[0].delivered + ledger->foreign);
}

static uint32_t random_state = 2463534242u;

static uint32_t random_below(uint32_t limit)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state % limit;
}

/* Sends until all is sent or the reader has closed. */
static size_t send_what_it_takes(int fd, const void *data, size_t len)
{
    size_t done = 0;
    while (done < len) {
        ssize_t sent = send(fd, (const uint8_t *)data + done, len - done, MSG_NOSIGNAL);
        if (sent <= 0) {
            CHECK(errno == EPIPE || errno == ECONNRESET);
            break;
        }
        done += (size_t)sent;
    }
    return done;
}

/* ---- what they send ---- */

static void random_bytes(void)
{
    begin(NULL);
    uint64_t strangers = 0;
    size_t most = 0;
    FOR_MS(2000) {
        uint8_t noise[4096];
        size_t len = 1 + random_below(sizeof noise);
        for (size_t i = 0; i < len; i++)
            noise[i] = (uint8_t)random_below(256);
        int client = raw_connect(path.text);
        send_what_it_takes(client, noise, len);
        close(client);
        strangers++;
        if (strangers % 100 == 0 && fds_of(reader) > most) most = fds_of(reader);
    }
    struct cost after = cost_now();
    printf("%" PRIu64 " strangers, %" PRIu64 " errors, %" PRIu64 " messages, %zu descriptors and %zu KiB more\n",
           strangers, after.errors - before.errors, ledger->foreign, most - before.fds, after.resident_kib - before.resident_kib);
    /* One stranger at a time: what the reader holds is at most what it has not come to yet. */
    CHECK(most < before.fds + 256);
    CHECK(UNDER_CHECKER || after.resident_kib < before.resident_kib + POOL_KIB);
    CHECK(threads_of(reader) <= 64 + 1);
    CHECK(after.errors > before.errors + 10);
    end();
}

/* A valid stream, cut anywhere: the whole frames arrive, and there is one error exactly where a frame was cut. */
static void valid_frames_cut_anywhere(void)
{
    begin(NULL);
    uint64_t whole = 0, cut = 0;
    for (int stranger = 0; stranger < 1500; stranger++) {
        uint8_t stream[30 * 300];
        size_t ends[30], len = 0;
        for (int i = 0; i < 30; i++) {
            size_t payload = 1 + random_below(290);
            len += put_varint(stream + len, payload);
            memset(stream + len, 'x', payload);
            ends[i] = len += payload;
        }
        size_t at = random_below((uint32_t)len + 1);
        bool between = at == 0;
        for (int i = 0; i < 30; i++) {
            whole += ends[i] <= at;
            between |= ends[i] == at;
        }
        cut += !between;
        int client = raw_connect(path.text);
        raw_send(client, stream, at);
        close(client);
    }
    WAIT_UNTIL(atomic_load(&ledger->foreign) == whole && atomic_load(&ledger->errors) == before.errors + cut);
    end();
    CHECK_INT(ledger->foreign, whole);
    CHECK_INT(ledger->errors_sum, cut);
}

/* Lengths that cannot be meant, up to 2^64 - 1, with a limit that forbids none of them. */
static void no_limit(udsipc_reader_options *options)
{
    CHECK_OK(udsipc_reader_options_set_max_message_size(options, UINT64_MAX));
}

static void lengths_up_to_the_largest(void)
{
    begin(no_limit);
    static uint8_t zeros[100 << 10];
    int clients[64];
    for (int i = 0; i < 64; i++) {
        uint8_t prefix[10];
        uint64_t announced = i == 63 ? UINT64_MAX : (UINT64_C(1) << (i < 20 ? 40 + i : i)) - 1;
        clients[i] = raw_connect(path.text);
        raw_send(clients[i], prefix, put_varint(prefix, announced));
        send_what_it_takes(clients[i], zeros, announced < sizeof zeros ? (size_t)announced : sizeof zeros);
    }
    for (int i = 0; i < 64; i++)
        WAIT_UNTIL(raw_is_read(clients[i]));
    struct cost after = cost_now();
    printf("64 strangers announced up to 2^64 - 1 bytes and sent 6 MiB: %zu KiB more\n",
           after.resident_kib - before.resident_kib);
    CHECK(UNDER_CHECKER || after.resident_kib < before.resident_kib + 3 * 6400 + POOL_KIB);
    for (int i = 0; i < 64; i++)
        close(clients[i]);
    end();
}

/* A byte now and then, in the middle of a frame, from a hundred at once. Scaled: a byte each 50 ms instead of a second. */
static void one_byte_at_a_time(void)
{
    begin(NULL);
    int clients[100];
    uint8_t prefix[10];
    size_t size = put_varint(prefix, 1 << 20);
    for (int i = 0; i < 100; i++)
        clients[i] = raw_connect(path.text);
    uint64_t turns = 0, cpu = cpu_ms_of(reader), begun = now_ms();
    FOR_MS(2000) {
        for (int i = 0; i < 100; i++)
            raw_send(clients[i], turns < size ? &prefix[turns] : (const uint8_t *)"x", 1);
        turns++;
        pause_ms(50);
    }
    cpu = cpu_ms_of(reader) - cpu;
    uint64_t bytes = turns * 100, passed = now_ms() - begun;
    struct cost after = cost_now();
    printf("%" PRIu64 " single bytes in %" PRIu64 " ms: %" PRIu64 " ms of processor time, %zu KiB more\n", bytes, passed,
           cpu, after.resident_kib - before.resident_kib);
    CHECK(cpu < passed / 2);
    CHECK(UNDER_CHECKER || after.resident_kib < before.resident_kib + POOL_KIB);
    for (int i = 0; i < 100; i++)
        close(clients[i]);
    WAIT_UNTIL(atomic_load(&ledger->errors) == before.errors + 100);
    end();
}

/* Out-of-band bytes are no part of the stream, and one that stays unread in the socket is no reason to spin. */
static void out_of_band_bytes(void)
{
    begin(NULL);
    int client = raw_connect(path.text);
    uint8_t frame[64] = {50};
    for (int i = 0; i < 500; i++) {
        size_t at = 1 + random_below(50);
        raw_send(client, frame, at);
        CHECK(send(client, "!", 1, MSG_OOB | MSG_NOSIGNAL) == 1 || errno == EOPNOTSUPP);
        raw_send(client, frame + at, 51 - at);
    }
    WAIT_UNTIL(atomic_load(&ledger->foreign) == 500);
    CHECK(send(client, "!", 1, MSG_OOB | MSG_NOSIGNAL) == 1 || errno == EOPNOTSUPP);
    int only = raw_connect(path.text);
    CHECK(send(only, "!", 1, MSG_OOB | MSG_NOSIGNAL) == 1 || errno == EOPNOTSUPP);
    uint64_t begun = now_ms(), cpu = cpu_ms_of(reader);
    WAIT_UNTIL(now_ms() - begun >= 1000);
    cpu = cpu_ms_of(reader) - cpu;
    printf("a second with out-of-band bytes in two sockets: %" PRIu64 " ms of processor time\n", cpu);
    CHECK(cpu < 300);
    raw_send(only, frame, 51);
    WAIT_UNTIL(atomic_load(&ledger->foreign) == 501);
    close(only);
    close(client);
    end();
    CHECK_INT(ledger->errors_sum, 0);
}

/* As many descriptors as a message can carry (SCM_RIGHTS, unix(7)), again and again, also within cut frames. */
static bool send_with_descriptors(int client, const void *data, size_t len, int count)
{
    union {
        char space[CMSG_SPACE(253 * sizeof(int))];
        struct cmsghdr align;
    } control;
    memset(&control, 0, sizeof control);
    struct iovec part = {(void *)(uintptr_t)data, len};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.space,
                             .msg_controllen = CMSG_SPACE((size_t)count * sizeof(int))};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
    for (int i = 0; i < count; i++)
        memcpy(CMSG_DATA(header) + (size_t)i * sizeof(int), &client, sizeof(int)); /* a socket that carries itself */
    ssize_t sent = sendmsg(client, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EPERM) sent = send(client, data, len, MSG_NOSIGNAL); /* refused since Linux 6.16 */
    return sent == (ssize_t)len;
}

static void descriptors_with_every_message(void)
{
    begin(NULL);
    int clients[20];
    uint64_t messages = 0;
    size_t most = 0;
    for (int i = 0; i < 20; i++)
        clients[i] = raw_connect(path.text);
    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < 20; i++) {
            /* The kernel bounds how many are in flight (ETOOMANYREFS): then the reader has not come to it yet. */
            WAIT_UNTIL(send_with_descriptors(clients[i], "\5he", 3, 253) || errno != ETOOMANYREFS);
            raw_send(clients[i], "llo", 3);
            messages++;
        }
        size_t now = fds_of(reader);
        if (now > most) most = now;
    }
    WAIT_UNTIL(atomic_load(&ledger->foreign) == messages);
    CHECK(most <= before.fds + 20 + 32); /* a quarter of a million would show */
    for (int i = 0; i < 20; i++)
        close(clients[i]);
    end();
}

/* ---- how they connect ---- */

/* As many connects as fit in the time; some send, some do not, some hang on for a while. */
static void a_flood_of_connects(void)
{
    begin(NULL);
    int lingering[32];
    size_t most = 0;
    uint64_t connects = 0;
    for (int i = 0; i < 32; i++)
        lingering[i] = raw_connect(path.text);
    FOR_MS(6000) {
        int client = raw_try_connect(path.text);
        if (client < 0) {
            CHECK(errno == EAGAIN);
            continue;
        }
        if (connects % 3 == 1) send_what_it_takes(client, "\5hello", 6);
        close(lingering[connects % 32]);
        lingering[connects % 32] = client;
        connects++;
        if (connects % 1000 == 0 && resident_kib_of(reader) > most) most = resident_kib_of(reader);
    }
    printf("%" PRIu64 " connects, at most %zu KiB resident (%zu before)\n", connects, most, before.resident_kib);
    CHECK(connects > 5000);
    CHECK(UNDER_CHECKER || most < before.resident_kib + POOL_KIB);
    for (int i = 0; i < 32; i++)
        close(lingering[i]);
    WAIT_UNTIL(atomic_load(&ledger->connections) == connects + 33);
    end();
    CHECK_INT(ledger->errors_sum, 0);
}

/* Peers that never close, whole, cut and refused ones: the reader lets go of them, at an error and at its stop. */
static void peers_that_never_close(void)
{
    begin(NULL);
    int clients[60];
    for (int i = 0; i < 60; i++) {
        clients[i] = raw_connect(path.text);
        if (i % 3 == 0) raw_send(clients[i], "\5hello", 6);
        if (i % 3 == 1) raw_send(clients[i], "\5he", 3);
        if (i % 3 == 2) send_what_it_takes(clients[i], "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", 10);
    }
    WAIT_UNTIL(atomic_load(&ledger->errors) == before.errors + 20);
    WAIT_UNTIL(atomic_load(&ledger->active) == 1 + 40);
    for (int i = 2; i < 60; i += 3)
        raw_wait_closed(clients[i]);
    end_writers(&writer, 1);
    uint64_t begun = now_ms();
    end_readers(reader);
    CHECK(now_ms() - begun < PATIENCE_MS / 2); /* it does not wait for them */
    for (int i = 0; i < 60; i++) {
        raw_wait_closed(clients[i]);
        close(clients[i]);
    }
    settle_without_loss();
    CHECK_INT(ledger->errors_sum, 20);
}

/* ---- who may come in ---- */

static void only_root(udsipc_reader_options *options)
{
    CHECK_OK(udsipc_reader_options_allow_uid(options, geteuid()));
    CHECK_OK(udsipc_reader_options_set_socket_mode(options, 0666));
}

static void only_a_group(udsipc_reader_options *options)
{
    CHECK_OK(udsipc_reader_options_allow_gid(options, getegid()));
    CHECK_OK(udsipc_reader_options_set_socket_mode(options, 0666));
}

static _Atomic uint64_t *intrusions;

static void become_somebody_else(void)
{
    CHECK(setgid(65534) == 0 && setuid(65534) == 0);
}

/* Sends while the reader is stopped. Its close over unread bytes is told as ECONNRESET: had it read them, as the end. */
static void send_unread(void *argument)
{
    (void)argument;
    become_somebody_else();
    int client = raw_connect(path.text);
    raw_send(client, "\5hello", 6);
    atomic_store(&ledger->done, 1);
    uint8_t byte;
    CHECK(recv(client, &byte, 1, 0) < 0 && errno == ECONNRESET);
    close(client);
    atomic_fetch_add(intrusions, 1);
}

/* Connects and sends as somebody else for as long as it is let. */
static void intrude(void *argument)
{
    (void)argument;
    become_somebody_else();
    static uint8_t much[1 << 20];
    FOR_MS(1500) {
        int client = raw_try_connect(path.text);
        if (client < 0) {
            CHECK(errno == EAGAIN);
            continue;
        }
        CHECK(send_what_it_takes(client, much, sizeof much) < sizeof much);
        raw_wait_closed(client);
        close(client);
        atomic_fetch_add(intrusions, 1);
    }
}

static void turned_away(void (*configure)(udsipc_reader_options *options))
{
    if (geteuid() != 0) {
        printf("skipped: needs root to become somebody else\n");
        return;
    }
    CHECK(chmod(".", 0755) == 0);
    begin(configure);
    intrusions = &ledger->books[MAX_WRITERS - 1].refused;
    stop_process(reader);
    pid_t unread = start_child(send_unread, NULL);
    WAIT_UNTIL(atomic_load(&ledger->done) == 1);
    CHECK(kill(reader, SIGCONT) == 0);
    join_child(unread);
    pid_t intruders[2];
    for (int i = 0; i < 2; i++)
        intruders[i] = start_child(intrude, NULL);
    for (int i = 0; i < 2; i++)
        join_child(intruders[i]);
    struct cost after = cost_now();
    printf("%" PRIu64 " turned away, %zu KiB more\n", *intrusions, after.resident_kib - before.resident_kib);
    CHECK(*intrusions > 100);
    WAIT_UNTIL(atomic_load(&ledger->refused) == *intrusions);
    CHECK_INT(atomic_load(&ledger->foreign), 0);
    CHECK(UNDER_CHECKER || after.resident_kib < before.resident_kib + POOL_KIB);
    end();
    CHECK_INT(ledger->errors_sum, 0);
    CHECK_INT(ledger->connections, 1);
}

static void uid_that_may_not_enter(void)
{
    turned_away(only_root);
}

static void gid_that_may_not_enter(void)
{
    turned_away(only_a_group);
}

static void eight_at_most(udsipc_reader_options *options)
{
    CHECK_OK(udsipc_reader_options_set_max_connections(options, 8));
}

/* More than max_connections: the rest is turned away unread, and a place that becomes free is taken again. */
static void more_than_max_connections(void)
{
    begin(eight_at_most);
    int guests[7];
    for (int i = 0; i < 7; i++)
        guests[i] = raw_connect(path.text);
    WAIT_UNTIL(atomic_load(&ledger->active) == 8);
    uint64_t refused = 0;
    size_t most = 0;
    FOR_MS(500) {
        for (int i = 0; i < 7; i++)
            raw_send(guests[i], "\1x", 2);
        for (int burst = 0; burst < 50; burst++) {
            int client = raw_try_connect(path.text);
            if (client < 0) continue;
            send_what_it_takes(client, "\5hello", 6);
            raw_wait_closed(client);
            close(client);
            refused++;
        }
        CHECK(atomic_load(&ledger->active) <= 8);
        if (fds_of(reader) > most) most = fds_of(reader);
    }
    printf("%" PRIu64 " turned away\n", refused);
    WAIT_UNTIL(atomic_load(&ledger->refused) == refused);
    CHECK(most <= before.fds + 7 + 2);
    for (int i = 0; i < 7; i++)
        close(guests[i]);
    WAIT_UNTIL(atomic_load(&ledger->active) == 1);
    int late = raw_connect(path.text);
    uint64_t foreign = atomic_load(&ledger->foreign);
    raw_send(late, "\1x", 2);
    WAIT_UNTIL(atomic_load(&ledger->foreign) == foreign + 1);
    close(late);
    end();
}

static const struct scenario scenarios[] = {
    SCENARIO(random_bytes),
    SCENARIO(valid_frames_cut_anywhere),
    SCENARIO(lengths_up_to_the_largest),
    SCENARIO(one_byte_at_a_time),
    SCENARIO(out_of_band_bytes),
    SCENARIO(descriptors_with_every_message),
    SCENARIO(a_flood_of_connects),
    SCENARIO(peers_that_never_close),
    SCENARIO(uid_that_may_not_enter),
    SCENARIO(gid_that_may_not_enter),
    SCENARIO(more_than_max_connections),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
