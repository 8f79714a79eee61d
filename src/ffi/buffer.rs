//! `udsipc_buffer`.

/// One message: len bytes at data. (NULL, 0) is an empty message.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct udsipc_buffer {
    /// The first byte.
    pub data: *const u8,
    /// The number of bytes.
    pub len: usize,
}
