//! `udsipc_strerror`, `udsipc_last_error_message`.

use std::ffi::c_char;

use super::guard::{guard_or, last_failure_text};
use super::{handle, status};

/// A short text for a status.
///
/// Parameters:
///   status  any number, even one that is no status
/// Returns: a text in English without a line break, never NULL; "unknown status" for a number that has none.
/// Ownership: static text, valid for ever; do not free it.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub extern "C" fn udsipc_strerror(status: i32) -> *const c_char {
    guard_or(c"unknown status".as_ptr(), || Ok(status::text(status).as_ptr()))
}

/// The full text of the calling thread's last failure, with the path, the limit or the system's error. Inside an error
/// callback it is the text of the reported error. A successful call does not change it.
///
/// Parameters:
///   buffer    where the text is stored, cut to fit and always NUL-terminated, as by snprintf; NULL asks for the length
///             only
///   capacity  size of the buffer in bytes; 0 stores nothing
/// Returns: the length of the whole text in bytes without the NUL; 0 if no call has failed on this thread. The stored text
/// is cut if the result is not less than capacity.
/// Ownership: the buffer is the caller's.
/// Threads: any; each has its own text. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_last_error_message(buffer: *mut c_char, capacity: usize) -> usize {
    guard_or(0, || {
        let text = last_failure_text();
        // SAFETY: the caller promises `capacity` writable bytes unless `buffer` is NULL.
        Ok(unsafe { handle::print(text.as_bytes(), buffer, capacity) })
    })
}

#[cfg(test)]
mod tests {
    use super::super::guard::{Failure, guard};
    use super::super::status::udsipc_status::UDSIPC_ERR_NULL_POINTER;
    use super::*;
    use std::ptr;

    #[test]
    fn the_last_message_is_measured_cut_and_terminated() {
        // SAFETY: NULL, or a buffer with its own length.
        unsafe {
            assert_eq!(udsipc_last_error_message(ptr::null_mut(), 0), 0);
            let mut buffer = [b'#'; 16];
            assert_eq!(udsipc_last_error_message(buffer.as_mut_ptr().cast(), buffer.len()), 0);
            assert_eq!(&buffer[..2], b"\0#");

            assert_eq!(guard(|| Err(Failure::NullPointer("writer"))), UDSIPC_ERR_NULL_POINTER);
            let whole = "the argument writer is NULL".len();
            assert_eq!(udsipc_last_error_message(ptr::null_mut(), 0), whole);
            assert_eq!(udsipc_last_error_message(buffer.as_mut_ptr().cast(), 13), whole);
            assert_eq!(&buffer[..14], b"the argument\0#");
        }
    }
}
