//! [`Fault`]: what is done to a cluster in a phase, how it is undone, and what it may cost.
//!
//! The giver is the node that drains, the taker the one that takes all it has; a third node owns the other half of the keys.

use std::time::Duration;

use softstore_tests::ledger::Ledger;
use softstore_tests::log_pipe::LogTo;
use softstore_tests::process::Signal;

use super::cell::{KEYS, WRITTEN_KEYS};
use super::cluster::{ASSIGNER, CLIENT, Cluster, FAILURE_TIMEOUT_MS, GIVER, Ownership, TAKER, THIRD};
use super::phase::Phase;

/// How long a cut or an Assigner's standstill lasts where no event says that it was long enough. The length of the fault
/// itself, not a wait for anything.
const FOR_LONG: Duration = Duration::from_millis(FAILURE_TIMEOUT_MS * 3 / 2);

/// How long a node goes on standing still after others have written what it holds: time for questions to gather before it.
const AFTER_DEATH: Duration = Duration::from_millis(FAILURE_TIMEOUT_MS / 2);

/// A link on which a chunk takes seconds.
const CRAWL_BYTES_PER_SECOND: u32 = 100_000;

/// What is done. Each is over before the cluster has to come to rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Nothing: the control.
    Nothing,
    /// SIGKILL to the giver.
    KillGiver,
    /// SIGKILL to the taker.
    KillTaker,
    /// SIGKILL to the Assigner; another starts in its place.
    KillAssigner,
    /// SIGSTOP to the giver until it is declared dead, then SIGCONT.
    PauseGiver,
    /// The same to the taker.
    PauseTaker,
    /// SIGSTOP to the Assigner for longer than the failure timeout, then SIGCONT.
    PauseAssigner,
    /// A second SIGTERM to the giver.
    TermGiver,
    /// SIGTERM to the taker: what it takes moves on to the third node.
    TermTaker,
    /// Giver and taker lose all that they send to each other.
    CutGiverTaker,
    /// Only what the giver sends to the taker.
    CutGiverToTaker,
    /// Only what the taker sends to the giver.
    CutTakerToGiver,
    /// Giver and Assigner, until the Assigner declares the giver dead.
    CutGiverAssigner,
    /// Taker and Assigner, until the Assigner declares the taker dead.
    CutTakerAssigner,
    /// Giver and client.
    CutGiverClient,
    /// Taker and client.
    CutTakerClient,
    /// The link between giver and taker crawls.
    Slow,
    /// The disk that the giver logs to is full.
    GiverLogFull,
    /// The taker's.
    TakerLogFull,
    /// The Assigner's.
    AssignerLogFull,
    /// Nobody reads what the giver logs, and the pipe that it logs to is full.
    GiverLogStuck,
    /// What the taker logs.
    TakerLogStuck,
    /// What the Assigner logs.
    AssignerLogStuck,
}

