//! The rules of the house, read from the sources: who may import whom, and what may stand where.
//!
//! Comments, strings and test modules are taken out first, so that only code counts. Each rule is a function from a
//! source to its offences, and is shown here to find some.

mod support;

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use support::project;

/// A file of `src`, as the compiler of a release sees it.
struct Source {
    /// Below `src`, such as `writer/queue.rs`.
    path: String,
    /// As it was written, for the comments.
    text: String,
    /// Comments, the insides of strings and test code are blanks; every line keeps its number.
    code: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), code: without_tests(&without_comments(text)) }
    }

    /// `ffi`, `sys`, `writer`, `reader`, or the name of a file in `src` itself.
    fn room(&self) -> &str {
        self.path.split('/').next().and_then(|room| room.strip_suffix(".rs").or(Some(room))).unwrap_or_default()
    }

    fn line_of(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    /// Where `word` stands in the code, whole: not as a part of a longer name.
    fn places(&self, word: &str) -> Vec<usize> {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let begins = |at: usize| !word.starts_with(is_name) || !self.code[..at].ends_with(is_name);
        let ends = |at: usize| !word.ends_with(is_name) || !self.code[at + word.len()..].starts_with(is_name);
        self.code.match_indices(word).map(|(at, _)| at).filter(|&at| begins(at) && ends(at)).collect()
    }

    fn forbid(&self, words: &[&str], why: &str) -> Vec<String> {
        let found = words.iter().flat_map(|word| self.places(word).into_iter().map(move |at| (word, at)));
        found.map(|(word, at)| format!("src/{}:{}: `{word}`: {why}", self.path, self.line_of(at))).collect()
    }
}

/// All of `src`. That there is much of it is checked: a rule over nothing would always hold.
fn sources() -> &'static [Source] {
    static SOURCES: OnceLock<Vec<Source>> = OnceLock::new();
    SOURCES.get_or_init(read_sources)
}

fn read_sources() -> Vec<Source> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<Source>) {
        for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("an entry of src").path();
            if path.is_dir() {
                walk(&path, root, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let below = path.strip_prefix(root).expect("below src").to_str().expect("a path in UTF-8");
                found.push(Source::new(below, &text));
            }
        }
    }
    let (root, mut found) = (project("src"), Vec::new());
    walk(&root, &root, &mut found);
    for expected in ["lib.rs", "frame.rs", "writer/mod.rs", "reader/mod.rs", "sys/mod.rs", "ffi/mod.rs"] {
        assert!(found.iter().any(|source| source.path == expected), "src/{expected} is gone: do the rules still fit?");
    }
    found
}

fn assert_none(offences: Vec<String>) {
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

fn everywhere(rule: impl Fn(&Source) -> Vec<String>) {
    assert_none(sources().iter().flat_map(rule).collect());
}

// ---- reading Rust ----

/// Blanks out what `keep` does not want: spaces for characters, so that places and lines stay where they are.
fn blank(text: &str) -> String {
    text.chars().map(|c| if c == '\n' { "\n".to_owned() } else { " ".repeat(c.len_utf8()) }).collect()
}

/// The length of the comment, string or character that `rest` begins with.
fn comment_or_literal(rest: &str, after_name: bool) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    let prefix = ["br", "cr", "b", "c", "r", ""].iter().find(|prefix| {
        let after = rest.strip_prefix(**prefix).unwrap_or_default();
        let raw = prefix.ends_with('r') && after.trim_start_matches('#').starts_with('"');
        raw || (!prefix.ends_with('r') && after.starts_with('"'))
    });
    if let Some(prefix) = prefix.filter(|prefix| prefix.is_empty() || !after_name) {
        return Some(string(rest, prefix));
    }
    // A lifetime is no character: `'a'` ends with a quote, `'a` does not.
    let mut chars = rest.strip_prefix('\'')?.chars();
    let inside = match chars.next()? {
        '\\' => rest[3..].find('\'')? + 3,
        c => 1 + c.len_utf8(),
    };
    rest[inside..].starts_with('\'').then_some(inside + 1)
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    loop {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += rest[at..].chars().next().expect("the end of a block comment").len_utf8();
        }
        if depth == 0 {
            return at;
        }
    }
}

