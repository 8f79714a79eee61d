//! What systemd tells a service through its environment, and what the service tells systemd.
//!
//! The protocols are the documented ones of sd_listen_fds(3), sd_notify(3) and systemd.exec(5), spoken without
//! libsystemd. The environment is read and never written: changing it would race with `getenv` in the host's other
//! threads. A child of the service that inherits the variables is told apart by `LISTEN_PID`. A program
//! that has more rights than whoever started it (set-user-ID, file capabilities) does not believe them.
//!
//! A [`Reader`](crate::Reader) does all of this by itself unless `use_systemd` is off. The functions here are for a
//! program that has more to say, a status for instance, or that wants to know where it runs:
//!
//! ```
//! // Nobody to tell: no error, and the program need not ask first.
//! # if std::env::var_os("NOTIFY_SOCKET").is_none() {
//! assert!(!udsipc::systemd::notify("STATUS=loading")?);
//! # }
//! # Ok::<(), udsipc::Error>(())
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::sys::lock::Mutex;
use crate::sys::{
    self,
    socket::{self, Kind},
};

/// The number of the first passed descriptor (SD_LISTEN_FDS_START, sd_listen_fds(3)).
const FIRST_PASSED: RawFd = 3;

/// The most passed descriptors believed in: no unit lists so many, and each one costs a system call.
const MOST_PASSED: u32 = 1 << 16;

/// What a passed descriptor is called when systemd gave no names (sd_listen_fds(3)).
const NO_NAME: &str = "unknown";

/// How long a notification waits for room in the receiver's queue, in all and between two attempts. The queue is short
/// (`net.unix.max_dgram_qlen`), and the host must not hang on a receiver that has stopped reading.
const NOTIFY_WAIT: Duration = Duration::from_millis(100);
const NOTIFY_STEP: Duration = Duration::from_millis(5);

/// Whether this process seems to run under systemd: `RUNTIME_DIRECTORY`, `LISTEN_FDS` or `NOTIFY_SOCKET` is not empty.
pub fn is_active() -> bool {
    Environment::from_env().is_active()
}

/// The runtime directory of the service: the first entry of `RUNTIME_DIRECTORY`, if it is an absolute path.
pub fn runtime_dir() -> Option<PathBuf> {
    Environment::from_env().runtime_dir().map(Path::to_path_buf)
}

/// The state directory of the service: the first entry of `STATE_DIRECTORY`, if it is an absolute path.
pub fn state_dir() -> Option<PathBuf> {
    Environment::from_env().state_dir().map(Path::to_path_buf)
}

/// Sends one notification: any text of sd_notify(3), such as `READY=1`, `STATUS=...`, or several lines of them.
///
/// `Ok(false)` says that nobody wants to know: `NOTIFY_SOCKET` is unset, or of a form that is not served here (`vsock:`,
/// which is for virtual machines). Waits for at most 100 ms, and only while the receiver's queue is full.
///
/// # Errors
///
/// [`Error::InvalidArgument`] if `state` is empty or holds a NUL byte; else what the system said when it refused. A
/// service does well to go on after that.
pub fn notify(state: &str) -> Result<bool> {
    Environment::from_env().notify(state)
}

