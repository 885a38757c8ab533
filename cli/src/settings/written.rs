//! How values are written in flags, environment and files where that differs from the config's field: sizes with units,
//! `off`, ranges of versions, spans of time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use softstore_server::config::CHUNK_VERSIONS_ALL;
use softstore_sharding::session::VersionRange;

/// A written form of a config's field of type `F`.
pub(crate) trait Written<F>: Sized {
    /// The field's value.
    fn into_field(self) -> F;
    /// How a field's value is written; none if the field is not set.
    fn of_field(field: &F) -> Option<Self>;
}

impl<T: Clone> Written<T> for T {
    fn into_field(self) -> T {
        self
    }
    fn of_field(field: &T) -> Option<Self> {
        Some(field.clone())
    }
}

impl<T: Clone> Written<Option<T>> for T {
    fn into_field(self) -> Option<T> {
        Some(self)
    }
    fn of_field(field: &Option<T>) -> Option<Self> {
        field.clone()
    }
}

/// Bytes: a plain number or one with a unit, `512MiB` (1024s) or `500MB` (1000s).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "NumberOrText", into = "NumberOrText")]
pub(crate) struct Size(pub(crate) u64);

/// How a size stands in a file.
#[derive(Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "not a size: write bytes as a number, or text with a unit such as \"512MiB\""
)]
enum NumberOrText {
    Number(u64),
    Text(String),
}

impl TryFrom<NumberOrText> for Size {
    type Error = String;
    fn try_from(written: NumberOrText) -> Result<Self, String> {
        match written {
            NumberOrText::Number(bytes) => Ok(Self(bytes)),
            NumberOrText::Text(text) => text.parse(),
        }
    }
}

impl From<Size> for NumberOrText {
    fn from(size: Size) -> Self {
        let text = size.to_string();
        text.parse().map_or(Self::Text(text), Self::Number)
    }
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let size = ByteSize::from_str(text)
            .map_err(|_| "not a size: write bytes as a number, or with a unit such as 512MiB".to_owned())?;
        Ok(Self(size.as_u64()))
    }
}

/// Exact: in the largest unit that divides it.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units
            .iter()
            .find(|(unit, _)| self.0 != 0 && self.0.is_multiple_of(*unit))
        {
            Some((unit, name)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Written<u64> for Size {
    fn into_field(self) -> u64 {
        self.0
    }
    fn of_field(field: &u64) -> Option<Self> {
        Some(Self(*field))
    }
}

impl Written<usize> for Size {
    fn into_field(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
    fn of_field(field: &usize) -> Option<Self> {
        Some(Self(u64::try_from(*field).unwrap_or(u64::MAX)))
    }
}

/// A value, or the word `off`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[serde(bound(
    serialize = "T: Clone + fmt::Display",
    deserialize = "T: FromStr, T::Err: fmt::Display"
))]
pub(crate) enum OrOff<T> {
    /// `off`.
    Off,
    /// The value.
    On(T),
}

impl<T: FromStr<Err: fmt::Display>> FromStr for OrOff<T> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self::Off),
            _ => text
                .parse()
                .map(Self::On)
                .map_err(|error| format!("{error}, and not \"off\"")),
        }
    }
}

impl<T: FromStr<Err: fmt::Display>> TryFrom<String> for OrOff<T> {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl<T: fmt::Display> From<OrOff<T>> for String {
    fn from(written: OrOff<T>) -> Self {
        match written {
            OrOff::Off => "off".to_owned(),
            OrOff::On(value) => value.to_string(),
        }
    }
}

impl<T: Clone> Written<Option<T>> for OrOff<T> {
    fn into_field(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::On(value) => Some(value),
        }
    }
    fn of_field(field: &Option<T>) -> Option<Self> {
        Some(field.clone().map_or(Self::Off, Self::On))
    }
}

/// `MIN-MAX`, or one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Versions(VersionRange);

impl FromStr for Versions {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (min, max) = text.split_once('-').unwrap_or((text, text));
        match (min.parse(), max.parse()) {
            (Ok(min), Ok(max)) if CHUNK_VERSIONS_ALL.min <= min && min <= max => {
                Ok(Self(VersionRange { min, max }))
            }
            _ => Err("not a range of versions: write MIN-MAX, such as 1-2".to_owned()),
        }
    }
}

impl TryFrom<String> for Versions {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Versions> for String {
    fn from(Versions(VersionRange { min, max }): Versions) -> Self {
        format!("{min}-{max}")
    }
}

impl Written<Option<VersionRange>> for Versions {
    fn into_field(self) -> Option<VersionRange> {
        Some(self.0)
    }
    fn of_field(field: &Option<VersionRange>) -> Option<Self> {
        field.map(Self)
    }
}

/// A span of time on the command line: `500ms`, `30s`, `5m`, `2h`, `1d`; a bare number is seconds.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let ms_per_unit = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let ms = ms_per_unit.and_then(|per| number.parse::<u64>().ok()?.checked_mul(per));
    ms.map(Duration::from_millis)
        .ok_or_else(|| "not a span of time: write 500ms, 30s, 5m, 2h or 1d".to_owned())
}
