//! `udsipc_writer_*`, `udsipc_write_*`.

use std::ffi::{c_char, c_void};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::callback::udsipc_buffer;
use super::guard::{self, Failure, guard, guard_or};
use super::handle::{self, Handle, Shared, required};
use super::options::{self, duration, udsipc_writer_options};
use super::status::udsipc_status;
use crate::metrics::WriterMetrics;
use crate::writer::Writer;

/// The sending end: a queue, and a connection that is made again whenever it breaks. Opaque.
pub struct udsipc_writer(Arc<Shared<Writer>>);

impl Handle for udsipc_writer {
    type Core = Writer;
    fn shared(&self) -> &Arc<Shared<Writer>> {
        &self.0
    }
    fn end(core: &Writer) {
        core.end();
    }
}

/// What a writer has done so far. At any moment the messages accepted are sent + abandoned + queue_depth.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct udsipc_writer_metrics {
    /// Messages handed to the kernel whole.
    pub sent: u64,
    /// Messages refused because the queue was full.
    pub dropped: u64,
    /// Failed attempts: a message that failed once and then went through counts here and in sent.
    pub failed: u64,
    /// Messages accepted and neither sent nor abandoned; one that is being written counts here.
    pub queue_depth: u64,
    /// Bytes of the messages in queue_depth.
    pub queue_bytes: u64,
    /// Bytes of the messages in sent.
    pub sent_bytes: u64,
    /// Times that a message which had failed was tried again on a new connection.
    pub retried: u64,
    /// Messages accepted and then given up: at stop, or after max_attempts broken connections.
    pub abandoned: u64,
    /// Messages in sent that the reader may have gone away without reading: an upper bound.
    pub suspected_lost: u64,
    /// Connections made.
    pub connections: u64,
    /// Connects that failed.
    pub connect_failures: u64,
}

impl From<WriterMetrics> for udsipc_writer_metrics {
    fn from(core: WriterMetrics) -> Self {
        udsipc_writer_metrics {
            sent: core.sent,
            dropped: core.dropped,
            failed: core.failed,
            queue_depth: core.queue_depth,
            queue_bytes: core.queue_bytes,
            sent_bytes: core.sent_bytes,
            retried: core.retried,
            abandoned: core.abandoned,
            suspected_lost: core.suspected_lost,
            connections: core.connections,
            connect_failures: core.connect_failures,
        }
    }
}

/// Makes a writer. Touches no file and no socket: the reader need not exist yet.
///
/// Parameters:
///   socket_path  where the reader listens, or "@name" for an abstract address; copied
///   options      how the writer behaves; copied, so the same options can make several; NULL for the defaults
///   out          where the handle is stored
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_SOCKET_PATH; UDSIPC_ERR_NO_RESOURCES; UDSIPC_ERR_IO.
/// Ownership: the handle is the caller's; free it with udsipc_writer_free. The options stay the caller's.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_new(
    socket_path: *const c_char,
    options: *const udsipc_writer_options,
    out: *mut *mut udsipc_writer,
) -> udsipc_status {
    guard(|| {
        guard::keep_panics_quiet();
        let out = required(out, "out")?;
        // SAFETY: the caller passes NULL or a NUL-terminated string, and NULL or live options.
        let (path, options) = unsafe { (handle::path(&socket_path, "socket_path")?, options::for_writer(options)?) };
        let writer = Writer::new(path, options)?;
        let path = handle::c_path(writer.socket_path());
        let writer = handle::into_raw(udsipc_writer(Shared::new(writer, path)));
        // SAFETY: not NULL; writable by the caller's promise.
        unsafe { out.write(writer) };
        Ok(())
    })
}

/// Starts the writer: a thread of the library connects at once and sends what is queued. A second call changes nothing.
///
/// Parameters:
///   writer  the writer
/// Returns: UDSIPC_OK, also while nobody listens; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_STOPPED; UDSIPC_ERR_WRONG_STATE
/// if it has been dispatched; UDSIPC_ERR_NO_RESOURCES if no thread can be had; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Threads: any. Blocking: never; it does not wait for the connection.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_start(writer: *mut udsipc_writer) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let writer = unsafe { handle::hold(writer, "writer")? };
        Ok(writer.core.start()?)
    })
}

