//! A number that threads wait on until it changes.
//!
//! On Linux one system call wakes all waiting threads; elsewhere they park and are unparked one by one.
//! Measured on Linux with two threads, both take as long; with eight threads on two cores, the first region
//! after a rest takes 39 us with the system call and 55 us with `park`.
//!
//! A waker changes `value` before it calls `wake_all`, so a thread that calls `wait` with the old value is
//! woken, or does not sleep.

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    #[derive(Default)]
    pub struct Futex {
        pub value: AtomicU32,
    }

    impl Futex {
        /// Sleeps while `value` is `expected`, at most `limit`; may wake early.
        pub fn wait(&self, expected: u32, limit: Duration) {
            let time = libc::timespec {
                tv_sec: limit.as_secs() as libc::time_t,
                tv_nsec: limit.subsec_nanos() as libc::c_long,
            };
            // SAFETY: the kernel reads the 32-bit value and the time, both alive during the call.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    self.value.as_ptr(),
                    libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                    expected,
                    &raw const time,
                );
            }
        }

        /// Wakes every thread that waits.
        pub fn wake_all(&self) {
            let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
            // SAFETY: the address is only used as a key.
            unsafe {
                libc::syscall(libc::SYS_futex, self.value.as_ptr(), operation, i32::MAX);
            }
        }
    }
}

#[cfg(any(test, not(target_os = "linux")))]
mod portable {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::thread::{self, Thread};
    use std::time::Duration;

    #[derive(Default)]
    pub struct Futex {
        pub value: AtomicU32,
        waiting: Mutex<Vec<Thread>>,
    }

    impl Futex {
        fn waiting(&self) -> MutexGuard<'_, Vec<Thread>> {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Sleeps while `value` is `expected`, at most `limit`; may wake early.
        pub fn wait(&self, expected: u32, limit: Duration) {
            let own = thread::current();
            // In this order: a waker that does not find this thread here has changed the value before.
            self.waiting().push(own.clone());
            if self.value.load(Ordering::SeqCst) == expected {
                thread::park_timeout(limit);
            }
            self.waiting().retain(|thread| thread.id() != own.id());
        }

        /// Wakes every thread that waits.
        pub fn wake_all(&self) {
            self.waiting().iter().for_each(Thread::unpark);
        }
    }
}

#[cfg(target_os = "linux")]
pub use linux::Futex;
#[cfg(not(target_os = "linux"))]
pub use portable::Futex;

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    use super::linux;
    use super::portable;
    use std::sync::atomic::Ordering::SeqCst;
    use std::time::{Duration, Instant};

    const LONG: Duration = Duration::from_secs(3600);

    /// The tests of one implementation.
    macro_rules! tests {
        ($name:ident, $futex:ty) => {
            mod $name {
                use super::*;

                #[test]
                fn no_wake_up_is_lost() {
                    let (ping, pong) = (<$futex>::default(), <$futex>::default());
                    let wait = |futex: &$futex, old: u32| {
                        while futex.value.load(SeqCst) == old {
                            futex.wait(old, LONG);
                        }
                    };
                    let raise = |futex: &$futex| {
                        futex.value.fetch_add(1, SeqCst);
                        futex.wake_all();
                    };
                    std::thread::scope(|scope| {
                        scope.spawn(|| {
                            (0..20_000).for_each(|round| {
                                wait(&ping, round);
                                raise(&pong);
                            });
                        });
                        (0..20_000).for_each(|round| {
                            raise(&ping);
                            wait(&pong, round);
                        });
                    });
                }

                #[test]
                fn a_wait_ends_after_its_limit_or_at_once_if_the_value_has_changed() {
                    let (futex, start) = (<$futex>::default(), Instant::now());
                    futex.wait(1, LONG);
                    while start.elapsed() < Duration::from_millis(20) {
                        futex.wait(0, Duration::from_millis(20));
                    }
                    assert!(start.elapsed() < Duration::from_secs(60));
                }

                #[cfg(target_os = "linux")]
                #[test]
                fn a_waiting_thread_does_not_wake() {
                    use crate::threads::affinity::own;
                    use crate::threads::inner::testing::sleeps;
                    let futex = <$futex>::default();
                    std::thread::scope(|scope| {
                        let (send, receive) = std::sync::mpsc::channel();
                        let waiting = &futex;
                        scope.spawn(move || {
                            send.send(own()).expect("the test receives");
                            while waiting.value.load(SeqCst) == 0 {
                                waiting.wait(0, LONG);
                            }
                        });
                        let thread = receive.recv().expect("the thread sends");
                        std::thread::sleep(Duration::from_millis(50));
                        let before = sleeps(thread);
                        std::thread::sleep(Duration::from_millis(300));
                        let after = sleeps(thread);
                        futex.value.store(1, SeqCst);
                        futex.wake_all();
                        assert_eq!(before, after);
                    });
                }
            }
        };
    }

    tests!(parked, portable::Futex);
    #[cfg(target_os = "linux")]
    tests!(native, linux::Futex);
}
