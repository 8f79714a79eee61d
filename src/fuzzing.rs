//! Access to private modules for the fuzz targets of `fuzz/`. Compiled only under `--cfg fuzzing`, which cargo-fuzz sets; not a
//! part of the API.

use std::ffi::OsString;
use std::fmt;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::frame;
use crate::systemd::{self, Environment};

/// What the front of the received bytes holds, as [`frame::Frame`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// A whole frame: where its payload begins, and where both end.
    Whole(usize, usize),
    /// The beginning of a frame; its whole length with the prefix, once that is known.
    Cut(Option<usize>),
    /// A length above the limit.
    TooLarge(u64),
    /// A malformed prefix.
    Overflow,
}

/// Reads the frame at the front of `bytes`.
pub fn decode(bytes: &[u8], limit: u64) -> Frame {
    match frame::decode(bytes, limit) {
        frame::Frame::Whole { start, end } => Frame::Whole(start, end),
        frame::Frame::Cut(need) => Frame::Cut(need),
        frame::Frame::TooLarge(len) => Frame::TooLarge(len),
        frame::Frame::Overflow => Frame::Overflow,
    }
}

/// The shortest prefix of a payload of `len` bytes.
pub fn encode_prefix(len: usize) -> Vec<u8> {
    let mut out = [0; frame::MAX_PREFIX];
    let size = frame::encode_prefix(len, &mut out);
    out[..size].to_vec()
}

/// The variables of systemd as some process `pid` would find them.
#[derive(Debug)]
pub struct Systemd(Environment);

impl Systemd {
    /// Takes the variables from `get`.
    pub fn new(pid: u32, get: impl Fn(&str) -> Option<OsString>) -> Systemd {
        Systemd(Environment::new(pid, get))
    }

    /// See [`systemd::is_active`].
    pub fn is_active(&self) -> bool {
        self.0.is_active()
    }

    /// See [`systemd::runtime_dir`].
    pub fn runtime_dir(&self) -> Option<&Path> {
        self.0.runtime_dir()
    }

    /// See [`systemd::state_dir`].
    pub fn state_dir(&self) -> Option<&Path> {
        self.0.state_dir()
    }

    /// See [`crate::resolve_socket_path`].
    pub fn resolve(&self, path: &Path) -> PathBuf {
        self.0.resolve(path)
    }

    /// Where notifications go.
    pub fn notify_address(&self) -> Option<&Path> {
        self.0.notify_address()
    }

    /// See [`systemd::notify`].
    pub fn notify(&self, state: &str) -> Result<bool> {
        self.0.notify(state)
    }

    /// Takes over what was passed for a reader at `path`, from descriptor 3 on: the table of what is taken is the
    /// process's own.
    pub fn take_listener(
        &self,
        name: Option<&str>,
        path: &Path,
    ) -> Result<Option<(impl AsRawFd + fmt::Debug + use<>, PathBuf)>> {
        systemd::take_listener(&self.0, name, path)
    }
}
