//! What gcc and clang say to programs that include the headers, in every standard of C and C++.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{PATIENCE, link_dir, output, project, run_ok, tempdir};

const WARNINGS: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];
const C: Language = Language { compilers: ["gcc", "clang"], extension: "c", standards: &["c99", "c11", "c17", "c2x"] };
const CPP: Language = Language {
    compilers: ["g++", "clang++"],
    extension: "cpp",
    standards: &["c++11", "c++14", "c++17", "c++20", "c++2b"],
};

struct Language {
    compilers: [&'static str; 2],
    extension: &'static str,
    /// By the names that the oldest compilers know.
    standards: &'static [&'static str],
}

/// A source and the options that it is compiled with.
struct Source<'a> {
    language: &'a Language,
    text: &'a str,
    options: &'a [&'a str],
}

impl Source<'_> {
    fn command(&self, compiler: &str, standard: &str, scratch: &tempfile::TempDir) -> Command {
        let source = scratch.path().join(format!("source.{}", self.language.extension));
        fs::write(&source, self.text).expect("a source file");
        let mut command = Command::new(compiler);
        command.arg(format!("-std={standard}")).args(WARNINGS).args(self.options).arg("-I").arg(project("include"));
        // gcc looks for ignored results after the syntax. It removes its output when it fails, so that must not be /dev/null.
        command.arg("-c").arg(source).arg("-o").arg(scratch.path().join("object")).env("LC_ALL", "C");
        command
    }

    fn assert_compiles(&self) {
        self.assert_compiles_in(self.language.standards);
    }

    fn assert_compiles_in(&self, standards: &[&str]) {
        let scratch = tempdir();
        for (compiler, standard) in pairs(self.language, standards) {
            output(&mut self.command(compiler, standard, &scratch));
        }
    }

    /// It does not compile, and the compiler says one of these. Returns all that the compilers have said.
    fn assert_refused_in(&self, standards: &[&str], saying: &[&str]) -> Vec<String> {
        let scratch = tempdir();
        let mut all = Vec::new();
        for (compiler, standard) in pairs(self.language, standards) {
            let done = self.command(compiler, standard, &scratch).output().expect(compiler);
            let said = String::from_utf8_lossy(&done.stderr);
            let text = self.text;
            assert!(!done.status.success(), "{compiler} -std={standard} takes this:\n{text}");
            assert!(saying.iter().any(|one| said.contains(one)), "{compiler} -std={standard}:\n{said}\nabout:\n{text}");
            all.push(said.into_owned());
        }
        all
    }
}

fn pairs<'a>(language: &Language, standards: &'a [&'a str]) -> impl Iterator<Item = (&'static str, &'a str)> {
    let compilers = language.compilers;
    standards.iter().flat_map(move |standard| compilers.map(|compiler| (compiler, *standard)))
}

/// The header comes first, and once more: it stands alone and guards itself.
fn only(header: &str) -> String {
    format!("#include \"{header}\"\n#include \"{header}\"\nint main(void) {{ return 0; }}\n")
}

#[test]
fn the_c_header_is_c() {
    let options = &["-Wstrict-prototypes", "-Wmissing-prototypes", "-Wconversion"];
    Source { language: &C, text: &only("udsipc.h"), options }.assert_compiles();
}

#[test]
fn the_c_header_is_cpp() {
    Source { language: &CPP, text: &only("udsipc.h"), options: &["-Wconversion"] }.assert_compiles();
}

/// `calls` in a function that has a writer and a reader.
fn calls(calls: &str) -> String {
    format!(
        "#include <udsipc.h>\n\
         void calls(udsipc_writer *writer, udsipc_reader *reader, udsipc_reader_options *options);\n\
         void calls(udsipc_writer *writer, udsipc_reader *reader, udsipc_reader_options *options) {{\n\
         {calls}\n udsipc_reader_options_free(options); udsipc_reader_free(reader); udsipc_writer_free(writer); }}\n"
    )
}

#[test]
fn a_marked_result_cannot_be_ignored() {
    let ignored = [
        "udsipc_write_message(writer, \"x\", 1);",
        "udsipc_writer_start(writer);",
        "udsipc_writer_options_new();",
        "udsipc_reader_options_allow_uid(options, 0);",
        "udsipc_reader_start(reader);",
    ];
    let saying = &["ignoring return"];
    for language in [&C, &CPP] {
        for call in ignored {
            Source { language, text: &calls(call), options: &[] }.assert_refused_in(language.standards, saying);
        }
    }
}

