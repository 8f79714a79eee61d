//! Turns over a real ring and a real socket, with a writer that the test plays, and a clock that it sets.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::super::{Connection, TurnContext};
use super::*;
use crate::delivery::name::{WriterId, WriterName};
use crate::delivery::record::{End, RECORD, RING_REQUEST, Record};
use crate::frame::{self, MAX_PREFIX};
use crate::reader::account::Account;
use crate::reader::budget::Budget;
use crate::reader::clock::{Clock, Nanos};
use crate::reader::deliver::OnFailure;
use crate::reader::drain::Drain;
use crate::reader::handler::{Failure, Handler};
use crate::reader::ledger::Ledgers;
use crate::reader::read_buffers::ReadBuffers;
use crate::reader::ring::Rings;
use crate::sys::descriptor::Descriptor;
use crate::sys::fork::Token;
use crate::sys::fork::tests::in_forked_child;
use crate::sys::ledger::Slot;
use crate::sys::lock::Mutex;
use crate::sys::ring::{Notice, WriterRing};

const MS: Nanos = 1_000_000;
const LIMIT: u64 = 3 << 20;
/// The budget for one ring of 1 MiB, and the one for a ring of 4 MiB.
const SMALL: u64 = 1 << 20;
const LARGE: u64 = 8 << 20;

struct Ignored;

impl OnFailure for Ignored {
    fn handler_failed(&self, _: Failure) {}
}

/// A reader's connection, and its writer.
struct Pair {
    connection: Connection,
    buffers: ReadBuffers,
    drain: Arc<Drain>,
    rings: Rings,
    clock: Clock,
    handler: Handler,
    messages: Arc<Mutex<Vec<Vec<u8>>>>,
    peer: UnixStream,
    slot: Slot,
    ring: Option<WriterRing>,
    /// What the writer has sent on the socket, and published.
    sent: u64,
    head: u64,
}

/// A connection whose writer has a name, and the writer's end of it with its slot.
fn connect(fd: UnixStream, peer: &UnixStream) -> (Connection, Slot) {
    let fd = Descriptor::adopt(fd.into()).expect("a descriptor");
    let name = WriterName { id: WriterId([3; 16]), first_sequence: 0, dial: 1 };
    let account = Account::open(&Ledgers::default(), fd.as_fd(), name).expect("an account");
    let mut bytes = [0; RECORD];
    let (_, ledger) = socket::recv_with_descriptor(peer.as_fd(), &mut bytes).expect("a record");
    let Some(Record::Ledger { offset }) = Record::decode(&bytes) else { panic!("no ledger") };
    let slot = Slot::map(ledger.expect("a descriptor").as_fd(), offset).expect("a slot");
    (Connection::new(1, fd, Some(account), 0), slot)
}

impl Pair {
    /// Message number n takes as long as `time(n)` says.
    fn new(budget: u64, batched: bool, time: fn(usize) -> Nanos) -> Pair {
        let (ours, peer) = UnixStream::pair().expect("a pair");
        peer.set_nonblocking(true).expect("a socket");
        let now = Arc::new(AtomicU64::new(0));
        let clock = Clock { set: Some(Arc::clone(&now)), ..Clock::start() };
        let messages = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let kept = Arc::clone(&messages);
        let take = move |message: &[u8]| {
            let mut kept = kept.lock();
            kept.push(message.to_vec());
            now.fetch_add(time(kept.len()), Ordering::SeqCst);
        };
        let handler = if batched {
            Handler::Batch(Box::new(move |messages, _| {
                messages.iter().for_each(|message| take(message));
                messages.len()
            }))
        } else {
            Handler::Each(Box::new(move |message, _| {
                take(message);
                Ok(())
            }))
        };
        let (connection, slot) = connect(ours, &peer);
        let (ring, sent, head) = (None, 0, 0);
        let rings = Rings::new(budget, Token::of_this_process().expect("a token"));
        let (buffers, drain) = (ReadBuffers::default(), Arc::default());
        Pair { connection, buffers, drain, rings, clock, handler, messages, peer, slot, ring, sent, head }
    }

    /// With a ring to which the writer has switched.
    fn switched(budget: u64, batched: bool, time: fn(usize) -> Nanos) -> Pair {
        let mut pair = Pair::new(budget, batched, time);
        pair.request();
        pair.switch();
        pair
    }

