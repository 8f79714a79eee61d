//! What the reader says of a connection: its records, and its ledger. Nothing here is trusted.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::Arc;

use crate::delivery::record::{End, RECORD, Record};
use crate::sys::descriptor::Descriptor;
use crate::sys::ledger::{Handled, Slot};
use crate::sys::ring::WriterRing;
use crate::sys::{socket, thread};

/// What has been heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RecordEvent {
    /// Nothing more for now.
    WouldBlock,
    /// The reader keeps a ledger: [`Records::handled`] tells how far it has come.
    Ledger,
    /// The reader cannot, or its ledger is none; or what it sends is no record.
    NoLedger,
    /// The reader has handled the stream up to `position` and is about to close the connection.
    Final { position: u64, end: End },
    /// The writer may go on in the ring that [`Records::take_ring`] gives.
    Ring,
    /// The peer sends nothing more.
    Eof,
    /// The peer has closed over unread bytes: the kernel says so once, and has now (ECONNRESET).
    Reset,
}

/// How many pieces are received in a row at most. A reader sends a few records in all; one that sends faster than it is heard
/// must not hold up the writer.
const MOST_PIECES: u32 = 256;

/// The records of one connection.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// The beginning of a record, and the descriptor that came with it.
    cut: Vec<u8>,
    passed: Option<Descriptor>,
    slot: Option<Arc<Slot>>,
    ring: Option<WriterRing>,
    /// How many pieces have come since there was nothing.
    pieces: u32,
    /// Bytes came that are no record, or too many: whatever else comes is left alone.
    is_invalid: bool,
}

impl Records {
    /// Receives what is there, without waiting.
    pub(super) fn receive(&mut self, fd: BorrowedFd<'_>) -> RecordEvent {
        while !self.is_invalid {
            match self.receive_piece(fd) {
                Ok(true) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return RecordEvent::Reset,
                Ok(false) => return RecordEvent::Eof,
                Err(_) => {
                    self.pieces = 0;
                    break;
                }
            }
            self.pieces += 1;
            if self.pieces > MOST_PIECES {
                self.is_invalid = true;
                return RecordEvent::NoLedger;
            }
            if let Some(heard) = self.take_whole() {
                return heard;
            }
        }
        RecordEvent::WouldBlock
    }

    /// How far the reader has handled the stream.
    pub(super) fn handled(&self) -> Handled {
        self.slot.as_ref().map(|slot| slot.read()).unwrap_or_default()
    }

    /// The ring that has come, and the slot that goes with it.
    pub(super) fn take_ring(&mut self) -> Option<(WriterRing, Arc<Slot>)> {
        Some((self.ring.take()?, Arc::clone(self.slot.as_ref()?)))
    }

    fn receive_piece(&mut self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        let mut piece = [0; RECORD];
        let (got, passed) = socket::recv_with_descriptor(fd, &mut piece[..RECORD - self.cut.len()])?;
        if let Some(second) = passed.and_then(|passed| self.passed.replace(passed)) {
            thread::close_elsewhere(second);
        }
        let piece = &piece[..got];
        // A single 0 is a bell: there is room in the ring. No record begins with it.
        let bells = if self.cut.is_empty() { piece.iter().take_while(|byte| **byte == 0).count() } else { 0 };
        self.cut.extend_from_slice(&piece[bells..]);
        Ok(got > 0)
    }

    fn take_whole(&mut self) -> Option<RecordEvent> {
        let bytes = <&[u8; RECORD]>::try_from(&*self.cut).ok()?;
        let record = Record::decode(bytes);
        self.cut = Vec::new(); // seldom needed: an idle connection holds no memory for it
        let passed = self.passed.take();
        match record {
            Some(Record::Ledger { offset }) if self.slot.is_none() => Some(self.map(passed, offset)),
            Some(Record::NoLedger) => self.without(passed, Some(RecordEvent::NoLedger)),
            Some(Record::Final { position, end }) => self.without(passed, Some(RecordEvent::Final { position, end })),
            Some(Record::Ring { size }) if self.slot.is_some() => self.map_ring(passed, size),
            Some(Record::Ledger { .. } | Record::Ring { .. } | Record::Unknown) => self.without(passed, None),
            None => {
                self.is_invalid = true;
                self.without(passed, Some(RecordEvent::NoLedger))
            }
        }
    }

    fn map(&mut self, passed: Option<Descriptor>, offset: u64) -> RecordEvent {
        let Some(passed) = passed else { return RecordEvent::NoLedger };
        match Slot::map(passed.as_fd(), offset) {
            Ok(slot) => {
                self.slot = Some(Arc::new(slot));
                RecordEvent::Ledger // a sealed memfd: to close it takes no time
            }
            Err(_) => {
                thread::close_elsewhere(passed);
                RecordEvent::NoLedger
            }
        }
    }

    /// A ring that cannot be mapped is as good as none: the socket goes on.
    fn map_ring(&mut self, passed: Option<Descriptor>, size: u64) -> Option<RecordEvent> {
        let passed = passed?;
        match WriterRing::map(passed.as_fd(), size) {
            Ok(ring) => {
                self.ring = Some(ring);
                Some(RecordEvent::Ring)
            }
            Err(_) => self.without(Some(passed), None),
        }
    }

