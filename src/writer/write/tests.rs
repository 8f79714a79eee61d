//! The writing calls as a whole. What the queue itself promises is tested in `queue::tests`.

use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::options::WriterOptions;

const PATIENCE: Duration = Duration::from_secs(20);

fn writer_with(options: WriterOptions) -> Writer {
    Writer::new("@nobody listens here", options).expect("a writer")
}

/// Runs `body` in a thread; a deadlock fails the test.
fn in_time(body: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = thread::spawn(move || {
        body();
        let _ = done.send(());
    });
    if wait.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("a deadlock");
    }
    thread.join().expect("no panic");
}

/// What `write_messages` runs of its caller's holds no lock of the writer.
#[test]
fn an_iterator_may_call_the_writer() {
    in_time(|| {
        let writer = writer_with(WriterOptions::new());
        let messages = (0..100_u64).map(|index| {
            let depth = writer.metrics().queue_depth;
            writer.write(b"in between").expect("room");
            assert_eq!(writer.metrics().queue_depth, depth + 1);
            assert!(depth >= index, "in chunks, and never lost");
            &b"one of many"[..]
        });
        assert_eq!(writer.write_messages(messages).expect("room"), 100);
        assert_eq!(writer.metrics().queue_depth, 200);
        let stops = std::iter::once_with(|| {
            let _ = writer.stop(Duration::ZERO);
            &b"too late"[..]
        });
        let refused = writer.write_messages(stops).expect_err("stopped by its own iterator");
        assert!(matches!(refused, WriteMessagesError { accepted: 0, error: Error::Stopped }), "{refused:?}");
    });
}

/// The session is woken for what was taken, and everything goes on.
#[test]
fn a_panic_in_the_iterator_loses_nothing_that_was_taken() {
    /// Of 80 messages: whole chunks.
    const TAKEN: usize = FIRST_CHUNK + CHUNK;
    in_time(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).expect("a listener");
        let writer = Writer::new(&path, WriterOptions::new()).expect("a writer");
        writer.start().expect("a thread");
        let (mut peer, _) = listener.accept().expect("the writer's connection");
        peer.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        // It sleeps now, or will in a moment: a flush waits for that.
        writer.flush(PATIENCE).expect("nothing to send");
        for _ in 0..10 {
            let messages = (0..100).map(|index| {
                assert!(index < 80, "deliberate");
                &b"m"[..]
            });
            let panicked = catch_unwind(AssertUnwindSafe(|| writer.write_messages(messages)));
            assert!(panicked.is_err());
            let mut frames = [0; 2 * TAKEN];
            peer.read_exact(&mut frames).expect("what was taken before the panic");
            assert_eq!(frames, *b"\x01m".repeat(TAKEN));
        }
        writer.flush(PATIENCE).expect("all of it has been read");
        assert_eq!(writer.metrics().sent, 10 * TAKEN as u64);
        writer.write(b"n").expect("room");
        let mut frame = [0; 2];
        peer.read_exact(&mut frame).expect("the next message");
        assert_eq!(frame, *b"\x01n");
    });
}

#[test]
fn many_stop_at_the_first_that_is_refused() {
    const LIMIT: usize = 40_000;
    let writer = writer_with(WriterOptions::new().max_buffered_writes(100).max_message_size(LIMIT as u64));
    let (large, too_large) = ([1; LIMIT], [1; LIMIT + 1]);
    let messages = std::iter::repeat_n(&b"m"[..], 70).chain([&b""[..], &large, &too_large, b"never asked for"]);
    let refused = writer.write_messages(messages).expect_err("one is too large");
    assert!(matches!(refused, WriteMessagesError { accepted: 72, error: Error::MessageTooLarge { size: 40_001, .. } }));
    let refused = writer.write_messages(std::iter::repeat_n(&b"m"[..], 70)).expect_err("room for 29");
    assert!(matches!(refused, WriteMessagesError { accepted: 29, error: Error::BufferFull { messages: 100, .. } }));
    let metrics = writer.metrics();
    assert_eq!((metrics.queue_depth, metrics.queue_bytes, metrics.dropped), (100, 99 + LIMIT as u64, 1));
    let _ = writer.stop(Duration::ZERO);
    assert_eq!(writer.write_messages([]).expect("nothing to refuse"), 0);
    let refused = writer.write_messages([&b""[..]]).expect_err("stopped");
    assert!(matches!(refused, WriteMessagesError { accepted: 0, error: Error::Stopped }));
}

#[test]
fn a_refusal_is_one_drop_whichever_call_it_answers() {
    let writer = writer_with(WriterOptions::new().max_buffered_writes(1));
    writer.write(b"m").expect("room");
    assert!(matches!(writer.write(b"m"), Err(Error::BufferFull { .. })));
    assert!(matches!(writer.write_timeout(b"m", Duration::ZERO), Err(Error::BufferFull { .. })));
    assert!(matches!(writer.write_timeout(b"m", Duration::from_millis(20)), Err(Error::Timeout(_))));
    assert_eq!(writer.write_messages([&b"m"[..]]).expect_err("full").accepted, 0);
    assert!(writer.write(&[0; 100_000]).is_err());
    assert_eq!(writer.metrics().dropped, 5);
    let _ = writer.stop(Duration::ZERO);
    assert!(matches!(writer.write_timeout(b"m", Duration::from_secs(60)), Err(Error::Stopped)));
    assert!(matches!(writer.write_timeout(b"", Duration::from_secs(60)), Err(Error::Stopped)));
    assert_eq!(writer.metrics().dropped, 5, "a stopped writer drops nothing");
}