/// The variables, as they were at one moment. An empty one counts as unset.
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
        // Whoever starts a set-user-ID program chooses its environment: it would choose where we listen.
        let trusted = !sys::has_more_rights_than_its_starter();
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

    /// Where a socket that was asked for at `path` belongs: under its own name in the runtime directory, if there is
    /// one. An abstract address stays as it is.
    pub(crate) fn resolve(&self, path: &Path) -> PathBuf {
        match (self.runtime_dir(), path.file_name(), path.as_os_str().as_bytes()) {
            (_, _, [b'@', ..]) | (None, _, _) | (_, None, _) => path.into(),
            (Some(directory), Some(name), _) => directory.join(name),
        }
    }

    /// Where notifications go, if anywhere: a path or an abstract address. Other forms are not served.
    pub(crate) fn notify_address(&self) -> Option<&Path> {
        let address = self.notify_socket.as_deref()?;
        matches!(address.as_bytes(), [b'/' | b'@', _, ..]).then(|| Path::new(address))
    }

    /// See [`notify`].
    pub(crate) fn notify(&self, state: &str) -> Result<bool> {
        if state.is_empty() || state.contains('\0') {
            return Err(Error::InvalidArgument("a notification must not be empty and holds no NUL byte".into()));
        }
        let Some(address) = self.notify_address() else { return Ok(false) };
        let sent = socket::connect_datagram(address).and_then(|fd| {
            let deadline = Instant::now() + NOTIFY_WAIT;
            loop {
                match socket::send(fd.as_fd(), state.as_bytes()) {
                    Err(full) if full.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                        std::thread::sleep(NOTIFY_STEP);
                    }
                    other => return other,
                }
            }
        });
        match sent {
            Ok(_) => Ok(true),
            Err(error) => Err(Error::from_os(format!("notify systemd at {address:?} (NOTIFY_SOCKET)"), error)),
        }
    }

    /// How many descriptors were passed to this very process (sd_listen_fds(3)).
    fn passed_count(&self) -> Result<usize> {
        let (Some(pid), Some(count)) = (&self.listen_pid, &self.listen_fds) else { return Ok(0) };
        if decimal(pid) != Some(self.pid) {
            return Ok(0);
        }
        match decimal(count) {
            Some(count) if count <= MOST_PASSED => Ok(count as usize),
            _ => Err(Error::Systemd(format!("LISTEN_FDS is {count:?}, not a number from 0 to {MOST_PASSED}"))),
        }
    }

    /// The passed descriptors with their names, numbered from `first` on.
    fn passed(&self, first: RawFd) -> Result<Vec<Passed>> {
        let names = self.listen_fdnames.as_deref().map(OsStr::to_string_lossy).unwrap_or_default();
        let names = names.split(':').filter(|_| !names.is_empty()).chain(std::iter::repeat(NO_NAME));
        Ok((first..).zip(names).take(self.passed_count()?).map(|(fd, name)| Passed { fd, name: name.into() }).collect())
    }
}

/// The first entry of a list of directories (systemd.exec(5), RuntimeDirectory=).
fn first_directory(list: &OsStr) -> Option<&Path> {
    let first = Path::new(OsStr::from_bytes(list.as_bytes().split(|byte| *byte == b':').next()?));
    first.is_absolute().then_some(first)
}

/// Digits and nothing else: `parse` alone would take a leading plus as well.
fn decimal(text: &OsStr) -> Option<u32> {
    let text = text.to_str().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok()
}

/// A descriptor that was passed to this process.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Passed {
    fd: RawFd,
    name: String,
}

impl Passed {
    /// The address of the listener that this must be.
    fn listener_address(&self) -> Result<PathBuf> {
        match socket::kind_of_number(self.fd) {
            Ok((Kind::UnixListener, address)) => Ok(address),
            Ok((Kind::Other(what), _)) => Err(self.unusable(what)),
            Err(error) => Err(self.unusable(error)),
        }
    }

    fn unusable(&self, why: impl std::fmt::Display) -> Error {
        Error::Systemd(format!("the passed descriptor {} (named {:?}) cannot be used: {why}", self.fd, self.name))
    }
}

/// Takes over the listener that systemd passed for a reader at `path`, and says which address it has: `None` if there is
/// none, or none left. It must be neither shut down nor unlinked: it belongs to the socket unit (systemd.socket(5)).
///
/// With a `name` the first one so named that is not taken yet; without one the only one, or of several the one that has
/// `path` as its address, as given or in the runtime directory.
pub(crate) fn take_listener(
    environment: &Environment,
    name: Option<&str>,
    path: &Path,
) -> Result<Option<(OwnedFd, PathBuf)>> {
    static OF_THIS_PROCESS: Table = Table::new();
    OF_THIS_PROCESS.take(environment, FIRST_PASSED, name, path)
}

/// Which descriptors have been taken: each may have one owner only, and its number may mean another file once that owner
/// has closed it. So what is in the table is never looked at again.
#[derive(Debug)]
struct Table(Mutex<Entries>);

#[derive(Debug)]
struct Entries {
    close_on_exec: BTreeSet<RawFd>,
    taken: BTreeMap<RawFd, PathBuf>,
}

