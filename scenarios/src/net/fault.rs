//! What can go wrong with a link: faults that begin, change, add up and end.
//!
//! Place on the map: begun and ended through [`Link`](super::link::Link) by the timeline of a scenario.

use super::packet::{EachWay, Way};
use std::time::Duration;

/// Which way a fault is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    /// Both.
    Both,
    /// Only from the side that opens connections, KMS to the proxy.
    There,
    /// Only back to it.
    Back,
}

impl Ways {
    fn includes(self, way: Way) -> bool {
        match self {
            Self::Both => true,
            Self::There => way == Way::There,
            Self::Back => way == Way::Back,
        }
    }
}

/// One fault of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LinkFault {
    /// A partition: packets vanish, and nobody is told.
    Cut(Ways),
    /// SYNs vanish: no new connection, while the old ones live on.
    SynDrop,
    /// Every packet takes so much longer.
    Delay {
        /// Which way.
        ways: Ways,
        /// In one direction.
        extra: Duration,
    },
    /// More packets are lost by chance.
    Loss {
        /// Which way.
        ways: Ways,
        /// Share, 0 to 1; what lies outside is moved to the nearer end.
        share: f64,
    },
    /// The line passes no more than this; the narrowest limit in force counts.
    Bandwidth {
        /// Which way.
        ways: Ways,
        /// Bits per second, at least 1.
        bits_per_s: u64,
    },
    /// A firewall or NAT forgets a connection without packets for this long: later packets of it vanish, both ways, and
    /// both ends hold a half-open connection. The shortest time in force counts; when the fault ends, all packets pass
    /// again.
    IdleFirewall {
        /// How long a connection may be silent.
        idle: Duration,
    },
    /// A middlebox answers packets of open connections with a reset to both ends.
    Reset {
        /// Chance of each packet, 0 to 1; 1 resets every connection that is used.
        share: f64,
    },
    /// Every SYN is answered with a reset: connection refused.
    Refuse,
    /// More packets arrive twice, both ways.
    Duplication {
        /// Share, 0 to 1.
        share: f64,
    },
    /// More packets are overtaken by later ones, both ways, as the link's settings say by how much.
    Reordering {
        /// Share, 0 to 1.
        share: f64,
    },
}

/// A fault in force; given by [`Link::begin`](super::link::Link::begin).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFaultId(u64);

/// The faults in force.
#[derive(Default)]
pub(super) struct Faults {
    active: Vec<(LinkFaultId, LinkFault)>,
    next: u64,
    sum: Sum,
}

/// What the faults in force amount to.
pub(super) struct Sum {
    pub(super) cut: EachWay<bool>,
    pub(super) syn_drop: bool,
    pub(super) delay: EachWay<Duration>,
    /// Share of packets that no fault's loss takes.
    pub(super) kept: EachWay<f64>,
    pub(super) bits_per_s: EachWay<Option<u64>>,
    pub(super) idle: Option<Duration>,
    /// Share of packets that no middlebox resets.
    pub(super) not_reset: f64,
    pub(super) refuse: bool,
    /// Share of packets that arrive once.
    pub(super) once: f64,
    /// Share of packets that nothing overtakes.
    pub(super) in_order: f64,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            cut: EachWay::both(false),
            syn_drop: false,
            delay: EachWay::both(Duration::ZERO),
            kept: EachWay::both(1.0),
            bits_per_s: EachWay::both(None),
            idle: None,
            not_reset: 1.0,
            refuse: false,
            once: 1.0,
            in_order: 1.0,
        }
    }
}

impl Sum {
    fn add(&mut self, fault: LinkFault) {
        let share = |share: f64| if share > 0.0 { share.min(1.0) } else { 0.0 };
        for way in [Way::There, Way::Back] {
            match fault {
                LinkFault::Cut(ways) if ways.includes(way) => *self.cut.of_mut(way) = true,
                LinkFault::Delay { ways, extra } if ways.includes(way) => *self.delay.of_mut(way) += extra,
                LinkFault::Loss { ways, share: lost } if ways.includes(way) => {
                    *self.kept.of_mut(way) *= 1.0 - share(lost);
                }
                LinkFault::Bandwidth { ways, bits_per_s } if ways.includes(way) => {
                    let limit = self.bits_per_s.of_mut(way);
                    *limit = Some(limit.map_or(bits_per_s, |other| other.min(bits_per_s)).max(1));
                }
                _ => {}
            }
        }
        match fault {
            LinkFault::SynDrop => self.syn_drop = true,
            LinkFault::IdleFirewall { idle } => {
                self.idle = Some(self.idle.map_or(idle, |other| other.min(idle)));
            }
            LinkFault::Reset { share: reset } => self.not_reset *= 1.0 - share(reset),
            LinkFault::Refuse => self.refuse = true,
            LinkFault::Duplication { share: twice } => self.once *= 1.0 - share(twice),
            LinkFault::Reordering { share: late } => self.in_order *= 1.0 - share(late),
            _ => {}
        }
    }
}

impl Faults {
    pub(super) fn sum(&self) -> &Sum {
        &self.sum
    }

    pub(super) fn begin(&mut self, fault: LinkFault) -> LinkFaultId {
        let id = LinkFaultId(self.next);
        self.next += 1;
        self.active.push((id, fault));
        self.add_up();
        id
    }

    /// Without effect on one that has ended.
    pub(super) fn change(&mut self, id: LinkFaultId, fault: LinkFault) {
        if let Some((_, active)) = self.active.iter_mut().find(|(active, _)| *active == id) {
            *active = fault;
            self.add_up();
        }
    }

    pub(super) fn end(&mut self, id: LinkFaultId) {
        self.active.retain(|(active, _)| *active != id);
        self.add_up();
    }

    pub(super) fn end_losses(&mut self) {
        self.active.retain(|(_, fault)| !matches!(fault, LinkFault::Loss { .. }));
        self.add_up();
    }

    fn add_up(&mut self) {
        self.sum = Sum::default();
        for (_, fault) in &self.active {
            self.sum.add(*fault);
        }
    }
}
