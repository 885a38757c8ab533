//! `assigner.proto`: what a heartbeat says of a node's load, to and from `softstore_sharding::session`.
//!
//! Keeps H8: a rate that is no number, infinite, negative or beyond belief is refused, and so is a list that is too long.

use softstore_sharding::SliceKey;
use softstore_sharding::load::HOT_KEYS_MAX;
use softstore_sharding::session::{
    CONDITION_BYTES_MAX, CONDITIONS_MAX, DrainReport, HOT_KEY_BYTES_MAX, HotKeyLoad, LoadReport,
    ServingReport, SliceLoad, WhyUnserved,
};

use crate::assignment::slice;
use crate::error::{WireError, each, within};
use crate::limits::{RANGES_MAX, RATE_PER_SECOND_MAX};
use crate::v1;

impl From<&SliceLoad> for v1::SliceLoad {
    fn from(load: &SliceLoad) -> Self {
        Self {
            slice: Some(load.slice.into()),
            operations_per_second: load.operations_per_second,
            bytes: load.bytes,
            bytes_per_second: load.bytes_per_second,
            hits_per_second: load.hits_per_second,
            cpu_us_per_second: load.cpu_us_per_second,
        }
    }
}

impl TryFrom<v1::SliceLoad> for SliceLoad {
    type Error = WireError;

    fn try_from(wire: v1::SliceLoad) -> Result<Self, WireError> {
        Ok(Self {
            slice: slice("slice_load.slice", wire.slice)?,
            operations_per_second: rate("slice_load.operations_per_second", wire.operations_per_second)?,
            bytes: wire.bytes,
            bytes_per_second: rate("slice_load.bytes_per_second", wire.bytes_per_second)?,
            hits_per_second: rate("slice_load.hits_per_second", wire.hits_per_second)?,
            cpu_us_per_second: rate("slice_load.cpu_us_per_second", wire.cpu_us_per_second)?,
        })
    }
}

impl From<&HotKeyLoad> for v1::HotKey {
    fn from(load: &HotKeyLoad) -> Self {
        Self {
            at: load.at.get(),
            operations_per_second: load.operations_per_second,
            error_per_second: load.error_per_second,
            key: load.key.clone().into(),
            key_bytes: load.key_bytes.into(),
        }
    }
}

impl TryFrom<v1::HotKey> for HotKeyLoad {
    type Error = WireError;

    fn try_from(wire: v1::HotKey) -> Result<Self, WireError> {
        within("hot_key.key", wire.key.len(), HOT_KEY_BYTES_MAX)?;
        let key_bytes =
            u16::try_from(wire.key_bytes).map_err(|error| WireError::bad("hot_key.key_bytes", error))?;
        if wire.key.len() > usize::from(key_bytes) {
            return Err(WireError::bad("hot_key.key_bytes", key_bytes));
        }
        Ok(Self {
            at: SliceKey::new(wire.at),
            operations_per_second: rate("hot_key.operations_per_second", wire.operations_per_second)?,
            error_per_second: rate("hot_key.error_per_second", wire.error_per_second)?,
            // Copied: a part of a received buffer would keep all of it.
            key: wire.key.to_vec(),
            key_bytes,
        })
    }
}

/// A report without those of its lists that grow with the cluster.
pub(crate) fn totals(load: &LoadReport) -> v1::LoadReport {
    v1::LoadReport {
        entries: load.entries,
        bytes: load.bytes,
        gets: load.gets,
        hits: load.hits,
        ranges_taking: load.ranges_taking,
        ranges_giving: load.ranges_giving,
        slices: Vec::new(),
        entries_imported: load.entries_imported,
        bytes_imported: load.bytes_imported,
        operations_per_second: load.operations_per_second,
        bytes_per_second: load.bytes_per_second,
        cpu_us_per_second: load.cpu_us_per_second,
        busy_percent: load.busy_percent.into(),
        hot_keys: Vec::new(),
        conditions: load.conditions.clone(),
        serving: load.serving.as_ref().map(Into::into),
        drain: load.drain.as_ref().map(Into::into),
    }
}

