//! Notifications to systemd (sd_notify(3)). They never wait.

use std::os::fd::AsFd as _;

use super::Environment;
use crate::error::{Error, Result};
use crate::sys::lock::Mutex;
use crate::sys::socket;

impl Environment {
    /// See [`notify`](super::notify()).
    pub(crate) fn notify(&self, state: &str) -> Result<bool> {
        if state.is_empty() || state.contains('\0') {
            return Err(Error::InvalidArgument("a notification must not be empty and holds no NUL byte".into()));
        }
        let Some(address) = self.notify_address() else { return Ok(false) };
        let sent = socket::connect_datagram(address).and_then(|fd| socket::send(fd.as_fd(), state.as_bytes()));
        match sent {
            Ok(_) => Ok(true),
            Err(error) => Err(Error::from_os(format!("notify systemd at {address:?} (NOTIFY_SOCKET)"), error)),
        }
    }
}

/// What one reader has announced to systemd. READY=1 is sent once at most; STOPPING=1 once at most, and only after READY=1.
#[derive(Debug, Default)]
pub(crate) struct ServiceState(Mutex<Announced>);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Announced {
    #[default]
    Nothing,
    Ready,
    /// The stop has begun: nothing more is announced.
    Stopping,
}

impl ServiceState {
    /// Sends READY=1: the reader serves.
    pub(crate) fn ready(&self, environment: &Environment) -> Result<()> {
        // The lock is held while READY=1 is sent, so that the STOPPING=1 of another thread comes after it.
        let mut announced = self.0.lock();
        if *announced == Announced::Nothing {
            environment.notify("READY=1")?;
            *announced = Announced::Ready;
        }
        Ok(())
    }

    /// Sends STOPPING=1: the reader begins to stop.
    pub(crate) fn stopping(&self, environment: &Environment) -> Result<()> {
        let mut announced = self.0.lock();
        match std::mem::replace(&mut *announced, Announced::Stopping) {
            Announced::Ready => environment.notify("STOPPING=1").map(drop),
            Announced::Nothing | Announced::Stopping => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::path::Path;
    use std::time::{Duration, Instant};

    use tempfile::tempdir;

    use super::super::tests::environment;
    use super::*;

    fn receiver(path: &Path) -> (UnixDatagram, Environment) {
        let receiver = UnixDatagram::bind(path).expect("a socket");
        receiver.set_nonblocking(true).expect("a socket");
        (receiver, environment(&[("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))]))
    }

    fn received(receiver: &UnixDatagram) -> Vec<String> {
        let mut all = Vec::new();
        let mut buffer = [0; 64];
        while let Ok(got) = receiver.recv(&mut buffer) {
            all.push(String::from_utf8(buffer[..got].to_vec()).expect("UTF-8"));
        }
        all
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
    fn a_notification_that_cannot_be_delivered_says_so_and_never_waits() {
        let dir = tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let environment = environment(&[("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))]);
        let text = environment.notify("READY=1").expect_err("no socket").to_string();
        assert!(text.contains("NOTIFY_SOCKET") && text.contains("notify"), "{text}");

        // A receiver that does not read: its queue takes some, and the call then gives up at once.
        let receiver = UnixDatagram::bind(&path).expect("a socket");
        let full = (0..100_000).find_map(|_| environment.notify("WATCHDOG=1").err()).expect("a queue has an end");
        assert!(matches!(&full, Error::Io { source, .. } if source.kind() == io::ErrorKind::WouldBlock), "{full}");
        let fastest = (0..20).map(|_| {
            let begin = Instant::now();
            environment.notify("WATCHDOG=1").expect_err("still full");
            begin.elapsed()
        });
        assert!(fastest.min() < Some(Duration::from_millis(20)), "it waits for room");
        drop(receiver);
        environment.notify("READY=1").expect_err("a stale socket");
    }

    #[test]
    fn stopping_follows_ready_and_nothing_else() {
        let dir = tempdir().expect("a directory");
        let (receiver, environment) = receiver(&dir.path().join("notify"));
        let service_state = ServiceState::default();
        for _ in 0..2 {
            service_state.ready(&environment).expect("sent");
        }
        for _ in 0..2 {
            service_state.stopping(&environment).expect("sent");
        }
        service_state.ready(&environment).expect("too late");
        assert_eq!(received(&receiver), ["READY=1", "STOPPING=1"]);

        let never_ready = ServiceState::default();
        never_ready.stopping(&environment).expect("nothing to say");
        never_ready.ready(&environment).expect("too late");
        assert_eq!(received(&receiver), [""; 0]);
    }

    #[test]
    fn a_reader_whose_ready_did_not_arrive_may_say_it_again_and_does_not_announce_its_stop() {
        let dir = tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let nobody = environment(&[("NOTIFY_SOCKET", path.to_str().expect("UTF-8"))]);
        let service_state = ServiceState::default();
        service_state.ready(&nobody).expect_err("no receiver");
        service_state.stopping(&nobody).expect("nothing to say");
    }
}
