/*
 * udsipc.h - a message pipe between the processes of one machine
 *
 * This file is generated from the sources of libudsipc: do not edit it.
 *
 *
 * WHAT IT IS
 *
 * Many writers send messages to one reader over a Unix domain stream socket, in one direction. A message is a sequence of
 * bytes and arrives whole or not at all. A writer has a queue: udsipc_write_message copies the message into the queue and
 * returns at once. The writer sends the queued messages in large batches, and connects again whenever the connection
 * breaks. A reader calls a function of the program for each message, or for many messages at a time.
 *
 * Every accepted message is counted, whatever happens to it. For a writer, at any moment:
 *
 *     messages accepted = sent + abandoned + queue_depth
 *
 * "Sent" means that the kernel has taken the message. A reader of this library acknowledges the messages that it has
 * handled; if it is killed, those that it had not handled are sent again: see DELIVERY. With any other reader, at most
 * suspected_lost of the sent messages were not read by the reader before it went away.
 *
 * A writer:
 *
 *     udsipc_writer *writer;
 *     if (udsipc_writer_new("/run/app/app.sock", NULL, &writer) != UDSIPC_OK) ...
 *     if (udsipc_writer_start(writer) != UDSIPC_OK) ...
 *     if (udsipc_write_message(writer, "hello", 5) != UDSIPC_OK) ...
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
 *     if (udsipc_reader_start(reader) != UDSIPC_OK) ...
 *     ... until it is time to go ...
 *     udsipc_reader_stop(reader, 1000);
 *     udsipc_reader_free(reader);
 *
 * Link with -ludsipc.
 *
 *
 * DELIVERY
 *
 * Between a writer and a reader of this library a message is off the writer's books only when the reader's callback has
 * returned. The reader keeps account in memory that the writer can read even after the reader's death (a sealed memfd), so
 * an acknowledgement costs no system call and no byte on the wire.
 *
 *                                    with a reader of this library         with any other
 *     udsipc_writer_flush is OK      handled: the callbacks have           read by the reader's process
 *                                    returned
 *     udsipc_writer_stop is OK       handled                               sent, and not refused within 250 ms
 *     the reader is killed           nothing is lost; the message (or      suspected_lost, an upper bound
 *                                    the batch) that was in the
 *                                    callback comes again
 *     the reader stops, or closes    nothing lost, nothing twice           nothing lost, nothing twice
 *     an idle connection
 *     the reader takes nothing for   what it has not handled comes         suspected_lost
 *     write_timeout, and another     again; it may handle it too
 *     one has taken its path
 *     killed before it accepted the  suspected_lost                        suspected_lost
 *     writer's first connection
 *
 * udsipc_writer_options_set_redeliver turns "comes again" into suspected_lost. udsipc_writer_options_set_acknowledge makes a
 * writer send nothing to a reader that does not acknowledge, or ask for none of this. A callback that fails has handled its
 * message. A flush or a stop of a writer that is called inside the callback which handles a message of that writer waits for
 * that callback to return: as long as its time lasts. A consumer that must not store a message twice keeps the last udsipc_message_sequence of each
 * udsipc_connection_writer_id with its data, and passes over what is not larger.
 *
 * A writer that asks binds its socket to an abstract address "\0udsipc/1/..." before it connects (unix(7)), which
 * any process of the same network namespace can see in /proc/net/unix: a random identifier, and how many messages the writer
 * had sent. It proves nothing about the writer; the credentials do. Where the address is refused, and with any other peer,
 * everything is as it is without acknowledgement, and not one byte more goes over the connection.
 *
 *
 * ERRORS
 *
 * UDSIPC_OK is 0. Every other status is a positive number that never changes its meaning. udsipc_strerror returns a short
 * text for a status, udsipc_last_error_message the full text of the calling thread's last failure. Errors in the background
 * are reported to the error callback that the options set, and counted in the metrics.
 *
 * NULL is checked in every call. For a NULL that its description does not allow, a function that returns a status returns
 * UDSIPC_ERR_NULL_POINTER, and any other function returns what its description says. A free function does nothing with NULL.
 * (NULL, 0) is an empty message. An empty message is accepted and not sent.
 *
 * Outputs are written only when the call succeeds, except where the description says otherwise (accepted of
 * udsipc_write_messages, needed of udsipc_resolve_socket_path).
 *
 * The compiler warns where a result is ignored that must not be (UDSIPC_NODISCARD): of a function that makes, starts or
 * accepts something; of one that stores its answer only when it succeeds; of flush; and of an option that restricts who may
 * connect, since a restriction that was refused restricts nobody. Not marked is what programs may ignore: stop, since messages
 * that it gives up are counted and reported all the same; dispatch, which is called again anyway; and the other options,
 * which stay as they were.
 *
 * UDSIPC_ERR_PANIC means a bug in this library. The handle is broken then: every later call on it returns
 * UDSIPC_ERR_PANIC, and only its _free function is of use.
 *
 *
 * OWNERSHIP
 *
 * Handles are opaque pointers. A handle that a _new function has made is freed once, by the _free function of its type.
 * Options are copied when a handle is made from them: they may be freed, changed or used again right after. Other arguments
 * are copied too if they are needed after the call, except userdata, which must stay valid until the handle has been freed.
 * The arguments of a callback are valid until the callback returns.
 *
 * A _free function first stops a running handle, as _stop does, with the time of the option linger_ms: one second by
 * default; with 0 nothing more is sent or received. A writer sends the queued messages, and a reader receives what writers
 * have sent. A writer gives up messages that it cannot deliver in that time, and reports them to the error callback ("write
 * failure during drain"). A writer that was never started gives up its queued messages at once. Call _stop before _free to
 * allow more time and to get the result.
 *
 *
 * TIMES
 *
 * Times are milliseconds, and their names end in _ms. A call with the waiting time 0 does not wait; UDSIPC_WAIT_FOREVER is
 * no limit. An option of 0 is refused with UDSIPC_ERR_INVALID_TIMEOUT, except linger_ms.
 *
 *
 * THREADS AND CALLBACKS
 *
 * Every call except _free may be made from any thread at any time while the handle lives, also from inside callbacks.
 * Callbacks run on threads of the library; error callbacks also run on the thread that calls stop or free. The messages of
 * one connection are delivered in order, one at a time. Messages of different connections are delivered at the same time, on
 * up to max_handler_threads threads. A slow callback delays its own connection only.
 *
 * A started writer costs one descriptor, its connection. All started writers share two more, and a third one that watches
 * directories for sockets to appear. They also share their threads: one for one writer, two for several, up to the number of
 * processors while many writers are busy, and one more for each writer that is blocked in an error callback or by a file
 * system that does not answer. A blocked writer delays no other writer. Threads without work end after some seconds, except
 * two. The threads begin with the first writer that is started, inherit processor affinity, priority and namespaces from the
 * thread that starts it, and end when the last writer is stopped. A thread that a file system blocks is waited for for one
 * second at most: it ends when the file system answers, and the library stays in memory until then. A reader has threads of
 * its own, see udsipc_reader_options_set_max_handler_threads.
 *
 * After a _stop function has returned, no callback of that handle runs or will run. Inside a callback of the same handle
 * _stop returns UDSIPC_ERR_WOULD_DEADLOCK and changes nothing. A _free function may be called inside a callback of the same
 * handle: it returns at once, running callbacks finish, and no further callback begins. When all handles are stopped or
 * freed, no thread of the library is left, and the library may be unloaded (dlclose(3)); after a _free inside a callback one
 * thread may still be ending.
 *
 * A callback must return, or end the process. No C++ exception, no longjmp and no pthread_exit may leave a callback: the
 * behaviour is undefined, and most likely the process ends. udsipc.hpp catches exceptions. Interpreters end threads that
 * call into them during shutdown: stop or free every handle before (in Python by atexit).
 *
 * A program may end (exit(3), a return from main) while handles live and callbacks run; queued messages of its writers are
 * lost then. A handler of atexit(3) may stop and free handles first. In such a handler, if a callback has called exit, _stop
 * returns what it returns inside that callback, and _free returns at once. The main thread may end before the others
 * (pthread_exit(3)).
 *
 *
 * EVENT LOOPS
 *
 * A handle that is not started has no threads: a program can drive it from an event loop of its own. udsipc_writer_fd and
 * udsipc_reader_fd return a descriptor for poll or epoll. Whenever it is readable (level-triggered), the program calls
 * udsipc_writer_dispatch or udsipc_reader_dispatch with timeout_ms 0. Callbacks run inside the dispatch call. A handle is
 * either started or dispatched; the other call returns UDSIPC_ERR_WRONG_STATE.
 *
 *
 * FORK
 *
 * In a child of fork(2) the copies of the library's descriptors are closed before fork returns (pthread_atfork(3)): a child
 * keeps neither the parent's listener nor its connections open. Calls on inherited handles return UDSIPC_ERR_FORKED. A child
 * may free inherited handles or leave them. A _free function closes nothing there, and the parent's threads, socket file and
 * traffic are not affected; memory that a thread of the parent may have been changing at the fork is not freed.
 *
 * A child can make handles of its own at once, whatever the parent's threads were doing in the library at the fork, and
 * after closing any descriptors (closefrom(3), daemon(3)). Fork handlers of the program may call every function.
 *
 * _Fork(3), vfork(2) and a bare clone(2) run no fork handlers. Neither do posix_spawn(3), system(3) and popen(3), which use
 * them. The child's copies are closed when it executes another program: all descriptors of the library are close-on-exec. A
 * child of _Fork or clone that executes no program keeps them until it ends. Such a child must not make handles, since it may
 * call async-signal-safe functions only. Its calls on inherited handles return UDSIPC_ERR_FORKED too, from Linux 4.14 on. A
 * child of vfork shares the memory of its parent, and must call no function of the library.
 *
 * fork(2) waits while another thread is opening a descriptor: for microseconds, and for one second at most. dlclose(3)
 * removes the fork handlers when it unloads the library.
 *
 *
 * DESCRIPTORS
 *
 * Every descriptor of the library is 3 or larger and close-on-exec. The program must not close them: a program that turns
 * itself into a daemon or closes unknown descriptors (closefrom(3)) does so before it makes handles.
 *
 *
 * SIGNALS AND CANCELLATION
 *
 * No function of the library may be called in a signal handler: they take locks and allocate memory. A handler sets a
 * flag or writes to a descriptor (eventfd(2), pipe(2)), and the program's own threads do the rest.
 *
 * The library installs no signal handler and raises no SIGPIPE. A call that a signal interrupts goes on afterwards. The
 * library's threads block all signals, so the program's threads handle signals to the process. Six signals are not blocked,
 * which a fault raises in the thread itself (SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS): the program's crash handler
 * also runs for a fault in a callback. The library's threads have no alternate stack (sigaltstack(2)), which a handler needs
 * when the fault is a stack overflow.
 *
 * A child that a callback forks gets back the signal mask of the program's thread that started the library's thread. A
 * program that a callback starts in another way (posix_spawn, system, popen, vfork) inherits the mask of the callback's
 * thread, and SIGTERM would not end it. A child of vfork must set its mask itself. For posix_spawn:
 *
 *     posix_spawnattr_t attributes;
 *     sigset_t none;
 *     sigemptyset(&none);
 *     posix_spawnattr_init(&attributes);
 *     posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
 *     posix_spawnattr_setsigmask(&attributes, &none);
 *     posix_spawn(&pid, path, NULL, &attributes, argv, environ);
 *     posix_spawnattr_destroy(&attributes);
 *
 * No call is a cancellation point. A thread that is cancelled (pthread_cancel(3)) during a call of the library finishes the
 * call, and ends at the program's next cancellation point. Cancellation is disabled inside callbacks. A thread with
 * asynchronous cancellation (pthread_setcanceltype(3)) must call no function of the library.
 *
 *
 * OUTPUT AND ENVIRONMENT
 *
 * The library prints nothing, never ends the process on bad input, and never changes the environment. It reads
 * RUNTIME_DIRECTORY, STATE_DIRECTORY, LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES and NOTIFY_SOCKET, which systemd sets. It reads
 * none of them in a program that has more rights than the user who started it: set-user-ID, set-group-ID, file capabilities
 * (AT_SECURE, getauxval(3)).
 *
 *
 * PATHS
 *
 * A path has at most udsipc_max_socket_path_length() bytes. A path that begins with "@" is an abstract address, which has no
 * file, no directory and no permissions: restrict its writers with udsipc_reader_options_allow_uid. A path that begins with
 * "unix:", "ipc:" or "~", or ends in a line break, is refused with UDSIPC_ERR_INVALID_SOCKET_PATH, since it is most likely a
 * mistake.
 *
 * If two readers start at the same path at the same time, exactly one of them gets it. The socket file of a killed reader is
 * replaced at once. While a reader claims a path it locks the directory of the path (flock(2)), without a lock file. If
 * another program holds that lock, the reader waits for one second at most. The socket is bound under its final, absolute
 * name, so that programs that clean directories (systemd-tmpfiles) see that it is in use. If the reader cannot remove its
 * socket file at stop, for instance because the process has given up its privileges, the error callback is called with the
 * context "socket file".
 *
 * A running reader watches its socket file (inotify(7)). When the file is removed or replaced, the error callback is called
 * once (UDSIPC_ERR_SOCKET_GONE, "socket file"). The reader then listens at the path again as soon as no other process listens
 * there, and counts that in the metric relistened; its connections are kept. If the directory has been removed, the reader
 * waits until it exists again. Without a free inotify instance (a user has 128 by default) the file is not watched.
 *
 *
 * ON THE WIRE
 *
 * Each message is its length as an unsigned LEB128 varint of at most ten bytes (seven bits a byte, the lowest first,
 * the highest bit set in all but the last byte), followed by that many bytes. A message of length 0 is ignored; it keeps a
 * connection from being idle. The reader sends nothing, except to a writer that asks for acknowledgement (DELIVERY). If a
 * connection ends in the middle of a message, the reader drops the part that has arrived, and the writer sends the whole
 * message again on its next connection. The Go library github.com/Psiphon-Inc/uds-ipc uses the same format.
 *
 *
 * GROWTH
 *
 * Numbers, names and meanings never change. The metrics structs grow at their end only, and are passed with their sizeof: a
 * program that was built with an older header works with a newer library, and the other way round.
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

/* Marks the functions whose result must not be ignored (ERRORS, above). A program that includes this header may define it
 * before, for instance as nothing. To ignore one result on purpose: if (function()) {}, since GCC warns about (void)function()
 * before C23 and C++17. */
