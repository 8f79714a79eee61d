//! `udsipc_reader_options_*`.

use std::ffi::{c_char, c_void};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error_callback::{error_handler, udsipc_error_callback};
use super::guard::{Failure, guard, guard_or};
use super::handle;
use super::options::{Options, duration, set};
use super::status::udsipc_status;
use super::user_data::UserData;
use crate::error;
use crate::options::{ListenFd, ReaderOptions};

/// The options of a reader. Opaque.
#[derive(Default)]
pub struct udsipc_reader_options {
    core: Mutex<ReaderOptions>,
    /// Whether the id of all users without a mapping has been refused, and that of all groups.
    uid_refused: AtomicBool,
    gid_refused: AtomicBool,
}

impl Options for udsipc_reader_options {
    type Core = ReaderOptions;
    fn core(&self) -> &Mutex<ReaderOptions> {
        &self.core
    }
    fn check(core: &ReaderOptions) -> error::Result<()> {
        core.check()
    }
}

/// Allows an id. The id of all users or groups without a mapping has to be given to the core twice: a call that was refused
/// for it counts as the first one.
///
/// # Safety
/// `options` is NULL or live.
unsafe fn allow(
    options: *mut udsipc_reader_options,
    refused: impl Fn(&udsipc_reader_options) -> &AtomicBool,
    allow: impl Fn(ReaderOptions) -> ReaderOptions,
) -> Result<(), Failure> {
    // SAFETY: as promised by the caller.
    let refused = refused(unsafe { options.as_ref() }.ok_or(Failure::NullPointer("options"))?);
    let is_second = refused.load(Ordering::Relaxed);
    // SAFETY: as promised by the caller.
    let allowed = unsafe { set(options, |core| if is_second { allow(allow(core)) } else { allow(core) }) };
    refused.fetch_or(allowed.is_err(), Ordering::Relaxed);
    allowed
}

/// Makes options for a reader, all at their defaults.
///
/// Returns: the options, or NULL if the library failed to make them.
/// Ownership: the caller's; free them with udsipc_reader_options_free, at the earliest right after the reader was made.
/// Threads: any. Blocking: never.
#[must_use]
#[unsafe(no_mangle)]
pub extern "C" fn udsipc_reader_options_new() -> *mut udsipc_reader_options {
    guard_or(std::ptr::null_mut(), || Ok(handle::into_raw(udsipc_reader_options::default())))
}

/// Frees options. Readers that were made with them are not affected.
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

/// Sets the largest message that is accepted. A larger one closes the connection as soon as its length has arrived, and
/// UDSIPC_ERR_MESSAGE_TOO_LARGE is reported to the error callback.
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
    guard(|| unsafe { set(options, |core| core.max_message_size(bytes)) })
}

/// Sets how long a connection may be silent before it is closed. No message is lost: the writer connects again for its next
/// message. A close between messages is no error and counts in idle_closed; a close in the middle of a message counts in
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
    guard(|| unsafe { set(options, |core| core.inactivity_timeout(duration(ms))) })
}

/// Sets how many failures in a row to accept a connection are not reported. The reader never gives up: it accepts again when
/// the shortage of descriptors or memory ends.
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
    guard(|| unsafe { set(options, |core| core.max_accept_errors(count)) })
}

/// Sets the size of the socket's receive buffer (SO_RCVBUF). Linux ignores it for Unix domain sockets (unix(7)).
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
    guard(|| unsafe { set(options, |core| core.read_buffer_size(bytes)) })
}

/// Sets how many callbacks may run at the same time, and with that the number of threads of the reader. A thread is started
/// only when it is needed.
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
    guard(|| unsafe { set(options, |core| core.max_handler_threads(threads)) })
}

