//! What the fuzz targets share: a reference of the wire format, and the open descriptors of this process.

use std::panic;
use std::sync::LazyLock;

/// The variables that a reader follows. Where they are set, by the machine that runs the fuzzer, the fuzzer would speak
/// to a real service manager.
const VARIABLES: [&str; 6] =
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "STATE_DIRECTORY"];

/// To be called once, before the first input.
pub fn prepare() {
    for name in VARIABLES {
        // SAFETY: libFuzzer calls its initialiser before it makes any thread.
        unsafe { std::env::remove_var(name) };
    }
    // The library catches its own panics and keeps them quiet, and so hides findings: its hook is installed first, by a
    // call that does nothing else, and replaced then.
    // SAFETY: NULL is allowed for every argument.
    unsafe { udsipc_writer_new(std::ptr::null(), std::ptr::null(), std::ptr::null_mut()) };
    panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        std::process::abort();
    }));
}

use udsipc as _; // its symbols

unsafe extern "C" {
    fn udsipc_writer_new(path: *const libc::c_char, options: *const libc::c_void, out: *mut libc::c_void) -> i32;
}

pub mod delivery;

/// The wire format once more, byte by byte as Go's `binary.ReadUvarint` reads it, and without any trick.
pub mod wire {
    /// Where a stream of frames ends.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum End {
        /// Between two frames.
        Clean,
        /// Inside a prefix.
        InPrefix,
        /// Inside a payload; how long the frame is with its prefix.
        InPayload(u64),
        /// At a length above the limit.
        TooLarge(u64),
        /// At a prefix that is no varint of 64 bits.
        Overflow,
    }

    impl End {
        /// Whether the reader closes the connection here, whatever follows.
        pub fn is_refused(self) -> bool {
            matches!(self, End::TooLarge(_) | End::Overflow)
        }
    }

    /// The payloads at the front of a stream, empty ones included, where the first frame that is not whole begins, and
    /// what it is.
    pub fn read(stream: &[u8], limit: u64) -> (Vec<&[u8]>, usize, End) {
        let (mut payloads, mut at) = (Vec::new(), 0);
        loop {
            match read_one(&stream[at..], limit) {
                Ok((payload, size)) => {
                    payloads.push(payload);
                    at += size;
                }
                Err(end) => return (payloads, at, end),
            }
        }
    }

    fn read_one(bytes: &[u8], limit: u64) -> Result<(&[u8], usize), End> {
        let (mut len, mut size) = (0_u128, 0);
        loop {
            let Some(byte) = bytes.get(size) else {
                return Err(if size == 0 { End::Clean } else { End::InPrefix });
            };
            len += u128::from(byte % 128) << (7 * size);
            size += 1;
            // The tenth byte holds the 64th bit: one that says more, or that more follows, is too much.
            if size == 10 && *byte > 1 {
                return Err(End::Overflow);
            }
            if *byte < 128 {
                break;
            }
        }
        let (announced, end) = (len as u64, len + size as u128);
        if announced > limit || end > u128::from(u64::MAX) {
            return Err(End::TooLarge(announced));
        }
        if end > bytes.len() as u128 {
            return Err(End::InPayload(end as u64));
        }
        Ok((&bytes[size..end as usize], end as usize))
    }

    /// A prefix of exactly `size` bytes, padded if that is more than the length needs.
    pub fn prefix(len: u64, size: usize) -> Vec<u8> {
        let needed = (64 - len.leading_zeros() as usize).div_ceil(7).max(1);
        let size = size.clamp(needed, 10);
        (0..size)
            .map(|at| {
                let bits = if at == 9 { len >> 63 } else { len >> (7 * at) & 127 };
                bits as u8 + if at + 1 < size { 128 } else { 0 }
            })
            .collect()
    }
}

/// Returns the choice that a number stands for. `derive(Arbitrary)` takes four bytes for that, of which three say nothing: a
/// fuzzer would change mostly those.
#[macro_export]
macro_rules! choose {
    ($number:expr; $($choice:expr),+ $(,)?) => {{
        let mut rest = usize::from($number) % [$(stringify!($choice)),+].len();
        $(
            if rest == 0 {
                return Ok($choice);
            }
            rest = rest.wrapping_sub(1);
        )+
        unreachable!("{rest} is above the number of choices")
    }};
}

/// Bytes without a period, from a table: made one by one in an instrumented program, they would cost more than all else.
pub fn pattern(start: usize, len: usize) -> &'static [u8] {
    static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        std::iter::repeat_with(next).take(1 << 20).collect()
    });
    &TABLE[start..start + len]
}

/// Which descriptors are open, of those that an input can have opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors([u64; 4]);

impl Descriptors {
    /// Those that are open now: with one system call, since it is asked for with every input.
    pub fn open() -> Descriptors {
        let mut all: [libc::pollfd; 256] =
            std::array::from_fn(|fd| libc::pollfd { fd: fd as i32, events: 0, revents: 0 });
        // SAFETY: an array of 256 entries, for the length of the call.
        let asked = unsafe { libc::poll(all.as_mut_ptr(), all.len() as libc::nfds_t, 0) };
        assert!(asked >= 0, "poll(2) failed");
        let mut open = [0; 4];
        for entry in all.iter().filter(|entry| entry.revents & libc::POLLNVAL == 0) {
            open[entry.fd as usize / 64] |= 1 << (entry.fd % 64);
        }
        Descriptors(open)
    }
}
