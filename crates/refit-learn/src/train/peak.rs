//! How much memory something takes.

use std::fs;

/// Watches the most memory that this process holds in RAM at a time, from a moment on.
///
/// All of the process counts: what was there before, mapped files (features that are kept), whatever
/// runs beside.
pub(super) struct Peak(());

impl Peak {
    /// From now on; what kernels keep for later goes back to the system first. None where the system
    /// does not let a process forget its peak: Linux does.
    pub fn begin() -> Option<Self> {
        refit_kernels::release(usize::MAX);
        // "5" resets the peak to what is held now (proc(5)).
        fs::write("/proc/self/clear_refs", "5").ok()?;
        Some(Self(()))
    }

    /// Bytes, up to now.
    pub fn bytes(&self) -> Option<u64> {
        highest(&fs::read_to_string("/proc/self/status").ok()?)
    }
}

/// The line `VmHWM: 1234 kB`.
fn highest(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kilobytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_read() {
        let status = "Name:\trefit\nVmPeak:\t  9 kB\nVmHWM:\t  123456 kB\nVmRSS:\t 7 kB\n";
        assert_eq!(highest(status), Some(123_456 * 1024));
        assert_eq!(highest("Name:\trefit\n"), None);
    }

    #[test]
    fn a_peak_stays_after_its_memory_is_gone() {
        let Some(peak) = Peak::begin() else { return };
        let before = peak.bytes().unwrap();
        let much: Vec<u8> = (0..64 << 20).map(|i| i as u8).collect();
        drop(std::hint::black_box(much));
        let after = peak.bytes().unwrap();
        assert!(after >= before + (48 << 20), "{before} {after}");
    }
}
