//! What the control plane sends, reckoned from what changes: the fields of the wire's messages (`assignment.proto`,
//! `session.proto`), each at its usual length. Not a recording.

use super::measure::RoundFigures;

/// One range of a diff: bounds (2 x 9), owner (a name of about 8, an incarnation of 9), `since` (7 + 9), tags and lengths.
pub const CHANGED_RANGE_BYTES: u64 = 64;

/// What a diff has besides: two generations and the frame.
pub const DIFF_BYTES: u64 = 48;

/// One range of a load report: bounds, rate, bytes.
pub const REPORTED_RANGE_BYTES: u64 = 32;

/// What a heartbeat has besides, and its answer.
pub const HEARTBEAT_BYTES: u64 = 96;

/// What a round costs: each node reports its ranges, and is told what changed.
#[must_use]
pub fn bytes(round: &RoundFigures) -> u64 {
    let (living, changed) = (round.living as u64, round.changed_ranges as u64);
    let told = match changed {
        0 => 0,
        _ => DIFF_BYTES + changed * CHANGED_RANGE_BYTES,
    };
    living * (HEARTBEAT_BYTES + told) + round.ranges as u64 * REPORTED_RANGE_BYTES
}