/// A program may ignore these, has a way to ignore the others on purpose, and can turn the marks off.
#[test]
fn what_is_not_marked_can_be_ignored() {
    let harmless = "udsipc_writer_stop(writer, 0); udsipc_reader_stop(reader, 0); udsipc_writer_dispatch(writer, 0);\n\
                    udsipc_reader_options_set_linger_ms(options, 0); if (udsipc_writer_start(writer)) {}";
    let careless = "udsipc_writer_start(writer);";
    for language in [&C, &CPP] {
        Source { language, text: &calls(harmless), options: &[] }.assert_compiles();
        Source { language, text: &calls(careless), options: &["-DUDSIPC_NODISCARD="] }.assert_compiles();
    }
}

// ---- the C++ header ----

const STRICT: [&str; 4] = ["-Wshadow", "-Wconversion", "-Wsign-conversion", "-Wold-style-cast"];

#[test]
fn the_cpp_header_compiles_in_every_mode() {
    for mode in [&[][..], &["-fno-exceptions", "-fno-rtti"]] {
        let options = &[&STRICT[..], mode].concat();
        Source { language: &CPP, text: &only("udsipc.hpp"), options }.assert_compiles();
    }
}

fn including(path: &str) -> String {
    format!("#include \"{}\"\n", project(path).display())
}

/// `c_abi` runs these in one standard.
#[test]
fn its_tests_compile_in_every_standard() {
    Source { language: &CPP, text: &including("ffi-tests/c/header_forms.cpp"), options: &["-fsyntax-only"] }
        .assert_compiles();
    let newest = &["c++20", "c++2b"];
    Source { language: &CPP, text: &including("ffi-tests/c/header_cpp20.cpp"), options: &["-fsyntax-only"] }
        .assert_compiles_in(newest);
}

/// The pieces of code in the comment at the top: indented lines, which a line of text ends.
fn examples_of_the_cpp_header() -> Vec<String> {
    let header = fs::read_to_string(project("include/udsipc.hpp")).expect("include/udsipc.hpp");
    let (comment, _) = header.split_once("*/").expect("the comment at the top");
    let mut examples = vec![String::new()];
    for line in comment.lines() {
        let last = examples.last_mut().expect("there is one");
        match line.strip_prefix(" *     ") {
            Some(code) => *last += &format!("{code}\n"),
            None if line != " *" && !last.is_empty() => examples.push(String::new()),
            None => {}
        }
    }
    examples.pop();
    examples
}

#[test]
fn the_examples_of_the_cpp_header_compile() {
    let headers = "#include <iostream>\n#include <span>\n#include <vector>\n#include <udsipc.hpp>\n";
    let examples = examples_of_the_cpp_header();
    assert_eq!(examples.len(), 5, "{examples:?}");
    for code in examples {
        let text = format!("{headers}using namespace std::literals;\nint main()\n{{\n{code}}}\n");
        Source { language: &CPP, text: &text, options: &[] }.assert_compiles_in(&["c++20"]);
    }
}

/// Macros of the system, of curses, of X and of Qt, which a program may have included before.
#[test]
fn the_cpp_header_survives_the_macros_of_others() {
    let headers = [
        "array",
        "chrono",
        "cstring",
        "iterator",
        "memory",
        "ratio",
        "span",
        "stdexcept",
        "string",
        "sys/sysmacros.h",
        "system_error",
    ]
    .map(|name| format!("#include <{name}>\n"));
    let macros = [
        "min(a, b) a",
        "max(a, b) a",
        "major(x) x",
        "minor(x) x",
        "minor x",
        "timeout(x) x",
        "forever for(;;)",
        "foreach for",
        "signals public",
        "slots",
        "emit",
        "None 0L",
        "Bool int",
        "Status int",
        "Success 0",
        "True 1",
        "Always 2",
        "Byte int",
        "Complex 1",
        "ERROR 0",
        "interface struct",
        "small char",
        "F(x) x",
    ];
    let macros = macros.map(|macro_| {
        let name = macro_.split([' ', '(']).next().expect("a name");
        format!("#undef {name}\n#define {macro_}\n")
    });
    let text = format!("{}{}{}", headers.concat(), macros.concat(), only("udsipc.hpp"));
    Source { language: &CPP, text: &text, options: &[] }.assert_compiles_in(&["c++20"]);
}

