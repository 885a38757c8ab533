//! What goes into the Assigner and what comes out: [`AssignerEvent`], [`AssignerAction`] and the typed [`Notice`]s.

use std::sync::Arc;

use thiserror::Error;

use super::rounds::{PlaceJob, Ticket};
use crate::assignment::{Assignment, AssignmentError};
use crate::generation::{Generation, Incarnation};
use crate::identity::{ClusterId, ForeignCluster, Founding, ProcessId};
use crate::node::{Life, NodeId};
use crate::session::{AssignerMessage, NodeMessage};
use crate::sharder::Placement;
use crate::time::Timestamp;

/// Names one session with a node. The shell gives them out in the order in which sessions are opened, and never uses one
/// twice: since whoever comes back opens a new session, the order tells an earlier life of a node from a later one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(u64);

impl SessionId {
    /// The session with this number.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// What happens to the Assigner.
#[derive(Clone, PartialEq, Debug)]
pub enum AssignerEvent {
    /// A node said something on a session.
    FromNode {
        /// On which.
        session: SessionId,
        /// What.
        message: NodeMessage,
    },
    /// A session ended, by whichever side. Nothing more comes from it. The node is not dead for that.
    SessionClosed {
        /// Which.
        session: SessionId,
    },
    /// An operator wants a node to leave. The same step's actions hold the [`AssignerAction::DrainAnswered`].
    DrainNode {
        /// Which.
        node: NodeId,
    },
    /// The shell has looked for a holder, as an [`AssignerAction::SeekHolder`] asked it to.
    HolderSought {
        /// Whom.
        life: Life,
        /// What it found.
        answer: HolderAnswer,
    },
    /// An operator wants the holder of a name to be taken for dead. The same step's actions hold the
    /// [`AssignerAction::ForgetAnswered`].
    ForgetNode {
        /// Which.
        node: NodeId,
    },
    /// A Sharder has answered an [`AssignerAction::Place`].
    Placed {
        /// Which.
        ticket: Ticket,
        /// What it says.
        placement: Placement,
    },
    /// The Sharder that an [`AssignerAction::Place`] asked will not answer: it broke.
    PlacingFailed {
        /// Which.
        ticket: Ticket,
    },
    /// An operator wants nothing to be balanced. Replaces what was wanted before.
    Freeze {
        /// For how long, in milliseconds; none: until it is lifted, or the Assigner ends.
        for_ms: Option<u64>,
    },
    /// An operator lifts a freeze.
    Unfreeze,
    /// The shell has tried whether a life answers where it says that it listens.
    Probed {
        /// Which.
        life: Life,
        /// It does, and it is that life.
        reached: bool,
    },
    /// Time passed. The shell feeds all input that is queued before it ticks.
    Tick,
}

/// What the shell is to do, in this order.
#[derive(Clone, PartialEq, Debug)]
pub enum AssignerAction {
    /// Send this on a session. If the session has gone, drop it.
    Send {
        /// On which.
        session: SessionId,
        /// What.
        message: AssignerMessage,
    },
    /// Close a session once what was sent before has gone out. No [`AssignerEvent::SessionClosed`] is needed for it.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// Store this, and give it to [`Assigner::founded`](super::Assigner::founded) at the next start. Nothing waits for it.
    Remember {
        /// The cluster's founding.
        founding: Founding,
        /// The highest generation given out.
        generation: Generation,
    },
    /// A new assignment is out; the sends to the nodes are among the actions already.
    Published(Arc<Assignment>),
    /// Run this, wherever that holds nothing up, and feed what it returns. At most one is under way, unless it was given up.
    Place(PlaceJob),
    /// Tick at this moment or soon after. Replaces the moment asked for before.
    WakeAt(Timestamp),
    /// The answer to [`AssignerEvent::DrainNode`].
    DrainAnswered {
        /// Which node was to leave.
        node: NodeId,
        /// What the drain starts from, or why there is none.
        answer: Result<DrainStart, DrainError>,
    },
    /// Look who answers at an address, within [`SEEK_MS_MAX`], and feed [`AssignerEvent::HolderSought`]. Nothing waits for it.
    SeekHolder {
        /// Who should be there. Its session broke.
        life: Life,
        /// Where.
        address: Arc<str>,
    },
    /// The answer to [`AssignerEvent::ForgetNode`].
    ForgetAnswered {
        /// Whom the operator wants gone.
        node: NodeId,
        /// Why not, if not. Under leases it is gone once its own has ended.
        answer: Result<(), ForgetError>,
    },
    /// Something for the log and the metrics.
    Notice(Notice),
}

/// How long looking for a holder at its address may take, in milliseconds.
pub const SEEK_MS_MAX: u64 = 500;

/// Who answers at the address of a node whose session broke.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HolderAnswer {
    /// The connection was refused: nobody listens there.
    Refused,
    /// This process of a node.
    Process(ProcessId),
    /// There was no answer in time, or one that does not say.
    Unknown,
}

