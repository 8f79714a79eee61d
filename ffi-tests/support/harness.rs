//! Tests that programs list: a Rust test for each scenario of the C and C++ programs, under the name
//! `program::scenario`. The arguments are those of Rust's own test harness (libtest-mimic).

// Each harness is a crate of its own and uses its own part of this file.
#![allow(dead_code)]
#![allow(clippy::print_stdout)] // a test's output belongs to whoever runs it

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::support::{compile, output, project, scratch_outcome};

/// What becomes of what a scenario has printed, once it has ended well: its name and the text.
pub(crate) type Check = fn(&str, &str) -> Result<(), Failed>;

/// Runs the tests that the arguments select, and gives back the exit status.
pub(crate) fn run(arguments: &Arguments, tests: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(arguments, tests).exit_code()
}

/// A test that fails by a panic, as Rust's own do.
pub(crate) fn test(name: &str, body: fn()) -> Trial {
    Trial::test(name, move || {
        body();
        Ok(())
    })
}

/// A test runs beside others. The second run of one that failed has the machine to itself.
static RUNNING: RwLock<()> = RwLock::new(());

/// Runs a program's scenario. With `UDSIPC_TEST_SECOND_RUN` one in which a check of its own has failed (exit status 1) is run
/// once more, alone, and decides: many scenarios measure times, and CI shares its processors with strangers. The first
/// failure is printed as `flaky`, and is a fault until somebody has shown that it is only a time. A crash, a hang and what a
/// sanitizer reports are final.
pub(crate) fn scenario<T>(name: &str, run: impl Fn() -> Result<T, Failed>) -> Result<T, Failed> {
    let first = {
        let _beside_others = RUNNING.read();
        run()
    };
    let is_check = |why: &Failed| why.message().is_some_and(|text| text.contains(": exit status: 1\n"));
    match first {
        Err(why) if is_check(&why) && std::env::var_os("UDSIPC_TEST_SECOND_RUN").is_some() => {
            let _alone = RUNNING.write();
            println!("flaky: {name}, runs again alone after:\n{}", why.message().unwrap_or_default());
            run()
        }
        first => first,
    }
}

/// One test per scenario of the programs in a folder. A program is any C or C++ source there; it lists its scenarios with
/// `--list`. All of them are compiled first, except those that the filter rules out by their name.
pub(crate) fn programs_in(folder: &str, arguments: &Arguments, check: Check) -> Vec<Trial> {
    let mut sources: Vec<PathBuf> = fs::read_dir(project(folder))
        .unwrap_or_else(|e| panic!("{folder}: {e}"))
        .map(|entry| entry.expect("an entry of the folder").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c" || extension == "cpp"))
        .filter(|path| may_match(arguments, &program_name(path)))
        .collect();
    sources.sort();
    let mut compiled = compile_all(sources);
    compiled.sort_by(|(one, _), (other, _)| one.cmp(other));
    compiled.into_iter().flat_map(|(source, program)| scenarios_of(&source, program, arguments, check)).collect()
}

/// Whether a test of this program can have a name that the filter selects: in `stop::reader`, `stop` is the end of it.
fn may_match(arguments: &Arguments, program: &str) -> bool {
    let filter = arguments.filter.as_deref().and_then(|filter| filter.split_once("::"));
    filter.is_none_or(|(end, _)| program.ends_with(end))
}

fn program_name(source: &Path) -> String {
    source.file_stem().and_then(|stem| stem.to_str()).expect("a source has a name in UTF-8").to_owned()
}

/// A program and its scenarios, or why it could not be built or asked.
type Compiled = Result<(PathBuf, Vec<String>), String>;

fn compile_all(sources: Vec<PathBuf>) -> Vec<(PathBuf, Compiled)> {
    let left = Mutex::new(sources);
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let compiled = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(source) = next() {
                    let result = std::panic::catch_unwind(|| compile_and_list(&source)).map_err(|panic| {
                        panic
                            .downcast_ref::<String>()
                            .map_or_else(|| "a panic without a text".to_owned(), String::clone)
                    });
                    compiled.lock().unwrap_or_else(PoisonError::into_inner).push((source, result));
                }
            });
        }
    });
    compiled.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn compile_and_list(source: &Path) -> (PathBuf, Vec<String>) {
    let is_c = source.extension().is_some_and(|extension| extension == "c");
    let is_cpp20 = program_name(source).ends_with("_cpp20");
    let program = compile(
        source,
        if is_c {
            "c11"
        } else if is_cpp20 {
            "c++20"
        } else {
            "c++11"
        },
    );
    let listed = output(Command::new(&program).arg("--list"));
    let scenarios: Vec<String> = listed.lines().map(str::to_owned).collect();
    assert!(!scenarios.is_empty(), "{} lists no scenarios", program.display());
    (program, scenarios)
}

/// The tests of one program; a program that does not compile is one test that fails. The arguments may have selected a
/// scenario of it, whose name nobody knows now: then that is the end.
fn scenarios_of(source: &Path, compiled: Compiled, arguments: &Arguments, check: Check) -> Vec<Trial> {
    let name = program_name(source);
    let (program, scenarios) = match compiled {
        Ok(compiled) => compiled,
        Err(why) => {
            let failure = Trial::test(format!("{name}::compiles"), || Err(why.into()));
            assert!(!arguments.is_filtered_out(&failure), "{name} does not compile, see above");
            return vec![failure];
        }
    };
    let program: Arc<Path> = program.into();
    let test = |scenario: String| {
        let program = Arc::clone(&program);
        let full_name = format!("{name}::{scenario}");
        Trial::test(full_name.clone(), move || {
            self::scenario(&full_name, || {
                let printed = scratch_outcome(&program, &[&scenario])?;
                check(&scenario, &printed)
            })
        })
    };
    scenarios.into_iter().map(test).collect()
}
