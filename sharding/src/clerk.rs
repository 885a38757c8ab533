//! [`Clerk`]: the part of a client that follows assignments and routes keys.
//!
//! It holds the newest assignment it was given and, over it, what nodes said in `Moved` since: a node often knows of a
//! move before the assignment arrives. A clerk follows only a higher `since`, so that it cannot be sent in circles. It
//! is immutable in use: cloning is cheap, so a shell clones it, changes the clone and swaps it in.

use std::sync::Arc;

use thiserror::Error;

use crate::assignment::Assignment;
use crate::diff::DiffError;
use crate::generation::Generation;
use crate::identity::{ForeignCluster, Founding};
use crate::node::{Life, Peer};
use crate::range_map::RangeMap;
use crate::session::AssignmentUpdate;
use crate::slice::Slice;
use crate::slice_key::SliceKey;
use crate::slice_map::SliceMap;

/// Most `Moved` answers that a clerk remembers over one assignment. Further ones are not followed until the next
/// assignment; the node that sent them keeps answering `Moved`, so nothing is lost but time.
pub const MOVED_RANGES_MAX: usize = 1_024;

/// Follows assignments and routes keys.
#[derive(Clone, Debug, Default)]
pub struct Clerk {
    table: Option<Arc<RouteTable>>,
    /// The founding of the first assignment that said one: this clerk's for as long as nobody has it forget all.
    founding: Option<Founding>,
    /// Who said to own what since a higher `since` than the assignment's.
    moved: RangeMap<Moved>,
}

/// An assignment, resolved for routing: ranges name their owner's place in `peers` instead of its name.
#[derive(Debug)]
struct RouteTable {
    assignment: Arc<Assignment>,
    routes: SliceMap<Target>,
    peers: Vec<Peer>,
    /// Who reads the ranges that are replicated, their owner first, as indices into `peers`.
    readers: Vec<Box<[usize]>>,
}

/// Where one range leads.
#[derive(Clone, Copy, Debug)]
struct Target {
    /// Index into the table's peers; `None` if the owner is dead.
    peer: Option<usize>,
    since: Generation,
    /// Index into the table's readers; `None` if the range has no living replica.
    readers: Option<u32>,
}

/// What a node said of a range that it does not own.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Moved {
    peer: Peer,
    since: Generation,
}

/// Where an operation on a key goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route<'a> {
    /// To this node.
    To {
        /// The owner's life.
        life: &'a Life,
        /// `host:port` of its gRPC port.
        address: &'a Arc<str>,
        /// The `since` to send along.
        since: Generation,
    },
    /// The owner is dead and nobody has taken the range yet.
    Unreachable {
        /// Since when the dead owner had it.
        since: Generation,
    },
    /// No assignment has come yet.
    Unknown,
}

/// Who reads a key that is replicated.
#[derive(Clone, Copy, Debug)]
pub struct Readable<'a> {
    peers: &'a [Peer],
    readers: &'a [usize],
    since: Generation,
}

impl<'a> Readable<'a> {
    /// How many there are: 2 or more.
    #[must_use]
    pub fn count(&self) -> usize {
        self.readers.len()
    }

    /// One of them, below [`Readable::count`]; 0 is the owner.
    #[must_use]
    pub fn peer(&self, index: usize) -> Option<&'a Peer> {
        self.peers.get(*self.readers.get(index)?)
    }

    /// The acquisition of their owner.
    #[must_use]
    pub fn since(&self) -> Generation {
        self.since
    }
}

