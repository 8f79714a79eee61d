//! Socket paths: the length limit, the name that is bound, and what is refused. Touches no file.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::sys::socket;
use crate::systemd::Environment;

/// The longest socket path in bytes, without the NUL at its end: 107 on Linux (unix(7)). The '@' of an abstract address
/// counts.
///
/// ```
/// assert_eq!(udsipc::max_socket_path_length(), 107);
/// ```
pub const fn max_socket_path_length() -> usize {
    socket::MAX_PATH
}

/// The path at which a reader that follows systemd binds its socket: the file name of `path` in the first directory of
/// `RUNTIME_DIRECTORY`; without that variable `path` itself. An abstract address stays as it is.
///
/// ```
/// use udsipc::{Writer, WriterOptions};
///
/// // A writer in the same service finds its reader, with systemd and without.
/// let writer = Writer::new(udsipc::resolve_socket_path("/tmp/events.sock"), WriterOptions::new())?;
/// # Ok::<(), udsipc::Error>(())
/// ```
pub fn resolve_socket_path(path: impl AsRef<Path>) -> PathBuf {
    Environment::from_env().resolve(path.as_ref())
}

/// Refuses a path that no file system could bind, and one that is most likely a mistake.
pub(crate) fn check(path: &Path) -> Result<()> {
    let reason = match path.as_os_str().as_bytes() {
        [] => "it is empty".into(),
        [b'@'] => "an abstract address needs a name behind the '@'".into(),
        bytes if bytes.len() > socket::MAX_PATH => format!("it has {} bytes", bytes.len()),
        bytes if bytes.contains(&0) => "it holds a NUL byte".into(),
        bytes => match mistake(bytes) {
            Some(mistake) => mistake.into(),
            None if bytes.ends_with(b"/") && !is_abstract(path) => "it ends in '/', which names a directory".into(),
            None => return Ok(()),
        },
    };
    Err(invalid(path, reason))
}

/// Refuses a path that is most likely a mistake. Without the check of its length, for a path that is resolved first.
pub(crate) fn check_notation(path: &Path) -> Result<()> {
    mistake(path.as_os_str().as_bytes()).map_or(Ok(()), |mistake| Err(invalid(path, mistake.into())))
}

/// The mistake in a path that a file system would accept: a directory named "unix:" or "~" is hardly intended.
fn mistake(path: &[u8]) -> Option<&'static str> {
    match path {
        [.., b'\n' | b'\r'] => Some("it ends in a line break: strip what was read from a file or a command"),
        [b'~', ..] => Some("it begins with '~', which only a shell takes for a home directory: give the whole path"),
        _ if path.starts_with(b"unix:") => Some("it begins with \"unix:\": give the path alone, it is no URL here"),
        _ if path.starts_with(b"ipc:") => Some("it begins with \"ipc:\": give the path alone, it is no URL here"),
        _ => None,
    }
}

/// A path for a line of a log: one with a line break in it is shown with `\n` instead.
pub(crate) fn one_line(path: &Path) -> String {
    let mut line = String::new();
    for c in path.display().to_string().chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line
}

fn invalid(path: &Path, reason: String) -> Error {
    Error::InvalidSocketPath { path: path.into(), reason, limit: socket::MAX_PATH }
}

/// Whether a path is an abstract address (unix(7)): no file, no directory, no mode.
pub(crate) fn is_abstract(path: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(b"@")
}

/// The name under which a socket is bound: the absolute path, or the given path if only that one is short enough.
pub(crate) fn name_to_bind<'a>(absolute: &'a Path, given: &'a Path) -> &'a Path {
    if absolute.as_os_str().len() <= socket::MAX_PATH { absolute } else { given }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(path: &str) -> String {
        let error = check(Path::new(path)).expect_err(path);
        assert!(matches!(error, Error::InvalidSocketPath { limit: 107, .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("107") && text.contains(&format!("{path:?}")), "{text}");
        text
    }

    #[test]
    fn what_no_file_system_could_take_is_refused_and_the_text_names_path_and_limit() {
        assert_eq!(max_socket_path_length(), 107);
        let long = "/".to_owned() + &"x".repeat(107);
        for (path, part) in [
            ("", "empty"),
            ("@", "name behind"),
            (long.as_str(), "108 bytes"),
            ("/tmp/a\0b", "NUL"),
            ("@a\0b", "NUL"),
            ("/tmp/", "ends in '/'"),
        ] {
            let text = refusal(path);
            assert!(text.contains(part), "{text}");
        }
        for path in [&long[..107], "@x", "@x/", "relative", "/x"] {
            check(Path::new(path)).expect(path);
        }
    }

    #[test]
    fn a_url_a_tilde_and_a_line_break_are_refused_with_the_reason() {
        for (path, part) in [
            ("unix:///run/x", "\"unix:\""),
            ("unix:x", "\"unix:\""),
            ("ipc:///run/x", "\"ipc:\""),
            ("~/x", "shell"),
            ("~root/x", "shell"),
            ("~", "shell"),
            ("/run/x\n", "line break"),
            ("/run/x\r\n", "line break"),
            ("/run/x\r", "line break"),
            ("@x\n", "line break"),
        ] {
            let text = refusal(path);
            assert!(text.contains(part), "{text}");
            check_notation(Path::new(path)).expect_err(path);
        }
        for path in ["/unix:/x", "./unix:x", "unix", "./~/x", "/a~", "@~", "@unix:x", "/a\nb", "unixx:y"] {
            check(Path::new(path)).expect(path);
        }
        check_notation(Path::new(&"x".repeat(200))).expect("its length counts after it has been resolved");
    }

    #[test]
    fn a_socket_is_bound_under_its_absolute_path_where_that_fits() {
        let given = Path::new("s");
        let (short, long) = ("/".to_owned() + &"x".repeat(106), "/".to_owned() + &"x".repeat(107));
        assert_eq!(name_to_bind(Path::new(&short), given), Path::new(&short));
        assert_eq!(name_to_bind(Path::new(&long), given), given);
    }
}
