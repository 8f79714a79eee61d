//! What goes wrong in the field, made to happen: processes that are killed, stopped and starved, hosts and peers that
//! behave badly. One test per scenario of the programs in `ffi-tests/faults`, each in a process and a folder of its own.
//!
//! Each run prints its account, which the programs check while the fault lasts and when it is over:
//! `cargo test --test faults -- --nocapture` shows them.

#![allow(clippy::print_stdout)] // a test's output belongs to whoever runs it

mod support;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use support::{compile, compile_with, library, program, project, run_in_scratch};

fn show(scenario: &str, printed: &str) {
    println!("{scenario}\n{printed}");
}

program! { crashes from "ffi-tests/faults/crashes.c" as "c11", crate::show:
    reader_killed_under_load
    reader_of_many_writers_killed
    reader_killed_while_frozen
    reader_stopped_for_seconds
    reader_frozen_in_a_callback
    reader_restarted_a_thousand_times
    writer_killed_inside_a_frame
    host_exits_without_stop
}

program! { shortage from "ffi-tests/faults/shortage.c" as "c11", crate::show:
    descriptor_table_full_for_five_seconds
    descriptor_table_of_the_writer_full
    writer_stopped_without_descriptors
    reader_made_without_descriptors
    memory_refused_at_enqueue
    memory_refused_at_read
    directory_removed_while_running
    socket_file_deleted_and_replaced
    directory_made_unreadable
    directory_unreadable_for_the_writer
    file_system_full
    backlog_full_with_200_writers
}

program! { host from "ffi-tests/faults/host.c" as "c11", crate::show:
    signal_storm
    millisecond_timers
    callbacks_that_fail
    stop_races_with_everything
}

program! { throws from "ffi-tests/faults/throws.cpp" as "c++11", crate::show:
    exception_in_a_message_callback
    exception_in_a_batch_callback
    exception_in_an_error_callback
    exception_in_a_dispatched_callback
}

program! { hostile from "ffi-tests/faults/hostile.c" as "c11", crate::show:
    random_bytes
    valid_frames_cut_anywhere
    lengths_up_to_the_largest
    one_byte_at_a_time
    out_of_band_bytes
    descriptors_with_every_message
    a_flood_of_connects
    peers_that_never_close
    uid_that_may_not_enter
    gid_that_may_not_enter
    more_than_max_connections
}

/// A host that is not linked against the library, so that `dlclose` may really unload it.
fn plugin_host() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| compile_with(&project("ffi-tests/faults/plugin.c"), "c11", &["-ldl"]))
}

fn load_and_unload(who: &str) {
    let library = library();
    run_in_scratch(plugin_host(), &[library.to_str().expect("a path in UTF-8"), who]);
}

#[test]
fn dlopen_and_dlclose_in_the_main_thread() {
    load_and_unload("main");
}

#[test]
fn dlopen_and_dlclose_in_threads_that_end() {
    load_and_unload("thread");
}

#[test]
fn dlclose_when_every_thread_that_used_it_has_ended() {
    load_and_unload("around");
}

/// A few seconds of what `make soak` does for hours.
#[test]
fn a_short_soak() {
    let program = compile(&project("ffi-tests/soak/soak.c"), "c11");
    let printed = run_in_scratch(&program, &["0.1"]);
    assert!(printed.contains("account of all writers"), "{printed}");
}
