//! Whole frames on their way into the callback.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Context, Error};
use crate::frame::{self, Frame};

use super::lane::Tally;
use super::{Connection, Handler};

/// How many messages one batch callback gets at most.
pub(crate) const BATCH: usize = 256;

/// How a turn ended.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Wait for more.
    More,
    /// The end, as it should be.
    End,
    /// The end because of what came, or did not come.
    Failed(Error, Context),
    /// The end because the stop was cut short. True: something was left unread.
    Cut(bool),
}

/// What the turns of all connections share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) handler: &'a Handler,
    pub(crate) max_message_size: u64,
    /// Told of each failed callback.
    pub(crate) failed: &'a dyn HandlerFailures,
    /// The stop is being cut short: no further callback.
    pub(crate) forced: &'a AtomicBool,
}

/// Who counts and reports failed callbacks.
pub(crate) trait HandlerFailures: std::fmt::Debug + Sync {
    /// One message was not handled well.
    fn handler_failed(&self);
}

/// Hands whole frames to the callback.
pub(super) struct Hands<'a> {
    pub(super) connection: Connection<'a>,
    pub(super) rules: Rules<'a>,
    pub(super) tally: &'a Tally,
}

impl Hands<'_> {
    /// Hands out what is whole at the front of `bytes`. Returns how much that was, and how long the cut frame behind it
    /// is (0: unknown, or none).
    pub(super) fn hand_out(&self, bytes: &[u8]) -> std::result::Result<(usize, usize), Turn> {
        match self.rules.handler {
            Handler::Each(each) => self.one_by_one(bytes, each),
            Handler::Batch(batch) => self.in_batches(bytes, batch),
        }
    }

    fn one_by_one(&self, bytes: &[u8], each: &super::EachHandler) -> std::result::Result<(usize, usize), Turn> {
        let mut at = 0;
        loop {
            match frame::decode(&bytes[at..], self.rules.max_message_size) {
                Frame::Whole { start, end } => {
                    let message = &bytes[at + start..at + end];
                    at += end;
                    if message.is_empty() {
                        continue;
                    }
                    self.check_forced()?;
                    match catch_unwind(AssertUnwindSafe(|| each(message, &self.connection))) {
                        Ok(Ok(())) => self.tally.received(1, message.len() as u64),
                        Ok(Err(_)) | Err(_) => self.rules.failed.handler_failed(),
                    }
                }
                other => return judge(other, at, self.rules.max_message_size),
            }
        }
    }

    fn in_batches(&self, bytes: &[u8], batch: &super::BatchHandler) -> std::result::Result<(usize, usize), Turn> {
        let mut at = 0;
        loop {
            let mut messages: [&[u8]; BATCH] = [&[]; BATCH];
            let mut count = 0;
            let mut last = Frame::Cut(None);
            while count < BATCH {
                last = frame::decode(&bytes[at..], self.rules.max_message_size);
                let Frame::Whole { start, end } = last else { break };
                messages[count] = &bytes[at + start..at + end];
                count += usize::from(start < end);
                at += end;
            }
            self.hand_out_batch(&messages[..count], batch)?;
            if !matches!(last, Frame::Whole { .. }) {
                return judge(last, at, self.rules.max_message_size);
            }
        }
    }

    fn hand_out_batch(&self, mut messages: &[&[u8]], batch: &super::BatchHandler) -> std::result::Result<(), Turn> {
        while !messages.is_empty() {
            self.check_forced()?;
            let handled = catch_unwind(AssertUnwindSafe(|| batch(messages, &self.connection))).unwrap_or(0);
            let (well, rest) = messages.split_at(handled.min(messages.len()));
            if !well.is_empty() {
                self.tally.received(well.len() as u64, well.iter().map(|message| message.len() as u64).sum());
            }
            let Some((_, behind)) = rest.split_first() else { break };
            self.rules.failed.handler_failed();
            messages = behind;
        }
        Ok(())
    }

    fn check_forced(&self) -> std::result::Result<(), Turn> {
        if self.rules.forced.load(Ordering::Relaxed) { Err(Turn::Cut(true)) } else { Ok(()) }
    }
}

/// What stands behind the last whole frame.
fn judge(last: Frame, at: usize, limit: u64) -> std::result::Result<(usize, usize), Turn> {
    match last {
        Frame::Cut(need) => Ok((at, need.unwrap_or(0))),
        Frame::TooLarge(size) => Err(Turn::Failed(Error::MessageTooLarge { size, limit }, Context::TooLarge)),
        Frame::Overflow => Err(Turn::Failed(Error::InvalidLengthPrefix, Context::Prefix)),
        Frame::Whole { .. } => Ok((at, 0)),
    }
}
