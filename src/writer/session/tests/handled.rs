//! Random sequences of what readers that keep a ledger can do: each message is handled once, in order and under its number,
//! or it is known why not.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::delivery::record::End;
use crate::options::Acknowledge;

#[derive(Debug, Clone)]
enum Op {
    /// Messages of this length, so many.
    Write(usize, usize),
    Room(usize),
    NoMemory,
    Accept,
    /// The reader reads everything.
    Read,
    /// The reader handles so many messages, and begins with the next ones.
    Handle(usize, usize),
    Die,
    End(End),
    /// The reader ends the connection from its side, and reads on.
    Shut,
    Replace,
    Refuse(bool),
    Settled,
    Pass(Duration),
}

fn op() -> impl Strategy<Value = Op> {
    let end = prop_oneof![Just(End::Idle), Just(End::Stop), Just(End::Writer), Just(End::NoResources)];
    prop_oneof![
        6 => (1_usize..400, 1_usize..5).prop_map(|(len, count)| Op::Write(len, count)),
        1 => (30_000_usize..70_000, 1_usize..3).prop_map(|(len, count)| Op::Write(len, count)),
        4 => (0_usize..90_000).prop_map(Op::Room),
        1 => Just(Op::NoMemory),
        4 => Just(Op::Accept),
        2 => Just(Op::Read),
        6 => (0_usize..6, 0_usize..3).prop_map(|(count, busy)| Op::Handle(count, busy)),
        2 => Just(Op::Die),
        2 => end.prop_map(Op::End),
        1 => Just(Op::Shut),
        1 => Just(Op::Replace),
        1 => any::<bool>().prop_map(Op::Refuse),
        3 => Just(Op::Settled),
        3 => (1_u64..600).prop_map(|time| Op::Pass(ms(time))),
    ]
}

/// A reader's side of one connection.
#[derive(Debug, Clone)]
struct Reader {
    wire: FakeConnection,
    accepted: bool,
    position: usize,
    /// How many messages it has handled, and how many of those behind are in a callback.
    handled: u64,
    busy: u64,
}

#[derive(Default)]
struct World {
    /// One for each dial; none where it was refused.
    readers: Vec<Option<Reader>>,
    refuses: bool,
}

struct Run {
    it: Simulation,
    world: Rc<RefCell<World>>,
    accepted: u64,
    /// Numbers of messages in the order in which they were handled.
    handled: Vec<u64>,
    /// Those that were in a callback, or behind the position, when nobody could tell what becomes of them.
    excused: HashSet<u64>,
    is_plain: bool,
}

impl Run {
    fn new(acknowledge: Acknowledge, redeliver: bool) -> Run {
        let world = Rc::<RefCell<World>>::default();
        let dialled = Rc::clone(&world);
        let mut it = Simulation::new(move |_| {
            let mut world = dialled.borrow_mut();
            if world.refuses {
                world.readers.push(None);
                return refused();
            }
            let wire = FakeConnection::with(|wire| wire.room = Some(1_000));
            let reader = Reader { wire: wire.clone(), accepted: false, position: 0, handled: 0, busy: 0 };
            world.readers.push(Some(reader));
            Ok(wire)
        });
        it.options.acknowledge = acknowledge;
        it.options.redeliver = redeliver;
        it.options.max_attempts = 0;
        Run { it, world, accepted: 0, handled: Vec::new(), excused: HashSet::new(), is_plain: false }
    }

    /// The reader of the present connection.
    fn with_reader(&mut self, body: impl FnOnce(&mut Run, &mut Reader, u64)) {
        let last = self.world.borrow().readers.len().wrapping_sub(1);
        let Some(mut reader) = self.world.borrow().readers.get(last).cloned().flatten() else { return };
        let first = self.it.first_sequences[last];
        let over = {
            let wire = reader.wire.0.borrow();
            wire.is_closed || wire.hung_up
        };
        if !over {
            body(self, &mut reader, first);
            self.world.borrow_mut().readers[last] = Some(reader);
        }
    }

