/*
 * udsipc.h - a message pipe between the processes of one machine
 *
 * This file is made from the sources of libudsipc: do not edit it.
 *
 *
 * WHAT IT IS
 *
 * Many writers send messages to one reader over a Unix domain stream socket, one way. A message is a row of bytes and
 * arrives whole or not at all. A writer has a queue: udsipc_write_message copies the message and returns at once, and
 * the writer sends what is queued in large batches, connecting again whenever the connection breaks. A reader calls a
 * function of yours for each message, or for many at a time.
 *
 * Nothing that was accepted is lost without being counted. For a writer, at any moment:
 *
 *     messages accepted = sent + abandoned + queue_depth
 *
 * "Sent" is handed to the kernel; suspected_lost bounds from above how many of those the reader may have gone away
 * without reading. A reader of this library lets no message go unseen: while it holds messages that are not handled, a
 * byte of them stays in the kernel, which tells the writer when the reader's process dies. udsipc_writer_flush waits
 * until everything has been read.
 *
 * A writer:
 *
 *     udsipc_writer *writer;
 *     if (udsipc_writer_new("/run/app/app.sock", NULL, &writer) != UDSIPC_OK) ...
 *     udsipc_writer_start(writer);
 *     udsipc_write_message(writer, "hello", 5);
 *     udsipc_writer_stop(writer, 1000);
 *     udsipc_writer_free(writer);
 *
 * A reader:
 *
 *     static int32_t on_message(const uint8_t *data, size_t len,
 *                               const udsipc_connection *connection, void *userdata)
 *     {
 *         return 0;
 *     }
 *
 *     udsipc_reader *reader;
 *     if (udsipc_reader_new("/run/app/app.sock", on_message, NULL, NULL, &reader) != UDSIPC_OK) ...
 *     udsipc_reader_start(reader);
 *     ... until it is time to go ...
 *     udsipc_reader_stop(reader, 1000);
 *     udsipc_reader_free(reader);
 *
 * Link with -ludsipc.
 *
 *
 * ERRORS
 *
 * UDSIPC_OK is 0, every other status is a positive number that never changes its meaning. udsipc_strerror gives a short
 * text for it, udsipc_last_error_message the whole story of the calling thread's last failure. What happens in the
 * background is told to the error callback of the options, and counted in the metrics.
 *
 * NULL is checked in every call. A function that returns a status answers UDSIPC_ERR_NULL_POINTER to a NULL that its
 * description does not allow, the others answer what their description says; a free function given NULL does nothing. A
 * message of (NULL, 0) is an empty one. An empty message is accepted and not sent.
 *
 * Outputs are written only when the call succeeds, except where the description says otherwise (accepted of
 * udsipc_write_messages, needed of udsipc_resolve_socket_path).
 *
 * UDSIPC_ERR_PANIC is a bug in this library. It is caught, and the handle answers so from then on: free it.
 *
 *
 * OWNERSHIP
 *
 * Handles are opaque pointers: what a _new function made, its _free function frees, once. Options are only read when a
 * handle is made from them, and may be freed, changed or used again right after. Whatever is passed in is copied if it
 * is needed after the call, except userdata: it must stay valid until the handle has been freed. What a callback is
 * given is valid until it returns.
 *
 *
 * TIMES
 *
 * Times are milliseconds, and their names end in _ms. As a waiting time 0 does not wait, and UDSIPC_WAIT_FOREVER has no
 * limit. As an option 0 is refused with UDSIPC_ERR_INVALID_TIMEOUT.
 *
 *
 * THREADS AND CALLBACKS
 *
 * Every call except _free may be made from any thread at any time while the handle lives, also from inside callbacks.
 * Callbacks run on threads of the library, and those for errors also on the thread that calls stop or free. The messages
 * of one connection are delivered in order, one at a time; those of different connections at the same time, on up to
 * max_handler_threads threads. A slow callback delays its own connection only.
 *
 * All writers of a process that are started share their threads: one for one writer, two for several, as many as there
 * are processors while many are busy, and one more for each that is held up by an error callback or a file system that
 * does not answer: that delays its own writer only. Threads that are not needed leave after some seconds, but for two.
 * They begin with the first writer that is started, inherit from its caller what threads inherit (processor affinity,
 * priority, namespaces), and end with the last one that is stopped. A reader has threads of its own, see
 * udsipc_reader_options_set_max_handler_threads.
 *
 * After a _stop function has returned, no callback of that handle runs or will run. Inside a callback of the same
 * handle it returns UDSIPC_ERR_WOULD_DEADLOCK and changes nothing. A _free function may be called inside a callback of
 * the same handle: it returns at once, callbacks that are running go on to their end, and none begins any more.
 * When all handles are stopped or freed, no thread of the library is left, and it may be unloaded (dlclose(3)); after a
 * _free inside a callback one may be on its way to its end still.
 *
 * A callback must return. An exception of C++, a longjmp or the end of its thread (pthread_exit) must not leave it: the
 * behaviour is undefined, and most likely the end of the process. udsipc.hpp catches exceptions. Interpreters end threads
 * that call into them while they shut down: stop or free every handle before that (in Python by atexit).
 *
 *
 * EVENT LOOPS
 *
 * A handle that is not started has no threads. A program with an event loop of its own waits until the descriptor of
 * udsipc_writer_fd or udsipc_reader_fd is readable (it is level triggered) and then calls udsipc_writer_dispatch or
 * udsipc_reader_dispatch with 0: callbacks run inside that call. Start and dispatch exclude each other
 * (UDSIPC_ERR_WRONG_STATE).
 *
 *
 * FORK
 *
 * Make handles after fork. In a child, calls on a handle of the parent return UDSIPC_ERR_FORKED; the _free functions
 * close the child's descriptors only, and leave the parent's threads, socket file and traffic alone. All descriptors
 * are closed by exec.
 *
 *
 * SIGNALS, OUTPUT, ENVIRONMENT
 *
 * The library installs no signal handler, raises no SIGPIPE and blocks all signals in its own threads. It prints
 * nothing, never ends the process on bad input, and reads the environment but never changes it. Under systemd it reads
 * RUNTIME_DIRECTORY, STATE_DIRECTORY, LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES and NOTIFY_SOCKET, except in a program that
 * has more rights than whoever started it: set-user-ID, set-group-ID, file capabilities (AT_SECURE, getauxval(3)).
 *
 *
 * PATHS
 *
 * A path is a row of bytes of at most udsipc_max_socket_path_length(). One that begins with "@" is an abstract address:
 * no file, no directory and no permissions: use udsipc_reader_options_allow_uid. While a reader
 * takes a path or gives it back it holds a file PATH.lock next to it, so that of two readers that want the same path
 * exactly one gets it, and so that the socket file which a killed reader left behind is replaced.
 *
 *
 * ON THE WIRE
 *
 * Each message is its length as an unsigned LEB128 varint of at most ten bytes (seven bits a byte, the lowest first,
 * the highest bit set in all but the last byte), and that many bytes. A length of 0 is skipped: it may serve as a sign
 * of life. The reader sends nothing. A message that was cut by the end of a connection is dropped by the reader and
 * sent again, whole, on the writer's next connection. The Go library github.com/Psiphon-Inc/uds-ipc speaks the same.
 *
 *
 * GROWTH
 *
 * Numbers, names and meanings stay. The metrics structs grow at their end only, and are passed with their sizeof: a
 * program that was built with an older header keeps working with a newer library, and the other way round.
 */

