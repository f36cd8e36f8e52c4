//! A second run is held against a saved one: equal runs agree, and where one event is another, it is the one that is shown.

use scenarios::observer::{Observer, Seen};
use scenarios::replay::keeper::{CHECKPOINTS_MAX, FINGERPRINTS_MAX};
use scenarios::replay::{Comparison, Keeper, Parting, Provenance, SavedRun};
use scenarios::scenario::Scenario;
use scenarios::trace::Event;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// A run of so many made-up events, of which one may be another.
struct Run {
    events: u64,
    other: Option<u64>,
}

impl Run {
    fn show(&self, observer: &mut dyn Observer) -> String {
        let event = Event::Fault { at: Duration::ZERO, index: 0, begins: true };
        let mut digest = Sha256::new();
        for number in 0..self.events {
            let what = if self.other == Some(number) { "other" } else { "event" };
            let line = format!("{number} {what}\n");
            digest.update(line.as_bytes());
            let now = Duration::from_nanos(number);
            observer.observe(&Seen { number, now, event: &event, line: &line, request: None });
        }
        digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn saved(&self) -> SavedRun {
        let mut keeper = Keeper::default();
        let digest = self.show(&mut keeper);
        let scenario = Scenario::parse("x", "x.toml", "title = \"x\"\nduration_s = 10\n").unwrap();
        let from = Provenance { scenario: &scenario, origin: "x.toml", seed: 1 };
        let saved = SavedRun::new(&from, self.events, &digest, &keeper);
        SavedRun::parse("x.json", &saved.text(), false).unwrap()
    }

    fn against(&self, saved: SavedRun) -> Option<Parting> {
        let mut comparison = Comparison::new(saved);
        let digest = self.show(&mut comparison);
        comparison.finish(&digest)
    }
}

fn plain(events: u64) -> Run {
    Run { events, other: None }
}

#[test]
fn equal_runs_agree_however_long() {
    for events in [0, 1, 100, 5_000, FINGERPRINTS_MAX as u64 + 10_000] {
        let saved = plain(events).saved();
        assert!(saved.checkpoints.len() <= CHECKPOINTS_MAX);
        assert!(saved.text().len() < 1_500_000);
        assert_eq!(plain(events).against(saved), None, "{events}");
    }
}

#[test]
fn the_first_event_that_differs_is_shown_with_both_its_sides() {
    for (events, other) in [(100, 0), (100, 57), (100, 99)] {
        let parting = Run { events, other: Some(other) }.against(plain(events).saved());
        let expected = Parting::At {
            event: other,
            before: other.checked_sub(1).map(|before| format!("{before} event")),
            saved: Ok(format!("{other} event")),
            replayed: Some(format!("{other} other")),
        };
        assert_eq!(parting, Some(expected));
    }
    // Further on the file has no more of it than that it is another.
    let parting = Run { events: 50_000, other: Some(40_000) }.against(plain(50_000).saved());
    let Some(Parting::At { event: 40_000, saved: Err(_), replayed: Some(line), .. }) = parting else {
        panic!("{parting:?}")
    };
    assert_eq!(line, "40000 other");
}

#[test]
fn beyond_the_fingerprints_it_is_one_of_a_few() {
    let events = FINGERPRINTS_MAX as u64 * 2;
    let other = events - 1_000;
    let parting = Run { events, other: Some(other) }.against(plain(events).saved());
    let Some(Parting::Among { first, end, replayed, .. }) = &parting else { panic!("{parting:?}") };
    assert!((*first..*end).contains(&other) && end - first <= 128, "{parting:?}");
    assert_eq!(replayed[0], format!("{first} event"));
    assert!(parting.unwrap().to_string().contains("the two runs differ at one of the events"));
}

#[test]
fn a_run_that_ends_early_or_goes_on_parts_there() {
    let ended = plain(90).against(plain(100).saved()).unwrap();
    assert!(
        matches!(&ended, Parting::At { event: 90, replayed: None, saved: Ok(line), .. } if line == "90 event")
    );
    let more = plain(101).against(plain(100).saved()).unwrap();
    assert!(
        more.to_string().contains("differ at event 100") && more.to_string().contains("the run had ended")
    );
    let long = FINGERPRINTS_MAX as u64 * 2;
    assert!(plain(long - 1).against(plain(long).saved()).is_some());
    assert!(plain(long + 1).against(plain(long).saved()).is_some());
}
