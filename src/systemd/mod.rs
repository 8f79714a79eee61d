//! Socket activation, directories and notifications of systemd.
//!
//! The protocols are the documented ones of sd_listen_fds(3), sd_notify(3) and systemd.exec(5), spoken without
//! libsystemd. The environment is read and never written: changing it would race with `getenv` in the host's other
//! threads. `LISTEN_PID` tells the service from its children, which inherit the variables. A program that has more rights than
//! the user who started it (set-user-ID, file capabilities) ignores all of them.
//!
//! A [`Reader`](crate::Reader) does all of this itself unless `use_systemd` is off. The functions here are for a program that
//! sends further notifications, such as a status, or asks for its directories:
//!
//! ```
//! // Without NOTIFY_SOCKET nothing is sent, and that is no error.
//! # if std::env::var_os("NOTIFY_SOCKET").is_none() {
//! assert!(!udsipc::systemd::notify("STATUS=loading")?);
//! # }
//! # Ok::<(), udsipc::Error>(())
//! ```

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::sys;

mod listen_fds;
mod notify;

pub(crate) use listen_fds::take_listener;
pub(crate) use notify::ServiceState;

/// Whether this process seems to run under systemd: `RUNTIME_DIRECTORY`, `LISTEN_FDS` or `NOTIFY_SOCKET` is not empty.
///
/// ```
/// println!("{}", if udsipc::systemd::is_active() { "a service" } else { "started by hand" });
/// ```
pub fn is_active() -> bool {
    Environment::from_env().is_active()
}

/// The runtime directory of the service: the first entry of `RUNTIME_DIRECTORY`, if it is an absolute path.
///
/// ```
/// let directory = udsipc::systemd::runtime_dir().unwrap_or_else(std::env::temp_dir);
/// let pid_file = directory.join("app.pid");
/// ```
pub fn runtime_dir() -> Option<PathBuf> {
    Environment::from_env().runtime_dir().map(Path::to_path_buf)
}

/// The state directory of the service: the first entry of `STATE_DIRECTORY`, if it is an absolute path.
///
/// ```
/// let directory = udsipc::systemd::state_dir().unwrap_or_else(|| "/var/lib/app".into());
/// let database = directory.join("events.db");
/// ```
pub fn state_dir() -> Option<PathBuf> {
    Environment::from_env().state_dir().map(Path::to_path_buf)
}

/// Sends one notification: any text of sd_notify(3), such as `READY=1`, `STATUS=...`, or several lines of them.
///
/// `Ok(false)`: nothing was sent, since `NOTIFY_SOCKET` is unset or of an unsupported form (`vsock:`, which is for virtual
/// machines). Never waits: if the receiver's queue is full, that is an error (EAGAIN).
///
/// # Errors
///
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) if `state` is empty or holds a NUL byte; else the operating
/// system's error. A service should go on after an error.
///
/// ```
/// if let Err(error) = udsipc::systemd::notify("STATUS=loading") {
///     eprintln!("{error}");
/// }
/// ```
pub fn notify(state: &str) -> Result<bool> {
    Environment::from_env().notify(state)
}

/// A snapshot of systemd's variables. An empty one counts as unset.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    pid: u32,
    listen_pid: Option<OsString>,
    listen_fds: Option<OsString>,
    listen_fdnames: Option<OsString>,
    notify_socket: Option<OsString>,
    runtime_directory: Option<OsString>,
    state_directory: Option<OsString>,
}

impl Environment {
    /// Reads the variables of this process.
    pub(crate) fn from_env() -> Environment {
        // The user who starts a set-user-ID program chooses its environment, and could choose where the reader listens.
        let trusted = !sys::is_privileged_by_exec();
        Environment::new(std::process::id(), |name| std::env::var_os(name).filter(|_| trusted))
    }

    /// Takes the variables from `get`, for the process `pid`.
    pub(crate) fn new(pid: u32, get: impl Fn(&str) -> Option<OsString>) -> Environment {
        let get = |name| get(name).filter(|value| !value.is_empty());
        Environment {
            pid,
            listen_pid: get("LISTEN_PID"),
            listen_fds: get("LISTEN_FDS"),
            listen_fdnames: get("LISTEN_FDNAMES"),
            notify_socket: get("NOTIFY_SOCKET"),
            runtime_directory: get("RUNTIME_DIRECTORY"),
            state_directory: get("STATE_DIRECTORY"),
        }
    }

