//! [`Plan`]: everything about a run that is drawn from its seed before it begins, the faults apart.

use softstore_sharding::assigner::AssignerConfig;
use softstore_sharding::slicelet::SliceletConfig;
use softstore_transfer::HandoffConfig;
use softstore_transfer::message::{TAKE_RANGES_MAX, TAKEN_RANGES_MAX};

use crate::config::{Mode, SimConfig};
use crate::random::Random;

/// How long what a silent node held may come back, in milliseconds: longer than most cuts and pauses are, and short enough for a
/// cluster to come to rest.
const REVIVAL_MS: u64 = 8_000;

/// Of the seeds of `available` mode, so many in a thousand keep nodes from the Assigner for longer than the failure timeout.
const CUT_OFF_PER_MILLE: u64 = 550;

/// How long most clients go without asking a node for a newer assignment, at the most, in microseconds. (Others hear of a move
/// from a node that says so, and read on from replicas of before.)
const WATCH_US_MAX: u64 = 400_000;

/// Of all seeds, so many in a thousand replicate slices.
const REPLICATED_PER_MILLE: u64 = 400;

/// In `leased` mode, of the seeds in which nodes may be cut off, so many in a thousand are about that.
const LEASES_PER_MILLE: u64 = 350;

/// Of the seeds in which nodes may be cut off, in either mode, so many in a thousand are about nodes that come back.
const ABSENCES_PER_MILLE: u64 = 750;

/// What most faults of a run have in common.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Theme {
    /// Nothing.
    Any,
    /// What leases and their ends are for. Such a schedule takes seconds, and other faults in between would spoil it; so
    /// faults are few.
    Leases,
    /// A node is stopped or cut off until it is given up, and comes back: what it holds, and what became of its ranges meanwhile.
    /// Faults are few here, too, and mostly strike those that took its place.
    Absences,
}

/// The shape of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Nodes at the start.
    pub nodes: usize,
    /// Addresses that nodes may have, the first `nodes` taken at the start.
    pub slots: usize,
    pub plain_keys: usize,
    pub counter_keys: usize,
    pub clients: usize,
    pub lanes: usize,
    pub think_us_max: u64,
    /// How long a client goes without asking a node for a newer assignment, at the most.
    pub watch_us_max: u64,
    pub operation_ms: u64,
    pub attempt_us: u64,
    pub delay_us_min: u64,
    pub delay_us_max: u64,
    pub slow_per_mille: u64,
    pub loss_per_mille: u64,
    pub double_per_mille: u64,
    pub corrupt_per_mille: u64,
    pub budget_bytes: u64,
    pub written_keys_max: u64,
    /// Nodes differ in size: one may have half the room of another, or twice.
    pub is_uneven: bool,
    pub chunk_entries: usize,
    pub stream_step_us: u64,
    pub hold_ms: u64,
    pub peek_timeout_us: u64,
    /// How long a replica waits for its owner's answer.
    pub fill_timeout_us: u64,
    pub drain_deadline_us: u64,
    pub fault_pause_us: u64,
    pub flush_per_mille: u64,
    /// Of the operations, so many in a thousand remove a key, beside those that do anyway.
    pub removals_per_mille: u64,
    /// Of the writes, so many in a thousand give a time to live.
    pub ttl_per_mille: u64,
    /// The longest that a write or touch gives.
    pub ttl_ms_max: u64,
    pub theme: Theme,
    /// Nothing happens that may cost entries: what is stored has to stay.
    pub is_gentle: bool,
    /// Nodes may be kept from the Assigner for longer than the failure timeout.
    pub may_cut_off: bool,
    /// By how much a clock may run too fast or too slow.
    pub drift_per_mille: u64,
    /// Of the messages of pulls, so many break their stream.
    pub stream_loss_per_mille: u64,
    pub handoff: HandoffConfig,
    pub assigner: AssignerConfig,
    /// The leases that every second Assigner gives.
    pub other_lease_ms: Option<u64>,
    pub slicelet: SliceletConfig,
    /// How slices are replicated, if they are.
    pub replication: Option<Replication>,
}

/// How slices are replicated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replication {
    /// What it is drawn from.
    pub seed: u64,
    /// How often other slices are, or others read them, in microseconds.
    pub change_us: u64,
    /// Of the keys, so many in a thousand are replicated by themselves.
    pub keys_per_mille: u64,
    /// How many wide slices are.
    pub wide: u64,
}

