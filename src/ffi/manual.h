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
