//! What a node counts. Relaxed atomics on the data path; `prometheus-client` renders them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use softstore_proto::v1::{OpKind, Status};
use softstore_transfer::handoff::{ColdReason, CopyEnd, Notice, PullEnd};

use crate::readings::{Reading, encode_readings, of_process};

/// Kinds of operation, by number. Those that the protocol does not know are counted as the first.
const KINDS: [(OpKind, &str); 7] = [
    (OpKind::Unspecified, "unknown"),
    (OpKind::Get, "get"),
    (OpKind::Set, "set"),
    (OpKind::Delete, "delete"),
    (OpKind::Touch, "touch"),
    (OpKind::Add, "add"),
    (OpKind::Flush, "flush"),
];

/// Outcomes of an operation, by status.
const OUTCOMES: [(Status, &str); 13] = [
    (Status::Ok, "ok"),
    (Status::NotFound, "not_found"),
    (Status::ConditionFailed, "condition_failed"),
    (Status::Moved, "moved"),
    (Status::NotReady, "not_ready"),
    (Status::Behind, "behind"),
    (Status::Busy, "busy"),
    (Status::Expired, "expired"),
    (Status::InvalidKey, "invalid_key"),
    (Status::ValueTooLarge, "value_too_large"),
    (Status::NotANumber, "not_a_number"),
    (Status::Overflow, "overflow"),
    (Status::InvalidRequest, "invalid_request"),
];

const KIND_SLOTS: usize = 7;
const STATUS_SLOTS: usize = 25;

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// A node's counters since its start.
        #[derive(Debug)]
        pub struct NodeMetrics {
            operations: [[AtomicU64; STATUS_SLOTS]; KIND_SLOTS],
            $($(#[doc = $doc])+ pub $name: AtomicU64,)+
        }

        impl Default for NodeMetrics {
            fn default() -> Self {
                Self {
                    operations: std::array::from_fn(|_| std::array::from_fn(|_| AtomicU64::new(0))),
                    $($name: AtomicU64::new(0),)+
                }
            }
        }

        impl NodeMetrics {
            /// Name, help and value of each plain counter.
            fn plain(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc),+).trim_start(), self.$name.load(Ordering::Relaxed)),)+]
            }
        }
    };
}

counters! {
    /// Reads answered as a replica from a copy that was here
    reads_of_copies,
    /// Keys asked of their owners as a replica
    fills_asked,
    /// Reads as a replica left to the owner because too many keys were being asked for
    fills_shed,
    /// Copies kept as a replica
    copies_kept,
    /// Positions that owners had this replica forget
    keys_invalidated,
    /// Keys told to replicas as their owner
    fills_served,
    /// Operations that changed something which replicas may have read: they had to forget it first
    writes_of_replicated,
    /// Messages to replicas that had them forget something, answered
    invalidations_sent,
    /// Messages that replicas called malformed: they were sent again, or the end of the lease was waited for
    invalidations_refused,
    /// Times that a replica did not say that it had forgotten something, so that the end of its lease was waited for
    invalidations_unanswered,
    /// Operations that were held back because their range's owner was being settled
    operations_held_back,
    /// Operations refused because too many were held back already
    hold_overflows,
    /// Flushes answered busy because earlier ones left more than is reclaimed by now
    flushes_refused,
    /// Operations refused, before they were run, because they had waited too long in an overloaded node
    operations_shed,
    /// Keys that were asked of an old owner before they were called absent
    peeks_asked,
    /// Peeked keys that the old owner had
    peeks_found,
    /// Peeks without an answer in time: the key counted as absent for that operation
    peeks_unanswered,
    /// Peeks answered later than they are usually waited for: they were waited for longer, since a process had stood still lately
    peeks_answered_late,
    /// Operations that took a key for absent though its old owner had not said so: it did not answer, or could not be asked
    absences_unconfirmed,
    /// Keys that counted as absent because too many others waited to be asked of the same old owner
    peeks_shed,
    /// Keys that other nodes asked of this one
    peeks_served,
    /// Ranges fenced for another node
    ranges_fenced,
    /// Ranges taken over with their entries to be pulled
    ranges_taken,
    /// Ranges taken over without entries
    ranges_started_cold,
    /// Ranges taken over without entries because giver and taker share no version of the chunk format
    ranges_cold_for_chunk_version,
    /// Pulls that brought everything
    pulls_completed,
    /// Pulls given up before everything had arrived
    pulls_given_up,
    /// Chunks sent to takers
    chunks_sent,
    /// Bytes of chunks sent to takers
    chunk_bytes_sent,
    /// Entries sent to takers
    entries_given,
    /// Keys and values of entries sent to takers, in bytes
    given_bytes,
    /// Chunks received from givers
    chunks_received,
    /// Chunks refused as damaged or malformed
    chunks_refused,
    /// Frozen copies dropped for another reason than their release
    copies_dropped_unreleased,
    /// Messages of other nodes refused: another incarnation, a dead sender, malformed
    peer_messages_refused,
    /// Takes refused because the assignment that they are under has not come here, or there is none: the taker asks again
    takes_unheard,
    /// Takes and operations under an acquisition further ahead than any clock explains
    acquisitions_invented,
    /// Messages of the Assigner that could not be understood; each time the session was opened anew
    assigner_messages_refused,
    /// Requests and messages that were not decodable or contradicted themselves
    bad_requests,
    /// Hand-off messages that travelled through the Assigner
    messages_relayed,
    /// Reports and relayed messages to the Assigner lost, because too many waited in this node
    slicelet_events_lost,
    /// Pulls that takers asked for and that were put off, because this node gives to them in too many streams already
    pulls_put_off,
    /// Times that this node was declared dead and came back empty
    rebirths,
    /// Hellos that the Assigner refused
    hellos_refused,
    /// Times that this node's lease was over before it was renewed
    leases_ended,
    /// Operations answered not_ready, because this node's lease was over or the Assigner had not granted one yet
    operations_without_lease,
    /// Times that serving was suspended after this node stood still
    suspensions,
    /// Ranges of a life that was declared dead, frozen and offered to who took them over
    ranges_frozen,
    /// Ranges that began cold, or whose giver fell silent, and got back what their last holder held
    ranges_revived,
    /// Silent nodes from which this node awaited what they held, in vain
    revivals_missed,
}

