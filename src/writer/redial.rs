//! When to dial next, and when to give up: the only place that decides it. Pure: what happened and the time come in, an
//! instant comes out.
//!
//! 1. A connection that ends is replaced at once, if something was read on it or it held for a while.
//! 2. Failed connects and fruitless connections in a row are followed by growing pauses (`backoff`).
//! 3. A pause ends early when the socket appears at the path, when somebody waits (flush, stop, a write with a timeout),
//!    and with the next message if the reader has ended an idle connection.
//! 4. A full backlog is somebody's: it is tried again in short steps within `dial_timeout`, and counts as a failure only
//!    then. So is a refusal right after the socket has appeared, since a reader binds before it listens.
//! 5. A drain gives up when nobody has listened for a while, or everybody has refused.

use std::time::{Duration, Instant};

use crate::backoff;

/// While somebody waits no pause is longer than this.
const HURRIED_PAUSE: Duration = Duration::from_millis(20);

/// Rule 4: the first step of the short ones, and the longest.
const SHORT_STEP: Duration = Duration::from_millis(1);
const SHORT_STEP_LONGEST: Duration = Duration::from_millis(20);

/// For so long after the socket has appeared a refusal is not believed. 19 us in the median, 5 ms at worst pass between
/// bind and listen of a reader that does nothing else meanwhile.
const APPEARED_FOR: Duration = Duration::from_millis(100);

/// A connection that held this long without a message was worth having.
const SETTLED: Duration = Duration::from_secs(1);

/// How long a drain tries to find a reader: the API promises an answer within 250 ms.
const DRAIN_PATIENCE: Duration = Duration::from_millis(200);

/// Stands for "never" where an addition overflows.
const FAR: Duration = Duration::from_secs(3600);

/// Why a connect failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DialFailure {
    /// No file, no listener, no permission, another type of socket: no reader of ours is there.
    NobodyListens,
    /// A reader is there, and its backlog is full (EAGAIN).
    BacklogFull,
    /// This process has no descriptors or memory left, which says nothing about the reader.
    Shortage,
}

/// What a failed connect means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet: it is tried again in a moment.
    TryAgain,
    /// It counts and is reported.
    Failed,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// Messages went out whole on it.
    pub(super) has_sent: bool,
    /// Some of those may not have been read.
    pub(super) has_lost: bool,
    /// A message was being written.
    pub(super) broke: bool,
    /// How long it lasted.
    pub(super) lasted: Duration,
}

impl Ended {
    /// Whether it served its purpose (rule 1).
    fn was_fruitful(self) -> bool {
        !self.has_lost && (self.has_sent || self.lasted >= SETTLED)
    }

    /// Whether the next message may be sent on a new one at once (rule 3): it ended before anything was asked of it. A peer
    /// that accepts and closes would be dialled for each message otherwise.
    fn lets_a_message_dial(self) -> bool {
        !self.has_sent && !self.broke
    }
}

#[derive(Debug)]
pub(super) struct Redial {
    /// Failed connects and fruitless connections in a row.
    failures: u32,
    /// When the present pause began, and how long it is.
    paused_at: Instant,
    pause: Duration,
    message_ends_pause: bool,
    /// Since when a full backlog is tried again in short steps.
    backlog_since: Option<Instant>,
    /// When the socket appeared at the path.
    appeared_at: Option<Instant>,
    /// The present short step (rule 4).
    step: Duration,
    /// Since when there is no connection, and whether the last connect said that nobody listens.
    down_since: Instant,
    nobody_listens: bool,
    /// Since when readers have refused this writer: for it, nobody listens.
    refused_since: Option<Instant>,
    random: u64,
}

impl Redial {
    pub(super) fn new(now: Instant, seed: u64) -> Redial {
        Redial {
            failures: 0,
            paused_at: now,
            pause: Duration::ZERO,
            message_ends_pause: false,
            backlog_since: None,
            appeared_at: None,
            step: SHORT_STEP,
            down_since: now,
            nobody_listens: false,
            refused_since: None,
            random: seed | 1,
        }
    }

    /// When to dial. `is_hurried`: somebody waits.
    pub(super) fn due(&self, is_hurried: bool) -> Instant {
        let pause = if is_hurried { self.pause.min(HURRIED_PAUSE) } else { self.pause };
        self.paused_at.checked_add(pause).unwrap_or(self.paused_at + FAR)
    }

