//! One request to a group: a member is asked; when it fails, or its share of the time has passed, or the hedge is due, so
//! is the next one; the first answer that counts wins.
//!
//! Place on the map: part of [`group`](crate::hsm::group).
//!
//! A member that keeps silent is not given up when the next one is asked. An HSM that is slow and not hung still answers,
//! and a group whose members are all slow is no worse than one of them. A PKCS#11 call could not be cancelled anyway. That
//! this doubles the load of a slow group is the price of not waiting for one that hangs: it holds for members that are out
//! of use too, when no usable one is left.

use super::breaker::Era;
use super::verdict::{Verdict, is_members_fault, verdict, weight};
use super::{Asked, Change, Chosen, HsmGroup, MemberState, Operation};
use crate::hsm::{Answer, Hsm, HsmError, HsmErrorKind};
use crate::key::KeyName;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A member that was given less than this before the request's deadline is not to blame for keeping silent.
const JUDGED_AFTER: Duration = Duration::from_millis(10);

/// One request under way.
pub(super) struct Race<'a, T> {
    group: &'a HsmGroup,
    operation: Operation,
    key: &'a KeyName,
    deadline: Instant,
    asked: Asked,
    running: Vec<Attempt<'a, T>>,
    errors: Vec<(usize, HsmError)>,
    /// When the running members have had their share and the next one is asked.
    share_ends: Option<Instant>,
    /// No usable member was left, and those that are out of use are asked.
    last_resort: bool,
    /// When the next one is asked early. At most one hedge a request.
    hedge_at: Option<Instant>,
}

/// One member's call.
struct Attempt<'a, T> {
    ticket: Ticket<'a>,
    answer: Answer<'a, T>,
}

/// The account of one call, settled once: by its outcome, or when it is dropped.
struct Ticket<'a> {
    group: &'a HsmGroup,
    member: usize,
    era: Era,
    is_probe: bool,
    asked_at: Instant,
    /// It had its share of the time, so that being overtaken is its failure.
    had_its_share: bool,
    is_settled: bool,
}