fn string(rest: &str, prefix: &str) -> usize {
    let hashes = rest[prefix.len()..].chars().take_while(|&c| c == '#').count();
    let begin = prefix.len() + hashes + 1;
    if prefix.ends_with('r') {
        let end = format!("\"{}", "#".repeat(hashes));
        return begin + rest[begin..].find(&end).expect("the end of a raw string") + end.len();
    }
    let mut escaped = false;
    for (at, c) in rest[begin..].char_indices() {
        match c {
            '"' if !escaped => return begin + at + 1,
            _ => escaped = c == '\\' && !escaped,
        }
    }
    panic!("a string without an end")
}

/// Comments become blanks, and so does what literals say.
fn without_comments(text: &str) -> String {
    let (mut code, mut at) = (String::with_capacity(text.len()), 0);
    while at < text.len() {
        let after_name = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if let Some(len) = comment_or_literal(&text[at..], after_name) {
            code.push_str(&blank(&text[at..at + len]));
            at += len;
        } else {
            let c = text[at..].chars().next().expect("a character");
            code.push(c);
            at += c.len_utf8();
        }
    }
    code
}

/// The item behind an attribute: up to its semicolon, or to the end of its block. Further attributes belong to it.
fn item_end(code: &str, begin: usize) -> usize {
    let mut depth = 0;
    for (at, c) in code[begin..].char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 && (c == ';' || c == '}') {
            return begin + at + 1;
        }
    }
    code.len()
}

/// What only tests see becomes blanks: items behind `#[cfg(test)]` and `#[test]`.
fn without_tests(code: &str) -> String {
    let mut code = code.to_owned();
    for attribute in ["#[cfg(test)]", "#[test]"] {
        while let Some(begin) = code.find(attribute) {
            let end = item_end(&code, begin + attribute.len());
            let blanks = blank(&code[begin..end]);
            code.replace_range(begin..end, &blanks);
        }
    }
    code
}

#[test]
fn comments_strings_and_tests_are_no_code() {
    let text = r##"
        // unsafe one
        /* unsafe two /* unsafe three */ unsafe four */
        /// unsafe five
        let a = "unsafe \" six"; let b = r#"unsafe " seven"#; let c = b"unsafe\\"; let d = c"unsafe eight";
        let e = '"'; let f = '\''; let g: &'static str = ""; let h = '\u{1F600}'; let r = "unsafe";
        #[cfg(test)]
        mod tests { fn x() { unsafe { "}" } } }
        #[cfg(test)] use unsafe_nine;
        fn kept<'a>(_: &'a str) -> char { unsafe { 'u' } }
    "##;
    let source = Source::new("x.rs", text);
    assert_eq!(source.places("unsafe").len(), 1, "{}", source.code);
    assert_eq!(source.line_of(source.places("unsafe")[0]), 10);
    assert_eq!(source.code.len(), text.len());
    assert!(source.places("unsafe_nine").is_empty());
    assert_eq!(source.places("kept").len(), 1);
}

// ---- who may import whom ----

/// The modules of ours that a path in the code names: `crate::x`, and `x` inside `use crate::{..}` and `super::x`.
fn imports(source: &Source) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for at in source.places("crate::") {
        let rest = &source.code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            found.extend(top_level(group).into_iter().map(|name| (name, source.line_of(at))));
        } else {
            found.push((first_name(rest), source.line_of(at)));
        }
    }
    // In a file of `src` itself, and in the `mod.rs` of a room, `super` is the crate.
    if !source.path.contains('/') || source.path.ends_with("/mod.rs") {
        let supers = source.places("super::").into_iter();
        let outside = supers.filter(|&at| !source.code[..at].ends_with("super::"));
        found.extend(outside.map(|at| (first_name(&source.code[at + "super::".len()..]), source.line_of(at))));
    }
    // Further down one `super` is the room, and two are the crate.
    let twice = source.places("super::super::").into_iter();
    found.extend(twice.map(|at| (first_name(&source.code[at + "super::super::".len()..]), source.line_of(at))));
    found
}

