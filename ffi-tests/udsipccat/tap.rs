//! `--tap`: everything passes, and the acknowledgement reaches through it.

use std::thread;
use std::time::Duration;

use crate::desk::{Desk, FAILED, Feeder, TIMED_OUT, assert_complete, ends_with, numbers, signal};
use crate::support::running::Running;

#[test]
fn passes_everything_on_and_shows_it() {
    let desk = Desk::new();
    let mut reader = desk.listen("reader", "-r -n 50001 b", "b");
    let mut tap = desk.listen("tap", "--tap --record=file a b -f json", "a");
    desk.run("-w a", numbers(50_000)).quietly();
    desk.run("-w -f raw a", "\0\n").quietly();
    ends_with(&mut reader, Some(0));
    tap.terminate();
    ends_with(&mut tap, Some(0));
    assert_eq!(tap.stderr(), "");
    assert!(desk.read("reader.out") == [numbers(50_000).as_bytes(), b"\0\n\n"].concat());
    let shown = tap.stdout();
    assert_eq!(shown.lines().count(), 50_001);
    assert!(shown.lines().last().unwrap().ends_with(r#""sequence":1,"size":2,"data":"\u0000\n"}"#));
    let mut replayed = desk.listen("replayed", "-r -n 50001 c", "c");
    desk.run("--replay=file --speed=0 c", "").quietly();
    ends_with(&mut replayed, Some(0));
    assert!(desk.read("replayed.out") == desk.read("reader.out"));
}

/// The writer hears of success only when the reader behind the tap has handled the message.
#[test]
fn acknowledges_what_the_other_side_has_handled() {
    let desk = Desk::new();
    let mut reader = desk.listen("reader", "-r b", "b");
    let mut tap = desk.listen("tap", "--tap a b", "a");
    signal(&reader, "STOP");
    desk.run("-w -t 2 a", "1\n").fails(TIMED_OUT, "1 messages may be lost");
    assert_eq!(tap.stdout(), "", "what is shown has passed");
    signal(&reader, "CONT");
    tap.wait_for("shows it", Running::stdout, |text| text == "1\n");
    desk.run("-w a", "2\n").quietly();
    assert_eq!(reader.stdout(), "1\n2\n");

    // A reader that fails in its callback has not handled the message, and the next one gets it.
    let mut writer = desk.start("writer", "-w a");
    signal(&reader, "KILL");
    reader.wait();
    writer.feed("3\n");
    writer.end_of_input();
    desk.run_command(desk.shell("udsipccat -r b >/dev/full"), "").fails(FAILED, "No space left");
    assert_eq!(tap.stdout(), "1\n2\n");
    assert!(writer.child.try_wait().unwrap().is_none(), "it has been told of a success");
    assert_eq!(desk.run("-r -n 1 b", "").quietly(), b"3\n");
    ends_with(&mut writer, Some(0));
    tap.terminate();
    ends_with(&mut tap, Some(0));
}

#[test]
fn waits_for_the_other_side_on_demand() {
    let desk = Desk::new();
    desk.run("--tap a b", "").fails(FAILED, "nobody listens at b: start the reader first");
    assert!(!desk.path("a").exists(), "it does not listen before it can pass on");
    let mut tap = desk.start("tap", "--tap --wait a b");
    let mut reader = desk.start("reader", "-r -n 1 b");
    desk.run("-w -q -W a", "1\n").quietly();
    ends_with(&mut reader, Some(0));
    tap.terminate();
    ends_with(&mut tap, Some(0));
}

/// A signal while the other side is away: the messages stay with their writer.
#[test]
fn leaves_messages_with_their_writer_when_it_has_to_end() {
    let desk = Desk::new();
    let mut reader = desk.listen("reader", "-r -n 1 b", "b");
    let mut tap = desk.listen("tap", "--tap a b", "a");
    let mut writer = desk.start("writer", "-w -W a");
    writer.feed("1\n2\n3\n");
    writer.end_of_input();
    ends_with(&mut reader, Some(0));
    tap.wait_for("misses the reader", Running::stderr, |text| text.contains("failed to connect"));
    tap.terminate();
    ends_with(&mut tap, FAILED);
    assert!(tap.stderr().contains("their writer sends them to the next reader"), "{}", tap.stderr());
    let rest = desk.run("-r -n 2 a", "").quietly();
    // If all came in one batch, its first message has been handled behind the tap, and comes again.
    assert!(rest == b"2\n3\n" || rest == b"1\n2\n", "{rest:?}");
    let mut last = desk.start("last", "-r a");
    ends_with(&mut writer, Some(0));
    last.terminate();
    ends_with(&mut last, Some(0));
}

/// Kills what `role` names, again and again, while numbered lines flow. Gives back how many have come twice.
fn nothing_is_lost_when_killed(role: &str) -> u64 {
    const KILLS: u64 = 5;
    let desk = Desk::new();
    let readers = |name: &str| desk.start(name, "-r b");
    let taps = |name: &str| desk.start(name, "--tap --wait a b");
    let (mut reader, mut tap) = (readers("reader0"), taps("tap0"));
    let mut writer = desk.start("writer", "-w --wait a");
    let feeder = Feeder::start(&mut writer);
    let mut printed = String::new();
    for kill in 1..=KILLS {
        let last = if role == "tap" { &mut tap } else { &mut reader };
        let before = last.stdout().len();
        last.wait_for("has more", Running::stdout, |text| text.len() > before);
        thread::sleep(Duration::from_millis(kill * 3)); // anywhere in a batch, or between two
        last.child.kill().unwrap();
        last.wait();
        if role == "tap" {
            tap = taps(&format!("tap{kill}"));
        } else {
            let text = reader.stdout();
            printed += &text[..text.rfind('\n').map_or(0, |end| end + 1)]; // a write may have been cut short
            reader = readers(&format!("reader{kill}"));
        }
    }
    let count = feeder.stop();
    ends_with(&mut writer, Some(0));
    tap.terminate();
    ends_with(&mut tap, Some(0));
    reader.terminate();
    ends_with(&mut reader, Some(0));
    printed += &reader.stdout();
    assert_complete(&printed, count)
}

#[test]
fn nothing_is_lost_when_the_tap_is_killed() {
    nothing_is_lost_when_killed("tap");
}

#[test]
fn nothing_is_lost_when_the_reader_behind_it_is_killed() {
    nothing_is_lost_when_killed("reader");
}
