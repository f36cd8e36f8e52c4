//! The pattern over the simulated network.
//!
//! Place on the map: compared by [`calibration`](super) with the same over a kernel's TCP.

use super::pattern::{self, Dial, Latencies};
use super::{Figures, Point};
use crate::clock;
use crate::net::fault::{LinkFault, LinkFaultId, Ways};
use crate::net::link::{Link, LinkSettings};
use crate::net::packet::EachWay;
use crate::net::tcp::{Network, Stream};
use crate::streams::Streams;
use std::io;
use std::time::Duration;
use tokio::time::Instant;
use xks_proxy::server::Listen;

/// The link at a point.
pub fn link_settings(point: &Point) -> LinkSettings {
    LinkSettings {
        loss: EachWay::both(point.loss),
        ..LinkSettings::fixed(Duration::from_millis(point.rtt_ms))
    }
}

/// Begins or ends what has to begin or end by `now`; returns when to call again. `cut` is the partition in force.
pub fn drive_partitions(
    point: &Point,
    link: &Link,
    cut: &mut Option<LinkFaultId>,
    now: Duration,
) -> Option<Duration> {
    if point.partition_ms == 0 {
        return None;
    }
    let (length, every) = (Duration::from_millis(point.partition_ms), point.partition_every());
    // The first begins after half a period.
    let since = now.checked_sub(every / 2);
    let round =
        since.map_or(0, |since| u32::try_from(since.as_nanos() / every.as_nanos()).unwrap_or(u32::MAX));
    let begins = every / 2 + every * round;
    let inside = since.is_some() && now < begins + length;
    match (inside, cut.take()) {
        (true, None) => *cut = Some(link.begin(LinkFault::Cut(Ways::Both))),
        (true, known) => *cut = known,
        (false, Some(over)) => link.end(over),
        (false, None) => {}
    }
    Some(match (since, inside) {
        (None, _) => begins,
        (_, true) => begins + length,
        (_, false) => begins + every,
    })
}

struct SimulatedDial {
    network: Network,
    link: Link,
}

impl Dial for SimulatedDial {
    type Io = Stream;

    async fn dial(&self) -> io::Result<Stream> {
        self.network.connect(0, self.link.clone()).await
    }
}

/// Runs `clients` clients for `until`, in virtual time.
///
/// # Errors
/// When the runtime cannot be built.
pub fn simulate(
    point: Point,
    settings: LinkSettings,
    clients: u32,
    until: Duration,
    seed: u64,
) -> io::Result<Figures> {
    let streams = Streams::new(seed);
    clock::run(streams.seed("runtime", 0), |clock| async move {
        let network = Network::new(clock.clone());
        let link = Link::new(settings, streams.stream("network", 0));
        let mut listener = network.listen(0);
        tokio::task::spawn_local(async move {
            while let Ok(stream) = listener.accept().await {
                tokio::task::spawn_local(pattern::serve(stream));
            }
        });
        let (ticking, cutting) = (clock.clone(), link.clone());
        tokio::task::spawn_local(async move {
            let mut cut = None;
            while let Some(next) = drive_partitions(&point, &cutting, &mut cut, ticking.now()) {
                ticking.sleep_until(next).await;
            }
        });
        let begun = Instant::now();
        let tasks: Vec<_> = (0..clients)
            .map(|number| {
                let dial = SimulatedDial { network: network.clone(), link: link.clone() };
                let calls = pattern::call_again_and_again(dial, point, (number, clients), begun, until);
                tokio::task::spawn_local(calls)
            })
            .collect();
        let mut all = Latencies::default();
        for task in tasks {
            if let Ok(latencies) = task.await {
                all.add(latencies);
            }
        }
        all.figures()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_recur_in_the_middle_of_their_period() {
        let point = Point { rtt_ms: 5, loss: 0.0, partition_ms: 500, cold: false };
        let link = Link::new(link_settings(&point), Streams::new(1).stream("network", 0));
        let (mut now, mut cut, mut edges) = (Duration::ZERO, None, Vec::new());
        while let Some(next) = drive_partitions(&point, &link, &mut cut, now)
            && edges.len() < 5
        {
            edges.push((now.as_millis(), cut.is_some()));
            now = next;
        }
        let expected = [(0, false), (2_000, true), (2_500, false), (6_000, true), (6_500, false)];
        assert_eq!(edges, expected);
        let whole = Point { partition_ms: 0, ..point };
        assert_eq!(drive_partitions(&whole, &link, &mut cut, now), None);
    }

    #[test]
    fn a_quiet_link_answers_every_call_in_its_round_trips_and_the_service_time() {
        for (cold, expected_ms) in [(false, 40.0), (true, 75.0)] {
            let point = Point { rtt_ms: 35, loss: 0.0, partition_ms: 0, cold };
            let until = Duration::from_secs(4);
            let figures = simulate(point, link_settings(&point), 20, until, 1).unwrap();
            assert!(figures.calls > 200 && figures.over == 0.0, "{figures:?}");
            // The service time sits on tokio's grid of milliseconds.
            assert!((expected_ms..expected_ms + 1.1).contains(&figures.p50_ms), "{figures:?}");
        }
    }
}
