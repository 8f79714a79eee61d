//! The manual pages: they are what the header says, every function opens one, their programs work, and no reader of manual
//! pages finds fault with them.

#![allow(clippy::print_stdout)] // a test that is skipped says why

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::{PATIENCE, build_dir, compile, library, manual_pages, output, project, run, run_ok, tempdir, wait_until};

/// The pages that lie in `packaging/man`, without the links to them.
fn pages() -> BTreeSet<PathBuf> {
    manual_pages().into_values().collect()
}

/// What a page looks like on a terminal of 80 columns.
fn shown(page: &Path) -> String {
    let mut text = String::new();
    for c in output(Command::new("mandoc").args(["-T", "ascii", "-O", "width=78"]).arg(page)).chars() {
        if c == '\u{8}' {
            text.pop(); // bold and underlined characters are struck twice
        } else {
            text.push(c);
        }
    }
    text
}

// ---- tools/man.py

/// What the generator reads, with its results, in a folder that a test may change.
struct Sources(tempfile::TempDir);

impl Sources {
    fn new() -> Sources {
        let folder = tempdir();
        for directory in ["include", "packaging/man"] {
            fs::create_dir_all(folder.path().join(directory)).expect("a folder");
        }
        let pages = fs::read_dir(project("packaging/man")).expect("the pages").map(|entry| entry.expect("an entry"));
        let pages = pages.map(|page| format!("packaging/man/{}", page.file_name().to_str().expect("a name in ASCII")));
        for file in pages.chain(["include/udsipc.h", "CHANGELOG.md"].map(str::to_owned)) {
            fs::copy(project(&file), folder.path().join(&file)).unwrap_or_else(|e| panic!("copy {file}: {e}"));
        }
        Sources(folder)
    }

    fn replace(self, file: &str, old: &str, new: &str) -> Sources {
        let path = self.0.path().join(file);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {file}: {e}"));
        assert!(text.contains(old), "{file} has no {old:?}");
        fs::write(path, text.replace(old, new)).unwrap_or_else(|e| panic!("write {file}: {e}"));
        self
    }

    fn generator(&self) -> Command {
        let mut command = Command::new(support::python3().expect("python3"));
        command.arg("-B").arg(project("tools/man.py")).arg(self.0.path());
        command
    }

    /// Writes the pages and returns one of them.
    fn generate(&self, page: &str) -> String {
        run_ok(&mut self.generator(), PATIENCE);
        fs::read_to_string(self.0.path().join("packaging/man").join(page))
            .unwrap_or_else(|e| panic!("read {page}: {e}"))
    }

    /// The generator must refuse this, and say why.
    fn assert_refused(&self, arguments: &[&str], reason: &str) {
        let done = run(self.generator().args(arguments), PATIENCE);
        assert!(!done.status.success(), "{}", done.output);
        assert!(done.output.contains(reason), "{}", done.output);
    }
}

#[test]
fn the_committed_pages_are_what_the_header_says() {
    run_ok(Sources::new().generator().arg("--check"), PATIENCE);
    let changed =
        Sources::new().replace("include/udsipc.h", "Puts a message into the queue", "Puts a message anywhere");
    changed.assert_refused(&["--check"], "udsipc_writer.3 in packaging/man. Run make man");
    assert!(changed.generate("udsipc_writer.3").contains("\nPuts a message anywhere;"));
    run_ok(changed.generator().arg("--check"), PATIENCE);
}

#[test]
fn a_page_has_the_version_of_the_header_and_the_date_of_its_release() {
    let version = env!("CARGO_PKG_VERSION");
    let os = format!("\n.Os libudsipc {version}\n");
    assert!(Sources::new().generate("udsipc.3").contains(&os));
    let heading = format!("## [Unreleased]\n\n## [{version}] - 2031-02-03\n");
    let released = Sources::new().replace("CHANGELOG.md", "## [Unreleased]\n", &heading).generate("udsipc.3");
    assert!(released.contains(".Dd February 3, 2031\n") && released.contains(&os), "{released}");
}

