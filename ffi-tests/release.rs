//! `tools/release.sh`: it lets a good release pass, changes nothing, and refuses each kind of bad one with its reason.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use support::{Finished, PATIENCE, output, project, run, tempdir};

const SYMBOLS: &str = "packaging/abi/libudsipc.symbols";
const DESCRIPTION: &str = "packaging/abi/libudsipc.abi";

/// A list of functions, and since when each is there.
fn symbols(functions: &[(&str, &str)]) -> String {
    let lines = functions.iter().map(|(name, version)| format!(" {name}@UDSIPC_1 {version}\n"));
    std::iter::once("libudsipc.so.1 libudsipc1 #MINVER#\n".to_owned()).chain(lines).collect()
}

/// A git repository with what the script looks at, ready to be released as 1.3.0 after 1.2.0.
struct Checkout(tempfile::TempDir);

impl Checkout {
    fn new() -> Checkout {
        let checkout = Checkout(tempdir());
        for folder in ["tools", "include", "fuzz", "packaging/abi", "packaging/debian"] {
            fs::create_dir_all(checkout.path(folder)).expect("a folder of the repository");
        }
        for file in ["tools/release.sh", "tools/abi.py", DESCRIPTION] {
            fs::copy(project(file), checkout.path(file)).unwrap_or_else(|e| panic!("copy {file}: {e}"));
        }
        checkout.git(&["init", "--quiet", "--initial-branch=main"]);
        checkout.write("Makefile", "semver:\n\t@echo the Rust API of the last release\n");
        checkout.write_version("1.2.0");
        checkout.write(SYMBOLS, &symbols(&[("udsipc_a", "1.0.0"), ("udsipc_b", "1.2.0")]));
        checkout.write("CHANGELOG.md", "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-01-02\n\n- A thing.\n");
        checkout.commit();
        checkout.git(&["tag", "v1.2.0"]);
        checkout.write_version("1.3.0");
        checkout.write(
            "CHANGELOG.md",
            "# Changelog\n\n## [Unreleased]\n\n## [1.3.0] - 2026-02-03\n\n### Added\n\n- Another.\n\n\
             ## [1.2.0] - 2026-01-02\n\n- A thing.\n\n[Unreleased]: compare/v1.3.0...HEAD\n",
        );
        checkout.commit();
        checkout
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap_or_else(|e| panic!("write {name}: {e}"));
    }

    fn write_version(&self, version: &str) {
        self.write("Cargo.toml", &format!("[package]\nname = \"udsipc\"\nversion = \"{version}\"\n"));
        let lock = format!(
            "[[package]]\nname = \"other\"\nversion = \"9.9.9\"\n\n[[package]]\nname = \"udsipc\"\nversion = \"{version}\"\n"
        );
        self.write("Cargo.lock", &lock);
        self.write("fuzz/Cargo.lock", &lock);
        self.write("include/udsipc.h", &format!("#define UDSIPC_VERSION_STRING \"{version}\"\n"));
        self.write("packaging/debian/changelog", &format!("udsipc ({version}-1~upstream1) unstable; urgency=medium\n"));
    }

    fn replace(&self, name: &str, old: &str, new: &str) {
        let text = fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("read {name}: {e}"));
        assert!(text.contains(old), "{name} has no {old}");
        self.write(name, &text.replace(old, new));
    }

    /// Git without the settings of whoever runs the test.
    fn git(&self, arguments: &[&str]) -> String {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]);
        output(isolated(git.args(arguments), self.0.path()))
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message=A commit"]);
    }

    fn release(&self, version: &str) -> Finished {
        run(isolated(Command::new("bash").args(["tools/release.sh", version]), self.0.path()), PATIENCE)
    }

    /// Commits what a test has changed; the release must then be refused for one reason alone.
    fn assert_refused(&self, version: &str, reason: &str) {
        self.commit();
        self.assert_refused_as_it_is(version, reason);
    }

    fn assert_refused_as_it_is(&self, version: &str, reason: &str) {
        let done = self.release(version);
        assert_eq!(done.status.code(), Some(1), "{}", done.output);
        assert_eq!(done.output.lines().collect::<Vec<_>>(), [format!("refused: {reason}")]);
    }
}

