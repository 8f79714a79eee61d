//! The C room: every symbol that `libudsipc.so` exports, and nothing that decides anything.
//!
//! - `guard`: the boundary: panics and errors become statuses, the last failure keeps its text
//! - `handle`: pointers from and to C: handles, slices, strings, texts
//! - `status`: the numbers, their texts, which error has which number
//! - `errors`: `udsipc_strerror`, `udsipc_last_error_message`
//! - `callback`: callback types, and the way from C function pointers to the core's closures
//! - `options`: `udsipc_writer_options_*`, `udsipc_reader_options_*`
//! - `writer`: `udsipc_writer_*`, `udsipc_write_*`
//! - `reader`: `udsipc_reader_*`, `udsipc_connection_*`
//! - `systemd`: paths and systemd
//! - `version`: version and constants
//! - `manual.h`: the comment at the top of `udsipc.h`
//!
//! `build.rs` makes `include/udsipc.h` from these files, so the documentation of an export is written for the reader of
//! a C header.
#![allow(unsafe_code)]
#![allow(non_camel_case_types)] // one spelling in Rust and in C: grep finds both
#![allow(unreachable_pub)] // an export is reached through its symbol, and cbindgen looks for `pub`

mod callback;
mod errors;
mod guard;
mod handle;
mod options;
mod reader;
mod status;
mod systemd;
mod version;
mod writer;

/// The header says that every call may come from any thread: the compiler is asked here whether that is true.
const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<writer::udsipc_writer>();
    shareable::<reader::udsipc_reader>();
    shareable::<options::udsipc_writer_options>();
    shareable::<options::udsipc_reader_options>();
};
