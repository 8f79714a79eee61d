//! `include/udsipc.h`: it is what the sources say, it declares the whole contract, and every C and C++ takes it and
//! `include/udsipc.hpp` (`header/compilers.rs`).

#[path = "header/compilers.rs"]
mod compilers;
mod support;

use std::collections::BTreeSet;
use std::fs;

use support::{exported_functions, project};

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
    let exported: BTreeSet<String> = exported_functions().into_iter().collect();
    assert_eq!(declared_functions(&header()), exported, "`make abi-update` adds a new function to the list");
}

/// The object that a function or a type belongs to.
fn object_of(name: &str) -> &'static str {
    let objects = [
        ("udsipc_writer_options", "options of a writer"),
        ("udsipc_write", "writer"),
        ("udsipc_reader_options", "options of a reader"),
        ("udsipc_reader", "reader"),
        ("udsipc_message_callback", "reader"),
        ("udsipc_batch_callback", "reader"),
        ("udsipc_connection", "connection"),
        ("udsipc_message_sequence", "connection"),
    ];
    objects.iter().find(|(prefix, _)| name.starts_with(prefix)).map_or("library", |(_, object)| object)
}

/// Somebody who reads about a writer finds its types, its options and its functions in one place.
#[test]
fn the_declarations_of_an_object_stand_together() {
    let code = without_comments(&header());
    let declarations = code.split(';').filter_map(|declaration| {
        let begin = declaration.find('(').map_or_else(
            || declaration.rfind("udsipc_"),
            |open| declaration[..open].rfind("udsipc_").or_else(|| declaration.find("udsipc_")),
        )?;
        let name = declaration[begin..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()?;
        Some(object_of(name))
    });
    let mut order: Vec<&str> = declarations.collect();
    assert!(order.len() > 60, "{order:?}");
    order.dedup();
    let objects = ["options of a writer", "writer", "options of a reader", "connection", "reader"];
    assert_eq!(order, [&["library"][..], &objects, &["library"]].concat());
}

#[test]
fn comments_and_types_are_no_declarations() {
    let sample =
        "/* udsipc_a(); */ typedef void (*udsipc_b)(int); // udsipc_c()\nint udsipc_d(void);\nint\nudsipc_e(\nint);";
    let found: Vec<String> = declared_functions(sample).into_iter().collect();
    assert_eq!(found, ["udsipc_d", "udsipc_e"]);
}

/// A build puts the generated header into `OUT_DIR`. Where the sources lie in no git checkout, and where nobody may write to
/// them, the committed header stays as it is: then the two can differ.
#[cfg(feature = "header")]
#[test]
fn is_what_the_sources_say() {
    let generated = fs::read_to_string(concat!(env!("OUT_DIR"), "/udsipc.h")).expect("a generated header");
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
    for name in exported_functions() {
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

/// What `ERRORS` of the header says is marked. A new function belongs to one of the two groups on purpose.
#[test]
fn results_that_must_not_be_ignored_are_marked() {
    let code = without_comments(&header());
    let marked = code.split(';').filter_map(|declaration| {
        let (_, function) = declaration.split_once("\nUDSIPC_NODISCARD\n")?;
        declared_functions(function).pop_first()
    });
    let expected = [
        "udsipc_connection_credentials",
        "udsipc_connection_writer_id",
        "udsipc_reader_get_metrics",
        "udsipc_reader_new",
        "udsipc_reader_new_batched",
        "udsipc_reader_options_allow_gid",
        "udsipc_reader_options_allow_uid",
        "udsipc_reader_options_new",
        "udsipc_reader_options_set_socket_group",
        "udsipc_reader_options_set_socket_mode",
        "udsipc_reader_start",
        "udsipc_resolve_socket_path",
        "udsipc_write_message",
        "udsipc_write_message_timeout",
        "udsipc_write_messages",
        "udsipc_writer_flush",
        "udsipc_writer_get_metrics",
        "udsipc_writer_new",
        "udsipc_writer_options_new",
        "udsipc_writer_start",
    ];
    assert_eq!(marked.collect::<BTreeSet<_>>(), expected.map(str::to_owned).into());
}
