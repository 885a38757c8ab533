//! Whole arms against the cluster in memory.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::arm::{ArmRun, Load};
use crate::choreography::RestartPlan;
use crate::error::DrillError;
use crate::fake::{FakeCluster, FakeFleet, Fault};
use crate::html::{self, Judged};
use crate::judge;
use crate::ledger::Ledger;
use crate::options::{ArmName, DrillOptions, RestartMode};
use crate::pace::{self, Rate};
use crate::progress::Progress;
use crate::record::{Outcome, Record, Records};
use crate::reference::Reference;
use crate::replay::Replay;
use crate::report::{Report, Verdict};
use crate::request::Sequence;
use crate::run::judge_all;
use crate::served::ServedAgain;
use crate::slots::SlotGroups;
use crate::target::{ReadOutcome, Target, WriteOutcome};
use crate::workload::{Mix, WorkloadSpec};

fn options(mix: Mix) -> DrillOptions {
    DrillOptions {
        workload: WorkloadSpec {
            keys: 600,
            zipf_alpha: 0.8,
            mix,
            ..WorkloadSpec::default()
        },
        rate_per_second: 3_000,
        quiet: true,
        ..DrillOptions::default()
    }
}

fn load(options: &DrillOptions, sequence: Sequence) -> Load {
    Load {
        groups: Arc::new(SlotGroups::of(&sequence)),
        sequence: Arc::new(sequence),
        rate: Rate {
            per_second: options.rate_per_second,
        },
        in_flight_max: 64,
        warm_up: 4_000,
        load_ms: 0,
        positions_max: 1_000_000,
    }
}

fn generated(options: &DrillOptions) -> Load {
    load(options, Sequence::generated(&options.workload, options.seed, 0))
}

fn plan(mode: RestartMode) -> RestartPlan {
    RestartPlan {
        mode,
        absent: Duration::from_millis(20),
        pause: Duration::from_millis(20),
        tail: Duration::from_millis(300),
        patience: Duration::from_secs(20),
    }
}

async fn restarted(load: &Load, name: ArmName, mode: RestartMode) -> Result<ArmRun, DrillError> {
    let cluster = FakeCluster::new(name == ArmName::Cold);
    let mut fleet = FakeFleet::new(&cluster);
    let arm = load
        .start(name, cluster.clone(), None, Progress::new(true))
        .await?;
    arm.restart(&mut fleet, &cluster, plan(mode), Duration::from_millis(100))
        .await
}

async fn drill(options: &DrillOptions, mode: RestartMode) -> (Report, Vec<ArmRun>, Vec<Reference>) {
    let load = generated(options);
    let transfer = restarted(&load, ArmName::Transfer, mode).await.unwrap();
    let cold = restarted(&load, ArmName::Cold, mode).await.unwrap();
    let end = transfer.records.len().max(cold.records.len()) as u64;
    let mut runs = Vec::new();
    for name in [ArmName::Control, ArmName::Control2] {
        let arm = load
            .start(name, FakeCluster::new(false), Some(end), Progress::new(true))
            .await
            .unwrap();
        runs.push(arm.run_out().await);
    }
    runs.extend([transfer, cold]);
    let (report, references) = judge_all(options, &load, &runs);
    (report, runs, references)
}

const READS: Mix = Mix {
    reads: 1,
    writes: 0,
    deletes: 0,
};
const ALL_KINDS: Mix = Mix {
    reads: 5,
    writes: 3,
    deletes: 2,
};

