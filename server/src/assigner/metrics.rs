//! What the Assigner counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use softstore_sharding::assigner::{Assigner, Notice};

use crate::listener::ListenerCounters;
use crate::readings::{Reading, encode_readings};

/// Counters and gauges of one Assigner.
#[derive(Debug, Default)]
pub(super) struct AssignerMetrics {
    published: AtomicU64,
    joined: AtomicU64,
    died: AtomicU64,
    protocol_errors: AtomicU64,
    second_assigners: AtomicU64,
    stood_still: AtomicU64,
    relays_dropped: AtomicU64,
    sessions_overflowed: AtomicU64,
    sessions: AtomicU64,
    generation: AtomicU64,
    has_assignment: AtomicBool,
    /// What its ports counted.
    pub(super) listeners: Arc<ListenerCounters>,
}

impl AssignerMetrics {
    pub(super) fn published(&self) {
        self.published.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message that could not be understood.
    pub(super) fn protocol_error(&self) {
        self.protocol_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a session that was closed because its node did not read.
    pub(super) fn session_overflowed(&self) {
        self.sessions_overflowed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn notice(&self, notice: &Notice) {
        let counter = match notice {
            Notice::Joined(_) => &self.joined,
            Notice::Died { .. } => &self.died,
            Notice::HelloRefused { .. } | Notice::ProtocolBroken(_) | Notice::NotPublished(_) => {
                &self.protocol_errors
            }
            Notice::SecondAssigner { .. } => &self.second_assigners,
            Notice::StoodStill { .. } => &self.stood_still,
            Notice::RelayDropped { .. } => &self.relays_dropped,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn observe(&self, core: &Assigner, sessions: usize) {
        self.sessions.store(sessions as u64, Ordering::Relaxed);
        if let Some(assignment) = core.assignment() {
            self.has_assignment.store(true, Ordering::Relaxed);
            self.generation
                .store(assignment.generation().number, Ordering::Relaxed);
        }
    }

    pub(super) fn readiness(&self) -> Result<(), &'static str> {
        if self.has_assignment.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("no assignment has been published yet")
        }
    }

    fn readings(&self) -> Vec<Reading> {
        let reading = |name, help, is_counter, value: &AtomicU64| Reading {
            name,
            help,
            unit: None,
            is_counter,
            value: value.load(Ordering::Relaxed),
        };
        vec![
            reading(
                "assignments_published",
                "Assignments published",
                true,
                &self.published,
            ),
            reading("nodes_joined", "First hellos of a life", true, &self.joined),
            reading("nodes_died", "Lives that ended", true, &self.died),
            reading(
                "protocol_errors",
                "Hellos and messages refused",
                true,
                &self.protocol_errors,
            ),
            reading(
                "second_assigners_seen",
                "Signs that a second Assigner is running",
                true,
                &self.second_assigners,
            ),
            reading(
                "standstills",
                "Times that the Assigner itself stood still",
                true,
                &self.stood_still,
            ),
            reading(
                "relays_dropped",
                "Relayed hand-off messages that found no session",
                true,
                &self.relays_dropped,
            ),
            reading(
                "sessions_overflowed",
                "Sessions closed because their node did not read what it was sent",
                true,
                &self.sessions_overflowed,
            ),
            reading(
                "sessions",
                "Sessions of nodes that are open",
                false,
                &self.sessions,
            ),
            reading(
                "generation",
                "Number of the newest assignment's generation",
                false,
                &self.generation,
            ),
        ]
    }
}

/// Renders them when they are scraped.
#[derive(Debug)]
pub(super) struct AssignerCollector(pub(super) Arc<AssignerMetrics>);

impl Collector for AssignerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        encode_readings(&self.0.listeners.readings(), &mut encoder)?;
        encode_readings(&self.0.readings(), &mut encoder)
    }
}
