//! A node that was only away: who took its range over gets back what it held, unless anything stands against it. Each test is
//! named after the schedule that a simpler rule would not survive.

use std::sync::Arc;

use softstore_sharding::session::{HandoffOutcome, Offer};
use softstore_sharding::{Assignment, Epoch, Generation, PullId, Slice, Timestamp, Version};

use super::cluster::{
    Cluster, Says, epoch, halves, held_by_a, key, life, name_of, peer, range, since, whole,
};
use crate::config::HandoffConfig;
use crate::handoff::{Admission, CopyEnd, CopyGrant, Notice, PullEnd};
use crate::message::Refusal;

const REVIVAL_MS: u64 = 60_000;

/// What one range says that awaits, in an assignment under which things come back.
fn awaiting(generation: u64, living: &str, says: Says<'_>, awaits: &[(&str, u64)]) -> Arc<Assignment> {
    let directory = whole(generation, living, says).directory().clone();
    let mut range = range(says);
    range.awaits = super::cluster::range(("nobody", 0, awaits)).providers;
    let ranges = vec![(Slice::FULL, range)];
    let assignment = Assignment::new(since(generation), ranges, directory).unwrap();
    Arc::new(assignment.with_revival_ms(REVIVAL_MS))
}

/// a held all since 1 when it fell silent; b has taken it over since 2, cold.
fn taken_over() -> Cluster {
    let mut cluster = Cluster::of("a b c");
    cluster.adopt("a", &awaiting(1, "a b c", ("a", 1, &[]), &[]));
    cluster.adopt("b c", &awaiting(2, "b c", ("b", 2, &[]), &[("a", 1)]));
    cluster
}

/// The same, and a's next life is listed with what it offers; nothing is asked yet.
fn back() -> Cluster {
    let mut cluster = taken_over();
    cluster.reborn("a", "a2");
    cluster.adopt("a2 b c", &listed());
    cluster
}

fn listed() -> Arc<Assignment> {
    awaiting(3, "a2 b c", ("b", 2, &[("a2", 1)]), &[("a", 1)])
}

/// The same, asked and answered.
fn pulled() -> (Cluster, PullId) {
    let mut cluster = back();
    cluster.settle();
    let (taker, pull, request) = cluster.pulls.last().cloned().expect("b pulls");
    assert_eq!((taker.as_str(), name_of(&request.to).as_str()), ("b", "a2"));
    (cluster, pull)
}

fn serving(cluster: &mut Cluster, name: &str) -> (Option<PullId>, bool) {
    match cluster.node(name).admit(key(5), Generation::NONE) {
        Admission::Serve(serving) => (serving.pull, serving.is_awaiting),
        other => panic!("{name} does not serve: {other:?}"),
    }
}

fn memory_of(cluster: &mut Cluster, name: &str) -> PullId {
    match serving(cluster, name) {
        (Some(memory), true) => memory,
        other => panic!("{name} does not await: {other:?}"),
    }
}

fn grant(cluster: &mut Cluster, giver: &str, taker: &str, number: u64) -> Option<CopyGrant> {
    cluster.node(giver).copy_at(key(5), since(number), &life(taker))
}

/// R3 to R9: b begins cold with its memory open, and the pull that brings a's entries is that memory.
#[test]
fn what_was_away_comes_back() {
    let mut cluster = taken_over();
    let memory = memory_of(&mut cluster, "b");
    assert_eq!(cluster.store_pulls, [("b".to_owned(), memory)]);
    assert_eq!(cluster.reported("b", 2), [HandoffOutcome::Awaiting]);
    assert!(cluster.node("b").import_target(memory, key(5)).is_none());
    let of_a = epoch(&mut cluster, "a");
    cluster.reborn("a", "a2");
    let offers = cluster.node("a2").offers().expect("it offers what it held");
    assert_eq!(offers.former, [life("a")]);
    let all = Offer {
        slice: Slice::FULL,
        since: since(1),
        taker: None,
    };
    assert_eq!(offers.ranges, [all]);
    cluster.adopt("a2 b c", &listed());
    assert!(cluster.node("a2").offers().is_none(), "it is settled");
    cluster.settle();
    assert_eq!(serving(&mut cluster, "b"), (Some(memory), false));
    assert!(cluster.node("b").import_target(memory, key(5)).is_some());
    assert_eq!(grant(&mut cluster, "a2", "b", 2).unwrap().epoch, of_a);
    let actions = cluster.node("b").pull_ended(memory, PullEnd::Complete);
    cluster.carry_out("b", actions);
    cluster.settle();
    let told = [
        HandoffOutcome::Awaiting,
        HandoffOutcome::Started,
        HandoffOutcome::Completed,
    ];
    assert_eq!(cluster.reported("b", 2), told);
    assert!(cluster.node("a2").is_empty(), "it is released");
    assert!(cluster.store_pulls.is_empty());
}

