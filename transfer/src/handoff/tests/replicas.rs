//! Read leases: granted, extended, recalled, waited for, and what is read under them.

use softstore_sharding::{Epoch, Generation, Slice, Timestamp};

use super::cluster::{Cluster, halves, key, life, peer, since, take, whole, whole_read_by};
use crate::handoff::{
    Clearance, ColdReason, Notice, READ_LEASE_MS, READ_LEASE_OUT_MS_MAX, READ_LEASE_RENEW_MS,
};
use crate::message::{Invalidate, LeaseGrant, LeaseReply, LeaseRequest, Refusal, TakenRange};

const AT: u64 = 5;

fn at() -> Slice {
    Slice::single(key(AT))
}

/// a owns all since 1, b reads it.
fn read_by_b() -> Cluster {
    let mut cluster = Cluster::of("a b");
    cluster.adopt("a b", &whole_read_by(1, "a b", ("a", 1, &[]), &["b"], false));
    cluster
}

fn request(reader: &str, slice: Slice, number: u64) -> LeaseRequest {
    LeaseRequest {
        to: life("a"),
        reader: life(reader),
        ranges: vec![TakenRange {
            slice,
            since: since(number),
        }],
    }
}

/// The owner `a` is asked; each grant's number and length.
fn lend(cluster: &mut Cluster, request: &LeaseRequest) -> Vec<(Slice, u64, u64)> {
    let reply = answer(cluster, request);
    let grants = reply.grants.iter();
    grants
        .map(|grant| (grant.slice, grant.number, grant.lease_ms))
        .collect()
}

fn answer(cluster: &mut Cluster, request: &LeaseRequest) -> LeaseReply {
    let now = cluster.now;
    cluster.node("a").lend(request, None, now).unwrap()
}

/// b asks, and hears at once.
fn b_gets_a_lease(cluster: &mut Cluster) {
    let (request, sequence) = cluster.lease_requests.pop_back().unwrap();
    let reply = answer(cluster, &request);
    b_hears(cluster, &reply, sequence, cluster.now);
}

fn b_hears(cluster: &mut Cluster, reply: &LeaseReply, sequence: u64, sent: Timestamp) {
    let now = cluster.now;
    let actions = cluster.node("b").lease_answered(reply, sequence, sent, now);
    cluster.carry_out("b", actions.unwrap());
}

/// The epoch under which b reads.
fn read_at_b(cluster: &mut Cluster) -> Option<Epoch> {
    let now = cluster.now;
    let reading = cluster.node("b").admit_read(key(AT), Generation::NONE, now)?;
    Some(reading.epoch)
}

fn waits(cluster: &mut Cluster, clearance: &Clearance) -> usize {
    let now = cluster.now;
    let waits_for = cluster.node("a").waits_for(at(), clearance, now).len();
    let may_write = cluster.node("a").may_write(at(), clearance, now);
    assert_eq!(may_write, waits_for == 0);
    waits_for
}

fn revoke(cluster: &mut Cluster, slice: Slice) {
    let message = Invalidate {
        to: life("b"),
        owner: life("a"),
        keys: Vec::new(),
        revoked: vec![slice],
    };
    let now = cluster.now;
    let actions = cluster.node("b").revoked(&message, now).unwrap();
    cluster.carry_out("b", actions);
}

/// Plan: what is granted to whom. Rows: who asks, for what, under which acquisition; how many grants.
#[test]
fn h2_only_what_is_held_and_listed_is_lent() {
    let mut cluster = Cluster::of("a b c");
    cluster.adopt("a b c", &whole_read_by(1, "a b c", ("a", 1, &[]), &["b"], false));
    let (left, _) = halves();
    assert_eq!(
        lend(&mut cluster, &request("b", left, 1)),
        [(left, 1, READ_LEASE_MS)]
    );
    assert_eq!(lend(&mut cluster, &request("c", left, 1)), [], "not listed");
    assert_eq!(
        lend(&mut cluster, &request("b", left, 2)),
        [],
        "another acquisition"
    );
    assert_eq!(lend(&mut cluster, &request("b2", left, 3)), [], "another life");
    let wrong = LeaseRequest {
        to: life("a2"),
        ..request("b", left, 1)
    };
    let now = cluster.now;
    let refused = cluster.node("a").lend(&wrong, None, now);
    assert_eq!(refused, Err(Refusal::WrongIncarnation));
    // A node that is only to own the range lends nothing of it.
    cluster.adopt(
        "b",
        &whole_read_by(2, "a b c", ("b", 2, &[("a", 1)]), &["c"], true),
    );
    let to_b = LeaseRequest {
        to: life("b"),
        ..request("c", left, 2)
    };
    assert!(
        cluster
            .node("b")
            .lend(&to_b, None, now)
            .unwrap()
            .grants
            .is_empty()
    );
}