fn first_name(rest: &str) -> String {
    rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first names of a `{a::b, c::{d, e}}` behind its opening brace.
fn top_level(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut begin) = (0, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.push(first_name(group[begin..at].trim_start()));
                return names;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(first_name(group[begin..at].trim_start()));
                begin = at + 1;
            }
            _ => {}
        }
    }
    names
}

fn forbid_imports(source: &Source, rooms: &[&str], forbidden: &[&str]) -> Vec<String> {
    if !rooms.contains(&source.room()) {
        return Vec::new();
    }
    let offences = imports(source).into_iter().filter(|(name, _)| forbidden.contains(&name.as_str()));
    offences.map(|(name, line)| format!("src/{}:{line}: imports `{name}`", source.path)).collect()
}

#[test]
fn imports_are_found_however_they_are_written() {
    let names = |path: &str, text: &str| -> Vec<String> {
        imports(&Source::new(path, text)).into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names("a.rs", "use crate::ffi::x; fn f() { crate::sys::y() }"), ["ffi", "sys"]);
    assert_eq!(names("a.rs", "use crate::{ffi, sys::{a, b}, path::c};"), ["ffi", "sys", "path"]);
    assert_eq!(names("a.rs", "use super::ffi;"), ["ffi"]);
    assert_eq!(names("writer/mod.rs", "use super::reader::x;"), ["reader"]);
    assert_eq!(names("writer/queue.rs", "use super::sender; use super::super::reader;"), ["reader"]);
    assert_eq!(names("a.rs", "// crate::ffi\nlet x = \"crate::ffi\";"), [""; 0]);
}

/// The C room is a leaf: what is behind it could be a crate of its own.
#[test]
fn nobody_imports_ffi() {
    everywhere(|source| if source.room() == "ffi" { Vec::new() } else { names_ffi(source) });
    assert_eq!(names_ffi(&Source::new("lib.rs", "mod ffi;\nuse crate::ffi::guard;")).len(), 1);
}

fn names_ffi(source: &Source) -> Vec<String> {
    let offences = imports(source).into_iter().filter(|(name, _)| name == "ffi");
    offences.map(|(_, line)| format!("src/{}:{line}: imports the C room", source.path)).collect()
}

#[test]
fn writer_and_reader_do_not_know_each_other() {
    everywhere(|source| forbid_imports(source, &["writer"], &["reader", "Reader"]));
    everywhere(|source| forbid_imports(source, &["reader"], &["writer", "Writer"]));
    assert_eq!(
        forbid_imports(&Source::new("writer/mod.rs", "use crate::reader::x;"), &["writer"], &["reader"]).len(),
        1
    );
}

#[test]
fn sys_knows_nothing_of_ours() {
    assert_none(sources().iter().flat_map(imports_beyond_sys).collect());
    assert_eq!(imports_beyond_sys(&Source::new("sys/x.rs", "use crate::error::Error; use crate::sys::cvt;")).len(), 1);
}

fn imports_beyond_sys(source: &Source) -> Vec<String> {
    if source.room() != "sys" {
        return Vec::new();
    }
    let outside = imports(source).into_iter().filter(|(name, _)| name != "sys");
    outside.map(|(name, line)| format!("src/{}:{line}: sys imports `{name}`", source.path)).collect()
}

/// The parts that both sides share know neither of them.
#[test]
fn the_shared_parts_import_neither_side() {
    let shared = ["lifecycle", "frame", "backoff", "path", "systemd", "metrics", "options", "error", "sys"];
    everywhere(|source| forbid_imports(source, &shared, &["writer", "reader", "Writer", "Reader"]));
}

