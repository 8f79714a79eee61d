//! `make abi-check`: the library is the one that `packaging/abi` describes, and a change that breaks programs is refused.

#![allow(clippy::unwrap_used)]

#[path = "support/installation.rs"]
mod installation;
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use installation::{built, make_in};
use support::{Finished, PATIENCE, exported_functions, project, python3, run, run_ok, tempdir};

/// What is committed.
fn description() -> String {
    fs::read_to_string(project("packaging/abi/libudsipc.abi")).unwrap()
}

/// The part of a text from `begin` up to and with `end`.
fn part<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let from = text.find(begin).unwrap_or_else(|| panic!("no {begin}"));
    let length = text[from..].find(end).unwrap_or_else(|| panic!("no {end} after {begin}"));
    &text[from..from + length + end.len()]
}

/// A description with one part of it changed: `edit` sees the part that goes from `begin` to `end`.
fn edited(begin: &str, end: &str, edit: impl Fn(&str) -> String) -> String {
    let text = description();
    let old = part(&text, begin, end);
    let new = edit(old);
    assert_ne!(old, new, "the change of {begin} changes nothing");
    text.replacen(old, &new, 1)
}

fn function(name: &str, edit: impl Fn(&str) -> String) -> String {
    edited(&format!("    <function-decl name=\"{name}\""), "</function-decl>\n", edit)
}

fn structure(name: &str, edit: impl Fn(&str) -> String) -> String {
    edited(&format!("<class-decl name=\"{name}\""), "</class-decl>", edit)
}

/// A counter of 64 bits, as a member of a struct.
fn member(name: &str, offset: usize) -> String {
    format!(
        "  <data-member access=\"public\" layout-offset-in-bits=\"{offset}\">\n        \
         <var-decl name=\"{name}\" type-id=\"u64\" />\n      </data-member>\n    "
    )
}

/// A struct with one counter more: the members from `offset` on move up.
fn with_member(structure: &str, offset: usize) -> String {
    let moved = |tag: &str, text: &str, from: usize| {
        let mut pieces = text.split(tag);
        let mut changed = pieces.next().unwrap().to_owned();
        for piece in pieces {
            let (number, rest) = piece.split_once('"').unwrap();
            let number: usize = number.parse().unwrap();
            changed += &format!("{tag}{}\"{rest}", if number >= from { number + 64 } else { number });
        }
        changed
    };
    let grown = moved("layout-offset-in-bits=\"", &moved(" size-in-bits=\"", structure, 0), offset);
    grown.replace("</class-decl>", &format!("{}</class-decl>", member("another", offset)))
}

/// What `tools/abi.py check` says of a library with the description `new`, when what is committed is `old`.
fn check(old: &str, new: &str) -> Finished {
    let folder = tempdir();
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let mut check = Command::new(python3().expect("python3"));
    check.arg("-B").arg(project("tools/abi.py")).arg("check").arg(write("old.abi", old)).arg(write("new.abi", new));
    run(&mut check, PATIENCE)
}

#[test]
fn what_breaks_a_program_is_refused() {
    let stop = "udsipc_writer_stop";
    let timeout = "      <parameter type-id=\"u64\" name=\"timeout_ms\" />\n";
    let symbol = format!("    <elf-symbol name=\"{stop}\"");
    let changes = [
        ("function gone", edited(&symbol, "\n", |_| String::new()).replace(&part_of(stop), "")),
        ("parameter gone", function(stop, |text| text.replace(timeout, ""))),
        ("parameter more", function(stop, |text| text.replace(timeout, &timeout.repeat(2)))),
        ("parameter of another size", function(stop, |text| text.replace("\"u64\"", "\"u32\""))),
        ("another handle", function(stop, |text| text.replace("to-udsipc_writer\"", "to-udsipc_reader\""))),
        ("another result", function(stop, |text| text.replace("\"udsipc_status\"", "\"u64\""))),
        ("member in the middle", structure("udsipc_writer_metrics", |text| with_member(text, 64))),
        ("member of another size", structure("udsipc_writer_metrics", |text| text.replacen("\"u64\"", "\"u32\"", 1))),
        (
            "members change places",
            structure("udsipc_writer_metrics", |text| {
                text.replace("\"sent\"", "\"-\"").replace("\"failed\"", "\"sent\"").replace("\"-\"", "\"failed\"")
            }),
        ),
        ("member at the end of an array's element", structure("udsipc_buffer", |text| with_member(text, 128))),
        (
            "parameter of a callback",
            edited("<function-type size-in-bits=\"64\" id=\"function-i32", "</function-type>", |text| {
                text.replacen("<parameter type-id=\"i32\"", "<parameter type-id=\"u64\"", 1)
            }),
        ),
        (
            "another number of a status",
            edited("<enumerator name=\"UDSIPC_ERR_PANIC\"", "/>", |text| text.replace("\"90\"", "\"91\"")),
        ),
        ("a status gone", edited("<enumerator name=\"UDSIPC_ERR_PANIC\"", "/>", |_| String::new())),
        ("another version of the symbols", description().replace("UDSIPC_0", "UDSIPC_1")),
        ("another soname", description().replace("libudsipc.so.0", "libudsipc.so.1")),
    ];
    let text = description();
    for (change, new) in changes {
        let done = check(&text, &new);
        assert!(!done.status.success(), "{change} passes");
        assert!(done.output.contains("The ABI is broken"), "{change}: {}", done.output);
    }
}

