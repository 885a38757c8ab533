//! Whole runs of the scenario against a cluster in memory, sound or with one thing wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::sleep_until;

use crate::fake::{FakeCluster, Fault};
use crate::hot_key::HotKeyOptions;
use crate::hot_key::arm;
use crate::hot_key::assignments::{Assignments, KeyRange};
use crate::hot_key::counters::{Counters, NodeCounts};
use crate::hot_key::html;
use crate::hot_key::judge::{self, Arms};
use crate::hot_key::report::HotKeyReport;
use crate::hot_key::run::Case;
use crate::hot_key::table;
use crate::options::{ArmName, DrillOptions, Scenario};
use crate::progress::Progress;
use crate::report::Verdict;
use crate::target::{ReadOutcome, Target, WriteOutcome};
use crate::workload::WorkloadSpec;

const HOT_MS: u64 = 2_500;
/// So many of so many reads in a row make the key hot.
const HOT_READS: u64 = 5;
const READS_IN_A_ROW: u64 = 20;

/// What the cluster does when a key is hot, and when.
#[derive(Debug, Clone, Copy)]
struct Manners {
    isolates_after_ms: u64,
    /// From then on the assignment names a replica.
    spreads_after_ms: u64,
    /// It answers half of the key's reads.
    replica_reads: bool,
    fault: Fault,
    /// All other keys are forgotten.
    forgets_others: bool,
    /// The key had a slice of its own before it was hot.
    is_own_before: bool,
}

const SOUND: Manners = Manners {
    isolates_after_ms: 200,
    spreads_after_ms: 500,
    replica_reads: true,
    fault: Fault::None,
    forgets_others: false,
    is_own_before: false,
};

/// Two nodes, n1 the owner of everything, over one store. Cheap to clone; all clones are the same cluster.
#[derive(Debug, Clone)]
struct HotCluster {
    store: FakeCluster,
    manners: Manners,
    key: Bytes,
    /// Reads by n1 and n2.
    reads: Arc<[AtomicU64; 2]>,
    /// Of the key, since it is hot.
    turns: Arc<AtomicU64>,
    /// Reads in the present run, of the key and of all.
    run: Arc<Mutex<(u64, u64)>>,
    hot_since: Arc<Mutex<Option<Instant>>>,
    range: watch::Sender<KeyRange>,
}

fn range(is_own: bool, replicas: usize) -> KeyRange {
    KeyRange {
        is_own,
        owner: "n1".to_owned(),
        replicas,
        others_replicated: 0,
    }
}

impl HotCluster {
    fn new(manners: Manners, key: Bytes) -> Self {
        Self {
            store: FakeCluster::new(false),
            manners,
            key,
            reads: Arc::default(),
            turns: Arc::default(),
            run: Arc::default(),
            hot_since: Arc::default(),
            range: watch::Sender::new(range(manners.is_own_before, 0)),
        }
    }

    /// Looks whether a key is becoming hot, as a node does.
    fn measure(&self, is_key: bool) {
        let mut run = self.run.lock();
        run.0 += u64::from(is_key);
        run.1 += 1;
        if run.1 < READS_IN_A_ROW {
            return;
        }
        let of_key = std::mem::take(&mut *run).0;
        let mut hot_since = self.hot_since.lock();
        if of_key >= HOT_READS && hot_since.is_none() {
            *hot_since = Some(Instant::now());
            self.store.set_fault(self.manners.fault);
            tokio::spawn(react(self.range.clone(), self.manners));
        }
    }

    fn is_hot_for(&self, ms: u64) -> bool {
        let since = *self.hot_since.lock();
        since.is_some_and(|since| since.elapsed() >= Duration::from_millis(ms))
    }
}

async fn react(told: watch::Sender<KeyRange>, manners: Manners) {
    let begun = tokio::time::Instant::now();
    let at = |ms| sleep_until(begun + Duration::from_millis(ms));
    at(manners.isolates_after_ms).await;
    told.send_replace(range(true, 0));
    at(manners.spreads_after_ms).await;
    told.send_replace(range(true, 1));
    at(HOT_MS + 300).await;
    told.send_replace(range(true, 0));
}

impl Target for HotCluster {
    async fn get(&self, key: Bytes) -> ReadOutcome {
        let is_key = key == self.key;
        self.measure(is_key);
        let is_spread =
            is_key && self.manners.replica_reads && self.is_hot_for(self.manners.spreads_after_ms);
        let replica = is_spread && self.turns.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        self.reads[usize::from(replica)].fetch_add(1, Ordering::Relaxed);
        if self.manners.forgets_others && !is_key && self.is_hot_for(0) {
            return ReadOutcome::Miss;
        }
        self.store.get(key).await
    }

