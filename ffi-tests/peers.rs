//! That `make bench-peers` works: a quick run of the library against the raw socket, and a run that is not complete.
//! What is measured here means nothing; that it is measured, counted and printed does.

mod support;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn programs() -> PathBuf {
    support::build_dir().join("peers")
}

/// The driver with a quick run of these peers and figures.
fn driver(out: PathBuf, only: &str) -> Option<Command> {
    let mut command = Command::new(support::python3()?);
    command.arg("-B").arg(support::project("benches/peers/run.py")).arg("--quick").args(["--only", only]);
    command.arg("--library").arg(support::library()).arg("--out").arg(out);
    Some(command)
}

fn driver_or_skip(out: &str, only: &str) -> Option<Command> {
    let command = driver(programs().join(out), only);
    assert!(command.is_some() || std::env::var_os("CI").is_none(), "python3 is missing: install it");
    command
}

#[test]
fn a_quick_bench_prints_figures_ratios_and_targets() {
    let figures = "throughput,sum,latency,enqueue,timed,idle,connections,threads,rest";
    let Some(mut command) = driver_or_skip("quick", &format!("udsipc,batched,raw,{figures}")) else { return };
    let json = support::tempdir();
    command.arg("--json").arg(json.path().join("figures.json"));
    let printed = support::run_ok(&mut command, support::PATIENCE);
    for row in [
        "| figure | unit | libudsipc |",
        "| throughput 16 B | M msg/s |",
        "| throughput 1 MiB | GB/s |",
        "| throughput 1 KiB, every byte read | GB/s |",
        "| CPU of both processes, 1 KiB, every byte read | s per M msg |",
        "| one-way latency p99.9 | us |",
        "| caller's time for an enqueue, 100 B | ns |",
        "| timed writes 100 B | M msg/s |",
        "| memory per idle connection, 100 | B |",
        "| 16 active connections, 1 KiB | GB/s |",
        "| 4 producer threads, 100 B | M msg/s |",
        "| resident memory of an idle writer and reader above an empty program | MiB |",
        "| target | measured | at least | goal | |",
        "targets met",
    ] {
        assert!(printed.contains(row), "no {row:?} in:\n{printed}");
    }
    let written = std::fs::read_to_string(json.path().join("figures.json")).expect("the figures as JSON");
    assert!(written.contains("\"throughput 100 B\""), "{written}");
}

/// A receiver that waits for more messages than were sent must say so and fail.
#[test]
fn a_run_that_is_not_complete_fails() {
    let Some(mut command) = driver_or_skip("incomplete", "udsipc,rest") else { return };
    support::run_ok(&mut command, support::PATIENCE); // builds the programs
    let program = programs().join("incomplete").join("udsipc");
    let folder = support::tempdir();
    let path = format!("path={}", folder.path().join("s").display());

    let mut receiver = Command::new(&program);
    receiver.args(["recv", &path, "size=100", "count=1001", "patience=3"]).stdout(Stdio::piped());
    let mut receiver = receiver.spawn().expect("the receiver starts");
    let mut lines = BufReader::new(receiver.stdout.take().expect("a pipe")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    assert_eq!(line(), "ready");
    let mut sender = Command::new(&program);
    sender.args(["send", &path, "size=100", "count=1000"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut sender = sender.spawn().expect("the sender starts");

    let result = line();
    drop(sender.stdin.take()); // it stays until its input ends
    assert!(sender.wait().expect("the sender ends").success());
    assert!(result.contains("\"complete\": false") && result.contains("\"received\": 1000"), "{result}");
    assert!(!receiver.wait().expect("the receiver ends").success());
}

#[test]
fn an_unknown_figure_is_refused() {
    let Some(mut command) = driver_or_skip("refused", "udsipc,speed") else { return };
    let done = support::run(&mut command, support::PATIENCE);
    assert!(!done.status.success() && done.output.contains("speed is neither a peer nor a figure"), "{}", done.output);
}
