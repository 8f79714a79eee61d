/* Who is at the other end: credentials, connection numbers, who is let in, and how many. */
#include "../support/check.h"

#include <grp.h>

/* What the message callback saw of its last peer. */
struct guestbook {
    struct inbox inbox;
    int32_t pid;
    uint32_t uid;
    uint32_t gid;
    uint64_t ids[64];
};

static int32_t sign(const uint8_t *data, size_t len, const udsipc_connection *connection, void *userdata)
{
    struct guestbook *book = (struct guestbook *)userdata;
    uint64_t count = inbox_count(&book->inbox);
    CHECK_OK(udsipc_connection_credentials(connection, &book->pid, &book->uid, &book->gid));
    book->ids[count % 64] = udsipc_connection_id(connection);
    CHECK_INT(udsipc_connection_id(connection), book->ids[count % 64]);
    inbox_put(&book->inbox, data, len);
    return 0;
}

static udsipc_reader *reader_with_guestbook(const char *path, struct guestbook *book, udsipc_reader_options *options)
{
    udsipc_reader *reader = NULL;
    /* One handler thread: the book has no lock of its own. */
    CHECK_OK(udsipc_reader_options_set_max_handler_threads(options, 1));
    CHECK_OK(udsipc_reader_new(path, sign, book, options, &reader));
    udsipc_reader_options_free(options);
    CHECK_OK(udsipc_reader_start(reader));
    return reader;
}

/* A peer in a process of its own: says hello as somebody, and tells by its end whether it was let in. */
struct visitor {
    const char *path;
    uid_t uid;
    gid_t gid;
    gid_t extra_group;
    bool welcome;
};

#define NO_GROUP ((gid_t)-1)

static void visit(void *argument)
{
    struct visitor *visitor = (struct visitor *)argument;
    if (getuid() == 0) {
        CHECK(setgroups(visitor->extra_group != NO_GROUP, &visitor->extra_group) == 0);
        CHECK(setresgid(visitor->gid, visitor->gid, visitor->gid) == 0);
        CHECK(setresuid(visitor->uid, visitor->uid, visitor->uid) == 0);
    }
    int client = raw_connect(visitor->path);
    uint8_t frame[] = {5, 'h', 'e', 'l', 'l', 'o'};
    /* One that is turned away may be told so before it has spoken. */
    bool sent = send(client, frame, sizeof frame, MSG_NOSIGNAL) == sizeof frame;
    CHECK(sent || !visitor->welcome);
    if (visitor->welcome)
        WAIT_UNTIL(raw_is_read(client));
    else
        raw_wait_closed(client);
    close(client);
}

static pid_t send_visitor(struct visitor visitor)
{
    static struct visitor kept;
    kept = visitor;
    return start_child(visit, &kept);
}

/* Tests that must be somebody else need root; without it they are what they can be: nobody but oneself. */
static const uid_t somebody = 65534;

static void open_to_all(const char *path)
{
    CHECK(chmod(".", 0755) == 0);
    CHECK(chmod(path, 0666) == 0);
}

/* ---- who it was ---- */

