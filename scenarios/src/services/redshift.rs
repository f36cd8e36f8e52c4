//! Redshift: the warehouse's key is decrypted at creation and reboot and held in memory. An hour after its key is gone (MA-D21)
//! the warehouse is set aside for 14 days; it comes back by itself with the key, and is deleted without it
//! (downstream-services 3.5).

use super::desk::{Aftermath, Desk, Visible};
use super::draws::Draws;
use super::objects::Objects;
use super::settings::{ROLES, settings};
use super::stats::{ServiceStats, WindowTally, join};
use super::watch::{KeyState, polls_in_words, watch_key};
use super::words::{clock, count, plural};
use super::{Model, Service, Work};
use crate::kms::{Caller, CiphertextBlob, KmsOperation};
use crate::trace::ServiceOutcome;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

settings! {
    /// `kind = "redshift"`. Most requests are queries; some reboot or resize a warehouse (Decrypt).
    Redshift, "redshift", "Redshift warehouses";
    /// Queries, reboots and resizes per second; above 0 to 100,000; default 20.
    rate_per_s = 20.0;
    /// Share of reboots and resizes among them; 0 to 1; default 0.001.
    reboot_share: f64 = 0.001, share();
    /// Warehouses; 1 to 500; default 5.
    warehouses: u32 = 5, count(1..=500);
    /// Seconds between Redshift's polls of the key, one for all warehouses (MA-D2); 1 to 86,400; default 60. What follows from a
    /// poll is late by up to as much.
    check_every_s: u64 = 60, seconds();
    /// Seconds of an unusable key after which a warehouse is set aside (MA-D21); 1 to 86,400; default 3,600.
    detect_s: u64 = 3_600, seconds();
    /// Seconds from there to its deletion; 1 to 2,592,000; default 1,209,600 (14 days, documented).
    delete_after_s: u64 = 1_209_600, seconds_in(1..=2_592_000);
}

const VISIBLE: Visible = Visible {
    invalid_state: "DependentServiceUnavailableFault (400)",
    internal: "DependentServiceUnavailableFault (400)",
    throttled: "DependentServiceRequestThrottlingFault (400)",
    disabled: "DependentServiceUnavailableFault (400)",
    not_found: "DependentServiceUnavailableFault (400)",
};
const INACCESSIBLE: &str = "warehouse status inaccessible-kms-key";
const GONE: &str = "warehouse deleted";
const VIA: &str = "redshift.us-east-1.amazonaws.com";
const SET_ASIDE: &str = "inaccessible-kms-key";
const RESTORED: &str = "restored";
const DELETED: &str = "warehouses deleted (a backup remains)";
const TO_RESTORE: &str = "warehouses to restore from their backup";

impl Service for Redshift {
    fn model(&self, desk: Rc<Desk>, _draws: &mut Draws) -> Rc<dyn Model> {
        Rc::new(Warehouses {
            caller: desk.caller(ROLES[0], VIA),
            keys: Objects::new(self.warehouses as usize),
            states: RefCell::new(vec![State::Available; self.warehouses as usize]),
            watched: Cell::new(false),
            settings: self.clone(),
            desk,
        })
    }

    fn kept_working(&self, during: &WindowTally) -> String {
        join(&[
            during.in_general(),
            during.held_sentence("queries", "a running warehouse holds its key in memory (MA-D21)"),
        ])
    }

    fn lasting_damage(&self, _stats: &ServiceStats, aftermath: &Aftermath) -> String {
        let Some((n, first)) = aftermath.became(SET_ASIDE) else { return String::new() };
        let restored = aftermath.became(RESTORED).map_or_else(String::new, |(_, first)| {
            format!("They were restored by themselves from {} on.", clock(first))
        });
        let set_aside = format!(
            "{} of {} warehouses were backed up and set to inaccessible-kms-key, the first at {}.",
            count(n.min(u64::from(self.warehouses))),
            count(u64::from(self.warehouses)),
            clock(first),
        );
        let days = self.delete_after_s / 86_400;
        let deleted = match aftermath.became(DELETED) {
            Some((n, first)) => format!(
                "{} deleted {days} days later, the first at {}.",
                plural(n, "warehouse was", "warehouses were"),
                clock(first)
            ),
            None if restored.is_empty() => {
                format!("If the key does not come back within {days} days, they are deleted.")
            }
            None => String::new(),
        };
        join(&[set_aside, restored, deleted])
    }