/// A1: b is killed before it has asked. c takes over from it, and is not given what a held before b.
#[test]
fn a1_h2_only_who_awaited_is_given_what_comes_back() {
    let mut cluster = back();
    cluster.takes.clear();
    cluster.adopt("a2", &listed());
    let next = awaiting(4, "a2 c", ("c", 4, &[("a2", 1)]), &[("b", 2)]);
    cluster.adopt("c", &next);
    cluster.settle();
    assert!(cluster.pulls.is_empty());
    let (_, awaits) = serving(&mut cluster, "c");
    assert!(awaits, "c awaits b alone");
    cluster.adopt("a2", &next);
    assert!(cluster.node("a2").is_empty());
}

/// A1: b leaves while it awaits, and the first assignment that a2 hears of gives all to c, which lists b and, since b did, a2. What
/// was written at b is b's to give: once b is gone, c is not given what a held before b.
#[test]
fn a1_h2_who_did_not_await_is_given_nothing() {
    let mut cluster = taken_over();
    cluster.reborn("a", "a2");
    let next = awaiting(4, "a2 b c", ("c", 4, &[("b", 2), ("a2", 1)]), &[]);
    cluster.adopt("a2", &next);
    assert!(cluster.node("a2").is_empty());
    let without_b = awaiting(5, "a2 c", ("c", 4, &[("a2", 1)]), &[]);
    cluster.adopt("a2 c", &without_b);
    cluster.settle();
    assert!(cluster.pulls.is_empty(), "c begins cold");
}

/// A1, before a2 knows whom it is kept for: nobody is told anything.
#[test]
fn a1_h2_nobody_is_answered_before_it_is_settled() {
    let mut cluster = taken_over();
    cluster.reborn("a", "a2");
    cluster.adopt("b", &listed());
    let take = cluster.only_take();
    assert_eq!(cluster.deliver_take(&take), Err(Refusal::Unheard));
    cluster.adopt("a2", &listed());
    cluster.deliver_take(&take).unwrap();
    let reply = cluster.replies.pop_front().unwrap();
    cluster.deliver_reply(reply);
    assert_eq!(cluster.pulls.len(), 1);
}

/// A3: after b's death a2 gets the range itself. What it held is older than what b wrote.
#[test]
fn a3_h2_a_node_does_not_go_on_with_what_it_held_before_another() {
    let mut cluster = taken_over();
    let before = epoch(&mut cluster, "a");
    cluster.reborn("a", "a2");
    cluster.adopt("a2", &awaiting(3, "a2 c", ("a2", 3, &[]), &[("b", 2)]));
    assert_ne!(epoch(&mut cluster, "a2"), before);
    assert!(cluster.purges.contains(&("a2".to_owned(), Slice::FULL, before)));
    assert!(cluster.pulls.is_empty());
}

/// A3: a2 is to give to b, which leaves before it has asked, and hands the range on to a2 itself; then b is gone. What a2 held is
/// older than what b wrote.
#[test]
fn a3_h2_what_is_kept_for_another_is_not_taken_back() {
    let mut cluster = back();
    // What b asks is lost, and a2 does not hear of the assignment in between, which listed b as well.
    cluster.takes.clear();
    cluster.adopt("a2", &awaiting(5, "a2 c", ("a2", 4, &[("a2", 1)]), &[]));
    cluster.settle();
    serving(&mut cluster, "a2");
    assert!(cluster.pulls.is_empty(), "it begins cold");
}