static void credentials_are_the_peers(void)
{
    struct path path = in_scratch("s");
    struct guestbook book = {.inbox = INBOX};
    udsipc_reader *reader = reader_with_guestbook(path.text, &book, udsipc_reader_options_new());
    open_to_all(path.text);
    bool root = getuid() == 0;
    uid_t uid = root ? somebody : getuid();
    gid_t gid = root ? somebody : getgid();
    pid_t child = send_visitor((struct visitor){path.text, uid, gid, NO_GROUP, true});
    join_child(child);
    WAIT_UNTIL(inbox_count(&book.inbox) == 1);
    CHECK_INT(book.pid, child);
    CHECK_INT(book.uid, uid);
    CHECK_INT(book.gid, gid);

    udsipc_writer *writer = started_writer(path.text);
    CHECK_OK(write_numbered(writer, 0, 0));
    WAIT_UNTIL(inbox_count(&book.inbox) == 2);
    CHECK_INT(book.pid, getpid());
    CHECK_INT(book.uid, geteuid());
    CHECK_INT(book.gid, getegid());
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static void connection_ids(void)
{
    struct path path = in_scratch("s");
    struct guestbook book = {.inbox = INBOX};
    udsipc_reader *reader = reader_with_guestbook(path.text, &book, udsipc_reader_options_new());
    int first = raw_connect(path.text), second = raw_connect(path.text);
    int order[] = {first, second, first, second, first};
    for (size_t i = 0; i < 5; i++) {
        raw_send_frame(order[i], "x", 1);
        WAIT_UNTIL(inbox_count(&book.inbox) == i + 1);
    }
    CHECK(book.ids[0] != 0 && book.ids[1] != 0 && book.ids[0] != book.ids[1]);
    CHECK(book.ids[2] == book.ids[0] && book.ids[4] == book.ids[0] && book.ids[3] == book.ids[1]);
    close(first);
    close(second);
    /* A number is not used again, although its descriptor is. */
    for (uint64_t i = 5; i < 25; i++) {
        int next = raw_connect(path.text);
        raw_send_frame(next, "x", 1);
        WAIT_UNTIL(inbox_count(&book.inbox) == i + 1);
        close(next);
        WAIT_UNTIL(reader_metrics(reader).active_connections == 0);
        for (uint64_t before = 0; before < i; before++)
            CHECK(book.ids[i] != book.ids[before]);
    }
    udsipc_reader_free(reader);
}

/* ---- who is let in ---- */

struct door {
    struct path path;
    struct guestbook book;
    udsipc_reader *reader;
};

static void open_door(struct door *door, udsipc_reader_options *options)
{
    *door = (struct door){.path = in_scratch("s"), .book = {.inbox = INBOX}};
    door->reader = reader_with_guestbook(door->path.text, &door->book, options);
    open_to_all(door->path.text);
}

static void is_welcome(struct door *door, uid_t uid, gid_t gid, gid_t extra_group)
{
    uint64_t heard = inbox_count(&door->book.inbox);
    join_child(send_visitor((struct visitor){door->path.text, uid, gid, extra_group, true}));
    WAIT_UNTIL(inbox_count(&door->book.inbox) == heard + 1);
}

static void is_turned_away(struct door *door, uid_t uid, gid_t gid, gid_t extra_group)
{
    uint64_t heard = inbox_count(&door->book.inbox);
    udsipc_reader_metrics before = reader_metrics(door->reader);
    join_child(send_visitor((struct visitor){door->path.text, uid, gid, extra_group, false}));
    WAIT_UNTIL(reader_metrics(door->reader).refused == before.refused + 1);
    udsipc_reader_metrics after = reader_metrics(door->reader);
    CHECK_INT(inbox_count(&door->book.inbox), heard);
    /* Refused is a count of its own: it was not served, and it is no error. */
    CHECK_INT(after.connections, before.connections);
    CHECK_INT(after.errors, before.errors);
}

static void close_door(struct door *door)
{
    CHECK_OK(udsipc_reader_stop(door->reader, PATIENCE_MS));
    udsipc_reader_free(door->reader);
}

/* For everybody: the own user is let in by its number, and shut out by any other. */
static void allow_uid_of_oneself(void)
{
    static struct door door;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_allow_uid(options, getuid()));
    open_door(&door, options);
    is_welcome(&door, getuid(), getgid(), NO_GROUP);
    close_door(&door);

    options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_allow_uid(options, getuid() + 1));
    open_door(&door, options);
    is_turned_away(&door, getuid(), getgid(), NO_GROUP);
    is_turned_away(&door, getuid(), getgid(), NO_GROUP);
    close_door(&door);
}

static void allow_gid_of_oneself(void)
{
    static struct door door;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_allow_gid(options, getgid()));
    open_door(&door, options);
    is_welcome(&door, getuid(), getgid(), NO_GROUP);
    close_door(&door);
}

