//! [`Places`]: who may be connected to a port, and who has to go.
//!
//! A port has so many places. When all are taken, who comes next takes the place of a connection on which nothing is
//! asked; the longest there goes first. If there is none such, a few places more are kept for calls that must not be
//! locked out (other nodes at a node, nodes at the Assigner): whoever sits on one of those and asks for something else is told
//! that the port is full.
//!
//! Every [`Place`] knows what its client owes: the rest of a message that it began, or reading what it asked for. A sweep
//! closes connections whose client owes that for too long, and, while more is held for all of them together than may be,
//! those that hold the most. Time is counted in ticks of the sweep: noting that something is owed costs the data path no look
//! at a clock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::grpc;
use crate::listener::ListenerCounters;

/// Ticks of the sweep in the time after which a client that owes something is cut.
const STALL_TICKS: u32 = 8;

/// Bytes a second at which a message must come in, beside the time that any may take.
const MESSAGE_BYTES_PER_SECOND_MIN: u64 = 64 << 10;

/// How many connections are looked at to find one that may go.
const LOOKS_MAX: usize = 64;

/// How long a connection on a reserved place may take to ask for what it is reserved for.
const PROOF_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls of one connection that were given up by its client before they were answered, within [`RESETS_WINDOW`], from which
/// on it is closed. A node that times out peeks gives up some tens a second.
const RESETS_MAX: u32 = 2_000;

const RESETS_WINDOW: Duration = Duration::from_secs(1);

/// Stands for no number of bytes.
const NOT_STUCK: u64 = u64::MAX;

/// What a port bears.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) connections_max: usize,
    /// Connections beyond that for calls whose path begins like this.
    pub(crate) reserved: Option<Reserve>,
    /// Bytes of unfinished messages, of what waits to be answered, and of replies that are not taken, over all connections. May
    /// change.
    pub(crate) transit_bytes_max: Arc<AtomicUsize>,
    /// How long a client may owe something.
    pub(crate) stall: Duration,
}

/// Places for calls that must not be locked out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reserve {
    /// How many.
    pub(crate) places: usize,
    /// What paths of those calls begin with.
    pub(crate) path: &'static str,
}

/// All places of one port.
#[derive(Debug)]
pub(crate) struct Places {
    limits: Limits,
    counters: Arc<ListenerCounters>,
    taken: Mutex<Taken>,
    /// The present tick of the sweep; from 1, for 0 means never.
    tick: AtomicU32,
    /// Bytes held for all connections.
    transit_bytes: AtomicUsize,
    /// More is held than may be.
    is_pressed: Notify,
    end: CancellationToken,
}

#[derive(Debug, Default)]
struct Taken {
    ids: u64,
    places: HashMap<u64, Arc<Place>>,
    reserved: usize,
    /// Who may have to go, the longest there first. May name some that went by themselves.
    common_queue: VecDeque<u64>,
    reserved_queue: VecDeque<u64>,
}

impl Taken {
    fn insert(&mut self, is_reserved: bool, place: impl FnOnce(u64) -> Place) -> Arc<Place> {
        self.ids += 1;
        let place = Arc::new(place(self.ids));
        self.places.insert(self.ids, place.clone());
        self.reserved += usize::from(is_reserved);
        let (ids, places) = (self.ids, &self.places);
        let queue = if is_reserved {
            &mut self.reserved_queue
        } else {
            &mut self.common_queue
        };
        queue.push_back(ids);
        if queue.len() > 2 * places.len() + LOOKS_MAX {
            queue.retain(|id| places.contains_key(id));
        }
        place
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Place>> {
        let place = self.places.remove(&id)?;
        self.reserved -= usize::from(place.is_reserved);
        Some(place)
    }

    /// The connection that has been there longest of those that `may_go`, among the first few.
    fn displace(&mut self, is_reserved: bool, may_go: impl Fn(&Place) -> bool) -> Option<Arc<Place>> {
        for _ in 0..LOOKS_MAX {
            let queue = if is_reserved {
                &mut self.reserved_queue
            } else {
                &mut self.common_queue
            };
            let id = queue.pop_front()?;
            match self.places.get(&id) {
                None => {}
                Some(place) if may_go(place) => return self.remove(id),
                Some(_) => queue.push_back(id),
            }
        }
        None
    }
}

impl Places {
    /// The places of a port, and the sweep that watches them until `end`.
    pub(crate) fn open(limits: Limits, counters: Arc<ListenerCounters>, end: CancellationToken) -> Arc<Self> {
        let places = Arc::new(Self {
            limits,
            counters,
            taken: Mutex::default(),
            tick: AtomicU32::new(1),
            transit_bytes: AtomicUsize::new(0),
            is_pressed: Notify::new(),
            end: end.clone(),
        });
        let sweep = places.clone().sweep();
        tokio::spawn(async move {
            tokio::select! {
                () = sweep => {}
                () = end.cancelled() => {}
            }
        });
        places
    }

