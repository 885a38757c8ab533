//! The rules that every engine applies to what it finds: which keys and values it takes, when a conditional set
//! applies, what a counter is. Pure, so that engines differ in how they keep entries and in nothing else.

use softstore_sharding::Version;
use softstore_sharding::planted::{self, Bug};

use crate::store::{KEY_BYTES_MAX, SetCondition, StoreError};

/// Checks a key's length.
pub(crate) fn check_key(key: &[u8]) -> Result<(), StoreError> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(StoreError::KeyLength(key.len()));
    }
    Ok(())
}

/// Checks key and value against the lengths an engine takes, and what the entry would weigh against its room.
pub(crate) fn check_entry(
    key: &[u8],
    value_bytes: usize,
    value_bytes_max: usize,
    weight_bytes: u64,
    room_bytes: u64,
) -> Result<(), StoreError> {
    check_key(key)?;
    if value_bytes > value_bytes_max {
        return Err(StoreError::ValueTooLarge {
            bytes: value_bytes,
            bytes_max: value_bytes_max,
        });
    }
    if weight_bytes > room_bytes {
        return Err(StoreError::LargerThanStore {
            bytes: usize::try_from(weight_bytes).unwrap_or(usize::MAX),
            budget_bytes: room_bytes,
        });
    }
    Ok(())
}

/// What a set does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SetVerdict {
    /// It applies.
    Apply,
    /// Its condition does not hold; the present version.
    Refuse(Option<Version>),
    /// It depends on a value that the giver may have.
    Ask,
}

/// What a set does to a key with version `present`; `must_ask` says whether the giver may have an absent key.
pub(crate) fn judge_set(
    condition: SetCondition,
    present: Option<Version>,
    must_ask: impl FnOnce() -> bool,
) -> SetVerdict {
    match (condition, present) {
        (SetCondition::Always, _) | (SetCondition::IfPresent, Some(_)) => SetVerdict::Apply,
        (SetCondition::IfVersion(wanted), Some(version)) if wanted == version => SetVerdict::Apply,
        (SetCondition::IfAbsent | SetCondition::IfVersion(_), Some(version)) => {
            SetVerdict::Refuse(Some(version))
        }
        (_, None) if must_ask() => SetVerdict::Ask,
        (SetCondition::IfVersion(_), None) if planted::is(Bug::CasOnAbsent) => SetVerdict::Apply,
        (SetCondition::IfAbsent, None) => SetVerdict::Apply,
        (SetCondition::IfPresent | SetCondition::IfVersion(_), None) => SetVerdict::Refuse(None),
    }
}

/// The number that a value spells, plus `delta`. A number is spelled in one way only, as in Redis: no sign but a
/// minus, no leading zeros, no blanks.
pub(crate) fn add_to(value: &[u8], delta: i64) -> Result<i64, StoreError> {
    let text = std::str::from_utf8(value).map_err(|_| StoreError::NotANumber)?;
    let number: i64 = text.parse().map_err(|_| StoreError::NotANumber)?;
    let is_canonical = match text.as_bytes() {
        [b'0'] => true,
        [b'-', first, ..] | [first, ..] => matches!(first, b'1'..=b'9'),
        [] => false,
    };
    if !is_canonical {
        return Err(StoreError::NotANumber);
    }
    number.checked_add(delta).ok_or(StoreError::Overflow)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spelled_in_one_way() {
        for number in [0, 1, -1, 10, -90, i64::MAX - 1, i64::MIN] {
            assert_eq!(add_to(number.to_string().as_bytes(), 1), Ok(number + 1));
        }
        for text in [
            "",
            "+1",
            "01",
            "-0",
            "-",
            " 1",
            "1 ",
            "1.0",
            "x",
            "00",
            "-01",
            "9223372036854775808",
        ] {
            assert_eq!(
                add_to(text.as_bytes(), 0),
                Err(StoreError::NotANumber),
                "{text:?}"
            );
        }
        assert_eq!(add_to(&[0xff], 0), Err(StoreError::NotANumber));
        assert_eq!(add_to(b"9223372036854775807", 1), Err(StoreError::Overflow));
        assert_eq!(add_to(b"-9223372036854775808", -1), Err(StoreError::Overflow));
    }
}