/// R13: nobody has owned the range in between. a2 pulls from itself, and in time forgets the copy.
#[test]
fn what_nobody_took_over_is_taken_back() {
    let mut cluster = Cluster::of("a");
    cluster.adopt("a", &awaiting(1, "a", ("a", 1, &[]), &[]));
    let before = epoch(&mut cluster, "a");
    cluster.reborn("a", "a2");
    cluster.adopt("a2", &awaiting(2, "a2", ("a2", 2, &[("a2", 1)]), &[("a", 1)]));
    assert_ne!(epoch(&mut cluster, "a2"), before);
    let (pull, awaits) = serving(&mut cluster, "a2");
    assert!(!awaits);
    let (taker, started, request) = cluster.pulls[0].clone();
    assert_eq!(
        (taker.as_str(), Some(started), &request.to),
        ("a2", pull, &life("a2"))
    );
    let grants = cluster.node("a2").grant_pull(&request).unwrap();
    assert_eq!(grants[0].epoch, before);
    let actions = cluster.node("a2").pull_ended(started, PullEnd::Complete);
    cluster.carry_out("a2", actions);
    cluster.settle();
    assert_eq!(cluster.node("a2").counts().giving, 0);
    assert_eq!(epoch(&mut cluster, "a2"), Epoch::new(before.get() + 1));
}

/// A4: what was flushed does not come back.
#[test]
fn a4_h2_a_flush_ends_the_waiting_for_what_it_covers() {
    let (left, right) = halves();
    let mut cluster = taken_over();
    let (flushed, actions) = cluster.node("b").flush(left);
    assert_eq!(flushed, [left]);
    cluster.carry_out("b", actions);
    assert_eq!(serving(&mut cluster, "b"), (None, false));
    cluster.reborn("a", "a2");
    cluster.adopt("a2 b c", &listed());
    let take = cluster.only_take();
    let asked: Vec<Slice> = take.ranges.iter().map(|range| range.slice).collect();
    assert_eq!(asked, [right]);
    cluster.deliver_take(&take).unwrap();
    cluster.settle();
    let (_, pull, _) = cluster.pulls[0].clone();
    assert!(cluster.node("b").import_target(pull, key(5)).is_none());
    assert!(cluster.node("b").import_target(pull, key(500)).is_some());
}

/// A5: the memory is there when the first operation is, and stays the same without a gap.
#[test]
fn a5_h3_the_memory_is_older_than_the_pull() {
    let mut cluster = taken_over();
    let memory = memory_of(&mut cluster, "b");
    cluster.reborn("a", "a2");
    cluster.adopt("a2 b c", &listed());
    cluster.settle();
    assert_eq!(cluster.pulls.last().map(|(_, pull, _)| *pull), Some(memory));
    assert_eq!(cluster.store_pulls, [("b".to_owned(), memory)], "opened once");
}

/// A6: a was itself pulling when it was declared dead. Nothing that arrives later gets into what it froze.
#[test]
fn a6_h2_a_frozen_copy_has_no_upstream() {
    let mut cluster = held_by_a("a b c");
    cluster.adopt("a b c", &awaiting(2, "a b c", ("b", 2, &[("a", 1)]), &[]));
    cluster.settle();
    let (_, pull, _) = cluster.pulls[0].clone();
    assert!(cluster.node("b").import_target(pull, key(5)).is_some());
    cluster.reborn("b", "b2");
    assert!(cluster.node("b2").import_target(pull, key(5)).is_none());
    assert!(cluster.store_pulls.is_empty());
    cluster.adopt("b2 c", &awaiting(4, "b2 c", ("c", 3, &[("b2", 2)]), &[("b", 2)]));
    cluster.settle();
    assert_eq!(grant(&mut cluster, "b2", "c", 3).unwrap().upstream, None);
}

/// A7: nothing that waited when a was declared dead runs on what it froze.
#[test]
fn a7_h2_nothing_is_admitted_to_what_was_frozen() {
    let mut cluster = taken_over();
    cluster.reborn("a", "a2");
    assert_eq!(cluster.says("a2", 5), "not ready");
    cluster.adopt("a2 b c", &listed());
    assert_eq!(cluster.says("a2", 5), "moved b 2");
    cluster.settle();
    assert_eq!(cluster.says("a2", 5), "moved b 2");
}

