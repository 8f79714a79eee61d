//! The session with a fake connection and simulated time: each rule of the contract, and random sequences
//! of everything that can happen.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::*;
use crate::frame::{self, Frame};
use crate::sys::ledger::Handled;
use crate::writer::records::RecordEvent;
use crate::writer::transport::{GrantedRing, Sent};

mod acknowledge;
mod closing;
mod dialling;
mod handled;
mod random;
mod ring;
mod sending;
mod stopping;

/// One connection: what the kernel has taken, and what the peer did.
#[derive(Debug, Default)]
struct Wire {
    taken: Vec<u8>,
    /// How many bytes the kernel takes in all before it is full.
    room: Option<usize>,
    /// How many the peer has read.
    read: usize,
    hung_up: bool,
    /// The peer has shut both directions and not closed yet: the same hang-up, and what is unread stays.
    both_shut: bool,
    /// SO_ERROR: the peer closed over unread bytes.
    reset: bool,
    /// The next send takes that off the socket.
    send_takes_reset: bool,
    /// The peer has ended its incoming direction (`SHUT_RD`): a send breaks.
    shut: bool,
    /// What the next sends answer, before anything else.
    answers: VecDeque<Sent>,
    is_closed: bool,
    /// What the peer says beside the stream, and how far it has handled that.
    records: VecDeque<RecordEvent>,
    handled: Handled,
    /// What comes with a record that grants a ring.
    ring: Option<GrantedRing>,
    /// Right after the next look at what it says, it says that it acknowledges, and reads everything.
    accepts_when_heard: bool,
}

#[derive(Debug, Clone, Default)]
struct FakeConnection(Rc<RefCell<Wire>>);

impl FakeConnection {
    fn with(change: impl FnOnce(&mut Wire)) -> FakeConnection {
        let connection = FakeConnection::default();
        change(&mut connection.0.borrow_mut());
        connection
    }

    fn read_all(&self) {
        let mut wire = self.0.borrow_mut();
        wire.read = wire.taken.len();
    }

    /// The peer closes, over unread bytes or not.
    fn close_by_peer(&self) {
        let mut wire = self.0.borrow_mut();
        wire.hung_up = true;
        wire.reset = wire.read < wire.taken.len();
    }

    /// The messages that the kernel has taken whole, and where each ends.
    fn messages(&self) -> Vec<(Vec<u8>, usize)> {
        let wire = self.0.borrow();
        let (mut at, mut messages) = (0, Vec::new());
        while let Frame::Whole { start, end } = frame::decode(&wire.taken[at..], u64::MAX) {
            messages.push((wire.taken[at + start..at + end].to_vec(), at + end));
            at += end;
        }
        messages
    }

    fn texts(&self) -> Vec<String> {
        self.messages().into_iter().map(|(message, _)| String::from_utf8_lossy(&message).into_owned()).collect()
    }
}

impl Transport for FakeConnection {
    fn send(&mut self, pieces: [&[u8]; 2]) -> Sent {
        let mut wire = self.0.borrow_mut();
        assert!(!pieces[0].is_empty() && !wire.is_closed);
        match wire.answers.pop_front() {
            Some(Sent::Taken(most)) => return Sent::Taken(wire.take(pieces, most)),
            Some(answer) => return answer,
            None => {}
        }
        if wire.send_takes_reset && std::mem::take(&mut wire.reset) {
            return Sent::Broken(io::ErrorKind::ConnectionReset.into());
        }
        if wire.hung_up || wire.both_shut || wire.shut {
            return Sent::Broken(io::ErrorKind::BrokenPipe.into());
        }
        let room = wire.room.map_or(usize::MAX, |room| room.saturating_sub(wire.taken.len()));
        if room == 0 { Sent::Full } else { Sent::Taken(wire.take(pieces, room)) }
    }

    fn unread_by_peer(&self) -> usize {
        let wire = self.0.borrow();
        if wire.hung_up { 0 } else { wire.taken.len() - wire.read }
    }

    fn has_hung_up(&self) -> bool {
        let wire = self.0.borrow();
        wire.hung_up || wire.both_shut
    }

    fn take_reset(&mut self) -> bool {
        assert!(self.has_hung_up(), "SO_ERROR is final only after the hang-up");
        std::mem::take(&mut self.0.borrow_mut().reset)
    }

    fn broken_pipe() -> io::Error {
        io::ErrorKind::BrokenPipe.into()
    }

    fn send_buffer(&self) -> usize {
        1 << 12
    }

    fn receive(&mut self) -> RecordEvent {
        let mut wire = self.0.borrow_mut();
        let heard = wire.records.pop_front().unwrap_or(RecordEvent::WouldBlock);
        if std::mem::take(&mut wire.accepts_when_heard) {
            wire.records.push_back(RecordEvent::Ledger);
            wire.read = wire.taken.len();
        }
        heard
    }

    fn handled(&self) -> Handled {
        self.0.borrow().handled
    }

    fn take_ring(&mut self) -> Option<GrantedRing> {
        self.0.borrow_mut().ring.take()
    }

    fn close(self) {
        self.0.borrow_mut().is_closed = true;
    }
}

impl Wire {
    fn take(&mut self, pieces: [&[u8]; 2], most: usize) -> usize {
        let before = self.taken.len();
        self.taken.extend(pieces.concat().iter().take(most));
        self.taken.len() - before
    }
}

/// What a dial answers.
type Dial = dyn FnMut(Instant) -> Result<FakeConnection, DialError>;

fn refused() -> Result<FakeConnection, DialError> {
    Err(DialError { failure: DialFailure::NobodyListens, source: io::ErrorKind::ConnectionRefused.into() })
}

