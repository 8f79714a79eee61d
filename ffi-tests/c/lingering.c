/* Peers that pass descriptors whose closing takes as long as they like: a TCP socket with unsent data and SO_LINGER. Whoever closes the
 * last copy waits, and that must not be a thread of the reader. Linux 6.16 lets the reader refuse descriptors (SO_PASSRIGHTS). */
#include "../support/check.h"

#include <netinet/in.h>

#define LINGER_SECONDS 4
#define SOON_MS 3000 /* a peer that lingers took 9 s and more */
#define PASSRIGHTS 83

/* Older kernels leave the reader no choice: nothing to test there. */
static bool kernel_can_refuse(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), off = 0;
    bool can = setsockopt(fd, SOL_SOCKET, PASSRIGHTS, &off, sizeof off) == 0;
    close(fd);
    return can;
}

/* A TCP socket whose peer reads nothing, with more to send than that one takes. */
static int slow_to_close(int *peer)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    CHECK(bind(listener, (struct sockaddr *)&address, len) == 0 && listen(listener, 1) == 0);
    CHECK(getsockname(listener, (struct sockaddr *)&address, &len) == 0);
    CHECK(connect(client, (struct sockaddr *)&address, len) == 0 || errno == EINPROGRESS);
    *peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    CHECK(*peer >= 0);
    close(listener);
    static uint8_t data[1 << 20];
    ssize_t sent;
    do {
        struct pollfd entry = {.fd = client, .events = POLLOUT};
        sent = poll(&entry, 1, 100) == 1 ? send(client, data, sizeof data, MSG_NOSIGNAL) : -1;
    } while (sent > 0);
    struct linger linger = {1, LINGER_SECONDS};
    CHECK(setsockopt(client, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) == 0);
    return client;
}

/* Sends a message and, if the kernel lets it, a socket that is slow to close, of which no other copy remains. */
static void send_with_slow_socket(int client, const char *frame, size_t len)
{
    int peer, slow = slow_to_close(&peer);
    union {
        struct cmsghdr header;
        uint8_t space[CMSG_SPACE(sizeof(int))];
    } control = {.space = {0}};
    struct iovec data = {(void *)(uintptr_t)frame, len};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control.space};
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof slow);
    memcpy(CMSG_DATA(&control.header), &slow, sizeof slow);
    if (sendmsg(client, &message, MSG_NOSIGNAL) == (ssize_t)len) {
        close(slow);
    } else {
        CHECK(errno == EPERM);
        raw_send(client, frame, len);
        struct linger at_once = {1, 0};
        CHECK(setsockopt(slow, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once) == 0);
        close(slow);
    }
    (void)peer; /* stays open and reads nothing */
}

static udsipc_reader *reader_with(struct inbox *inbox, const char *path, udsipc_reader_options *options)
{
    udsipc_reader *reader = NULL;
    CHECK_OK(udsipc_reader_options_set_max_handler_threads(options, 1));
    CHECK_OK(udsipc_reader_new(path, receive, inbox, options, &reader));
    udsipc_reader_options_free(options);
    return reader;
}

static void the_time_of_a_peer_is_not_the_readers(udsipc_reader *reader, struct inbox *inbox, int client, uint64_t begun)
{
    int other = raw_connect(udsipc_reader_socket_path(reader));
    raw_send_numbered(other, 1, 0);
    WAIT_UNTIL(inbox_next(inbox, 1) == 1);
    CHECK(now_ms() - begun < SOON_MS);
    begun = now_ms();
    CHECK_OK(udsipc_reader_stop(reader, 500));
    CHECK(now_ms() - begun < SOON_MS);
    begun = now_ms();
    udsipc_reader_free(reader);
    CHECK(now_ms() - begun < SOON_MS);
    close(client);
    close(other);
}

static void in_a_message(void)
{
    if (!kernel_can_refuse()) return;
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    udsipc_reader *reader = reader_with(&inbox, path.text, udsipc_reader_options_new());
    int client = raw_connect(path.text);
    send_with_slow_socket(client, "\1x", 2); /* before it is accepted */
    uint64_t begun = now_ms();
    CHECK_OK(udsipc_reader_start(reader));
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    the_time_of_a_peer_is_not_the_readers(reader, &inbox, client, begun);
}

static void of_a_peer_that_is_refused(void)
{
    if (!kernel_can_refuse()) return;
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_max_connections(options, 2));
    udsipc_reader *reader = reader_with(&inbox, path.text, options);
    int clients[2] = {raw_connect(path.text), raw_connect(path.text)}, refused = raw_connect(path.text);
    send_with_slow_socket(refused, "\1x", 2);
    uint64_t begun = now_ms();
    CHECK_OK(udsipc_reader_start(reader));
    WAIT_UNTIL(reader_metrics(reader).refused == 1);
    close(clients[0]);
    WAIT_UNTIL(reader_metrics(reader).active_connections == 1);
    the_time_of_a_peer_is_not_the_readers(reader, &inbox, clients[1], begun);
    close(refused);
}

static void on_a_listener_that_was_passed(void)
{
    if (!kernel_can_refuse()) return;
    struct path path = in_scratch("s");
    static struct inbox inbox = INBOX;
    int listener = raw_listen(path.text);
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_listen_fd(options, listener));
    udsipc_reader *reader = reader_with(&inbox, path.text, options);
    CHECK_OK(udsipc_reader_start(reader));
    int client = raw_connect(path.text);
    WAIT_UNTIL(reader_metrics(reader).active_connections == 1);
    uint64_t begun = now_ms();
    send_with_slow_socket(client, "\1x", 2);
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    the_time_of_a_peer_is_not_the_readers(reader, &inbox, client, begun);
    /* The listener is the host's: what it allows is as it was. */
    int on = 0;
    socklen_t len = sizeof on;
    CHECK(getsockopt(listener, SOL_SOCKET, PASSRIGHTS, &on, &len) == 0 && on == 1);
    close(listener);
}

static const struct scenario scenarios[] = {
    SCENARIO(in_a_message),
    SCENARIO(of_a_peer_that_is_refused),
    SCENARIO(on_a_listener_that_was_passed),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
