//! Words for an error and its causes, as the operator reads them on an operation.

use std::error::Error;
use std::time::{Duration, SystemTime};
use std::{io, iter};

use smartrest::plain_text;

/// Words an error and its causes for the operator, in at most `limit` bytes and on one line.
pub fn failure_reason(error: &(dyn Error + 'static), limit: usize) -> String {
    let chain = iter::successors(Some(error), |&error| error.source());
    let mut clauses: Vec<String> = chain
        .map(|error| match error.downcast_ref::<io::Error>() {
            Some(error) => words(error),
            None => legible(&error.to_string()),
        })
        .collect();
    // A cause that its wrapper has already told need not be told again.
    clauses.dedup_by(|cause, effect| effect.ends_with(cause.as_str()));
    let mut reason = clauses.join(": ");
    reason.truncate(reason.floor_char_boundary(limit));
    reason
}

/// Words what the system said as a clause: "connection refused", without the number.
pub(crate) fn words(error: &io::Error) -> String {
    let text = legible(&error.to_string());
    let clause = text
        .split_once(" (os error ")
        .map_or(text.as_str(), |(clause, _)| clause);
    let mut letters = clause.chars();
    match letters.next() {
        // The system begins with a capital; a name such as "DNS" keeps its own.
        Some(first) if letters.clone().next().is_some_and(char::is_lowercase) => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => clause.to_owned(),
    }
}

/// Makes one line of a text from outside, of any length, without double quotes.
pub(crate) fn legible(text: &str) -> String {
    plain_text(text, usize::MAX)
}

/// Returns a time as a field of the log, whose name ends in `_s`: seconds, to the millisecond.
pub(crate) fn seconds(time: Duration) -> f64 {
    const PER_SECOND: f64 = 1000.0;
    (time.as_secs_f64() * PER_SECOND).round() / PER_SECOND
}

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;
/// The calendar repeats after 400 years, which have so many days.
const DAYS_PER_ERA: u64 = 146_097;
/// Days from the 1st of March of the year 0 until 1970. A year that begins in March has its leap day last.
const DAYS_UNTIL_1970: u64 = 719_468;

/// Writes a time as RFC 3339, in UTC and whole seconds.
///
/// `humantime` knows no time beyond January 2038 where a pointer has 32 bits.
pub(crate) fn date(time: SystemTime) -> String {
    /// The last second that the form has digits for (the year 9999), in seconds since 1970.
    const LAST: u64 = 253_402_300_799;
    let since = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let seconds = since.as_secs().min(LAST);
    let (days, second) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);

    let days = days + DAYS_UNTIL_1970;
    let (era, day) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    // Every 4th year has a day more, every 100th has not, and the last of the era has.
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // The months from March on have 31, 30, 31, 30, 31 days, again and again: 153 in five.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (era * 400 + year, month + 3),
        _ => (era * 400 + year + 1, month - 9),
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Returns the time of year, month, day, hour, minute and second in UTC, from 1970 on; `None` for what no
/// calendar and no clock shows. A leap second counts as the one before it.
pub(crate) fn time([year, month, day, hour, minute, second]: [u64; 6]) -> Option<SystemTime> {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let last_day = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let is_date =
        (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=last_day).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (year, month) = match month {
        3.. => (year, month - 3),
        _ => (year - 1, month + 9),
    };
    let (era, year) = (year / 400, year % 400);
    let day = 365 * year + year / 4 - year / 100 + (153 * month + 2) / 5 + day - 1;
    let days = era * DAYS_PER_ERA + day - DAYS_UNTIL_1970;
    let seconds = days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second.min(59);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// Words a time in at most six characters: `59s`, `12m05s`, `3h07m`, `4d12h`, `400d`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a number that is too large becomes the largest, and one below zero becomes zero"
)]
pub(crate) fn brief(seconds: f64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let seconds = seconds as u64;
    match seconds {
        0..MINUTE => format!("{seconds}s"),
        MINUTE..HOUR => format!("{}m{:02}s", seconds / MINUTE, seconds % MINUTE),
        HOUR..DAY => format!("{}h{:02}m", seconds / HOUR, seconds % HOUR / MINUTE),
        _ if seconds < 100 * DAY => format!("{}d{:02}h", seconds / DAY, seconds % DAY / HOUR),
        _ => format!("{}d", seconds / DAY),
    }
}

