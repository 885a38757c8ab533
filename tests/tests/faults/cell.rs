//! One cell of the matrix: a cluster under load, a hand-off, a fault in one of its phases, and what must hold afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use softstore_proto::v1;
use softstore_proto::v1::cache_client::CacheClient;
use softstore_tests::ledger::{Audit, Counts, Ledger};
use softstore_tests::log_pipe;
use softstore_tests::processes::until;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::cluster::{ASSIGNER, Cluster, GIVER, Ownership, TAKER, THIRD};
use super::fault::{Fault, GiverEnd};
use super::phase::Phase;

/// Keys, of which the giver owns half. Its share fits the window of a pull's stream (2 MiB), and is several chunks.
pub(crate) const KEYS: usize = 560;
const VALUE_BYTES: usize = 6 << 10;

/// Only these are written again; of the others every loss is found at the end.
pub(crate) const WRITTEN_KEYS: usize = 280;

const WORKERS: usize = 2;
const PAUSE: Duration = Duration::from_millis(4);

/// Between two questions to a node itself, and how many may be unanswered.
const PROBE_INTERVAL: Duration = Duration::from_millis(10);
const PROBES_MAX: usize = 512;

/// Keys of which every node is asked whether it owns them, at the end.
const SAMPLED_KEYS: usize = 64;

/// A fault in a phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cell {
    pub(crate) fault: Fault,
    pub(crate) phase: Phase,
}

impl Cell {
    /// All cells.
    pub(crate) fn all() -> Vec<Self> {
        let of_fault = |fault| Phase::ALL.map(move |phase| Self { fault, phase });
        Fault::ALL.into_iter().flat_map(of_fault).collect()
    }

    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        format!("{} / {}", self.fault.name(), self.phase.name())
    }

    /// The cell of this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|cell| cell.name() == name)
    }
}

/// What a cell saw. It is green if it came to this.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// The machine was too slow to strike in the phase, or stood still: nothing is proven.
    pub(crate) missed: bool,
    pub(crate) reads: u64,
    pub(crate) writes: u64,
    /// Writes that said that they were not applied, or that their outcome is unknown.
    pub(crate) failed_writes: u64,
    /// Acknowledged writes that are gone.
    pub(crate) lost: usize,
    /// Old values from nodes asked past the client.
    pub(crate) stale_at_nodes: u64,
    /// From the strike until the cluster was at rest.
    pub(crate) rest_ms: u64,
}

impl Seen {
    /// Nothing that proves anything.
    pub(crate) fn nothing() -> Self {
        Self {
            missed: true,
            ..Self::default()
        }
    }
}

/// Runs a cell.
///
/// # Panics
/// If anything does not hold that must.
pub(crate) async fn run(cell: Cell) -> Seen {
    let Cell { fault, phase } = cell;
    let mut cluster = Cluster::start(fault.log_to()).await;
    let ledger = Ledger::new(cluster.client().await, KEYS, VALUE_BYTES);
    ledger.fill().await;
    let bystanders = keys_of(&cluster, THIRD).await;
    let load = ledger.run_writing(WORKERS, PAUSE, WRITTEN_KEYS);
    let probes = probe(&cluster, &ledger);

    let held = phase.reach(&mut cluster).await;
    let missed = phase.is_over(&mut cluster);
    if log_pipe::is_stuck() {
        cluster.stick_logs();
    }
    fault.strike(&mut cluster).await;
    let struck = Instant::now();
    held.let_go(&cluster, fault);
    fault.end(&mut cluster, &ledger).await;

    let ended = cluster.exit_code(GIVER).await;
    cluster.settled_with(fault.survivors()).await;
    at_rest(&cluster, fault.survivors()).await;
    let rest_ms = u64::try_from(struck.elapsed().as_millis()).unwrap_or(u64::MAX);
    load.stop().await;
    drop(probes);
    if missed {
        return Seen::nothing();
    }

    let expected = match fault.giver_ends() {
        GiverEnd::Killed => None,
        GiverEnd::Code(code) => Some(code),
    };
    // Who has said goodbye already ends by itself; a second signal may come too late to be the reason.
    let by_itself = phase == Phase::Exiting && ended == Some(0);
    assert!(ended == expected || by_itself, "the giver ended with {ended:?}");
    let audit = ledger.audit(&cluster.strict_client().await).await;
    let touched: Vec<&usize> = audit
        .lost
        .iter()
        .filter(|index| bystanders.contains(index))
        .collect();
    assert!(touched.is_empty(), "the third node's keys are lost: {touched:?}");
    one_owner_each(&cluster, fault.survivors()).await;
    memory_is_back(&cluster, fault.survivors(), &audit).await;
    nobody_panicked(&cluster);
    let seen = judged(cell, &ledger, &audit, rest_ms);
    // All of it is of use again.
    ledger.fill_at_last().await;
    seen
}

/// Asks every node for keys, past the client, until the returned tasks are dropped. Each question is a task of its own,
/// so that many lie before a node that stands still when it wakes up.
fn probe(cluster: &Cluster, ledger: &Arc<Ledger>) -> JoinSet<()> {
    let mut probing = JoinSet::new();
    for node in [GIVER, TAKER, THIRD] {
        let (direct, ledger) = (cluster.direct(node), ledger.clone());
        probing.spawn(async move {
            let mut asked = JoinSet::new();
            let mut index = 0;
            loop {
                index = (index + 101) % KEYS;
                while asked.try_join_next().is_some() {}
                if asked.len() < PROBES_MAX {
                    let (direct, ledger) = (direct.clone(), ledger.clone());
                    asked.spawn(async move { ledger.read_from(direct, index).await });
                }
                tokio::time::sleep(PROBE_INTERVAL).await;
            }
        });
    }
    probing
}