/// Plan: a lease is extended under its number while it is live here, and gets another after. A wider request is cut.
#[test]
fn a_live_lease_goes_on_under_its_number() {
    let mut cluster = read_by_b();
    let (left, right) = halves();
    assert_eq!(
        lend(&mut cluster, &request("b", left, 1)),
        [(left, 1, READ_LEASE_MS)]
    );
    cluster.now = cluster.now.plus_ms(READ_LEASE_OUT_MS_MAX - 1);
    let both = lend(&mut cluster, &request("b", Slice::FULL, 1));
    assert_eq!(both, [(left, 1, READ_LEASE_MS), (right, 2, READ_LEASE_MS)]);
    cluster.now = cluster.now.plus_ms(READ_LEASE_OUT_MS_MAX);
    let again = lend(&mut cluster, &request("b", Slice::FULL, 1));
    assert_eq!(again, [(Slice::FULL, 3, READ_LEASE_MS)]);
}

/// Plan: the owner's own lease has 550 ms left, or nothing. What it grants ends before that.
#[test]
fn h2_a_read_lease_ends_before_its_granters_own() {
    let mut cluster = read_by_b();
    let now = cluster.now;
    let asked = request("b", Slice::FULL, 1);
    let reply = cluster.node("a").lend(&asked, Some(550), now).unwrap();
    assert_eq!(reply.grants[0].lease_ms, 500);
    let reply = cluster.node("a").lend(&asked, Some(0), now).unwrap();
    assert!(reply.grants.is_empty());
}

/// Plan: a write where b reads. It waits for b's answer, or for the end of b's lease, which comes later here than there. A lease
/// that begins after the mark is not waited for; one that was extended is.
#[test]
fn h2_a_write_waits_for_those_who_read() {
    let mut cluster = read_by_b();
    assert_eq!(waits(&mut cluster, &Clearance::default()), 0);
    b_gets_a_lease(&mut cluster);
    assert_eq!(waits(&mut cluster, &Clearance::default()), 1);
    let mut clearance = cluster.node("a").clearance();
    assert_eq!(waits(&mut cluster, &clearance), 1);
    clearance.answered(life("b"));
    assert_eq!(waits(&mut cluster, &clearance), 0);
    // b does not answer, but goes on asking.
    let clearance = cluster.node("a").clearance();
    cluster.later("b", READ_LEASE_RENEW_MS);
    b_gets_a_lease(&mut cluster);
    cluster.now = cluster.now.plus_ms(READ_LEASE_MS);
    assert_eq!(read_at_b(&mut cluster), None);
    assert_eq!(waits(&mut cluster, &clearance), 1);
    cluster.now = cluster.now.plus_ms(READ_LEASE_OUT_MS_MAX - READ_LEASE_MS);
    assert_eq!(waits(&mut cluster, &clearance), 0);
    // Another lease, given after the mark.
    cluster.later("b", 0);
    b_gets_a_lease(&mut cluster);
    assert!(read_at_b(&mut cluster).is_some());
    assert_eq!(waits(&mut cluster, &clearance), 0);
    assert_eq!(waits(&mut cluster, &Clearance::default()), 1);
}

/// Plan: b does not answer but is heard: its requests arrive. It is lent nothing more until what it holds is over, so that a
/// write ends its wait; and then it is.
#[test]
fn h7_who_does_not_answer_is_lent_nothing() {
    let mut cluster = read_by_b();
    b_gets_a_lease(&mut cluster);
    let clearance = cluster.node("a").clearance();
    let now = cluster.now;
    cluster.node("a").withhold(&life("b"), now);
    cluster.now = cluster.now.plus_ms(READ_LEASE_OUT_MS_MAX - 1);
    assert_eq!(lend(&mut cluster, &request("b", Slice::FULL, 1)), []);
    assert_eq!(waits(&mut cluster, &clearance), 1);
    cluster.now = cluster.now.plus_ms(1);
    assert_eq!(waits(&mut cluster, &clearance), 0);
    assert_eq!(lend(&mut cluster, &request("b", Slice::FULL, 1)).len(), 1);
}

