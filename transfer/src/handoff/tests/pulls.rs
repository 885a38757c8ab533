//! What still arrives, where it may go, and when it ends: pulls, frozen copies, chains.

use bytes::Bytes;
use softstore_sharding::session::{HandoffOutcome, VersionRange};
use softstore_sharding::{Epoch, Generation, PullId, Slice};

use super::cluster::{Cluster, assignment, halves, key, life, since, whole};
use crate::chunk::ChunkFormat;
use crate::config::HandoffConfig;
use crate::handoff::{Admission, CopyEnd, EPOCHS_FLUSHED_MAX, Notice, PullEnd};
use crate::message::{Refusal, Release, TakenRange};

/// a held all since 1; b took it since 2 and pulls. c stands by.
fn pulling() -> (Cluster, PullId) {
    let mut cluster = Cluster::of("a b c");
    cluster.adopt("a", &whole(1, "a b c", ("a", 1, &[])));
    cluster.adopt("a b", &whole(2, "a b c", ("b", 2, &[("a", 1)])));
    cluster.settle();
    let (_, pull, _) = cluster.pulls[0].clone();
    (cluster, pull)
}

/// As `pulling`, and b has been fenced for c since 3, in mid-pull.
fn chained() -> (Cluster, PullId, PullId) {
    let (mut cluster, of_b) = pulling();
    cluster.adopt("a b c", &whole(3, "a b c", ("c", 3, &[("b", 2), ("a", 1)])));
    cluster.settle();
    let (taker, of_c, _) = cluster.pulls[1].clone();
    assert_eq!(taker, "c");
    (cluster, of_b, of_c)
}

fn ends(cluster: &Cluster) -> Vec<PullEnd> {
    let ends = cluster.notices.iter().filter_map(|(_, notice)| match notice {
        Notice::PullEnded { end, .. } => Some(*end),
        _ => None,
    });
    ends.collect()
}

fn copies_dropped(cluster: &Cluster) -> Vec<CopyEnd> {
    let reasons = cluster.notices.iter().filter_map(|(_, notice)| match notice {
        Notice::CopyDropped { reason, .. } => Some(*reason),
        _ => None,
    });
    reasons.collect()
}

fn pull_of(cluster: &mut Cluster, name: &str) -> Option<PullId> {
    match cluster.node(name).admit(key(5), Generation::NONE) {
        Admission::Serve(serving) => serving.pull,
        other => panic!("{name} does not serve: {other:?}"),
    }
}

/// TTLs count from the first sending, however often the Take was repeated, and from its first receipt.
#[test]
fn h5_ttls_are_bounded_by_the_first_sending_and_the_first_receipt() {
    let mut cluster = Cluster::of("a b");
    cluster.adopt("a", &whole(1, "a b", ("a", 1, &[])));
    cluster.adopt("b", &whole(2, "a b", ("b", 2, &[("a", 1)])));
    let first_sent = cluster.now;
    let lost = cluster.only_take();
    cluster.later("b", 70);
    let received = cluster.now;
    cluster.deliver_take(&lost).unwrap();
    cluster.replies.clear();
    cluster.later("b", 70);
    cluster.settle();
    let (_, pull, _) = cluster.pulls[0].clone();
    assert_eq!(
        cluster.node("b").import_target(pull, key(5)).unwrap().first_sent,
        first_sent
    );
    let copy = cluster.node("a").copy_at(key(5), since(2), &life("b")).unwrap();
    assert_eq!(copy.received, received);
}

#[test]
fn h3_imports_and_peeks_end_with_the_pull() {
    let (mut cluster, pull) = pulling();
    assert_eq!(pull_of(&mut cluster, "b"), Some(pull));
    let target = cluster.node("b").peek_target(pull, key(5)).unwrap();
    assert_eq!((target.0.life, target.1), (life("a"), since(2)));
    assert_eq!(cluster.store_pulls, [("b".to_owned(), pull)]);
    let actions = cluster.node("b").pull_ended(pull, PullEnd::Complete);
    cluster.carry_out("b", actions);
    assert_eq!(pull_of(&mut cluster, "b"), None);
    assert!(cluster.node("b").import_target(pull, key(5)).is_none());
    assert!(cluster.node("b").peek_target(pull, key(5)).is_none());
    assert!(cluster.store_pulls.is_empty());
    // Ending it again changes nothing.
    assert!(cluster.node("b").pull_ended(pull, PullEnd::Full).is_empty());
}

