//! Paths and systemd.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::guard::{Failure, guard, guard_or};
use super::handle::{self, required};
use super::status::udsipc_status;
use crate::error::Error;
use crate::sys::fork::NoFork;
use crate::{claim, path, systemd};

/// The longest socket path that the system takes: 107 bytes on Linux. For an abstract address the "@" counts as one.
///
/// Returns: a length in bytes, without the NUL.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub extern "C" fn udsipc_max_socket_path_length() -> usize {
    guard_or(0, || Ok(path::max_socket_path_length()))
}

/// The path at which a reader that follows systemd binds its socket: the file name of path in the first directory of
/// RUNTIME_DIRECTORY; if that variable is not set, path as it is. A writer in the same service finds its reader with this
/// function.
///
/// Parameters:
///   path      a path, or "@name" for an abstract address, which stays as it is
///   buffer    where the resolved path is stored, NUL-terminated; NULL together with capacity 0 asks for the size only
///   capacity  size of the buffer in bytes
///   needed    the size in bytes that the resolved path takes with its NUL; written too when the buffer is too small
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_SOCKET_PATH if path begins with "unix:", "ipc:" or
/// "~", or ends in a line break; UDSIPC_ERR_INVALID_BUFFER_SIZE if capacity is less than needed, the buffer is then as it
/// was.
/// Ownership: all memory is the caller's.
/// Threads: any, but none may change the environment meanwhile. Blocking: never.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_resolve_socket_path(
    path: *const c_char,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> udsipc_status {
    guard(|| {
        let needed = required(needed, "needed")?;
        // SAFETY: the caller passes NULL or a NUL-terminated string.
        let path = unsafe { handle::path(&path, "path")? };
        if capacity > 0 {
            required(buffer, "buffer")?;
        }
        path::check_notation(path)?;
        let resolved = handle::c_path(&path::resolve_socket_path(path));
        let size = resolved.count_bytes() + 1;
        // SAFETY: not NULL; writable by the caller's promise.
        unsafe { needed.write(size) };
        if buffer.is_null() {
            return Ok(());
        }
        if capacity < size {
            let (value, min, max) = (capacity as u64, size as u64, isize::MAX as u64);
            return Err(Error::InvalidBufferSize { option: "capacity", value, min, max }.into());
        }
        // SAFETY: the caller promises `capacity` writable bytes.
        unsafe { handle::print(resolved.to_bytes(), buffer, capacity) };
        Ok(())
    })
}

/// Makes the directory of a socket path and its parents, each with mode 0750 less the umask. Existing directories are not
/// changed. An abstract address needs no directory. udsipc_reader_new calls this itself.
///
/// Parameters:
///   socket_path  the path of the socket, not of the directory
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_SOCKET_PATH; UDSIPC_ERR_PERMISSION_DENIED;
/// UDSIPC_ERR_NO_RESOURCES; UDSIPC_ERR_IO.
/// Threads: any. Blocking: for file system calls only.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_ensure_socket_dir(socket_path: *const c_char) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a NUL-terminated string.
        let path = unsafe { handle::path(&socket_path, "socket_path")? };
        Ok(claim::ensure_socket_dir(path)?)
    })
}

/// Removes a stale socket file: one on which no process listens. A path without a file, or an abstract address, is
/// UDSIPC_OK. udsipc_reader_new calls this itself.
///
/// Parameters:
///   socket_path  the path of the socket
/// Returns: UDSIPC_OK; UDSIPC_ERR_ADDRESS_IN_USE if a process listens there, or if the file is not a socket: the
/// file is not touched; UDSIPC_ERR_NULL_POINTER; UDSIPC_ERR_INVALID_SOCKET_PATH; UDSIPC_ERR_PERMISSION_DENIED; UDSIPC_ERR_IO.
/// Threads: any. Blocking: for file system calls, and for a second at most while another program holds the lock on the
/// directory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_cleanup_socket(socket_path: *const c_char) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a NUL-terminated string.
        let path = unsafe { handle::path(&socket_path, "socket_path")? };
        Ok(claim::cleanup_socket(path)?)
    })
}

