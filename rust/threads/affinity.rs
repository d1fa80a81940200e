//! Affinity of threads: the system chooses their cores, except in two situations in which it may choose
//! badly.
//!
//! After a rest the system may wake a worker on the core of its caller and leave it there for tens of
//! milliseconds (Linux does on virtual machines, whose idle cores look busy), which halves the speed of two
//! threads. Measurements need a core for each thread.

/// Runs one chunk on one thread.
pub type Chunk<'a> = &'a (dyn Fn(usize, usize) + Sync);

#[cfg(target_os = "linux")]
mod linux {
    use super::Chunk;
    use std::sync::{Mutex, PoisonError};
    use std::time::{Duration, Instant};

    /// How long threads that are to be pinned wait for each other.
    const MEETING_TIME: Duration = Duration::from_millis(100);

    /// Id of a thread in the system.
    pub type Thread = libc::pid_t;

    /// The cores that a thread may run on.
    #[derive(Clone, Copy)]
    pub struct Cores(libc::cpu_set_t);

    impl Cores {
        /// The affinity of a thread, if it can be read.
        pub fn of(thread: Thread) -> Option<Cores> {
            // SAFETY: an empty set is all zeros, and the kernel writes no more than its size.
            unsafe {
                let mut found: libc::cpu_set_t = std::mem::zeroed();
                (libc::sched_getaffinity(thread, size_of_val(&found), &raw mut found) == 0)
                    .then_some(Cores(found))
            }
        }

        fn one(core: usize) -> Cores {
            // SAFETY: an empty set is all zeros; the core is one of a set's.
            unsafe {
                let mut one = std::mem::zeroed();
                libc::CPU_SET(core, &mut one);
                Cores(one)
            }
        }

        pub fn list(&self) -> Vec<usize> {
            // SAFETY: only reads the set.
            (0..libc::CPU_SETSIZE as usize)
                .filter(|&core| unsafe { libc::CPU_ISSET(core, &self.0) })
                .collect()
        }

        /// These cores without one; none if it is not one of them or the only one.
        fn without(mut self, core: usize) -> Option<Cores> {
            // SAFETY: reads the set and changes it; the core lies inside.
            unsafe {
                if core >= libc::CPU_SETSIZE as usize || !libc::CPU_ISSET(core, &self.0) {
                    return None;
                }
                libc::CPU_CLR(core, &mut self.0);
                (libc::CPU_COUNT(&self.0) > 0).then_some(self)
            }
        }

        /// Sets the affinity of a thread, which keeps its own where the system refuses.
        fn set(&self, thread: Thread) {
            // SAFETY: the kernel only reads the set.
            unsafe { libc::sched_setaffinity(thread, size_of_val(&self.0), &raw const self.0) };
        }

        /// Sets the affinity of the calling thread.
        pub fn apply(&self) {
            self.set(0);
        }
    }

    /// The calling thread.
    pub fn own() -> Thread {
        // SAFETY: has no arguments.
        unsafe { libc::syscall(libc::SYS_gettid) as Thread }
    }

    /// The core of the calling thread; negative where it is unknown.
    pub fn core() -> i32 {
        // SAFETY: has no arguments.
        unsafe { libc::sched_getcpu() }
    }

    /// Keeps a sleeping thread from waking on the caller's core; returns its affinity before.
    pub fn away(thread: Thread) -> Option<Cores> {
        let here = usize::try_from(core()).ok()?;
        let before = Cores::of(thread)?;
        before.without(here)?.set(thread);
        Some(before)
    }

    /// Threads that are pinned to a core each while this lives. See `Team::pin`.
    pub struct Pinned(Vec<(Thread, Cores)>);

