//! The message pipe between processes of one machine.
//!
//! A [`Writer`] queues messages without ever blocking its caller and sends them, in batches, over a Unix domain socket: it
//! reconnects, retries, and drains when it is stopped. A [`Reader`] accepts many writers and hands each message to a
//! callback. Every message that a writer has accepted ends in exactly one counter: sent, or abandoned. A writer and a reader of
//! this library lose nothing when the reader is killed: what it had not handled is sent again ([`Acknowledge`]).
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
//! let reader = Reader::new(&path, move |message, _| messages.send(message.to_vec()), ReaderOptions::new())?;
//! reader.start()?;
//!
//! let writer = Writer::new(&path, WriterOptions::new().max_attempts(3))?;
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
//! After `start` both run on threads of the library. In its place an event loop of the program can drive them, such as
//! tokio's: see [`EventSource`].
//!
//! # On the wire
//!
//! Each frame is the payload's length as an unsigned LEB128 varint, followed by the payload: compatible with the Go library
//! `github.com/Psiphon-Inc/uds-ipc`. A writer that asks for acknowledgement binds its socket to an abstract address that names
//! it (`delivery::name`). To such a writer alone a reader sends records (`delivery::record`): one when it accepts the connection, with
//! the descriptor of its ledger, and one before it closes the connection.
//!
//! # Architecture
//!
//! **Rooms.** Each line imports from the lines below it only. Unsafe code is allowed in `ffi` and `sys` alone.
//!
//! ```text
//! ffi                    the C ABI: pointers, panics, status numbers
//! writer    reader       what a caller holds; they do not know each other
//! executor               few threads for many writers: run queue, poller, timers
//! claim path systemd     where a reader listens
//! event_source lifecycle options error metrics frame delivery backoff adaptive_spin sync
//! sys                    the only room that calls the operating system
//! ```
//!
//! An item that another room uses is `pub(crate)`, any other one `pub(super)`; `pub(in crate::writer)` where a file below
//! `writer/session` serves the whole room.
//!
//! **A message on its way out.**
//!
//! 1. `Writer::write` copies it into the open batch of `writer::queue`, under the queue's lock. A large message is copied into a
//!    batch of its own first, without the lock.
//! 2. If the session sleeps, the caller sends the message itself if it can, or else wakes the thread that drives the writer.
//! 3. `writer::driver` locks the session and steps it. The session (`writer::session`) is a state machine without I/O, threads or
//!    a clock: it takes batches from the queue and sends them through its `Transport`, the socket.
//! 4. `writer::write_cursor` finds the frames that the kernel has taken whole; the queue's account counts them as `sent`.
//!    `writer::in_flight` keeps which of them the reader may not have read. If the reader acknowledges, the cursor keeps the
//!    frames themselves until they are handled (`writer::session::acknowledge`). `writer::records` receives what the reader says
//!    and reads its ledger; at the end of a connection `writer::session::closing` decides what the next one sends again.
//! 5. A busy connection asks its reader for a ring (`sys::ring`, memory that both map; `writer::session::ring`). From then on `write`
//!    stores messages in it (`writer::ring`), under the queue's lock, without the session, which has a part only while the ring is
//!    full or ends. What lies there counts as sent, and is what may have to be sent again.
//! 6. A step ends with what the session waits for, and the driver arms that: an event of the socket, a time, a dial
//!    (`writer::dialer`, when `writer::redial` says), a directory in which the reader's socket may appear (`writer::path_watch`).
//!    It delivers the step's reports to the error callback, when no lock is held.
//!
//! **A message on its way in.**
//!
//! 1. `reader::event_loop` passes an event of the poller to its owner: `acceptor`, `listener`, or a `connection`.
//! 2. A connection's turn peeks into a buffer of the serving thread. `frame_reader` finds whole frames in place, and gathers a
//!    large or cut frame in memory of its own.
//! 3. `deliver` calls the callback for the frames, and `budget` ends the turn in time. For a writer that asks for
//!    acknowledgement, `account` stores around each callback how far the connection is handled, in its slot of the `ledger`
//!    (`sys::ledger`, a sealed memfd), which the writer can read even after the reader's death.
//! 4. Only then the last bytes are taken off the socket: if the reader dies before, the kernel reports that to the writer.
//! 5. A busy writer asks for a `ring`: memory that the reader makes and both map (`sys::ring`). Then its frames are read there
//!    (`connection::ring_turn`), and the socket only wakes the reader.
//! 6. The connection is armed again, for any thread. `drain` is the stop of all this.
//!
//! **Threads.** Started writers share the executor's threads: one; with a second writer another one in reserve; up to the number
//! of processors while there is work; and one more for each that blocks. A started reader has a pool of its own
//! (`reader::worker_pool`): one thread that waits, and one for each callback that runs. A handle in a host's event loop has
//! none: calls of the host do the work.
//!
//! **Locks**, outermost first. No callback, connect or file system call runs under any of the writer's or the executor's.
//!
//! - Writer: the session's; then the lifecycle's; then one of: the queue's (`open`, then `sealed`), the reports', those of the
//!   executor, the poller's timer.
//! - Executor: `CURRENT`, then the run queue's. A start of a handle holds the handle's lifecycle around both.
//! - Reader: the list in `reader::event_loop`. The callbacks of a connection run under the lock of its turn.
//! - A `static` lock (`CURRENT` of `writer::shared_watch`, then that of the executor; the batch pool) is taken while fork(2) is
//!   held off, or only tried: a forked child must not wait for a thread of its parent. The list of descriptors taken from
//!   systemd is locked in the process that systemd has started, and never in its children.

mod adaptive_spin;
mod backoff;
mod claim;
mod delivery;
mod error;
mod event_source;
mod executor;
mod ffi;
mod frame;
#[cfg(fuzzing)]
pub mod fuzzing;
mod lifecycle;
mod metrics;
mod options;
mod path;
mod reader;
mod sync;
mod sys;
pub mod systemd;
mod writer;

pub use claim::{cleanup_socket, ensure_socket_dir};
pub use error::{Context, Error, Result};
pub use event_source::EventSource;
pub use metrics::{ReaderMetrics, WriterMetrics};
pub use options::{Acknowledge, ReaderOptions, WriterOptions};
pub use path::{max_socket_path_length, resolve_socket_path};
pub use reader::{Credentials, HandlerResult, Peer, Reader};
pub use writer::{WriteMessagesError, Writer};

/// The Rust program of the README is compiled and run as it stands there.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