/// Why an update was not taken. The clerk routes on by what it had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UpdateError {
    /// A diff came before any full assignment: ask for the full one.
    #[error("a diff on generation {0} came before any full assignment")]
    NothingHeld(Generation),
    /// It is of another cluster: nothing of it counts.
    #[error("the assignment is of another cluster: {0}")]
    Foreign(#[from] ForeignCluster),
    /// The diff does not fit what is held: ask for the full assignment.
    #[error(transparent)]
    Diff(#[from] DiffError),
}

impl Clerk {
    /// A clerk that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The newest assignment it was given.
    #[must_use]
    pub fn assignment(&self) -> Option<&Arc<Assignment>> {
        self.table.as_ref().map(|table| &table.assignment)
    }

    /// The founding that it follows; none before the first assignment that says one.
    #[must_use]
    pub fn founding(&self) -> Option<Founding> {
        self.founding
    }

    /// The generation of the newest assignment; [`Generation::NONE`] before the first.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.assignment()
            .map_or(Generation::NONE, |held| held.generation())
    }

    /// Where an operation on the key at `position` goes.
    #[must_use]
    pub fn route(&self, position: SliceKey) -> Route<'_> {
        if !self.moved.is_empty()
            && let Some((_, Moved { peer, since })) = self.moved.get(position)
        {
            return Route::To {
                life: &peer.life,
                address: &peer.address,
                since: *since,
            };
        }
        let Some(table) = &self.table else {
            return Route::Unknown;
        };
        let Target { peer, since, .. } = *table.routes.get(position);
        match peer.and_then(|index| table.peers.get(index)) {
            Some(peer) => Route::To {
                life: &peer.life,
                address: &peer.address,
                since,
            },
            None => Route::Unreachable { since },
        }
    }

    /// Whether some range is replicated, so that [`Clerk::readers`] is worth asking.
    #[must_use]
    pub fn has_replicas(&self) -> bool {
        self.table.as_ref().is_some_and(|table| !table.readers.is_empty())
    }

    /// Who may be asked to read the key at `position`, its owner first, and the `since` to send along; none if only its owner
    /// may, or if that has changed since the assignment.
    #[must_use]
    pub fn readers(&self, position: SliceKey) -> Option<Readable<'_>> {
        let table = self.table.as_ref()?;
        let target = table.routes.get(position);
        let readers = table.readers.get(usize::try_from(target.readers?).ok()?)?;
        let is_moved = !self.moved.is_empty() && self.moved.get(position).is_some();
        (!is_moved).then_some(Readable {
            peers: &table.peers,
            readers,
            since: target.since,
        })
    }

    /// Takes an assignment, or what changed since the one held. `Ok(false)`: it is not newer than what is held.
    ///
    /// # Errors
    /// If it is a diff on another assignment than the one held, or leads to no valid one: ask for a full one.
    pub fn update(&mut self, update: &AssignmentUpdate) -> Result<bool, UpdateError> {
        let theirs = match update {
            AssignmentUpdate::Full(next) => next.founding(),
            AssignmentUpdate::Diff(diff) => diff.founding,
        };
        self.admit(theirs)?;
        let next = match update {
            AssignmentUpdate::Full(next) => next.clone(),
            AssignmentUpdate::Diff(diff) if diff.next <= self.generation() => return Ok(false),
            AssignmentUpdate::Diff(diff) => {
                let held = self.assignment().ok_or(UpdateError::NothingHeld(diff.base))?;
                Arc::new(diff.apply(held)?)
            }
        };
        if next.generation() <= self.generation() {
            return Ok(false);
        }
        self.forget_moved_up_to(&next);
        self.founding = self.founding.or(theirs);
        self.table = Some(Arc::new(RouteTable::of(next)));
        Ok(true)
    }

    /// Whether an assignment of a founding is of the cluster that this clerk follows. Generations say nothing between foundings.
    /// Silence is accepted while a node is listed whose build is silent: it may have passed the assignment on.
    ///
    /// # Errors
    /// If it is of another one, or does not say although all builds would.
    pub fn admit(&self, theirs: Option<Founding>) -> Result<(), ForeignCluster> {
        match (self.founding, theirs) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(ForeignCluster::Founding { ours, theirs }),
            (Some(_), None) if self.assignment().is_some_and(|held| !held.lists_unidentified()) => {
                Err(ForeignCluster::Unsaid)
            }
            _ => Ok(()),
        }
    }

    /// Takes a node's word that a range went to another owner. Follows it only where its `since` is higher than what is
    /// known, and not further ahead than clocks explain (`unix_ms` is this one's wall clock): nobody could be asked under it, and
    /// no honest word would ever be followed again. A clerk that holds no assignment has nothing to judge by. Returns whether any
    /// route changed.
    pub fn moved(
        &mut self,
        slice: Slice,
        owner: Life,
        address: Arc<str>,
        since: Generation,
        unix_ms: u64,
    ) -> bool {
        if self.table.is_some() && !since.is_explained_by(self.generation(), unix_ms) {
            return false;
        }
        let older = self.parts_older_than(slice, since);
        if older.is_empty() || self.moved.len() + older.len() > MOVED_RANGES_MAX {
            return false;
        }
        let moved = Moved {
            peer: Peer { life: owner, address },
            since,
        };
        for part in older {
            self.moved.insert(part, moved.clone());
        }
        self.moved.coalesce(|left, right| left == right);
        true
    }

    /// The parts of `slice` whose known `since` is below `since`.
    fn parts_older_than(&self, slice: Slice, since: Generation) -> Vec<Slice> {
        let patched = self.moved.overlapping(slice);
        let mut older: Vec<Slice> = patched
            .filter(|(_, moved)| moved.since < since)
            .map(|(part, _)| part)
            .collect();
        for unpatched in self.moved.gaps(slice) {
            match &self.table {
                None => older.push(unpatched),
                Some(table) => {
                    let parts = table.routes.overlapping(unpatched);
                    older.extend(
                        parts
                            .filter(|(_, target)| target.since < since)
                            .map(|(part, _)| part),
                    );
                }
            }
        }
        older
    }

    /// Forgets what nodes said where the assignment knows at least as new a `since`.
    fn forget_moved_up_to(&mut self, next: &Assignment) {
        for (slice, range) in next.ranges().iter() {
            let known: Vec<Slice> = self
                .moved
                .overlapping(slice)
                .filter(|(_, moved)| moved.since <= range.since)
                .map(|(part, _)| part)
                .collect();
            for part in known {
                self.moved.remove(part);
            }
        }
    }
}

