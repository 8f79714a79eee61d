//! The C ABI: every symbol that `libudsipc.so` exports. Converts and checks arguments, and decides nothing else.
//!
//! `build.rs` generates `include/udsipc.h` from these files, one group of declarations for each object, so the documentation
//! of an export is written for the reader of a C header. In the header's order:
//!
//! - `manual.h`: the comment at the top
//! - `version`, `status`, `errors`: version and constants, status numbers and their texts, `udsipc_strerror`
//! - `buffer`, `error_callback`: types that writers and readers share
//! - `writer_options`, `writer`
//! - `reader_options`, `connection`, `message_callback`, `reader`
//! - `systemd`: paths and systemd
//!
//! What the exports are made of:
//!
//! - `guard`: the boundary: panics and errors become statuses, and the last failure's text is kept
//! - `handle`: pointers from and to C: handles, slices, strings, texts
//! - `options`: what the options of writers and readers share
//! - `user_data`: the userdata pointer of a callback
#![allow(unsafe_code)]
#![allow(non_camel_case_types)] // one spelling in Rust and in C: grep finds both
#![allow(unreachable_pub)] // an export is reached through its symbol, and cbindgen looks for `pub`

mod buffer;
mod connection;
mod error_callback;
mod errors;
mod guard;
mod handle;
mod message_callback;
mod options;
mod reader;
mod reader_options;
mod status;
mod systemd;
mod user_data;
mod version;
mod writer;
mod writer_options;

/// The header promises that calls may come from any thread: the compiler checks that here.
const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<writer::udsipc_writer>();
    shareable::<reader::udsipc_reader>();
    shareable::<writer_options::udsipc_writer_options>();
    shareable::<reader_options::udsipc_reader_options>();
};
