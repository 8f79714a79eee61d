/* Peers that send nonsense, again and again: they wait, others do not, nobody is forgotten, and reports have an end. */
#include "../support/check.h"

#include <sched.h>

static const uint8_t nonsense[10] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f};

static int offend(const char *path)
{
    int client = raw_connect(path);
    raw_send(client, nonsense, sizeof nonsense);
    return client;
}

/* Until its next connections have to wait. */
static void become_an_offender(const char *path)
{
    for (int i = 0; i < 10; i++) {
        int client = offend(path);
        raw_wait_closed(client);
        close(client);
    }
}

static void each_connection_of_an_offender_is_served_in_the_end(void)
{
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    become_an_offender(path.text);
    int clients[8];
    uint64_t begun = now_ms();
    for (uint32_t i = 0; i < 8; i++) {
        clients[i] = raw_connect(path.text);
        raw_send_numbered(clients[i], i, 0);
        struct timespec pause = {0, 10000000};
        nanosleep(&pause, NULL);
    }
    CHECK(now_ms() - begun > 100 || inbox_count(&inbox) == 0); /* they do wait */
    WAIT_UNTIL(inbox_count(&inbox) == 8);
    CHECK(now_ms() - begun >= 100);
    for (int i = 0; i < 8; i++)
        close(clients[i]);
    udsipc_reader_free(reader);
}

/* False if this machine was so busy that the connection had waited for its time before the stop, or the stop was cut short. */
static bool is_served_by_stop(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    become_an_offender(path.text);
    int accepted = raw_connect(path.text);
    raw_send_numbered(accepted, 1, 0);
    WAIT_UNTIL(reader_metrics(reader).active_connections == 1);
    int in_the_backlog = raw_connect(path.text);
    raw_send_numbered(in_the_backlog, 2, 0);
    bool has_waited = inbox_count(&inbox) == 0;
    udsipc_status stopped = udsipc_reader_stop(reader, UNDER_CHECKER ? 2000 : 70);
    if (stopped == UDSIPC_OK) CHECK_INT(inbox_count(&inbox), 2);
    if (stopped != UDSIPC_OK) CHECK_STATUS(stopped, UDSIPC_ERR_TIMEOUT);
    udsipc_reader_free(reader);
    close(accepted);
    close(in_the_backlog);
    return has_waited && stopped == UDSIPC_OK;
}

static void a_connection_that_waits_is_served_by_stop(void)
{
    for (int attempt = 0; attempt < 10; attempt++)
        if (is_served_by_stop()) return;
    fail(__FILE__, __LINE__, "no stop has served it before it had waited");
}

/* Connect, send, close, thousands of times a second: each offence counts, few are reported. */
static void closing_at_once_is_not_reported_each_time(void)
{
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    static struct failures failures = FAILURES;
    udsipc_reader *reader = watched_reader(path.text, &inbox, udsipc_reader_options_new(), &failures);
    CHECK_OK(udsipc_reader_start(reader));
    uint64_t offences = 0, begun = now_ms();
    while (now_ms() - begun < 700) {
        int client = raw_try_connect(path.text);
        if (client < 0) continue; /* the backlog is full */
        raw_send(client, nonsense, sizeof nonsense);
        close(client);
        offences++;
    }
    WAIT_UNTIL(reader_metrics(reader).errors == offences);
    uint64_t seconds = (now_ms() - begun) / 1000 + 1;
    CHECK(offences > 300);
    CHECK(failures.count >= 8 && failures.count <= 9 + 10 * seconds);
    WAIT_UNTIL(reader_metrics(reader).active_connections == 0);
    udsipc_reader_free(reader);
}

/* ---- a reader in a pid namespace of its own, to which every peer has the pid 0 ---- */

/* Ends when it is killed; with its parent at the latest. */
static void offend_all_the_time(void *argument)
{
    const char *path = (const char *)argument;
    for (;;) {
        int client = raw_try_connect(path);
        if (client < 0) {
            look_again_soon();
            continue;
        }
        raw_send(client, nonsense, sizeof nonsense);
        raw_wait_closed(client);
        close(client);
    }
}

static pid_t reader_in_a_namespace(const char *path)
{
    static struct inbox inbox = INBOX;
    if (unshare(CLONE_NEWPID) != 0) return -1; /* only root may; it is for children to come */
    pid_t child = fork();
    CHECK(child >= 0);
    if (child > 0) return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    started_reader(path, &inbox);
    for (;;)
        pause();
}

static void an_offender_without_a_pid_delays_nobody_else(void)
{
    struct path path = in_scratch("s");
    pid_t offender = start_child(offend_all_the_time, path.text);
    pid_t reader = reader_in_a_namespace(path.text);
    if (reader > 0) {
        WAIT_UNTIL(exists(path.text));
        struct timespec pause = {0, 300000000};
        nanosleep(&pause, NULL); /* it has become an offender, and goes on */
        uint64_t begun = now_ms();
        for (int i = 0; i < 20; i++) {
            int client = raw_connect(path.text);
            raw_send(client, "\1x", 2);
            WAIT_UNTIL(raw_is_read(client));
            close(client);
        }
        CHECK(now_ms() - begun < 1500); /* 20 times 100 ms, if they had to wait */
        kill_child(reader);
    }
    kill_child(offender);
}

static const struct scenario scenarios[] = {
    SCENARIO(each_connection_of_an_offender_is_served_in_the_end),
    SCENARIO(a_connection_that_waits_is_served_by_stop),
    SCENARIO(closing_at_once_is_not_reported_each_time),
    SCENARIO(an_offender_without_a_pid_delays_nobody_else),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
