//! `udsipc_reader_*`, `udsipc_connection_*`.

use std::ffi::{c_char, c_void};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use super::callback::{self, UserData, udsipc_batch_callback, udsipc_connection, udsipc_message_callback};
use super::guard::{self, Failure, guard, guard_or};
use super::handle::{self, Handle, Shared, required};
use super::options::{self, duration, udsipc_reader_options};
use super::status::udsipc_status;
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

/// What a reader has done so far.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct udsipc_reader_metrics {
    /// Messages that the callback handled well.
    pub received: u64,
    /// Connections served since the reader was made.
    pub connections: u64,
    /// Bad prefixes, messages that were too large or cut, and failed callbacks, one each.
    pub errors: u64,
    /// Connections that are open now.
    pub active_connections: u64,
    /// Bytes of the messages in received.
    pub received_bytes: u64,
    /// Failed attempts to accept a connection.
    pub accept_errors: u64,
    /// Connections closed because they were silent for inactivity_timeout.
    pub idle_closed: u64,
    /// Connections closed unread, because of the check of the peer or max_connections.
    pub refused: u64,
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
        }
    }
}

/// Makes a reader, binds its socket and listens: from then on writers can connect, and wait for udsipc_reader_start. A
/// stale socket file at the path is replaced; a live reader's is not.
///
/// Parameters:
///   socket_path  where to listen, or "@name" for an abstract address; copied. Under systemd its file name counts, in
///                RUNTIME_DIRECTORY, and a socket that systemd passed takes its place
///                (udsipc_reader_options_set_use_systemd)
///   on_message   called for each message
///   userdata     handed to on_message, never looked at; may be NULL
///   options      how the reader behaves; copied, so the same options can make several; NULL for the defaults
///   out          where the handle is stored
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_HANDLER_NULL if on_message is NULL;
/// UDSIPC_ERR_INVALID_ARGUMENT for an abstract address with a socket mode or group;
/// UDSIPC_ERR_INVALID_SOCKET_PATH; UDSIPC_ERR_ADDRESS_IN_USE; UDSIPC_ERR_PERMISSION_DENIED; UDSIPC_ERR_SYSTEMD;
/// UDSIPC_ERR_NO_RESOURCES; UDSIPC_ERR_IO.
/// Ownership: the handle is the caller's; free it with udsipc_reader_free. The options stay the caller's. What userdata
/// points to must stay valid until the reader has been freed.
/// Threads: any. Blocking: for file system calls only.
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
                Reader::new(path, callback::message_handler(function, userdata), options)
            })
        }
    })
}

/// As udsipc_reader_new, with a callback that gets many messages in one call: for small messages the cheaper way.
///
/// Parameters:
///   socket_path  where to listen
///   on_messages  called for the messages of one connection that have arrived together
///   userdata     handed to on_messages, never looked at; may be NULL
///   options      how the reader behaves; NULL for the defaults
///   out          where the handle is stored
/// Returns, ownership, threads, blocking: as udsipc_reader_new.
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
                Reader::new_batched(path, callback::batch_handler(function, userdata), options)
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
    let (path, options) = unsafe { (handle::path(&socket_path, "socket_path")?, options::for_reader(options)?) };
    let reader = make(path, options)?;
    let path = handle::c_path(reader.socket_path());
    let reader = handle::into_raw(udsipc_reader(Shared::new(reader, path)));
    // SAFETY: not NULL; writable by the caller's promise.
    unsafe { out.write(reader) };
    Ok(())
}

/// Starts to serve connections, and tells systemd READY=1 if there is one to tell. A second call changes nothing.
///
/// Parameters:
///   reader  the reader
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_STOPPED; UDSIPC_ERR_WRONG_STATE if it has been dispatched;
/// UDSIPC_ERR_NO_RESOURCES if no thread can be had; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Threads: any. The first callback may run before this call returns. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_start(reader: *mut udsipc_reader) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let reader = unsafe { handle::hold(reader, "reader")? };
        Ok(reader.core.start()?)
    })
}

/// Takes no new connections, delivers what has been sent already, waits for running callbacks, closes the connections
/// and removes the socket file if it is still this reader's. A socket that systemd passed stays open for the next
/// start. After this call no callback of the reader runs. A second call returns what the first returned.
///
/// Parameters:
///   reader      the reader
///   timeout_ms  how long delivering may take in milliseconds; 0 delivers nothing more; UDSIPC_WAIT_FOREVER has no
///               limit
/// Returns: UDSIPC_OK; UDSIPC_ERR_TIMEOUT if something was left unread: the time passed first, or the reader was never
/// started nor dispatched and writers that it would have let in had sent something;
/// UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this reader, nothing has changed; UDSIPC_ERR_NULL_POINTER;
/// UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Threads: any, several at a time. Blocking: up to timeout_ms, plus the callbacks that are running: one that never
/// returns is waited for without end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_stop(reader: *mut udsipc_reader, timeout_ms: u64) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let reader = unsafe { handle::hold(reader, "reader")? };
        Ok(reader.core.stop(duration(timeout_ms))?)
    })
}

