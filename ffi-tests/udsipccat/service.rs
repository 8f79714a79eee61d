//! As a service: Type=notify, and a socket that systemd passes.

use std::os::unix::net::UnixDatagram;
use std::process::Command;

use crate::desk::{Desk, ends_with, program, udsipccat};
use crate::support::running::Running;
use crate::support::systemd::{ACTIVATE, wait_for_notification};
use crate::support::{PATIENCE, link_dir, python3};

fn notify_socket(desk: &Desk) -> UnixDatagram {
    let socket = UnixDatagram::bind(desk.path("notify")).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn tells_systemd_when_it_is_ready_and_when_it_stops() {
    let desk = Desk::new();
    let notify = notify_socket(&desk);
    let with_notify = |arguments: &str| {
        let mut command = udsipccat(arguments);
        command.env("NOTIFY_SOCKET", desk.path("notify"));
        command
    };
    let mut reader = desk.start_command("reader", with_notify("-r b"));
    wait_for_notification(&notify, "READY=1");
    let mut tap = desk.start_command("tap", with_notify("--tap a b"));
    wait_for_notification(&notify, "READY=1");
    assert!(desk.path("a").exists(), "it is ready when it listens");
    let mut writer = desk.start_command("writer", with_notify("-w a"));
    wait_for_notification(&notify, "READY=1");
    writer.feed("1\n");
    writer.end_of_input();
    ends_with(&mut writer, Some(0));
    for stopped in [&mut tap, &mut reader] {
        stopped.terminate();
        wait_for_notification(&notify, "STOPPING=1");
        ends_with(stopped, Some(0));
    }
    assert_eq!(reader.stdout(), "1\n");
}

/// The writer is there before the reader, which is started for it.
#[test]
fn takes_the_socket_that_systemd_passes() {
    let desk = Desk::new();
    let mut launcher = Command::new(python3().expect("python3"));
    launcher.args(["-c", ACTIVATE, "given"]).arg(program()).args(["-r", "-n", "2", "fallback"]);
    let mut reader = desk.start_command("reader", {
        launcher.env("LD_LIBRARY_PATH", link_dir());
        launcher
    });
    reader.wait_for("has a socket", Running::stderr, |text| text.contains("bound"));
    let mut writer = desk.start("writer", "-w given");
    writer.feed("1\n2\n");
    writer.end_of_input();
    reader.feed("start\n");
    ends_with(&mut writer, Some(0));
    ends_with(&mut reader, Some(0));
    assert_eq!(reader.stdout(), "1\n2\n");
    assert!(desk.path("given").exists() && !desk.path("fallback").exists(), "the socket is systemd's");
}
