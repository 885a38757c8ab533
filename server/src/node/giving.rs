//! The giver's stream: the frozen entries that a taker asked for, hottest class first, at a pace that leaves the
//! foreground its latency.
//!
//! The list of what is to be sent is made once (8 bytes an entry), off the executor. The cursor names the last entry
//! sent by its class and position, so a resumed stream goes on behind it even if entries were evicted meanwhile. In a
//! chain, where this node's own pull still fills the copy, it sends what arrived since, and ends only after that pull.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use softstore_proto::v1;
use softstore_sharding::{FrequencyClass, SliceKey, Timestamp};
use softstore_store::{Listing, Part};
use softstore_transfer::chunk::{ChunkBuilder, ChunkEntry};
use softstore_transfer::handoff::CopyGrant;
use softstore_transfer::message::{PullRequest, Refusal};
use softstore_transfer::pacer::Pacer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::metrics::{add, count};
use super::state::NodeState;
use crate::config::PullOrder;

/// Chunks that are ready before the taker took the one before: with the transport's window, what a pull holds in memory.
const CHUNKS_AHEAD: usize = 2;

/// How often a giver in a chain looks for what has arrived meanwhile, in milliseconds.
const CHAIN_POLL_MS: u64 = 25;

/// Bytes of a cursor: class and position.
const CURSOR_BYTES: usize = 9;

type Items = mpsc::Sender<Result<v1::PullItem, Status>>;

/// Milliseconds that an entry had left when its range was fenced.
pub(super) fn ttl_at_fence(deadline: Timestamp, received: Timestamp) -> Option<u64> {
    (deadline != Timestamp::NEVER).then(|| deadline.ms_since(received))
}

/// Starts sending.
pub(super) fn stream(
    state: &Arc<NodeState>,
    request: PullRequest,
    grants: Vec<CopyGrant>,
) -> Result<impl Stream<Item = Result<v1::PullItem, Status>> + use<>, Refusal> {
    let from = Cursor::decode(&request.cursor)?;
    let pacer = Pacer::new(state.config.pull_bytes_per_second_min)
        .map_err(|_| Refusal::Malformed("no minimum rate"))?;
    let (items, stream) = mpsc::channel(CHUNKS_AHEAD);
    let giving = Giving {
        state: state.clone(),
        request,
        grants,
        pacer,
        items,
    };
    state.tasks.spawn(giving.run(from));
    Ok(ReceiverStream::new(stream))
}

/// One pull, as its giver sees it.
struct Giving {
    state: Arc<NodeState>,
    request: PullRequest,
    grants: Vec<CopyGrant>,
    pacer: Pacer,
    items: Items,
}

/// Why sending stopped early.
enum Stop {
    /// The taker went away.
    TakerLeft,
    /// The copy is gone.
    Gone,
}

impl Giving {
    async fn run(mut self, from: Option<Cursor>) {
        let ended = self.send_all(from).await;
        let last = match ended {
            Ok(()) => v1::PullItem {
                complete: true,
                ..v1::PullItem::default()
            },
            Err(Stop::Gone) => v1::PullItem {
                gone: true,
                ..v1::PullItem::default()
            },
            Err(Stop::TakerLeft) => return,
        };
        // The taker may have gone; it comes again with its cursor.
        let _ = self.items.send(Ok(last)).await;
    }

    async fn send_all(&mut self, from: Option<Cursor>) -> Result<(), Stop> {
        let mut sent: Option<HashSet<SliceKey>> = self.has_upstream().then(HashSet::new);
        let mut from = from;
        loop {
            // Looked at before listing: what arrives after the last look is in the next list.
            let upstream = self.has_upstream();
            let listing = self.list().await;
            self.send_listing(&listing, from.take(), sent.as_mut()).await?;
            if !upstream {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(CHAIN_POLL_MS)).await;
            self.regrant()?;
        }
    }

    fn has_upstream(&self) -> bool {
        self.grants.iter().any(|grant| grant.upstream.is_some())
    }

    /// Asks again what is kept for the taker: parts may have been released, and pulls that filled them ended.
    fn regrant(&mut self) -> Result<(), Stop> {
        self.grants = self
            .state
            .core()
            .grant_pull(&self.request)
            .map_err(|_| Stop::Gone)?;
        Ok(())
    }

    async fn list(&self) -> Listing {
        let parts: Vec<Part> = self
            .grants
            .iter()
            .map(|grant| Part {
                slice: grant.slice,
                epoch: grant.epoch,
            })
            .collect();
        let as_of = self
            .grants
            .iter()
            .map(|grant| grant.received)
            .max()
            .unwrap_or(Timestamp::ZERO);
        let (store, order) = (self.state.store.clone(), self.state.config.pull_order);
        let listed = tokio::task::spawn_blocking(move || {
            let mut listing = store.list(&parts, as_of);
            if order == PullOrder::Shuffled {
                shuffle(&mut listing);
            }
            listing
        });
        // A listing does not panic; if the runtime is shutting down there is nothing to send.
        listed.await.unwrap_or_default()
    }

