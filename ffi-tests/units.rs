//! The units for systemd: how much access they leave a service, and that its program needs no more.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test that is skipped says why

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use support::running::Running;
use support::{PATIENCE, compile, output, project, run, tempdir, wait_until};

/// systemd-analyze counts in tenths: 30 is an exposure of 3.0.
const MOST_EXPOSURE: &str = "--threshold=30";

fn is_there(command: &[&str]) -> bool {
    let found = Command::new(command[0]).args(&command[1..]).output().is_ok_and(|done| done.status.success());
    if !found {
        println!("skipped: {} does not work here", command.join(" "));
    }
    found
}

fn security(unit: &PathBuf) -> support::Finished {
    let mut analyze = Command::new("systemd-analyze");
    run(analyze.args(["security", "--no-pager", "--offline=true", MOST_EXPOSURE]).arg(unit), PATIENCE)
}

/// The services of this project.
fn services() -> Vec<PathBuf> {
    let folders = ["examples-c/systemd", "tools/udsipc-nats"].map(project);
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "service")).collect()
}

#[test]
fn every_service_has_little_access() {
    if !is_there(&["systemd-analyze", "--version"]) {
        return;
    }
    let folder = tempdir();
    let bare = folder.path().join("bare.service");
    fs::write(&bare, "[Service]\nExecStart=/bin/true\n").unwrap();
    assert!(!security(&bare).status.success(), "a service that may do everything is taken");

    let services = services();
    assert_eq!(services.len(), 2, "{services:?}");
    for service in services {
        let done = security(&service);
        assert!(done.status.success(), "{}", done.output);
    }
}

/// The sets of systemd.exec(5), as they are written: a set may contain others.
fn filter_sets() -> BTreeMap<String, Vec<String>> {
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = String::new();
    for line in output(Command::new("systemd-analyze").arg("syscall-filter")).lines() {
        match line.strip_prefix("    ") {
            None => current = line.to_owned(),
            Some(comment) if comment.starts_with('#') => {}
            Some(member) => sets.entry(current.clone()).or_default().push(member.to_owned()),
        }
    }
    sets
}

fn expanded(sets: &BTreeMap<String, Vec<String>>, name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return BTreeSet::from([name.to_owned()]);
    }
    sets.get(name).unwrap_or_else(|| panic!("no set {name}")).iter().flat_map(|name| expanded(sets, name)).collect()
}

/// What the lines SystemCallFilter= of a unit let through.
fn allowed(unit: &str) -> BTreeSet<String> {
    let sets = filter_sets();
    let mut allowed = BTreeSet::new();
    for line in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        let (denies, names) = line.strip_prefix('~').map_or((false, line), |names| (true, names));
        for call in names.split_whitespace().flat_map(|name| expanded(&sets, name)) {
            if denies {
                allowed.remove(&call);
            } else {
                allowed.insert(call);
            }
        }
    }
    allowed
}

/// The reader in a network namespace of its own (PrivateNetwork=) acknowledges, and calls nothing that its unit forbids.
#[test]
fn the_reader_needs_no_more_than_its_unit_lets_through() {
    let tools = [["systemd-analyze", "--version"].as_slice(), &["strace", "-V"], &["unshare", "-rn", "strace", "true"]];
    if !tools.iter().all(|tool| is_there(tool)) {
        return;
    }
    let unit = fs::read_to_string(project("examples-c/systemd/udsipc-example.service")).unwrap();
    let allowed = allowed(&unit);
    assert!(allowed.contains("accept4") && !allowed.contains("setuid") && !allowed.contains("mount"), "{allowed:?}");
    assert!(unit.contains("\nPrivateNetwork=yes\n"));

    let scratch = tempdir();
    let (socket, trace) = (scratch.path().join("socket"), scratch.path().join("trace"));
    let mut command = Command::new("unshare");
    command.args(["-rn", "strace", "-D", "-f", "-q", "-o"]).arg(&trace);
    command.arg(compile(&project("examples-c/activated_reader.c"), "c11")).arg(&socket);
    let reader = Running::start(scratch.path(), "reader", &mut command);
    wait_until(PATIENCE, "the socket is there", || socket.exists());
    let mut writer = Running::start(
        scratch.path(),
        "writer",
        Command::new(compile(&project("examples-c/writer.c"), "c11")).arg(&socket),
    );
    writer.feed("hello\nworld\n");
    writer.end_of_input();
    let (_, told) = writer.finish();
    assert!(told.contains(" acknowledged=2 "), "{told}");
    reader.terminate();
    reader.finish();

    let read = || fs::read_to_string(&trace).unwrap();
    wait_until(PATIENCE, "the trace is complete", || {
        read().lines().last().is_some_and(|line| line.contains("+++ exited"))
    });
    let trace = read();
    let calls =
        trace.lines().filter_map(|line| line.split_once(' ')?.1.trim_start().split_once('(').map(|(name, _)| name));
    let calls: BTreeSet<String> = calls.filter(|name| !name.contains(' ')).map(str::to_owned).collect();
    assert!(calls.contains("accept4") && calls.contains("memfd_create"), "{calls:?}");
    let forbidden: Vec<&String> = calls.difference(&allowed).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
}
