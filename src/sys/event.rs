//! [`Poller`]: one epoll set with a wake-up (eventfd) and a timer (timerfd).

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, RawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::cvt;
use super::descriptor::Descriptor;
use super::lock::Mutex;

/// What a descriptor waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Interest(u32);

impl Interest {
    /// The peer's close only: EPOLLHUP and EPOLLERR are always reported (epoll_ctl(2)). EPOLLRDHUP, a peer that will not write
    /// any more, does not matter to a side that only writes.
    pub(crate) const CLOSED: Interest = Interest(0);
    /// Room to write, or the peer's close.
    pub(crate) const WRITABLE: Interest = Interest(libc::EPOLLOUT as u32);
    /// Bytes to read or the end of the stream; reported once, to one thread, until [`Poller::modify`].
    pub(crate) const READABLE_ONCE: Interest = Interest((libc::EPOLLIN | libc::EPOLLONESHOT) as u32);
    /// As [`Interest::READABLE_ONCE`], and room to write: an event at once, behind those that wait already.
    pub(crate) const READY_ONCE: Interest = Interest((libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLONESHOT) as u32);
    /// Bytes to read or the end of the stream.
    pub(crate) const READABLE: Interest = Interest(libc::EPOLLIN as u32);
    /// The peer's close only, reported once.
    pub(crate) const CLOSED_ONCE: Interest = Interest(libc::EPOLLONESHOT as u32);
    /// The peer's close only, reported once and to one of all waiting threads (edge-triggered, epoll(7)).
    pub(crate) const CLOSED_EDGE: Interest = Interest(libc::EPOLLET as u32);
    /// As [`Interest::CLOSED_EDGE`], and each time that there is room to write again.
    pub(crate) const WRITABLE_EDGE: Interest = Interest((libc::EPOLLOUT | libc::EPOLLET) as u32);
    /// As [`Interest::CLOSED_EDGE`], and each time that more has arrived, read or not: for an eventfd, a timerfd, an inotify
    /// descriptor.
    pub(crate) const READABLE_EDGE: Interest = Interest((libc::EPOLLIN | libc::EPOLLET) as u32);
}

/// The number of a registration. Two values are the poller's own.
pub(crate) type Key = u64;
const WAKE_KEY: Key = u64::MAX;
const TIMER_KEY: Key = u64::MAX - 1;

/// An event of a [`Poller`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// [`Poller::wake`] was called.
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

/// Room for the events of one wait.
type EventBuffer = [libc::epoll_event];

/// An epoll set. All methods may be called from any thread at the same time: each is one system call.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Descriptor,
    wake: Descriptor,
    /// Created by the first [`Poller::arm`], under `arming`, or by [`Poller::with_timer`].
    timer: OnceLock<Descriptor>,
    born: Instant,
    /// When the timer will fire, in nanoseconds since `born`; `NEVER` if it will not.
    armed: AtomicU64,
    /// Locked while the timer is set, so that of two threads' deadlines the earlier one wins.
    arming: Mutex<()>,
}

const NEVER: u64 = u64::MAX;

impl Poller {
    /// Two descriptors; the first [`Poller::arm`] makes a third.
    pub(crate) fn new() -> io::Result<Poller> {
        // SAFETY: takes no pointers.
        let epoll = Descriptor::create(|| unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: takes no pointers.
        let wake = Descriptor::create(|| unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        let poller = Poller {
            epoll,
            wake,
            timer: OnceLock::new(),
            born: Instant::now(),
            armed: AtomicU64::new(NEVER),
            arming: Mutex::new(()),
        };
        // Edge-triggered, so that the eventfd need not be read: each write is one event (epoll(7)).
        poller.add(poller.wake.as_fd(), WAKE_KEY, Interest::READABLE_EDGE)?;
        Ok(poller)
    }

    /// Three descriptors, so that [`Poller::arm`] cannot fail later for want of one.
    pub(crate) fn with_timer() -> io::Result<Poller> {
        let poller = Poller::new()?;
        poller.make_timer()?;
        Ok(poller)
    }

    fn make_timer(&self) -> io::Result<()> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: takes no pointers.
        let timer = Descriptor::create(|| unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) })?;
        // Edge-triggered, so that the timerfd need not be read: each expiry is one event (epoll(7)).
        self.add(timer.as_fd(), TIMER_KEY, Interest::READABLE_EDGE)?;
        drop(self.timer.set(timer));
        Ok(())
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