#[test]
fn every_part_of_the_header_must_have_its_page() {
    let title = " * Writer\n * ------\n";
    let group = Sources::new().replace("include/udsipc.h", title, " * Sender\n * ------\n");
    group.assert_refused(&[], "the groups of the header are");
    let omitted =
        Sources::new().replace("packaging/man/udsipc_options.3.in", "@omit Threads: any.", "@omit Threads: none.");
    omitted.assert_refused(&[], "udsipc_options.3.in omits what the header does not say: ['Threads: none.']");
    let directive = Sources::new().replace("packaging/man/udsipc.3.in", "@chapters", "@chapters\n@chapterz");
    directive.assert_refused(&[], "'@chapterz' is no directive");
}

/// A comment of the header is text: nothing in it is a macro or an escape of the page's language.
#[test]
fn texts_of_the_header_are_shown_as_they_are() {
    let text =
        r#".Sh at its beginning, 'quoted', a \ and \fB, ~ ^ `queue_depth` "(fork(2))", -lname, UDSIPC_OK's. e.g. Nm"#;
    let folder = Sources::new().replace("include/udsipc.h", "A short text for a status.", text);
    folder.generate("udsipc.3");
    let page = shown(&folder.0.path().join("packaging/man/udsipc.3"));
    let words = page.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains(&format!("udsipc_strerror {}", text.replace('`', ""))), "{page}");
}

/// The header marks functions by macros, in front of a declaration or behind it.
#[test]
fn a_macro_at_a_declaration_is_not_shown() {
    let before = "UDSIPC_NODISCARD\nUDSIPC_SINCE(0, 2)\nudsipc_status udsipc_writer_start(";
    let marked = Sources::new()
        .replace("include/udsipc.h", "udsipc_status udsipc_writer_start(", before)
        .replace(
            "include/udsipc.h",
            "udsipc_writer_flush(udsipc_writer *writer,\n",
            "udsipc_writer_flush(udsipc_writer *writer, ",
        )
        .replace(
            "include/udsipc.h",
            "const char *udsipc_version(void);",
            "const char *udsipc_version(void) UDSIPC_PURE;",
        );
    for page in ["udsipc.3", "udsipc_writer.3"] {
        assert_eq!(marked.generate(page), Sources::new().generate(page));
    }
}

// ---- The pages

