//! The limits of the wire: how long a message, a list, a text or a byte string may be.

/// Most operations in one batch of the data stream.
pub const BATCH_OPS_MAX: usize = 1_024;
/// Most acquisitions that one batch lists.
pub const BATCH_SINCES_MAX: usize = 1_024;
/// Bytes after which a batch is closed. One larger operation travels in a batch of its own.
pub const BATCH_BYTES_MAX: usize = 4 << 20;
/// Largest value that any node can be configured to take, in bytes.
pub const VALUE_BYTES_CEILING: usize = 64 << 20;
/// Largest value that a node takes by default, in bytes.
pub const VALUE_BYTES_DEFAULT: usize = 8 << 20;
/// Longest key in bytes. The shortest has one.
pub const KEY_BYTES_MAX: usize = 65_535;
/// Largest message of any service, for tonic's limits of encoding and decoding: the largest value and room beside it.
pub const MESSAGE_BYTES_MAX: usize = VALUE_BYTES_CEILING + BATCH_BYTES_MAX + (4 << 20);
/// Most ranges in an assignment, diff, hello, load report or list of hand-off reports.
pub const RANGES_MAX: usize = softstore_sharding::slice_map::SLICE_COUNT_MAX;
/// Highest rate of anything that is believed, per second: sums of such stay numbers.
pub const RATE_PER_SECOND_MAX: f64 = 1e15;
/// Most nodes in a directory.
pub const NODES_MAX: usize = 4_096;
/// Most providers of one range.
pub const PROVIDERS_MAX: usize = softstore_sharding::assignment::PROVIDERS_MAX;
/// Most replicas of one range.
pub const REPLICAS_MAX: usize = softstore_sharding::assignment::REPLICAS_MAX;
/// Most ranges in one Take.
pub const TAKE_RANGES_MAX: usize = softstore_transfer::message::TAKE_RANGES_MAX;
/// Most parts in the answer to a Take, and most ranges in a pull or a release.
pub const TAKEN_RANGES_MAX: usize = softstore_transfer::message::TAKEN_RANGES_MAX;
/// Most keys in one peek.
pub const PEEK_KEYS_MAX: usize = 1_024;
/// Most ranges in one request for read leases and in its answer, and most slices and positions in one invalidation.
pub const READ_PARTS_MAX: usize = softstore_transfer::message::READ_PARTS_MAX;
/// Longest read lease, in milliseconds.
pub const READ_LEASE_MS: u64 = softstore_transfer::handoff::READ_LEASE_MS;
/// Most keys in one fill.
pub const FILL_KEYS_MAX: usize = 1_024;
/// Longest `host:port` in bytes.
pub const ADDRESS_BYTES_MAX: usize = 512;
/// Longest name of a zone in bytes.
pub const ZONE_BYTES_MAX: usize = 256;
/// Longest text for people, in bytes.
pub const REASON_BYTES_MAX: usize = 4_096;
/// Longest cursor of a pull in bytes.
pub const CURSOR_BYTES_MAX: usize = 4_096;
/// Longest relayed message in bytes.
pub const RELAY_BYTES_MAX: usize = softstore_sharding::assigner::RELAY_BYTES_MAX;