impl Table {
    const fn new() -> Table {
        Table(Mutex::new(Entries { close_on_exec: BTreeSet::new(), taken: BTreeMap::new() }))
    }

    /// Held locked throughout, so that two readers made at the same time never adopt one descriptor twice.
    fn take(
        &self,
        environment: &Environment,
        first: RawFd,
        name: Option<&str>,
        path: &Path,
    ) -> Result<Option<(OwnedFd, PathBuf)>> {
        let passed = environment.passed(first)?;
        if passed.is_empty() {
            return Ok(None); // without the lock, which in a child of `fork` may be held for ever by nobody
        }
        let mut entries = self.0.lock();
        entries.close_on_exec(&passed)?;
        let chosen = match (name, passed.as_slice()) {
            (Some(name), [_, ..]) => Some(entries.named(&passed, name)?),
            (None, [only]) => Some(only).filter(|only| !entries.taken.contains_key(&only.fd)),
            (None, [_, _, ..]) => entries.addressed(&passed, &[path, &environment.resolve(path)])?,
            (_, []) => None,
        };
        let Some(chosen) = chosen else { return Ok(None) };
        let address = chosen.listener_address()?;
        let listener = socket::adopt(chosen.fd).map_err(|error| chosen.unusable(error))?;
        entries.taken.insert(chosen.fd, address.clone());
        Ok(Some((listener, address)))
    }
}

impl Entries {
    /// Keeps every passed descriptor, wanted or not, out of the programs that the host starts (sd_listen_fds(3)).
    fn close_on_exec(&mut self, passed: &[Passed]) -> Result<()> {
        for each in passed {
            if !self.close_on_exec.contains(&each.fd) {
                socket::set_cloexec(each.fd).map_err(|error| each.unusable(error))?;
                self.close_on_exec.insert(each.fd);
            }
        }
        Ok(())
    }

