//! The packages that `make deb` has built: `make deb-check` runs this.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test that is skipped says why

#[path = "support/installation.rs"]
mod installation;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use installation::{VERSION, built, command};
use support::{PATIENCE, manual_pages, output, project, run, run_ok, tempdir};

/// The files of `make deb` with this extension.
fn results(extension: &str) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(built().join("deb")).expect("what make deb has built").map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|own| own == extension)).collect();
    found.sort();
    found
}

/// A command that does not see the library that the tests have built: only what is installed can explain that it works.
fn outside(program: &str) -> std::process::Command {
    let mut command = command(program);
    command.env("LD_LIBRARY_PATH", "");
    command
}

/// Source and packages have no fault that lintian calls an error or a warning, and none is overridden.
#[test]
#[ignore = "make deb-check"]
fn lintian_finds_no_fault() {
    let [changes] = results("changes").try_into().expect("one build");
    let mut lintian = outside("lintian");
    lintian.args(["--no-override", "--tag-display-limit=0", "--fail-on", "error,warning"]).arg(changes);
    run_ok(&mut lintian, PATIENCE);
}

#[test]
#[ignore = "make deb-check"]
fn the_packages_have_their_files() {
    let mut files = BTreeSet::new();
    let mut packages = BTreeSet::new();
    for package in results("deb") {
        packages.insert(output(command("dpkg-deb").arg("--field").arg(&package).arg("Package")).trim().to_owned());
        let listed = output(command("sh").args(["-c", "dpkg-deb --fsys-tarfile \"$0\" | tar -t"]).arg(&package));
        for file in listed.lines().filter(|file| !file.ends_with('/')) {
            assert!(files.insert(file.trim_start_matches("./").to_owned()), "{file} is in two packages");
        }
    }
    let expected =
        ["libudsipc-dev", "libudsipc0", "libudsipc0-dbgsym", "python3-udsipc", "udsipccat", "udsipccat-dbgsym"];
    assert_eq!(packages, expected.map(str::to_owned).into());
    for page in manual_pages().keys() {
        assert!(files.contains(&format!("usr/share/man/{page}.gz")), "{page}");
    }
    let multiarch = output(command("cc").arg("-print-multiarch"));
    let libdir = format!("usr/lib/{}", multiarch.trim());
    for file in [
        format!("{libdir}/libudsipc.so.{VERSION}"),
        format!("{libdir}/libudsipc.a"),
        format!("{libdir}/pkgconfig/udsipc.pc"),
        format!("{libdir}/cmake/udsipc/udsipcConfig.cmake"),
        "usr/include/udsipc.hpp".to_owned(),
        "usr/share/doc/libudsipc-dev/examples/systemd/udsipc-example.service".to_owned(),
        "usr/share/zsh/vendor-completions/_udsipccat".to_owned(),
    ] {
        assert!(files.contains(&file), "{file}: {files:#?}");
    }
}

/// Runs a script as root of a copy of this machine: what it changes lies in the folder `changes` and is gone with the mount.
/// $1 is an empty folder, $2 one that becomes the working folder of the script $3.
const IN_A_COPY: &str = r#"
set -eu
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir changes work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/changes,workdir=$1/work" root
mount --rbind /dev root/dev
mount -t proc proc root/proc
mount -t tmpfs tmpfs root/tmp
cp "$2"/* root/tmp
chroot root sh -c "cd /tmp && sh $3"
umount root/tmp root/proc
umount --lazy root/dev
cd changes
echo "left behind:"
find . \( -type f -o -type l -o -type c -o -path '*udsipc*' \) ! -path './var/lib/dpkg/*' ! -path './var/log/*' \
    ! -path './var/cache/*' ! -path './var/lib/apt/*' ! -path ./etc/ld.so.cache
"#;

fn in_a_copy(folder: &Path, script: &str) -> support::Finished {
    let empty = tempdir();
    let mut machine = outside("unshare");
    machine.args(["--mount", "sh", "-c", IN_A_COPY, "sh"]).arg(empty.path()).arg(folder).arg(script);
    run(machine.env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive"), PATIENCE)
}

#[test]
#[ignore = "make deb-check"]
fn they_are_installed_used_and_removed() {
    let folder = tempdir();
    for name in ["true.sh", "litter.sh"] {
        fs::write(folder.path().join(name), if name == "true.sh" { "" } else { "touch /etc/udsipc\n" }).unwrap();
    }
    let able = in_a_copy(folder.path(), "true.sh");
    if !able.status.success() {
        println!("skipped: this needs root, and a kernel that mounts an overlay: {}", able.output);
        return;
    }
    let litter = in_a_copy(folder.path(), "litter.sh");
    assert!(litter.output.ends_with("left behind:\n./etc/udsipc\n"), "{}", litter.output);

    for file in results("deb").iter().chain(&[project("ffi-tests/deb/use.sh"), project("examples-c/writer.c")]) {
        fs::copy(file, folder.path().join(file.file_name().unwrap())).unwrap();
    }
    let done = in_a_copy(folder.path(), "use.sh");
    assert!(done.status.success() && done.output.ends_with("left behind:\n"), "{}", done.output);
}
