//! `udsipc_writer_*`, `udsipc_write_*`.

use std::ffi::{c_char, c_void};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use super::buffer::udsipc_buffer;
use super::guard::{self, Failure, guard, guard_or, guard_quick};
use super::handle::{self, Handle, Shared, required};
use super::options::{duration, for_handle};
use super::status::udsipc_status;
use super::writer_options::udsipc_writer_options;
use crate::metrics::WriterMetrics;
use crate::sys::cancellation::without_cancellation;
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

/// The counters of a writer. At any moment: messages accepted = sent + abandoned + queue_depth.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct udsipc_writer_metrics {
    /// Messages that the kernel has taken whole, or that lie in memory shared with the reader.
    pub sent: u64,
    /// Messages refused because the queue was full.
    pub dropped: u64,
    /// Failed attempts to send a message. A message that failed once and was sent then counts here and in sent.
    pub failed: u64,
    /// Messages in the queue: accepted, and neither sent nor abandoned. A partly written message counts here.
    pub queue_depth: u64,
    /// Bytes of the messages in queue_depth.
    pub queue_bytes: u64,
    /// Bytes of the messages in sent.
    pub sent_bytes: u64,
    /// Attempts to send a failed message again on a new connection.
    pub retried: u64,
    /// Messages accepted and then given up: at stop, or after max_attempts broken connections.
    pub abandoned: u64,
    /// Messages in sent that the reader may not have read before it went away: an upper bound.
    pub suspected_lost: u64,
    /// Connections made.
    pub connections: u64,
    /// Connects that failed.
    pub connect_failures: u64,
    /// Messages in `sent` that a reader of this library has handled: their callback has returned. 0 with any other reader.
    pub acknowledged: u64,
    /// Messages that were sent again because a reader ended before it had handled them. In `sent` each counts once.
    pub redelivered: u64,
    /// Payload in `sent_bytes` that went through memory shared with the reader, and not through the socket: see
    /// `udsipc_reader_options_set_max_shared_memory`.
    pub ring_bytes: u64,
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
            acknowledged: core.acknowledged,
            redelivered: core.redelivered,
            ring_bytes: core.ring_bytes,
        }
    }
}

/// Makes a writer. It neither connects nor needs the reader to exist yet.
///
/// Parameters:
///   socket_path  the path at which the reader listens, or "@name" for an abstract address; copied
///   options      the options; copied, so the same options can make several writers; NULL for the defaults
///   out          where the handle is stored
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_SOCKET_PATH; UDSIPC_ERR_NO_RESOURCES; UDSIPC_ERR_IO.
/// Ownership: the handle is the caller's; free it with udsipc_writer_free. The options stay the caller's.
/// Threads: any. Blocking: never.
#[must_use]
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
        let (path, options) = unsafe { (handle::path(&socket_path, "socket_path")?, for_handle(options)?) };
        let writer = Writer::new(path, options)?;
        let path = handle::c_path(writer.socket_path());
        let writer = handle::into_raw(udsipc_writer(Shared::new(writer, path)));
        // SAFETY: not NULL; writable by the caller's promise.
        unsafe { out.write(writer) };
        Ok(())
    })
}

/// Starts the writer: a thread of the library connects at once and sends the queued messages. A second call changes nothing.
///
/// Parameters:
///   writer  the writer
/// Returns: UDSIPC_OK, also while nobody listens; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_STOPPED; UDSIPC_ERR_WRONG_STATE
/// if it has been dispatched; UDSIPC_ERR_NO_RESOURCES if no thread can be started; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Threads: any. Blocking: never; it does not wait for the connection.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_start(writer: *mut udsipc_writer) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let writer = unsafe { handle::retain(writer, "writer")? };
        Ok(writer.core.start()?)
    })
}

/// Puts a message into the queue; before start it waits there. An empty message is accepted and not sent.
///
/// Parameters:
///   writer  the writer
///   data    the message; copied; may be NULL if len is 0
///   len     its length in bytes, at most max_message_size
/// Returns: UDSIPC_OK: the message is in the queue; UDSIPC_ERR_BUFFER_FULL: it is not, and dropped has grown by one;
/// UDSIPC_ERR_MESSAGE_TOO_LARGE; UDSIPC_ERR_STOPPED after the begin of a stop; UDSIPC_ERR_NULL_POINTER;
/// UDSIPC_ERR_INVALID_ARGUMENT for a len that no memory can hold; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Ownership: the data stays the caller's, and may be reused when the call returns.
/// Threads: any, several at a time; the messages of one thread keep their order. Blocking: never.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_write_message(
    writer: *mut udsipc_writer,
    data: *const c_void,
    len: usize,
) -> udsipc_status {
    // The one system call on its way, a send or a wake-up, is without cancellation (`Driver::message_queued`).
    guard_quick(|| {
        let data = data.cast::<u8>();
        // SAFETY: the caller passes NULL or a live handle, and `len` readable bytes for the length of this call.
        let (writer, data) = unsafe { (handle::borrow(&writer, "writer")?, handle::slice(&data, len, "data")?) };
        Ok(writer.core.write(data)?)
    })
}