#[test]
fn mandoc_and_groff_find_no_fault() {
    for page in pages() {
        let lint = run(Command::new("mandoc").args(["-T", "lint", "-W", "style"]).arg(&page), PATIENCE);
        // What other packages install is not known here.
        let is_fault =
            |line: &&str| !line.contains("referenced manual not found") && !line.contains("outdated mandoc.db");
        let faults: Vec<&str> = lint.output.lines().filter(is_fault).collect();
        assert!(faults.is_empty(), "{faults:#?}");
        if let Some(mut man) = man_db() {
            man.args(["--warnings", "-E", "UTF-8", "-l"]).arg(&page).stdout(Stdio::null());
            let done = man.output().expect("man");
            assert!(done.status.success() && done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
        }
    }
}

#[test]
fn a_page_fits_into_80_columns() {
    for page in pages() {
        for line in shown(&page).lines().filter(|line| line.chars().count() > 80) {
            // mandoc does not break a line behind the name of a function.
            assert!(line.starts_with("     udsipc_") && line.ends_with(" *options,"), "{}: {line}", page.display());
        }
    }
}

/// The page that is written by hand names what the header and the sources name.
#[test]
fn what_the_pages_refer_to_exists() {
    let header = fs::read_to_string(project("include/udsipc.h")).expect("the header");
    let words: BTreeSet<&str> = header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').collect();
    let options = words.iter().filter_map(|word| word.strip_prefix("udsipc_")?.split_once("_options_"));
    let options: BTreeSet<&str> = options.map(|(_, setter)| setter.trim_start_matches("set_")).collect();
    let is_known = |name: &str| {
        let in_time = format!("{name}_ms");
        words.contains(name) || options.contains(name) || options.contains(in_time.as_str())
    };
    let installed = manual_pages();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap_or_else(|e| panic!("read {}: {e}", page.display()));
        let words: Vec<&str> = text.split_whitespace().collect();
        for pair in words.windows(3) {
            let what = format!("{}: {pair:?}", page.display());
            match *pair {
                [".Xr" | "Xr", name, section] if name.starts_with("udsipc") => {
                    assert!(installed.contains_key(&format!("man{section}/{name}.{section}")), "{what}");
                }
                [".Dv" | "Dv", name, _] if name.starts_with("UDSIPC_") => assert!(is_known(name), "{what}"),
                [".Va" | "Va", name, _] if page.ends_with("udsipc.7") => assert!(is_known(name), "{what}"),
                _ => {}
            }
        }
    }
    let options = fs::read_to_string(project("tools/udsipccat/options.c")).expect("the options of udsipccat");
    let options: Vec<&str> = options.split("\n    {\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(options.len() > 15, "{options:?}");
    let documented = shown(&project("packaging/man/udsipccat.1"));
    for option in options {
        assert!(documented.contains(&format!("--{option}")), "udsipccat(1) does not name --{option}");
    }
    let variables = fs::read_to_string(project("src/systemd/mod.rs")).expect("src/systemd");
    let variables = variables.split("get(\"").skip(1).filter_map(|rest| rest.split('"').next());
    let documented = fs::read_to_string(project("packaging/man/udsipc.7")).expect("the page");
    let documented = documented.lines().filter_map(|line| line.strip_prefix(".It Ev "));
    assert_eq!(documented.collect::<BTreeSet<_>>(), variables.collect::<BTreeSet<_>>());
}

/// The line of whatis(1) and apropos(1).
#[test]
fn every_name_has_its_line_in_the_index() {
    if Command::new("lexgrog").arg("--version").output().is_err() {
        println!("skipped: no lexgrog. Install man-db");
        return;
    }
    let mut names: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    for (name, page) in manual_pages() {
        let name = Path::new(&name).file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
        names.entry(page).or_default().insert(name);
    }
    for (page, names) in names {
        let index = output(Command::new("lexgrog").arg(&page));
        let found = index.lines().filter_map(|line| line.split_once(": \"")?.1.split_once(" - "));
        let found: BTreeSet<String> =
            found.filter(|(_, text)| text.len() > 10).map(|(name, _)| name.to_owned()).collect();
        assert_eq!(found, names, "{index}");
    }
}

/// man(1) of man-db, which Debian uses. Images for containers have a script in its place that shows nothing.
fn man_db() -> Option<Command> {
    let version = Command::new("man").arg("--version").output().ok()?;
    let mut man = Command::new("man");
    man.env("LC_ALL", "C.UTF-8").env("MANWIDTH", "80").env_remove("MANOPT").env_remove("MANPATH");
    version.stdout.starts_with(b"man ").then_some(man)
}

/// man(1) of mandoc, which Debian calls mman.
fn man_of_mandoc() -> Option<Command> {
    let is_there = |name: &str| Command::new(name).arg("-h").output().is_ok();
    match man_db() {
        _ if is_there("mman") => Some(Command::new("mman")),
        None if is_there("man") => Some(Command::new("man")),
        _ => None,
    }
}

#[test]
fn every_exported_function_opens_its_page() {
    let prefix = tempdir();
    let mut make = Command::new("make");
    for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DESTDIR", "MANDIR"] {
        make.env_remove(name);
    }
    make.arg("-C").arg(project("")).args(["install-man", &format!("PREFIX={}", prefix.path().display())]);
    run_ok(&mut make, PATIENCE);
    let installed = prefix.path().join("share/man");
    let page = |name: &str| {
        fs::canonicalize(installed.join(format!("man3/{name}.3"))).unwrap_or_else(|e| panic!("{name}: {e}"))
    };

    let exported = output(Command::new("nm").args(["-D", "--defined-only"]).arg(library()));
    let exported = exported.lines().filter_map(|line| line.rsplit(' ').next()?.split('@').next());
    let exported: Vec<&str> = exported.filter(|name| name.starts_with("udsipc_")).collect();
    assert!(exported.len() > 70, "{exported:?}");
    for name in &exported {
        // The declaration and a description of its own.
        let text = fs::read_to_string(page(name)).expect("the page");
        let declared = format!("\n.Fo {name}");
        assert!(text.split(&declared).skip(1).any(|rest| rest.starts_with(['\n', '\\'])), "{name} is not declared");
        assert!(text.contains(&format!("\n.Ss {name}\n")), "{name} is not described");
    }
    let readers: Vec<Command> = man_db().into_iter().chain(man_of_mandoc()).collect();
    assert!(!readers.is_empty(), "no man: apt-get install man-db");
    for mut man in readers {
        man.arg("-M").arg(&installed);
        let shown = output(man.arg("udsipc_writer_flush"));
        assert!(shown.contains("UDSIPC_WRITER(3)"), "{man:?}: {shown}");
    }
    if let Some(mut man) = man_db() {
        let found = output(man.arg("-M").arg(&installed).arg("-w").args(&exported));
        assert_eq!(found.lines().map(fs::canonicalize).filter_map(Result::ok).count(), exported.len(), "{found}");
        let found = output(man_db().expect("man").arg("-M").arg(&installed).args(["-w", "udsipc"]));
        assert!(found.trim().ends_with("man3/udsipc.3"), "man udsipc opens {found}");
    }
}