    fn write(&mut self, len: usize) {
        let mut message = format!("{:06}", self.accepted + 1).into_bytes();
        message.resize(6 + len, b'.');
        let Ok(wake) = self.it.queue.push(&message) else { return };
        self.accepted += 1;
        if wake.is_session() {
            self.it.now += Duration::from_micros(30);
            let now = self.it.now;
            let sent = self.it.with_session(|session, context| {
                let sent = session.send_at_once(now, context);
                session.schedule_lone_poll(now);
                sent
            });
            if !sent {
                self.it.poke();
            }
        }
    }

    fn handle(run: &mut Run, reader: &mut Reader, first: u64, count: usize, busy: usize) {
        let taken = reader.wire.0.borrow().taken.clone();
        let mut at = reader.position;
        let mut end = at;
        let (mut handled, mut in_callback) = (0, 0);
        while let Frame::Whole { start, end: frame } = frame::decode(&taken[end..], u64::MAX) {
            let message = &taken[end + start..end + frame];
            if message.is_empty() {
                end += frame;
                if in_callback == 0 {
                    at = end;
                }
                continue;
            }
            if handled < count {
                let number: u64 = std::str::from_utf8(&message[..6]).expect("digits").parse().expect("a number");
                assert_eq!(number, first + reader.handled, "the number that the reader computes");
                reader.handled += 1;
                run.handled.push(number);
                handled += 1;
                end += frame;
                at = end;
            } else if in_callback < busy {
                in_callback += 1;
                end += frame;
            } else {
                break;
            }
        }
        if in_callback == 0 {
            end = at;
        }
        reader.position = at;
        reader.busy = in_callback as u64;
        let mut wire = reader.wire.0.borrow_mut();
        wire.read = wire.read.max(end);
        wire.handled = Handled { position: at as u64, end: end as u64 };
    }

