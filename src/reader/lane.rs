//! What a thread works with while it serves a connection: one large buffer, and counters that nobody else writes.
//!
//! Lanes are lent last in, first out, so that the same warm memory is used again, and an idle connection holds none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::frame::READ_BUFFER;
use crate::patience::Patience;
use crate::sys::lock::Mutex;
use crate::sys::memory;

/// How often a thread looks whether more comes on a busy connection.
const LOOKS: u32 = 16;

/// What was received through one lane. One thread writes at a time, so an addition needs no locked instruction.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Tally {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    #[inline]
    pub(crate) fn received(&self, messages: u64, bytes: u64) {
        self.bytes.store(self.bytes.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
        self.messages.store(self.messages.load(Ordering::Relaxed) + messages, Ordering::Release);
    }
}

#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) buffer: Vec<u8>,
    /// The memory of the last frame that was too large for the buffer, for the next one: fresh memory costs a page fault
    /// every 4 KiB, as much as the copy into it.
    pub(crate) large: Vec<u8>,
    /// The memory of the last cut frame, for the next one.
    pub(crate) spare: Vec<u8>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) patience: Patience,
    /// The last turn began with much to read.
    pub(crate) much: bool,
    /// The connection that was served last, by its id; 0 if there was none.
    pub(crate) last: u64,
}

/// The lanes of one reader: as many as ever served at the same time.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    idle: Mutex<Vec<Lane>>,
    tallies: Mutex<Vec<Arc<Tally>>>,
}

impl Lanes {
    /// Lends a lane. Give it back with [`Lanes::put`].
    pub(crate) fn take(&self) -> Result<Lane> {
        let mut lane = match self.idle.lock().pop() {
            Some(lane) => lane,
            None => self.new_lane(),
        };
        if lane.buffer.is_empty() {
            let Some(buffer) = memory::zeroes(READ_BUFFER) else {
                self.put(lane);
                let source = std::io::ErrorKind::OutOfMemory.into();
                return Err(Error::NoResources { action: "memory for a read buffer".into(), source });
            };
            lane.buffer = buffer;
        }
        Ok(lane)
    }

    pub(crate) fn put(&self, lane: Lane) {
        self.idle.lock().push(lane);
    }

    fn new_lane(&self) -> Lane {
        let tally = Arc::<Tally>::default();
        self.tallies.lock().push(Arc::clone(&tally));
        let (buffer, large, spare) = Default::default();
        Lane { buffer, large, spare, tally, patience: Patience::new(LOOKS), much: false, last: 0 }
    }

    /// Gives the memory of idle lanes back, but that of the warmest.
    pub(crate) fn trim(&self) {
        let mut idle = self.idle.lock();
        let rest = idle.len().saturating_sub(1);
        for lane in &mut idle[..rest] {
            (lane.buffer, lane.large, lane.spare) = (Vec::new(), Vec::new(), Vec::new());
        }
    }

    /// Messages and payload bytes received through all lanes.
    pub(crate) fn received(&self) -> (u64, u64) {
        self.tallies.lock().iter().fold((0, 0), |(messages, bytes), tally| {
            (messages + tally.messages.load(Ordering::Acquire), bytes + tally.bytes.load(Ordering::Relaxed))
        })
    }
}
