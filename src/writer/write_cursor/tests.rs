use proptest::prelude::*;

use super::*;
use crate::writer::queue::Count;

fn cursor_of(messages: &[&[u8]]) -> (WriteCursor, Queue) {
    let queue = Queue::new(100, 0);
    let mut cursor = WriteCursor::default();
    cursor.load(batch_of(messages, &queue));
    (cursor, queue)
}

fn batch_of(messages: &[&[u8]], queue: &Queue) -> Batch {
    for message in messages {
        queue.push(message).expect("room");
    }
    queue.take().expect("a batch")
}

/// What a session does with each count, at a plain peer.
fn advance(cursor: &mut WriteCursor, bytes: usize, queue: &Queue, in_flight: &mut InFlight) -> u64 {
    let whole = cursor.advance(bytes, Keep::Nothing, queue, in_flight).messages();
    whole + cursor.settle(queue, in_flight).messages()
}

fn lose(cursor: &mut WriteCursor) {
    cursor.forget_sent();
    cursor.rewind();
}

/// At a peer that may tell how far it has handled.
fn send_kept(cursor: &mut WriteCursor, bytes: usize, queue: &Queue) -> Taken {
    let mut in_flight = in_flight();
    let mut count = cursor.advance(bytes, Keep::UntilHandled, queue, &mut in_flight);
    let settled = cursor.settle(queue, &mut in_flight);
    count.first += settled.first;
    count.again += settled.again;
    count
}

fn in_flight() -> InFlight {
    InFlight::new(1 << 19)
}

fn two_batches() -> (WriteCursor, Queue) {
    let (mut cursor, queue) = cursor_of(&[b"abc", b"de"]);
    cursor.take_along(|| Some(batch_of(&[b"f", b"gh", b"ijk"], &queue)));
    cursor.take_along(|| panic!("there are two"));
    (cursor, queue)
}

#[test]
fn a_frame_counts_when_its_last_byte_is_taken() {
    let (mut cursor, queue) = cursor_of(&[b"abc", b"de", b"f"]);
    assert_eq!(advance(&mut cursor, 3, &queue, &mut in_flight()), 0);
    assert!(cursor.is_torn());
    assert_eq!(advance(&mut cursor, 1, &queue, &mut in_flight()), 1);
    assert!(!cursor.is_torn());
    assert_eq!(advance(&mut cursor, 4, &queue, &mut in_flight()), 1);
    assert_eq!(queue.account().sent.messages, 2);
    assert_eq!(advance(&mut cursor, 1, &queue, &mut in_flight()), 1);
    assert!(cursor.is_empty());
    assert_eq!(queue.account().sent, Count { messages: 3, bytes: 6 });
}

#[test]
fn a_torn_frame_begins_again_whole() {
    let (mut cursor, queue) = cursor_of(&[b"abc", b"de"]);
    advance(&mut cursor, 6, &queue, &mut in_flight());
    assert!(cursor.is_torn());
    lose(&mut cursor);
    assert_eq!(cursor.rest(), [&b"\x02de"[..], b""]);
    assert_eq!(advance(&mut cursor, 3, &queue, &mut in_flight()), 1);
    assert!(cursor.is_empty());
}

#[test]
fn the_first_frame_alone_can_be_given_up() {
    let (mut cursor, queue) = cursor_of(&[b"poison", b"de"]);
    advance(&mut cursor, 3, &queue, &mut in_flight());
    lose(&mut cursor);
    cursor.abandon_first(&queue);
    assert_eq!(cursor.rest(), [&b"\x02de"[..], b""]);
    assert_eq!((queue.account().abandoned.messages, queue.account().depth.messages), (1, 1));
    assert_eq!(cursor.abandon_rest(&queue).messages(), 1);
    assert!(cursor.is_empty());
    assert_eq!((queue.account().abandoned.messages, queue.account().depth.bytes), (2, 0));
}

