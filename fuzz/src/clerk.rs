//! A client's [`Clerk`]: assignments, diffs and `Moved` answers, from nodes that may say anything.
//!
//! It always routes; its generation only grows; and what it followed a node to, it routes to.

use std::sync::Arc;

use prost::Message;
use softstore_proto::cache::Moved;
use softstore_proto::v1;
use softstore_sharding::session::AssignmentUpdate;
use softstore_sharding::{AssignmentDiff, Clerk, Route, SliceKey};

use crate::heap;
use crate::script::{Script, Step, peer};

const HEAP_FACTOR: usize = 4_096;

/// Tries one input.
pub fn run(input: &[u8]) {
    heap::in_proportion(input, HEAP_FACTOR, || {
        let mut clerk = Clerk::new();
        for step in Script::of(input) {
            take(&mut clerk, step);
        }
    });
}

fn take(clerk: &mut Clerk, step: Step<'_>) {
    let mut argument = step.argument;
    match step.operation % 8 {
        0 => {
            let wire = v1::AssignmentUpdate::decode(argument.bytes());
            if let Ok(Ok(update)) = wire.map(AssignmentUpdate::try_from) {
                update_with(clerk, &update);
            }
        }
        1 => {
            if let Ok(Ok(said)) = v1::Moved::decode(argument.bytes()).map(Moved::try_from) {
                moved(clerk, said);
            }
        }
        2 | 3 => {
            if let Some(next) = argument.assignment() {
                update_with(clerk, &AssignmentUpdate::Full(next));
            }
        }
        4 => {
            if let (Some(next), Some(held)) = (argument.assignment(), clerk.assignment()) {
                let diff = AssignmentDiff::between(held, &next);
                update_with(clerk, &AssignmentUpdate::Diff(Arc::new(diff)));
            }
        }
        5 | 6 => {
            let (slice, since, owner) = (argument.slice(), argument.generation(), peer(argument.life()));
            moved(clerk, Moved { slice, owner, since });
        }
        _ => {
            let _ = clerk.route(argument.position());
        }
    }
    for position in [0, 1 << 60, u64::MAX] {
        let known = !matches!(clerk.route(SliceKey::new(position)), Route::Unknown);
        assert!(known || clerk.assignment().is_none());
    }
}

fn update_with(clerk: &mut Clerk, update: &AssignmentUpdate) {
    let before = clerk.generation();
    let changed = clerk.update(update);
    assert!(clerk.generation() >= before);
    assert_eq!(changed == Ok(true), clerk.generation() > before);
}

fn moved(clerk: &mut Clerk, said: Moved) {
    let at = said.slice.low();
    let since_of = |clerk: &Clerk| match clerk.route(at) {
        Route::To { since, .. } | Route::Unreachable { since } => Some(since),
        Route::Unknown => None,
    };
    let before = since_of(clerk);
    let followed = clerk.moved(said.slice, said.owner.life, said.owner.address, said.since, 0);
    let after = since_of(clerk);
    assert!(after >= before, "a clerk follows only a higher since");
    assert!(followed || after == before);
}