#ifndef UDSIPC_NODISCARD
#if defined(__cplusplus) && __cplusplus >= 201703L
#define UDSIPC_NODISCARD [[nodiscard]]
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 202311L
#define UDSIPC_NODISCARD [[nodiscard]]
#elif defined(__GNUC__)
#define UDSIPC_NODISCARD __attribute__((warn_unused_result))
#else
#define UDSIPC_NODISCARD
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/*
 * The library: version, status, errors
 * ------------------------------------
 */

/** No limit: as a waiting time, the call waits for ever; as an option, the time never ends. */
#define UDSIPC_WAIT_FOREVER UINT64_MAX

/**
 * What a call returns: 0 is success, any other number is the reason of a failure. Numbers are never reused or changed. New
 * numbers may be added: treat an unknown number as a failure.
 */
typedef enum udsipc_status {
    /** Success. */
    UDSIPC_OK = 0,
    /** A required pointer is NULL. */
    UDSIPC_ERR_NULL_POINTER = 1,
    /** An argument is out of its range, and no other status fits. */
    UDSIPC_ERR_INVALID_ARGUMENT = 2,
    /** The path is empty, longer than udsipc_max_socket_path_length(), or looks like a mistake ("unix:", "~", a line break). */
    UDSIPC_ERR_INVALID_SOCKET_PATH = 3,
    /** A timeout or backoff of 0 was given as an option. */
    UDSIPC_ERR_INVALID_TIMEOUT = 4,
    /** A queue or buffer size is out of its range. */
    UDSIPC_ERR_INVALID_BUFFER_SIZE = 5,
    /** The message callback of a new reader is NULL. */
    UDSIPC_ERR_HANDLER_NULL = 6,
    /** max_accept_errors is above 63. */
    UDSIPC_ERR_MAX_ACCEPT_ERRORS_TOO_LARGE = 7,
    /** The call waits for the handle's callbacks, and was made inside one of them. It has changed nothing. */
    UDSIPC_ERR_WOULD_DEADLOCK = 8,
    /** The handle was made by the parent of this process: a child must make its own. */
    UDSIPC_ERR_FORKED = 9,
    /** Dispatch was called on a started handle, or start on a dispatched one. */
    UDSIPC_ERR_WRONG_STATE = 10,
    /** The queue is at a limit. The message was not accepted, and is counted in dropped. */
    UDSIPC_ERR_BUFFER_FULL = 20,
    /** The handle has been stopped. */
    UDSIPC_ERR_STOPPED = 21,
    /** The message is larger than max_message_size. */
    UDSIPC_ERR_MESSAGE_TOO_LARGE = 22,
    /** The given time has passed. */
    UDSIPC_ERR_TIMEOUT = 23,
    /** In error callbacks: the reader has read nothing for write_timeout_ms. Connection and message are kept. */
    UDSIPC_ERR_BACKPRESSURE = 24,
    /** In error callbacks: the connection broke during a write. The message is sent again on the next connection. */
    UDSIPC_ERR_NO_CONSUMER = 25,
    /** In error callbacks: nobody listens at the path. The connect is tried again. */
    UDSIPC_ERR_NOT_CONNECTED = 26,
    /** The peer closed the connection in the middle of a message. */
    UDSIPC_ERR_CONNECTION_CLOSED = 27,
    /** Accepted messages were given up (metric abandoned), or may not have been read (metric suspected_lost). */
    UDSIPC_ERR_UNDELIVERED = 28,
    /** The peer does not take part in acknowledged delivery: it is no reader, or no writer, of this library, or has it off. */
    UDSIPC_ERR_NOT_ACKNOWLEDGED = 29,
    /** A system call failed; os_errno or udsipc_last_error_message() has the reason. */
    UDSIPC_ERR_IO = 40,
    /** A length prefix is not a varint of 64 bits. */
    UDSIPC_ERR_INVALID_LENGTH_PREFIX = 41,
    /** The message callback returned non-zero. */
    UDSIPC_ERR_HANDLER_FAILED = 42,
    /** A live reader listens at the path, or a file that is not a socket lies there. */
    UDSIPC_ERR_ADDRESS_IN_USE = 43,
    /** Permission is missing in the file system, or the peer is not allowed (udsipc_reader_options_allow_uid). */
    UDSIPC_ERR_PERMISSION_DENIED = 44,
    /** LISTEN_FDS and its companions are set for this process but cannot be used. */
    UDSIPC_ERR_SYSTEMD = 45,
    /** Descriptors, threads or memory are used up. */
    UDSIPC_ERR_NO_RESOURCES = 46,
    /**
     * In a reader's error callback: the socket file was removed or replaced. The reader listens there again as soon as no
     * other process does; its connections are kept.
     */
    UDSIPC_ERR_SOCKET_GONE = 47,
    /** A bug in this library. Free the handle; please report the text of udsipc_last_error_message(). */
    UDSIPC_ERR_PANIC = 90,
} udsipc_status;

