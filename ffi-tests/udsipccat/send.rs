//! `-w`: what becomes of the input, and what the exit code says.

use std::io::Read;
use std::os::unix::net::UnixListener;

use crate::desk::{Desk, FAILED, TIMED_OUT, ends_with, numbers};
use crate::support::output;
use crate::support::running::Running;

/// Sends with these arguments and gives back what a reader prints, a message a line.
fn delivered(desk: &Desk, arguments: &str, input: impl AsRef<[u8]>, count: usize) -> Vec<u8> {
    let mut reader = desk.listen("reader", &format!("-r -n {count} s"), "s");
    let warned = desk.run(&format!("-w {arguments} -q s"), input);
    assert!(warned.status.success(), "{}", warned.stderr);
    ends_with(&mut reader, Some(0));
    desk.read("reader.out")
}

#[test]
fn each_line_is_a_message() {
    let desk = Desk::new();
    assert_eq!(
        delivered(&desk, "", "one\n\ntwo\r\nlast without a line break", 3),
        b"one\ntwo\r\nlast without a line break\n"
    );
    assert_eq!(delivered(&desk, "-f null", "one\0two\nlines\0\0", 2), b"one\ntwo\nlines\n");
    assert_eq!(delivered(&desk, "-f raw", "all\nof\0it\n", 1), b"all\nof\0it\n\n");
    assert_eq!(delivered(&desk, "-f frames", b"\x03one\x00\x81\x00x\x03two", 3), b"one\nx\ntwo\n");
    assert_eq!(delivered(&desk, "-n 2", "one\ntwo\nthree\n", 2), b"one\ntwo\n");
}

#[test]
fn files_and_standard_input_go_in_their_order() {
    let desk = Desk::new();
    desk.write("first", "1\n2\n");
    desk.write("last", "4");
    let mut reader = desk.listen("reader", "-r -n 4 s", "s");
    desk.run("-w s first - last", "3\n").quietly();
    ends_with(&mut reader, Some(0));
    assert_eq!(desk.read("reader.out"), b"1\n2\n3\n4\n");

    let mut reader = desk.listen("reader", "-r -n 2 s", "s");
    desk.run("-w -f raw s first missing last", "").fails(FAILED, "cannot open missing: No such file");
    ends_with(&mut reader, Some(0));
    assert_eq!(desk.read("reader.out"), b"1\n2\n\n4\n");
}

/// As many lines as the queue does not hold, and longer ones than are read at a time.
#[test]
fn large_input_arrives_whole() {
    let desk = Desk::new();
    let mut input = numbers(100_000);
    input.push_str(&"x".repeat(3 << 20));
    input.push('\n');
    assert!(delivered(&desk, "", &input, 100_001) == input.as_bytes());
}

#[test]
fn frames_are_a_pipe_for_any_bytes() {
    let desk = Desk::new();
    desk.write("binary", (0..=255).cycle().take(300_000).collect::<Vec<u8>>());
    desk.write("small", "\n\0\n");
    let mut last = desk.listen("last", "-r -f frames -n 3 b", "b");
    let relay = desk.shell("udsipccat -r -f frames -n 3 a | udsipccat -w -f frames b");
    let mut relay = desk.start_command("relay", relay);
    desk.run("-w -q -W -f raw a binary small binary", "").quietly();
    ends_with(&mut relay, Some(0));
    ends_with(&mut last, Some(0));
    let binary = [b"\xe0\xa7\x12", &desk.read("binary")[..]].concat();
    assert!(desk.read("last.out") == [&binary[..], b"\x03\n\0\n", &binary].concat());
}

#[test]
fn bad_frames_are_reported_and_what_is_before_them_arrives() {
    let desk = Desk::new();
    for (input, text) in [
        (&b"\x03one\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"[..], "malformed; are these frames?"),
        (b"\x03one\x05two", "in the middle of a frame"),
    ] {
        let mut reader = desk.listen("reader", "-r -n 1 s", "s");
        desk.run("-w -f frames s", input).fails(FAILED, text);
        ends_with(&mut reader, Some(0));
        assert_eq!(desk.read("reader.out"), b"one\n");
    }
}

