//! A circuit breaker: after failures in a row a member is left alone for a while, then tried with one request.
//!
//! Place on the map: part of [`group`](crate::hsm::group); pure, the caller says what time it is.

use super::settings::GroupSettings;
use std::time::Duration;
use tokio::time::Instant;

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakerState {
    /// The member is used.
    Closed,
    /// One request tries whether it works again; the others leave it alone.
    HalfOpen,
    /// It is left alone.
    Open,
}

/// What a breaker says of the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Usable,
    /// The pause is over: one request may try.
    ProbeDue,
    Out,
}

/// Names the time a call began in, between two openings or closings: what a call begun in another one says is old news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Era(u64);

/// What is to be logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Opened,
    Closed,
}

#[derive(Debug)]
pub(super) struct Breaker {
    phase: Phase,
    failures: u32,
    pause: Duration,
    era: u64,
    opened: u64,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Closed,
    Open { until: Instant },
    Probing,
}

impl Breaker {
    pub(super) fn new(settings: &GroupSettings) -> Self {
        Self { phase: Phase::Closed, failures: 0, pause: settings.breaker_pause, era: 0, opened: 0 }
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { .. } => BreakerState::Open,
            Phase::Probing => BreakerState::HalfOpen,
        }
    }

    /// How often it has opened; a probe that fails does not count again.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        match self.phase {
            Phase::Closed => Standing::Usable,
            Phase::Open { until } if until <= now => Standing::ProbeDue,
            Phase::Open { .. } | Phase::Probing => Standing::Out,
        }
    }

    pub(super) fn era(&self) -> Era {
        Era(self.era)
    }

    /// One request has been chosen to try. [`succeeded`](Self::succeeded), [`failed`](Self::failed) or
    /// [`probe_forgotten`](Self::probe_forgotten) must follow.
    pub(super) fn begin_probe(&mut self) {
        self.phase = Phase::Probing;
    }

    /// The probe ended without an answer and through no fault of the member: the next request may try.
    pub(super) fn probe_forgotten(&mut self, era: Era, now: Instant) {
        if self.era == era.0 && matches!(self.phase, Phase::Probing) {
            self.phase = Phase::Open { until: now };
        }
    }

    /// The member has answered a call of this era.
    pub(super) fn succeeded(&mut self, era: Era, settings: &GroupSettings) -> Option<Change> {
        if self.era != era.0 {
            return None;
        }
        self.failures = 0;
        if matches!(self.phase, Phase::Closed) {
            return None;
        }
        self.phase = Phase::Closed;
        self.pause = settings.breaker_pause;
        self.era += 1;
        Some(Change::Closed)
    }

    /// The member has failed a call of this era.
    pub(super) fn failed(
        &mut self,
        era: Era,
        is_probe: bool,
        now: Instant,
        settings: &GroupSettings,
    ) -> Option<Change> {
        if self.era != era.0 {
            return None;
        }
        match self.phase {
            Phase::Closed => {
                self.failures = self.failures.saturating_add(1);
                if self.failures < settings.breaker_failures {
                    return None;
                }
                self.phase = Phase::Open { until: now + self.pause };
                self.era += 1;
                self.opened += 1;
                Some(Change::Opened)
            }
            Phase::Probing if is_probe => {
                self.pause = (self.pause * 2).min(settings.breaker_pause_max).max(settings.breaker_pause);
                self.phase = Phase::Open { until: now + self.pause };
                None
            }
            Phase::Probing | Phase::Open { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: GroupSettings = GroupSettings {
        breaker_failures: 3,
        breaker_pause: Duration::from_secs(1),
        breaker_pause_max: Duration::from_secs(3),
        attempt_share_percent: 50,
        hedge_share_percent: 0,
    };

    fn fail(breaker: &mut Breaker, times: usize, era: Era, now: Instant) {
        for _ in 0..times {
            breaker.failed(era, false, now, &SETTINGS);
        }
    }

    fn open(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(&SETTINGS);
        let era = breaker.era();
        fail(&mut breaker, 3, era, now);
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_on_failures_in_a_row_only() {
        let now = Instant::now();
        let mut breaker = Breaker::new(&SETTINGS);
        let era = breaker.era();
        for _ in 0..5 {
            assert_eq!(breaker.failed(era, false, now, &SETTINGS), None);
            assert_eq!(breaker.failed(era, false, now, &SETTINGS), None);
            assert_eq!(breaker.succeeded(era, &SETTINGS), None);
        }
        assert_eq!((breaker.standing(now), breaker.opened()), (Standing::Usable, 0));
        breaker.failed(era, false, now, &SETTINGS);
        breaker.failed(era, false, now, &SETTINGS);
        assert_eq!(breaker.failed(era, false, now, &SETTINGS), Some(Change::Opened));
        assert_eq!((breaker.standing(now), breaker.opened()), (Standing::Out, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_pause_one_request_tries_and_closes_it() {
        let now = Instant::now();
        let mut breaker = open(now);
        assert_eq!(breaker.standing(now + Duration::from_millis(999)), Standing::Out);
        let later = now + Duration::from_secs(1);
        assert_eq!(breaker.standing(later), Standing::ProbeDue);
        breaker.begin_probe();
        assert_eq!((breaker.state(), breaker.standing(later)), (BreakerState::HalfOpen, Standing::Out));
        assert_eq!(breaker.succeeded(breaker.era(), &SETTINGS), Some(Change::Closed));
        assert_eq!(breaker.standing(later), Standing::Usable);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_probes_double_the_pause_up_to_its_limit_and_are_no_new_opening() {
        let mut now = Instant::now();
        let mut breaker = open(now);
        for seconds in [1, 2, 3, 3] {
            now += Duration::from_secs(seconds) - Duration::from_millis(1);
            assert_eq!(breaker.standing(now), Standing::Out, "{seconds}");
            now += Duration::from_millis(1);
            assert_eq!(breaker.standing(now), Standing::ProbeDue, "{seconds}");
            breaker.begin_probe();
            assert_eq!(breaker.failed(breaker.era(), true, now, &SETTINGS), None);
        }
        assert_eq!(breaker.opened(), 1);
        breaker.succeeded(breaker.era(), &SETTINGS);
        let era = breaker.era();
        fail(&mut breaker, 3, era, now);
        assert_eq!(
            breaker.standing(now + Duration::from_secs(1)),
            Standing::ProbeDue,
            "the first pause again"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_probe_leaves_its_place_to_the_next_request() {
        let now = Instant::now();
        let mut breaker = open(now);
        breaker.begin_probe();
        breaker.probe_forgotten(breaker.era(), now);
        assert_eq!(breaker.standing(now), Standing::ProbeDue);
    }

    /// Calls begun before the breaker opened come back long after, and must neither close nor open anything.
    #[tokio::test(start_paused = true)]
    async fn old_news_changes_nothing() {
        let now = Instant::now();
        let mut breaker = Breaker::new(&SETTINGS);
        let before = breaker.era();
        fail(&mut breaker, 3, before, now);
        assert_eq!(breaker.succeeded(before, &SETTINGS), None);
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker.begin_probe();
        assert_eq!(breaker.succeeded(breaker.era(), &SETTINGS), Some(Change::Closed));
        fail(&mut breaker, 9, before, now);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    /// A call that was let through although the breaker was open, because no member was usable, must not end the probe.
    #[tokio::test(start_paused = true)]
    async fn the_failure_of_another_call_does_not_end_a_probe() {
        let now = Instant::now();
        let mut breaker = open(now);
        breaker.begin_probe();
        breaker.failed(breaker.era(), false, now, &SETTINGS);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }
}