    /// How long a client may owe something.
    pub(crate) fn stall(&self) -> Duration {
        self.limits.stall
    }

    /// What this port counts.
    pub(crate) fn counters(&self) -> &Arc<ListenerCounters> {
        &self.counters
    }

    /// A place for a connection that was just accepted; none if the port is full.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Seat> {
        let mut taken = self.taken.lock();
        let common = taken.places.len() - taken.reserved;
        let is_reserved = if common < self.limits.connections_max {
            false
        } else if let Some(idle) = taken.displace(false, Place::is_idle) {
            self.displaced(&idle);
            false
        } else {
            let places = self.limits.reserved.map_or(0, |reserved| reserved.places);
            if taken.reserved >= places {
                let unproven = taken.displace(true, |place| !place.is_proven());
                let unproven = unproven?;
                self.displaced(&unproven);
            }
            true
        };
        let place = taken.insert(is_reserved, |id| Place {
            id,
            places: self.clone(),
            is_reserved,
            read_bytes: AtomicU64::new(0),
            read_before: AtomicU64::new(NOT_STUCK),
            is_proven: AtomicBool::new(false),
            was_refused: AtomicBool::new(false),
            was_used: AtomicBool::new(false),
            opened: Instant::now(),
            calls: AtomicUsize::new(0),
            held_bytes: AtomicUsize::new(0),
            owed: Mutex::default(),
            resets: Mutex::new((Instant::now(), 0)),
            // Of its own, so that connections do not meet in one lock.
            cut: self.end.child_token(),
        });
        drop(taken);
        self.counters.open.fetch_add(1, Ordering::Relaxed);
        Some(Seat(place))
    }

    fn displaced(&self, place: &Place) {
        place.cut.cancel();
        self.counters.displaced.fetch_add(1, Ordering::Relaxed);
    }

    async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.limits.stall / STALL_TICKS);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => self.pass_tick(),
                () = self.is_pressed.notified() => {}
            }
            self.relieve();
        }
    }

    fn pass_tick(&self) {
        self.tick.fetch_add(1, Ordering::Relaxed);
        self.cut_stalled();
    }

    fn all(&self) -> Vec<Arc<Place>> {
        self.taken.lock().places.values().cloned().collect()
    }

    /// Closes connections whose client owes something for too long.
    fn cut_stalled(&self) {
        for place in self.all() {
            if place.cut.is_cancelled() {
                continue;
            }
            place.note_stuck();
            if place.is_stalled() {
                self.counters.stalled.fetch_add(1, Ordering::Relaxed);
                place.cut.cancel();
            } else if place.is_reserved && !place.is_proven() && place.opened.elapsed() > PROOF_TIMEOUT {
                self.counters.silent.fetch_add(1, Ordering::Relaxed);
                place.cut.cancel();
            }
        }
    }

    /// Closes the connections that hold the most, until what is held fits.
    fn relieve(&self) {
        let holding = |place: &Arc<Place>| place.holding_bytes();
        let mut places = self.all();
        places.retain(|place| !place.cut.is_cancelled());
        places.sort_unstable_by_key(holding);
        let mut bytes: usize = places.iter().map(holding).sum();
        while bytes > self.transit_bytes_max() {
            let Some(place) = places.pop() else { return };
            bytes = bytes.saturating_sub(holding(&place));
            self.counters.cut_for_memory.fetch_add(1, Ordering::Relaxed);
            place.cut.cancel();
        }
    }

    fn is_pressed(&self) -> bool {
        self.transit_bytes.load(Ordering::Relaxed) > self.transit_bytes_max()
    }

    fn transit_bytes_max(&self) -> usize {
        self.limits.transit_bytes_max.load(Ordering::Relaxed)
    }
}

