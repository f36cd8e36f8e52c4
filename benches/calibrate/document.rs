//! What a calibration leaves behind: the text of `scenarios/CALIBRATION.md`.

use crate::{Measured, RunArguments};
use scenarios::net::calibration::table::{Row, table};
use std::path::Path;
use std::time::Duration;

/// In one line.
pub(super) fn verdict(measured: &[Measured]) -> String {
    let agree = measured.iter().filter(|it| it.row.agrees()).count();
    let worst = measured.iter().map(|it| it.relay.p99).max().unwrap_or_default();
    format!(
        "{agree} of {} points agree. The relay passed packets on {:.3} ms late on average; at the worst point 1 % of \
         them {:.3} ms or more.",
        measured.len(),
        milliseconds(mean_lateness(measured)),
        milliseconds(worst),
    )
}

fn mean_lateness(measured: &[Measured]) -> Duration {
    let packets: u64 = measured.iter().map(|it| it.relay.packets).sum();
    let late: f64 = measured
        .iter()
        .map(|it| {
            it.relay.mean.as_secs_f64() * f64::from(u32::try_from(it.relay.packets).unwrap_or(u32::MAX))
        })
        .sum();
    Duration::from_secs_f64(late / f64::from(u32::try_from(packets.max(1)).unwrap_or(u32::MAX)))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// Writes the document.
pub(super) fn write(path: &Path, measured: &[Measured], arguments: &RunArguments) -> Result<(), String> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let date = std::process::Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    let date = date.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let rows: Vec<Row> = measured.iter().map(|it| it.row).collect();
    let text = format!(
        "# Calibration of the simulated network

The simulated TCP against a real kernel's: Linux {kernel}, {date}, {seconds} s and {clients} clients a point.
{verdict}

Run again with `cargo xtask calibrate-net` (as root, on Linux with TUN devices and iproute2); `--quick` measures a sample
and leaves this file as it is. The command ends with 1 when a point disagrees, with 2 when the machine lacks something.

## How it is measured

Two network namespaces are connected by a relay between two TUN devices. The relay asks the simulation's own link model
(`scenarios/src/net/link.rs`) when each packet arrives, or whether it is lost. Clients in one namespace call a server in
the other as KMS calls a proxy: a request of 1,024 bytes, answered after 5 ms with 600 bytes; patience 250 ms,
connection set-up included; between two calls 50 to 250 ms of rest. A call that times out closes its connection, and
the next one is cold. The same program runs over the simulated TCP in virtual time, with the relay's own mean delay
added to the link. The kernel has its defaults, with Reno.

## What the columns mean

- RTT: round-trip time of the link, half each way. Loss: share of packets lost at random, in each direction.
- Partition: how long nothing passes, both ways; 0.1 s every 2 s, 0.5 s every 4 s, 3 s every 8 s; 0 is never.
- Connections: warm are kept from call to call, cold are opened for each.
- Calls: those of the real run; the simulated one has about three times as many.
- >250 ms: share of calls without an answer within KMS's patience, over the kernel's TCP and over the simulated one.
- p50, p99: latency; a call without an answer counts as 250 ms.
- Agrees: the shares are apart by at most 20 % of the real one, or 0.3 percentage points where that is more.

## Table

{table}",
        kernel = kernel.trim(),
        date = date.unwrap_or_else(|_| "date unknown".into()),
        seconds = arguments.seconds,
        clients = arguments.clients,
        verdict = verdict(measured),
        table = table(&rows),
    );
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