/// Plan: all four arms of a read-only load, the fake keeping everything in the transfer arm and losing each node's entries
/// in the cold one. The report must show no dip beside a loss, three restarts, what was moved, and the verdict pass.
#[tokio::test]
async fn a_lossless_cluster_passes_and_a_cold_one_shows_what_was_at_stake() {
    let options = options(READS);
    let (report, runs, _) = drill(&options, RestartMode::Rolling).await;
    let [control, control2, transfer, cold] = &report.arms[..] else {
        panic!("{report:?}")
    };
    assert_eq!(report.verdict, Verdict::Pass, "{:?}", report.reasons);
    assert_eq!((control2.dip_points, control2.avoidable_misses), (0.0, 0));
    assert_eq!(
        (transfer.dip_points, transfer.avoidable_misses, transfer.errors),
        (0.0, 0, 0)
    );
    assert!(cold.dip_points > 3.0 && cold.avoidable_misses > 50, "{cold:?}");
    assert_eq!(control.window.gets, transfer.window.gets);
    let loads = cold.window.gets as f64 * (1.0 - cold.window.hit_rate);
    assert!((cold.window.backend_loads as f64 - loads).abs() < 0.5, "{cold:?}");
    let nodes: Vec<_> = transfer
        .restarts
        .iter()
        .map(|restart| restart.node.as_str())
        .collect();
    assert_eq!(nodes, ["n1", "n2", "n3"]);
    assert!(transfer.restarts.iter().all(|restart| restart.absent_ms >= 20));
    assert!(transfer.moved_entries > 0 && transfer.moved_bytes == 100 * transfer.moved_entries);
    assert_eq!(report.state_bytes, 3_000);
    // The fake's counters say 2, 3 and 4 times 2 entries for the lives started in turn; each node holds 10.
    assert_eq!(report.notes.len(), 3, "{:?}", report.notes);
    assert!(
        report.notes[0].starts_with("n1 handed over 40% of its entries"),
        "{:?}",
        report.notes
    );
    let page = html::page(&Judged {
        report: &report,
        runs: &runs,
        references: &[],
        rate: Rate {
            per_second: options.rate_per_second,
        },
    });
    assert!(page.contains("verdict transfer\">pass") && page.matches("<svg").count() == 3);
    assert!(!page.contains("NaN") && !page.contains("http"), "self-contained");
}

/// Plan: writes and deletes as well as reads, restarts by replacement; a faultless cluster must be accused of nothing.
#[tokio::test]
async fn writes_and_deletes_beside_reads_accuse_nobody() {
    let options = options(ALL_KINDS);
    let (report, ..) = drill(&options, RestartMode::Surge).await;
    for arm in &report.arms {
        assert_eq!(
            (arm.stale_reads, arm.errors, arm.outcome_unknown),
            (0, 0, 0),
            "{arm:?}"
        );
    }
    let transfer = report.arm("transfer").unwrap();
    assert!(transfer.restarts.iter().all(|restart| restart.absent_ms == 0));
}

/// Plan: the lossless fake, once as if its drains had been cut short (it says that each restart moved a few hundred bytes of a node
/// that owns everything), once as if memory were tight. The oracle must lose at the signals what the fake did not; an ideal cache
/// with room for all must do as control did, and one that lacks most of its room for a while must not.
#[tokio::test]
async fn computed_lines_stand_beside_the_arms_where_a_loss_is_inherent() {
    let cut_short = DrillOptions {
        drain_deadline_ms: Some(1),
        ..options(READS)
    };
    let (report, ..) = drill(&cut_short, RestartMode::Rolling).await;
    let names: Vec<_> = report.references.iter().map(|line| line.name).collect();
    assert_eq!(names, ["oracle", "oracle-past", "oracle-20", "oracle-past-20"]);
    for line in &report.references {
        assert!(line.dip_points > 3.0, "{line:?}");
        assert!(
            (line.ahead_points + line.dip_points).abs() < 1e-6,
            "transfer lost nothing: {line:?}"
        );
    }
    assert!(
        report.references[2].hit_rate > report.references[0].hit_rate,
        "{:?}",
        report.references
    );

    let tight = |memory_per_node_bytes| DrillOptions {
        memory_per_node_bytes: Some(memory_per_node_bytes),
        nodes: 1,
        ..options(READS)
    };
    let (report, runs, references) = drill(&tight(1 << 30), RestartMode::Rolling).await;
    let [ideal, alive, owning] = &report.references[..] else {
        panic!("{:?}", report.references)
    };
    assert!(ideal.dip_points.abs() < 1.0, "{ideal:?}");
    assert!(
        alive.dip_points > 3.0 && owning.dip_points >= alive.dip_points,
        "{alive:?} {owning:?}"
    );

    let page = html::page(&Judged {
        report: &report,
        runs: &runs,
        references: &references,
        // The arms last less than a second; of a part of one a chart shows nothing.
        rate: Rate { per_second: 300 },
    });
    assert!(page.contains("ideal-owning (computed)") && page.contains("What could have been reached"));
    assert_eq!(page.matches("<polyline class=\"arm reference\"").count(), 1);

    let (report, ..) = drill(&options(READS), RestartMode::Rolling).await;
    assert!(report.references.is_empty(), "nothing is inherent here");
}

