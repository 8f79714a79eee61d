//! The abstract address that a writer binds its socket to: `udsipc/1/<writer id>/<first sequence number>/<dial>`.

use std::fmt;

/// Identifies a writer for as long as it lives. No proof of anything: whoever knows it can use it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WriterId(pub(crate) [u8; 16]);

/// What a name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriterName {
    pub(crate) id: WriterId,
    /// The sequence number of the first message on the connection. The first of all that the writer accepts has 1.
    pub(crate) first_sequence: u64,
    /// Makes the address fresh for each connect: a forked child may hold the last one.
    pub(crate) dial: u64,
}

/// The beginning of every name, with the version.
const HEAD: &str = "udsipc/1/";
const ID_DIGITS: usize = 32;
const SEQUENCE_DIGITS: usize = 16;

impl WriterName {
    /// The name that an abstract address carries, without the NUL in front. `None`: a peer of another kind, or version.
    pub(crate) fn parse(address: &[u8]) -> Option<WriterName> {
        let rest = std::str::from_utf8(address).ok()?.strip_prefix(HEAD)?;
        let (id, rest) = rest.split_once('/')?;
        let (sequence, dial) = rest.split_once('/')?;
        let digits = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let is_formed = id.len() == ID_DIGITS && sequence.len() == SEQUENCE_DIGITS && (1..=16).contains(&dial.len());
        if !is_formed || !digits(id) || !digits(sequence) || !digits(dial) {
            return None;
        }
        let id = u128::from_str_radix(id, 16).ok()?.to_be_bytes();
        Some(WriterName {
            id: WriterId(id),
            first_sequence: u64::from_str_radix(sequence, 16).ok().filter(|first| *first > 0)?,
            dial: u64::from_str_radix(dial, 16).ok()?,
        })
    }
}

/// As [`WriterName::parse`] reads it.
impl fmt::Display for WriterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{HEAD}{}/{:016x}/{:x}", self.id, self.first_sequence, self.dial)
    }
}

impl fmt::Display for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for WriterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAME: &str = "udsipc/1/00112233445566778899aabbccddeeff/00000000000000ff/1c";

    #[test]
    fn a_name_says_who_writes_and_which_message_comes_first() {
        let id = [0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff];
        let name = WriterName { id: WriterId(id), first_sequence: 255, dial: 28 };
        assert_eq!(name.to_string(), NAME);
        assert_eq!(WriterName::parse(NAME.as_bytes()), Some(name));
    }

    #[test]
    fn what_is_not_exactly_a_name_of_this_version_is_none() {
        let others = [
            "",
            "udsipc/1/",
            "udsipc/2/00112233445566778899aabbccddeeff/00000000000000ff/1c",
            "xudsipc/1/00112233445566778899aabbccddeeff/00000000000000ff/1c",
            "udsipc/1/00112233445566778899aabbccddeef/00000000000000ff/1c",
            "udsipc/1/00112233445566778899aabbccddeeff0/00000000000000ff/1c",
            "udsipc/1/00112233445566778899AABBCCDDEEFF/00000000000000ff/1c",
            "udsipc/1/+0112233445566778899aabbccddeeff/00000000000000ff/1c",
            "udsipc/1/00112233445566778899aabbccddeeff/0000000000000000/1c",
            "udsipc/1/00112233445566778899aabbccddeeff/ff/1c",
            "udsipc/1/00112233445566778899aabbccddeeff/00000000000000ff/",
            "udsipc/1/00112233445566778899aabbccddeeff/00000000000000ff/1c/",
            "udsipc/1/00112233445566778899aabbccddeeff/00000000000000ff/+c",
            "udsipc/1/00112233445566778899aabbccddeeff/00000000000000ff/0123456789abcdef0",
            "udsipc/1/00112233445566778899aabbccddeeff/00000000000000ff",
        ];
        for other in others {
            assert_eq!(WriterName::parse(other.as_bytes()), None, "{other}");
        }
        assert_eq!(WriterName::parse(b"udsipc/1/\xff"), None);
    }

    proptest! {
        #[test]
        fn every_name_is_read_back(id: [u8; 16], first_sequence in 1_u64.., dial: u64) {
            let name = WriterName { id: WriterId(id), first_sequence, dial };
            prop_assert_eq!(WriterName::parse(name.to_string().as_bytes()), Some(name));
        }

        #[test]
        fn no_bytes_are_a_surprise(bytes in proptest::collection::vec(any::<u8>(), 0..108)) {
            let _ = WriterName::parse(&bytes);
        }
    }
}