    fn turn(&self) -> TurnEnd {
        let mut lent = self.buffers.take().expect("memory");
        let context = TurnContext {
            handler: &self.handler,
            max_message_size: LIMIT,
            on_failure: &Ignored,
            clock: &self.clock,
            rings: &self.rings,
        };
        let mut budget = Budget::new(&self.drain, self.clock.now(), None);
        let end = self.connection.serve(&mut lent, context, &mut budget).expect("open");
        lent.memory.buffer.fill(0xff);
        self.buffers.put(lent);
        end
    }

    /// Turns for as long as the connection is due.
    fn turns(&self) -> TurnEnd {
        loop {
            match self.turn() {
                TurnEnd::Again => {}
                end => return end,
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.peer.write_all(bytes).expect("room");
        self.sent += bytes.len() as u64;
    }

    /// Asks for a ring, and takes it if there is one.
    fn request(&mut self) -> Option<u64> {
        self.send(&RING_REQUEST);
        assert!(matches!(self.turn(), TurnEnd::More));
        let mut bytes = [0; RECORD];
        let (_, fd) = socket::recv_with_descriptor(self.peer.as_fd(), &mut bytes).ok()?;
        let Some(Record::Ring { size }) = Record::decode(&bytes) else { panic!("{bytes:?}") };
        self.ring = Some(WriterRing::map(fd.expect("a descriptor").as_fd(), size).expect("a ring"));
        Some(size)
    }

    fn ring(&self) -> &WriterRing {
        self.ring.as_ref().expect("a ring")
    }

    fn switch(&self) {
        assert_eq!(self.slot.read().position, self.sent, "all is handled");
        self.ring().signals().switch(self.sent);
    }

    fn store(&mut self, bytes: &[u8]) {
        self.ring().store(self.head, bytes);
        self.head += bytes.len() as u64;
    }

    /// As an honest writer, which rings the bell for a reader that sleeps.
    fn publish(&mut self, bytes: &[u8]) {
        self.store(bytes);
        if self.ring().signals().publish(self.head) == Notice::RingBell {
            self.ring_bell();
        }
    }

    fn ring_bell(&self) {
        (&self.peer).write_all(&[0]).expect("room");
    }

    /// So many bells from the reader.
    fn bells(&mut self) -> usize {
        let mut bytes = [1; 64];
        let count = self.peer.read(&mut bytes).unwrap_or(0);
        assert!(bytes[..count].iter().all(|byte| *byte == 0));
        count
    }

    fn handled(&self) -> u64 {
        self.slot.read().position - self.sent
    }

    fn received(&self) -> usize {
        self.messages.lock().len()
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut prefix = [0; MAX_PREFIX];
    let size = frame::encode_prefix(message.len(), &mut prefix);
    [&prefix[..size], message].concat()
}

#[track_caller]
fn assert_malformed(end: TurnEnd) {
    assert!(matches!(end, TurnEnd::Failed(Error::InvalidLengthPrefix, Context::Prefix)), "{end:?}");
}

#[track_caller]
fn assert_more(end: TurnEnd) {
    assert!(matches!(end, TurnEnd::More), "{end:?}");
}

#[test]
fn a_writer_that_asks_gets_one_ring_and_goes_on_at_its_position() {
    let mut pair = Pair::new(LARGE, false, |_| 0);
    pair.send(&framed(b"first"));
    assert_eq!(pair.request(), Some(4 << 20));
    assert_eq!(pair.rings.in_use(), (4 << 20, 1));
    pair.send(&framed(b"second"));
    assert_eq!(pair.request(), None, "a second request is an empty frame");
    pair.switch();
    pair.publish(&framed(b"third"));
    assert_more(pair.turns());
    assert_eq!(*pair.messages.lock(), [&b"first"[..], b"second", b"third"]);
    assert_eq!(pair.handled(), pair.head);
    assert!(!pair.connection.has_unread());
    pair.publish(&framed(b"fourth"));
    assert!(pair.connection.has_unread() && pair.connection.silent_for(0).is_none());
    assert_more(pair.turns());
    assert_eq!(pair.received(), 4);
    drop(pair.connection);
    assert_eq!(pair.rings.in_use(), (0, 0));
}

#[test]
fn no_ring_without_a_budget_or_an_account_and_other_empty_frames_ask_for_none() {
    let mut pair = Pair::new(0, true, |_| 0);
    assert_eq!(pair.request(), None);
    let mut pair = Pair::new(SMALL, true, |_| 0);
    pair.send(&[0, 0x80, 0, 0x80, 0x80, 0, 0x80, 0x80, 0x80, 0x80, 0]);
    assert_more(pair.turn());
    assert_eq!(pair.rings.in_use(), (0, 0));
    assert_eq!(pair.request(), Some(SMALL), "also one among others in a batch");
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    let fd = Descriptor::adopt(ours.into()).expect("a descriptor");
    pair.connection = Connection::new(2, fd, None, 0);
    theirs.write_all(&RING_REQUEST).expect("room");
    assert_more(pair.turn());
    assert_eq!(pair.rings.in_use(), (0, 0));
}

#[test]
fn messages_come_in_order_across_the_end_of_the_memory_in_place_and_copied() {
    for (batched, strict) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut pair = Pair::new(SMALL, batched, |_| 0);
        if strict {
            pair.rings = pair.rings.strict();
        }
        pair.request();
        pair.switch();
        let message = |number: usize| vec![number as u8; [1, 100, 40_000, 200_000, 500_000][number % 5]];
        for number in 0..40 {
            pair.publish(&framed(&message(number)));
            assert_more(pair.turns());
            assert_eq!((pair.received(), pair.handled()), (number + 1, pair.head), "{batched} {strict}");
        }
        let messages = pair.messages.lock();
        assert!(messages.iter().enumerate().all(|(number, kept)| *kept == message(number)));
        assert!(pair.head > 4 * SMALL);
    }
}

#[test]
fn a_full_ring_is_handed_out_in_parts_and_the_bell_is_rung_when_it_is_half_empty() {
    let mut pair = Pair::switched(SMALL, true, |_| 0);
    let frame = framed(&[7; 1 << 10]);
    while pair.head + frame.len() as u64 <= SMALL {
        pair.store(&frame);
    }
    pair.publish(&[]);
    pair.ring().signals().wait();
    assert_more(pair.turns());
    assert_eq!(pair.handled(), pair.head);
    assert_eq!(pair.bells(), 1);
    let messages = pair.received();
    // The bell comes before the end: the callback looks for it.
    let mut pair = Pair::new(SMALL, false, |_| 0);
    let (seen, early) = (pair.peer.try_clone().expect("a descriptor"), Arc::new(AtomicUsize::new(0)));
    let (calls, first) = (AtomicUsize::new(0), Arc::clone(&early));
    pair.handler = Handler::Each(Box::new(move |_, _| {
        let calls = calls.fetch_add(1, Ordering::SeqCst) + 1;
        if first.load(Ordering::SeqCst) == 0 && socket::bytes_readable(seen.as_fd())? > 0 {
            first.store(calls, Ordering::SeqCst);
        }
        Ok(())
    }));
    pair.request();
    pair.switch();
    (0..messages).for_each(|_| pair.store(&frame));
    pair.publish(&[]);
    pair.ring().signals().wait();
    assert_more(pair.turns());
    let early = early.load(Ordering::SeqCst);
    assert!((messages / 2..messages * 3 / 4).contains(&early), "{early} of {messages}");
}

#[test]
fn a_frame_as_large_as_the_ring_is_handed_out() {
    for strict in [false, true] {
        let mut pair = Pair::new(SMALL, false, |_| 0);
        if strict {
            pair.rings = pair.rings.strict();
        }
        pair.request();
        pair.switch();
        let message = vec![5; SMALL as usize - 3];
        pair.publish(&framed(b"before"));
        assert_more(pair.turns());
        pair.publish(&framed(&message));
        assert_more(pair.turns());
        assert_eq!(pair.messages.lock()[1], message);
    }
}

#[test]
fn a_frame_that_is_cut_is_malformed_and_everything_before_it_is_handled() {
    for bytes in [&b"\x02one"[..], b"\x80", b"\x82\x80\x02", &[0xff; 10], b"\x05"] {
        for strict in [false, true] {
            let mut pair = Pair::new(SMALL, false, |_| 0);
            if strict {
                pair.rings = pair.rings.strict();
            }
            pair.request();
            pair.switch();
            pair.publish(&framed(b"whole"));
            pair.publish(bytes);
            assert_malformed(pair.turns());
            assert_eq!(pair.messages.lock()[0], b"whole");
            pair.connection.tell_end(End::Malformed);
            assert!(pair.ring().signals().is_closing());
        }
    }
    let mut pair = Pair::switched(SMALL, false, |_| 0);
    pair.publish(&framed(&vec![0; SMALL as usize - 3])[..SMALL as usize - 1]);
    assert_malformed(pair.turns());
}

#[test]
fn what_is_too_large_is_refused() {
    let mut pair = Pair::switched(LARGE, false, |_| 0);
    let mut prefix = [0; MAX_PREFIX];
    let size = frame::encode_prefix(LIMIT as usize + 1, &mut prefix);
    pair.publish(&prefix[..size]);
    let end = pair.turns();
    assert!(matches!(end, TurnEnd::Failed(Error::MessageTooLarge { .. }, Context::TooLarge)), "{end:?}");
}

#[test]
fn an_end_of_the_published_bytes_that_cannot_be_is_malformed() {
    for published in [0, 5, 6 + SMALL + 1, u64::MAX, 1 << 63] {
        let mut pair = Pair::switched(SMALL, false, |_| 0);
        pair.publish(&framed(b"hello"));
        assert_more(pair.turns());
        pair.ring().signals().publish(published);
        pair.ring_bell();
        assert_malformed(pair.turns());
        assert_eq!(pair.received(), 1);
    }
}

#[test]
fn a_switch_that_is_not_at_the_position_is_malformed() {
    for at in [0, 3, 5, u64::MAX - 1] {
        let mut pair = Pair::new(SMALL, false, |_| 0);
        pair.request();
        pair.ring().signals().switch(at);
        pair.ring_bell();
        assert_malformed(pair.turn());
    }
    // In the middle of a frame, before and after the reader has looked.
    for bytes in [&b"\x05ab"[..], b"\x05"] {
        let mut pair = Pair::new(SMALL, false, |_| 0);
        pair.request();
        let position = pair.sent;
        pair.send(bytes);
        assert_more(pair.turn());
        pair.ring().signals().switch(position);
        pair.ring_bell();
        assert_malformed(pair.turn());
        let mut pair = Pair::new(SMALL, false, |_| 0);
        pair.request();
        pair.switch();
        pair.send(bytes);
        assert_malformed(pair.turn());
    }
}

#[test]
fn after_the_switch_the_socket_brings_bells_and_nothing_else() {
    let mut pair = Pair::switched(SMALL, false, |_| 0);
    for _ in 0..100 {
        pair.peer.write_all(&[0; 10_000]).expect("room");
        assert_more(pair.turns());
    }
    pair.publish(&framed(b"hello"));
    assert_more(pair.turns());
    assert_eq!(pair.received(), 1);
    pair.peer.write_all(&[0, 0, 1]).expect("room");
    assert_malformed(pair.turns());
}

#[test]
fn a_peer_that_rings_for_ever_gets_bounded_turns() {
    let pair = Pair::switched(SMALL, false, |_| 0);
    let mut peer = pair.peer.try_clone().expect("a descriptor");
    let stop = Arc::new(AtomicUsize::new(0));
    let stopped = Arc::clone(&stop);
    let ringing = std::thread::spawn(move || {
        while stopped.load(Ordering::SeqCst) == 0 {
            let _ = peer.write(&[0; 4096]);
        }
    });
    for _ in 0..200 {
        assert!(matches!(pair.turn(), TurnEnd::Again | TurnEnd::More));
    }
    stop.store(1, Ordering::SeqCst);
    ringing.join().expect("no panic");
}

#[test]
fn a_turn_is_bounded_and_the_connection_is_due_again() {
    let mut pair = Pair::switched(SMALL, false, |_| 5 * MS);
    pair.store(&framed(b"hello").repeat(20));
    pair.publish(&[]);
    let mut turns = 0;
    while let TurnEnd::Again = pair.turn() {
        turns += 1;
        assert_eq!(pair.handled(), 6 * pair.received() as u64);
        assert!(pair.received() <= 8 * turns);
    }
    assert_eq!(pair.received(), 20);
    assert!((3..=20).contains(&turns), "{turns}");
    // By bytes, when callbacks are fast.
    let mut pair = Pair::switched(LARGE, true, |_| 0);
    pair.store(&framed(&[1; 1000]).repeat(4000));
    pair.publish(&[]);
    assert!(matches!(pair.turn(), TurnEnd::Again));
    assert!(((3 << 20) - 6000..15 << 18).contains(&pair.handled()), "{}", pair.handled());
    // The next turn finds that its time is up: it is due nevertheless.
    let mut lent = pair.buffers.take().expect("memory");
    let context = TurnContext {
        handler: &pair.handler,
        max_message_size: LIMIT,
        on_failure: &Ignored,
        clock: &pair.clock,
        rings: &pair.rings,
    };
    let mut over = Budget::new(&pair.drain, 0, Some(0));
    assert!(matches!(pair.connection.serve(&mut lent, context, &mut over), Some(TurnEnd::Again)));
    assert_more(pair.turns());
    assert_eq!(pair.received(), 4000);
}

#[test]
fn what_a_writer_has_published_before_its_end_is_handed_out() {
    for switched_before in [false, true] {
        let mut pair = Pair::new(SMALL, false, |_| 5 * MS);
        pair.request();
        if switched_before {
            pair.switch();
            pair.publish(&framed(b"hello"));
            assert_more(pair.turns());
        } else {
            pair.switch();
        }
        // No bell: it was killed behind the publication.
        pair.store(&framed(b"hello").repeat(30));
        pair.ring().signals().publish(pair.head);
        pair.peer.shutdown(std::net::Shutdown::Both).expect("a socket");
        let end = pair.turns();
        assert!(matches!(end, TurnEnd::Closed), "{end:?}");
        assert_eq!(pair.received(), 30 + usize::from(switched_before));
        assert_eq!(pair.handled(), pair.head);
    }
}

#[test]
fn an_end_that_the_reader_makes_hands_out_what_was_published_before_it_and_nothing_behind() {
    for why in [EndedFor::Stop, EndedFor::Inactivity] {
        let mut pair = Pair::switched(SMALL, false, |_| 5 * MS);
        pair.store(&framed(b"hello").repeat(30));
        pair.publish(&[]);
        assert!(matches!(pair.turn(), TurnEnd::Again));
        pair.connection.end(why);
        assert!(matches!(pair.turn(), TurnEnd::Again));
        assert!(pair.ring().signals().is_closing());
        let position = pair.head;
        pair.store(&framed(b"hello"));
        assert_eq!(pair.ring().signals().publish(pair.head), Notice::Closing);
        let end = pair.turns();
        assert!(matches!(end, TurnEnd::Closed), "{end:?}");
        assert_eq!((pair.received(), pair.handled()), (30, position));
        pair.connection.tell_end(End::Stop);
        let mut record = [0; RECORD];
        pair.peer.read_exact(&mut record).expect("a record");
        let position = pair.sent + position;
        assert_eq!(Record::decode(&record), Some(Record::Final { position, end: End::Stop }));
    }
}

#[test]
fn an_end_before_the_switch_is_seen_by_a_writer_that_switches_afterwards() {
    let mut pair = Pair::new(SMALL, false, |_| 0);
    pair.request();
    pair.connection.end(EndedFor::Inactivity);
    assert!(matches!(pair.turn(), TurnEnd::Closed));
    pair.ring().signals().switch(pair.sent);
    pair.store(&framed(b"late"));
    assert_eq!(pair.ring().signals().publish(pair.head), Notice::Closing);
    assert_eq!(pair.received(), 0);
}

#[test]
fn a_stop_that_is_cut_short_tells_whether_the_ring_has_unread_messages() {
    for unread in [false, true] {
        let mut pair = Pair::switched(SMALL, false, |_| 0);
        pair.publish(&framed(b"hello"));
        assert_more(pair.turns());
        if unread {
            pair.publish(&framed(b"hello"));
        }
        pair.drain.cancel();
        pair.ring_bell();
        let end = pair.turn();
        assert!(matches!(end, TurnEnd::Cancelled { unread: left } if left == unread), "{end:?}");
        let mut pair = Pair::switched(SMALL, false, |_| 0);
        if unread {
            pair.publish(&framed(b"hello"));
        }
        assert_eq!(pair.connection.close_unserved(), Some(unread));
    }
    // In a callback.
    let mut pair = Pair::switched(SMALL, false, |_| 0);
    let drain = Arc::clone(&pair.drain);
    pair.handler = Handler::Each(Box::new(move |_, _| {
        drain.cancel();
        Ok(())
    }));
    pair.publish(&framed(b"hello").repeat(2));
    assert!(matches!(pair.turn(), TurnEnd::Cancelled { unread: true }));
    assert_eq!(pair.handled(), 6);
}

#[test]
fn a_silent_ring_is_silent_and_one_with_unread_messages_is_not() {
    let mut pair = Pair::switched(SMALL, false, |_| 0);
    assert_more(pair.turns());
    assert_eq!(pair.connection.silent_for(10 * MS), Some(10 * MS));
    pair.store(&framed(b"hello"));
    pair.ring().signals().publish(pair.head);
    assert_eq!(pair.connection.silent_for(10 * MS), None);
}

/// A writer that changes lengths while they are decoded: no panic, no message beyond the ring.
#[test]
fn lengths_that_change_while_they_are_read_do_no_harm() {
    let mut pair = Pair::switched(SMALL, false, |_| 0);
    let frame = framed(&[3; 300]);
    let stop = AtomicUsize::new(0);
    pair.store(&frame.repeat(3000));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let ring = pair.ring.as_ref().expect("a ring");
            while stop.load(Ordering::SeqCst) == 0 {
                for at in (0..900_000).step_by(frame.len()) {
                    ring.store(at, &[0xff, 0x7f]);
                    ring.store(at, &frame[..2]);
                }
            }
        });
        for _ in 0..50 {
            pair.ring().signals().publish(pair.head);
            if !matches!(pair.turns(), TurnEnd::More) {
                break;
            }
        }
        stop.store(1, Ordering::SeqCst);
    });
    assert!(pair.messages.lock().iter().all(|message| message.len() <= SMALL as usize));
}

