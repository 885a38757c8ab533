//! [`Phase`]: where in a hand-off a fault strikes. Each is reached by an event in somebody's log, and held open by the
//! network: messages that would end it are kept from arriving until the fault has struck.

use super::cluster::{ASSIGNER, Cluster, GIVER, LINK_BYTES_PER_SECOND, TAKER};
use super::fault::Fault;
use softstore_tests::process::Signal;

/// What the taker logs once its pull is over.
const PULL_COMPLETE: &str = "a pull is complete";

/// A moment of a hand-off, in its order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Phase {
    /// The assignment is published, the taker has asked, the giver still serves.
    Published,
    /// The giver has fenced, the taker does not know it yet: nobody serves.
    Fenced,
    /// The taker serves, and some chunks are in.
    Pulling,
    /// All chunks are in; the giver does not know it yet and keeps its frozen copy.
    Pulled,
    /// Nothing is left at the giver: it is saying goodbye.
    Exiting,
}

impl Phase {
    /// All, in their order.
    pub(crate) const ALL: [Self; 5] = [
        Self::Published,
        Self::Fenced,
        Self::Pulling,
        Self::Pulled,
        Self::Exiting,
    ];

    /// Its name in tables and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Fenced => "fenced",
            Self::Pulling => "pulling",
            Self::Pulled => "pulled",
            Self::Exiting => "exiting",
        }
    }

    /// Has the giver drain, and comes back in this phase.
    pub(crate) async fn reach(self, cluster: &mut Cluster) -> Held {
        cluster.network.slow(GIVER, TAKER, LINK_BYTES_PER_SECOND);
        let mut held = Held::default();
        match self {
            Self::Published => held.hold(cluster, TAKER, GIVER),
            Self::Fenced => held.hold(cluster, GIVER, TAKER),
            Self::Pulling | Self::Pulled | Self::Exiting => {}
        }
        let published = cluster.tap(ASSIGNER).count("published an assignment");
        let asked = cluster.tap(TAKER).count("asked for ranges");
        cluster.process(GIVER).signal(Signal::TERM);
        match self {
            Self::Published => {
                cluster
                    .tap(ASSIGNER)
                    .more_than(published, "published an assignment")
                    .await;
                cluster.tap(TAKER).more_than(asked, "asked for ranges").await;
            }
            Self::Fenced => cluster.tap(GIVER).more_than(0, "fenced ranges").await,
            Self::Pulling => cluster.tap(TAKER).more_than(0, "a chunk of a pull is in").await,
            Self::Pulled => held.pulled(cluster).await,
            Self::Exiting => {
                held.pulled(cluster).await;
                let now = std::mem::take(&mut held);
                held.lose(cluster, GIVER, ASSIGNER);
                now.let_go(cluster, Fault::Nothing);
                cluster.tap(GIVER).more_than(0, "the drain has ended").await;
            }
        }
        held
    }

    /// Whether the hand-off has left this phase already, as a loaded machine may have it: then the cell proves nothing.
    pub(crate) fn is_over(self, cluster: &mut Cluster) -> bool {
        match self {
            Self::Published => cluster.tap(GIVER).count("fenced ranges") > 0,
            Self::Fenced => cluster.tap(TAKER).count("took ranges over") > 0,
            Self::Pulling => cluster.tap(TAKER).count(PULL_COMPLETE) > 0,
            Self::Pulled => {
                let giver = cluster.tap(GIVER);
                giver.count("frozen copies were released") + giver.count("dropped frozen copies") > 0
            }
            Self::Exiting => !cluster.is_running(GIVER),
        }
    }
}

/// Links on which messages are held.
#[derive(Debug, Default)]
pub(crate) struct Held(Vec<(&'static str, &'static str)>);

impl Held {
    fn hold(&mut self, cluster: &Cluster, from: &'static str, to: &'static str) {
        cluster.network.hold_messages(from, to);
        self.0.push((from, to));
    }

    /// The same for everything: a goodbye is as short as what a held link lets through.
    fn lose(&mut self, cluster: &Cluster, from: &'static str, to: &'static str) {
        cluster.network.cut(from, to);
        self.0.push((from, to));
    }

    /// All is sent; the word that it has arrived does not come back. What is still under way fits the window of the pull's
    /// stream, so that it arrives although the taker cannot ask for more.
    async fn pulled(&mut self, cluster: &mut Cluster) {
        cluster
            .tap(GIVER)
            .more_than(0, "all that was fenced is sent")
            .await;
        self.hold(cluster, TAKER, GIVER);
        // The Assigner hears of the end from the taker, and would tell the giver.
        self.hold(cluster, ASSIGNER, GIVER);
        cluster.network.hasten(GIVER, TAKER);
        cluster.tap(TAKER).more_than(0, PULL_COMPLETE).await;
    }

    /// Lets go of all that the fault itself does not cut.
    pub(crate) fn let_go(self, cluster: &Cluster, fault: Fault) {
        for (from, to) in self.0 {
            if !fault.cuts(from, to) {
                cluster.network.heal(from, to);
            }
        }
    }
}