/**
 * The version of the loaded library. It may be newer than the header with which the program was built, whose version is
 * UDSIPC_VERSION_STRING.
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
 *   status  any number, even one that is no status
 * Returns: a text in English without a line break, never NULL; "unknown status" for a number that has none.
 * Ownership: static text, valid for ever; do not free it.
 * Threads: any. Blocking: never.
 */
const char *udsipc_strerror(int32_t status);

/**
 * The full text of the calling thread's last failure, with the path, the limit or the system's error. Inside an error
 * callback it is the text of the reported error. A successful call does not change it.
 *
 * Parameters:
 *   buffer    where the text is stored, cut to fit and always NUL-terminated, as by snprintf; NULL asks for the length
 *             only
 *   capacity  size of the buffer in bytes; 0 stores nothing
 * Returns: the length of the whole text in bytes without the NUL; 0 if no call has failed on this thread. The stored text
 * is cut if the result is not less than capacity.
 * Ownership: the buffer is the caller's.
 * Threads: any; each has its own text. Blocking: never.
 */
size_t udsipc_last_error_message(char *buffer,
                                 size_t capacity);

/*
 * Types that writers and readers share
 * ------------------------------------
 */

/** One message: len bytes at data. (NULL, 0) is an empty message. */
typedef struct udsipc_buffer {
    /** The first byte. */
    const uint8_t *data;
    /** The number of bytes. */
    size_t len;
} udsipc_buffer;

/**
 * Called for an error in the background, which no function could return.
 *
 * Parameters:
 *   status    the error, a udsipc_status
 *   os_errno  the errno of the system call that failed, or 0
 *   context   what failed: "failed to connect", "write failure", "write failure after reconnect",
 *             "write failure during drain", "write failure during drain (retry message)",
 *             "failed to read the length prefix", "message too large", "failed to read the complete message",
 *             "handler failed to process a message", "too many consecutive failures in accept loop",
 *             "failed to notify systemd", "socket file"; static text
 *   userdata  the pointer that was given with the callback
 * During the call udsipc_last_error_message returns the full text of the error.
 * Threads: one of the handle's threads, or the caller of a function that does the handle's work: dispatch, stop, free; for
 * a reader also start; for a dispatched writer also flush and udsipc_write_message_timeout. A reader may call it on several
 * threads at the same time, and while message callbacks of other connections run; with max_handler_threads 1 never two
 * callbacks run at the same time.
 * Errors of peers are all counted, but their reports are limited: for a process that sends malformed or too large messages
 * to 8 reports at first and then 10 a second, for a process that disconnects in the middle of messages to 1000 a second.
 * The callback may call any function of this library, on any handle; stopping its own handle returns
 * UDSIPC_ERR_WOULD_DEADLOCK. It must return: no exception and no longjmp may leave it.
 */
typedef void (*udsipc_error_callback)(int32_t status,
                                      int32_t os_errno,
                                      const char *context,
                                      void *userdata);

/*
 * Options of a writer
 * -------------------
 */

/** The options of a writer. Opaque. */
typedef struct udsipc_writer_options udsipc_writer_options;

/**
 * Makes options for a writer, all at their defaults.
 *
 * Returns: the options, or NULL if the library failed to make them.
 * Ownership: the caller's; free them with udsipc_writer_options_free, at the earliest right after the writer was made.
 * Threads: any. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_writer_options *udsipc_writer_options_new(void);

/**
 * Frees options. Writers that were made with them are not affected.
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
 * Sets how many bytes of messages the queue holds at most, in addition to the limit on their number. A single message above
 * this limit is accepted while the queue is empty. A queue larger than the processor's cache costs speed: a few MiB are a
 * good limit for large messages.
 *
 * Parameters:
 *   options  the options to change
 *   bytes    any number of bytes; 0 is no limit
 * Default: 67108864 (64 MiB)
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_max_buffered_bytes(udsipc_writer_options *options,
                                                           uint64_t bytes);

/**
 * Sets the largest message that is accepted; a larger one is refused with UDSIPC_ERR_MESSAGE_TOO_LARGE. The value should not
 * be above the reader's limit: a reader closes the connection on a message above its own limit.
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
 * Sets how long the reader may read nothing before UDSIPC_ERR_BACKPRESSURE is reported to the error callback. This is a
 * report only: the connection, the order and the message are kept.
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
 * Sets how many connections may break while a message is being sent. Then the message is given up, counted in abandoned and
 * reported, so that it does not block the messages behind it. A failed connect is no attempt.
 *
 * Parameters:
 *   options   the options to change
 *   attempts  any number; 0 is no limit
 * Default: 5
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_max_attempts(udsipc_writer_options *options,
                                                     uint32_t attempts);

/**
 * Sets what udsipc_writer_stop does when nobody listens: give up within 250 milliseconds, or try to connect until its time
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
 * Sets how long udsipc_writer_free goes on sending: it stops a running writer first, as udsipc_writer_stop with this time.
 *
 * Parameters:
 *   options  the options to change
 *   ms       milliseconds; 0 sends nothing more; UDSIPC_WAIT_FOREVER has no limit
 * Default: 1000
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_linger_ms(udsipc_writer_options *options,
                                                  uint64_t ms);

/**
 * Sets whether the reader is asked to acknowledge messages, so that nothing is lost when it is killed. A reader of this
 * library does; any other is not disturbed by the question. See DELIVERY at the top of this file.
 *
 * Parameters:
 *   options  the options to change
 *   mode     0: no. 1: if the reader can. 2: nothing is sent to a reader that cannot; each is reported with
 *            UDSIPC_ERR_NOT_ACKNOWLEDGED and dialled again with the usual pauses
 * Default: 1
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT for another mode.
 * System calls: with 0 the writer makes none of bind(2), recvmsg(2), fcntl(2) with F_GET_SEALS, fstatfs(2), mmap(2) of a
 * descriptor. A host under a filter of system calls may need that.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_acknowledge(udsipc_writer_options *options,
                                                    int32_t mode);

/**
 * Sets what becomes of a message that was in the reader's callback when the reader was killed: nobody knows how far the
 * callback had come.
 *
 * Parameters:
 *   options  the options to change
 *   on       anything but 0: it is sent again, and so perhaps handled twice. 0: it is not, and counts in suspected_lost
 * Default: 1
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_redeliver(udsipc_writer_options *options,
                                                  int32_t on);

/**
 * Sets the function that is called for errors in the background.
 *
 * Parameters:
 *   options   the options to change
 *   callback  see udsipc_error_callback; NULL, the default, for none
 *   userdata  passed to the callback; may be NULL
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if options is NULL.
 * Ownership: what userdata points to is the caller's, and must stay valid until every writer made with these options
 * has been freed.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_writer_options_set_error_callback(udsipc_writer_options *options,
                                                       udsipc_error_callback callback,
                                                       void *userdata);

/*
 * Writer
 * ------
 */

