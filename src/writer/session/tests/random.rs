//! Random sequences of everything that can happen, with the account checked after every step.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Write(usize),
    /// The kernel takes so many bytes more before it is full.
    Room(usize),
    NoMemory,
    /// The peer reads so many bytes.
    Read(usize),
    /// The peer closes, over what it has not read.
    Close,
    /// The peer has died: a send takes the error off the socket.
    Reset,
    /// The peer takes nothing more, and reads on.
    Shut,
    /// The peer hangs up, and closes later.
    ShutBoth,
    /// The peer stops answering and is replaced at the path.
    Replace,
    Refuse(bool),
    BacklogFull(bool),
    PathAppears,
    Await(bool),
    Pass(Duration),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1_usize..400).prop_map(Op::Write),
        1 => (30_000_usize..70_000).prop_map(Op::Write),
        4 => (0_usize..2_000).prop_map(Op::Room),
        1 => Just(Op::NoMemory),
        4 => (0_usize..2_000).prop_map(Op::Read),
        2 => Just(Op::Close),
        1 => Just(Op::Reset),
        2 => Just(Op::Shut),
        1 => Just(Op::ShutBoth),
        1 => Just(Op::Replace),
        2 => any::<bool>().prop_map(Op::Refuse),
        1 => any::<bool>().prop_map(Op::BacklogFull),
        1 => Just(Op::PathAppears),
        1 => any::<bool>().prop_map(Op::Await),
        3 => (1_u64..3_000).prop_map(|time| Op::Pass(ms(time))),
    ]
}

/// What the peers do, shared with the dial.
#[derive(Default)]
struct Peers {
    wires: Vec<FakeConnection>,
    refuses: bool,
    is_full: bool,
}

struct Run {
    it: Simulation,
    peers: Rc<RefCell<Peers>>,
    /// What was accepted, in order.
    accepted: Vec<Vec<u8>>,
}

impl Run {
    fn new(max_attempts: u32) -> Run {
        let peers = Rc::<RefCell<Peers>>::default();
        let dialled = Rc::clone(&peers);
        let mut it = Simulation::new(move |_| {
            let mut peers = dialled.borrow_mut();
            match (peers.refuses, peers.is_full) {
                (true, _) => refused(),
                (_, true) => backlog_full(),
                _ => {
                    let wire = FakeConnection::with(|wire| wire.room = Some(1_000));
                    peers.wires.push(wire.clone());
                    Ok(wire)
                }
            }
        });
        it.options.max_attempts = max_attempts;
        Run { it, peers, accepted: Vec::new() }
    }

    fn present(&self) -> Option<FakeConnection> {
        self.peers.borrow().wires.last().filter(|wire| !wire.0.borrow().is_closed).cloned()
    }

    fn write(&mut self, len: usize) {
        let mut message = format!("{:06}", self.accepted.len()).into_bytes();
        message.resize(6 + len, b'.');
        if self.it.queue.push(&message).is_ok() {
            self.accepted.push(message);
        }
    }

    fn close(&self, wire: &FakeConnection) {
        if !wire.0.borrow().hung_up {
            wire.close_by_peer();
        }
    }

    fn apply(&mut self, op: Op) {
        let present = self.present();
        let change = |change: &dyn Fn(&mut Wire)| {
            if let Some(wire) = &present {
                change(&mut wire.0.borrow_mut());
            }
        };
        match op {
            Op::Write(len) => self.write(len),
            Op::Room(more) => change(&|wire| wire.room = wire.room.map(|room| room.max(wire.taken.len()) + more)),
            Op::NoMemory => change(&|wire| {
                wire.answers.push_back(Sent::NoMemory(io::ErrorKind::OutOfMemory.into()));
            }),
            Op::Read(bytes) => change(&|wire| {
                if !wire.hung_up {
                    wire.read = (wire.read + bytes).min(wire.taken.len());
                }
            }),
            Op::Shut => change(&|wire| wire.shut = true),
            Op::ShutBoth => {
                change(&|wire| wire.both_shut = true);
                return self.it.hang_up();
            }
            Op::Close | Op::Reset => {
                if let Some(wire) = &present {
                    self.close(wire);
                }
                if matches!(op, Op::Reset) {
                    change(&|wire| wire.send_takes_reset = true);
                    self.write(10);
                    return self.it.poke();
                }
                return self.it.hang_up();
            }
            Op::Replace => self.it.is_replaced = !self.it.is_replaced,
            Op::Refuse(refuses) => self.peers.borrow_mut().refuses = refuses,
            Op::BacklogFull(is_full) => self.peers.borrow_mut().is_full = is_full,
            Op::PathAppears => return self.it.path_appears(),
            Op::Await(is_awaited) => self.it.is_awaited = is_awaited,
            Op::Pass(time) => return self.it.run_for(time),
        }
        self.it.poke();
    }

    /// What went out is what was accepted, in order, each once, less what was given up.
    fn check(&self) {
        let sent: Vec<_> = self.peers.borrow().wires.iter().flat_map(FakeConnection::messages).collect();
        let mut rest = self.accepted.iter();
        for (message, _) in &sent {
            assert!(rest.any(|accepted| accepted == message), "not accepted, twice, or out of order");
        }
        let account = self.it.queue.account();
        assert_eq!(account.accepted.messages, self.accepted.len() as u64);
        assert_eq!(account.sent.messages, sent.len() as u64);
        assert!(self.it.suspected_lost() >= self.lost_and_noticed());
    }

    /// Messages on connections that the session has done with.
    fn lost_and_noticed(&self) -> u64 {
        let wires = &self.peers.borrow().wires;
        let is_noticed = |wire: &&FakeConnection| wire.0.borrow().is_closed && wire.0.borrow().hung_up;
        let unread = |wire: &FakeConnection| {
            let read = wire.0.borrow().read;
            wire.messages().iter().filter(|(_, end)| *end > read).count() as u64
        };
        wires.iter().filter(is_noticed).map(unread).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_account_holds_whatever_happens(
        ops in proptest::collection::vec(op(), 1..120),
        max_attempts in 0_u32..4,
        stop_ms in 0_u64..4_000,
        until_deadline in any::<bool>(),
    ) {
        let mut run = Run::new(max_attempts);
        run.it.options.drain_until_deadline = until_deadline;
        for op in ops {
            run.apply(op);
            run.check();
        }
        let (ending, took) = run.it.stop(ms(stop_ms));
        run.check();
        prop_assert!(took <= ms(stop_ms) + ms(1), "{:?}", took);
        let account = run.it.queue.account();
        prop_assert_eq!(account.depth.messages, 0);
        prop_assert_eq!(account.sent.messages + account.abandoned.messages, run.accepted.len() as u64);
        if ending == Ending::Clean {
            prop_assert!(run.present().is_none());
        }
    }
}
