//! What the harnesses share: the library that was just built, a compiler, a watchdog, scratch folders.

// Each harness is a crate of its own and uses its own part of this file.
#![allow(dead_code)]

pub(crate) mod running;
pub(crate) mod systemd;

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long a test program may take. Generous: it is there to turn a hang into a failure, not to measure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A file of the project, from its path below the root.
pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The folder of this profile in which cargo puts this test binary and the libraries that it built for it:
/// `<target>/<profile>/deps`. The copies one folder up are those of the last `cargo build`, which may be older.
pub(crate) fn profile_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("the path of this test binary");
    exe.parent().expect("a test binary lies in a folder").to_path_buf()
}

/// Where the library lies that is tested: the one that cargo built together with this test, or the one in
/// `UDSIPC_LIBRARY_DIR`. The Makefile names what `make all` has built, so that the tests need no link-time optimisation.
pub(crate) fn library_dir() -> PathBuf {
    std::env::var_os("UDSIPC_LIBRARY_DIR").map_or_else(profile_dir, PathBuf::from)
}

fn built(name: &str) -> PathBuf {
    let library = library_dir().join(name);
    assert!(library.is_file(), "{} is missing: does [lib] still have its crate-type?", library.display());
    library
}

/// The shared object that is tested.
pub(crate) fn library() -> PathBuf {
    built("libudsipc.so")
}

/// The static library that is tested.
pub(crate) fn static_library() -> PathBuf {
    built("libudsipc.a")
}

/// The functions that the library exports, as the list of its symbols has them.
pub(crate) fn exported_functions() -> Vec<String> {
    let list = fs::read_to_string(project("packaging/abi/libudsipc.symbols")).expect("the list of symbols");
    let functions = list.lines().filter_map(|line| line.strip_prefix(' ')).filter(|line| line.starts_with("udsipc_"));
    functions.map(|line| line.split_once('@').expect("a symbol has a version").0.to_owned()).collect()
}

/// Where compiled test programs go: below the build folder, so that `cargo clean` removes them.
pub(crate) fn build_dir() -> PathBuf {
    let dir = profile_dir().with_file_name("ffi-tests");
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
    dir
}

/// A folder that holds the library under the names that the linker and the loader look for.
pub(crate) fn link_dir() -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| link_into(build_dir().join("lib"), &library())).clone()
}

/// Makes such a folder for this library.
pub(crate) fn link_into(dir: PathBuf, library: &Path) -> PathBuf {
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("create {}: {e}", dir.display()));
    for name in ["libudsipc.so", "libudsipc.so.0"] {
        let link = dir.join(name);
        if fs::read_link(&link).is_ok_and(|target| target == library) {
            continue;
        }
        let fresh = dir.join(format!("{name}.{}", std::process::id()));
        symlink(library, &fresh).unwrap_or_else(|e| panic!("link {}: {e}", fresh.display()));
        fs::rename(&fresh, &link).unwrap_or_else(|e| panic!("rename to {}: {e}", link.display()));
    }
    dir
}

/// A folder that is removed when the value is dropped. Its path is short: a socket path has 107 bytes.
pub(crate) fn tempdir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("udsipc-").tempdir().expect("a temporary folder")
}

/// A Python 3 interpreter, if there is one.
pub(crate) fn python3() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output().ok()?;
            let path = String::from_utf8(asked.stdout).ok()?;
            asked.status.success().then(|| PathBuf::from(path.trim()))
        })
        .clone()
}

/// Who watches the C programs while they run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checker {
    Nobody,
    /// AddressSanitizer, with leaks and UndefinedBehaviorSanitizer.
    Address,
    /// ThreadSanitizer.
    Thread,
    /// valgrind.
    Memcheck,
}

/// `UDSIPC_CHECKER`, which the targets `sanitize-address`, `sanitize-thread` and `memcheck` of the Makefile set. The first
/// two build this harness and the library with the same sanitizer.
pub(crate) fn checker() -> Checker {
    match std::env::var("UDSIPC_CHECKER").unwrap_or_default().as_str() {
        "" => Checker::Nobody,
        "address" => Checker::Address,
        "thread" => Checker::Thread,
        "memcheck" => Checker::Memcheck,
        other => panic!("UDSIPC_CHECKER={other} is none of address, thread, memcheck"),
    }
}

