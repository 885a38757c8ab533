//! [`QuietHours`]: times of day in which nothing is balanced.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

const MINUTES_PER_DAY: u16 = 24 * 60;

/// A time of day in which nothing is balanced, in UTC: from its start, included, to its end, excluded. It may pass midnight.
/// Written as `22:00-06:00`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct QuietHours {
    from_minute: u16,
    to_minute: u16,
}

/// Most [`QuietHours`] of one Assigner.
pub const QUIET_HOURS_MAX: usize = 8;

/// A text that is no [`QuietHours`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no time of day: write HH:MM-HH:MM in UTC, such as 22:00-06:00, with an end that is not the start"
)]
pub struct QuietHoursError(String);

impl QuietHours {
    /// Whether a moment of the wall clock lies in it.
    #[must_use]
    pub fn holds(self, unix_ms: u64) -> bool {
        let minute = unix_ms / 60_000 % u64::from(MINUTES_PER_DAY);
        let (from, to) = (u64::from(self.from_minute), u64::from(self.to_minute));
        if from < to {
            (from..to).contains(&minute)
        } else {
            minute >= from || minute < to
        }
    }
}

impl FromStr for QuietHours {
    type Err = QuietHoursError;

    fn from_str(text: &str) -> Result<Self, QuietHoursError> {
        let parsed = text.split_once('-').and_then(|(from, to)| {
            let (from_minute, to_minute) = (minute(from)?, minute(to)?);
            (from_minute != to_minute).then_some(Self {
                from_minute,
                to_minute,
            })
        });
        parsed.ok_or_else(|| QuietHoursError(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for QuietHours {
    type Error = QuietHoursError;

    fn try_from(text: String) -> Result<Self, QuietHoursError> {
        text.parse()
    }
}

impl From<QuietHours> for String {
    fn from(hours: QuietHours) -> Self {
        hours.to_string()
    }
}

impl fmt::Display for QuietHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |minute: u16| (minute / 60, minute % 60);
        let ((from_h, from_m), (to_h, to_m)) = (of(self.from_minute), of(self.to_minute));
        write!(f, "{from_h:02}:{from_m:02}-{to_h:02}:{to_m:02}")
    }
}

/// Minutes after midnight of `HH:MM`; `24:00` is midnight.
fn minute(text: &str) -> Option<u16> {
    let (hours, minutes) = text.trim().split_once(':')?;
    let is_written = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_written(hours) || !is_written(minutes) {
        return None;
    }
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let minute = hours * 60 + minutes;
    (minutes < 60 && minute <= MINUTES_PER_DAY).then_some(minute % MINUTES_PER_DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    #[test]
    fn a_window_may_pass_midnight() {
        let night: QuietHours = "22:00-06:00".parse().unwrap();
        let noon: QuietHours = "12:00-13:30".parse().unwrap();
        let till_midnight: QuietHours = "23:00-24:00".parse().unwrap();
        let day = 20_000 * 24 * HOUR_MS;
        for (hour, at_night, at_noon) in [
            (0, true, false),
            (6, false, false),
            (12, false, true),
            (22, true, false),
        ] {
            let at = day + hour * HOUR_MS;
            assert_eq!((night.holds(at), noon.holds(at)), (at_night, at_noon), "{hour}");
        }
        assert!(
            noon.holds(day + 13 * HOUR_MS + 29 * 60_000) && !noon.holds(day + 13 * HOUR_MS + 30 * 60_000)
        );
        assert!(till_midnight.holds(day - 1) && !till_midnight.holds(day));
        assert_eq!(night.to_string(), "22:00-06:00");
    }

    #[test]
    fn what_is_no_time_of_day_is_refused() {
        for bad in [
            "",
            "22:00",
            "22:00-22:00",
            "25:00-26:00",
            "1:00-2:00",
            "22:60-23:00",
            "22:00-06:00Z",
            "-1:00-02:00",
        ] {
            assert!(bad.parse::<QuietHours>().is_err(), "{bad}");
        }
    }
}
