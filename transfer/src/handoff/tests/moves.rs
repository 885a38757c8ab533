//! Who serves when: plain moves, swaps, A -> B -> A, chains, renewals, deaths.

use softstore_sharding::session::{ClaimPhase, HandoffOutcome};
use softstore_sharding::{Generation, Life, Slice, Version};

use super::cluster::{Cluster, assignment, epoch, halves, held_by_a, key, life, name_of, since, take, whole};
use crate::config::HandoffConfig;
use crate::handoff::{Admission, ColdReason, Notice};

#[test]
fn h1_the_old_owner_serves_until_it_is_fenced_and_the_new_one_only_then() {
    let mut cluster = held_by_a("a b");
    assert_eq!(cluster.says("b", 5), "not ready");
    let moved = whole(2, "a b", ("b", 2, &[("a", 1)]));
    cluster.adopt("a b", &moved);
    assert_eq!(
        (cluster.says("a", 5), cluster.says("b", 5)),
        ("serve 1".into(), "hold".into())
    );
    // An operation that knows of b's acquisition is not for a any more, although a serves those that do not.
    assert_eq!(cluster.says_to("a", 5, since(2)), "moved b 2");
    let message = cluster.only_take();
    cluster.deliver_take(&message).unwrap();
    assert_eq!(
        (cluster.says("a", 5), cluster.says("b", 5)),
        ("moved b 2".into(), "hold".into())
    );
    cluster.settle();
    assert_eq!(
        (cluster.says("a", 5), cluster.says("b", 5)),
        ("moved b 2".into(), "serve 2".into())
    );
    assert_eq!(cluster.says_to("b", 5, since(3)), "behind");
    assert_eq!(cluster.reported("b", 2), [HandoffOutcome::Started]);
}

#[test]
fn h1_no_timer_makes_a_taker_an_owner() {
    let mut cluster = held_by_a("a b");
    cluster.adopt("b", &whole(2, "a b", ("b", 2, &[("a", 1)])));
    for _ in 0..1_000 {
        cluster.takes.clear();
        cluster.later("b", 1_000);
        assert_eq!(cluster.says("b", 5), "hold");
    }
}

/// Takes are repeated at the configured pace; after a while they are relayed as well; `wake_at` names each moment.
#[test]
fn h7_a_take_is_repeated_and_then_relayed() {
    let mut cluster = held_by_a("a b");
    cluster.adopt("b", &whole(2, "a b", ("b", 2, &[("a", 1)])));
    let (first, relayed) = cluster.takes.pop_front().unwrap();
    assert!(!relayed);
    let config = HandoffConfig::default();
    let now = cluster.now;
    assert_eq!(
        cluster.node("b").wake_at(),
        Some(now.plus_ms(config.take_retry_ms))
    );
    cluster.later("b", config.take_retry_ms - 1);
    assert!(cluster.takes.is_empty());
    cluster.later("b", 1);
    assert_eq!(cluster.takes.pop_front(), Some((first.clone(), false)));
    cluster.later("b", config.take_relay_after_ms);
    assert_eq!(cluster.takes.pop_front(), Some((first, true)));
}

/// Two nodes swap two slices at once: neither waits for the other.
#[test]
fn h1_two_nodes_swap_slices_at_once() {
    let (left, right) = halves();
    let mut cluster = Cluster::of("a b");
    cluster.adopt(
        "a b",
        &assignment(1, "a b", &[(left, ("a", 1, &[])), (right, ("b", 1, &[]))]),
    );
    let swapped = [
        (left, ("b", 2, &[("a", 1)][..])),
        (right, ("a", 2, &[("b", 1)][..])),
    ];
    cluster.adopt("a b", &assignment(2, "a b", &swapped));
    assert_eq!(
        (cluster.says("a", 5), cluster.says("a", 500)),
        ("serve 1".into(), "hold".into())
    );
    cluster.settle();
    assert_eq!(cluster.owner_of(5).as_deref(), Some("b"));
    assert_eq!(cluster.owner_of(500).as_deref(), Some("a"));
}

