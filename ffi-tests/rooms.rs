//! The rules of the house that no lint has: who may import whom, and that every function that C can call has its guard.
//! What clippy and rustc can hold stands in Cargo.toml (`[lints]`) and clippy.toml.
//!
//! The sources are read as tokens, without comments and without test modules. Each rule is shown to find offences.

mod support;

use std::fs;
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::visit_mut::{self, VisitMut};

use support::{exported_functions, project};

/// A file of `src`, as the compiler of a release sees it.
struct Source {
    /// Below `src`, such as `writer/queue.rs`.
    path: String,
    file: syn::File,
    tokens: Vec<String>,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let mut file = syn::parse_file(text).unwrap_or_else(|e| panic!("src/{path}: {e}"));
        WithoutTests.visit_file_mut(&mut file);
        let mut tokens = Vec::new();
        flatten(file.to_token_stream(), &mut tokens);
        Source { path: path.to_owned(), file, tokens }
    }

    /// `ffi`, `sys`, `writer`, `reader`, or the name of a file in `src` itself.
    fn room(&self) -> &str {
        self.path.split('/').next().map_or("", |room| room.strip_suffix(".rs").unwrap_or(room))
    }

    /// How many modules lie between this one and the crate.
    fn depth(&self) -> usize {
        if self.path == "lib.rs" { 0 } else { self.path.split('/').filter(|part| *part != "mod.rs").count() }
    }

    /// Where the path `prefix::` begins that is not the middle of a longer one.
    fn paths_from<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = usize> + 'a {
        let begins = |at: usize| at == 0 || self.tokens[at - 1] != ":";
        (0..self.tokens.len()).filter(move |&at| self.tokens[at] == prefix && begins(at) && self.is_path(at))
    }

    fn is_path(&self, at: usize) -> bool {
        self.tokens[at + 1..].starts_with(&[":".to_owned(), ":".to_owned()])
    }

    /// The names that may follow the `::` behind `at`: one, or the first of each path in `{..}`.
    fn names_behind(&self, at: usize) -> Vec<&str> {
        let rest = &self.tokens[at + 3..];
        if rest.first().is_none_or(|first| first != "{") {
            return rest.first().map(String::as_str).into_iter().collect();
        }
        let (mut depth, mut names, mut begins) = (0, Vec::new(), true);
        for token in &rest[1..] {
            match token.as_str() {
                "{" => depth += 1,
                "}" if depth == 0 => break,
                "}" => depth -= 1,
                "," if depth == 0 => begins = true,
                name if begins => {
                    names.push(name);
                    begins = false;
                }
                _ => {}
            }
        }
        names
    }

    /// The modules of ours that this file names: by way of `crate::`, or of as many `super::` as lead to the crate.
    fn imports(&self) -> Vec<&str> {
        let mut found: Vec<&str> = self.paths_from("crate").flat_map(|at| self.names_behind(at)).collect();
        for begin in self.paths_from("super") {
            let supers =
                (0..).take_while(|n| self.tokens.get(begin + 3 * n).is_some_and(|token| token == "super")).count();
            if supers == self.depth() {
                found.extend(self.names_behind(begin + 3 * (supers - 1)));
            }
        }
        found
    }

    /// The modules of the standard library that this file names.
    fn std_modules(&self) -> Vec<&str> {
        self.paths_from("std").flat_map(|at| self.names_behind(at)).collect()
    }

    fn names(&self, word: &str) -> bool {
        self.tokens.iter().any(|token| token == word)
    }
}

/// Takes out what only tests see: items behind `#[cfg(test)]`.
struct WithoutTests;

impl VisitMut for WithoutTests {
    fn visit_file_mut(&mut self, file: &mut syn::File) {
        file.items.retain(|item| !is_test(item));
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, module: &mut syn::ItemMod) {
        if let Some((_, items)) = &mut module.content {
            items.retain(|item| !is_test(item));
        }
        visit_mut::visit_item_mod_mut(self, module);
    }

    fn visit_item_impl_mut(&mut self, block: &mut syn::ItemImpl) {
        block.items.retain(|item| !is_test(item));
        visit_mut::visit_item_impl_mut(self, block);
    }
}

/// Whether `#[cfg(test)]` is one of the attributes in front of an item.
fn is_test(item: &impl quote::ToTokens) -> bool {
    let mut tokens = item.to_token_stream().into_iter();
    while let (Some(TokenTree::Punct(hash)), Some(TokenTree::Group(attribute))) = (tokens.next(), tokens.next()) {
        if hash.as_char() == '#' && attribute.to_string().replace(' ', "") == "[cfg(test)]" {
            return true;
        }
    }
    false
}

/// Identifiers, brackets and punctuation one by one. What literals say, doc comments too, is left out.
fn flatten(stream: TokenStream, tokens: &mut Vec<String>) {
    for tree in stream {
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(open.to_owned());
                flatten(group.stream(), tokens);
                tokens.push(close.to_owned());
            }
            TokenTree::Literal(_) => tokens.push("\"\"".to_owned()),
            other => tokens.push(other.to_string()),
        }
    }
}