/// Plan: b answers nothing though it is heard, and goes on so each time that it is lent something again: it is lent something
/// ever more seldom. When it answers at last, it is lent to at once, and the next silence counts as the first.
#[test]
fn h7_who_goes_on_being_silent_is_lent_to_ever_more_seldom() {
    let mut cluster = read_by_b();
    let asked = request("b", Slice::FULL, 1);
    let silent = |cluster: &mut Cluster, before_ms: u64| {
        assert_eq!(lend(cluster, &asked).len(), 1);
        let mut now = cluster.now;
        cluster.node("a").withhold(&life("b"), now);
        // Said again and again, as calls fail.
        cluster.now = now.plus_ms(before_ms - 1);
        now = cluster.now;
        cluster.node("a").withhold(&life("b"), now);
        assert_eq!(lend(cluster, &asked), [], "{before_ms} ms");
        cluster.now = now.plus_ms(1);
    };
    for pause_ms in [1, 2, 4, 8, 16].map(|times| times * READ_LEASE_OUT_MS_MAX) {
        silent(&mut cluster, pause_ms);
    }
    silent(&mut cluster, 30_000);
    assert_eq!(lend(&mut cluster, &asked).len(), 1);
    let now = cluster.now;
    cluster.node("a").withhold(&life("b"), now);
    assert_eq!(lend(&mut cluster, &asked), []);
    assert!(cluster.node("a").owes_an_answer(&life("b")));
    cluster.node("a").answered_again(&life("b"));
    assert_eq!(lend(&mut cluster, &asked).len(), 1);
    silent(&mut cluster, READ_LEASE_OUT_MS_MAX);
}

/// Plan: a reader fills by the number of a live lease alone, where it has one.
#[test]
fn h2_only_a_live_lease_fills() {
    let mut cluster = read_by_b();
    let (left, right) = halves();
    lend(&mut cluster, &request("b", left, 1));
    let now = cluster.now;
    let node = cluster.node("a");
    assert!(node.is_lent(left.low(), &life("b"), 1, now));
    assert!(!node.is_lent(left.low(), &life("b"), 2, now));
    assert!(!node.is_lent(right.low(), &life("b"), 1, now));
    assert!(!node.is_lent(left.low(), &life("b2"), 1, now));
    assert!(!node.is_lent(left.low(), &life("b"), 1, now.plus_ms(READ_LEASE_OUT_MS_MAX)));
}

/// Plan: b reads, c takes. a serves on and fences only when b has answered; meanwhile b is lent nothing.
#[test]
fn h2_a_part_that_is_lent_is_not_fenced() {
    let mut cluster = Cluster::of("a b c");
    cluster.adopt("a b c", &whole_read_by(1, "a b c", ("a", 1, &[]), &["b"], false));
    b_gets_a_lease(&mut cluster);
    let message = take("a", "c", Slice::FULL, 2, 1);
    cluster.deliver_take(&message).unwrap();
    assert_eq!(cluster.says("a", AT), "serve 1");
    let (_, reader, slices, number) = cluster.recalls.pop_front().unwrap();
    assert_eq!((reader.as_str(), number), ("b", 1));
    assert_eq!(lend(&mut cluster, &request("b", Slice::FULL, 1)), []);
    // While nobody has answered the taker asks again, and the shell, which repeats it by itself, is not told again.
    cluster.deliver_take(&message).unwrap();
    assert!(cluster.recalls.is_empty());
    assert_eq!(cluster.says("a", AT), "serve 1");
    cluster.node("a").returned(&life("b"), &slices, number);
    cluster.deliver_take(&message).unwrap();
    assert_eq!(cluster.says("a", AT), "moved c 2");
    assert_eq!(cluster.node("a").counts().lent, 0);
}