/// A connection's hold on its place. The place is free when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat(pub(crate) Arc<Place>);

impl Drop for Seat {
    fn drop(&mut self) {
        let places = &self.0.places;
        places.counters.open.fetch_sub(1, Ordering::Relaxed);
        places.taken.lock().remove(self.0.id);
    }
}

/// One connection, as its port sees it.
#[derive(Debug)]
pub(crate) struct Place {
    id: u64,
    places: Arc<Places>,
    is_reserved: bool,
    /// It asked for what its place is reserved for.
    is_proven: AtomicBool,
    /// It asked for something else.
    was_refused: AtomicBool,
    /// It asked for something since it was last looked at.
    was_used: AtomicBool,
    opened: Instant,
    /// Calls that are open.
    calls: AtomicUsize,
    held_bytes: AtomicUsize,
    /// Bytes read from it.
    read_bytes: AtomicU64,
    /// How many these were when its client was first found not to read; [`NOT_STUCK`] while it reads.
    read_before: AtomicU64,
    owed: Mutex<BTreeMap<u64, Arc<Owed>>>,
    /// When the present window began, and how many calls were given up in it.
    resets: Mutex<(Instant, u32)>,
    cut: CancellationToken,
}

/// Why a call is not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoEntry {
    /// All places are taken, and this one is for others.
    Full,
    /// Too much is in transit, and this connection has its part in it.
    Pressed,
}

impl Place {
    /// Fires when the connection has to go.
    pub(crate) fn cut(&self) -> &CancellationToken {
        &self.cut
    }

    pub(crate) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    fn is_idle(&self) -> bool {
        self.calls.load(Ordering::Relaxed) == 0 && !self.was_used.swap(false, Ordering::Relaxed)
    }

    fn is_proven(&self) -> bool {
        self.is_proven.load(Ordering::Relaxed)
    }

    fn is_stalled(&self) -> bool {
        let now = self.places.tick.load(Ordering::Relaxed);
        self.owed.lock().values().any(|owed| owed.is_overdue(now))
    }

