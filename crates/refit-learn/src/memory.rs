//! How much memory there is.

use std::fs;

/// Bytes of memory that the machine has, or the control group that this process is in; none where the
/// system does not tell (it is asked on Linux only). What others use at the moment makes no difference.
pub(crate) fn of_machine() -> Option<u64> {
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| total(&text));
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit = limits.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok());
    total.into_iter().chain(limit).min()
}

/// The line `MemTotal:  23 kB` of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_read() {
        assert_eq!(total("MemTotal:       24 kB\nMemFree: 3 kB\n"), Some(24 * 1024));
        assert_eq!(total("MemFree: 3 kB\n"), None);
        assert_eq!(total("MemTotal: many\n"), None);
        #[cfg(target_os = "linux")]
        assert!(of_machine().unwrap() > 1 << 20);
    }
}