#[test]
fn h7_a_broken_pull_resumes_at_its_cursor_until_the_deadline() {
    let (mut cluster, pull) = pulling();
    let cursor = Bytes::from_static(b"there");
    cluster.node("b").pull_advanced(pull, cursor.clone());
    let now = cluster.now;
    cluster.node("b").pull_broken(pull, now);
    let config = HandoffConfig::default();
    assert_eq!(
        cluster.node("b").wake_at(),
        Some(now.plus_ms(config.pull_retry_ms))
    );
    cluster.later("b", config.pull_retry_ms);
    let (_, again, request) = cluster.pulls[1].clone();
    assert_eq!((again, request.cursor), (pull, cursor));
    assert_eq!(cluster.pulls.len(), 2);
    // Open again: it is not opened twice.
    cluster.later("b", config.pull_retry_ms);
    assert_eq!(cluster.pulls.len(), 2);
    cluster.later("b", config.pull_deadline_ms);
    assert_eq!(ends(&cluster), [PullEnd::Deadline]);
    assert_eq!(
        cluster.reported("b", 2),
        [HandoffOutcome::Started, HandoffOutcome::GaveUp]
    );
    cluster.settle();
    assert_eq!(copies_dropped(&cluster), [CopyEnd::Released]);
    assert_eq!(cluster.says("b", 5), "serve 2");
}

#[test]
fn h7_a_dead_giver_ends_the_pull_and_a_dead_taker_frees_the_copy() {
    let (mut cluster, _) = pulling();
    cluster.adopt("b", &whole(3, "b c", ("b", 2, &[("a", 1)])));
    assert_eq!(ends(&cluster), [PullEnd::GiverDead]);
    assert_eq!(cluster.says("b", 5), "serve 2");
    assert!(cluster.releases.is_empty(), "nobody is there to be told");
    cluster.adopt("a", &whole(3, "a c", ("c", 3, &[("a", 1)])));
    assert_eq!(copies_dropped(&cluster), [CopyEnd::TakerDead]);
    assert!(cluster.node("a").is_empty());
}

#[test]
fn h7_copies_that_nobody_asks_for_are_dropped() {
    let (mut cluster, _) = pulling();
    cluster.adopt("a", &whole(3, "a b c", ("b", 2, &[])));
    assert_eq!(copies_dropped(&cluster), [CopyEnd::Unlisted]);
    let (mut cluster, _) = pulling();
    let age_ms_max = HandoffConfig::default().copy_age_ms_max;
    cluster.later("a", age_ms_max - 1);
    assert!(copies_dropped(&cluster).is_empty());
    let now = cluster.now;
    assert_eq!(cluster.node("a").wake_at(), Some(now.plus_ms(1)));
    cluster.later("a", 1);
    assert_eq!(copies_dropped(&cluster), [CopyEnd::TooOld]);
    assert_eq!(cluster.node("a").wake_at(), None);
}

