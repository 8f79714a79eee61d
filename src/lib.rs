//! The message pipe between processes of one machine.
//!
//! A [`Writer`] queues messages without ever blocking its caller and sends them, in batches, over a Unix domain socket: it
//! reconnects, retries, and drains when it is stopped. A [`Reader`] accepts many writers and hands each message to a
//! callback. Every message that a writer accepted ends in exactly one counter: sent, or abandoned.
//!
//! ```
//! use std::sync::mpsc;
//! use std::time::Duration;
//! use udsipc::{Reader, ReaderOptions, Writer, WriterOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! let path = directory.path().join("events.sock");
//!
//! let (messages, received) = mpsc::channel();
//! let on_message = move |message: &[u8], _: &udsipc::Connection<'_>| {
//!     messages.send(message.to_vec()).map_err(|_| udsipc::HandlerFailed)
//! };
//! let reader = Reader::new(&path, on_message, ReaderOptions::new())?;
//! reader.start()?;
//!
//! let writer = Writer::new(&path, WriterOptions::new())?;
//! writer.start()?;
//! writer.write(b"hello")?;
//! writer.stop(Duration::from_secs(5))?;
//! assert_eq!(received.recv_timeout(Duration::from_secs(5))?, b"hello");
//!
//! reader.stop(Duration::from_secs(5))?;
//! # Ok(())
//! # }
//! ```
//!
//! Both run in threads of their own after `start`, or without any in the host's event loop: watch `event_fd` and call
//! `dispatch` when it is readable.
//!
//! # On the wire
//!
//! Each frame is an unsigned LEB128 varint of the payload's length, and that many bytes. Nothing else, in either direction:
//! compatible with the Go library `github.com/Psiphon-Inc/uds-ipc`.
//!
//! # The house
//!
//! `ffi` (the C ABI) stands on `writer` and `reader`, they stand on the rooms beside them, and all on `sys`, the only one
//! that calls the operating system. Imports run one way; unsafe code is allowed in `ffi` and `sys` alone.

mod backoff;
mod error;
mod ffi;
mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
mod lifecycle;
mod metrics;
mod options;
mod path;
mod patience;
mod reader;
mod sync;
mod sys;
pub mod systemd;
mod writer;

pub use error::{Context, Error, ErrorHandler, Result};
pub use metrics::{ReaderMetrics, WriterMetrics};
pub use options::{ReaderOptions, WriterOptions};
pub use path::{cleanup_socket, ensure_socket_dir, max_socket_path_length, resolve_socket_path};
pub use reader::{Connection, Credentials, HandlerFailed, Reader};
pub use writer::{WriteManyError, Writer};

/// The Rust program of the README is compiled and run as it stands there.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
