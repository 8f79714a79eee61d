//! Pointers from and to C. Checked in every build: NULL, lengths that no object can have, handles that a panic has left in
//! an unknown state.

use std::ffi::{CStr, CString, OsStr, c_char};
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::guard::Failure;

/// The content of a `udsipc_writer` or a `udsipc_reader`. Reference counted, since a callback may free the handle while the
/// call that runs the callback still uses it.
pub(super) struct Shared<T> {
    /// The writer or the reader.
    pub(super) core: T,
    /// The core's path as a C string, valid as long as the handle.
    pub(super) path: CString,
    poisoned: AtomicBool,
}

impl<T> Shared<T> {
    pub(super) fn new(core: T, path: CString) -> Arc<Self> {
        Arc::new(Shared { core, path, poisoned: AtomicBool::new(false) })
    }
}

/// A type that C holds as an opaque pointer and shares between threads.
pub(super) trait Handle {
    /// The writer or the reader.
    type Core;
    fn shared(&self) -> &Arc<Shared<Self::Core>>;
    /// Ends the writer or the reader before it is freed: `Writer::end`, `Reader::end`.
    fn end(core: &Self::Core);
}

/// A handle in use. If a panic ends the use, the handle is poisoned.
pub(super) struct Live<T, H: Deref<Target = Shared<T>>>(H);

impl<T, H: Deref<Target = Shared<T>>> Live<T, H> {
    fn new(shared: H) -> Result<Self, Failure> {
        if shared.poisoned.load(Ordering::Acquire) { Err(Failure::Poisoned) } else { Ok(Live(shared)) }
    }
}

impl<T, H: Deref<Target = Shared<T>>> Deref for Live<T, H> {
    type Target = Shared<T>;

    fn deref(&self) -> &Shared<T> {
        &self.0
    }
}

impl<T, H: Deref<Target = Shared<T>>> Drop for Live<T, H> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.poisoned.store(true, Ordering::Release);
        }
    }
}

/// A handle in use that owns a reference.
pub(super) type Retained<H> = Live<<H as Handle>::Core, Arc<Shared<<H as Handle>::Core>>>;

/// Uses a handle without a reference, for calls that run no callback. The borrow is of the caller's own argument, so it ends
/// with the call.
///
/// # Safety
/// `handle` is NULL, or came from [`into_raw`] and is not freed before the borrow ends.
pub(super) unsafe fn borrow<'call, H: Handle>(
    handle: &'call *mut H,
    name: &'static str,
) -> Result<Live<H::Core, &'call Shared<H::Core>>, Failure> {
    // SAFETY: as promised by the caller; `as_ref` refuses NULL.
    let handle = unsafe { handle.as_ref() }.ok_or(Failure::NullPointer(name))?;
    Live::new(handle.shared())
}

/// Uses a handle with a reference, for calls in which a callback may free the handle.
///
/// # Safety
/// `handle` is NULL, or came from [`into_raw`] and is not freed before this function returns.
pub(super) unsafe fn retain<H: Handle>(handle: *const H, name: &'static str) -> Result<Retained<H>, Failure> {
    // SAFETY: as promised by the caller; `as_ref` refuses NULL.
    let handle = unsafe { handle.as_ref() }.ok_or(Failure::NullPointer(name))?;
    Live::new(Arc::clone(handle.shared()))
}

/// Hands an object to C.
pub(super) fn into_raw<T>(object: T) -> *mut T {
    Box::into_raw(Box::new(object))
}

/// Takes an object back from C; NULL is none.
///
/// # Safety
/// `object` is NULL, or came from [`into_raw`] and is never used again.
pub(super) unsafe fn take<T>(object: *mut T) -> Option<Box<T>> {
    // SAFETY: as promised by the caller.
    NonNull::new(object).map(|object| unsafe { Box::from_raw(object.as_ptr()) })
}

/// Ends the writer or reader, and then frees the handle: until the end callbacks run, and may use the handle.
///
/// # Safety
/// As [`take`].
pub(super) unsafe fn free<H: Handle>(handle: *mut H) {
    // SAFETY: as promised by the caller; `as_ref` refuses NULL.
    if let Some(live) = unsafe { handle.as_ref() } {
        let shared = Arc::clone(live.shared());
        H::end(&shared.core);
        // SAFETY: as promised by the caller; no callback runs any more.
        drop(unsafe { take(handle) });
    }
}

/// A pointer that must not be NULL.
pub(super) fn required<T>(pointer: *mut T, name: &'static str) -> Result<NonNull<T>, Failure> {
    NonNull::new(pointer).ok_or(Failure::NullPointer(name))
}