#[test]
fn h8_pulls_are_granted_to_their_taker_in_a_common_format() {
    let (mut cluster, _) = pulling();
    let (_, _, request) = cluster.pulls[0].clone();
    let [grant] = cluster
        .node("a")
        .grant_pull(&request)
        .unwrap()
        .try_into()
        .unwrap();
    assert_eq!((grant.slice, grant.upstream), (Slice::FULL, None));
    let refused = |cluster: &mut Cluster, request: &crate::message::PullRequest| {
        cluster.node("a").grant_pull(request).unwrap_err()
    };
    let mut wrong = request.clone();
    wrong.to = life("a2");
    assert_eq!(refused(&mut cluster, &wrong), Refusal::WrongIncarnation);
    let mut wrong = request.clone();
    wrong.taker = life("c");
    assert_eq!(refused(&mut cluster, &wrong), Refusal::Gone);
    let mut wrong = request.clone();
    wrong.ranges.push(wrong.ranges[0]);
    let overlap = Refusal::Malformed("two of its ranges overlap");
    assert_eq!(refused(&mut cluster, &wrong), overlap);
    let mut wrong = request.clone();
    wrong.chunk_versions = VersionRange { min: 2, max: 9 };
    assert_eq!(refused(&mut cluster, &wrong), Refusal::NoCommonVersion);
    // Agreed on by both, and yet nothing that this build could write.
    let from_the_future = VersionRange { min: 1, max: 3 };
    cluster.add("a", HandoffConfig::default(), from_the_future);
    let mut pull = request;
    pull.chunk_versions = VersionRange { min: 1, max: 1 };
    assert_eq!(cluster.node("a").chunk_format(&pull), Ok(ChunkFormat::V1));
    pull.chunk_versions = VersionRange { min: 1, max: 2 };
    assert_eq!(
        cluster.node("a").chunk_format(&pull),
        Err(Refusal::NoCommonVersion)
    );
}

#[test]
fn a_stale_release_drops_nothing() {
    let (mut cluster, _) = pulling();
    let (_, _, request) = cluster.pulls[0].clone();
    // For another taker, or acquisition.
    for (taker, number) in [("c", 2), ("b", 3)] {
        let ranges = vec![TakenRange {
            slice: Slice::FULL,
            since: since(number),
        }];
        let release = Release {
            to: life("a"),
            taker: life(taker),
            ranges,
        };
        assert!(cluster.node("a").release(&release).unwrap().is_empty());
    }
    assert!(cluster.node("a").grant_pull(&request).is_ok());
}

/// b is fenced for c in mid-pull: what still arrives at b goes into the copy that it keeps for c.
#[test]
fn h6_a_chain_goes_on_filling_the_copy() {
    let (mut cluster, of_b, of_c) = chained();
    assert_eq!(cluster.owner_of(5).as_deref(), Some("c"));
    let copy = cluster.node("b").copy_at(key(5), since(3), &life("c")).unwrap();
    assert_eq!(copy.upstream, Some(of_b));
    assert_eq!(
        cluster.node("b").import_target(of_b, key(5)).unwrap().epoch,
        copy.epoch
    );
    let upstream = cluster.node("b").peek_target(of_b, key(5)).unwrap();
    assert_eq!((upstream.0.life, upstream.1), (life("a"), since(2)));
    assert_eq!(
        cluster.node("c").peek_target(of_c, key(5)).unwrap().0.life,
        life("b")
    );
    // b's own pull ends; c's goes on.
    let actions = cluster.node("b").pull_ended(of_b, PullEnd::Complete);
    cluster.carry_out("b", actions);
    cluster.settle();
    assert_eq!(
        cluster
            .node("b")
            .copy_at(key(5), since(3), &life("c"))
            .unwrap()
            .upstream,
        None
    );
    assert!(cluster.node("a").is_empty());
    assert_eq!(pull_of(&mut cluster, "c"), Some(of_c));
    // b is no owner any more: only c's word counts with the Assigner.
    assert_eq!(cluster.reported("b", 2), [HandoffOutcome::Started]);
}

#[test]
fn h6_the_last_in_a_chain_gives_up_and_all_is_freed() {
    let (mut cluster, _, of_c) = chained();
    let actions = cluster.node("c").pull_ended(of_c, PullEnd::Full);
    cluster.carry_out("c", actions);
    cluster.settle();
    assert!(cluster.node("a").is_empty() && cluster.node("b").is_empty());
    assert!(cluster.store_pulls.is_empty());
    assert_eq!(cluster.node("b").pulls_open(), 0);
}

