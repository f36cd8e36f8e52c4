//! How much the device does at once: servers, sessions and the queue in front, as plain arithmetic without tasks.
//!
//! Place on the map: `device` asks the [`Schedule`] when an operation will be done; `backend` waits until then.

use crate::service_time::{ServiceTime, ServiceTimes, scale};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

/// What the device can do at once, and how fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Operations worked on at the same time. Default 16; 0 counts as 1.
    pub parallel_max: usize,
    /// Operations present at the same time, queued ones included, each holding one session. Default 256; 0 counts as 1.
    pub sessions_max: usize,
    /// Operations waiting for a server. Default 256.
    pub queue_max: usize,
    /// Longest plaintext in bytes; a longer one is refused as `TooLong`, a longer ciphertext as not genuine.
    /// Default 65,536.
    pub bytes_max: usize,
    /// How long each kind of operation takes. Default lognormal around 2 ms (describe: 0.5 ms), sigma 0.3.
    pub service_times: ServiceTimes,
}

impl Default for Capacity {
    fn default() -> Self {
        let lognormal = |us| ServiceTime::Lognormal { median: Duration::from_micros(us), sigma: 0.3 };
        Self {
            parallel_max: 16,
            sessions_max: 256,
            queue_max: 256,
            bytes_max: 65_536,
            service_times: ServiceTimes {
                describe: lognormal(500),
                encrypt: lognormal(2_000),
                decrypt: lognormal(2_000),
            },
        }
    }
}

impl Capacity {
    /// A device that never makes anyone wait: no service time and practically no limits.
    pub fn unlimited() -> Self {
        Self {
            parallel_max: usize::MAX,
            sessions_max: usize::MAX,
            queue_max: usize::MAX,
            bytes_max: usize::MAX,
            service_times: ServiceTimes::all(ServiceTime::ZERO),
        }
    }
}

/// Names one admitted operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// Why an operation was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Sessions,
    Queue,
}

/// When an admitted operation has its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) begins: Duration,
    pub(crate) ends: Duration,
    /// Without the slow factor, which counts when the server begins.
    service: Duration,
}

/// First come, first served by `parallel_max` servers. Times are the device's own, which stands still in a hang.
pub(crate) struct Schedule {
    parallel_max: usize,
    sessions_max: usize,
    queue_max: usize,
    next: u64,
    /// Present operations by ticket: their number is the number of sessions taken.
    plans: BTreeMap<Ticket, Plan>,
    /// Present operations by end.
    ends: BTreeSet<(Duration, Ticket)>,
    /// Those whose server has not begun, in order of arrival, which is the order of their beginning.
    queue: VecDeque<Ticket>,
    /// When each server in use will be free, the whole queue served; at most `parallel_max` entries.
    free_at: BinaryHeap<Reverse<Duration>>,
    factor: f64,
}

impl Schedule {
    pub(crate) fn new(capacity: &Capacity) -> Self {
        Self {
            parallel_max: capacity.parallel_max.max(1),
            sessions_max: capacity.sessions_max.max(1),
            queue_max: capacity.queue_max,
            next: 0,
            plans: BTreeMap::new(),
            ends: BTreeSet::new(),
            queue: VecDeque::new(),
            free_at: BinaryHeap::new(),
            factor: 1.0,
        }
    }

    /// Brings the books up to `now`: who has begun, who has ended. An end at `now` has happened.
    pub(crate) fn settle(&mut self, now: Duration) {
        while let Some(front) = self.queue.front()
            && self.plans.get(front).is_none_or(|plan| plan.begins <= now)
        {
            self.queue.pop_front();
        }
        while let Some(&(end, ticket)) = self.ends.first()
            && end <= now
        {
            self.ends.pop_first();
            self.plans.remove(&ticket);
        }
        while self.free_at.peek().is_some_and(|Reverse(free)| *free <= now) {
            self.free_at.pop();
        }
    }