    async fn set(&self, key: Bytes, value: Bytes, ttl_ms: u64) -> WriteOutcome {
        self.store.set(key, value, ttl_ms).await
    }

    async fn delete(&self, key: Bytes) -> WriteOutcome {
        self.store.delete(key).await
    }
}

impl Counters for HotCluster {
    async fn read(&self, node: usize) -> Option<NodeCounts> {
        let operations = self.reads[node].load(Ordering::Relaxed);
        Some(NodeCounts {
            operations,
            reads_of_copies: if node == 1 { operations } else { 0 },
        })
    }
}

/// A client of it.
struct FakeWatch(watch::Receiver<KeyRange>);

impl Assignments for FakeWatch {
    async fn next(&mut self) -> KeyRange {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.0.borrow_and_update().clone()
    }
}

fn fields(value: &serde_json::Value) -> String {
    let mut fields: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    fields.join(" ")
}

/// At each level the fields must be the documented ones, no more and no fewer (`settings` is open).
fn has_the_documented_fields(report: &HotKeyReport) {
    let json = serde_json::to_value(report).unwrap();
    assert_eq!(
        fields(&json),
        "dip_points errors hot_reads hot_writes imbalance moments nodes outcome_unknown phases scenario seconds settings \
         stale_reads verdict writes_unavailable"
    );
    for (part, documented) in [
        (
            "moments",
            "dereplicated_ms isolated_ms merged_ms replicated_ms spread_ms",
        ),
        (
            "hot_reads",
            "hit_rate largest_part_after_spread p50_us p999_us p99_us readers_max reads",
        ),
        ("hot_writes", "acknowledged max_us p50_us p99_us writes"),
        ("imbalance", "after_spread before cooling worst_second"),
    ] {
        assert_eq!(fields(&json[part]), documented);
    }
    assert_eq!(fields(&json["phases"][0]), "control from_ms hot name to_ms");
    let second = "hit_rate hot_parts imbalance operations p99_us readers";
    assert_eq!(fields(&json["seconds"][0]), second);
    assert_eq!(
        (&json["scenario"], &json["verdict"]),
        (&"hot-key".into(), &"pass".into())
    );
}

fn options() -> DrillOptions {
    DrillOptions {
        scenario: Scenario::HotKey,
        hot_key: HotKeyOptions {
            hot_ms: HOT_MS,
            cool_ms: 700,
            isolated_ms_max: 1_000,
            spread_ms_max: 1_500,
            ..HotKeyOptions::default()
        },
        workload: WorkloadSpec {
            keys: 600,
            zipf_alpha: 0.8,
            ..WorkloadSpec::default()
        },
        rate_per_second: 2_000,
        lead_in_ms: 300,
        quiet: true,
        ..DrillOptions::default()
    }
}

/// Both arms at once; the report, and its page.
async fn drill(manners: Manners) -> (HotKeyReport, String) {
    let options = options();
    let case = Case::new(&options).unwrap();
    let run = async |name, load: &crate::arm::Load| {
        let cluster = HotCluster::new(manners, load.sequence.key_bytes(case.key));
        let mut watch = cluster.range.subscribe();
        watch.mark_changed();
        let nodes = ["n1", "n2"].map(str::to_owned).to_vec();
        let plan = case.plan(&options, name, nodes);
        let eyes = (FakeWatch(watch), cluster.clone());
        arm::run(load, name, &plan, cluster, eyes, Progress::new(true))
            .await
            .unwrap()
    };
    let (hot, control) = tokio::join!(run(ArmName::Hot, &case.hot), run(ArmName::Control, &case.control));
    let arms = Arms {
        hot: &hot,
        control: &control,
    };
    let report = judge::report(&options, &case.hot, 1 << 28, &case.hot_positions, arms);
    let page = html::page(&report, arms, case.hot.rate);
    (report, page)
}

