//! Numbers and times in the words of a report.

use std::time::Duration;

/// With thousands separators: `1,203`.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A moment of the run: `14:32`, from an hour on `2:24:10`, from a day on `7 days 12 h` as everywhere in a report.
pub(super) fn clock(at: Duration) -> String {
    let s = at.as_secs();
    if s >= DAY_S {
        days(s)
    } else if s < 3600 {
        format!("{}:{:02}", s / 60, s % 60)
    } else {
        format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
    }
}

const DAY_S: u64 = 86_400;

/// `1 day`, `7 days 12 h`.
fn days(s: u64) -> String {
    let hours = s / 3600;
    let days = plural(hours / 24, "day", "days");
    if hours.is_multiple_of(24) { days } else { format!("{days} {} h", hours % 24) }
}

/// A length of time: `0.4 s`, `51 s`, `4 min 51 s`, `2 h 10 min`, `7 days 12 h`.
pub(super) fn span(length: Duration) -> String {
    let s = length.as_secs();
    match s {
        0..10 => format!("{:.1} s", length.as_millis() as f64 / 1000.0),
        10..60 => format!("{s} s"),
        60..3600 if s.is_multiple_of(60) => format!("{} min", s / 60),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        DAY_S.. => days(s),
        _ if (s / 60).is_multiple_of(60) => format!("{} h", s / 3600),
        _ => format!("{} h {} min", s / 3600, s / 60 % 60),
    }
}

/// `1 request`, `2 requests`.
pub(super) fn plural(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(n), if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_times_read_well() {
        assert_eq!(
            [count(0), count(999), count(1_000), count(1_234_567)],
            ["0", "999", "1,000", "1,234,567"]
        );
        let s = Duration::from_secs;
        assert_eq!([clock(s(872)), clock(s(5)), clock(s(8650))], ["14:32", "0:05", "2:24:10"]);
        assert_eq!(
            [span(Duration::from_millis(420)), span(s(51)), span(s(291))],
            ["0.4 s", "51 s", "4 min 51 s"]
        );
        assert_eq!([span(s(300)), span(s(7200)), span(s(7805))], ["5 min", "2 h", "2 h 10 min"]);
        let late = s(180 * 3600 + 47 * 60 + 40);
        assert_eq!([clock(late), span(late), clock(s(86_399))], ["7 days 12 h", "7 days 12 h", "23:59:59"]);
        assert_eq!([clock(s(86_400)), span(s(90_000))], ["1 day", "1 day 1 h"]);
        assert_eq!(
            [plural(1, "launch", "launches"), plural(2, "launch", "launches")],
            ["1 launch", "2 launches"]
        );
    }
}
