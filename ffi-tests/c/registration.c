/* The kernel refuses to watch a connection: epoll_ctl(2) has limits of its own (ENOSPC, ENOMEM). This program's epoll_ctl takes the place of
 * the C library's. */
#include "../support/check.h"

#include <sys/epoll.h>
#include <sys/syscall.h>

static _Atomic int refused_operation; /* 0: none */
static _Atomic int reason;
static _Atomic uint64_t refusals;
static _Atomic uint64_t listener_again, connection_again; /* how often each was watched again */

static void note_modified(int fd)
{
    int listens = 0;
    socklen_t len = sizeof listens;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) == 0) /* else it is no socket */
        atomic_fetch_add(listens ? &listener_again : &connection_again, 1);
}

int epoll_ctl(int set, int operation, int fd, struct epoll_event *event)
{
    if (operation == atomic_load(&refused_operation)) {
        atomic_fetch_add(&refusals, 1);
        errno = atomic_load(&reason);
        return -1;
    }
    int result = (int)syscall(SYS_epoll_ctl, set, operation, fd, event);
    if (operation == EPOLL_CTL_MOD && result == 0) note_modified(fd);
    return result;
}

#define ACCEPT_FAILURE "too many consecutive failures in accept loop"

static udsipc_reader *watched(const char *path, struct inbox *inbox, struct failures *failures)
{
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_max_accept_errors(options, 3));
    udsipc_reader *reader = watched_reader(path, inbox, options, failures);
    CHECK_OK(udsipc_reader_start(reader));
    return reader;
}

/* Counted each time, reported once, and the connection is served when the shortage is over. */
static void a_connection_that_cannot_be_watched_is_reported_and_kept(void)
{
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    static struct failures failures = FAILURES;
    udsipc_reader *reader = watched(path.text, &inbox, &failures);
    atomic_store(&reason, ENOSPC);
    atomic_store(&refused_operation, EPOLL_CTL_ADD);
    int clients[3];
    for (uint32_t i = 0; i < 3; i++) {
        clients[i] = raw_connect(path.text);
        raw_send_numbered(clients[i], i, 0);
    }
    WAIT_UNTIL(reader_metrics(reader).accept_errors >= 6);
    WAIT_UNTIL(failures_of(&failures, UDSIPC_ERR_NO_RESOURCES, ACCEPT_FAILURE) == 1); /* another thread may be about to tell */
    CHECK_INT(failures_of(&failures, -1, NULL), 1);
    CHECK_INT(inbox_count(&inbox), 0);
    atomic_store(&refused_operation, 0);
    WAIT_UNTIL(inbox_count(&inbox) == 3);
    udsipc_reader_metrics metrics = reader_metrics(reader);
    CHECK_INT(metrics.connections, 3);
    CHECK_INT(metrics.errors, 0);
    CHECK_OK(udsipc_reader_stop(reader, 1000));
    udsipc_reader_free(reader);
    for (int i = 0; i < 3; i++)
        close(clients[i]);
}

static void stop_keeps_its_time_and_says_that_it_left_something(void)
{
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    static struct failures failures = FAILURES;
    udsipc_reader *reader = watched(path.text, &inbox, &failures);
    atomic_store(&reason, ENOMEM);
    atomic_store(&refused_operation, EPOLL_CTL_ADD);
    int client = raw_connect(path.text);
    raw_send(client, "\1x", 2);
    WAIT_UNTIL(reader_metrics(reader).accept_errors >= 2);
    uint64_t begun = now_ms();
    CHECK_STATUS(udsipc_reader_stop(reader, 100), UDSIPC_ERR_TIMEOUT);
    CHECK(now_ms() - begun < 1000);
    CHECK_INT(reader_metrics(reader).active_connections, 0);
    raw_wait_closed(client);
    udsipc_reader_free(reader);
    close(client);
}

/* Between two messages: the connection ends, its writer connects again, and somebody hears of it. */
static void a_connection_that_cannot_be_watched_any_more_ends_with_a_report(void)
{
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    static struct failures failures = FAILURES;
    udsipc_reader *reader = watched(path.text, &inbox, &failures);
    int client = raw_connect(path.text);
    raw_send(client, "\1x", 2);
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    WAIT_UNTIL(raw_is_read(client));
    WAIT_UNTIL(atomic_load(&listener_again) > 0 && atomic_load(&connection_again) > 0);
    look_again_soon();
    atomic_store(&reason, ENOMEM);
    atomic_store(&refused_operation, EPOLL_CTL_MOD);
    raw_send(client, "\1x", 2);
    WAIT_UNTIL(failures_of(&failures, UDSIPC_ERR_NO_RESOURCES, NULL) == 1);
    raw_wait_closed(client);
    atomic_store(&refused_operation, 0);
    CHECK_INT(reader_metrics(reader).errors, 1);
    CHECK_INT(reader_metrics(reader).active_connections, 0);
    int next = raw_connect(path.text); /* the listener goes on */
    raw_send(next, "\1x", 2);
    WAIT_UNTIL(inbox_count(&inbox) == 3);
    udsipc_reader_free(reader);
    close(client);
    close(next);
}

/* The listener itself cannot be watched for a while. */
static void a_listener_that_cannot_be_watched_is_tried_again(void)
{
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    static struct failures failures = FAILURES;
    udsipc_reader *reader = watched(path.text, &inbox, &failures);
    atomic_store(&reason, ENOMEM);
    atomic_store(&refused_operation, EPOLL_CTL_MOD);
    int first = raw_connect(path.text);
    WAIT_UNTIL(failures_of(&failures, UDSIPC_ERR_NO_RESOURCES, ACCEPT_FAILURE) == 1);
    int second = raw_connect(path.text);
    WAIT_UNTIL(reader_metrics(reader).active_connections == 2);
    atomic_store(&refused_operation, 0);
    raw_send(second, "\1x", 2);
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    CHECK_OK(udsipc_reader_stop(reader, 1000));
    udsipc_reader_free(reader);
    close(first);
    close(second);
}

static const struct scenario scenarios[] = {
    SCENARIO(a_connection_that_cannot_be_watched_is_reported_and_kept),
    SCENARIO(stop_keeps_its_time_and_says_that_it_left_something),
    SCENARIO(a_connection_that_cannot_be_watched_any_more_ends_with_a_report),
    SCENARIO(a_listener_that_cannot_be_watched_is_tried_again),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
