//! The `x-amz-date` header.
//!
//! Place on the map: read by [`verify`](super::verify) for the skew check and the string to sign.

use super::SigV4Error;

/// A time as `x-amz-date` writes it, `YYYYMMDDTHHMMSSZ` (ISO 8601 basic, UTC).
pub(super) struct RequestDate<'a> {
    text: &'a str,
    unix_secs: i64,
}

impl<'a> RequestDate<'a> {
    /// From the one `x-amz-date` header.
    pub(super) fn from_headers(headers: &'a http::HeaderMap) -> Result<Self, SigV4Error> {
        let mut values = headers.get_all("x-amz-date").iter();
        match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok().and_then(Self::parse).ok_or(SigV4Error::DateMalformed),
            _ => Err(SigV4Error::DateMalformed),
        }
    }

    fn parse(text: &'a str) -> Option<Self> {
        let bytes: &[u8; 16] = text.as_bytes().try_into().ok()?;
        if bytes[8] != b'T' || bytes[15] != b'Z' {
            return None;
        }
        let number = |from: usize, to: usize| {
            bytes[from..to]
                .iter()
                .try_fold(0_i64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
        };
        let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
        let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let month_days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            _ => return None,
        };
        if !(1..=month_days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let unix_secs = ((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
        Some(Self { text, unix_secs })
    }

    /// As received.
    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The day, `YYYYMMDD`.
    pub(super) fn day(&self) -> &'a str {
        &self.text[..8]
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub(super) fn unix_secs(&self) -> i64 {
        self.unix_secs
    }
}

/// Counts days in the proleptic Gregorian calendar, in years that begin in March, so that the leap day comes last.
pub(crate) fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before_month = (153 * month + 2) / 5;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + before_month + day
        - 719_469
}

#[cfg(test)]
mod tests {
    use super::RequestDate;

    #[test]
    fn dates_are_counted_from_1970() {
        // From `date -u -d … +%s`.
        for (text, secs) in [
            ("19700101T000000Z", 0),
            ("20150830T123600Z", 1_440_938_160),
            ("20000229T235959Z", 951_868_799),
            ("20000301T000000Z", 951_868_800),
            ("20240229T000000Z", 1_709_164_800),
            ("21000301T000000Z", 4_107_542_400),
            ("99991231T235959Z", 253_402_300_799),
            ("00000101T000000Z", -62_167_219_200),
        ] {
            assert_eq!(RequestDate::parse(text).map(|date| date.unix_secs()), Some(secs), "{text}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for text in [
            "",
            "20150830T123600",
            "20150830T123600ZZ",
            "20150830t123600Z",
            "20150830 123600Z",
            "2015-08-30T12:36",
            "2015083+T123600Z",
            "20151330T123600Z",
            "20150030T123600Z",
            "20150800T123600Z",
            "20150832T123600Z",
            "20150229T123600Z",
            "21000229T123600Z",
            "20150431T123600Z",
            "20150830T243600Z",
            "20150830T126000Z",
            "20150830T123660Z",
            "Sun, 30 Aug 2015",
            "2015083\u{661}T12360Z",
        ] {
            assert!(RequestDate::parse(text).is_none(), "{text:?}");
        }
    }
}
