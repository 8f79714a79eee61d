//! What a message of 100 bytes costs, counted and not timed, with limits: instructions (callgrind),
//! system calls and allocations (a preloaded counter), for the writer's side and the reader's side.
//!
//! The release build is what is counted, whatever this test itself is built as. Each test prints what it counted as
//! `cost: NAME VALUE`; `cargo test --release --test cost -- --nocapture` shows it.
//!
//! When a limit is passed, find what has become slower:
//! `valgrind --tool=callgrind --collect-atstart=no --toggle-collect=measured PROGRAM instructions PATH`, then
//! `callgrind_annotate`. Lower a limit when the library has become faster, so that it stays so.

#![allow(clippy::print_stdout)] // what was counted is shown, and read by the bench

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// Per message, the program's own loop or callback included. What was counted when the limit was set, and a tenth more
/// for other compilers and C libraries. The target is 200 for each side.
const WRITER_INSTRUCTIONS: f64 = 200.0;
const READER_INSTRUCTIONS: f64 = 90.0;
/// The same with a ledger.
const LEDGER_INSTRUCTIONS: f64 = 110.0;
/// The same for `udsipc_write_message_timeout` while there is room, and for one message of `udsipc_write_messages`.
const TIMED_WRITE_INSTRUCTIONS: f64 = 208.0;
const MANY_WRITES_INSTRUCTIONS: f64 = 125.0;

/// Per message, while streaming with the library's own threads. How often a thread sleeps varies from run to run.
const SYSTEM_CALLS: f64 = 0.01;

/// Per message: a few in two million messages come with a thread that is started or a queue that grows, and
/// each allocation in the path of every message or every batch is far above.
const ALLOCATIONS: f64 = 0.0001;

/// Calls of the C library that enter the kernel, and could come into a message's way.
const KERNEL_CALLS: &str = "accept accept4 clock_nanosleep close connect dup dup3 epoll_create1 epoll_ctl epoll_pwait \
     epoll_pwait2 epoll_wait eventfd eventfd_read eventfd_write fcntl fcntl64 flock getsockname getsockopt ioctl listen \
     madvise mmap mmap64 mprotect mremap munmap nanosleep poll ppoll pread preadv pthread_cond_signal pthread_cond_wait \
     pthread_mutex_lock pwrite pwritev read readv recv recvfrom recvmmsg recvmsg sched_yield select sem_post sem_wait send \
     sendfile sendmmsg sendmsg sendto setsockopt shutdown socket splice syscall timerfd_create timerfd_gettime \
     timerfd_settime usleep write writev";

/// The release build that is tested, or one of our own, built anew if the sources have changed.
fn release_library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let deps = support::profile_dir();
        let profile = deps.parent().expect("deps lies in the folder of the profile");
        if profile.ends_with("release") || std::env::var_os("UDSIPC_LIBRARY_DIR").is_some() {
            return support::library();
        }
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let target = profile.parent().expect("a profile's folder lies in the target folder").join("cost");
        let mut build = Command::new(cargo);
        build.args(["build", "--release", "--locked", "--lib", "--manifest-path"]).arg(support::project("Cargo.toml"));
        build.env_remove("CARGO_BUILD_TARGET").arg("--target-dir").arg(&target);
        support::output(&mut build);
        let library = target.join("release").join("libudsipc.so");
        assert!(library.is_file(), "{} was not built", library.display());
        library
    })
}

fn build_dir() -> PathBuf {
    let dir = support::build_dir().join("cost");
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
    dir
}