/// Words a number of bytes in at most seven characters, in powers of 1024.
pub(crate) fn sized(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut value = u128::from(bytes) * 10 / 1024;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if value < 10_000 {
            break;
        }
        value /= 1024;
        unit = larger;
    }
    match value {
        0..1000 => format!("{}.{}{unit}", value / 10, value % 10),
        _ => format!("{}{unit}", value / 10),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot reach {0}")]
    struct Reach(&'static str, #[source] io::Error);

    #[test]
    fn joins_an_error_and_its_causes() {
        let refused = || io::Error::from_raw_os_error(111);
        for (error, limit, text) in [
            (
                Reach("plc-7:22", refused()),
                200,
                "cannot reach plc-7:22: connection refused",
            ),
            (Reach("plc-7:22", refused()), 16, "cannot reach plc"),
            (Reach("ü", refused()), 14, "cannot reach "),
            (
                Reach("a \"b\"\r\n", io::Error::other("DNS\tdown")),
                200,
                "cannot reach a 'b': DNS down",
            ),
        ] {
            assert_eq!(failure_reason(&error, limit), text);
        }
    }

    #[test]
    fn words_times_and_bytes_shortly() {
        for (seconds, words) in [
            (-1.0, "0s"),
            (59.9, "59s"),
            (60.0, "1m00s"),
            (3599.0, "59m59s"),
            (86_399.0, "23h59m"),
            (99.0 * 86_400.0, "99d00h"),
            (400.0 * 86_400.0, "400d"),
        ] {
            assert_eq!(brief(seconds), words);
        }
        for (count, words) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0KiB"),
            (102_400, "100KiB"),
            (1_023_999, "999KiB"),
            (1_048_576, "1.0MiB"),
            (u64::MAX, "15.9EiB"),
        ] {
            assert_eq!(sized(count), words);
        }
    }

    #[test]
    fn writes_a_time_that_no_calendar_has_as_the_nearest_that_one_has() {
        let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
        assert_eq!(date(far), "9999-12-31T23:59:59Z");
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(date(early), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn takes_no_date_that_no_calendar_has() {
        for fields in [
            [2026, 2, 29, 0, 0, 0],
            [2100, 2, 29, 0, 0, 0],
            [2026, 4, 31, 0, 0, 0],
            [2026, 0, 1, 0, 0, 0],
            [2026, 13, 1, 0, 0, 0],
            [2026, 1, 0, 0, 0, 0],
            [2026, 1, 1, 24, 0, 0],
            [2026, 1, 1, 0, 60, 0],
            [2026, 1, 1, 0, 0, 61],
            [1969, 12, 31, 23, 59, 59],
        ] {
            assert_eq!(time(fields), None, "{fields:?}");
        }
        let leap = time([2016, 12, 31, 23, 59, 60]).map(date);
        assert_eq!(leap.as_deref(), Some("2016-12-31T23:59:59Z"));
        let far = time([4096, 2, 29, 0, 0, 0]).map(date);
        assert_eq!(far.as_deref(), Some("4096-02-29T00:00:00Z"));
    }

    proptest! {
        // The other calendar ends in 2038 where a pointer has 32 bits.
        #[test]
        #[cfg(target_pointer_width = "64")]
        fn has_the_calendar_that_others_have(seconds in 0..=253_402_300_799_u64) {
            let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let text = humantime::format_rfc3339_seconds(moment).to_string();
            prop_assert_eq!(&date(moment), &text);
            let fields = text.trim_end_matches('Z').split(['-', 'T', ':']);
            let fields: Vec<u64> = fields.map(|field| field.parse().unwrap()).collect();
            prop_assert_eq!(time(fields.try_into().unwrap()), Some(moment));
        }
    }
}
