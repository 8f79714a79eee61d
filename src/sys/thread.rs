//! The library's threads: named, with the host's signals blocked from the start, and not cancellable.

use std::cell::Cell;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::thread::JoinHandleExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use super::descriptor::Descriptor;
use super::lock::Mutex;
use super::{cancellation, fork, loader};

/// Signals that a fault raises in the thread itself. Not blocked: the host's crash handler must run for a fault in a callback,
/// and the kernel ends a process in which such a signal is blocked (signal(7)).
const FAULTS: [libc::c_int; 6] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

/// The first and the longest pause between two attempts to join a thread.
const JOIN_STEP: Duration = Duration::from_micros(20);
const LONGEST_JOIN_STEP: Duration = Duration::from_millis(1);

/// The threads of one executor or reader, to be joined at its end.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    running: Mutex<Vec<JoinHandle<()>>>,
    /// Locked while threads are joined, so that a second caller waits for them too.
    joining: Mutex<()>,
}

impl Threads {
    /// Starts one more, with a stack of `stack` bytes or of the system's default size. Joins those that have ended: when
    /// [`Threads::join_all`] returns, no thread is in the middle of its end.
    pub(crate) fn start(
        &self,
        name: &str,
        stack: Option<usize>,
        body: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let handle = spawn(name, stack, body)?;
        let mut running = self.running.lock();
        for index in (0..running.len()).rev() {
            if let Err(still_running) = try_join(running.swap_remove(index)) {
                running.push(still_running);
            }
        }
        running.push(handle);
        Ok(())
    }

    /// Waits until all threads but the calling one have ended. False: some have not by the deadline. Those are detached, and
    /// their code stays in memory, also after dlclose(3). A thread can be held in the kernel by a file system that does not
    /// answer, or wait on an epoll set that the host has closed.
    pub(crate) fn join_all(&self, deadline: Option<Instant>) -> bool {
        let Some(_joining) = lock_until(&self.joining, deadline) else { return false };
        let mut all_ended = true;
        // Not locked during the join, since a thread that is being joined may start another one.
        while let Some(thread) = { self.running.lock().pop() } {
            if is_current(&thread) {
                detach(thread);
            } else {
                all_ended &= join_until(thread, deadline);
            }
        }
        all_ended
    }
}

impl Drop for Threads {
    /// Runs in the last thread itself if its handle was freed inside one of its own callbacks.
    fn drop(&mut self) {
        let running = std::mem::take(&mut *self.running.lock());
        running.into_iter().filter_map(|thread| try_join(thread).err()).for_each(detach);
    }
}

fn lock_until<T>(mutex: &Mutex<T>, deadline: Option<Instant>) -> Option<super::lock::MutexGuard<'_, T>> {
    let Some(deadline) = deadline else { return Some(mutex.lock()) };
    let mut step = JOIN_STEP;
    loop {
        match mutex.try_lock() {
            Some(held) => return Some(held),
            None if Instant::now() >= deadline => return None,
            None => pause(&mut step, deadline),
        }
    }
}

/// Joins a thread, or detaches it at the deadline. True if it was joined. A panic of the thread has been reported elsewhere.
fn join_until(mut thread: JoinHandle<()>, deadline: Option<Instant>) -> bool {
    let Some(deadline) = deadline else {
        let _ = thread.join();
        return true;
    };
    let mut step = JOIN_STEP;
    loop {
        match try_join(thread) {
            Ok(()) => return true,
            Err(still_running) if Instant::now() >= deadline => {
                detach(still_running);
                return false;
            }
            Err(still_running) => thread = still_running,
        }
        pause(&mut step, deadline);
    }
}

fn pause(step: &mut Duration, deadline: Instant) {
    std::thread::sleep((*step).min(deadline.saturating_duration_since(Instant::now())));
    *step = (*step * 2).min(LONGEST_JOIN_STEP);
}