#ifndef UDSIPC_H
#define UDSIPC_H

#include <stddef.h>
#include <stdint.h>

/* The version of this header; udsipc_version() is that of the library. */
#define UDSIPC_VERSION_MAJOR 0
#define UDSIPC_VERSION_MINOR 1
#define UDSIPC_VERSION_PATCH 0
/* One number to compare: major * 65536 + minor * 256 + patch. */
#define UDSIPC_VERSION_NUMBER 256
#define UDSIPC_VERSION_STRING "0.1.0"

/** As a waiting time: no limit. As an option: never. */
#define UDSIPC_WAIT_FOREVER UINT64_MAX

/**
 * What a call returns: 0 is success, everything else says why not. Numbers are never reused or changed, and new ones
 * may appear: treat an unknown number as a failure.
 */
typedef enum udsipc_status {
    /** Success. */
    UDSIPC_OK = 0,
    /** A required pointer is NULL. */
    UDSIPC_ERR_NULL_POINTER = 1,
    /** Any other value that is out of its range. */
    UDSIPC_ERR_INVALID_ARGUMENT = 2,
    /** The path is empty, or longer than udsipc_max_socket_path_length(). */
    UDSIPC_ERR_INVALID_SOCKET_PATH = 3,
    /** A timeout or backoff of 0 was given as an option. */
    UDSIPC_ERR_INVALID_TIMEOUT = 4,
    /** A queue or buffer size is out of its range. */
    UDSIPC_ERR_INVALID_BUFFER_SIZE = 5,
    /** A reader was asked for without a message callback. */
    UDSIPC_ERR_HANDLER_NULL = 6,
    /** max_accept_errors is above 63. */
    UDSIPC_ERR_MAX_ACCEPT_ERRORS_TOO_LARGE = 7,
    /** The call waits for the handle's callbacks and was made from inside one of them. Nothing has changed. */
    UDSIPC_ERR_WOULD_DEADLOCK = 8,
    /** The handle was made by the parent of this process: a child must make its own. */
    UDSIPC_ERR_FORKED = 9,
    /** Dispatch on a started handle, or start on a dispatched one. */
    UDSIPC_ERR_WRONG_STATE = 10,
    /** The queue is at a limit. The message was not taken and is counted in dropped. */
    UDSIPC_ERR_BUFFER_FULL = 20,
    /** The handle has been stopped. */
    UDSIPC_ERR_STOPPED = 21,
    /** The message is larger than max_message_size. */
    UDSIPC_ERR_MESSAGE_TOO_LARGE = 22,
    /** The given time passed first. */
    UDSIPC_ERR_TIMEOUT = 23,
    /** In error callbacks: the reader took nothing for write_timeout. Connection and message are kept. */
    UDSIPC_ERR_BACKPRESSURE = 24,
    /** In error callbacks: the connection broke during a write. The message is sent again on the next one. */
    UDSIPC_ERR_NO_CONSUMER = 25,
    /** In error callbacks: nobody listens at the path. The connect is tried again. */
    UDSIPC_ERR_NOT_CONNECTED = 26,
    /** The peer ended in the middle of a frame. */
    UDSIPC_ERR_CONNECTION_CLOSED = 27,
    /** Messages that had been accepted were given up; the metric abandoned says how many. */
    UDSIPC_ERR_UNDELIVERED = 28,
    /** The operating system refused; os_errno or udsipc_last_error_message() says why. */
    UDSIPC_ERR_IO = 40,
    /** A length prefix that is no varint of 64 bits. */
    UDSIPC_ERR_INVALID_LENGTH_PREFIX = 41,
    /** The message callback returned non-zero. */
    UDSIPC_ERR_HANDLER_FAILED = 42,
    /** A live reader owns the path, or something that is not a socket lies there. */
    UDSIPC_ERR_ADDRESS_IN_USE = 43,
    /** The file system, or the check of the peer, says no. */
    UDSIPC_ERR_PERMISSION_DENIED = 44,
    /** LISTEN_FDS and its companions are set for this process but cannot be used. */
    UDSIPC_ERR_SYSTEMD = 45,
    /** Descriptors, threads or memory are used up. */
    UDSIPC_ERR_NO_RESOURCES = 46,
    /** A bug in this library. Free the handle; please report the text of udsipc_last_error_message(). */
    UDSIPC_ERR_PANIC = 90,
} udsipc_status;

/** Who sent a message. Opaque, and valid only during the callback that it was given to. */
typedef struct udsipc_connection udsipc_connection;

/** The receiving end: a socket, its connections, and the threads that call back. Opaque. */
typedef struct udsipc_reader udsipc_reader;

/** What a reader is to be made with. Opaque. */
typedef struct udsipc_reader_options udsipc_reader_options;

/** The sending end: a queue, and a connection that is made again whenever it breaks. Opaque. */
typedef struct udsipc_writer udsipc_writer;

/** What a writer is to be made with. Opaque. */
typedef struct udsipc_writer_options udsipc_writer_options;

/**
 * Called for what happens in the background, where no function could return it.
 *
 * Parameters:
 *   status    what happened, a udsipc_status
 *   os_errno  the errno behind it, or 0
 *   context   where: "failed to connect", "write failure", "write failure after reconnect",
 *             "write failure during drain", "write failure during drain (retry message)",
 *             "failed to read the length prefix", "message too large", "failed to read the complete message",
 *             "handler failed to process a message", "too many consecutive failures in accept loop",
 *             "failed to notify systemd"; static text
 *   userdata  what was given together with the callback
 * udsipc_last_error_message gives the whole text of the error during the call.
 * Threads: one of the handle's threads, or the caller of a function that does the handle's work: dispatch, stop, free,
 * and for a writer that is dispatched flush and udsipc_write_message_timeout. For a reader several at a time.
 * It may call any function of this library, on any handle; stopping its own handle answers UDSIPC_ERR_WOULD_DEADLOCK.
 * It must return: no exception and no longjmp may leave it.
 */