/// Plan: a standing cluster that loses nothing, still warming up: it hits more in the window than before. Its dip must be 0, not
/// negative. Then every tenth get of the window misses: the dip must be those.
#[test]
fn a_standing_cluster_that_still_warms_up_cannot_hide_a_loss() {
    let options = DrillOptions {
        seeds: vec!["127.0.0.1:7401".to_owned()],
        ..options(READS)
    };
    let load = Load {
        warm_up: 300,
        ..generated(&options)
    };
    let key = |position| load.sequence.at(position).key;
    let mut held: HashSet<_> = (0..load.warm_up).map(key).collect();
    let outcome = |position| {
        let outcome = if held.insert(key(position)) {
            Outcome::Miss
        } else {
            Outcome::Hit
        };
        Some(Record {
            outcome,
            latency_us: 100,
        })
    };
    let records: Vec<_> = (load.warm_up..load.warm_up + 6_000).map(outcome).collect();
    let window = 2_000..6_000;
    let grown = judge::hit_rate(&records, &window) - judge::hit_rate(&records, &(0..2_000));
    assert!(grown > 0.03, "{grown}");
    let judged = |records| {
        let run = ArmRun {
            records,
            window: window.clone(),
            ..ArmRun::empty(ArmName::Transfer)
        };
        judge_all(&options, &load, &[run]).0.arms[0].dip_points
    };
    assert!(judged(records.clone()).abs() < 1e-9);
    let mut lossy = records;
    for record in lossy[window.clone()].iter_mut().step_by(10).flatten() {
        record.outcome = Outcome::Miss;
    }
    let dip = judged(lossy);
    assert!((9.0..=10.0).contains(&dip), "{dip}");
}

/// Plan: a trace of ids that ends while nodes are still being restarted is an error that names the arm, not a verdict.
#[tokio::test]
async fn a_trace_that_ends_too_early_is_an_error() {
    let options = options(READS);
    let ids: Vec<u8> = (0..4_500u32).flat_map(|id| (id % 100).to_le_bytes()).collect();
    let trace = crate::id_trace::read(&ids[..]).unwrap();
    let load = load(&options, Sequence::from_trace(trace, &options.workload, 1, 0));
    let run = restarted(&load, ArmName::Transfer, RestartMode::Rolling).await;
    assert!(
        matches!(
            run,
            Err(DrillError::TraceTooShort {
                arm: "transfer",
                requests: 4_500
            })
        ),
        "{run:?}"
    );
}

fn replay(mix: Mix, cluster: &FakeCluster) -> Arc<Replay<FakeCluster>> {
    let options = options(mix);
    let load = generated(&options);
    Arc::new(Replay {
        target: cluster.clone(),
        ledger: Ledger::new(load.sequence.keys()),
        sequence: load.sequence,
        groups: load.groups,
        records: Records::new(0),
        counts: Default::default(),
        served: ServedAgain::new(),
        load_ms: 0,
        warm_up: u64::MAX,
    })
}

