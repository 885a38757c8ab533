//! What a provider answers to a `Take`: each verdict, each refusal, and that repeating a message repeats its answer.

use softstore_sharding::{Slice, Version};

use super::cluster::{Cluster, halves, key, life, peer, since, take, whole};
use crate::handoff::Admission;
use crate::message::{Refusal, Release, TakenRange, Verdict};

/// Node a holds all since 1, cold.
fn holder() -> Cluster {
    let mut cluster = Cluster::of("a b c");
    cluster.adopt("a", &whole(1, "a b c", ("a", 1, &[])));
    cluster
}

fn verdicts(cluster: &mut Cluster, message: &crate::message::Take) -> Vec<(Slice, Verdict)> {
    let now = cluster.now;
    let to = super::cluster::name_of(&message.to);
    let (reply, actions) = cluster.node(&to).take(message, now).unwrap();
    cluster.carry_out(&to, actions);
    reply
        .answers
        .into_iter()
        .map(|answer| (answer.slice, answer.verdict))
        .collect()
}

fn verdict(cluster: &mut Cluster, message: &crate::message::Take) -> Verdict {
    let [(_, verdict)] = verdicts(cluster, message).try_into().unwrap();
    verdict
}

#[test]
fn h1_fenced_whether_or_not_the_giver_has_heard_of_the_move() {
    for heard in [false, true] {
        let mut cluster = holder();
        if heard {
            cluster.adopt("a", &whole(2, "a b c", ("b", 2, &[("a", 1)])));
        }
        assert_eq!(cluster.says("a", 5), "serve 1", "an unfenced owner serves on");
        let answer = verdict(&mut cluster, &take("a", "b", Slice::FULL, 2, 1));
        assert!(matches!(answer, Verdict::Fenced { .. }), "{answer:?}");
        assert_eq!(cluster.says("a", 5), "moved b 2");
    }
}

#[test]
fn h1_repeating_a_take_repeats_its_answer() {
    let mut cluster = holder();
    let message = take("a", "b", Slice::FULL, 2, 1);
    let first = verdicts(&mut cluster, &message);
    assert_eq!(verdicts(&mut cluster, &message), first);
    // Also for a part of what was asked, and after the copy was released.
    let (left, _) = halves();
    let part = verdicts(&mut cluster, &take("a", "b", left, 2, 1));
    assert_eq!(part, [(left, first[0].1.clone())]);
}

#[test]
fn h1_another_taker_is_sent_to_the_one_it_was_fenced_for() {
    let mut cluster = holder();
    verdict(&mut cluster, &take("a", "b", Slice::FULL, 2, 1));
    let answer = verdict(&mut cluster, &take("a", "c", Slice::FULL, 3, 1));
    let (taker, since) = (peer("b"), since(2));
    assert_eq!(answer, Verdict::FencedTo { taker, since });
}

#[test]
fn h1_an_older_claim_is_superseded() {
    let mut cluster = holder();
    verdict(&mut cluster, &take("a", "c", Slice::FULL, 3, 1));
    let answer = verdict(&mut cluster, &take("a", "b", Slice::FULL, 2, 1));
    assert_eq!(answer, Verdict::Superseded { since: since(3) });
    // By the assignment alone as well.
    let mut cluster = holder();
    cluster.adopt("a", &whole(3, "a b c", ("c", 3, &[("a", 1)])));
    let answer = verdict(&mut cluster, &take("a", "b", Slice::FULL, 2, 1));
    assert_eq!(answer, Verdict::Superseded { since: since(3) });
    assert_eq!(cluster.says("a", 5), "serve 1");
}

/// Node a is asked under an acquisition that it has not heard of. It promises never to start under it, and keeps the
/// promise when the assignments arrive late: the very one, and one that came right after it.
#[test]
fn h1_not_started_is_a_promise_that_late_assignments_do_not_break() {
    let mut cluster = Cluster::of("a b");
    cluster.adopt("a", &whole(1, "a b", ("b", 1, &[])));
    let answer = verdict(&mut cluster, &take("a", "b", Slice::FULL, 4, 2));
    assert_eq!(answer, Verdict::NotStarted);
    cluster.adopt("a", &whole(2, "a b", ("a", 2, &[])));
    assert_eq!(cluster.says("a", 5), "not ready");
    // What is the same acquisition in the next generation, too.
    cluster.adopt("a", &whole(3, "a b", ("a", 2, &[])));
    assert_eq!(cluster.says("a", 5), "not ready");
    // A newer acquisition is another matter.
    cluster.adopt("a", &whole(6, "a b", ("a", 6, &[])));
    assert_eq!(cluster.says("a", 5), "serve 6");
}

