//! Wildcards of the allow-list, against their definition.

use xks_proxy::authorise::Pattern;

/// The first line is a pattern, the rest a text. The matcher must agree with a table filled by the definition.
pub(crate) fn wildcards(data: &[u8]) {
    // The table takes pattern times text, so both are kept to what a policy and an ARN can have.
    let text = String::from_utf8_lossy(&data[..data.len().min(2_048)]);
    let (pattern, text) = text.split_once('\n').unwrap_or((&text, ""));
    assert_eq!(Pattern::new(pattern).matches(text), by_table(pattern, text), "{pattern:?} {text:?}");
}

/// `row[n]`: whether the pattern so far matches the first `n` characters of the text.
fn by_table(pattern: &str, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    for wanted in pattern.chars() {
        if wanted == '*' {
            for n in 1..row.len() {
                row[n] |= row[n - 1];
            }
        } else {
            for n in (1..row.len()).rev() {
                row[n] = row[n - 1] && (wanted == '?' || wanted == text[n - 1]);
            }
            row[0] = false;
        }
    }
    row[text.len()]
}
