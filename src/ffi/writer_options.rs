//! `udsipc_writer_options_*`.

use std::ffi::c_void;
use std::sync::Mutex;

use super::error_callback::{error_handler, udsipc_error_callback};
use super::guard::{guard, guard_or};
use super::handle;
use super::options::{Options, duration, set};
use super::status::udsipc_status;
use super::user_data::UserData;
use crate::error::{self, Error};
use crate::options::{Acknowledge, WriterOptions};

/// The options of a writer. Opaque.
pub struct udsipc_writer_options(Mutex<WriterOptions>);

impl Options for udsipc_writer_options {
    type Core = WriterOptions;
    fn core(&self) -> &Mutex<WriterOptions> {
        &self.0
    }
    fn check(core: &WriterOptions) -> error::Result<()> {
        core.check()
    }
}

/// Makes options for a writer, all at their defaults.
///
/// Returns: the options, or NULL if the library failed to make them.
/// Ownership: the caller's; free them with udsipc_writer_options_free, at the earliest right after the writer was made.
/// Threads: any. Blocking: never.
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn udsipc_writer_options_new() -> *mut udsipc_writer_options {
    guard_or(std::ptr::null_mut(), || Ok(handle::into_raw(udsipc_writer_options(Mutex::default()))))
}

/// Frees options. Writers that were made with them are not affected.
///
/// Parameters:
///   options  the options; NULL does nothing
/// Ownership: the options must not be used again.
/// Threads: any, but no other call may be using these options. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_free(options: *mut udsipc_writer_options) {
    guard_or((), || {
        // SAFETY: the caller passes NULL or options of udsipc_writer_options_new, for the last time.
        drop(unsafe { handle::take(options) });
        Ok(())
    });
}

/// Sets how many messages the queue holds at most. A message beyond that is refused with UDSIPC_ERR_BUFFER_FULL.
///
/// Parameters:
///   options   the options to change
///   messages  1 to 1048576
/// Default: 10000
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_BUFFER_SIZE outside the range.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_max_buffered_writes(
    options: *mut udsipc_writer_options,
    messages: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.max_buffered_writes(messages)) })
}

/// Sets how many bytes of messages the queue holds at most, in addition to the limit on their number. A single message above
/// this limit is accepted while the queue is empty. A queue larger than the processor's cache costs speed: a few MiB are a
/// good limit for large messages.
///
/// Parameters:
///   options  the options to change
///   bytes    any number of bytes; 0 is no limit
/// Default: 67108864 (64 MiB)
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_max_buffered_bytes(
    options: *mut udsipc_writer_options,
    bytes: u64,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.max_buffered_bytes(bytes)) })
}

/// Sets the largest message that is accepted; a larger one is refused with UDSIPC_ERR_MESSAGE_TOO_LARGE. The value should not
/// be above the reader's limit: a reader closes the connection on a message above its own limit.
///
/// Parameters:
///   options  the options to change
///   bytes    any number of bytes
/// Default: 10485760 (10 MiB), which is the reader's default as well
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_max_message_size(
    options: *mut udsipc_writer_options,
    bytes: u64,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.max_message_size(bytes)) })
}

/// Sets how long the reader may read nothing before UDSIPC_ERR_BACKPRESSURE is reported to the error callback. This is a
/// report only: the connection, the order and the message are kept.
///
/// Parameters:
///   options  the options to change
///   ms       milliseconds, 1 or more; UDSIPC_WAIT_FOREVER for no report
/// Default: 1000
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_TIMEOUT for 0.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_write_timeout_ms(
    options: *mut udsipc_writer_options,
    ms: u64,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.write_timeout(duration(ms))) })
}

/// Sets how long a connect waits for a place when the reader's backlog is full.
///
/// Parameters:
///   options  the options to change
///   ms       milliseconds, 1 or more; UDSIPC_WAIT_FOREVER for no limit
/// Default: 1000
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_TIMEOUT for 0.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_dial_timeout_ms(
    options: *mut udsipc_writer_options,
    ms: u64,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.dial_timeout(duration(ms))) })
}

/// Sets the longest pause between two attempts to connect. Pauses begin at 5 to 20 milliseconds and double, with a
/// random part.
///
/// Parameters:
///   options  the options to change
///   ms       milliseconds, 1 or more
/// Default: 10000
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_TIMEOUT for 0.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_max_backoff_ms(
    options: *mut udsipc_writer_options,
    ms: u64,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.max_backoff(duration(ms))) })
}

/// Sets the size of the socket's send buffer (SO_SNDBUF). The kernel doubles it and cuts it to net.core.wmem_max.
///
/// Parameters:
///   options  the options to change
///   bytes    0 to 1073741823; 0 leaves the system's
/// Default: 262144 (256 KiB)
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_BUFFER_SIZE outside the range.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_write_buffer_size(
    options: *mut udsipc_writer_options,
    bytes: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.write_buffer_size(bytes)) })
}

