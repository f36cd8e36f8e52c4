//! Wildcards over names and ARNs.
//!
//! Place on the map: the entries of an [`Access`](super::Access) rule.

use std::fmt;

/// A text in which `*` stands for any characters, also none, and `?` for exactly one. There is no escape: neither
/// character occurs in a key id or an ARN. Upper and lower case differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Every text is a pattern; the empty one matches only the empty text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of `text` matches.
    ///
    /// Only the last `*` is ever tried again, because an earlier one that took more could only leave less for the
    /// rest. So the work is at most the length of the text times the longest run between two `*`, and linear for
    /// patterns as people write them; it never explodes, and it needs no memory.
    pub fn matches(&self, text: &str) -> bool {
        let mut pattern = self.0.chars();
        let mut text = text.chars();
        // After the last `*`: the rest of the pattern, and the text it is next tried against.
        let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
        loop {
            let here = text.clone();
            match (pattern.next(), text.next()) {
                (Some('*'), _) => {
                    if pattern.as_str().is_empty() {
                        return true;
                    }
                    retry = Some((pattern.clone(), here.clone()));
                    text = here;
                }
                (Some('?'), Some(_)) => {}
                (Some(wanted), Some(found)) if wanted == found => {}
                (None, None) => return true,
                // The text has ended too early; taking more of it cannot help.
                (Some(_), None) => return false,
                (Some(_) | None, Some(_)) => match &mut retry {
                    Some((rest, from)) => {
                        from.next();
                        pattern = rest.clone();
                        text = from.clone();
                    }
                    None => return false,
                },
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;
    use proptest::prelude::*;

    /// The definition, written down: whether `pattern` matches, by trying everything.
    fn naive(pattern: &[char], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => {
                naive(rest, text) || text.split_first().is_some_and(|(_, shorter)| naive(pattern, shorter))
            }
            (Some(('?', rest)), Some((_, shorter))) => naive(rest, shorter),
            (Some((wanted, rest)), Some((found, shorter))) => wanted == found && naive(rest, shorter),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    #[test]
    fn whole_texts_match() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("*", "anything", true),
            ("?", "", false),
            ("?", "é", true),
            ("?*", "", false),
            ("arn:aws:iam::123456789012:role/app-*", "arn:aws:iam::123456789012:role/app-web", true),
            ("arn:aws:iam::123456789012:role/app-*", "arn:aws:iam::123456789012:role/App-web", false),
            ("arn:aws:iam::123456789012:role/app", "arn:aws:iam::123456789012:role/app-web", false),
            ("arn:aws:kms:*:key/*", "arn:aws:kms:eu-west-1:1:key/mrk-1", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("*ab", "aab", true),
            ("key-??", "key-7", false),
            ("key-??", "key-77", true),
        ] {
            assert_eq!(Pattern::new(pattern).matches(text), expected, "{pattern:?} {text:?}");
        }
    }

    #[test]
    fn a_pattern_is_shown_as_written() {
        assert_eq!(Pattern::new("arn:*:key/?").to_string(), "arn:*:key/?");
    }

    #[test]
    fn many_wildcards_do_not_explode() {
        // Exponential for a matcher that tries every split: 2,048 is the longest ARN (XKS-NET-7).
        let text = "a".repeat(2_048);
        let pattern = format!("{}b", "*a".repeat(64));
        assert!(!Pattern::new(pattern).matches(&text));
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in "[ab*?é]{0,8}", text in "[abé]{0,10}") {
            let letters: Vec<char> = pattern.chars().collect();
            let wanted = naive(&letters, &text.chars().collect::<Vec<_>>());
            prop_assert_eq!(Pattern::new(pattern.as_str()).matches(&text), wanted);
        }

        /// On ARNs, whose parts repeat letters and separators: putting wildcards for parts of a text keeps the match, and
        /// one letter more, less or other than the pattern has ends it.
        #[test]
        fn wildcards_stand_for_parts_of_an_arn(
            arn in "arn:aws:(iam|kms):(us-east-1|):[12]{12}:(role|user|key)/[a-b/-]{0,40}",
            cuts in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..4),
            letter in any::<prop::sample::Index>(),
        ) {
            let whole = Pattern::new(arn.as_str());
            prop_assert!(whole.matches(&arn));
            let at = letter.index(arn.len());
            for other in [format!("{arn}a"), arn[1..].to_owned(), format!("{}_{}", &arn[..at], &arn[at + 1..])] {
                prop_assert!(!whole.matches(&other), "{}", other);
            }
            let mut pattern = format!("{}?{}", &arn[..at], &arn[at + 1..]);
            for (one, other) in cuts {
                let (one, other) = (one.index(pattern.len() + 1), other.index(pattern.len() + 1));
                pattern.replace_range(one.min(other)..one.max(other), "*");
            }
            prop_assert!(Pattern::new(pattern.as_str()).matches(&arn), "{}", pattern);
        }
    }
}
