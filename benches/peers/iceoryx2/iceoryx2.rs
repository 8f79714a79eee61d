//! iceoryx2, publish-subscribe of slices: a peer of the side-by-side bench, linked with bench.c like those in C.
//!
//! Its own event would be a system call for each message, so the receiver polls without a pause once the first message is
//! there, and keeps its processor busy. The publisher writes each message into memory that it loans, and waits while the
//! buffer of the subscriber is full: nothing is lost.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_uint};
use std::time::Duration;

use iceoryx2::node::Node;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;

/// How `struct config` of bench.h begins.
#[repr(C)]
pub struct Config {
    path: *const c_char,
    mode: c_int,
    size: usize,
    count: u64,
    connections: c_uint,
    threads: c_uint,
    queue: u32,
}

unsafe extern "C" {
    fn bench_received(data: *const u8, len: usize);
    safe fn bench_is_complete() -> bool;
    safe fn bench_at_end(leave: extern "C" fn());
}

/// A port, and what must live as long.
struct Side<Port> {
    port: Port,
    _node: Node<ipc::Service>,
}

type Receiver = Side<Subscriber<ipc::Service, [u8], ()>>;
type Sender = Side<Publisher<ipc::Service, [u8], ()>>;

// This peer has one thread on each side.
thread_local! {
    static RECEIVER: RefCell<Option<Receiver>> = const { RefCell::new(None) };
    static SENDER: RefCell<Option<Sender>> = const { RefCell::new(None) };
}

#[unsafe(no_mangle)]
pub static peer_shares_connection: bool = false;
#[unsafe(no_mangle)]
pub static peer_has_messages: bool = true;

fn open(config: &Config) -> (Node<ipc::Service>, PortFactory<ipc::Service, [u8], ()>) {
    set_log_level(LogLevel::Error);
    // SAFETY: bench.c passes a string that lives as long as the program.
    let path = unsafe { CStr::from_ptr(config.path) }.to_str().expect("the path is text");
    let node = NodeBuilder::new().create::<ipc::Service>().expect("a node");
    let service = node
        .service_builder(&path.try_into().expect("the path is short enough for a name"))
        .publish_subscribe::<[u8]>()
        .enable_safe_overflow(false)
        .history_size(0)
        .subscriber_max_buffer_size(config.queue as usize)
        .max_publishers(1)
        .max_subscribers(1)
        .open_or_create()
        .expect("a service");
    (node, service)
}

extern "C" fn leave() {
    RECEIVER.take();
    SENDER.take();
}

#[unsafe(no_mangle)]
pub extern "C" fn peer_listen(config: &Config) {
    let (node, service) = open(config);
    let port = service.subscriber_builder().create().expect("a subscriber");
    RECEIVER.set(Some(Side { port, _node: node }));
    bench_at_end(leave);
}

#[unsafe(no_mangle)]
pub extern "C" fn peer_receive() {
    RECEIVER.with_borrow(|receiver| {
        let subscriber = &receiver.as_ref().expect("peer_listen comes first").port;
        while !subscriber.has_samples().expect("a look at the buffer") {
            std::thread::sleep(Duration::from_millis(1));
        }
        while !bench_is_complete() {
            match subscriber.receive().expect("a sample, or none") {
                // SAFETY: the payload is readable until the sample is dropped.
                Some(sample) => unsafe { bench_received(sample.payload().as_ptr(), sample.payload().len()) },
                None => std::hint::spin_loop(),
            }
        }
    });
}

#[unsafe(no_mangle)]
pub extern "C" fn peer_connect(config: &Config) {
    let (node, service) = open(config);
    let port = service
        .publisher_builder()
        .initial_max_slice_len(config.size)
        .max_loaned_samples(1)
        .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
        .create()
        .expect("a publisher");
    SENDER.set(Some(Side { port, _node: node }));
    bench_at_end(leave);
}

/// # Safety
///
/// `len` bytes at `data` are readable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn peer_send(_connection: c_uint, data: *const u8, len: usize) -> bool {
    // SAFETY: as the caller says.
    let message = unsafe { std::slice::from_raw_parts(data, len) };
    SENDER.with_borrow(|sender| {
        let publisher = &sender.as_ref().expect("peer_connect comes first").port;
        // It waits for room, unless the subscriber has not found it yet: then a full buffer is nobody's, and 0 get the message.
        loop {
            let sample = publisher.loan_slice_uninit(len).expect("memory for a message");
            if sample.write_from_slice(message).send().expect("the message is sent") > 0 {
                break;
            }
            std::thread::yield_now();
        }
    });
    false // it does not tell whether it had to wait
}

#[unsafe(no_mangle)]
pub extern "C" fn peer_flush(_connection: c_uint) {}

#[unsafe(no_mangle)]
pub extern "C" fn peer_idle_connections(_config: &Config, _first: c_uint, _end: c_uint) {
    unimplemented!("this peer has one stream");
}

#[unsafe(no_mangle)]
pub extern "C" fn peer_rest(_config: &Config) {
    unimplemented!("this peer has one stream");
}