fn isolated<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
        command.env_remove(name);
    }
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").current_dir(folder)
}

#[test]
fn a_good_release_passes_and_nothing_is_changed() {
    let checkout = Checkout::new();
    let before = checkout.git(&["for-each-ref"]);
    let done = checkout.release("1.3.0");
    assert!(done.status.success(), "{}", done.output);
    assert!(done.output.contains("git tag -s v1.3.0"), "{}", done.output);
    assert_eq!(checkout.git(&["for-each-ref"]), before);
    assert_eq!(checkout.git(&["status", "--porcelain"]), "");
}

#[test]
fn a_rust_api_that_breaks_is_refused_and_is_looked_at_only_when_all_else_is_well() {
    let checkout = Checkout::new();
    let done = checkout.release("1.3.0");
    assert!(done.output.contains("the Rust API of the last release"), "{}", done.output);
    checkout.write("Makefile", "semver:\n\t@false\n");
    checkout.commit();
    let done = checkout.release("1.3.0");
    assert_eq!(done.status.code(), Some(1), "{}", done.output);
    assert!(done.output.contains("refused: the Rust API breaks"), "{}", done.output);
    checkout.write("forgotten.rs", "");
    checkout.assert_refused_as_it_is("1.3.0", "the tree is not clean: commit or remove what git status shows");
}

#[test]
fn the_first_release_needs_no_older_one() {
    let checkout = Checkout::new();
    checkout.git(&["tag", "--delete", "v1.2.0"]);
    let done = checkout.release("1.3.0");
    assert!(done.status.success(), "{}", done.output);
}

#[test]
fn what_is_no_version_is_answered_with_the_usage() {
    for version in ["", "1.3", "v1.3.0", "1.3.0-rc1", "01.3.0"] {
        let done = Checkout::new().release(version);
        assert_eq!(done.status.code(), Some(2), "{version}: {}", done.output);
        assert!(done.output.starts_with("usage: "), "{}", done.output);
    }
}

#[test]
fn a_tree_that_is_not_clean_is_refused() {
    let checkout = Checkout::new();
    checkout.write("forgotten.rs", "");
    checkout.assert_refused_as_it_is("1.3.0", "the tree is not clean: commit or remove what git status shows");
}

#[test]
fn another_version_in_any_file_is_refused() {
    for file in ["Cargo.toml", "Cargo.lock", "fuzz/Cargo.lock", "include/udsipc.h", "packaging/debian/changelog"] {
        let checkout = Checkout::new();
        checkout.replace(file, "1.3.0", "1.2.9");
        checkout.assert_refused("1.3.0", &format!("{file} has version 1.2.9, not 1.3.0"));
    }
    let checkout = Checkout::new();
    checkout.write("include/udsipc.h", "");
    checkout.assert_refused("1.3.0", "include/udsipc.h has version none, not 1.3.0");
}

#[test]
fn a_changelog_without_the_version_or_its_date_is_refused() {
    for heading in ["## [1.3.0]", "## [1.3.0] - soon"] {
        let checkout = Checkout::new();
        checkout.replace("CHANGELOG.md", "## [1.3.0] - 2026-02-03", heading);
        checkout.assert_refused("1.3.0", "CHANGELOG.md has no heading '## [1.3.0] - YYYY-MM-DD'");
    }
}

#[test]
fn an_empty_section_of_the_changelog_is_refused() {
    let checkout = Checkout::new();
    checkout.replace("CHANGELOG.md", "### Added\n\n- Another.\n", "");
    checkout.assert_refused("1.3.0", "CHANGELOG.md says nothing about 1.3.0");
}

#[test]
fn a_changelog_with_unreleased_changes_or_no_place_for_them_is_refused() {
    let checkout = Checkout::new();
    checkout.replace("CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n- Forgotten.\n");
    checkout.assert_refused("1.3.0", "CHANGELOG.md has unreleased changes: move them below 1.3.0");
    let checkout = Checkout::new();
    checkout.replace("CHANGELOG.md", "## [Unreleased]\n", "");
    checkout.assert_refused("1.3.0", "CHANGELOG.md has no heading '## [Unreleased]' for what comes next");
}

