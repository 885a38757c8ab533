//! Both ends of a pull's stream, with real chunks.
//!
//! The giver lists the copy hottest class first and sends it piece by piece. While its own pull still fills the copy (a
//! chain) it lists again what has arrived, and offers no place to resume at, since hotter entries may yet come.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use softstore_sharding::planted::{self, Bug};
use softstore_sharding::{Peer, PullId, SliceKey, Timestamp};
use softstore_store::{ImportOutcome, Part, Store};
use softstore_transfer::chunk::{self, ChunkBuilder, ChunkEntry, ChunkFormat};
use softstore_transfer::handoff::{CopyGrant, PullEnd};
use softstore_transfer::message::{Entry, PullRequest, Refusal};

use super::peeks::entry_of;
use super::{Node, slot_of};
use crate::env::{Env, NodeTimer};
use crate::message::{Chunk, Endpoint, Message};

/// A stream without a sign of life for this long is broken, in microseconds.
const STREAM_SILENCE_US: u64 = 400_000;

/// Class, then position: where an entry stands in the order of sending.
type Place = (u8, SliceKey);

/// A stream that this node sends.
pub(super) struct Outgoing {
    to: Endpoint,
    pull: PullId,
    request: PullRequest,
    /// What is still to be sent of the last listing.
    listed: VecDeque<Place>,
    /// Whether more may have arrived since the last listing.
    was_chained: bool,
    sent: BTreeSet<SliceKey>,
}

/// A stream that this node receives.
pub(super) struct Incoming {
    stream: u64,
    giver: usize,
    seen: u64,
}

fn encode(place: Place) -> Bytes {
    let mut cursor = vec![place.0];
    cursor.extend_from_slice(&place.1.get().to_be_bytes());
    cursor.into()
}

fn decode(cursor: &[u8]) -> Option<Place> {
    let (class, at) = cursor.split_first()?;
    Some((*class, SliceKey::new(u64::from_be_bytes(at.try_into().ok()?))))
}

impl Node {
    pub(super) fn open_stream(
        &mut self,
        from: Endpoint,
        stream: u64,
        pull: PullId,
        request: PullRequest,
        env: &mut Env,
    ) {
        match self.core.grant_pull(&request) {
            Err(refusal) => {
                env.counters.refused += 1;
                env.send_on_stream(
                    self.endpoint(),
                    from,
                    stream,
                    Message::PullRefused {
                        stream,
                        pull,
                        refusal,
                    },
                );
            }
            Ok(grants) => {
                let resume_after = decode(&request.cursor);
                let mut outgoing = Outgoing {
                    to: from,
                    pull,
                    request,
                    listed: VecDeque::new(),
                    was_chained: false,
                    sent: BTreeSet::new(),
                };
                self.list(&mut outgoing, &grants);
                if let Some((class, at)) = resume_after {
                    outgoing
                        .listed
                        .retain(|&place| place.0 < class || (place.0 == class && place.1 > at));
                }
                self.outgoing.insert(stream, outgoing);
                self.timer(env.plan.stream_step_us, NodeTimer::StreamStep { stream }, env);
            }
        }
    }

    fn list(&self, outgoing: &mut Outgoing, grants: &[CopyGrant]) {
        // Looked at before listing: what arrives after this is in the next list.
        outgoing.was_chained = grants.iter().any(|grant| grant.upstream.is_some());
        let parts: Vec<Part> = grants
            .iter()
            .map(|grant| Part {
                slice: grant.slice,
                epoch: grant.epoch,
            })
            .collect();
        let as_of = grants
            .iter()
            .map(|grant| grant.as_of)
            .max()
            .unwrap_or(Timestamp::ZERO);
        let listing = self.store.list(&parts, as_of);
        let classes = listing.class_counts.iter().enumerate().rev();
        let classes =
            classes.flat_map(|(class, &count)| (0..count).map(move |_| u8::try_from(class).unwrap_or(0)));
        let places = classes.zip(listing.positions);
        outgoing.listed = places.filter(|(_, at)| !outgoing.sent.contains(at)).collect();
    }

    /// Sends the next piece.
    pub(super) fn step_stream(&mut self, stream: u64, env: &mut Env) {
        let Some(mut outgoing) = self.outgoing.remove(&stream) else {
            return;
        };
        let (to, pull) = (outgoing.to, outgoing.pull);
        let grants = match self.core.grant_pull(&outgoing.request) {
            Ok(grants) => grants,
            Err(refusal) => {
                env.send_on_stream(
                    self.endpoint(),
                    to,
                    stream,
                    Message::PullRefused {
                        stream,
                        pull,
                        refusal,
                    },
                );
                return;
            }
        };
        if outgoing.listed.is_empty() && outgoing.was_chained {
            self.list(&mut outgoing, &grants);
        }
        let is_last = outgoing.listed.is_empty() && !outgoing.was_chained;
        let mut builder = ChunkBuilder::new(ChunkFormat::V1);
        let mut cursor = Bytes::new();
        for _ in 0..env.plan.chunk_entries {
            let Some(place) = outgoing.listed.pop_front() else {
                break;
            };
            outgoing.sent.insert(place.1);
            if !outgoing.was_chained {
                cursor = encode(place);
            }
            self.push_frozen(&mut builder, place.1, &grants);
        }
        let mut frame = builder.finish();
        if env.random.chance(env.plan.corrupt_per_mille) {
            let mut damaged = frame.to_vec();
            let at = env.random.index(damaged.len());
            damaged[at] ^= 1 << env.random.below(8);
            frame = damaged.into();
        }
        let chunk = Chunk {
            stream,
            pull,
            frame,
            cursor,
            is_last,
        };
        if !env.send_on_stream(self.endpoint(), to, stream, Message::Chunk(chunk)) || is_last {
            return;
        }
        self.outgoing.insert(stream, outgoing);
        self.timer(env.plan.stream_step_us, NodeTimer::StreamStep { stream }, env);
    }