/// A program has functions of the same names, which the compiler finds through the global `udsipc_status`.
#[test]
fn the_cpp_header_survives_the_functions_of_others() {
    let others = "#include <udsipc.h>\n#include <type_traits>\nvoid check(udsipc_status status);\n\
                  template <typename T> void check(T);\n\
                  struct callable { void operator()(udsipc_status, int, const char *) const {} };\n\
                  template <typename T> bool is_empty(const callable &, T);\n";
    let uses = "writer.write(\"x\", 1); writer.write_many(std::vector<std::string>(1)) > 0 ? void() : void();\n\
                options.on_error(callable()); reader.start();";
    Source { language: &CPP, text: &(others.to_owned() + &statements([uses])), options: &[] }.assert_compiles();
}

/// What the headers leave behind: their guards, and what udsipc.h documents.
#[test]
fn the_headers_leave_no_macros_behind() {
    let scratch = tempdir();
    let source = scratch.path().join("only.cpp");
    fs::write(&source, only("udsipc.hpp")).expect("a source file");
    let defined =
        output(Command::new("g++").args(["-std=c++20", "-dM", "-E", "-I"]).arg(project("include")).arg(source));
    let ours = defined.lines().filter_map(|line| line.strip_prefix("#define ")?.split([' ', '(']).next());
    let mut ours: Vec<&str> = ours.filter(|name| name.to_ascii_lowercase().contains("udsipc")).collect();
    ours.sort_unstable();
    let version = ["MAJOR", "MINOR", "NUMBER", "PATCH", "STRING"].map(|part| format!("UDSIPC_VERSION_{part}"));
    let mut expected = vec!["UDSIPC_H", "UDSIPC_HPP", "UDSIPC_NODISCARD"];
    expected.extend(version.iter().map(String::as_str));
    expected.push("UDSIPC_WAIT_FOREVER");
    assert_eq!(ours, expected);
}

/// Each of the statements on a line of its own, from `FIRST_LINE` on, in functions that have objects.
fn statements<'a>(statements: impl IntoIterator<Item = &'a str>) -> String {
    let objects = "udsipc::writer &writer, udsipc::reader &reader, udsipc::writer_options &options";
    let mut text = "#include <array>\n#include <string>\n#include <vector>\n#include <udsipc.hpp>\n".to_owned();
    for (number, statement) in statements.into_iter().enumerate() {
        text += &format!("void f{number}({objects}) {{ (void)writer, (void)reader, (void)options; {statement} }}\n");
    }
    text
}

const FIRST_LINE: usize = 5;

#[test]
fn mistakes_do_not_compile() {
    const DELETED: &[&str] = &["deleted"];
    const NO_MATCH: &[&str] = &["no matching", "cannot convert", "no viable conversion"];
    let mistakes: [(&str, &[&str]); 12] = [
        ("writer.stop(0.5);", DELETED),
        ("writer.write(std::string(), 1.5f);", DELETED),
        ("writer.write(\"text\", 1.5);", DELETED),
        ("options.linger(0.5);", DELETED),
        ("options.linger_ms(0.5);", DELETED),
        ("reader.stop(std::chrono::duration<double>(1));", DELETED),
        ("writer.stop(true);", NO_MATCH),
        ("udsipc::writer copy(writer);", DELETED),
        ("udsipc::writer_options copy = options;", DELETED),
        ("writer.write(std::vector<int>(3));", NO_MATCH),
        ("const char *texts[2] = {}; writer.write(texts, 2);", NO_MATCH),
        ("udsipc_buffer messages[2] = {}; writer.write(messages, 2);", NO_MATCH),
    ];
    assert_each_refused(&mistakes, &[]);
}

#[test]
fn results_of_the_cpp_header_cannot_be_ignored() {
    let ignored = [
        "writer.try_write(\"text\");",
        "writer.write_many({\"one\", \"two\"});",
        "udsipc::reader::batched(\"path\", nullptr);",
    ];
    assert_each_refused(&ignored.map(|statement| (statement, &["ignoring return"][..])), &[]);
    let harmless = "writer.try_stop(0); reader.try_stop(0); writer.try_dispatch(); options.max_attempts(1);";
    Source { language: &CPP, text: &statements([harmless]), options: &[] }.assert_compiles();
}

#[test]
fn without_exceptions_nothing_throws() {
    let missing = &["no member named", "has no member", "no matching"][..];
    let throwing = ["writer.write(\"x\");", "writer.start();", "reader.stop(0);", "udsipc::writer other(\"path\");"];
    assert_each_refused(&throwing.map(|statement| (statement, missing)), &["-fno-exceptions"]);
    let no_throw = "static_assert(noexcept(writer.try_write(\"x\", 1)) && noexcept(options.status()), \"\");";
    Source { language: &CPP, text: &statements([no_throw]), options: &["-fno-exceptions"] }.assert_compiles();
}

