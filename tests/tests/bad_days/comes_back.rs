//! Nodes that were only away: a paused machine, a snapshot, a cut that heals. What they held comes back, and nothing that was
//! changed meanwhile is seen as it was.

use std::time::{Duration, Instant};

use softstore_tests::ledger::{Counts, Ledger};
use softstore_tests::process::Signal;
use softstore_tests::processes::{ProcessCluster, life, until, until_within};

const KEYS: usize = 20_000;

/// Longer than the failure timeout of 3 s.
const PAUSE: Duration = Duration::from_secs(4);

/// Keys that are written anew while a node is away, and as many that are deleted.
const CHANGED_PER_PAUSE: usize = 200;

/// What a pause may cost, of all that was held.
const LOST_PER_CENT_MAX: usize = 5;

/// A loaded machine takes its time to pull a quarter of all keys.
const BACK_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_stopped_in_turn_keep_what_they_held() {
    stopped_in_turn(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_nodes_under_leases_stopped_in_turn_keep_what_they_held() {
    stopped_in_turn(&["--ownership=leased"]).await;
}

/// Plan: four nodes hold 20,000 keys. Each in turn is stopped (SIGSTOP) for 4 s, so that it is declared dead and the others take its
/// ranges over, cold; some keys are written anew meanwhile, and some deleted. It goes on (SIGCONT), comes back as a new life, and what
/// it held is pulled by who has its ranges now, until nothing is awaited and nothing moves. In the end nearly all keys are there, and
/// none as it was before it was changed.
async fn stopped_in_turn(assigner_flags: &[&str]) {
    let cluster = ProcessCluster::start_with(4, assigner_flags, &[]).await;
    let client = cluster.patient_client().await;
    let ledger = Ledger::new(client.clone(), KEYS, 100);
    ledger.fill().await;
    let (mut next, mut deleted) = (0, 0);
    for number in 1..=4 {
        let id = format!("n{number}");
        let before = life(&cluster.status_of(&id).await.expect("it is there")).clone();
        cluster.node(&id).process.stand_still().await;
        let stopped = Instant::now();
        until(&format!("{id} is declared dead"), async || {
            cluster.status_of(&id).await.is_none().then_some(())
        })
        .await;
        ledger.write_anew(&client, next..next + CHANGED_PER_PAUSE).await;
        next += CHANGED_PER_PAUSE;
        ledger.delete_anew(&client, next..next + CHANGED_PER_PAUSE).await;
        next += CHANGED_PER_PAUSE;
        deleted += CHANGED_PER_PAUSE;
        tokio::time::sleep(PAUSE.saturating_sub(stopped.elapsed())).await;
        cluster.node(&id).process.signal(Signal::CONT);
        until_within(
            BACK_WITHIN,
            &format!("{id} is back with what it held"),
            async || {
                let status = cluster.status().await?;
                let now = status.nodes.iter().find(|node| life(node).node == id)?;
                let is_over = status.settled && status.awaited.is_empty();
                (is_over && life(now).incarnation != before.incarnation).then_some(())
            },
        )
        .await;
    }
    let audit = ledger.audit(&client).await;
    let held = KEYS - deleted;
    eprintln!("{} of {held} keys are there", audit.present);
    assert_eq!(Counts::of(&ledger.counts.stale), 0);
    assert_eq!(audit.absent, deleted);
    assert!(
        audit.lost.len() * 100 <= held * LOST_PER_CENT_MAX,
        "{} of {held} keys are lost",
        audit.lost.len()
    );
}