    /// Names are not unique: all sockets of one unit share its name unless FileDescriptorName= says otherwise.
    fn named<'a>(&self, passed: &'a [Passed], name: &str) -> Result<&'a Passed> {
        if let Some(free) = passed.iter().find(|each| each.name == name && !self.taken.contains_key(&each.fd)) {
            return Ok(free);
        }
        let names: Vec<&str> = passed.iter().map(|each| each.name.as_str()).collect();
        Err(Error::Systemd(if names.contains(&name) {
            format!("each passed descriptor named {name:?} already serves a reader of this process")
        } else {
            format!("no descriptor named {name:?} was passed, there are {names:?} (see FileDescriptorName=)")
        }))
    }

    /// `None` if the one with that address, or each of them, is taken.
    fn addressed<'a>(&self, passed: &'a [Passed], wanted: &[&Path]) -> Result<Option<&'a Passed>> {
        for each in passed {
            let taken = self.taken.get(&each.fd);
            // A descriptor of another kind has no address that could match: it is not the one, and no error here.
            let address = taken.cloned().or_else(|| each.listener_address().ok());
            if address.is_some_and(|address| wanted.contains(&address.as_path())) {
                return Ok(if taken.is_some() { None } else { Some(each) });
            }
        }
        if passed.iter().all(|each| self.taken.contains_key(&each.fd)) {
            return Ok(None);
        }
        let names: Vec<&str> = passed.iter().map(|each| each.name.as_str()).collect();
        Err(Error::Systemd(format!(
            "{} descriptors were passed and none listens at {:?}: say which by listen_fd_name, one of {names:?}",
            passed.len(),
            wanted.first().copied().unwrap_or(Path::new("")),
        )))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::{AsRawFd as _, BorrowedFd, IntoRawFd as _};
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
    use std::sync::Barrier;

    use tempfile::tempdir;

    use super::*;
    use crate::sys::file::scene;

    const PID: u32 = 4711;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        Environment::new(PID, |name| {
            variables.iter().find(|(wanted, _)| *wanted == name).map(|(_, value)| OsString::from(value))
        })
    }

    /// As systemd sets it for `count` descriptors with these names.
    fn activation(count: usize, names: &str) -> Environment {
        environment(&[("LISTEN_PID", &PID.to_string()), ("LISTEN_FDS", &count.to_string()), ("LISTEN_FDNAMES", names)])
    }

    fn is_systemd_error<T: std::fmt::Debug>(result: Result<T>) -> String {
        match result {
            Err(Error::Systemd(text)) => text,
            other => panic!("expected Error::Systemd, got {other:?}"),
        }
    }

    /// Lays descriptors on consecutive numbers, inheritable, as systemd passes them. Each test has a range of its own, far
    /// above what the others open; what is not taken stays open.
    fn pass(first: RawFd, descriptors: &[BorrowedFd<'_>]) {
        for (wanted, descriptor) in (first..).zip(descriptors) {
            let got = scene::duplicate_from(*descriptor, wanted).expect("a free number").into_raw_fd();
            assert_eq!(got, wanted);
            assert!(!is_close_on_exec(got));
        }
    }

    fn is_close_on_exec(fd: RawFd) -> bool {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("an open descriptor");
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("proc_pid_fdinfo(5)");
        u32::from_str_radix(flags.trim(), 8).expect("an octal number") & 0o2_000_000 != 0
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

    #[test]
    fn descriptors_count_only_for_the_process_that_they_were_passed_to() {
        let count = |variables: &[_]| environment(variables).passed_count();
        let fds = ("LISTEN_FDS", "2");
        assert_eq!(count(&[fds, ("LISTEN_PID", "4711")]).expect("ours"), 2);
        for pid in ["4712", "", "1", "+4711", " 4711", "abc", "-4711", "99999999999999999999"] {
            assert_eq!(count(&[fds, ("LISTEN_PID", pid)]).expect("not for us"), 0, "{pid:?}");
        }
        assert_eq!(count(&[fds]).expect("no LISTEN_PID"), 0);
        assert_eq!(count(&[("LISTEN_PID", "4711")]).expect("no LISTEN_FDS"), 0);
        for nothing in ["0", ""] {
            assert_eq!(count(&[("LISTEN_PID", "4711"), ("LISTEN_FDS", nothing)]).expect("none"), 0);
        }
        for absurd in ["x", "-1", "+1", "1 ", "65537", "4294967296", "99999999999999999999", "1.0"] {
            let text = is_systemd_error(count(&[("LISTEN_PID", "4711"), ("LISTEN_FDS", absurd)]));
            assert!(text.contains("LISTEN_FDS") && text.contains(absurd), "{text}");
        }
    }

    #[test]
    fn a_descriptor_without_a_name_is_called_unknown() {
        let names = |names| {
            let passed = activation(3, names).passed(3).expect("three");
            assert_eq!(passed.iter().map(|each| each.fd).collect::<Vec<_>>(), [3, 4, 5]);
            passed.into_iter().map(|each| each.name).collect::<Vec<_>>()
        };
        assert_eq!(names("a:b:a"), ["a", "b", "a"]);
        assert_eq!(names("a"), ["a", "unknown", "unknown"]);
        assert_eq!(names(""), ["unknown"; 3]);
        assert_eq!(names("a:b:c:d"), ["a", "b", "c"]);
    }

    #[test]
    fn without_activation_there_is_nothing_to_take() {
        let path = Path::new("/nonexistent/socket");
        assert!(take_listener(&environment(&[]), None, path).expect("nothing").is_none());
        assert!(take_listener(&environment(&[("LISTEN_FDS", "1")]), Some("x"), path).expect("nothing").is_none());
        assert!(take_listener(&activation(0, ""), Some("x"), path).expect("nothing").is_none());
    }

    #[test]
    fn the_only_listener_is_taken_once_whatever_its_address() {
        let (dir, table, first) = (tempdir().expect("a directory"), Table::new(), 600);
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        pass(first, &[listener.as_fd()]);
        let (given, environment) = (Path::new("/tmp/another.sock"), activation(1, ""));
        let (taken, address) = table.take(&environment, first, None, given).expect("usable").expect("one");
        assert_eq!((taken.as_raw_fd(), address), (first, path.clone()));
        assert!(is_close_on_exec(first));
        drop(listener);
        UnixStream::connect(&path).expect("it listens");
        assert!(table.take(&environment, first, None, given).expect("no error").is_none());
        // The number of a closed one means nothing any more, and is not looked at.
        drop(taken);
        assert!(table.take(&environment, first, None, given).expect("no error").is_none());
        let text = is_systemd_error(table.take(&environment, first, Some("unknown"), given));
        assert!(text.contains("already"), "{text}");
    }

    #[test]
    fn of_several_one_is_taken_by_name_or_by_address_and_all_are_marked() {
        let (dir, table, first) = (tempdir().expect("a directory"), Table::new(), 620);
        let path = |name| dir.path().join(name);
        let sockets = ["a", "b", "c"].map(|name| UnixListener::bind(path(name)).expect("a socket"));
        let file = fs::File::open("/dev/null").expect("a stored descriptor of another kind");
        pass(first, &[sockets[0].as_fd(), sockets[1].as_fd(), sockets[2].as_fd(), file.as_fd()]);
        let environment = activation(4, "web:admin:web:stored");
        let take = |name, path: &Path| table.take(&environment, first, name, path);

        let text = is_systemd_error(take(None, Path::new("/tmp/another.sock")));
        assert!(
            text.contains("listen_fd_name") && text.contains("admin") && text.contains("/tmp/another.sock"),
            "{text}"
        );
        assert!((first..first + 4).all(is_close_on_exec), "all of them, wanted or not");
        let text = is_systemd_error(take(Some("nobody"), &path("a")));
        assert!(text.contains("nobody") && text.contains("admin"), "{text}");
        let text = is_systemd_error(take(Some("stored"), &path("a")));
        assert!(text.contains("stored") && text.contains(&(first + 3).to_string()), "{text}");

        let number = |result: Result<Option<(OwnedFd, PathBuf)>>| {
            let (taken, address) = result.expect("usable").expect("one");
            (taken.into_raw_fd(), address)
        };
        assert_eq!(number(take(None, &path("c"))), (first + 2, path("c")));
        assert!(take(None, &path("c")).expect("no error").is_none(), "taken already");
        assert_eq!(number(take(Some("web"), Path::new("/x"))), (first, path("a")));
        is_systemd_error(take(Some("web"), Path::new("/x")));
        assert_eq!(number(take(Some("admin"), Path::new("/x"))), (first + 1, path("b")));
    }

    #[test]
    fn an_address_in_the_runtime_directory_is_found_and_when_all_are_taken_there_is_none() {
        let (dir, table, first) = (tempdir().expect("a directory"), Table::new(), 640);
        let sockets = ["a", "b"].map(|name| UnixListener::bind(dir.path().join(name)).expect("a socket"));
        pass(first, &[sockets[0].as_fd(), sockets[1].as_fd()]);
        let (pid, directory) = (PID.to_string(), dir.path().to_str().expect("UTF-8"));
        let environment = environment(&[("LISTEN_PID", &pid), ("LISTEN_FDS", "2"), ("RUNTIME_DIRECTORY", directory)]);
        for (name, expected) in [("b", first + 1), ("a", first)] {
            let given = Path::new("/tmp").join(name);
            let (taken, address) = table.take(&environment, first, None, &given).expect("usable").expect("one");
            assert_eq!((taken.into_raw_fd(), address), (expected, dir.path().join(name)));
        }
        assert!(table.take(&environment, first, None, Path::new("/tmp/c")).expect("no error").is_none());
    }

    #[test]
    fn an_abstract_listener_is_found_by_its_address() {
        let (table, first) = (Table::new(), 650);
        let name = format!("udsipc-test-activation-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let listener = UnixListener::bind_addr(&address).expect("a socket");
        let other = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name.clone() + "2").expect("a name"));
        pass(first, &[other.expect("a socket").as_fd(), listener.as_fd()]);
        let path = PathBuf::from(format!("@{name}"));
        let (taken, address) = table.take(&activation(2, ""), first, None, &path).expect("usable").expect("one");
        assert_eq!((taken.into_raw_fd(), address), (first + 1, path));
    }

    #[test]
    fn what_is_not_a_unix_stream_listener_is_refused_by_name_and_stays_free() {
        let dir = tempdir().expect("a directory");
        let datagram = UnixDatagram::bind(dir.path().join("datagram")).expect("a socket");
        let (connected, _peer) = UnixStream::pair().expect("a pair");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
        let file = fs::File::open("/dev/null").expect("a file");
        let kinds: [(BorrowedFd<'_>, &str); 4] = [
            (datagram.as_fd(), "not a stream"),
            (connected.as_fd(), "Accept=yes"),
            (tcp.as_fd(), "not a Unix"),
            (file.as_fd(), "non-socket"),
        ];
        for (number, (descriptor, part)) in (660..).zip(kinds) {
            let table = Table::new();
            pass(number, &[descriptor]);
            for name in [None, Some("some")] {
                let text = is_systemd_error(table.take(&activation(1, "some"), number, name, Path::new("/x")));
                assert!(text.contains(part) && text.contains("some"), "{text}");
            }
        }
        let table = Table::new();
        let text = is_systemd_error(table.take(&activation(1, ""), 679, None, Path::new("/x")));
        assert!(text.contains("679"), "a descriptor that is not open: {text}");
    }

    #[test]
    fn of_two_readers_at_the_same_instant_one_gets_the_listener() {
        let dir = tempdir().expect("a directory");
        let environment = activation(1, "");
        for (round, first) in (700..720).enumerate() {
            let listener = UnixListener::bind(dir.path().join(round.to_string())).expect("a socket");
            pass(first, &[listener.as_fd()]);
            let (table, together) = (Table::new(), Barrier::new(2));
            let take = || {
                together.wait();
                table.take(&environment, first, None, Path::new("/x")).expect("usable")
            };
            let taken = std::thread::scope(|scope| {
                let (a, b) = (scope.spawn(take), scope.spawn(take));
                [a.join().expect("no panic"), b.join().expect("no panic")].into_iter().flatten().count()
            });
            assert_eq!(taken, 1);
        }
    }

    #[test]
    fn a_notification_arrives_as_one_datagram_by_path_and_by_abstract_name() {
        let dir = tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let name = format!("udsipc-test-notify-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).expect("a name");
        for (receiver, value) in [
            (UnixDatagram::bind(&path), path.to_str().expect("UTF-8")),
            (UnixDatagram::bind_addr(&abstract_address), &format!("@{name}")),
        ] {
            let receiver = receiver.expect("a socket");
            receiver.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
            let environment = environment(&[("NOTIFY_SOCKET", value)]);
            for state in ["READY=1", "STOPPING=1\nSTATUS=bye"] {
                assert!(environment.notify(state).expect("a receiver"), "{value}");
                let mut buffer = [0; 64];
                let got = receiver.recv(&mut buffer).expect("a datagram");
                assert_eq!(&buffer[..got], state.as_bytes());
            }
        }
    }

    #[test]
    fn nobody_to_notify_is_no_error_and_an_empty_text_is() {
        for value in ["", "vsock:2:1234", "relative", "@", "/"] {
            assert!(!environment(&[("NOTIFY_SOCKET", value)]).notify("READY=1").expect("ignored"), "{value:?}");
        }
        for state in ["", "READY=1\0"] {
            assert!(matches!(environment(&[]).notify(state), Err(Error::InvalidArgument(_))), "{state:?}");
        }
    }

    #[test]
    fn a_notification_that_cannot_be_delivered_says_so_and_never_hangs() {
        let dir = tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let environment = environment(&[("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))]);
        let text = environment.notify("READY=1").expect_err("no socket").to_string();
        assert!(text.contains("NOTIFY_SOCKET") && text.contains("notify"), "{text}");

        // A receiver that does not read: its queue takes some, and the call then gives up by itself.
        let receiver = UnixDatagram::bind(&path).expect("a socket");
        let full = (0..100_000).find_map(|_| environment.notify("WATCHDOG=1").err()).expect("a queue has an end");
        assert!(matches!(&full, Error::Io { source, .. } if source.kind() == io::ErrorKind::WouldBlock), "{full}");
        drop(receiver);
        environment.notify("READY=1").expect_err("a stale socket");
    }
}
