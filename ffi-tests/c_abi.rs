//! The C ABI, from C and C++: one test per scenario of the programs in `ffi-tests/c`.
//!
//! Each scenario runs in a process and a folder of its own. It must end in time, succeed, and print nothing: the
//! library promises to be silent, and a program that is content has nothing to say.

#[path = "support/harness.rs"]
mod harness;
#[path = "sanitizers/proof.rs"]
mod proof;
mod support;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed};

fn silent(_scenario: &str, printed: &str) -> Result<(), Failed> {
    if printed.is_empty() { Ok(()) } else { Err(format!("it printed something:\n{printed}").into()) }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut tests = harness::programs_in("ffi-tests/c", &arguments, silent);
    // For `make sanitize`: without a checker there is nothing that could report a flaw.
    tests.push(harness::test("proof::every_flaw_is_reported", proof::every_flaw_is_reported).with_ignored_flag(true));
    harness::run(&arguments, tests)
}
