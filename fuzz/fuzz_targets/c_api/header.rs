//! `include/udsipc.h`, as far as the target needs it.

use std::ffi::{CStr, c_char, c_void};

pub const OK: i32 = 0;
pub const NULL_POINTER: i32 = 1;
pub const INVALID_ARGUMENT: i32 = 2;
pub const INVALID_SOCKET_PATH: i32 = 3;
pub const INVALID_TIMEOUT: i32 = 4;
pub const INVALID_BUFFER_SIZE: i32 = 5;
pub const HANDLER_NULL: i32 = 6;
pub const MAX_ACCEPT_ERRORS_TOO_LARGE: i32 = 7;
pub const WOULD_DEADLOCK: i32 = 8;
pub const WRONG_STATE: i32 = 10;
pub const BUFFER_FULL: i32 = 20;
pub const STOPPED: i32 = 21;
pub const MESSAGE_TOO_LARGE: i32 = 22;
pub const TIMEOUT: i32 = 23;
const BACKPRESSURE: i32 = 24;
const NO_CONSUMER: i32 = 25;
const NOT_CONNECTED: i32 = 26;
const CONNECTION_CLOSED: i32 = 27;
pub const UNDELIVERED: i32 = 28;
pub const NOT_ACKNOWLEDGED: i32 = 29;
const HANDLER_FAILED: i32 = 42;
pub const ADDRESS_IN_USE: i32 = 43;
const PERMISSION_DENIED: i32 = 44;

/// All the numbers that have a text of their own.
pub const STATUSES: [i32; 30] =
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 40, 41, 42, 43, 44, 45, 46, 47, 90];

/// What an error callback is told apart by.
pub const WRITER_ERROR: usize = 1;
pub const READER_ERROR: usize = 2;

/// What can go wrong in the background between a writer and a reader on one machine that has enough of everything.
pub const WRITER_CONTEXTS: &[(i32, &CStr)] = &[
    (NOT_CONNECTED, c"failed to connect"),
    (NOT_ACKNOWLEDGED, c"failed to connect"),
    (PERMISSION_DENIED, c"failed to connect"),
    (MESSAGE_TOO_LARGE, c"write failure"),
    (MESSAGE_TOO_LARGE, c"write failure after reconnect"),
    (NO_CONSUMER, c"write failure"),
    (BACKPRESSURE, c"write failure"),
    (NO_CONSUMER, c"write failure after reconnect"),
    (BACKPRESSURE, c"write failure after reconnect"),
    (UNDELIVERED, c"write failure after reconnect"),
    (UNDELIVERED, c"write failure during drain"),
    (TIMEOUT, c"write failure during drain"),
    (UNDELIVERED, c"write failure during drain (retry message)"),
    (TIMEOUT, c"write failure during drain (retry message)"),
];
pub const READER_CONTEXTS: &[(i32, &CStr)] = &[
    (CONNECTION_CLOSED, c"failed to read the length prefix"),
    (CONNECTION_CLOSED, c"failed to read the complete message"),
    (TIMEOUT, c"failed to read the complete message"),
    (MESSAGE_TOO_LARGE, c"message too large"),
    (HANDLER_FAILED, c"handler failed to process a message"),
];

#[repr(C)]
pub struct Buffer {
    pub data: *const u8,
    pub len: usize,
}

/// `udsipc_writer_metrics`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct Counters {
    pub sent: u64,
    pub dropped: u64,
    pub failed: u64,
    pub queue_depth: u64,
    pub queue_bytes: u64,
    pub sent_bytes: u64,
    pub retried: u64,
    pub abandoned: u64,
    pub suspected_lost: u64,
    pub connections: u64,
    pub connect_failures: u64,
    pub acknowledged: u64,
    pub redelivered: u64,
    pub ring_bytes: u64,
}

pub const WRITER_COUNTERS: usize = size_of::<Counters>() / 8;
pub const READER_COUNTERS: usize = 10;