    impl Pinned {
        /// Pins `threads` threads, each of which must run one of the chunks that `run(chunks, f)` runs.
        pub fn new(threads: usize, run: &dyn Fn(usize, Chunk<'_>)) -> Self {
            let start = Instant::now();
            let met: Mutex<Vec<Thread>> = Mutex::new(Vec::new());
            let met_by = || met.lock().unwrap_or_else(PoisonError::into_inner);
            run(threads, &|_, _| {
                if !met_by().contains(&own()) {
                    met_by().push(own());
                }
                // Each stays until all have come, so that none runs the chunk of another.
                while met_by().len() < threads && start.elapsed() < MEETING_TIME {
                    std::thread::yield_now();
                }
            });
            let met = met.into_inner().unwrap_or_else(PoisonError::into_inner);
            let old: Vec<_> = met.iter().filter_map(|&thread| Some((thread, Cores::of(thread)?))).collect();
            let all = old.first().map_or(Vec::new(), |(_, allowed)| allowed.list());
            if threads > 1 && threads <= all.len() {
                for ((thread, _), &core) in old.iter().zip(&all) {
                    Cores::one(core).set(*thread);
                }
            }
            Pinned(old)
        }
    }

    impl Drop for Pinned {
        fn drop(&mut self) {
            for (thread, cores) in &self.0 {
                cores.set(*thread);
            }
        }
    }
}

#[cfg(target_os = "linux")]
pub use linux::{Cores, Pinned, away, core, own};

/// Elsewhere the system places threads well, or offers no affinity.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    pub type Thread = i32;

    pub struct Cores;

    impl Cores {
        pub fn apply(&self) {}
    }

    pub fn own() -> Thread {
        0
    }

    pub fn core() -> i32 {
        -1
    }

    pub fn away(_: Thread) -> Option<Cores> {
        None
    }

    pub struct Pinned;

    impl Pinned {
        pub fn new(_: usize, _: &dyn Fn(usize, super::Chunk<'_>)) -> Self {
            Pinned
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub use elsewhere::{Cores, Pinned, away, core, own};

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::linux::Thread;
    use super::*;
    use crate::threads::Pool;
    use std::sync::Mutex;

    /// The core on which each thread ran last; -1 for a thread that did not run.
    fn places(pool: &Pool) -> Vec<i32> {
        let found = Mutex::new(vec![-1; pool.threads()]);
        pool.run_alone(|team| {
            let _pinned = team.pin();
            for _ in 0..100 {
                team.run(pool.threads(), &|_, thread| {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                    found.lock().expect("no panic")[thread] = core();
                });
            }
        });
        found.into_inner().expect("no panic")
    }

    /// The number of cores that a thread may run on.
    fn count(thread: Thread) -> usize {
        Cores::of(thread).expect("Linux has affinity").list().len()
    }

    #[test]
    fn pinned_threads_have_a_core_each_until_the_pin_is_dropped() {
        let before = count(own());
        let pool = Pool::new(2);
        for _ in 0..5 {
            std::thread::sleep(std::time::Duration::from_millis(50));
            let found = places(&pool);
            assert!(before < 2 || (found[0] != found[1] && !found.contains(&-1)), "{found:?}");
            assert_eq!(count(own()), before);
        }
        let counts = Mutex::new(Vec::new());
        pool.run_alone(|team| {
            team.run(8, &|_, _| {
                std::thread::sleep(std::time::Duration::from_millis(1));
                counts.lock().expect("no panic").push(count(own()));
            });
        });
        assert!(counts.into_inner().expect("no panic").iter().all(|&count| count == before));
    }

    #[test]
    fn away_removes_the_callers_core_and_apply_restores_it() {
        let (sender, receiver) = std::sync::mpsc::channel::<Option<Cores>>();
        let (number, numbers) = std::sync::mpsc::channel();
        let sleeper = std::thread::spawn(move || {
            number.send(own()).expect("the test waits");
            if let Some(cores) = receiver.recv().expect("the test sends") {
                cores.apply();
            }
            count(own())
        });
        let (thread, all) = (numbers.recv().expect("the thread sends"), count(own()));
        let before = away(thread);
        assert_eq!(before.is_some(), all > 1);
        assert_eq!(count(thread), if all > 1 { all - 1 } else { 1 });
        sender.send(before).expect("the thread waits");
        assert_eq!(sleeper.join().expect("no panic"), all);
    }
}