#[test]
fn the_child_of_a_callback_that_forks_ends_its_turn_and_sends_nothing() {
    let mut pair = Pair::switched(SMALL, false, |_| 0);
    pair.publish(&framed(b"hello"));
    assert_more(pair.turns());
    pair.publish(&framed(b"hello").repeat(3));
    pair.ring().signals().wait();
    in_forked_child(|| matches!(pair.turn(), TurnEnd::Cancelled { unread: false }));
    assert_eq!((pair.bells(), pair.handled()), (0, 6));
    assert_more(pair.turns());
    assert_eq!(pair.received(), 4);
}

#[test]
fn a_writer_in_another_thread_and_a_reader_miss_nothing() {
    const COUNT: usize = 30_000;
    let mut pair = Pair::switched(SMALL, false, |_| 0);
    let poller = crate::sys::event::Poller::new().expect("a poller");
    let key = 1;
    let ring = pair.ring.take().expect("a ring");
    let (peer, sent, slot) = (pair.peer.try_clone().expect("a descriptor"), pair.sent, &pair.slot);
    use crate::sys::event::{Interest, NO_EVENT};
    poller.add(pair.connection.fd.as_fd(), key, Interest::READABLE_ONCE).expect("a registration");
    std::thread::scope(|scope| {
        let ring = &ring;
        scope.spawn(move || {
            let frame = framed(&[9; 700]);
            let mut head = 0_u64;
            for number in 0..COUNT {
                while head + frame.len() as u64 > slot.read().position - sent + SMALL {
                    ring.signals().wait();
                    if head + frame.len() as u64 > slot.read().position - sent + SMALL {
                        peer.set_nonblocking(false).expect("a socket");
                        (&peer).read_exact(&mut [0]).expect("a bell");
                    }
                }
                ring.store(head, &frame);
                head += frame.len() as u64;
                if ring.signals().publish(head) == Notice::RingBell {
                    (&peer).write_all(&[0]).expect("room");
                }
                if number % 1000 == 0 {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
            }
        });
        while pair.received() < COUNT {
            let mut events = 0;
            let timeout = std::time::Duration::from_secs(60);
            poller.wait(&mut [NO_EVENT; 1], Some(timeout), |_| events += 1).expect("events");
            assert_eq!(events, 1, "asleep with {} of {COUNT}", pair.received());
            let interest = match pair.turn() {
                TurnEnd::More => Interest::READABLE_ONCE,
                TurnEnd::Again => Interest::READY_ONCE,
                end => panic!("{end:?}"),
            };
            poller.modify(pair.connection.fd.as_fd(), key, interest).expect("a registration");
        }
    });
    assert!(pair.messages.lock().iter().all(|message| *message == [9; 700]));
}
