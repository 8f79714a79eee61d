/* Stores every message exactly once in an SQLite database, whenever it is killed.
 *
 *     sqlite_reader SOCKET DATABASE
 *
 * The writer (acknowledged_writer.c) sends again what this program has not handled, and also what was in the callback when
 * it died: nobody knows whether that has been stored. So the number of the last stored message is stored with the
 * messages, in one transaction, for each writer. A message whose number is not larger has been stored before, and is
 * passed over.
 *
 * Runs until SIGINT or SIGTERM, then stores what writers have already sent and leaves.
 */
#define _POSIX_C_SOURCE 200809L

#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sqlite3.h>
#include <udsipc.h>

#define PATIENCE_MS 5000

/* A row of `writers` must live as long as its writer may send a message again; with 16 bytes a writer it can stay. */
static const char schema[] =
    "PRAGMA journal_mode = WAL;"
    "PRAGMA synchronous = FULL;" /* a message that was acknowledged is on the disk */
    "CREATE TABLE IF NOT EXISTS writers (uid INTEGER, id BLOB, last INTEGER NOT NULL, PRIMARY KEY (uid, id)) WITHOUT ROWID;"
    "CREATE TABLE IF NOT EXISTS messages (number INTEGER PRIMARY KEY, uid INTEGER NOT NULL, data BLOB NOT NULL);";

struct store {
    sqlite3 *database;
    sqlite3_stmt *find, *insert, *remember;
    uint64_t stored, repeated, missing;
};

/* Who sent a message. The identifier alone proves nothing: whoever may connect can use that of another writer. The user
 * comes from the kernel, so nobody can make messages of another user look as if they had been stored. */
struct sender {
    uint32_t uid;
    uint8_t id[16];
};

/* This thread's last failure in full: it names the path, the limit or the errno, which the status alone does not. */
static bool failed(const char *what, udsipc_status status)
{
    char text[512];
    bool detailed = udsipc_last_error_message(text, sizeof text) > 0;
    fprintf(stderr, "sqlite_reader: %s: %s\n", what, detailed ? text : udsipc_strerror(status));
    return false;
}

static bool database_failed(const struct store *store, const char *what)
{
    fprintf(stderr, "sqlite_reader: %s: %s\n", what, sqlite3_errmsg(store->database));
    return false;
}

static bool run(const struct store *store, const char *sql)
{
    return sqlite3_exec(store->database, sql, NULL, NULL, NULL) == SQLITE_OK || database_failed(store, sql);
}

static bool prepare(const struct store *store, const char *sql, sqlite3_stmt **statement)
{
    return sqlite3_prepare_v2(store->database, sql, -1, statement, NULL) == SQLITE_OK || database_failed(store, sql);
}

static bool bind_sender(sqlite3_stmt *statement, const struct sender *sender)
{
    return sqlite3_bind_int64(statement, 1, sender->uid) == SQLITE_OK &&
           sqlite3_bind_blob(statement, 2, sender->id, sizeof sender->id, SQLITE_STATIC) == SQLITE_OK;
}

/* The number of the last message that was stored; 0 for a writer that is not known yet. */
static bool find_last(const struct store *store, const struct sender *sender, uint64_t *last)
{
    int result = bind_sender(store->find, sender) ? sqlite3_step(store->find) : SQLITE_ERROR;
    *last = result == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(store->find, 0) : 0;
    sqlite3_reset(store->find);
    return result == SQLITE_ROW || result == SQLITE_DONE || database_failed(store, "cannot read");
}

static bool remember_last(const struct store *store, const struct sender *sender, uint64_t last)
{
    bool ok = bind_sender(store->remember, sender) &&
              sqlite3_bind_int64(store->remember, 3, (sqlite3_int64)last) == SQLITE_OK &&
              sqlite3_step(store->remember) == SQLITE_DONE;
    sqlite3_reset(store->remember);
    return ok || database_failed(store, "cannot store");
}

static bool insert(const struct store *store, const struct sender *sender, const udsipc_buffer *message)
{
    bool ok = sqlite3_bind_int64(store->insert, 1, sender->uid) == SQLITE_OK &&
              sqlite3_bind_blob64(store->insert, 2, message->data, message->len, SQLITE_STATIC) == SQLITE_OK &&
              sqlite3_step(store->insert) == SQLITE_DONE;
    sqlite3_reset(store->insert);
    return ok || database_failed(store, "cannot store");
}

/* The writer has given messages up: its error callback and its counters say why. */
static void report_gap(const struct sender *sender, uint64_t from, uint64_t to)
{
    fprintf(stderr, "sqlite_reader: uid %" PRIu32 ", writer ", sender->uid);
    for (size_t i = 0; i < sizeof sender->id; i++)
        fprintf(stderr, "%02x", sender->id[i]);
    fprintf(stderr, ": messages %" PRIu64 " to %" PRIu64 " will not come\n", from, to);
}

/* Stores the messages `first`, `first` + 1 ... that are not stored yet. The transaction begins with the lock (IMMEDIATE): if
 * a reader that hung is replaced and wakes up again, one of the two processes stores a message and the other sees that. */