    /// See [`is_active`].
    pub(crate) fn is_active(&self) -> bool {
        self.runtime_directory.is_some() || self.listen_fds.is_some() || self.notify_socket.is_some()
    }

    /// See [`runtime_dir`].
    pub(crate) fn runtime_dir(&self) -> Option<&Path> {
        first_directory(self.runtime_directory.as_deref()?)
    }

    /// See [`state_dir`].
    pub(crate) fn state_dir(&self) -> Option<&Path> {
        first_directory(self.state_directory.as_deref()?)
    }

    /// The path to bind for `path`: its file name in the runtime directory, if there is one. An abstract address stays as it
    /// is.
    pub(crate) fn resolve(&self, path: &Path) -> PathBuf {
        match (self.runtime_dir(), path.file_name(), path.as_os_str().as_bytes()) {
            (_, _, [b'@', ..]) | (None, _, _) | (_, None, _) => path.into(),
            (Some(directory), Some(name), _) => directory.join(name),
        }
    }

    /// The address for notifications: a path or an abstract address. Other forms are not supported.
    pub(crate) fn notify_address(&self) -> Option<&Path> {
        let address = self.notify_socket.as_deref()?;
        matches!(address.as_bytes(), [b'/' | b'@', _, ..]).then(|| Path::new(address))
    }
}

/// The first entry of a list of directories (systemd.exec(5), RuntimeDirectory=).
fn first_directory(list: &OsStr) -> Option<&Path> {
    let first = Path::new(OsStr::from_bytes(list.as_bytes().split(|byte| *byte == b':').next()?));
    first.is_absolute().then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) const PID: u32 = 4711;

    pub(super) fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(PID, |name| {
            variables.iter().find(|(wanted, _)| *wanted == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn it_is_active_by_any_of_three_variables_that_is_not_empty() {
        assert!(!environment(&[]).is_active());
        for name in ["RUNTIME_DIRECTORY", "LISTEN_FDS", "NOTIFY_SOCKET"] {
            assert!(environment(&[(name, "x")]).is_active(), "{name}");
            assert!(!environment(&[(name, "")]).is_active(), "{name}");
        }
        assert!(!environment(&[("STATE_DIRECTORY", "/var/lib/x"), ("LISTEN_PID", "1")]).is_active());
    }

    #[test]
    fn of_a_list_of_directories_the_first_counts_and_only_an_absolute_one() {
        for (value, expected) in [
            ("/run/app", Some("/run/app")),
            ("/run/a:/run/b", Some("/run/a")),
            ("", None),
            ("relative", None),
            (":/run/b", None),
        ] {
            let environment = environment(&[("RUNTIME_DIRECTORY", value), ("STATE_DIRECTORY", value)]);
            assert_eq!(environment.runtime_dir(), expected.map(Path::new), "{value:?}");
            assert_eq!(environment.state_dir(), expected.map(Path::new), "{value:?}");
        }
        assert_eq!(environment(&[]).runtime_dir(), None);
        assert_eq!(environment(&[("STATE_DIRECTORY", "/s")]).runtime_dir(), None);
    }

    #[test]
    fn a_path_moves_into_the_runtime_directory_and_an_abstract_one_does_not() {
        let inside = environment(&[("RUNTIME_DIRECTORY", "/run/a:/run/b")]);
        for (given, expected) in [
            ("/tmp/app.sock", "/run/a/app.sock"),
            ("app.sock", "/run/a/app.sock"),
            ("@app", "@app"),
            ("@dir/app", "@dir/app"),
            ("/", "/"),
            ("", ""),
        ] {
            assert_eq!(inside.resolve(Path::new(given)), Path::new(expected), "{given}");
            assert_eq!(environment(&[]).resolve(Path::new(given)), Path::new(given), "{given}");
        }
    }
}
