//! A node's life with the hand-off: drained, born again, without transfer, with assignments out of order.

use softstore_sharding::session::{HandoffOutcome, VersionRange};

use super::cluster::{CHUNK_VERSIONS, epoch, held_by_a, peer, since, whole};
use crate::config::HandoffConfig;
use crate::handoff::{Action, ColdReason, Notice, PullEnd};

#[test]
fn h7_a_drained_node_is_empty_only_when_all_is_released() {
    let mut cluster = held_by_a("a b");
    assert!(!cluster.node("a").is_empty());
    cluster.adopt("a b", &whole(2, "a b", ("b", 2, &[("a", 1)])));
    cluster.settle();
    assert!(!cluster.node("a").is_empty(), "the copy for b is kept");
    let (_, pull, _) = cluster.pulls[0].clone();
    let actions = cluster.node("b").pull_ended(pull, PullEnd::Complete);
    cluster.carry_out("b", actions);
    cluster.settle();
    assert!(cluster.node("a").is_empty());
    assert_eq!(
        cluster.reported("b", 2),
        [HandoffOutcome::Started, HandoffOutcome::Completed]
    );
}

#[test]
fn transfer_off_and_foreign_chunk_versions_hand_over_ownership_alone() {
    let other_versions = VersionRange { min: 2, max: 2 };
    let off = HandoffConfig {
        transfer: false,
        ..HandoffConfig::default()
    };
    let cases = [
        (off, CHUNK_VERSIONS, ColdReason::TransferOff),
        (
            HandoffConfig::default(),
            other_versions,
            ColdReason::NoCommonVersion,
        ),
    ];
    for (config, versions, expected) in cases {
        let mut cluster = held_by_a("a");
        cluster.add("b", config, versions);
        cluster.adopt("a b", &whole(2, "a b", ("b", 2, &[("a", 1)])));
        cluster.settle();
        assert_eq!(cluster.owner_of(5).as_deref(), Some("b"));
        assert!(cluster.pulls.is_empty() && cluster.store_pulls.is_empty());
        assert!(cluster.node("a").is_empty(), "released at once");
        assert_eq!(cluster.reported("b", 2), [HandoffOutcome::Completed]);
        assert_eq!(
            cluster.noticed(
                |notice| matches!(notice, Notice::StartedCold { reason, .. } if *reason == expected)
            ),
            1
        );
    }
}

#[test]
fn h1_a_node_born_again_holds_nothing_and_reuses_nothing() {
    let mut cluster = held_by_a("a b");
    cluster.adopt("a b", &whole(2, "a b", ("b", 2, &[("a", 1)])));
    cluster.settle();
    let before = epoch(&mut cluster, "b");
    let now = cluster.now;
    let actions = cluster.node("b").reborn(peer("b2"), now);
    assert!(
        actions
            .iter()
            .any(|action| matches!(action, Action::Purge(_, epoch) if *epoch == before))
    );
    cluster.carry_out("b", actions);
    assert!(cluster.store_pulls.is_empty());
    assert!(cluster.node("b").is_empty());
    assert_eq!(cluster.says("b", 5), "not ready");
    cluster.adopt("b", &whole(4, "a b2", ("b2", 4, &[])));
    assert_eq!(cluster.says("b", 5), "serve 4");
    assert_ne!(epoch(&mut cluster, "b"), before);
}

#[test]
fn older_assignments_are_ignored() {
    let mut cluster = held_by_a("a b");
    cluster.adopt("a", &whole(3, "a b", ("a", 1, &[])));
    cluster.adopt("a", &whole(2, "a b", ("b", 2, &[("a", 1)])));
    assert_eq!(cluster.says_to("a", 5, since(1)), "serve 1");
    assert_eq!(cluster.says_to("a", 5, since(2)), "behind");
}