    /// Takes in that so many bytes were read from it.
    pub(crate) fn was_read(&self, bytes: usize) {
        self.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// While its client does not read, the services behind do not read from it either: what it sends then piles up in the
    /// windows of the library.
    fn note_stuck(&self) {
        let now = self.places.tick.load(Ordering::Relaxed);
        let is_stuck = self.owed.lock().values().any(|owed| owed.is_stuck(now));
        let read_bytes = self.read_bytes.load(Ordering::Relaxed);
        if !is_stuck {
            self.read_before.store(NOT_STUCK, Ordering::Relaxed);
        } else if self.read_before.load(Ordering::Relaxed) == NOT_STUCK {
            self.read_before.store(read_bytes, Ordering::Relaxed);
        }
    }

    fn holding_bytes(&self) -> usize {
        let read_bytes = self.read_bytes.load(Ordering::Relaxed);
        // Nothing, while it is not stuck.
        let piled_up = read_bytes.saturating_sub(self.read_before.load(Ordering::Relaxed));
        let piled_up = piled_up.min(grpc::CONNECTION_WINDOW_BYTES.into());
        self.held_bytes.load(Ordering::Relaxed) + usize::try_from(piled_up).unwrap_or(usize::MAX)
    }

    /// Whether a call may be opened here.
    pub(crate) fn admit(&self, path: &str) -> Result<(), NoEntry> {
        if self.is_reserved && !self.is_proven() {
            let reserve = self.places.limits.reserved;
            if !reserve.is_some_and(|reserve| path.starts_with(reserve.path)) {
                if !self.was_refused.swap(true, Ordering::Relaxed) {
                    self.places.counters.refused.fetch_add(1, Ordering::Relaxed);
                }
                return Err(NoEntry::Full);
            }
            self.is_proven.store(true, Ordering::Relaxed);
        }
        if self.places.is_pressed() && self.held_bytes.load(Ordering::Relaxed) > 0 {
            return Err(NoEntry::Pressed);
        }
        Ok(())
    }

    /// Opens a call. `id` tells it from the others of this connection.
    pub(crate) fn begin(self: &Arc<Self>, id: u64) -> Call {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.was_used.store(true, Ordering::Relaxed);
        let owed = Arc::<Owed>::default();
        self.owed.lock().insert(id, owed.clone());
        Call {
            place: self.clone(),
            id,
            owed,
            is_answered: AtomicBool::new(false),
        }
    }

    /// A call was given up before it was answered.
    fn was_reset(&self) {
        let mut resets = self.resets.lock();
        if resets.0.elapsed() > RESETS_WINDOW {
            *resets = (Instant::now(), 0);
        }
        resets.1 += 1;
        if resets.1 == RESETS_MAX && !self.cut.is_cancelled() {
            self.places
                .counters
                .cut_for_resets
                .fetch_add(1, Ordering::Relaxed);
            self.cut.cancel();
        }
    }
}

/// Since when a client owes what, in ticks; 0: it does not.
#[derive(Debug, Default)]
struct Owed {
    /// The rest of a message.
    message_since: AtomicU32,
    /// What that may take beside the time that any may take, in ticks.
    message_ticks: AtomicU32,
    /// Reading what it asked for.
    reading_since: AtomicU32,
}

impl Owed {
    /// Whether something that was handed over before this tick is not taken yet.
    fn is_stuck(&self, now: u32) -> bool {
        let since = self.reading_since.load(Ordering::Relaxed);
        since != 0 && since != now
    }

    fn is_overdue(&self, now: u32) -> bool {
        let overdue = |since: &AtomicU32, ticks: u32| {
            let since = since.load(Ordering::Relaxed);
            since != 0 && now.wrapping_sub(since) > ticks
        };
        let message_ticks = self.message_ticks.load(Ordering::Relaxed);
        overdue(&self.reading_since, STALL_TICKS)
            || overdue(&self.message_since, STALL_TICKS.saturating_add(message_ticks))
    }
}

/// An open call of a connection.
#[derive(Debug)]
pub(crate) struct Call {
    place: Arc<Place>,
    id: u64,
    owed: Arc<Owed>,
    is_answered: AtomicBool,
}

impl Call {
    fn now(&self) -> u32 {
        self.place.places.tick.load(Ordering::Relaxed).max(1)
    }

    /// The client began a message of so many bytes, and has not ended it.
    pub(crate) fn owes_message(&self, bytes: usize) {
        let stall_ms = u64::try_from(self.place.places.stall().as_millis()).unwrap_or(u64::MAX);
        let tick_bytes = (MESSAGE_BYTES_PER_SECOND_MIN * stall_ms / 1_000 / u64::from(STALL_TICKS)).max(1);
        let ticks = u32::try_from(bytes as u64 / tick_bytes).unwrap_or(u32::MAX);
        self.owed.message_ticks.store(ticks, Ordering::Relaxed);
        self.owed.message_since.store(self.now(), Ordering::Relaxed);
    }

    /// All that the client began has come.
    pub(crate) fn owes_no_message(&self) {
        self.owed.message_since.store(0, Ordering::Relaxed);
    }

