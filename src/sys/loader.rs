//! Keeps this shared object in memory while its threads run.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;

/// Keeps the shared object that contains `address` in memory, also after dlclose(3): a thread still runs in it. Does nothing
/// in a statically linked program.
pub(super) fn stay_loaded(address: *const c_void) {
    type Dlopen = unsafe extern "C" fn(*const c_char, c_int) -> *mut c_void;
    let mut object = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: `object` is writable. Where the address belongs to an object, its name is a C string that lives as long
    // as the object. dlopen is looked up, since linkers warn of its use in a static program, which does not have it;
    // its type is that of dlopen(3). RTLD_NOLOAD loads nothing, and the handle is not closed on purpose.
    unsafe {
        if libc::dladdr(address, object.as_mut_ptr()) == 0 {
            return;
        }
        let name = object.assume_init().dli_fname;
        let dlopen = libc::dlsym(libc::RTLD_DEFAULT, c"dlopen".as_ptr());
        if !dlopen.is_null() && !name.is_null() && !CStr::from_ptr(name).is_empty() {
            let dlopen: Dlopen = std::mem::transmute(dlopen);
            dlopen(name, libc::RTLD_NOLOAD | libc::RTLD_NODELETE | libc::RTLD_LAZY);
        }
    }
}

#[cfg(all(test, target_env = "gnu"))]
mod tests {
    use super::*;

    /// Loads an object, lets `body` have an address in it, and closes it. Whether it is still loaded then.
    fn survives(name: &CStr, symbol: &CStr, body: impl FnOnce(*const c_void)) -> bool {
        // SAFETY: the object is one of the C library's without constructors of its own; handles are closed once.
        unsafe {
            let handle = libc::dlopen(name.as_ptr(), libc::RTLD_NOW);
            assert!(!handle.is_null(), "{name:?}");
            let address = libc::dlsym(handle, symbol.as_ptr());
            assert!(!address.is_null(), "{symbol:?}");
            body(address);
            libc::dlclose(handle);
            !libc::dlopen(name.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY).is_null()
        }
    }

    #[test]
    fn an_object_that_is_to_stay_is_not_unloaded() {
        let (name, symbol) = (c"libresolv.so.2", c"ns_sprintrr");
        assert!(!survives(name, symbol, |_| {}));
        assert!(survives(name, symbol, stay_loaded));
        stay_loaded(std::ptr::null());
    }
}