/// A function as it is committed.
fn part_of(name: &str) -> String {
    part(&description(), &format!("    <function-decl name=\"{name}\""), "</function-decl>\n").to_owned()
}

#[test]
fn what_is_added_is_to_be_committed() {
    let stop = "udsipc_writer_stop";
    let text = description();
    let symbol = part(&text, &format!("    <elf-symbol name=\"{stop}\""), "\n");
    let additions = [
        (
            "function",
            text.replace(symbol, &format!("{symbol}\n{}", symbol.replace(stop, "udsipc_new")))
                .replace(&part_of(stop), &format!("{}{}", part_of(stop), part_of(stop).replace(stop, "udsipc_new"))),
        ),
        ("counter at the end", structure("udsipc_writer_metrics", |text| with_member(text, size_of(text)))),
        ("name of a parameter", function(stop, |text| text.replace("timeout_ms", "patience_ms"))),
        (
            "status",
            edited("<enumerator name=\"UDSIPC_ERR_PANIC\"", "/>", |text| {
                format!("<enumerator name=\"UDSIPC_ERR_NEW\" value=\"60\" />\n      {text}")
            }),
        ),
    ];
    for (addition, new) in additions {
        assert_ne!(text, new, "{addition}");
        let done = check(&text, &new);
        assert!(!done.status.success() && !done.output.contains("The ABI is broken"), "{addition}: {}", done.output);
        assert!(done.output.contains("make abi-update"), "{addition}: {}", done.output);
    }
    let same = check(&text, &text);
    assert!(same.status.success(), "{}", same.output);
}

/// In bits.
fn size_of(structure: &str) -> usize {
    part(structure, " size-in-bits=\"", "\" ").split('"').nth(1).unwrap().parse().unwrap()
}

/// abidw sees no parameters when the debug information is less than full, and then every check passes.
#[test]
fn every_function_is_described_with_all_its_parameters() {
    let header = fs::read_to_string(project("include/udsipc.h")).unwrap();
    for name in exported_functions() {
        let declares = |line: &str| line.starts_with(char::is_alphabetic) && line.contains(&format!("{name}("));
        let declaration: Vec<&str> = header.lines().skip_while(|line| !declares(line)).collect();
        let declaration = declaration.join(" ");
        let parameters = part(&declaration, &format!("{name}("), ");");
        let declared = if parameters.ends_with("(void);") { 0 } else { parameters.matches(',').count() + 1 };
        assert_eq!(part_of(&name).matches("<parameter ").count(), declared, "{name}: {parameters}");
        assert_eq!(part_of(&name).matches("<return ").count(), 1, "{name}");
    }
    for opaque in
        ["udsipc_writer", "udsipc_reader", "udsipc_connection", "udsipc_writer_options", "udsipc_reader_options"]
    {
        let class = format!("<class-decl name=\"{opaque}\" is-struct=\"yes\" is-declaration-only=\"yes\"");
        assert!(description().contains(&class), "what is in {opaque} is nobody's business");
    }
}

/// A new function is listed with the version in which it comes, and nothing else is touched.
#[test]
fn a_function_that_the_list_lacks_is_added_to_it() {
    let folder = tempdir();
    let (list, complete) = (folder.path().join("symbols"), project("packaging/abi/libudsipc.symbols"));
    let complete = fs::read_to_string(complete).unwrap();
    let line = " udsipc_writer_stop@UDSIPC_0 0.1.0\n";
    assert!(complete.contains(line));
    fs::write(&list, complete.replace(line, "")).unwrap();
    let mut add = Command::new(python3().expect("python3"));
    add.arg("-B").arg(project("tools/abi.py")).arg("list").arg(project("include/udsipc.h")).arg(&list).arg("0.7.0");
    run_ok(&mut add, PATIENCE);
    assert_eq!(fs::read_to_string(&list).unwrap(), complete.replace(line, " udsipc_writer_stop@UDSIPC_0 0.7.0\n"));
}

fn make(target: &str, committed: &Path) -> Finished {
    run(make_in(built(), target).arg(format!("ABI={}", committed.display())), PATIENCE * 3)
}

/// The whole way, from the sources: the library against descriptions that are not its own.
#[test]
fn make_refuses_a_library_that_is_not_the_one_described() {
    let done = make("abi-check", &project("packaging/abi/libudsipc.abi"));
    assert!(done.status.success(), "{}", done.output);

    let folder = tempdir();
    let committed = folder.path().join("libudsipc.abi");
    // Programs of this description pass 32 bits where the library takes 64.
    fs::write(&committed, function("udsipc_writer_stop", |text| text.replace("\"u64\"", "\"u32\""))).unwrap();
    for target in ["abi-check", "abi-update"] {
        let done = make(target, &committed);
        assert!(!done.status.success(), "make {target}: {}", done.output);
        assert!(done.output.contains("type size changed from 32 to 64 (in bits)"), "make {target}: {}", done.output);
    }
    // And those of this one know a function less.
    let less = description().replace(&part_of("udsipc_writer_stop"), "");
    fs::write(&committed, less.replace(part(&less, "    <elf-symbol name=\"udsipc_writer_stop\"", "\n"), "")).unwrap();
    let done = make("abi-check", &committed);
    assert!(!done.status.success() && done.output.contains("make abi-update"), "{}", done.output);
    run_ok(make_in(built(), "abi-update").arg(format!("ABI={}", committed.display())), PATIENCE);
    assert_eq!(fs::read_to_string(&committed).unwrap(), description());
}