    /// Something was handed to the connection.
    pub(crate) fn owes_reading(&self) {
        self.owed.reading_since.store(self.now(), Ordering::Relaxed);
    }

    /// The connection asks for more: it has room for what was handed to it.
    pub(crate) fn has_read(&self) {
        self.owed.reading_since.store(0, Ordering::Relaxed);
    }

    /// The whole answer was handed over.
    pub(crate) fn is_answered(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }

    /// Room for bytes that are held for this call's connection: none yet.
    pub(crate) fn held(&self) -> Held {
        Held {
            place: self.place.clone(),
            bytes: 0,
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.place.owed.lock().remove(&self.id);
        self.place.calls.fetch_sub(1, Ordering::Relaxed);
        if !self.is_answered.load(Ordering::Relaxed) {
            self.place.was_reset();
        }
    }
}

/// Bytes that are held for a connection, counted while this lives.
#[derive(Debug)]
pub(crate) struct Held {
    place: Arc<Place>,
    bytes: usize,
}

impl Held {
    /// How many they are.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// From now on they are so many.
    pub(crate) fn set(&mut self, bytes: usize) {
        let places = &self.place.places;
        let before = std::mem::replace(&mut self.bytes, bytes);
        if bytes > before {
            self.place.held_bytes.fetch_add(bytes - before, Ordering::Relaxed);
            places.transit_bytes.fetch_add(bytes - before, Ordering::Relaxed);
            if places.is_pressed() {
                places.is_pressed.notify_one();
            }
        } else if bytes < before {
            self.place.held_bytes.fetch_sub(before - bytes, Ordering::Relaxed);
            places.transit_bytes.fetch_sub(before - bytes, Ordering::Relaxed);
        }
        places.counters.transit_bytes.store(
            places.transit_bytes.load(Ordering::Relaxed) as u64,
            Ordering::Relaxed,
        );
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Numbers calls.
pub(crate) fn next_call(ids: &AtomicU64) -> u64 {
    ids.fetch_add(1, Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKE: &str = "/softstore.v1.Transfer/Take";
    const STREAM: &str = "/softstore.v1.Cache/Stream";

    /// Must run within a runtime. The sweep does not run while a test does not await: it is driven by hand.
    fn places(connections_max: usize, transit_bytes_max: usize) -> Arc<Places> {
        let limits = Limits {
            connections_max,
            reserved: Some(Reserve {
                places: 2,
                path: "/softstore.v1.Transfer/",
            }),
            transit_bytes_max: Arc::new(AtomicUsize::new(transit_bytes_max)),
            stall: Duration::from_secs(STALL_TICKS.into()),
        };
        Places::open(limits, Arc::default(), CancellationToken::new())
    }

    fn count(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Plan: two places; one connection has a call open, the other has none. A third takes the place of the idle one; once both
    /// are at work, a fourth and a fifth get reserved places, where only another node's calls are let in; a sixth takes the
    /// place of the one that did not prove to be a node, and when all have proven that, a seventh is refused.
    #[tokio::test]
    async fn the_idle_make_room_and_some_places_are_kept() {
        let places = places(2, 1 << 30);
        let take = || places.take();
        let (Some(busy), Some(idle)) = (take(), take()) else {
            panic!("there is room for two")
        };
        let call = busy.0.begin(1);
        let third = take().expect("the idle one makes room");
        assert!(idle.0.cut().is_cancelled() && !busy.0.cut().is_cancelled());
        assert_eq!(third.0.admit(STREAM), Ok(()));
        let other_call = third.0.begin(2);

        let (Some(fourth), Some(fifth)) = (take(), take()) else {
            panic!("two places are reserved")
        };
        assert_eq!(fourth.0.admit(STREAM), Err(NoEntry::Full));
        assert_eq!(fourth.0.admit(STREAM), Err(NoEntry::Full));
        assert_eq!(count(&places.counters.refused), 1, "a connection is counted once");
        assert_eq!(fifth.0.admit(TAKE), Ok(()));
        assert_eq!(fifth.0.admit(STREAM), Ok(()), "a node may ask for more");
        let sixth = take().expect("the fourth makes room");
        assert!(fourth.0.cut().is_cancelled() && !fifth.0.cut().is_cancelled());
        assert_eq!(sixth.0.admit(TAKE), Ok(()));
        assert!(take().is_none());
        assert_eq!(count(&places.counters.displaced), 2);

        drop((call, other_call));
        assert!(take().is_some(), "whoever has nothing open any more can go");
        drop((busy, idle, third, fourth, fifth, sixth));
        assert_eq!(count(&places.counters.open), 0);
    }

    /// Plan: a client that owes nothing stays; one that does not read, and one that does not end a message, are cut after the
    /// time for that, and a large message has more of it.
    #[tokio::test]
    async fn who_owes_something_for_too_long_is_cut() {
        let places = places(9, 1 << 30);
        let seats: Vec<Seat> = (0..5).filter_map(|_| places.take()).collect();
        let calls: Vec<Call> = seats.iter().map(|seat| seat.0.begin(1)).collect();
        calls[1].owes_reading();
        calls[2].owes_message(0);
        calls[3].owes_message(4 << 20);
        calls[4].owes_reading();
        calls[4].has_read();
        let cut = || {
            seats
                .iter()
                .map(|seat| seat.0.cut().is_cancelled())
                .collect::<Vec<_>>()
        };
        let pass = |ticks| (0..ticks).for_each(|_| places.pass_tick());
        pass(STALL_TICKS);
        assert_eq!(cut(), [false; 5]);
        pass(1);
        assert_eq!(cut(), [false, true, true, false, false]);
        // 4 MiB at 64 KiB a second, in ticks of a second.
        pass(63);
        assert_eq!(cut(), [false, true, true, false, false]);
        pass(1);
        assert_eq!(cut(), [false, true, true, true, false]);
        assert_eq!(count(&places.counters.stalled), 3);
    }

    /// Plan: three connections hold more than may be held. The largest is cut, the others stay, and those that hold
    /// something may open no call until what it held is given back.
    #[tokio::test]
    async fn who_holds_most_is_cut_when_it_is_too_much() {
        let places = places(9, 100);
        let seats: Vec<Seat> = (0..3).filter_map(|_| places.take()).collect();
        let calls: Vec<Call> = seats.iter().map(|seat| seat.0.begin(1)).collect();
        let mut held: Vec<Held> = calls.iter().map(Call::held).collect();
        held[0].set(30);
        held[1].set(60);
        assert_eq!(seats[0].0.admit(STREAM), Ok(()));
        held[2].set(40);
        assert_eq!(seats[0].0.admit(STREAM), Err(NoEntry::Pressed));
        places.relieve();
        let cut: Vec<bool> = seats.iter().map(|seat| seat.0.cut().is_cancelled()).collect();
        assert_eq!(cut, [false, true, false]);
        assert_eq!(count(&places.counters.cut_for_memory), 1);
        held.remove(1);
        assert_eq!(seats[0].0.admit(STREAM), Ok(()));
        assert_eq!(count(&places.counters.transit_bytes), 70);
    }

    /// Plan: calls given up before they were answered, as many as a node in need sends, and then a flood.
    #[tokio::test]
    async fn a_flood_of_resets_is_cut() {
        let places = places(9, 1 << 30);
        let seat = places.take().expect("there is room");
        let reset = |id| drop(seat.0.begin(id));
        (1..u64::from(RESETS_MAX)).for_each(reset);
        assert!(!seat.0.cut().is_cancelled());
        let answered = seat.0.begin(1);
        answered.is_answered();
        drop(answered);
        assert!(!seat.0.cut().is_cancelled());
        reset(2);
        assert!(seat.0.cut().is_cancelled());
        assert_eq!(count(&places.counters.cut_for_resets), 1);
    }
}
