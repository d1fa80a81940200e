//! The default number of threads.

#[cfg(target_os = "linux")]
use std::collections::BTreeSet;

/// `LAPWING_NUM_THREADS`, else `OMP_NUM_THREADS` (its first number), else the processors that this process
/// may use: its affinity mask and control-group quota, one per physical core.
pub fn default_threads() -> usize {
    for name in ["LAPWING_NUM_THREADS", "OMP_NUM_THREADS"] {
        if let Ok(value) = std::env::var(name) {
            let first = value.split(',').next().unwrap_or_default().trim();
            if let Ok(n @ 1..=256) = first.parse::<usize>() {
                return n;
            }
        }
    }
    // Counts the affinity mask and the quota (control groups 1 and 2) on Linux.
    let allowed = std::thread::available_parallelism().map_or(1, |n| n.get());
    physical_cores().map_or(allowed, |cores| allowed.min(cores)).clamp(1, 256)
}

/// Physical cores behind the affinity mask: threads of one core share its multipliers.
#[cfg(target_os = "linux")]
fn physical_cores() -> Option<usize> {
    // SAFETY: an all-zero set is valid, and the call fills at most its size.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) != 0 {
            return None;
        }
        set
    };
    let mut cores = BTreeSet::new();
    for cpu in 0..libc::CPU_SETSIZE as usize {
        // SAFETY: `cpu` is below the size of the set.
        if unsafe { libc::CPU_ISSET(cpu, &set) } {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            cores.insert(std::fs::read_to_string(path).ok()?.trim().to_owned());
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}

#[cfg(not(target_os = "linux"))]
fn physical_cores() -> Option<usize> {
    None
}
