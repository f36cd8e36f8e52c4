//! The smallest number that holds, by halving.

/// Where it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Edge {
    /// This is the smallest that holds.
    At(usize),
    /// Somebody wanted an end.
    Interrupted,
}

/// The smallest number from `least` to `most` that holds, `most` being known to. `holds` says `None` to end the search.
///
/// # Errors
/// Those of `holds`.
pub(super) fn edge(
    least: usize,
    most: usize,
    mut holds: impl FnMut(usize) -> Result<Option<bool>, String>,
) -> Result<Edge, String> {
    let (mut below, mut at) = (least, most);
    while below < at {
        let middle = below + (at - below) / 2;
        match holds(middle)? {
            Some(true) => at = middle,
            Some(false) => below = middle + 1,
            None => return Ok(Edge::Interrupted),
        }
    }
    Ok(Edge::At(at))
}

/// How many numbers [`edge`] tries at the most.
pub(super) fn steps(least: usize, most: usize) -> usize {
    let numbers = (most + 1).saturating_sub(least).max(1);
    (usize::BITS - (numbers - 1).leading_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_is_found_and_the_one_below_it_was_tried() {
        for most in 1..=40 {
            for least in 1..=most {
                for truth in least..=most {
                    let mut tried = Vec::new();
                    let found = edge(least, most, |number| {
                        tried.push(number);
                        Ok(Some(number >= truth))
                    });
                    assert_eq!(found, Ok(Edge::At(truth)));
                    assert!(tried.len() <= steps(least, most), "{least} {most} {truth}: {tried:?}");
                    assert!(
                        truth == least || tried.contains(&(truth - 1)),
                        "{least} {most} {truth}: {tried:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn an_end_that_is_wanted_comes() {
        assert_eq!(edge(1, 9, |_| Ok(None)), Ok(Edge::Interrupted));
        assert_eq!(edge(1, 9, |_| Err("no".into())), Err("no".into()));
    }
}
