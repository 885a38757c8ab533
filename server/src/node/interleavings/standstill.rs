//! H1: an operation under way while the process stands still is not answered, whatever the node has become meanwhile.

use softstore_proto::v1::{OpKind, Status};
use softstore_sharding::{Incarnation, Life};
use softstore_sync::atomic::{AtomicBool, Ordering};
use softstore_sync::explore::{explore, find};
use softstore_sync::planted::Race;

use super::rig::{ME, Rig, SCHEDULES, SCHEDULES_MAX, life, peer, side_by_side};
use crate::clock::scenario;

/// Plan: two threads read and write while the clock jumps by more than the failure timeout: another node owns everything
/// from then on. The slicelet wakes, suspends, is told that this life is dead, takes up a new one and serves again. What
/// began before the jump and ended after it is never answered; what began after it is refused.
fn operations_against_a_standstill() {
    let rig = Rig::owner();
    let timeout_ms = rig.state.config.failure_timeout_ms;
    let is_lost = AtomicBool::new(false);
    let operate = |kind| {
        let was_lost = is_lost.load(Ordering::Acquire);
        let mut is_lost_now = was_lost;
        let answer = rig.run_after(kind, b"v", None, || is_lost_now = is_lost.load(Ordering::Acquire));
        let is_served = answer.is_ok_and(|answer| matches!(answer.status, Status::Ok | Status::NotFound));
        assert!(
            !is_served || !is_lost_now,
            "answered from what was another's by then"
        );
    };
    let stand_still = || {
        scenario::advance_ms(timeout_ms + 1);
        is_lost.store(true, Ordering::Release);
        // The slicelet's first step after waking.
        rig.state.set_suspended(true);
        rig.may_serve_on();
        // The Assigner has answered.
        let mut me = peer(ME);
        me.life = Life {
            incarnation: Incarnation::new(2),
            ..life(ME)
        };
        rig.state.reborn(me);
        rig.state.set_suspended(false);
    };
    side_by_side(&[&|| operate(OpKind::Set), &|| operate(OpKind::Get), &stand_still]);
    assert_eq!(
        rig.run(OpKind::Get, b"").map(|answer| answer.status),
        Ok(Status::NotReady)
    );
}

#[test]
fn nothing_is_answered_over_a_standstill() {
    explore(SCHEDULES, operations_against_a_standstill);
}

#[test]
fn a_look_after_the_lock_is_found() {
    find(
        Race::StandstillLookedForAfterLock,
        SCHEDULES_MAX,
        operations_against_a_standstill,
    );
}
