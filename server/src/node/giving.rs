//! The giver's stream: the frozen entries that a taker asked for, hottest class first, at a pace that leaves the
//! foreground its latency.
//!
//! The list of what is to be sent is made once (8 bytes an entry), off the executor. The cursor names the last entry
//! sent by its class and position, and the moment that classes are as of; so a resumed stream lists in the same order and
//! goes on behind it, even if entries were evicted or parts released meanwhile.
//!
//! In a chain, where this node's own pull still fills the copy, it sends what arrived since, and ends only after that
//! pull. What arrives later may belong anywhere in the order, so no cursor can say what was sent: a chain's stream that
//! breaks begins again (H6; what the taker has already is a cheap repetition).
//!
//! A taker that never reads costs two chunks and the list, until its copy is dropped or the node ends.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use softstore_proto::v1;
use softstore_sharding::{FrequencyClass, SliceKey, Timestamp};
use softstore_store::{Listing, Part};
use softstore_transfer::chunk::{ChunkBuilder, ChunkEntry, ChunkFormat};
use softstore_transfer::handoff::CopyGrant;
use softstore_transfer::message::{PullRequest, Refusal};
use softstore_transfer::pacer::Pacer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::givings::GivingPlace;
use super::metrics::{add, count};
use super::state::NodeState;
use crate::config::PullOrder;
use crate::events;

/// Chunks that are ready before the taker took the one before: with the transport's window, what a pull holds in memory.
const CHUNKS_AHEAD: usize = 2;

/// How often a giver in a chain looks for what has arrived meanwhile, in milliseconds, at the most.
const CHAIN_POLL_MS: u64 = 25;

/// How often a stream looks whether its copy is still kept, in milliseconds; also while the taker does not read.
const REGRANT_INTERVAL_MS: u64 = 50;

/// How long the word that a copy is gone may take to be read.
const LAST_ITEM_TIMEOUT: Duration = Duration::from_secs(1);

/// Entries looked at before others on the executor get their turn: some tens of microseconds.
const ENTRIES_PER_TURN: usize = 128;

/// Bytes of a cursor: class, position, and the moment that classes are as of.
const CURSOR_BYTES: usize = 17;

type Items = mpsc::Sender<Result<v1::PullItem, Status>>;

/// Starts sending.
pub(super) fn stream(
    state: &Arc<NodeState>,
    request: PullRequest,
    grants: Vec<CopyGrant>,
    place: GivingPlace,
) -> Result<impl Stream<Item = Result<v1::PullItem, Status>> + use<>, Refusal> {
    let resumed = Cursor::decode(&request.cursor)?;
    let pacer = Pacer::new(state.config.pull_bytes_per_second_min)
        .map_err(|_| Refusal::Malformed("no minimum rate"))?;
    let (items, stream) = mpsc::channel(CHUNKS_AHEAD);
    let fenced = grants.iter().map(|grant| grant.as_of).max();
    let (from, as_of) = match resumed {
        Some((from, as_of)) => (Some(from), as_of),
        None => (None, fenced.unwrap_or(Timestamp::ZERO)),
    };
    let format = state.core().chunk_format(&request)?;
    let giving = Giving {
        state: state.clone(),
        format,
        is_chain: grants.iter().any(|grant| grant.upstream.is_some()),
        request,
        grants: in_order(grants),
        granted_at: state.clock.now(),
        as_of,
        pacer,
        items,
        place,
    };
    state.tasks.spawn(giving.run(from));
    Ok(ReceiverStream::new(stream))
}

/// One pull, as its giver sees it.
struct Giving {
    state: Arc<NodeState>,
    format: ChunkFormat,
    request: PullRequest,
    /// In the order of their slices.
    grants: Vec<CopyGrant>,
    granted_at: Timestamp,
    /// Something was still to arrive here when the stream began.
    is_chain: bool,
    /// The moment that classes are as of.
    as_of: Timestamp,
    pacer: Pacer,
    items: Items,
    place: GivingPlace,
}

/// Why sending stopped early.
enum Stop {
    /// The taker went away.
    TakerLeft,
    /// The copy is gone.
    Gone,
    /// This node serves nothing any more.
    Closing,
}