// ---- The programs in the pages

/// The program below EXAMPLES, as it is shown, written to a file.
fn program(page: &str) -> PathBuf {
    let shown = shown(&project(&format!("packaging/man/{page}.3")));
    let examples = shown.split("\nEXAMPLES\n").nth(1).expect("a section EXAMPLES");
    let code = examples.lines().skip_while(|line| !line.starts_with("           #"));
    let mut lines: Vec<&str> = Vec::new();
    for line in code.map(|line| line.strip_prefix("           ").unwrap_or(line.trim())) {
        lines.push(line);
        // The first function that ends is one before main, the last line is the end of main.
        if line == "}" && lines.iter().any(|line| line.starts_with("int main(")) {
            break;
        }
    }
    let folder = build_dir().join("man");
    fs::create_dir_all(&folder).expect("a folder for the programs");
    let (file, fresh) = (folder.join(format!("{page}.c")), tempfile::NamedTempFile::new_in(&folder).expect("a file"));
    fs::write(fresh.path(), lines.join("\n") + "\n").expect("write the program");
    fresh.persist(&file).expect("rename the program");
    file
}

fn compiled(page: &str) -> PathBuf {
    compile(&program(page), "c11")
}

#[test]
fn the_program_of_udsipc_sends_its_arguments_to_itself() {
    let folder = tempdir();
    let mut command = Command::new(compiled("udsipc"));
    let printed = run_ok(command.arg(folder.path().join("socket")).args(["first", "second"]), PATIENCE);
    assert_eq!(printed, "first\nsecond\n");
    let refused = run(Command::new(compiled("udsipc")).args(["~/socket", "first"]), PATIENCE);
    assert!(!refused.status.success() && refused.output.contains("which only a shell takes"), "{}", refused.output);
}

/// Ends with the test, whatever becomes of it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_programs_of_reader_writer_and_options_work_together() {
    let folder = tempdir();
    let socket = folder.path().join("socket");
    let reader = Command::new(compiled("udsipc_reader")).arg(&socket).stdout(Stdio::piped()).spawn();
    let mut reader = Running(reader.expect("start the reader"));
    wait_until(PATIENCE, "the reader listens", || socket.exists());

    let mut input = tempfile::tempfile().expect("a file");
    input.write_all(b"first\nsecond\n").expect("write the lines");
    std::io::Seek::rewind(&mut input).expect("rewind");
    let writer = Command::new(compiled("udsipc_writer")).arg(&socket).stdin(input).output().expect("run the writer");
    assert_eq!(String::from_utf8_lossy(&writer.stdout), "2 sent, 2 acknowledged, 0 given up\n");
    run_ok(Command::new(compiled("udsipc_options")).arg(&socket), PATIENCE);

    assert!(Command::new("kill").args(["-TERM", &reader.0.id().to_string()]).status().expect("kill").success());
    let lines = BufReader::new(reader.0.stdout.take().expect("its output")).lines();
    let lines = lines.collect::<Result<Vec<_>, _>>().expect("its output");
    assert!(reader.0.wait().expect("its end").success());
    let user = output(Command::new("id").arg("-u"));
    assert_eq!(lines, ["first", "second", "hello"].map(|line| format!("user {}: {line}", user.trim())));
}