impl Plan {
    pub(crate) fn draw(random: &mut Random, config: &SimConfig) -> Self {
        let nodes = random.index(4) + 2;
        let calm = random.chance(200);
        let delay_us_max = [400, 1_500, 6_000, 40_000][random.index(4)];
        let small = random.chance(250);
        // Real messages hold thousands of ranges; a simulated cluster has a few dozen.
        let (take_ranges_max, taken_ranges_max) = match random.below(8) {
            0 => (1, 1),
            1 => (1, 3),
            2 => (3, 4),
            _ => (TAKE_RANGES_MAX, TAKEN_RANGES_MAX),
        };
        let is_leased = config.mode == Mode::Leased;
        let lease_ms = is_leased.then(|| [1_500, 3_000, 6_000][random.index(3)]);
        let other_lease_ms = if is_leased && random.chance(300) {
            Some([1_500, 3_000, 6_000][random.index(3)])
        } else {
            lease_ms
        };
        let mut plan = Self {
            theme: Theme::Any,
            is_gentle: random.chance(250),
            may_cut_off: random.chance(if is_leased { 600 } else { CUT_OFF_PER_MILLE }),
            drift_per_mille: if random.chance(300) {
                random.between(1, 20)
            } else {
                0
            },
            stream_loss_per_mille: if calm { 0 } else { random.below(25) },
            nodes,
            slots: nodes + 2,
            plain_keys: random.index(20) + 6,
            counter_keys: random.index(4) + 1,
            clients: random.index(3) + 2,
            lanes: random.index(3) + 1,
            watch_us_max: [WATCH_US_MAX, WATCH_US_MAX, 5 * WATCH_US_MAX][random.index(3)],
            think_us_max: [2_000, 10_000, 40_000][random.index(3)],
            operation_ms: 1_000,
            attempt_us: 250_000,
            delay_us_min: 60,
            delay_us_max,
            slow_per_mille: if calm { 0 } else { random.below(30) },
            loss_per_mille: if calm { 0 } else { random.below(25) },
            double_per_mille: if calm { 0 } else { random.below(100) },
            corrupt_per_mille: if calm { 0 } else { random.below(20) },
            budget_bytes: if small {
                random.between(400, 1_600)
            } else {
                u64::MAX
            },
            is_uneven: random.chance(400),
            written_keys_max: if random.chance(100) {
                random.between(1, 6)
            } else {
                1_000_000
            },
            chunk_entries: random.index(4) + 1,
            stream_step_us: [300, 3_000, 30_000, 150_000][random.index(4)],
            hold_ms: [20, 200, 1_000][random.index(3)],
            peek_timeout_us: 20_000,
            fill_timeout_us: 200_000,
            drain_deadline_us: if random.chance(150) {
                random.between(5_000, 500_000)
            } else {
                25_000_000
            },
            fault_pause_us: [30_000, 100_000, 400_000, 1_500_000][random.index(4)],
            flush_per_mille: if random.chance(300) { 10 } else { 0 },
            removals_per_mille: 0,
            ttl_per_mille: 300,
            ttl_ms_max: 3_000,
            handoff: HandoffConfig {
                pull_deadline_ms: random.between(300, 5_000),
                copy_age_ms_max: 20_000,
                take_ranges_max,
                taken_ranges_max,
                ..HandoffConfig::default()
            },
            assigner: AssignerConfig {
                expect_nodes: Some(nodes),
                founds_at_once: true,
                // Of an Assigner that follows a first one. Who is away is back within seconds here, and a run is short.
                founding_settle_ms: 4_000,
                rebalance_delay_ms: [50, 700, 3_000, 10_000][random.index(4)],
                lease_ms,
                revival_ms: REVIVAL_MS,
                ..AssignerConfig::default()
            },
            other_lease_ms,
            slicelet: SliceletConfig::default(),
            replication: random.chance(REPLICATED_PER_MILLE).then(|| Replication {
                seed: random.bits(),
                change_us: [300_000, 1_500_000, 6_000_000][random.index(3)],
                keys_per_mille: [200, 500, 900][random.index(3)],
                wide: random.below(4),
            }),
        };
        if plan.is_gentle {
            plan.be_gentle(random);
        } else if is_leased && plan.may_cut_off && random.chance(LEASES_PER_MILLE) {
            plan.be_about_leases(random);
        } else if plan.may_cut_off && random.chance(ABSENCES_PER_MILLE) {
            plan.be_about_absences(random);
        }
        plan.clients = plan.clients.min(config.clients_max.unwrap_or(usize::MAX));
        plan
    }