/** The sending end: a queue, and a connection that is made again whenever it breaks. Opaque. */
typedef struct udsipc_writer udsipc_writer;

/** The counters of a writer. At any moment: messages accepted = sent + abandoned + queue_depth. */
typedef struct udsipc_writer_metrics {
    /** Messages that the kernel has taken whole, or that lie in memory shared with the reader. */
    uint64_t sent;
    /** Messages refused because the queue was full. */
    uint64_t dropped;
    /** Failed attempts to send a message. A message that failed once and was sent then counts here and in sent. */
    uint64_t failed;
    /** Messages in the queue: accepted, and neither sent nor abandoned. A partly written message counts here. */
    uint64_t queue_depth;
    /** Bytes of the messages in queue_depth. */
    uint64_t queue_bytes;
    /** Bytes of the messages in sent. */
    uint64_t sent_bytes;
    /** Attempts to send a failed message again on a new connection. */
    uint64_t retried;
    /** Messages accepted and then given up: at stop, or after max_attempts broken connections. */
    uint64_t abandoned;
    /** Messages in sent that the reader may not have read before it went away: an upper bound. */
    uint64_t suspected_lost;
    /** Connections made. */
    uint64_t connections;
    /** Connects that failed. */
    uint64_t connect_failures;
    /** Messages in `sent` that a reader of this library has handled: their callback has returned. 0 with any other reader. */
    uint64_t acknowledged;
    /** Messages that were sent again because a reader ended before it had handled them. In `sent` each counts once. */
    uint64_t redelivered;
    /**
     * Payload in `sent_bytes` that went through memory shared with the reader, and not through the socket: see
     * `udsipc_reader_options_set_max_shared_memory`.
     */
    uint64_t ring_bytes;
} udsipc_writer_metrics;

/**
 * Makes a writer. It neither connects nor needs the reader to exist yet.
 *
 * Parameters:
 *   socket_path  the path at which the reader listens, or "@name" for an abstract address; copied
 *   options      the options; copied, so the same options can make several writers; NULL for the defaults
 *   out          where the handle is stored
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_SOCKET_PATH; UDSIPC_ERR_NO_RESOURCES; UDSIPC_ERR_IO.
 * Ownership: the handle is the caller's; free it with udsipc_writer_free. The options stay the caller's.
 * Threads: any. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_writer_new(const char *socket_path,
                                const udsipc_writer_options *options,
                                udsipc_writer **out);

/**
 * Starts the writer: a thread of the library connects at once and sends the queued messages. A second call changes nothing.
 *
 * Parameters:
 *   writer  the writer
 * Returns: UDSIPC_OK, also while nobody listens; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_STOPPED; UDSIPC_ERR_WRONG_STATE
 * if it has been dispatched; UDSIPC_ERR_NO_RESOURCES if no thread can be started; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Threads: any. Blocking: never; it does not wait for the connection.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_writer_start(udsipc_writer *writer);

/**
 * Puts a message into the queue; before start it waits there. An empty message is accepted and not sent.
 *
 * Parameters:
 *   writer  the writer
 *   data    the message; copied; may be NULL if len is 0
 *   len     its length in bytes, at most max_message_size
 * Returns: UDSIPC_OK: the message is in the queue; UDSIPC_ERR_BUFFER_FULL: it is not, and dropped has grown by one;
 * UDSIPC_ERR_MESSAGE_TOO_LARGE; UDSIPC_ERR_STOPPED after the begin of a stop; UDSIPC_ERR_NULL_POINTER;
 * UDSIPC_ERR_INVALID_ARGUMENT for a len that no memory can hold; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Ownership: the data stays the caller's, and may be reused when the call returns.
 * Threads: any, several at a time; the messages of one thread keep their order. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_write_message(udsipc_writer *writer,
                                   const void *data,
                                   size_t len);

/**
 * As udsipc_write_message, but waits for room if the queue is full. As fast as udsipc_write_message while there is room. A
 * message above max_buffered_bytes waits until the queue is empty.
 *
 * Parameters:
 *   writer      the writer
 *   data        the message; copied; may be NULL if len is 0
 *   len         its length in bytes, at most max_message_size
 *   timeout_ms  how long to wait in milliseconds; 0 does not wait; UDSIPC_WAIT_FOREVER has no limit
 * Returns: as udsipc_write_message, with UDSIPC_ERR_BUFFER_FULL only for a timeout_ms of 0; UDSIPC_ERR_TIMEOUT if there was
 * no room in time, and dropped has grown by one; UDSIPC_ERR_STOPPED if a stop began meanwhile; UDSIPC_ERR_WOULD_DEADLOCK if
 * the call would have to wait inside a callback of this writer.
 * Ownership: the data stays the caller's.
 * Threads: any, several at a time. While it waits, the call does the work of a dispatched writer, so error callbacks may run
 * in it. Blocking: up to timeout_ms; with a dispatched writer also for an error callback or a slow file system.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_write_message_timeout(udsipc_writer *writer,
                                           const void *data,
                                           size_t len,
                                           uint64_t timeout_ms);

/**
 * Puts several messages into the queue, in order, and stops at the first that is refused. Faster than one call of
 * udsipc_write_message for each.
 *
 * Parameters:
 *   writer    the writer
 *   messages  an array; copied; may be NULL if count is 0; an entry with len 0 is an empty message
 *   count     the number of entries in the array
 *   accepted  where the number of accepted messages is stored: count, or the index of the refused message. Stored whatever
 *             the call returns, unless accepted itself is NULL
 * Returns: UDSIPC_OK: all were accepted; otherwise the status of the message at index accepted, as udsipc_write_message;
 * UDSIPC_ERR_NULL_POINTER also for an entry with data NULL and a len other than 0.
 * Ownership: array and data stay the caller's.
 * Threads: any, several at a time. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_write_messages(udsipc_writer *writer,
                                    const udsipc_buffer *messages,
                                    size_t count,
                                    size_t *accepted);

/**
 * Waits until the reader's process has read all messages that were accepted before the call. A reader of this library reads
 * the last byte only after its callback has returned, so with it all messages have been handled. Another kind of reader may
 * still have unhandled messages in its own memory.
 *
 * Parameters:
 *   writer      the writer, started
 *   timeout_ms  how long to wait in milliseconds; 0 checks and does not wait; UDSIPC_WAIT_FOREVER has no limit
 * Returns: UDSIPC_OK; UDSIPC_ERR_TIMEOUT; UDSIPC_ERR_UNDELIVERED, at once, if messages have been given up or may have been
 * lost with a reader since the last flush (each loss is returned once); UDSIPC_ERR_STOPPED if the writer has been stopped;
 * UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this writer; UDSIPC_ERR_NULL_POINTER;
 * UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Threads: any, several at a time. While it waits, the call does the work of a dispatched writer, so error callbacks may run
 * in it. Blocking: up to timeout_ms; with a dispatched writer also for an error callback or a slow file system.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_writer_flush(udsipc_writer *writer,
                                  uint64_t timeout_ms);

/**
 * Stops the writer: refuses new messages at once, sends the queued messages, and connects again for that if necessary. The
 * stop of the last started writer of the process also ends the threads that writers share.
 *
 * When nobody listens, the call gives up within 250 milliseconds, even with UDSIPC_WAIT_FOREVER. With drain_until_deadline it
 * goes on trying to connect, and a reader that appears in time gets all messages. If the backlog of the reader is full, the
 * call waits, since a reader exists. While this process has no free descriptor it cannot find out whether a reader exists;
 * the result of the last attempt holds, so with UDSIPC_WAIT_FOREVER the call may wait as long as the shortage lasts.
 *
 * After the last byte has been sent, the call waits until the reader's process has read it or has closed the connection, for
 * 250 milliseconds at most and never beyond timeout_ms. Messages that are given up count in abandoned, and are reported once
 * with their number ("write failure during drain"). After this call no callback of the writer runs. A second call returns
 * what the first returned. If it has less time than the first has left, both end in that time.
 *
 * Parameters:
 *   writer      the writer
 *   timeout_ms  how long sending may take in milliseconds; 0 sends nothing more; UDSIPC_WAIT_FOREVER has no limit
 * Returns: UDSIPC_OK: all queued messages have been sent; UDSIPC_ERR_UNDELIVERED: nobody listened, or the writer was never
 * started and had messages, or a message was given up after max_attempts during the stop, or the reader went away before it
 * had read all messages (suspected_lost); UDSIPC_ERR_TIMEOUT: the time passed first; UDSIPC_ERR_WOULD_DEADLOCK inside a
 * callback of this writer, and nothing has changed; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Threads: any, several at a time. Blocking: up to timeout_ms, plus error callbacks that are running or due; with a dispatched
 * writer also for a slow file system.
 */