/// Sets how many connections may break while a message is being sent. Then the message is given up, counted in abandoned and
/// reported, so that it does not block the messages behind it. A failed connect is no attempt.
///
/// Parameters:
///   options   the options to change
///   attempts  any number; 0 is no limit
/// Default: 5
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_max_attempts(
    options: *mut udsipc_writer_options,
    attempts: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.max_attempts(attempts)) })
}

/// Sets what udsipc_writer_stop does when nobody listens: give up within 250 milliseconds, or try to connect until its time
/// has passed.
///
/// Parameters:
///   options  the options to change
///   on       0 to give up early, anything else to go on trying
/// Default: 0
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_drain_until_deadline(
    options: *mut udsipc_writer_options,
    on: i32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.drain_until_deadline(on != 0)) })
}

/// Sets how long udsipc_writer_free goes on sending: it stops a running writer first, as udsipc_writer_stop with this time.
///
/// Parameters:
///   options  the options to change
///   ms       milliseconds; 0 sends nothing more; UDSIPC_WAIT_FOREVER has no limit
/// Default: 1000
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_linger_ms(
    options: *mut udsipc_writer_options,
    ms: u64,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.linger(duration(ms))) })
}

/// Sets whether the reader is asked to acknowledge messages, so that nothing is lost when it is killed. A reader of this
/// library does; any other is not disturbed by the question. See DELIVERY at the top of this file.
///
/// Parameters:
///   options  the options to change
///   mode     0: no. 1: if the reader can. 2: nothing is sent to a reader that cannot; each is reported with
///            UDSIPC_ERR_NOT_ACKNOWLEDGED and dialled again with the usual pauses
/// Default: 1
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT for another mode.
/// System calls: with 0 the writer makes none of bind(2), recvmsg(2), fcntl(2) with F_GET_SEALS, fstatfs(2), mmap(2) of a
/// descriptor. A host under a filter of system calls may need that.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_acknowledge(
    options: *mut udsipc_writer_options,
    mode: i32,
) -> udsipc_status {
    guard(|| {
        let acknowledge = match mode {
            0 => Acknowledge::Off,
            1 => Acknowledge::IfPossible,
            2 => Acknowledge::Required,
            other => return Err(Error::InvalidArgument(format!("acknowledge is {other}, outside 0 to 2")).into()),
        };
        // SAFETY: the caller passes NULL or live options.
        unsafe { set(options, |core| core.acknowledge(acknowledge)) }
    })
}

/// Sets what becomes of a message that was in the reader's callback when the reader was killed: nobody knows how far the
/// callback had come.
///
/// Parameters:
///   options  the options to change
///   on       anything but 0: it is sent again, and so perhaps handled twice. 0: it is not, and counts in suspected_lost
/// Default: 1
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_redeliver(
    options: *mut udsipc_writer_options,
    on: i32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.redeliver(on != 0)) })
}

/// Sets the function that is called for errors in the background.
///
/// Parameters:
///   options   the options to change
///   callback  see udsipc_error_callback; NULL, the default, for none
///   userdata  passed to the callback; may be NULL
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if options is NULL.
/// Ownership: what userdata points to is the caller's, and must stay valid until every writer made with these options
/// has been freed.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_error_callback(
    options: *mut udsipc_writer_options,
    callback: udsipc_error_callback,
    userdata: *mut c_void,
) -> udsipc_status {
    guard(|| {
        let on_error = callback.map(|function| error_handler(function, UserData::new(userdata)));
        // SAFETY: the caller passes NULL or live options.
        unsafe { set(options, |core| WriterOptions { on_error, ..core }) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Context;
    use crate::ffi::options::for_handle;
    use std::ffi::{c_char, c_int};

    unsafe extern "C" fn store_status(status: i32, os_errno: i32, _: *const c_char, userdata: *mut c_void) {
        // SAFETY: the test passes a pair of numbers that outlives the handlers.
        unsafe { userdata.cast::<(c_int, c_int)>().write((status, os_errno)) };
    }

    #[test]
    fn the_same_options_make_several_handles() {
        let mut seen: (c_int, c_int) = (0, 0);
        let options = udsipc_writer_options_new();
        // SAFETY: live options until they are freed below.
        unsafe {
            let userdata = (&raw mut seen).cast();
            assert_eq!(udsipc_writer_options_set_max_attempts(options, 9), udsipc_status::UDSIPC_OK);
            assert_eq!(
                udsipc_writer_options_set_error_callback(options, Some(store_status), userdata),
                udsipc_status::UDSIPC_OK
            );
            for made in [for_handle(options), for_handle(options)].map(|made| made.expect("options")) {
                assert_eq!(made.max_attempts, 9);
                let report = made.on_error.expect("a handler");
                let source = std::io::Error::from_raw_os_error(libc::EPIPE);
                report.call(&Error::NoConsumer(source), Context::Write);
                assert_eq!(seen, (udsipc_status::UDSIPC_ERR_NO_CONSUMER as i32, libc::EPIPE));
                seen = (0, 0);
            }
            udsipc_writer_options_free(options);
        }
    }
}