/// Plan: the same, but b never answers: its lease's end is waited for. And a taker that gives up leaves no range unlent.
#[test]
fn h7_a_taker_waits_no_longer_than_for_the_end_of_leases() {
    let mut cluster = Cluster::of("a b c");
    cluster.adopt("a b c", &whole_read_by(1, "a b c", ("a", 1, &[]), &["b"], false));
    b_gets_a_lease(&mut cluster);
    let message = take("a", "c", Slice::FULL, 2, 1);
    cluster.deliver_take(&message).unwrap();
    // The taker is not heard of again: b is lent something only when the old lease is over.
    cluster.now = cluster.now.plus_ms(READ_LEASE_MS);
    assert_eq!(
        lend(&mut cluster, &request("b", Slice::FULL, 1)),
        [],
        "still live"
    );
    cluster.now = cluster.now.plus_ms(READ_LEASE_OUT_MS_MAX - READ_LEASE_MS);
    assert_eq!(lend(&mut cluster, &request("b", Slice::FULL, 1)).len(), 1);
    cluster.deliver_take(&message).unwrap();
    assert_eq!(cluster.says("a", AT), "serve 1");
    cluster.now = cluster.now.plus_ms(READ_LEASE_OUT_MS_MAX - 1);
    cluster.deliver_take(&message).unwrap();
    assert_eq!(cluster.says("a", AT), "serve 1");
    cluster.now = cluster.now.plus_ms(1);
    cluster.deliver_take(&message).unwrap();
    assert_eq!(cluster.says("a", AT), "moved c 2");
}

/// Plan: b is no replica any more: a asks its lease back at once. b becomes one again before it has answered; the late answer
/// voids nothing that it was granted since.
#[test]
fn h2_a_late_return_voids_no_later_lease() {
    let mut cluster = read_by_b();
    b_gets_a_lease(&mut cluster);
    cluster.adopt("a", &whole(2, "a b", ("a", 1, &[])));
    let (_, reader, slices, number) = cluster.recalls.pop_front().unwrap();
    assert_eq!(reader, "b");
    cluster.adopt("a", &whole_read_by(3, "a b", ("a", 1, &[]), &["b"], true));
    assert!(cluster.recalls.is_empty());
    assert_eq!(
        lend(&mut cluster, &request("b", Slice::FULL, 1)),
        [],
        "asked back"
    );
    cluster.now = cluster.now.plus_ms(READ_LEASE_OUT_MS_MAX);
    let later = lend(&mut cluster, &request("b", Slice::FULL, 1));
    assert_eq!(later, [(Slice::FULL, 2, READ_LEASE_MS)]);
    cluster.node("a").returned(&life("b"), &slices, number);
    assert_eq!(waits(&mut cluster, &Clearance::default()), 1);
}

/// Plan: a goes on under a new acquisition (a renewal). What it has lent stays lent.
#[test]
fn h2_leases_outlast_a_renewal() {
    let mut cluster = read_by_b();
    b_gets_a_lease(&mut cluster);
    cluster.adopt("a", &whole_read_by(2, "a b", ("a", 2, &[("a", 1)]), &["b"], true));
    assert_eq!(cluster.says("a", AT), "serve 2");
    assert_eq!(waits(&mut cluster, &Clearance::default()), 1);
    assert_eq!(lend(&mut cluster, &request("b", Slice::FULL, 2))[0].1, 1);
}