impl RouteTable {
    fn of(assignment: Arc<Assignment>) -> Self {
        let lives: Vec<Life> = assignment
            .directory()
            .iter()
            .map(|(node, entry)| Life {
                node: node.clone(),
                incarnation: entry.incarnation,
            })
            .collect();
        // The directory is ordered by node, and lists each node once.
        let index_of = |life: &Life| lives.binary_search(life).ok();
        let mut readers: Vec<Box<[usize]>> = Vec::new();
        let routes = assignment
            .ranges()
            .iter()
            .map(|(slice, range)| {
                let peer = index_of(&range.owner);
                let replicas = range.readers.replicas.iter().filter_map(index_of);
                let all: Box<[usize]> = peer.into_iter().chain(replicas).collect();
                let is_replicated = peer.is_some() && all.len() > 1;
                let target = Target {
                    peer,
                    since: range.since,
                    readers: is_replicated.then(|| u32::try_from(readers.len()).ok()).flatten(),
                };
                if is_replicated {
                    readers.push(all);
                }
                (slice, target)
            })
            .collect();
        let peers = lives.iter().filter_map(|life| assignment.peer(life)).collect();
        let routes = SliceMap::new(routes).expect("the slices of an assignment cover the key space");
        Self {
            assignment,
            routes,
            peers,
            readers,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::assignment::{RangeAssignment, Readers};
    use crate::diff::AssignmentDiff;
    use crate::generation::Incarnation;
    use crate::identity::ProcessId;
    use crate::node::{NodeEntry, NodeId, NodeState};

    fn life(name: &str) -> Life {
        Life {
            node: NodeId::new(name).unwrap(),
            incarnation: Incarnation::new(1),
        }
    }

    fn generation(number: u64) -> Generation {
        Generation {
            number,
            assigner: Incarnation::new(1),
        }
    }

    fn halves() -> (Slice, Slice) {
        Slice::FULL.split_before(SliceKey::new(1 << 63)).unwrap()
    }

    /// The lower half with `low`, the upper with `high`, each since the given number; `dead` is in no directory.
    fn assignment(number: u64, low: (&str, u64), high: (&str, u64)) -> Arc<Assignment> {
        let range = |(owner, since): (&str, u64)| RangeAssignment {
            owner: life(owner),
            since: generation(since),
            providers: Vec::new(),
            readers: Readers::default(),
            awaits: Vec::new(),
        };
        let entry = |name: &str| NodeEntry {
            incarnation: Incarnation::new(1),
            process: None,
            address: format!("{name}:1").into(),
            http_address: "".into(),
            zone: "".into(),
            state: NodeState::Serving,
        };
        let directory: BTreeMap<_, _> = ["a", "b"].map(|name| (life(name).node, entry(name))).into();
        let ranges = vec![(halves().0, range(low)), (halves().1, range(high))];
        Arc::new(Assignment::new(generation(number), ranges, directory).unwrap())
    }

    fn full(assignment: &Arc<Assignment>) -> AssignmentUpdate {
        AssignmentUpdate::Full(assignment.clone())
    }

    /// Owner's name (`-` if dead, `?` if unknown) and since, at a position.
    fn route(clerk: &Clerk, position: u64) -> (String, u64) {
        match clerk.route(SliceKey::new(position)) {
            Route::To { life, address, since } => {
                assert_eq!(**address, *format!("{}:1", life.node));
                (life.node.to_string(), since.number)
            }
            Route::Unreachable { since } => ("-".into(), since.number),
            Route::Unknown => ("?".into(), 0),
        }
    }

    /// Plan: a clerk follows founding 1. Assignments of founding 2, however new, are refused and change nothing, and so is one that
    /// says none, unless a node is listed whose build cannot say it. A clerk that begins anew takes whichever comes first.
    #[test]
    fn f11_a_clerk_stays_with_the_founding_that_it_took_first() {
        let founded = |number, founding: u128| {
            let plain = assignment(number, ("a", 3), ("b", 4));
            Arc::new(Assignment::clone(&plain).of_founding(Founding::new(founding)))
        };
        let identified = |number, founding: u128| {
            let plain = founded(number, founding);
            let mut directory = plain.directory().clone();
            for entry in directory.values_mut() {
                entry.process = ProcessId::new(1);
            }
            let ranges = plain.ranges().iter();
            let ranges = ranges.map(|(slice, range)| (slice, range.clone())).collect();
            let identified = Assignment::new(generation(number), ranges, directory).unwrap();
            Arc::new(identified.of_founding(Founding::new(founding)))
        };
        let mut clerk = Clerk::new();
        assert_eq!(clerk.update(&full(&founded(10, 1))), Ok(true));
        assert_eq!(clerk.founding(), Founding::new(1));
        let foreign = founded(900, 2);
        let diff = AssignmentUpdate::Diff(Arc::new(AssignmentDiff::between(&founded(10, 1), &foreign)));
        for other in [full(&foreign), diff] {
            assert!(matches!(clerk.update(&other), Err(UpdateError::Foreign(_))));
            assert_eq!(clerk.generation(), generation(10));
        }
        assert_eq!(
            clerk.update(&full(&founded(11, 0))),
            Ok(true),
            "a build is listed that is silent"
        );
        assert_eq!(clerk.update(&full(&identified(12, 1))), Ok(true));
        let unsaid = clerk.update(&full(&identified(13, 0)));
        assert_eq!(unsaid, Err(UpdateError::Foreign(ForeignCluster::Unsaid)));
        assert_eq!(Clerk::new().update(&full(&foreign)), Ok(true));
    }

    #[test]
    fn routes_follow_the_assignment() {
        let mut clerk = Clerk::new();
        assert_eq!(route(&clerk, 5), ("?".into(), 0));
        let first = assignment(10, ("a", 3), ("dead", 4));
        assert_eq!(clerk.update(&full(&first)), Ok(true));
        assert_eq!(route(&clerk, 5), ("a".into(), 3));
        assert_eq!(route(&clerk, u64::MAX), ("-".into(), 4));
        assert_eq!(
            clerk.update(&full(&assignment(9, ("b", 9), ("b", 9)))),
            Ok(false),
            "older"
        );
        let second = assignment(11, ("a", 3), ("b", 11));
        let diff = Arc::new(AssignmentDiff::between(&first, &second));
        let snapshot = clerk.clone();
        assert_eq!(clerk.update(&AssignmentUpdate::Diff(diff.clone())), Ok(true));
        assert_eq!(route(&clerk, u64::MAX), ("b".into(), 11));
        assert_eq!(
            route(&snapshot, u64::MAX),
            ("-".into(), 4),
            "a clone stands still"
        );
        assert_eq!(
            clerk.update(&AssignmentUpdate::Diff(diff.clone())),
            Ok(false),
            "known"
        );
        let mut fresh = Clerk::new();
        let unknown = UpdateError::NothingHeld(first.generation());
        assert_eq!(fresh.update(&AssignmentUpdate::Diff(diff)), Err(unknown));
    }

    /// Plan: nodes say "moved" with lower, equal and higher since. Only the higher is followed, only in the range said, and
    /// until an assignment knows as much.
    #[test]
    fn only_a_higher_since_is_followed() {
        let mut clerk = Clerk::new();
        clerk.update(&full(&assignment(10, ("a", 3), ("a", 8)))).unwrap();
        let b = || (life("b"), Arc::<str>::from("b:1"));
        let mut moved = |slice, since| clerk.moved(slice, b().0, b().1, generation(since), 0);
        assert!(!moved(Slice::FULL, 3));
        assert!(moved(Slice::FULL, 5), "higher than the lower half's");
        assert!(!moved(Slice::FULL, 5), "told before");
        assert_eq!(
            (route(&clerk, 5), route(&clerk, u64::MAX)),
            (("b".into(), 5), ("a".into(), 8))
        );
        // An assignment that does not know of it yet.
        clerk.update(&full(&assignment(11, ("a", 3), ("a", 8)))).unwrap();
        assert_eq!(route(&clerk, 5), ("b".into(), 5));
        // One that does, and more.
        clerk.update(&full(&assignment(12, ("a", 6), ("a", 8)))).unwrap();
        assert_eq!(route(&clerk, 5), ("a".into(), 6));
        assert!(clerk.moved.is_empty());
    }

    /// Plan: the lower half has a living replica and a dead one, the upper none. Only the lower may be read beside its owner, and
    /// only until a node says that it went elsewhere.
    #[test]
    fn readers_are_the_owner_and_the_living_replicas() {
        let plain = assignment(10, ("a", 3), ("a", 8));
        let ranges = plain.ranges().iter().map(|(slice, range)| {
            let is_low = slice == halves().0;
            let replicas = ["b", "dead"].map(life).into_iter().filter(|_| is_low).collect();
            let readers = range.readers.replaced(replicas);
            (
                slice,
                RangeAssignment {
                    readers,
                    ..range.clone()
                },
            )
        });
        let replicated = Assignment::new(generation(11), ranges.collect(), plain.directory().clone());
        let mut clerk = Clerk::new();
        assert!(clerk.readers(SliceKey::new(5)).is_none());
        clerk.update(&full(&plain)).unwrap();
        assert!(!clerk.has_replicas() && clerk.readers(SliceKey::new(5)).is_none());
        clerk.update(&full(&Arc::new(replicated.unwrap()))).unwrap();
        assert!(clerk.has_replicas() && clerk.readers(SliceKey::new(u64::MAX)).is_none());
        let readable = clerk.readers(SliceKey::new(5)).unwrap();
        assert_eq!((readable.count(), readable.since()), (2, generation(3)));
        assert_eq!(readable.peer(0).unwrap().life, life("a"));
        assert_eq!(readable.peer(1).unwrap().life, life("b"));
        assert!(readable.peer(2).is_none());
        clerk.moved(halves().0, life("b"), "b:1".into(), generation(12), 0);
        assert!(clerk.readers(SliceKey::new(5)).is_none());
        assert_eq!(route(&clerk, 5), ("b".into(), 12));
    }

    /// Plan: a flood of tiny moves. Memory stays bounded, and the next assignment clears it.
    #[test]
    fn what_is_remembered_is_bounded() {
        let mut clerk = Clerk::new();
        clerk.update(&full(&assignment(10, ("a", 3), ("a", 3)))).unwrap();
        for position in 0..2 * MOVED_RANGES_MAX as u64 {
            let slice = Slice::single(SliceKey::new(position * 2));
            clerk.moved(slice, life("b"), "b:1".into(), generation(5), 0);
        }
        assert_eq!(clerk.moved.len(), MOVED_RANGES_MAX);
        assert_eq!(route(&clerk, 0), ("b".into(), 5));
        clerk.update(&full(&assignment(11, ("b", 5), ("b", 5)))).unwrap();
        assert!(clerk.moved.is_empty());
    }
}
