//! `include/udsipc.h`: it is what the sources say, it declares the whole contract, and every C and C++ takes it.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{output, project, tempdir};

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

fn header() -> String {
    fs::read_to_string(project("include/udsipc.h")).expect("include/udsipc.h")
}

/// Comments can show code; what a compiler sees has none. They become blanks, so that everything keeps its place.
fn without_comments(header: &str) -> String {
    let mut text = header.to_owned();
    for (open, close) in [("/*", "*/"), ("//", "\n")] {
        while let Some(begin) = text.find(open) {
            let end = text[begin..].find(close).map_or(text.len(), |at| begin + at + close.len());
            let blanks: String = text[begin..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
            text.replace_range(begin..end, &blanks);
        }
    }
    text
}

/// The names in front of a parenthesis, function pointer types left out.
fn declared_functions(header: &str) -> BTreeSet<String> {
    let code = without_comments(header);
    let before_parentheses = code.match_indices('(').map(|(at, _)| &code[..at]);
    let names = before_parentheses.map(|before| {
        let begin = before.rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_').map_or(0, |at| at + 1);
        before[begin..].to_owned()
    });
    names.filter(|name| name.starts_with("udsipc_")).collect()
}

#[test]
fn declares_exactly_what_is_exported() {
    let exported: BTreeSet<String> = include_str!("symbols.txt").lines().map(str::to_owned).collect();
    assert_eq!(declared_functions(&header()), exported);
}

#[test]
fn comments_and_types_are_no_declarations() {
    let sample =
        "/* udsipc_a(); */ typedef void (*udsipc_b)(int); // udsipc_c()\nint udsipc_d(void);\nint\nudsipc_e(\nint);";
    let found: Vec<String> = declared_functions(sample).into_iter().collect();
    assert_eq!(found, ["udsipc_d", "udsipc_e"]);
}

/// The program that cargo has made of `build.rs`, `build/libudsipc-HASH/build-script-build`: the newest, since each set
/// of compiler flags has its own. When building for another target it lies with what is built for this machine.
fn build_script() -> PathBuf {
    let builds = Path::new(env!("OUT_DIR")).ancestors().nth(2).expect("OUT_DIR is PROFILE/build/libudsipc-HASH/out");
    let profile = builds.parent().expect("a folder of the profile");
    let for_this_machine =
        profile.ancestors().nth(2).expect("a build folder").join(profile.file_name().expect("a name"));
    let folders = [builds.to_path_buf(), for_this_machine.join("build")].into_iter().flat_map(fs::read_dir).flatten();
    let ours = folders.flatten().filter(|folder| folder.file_name().to_string_lossy().starts_with("libudsipc-"));
    let scripts = ours.map(|folder| folder.path().join("build-script-build")).filter(|script| script.is_file());
    let age = |script: &PathBuf| fs::metadata(script).and_then(|metadata| metadata.modified()).expect("a time stamp");
    scripts.max_by_key(age).expect("cargo has run build.rs")
}

/// The build keeps the header up to date by itself, where it may write. Here it is made once more, from a copy of the
/// sources without one: a header that was edited by hand, or not written, differs.
#[test]
fn is_what_the_sources_say() {
    let copy = tempdir();
    fs::create_dir_all(copy.path().join("src/ffi")).expect("a folder for the copy");
    for entry in fs::read_dir(project("src/ffi")).expect("src/ffi") {
        let file = entry.expect("an entry of src/ffi").path();
        let name = file.file_name().expect("a name");
        fs::copy(&file, copy.path().join("src/ffi").join(name)).expect("a copy of a source");
    }
    let mut generate = Command::new(build_script());
    generate.current_dir(copy.path()).env("OUT_DIR", copy.path());
    for (name, value) in [
        ("CARGO_PKG_VERSION", env!("CARGO_PKG_VERSION")),
        ("CARGO_PKG_VERSION_MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        ("CARGO_PKG_VERSION_MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        ("CARGO_PKG_VERSION_PATCH", env!("CARGO_PKG_VERSION_PATCH")),
    ] {
        generate.env(name, value);
    }
    output(&mut generate);
    let generated = fs::read_to_string(copy.path().join("include/udsipc.h")).expect("a generated header");
    assert!(generated == header(), "include/udsipc.h is not what src/ffi says: run `cargo build` and commit it");
}

#[test]
fn macros_carry_the_version() {
    let header = header();
    let define = |name: &str| {
        let prefix = format!("#define UDSIPC_VERSION_{name} ");
        let line = header.lines().find(|line| line.starts_with(&prefix)).unwrap_or_else(|| panic!("no {prefix}"));
        line[prefix.len()..].to_owned()
    };
    assert_eq!(define("MAJOR"), env!("CARGO_PKG_VERSION_MAJOR"));
    assert_eq!(define("MINOR"), env!("CARGO_PKG_VERSION_MINOR"));
    assert_eq!(define("PATCH"), env!("CARGO_PKG_VERSION_PATCH"));
    assert_eq!(define("STRING"), concat!('"', env!("CARGO_PKG_VERSION"), '"'));
}

/// Nothing that a header leaves behind may clash with the names of a program.
#[test]
fn every_name_is_ours() {
    let code = without_comments(&header());
    for line in code.lines().filter_map(|line| line.strip_prefix("#define ")) {
        assert!(line.starts_with("UDSIPC_"), "#define {line}");
    }
    for name in code.lines().filter_map(|line| line.strip_prefix('}')).map(str::trim).filter(|name| !name.is_empty()) {
        assert!(name.starts_with("udsipc_"), "type {name}");
    }
}

/// Every export says who may call it and whether it blocks; a reader of the header has nothing else.
#[test]
fn every_function_is_documented() {
    let header = header();
    let code = without_comments(&header);
    assert_eq!(code.len(), header.len(), "the header is ASCII");
    for name in include_str!("symbols.txt").lines() {
        let declaration = code.find(&format!("{name}(")).unwrap_or_else(|| panic!("{name} is not declared"));
        let comment = header[..declaration].rfind("/**").unwrap_or_else(|| panic!("{name} has no comment"));
        let (comment, type_of_result) =
            header[comment..declaration].split_once("*/").unwrap_or_else(|| panic!("the end of the comment on {name}"));
        assert!(!type_of_result.contains(';'), "{name} has no comment: the one above it belongs to something else");
        let inherits = comment.contains("as udsipc_");
        assert!(
            inherits || (comment.contains("Threads:") && comment.contains("Blocking:")),
            "{name}: threads, blocking"
        );
    }
}

/// One file that includes the header first, and once more, so that it stands alone and guards itself.
fn assert_compiles(compiler: &str, standard: &str, header: &str, more: &[&str]) {
    let scratch = tempdir();
    let extension = if compiler == "cc" { "c" } else { "cpp" };
    let source: PathBuf = scratch.path().join(format!("only.{extension}"));
    fs::write(&source, format!("#include \"{header}\"\n#include \"{header}\"\nint main(void) {{ return 0; }}\n"))
        .expect("a source file");
    let mut command = Command::new(compiler);
    command.arg(format!("-std={standard}")).args(WARNINGS).args(more).arg("-fsyntax-only");
    output(command.arg("-I").arg(project("include")).arg(source));
}

#[test]
fn is_c99() {
    assert_compiles("cc", "c99", "udsipc.h", &["-Wstrict-prototypes", "-Wmissing-prototypes"]);
}

#[test]
fn is_c11() {
    assert_compiles("cc", "c11", "udsipc.h", &["-Wstrict-prototypes", "-Wmissing-prototypes"]);
}

#[test]
fn is_cpp11() {
    assert_compiles("c++", "c++11", "udsipc.h", &[]);
}

#[test]
fn is_cpp17() {
    assert_compiles("c++", "c++17", "udsipc.h", &[]);
}

#[test]
fn companion_is_cpp11() {
    assert_compiles("c++", "c++11", "udsipc.hpp", &["-Wshadow", "-Wconversion"]);
}

#[test]
fn companion_is_cpp17() {
    assert_compiles("c++", "c++17", "udsipc.hpp", &["-Wshadow", "-Wconversion"]);
}
