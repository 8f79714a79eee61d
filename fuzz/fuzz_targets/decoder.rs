//! The decoder, against a reference: arbitrary bytes, in one piece and in arbitrary ones.
//!
//! The first byte chooses the limit, the second how the rest is cut; the rest is what arrives.
#![no_main]

use libfuzzer_sys::fuzz_target;
use support::wire::{self, End};
use udsipc::fuzzing::{Frame, decode, encode_prefix};

const LIMITS: [u64; 12] = [0, 1, 5, 127, 128, 300, 16_384, 10 << 20, 1 << 63, u64::MAX - 10, u64::MAX - 1, u64::MAX];

fuzz_target!(init: support::prepare(), |data: &[u8]| {
    let [limit, cuts, stream @ ..] = data else { return };
    let limit = LIMITS[usize::from(*limit) % LIMITS.len()];
    let (expected, consumed, end) = wire::read(stream, limit);

    let (frames, rest, last) = decode_all(stream, limit);
    assert_eq!(frames, expected, "in one piece, limit {limit}");
    assert_eq!((stream.len() - rest.len(), last), (consumed, as_frame(end)), "in one piece, limit {limit}");

    in_pieces(stream, limit, *cuts, &expected, end);
    encoded_again(&expected, limit);
    lengths(stream);
});

fn as_frame(end: End) -> Frame {
    match end {
        End::Clean | End::InPrefix => Frame::Cut(None),
        End::InPayload(need) => Frame::Cut(Some(need as usize)),
        End::TooLarge(len) => Frame::TooLarge(len),
        End::Overflow => Frame::Overflow,
    }
}

/// The payloads of whole frames, what stands behind them, and what that is.
fn decode_all(bytes: &[u8], limit: u64) -> (Vec<&[u8]>, &[u8], Frame) {
    let mut frames = Vec::new();
    let (rest, last) = decode_each(bytes, limit, |frame| frames.push(frame));
    (frames, rest, last)
}

fn decode_each<'a>(bytes: &'a [u8], limit: u64, mut each: impl FnMut(&'a [u8])) -> (&'a [u8], Frame) {
    let mut rest = bytes;
    loop {
        match decode(rest, limit) {
            Frame::Whole(start, end) => {
                each(&rest[start..end]);
                rest = &rest[end..];
            }
            other => return (rest, other),
        }
    }
}

/// As a reader does it: what is cut waits for the next piece. Frames come as soon as they are whole, and not before.
fn in_pieces(stream: &[u8], limit: u64, cuts: u8, expected: &[&[u8]], end: End) {
    let (mut used, mut arrived, mut random, mut last) = (0, 0, u32::from(cuts), Frame::Cut(None));
    let mut expected = expected.iter();
    while arrived < stream.len() {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        arrived = stream.len().min(arrived + 1 + (random >> 16) as usize % (1 + usize::from(cuts)));
        let rest;
        (rest, last) = decode_each(&stream[used..arrived], limit, |frame| {
            assert_eq!(Some(&frame), expected.next(), "with {arrived} bytes arrived");
        });
        used = arrived - rest.len();
        match last {
            Frame::Cut(Some(need)) => assert!(need > rest.len(), "{need} bytes needed, {} there", rest.len()),
            Frame::Cut(None) => assert!(rest.len() < 10, "no prefix is longer than ten bytes"),
            _ => break,
        }
    }
    assert_eq!(expected.next(), None, "all of the whole frames");
    assert_eq!(last, as_frame(end));
}

/// What was decoded is encoded, in the shortest form, and decoded again.
fn encoded_again(frames: &[&[u8]], limit: u64) {
    let mut stream = Vec::new();
    for frame in frames {
        stream.extend(encode_prefix(frame.len()));
        stream.extend_from_slice(frame);
    }
    assert_eq!(decode_all(&stream, limit), (frames.to_vec(), &[][..], Frame::Cut(None)));
}

/// Any length there is.
fn lengths(bytes: &[u8]) {
    for eight in bytes.chunks_exact(8).take(1) {
        let len = u64::from_le_bytes(eight.try_into().expect("eight bytes"));
        for len in [len, len >> (len % 64), u64::MAX >> (len % 64)] {
            let prefix = encode_prefix(len as usize);
            assert_eq!(prefix, wire::prefix(len, 0), "the shortest form of {len}");
            let expected = match usize::try_from(len).ok().and_then(|len| len.checked_add(prefix.len())) {
                Some(end) if end > prefix.len() => Frame::Cut(Some(end)),
                Some(end) => Frame::Whole(end, end),
                None => Frame::TooLarge(len),
            };
            assert_eq!(decode(&prefix, u64::MAX), expected, "{len}");
            if len > 0 {
                assert_eq!(decode(&prefix, len - 1), Frame::TooLarge(len));
            }
            assert_eq!(decode(&prefix[..prefix.len() - 1], u64::MAX), Frame::Cut(None), "{len}");
        }
    }
}
