//! [`MemoryPlan`]: the one sum. What a process may have is the store's, messages' in transit, and the reserve: the process itself,
//! the allocator's slack, what a hand-off lists, the kernel's buffers for its sockets.
//!
//! What an operator decides stands; the rest is derived from the limit that counts, and from it again when that changes.

use std::fmt;

use super::Bytes;
use super::kernel::{Limit, Source};

/// Part of the limit that the store gets unless told, in percent.
pub const STORE_PERCENT: u64 = 75;

/// What messages in transit get unless told: half of what the store leaves, within these bounds.
const TRANSIT_BYTES_LEAST: u64 = 16 << 20;
const TRANSIT_BYTES_MOST: u64 = 256 << 20;

/// The part of what is in transit that requests held back may take: a quarter.
const HELD_BACK_SHIFT: u32 = 2;

/// Who gets what of the memory there is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemoryPlan {
    /// The limit that counts, in bytes.
    pub limit_bytes: u64,
    /// Whose it is.
    pub source: Source,
    /// The most that the store gets, in bytes.
    pub store_bytes: u64,
    /// The most that messages in transit get, in bytes.
    pub transit_bytes: u64,
}

impl MemoryPlan {
    /// A plan under a limit. 0 bytes for the store or in transit: derived from it.
    #[must_use]
    pub fn new(limit: &Limit, memory_bytes: u64, transit_bytes_max: u64) -> Self {
        let store_bytes = match memory_bytes {
            0 => limit.bytes / 100 * STORE_PERCENT,
            bytes => bytes,
        };
        let left_bytes = limit.bytes.saturating_sub(store_bytes);
        let transit_bytes = match transit_bytes_max {
            0 => (left_bytes / 2).clamp(TRANSIT_BYTES_LEAST, TRANSIT_BYTES_MOST),
            bytes => bytes,
        };
        Self {
            limit_bytes: limit.bytes,
            source: limit.source.clone(),
            store_bytes,
            transit_bytes,
        }
    }

    /// What is left for everything else, in bytes.
    #[must_use]
    pub fn reserve_bytes(&self) -> u64 {
        let planned = self.store_bytes.saturating_add(self.transit_bytes);
        self.limit_bytes.saturating_sub(planned)
    }

    /// Whether more is given out than there is: the store will get less than the plan says.
    #[must_use]
    pub fn is_beyond_limit(&self) -> bool {
        self.store_bytes.saturating_add(self.transit_bytes) > self.limit_bytes
    }
}

/// What requests that are held back may take of what may be in transit, in bytes.
pub(super) fn held_back_bytes(transit_bytes: u64) -> u64 {
    transit_bytes >> HELD_BACK_SHIFT
}

/// The sum: `limit 512 MiB (cgroup /a) = store 384 MiB + in transit 64 MiB + reserve 64 MiB`.
impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "limit {} ({}) = store {} + in transit {} + reserve {}",
            Bytes(self.limit_bytes),
            self.source,
            Bytes(self.store_bytes),
            Bytes(self.transit_bytes),
            Bytes(self.reserve_bytes()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn plan(limit_mib: u64, memory_mib: u64, transit_mib: u64) -> MemoryPlan {
        let limit = Limit {
            bytes: limit_mib * MIB,
            room_bytes: limit_mib * MIB,
            source: Source::Group("/a".to_owned()),
        };
        MemoryPlan::new(&limit, memory_mib * MIB, transit_mib * MIB)
    }

    /// Plan: limits from small to large, with nothing decided. The parts make up the limit, and each is what it should be.
    #[test]
    fn the_parts_are_the_whole() {
        for (limit_mib, transit_mib) in [(256, 32), (512, 64), (1_024, 128), (4_096, 256), (1 << 20, 256)] {
            let plan = plan(limit_mib, 0, 0);
            let near = |bytes: u64, mib: u64| bytes.abs_diff(mib * MIB) < 200;
            assert!(near(plan.store_bytes, limit_mib * 3 / 4), "{plan}");
            assert!(near(plan.transit_bytes, transit_mib), "{plan}");
            let sum = plan.store_bytes + plan.transit_bytes + plan.reserve_bytes();
            assert_eq!(sum, plan.limit_bytes);
            assert!(!plan.is_beyond_limit());
        }
    }

    #[test]
    fn what_is_decided_stands() {
        assert_eq!(
            plan(512, 100, 20).to_string(),
            "limit 512 MiB (cgroup /a) = store 100 MiB + in transit 20 MiB + reserve 392 MiB"
        );
        let beyond = plan(512, 600, 0);
        assert!(beyond.is_beyond_limit());
        assert_eq!((beyond.transit_bytes, beyond.reserve_bytes()), (16 * MIB, 0));
        assert_eq!(plan(24 << 10, 64, 0).transit_bytes, 256 * MIB);
    }
}