/// Adds one.
pub(super) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Adds `amount`.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl NodeMetrics {
    /// Counts an operation that was answered. Kinds that the protocol does not know are counted as one (H8).
    pub fn operation(&self, kind: i32, status: i32) {
        let kind = OpKind::try_from(kind).unwrap_or(OpKind::Unspecified);
        let slots = &self.operations[kind as usize];
        let slot = usize::try_from(status).ok().and_then(|status| slots.get(status));
        if let Some(slot) = slot {
            count(slot);
        }
    }

    /// Gets answered with a value or a miss, and those with a value.
    pub fn gets_and_hits(&self) -> (u64, u64) {
        let of =
            |status: Status| self.operations[OpKind::Get as usize][status as usize].load(Ordering::Relaxed);
        let hits = of(Status::Ok);
        (hits + of(Status::NotFound), hits)
    }

    /// All operations answered with a result (not sent elsewhere or refused).
    pub fn operations_answered(&self) -> u64 {
        let answered = [Status::Ok, Status::NotFound, Status::ConditionFailed];
        self.operations
            .iter()
            .flat_map(|slots| answered.map(|status| slots[status as usize].load(Ordering::Relaxed)))
            .sum()
    }

    /// Counts what happened in a hand-off.
    pub fn notice(&self, notice: &Notice) {
        match notice {
            Notice::Fenced { .. } => count(&self.ranges_fenced),
            Notice::Took { .. } => count(&self.ranges_taken),
            Notice::StartedCold { reason, .. } => {
                count(&self.ranges_started_cold);
                if *reason == ColdReason::NoCommonVersion {
                    count(&self.ranges_cold_for_chunk_version);
                }
            }
            Notice::PullEnded {
                end: PullEnd::Complete,
                ..
            } => count(&self.pulls_completed),
            Notice::PullEnded { .. } => count(&self.pulls_given_up),
            Notice::CopyDropped {
                reason: CopyEnd::Released | CopyEnd::OwnedAgain,
                ..
            } => {}
            Notice::CopyDropped { .. } => count(&self.copies_dropped_unreleased),
            Notice::CameBack { .. } => count(&self.ranges_revived),
            Notice::NotBack { .. } => count(&self.revivals_missed),
            Notice::Offered { .. } => count(&self.ranges_frozen),
            Notice::Renewed { .. } | Notice::Dropped { .. } | Notice::Awaiting { .. } => {}
        }
    }

    fn encode_operations(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut metric = encoder.encode_descriptor(
            "softstore_operations",
            "Operations answered, by kind and outcome",
            None,
            prometheus_client::metrics::MetricType::Counter,
        )?;
        for (kind, kind_name) in KINDS {
            for (status, outcome) in OUTCOMES {
                let value = self.operations[kind as usize][status as usize].load(Ordering::Relaxed);
                let labels = [("kind", kind_name), ("outcome", outcome)];
                ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

/// Renders a node's metrics when they are scraped.
#[derive(Debug)]
pub(super) struct NodeCollector(pub(super) std::sync::Arc<super::state::NodeState>);

impl Collector for NodeCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let metrics = &self.0.metrics;
        metrics.encode_operations(&mut encoder)?;
        let plain = metrics.plain().into_iter().map(|(name, help, value)| Reading {
            name,
            help,
            unit: None,
            is_counter: true,
            value,
        });
        encode_readings(&plain.collect::<Vec<_>>(), &mut encoder)?;
        encode_readings(&self.0.listeners.readings(), &mut encoder)?;
        encode_readings(&self.0.readings(), &mut encoder)?;
        encode_readings(&of_process(), &mut encoder)?;
        self.0.conditions.encode(&mut encoder)?;
        encode_readings(&self.0.memory.readings(), &mut encoder)?;
        if let Some(plan) = self.0.memory.plan() {
            let info = ConstGauge::new(1_i64);
            let mut family = encoder.encode_descriptor(
                "softstore_memory_limit_source",
                "Whose the limit is that counts, as a label",
                None,
                prometheus_client::metrics::MetricType::Gauge,
            )?;
            let source = plan.source.to_string();
            info.encode(family.encode_family(&[("source", source.as_str())])?)?;
        }
        let (length_ms, remaining_ms) = self.0.lease_ms();
        for (name, help, ms) in [
            (
                "lease_length",
                "Length of the leases under which this node serves; 0: it serves without",
                length_ms,
            ),
            (
                "lease_remaining",
                "Until this node's lease is over; 0: it is over, or there is none",
                remaining_ms,
            ),
        ] {
            let gauge = ConstGauge::new(Duration::from_millis(ms).as_secs_f64());
            let name = format!("softstore_{name}");
            gauge.encode(encoder.encode_descriptor(
                &name,
                help,
                Some(&Unit::Seconds),
                gauge.metric_type(),
            )?)?;
        }
        Ok(())
    }
}
