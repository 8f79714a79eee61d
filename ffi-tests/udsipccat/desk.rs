//! Where a test works: a folder of its own, in which sockets and files have short names.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::support::running::Running;
use crate::support::{PATIENCE, build_dir, link_dir, output, project, tempdir, wait_until, without_systemd};

/// Exit codes.
pub(crate) const FAILED: Option<i32> = Some(1);
pub(crate) const USAGE: Option<i32> = Some(2);
pub(crate) const TIMED_OUT: Option<i32> = Some(3);

/// The program, compiled once with more warnings than the Makefile asks for.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let sources = fs::read_dir(project("tools/udsipccat")).unwrap().map(|entry| entry.unwrap().path());
        let sources = sources.filter(|path| path.extension().is_some_and(|extension| extension == "c"));
        let (program, fresh) = (build_dir().join("udsipccat"), build_dir().join("udsipccat.new"));
        let mut compiler = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()));
        compiler.args(["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
        compiler.args(["-Wstrict-prototypes", "-Wshadow", "-Wconversion", "-g", "-O1"]);
        compiler.arg("-I").arg(project("include")).arg("-o").arg(&fresh).args(sources);
        output(compiler.arg("-L").arg(link_dir()).arg("-ludsipc"));
        fs::rename(&fresh, &program).unwrap();
        program
    })
}

/// The program with arguments that are separated by spaces.
pub(crate) fn udsipccat(arguments: &str) -> Command {
    let mut command = Command::new(program());
    command.args(arguments.split_whitespace());
    command.env("LD_LIBRARY_PATH", link_dir()).env_remove("TERM");
    without_systemd(&mut command);
    command
}

/// How it ended, and what it printed.
pub(crate) struct Done {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Done {
    /// It has succeeded without a word.
    pub(crate) fn quietly(self) -> Vec<u8> {
        assert!(self.status.success() && self.stderr.is_empty(), "{}: {}", self.status, self.stderr);
        self.stdout
    }

    /// It has failed with this code, and said why.
    pub(crate) fn fails(self, code: Option<i32>, text: &str) -> Self {
        assert_eq!(self.status.code(), code, "{}: {}", self.status, self.stderr);
        assert!(self.stderr.contains(text), "{}", self.stderr);
        self
    }
}

pub(crate) struct Desk(tempfile::TempDir);

impl Desk {
    pub(crate) fn new() -> Self {
        Self(tempdir())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    /// Starts it beside the test. Its output goes to the files `NAME.out` and `NAME.err`.
    pub(crate) fn start(&self, name: &str, arguments: &str) -> Running {
        self.start_command(name, udsipccat(arguments))
    }

    pub(crate) fn start_command(&self, name: &str, mut command: Command) -> Running {
        Running::start(self.0.path(), name, command.current_dir(self.0.path()))
    }

    /// Starts one that listens at a path, and waits until it does.
    pub(crate) fn listen(&self, name: &str, arguments: &str, path: &str) -> Running {
        let mut running = self.start(name, arguments);
        running.wait_for("listens", Running::stderr, |_| self.has_listener(path));
        running
    }

    /// Whether somebody listens. A socket file is there a moment before.
    pub(crate) fn has_listener(&self, path: &str) -> bool {
        self.path(path).exists() && self.run(&format!("--stat {path}"), "").status.success()
    }

    /// Runs it with this input to its end.
    pub(crate) fn run(&self, arguments: &str, input: impl AsRef<[u8]>) -> Done {
        self.run_command(udsipccat(arguments), input)
    }

    pub(crate) fn run_command(&self, mut command: Command, input: impl AsRef<[u8]>) -> Done {
        static NUMBER: Mutex<u32> = Mutex::new(0);
        let number = {
            let mut number = NUMBER.lock().unwrap();
            *number += 1;
            *number
        };
        let file = |what: &str| self.path(&format!("run{number}.{what}"));
        fs::write(file("in"), input).unwrap();
        command.current_dir(self.0.path()).stdin(File::open(file("in")).unwrap());
        command.stdout(File::create(file("out")).unwrap()).stderr(File::create(file("err")).unwrap());
        let mut child = command.spawn().unwrap();
        let mut status = None;
        wait_until(PATIENCE, &format!("{command:?} ends"), || {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        let stderr = String::from_utf8_lossy(&fs::read(file("err")).unwrap()).into_owned();
        Done { status: status.unwrap(), stdout: fs::read(file("out")).unwrap(), stderr }
    }

    /// A shell command line in the folder, in which `udsipccat` is the program.
    pub(crate) fn shell(&self, line: &str) -> Command {
        let mut shell = Command::new("sh");
        let folders = format!("{}:{}", program().parent().unwrap().display(), std::env::var("PATH").unwrap());
        shell.args(["-c", line]).current_dir(self.0.path()).env("PATH", folders);
        shell.env("LD_LIBRARY_PATH", link_dir()).env_remove("TERM").stdin(Stdio::null());
        without_systemd(&mut shell);
        shell
    }
}

/// Sends a signal by its name.
pub(crate) fn signal(running: &Running, name: &str) {
    output(Command::new("sh").args(["-c", "kill -$1 $0", &running.child.id().to_string(), name]));
}

/// Waits for its end, which must have this exit code.
pub(crate) fn ends_with(running: &mut Running, code: Option<i32>) {
    let status = running.wait();
    assert_eq!(status.code(), code, "{status} ({:?}): {}", status.signal(), running.stderr());
}

/// Numbers from 0 on, a line each.
pub(crate) fn numbers(count: u64) -> String {
    (0..count).map(|number| format!("{number}\n")).collect()
}

/// Feeds numbered lines, as fast as they are taken.
pub(crate) struct Feeder {
    over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Feeder {
    pub(crate) fn start(writer: &mut Running) -> Self {
        let (mut input, over) = (writer.child.stdin.take().unwrap(), Arc::new(AtomicBool::new(false)));
        let until = Arc::clone(&over);
        let thread = thread::spawn(move || {
            let mut number = 0;
            while !until.load(Ordering::Relaxed) {
                let block: String = (number..number + 100).map(|number| format!("{number}\n")).collect();
                input.write_all(block.as_bytes()).unwrap();
                number += 100;
            }
            number
        });
        Self { over, thread }
    }

    /// Ends the input, and tells how many lines there were.
    pub(crate) fn stop(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Each number has come, none before its predecessor. Gives back how many have come again.
pub(crate) fn assert_complete(lines: &str, count: u64) -> u64 {
    let (mut next, mut again) = (0, 0);
    for line in lines.lines() {
        let number: u64 = line.parse().unwrap_or_else(|_| panic!("a line is damaged: {line}"));
        assert!(number <= next, "{next} is missing before {number}");
        again += u64::from(number < next);
        next = next.max(number + 1);
    }
    assert_eq!(next, count, "the last ones are missing");
    again
}
