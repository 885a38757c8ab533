//! H1, H2, H4: operations against the fence, and against the end of serving.

use softstore_proto::v1::{OpKind, Status};
use softstore_sharding::{Slice, Version};
use softstore_sync::Mutex;
use softstore_sync::atomic::{AtomicBool, Ordering};
use softstore_sync::explore::{explore, find, roll};
use softstore_sync::planted::Race;
use softstore_transfer::message::{Take, TakeRange, Verdict};

use super::rig::{Answer, ME, OTHER, Rig, SCHEDULES, SCHEDULES_MAX, life, peer, side_by_side, since};
use crate::node::transfer_service::answer_take;

/// Fences everything for the other node. No version given so far is as high as what this returns.
fn fence(rig: &Rig) -> Version {
    let take = Take {
        to: life(ME),
        taker: peer(OTHER),
        ranges: vec![TakeRange {
            slice: Slice::FULL,
            since: since(2),
            from: since(1),
        }],
    };
    let reply = answer_take(&rig.state, &take).expect("it is for this life");
    match reply.answers[..] {
        [ref only] => match only.verdict {
            Verdict::Fenced { next_version } => next_version,
            ref other => panic!("it was held: {other:?}"),
        },
        ref more => panic!("one range was asked for: {more:?}"),
    }
}

/// Plan: two threads write and read a key while a third answers a `Take`. What stands when `Fenced` is answered is what
/// stands in the end; it is the acknowledged write of the highest version, and that is below what `Fenced` says; whoever
/// comes after the fence is sent on.
#[test]
fn no_operation_outlives_the_fence() {
    explore(SCHEDULES, || {
        let rig = Rig::owner();
        let epoch = rig.epoch();
        let is_fenced = AtomicBool::new(false);
        let acknowledged = Mutex::new(Vec::new());
        let frozen = Mutex::new(None);
        let operate = || {
            for _ in 0..2 {
                let kind = [OpKind::Set, OpKind::Add, OpKind::Get][usize::try_from(roll(3)).expect("small")];
                let came_late = is_fenced.load(Ordering::Acquire);
                let answer = rig.run(kind, b"7").expect("time stands");
                assert!(
                    !came_late || answer.status == Status::Moved,
                    "{answer:?} after the fence"
                );
                if answer.status == Status::Ok && kind != OpKind::Get {
                    acknowledged.lock().push(answer.version);
                }
            }
        };
        let give = || {
            let next_version = fence(&rig);
            is_fenced.store(true, Ordering::Release);
            *frozen.lock() = Some((next_version, rig.standing(epoch)));
        };
        side_by_side(&[&operate, &operate, &give]);
        let (next_version, frozen) = frozen.lock().take().expect("it was fenced");
        assert_eq!(
            rig.standing(epoch),
            frozen,
            "an operation was applied after the fence"
        );
        let newest = acknowledged.lock().iter().copied().max();
        assert_eq!(frozen.map(|entry| entry.version), newest);
        assert!(newest.is_none_or(|newest| newest < next_version));
    });
}

/// Plan: two threads write a key while a third ends serving for good. What stands when that has returned is what stands in
/// the end, and whoever comes later is refused.
fn operations_against_the_end() {
    let rig = Rig::owner();
    let epoch = rig.epoch();
    let has_stopped = AtomicBool::new(false);
    let left = Mutex::new(None);
    let operate = || {
        let came_late = has_stopped.load(Ordering::Acquire);
        let Answer { status, .. } = rig.run(OpKind::Set, b"v").expect("time stands");
        assert!(
            !came_late || status == Status::NotReady,
            "{status:?} after the end"
        );
    };
    let end = || {
        rig.state.stop_serving();
        has_stopped.store(true, Ordering::Release);
        *left.lock() = Some(rig.standing(epoch));
    };
    side_by_side(&[&operate, &operate, &end]);
    let left = left.lock().take().expect("it has ended");
    assert_eq!(
        rig.standing(epoch),
        left,
        "an operation was applied after the end"
    );
}

#[test]
fn no_operation_outlives_the_end_of_serving() {
    explore(SCHEDULES, operations_against_the_end);
}

#[test]
fn an_end_that_waits_for_nobody_is_found() {
    find(
        Race::StopWaitsForNobody,
        SCHEDULES_MAX,
        operations_against_the_end,
    );
}