typedef void (*udsipc_error_callback)(int32_t status,
                                      int32_t os_errno,
                                      const char *context,
                                      void *userdata);

/** One message: len bytes at data. (NULL, 0) is an empty message. */
typedef struct udsipc_buffer {
    /** The first byte. */
    const uint8_t *data;
    /** How many bytes. */
    size_t len;
} udsipc_buffer;

/** What a writer has done so far. At any moment the messages accepted are sent + abandoned + queue_depth. */
typedef struct udsipc_writer_metrics {
    /** Messages handed to the kernel whole. */
    uint64_t sent;
    /** Messages refused because the queue was full. */
    uint64_t dropped;
    /** Failed attempts: a message that failed once and then went through counts here and in sent. */
    uint64_t failed;
    /** Messages accepted and neither sent nor abandoned; one that is being written counts here. */
    uint64_t queue_depth;
    /** Bytes of the messages in queue_depth. */
    uint64_t queue_bytes;
    /** Bytes of the messages in sent. */
    uint64_t sent_bytes;
    /** Times that a message which had failed was tried again on a new connection. */
    uint64_t retried;
    /** Messages accepted and then given up: at stop, or after max_attempts broken connections. */
    uint64_t abandoned;
    /** Messages in sent that the reader may have gone away without reading: an upper bound. */
    uint64_t suspected_lost;
    /** Connections made. */
    uint64_t connections;
    /** Connects that failed. */
    uint64_t connect_failures;
} udsipc_writer_metrics;

/**
 * Called by a reader for each message.
 *
 * Parameters:
 *   data        the message; valid during the call only, so copy what must stay
 *   len         its length in bytes, at least 1: empty messages are not delivered
 *   connection  who sent it; valid during the call only
 *   userdata    what was given together with the callback
 * Returns: 0, or anything else for "failed": that counts in the metric errors, is reported to the error callback as
 * UDSIPC_ERR_HANDLER_FAILED, and the next message is delivered all the same.
 * Threads: one of the reader's threads, or the caller of udsipc_reader_dispatch. The messages of one connection come
 * one after another, in order; those of different connections at the same time, unless max_handler_threads is 1.
 * It may call any function of this library, on any handle; udsipc_reader_stop on its own reader answers
 * UDSIPC_ERR_WOULD_DEADLOCK. It must return: no exception and no longjmp may leave it.
 */
typedef int32_t (*udsipc_message_callback)(const uint8_t *data,
                                           size_t len,
                                           const udsipc_connection *connection,
                                           void *userdata);

/**
 * Called by a batched reader for many messages of one connection at a time.
 *
 * Parameters:
 *   messages    the messages, in order; array and bytes are valid during the call only
 *   count       how many, at least 1
 *   connection  who sent them; valid during the call only
 *   userdata    what was given together with the callback
 * Returns: how many were handled well, counted from the first. If that is less than count, the message at that index
 * counts as failed, and the call is repeated for what stands behind it. More than count is taken as count.
 * Threads and everything else: as udsipc_message_callback.
 */
typedef size_t (*udsipc_batch_callback)(const udsipc_buffer *messages,
                                        size_t count,
                                        const udsipc_connection *connection,
                                        void *userdata);

/** What a reader has done so far. */
typedef struct udsipc_reader_metrics {
    /** Messages that the callback handled well. */
    uint64_t received;
    /** Connections served since the reader was made. */
    uint64_t connections;
    /** Bad prefixes, messages that were too large or cut, and failed callbacks, one each. */
    uint64_t errors;
    /** Connections that are open now. */
    uint64_t active_connections;
    /** Bytes of the messages in received. */
    uint64_t received_bytes;
    /** Failed attempts to accept a connection. */
    uint64_t accept_errors;
    /** Connections closed because they were silent for inactivity_timeout. */
    uint64_t idle_closed;
    /** Connections closed unread, because of the check of the peer or max_connections. */
    uint64_t refused;
} udsipc_reader_metrics;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * The version of the library that is loaded, which may be newer than the header that a program was built with: compare
 * with UDSIPC_VERSION_STRING.
 *
 * Returns: "MAJOR.MINOR.PATCH", never NULL.
 * Ownership: static text, valid for ever; do not free it.
 * Threads: any. Blocking: never.
 */
const char *udsipc_version(void);

/**
 * A short text for a status.
 *
 * Parameters:
 *   status  any number, also one that is no status
 * Returns: a text in English without a line break, never NULL; "unknown status" for a number that has none.
 * Ownership: static text, valid for ever; do not free it.
 * Threads: any. Blocking: never.
 */
const char *udsipc_strerror(int32_t status);

/**
 * The whole text of the calling thread's last failure: which path, which limit, what the system said. Inside an error
 * callback it is the text of the error that the callback is about. A call that succeeds leaves it as it is.
 *
 * Parameters:
 *   buffer    where the text is stored, cut to fit and always NUL-terminated, as with snprintf; NULL to ask for the
 *             length only
 *   capacity  size of the buffer in bytes; 0 stores nothing
 * Returns: the length of the whole text in bytes without the NUL; 0 if nothing has failed on this thread. The text was
 * cut if that is not less than capacity.
 * Ownership: the buffer is the caller's.
 * Threads: any; each has its own text. Blocking: never.
 */
size_t udsipc_last_error_message(char *buffer,
                                 size_t capacity);

/**
 * Makes options for a writer, all at their defaults.
 *
 * Returns: the options, or NULL if the library failed to make them.
 * Ownership: the caller's; free them with udsipc_writer_options_free, which may be right after the writer was made.
 * Threads: any. Blocking: never.
 */
udsipc_writer_options *udsipc_writer_options_new(void);

/**
 * Frees options. The writers that were made with them keep what they were made with.
 *
 * Parameters:
 *   options  the options; NULL does nothing
 * Ownership: the options must not be used again.
 * Threads: any, but no other call may be using these options. Blocking: never.
 */
void udsipc_writer_options_free(udsipc_writer_options *options);

