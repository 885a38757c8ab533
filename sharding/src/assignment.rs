//! [`Assignment`]: who owns what, since when, and where everyone listens.
//!
//! `since` is what makes ownership unambiguous: the generation at which the present incarnation of a range's owner
//! acquired it. Who is neither owner nor provider of a range drops it at once. An incarnation that the directory does
//! not list is dead.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::generation::Generation;
use crate::identity::Founding;
use crate::node::{Life, NodeEntry, NodeId, Peer};
use crate::slice::Slice;
use crate::slice_key::SliceKey;
use crate::slice_map::{SliceMap, SliceMapError};

/// Most replicas of one range, beside its owner.
pub const REPLICAS_MAX: usize = 32;

/// So many milliseconds after an owner has lent something for the last time every read lease of that is over, by any node's
/// clock. How long read leases are, and by how much clocks may differ, is the hand-off's: it checks that this is no less.
pub const READ_LEASES_OVER_MS: u64 = 1_101;

/// Most providers that one range lists, and most acquisitions that it awaits.
pub const PROVIDERS_MAX: usize = 64;

/// Longest time in which what a silent node held may come back, in milliseconds.
pub const REVIVAL_MS_MAX: u64 = 600_000;

/// A node that may still hold the entries of a range that another one takes.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Provider {
    /// Who.
    pub life: Life,
    /// The generation at which it acquired, or was to acquire, the range.
    pub since: Generation,
}

/// Who serves reads of a range beside its owner: its replicas. Each holds a read lease that the owner grants it, and the owner
/// applies no write before it has invalidated the key at all who hold one.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Readers {
    /// The replicas, by name, without the owner. At most [`REPLICAS_MAX`]; empty: the range is not replicated.
    pub replicas: Vec<Life>,
    /// A life that is none of the replicas, or a former owner's replica, may hold a read lease still. Who starts the range
    /// cold, so that nobody has revoked them, waits for their end before it serves.
    pub leases_out: bool,
}

impl Readers {
    /// What becomes of them when the range gets another owner, or a new acquisition: the replicas may go on, and whatever they
    /// were granted before is still out.
    #[must_use]
    pub fn under_next_acquisition(&self, owner: &Life) -> Self {
        let others = self.replicas.iter().filter(|life| *life != owner);
        Self {
            replicas: others.cloned().collect(),
            leases_out: self.leases_out || !self.replicas.is_empty(),
        }
    }

    /// What becomes of them when only those stay for whom `stays` says so. The others may hold a lease still.
    #[must_use]
    pub fn without(&self, stays: impl Fn(&Life) -> bool) -> Self {
        let replicas: Vec<Life> = self.replicas.iter().filter(|life| stays(life)).cloned().collect();
        Self {
            leases_out: self.leases_out || replicas.len() < self.replicas.len(),
            replicas,
        }
    }

    /// The replicas as a policy wants them now. Who is none any more may hold a lease still.
    #[must_use]
    pub fn replaced(&self, mut replicas: Vec<Life>) -> Self {
        replicas.sort_unstable();
        Self {
            leases_out: self.leases_out || self.replicas.iter().any(|life| !replicas.contains(life)),
            replicas,
        }
    }
}

/// What the assignment says of one range.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct RangeAssignment {
    /// The owner's present life. Not listed in the directory: dead, and the range unreachable.
    pub owner: Life,
    /// The generation at which that life acquired the range.
    pub since: Generation,
    /// While a hand-off is on: every living node that owned or was to own the range since the last completed one,
    /// newest first. Empty: nothing moves.
    pub providers: Vec<Provider>,
    /// Who else reads it.
    pub readers: Readers,
    /// While the owner, which began cold, may still get back what the life before it held: under which acquisitions that
    /// life, which died in silence, may have held the range, newest first. It belongs to this owner and this `since`: with
    /// either it goes. Empty: nothing is awaited.
    pub awaits: Vec<Provider>,
}

impl RangeAssignment {
    /// Whether it is neither moved for balance, nor split, nor merged, nor renewed: a hand-off is on, or what a former holder
    /// had may come back.
    #[must_use]
    pub fn keeps_whole(&self) -> bool {
        !self.providers.is_empty() || !self.awaits.is_empty()
    }

    /// Whether a provider is the next life of the one that is awaited, with what that held.
    #[must_use]
    pub fn is_revival(&self, provider: &Provider) -> bool {
        self.awaits
            .iter()
            .any(|awaited| provider.since == awaited.since && awaited.is_earlier_life_of(&provider.life))
    }
}

impl Provider {
    /// Whether this is another life of the same node.
    #[must_use]
    pub fn is_earlier_life_of(&self, life: &Life) -> bool {
        self.life.node == life.node && self.life.incarnation != life.incarnation
    }
}

/// A complete map of the key space to owners, stamped with a [`Generation`].
#[derive(Clone, PartialEq, Debug)]
pub struct Assignment {
    generation: Generation,
    ranges: SliceMap<RangeAssignment>,
    directory: BTreeMap<NodeId, NodeEntry>,
    lease_ms: Option<u64>,
    founding: Option<Founding>,
    revival_ms: u64,
}