#[test]
fn h1_not_started_under_a_newer_acquisition_leaves_the_older_holding() {
    let mut cluster = holder();
    let answer = verdict(&mut cluster, &take("a", "b", Slice::FULL, 4, 3));
    assert_eq!(answer, Verdict::NotStarted);
    assert_eq!(cluster.says("a", 5), "serve 1");
    // The renewal under 3 never starts, so b's next question finds the old holding.
    cluster.adopt("a", &whole(3, "a b c", ("a", 3, &[("a", 1)])));
    assert_eq!(cluster.says("a", 5), "serve 1");
    assert!(matches!(
        verdict(&mut cluster, &take("a", "b", Slice::FULL, 4, 1)),
        Verdict::Fenced { .. }
    ));
}

/// Node b is to take from a, its Take is on its way. Whoever asks b has to wait for that: a may have fenced already. It
/// does not matter which of b's acquisitions is asked about.
#[test]
fn h1_no_answer_while_a_take_of_ones_own_is_open() {
    let mut cluster = holder();
    cluster.adopt("b", &whole(2, "a b c", ("b", 2, &[("a", 1)])));
    let own = cluster.only_take();
    assert_eq!(
        verdict(&mut cluster, &take("b", "c", Slice::FULL, 3, 2)),
        Verdict::Searching
    );
    assert_eq!(
        verdict(&mut cluster, &take("b", "c", Slice::FULL, 3, 1)),
        Verdict::Searching
    );
    cluster.takes.push_back((own, false));
    cluster.settle();
    assert_eq!(cluster.owner_of(5).as_deref(), Some("b"));
    let answer = verdict(&mut cluster, &take("b", "c", Slice::FULL, 3, 2));
    assert!(matches!(answer, Verdict::Fenced { .. }), "{answer:?}");
    assert_eq!(cluster.owner_of(5), None);
}

#[test]
fn h2_a_holder_that_dropped_says_so() {
    let mut cluster = holder();
    // Listed neither as owner nor as provider: gone at once.
    cluster.adopt("a", &whole(2, "a b c", ("b", 2, &[])));
    assert_eq!(cluster.says("a", 5), "moved b 2");
    assert!(cluster.node("a").is_empty());
    // Listed for an acquisition that it never started: the older holding is gone all the same, and whoever asks about
    // that must not pass on to a provider older still.
    let mut cluster = holder();
    cluster.adopt("a", &whole(4, "a b c", ("b", 4, &[("a", 3)])));
    assert_eq!(
        verdict(&mut cluster, &take("a", "c", Slice::FULL, 5, 1)),
        Verdict::Dropped
    );
    assert_eq!(
        verdict(&mut cluster, &take("a", "c", Slice::FULL, 5, 3)),
        Verdict::NotStarted
    );
}

#[test]
fn h4_fenced_tells_where_versions_go_on() {
    let mut cluster = holder();
    let floor = since(1).first_version();
    let crate::Admission::Serve(serving) = cluster.node("a").admit(super::cluster::key(5), since(1)) else {
        panic!("a serves");
    };
    let last = (0..5).map(|_| serving.versions.take()).last().unwrap();
    let answer = verdict(&mut cluster, &take("a", "b", Slice::FULL, 2, 1));
    let next_version = Version::new(floor.get() + 5);
    assert!(last < next_version);
    assert_eq!(answer, Verdict::Fenced { next_version });
}