    fn push_frozen(&self, builder: &mut ChunkBuilder, at: SliceKey, grants: &[CopyGrant]) {
        let Some(grant) = grants.iter().find(|grant| grant.slice.contains(at)) else {
            return;
        };
        let frozen = self.store.read_frozen(at, grant.epoch, grant.as_of);
        let Some(entry) = frozen.and_then(|frozen| entry_of(&frozen, grant)) else {
            return;
        };
        let fits = builder.push(&ChunkEntry {
            key: &entry.key,
            value: &entry.value,
            version: entry.version,
            ttl_ms: entry.ttl_ms,
            class: entry.class,
        });
        debug_assert!(fits, "a few small entries fit a chunk");
    }

    pub(super) fn start_pull(&mut self, pull: PullId, giver: &Peer, request: PullRequest, env: &mut Env) {
        let stream = env.name();
        self.streams_opened.insert(stream);
        env.counters.resumed += u64::from(!request.cursor.is_empty());
        let slot = slot_of(&giver.address).unwrap_or(usize::MAX);
        self.incoming.insert(
            pull,
            Incoming {
                stream,
                giver: slot,
                seen: 0,
            },
        );
        env.send_on_stream(
            self.endpoint(),
            Endpoint::Node(slot),
            stream,
            Message::OpenPull {
                stream,
                pull,
                request,
            },
        );
        self.timer(
            STREAM_SILENCE_US,
            NodeTimer::StreamCheck {
                pull,
                stream,
                seen: 0,
            },
            env,
        );
    }

    pub(super) fn stop_pull(&mut self, pull: PullId, env: &mut Env) {
        if let Some(Incoming { stream, giver, .. }) = self.incoming.remove(&pull) {
            env.send(
                self.endpoint(),
                Endpoint::Node(giver),
                Message::ClosePull { stream },
            );
        }
    }

    fn stream_broke(&mut self, pull: PullId, env: &mut Env) {
        self.stop_pull(pull, env);
        let now = self.now(env);
        self.core.pull_broken(pull, now);
    }

    pub(super) fn check_stream(&mut self, pull: PullId, stream: u64, seen: u64, env: &mut Env) {
        let Some(incoming) = self
            .incoming
            .get(&pull)
            .filter(|incoming| incoming.stream == stream)
        else {
            return;
        };
        if incoming.seen == seen {
            self.stream_broke(pull, env);
        } else {
            let seen = incoming.seen;
            self.timer(
                STREAM_SILENCE_US,
                NodeTimer::StreamCheck { pull, stream, seen },
                env,
            );
        }
    }

    /// A piece arrives. One of an earlier stream of the same pull is imported too: that must do no harm. One for a process
    /// that was here before is not: a stream ends with its process.
    pub(super) fn chunk_arrived(&mut self, from: Endpoint, chunk: &Chunk, env: &mut Env) {
        if !self.streams_opened.contains(&chunk.stream) {
            return env.send(self.endpoint(), from, Message::ClosePull { stream: chunk.stream });
        }
        let Chunk {
            stream,
            pull,
            frame,
            cursor,
            is_last,
        } = chunk;
        let (stream, pull) = (*stream, *pull);
        let current = self
            .incoming
            .get_mut(&pull)
            .filter(|incoming| incoming.stream == stream);
        let is_current = current.is_some();
        if let Some(incoming) = current {
            incoming.seen += 1;
        } else {
            env.send(self.endpoint(), from, Message::ClosePull { stream });
        }
        let Ok(entries) = chunk::decode(frame) else {
            env.counters.refused += 1;
            if is_current {
                if planted::is(Bug::ResumePositionLost) {
                    self.core.pull_advanced(pull, cursor.clone());
                }
                self.stream_broke(pull, env);
            }
            return;
        };
        let mut end = None;
        for entry in entries {
            let entry = Entry {
                key: Bytes::copy_from_slice(entry.key),
                value: Bytes::copy_from_slice(entry.value),
                version: entry.version,
                ttl_ms: entry.ttl_ms,
                class: entry.class,
            };
            if self.import(pull, &entry, false, env) == Some(ImportOutcome::TooCold) {
                end = Some(PullEnd::Full);
                break;
            }
        }
        if self.store.pull_overflowed(pull) {
            end = Some(PullEnd::Overflow);
        }
        if !is_current {
            return;
        }
        if *is_last && end.is_none() {
            end = Some(PullEnd::Complete);
        }
        match end {
            None => {
                self.core.pull_advanced(pull, cursor.clone());
            }
            Some(end) => {
                let actions = self.core.pull_ended(pull, end);
                self.carry_out(actions, env);
            }
        }
    }

    pub(super) fn pull_refused(&mut self, stream: u64, pull: PullId, refusal: Refusal, env: &mut Env) {
        if self
            .incoming
            .get(&pull)
            .is_none_or(|incoming| incoming.stream != stream)
        {
            return;
        }
        if refusal == Refusal::WrongIncarnation {
            // The giver's life is over; the Assigner will say so.
            self.stream_broke(pull, env);
        } else {
            let actions = self.core.pull_ended(pull, PullEnd::Gone);
            self.carry_out(actions, env);
        }
    }
}