/**
 * Sets how many messages the queue holds at most. A message beyond that is refused with UDSIPC_ERR_BUFFER_FULL.
 *
 * Parameters:
 *   options   the options to change
 *   messages  1 to 1048576
 * Default: 10000
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_BUFFER_SIZE outside the range.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_max_buffered_writes(udsipc_writer_options *options,
                                                            uint32_t messages);

/**
 * Sets how many bytes of messages the queue holds at most, besides the limit on their number. A queue deeper than the
 * processor's cache costs speed: some MiB are a good limit for large messages.
 *
 * Parameters:
 *   options  the options to change
 *   bytes    any number of bytes; 0 is no limit
 * Default: 0
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_max_buffered_bytes(udsipc_writer_options *options,
                                                           uint64_t bytes);

/**
 * Sets the largest message that is accepted; a larger one is refused with UDSIPC_ERR_MESSAGE_TOO_LARGE. It should not
 * be above the reader's limit: a reader closes the connection on a message that is too large for it.
 *
 * Parameters:
 *   options  the options to change
 *   bytes    any number of bytes
 * Default: 10485760 (10 MiB), which is the reader's default as well
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_max_message_size(udsipc_writer_options *options,
                                                         uint64_t bytes);

/**
 * Sets how long the reader may take nothing before that is reported to the error callback as UDSIPC_ERR_BACKPRESSURE.
 * The connection, the order and the message are kept: it is a report, not an end.
 *
 * Parameters:
 *   options  the options to change
 *   ms       milliseconds, 1 or more; UDSIPC_WAIT_FOREVER for no report
 * Default: 1000
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_TIMEOUT for 0.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_write_timeout_ms(udsipc_writer_options *options,
                                                         uint64_t ms);

/**
 * Sets how long a connect waits for a place when the reader's backlog is full.
 *
 * Parameters:
 *   options  the options to change
 *   ms       milliseconds, 1 or more; UDSIPC_WAIT_FOREVER for no limit
 * Default: 1000
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_TIMEOUT for 0.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_dial_timeout_ms(udsipc_writer_options *options,
                                                        uint64_t ms);

/**
 * Sets the longest pause between two attempts to connect. Pauses begin at 5 to 20 milliseconds and double, with a
 * random part.
 *
 * Parameters:
 *   options  the options to change
 *   ms       milliseconds, 1 or more
 * Default: 10000
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_TIMEOUT for 0.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_max_backoff_ms(udsipc_writer_options *options,
                                                       uint64_t ms);

/**
 * Sets the size of the socket's send buffer (SO_SNDBUF). The kernel doubles it and cuts it to net.core.wmem_max.
 *
 * Parameters:
 *   options  the options to change
 *   bytes    0 to 1073741823; 0 leaves the system's
 * Default: 262144 (256 KiB)
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_BUFFER_SIZE outside the range.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_write_buffer_size(udsipc_writer_options *options,
                                                          uint32_t bytes);

/**
 * Sets after how many connections that broke on it a message is given up, counted in abandoned and reported, so that
 * it never blocks the messages behind it. A connect that fails is no attempt.
 *
 * Parameters:
 *   options   the options to change
 *   attempts  any number; 0 is never
 * Default: 5
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_max_attempts(udsipc_writer_options *options,
                                                     uint32_t attempts);

/**
 * Sets what stop does when nobody listens: give up within 250 milliseconds, or go on trying to connect until its time
 * has passed.
 *
 * Parameters:
 *   options  the options to change
 *   on       0 to give up early, anything else to go on trying
 * Default: 0
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_drain_until_deadline(udsipc_writer_options *options,
                                                             int32_t on);

/**
 * Sets the function that is told what happens in the background.
 *
 * Parameters:
 *   options   the options to change
 *   callback  see udsipc_error_callback; NULL, the default, for none
 *   userdata  handed to the callback, never looked at; may be NULL
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if options is NULL.
 * Ownership: what userdata points to is the caller's, and must stay valid until every writer made with these options
 * has been freed.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_error_callback(udsipc_writer_options *options,
                                                       udsipc_error_callback callback,
                                                       void *userdata);

/**
 * Makes options for a reader, all at their defaults.
 *
 * Returns: the options, or NULL if the library failed to make them.
 * Ownership: the caller's; free them with udsipc_reader_options_free, which may be right after the reader was made.
 * Threads: any. Blocking: never.
 */
udsipc_reader_options *udsipc_reader_options_new(void);

/**
 * Frees options. The readers that were made with them keep what they were made with.
 *
 * Parameters:
 *   options  the options; NULL does nothing
 * Ownership: the options must not be used again.
 * Threads: any, but no other call may be using these options. Blocking: never.
 */
void udsipc_reader_options_free(udsipc_reader_options *options);