impl Giving {
    async fn run(mut self, from: Option<Cursor>) {
        let complete = v1::PullItem {
            complete: true,
            ..v1::PullItem::default()
        };
        events::giving(&self.request.taker, self.grants.len());
        let ended = match self.send_all(from).await {
            Ok(()) => {
                let handed_over = self.hand_over(complete).await;
                if handed_over.is_ok() {
                    events::given(&self.request.taker);
                }
                handed_over
            }
            Err(stop) => Err(stop),
        };
        if matches!(ended, Err(Stop::Gone)) {
            let gone = v1::PullItem {
                gone: true,
                ..v1::PullItem::default()
            };
            // The taker may have gone, or not be reading; it finds out when it comes again.
            let _ = tokio::time::timeout(LAST_ITEM_TIMEOUT, self.items.send(Ok(gone))).await;
        }
    }

    async fn send_all(&mut self, mut from: Option<Cursor>) -> Result<(), Stop> {
        self.rest().await?;
        let mut sent: Option<HashSet<SliceKey>> = self.is_chain.then(HashSet::new);
        loop {
            // Looked at before listing: what arrives after the last look is in the next list.
            let upstream = self.has_upstream();
            let began = tokio::time::Instant::now();
            let listing = self.list().await?;
            self.place.listed(began.elapsed());
            self.send_listing(&listing, from.take(), sent.as_mut()).await?;
            if !upstream {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(CHAIN_POLL_MS)).await;
            self.rest().await?;
            self.regrant()?;
        }
    }

    /// Waits until the taker's list may be made again, for as long as its copy is kept.
    async fn rest(&mut self) -> Result<(), Stop> {
        let may_list = self.place.may_list();
        while tokio::time::Instant::now() < may_list {
            let look = tokio::time::Instant::now() + Duration::from_millis(REGRANT_INTERVAL_MS);
            tokio::time::sleep_until(may_list.min(look)).await;
            self.regrant()?;
        }
        Ok(())
    }

    fn has_upstream(&self) -> bool {
        self.grants.iter().any(|grant| grant.upstream.is_some())
    }

    /// Asks again what is kept for the taker: parts may have been released, and pulls that filled them ended.
    fn regrant(&mut self) -> Result<(), Stop> {
        if self.state.closing.is_cancelled() {
            return Err(Stop::Closing);
        }
        let granted = self.state.core().grant_pull(&self.request);
        self.grants = in_order(granted.map_err(|_| Stop::Gone)?);
        self.granted_at = self.state.clock.now();
        Ok(())
    }

    async fn list(&self) -> Result<Listing, Stop> {
        let parts: Vec<Part> = self
            .grants
            .iter()
            .map(|grant| Part {
                slice: grant.slice,
                epoch: grant.epoch,
            })
            .collect();
        let (store, order, as_of) = (self.state.store.clone(), self.state.config.pull_order, self.as_of);
        let listed = tokio::task::spawn_blocking(move || {
            let mut listing = store.list(&parts, as_of);
            if order == PullOrder::Shuffled {
                shuffle(&mut listing);
            }
            listing
        });
        // The runtime is shutting down. An empty listing would tell the taker that it has everything.
        listed.await.map_err(|_| Stop::Closing)
    }

