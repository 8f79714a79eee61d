//! `make install` as a packager and a C programmer meet it: what lies where, and does it build and run programs.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{PATIENCE, output, profile_dir, project, run, run_ok, tempdir};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const SONAME: &str = concat!("libudsipc.so.", env!("CARGO_PKG_VERSION_MAJOR"));

/// `make` with nothing of the shell or of an outer `make` in the way of the variables that the test sets.
fn make(target: &str, variables: &[String]) -> Command {
    let mut make = Command::new("make");
    make.arg("--no-print-directory").arg("-C").arg(project("")).arg(target);
    for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DESTDIR", "PREFIX", "LIBDIR", "INCLUDEDIR", "PKGCONFIGDIR"] {
        make.env_remove(name);
    }
    // What is installed is what cargo has just built for this test. CARGO=false: installing must not need cargo, nor
    // LDCONFIG the cache of the machine that the test runs on.
    make.arg(format!("OUT={}", profile_dir().display())).args(["CARGO=false", "LDCONFIG=true"]).args(variables);
    make
}

/// An installation in a folder of its own, which vanishes with it.
struct Installation {
    root: tempfile::TempDir,
    variables: Vec<String>,
    /// Where the loader must look.
    libdir: PathBuf,
    /// What pkg-config needs to know.
    pkg_config: Vec<(&'static str, PathBuf)>,
}

impl Installation {
    /// As somebody does who has no root: everything below a prefix of one's own.
    fn in_prefix() -> Self {
        let root = tempdir();
        let libdir = root.path().join("lib");
        Self {
            variables: vec![format!("PREFIX={}", root.path().display())],
            pkg_config: vec![("PKG_CONFIG_PATH", libdir.join("pkgconfig"))],
            libdir,
            root,
        }
        .installed()
    }

    /// As Debian's packages are made: a staging folder, and a directory for libraries of this architecture.
    fn staged() -> Self {
        let root = tempdir();
        let libdir = root.path().join("usr/lib/some-linux-gnu");
        Self {
            variables: vec![
                format!("DESTDIR={}", root.path().display()),
                "PREFIX=/usr".into(),
                "LIBDIR=/usr/lib/some-linux-gnu".into(),
            ],
            pkg_config: vec![
                ("PKG_CONFIG_LIBDIR", libdir.join("pkgconfig")),
                ("PKG_CONFIG_SYSROOT_DIR", root.path().to_path_buf()),
            ],
            libdir,
            root,
        }
        .installed()
    }

    fn installed(self) -> Self {
        run_ok(&mut make("install", &self.variables), PATIENCE);
        self
    }

    fn pkg_config(&self, arguments: &[&str]) -> Vec<String> {
        let mut command = Command::new("pkg-config");
        for name in ["PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "PKG_CONFIG_SYSROOT_DIR"] {
            command.env_remove(name);
        }
        command.envs(self.pkg_config.iter().cloned()).args(arguments).arg("udsipc");
        output(&mut command).split_whitespace().map(str::to_owned).collect()
    }