    fn assumptions(&self) -> Vec<String> {
        vec![
            polls_in_words("Redshift", "warehouses", self.check_every_s),
            format!("MA-D21: Redshift notices an unusable key after {} s", self.detect_s),
        ]
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Available,
    SetAside { since: Duration },
    Deleted,
}

struct Warehouses {
    settings: Redshift,
    desk: Rc<Desk>,
    caller: Caller,
    keys: Objects,
    states: RefCell<Vec<State>>,
    /// Redshift polls the key.
    watched: Cell<bool>,
}

impl Warehouses {
    async fn create_warehouse(self: Rc<Self>) -> ServiceOutcome {
        let made = self.desk.encrypt_and_decrypt(KmsOperation::GenerateDataKey, &self.caller).await;
        self.desk.outcome(
            &VISIBLE,
            made.map(|key| {
                if !self.keys.is_full() {
                    self.keys.keep(key.clone(), 0.0);
                    if !self.watched.replace(true) {
                        tokio::task::spawn_local(self.clone().watch(key));
                    }
                }
            }),
        )
    }

    async fn watch(self: Rc<Self>, key: CiphertextBlob) {
        let every = Duration::from_secs(self.settings.check_every_s);
        watch_key(&self.desk, &key, &self.caller, every, |now, key| {
            for (number, state) in self.states.borrow_mut().iter_mut().enumerate() {
                self.look_at(number, state, now, key);
            }
        })
        .await;
    }

    fn look_at(&self, number: usize, state: &mut State, now: Duration, key: KeyState) {
        match *state {
            State::Available if key.lost_for(Duration::from_secs(self.settings.detect_s), now) => {
                *state = State::SetAside { since: now };
                self.desk.record_damage(number, SET_ASIDE);
            }
            State::SetAside { .. } if !key.is_lost() => {
                *state = State::Available;
                self.desk.record_damage(number, RESTORED);
            }
            State::SetAside { since } if now >= since + Duration::from_secs(self.settings.delete_after_s) => {
                *state = State::Deleted;
                self.desk.record_damage(number, DELETED);
                self.desk.lose(DELETED, 1, now);
                self.desk.leave_to_do(TO_RESTORE, 1);
            }
            _ => {}
        }
    }

    async fn use_warehouse(self: Rc<Self>, place: f64, reboots: bool) -> ServiceOutcome {
        let Some((number, key)) = self.keys.pick(place) else { return self.create_warehouse().await };
        let state = self.states.borrow().get(number).copied();
        let failed = |visible| ServiceOutcome::Failed { visible, kms: None, attempts: 0 };
        match state {
            Some(State::SetAside { .. }) => failed(INACCESSIBLE),
            Some(State::Deleted) => failed(GONE),
            _ if reboots => self.desk.outcome(&VISIBLE, self.desk.decrypt(&key, &self.caller).await),
            _ => ServiceOutcome::ServedByHeldKey,
        }
    }
}

impl Model for Warehouses {
    fn resources(&self) -> usize {
        self.settings.warehouses as usize
    }

    fn create(self: Rc<Self>, _number: usize) -> Work {
        Box::pin(self.create_warehouse())
    }

    fn request(self: Rc<Self>, draws: &mut Draws) -> Work {
        let (kind, place) = (draws.unit(), draws.unit());
        let reboots = kind < self.settings.reboot_share;
        Box::pin(self.use_warehouse(place, reboots))
    }
}