/// Replays soundly for a while, then one position after the other with the fault; gives (stale, resurrected, errors).
async fn with_fault(fault: Fault, mix: Mix) -> (u64, u64, u64) {
    let cluster = FakeCluster::new(false);
    let replay = replay(mix, &cluster);
    pace::warm_up(&replay, 0..6_000).await;
    let before =
        replay.counts.stale_reads.load(Ordering::Relaxed) + replay.counts.errors.load(Ordering::Relaxed);
    assert_eq!(
        before,
        0,
        "a sound cluster was accused: {:?}",
        replay.counts.messages()
    );
    cluster.set_fault(fault);
    for position in 6_000..8_000 {
        replay.run(position, Instant::now()).await;
    }
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counts = &replay.counts;
    (
        count(&counts.stale_reads),
        count(&counts.resurrected),
        count(&counts.errors),
    )
}

#[tokio::test]
async fn an_older_value_is_counted_as_stale() {
    let (stale, resurrected, errors) = with_fault(
        Fault::ServesOlder,
        Mix {
            reads: 3,
            writes: 1,
            deletes: 0,
        },
    )
    .await;
    assert!(
        stale > 100 && resurrected == 0 && errors == 0,
        "{stale} {resurrected} {errors}"
    );
}

#[tokio::test]
async fn a_deleted_value_that_comes_back_is_counted_as_resurrected() {
    let (stale, resurrected, errors) = with_fault(
        Fault::Resurrects,
        Mix {
            reads: 3,
            writes: 0,
            deletes: 1,
        },
    )
    .await;
    assert!(
        resurrected > 100 && stale == resurrected && errors == 0,
        "{stale} {resurrected} {errors}"
    );
}

#[tokio::test]
async fn failed_and_damaged_reads_are_errors() {
    for fault in [Fault::ReadErrors, Fault::Damages] {
        let (stale, _, errors) = with_fault(fault, READS).await;
        assert_eq!((stale, errors), (0, 2_000));
    }
}

#[tokio::test]
async fn a_lost_answer_is_no_fault_but_a_refused_write_that_shows_is() {
    let (stale, _, errors) = with_fault(Fault::LosesAnswers, ALL_KINDS).await;
    assert_eq!((stale, errors), (0, 0));
    let (_, _, errors) = with_fault(Fault::RefusesYetApplies, ALL_KINDS).await;
    assert!(errors > 100, "{errors}");
}

/// Answers every request 20 ms after it came.
#[derive(Debug)]
struct SlowTarget;

impl Target for SlowTarget {
    async fn get(&self, _key: Bytes) -> ReadOutcome {
        tokio::time::sleep(Duration::from_millis(20)).await;
        ReadOutcome::Miss
    }

    async fn set(&self, _key: Bytes, _value: Bytes, _ttl_ms: u64) -> WriteOutcome {
        WriteOutcome::Applied
    }

    async fn delete(&self, _key: Bytes) -> WriteOutcome {
        WriteOutcome::Applied
    }
}

/// Plan: 40 requests, one a millisecond, one at a time, against a target that takes 20 ms. The last is due after 39 ms and can
/// be sent only after 780: its latency counts from when it was due. A loop that timed from the sending would tell 20 ms.
#[tokio::test]
async fn a_request_that_waits_for_a_place_is_timed_from_when_it_was_due() {
    let options = DrillOptions {
        rate_per_second: 1_000,
        ..options(READS)
    };
    let load = Load {
        warm_up: 0,
        in_flight_max: 1,
        ..generated(&options)
    };
    let arm = load
        .start(ArmName::Control, SlowTarget, Some(40), Progress::new(true))
        .await
        .unwrap();
    let run = arm.run_out().await;
    assert_eq!(run.records.len(), 40);
    let last = run.records[39].unwrap();
    assert!(last.latency_us >= 760_000, "{last:?}");
}