/// As udsipc_write_message, but waits for room if the queue is full. As fast as udsipc_write_message while there is room. A
/// message above max_buffered_bytes waits until the queue is empty.
///
/// Parameters:
///   writer      the writer
///   data        the message; copied; may be NULL if len is 0
///   len         its length in bytes, at most max_message_size
///   timeout_ms  how long to wait in milliseconds; 0 does not wait; UDSIPC_WAIT_FOREVER has no limit
/// Returns: as udsipc_write_message, with UDSIPC_ERR_BUFFER_FULL only for a timeout_ms of 0; UDSIPC_ERR_TIMEOUT if there was
/// no room in time, and dropped has grown by one; UDSIPC_ERR_STOPPED if a stop began meanwhile; UDSIPC_ERR_WOULD_DEADLOCK if
/// the call would have to wait inside a callback of this writer.
/// Ownership: the data stays the caller's.
/// Threads: any, several at a time. While it waits, the call does the work of a dispatched writer, so error callbacks may run
/// in it. Blocking: up to timeout_ms; with a dispatched writer also for an error callback or a slow file system.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_write_message_timeout(
    writer: *mut udsipc_writer,
    data: *const c_void,
    len: usize,
    timeout_ms: u64,
) -> udsipc_status {
    // As udsipc_write_message, until it has to wait.
    guard_quick(|| {
        let data = data.cast::<u8>();
        // SAFETY: the caller passes NULL or a live handle, and `len` readable bytes for the length of this call.
        let taken = unsafe { handle::borrow(&writer, "writer")?.core.try_write(handle::slice(&data, len, "data")?)? };
        if taken {
            return Ok(());
        }
        // SAFETY: as above; nothing has called back yet.
        without_cancellation(|| unsafe { wait_and_write(writer, data, len, timeout_ms) })
    })
}

/// Goes on where `try_write` has found no room. A callback that runs meanwhile may free the handle.
///
/// # Safety
/// `writer` is live until something calls back, and `len` bytes at `data` are readable for the length of this call.
#[cold]
unsafe fn wait_and_write(
    writer: *mut udsipc_writer,
    data: *const u8,
    len: usize,
    timeout_ms: u64,
) -> Result<(), Failure> {
    // SAFETY: as promised by the caller.
    let (writer, data) = unsafe { (handle::retain(writer, "writer")?, handle::slice(&data, len, "data")?) };
    Ok(writer.core.wait_and_write(data, duration(timeout_ms))?)
}

/// Puts several messages into the queue, in order, and stops at the first that is refused. Faster than one call of
/// udsipc_write_message for each.
///
/// Parameters:
///   writer    the writer
///   messages  an array; copied; may be NULL if count is 0; an entry with len 0 is an empty message
///   count     the number of entries in the array
///   accepted  where the number of accepted messages is stored: count, or the index of the refused message. Stored whatever
///             the call returns, unless accepted itself is NULL
/// Returns: UDSIPC_OK: all were accepted; otherwise the status of the message at index accepted, as udsipc_write_message;
/// UDSIPC_ERR_NULL_POINTER also for an entry with data NULL and a len other than 0.
/// Ownership: array and data stay the caller's.
/// Threads: any, several at a time. Blocking: never.
#[must_use]
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

/// Waits until the reader's process has read all messages that were accepted before the call. A reader of this library reads
/// the last byte only after its callback has returned, so with it all messages have been handled. Another kind of reader may
/// still have unhandled messages in its own memory.
///
/// Parameters:
///   writer      the writer, started
///   timeout_ms  how long to wait in milliseconds; 0 checks and does not wait; UDSIPC_WAIT_FOREVER has no limit
/// Returns: UDSIPC_OK; UDSIPC_ERR_TIMEOUT; UDSIPC_ERR_UNDELIVERED, at once, if messages have been given up or may have been
/// lost with a reader since the last flush (each loss is returned once); UDSIPC_ERR_STOPPED if the writer has been stopped;
/// UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this writer; UDSIPC_ERR_NULL_POINTER;
/// UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Threads: any, several at a time. While it waits, the call does the work of a dispatched writer, so error callbacks may run
/// in it. Blocking: up to timeout_ms; with a dispatched writer also for an error callback or a slow file system.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_flush(writer: *mut udsipc_writer, timeout_ms: u64) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let writer = unsafe { handle::retain(writer, "writer")? };
        Ok(writer.core.flush(duration(timeout_ms))?)
    })
}

