//! What systemd says through the environment, against a reference.
//!
//! The input is an environment as the kernel hands it over: `NAME=value` with NUL bytes in between. Three names are
//! ours: `ASKED` is the path that the program asks for, `NAMED` its `listen_fd_name`, `STATE` what it notifies.
//! The process is number 4711. `NOTIFY_SOCKET=OURS` is a socket of the fuzzer; notifications go nowhere else.
//!
//! The descriptors from 3 on are things that no reader can adopt, so none is ever taken over and every input finds the
//! same process. Which one was chosen, and under which name, is what the error says.
#![no_main]

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use udsipc::Error;
use udsipc::fuzzing::Systemd;

const PID: u32 = 4711;
/// The first passed descriptor, and how many there are.
const FIRST: i32 = 3;
const PASSED: i32 = 6;

static OURS: OnceLock<(UnixDatagram, String)> = OnceLock::new();

fuzz_target!(init: prepare(), |data: &[u8]| {
    let variables: Vec<(&[u8], &[u8])> = data.split(|byte| *byte == 0).filter_map(|entry| {
        let at = entry.iter().position(|byte| *byte == b'=')?;
        Some((&entry[..at], &entry[at + 1..]))
    }).collect();
    let environment = Variables(variables);
    let systemd = Systemd::new(PID, |name| environment.raw(name).map(|value| OsString::from_vec(value.to_vec())));

    directories(&environment, &systemd);
    notifications(&environment, &systemd);
    listeners(&environment, &systemd);
});

/// Puts descriptors of kinds that cannot be adopted where systemd puts those that it passes.
fn prepare() {
    support::prepare();
    let (connected, peer) = UnixStream::pair().expect("a pair");
    let datagram = UnixDatagram::unbound().expect("a socket");
    let file = std::fs::File::open("/dev/null").expect("a file");
    for fd in FIRST..FIRST + PASSED {
        let source = [connected.as_raw_fd(), datagram.as_raw_fd(), file.as_raw_fd()][fd as usize % 3];
        // SAFETY: takes no pointers. Above the numbers in question first, since a source may be one of them.
        let above = unsafe { libc::fcntl(source, libc::F_DUPFD_CLOEXEC, 100) };
        assert_eq!(above, 100 + fd - FIRST, "fcntl(2) failed");
    }
    let name = format!("udsipc-fuzz-notify-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let receiver = UnixDatagram::bind_addr(&address).expect("a socket");
    receiver.set_nonblocking(true).expect("a socket");
    // SAFETY: takes no pointers; the new number has no other owner.
    let receiver_above = unsafe {
        let above = libc::fcntl(receiver.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 200);
        UnixDatagram::from_raw_fd(above)
    };
    drop((connected, peer, datagram, file, receiver));
    for fd in FIRST..FIRST + PASSED {
        // What the fuzzer's parent left open under one of these numbers is closed by that, and nobody here uses it.
        // SAFETY: takes no pointers.
        assert_eq!(unsafe { libc::dup2(100 + fd - FIRST, fd) }, fd);
    }
    OURS.set((receiver_above, format!("@{name}"))).expect("called once");
}

struct Variables<'a>(Vec<(&'a [u8], &'a [u8])>);

impl Variables<'_> {
    /// As `getenv` answers.
    fn raw(&self, name: &str) -> Option<&[u8]> {
        let value = self.0.iter().find(|(each, _)| *each == name.as_bytes()).map(|(_, value)| *value)?;
        if name == "NOTIFY_SOCKET" && value == b"OURS" {
            return OURS.get().map(|(_, address)| address.as_bytes());
        }
        Some(value)
    }

    /// An empty variable counts as unset.
    fn get(&self, name: &str) -> Option<&[u8]> {
        self.raw(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(self.get(name)?).ok()
    }

    fn asked(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.raw("ASKED").unwrap_or_default()))
    }

    /// The first of a list, if it is absolute.
    fn directory(&self, name: &str) -> Option<&[u8]> {
        let list = self.get(name)?;
        let end = list.iter().position(|byte| *byte == b':').unwrap_or(list.len());
        Some(&list[..end]).filter(|first| first.first() == Some(&b'/'))
    }
}