/// Reads the reader's counters. They stay readable after stop.
///
/// Parameters:
///   reader    the reader
///   out       where they are stored
///   out_size  sizeof(udsipc_reader_metrics) as the program was compiled: a shorter struct gets the counters that it
///             has, and in a longer one those that this library does not know are 0
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT if out_size is 0 or no multiple of 8;
/// UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Ownership: out is the caller's.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_get_metrics(
    reader: *const udsipc_reader,
    out: *mut udsipc_reader_metrics,
    out_size: usize,
) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let reader = unsafe { handle::hold(reader, "reader")? };
        reader.core.check_fork()?;
        // SAFETY: the caller promises `out_size` writable bytes; the struct holds nothing but u64.
        unsafe { handle::store_counters(&reader.core.metrics().into(), out, out_size) }
    })
}

/// The path that the reader listens at, which under systemd is not always the one that it was made with.
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
        Ok(unsafe { handle::hold(reader, "reader")? }.path.as_ptr())
    })
}

/// One line for a log: standalone or under systemd, the path, the directories.
///
/// Parameters:
///   reader    the reader
///   buffer    where the line is stored, cut to fit and always NUL-terminated, as with snprintf; NULL to ask for the
///             length only
///   capacity  size of the buffer in bytes; 0 stores nothing
/// Returns: the length of the whole line in bytes without the NUL; 0, and an empty line, if reader is NULL. The line
/// was cut if that is not less than capacity.
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
        Ok(unsafe { handle::hold(reader, "reader")? }.core.describe())
    });
    // SAFETY: the caller promises `capacity` writable bytes unless `buffer` is NULL.
    unsafe { handle::print(line.as_bytes(), buffer, capacity) }
}

/// Frees a reader. One that runs is stopped first, as udsipc_reader_stop with 0. Call udsipc_reader_stop before it to
/// have everything delivered.
///
/// Parameters:
///   reader  the reader; NULL does nothing
/// Ownership: the handle must not be used again. No callback of it runs after this call, except when it is made inside
/// one of them: those that are running then go on to their end, and none begins any more.
/// In a forked child it closes the child's descriptors and leaves the parent's reader, its socket file and its
/// connections alone.
/// Threads: any, but no other call on this handle may be running, other than the one whose callback makes this call.
/// Blocking: for the callbacks that are running; inside a callback of this reader it waits for nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_free(reader: *mut udsipc_reader) {
    guard_or((), || {
        // SAFETY: the caller passes NULL or a handle of udsipc_reader_new, for the last time.
        unsafe { handle::free(reader) };
        Ok(())
    });
}

/// A descriptor for the host's own event loop, which then drives the reader instead of threads: it is readable, level
/// triggered, when udsipc_reader_dispatch has something to do.
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
        let reader = unsafe { handle::hold(reader, "reader")? };
        Ok(reader.core.event_fd()?.as_raw_fd())
    })
}

/// Does what there is to do, on the caller's thread: accept, read, call back. The first call takes the place of start.
///
/// Parameters:
///   reader      the reader, not started
///   timeout_ms  how long to wait in milliseconds if there is nothing to do; 0 does not wait; UDSIPC_WAIT_FOREVER has
///               no limit
/// Returns: UDSIPC_OK, also if there was nothing to do; UDSIPC_ERR_WRONG_STATE if the reader has been started;
/// UDSIPC_ERR_STOPPED; UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this reader; UDSIPC_ERR_NULL_POINTER;
/// UDSIPC_ERR_IO; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Threads: any, but one at a time is enough. Callbacks run in this call. Blocking: up to timeout_ms, plus callbacks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_dispatch(reader: *mut udsipc_reader, timeout_ms: u64) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let reader = unsafe { handle::hold(reader, "reader")? };
        Ok(reader.core.dispatch(duration(timeout_ms))?)
    })
}

/// A number that tells the connections of one reader apart.
///
/// Parameters:
///   connection  what the callback was given
/// Returns: the number; no two connections of a reader have the same; 0 if connection is NULL.
/// Threads: inside the callback. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_connection_id(connection: *const udsipc_connection<'_>) -> u64 {
    guard_or(0, || {
        // SAFETY: the caller passes NULL or what its callback was given, inside that callback.
        Ok(unsafe { connection.as_ref() }.ok_or(Failure::NullPointer("connection"))?.0.id())
    })
}

/// Who the writer at the other end was when it connected (SO_PEERCRED).
///
/// Parameters:
///   connection  what the callback was given
///   pid         where its process id is stored: 0 if it lives in another pid namespace; by now it may be another
///               process
///   uid         where its effective user id is stored
///   gid         where its effective group id is stored
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if any of the four is NULL; UDSIPC_ERR_IO.
/// Threads: inside the callback. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_connection_credentials(
    connection: *const udsipc_connection<'_>,
    pid: *mut i32,
    uid: *mut u32,
    gid: *mut u32,
) -> udsipc_status {
    guard(|| {
        let (pid, uid, gid) = (required(pid, "pid")?, required(uid, "uid")?, required(gid, "gid")?);
        // SAFETY: the caller passes NULL or what its callback was given, inside that callback.
        let connection = unsafe { connection.as_ref() }.ok_or(Failure::NullPointer("connection"))?;
        let credentials = connection.0.credentials()?;
        // SAFETY: not NULL; writable by the caller's promise.
        unsafe {
            pid.write(credentials.pid);
            uid.write(credentials.uid);
            gid.write(credentials.gid);
        }
        Ok(())
    })
}