/// Plan: the range's owner died, and leases of its replicas may be out. b starts cold only when they are over, wakes for that,
/// and tells a taker meanwhile that it has not started. Where none can be out it starts at once.
#[test]
fn h2_a_cold_start_waits_for_leases_that_may_be_out() {
    let mut cluster = Cluster::of("b c");
    cluster.adopt("b", &whole_read_by(2, "b c", ("b", 2, &[]), &["c"], true));
    assert_eq!(cluster.says("b", AT), "hold");
    let due = cluster.now.plus_ms(READ_LEASE_OUT_MS_MAX);
    assert_eq!(cluster.node("b").wake_at(), Some(due));
    cluster.later("b", READ_LEASE_OUT_MS_MAX - 1);
    assert_eq!(cluster.says("b", AT), "hold");
    cluster.later("b", 1);
    assert_eq!(cluster.says("b", AT), "serve 2");
    let is_cold = |notice: &Notice| {
        let cold = ColdReason::NoProvider;
        matches!(notice, Notice::StartedCold { reason, .. } if *reason == cold)
    };
    assert_eq!(cluster.noticed(is_cold), 1);

    let mut cluster = Cluster::of("b c");
    cluster.adopt("b", &whole_read_by(2, "b c", ("b", 2, &[]), &[], true));
    cluster.adopt("c", &whole_read_by(3, "b c", ("c", 3, &[("b", 2)]), &[], true));
    cluster.settle();
    cluster.later("b", READ_LEASE_OUT_MS_MAX);
    assert_ne!(cluster.says("b", AT), "serve 2");
    cluster.later("c", READ_LEASE_OUT_MS_MAX);
    assert_eq!(cluster.says("c", AT), "serve 3");

    let mut cluster = Cluster::of("b c");
    cluster.adopt("b", &whole_read_by(2, "b c", ("b", 2, &[]), &["c"], false));
    assert_eq!(cluster.says("b", AT), "serve 2");
}

/// Plan: the provider fences: all leases are over, whatever the assignment says of earlier ones.
#[test]
fn h2_a_warm_start_waits_for_nothing() {
    let mut cluster = read_by_b();
    cluster.adopt("b", &whole_read_by(2, "a b", ("b", 2, &[("a", 1)]), &[], true));
    cluster.settle();
    assert_eq!(cluster.says("b", AT), "serve 2");
}

/// Plan: b asks at once when it is a replica, and again every so often; it reads until its lease is over, counted from the
/// sending; a client that knows a newer acquisition is not answered.
#[test]
fn h2_a_replica_reads_under_a_lease_from_its_sending() {
    let mut cluster = read_by_b();
    let (request, sequence) = cluster.lease_requests.pop_front().unwrap();
    let sent = cluster.now;
    assert_eq!(
        cluster.node("b").wake_at(),
        Some(sent.plus_ms(READ_LEASE_RENEW_MS))
    );
    assert_eq!(read_at_b(&mut cluster), None);
    let reply = answer(&mut cluster, &request);
    cluster.now = sent.plus_ms(400);
    b_hears(&mut cluster, &reply, sequence, sent);
    assert!(read_at_b(&mut cluster).is_some());
    let now = cluster.now;
    assert!(cluster.node("b").admit_read(key(AT), since(2), now).is_none());
    assert_eq!(cluster.says("b", AT), "moved a 1");
    cluster.now = sent.plus_ms(READ_LEASE_MS - 1);
    assert!(read_at_b(&mut cluster).is_some());
    cluster.now = sent.plus_ms(READ_LEASE_MS);
    assert_eq!(read_at_b(&mut cluster), None);
    // Heard only when it is over: it never was.
    b_hears(&mut cluster, &reply, sequence, sent);
    assert_eq!(read_at_b(&mut cluster), None);
    cluster.later("b", 0);
    assert_eq!(cluster.node("b").counts().reading, 0);
    assert_eq!(cluster.purges.len(), 1);
    assert_eq!(cluster.lease_requests.len(), 1);
}

/// Plan: leases one after another. Extended in time, the copies stay; after a gap, or under another number, they go.
#[test]
fn h2_copies_outlive_no_gap_between_leases() {
    let mut cluster = read_by_b();
    b_gets_a_lease(&mut cluster);
    let first = read_at_b(&mut cluster).unwrap();
    cluster.later("b", READ_LEASE_RENEW_MS);
    b_gets_a_lease(&mut cluster);
    assert_eq!(read_at_b(&mut cluster), Some(first));
    // The owner still counts it as live, but here it is over.
    cluster.later("b", READ_LEASE_RENEW_MS);
    let (request, sequence) = cluster.lease_requests.pop_back().unwrap();
    let (sent, reply) = (cluster.now, answer(&mut cluster, &request));
    cluster.now = cluster.now.plus_ms(READ_LEASE_MS - READ_LEASE_RENEW_MS);
    b_hears(&mut cluster, &reply, sequence, sent);
    let second = read_at_b(&mut cluster).unwrap();
    assert_ne!(second, first);
    let now = cluster.now;
    assert!(cluster.node("b").reading_stands(key(AT), second, now));
    assert!(!cluster.node("b").reading_stands(key(AT), first, now));
    // The owner forgot it, and gave another.
    cluster.node("a").returned(&life("b"), &[Slice::FULL], 1);
    cluster.later("b", READ_LEASE_MS - READ_LEASE_RENEW_MS - 1);
    b_gets_a_lease(&mut cluster);
    assert_ne!(read_at_b(&mut cluster), Some(second));
}