/// One message over a range of which the provider holds one half and had promised the other away.
#[test]
fn h1_answers_cover_what_was_asked_part_by_part() {
    let mut cluster = holder();
    let (left, right) = halves();
    verdict(&mut cluster, &take("a", "b", left, 2, 1));
    let answers = verdicts(&mut cluster, &take("a", "c", Slice::FULL, 3, 1));
    let [(first, first_verdict), (second, second_verdict)] = answers.try_into().unwrap();
    assert_eq!((first, second), (left, right));
    assert!(matches!(first_verdict, Verdict::FencedTo { .. }));
    assert!(matches!(second_verdict, Verdict::Fenced { .. }));
}

#[test]
fn h8_refusals_change_nothing() {
    let mut cluster = holder();
    cluster.adopt("a", &whole(5, "a b", ("a", 1, &[])));
    let mut swollen = take("a", "b", Slice::FULL, 6, 1);
    swollen.ranges = vec![swollen.ranges[0]; crate::message::TAKE_RANGES_MAX + 1];
    let mut doubled = take("a", "b", Slice::FULL, 6, 1);
    doubled.ranges.push(doubled.ranges[0]);
    let cases = [
        (take("a2", "b", Slice::FULL, 6, 1), Refusal::WrongIncarnation),
        (take("b", "a", Slice::FULL, 6, 1), Refusal::WrongIncarnation),
        (take("a", "c", Slice::FULL, 4, 1), Refusal::SenderDead),
        (take("a", "b2", Slice::FULL, 5, 1), Refusal::SenderDead),
        (
            take("a", "b", Slice::FULL, 6, 6),
            Refusal::Malformed("a range is taken under an acquisition no newer than the provider's"),
        ),
        (
            take("a", "a", Slice::FULL, 6, 1),
            Refusal::Malformed("a node cannot take from itself"),
        ),
        (swollen, Refusal::Malformed("too many ranges in one Take")),
        (doubled, Refusal::Malformed("two of its ranges overlap")),
    ];
    for (message, refusal) in cases {
        let now = cluster.now;
        assert_eq!(
            cluster.node("a").take(&message, now).map(|_| ()),
            Err(refusal),
            "{message:?}"
        );
        assert_eq!(cluster.says("a", 5), "serve 1");
    }
    let range = TakenRange {
        slice: Slice::FULL,
        since: since(6),
    };
    let doubled = Release {
        to: life("a"),
        taker: life("b"),
        ranges: vec![range; 2],
    };
    let refused = Refusal::Malformed("two of its ranges overlap");
    assert_eq!(cluster.node("a").release(&doubled), Err(refused));
    // A sender from the assignment's future may well live: it is told to ask again.
    let now = cluster.now;
    assert_eq!(
        cluster
            .node("a")
            .take(&take("a", "c", Slice::FULL, 6, 1), now)
            .map(|_| ()),
        Err(Refusal::Unheard)
    );
}

#[test]
fn h8_copies_are_for_their_taker_only() {
    let mut cluster = holder();
    verdict(&mut cluster, &take("a", "b", Slice::FULL, 2, 1));
    let at = super::cluster::key(5);
    let core = cluster.node("a");
    assert!(core.copy_at(at, since(2), &life("b")).is_some());
    assert!(core.copy_at(at, since(2), &life("c")).is_none());
    assert!(core.copy_at(at, since(2), &life("b2")).is_none());
    assert!(core.copy_at(at, since(1), &life("b")).is_none());
}

/// Plan: flushes of narrow slices cut a range up, and its parts get versions of their own. A Take of the whole is answered
/// as one, above the versions of all parts (H4), and the same again when repeated.
#[test]
fn h4_parts_that_are_fenced_together_answer_together() {
    let mut cluster = holder();
    for position in [10, 20, 30] {
        let (flushed, _) = cluster.node("a").flush(Slice::single(key(position)));
        assert_eq!(flushed, [Slice::single(key(position))]);
    }
    for position in [20, 20, 20, 30, 50] {
        match cluster.node("a").admit(key(position), since(1)) {
            Admission::Serve(serving) => serving.versions.take(),
            other => panic!("{other:?}"),
        };
    }
    let message = take("a", "b", Slice::FULL, 2, 1);
    let next_version = Version::new(since(1).first_version().get() + 3);
    let expected = [(Slice::FULL, Verdict::Fenced { next_version })];
    assert_eq!(verdicts(&mut cluster, &message), expected);
    assert_eq!(verdicts(&mut cluster, &message), expected);
}
