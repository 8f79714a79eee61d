//! An installed library as a C or C++ programmer meets it: whatever builds the program, it builds and runs. The projects are
//! in `install`, the commands those of the README.

#![allow(clippy::unwrap_used)]

#[path = "support/installation.rs"]
mod installation;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use installation::{Installation, SONAME, VERSION, command, needed};
use support::{PATIENCE, exported_functions, outcome, output, project, python3, run_ok};

const C: &str = "C: 1000 messages\n";
const CPP: &str = "C++: 1000 messages\n";

/// Runs the programs that a project has built: which library each asks the loader for, and what it does.
fn run_all(installation: &Installation, built: &Path, programs: &[&str]) {
    for program in programs {
        let path = built.join(program);
        assert_eq!(needed(&path).contains(SONAME), !program.contains("static"), "{program}: {}", needed(&path));
        let expected = if program.starts_with("cpp") { CPP } else { C };
        assert_eq!(installation.run(Command::new(path)), expected, "{program}");
    }
}

/// A copy of a project and of the programs beside it, since some tools build into the folder of the sources.
fn copy_project(installation: &Installation, name: &str) -> PathBuf {
    let sources = installation.folder.path().join("sources");
    fs::create_dir_all(sources.join(name)).unwrap();
    for file in ["exchange.c".to_owned(), "exchange.cpp".to_owned()].into_iter().chain(
        fs::read_dir(project("ffi-tests/install").join(name))
            .unwrap()
            .map(|entry| format!("{name}/{}", entry.unwrap().file_name().display())),
    ) {
        fs::copy(project("ffi-tests/install").join(&file), sources.join(&file)).unwrap();
    }
    sources.join(name)
}

#[test]
fn a_project_with_make_and_pkg_config() {
    let installation = Installation::in_prefix();
    let folder = copy_project(&installation, "make");
    run_ok(installation.command("make").arg("-C").arg(&folder), PATIENCE);
    run_all(&installation, &folder, &["c_shared", "c_static", "c_all_static", "cpp_shared", "cpp_static"]);
    assert_eq!(needed(&folder.join("c_all_static")), "");
}

#[test]
fn a_project_with_meson() {
    let installation = Installation::in_prefix();
    let folder = copy_project(&installation, "meson");
    let build = folder.join("build");
    run_ok(installation.command("meson").args(["setup", "--fatal-meson-warnings"]).arg(&build).arg(&folder), PATIENCE);
    run_ok(installation.command("meson").args(["compile", "-j", "2", "-C"]).arg(&build), PATIENCE);
    run_all(&installation, &build, &["c_shared", "c_static", "c_cmake", "cpp_shared", "cpp_static"]);
}

fn cmake(installation: &Installation, sources: &Path, build: &Path) -> Result<String, String> {
    let mut configure = installation.command("cmake");
    configure.arg("-S").arg(sources).arg("-B").arg(build).args(["-Wdev", "--warn-uninitialized"]);
    // CMake breaks its messages into lines where a path happens to end.
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    outcome(&mut configure, PATIENCE).map(words).map_err(words)
}

/// Wherever the files lie: a prefix of one's own, a staging folder, a prefix of its own for what depends on the machine.
#[test]
fn a_project_with_cmake() {
    for installation in [Installation::in_prefix(), Installation::staged(), Installation::with_exec_prefix()] {
        let folder = copy_project(&installation, "cmake");
        let build = folder.join("build");
        let configured = cmake(&installation, &folder, &build).unwrap_or_else(|why| panic!("{why}"));
        assert!(!configured.contains("Warning"), "{configured}");
        run_ok(command("cmake").arg("--build").arg(&build).args(["-j", "2"]), PATIENCE);
        run_all(&installation, &build, &["c_shared", "c_static", "cpp_shared", "cpp_static"]);
    }
}

/// A project without a program: what find_package says, and where the targets point.
fn find_package(installation: &Installation, commands: &str) -> Result<String, String> {
    let folder = installation.folder.path().join("find");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    let begin = "cmake_minimum_required(VERSION 3.19)\nproject(find LANGUAGES NONE)\n\
                 set_property(GLOBAL PROPERTY TARGET_SUPPORTS_SHARED_LIBS TRUE)\n";
    fs::write(folder.join("CMakeLists.txt"), format!("{begin}{commands}\n")).unwrap();
    cmake(installation, &folder, &folder.join("build"))
}