/// Puts a message into the queue. Before start it waits there. An empty message is UDSIPC_OK and sends nothing.
///
/// Parameters:
///   writer  the writer
///   data    the message; copied; may be NULL if len is 0
///   len     its length in bytes, at most max_message_size
/// Returns: UDSIPC_OK, the message is in the queue; UDSIPC_ERR_BUFFER_FULL, it is not, and dropped has grown by one;
/// UDSIPC_ERR_MESSAGE_TOO_LARGE; UDSIPC_ERR_STOPPED, also while a stop is going on; UDSIPC_ERR_NULL_POINTER;
/// UDSIPC_ERR_INVALID_ARGUMENT for a len that no memory can hold; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Ownership: the data stays the caller's, and may be reused when the call returns.
/// Threads: any, several at a time; the messages of one thread keep their order. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_write_message(
    writer: *mut udsipc_writer,
    data: *const c_void,
    len: usize,
) -> udsipc_status {
    guard(|| {
        let data = data.cast::<u8>();
        // SAFETY: the caller passes NULL or a live handle, and `len` readable bytes for the length of this call.
        let (writer, data) = unsafe { (handle::borrow(&writer, "writer")?, handle::slice(&data, len, "data")?) };
        Ok(writer.core.write(data)?)
    })
}

/// As udsipc_write_message, but waits for room in the queue.
///
/// Parameters:
///   writer      the writer
///   data        the message; copied; may be NULL if len is 0
///   len         its length in bytes, at most max_message_size
///   timeout_ms  how long to wait in milliseconds; 0 does not wait; UDSIPC_WAIT_FOREVER has no limit
/// Returns: as udsipc_write_message, with a timeout_ms of 0 in all; UDSIPC_ERR_TIMEOUT if there was no room in time,
/// and dropped has grown by one; UDSIPC_ERR_STOPPED if a stop began meanwhile; UDSIPC_ERR_WOULD_DEADLOCK if it would
/// have to wait inside a callback of this writer.
/// Ownership: the data stays the caller's.
/// Threads: any, several at a time. A writer that is dispatched is driven by this call while it waits, so that its
/// callbacks may run in it. Blocking: up to timeout_ms.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_write_message_timeout(
    writer: *mut udsipc_writer,
    data: *const c_void,
    len: usize,
    timeout_ms: u64,
) -> udsipc_status {
    guard(|| {
        let data = data.cast::<u8>();
        // SAFETY: the caller passes NULL or a live handle, and `len` readable bytes for the length of this call.
        let (writer, data) = unsafe { (handle::hold(writer, "writer")?, handle::slice(&data, len, "data")?) };
        Ok(writer.core.write_timeout(data, duration(timeout_ms))?)
    })
}

/// Puts several messages into the queue, in order, and stops at the first that is refused. Cheaper than as many calls
/// of udsipc_write_message.
///
/// Parameters:
///   writer    the writer
///   messages  an array; copied; may be NULL if count is 0; an entry with len 0 is an empty message
///   count     how many entries the array has
///   accepted  how many messages have been accepted: the index of the one that was refused, or count. Written whatever
///             the call returns, unless accepted itself is NULL
/// Returns: UDSIPC_OK, all were accepted; otherwise why the one at index accepted was not, as udsipc_write_message, and
/// UDSIPC_ERR_NULL_POINTER also for an entry whose data is NULL while its len is not 0.
/// Ownership: array and data stay the caller's.
/// Threads: any, several at a time. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_write_messages(
    writer: *mut udsipc_writer,
    messages: *const udsipc_buffer,
    count: usize,
    accepted: *mut usize,
) -> udsipc_status {
    guard(|| {
        let accepted = required(accepted, "accepted")?;
        // SAFETY: not NULL; writable by the caller's promise.
        unsafe { accepted.write(0) };
        // SAFETY: the caller passes NULL or a live handle, and `count` entries for the length of this call.
        let (writer, messages) =
            unsafe { (handle::borrow(&writer, "writer")?, handle::slice(&messages, count, "messages")?) };
        let mut bad_entry = None;
        let good_entries = messages.iter().map_while(|entry| {
            // SAFETY: the caller promises `len` readable bytes in each entry.
            unsafe { handle::slice(&entry.data, entry.len, "data of an entry") }
                .map_err(|failure| bad_entry = Some(failure))
                .ok()
        });
        let (done, refusal) = match writer.core.write_messages(good_entries) {
            Ok(done) => (done, bad_entry),
            Err(refused) => (refused.accepted, Some(Failure::Core(refused.error))),
        };
        // SAFETY: as above.
        unsafe { accepted.write(done) };
        refusal.map_or(Ok(()), Err)
    })
}

