//! What the shared object shows to a linker: the cheapest check of a stable ABI that there is.

mod support;

use std::collections::BTreeSet;
use std::process::Command;

use support::{exported_functions, library, output};

/// The version that each symbol has in the library that is installed. The one that cargo links has none.
const VERSION: &str = concat!("UDSIPC_", env!("CARGO_PKG_VERSION_MAJOR"));

/// `nm` of what the library defines: kind and name.
fn defined() -> Vec<(String, String)> {
    let printed = output(Command::new("nm").args(["-D", "--defined-only"]).arg(library()));
    let symbols = printed.lines().map(|line| {
        let mut words = line.split_whitespace().rev();
        let (name, kind) = (words.next().expect("a name"), words.next().expect("a kind"));
        (kind.to_owned(), name.split('@').next().expect("a name").to_owned())
    });
    // The version itself is a symbol.
    symbols.filter(|(kind, name)| (kind.as_str(), name.as_str()) != ("A", VERSION)).collect()
}

/// The values of one kind of entry in the dynamic section, such as `(SONAME)` or `(NEEDED)`.
fn dynamic(tag: &str) -> Vec<String> {
    let printed = output(Command::new("readelf").arg("-dW").arg(library()));
    let values = printed.lines().filter(|line| line.contains(tag));
    values.map(|line| line.split(['[', ']']).nth(1).expect("a name in brackets").to_owned()).collect()
}

#[test]
fn exports_are_exactly_the_listed_ones() {
    let listed = exported_functions();
    assert!(listed.is_sorted(), "the list is kept in order");
    let listed: BTreeSet<String> = listed.into_iter().collect();
    let exported: BTreeSet<String> = defined().into_iter().map(|(_, name)| name).collect();
    let missing: Vec<_> = listed.difference(&exported).collect();
    let new: Vec<_> = exported.difference(&listed).collect();
    assert!(missing.is_empty(), "no longer exported, which breaks programs: {missing:?}");
    assert!(new.is_empty(), "exported and not in the list, which `make abi-update` extends: {new:?}");
}

#[test]
fn exports_are_functions_of_our_name() {
    for (kind, name) in defined() {
        assert!(name.starts_with("udsipc_"), "{name} could clash with a symbol of the host");
        assert_eq!(kind, "T", "{name} is no function: data in the ABI can never change its size");
    }
}

#[test]
fn soname_carries_the_major_version() {
    assert_eq!(dynamic("(SONAME)"), [concat!("libudsipc.so.", env!("CARGO_PKG_VERSION_MAJOR"))]);
}

/// A library in other people's processes brings no library of its own along. The loader is there for thread-local variables.
#[test]
fn needs_only_the_c_runtime() {
    let needed = dynamic("(NEEDED)").into_iter().filter(|name| !name.starts_with("ld-linux"));
    assert_eq!(needed.collect::<BTreeSet<_>>(), ["libc.so.6", "libgcc_s.so.1"].map(str::to_owned).into());
}

/// With lazy or writable leftovers a library weakens the process that loads it.
#[test]
fn asks_for_no_executable_stack_and_no_path() {
    let segments = output(Command::new("readelf").arg("-lW").arg(library()));
    let stack = segments.lines().find(|line| line.contains("GNU_STACK")).expect("a GNU_STACK entry");
    assert!(!stack.contains('E'), "executable stack: {stack}");
    assert_eq!(dynamic("(RUNPATH)"), [""; 0]);
    assert_eq!(dynamic("(RPATH)"), [""; 0]);
}
