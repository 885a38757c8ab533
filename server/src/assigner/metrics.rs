//! What the Assigner counts.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Unit;
use softstore_sharding::assigner::{Assigner, MoveTotals, Notice};

use crate::conditions::Conditions;
use crate::http::Readiness;
use crate::listener::ListenerCounters;
use crate::readings::{Reading, encode_readings, of_process};

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
    name_waits: AtomicU64,
    foreign_refused: AtomicU64,
    unidentified_nodes: AtomicU64,
    state_writes_failed: AtomicU64,
    sessions_overflowed: AtomicU64,
    sessions: AtomicU64,
    generation: AtomicU64,
    has_assignment: AtomicBool,
    rounds: AtomicU64,
    round_ms_last: AtomicU64,
    rounds_given_up: AtomicU64,
    placements_refused: AtomicU64,
    placements_outdated: AtomicU64,
    is_frozen: AtomicBool,
    is_held: AtomicBool,
    moves: Mutex<MoveTotals>,
    /// What its ports counted.
    pub(super) listeners: Arc<ListenerCounters>,
    /// What a person needs to know of it.
    pub(super) conditions: Conditions,
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

    /// Counts a state that could not be written.
    pub(super) fn state_write_failed(&self) {
        self.state_writes_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// The Sharder has taken so long to answer.
    pub(super) fn round_ran(&self, ms: u64) {
        self.rounds.fetch_add(1, Ordering::Relaxed);
        self.round_ms_last.store(ms, Ordering::Relaxed);
    }

    pub(super) fn notice(&self, notice: &Notice) {
        let counter = match notice {
            Notice::Joined(_) => &self.joined,
            Notice::Died { .. } => &self.died,
            Notice::HelloRefused { .. } | Notice::ProtocolBroken(_) | Notice::NotPublished(_) => {
                &self.protocol_errors
            }
            Notice::OtherCluster { .. } => &self.foreign_refused,
            Notice::SecondAssigner { .. } => &self.second_assigners,
            Notice::StoodStill { .. } => &self.stood_still,
            Notice::RelayDropped { .. } => &self.relays_dropped,
            Notice::PlacingGivenUp { .. } => &self.rounds_given_up,
            Notice::PlacementRefused(_) => &self.placements_refused,
            Notice::PlacementOutdated => &self.placements_outdated,
            _ => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn observe(&self, core: &Assigner, sessions: usize) {
        self.is_frozen.store(core.is_frozen(), Ordering::Relaxed);
        self.is_held.store(core.is_held(), Ordering::Relaxed);
        let totals = core.explanations().totals();
        // A scrape that reads it meanwhile gets the next one.
        if let Ok(mut held) = self.moves.try_lock()
            && *held != *totals
        {
            held.clone_from(totals);
        }
        self.sessions.store(sessions as u64, Ordering::Relaxed);
        self.name_waits
            .store(core.name_waits_count() as u64, Ordering::Relaxed);
        self.unidentified_nodes
            .store(core.unidentified_count() as u64, Ordering::Relaxed);
        if let Some(assignment) = core.assignment() {
            self.has_assignment.store(true, Ordering::Relaxed);
            self.generation
                .store(assignment.generation().number, Ordering::Relaxed);
        }
    }

    /// Moves by reason and by end, and what they were expected to cost and did cost.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a number of bytes, never negative"
    )]
    fn encode_moves(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let moves = self
            .moves
            .lock()
            .map_or_else(|held| held.into_inner().clone(), |held| held.clone());
        let by_reason = moves
            .moves
            .iter()
            .map(|(reason, count)| (reason.as_str(), *count));
        let by_end = moves.ended.iter().map(|(end, count)| (*end, *count));
        let name = "softstore_moves";
        family(
            name,
            "Moves of ranges published, by reason",
            "reason",
            by_reason,
            encoder,
        )?;
        let name = "softstore_moves_ended";
        family(
            name,
            "Moves of ranges that are over, by how they ended",
            "end",
            by_end,
            encoder,
        )?;
        let bytes = |name, help, value| Reading {
            name,
            help,
            unit: Some(Unit::Bytes),
            is_counter: true,
            value,
        };
        let readings = [
            bytes(
                "moves_predicted",
                "Bytes that moves were expected to pull",
                moves.predicted_bytes as u64,
            ),
            bytes(
                "moves_pulled",
                "Bytes that the takers of moves have pulled, keys and values",
                moves.pulled_bytes,
            ),
        ];
        encode_readings(&readings, encoder)
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
                "name_waits",
                "Processes that wait for a node's name which another one holds",
                false,
                &self.name_waits,
            ),
            reading(
                "foreign_hellos_refused",
                "Hellos of nodes of another cluster that were refused",
                true,
                &self.foreign_refused,
            ),
            reading(
                "unidentified_nodes",
                "Nodes of a build that says neither its process nor its cluster",
                false,
                &self.unidentified_nodes,
            ),
            reading(
                "state_writes_failed",
                "Times that the state file could not be written",
                true,
                &self.state_writes_failed,
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
                "sharder_rounds",
                "Questions that the Sharder has answered",
                true,
                &self.rounds,
            ),
            reading(
                "sharder_rounds_given_up",
                "Questions to the Sharder that were given up after place_timeout_ms",
                true,
                &self.rounds_given_up,
            ),
            reading(
                "sharder_placements_refused",
                "Placements of the Sharder that broke the rules, or that it broke off; even ranges were used instead",
                true,
                &self.placements_refused,
            ),
            reading(
                "sharder_placements_outdated",
                "Placements of the Sharder that came too late for what had happened meanwhile",
                true,
                &self.placements_outdated,
            ),
            reading(
                "sharder_round_last_milliseconds",
                "How long the Sharder's last answer took",
                false,
                &self.round_ms_last,
            ),
            Reading {
                name: "balance_frozen",
                help: "Whether an operator has frozen balancing",
                unit: None,
                is_counter: false,
                value: self.is_frozen.load(Ordering::Relaxed).into(),
            },
            Reading {
                name: "balance_held",
                help: "Whether nothing is balanced, by a freeze or quiet hours",
                unit: None,
                is_counter: false,
                value: self.is_held.load(Ordering::Relaxed).into(),
            },
            reading(
                "generation",
                "Number of the newest assignment's generation",
                false,
                &self.generation,
            ),
        ]
    }
}

impl Readiness for AssignerMetrics {
    fn readiness(&self) -> Result<(), &'static str> {
        if self.has_assignment.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("no assignment has been published yet")
        }
    }

    fn conditions(&self) -> &Conditions {
        &self.conditions
    }
}

/// One counter for each value of a label.
fn family(
    name: &str,
    help: &str,
    label: &str,
    values: impl Iterator<Item = (&'static str, u64)>,
    encoder: &mut DescriptorEncoder<'_>,
) -> Result<(), std::fmt::Error> {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in values {
        let counter = ConstCounter::new(count);
        counter.encode(metric.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}

/// Renders them when they are scraped.
#[derive(Debug)]
pub(super) struct AssignerCollector(pub(super) Arc<AssignerMetrics>);

impl Collector for AssignerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        encode_readings(&self.0.listeners.readings(), &mut encoder)?;
        encode_readings(&self.0.readings(), &mut encoder)?;
        encode_readings(&of_process(), &mut encoder)?;
        self.0.conditions.encode(&mut encoder)?;
        self.0.encode_moves(&mut encoder)
    }
}
