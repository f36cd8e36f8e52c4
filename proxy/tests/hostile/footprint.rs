//! What a process holds, as Linux tells it.

use std::fs;

/// Descriptors, threads and resident memory, now and at most so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Footprint {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) resident_kib: u64,
    pub(crate) resident_kib_peak: u64,
}

impl Footprint {
    pub(crate) fn of(process_id: u32) -> Self {
        let count = |name: &str| fs::read_dir(format!("/proc/{process_id}/{name}")).unwrap().count();
        let status = fs::read_to_string(format!("/proc/{process_id}/status")).unwrap();
        let kib = |name: &str| {
            let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            value.trim().trim_end_matches(" kB").parse().unwrap()
        };
        Self {
            descriptors: count("fd"),
            threads: count("task"),
            resident_kib: kib("VmRSS:"),
            resident_kib_peak: kib("VmHWM:"),
        }
    }
}
