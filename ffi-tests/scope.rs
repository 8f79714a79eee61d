//! What becomes of messages when a Rust program drops its handles without a word.

#![allow(clippy::unwrap_used)]

use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use udsipc::{Context, Error, Peer, Reader, ReaderOptions, Writer, WriterOptions};

mod support;

use support::{PATIENCE, tempdir, wait_until};

/// A reader that counts, and takes its time for each message.
fn counting_reader(path: &std::path::Path, each: Duration) -> (Reader, Arc<AtomicUsize>) {
    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    let on_message = move |_: &[u8], _: &Peer<'_>| {
        // The first ones only: a thousand sleeps take seconds on a busy machine, and a drop has one.
        if count.load(Ordering::SeqCst) < 20 {
            std::thread::sleep(each);
        }
        count.fetch_add(1, Ordering::SeqCst);
    };
    let reader = Reader::new(path, on_message, ReaderOptions::new()).unwrap();
    reader.start().unwrap();
    (reader, received)
}

fn write_a_thousand(writer: &Writer) {
    writer.start().unwrap();
    for number in 0..1000 {
        writer.write(format!("{number}").as_bytes()).unwrap();
    }
}

#[test]
fn a_dropped_writer_delivers_a_thousand_writes() {
    let folder = tempdir();
    let path = folder.path().join("s");
    let (_reader, received) = counting_reader(&path, Duration::ZERO);
    for round in 1..=10 {
        write_a_thousand(&Writer::new(&path, WriterOptions::new()).unwrap());
        wait_until(PATIENCE, "all has arrived", || received.load(Ordering::SeqCst) == 1000 * round);
    }
}

#[test]
fn a_dropped_reader_receives_what_was_sent() {
    let folder = tempdir();
    let path = folder.path().join("s");
    let (reader, received) = counting_reader(&path, Duration::from_millis(1));
    let writer = Writer::new(&path, WriterOptions::new()).unwrap();
    write_a_thousand(&writer);
    wait_until(PATIENCE, "all is sent", || writer.metrics().sent == 1000);
    drop(reader);
    assert_eq!(received.load(Ordering::SeqCst), 1000);
}

/// What cannot be delivered is told, and the time is kept.
#[test]
fn a_dropped_writer_that_cannot_deliver_keeps_its_time_and_is_loud() {
    let folder = tempdir();
    let path = folder.path().join("s");
    let _reads_nothing = UnixListener::bind(&path).unwrap();
    for (linger, starts, least, most) in [(300, true, 290, 500), (0, true, 0, 100), (300, false, 0, 100)] {
        let taken = (0..5).map(|_| {
            let told = Arc::new(Mutex::new(Vec::new()));
            let report = Arc::clone(&told);
            let options = WriterOptions::new()
                .linger(Duration::from_millis(linger))
                .on_error(move |error, context| report.lock().unwrap().push((context, error.to_string())));
            let writer = Writer::new(&path, options).unwrap();
            if starts {
                writer.start().unwrap();
            }
            for _ in 0..40 {
                writer.write(&[0; 100_000]).unwrap();
            }
            let begun = Instant::now();
            drop(writer);
            let taken = begun.elapsed();
            let told = told.lock().unwrap();
            assert_eq!(told.iter().filter(|(context, _)| *context == Context::Drain).count(), 1, "{told:?}");
            taken
        });
        let best = taken.min().unwrap();
        assert!((least..most).contains(&best.as_millis()), "{linger} ms, started: {starts}: {best:?}");
    }
}

#[test]
fn a_writer_dropped_inside_its_own_callback_waits_for_nothing() {
    let folder = tempdir();
    let slot = Arc::new(Mutex::new(None::<Writer>));
    let dropped_in = Arc::new(Mutex::new(None));
    let (inside, time) = (Arc::clone(&slot), Arc::clone(&dropped_in));
    let on_error = move |_: &Error, _| {
        let Some(writer) = inside.lock().unwrap().take() else { return };
        let begun = Instant::now();
        drop(writer);
        *time.lock().unwrap() = Some(begun.elapsed());
    };
    let options = WriterOptions::new().linger(PATIENCE).drain_until_deadline(true).on_error(on_error);
    let writer = Writer::new(folder.path().join("nobody"), options).unwrap();
    writer.write(b"m").unwrap();
    let mut held = slot.lock().unwrap();
    writer.start().unwrap();
    *held = Some(writer);
    drop(held);
    wait_until(PATIENCE, "the writer is dropped", || dropped_in.lock().unwrap().is_some());
    assert!(dropped_in.lock().unwrap().unwrap() < Duration::from_secs(5));
}