/**
 * Sets the largest message that is taken. On a larger one the connection is closed, with an error of
 * UDSIPC_ERR_MESSAGE_TOO_LARGE, before anything is reserved for it.
 *
 * Parameters:
 *   options  the options to change
 *   bytes    any number of bytes; 0 refuses every message that is not empty
 * Default: 10485760 (10 MiB)
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_max_message_size(udsipc_reader_options *options,
                                                         uint64_t bytes);

/**
 * Sets how long a connection may be silent before it is closed. That loses nothing: its writer connects again for its
 * next message. Between messages it is no error and counts in idle_closed; in the middle of a message it counts in
 * errors.
 *
 * Parameters:
 *   options  the options to change
 *   ms       milliseconds, 1 or more; UDSIPC_WAIT_FOREVER for never
 * Default: 10000
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_TIMEOUT for 0.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_inactivity_timeout_ms(udsipc_reader_options *options,
                                                              uint64_t ms);

/**
 * Sets how many failures in a row to accept a connection stay unreported. The reader never gives up: it serves again
 * when the shortage ends.
 *
 * Parameters:
 *   options  the options to change
 *   count    0 to 63
 * Default: 10
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_MAX_ACCEPT_ERRORS_TOO_LARGE above 63.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_max_accept_errors(udsipc_reader_options *options,
                                                          uint32_t count);

/**
 * Sets the size of the socket's receive buffer (SO_RCVBUF). Linux ignores it for sockets of this kind (unix(7)); it
 * is there for systems that do not.
 *
 * Parameters:
 *   options  the options to change
 *   bytes    0 to 1073741823; 0 leaves the system's
 * Default: 262144 (256 KiB)
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_BUFFER_SIZE outside the range.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_read_buffer_size(udsipc_reader_options *options,
                                                         uint32_t bytes);

/**
 * Sets how many callbacks may run at the same time, and so how many threads the reader has at most. Threads are
 * started only when they are needed.
 *
 * Parameters:
 *   options  the options to change
 *   threads  1 to 4096; 1 means that callbacks never overlap
 * Default: 64
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT outside the range.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_max_handler_threads(udsipc_reader_options *options,
                                                            uint32_t threads);

/**
 * Sets how many connections may be open. One more is closed at once and counts in refused.
 *
 * Parameters:
 *   options  the options to change
 *   count    any number; 0 is no limit
 * Default: 0
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_max_connections(udsipc_reader_options *options,
                                                        uint32_t count);

/**
 * Sets the permission bits of the socket file: a writer needs the write permission to connect. The file never has
 * wider ones, not for a moment. Without effect on a socket that systemd passed; with an abstract address, which has no
 * permissions, udsipc_reader_new refuses: UDSIPC_ERR_INVALID_ARGUMENT.
 *
 * Parameters:
 *   options  the options to change
 *   mode     0 to 0777 (octal)
 * Default: as the umask says
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT above 0777.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_socket_mode(udsipc_reader_options *options,
                                                    uint32_t mode);

/**
 * Sets the group that owns the socket file; the process must be a member of it. Without effect on a socket that
 * systemd passed; with an abstract address udsipc_reader_new refuses: UDSIPC_ERR_INVALID_ARGUMENT.
 *
 * Parameters:
 *   options  the options to change
 *   gid      a group id; not 4294967295, which names no group
 * Default: as the directory says
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT for 4294967295.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_socket_group(udsipc_reader_options *options,
                                                     uint32_t gid);

/**
 * Lets writers of this user in. The first call of this function or udsipc_reader_options_allow_gid shuts all others
 * out; each further call lets some more in. A writer that is not let in is disconnected unread and counts in refused.
 *
 * Parameters:
 *   options  the options to change
 *   id       a user id, compared with the writer's effective one at the time of its connect (SO_PEERCRED)
 * Default: everybody who can open the socket is let in
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_allow_uid(udsipc_reader_options *options,
                                              uint32_t id);

/**
 * Lets writers of this group in, be it their primary or a supplementary group. See udsipc_reader_options_allow_uid.
 *
 * Parameters:
 *   options  the options to change
 *   id       a group id
 * Default: everybody who can open the socket is let in
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_allow_gid(udsipc_reader_options *options,
                                              uint32_t id);

/**
 * Sets which of several descriptors that systemd passed is this reader's socket (FileDescriptorName= of the socket
 * unit).
 *
 * Parameters:
 *   options  the options to change
 *   name     1 to 255 bytes of UTF-8 without ":" and control characters; copied; NULL takes the name away
 * Default: no name; the only descriptor that was passed is meant, or the one that is bound to the reader's path.
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if options is NULL; UDSIPC_ERR_INVALID_ARGUMENT if the name is not as
 * above.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_listen_fd_name(udsipc_reader_options *options,
                                                       const char *name);

/**
 * Sets whether the reader follows systemd's environment: it takes the socket that systemd passed (LISTEN_FDS), moves
 * its path into RUNTIME_DIRECTORY, and sends READY=1 at start and STOPPING=1 when stop begins (NOTIFY_SOCKET).
 * Outside of systemd that changes nothing.
 *
 * Parameters:
 *   options  the options to change
 *   on       0 for no, anything else for yes
 * Default: 1
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_use_systemd(udsipc_reader_options *options,
                                                    int32_t on);

/**
 * Sets the function that is told what happens in the background.
 *
 * Parameters:
 *   options   the options to change
 *   callback  see udsipc_error_callback; NULL, the default, for none
 *   userdata  handed to the callback, never looked at; may be NULL
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if options is NULL.
 * Ownership: what userdata points to is the caller's, and must stay valid until every reader made with these options
 * has been freed.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_error_callback(udsipc_reader_options *options,
                                                       udsipc_error_callback callback,
                                                       void *userdata);

/**
 * Makes a writer. Touches no file and no socket: the reader need not exist yet.
 *
 * Parameters:
 *   socket_path  where the reader listens, or "@name" for an abstract address; copied
 *   options      how the writer behaves; copied, so the same options can make several; NULL for the defaults
 *   out          where the handle is stored
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_SOCKET_PATH; UDSIPC_ERR_NO_RESOURCES; UDSIPC_ERR_IO.
 * Ownership: the handle is the caller's; free it with udsipc_writer_free. The options stay the caller's.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_new(const char *socket_path,
                                const udsipc_writer_options *options,
                                udsipc_writer **out);

/**
 * Starts the writer: a thread of the library connects at once and sends what is queued. A second call changes nothing.
 *
 * Parameters:
 *   writer  the writer
 * Returns: UDSIPC_OK, also while nobody listens; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_STOPPED; UDSIPC_ERR_WRONG_STATE
 * if it has been dispatched; UDSIPC_ERR_NO_RESOURCES if no thread can be had; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Threads: any. Blocking: never; it does not wait for the connection.
 */
udsipc_status udsipc_writer_start(udsipc_writer *writer);

/**
 * Puts a message into the queue. Before start it waits there. An empty message is UDSIPC_OK and sends nothing.
 *
 * Parameters:
 *   writer  the writer
 *   data    the message; copied; may be NULL if len is 0
 *   len     its length in bytes, at most max_message_size
 * Returns: UDSIPC_OK, the message is in the queue; UDSIPC_ERR_BUFFER_FULL, it is not, and dropped has grown by one;
 * UDSIPC_ERR_MESSAGE_TOO_LARGE; UDSIPC_ERR_STOPPED, also while a stop is going on; UDSIPC_ERR_NULL_POINTER;
 * UDSIPC_ERR_INVALID_ARGUMENT for a len that no memory can hold; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Ownership: the data stays the caller's, and may be reused when the call returns.
 * Threads: any, several at a time; the messages of one thread keep their order. Blocking: never.
 */
udsipc_status udsipc_write_message(udsipc_writer *writer,
                                   const void *data,
                                   size_t len);

/**
 * As udsipc_write_message, but waits for room in the queue.
 *
 * Parameters:
 *   writer      the writer
 *   data        the message; copied; may be NULL if len is 0
 *   len         its length in bytes, at most max_message_size
 *   timeout_ms  how long to wait in milliseconds; 0 does not wait; UDSIPC_WAIT_FOREVER has no limit
 * Returns: as udsipc_write_message, with a timeout_ms of 0 in all; UDSIPC_ERR_TIMEOUT if there was no room in time,
 * and dropped has grown by one; UDSIPC_ERR_STOPPED if a stop began meanwhile; UDSIPC_ERR_WOULD_DEADLOCK if it would
 * have to wait inside a callback of this writer.
 * Ownership: the data stays the caller's.
 * Threads: any, several at a time. A writer that is dispatched is driven by this call while it waits, so that its
 * callbacks may run in it. Blocking: up to timeout_ms.
 */
