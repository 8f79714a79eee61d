//! The README's programs, compiled and run as they stand there. Its Rust program is a documentation test of the crate.

#[path = "support/installation.rs"]
mod installation;
mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use installation::{Installation, SONAME, built, command, make, needed, scripts};
use support::{PATIENCE, build_dir, compile, library, link_dir, output, project, python3, run_ok, tempdir, wait_until};

/// The blocks of code below a heading, or of the whole README, with the language of each.
fn blocks(heading: &str) -> Vec<(String, String)> {
    let readme = fs::read_to_string(project("README.md")).expect("the README");
    let section = readme.split("\n## ").find(|section| heading.is_empty() || section.starts_with(heading));
    let text = if heading.is_empty() { &readme } else { section.expect("a section of that name") };
    let blocks = text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    blocks.map(|(language, code)| (language.to_owned(), code.to_owned())).collect()
}

/// The only block in this language below a heading.
fn block(heading: &str, language: &str) -> String {
    let found = blocks(heading).into_iter().filter(|(name, _)| name == language);
    let [(_, code)] =
        found.collect::<Vec<_>>().try_into().unwrap_or_else(|all| panic!("{heading}, {language}: {all:?}"));
    code
}

/// The block that begins with a comment naming it, written to a file of that name.
fn program(name: &str) -> std::path::PathBuf {
    let (_, block) = (blocks("").into_iter())
        .find(|(_, code)| code.lines().next().is_some_and(|first| first.contains(name)))
        .unwrap_or_else(|| panic!("the README has no program {name}"));
    let dir = build_dir().join("readme");
    fs::create_dir_all(&dir).expect("a folder for the README's programs");
    // By way of rename(2), since another test may be compiling the program.
    let (file, fresh) = (dir.join(name), dir.join(format!("{name}.{:?}", std::thread::current().id())));
    fs::write(&fresh, block).expect("write the README's program");
    fs::rename(&fresh, &file).expect("rename the README's program");
    file
}

struct Reader(Child);

