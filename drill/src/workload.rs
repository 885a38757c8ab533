//! The shape of a generated load: how many keys, how skewed, how large, which operations, which lifetimes.
//!
//! The presets follow the per-cluster statistics that Twitter published in 2020 (`twitter/cache-trace`, CC BY 4.0) of its
//! cache clusters; each is named by what is particular about it. Only the statistics are used, none of the data.

use std::fmt;

use clap::ValueEnum;

use crate::error::OptionsError;

/// A load known by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Preset {
    /// Reads only (misses are filled), Zipf 0.99, values around 230 bytes, no expiry. The default.
    #[default]
    Default,
    /// 99 reads : 1 write, Zipf 1.64, 120-byte values for 7 days (like Twitter's cluster 3).
    ReadMostly,
    /// 65 reads : 13 writes : 22 deletes, Zipf 1.30, 414-byte values for 1 day (cluster 14).
    Invalidation,
    /// 82 reads : 18 writes, Zipf 1.07, 1,936-byte values for 1.6 to 1.9 hours (cluster 7).
    LargeValues,
    /// 96 reads : 2 writes, Zipf 2.10, 37-byte values for 12 hours (cluster 18, without its 2 parts of cas).
    ExtremeSkew,
    /// 20 reads : 80 writes, Zipf 0.30, 1,030-byte values for 300 seconds (cluster 12).
    WriteHeavy,
    /// 40 reads : 20 writes : 40 deletes, Zipf 0.99, 230-byte values. No published cluster: it looks for resurrection.
    DeleteHeavy,
}

impl fmt::Display for Preset {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        out.write_str(value.as_ref().map_or("default", |value| value.get_name()))
    }
}

/// Parts of reads, writes and deletes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mix {
    /// Parts of gets; at least 1.
    pub reads: u32,
    /// Parts of sets.
    pub writes: u32,
    /// Parts of deletes.
    pub deletes: u32,
}

impl Mix {
    /// Parses `reads:writes:deletes`; the deletes may be left out.
    ///
    /// # Errors
    /// [`OptionsError::Mix`] when it is not two or three whole numbers, each at most 1,000,000, with reads above 0.
    pub fn parse(text: &str) -> Result<Self, OptionsError> {
        let refuse = || OptionsError::Mix(text.to_owned());
        let parts = text
            .split(':')
            .map(str::parse::<u32>)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| refuse())?;
        let (reads, writes, deletes) = match parts[..] {
            [reads, writes] => (reads, writes, 0),
            [reads, writes, deletes] => (reads, writes, deletes),
            _ => return Err(refuse()),
        };
        if reads == 0 || parts.iter().any(|part| *part > 1_000_000) {
            return Err(refuse());
        }
        Ok(Self {
            reads,
            writes,
            deletes,
        })
    }

    pub(crate) fn total(self) -> u32 {
        self.reads + self.writes + self.deletes
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}", self.reads, self.writes, self.deletes)
    }
}

/// A generated load.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadSpec {
    /// The preset it started from.
    pub preset: Preset,
    /// Distinct keys, 1 to 20,000,000. Default 50,000.
    pub keys: u32,
    /// Zipf's exponent, 0 (uniform) to 5.
    pub zipf_alpha: f64,
    /// Bytes of each key, 16 to 65,535.
    pub key_bytes: usize,
    /// Median bytes of a value, 32 to 8 MiB. Log-normal around it; a key keeps its size.
    pub value_bytes_median: u32,
    /// Operations.
    pub mix: Mix,
    /// Least time to live in milliseconds; 0: values do not expire.
    pub ttl_ms_min: u64,
    /// Longest time to live in milliseconds.
    pub ttl_ms_max: u64,
}

impl Default for WorkloadSpec {
    fn default() -> Self {
        Self::preset(Preset::Default)
    }
}

impl WorkloadSpec {
    /// Keys unless told otherwise.
    pub const KEYS: u32 = 50_000;
    /// Median value bytes of a trace without sizes: the median object of the 54 clusters published by Twitter.
    pub const TRACE_VALUE_BYTES_MEDIAN: u32 = 230;

    /// The load of that name.
    #[must_use]
    pub fn preset(preset: Preset) -> Self {
        const HOUR_MS: u64 = 3_600_000;
        let shape = |zipf_alpha,
                     key_bytes,
                     value_bytes_median,
                     (reads, writes, deletes),
                     (ttl_ms_min, ttl_ms_max)| Self {
            preset,
            keys: Self::KEYS,
            zipf_alpha,
            key_bytes,
            value_bytes_median,
            mix: Mix {
                reads,
                writes,
                deletes,
            },
            ttl_ms_min,
            ttl_ms_max,
        };
        match preset {
            Preset::Default => shape(0.99, 24, 230, (1, 0, 0), (0, 0)),
            Preset::ReadMostly => shape(1.64, 19, 120, (99, 1, 0), (168 * HOUR_MS, 168 * HOUR_MS)),
            Preset::Invalidation => shape(1.30, 96, 414, (65, 13, 22), (24 * HOUR_MS, 24 * HOUR_MS)),
            Preset::LargeValues => shape(
                1.07,
                17,
                1_936,
                (82, 18, 0),
                (HOUR_MS * 16 / 10, HOUR_MS * 19 / 10),
            ),
            Preset::ExtremeSkew => shape(2.10, 18, 37, (96, 2, 0), (12 * HOUR_MS, 12 * HOUR_MS)),
            Preset::WriteHeavy => shape(0.30, 44, 1_030, (20, 80, 0), (300_000, 300_000)),
            Preset::DeleteHeavy => shape(0.99, 24, 230, (40, 20, 40), (0, 0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_two_or_three_numbers_with_reads() {
        assert_eq!(
            Mix::parse("90:8:2"),
            Ok(Mix {
                reads: 90,
                writes: 8,
                deletes: 2
            })
        );
        assert_eq!(
            Mix::parse("1:4"),
            Ok(Mix {
                reads: 1,
                writes: 4,
                deletes: 0
            })
        );
        for bad in ["", "1", "0:1:1", "a:b", "1:2:3:4", "1:-1", "4000000000:1"] {
            assert_eq!(Mix::parse(bad), Err(OptionsError::Mix(bad.to_owned())));
        }
    }

    #[test]
    fn presets_are_named_by_their_shape() {
        assert_eq!(Preset::WriteHeavy.to_string(), "write-heavy");
        let names: Vec<_> = Preset::value_variants().iter().map(ToString::to_string).collect();
        assert!(names.iter().all(|name| !name.contains("twitter")), "{names:?}");
    }
}
