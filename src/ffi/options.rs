//! `udsipc_writer_options` and `udsipc_reader_options`: the core's options behind a lock, and the error callback as C
//! gave it, so that the same options can make several handles.

use std::ffi::{c_char, c_void};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::callback::{ErrorCallback, UserData, udsipc_error_callback};
use super::guard::{Failure, guard, guard_or};
use super::handle;
use super::status::udsipc_status;
use super::version::UDSIPC_WAIT_FOREVER;
use crate::error;
use crate::options::{ReaderOptions, WriterOptions};

/// What a writer is to be made with. Opaque.
pub struct udsipc_writer_options(Mutex<Settings<WriterOptions>>);

/// What a reader is to be made with. Opaque.
pub struct udsipc_reader_options(Mutex<Settings<ReaderOptions>>);

/// The lock of the standard library, since it remembers a panic.
#[derive(Default)]
struct Settings<T> {
    core: T,
    on_error: Option<ErrorCallback>,
}

trait Options {
    type Core;
    fn settings(&self) -> &Mutex<Settings<Self::Core>>;
}

impl Options for udsipc_writer_options {
    type Core = WriterOptions;
    fn settings(&self) -> &Mutex<Settings<WriterOptions>> {
        &self.0
    }
}

impl Options for udsipc_reader_options {
    type Core = ReaderOptions;
    fn settings(&self) -> &Mutex<Settings<ReaderOptions>> {
        &self.0
    }
}

/// # Safety
/// `options` is NULL or live until the borrow ends.
unsafe fn lock<'call, O: Options>(options: &'call *mut O) -> Result<MutexGuard<'call, Settings<O::Core>>, Failure> {
    // SAFETY: as promised by the caller; `as_ref` refuses NULL.
    let options = unsafe { options.as_ref() }.ok_or(Failure::NullPointer("options"))?;
    options.settings().lock().map_err(|_| Failure::Poisoned)
}

/// Calls a setter of the core.
///
/// # Safety
/// `options` is NULL or live.
unsafe fn set<O: Options>(
    options: *mut O,
    setter: impl FnOnce(&mut O::Core) -> error::Result<&mut O::Core>,
) -> Result<(), Failure> {
    // SAFETY: as promised by the caller.
    setter(&mut unsafe { lock(&options)? }.core)?;
    Ok(())
}

/// # Safety
/// `options` is NULL or live.
unsafe fn set_error_callback<O: Options>(
    options: *mut O,
    callback: udsipc_error_callback,
    userdata: *mut c_void,
) -> Result<(), Failure> {
    let userdata = UserData::new(userdata);
    // SAFETY: as promised by the caller.
    unsafe { lock(&options)? }.on_error = callback.map(|function| ErrorCallback { function, userdata });
    Ok(())
}

/// The core's options for one writer.
///
/// # Safety
/// `options` is NULL, for the defaults, or live.
pub(super) unsafe fn for_writer(options: *const udsipc_writer_options) -> Result<WriterOptions, Failure> {
    if options.is_null() {
        return Ok(WriterOptions::default());
    }
    let options = options.cast_mut();
    // SAFETY: as promised by the caller.
    let settings = unsafe { lock(&options)? };
    let on_error = settings.on_error.map(|callback| callback.into_handler());
    Ok(WriterOptions { on_error, ..settings.core })
}

/// The core's options for one reader.
///
/// # Safety
/// `options` is NULL, for the defaults, or live.
pub(super) unsafe fn for_reader(options: *const udsipc_reader_options) -> Result<ReaderOptions, Failure> {
    if options.is_null() {
        return Ok(ReaderOptions::default());
    }
    let options = options.cast_mut();
    // SAFETY: as promised by the caller.
    let settings = unsafe { lock(&options)? };
    Ok(ReaderOptions {
        on_error: settings.on_error.map(|callback| callback.into_handler()),
        allowed_uids: settings.core.allowed_uids.clone(),
        allowed_gids: settings.core.allowed_gids.clone(),
        listen_fd_name: settings.core.listen_fd_name.clone(),
        ..settings.core
    })
}

/// A waiting time from C.
pub(super) fn duration(ms: u64) -> Duration {
    if ms == UDSIPC_WAIT_FOREVER { Duration::MAX } else { Duration::from_millis(ms) }
}

