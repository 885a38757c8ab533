//! What goes into a slicelet and what comes out: [`SliceletEvent`] and [`SliceletAction`].

use std::sync::Arc;

use crate::assignment::Assignment;
use crate::identity::{ClusterId, ClusterName, Founding, ProcessId};
use crate::node::{Life, Peer};
use crate::session::{AssignerMessage, HandoffReport, LoadReport, NodeMessage, Offers, RangeClaim};
use crate::time::Timestamp;

/// Who the node is: what its hellos say besides what it holds.
#[derive(Clone, PartialEq, Debug)]
pub struct Identity {
    /// Its present life and gRPC address.
    pub peer: Peer,
    /// Its HTTP address; empty if none.
    pub http_address: Arc<str>,
    /// Its failure domain; empty if none.
    pub zone: Arc<str>,
    /// Its store's budget in bytes.
    pub capacity_bytes: u64,
    /// The process, through all of its lives.
    pub process: ProcessId,
    /// The configured name of its cluster; none: it joins any.
    pub cluster: Option<ClusterName>,
}

/// What happens to a slicelet.
#[derive(Clone, PartialEq, Debug)]
pub enum SliceletEvent {
    /// The session asked for is open. `claims`: what the node holds at this moment, for the hello.
    SessionOpened {
        /// Per range held, to be held, or fenced.
        claims: Vec<RangeClaim>,
        /// What it offers of former lives. (When those heard of the Assigner last, the slicelet knows.)
        offers: Option<Offers>,
    },
    /// The session ended, or could not be opened.
    SessionClosed,
    /// The Assigner said something on the open session.
    FromAssigner(AssignerMessage),
    /// Hand-offs started, completed or were given up. Told to the Assigner if a session is open; else the claims of the
    /// next hello tell it.
    Handoffs(Vec<HandoffReport>),
    /// Another node cannot be reached directly: pass this on through the Assigner. Dropped without a session.
    RelayTo {
        /// To whom.
        to: Life,
        /// An encoded hand-off message.
        payload: Vec<u8>,
    },
    /// The assignment gives this node what it will not serve under that acquisition. Only a hello tells the Assigner so:
    /// the session is closed, and the next one begins with what the node claims.
    Contradicted,
    /// Another node names an acquisition that this one has not heard of: the Assigner is asked, by a heartbeat whose answer names
    /// the newest generation.
    Unheard,
    /// This node is to leave (a signal, or its embedder).
    DrainRequested,
    /// The node owns nothing and holds no frozen copy any more, nor is it to take anything. Counts only while it drains.
    Drained,
    /// The node serves no operation any more, for good (after [`SliceletAction::EndDrain`], or at its own deadline).
    StoppedServing,
    /// Time passed. The shell feeds all input that is queued before it ticks.
    Tick {
        /// The node's condition, for the heartbeat.
        load: LoadReport,
    },
}

/// What the shell is to do, in this order.
#[derive(Clone, PartialEq, Debug)]
pub enum SliceletAction {
    /// Open a session with the Assigner; answer with `SessionOpened` or `SessionClosed`.
    OpenSession,
    /// Close the session once what was sent before has gone out. Nothing more is expected from it.
    CloseSession,
    /// Send this on the open session.
    Send(NodeMessage),
    /// A newer assignment holds: act on it.
    Adopt(Arc<Assignment>),
    /// A hand-off message from another node came through the Assigner.
    Deliver {
        /// From whom.
        from: Life,
        /// An encoded hand-off message.
        payload: Vec<u8>,
    },
    /// Serve nothing until [`SliceletAction::Resume`]; answer `NotReady`.
    Suspend,
    /// Serve again.
    Resume,
    /// The lease is over: [`super::Slicelet::may_serve`] says no until it is renewed. For the log and the metrics.
    LeaseEnded,
    /// A lease that was over is renewed. For the log.
    LeaseRegained,
    /// The Assigner says for the first time, or otherwise than before, under which leases this node serves. For the log and
    /// the metrics.
    ServesUnder {
        /// The leases' length in milliseconds; none: the node serves until it learns better.
        lease_ms: Option<u64>,
    },
    /// This life is dead: freeze what it held, draw a new incarnation, and call [`super::Slicelet::reborn`].
    Reborn,
    /// The Assigner heard what this node offers; by so much its clock may have fallen behind meanwhile, none: nobody knows.
    OffersHeard {
        /// At most so much.
        behind_ms: Option<u64>,
    },
    /// The node is on its way out: it is not ready any more, but serves what it owns.
    BeginDrain,
    /// The drain has ended: stop serving, then say [`SliceletEvent::StoppedServing`].
    EndDrain {
        /// How.
        reason: DrainEnd,
    },
    /// All is said; the slicelet does nothing any more.
    Stop,
    /// The Assigner does not hear this process, which asks again. Said when that begins, or is for another reason, and again
    /// from time to time. For the log and the readiness. What the process holds stays.
    Barred(Bar),
    /// The Assigner hears this process again. For the log and the readiness.
    Admitted,
    /// An assignment of another founding came, or one that says none where every build says it. It was not adopted. For the log
    /// and the metrics.
    ForeignAssignment {
        /// Its founding.
        theirs: Option<Founding>,
    },
    /// The Assigner refused the hello for good; it is tried again at the longest pause, since the Assigner may be
    /// replaced by one that accepts it. For the log.
    Refused {
        /// What to tell the operator.
        reason: String,
    },
    /// Tick at this moment or soon after. Replaces the moment asked for before.
    WakeAt(Timestamp),
}

/// Why the Assigner does not hear a process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Bar {
    /// Another process holds the name.
    NameTaken {
        /// Where it listens; empty if that is not known.
        holder: Arc<str>,
    },
    /// The Assigner is of another cluster.
    OtherCluster {
        /// The Assigner's.
        theirs: ClusterId,
    },
}

/// How a drain ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DrainEnd {
    /// All was handed off and released.
    Drained,
    /// There is nobody to take what the node holds.
    NoTaker,
    /// No Assigner came to say who takes what the node holds.
    NoAssigner,
}