/// Why something is no valid assignment.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AssignmentError {
    /// The ranges do not cover the key space exactly once.
    #[error(transparent)]
    Ranges(#[from] SliceMapError),
    /// A range claims an acquisition in the assignment's future.
    #[error("range {0} says it was acquired after the assignment's own generation")]
    SinceInFuture(Slice),
    /// A range lists too many providers.
    #[error("range {0} lists more than {PROVIDERS_MAX} providers")]
    TooManyProviders(Slice),
    /// A range lists too many replicas, or its owner, or one of them twice.
    #[error("range {0} lists more than {REPLICAS_MAX} replicas, its owner as one, or one twice")]
    Replicas(Slice),
    /// A range lists its owner's present claim as its provider, or providers out of order.
    #[error("range {0} lists a provider that is not older than what stands before it")]
    ProviderOrder(Slice),
    /// A range awaits its owner, several lives, too much, or what is not older than what stands before it.
    #[error("range {0} awaits what no single life before its owner can have held")]
    Awaits(Slice),
}

impl Assignment {
    /// Checks and builds an assignment from ranges in order.
    ///
    /// # Errors
    /// If the ranges are incomplete, overlap or are out of order, or a range's `since` or providers are impossible.
    pub fn new(
        generation: Generation,
        ranges: Vec<(Slice, RangeAssignment)>,
        directory: BTreeMap<NodeId, NodeEntry>,
    ) -> Result<Self, AssignmentError> {
        for (slice, range) in &ranges {
            if range.since > generation {
                return Err(AssignmentError::SinceInFuture(*slice));
            }
            if range.providers.len() > PROVIDERS_MAX {
                return Err(AssignmentError::TooManyProviders(*slice));
            }
            let replicas = &range.readers.replicas;
            let in_order = replicas.windows(2).all(|pair| pair[0].node < pair[1].node);
            if replicas.len() > REPLICAS_MAX || !in_order || replicas.contains(&range.owner) {
                return Err(AssignmentError::Replicas(*slice));
            }
            let mut newest = range.since;
            for provider in &range.providers {
                if provider.since >= newest {
                    return Err(AssignmentError::ProviderOrder(*slice));
                }
                newest = provider.since;
            }
            if !is_awaits_possible(range) {
                return Err(AssignmentError::Awaits(*slice));
            }
        }
        Ok(Self {
            generation,
            ranges: SliceMap::new(ranges)?,
            directory,
            lease_ms: None,
            founding: None,
            revival_ms: 0,
        })
    }

    /// The same, published by an Assigner that grants leases of this length, in milliseconds; none: it grants none.
    #[must_use]
    pub fn under_leases(self, lease_ms: Option<u64>) -> Self {
        Self { lease_ms, ..self }
    }

    /// The same, of a cluster's founding; none: an Assigner of a build that knows of none published it.
    #[must_use]
    pub fn of_founding(self, founding: Option<Founding>) -> Self {
        Self { founding, ..self }
    }

    /// The same, published by an Assigner that lets what a silent node held come back for so long, in milliseconds, at most
    /// [`REVIVAL_MS_MAX`]; 0: never.
    #[must_use]
    pub fn with_revival_ms(self, revival_ms: u64) -> Self {
        let revival_ms = revival_ms.min(REVIVAL_MS_MAX);
        Self { revival_ms, ..self }
    }

    /// Its stamp.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Who owns what.
    #[must_use]
    pub fn ranges(&self) -> &SliceMap<RangeAssignment> {
        &self.ranges
    }

    /// The living nodes.
    #[must_use]
    pub fn directory(&self) -> &BTreeMap<NodeId, NodeEntry> {
        &self.directory
    }

    /// The length of the leases that its Assigner grants, in milliseconds; none: without leases. The next Assigner waits for
    /// them, whatever its own are: the node that holds one may be out of its reach.
    #[must_use]
    pub fn lease_ms(&self) -> Option<u64> {
        self.lease_ms
    }

    /// The founding that it belongs to: its generation and its lives mean something within that only. None: an Assigner of a
    /// build that knows of none published it, or a node of one passed it on.
    #[must_use]
    pub fn founding(&self) -> Option<Founding> {
        self.founding
    }

    /// Whether it lists a node of a build that says neither process nor cluster, so that the absence of either proves
    /// nothing.
    #[must_use]
    pub fn lists_unidentified(&self) -> bool {
        self.directory.values().any(|entry| entry.process.is_none())
    }

    /// For how long what a silent node held may come back: after its ranges were taken over, and after it has learnt of its
    /// death, in milliseconds. 0: never.
    #[must_use]
    pub fn revival_ms(&self) -> u64 {
        self.revival_ms
    }

    /// What it says of the range at a position.
    #[inline]
    #[must_use]
    pub fn range_at(&self, position: SliceKey) -> &RangeAssignment {
        self.ranges.get(position)
    }

    /// The directory's entry of a life; `None` if that life is dead.
    #[must_use]
    pub fn entry_of(&self, life: &Life) -> Option<&NodeEntry> {
        self.directory
            .get(&life.node)
            .filter(|entry| entry.incarnation == life.incarnation)
    }

    /// Whether a life is listed as living.
    #[must_use]
    pub fn is_living(&self, life: &Life) -> bool {
        self.entry_of(life).is_some()
    }

    /// Where a life listens; `None` if it is dead.
    #[must_use]
    pub fn peer(&self, life: &Life) -> Option<Peer> {
        let entry = self.entry_of(life)?;
        Some(Peer {
            life: life.clone(),
            address: entry.address.clone(),
        })
    }
}
/// Whether what a range awaits can have been held by one life before its owner took it.
fn is_awaits_possible(range: &RangeAssignment) -> bool {
    let mut newest = range.since;
    let in_order = range.awaits.iter().all(|awaited| {
        let is_older = awaited.since < newest;
        newest = awaited.since;
        is_older && awaited.life != range.owner && awaited.life == range.awaits[0].life
    });
    in_order && range.awaits.len() <= PROVIDERS_MAX
}