udsipc_status udsipc_write_message_timeout(udsipc_writer *writer,
                                           const void *data,
                                           size_t len,
                                           uint64_t timeout_ms);

/**
 * Puts several messages into the queue, in order, and stops at the first that is refused. Cheaper than as many calls
 * of udsipc_write_message.
 *
 * Parameters:
 *   writer    the writer
 *   messages  an array; copied; may be NULL if count is 0; an entry with len 0 is an empty message
 *   count     how many entries the array has
 *   accepted  how many messages have been accepted: the index of the one that was refused, or count. Written whatever
 *             the call returns, unless accepted itself is NULL
 * Returns: UDSIPC_OK, all were accepted; otherwise why the one at index accepted was not, as udsipc_write_message, and
 * UDSIPC_ERR_NULL_POINTER also for an entry whose data is NULL while its len is not 0.
 * Ownership: array and data stay the caller's.
 * Threads: any, several at a time. Blocking: never.
 */
udsipc_status udsipc_write_messages(udsipc_writer *writer,
                                    const udsipc_buffer *messages,
                                    size_t count,
                                    size_t *accepted);

/**
 * Waits until the reader's process has read everything that was accepted before the call. A reader of this library
 * takes the last byte of what is there when its callback has returned, so there it means: has handled everything. A
 * reader of another kind may hold in its own memory what it has read.
 *
 * Parameters:
 *   writer      the writer, started
 *   timeout_ms  how long to wait in milliseconds; 0 only asks; UDSIPC_WAIT_FOREVER has no limit
 * Returns: UDSIPC_OK; UDSIPC_ERR_TIMEOUT; UDSIPC_ERR_UNDELIVERED, at once, if messages were given up or may have been
 * lost with a reader since the last flush (each such loss is told once); UDSIPC_ERR_STOPPED, it has been stopped;
 * UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this writer; UDSIPC_ERR_NULL_POINTER;
 * UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Threads: any, several at a time. A writer that is dispatched is driven by this call while it waits, so that its
 * callbacks may run in it. Blocking: up to timeout_ms.
 */
udsipc_status udsipc_writer_flush(udsipc_writer *writer,
                                  uint64_t timeout_ms);

/**
 * Refuses new messages at once, sends what is queued, connecting again if it must, and ends the writer; with the last
 * one of the process that had been started, their threads. When nobody listens it gives up within 250 milliseconds,
 * even for UDSIPC_WAIT_FOREVER, unless drain_until_deadline is on. A backlog that is full is no such case: there is a
 * reader, and it is waited for. While this process has no descriptors left, what the last attempt heard before holds, so
 * UDSIPC_WAIT_FOREVER may then wait as long as that lasts. Every message given up counts in abandoned and is reported to
 * the error callback. After this call no callback of the writer runs. A second call returns what the first returned.
 *
 * Parameters:
 *   writer      the writer
 *   timeout_ms  how long sending may take in milliseconds; 0 sends nothing more; UDSIPC_WAIT_FOREVER has no limit
 * Returns: UDSIPC_OK, everything that was still queued has gone out; UDSIPC_ERR_UNDELIVERED, nobody listened, or the
 * writer held messages and was never started, or a message was given up after max_attempts meanwhile;
 * UDSIPC_ERR_TIMEOUT, the time passed first; UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this writer, nothing has
 * changed; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Threads: any, several at a time. Blocking: up to timeout_ms, plus the error callbacks that are running or due.
 */
udsipc_status udsipc_writer_stop(udsipc_writer *writer,
                                 uint64_t timeout_ms);

/**
 * Reads the writer's counters. They stay readable after stop.
 *
 * Parameters:
 *   writer    the writer
 *   out       where they are stored
 *   out_size  sizeof(udsipc_writer_metrics) as the program was compiled: a shorter struct gets the counters that it
 *             has, and in a longer one those that this library does not know are 0
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT if out_size is 0 or no multiple of 8;
 * UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Ownership: out is the caller's.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_get_metrics(const udsipc_writer *writer,
                                        udsipc_writer_metrics *out,
                                        size_t out_size);

/**
 * The path that the writer connects to.
 *
 * Parameters:
 *   writer  the writer
 * Returns: the path as it was given; "" if writer is NULL; never NULL.
 * Ownership: the writer's, valid until it is freed.
 * Threads: any. Blocking: never. Works in a forked child, too.
 */
const char *udsipc_writer_socket_path(const udsipc_writer *writer);

/**
 * Whether the writer has a connection now. A reader that systemd starts on demand need not be running for that.
 *
 * Parameters:
 *   writer  the writer
 * Returns: 1 or 0; 0 if writer is NULL and in a forked child.
 * Threads: any. Blocking: never.
 */
int32_t udsipc_writer_is_connected(const udsipc_writer *writer);

/**
 * Frees a writer. One that runs is stopped first, as udsipc_writer_stop with 0: messages that are still queued are
 * given up and reported. Call udsipc_writer_stop before it to have them sent.
 *
 * Parameters:
 *   writer  the writer; NULL does nothing
 * Ownership: the handle must not be used again. No callback of it runs after this call, except when it is made inside
 * one of them: that one goes on to its end, and the writer ends right after it.
 * In a forked child it closes the child's descriptors and leaves the parent's writer alone.
 * Threads: any, but no other call on this handle may be running, other than the one whose callback makes this call.
 * Blocking: as udsipc_writer_stop with 0; inside a callback of this writer it waits for nothing.
 */
void udsipc_writer_free(udsipc_writer *writer);

/**
 * A descriptor for the host's own event loop, which then drives the writer instead of a thread: it is readable, level
 * triggered, when udsipc_writer_dispatch has something to do. A message that finds the writer connected and idle may be
 * sent by the call that writes it; then there is nothing left to do.
 *
 * Parameters:
 *   writer  the writer, not started
 * Returns: the descriptor; -1 if there is none: writer is NULL, or this is a forked child.
 * Ownership: the writer's. Wait on it with poll, select or epoll; do not read, change or close it.
 * Threads: any. Blocking: never.
 */
int32_t udsipc_writer_fd(const udsipc_writer *writer);

/**
 * Does what there is to do, on the caller's thread: connect, send, report. The first call takes the place of start.
 *
 * Parameters:
 *   writer      the writer, not started
 *   timeout_ms  how long to wait in milliseconds if there is nothing to do; 0 does not wait; UDSIPC_WAIT_FOREVER has
 *               no limit
 * Returns: UDSIPC_OK, also if there was nothing to do; UDSIPC_ERR_WRONG_STATE if the writer has been started;
 * UDSIPC_ERR_STOPPED; UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this writer; UDSIPC_ERR_NULL_POINTER;
 * UDSIPC_ERR_IO; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Threads: any, but one at a time is enough. Callbacks run in this call. Blocking: up to timeout_ms.
 */
