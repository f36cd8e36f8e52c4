//! When the PIN may be tried: one login at a time, none after a refusal, and after another failure not soon again.
//!
//! Place on the map: `session` asks it before each `C_Login`. A token locks itself after a few wrong PINs, and only a
//! login can tell whether a PIN is wrong. So a turn (`turn`) is not enough, which a slow login loses after a while.

use super::settings::OpenError;
use crate::hsm::HsmErrorKind;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The least time between a login that failed and the next. Together with the longest pause between two openings it
/// stays below the two seconds in which service has to resume after the token's return.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A login that takes longer hangs, and nobody knows whether it will ever return. Another is tried beside it, but only
/// with a PIN that the token has accepted before.
const HANGS_AFTER: Duration = Duration::from_secs(30);

/// The logins of one token.
#[derive(Default)]
pub(super) struct Logins(Mutex<State>);

#[derive(Default)]
struct State {
    /// The number of the login that is under way, and when it began.
    under_way: Option<(u64, Instant)>,
    last: u64,
    /// The token has taken the PIN at some time.
    accepted: bool,
    /// The token said no: from now on this is the answer, and the token is not asked again.
    refused: Option<OpenError>,
    /// What the last login failed with, and when.
    failed: Option<(OpenError, Instant)>,
}

/// A login that is under way, until this is dropped.
pub(super) struct Login<'a> {
    logins: &'a Logins,
    number: u64,
}

impl Logins {
    /// Whether a login may be tried now.
    ///
    /// # Errors
    /// Why it may not.
    pub(super) fn may_begin(&self) -> Result<(), OpenError> {
        self.state().may_begin()
    }

    /// As [`may_begin`](Self::may_begin), and then nobody else may until the answer is there.
    pub(super) fn begin(&self) -> Result<Login<'_>, OpenError> {
        let mut state = self.state();
        state.may_begin()?;
        state.last += 1;
        state.under_way = Some((state.last, Instant::now()));
        Ok(Login { logins: self, number: state.last })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn may_begin(&self) -> Result<(), OpenError> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        if let Some((_, begun_at)) = self.under_way
            && !(self.accepted && begun_at.elapsed() >= HANGS_AFTER)
        {
            return Err(OpenError::LoginUnderWay);
        }
        match &self.failed {
            Some((error, failed_at)) if failed_at.elapsed() < AGAIN_AFTER => Err(error.clone()),
            _ => Ok(()),
        }
    }
}

impl Login<'_> {
    /// The token has taken the PIN.
    pub(super) fn accepted(self) {
        let mut state = self.logins.state();
        state.accepted = true;
        state.failed = None;
    }

    /// It has not. Nobody else begins before this is noted.
    pub(super) fn failed(self, error: &OpenError) {
        let mut state = self.logins.state();
        if error.is_final() {
            state.refused.get_or_insert_with(|| error.clone());
        } else if matches!(error, OpenError::Call { verdict: Some(verdict), .. } if verdict.kind == HsmErrorKind::Failed)
        {
            // It may be a vendor's word for a wrong PIN. A device or session that is gone has not looked at the PIN.
            state.failed = Some((error.clone(), Instant::now()));
        }
    }
}

