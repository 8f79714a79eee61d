//! `--record` and `--replay`: what was recorded is what was sent, whoever was killed meanwhile.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::desk::{Desk, FAILED, Feeder, assert_complete, ends_with, numbers};
use crate::support::running::Running;

/// A recording of messages that came so many seconds after the first.
fn recording(messages: &[(&str, &str)]) -> String {
    let record = |(time, text): &(&str, &str)| format!("{time} 1 4711 1000 1000 - 0 {}\n{text}\n", text.len());
    "udsipc-recording 1\n".to_owned() + &messages.iter().map(record).collect::<String>()
}

/// What a recording holds, a message a line.
fn replayed(desk: &Desk, file: &str, count: usize) -> String {
    let mut reader = desk.listen("replayed", &format!("-r -n {count} replayed"), "replayed");
    let done = desk.run(&format!("--replay={file} --speed=0 replayed"), "");
    assert!(done.status.success(), "{}", done.stderr);
    ends_with(&mut reader, Some(0));
    reader.stdout()
}

#[test]
fn any_bytes_come_back_with_their_sender() {
    let desk = Desk::new();
    desk.write("binary", (0..=255).cycle().take(300_000).collect::<Vec<u8>>());
    let mut recorder = desk.listen("recorder", "--record file s", "s");
    desk.run("-w -f raw s binary - binary", "udsipc-recording 1\n1.000000 1 1 1 1 - 0 1\n").quietly();
    desk.run("-w -a never s", "plain\n").quietly();
    recorder.terminate();
    ends_with(&mut recorder, Some(0));
    assert_eq!((recorder.stdout(), recorder.stderr()), (String::new(), String::new()));

    let mut reader = desk.listen("reader", "-r -n 4 -f frames t", "t");
    desk.run("--replay file t", "").quietly();
    ends_with(&mut reader, Some(0));
    let binary = [b"\xe0\xa7\x12", &desk.read("binary")[..]].concat();
    let text = b"\x2audsipc-recording 1\n1.000000 1 1 1 1 - 0 1\n";
    assert!(desk.read("reader.out") == [&binary[..], text, &binary, b"\x05plain"].concat());

    let file = desk.read("file");
    let header = file.split(|byte| *byte == b'\n').nth(1).unwrap();
    let fields: Vec<_> = std::str::from_utf8(header).unwrap().split(' ').collect();
    assert_eq!((fields.len(), fields[1], fields[6], fields[7]), (8, "1", "1", "300000"));
    assert_eq!(fields[5].len(), 32);
    let plain = b" - 0 5\nplain\n";
    assert!(file.ends_with(plain), "a writer without an identifier");
}

#[test]
fn pauses_are_kept_and_scaled() {
    let desk = Desk::new();
    desk.write("file", recording(&[("1.500000", "1"), ("1.900000", "2"), ("1.800000", "3"), ("2.500000", "4")]));
    let _reader = desk.listen("reader", "-r -f none s", "s");
    let takes = |arguments: &str| {
        let begin = Instant::now();
        desk.run(&format!("--replay file {arguments} s"), "").quietly();
        begin.elapsed()
    };
    let whole = takes("");
    assert!(whole >= Duration::from_secs(1), "{whole:?}");
    let half = takes("--speed 2");
    assert!(half >= Duration::from_millis(500), "{half:?}");
    let slower = takes("--speed 0.5 -n 2");
    assert!(slower >= Duration::from_millis(800), "{slower:?}");
    // Far apart: only without pauses it comes to its end.
    desk.write("file", recording(&[("1.000000", "1"), ("100000.000000", "2")]));
    takes("--speed 0");
    assert_eq!(replayed(&desk, "file", 2), "1\n2\n");
}

#[test]
fn a_recording_goes_through_a_pipe() {
    let desk = Desk::new();
    let relay = desk.start_command("relay", desk.shell("udsipccat --record=- -n 3 a | udsipccat --replay=- -W b"));
    let mut reader = desk.start("reader", "-r -n 3 b");
    desk.run("-w -q -W a", "1\n2\n3\n").quietly();
    ends_with(&mut reader, Some(0));
    relay.finish();
    assert_eq!(reader.stdout(), "1\n2\n3\n");
}

