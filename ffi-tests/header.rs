//! `include/udsipc.h`: it is what the sources say, it declares the whole contract, and every C and C++ takes it.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
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

/// The build leaves what it generates in `include/`; here it is compared with what the build of this very test made.
#[test]
fn is_what_the_sources_say() {
    let generated = fs::read_to_string(concat!(env!("OUT_DIR"), "/udsipc.h")).expect("the header of this build");
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
