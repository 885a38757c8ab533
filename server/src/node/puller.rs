//! The taker's stream: opens a pull, decodes its chunks and imports what they hold.

use std::sync::Arc;

use bytes::Bytes;
use softstore_proto::v1;
use softstore_sharding::{Peer, PullId, SliceKey, Timestamp};
use softstore_store::{Import, ImportOutcome};
use softstore_transfer::chunk::{self, ChunkEntry};
use softstore_transfer::handoff::PullEnd;
use softstore_transfer::message::PullRequest;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::channels::PeerError;
use super::metrics::count;
use super::state::NodeState;
use crate::conditions::Kind;
use crate::events;

/// Entries imported before the core's lock is let go, so that a fence does not wait for a whole chunk.
const IMPORTS_PER_LOCK: usize = 64;

/// How a stream ended.
enum StreamEnd {
    /// The pull is over.
    Ended(PullEnd),
    /// The stream is; the pull resumes at its cursor.
    Broken,
}

/// Runs one stream of a pull until it ends, breaks, or is stopped.
pub(super) async fn run(
    state: Arc<NodeState>,
    pull: PullId,
    giver: Peer,
    request: PullRequest,
    stop: CancellationToken,
) {
    let end = tokio::select! {
        end = receive(&state, pull, &giver, &request) => end,
        () = stop.cancelled() => return,
    };
    match end {
        StreamEnd::Ended(end) => state.with_core(|core, _| ((), core.pull_ended(pull, end))),
        StreamEnd::Broken => state.with_core(|core, now| (core.pull_broken(pull, now), Vec::new())),
    }
}

async fn receive(state: &Arc<NodeState>, pull: PullId, giver: &Peer, request: &PullRequest) -> StreamEnd {
    let mut items = match state.channels.pull(&giver.address, request).await {
        Ok(items) => items,
        Err(PeerError::Call(status)) => return refused(giver, &status),
        Err(error) => {
            state.is_unreachable(&giver.life, &giver.address, &error);
            return StreamEnd::Broken;
        }
    };
    events::pull_opened(&giver.life, !request.cursor.is_empty());
    let mut chunks = 0;
    loop {
        match items.message().await {
            Ok(Some(item)) if item.gone => return StreamEnd::Ended(PullEnd::Gone),
            Ok(Some(item)) if item.complete => return StreamEnd::Ended(PullEnd::Complete),
            Ok(Some(item)) => {
                if let Some(end) = take_in(state, pull, giver, &item).await {
                    return end;
                }
                chunks += 1;
                events::chunk_imported(&giver.life, chunks);
            }
            Ok(None) => return StreamEnd::Broken,
            Err(status) => return refused(giver, &status),
        }
    }
}

/// What a giver's error means for the pull.
fn refused(giver: &Peer, status: &tonic::Status) -> StreamEnd {
    tracing::debug!(giver = %giver.life, %status, "a pull's stream ended");
    match status.code() {
        Code::NotFound | Code::FailedPrecondition => StreamEnd::Ended(PullEnd::Gone),
        Code::InvalidArgument => StreamEnd::Ended(PullEnd::Malformed),
        _ => StreamEnd::Broken,
    }
}

/// Imports a chunk. `Some`: the stream is over.
async fn take_in(
    state: &Arc<NodeState>,
    pull: PullId,
    giver: &Peer,
    item: &v1::PullItem,
) -> Option<StreamEnd> {
    let entries = match chunk::decode(&item.chunk) {
        Ok(entries) => entries,
        Err(error) => {
            count(&state.metrics.chunks_refused);
            state
                .conditions
                .observe(Kind::ChunksRefused, giver.life.node.as_str(), error);
            if state.chunk_was_bad(pull) {
                return Some(StreamEnd::Ended(PullEnd::Malformed));
            }
            // Damage on the way is asked for again.
            return Some(StreamEnd::Broken);
        }
    };
    state.chunk_was_good(pull);
    count(&state.metrics.chunks_received);
    for entries in entries.chunks(IMPORTS_PER_LOCK) {
        if let Some(end) = import(state, pull, entries) {
            return Some(StreamEnd::Ended(end));
        }
        // Operations that became ready meanwhile go first.
        tokio::task::yield_now().await;
    }
    if state.store.pull_overflowed(pull) {
        return Some(StreamEnd::Ended(PullEnd::Overflow));
    }
    // The cursor must not pin the chunk that it came with.
    let cursor = Bytes::copy_from_slice(&item.cursor);
    let is_open = state.with_core(|core, _| (core.pull_advanced(pull, cursor), Vec::new()));
    // A stream that was opened just as its pull ended has nobody else to stop it.
    (!is_open).then_some(StreamEnd::Ended(PullEnd::Unwanted))
}

/// Imports some entries under one hold of the core's shared lock. `Some`: the pull is over.
pub(super) fn import(state: &NodeState, pull: PullId, entries: &[ChunkEntry<'_>]) -> Option<PullEnd> {
    let core = state.core();
    let now = state.clock.now();
    for entry in entries {
        let at = SliceKey::of_key(entry.key);
        // Its range may have been flushed, or moved on and been released.
        let Some(target) = core.import_target(pull, at) else {
            continue;
        };
        let import = Import {
            key: entry.key,
            at,
            value: entry.value,
            version: entry.version,
            deadline: entry
                .ttl_ms
                .map_or(Timestamp::NEVER, |ttl_ms| target.first_sent.plus_ms(ttl_ms)),
            class: entry.class,
        };
        match state.store.import(pull, target.epoch, now, &import) {
            ImportOutcome::TooCold => return Some(PullEnd::Full),
            ImportOutcome::Ended => return Some(PullEnd::Unwanted),
            ImportOutcome::Inserted
            | ImportOutcome::Present
            | ImportOutcome::Written
            | ImportOutcome::Expired
            | ImportOutcome::Refused => {}
        }
    }
    None
}
