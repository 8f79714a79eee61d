//! One epoll set with a wake-up (eventfd) and a timer (timerfd): what a handle waits on.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cvt;

/// What a descriptor waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Interest(u32);

impl Interest {
    /// The peer's end only: EPOLLHUP and EPOLLERR always come (epoll_ctl(2)). A peer that merely says that it will not
    /// write (EPOLLRDHUP) is no concern of one that only writes.
    pub(crate) const CLOSED: Interest = Interest(0);
    /// Room to write, or the peer's end.
    pub(crate) const WRITABLE: Interest = Interest(libc::EPOLLOUT as u32);
    /// Something to read or the end, told once: to one thread, until it is asked for again.
    pub(crate) const READABLE_ONCE: Interest = Interest((libc::EPOLLIN | libc::EPOLLONESHOT) as u32);
    /// The peer's end only, told once.
    pub(crate) const CLOSED_ONCE: Interest = Interest(libc::EPOLLONESHOT as u32);
    /// Each new event once, without having to be read away.
    const EDGE: Interest = Interest((libc::EPOLLIN | libc::EPOLLET) as u32);
}

/// Which registration an event belongs to. Two values are taken by the poller itself.
pub(crate) type Key = u64;
const WAKE: Key = u64::MAX;
const TIMER: Key = u64::MAX - 1;

/// Something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Somebody called [`Poller::wake`].
    Woken,
    /// The time given to [`Poller::arm`] has come.
    Timer,
    /// A registered descriptor is ready.
    Ready {
        /// The registration.
        key: Key,
        /// The peer has closed (EPOLLHUP or EPOLLERR).
        closed: bool,
    },
}

/// Room for the answers of one wait.
pub(crate) type EventBuffer = [libc::epoll_event];

/// The set. All methods may be called from any thread at the same time: each is one system call.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
    wake: OwnedFd,
    timer: OwnedFd,
    born: Instant,
    /// When the timer will fire, in nanoseconds since `born`; `NEVER` if it will not.
    armed: AtomicU64,
    /// Held while the timer is set, so that of two threads the earlier deadline wins.
    arming: Mutex<()>,
}

const NEVER: u64 = u64::MAX;