/// Plan: a cluster that isolates and spreads the key in time and forgets nothing. Every figure must say so: the moments, the parts,
/// the same hits in both arms where both ask for the same, all writes acknowledged; and the verdict is pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_spreads_the_key_passes() {
    let (report, page) = drill(SOUND).await;
    assert_eq!(report.verdict, Verdict::Pass, "{:?} {report:?}", report.reasons);
    let moments = report.moments;
    assert!(
        (200..1_000).contains(&moments.isolated_ms.unwrap()),
        "{moments:?}"
    );
    assert!((500..1_500).contains(&moments.spread_ms.unwrap()), "{moments:?}");
    assert!(
        moments.dereplicated_ms.unwrap() > 0 && moments.merged_ms.is_none(),
        "{moments:?}"
    );
    assert!(report.dip_points.abs() < 1e-9, "{}", report.dip_points);
    let reads = &report.hot_reads;
    assert!(
        (2_300..2_700).contains(&reads.reads) && reads.hit_rate > 0.99,
        "{reads:?}"
    );
    assert_eq!(reads.readers_max, 2);
    let largest = reads.largest_part_after_spread.unwrap();
    assert!((0.45..0.6).contains(&largest), "{largest}");
    assert_eq!(
        (report.hot_writes.writes, report.hot_writes.acknowledged),
        (250, 250)
    );
    assert_eq!((report.stale_reads, report.errors), (0, 0));
    // All is n1's before, and a quarter of all n2's once half of the key's reads are.
    let imbalance = report.imbalance;
    assert!(
        imbalance.worst_second.unwrap() > imbalance.after_spread.unwrap() + 0.1,
        "{imbalance:?}"
    );
    has_the_documented_fields(&report);
    let names: Vec<_> = report.phases.iter().map(|phase| phase.name).collect();
    assert_eq!(names, ["before", "first_5_s", "after_spread", "cooling"]);
    for phase in &report.phases {
        assert_eq!(phase.hot.gets, phase.control.gets, "{phase:?}");
    }
    assert_eq!(page.matches("<svg").count(), 5);
    assert_eq!(
        page.matches("class=\"moment mark\"").count(),
        5 * 4,
        "four moments in each chart"
    );
    assert!(!page.contains("NaN") && !page.contains("http"), "self-contained");
    let text = table::render(&report);
    assert!(
        text.contains("verdict: pass") && text.contains("isolated after"),
        "{text}"
    );
}

/// Plan: the assignment names a replica, but the owner answers all the same. That is isolated, and not spread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_answers_nothing_spreads_nothing() {
    let (report, _) = drill(Manners {
        replica_reads: false,
        ..SOUND
    })
    .await;
    assert_eq!(report.verdict, Verdict::Fail);
    assert!(report.moments.isolated_ms.is_some() && report.moments.replicated_ms.is_some());
    assert_eq!(report.moments.spread_ms, None);
    assert!(
        report
            .reasons
            .iter()
            .any(|reason| reason.contains("never spread")),
        "{:?}",
        report.reasons
    );
    assert_eq!(report.exit_code(), 1);
}

/// Plan: nothing is done about the key while it is hot; afterwards it is isolated and replicated, which is too late for everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_after_the_fall_does_not_count() {
    let (report, _) = drill(Manners {
        isolates_after_ms: HOT_MS + 100,
        spreads_after_ms: HOT_MS + 200,
        ..SOUND
    })
    .await;
    assert_eq!(report.verdict, Verdict::Fail);
    let moments = report.moments;
    assert_eq!(
        (moments.isolated_ms, moments.replicated_ms, moments.spread_ms),
        (None, None, None)
    );
    let broken = report.reasons.join("; ");
    assert!(
        broken.contains("never isolated") && broken.contains("never spread"),
        "{broken}"
    );
}

/// Plan: once the key is hot, reads bring the value before the present one. The key is written all the while, so that is stale.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_value_of_the_key_fails() {
    let (report, _) = drill(Manners {
        fault: Fault::ServesOlder,
        ..SOUND
    })
    .await;
    assert_eq!(report.verdict, Verdict::Fail);
    assert!(report.stale_reads > 1_000, "{}", report.stale_reads);
    assert!(
        report.reasons.iter().any(|reason| reason.contains("stale")),
        "{:?}",
        report.reasons
    );
}

/// Plan: once the key is hot, all other reads miss. The hot key's hits must not hide that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_others_lose_is_not_hidden_by_the_key() {
    let (report, _) = drill(Manners {
        forgets_others: true,
        ..SOUND
    })
    .await;
    assert_eq!(report.verdict, Verdict::Fail);
    assert!(
        report.dip_points > 80.0 && report.hot_reads.hit_rate > 0.99,
        "{report:?}"
    );
}

/// Plan: once the key is hot, the answer of each write is lost. Reads bring the newest values, but no read could be stale where nothing
/// newer was acknowledged: that is no pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_nobody_acknowledges_fail() {
    let (report, _) = drill(Manners {
        fault: Fault::LosesAnswers,
        ..SOUND
    })
    .await;
    assert_eq!(report.verdict, Verdict::Fail, "{report:?}");
    let reasons = report.reasons.join("; ");
    assert!(
        reasons.contains("of 250 writes of the hot key acknowledged"),
        "{reasons}"
    );
}

/// Plan: the key has a slice of its own all the time. It was isolated at once, not never.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_alone_already_is_isolated_at_once() {
    let (report, _) = drill(Manners {
        is_own_before: true,
        ..SOUND
    })
    .await;
    assert_eq!(report.moments.isolated_ms, Some(0), "{:?}", report.moments);
    assert_eq!(report.verdict, Verdict::Pass, "{:?}", report.reasons);
}
