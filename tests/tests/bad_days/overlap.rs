//! A supervisor that does not wait: a node drains, and its successor of the same name is there before it has left.

use std::time::Duration;

use softstore_tests::ledger::{Counts, Ledger};
use softstore_tests::process::Signal;
use softstore_tests::processes::{ProcessCluster, until};

const KEYS: usize = 4_000;

/// The others are only read: what is lost of them stays lost.
const WRITTEN_KEYS: usize = 1_000;

/// Plan: three nodes under reads and writes; n2 gets SIGTERM, and a process of its name is started at once. The drain goes on
/// undisturbed and hands over all: no entry is lost. Then the successor joins, and is the cluster's.
/// The same the other way round: the successor waits already when the signal comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_its_successor_overlaps_loses_nothing() {
    let mut cluster = ProcessCluster::start_with(3, &["--rebalance-delay-ms=500"], &[]).await;
    let ledger = Ledger::new(cluster.patient_client().await, KEYS, 200);
    ledger.fill().await;
    let load = ledger.run_writing(2, Duration::from_millis(1), WRITTEN_KEYS);
    for successor_first in [false, true] {
        let mut leaving = cluster.take("n2");
        if successor_first {
            cluster.add("n2", &[]).await;
            until("the successor waits", async || {
                (!cluster.status().await?.name_waits.is_empty()).then_some(())
            })
            .await;
            leaving.process.signal(Signal::TERM);
        } else {
            leaving.process.signal(Signal::TERM);
            cluster.add("n2", &[]).await;
        }
        assert_eq!(leaving.process.exit_code().await, 0);
        let said = leaving.process.log();
        assert!(said.contains("drained: all was handed over"), "{said}");
        until("the successor is the cluster's", async || {
            let node = cluster.status_of("n2").await?;
            (node.address == cluster.node("n2").grpc && node.slices > 0).then_some(())
        })
        .await;
        cluster.settled().await;
    }
    load.stop().await;
    let counts = &ledger.counts;
    assert_eq!((Counts::of(&counts.stale), Counts::of(&counts.errors)), (0, 0));
    let audit = ledger.audit(&cluster.patient_client().await).await;
    assert_eq!(audit.lost, Vec::<usize>::new(), "nothing was lost on the way");
    assert!(cluster.sum("rebirths_total").await < 1.0);
}
