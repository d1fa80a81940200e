//! Which cores threads run on: the system's choice, but for two moments when it may choose badly.
//!
//! Where a machine has rested, a system may wake a worker on the core of its caller and leave it there for tens of
//! milliseconds: Linux does on virtual machines, whose idle cores look taken. Work of the two is then half as fast.

#[cfg(target_os = "linux")]
mod linux {
    use crate::threads::Team;
    use std::sync::{Mutex, PoisonError};
    use std::time::{Duration, Instant};

    /// How long the threads of a team wait for each other.
    const PATIENCE: Duration = Duration::from_millis(100);

    /// A thread of this process, as the system numbers them.
    pub type Thread = libc::pid_t;

    /// The cores that a thread may run on.
    #[derive(Clone, Copy)]
    pub struct Cores(libc::cpu_set_t);

    impl Cores {
        /// Those of a thread, if the system tells.
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
            // SAFETY: only looks at the set.
            (0..libc::CPU_SETSIZE as usize)
                .filter(|&core| unsafe { libc::CPU_ISSET(core, &self.0) })
                .collect()
        }

        /// The same without a core of them; none if it is not one of them or the only one.
        fn without(mut self, core: usize) -> Option<Cores> {
            // SAFETY: looks at the set and changes it; a core beyond it is not asked for.
            unsafe {
                if core >= libc::CPU_SETSIZE as usize || !libc::CPU_ISSET(core, &self.0) {
                    return None;
                }
                libc::CPU_CLR(core, &mut self.0);
                (libc::CPU_COUNT(&self.0) > 0).then_some(self)
            }
        }

        /// Lets a thread run on these. Where the system refuses, it stays where it is.
        fn give(&self, thread: Thread) {
            // SAFETY: the kernel only reads the set.
            unsafe { libc::sched_setaffinity(thread, size_of_val(&self.0), &raw const self.0) };
        }

        /// Lets the calling thread run on these.
        pub fn take(&self) {
            self.give(0);
        }
    }

    /// The calling thread.
    pub fn own() -> Thread {
        // SAFETY: has no arguments.
        unsafe { libc::syscall(libc::SYS_gettid) as Thread }
    }

    /// The core of the calling thread; negative where the system does not tell.
    pub fn core() -> i32 {
        // SAFETY: has no arguments.
        unsafe { libc::sched_getcpu() }
    }

    /// Keeps a thread that sleeps from waking on the caller's core; returns where it might run before.
    pub fn away(thread: Thread) -> Option<Cores> {
        let here = usize::try_from(core()).ok()?;
        let before = Cores::of(thread)?;
        before.without(here)?.give(thread);
        Some(before)
    }

    /// While it lives, each thread of the team has a core of its own, if there are as many; then all may run where they
    /// might before. For measurements alone: it takes them what they need to give way to others.
    pub struct Spread(Vec<(Thread, Cores)>);

    impl Spread {
        pub fn new(team: &Team<'_>) -> Spread {
            let (threads, start) = (team.threads(), Instant::now());
            let met: Mutex<Vec<Thread>> = Mutex::new(Vec::new());
            let met_by = || met.lock().unwrap_or_else(PoisonError::into_inner);
            team.run(threads, &|_, _| {
                if !met_by().contains(&own()) {
                    met_by().push(own());
                }
                // Each is here until all are, so that none does the chunks of another.
                while met_by().len() < threads && start.elapsed() < PATIENCE {
                    std::thread::yield_now();
                }
            });
            let met = met.into_inner().unwrap_or_else(PoisonError::into_inner);
            let old: Vec<_> = met.iter().filter_map(|&thread| Some((thread, Cores::of(thread)?))).collect();
            let all = old.first().map_or(Vec::new(), |(_, allowed)| allowed.list());
            if threads > 1 && threads <= all.len() {
                for ((thread, _), &core) in old.iter().zip(&all) {
                    Cores::one(core).give(*thread);
                }
            }
            Spread(old)
        }
    }

    impl Drop for Spread {
        fn drop(&mut self) {
            for (thread, cores) in &self.0 {
                cores.give(*thread);
            }
        }
    }
}

#[cfg(target_os = "linux")]
pub use linux::{Cores, Spread, away, core, own};

/// Elsewhere the system places threads well, or cannot be told.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    pub type Thread = i32;

    pub struct Cores;

    impl Cores {
        pub fn take(&self) {}
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

    pub struct Spread;

    impl Spread {
        pub fn new(_: &crate::threads::Team<'_>) -> Spread {
            Spread
        }
    }
}

#[cfg(not(target_os = "linux"))]
pub use elsewhere::{Cores, Spread, away, core, own};

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::linux::Thread;
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
                    found.lock().expect("no panic")[thread] = core();
                });
            }
        });
        found.into_inner().expect("no panic")
    }

    /// How many cores a thread may run on.
    fn count(thread: Thread) -> usize {
        Cores::of(thread).expect("the system tells").list().len()
    }

    #[test]
    fn each_thread_has_a_core_while_it_lasts() {
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
    fn a_thread_that_is_kept_away_may_run_on_all_cores_but_one_until_it_takes_them_back() {
        let (sender, receiver) = std::sync::mpsc::channel::<Option<Cores>>();
        let (number, numbers) = std::sync::mpsc::channel();
        let sleeper = std::thread::spawn(move || {
            number.send(own()).expect("the test waits");
            if let Some(cores) = receiver.recv().expect("the test sends") {
                cores.take();
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