#[test]
fn one_send_can_end_in_the_second_batch() {
    let (mut cursor, queue) = two_batches();
    assert_eq!(cursor.rest(), [&b"\x03abc\x02de"[..], b"\x01f\x02gh\x03ijk"]);
    assert_eq!(advance(&mut cursor, 10, &queue, &mut in_flight()), 3);
    assert!(cursor.is_torn());
    assert_eq!(cursor.rest(), [&b"gh\x03ijk"[..], b""]);
    lose(&mut cursor);
    assert_eq!(cursor.rest(), [&b"\x02gh\x03ijk"[..], b""]);
    assert_eq!(advance(&mut cursor, 7, &queue, &mut in_flight()), 2);
    assert!(cursor.is_empty());
    assert_eq!(queue.account().sent, Count { messages: 5, bytes: 11 });
}

#[test]
fn the_second_batch_comes_forward_when_the_first_is_done_or_given_up() {
    let (mut cursor, queue) = two_batches();
    assert_eq!(advance(&mut cursor, 5, &queue, &mut in_flight()), 1);
    lose(&mut cursor);
    cursor.abandon_first(&queue);
    assert_eq!(cursor.rest(), [&b"\x01f\x02gh\x03ijk"[..], b""]);
    assert!(!cursor.is_torn());
    let (mut cursor, queue) = two_batches();
    assert_eq!(advance(&mut cursor, 4, &queue, &mut in_flight()), 1);
    cursor.forget_sent();
    assert_eq!(cursor.abandon_rest(&queue), GivenUp { abandoned: 4, lost: 0 });
    assert!(cursor.is_empty());
    assert_eq!((queue.account().sent.messages, queue.account().abandoned.messages), (1, 4));
}

#[test]
fn in_flight_knows_where_each_batch_ends() {
    let queue = Queue::new(2000, 0);
    let mut cursor = WriteCursor::default();
    cursor.load(batch_of(&[&[1; 100][..]; 600], &queue));
    cursor.take_along(|| Some(batch_of(&[&[1; 100][..]; 300], &queue)));
    let mut in_flight = in_flight();
    advance(&mut cursor, 900 * 101, &queue, &mut in_flight);
    in_flight.all_read();
    assert_eq!(in_flight.in_doubt(), 300);
}

// ---- messages that are kept ----

#[test]
fn what_is_sent_is_kept_until_it_has_been_handled_and_goes_out_again_otherwise() {
    let (mut cursor, queue) = two_batches();
    assert_eq!(send_kept(&mut cursor, 12, &queue), Taken { first: 4, again: 0 });
    assert_eq!((cursor.kept_messages(), cursor.kept_bytes()), (4, 12));
    assert_eq!(cursor.release(4), 1);
    assert_eq!(cursor.release(6), 0, "in the middle of a frame");
    assert_eq!((cursor.kept_messages(), cursor.kept_bytes()), (3, 8));
    cursor.rewind();
    assert_eq!(cursor.rest(), [&b"\x02de"[..], b"\x01f\x02gh\x03ijk"]);
    assert_eq!(send_kept(&mut cursor, 8, &queue), Taken { first: 0, again: 3 });
    assert_eq!(send_kept(&mut cursor, 4, &queue), Taken { first: 1, again: 0 });
    assert!(cursor.is_empty());
    assert_eq!(queue.account().sent, Count { messages: 5, bytes: 11 });
    assert_eq!((cursor.release_whole(12), cursor.kept_messages()), (4, 0));
    assert_eq!(cursor.kept_bytes(), 0);
}

#[test]
fn a_position_counts_on_each_connection_anew_and_may_begin_with_an_empty_frame() {
    let (mut cursor, queue) = cursor_of(&[b"abc", b"de"]);
    cursor.skip(1);
    send_kept(&mut cursor, 7, &queue);
    assert_eq!((cursor.sent_to(), cursor.release(5)), (8, 1));
    cursor.rewind();
    assert_eq!(cursor.sent_to(), 0);
    send_kept(&mut cursor, 3, &queue);
    assert_eq!((cursor.release(3), cursor.kept_messages()), (1, 0));
}

