//! [`MokaStoreConfig`].

use crate::frequency::FREQUENCY_HALF_LIFE_MS;

/// The default limit of a value: 8 MiB.
pub const VALUE_BYTES_MAX: usize = 8 << 20;

/// The default limit of keys remembered as written, over all open pulls. A remembered key takes 10 to 20 bytes, so
/// this is at most about 80 MB, held only while pulls are open and outside of the byte budget.
pub const WRITTEN_KEYS_MAX: u64 = 4_194_304;

/// How a [`MokaStore`](super::MokaStore) is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MokaStoreConfig {
    /// Bytes for keys, values and metadata together. Default 256 MiB.
    pub budget_bytes: u64,
    /// The most that [`Store::set_budget`](crate::Store::set_budget) can make of it; `budget_bytes`, if that is more. Default 0.
    pub budget_bytes_max: u64,
    /// Longest value in bytes. Default [`VALUE_BYTES_MAX`]; anything above 1 GiB counts as 1 GiB.
    pub value_bytes_max: usize,
    /// After how many milliseconds without access an access count has halved. Default [`FREQUENCY_HALF_LIFE_MS`].
    /// Nodes that hand entries to each other should agree on it, since classes are compared between them.
    pub frequency_half_life_ms: u64,
    /// Most keys remembered as written, over all open pulls; and as many again over those whose giver is away. Default
    /// [`WRITTEN_KEYS_MAX`].
    pub written_keys_max: u64,
}

impl Default for MokaStoreConfig {
    fn default() -> Self {
        Self {
            budget_bytes: 256 << 20,
            budget_bytes_max: 0,
            value_bytes_max: VALUE_BYTES_MAX,
            frequency_half_life_ms: FREQUENCY_HALF_LIFE_MS,
            written_keys_max: WRITTEN_KEYS_MAX,
        }
    }
}
