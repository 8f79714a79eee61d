//! What the library says of itself.

use std::ffi::{CStr, c_char};

use super::guard::guard_or;

/// As a waiting time: no limit. As an option: never.
pub const UDSIPC_WAIT_FOREVER: u64 = u64::MAX;

const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
    Ok(version) => version,
    Err(_) => c"",
};

/// The version of the library that is loaded, which may be newer than the header that a program was built with: compare
/// with UDSIPC_VERSION_STRING.
///
/// Returns: "MAJOR.MINOR.PATCH", never NULL.
/// Ownership: static text, valid for ever; do not free it.
/// Threads: any. Blocking: never.
#[unsafe(no_mangle)]
pub extern "C" fn udsipc_version() -> *const c_char {
    guard_or(VERSION.as_ptr(), || Ok(VERSION.as_ptr()))
}