impl From<&ServingReport> for v1::ServingReport {
    fn from(serving: &ServingReport) -> Self {
        use v1::serving_report::Why;
        let why = serving.first.map(|(_, why)| match why {
            WhyUnserved::Taking => Why::Taking,
            WhyUnserved::GivenAway => Why::GivenAway,
            WhyUnserved::Unconfirmed => Why::Unconfirmed,
        });
        Self {
            unserved: serving.unserved,
            first: serving.first.map(|(slice, _)| slice.into()),
            why: why.unwrap_or(Why::Unspecified).into(),
        }
    }
}

impl TryFrom<v1::ServingReport> for ServingReport {
    type Error = WireError;

    fn try_from(wire: v1::ServingReport) -> Result<Self, WireError> {
        use v1::serving_report::Why;
        let why = match wire.why() {
            Why::Taking => Some(WhyUnserved::Taking),
            Why::GivenAway => Some(WhyUnserved::GivenAway),
            Why::Unconfirmed => Some(WhyUnserved::Unconfirmed),
            Why::Unspecified => None,
        };
        let first = match (wire.first, why) {
            (None, None) => None,
            (first, Some(why)) => Some((slice("serving.first", first)?, why)),
            (Some(_), None) => return Err(WireError::bad("serving.why", wire.why)),
        };
        if first.is_some() != (wire.unserved > 0) {
            return Err(WireError::bad("serving.unserved", wire.unserved));
        }
        Ok(Self {
            unserved: wire.unserved,
            first,
        })
    }
}

impl From<&DrainReport> for v1::DrainReport {
    fn from(drain: &DrainReport) -> Self {
        Self {
            entries_held: drain.entries_held,
            entries_given: drain.entries_given,
            bytes_given: drain.bytes_given,
        }
    }
}

impl From<v1::DrainReport> for DrainReport {
    fn from(wire: v1::DrainReport) -> Self {
        Self {
            entries_held: wire.entries_held,
            entries_given: wire.entries_given,
            bytes_given: wire.bytes_given,
        }
    }
}

impl From<&LoadReport> for v1::LoadReport {
    fn from(load: &LoadReport) -> Self {
        Self {
            slices: load.slices.iter().map(Into::into).collect(),
            hot_keys: load.hot_keys.iter().map(Into::into).collect(),
            ..totals(load)
        }
    }
}

impl TryFrom<v1::LoadReport> for LoadReport {
    type Error = WireError;

    fn try_from(wire: v1::LoadReport) -> Result<Self, WireError> {
        let busy_percent = u8::try_from(wire.busy_percent)
            .ok()
            .filter(|percent| *percent <= 100);
        Ok(Self {
            entries: wire.entries,
            bytes: wire.bytes,
            gets: wire.gets,
            hits: wire.hits,
            ranges_taking: wire.ranges_taking,
            ranges_giving: wire.ranges_giving,
            entries_imported: wire.entries_imported,
            bytes_imported: wire.bytes_imported,
            operations_per_second: rate("load.operations_per_second", wire.operations_per_second)?,
            bytes_per_second: rate("load.bytes_per_second", wire.bytes_per_second)?,
            cpu_us_per_second: rate("load.cpu_us_per_second", wire.cpu_us_per_second)?,
            busy_percent: busy_percent
                .ok_or_else(|| WireError::bad("load.busy_percent", wire.busy_percent))?,
            slices: each("load.slices", wire.slices, RANGES_MAX)?,
            hot_keys: each("load.hot_keys", wire.hot_keys, HOT_KEYS_MAX)?,
            conditions: conditions(wire.conditions)?,
            serving: wire.serving.map(ServingReport::try_from).transpose()?,
            drain: wire.drain.map(Into::into),
        })
    }
}

/// Lines for people, who read them on a terminal.
fn conditions(wire: Vec<String>) -> Result<Vec<String>, WireError> {
    within("load.conditions", wire.len(), CONDITIONS_MAX)?;
    let lines = wire.into_iter().map(|line| {
        within("load.conditions", line.len(), CONDITION_BYTES_MAX)?;
        Ok(line.replace(char::is_control, " "))
    });
    lines.collect()
}

/// A rate: a number, not negative, and one that is possible.
fn rate(field: &'static str, wire: f64) -> Result<f64, WireError> {
    if !(0.0..=RATE_PER_SECOND_MAX).contains(&wire) {
        return Err(WireError::bad(field, wire));
    }
    Ok(wire)
}
