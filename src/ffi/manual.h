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