#[test]
fn a_record_that_is_cut_off_is_reported_and_then_removed() {
    let desk = Desk::new();
    let whole = recording(&[("1.000000", "first"), ("1.000000", &"x".repeat(200))]); // longer than what replaces it
    let last = whole.len() - recording(&[("1.000000", "first")]).len();
    for cut in [1, 2, 7, 8, 9, last - 1, last] {
        desk.write("file", &whole[..whole.len() - cut]);
        let mut reader = desk.listen("reader", "-r -n 1 s", "s");
        let done = desk.run("--replay file s", "");
        if cut < last {
            done.fails(FAILED, "file ends in the middle of a record: its recorder died; all before it was sent");
        } else {
            done.quietly();
        }
        ends_with(&mut reader, Some(0));
        assert_eq!(reader.stdout(), "first\n");
    }
    desk.write("file", &whole[..whole.len() - 3]);
    let mut recorder = desk.listen("recorder", "--record file s", "s");
    assert!(recorder.stderr().contains("removed a record that was cut off"), "{}", recorder.stderr());
    desk.run("-w s", "third\n").quietly();
    recorder.terminate();
    ends_with(&mut recorder, Some(0));
    assert_eq!(replayed(&desk, "file", 2), "first\nthird\n");
}

#[test]
fn what_is_no_recording_is_refused_and_left_alone() {
    let desk = Desk::new();
    let good = recording(&[("1.000000", "first")]);
    for (content, text) in [
        ("somebody's file\n".to_owned(), "is no recording"),
        (format!("{good}nonsense\n"), "no record at byte"),
        (format!("{good}1.000000 1 1 1 1 - 0 3\nlonger than that\n"), "no record at byte"),
        (good.clone() + &"x".repeat(1000), "no record at byte"),
    ] {
        desk.write("file", &content);
        desk.run("--record file s", "").fails(FAILED, text);
        assert_eq!(desk.read("file"), content.as_bytes());
        let mut reader = desk.listen("reader", "-r s", "s");
        desk.run("--replay file s", "").fails(FAILED, text);
        reader.terminate();
        ends_with(&mut reader, Some(0));
        assert!(good.contains(reader.stdout().trim()));
    }
    desk.run("--replay missing s", "").fails(FAILED, "cannot open missing");
    desk.write("file", recording(&[("1.000000", "longer")]));
    let _reader = desk.listen("reader", "-r -f none s", "s");
    desk.run("--replay file --max-size 3 s", "").fails(FAILED, "larger than --max-size");
}

#[test]
fn a_file_has_one_recorder() {
    let desk = Desk::new();
    let _first = desk.listen("first", "--record file s", "s");
    desk.run("--record file t", "").fails(FAILED, "another process does");
}

/// When there is no room, the file ends with a whole record, and the message goes to the next reader.
#[test]
fn no_room_loses_nothing() {
    let desk = Desk::new();
    desk.write("input", numbers(80_000));
    let mut writer = desk.start("writer", "-w -W s input");
    // A limit on the size of files, in units of 512 bytes or of a KiB. The reader's account is a file too, but smaller.
    let limited = desk.run_command(desk.shell("trap '' XFSZ; ulimit -f 4000; udsipccat --record file s"), "");
    limited.fails(FAILED, "cannot write to file: File too large").fails(FAILED, "sends them to the next reader");
    let mut recorder = desk.start("recorder", "--record file --sync s");
    ends_with(&mut writer, Some(0));
    recorder.terminate();
    ends_with(&mut recorder, Some(0));
    assert_eq!(recorder.stderr(), "", "nothing was cut off");
    assert_eq!(replayed(&desk, "file", 80_000), numbers(80_000));
}

#[test]
fn nothing_is_lost_when_the_recorder_is_killed() {
    let desk = Desk::new();
    let recorders = |number: u64| desk.start(&format!("recorder{number}"), "--record file s");
    let mut recorder = recorders(0);
    let mut writer = desk.start("writer", "-w --wait s");
    let feeder = Feeder::start(&mut writer);
    let size = || fs::metadata(desk.path("file")).map_or(0, |file| file.len());
    for kill in 1..=6 {
        let before = size();
        recorder.wait_for("records", Running::stderr, |_| size() > before + 100_000);
        thread::sleep(Duration::from_millis(kill));
        recorder.child.kill().unwrap();
        recorder.wait();
        recorder = recorders(kill);
    }
    let count = feeder.stop();
    ends_with(&mut writer, Some(0));
    recorder.terminate();
    ends_with(&mut recorder, Some(0));

    let mut reader = desk.listen("reader", "-r s", "s");
    desk.run("--replay=file --speed=0 s", "").quietly();
    reader.terminate();
    ends_with(&mut reader, Some(0));
    assert_complete(&reader.stdout(), count);
}
