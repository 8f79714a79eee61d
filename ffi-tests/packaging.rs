//! What a packager relies on: few crates to build, and a build that leaves the sources alone.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use support::{PATIENCE, project, run_ok, tempdir};

const HEADER: &str = "include/udsipc.h";

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    command.env_remove("CARGO_BUILD_TARGET").args(arguments);
    command
}

/// A distribution packages every crate that a build needs. cbindgen alone brings thirty.
#[test]
fn without_the_feature_header_ten_crates_are_built_at_most() {
    let crates = |features: &[&str]| {
        let mut tree = cargo(&["tree", "--locked", "-e", "normal,build", "--prefix", "none", "--format", "{p}"]);
        let listed = support::output(tree.args(features).current_dir(project("")));
        listed.lines().map(|line| line.replace(" (*)", "")).collect::<std::collections::BTreeSet<_>>()
    };
    let few = crates(&["--no-default-features"]);
    assert!(few.len() <= 10, "{few:#?}");
    assert!(!few.iter().any(|name| name.starts_with("cbindgen")), "{few:#?}");
    assert!(crates(&[]).iter().any(|name| name.starts_with("cbindgen")), "the feature is on by default");
}

fn copy(from: &Path, to: &Path) {
    if !from.is_dir() {
        fs::copy(from, to).unwrap_or_else(|e| panic!("copy {}: {e}", from.display()));
        return;
    }
    fs::create_dir_all(to).unwrap_or_else(|e| panic!("create {}: {e}", to.display()));
    for entry in fs::read_dir(from).expect("a folder of sources").map(|entry| entry.expect("an entry")) {
        copy(&entry.path(), &to.join(entry.file_name()));
    }
}

/// The sources without the tests, and with a header that is not what they say.
fn sources() -> tempfile::TempDir {
    let folder = tempdir();
    for name in ["build.rs", "Cargo.lock", "include", "README.md", "src"] {
        copy(&project(name), &folder.path().join(name));
    }
    let manifest = fs::read_to_string(project("Cargo.toml")).expect("Cargo.toml");
    let library = manifest.split("[[test]]").next().expect("what comes before the tests");
    fs::write(folder.path().join("Cargo.toml"), library).expect("write Cargo.toml");
    fs::write(folder.path().join(HEADER), "/* old */\n").expect("write the header");
    folder
}

/// Runs build.rs, with the dependencies that cargo has already built for this test.
fn check(folder: &Path) -> String {
    let profile = support::profile_dir();
    let profile = profile.parent().expect("deps lies in the folder of the profile");
    let mut check = cargo(&["check", "--lib", "--locked", "--offline"]);
    check.arg("--target-dir").arg(profile.parent().expect("the target folder")).current_dir(folder);
    if let Some(name) = profile.file_name().and_then(|name| name.to_str()).filter(|name| *name != "debug") {
        check.args(["--profile", name]);
    }
    run_ok(&mut check, PATIENCE)
}

#[test]
fn the_build_writes_the_header_of_a_checkout_and_of_nothing_else() {
    let folder = sources();
    let header = folder.path().join(HEADER);
    let old = fs::read_to_string(&header).expect("the header");
    let printed = check(folder.path());
    assert_eq!(fs::read_to_string(&header).expect("the header"), old, "written though this is no checkout");
    assert!(printed.contains("differs from what src/ffi says"), "{printed}");

    fs::create_dir(folder.path().join(".git")).expect("make it a checkout");
    // A file that the superuser cannot write to either.
    fs::remove_file(&header).expect("remove the header");
    symlink("/proc/version", &header).expect("a header that cannot be written");
    let printed = check(folder.path());
    assert!(printed.contains("was left as it is"), "{printed}");

    fs::remove_file(&header).expect("remove the header");
    fs::write(&header, old).expect("write the header");
    let printed = check(folder.path());
    let written = fs::read_to_string(&header).expect("the header");
    assert_eq!(written, fs::read_to_string(project(HEADER)).expect("the header"), "not written: {printed}");
}