    /// Only what may cost no entry: moves at any time, streams that break, messages that come twice.
    fn be_gentle(&mut self, random: &mut Random) {
        self.may_cut_off = false;
        self.slow_per_mille = 0;
        self.loss_per_mille = 0;
        self.flush_per_mille = 0;
        self.delay_us_max = [400, 1_500][random.index(2)];
        self.budget_bytes = u64::MAX;
        self.written_keys_max = 1_000_000;
        self.hold_ms = 1_000;
        // A link may stand still for a while; a giver that is slow to answer must not count as one that has nothing.
        self.peek_timeout_us = 2_000_000;
        self.drain_deadline_us = 60_000_000;
        self.handoff.pull_deadline_ms = 60_000;
        self.handoff.copy_age_ms_max = 600_000;
        self.stream_loss_per_mille = random.below(60);
        self.corrupt_per_mille = random.below(100);
    }

    /// Leases are mostly longer than the failure timeout, and often differ from one Assigner to the next.
    fn be_about_leases(&mut self, random: &mut Random) {
        let mut lease_ms = || Some([1_500, 3_000, 6_000, 6_000, 6_000][random.index(5)]);
        let (lease_ms, other_lease_ms) = (lease_ms(), lease_ms());
        self.theme = Theme::Leases;
        self.assigner.lease_ms = lease_ms;
        self.other_lease_ms = if random.chance(500) {
            lease_ms
        } else {
            other_lease_ms
        };
        self.fault_pause_us = [1_500_000, 3_000_000][random.index(2)];
    }

    /// What happens on either side of an absence has to last for about as long: clients that hear of nothing, pulls that go on,
    /// operations that wait, entries that expire. The network is good, so that what is lost is lost on purpose.
    fn be_about_absences(&mut self, random: &mut Random) {
        self.theme = Theme::Absences;
        self.flush_per_mille = [0, 0, 30][random.index(3)];
        match random.below(3) {
            0 => (self.ttl_per_mille, self.ttl_ms_max) = (700, 9_000),
            1 => self.removals_per_mille = 200,
            _ => {}
        }
        if random.chance(800) {
            self.watch_us_max = [5, 50, 50][random.index(3)] * WATCH_US_MAX;
            (self.clients, self.lanes) = (4, 3);
            self.peek_timeout_us = [20_000, 500_000, 900_000][random.index(3)];
            self.handoff.pull_deadline_ms = 15_000;
        }
        // With two nodes, who is back is the only one that can take anything over.
        self.nodes = self.nodes.max(3);
        self.slots = self.nodes + 2;
        self.assigner.expect_nodes = Some(self.nodes);
        self.assigner.rebalance_delay_ms = self.assigner.rebalance_delay_ms.min(700);
        self.budget_bytes = u64::MAX;
        self.written_keys_max = 1_000_000;
        self.delay_us_max = self.delay_us_max.min(6_000);
        self.loss_per_mille = self.loss_per_mille.min(5);
        self.slow_per_mille = self.slow_per_mille.min(5);
    }

    /// The network is itself again.
    pub(crate) fn end_of_faults(&mut self) {
        self.slow_per_mille = 0;
        self.loss_per_mille = 0;
        self.double_per_mille = 0;
        self.corrupt_per_mille = 0;
        self.stream_loss_per_mille = 0;
        self.watch_us_max = WATCH_US_MAX;
        // A client that only knows addresses where nobody is any more needs a while to find one.
        self.operation_ms = 5_000;
    }

    /// When clients begin, in microseconds: with leases, nothing is served before the first Assigner has waited for one.
    pub(crate) fn begin_us(&self) -> u64 {
        self.assigner.lease_wait_ms(None) * 1_000
    }

    pub(crate) fn keys(&self) -> usize {
        self.plain_keys + self.counter_keys
    }

    pub(crate) fn is_counter(&self, key: usize) -> bool {
        key >= self.plain_keys
    }

    /// A key's bytes.
    pub(crate) fn key_bytes(&self, key: usize) -> Vec<u8> {
        format!("key-{key}").into_bytes()
    }
}
