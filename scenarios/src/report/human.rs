//! Numbers in the words people use: `0.4 s`, `5 min 30 s`, `12,345`, `49.8 %`.
//!
//! Place on the map: used by both renderers of [`report`](crate::report), so that the terminal and the page
//! never word the same fact differently. The space between a number and its unit is U+00A0: a line never breaks there.

/// A length of time, to a tenth of a second below a minute and to two units above: `42 ms`, `0.4 s`, `3 min 20 s`.
pub(super) fn duration(ms: u64) -> String {
    if ms > 0 && ms < 100 {
        return format!("{ms}\u{a0}ms");
    }
    // Each step rounds before it chooses its unit, so that 59.97 s reads `1 min` and not `60.0 s`.
    let tenths = ms.saturating_add(50) / 100;
    if tenths < 600 {
        let (whole, tenth) = (tenths / 10, tenths % 10);
        return if tenth == 0 { format!("{whole}\u{a0}s") } else { format!("{whole}.{tenth}\u{a0}s") };
    }
    let seconds = ms.saturating_add(500) / 1000;
    if seconds < 3600 {
        return two_units(seconds / 60, "min", seconds % 60, "s");
    }
    let minutes = (seconds + 30) / 60;
    if minutes < 24 * 60 {
        return two_units(minutes / 60, "h", minutes % 60, "min");
    }
    let hours = (minutes + 30) / 60;
    two_units(hours / 24, if hours / 24 == 1 { "day" } else { "days" }, hours % 24, "h")
}

fn two_units(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large}\u{a0}{large_unit}")
    } else {
        format!("{large}\u{a0}{large_unit}\u{a0}{small}\u{a0}{small_unit}")
    }
}

/// A moment of the run, counted from its start, to a tenth of a second within the first hour: `1 min 0.4 s`.
pub(super) fn moment(ms: u64) -> String {
    let tenths = ms.saturating_add(50) / 100;
    let seconds = tenths / 10;
    if tenths < 600 || ms >= 24 * 3_600_000 {
        return duration(ms);
    }
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    let mut parts = Vec::new();
    if seconds >= 3600 {
        parts.push(format!("{}\u{a0}h", seconds / 3600));
    }
    if minutes > 0 {
        parts.push(format!("{minutes}\u{a0}min"));
    }
    match tenths % 10 {
        tenth if tenth > 0 && seconds < 3600 => parts.push(format!("{rest}.{tenth}\u{a0}s")),
        _ if rest > 0 => parts.push(format!("{rest}\u{a0}s")),
        _ => {}
    }
    parts.join("\u{a0}")
}

/// A latency in milliseconds: one decimal below ten, none above. Not a number reads as no value.
pub(super) fn latency(ms: f64) -> String {
    if !ms.is_finite() || ms < 0.0 {
        "–".to_owned()
    } else if ms < 9.95 {
        format!("{ms:.1}\u{a0}ms")
    } else {
        format!("{}\u{a0}ms", count(ms.round() as u64))
    }
}

/// A count with its thousands apart: `12,345`.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count and its noun, in the singular for one: `1 request`, `2 requests`.
pub(super) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A share in per cent. It never rounds something to nothing, nor almost all to all.
pub(super) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    let per_mille = (u128::from(part) * 2000 + u128::from(whole)) / (u128::from(whole) * 2);
    match per_mille {
        0 if part > 0 => "<0.1\u{a0}%".to_owned(),
        0 => "0\u{a0}%".to_owned(),
        1000.. if part < whole => ">99.9\u{a0}%".to_owned(),
        1000 => "100\u{a0}%".to_owned(),
        other => format!("{}.{}\u{a0}%", other / 10, other % 10),
    }
}

/// `a`, `a and b`, `a, b and c`; after `most` items `and 4 more`.
pub(super) fn list(items: &[String], most: usize) -> String {
    let hidden = if items.len() > most + 1 { items.len() - most } else { 0 };
    let mut shown: Vec<String> = items[..items.len() - hidden].to_vec();
    if hidden > 0 {
        shown.push(format!("{hidden} more"));
    }
    match shown.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As it reads.
    fn plain(text: String) -> String {
        text.replace('\u{a0}', " ")
    }

    #[test]
    fn durations_choose_their_unit_after_rounding() {
        for (ms, words) in [
            (0, "0 s"),
            (42, "42 ms"),
            (400, "0.4 s"),
            (1_000, "1 s"),
            (12_345, "12.3 s"),
            (59_970, "1 min"),
            (200_000, "3 min 20 s"),
            (3_599_600, "1 h"),
            (5_400_000, "1 h 30 min"),
            (86_399_000, "1 day"),
            (691_200_000, "8 days"),
            (180_000_000, "2 days 2 h"),
        ] {
            assert_eq!(plain(duration(ms)), words, "{ms}");
        }
        assert!(!duration(u64::MAX).is_empty());
    }

    #[test]
    fn moments_keep_the_tenths_that_tell_first_from_second() {
        for (ms, words) in [
            (400, "0.4 s"),
            (60_000, "1 min"),
            (60_440, "1 min 0.4 s"),
            (3_599_990, "1 h"),
            (3_661_400, "1 h 1 min 1 s"),
            (7_200_000, "2 h"),
            (180_000_000, "2 days 2 h"),
        ] {
            assert_eq!(plain(moment(ms)), words, "{ms}");
        }
    }

    #[test]
    fn shares_never_hide_a_failure_or_a_survivor() {
        for (part, whole, words) in [
            (0, 0, "–"),
            (0, 10, "0 %"),
            (1, 100_000, "<0.1 %"),
            (99_999, 100_000, ">99.9 %"),
            (10, 10, "100 %"),
            (1, 3, "33.3 %"),
            (u64::MAX, u64::MAX, "100 %"),
        ] {
            assert_eq!(plain(share(part, whole)), words);
        }
    }

    #[test]
    fn counts_and_latencies() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(999), "999");
        assert_eq!(plain(latency(8.14)), "8.1 ms");
        assert_eq!(plain(latency(9.96)), "10 ms");
        assert_eq!(latency(f64::NAN), "–");
    }

    #[test]
    fn lists_read_aloud() {
        let names: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        assert_eq!(list(&names[..1], 6), "a");
        assert_eq!(list(&names, 6), "a, b, c and d");
        assert_eq!(list(&names, 2), "a, b and 2 more");
        assert_eq!(list(&names, 3), "a, b, c and d", "one more is shown rather than counted");
    }
}
