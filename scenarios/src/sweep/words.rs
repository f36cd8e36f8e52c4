//! Numbers and text of the what-if pages and terminals, as people write them.

use crate::report::Style;

/// In per cent; something never rounds to nothing, nor almost all to all.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent {
        _ if percent <= 0.0 => "0".into(),
        _ if percent < 0.01 => "<0.01".into(),
        _ if percent < 1.0 => format!("{percent:.2}"),
        _ if percent >= 100.0 => "100".into(),
        _ if percent > 99.9 => ">99.9".into(),
        _ => format!("{percent:.1}"),
    }
}

/// Fit for this terminal: a scenario's text could move the cursor.
pub(crate) fn clean(text: &str, style: Style) -> String {
    text.chars()
        .map(|character| match character {
            hidden if hidden.is_control() => ' ',
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '?',
            other if !style.unicode && !other.is_ascii() => '?',
            other => other,
        })
        .collect()
}

/// The first letter large, for a sentence's beginning.
pub(crate) fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// So many of something: `1 HSM`, `2 HSMs`.
pub(crate) fn counted(number: usize, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        number => format!("{number} {many}"),
    }
}

/// A place along an axis, as CSS has it.
pub(crate) fn per_cent(value: f64) -> String {
    format!("{value:.2}%")
}

/// To three digits or so, as people write numbers.
pub(crate) fn plain(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == size.round() => 0,
        size if size >= 10.0 => 1,
        size if size >= 0.1 => 2,
        _ => 4,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The next number at or above that divides well by four; 1 for nothing.
pub(crate) fn nice(most: f64) -> f64 {
    if most.is_nan() || most <= 0.0 {
        return 1.0;
    }
    let power = libm::pow(10.0, libm::floor(libm::log10(most)));
    let steps = [1.0, 2.0, 4.0, 8.0, 10.0];
    steps
        .into_iter()
        .map(|step| step * power)
        .find(|level| *level >= most * 0.999_999)
        .unwrap_or(10.0 * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_numbers_that_read_well() {
        for (most, top) in
            [(0.0, 1.0), (0.3, 0.4), (1.0, 1.0), (37.0, 40.0), (250.0, 400.0), (999.0, 1_000.0)]
        {
            assert!((nice(most) - top).abs() < 1e-9, "{most}: {}", nice(most));
        }
        assert_eq!(
            (plain(12.0), plain(0.25), plain(41.37), plain(0.000_2)),
            ("12".into(), "0.25".into(), "41.4".into(), "0.0002".into())
        );
    }
}