/// The range comes back to b in mid-chain: b's own old pull fills a copy that nobody will ask for. It must not stay open.
#[test]
fn h7_a_chain_that_turns_back_leaves_no_pull_open() {
    let (mut cluster, of_b, _) = chained();
    cluster.adopt(
        "a b c",
        &whole(4, "a b c", ("b", 4, &[("c", 3), ("b", 2), ("a", 1)])),
    );
    cluster.settle();
    assert_eq!(cluster.owner_of(5).as_deref(), Some("b"));
    assert!(
        !cluster.store_pulls.contains(&("b".to_owned(), of_b)),
        "{:?}",
        cluster.store_pulls
    );
    assert!(cluster.node("b").import_target(of_b, key(5)).is_none());
    assert_eq!(cluster.node("b").pulls_open(), 1);
    assert!(cluster.node("a").is_empty());
}

/// A renewal does not touch the pull: the giver knows the range by the acquisition it was taken under.
#[test]
fn h4_a_pull_goes_on_through_a_renewal() {
    let (mut cluster, pull) = pulling();
    cluster.adopt("b", &whole(5, "a b c", ("b", 5, &[("b", 2), ("a", 1)])));
    assert_eq!(cluster.says("b", 5), "serve 5");
    assert_eq!(pull_of(&mut cluster, "b"), Some(pull));
    assert_eq!(cluster.node("b").peek_target(pull, key(5)).unwrap().1, since(2));
    let actions = cluster.node("b").pull_ended(pull, PullEnd::Complete);
    cluster.carry_out("b", actions);
    assert_eq!(
        cluster.reported("b", 5),
        [HandoffOutcome::Started, HandoffOutcome::Completed]
    );
}

/// One pull fills two slices; one is flushed. Its part of the pull ends and is released, the other goes on.
#[test]
fn h3_a_flush_ends_the_pull_of_its_slice_only() {
    let (left, right) = halves();
    let mut cluster = Cluster::of("a b");
    cluster.adopt("a", &whole(1, "a b", ("a", 1, &[])));
    let moved = [
        (left, ("b", 2, &[("a", 1)][..])),
        (right, ("b", 2, &[("a", 1)][..])),
    ];
    cluster.adopt("a b", &assignment(2, "a b", &moved));
    cluster.settle();
    assert_eq!(cluster.pulls.len(), 1, "one pull for all from one giver");
    let (_, pull, _) = cluster.pulls[0].clone();
    let (flushed, actions) = cluster.node("b").flush(left);
    assert_eq!(flushed, [left]);
    cluster.carry_out("b", actions);
    assert!(cluster.node("b").import_target(pull, key(5)).is_none());
    assert!(cluster.node("b").import_target(pull, key(500)).is_some());
    cluster.settle();
    assert!(cluster.node("a").copy_at(key(5), since(2), &life("b")).is_none());
    assert!(
        cluster
            .node("a")
            .copy_at(key(500), since(2), &life("b"))
            .is_some()
    );
    let (flushed, actions) = cluster.node("b").flush(Slice::FULL);
    assert_eq!(flushed, [left, right]);
    cluster.carry_out("b", actions);
    cluster.settle();
    assert!(cluster.store_pulls.is_empty() && cluster.node("a").is_empty());
    assert_eq!(
        cluster
            .reported("b", 2)
            .iter()
            .filter(|outcome| **outcome == HandoffOutcome::Completed)
            .count(),
        2
    );
}