impl Drop for Login<'_> {
    fn drop(&mut self) {
        let mut state = self.logins.state();
        if state.under_way.is_some_and(|(number, _)| number == self.number) {
            state.under_way = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::pkcs11::TokenChoice;
    use cryptoki::context::Function;
    use cryptoki::error::{Error, RvError};
    use proptest::prelude::*;
    use tokio::time::advance;

    const JUST_BEFORE: Duration = Duration::from_millis(1);

    fn told(rv: RvError) -> OpenError {
        OpenError::call(&Error::Pkcs11(rv, Function::Login))
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_logs_in_beside_another_however_long_that_takes() {
        let logins = Logins::default();
        let login = logins.begin().unwrap();
        advance(HANGS_AFTER * 100).await;
        assert_eq!(logins.begin().err(), Some(OpenError::LoginUnderWay));
        let refused = OpenError::PinIncorrect(TokenChoice::Slot(1));
        login.failed(&refused);
        advance(HANGS_AFTER * 100).await;
        assert_eq!(logins.begin().err(), Some(refused), "for good");
    }

    /// Else one call that never returns would keep all others from coming back, for ever.
    #[tokio::test(start_paused = true)]
    async fn a_login_that_hangs_is_left_behind_once_the_pin_is_known_to_be_right() {
        let logins = Logins::default();
        logins.begin().unwrap().accepted();
        let hung = logins.begin().unwrap();
        advance(HANGS_AFTER - JUST_BEFORE).await;
        assert!(logins.begin().is_err());
        advance(JUST_BEFORE).await;
        let second = logins.begin().unwrap();
        drop(hung);
        assert!(logins.begin().is_err(), "a late return ends its own login only");
        drop(second);
        assert!(logins.begin().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_a_vendors_word_for_a_wrong_pin_is_tried_once_a_second() {
        for rv in [
            RvError::GeneralError,
            RvError::VendorDefined(0x8000_0001),
            RvError::PinTooWeak,
            RvError::UserTypeInvalid,
            RvError::UserAnotherAlreadyLoggedIn,
            RvError::UserTooManyTypes,
        ] {
            let logins = Logins::default();
            logins.begin().unwrap().failed(&told(rv));
            advance(AGAIN_AFTER - JUST_BEFORE).await;
            assert_eq!(logins.may_begin(), Err(told(rv)));
            advance(JUST_BEFORE).await;
            logins.begin().unwrap().accepted();
            assert!(logins.begin().is_ok());
        }
        let logins = Logins::default();
        logins.begin().unwrap().failed(&told(RvError::DeviceRemoved));
        assert!(logins.begin().is_ok(), "no PIN was looked at");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin,
        /// The oldest login under way ends: the PIN is taken, is wrong, may be wrong, was not looked at, or nobody knows.
        End(End),
        Wait(Duration),
    }

    #[derive(Clone, Copy, Debug)]
    enum End {
        Accepted,
        Refused,
        Unclear,
        Unplugged,
        Dropped,
    }

    fn step() -> impl Strategy<Value = Step> {
        let end = prop_oneof![
            Just(End::Accepted),
            Just(End::Refused),
            Just(End::Unclear),
            Just(End::Unplugged),
            Just(End::Dropped),
        ];
        let wait = prop_oneof![0..2_000_u64, 0..60_000_u64].prop_map(Duration::from_millis);
        prop_oneof![3 => Just(Step::Begin), 2 => end.prop_map(Step::End), 2 => wait.prop_map(Step::Wait)]
    }

    /// Whatever order things come in: a token that has said no is never asked again, a PIN that nobody knows to be right
    /// is never tried twice at once, and one that may be wrong is not tried again within the second.
    #[test]
    fn a_wrong_pin_is_tried_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.unwrap();
        proptest!(|(steps in prop::collection::vec(step(), 0..60))| {
            runtime.block_on(async {
                let logins = Logins::default();
                let mut under_way = std::collections::VecDeque::new();
                let (mut accepted, mut refused, mut unclear_at) = (false, false, None::<Instant>);
                for step in steps {
                    match step {
                        Step::Wait(time) => advance(time).await,
                        Step::Begin => {
                            let Ok(login) = logins.begin() else { continue };
                            prop_assert!(!refused, "after the token had said no");
                            prop_assert!(under_way.is_empty() || accepted, "beside another, with a PIN nobody knows");
                            prop_assert!(
                                under_way.back().is_none_or(|(_, at): &(_, Instant)| at.elapsed() >= HANGS_AFTER),
                                "beside another that does not hang"
                            );
                            prop_assert!(unclear_at.is_none_or(|at| at.elapsed() >= AGAIN_AFTER), "too soon");
                            under_way.push_back((login, Instant::now()));
                        }
                        Step::End(end) => {
                            let Some((login, _)) = under_way.pop_front() else { continue };
                            match end {
                                End::Accepted => {
                                    (accepted, unclear_at) = (true, None);
                                    login.accepted();
                                }
                                End::Refused => {
                                    refused = true;
                                    login.failed(&OpenError::PinIncorrect(TokenChoice::Slot(1)));
                                }
                                End::Unclear => {
                                    unclear_at = Some(Instant::now());
                                    login.failed(&told(RvError::GeneralError));
                                }
                                End::Unplugged => login.failed(&told(RvError::DeviceRemoved)),
                                End::Dropped => drop(login),
                            }
                        }
                    }
                }
                // It is caution, and no lock: in the end a token that has not said no may be asked.
                under_way.clear();
                advance(HANGS_AFTER).await;
                prop_assert_eq!(logins.begin().is_ok(), !refused);
                Ok(())
            })?;
        });
    }
}
