//! What a link needs to know of a packet, and what it remembers of the connection that the packet belongs to.
//!
//! Place on the map: handed to [`link`](super::link) by whoever sends: the simulated [`tcp`](super::tcp), or a relay
//! that reads real packets.

use std::time::Duration;

/// In which direction a packet travels over a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From the side that opens connections: KMS to the proxy.
    There,
    /// Back to it.
    Back,
}

impl Way {
    /// The other one.
    pub fn opposite(self) -> Self {
        match self {
            Self::There => Self::Back,
            Self::Back => Self::There,
        }
    }
}

/// One value for each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EachWay<T> {
    /// On the way there.
    pub there: T,
    /// On the way back.
    pub back: T,
}

impl<T: Clone> EachWay<T> {
    /// The same both ways.
    pub fn both(value: T) -> Self {
        Self { there: value.clone(), back: value }
    }
}

impl<T> EachWay<T> {
    /// That of one way.
    pub fn of(&self, way: Way) -> &T {
        match way {
            Way::There => &self.there,
            Way::Back => &self.back,
        }
    }

    /// That of one way, to change.
    pub fn of_mut(&mut self, way: Way) -> &mut T {
        match way {
            Way::There => &mut self.there,
            Way::Back => &mut self.back,
        }
    }
}

/// What faults distinguish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketKind {
    /// Opens a connection.
    Syn,
    /// Answers a SYN.
    SynAck,
    /// Belongs to a connection that at least one side holds for open.
    Established,
}

/// A packet as a link sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its length on the wire, which takes its time where bandwidth is limited.
    pub bytes: usize,
    /// What it is.
    pub kind: PacketKind,
}

/// What the boxes along a link know of one connection. Whoever sends packets keeps one per connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    /// When a packet of it passed last.
    pub(super) passed: Duration,
    /// A firewall has dropped its state: nothing but a SYN passes.
    pub(super) forgotten: bool,
    /// When its latest packet arrives: a path keeps the order of a connection's packets, however long each takes.
    pub(super) latest: EachWay<Duration>,
}