    /// `cc PROGRAM $(pkg-config --cflags --libs udsipc)`
    fn build(&self, compiler: &[&str], source: &str, flags: &[String]) -> PathBuf {
        let program = self.root.path().join(format!("{}-program", source.replace(['/', '.'], "-")));
        let mut command = Command::new(compiler[0]);
        command.args(&compiler[1..]).args(["-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
        output(command.arg(project(source)).arg("-o").arg(&program).args(flags));
        program
    }

    /// Runs an exchange of messages with the installed library alone: cargo's own paths are not in the environment.
    fn run(&self, mut program: Command) -> String {
        let socket = self.root.path().join("socket");
        run_ok(program.arg(socket).env("LD_LIBRARY_PATH", &self.libdir), PATIENCE)
    }
}

/// The files and links below a folder, with their paths from there.
fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()) {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

fn expected_files(libdir: &str, includedir: &str) -> BTreeSet<String> {
    let versioned = format!("libudsipc.so.{VERSION}");
    let libraries = [versioned.as_str(), SONAME, "libudsipc.so", "libudsipc.a", "pkgconfig/udsipc.pc"];
    let headers = ["udsipc.h", "udsipc.hpp"];
    (libraries.iter().map(|name| format!("{libdir}/{name}")))
        .chain(headers.iter().map(|name| format!("{includedir}/{name}")))
        .collect()
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The libraries that a program or a shared object asks the loader for.
fn needed(program: &Path) -> String {
    output(Command::new("readelf").arg("-d").arg(program)).lines().filter(|line| line.contains("(NEEDED)")).collect()
}

#[test]
fn puts_down_what_a_c_library_is_made_of() {
    let installation = Installation::in_prefix();
    assert_eq!(files(installation.root.path()), expected_files("lib", "include"));

    let library = installation.libdir.join(format!("libudsipc.so.{VERSION}"));
    assert_eq!(mode(&library), 0o755);
    for file in files(installation.root.path()) {
        let path = installation.root.path().join(&file);
        if path != library && !path.is_symlink() {
            assert_eq!(mode(&path), 0o644, "{file}");
        }
    }
    // Relative, so that a staged or moved tree stays whole.
    let target = |link: &str| fs::read_link(installation.libdir.join(link)).unwrap();
    assert_eq!(target("libudsipc.so"), Path::new(SONAME));
    assert_eq!(target(SONAME), library.file_name().unwrap());

    let dynamic = output(Command::new("readelf").arg("-d").arg(&library));
    assert!(dynamic.contains(&format!("Library soname: [{SONAME}]")), "{dynamic}");
    for stripped in [library, installation.libdir.join("libudsipc.a")] {
        let sections = output(Command::new("readelf").args(["-S", "-W"]).arg(&stripped));
        assert!(!sections.contains(".debug_info"), "{} holds debug information", stripped.display());
    }
    let exported = output(Command::new("nm").args(["-D", "--defined-only"]).arg(installation.libdir.join(SONAME)));
    assert!(exported.contains("udsipc_writer_new"), "stripping took the exported symbols: {exported}");
}

#[test]
fn pkg_config_tells_where_it_is() {
    let installation = Installation::in_prefix();
    assert_eq!(installation.pkg_config(&["--modversion"]), [VERSION]);
    let prefix = installation.root.path().to_str().unwrap();
    assert_eq!(installation.pkg_config(&["--variable=prefix"]), [prefix]);
    assert_eq!(installation.pkg_config(&["--cflags"]), [format!("-I{prefix}/include")]);
    assert_eq!(installation.pkg_config(&["--libs"]), [format!("-L{prefix}/lib"), "-ludsipc".into()]);
    // A tree that was moved as a whole is found at its new place.
    let moved = installation.pkg_config(&["--define-variable=prefix=/moved", "--cflags", "--libs"]);
    assert_eq!(moved, ["-I/moved/include", "-L/moved/lib", "-ludsipc"]);
}

#[test]
fn c_programs_build_and_run() {
    let installation = Installation::in_prefix();
    let flags = installation.pkg_config(&["--cflags", "--libs"]);
    let program = installation.build(&["cc", "-std=c99"], "ffi-tests/install/exchange.c", &flags);
    assert!(needed(&program).contains(&format!("[{SONAME}]")), "{}", needed(&program));
    assert_eq!(installation.run(Command::new(program)), "C: 1000 messages\n");
}

#[test]
fn cpp_programs_build_and_run() {
    let installation = Installation::in_prefix();
    let flags = installation.pkg_config(&["--cflags", "--libs"]);
    let program = installation.build(&["c++", "-std=c++11"], "ffi-tests/install/exchange.cpp", &flags);
    assert!(needed(&program).contains(&format!("[{SONAME}]")), "{}", needed(&program));
    assert_eq!(installation.run(Command::new(program)), "C++: 1000 messages\n");
}

#[test]
fn python_programs_run() {
    let installation = Installation::in_prefix();
    let mut python = Command::new(support::python3().expect("python3"));
    python.arg(project("ffi-tests/install/exchange.py"));
    assert_eq!(installation.run(python), "Python: 1000 messages\n");
}

#[test]
fn the_static_library_links_with_the_private_libraries_of_the_pc_file() {
    let installation = Installation::in_prefix();
    let mut flags = installation.pkg_config(&["--static", "--cflags", "--libs"]);
    // pkg-config names the library as such, and a linker that finds both prefers the shared one.
    let name = flags.iter_mut().find(|flag| *flag == "-ludsipc").expect("-ludsipc");
    *name = "-l:libudsipc.a".into();
    let program = installation.build(&["cc", "-std=c99"], "ffi-tests/install/exchange.c", &flags);
    assert!(!needed(&program).contains("libudsipc"), "{}", needed(&program));
    assert_eq!(installation.run(Command::new(program)), "C: 1000 messages\n");
}

#[test]
fn a_program_can_be_static_altogether() {
    let installation = Installation::in_prefix();
    let flags = installation.pkg_config(&["--static", "--cflags", "--libs"]);
    let program = installation.build(&["cc", "-std=c99", "-static"], "ffi-tests/install/exchange.c", &flags);
    assert_eq!(needed(&program), "");
    assert_eq!(installation.run(Command::new(program)), "C: 1000 messages\n");
}

#[test]
fn a_staged_tree_is_one_for_its_final_place() {
    let installation = Installation::staged();
    assert_eq!(files(installation.root.path()), expected_files("usr/lib/some-linux-gnu", "usr/include"));
    let pc = fs::read_to_string(installation.libdir.join("pkgconfig/udsipc.pc")).unwrap();
    let root = installation.root.path().to_str().unwrap();
    assert!(!pc.contains(root) && !pc.contains('@'), "{pc}");
    assert!(pc.contains("prefix=/usr\nlibdir=${prefix}/lib/some-linux-gnu\nincludedir=${prefix}/include\n"), "{pc}");

    let flags = installation.pkg_config(&["--cflags", "--libs"]);
    let program = installation.build(&["cc", "-std=c99"], "ffi-tests/install/exchange.c", &flags);
    assert_eq!(installation.run(Command::new(program)), "C: 1000 messages\n");
}

#[test]
fn installing_twice_is_installing_once() {
    let installation = Installation::in_prefix().installed();
    assert_eq!(files(installation.root.path()), expected_files("lib", "include"));
}

#[test]
fn uninstall_leaves_nothing_behind_and_nothing_else_out() {
    let installation = Installation::in_prefix();
    let neighbour = installation.libdir.join("libudsipcx.so");
    fs::write(&neighbour, "somebody else's").unwrap();
    run_ok(&mut make("uninstall", &installation.variables), PATIENCE);
    assert_eq!(files(installation.root.path()), BTreeSet::from(["lib/libudsipcx.so".to_owned()]));
    // Nothing left to remove is no error.
    run_ok(&mut make("uninstall", &installation.variables), PATIENCE);
}

/// A folder of commands that come before those of the machine, as scripts.
fn commands(scripts: &[(&str, &str)]) -> (tempfile::TempDir, String) {
    let folder = tempdir();
    for (name, script) in scripts {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    (folder, path)
}

#[test]
fn a_missing_tool_is_named_with_the_command_that_brings_it() {
    let (_folder, path) = commands(&[("id", "echo 1000"), ("apt-get", "echo apt-get was called; exit 1")]);
    let root = tempdir();
    let variables = [format!("PREFIX={}", root.path().display()), "STRIP=no-such-strip".to_owned()];
    let done = run(make("install", &variables).env("PATH", path), PATIENCE);
    assert!(!done.status.success());
    assert!(done.output.contains("sudo apt-get install binutils"), "{}", done.output);
    assert!(!done.output.contains("apt-get was called"), "without privileges it cannot work: {}", done.output);
    assert_eq!(files(root.path()), BTreeSet::new());
}

#[test]
fn root_gets_a_missing_tool_installed() {
    let apt_get = r#"folder=$(dirname "$0"); echo "$@" >>"$folder/calls"
case "$1 $*" in install*binutils*) ln -s "$(command -v strip)" "$folder/no-such-strip";; esac"#;
    let (folder, path) = commands(&[("id", "echo 0"), ("apt-get", apt_get)]);
    let root = tempdir();
    let variables = [format!("PREFIX={}", root.path().display()), "STRIP=no-such-strip".to_owned()];
    run_ok(make("install", &variables).env("PATH", path), PATIENCE);
    assert_eq!(files(root.path()), expected_files("lib", "include"));
    let calls = fs::read_to_string(folder.path().join("calls")).unwrap();
    assert_eq!(calls, "update -q\ninstall -qy --no-install-recommends binutils\n");
}