impl Poller {
    /// Three descriptors, all close-on-exec.
    pub(crate) fn new() -> io::Result<Poller> {
        // SAFETY: none of the three calls takes a pointer; each descriptor returned is ours alone.
        let (epoll, wake, timer) = unsafe {
            let epoll = OwnedFd::from_raw_fd(cvt(libc::epoll_create1(libc::EPOLL_CLOEXEC))?);
            let wake = OwnedFd::from_raw_fd(cvt(libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK))?);
            let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
            let timer = OwnedFd::from_raw_fd(cvt(libc::timerfd_create(libc::CLOCK_MONOTONIC, flags))?);
            (epoll, wake, timer)
        };
        let poller =
            Poller { epoll, wake, timer, born: Instant::now(), armed: AtomicU64::new(NEVER), arming: Mutex::new(()) };
        // Edge-triggered, so that neither has to be read: each write and each expiry is one event (epoll(7)).
        poller.add(poller.wake.as_fd(), WAKE, Interest::EDGE)?;
        poller.add(poller.timer.as_fd(), TIMER, Interest::EDGE)?;
        Ok(poller)
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, key: Key, interest: Interest) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.0, u64: key };
        // SAFETY: `event` outlives the call; the kernel copies it (epoll_ctl(2)).
        cvt(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) })?;
        Ok(())
    }

    /// Registers a descriptor.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), key, interest)
    }

    /// Changes what a registered descriptor waits for; a one-shot registration is armed again by it.
    pub(crate) fn modify(&self, fd: BorrowedFd<'_>, key: Key, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_raw_fd(), key, interest)
    }

    /// Takes a descriptor out. Closing alone does not, if a forked child still holds the socket (epoll(7)).
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd.as_raw_fd(), 0, Interest(0))
    }

    /// Makes one waiting thread, or the next one to wait, return.
    pub(crate) fn wake(&self) {
        let one = 1_u64.to_ne_bytes();
        // SAFETY: eight readable bytes, as eventfd(2) wants. It can fail only when the counter would overflow, and then
        // the event is there already.
        unsafe { libc::write(self.wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Makes sure that an [`Event::Timer`] comes at `deadline` or earlier. An earlier one costs a look at the clock; not
    /// setting the timer again for each later deadline saves a system call per batch.
    pub(crate) fn arm(&self, deadline: Instant) -> io::Result<()> {
        let at = u64::try_from(deadline.saturating_duration_since(self.born).as_nanos()).unwrap_or(NEVER - 1).max(1);
        if self.armed.load(Ordering::Relaxed) <= at {
            return Ok(());
        }
        let _arming = self.arming.lock().unwrap_or_else(PoisonError::into_inner);
        if self.armed.fetch_min(at, Ordering::Relaxed) <= at {
            return Ok(());
        }
        // Relative, because `Instant` does not show its clock: at least 1 ns, since 0 would disarm (timerfd_create(2)).
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let spec = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: left.subsec_nanos() as libc::c_long,
            },
        };
        // SAFETY: `spec` outlives the call and the old value is not asked for.
        cvt(unsafe { libc::timerfd_settime(self.timer.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut()) })?;
        Ok(())
    }

    /// Waits until something happens or `timeout` has passed (`None`: for ever) and hands each event to `each`. A signal
    /// handler of the host may cut the wait short: then nothing has happened.
    pub(crate) fn wait(
        &self,
        buffer: &mut EventBuffer,
        timeout: Option<Duration>,
        mut each: impl FnMut(Event),
    ) -> io::Result<usize> {
        let capacity = libc::c_int::try_from(buffer.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: `buffer` has room for `capacity` events.
        let waited = unsafe {
            libc::epoll_wait(self.epoll.as_raw_fd(), buffer.as_mut_ptr(), capacity, wait_milliseconds(timeout))
        };
        let count = match cvt(waited) {
            Ok(count) => usize::try_from(count).unwrap_or(0),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            Err(error) => return Err(error),
        };
        for event in &buffer[..count] {
            each(self.read_event(event));
        }
        Ok(count)
    }

    fn read_event(&self, event: &libc::epoll_event) -> Event {
        match event.u64 {
            WAKE => Event::Woken,
            TIMER => {
                self.armed.store(NEVER, Ordering::Relaxed);
                Event::Timer
            }
            key => {
                let closed = libc::EPOLLHUP | libc::EPOLLERR;
                Event::Ready { key, closed: event.events & closed as u32 != 0 }
            }
        }
    }

    /// The descriptor that a host's event loop watches: readable while there is work.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// The numbers of the three descriptors, for a forked child that closes them.
    pub(crate) fn raw_fds(&self) -> [RawFd; 3] {
        [self.epoll.as_raw_fd(), self.wake.as_raw_fd(), self.timer.as_raw_fd()]
    }
}

/// An empty event, to fill a buffer with.
pub(crate) const NO_EVENT: libc::epoll_event = libc::epoll_event { events: 0, u64: 0 };

/// Rounded up, so that a wait never ends just before its deadline and spins; cut to what fits.
fn wait_milliseconds(timeout: Option<Duration>) -> libc::c_int {
    let Some(timeout) = timeout else { return -1 };
    let up = timeout.as_nanos().div_ceil(1_000_000);
    libc::c_int::try_from(up).unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_for(poller: &Poller, timeout: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        poller.wait(&mut [NO_EVENT; 4], Some(timeout), |event| events.push(event)).expect("epoll_wait");
        events
    }

    #[test]
    fn waits_are_rounded_up_and_cut_to_what_fits() {
        assert_eq!(wait_milliseconds(None), -1);
        assert_eq!(wait_milliseconds(Some(Duration::ZERO)), 0);
        assert_eq!(wait_milliseconds(Some(Duration::from_nanos(1))), 1);
        assert_eq!(wait_milliseconds(Some(Duration::from_micros(1_001))), 2);
        assert_eq!(wait_milliseconds(Some(Duration::MAX)), libc::c_int::MAX);
    }

    #[test]
    fn a_wake_before_the_wait_is_not_lost_and_is_told_once() {
        let poller = Poller::new().expect("descriptors");
        poller.wake();
        poller.wake();
        assert_eq!(wait_for(&poller, Duration::from_secs(5)), [Event::Woken]);
        assert_eq!(wait_for(&poller, Duration::ZERO), []);
        poller.wake();
        assert_eq!(wait_for(&poller, Duration::from_secs(5)), [Event::Woken]);
    }

    #[test]
    fn a_timer_comes_at_the_earliest_deadline_asked_for() {
        let poller = Poller::new().expect("descriptors");
        let now = Instant::now();
        poller.arm(now + Duration::from_secs(3600)).expect("timer");
        poller.arm(now + Duration::from_millis(10)).expect("timer");
        assert_eq!(wait_for(&poller, Duration::from_secs(5)), [Event::Timer]);
        assert!(now.elapsed() >= Duration::from_millis(10));
        poller.arm(now).expect("timer");
        assert_eq!(wait_for(&poller, Duration::from_secs(5)), [Event::Timer]);
    }
}
