//! What the options of writers and readers share: the core's options behind a lock. The same options can make several handles.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::guard::Failure;
use super::version::UDSIPC_WAIT_FOREVER;
use crate::error;

/// Options that C holds as an opaque pointer.
pub(super) trait Options {
    /// The core's options. Behind the standard library's lock, which a panic poisons.
    type Core: Clone;
    fn core(&self) -> &Mutex<Self::Core>;
    /// Refuses a value out of its range.
    fn check(core: &Self::Core) -> error::Result<()>;
}

/// Locks the options.
///
/// # Safety
/// `options` is NULL or live until the borrow ends.
unsafe fn lock<'call, O: Options>(options: &'call *const O) -> Result<MutexGuard<'call, O::Core>, Failure> {
    // SAFETY: as promised by the caller; `as_ref` refuses NULL.
    let options = unsafe { options.as_ref() }.ok_or(Failure::NullPointer("options"))?;
    options.core().lock().map_err(|_| Failure::Poisoned)
}

/// Makes a change, unless the core refuses the changed options: then they stay as they are.
///
/// # Safety
/// `options` is NULL or live.
pub(super) unsafe fn set<O: Options>(options: *mut O, change: impl FnOnce(O::Core) -> O::Core) -> Result<(), Failure> {
    let options = options.cast_const();
    // SAFETY: as promised by the caller.
    let mut core = unsafe { lock(&options)? };
    let changed = change(core.clone());
    O::check(&changed)?;
    *core = changed;
    Ok(())
}

/// The core's options for one handle.
///
/// # Safety
/// `options` is NULL, for the defaults, or live.
pub(super) unsafe fn for_handle<O: Options<Core: Default>>(options: *const O) -> Result<O::Core, Failure> {
    if options.is_null() {
        return Ok(O::Core::default());
    }
    // SAFETY: as promised by the caller.
    Ok(unsafe { lock(&options)? }.clone())
}

/// A waiting time from C.
pub(super) fn duration(ms: u64) -> Duration {
    if ms == UDSIPC_WAIT_FOREVER { Duration::MAX } else { Duration::from_millis(ms) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_ever_is_for_ever() {
        assert_eq!(duration(UDSIPC_WAIT_FOREVER), Duration::MAX);
        assert_eq!(duration(0), Duration::ZERO);
        assert_eq!(duration(UDSIPC_WAIT_FOREVER - 1).as_millis(), u128::from(UDSIPC_WAIT_FOREVER - 1));
    }
}