    async fn send_listing(
        &mut self,
        listing: &Listing,
        from: Option<Cursor>,
        mut sent: Option<&mut HashSet<SliceKey>>,
    ) -> Result<(), Stop> {
        let mut builder = ChunkBuilder::new(self.format);
        let order = self.state.config.pull_order;
        let left = cursors(listing, order).filter(|cursor| from.is_none_or(|from| cursor.follows(from)));
        for (looked_at, cursor) in left.enumerate() {
            if looked_at % ENTRIES_PER_TURN == ENTRIES_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            if sent.as_mut().is_some_and(|sent| !sent.insert(cursor.at)) {
                continue;
            }
            let Some(grant) = self.grant_at(cursor.at) else {
                continue;
            };
            let Some(frozen) = self.state.store.read_frozen(cursor.at, grant.epoch, grant.as_of) else {
                continue;
            };
            let Ok(ttl_ms) = grant.ttl_ms(frozen.deadline) else {
                continue;
            };
            let entry = ChunkEntry {
                key: &frozen.key,
                value: &frozen.value,
                version: frozen.version,
                ttl_ms,
                class: frozen.class,
            };
            if !builder.push(&entry) {
                let before = cursor.before(self.as_of);
                self.send(builder.take(), before).await?;
                let _ = builder.push(&entry);
            }
            count(&self.state.metrics.entries_given);
            let bytes = frozen.key.len() + frozen.value.len();
            add(&self.state.metrics.given_bytes, bytes as u64);
            if builder.is_full() {
                let here = cursor.encode(self.as_of);
                self.send(builder.take(), here).await?;
            }
        }
        if builder.entries() > 0 {
            let last = cursors(listing, order).last();
            let end = last.map_or_else(Bytes::new, |last| last.encode(self.as_of));
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
            cursor: if self.is_chain { Bytes::new() } else { cursor },
            complete: false,
            gone: false,
        };
        self.hand_over(item).await?;
        if self.state.clock.now().ms_since(self.granted_at) >= REGRANT_INTERVAL_MS {
            self.regrant()?;
        }
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

    /// Waits until the taker has room for an item, for as long as its copy is kept.
    async fn hand_over(&mut self, item: v1::PullItem) -> Result<(), Stop> {
        let items = self.items.clone();
        let patience = Duration::from_millis(REGRANT_INTERVAL_MS);
        loop {
            match tokio::time::timeout(patience, items.reserve()).await {
                Ok(Ok(place)) => {
                    place.send(Ok(item));
                    return Ok(());
                }
                Ok(Err(_)) => return Err(Stop::TakerLeft),
                Err(_) => self.regrant()?,
            }
        }
    }
}

/// Grants in the order of their slices, without those that overlap another (whoever asks for a range twice gets it once).
fn in_order(mut grants: Vec<CopyGrant>) -> Vec<CopyGrant> {
    grants.sort_unstable_by_key(|grant| grant.slice.low());
    grants.dedup_by(|next, kept| next.slice.low() <= kept.slice.last());
    grants
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
    /// A cursor, and the moment that its class is as of. `None`: from the start.
    fn decode(bytes: &Bytes) -> Result<Option<(Self, Timestamp)>, Refusal> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let malformed = Refusal::Malformed("a cursor that this node did not give out");
        let bytes: &[u8; CURSOR_BYTES] = bytes[..].try_into().map_err(|_| malformed)?;
        let [class, numbers @ ..] = bytes;
        let class = FrequencyClass::clamped(*class);
        if class.get() != bytes[0] {
            return Err(malformed);
        }
        let (rank, as_of_ms) = numbers.split_at(8);
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("8 of 16 bytes"));
        let (rank, as_of) = (number(rank), Timestamp::from_ms(number(as_of_ms)));
        let at = SliceKey::new(rank);
        Ok(Some((Self { class, at, rank }, as_of)))
    }

    fn encode(self, as_of: Timestamp) -> Bytes {
        let mut bytes = [0; CURSOR_BYTES];
        bytes[0] = self.class.get();
        bytes[1..9].copy_from_slice(&self.rank.to_le_bytes());
        bytes[9..].copy_from_slice(&as_of.as_ms().to_le_bytes());
        Bytes::copy_from_slice(&bytes)
    }

    /// A cursor that leads to this entry again.
    fn before(self, as_of: Timestamp) -> Bytes {
        match self.rank.checked_sub(1) {
            Some(rank) => Self { rank, ..self }.encode(as_of),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(class: u8, rank: u64) -> Cursor {
        let (class, at) = (FrequencyClass::clamped(class), SliceKey::new(rank));
        Cursor { class, at, rank }
    }

    #[test]
    fn a_cursor_comes_back_as_it_went_and_garbage_is_refused() {
        let as_of = Timestamp::from_ms(1_234_567);
        let sent = cursor(7, u64::MAX - 3);
        assert_eq!(Cursor::decode(&sent.encode(as_of)), Ok(Some((sent, as_of))));
        assert_eq!(Cursor::decode(&Bytes::new()), Ok(None));
        for garbage in [&[1; 9][..], &[255; CURSOR_BYTES], &[0; CURSOR_BYTES + 1]] {
            let refused = Cursor::decode(&Bytes::copy_from_slice(garbage));
            assert!(matches!(refused, Err(Refusal::Malformed(_))), "{garbage:?}");
        }
    }

    #[test]
    fn what_follows_a_cursor_is_colder_or_further_on() {
        let here = cursor(5, 100);
        assert!(cursor(4, 1).follows(here) && cursor(5, 101).follows(here));
        assert!(!here.follows(here) && !cursor(6, 200).follows(here) && !cursor(5, 99).follows(here));
        let Ok(Some((before, _))) = Cursor::decode(&here.before(Timestamp::ZERO)) else {
            panic!("a cursor before the entry")
        };
        assert!(here.follows(before));
        assert!(cursor(5, 0).before(Timestamp::ZERO).is_empty());
    }
}