impl Checker {
    fn compiler_flags(self) -> &'static [&'static str] {
        match self {
            Checker::Nobody | Checker::Memcheck => &[],
            // rustc's runtime knows UBSan's checks of C, not the one of C++.
            Checker::Address => &[
                "-fsanitize=address,undefined",
                "-fno-sanitize=vptr",
                "-fno-sanitize-recover=all",
                "-fno-omit-frame-pointer",
            ],
            Checker::Thread => &["-fsanitize=thread", "-fno-omit-frame-pointer"],
        }
    }

    /// What every instrumented object refers to.
    fn mark(self) -> Option<&'static str> {
        match self {
            Checker::Nobody | Checker::Memcheck => None,
            Checker::Address => Some("__asan_report_load8"),
            Checker::Thread => Some("__tsan_read8"),
        }
    }

    /// A process has one runtime of a sanitizer, and it is in the executable: here rustc's, since a library built by rustc
    /// refers to it. The compiler would link its own.
    fn runtime(self) -> Vec<String> {
        let name = match self {
            Checker::Nobody | Checker::Memcheck => return Vec::new(),
            Checker::Address => "_rt.asan.a",
            Checker::Thread => "_rt.tsan.a",
        };
        let folder = output(Command::new("rustc").args(["--print", "target-libdir"]));
        let files = fs::read_dir(folder.trim()).into_iter().flatten().flatten().map(|entry| entry.path());
        let runtime = files.filter_map(|file| file.to_str().map(str::to_owned)).find(|file| file.ends_with(name));
        let runtime = runtime.unwrap_or_else(|| panic!("no lib*{name} in {folder}: the toolchain has no sanitizers"));
        let whole = format!("-Wl,--whole-archive,{runtime},--no-whole-archive");
        ["-rdynamic", &whole, "-lm", "-ldl", "-lrt"].map(str::to_owned).into()
    }
}

/// A run that was meant to be sanitized and is not would prove nothing.
pub(crate) fn assert_sanitized(object: &Path, nm_flag: &str) {
    let Some(mark) = checker().mark() else { return };
    let symbols = output(Command::new("nm").arg(nm_flag).arg(object));
    assert!(symbols.contains(mark), "{} is not instrumented: it does not refer to {mark}", object.display());
}

/// The compiler of a C or C++ source.
fn compiler(source: &Path) -> String {
    let (variable, default) = if is_cpp(source) { ("CXX", "c++") } else { ("CC", "cc") };
    std::env::var(variable).unwrap_or_else(|_| default.to_owned())
}

/// Compiles a C or C++ program against the header and the shared object, with every warning an error.
pub(crate) fn compile(source: &Path, standard: &str) -> PathBuf {
    let lib = link_dir();
    compile_with(
        source,
        standard,
        &[&format!("-L{}", lib.display()), "-ludsipc", &format!("-Wl,-rpath,{}", lib.display())],
    )
}

/// As [`compile`], but linked to these libraries only.
pub(crate) fn compile_with(source: &Path, standard: &str, libraries: &[&str]) -> PathBuf {
    let folder = source.parent().and_then(Path::file_name).expect("a source lies in a folder");
    let stem = source.file_stem().expect("a source has a name");
    let bin = build_dir().join(folder);
    fs::create_dir_all(&bin).unwrap_or_else(|e| panic!("create {}: {e}", bin.display()));
    let program = bin.join(stem);
    // Under a name of its own first: another harness may be running the program of the last build.
    let fresh = bin.join(format!("{}.{}", stem.display(), std::process::id()));
    let object = bin.join(format!("{}.{}.o", stem.display(), std::process::id()));

    let mut compile = Command::new(compiler(source));
    compile.args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g", "-O1", "-pthread"]);
    compile.arg(format!("-std={standard}"));
    if !is_cpp(source) {
        compile.arg("-Wstrict-prototypes");
    }
    if checker() != Checker::Nobody {
        compile.arg("-DUDSIPC_CHECKER");
    }
    compile.args(checker().compiler_flags()).arg("-I").arg(project("include"));
    // As pkg-config prints them, flags for the compiler and for the linker come together.
    compile.args(libraries.iter().filter(|flag| flag.starts_with("-I")));
    output(compile.arg("-c").arg(source).arg("-o").arg(&object));
    assert_sanitized(&object, "-u");

    let mut link = Command::new(compiler(source));
    link.arg("-pthread").arg(&object).arg("-o").arg(&fresh);
    output(link.args(checker().runtime()).args(libraries));
    fs::remove_file(&object).unwrap_or_else(|e| panic!("remove {}: {e}", object.display()));
    fs::rename(&fresh, &program).unwrap_or_else(|e| panic!("rename to {}: {e}", program.display()));
    program
}

fn is_cpp(source: &Path) -> bool {
    source.extension().is_some_and(|extension| extension == "cpp")
}

