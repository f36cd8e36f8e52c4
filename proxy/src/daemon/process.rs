//! What Linux says of this process, for the metrics that every program of this kind has.
//!
//! Place on the map: part of the daemon; read once per scrape. Elsewhere than on Linux there is no `/proc`, and the
//! metrics are left out.

use std::fs;
use xks_proxy::metrics::Process;

/// `/proc` counts times in hundredths of a second on every platform (USER_HZ, proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) fn read() -> Option<Process> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let system = fs::read_to_string("/proc/stat").ok()?;
    // The name of the program, in parentheses, may hold spaces; what follows is numbered from 3 in proc(5).
    let (_, stat) = stat.rsplit_once(") ")?;
    let field = |number: usize| stat.split(' ').nth(number - 3)?.parse::<f64>().ok();
    let bytes = |name: &str| Some(after(&status, name)?.split(' ').next()?.parse::<u64>().ok()? * 1_024);
    let booted: f64 = after(&system, "btime ")?.parse().ok()?;
    Some(Process {
        cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
        // The directory itself is open while it is read.
        open_fds: (fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1),
        max_fds: after(&limits, "Max open files")?.split_whitespace().next()?.parse().unwrap_or(u64::MAX),
        virtual_memory_bytes: bytes("VmSize:")?,
        resident_memory_bytes: bytes("VmRSS:")?,
        threads: after(&status, "Threads:")?.parse().ok()?,
        start_time_seconds: booted + field(22)? / TICKS_PER_SECOND,
    })
}

/// The rest of the line that begins so.
fn after<'a>(text: &'a str, start: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(start)).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn this_very_process_is_described() {
        let process = read().unwrap();
        assert!(
            process.threads >= 1 && process.open_fds >= 3 && process.max_fds >= process.open_fds,
            "{process:?}"
        );
        assert!(process.resident_memory_bytes > 100_000, "{process:?}");
        assert!(process.virtual_memory_bytes >= process.resident_memory_bytes, "{process:?}");
        // After this program was written.
        assert!(process.start_time_seconds > 1.7e9, "{process:?}");
    }
}
