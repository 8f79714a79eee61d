//! What shells complete behind the name of the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::desk::Desk;
use crate::support::{output, project};
use crate::terminal::Terminal;

fn file(name: &str) -> PathBuf {
    project("tools/udsipccat/completions").join(name)
}

/// The options of a text: what follows a blank, a quote or a bracket, and begins with one or two dashes.
fn options(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    let is_long = |word: &str| word.starts_with("--") && word.len() > 3;
    let is_letter = |word: &str| word.len() == 2 && word.starts_with('-') && word != "--";
    words.filter(|word| is_long(word) || is_letter(word)).map(str::to_owned).collect()
}

/// Those that stand at the beginning of a line of the help.
fn options_of_the_help() -> BTreeSet<String> {
    let help = String::from_utf8(Desk::new().run("--help", "").quietly()).unwrap();
    let lines = help.lines().filter(|line| line.starts_with("  -") || line.starts_with("      --"));
    let found = options(&lines.map(|line| &line[..line.len().min(25)]).collect::<Vec<_>>().join("\n"));
    assert!(found.len() > 25, "{found:?}");
    found
}

#[test]
fn every_shell_knows_the_options_of_the_help() {
    let expected = options_of_the_help();
    let bash = fs::read_to_string(file("udsipccat.bash")).unwrap();
    let words = bash.split("words='").find(|part| part.starts_with("-w ")).unwrap().split('\'').next().unwrap();
    assert_eq!(options(words), expected, "bash");

    let zsh = fs::read_to_string(file("_udsipccat")).unwrap();
    let specifications = zsh.split("_arguments -s -S").nth(1).unwrap();
    // The braces have the spellings of an option; in the brackets behind them is text.
    let spellings: String = specifications.lines().map(|line| line.split('[').next().unwrap()).collect();
    assert_eq!(options(&spellings.replace('+', " ")), expected, "zsh");

    let fish = fs::read_to_string(file("udsipccat.fish")).unwrap();
    let mut found = BTreeSet::new();
    for line in fish.lines().filter(|line| line.starts_with("complete ")) {
        let words: Vec<_> = line.split(' ').collect();
        for pair in words.windows(2) {
            match pair[0] {
                "-s" => found.insert(format!("-{}", pair[1])),
                "-l" => found.insert(format!("--{}", pair[1])),
                _ => false,
            };
        }
    }
    assert_eq!(found, expected, "fish");
}

#[test]
fn every_shell_knows_the_words() {
    for name in ["udsipccat.bash", "_udsipccat", "udsipccat.fish"] {
        let text = fs::read_to_string(file(name)).unwrap();
        for words in ["lines null raw frames hex json none", "auto always never"] {
            assert!(text.contains(words), "{name}: {words}");
        }
    }
}

/// A person who presses the tabulator in bash.
#[test]
fn bash_completes() {
    let desk = Desk::new();
    desk.write("a file", "");
    fs::copy(file("udsipccat.bash"), desk.path("completion")).unwrap();
    let mut bash = Command::new("bash");
    bash.args(["--norc", "--noprofile", "-i"]).env("PS1", "$ ").env("TERM", "xterm").env("HISTFILE", "/dev/null");
    bash.env_remove("PROMPT_COMMAND");
    let mut terminal = Terminal::start_command(&desk, bash);
    terminal.wait_for("a prompt", |screen| screen.trim_end() == "$");
    // rexpect has turned the echo off, and bash shows what is typed only if it is on.
    terminal.press("stty echo; source ./completion; clear; echo ready\n");
    terminal.wait_for("the next prompt", |screen| screen.trim_end() == "ready\n$");
    for (typed, completed) in [
        ("--rec\tx", "--record=x"),
        ("--form\tj\tx", "--format=json x"),
        ("--format=n\tu\tx", "--format=null x"),
        ("-f fr\tx", "-f frames x"),
        ("--acknowledge al\tx", "--acknowledge always x"),
        ("--sta\tx", "--stat x"),
        ("--replay=a\tx", r"--replay=a\ file x"),
        ("-w s a\tx", r"-w s a\ file x"),
    ] {
        terminal.press(&format!("udsipccat {typed}"));
        let line = format!("$ udsipccat {completed}");
        terminal.wait_for(&line, |screen| screen.ends_with(&line));
        terminal.control('u');
    }
    terminal.press("exit\n");
    assert_eq!(terminal.end().0, Some(0));
}

/// The other shells, where they are installed.
#[test]
fn fish_and_zsh_take_the_files() {
    let there = |shell: &str| Command::new(shell).arg("--version").output().is_ok();
    if there("fish") {
        let line = format!("source {}; complete -C 'udsipccat --format='", file("udsipccat.fish").display());
        let offered = output(Command::new("fish").args(["--no-config", "-c", &line]));
        assert!(offered.contains("--format=json") && offered.contains("--format=frames"), "{offered}");
    }
    if there("zsh") {
        output(Command::new("zsh").arg("-fn").arg(file("_udsipccat")));
    }
}