/* For root: every combination of user, primary group and supplementary group. */
static void allow_lists_for_other_users(void)
{
    if (getuid() != 0) return;
    static struct door door;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_allow_uid(options, 1001));
    CHECK_OK(udsipc_reader_options_allow_uid(options, 1002));
    CHECK_OK(udsipc_reader_options_allow_gid(options, 2001));
    open_door(&door, options);
    is_welcome(&door, 1001, 3000, NO_GROUP);
    is_welcome(&door, 1002, 3000, NO_GROUP);
    is_welcome(&door, 1003, 2001, NO_GROUP);
    is_welcome(&door, 1003, 3000, 2001);
    is_turned_away(&door, 1003, 3000, NO_GROUP);
    is_turned_away(&door, 1003, 3000, 2002);
    /* The list says who, and root is not on it. A user id is no group id. */
    is_turned_away(&door, 0, 0, NO_GROUP);
    is_turned_away(&door, 2001, 1001, NO_GROUP);
    close_door(&door);
}

/* A writer that is not let in learns it as a connection that breaks, and loses nothing without counting it. */
static void turned_away(int32_t acknowledge)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    struct failures failures = FAILURES, writer_failures = FAILURES;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_allow_uid(options, getuid() + 1));
    udsipc_reader *reader = watched_reader(path.text, &inbox, options, &failures);
    CHECK_OK(udsipc_reader_start(reader));
    udsipc_writer_options *writer_options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(writer_options, 20));
    CHECK_OK(udsipc_writer_options_set_acknowledge(writer_options, acknowledge));
    udsipc_writer *writer = watched_writer(path.text, writer_options, &writer_failures);
    for (uint32_t i = 0; i < 10; i++)
        CHECK_OK(write_numbered(writer, 0, i));
    CHECK_OK(udsipc_writer_start(writer));
    if (acknowledge == 0) {
        /* Sent into a connection that was closed unread is suspected lost; broken on too many of them is abandoned. */
        WAIT_UNTIL(writer_metrics(writer).suspected_lost + writer_metrics(writer).abandoned >= 10);
    } else {
        /* The reader says that it refuses: nothing is lost, and the report names the reason. */
        WAIT_UNTIL(failures_of(&writer_failures, UDSIPC_ERR_PERMISSION_DENIED, "failed to connect") >= 5);
        CHECK_INT(writer_metrics(writer).suspected_lost + writer_metrics(writer).abandoned, 0);
    }
    WAIT_UNTIL(reader_metrics(reader).refused >= 2);
    CHECK_STATUS(udsipc_writer_stop(writer, PATIENCE_MS), acknowledge == 0 ? UDSIPC_OK : UDSIPC_ERR_UNDELIVERED);
    udsipc_writer_metrics metrics = writer_metrics(writer);
    CHECK_INT(metrics.sent + metrics.abandoned, 10);
    CHECK(metrics.suspected_lost >= metrics.sent);
    CHECK_INT(inbox_count(&inbox), 0);
    CHECK_INT(reader_metrics(reader).connections, 0);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

static void a_writer_that_is_turned_away(void)
{
    turned_away(0);
}

static void a_writer_that_is_turned_away_and_told_so(void)
{
    turned_away(1);
}

/* ---- how many ---- */