    /// A descriptor that nobody has asked for.
    fn without(&self, passed: Option<Descriptor>, heard: Option<RecordEvent>) -> Option<RecordEvent> {
        passed.into_iter().for_each(thread::close_elsewhere);
        heard
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.passed.take().into_iter().for_each(thread::close_elsewhere);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::io::Write as _;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::sys::ledger::Ledger;

    fn heard_of(send: impl FnOnce(&mut UnixStream)) -> (Vec<RecordEvent>, Records) {
        let (mut reader, ours) = UnixStream::pair().expect("a pair");
        send(&mut reader);
        let mut records = Records::default();
        let mut all = Vec::new();
        loop {
            match records.receive(ours.as_fd()) {
                RecordEvent::WouldBlock | RecordEvent::Eof => return (all, records),
                heard => all.push(heard),
            }
        }
    }

    fn pass(reader: &UnixStream, record: Record, passed: BorrowedFd<'_>) {
        let sent = socket::send_with_descriptor(reader.as_fd(), &record.encode(), passed).expect("room");
        assert_eq!(sent, RECORD);
    }

    #[test]
    fn a_ledger_is_mapped_and_read() {
        let ledger = Ledger::create().expect("a ledger");
        ledger.prepare(70).expect("a page");
        ledger.set_busy(70, 3, 8);
        let (heard, records) = heard_of(|reader| {
            pass(reader, Record::Ledger { offset: Ledger::offset(70) }, ledger.as_fd());
        });
        assert_eq!(heard, [RecordEvent::Ledger]);
        assert_eq!(records.handled(), Handled { position: 3, end: 8 });
    }

    #[test]
    fn records_come_in_any_pieces_with_bells_between_them_and_others_are_passed_over() {
        let last = Record::Final { position: 9, end: End::Stop };
        let bytes = [&[0, 0][..], &Record::NoLedger.encode(), &[0], &Record::Unknown.encode(), &last.encode()].concat();
        for piece in 1..bytes.len() {
            let (mut reader, ours) = UnixStream::pair().expect("a pair");
            let (mut records, mut all) = (Records::default(), Vec::new());
            for piece in bytes.chunks(piece) {
                reader.write_all(piece).expect("room");
                all.extend(std::iter::from_fn(|| {
                    Some(records.receive(ours.as_fd())).filter(|heard| *heard != RecordEvent::WouldBlock)
                }));
            }
            assert_eq!(
                all,
                [RecordEvent::NoLedger, RecordEvent::Final { position: 9, end: End::Stop }],
                "pieces of {piece}"
            );
        }
    }

    #[test]
    fn what_is_no_record_is_said_once_and_left_alone() {
        let (heard, mut records) = heard_of(|reader| reader.write_all(&[7; 100]).expect("room"));
        assert_eq!(heard, [RecordEvent::NoLedger]);
        let (mut reader, ours) = UnixStream::pair().expect("a pair");
        reader.write_all(&Record::NoLedger.encode()).expect("room");
        assert_eq!(records.receive(ours.as_fd()), RecordEvent::WouldBlock);
    }

    #[test]
    fn a_reader_that_never_ends_is_not_listened_to_for_ever() {
        for endless in
            [vec![0; 1 << 16], Record::Unknown.encode().repeat(1 << 10), Record::NoLedger.encode().repeat(1 << 10)]
        {
            let (mut reader, ours) = UnixStream::pair().expect("a pair");
            let mut records = Records::default();
            reader.write_all(&endless).expect("room");
            let heard = std::iter::from_fn(|| {
                Some(records.receive(ours.as_fd())).filter(|heard| *heard != RecordEvent::WouldBlock)
            });
            assert!(heard.count() <= MOST_PIECES as usize + 1);
            assert!(records.is_invalid);
        }
    }

    #[test]
    fn a_close_over_unread_bytes_is_told_behind_the_records() {
        let (mut reader, mut ours) = UnixStream::pair().expect("a pair");
        ours.write_all(b"unread").expect("room");
        reader.write_all(&Record::NoLedger.encode()).expect("room");
        drop(reader);
        let mut records = Records::default();
        let heard = std::array::from_fn(|_| records.receive(ours.as_fd()));
        assert_eq!(heard, [RecordEvent::NoLedger, RecordEvent::Reset, RecordEvent::Eof, RecordEvent::Eof]);
    }

    #[test]
    fn a_descriptor_that_is_no_ledger_is_refused_and_a_second_ledger_passed_over() {
        let file = tempfile::tempfile().expect("a file");
        let (heard, _) = heard_of(|reader| pass(reader, Record::Ledger { offset: 0 }, file.as_fd()));
        assert_eq!(heard, [RecordEvent::NoLedger]);
        let ledger = Ledger::create().expect("a ledger");
        ledger.prepare(0).expect("a page");
        let (heard, records) = heard_of(|reader| {
            pass(reader, Record::Ledger { offset: 0 }, ledger.as_fd());
            pass(reader, Record::Ledger { offset: 64 }, ledger.as_fd());
            pass(reader, Record::NoLedger, file.as_fd());
        });
        assert_eq!(heard, [RecordEvent::Ledger, RecordEvent::NoLedger]);
        ledger.set_idle(0, 5);
        assert_eq!(records.handled().position, 5);
        let (heard, _) = heard_of(|reader| reader.write_all(&Record::Ledger { offset: 0 }.encode()).expect("room"));
        assert_eq!(heard, [RecordEvent::NoLedger], "without a descriptor");
    }
}
