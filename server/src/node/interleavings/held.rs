//! Operations that are held back go on when what they wait for has come. A wake that is missed shows as an operation that
//! waits for ever: no timeout runs out here.

use softstore_proto::batch::OpView;
use softstore_proto::v1::{OpKind, Status};
use softstore_sharding::{Generation, Slice};
use softstore_sync::explore::{explore, future};
use softstore_transfer::chunk;
use softstore_transfer::message::{TakeAnswer, TakeReply, Verdict};

use super::rig::{KEY, ME, OTHER, Rig, SCHEDULES, life, side_by_side, since, whole};
use crate::config::NodeConfig;
use crate::node::waiting;

/// How long the clients wait, in milliseconds.
const PATIENCE_MS: u64 = 3_600_000;

/// A set by a client that knows an acquisition, run to its reply.
fn set(rig: &Rig, known: Generation) -> Status {
    let op = OpView {
        id: 1,
        kind: OpKind::Set.into(),
        key: KEY,
        value: b"v",
        ..OpView::default()
    };
    let replies = future::block_on(waiting::run(&rig.state, &op.to_op(), known, Some(PATIENCE_MS)));
    let replies = replies.expect("time stands");
    replies.into_single().expect("it was answered").status()
}

/// Plan: a node is to take everything over and has asked for it; two clients write, one of which knows of an acquisition
/// that the node has yet to hear of. Meanwhile the provider's answer comes, and then the newer assignment. Both writes are
/// served, whatever they had to wait for.
fn clients_against_what_they_wait_for() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = runtime.expect("needs no sockets");
    // Timers are set and never run out, for nobody drives the runtime.
    let _context = runtime.enter();
    let rig = Rig::with(NodeConfig {
        hold_ms_max: PATIENCE_MS,
        behind_wait_ms: PATIENCE_MS,
        ..NodeConfig::default()
    });
    rig.state.adopt(&whole(2, ME, 2, &[(OTHER, 1)]));
    let come = || {
        let reply = TakeReply {
            from: life(OTHER),
            chunk_versions: chunk::CHUNK_VERSIONS,
            answers: vec![TakeAnswer {
                slice: Slice::FULL,
                since: since(2),
                from: since(1),
                verdict: Verdict::NotStarted,
            }],
        };
        rig.state
            .with_core(|core, now| ((), core.take_answered(&reply, now)));
        rig.state.adopt(&whole(3, ME, 3, &[(ME, 2)]));
    };
    side_by_side(&[
        &|| assert_eq!(set(&rig, Generation::NONE), Status::Ok),
        &|| assert_eq!(set(&rig, since(3)), Status::Ok),
        &come,
    ]);
}

#[test]
fn no_wake_is_missed() {
    explore(SCHEDULES, clients_against_what_they_wait_for);
}
