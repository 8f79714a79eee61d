//! The behavioural scenarios of `ffi-tests/python`, one Rust test for each: whole processes, kills, raw sockets and
//! systemd's environment, all through the C ABI of the shared object that was just built.
//!
//! `ffi-tests/python/run.py` lists and runs them; `module.Class.test` is called `module::Class::test` here.

#[path = "support/harness.rs"]
mod harness;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, ExitCode};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use support::{library, outcome, output, project, python3, without_systemd};

/// A scenario that hangs first says where (`UDSIPC_TEST_TRACE_AFTER`), and is then ended.
const PATIENCE: Duration = Duration::from_secs(130);
const TRACE_AFTER: &str = "110";

fn runner() -> Command {
    let mut command = Command::new(python3().expect("the scenarios need python3"));
    command.arg("-B").arg(project("ffi-tests/python/run.py"));
    command
}

fn run_scenario(name: &str) -> Result<Completion, Failed> {
    let mut command = runner();
    command.arg(name).current_dir(project("ffi-tests/python"));
    command.env("UDSIPC_LIBRARY", library()).env("UDSIPC_TEST_TRACE_AFTER", TRACE_AFTER);
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    let printed = outcome(without_systemd(&mut command), PATIENCE)?;
    let skipped = printed.lines().find_map(|line| line.strip_prefix("skipped: "));
    Ok(skipped.map_or(Completion::Completed, Completion::ignored_with))
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let scenarios: BTreeSet<String> = output(runner().arg("--list")).lines().map(str::to_owned).collect();
    let test = |name: &String| {
        let name = name.clone();
        Trial::ignorable_test(name.replace('.', "::"), move || harness::scenario(&name, || run_scenario(&name)))
    };
    let mut tests: Vec<Trial> = scenarios.iter().map(test).collect();
    tests.push(Trial::test("the_parity_list_is_whole_and_names_tests_that_exist", move || {
        the_parity_list_is_whole_and_names_tests_that_exist(&scenarios);
        Ok(())
    }));
    harness::run(&arguments, tests)
}

/// Every id of the parity list.
fn parity_ids() -> Vec<String> {
    let ranges = [
        ("F", 1, 14),
        ("O", 1, 14),
        ("P", 1, 8),
        ("S", 1, 13),
        ("W", 1, 24),
        ("W", 30, 38),
        ("R", 1, 14),
        ("A", 1, 4),
        ("R", 30, 36),
        ("M", 1, 5),
        ("T", 1, 16),
    ];
    ranges.iter().flat_map(|&(letter, first, last)| (first..=last).map(move |n| format!("{letter}{n}"))).collect()
}

fn the_parity_list_is_whole_and_names_tests_that_exist(scenarios: &BTreeSet<String>) {
    let text = fs::read_to_string(project("ffi-tests/parity.md")).expect("ffi-tests/parity.md");
    let (text, go_tests) = text.split_once("\n## The Go library's own tests").expect("the section on Go's own tests");
    for line in go_tests.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Go test ")) {
        let test = line.split('`').nth(1).unwrap_or_else(|| panic!("names no test: {line}"));
        assert!(scenarios.contains(&format!("test_go_scenarios.{test}")), "{line} names a test which does not exist");
    }
    let mut seen = Vec::new();
    for line in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| id ")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [id, go, shown_by, ours] = cells[..] else { panic!("not four columns: {line}") };
        assert!(!go.is_empty() && !ours.is_empty(), "{id} has an empty column");
        let named: Vec<&str> = line.split('`').filter(|word| word.starts_with("test_")).collect();
        for test in &named {
            assert!(scenarios.contains(*test), "{id} names {test}, which does not exist");
        }
        assert!(shown_by.contains("`test_") || ours.contains("api.md"), "{id} names neither a test nor api.md");
        seen.push(id.to_owned());
    }
    assert_eq!(seen, parity_ids(), "the ids, in order");
}