/// Whether this process seems to run under systemd: RUNTIME_DIRECTORY, LISTEN_FDS or NOTIFY_SOCKET is set.
///
/// Returns: 1 or 0.
/// Threads: any, but none may change the environment meanwhile. Blocking: never.
#[unsafe(no_mangle)]
pub extern "C" fn udsipc_systemd_is_active() -> i32 {
    guard_or(0, || Ok(systemd::is_active().into()))
}

/// The service's runtime directory: the first entry of RUNTIME_DIRECTORY.
///
/// Returns: an absolute path, or "" if there is none; never NULL.
/// Ownership: valid for ever; do not free it.
/// Threads: any, but none may change the environment meanwhile. Blocking: never.
#[unsafe(no_mangle)]
pub extern "C" fn udsipc_systemd_runtime_dir() -> *const c_char {
    guard_or(c"".as_ptr(), || Ok(interned(systemd::runtime_dir()).as_ptr()))
}

/// The service's state directory: the first entry of STATE_DIRECTORY.
///
/// Returns: an absolute path, or "" if there is none; never NULL.
/// Ownership: valid for ever; do not free it.
/// Threads: any, but none may change the environment meanwhile. Blocking: never.
#[unsafe(no_mangle)]
pub extern "C" fn udsipc_systemd_state_dir() -> *const c_char {
    guard_or(c"".as_ptr(), || Ok(interned(systemd::state_dir()).as_ptr()))
}

/// Sends a notification to the service manager, as sd_notify(3) does. Readers that follow systemd send READY=1 and STOPPING=1
/// themselves.
///
/// Parameters:
///   state  "READY=1", "STATUS=...", "WATCHDOG=1", or any other text of sd_notify(3), in UTF-8; several assignments are
///          separated by line breaks
/// Returns: UDSIPC_OK, also if NOTIFY_SOCKET is not set and nothing is sent; UDSIPC_ERR_NULL_POINTER;
/// UDSIPC_ERR_INVALID_ARGUMENT if the text is empty or no UTF-8; UDSIPC_ERR_IO, UDSIPC_ERR_PERMISSION_DENIED or
/// UDSIPC_ERR_NO_RESOURCES if it could not be sent; a service should go on then.
/// Threads: any, but none may change the environment meanwhile. Blocking: never; a service manager whose queue is full is
/// UDSIPC_ERR_IO.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_systemd_notify(state: *const c_char) -> udsipc_status {
    guard(|| {
        // SAFETY: the caller passes NULL or a NUL-terminated string.
        let state = unsafe { handle::text(&state, "state")? };
        let state = state.to_str().map_err(|_| Failure::invalid("the state for systemd is not UTF-8"))?;
        systemd::notify(state)?;
        Ok(())
    })
}

/// A C string that is never freed, the same one for the same path. The environment of a service does not change, so the set
/// holds one or two entries.
fn interned(path: Option<PathBuf>) -> &'static CStr {
    static SEEN: Mutex<BTreeSet<&'static CStr>> = Mutex::new(BTreeSet::new());
    let Some(path) = path else { return c"" };
    let path: CString = handle::c_path(&path);
    // A forked child must not inherit the lock locked.
    let _no_fork = NoFork::enter();
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = seen.get(path.as_c_str()) {
        return known;
    }
    let path: &'static CStr = Box::leak(path.into_boxed_c_str());
    seen.insert(path);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_interned_once() {
        assert_eq!(interned(None), c"");
        let first = interned(Some("/run/one".into()));
        assert_eq!(first, c"/run/one");
        assert_eq!(interned(Some("/run/one".into())).as_ptr(), first.as_ptr());
        assert_eq!(interned(Some("/run/two".into())), c"/run/two");
    }
}
