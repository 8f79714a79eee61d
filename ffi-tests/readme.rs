//! The README's programs, compiled and run as they stand there. Its Rust program is a documentation test of the crate.

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use support::{PATIENCE, build_dir, compile, link_dir, project, python3, run_ok, tempdir, wait_until};

/// The block that begins with a comment naming it, written to a file of that name.
fn program(name: &str) -> std::path::PathBuf {
    let readme = fs::read_to_string(project("README.md")).expect("the README");
    let block = readme
        .split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.split_once('\n').map(|(_, code)| code))
        .find(|code| code.lines().next().is_some_and(|first| first.contains(name)))
        .unwrap_or_else(|| panic!("the README has no program {name}"));
    let dir = build_dir().join("readme");
    fs::create_dir_all(&dir).expect("a folder for the README's programs");
    let file = dir.join(name);
    fs::write(&file, block).expect("write the README's program");
    file
}

struct Reader(Child);

impl Reader {
    fn start(socket: &Path) -> Reader {
        let program = compile(&program("reader.c"), "gnu11");
        let child = Command::new(program).arg(socket).stdout(Stdio::piped()).spawn().expect("start the reader");
        let reader = Reader(child);
        wait_until(PATIENCE, "the reader listens", || socket.exists());
        reader
    }

    /// Asks it to stop, as a service manager would, and returns what it has printed.
    fn stop(mut self) -> Vec<String> {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        let lines = BufReader::new(self.0.stdout.take().expect("its output")).lines();
        let lines = lines.collect::<Result<_, _>>().expect("its output");
        assert!(self.0.wait().expect("its end").success());
        lines
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_quick_start_in_c_and_python_delivers() {
    let dir = tempdir();
    let socket = dir.path().join("events.sock");
    let reader = Reader::start(&socket);
    run_ok(Command::new(compile(&program("writer.c"), "gnu11")).arg(&socket), PATIENCE);
    let python = python3().expect("python3: apt-get install python3");
    run_ok(Command::new(python).arg(program("writer.py")).arg(&socket).env("LD_LIBRARY_PATH", link_dir()), PATIENCE);
    let mut got = reader.stop();
    got.sort(); // two connections
    assert_eq!(got, ["got hello from C", "got hello from Python"]);
    assert!(!socket.exists(), "a stopped reader removes its socket");
}

#[test]
fn the_table_of_options_names_every_option_of_the_header() {
    let readme = fs::read_to_string(project("README.md")).expect("the README");
    let header = fs::read_to_string(project("include/udsipc.h")).expect("the header");
    for setter in header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        let option =
            setter.strip_prefix("udsipc_writer_options_set_").or(setter.strip_prefix("udsipc_reader_options_set_"));
        if let Some(option) = option.filter(|option| *option != "error_callback") {
            assert!(readme.contains(&format!("`{option}`")), "the README does not name {option}");
        }
    }
}