    /// Admits an operation that arrives `now` and takes `service`, or says what is full. Settle to `now` first.
    pub(crate) fn admit(&mut self, now: Duration, service: Duration) -> Result<(Ticket, Plan), Full> {
        if self.plans.len() >= self.sessions_max {
            return Err(Full::Sessions);
        }
        let waits = self.free_at.len() >= self.parallel_max;
        if waits && self.queue.len() >= self.queue_max {
            return Err(Full::Queue);
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        Ok((ticket, self.place(now, ticket, service)))
    }

    /// Gives the operation the server that is free first.
    fn place(&mut self, now: Duration, ticket: Ticket, service: Duration) -> Plan {
        let begins = if self.free_at.len() < self.parallel_max {
            now
        } else {
            self.free_at.pop().map_or(now, |Reverse(free)| free.max(now))
        };
        let ends = begins.saturating_add(scale(service, self.factor));
        let plan = Plan { begins, ends, service };
        self.free_at.push(Reverse(ends));
        self.plans.insert(ticket, plan);
        self.ends.insert((ends, ticket));
        if begins > now {
            self.queue.push_back(ticket);
        }
        plan
    }

    /// From `now` on service takes `factor` times as long, for the queue too. Settle to `now` first.
    pub(crate) fn set_factor(&mut self, now: Duration, factor: f64) {
        self.factor = factor;
        let queue = std::mem::take(&mut self.queue);
        let waiting: Vec<(Ticket, Plan)> = queue
            .into_iter()
            .filter_map(|ticket| self.plans.remove(&ticket).map(|plan| (ticket, plan)))
            .collect();
        for (ticket, plan) in &waiting {
            self.ends.remove(&(plan.ends, *ticket));
        }
        self.free_at = self.ends.iter().map(|(end, _)| Reverse(*end)).collect();
        for (ticket, plan) in waiting {
            self.place(now, ticket, plan.service);
        }
    }

    /// Throws out everyone present and names them.
    pub(crate) fn clear(&mut self) -> Vec<Ticket> {
        self.ends.clear();
        self.queue.clear();
        self.free_at.clear();
        std::mem::take(&mut self.plans).into_keys().collect()
    }

    /// The plan of an operation that is still present.
    pub(crate) fn plan(&self, ticket: Ticket) -> Option<Plan> {
        self.plans.get(&ticket).copied()
    }

    /// Sessions taken: operations queued or running.
    pub(crate) fn sessions(&self) -> usize {
        self.plans.len()
    }

    /// Operations waiting for a server.
    pub(crate) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Operations being worked on.
    pub(crate) fn running(&self) -> usize {
        self.plans.len() - self.queue.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One thing that happens to the schedule.
    #[derive(Clone, Debug)]
    enum Step {
        Arrive { after_ns: u64, service_ns: u64 },
        Factor { after_ns: u64, factor: u8 },
        Clear { after_ns: u64 },
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            12 => (0_u64..6, 0_u64..40).prop_map(|(after_ns, service_ns)| Step::Arrive { after_ns, service_ns }),
            2 => (0_u64..20, 0_u8..4).prop_map(|(after_ns, factor)| Step::Factor { after_ns, factor }),
            1 => (0_u64..30).prop_map(|after_ns| Step::Clear { after_ns }),
        ];
        proptest::collection::vec(step, 1..80)
    }

    /// The same device as a plain discrete simulation, one nanosecond after the other, with servers and a queue.
    struct Naive {
        limits: Capacity,
        now: u64,
        factor: u64,
        servers: Vec<(usize, u64)>,
        queue: VecDeque<(usize, u64)>,
        ended: BTreeMap<usize, u64>,
        running_high: usize,
    }

    impl Naive {
        fn advance(&mut self, to: u64) {
            loop {
                let now = self.now;
                let ended = &mut self.ended;
                self.servers.retain(|(id, end)| {
                    if *end <= now {
                        ended.insert(*id, *end);
                    }
                    *end > now
                });
                while self.servers.len() < self.limits.parallel_max
                    && let Some((id, service)) = self.queue.pop_front()
                {
                    let end = now + service * self.factor;
                    if end == now {
                        self.ended.insert(id, now);
                    } else {
                        self.servers.push((id, end));
                    }
                }
                self.running_high = self.running_high.max(self.servers.len());
                if self.now == to {
                    return;
                }
                self.now += 1;
            }
        }

        fn admit(&mut self, id: usize, service: u64) -> Result<(), Full> {
            if self.servers.len() + self.queue.len() >= self.limits.sessions_max {
                return Err(Full::Sessions);
            }
            if self.servers.len() >= self.limits.parallel_max && self.queue.len() >= self.limits.queue_max {
                return Err(Full::Queue);
            }
            self.queue.push_back((id, service));
            self.advance(self.now);
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn arithmetic_agrees_with_a_simulation_step_by_step(
            parallel_max in 1_usize..5,
            sessions_max in 1_usize..12,
            queue_max in 0_usize..8,
            steps in steps(),
        ) {
            let limits = Capacity { parallel_max, sessions_max, queue_max, ..Capacity::default() };
            let mut schedule = Schedule::new(&limits);
            let mut naive = Naive {
                limits,
                now: 0,
                factor: 1,
                servers: Vec::new(),
                queue: VecDeque::new(),
                ended: BTreeMap::new(),
                running_high: 0,
            };
            let mut tickets: BTreeMap<Ticket, usize> = BTreeMap::new();
            let mut ends: BTreeMap<usize, u64> = BTreeMap::new();
            let mut now = 0;
            for (id, step) in steps.into_iter().enumerate() {
                let (Step::Arrive { after_ns, .. } | Step::Factor { after_ns, .. } | Step::Clear { after_ns }) = step;
                now += after_ns;
                let at = Duration::from_nanos(now);
                schedule.settle(at);
                naive.advance(now);
                prop_assert_eq!(schedule.running(), naive.servers.len(), "running at {}", now);
                prop_assert_eq!(schedule.queued(), naive.queue.len(), "queued at {}", now);
                match step {
                    Step::Arrive { service_ns, .. } => {
                        let admitted = schedule.admit(at, Duration::from_nanos(service_ns));
                        prop_assert_eq!(admitted.map(|_| ()), naive.admit(id, service_ns), "admission at {}", now);
                        if let Ok((ticket, _)) = admitted {
                            tickets.insert(ticket, id);
                        }
                        schedule.settle(at);
                    }
                    Step::Factor { factor, .. } => {
                        schedule.set_factor(at, f64::from(factor));
                        naive.factor = u64::from(factor);
                        schedule.settle(at);
                        naive.advance(now);
                    }
                    Step::Clear { .. } => {
                        for ticket in schedule.clear() {
                            ends.remove(&tickets[&ticket]);
                        }
                        naive.servers.clear();
                        naive.queue.clear();
                    }
                }
                for (ticket, plan) in &schedule.plans {
                    ends.insert(tickets[ticket], plan.ends.as_nanos() as u64);
                }
                prop_assert!(schedule.running() <= parallel_max && schedule.sessions() <= sessions_max);
                prop_assert!(schedule.queued() <= queue_max);
            }
            naive.advance(now + 100_000);
            for (id, end) in &ends {
                prop_assert_eq!(naive.ended.get(id), Some(end), "operation {}", id);
            }
            prop_assert!(naive.running_high <= parallel_max);
        }
    }

    #[test]
    fn servers_are_given_out_in_order_of_arrival() {
        let limits = Capacity { parallel_max: 2, sessions_max: 4, queue_max: 2, ..Capacity::default() };
        let mut schedule = Schedule::new(&limits);
        let ns = Duration::from_nanos;
        let mut plan = |service| schedule.admit(ns(0), ns(service)).map(|(_, plan)| (plan.begins, plan.ends));
        assert_eq!(plan(10), Ok((ns(0), ns(10))));
        assert_eq!(plan(4), Ok((ns(0), ns(4))));
        assert_eq!(plan(3), Ok((ns(4), ns(7))));
        assert_eq!(plan(5), Ok((ns(7), ns(12))));
        assert_eq!(plan(1), Err(Full::Sessions));
        assert_eq!((schedule.running(), schedule.queued(), schedule.sessions()), (2, 2, 4));
        schedule.settle(ns(4));
        assert_eq!((schedule.running(), schedule.queued(), schedule.sessions()), (2, 1, 3));
    }
}
