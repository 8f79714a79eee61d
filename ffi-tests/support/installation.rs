//! `make install` into folders of a test's own, and what a program needs to be built against them.

// Each harness is a crate of its own and uses its own part of this file.
#![allow(dead_code)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::support::{PATIENCE, build_dir, output, project, run_ok, static_library, tempdir};

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
pub(crate) const SONAME: &str = concat!("libudsipc.so.", env!("CARGO_PKG_VERSION_MAJOR"));

/// What the shell, cargo or an outer `make` may have set and a newcomer's shell has not.
const FOREIGN: [&str; 21] = [
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "DESTDIR",
    "PREFIX",
    "EXEC_PREFIX",
    "LIBDIR",
    "INCLUDEDIR",
    "PKGCONFIGDIR",
    "MANDIR",
    "BINDIR",
    "DATADIR",
    "CMAKEDIR",
    "CFLAGS",
    "CXXFLAGS",
    "LDFLAGS",
    "LIBRARY_PATH",
    "CMAKE_PREFIX_PATH",
    "PKG_CONFIG_PATH",
    "PKG_CONFIG_LIBDIR",
    "PKG_CONFIG_SYSROOT_DIR",
];

pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for name in FOREIGN {
        command.env_remove(name);
    }
    command
}

/// `make TARGET` with the libraries that [`built`] names. CARGO=false: installing must not need cargo, nor LDCONFIG the cache
/// of the machine that the test runs on.
pub(crate) fn make(target: &str, variables: &[String]) -> Command {
    let mut make = make_in(built(), target);
    make.args(["CARGO=false", "LDCONFIG=true"]).args(variables);
    make
}

pub(crate) fn make_in(out: &Path, target: &str) -> Command {
    let mut make = command("make");
    make.arg("--no-print-directory").arg("-C").arg(project("")).arg(target).arg(format!("OUT={}", out.display()));
    make
}

/// OUT of the Makefile: where `make all` has built, or else a folder in which the archive is linked that cargo has built
/// together with this test.
pub(crate) fn built() -> &'static Path {
    static OUT: OnceLock<PathBuf> = OnceLock::new();
    OUT.get_or_init(|| {
        if let Some(libraries) = std::env::var_os("UDSIPC_LIBRARY_DIR").map(PathBuf::from) {
            assert!(libraries.ends_with("lib"), "UDSIPC_LIBRARY_DIR is not what `make all` has built: {libraries:?}");
            return libraries.parent().expect("a folder lies in a folder").to_path_buf();
        }
        let out = build_dir().join("made");
        fs::create_dir_all(&out).expect("a folder for the libraries");
        let archive = out.join("libudsipc.a");
        let _ = fs::remove_file(&archive);
        symlink(static_library(), archive).expect("a link to the archive");
        run_ok(&mut make_in(&out, "link"), PATIENCE);
        out
    })
}

/// An installation in a folder of its own, which vanishes with it.
pub(crate) struct Installation {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) variables: Vec<String>,
    /// Where the files of the prefix lie, which is below DESTDIR if there is one.
    pub(crate) prefix: PathBuf,
    /// Where the loader must look.
    pub(crate) libdir: PathBuf,
    /// What pkg-config needs to know.
    pkg_config: Vec<(&'static str, PathBuf)>,
}

impl Installation {
    /// As somebody does who has no root: everything below a prefix of one's own.
    pub(crate) fn in_prefix() -> Self {
        let folder = tempdir();
        let prefix = folder.path().join("prefix");
        let libdir = prefix.join("lib");
        Self {
            variables: vec![format!("PREFIX={}", prefix.display())],
            pkg_config: vec![("PKG_CONFIG_PATH", libdir.join("pkgconfig"))],
            prefix,
            libdir,
            folder,
        }
        .installed()
    }

    /// As Debian's packages are made: a staging folder, and a directory for libraries of this architecture.
    pub(crate) fn staged() -> Self {
        let folder = tempdir();
        let stage = folder.path().join("stage");
        let libdir = stage.join("usr/lib/some-linux-gnu");
        Self {
            variables: vec![
                format!("DESTDIR={}", stage.display()),
                "PREFIX=/usr".into(),
                "LIBDIR=/usr/lib/some-linux-gnu".into(),
            ],
            pkg_config: vec![
                ("PKG_CONFIG_LIBDIR", libdir.join("pkgconfig")),
                ("PKG_CONFIG_SYSROOT_DIR", stage.clone()),
            ],
            prefix: stage.join("usr"),
            libdir,
            folder,
        }
        .installed()
    }

    /// What depends on the machine apart from what does not.
    pub(crate) fn with_exec_prefix() -> Self {
        let folder = tempdir();
        let (prefix, exec_prefix) = (folder.path().join("prefix"), folder.path().join("exec"));
        let libdir = exec_prefix.join("lib");
        Self {
            variables: vec![format!("PREFIX={}", prefix.display()), format!("EXEC_PREFIX={}", exec_prefix.display())],
            pkg_config: vec![("PKG_CONFIG_PATH", libdir.join("pkgconfig"))],
            prefix,
            libdir,
            folder,
        }
        .installed()
    }

    pub(crate) fn installed(self) -> Self {
        run_ok(&mut make("install", &self.variables), PATIENCE);
        self
    }

    /// The command of a newcomer who has set what pkg-config and CMake need to find the installation.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = command(program);
        command.envs(self.pkg_config.iter().cloned());
        // CMake itself knows the folder of this machine's architecture; the one in the test's name is nobody's.
        command.env("CMAKE_PREFIX_PATH", &self.prefix).env("udsipc_DIR", self.libdir.join("cmake/udsipc"));
        command
    }

    pub(crate) fn pkg_config(&self, arguments: &[&str]) -> Vec<String> {
        let printed = output(self.command("pkg-config").args(arguments).arg("udsipc"));
        printed.split_whitespace().map(str::to_owned).collect()
    }

    /// `cc PROGRAM $(pkg-config --cflags --libs udsipc)`
    pub(crate) fn build(&self, compiler: &[&str], source: &str, flags: &[String]) -> PathBuf {
        let program = self.folder.path().join(format!("{}-program", source.replace(['/', '.'], "-")));
        let mut command = command(compiler[0]);
        command.args(&compiler[1..]).args(["-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
        output(command.arg(project(source)).arg("-o").arg(&program).args(flags));
        program
    }

    /// Runs an exchange of messages with the installed library alone: cargo's own paths are not in the environment.
    pub(crate) fn run(&self, mut program: Command) -> String {
        let socket = self.folder.path().join("socket");
        run_ok(program.arg(socket).env("LD_LIBRARY_PATH", &self.libdir), PATIENCE)
    }
}

/// A folder of commands that come before those of the machine, as scripts.
pub(crate) fn scripts(scripts: &[(&str, &str)]) -> (tempfile::TempDir, String) {
    let folder = tempdir();
    for (name, script) in scripts {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a script");
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").expect("a script"));
    (folder, path)
}

/// The libraries that a program or a shared object asks the loader for.
pub(crate) fn needed(program: &Path) -> String {
    output(Command::new("readelf").arg("-d").arg(program)).lines().filter(|line| line.contains("(NEEDED)")).collect()
}