/// Makes options for a writer, all at their defaults.
///
/// Returns: the options, or NULL if the library failed to make them.
/// Ownership: the caller's; free them with udsipc_writer_options_free, which may be right after the writer was made.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub extern "C" fn udsipc_writer_options_new() -> *mut udsipc_writer_options {
    guard_or(std::ptr::null_mut(), || Ok(handle::into_raw(udsipc_writer_options(Mutex::default()))))
}

/// Frees options. The writers that were made with them keep what they were made with.
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
    guard(|| unsafe { set(options, |core| core.set_max_buffered_writes(messages)) })
}

/// Sets how many bytes of messages the queue holds at most, besides the limit on their number. A queue deeper than the
/// processor's cache costs speed: some MiB are a good limit for large messages.
///
/// Parameters:
///   options  the options to change
///   bytes    any number of bytes; 0 is no limit
/// Default: 0
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_max_buffered_bytes(
    options: *mut udsipc_writer_options,
    bytes: u64,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.set_max_buffered_bytes(bytes)) })
}

/// Sets the largest message that is accepted; a larger one is refused with UDSIPC_ERR_MESSAGE_TOO_LARGE. It should not
/// be above the reader's limit: a reader closes the connection on a message that is too large for it.
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
    guard(|| unsafe { set(options, |core| core.set_max_message_size(bytes)) })
}

/// Sets how long the reader may take nothing before that is reported to the error callback as UDSIPC_ERR_BACKPRESSURE.
/// The connection, the order and the message are kept: it is a report, not an end.
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
    guard(|| unsafe { set(options, |core| core.set_write_timeout(duration(ms))) })
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
    guard(|| unsafe { set(options, |core| core.set_dial_timeout(duration(ms))) })
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
    guard(|| unsafe { set(options, |core| core.set_max_backoff(duration(ms))) })
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
    guard(|| unsafe { set(options, |core| core.set_write_buffer_size(bytes)) })
}

/// Sets after how many connections that broke on it a message is given up, counted in abandoned and reported, so that
/// it never blocks the messages behind it. A connect that fails is no attempt.
///
/// Parameters:
///   options   the options to change
///   attempts  any number; 0 is never
/// Default: 5
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_writer_options_set_max_attempts(
    options: *mut udsipc_writer_options,
    attempts: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.set_max_attempts(attempts)) })
}

/// Sets what stop does when nobody listens: give up within 250 milliseconds, or go on trying to connect until its time
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
    guard(|| unsafe { set(options, |core| core.set_drain_until_deadline(on != 0)) })
}

/// Sets the function that is told what happens in the background.
///
/// Parameters:
///   options   the options to change
///   callback  see udsipc_error_callback; NULL, the default, for none
///   userdata  handed to the callback, never looked at; may be NULL
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
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set_error_callback(options, callback, userdata) })
}

/// Makes options for a reader, all at their defaults.
///
/// Returns: the options, or NULL if the library failed to make them.
/// Ownership: the caller's; free them with udsipc_reader_options_free, which may be right after the reader was made.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub extern "C" fn udsipc_reader_options_new() -> *mut udsipc_reader_options {
    guard_or(std::ptr::null_mut(), || Ok(handle::into_raw(udsipc_reader_options(Mutex::default()))))
}

/// Frees options. The readers that were made with them keep what they were made with.
///
/// Parameters:
///   options  the options; NULL does nothing
/// Ownership: the options must not be used again.
/// Threads: any, but no other call may be using these options. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_free(options: *mut udsipc_reader_options) {
    guard_or((), || {
        // SAFETY: the caller passes NULL or options of udsipc_reader_options_new, for the last time.
        drop(unsafe { handle::take(options) });
        Ok(())
    });
}

/// Sets the largest message that is taken. On a larger one the connection is closed, with an error of
/// UDSIPC_ERR_MESSAGE_TOO_LARGE, before anything is reserved for it.
///
/// Parameters:
///   options  the options to change
///   bytes    any number of bytes; 0 refuses every message that is not empty
/// Default: 10485760 (10 MiB)
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_max_message_size(
    options: *mut udsipc_reader_options,
    bytes: u64,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.set_max_message_size(bytes)) })
}