static void max_connections(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    struct failures failures = FAILURES;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_max_connections(options, 2));
    udsipc_reader *reader = watched_reader(path.text, &inbox, options, &failures);
    CHECK_OK(udsipc_reader_start(reader));
    int first = raw_connect(path.text), second = raw_connect(path.text);
    WAIT_UNTIL(reader_metrics(reader).active_connections == 2);
    for (uint64_t refused = 1; refused <= 3; refused++) {
        int third = raw_connect(path.text);
        raw_wait_closed(third);
        close(third);
        WAIT_UNTIL(reader_metrics(reader).refused == refused);
    }
    /* Those inside are served on, and when one leaves there is a place. */
    raw_send_numbered(first, 0, 0);
    raw_send_numbered(second, 1, 0);
    WAIT_UNTIL(inbox_count(&inbox) == 2);
    close(first);
    WAIT_UNTIL(reader_metrics(reader).active_connections == 1);
    int next = raw_connect(path.text);
    raw_send_numbered(next, 2, 0);
    WAIT_UNTIL(inbox_count(&inbox) == 3);
    CHECK_INT(reader_metrics(reader).connections, 3);
    CHECK_INT(reader_metrics(reader).refused, 3);
    CHECK_INT(reader_metrics(reader).errors, 0);
    udsipc_reader_free(reader);
    close(second);
    close(next);
}

/* A writer that finds no place keeps its messages and gets in when there is one. */
static void a_writer_waits_for_a_place(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    struct failures failures = FAILURES;
    udsipc_reader_options *options = udsipc_reader_options_new();
    CHECK_OK(udsipc_reader_options_set_max_connections(options, 1));
    udsipc_reader *reader = watched_reader(path.text, &inbox, options, &failures);
    CHECK_OK(udsipc_reader_start(reader));
    int first = raw_connect(path.text);
    WAIT_UNTIL(reader_metrics(reader).active_connections == 1);
    udsipc_writer_options *writer_options = udsipc_writer_options_new();
    CHECK_OK(udsipc_writer_options_set_max_backoff_ms(writer_options, 50));
    udsipc_writer *writer = watched_writer(path.text, writer_options, &failures);
    CHECK_OK(udsipc_writer_start(writer));
    WAIT_UNTIL(reader_metrics(reader).refused >= 2);
    close(first);
    /* A message sent before that could be lost with a connection that is turned away: suspected, and counted so. */
    WAIT_UNTIL(reader_metrics(reader).connections == 2);
    CHECK_OK(write_numbered(writer, 0, 0));
    WAIT_UNTIL(inbox_count(&inbox) == 1);
    udsipc_writer_free(writer);
    udsipc_reader_free(reader);
}

/* Many at once: all are served, none is counted twice. */
static void five_hundred_connections(void)
{
    struct path path = in_scratch("s");
    struct inbox inbox = INBOX;
    udsipc_reader *reader = started_reader(path.text, &inbox);
    static int clients[500];
    for (uint32_t i = 0; i < 500; i++) {
        clients[i] = raw_connect(path.text);
        raw_send_frame(clients[i], "first", 5);
    }
    WAIT_UNTIL(inbox_count(&inbox) == 500);
    CHECK_INT(reader_metrics(reader).active_connections, 500);
    for (uint32_t i = 0; i < 500; i++)
        raw_send_frame(clients[i], "second", 6);
    WAIT_UNTIL(inbox_count(&inbox) == 1000);
    for (uint32_t i = 0; i < 500; i++)
        close(clients[i]);
    WAIT_UNTIL(reader_metrics(reader).active_connections == 0);
    CHECK_INT(reader_metrics(reader).connections, 500);
    CHECK_INT(reader_metrics(reader).received_bytes, 500 * 11);
    CHECK_INT(reader_metrics(reader).errors, 0);
    udsipc_reader_free(reader);
}

static const struct scenario scenarios[] = {
    SCENARIO(credentials_are_the_peers),
    SCENARIO(connection_ids),
    SCENARIO(allow_uid_of_oneself),
    SCENARIO(allow_gid_of_oneself),
    SCENARIO(allow_lists_for_other_users),
    SCENARIO(a_writer_that_is_turned_away),
    SCENARIO(a_writer_that_is_turned_away_and_told_so),
    SCENARIO(max_connections),
    SCENARIO(a_writer_waits_for_a_place),
    SCENARIO(five_hundred_connections),
};

int main(int argc, char **argv)
{
    return RUN_SCENARIOS(argc, argv, scenarios);
}