#[test]
fn what_cannot_be_sent_is_counted() {
    let desk = Desk::new();
    let mut reader = desk.listen("reader", "-r -n 6 s", "s");
    desk.run("-w --max-size 5 s", format!("12345\n123456\n{}\n\nend\n", "x".repeat(1 << 20)))
        .fails(FAILED, "2 messages were not sent: they are larger than --max-size");
    desk.run("-w -f frames --max-size 5 s", "\x06123456\x04good").fails(FAILED, "1 messages were not sent");
    desk.run("-w -f raw --max-size 5 s", "123456").fails(FAILED, "1 messages were not sent");
    let empty = desk.run("-w s", "\n1\n\n");
    assert!(empty.status.success() && empty.stderr.contains("2 empty messages were not sent"), "{}", empty.stderr);
    desk.run("-w -q s", "\n2\n").quietly();
    desk.run("-w s", "last\n").quietly();
    ends_with(&mut reader, Some(0));
    assert_eq!(desk.read("reader.out"), b"12345\nend\ngood\n1\n2\nlast\n");
}

/// The input is left for whoever reads it next.
#[test]
fn nobody_listens_and_nothing_is_read() {
    let desk = Desk::new();
    desk.write("input", "precious\n");
    let line = "{ udsipccat -w nobody; echo $?; cat; } <input";
    let done = desk.run_command(desk.shell(line), "");
    assert_eq!(done.stdout, b"1\nprecious\n");
    assert_eq!(done.stderr, "udsipccat: nobody listens at nobody: start the reader first, or wait for it (--wait)\n");
    desk.run("-w -q -W -t 0.2 nobody", "x\n").fails(TIMED_OUT, "nobody has listened at nobody in time");
    desk.run("-w unix:nobody", "x\n").fails(FAILED, "it is no URL here");
}

#[test]
fn a_late_reader_gets_everything() {
    let desk = Desk::new();
    let mut writer = desk.start("writer", "-w --wait s");
    writer.feed("early\n");
    writer.end_of_input();
    writer.wait_for("says that it waits", Running::stderr, |text| text.contains("waiting until somebody listens at s"));
    let mut reader = desk.start("reader", "-r -n 1 s");
    ends_with(&mut writer, Some(0));
    ends_with(&mut reader, Some(0));
    assert_eq!(desk.read("reader.out"), b"early\n");
}

/// Between the first message and the last one readers may come and go.
#[test]
fn readers_come_and_go() {
    let desk = Desk::new();
    let mut writer = desk.start("writer", "-w -W s");
    writer.feed("1\n2\n");
    ends_with(&mut desk.start("first", "-r -n 1 s"), Some(0));
    writer.feed("3\n");
    ends_with(&mut desk.start("second", "-r -n 1 s"), Some(0));
    let mut third = desk.start("third", "-r -n 1 s");
    writer.end_of_input();
    ends_with(&mut third, Some(0));
    ends_with(&mut writer, Some(0));
    assert_eq!([desk.read("first.out"), desk.read("second.out"), desk.read("third.out")].concat(), b"1\n2\n3\n");
}

/// A reader that has gone at the end of the input: that is reported, with a number.
#[test]
fn what_is_left_at_the_end_is_counted() {
    let desk = Desk::new();
    let mut reader = desk.listen("reader", "-r -n 1 s", "s");
    let mut writer = desk.start("writer", "-w s");
    writer.feed("1\n2\n3\n");
    ends_with(&mut reader, Some(0));
    writer.end_of_input();
    ends_with(&mut writer, FAILED);
    let told = writer.stderr();
    assert!(told.contains("2 messages may be lost") || told.contains("2 of 3 messages were not delivered"), "{told}");
}