/// About each line the compiler says one of the texts that belong to it.
fn assert_each_refused(mistakes: &[(&str, &[&str])], options: &[&str]) {
    let scratch = tempdir();
    let text = &statements(mistakes.iter().map(|(statement, _)| *statement));
    for (compiler, standard) in pairs(&CPP, &["c++17"]) {
        let source = Source { language: &CPP, text, options };
        let done = source.command(compiler, standard, &scratch).output().expect(compiler);
        let said = String::from_utf8_lossy(&done.stderr);
        for (number, (statement, saying)) in mistakes.iter().enumerate() {
            let place = format!("source.cpp:{}:", number + FIRST_LINE);
            let mut about = said.lines().filter(|line| line.contains(&place) && line.contains("error:"));
            let found = about.any(|line| saying.iter().any(|one| line.contains(one)));
            assert!(found, "{compiler} does not say one of {saying:?} about\n{statement}\nbut\n{said}");
        }
    }
}

#[test]
fn callables_of_no_form_get_one_clear_error() {
    let mistakes = [
        ("udsipc::message_callback([](int) {});", "a message callback takes (message)"),
        ("udsipc::message_callback([](udsipc::view &) {});", "a message callback takes (message)"),
        ("udsipc::message_callback([](udsipc::view) { return 1; });", "a message callback returns void"),
        ("udsipc::batch_callback([](std::string) {});", "a batch callback takes (messages)"),
        ("udsipc::batch_callback([](udsipc::batch) { return true; });", "a batch callback returns void"),
        ("udsipc::error_callback([](udsipc::view) {});", "an error callback takes (udsipc_status"),
    ];
    for (mistake, saying) in mistakes {
        let said = Source { language: &CPP, text: &statements([mistake]), options: &[] }
            .assert_refused_in(&["c++17"], &[saying]);
        for said in said {
            assert_eq!(said.matches(" error: ").count(), 1, "{said}");
        }
    }
}

fn object(compiler: &str, options: &[&str], source: &str, scratch: &Path) -> PathBuf {
    let object = scratch.join(source).with_extension("o");
    let mut command = Command::new(compiler);
    // Unoptimised: then inline functions are real ones, of which the linker keeps the first.
    command.args(WARNINGS).args(["-O0", "-g", "-pthread", "-c", "-I"]).arg(project("include")).args(options);
    output(command.arg(project("ffi-tests/header").join(source)).arg("-o").arg(&object));
    object
}

fn link(compiler: &str, scratch: &Path, name: &str, what: &[&str]) -> PathBuf {
    let program = scratch.join(name);
    let lib = link_dir();
    let mut command = Command::new(compiler);
    command.current_dir(scratch).args(["-pthread", "-o"]).arg(&program).args(what).arg("-L").arg(&lib).arg("-ludsipc");
    output(command.arg(format!("-Wl,-rpath,{},-rpath,{}", lib.display(), scratch.display())));
    program
}

/// Files of different standards, with exceptions and without, exchange objects in one program: in one executable, where the
/// linker takes the first copy of each inline function, and with a shared object that hides what it can.
#[test]
fn modes_are_one_program() {
    const BARE: [&str; 3] = ["-std=c++17", "-fno-exceptions", "-fno-rtti"];
    for (main, other) in [("g++", "clang++"), ("clang++", "g++")] {
        let scratch = tempdir();
        let scratch = scratch.path();
        object(main, &["-std=c++11"], "main.cpp", scratch);
        object(other, &["-std=c++20"], "newer.cpp", scratch);
        object(other, &BARE, "bare.cpp", scratch);
        let programs = [
            link(main, scratch, "bare_first", &["bare.o", "newer.o", "main.o"]),
            link(main, scratch, "main_first", &["main.o", "newer.o", "bare.o"]),
            {
                object(other, &[&BARE[..], &["-fPIC", "-fvisibility=hidden"]].concat(), "bare.cpp", scratch);
                link(other, scratch, "libbare.so", &["-shared", "bare.o"]);
                link(main, scratch, "with_plugin", &["newer.o", "main.o", "-rdynamic", "-L.", "-lbare"])
            },
        ];
        for program in programs {
            run_ok(Command::new(program).current_dir(scratch), PATIENCE);
        }
    }
}