udsipc_status udsipc_writer_stop(udsipc_writer *writer,
                                 uint64_t timeout_ms);

/**
 * Reads the writer's counters. They stay readable after stop.
 *
 * Parameters:
 *   writer    the writer
 *   out       where the counters are stored
 *   out_size  sizeof(udsipc_writer_metrics) in the program. A struct of an older header gets the counters that it has; in
 *             one of a newer header the counters that this library does not know are 0
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT if out_size is 0 or not a multiple of 8;
 * UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Ownership: out is the caller's.
 * Threads: any. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_writer_get_metrics(const udsipc_writer *writer,
                                        udsipc_writer_metrics *out,
                                        size_t out_size);

/**
 * Stores the writer's counters as text in the format of Prometheus, version 0.0.4, for a program that serves its metrics.
 * A counter is called udsipc_writer_ and the name of its field with _total behind it; queue_depth and queue_bytes have no
 * _total. udsipc_writer_connected is 1 while there is a connection, otherwise 0.
 *
 * The format wants the lines of one metric together: a program with several handles gives each its own labels, and leaves
 * out the lines that begin with '#' in all texts but the first.
 *
 * Parameters:
 *   writer    the writer
 *   labels    what stands between the braces of each line: name="value" pairs with a comma between, in UTF-8, with
 *             backslash, quote and line break in values escaped by a backslash; NULL or "" for none
 *   buffer    where the text is stored, cut to fit and always NUL-terminated, as by snprintf; NULL asks for the length
 *             only
 *   capacity  size of the buffer in bytes; 0 stores nothing
 * Returns: the length of the whole text in bytes without the NUL; the stored text is cut if that is not less than capacity.
 * Counters grow meanwhile, so ask again with a larger buffer until it fits: 4096 bytes and 32 times the length of the labels
 * are enough. 0, and an empty text: writer is NULL, this is a forked child, or the labels would not parse
 * (udsipc_last_error_message says which).
 * Ownership: the buffer is the caller's.
 * Threads: any. Blocking: never.
 */
size_t udsipc_writer_metrics_prometheus(const udsipc_writer *writer,
                                        const char *labels,
                                        char *buffer,
                                        size_t capacity);

/**
 * One line for a log: the state, the path, whether the reader acknowledges, and how messages have ended.
 *
 * Parameters:
 *   writer    the writer
 *   buffer    where the line is stored, cut to fit and always NUL-terminated, as by snprintf; NULL asks for the length
 *             only
 *   capacity  size of the buffer in bytes; 0 stores nothing
 * Returns: the length of the whole line in bytes without the NUL; 0, and an empty line, if writer is NULL or this is a forked
 * child. The stored line is cut if the result is not less than capacity.
 * Ownership: the buffer is the caller's.
 * Threads: any. Blocking: never.
 */
size_t udsipc_writer_describe(const udsipc_writer *writer,
                              char *buffer,
                              size_t capacity);

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
 * Whether the writer has a connection now. With socket activation by systemd that does not mean that the reader runs: systemd
 * holds the listening socket until then.
 *
 * Parameters:
 *   writer  the writer
 * Returns: 1 or 0; 0 if writer is NULL and in a forked child.
 * Threads: any. Blocking: never.
 */
int32_t udsipc_writer_is_connected(const udsipc_writer *writer);

/**
 * Frees a writer. A writer that has not been stopped is stopped first, as by udsipc_writer_stop with the time of the option
 * linger_ms (1000 by default): messages that cannot be delivered in that time are given up and reported. Call
 * udsipc_writer_stop before to get the result.
 *
 * Parameters:
 *   writer  the writer; NULL does nothing
 * Ownership: the handle must not be used again. No callback of the writer runs after this call. Exception: if the call is
 * made inside a callback of the writer, this callback finishes, and the writer ends right after it.
 * In a forked child the call closes nothing and does not affect the parent's writer.
 * Threads: any, but no other call on this handle may be running, except the one whose callback makes this call.
 * Blocking: as udsipc_writer_stop with linger_ms; inside a callback of this writer never.
 */
void udsipc_writer_free(udsipc_writer *writer);

/**
 * A descriptor for the program's own event loop, which then drives the writer instead of a thread of the library. It is
 * readable (level-triggered) when udsipc_writer_dispatch has work. The first call of this function or of
 * udsipc_writer_dispatch creates it, and two more descriptors that it watches. After a stop it is never readable. If the
 * writer is connected and idle, the call that writes a message may send it at once, and then there is no work.
 *
 * Parameters:
 *   writer  the writer, not started
 * Returns: the descriptor; -1 if there is none: writer is NULL, this is a forked child, or no descriptor is to be had
 * (udsipc_last_error_message says which).
 * Ownership: the writer's. Wait on it with poll, select or epoll; do not read, change or close it.
 * Threads: any. Blocking: never.
 */
int32_t udsipc_writer_fd(const udsipc_writer *writer);

/**
 * Does the writer's work that can be done at once, on the caller's thread: connects, sends, reports errors. The first call
 * takes the place of start.
 *
 * Parameters:
 *   writer      the writer, not started
 *   timeout_ms  how long to wait in milliseconds if there is no work; 0 does not wait; UDSIPC_WAIT_FOREVER has no
 *               limit
 * Returns: UDSIPC_OK, also if there was no work; UDSIPC_ERR_WRONG_STATE if the writer has been started;
 * UDSIPC_ERR_STOPPED; UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this writer; UDSIPC_ERR_NULL_POINTER;
 * UDSIPC_ERR_IO if the program has closed the writer's event descriptor; UDSIPC_ERR_NO_RESOURCES if that descriptor cannot be
 * created; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Threads: any; one at a time is enough. Callbacks run in this call. Blocking: up to timeout_ms; a connect also for a slow
 * file system.
 */
udsipc_status udsipc_writer_dispatch(udsipc_writer *writer,
                                     uint64_t timeout_ms);

/*
 * Options of a reader
 * -------------------
 */

/** The options of a reader. Opaque. */
typedef struct udsipc_reader_options udsipc_reader_options;

/**
 * Makes options for a reader, all at their defaults.
 *
 * Returns: the options, or NULL if the library failed to make them.
 * Ownership: the caller's; free them with udsipc_reader_options_free, at the earliest right after the reader was made.
 * Threads: any. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_reader_options *udsipc_reader_options_new(void);

/**
 * Frees options. Readers that were made with them are not affected.
 *
 * Parameters:
 *   options  the options; NULL does nothing
 * Ownership: the options must not be used again.
 * Threads: any, but no other call may be using these options. Blocking: never.
 */