/// Plan: b pulls two ranges from a in one pull, and peeks a key of one whose copy a no longer has (it owns that range
/// again). That range takes no more from the pull, and is reported; the other goes on filling, from a copy that a keeps.
#[test]
fn h6_a_copy_that_is_gone_ends_the_pull_of_its_range_alone() {
    let (left, right) = halves();
    let mut cluster = Cluster::of("a b");
    cluster.adopt(
        "a b",
        &assignment(1, "a b", &[(left, ("a", 1, &[])), (right, ("a", 1, &[]))]),
    );
    cluster.settle();
    let moved = [
        (left, ("b", 2, &[("a", 1)][..])),
        (right, ("b", 2, &[("a", 1)][..])),
    ];
    cluster.adopt("a b", &assignment(2, "a b", &moved));
    cluster.settle();
    let (_, pull, _) = cluster.pulls[0].clone();
    let actions = cluster.node("b").pull_gone(pull, key(5));
    cluster.carry_out("b", actions);
    cluster.settle();
    assert!(ends(&cluster).is_empty(), "the pull goes on");
    assert!(cluster.node("b").import_target(pull, key(5)).is_none());
    assert!(cluster.node("b").import_target(pull, key(500)).is_some());
    assert!(
        cluster
            .node("a")
            .copy_at(key(500), since(2), &life("b"))
            .is_some()
    );
    assert!(cluster.reported("b", 2).contains(&HandoffOutcome::GaveUp));
    assert!(cluster.node("b").pull_gone(pull, key(5)).is_empty(), "said twice");
}

#[test]
fn h7_a_copy_that_is_gone_ends_the_pull() {
    let (mut cluster, pull) = pulling();
    let actions = cluster.node("b").pull_gone(pull, key(5));
    cluster.carry_out("b", actions);
    assert_eq!(ends(&cluster), [PullEnd::Gone]);
    assert_eq!(
        cluster.reported("b", 2),
        [HandoffOutcome::Started, HandoffOutcome::GaveUp]
    );
    assert_eq!(cluster.says("b", 5), "serve 2");
}

/// Plan: flush ever other single positions. What is held may be cut up to a limit; further cuts are refused, and a flush of
/// everything is still possible and joins it all again.
#[test]
fn flushes_cut_up_what_is_held_only_so_far() {
    let mut cluster = Cluster::of("a");
    cluster.adopt("a", &whole(1, "a", ("a", 1, &[])));
    let core = cluster.node("a");
    let mut refused = 0;
    for position in 0..5_000 {
        let (flushed, _) = core.flush(Slice::single(key(2 * position)));
        refused += usize::from(flushed.is_empty());
    }
    assert!(refused > 1_000, "{refused}");
    assert!(core.counts().held <= 4_098, "{}", core.counts().held);
    let (flushed, _) = core.flush(Slice::FULL);
    assert_eq!(
        flushed.iter().map(|part| part.width()).sum::<u128>(),
        Slice::FULL.width()
    );
    assert_eq!(core.counts().held, 1);
}

/// Plan: more flushes than can be told apart. From then on they are refused and change nothing; hand-offs still find
/// epochs of their own.
#[test]
fn flushes_leave_epochs_for_hand_offs() {
    let mut cluster = Cluster::of("a");
    cluster.adopt("a", &whole(1, "a", ("a", 1, &[])));
    let core = cluster.node("a");
    core.epochs_given = EPOCHS_FLUSHED_MAX - 1;
    assert_eq!(core.flush(Slice::FULL).0, [Slice::FULL]);
    let (flushed, actions) = core.flush(Slice::FULL);
    assert!(flushed.is_empty() && actions.is_empty());
    assert_eq!(cluster.says("a", 5), "serve 1");
    let core = cluster.node("a");
    assert_eq!(core.next_epoch(), Epoch::new(EPOCHS_FLUSHED_MAX + 1));
}

/// Plan: b's pull ends, and the Assigner, replaced meanwhile, has not heard of it: its assignment still lists the giver. b
/// says so again, for each such assignment, and only for what has ended.
#[test]
fn h7_an_ended_hand_off_is_reported_until_the_assigner_knows() {
    let (mut cluster, pull) = pulling();
    let still_open = |generation| whole(generation, "a b c", ("b", 2, &[("a", 1)]));
    cluster.adopt("b", &still_open(3));
    assert_eq!(cluster.reported("b", 2), [HandoffOutcome::Started]);
    let actions = cluster.node("b").pull_ended(pull, PullEnd::Complete);
    cluster.carry_out("b", actions);
    cluster.adopt("b", &still_open(4));
    let again = [
        HandoffOutcome::Started,
        HandoffOutcome::Completed,
        HandoffOutcome::Completed,
    ];
    assert_eq!(cluster.reported("b", 2), again);
    cluster.adopt("b", &whole(5, "a b c", ("b", 2, &[])));
    assert_eq!(cluster.reported("b", 2), again);
}