/// Sets how long a connection may be silent before it is closed. That loses nothing: its writer connects again for its
/// next message. Between messages it is no error and counts in idle_closed; in the middle of a message it counts in
/// errors.
///
/// Parameters:
///   options  the options to change
///   ms       milliseconds, 1 or more; UDSIPC_WAIT_FOREVER for never
/// Default: 10000
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_TIMEOUT for 0.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_inactivity_timeout_ms(
    options: *mut udsipc_reader_options,
    ms: u64,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.set_inactivity_timeout(duration(ms))) })
}

/// Sets how many failures in a row to accept a connection stay unreported. The reader never gives up: it serves again
/// when the shortage ends.
///
/// Parameters:
///   options  the options to change
///   count    0 to 63
/// Default: 10
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_MAX_ACCEPT_ERRORS_TOO_LARGE above 63.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_max_accept_errors(
    options: *mut udsipc_reader_options,
    count: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.set_max_accept_errors(count)) })
}

/// Sets the size of the socket's receive buffer (SO_RCVBUF). Linux ignores it for sockets of this kind (unix(7)); it
/// is there for systems that do not.
///
/// Parameters:
///   options  the options to change
///   bytes    0 to 1073741823; 0 leaves the system's
/// Default: 262144 (256 KiB)
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_BUFFER_SIZE outside the range.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_read_buffer_size(
    options: *mut udsipc_reader_options,
    bytes: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.set_read_buffer_size(bytes)) })
}

/// Sets how many callbacks may run at the same time, and so how many threads the reader has at most. Threads are
/// started only when they are needed.
///
/// Parameters:
///   options  the options to change
///   threads  1 to 4096; 1 means that callbacks never overlap
/// Default: 64
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT outside the range.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_max_handler_threads(
    options: *mut udsipc_reader_options,
    threads: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.set_max_handler_threads(threads)) })
}

/// Sets how many connections may be open. One more is closed at once and counts in refused.
///
/// Parameters:
///   options  the options to change
///   count    any number; 0 is no limit
/// Default: 0
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_max_connections(
    options: *mut udsipc_reader_options,
    count: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.set_max_connections(count)) })
}

/// Sets the permission bits of the socket file: a writer needs the write permission to connect. The file never has
/// wider ones, not for a moment. Without effect on a socket that systemd passed; with an abstract address, which has no
/// permissions, udsipc_reader_new refuses: UDSIPC_ERR_INVALID_ARGUMENT.
///
/// Parameters:
///   options  the options to change
///   mode     0 to 0777 (octal)
/// Default: as the umask says
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT above 0777.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_socket_mode(
    options: *mut udsipc_reader_options,
    mode: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.set_socket_mode(mode)) })
}

/// Sets the group that owns the socket file; the process must be a member of it. Without effect on a socket that
/// systemd passed; with an abstract address udsipc_reader_new refuses: UDSIPC_ERR_INVALID_ARGUMENT.
///
/// Parameters:
///   options  the options to change
///   gid      a group id; not 4294967295, which names no group
/// Default: as the directory says
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT for 4294967295.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_socket_group(
    options: *mut udsipc_reader_options,
    gid: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.set_socket_group(gid)) })
}

/// Lets writers of this user in. The first call of this function or udsipc_reader_options_allow_gid shuts all others
/// out; each further call lets some more in. A writer that is not let in is disconnected unread and counts in refused.
///
/// Parameters:
///   options  the options to change
///   id       a user id, compared with the writer's effective one at the time of its connect (SO_PEERCRED)
/// Default: everybody who can open the socket is let in
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_allow_uid(
    options: *mut udsipc_reader_options,
    id: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.allow_uid(id)) })
}

/// Lets writers of this group in, be it their primary or a supplementary group. See udsipc_reader_options_allow_uid.
///
/// Parameters:
///   options  the options to change
///   id       a group id
/// Default: everybody who can open the socket is let in
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_allow_gid(
    options: *mut udsipc_reader_options,
    id: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.allow_gid(id)) })
}

/// Sets which of several descriptors that systemd passed is this reader's socket (FileDescriptorName= of the socket
/// unit).
///
/// Parameters:
///   options  the options to change
///   name     1 to 255 bytes of UTF-8 without ":" and control characters; copied; NULL takes the name away
/// Default: no name; the only descriptor that was passed is meant, or the one that is bound to the reader's path.
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if options is NULL; UDSIPC_ERR_INVALID_ARGUMENT if the name is not as
/// above.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_listen_fd_name(
    options: *mut udsipc_reader_options,
    name: *const c_char,
) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a NUL-terminated string.
        let name = if name.is_null() { None } else { Some(unsafe { handle::text(&name, "name")? }) };
        let name = name.map(|name| name.to_str().map_err(|_| Failure::invalid("listen_fd_name is not UTF-8")));
        let name = name.transpose()?;
        // SAFETY: the caller passes NULL or live options.
        unsafe { set(options, |core| core.set_listen_fd_name(name)) }
    })
}