/// An array from C: `(NULL, 0)` is empty.
///
/// # Safety
/// If neither is zero, `len` elements at `data` are initialised, and stay so until the borrow ends.
pub(super) unsafe fn slice<'call, T>(
    data: &'call *const T,
    len: usize,
    name: &'static str,
) -> Result<&'call [T], Failure> {
    if len == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(Failure::NullPointer(name));
    }
    if !data.is_aligned() || len.checked_mul(size_of::<T>()).is_none_or(|bytes| bytes > isize::MAX as usize) {
        return Err(impossible_array(name, len));
    }
    // SAFETY: not NULL, aligned, not longer than isize::MAX; initialised and stable as promised by the caller.
    Ok(unsafe { std::slice::from_raw_parts(*data, len) })
}

#[cold]
fn impossible_array(name: &str, len: usize) -> Failure {
    Failure::invalid(format!("{name} with {len} elements is no array that memory can hold"))
}

/// A string from C. Its bytes need not be UTF-8.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string that stays as it is until the borrow ends.
pub(super) unsafe fn text<'call>(text: &'call *const c_char, name: &'static str) -> Result<&'call CStr, Failure> {
    if text.is_null() {
        return Err(Failure::NullPointer(name));
    }
    // SAFETY: not NULL; terminated and stable as promised by the caller.
    Ok(unsafe { CStr::from_ptr(*text) })
}

/// A text in UTF-8 from C, "" for NULL.
///
/// # Safety
/// As [`text`].
pub(super) unsafe fn utf8_or_empty<'call>(
    text: &'call *const c_char,
    name: &'static str,
) -> Result<&'call str, Failure> {
    if text.is_null() {
        return Ok("");
    }
    // SAFETY: as promised by the caller.
    unsafe { self::text(text, name)? }.to_str().map_err(|_| Failure::invalid(format!("{name} are not UTF-8")))
}

