//! Memory that costs nothing before it is used.

use std::alloc::Layout;

/// So many zeroes, or `None` if there is no memory. A large piece usually comes fresh from the kernel, which gives it page
/// by page as it is written to (calloc(3), mmap(2), mallopt(3)): what is never used is never there.
pub(crate) fn zeroes(len: usize) -> Option<Vec<u8>> {
    let layout = Layout::array::<u8>(len).ok().filter(|layout| layout.size() > 0)?;
    // SAFETY: the layout is not empty.
    let memory = unsafe { std::alloc::alloc_zeroed(layout) };
    if memory.is_null() {
        return None;
    }
    // SAFETY: the global allocator gave it for this very layout, that of a vector with this capacity, and every byte of it is
    // initialised.
    Some(unsafe { Vec::from_raw_parts(memory, len, len) })
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
