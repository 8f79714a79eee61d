//! The boundary of every export: an error or a panic inside becomes a status or a fallback value.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::status::udsipc_status;
use crate::error::Error;
use crate::sys::cancellation::without_cancellation;
use crate::sys::fork::NoFork;

/// Why a call failed: an error of the core, or a mistake that only a C caller can make.
#[derive(Debug)]
pub(super) enum Failure {
    /// An error of the core.
    Core(Error),
    /// The named argument is NULL.
    NullPointer(&'static str),
    /// A reader without a message callback.
    HandlerNull,
    /// This call panicked.
    Panic(String),
    /// An earlier call on the same handle panicked.
    Poisoned,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Core(error)
    }
}

impl Failure {
    /// An argument out of its range, other than the ones that have a variant of their own.
    pub(super) fn invalid(reason: impl Into<String>) -> Self {
        Failure::Core(Error::InvalidArgument(reason.into()))
    }

    fn status(&self) -> udsipc_status {
        match self {
            Failure::Core(error) => error.into(),
            Failure::NullPointer(_) => udsipc_status::UDSIPC_ERR_NULL_POINTER,
            Failure::HandlerNull => udsipc_status::UDSIPC_ERR_HANDLER_NULL,
            Failure::Panic(_) | Failure::Poisoned => udsipc_status::UDSIPC_ERR_PANIC,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Core(error) => error.fmt(f),
            Failure::NullPointer(argument) => write!(f, "the argument {argument} is NULL"),
            Failure::HandlerNull => f.write_str("a reader needs a message callback, and the argument is NULL"),
            Failure::Panic(text) => write!(f, "a bug in libudsipc, please report it: {text}"),
            Failure::Poisoned => f.write_str("a bug in libudsipc broke this handle in an earlier call: only free it"),
        }
    }
}

thread_local! {
    /// The last failure of this thread, kept as a value: its text is made when somebody asks for it.
    static LAST: RefCell<Option<Failure>> = const { RefCell::new(None) };
    /// The error that the error callback on this thread reports; null outside of an error callback.
    static REPORTED: Cell<*const Error> = const { Cell::new(ptr::null()) };
    /// The text of a panic with its place, from the panic hook: the payload does not have the place.
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs the body of an export, with cancellation disabled, and turns its result or its panic into a status.
pub(super) fn guard(body: impl FnOnce() -> Result<(), Failure>) -> udsipc_status {
    without_cancellation(|| guard_quick(body))
}

/// As [`guard`] without disabling cancellation, which costs two calls. For the calls that are made for every message: `body`
/// must reach no cancellation point (pthreads(7)) outside of `without_cancellation`.
pub(super) fn guard_quick(body: impl FnOnce() -> Result<(), Failure>) -> udsipc_status {
    match catch(body) {
        Ok(()) => udsipc_status::UDSIPC_OK,
        Err(failure) => {
            let status = failure.status();
            remember(failure);
            status
        }
    }
}

/// As [`guard`], for an export that returns no status: a failure becomes `fallback`.
pub(super) fn guard_or<T>(fallback: T, body: impl FnOnce() -> Result<T, Failure>) -> T {
    match without_cancellation(|| catch(body)) {
        Ok(value) => value,
        Err(failure) => {
            remember(failure);
            fallback
        }
    }
}

fn catch<T>(body: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    // Unwind safe: a handle in use is poisoned by the panic (`handle::Live`), and later calls on it fail.
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(Failure::Panic(panic_text(&*payload))))
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Ok(Some(seen_by_hook)) = PANIC.try_with(|text| text.take()) {
        return seen_by_hook;
    }
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "a panic without a text".to_owned(),
    }
}

fn remember(failure: Failure) {
    // Inside an error callback the failed call is newer than the reported error. `try_with`: at the end of a thread its
    // thread-local values may be destroyed.
    let _ = REPORTED.try_with(|reported| reported.set(ptr::null()));
    let _ = LAST.try_with(|last| last.replace(Some(failure)));
}