impl Reader {
    fn start(program: &Path, libraries: &Path, socket: &Path) -> Reader {
        let mut command = Command::new(program);
        command.arg(socket).env("LD_LIBRARY_PATH", libraries).stdout(Stdio::piped());
        let child = command.spawn().expect("start the reader");
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
    let reader = Reader::start(&compile(&program("reader.c"), "gnu11"), &link_dir(), &socket);
    run_ok(Command::new(compile(&program("writer.c"), "gnu11")).arg(&socket), PATIENCE);
    run_ok(python("writer.py").arg(&socket), PATIENCE);
    let mut got = reader.stop();
    got.sort(); // two connections
    assert_eq!(got, ["got hello from C", "got hello from Python"]);
    assert!(!socket.exists(), "a stopped reader removes its socket");
}

/// What stands in front of the commands of a newcomer: the libraries that are there instead of a build of some minutes, a
/// prefix in the scratch folder instead of /usr/local, and nobody becomes root.
fn as_a_newcomer(folder: &Path, commands: &str, patience: Duration) {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let make = format!(
        "PATH='{}' exec make -C {} OUT={} CARGO=true LDCONFIG=true PREFIX={}/prefix \"$@\"",
        std::env::var("PATH").expect("PATH"),
        project("").display(),
        built().display(),
        folder.display()
    );
    let cargo = format!("[ \"$1\" = install ] || exec {cargo} \"$@\"");
    let (_scripts, path) = scripts(&[("make", &make), ("sudo", "exec \"$@\""), ("cargo", &cargo)]);
    let mut shell = command("sh");
    shell.args(["-eu", "-c", commands]).current_dir(folder).env("PATH", path);
    run_ok(&mut shell, patience);
}

#[test]
fn the_commands_that_install_do() {
    let [(_, first), (_, packages), (_, with_cargo_c)] =
        blocks("Install").try_into().expect("three blocks of commands");
    let folder = tempdir();
    as_a_newcomer(folder.path(), &first, PATIENCE);
    assert!(folder.path().join("prefix/lib").join(SONAME).exists());
    // Run by `make deb-check`, which installs in a copy of the machine.
    assert!(packages.starts_with("make deb ") && packages.contains("sudo apt-get install ./target/"), "{packages}");
    // Run by `make capi-check`, since cargo-c takes minutes to build.
    assert!(with_cargo_c.contains("cargo cinstall "), "{with_cargo_c}");
}

/// Builds the reader of the README, and lets it start and stop.
fn builds_a_reader(installation: &Installation, folder: &Path, commands: &str, reader: &str) {
    let mut shell = command("sh");
    shell.env("PKG_CONFIG_PATH", installation.libdir.join("pkgconfig")).env("CMAKE_PREFIX_PATH", &installation.prefix);
    run_ok(shell.args(["-eu", "-c", commands]).current_dir(folder), PATIENCE);
    let reader = folder.join(reader);
    let statically = commands.contains("static");
    assert_eq!(needed(&reader).contains(SONAME), !statically, "{commands}: {}", needed(&reader));
    let socket = installation.folder.path().join("events.sock");
    assert_eq!(Reader::start(&reader, &installation.libdir, &socket).stop(), [""; 0]);
    fs::remove_file(reader).expect("remove the reader");
}

#[test]
fn the_commands_that_link_do() {
    let installation = Installation::in_prefix();
    let folder = |name: &str| {
        let folder = installation.folder.path().join(name);
        fs::create_dir(&folder).expect("a folder for a project");
        fs::copy(program("reader.c"), folder.join("reader.c")).expect("a copy of the reader");
        folder
    };
    let commands = blocks("Link").into_iter().filter(|(language, _)| language == "sh").map(|(_, code)| code);
    let [compile, cmake, meson] = commands.collect::<Vec<_>>().try_into().expect("three ways of building");
    let by_hand = folder("by-hand");
    let lines: Vec<&str> = compile.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    assert_eq!(lines.len(), 3, "shared, static, static altogether");
    for line in lines {
        builds_a_reader(&installation, &by_hand, line, "reader");
    }
    for (tool, file, commands) in [("cmake", "CMakeLists.txt", cmake), ("meson", "meson.build", meson)] {
        let project = folder(tool);
        fs::write(project.join(file), block("Link", tool)).expect("write the project's file");
        builds_a_reader(&installation, &project, &commands, "build/reader");
    }
}

/// `make capi-check` has cargo-c.
#[test]
#[ignore = "make capi-check"]
fn cargo_c_installs_what_make_does() {
    let installation = Installation::in_prefix();
    let folder = installation.folder.path();
    let (_, commands) = blocks("Install").pop().expect("the commands of cargo-c");
    // In the sources, and with a target folder of its own: another cargo may be at work in theirs. What has to be fast is the
    // build.
    let here = format!(
        "export CARGO_TARGET_DIR={} CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16\ncd {}\n",
        build_dir().join("capi").display(),
        project("").display()
    );
    let commands = commands.replace("=stage", &format!("={}/stage", folder.display()));
    as_a_newcomer(folder, &(here + &commands), PATIENCE * 10);
    run_ok(&mut make("install", &[format!("DESTDIR={}/made", folder.display()), "PREFIX=/usr".to_owned()]), PATIENCE);
    let files = |tree: &str| {
        let found = output(command("find").args([".", "!", "-type", "d"]).current_dir(folder.join(tree)));
        let mut files: Vec<String> =
            found.lines().filter(|file| !file.contains("/cmake/")).map(str::to_owned).collect();
        files.sort();
        files
    };
    assert_eq!(files("stage"), files("made"));
    let libdir = folder.join("stage/usr/lib");
    let mut build = command("sh");
    build.env("PKG_CONFIG_LIBDIR", libdir.join("pkgconfig")).env("PKG_CONFIG_SYSROOT_DIR", folder.join("stage"));
    let compile = format!("cc -o reader {} $(pkg-config --cflags --libs udsipc)", program("reader.c").display());
    run_ok(build.args(["-eu", "-c", &compile]).current_dir(folder), PATIENCE);
    assert!(needed(&folder.join("reader")).contains(SONAME), "{}", needed(&folder.join("reader")));
    Reader::start(&folder.join("reader"), &libdir, &folder.join("events.sock")).stop();
}

#[test]
fn the_quick_start_in_cpp_delivers() {
    let dir = tempdir();
    let program = compile(&program("events.cpp"), "c++17");
    let printed = run_ok(Command::new(program).arg(dir.path().join("events.sock")), PATIENCE);
    assert_eq!(printed, "got hello from C++\ngot one more\n");
    let readme = fs::read_to_string(project("README.md")).expect("the README");
    assert_eq!(readme.matches("```cpp\n").count(), 1, "a C++ program of the README is not run");
}

/// A Python program of the README, with the package as it is in the checkout.
fn python(name: &str) -> Command {
    let mut command = Command::new(python3().expect("python3: apt-get install python3"));
    command.arg("-B").arg(program(name));
    command.env("PYTHONPATH", project("bindings/python/src")).env("UDSIPC_LIBRARY", library());
    command
}

/// Sends with a program, and returns what the reader prints until SIGTERM. It ends in peace, or by the signal.
fn python_reader_gets(reader: &str, writer: &str) -> (bool, String) {
    let dir = tempdir();
    let socket = dir.path().join("events.sock");
    let child = python(reader).arg(&socket).stdout(Stdio::piped()).spawn().expect("start the reader");
    let mut reader = Reader(child);
    wait_until(PATIENCE, "the reader listens", || socket.exists());
    run_ok(python(writer).arg(&socket), PATIENCE);
    let mut line = String::new();
    let mut lines = BufReader::new(reader.0.stdout.take().expect("its output"));
    lines.read_line(&mut line).expect("its output");
    let pid = reader.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
    (reader.0.wait().expect("its end").success(), line)
}

#[test]
fn the_programs_in_python_deliver() {
    assert_eq!(python_reader_gets("reader.py", "writer.py"), (true, "got hello from Python\n".to_owned()));
    assert_eq!(python_reader_gets("reader.py", "log.py"), (true, "got INFO hello from logging\n".to_owned()));
    let (_, line) = python_reader_gets("collector.py", "writer.py");
    assert!(line.ends_with(" 1 hello from Python\n"), "{line}");
    let dir = tempdir();
    let printed = run_ok(python("both.py").arg(dir.path().join("both.sock")), PATIENCE);
    assert_eq!(printed, "got hello from asyncio\n");
    let readme = fs::read_to_string(project("README.md")).expect("the README");
    assert_eq!(readme.matches("```python\n").count(), 5, "a Python program of the README is not run");
}

/// A newcomer's compiler may be stricter than ours: no extension of GNU, and no function that POSIX does not have.
#[test]
fn the_c_programs_are_strict_c11() {
    for name in ["reader.c", "writer.c"] {
        let mut compiler = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()));
        compiler.args(["-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
        let object = build_dir().join("readme").join(format!("{name}.strict.o"));
        output(compiler.args(["-O2", "-c"]).arg("-I").arg(project("include")).arg(program(name)).arg("-o").arg(object));
    }
    let readme = fs::read_to_string(project("README.md")).expect("the README");
    assert_eq!(readme.matches("```c\n").count(), 2, "a C program of the README is not compiled");
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