/// Sets the stack size of the reader's threads, on which callbacks run. The kernel provides memory only for the part of a
/// stack that is used. Callbacks that run in a call of the program (udsipc_reader_dispatch, udsipc_reader_stop) use the stack
/// of the calling thread.
///
/// Parameters:
///   options  the options to change
///   bytes    0, or at least 65536
/// Default: 0: the system's default for new threads (RLIMIT_STACK, shown by "ulimit -s"), usually 8 MiB
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_BUFFER_SIZE outside the range. With a size
/// for which there is no memory, udsipc_reader_start returns UDSIPC_ERR_NO_RESOURCES.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_callback_stack_size(
    options: *mut udsipc_reader_options,
    bytes: u64,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.callback_stack_size(bytes)) })
}

/// Sets how many connections may be open. A further connection is closed at once, unread, and counts in refused. Its writer
/// counts the messages that it had sent on it in suspected_lost; queued messages are sent when a connection is accepted.
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
    guard(|| unsafe { set(options, |core| core.max_connections(count)) })
}

/// Sets how much memory the reader shares with busy writers at most. A busy writer of this library passes its messages
/// through 4 MiB of it or, when half of the limit is in use, 1 MiB, without a system call for each batch. When all is in
/// use, further writers send on their sockets only. The memory is the reader's, which gives it back when the connection
/// ends.
///
/// Parameters:
///   options  the options to change
///   bytes    any number of bytes, for all connections of a reader; 0 shares none
/// Default: 67108864 (64 MiB)
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_max_shared_memory(
    options: *mut udsipc_reader_options,
    bytes: u64,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.max_shared_memory(bytes)) })
}

/// Sets the permission bits of the socket file. A writer needs write permission to connect. The file never has wider
/// permissions, not even for a moment. Without effect on a socket that systemd passed. With an abstract address, which has no
/// permissions, udsipc_reader_new returns UDSIPC_ERR_INVALID_ARGUMENT.
///
/// Parameters:
///   options  the options to change
///   mode     0 to 0777 (octal)
/// Default: 0777 less the umask
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT above 0777.
/// Threads: any. Blocking: never.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_socket_mode(
    options: *mut udsipc_reader_options,
    mode: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.socket_mode(mode)) })
}

/// Sets the group that owns the socket file; the process must be a member of the group. Without effect on a socket that
/// systemd passed. With an abstract address udsipc_reader_new returns UDSIPC_ERR_INVALID_ARGUMENT.
///
/// Parameters:
///   options  the options to change
///   gid      a group id; not 4294967295, which names no group
/// Default: the group of the process; in a directory with the set-group-ID bit, the group of the directory
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT for 4294967295.
/// Threads: any. Blocking: never.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_socket_group(
    options: *mut udsipc_reader_options,
    gid: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.socket_group(gid)) })
}

/// Allows writers of this user. After the first call of this function or of udsipc_reader_options_allow_gid, only allowed
/// writers are accepted; each further call allows more. The connection of any other writer is closed unread and counts in
/// refused.
///
/// In a user namespace that does not map every user (a container), the kernel reports one id, 65534, for all users without a
/// mapping: to allow that id allows all of them. There the first call with that id is refused, and a second call allows it.
///
/// Parameters:
///   options  the options to change
///   id       a user id, compared with the writer's effective one at the time of its connect (SO_PEERCRED)
/// Default: every writer that can connect is allowed
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT for the first call with the id of all users
/// without a mapping.
/// Threads: any. Blocking: never.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_allow_uid(
    options: *mut udsipc_reader_options,
    id: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { allow(options, |options| &options.uid_refused, |core| core.allow_uid(id)) })
}

/// Allows writers of this group: their primary or a supplementary group. See udsipc_reader_options_allow_uid.
///
/// Parameters:
///   options  the options to change
///   id       a group id
/// Default: every writer that can connect is allowed
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT for the first call with the id of all groups
/// without a mapping.
/// Threads: any. Blocking: never.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_allow_gid(
    options: *mut udsipc_reader_options,
    id: u32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { allow(options, |options| &options.gid_refused, |core| core.allow_gid(id)) })
}

