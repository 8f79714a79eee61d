//! Options, help, and the commands of the README.

use std::fs;

use crate::desk::{Desk, FAILED, TIMED_OUT, USAGE};
use crate::support::{PATIENCE, project, run_ok};

#[test]
fn help_fits_on_a_screen() {
    let help = String::from_utf8(Desk::new().run("-h", "").quietly()).unwrap();
    assert!(help.starts_with("Usage: udsipccat -w "), "{help}");
    assert!(help.lines().count() <= 40, "{} lines", help.lines().count());
    for line in help.lines() {
        assert!(line.len() < 80, "a terminal would wrap: {line}");
    }
    let version = Desk::new().run("--version", "").quietly();
    assert!(version.starts_with(concat!("udsipccat ", env!("CARGO_PKG_VERSION"), ", libudsipc ").as_bytes()));
}

#[test]
fn a_wrong_command_line_is_explained_and_does_nothing() {
    let desk = Desk::new();
    for (arguments, text) in [
        ("", "what to do?"),
        ("s", "what to do?"),
        ("-w", "-w needs the PATH"),
        ("-r", "-r needs the PATH"),
        ("-r s t", "'t' is one argument too many"),
        ("-r -w s", "one thing at a time"),
        ("-r --stat s", "one thing at a time"),
        ("--tap a", "--tap needs two paths"),
        ("--replay f a b", "'b' is one argument too many"),
        ("--bench a b", "'b' is one argument too many"),
        ("-r --replay f s", "--replay goes with -w"),
        ("-w --record f s", "--record goes with -r or --tap"),
        ("-r --drop s", "--drop goes with -w"),
        ("-r -W s", "--wait goes with"),
        ("-r -a never s", "--acknowledge goes with"),
        ("-w --speed 2 s", "--speed goes with --replay"),
        ("-r --sync s", "--sync goes with --record"),
        ("-w --size 3 s", "--size goes with --bench"),
        ("--stat -t 3 s", "--timeout goes with"),
        ("--replay f -f raw s", "a recording has its own"),
        ("--record - -f json s", "not both"),
        ("-w -f json s", "-w sends lines, null, raw or frames"),
        ("-w -f nonsense s", "'nonsense' is none of lines, null, raw, frames, hex, json, none"),
        ("-w -a maybe s", "'maybe' is none of never, auto, always"),
        ("-r -n 0 s", "no number of messages"),
        ("-r -n -1 s", "is no number"),
        ("-r -n 1x s", "no number of messages"),
        ("-r -n 99999999999999999999 s", "is no number"),
        ("-r -t -1 s", "is no number, 0 or more"),
        ("-r -t inf s", "is no number, 0 or more"),
        ("-r -t 1s s", "is no number, 0 or more"),
        ("-r --max-size 1G s", "is no size"),
        ("-r --max-size 18446744073709551615K s", "is no size"),
        ("--nonsense", "unrecognized option '--nonsense'"),
        ("-r -n", "requires an argument"),
    ] {
        let done = desk.run(arguments, "").fails(USAGE, text);
        assert!(done.stdout.is_empty() && done.stderr.ends_with("Try 'udsipccat --help'.\n"), "{}", done.stderr);
    }
    assert!(!desk.path("s").exists() && !desk.path("f").exists());
    // An option may stand behind the path, and a path behind "--".
    desk.run("-r s -t 0.1", "").quietly();
    desk.run("-r -t 0.1 -n 1 -- -s", "").fails(TIMED_OUT, "0 of 1 messages have come");
}

/// Another file of the program would get its number: input would be waited for in vain.
#[test]
fn a_standard_file_that_is_closed_is_an_error() {
    let desk = Desk::new();
    let _reader = desk.listen("reader", "-r s", "s");
    let run = |line: &str| desk.run_command(desk.shell(line), "");
    run("udsipccat -w s <&-").fails(FAILED, "cannot read standard input: Bad file descriptor");
    run("udsipccat --record=- t >&-").fails(FAILED, "cannot write to standard output: Bad file descriptor");
}

/// The block of shell commands in the section, as it stands there.
#[test]
fn the_commands_of_the_readme_work() {
    let readme = fs::read_to_string(project("README.md")).unwrap();
    let section =
        readme.split("\n## On the command line\n").nth(1).expect("the section").split("\n## ").next().unwrap();
    let block = section.split("```sh\n").nth(1).expect("its commands").split("```").next().unwrap();
    let desk = Desk::new();
    let commands = block.replace("/tmp/", &format!("{}/", desk.path("").display()));
    let printed = run_ok(&mut desk.shell(&format!("set -e\n{commands}")), PATIENCE);
    for expected in ["listens      pid ", "\"data\":\"hello\"", "one\ntwo\n", "throughput   "] {
        assert!(printed.contains(expected), "{expected:?} is not in {printed}");
    }
}