pub type OnMessage = unsafe extern "C" fn(*const u8, usize, *const c_void, *mut c_void) -> i32;
pub type OnMessages = unsafe extern "C" fn(*const Buffer, usize, *const c_void, *mut c_void) -> usize;
pub type OnError = unsafe extern "C" fn(i32, i32, *const c_char, *mut c_void);

unsafe extern "C" {
    pub fn udsipc_strerror(status: i32) -> *const c_char;
    pub fn udsipc_last_error_message(buffer: *mut c_char, capacity: usize) -> usize;
    pub fn udsipc_version() -> *const c_char;

    pub fn udsipc_writer_options_new() -> *mut c_void;
    pub fn udsipc_writer_options_free(options: *mut c_void);
    pub fn udsipc_writer_options_set_max_buffered_writes(options: *mut c_void, messages: u32) -> i32;
    pub fn udsipc_writer_options_set_max_buffered_bytes(options: *mut c_void, bytes: u64) -> i32;
    pub fn udsipc_writer_options_set_max_message_size(options: *mut c_void, bytes: u64) -> i32;
    pub fn udsipc_writer_options_set_write_timeout_ms(options: *mut c_void, ms: u64) -> i32;
    pub fn udsipc_writer_options_set_dial_timeout_ms(options: *mut c_void, ms: u64) -> i32;
    pub fn udsipc_writer_options_set_max_backoff_ms(options: *mut c_void, ms: u64) -> i32;
    pub fn udsipc_writer_options_set_write_buffer_size(options: *mut c_void, bytes: u32) -> i32;
    pub fn udsipc_writer_options_set_max_attempts(options: *mut c_void, attempts: u32) -> i32;
    pub fn udsipc_writer_options_set_drain_until_deadline(options: *mut c_void, on: i32) -> i32;
    pub fn udsipc_writer_options_set_linger_ms(options: *mut c_void, ms: u64) -> i32;
    pub fn udsipc_writer_options_set_acknowledge(options: *mut c_void, mode: i32) -> i32;
    pub fn udsipc_writer_options_set_redeliver(options: *mut c_void, on: i32) -> i32;
    pub fn udsipc_writer_options_set_error_callback(
        options: *mut c_void,
        callback: Option<OnError>,
        userdata: *mut c_void,
    ) -> i32;

    pub fn udsipc_writer_new(path: *const c_char, options: *const c_void, out: *mut *mut c_void) -> i32;
    pub fn udsipc_writer_start(writer: *mut c_void) -> i32;
    pub fn udsipc_write_message(writer: *mut c_void, data: *const c_void, len: usize) -> i32;
    pub fn udsipc_write_message_timeout(writer: *mut c_void, data: *const c_void, len: usize, ms: u64) -> i32;
    pub fn udsipc_write_messages(
        writer: *mut c_void,
        messages: *const Buffer,
        count: usize,
        accepted: *mut usize,
    ) -> i32;
    pub fn udsipc_writer_flush(writer: *mut c_void, ms: u64) -> i32;
    pub fn udsipc_writer_stop(writer: *mut c_void, ms: u64) -> i32;
    pub fn udsipc_writer_get_metrics(writer: *const c_void, out: *mut c_void, size: usize) -> i32;
    pub fn udsipc_writer_socket_path(writer: *const c_void) -> *const c_char;
    pub fn udsipc_writer_is_connected(writer: *const c_void) -> i32;
    pub fn udsipc_writer_free(writer: *mut c_void);
    pub fn udsipc_writer_fd(writer: *const c_void) -> i32;
    pub fn udsipc_writer_dispatch(writer: *mut c_void, ms: u64) -> i32;

    pub fn udsipc_reader_options_new() -> *mut c_void;
    pub fn udsipc_reader_options_free(options: *mut c_void);
    pub fn udsipc_reader_options_set_max_message_size(options: *mut c_void, bytes: u64) -> i32;
    pub fn udsipc_reader_options_set_inactivity_timeout_ms(options: *mut c_void, ms: u64) -> i32;
    pub fn udsipc_reader_options_set_max_accept_errors(options: *mut c_void, count: u32) -> i32;
    pub fn udsipc_reader_options_set_read_buffer_size(options: *mut c_void, bytes: u32) -> i32;
    pub fn udsipc_reader_options_set_max_handler_threads(options: *mut c_void, threads: u32) -> i32;
    pub fn udsipc_reader_options_set_max_connections(options: *mut c_void, count: u32) -> i32;
    pub fn udsipc_reader_options_set_max_shared_memory(options: *mut c_void, bytes: u64) -> i32;
    pub fn udsipc_reader_options_set_socket_mode(options: *mut c_void, mode: u32) -> i32;
    pub fn udsipc_reader_options_allow_uid(options: *mut c_void, id: u32) -> i32;
    pub fn udsipc_reader_options_allow_gid(options: *mut c_void, id: u32) -> i32;
    pub fn udsipc_reader_options_set_listen_fd_name(options: *mut c_void, name: *const c_char) -> i32;
    pub fn udsipc_reader_options_set_use_systemd(options: *mut c_void, on: i32) -> i32;
    pub fn udsipc_reader_options_set_callback_stack_size(options: *mut c_void, bytes: u64) -> i32;
    pub fn udsipc_reader_options_set_linger_ms(options: *mut c_void, ms: u64) -> i32;
    pub fn udsipc_reader_options_set_error_callback(
        options: *mut c_void,
        callback: Option<OnError>,
        userdata: *mut c_void,
    ) -> i32;

    pub fn udsipc_reader_new(
        path: *const c_char,
        on_message: Option<OnMessage>,
        userdata: *mut c_void,
        options: *const c_void,
        out: *mut *mut c_void,
    ) -> i32;
    pub fn udsipc_reader_new_batched(
        path: *const c_char,
        on_messages: Option<OnMessages>,
        userdata: *mut c_void,
        options: *const c_void,
        out: *mut *mut c_void,
    ) -> i32;
    pub fn udsipc_reader_start(reader: *mut c_void) -> i32;
    pub fn udsipc_reader_stop(reader: *mut c_void, ms: u64) -> i32;
    pub fn udsipc_reader_get_metrics(reader: *const c_void, out: *mut c_void, size: usize) -> i32;
    pub fn udsipc_reader_socket_path(reader: *const c_void) -> *const c_char;
    pub fn udsipc_reader_describe(reader: *const c_void, buffer: *mut c_char, capacity: usize) -> usize;
    pub fn udsipc_reader_free(reader: *mut c_void);
    pub fn udsipc_reader_fd(reader: *const c_void) -> i32;
    pub fn udsipc_reader_dispatch(reader: *mut c_void, ms: u64) -> i32;

    pub fn udsipc_connection_id(connection: *const c_void) -> u64;
    pub fn udsipc_connection_writer_id(connection: *const c_void, id: *mut u8) -> i32;
    pub fn udsipc_message_sequence(connection: *const c_void) -> u64;
    pub fn udsipc_connection_credentials(connection: *const c_void, pid: *mut i32, uid: *mut u32, gid: *mut u32)
    -> i32;

    pub fn udsipc_resolve_socket_path(
        path: *const c_char,
        buffer: *mut c_char,
        capacity: usize,
        needed: *mut usize,
    ) -> i32;
    pub fn udsipc_ensure_socket_dir(path: *const c_char) -> i32;
    pub fn udsipc_cleanup_socket(path: *const c_char) -> i32;
    pub fn udsipc_systemd_is_active() -> i32;
    pub fn udsipc_systemd_runtime_dir() -> *const c_char;
    pub fn udsipc_systemd_state_dir() -> *const c_char;
    pub fn udsipc_systemd_notify(state: *const c_char) -> i32;
}