/// a gives to b; before b has pulled, the range goes back. b is fenced by a, and a's own old copy is not the newest.
#[test]
fn h2_there_and_back_serves_the_newest() {
    let mut cluster = held_by_a("a b");
    cluster.adopt("a b", &whole(2, "a b", ("b", 2, &[("a", 1)])));
    cluster.settle();
    let of_a = epoch(&mut cluster, "b");
    cluster.adopt("a b", &whole(3, "a b", ("a", 3, &[("b", 2), ("a", 1)])));
    cluster.settle();
    assert_eq!(cluster.owner_of(5).as_deref(), Some("a"));
    let Some((taker, _, request)) = cluster.pulls.last().cloned() else {
        panic!("a pulls from b");
    };
    assert_eq!((taker.as_str(), name_of(&request.to).as_str()), ("a", "b"));
    // The copy that a kept for b is gone with its reason, so b's pull can only end; b keeps what it has for a.
    assert_eq!(
        cluster.noticed(|notice| matches!(notice, Notice::CopyDropped { .. })),
        1
    );
    assert!(cluster.node("a").copy_at(key(5), since(2), &life("b")).is_none());
    let copy = cluster.node("b").copy_at(key(5), since(3), &life("a")).unwrap();
    assert_eq!(copy.epoch, of_a);
}

/// b's answer from a is lost; the range goes back to a at once. a waits for b's search to settle, then takes it back.
#[test]
fn h1_there_and_back_while_the_first_answer_is_lost() {
    let mut cluster = held_by_a("a b");
    cluster.adopt("a b", &whole(2, "a b", ("b", 2, &[("a", 1)])));
    let message = cluster.only_take();
    cluster.deliver_take(&message).unwrap();
    cluster.replies.clear();
    cluster.adopt("a b", &whole(3, "a b", ("a", 3, &[("b", 2), ("a", 1)])));
    cluster.settle();
    assert_eq!(
        (cluster.says("a", 5), cluster.says("b", 5)),
        ("hold".into(), "hold".into())
    );
    cluster.later("b", 50);
    cluster.settle();
    cluster.later("a", 50);
    cluster.settle();
    assert_eq!(cluster.owner_of(5).as_deref(), Some("a"));
    assert_eq!(cluster.says("b", 5), "moved a 3");
}

#[test]
fn h4_a_renewal_keeps_the_entries_and_raises_the_versions() {
    let mut cluster = held_by_a("a b");
    let before = epoch(&mut cluster, "a");
    cluster.adopt("a", &whole(7, "a b", ("a", 7, &[("a", 1)])));
    assert_eq!(cluster.says("a", 5), "serve 7");
    assert_eq!(epoch(&mut cluster, "a"), before);
    assert_eq!(next_version(&mut cluster, "a"), since(7).first_version());
    assert_eq!(cluster.reported("a", 7), [HandoffOutcome::Completed]);
    assert!(cluster.takes.is_empty(), "nothing moves");
}

fn next_version(cluster: &mut Cluster, name: &str) -> Version {
    match cluster.node(name).admit(key(5), Generation::NONE) {
        Admission::Serve(serving) => serving.versions.take(),
        other => panic!("{name} does not serve: {other:?}"),
    }
}

/// A giver whose counter has carried into the generation number is outbid all the same, also after the way back.
#[test]
fn h4_versions_go_on_above_the_givers_and_ones_own() {
    let mut cluster = held_by_a("a b");
    let Admission::Serve(serving) = cluster.node("a").admit(key(5), since(1)) else {
        panic!("a serves");
    };
    let far = Version::new(since(50).first_version().get() + 9);
    serving.versions.raise_to(far);
    cluster.adopt("a b", &whole(2, "a b", ("b", 2, &[("a", 1)])));
    cluster.settle();
    assert_eq!(next_version(&mut cluster, "b"), far);
    cluster.adopt("a b", &whole(3, "a b", ("a", 3, &[("b", 2), ("a", 1)])));
    cluster.settle();
    assert!(next_version(&mut cluster, "a") > far);
}

/// a fenced for b, and b has died: whatever a has may be out of date, so c starts cold.
#[test]
fn h2_fenced_for_a_dead_taker_means_cold() {
    let mut cluster = held_by_a("a b c");
    cluster.adopt("a b", &whole(2, "a b c", ("b", 2, &[("a", 1)])));
    cluster.settle();
    cluster.adopt("a c", &whole(3, "a c", ("c", 3, &[("a", 1)])));
    cluster.settle();
    assert_eq!(cluster.says("c", 5), "serve 3");
    let holder_dead = |notice: &Notice| {
        matches!(
            notice,
            Notice::StartedCold {
                reason: ColdReason::HolderDead,
                ..
            }
        )
    };
    assert_eq!(cluster.noticed(holder_dead), 1);
    assert!(
        cluster.node("a").is_empty(),
        "the copy for b is dropped: its taker is dead"
    );
}

