//! What a process of this machine uses, read from `/proc`.
//!
//! Place on the map: `target` finds the proxy's process with it, `run` reads it before and after.

use std::fs;
use std::time::Duration;

/// What a process has used so far, and holds now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// CPU time of all its threads, those that have ended among them.
    pub(crate) cpu: Duration,
    /// Memory it holds now (VmRSS).
    pub(crate) memory_kib: u64,
    /// The most it ever held (VmHWM).
    pub(crate) memory_max_kib: u64,
}

impl Usage {
    /// `None` when there is no such process, or it is not ours to look at.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let figure = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        Some(Self {
            cpu: cpu_time(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?,
            memory_kib: figure("VmRSS:")?,
            memory_max_kib: figure("VmHWM:")?,
        })
    }
}

/// User and system time (fields 14 and 15 of `/proc/PID/stat`, see proc(5)). Its unit is a clock tick, commonly 10 ms.
fn cpu_time(stat: &str) -> Option<Duration> {
    // The name in field 2 may hold spaces and brackets of its own; the last bracket ends it.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_secs(ticks).div_f64(rustix::param::clock_ticks_per_second() as f64))
}

/// The process that listens on a TCP port of this machine, if it may be seen.
pub(crate) fn listening_on(port: u16) -> Option<u32> {
    let sockets: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening_sockets(&table, port))
        .collect();
    let mut numbers =
        fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.find(|pid: &u32| {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        let mut links = descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
        links.any(|link| sockets.iter().any(|socket| link.as_os_str() == socket.as_str()))
    })
}

/// What `/proc/PID/fd` calls the sockets of a table that listen on `port`.
fn listening_sockets(table: &str, port: u16) -> Vec<String> {
    const LISTENING: &str = "0A";
    let sockets = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let is_it = u16::from_str_radix(local_port, 16) == Ok(port) && *fields.get(3)? == LISTENING;
        is_it.then(|| format!("socket:[{}]", fields.get(9).copied().unwrap_or_default()))
    });
    sockets.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 5 6 7";
        let ticks_per_s = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(cpu_time(stat), Some(Duration::from_secs(200).div_f64(ticks_per_s)));
    }

    #[test]
    fn the_listener_is_found_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listening_on(port), Some(std::process::id()));
        drop(listener);
        assert_eq!(listening_on(port), None);
        assert!(Usage::of(std::process::id()).is_some_and(|usage| usage.memory_kib > 0));
    }
}