fn backlog_full() -> Result<FakeConnection, DialError> {
    Err(DialError { failure: DialFailure::BacklogFull, source: io::ErrorKind::WouldBlock.into() })
}

/// A session, its driver, and the clock.
struct Simulation {
    session: Session<FakeConnection>,
    options: WriterOptions,
    queue: Queue,
    counters: Counters,
    start: Instant,
    now: Instant,
    phase: Phase,
    is_awaited: bool,
    is_guest: bool,
    is_replaced: bool,
    /// How long a step has taken when it asks for the time.
    step_takes: Duration,
    dial: Box<Dial>,
    dials: Vec<Duration>,
    first_sequences: Vec<u64>,
    reports: Vec<Report>,
    wake_at: Option<Instant>,
    ending: Option<Ending>,
}

impl Simulation {
    fn new(dial: impl FnMut(Instant) -> Result<FakeConnection, DialError> + 'static) -> Simulation {
        let start = Instant::now();
        Simulation {
            session: Session::new(start, 7),
            options: WriterOptions::default(),
            queue: Queue::new(10_000, 0),
            counters: Counters::default(),
            start,
            now: start,
            phase: Phase::Running,
            is_awaited: false,
            is_guest: false,
            is_replaced: false,
            step_takes: Duration::ZERO,
            dial: Box::new(dial),
            dials: Vec::new(),
            first_sequences: Vec::new(),
            reports: Vec::new(),
            wake_at: None,
            ending: None,
        }
    }

    /// A reader that accepts these connections, one after the other, and then refuses.
    fn with_connections(connections: &[FakeConnection]) -> Simulation {
        let mut connections: VecDeque<_> = connections.iter().cloned().collect();
        Simulation::new(move |_| connections.pop_front().map_or_else(refused, Ok))
    }

    fn write(&mut self, message: &str) {
        self.queue.push(message.as_bytes()).expect("room");
    }

    /// Lends the session, with the context that a driver gives.
    fn with_session<R>(&mut self, body: impl FnOnce(&mut Session<FakeConnection>, &SessionContext<'_>) -> R) -> R {
        let now = self.now;
        let context = SessionContext {
            clock: &|| now + self.step_takes,
            path: Path::new("/run/test"),
            options: &self.options,
            queue: &self.queue,
            counters: &self.counters,
            is_crowded: &|| false,
            is_awaited: self.is_awaited,
            is_guest: self.is_guest,
        };
        body(&mut self.session, &context)
    }

    /// One drive, as the driver does it.
    fn step(&mut self, woken: Woken) {
        let mut event = Event::Woken(woken);
        loop {
            let (now, phase) = (self.now, self.phase);
            let step = self.with_session(|session, context| session.step(now, phase, event, context));
            self.wake_at = step.wake_at;
            event = match step.next {
                Next::Dial { first_sequence } => {
                    self.first_sequences.push(first_sequence);
                    self.dials.push(self.now - self.start);
                    Event::Dialled((self.dial)(self.now))
                }
                Next::CheckPath => Event::PathChecked { is_replaced: self.is_replaced },
                Next::Again => Event::Woken(Woken::default()),
                Next::Wait => break,
                Next::Finished(ending) => {
                    self.ending = Some(ending);
                    break;
                }
            };
        }
        self.reports.extend(self.session.take_reports());
        let account = self.queue.account();
        assert_eq!(
            account.accepted.messages,
            account.sent.messages + account.abandoned.messages + account.depth.messages
        );
    }

    fn settled(&mut self) -> u64 {
        self.with_session(|session, context| session.settled(context))
    }

    fn poke(&mut self) {
        self.step(Woken::default());
    }

    fn hang_up(&mut self) {
        self.step(Woken { hung_up: true, ..Woken::default() });
    }

    fn path_appears(&mut self) {
        self.step(Woken { path_appeared: true, ..Woken::default() });
    }

    /// Lets time pass, with a step each time that the session has asked for one.
    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        let mut steps = 0;
        self.poke();
        while self.ending.is_none()
            && let Some(at) = self.wake_at.filter(|at| *at <= end)
        {
            self.now = at.max(self.now + Duration::from_micros(1));
            self.poke();
            steps += 1;
            assert!(steps < 10 + 2 * time.as_millis(), "a busy loop: {steps} steps in {time:?}");
        }
        self.now = end;
        if self.ending.is_none() {
            self.poke();
        }
    }

    fn begin_stop(&mut self, timeout: Duration) {
        self.queue.close();
        self.phase = Phase::Draining { since: self.now, deadline: self.now.checked_add(timeout) };
    }

    /// Runs a whole stop. Returns how it ended and how long it took.
    fn stop(&mut self, timeout: Duration) -> (Ending, Duration) {
        self.begin_stop(timeout);
        let since = self.now;
        self.poke();
        while self.ending.is_none() {
            let at = self.wake_at.expect("a drain ends by itself");
            self.now = at.max(self.now + Duration::from_micros(1));
            self.poke();
        }
        (self.ending.expect("the end"), self.now - since)
    }

    fn count(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        counter(&self.counters).load(Ordering::Relaxed)
    }

    fn suspected_lost(&self) -> u64 {
        self.count(|counters| &counters.suspected_lost)
    }

    fn abandoned(&self) -> u64 {
        self.queue.account().abandoned.messages
    }

    fn contexts(&self) -> Vec<Context> {
        self.reports.iter().map(|report| report.context).collect()
    }

    /// The pauses between the dials.
    fn pauses(&self) -> Vec<Duration> {
        self.dials.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