/// Plan: messages hold two ranges of a `Take`, and one of anything else. b takes five ranges from a, which held each under
/// another acquisition. Every message keeps to its limit; what an answer leaves out, the repeated `Take` asks for; in the end
/// all is owned by b, and all copies are released.
#[test]
fn no_message_of_a_hand_off_is_larger_than_it_may_be() {
    let config = HandoffConfig {
        take_ranges_max: 2,
        taken_ranges_max: 1,
        ..HandoffConfig::default()
    };
    let mut cluster = Cluster::with("a b", config);
    let part = |index: u64| Slice::new(key(index * 10), (index < 4).then(|| key(index * 10 + 10))).unwrap();
    let held: Vec<_> = (0..5)
        .map(|index| (part(index), ("a", 1 + index, &[][..])))
        .collect();
    cluster.adopt("a b", &assignment(10, "a b", &held));
    let providers: Vec<[(&str, u64); 1]> = (0..5).map(|index| [("a", 1 + index)]).collect();
    let moved: Vec<_> = (0..5u64)
        .zip(&providers)
        .map(|(index, providers)| (part(index), ("b", 20, &providers[..])))
        .collect();
    cluster.adopt("a b", &assignment(20, "a b", &moved));
    assert_eq!(cluster.takes.len(), 3);
    let mut rounds = 0;
    while cluster.node("b").counts().pending > 0 {
        assert!(cluster.takes.iter().all(|(take, _)| take.ranges.len() <= 2));
        while let Some((take, _)) = cluster.takes.pop_front() {
            cluster.deliver_take(&take).unwrap();
        }
        assert!(cluster.replies.iter().all(|(_, reply)| reply.answers.len() == 1));
        cluster.settle();
        cluster.later("b", 60);
        rounds += 1;
    }
    assert_eq!(rounds, 3);
    assert!((0..5).all(|index| cluster.owner_of(index * 10).as_deref() == Some("b")));
    assert_eq!(cluster.pulls.len(), 5);
    assert!(
        cluster
            .pulls
            .iter()
            .all(|(_, _, request)| request.ranges.len() == 1)
    );
    for (name, pull, _) in cluster.pulls.clone() {
        let actions = cluster.node(&name).pull_ended(pull, PullEnd::Complete);
        cluster.carry_out(&name, actions);
    }
    assert!(cluster.releases.iter().all(|release| release.ranges.len() == 1));
    cluster.settle();
    assert_eq!(cluster.node("a").counts().giving, 0);
}

/// Plan: a answers for three ranges at once, since it held them as one. Where a pull holds two ranges, b opens two pulls.
#[test]
fn what_one_answer_fenced_is_pulled_in_as_many_pulls_as_it_takes() {
    let config = HandoffConfig {
        taken_ranges_max: 2,
        ..HandoffConfig::default()
    };
    let mut cluster = Cluster::with("a b", config);
    let (left, right) = halves();
    let (middle, right) = right.split_before(key(200)).unwrap();
    cluster.adopt("a b", &whole(1, "a b", ("a", 1, &[])));
    let moved = [left, middle, right].map(|part| (part, ("b", 2, &[("a", 1)][..])));
    cluster.adopt("a b", &assignment(2, "a b", &moved));
    cluster.settle();
    let ranges: Vec<usize> = cluster
        .pulls
        .iter()
        .map(|(_, _, request)| request.ranges.len())
        .collect();
    assert_eq!(ranges, [2, 1]);
    assert!([5, 150, 500].map(|at| cluster.owner_of(at).as_deref() == Some("b")) == [true; 3]);
}
