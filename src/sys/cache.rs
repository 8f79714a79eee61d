//! Prefetch hints.

/// One cache line of the processors that this runs on.
const LINE: usize = 64;

/// Prefetches for writing `len` bytes that begin `ahead` bytes behind the end of `filled`. The address may lie outside of any
/// buffer: a prefetch touches nothing.
///
/// For memory that another processor has read last: a store waits until that processor has given up its copy of the cache
/// line. Without the hint the stores of successive messages wait one after the other.
#[inline(always)]
pub(crate) fn fetch_for_writing(filled: &[u8], ahead: usize, len: usize) {
    fetch_range_for_writing(filled.as_ptr().wrapping_add(filled.len() + ahead), len);
}

/// As [`fetch_for_writing`], from an address on.
#[inline(always)]
pub(super) fn fetch_range_for_writing(first: *const u8, len: usize) {
    // Two lines cover most messages. One prefetch too many costs less than a comparison.
    fetch_line_for_writing(first);
    fetch_line_for_writing(first.wrapping_add(LINE));
    let mut at = 2 * LINE;
    while at < len {
        fetch_line_for_writing(first.wrapping_add(at));
        at += LINE;
    }
}

#[inline(always)]
fn fetch_line_for_writing(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHW neither faults nor changes what a program can see; processors that lack it do nothing (Intel 64 and
    // IA-32 Architectures Software Developer's Manual, PREFETCHW). `_mm_prefetch` would ask for a copy to read, which costs
    // more than it gains.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: PRFM is a hint and never faults (Arm Architecture Reference Manual, PRFM).
    unsafe {
        std::arch::asm!("prfm pstl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = address;
}