/// All of `src` but its test modules. That there is much of it is checked: a rule over nothing would always hold.
fn sources() -> Vec<Source> {
    let (root, mut found) = (project("src"), Vec::new());
    read(&root, &root, &mut found);
    for expected in ["lib.rs", "frame.rs", "writer/mod.rs", "reader/mod.rs", "sys/mod.rs", "ffi/mod.rs"] {
        assert!(found.iter().any(|source| source.path == expected), "src/{expected} is gone: do the rules still fit?");
    }
    found
}

fn read(folder: &Path, root: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("an entry of src").path();
        if path.file_stem().is_some_and(|name| name == "tests") {
            continue;
        }
        if path.is_dir() {
            read(&path, root, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            let below = path.strip_prefix(root).expect("below src").to_str().expect("a path in UTF-8");
            found.push(Source::new(below, &text));
        }
    }
}

/// A rule: the offences of one file.
type Rule = fn(&Source) -> Vec<String>;

/// No file of `src` offends, and each of the samples (a path below `src`, its text) does so as often as is said.
fn holds(rule: Rule, samples: &[(&str, &str, usize)]) {
    for &(path, text, offences) in samples {
        let found = rule(&Source::new(path, text));
        assert_eq!(found.len(), offences, "{path}: {text}: {found:?}");
    }
    let offences: Vec<String> = sources()
        .iter()
        .flat_map(|source| rule(source).into_iter().map(|offence| format!("src/{}: {offence}", source.path)))
        .collect();
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

fn among(names: Vec<&str>, forbidden: &[&str]) -> Vec<String> {
    names.into_iter().filter(|name| forbidden.contains(name)).map(|name| format!("imports `{name}`")).collect()
}

fn beyond(names: Vec<&str>, allowed: &[&str]) -> Vec<String> {
    names.into_iter().filter(|name| !allowed.contains(name)).map(|name| format!("imports `{name}`")).collect()
}

#[test]
fn imports_are_found_however_they_are_written() {
    let names = |path: &str, text: &str| -> Vec<String> {
        Source::new(path, text).imports().into_iter().map(str::to_owned).collect()
    };
    assert_eq!(names("a.rs", "use crate::ffi::x; fn f() { crate::sys::y() }"), ["ffi", "sys"]);
    assert_eq!(names("a.rs", "use crate::{ffi, sys::{a, b}, path::c};"), ["ffi", "sys", "path"]);
    assert_eq!(names("a.rs", "use super::ffi;"), ["ffi"]);
    assert_eq!(names("a.rs", "m! { crate::ffi::x }"), ["ffi"]);
    assert_eq!(names("writer/mod.rs", "use super::reader::x;"), ["reader"]);
    assert_eq!(names("writer/queue.rs", "use super::sender; use super::super::reader;"), ["reader"]);
    assert_eq!(
        names("writer/a/b.rs", "use super::super::sender; use super::super::super::{reader, sys};"),
        ["reader", "sys"]
    );
    let unseen = "//! crate::ffi\n/* crate::ffi */ const X: &str = \"crate::ffi\";\n\
                  #[cfg(test)] mod tests { use crate::ffi; }\n#[cfg(test)] use crate::ffi;\n\
                  impl X { #[inline] #[cfg(test)] fn f() { crate::ffi::g() } }";
    assert_eq!(names("a.rs", unseen), [""; 0]);
}

/// The C room is a leaf: what is behind it could be a crate of its own.
#[test]
fn nobody_imports_ffi() {
    let rule: Rule = |source| if source.room() == "ffi" { Vec::new() } else { among(source.imports(), &["ffi"]) };
    holds(rule, &[("lib.rs", "mod ffi; use crate::ffi::guard;", 1), ("ffi/x.rs", "use crate::ffi::guard;", 0)]);
}

#[test]
fn writer_and_reader_do_not_know_each_other() {
    let rule: Rule = |source| match source.room() {
        "writer" => among(source.imports(), &["reader", "Reader"]),
        "reader" => among(source.imports(), &["writer", "Writer"]),
        _ => Vec::new(),
    };
    holds(rule, &[("writer/mod.rs", "use crate::reader::x;", 1), ("reader/x.rs", "use super::super::Writer;", 1)]);
}

/// The parts that both sides share know neither of them.
#[test]
fn the_shared_parts_import_neither_side() {
    let rule: Rule = |source| match source.room() {
        "event_source" | "lifecycle" | "frame" | "backoff" | "claim" | "path" | "systemd" | "metrics" | "options"
        | "error" => among(source.imports(), &["writer", "reader", "Writer", "Reader"]),
        _ => Vec::new(),
    };
    holds(rule, &[("systemd/x.rs", "use crate::{Reader, error};", 1)]);
}

/// The executor runs tasks, whatever they are.
#[test]
fn the_executor_knows_nothing_of_what_it_runs() {
    let rule: Rule = |source| match source.room() {
        "executor" => beyond(source.imports(), &["executor", "sys", "sync", "error"]),
        _ => Vec::new(),
    };
    let bad = "use crate::writer::x; use crate::lifecycle::Phase; use crate::{sys, sync, error};";
    holds(rule, &[("executor/x.rs", bad, 2)]);
}

/// The room of the system has no opinions: it knows no errors, options and metrics of ours.
#[test]
fn sys_knows_nothing_of_ours() {
    let rule: Rule = |source| if source.room() == "sys" { beyond(source.imports(), &["sys"]) } else { Vec::new() };
    holds(rule, &[("sys/x.rs", "use crate::error::Error; use crate::sys::cvt;", 1)]);
}

/// `unsafe` is held in its rooms by a lint; what it is for is held there too.
#[test]
fn libc_stays_in_its_rooms() {
    let rule: Rule = |source| match source.room() {
        "ffi" | "sys" => Vec::new(),
        _ => ["libc", "c_char", "c_void", "c_int", "no_mangle"]
            .into_iter()
            .filter(|word| source.names(word))
            .map(|word| format!("`{word}` belongs into ffi or sys"))
            .collect(),
    };
    holds(rule, &[("writer/mod.rs", "fn f(p: *const c_char) { libc::close(3); }", 2)]);
}

/// What decides, waits or connects does not belong into the C room.
#[test]
fn ffi_imports_no_sockets_and_no_waits() {
    let rule: Rule = |source| {
        if source.room() != "ffi" {
            return Vec::new();
        }
        let mut offences = among(source.std_modules(), &["net", "io"]);
        let words = ["UnixStream", "UnixListener", "sleep", "spawn"];
        offences.extend(words.iter().filter(|word| source.names(word)).map(|word| format!("names `{word}`")));
        offences
    };
    holds(rule, &[("ffi/x.rs", "use std::{net, fmt}; fn f() { std::thread::sleep(x) }", 2)]);
}

/// Pure means that it can be tested without a clock and without a socket. A `Duration` is a number; an `Instant` is a clock.
#[test]
fn what_decides_is_pure() {
    let rule: Rule = |source| {
        if !["frame.rs", "backoff.rs", "reader/budget.rs"].contains(&source.path.as_str()) {
            return Vec::new();
        }
        let mut offences = among(source.std_modules(), &["io", "thread", "net", "os", "fs", "env"]);
        let words = ["Instant", "SystemTime", "sys"];
        offences.extend(words.iter().filter(|word| source.names(word)).map(|word| format!("names `{word}`")));
        offences
    };
    let bad = "use std::io::Read; use std::{time::Instant, fmt}; fn f() { std::thread::yield_now() } use std::net;";
    let clock = "use crate::sys::lock; fn f() { Instant::now(); }";
    holds(
        rule,
        &[
            ("frame.rs", bad, 4),
            ("reader/budget.rs", clock, 2),
            ("backoff.rs", "use std::time::Duration;", 0),
            ("lifecycle.rs", bad, 0),
        ],
    );
}

// ---- the boundary ----

/// Every function that C can call does its work inside `guard`: no panic gets past it.
#[test]
fn every_export_is_guarded() {
    let rule: Rule = |source| {
        let functions = source.file.items.iter().filter_map(|item| match item {
            syn::Item::Fn(function) => Some(function),
            _ => None,
        });
        let exported = functions.filter(|function| {
            let mut attributes = Vec::new();
            function.attrs.iter().for_each(|attribute| flatten(attribute.to_token_stream(), &mut attributes));
            attributes.iter().any(|token| token == "no_mangle")
        });
        let unguarded = exported.filter(|function| {
            let mut body = Vec::new();
            flatten(function.block.to_token_stream(), &mut body);
            let calls =
                |pair: &[String]| ["guard", "guard_quick", "guard_or"].contains(&pair[0].as_str()) && pair[1] == "(";
            !body.windows(2).any(calls)
        });
        unguarded.map(|function| format!("{} calls no guard", function.sig.ident)).collect()
    };
    let bad = "#[unsafe(no_mangle)]\npub extern \"C\" fn udsipc_x() -> i32 {\n    // guard(\n    1\n}";
    let good = "#[unsafe(no_mangle)]\npub extern \"C\" fn udsipc_x() -> i32 {\n    guard_or(1, || Ok(1))\n}";
    holds(rule, &[("ffi/x.rs", bad, 1), ("ffi/x.rs", good, 0)]);
    let written: usize =
        sources().iter().map(|source| source.tokens.iter().filter(|token| *token == "no_mangle").count()).sum();
    assert_eq!(written, exported_functions().len(), "exports written one by one");
}
