//! What is done after a lock was let go is done once, by one, and in order.

use softstore_sharding::Slice;
use softstore_sharding::session::{HandoffOutcome, HandoffReport};
use softstore_sharding::slicelet::SliceletEvent;
use softstore_sync::Mutex;
use softstore_sync::atomic::{AtomicUsize, Ordering};
use softstore_sync::explore::{explore, find, thread};
use softstore_sync::planted::Race;
use softstore_transfer::handoff::Action;

use super::rig::{Rig, SCHEDULES, SCHEDULES_MAX, side_by_side, since};
use crate::config::NodeConfig;
use crate::node::in_order::InOrder;
use crate::node::waiting::HeldBack;

fn report(number: u64) -> Vec<HandoffReport> {
    vec![HandoffReport {
        slice: Slice::FULL,
        since: since(number),
        outcome: HandoffOutcome::Started,
    }]
}

/// Plan: three threads step the core twice each, and each step decides on a report with its number. The reports go out in
/// the order of the steps, and are out when the step returns.
fn steps_and_what_they_decided() {
    let mut rig = Rig::with(NodeConfig::default());
    let number = Mutex::new(0);
    let step = || {
        for _ in 0..2 {
            rig.state.with_core(|_, _| {
                let mut number = number.lock();
                *number += 1;
                ((), vec![Action::Report(report(*number))])
            });
        }
    };
    side_by_side(&[&step, &step, &step]);
    for number in 1..=6 {
        let event = rig.events.try_recv().expect("all of them are out");
        assert_eq!(event, SliceletEvent::Handoffs(report(number)));
    }
}

#[test]
fn decisions_are_carried_out_in_their_order() {
    explore(SCHEDULES, steps_and_what_they_decided);
}

#[test]
fn decisions_queued_after_the_lock_are_found() {
    find(
        Race::DecidedOutOfOrder,
        SCHEDULES_MAX,
        steps_and_what_they_decided,
    );
}

/// Plan: three threads decide on a number each, under a lock, and have what was decided carried out, which takes its time.
/// It is done one at a time and in the order of the decisions, and each thread finds its own done when it goes on.
#[test]
fn one_at_a_time_carries_out() {
    explore(SCHEDULES, || {
        let order = InOrder::default();
        let (decided, done) = (Mutex::new(0), Mutex::new(Vec::new()));
        let decide = || {
            let own = {
                let mut decided = decided.lock();
                *decided += 1;
                order.add([*decided]);
                *decided
            };
            order.carry_out(|number| {
                thread::yield_now();
                done.lock().push(number);
            });
            assert!(done.lock().contains(&own), "{own} is not done");
        };
        side_by_side(&[&decide, &decide, &decide]);
        assert_eq!(*done.lock(), [1, 2, 3]);
    });
}

/// Plan: four threads want one of two places, or more bytes than there are. No more than two are in at once, and when all
/// have gone, all places are free.
#[test]
fn no_more_are_held_back_than_there_is_room_for() {
    explore(SCHEDULES, || {
        let rig = Rig::with(NodeConfig {
            hold_requests_max: 2,
            hold_bytes_max: 100,
            ..NodeConfig::default()
        });
        let held = AtomicUsize::new(0);
        let enter = |bytes| {
            let Some(_place) = HeldBack::enter(&rig.state, bytes) else {
                return;
            };
            assert!(bytes <= 100);
            assert!(
                held.fetch_add(1, Ordering::AcqRel) < 2,
                "more than there is room for"
            );
            held.fetch_sub(1, Ordering::AcqRel);
        };
        side_by_side(&[&|| enter(10), &|| enter(10), &|| enter(10), &|| enter(101)]);
        let left = (&rig.state.held_requests, &rig.state.held_bytes);
        assert_eq!(
            (left.0.load(Ordering::Relaxed), left.1.load(Ordering::Relaxed)),
            (0, 0)
        );
        assert!(HeldBack::enter(&rig.state, 100).is_some());
    });
}