/// Pure means that it can be tested without a clock and without a socket.
#[test]
fn frame_and_backoff_are_pure() {
    everywhere(impurities);
    let bad = "use std::io::Read;\nuse std::{time::Instant, fmt};\nfn f() { std::thread::yield_now() }\nuse std::net;";
    assert_eq!(impurities(&Source::new("frame.rs", bad)).len(), 4);
    assert_eq!(impurities(&Source::new("backoff.rs", "use std::time::Duration;")), [""; 0]);
    assert_eq!(impurities(&Source::new("lifecycle.rs", bad)), [""; 0]);
}

fn impurities(source: &Source) -> Vec<String> {
    if !["frame.rs", "backoff.rs"].contains(&source.path.as_str()) {
        return Vec::new();
    }
    // A `Duration` is a number; an `Instant` is a clock.
    let mut offences = source.forbid(&["Instant", "SystemTime"], "reads a clock");
    for at in source.places("std::") {
        let rest = &source.code[at + "std::".len()..];
        let names = rest.strip_prefix('{').map_or_else(|| vec![first_name(rest)], top_level);
        let impure =
            names.into_iter().filter(|name| ["io", "thread", "net", "os", "fs", "env"].contains(&name.as_str()));
        offences.extend(impure.map(|name| format!("src/{}:{}: std::{name}", source.path, source.line_of(at))));
    }
    offences
}

// ---- what may stand where ----

#[test]
fn unsafe_and_libc_stay_in_their_rooms() {
    everywhere(|source| match source.room() {
        "ffi" | "sys" => Vec::new(),
        _ => core_offences(source),
    });
    let bad = "fn f(p: *const u8) { unsafe { libc::close(3) }; let s: c_char; extern \"C\" fn g() {} }";
    assert!(core_offences(&Source::new("writer/mod.rs", bad)).len() >= 3);
}

fn core_offences(source: &Source) -> Vec<String> {
    let why = "belongs into ffi or sys";
    source.forbid(&["unsafe", "libc::", "c_char", "c_void", "c_int", "no_mangle"], why)
}

/// What decides, waits or connects does not belong into the C room.
#[test]
fn ffi_holds_no_sockets_and_no_waits() {
    let rule = |source: &Source| match source.room() {
        "ffi" => source.forbid(
            &[
                "std::net",
                "UnixStream",
                "UnixListener",
                "std::thread::sleep",
                "std::thread::spawn",
                "std::io::",
                "loop",
            ],
            "sockets, loops and waits belong into the core",
        ),
        _ => Vec::new(),
    };
    everywhere(rule);
    assert_eq!(rule(&Source::new("ffi/x.rs", "fn f() { loop { std::thread::sleep(x) } }")).len(), 2);
}

/// The system room has no opinions: no metrics, no errors of ours.
#[test]
fn sys_holds_no_policy() {
    let rule = |source: &Source| match source.room() {
        "sys" => source.forbid(&["ReaderMetrics", "WriterMetrics", "ReaderOptions", "WriterOptions"], "is no policy"),
        _ => Vec::new(),
    };
    everywhere(rule);
    assert_eq!(rule(&Source::new("sys/x.rs", "fn f(m: &WriterMetrics, o: OwnWriterOptions) {}")).len(), 1);
}

#[test]
fn nothing_prints_and_nothing_ends_the_process() {
    everywhere(loud);
    let bad = "fn f() { println!(\"\"); eprint!(\"\"); dbg!(1); std::process::exit(1); std::process::abort() }";
    assert_eq!(loud(&Source::new("x.rs", bad)).len(), 5);
}

fn loud(source: &Source) -> Vec<String> {
    let words =
        ["println!", "print!", "eprintln!", "eprint!", "dbg!", "process::exit", "process::abort", "libc::abort"];
    source.forbid(&words, "a library is silent and leaves the process alone")
}

/// A panic in the host's process is a bug of ours; these are the ways to write one down.
#[test]
fn nothing_is_left_undone() {
    everywhere(|source| source.forbid(&["todo!", "unimplemented!", ".unwrap()"], "a panic waiting for its day"));
}

