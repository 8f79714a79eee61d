//! How the sender comes to its end: what is left is sent or given up, and counted.

use std::time::{Duration, Instant};

use crate::error::{Context, Error};
use crate::lifecycle::{Ending, Phase};

use super::batch;
use super::link::Link;
use super::sender::{Next, Sender};
use super::world::{World, add};

/// How long a drain tries to find a reader: the API promises an answer within 250 ms.
const DRAIN_PATIENCE: Duration = Duration::from_millis(200);
/// The longest pause between two attempts while draining.
const DRAIN_BACKOFF: Duration = Duration::from_millis(20);

impl Sender {
    /// A drain does not sit out a long pause.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let Link::Down { until, .. } = &mut self.link {
            *until = (*until).min(now + DRAIN_BACKOFF);
        }
    }

    /// Nobody listens while draining: gives up in good time.
    pub(super) fn give_up_draining(&mut self, now: Instant, phase: Phase, world: World<'_>) -> Option<Next> {
        let Phase::Draining { since, .. } = phase else { return None };
        if world.options.drain_until_deadline || !self.nobody_listens || !matches!(self.link, Link::Down { .. }) {
            return None;
        }
        let enough = since.max(self.down_since) + DRAIN_PATIENCE;
        if now < enough {
            let _ = world.poller.arm(enough);
            return None;
        }
        let count = self.abandon_all(world);
        Some(self.finish(Ending::Undelivered(count), world))
    }

    /// The end of a writer that never ran.
    pub(crate) fn give_up(&mut self, world: World<'_>) -> Ending {
        let count = self.abandon_all(world);
        batch::give_back();
        let ending = if count == 0 { Ending::Clean } else { Ending::Undelivered(count) };
        *self.ended.insert(ending)
    }

    /// Gives up every message. Each is counted and reported.
    pub(super) fn abandon_all(&mut self, world: World<'_>) -> u64 {
        let retry = u64::from(self.attempts > 0 && !self.front.is_empty());
        let mut count = self.front.abandon_rest(world.queue);
        while let Some(batch) = world.queue.take() {
            self.front.load(batch);
            count += self.front.abandon_rest(world.queue);
        }
        add(&world.counters.failed, count);
        self.report_many(Error::Undelivered(count), Context::DrainRetry, retry);
        self.report_many(Error::Undelivered(count), Context::Drain, count - retry);
        count
    }

    /// Nothing is left, but a poison message may have been given up on the way.
    pub(super) fn finish_drained(&mut self, world: World<'_>) -> Next {
        let abandoned = world.queue.account().abandoned.messages;
        match abandoned - self.abandoned_before_drain.unwrap_or(abandoned) {
            0 => self.finish(Ending::Clean, world),
            count => self.finish(Ending::Undelivered(count), world),
        }
    }

    pub(super) fn finish(&mut self, ending: Ending, world: World<'_>) -> Next {
        let down = Link::Down { until: Instant::now(), message_hurries: false };
        match std::mem::replace(&mut self.link, down) {
            Link::Up(connection) => drop(connection.close(false, world)),
            Link::Ending(farewell) => drop(farewell.connection.close(false, world)),
            Link::Down { .. } | Link::Backlog { .. } => {}
        }
        batch::give_back();
        Next::Finished(*self.ended.insert(ending))
    }
}
