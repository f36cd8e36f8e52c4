//! Scenario files.

use crate::config::{has_line, is_one_line};
use scenarios::scenario::Scenario;

/// A text. A mistake is one line long and names a line that the text has; what is accepted has a timeline in which every
/// fault begins before it ends and inside the run.
pub(crate) fn scenario(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Scenario::parse("fuzz", "fuzz.toml", text) {
        Ok(scenario) => {
            assert!(!scenario.duration.is_zero());
            for fault in &scenario.faults {
                assert!(fault.from < fault.to.unwrap_or(scenario.duration), "{fault:?}");
                assert!(fault.to.is_none_or(|to| to <= scenario.duration), "{fault:?}");
                assert!(scenario.in_fault(fault.from), "{fault:?}");
            }
            assert_eq!(scenario.fault_span().is_some(), !scenario.faults.is_empty());
        }
        Err(error) => {
            let message = error.to_string();
            assert!(is_one_line(&message), "{message:?}");
            let place = message.strip_prefix("fuzz.toml:").and_then(|rest| rest.split_once(':'));
            let line = place.and_then(|(line, _)| line.parse().ok());
            assert!(line.is_some_and(|line| has_line(text, line)), "{message:?}");
        }
    }
}
