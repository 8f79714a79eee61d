//! Batches: whole frames one behind the other.

use std::collections::TryReserveError;
use std::ops::{Deref, DerefMut};

use crate::frame;
use crate::sys::cache;

use super::account::Count;

/// How much a batch gathers: two of the kernel's largest buffers of a stream socket (`SKB_MAX_HEAD(0) + 32 KiB`).
pub(super) const BATCH: usize = 64 << 10;

/// The memory of a batch was last read by the sender, on another processor: messages up to this size ask for it in good
/// time, this far ahead. That is two fifths more of them a second at 100 B. Longer ones gain nothing: their own stores
/// overlap.
const SMALL: usize = 512;
const AHEAD: usize = 512;

/// Whole frames, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Frames {
    pub(super) bytes: Vec<u8>,
    /// How many frames.
    pub(super) messages: u64,
    /// How many bytes of payload.
    pub(super) payload: u64,
    /// What of it has been counted as sent or abandoned: frames at the front.
    pub(super) counted: Count,
    /// What of it is over, and not sent again: bytes, and messages, at the front.
    pub(super) released: BatchOffset,
}

/// A part of a batch, from its front to the end of a frame.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchOffset {
    pub(super) bytes: usize,
    pub(super) messages: u64,
}

impl Frames {
    #[inline(always)]
    pub(super) fn append(&mut self, message: &[u8]) {
        // Most prefixes have one byte, nearly all have two: pieces of a known size cost no call.
        match message.len() {
            len @ 0..0x80 => self.bytes.push(len as u8),
            len @ 0x80..0x4000 => self.bytes.extend_from_slice(&[len as u8 | 0x80, (len >> 7) as u8]),
            len => self.append_long_prefix(len),
        }
        self.bytes.extend_from_slice(message);
        if message.len() <= SMALL {
            cache::fetch_for_writing(&self.bytes, AHEAD, message.len());
        }
    }

    #[cold]
    fn append_long_prefix(&mut self, len: usize) {
        let mut prefix = [0; frame::MAX_PREFIX];
        let size = frame::encode_prefix(len, &mut prefix);
        self.bytes.extend_from_slice(&prefix[..size]);
    }

    /// Whether a message of `len` bytes fits behind the others, whatever its prefix.
    pub(super) fn fits(&self, len: usize) -> bool {
        self.bytes.capacity() - self.bytes.len() >= len + frame::MAX_PREFIX
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.messages = 0;
        self.payload = 0;
        self.counted = Count::default();
        self.released = BatchOffset::default();
    }
}

/// Frames in a box that was allocated with a way to fail: `Box::new` would end the host's process. A queue moves one word
/// for each.
#[derive(Debug)]
pub(super) struct Batch(Box<[Frames; 1]>);

impl Batch {
    pub(super) fn with_capacity(bytes: usize) -> Result<Batch, TryReserveError> {
        let mut frames = Frames::default();
        frames.bytes.try_reserve_exact(bytes)?;
        let mut one = Vec::new();
        one.try_reserve_exact(1)?;
        one.push(frames);
        match one.into_boxed_slice().try_into() {
            Ok(boxed) => Ok(Batch(boxed)),
            Err(_) => unreachable!("the slice has one element"),
        }
    }
}

impl Deref for Batch {
    type Target = Frames;
    fn deref(&self) -> &Frames {
        &self.0[0]
    }
}

impl DerefMut for Batch {
    fn deref_mut(&mut self) -> &mut Frames {
        &mut self.0[0]
    }
}
