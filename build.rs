//! Makes `include/udsipc.h` out of `src/ffi`, and gives the shared object its soname.

use std::error::Error;
use std::{env, fs};

const HEADER: &str = "include/udsipc.h";
const MANUAL: &str = "src/ffi/manual.h";

/// The files that export something, in the order of the header.
const SOURCES: [&str; 8] = [
    "src/ffi/version.rs",
    "src/ffi/status.rs",
    "src/ffi/errors.rs",
    "src/ffi/callback.rs",
    "src/ffi/options.rs",
    "src/ffi/writer.rs",
    "src/ffi/reader.rs",
    "src/ffi/systemd.rs",
];

fn main() -> Result<(), Box<dyn Error>> {
    for file in SOURCES.iter().chain(&["build.rs", MANUAL, HEADER]) {
        println!("cargo::rerun-if-changed={file}");
    }
    // Threads of ours may outlive a handle that was freed inside its own callback: their code must stay (dlclose(3)).
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // cargo-c gives the soname itself, and ours would win over it.
    println!("cargo::rerun-if-env-changed=CARGO_FEATURE_CAPI");
    if env::var_os("CARGO_FEATURE_CAPI").is_none() {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libudsipc.so.{}", env::var("CARGO_PKG_VERSION_MAJOR")?);
    }
    write_if_changed(&tidy(&header()?));
    Ok(())
}

/// Reads the sources one by one: no other crate and no `cargo metadata` is needed.
fn header() -> Result<String, Box<dyn Error>> {
    let config = cbindgen::Config {
        language: cbindgen::Language::C,
        cpp_compat: true,
        header: Some(fs::read_to_string(MANUAL)?),
        include_guard: Some("UDSIPC_H".into()),
        no_includes: true,
        after_includes: Some(format!("\n#include <stddef.h>\n#include <stdint.h>\n\n{}", version_macros()?)),
        usize_is_size_t: true,
        documentation_style: cbindgen::DocumentationStyle::Doxy,
        style: cbindgen::Style::Both,
        line_length: 100,
        tab_width: 4,
        ..Default::default()
    };
    let builder = SOURCES.iter().fold(cbindgen::Builder::new().with_config(config), |b, file| b.with_src(file));
    let mut text = Vec::new();
    builder.generate()?.write(&mut text);
    Ok(String::from_utf8(text)?)
}

/// Writes types by the names that their typedefs give them, and what fits on a line on one line.
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

/// Leaves a good header's time stamp alone, and lets a source tree that nobody may write to be built.
fn write_if_changed(header: &str) {
    if fs::read_to_string(HEADER).is_ok_and(|present| present == header) {
        return;
    }
    if let Err(error) = fs::create_dir_all("include").and_then(|()| fs::write(HEADER, header)) {
        println!("cargo::warning={HEADER} is not what src/ffi says and cannot be written: {error}");
    }
}
