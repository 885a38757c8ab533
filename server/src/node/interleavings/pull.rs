//! H3 at the node: a taker's operations against chunks, peeks and the end of their pull.

use bytes::Bytes;
use softstore_proto::v1::{OpKind, Status};
use softstore_sharding::{FrequencyClass, PullId, Slice, Version};
use softstore_sync::explore::{explore, roll};
use softstore_transfer::chunk::{self, ChunkEntry};
use softstore_transfer::handoff::PullEnd;
use softstore_transfer::message::{Entry, TakeAnswer, TakeReply, Verdict};

use super::rig::{KEY, ME, OTHER, Rig, SCHEDULES, at, life, side_by_side, since, whole};
use crate::config::NodeConfig;
use crate::node::{peeks, puller};

/// The first pull of a node.
const PULL: PullId = PullId::new(1);

/// A node that has just taken everything over, and pulls.
fn taker() -> Rig {
    let rig = Rig::with(NodeConfig::default());
    rig.state.adopt(&whole(2, ME, 2, &[(OTHER, 1)]));
    let answer = TakeAnswer {
        slice: Slice::FULL,
        since: since(2),
        from: since(1),
        verdict: Verdict::Fenced {
            next_version: Version::new(5),
        },
    };
    let reply = TakeReply {
        from: life(OTHER),
        chunk_versions: chunk::CHUNK_VERSIONS,
        answers: vec![answer],
    };
    rig.state
        .with_core(|core, now| ((), core.take_answered(&reply, now)));
    assert!(
        rig.state.core().import_target(PULL, at()).is_some(),
        "the pull is open"
    );
    rig
}

/// Plan: a taker's clients write or delete a key, whose old value arrives by a chunk and by a peek, while the pull ends. Once
/// a write is acknowledged, nobody reads the old value.
#[test]
fn nothing_old_is_read_after_a_write() {
    explore(SCHEDULES, || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("needs neither sockets nor timers");
        // What is spawned stays queued, and goes with the runtime.
        let _context = runtime.enter();
        let rig = taker();
        let read = || {
            let found = rig
                .run_after(OpKind::Get, b"", Some(PULL), || {})
                .expect("time stands");
            (found.status, found.value)
        };
        let write = || {
            let kinds: &[OpKind] = match roll(3) {
                0 => &[OpKind::Set],
                1 => &[OpKind::Delete],
                _ => &[OpKind::Set, OpKind::Delete],
            };
            for &kind in kinds {
                let answer = rig
                    .run_after(kind, b"new", Some(PULL), || {})
                    .expect("time stands");
                assert_eq!(answer.status, Status::Ok);
                assert_ne!(read().1, b"old", "right after {kind:?}");
            }
        };
        let peek = || {
            let entry = Entry {
                key: Bytes::from_static(KEY),
                value: Bytes::from_static(b"old"),
                version: Version::new(1),
                ttl_ms: None,
                class: FrequencyClass::COLDEST,
            };
            peeks::import(&rig.state, PULL, at(), &entry);
        };
        let chunk = || {
            let entry = ChunkEntry {
                key: KEY,
                value: b"old",
                version: Version::new(1),
                ttl_ms: None,
                class: FrequencyClass::COLDEST,
            };
            let _ = puller::import(&rig.state, PULL, &[entry]);
        };
        let end = || {
            let end = PullEnd::Complete;
            rig.state.with_core(|core, _| ((), core.pull_ended(PULL, end)));
        };
        side_by_side(&[&write, &peek, &chunk, &end]);
        assert_ne!(read().1, b"old");
        assert_eq!(rig.state.store.stats().written_keys, 0);
    });
}
