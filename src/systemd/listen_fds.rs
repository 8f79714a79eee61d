//! The sockets that systemd has passed (sd_listen_fds(3)).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use super::Environment;
use crate::error::{Error, Result};
use crate::sys::descriptor::Descriptor;
use crate::sys::lock::Mutex;
use crate::sys::socket::{self, Kind};

/// The number of the first passed descriptor (SD_LISTEN_FDS_START, sd_listen_fds(3)).
const FIRST_PASSED: RawFd = 3;

/// The largest accepted LISTEN_FDS: no unit lists so many sockets, and each one costs a system call.
const MAX_PASSED: u32 = 1 << 16;

/// The name of a descriptor for which systemd passed no name (sd_listen_fds(3)).
const NO_NAME: &str = "unknown";

/// The advice in the error about a descriptor that is not a listening Unix stream socket.
const UNIT_ADVICE: &str = "the socket unit needs ListenStream= with a path or @name, and Accept=no";

impl Environment {
    /// How many descriptors were passed to this process, not to its parent (sd_listen_fds(3)).
    fn passed_count(&self) -> Result<usize> {
        let (Some(pid), Some(count)) = (&self.listen_pid, &self.listen_fds) else { return Ok(0) };
        if decimal(pid) != Some(self.pid) {
            return Ok(0);
        }
        match decimal(count) {
            Some(count) if count <= MAX_PASSED => Ok(count as usize),
            _ => Err(Error::Systemd(format!("LISTEN_FDS is {count:?}, not a number from 0 to {MAX_PASSED}"))),
        }
    }

    /// The passed descriptors with their names, numbered from `first` on.
    fn passed(&self, first: RawFd) -> Result<Vec<Passed>> {
        let names = self.listen_fdnames.as_deref().map(OsStr::to_string_lossy).unwrap_or_default();
        let names = names.split(':').filter(|_| !names.is_empty()).chain(std::iter::repeat(NO_NAME));
        Ok((first..).zip(names).take(self.passed_count()?).map(|(fd, name)| Passed { fd, name: name.into() }).collect())
    }

    /// Adds the probable reason to an error about a path in use: the socket that listens there was passed by systemd, but
    /// not to this process.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let Error::AddressInUse { path, reason } = error else { return error };
        let for_whom = match (&self.listen_fds, &self.listen_pid) {
            (None, _) => return Error::AddressInUse { path, reason },
            (Some(_), Some(pid)) if decimal(pid) == Some(self.pid) => return Error::AddressInUse { path, reason },
            (Some(_), Some(pid)) => format!("LISTEN_PID is {pid:?}"),
            (Some(_), None) => "LISTEN_PID is not set".to_owned(),
        };
        let reason = format!(
            "{reason}. LISTEN_FDS is set, but {for_whom} and this process is {}, so what systemd passed was not taken: let \
             the service be this process itself, without a shell around it",
            self.pid
        );
        Error::AddressInUse { path, reason: reason.into() }
    }
}

/// A number of digits only: `parse` alone would also accept a leading plus.
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
    /// The address of the descriptor; an error if it is not a listener.
    fn listener_address(&self) -> Result<PathBuf> {
        match socket::kind_of_number(self.fd) {
            Ok((Kind::UnixListener, address)) => Ok(address),
            Ok((Kind::Other(what), _)) => Err(self.unusable(format_args!("{what} ({UNIT_ADVICE})"))),
            Err(error) => Err(self.unusable(error)),
        }
    }

    fn unusable(&self, why: impl std::fmt::Display) -> Error {
        Error::Systemd(format!("the passed descriptor {} (named {:?}) cannot be used: {why}", self.fd, self.name))
    }
}

/// Takes the listener that systemd passed for a reader at `path`; returns the listener and its address. `None` if none was
/// passed, or all are taken. It belongs to the socket unit (systemd.socket(5)): the reader must neither shut nor unlink it.
///
/// With a `name`: the first listener of this name that is not taken. Without: the only one, or of several the one whose address
/// is `path`, as given or in the runtime directory.
pub(crate) fn take_listener(
    environment: &Environment,
    name: Option<&str>,
    path: &Path,
) -> Result<Option<(Descriptor, PathBuf)>> {
    static OF_THIS_PROCESS: TakenFds = TakenFds::new();
    OF_THIS_PROCESS.take(environment, FIRST_PASSED, name, path)
}

/// The descriptors that have been taken. Each may have one owner only. After the owner has closed it, its number may be another
/// file, so a number in the table is never used again.
#[derive(Debug)]
struct TakenFds(Mutex<Entries>);

#[derive(Debug)]
struct Entries {
    close_on_exec: BTreeSet<RawFd>,
    taken: BTreeMap<RawFd, PathBuf>,
}

impl TakenFds {
    const fn new() -> TakenFds {
        TakenFds(Mutex::new(Entries { close_on_exec: BTreeSet::new(), taken: BTreeMap::new() }))
    }

    /// Locked throughout, so that two readers never adopt the same descriptor.
    fn take(
        &self,
        environment: &Environment,
        first: RawFd,
        name: Option<&str>,
        path: &Path,
    ) -> Result<Option<(Descriptor, PathBuf)>> {
        let passed = environment.passed(first)?;
        if passed.is_empty() {
            return Ok(None); // without the lock: in a forked child it may be locked by a thread that does not exist there
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
    /// Makes all passed descriptors close-on-exec, taken or not, so that no program that the host starts inherits them
    /// (sd_listen_fds(3)).
    fn close_on_exec(&mut self, passed: &[Passed]) -> Result<()> {
        for each in passed {
            if !self.close_on_exec.contains(&each.fd) {
                socket::set_cloexec(each.fd).map_err(|error| each.unusable(error))?;
                self.close_on_exec.insert(each.fd);
            }
        }
        Ok(())
    }

    /// The first descriptor of this name that is not taken. Names are not unique: without FileDescriptorName= all sockets of a
    /// unit have the same name.
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

    /// The descriptor with one of these addresses. `None` if it is taken, or all descriptors are.
    fn addressed<'a>(&self, passed: &'a [Passed], wanted: &[&Path]) -> Result<Option<&'a Passed>> {
        for each in passed {
            let taken = self.taken.get(&each.fd);
            // A descriptor of another kind is skipped: it has no address that could match.
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
mod tests;