/// Waits until the reader's process has read everything that was accepted before the call. A reader of this library
/// takes the last byte of what is there when its callback has returned, so there it means: has handled everything. A
/// reader of another kind may hold in its own memory what it has read.
///
/// Parameters:
///   writer      the writer, started
///   timeout_ms  how long to wait in milliseconds; 0 only asks; UDSIPC_WAIT_FOREVER has no limit
/// Returns: UDSIPC_OK; UDSIPC_ERR_TIMEOUT; UDSIPC_ERR_UNDELIVERED, at once, if messages were given up or may have been
/// lost with a reader since the last flush (each such loss is told once); UDSIPC_ERR_STOPPED, it has been stopped;
/// UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this writer; UDSIPC_ERR_NULL_POINTER;
/// UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Threads: any, several at a time. A writer that is dispatched is driven by this call while it waits, so that its
/// callbacks may run in it. Blocking: up to timeout_ms.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_flush(writer: *mut udsipc_writer, timeout_ms: u64) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let writer = unsafe { handle::hold(writer, "writer")? };
        Ok(writer.core.flush(duration(timeout_ms))?)
    })
}

/// Refuses new messages at once, sends what is queued, connecting again if it must, and ends the writer; with the last
/// one of the process that had been started, their threads. When nobody listens it gives up within 250 milliseconds,
/// even for UDSIPC_WAIT_FOREVER, unless drain_until_deadline is on. A backlog that is full is no such case: there is a
/// reader, and it is waited for. While this process has no descriptors left, what the last attempt heard before holds, so
/// UDSIPC_WAIT_FOREVER may then wait as long as that lasts. Every message given up counts in abandoned and is reported to
/// the error callback. After this call no callback of the writer runs. A second call returns what the first returned.
///
/// Parameters:
///   writer      the writer
///   timeout_ms  how long sending may take in milliseconds; 0 sends nothing more; UDSIPC_WAIT_FOREVER has no limit
/// Returns: UDSIPC_OK, everything that was still queued has gone out; UDSIPC_ERR_UNDELIVERED, nobody listened, or the
/// writer held messages and was never started, or a message was given up after max_attempts meanwhile;
/// UDSIPC_ERR_TIMEOUT, the time passed first; UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this writer, nothing has
/// changed; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Threads: any, several at a time. Blocking: up to timeout_ms, plus the error callbacks that are running or due.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_stop(writer: *mut udsipc_writer, timeout_ms: u64) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let writer = unsafe { handle::hold(writer, "writer")? };
        Ok(writer.core.stop(duration(timeout_ms))?)
    })
}

/// Reads the writer's counters. They stay readable after stop.
///
/// Parameters:
///   writer    the writer
///   out       where they are stored
///   out_size  sizeof(udsipc_writer_metrics) as the program was compiled: a shorter struct gets the counters that it
///             has, and in a longer one those that this library does not know are 0
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT if out_size is 0 or no multiple of 8;
/// UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Ownership: out is the caller's.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_get_metrics(
    writer: *const udsipc_writer,
    out: *mut udsipc_writer_metrics,
    out_size: usize,
) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let writer = unsafe { handle::hold(writer, "writer")? };
        writer.core.check_fork()?;
        // SAFETY: the caller promises `out_size` writable bytes; the struct holds nothing but u64.
        unsafe { handle::store_counters(&writer.core.metrics().into(), out, out_size) }
    })
}

