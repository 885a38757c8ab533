//! [`History`]: what clients did and saw, and which node served which key when. All that the checkers know.

use std::collections::{BTreeMap, BTreeSet};

use softstore_sharding::{Generation, Incarnation, Life, Version};

/// How an operation ended for its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Not yet.
    Open,
    /// It was not applied and never will be.
    Failed,
    /// Whether it was applied, or will be, is not known.
    Unknown,
    /// A read's result: which write's value with which version, or nothing.
    Read(Option<(i64, Version)>),
    /// The write was applied.
    Written(Version),
    /// A condition did not hold: nothing was changed.
    Refused,
    /// The key was removed.
    Removed,
    /// The TTL was set anew, or there was nothing to set it of.
    Touched(bool),
    /// A counter's addition was applied.
    Added {
        /// The sum.
        number: i64,
        /// The version it got.
        version: Version,
    },
}

/// What an operation was to do to its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Did {
    /// Read it.
    Read,
    /// Write the value with this number, to live so long.
    Write {
        /// The value's number.
        value: i64,
        /// In milliseconds.
        ttl_ms: Option<u64>,
        /// Only if the key is at this version.
        expected: Option<Version>,
    },
    /// Add to the number that it is. Each addition in a history is different, so that a sum tells what it was added to.
    Add(i64),
    /// Remove it.
    Remove,
    /// Let it live so much longer.
    Touch {
        /// In milliseconds.
        ttl_ms: u64,
    },
}

/// Who carried out an operation as the key's owner, or lent what a replica read, and when; as the answer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answered {
    /// The life's incarnation, which no other life has.
    pub by: Incarnation,
    /// In microseconds.
    pub at_us: u64,
}

/// One operation of a client. Times are in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Which client.
    pub client: usize,
    /// Index of the key.
    pub key: usize,
    /// What.
    pub did: Did,
    /// When it was invoked.
    pub invoked_us: u64,
    /// When it returned; `u64::MAX` if it has not.
    pub returned_us: u64,
    /// No node starts it after this: a node counts from the moment at which it reads the request.
    pub deadline_us: u64,
    /// How it ended.
    pub ended: Ended,
    /// It changes something and was sent again after no answer had come: an earlier attempt may take effect after its end, until
    /// its deadline. Only what is harmless twice is sent again; a second removal costs an entry, and resurrects none.
    pub may_come_again: bool,
    /// Who carried it out; `None` if the client does not know, or it was not.
    pub answered: Option<Answered>,
    /// It was carried out where another acquisition of the key had served since this moment, which was newer. In a view only
    /// ([`crate::check::branches`]): such a write counts as done just before that.
    pub overtaken_us: Option<u64>,
}

/// A node would have served a key as its owner all this time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ownership {
    /// Index of the key.
    pub key: usize,
    /// Which process, and which of its lives.
    pub life: Life,
    /// Under which acquisition.
    pub since: Generation,
    /// From when.
    pub from_us: u64,
    /// Until when; `u64::MAX` if it still does.
    pub to_us: u64,
}

/// A node carried out an operation on a key as its owner.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Execution {
    /// When.
    pub at_us: u64,
    /// Index of the key.
    pub key: usize,
    /// Who.
    pub life: Life,
    /// Under which acquisition.
    pub since: Generation,
    /// Index of the operation in [`History::operations`].
    pub operation: usize,
}

/// All of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History {
    /// In the order of invocation.
    pub operations: Vec<Operation>,
    /// In the order of their beginning.
    pub ownerships: Vec<Ownership>,
    /// In order.
    pub executions: Vec<Execution>,
    /// Lives that served on after the Assigner had given them up, as it may in `available` mode: it could not hear of them.
    pub cut_off: BTreeSet<Incarnation>,
    /// Lives that an Assigner had left out and a later one, who met nobody that knew of it, believed again; and since when.
    pub believed_us: BTreeMap<Incarnation, u64>,
    /// Nothing happened that may cost entries.
    pub is_gentle: bool,
    /// By how much a clock may have run too fast or too slow.
    pub drift_per_mille: u64,
}

impl History {
    /// Takes note that a node serves a key, or no longer does. `open` is the node's place in the list while it serves.
    pub(crate) fn serves(
        &mut self,
        open: &mut Option<usize>,
        key: usize,
        serving: Option<(&Life, Generation)>,
        now_us: u64,
    ) {
        if let Some(index) = *open {
            let held = &mut self.ownerships[index];
            if serving == Some((&held.life, held.since)) {
                return;
            }
            held.to_us = now_us;
            *open = None;
        }
        if let Some((life, since)) = serving {
            *open = Some(self.ownerships.len());
            self.ownerships.push(Ownership {
                key,
                life: life.clone(),
                since,
                from_us: now_us,
                to_us: u64::MAX,
            });
        }
    }
}