/// a fenced for b, b lives but is not on c's list: c is sent on to b, and takes from there.
#[test]
fn h2_fenced_for_a_living_taker_leads_there() {
    let mut cluster = held_by_a("a b c");
    cluster.adopt("a b", &whole(2, "a b c", ("b", 2, &[("a", 1)])));
    cluster.settle();
    cluster.adopt("c", &whole(3, "a b c", ("c", 3, &[("a", 1)])));
    cluster.settle();
    assert_eq!(cluster.owner_of(5).as_deref(), Some("c"));
    assert_eq!(cluster.says("b", 5), "moved c 3");
}

/// a fenced for c under an older acquisition of c's own, as a new Assigner with an incomplete list makes it: c is led
/// to itself and keeps what it holds.
#[test]
fn h7_a_search_that_leads_to_the_searcher_ends() {
    let mut cluster = held_by_a("a c");
    cluster.adopt("a c", &whole(2, "a c", ("c", 2, &[("a", 1)])));
    cluster.settle();
    let before = epoch(&mut cluster, "c");
    cluster.adopt("c", &whole(3, "a c", ("c", 3, &[("a", 1)])));
    cluster.settle();
    assert_eq!(cluster.says("c", 5), "serve 3");
    assert_eq!(epoch(&mut cluster, "c"), before);
    // The same after c has lost it (a new life would be another taker): nothing older is the newest.
    let mut cluster = held_by_a("a c");
    cluster.deliver_take(&take("a", "c", Slice::FULL, 2, 1)).unwrap();
    cluster.replies.clear();
    cluster.adopt("c", &whole(3, "a c", ("c", 3, &[("a", 1)])));
    cluster.settle();
    assert_eq!(cluster.says("c", 5), "serve 3");
    let lost = |notice: &Notice| {
        matches!(
            notice,
            Notice::StartedCold {
                reason: ColdReason::HolderDropped,
                ..
            }
        )
    };
    assert_eq!(cluster.noticed(lost), 1);
}

#[test]
fn h7_a_dead_provider_is_passed_over_and_the_last_one_means_cold() {
    let mut cluster = held_by_a("a b c");
    // b was to take from a and never heard of it.
    cluster.adopt("c", &whole(3, "a b c", ("c", 3, &[("b", 2), ("a", 1)])));
    let message = cluster.only_take();
    assert_eq!(message.to, life("b"));
    cluster.adopt("c", &whole(4, "a c", ("c", 3, &[("b", 2), ("a", 1)])));
    let message = cluster.only_take();
    assert_eq!(message.to, life("a"));
    cluster.adopt("c", &whole(5, "c", ("c", 3, &[("b", 2), ("a", 1)])));
    assert_eq!(cluster.says("c", 5), "serve 3");
    assert_eq!(cluster.reported("c", 3), [HandoffOutcome::Completed]);
}

/// b is told that a knows of a newer acquisition: it waits, asks again seldom, and starts once its assignment comes.
#[test]
fn h1_superseded_waits_for_the_assignment() {
    let mut cluster = held_by_a("a b c");
    cluster.adopt("a", &whole(3, "a b c", ("b", 3, &[("a", 1)])));
    cluster.adopt("b", &whole(2, "a b c", ("b", 2, &[("a", 1)])));
    cluster.settle();
    assert_eq!(
        (cluster.says("a", 5), cluster.says("b", 5)),
        ("serve 1".into(), "hold".into())
    );
    cluster.later("b", 50);
    assert!(
        cluster.takes.is_empty(),
        "no sooner than ten times the usual pace"
    );
    cluster.adopt("b", &whole(3, "a b c", ("b", 3, &[("a", 1)])));
    cluster.settle();
    assert_eq!(cluster.owner_of(5).as_deref(), Some("b"));
    assert_eq!(cluster.says("b", 5), "serve 3");
}

