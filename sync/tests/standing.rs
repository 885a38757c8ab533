//! A node's standing, under every schedule and with what its orderings allow (loom): the slicelet's step, the suspension,
//! the end of serving.
//!
//! The file is the server's own, compiled here: a build of the whole server for this alone would take minutes.
#![cfg(feature = "loom")]

#[path = "../../server/src/node/standing.rs"]
mod standing;

use std::sync::Arc;

use softstore_sharding::Timestamp;
use softstore_sync::exhaust::{exhaust, find, thread};
use softstore_sync::planted::Race;

use standing::{Leave, Standing};

const PREEMPTIONS: usize = 3;

/// A node that may serve for 100 ms from a moment on.
fn leave(now: Timestamp) -> Leave {
    Leave {
        serves_until: now.plus_ms(100),
        leased_until: Timestamp::NEVER,
        lease_ms: None,
    }
}

fn stepped(now: Timestamp) -> Arc<Standing> {
    let standing = Standing::default();
    standing.step(leave(now));
    Arc::new(standing)
}

/// Plan: the node stood still; its slicelet wakes, suspends, and gives leave anew, while another thread looks
/// twice whether it may serve. It may not: before the step because its leave is over, after it because of the suspension.
fn a_look_against_a_step() {
    let woken = Timestamp::from_ms(1_000);
    let standing = stepped(Timestamp::from_ms(1));
    let slicelet = {
        let standing = standing.clone();
        thread::spawn(move || {
            standing.set_suspended(true);
            standing.step(leave(woken));
        })
    };
    for _ in 0..2 {
        assert!(!standing.may_serve(woken));
    }
    slicelet.join().expect("no fault");
    assert!(!standing.may_serve(woken));
    standing.set_suspended(false);
    assert!(standing.may_serve(woken));
}

#[test]
fn whoever_sees_the_step_sees_the_suspension() {
    exhaust(PREEMPTIONS, a_look_against_a_step);
}

#[test]
fn an_unordered_look_is_found() {
    find(Race::StepSeenUnordered, PREEMPTIONS, a_look_against_a_step);
}

/// Plan: serving ends for good while another thread looks twice. Once it was refused, it is not served again.
#[test]
fn the_end_of_serving_is_not_taken_back() {
    exhaust(PREEMPTIONS, || {
        let now = Timestamp::from_ms(1);
        let standing = stepped(now);
        let ender = {
            let standing = standing.clone();
            thread::spawn(move || standing.stop())
        };
        let (first, second) = (standing.may_serve(now), standing.may_serve(now));
        assert!(first || !second, "served after a refusal");
        ender.join().expect("no fault");
        assert!(!standing.may_serve(now));
    });
}

/// Plan: a lease of 50 ms. What is left of it is told, it ends serving, and a leave without an end brings it back.
#[test]
fn the_end_of_a_lease_ends_serving() {
    exhaust(PREEMPTIONS, || {
        let now = Timestamp::from_ms(1_000);
        let standing = Standing::default();
        assert!(!standing.may_serve(now), "nobody has given it leave");
        standing.step(Leave {
            serves_until: now.plus_ms(50),
            leased_until: now.plus_ms(50),
            lease_ms: Some(50),
        });
        assert_eq!(standing.lease_ms(now.plus_ms(20)), (50, 30));
        assert!(standing.may_serve(now.plus_ms(49)) && standing.is_tenured(now.plus_ms(49)));
        assert!(!standing.may_serve(now.plus_ms(50)) && !standing.is_tenured(now.plus_ms(50)));
        standing.step(Leave::without_end());
        assert!(standing.may_serve(now.plus_ms(50)));
        assert_eq!(standing.lease_ms(now), (0, 0));
    });
}