void udsipc_reader_options_free(udsipc_reader_options *options);

/**
 * Sets the largest message that is accepted. A larger one closes the connection as soon as its length has arrived, and
 * UDSIPC_ERR_MESSAGE_TOO_LARGE is reported to the error callback.
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
 * Sets how long a connection may be silent before it is closed. No message is lost: the writer connects again for its next
 * message. A close between messages is no error and counts in idle_closed; a close in the middle of a message counts in
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
 * Sets how many failures in a row to accept a connection are not reported. The reader never gives up: it accepts again when
 * the shortage of descriptors or memory ends.
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
 * Sets the size of the socket's receive buffer (SO_RCVBUF). Linux ignores it for Unix domain sockets (unix(7)).
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
 * Sets how many callbacks may run at the same time, and with that the number of threads of the reader. A thread is started
 * only when it is needed.
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
 * Sets the stack size of the reader's threads, on which callbacks run. The kernel provides memory only for the part of a
 * stack that is used. Callbacks that run in a call of the program (udsipc_reader_dispatch, udsipc_reader_stop) use the stack
 * of the calling thread.
 *
 * Parameters:
 *   options  the options to change
 *   bytes    0, or at least 65536
 * Default: 0: the system's default for new threads (RLIMIT_STACK, shown by "ulimit -s"), usually 8 MiB
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_BUFFER_SIZE outside the range. With a size
 * for which there is no memory, udsipc_reader_start returns UDSIPC_ERR_NO_RESOURCES.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_callback_stack_size(udsipc_reader_options *options,
                                                            uint64_t bytes);

/**
 * Sets how many connections may be open. A further connection is closed at once, unread, and counts in refused. Its writer
 * counts the messages that it had sent on it in suspected_lost; queued messages are sent when a connection is accepted.
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
 * Sets how much memory the reader shares with busy writers at most. A busy writer of this library passes its messages
 * through 4 MiB of it or, when half of the limit is in use, 1 MiB, without a system call for each batch. When all is in
 * use, further writers send on their sockets only. The memory is the reader's, which gives it back when the connection
 * ends.
 *
 * Parameters:
 *   options  the options to change
 *   bytes    any number of bytes, for all connections of a reader; 0 shares none
 * Default: 67108864 (64 MiB)
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_max_shared_memory(udsipc_reader_options *options,
                                                          uint64_t bytes);

/**
 * Sets the permission bits of the socket file. A writer needs write permission to connect. The file never has wider
 * permissions, not even for a moment. Without effect on a socket that systemd passed. With an abstract address, which has no
 * permissions, udsipc_reader_new returns UDSIPC_ERR_INVALID_ARGUMENT.
 *
 * Parameters:
 *   options  the options to change
 *   mode     0 to 0777 (octal)
 * Default: 0777 less the umask
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT above 0777.
 * Threads: any. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_reader_options_set_socket_mode(udsipc_reader_options *options,
                                                    uint32_t mode);

/**
 * Sets the group that owns the socket file; the process must be a member of the group. Without effect on a socket that
 * systemd passed. With an abstract address udsipc_reader_new returns UDSIPC_ERR_INVALID_ARGUMENT.
 *
 * Parameters:
 *   options  the options to change
 *   gid      a group id; not 4294967295, which names no group
 * Default: the group of the process; in a directory with the set-group-ID bit, the group of the directory
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT for 4294967295.
 * Threads: any. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_reader_options_set_socket_group(udsipc_reader_options *options,
                                                     uint32_t gid);

/**
 * Allows writers of this user. After the first call of this function or of udsipc_reader_options_allow_gid, only allowed
 * writers are accepted; each further call allows more. The connection of any other writer is closed unread and counts in
 * refused.
 *
 * In a user namespace that does not map every user (a container), the kernel reports one id, 65534, for all users without a
 * mapping: to allow that id allows all of them. There the first call with that id is refused, and a second call allows it.
 *
 * Parameters:
 *   options  the options to change
 *   id       a user id, compared with the writer's effective one at the time of its connect (SO_PEERCRED)
 * Default: every writer that can connect is allowed
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT for the first call with the id of all users
 * without a mapping.
 * Threads: any. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_reader_options_allow_uid(udsipc_reader_options *options,
                                              uint32_t id);

/**
 * Allows writers of this group: their primary or a supplementary group. See udsipc_reader_options_allow_uid.
 *
 * Parameters:
 *   options  the options to change
 *   id       a group id
 * Default: every writer that can connect is allowed
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT for the first call with the id of all groups
 * without a mapping.
 * Threads: any. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_reader_options_allow_gid(udsipc_reader_options *options,
                                              uint32_t id);

/**
 * Sets the name of this reader's socket among several that systemd passed (FileDescriptorName= of the socket unit).
 *
 * Parameters:
 *   options  the options to change
 *   name     1 to 255 bytes of UTF-8 without ":" and control characters; copied; NULL removes the name
 * Default: no name: the reader takes the only descriptor that was passed, or of several the one bound to its path.
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if options is NULL; UDSIPC_ERR_INVALID_ARGUMENT if the name is not as
 * above.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_listen_fd_name(udsipc_reader_options *options,
                                                       const char *name);

/**
 * Makes the reader accept from a listening socket of the program. Then no path is bound, and no socket is taken from
 * systemd. The reader uses a duplicate: it never shuts the socket and never removes its file, and connections that wait in
 * the backlog when the reader is stopped stay there. The socket becomes non-blocking (O_NONBLOCK) for all processes that
 * share it. udsipc_reader_socket_path returns the address of the socket.
 *
 * Parameters:
 *   options  the options to change
 *   fd       a listening Unix stream socket; the caller may close it after this call
 * Default: none
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT if fd is not such a socket;
 * UDSIPC_ERR_NO_RESOURCES if it cannot be duplicated.
 * Ownership: fd stays the caller's. The options keep a duplicate of it until they are freed, and each reader made with them
 * has one until it is stopped.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_listen_fd(udsipc_reader_options *options,
                                                  int32_t fd);

/**
 * Sets how long udsipc_reader_free goes on receiving: it stops a running reader first, as udsipc_reader_stop with this time.
 *
 * Parameters:
 *   options  the options to change
 *   ms       milliseconds; 0 delivers nothing more; UDSIPC_WAIT_FOREVER has no limit
 * Default: 1000
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_linger_ms(udsipc_reader_options *options,
                                                  uint64_t ms);

/**
 * Sets whether the reader follows systemd's environment: it takes the socket that systemd passed (LISTEN_FDS), moves
 * its path into RUNTIME_DIRECTORY, and sends READY=1 at start and, if it has done that, STOPPING=1 when stop begins
 * (NOTIFY_SOCKET). A notification never waits: one that cannot be sent is reported to the error callback. Without these
 * variables the option has no effect.
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
 * Sets the function that is called for errors in the background.
 *
 * Parameters:
 *   options   the options to change
 *   callback  see udsipc_error_callback; NULL, the default, for none
 *   userdata  passed to the callback; may be NULL
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if options is NULL.
 * Ownership: what userdata points to is the caller's, and must stay valid until every reader made with these options
 * has been freed.
 * Threads: any. Blocking: never.
 */
udsipc_status udsipc_reader_options_set_error_callback(udsipc_reader_options *options,
                                                       udsipc_error_callback callback,
                                                       void *userdata);

/*
 * Connection: the sender of a message, inside a message callback
 * --------------------------------------------------------------
 */

/** The connection on which a message came. Opaque, and valid only during the callback that gets it. */
typedef struct udsipc_connection udsipc_connection;

/**
 * A number that tells the connections of one reader apart.
 *
 * Parameters:
 *   connection  the argument of the callback
 * Returns: the number, unique among the connections of a reader; 0 if connection is NULL.
 * Threads: inside the callback. Blocking: never.
 */
uint64_t udsipc_connection_id(const udsipc_connection *connection);