/// A8: TTLs count from the receipt of the `Take` in this very life, also after another rebirth, and less what the clock lost in
/// each. Where that is not known, what has a TTL stays out.
#[test]
fn a8_h5_ttls_count_from_this_life() {
    let mut cluster = taken_over();
    cluster.reborn("a", "a2");
    cluster.node("a2").offers_heard(Some(40));
    // A second word of the same life changes nothing.
    cluster.node("a2").offers_heard(Some(9_999));
    cluster.now = cluster.now.plus_ms(1_000);
    cluster.adopt("a2 b c", &listed());
    cluster.settle();
    let first = grant(&mut cluster, "a2", "b", 2).unwrap();
    assert_eq!((first.received, first.behind_ms), (cluster.now, Some(40)));
    assert_eq!(first.as_of, Timestamp::from_ms(1_000));
    let deadline = cluster.now.plus_ms(500);
    assert_eq!(first.ttl_ms(deadline), Ok(Some(460)));
    assert_eq!(first.ttl_ms(Timestamp::NEVER), Ok(None));

    cluster.reborn("a2", "a3");
    assert!(
        grant(&mut cluster, "a3", "b", 2).is_none(),
        "the old receipt counts no more"
    );
    let offers = cluster.node("a3").offers().unwrap();
    assert_eq!(offers.former, [life("a"), life("a2")]);
    assert_eq!(offers.ranges[0].taker, Some((life("b"), since(2))));
    cluster.now = cluster.now.plus_ms(5_000);
    cluster.node("a3").offers_heard(Some(2));
    cluster.adopt(
        "a3 b c",
        &awaiting(5, "a3 b c", ("b", 2, &[("a3", 1)]), &[("a2", 1)]),
    );
    cluster.settle();
    let second = grant(&mut cluster, "a3", "b", 2).unwrap();
    assert_eq!((second.received, second.behind_ms), (cluster.now, Some(42)));

    let mut unknown = taken_over();
    unknown.reborn("a", "a2");
    unknown.node("a2").offers_heard(None);
    unknown.adopt("a2 b c", &listed());
    unknown.settle();
    let grant = grant(&mut unknown, "a2", "b", 2).unwrap();
    assert!(grant.ttl_ms(deadline).is_err());
    assert_eq!(grant.ttl_ms(Timestamp::NEVER), Ok(None));
}

/// A10: a gave out more versions than fit between two acquisitions. b goes on above them, before it imports anything.
#[test]
fn a10_h4_versions_go_on_above_those_of_who_comes_back() {
    let mut cluster = taken_over();
    let far = Version::new(since(2).first_version().get() + 1_000);
    match cluster.node("a").admit(key(5), Generation::NONE) {
        Admission::Serve(serving) => serving.versions.raise_to(far),
        other => panic!("{other:?}"),
    }
    cluster.reborn("a", "a2");
    cluster.adopt("a2 b c", &listed());
    cluster.settle();
    match cluster.node("b").admit(key(5), Generation::NONE) {
        Admission::Serve(serving) => assert!(serving.versions.peek() >= far),
        other => panic!("{other:?}"),
    }
}

/// A11: what an assignment that lists a2 does not want is dropped, but none before that; and a drain waits for it.
#[test]
fn a11_h7_offers_wait_for_the_first_assignment_that_lists_their_node() {
    let mut cluster = taken_over();
    cluster.reborn("a", "a2");
    assert!(!cluster.node("a2").is_empty());
    let unlisted = awaiting(3, "b c", ("b", 2, &[]), &[("a", 1)]);
    cluster.adopt("a2", &unlisted);
    assert!(!cluster.node("a2").is_empty());
    cluster.adopt("a2", &awaiting(4, "a2 b c", ("b", 2, &[]), &[]));
    assert!(cluster.node("a2").is_empty());
    let dropped = |notice: &Notice| {
        matches!(
            notice,
            Notice::CopyDropped {
                reason: CopyEnd::Unlisted,
                ..
            }
        )
    };
    assert_eq!(cluster.noticed(dropped), 1);
}