fn compile(arguments: &[&str], name: &str, source: &str) -> PathBuf {
    // Two tests of this file may want the same program at the same time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _held = ONE_AT_A_TIME.lock();
    let program = build_dir().join(name);
    // Under a name of its own first: another run of this test may be using the program of the last build.
    let fresh = build_dir().join(format!("{name}.{}", std::process::id()));
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut command = Command::new(compiler);
    command.args(["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]);
    command.arg("-I").arg(support::project("include")).arg("-o").arg(&fresh);
    command.arg(support::project("ffi-tests/cost").join(source)).args(arguments);
    support::output(&mut command);
    fs::rename(&fresh, &program).unwrap_or_else(|e| panic!("rename to {}: {e}", program.display()));
    program
}

/// A program of ffi-tests/cost, linked with the release build.
fn program(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| support::link_into(build_dir().join("lib"), release_library())).display();
    compile(&[&format!("-L{dir}"), "-ludsipc", &format!("-Wl,-rpath,{dir}")], name, &format!("{name}.c"))
}

fn counter() -> PathBuf {
    // Without its built-in ideas of malloc, the compiler takes the counting one as it is.
    compile(&["-shared", "-fPIC", "-fno-builtin"], "count.so", "count.c")
}

/// The number that stands behind a word of the output.
fn number_after(word: &str, text: &str) -> f64 {
    let mut words = text.split_whitespace().skip_while(|candidate| *candidate != word);
    words.next();
    let number = words.next().unwrap_or_else(|| panic!("no {word} in:\n{text}")).replace(',', "");
    number.parse().unwrap_or_else(|e| panic!("{word} {number}: {e}"))
}

fn have_valgrind() -> bool {
    if Command::new("valgrind").arg("--version").output().is_ok_and(|done| done.status.success()) {
        return true;
    }
    let advice = "valgrind is missing; on Debian and Ubuntu: sudo apt-get install valgrind";
    assert!(std::env::var_os("CI").is_none(), "{advice}");
    println!("skipped: {advice}");
    false
}

/// `how` is given to the program as its last argument.
fn instructions_per_message(name: &str, how: &[&str]) -> Option<f64> {
    if !have_valgrind() {
        return None;
    }
    let folder = support::tempdir();
    let log = folder.path().join("log");
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--collect-atstart=no", "--toggle-collect=measured"]);
    command.arg(format!("--callgrind-out-file={}", folder.path().join("callgrind.out").display()));
    command.arg(format!("--log-file={}", log.display()));
    command.arg(program(name)).arg("instructions").arg(folder.path().join("s")).args(how);
    let printed = support::run_ok(&mut command, support::PATIENCE);
    let log = fs::read_to_string(log).expect("the log of valgrind");
    let collected =
        log.lines().find_map(|line| line.split_once("Collected : ")).expect("valgrind says what it collected").1;
    let collected: f64 = collected.trim().parse().expect("a number of instructions");
    Some(collected / number_after("messages", &printed))
}

/// The best of some runs: on a busy machine the reader's count of one build varies, from 83 to 120 when this was written.
fn assert_instructions(name: &str, how: &[&str], limit: f64) {
    let mut counted = f64::INFINITY;
    for _ in 0..12 {
        let Some(once) = instructions_per_message(name, how) else { return };
        counted = counted.min(once);
        if counted <= limit {
            break;
        }
    }
    let name = [&[name], how].concat().join(" ");
    println!("cost: instructions, {name}, 100 B {counted:.1}");
    // A counter that saw next to nothing was not switched on.
    assert!(counted > 20.0, "{counted:.1} instructions per message cannot be: was anything collected?");
    assert!(counted <= limit, "the {name}'s side takes {counted:.1} instructions per message; the limit is {limit}");
}

fn assert_calls(name: &str, how: &[&str]) {
    let folder = support::tempdir();
    let mut command = Command::new(program(name));
    command.env("LD_PRELOAD", counter()).arg("stream").arg(folder.path().join("s")).args(how);
    let printed = support::run_ok(&mut command, support::PATIENCE);
    let messages = number_after("messages", &printed);
    let calls = number_after("system_calls", &printed) / messages;
    let allocations = number_after("allocations", &printed) / messages;
    let name = [&[name], how].concat().join(" ");
    println!("cost: system calls, {name}, 100 B {calls:.5}");
    println!("cost: allocations, {name}, 100 B {allocations:.6}");
    assert!(calls > 0.0, "the counter counts nothing: is it loaded?");
    assert!(
        calls <= SYSTEM_CALLS,
        "the {name}'s side makes {calls} system calls per message; the limit is {SYSTEM_CALLS}"
    );
    assert!(
        allocations <= ALLOCATIONS,
        "the {name}'s side makes {allocations} allocations per message in steady state; the limit is {ALLOCATIONS}"
    );
}

#[test]
fn instructions_of_the_writers_side() {
    assert_instructions("writer", &[], WRITER_INSTRUCTIONS);
}

#[test]
fn instructions_of_a_timed_write_that_finds_room() {
    assert_instructions("writer", &["timed"], TIMED_WRITE_INSTRUCTIONS);
}

#[test]
fn instructions_of_many_writes_in_one_call() {
    assert_instructions("writer", &["many"], MANY_WRITES_INSTRUCTIONS);
}

#[test]
fn instructions_of_the_readers_side() {
    assert_instructions("reader", &[], READER_INSTRUCTIONS);
}

#[test]
fn instructions_of_the_readers_side_with_a_ledger() {
    assert_instructions("reader", &["ledger"], LEDGER_INSTRUCTIONS);
}

#[test]
fn system_calls_and_allocations_of_the_writers_side() {
    assert_calls("writer", &[]);
}

#[test]
fn system_calls_and_allocations_of_timed_writes() {
    assert_calls("writer", &["timed"]);
}

#[test]
fn system_calls_and_allocations_of_many_writes_in_one_call() {
    assert_calls("writer", &["many"]);
}

#[test]
fn system_calls_and_allocations_of_the_readers_side() {
    assert_calls("reader", &[]);
}

#[test]
fn system_calls_and_allocations_of_the_readers_side_with_a_ledger() {
    assert_calls("reader", &["ledger"]);
}

/// The names that `nm` lists, without the version behind the @.
fn symbols(kind: &str, file: &Path) -> BTreeSet<String> {
    let listed = support::output(Command::new("nm").args(["-D", kind]).arg(file));
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().last())
        .map(|name| name.split('@').next().unwrap_or(name).to_owned())
        .collect()
}

#[test]
fn the_counter_knows_every_call_that_the_library_makes() {
    let counted = symbols("--defined-only", &counter());
    let known: BTreeSet<String> = KERNEL_CALLS.split_whitespace().map(str::to_owned).collect();
    let allocators = ["malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc", "memalign"].map(str::to_owned);
    let imported = symbols("--undefined-only", release_library());
    assert!(imported.contains("send") && imported.contains("malloc"), "nm lists no imports: {imported:?}");
    let missed: Vec<_> = imported
        .iter()
        .filter(|name| known.contains(*name) || allocators.contains(name))
        .filter(|name| !counted.contains(*name))
        .collect();
    assert!(missed.is_empty(), "ffi-tests/cost/count.c does not count {missed:?}");
}
