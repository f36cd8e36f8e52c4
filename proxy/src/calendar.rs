//! Wall time as people and HTTP write it.
//!
//! Place on the map: [`events`](crate::events) stamps its lines with [`rfc3339`], [`http`](crate::http) fills the
//! `Date` header with [`imf_fixdate`].

use crate::env::UnixTime;
use std::fmt::Write;

/// A moment in the proleptic Gregorian calendar, UTC.
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    /// 0 is Sunday.
    weekday: usize,
    hour: u64,
    minute: u64,
    second: u64,
    millisecond: u32,
}

impl Civil {
    /// Counts in years that begin on 1 March, so that the leap day comes last and month lengths follow a line.
    fn of(time: UnixTime) -> Self {
        let (days, second_of_day) = (time.secs() / 86_400, time.secs() % 86_400);
        // Day 0 of this count is 0000-03-01; 1970-01-01 is day 719,468; 400 years have 146,097 days.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
            // 1970-01-01 was a Thursday.
            weekday: usize::try_from((days + 4) % 7).unwrap_or_default(),
            hour: second_of_day / 3_600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
            millisecond: time.0.subsec_millis(),
        }
    }
}

/// `2026-01-02T03:04:05.678Z` (RFC 3339), to the millisecond.
pub fn rfc3339(time: UnixTime) -> String {
    let c = Civil::of(time);
    let mut text = String::with_capacity(24);
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        c.year, c.month, c.day, c.hour, c.minute, c.second, c.millisecond
    );
    text
}

/// `Fri, 02 Jan 2026 03:04:05 GMT`, the only form HTTP lets a server write (RFC 9110, 5.6.7).
pub fn imf_fixdate(time: UnixTime) -> String {
    const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let c = Civil::of(time);
    let weekday = WEEKDAYS.get(c.weekday).copied().unwrap_or_default();
    let month =
        usize::try_from(c.month).ok().and_then(|month| MONTHS.get(month - 1)).copied().unwrap_or_default();
    let mut text = String::with_capacity(29);
    let _ = write!(
        text,
        "{weekday}, {:02} {month} {:04} {:02}:{:02}:{:02} GMT",
        c.day, c.year, c.hour, c.minute, c.second
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn both_forms_agree_with_date_1() {
        // Each row from `date -u -d @SECONDS`.
        for (secs, rfc, imf) in [
            (0, "1970-01-01T00:00:00.250Z", "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_399, "2000-02-28T23:59:59.250Z", "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "2000-02-29T00:00:00.250Z", "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "2000-03-01T00:00:00.250Z", "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_767_323_045, "2026-01-02T03:04:05.250Z", "Fri, 02 Jan 2026 03:04:05 GMT"),
            (4_107_542_400, "2100-03-01T00:00:00.250Z", "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            let time = UnixTime(Duration::from_secs(secs) + Duration::from_millis(250));
            assert_eq!(rfc3339(time), rfc, "{secs}");
            assert_eq!(imf_fixdate(time), imf, "{secs}");
        }
    }
}
