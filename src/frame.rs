//! The wire format: each frame is an unsigned LEB128 varint of the payload's length, and that many bytes.
//!
//! The same as Go's `binary.PutUvarint` and `binary.ReadUvarint`: written in the shortest form, read in any form of up to
//! ten bytes, refused when the value does not fit 64 bits. Pure: no I/O, no clock.

/// The longest prefix.
pub(crate) const MAX_PREFIX: usize = 10;

/// How much a reader receives into its own memory at a time. When a reader dies, the writer counts the messages that may have
/// been in this memory as `suspected_lost`.
pub(crate) const READ_BUFFER: usize = 256 << 10;

/// Writes the shortest prefix to the front of `out` and returns its length.
pub(crate) fn encode_prefix(len: usize, out: &mut [u8; MAX_PREFIX]) -> usize {
    let mut rest = len as u64;
    let mut at = 0;
    while rest >= 0x80 {
        out[at] = rest as u8 | 0x80;
        rest >>= 7;
        at += 1;
    }
    out[at] = rest as u8;
    at + 1
}

/// What the front of a byte string holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// A prefix of `size` bytes that announces `len` bytes of payload.
    Whole {
        /// The payload's length.
        len: u64,
        /// The prefix's own length.
        size: usize,
    },
    /// The beginning of a prefix.
    Cut,
    /// Not a varint of 64 bits. Decided at the tenth byte.
    Overflow,
}

/// Reads the prefix at the front of `bytes`.
#[inline(always)]
pub(crate) fn decode_prefix(bytes: &[u8]) -> Prefix {
    // Nearly all messages of nearly all users are shorter than 16 KiB.
    match *bytes {
        [] => Prefix::Cut,
        [low, ..] if low < 0x80 => Prefix::Whole { len: u64::from(low), size: 1 },
        [low, high, ..] if high < 0x80 => Prefix::Whole { len: u64::from(low & 0x7f) | u64::from(high) << 7, size: 2 },
        _ => decode_long_prefix(bytes),
    }
}

#[cold]
fn decode_long_prefix(bytes: &[u8]) -> Prefix {
    let mut len = 0_u64;
    for (at, byte) in bytes.iter().take(MAX_PREFIX).enumerate() {
        if at == MAX_PREFIX - 1 && *byte > 1 {
            return Prefix::Overflow;
        }
        len |= u64::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            return Prefix::Whole { len, size: at + 1 };
        }
    }
    Prefix::Cut
}

/// What the front of the received bytes holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A whole frame: the payload lies between `start` and `end`, and the next frame begins at `end`.
    Whole {
        /// Where the payload begins.
        start: usize,
        /// Where the payload and the frame end.
        end: usize,
    },
    /// The beginning of a frame; its whole length with the prefix, once that is known.
    Cut(Option<usize>),
    /// A length above the limit, decided from the prefix alone.
    TooLarge(u64),
    /// A malformed prefix.
    Overflow,
}

