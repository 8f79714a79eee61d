//! `udsipc_message_callback` and `udsipc_batch_callback`, and the way from those function pointers to the core's closures.

use std::ffi::c_void;
use std::mem::MaybeUninit;

use super::buffer::udsipc_buffer;
use super::connection::udsipc_connection;
use super::user_data::UserData;
use crate::reader::{Failure, MAX_CALLBACK_MESSAGES, Peer, ReturnedNonZero};

/// Called by a reader for each message.
///
/// Parameters:
///   data        the message; valid during the call only
///   len         its length in bytes, at least 1: empty messages are not delivered
///   connection  the sender; valid during the call only
///   userdata    the pointer that was given with the callback
/// Returns: 0 if the message was handled. Any other value means that the callback failed: the metric errors grows by one,
/// UDSIPC_ERR_HANDLER_FAILED is reported to the error callback, and the next message is delivered as usual.
/// Threads: one of the reader's threads, or the caller of udsipc_reader_dispatch. The messages of one connection come one
/// after another, in order; messages of different connections come at the same time, unless max_handler_threads is 1.
/// The callback may call any function of this library, on any handle; udsipc_reader_stop on its own reader returns
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
///   count       the number of messages, at least 1
///   connection  the sender; valid during the call only
///   userdata    the pointer that was given with the callback
/// Returns: the number of messages that were handled, counted from the first. If it is less than count, the message at that
/// index has failed, and the callback is called again for the messages behind it. More than count means count.
/// Threads and everything else: as udsipc_message_callback.
pub type udsipc_batch_callback = Option<
    unsafe extern "C" fn(
        messages: *const udsipc_buffer,
        count: usize,
        connection: *const udsipc_connection<'_>,
        userdata: *mut c_void,
    ) -> usize,
>;

type MessageFunction = unsafe extern "C" fn(*const u8, usize, *const udsipc_connection<'_>, *mut c_void) -> i32;
type BatchFunction =
    unsafe extern "C" fn(*const udsipc_buffer, usize, *const udsipc_connection<'_>, *mut c_void) -> usize;

/// The core's message callback, made from C's.
pub(super) fn message_handler(
    function: MessageFunction,
    userdata: UserData,
) -> impl Fn(&[u8], &Peer<'_>) -> Result<(), Failure> + Send + Sync + 'static {
    move |message, connection| {
        let connection = udsipc_connection(connection);
        // SAFETY: a function of this type by the caller's promise; both borrows outlive the call.
        let result = unsafe { function(message.as_ptr(), message.len(), &raw const connection, userdata.get()) };
        if result == 0 { Ok(()) } else { Err(ReturnedNonZero.into()) }
    }
}

/// The core's batch callback, made from C's.
pub(super) fn batch_handler(
    function: BatchFunction,
    userdata: UserData,
) -> impl Fn(&[&[u8]], &Peer<'_>) -> usize + Send + Sync + 'static {
    move |messages, connection| {
        let connection = udsipc_connection(connection);
        let mut handled = 0;
        for chunk in messages.chunks(MAX_CALLBACK_MESSAGES) {
            let mut buffers = [const { MaybeUninit::<udsipc_buffer>::uninit() }; MAX_CALLBACK_MESSAGES];
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
