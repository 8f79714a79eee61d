//! Gives the shared object its soname, and the header its place.
//!
//! With the feature `header` (on by default) cbindgen generates `udsipc.h` from `src/ffi`. The result goes into `OUT_DIR`; a
//! checkout whose `include/udsipc.h` differs gets a copy. Without the feature cbindgen is not built, and `OUT_DIR` gets a copy
//! of the committed header. Only a checkout is written to: the sources of a package or a tarball stay as they are.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

const HEADER: &str = "include/udsipc.h";
const MANUAL: &str = "src/ffi/manual.h";

/// The groups of the header, in its order: what each declares, and the files of `src/ffi` that it is made from.
const GROUPS: [(&str, &[&str]); 8] = [
    ("The library: version, status, errors", &["version", "status", "errors"]),
    ("Types that writers and readers share", &["buffer", "error_callback"]),
    ("Options of a writer", &["writer_options"]),
    ("Writer", &["writer"]),
    ("Options of a reader", &["reader_options"]),
    ("Connection: the sender of a message, inside a message callback", &["connection"]),
    ("Reader", &["message_callback", "reader"]),
    ("Paths and systemd", &["systemd"]),
];

/// Types that no function of their own group mentions: cbindgen would leave them out.
#[cfg(feature = "header")]
const SHARED_TYPES: [&str; 3] = ["udsipc_status", "udsipc_buffer", "udsipc_error_callback"];

/// Calls from C++ see C declarations.
#[cfg(feature = "header")]
const BEGIN_C: &str = "#ifdef __cplusplus\nextern \"C\" {\n#endif\n";
#[cfg(feature = "header")]
const END_C: &str = "#ifdef __cplusplus\n} /* extern \"C\" */\n#endif\n";

/// What a function that is `#[must_use]` begins with. A C compiler before C23 takes the attribute of GNU.
#[cfg(feature = "header")]
const NODISCARD: &str = "\
/* Marks the functions whose result must not be ignored (ERRORS, above). A program that includes this header may define it
 * before, for instance as nothing. To ignore one result on purpose: if (function()) {}, since GCC warns about (void)function()
 * before C23 and C++17. */
#ifndef UDSIPC_NODISCARD
#if defined(__cplusplus) && __cplusplus >= 201703L
#define UDSIPC_NODISCARD [[nodiscard]]
#elif defined(__STDC_VERSION__) && __STDC_VERSION__ >= 202311L
#define UDSIPC_NODISCARD [[nodiscard]]
#elif defined(__GNUC__)
#define UDSIPC_NODISCARD __attribute__((warn_unused_result))
#else
#define UDSIPC_NODISCARD
#endif
#endif
";

fn main() -> Result<(), Box<dyn Error>> {
    for file in ["build.rs", MANUAL, HEADER] {
        println!("cargo::rerun-if-changed={file}");
    }
    for name in GROUPS.iter().flat_map(|(_, names)| *names) {
        println!("cargo::rerun-if-changed={}", source(name));
    }
    // Threads of ours may outlive a handle that was freed inside its own callback: their code must stay (dlclose(3)).
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // cargo-c gives the soname itself, and ours would win over it.
    println!("cargo::rerun-if-env-changed=CARGO_FEATURE_CAPI");
    if env::var_os("CARGO_FEATURE_CAPI").is_none() {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libudsipc.so.{}", env::var("CARGO_PKG_VERSION_MAJOR")?);
    }
    let header = header()?;
    update_checkout(&header);
    let out_dir = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
    fs::write(Path::new(&out_dir).join("udsipc.h"), header)?;
    Ok(())
}

fn source(name: &str) -> String {
    format!("src/ffi/{name}.rs")
}

/// Returns the committed header.
#[cfg(not(feature = "header"))]
fn header() -> Result<String, Box<dyn Error>> {
    fs::read_to_string(HEADER).map_err(|error| format!("{HEADER}: {error}").into())
}

/// Generates the header. cbindgen reads the sources one by one: no other crate and no `cargo metadata` is needed.
#[cfg(feature = "header")]
fn header() -> Result<String, Box<dyn Error>> {
    let manual = fs::read_to_string(MANUAL)?;
    let begin = "#ifndef UDSIPC_H\n#define UDSIPC_H\n\n#include <stddef.h>\n#include <stdint.h>\n";
    let mut text = format!("{manual}\n{begin}\n{}\n{NODISCARD}\n{BEGIN_C}", version_macros()?);
    for (title, names) in GROUPS {
        let line = "-".repeat(title.len());
        text += &format!("\n/*\n * {title}\n * {line}\n */\n\n{}", declarations(names)?);
    }
    Ok(format!("{text}\n{END_C}\n#endif /* UDSIPC_H */\n"))
}

