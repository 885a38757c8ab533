//! Memory limits: a node with default settings in a control group, under loads that take more memory than the store counts. It
//! is never killed, and most of what the limit leaves is the store's.
//!
//! `cargo test -p softstore-tests --test bad_days memory -- --include-ignored --nocapture` prints what was seen.

mod rig;

use std::time::Duration;

use softstore_tests::embedded::PATIENCE;
use softstore_tests::process::Signal;
use softstore_tests::processes::until;

use rig::{MIB, Rig, can_run, fill, short_lives, sizes_that_change, unread_replies};

/// How long replies are left unread.
const UNREAD: Duration = Duration::from_secs(2);

/// Sizes that change, lives that end, replies that nobody reads, one after the other.
async fn bears_every_load(limit_mib: u64) {
    let mut rig = Rig::start(limit_mib * MIB).await;
    rig.look("nothing").await;
    let client = rig.limited.client().await;
    sizes_that_change(&client, rig.limit_bytes).await;
    rig.look("sizes that change").await;
    rig.holds_its_share("sizes that change").await;
    rig.look("the same, settled").await;
    for window in [0, 1 << 30] {
        let held = unread_replies(&rig.limited, &client, window).await;
        tokio::time::sleep(UNREAD).await;
        rig.look("replies that are not read").await;
        drop(held);
    }
    short_lives(&client, rig.limit_bytes).await;
    rig.look("lives that end").await;
    sizes_that_change(&client, rig.limit_bytes).await;
    rig.holds_its_share("all of it again").await;
    rig.look("all of it again").await;
}

/// A node that holds more than the limit allows drains into the one that has it.
async fn bears_a_drain(limit_mib: u64) {
    let mut rig = Rig::start(limit_mib * MIB).await;
    let client = rig.limited.client().await;
    // Two, so that what the limited node owns is less than what comes to it.
    let mut others = [rig.unlimited("other").await, rig.unlimited("another").await];
    for other in &others {
        until("it owns a part", async || {
            (other.metrics().await.get("ranges_held") > 0.5).then_some(())
        })
        .await;
    }
    // More than the limited node can take.
    let count = 2 * rig.limit_bytes / 3_500;
    fill(&client, "moved", count, 3_000, None).await;
    sizes_that_change(&client, rig.limit_bytes).await;
    rig.look("before the drain").await;
    for other in &mut others {
        other.process.signal(Signal::TERM);
        other.process.exit_within(2 * PATIENCE).await;
    }
    let imported = rig.limited.metrics().await.get("entries_imported_total");
    assert!(imported > 1_000.0, "{imported} entries came");
    rig.holds_its_share("the drain").await;
    rig.look("the drain").await;
}

/// Plan: a limit of 256 MiB, with all loads in turn. The node lives; after each churn the store counts what it should.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_limit_is_kept() {
    if can_run("a_small_limit_is_kept") {
        bears_every_load(256).await;
    }
}

/// Plan: a drain into a node of 256 MiB, from one that holds as much, while it is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_into_a_small_limit_kills_nobody() {
    if can_run("a_drain_into_a_small_limit_kills_nobody") {
        bears_a_drain(256).await;
    }
}

/// Plan: the same at 512 MiB, 1 and 4 GiB, and drains.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes, and 5 GiB of memory"]
async fn large_limits_are_kept() {
    if !can_run("large_limits_are_kept") {
        return;
    }
    for limit_mib in [512, 1_024, 4_096] {
        bears_every_load(limit_mib).await;
    }
    for limit_mib in [512, 1_024, 4_096] {
        bears_a_drain(limit_mib).await;
    }
}

/// Plan: a node under 1 GiB holds 300 MiB; the limit falls to what is resident and 64 MiB, and more is set; then it is raised to
/// 768 MiB, and as much is set. It lives, gives way, and takes what it may again; its metrics name the limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_is_followed_down_and_up() {
    if !can_run("a_limit_is_followed_down_and_up") {
        return;
    }
    let mut rig = Rig::start(1_024 * MIB).await;
    let client = rig.limited.client().await;
    fill(&client, "first", 300 * MIB / 10_500, 10_000, None).await;
    let before = rig.look("1 GiB").await;
    for (limit_bytes, what) in [
        (before.resident_bytes + 64 * MIB, "lowered"),
        (768 * MIB, "raised"),
    ] {
        rig.group.set_limit(limit_bytes).expect("it holds less");
        rig.limit_bytes = limit_bytes;
        let limited = &rig.limited;
        until("the node knows its limit", async || {
            let known = limited.metrics().await.get("memory_limit_bytes");
            // In whole pages.
            ((known - limit_bytes as f64).abs() < 65_536.0).then_some(())
        })
        .await;
        sizes_that_change(&client, limit_bytes).await;
        rig.look(what).await;
        rig.holds_its_share(what).await;
    }
    let after = rig.look("raised, settled").await;
    assert!(after.store_bytes > before.store_bytes);
}
