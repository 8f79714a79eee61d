//! `-r`: how messages are printed, and that none is acknowledged which is not.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::desk::{Desk, FAILED, TIMED_OUT, ends_with, numbers, signal, udsipccat};
use crate::support::running::Running;
use crate::support::{PATIENCE, output, wait_until};

#[test]
fn each_format_prints_what_it_promises() {
    let desk = Desk::new();
    desk.write("text", "a\"\\\n\u{e4}\u{1f600}\u{7f}");
    desk.write("bytes", b"\x00\xff\xed\xa0\x80");
    let (text, bytes) = (desk.read("text"), desk.read("bytes"));
    for (format, expected) in [
        ("lines", [&text[..], b"\n", &bytes, b"\n"].concat()),
        ("null", [&text[..], b"\0", &bytes, b"\0"].concat()),
        ("raw", [&text[..], &bytes].concat()),
        ("frames", [b"\x0b", &text[..], b"\x05", &bytes].concat()),
        ("hex", b"61225c0ac3a4f09f98807f\n00ffeda080\n".to_vec()),
        ("none", Vec::new()),
    ] {
        let mut reader = desk.listen("reader", &format!("-r -n 2 --format={format} s"), "s");
        desk.run("-w -f raw s text bytes", "").quietly();
        ends_with(&mut reader, Some(0));
        assert_eq!(desk.read("reader.out"), expected, "{format}");
        assert_eq!(reader.stderr(), "");
    }
}

#[test]
fn json_says_who_sent_what_and_when() {
    let desk = Desk::new();
    let mut reader = desk.listen("reader", "-r -n 4 -f json s", "s");
    desk.write("bytes", b"\x00\xff\xed\xa0\x80");
    let before = std::time::SystemTime::now();
    desk.run("-w -f raw s - bytes", "a\"\\\n\u{e4}\u{1f600}\u{7f}\u{1}").quietly();
    desk.run("-w -a never s", "plain\n").quietly();
    UnixStream::connect(desk.path("s")).unwrap().write_all(b"\x04last").unwrap();
    ends_with(&mut reader, Some(0));

    let text = reader.stdout();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["data"], "a\"\\\n\u{e4}\u{1f600}\u{7f}\u{1}");
    assert_eq!(lines[1]["data_base64"], "AP/toIA=");
    assert_eq!((&lines[1]["data"], &lines[1]["size"]), (&Value::Null, &Value::from(5)));
    assert_eq!((&lines[0]["sequence"], &lines[1]["sequence"]), (&Value::from(1), &Value::from(2)));
    assert_eq!(lines[0]["writer"], lines[1]["writer"]);
    assert_eq!(lines[0]["writer"].as_str().unwrap().len(), 32);
    assert_eq!(lines[0]["connection"], lines[1]["connection"]);
    for plain in [&lines[2], &lines[3]] {
        assert_eq!((&plain["writer"], &plain["sequence"]), (&Value::Null, &Value::Null));
        assert_ne!(plain["connection"], lines[0]["connection"]);
    }
    assert_eq!(lines[3]["pid"], std::process::id());
    assert_eq!(lines[3]["uid"].to_string(), output(Command::new("id").arg("-u")).trim());
    assert_eq!(lines[3]["gid"].to_string(), output(Command::new("id").arg("-g")).trim());
    let time = lines[0]["time"].as_str().unwrap();
    assert!(time.len() == 27 && time.ends_with('Z'), "{time}");
    let seconds: u64 = output(Command::new("date").args(["-d", time, "+%s"])).trim().parse().unwrap();
    let since = before.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(seconds >= since && seconds <= since + 600, "{time}");
}

/// The message after the last one stays with its writer, whoever comes next gets it, and nothing comes twice.
#[test]
fn count_takes_exactly_so_many() {
    let desk = Desk::new();
    let mut writers = ["x", "y"].map(|name| desk.start(name, "-w -W s"));
    for writer in &mut writers {
        writer.feed(&numbers(1000));
        writer.end_of_input();
    }
    let mut received = Vec::new();
    for count in [1, 2, 7, 90, 900, 1000] {
        received.extend(desk.run(&format!("-r -n {count} s"), "").quietly());
    }
    for writer in &mut writers {
        ends_with(writer, Some(0));
    }
    let mut lines: Vec<u64> = String::from_utf8(received).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    lines.sort_unstable();
    assert_eq!(lines, (0..1000).flat_map(|number| [number, number]).collect::<Vec<_>>());
    assert!(!desk.path("s").exists(), "the socket is removed");
}

#[test]
fn the_exit_code_tells_why_it_ended() {
    let desk = Desk::new();
    desk.run("-r -t 0.1 s", "").quietly(); // what comes in this time is all there is to do
    desk.run("-r -t 0.1 -n 1 s", "").fails(TIMED_OUT, "0 of 1 messages have come");
    for (arguments, code) in [("-r s", Some(0)), ("-r -n 2 s", FAILED)] {
        let mut reader = desk.listen("reader", arguments, "s");
        desk.run("-w s", "1\n").quietly();
        reader.terminate();
        ends_with(&mut reader, code);
        assert_eq!(reader.stdout(), "1\n");
        assert!(!desk.path("s").exists(), "the socket is removed");
    }
    let reader = desk.listen("reader", "-r s", "s");
    desk.run("-r s", "").fails(FAILED, "address in use");
    drop(reader);
    desk.write("file", "precious");
    desk.run("-r file", "").fails(FAILED, "a regular file lies there");
    assert_eq!(desk.read("file"), b"precious");
}