/// A12: nobody is there to be asked, so nothing waits.
#[test]
fn a12_absence_is_final_while_nobody_is_there() {
    let mut cluster = taken_over();
    let memory = memory_of(&mut cluster, "b");
    assert!(cluster.node("b").peek_target(memory, key(5)).is_none());
    assert_eq!(
        (cluster.node("b").pulls_open(), cluster.node("b").counts().pulling),
        (0, 0)
    );
    assert_eq!(cluster.node("b").counts().awaiting, 1);
    let memories: Vec<PullId> = cluster.node("b").memories_awaiting().collect();
    assert_eq!(memories, [memory]);
}

/// R4, R12: after the time both sides let go.
#[test]
fn h7_nothing_is_awaited_or_offered_for_ever() {
    let mut cluster = taken_over();
    cluster.reborn("a", "a2");
    cluster.later("b", REVIVAL_MS - 1);
    cluster.later("a2", 0);
    memory_of(&mut cluster, "b");
    assert!(!cluster.node("a2").is_empty());
    let wake = cluster.now.plus_ms(1);
    assert_eq!(cluster.node("b").wake_at(), Some(wake));
    assert_eq!(cluster.node("a2").wake_at(), Some(wake));
    cluster.later("b", 1);
    cluster.later("a2", 0);
    assert_eq!(serving(&mut cluster, "b"), (None, false));
    assert!(cluster.store_pulls.is_empty() && cluster.node("a2").is_empty());
    assert_eq!(cluster.reported("b", 2).last(), Some(&HandoffOutcome::GaveUp));
}

/// R4: more was written than can be remembered.
#[test]
fn h3_an_overflow_ends_the_waiting() {
    let mut cluster = taken_over();
    let memory = memory_of(&mut cluster, "b");
    let actions = cluster.node("b").pull_ended(memory, PullEnd::Overflow);
    cluster.carry_out("b", actions);
    cluster.reborn("a", "a2");
    cluster.adopt("a2 b c", &listed());
    assert!(cluster.takes.is_empty() && cluster.store_pulls.is_empty());
}

/// A14 and R10: the giver of a planned move falls silent in mid-pull. The pull becomes a memory, and a pull again, twice; the
/// time counts from the first silence.
#[test]
fn a14_a_giver_that_falls_silent_may_come_back() {
    let mut cluster = held_by_a("a b");
    cluster.adopt("a b", &awaiting(2, "a b", ("b", 2, &[("a", 1)]), &[]));
    cluster.settle();
    let (_, pull, _) = cluster.pulls[0].clone();
    cluster.adopt("b", &awaiting(3, "b", ("b", 2, &[]), &[("a", 1)]));
    assert_eq!(memory_of(&mut cluster, "b"), pull);
    assert_eq!(
        cluster.store_pulls,
        [("b".to_owned(), pull)],
        "nothing is forgotten"
    );
    assert!(cluster.node("b").import_target(pull, key(5)).is_none());
    // The old stream's last word comes late.
    let actions = cluster.node("b").pull_ended(pull, PullEnd::Gone);
    assert!(actions.is_empty());
    cluster.now = cluster.now.plus_ms(20_000);
    cluster.reborn("a", "a2");
    let offers = cluster.node("a2").offers().unwrap();
    assert_eq!(offers.ranges[0].taker, Some((life("b"), since(2))));
    cluster.adopt("a2 b", &awaiting(4, "a2 b", ("b", 2, &[("a2", 1)]), &[("a", 1)]));
    cluster.settle();
    assert_eq!(serving(&mut cluster, "b"), (Some(pull), false));
    let (_, again, request) = cluster.pulls[1].clone();
    assert_eq!((again, &request.to), (pull, &life("a2")));
    assert!(cluster.node("a2").grant_pull(&request).is_ok());

    cluster.adopt("b", &awaiting(5, "b", ("b", 2, &[]), &[("a2", 1)]));
    assert_eq!(memory_of(&mut cluster, "b"), pull);
    cluster.later("b", 39_999);
    memory_of(&mut cluster, "b");
    cluster.later("b", 1);
    assert_eq!(serving(&mut cluster, "b"), (None, false));
}

/// A giver that has left for good brings nothing back.
#[test]
fn h7_who_said_goodbye_is_not_awaited() {
    let mut cluster = held_by_a("a b");
    cluster.adopt("a b", &awaiting(2, "a b", ("b", 2, &[("a", 1)]), &[]));
    cluster.settle();
    cluster.adopt("b", &awaiting(3, "b", ("b", 2, &[]), &[]));
    assert_eq!(serving(&mut cluster, "b"), (None, false));
    assert!(cluster.store_pulls.is_empty());
}