static bool store_new(struct store *store, const struct sender *sender, uint64_t first, const udsipc_buffer *messages,
                      size_t count)
{
    uint64_t last;
    if (!run(store, "BEGIN IMMEDIATE") || !find_last(store, sender, &last))
        return false;
    uint64_t gap = first > last + 1 ? first - last - 1 : 0;
    size_t known = 0;
    if (first <= last)
        known = last - first + 1 < count ? (size_t)(last - first + 1) : count;

    for (size_t i = known; i < count; i++)
        if (!insert(store, sender, &messages[i]))
            return false;
    if (known < count && !remember_last(store, sender, first + count - 1))
        return false;
    if (!run(store, "COMMIT"))
        return false;

    if (gap > 0)
        report_gap(sender, last + 1, first - 1);
    store->missing += gap;
    store->repeated += known;
    store->stored += count - known;
    return true;
}

/* Runs in a thread of the library. A batch is one transaction, so a busy writer does not wait for the disk at each message. */
static size_t on_messages(const udsipc_buffer *messages, size_t count, const udsipc_connection *connection,
                          void *userdata)
{
    struct sender sender;
    int32_t pid;
    uint32_t gid;
    if (udsipc_connection_credentials(connection, &pid, &sender.uid, &gid) != UDSIPC_OK ||
        udsipc_connection_writer_id(connection, sender.id) != UDSIPC_OK)
        return 0; /* its writer numbers no messages: this one is refused, counted in `errors` and told to on_error */

    /* A callback that fails has handled its message, and the message does not come again. A process that ends without
     * returning from the callback has not: the next one gets the messages, when there is room on the disk. */
    if (!store_new(userdata, &sender, udsipc_message_sequence(connection), messages, count))
        _exit(EXIT_FAILURE);
    return count;
}

static void on_error(int32_t status, int32_t os_errno, const char *context, void *userdata)
{
    (void)os_errno; /* the text has it */
    (void)userdata;
    failed(context, (udsipc_status)status);
}

static bool open_store(struct store *store, const char *path)
{
    if (sqlite3_open(path, &store->database) != SQLITE_OK)
        return database_failed(store, path);
    sqlite3_busy_timeout(store->database, PATIENCE_MS);
    return run(store, schema) && prepare(store, "SELECT last FROM writers WHERE uid = ? AND id = ?", &store->find) &&
           prepare(store, "INSERT INTO messages (uid, data) VALUES (?, ?)", &store->insert) &&
           prepare(store, "INSERT OR REPLACE INTO writers (uid, id, last) VALUES (?, ?, ?)", &store->remember);
}

static bool close_store(struct store *store)
{
    sqlite3_finalize(store->find);
    sqlite3_finalize(store->insert);
    sqlite3_finalize(store->remember);
    return sqlite3_close(store->database) == SQLITE_OK || database_failed(store, "cannot close");
}

static udsipc_reader *open_reader(const char *path, struct store *store)
{
    udsipc_reader_options *options = udsipc_reader_options_new();
    if (options == NULL) {
        fprintf(stderr, "sqlite_reader: out of memory\n");
        return NULL;
    }

    /* One handler thread: callbacks never overlap, as the statements need. */
    udsipc_reader *reader = NULL;
    udsipc_status status = udsipc_reader_options_set_max_handler_threads(options, 1);
    if (status == UDSIPC_OK)
        status = udsipc_reader_options_set_socket_mode(options, 0600);
    if (status == UDSIPC_OK)
        status = udsipc_reader_options_set_error_callback(options, on_error, NULL);
    if (status == UDSIPC_OK)
        status = udsipc_reader_new_batched(path, on_messages, store, options, &reader);
    if (status == UDSIPC_OK)
        status = udsipc_reader_start(reader);
    udsipc_reader_options_free(options); /* _new has copied them */

    if (status != UDSIPC_OK) {
        failed("cannot start", status);
        udsipc_reader_free(reader);
        return NULL;
    }
    return reader;
}

static bool serve(const char *path, struct store *store, const sigset_t *signals)
{
    udsipc_reader *reader = open_reader(path, store);
    if (reader == NULL)
        return false;
    fprintf(stderr, "sqlite_reader: listening on %s\n", udsipc_reader_socket_path(reader));

    int signal_number;
    int error = sigwait(signals, &signal_number);
    bool ok = error == 0;
    if (!ok)
        fprintf(stderr, "sqlite_reader: cannot wait for a signal: %s\n", strerror(error));
    udsipc_status status = udsipc_reader_stop(reader, PATIENCE_MS);
    if (status != UDSIPC_OK)
        ok = failed("stopped before everything was read", status);
    udsipc_reader_free(reader);
    fprintf(stderr, "sqlite_reader: stored=%" PRIu64 " repeated=%" PRIu64 " missing=%" PRIu64 "\n", store->stored,
            store->repeated, store->missing);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s SOCKET DATABASE\n", argv[0]);
        return 2;
    }

    /* Blocked before the reader exists, so that a signal waits for sigwait() and does not end the process half way. */
    sigset_t signals;
    if (sigemptyset(&signals) != 0 || sigaddset(&signals, SIGINT) != 0 || sigaddset(&signals, SIGTERM) != 0 ||
        sigprocmask(SIG_BLOCK, &signals, NULL) != 0) {
        perror("sqlite_reader: cannot set up signals");
        return EXIT_FAILURE;
    }
    struct store store = {0};
    bool ok = open_store(&store, argv[2]) && serve(argv[1], &store, &signals);
    ok = close_store(&store) && ok;
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}