/// Plan: a lease is revoked while a request for it is under way. The answer to that is not believed, the answer to a later
/// one is; nor is one believed that comes where nothing was read yet.
#[test]
fn h2_a_revoked_lease_is_not_revived() {
    let mut cluster = read_by_b();
    let (request, first) = cluster.lease_requests.pop_back().unwrap();
    let reply = answer(&mut cluster, &request);
    let (left, right) = halves();
    revoke(&mut cluster, left);
    let sent = cluster.now;
    b_hears(&mut cluster, &reply, first, sent);
    assert_eq!(read_at_b(&mut cluster), None);
    let now = cluster.now;
    assert!(cluster.node("b").admit_read(right.low(), since(1), now).is_some());
    cluster.later("b", READ_LEASE_RENEW_MS);
    b_gets_a_lease(&mut cluster);
    assert!(read_at_b(&mut cluster).is_some());
    revoke(&mut cluster, Slice::FULL);
    assert_eq!(read_at_b(&mut cluster), None);
    assert_eq!(cluster.node("b").counts().reading, 0);
}

/// Plan: what an assignment ends: another acquisition, another owner, a dead one, another replica.
#[test]
fn h2_a_reading_ends_with_what_the_assignment_says() {
    let endings = [
        whole_read_by(2, "a b", ("a", 2, &[("a", 1)]), &["b"], true),
        whole_read_by(2, "a b c", ("c", 2, &[("a", 1)]), &["b"], true),
        whole_read_by(2, "b", ("a", 1, &[]), &["b"], true),
        whole_read_by(2, "a b", ("a", 1, &[]), &[], true),
        whole_read_by(2, "a b", ("b", 2, &[("a", 1)]), &[], true),
    ];
    for ending in endings {
        let mut cluster = read_by_b();
        b_gets_a_lease(&mut cluster);
        let epoch = read_at_b(&mut cluster).unwrap();
        cluster.adopt("b", &ending);
        assert_eq!(read_at_b(&mut cluster), None);
        assert!(cluster.purges.contains(&("b".to_owned(), Slice::FULL, epoch)));
    }
    let mut cluster = read_by_b();
    b_gets_a_lease(&mut cluster);
    cluster.adopt("b", &whole_read_by(2, "a b", ("a", 1, &[]), &["b"], true));
    assert!(read_at_b(&mut cluster).is_some(), "nothing has changed for it");
    let now = cluster.now;
    let actions = cluster.node("b").reborn(peer("b2"), now);
    cluster.carry_out("b", actions);
    assert_eq!(read_at_b(&mut cluster), None);
}

/// Plan: b gave the range to a and keeps its frozen copy for it. It reads nothing of it until that is released.
#[test]
fn a_replica_does_not_ask_while_it_keeps_a_copy() {
    let mut cluster = Cluster::of("a b");
    cluster.adopt("b", &whole(1, "a b", ("b", 1, &[])));
    let moved = whole_read_by(2, "a b", ("a", 2, &[("b", 1)]), &["b"], false);
    cluster.adopt("a b", &moved);
    cluster.settle();
    assert_eq!(cluster.says("a", AT), "serve 2");
    assert!(cluster.lease_requests.is_empty());
    cluster.later("b", READ_LEASE_RENEW_MS);
    assert!(cluster.lease_requests.is_empty());
    let (_, pull, _) = cluster.pulls[0].clone();
    let actions = cluster
        .node("a")
        .pull_ended(pull, crate::handoff::PullEnd::Complete);
    cluster.carry_out("a", actions);
    cluster.settle();
    cluster.later("b", READ_LEASE_RENEW_MS);
    b_gets_a_lease(&mut cluster);
    assert!(read_at_b(&mut cluster).is_some());
}

