//! A core for each thread of a team, for as long as something is measured.

#[cfg(target_os = "linux")]
mod linux {
    use crate::threads::Team;
    use std::sync::{Mutex, PoisonError};
    use std::time::{Duration, Instant};

    /// How long the threads of a team wait for each other.
    const PATIENCE: Duration = Duration::from_millis(100);

    /// While it lives, each thread of the team has a core of its own, if there are as many; then all may run where they
    /// might before.
    ///
    /// Where a machine has rested, a system may wake a worker on the core of its caller and leave it there for tens of
    /// milliseconds: Linux does on virtual machines, whose idle cores look taken. Work of the two is then half as fast.
    pub struct Spread(Vec<(libc::pid_t, libc::cpu_set_t)>);

    impl Spread {
        pub fn new(team: &Team<'_>) -> Spread {
            let (threads, start) = (team.threads(), Instant::now());
            let met: Mutex<Vec<libc::pid_t>> = Mutex::new(Vec::new());
            let met_by = || met.lock().unwrap_or_else(PoisonError::into_inner);
            team.run(threads, &|_, _| {
                // SAFETY: has no arguments.
                let own = unsafe { libc::syscall(libc::SYS_gettid) } as libc::pid_t;
                if !met_by().contains(&own) {
                    met_by().push(own);
                }
                // Each is here until all are, so that none does the chunks of another.
                while met_by().len() < threads && start.elapsed() < PATIENCE {
                    std::thread::yield_now();
                }
            });
            let met = met.into_inner().unwrap_or_else(PoisonError::into_inner);
            let old: Vec<_> = met.iter().filter_map(|&thread| Some((thread, cores(thread)?))).collect();
            let Some((_, allowed)) = old.first() else { return Spread(old) };
            // SAFETY: only looks at the set.
            let all =
                (0..libc::CPU_SETSIZE as usize).filter(|&core| unsafe { libc::CPU_ISSET(core, allowed) });
            let all: Vec<usize> = all.collect();
            if threads > 1 && threads <= all.len() {
                for ((thread, _), &core) in old.iter().zip(&all) {
                    // SAFETY: an empty set is all zeros; the core is one of a set's.
                    let one = unsafe {
                        let mut one = std::mem::zeroed();
                        libc::CPU_SET(core, &mut one);
                        one
                    };
                    put(*thread, &one);
                }
            }
            Spread(old)
        }
    }

    impl Drop for Spread {
        fn drop(&mut self) {
            for (thread, cores) in &self.0 {
                put(*thread, cores);
            }
        }
    }

    fn cores(thread: libc::pid_t) -> Option<libc::cpu_set_t> {
        // SAFETY: an empty set is all zeros, and the kernel writes no more than its size.
        unsafe {
            let mut found: libc::cpu_set_t = std::mem::zeroed();
            (libc::sched_getaffinity(thread, size_of_val(&found), &raw mut found) == 0).then_some(found)
        }
    }

    /// Where the system refuses, the thread stays where it is.
    fn put(thread: libc::pid_t, cores: &libc::cpu_set_t) {
        // SAFETY: the kernel only reads the set.
        unsafe { libc::sched_setaffinity(thread, size_of_val(cores), cores) };
    }
}

#[cfg(target_os = "linux")]
pub use linux::Spread;

/// Elsewhere the system places threads well, or cannot be told.
#[cfg(not(target_os = "linux"))]
pub struct Spread;

#[cfg(not(target_os = "linux"))]
impl Spread {
    pub fn new(_: &super::Team<'_>) -> Spread {
        Spread
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::threads::Pool;
    use std::sync::Mutex;

    /// The core on which each thread ran at last; -1 where it did not.
    fn places(pool: &Pool) -> Vec<i32> {
        let found = Mutex::new(vec![-1; pool.threads()]);
        pool.run_alone(|team| {
            let _spread = Spread::new(team);
            for _ in 0..100 {
                team.run(pool.threads(), &|_, thread| {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    // SAFETY: has no arguments.
                    found.lock().expect("no panic")[thread] = unsafe { libc::sched_getcpu() };
                });
            }
        });
        found.into_inner().expect("no panic")
    }

    #[test]
    fn each_thread_has_a_core_while_it_lasts() {
        // SAFETY: an empty set is all zeros, and the kernel writes no more than its size.
        let allowed = || unsafe {
            let mut found: libc::cpu_set_t = std::mem::zeroed();
            libc::sched_getaffinity(0, size_of_val(&found), &raw mut found);
            libc::CPU_COUNT(&found)
        };
        let before = allowed();
        let pool = Pool::new(2);
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let found = places(&pool);
            assert!(before < 2 || (found[0] != found[1] && !found.contains(&-1)), "{found:?}");
            assert_eq!(allowed(), before);
        }
        let counts = Mutex::new(Vec::new());
        pool.run_alone(|team| {
            team.run(8, &|_, _| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                counts.lock().expect("no panic").push(allowed());
            });
        });
        assert!(counts.into_inner().expect("no panic").iter().all(|&count| count == before));
    }
}