/// The number in front of a text.
fn number_before(told: &str, text: &str) -> usize {
    let before = told.split(text).next().unwrap();
    before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// A quarter of a MiB at a time is read.
#[test]
fn all_that_was_read_is_counted() {
    let desk = Desk::new();
    let _listener = UnixListener::bind(desk.path("s")).unwrap(); // accepts, and does not read
    let input = numbers(200_000);
    let told = desk.run("-w -q -t 3 s", &input).fails(TIMED_OUT, "that had been read were not sent").stderr;
    let counted = number_before(&told, " messages were not delivered")
        + number_before(&told, " messages more that had been read");
    let blocks = input.as_bytes().chunks(256 << 10).map(|block| block.iter().filter(|&&byte| byte == b'\n').count());
    let mut lines = 0;
    let read: Vec<usize> = blocks
        .map(|block| {
            lines += block;
            lines
        })
        .collect();
    assert!(read.contains(&counted), "{counted} of {read:?}\n{told}");
}

#[test]
fn a_full_queue_waits_or_drops() {
    let desk = Desk::new();
    let listener = UnixListener::bind(desk.path("s")).unwrap(); // accepts, and does not read
    let input = numbers(200_000);
    let told = desk.run("-w --drop -t 3 s", &input).fails(TIMED_OUT, "the queue was full").stderr;
    assert!(number_before(&told, " messages were left out") > 100_000, "{told}");

    // Without --drop the rest stays in the input.
    let mut writer = desk.start("writer", "-w -W s");
    drop(listener.accept().unwrap());
    let (mut connection, _) = listener.accept().unwrap();
    writer.feed("1\n2\n");
    writer.end_of_input();
    let mut received = [0; 4];
    connection.read_exact(&mut received).unwrap();
    assert_eq!(&received, b"\x011\x012");
    ends_with(&mut writer, Some(0));
}

#[test]
fn a_reader_that_does_not_acknowledge_is_refused_on_demand() {
    let desk = Desk::new();
    let listener = UnixListener::bind(desk.path("s")).unwrap();
    let mut writer = desk.start("writer", "-w --acknowledge=always s");
    writer.feed("precious\n");
    writer.end_of_input();
    let (mut connection, _) = listener.accept().unwrap();
    let mut received = Vec::new();
    connection.read_to_end(&mut received).unwrap();
    assert_eq!(received, b"\0", "one empty frame, and nothing else");
    ends_with(&mut writer, FAILED);
    assert!(writer.stderr().contains("does not acknowledge"), "{}", writer.stderr());
}

/// Ends the input, not the delivery.
#[test]
fn a_signal_ends_it_in_an_orderly_way() {
    for name in ["TERM", "INT", "HUP"] {
        let desk = Desk::new();
        let mut reader = desk.listen("reader", "-r s", "s");
        let mut writer = desk.start("writer", "-w s");
        writer.feed("1\n2\nhalf a line");
        reader.wait_for("has the lines", Running::stdout, |text| text == "1\n2\n");
        crate::desk::signal(&writer, name);
        ends_with(&mut writer, Some(0));
        assert_eq!(writer.stderr(), "");
        reader.terminate();
        ends_with(&mut reader, Some(0));
        assert_eq!(desk.read("reader.out"), b"1\n2\n");
    }
}

/// What was read from a pipe is nowhere else. A signal that comes between the read and the queue is not rare.
#[test]
fn a_signal_under_load_loses_no_line_that_was_read() {
    let desk = Desk::new();
    for _ in 0..20 {
        let mut reader = desk.listen("reader", "-r s", "s");
        let line =
            "seq 1000000000 1999999999 | { sh -c 'echo $$ >pid; exec udsipccat -w -q s'; echo $? >code; head -c 64; }";
        let mut writer = desk.start_command("writer", desk.shell(line));
        reader.wait_for("has lines", Running::stdout, |text| !text.is_empty());
        output(&mut desk.shell("kill -TERM $(cat pid)"));
        ends_with(&mut writer, Some(0));
        reader.terminate();
        ends_with(&mut reader, Some(0));
        assert_eq!(desk.read("code"), b"0\n");
        let (arrived, left) = (reader.stdout(), writer.stdout());
        let last: u64 = arrived.lines().last().unwrap().parse().unwrap();
        // A line that was read in part is left out.
        let (cut, rest) = left.split_once('\n').unwrap();
        let next = if cut.len() == 10 { cut.parse() } else { rest[..10].parse::<u64>().map(|number| number - 1) };
        assert_eq!(next.unwrap(), last + 1);
    }
}

#[test]
fn the_time_bounds_everything() {
    let desk = Desk::new();
    let reader = desk.listen("reader", "-r s", "s");
    let mut writer = desk.start("writer", "-w -t 2 s"); // its input does not end
    writer.feed("1\n");
    ends_with(&mut writer, TIMED_OUT);
    assert_eq!(writer.stderr(), "");

    crate::desk::signal(&reader, "STOP");
    desk.run("-w -t 2 s", "2\n").fails(TIMED_OUT, "the reader at s has not read everything in time");
    crate::desk::signal(&reader, "CONT");
}