/// A superseded claim was never started, so the next taker may pass over it.
#[test]
fn h7_a_superseded_claim_answers_not_started() {
    let mut cluster = held_by_a("a b c");
    let moved_on = whole(3, "a b c", ("c", 3, &[("b", 2), ("a", 1)]));
    cluster.adopt("a", &moved_on);
    cluster.adopt("b", &whole(2, "a b c", ("b", 2, &[("a", 1)])));
    cluster.settle();
    cluster.adopt("c", &moved_on);
    cluster.settle();
    assert_eq!(cluster.owner_of(5).as_deref(), Some("c"));
    cluster.adopt("b", &moved_on);
    assert_eq!(cluster.says("b", 5), "moved c 3");
    assert!(cluster.node("b").is_empty());
}

/// A node fenced for a newer taker gets an assignment that gives it the range under an older acquisition: out of date.
#[test]
fn h1_what_was_fenced_for_a_newer_taker_is_not_claimed_again() {
    let mut cluster = held_by_a("a b");
    cluster.deliver_take(&take("a", "b", Slice::FULL, 5, 1)).unwrap();
    cluster.adopt("a", &whole(3, "a b", ("a", 3, &[("a", 1)])));
    assert_eq!(cluster.says("a", 5), "moved b 5");
    assert!(cluster.takes.is_empty());
    cluster.adopt("a", &whole(4, "a b", ("a", 3, &[("a", 1)])));
    assert_eq!(cluster.says("a", 5), "moved b 5");
}

/// b drains with its own search open: it stays listed, takes, and hands on to c at once.
#[test]
fn h6_what_a_draining_node_was_to_take_goes_through_it() {
    let mut cluster = held_by_a("a b c");
    cluster.adopt("a b", &whole(2, "a b c", ("b", 2, &[("a", 1)])));
    let moved_on = whole(3, "a b c", ("c", 3, &[("b", 2), ("a", 1)]));
    cluster.adopt("a b c", &moved_on);
    assert!(!cluster.node("b").is_empty());
    cluster.settle();
    for name in ["b", "c"] {
        cluster.later(name, 50);
        cluster.settle();
    }
    assert_eq!(cluster.owner_of(5).as_deref(), Some("c"));
}

/// Plan: b takes from a by an assignment that only b received, and is gone. A new Assigner, which knows of neither, gives
/// the range to a under the old acquisition. a must not serve it again under that (b may have given out newer versions,
/// and clients follow b's newer acquisition), also not at the next assignment, but say so: it asks for another hello, and
/// its claims tell that the range is fenced. Under a new acquisition it serves, above all versions that it has given.
#[test]
fn h1_a_fence_that_the_assignment_contradicts_is_told_and_kept() {
    let mut cluster = held_by_a("a b");
    cluster.deliver_take(&take("a", "b", Slice::FULL, 3, 1)).unwrap();
    // Older than the fence: merely out of date.
    cluster.adopt("a", &whole(2, "a", ("a", 1, &[])));
    assert!(cluster.contradicted.is_empty());
    for generation in [4, 5] {
        cluster.adopt("a", &whole(generation, "a", ("a", 1, &[])));
        assert_eq!(cluster.says("a", 5).split(' ').next(), Some("moved"));
        let claims = cluster.node("a").claims();
        let told = claims.iter().any(|claim| {
            (claim.slice, claim.since) == (Slice::FULL, since(1))
                && claim.phase == ClaimPhase::Fenced(life("b"))
        });
        assert!(told, "{claims:?}");
    }
    assert_eq!(cluster.contradicted, ["a", "a"]);
    cluster.adopt("a", &whole(6, "a", ("a", 6, &[])));
    assert_eq!(cluster.says("a", 5), "serve 6");
    assert_eq!(cluster.contradicted.len(), 2);
}

/// Plan: a was to own a range, has not heard of it, and promises c that it never will under that acquisition. c is gone
/// with the Assigner that knew of its claim; the next one repeats the old acquisition. a says that it will not serve that.
#[test]
fn h1_a_promise_never_to_start_that_the_assignment_contradicts_is_told() {
    let mut cluster = Cluster::of("a b c");
    cluster.adopt("a", &whole(1, "a b c", ("b", 1, &[])));
    cluster.deliver_take(&take("a", "c", Slice::FULL, 4, 2)).unwrap();
    cluster.adopt("a", &whole(5, "a b", ("a", 2, &[("b", 1)])));
    assert_eq!(cluster.contradicted, ["a"]);
    let claims = cluster.node("a").claims();
    assert!(
        claims
            .iter()
            .any(|claim| claim.phase == ClaimPhase::Fenced(Life::nobody()))
    );
}