    async fn send_listing(
        &mut self,
        listing: &Listing,
        from: Option<Cursor>,
        mut sent: Option<&mut HashSet<SliceKey>>,
    ) -> Result<(), Stop> {
        let mut builder = ChunkBuilder::new();
        let order = self.state.config.pull_order;
        for cursor in cursors(listing, order).filter(|cursor| from.is_none_or(|from| cursor.follows(from))) {
            if sent.as_mut().is_some_and(|sent| !sent.insert(cursor.at)) {
                continue;
            }
            let Some(grant) = self.grant_at(cursor.at) else {
                continue;
            };
            let Some(frozen) = self
                .state
                .store
                .read_frozen(cursor.at, grant.epoch, grant.received)
            else {
                continue;
            };
            let entry = ChunkEntry {
                key: &frozen.key,
                value: &frozen.value,
                version: frozen.version,
                ttl_ms: ttl_at_fence(frozen.deadline, grant.received),
                class: frozen.class,
            };
            if !builder.push(&entry) {
                self.send(std::mem::take(&mut builder), cursor.before()).await?;
                let _ = builder.push(&entry);
            }
            if builder.is_full() {
                self.send(std::mem::take(&mut builder), cursor.encode()).await?;
            }
        }
        if builder.entries() > 0 {
            let end = cursors(listing, order)
                .last()
                .map(Cursor::encode)
                .unwrap_or_default();
            self.send(builder, end).await?;
        }
        Ok(())
    }

    fn grant_at(&self, at: SliceKey) -> Option<CopyGrant> {
        let index = self.grants.partition_point(|grant| grant.slice.last() < at);
        self.grants
            .get(index)
            .filter(|grant| grant.slice.contains(at))
            .copied()
    }

    /// Sends a chunk, then waits as long as the pacer says.
    async fn send(&mut self, builder: ChunkBuilder, cursor: Bytes) -> Result<(), Stop> {
        let chunk = builder.finish();
        let bytes = chunk.len() as u64;
        count(&self.state.metrics.chunks_sent);
        add(&self.state.metrics.chunk_bytes_sent, bytes);
        let item = v1::PullItem {
            chunk,
            cursor,
            complete: false,
            gone: false,
        };
        self.items.send(Ok(item)).await.map_err(|_| Stop::TakerLeft)?;
        self.regrant()?;
        let before_us = self.state.clock.now_us();
        tokio::task::yield_now().await;
        let after_us = self.state.clock.now_us();
        self.pacer.probed(after_us.saturating_sub(before_us));
        let wait_us = self.pacer.sent(bytes, after_us);
        if wait_us > 0 {
            tokio::time::sleep(Duration::from_micros(wait_us)).await;
        }
        Ok(())
    }
}

/// How far a stream came: the class and position of the last entry sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cursor {
    class: FrequencyClass,
    at: SliceKey,
    /// Place in the order; differs from the position's own order only when shuffled.
    rank: u64,
}

impl Cursor {
    fn decode(bytes: &Bytes) -> Result<Option<Self>, Refusal> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let malformed = Refusal::Malformed("a cursor that this node did not give out");
        let bytes: &[u8; CURSOR_BYTES] = bytes[..].try_into().map_err(|_| malformed)?;
        let [class, rank @ ..] = *bytes;
        if class >= FrequencyClass::COUNT {
            return Err(malformed);
        }
        let rank = u64::from_le_bytes(rank);
        Ok(Some(Self {
            class: FrequencyClass::clamped(class),
            at: SliceKey::new(rank),
            rank,
        }))
    }

    fn encode(self) -> Bytes {
        let mut bytes = [0; CURSOR_BYTES];
        bytes[0] = self.class.get();
        bytes[1..].copy_from_slice(&self.rank.to_le_bytes());
        Bytes::copy_from_slice(&bytes)
    }

    /// A cursor that leads to this entry again.
    fn before(self) -> Bytes {
        match self.rank.checked_sub(1) {
            Some(rank) => Self { rank, ..self }.encode(),
            None => Bytes::new(),
        }
    }

    /// Whether this entry comes after `other` in the stream: a colder class, or a later place in the same one.
    fn follows(self, other: Self) -> bool {
        self.class < other.class || (self.class == other.class && self.rank > other.rank)
    }
}

/// The listing's entries in order, each with its cursor.
fn cursors(listing: &Listing, order: PullOrder) -> impl Iterator<Item = Cursor> {
    let classes = (0..FrequencyClass::COUNT).rev().flat_map(|class| {
        let count = listing.class_counts[usize::from(class)];
        (0..count).map(move |_| FrequencyClass::clamped(class))
    });
    classes.zip(&listing.positions).map(move |(class, &at)| {
        let rank = if order == PullOrder::Shuffled {
            scrambled(at)
        } else {
            at.get()
        };
        Cursor { class, at, rank }
    })
}

/// For comparison only: gives up the order, and the classes with it.
fn shuffle(listing: &mut Listing) {
    listing.positions.sort_unstable_by_key(|&at| scrambled(at));
    listing.class_counts = [0; FrequencyClass::COUNT as usize];
    listing.class_counts[0] = listing.positions.len() as u64;
}

/// A fixed scramble of positions (the finaliser of splitmix64, Steele et al. 2014): one to one, so ranks are unique.
fn scrambled(at: SliceKey) -> u64 {
    let mut bits = at.get();
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
