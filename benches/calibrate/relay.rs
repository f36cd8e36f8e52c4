//! Carries packets between two TUN devices as the link model says: late, or not at all.
//!
//! Place on the map: one thread per [`site`](super::site).

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use scenarios::net::calibration::{Point, drive_partitions, link_settings};
use scenarios::net::link::{Fate, Link};
use scenarios::net::packet::{Flow, Packet, PacketKind, Way};
use scenarios::streams::Streams;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tun_rs::SyncDevice;

/// An Ethernet frame's worth.
const PACKET_BYTES_MAX: usize = 1_500;
/// The relay looks at least so often whether it has to stop.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Packets read in a row before those that are due are written.
const BATCH: usize = 16;
/// Connections remembered, at most; with more, all are forgotten, which costs no more than their packets' order.
const FLOWS_MAX: usize = 200_000;

/// How much later than due packets were passed on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lateness {
    pub(super) packets: u64,
    pub(super) mean: Duration,
    /// Its 99th percentile, within a factor of two.
    pub(super) p99: Duration,
}

/// A running relay.
pub(super) struct Relay {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Lateness>>>,
}

impl Relay {
    /// `near` is the clients' device, `far` the server's. Time, and with it the partitions, begins now.
    pub(super) fn start(near: Arc<SyncDevice>, far: Arc<SyncDevice>, point: Point) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&stop);
        let thread = std::thread::spawn(move || Carrier::new(point).carry(&near, &far, &asked));
        Self { stop, thread: Some(thread) }
    }

    pub(super) fn stop(mut self) -> Result<Lateness, String> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().ok_or("the relay was stopped before")?;
        thread
            .join()
            .map_err(|_| "the relay has panicked".to_owned())?
            .map_err(|error| format!("the relay: {error}"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Ends at its next look.
            let _ = thread.join();
        }
    }
}

/// A packet on its way; ordered by when it is due, then by age.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Duration,
    serial: u64,
    back: bool,
    bytes: Vec<u8>,
}

struct Carrier {
    point: Point,
    link: Link,
    begun: Instant,
    flows: BTreeMap<[u8; 12], Flow>,
    waiting: BinaryHeap<Reverse<Due>>,
    serial: u64,
    late: [u64; 40],
    late_sum: Duration,
}

impl Carrier {
    fn new(point: Point) -> Self {
        Self {
            point,
            link: Link::new(link_settings(&point), Streams::new(7).stream("network", 0)),
            begun: Instant::now(),
            flows: BTreeMap::new(),
            waiting: BinaryHeap::new(),
            serial: 0,
            late: [0; 40],
            late_sum: Duration::ZERO,
        }
    }

    fn carry(mut self, near: &SyncDevice, far: &SyncDevice, stop: &AtomicBool) -> io::Result<Lateness> {
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        let (mut cut, mut edge) = (None, Some(Duration::ZERO));
        while !stop.load(Ordering::Relaxed) {
            let now = self.begun.elapsed();
            if edge.is_some_and(|edge| edge <= now) {
                edge = drive_partitions(&self.point, &self.link, &mut cut, now);
            }
            self.write_due(near, far)?;
            let more = self.read(near, Way::There)? | self.read(far, Way::Back)?;
            if more {
                continue;
            }
            let next = self.waiting.peek().map(|Reverse(due)| due.at);
            let until = next.into_iter().chain(edge).min();
            let now = self.begun.elapsed();
            let wait = until.map_or(LOOK_EVERY, |until| until.saturating_sub(now)).min(LOOK_EVERY);
            let timeout = Timespec::try_from(wait).ok();
            let mut devices = [PollFd::new(near, PollFlags::IN), PollFd::new(far, PollFlags::IN)];
            match poll(&mut devices, timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.lateness())
    }

    /// Whether there may be more to read.
    fn read(&mut self, device: &SyncDevice, way: Way) -> io::Result<bool> {
        for _ in 0..BATCH {
            let mut bytes = vec![0; PACKET_BYTES_MAX];
            match device.recv(&mut bytes) {
                Ok(length) => {
                    bytes.truncate(length);
                    self.pass(bytes, way);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn pass(&mut self, bytes: Vec<u8>, way: Way) {
        let Some((flow, packet)) = look(&bytes, way) else { return };
        let now = self.begun.elapsed();
        if self.flows.len() > FLOWS_MAX {
            self.flows.clear();
        }
        let flow = self.flows.entry(flow).or_default();
        // No fault here resets or refuses.
        let Fate::Arrives { after, again } = self.link.send(way, packet, flow, now) else { return };
        let mut push = |after: Duration, bytes: Vec<u8>| {
            self.serial += 1;
            let due = Due { at: now + after, serial: self.serial, back: way == Way::Back, bytes };
            self.waiting.push(Reverse(due));
        };
        if let Some(again) = again {
            push(again, bytes.clone());
        }
        push(after, bytes);
    }

    fn write_due(&mut self, near: &SyncDevice, far: &SyncDevice) -> io::Result<()> {
        loop {
            let now = self.begun.elapsed();
            if self.waiting.peek().is_none_or(|Reverse(due)| due.at > now) {
                return Ok(());
            }
            let Some(Reverse(due)) = self.waiting.pop() else { return Ok(()) };
            let device = if due.back { near } else { far };
            match device.send(&due.bytes) {
                Ok(_) => {}
                // The kernel has no room for it: lost, as on a real path.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            let late = now.saturating_sub(due.at);
            self.late_sum += late;
            let octave = late.as_micros().checked_ilog2().map_or(0, |octave| octave as usize + 1);
            if let Some(count) = self.late.get_mut(octave) {
                *count += 1;
            }
        }
    }

    fn lateness(&self) -> Lateness {
        let packets: u64 = self.late.iter().sum();
        let mut below = 0;
        let octave = self.late.iter().position(|count| {
            below += count;
            below * 100 >= packets * 99
        });
        let p99 = Duration::from_micros(1_u64.checked_shl(octave.unwrap_or(0) as u32).unwrap_or(u64::MAX));
        let mean = self.late_sum / u32::try_from(packets.max(1)).unwrap_or(u32::MAX);
        Lateness { packets, mean, p99 }
    }
}

/// The connection of an IPv4 packet with TCP, seen from the client, and what the link needs to know of it.
fn look(bytes: &[u8], way: Way) -> Option<([u8; 12], Packet)> {
    let head = *bytes.first()?;
    if head >> 4 != 4 || *bytes.get(9)? != 6 {
        return None;
    }
    let tcp = bytes.get(usize::from(head & 15) * 4..)?;
    let (from, to) = (bytes.get(12..16)?, bytes.get(16..20)?);
    let (from_port, to_port) = (tcp.get(..2)?, tcp.get(2..4)?);
    let parts = match way {
        Way::There => [from, to, from_port, to_port],
        Way::Back => [to, from, to_port, from_port],
    };
    let flow = parts.concat().try_into().ok()?;
    let flags = *tcp.get(13)?;
    let kind = match (flags & 0x02 != 0, flags & 0x10 != 0) {
        (true, false) => PacketKind::Syn,
        (true, true) => PacketKind::SynAck,
        _ => PacketKind::Established,
    };
    Some((flow, Packet { bytes: bytes.len(), kind }))
}
