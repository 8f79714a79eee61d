//! At a terminal: what stands on the screen, and what keys do.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rexpect::session::{PtySession, spawn_command};

use crate::desk::{Desk, ends_with, numbers, signal, udsipccat};
use crate::support::running::Running;
use crate::support::{PATIENCE, wait_until};

const ROWS: u16 = 24;
const COLUMNS: u16 = 80; // as the program takes it, where a terminal does not tell

/// A program in a terminal of its own, and the screen of it.
pub(crate) struct Terminal {
    session: PtySession,
    parser: vt100::Parser,
}

impl Terminal {
    fn start(desk: &Desk, arguments: &str, kind: &str) -> Self {
        let mut command = udsipccat(arguments);
        command.env("TERM", kind);
        Self::start_command(desk, command)
    }

    pub(crate) fn start_command(desk: &Desk, mut command: Command) -> Self {
        command.current_dir(desk.path(""));
        let session = spawn_command(command, Some(PATIENCE.as_millis().try_into().unwrap())).unwrap();
        let (rows, columns) = (ROWS.try_into().unwrap(), COLUMNS.try_into().unwrap());
        Self { session, parser: vt100::Parser::new(rows, columns, 0) }
    }

    /// Presses keys.
    pub(crate) fn press(&mut self, keys: &str) {
        self.session.send(keys).unwrap();
        self.session.flush().unwrap();
    }

    /// What stands on the screen now.
    fn screen(&mut self) -> String {
        while let Some(character) = self.session.try_read() {
            self.parser.process(&[u8::try_from(character).unwrap()]);
        }
        self.parser.screen().contents()
    }

    pub(crate) fn wait_for(&mut self, what: &str, condition: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(&self.screen()) {
            assert!(Instant::now() < deadline, "still not: {what}:\n{}", self.screen());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits for its end, and gives back the exit code and what it leaves on the screen.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let rest = self.session.exp_eof().unwrap();
        let bytes: Vec<u8> = rest.chars().map(|character| u8::try_from(character).unwrap()).collect();
        self.parser.process(&bytes);
        let code = match self.session.process().wait().unwrap() {
            rexpect::process::WaitStatus::Exited(_, code) => Some(code),
            _ => None,
        };
        (code, self.parser.screen().contents())
    }

    pub(crate) fn control(&mut self, key: char) {
        self.session.send_control(key).unwrap();
    }
}

#[test]
fn messages_and_the_progress_line_share_the_screen() {
    let desk = Desk::new();
    let mut terminal = Terminal::start(&desk, "-r s", "xterm");
    terminal.wait_for("it listens", |screen| screen == "s: 0 messages, 0 B, 0 messages/s, 0 B/s");
    desk.run("-w s", "one\ntwo\n").quietly();
    terminal.wait_for("both are there", |screen| screen.starts_with("one\ntwo\ns: 2 messages, 6 B, "));
    desk.run("-w s", "three\n").quietly();
    terminal.wait_for("all are there", |screen| screen.starts_with("one\ntwo\nthree\ns: 3 messages, 11 B, "));
    terminal.control('c');
    let (code, screen) = terminal.end();
    assert_eq!((code, screen.as_str()), (Some(0), "one\ntwo\nthree"), "the line is erased");
    assert!(!desk.path("s").exists(), "Ctrl-C ends it in an orderly way");
}

/// Whoever may send messages must not move the cursor, change the title, or worse.
#[test]
fn a_message_does_not_control_the_terminal() {
    let desk = Desk::new();
    let mut terminal = Terminal::start(&desk, "-r -q s", "xterm");
    wait_until(PATIENCE, "it listens", || desk.has_listener("s"));
    desk.run("-w s", "\x1b[2J\x1b]0;title\x07\x08\ttab\u{9b}31m\n\x7f\n").quietly();
    terminal.wait_for("it is shown", |screen| screen.ends_with("7f"));
    let words = [r"\x1b[2J\x1b]0;title\x07\x08", r"tab\xc2\x9b31m", r"\x7f"];
    assert_eq!(terminal.screen().split_whitespace().collect::<Vec<_>>(), words);
    terminal.control('c');
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn quiet_and_dumb_terminals_have_no_progress_line() {
    for (arguments, kind) in [("-r -q s", "xterm"), ("-r s", "dumb")] {
        let desk = Desk::new();
        let mut terminal = Terminal::start(&desk, arguments, kind);
        wait_until(PATIENCE, "it listens", || desk.has_listener("s"));
        desk.run("-w s", "one\n").quietly();
        terminal.wait_for("it is there", |screen| screen == "one");
        terminal.control('c');
        assert_eq!(terminal.end(), (Some(0), "one".to_owned()));
    }
}

#[test]
fn what_is_typed_is_sent_line_by_line() {
    let desk = Desk::new();
    let mut reader = desk.listen("reader", "-r s", "s");
    let mut terminal = Terminal::start(&desk, "-w s", "xterm");
    terminal.press("first\n");
    reader.wait_for("has the first line", Running::stdout, |text| text == "first\n");
    terminal.press("second\n");
    reader.wait_for("has the second line", Running::stdout, |text| text == "first\nsecond\n");
    terminal.control('d');
    let (code, screen) = terminal.end();
    assert!(code == Some(0) && !screen.contains("messages"), "no progress line between the typed ones: {screen}");
    reader.terminate();
    ends_with(&mut reader, Some(0));
}

#[test]
fn a_writer_shows_what_waits() {
    let desk = Desk::new();
    desk.write("input", numbers(200_000));
    let reader = desk.listen("reader", "-r s", "s");
    signal(&reader, "STOP");
    let mut terminal = Terminal::start(&desk, "-w s input", "xterm");
    terminal.wait_for("it tells of its queue", |screen| screen.ends_with(" queued") && !screen.contains('\n'));
    signal(&reader, "CONT");
    assert_eq!(terminal.end(), (Some(0), String::new()));
}
