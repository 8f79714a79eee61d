//! The userdata pointer of a callback.

use std::ffi::c_void;

/// A C pointer that the library passes back to the host's callbacks and never dereferences.
#[derive(Clone, Copy)]
pub(super) struct UserData(*mut c_void);

// SAFETY: the pointer is only passed back, and the header says on which threads callbacks run: the caller promises that what
// it points to may be used there. The crate's only claims of this kind.
unsafe impl Send for UserData {}
// SAFETY: as above.
unsafe impl Sync for UserData {}

impl UserData {
    pub(super) fn new(pointer: *mut c_void) -> Self {
        UserData(pointer)
    }

    /// A method, so that a closure captures the whole struct: a captured field would not be `Send`.
    pub(super) fn get(self) -> *mut c_void {
        self.0
    }
}
