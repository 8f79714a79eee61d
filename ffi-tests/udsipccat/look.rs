//! `--stat` and `--bench`.

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::desk::{Desk, FAILED, TIMED_OUT, ends_with, signal};
use crate::support::running::Running;
use crate::support::{PATIENCE, wait_until};

fn stat(desk: &Desk, path: &str) -> (Option<i32>, String) {
    let done = desk.run(&format!("--stat {path}"), "");
    assert_eq!(done.stderr, "");
    (done.status.code(), String::from_utf8(done.stdout).unwrap())
}

#[test]
fn nobody_listens() {
    let desk = Desk::new();
    let (code, text) = stat(&desk, "s");
    assert_eq!(code, FAILED);
    assert_eq!(text, "path         s\nfile         No such file or directory\nlistens      nobody\n");
    desk.write("file", "");
    let (code, text) = stat(&desk, "file");
    assert!(code == FAILED && text.contains("file         is no socket\n"), "{text}");
    drop(UnixListener::bind(desk.path("s")).unwrap());
    let (code, text) = stat(&desk, "s");
    assert!(code == FAILED && text.contains("\nfile         mode 0") && text.contains("listens      nobody"), "{text}");
    assert_eq!(stat(&desk, "@udsipccat-nobody").0, FAILED);
}

#[test]
fn tells_who_listens_who_writes_and_what_waits() {
    let desk = Desk::new();
    let mut reader = desk.listen("reader", "-r -f json s", "s");
    let (code, text) = stat(&desk, "s");
    assert_eq!(code, Some(0));
    let listens = format!("listens      pid {} (udsipccat), user ", reader.child.id());
    assert!(text.contains(&listens), "{text}");
    assert!(text.contains("\nconnections  0, with 0 bytes unread\n"), "{text}");

    let mut writer = desk.start("writer", "-w s");
    writer.feed("1\n");
    let mut plain = UnixStream::connect(desk.path("s")).unwrap();
    plain.write_all(b"\x012").unwrap();
    reader.wait_for("has both", Running::stdout, |text| text.lines().count() == 2);
    signal(&reader, "STOP");
    plain.write_all(b"\x0bstuck there").unwrap();
    let _waits = UnixStream::connect(desk.path("s")).unwrap();
    wait_until(PATIENCE, "all is seen", || {
        let text = stat(&desk, "./s").1;
        let writer_id = reader.stdout().split("\"writer\":\"").nth(1).unwrap()[..32].to_owned();
        let acknowledged = format!("(udsipccat): 0 bytes unread, libudsipc writer {writer_id}, from message 1 on\n");
        text.contains(&format!("writer       pid {} {acknowledged}", writer.child.id()))
            && text.contains(&format!("writer       pid {} (", std::process::id()))
            && text.contains("): 12 bytes unread\n")
            && text.contains("backlog      1 of ")
            && text.contains("connections  2, with 12 bytes unread\n")
    });
    signal(&reader, "CONT");
    reader.wait_for("has it", Running::stdout, |text| text.lines().count() == 3);
    // To look is not to connect: the numbers of connections have no gap.
    desk.run("-w s", "3\n").quietly();
    let last: serde_json::Value = serde_json::from_str(reader.stdout().lines().last().unwrap()).unwrap();
    assert_eq!(last["connection"], 4);
}

#[test]
fn knows_abstract_addresses() {
    let desk = Desk::new();
    let name = format!("@udsipccat-test-{}", std::process::id());
    let mut reader = desk.start("reader", &format!("-r {name}"));
    wait_until(PATIENCE, "it listens", || stat(&desk, &name).0 == Some(0));
    let text = stat(&desk, &name).1;
    assert!(text.contains(&format!("listens      pid {} (udsipccat)", reader.child.id())), "{text}");
    assert_eq!(stat(&desk, &name[..name.len() - 1]).0, FAILED, "a part of a name is another name");
    reader.terminate();
    ends_with(&mut reader, Some(0));
}

#[test]
fn bench_has_a_reader_of_its_own() {
    let desk = Desk::new();
    let done = desk.run("--bench -n 10000 --size 1K -q", "");
    let text = String::from_utf8(done.quietly()).unwrap();
    let begins = "throughput   10000 messages of 1024 B in ";
    assert!(text.starts_with(begins) && text.contains("all handled by the reader\n"), "{text}");
    assert!(text.contains("\none way      16 B every 200 us: p50 ") && text.contains(" p99.9 "), "{text}");
    let done = desk.run("--bench -n 1000000000000 -t 0.2 -q", "");
    assert_eq!(done.status.code(), TIMED_OUT);
}

#[test]
fn bench_measures_a_reader_that_is_there() {
    let desk = Desk::new();
    let mut reader = desk.listen("reader", "-r -f hex -n 1000 s", "s");
    let done = desk.run("--bench -n 1000 --size 3 s", "");
    let text = String::from_utf8(done.quietly()).unwrap();
    assert!(text.starts_with("throughput   1000 messages of 3 B in ") && !text.contains("one way"), "{text}");
    ends_with(&mut reader, Some(0));
    assert_eq!(reader.stdout(), "000000\n".repeat(1000));
    desk.run("--bench -t 0.5 nobody", "").fails(FAILED, "nobody listens at nobody");
}
