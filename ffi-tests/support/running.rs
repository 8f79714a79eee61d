//! Programs that run beside a test, which feeds them, reads what they print, and ends them.

#![allow(clippy::unwrap_used)]
// Each harness uses its own part of this file.
#![allow(dead_code)]

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::{PATIENCE, library, output, wait_until};

/// A program that was started. It is killed when the test ends without having waited for it.
pub(crate) struct Running {
    name: String,
    pub(crate) child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Running {
    /// Starts it with files for its output and a pipe for its input.
    pub(crate) fn start(scratch: &Path, name: &str, command: &mut Command) -> Self {
        let (stdout, stderr) = (scratch.join(format!("{name}.out")), scratch.join(format!("{name}.err")));
        // NOTIFY_SOCKET and its kin belong to whatever runs the tests, unless a test sets them.
        let child = command
            .env("UDSIPC_LIBRARY", library())
            .stdin(Stdio::piped())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { name: name.to_owned(), child, stdout, stderr }
    }

    pub(crate) fn stdout(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap()
    }

    /// Waits until it has printed something, and fails at once if it has ended without.
    pub(crate) fn wait_for(&mut self, what: &str, stream: fn(&Self) -> String, condition: impl Fn(&str) -> bool) {
        wait_until(PATIENCE, &format!("{} {what}", self.name), || {
            let ended = self.child.try_wait().unwrap();
            let fulfilled = condition(&stream(self));
            assert!(fulfilled || ended.is_none(), "{} ended before it {what}:\n{}", self.name, self.stderr());
            fulfilled
        });
    }

    pub(crate) fn wait_until_it_listens(&mut self) {
        self.wait_for("listens", Self::stderr, |text| text.contains("listening on"));
    }

    /// Gives it input, and leaves the input open.
    pub(crate) fn feed(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn end_of_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// `TERM`, `KILL`, `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        output(Command::new("sh").args(["-c", "kill -$1 $0", &self.child.id().to_string(), name]));
    }

    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        wait_until(PATIENCE, &format!("{} ends", self.name), || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Waits for its end, which must be a success, and gives back what it printed.
    pub(crate) fn finish(mut self) -> (String, String) {
        let status = self.wait();
        assert!(status.success(), "{}: {status}\n{}", self.name, self.stderr());
        (self.stdout(), self.stderr())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
