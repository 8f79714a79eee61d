//! `udsipc_error_callback`, and the way from that function pointer to the core's error handler.

use std::ffi::{c_char, c_void};

use super::guard;
use super::status::udsipc_status;
use super::user_data::UserData;
use crate::options::ErrorHandler;

/// Called for an error in the background, which no function could return.
///
/// Parameters:
///   status    the error, a udsipc_status
///   os_errno  the errno of the system call that failed, or 0
///   context   what failed: "failed to connect", "write failure", "write failure after reconnect",
///             "write failure during drain", "write failure during drain (retry message)",
///             "failed to read the length prefix", "message too large", "failed to read the complete message",
///             "handler failed to process a message", "too many consecutive failures in accept loop",
///             "failed to notify systemd", "socket file"; static text
///   userdata  the pointer that was given with the callback
/// During the call udsipc_last_error_message returns the full text of the error.
/// Threads: one of the handle's threads, or the caller of a function that does the handle's work: dispatch, stop, free; for
/// a reader also start; for a dispatched writer also flush and udsipc_write_message_timeout. A reader may call it on several
/// threads at the same time, and while message callbacks of other connections run; with max_handler_threads 1 never two
/// callbacks run at the same time.
/// Errors of peers are all counted, but their reports are limited: for a process that sends malformed or too large messages
/// to 8 reports at first and then 10 a second, for a process that disconnects in the middle of messages to 1000 a second.
/// The callback may call any function of this library, on any handle; stopping its own handle returns
/// UDSIPC_ERR_WOULD_DEADLOCK. It must return: no exception and no longjmp may leave it.
pub type udsipc_error_callback =
    Option<unsafe extern "C" fn(status: i32, os_errno: i32, context: *const c_char, userdata: *mut c_void)>;

type ErrorFunction = unsafe extern "C" fn(i32, i32, *const c_char, *mut c_void);

/// The core's error handler, made from C's callback.
pub(super) fn error_handler(function: ErrorFunction, userdata: UserData) -> ErrorHandler {
    ErrorHandler::new(move |error, context| {
        let (status, errno) = (udsipc_status::from(error) as i32, error.raw_os_error().unwrap_or(0));
        guard::reporting(error, || {
            // SAFETY: a function of this type by the caller's promise; the context is static text.
            unsafe { function(status, errno, context.as_c_str().as_ptr(), userdata.get()) }
        });
    })
}