#[test]
fn a_tree_that_was_moved_is_used_where_it_is() {
    let mut installation = Installation::in_prefix();
    let moved = installation.folder.path().join("moved");
    fs::rename(&installation.prefix, &moved).unwrap();
    (installation.prefix, installation.libdir) = (moved.clone(), moved.join("lib"));
    let folder = copy_project(&installation, "cmake");
    cmake(&installation, &folder, &folder.join("build")).unwrap_or_else(|why| panic!("{why}"));
    run_ok(command("cmake").arg("--build").arg(folder.join("build")).args(["--target", "c_shared"]), PATIENCE);
    run_all(&installation, &folder.join("build"), &["c_shared"]);
    let mut pkg_config = command("pkg-config");
    pkg_config.env("PKG_CONFIG_PATH", moved.join("lib/pkgconfig"));
    let flags = output(pkg_config.args(["--define-prefix", "--cflags", "--libs", "udsipc"]));
    let moved = moved.display();
    assert_eq!(
        flags.split_whitespace().collect::<Vec<_>>(),
        [&format!("-I{moved}/include"), &format!("-L{moved}/lib"), "-ludsipc"]
    );
}

#[test]
fn cmake_takes_a_version_of_the_same_major_number_that_is_not_older() {
    let installation = Installation::in_prefix();
    let next =
        format!("{}.{}", env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR").parse::<u32>().unwrap() + 1);
    let major = env!("CARGO_PKG_VERSION_MAJOR").parse::<u32>().unwrap() + 1;
    let fitting =
        ["", "0.1", VERSION, &format!("{VERSION} EXACT"), &format!("0.1...{major}"), &format!("0.1...<{next}")];
    let others = [&next, &format!("{major}.0"), "0.0.1 EXACT", "0.0.1...0.0.9", &format!("0.0...<{VERSION}")];
    for (versions, found) in [(fitting.as_slice(), true), (others.as_slice(), false)] {
        for version in versions {
            let printed = find_package(
                &installation,
                &format!("find_package(udsipc {version} QUIET)\nmessage(\"found: ${{udsipc_FOUND}}\")"),
            );
            let printed = printed.unwrap_or_else(|why| panic!("{why}"));
            assert_eq!(printed.contains("found: 1") || printed.contains("found: TRUE"), found, "{version}: {printed}");
        }
    }
}

#[test]
fn cmake_names_what_is_missing() {
    let installation = Installation::in_prefix();
    let find = |commands: &str| find_package(&installation, commands);
    assert!(find("find_package(udsipc REQUIRED)\nfind_package(udsipc REQUIRED)").is_ok(), "found twice");
    let unknown = find("find_package(udsipc REQUIRED COMPONENTS shraed)").expect_err("an unknown component");
    assert!(unknown.contains("missing: component shraed (there are shared and static)"), "{unknown}");

    // Some distributions leave the static library out.
    fs::remove_file(installation.libdir.join("libudsipc.a")).unwrap();
    let optional = "find_package(udsipc REQUIRED COMPONENTS shared OPTIONAL_COMPONENTS static)\n\
                    message(\"static: ${udsipc_static_FOUND}\")";
    assert!(find(&format!("find_package(udsipc REQUIRED)\n{optional}")).is_ok_and(|text| text.contains("static: --")));
    let refused = find("find_package(udsipc REQUIRED COMPONENTS shared static)").expect_err("no static library");
    assert!(refused.contains("lib/libudsipc.a"), "{refused}");
    fs::remove_file(installation.prefix.join("include/udsipc.h")).unwrap();
    let refused = find("find_package(udsipc REQUIRED)").expect_err("no header");
    assert!(refused.contains("not installed completely") && refused.contains("include/udsipc.h"), "{refused}");
}

#[test]
fn python_programs_run() {
    let installation = Installation::in_prefix();
    let mut python = Command::new(python3().expect("python3"));
    python.arg(project("ffi-tests/install/exchange.py"));
    assert_eq!(installation.run(python), "Python: 1000 messages\n");
}

/// Older builds of the library, and those of cargo alone, have no versions of symbols.
#[test]
fn a_program_that_was_linked_without_symbol_versions_runs() {
    let installation = Installation::in_prefix();
    let unversioned = support::profile_dir();
    let symbols = output(Command::new("nm").arg("-D").arg(unversioned.join("libudsipc.so")));
    assert!(symbols.contains("udsipc_writer_new") && !symbols.contains("UDSIPC_0"), "{symbols}");
    let flags =
        [format!("-I{}", project("include").display()), format!("-L{}", unversioned.display()), "-ludsipc".to_owned()];
    let program = installation.build(&["cc", "-std=c99"], "ffi-tests/install/exchange.c", &flags);
    assert_eq!(installation.run(Command::new(program)), C);
}

fn archive(installation: &Installation) -> String {
    installation.libdir.join("libudsipc.a").display().to_string()
}

fn private_libraries(installation: &Installation) -> Vec<String> {
    let flags = installation.pkg_config(&["--static", "--cflags", "--libs"]);
    flags.into_iter().filter(|flag| flag != "-ludsipc").collect()
}

#[test]
fn the_static_library_shows_the_functions_of_the_api_alone() {
    let installation = Installation::in_prefix();
    let symbols = output(Command::new("nm").args(["--extern-only", "--defined-only"]).arg(archive(&installation)));
    let names = symbols.lines().filter_map(|line| line.split_whitespace().nth(2)).map(str::to_owned);
    assert_eq!(names.collect::<BTreeSet<_>>(), exported_functions().into_iter().collect());
}

/// The library that others make of the same standard library, by rustc alone.
fn other_library(installation: &Installation) -> String {
    let library = installation.folder.path().join("libother.a").display().to_string();
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let mut compile = command(rustc);
    compile.args(["--edition=2024", "--crate-type=staticlib", "-Copt-level=1", "-o", &library]);
    output(compile.arg(project("ffi-tests/install/other.rs")));
    library
}

/// Also when a linker takes all there is in both, as a plugin's may.
#[test]
fn another_static_library_of_rust_is_linked_into_the_same_program() {
    let installation = Installation::in_prefix();
    let (ours, other) = (archive(&installation), other_library(&installation));
    let all = |archives: [&str; 2]| format!("-Wl,--whole-archive,{},--no-whole-archive", archives.join(","));
    for archives in [vec![ours.clone(), other.clone()], vec![other.clone(), ours.clone()], vec![all([&ours, &other])]] {
        let flags: Vec<String> = archives.into_iter().chain(private_libraries(&installation)).collect();
        let program = installation.build(&["cc", "-std=c99"], "ffi-tests/install/together.c", &flags);
        assert_eq!(installation.run(Command::new(program)), "sum 5050, panic caught, writer stopped\n");
    }
}

#[test]
fn the_static_library_is_linked_into_every_kind_of_program() {
    let installation = Installation::in_prefix();
    let flags: Vec<String> = [archive(&installation)].into_iter().chain(private_libraries(&installation)).collect();
    let mut sizes = Vec::new();
    for how in ["-fPIE -pie", "-fno-pie -no-pie", "-static", "-static-pie", "-Wl,--gc-sections", "-Wl,-z,defs"] {
        let compiler: Vec<&str> = ["cc", "-std=c99"].into_iter().chain(how.split(' ')).collect();
        let program = installation.build(&compiler, "ffi-tests/install/exchange.c", &flags);
        sizes.push(fs::metadata(&program).unwrap().len());
        assert_eq!(installation.run(Command::new(program)), C, "{how}");
    }
    assert!(sizes[4] <= sizes[0], "unused sections can be left out: {sizes:?}");
}

/// A panic is caught by the library however it is linked: the tables that unwinding needs have come through the linker.
#[test]
fn a_panic_in_the_library_stays_there() {
    let installation = Installation::in_prefix();
    let shared = installation.pkg_config(&["--cflags", "--libs"]);
    let static_: Vec<String> = [archive(&installation)].into_iter().chain(private_libraries(&installation)).collect();
    for (how, flags) in
        [("-O1", shared), ("-O1", static_.clone()), ("-Wl,--gc-sections", static_.clone()), ("-static", static_)]
    {
        let program = installation.build(&["cc", "-std=c11", how], "ffi-tests/install/panics.c", &flags);
        assert_eq!(installation.run(Command::new(program)), "flush: 90, reported\nthen: 90\n", "{how}");
    }
}

/// And an exception of a callback ends the process, as with the shared library (`faults.rs`).
#[test]
fn an_exception_ends_a_program_with_the_static_library() {
    let installation = Installation::in_prefix();
    let flags: Vec<String> = [archive(&installation)].into_iter().chain(private_libraries(&installation)).collect();
    let program = installation.build(&["c++", "-std=c++17"], "ffi-tests/faults/throws.cpp", &flags);
    let scenarios = output(Command::new(&program).arg("--list"));
    assert!(scenarios.lines().count() > 0);
    for scenario in scenarios.lines() {
        run_ok(Command::new(&program).arg(scenario).current_dir(installation.folder.path()), PATIENCE);
    }
}

/// The private libraries are those that rustc names, but for what a compiler adds by itself in the form that suits the program.
#[test]
fn the_private_libraries_are_those_of_the_standard_library() {
    let installation = Installation::in_prefix();
    let named = run_ok(
        command(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()))
            .args(["--edition=2024", "--crate-type=staticlib", "--print=native-static-libs", "-o"])
            .arg(installation.folder.path().join("libempty.a"))
            .arg(project("ffi-tests/install/other.rs")),
        PATIENCE,
    );
    let named = named.lines().find_map(|line| line.split_once("native-static-libs: ")).expect("the libraries").1;
    let expected: BTreeSet<&str> = named.split_whitespace().filter(|name| !["-lgcc_s", "-lc"].contains(name)).collect();
    let private = private_libraries(&installation);
    assert_eq!(
        private.iter().map(String::as_str).filter(|flag| flag.starts_with("-l")).collect::<BTreeSet<_>>(),
        expected
    );
}