    /// Ends a registration. Closing the descriptor alone does not, while a forked child has a copy of it (epoll(7)).
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

    /// Removes wake-up and timer, so that the epoll descriptor is never readable again: a host's event loop may go on watching
    /// it.
    pub(crate) fn retire(&self) {
        for own in [Some(&self.wake), self.timer.get()].into_iter().flatten() {
            let _ = self.remove(own.as_fd());
        }
    }

    /// Makes sure that an [`Event::Timer`] comes at `deadline` or earlier. The timer is not set again for a later deadline,
    /// which saves a system call per batch; the receiver of an early event checks the clock.
    pub(crate) fn arm(&self, deadline: Instant) -> io::Result<()> {
        let at = u64::try_from(deadline.saturating_duration_since(self.born).as_nanos()).unwrap_or(NEVER - 1).max(1);
        if self.armed.load(Ordering::Relaxed) <= at {
            return Ok(());
        }
        let _arming = self.arming.lock();
        if self.timer.get().is_none() {
            self.make_timer()?;
        }
        if self.armed.fetch_min(at, Ordering::Relaxed) <= at {
            return Ok(());
        }
        self.set_timer(deadline).inspect_err(|_| self.armed.store(NEVER, Ordering::Relaxed))
    }

    fn set_timer(&self, deadline: Instant) -> io::Result<()> {
        // Relative, because `Instant` does not show its clock: at least 1 ns, since 0 would disarm (timerfd_create(2)).
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let spec = libc::itimerspec {
            it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 },
            it_value: libc::timespec {
                tv_sec: libc::time_t::try_from(left.as_secs()).unwrap_or(libc::time_t::MAX),
                tv_nsec: left.subsec_nanos() as libc::c_long,
            },
        };
        let timer = self.timer.get().map_or(-1, AsRawFd::as_raw_fd);
        // SAFETY: `spec` outlives the call and the old value is not asked for.
        cvt(unsafe { libc::timerfd_settime(timer, 0, &raw const spec, std::ptr::null_mut()) })?;
        Ok(())
    }

    /// Waits for events, until `timeout` has passed (`None`: for ever), and calls `each` for each of them. A signal handler of
    /// the host may cut the wait short, without an event.
    pub(crate) fn wait(
        &self,
        buffer: &mut EventBuffer,
        timeout: Option<Duration>,
        mut each: impl FnMut(Event),
    ) -> io::Result<usize> {
        let waited = match timeout {
            Some(short) if !short.is_zero() && short < COARSE => epoll_wait_short(self.epoll.as_fd(), buffer, short),
            _ => epoll_wait(self.epoll.as_fd(), buffer, timeout),
        };
        let count = match waited {
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
            WAKE_KEY => Event::Woken,
            TIMER_KEY => {
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
}

/// An empty event, to fill a buffer with.
pub(crate) const NO_EVENT: libc::epoll_event = libc::epoll_event { events: 0, u64: 0 };

/// Waits from this length on use epoll_wait(2), which counts in milliseconds.
const COARSE: Duration = Duration::from_millis(10);

fn epoll_wait(epoll: BorrowedFd<'_>, buffer: &mut EventBuffer, timeout: Option<Duration>) -> io::Result<libc::c_int> {
    let capacity = libc::c_int::try_from(buffer.len()).unwrap_or(libc::c_int::MAX);
    // SAFETY: `buffer` has room for `capacity` events.
    cvt(unsafe { libc::epoll_wait(epoll.as_raw_fd(), buffer.as_mut_ptr(), capacity, wait_milliseconds(timeout)) })
}

/// As [`epoll_wait`], with a timeout in nanoseconds. By ppoll(2): epoll_pwait2(2) is missing before Linux 5.11, unknown to
/// valgrind, and may be fatal under a filter of system calls (seccomp(2)). One event may wake several threads in ppoll(2); all
/// but one find nothing.
fn epoll_wait_short(epoll: BorrowedFd<'_>, buffer: &mut EventBuffer, timeout: Duration) -> io::Result<libc::c_int> {
    let mut asked = libc::pollfd { fd: epoll.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos() as libc::c_long,
    };
    // SAFETY: one pollfd, as the count says; `time` outlives the call, and no signal mask is given.
    match cvt(unsafe { libc::ppoll(&raw mut asked, 1, &raw const time, std::ptr::null()) })? {
        0 => Ok(0),
        _ => epoll_wait(epoll, buffer, Some(Duration::ZERO)),
    }
}

/// Rounded up, so that a wait never ends just before its deadline and spins; cut to the range of `c_int`.
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
    fn a_wake_before_the_wait_is_not_lost_and_is_reported_once() {
        let poller = Poller::new().expect("descriptors");
        poller.wake();
        poller.wake();
        assert_eq!(wait_for(&poller, Duration::from_secs(5)), [Event::Woken]);
        assert_eq!(wait_for(&poller, Duration::ZERO), []);
        poller.wake();
        assert_eq!(wait_for(&poller, Duration::from_secs(5)), [Event::Woken]);
    }

    #[test]
    fn the_timer_is_made_when_it_is_needed_first() {
        let poller = Poller::new().expect("two descriptors");
        assert!(poller.timer.get().is_none());
        assert_eq!(wait_for(&poller, Duration::from_millis(1)), []);
        assert!(poller.timer.get().is_none(), "a wait with a time-out needs none");
        poller.arm(Instant::now()).expect("a third");
        assert_eq!(wait_for(&poller, Duration::from_secs(5)), [Event::Timer]);
        assert!(Poller::with_timer().expect("three descriptors").timer.get().is_some());
    }

    #[test]
    fn a_wait_of_less_than_a_millisecond_is_not_rounded_up() {
        let poller = Poller::new().expect("descriptors");
        let wait = Duration::from_micros(50);
        let shortest = (0..50).map(|_| {
            let start = Instant::now();
            assert_eq!(wait_for(&poller, wait), []);
            start.elapsed()
        });
        let shortest = shortest.min().expect("fifty of them");
        assert!(shortest >= wait && shortest < Duration::from_micros(950), "{shortest:?}");
    }

    #[test]
    fn an_edge_is_reported_once_and_again_only_after_a_change() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let poller = Poller::new().expect("descriptors");
        poller.add(ours.as_fd(), 7, Interest::WRITABLE_EDGE).expect("a registration");
        assert_eq!(wait_for(&poller, Duration::from_secs(5)), [Event::Ready { key: 7, closed: false }]);
        assert_eq!(wait_for(&poller, Duration::ZERO), []);
        poller.modify(ours.as_fd(), 7, Interest::CLOSED_EDGE).expect("a change");
        assert_eq!(wait_for(&poller, Duration::ZERO), [], "room to write is not asked for any more");
        drop(theirs);
        assert_eq!(wait_for(&poller, Duration::from_secs(5)), [Event::Ready { key: 7, closed: true }]);
        assert_eq!(wait_for(&poller, Duration::ZERO), []);
    }

    #[test]
    fn a_retired_poller_stays_quiet() {
        let poller = Poller::new().expect("descriptors");
        poller.wake();
        poller.arm(Instant::now()).expect("timer");
        poller.retire();
        poller.wake();
        assert_eq!(wait_for(&poller, Duration::from_millis(20)), []);
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
