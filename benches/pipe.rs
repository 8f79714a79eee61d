//! The cost of a message inside one process, by size. To see the effect of a change. `make bench-peers` compares with other
//! libraries, and the test `cost` limits what can be counted exactly.
//!
//! - `encode`: `write` into a queue that the same thread empties between the measurements: prefix, copy, account.
//! - `decode`: `dispatch` of a reader whose socket is full of frames: receive, prefix and callback.
//! - `enqueue`: `write` while the writer's thread sends and a reader receives, with room in the queue.
//! - `end to end`: from the first `write` to the last callback.

#![allow(missing_docs)] // criterion_group! makes a function without a comment

use std::hint::black_box;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use udsipc::{Error, EventSource, Peer, Reader, ReaderOptions, Writer, WriterOptions};

const SIZES: [usize; 6] = [16, 100, 1 << 10, 10 << 10, 100 << 10, 1 << 20];

/// A larger queue does not fit into the processor's cache.
const QUEUE_BYTES: u64 = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(20);

fn name_of(size: usize) -> String {
    match size {
        0..1_024 => format!("{size} B"),
        1_024..1_048_576 => format!("{} KiB", size >> 10),
        _ => format!("{} MiB", size >> 20),
    }
}

/// Messages of this size that fill about half the queue.
fn half_a_queue(size: usize) -> u64 {
    (QUEUE_BYTES / 2 / size as u64).clamp(1, 5_000)
}

fn writer_options() -> WriterOptions {
    WriterOptions::new().max_buffered_writes(1 << 14).max_buffered_bytes(QUEUE_BYTES)
}

fn reader(path: &Path) -> (Reader, Arc<AtomicU64>) {
    let received = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&received);
    let on_message = move |message: &[u8], _: &Peer<'_>| {
        black_box(message);
        // There is one connection, so only one thread writes at a time.
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Release);
    };
    (Reader::new(path, on_message, ReaderOptions::new()).expect("a reader"), received)
}

fn await_count(received: &AtomicU64, count: u64) {
    let deadline = Instant::now() + PATIENCE;
    while received.load(Ordering::Acquire) < count {
        assert!(Instant::now() < deadline, "the reader got {received:?} of {count} messages");
        std::thread::yield_now();
    }
}

/// The bytes of this many frames.
fn framed(size: usize, messages: u64) -> u64 {
    let prefix = (usize::BITS - size.leading_zeros()).div_ceil(7);
    (size as u64 + u64::from(prefix)) * messages
}

