//! [`Doubt`]: why it is not relied on that a living member answers for what it owns.
//!
//! That a member lives says little: it may have stopped a moment ago, listen where nobody reaches it, or not serve what the
//! assignment gives it. So three things must come together: it was heard of lately; it says that it answers for all its ranges;
//! and it can be reached where it says that it listens, which the shell tries ([`AssignerEvent::Probed`]).
//!
//! [`AssignerEvent::Probed`]: super::AssignerEvent::Probed

use std::fmt;
use std::sync::Arc;

use super::Assigner;
use super::member::Member;
use crate::generation::Generation;
use crate::node::{Life, NodeId, Peer};
use crate::session::WhyUnserved;
use crate::slice::Slice;
use crate::time::Timestamp;

/// Who was not heard of for this part of the failure timeout is silent: three heartbeats, at the defaults.
const SILENT_PARTS: u64 = 2;

/// So many probes in vain, on end, and a member cannot be reached: one may be lost.
const PROBES_FAILED_MAX: u32 = 2;

/// What probes of a member's address have found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Probes {
    was_reached: bool,
    failed: u32,
}

impl Probes {
    fn tried(&mut self, reached: bool) {
        self.was_reached |= reached;
        self.failed = if reached { 0 } else { self.failed.saturating_add(1) };
    }
}

/// Why it is not relied on that a member answers for what it owns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Doubt {
    /// It was not heard of for so many milliseconds.
    Silent(u64),
    /// Nothing answers for it where it says that it listens.
    Unreachable(Arc<str>),
    /// It has yet to be tried whether it can be reached.
    Untried,
    /// It has yet to say that it serves what it was given last.
    Unsaid,
    /// It says that it does not answer for so many of its ranges.
    Unserved {
        ranges: u64,
        first: Slice,
        why: WhyUnserved,
    },
}

impl Doubt {
    /// Whether it is no more than what any change brings with it, for a moment.
    fn is_passing(&self) -> bool {
        match self {
            Self::Silent(_) | Self::Unreachable(_) => false,
            Self::Untried | Self::Unsaid => true,
            Self::Unserved { why, .. } => *why == WhyUnserved::Taking,
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // In whole seconds: who waits is told anew with each change.
            Self::Silent(ms) => write!(f, "was not heard of for {} s", (ms / 1_000).max(1)),
            Self::Unreachable(address) => {
                write!(f, "cannot be reached at {address}, where it says that it listens")
            }
            Self::Untried => write!(f, "has yet to be reached where it says that it listens"),
            Self::Unsaid => write!(f, "has yet to say that it serves what it was given"),
            Self::Unserved { ranges, first, why } => {
                let why = match why {
                    WhyUnserved::Taking => "it is still taking over",
                    WhyUnserved::GivenAway => "it has given away",
                    WhyUnserved::Unconfirmed => "it may not serve before the Assigner confirms",
                };
                write!(
                    f,
                    "does not answer for {ranges} of its ranges, the first {first}: {why}"
                )
            }
        }
    }
}

impl Assigner {
    /// The members, and where they say that they listen.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        let members = self.members.values().map(|member| Peer {
            life: member.life.clone(),
            address: member.address.clone(),
        });
        members.collect()
    }

    /// The shell has tried to reach a life where it says that it listens.
    pub(super) fn probed(&mut self, life: &Life, reached: bool) {
        if let Some(member) = self.members.get_mut(&life.node)
            && member.life == *life
        {
            member.probes.tried(reached);
        }
    }

    /// Where nobody is reached it is the Assigner that cannot reach: it has nothing to say of that, then. Nor where nothing is tried.
    fn can_reach(&self) -> bool {
        self.members.values().any(|member| member.probes.was_reached)
    }

    /// Why it is not relied on that a member answers for what it owns since `newest`, its newest acquisition.
    pub(super) fn doubt(&self, member: &Member, newest: Generation, now: Timestamp) -> Option<Doubt> {
        let silent_ms = now.ms_since(member.last_heard);
        if silent_ms >= self.config.failure_timeout_ms / SILENT_PARTS {
            return Some(Doubt::Silent(silent_ms));
        }
        if self.can_reach() {
            if member.probes.failed >= PROBES_FAILED_MAX {
                return Some(Doubt::Unreachable(member.address.clone()));
            }
            if !member.probes.was_reached {
                return Some(Doubt::Untried);
            }
        }
        let serving = member.load.serving.as_ref()?;
        if member.reported < newest {
            return Some(Doubt::Unsaid);
        }
        let (first, why) = serving.first?;
        let ranges = serving.unserved;
        Some(Doubt::Unserved { ranges, first, why })
    }

    /// An owner that cannot be relied on, and not only because something is changing: nothing is balanced meanwhile, since it
    /// looks idle.
    pub(super) fn doubted_owner(&self, now: Timestamp) -> Option<NodeId> {
        let doubted = self.members.values().find(|member| {
            let doubt = || self.doubt(member, Generation::NONE, now);
            self.owners.contains(&member.life) && doubt().is_some_and(|doubt| !doubt.is_passing())
        });
        doubted.map(|member| member.life.node.clone())
    }

    /// Whether a member that owns nothing is not to be given anything: nobody would find it. Where there is nobody else, it is.
    pub(super) fn is_kept_out(&self, member: &Member, now: Timestamp) -> bool {
        let is_doubted = |member: &Member| {
            let doubt = self.doubt(member, Generation::NONE, now);
            doubt.is_some_and(|doubt| !doubt.is_passing())
        };
        let may_take_instead = |other: &Member| other.role().may_take() && !is_doubted(other);
        !self.owners.contains(&member.life)
            && is_doubted(member)
            && self.members.values().any(may_take_instead)
    }
}