/// Runs a tool that must succeed, and gives back what it printed.
pub(crate) fn output(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(done.status.success(), "{command:?}: {}\n{}", done.status, String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// How a program ended, and what it printed on both streams.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) output: String,
}

/// Runs a program, ends it by its pid when `patience` is over, and panics with its output unless it succeeds.
pub(crate) fn run_ok(command: &mut Command, patience: Duration) -> String {
    outcome(command, patience).unwrap_or_else(|why| panic!("{why}"))
}

/// What a program has printed, or how it failed: its status and output, or that it hung.
pub(crate) fn outcome(command: &mut Command, patience: Duration) -> Result<String, String> {
    let done = finish(command, patience)?;
    if done.status.success() { Ok(done.output) } else { Err(format!("{command:?}: {}\n{}", done.status, done.output)) }
}

/// Runs a program and waits for its end. One that is still there after `patience` is killed, and the test fails.
pub(crate) fn run(command: &mut Command, patience: Duration) -> Finished {
    finish(command, patience).unwrap_or_else(|why| panic!("{why}"))
}

fn finish(command: &mut Command, patience: Duration) -> Result<Finished, String> {
    // A file, not a pipe: a pipe that nobody empties would stop the program, and a forgotten grandchild keeps one open.
    let log = tempfile::NamedTempFile::new().expect("a file for the output");
    let stream = |log: &File| Stdio::from(log.try_clone().expect("a second descriptor for the output"));
    command.stdin(Stdio::null()).stdout(stream(log.as_file())).stderr(stream(log.as_file()));
    // Cargo puts the folder of the last `cargo build` first for its tests, and that wins over a program's own rpath.
    if !command.get_envs().any(|(name, _)| name == "LD_LIBRARY_PATH") {
        command.env("LD_LIBRARY_PATH", link_dir());
    }
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let printed = || String::from_utf8_lossy(&fs::read(log.path()).unwrap_or_default()).into_owned();

    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().expect("wait for the program") {
            return Ok(Finished { status, output: printed() });
        }
        if Instant::now() >= deadline {
            let threads = where_threads_wait(child.id());
            child.kill().expect("kill the program");
            child.wait().expect("wait for the killed program");
            return Err(format!("{command:?} hangs: still there after {patience:?}\n{threads}{}", printed()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One line per thread of a hanging program: its name and the system call that it is in.
fn where_threads_wait(pid: u32) -> String {
    let mut text = String::new();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    for task in tasks.map(|entry| entry.path()) {
        let read = |name: &str| fs::read_to_string(task.join(name)).unwrap_or_default().trim().to_owned();
        let _ = writeln!(text, "thread {} waits in {} (syscall {})", read("comm"), read("wchan"), read("syscall"));
    }
    text
}

/// Waits for a condition that another process or thread brings about.
pub(crate) fn wait_until(patience: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < deadline, "after {patience:?} still not: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What a service manager sets is meant for the process that runs the tests, not for the programs under test.
pub(crate) fn without_systemd(command: &mut Command) -> &mut Command {
    for variable in
        ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "STATE_DIRECTORY"]
    {
        command.env_remove(variable);
    }
    command
}

/// Runs a program in a folder of its own, watched by the checker if there is one, and returns what it has printed.
pub(crate) fn run_in_scratch(program: &Path, arguments: &[&str]) -> String {
    scratch_outcome(program, arguments).unwrap_or_else(|why| panic!("{why}"))
}

/// As [`run_in_scratch`]; a failure is returned.
pub(crate) fn scratch_outcome(program: &Path, arguments: &[&str]) -> Result<String, String> {
    let scratch = tempdir();
    let mut command = watched(program);
    command.args(arguments).current_dir(scratch.path());
    outcome(without_systemd(&mut command), PATIENCE)
}

/// The exit status by which each checker says that it has found something.
pub(crate) const FOUND: i32 = 66;

/// A program that runs under the checker. The sanitizers are in it and get their options from the environment.
pub(crate) fn watched(program: &Path) -> Command {
    if checker() != Checker::Memcheck {
        return Command::new(program);
    }
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--fair-sched=yes", "--child-silent-after-fork=yes", "--leak-check=full"]);
    // "Possibly lost" is what only a pointer into its middle leads to, as in every hash table.
    command.args(["--show-leak-kinds=definite,indirect", "--errors-for-leak-kinds=definite,indirect"]);
    // The descriptors of its debugging server do not outlive a fork, and are counted by the programs.
    command.arg("--vgdb=no").arg(format!("--error-exitcode={FOUND}")).arg(program);
    command
}

/// The manual pages as they are installed: `man3/udsipc_writer.3`, and a link for each other name in the section NAME of a page.
/// Each with the file in `packaging/man` that it opens.
pub(crate) fn manual_pages() -> std::collections::BTreeMap<String, PathBuf> {
    let mut pages = std::collections::BTreeMap::new();
    for file in
        fs::read_dir(project("packaging/man")).expect("the manual pages").map(|entry| entry.expect("an entry").path())
    {
        let section =
            file.extension().and_then(|section| section.to_str()).expect("a page ends in its section").to_owned();
        if !section.bytes().all(|byte| byte.is_ascii_digit()) {
            continue; // a template
        }
        let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("read {}: {e}", file.display()));
        let names = text.split(".Sh ").find_map(|part| part.strip_prefix("NAME\n")).expect("a section NAME");
        for name in names.lines().filter_map(|line| line.strip_prefix(".Nm ")) {
            let name = name.trim_end_matches([' ', ',']);
            let double = pages.insert(format!("man{section}/{name}.{section}"), file.clone());
            assert!(double.is_none(), "two pages are called {name}({section})");
        }
        let own = file.file_name().and_then(|name| name.to_str()).expect("a page has a name");
        assert!(pages.contains_key(&format!("man{section}/{own}")), "{own} does not name itself");
    }
    pages
}