/// What was sent before the signal is received.
#[test]
fn a_signal_loses_nothing_that_was_sent() {
    let desk = Desk::new();
    let mut reader = desk.listen("reader", "-r s", "s");
    signal(&reader, "STOP");
    let mut plain = UnixStream::connect(desk.path("s")).unwrap();
    plain.write_all(&b"\x01x".repeat(1000)).unwrap();
    reader.terminate();
    signal(&reader, "CONT");
    ends_with(&mut reader, Some(0));
    assert_eq!(reader.stdout(), "x\n".repeat(1000));
}

/// A pipe that is closed ends it, also while nothing comes; what was not printed goes to the next reader.
#[test]
fn a_closed_pipe_ends_it() {
    let desk = Desk::new();
    let mut idle = desk.start_command("idle", desk.shell("udsipccat -r s | head -n 1"));
    desk.run("-w -q -W s", "1\n").quietly();
    ends_with(&mut idle, Some(0));
    assert_eq!(idle.stdout(), "1\n");
    assert_eq!(idle.stderr(), "udsipccat: nobody reads standard output any more\n");

    desk.write("input", numbers(100_000));
    let mut writer = desk.start("writer", "-w -W s input");
    let head = desk.run_command(desk.shell("udsipccat -r s 2>err | head -c 1000 >/dev/null"), "");
    assert!(head.status.success());
    let mut rest = desk.start("rest", "-r s");
    ends_with(&mut writer, Some(0));
    rest.terminate();
    ends_with(&mut rest, Some(0));
    let told = String::from_utf8(desk.read("err")).unwrap();
    // The pipe is closed while a batch is written, or between two.
    assert!(told.contains("cannot write to standard output: Broken pipe") || told.contains("nobody reads"), "{told}");
    let text = rest.stdout();
    let first: u64 = text.lines().next().unwrap().parse().unwrap();
    let expected: String = (first..100_000).map(|number| format!("{number}\n")).collect();
    assert!(text == expected, "from the first unacknowledged one on, all of them");
    // A pipe holds 64 KiB: numbers of up to six digits.
    assert!(first < 30_000, "{first} were acknowledged, and head has read 1000 bytes");
}

#[test]
fn a_full_disk_leaves_the_message_with_its_writer() {
    let desk = Desk::new();
    let mut writer = desk.start("writer", "-w -W s");
    writer.feed("precious\n");
    writer.end_of_input();
    let full = desk.run_command(desk.shell("udsipccat -r s >/dev/full"), "");
    full.fails(FAILED, "cannot write to standard output: No space left on device")
        .fails(FAILED, "their writer sends them to the next reader");
    assert_eq!(desk.run("-r -n 1 s", "").quietly(), b"precious\n");
    ends_with(&mut writer, Some(0));
}

/// A pipe that nobody empties: the time ends it, and so does a second signal.
#[test]
fn a_stuck_pipe_does_not_hold_it() {
    let desk = Desk::new();
    desk.write("input", numbers(100_000));
    let mut writer = desk.start("writer", "-w -W s input");
    let start = |arguments: &str| {
        let mut command = udsipccat(arguments);
        command.current_dir(desk.path("")).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut timed = start("-r -t 3 s");
    assert_eq!(timed.wait().unwrap().code(), TIMED_OUT);
    let told = timed.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&told.stderr).contains("nobody reads it"), "{told:?}");

    let mut stuck = start("-r s");
    let blocks = |blocked: bool| {
        wait_until(PATIENCE, "it has set up its signals, or taken the first one", || {
            let status = fs::read_to_string(format!("/proc/{}/status", stuck.id())).unwrap();
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
            (u64::from_str_radix(mask, 16).unwrap() & SIGTERM != 0) == blocked
        });
    };
    let terminate = || output(Command::new("sh").args(["-c", "kill -TERM $0", &stuck.id().to_string()]));
    blocks(true);
    wait_until(PATIENCE, "more has come than the pipe takes", || {
        let told = String::from_utf8(desk.run("--stat s", "").stdout).unwrap();
        told.contains("connections  1, with ") && !told.contains("with 0 bytes")
    });
    terminate();
    blocks(false);
    terminate();
    let status = stuck.wait().unwrap();
    assert_eq!(status.signal(), Some(15), "{status}");

    let mut rest = desk.start("rest", "-r s");
    ends_with(&mut writer, Some(0));
    rest.terminate();
    ends_with(&mut rest, Some(0));
    assert!(rest.stdout().ends_with("\n99999\n"));
}

/// In a mask of signals.
const SIGTERM: u64 = 1 << 14;

/// Text without a length in front of it, as `echo hello | socat - UNIX-CONNECT:s` sends it.
#[test]
fn plain_text_is_explained() {
    let desk = Desk::new();
    let mut reader = desk.listen("reader", "-r s", "s");
    UnixStream::connect(desk.path("s")).unwrap().write_all(b"hello\n").unwrap();
    reader.wait_for("explains", Running::stderr, |text| text.contains("does the peer send plain text?"));
    reader.terminate();
    ends_with(&mut reader, Some(0));
    assert_eq!(reader.stdout(), "");
}