udsipc_status udsipc_writer_dispatch(udsipc_writer *writer,
                                     uint64_t timeout_ms);

/**
 * Makes a reader, binds its socket and listens: from then on writers can connect, and wait for udsipc_reader_start. A
 * stale socket file at the path is replaced; a live reader's is not.
 *
 * Parameters:
 *   socket_path  where to listen, or "@name" for an abstract address; copied. Under systemd its file name counts, in
 *                RUNTIME_DIRECTORY, and a socket that systemd passed takes its place
 *                (udsipc_reader_options_set_use_systemd)
 *   on_message   called for each message
 *   userdata     handed to on_message, never looked at; may be NULL
 *   options      how the reader behaves; copied, so the same options can make several; NULL for the defaults
 *   out          where the handle is stored
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_HANDLER_NULL if on_message is NULL;
 * UDSIPC_ERR_INVALID_ARGUMENT for an abstract address with a socket mode or group;
 * UDSIPC_ERR_INVALID_SOCKET_PATH; UDSIPC_ERR_ADDRESS_IN_USE; UDSIPC_ERR_PERMISSION_DENIED; UDSIPC_ERR_SYSTEMD;
 * UDSIPC_ERR_NO_RESOURCES; UDSIPC_ERR_IO.
 * Ownership: the handle is the caller's; free it with udsipc_reader_free. The options stay the caller's. What userdata
 * points to must stay valid until the reader has been freed.
 * Threads: any. Blocking: for file system calls only.
 */
udsipc_status udsipc_reader_new(const char *socket_path,
                                udsipc_message_callback on_message,
                                void *userdata,
                                const udsipc_reader_options *options,
                                udsipc_reader **out);

/**
 * As udsipc_reader_new, with a callback that gets many messages in one call: for small messages the cheaper way.
 *
 * Parameters:
 *   socket_path  where to listen
 *   on_messages  called for the messages of one connection that have arrived together
 *   userdata     handed to on_messages, never looked at; may be NULL
 *   options      how the reader behaves; NULL for the defaults
 *   out          where the handle is stored
 * Returns, ownership, threads, blocking: as udsipc_reader_new.
 */
udsipc_status udsipc_reader_new_batched(const char *socket_path,
                                        udsipc_batch_callback on_messages,
                                        void *userdata,
                                        const udsipc_reader_options *options,
                                        udsipc_reader **out);

/**
 * Starts to serve connections, and tells systemd READY=1 if there is one to tell. A second call changes nothing.
 *
 * Parameters:
 *   reader  the reader
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_STOPPED; UDSIPC_ERR_WRONG_STATE if it has been dispatched;
 * UDSIPC_ERR_NO_RESOURCES if no thread can be had; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Threads: any. The first callback may run before this call returns. Blocking: never.
 */
udsipc_status udsipc_reader_start(udsipc_reader *reader);

/**
 * Takes no new connections, delivers what has been sent already, waits for running callbacks, closes the connections
 * and removes the socket file if it is still this reader's. A socket that systemd passed stays open for the next
 * start. After this call no callback of the reader runs. A second call returns what the first returned.
 *
 * Parameters:
 *   reader      the reader
 *   timeout_ms  how long delivering may take in milliseconds; 0 delivers nothing more; UDSIPC_WAIT_FOREVER has no
 *               limit
 * Returns: UDSIPC_OK; UDSIPC_ERR_TIMEOUT if something was left unread: the time passed first, or the reader was never
 * started nor dispatched and writers that it would have let in had sent something;
 * UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this reader, nothing has changed; UDSIPC_ERR_NULL_POINTER;
 * UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Threads: any, several at a time. Blocking: up to timeout_ms, plus the callbacks that are running: one that never
 * returns is waited for without end.
 */
udsipc_status udsipc_reader_stop(udsipc_reader *reader,
                                 uint64_t timeout_ms);

/**
 * Reads the reader's counters. They stay readable after stop.
 *
 * Parameters:
 *   reader    the reader
 *   out       where they are stored
 *   out_size  sizeof(udsipc_reader_metrics) as the program was compiled: a shorter struct gets the counters that it
 *             has, and in a longer one those that this library does not know are 0
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT if out_size is 0 or no multiple of 8;
 * UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Ownership: out is the caller's.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_get_metrics(const udsipc_reader *reader,
                                        udsipc_reader_metrics *out,
                                        size_t out_size);

/**
 * The path that the reader listens at, which under systemd is not always the one that it was made with.
 *
 * Parameters:
 *   reader  the reader
 * Returns: the path; "" if reader is NULL; never NULL.
 * Ownership: the reader's, valid until it is freed.
 * Threads: any. Blocking: never. Works in a forked child, too.
 */
const char *udsipc_reader_socket_path(const udsipc_reader *reader);

/**
 * One line for a log: standalone or under systemd, the path, the directories.
 *
 * Parameters:
 *   reader    the reader
 *   buffer    where the line is stored, cut to fit and always NUL-terminated, as with snprintf; NULL to ask for the
 *             length only
 *   capacity  size of the buffer in bytes; 0 stores nothing
 * Returns: the length of the whole line in bytes without the NUL; 0, and an empty line, if reader is NULL. The line
 * was cut if that is not less than capacity.
 * Ownership: the buffer is the caller's.
 * Threads: any. Blocking: never.
 */
size_t udsipc_reader_describe(const udsipc_reader *reader,
                              char *buffer,
                              size_t capacity);

/**
 * Frees a reader. One that runs is stopped first, as udsipc_reader_stop with 0. Call udsipc_reader_stop before it to
 * have everything delivered.
 *
 * Parameters:
 *   reader  the reader; NULL does nothing
 * Ownership: the handle must not be used again. No callback of it runs after this call, except when it is made inside
 * one of them: those that are running then go on to their end, and none begins any more.
 * In a forked child it closes the child's descriptors and leaves the parent's reader, its socket file and its
 * connections alone.
 * Threads: any, but no other call on this handle may be running, other than the one whose callback makes this call.
 * Blocking: for the callbacks that are running; inside a callback of this reader it waits for nothing.
 */
void udsipc_reader_free(udsipc_reader *reader);