/// Stops the writer: refuses new messages at once, sends the queued messages, and connects again for that if necessary. The
/// stop of the last started writer of the process also ends the threads that writers share.
///
/// When nobody listens, the call gives up within 250 milliseconds, even with UDSIPC_WAIT_FOREVER. With drain_until_deadline it
/// goes on trying to connect, and a reader that appears in time gets all messages. If the backlog of the reader is full, the
/// call waits, since a reader exists. While this process has no free descriptor it cannot find out whether a reader exists;
/// the result of the last attempt holds, so with UDSIPC_WAIT_FOREVER the call may wait as long as the shortage lasts.
///
/// After the last byte has been sent, the call waits until the reader's process has read it or has closed the connection, for
/// 250 milliseconds at most and never beyond timeout_ms. Messages that are given up count in abandoned, and are reported once
/// with their number ("write failure during drain"). After this call no callback of the writer runs. A second call returns
/// what the first returned. If it has less time than the first has left, both end in that time.
///
/// Parameters:
///   writer      the writer
///   timeout_ms  how long sending may take in milliseconds; 0 sends nothing more; UDSIPC_WAIT_FOREVER has no limit
/// Returns: UDSIPC_OK: all queued messages have been sent; UDSIPC_ERR_UNDELIVERED: nobody listened, or the writer was never
/// started and had messages, or a message was given up after max_attempts during the stop, or the reader went away before it
/// had read all messages (suspected_lost); UDSIPC_ERR_TIMEOUT: the time passed first; UDSIPC_ERR_WOULD_DEADLOCK inside a
/// callback of this writer, and nothing has changed; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Threads: any, several at a time. Blocking: up to timeout_ms, plus error callbacks that are running or due; with a dispatched
/// writer also for a slow file system.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_stop(writer: *mut udsipc_writer, timeout_ms: u64) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let writer = unsafe { handle::retain(writer, "writer")? };
        Ok(writer.core.stop(duration(timeout_ms))?)
    })
}

/// Reads the writer's counters. They stay readable after stop.
///
/// Parameters:
///   writer    the writer
///   out       where the counters are stored
///   out_size  sizeof(udsipc_writer_metrics) in the program. A struct of an older header gets the counters that it has; in
///             one of a newer header the counters that this library does not know are 0
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT if out_size is 0 or not a multiple of 8;
/// UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Ownership: out is the caller's.
/// Threads: any. Blocking: never.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_get_metrics(
    writer: *const udsipc_writer,
    out: *mut udsipc_writer_metrics,
    out_size: usize,
) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let writer = unsafe { handle::retain(writer, "writer")? };
        writer.core.check_fork()?;
        // SAFETY: the caller promises `out_size` writable bytes; the struct holds nothing but u64.
        unsafe { handle::store_counters(&writer.core.metrics().into(), out, out_size) }
    })
}

/// Stores the writer's counters as text in the format of Prometheus, version 0.0.4, for a program that serves its metrics.
/// A counter is called udsipc_writer_ and the name of its field with _total behind it; queue_depth and queue_bytes have no
/// _total. udsipc_writer_connected is 1 while there is a connection, otherwise 0.
///
/// The format wants the lines of one metric together: a program with several handles gives each its own labels, and leaves
/// out the lines that begin with '#' in all texts but the first.
///
/// Parameters:
///   writer    the writer
///   labels    what stands between the braces of each line: name="value" pairs with a comma between, in UTF-8, with
///             backslash, quote and line break in values escaped by a backslash; NULL or "" for none
///   buffer    where the text is stored, cut to fit and always NUL-terminated, as by snprintf; NULL asks for the length
///             only
///   capacity  size of the buffer in bytes; 0 stores nothing
/// Returns: the length of the whole text in bytes without the NUL; the stored text is cut if that is not less than capacity.
/// Counters grow meanwhile, so ask again with a larger buffer until it fits: 4096 bytes and 32 times the length of the labels
/// are enough. 0, and an empty text: writer is NULL, this is a forked child, or the labels would not parse
/// (udsipc_last_error_message says which).
/// Ownership: the buffer is the caller's.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_metrics_prometheus(
    writer: *const udsipc_writer,
    labels: *const c_char,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    let text = guard_or(String::new(), || {
        // SAFETY: the caller passes NULL or a live handle, and NULL or a NUL-terminated string.
        let (writer, labels) =
            unsafe { (handle::retain(writer, "writer")?, handle::utf8_or_empty(&labels, "labels")?) };
        writer.core.check_fork()?;
        Ok(writer.core.metrics_prometheus(labels)?)
    });
    // SAFETY: the caller promises `capacity` writable bytes unless `buffer` is NULL.
    unsafe { handle::print(text.as_bytes(), buffer, capacity) }
}

