//! `udsipc_reader_*`.

use std::ffi::{c_char, c_void};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use super::guard::{self, Failure, guard, guard_or};
use super::handle::{self, Handle, Shared, required};
use super::message_callback::{self, udsipc_batch_callback, udsipc_message_callback};
use super::options::{duration, for_handle};
use super::reader_options::udsipc_reader_options;
use super::status::udsipc_status;
use super::user_data::UserData;
use crate::error;
use crate::metrics::ReaderMetrics;
use crate::options::ReaderOptions;
use crate::reader::Reader;

/// The receiving end: a socket, its connections, and the threads that call back. Opaque.
pub struct udsipc_reader(Arc<Shared<Reader>>);

impl Handle for udsipc_reader {
    type Core = Reader;
    fn shared(&self) -> &Arc<Shared<Reader>> {
        &self.0
    }
    fn end(core: &Reader) {
        core.end();
    }
}

/// The counters of a reader.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct udsipc_reader_metrics {
    /// Messages that the callback has handled.
    pub received: u64,
    /// Connections served since the reader was made.
    pub connections: u64,
    /// Errors: malformed length prefixes, messages that were too large or cut, failed callbacks.
    pub errors: u64,
    /// Connections that are open now.
    pub active_connections: u64,
    /// Bytes of the messages in received.
    pub received_bytes: u64,
    /// Failed attempts to accept a connection.
    pub accept_errors: u64,
    /// Connections closed because they were silent for inactivity_timeout_ms.
    pub idle_closed: u64,
    /// Connections closed unread, because the peer was not allowed or because of max_connections.
    pub refused: u64,
    /// Times that the reader listened at its path again after its socket file had been removed or replaced.
    pub relistened: u64,
}

impl From<ReaderMetrics> for udsipc_reader_metrics {
    fn from(core: ReaderMetrics) -> Self {
        udsipc_reader_metrics {
            received: core.received,
            connections: core.connections,
            errors: core.errors,
            active_connections: core.active_connections,
            received_bytes: core.received_bytes,
            accept_errors: core.accept_errors,
            idle_closed: core.idle_closed,
            refused: core.refused,
            relistened: core.relistened,
        }
    }
}

/// Makes a reader, binds its socket and listens. From then on writers can connect; their messages wait until the reader is
/// started or dispatched. A stale socket file at the path is replaced; the socket file of a live reader is not.
///
/// Parameters:
///   socket_path  the path to bind, or "@name" for an abstract address; copied. Under systemd the socket is bound in
///                RUNTIME_DIRECTORY, under the file name of this path (udsipc_reader_options_set_use_systemd). Not
///                bound if systemd has passed a socket, or the options have one (udsipc_reader_options_set_listen_fd)
///   on_message   called for each message
///   userdata     passed to on_message; may be NULL
///   options      the options; copied, so the same options can make several readers; NULL for the defaults
///   out          where the handle is stored
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_HANDLER_NULL if on_message is NULL;
/// UDSIPC_ERR_INVALID_ARGUMENT for an abstract address with a socket mode or group;
/// UDSIPC_ERR_INVALID_SOCKET_PATH; UDSIPC_ERR_ADDRESS_IN_USE; UDSIPC_ERR_PERMISSION_DENIED; UDSIPC_ERR_SYSTEMD;
/// UDSIPC_ERR_NO_RESOURCES; UDSIPC_ERR_IO.
/// Ownership: the handle is the caller's; free it with udsipc_reader_free. The options stay the caller's. What userdata
/// points to must stay valid until the reader has been freed.
/// Threads: any. Blocking: for file system calls, and for one second at most while another program holds the lock on the
/// directory.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_new(
    socket_path: *const c_char,
    on_message: udsipc_message_callback,
    userdata: *mut c_void,
    options: *const udsipc_reader_options,
    out: *mut *mut udsipc_reader,
) -> udsipc_status {
    guard(|| {
        let function = on_message.ok_or(Failure::HandlerNull)?;
        let userdata = UserData::new(userdata);
        // SAFETY: the pointers are as `create` wants them, by the caller's promise.
        unsafe {
            create(socket_path, options, out, |path, options| {
                Reader::new(path, message_callback::message_handler(function, userdata), options)
            })
        }
    })
}

/// As udsipc_reader_new, with a callback that gets many messages in one call. Faster for small messages.
///
/// Parameters:
///   socket_path  as for udsipc_reader_new
///   on_messages  called for the messages of one connection that have arrived together
///   userdata     passed to on_messages; may be NULL
///   options      the options; NULL for the defaults
///   out          where the handle is stored
/// Returns, ownership, threads, blocking: as udsipc_reader_new.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_new_batched(
    socket_path: *const c_char,
    on_messages: udsipc_batch_callback,
    userdata: *mut c_void,
    options: *const udsipc_reader_options,
    out: *mut *mut udsipc_reader,
) -> udsipc_status {
    guard(|| {
        let function = on_messages.ok_or(Failure::HandlerNull)?;
        let userdata = UserData::new(userdata);
        // SAFETY: the pointers are as `create` wants them, by the caller's promise.
        unsafe {
            create(socket_path, options, out, |path, options| {
                Reader::new_batched(path, message_callback::batch_handler(function, userdata), options)
            })
        }
    })
}