/// A path from C: bytes, whatever they are.
///
/// # Safety
/// As [`text`].
pub(super) unsafe fn path<'call>(path: &'call *const c_char, name: &'static str) -> Result<&'call Path, Failure> {
    // SAFETY: as promised by the caller.
    let bytes = unsafe { text(path, name)? }.to_bytes();
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

/// A path for C. An abstract address can hold NUL bytes: they become '@', as in `/proc/net/unix`.
pub(super) fn c_path(path: &Path) -> CString {
    let bytes: Vec<u8> = path.as_os_str().as_bytes().iter().map(|&b| if b == 0 { b'@' } else { b }).collect();
    CString::new(bytes).unwrap_or_default()
}

/// As snprintf(3): stores what fits, ends it with NUL, returns the length of the whole text.
///
/// # Safety
/// `buffer` is NULL or `capacity` bytes there may be written.
pub(super) unsafe fn print(text: &[u8], buffer: *mut c_char, capacity: usize) -> usize {
    if !buffer.is_null() && capacity > 0 {
        let fits = text.len().min(capacity - 1);
        // SAFETY: `fits` bytes and the NUL are at most `capacity`; a buffer of the caller overlaps no text of ours.
        unsafe {
            buffer.copy_from_nonoverlapping(text.as_ptr().cast(), fits);
            buffer.add(fits).write(0);
        }
    }
    text.len()
}

/// Stores a struct of `u64` counters in the size that it has in the caller's header. A shorter one gets the fields that it
/// has; in a longer one the fields that this library does not know are 0.
///
/// # Safety
/// `out` is NULL or `out_size` bytes there may be written; `T` has no padding.
pub(super) unsafe fn store_counters<T: Copy>(counters: &T, out: *mut T, out_size: usize) -> Result<(), Failure> {
    let out = required(out, "out")?.cast::<u8>();
    if out_size == 0 || !out_size.is_multiple_of(size_of::<u64>()) || out_size > isize::MAX as usize {
        return Err(Failure::invalid(format!("out_size is {out_size}: pass the sizeof of the struct")));
    }
    let known = out_size.min(size_of::<T>());
    // SAFETY: `known` is at most the size of both, and the rest ends at `out_size`, all as promised by the caller.
    unsafe {
        out.copy_from_nonoverlapping(NonNull::from(counters).cast(), known);
        out.add(known).write_bytes(0, out_size - known);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::guard::guard;
    use super::super::status::udsipc_status::{self, *};
    use super::*;
    use std::ptr;

    fn slice_status<T>(data: *const T, len: usize) -> udsipc_status {
        // SAFETY: the tests pass arrays that exist, or lengths that are refused before anything is read.
        guard(|| unsafe { slice(&data, len, "data") }.map(drop))
    }

    #[test]
    fn empty_slices_are_legal_and_impossible_ones_refused() {
        assert_eq!(slice_status::<u8>(ptr::null(), 0), UDSIPC_OK);
        assert_eq!(slice_status::<u8>(ptr::null(), 1), UDSIPC_ERR_NULL_POINTER);
        assert_eq!(slice_status(b"abc".as_ptr(), 3), UDSIPC_OK);
        assert_eq!(slice_status(b"abc".as_ptr(), isize::MAX as usize + 1), UDSIPC_ERR_INVALID_ARGUMENT);
        assert_eq!(slice_status([0_u64].as_ptr(), isize::MAX as usize), UDSIPC_ERR_INVALID_ARGUMENT);
        assert_eq!(slice_status([0_u64].as_ptr().wrapping_byte_add(1), 1), UDSIPC_ERR_INVALID_ARGUMENT);
        let data = b"abc".as_ptr();
        // SAFETY: three bytes are there.
        assert_eq!(unsafe { slice(&data, 3, "data") }.expect("a slice"), b"abc");
    }

    #[test]
    fn paths_are_bytes() {
        let name = c"/run/\xff\xfe".as_ptr();
        // SAFETY: a static C string.
        let path = unsafe { path(&name, "path") }.expect("a path");
        assert_eq!(path.as_os_str().as_bytes(), b"/run/\xff\xfe");
        assert_eq!(c_path(path).as_bytes(), b"/run/\xff\xfe");
        assert_eq!(c_path(Path::new("@a\0b")).as_bytes(), b"@a@b");
    }

    #[test]
    fn print_does_as_snprintf_does() {
        let print_into = |buffer: &mut [u8]| {
            // SAFETY: the buffer's own length.
            unsafe { print(b"hello", buffer.as_mut_ptr().cast(), buffer.len()) }
        };
        // SAFETY: NULL is not written to.
        assert_eq!(unsafe { print(b"hello", ptr::null_mut(), 0) }, 5);
        // SAFETY: as above.
        assert_eq!(unsafe { print(b"hello", ptr::null_mut(), 9) }, 5);
        let mut buffer = [b'#'; 8];
        assert_eq!(print_into(&mut buffer[..0]), 5);
        assert_eq!(&buffer, b"########");
        assert_eq!(print_into(&mut buffer[..1]), 5);
        assert_eq!(&buffer, b"\0#######");
        assert_eq!(print_into(&mut buffer[..5]), 5);
        assert_eq!(&buffer, b"hell\0###");
        assert_eq!(print_into(&mut buffer), 5);
        assert_eq!(&buffer, b"hello\0##");
    }

    #[test]
    fn counters_fit_older_and_newer_structs() {
        let ours = [1_u64, 2, 3];
        let store = |out: *mut [u64; 3], size| {
            // SAFETY: `room` below is longer than every size that is accepted.
            guard(|| unsafe { store_counters(&ours, out, size) })
        };
        let mut room = [9_u64; 5];
        assert_eq!(store(ptr::null_mut(), 24), UDSIPC_ERR_NULL_POINTER);
        for refused in [0, 1, 7, 12, 23, usize::MAX - 7] {
            assert_eq!(store(room.as_mut_ptr().cast(), refused), UDSIPC_ERR_INVALID_ARGUMENT, "{refused}");
            assert_eq!(room, [9; 5]);
        }
        assert_eq!(store(room.as_mut_ptr().cast(), 16), UDSIPC_OK);
        assert_eq!(room, [1, 2, 9, 9, 9]);
        assert_eq!(store(room.as_mut_ptr().cast(), 32), UDSIPC_OK);
        assert_eq!(room, [1, 2, 3, 0, 9]);
    }

    struct Opaque(Arc<Shared<AtomicBool>>);

    impl Handle for Opaque {
        type Core = AtomicBool;
        fn shared(&self) -> &Arc<Shared<AtomicBool>> {
            &self.0
        }
        fn end(core: &AtomicBool) {
            core.store(true, Ordering::Release);
        }
    }

    fn new_handle() -> *mut Opaque {
        into_raw(Opaque(Shared::new(AtomicBool::new(false), CString::default())))
    }

    #[test]
    fn a_panic_poisons_the_handle() {
        let handle = new_handle();
        // SAFETY: a live handle in all of this test, freed once at its end.
        unsafe {
            assert_eq!(guard(|| retain(handle, "handle").map(drop)), UDSIPC_OK);
            let broken = guard(|| {
                let handle = borrow(&handle, "handle")?;
                panic!("deliberate, with {:?}", handle.core);
            });
            assert_eq!(broken, UDSIPC_ERR_PANIC);
            assert_eq!(guard(|| borrow(&handle, "handle").map(drop)), UDSIPC_ERR_PANIC);
            assert_eq!(guard(|| retain(handle, "handle").map(drop)), UDSIPC_ERR_PANIC);
            free(handle);
        }
    }

    #[test]
    fn a_handle_freed_in_use_is_ended_and_lives_until_the_use_ends() {
        let handle = new_handle();
        // SAFETY: a live handle, freed once while it is held.
        unsafe {
            let held = retain(handle, "handle").expect("a live handle");
            free(handle);
            assert!(held.core.load(Ordering::Acquire));
            free(ptr::null_mut::<Opaque>());
        }
    }
}
