//! What can be read off a reader: counters, the path, a line for a log.

use std::path::Path;

use crate::metrics::ReaderMetrics;
use crate::path::one_line;

use super::event_loop::EventLoop;

impl EventLoop {
    pub(super) fn metrics(&self) -> ReaderMetrics {
        let (received, received_bytes) = self.buffers.received();
        ReaderMetrics {
            received,
            connections: self.connections.served(),
            errors: self.errors.count(),
            active_connections: self.connections.len() as u64,
            received_bytes,
            accept_errors: self.acceptor.errors(),
            idle_closed: self.connections.inactive(),
            refused: self.acceptor.refused(),
            relistened: self.acceptor.listener.relistened(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        self.acceptor.listener.path()
    }

    pub(super) fn describe(&self) -> String {
        let path = one_line(self.path());
        let (shared, rings) = self.rings.in_use();
        let memory = format!("shared_memory={shared} rings={rings}");
        if !self.environment.is_active() {
            return format!("running standalone socket_path={path} {memory}");
        }
        let directory = |dir: Option<&Path>| dir.map(one_line).unwrap_or_default();
        format!(
            "running under systemd socket_path={path} runtime_dir={} state_dir={} socket_activation={} \
             ready_notification={} {memory}",
            directory(self.environment.runtime_dir()),
            directory(self.environment.state_dir()),
            self.acceptor.listener.is_activated(),
            self.environment.notify_address().is_some(),
        )
    }
}
