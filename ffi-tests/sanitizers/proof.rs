//! That the checkers are really on: each must report the flaws that were made for it, in a C program, in the library
//! behind it and in Rust code, by its exit status and in words.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{
    Checker, FOUND, PATIENCE, assert_sanitized, build_dir, checker, compile, library, output, project, run, tempdir,
    watched,
};

/// A flaw, and what its report must say: what it is, and in which code.
struct Flaw {
    name: &'static str,
    report: [&'static str; 2],
}

const fn flaw(name: &'static str, what: &'static str, place: &'static str) -> Flaw {
    Flaw { name, report: [what, place] }
}

/// The flaws of `flaws.c` that a checker is there to find, and those of `flaws.rs`.
fn flaws_for(checker: Checker) -> (Vec<Flaw>, Vec<Flaw>) {
    match checker {
        Checker::Nobody => panic!("no checker: this test is for `make sanitize`"),
        Checker::Address => (
            vec![
                flaw("overflow_in_the_program", "heap-buffer-overflow", "in overflow_in_the_program "),
                flaw("leak_in_the_program", "Direct leak of 4321 byte(s)", "in leak_in_the_program "),
                flaw("undefined_in_the_program", "signed integer overflow", "flaws.c"),
                flaw("overflow_in_the_library", "heap-buffer-overflow", "in udsipc_write_messages "),
                flaw("use_after_free_in_the_library", "heap-use-after-free", "in udsipc_writer_is_connected "),
                flaw("leak_in_the_library", "LeakSanitizer: detected memory leaks", "in udsipc_writer_new "),
            ],
            vec![
                flaw("overflow", "heap-buffer-overflow", "in flaws::overflow "),
                flaw("leak", "Direct leak of 4321 byte(s)", "in flaws::leak "),
            ],
        ),
        Checker::Thread => (
            vec![
                flaw("race_in_the_program", "data race", "#0 add_to_plain "),
                flaw("race_in_the_library", "data race", "udsipc_write_messages "),
            ],
            vec![flaw("race", "data race", "<flaws::Plain>::add ")],
        ),
        Checker::Memcheck => (
            vec![
                flaw("overflow_in_the_program", "Invalid write of size 1", "overflow_in_the_program ("),
                flaw("leak_in_the_program", "4,321 bytes in 1 blocks are definitely lost", "leak_in_the_program ("),
                flaw("overflow_in_the_library", "Invalid read of size 8", "udsipc_write_messages ("),
                flaw("use_after_free_in_the_library", "Invalid read of size 8", "udsipc_writer_is_connected ("),
                flaw("leak_in_the_library", "are definitely lost", "udsipc_writer_new ("),
            ],
            Vec::new(),
        ),
    }
}

/// With the flags that cargo was given: those of the library and of its tests.
fn compile_rust() -> PathBuf {
    let program = build_dir().join("sanitizers").join("rust-flaws");
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut command = Command::new("rustc");
    command.args(flags.split_whitespace()).args([
        "--edition=2024",
        "--crate-name=flaws",
        "-Cdebuginfo=1",
        "-Copt-level=1",
    ]);
    output(command.arg("-o").arg(&program).arg(project("ffi-tests/sanitizers/flaws.rs")));
    program
}

fn assert_reported(program: &Path, flaw: &Flaw) {
    let scratch = tempdir();
    let done = run(watched(program).arg(flaw.name).current_dir(scratch.path()), PATIENCE);
    assert_eq!(done.status.code(), Some(FOUND), "{} was not found:\n{}", flaw.name, done.output);
    for words in flaw.report {
        assert!(done.output.contains(words), "the report of {} does not say {words:?}:\n{}", flaw.name, done.output);
    }
}

pub(crate) fn every_flaw_is_reported() {
    let (in_c, in_rust) = flaws_for(checker());
    assert_sanitized(&library(), "-uD");
    let program = compile(&project("ffi-tests/sanitizers/flaws.c"), "c11");
    in_c.iter().for_each(|flaw| assert_reported(&program, flaw));
    if !in_rust.is_empty() {
        let program = compile_rust();
        in_rust.iter().for_each(|flaw| assert_reported(&program, flaw));
    }
}