/// R16: b moves on while it awaits. c pulls what b has, and nothing of what a held.
#[test]
fn who_drains_while_it_awaits_gives_what_it_has() {
    let mut cluster = taken_over();
    cluster.adopt("b c", &awaiting(3, "b c", ("c", 3, &[("b", 2)]), &[]));
    cluster.settle();
    assert_eq!(cluster.says("c", 5), "serve 3");
    assert_eq!(grant(&mut cluster, "b", "c", 3).unwrap().upstream, None);
    let (of_c, _) = serving(&mut cluster, "c");
    assert_eq!(cluster.store_pulls, [("c".to_owned(), of_c.unwrap())]);
}

/// R16, in mid-pull: a chain as any other.
#[test]
fn h6_who_drains_while_it_pulls_what_came_back_forwards_it() {
    let (mut cluster, pull) = pulled();
    let moved = awaiting(4, "a2 b c", ("c", 4, &[("b", 2), ("a2", 1)]), &[]);
    cluster.adopt("a2 b c", &moved);
    cluster.settle();
    assert_eq!(grant(&mut cluster, "b", "c", 4).unwrap().upstream, Some(pull));
    assert!(grant(&mut cluster, "a2", "b", 2).is_some());
}

/// b knows nothing of a's return yet when it finds that there is none to ask: it asks as soon as it hears.
#[test]
fn a_search_that_ends_cold_asks_who_came_back_meanwhile() {
    let mut cluster = Cluster::of("a b");
    cluster.adopt("a", &awaiting(1, "a b", ("a", 1, &[]), &[]));
    cluster.reborn("a", "a2");
    // The assignment that gives b the range lists a2 already: an ordinary provider.
    let both = awaiting(3, "a2 b", ("b", 2, &[("a2", 1)]), &[("a", 1)]);
    cluster.adopt("a2 b", &both);
    assert_eq!(cluster.says("b", 5), "hold");
    cluster.settle();
    let (pull, awaits) = serving(&mut cluster, "b");
    assert!(pull.is_some() && !awaits);
    assert_eq!(cluster.reported("b", 2), [HandoffOutcome::Started]);
}

/// R5: what cannot come back is not kept.
#[test]
fn without_revival_a_new_life_holds_nothing() {
    let mut cluster = held_by_a("a");
    cluster.reborn("a", "a2");
    assert!(cluster.node("a2").is_empty() && cluster.node("a2").offers().is_none());
    let off = HandoffConfig {
        transfer: false,
        ..HandoffConfig::default()
    };
    let mut cluster = Cluster::with("a", off);
    cluster.adopt("a", &awaiting(1, "a", ("a", 1, &[]), &[]));
    cluster.reborn("a", "a2");
    assert!(cluster.node("a2").is_empty());
}

/// H8: a `Take` for the life before is refused, as ever.
#[test]
fn h8_a_take_for_the_former_life_is_refused() {
    let mut cluster = back();
    let mut take = cluster.only_take();
    take.to = peer("a").life;
    let (to, now) = ("a2", cluster.now);
    let refused = cluster.node(to).take(&take, now).map(|_| ());
    assert_eq!(refused, Err(Refusal::WrongIncarnation));
}

/// Plan: a has fenced all for b and then begins anew. Its next life offers that, and names the taker; it claims nothing, since
/// it holds no assignment under which it could have.
#[test]
fn a11_h8_what_a_former_life_fenced_is_offered_and_not_claimed() {
    let mut cluster = Cluster::of("a b c");
    cluster.adopt("a", &awaiting(1, "a b c", ("a", 1, &[]), &[]));
    cluster.adopt("a b c", &awaiting(2, "a b c", ("b", 2, &[("a", 1)]), &[]));
    cluster.settle();
    cluster.reborn("a", "a2");
    assert_eq!(cluster.node("a2").claims(), []);
    let offers = cluster.node("a2").offers().expect("the copy is kept");
    let takers: Vec<_> = offers.ranges.into_iter().map(|offer| offer.taker).collect();
    assert_eq!(takers, [Some((life("b"), since(2)))]);
}