/// The path that the writer connects to.
///
/// Parameters:
///   writer  the writer
/// Returns: the path as it was given; "" if writer is NULL; never NULL.
/// Ownership: the writer's, valid until it is freed.
/// Threads: any. Blocking: never. Works in a forked child, too.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_socket_path(writer: *const udsipc_writer) -> *const c_char {
    guard_or(c"".as_ptr(), || {
        // SAFETY: the caller passes NULL or a live handle; the handle keeps the path alive.
        Ok(unsafe { handle::hold(writer, "writer")? }.path.as_ptr())
    })
}

/// Whether the writer has a connection now. A reader that systemd starts on demand need not be running for that.
///
/// Parameters:
///   writer  the writer
/// Returns: 1 or 0; 0 if writer is NULL and in a forked child.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_is_connected(writer: *const udsipc_writer) -> i32 {
    guard_or(0, || {
        // SAFETY: the caller passes NULL or a live handle.
        let writer = unsafe { handle::hold(writer, "writer")? };
        writer.core.check_fork()?;
        Ok(writer.core.is_connected().into())
    })
}

/// Frees a writer. One that runs is stopped first, as udsipc_writer_stop with 0: messages that are still queued are
/// given up and reported. Call udsipc_writer_stop before it to have them sent.
///
/// Parameters:
///   writer  the writer; NULL does nothing
/// Ownership: the handle must not be used again. No callback of it runs after this call, except when it is made inside
/// one of them: that one goes on to its end, and the writer ends right after it.
/// In a forked child it closes the child's descriptors and leaves the parent's writer alone.
/// Threads: any, but no other call on this handle may be running, other than the one whose callback makes this call.
/// Blocking: as udsipc_writer_stop with 0; inside a callback of this writer it waits for nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_free(writer: *mut udsipc_writer) {
    guard_or((), || {
        // SAFETY: the caller passes NULL or a handle of udsipc_writer_new, for the last time.
        unsafe { handle::free(writer) };
        Ok(())
    });
}

/// A descriptor for the host's own event loop, which then drives the writer instead of a thread: it is readable, level
/// triggered, when udsipc_writer_dispatch has something to do. A message that finds the writer connected and idle may be
/// sent by the call that writes it; then there is nothing left to do.
///
/// Parameters:
///   writer  the writer, not started
/// Returns: the descriptor; -1 if there is none: writer is NULL, or this is a forked child.
/// Ownership: the writer's. Wait on it with poll, select or epoll; do not read, change or close it.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_fd(writer: *const udsipc_writer) -> i32 {
    guard_or(-1, || {
        // SAFETY: the caller passes NULL or a live handle.
        let writer = unsafe { handle::hold(writer, "writer")? };
        Ok(writer.core.event_fd()?.as_raw_fd())
    })
}

/// Does what there is to do, on the caller's thread: connect, send, report. The first call takes the place of start.
///
/// Parameters:
///   writer      the writer, not started
///   timeout_ms  how long to wait in milliseconds if there is nothing to do; 0 does not wait; UDSIPC_WAIT_FOREVER has
///               no limit
/// Returns: UDSIPC_OK, also if there was nothing to do; UDSIPC_ERR_WRONG_STATE if the writer has been started;
/// UDSIPC_ERR_STOPPED; UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this writer; UDSIPC_ERR_NULL_POINTER;
/// UDSIPC_ERR_IO; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Threads: any, but one at a time is enough. Callbacks run in this call. Blocking: up to timeout_ms.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_dispatch(writer: *mut udsipc_writer, timeout_ms: u64) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let writer = unsafe { handle::hold(writer, "writer")? };
        Ok(writer.core.dispatch(duration(timeout_ms))?)
    })
}
