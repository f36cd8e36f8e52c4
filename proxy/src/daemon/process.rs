//! What Linux says of this process, for the metrics that every program of this kind has.
//!
//! Place on the map: part of the daemon; read once per scrape. Only the process' own directory in `/proc` is read: of
//! the rest a hardened unit shows nothing (`ProcSubset=pid`). Elsewhere than on Linux there is no `/proc`, and the metrics
//! are left out.

use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::time::Duration;
use xks_proxy::env::{Env, SystemEnv};
use xks_proxy::metrics::Process;

/// `/proc` counts times in hundredths of a second on every platform (USER_HZ, proc(5)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Goes on while the machine sleeps, where there is such a clock.
#[cfg(target_os = "linux")]
const SINCE_BOOT: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const SINCE_BOOT: ClockId = ClockId::Monotonic;

/// Reads them. The moment of the boot is taken once, here: a start time that moved with the clock would look like a
/// restart.
pub(crate) fn reader() -> impl Fn() -> Option<Process> {
    let booted = booted();
    move || {
        let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).ok();
        // The directory itself is open while it is read.
        let open_fds = (fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1);
        described(&read("status")?, &read("stat")?, &read("limits")?, open_fds, booted)
    }
}

/// Unix time of the boot, in seconds. `btime` in `/proc/stat` would say the same, but may be hidden.
fn booted() -> f64 {
    let up = clock_gettime(SINCE_BOOT);
    let up = Duration::new(up.tv_sec.try_into().unwrap_or(0), up.tv_nsec.try_into().unwrap_or(0));
    SystemEnv.now().0.saturating_sub(up).as_secs_f64()
}

/// Out of the texts of the files with these names in `/proc/self`.
fn described(status: &str, stat: &str, limits: &str, open_fds: u64, booted: f64) -> Option<Process> {
    // The name of the program, in parentheses, may hold spaces; what follows is numbered from 3 in proc(5).
    let (_, stat) = stat.rsplit_once(") ")?;
    let field = |number: usize| stat.split(' ').nth(number - 3)?.parse::<f64>().ok();
    let bytes = |name: &str| Some(after(status, name)?.split(' ').next()?.parse::<u64>().ok()? * 1_024);
    Some(Process {
        cpu_seconds: (field(14)? + field(15)?) / TICKS_PER_SECOND,
        open_fds,
        max_fds: after(limits, "Max open files")?.split_whitespace().next()?.parse().unwrap_or(u64::MAX),
        virtual_memory_bytes: bytes("VmSize:")?,
        resident_memory_bytes: bytes("VmRSS:")?,
        threads: after(status, "Threads:")?.parse().ok()?,
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

    /// Under the shipped unit all of these metrics were missing: they hung on `/proc/stat`, which `ProcSubset=pid` hides.
    #[test]
    fn the_process_own_files_are_enough() {
        let status = "Name:\txks-proxy\nVmSize:\t  204800 kB\nVmRSS:\t   10240 kB\nThreads:\t9\n";
        let stat =
            "7 (xks) proxy) S 1 7 7 0 -1 4194560 1 0 0 0 250 150 0 0 20 0 9 0 12345 209715200 2560 0\n";
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            65536                65536                files     \n";
        let expected = Process {
            cpu_seconds: 4.0,
            open_fds: 11,
            max_fds: 65_536,
            virtual_memory_bytes: 204_800 * 1_024,
            resident_memory_bytes: 10_240 * 1_024,
            threads: 9,
            start_time_seconds: 1_000.0 + 123.45,
        };
        assert_eq!(described(status, stat, limits, 11, 1_000.0), Some(expected));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_very_process_is_described() {
        let read = reader();
        let process = read().unwrap();
        assert!(
            process.threads >= 1 && process.open_fds >= 3 && process.max_fds >= process.open_fds,
            "{process:?}"
        );
        assert!(process.resident_memory_bytes > 100_000, "{process:?}");
        assert!(process.virtual_memory_bytes >= process.resident_memory_bytes, "{process:?}");
        // The system says when it was booted in whole seconds.
        let system = fs::read_to_string("/proc/stat").unwrap();
        let btime: f64 = after(&system, "btime ").unwrap().parse().unwrap();
        assert!((booted() - btime).abs() < 2.0, "{} is not {btime}", booted());
        assert_eq!(read().unwrap().start_time_seconds, process.start_time_seconds);
    }
}
