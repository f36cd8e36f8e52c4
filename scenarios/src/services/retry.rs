//! How an AWS SDK in standard mode treats a failed call (kms-behaviour 12): a service's of KMS (that services do the same inside is
//! MA-D3), and a user's of a service:
//! up to `kms_attempts_max` attempts, three by default, on HTTP 500 and on throttling with full-jitter back-off, none on `KMSInvalidStateException`,
//! and a token bucket that stops retries when too many of them are needed.

use super::draws::Draws;
use crate::kms::{KmsException, KmsFailure, LocalFuture};
use std::cell::{Cell, RefCell};
use std::time::Duration;

const BACK_OFF_MAX: Duration = Duration::from_secs(20);
const TOKENS_MAX: u32 = 500;
/// What a success at the first try gives back.
pub(super) const AT_FIRST: u32 = 1;

/// A call with its retries: how it ended and what it cost.
pub(super) struct Tried<T> {
    pub(super) result: Result<T, KmsFailure>,
    /// KMS calls made.
    pub(super) attempts: u32,
}

impl<T> Tried<T> {
    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Tried<U> {
        Tried { result: self.result.map(change), attempts: self.attempts }
    }
}

/// What an SDK makes of an error of a service, by its code and status as the user sees it: HTTP 5xx is transient, and throttling goes
/// by many names.
pub(super) fn price_of_visible(visible: &str) -> Option<(u32, Duration)> {
    const THROTTLING: [&str; 4] = ["Throttl", "SlowDown", "TooManyRequests", "LimitExceeded"];
    const TRANSIENT: [&str; 4] = ["(500)", "(502)", "(503)", "(504)"];
    if THROTTLING.iter().any(|name| visible.contains(name)) {
        return price(KmsException::Throttling);
    }
    if TRANSIENT.iter().any(|status| visible.contains(status)) {
        return price(KmsException::KmsInternal);
    }
    None
}

/// The retry state of one SDK client. A service's whole fleet shares one here, which keeps its bucket's verdict while
/// a real fleet, a bucket per host, would come to it host by host.
pub(super) struct Retry {
    attempts_max: u32,
    tokens: Cell<u32>,
    jitter: RefCell<Draws>,
}

/// Tokens one retry costs, and the back-off before the first.
fn price(exception: KmsException) -> Option<(u32, Duration)> {
    match exception {
        KmsException::KmsInternal => Some((14, Duration::from_millis(50))),
        KmsException::Throttling => Some((5, Duration::from_millis(1000))),
        _ => None,
    }
}

impl Retry {
    pub(super) fn new(jitter: Draws, attempts_max: u32) -> Self {
        Self { attempts_max, tokens: Cell::new(TOKENS_MAX), jitter: RefCell::new(jitter) }
    }

    pub(super) async fn call<'a, T>(
        &self,
        kms_call: impl Fn() -> LocalFuture<'a, Result<T, KmsFailure>>,
    ) -> Tried<T> {
        let mut give_back = AT_FIRST;
        let mut attempts = 1;
        loop {
            let failure = match kms_call().await {
                Ok(value) => {
                    self.succeeded(give_back);
                    return Tried { result: Ok(value), attempts };
                }
                Err(failure) => failure,
            };
            let Some(cost) = self.pause(attempts, price(failure.exception)).await else {
                return Tried { result: Err(failure), attempts };
            };
            give_back = cost;
            attempts += 1;
        }
    }

    /// A success gives back what its last retry took, and a success at the first try one token.
    pub(super) fn succeeded(&self, give_back: u32) {
        self.tokens.set((self.tokens.get() + give_back).min(TOKENS_MAX));
    }

    /// Waits until a call that has been tried so often may be tried again, and says what that costs; `None` when it may not.
    pub(super) async fn pause(&self, attempts: u32, price: Option<(u32, Duration)>) -> Option<u32> {
        let (cost, base) =
            price.filter(|(cost, _)| *cost <= self.tokens.get() && attempts < self.attempts_max)?;
        self.tokens.set(self.tokens.get() - cost);
        let doubled = 2_u32.saturating_pow(attempts - 1);
        let ceiling = base.saturating_mul(doubled).min(BACK_OFF_MAX);
        let back_off = self.jitter.borrow_mut().between(Duration::ZERO, ceiling);
        tokio::time::sleep(back_off).await;
        Some(cost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;
    use tokio::time::Instant;

    fn retry() -> Retry {
        Retry::new(Draws::new(ChaCha20Rng::seed_from_u64(7)), 3)
    }

    fn failure(exception: KmsException) -> KmsFailure {
        KmsFailure { exception, message: "".into(), row: 14 }
    }

    /// Answers `failures` times with the exception, then with success.
    async fn tried(retry: &Retry, exception: KmsException, failures: u32) -> (Tried<()>, Duration) {
        let begun = Instant::now();
        let made = Cell::new(0);
        let tried = retry
            .call(|| {
                made.set(made.get() + 1);
                let answer = if made.get() <= failures { Err(failure(exception)) } else { Ok(()) };
                Box::pin(async move { answer })
            })
            .await;
        assert_eq!(tried.attempts, made.get());
        (tried, begun.elapsed())
    }

    #[test]
    fn an_sdk_tries_again_what_is_transient_or_throttling() {
        for (visible, cost) in [
            ("ServiceUnavailable (503)", Some(14)),
            ("KMSInvalidStateException (502)", Some(14)),
            ("SlowDown (503)", Some(5)),
            ("KMSThrottlingException (400)", Some(5)),
            ("KMS.KMSInvalidStateException (400)", None),
            ("I/O error: EBS reattachVolume failed", None),
        ] {
            assert_eq!(price_of_visible(visible).map(|(cost, _)| cost), cost, "{visible}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn invalid_state_is_returned_at_once() {
        let (tried, took) = tried(&retry(), KmsException::KmsInvalidState, 9).await;
        assert_eq!((tried.result.is_err(), tried.attempts, took), (true, 1, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn internal_and_throttling_are_tried_three_times_within_their_back_off() {
        for (exception, base_ms) in [(KmsException::KmsInternal, 50), (KmsException::Throttling, 1000)] {
            let mut longest = Duration::ZERO;
            for seed in 0..200 {
                let retry = Retry::new(Draws::new(ChaCha20Rng::seed_from_u64(seed)), 3);
                let (tried, took) = tried(&retry, exception, 9).await;
                assert!(tried.result.is_err());
                assert_eq!(tried.attempts, 3);
                // One base, then two; the paused clock rounds each sleep up to a millisecond.
                assert!(took <= Duration::from_millis(3 * base_ms + 2), "{took:?}");
                longest = longest.max(took);
            }
            assert!(longest > Duration::from_millis(2 * base_ms), "back-off grows: {longest:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_retry_that_succeeds_is_a_success_and_gives_its_tokens_back() {
        let retry = retry();
        let (tried, _) = tried(&retry, KmsException::KmsInternal, 2).await;
        assert_eq!((tried.result.is_ok(), tried.attempts), (true, 3));
        assert_eq!(retry.tokens.get(), TOKENS_MAX - 14);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_bucket_stops_retries_until_successes_refill_it() {
        let retry = retry();
        let mut calls = 0;
        for _ in 0..50 {
            calls += tried(&retry, KmsException::KmsInternal, 9).await.0.attempts;
        }
        assert_eq!(calls, 50 + TOKENS_MAX / 14, "35 retries and no more");
        for _ in 0..14 {
            tried(&retry, KmsException::KmsInternal, 0).await;
        }
        assert_eq!(tried(&retry, KmsException::KmsInternal, 1).await.0.attempts, 2);
    }
}
