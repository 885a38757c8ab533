//! [`Plan`]: what the planner would have, and why each thing in it changed.

use std::fmt;

use super::cluster::{NodeIndex, Piece};
use crate::slice::Slice;

/// What is to be.
#[derive(Clone, PartialEq, Debug)]
pub struct Plan {
    /// Who is to own what: complete and in order.
    pub pieces: Vec<Piece>,
    /// What changed, in the order of the decisions.
    pub moves: Vec<Move>,
}

/// One change.
#[derive(Clone, PartialEq, Debug)]
pub struct Move {
    /// Of which range, as it was when this was decided.
    pub slice: Slice,
    /// Who gives it up; `None` if nobody had it, or nobody gives anything up.
    pub from: Option<NodeIndex>,
    /// Who takes it; `None` if nobody does.
    pub to: Option<NodeIndex>,
    /// Why.
    pub reason: Reason,
    /// By how many load units less the nodes are above their fair shares, all together. Negative for what had to be done.
    pub gain_load: f64,
    /// Bytes to be pulled. 0 if nobody living has them.
    pub cost_bytes: f64,
    /// Hits that may be lost until they have arrived: the time of the pull, times the range's hits. Entries come hottest first,
    /// and reads ask the giver meanwhile, so this is an upper bound.
    pub cost_misses: f64,
}

/// Why something changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Reason {
    /// Its owner is gone, or it had none.
    LostNode,
    /// Its owner drains.
    Drain,
    /// Its owner drains or is gone, and a waiting reserve takes all that it had.
    ReserveFill,
    /// Its owner bore too much.
    OverTolerance,
    /// Its taker bore too little.
    Underused,
    /// Its owner held too many bytes.
    OverMemory,
    /// It is a hot key that got a slice of its own.
    HotKeyIsolated,
    /// It is more than one node should bear.
    Replicated,
    /// It has cooled.
    Dereplicated,
    /// It was cut, to be measured or moved more finely. Nothing moves by that.
    Split,
    /// It was joined with its neighbour, whose owner it got.
    Merged,
}

impl Reason {
    /// Whether membership forced it. Such moves are not held to the churn budget.
    #[must_use]
    pub fn is_membership(self) -> bool {
        matches!(self, Self::LostNode | Self::Drain | Self::ReserveFill)
    }

    /// Its name, for status and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LostNode => "lost node",
            Self::Drain => "drain",
            Self::ReserveFill => "fill of a reserve",
            Self::OverTolerance => "over tolerance",
            Self::Underused => "underused taker",
            Self::OverMemory => "over memory",
            Self::HotKeyIsolated => "hot key isolated",
            Self::Replicated => "replicated",
            Self::Dereplicated => "dereplicated",
            Self::Split => "split",
            Self::Merged => "merged",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