fn directories(environment: &Variables<'_>, systemd: &Systemd) {
    let bytes = |path: Option<&Path>| path.map(|path| path.as_os_str().as_bytes().to_vec());
    let runtime = environment.directory("RUNTIME_DIRECTORY");
    assert_eq!(bytes(systemd.runtime_dir()).as_deref(), runtime);
    assert_eq!(bytes(systemd.state_dir()).as_deref(), environment.directory("STATE_DIRECTORY"));
    let active =
        ["RUNTIME_DIRECTORY", "LISTEN_FDS", "NOTIFY_SOCKET"].iter().any(|name| environment.get(name).is_some());
    assert_eq!(systemd.is_active(), active);

    let asked = environment.asked();
    let resolved = systemd.resolve(asked);
    match (runtime, last_name(asked.as_os_str().as_bytes())) {
        (Some(directory), Some(name)) => {
            let mut expected = directory.to_vec();
            if !expected.ends_with(b"/") {
                expected.push(b'/');
            }
            expected.extend_from_slice(name);
            assert_eq!(resolved.as_os_str().as_bytes(), expected);
        }
        _ => assert_eq!(resolved.as_os_str(), asked.as_os_str()),
    }
}

/// The file name of a path, if it has one and is no abstract address.
fn last_name(path: &[u8]) -> Option<&[u8]> {
    let last = path.split(|byte| *byte == b'/').rfind(|part| !part.is_empty() && *part != b".")?;
    (last != b".." && path.first() != Some(&b'@')).then_some(last)
}

fn notifications(environment: &Variables<'_>, systemd: &Systemd) {
    let address = environment.get("NOTIFY_SOCKET").filter(|address| address.len() > 1 && b"/@".contains(&address[0]));
    assert_eq!(systemd.notify_address().map(|path| path.as_os_str().as_bytes()), address);

    let (receiver, ours) = OURS.get().expect("prepared");
    let state = environment.text("STATE").unwrap_or_default();
    if address.is_some_and(|address| address != ours.as_bytes()) {
        return; // it may belong to somebody
    }
    match systemd.notify(state) {
        Err(Error::InvalidArgument(_)) => assert!(state.is_empty()),
        Ok(told) => assert!(!state.is_empty() && told == address.is_some(), "told: {told}"),
        Err(other) => panic!("{other}"),
    }
    let mut buffer = [0; 8192];
    match receiver.recv(&mut buffer) {
        Ok(got) => assert_eq!(&buffer[..got], state.as_bytes()),
        Err(_) => assert!(address.is_none() || state.is_empty(), "a notification got lost"),
    }
}

/// Digits and nothing else, as a number of 32 bits.
fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().map(|byte| byte.is_ascii_digit().then(|| u64::from(byte - b'0')));
    let value = digits.reduce(|value, digit| Some((value? * 10 + digit?).min(u64::from(u32::MAX) + 1)))??;
    (value <= u64::from(u32::MAX)).then_some(value)
}

fn listeners(environment: &Variables<'_>, systemd: &Systemd) {
    let name = environment.text("NAMED");
    let result = systemd.take_listener(name, environment.asked());
    let for_us = environment.get("LISTEN_PID").and_then(number) == Some(u64::from(PID));
    let Some(count) = environment.get("LISTEN_FDS").filter(|_| for_us) else {
        return assert!(matches!(result, Ok(None)), "nothing was passed: {result:?}");
    };
    let text = match result {
        Err(Error::Systemd(text)) => text,
        Ok(None) if number(count) == Some(0) => return,
        other => panic!("expected Error::Systemd, got {other:?}"),
    };
    let Some(count) = number(count).filter(|count| *count <= 65_536) else {
        return assert!(text.starts_with("LISTEN_FDS is "), "{text}");
    };

    let given = String::from_utf8_lossy(environment.get("LISTEN_FDNAMES").unwrap_or_default());
    let given: Vec<&str> = if given.is_empty() { Vec::new() } else { given.split(':').collect() };
    let name_of = |at: usize| given.get(at).copied().unwrap_or("unknown");
    let begins = |fd: i32, name: &str| format!("the passed descriptor {fd} (named {name:?}) cannot be used: ");
    // SAFETY: takes no pointers.
    let is_open = |fd: i32| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;

    let expected = if let Some(closed) = (0..count as usize).find(|at| !is_open(FIRST + *at as i32)) {
        begins(FIRST + closed as i32, name_of(closed))
    } else if let Some(name) = name {
        match (0..count as usize).find(|at| name_of(*at) == name) {
            Some(at) => begins(FIRST + at as i32, name),
            None => format!("no descriptor named {name:?} was passed"),
        }
    } else if count == 1 {
        begins(FIRST, name_of(0))
    } else {
        format!("{count} descriptors were passed and none listens at {:?}", environment.asked())
    };
    assert!(text.starts_with(&expected), "expected {expected:?}, got {text:?}");
}
