//! The command line tool, driven as a person or a script drives it: by its options, its input and output, signals, and at a
//! terminal.

#![allow(clippy::unwrap_used)]

#[path = "udsipccat/command_line.rs"]
mod command_line;
#[path = "udsipccat/completions.rs"]
mod completions;
#[path = "udsipccat/desk.rs"]
mod desk;
#[path = "udsipccat/look.rs"]
mod look;
#[path = "udsipccat/receive.rs"]
mod receive;
#[path = "udsipccat/record.rs"]
mod record;
#[path = "udsipccat/send.rs"]
mod send;
#[path = "udsipccat/service.rs"]
mod service;
mod support;
#[path = "udsipccat/tap.rs"]
mod tap;
#[path = "udsipccat/terminal.rs"]
mod terminal;
