//! Version and constants.

use std::ffi::{CStr, c_char};

use super::guard::guard_or;

/// No limit: as a waiting time, the call waits for ever; as an option, the time never ends.
pub const UDSIPC_WAIT_FOREVER: u64 = u64::MAX;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};

/// The version of the loaded library. It may be newer than the header with which the program was built, whose version is
/// UDSIPC_VERSION_STRING.
///
/// Returns: "MAJOR.MINOR.PATCH", never NULL.
/// Ownership: static text, valid for ever; do not free it.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub extern "C" fn udsipc_version() -> *const c_char {
    guard_or(VERSION.as_ptr(), || Ok(VERSION.as_ptr()))
}