/// Drives the writer, and reads `bytes` from its connection.
fn drain(writer: &EventSource, peer: &mut UnixStream, mut bytes: u64, buffer: &mut [u8]) {
    while bytes > 0 {
        writer.dispatch(Duration::ZERO).expect("dispatched");
        match peer.read(buffer) {
            Ok(got) => bytes -= got as u64,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn encode(criterion: &mut Criterion) {
    by_size(criterion, "encode", |group, size| {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("s")).expect("a listener");
        let writer = Writer::new(folder.path().join("s"), writer_options()).expect("a writer");
        let source = writer.event_source().expect("descriptors");
        source.dispatch(Duration::ZERO).expect("connected");
        let (mut peer, _) = listener.accept().expect("the writer's connection");
        peer.set_nonblocking(true).expect("not blocking");
        let (message, mut buffer) = (vec![7; size], vec![0; 256 << 10]);
        group.bench_function(name_of(size), |bencher| {
            bencher.iter_custom(|count| {
                let mut elapsed = Duration::ZERO;
                let mut left = count;
                while left > 0 {
                    let part = left.min(half_a_queue(size));
                    let begin = Instant::now();
                    for _ in 0..part {
                        writer.write(black_box(&message)).expect("room");
                    }
                    elapsed += begin.elapsed();
                    drain(&source, &mut peer, framed(size, part), &mut buffer);
                    left -= part;
                }
                elapsed
            });
        });
    });
}

/// As many frames as fit into the kernel's buffer, and their number.
fn frames(size: usize) -> (Vec<u8>, u64) {
    const HELD_BY_THE_KERNEL: usize = 128 << 10;
    let mut frame = Vec::new();
    let mut rest = size;
    while rest > 0x7f {
        frame.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    frame.push(rest as u8);
    frame.resize(frame.len() + size, 7);
    let count = (HELD_BY_THE_KERNEL / frame.len()).clamp(1, 1_000);
    (frame.repeat(count), count as u64)
}

fn decode(criterion: &mut Criterion) {
    by_size(criterion, "decode", |group, size| {
        let (frames, messages) = frames(size);
        if frames.len() > 150 << 10 {
            return; // one frame does not fit: one thread cannot fill the socket and then empty it
        }
        let folder = tempfile::tempdir().expect("a folder");
        let (reader, received) = reader(&folder.path().join("s"));
        let source = reader.event_source().expect("not forked");
        let mut peer = UnixStream::connect(reader.socket_path()).expect("a connection");
        group.bench_function(name_of(size), |bencher| {
            bencher.iter_custom(|count| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..count.div_ceil(messages) {
                    peer.write_all(&frames).expect("written");
                    let goal = received.load(Ordering::Acquire) + messages;
                    let begin = Instant::now();
                    while received.load(Ordering::Acquire) < goal {
                        source.dispatch(PATIENCE).expect("dispatched");
                    }
                    elapsed += begin.elapsed();
                }
                elapsed.mul_f64(count as f64 / (count.div_ceil(messages) * messages) as f64)
            });
        });
    });
}

fn enqueue(criterion: &mut Criterion) {
    by_size(criterion, "enqueue", |group, size| {
        let folder = tempfile::tempdir().expect("a folder");
        let (reader, _) = reader(&folder.path().join("s"));
        reader.start().expect("started");
        let writer = Writer::new(reader.socket_path(), writer_options()).expect("a writer");
        writer.start().expect("started");
        let message = vec![7; size];
        group.bench_function(name_of(size), |bencher| {
            bencher.iter_custom(|count| {
                let mut elapsed = Duration::ZERO;
                let mut left = count;
                while left > 0 {
                    let part = left.min(half_a_queue(size));
                    let begin = Instant::now();
                    for _ in 0..part {
                        writer.write(black_box(&message)).expect("room");
                    }
                    elapsed += begin.elapsed();
                    writer.flush(PATIENCE).expect("flushed");
                    left -= part;
                }
                elapsed
            });
        });
    });
}

fn end_to_end(criterion: &mut Criterion) {
    by_size(criterion, "end to end", |group, size| {
        let folder = tempfile::tempdir().expect("a folder");
        let (reader, received) = reader(&folder.path().join("s"));
        reader.start().expect("started");
        let writer = Writer::new(reader.socket_path(), writer_options()).expect("a writer");
        writer.start().expect("started");
        let message = vec![7; size];
        group.bench_function(name_of(size), |bencher| {
            bencher.iter_custom(|count| {
                let goal = received.load(Ordering::Acquire) + count;
                let begin = Instant::now();
                for _ in 0..count {
                    match writer.write(black_box(&message)) {
                        Ok(()) => {}
                        Err(Error::BufferFull { .. }) => writer.write_timeout(&message, PATIENCE).expect("room"),
                        Err(error) => panic!("{error}"),
                    }
                }
                await_count(&received, goal);
                begin.elapsed()
            });
        });
    });
}

fn by_size(criterion: &mut Criterion, name: &str, bench: impl Fn(&mut BenchmarkGroup<'_, WallTime>, usize)) {
    let mut group = criterion.benchmark_group(name);
    for size in SIZES {
        group.throughput(Throughput::Bytes(size as u64));
        bench(&mut group, size);
    }
    group.finish();
}

criterion_group! {
    name = benches;
    // Four groups of six sizes in less than two minutes.
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(1_500))
        .sample_size(20);
    targets = encode, decode, enqueue, end_to_end
}
criterion_main!(benches);