/// Plan: messages that no honest node sends are refused, or ignored.
#[test]
fn h8_malformed_messages_about_leases_change_nothing() {
    let mut cluster = read_by_b();
    b_gets_a_lease(&mut cluster);
    let now = cluster.now;
    let twice = Invalidate {
        to: life("b"),
        owner: life("a"),
        keys: Vec::new(),
        revoked: vec![Slice::FULL, at()],
    };
    assert!(matches!(
        cluster.node("b").revoked(&twice, now),
        Err(Refusal::Malformed(_))
    ));
    let elsewhere = Invalidate {
        to: life("b2"),
        revoked: vec![Slice::FULL],
        ..twice
    };
    assert_eq!(
        cluster.node("b").revoked(&elsewhere, now),
        Err(Refusal::WrongIncarnation)
    );
    assert!(read_at_b(&mut cluster).is_some());
    let mut overlapping = request("b", Slice::FULL, 1);
    overlapping.ranges.push(TakenRange {
        slice: at(),
        since: since(1),
    });
    assert!(matches!(
        cluster.node("a").lend(&overlapping, None, now),
        Err(Refusal::Malformed(_))
    ));
    // A lease far longer than any: it counts as long as it may be.
    let (request, sequence) = {
        cluster.later("b", READ_LEASE_RENEW_MS);
        cluster.lease_requests.pop_back().unwrap()
    };
    let mut reply = answer(&mut cluster, &request);
    reply.grants[0].lease_ms = u64::MAX;
    let sent = cluster.now;
    // Granted twice over: each part would be gone through as often.
    let twice = LeaseReply {
        from: life("a"),
        grants: vec![reply.grants[0]; 2],
    };
    let refused = cluster.node("b").lease_answered(&twice, sequence, sent, sent);
    assert!(matches!(refused, Err(Refusal::Malformed(_))), "{refused:?}");
    b_hears(&mut cluster, &reply, sequence, sent);
    cluster.now = sent.plus_ms(READ_LEASE_MS);
    assert_eq!(read_at_b(&mut cluster), None);
}

/// Every second position of a slice of so many.
fn combed(count: u64, from: u64) -> Vec<Slice> {
    (0..count)
        .map(|index| Slice::single(key(from + 2 * index)))
        .collect()
}

/// Plan: a replica asks for single positions, other ones each time, of a range that it may read; and an owner grants such. Either
/// side keeps no more of them than it said.
#[test]
fn h8_what_is_lent_and_read_in_pieces_is_bounded() {
    const ASKED: u64 = 1 << 15;
    let bound = (1 << 14) + 2;
    let mut cluster = read_by_b();
    let (_, sequence) = cluster.lease_requests.pop_back().unwrap();
    for round in 0..2 {
        let mut asked = request("b", Slice::FULL, 1);
        let ranges = combed(ASKED, 2 * round * ASKED).into_iter();
        asked.ranges = ranges
            .map(|slice| TakenRange {
                slice,
                since: since(1),
            })
            .collect();
        lend(&mut cluster, &asked);
        assert!(cluster.node("a").counts().lent <= bound);
        let grants = asked.ranges.iter().map(|range| LeaseGrant {
            slice: range.slice,
            since: range.since,
            number: 1,
            lease_ms: READ_LEASE_MS,
        });
        let reply = LeaseReply {
            from: life("a"),
            grants: grants.collect(),
        };
        let now = cluster.now;
        b_hears(&mut cluster, &reply, sequence, now);
        let reading = cluster.node("b").counts().reading;
        assert!((1..=bound).contains(&reading), "{reading}");
    }
}

/// Plan: b has asked a for a lease, and c, who owns nothing of it, says that leases are over. The answer of a is believed.
#[test]
fn h8_a_stranger_revokes_nothing() {
    let mut cluster = Cluster::of("a b c");
    cluster.adopt("a b c", &whole_read_by(1, "a b c", ("a", 1, &[]), &["b"], false));
    let strangers = Invalidate {
        to: life("b"),
        owner: life("c"),
        keys: Vec::new(),
        revoked: vec![Slice::FULL],
    };
    let now = cluster.now;
    assert_eq!(cluster.node("b").revoked(&strangers, now), Ok(Vec::new()));
    b_gets_a_lease(&mut cluster);
    assert!(read_at_b(&mut cluster).is_some());
}