    fn excuse(&mut self, reader: &Reader, first: u64, count: u64) {
        self.excused.extend((0..count).map(|at| first + reader.handled + at));
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Write(len, count) => (0..count).for_each(|_| self.write(len)),
            Op::Room(more) => self.with_reader(|_, reader, _| {
                let mut wire = reader.wire.0.borrow_mut();
                let most = wire.read + 60_000; // what the kernel holds
                wire.room = wire.room.map(|room| (room.max(wire.taken.len()) + more).min(most).max(wire.taken.len()));
            }),
            Op::NoMemory => self.with_reader(|_, reader, _| {
                reader.wire.0.borrow_mut().answers.push_back(Sent::NoMemory(io::ErrorKind::OutOfMemory.into()));
            }),
            Op::Accept => self.with_reader(|run, reader, _| {
                if !reader.accepted {
                    reader.accepted = true;
                    if !run.is_plain {
                        reader.wire.0.borrow_mut().records.push_back(RecordEvent::Ledger);
                    }
                }
            }),
            Op::Read => self.with_reader(|_, reader, _| {
                if reader.accepted {
                    reader.wire.read_all()
                }
            }),
            Op::Handle(count, busy) => self.with_reader(|run, reader, first| {
                if reader.accepted {
                    Run::handle(run, reader, first, count, busy);
                }
            }),
            Op::Die => {
                self.with_reader(|run, reader, first| {
                    if !reader.accepted && !run.it.session.expects_ledger {
                        run.excuse(reader, first, 1_000_000); // nobody can tell
                    }
                    run.excuse(reader, first, reader.busy);
                    let mut wire = reader.wire.0.borrow_mut();
                    wire.hung_up = true;
                    wire.reset = !reader.accepted || wire.read < wire.taken.len() || reader.position < wire.taken.len();
                });
                return self.it.hang_up();
            }
            Op::End(end) => {
                self.with_reader(|run, reader, first| {
                    if !reader.accepted {
                        return;
                    }
                    let busy = reader.busy as usize;
                    Run::handle(run, reader, first, busy, 0);
                    let mut wire = reader.wire.0.borrow_mut();
                    wire.records.push_back(RecordEvent::Final { position: reader.position as u64, end });
                    wire.handled = Handled { position: 1 << 30, end: 1 << 31 }; // another connection's
                    wire.hung_up = true;
                    wire.reset = wire.read < wire.taken.len();
                });
                self.it.settled();
                return self.it.hang_up();
            }
            Op::Shut => self.with_reader(|_, reader, _| {
                if reader.accepted {
                    reader.wire.0.borrow_mut().shut = true;
                }
            }),
            Op::Replace => self.it.is_replaced = !self.it.is_replaced,
            Op::Refuse(refuses) => self.world.borrow_mut().refuses = refuses,
            Op::Settled => {
                let settled = self.it.settled();
                let over = self.handled.iter().collect::<HashSet<_>>().len() as u64
                    + self.it.suspected_lost()
                    + self.it.abandoned();
                assert!(settled <= over || !self.excused.is_empty(), "{settled} of {over}");
            }
            Op::Pass(time) => return self.it.run_for(time),
        }
        self.it.poke();
    }

    fn finish(&mut self, patience: usize) {
        self.world.borrow_mut().refuses = false;
        self.it.is_replaced = false;
        for _ in 0..patience {
            self.apply(Op::Accept);
            self.apply(Op::Room(1 << 20));
            self.apply(Op::Handle(1 << 20, 0));
            self.apply(Op::Read); // a part of a frame
            self.it.run_for(ms(300));
            let over = self.it.settled();
            if over == self.accepted {
                return;
            }
            // One that has shut its side closes.
            let mut shut = false;
            self.with_reader(|_, reader, _| shut = reader.wire.0.borrow().shut);
            if shut {
                self.apply(Op::End(End::Idle));
            }
        }
        panic!("{} of {}: {:?}", self.it.settled(), self.accepted, self.it.wake_at.map(|at| at - self.it.now));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(25))]
    #[test]
    fn each_is_handled_once_or_it_is_known_why_not(
        required: bool, redeliver: bool, ops in proptest::collection::vec(op(), 1..70),
    ) {
        let acknowledge = if required { Acknowledge::Required } else { Acknowledge::IfPossible };
        let mut run = Run::new(acknowledge, redeliver);
        let silent = ops.iter().any(|op| matches!(op, Op::Shut | Op::Replace));
        for op in ops {
            run.apply(op);
        }
        run.finish(120);
        let distinct: HashSet<u64> = run.handled.iter().copied().collect();
        let lost = run.it.suspected_lost() + run.it.abandoned();
        let missing = (1..=run.accepted).filter(|number| !distinct.contains(number)).count() as u64;
        prop_assert!(missing <= lost, "{missing} missing, {lost} lost");
        prop_assert_eq!(run.it.queue.account().depth.messages, 0);
        if !silent && run.excused.is_empty() {
            prop_assert_eq!(distinct.len(), run.handled.len(), "twice");
            prop_assert!(run.handled.is_sorted());
            prop_assert_eq!((missing, lost), (0, 0));
            prop_assert_eq!(run.it.acknowledged_count(), run.accepted);
        }
        if required && redeliver {
            prop_assert_eq!((missing, lost), (0, 0));
        }
        prop_assert!(run.it.acknowledged_count() <= distinct.len() as u64);
    }

    /// A stop whose time is up in the very step in which the reader dies, or does not: no message has two ends.
    #[test]
    fn a_stop_counts_each_message_once(
        redeliver: bool, dies: bool, ops in proptest::collection::vec(op(), 1..70),
    ) {
        let mut run = Run::new(Acknowledge::IfPossible, redeliver);
        for op in ops {
            run.apply(op);
        }
        run.it.begin_stop(ms(200));
        run.it.poke();
        if dies {
            run.with_reader(|_, reader, _| {
                let mut wire = reader.wire.0.borrow_mut();
                (wire.hung_up, wire.reset) = (true, wire.read < wire.taken.len());
            });
        }
        run.it.now += ms(200);
        run.it.poke();
        prop_assert!(run.it.ending.is_some());
        let account = run.it.queue.account();
        prop_assert_eq!(account.accepted, account.sent.plus(account.abandoned));
        let (acknowledged, lost) = (run.it.acknowledged_count(), run.it.suspected_lost());
        prop_assert!(acknowledged + lost <= account.sent.messages, "{acknowledged} + {lost} of {account:?}");
    }
}

impl Simulation {
    fn acknowledged_count(&self) -> u64 {
        self.count(|counters| &counters.acknowledged)
    }
}
