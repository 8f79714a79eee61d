//! Zeroed memory that the kernel provides on first use.

use std::alloc::Layout;
use std::io;
use std::ptr::NonNull;

/// A vector of `len` zeroes, or `None` if there is no memory. A large one usually comes fresh from the kernel, which provides
/// its pages when they are first written to (calloc(3), mmap(2), mallopt(3)): unused parts cost no memory.
pub(crate) fn zeroes(len: usize) -> Option<Vec<u8>> {
    let layout = Layout::array::<u8>(len).ok().filter(|layout| layout.size() > 0)?;
    // SAFETY: the layout is not empty.
    let memory = unsafe { std::alloc::alloc_zeroed(layout) };
    if memory.is_null() {
        return None;
    }
    // SAFETY: the global allocator returned it for this layout, which is that of a vector with this capacity; every byte is
    // initialised.
    Some(unsafe { Vec::from_raw_parts(memory, len, len) })
}

/// Zeroed pages straight from the kernel (mmap(2)), for what lives as long as the process.
pub(super) fn map_zeroes(len: usize) -> io::Result<NonNull<u8>> {
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address that the kernel chooses.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_as_asked_for_or_none() {
        let mut some = zeroes(300_000).expect("memory");
        assert!(some.iter().all(|byte| *byte == 0));
        assert_eq!((some.len(), some.capacity()), (300_000, 300_000));
        some.push(1);
        assert_eq!(zeroes(0), None);
        assert_eq!(zeroes(usize::MAX), None);
    }
}
