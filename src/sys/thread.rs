//! Threads that a host process does not notice: named, with a small stack, all signals blocked from birth.

use std::io;
use std::mem::MaybeUninit;
use std::thread::{Builder, JoinHandle};

use super::lock::Mutex;

/// Callbacks run on these threads, so the stack is what a callback may use: 1 MiB, touched only as it is used.
const STACK: usize = 1 << 20;

/// Threads that are waited for when all is over.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    running: Mutex<Vec<JoinHandle<()>>>,
    /// Held while they are joined, so that whoever comes second waits for them as well.
    joining: Mutex<()>,
}

impl Threads {
    /// Starts one more. Those that have finished meanwhile are joined, which takes a moment, and not let go: so when
    /// [`Threads::join_all`] returns, the last of them is really gone.
    pub(crate) fn start(&self, name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let handle = spawn(name, body)?;
        let finished: Vec<_> = {
            let mut running = self.running.lock();
            let finished = running.extract_if(.., |thread| thread.is_finished()).collect();
            running.push(handle);
            finished
        };
        finished.into_iter().for_each(join);
        Ok(())
    }

    /// Waits for the end of all of them, but the calling one.
    pub(crate) fn join_all(&self) {
        let me = std::thread::current().id();
        let _joining = self.joining.lock();
        // One after the other and without the lock, since one that is waited for may start another.
        while let Some(thread) = { self.running.lock().pop() } {
            if thread.thread().id() != me {
                join(thread);
            }
        }
    }
}

/// Its panic, if it ended with one, has been told elsewhere.
fn join(thread: JoinHandle<()>) {
    let _ = thread.join();
}

/// Starts a thread. The mask is inherited (pthread_sigmask(3)), so it is set around the start: there is no moment in
/// which the new thread could take a signal of the host. Names are cut to 15 bytes by the kernel (pthread_setname_np(3)).
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let before = block_all_signals();
    let thread = Builder::new().name(name.into()).stack_size(STACK).spawn(body);
    restore_signals(&before);
    thread
}

fn block_all_signals() -> libc::sigset_t {
    let mut all = MaybeUninit::uninit();
    let mut before = MaybeUninit::uninit();
    // SAFETY: both calls write the whole set they are given; pthread_sigmask cannot fail with a valid `how`.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        before.assume_init()
    }
}

fn restore_signals(before: &libc::sigset_t) {
    // SAFETY: `before` is a set that pthread_sigmask has written; the old set is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, std::ptr::null_mut()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_born_with_every_signal_blocked_and_the_caller_keeps_its_mask() {
        let blocked = |signal| {
            let mut now = MaybeUninit::<libc::sigset_t>::uninit();
            // SAFETY: only the current mask is read.
            unsafe {
                libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), now.as_mut_ptr());
                libc::sigismember(now.as_ptr(), signal) == 1
            }
        };
        let thread = spawn("udsipc-test", move || {
            for signal in [libc::SIGPIPE, libc::SIGTERM, libc::SIGINT, libc::SIGCHLD, libc::SIGALRM, libc::SIGUSR1] {
                assert!(blocked(signal), "signal {signal}");
            }
        });
        thread.expect("a thread").join().expect("no panic");
        assert!(!blocked(libc::SIGTERM));
    }
}