    /// Whether a message is reason enough to dial before that.
    pub(super) fn message_ends_pause(&self) -> bool {
        self.message_ends_pause
    }

    /// When a drain that began at `draining_since` has looked for a reader for long enough (rule 5).
    pub(super) fn gives_up_at(&self, draining_since: Instant) -> Option<Instant> {
        let since = self.refused_since.or(self.nobody_listens.then_some(self.down_since))?;
        Some(draining_since.max(since) + DRAIN_PATIENCE)
    }

    /// A file was created at the path, or made accessible. Ignored for a while after the last such event, when the pauses are
    /// short anyway: a user who may write to the directory must not make this process dial at will.
    pub(super) fn path_appeared(&mut self, now: Instant) {
        if self.has_just_appeared(now) {
            return;
        }
        self.failures = 0;
        self.begin_short_steps();
        self.appeared_at = Some(now);
        self.wait(now, Duration::ZERO);
    }

    fn has_just_appeared(&self, now: Instant) -> bool {
        self.appeared_at.is_some_and(|at| now.saturating_duration_since(at) < APPEARED_FOR)
    }

    pub(super) fn connected(&mut self) {
        self.nobody_listens = false;
        self.begin_short_steps();
    }

    pub(super) fn connect_failed(
        &mut self,
        now: Instant,
        failure: DialFailure,
        dial_timeout: Duration,
        max_backoff: Duration,
    ) -> Verdict {
        let tried_again = match failure {
            DialFailure::BacklogFull => {
                let since = *self.backlog_since.get_or_insert(now);
                now.saturating_duration_since(since) < dial_timeout
            }
            DialFailure::NobodyListens => self.has_just_appeared(now),
            DialFailure::Shortage => false,
        };
        if tried_again {
            self.wait(now, self.step);
            self.step = (self.step * 2).min(SHORT_STEP_LONGEST);
            return Verdict::TryAgain;
        }
        // A shortage in this process says nothing about the reader: the result of the last attempt holds.
        if failure != DialFailure::Shortage {
            self.nobody_listens = failure == DialFailure::NobodyListens;
        }
        self.begin_short_steps();
        self.failures = self.failures.saturating_add(1);
        self.back_off(now, max_backoff);
        Verdict::Failed
    }

    /// A connection is ending: from now on there is none to send on.
    pub(super) fn connection_ending(&mut self, now: Instant) {
        self.down_since = now;
        self.wait(now, Duration::ZERO);
    }

    pub(super) fn connection_ended(&mut self, now: Instant, ended: Ended, max_backoff: Duration) {
        if ended.was_fruitful() {
            self.failures = 0;
            self.refused_since = None;
        }
        self.back_off(now, max_backoff);
        self.message_ends_pause = ended.lets_a_message_dial();
        if !ended.was_fruitful() {
            self.failures = self.failures.saturating_add(1);
        }
    }

    /// A reader has accepted a connection and refused this writer.
    pub(super) fn refused(&mut self, now: Instant) {
        self.refused_since.get_or_insert(now);
    }

    /// A reader serves this writer.
    pub(super) fn admitted(&mut self) {
        self.refused_since = None;
    }

    /// A message has been given up after its attempts: the backoff begins anew, since the next message has nothing to do with
    /// its failures. Not at once, since the peer may be one that closes whatever it is sent.
    pub(super) fn message_given_up(&mut self, now: Instant, max_backoff: Duration) {
        self.failures = 1;
        self.back_off(now, max_backoff);
    }

    /// What a later attempt tries again it tries in the shortest step first.
    fn begin_short_steps(&mut self) {
        self.backlog_since = None;
        self.step = SHORT_STEP;
    }

    fn back_off(&mut self, now: Instant, max_backoff: Duration) {
        let random = self.next_random();
        self.wait(now, backoff::delay(self.failures, max_backoff, random));
    }

    fn wait(&mut self, now: Instant, pause: Duration) {
        (self.paused_at, self.pause, self.message_ends_pause) = (now, pause, false);
    }

    /// xorshift64: only spreads attempts in time.
    fn next_random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 32) as u32
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
