use super::*;
use proptest::prelude::*;

const LONGEST: Duration = Duration::from_secs(10);
const DIAL: Duration = Duration::from_secs(1);

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A connection that was made, carried nothing and ended soon.
const FRUITLESS: Ended = Ended { has_sent: false, has_lost: false, broke: true, lasted: Duration::ZERO };

fn failed(redial: &mut Redial, now: Instant, failure: DialFailure) -> Verdict {
    redial.connect_failed(now, failure, DIAL, LONGEST)
}

fn fail(redial: &mut Redial, now: Instant) {
    assert_eq!(failed(redial, now, DialFailure::NobodyListens), Verdict::Failed);
}

#[test]
fn the_first_dial_is_at_once() {
    let now = Instant::now();
    assert_eq!(Redial::new(now, 1).due(false), now);
}

#[test]
fn what_makes_a_connection_fruitful() {
    let fruitful = |ended: Ended| {
        let now = Instant::now();
        let mut redial = Redial::new(now, 1);
        (0..8).for_each(|_| fail(&mut redial, now));
        redial.connection_ended(now, ended, LONGEST);
        redial.due(false) == now
    };
    assert!(!fruitful(FRUITLESS));
    assert!(fruitful(Ended { has_sent: true, ..FRUITLESS }));
    assert!(!fruitful(Ended { has_sent: true, has_lost: true, lasted: LONGEST, ..FRUITLESS }));
    assert!(fruitful(Ended { lasted: SETTLED, ..FRUITLESS }));
    assert!(!fruitful(Ended { lasted: SETTLED - ms(1), ..FRUITLESS }));
}

#[test]
fn a_message_ends_the_pause_only_after_a_connection_that_was_asked_for_nothing() {
    let dials = |ended| {
        let mut redial = Redial::new(Instant::now(), 1);
        redial.connection_ended(Instant::now(), ended, LONGEST);
        redial.message_ends_pause()
    };
    assert!(dials(Ended { broke: false, ..FRUITLESS }));
    assert!(!dials(FRUITLESS) && !dials(Ended { broke: false, has_sent: true, has_lost: true, ..FRUITLESS }));
}

#[test]
fn a_pause_while_somebody_waits_is_short_and_no_longer_than_else() {
    let now = Instant::now();
    let mut redial = Redial::new(now, 1);
    for _ in 0..12 {
        failed(&mut redial, now, DialFailure::NobodyListens);
        assert!(redial.due(true) <= redial.due(false) && redial.due(true) <= now + HURRIED_PAUSE);
    }
    assert!(redial.due(false) > now + Duration::from_secs(5));
}

#[test]
fn a_full_backlog_counts_when_the_dial_timeout_has_passed() {
    let now = Instant::now();
    let mut redial = Redial::new(now, 1);
    assert_eq!(failed(&mut redial, now, DialFailure::BacklogFull), Verdict::TryAgain);
    assert_eq!(redial.due(false), now + SHORT_STEP);
    assert_eq!(failed(&mut redial, now + DIAL - ms(1), DialFailure::BacklogFull), Verdict::TryAgain);
    assert_eq!(failed(&mut redial, now + DIAL, DialFailure::BacklogFull), Verdict::Failed);
    assert_eq!(failed(&mut redial, now + DIAL, DialFailure::BacklogFull), Verdict::TryAgain, "the time begins anew");
}

#[test]
fn a_refusal_is_not_believed_right_after_the_socket_has_appeared() {
    let now = Instant::now();
    let mut redial = Redial::new(now, 1);
    (0..8).for_each(|_| fail(&mut redial, now));
    redial.path_appeared(now);
    assert_eq!(redial.due(false), now);
    assert_eq!(failed(&mut redial, now, DialFailure::NobodyListens), Verdict::TryAgain);
    let later = now + APPEARED_FOR;
    assert_eq!(failed(&mut redial, later, DialFailure::NobodyListens), Verdict::Failed);
    assert!(redial.due(false) <= later + ms(20), "the backoff has begun anew");
}

#[test]
fn a_drain_gives_up_when_nobody_has_listened_for_a_while() {
    let now = Instant::now();
    let mut redial = Redial::new(now, 1);
    assert_eq!(redial.gives_up_at(now), None, "nothing is known yet");
    failed(&mut redial, now, DialFailure::NobodyListens);
    assert_eq!(redial.gives_up_at(now), Some(now + DRAIN_PATIENCE));
    failed(&mut redial, now, DialFailure::Shortage);
    assert_eq!(redial.gives_up_at(now), Some(now + DRAIN_PATIENCE), "what was heard last holds");
    redial.connected();
    assert_eq!(redial.gives_up_at(now), None);
    redial.connection_ending(now + ms(100));
    failed(&mut redial, now + ms(100), DialFailure::NobodyListens);
    assert_eq!(redial.gives_up_at(now), Some(now + ms(100) + DRAIN_PATIENCE));
    let mut redial = Redial::new(now, 1);
    failed(&mut redial, now, DialFailure::BacklogFull);
    assert_eq!(failed(&mut redial, now + DIAL, DialFailure::BacklogFull), Verdict::Failed);
    assert_eq!(redial.gives_up_at(now), None, "a full backlog is somebody's");
}

#[test]
fn a_drain_gives_up_when_readers_have_refused_for_a_while() {
    let now = Instant::now();
    let mut redial = Redial::new(now, 1);
    for at in [10, 30, 50] {
        redial.connected();
        redial.connection_ending(now + ms(at));
        redial.refused(now + ms(at));
        redial.connection_ended(now + ms(at), Ended { has_lost: true, ..FRUITLESS }, LONGEST);
        assert_eq!(redial.gives_up_at(now), Some(now + ms(10) + DRAIN_PATIENCE));
    }
    redial.connected();
    redial.admitted();
    assert_eq!(redial.gives_up_at(now), None);
}

#[test]
fn the_backoff_begins_anew_after_a_message_that_was_given_up_but_not_at_once() {
    let now = Instant::now();
    let mut redial = Redial::new(now, 1);
    (0..9).for_each(|_| redial.connection_ended(now, FRUITLESS, LONGEST));
    redial.message_given_up(now, LONGEST);
    assert!((ms(5)..=ms(20)).contains(&(redial.due(false) - now)));
}

proptest! {
    /// However a peer behaves that never reads anything, the pauses grow.
    #[test]
    fn fruitless_connections_are_paused_for(kinds in proptest::collection::vec(0..4, 1..40)) {
        let now = Instant::now();
        let mut redial = Redial::new(now, 7);
        for (before, kind) in kinds.iter().enumerate() {
            match kind {
                0 => fail(&mut redial, now),
                1 => prop_assert_eq!(failed(&mut redial, now, DialFailure::Shortage), Verdict::Failed),
                2 => redial.connection_ended(now, FRUITLESS, LONGEST),
                _ => redial.connection_ended(now, Ended { has_sent: true, has_lost: true, ..FRUITLESS }, LONGEST),
            }
            // A connection that ends is replaced before it counts as a failure itself.
            let least = if before == 0 { Duration::ZERO } else { ms(5 << (before - 1).min(20)).min(LONGEST * 3 / 4) };
            prop_assert!(redial.due(false) - now >= least);
        }
    }
}
