//! A reader and a writer in tokio's event loop, without a thread of the library. Both ends are in one program here; usually each
//! is in a program of its own.
//!
//!     cargo run --example tokio

#![allow(clippy::print_stdout, unsafe_code)] // forbidden to the library, not to programs

use std::error::Error;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use udsipc::{EventSource, Reader, ReaderOptions, Writer, WriterOptions};

const MESSAGES: u64 = 100_000;

/// Drives a reader or a writer.
async fn drive(source: EventSource) -> std::io::Result<()> {
    // SAFETY: a source keeps its descriptor, the same one, open for as long as it lives.
    let source = unsafe { AsyncFd::register_with_interest(source, Interest::READABLE)? };
    loop {
        let mut readable = source.readable().await?;
        // tokio waits for edges, so it may wait only when there is nothing left to do.
        if !source.get_ref().dispatch(Duration::ZERO)? {
            readable.clear_ready();
        }
        // A busy source is always readable: the other tasks get their turn.
        tokio::task::yield_now().await;
    }
}

/// Queues messages, and waits for room when the queue is full.
async fn write_all(writer: &Writer) -> udsipc::Result<()> {
    for number in 0..MESSAGES {
        while let Err(error) = writer.write(&number.to_le_bytes()) {
            let udsipc::Error::BufferFull { .. } = error else { return Err(error) };
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("udsipc-tokio-{}.sock", std::process::id()));
    let (messages, mut received) = mpsc::unbounded_channel();
    let reader = Reader::new(&path, move |message, _| messages.send(message.to_vec()), ReaderOptions::new())?;
    tokio::spawn(drive(reader.event_source()?));
    let writer = Writer::new(&path, WriterOptions::new())?;
    tokio::spawn(drive(writer.event_source()?));

    let receive_all = async {
        for number in 0..MESSAGES {
            let message = received.recv().await.ok_or("the reader has gone")?;
            assert_eq!(message, number.to_le_bytes(), "in order, each once");
        }
        Ok::<(), Box<dyn Error>>(())
    };
    let write_all = async { Ok(write_all(&writer).await?) };
    tokio::try_join!(receive_all, write_all)?;
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    println!("{} messages, {threads} thread", reader.metrics().received);
    // All has been handled, so neither of these has to wait for the other side, which could not run meanwhile.
    writer.stop(Duration::from_secs(5))?;
    reader.stop(Duration::from_secs(5))?;
    Ok(())
}