/// Joins a thread that has ended; returns one that runs. `JoinHandle::is_finished` alone is not enough: it is true before the
/// thread's thread-local values are destroyed.
fn try_join(thread: JoinHandle<()>) -> Result<(), JoinHandle<()>> {
    if !thread.is_finished() {
        return Err(thread);
    }
    // SAFETY: the thread has been neither joined nor detached, since its handle exists; what it returned is not asked
    // for.
    match unsafe { libc::pthread_tryjoin_np(thread.as_pthread_t(), std::ptr::null_mut()) } {
        0 => {
            thread.into_pthread_t(); // joined: the handle must not detach it
            Ok(())
        }
        _ => Err(thread),
    }
}

/// By pthread_self(3), because `std::thread::current` panics in a thread whose thread-local values are destroyed: exit(3)
/// called in a callback destroys them before it runs the host's exit handlers.
fn is_current(thread: &JoinHandle<()>) -> bool {
    // SAFETY: takes nothing.
    thread.as_pthread_t() == unsafe { libc::pthread_self() }
}

/// A number for each thread, unique in this process. Available until the very end of the thread.
#[cfg_attr(loom, allow(dead_code))] // a model has loom's
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ThreadId(u64);

#[cfg_attr(loom, allow(dead_code))]
impl ThreadId {
    /// The calling thread's.
    pub(crate) fn current() -> ThreadId {
        thread_local! {
            // Without a destructor: see `is_current`.
            static NUMBER: Cell<u64> = const { Cell::new(0) };
        }
        static NEXT: AtomicU64 = AtomicU64::new(1);
        if NUMBER.get() == 0 {
            NUMBER.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        ThreadId(NUMBER.get())
    }
}

/// Closes a descriptor that a stranger has passed, on a thread that nobody waits for: a socket that lingers, for one, takes as
/// long as he likes. Where no thread is to be had it stays open.
pub(crate) fn close_elsewhere(stranger: Descriptor) {
    let stranger = std::mem::ManuallyDrop::new(stranger);
    if let Ok(thread) = spawn("udsipc-close", None, move || drop(std::mem::ManuallyDrop::into_inner(stranger))) {
        detach(thread);
    }
}

/// Detaches a running thread, and keeps its code in memory.
fn detach(thread: JoinHandle<()>) {
    loader::stay_loaded(detach as *const libc::c_void);
    drop(thread);
}

/// Starts a thread with signals blocked. The mask is inherited (pthread_sigmask(3)) and is set around the start, so the new
/// thread never takes a signal of the host. The kernel cuts names to 15 bytes (pthread_setname_np(3)).
fn spawn(name: &str, stack: Option<usize>, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let builder = Builder::new().name(name.into()).stack_size(stack.unwrap_or_else(default_stack_size));
    let before = block_signals();
    // If a thread of the library starts another one, the host's mask is the one with which the first was started.
    let host = fork::host_mask().unwrap_or(before);
    let thread = builder.spawn(move || {
        fork::remember_host_mask(host);
        cancellation::without_cancellation(body);
    });
    restore_signals(&before);
    thread
}

/// The stack size of pthread_create(3) by default: the soft limit on stacks (`ulimit -s`) when the program began.
fn default_stack_size() -> usize {
    let mut attributes = MaybeUninit::uninit();
    let mut size = 0;
    // SAFETY: initialised by the first call, which cannot fail in glibc and musl, and destroyed by the last.
    unsafe {
        libc::pthread_attr_init(attributes.as_mut_ptr());
        libc::pthread_attr_getstacksize(attributes.as_ptr(), &raw mut size);
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
    }
    size
}

fn block_signals() -> libc::sigset_t {
    let mut blocked = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: all calls write the whole set they are given; none can fail with valid signals and a valid `how`.
    unsafe {
        libc::sigfillset(blocked.as_mut_ptr());
        for signal in FAULTS {
            libc::sigdelset(blocked.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, blocked.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

pub(super) fn restore_signals(before: &libc::sigset_t) {
    // SAFETY: `before` is a set that pthread_sigmask has written; the old set is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests;
