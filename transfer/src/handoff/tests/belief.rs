//! Acquisitions that nobody gave out (H8), and those that this node has not heard of yet.

use softstore_sharding::generation::{CLOCKS_OFF_MS_MAX, GENERATION_EPOCH_UNIX_MS, GENERATION_NUMBER_MAX};
use softstore_sharding::{Generation, Slice};

use super::cluster::{Cluster, held_by_a, since, take, whole};
use crate::handoff::ASSIGNER_SILENT_MS;
use crate::message::{Refusal, Verdict};

/// What a says to a `Take` of everything, held since 1, under this number.
fn answer(cluster: &mut Cluster, taker: &str, number: u64) -> Result<Verdict, Refusal> {
    let now = cluster.now;
    let (reply, _) = cluster
        .node("a")
        .take(&take("a", taker, Slice::FULL, number, 1), now)?;
    Ok(reply.answers[0].verdict.clone())
}

/// The Assigner has answered a moment ago, with this wall clock.
fn heard(cluster: &mut Cluster, unix_ms: u64) {
    let now = cluster.now;
    cluster.node("a").assigner_answered(now, unix_ms);
}

/// Plan: numbers that no clock explains, from a member and from somebody whom nobody knows, whether or not the Assigner answers.
/// All are refused, and a serves as before. What the clock does explain is not called invented.
#[test]
fn h8_an_invented_acquisition_fences_nothing() {
    let mut cluster = held_by_a("a b");
    let ahead = 1 + CLOCKS_OFF_MS_MAX;
    for taker in ["b", "c"] {
        for number in [GENERATION_NUMBER_MAX, ahead + 1] {
            assert_eq!(answer(&mut cluster, taker, number), Err(Refusal::Invented));
        }
    }
    assert_eq!(answer(&mut cluster, "c", ahead), Err(Refusal::Unheard));
    heard(&mut cluster, GENERATION_EPOCH_UNIX_MS + 1_000_000);
    assert_eq!(answer(&mut cluster, "b", ahead + 1), Err(Refusal::Unheard));
    assert_eq!(cluster.says("a", 5), "serve 1");
}

/// Plan: takers name an acquisition that a has not heard of. While the Assigner answers, and from whoever is no member at any
/// time, the assignment is waited for; once it is here, its own taker is answered, and no other.
#[test]
fn h8_a_taker_that_nobody_listed_fences_nothing() {
    let mut cluster = held_by_a("a b");
    heard(&mut cluster, 0);
    for taker in ["b", "c"] {
        assert_eq!(answer(&mut cluster, taker, 2), Err(Refusal::Unheard));
    }
    assert_eq!(cluster.says("a", 5), "serve 1");
    cluster.adopt("a", &whole(2, "a b d", ("b", 2, &[("a", 1)])));
    assert_eq!(answer(&mut cluster, "c", 2), Err(Refusal::SenderDead));
    assert_eq!(answer(&mut cluster, "d", 2), Err(Refusal::Unlisted));
    assert_eq!(answer(&mut cluster, "d", 3), Err(Refusal::Unheard));
    assert_eq!(cluster.says("a", 5), "serve 1");
    assert!(matches!(answer(&mut cluster, "b", 2), Ok(Verdict::Fenced { .. })));
    assert_eq!(cluster.says("a", 5), "moved b 2");
}

/// Plan: a is cut off from the Assigner when the assignment comes that moves all to b. After a while a believes b, a member, at
/// its own address, so that the entries are still had; but nobody else, and b from nowhere else.
#[test]
fn h7_a_giver_that_is_cut_off_believes_members_only() {
    let mut cluster = held_by_a("a b");
    heard(&mut cluster, 0);
    cluster.now = cluster.now.plus_ms(ASSIGNER_SILENT_MS - 1);
    assert_eq!(answer(&mut cluster, "b", 2), Err(Refusal::Unheard));
    cluster.now = cluster.now.plus_ms(1);
    assert_eq!(answer(&mut cluster, "c", 2), Err(Refusal::Unheard));
    let mut elsewhere = take("a", "b", Slice::FULL, 2, 1);
    elsewhere.taker.address = "c:1".into();
    let now = cluster.now;
    assert_eq!(
        cluster.node("a").take(&elsewhere, now).map(|_| ()),
        Err(Refusal::Unheard)
    );
    assert!(matches!(answer(&mut cluster, "b", 2), Ok(Verdict::Fenced { .. })));
}

/// Plan: an acquisition below the assignment's generation that the assignment does not know, as one that an Assigner gave out
/// which has been replaced: the taker waits for its assignment.
#[test]
fn h1_the_assignment_overrules_what_is_older() {
    let mut cluster = held_by_a("a b");
    cluster.adopt("a", &whole(4, "a b", ("a", 1, &[])));
    assert_eq!(
        answer(&mut cluster, "b", 3),
        Ok(Verdict::Superseded { since: since(4) })
    );
    assert_eq!(cluster.says("a", 5), "serve 1");
}

/// Plan: a node that holds nothing is asked by takers under invented acquisitions, to have it promise that it will never start.
/// It promises nothing, and starts what it is given.
#[test]
fn h8_an_invented_take_wins_no_promise() {
    let mut cluster = Cluster::of("a b");
    for number in [GENERATION_NUMBER_MAX, 9] {
        let now = cluster.now;
        let message = take("b", "a", Slice::FULL, number, number - 1);
        assert!(cluster.node("b").take(&message, now).is_err(), "{number}");
    }
    cluster.adopt("b", &whole(5, "a b", ("b", 5, &[])));
    assert_eq!(cluster.says_to("b", 5, Generation::NONE), "serve 5");
}