/// Reads the frame at the front of `bytes`. `limit` is the largest accepted payload.
#[inline]
pub(crate) fn decode(bytes: &[u8], limit: u64) -> Frame {
    match decode_prefix(bytes) {
        Prefix::Whole { len, size } => {
            if len > limit {
                return Frame::TooLarge(len);
            }
            // A length beyond the address space is above every limit in practice.
            let Some(end) = usize::try_from(len).ok().and_then(|len| len.checked_add(size)) else {
                return Frame::TooLarge(len);
            };
            if end <= bytes.len() { Frame::Whole { start: size, end } } else { Frame::Cut(Some(end)) }
        }
        Prefix::Cut => Frame::Cut(None),
        Prefix::Overflow => Frame::Overflow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(len: usize) -> Vec<u8> {
        let mut out = [0; MAX_PREFIX];
        let size = encode_prefix(len, &mut out);
        out[..size].to_vec()
    }

    #[test]
    fn prefixes_at_every_boundary_are_the_shortest() {
        for (len, bytes) in [
            (0, &[0x00][..]),
            (1, &[0x01]),
            (127, &[0x7f]),
            (128, &[0x80, 0x01]),
            (16_383, &[0xff, 0x7f]),
            (16_384, &[0x80, 0x80, 0x01]),
            (2_097_151, &[0xff, 0xff, 0x7f]),
            (2_097_152, &[0x80, 0x80, 0x80, 0x01]),
            (10 << 20, &[0x80, 0x80, 0x80, 0x05]),
        ] {
            assert_eq!(encode(len), bytes);
            assert_eq!(decode_prefix(bytes), Prefix::Whole { len: len as u64, size: bytes.len() });
        }
    }

    #[test]
    fn longer_forms_are_read_and_overflow_is_known_at_the_tenth_byte() {
        assert_eq!(decode_prefix(&[0x85, 0x00]), Prefix::Whole { len: 5, size: 2 });
        assert_eq!(decode_prefix(&[0x80, 0x00]), Prefix::Whole { len: 0, size: 2 });
        let mut ten = [0x80; 10];
        assert_eq!(decode_prefix(&ten[..9]), Prefix::Cut);
        for (tenth, expected) in [
            (0x00, Prefix::Whole { len: 0, size: 10 }),
            (0x01, Prefix::Whole { len: 1 << 63, size: 10 }),
            (0x02, Prefix::Overflow),
            (0x7f, Prefix::Overflow),
            (0x80, Prefix::Overflow),
            (0xff, Prefix::Overflow),
        ] {
            ten[9] = tenth;
            assert_eq!(decode_prefix(&ten), expected, "tenth byte {tenth:#x}");
        }
        assert_eq!(
            decode_prefix(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            Prefix::Whole { len: u64::MAX, size: 10 }
        );
    }

    #[test]
    fn a_length_is_judged_by_its_prefix_alone() {
        let announced = encode(1_001);
        assert_eq!(decode(&announced, 1_000), Frame::TooLarge(1_001));
        assert_eq!(decode(&announced, 1_001), Frame::Cut(Some(1_003)));
        let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(decode(&huge, u64::MAX), Frame::TooLarge(u64::MAX));
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(len in any::<usize>()) {
            let bytes = encode(len);
            prop_assert_eq!(decode_prefix(&bytes), Prefix::Whole { len: len as u64, size: bytes.len() });
            for cut in 0..bytes.len() {
                prop_assert_eq!(decode_prefix(&bytes[..cut]), Prefix::Cut);
            }
        }

        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..32), limit in any::<u64>()) {
            match decode(&bytes, limit) {
                Frame::Whole { start, end } => prop_assert!(start <= end && end <= bytes.len()),
                Frame::Cut(Some(end)) => prop_assert!(end > bytes.len()),
                Frame::Cut(None) => prop_assert!(bytes.len() < MAX_PREFIX),
                Frame::TooLarge(len) => prop_assert!(len > limit || len > isize::MAX as u64),
                Frame::Overflow => prop_assert!(bytes.len() >= MAX_PREFIX),
            }
        }

        #[test]
        fn frames_come_out_whole_under_every_split(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 0..20),
            cuts in proptest::collection::vec(1_usize..64, 1..64),
        ) {
            let mut stream = Vec::new();
            for message in &messages {
                stream.extend(encode(message.len()));
                stream.extend(message);
            }
            let (mut pending, mut got, mut rest) = (Vec::new(), Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, behind) = rest.split_at(rest.len().min(*cut));
                rest = behind;
                pending.extend(piece);
                while let Frame::Whole { start, end } = decode(&pending, 1 << 20) {
                    got.push(pending[start..end].to_vec());
                    pending.drain(..end);
                }
            }
            prop_assert!(pending.is_empty());
            prop_assert_eq!(got, messages);
        }
    }
}