/// One line for a log: the state, the path, whether the reader acknowledges, and how messages have ended.
///
/// Parameters:
///   writer    the writer
///   buffer    where the line is stored, cut to fit and always NUL-terminated, as by snprintf; NULL asks for the length
///             only
///   capacity  size of the buffer in bytes; 0 stores nothing
/// Returns: the length of the whole line in bytes without the NUL; 0, and an empty line, if writer is NULL or this is a forked
/// child. The stored line is cut if the result is not less than capacity.
/// Ownership: the buffer is the caller's.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_describe(
    writer: *const udsipc_writer,
    buffer: *mut c_char,
    capacity: usize,
) -> usize {
    let line = guard_or(String::new(), || {
        // SAFETY: the caller passes NULL or a live handle.
        Ok(unsafe { handle::retain(writer, "writer")? }.core.describe()?)
    });
    // SAFETY: the caller promises `capacity` writable bytes unless `buffer` is NULL.
    unsafe { handle::print(line.as_bytes(), buffer, capacity) }
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
        Ok(unsafe { handle::retain(writer, "writer")? }.path.as_ptr())
    })
}

/// Whether the writer has a connection now. With socket activation by systemd that does not mean that the reader runs: systemd
/// holds the listening socket until then.
///
/// Parameters:
///   writer  the writer
/// Returns: 1 or 0; 0 if writer is NULL and in a forked child.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_is_connected(writer: *const udsipc_writer) -> i32 {
    guard_or(0, || {
        // SAFETY: the caller passes NULL or a live handle.
        let writer = unsafe { handle::retain(writer, "writer")? };
        writer.core.check_fork()?;
        Ok(writer.core.is_connected().into())
    })
}

/// Frees a writer. A writer that has not been stopped is stopped first, as by udsipc_writer_stop with the time of the option
/// linger_ms (1000 by default): messages that cannot be delivered in that time are given up and reported. Call
/// udsipc_writer_stop before to get the result.
///
/// Parameters:
///   writer  the writer; NULL does nothing
/// Ownership: the handle must not be used again. No callback of the writer runs after this call. Exception: if the call is
/// made inside a callback of the writer, this callback finishes, and the writer ends right after it.
/// In a forked child the call closes nothing and does not affect the parent's writer.
/// Threads: any, but no other call on this handle may be running, except the one whose callback makes this call.
/// Blocking: as udsipc_writer_stop with linger_ms; inside a callback of this writer never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_free(writer: *mut udsipc_writer) {
    guard_or((), || {
        // SAFETY: the caller passes NULL or a handle of udsipc_writer_new, for the last time.
        unsafe { handle::free(writer) };
        Ok(())
    });
}

/// A descriptor for the program's own event loop, which then drives the writer instead of a thread of the library. It is
/// readable (level-triggered) when udsipc_writer_dispatch has work. The first call of this function or of
/// udsipc_writer_dispatch creates it, and two more descriptors that it watches. After a stop it is never readable. If the
/// writer is connected and idle, the call that writes a message may send it at once, and then there is no work.
///
/// Parameters:
///   writer  the writer, not started
/// Returns: the descriptor; -1 if there is none: writer is NULL, this is a forked child, or no descriptor is to be had
/// (udsipc_last_error_message says which).
/// Ownership: the writer's. Wait on it with poll, select or epoll; do not read, change or close it.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_fd(writer: *const udsipc_writer) -> i32 {
    guard_or(-1, || {
        // SAFETY: the caller passes NULL or a live handle.
        let writer = unsafe { handle::retain(writer, "writer")? };
        Ok(writer.core.event_fd()?.as_raw_fd())
    })
}

/// Does the writer's work that can be done at once, on the caller's thread: connects, sends, reports errors. The first call
/// takes the place of start.
///
/// Parameters:
///   writer      the writer, not started
///   timeout_ms  how long to wait in milliseconds if there is no work; 0 does not wait; UDSIPC_WAIT_FOREVER has no
///               limit
/// Returns: UDSIPC_OK, also if there was no work; UDSIPC_ERR_WRONG_STATE if the writer has been started;
/// UDSIPC_ERR_STOPPED; UDSIPC_ERR_WOULD_DEADLOCK inside a callback of this writer; UDSIPC_ERR_NULL_POINTER;
/// UDSIPC_ERR_IO if the program has closed the writer's event descriptor; UDSIPC_ERR_NO_RESOURCES if that descriptor cannot be
/// created; UDSIPC_ERR_FORKED; UDSIPC_ERR_PANIC.
/// Threads: any; one at a time is enough. Callbacks run in this call. Blocking: up to timeout_ms; a connect also for a slow
/// file system.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_dispatch(writer: *mut udsipc_writer, timeout_ms: u64) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a live handle.
        let writer = unsafe { handle::retain(writer, "writer")? };
        Ok(writer.core.dispatch(duration(timeout_ms)).map(drop)?)
    })
}