/// Sets the name of this reader's socket among several that systemd passed (FileDescriptorName= of the socket unit).
///
/// Parameters:
///   options  the options to change
///   name     1 to 255 bytes of UTF-8 without ":" and control characters; copied; NULL removes the name
/// Default: no name: the reader takes the only descriptor that was passed, or of several the one bound to its path.
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
        let invalid = |_| Failure::invalid("listen_fd_name is not UTF-8");
        let name = name.map(|name| name.to_str().map(str::to_owned).map_err(invalid)).transpose()?;
        // SAFETY: the caller passes NULL or live options.
        unsafe { set(options, |core| ReaderOptions { listen_fd_name: name, ..core }) }
    })
}

/// Makes the reader accept from a listening socket of the program. Then no path is bound, and no socket is taken from
/// systemd. The reader uses a duplicate: it never shuts the socket and never removes its file, and connections that wait in
/// the backlog when the reader is stopped stay there. The socket becomes non-blocking (O_NONBLOCK) for all processes that
/// share it. udsipc_reader_socket_path returns the address of the socket.
///
/// Parameters:
///   options  the options to change
///   fd       a listening Unix stream socket; the caller may close it after this call
/// Default: none
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_ARGUMENT if fd is not such a socket;
/// UDSIPC_ERR_NO_RESOURCES if it cannot be duplicated.
/// Ownership: fd stays the caller's. The options keep a duplicate of it until they are freed, and each reader made with them
/// has one until it is stopped.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_listen_fd(
    options: *mut udsipc_reader_options,
    fd: i32,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| {
        let socket = ListenFd::duplicate(fd)?;
        // SAFETY: the caller passes NULL or live options.
        unsafe { set(options, |core| ReaderOptions { listen_fd: Some(socket), ..core }) }
    })
}

/// Sets how long udsipc_reader_free goes on receiving: it stops a running reader first, as udsipc_reader_stop with this time.
///
/// Parameters:
///   options  the options to change
///   ms       milliseconds; 0 delivers nothing more; UDSIPC_WAIT_FOREVER has no limit
/// Default: 1000
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_reader_options_set_linger_ms(
    options: *mut udsipc_reader_options,
    ms: u64,
) -> udsipc_status {
    // SAFETY: the caller passes NULL or live options.
    guard(|| unsafe { set(options, |core| core.linger(duration(ms))) })
}

/// Sets whether the reader follows systemd's environment: it takes the socket that systemd passed (LISTEN_FDS), moves
/// its path into RUNTIME_DIRECTORY, and sends READY=1 at start and, if it has done that, STOPPING=1 when stop begins
/// (NOTIFY_SOCKET). A notification never waits: one that cannot be sent is reported to the error callback. Without these
/// variables the option has no effect.
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
    guard(|| unsafe { set(options, |core| core.use_systemd(on != 0)) })
}

/// Sets the function that is called for errors in the background.
///
/// Parameters:
///   options   the options to change
///   callback  see udsipc_error_callback; NULL, the default, for none
///   userdata  passed to the callback; may be NULL
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
    guard(|| {
        let on_error = callback.map(|function| error_handler(function, UserData::new(userdata)));
        // SAFETY: the caller passes NULL or live options.
        unsafe { set(options, |core| ReaderOptions { on_error, ..core }) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ffi::options::for_handle;
    use std::ptr;
    use std::time::Duration;

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
            let made = for_handle(options).expect("options");
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
            let made = for_handle(options).expect("options");
            assert_eq!(made.listen_fd_name.as_deref(), Some("a"));
            assert_eq!(udsipc_reader_options_set_listen_fd_name(options, ptr::null()), udsipc_status::UDSIPC_OK);
            assert!(for_handle(options).expect("options").listen_fd_name.is_none());
            udsipc_reader_options_free(options);

            let made = for_handle(ptr::null::<udsipc_reader_options>()).expect("options");
            assert_eq!(made.inactivity_timeout, Duration::from_secs(10));
            let none = ptr::null_mut();
            assert_eq!(udsipc_reader_options_allow_uid(none, 0), udsipc_status::UDSIPC_ERR_NULL_POINTER);
            udsipc_reader_options_free(none);
        }
    }
}
