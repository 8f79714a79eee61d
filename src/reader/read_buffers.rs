//! What a turn reads into: one large buffer, and counters that nobody else writes.
//!
//! Buffers are lent last in, first out, so that the same warm memory is used again, and an idle connection holds none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::adaptive_spin::AdaptiveSpin;
use crate::error::{Error, Result};
use crate::frame::READ_BUFFER;
use crate::sys::lock::Mutex;
use crate::sys::memory;

use super::budget::Pace;

/// How often a turn polls for more on a busy connection.
const MAX_POLLS: u32 = 16;

/// What was received with one buffer. One thread writes at a time, so an addition needs no locked instruction.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Tally {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    #[inline]
    pub(super) fn received(&self, messages: u64, bytes: u64) {
        self.bytes.store(self.bytes.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
        self.messages.store(self.messages.load(Ordering::Relaxed) + messages, Ordering::Release);
    }
}

/// What one turn at a time works with, and what was learnt in the turns before.
#[derive(Debug)]
pub(super) struct ReadBuffer {
    pub(super) memory: TurnMemory,
    pub(super) tally: Arc<Tally>,
    pub(super) spin: AdaptiveSpin,
    pub(super) pace: Pace,
    /// The id of the connection that was served last; 0 if there was none.
    pub(super) last_connection: u64,
}

/// Memory for one turn at a time.
#[derive(Debug, Default)]
pub(super) struct TurnMemory {
    pub(super) buffer: Vec<u8>,
    /// The memory of the last frame that was too large for the buffer, for the next one: fresh memory costs a page
    /// fault every 4 KiB, as much as the copy into it.
    pub(super) large: Vec<u8>,
    /// The memory of the last cut frame, for the next one.
    pub(super) spare: Vec<u8>,
    /// The last turn began with much to read.
    pub(super) burst: bool,
}

/// The buffers of one reader: as many as turns ever ran at the same time.
#[derive(Debug, Default)]
pub(super) struct ReadBuffers {
    idle: Mutex<Vec<ReadBuffer>>,
    tallies: Mutex<Vec<Arc<Tally>>>,
}

impl ReadBuffers {
    /// Lends a buffer. Give it back with [`ReadBuffers::put`].
    pub(super) fn take(&self) -> Result<ReadBuffer> {
        let idle = self.idle.lock().pop();
        let mut lent = idle.unwrap_or_else(|| self.new_buffer());
        if lent.memory.buffer.is_empty() {
            let Some(buffer) = memory::zeroes(READ_BUFFER) else {
                self.put(lent);
                let source = std::io::ErrorKind::OutOfMemory.into();
                return Err(Error::NoResources { action: "memory for a read buffer".into(), source });
            };
            lent.memory.buffer = buffer;
        }
        Ok(lent)
    }

    pub(super) fn put(&self, buffer: ReadBuffer) {
        self.idle.lock().push(buffer);
    }

    fn new_buffer(&self) -> ReadBuffer {
        let tally = Arc::<Tally>::default();
        self.tallies.lock().push(Arc::clone(&tally));
        ReadBuffer {
            memory: TurnMemory::default(),
            tally,
            spin: AdaptiveSpin::new(MAX_POLLS),
            pace: Pace::default(),
            last_connection: 0,
        }
    }

    /// Frees the memory of idle buffers, but that of the warmest.
    pub(super) fn trim(&self) {
        let mut idle = self.idle.lock();
        let rest = idle.len().saturating_sub(1);
        for buffer in &mut idle[..rest] {
            buffer.memory = TurnMemory::default();
        }
    }

    /// Messages and payload bytes received with all buffers.
    pub(super) fn received(&self) -> (u64, u64) {
        self.tallies.lock().iter().fold((0, 0), |(messages, bytes), tally| {
            (messages + tally.messages.load(Ordering::Acquire), bytes + tally.bytes.load(Ordering::Relaxed))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_that_came_back_last_is_lent_first_and_none_is_made_without_need() {
        let buffers = ReadBuffers::default();
        let (one, two) = (buffers.take().expect("memory"), buffers.take().expect("memory"));
        assert_eq!((one.memory.buffer.len(), two.memory.buffer.len()), (READ_BUFFER, READ_BUFFER));
        let (first, last) = (one.memory.buffer.as_ptr(), two.memory.buffer.as_ptr());
        buffers.put(one);
        buffers.put(two);
        assert_eq!(buffers.take().expect("memory").memory.buffer.as_ptr(), last);
        assert_eq!(buffers.take().expect("memory").memory.buffer.as_ptr(), first);
        assert_eq!(buffers.tallies.lock().len(), 2);
    }

    #[test]
    fn trimming_keeps_one_warm_buffer_and_every_count() {
        let buffers = ReadBuffers::default();
        let lent: Vec<_> = (0..3).map(|_| buffers.take().expect("memory")).collect();
        lent.iter().for_each(|buffer| buffer.tally.received(2, 10));
        lent.into_iter().for_each(|buffer| buffers.put(buffer));
        buffers.trim();
        let held: Vec<usize> = buffers.idle.lock().iter().map(|buffer| buffer.memory.buffer.capacity()).collect();
        assert_eq!(held, [0, 0, READ_BUFFER]);
        assert_eq!(buffers.received(), (6, 30));
        let again: Vec<_> = (0..3).map(|_| buffers.take().expect("memory")).collect();
        assert!(again.iter().all(|buffer| buffer.memory.buffer.len() == READ_BUFFER));
    }
}
