//! From C function pointers to the closures that the core calls.

use std::ffi::{c_char, c_void};
use std::mem::MaybeUninit;

use super::guard;
use super::status::udsipc_status;
use crate::error::ErrorHandler;
use crate::reader::{Connection, HandlerFailed};

/// Who sent a message. Opaque, and valid only during the callback that it was given to.
pub struct udsipc_connection<'call>(pub(super) &'call Connection<'call>);

/// One message: len bytes at data. (NULL, 0) is an empty message.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct udsipc_buffer {
    /// The first byte.
    pub data: *const u8,
    /// How many bytes.
    pub len: usize,
}

/// Called by a reader for each message.
///
/// Parameters:
///   data        the message; valid during the call only, so copy what must stay
///   len         its length in bytes, at least 1: empty messages are not delivered
///   connection  who sent it; valid during the call only
///   userdata    what was given together with the callback
/// Returns: 0, or anything else for "failed": that counts in the metric errors, is reported to the error callback as
/// UDSIPC_ERR_HANDLER_FAILED, and the next message is delivered all the same.
/// Threads: one of the reader's threads, or the caller of udsipc_reader_dispatch. The messages of one connection come
/// one after another, in order; those of different connections at the same time, unless max_handler_threads is 1.
/// It may call any function of this library, on any handle; udsipc_reader_stop on its own reader answers
/// UDSIPC_ERR_WOULD_DEADLOCK. It must return: no exception and no longjmp may leave it.
pub type udsipc_message_callback = Option<
    unsafe extern "C" fn(
        data: *const u8,
        len: usize,
        connection: *const udsipc_connection<'_>,
        userdata: *mut c_void,
    ) -> i32,
>;

/// Called by a batched reader for many messages of one connection at a time.
///
/// Parameters:
///   messages    the messages, in order; array and bytes are valid during the call only
///   count       how many, at least 1
///   connection  who sent them; valid during the call only
///   userdata    what was given together with the callback
/// Returns: how many were handled well, counted from the first. If that is less than count, the message at that index
/// counts as failed, and the call is repeated for what stands behind it. More than count is taken as count.
/// Threads and everything else: as udsipc_message_callback.
pub type udsipc_batch_callback = Option<
    unsafe extern "C" fn(
        messages: *const udsipc_buffer,
        count: usize,
        connection: *const udsipc_connection<'_>,
        userdata: *mut c_void,
    ) -> usize,
>;

/// Called for what happens in the background, where no function could return it.
///
/// Parameters:
///   status    what happened, a udsipc_status
///   os_errno  the errno behind it, or 0
///   context   where: "failed to connect", "write failure", "write failure after reconnect",
///             "write failure during drain", "write failure during drain (retry message)",
///             "failed to read the length prefix", "message too large", "failed to read the complete message",
///             "handler failed to process a message", "too many consecutive failures in accept loop",
///             "failed to notify systemd"; static text
///   userdata  what was given together with the callback
/// udsipc_last_error_message gives the whole text of the error during the call.
/// Threads: one of the handle's threads, or the caller of a function that does the handle's work: dispatch, stop, free,
/// and for a writer that is dispatched flush and udsipc_write_message_timeout. For a reader several at a time.
/// It may call any function of this library, on any handle; stopping its own handle answers UDSIPC_ERR_WOULD_DEADLOCK.
/// It must return: no exception and no longjmp may leave it.
pub type udsipc_error_callback =
    Option<unsafe extern "C" fn(status: i32, os_errno: i32, context: *const c_char, userdata: *mut c_void)>;

/// A C pointer that comes back to its owner's own functions and is never looked behind.
#[derive(Clone, Copy)]
pub(super) struct UserData(*mut c_void);

// SAFETY: the pointer is only handed back, and the header says from which threads the callbacks are called: what lies
// behind it must be fit for that by the caller's promise. The crate's only claims of this kind.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

impl UserData {
    pub(super) fn new(pointer: *mut c_void) -> Self {
        UserData(pointer)
    }

    /// A method, so that a closure captures the whole of it: capturing the field would lose the claims above.
    fn get(self) -> *mut c_void {
        self.0
    }
}

type ErrorFunction = unsafe extern "C" fn(i32, i32, *const c_char, *mut c_void);
type MessageFunction = unsafe extern "C" fn(*const u8, usize, *const udsipc_connection<'_>, *mut c_void) -> i32;
type BatchFunction =
    unsafe extern "C" fn(*const udsipc_buffer, usize, *const udsipc_connection<'_>, *mut c_void) -> usize;

/// An error callback as the options keep it.
#[derive(Clone, Copy)]
pub(super) struct ErrorCallback {
    pub(super) function: ErrorFunction,
    pub(super) userdata: UserData,
}

impl ErrorCallback {
    pub(super) fn into_handler(self) -> ErrorHandler {
        let ErrorCallback { function, userdata } = self;
        Box::new(move |error, context| {
            let (status, errno) = (udsipc_status::from(error) as i32, error.os_errno().unwrap_or(0));
            guard::reporting(error, || {
                // SAFETY: a function of this type by the caller's promise; the context is static text.
                unsafe { function(status, errno, context.as_c_str().as_ptr(), userdata.get()) }
            });
        })
    }
}

/// The core's message callback out of C's.
pub(super) fn message_handler(
    function: MessageFunction,
    userdata: UserData,
) -> impl Fn(&[u8], &Connection<'_>) -> Result<(), HandlerFailed> + Send + Sync + 'static {
    move |message, connection| {
        let connection = udsipc_connection(connection);
        // SAFETY: a function of this type by the caller's promise; both borrows outlive the call.
        let result = unsafe { function(message.as_ptr(), message.len(), &raw const connection, userdata.get()) };
        if result == 0 { Ok(()) } else { Err(HandlerFailed) }
    }
}

/// How many messages one call of a batch callback gets at most: what the array on the stack holds.
const BATCH: usize = 256;

/// The core's batch callback out of C's.
pub(super) fn batch_handler(
    function: BatchFunction,
    userdata: UserData,
) -> impl Fn(&[&[u8]], &Connection<'_>) -> usize + Send + Sync + 'static {
    move |messages, connection| {
        let connection = udsipc_connection(connection);
        let mut handled = 0;
        for chunk in messages.chunks(BATCH) {
            let mut buffers = [const { MaybeUninit::<udsipc_buffer>::uninit() }; BATCH];
            for (buffer, message) in buffers.iter_mut().zip(chunk) {
                buffer.write(udsipc_buffer { data: message.as_ptr(), len: message.len() });
            }
            // SAFETY: a function of this type by the caller's promise; the first `chunk.len()` buffers have been
            // written and all borrows outlive the call.
            let answer =
                unsafe { function(buffers.as_ptr().cast(), chunk.len(), &raw const connection, userdata.get()) };
            let well = answer.min(chunk.len());
            handled += well;
            if well < chunk.len() {
                break;
            }
        }
        handled
    }
}