/**
 * The writer's process, user and group at the time of its connect (SO_PEERCRED).
 *
 * Parameters:
 *   connection  the argument of the callback
 *   pid         where its process id is stored: 0 if it is in another pid namespace; the process may have ended, and its
 *               id may be another process's by now
 *   uid         where its effective user id is stored
 *   gid         where its effective group id is stored
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if any of the four is NULL; UDSIPC_ERR_IO.
 * Threads: inside the callback. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_connection_credentials(const udsipc_connection *connection,
                                            int32_t *pid,
                                            uint32_t *uid,
                                            uint32_t *gid);

/**
 * Which writer is at the other end, if it takes part in acknowledged delivery. A writer has the same id on each of its
 * connections, as long as its handle lives, and no other writer has it; it is no proof of identity, so tell writers apart
 * by udsipc_connection_credentials and the id together. Together with udsipc_message_sequence it lets a consumer find a
 * message that is delivered again.
 *
 * Parameters:
 *   connection  the argument of the callback
 *   id          where the 16 bytes of the id are stored
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if either is NULL; UDSIPC_ERR_NOT_ACKNOWLEDGED if the writer does not take
 * part, then id is left as it is.
 * Threads: inside the callback. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_connection_writer_id(const udsipc_connection *connection,
                                          uint8_t *id);

/**
 * The sequence number of the message that the callback got: its place among all that its writer has accepted, from 1 on.
 * In a batch that of the first message; the others follow one by one. A message that is delivered again has the same
 * number, and one that the writer has given up leaves a gap.
 *
 * Parameters:
 *   connection  the argument of the callback
 * Returns: the number; 0 if the writer does not take part in acknowledged delivery, or connection is NULL.
 * Threads: inside the callback. Blocking: never.
 */
uint64_t udsipc_message_sequence(const udsipc_connection *connection);

/*
 * Reader
 * ------
 */

/** The receiving end: a socket, its connections, and the threads that call back. Opaque. */
typedef struct udsipc_reader udsipc_reader;

/**
 * Called by a reader for each message.
 *
 * Parameters:
 *   data        the message; valid during the call only
 *   len         its length in bytes, at least 1: empty messages are not delivered
 *   connection  the sender; valid during the call only
 *   userdata    the pointer that was given with the callback
 * Returns: 0 if the message was handled. Any other value means that the callback failed: the metric errors grows by one,
 * UDSIPC_ERR_HANDLER_FAILED is reported to the error callback, and the next message is delivered as usual.
 * Threads: one of the reader's threads, or the caller of udsipc_reader_dispatch. The messages of one connection come one
 * after another, in order; messages of different connections come at the same time, unless max_handler_threads is 1.
 * The callback may call any function of this library, on any handle; udsipc_reader_stop on its own reader returns
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
 *   count       the number of messages, at least 1
 *   connection  the sender; valid during the call only
 *   userdata    the pointer that was given with the callback
 * Returns: the number of messages that were handled, counted from the first. If it is less than count, the message at that
 * index has failed, and the callback is called again for the messages behind it. More than count means count.
 * Threads and everything else: as udsipc_message_callback.
 */
typedef size_t (*udsipc_batch_callback)(const udsipc_buffer *messages,
                                        size_t count,
                                        const udsipc_connection *connection,
                                        void *userdata);

/** The counters of a reader. */
typedef struct udsipc_reader_metrics {
    /** Messages that the callback has handled. */
    uint64_t received;
    /** Connections served since the reader was made. */
    uint64_t connections;
    /** Errors: malformed length prefixes, messages that were too large or cut, failed callbacks. */
    uint64_t errors;
    /** Connections that are open now. */
    uint64_t active_connections;
    /** Bytes of the messages in received. */
    uint64_t received_bytes;
    /** Failed attempts to accept a connection. */
    uint64_t accept_errors;
    /** Connections closed because they were silent for inactivity_timeout_ms. */
    uint64_t idle_closed;
    /** Connections closed unread, because the peer was not allowed or because of max_connections. */
    uint64_t refused;
    /** Times that the reader listened at its path again after its socket file had been removed or replaced. */
    uint64_t relistened;
} udsipc_reader_metrics;

/**
 * Makes a reader, binds its socket and listens. From then on writers can connect; their messages wait until the reader is
 * started or dispatched. A stale socket file at the path is replaced; the socket file of a live reader is not.
 *
 * Parameters:
 *   socket_path  the path to bind, or "@name" for an abstract address; copied. Under systemd the socket is bound in
 *                RUNTIME_DIRECTORY, under the file name of this path (udsipc_reader_options_set_use_systemd). Not
 *                bound if systemd has passed a socket, or the options have one (udsipc_reader_options_set_listen_fd)
 *   on_message   called for each message
 *   userdata     passed to on_message; may be NULL
 *   options      the options; copied, so the same options can make several readers; NULL for the defaults
 *   out          where the handle is stored
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_HANDLER_NULL if on_message is NULL;
 * UDSIPC_ERR_INVALID_ARGUMENT for an abstract address with a socket mode or group;
 * UDSIPC_ERR_INVALID_SOCKET_PATH; UDSIPC_ERR_ADDRESS_IN_USE; UDSIPC_ERR_PERMISSION_DENIED; UDSIPC_ERR_SYSTEMD;
 * UDSIPC_ERR_NO_RESOURCES; UDSIPC_ERR_IO.
 * Ownership: the handle is the caller's; free it with udsipc_reader_free. The options stay the caller's. What userdata
 * points to must stay valid until the reader has been freed.
 * Threads: any. Blocking: for file system calls, and for one second at most while another program holds the lock on the
 * directory.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_reader_new(const char *socket_path,
                                udsipc_message_callback on_message,
                                void *userdata,
                                const udsipc_reader_options *options,
                                udsipc_reader **out);

/**
 * As udsipc_reader_new, with a callback that gets many messages in one call. Faster for small messages.
 *
 * Parameters:
 *   socket_path  as for udsipc_reader_new
 *   on_messages  called for the messages of one connection that have arrived together
 *   userdata     passed to on_messages; may be NULL
 *   options      the options; NULL for the defaults
 *   out          where the handle is stored
 * Returns, ownership, threads, blocking: as udsipc_reader_new.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_reader_new_batched(const char *socket_path,
                                        udsipc_batch_callback on_messages,
                                        void *userdata,
                                        const udsipc_reader_options *options,
                                        udsipc_reader **out);

/**
 * Starts the threads that accept connections and run callbacks, and sends READY=1 to systemd if NOTIFY_SOCKET is set. A second
 * call changes nothing.
 *
 * Parameters:
 *   reader  the reader
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_STOPPED; UDSIPC_ERR_WRONG_STATE if it has been dispatched;
 * UDSIPC_ERR_NO_RESOURCES if no thread can be started; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Threads: any. The first callback may run before this call returns. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_reader_start(udsipc_reader *reader);

/**
 * Stops the reader: accepts no new connections, delivers the messages that have already been sent, waits for running
 * callbacks, closes the connections, and removes the socket file if it is still this reader's. A socket that systemd passed is
 * not shut: connections wait in its backlog for the next start. After this call no callback of the reader runs. A second call
 * returns what the first returned.
 *
 * Parameters:
 *   reader      the reader
 *   timeout_ms  how long delivering may take in milliseconds; 0 delivers nothing more; UDSIPC_WAIT_FOREVER has no
 *               limit
 * Returns: UDSIPC_OK; UDSIPC_ERR_TIMEOUT if messages were left unread: the time passed first, or the reader was never
 * started nor dispatched, and allowed writers had sent messages;
 * UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this reader, and nothing has changed; UDSIPC_ERR_NULL_POINTER;
 * UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Threads: any, several at a time. Blocking: up to timeout_ms, plus running callbacks: if a callback never returns, neither
 * does this call.
 */
udsipc_status udsipc_reader_stop(udsipc_reader *reader,
                                 uint64_t timeout_ms);

