//! What a client counts about itself: [`ClientMetrics`], a snapshot of counters since it connected.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A client's counters since it connected. Differences of two snapshots give rates.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct ClientMetrics {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The counters themselves.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> ClientMetrics {
                ClientMetrics { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Reads asked for.
    gets,
    /// Reads that found something.
    hits,
    /// Reads that found nothing, unreachable ones included.
    misses,
    /// Sets asked for.
    sets,
    /// Deletes asked for.
    deletes,
    /// Touches asked for.
    touches,
    /// Adds asked for.
    adds,
    /// Flushes sent, one per owned range.
    flushes,
    /// Attempts at reads that went to a replica of the key's range.
    replica_reads,
    /// Of those, attempts that the replica did not answer, so that the owner was asked.
    replica_refusals,
    /// Reads that are misses because no owner answered within the deadline.
    unreachable_misses,
    /// Writes that may or may not have been applied.
    outcome_unknown,
    /// Writes that were not applied within their deadline.
    writes_unavailable,
    /// Operations refused because too much was pending here.
    busy,
    /// Operations refused because their owner is overloaded: by it, or here already.
    shed,
    /// Of those, reads that are misses therefore.
    shed_misses,
    /// Attempts repeated because the key had moved.
    retries_moved,
    /// Attempts repeated because the node was not ready.
    retries_not_ready,
    /// Attempts repeated because the node was behind.
    retries_behind,
    /// Attempts repeated because the node shed load.
    retries_busy,
    /// Attempts repeated because the owner could not be reached.
    retries_unreachable,
    /// Reads, and writes that may be sent twice, repeated because the connection broke.
    retries_broken,
    /// Messages sent on data streams.
    batches,
    /// Operations in them.
    batched_ops,
    /// Data streams opened.
    streams_opened,
    /// Attempts to connect that failed.
    connects_failed,
    /// Nodes of another cluster that refused this client, or whose assignments it refused.
    foreign_refused,
    /// Times that all seeds led to another founding for so long that the client followed that one instead.
    clusters_followed_anew,
    /// Assignments taken.
    assignments,
    /// Loads run by `get_or_load`.
    loads,
    /// Calls that shared another call's load.
    coalesced_loads,
    /// Loads that failed.
    load_errors,
    /// Loaded values that could not be put into the cache.
    fills_failed,
    /// Loaded values that were not put into the cache because something newer may be there, or have been there.
    fills_skipped,
}

impl ClientMetrics {
    /// Operations per message, on average; 0 before the first.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "an average for people")]
    pub fn ops_per_batch(&self) -> f64 {
        if self.batches == 0 {
            return 0.0;
        }
        self.batched_ops as f64 / self.batches as f64
    }

    /// Part of the reads that found something, 0 to 1; 0 before the first.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn hit_rate(&self) -> f64 {
        let answered = self.hits + self.misses;
        if answered == 0 {
            return 0.0;
        }
        self.hits as f64 / answered as f64
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}