/// # Safety
/// `socket_path` is NULL or a C string, `options` NULL or live, `out` NULL or writable.
unsafe fn create(
    socket_path: *const c_char,
    options: *const udsipc_reader_options,
    out: *mut *mut udsipc_reader,
    make: impl FnOnce(&Path, ReaderOptions) -> error::Result<Reader>,
) -> Result<(), Failure> {
    guard::keep_panics_quiet();
    let out = required(out, "out")?;
    // SAFETY: as promised by the caller.
    let (path, options) = unsafe { (handle::path(&socket_path, "socket_path")?, for_handle(options)?) };
    let reader = make(path, options)?;
    let path = handle::c_path(reader.socket_path());
    let reader = handle::into_raw(udsipc_reader(Shared::new(reader, path)));
    // SAFETY: not NULL; writable by the caller's promise.
    unsafe { out.write(reader) };
    Ok(())
}

/// Starts the threads that accept connections and run callbacks, and sends READY=1 to systemd if NOTIFY_SOCKET is set. A second
/// call changes nothing.
///
/// Parameters:
///   reader  the reader
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_STOPPED; UDSIPC_ERR_WRONG_STATE if it has been dispatched;
/// UDSIPC_ERR_NO_RESOURCES if no thread can be started; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Threads: any. The first callback may run before this call returns. Blocking: never.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_start(reader: *mut udsipc_reader) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let reader = unsafe { handle::retain(reader, "reader")? };
        Ok(reader.core.start()?)
    })
}

/// Stops the reader: accepts no new connections, delivers the messages that have already been sent, waits for running
/// callbacks, closes the connections, and removes the socket file if it is still this reader's. A socket that systemd passed is
/// not shut: connections wait in its backlog for the next start. After this call no callback of the reader runs. A second call
/// returns what the first returned.
///
/// Parameters:
///   reader      the reader
///   timeout_ms  how long delivering may take in milliseconds; 0 delivers nothing more; UDSIPC_WAIT_FOREVER has no
///               limit
/// Returns: UDSIPC_OK; UDSIPC_ERR_TIMEOUT if messages were left unread: the time passed first, or the reader was never
/// started nor dispatched, and allowed writers had sent messages;
/// UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this reader, and nothing has changed; UDSIPC_ERR_NULL_POINTER;
/// UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Threads: any, several at a time. Blocking: up to timeout_ms, plus running callbacks: if a callback never returns, neither
/// does this call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_stop(reader: *mut udsipc_reader, timeout_ms: u64) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let reader = unsafe { handle::retain(reader, "reader")? };
        Ok(reader.core.stop(duration(timeout_ms))?)
    })
}

/// Reads the reader's counters. They stay readable after stop.
///
/// Parameters:
///   reader    the reader
///   out       where the counters are stored
///   out_size  sizeof(udsipc_reader_metrics) in the program. A struct of an older header gets the counters that it has; in
///             one of a newer header the counters that this library does not know are 0
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT if out_size is 0 or not a multiple of 8;
/// UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Ownership: out is the caller's.
/// Threads: any. Blocking: never.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_get_metrics(
    reader: *const udsipc_reader,
    out: *mut udsipc_reader_metrics,
    out_size: usize,
) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let reader = unsafe { handle::retain(reader, "reader")? };
        reader.core.check_fork()?;
        // SAFETY: the caller promises `out_size` writable bytes; the struct holds nothing but u64.
        unsafe { handle::store_counters(&reader.core.metrics().into(), out, out_size) }
    })
}

/// Stores the reader's counters as text in the format of Prometheus, version 0.0.4, for a program that serves its metrics.
/// A counter is called udsipc_reader_ and the name of its field with _total behind it; active_connections has no _total.
///
/// The format wants the lines of one metric together: a program with several handles gives each its own labels, and leaves
/// out the lines that begin with '#' in all texts but the first.
///
/// Parameters:
///   reader    the reader
///   labels    what stands between the braces of each line: name="value" pairs with a comma between, in UTF-8, with
///             backslash, quote and line break in values escaped by a backslash; NULL or "" for none
///   buffer    where the text is stored, cut to fit and always NUL-terminated, as by snprintf; NULL asks for the length
///             only
///   capacity  size of the buffer in bytes; 0 stores nothing
/// Returns: the length of the whole text in bytes without the NUL; the stored text is cut if that is not less than capacity.
/// Counters grow meanwhile, so ask again with a larger buffer until it fits: 4096 bytes and 32 times the length of the labels
/// are enough. 0, and an empty text: reader is NULL, this is a forked child, or the labels would not parse
/// (udsipc_last_error_message says which).
/// Ownership: the buffer is the caller's.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_metrics_prometheus(
    reader: *const udsipc_reader,
    labels: *const c_char,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    let text = guard_or(String::new(), || {
        // SAFETY: the caller passes NULL or a live handle, and NULL or a NUL-terminated string.
        let (reader, labels) =
            unsafe { (handle::retain(reader, "reader")?, handle::utf8_or_empty(&labels, "labels")?) };
        reader.core.check_fork()?;
        Ok(reader.core.metrics_prometheus(labels)?)
    });
    // SAFETY: the caller promises `capacity` writable bytes unless `buffer` is NULL.
    unsafe { handle::print(text.as_bytes(), buffer, capacity) }
}