/// The keys that a node serves.
async fn keys_of(cluster: &Cluster, node: &str) -> Vec<usize> {
    let (direct, mut served) = (cluster.direct(node), Vec::new());
    for index in 0..KEYS {
        if serves(&direct, index).await {
            served.push(index);
        }
    }
    assert!(
        !served.is_empty() && served.len() < KEYS,
        "about half of the keys"
    );
    served
}

/// Whether a node itself, past the client, answers for a key.
async fn serves(node: &CacheClient<Channel>, index: usize) -> bool {
    let get = v1::Op {
        key: Ledger::key(index).into(),
        ..v1::Op::default()
    };
    let reply = node.clone().get(get).await.expect("a node answers");
    matches!(reply.into_inner().status(), v1::Status::Ok | v1::Status::NotFound)
}

/// Waits until no hand-off is on at any node, and all follow the same assignment.
async fn at_rest(cluster: &Cluster, nodes: &[&str]) {
    until("every node is at rest", async || {
        let generation = cluster.metrics(ASSIGNER).await?.get("generation");
        for node in nodes {
            let metrics = cluster.metrics(node).await?;
            let busy = [
                "ranges_pending",
                "ranges_pulling",
                "ranges_giving",
                "pulls_open",
                "requests_held_back",
                "written_keys",
                "draining",
                "suspended",
            ];
            if busy.iter().any(|gauge| metrics.get(gauge) > 0.5) {
                return None;
            }
            let same = (metrics.get("generation") - generation).abs() < 0.5;
            same.then_some(())?;
        }
        Some(())
    })
    .await;
}

/// Each key is served by exactly one of the nodes.
async fn one_owner_each(cluster: &Cluster, nodes: &[&str]) {
    let direct: Vec<_> = nodes.iter().map(|node| (node, cluster.direct(node))).collect();
    for index in (0..KEYS).step_by(KEYS / SAMPLED_KEYS) {
        let mut owners = Vec::new();
        for (node, direct) in &direct {
            if serves(direct, index).await {
                owners.push(*node);
            }
        }
        assert_eq!(owners.len(), 1, "key {index} is served by {owners:?}");
    }
}

/// No node holds more than what can be read: frozen copies and dropped ranges are reclaimed.
async fn memory_is_back(cluster: &Cluster, nodes: &[&str], audit: &Audit) {
    until("the nodes hold no more than what can be read", async || {
        let mut entries = 0.0;
        for node in nodes {
            entries += cluster.metrics(node).await?.get("entries");
        }
        (entries < audit.present as f64 + 0.5).then_some(())
    })
    .await;
}

fn nobody_panicked(cluster: &Cluster) {
    for host in [ASSIGNER, GIVER, TAKER, THIRD] {
        let log = cluster.log(host);
        let panic = log.lines().find(|line| line.contains("panicked at"));
        assert_eq!(panic, None, "{host}");
    }
}

/// Holds what was seen against what the fault explains.
fn judged(cell: Cell, ledger: &Ledger, audit: &Audit, rest_ms: u64) -> Seen {
    let Cell { fault, phase } = cell;
    let counts = &ledger.counts;
    let failed_writes = Counts::of(&counts.unavailable) + Counts::of(&counts.unknown);
    let stale_at_nodes = Counts::of(&counts.stale_at_a_node);
    assert_eq!(Counts::of(&counts.stale), 0, "stale reads");
    assert_eq!(Counts::of(&counts.errors), 0, "errors of no allowed kind");
    let ownership = Ownership::of_this_run();
    if !fault.explains_stale_nodes(ownership) {
        assert_eq!(stale_at_nodes, 0, "old values from a node that lost its range");
    }
    if !fault.explains_failures(ownership) {
        assert_eq!(
            failed_writes, 0,
            "writes failed that nothing kept from being applied"
        );
    }
    if !fault.explains_loss(phase) {
        assert_eq!(audit.lost, [0; 0], "acknowledged writes are lost");
    }
    let reads = Counts::of(&counts.hits) + Counts::of(&counts.misses);
    let writes = Counts::of(&counts.writes);
    assert!(reads > 0 && writes > 0, "the load ran: {counts:?}");
    Seen {
        missed: false,
        reads,
        writes,
        failed_writes,
        lost: audit.lost.len(),
        stale_at_nodes,
        rest_ms,
    }
}

/// The counts of all repetitions of a cell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) green: usize,
    pub(crate) red: usize,
    /// Tries in which the phase was missed, and that were made again.
    pub(crate) missed: usize,
    pub(crate) lost_max: usize,
    pub(crate) failed_writes_max: u64,
    pub(crate) stale_at_nodes_max: u64,
    pub(crate) rest_ms_max: u64,
}

impl Tally {
    /// Counts one try; none: it failed.
    pub(crate) fn add(&mut self, seen: Option<&Seen>) {
        match seen {
            None => self.red += 1,
            Some(seen) if seen.missed => self.missed += 1,
            Some(seen) => {
                self.green += 1;
                self.lost_max = self.lost_max.max(seen.lost);
                self.failed_writes_max = self.failed_writes_max.max(seen.failed_writes);
                self.stale_at_nodes_max = self.stale_at_nodes_max.max(seen.stale_at_nodes);
                self.rest_ms_max = self.rest_ms_max.max(seen.rest_ms);
            }
        }
    }
}

/// Tallies by the cell's name.
pub(crate) type Tallies = BTreeMap<String, Tally>;