/// The declarations of one group. cbindgen writes types first and functions after them, so one call for all files would
/// tear each object apart. Types of other groups are only named here: every group comes after those that it uses.
///
/// Reads the sources one by one: no other crate and no `cargo metadata` is needed.
#[cfg(feature = "header")]
fn declarations(names: &[&str]) -> Result<String, Box<dyn Error>> {
    let config = cbindgen::Config {
        language: cbindgen::Language::C,
        no_includes: true,
        usize_is_size_t: true,
        documentation_style: cbindgen::DocumentationStyle::Doxy,
        style: cbindgen::Style::Both,
        line_length: 100,
        tab_width: 4,
        function: cbindgen::FunctionConfig { must_use: Some("UDSIPC_NODISCARD".to_owned()), ..Default::default() },
        export: cbindgen::ExportConfig { include: SHARED_TYPES.map(str::to_owned).into(), ..Default::default() },
        ..Default::default()
    };
    let builder = cbindgen::Builder::new().with_config(config);
    let builder = names.iter().fold(builder, |builder, name| builder.with_src(source(name)));
    let mut text = Vec::new();
    builder.generate()?.write(&mut text);
    Ok(tidy(&String::from_utf8(text)?))
}

/// Writes types by the names that their typedefs give them, what fits on a line on one line, and a mark on its own line.
#[cfg(feature = "header")]
fn tidy(header: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut indent_lost = 0;
    for line in header.lines() {
        let mut line = line.get(indent_lost..).unwrap_or(line).to_owned();
        if !line.starts_with("typedef struct") && !line.starts_with("typedef enum") {
            let before = line.find('(').unwrap_or(0);
            line = line.replace("struct udsipc_", "udsipc_").replace("enum udsipc_", "udsipc_");
            indent_lost += before - line.find('(').unwrap_or(0);
        }
        if line.ends_with(';') {
            indent_lost = 0;
        }
        if let Some(declaration) = line.strip_prefix("UDSIPC_NODISCARD ") {
            out.push("UDSIPC_NODISCARD".to_owned());
            line = declaration.to_owned();
        }
        match out.as_slice() {
            [.., last] if line.is_empty() && last.is_empty() => {}
            [.., open, text] if line.trim() == "*/" && open.trim() == "/**" => {
                let joined = format!("{open}{} */", text.trim().trim_start_matches('*'));
                out.truncate(out.len() - 2);
                out.push(joined);
            }
            _ => out.push(line),
        }
    }
    out.join("\n") + "\n"
}

#[cfg(feature = "header")]
fn version_macros() -> Result<String, Box<dyn Error>> {
    let part = |name| env::var(format!("CARGO_PKG_VERSION_{name}"));
    let (major, minor, patch) = (part("MAJOR")?, part("MINOR")?, part("PATCH")?);
    let number = (major.parse::<u32>()? << 16) | (minor.parse::<u32>()? << 8) | patch.parse::<u32>()?;
    let string = env::var("CARGO_PKG_VERSION")?;
    Ok(format!(
        "/* The version of this header; udsipc_version() is that of the library. */\n\
         #define UDSIPC_VERSION_MAJOR {major}\n\
         #define UDSIPC_VERSION_MINOR {minor}\n\
         #define UDSIPC_VERSION_PATCH {patch}\n\
         /* One number to compare: major * 65536 + minor * 256 + patch. */\n\
         #define UDSIPC_VERSION_NUMBER {number}\n\
         #define UDSIPC_VERSION_STRING \"{string}\"\n"
    ))
}

/// Writes a header that differs, so that the time stamp of a good one stays. Elsewhere than in a checkout, or in one that
/// cannot be written to, the difference is only a warning.
fn update_checkout(header: &str) {
    if fs::read_to_string(HEADER).is_ok_and(|present| present == header) {
        return;
    }
    let written = if Path::new(".git").exists() {
        fs::create_dir_all("include").and_then(|()| fs::write(HEADER, header)).map_err(|error| error.to_string())
    } else {
        Err("this is not a git checkout".to_owned())
    };
    if let Err(reason) = written {
        println!("cargo::warning={HEADER} differs from what src/ffi says and was left as it is: {reason}");
    }
}
