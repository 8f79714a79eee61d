//! A service manager, as far as a service sees one.

use std::os::unix::net::UnixDatagram;

/// What systemd does for a socket unit: listen, pass the socket as descriptor 3, set LISTEN_*, exec in the same process.
pub(crate) const ACTIVATE: &str = "
import os, socket, sys
path, *command = sys.argv[1:]
listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
listener.bind(path)
listener.listen(128)
os.dup2(listener.fileno(), 3, inheritable=True) if listener.fileno() != 3 else os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='udsipc-example.socket')
print('bound', file=sys.stderr, flush=True)
sys.stdin.readline()  # a writer has connected: now the service starts
os.execv(command[0], command)
";

fn received(notify: &UnixDatagram) -> String {
    let mut datagram = [0; 4096];
    let size = notify.recv(&mut datagram).expect("a notification");
    String::from_utf8_lossy(&datagram[..size]).into_owned()
}

/// Waits for the notification that contains a line; others, such as STATUS=, may come before it.
pub(crate) fn wait_for_notification(notify: &UnixDatagram, line: &str) {
    while !received(notify).lines().any(|told| told == line) {}
}