/// The text of this thread's last failure; empty if there was none.
pub(super) fn last_failure_text() -> String {
    let reported = REPORTED.try_with(Cell::get).unwrap_or(ptr::null());
    if !reported.is_null() {
        // SAFETY: `reporting` takes the pointer back before the borrow that it came from ends.
        return unsafe { &*reported }.to_string();
    }
    let text = LAST.try_with(|last| last.borrow().as_ref().map(Failure::to_string));
    text.ok().flatten().unwrap_or_default()
}

/// Makes `error` this thread's last failure while an error callback runs. The text is formatted only if the callback asks for
/// it.
pub(super) fn reporting(error: &Error, callback: impl FnOnce()) {
    struct Restore(*const Error);
    impl Drop for Restore {
        fn drop(&mut self) {
            let _ = REPORTED.try_with(|reported| reported.set(self.0));
        }
    }
    let _restore = Restore(REPORTED.try_with(|reported| reported.replace(error)).unwrap_or(ptr::null()));
    callback();
}

/// Keeps the standard library from printing panics of the library on the host's stderr. Their text is in the last failure.
///
/// In the shared object the panic hook is the library's own. In a Rust program it is the program's, whose previous hook still
/// runs for named threads that are not the library's: the main thread and test threads have names.
pub(super) fn keep_panics_quiet() {
    static DONE: AtomicBool = AtomicBool::new(false);
    if DONE.load(Ordering::Relaxed) {
        return;
    }
    // The hook lies behind a lock of the standard library, which a forked child must not inherit locked.
    let _no_fork = NoFork::enter();
    if DONE.swap(true, Ordering::Relaxed) {
        return;
    }
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // After thread-local values are destroyed, asking for the thread's name would panic inside the panic.
        let Ok(()) = PANIC.try_with(|_| ()) else { return };
        match std::thread::current().name() {
            Some(name) if !name.starts_with("udsipc") => previous(info),
            _ => drop(PANIC.try_with(|text| text.replace(Some(info.to_string())))),
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_status_and_a_text() {
        assert_eq!(guard(|| panic!("deliberate: {}", 7)), udsipc_status::UDSIPC_ERR_PANIC);
        assert!(last_failure_text().contains("deliberate: 7"), "{}", last_failure_text());
        assert_eq!(guard_or(-1, || panic!("deliberate too")), -1);
        assert!(last_failure_text().contains("deliberate too"), "{}", last_failure_text());
    }

    #[test]
    fn the_last_failure_is_this_threads_and_survives_a_success() {
        assert_eq!(last_failure_text(), "");
        assert_eq!(guard(|| Err(Failure::NullPointer("writer"))), udsipc_status::UDSIPC_ERR_NULL_POINTER);
        assert_eq!(guard(|| Ok(())), udsipc_status::UDSIPC_OK);
        assert_eq!(last_failure_text(), "the argument writer is NULL");
        std::thread::spawn(|| assert_eq!(last_failure_text(), "")).join().expect("no panic");
    }

    #[test]
    fn an_error_callback_can_ask_what_it_is_about() {
        assert_eq!(guard(|| Err(Failure::HandlerNull)), udsipc_status::UDSIPC_ERR_HANDLER_NULL);
        let before = last_failure_text();
        reporting(&Error::Undelivered(3), || {
            assert_eq!(last_failure_text(), Error::Undelivered(3).to_string());
            reporting(&Error::Stopped, || assert_eq!(last_failure_text(), Error::Stopped.to_string()));
            assert_eq!(last_failure_text(), Error::Undelivered(3).to_string());
            guard(|| Err(Failure::NullPointer("data")));
            assert_eq!(last_failure_text(), "the argument data is NULL");
        });
        assert_eq!(last_failure_text(), "the argument data is NULL");
        assert_ne!(last_failure_text(), before);
    }

    #[test]
    fn our_panics_are_quiet_and_say_where() {
        keep_panics_quiet();
        let thread = std::thread::Builder::new().name("udsipc-test".into()).spawn(|| {
            assert_eq!(guard(|| panic!("deliberate and quiet")), udsipc_status::UDSIPC_ERR_PANIC);
            last_failure_text()
        });
        let text = thread.expect("a thread").join().expect("no panic");
        assert!(text.contains("deliberate and quiet") && text.contains("guard.rs"), "{text}");
    }
}