#[test]
fn every_unsafe_says_why_it_is_sound() {
    everywhere(unexplained_unsafe);
    let good = "fn f() {\n    // SAFETY: because\n    // of this.\n    let x =\n        unsafe { g() };\n}";
    assert_eq!(unexplained_unsafe(&Source::new("sys/x.rs", good)), [""; 0]);
    let bad = "// SAFETY: another one.\nlet y = unsafe { g() };\nfn f() {\n    let x = unsafe { g() };\n}\n\
               unsafe impl Send for X {}";
    assert_eq!(unexplained_unsafe(&Source::new("sys/x.rs", bad)).len(), 2);
    assert_eq!(
        unexplained_unsafe(&Source::new("sys/x.rs", "unsafe fn f();\ntype F = unsafe extern \"C\" fn();")),
        [""; 0]
    );
}

/// `unsafe` in front of a block or an `impl` claims something; in front of `fn` it asks something of the caller.
fn unexplained_unsafe(source: &Source) -> Vec<String> {
    let claims = source.places("unsafe").into_iter().filter(|at| {
        let rest = source.code[at + "unsafe".len()..].trim_start();
        rest.starts_with('{') || rest.starts_with("impl")
    });
    let unexplained = claims.filter(|&at| !explained(source, source.line_of(at)));
    unexplained.map(|at| format!("src/{}:{}: unsafe without // SAFETY:", source.path, source.line_of(at))).collect()
}

/// Whether the comment right above the statement that this line belongs to says SAFETY.
fn explained(source: &Source, line: usize) -> bool {
    let code: Vec<&str> = source.code.lines().collect();
    let text: Vec<&str> = source.text.lines().collect();
    let mut above = line - 1;
    if text[above].contains("// SAFETY: ") {
        return true;
    }
    // To the beginning of the statement: past lines that go on, and past attributes.
    while above > 0 {
        let before = code[above - 1].trim();
        let is_comment = before.is_empty();
        if is_comment || (before.ends_with([';', '{', '}', ',']) && !before.starts_with("#[")) {
            break;
        }
        above -= 1;
    }
    let comment = text[..above].iter().rev().take_while(|line| line.trim().starts_with("//"));
    comment.into_iter().any(|line| line.trim().starts_with("// SAFETY: "))
}

// ---- the boundary ----

/// Exports that need no guard. Each with its reason; none is known.
const UNGUARDED: [(&str, &str); 0] = [];

/// Every function that C can call does its work inside `guard`: no panic gets past it.
#[test]
fn every_export_is_guarded() {
    everywhere(unguarded);
    let exports: usize = sources().iter().map(|source| source.places("no_mangle").len()).sum();
    assert_eq!(exports, include_str!("symbols.txt").lines().count(), "exports written one by one");
    let bad = "#[unsafe(no_mangle)]\npub extern \"C\" fn udsipc_x() -> i32 {\n    // guard(\n    1\n}";
    assert_eq!(unguarded(&Source::new("ffi/x.rs", bad)).len(), 1);
    let good = "#[unsafe(no_mangle)]\npub extern \"C\" fn udsipc_x() -> i32 {\n    guard_or(1, || Ok(1))\n}";
    assert_eq!(unguarded(&Source::new("ffi/x.rs", good)), [""; 0]);
}

fn unguarded(source: &Source) -> Vec<String> {
    let mut offences = Vec::new();
    for at in source.places("no_mangle") {
        let item = &source.code[at..item_end(&source.code, attribute_end(&source.code, at))];
        let name = first_name(item.split_once("fn ").map_or("", |(_, rest)| rest));
        // A body is what stands between its first brace and the last.
        let body = item.split_once('{').map_or("", |(_, body)| body);
        let guarded = ["guard(", "guard_or("].iter().any(|call| body.contains(call));
        if !guarded && !UNGUARDED.iter().any(|(known, _)| *known == name) {
            offences.push(format!("src/{}:{}: {name} calls no guard", source.path, source.line_of(at)));
        }
    }
    offences
}

/// Behind the `]` that closes the attribute in which `at` stands.
fn attribute_end(code: &str, at: usize) -> usize {
    at + code[at..].find(']').expect("the end of an attribute") + 1
}