impl<'a, T> Race<'a, T> {
    /// The answer of the first member that has one, by the deadline whatever the members do.
    pub(super) async fn run(
        group: &'a HsmGroup,
        operation: Operation,
        key: &'a KeyName,
        deadline: Instant,
        call: impl Fn(&'a dyn Hsm) -> Answer<'a, T> + Send + Sync,
    ) -> Result<T, HsmError> {
        let running = Vec::with_capacity(2);
        let (asked, errors) = (Asked::default(), Vec::new());
        let (share_ends, hedge_at) = (None, None);
        let last_resort = false;
        let mut race = Self {
            group,
            operation,
            key,
            deadline,
            asked,
            running,
            errors,
            share_ends,
            last_resort,
            hedge_at,
        };
        if !race.ask_usable(&call) {
            race.ask_anyone(&call);
        }
        race.plan_hedge();
        loop {
            let until = [race.share_ends, race.hedge_at].into_iter().flatten().min();
            let until = until.unwrap_or(deadline).min(deadline);
            match race.answer_until(until).await {
                Some((ticket, Ok(answer))) => {
                    race.won(ticket);
                    return Ok(answer);
                }
                Some((ticket, Err(error))) => {
                    if let Some(last) = race.lost(ticket, error, &call) {
                        return Err(last);
                    }
                }
                None => {
                    if let Some(late) = race.silent(&call) {
                        return Err(late);
                    }
                }
            }
        }
    }

    /// The outcome of any running call, or nothing at `until`. A call that is done by then comes first.
    async fn answer_until(&mut self, until: Instant) -> Option<(Ticket<'a>, Result<T, HsmError>)> {
        let mut timer = pin!(sleep_until(until));
        let running = &mut self.running;
        poll_fn(|context| {
            for index in 0..running.len() {
                let Some(attempt) = running.get_mut(index) else { break };
                if let Poll::Ready(outcome) = attempt.answer.as_mut().poll(context) {
                    return Poll::Ready(Some((running.remove(index).ticket, outcome)));
                }
            }
            timer.as_mut().poll(context).map(|()| None)
        })
        .await
    }

    fn won(&mut self, ticket: Ticket<'a>) {
        let now = Instant::now();
        let mut state = self.group.lock();
        if let Some(latencies) = state.latencies.get_mut(self.operation as usize) {
            latencies.note(now.duration_since(ticket.asked_at));
            // Those overtaken would have taken at least as long as they did; leaving them out would make the hedge ever
            // earlier.
            for overtaken in &self.running {
                latencies.note(now.duration_since(overtaken.ticket.asked_at));
            }
        }
        drop(state);
        let rejected = self.errors.iter().find(|(_, error)| error.kind == HsmErrorKind::CiphertextRejected);
        if let Some((rejecting, _)) = rejected {
            self.group.tell_disagreement(self.key, ticket.member, *rejecting);
        }
        ticket.succeeded();
    }

    /// An error came back. Gives the request's own error when there is nothing left to do.
    fn lost(
        &mut self,
        ticket: Ticket<'a>,
        error: HsmError,
        call: &impl Fn(&'a dyn Hsm) -> Answer<'a, T>,
    ) -> Option<HsmError> {
        let member = ticket.member;
        match verdict(error.kind) {
            Verdict::Final => {
                ticket.succeeded();
                return Some(self.named(member, error));
            }
            Verdict::Doubted => ticket.succeeded(),
            Verdict::AskAnother => ticket.neither(),
            Verdict::Failure => ticket.failed(error.kind),
        }
        let has_failed = error.kind != HsmErrorKind::CiphertextRejected;
        self.errors.push((member, error));
        if self.ask_usable(call) {
            if has_failed {
                self.count_failover(member);
            }
            return None;
        }
        if !self.running.is_empty() {
            return None;
        }
        // Members that are out of use are the last resort when the others are broken too. When they are merely full, or do
        // not know the key, a request must not wait for one that hangs.
        let all_broken = self.errors.iter().all(|(_, error)| is_members_fault(error.kind));
        if all_broken && self.ask_anyone(call) {
            self.count_failover(member);
            return None;
        }
        self.add_absent();
        Some(self.conclusion())
    }

    /// A member that is out of use may hold the key that a rejected ciphertext was made with. It is not asked: tampered
    /// ciphertexts must not keep asking one that hangs. But without its word the rejection is not passed on, for KMS would
    /// not ask again.
    fn add_absent(&mut self) {
        if !self.errors.iter().any(|(_, error)| error.kind == HsmErrorKind::CiphertextRejected) {
            return;
        }
        for member in (0..self.group.members.len()).filter(|member| !self.asked.has(*member)) {
            let detail = "is out of use and was not asked, and may hold the key of this ciphertext";
            self.errors.push((member, HsmError::new(HsmErrorKind::DeviceGone, detail)));
        }
    }

    /// Nobody answered in time for something. Gives the request's own error when that was the deadline.
    fn silent(&mut self, call: &impl Fn(&'a dyn Hsm) -> Answer<'a, T>) -> Option<HsmError> {
        let now = Instant::now();
        if self.deadline <= now {
            let late = |ticket: &Ticket<'_>| {
                let detail = "did not answer before the deadline";
                (ticket.member, HsmError::new(HsmErrorKind::TimedOut, detail))
            };
            for attempt in std::mem::take(&mut self.running) {
                self.errors.push(late(&attempt.ticket));
                attempt.ticket.failed(HsmErrorKind::TimedOut);
            }
            return Some(self.conclusion());
        }
        if self.share_ends.is_some_and(|at| at <= now) {
            self.share_ends = None;
            let waiting: Vec<usize> = self.running.iter().map(|attempt| attempt.ticket.member).collect();
            self.running.iter_mut().for_each(|attempt| attempt.ticket.had_its_share = true);
            if self.ask_usable(call) || (self.last_resort && self.ask_anyone(call)) {
                waiting.into_iter().for_each(|member| self.count_failover(member));
            }
        } else if self.hedge_at.is_some_and(|at| at <= now) {
            self.hedge_at = None;
            // Paid for only where another usable member is left.
            let paid = self.share_ends.is_some() && self.group.lock().budget.pay();
            if paid && self.ask_usable(call) {
                let hedge = self.running.last().map(|attempt| attempt.ticket.member);
                let mut state = self.group.lock();
                if let Some(of_member) = hedge.and_then(|member| state.members.get_mut(member)) {
                    of_member.hedges += 1;
                }
            }
        }
        None
    }

    fn ask_usable(&mut self, call: &impl Fn(&'a dyn Hsm) -> Answer<'a, T>) -> bool {
        self.group.choose(self.asked, Instant::now()).is_some_and(|chosen| self.ask(&chosen, call))
    }

    fn ask_anyone(&mut self, call: &impl Fn(&'a dyn Hsm) -> Answer<'a, T>) -> bool {
        self.last_resort = true;
        self.group.choose_anyway(self.asked).is_some_and(|chosen| self.ask(&chosen, call))
    }

    fn ask(&mut self, chosen: &Chosen, call: &impl Fn(&'a dyn Hsm) -> Answer<'a, T>) -> bool {
        let (group, now) = (self.group, Instant::now());
        let Some(member) = group.members.get(chosen.member) else { return false };
        if let Some(of_member) = group.lock().members.get_mut(chosen.member) {
            of_member.in_flight += 1;
        }
        let ticket = Ticket {
            group,
            member: chosen.member,
            era: chosen.era,
            is_probe: chosen.is_probe,
            asked_at: now,
            had_its_share: false,
            is_settled: false,
        };
        self.asked.add(chosen.member);
        let left = self.deadline.saturating_duration_since(now);
        self.share_ends =
            chosen.others.then(|| now + left * group.settings.attempt_share_percent.min(100) / 100);
        self.running.push(Attempt { ticket, answer: call(member.hsm.as_ref()) });
        true
    }

    fn plan_hedge(&mut self) {
        let share = self.group.settings.hedge_share_percent;
        if share == 0 || self.share_ends.is_none() || self.last_resort {
            return;
        }
        let mut state = self.group.lock();
        state.budget.earn(share);
        let p95 = state.latencies.get(self.operation as usize).and_then(|latencies| latencies.p95());
        self.hedge_at = p95.map(|p95| Instant::now() + p95);
    }

    fn count_failover(&self, member: usize) {
        if let Some(of_member) = self.group.lock().members.get_mut(member) {
            of_member.failovers += 1;
        }
    }

    fn named(&self, member: usize, mut error: HsmError) -> HsmError {
        let name = self.group.members.get(member).map_or("", |member| member.name.as_str());
        error.detail = format!("hsm {name}: {}", error.detail);
        error
    }

    /// The error the caller hears of, with what every member said for the log.
    fn conclusion(&mut self) -> HsmError {
        // Of equals the latest.
        let index = (0..self.errors.len())
            .max_by_key(|index| self.errors.get(*index).map_or(0, |(_, error)| weight(error.kind)));
        let Some((member, error)) = index.map(|index| self.errors.remove(index)) else {
            return HsmError::new(HsmErrorKind::Failed, "no member of the group could be asked");
        };
        let mut told = self.named(member, error);
        for (member, error) in std::mem::take(&mut self.errors) {
            let other = self.named(member, error);
            told.detail = format!("{}; {:?}: {}", told.detail, other.kind, other.detail);
        }
        told
    }
}

impl Ticket<'_> {
    /// The member works, whether or not the caller likes its answer.
    fn succeeded(mut self) {
        self.settle(|this, state| state.breaker.succeeded(this.era, &this.group.settings));
    }

    fn failed(mut self, kind: HsmErrorKind) {
        let excused = kind == HsmErrorKind::TimedOut
            && Instant::now().saturating_duration_since(self.asked_at) < JUDGED_AFTER;
        match excused {
            true => self.neither(),
            false => self.settle(Self::blame),
        }
    }

    /// Nothing was learned of the member's health.
    fn neither(mut self) {
        self.settle(Self::forget);
    }

    fn blame(&self, state: &mut MemberState) -> Option<Change> {
        state.breaker.failed(self.era, self.is_probe, Instant::now(), &self.group.settings)
    }

    fn forget(&self, state: &mut MemberState) -> Option<Change> {
        if self.is_probe {
            state.breaker.probe_forgotten(self.era, Instant::now());
        }
        None
    }

    fn settle(&mut self, how: impl FnOnce(&Self, &mut MemberState) -> Option<Change>) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        let mut state = self.group.lock();
        let change = state.members.get_mut(self.member).and_then(|of_member| {
            of_member.in_flight = of_member.in_flight.saturating_sub(1);
            how(self, of_member)
        });
        drop(state);
        self.group.log(self.member, change);
    }
}

/// Overtaken by another member, or the caller has gone away.
impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.settle(if self.had_its_share { Self::blame } else { Self::forget });
    }
}