/// The path at which the reader listens. Under systemd it may be another one than socket_path of udsipc_reader_new.
///
/// Parameters:
///   reader  the reader
/// Returns: the path; "" if reader is NULL; never NULL.
/// Ownership: the reader's, valid until it is freed.
/// Threads: any. Blocking: never. Works in a forked child, too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_socket_path(reader: *const udsipc_reader) -> *const c_char {
    guard_or(c"".as_ptr(), || {
        // SAFETY: the caller passes NULL or a live handle; the handle keeps the path alive.
        Ok(unsafe { handle::retain(reader, "reader")? }.path.as_ptr())
    })
}

/// One line for a log: standalone or under systemd, the path, the directories, the memory that is shared with writers.
///
/// Parameters:
///   reader    the reader
///   buffer    where the line is stored, cut to fit and always NUL-terminated, as by snprintf; NULL asks for the length
///             only
///   capacity  size of the buffer in bytes; 0 stores nothing
/// Returns: the length of the whole line in bytes without the NUL; 0, and an empty line, if reader is NULL. The stored
/// line is cut if the result is not less than capacity.
/// Ownership: the buffer is the caller's.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_describe(
    reader: *const udsipc_reader,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    let line = guard_or(String::new(), || {
        // SAFETY: the caller passes NULL or a live handle.
        Ok(unsafe { handle::retain(reader, "reader")? }.core.describe())
    });
    // SAFETY: the caller promises `capacity` writable bytes unless `buffer` is NULL.
    unsafe { handle::print(line.as_bytes(), buffer, capacity) }
}

/// Frees a reader. A running reader is stopped first, as by udsipc_reader_stop with the time of the option linger_ms (1000 by
/// default): messages that writers have already sent are delivered. Call udsipc_reader_stop before to allow more time and to
/// get the result.
///
/// Parameters:
///   reader  the reader; NULL does nothing
/// Ownership: the handle must not be used again. No callback of the reader runs after this call. Exception: if the call is
/// made inside a callback of the reader, running callbacks finish, and no further callback begins.
/// In a forked child the call closes nothing and does not affect the parent's reader, its socket file and its connections.
/// Threads: any, but no other call on this handle may be running, except the one whose callback makes this call.
/// Blocking: up to linger_ms, plus running callbacks; inside a callback of this reader never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_free(reader: *mut udsipc_reader) {
    guard_or((), || {
        // SAFETY: the caller passes NULL or a handle of udsipc_reader_new, for the last time.
        unsafe { handle::free(reader) };
        Ok(())
    });
}

/// A descriptor for the program's own event loop, which then drives the reader instead of threads of the library. It is
/// readable (level-triggered) when udsipc_reader_dispatch has work.
///
/// Parameters:
///   reader  the reader, not started
/// Returns: the descriptor; -1 if there is none: reader is NULL, or this is a forked child.
/// Ownership: the reader's. Wait on it with poll, select or epoll; do not read, change or close it.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_fd(reader: *const udsipc_reader) -> i32 {
    guard_or(-1, || {
        // SAFETY: the caller passes NULL or a live handle.
        let reader = unsafe { handle::retain(reader, "reader")? };
        Ok(reader.core.event_fd()?.as_raw_fd())
    })
}

/// Does the reader's work that can be done at once, on the caller's thread: accepts, reads, runs callbacks. The first call
/// takes the place of start.
///
/// Parameters:
///   reader      the reader, not started
///   timeout_ms  how long to wait in milliseconds if there is no work; 0 does not wait; UDSIPC_WAIT_FOREVER has no
///               limit
/// Returns: UDSIPC_OK, also if there was no work; UDSIPC_ERR_WRONG_STATE if the reader has been started;
/// UDSIPC_ERR_STOPPED; UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this reader; UDSIPC_ERR_NULL_POINTER;
/// UDSIPC_ERR_IO; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Threads: any; one at a time is enough. Callbacks run in this call. Blocking: up to timeout_ms for work to come, then about 5
/// ms of work and the callback that runs at their end; the next call does the work that is left.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_dispatch(reader: *mut udsipc_reader, timeout_ms: u64) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let reader = unsafe { handle::retain(reader, "reader")? };
        Ok(reader.core.dispatch(duration(timeout_ms)).map(drop)?)
    })
}
