//! Sleeping until a number changes.

use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// Sleeps while `value` is `expected`, at most `limit`; may wake early.
#[cfg(target_os = "linux")]
pub fn wait(value: &AtomicU32, expected: u32, limit: Duration) {
    let time = libc::timespec {
        tv_sec: limit.as_secs() as libc::time_t,
        tv_nsec: limit.subsec_nanos() as libc::c_long,
    };
    // SAFETY: the kernel reads the 32-bit value and the time, both alive during the call.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            value.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            expected,
            &raw const time,
        );
    }
}

/// Wakes every thread that waits for `value`.
#[cfg(target_os = "linux")]
pub fn wake_all(value: &AtomicU32) {
    // SAFETY: the address is only used as a key.
    unsafe {
        libc::syscall(libc::SYS_futex, value.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX);
    }
}

/// Elsewhere: short sleeps.
#[cfg(not(target_os = "linux"))]
pub fn wait(value: &AtomicU32, expected: u32, limit: Duration) {
    if value.load(std::sync::atomic::Ordering::SeqCst) == expected {
        std::thread::sleep(limit.min(Duration::from_micros(50)));
    }
}

#[cfg(not(target_os = "linux"))]
pub fn wake_all(_value: &AtomicU32) {}