/**
 * Reads the reader's counters. They stay readable after stop.
 *
 * Parameters:
 *   reader    the reader
 *   out       where the counters are stored
 *   out_size  sizeof(udsipc_reader_metrics) in the program. A struct of an older header gets the counters that it has; in
 *             one of a newer header the counters that this library does not know are 0
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT if out_size is 0 or not a multiple of 8;
 * UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Ownership: out is the caller's.
 * Threads: any. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_reader_get_metrics(const udsipc_reader *reader,
                                        udsipc_reader_metrics *out,
                                        size_t out_size);

/**
 * Stores the reader's counters as text in the format of Prometheus, version 0.0.4, for a program that serves its metrics.
 * A counter is called udsipc_reader_ and the name of its field with _total behind it; active_connections has no _total.
 *
 * The format wants the lines of one metric together: a program with several handles gives each its own labels, and leaves
 * out the lines that begin with '#' in all texts but the first.
 *
 * Parameters:
 *   reader    the reader
 *   labels    what stands between the braces of each line: name="value" pairs with a comma between, in UTF-8, with
 *             backslash, quote and line break in values escaped by a backslash; NULL or "" for none
 *   buffer    where the text is stored, cut to fit and always NUL-terminated, as by snprintf; NULL asks for the length
 *             only
 *   capacity  size of the buffer in bytes; 0 stores nothing
 * Returns: the length of the whole text in bytes without the NUL; the stored text is cut if that is not less than capacity.
 * Counters grow meanwhile, so ask again with a larger buffer until it fits: 4096 bytes and 32 times the length of the labels
 * are enough. 0, and an empty text: reader is NULL, this is a forked child, or the labels would not parse
 * (udsipc_last_error_message says which).
 * Ownership: the buffer is the caller's.
 * Threads: any. Blocking: never.
 */
size_t udsipc_reader_metrics_prometheus(const udsipc_reader *reader,
                                        const char *labels,
                                        char *buffer,
                                        size_t capacity);

/**
 * The path at which the reader listens. Under systemd it may be another one than socket_path of udsipc_reader_new.
 *
 * Parameters:
 *   reader  the reader
 * Returns: the path; "" if reader is NULL; never NULL.
 * Ownership: the reader's, valid until it is freed.
 * Threads: any. Blocking: never. Works in a forked child, too.
 */
const char *udsipc_reader_socket_path(const udsipc_reader *reader);

/**
 * One line for a log: standalone or under systemd, the path, the directories, the memory that is shared with writers.
 *
 * Parameters:
 *   reader    the reader
 *   buffer    where the line is stored, cut to fit and always NUL-terminated, as by snprintf; NULL asks for the length
 *             only
 *   capacity  size of the buffer in bytes; 0 stores nothing
 * Returns: the length of the whole line in bytes without the NUL; 0, and an empty line, if reader is NULL. The stored
 * line is cut if the result is not less than capacity.
 * Ownership: the buffer is the caller's.
 * Threads: any. Blocking: never.
 */
size_t udsipc_reader_describe(const udsipc_reader *reader,
                              char *buffer,
                              size_t capacity);

/**
 * Frees a reader. A running reader is stopped first, as by udsipc_reader_stop with the time of the option linger_ms (1000 by
 * default): messages that writers have already sent are delivered. Call udsipc_reader_stop before to allow more time and to
 * get the result.
 *
 * Parameters:
 *   reader  the reader; NULL does nothing
 * Ownership: the handle must not be used again. No callback of the reader runs after this call. Exception: if the call is
 * made inside a callback of the reader, running callbacks finish, and no further callback begins.
 * In a forked child the call closes nothing and does not affect the parent's reader, its socket file and its connections.
 * Threads: any, but no other call on this handle may be running, except the one whose callback makes this call.
 * Blocking: up to linger_ms, plus running callbacks; inside a callback of this reader never.
 */
void udsipc_reader_free(udsipc_reader *reader);

/**
 * A descriptor for the program's own event loop, which then drives the reader instead of threads of the library. It is
 * readable (level-triggered) when udsipc_reader_dispatch has work.
 *
 * Parameters:
 *   reader  the reader, not started
 * Returns: the descriptor; -1 if there is none: reader is NULL, or this is a forked child.
 * Ownership: the reader's. Wait on it with poll, select or epoll; do not read, change or close it.
 * Threads: any. Blocking: never.
 */
int32_t udsipc_reader_fd(const udsipc_reader *reader);

/**
 * Does the reader's work that can be done at once, on the caller's thread: accepts, reads, runs callbacks. The first call
 * takes the place of start.
 *
 * Parameters:
 *   reader      the reader, not started
 *   timeout_ms  how long to wait in milliseconds if there is no work; 0 does not wait; UDSIPC_WAIT_FOREVER has no
 *               limit
 * Returns: UDSIPC_OK, also if there was no work; UDSIPC_ERR_WRONG_STATE if the reader has been started;
 * UDSIPC_ERR_STOPPED; UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this reader; UDSIPC_ERR_NULL_POINTER;
 * UDSIPC_ERR_IO; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
 * Threads: any; one at a time is enough. Callbacks run in this call. Blocking: up to timeout_ms for work to come, then about 5
 * ms of work and the callback that runs at their end; the next call does the work that is left.
 */
udsipc_status udsipc_reader_dispatch(udsipc_reader *reader,
                                     uint64_t timeout_ms);

/*
 * Paths and systemd
 * -----------------
 */

/**
 * The longest socket path that the system takes: 107 bytes on Linux. For an abstract address the "@" counts as one.
 *
 * Returns: a length in bytes, without the NUL.
 * Threads: any. Blocking: never.
 */
size_t udsipc_max_socket_path_length(void);

/**
 * The path at which a reader that follows systemd binds its socket: the file name of path in the first directory of
 * RUNTIME_DIRECTORY; if that variable is not set, path as it is. A writer in the same service finds its reader with this
 * function.
 *
 * Parameters:
 *   path      a path, or "@name" for an abstract address, which stays as it is
 *   buffer    where the resolved path is stored, NUL-terminated; NULL together with capacity 0 asks for the size only
 *   capacity  size of the buffer in bytes
 *   needed    the size in bytes that the resolved path takes with its NUL; written too when the buffer is too small
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_SOCKET_PATH if path begins with "unix:", "ipc:" or
 * "~", or ends in a line break; UDSIPC_ERR_INVALID_BUFFER_SIZE if capacity is less than needed, the buffer is then as it
 * was.
 * Ownership: all memory is the caller's.
 * Threads: any, but none may change the environment meanwhile. Blocking: never.
 */
UDSIPC_NODISCARD
udsipc_status udsipc_resolve_socket_path(const char *path,
                                         char *buffer,
                                         size_t capacity,
                                         size_t *needed);

/**
 * Makes the directory of a socket path and its parents, each with mode 0750 less the umask. Existing directories are not
 * changed. An abstract address needs no directory. udsipc_reader_new calls this itself.
 *
 * Parameters:
 *   socket_path  the path of the socket, not of the directory
 * Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_SOCKET_PATH; UDSIPC_ERR_PERMISSION_DENIED;
 * UDSIPC_ERR_NO_RESOURCES; UDSIPC_ERR_IO.
 * Threads: any. Blocking: for file system calls only.
 */
udsipc_status udsipc_ensure_socket_dir(const char *socket_path);

/**
 * Removes a stale socket file: one on which no process listens. A path without a file, or an abstract address, is
 * UDSIPC_OK. udsipc_reader_new calls this itself.
 *
 * Parameters:
 *   socket_path  the path of the socket
 * Returns: UDSIPC_OK; UDSIPC_ERR_ADDRESS_IN_USE if a process listens there, or if the file is not a socket: the
 * file is not touched; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_SOCKET_PATH; UDSIPC_ERR_PERMISSION_DENIED; UDSIPC_ERR_IO.
 * Threads: any. Blocking: for file system calls, and for a second at most while another program holds the lock on the
 * directory.
 */
udsipc_status udsipc_cleanup_socket(const char *socket_path);

/**
 * Whether this process seems to run under systemd: RUNTIME_DIRECTORY, LISTEN_FDS or NOTIFY_SOCKET is set.
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
 * Sends a notification to the service manager, as sd_notify(3) does. Readers that follow systemd send READY=1 and STOPPING=1
 * themselves.
 *
 * Parameters:
 *   state  "READY=1", "STATUS=...", "WATCHDOG=1", or any other text of sd_notify(3), in UTF-8; several assignments are
 *          separated by line breaks
 * Returns: UDSIPC_OK, also if NOTIFY_SOCKET is not set and nothing is sent; UDSIPC_ERR_NULL_POINTER;
 * UDSIPC_ERR_INVALID_ARGUMENT if the text is empty or no UTF-8; UDSIPC_ERR_IO, UDSIPC_ERR_PERMISSION_DENIED or
 * UDSIPC_ERR_NO_RESOURCES if it could not be sent; a service should go on then.
 * Threads: any, but none may change the environment meanwhile. Blocking: never; a service manager whose queue is full is
 * UDSIPC_ERR_IO.
 */
udsipc_status udsipc_systemd_notify(const char *state);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* UDSIPC_H */