/// Why a node is not forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ForgetError {
    /// No living node has that name.
    #[error("no living node is called {0}")]
    UnknownNode(NodeId),
}

/// What a drain starts from, by the node's last heartbeat; for a progress bar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DrainStart {
    /// Bytes that the node held.
    pub bytes: u64,
    /// Entries that the node held.
    pub entries: u64,
}

/// Why a node is not drained.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DrainError {
    /// No living node has that name.
    #[error("no living node is called {0}")]
    UnknownNode(NodeId),
    /// Every other node is draining or dead, so that all the node holds would be lost. Nothing was changed.
    #[error("no other node can take what {0} holds")]
    NoTaker(NodeId),
}

/// Why a life ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeathCause {
    /// It was not heard of for the failure timeout.
    Silent,
    /// The same process's next life said hello; or another process waits for the name, and this one was found gone.
    Replaced,
    /// The next life of the same process said hello.
    Reborn,
    /// It said goodbye.
    Goodbye,
    /// A recovering Assigner did not hear of it in time.
    NotRecovered,
    /// An operator said so.
    Forgotten,
}

/// Something worth a line in the log or a count in the metrics.
#[derive(Clone, PartialEq, Debug)]
pub enum Notice {
    /// A life said its first hello.
    Joined(Life),
    /// A life ended.
    Died {
        /// Whose.
        life: Life,
        /// Why.
        cause: DeathCause,
    },
    /// A life that is dead said hello and was told.
    ToldDead(Life),
    /// A node of another cluster said hello. It was told, and nothing else came of it.
    OtherCluster {
        /// Who.
        life: Life,
        /// Where it listens.
        address: Arc<str>,
        /// Its cluster.
        theirs: ClusterId,
        /// In what the two differ.
        why: ForeignCluster,
        /// It is worth a line in the log: the first of that cluster's, or the first for a while.
        is_news: bool,
    },
    /// An Assigner that knows no founding has heard of several: it publishes nothing until all but one are gone, or its operator
    /// names one.
    TwoFoundings {
        /// Which.
        foundings: Vec<Founding>,
    },
    /// A process wants a name that another one holds: it waits. Said when it begins, and again from time to time.
    NameTaken {
        /// Who waits.
        life: Life,
        /// Where it listens.
        address: Arc<str>,
        /// Where the holder does; empty if that is yet to come back.
        holder: Arc<str>,
    },
    /// A process that waited for its name has it.
    NameFreed {
        /// Who.
        life: Life,
        /// For how long it waited, in milliseconds.
        after_ms: u64,
    },
    /// A recovering Assigner took a process for the holder of its name; the holder came, and that one waits now.
    SteppedBack(Life),
    /// A node hands off all it owns and leaves.
    Draining(Life),
    /// A draining node was told that nobody can take what it holds.
    NoTaker(Life),
    /// A hello was refused for good.
    HelloRefused {
        /// Whose.
        life: Life,
        /// Why, as the node was told.
        reason: String,
    },
    /// The Assigner knows enough to publish; `generation` is the highest heard of ([`Generation::NONE`]: a fresh start).
    Recovered {
        /// The highest generation heard of.
        generation: Generation,
    },
    /// A node holds a newer generation of another Assigner: two are running, which is not supported.
    SecondAssigner {
        /// The other Assigner.
        other: Incarnation,
        /// The generation seen.
        generation: Generation,
    },
    /// The Assigner itself stood still for this long; all silence timers began anew.
    StoodStill {
        /// How long.
        gap_ms: u64,
    },
    /// The Sharder's placement breaks the rules; even ranges were used instead.
    PlacementRefused(String),
    /// The Sharder takes too long. Until it answers, what must move is placed by even ranges, and nothing is balanced.
    PlacingGivenUp {
        /// For how long it was waited for.
        after_ms: u64,
    },
    /// A Sharder's answer came too late for what has happened meanwhile; it was asked anew.
    PlacementOutdated,
    /// Nothing is balanced, until then if that is said.
    Frozen {
        /// For how long, in milliseconds.
        for_ms: Option<u64>,
    },
    /// Balancing goes on.
    Unfrozen,
    /// A relayed message was dropped: too large, or its receiver has no session.
    RelayDropped {
        /// For whom it was.
        to: Life,
    },
    /// A node sent something it must not send at that point; its session is closed.
    ProtocolBroken(SessionId),
    /// A computed assignment is not valid and was not published. Never expected.
    NotPublished(AssignmentError),
}
