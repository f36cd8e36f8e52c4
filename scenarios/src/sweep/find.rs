//! The edge of an SLO more closely than the steps of a sweep: bisection.

use super::cliff::Found;
use super::vary::Setting;

/// The most values tried on one line.
pub const TRIES_MAX: usize = 16;
/// It is close enough when what meets and what misses differ by this share.
const CLOSE: f64 = 0.005;

/// Halves the way between a value that meets the SLO and one that misses it, until they are half a per cent or, with
/// `whole` numbers, one apart. `ask` says whether a value meets it; `None` ends the search with what is known.
///
/// # Errors
/// Those of `ask`.
pub fn bisect(
    met: f64,
    missed: f64,
    whole: bool,
    mut ask: impl FnMut(&Setting) -> Result<Option<bool>, String>,
) -> Result<Found, String> {
    let mut found = Found { met, missed };
    for _ in 0..TRIES_MAX {
        let gap = (found.missed - found.met).abs();
        if if whole { gap <= 1.0 } else { gap <= CLOSE * found.met.abs().max(found.missed.abs()) } {
            break;
        }
        let middle = f64::midpoint(found.met, found.missed);
        let setting = Setting::number(if whole { middle.floor() } else { middle });
        match (setting.number, ask(&setting)?) {
            (Some(value), Some(true)) => found.met = value,
            (Some(value), Some(false)) => found.missed = value,
            _ => break,
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edge_is_found_from_either_side() {
        let mut asked = 0;
        let found = bisect(5.0, 120.0, false, |setting| {
            asked += 1;
            Ok(Some(setting.number.unwrap() <= 41.37))
        })
        .unwrap();
        assert!(found.met <= 41.37 && found.missed > 41.37 && found.missed - found.met < 0.25, "{found:?}");
        assert!(asked <= 10, "{asked}");
        let found = bisect(120.0, 5.0, false, |setting| Ok(Some(setting.number.unwrap() >= 41.37))).unwrap();
        assert!(found.met >= 41.37 && found.missed < 41.37 && found.met - found.missed < 0.25, "{found:?}");
    }

    #[test]
    fn whole_numbers_end_next_to_each_other() {
        let found = bisect(16.0, 1.0, true, |setting| Ok(Some(setting.number.unwrap() >= 6.0))).unwrap();
        assert_eq!(found, Found { met: 6.0, missed: 5.0 });
        let found = bisect(-3.0, 4.0, true, |setting| Ok(Some(setting.number.unwrap() <= 2.0))).unwrap();
        assert_eq!(found, Found { met: 2.0, missed: 3.0 });
    }

    #[test]
    fn what_is_interrupted_keeps_what_it_knows() {
        let found = bisect(1.0, 9.0, false, |_| Ok(None)).unwrap();
        assert_eq!(found, Found { met: 1.0, missed: 9.0 });
        assert!(bisect(1.0, 9.0, false, |_| Err("no".into())).is_err());
    }
}
