//! Random sequences of calls, compared with a model in the simplest words.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Push(usize),
    PushMany(Vec<usize>),
    /// As a timed write does: waits, and tries again.
    Offer(usize),
    Take,
    /// Ends so many of the messages that have been taken.
    Finish(Fate, usize),
    Sleep,
    Close,
}

fn any_len() -> impl Strategy<Value = usize> {
    prop_oneof![6 => 1..300_usize, 2 => Just(LARGE - 1), 2 => LARGE..LARGE + 100, 1 => Just(2 * BATCH), 1 => 0..2_usize]
}

fn any_op() -> impl Strategy<Value = Op> {
    let fate = prop_oneof![Just(Fate::Sent), Just(Fate::Abandoned)];
    prop_oneof![
        8 => any_len().prop_map(|len| Op::Push(len.max(1))),
        3 => prop::collection::vec(any_len(), 0..20).prop_map(Op::PushMany),
        2 => any_len().prop_map(|len| Op::Offer(len.max(1))),
        4 => Just(Op::Take),
        4 => (fate, 0..40_usize).prop_map(|(fate, count)| Op::Finish(fate, count)),
        1 => Just(Op::Sleep),
        1 => prop::bool::weighted(0.2).prop_map(|close| if close { Op::Close } else { Op::Take }),
    ]
}

/// What the queue must do, in the simplest words.
struct Model {
    max: Count,
    accepted: Count,
    sent: Count,
    abandoned: Count,
    closed: bool,
    /// Frames that have not been taken, one behind the other, and their lengths.
    waiting: VecDeque<u8>,
    waiting_lens: VecDeque<usize>,
    /// Payloads that have been taken and are not finished.
    in_hand: VecDeque<usize>,
    sleeping: bool,
    next: u8,
}

impl Model {
    fn new(max: Count) -> Model {
        Model {
            max,
            accepted: Count::default(),
            sent: Count::default(),
            abandoned: Count::default(),
            closed: false,
            waiting: VecDeque::new(),
            waiting_lens: VecDeque::new(),
            in_hand: VecDeque::new(),
            sleeping: false,
            next: 0,
        }
    }

    fn depth(&self) -> Count {
        self.accepted.minus(self.sent).minus(self.abandoned)
    }

    fn message(&mut self, len: usize) -> Vec<u8> {
        self.next = self.next.wrapping_add(1);
        vec![self.next; len]
    }

    /// `Ok(true)`: the session slept.
    fn push(&mut self, message: &[u8]) -> Result<bool, Refusal> {
        let (depth, len) = (self.depth(), message.len() as u64);
        if self.closed {
            return Err(Refusal::Closed);
        }
        let fits = depth.messages < self.max.messages && depth.bytes + len <= self.max.bytes;
        if !fits && depth.messages > 0 {
            return Err(Refusal::Full);
        }
        self.accepted.add(message.len());
        self.waiting.extend(frame_of(message));
        self.waiting_lens.push_back(message.len());
        Ok(std::mem::take(&mut self.sleeping))
    }

    fn push_many(&mut self, messages: &[&[u8]]) -> (usize, Option<Refusal>) {
        for (index, message) in messages.iter().enumerate() {
            if message.is_empty() && !self.closed {
                continue;
            }
            if let Err(refusal) = self.push(message) {
                return (index, Some(refusal));
            }
        }
        (messages.len(), None)
    }

    fn take(&mut self, batch: Option<&Batch>) {
        let Some(batch) = batch else {
            assert!(self.waiting.is_empty(), "nothing to take, and something waits");
            return;
        };
        assert!(batch.messages > 0);
        let expected: Vec<u8> = self.waiting.drain(..batch.bytes.len()).collect();
        assert!(batch.bytes == expected, "the order of bytes is not the order of acceptance");
        let taken: Vec<usize> = self.waiting_lens.drain(..batch.messages as usize).collect();
        assert_eq!(batch.payload, taken.iter().sum::<usize>() as u64);
        self.in_hand.extend(taken);
    }

    fn finish(&mut self, fate: Fate, count: usize) -> Count {
        let mut ended = Count::default();
        for len in self.in_hand.drain(..count.min(self.in_hand.len())) {
            ended.add(len);
        }
        match fate {
            Fate::Sent => self.sent = self.sent.plus(ended),
            Fate::Abandoned => self.abandoned = self.abandoned.plus(ended),
        }
        ended
    }

    fn account(&self) -> Account {
        Account { accepted: self.accepted, sent: self.sent, abandoned: self.abandoned, depth: self.depth(), dropped: 0 }
    }
}

fn run(queue: &Queue, model: &mut Model, op: Op) {
    match op {
        Op::Push(len) => {
            let message = model.message(len);
            assert_eq!(queue.push(&message).map(|wake| wake.is_session()), model.push(&message));
        }
        Op::PushMany(lens) => {
            let messages: Vec<Vec<u8>> = lens.iter().map(|&len| model.message(len)).collect();
            let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            let (slept, woken) = (model.sleeping, AtomicUsize::new(0));
            let wake = |_| {
                woken.fetch_add(1, Ordering::Relaxed);
            };
            assert_eq!(queue.push_many(&slices, wake), model.push_many(&slices));
            assert_eq!(woken.into_inner(), usize::from(slept && !model.sleeping));
        }
        Op::Offer(len) => {
            let message = model.message(len);
            let mut pushed = queue.push(&message);
            if pushed == Err(Refusal::Full) {
                queue.wait_for_room(len, Some(Instant::now()));
                pushed = queue.push(&message);
            }
            assert_eq!(pushed.map(|wake| wake.is_session()), model.push(&message));
        }
        Op::Take => {
            let batch = queue.take();
            model.take(batch.as_ref());
            batch.into_iter().for_each(Batch::recycle);
        }
        Op::Finish(fate, count) => {
            let ended = model.finish(fate, count);
            queue.finish(fate, ended.messages, ended.bytes);
        }
        Op::Sleep => {
            model.sleeping = queue.sleep();
            assert_eq!(model.sleeping, model.waiting.is_empty());
        }
        Op::Close => {
            queue.close();
            model.closed = true;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_account_holds_after_every_step_and_order_is_the_order_of_acceptance(
        max_messages in prop_oneof![1..4_u32, 5..200_u32],
        max_bytes in prop_oneof![Just(0_u64), 1..1000_u64, (LARGE as u64)..(5 * BATCH as u64)],
        ops in prop::collection::vec(any_op(), 1..120),
    ) {
        let queue = Queue::new(max_messages, max_bytes);
        let mut model = Model::new(queue.max());
        for op in ops {
            run(&queue, &mut model, op);
            prop_assert_eq!(queue.account(), model.account());
            prop_assert_eq!(queue.is_empty(), model.waiting.is_empty());
            prop_assert_eq!(queue.is_closed(), model.closed);
        }
        while !model.waiting.is_empty() {
            run(&queue, &mut model, Op::Take);
        }
        prop_assert!(queue.take().is_none());
        let ended = model.finish(Fate::Sent, usize::MAX);
        queue.finish(Fate::Sent, ended.messages, ended.bytes);
        prop_assert_eq!(queue.account().depth, Count::default());
    }
}
