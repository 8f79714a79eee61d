//! Records, which a reader sends to a writer with a name: 32 bytes in native byte order.

/// The length of a record.
pub(crate) const RECORD: usize = 32;

/// The first four bytes of every record. None of them is 0 in any byte order.
const MAGIC: u32 = 0x3153_4455;
const VERSION: u16 = 1;

/// What a reader says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// It keeps account of this connection in the ledger whose descriptor comes with the record, in the slot at `offset`.
    Ledger { offset: u64 },
    /// It would, and cannot: it has no memory or no descriptor for it.
    NoLedger,
    /// It is about to close the connection, and has handled the stream up to `position`.
    Final { position: u64, end: End },
    /// The writer may go on in the ring of `size` bytes whose descriptor comes with the record.
    Ring { size: u64 },
    /// Of a later version: to be passed over.
    Unknown,
}

/// Why a reader ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The writer had ended it.
    Writer,
    /// Nothing came for the inactivity timeout.
    Idle,
    /// The reader stops.
    Stop,
    /// The peer check does not admit the writer.
    NotAdmitted,
    /// There are as many connections as there may be.
    TooManyConnections,
    /// A message is longer than the reader takes.
    TooLarge { limit: u64 },
    /// A length prefix is none.
    Malformed,
    /// The reader lacks memory or descriptors.
    NoResources,
}

const LEDGER: u16 = 1;
const NO_LEDGER: u16 = 2;
const FINAL: u16 = 3;
const RING: u16 = 4;

/// What a writer sends where a frame may begin to ask for a ring: an empty frame whose prefix is longer than it has to be, which
/// nobody else sends. A reader without rings passes over it as over any other empty frame.
pub(crate) const RING_REQUEST: [u8; 4] = [0x80, 0x80, 0x80, 0];

impl Record {
    pub(crate) fn encode(self) -> [u8; RECORD] {
        let (kind, position, value, reason) = match self {
            Record::Ledger { offset } => (LEDGER, 0, offset, 0),
            Record::NoLedger => (NO_LEDGER, 0, 0, 0),
            Record::Final { position, end } => {
                let (reason, value) = end.encode();
                (FINAL, position, value, reason)
            }
            Record::Ring { size } => (RING, 0, size, 0),
            Record::Unknown => (u16::MAX, 0, 0, 0),
        };
        let mut bytes = [0; RECORD];
        bytes[0..4].copy_from_slice(&MAGIC.to_ne_bytes());
        bytes[4..6].copy_from_slice(&VERSION.to_ne_bytes());
        bytes[6..8].copy_from_slice(&kind.to_ne_bytes());
        bytes[8..16].copy_from_slice(&position.to_ne_bytes());
        bytes[16..24].copy_from_slice(&value.to_ne_bytes());
        bytes[24..28].copy_from_slice(&reason.to_ne_bytes());
        bytes
    }

    /// `None`: these bytes are no record.
    pub(crate) fn decode(bytes: &[u8; RECORD]) -> Option<Record> {
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let half = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        let short = |at: usize| u16::from_ne_bytes(std::array::from_fn(|byte| bytes[at + byte]));
        if half(0) != MAGIC {
            return None;
        }
        let (position, value) = (word(8), word(16));
        Some(match (short(4), short(6)) {
            (VERSION, LEDGER) => Record::Ledger { offset: value },
            (VERSION, NO_LEDGER) => Record::NoLedger,
            (VERSION, RING) => Record::Ring { size: value },
            (VERSION, FINAL) => Record::Final { position, end: End::decode(half(24), value) },
            _ => Record::Unknown,
        })
    }
}

impl End {
    fn encode(self) -> (u32, u64) {
        match self {
            End::Writer => (0, 0),
            End::Idle => (1, 0),
            End::Stop => (2, 0),
            End::NotAdmitted => (3, 0),
            End::TooManyConnections => (4, 0),
            End::TooLarge { limit } => (5, limit),
            End::Malformed => (6, 0),
            End::NoResources => (7, 0),
        }
    }

    /// A reason of a later version is an orderly end as any other.
    fn decode(reason: u32, value: u64) -> End {
        match reason {
            1 => End::Idle,
            2 => End::Stop,
            3 => End::NotAdmitted,
            4 => End::TooManyConnections,
            5 => End::TooLarge { limit: value },
            6 => End::Malformed,
            7 => End::NoResources,
            _ => End::Writer,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const ENDS: [End; 8] = [
        End::Writer,
        End::Idle,
        End::Stop,
        End::NotAdmitted,
        End::TooManyConnections,
        End::TooLarge { limit: 10 << 20 },
        End::Malformed,
        End::NoResources,
    ];

    #[test]
    fn every_record_is_read_back() {
        let finals = ENDS.map(|end| Record::Final { position: u64::MAX, end });
        for record in [Record::Ledger { offset: 4096 + 64 }, Record::NoLedger, Record::Ring { size: 1 << 22 }]
            .into_iter()
            .chain(finals)
        {
            assert_eq!(Record::decode(&record.encode()), Some(record));
        }
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let bytes = Record::Final { position: 7, end: End::TooLarge { limit: 9 } }.encode();
        let mut expected = [0; RECORD];
        expected[..4].copy_from_slice(&0x3153_4455_u32.to_ne_bytes());
        expected[4..6].copy_from_slice(&1_u16.to_ne_bytes());
        expected[6..8].copy_from_slice(&3_u16.to_ne_bytes());
        expected[8..16].copy_from_slice(&7_u64.to_ne_bytes());
        expected[16..24].copy_from_slice(&9_u64.to_ne_bytes());
        expected[24..28].copy_from_slice(&5_u32.to_ne_bytes());
        assert_eq!(bytes, expected);
    }

    #[test]
    fn later_versions_and_kinds_are_passed_over_and_other_bytes_are_no_record() {
        let mut later = Record::NoLedger.encode();
        later[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        assert_eq!(Record::decode(&later), Some(Record::Unknown));
        let mut kind = Record::NoLedger.encode();
        kind[6..8].copy_from_slice(&5_u16.to_ne_bytes());
        assert_eq!(Record::decode(&kind), Some(Record::Unknown));
        let mut reason = Record::Final { position: 5, end: End::Malformed }.encode();
        reason[24..28].copy_from_slice(&99_u32.to_ne_bytes());
        assert_eq!(Record::decode(&reason), Some(Record::Final { position: 5, end: End::Writer }));
        let mut other = Record::NoLedger.encode();
        other[0] ^= 1;
        assert_eq!(Record::decode(&other), None);
    }
}