/// Sets whether the reader follows systemd's environment: it takes the socket that systemd passed (LISTEN_FDS), moves
/// its path into RUNTIME_DIRECTORY, and sends READY=1 at start and STOPPING=1 when stop begins (NOTIFY_SOCKET).
/// Outside of systemd that changes nothing.
///
/// Parameters:
///   options  the options to change
///   on       0 for no, anything else for yes
/// Default: 1
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_use_systemd(
    options: *mut udsipc_reader_options,
    on: i32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.set_use_systemd(on != 0)) })
}

/// Sets the function that is told what happens in the background.
///
/// Parameters:
///   options   the options to change
///   callback  see udsipc_error_callback; NULL, the default, for none
///   userdata  handed to the callback, never looked at; may be NULL
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if options is NULL.
/// Ownership: what userdata points to is the caller's, and must stay valid until every reader made with these options
/// has been freed.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_error_callback(
    options: *mut udsipc_reader_options,
    callback: udsipc_error_callback,
    userdata: *mut c_void,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set_error_callback(options, callback, userdata) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Context, Error};
    use std::ffi::c_int;
    use std::ptr;

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
            for made in [for_writer(options), for_writer(options)].map(|made| made.expect("options")) {
                assert_eq!(made.max_attempts, 9);
                let report = made.on_error.expect("a handler");
                let source = std::io::Error::from_raw_os_error(libc::EPIPE);
                report(&Error::NoConsumer(source), Context::Write);
                assert_eq!(seen, (udsipc_status::UDSIPC_ERR_NO_CONSUMER as i32, libc::EPIPE));
                seen = (0, 0);
            }
            udsipc_writer_options_free(options);
        }
    }

    #[test]
    fn a_refused_value_changes_nothing_and_null_is_the_default() {
        let options = udsipc_reader_options_new();
        // SAFETY: live options until they are freed below.
        unsafe {
            assert_eq!(udsipc_reader_options_set_inactivity_timeout_ms(options, 5), udsipc_status::UDSIPC_OK);
            assert_eq!(
                udsipc_reader_options_set_inactivity_timeout_ms(options, 0),
                udsipc_status::UDSIPC_ERR_INVALID_TIMEOUT
            );
            let made = for_reader(options).expect("options");
            assert_eq!(made.inactivity_timeout, Duration::from_millis(5));
            assert_eq!(
                udsipc_reader_options_set_listen_fd_name(options, c"a:b".as_ptr()),
                udsipc_status::UDSIPC_ERR_INVALID_ARGUMENT
            );
            assert_eq!(
                udsipc_reader_options_set_listen_fd_name(options, c"\xff".as_ptr()),
                udsipc_status::UDSIPC_ERR_INVALID_ARGUMENT
            );
            assert_eq!(udsipc_reader_options_set_listen_fd_name(options, c"a".as_ptr()), udsipc_status::UDSIPC_OK);
            let made = for_reader(options).expect("options");
            assert_eq!(made.listen_fd_name.as_deref(), Some("a"));
            assert_eq!(udsipc_reader_options_set_listen_fd_name(options, ptr::null()), udsipc_status::UDSIPC_OK);
            assert!(for_reader(options).expect("options").listen_fd_name.is_none());
            udsipc_reader_options_free(options);

            let made = for_reader(ptr::null()).expect("options");
            assert_eq!(made.inactivity_timeout, Duration::from_secs(10));
            let none = ptr::null_mut();
            assert_eq!(udsipc_reader_options_allow_uid(none, 0), udsipc_status::UDSIPC_ERR_NULL_POINTER);
            udsipc_reader_options_free(none);
        }
    }

    #[test]
    fn for_ever_is_for_ever() {
        assert_eq!(duration(UDSIPC_WAIT_FOREVER), Duration::MAX);
        assert_eq!(duration(0), Duration::ZERO);
        assert_eq!(duration(UDSIPC_WAIT_FOREVER - 1).as_millis(), u128::from(UDSIPC_WAIT_FOREVER - 1));
    }
}