impl Fault {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 23] = [
        Self::Nothing,
        Self::KillGiver,
        Self::KillTaker,
        Self::KillAssigner,
        Self::PauseGiver,
        Self::PauseTaker,
        Self::PauseAssigner,
        Self::TermGiver,
        Self::TermTaker,
        Self::CutGiverTaker,
        Self::CutGiverToTaker,
        Self::CutTakerToGiver,
        Self::CutGiverAssigner,
        Self::CutTakerAssigner,
        Self::CutGiverClient,
        Self::CutTakerClient,
        Self::Slow,
        Self::GiverLogFull,
        Self::TakerLogFull,
        Self::AssignerLogFull,
        Self::GiverLogStuck,
        Self::TakerLogStuck,
        Self::AssignerLogStuck,
    ];

    /// Its name in tables and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing (control)",
            Self::KillGiver => "SIGKILL giver",
            Self::KillTaker => "SIGKILL taker",
            Self::KillAssigner => "SIGKILL Assigner, restarted",
            Self::PauseGiver => "SIGSTOP giver until dead, SIGCONT",
            Self::PauseTaker => "SIGSTOP taker until dead, SIGCONT",
            Self::PauseAssigner => "SIGSTOP Assigner, SIGCONT",
            Self::TermGiver => "second SIGTERM to giver",
            Self::TermTaker => "SIGTERM taker (chain)",
            Self::CutGiverTaker => "cut giver - taker",
            Self::CutGiverToTaker => "cut giver -> taker",
            Self::CutTakerToGiver => "cut taker -> giver",
            Self::CutGiverAssigner => "cut giver - Assigner until dead",
            Self::CutTakerAssigner => "cut taker - Assigner until dead",
            Self::CutGiverClient => "cut giver - client",
            Self::CutTakerClient => "cut taker - client",
            Self::Slow => "link giver - taker at 100 kB/s",
            Self::GiverLogFull => "disk full: giver's log",
            Self::TakerLogFull => "disk full: taker's log",
            Self::AssignerLogFull => "disk full: Assigner's log",
            Self::GiverLogStuck => "nobody reads: giver's log",
            Self::TakerLogStuck => "nobody reads: taker's log",
            Self::AssignerLogStuck => "nobody reads: Assigner's log",
        }
    }

    /// Strikes, quickly: the phase is held open only for so long.
    pub(crate) async fn strike(self, cluster: &mut Cluster) {
        match self {
            Self::Nothing => {}
            Self::KillGiver => cluster.kill(GIVER).await,
            Self::KillTaker => cluster.kill(TAKER).await,
            Self::KillAssigner => cluster.kill(ASSIGNER).await,
            Self::PauseGiver => cluster.process(GIVER).stand_still().await,
            Self::PauseTaker => cluster.process(TAKER).stand_still().await,
            Self::PauseAssigner => cluster.process(ASSIGNER).stand_still().await,
            Self::TermGiver => cluster.process(GIVER).signal(Signal::TERM),
            Self::TermTaker => cluster.process(TAKER).signal(Signal::TERM),
            Self::CutGiverTaker => cluster.network.cut_both(GIVER, TAKER),
            Self::CutGiverToTaker => cluster.network.cut(GIVER, TAKER),
            Self::CutTakerToGiver => cluster.network.cut(TAKER, GIVER),
            Self::CutGiverAssigner => cluster.network.cut_both(GIVER, ASSIGNER),
            Self::CutTakerAssigner => cluster.network.cut_both(TAKER, ASSIGNER),
            Self::CutGiverClient => cluster.network.cut_both(GIVER, CLIENT),
            Self::CutTakerClient => cluster.network.cut_both(TAKER, CLIENT),
            Self::Slow => {
                cluster.network.slow(GIVER, TAKER, CRAWL_BYTES_PER_SECOND);
                cluster.network.slow(TAKER, GIVER, CRAWL_BYTES_PER_SECOND);
            }
            Self::GiverLogFull => cluster.fill_disk(GIVER),
            Self::TakerLogFull => cluster.fill_disk(TAKER),
            Self::AssignerLogFull => cluster.fill_disk(ASSIGNER),
            Self::GiverLogStuck => cluster.process(GIVER).log_pipe().stick(),
            Self::TakerLogStuck => cluster.process(TAKER).log_pipe().stick(),
            Self::AssignerLogStuck => cluster.process(ASSIGNER).log_pipe().stick(),
        }
    }

    /// Where logs go: through pipes, that they can be stuck, but for a disk that is to be full under them.
    pub(crate) fn log_to(self) -> LogTo {
        match self {
            Self::GiverLogFull | Self::TakerLogFull | Self::AssignerLogFull => LogTo::File,
            _ => LogTo::Pipe,
        }
    }

    /// Whom it stops for a while, and so has reason to say that it stood still.
    pub(crate) fn pauses(self) -> Option<&'static str> {
        match self {
            Self::PauseGiver => Some(GIVER),
            Self::PauseTaker => Some(TAKER),
            Self::PauseAssigner => Some(ASSIGNER),
            _ => None,
        }
    }

    /// Whether the fault itself keeps these two from talking: then the hold that kept the phase open is not undone.
    pub(crate) fn cuts(self, from: &str, to: &str) -> bool {
        let both = |one, other| (from, to) == (one, other) || (from, to) == (other, one);
        match self {
            Self::CutGiverTaker => both(GIVER, TAKER),
            Self::CutGiverToTaker => (from, to) == (GIVER, TAKER),
            Self::CutTakerToGiver => (from, to) == (TAKER, GIVER),
            Self::CutGiverAssigner => both(GIVER, ASSIGNER),
            Self::CutTakerAssigner => both(TAKER, ASSIGNER),
            _ => false,
        }
    }

    /// Waits until it has lasted long enough, and undoes it.
    pub(crate) async fn end(self, cluster: &mut Cluster, ledger: &Ledger) {
        match self {
            Self::KillAssigner => cluster.start_assigner(None).await,
            Self::PauseGiver | Self::PauseTaker => {
                let node = if self == Self::PauseGiver { GIVER } else { TAKER };
                // A goodbye that it sent before it stood still arrives all the same.
                cluster.gone(node).await;
                // What it still holds is out of date before it wakes.
                let others = cluster.client_of(&[THIRD]).await;
                ledger.write_anew(&others, WRITTEN_KEYS..KEYS).await;
                tokio::time::sleep(AFTER_DEATH).await;
                cluster.process(node).signal(Signal::CONT);
            }
            Self::PauseAssigner => {
                tokio::time::sleep(FOR_LONG).await;
                cluster.process(ASSIGNER).signal(Signal::CONT);
            }
            Self::CutGiverAssigner | Self::CutTakerAssigner => {
                let node = if self == Self::CutGiverAssigner {
                    GIVER
                } else {
                    TAKER
                };
                cluster.gone(node).await;
                cluster.network.heal_both(node, ASSIGNER);
            }
            Self::CutGiverTaker | Self::CutGiverToTaker | Self::CutTakerToGiver => {
                tokio::time::sleep(FOR_LONG).await;
                cluster.network.heal_both(GIVER, TAKER);
            }
            Self::CutGiverClient | Self::CutTakerClient => {
                let node = if self == Self::CutGiverClient {
                    GIVER
                } else {
                    TAKER
                };
                tokio::time::sleep(FOR_LONG).await;
                cluster.network.heal_both(node, CLIENT);
            }
            Self::Slow => {
                tokio::time::sleep(FOR_LONG).await;
                cluster.network.hasten(GIVER, TAKER);
                cluster.network.hasten(TAKER, GIVER);
            }
            _ => {}
        }
    }

    /// How the giver's process may end.
    pub(crate) fn giver_ends(self) -> GiverEnd {
        match self {
            Self::KillGiver => GiverEnd::Killed,
            Self::TermGiver => GiverEnd::Code(143),
            _ => GiverEnd::Code(0),
        }
    }

    /// The nodes that are there at the end.
    pub(crate) fn survivors(self) -> &'static [&'static str] {
        match self {
            Self::KillTaker | Self::TermTaker => &[THIRD],
            _ => &[TAKER, THIRD],
        }
    }

    /// Whether a life ends by it, to the Assigner's eyes, that alone held something: what the giver has not handed over, or
    /// what the taker had fenced. Only this explains an acknowledged write that is lost.
    pub(crate) fn explains_loss(self, phase: Phase) -> bool {
        match self {
            Self::KillGiver | Self::PauseGiver | Self::TermGiver | Self::CutGiverAssigner => {
                phase < Phase::Pulled
            }
            Self::KillTaker | Self::PauseTaker | Self::CutTakerAssigner => true,
            _ => false,
        }
    }

    /// Whether operations may fail meanwhile: an owner is dead, or out of reach for the client, for the next owner or, where
    /// it serves under a lease, for the Assigner.
    pub(crate) fn explains_failures(self, ownership: Ownership) -> bool {
        match self {
            Self::Nothing
            | Self::TermTaker
            | Self::Slow
            | Self::GiverLogFull
            | Self::TakerLogFull
            | Self::AssignerLogFull
            | Self::GiverLogStuck
            | Self::TakerLogStuck
            | Self::AssignerLogStuck => false,
            Self::KillAssigner | Self::PauseAssigner => ownership == Ownership::Leased,
            _ => true,
        }
    }

    /// Whether a node that is asked past the client may answer with an old value: in `available` mode, one that is cut off
    /// from the Assigner serves on.
    pub(crate) fn explains_stale_nodes(self, ownership: Ownership) -> bool {
        let cuts_off = matches!(self, Self::CutGiverAssigner | Self::CutTakerAssigner);
        cuts_off && ownership == Ownership::Available
    }
}

/// How a giver's process ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum GiverEnd {
    /// By itself, with this exit code.
    Code(i32),
    /// It was killed.
    Killed,
}