#[test]
fn a_tag_that_exists_is_refused() {
    let checkout = Checkout::new();
    checkout.git(&["tag", "v1.3.0"]);
    checkout.assert_refused_as_it_is("1.3.0", "the tag v1.3.0 exists");
}

#[test]
fn a_version_that_is_older_than_the_last_release_is_refused() {
    let checkout = Checkout::new();
    checkout.git(&["tag", "v1.10.0"]);
    checkout.assert_refused_as_it_is("1.3.0", "1.3.0 is older than the last release, v1.10.0");
}

#[test]
fn a_shallow_clone_is_refused_since_it_lacks_the_last_release() {
    let checkout = Checkout::new();
    let clone = tempdir();
    let origin = format!("file://{}", checkout.0.path().display());
    let folder = clone.path().join("clone");
    checkout.git(&["clone", "--quiet", "--depth=1", &origin, folder.to_str().expect("a path")]);
    let done = run(isolated(Command::new("bash").args(["tools/release.sh", "1.3.0"]), &folder), PATIENCE);
    assert_eq!(done.output, "refused: this clone is shallow: git fetch --unshallow --tags\n");
}

#[test]
fn a_function_that_is_gone_takes_a_major_version() {
    let checkout = Checkout::new();
    checkout.write(SYMBOLS, &symbols(&[("udsipc_a", "1.0.0")]));
    let reason = "functions are gone since 1.2.0, which takes a new major version: udsipc_b";
    checkout.assert_refused("1.3.0", reason);
    checkout.write_version("2.0.0");
    checkout.replace("CHANGELOG.md", "[1.3.0]", "[2.0.0]");
    checkout.commit();
    let done = checkout.release("2.0.0");
    assert!(done.status.success(), "{}", done.output);
}

#[test]
fn a_function_that_is_new_takes_a_minor_version() {
    let checkout = Checkout::new();
    let grown = |since| symbols(&[("udsipc_a", "1.0.0"), ("udsipc_b", "1.2.0"), ("udsipc_c", since)]);
    checkout.write(SYMBOLS, &grown("1.2.0"));
    checkout.assert_refused("1.3.0", &format!("udsipc_c is new in 1.3.0: {SYMBOLS} must end its line with that"));
    checkout.write(SYMBOLS, &grown("1.3.0"));
    checkout.commit();
    let done = checkout.release("1.3.0");
    assert!(done.status.success(), "{}", done.output);
    checkout.write_version("1.2.1");
    checkout.write(SYMBOLS, &grown("1.2.1"));
    checkout.replace("CHANGELOG.md", "[1.3.0]", "[1.2.1]");
    checkout.assert_refused("1.2.1", "functions are new since 1.2.0, which takes a new minor version: udsipc_c");
}

#[test]
fn a_type_that_is_different_takes_a_major_version() {
    let checkout = Checkout::new();
    checkout.replace(DESCRIPTION, r#"type-id="u64" name="timeout_ms""#, r#"type-id="u32" name="timeout_ms""#);
    checkout.commit();
    let done = checkout.release("1.3.0");
    assert!(!done.status.success());
    assert!(done.output.contains("type size changed from 64 to 32 (in bits)"), "{}", done.output);
    let reason = "refused: types have changed since 1.2.0, which takes a new major version\n";
    assert!(done.output.ends_with(reason), "{}", done.output);
    checkout.write_version("2.0.0");
    checkout.replace("CHANGELOG.md", "[1.3.0]", "[2.0.0]");
    checkout.commit();
    let done = checkout.release("2.0.0");
    assert!(done.status.success(), "{}", done.output);
}

#[test]
fn all_reasons_are_named_at_once() {
    let checkout = Checkout::new();
    checkout.write(SYMBOLS, &symbols(&[("udsipc_b", "1.2.0")]));
    let done = checkout.release("1.2.0");
    let reasons = done.output.lines().filter(|line| line.starts_with("refused: ")).count();
    assert_eq!(reasons, 1 + 5 + 1 + 1, "tree, five versions, tag, function: {}", done.output);
}
