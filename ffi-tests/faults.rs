//! What goes wrong in the field, made to happen: processes that are killed, stopped and starved, hosts and peers that
//! behave badly. One test per scenario of the programs in `ffi-tests/faults`, each in a process and a folder of its own.
//!
//! Each run prints its account, which the programs check while the fault lasts and when it is over:
//! `cargo test --test faults -- --nocapture` shows them.

#![allow(clippy::print_stdout)] // a test's output belongs to whoever runs it

#[path = "support/harness.rs"]
mod harness;
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;

use libtest_mimic::{Arguments, Failed};

use support::{
    Checker, build_dir, checker, compile, compile_with, library, output, project, run_in_scratch, static_library,
};

fn show(scenario: &str, printed: &str) -> Result<(), Failed> {
    println!("{scenario}\n{printed}");
    Ok(())
}

fn quiet(_scenario: &str, _printed: &str) -> Result<(), Failed> {
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let check = if arguments.nocapture { show } else { quiet };
    let mut tests = harness::programs_in("ffi-tests/faults", &arguments, check);
    tests.extend([
        harness::test("dlopen_and_dlclose_in_the_main_thread", || load_and_unload("main")),
        harness::test("dlopen_and_dlclose_in_threads_that_end", || load_and_unload("thread")),
        harness::test("dlclose_when_every_thread_that_used_it_has_ended", || load_and_unload("around")),
        harness::test(
            "a_plugin_with_the_static_library_in_it_is_unloaded_with_its_fork_handlers",
            a_plugin_with_the_static_library_in_it_is_unloaded_with_its_fork_handlers,
        ),
        harness::test("a_short_soak", a_short_soak),
    ]);
    harness::run(&arguments, tests)
}

/// A host that is not linked against the library, so that `dlclose` may really unload it.
fn plugin_host() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| compile_with(&project("ffi-tests/faults/plugin/plugin.c"), "c11", &["-ldl"]))
}

fn load_and_unload(who: &str) {
    let library = library();
    run_in_scratch(plugin_host(), &[library.to_str().expect("a path in UTF-8"), who]);
}

/// The shared object is never unloaded (-z nodelete), but a plugin with the static library in it is: nothing of it may be
/// called after that, neither by fork nor by exit.
fn a_plugin_with_the_static_library_in_it_is_unloaded_with_its_fork_handlers() {
    if checker() != Checker::Nobody {
        return; // a sanitizer keeps what is loaded, and valgrind its symbols
    }
    let folder = build_dir().join("faults");
    std::fs::create_dir_all(&folder).expect("a folder for test programs");
    let plugin = folder.join("libplugin_with_udsipc.so");
    let fresh = plugin.with_extension(std::process::id().to_string());
    let archive = format!("-Wl,--whole-archive,{},--no-whole-archive", static_library().display());
    output(Command::new("cc").args(["-shared", "-o"]).arg(&fresh).args([
        &archive,
        "-lgcc_s",
        "-lpthread",
        "-ldl",
        "-lm",
    ]));
    std::fs::rename(&fresh, &plugin).expect("the same folder");
    for (who, unloaded) in [("main", false), ("thread", false), ("around", true)] {
        let printed = run_in_scratch(plugin_host(), &[plugin.to_str().expect("a path in UTF-8"), who]);
        assert!(!unloaded || printed.contains("the library is gone"), "{printed}");
    }
}

/// A few seconds of what `make soak` does for hours.
fn a_short_soak() {
    let program = compile(&project("ffi-tests/soak/soak.c"), "c11");
    let printed = run_in_scratch(&program, &["0.1"]);
    assert!(printed.contains("account of all writers"), "{printed}");
}