#[test]
fn lone_messages_share_the_memory_of_one_batch() {
    let (mut cursor, queue) = cursor_of(&[b"first"]);
    send_kept(&mut cursor, 6, &queue);
    for _ in 0..100 {
        cursor.load(batch_of(&[b"more"], &queue));
        assert_eq!(send_kept(&mut cursor, 5, &queue), Taken { first: 1, again: 0 });
    }
    assert_eq!((cursor.batches.len(), cursor.kept_messages()), (1, 101));
    assert_eq!((cursor.release(6 + 50 * 5), cursor.kept_messages()), (51, 50));
    cursor.rewind();
    assert_eq!(cursor.rest()[0].len(), 250);
}

#[test]
fn the_first_of_those_that_were_sent_can_be_given_up_and_is_lost() {
    let (mut cursor, queue) = cursor_of(&[b"abc", b"de", b"f"]);
    send_kept(&mut cursor, 7, &queue);
    cursor.rewind();
    assert_eq!(cursor.abandon_first(&queue), GivenUp { abandoned: 0, lost: 1 });
    assert_eq!(cursor.rest()[0], b"\x02de\x01f");
    assert_eq!(cursor.abandon_rest(&queue), GivenUp { abandoned: 1, lost: 1 });
    assert!(cursor.is_empty());
    assert_eq!((queue.account().sent.messages, queue.account().abandoned.messages), (2, 1));
}

#[test]
fn what_is_forgotten_is_not_sent_again() {
    let (mut cursor, queue) = two_batches();
    send_kept(&mut cursor, 11, &queue);
    cursor.forget_sent();
    assert_eq!((cursor.kept_messages(), cursor.kept_bytes()), (0, 2), "a part of a frame");
    cursor.rewind();
    assert_eq!(cursor.rest(), [&b"\x02gh\x03ijk"[..], b""]);
}

proptest! {
    /// However often the connection is lost, wherever the reader had come: each message is handled once, in order, and is
    /// counted once.
    #[test]
    fn nothing_is_lost_nor_handled_twice(
        sizes in proptest::collection::vec(1_usize..60, 1..120),
        steps in proptest::collection::vec((0_usize..600, 0_u64..600, any::<bool>()), 1..60),
    ) {
        let queue = Queue::new(10_000, 0);
        let mut cursor = WriteCursor::default();
        let messages: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(index, len)| vec![index as u8; *len]).collect();
        for group in messages.chunks(7) {
            for message in group {
                queue.push(message).expect("room");
            }
            cursor.load(queue.take().expect("a batch"));
        }
        let (mut stream, mut read, mut handled) = (Vec::new(), 0, Vec::new());
        let mut handle = |stream: &[u8], read: &mut usize, most: usize| {
            while let frame::Frame::Whole { start, end } = frame::decode(&stream[*read..], u64::MAX) {
                if *read + end > most {
                    break;
                }
                handled.push(stream[*read + start..*read + end].to_vec());
                *read += end;
            }
        };
        for (bytes, ahead, is_lost) in steps.into_iter().chain(std::iter::repeat_n((600, 600, false), 40)) {
            let rest = cursor.rest().concat();
            let bytes = bytes.min(rest.len());
            stream.extend_from_slice(&rest[..bytes]);
            send_kept(&mut cursor, bytes, &queue);
            prop_assert_eq!(cursor.sent_to(), stream.len() as u64);
            let most = read + ahead as usize;
            handle(&stream, &mut read, most);
            cursor.release(read as u64);
            let account = queue.account();
            prop_assert_eq!(account.accepted, account.sent.plus(account.depth));
            if is_lost {
                cursor.rewind();
                (stream, read) = (Vec::new(), 0);
            }
        }
        prop_assert!(cursor.is_empty() && cursor.kept_messages() == 0);
        prop_assert_eq!(handled, messages);
        prop_assert_eq!(queue.account().sent.messages, sizes.len() as u64);
    }
}
