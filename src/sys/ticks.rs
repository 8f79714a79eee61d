//! The processor's time stamp counter, which is cheaper to read than a clock.

/// How many ticks a moment has: about fifty microseconds on x86-64 (1 to 5 GHz), 4 to 200 on 64-bit ARM (20 MHz to 1 GHz).
/// 0 on processors without such a counter: every difference counts as longer.
pub(crate) const MOMENT: u64 = match () {
    () if cfg!(target_arch = "x86_64") => 1 << 17,
    () if cfg!(target_arch = "aarch64") => 1 << 12,
    () => 0,
};

/// The counter. Grows with time at the processor's rate, and may jump when the thread moves to another processor. 0 on
/// processors without one.
#[inline(always)]
pub(crate) fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has RDTSC. A process that disables it for itself (PR_SET_TSC, prctl(2)) also
    // loses the clocks of the C library, which read the same counter.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: Linux lets every program read the virtual counter (CNTKCTL_EL1.EL0VCTEN), which its clocks are made of.
    unsafe {
        let ticks;
        std::arch::asm!("mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags));
        ticks
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    0
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    #[test]
    fn a_moment_is_short_but_longer_than_a_few_calls() {
        let moment = |from: u64| super::now().wrapping_sub(from) > super::MOMENT;
        // Another thread may take the processor in between: the shortest of some counts.
        let took = (0..100).map(|_| {
            let (ticks, begun) = (super::now(), Instant::now());
            while !moment(ticks) {}
            begun.elapsed()
        });
        let took = took.min().expect("some");
        assert!(took > Duration::from_nanos(500) && took < Duration::from_millis(1), "{took:?}");
    }
}