/**
 * A descriptor for the host's own event loop, which then drives the reader instead of threads: it is readable, level
 * triggered, when udsipc_reader_dispatch has something to do.
 *
 * Parameters:
 *   reader  the reader, not started
 * Returns: the descriptor; -1 if there is none: reader is NULL, or this is a forked child.
 * Ownership: the reader's. Wait on it with poll, select or epoll; do not read, change or close it.
 * Threads: any. Blocking: never.
 */
int32_t udsipc_reader_fd(const udsipc_reader *reader);

/**
 * Does what there is to do, on the caller's thread: accept, read, call back. The first call takes the place of start.
 *
 * Parameters:
 *   reader      the reader, not started
 *   timeout_ms  how long to wait in milliseconds if there is nothing to do; 0 does not wait; UDSIPC_WAIT_FOREVER has
 *               no limit
 * Returns: UDSIPC_OK, also if there was nothing to do; UDSIPC_ERR_WRONG_STATE if the reader has been started;
 * UDSIPC_ERR_STOPPED; UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this reader; UDSIPC_ERR_NULL_POINTER;
 * UDSIPC_ERR_IO; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Threads: any, but one at a time is enough. Callbacks run in this call. Blocking: up to timeout_ms, plus callbacks.
 */
udsipc_status udsipc_reader_dispatch(udsipc_reader *reader,
                                     uint64_t timeout_ms);

/**
 * A number that tells the connections of one reader apart.
 *
 * Parameters:
 *   connection  what the callback was given
 * Returns: the number; no two connections of a reader have the same; 0 if connection is NULL.
 * Threads: inside the callback. Blocking: never.
 */
uint64_t udsipc_connection_id(const udsipc_connection *connection);

/**
 * Who the writer at the other end was when it connected (SO_PEERCRED).
 *
 * Parameters:
 *   connection  what the callback was given
 *   pid         where its process id is stored: 0 if it lives in another pid namespace; by now it may be another
 *               process
 *   uid         where its effective user id is stored
 *   gid         where its effective group id is stored
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if any of the four is NULL; UDSIPC_ERR_IO.
 * Threads: inside the callback. Blocking: never.
 */
udsipc_status udsipc_connection_credentials(const udsipc_connection *connection,
                                            int32_t *pid,
                                            uint32_t *uid,
                                            uint32_t *gid);

/**
 * The longest socket path that the system takes: 107 bytes on Linux. For an abstract address the "@" counts as one.
 *
 * Returns: a length in bytes, without the NUL.
 * Threads: any. Blocking: never.
 */
size_t udsipc_max_socket_path_length(void);

/**
 * Where a reader that follows systemd puts its socket: the file name of path in the first directory of
 * RUNTIME_DIRECTORY if that is set, otherwise path as it is. A program on the writing side uses it to find the path of
 * a reader in the same service.
 *
 * Parameters:
 *   path      a path, or "@name" for an abstract address, which stays as it is
 *   buffer    where the resolved path is stored, NUL-terminated; NULL together with capacity 0 asks for the size only
 *   capacity  size of the buffer in bytes
 *   needed    the size in bytes that the resolved path takes with its NUL; written too when the buffer is too small
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_BUFFER_SIZE if capacity is less than needed, the
 * buffer is then as it was.
 * Ownership: all memory is the caller's.
 * Threads: any, but none may change the environment meanwhile. Blocking: never.
 */
udsipc_status udsipc_resolve_socket_path(const char *path,
                                         char *buffer,
                                         size_t capacity,
                                         size_t *needed);

/**
 * Makes the directory that a socket path needs, and its parents, each with mode 0750 less the umask. What exists is
 * left as it is. An abstract address needs none. udsipc_reader_new does this by itself.
 *
 * Parameters:
 *   socket_path  the path of the socket, not of the directory
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_SOCKET_PATH; UDSIPC_ERR_PERMISSION_DENIED;
 * UDSIPC_ERR_NO_RESOURCES; UDSIPC_ERR_IO.
 * Threads: any. Blocking: for file system calls only.
 */
udsipc_status udsipc_ensure_socket_dir(const char *socket_path);

/**
 * Removes a stale socket file: one that nobody listens to. A path without a file, and an abstract address, are clean
 * already. udsipc_reader_new does this by itself.
 *
 * Parameters:
 *   socket_path  the path of the socket
 * Returns: UDSIPC_OK; UDSIPC_ERR_ADDRESS_IN_USE if a live reader listens there, or if it is no socket: it is left
 * untouched; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_SOCKET_PATH; UDSIPC_ERR_PERMISSION_DENIED; UDSIPC_ERR_IO.
 * Threads: any. Blocking: for file system calls only.
 */
udsipc_status udsipc_cleanup_socket(const char *socket_path);

/**
 * Whether systemd started this process in a way that a reader follows: RUNTIME_DIRECTORY, LISTEN_FDS or NOTIFY_SOCKET
 * is set.
 *
 * Returns: 1 or 0.
 * Threads: any, but none may change the environment meanwhile. Blocking: never.
 */
int32_t udsipc_systemd_is_active(void);

/**
 * The service's runtime directory: the first entry of RUNTIME_DIRECTORY.
 *
 * Returns: an absolute path, or "" if there is none; never NULL.
 * Ownership: valid for ever; do not free it.
 * Threads: any, but none may change the environment meanwhile. Blocking: never.
 */
const char *udsipc_systemd_runtime_dir(void);

/**
 * The service's state directory: the first entry of STATE_DIRECTORY.
 *
 * Returns: an absolute path, or "" if there is none; never NULL.
 * Ownership: valid for ever; do not free it.
 * Threads: any, but none may change the environment meanwhile. Blocking: never.
 */
const char *udsipc_systemd_state_dir(void);

/**
 * Tells the service manager something, as sd_notify(3) does. Readers that follow systemd send READY=1 and STOPPING=1
 * by themselves.
 *
 * Parameters:
 *   state  "READY=1", "STATUS=...", "WATCHDOG=1", or any other text of sd_notify(3), in UTF-8; several assignments are
 *          separated by line breaks
 * Returns: UDSIPC_OK, also if NOTIFY_SOCKET is not set and there is nobody to tell; UDSIPC_ERR_NULL_POINTER;
 * UDSIPC_ERR_INVALID_ARGUMENT if the text is empty or no UTF-8; UDSIPC_ERR_IO, UDSIPC_ERR_PERMISSION_DENIED or
 * UDSIPC_ERR_NO_RESOURCES if it could not be sent. A service does well to go on then.
 * Threads: any, but none may change the environment meanwhile. Blocking: at most 100 milliseconds, while the service
 * manager's queue is full.
 */
udsipc_status udsipc_systemd_notify(const char *state);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* UDSIPC_H */
