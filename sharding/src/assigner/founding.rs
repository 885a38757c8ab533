//! [`Belonging`]: which cluster this Assigner is of, and who else has spoken to it.
//!
//! The cluster's founding is drawn once, with its first assignment, and the same for ever. An Assigner knows it from its
//! state file or from its operator; else it adopts the only one that it hears of while it recovers; and only if it hears
//! of none it founds a cluster itself. Who belongs to another cluster is refused before anything that it says is heard or
//! judged: it is not dead, nothing of it is adopted, nothing of it is dropped. If an Assigner that knows no founding hears
//! of two, it publishes nothing until one of them is gone or its operator chooses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Assigner;
use super::event::{AssignerAction, Notice, SessionId};
use crate::generation::Generation;
use crate::identity::{ClusterId, ClusterName, ForeignCluster, Founding};
use crate::node::NodeId;
use crate::planted::{self, Bug};
use crate::session::{AssignerMessage, Hello};
use crate::time::Timestamp;

/// A founding that nobody has told of for so long is not in the way any more, in milliseconds. Who is refused asks again
/// within a second.
pub(super) const FOREIGN_GONE_MS: u64 = 10_000;

/// So often the log says again that a node of another cluster asks, in milliseconds.
const SAID_AGAIN_MS: u64 = 30_000;

/// Most other clusters that are remembered.
const FOREIGN_MAX: usize = 16;

/// Which cluster an Assigner is of.
#[derive(Debug, Default)]
pub(super) struct Belonging {
    pub(super) cluster: ClusterId,
    /// What a cluster that is founded here will have; none: this Assigner stamps no founding, as builds before did not.
    drawn: Option<Founding>,
    /// The founding is known from a state file or the operator, or was published. Else it is what was heard of first.
    is_certain: bool,
    others: BTreeMap<ClusterId, Sighting>,
    /// The founding that was heard of first, whose nodes have all gone since; it may come back.
    left: Option<(Founding, Timestamp)>,
    conflict_said: bool,
}

/// A node of another cluster has said hello here.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Sighting {
    /// The last one.
    pub(super) node: NodeId,
    pub(super) address: Arc<str>,
    pub(super) refused: u64,
    pub(super) last: Timestamp,
    said: Timestamp,
}

impl Belonging {
    fn name(&mut self, name: Option<ClusterName>, drawn: Founding) {
        self.cluster.name = name;
        self.drawn = Some(drawn);
    }

    /// Whether the cluster was founded, as far as is known for certain: a first assignment would not found one.
    pub(super) fn is_founded(&self) -> bool {
        self.is_certain && self.cluster.founding.is_some()
    }

    /// A hello that was not refused tells the founding. Heard of first, it holds until those who told it are gone.
    pub(super) fn heard(&mut self, founding: Option<Founding>) {
        if self.cluster.founding.is_none() {
            self.cluster.founding = founding;
        }
    }

    /// With the first assignment out, the founding is this: the one that is known, or what that assignment tells, or a new one.
    pub(super) fn settle(&mut self, told: Option<Founding>) {
        self.cluster.founding = self.cluster.founding.or(told).or(self.drawn);
        self.is_certain = true;
    }

    /// Remembers a refused hello; whether it is worth a word.
    fn refuse(&mut self, hello: &Hello, now: Timestamp) -> bool {
        let theirs = &hello.cluster;
        if !self.others.contains_key(theirs) && self.others.len() >= FOREIGN_MAX {
            let oldest = self.others.iter().min_by_key(|(_, seen)| seen.last);
            if let Some(oldest) = oldest.map(|(cluster, _)| cluster.clone()) {
                self.others.remove(&oldest);
            }
        }
        let known = self.others.get(theirs);
        let is_news = known.is_none_or(|seen| now.ms_since(seen.said) >= SAID_AGAIN_MS);
        let seen = Sighting {
            node: hello.peer.life.node.clone(),
            address: hello.peer.address.clone(),
            refused: known.map_or(0, |seen| seen.refused) + 1,
            last: now,
            said: known.filter(|_| !is_news).map_or(now, |seen| seen.said),
        };
        self.others.insert(theirs.clone(), seen);
        is_news
    }

    /// The other clusters that were heard of lately.
    pub(super) fn others(&self, now: Timestamp) -> impl Iterator<Item = (&ClusterId, &Sighting)> {
        let lately = move |(_, seen): &(&ClusterId, &Sighting)| now.ms_since(seen.last) < FOREIGN_GONE_MS;
        self.others.iter().filter(lately)
    }

    /// The other foundings between which nobody has chosen; none if this Assigner knows its own.
    pub(super) fn rivals(&self, now: Timestamp) -> Vec<Founding> {
        let Some(founding) = self.cluster.founding.filter(|_| !self.is_certain) else {
            return Vec::new();
        };
        let of_name = |(cluster, _): &(&ClusterId, &Sighting)| cluster.name == self.cluster.name;
        let others = self.others(now).filter(of_name);
        let left = self.left.filter(|(_, at)| now.ms_since(*at) < FOREIGN_GONE_MS);
        let rivals = others.filter_map(|(cluster, _)| cluster.founding);
        let rivals: BTreeSet<Founding> = rivals.chain(left.map(|(founding, _)| founding)).collect();
        rivals.into_iter().filter(|rival| *rival != founding).collect()
    }
}

impl Assigner {
    /// The same Assigner, of a cluster of that name. `drawn`: 128 random bits, the founding of the cluster if this Assigner
    /// turns out to found it. An Assigner that was not told so is of any cluster, and stamps no founding.
    #[must_use]
    pub fn of_cluster(mut self, name: Option<ClusterName>, drawn: Founding) -> Self {
        self.belonging.name(name, drawn);
        self
    }

    /// The same Assigner, which knows its cluster's founding, and the highest generation that was given out in it, from a
    /// store or from its operator ([`Generation::NONE`] then). It founds no other cluster.
    #[must_use]
    pub fn founded(mut self, founding: Founding, highest: Generation) -> Self {
        self.belonging.cluster.founding = Some(founding);
        self.belonging.is_certain = true;
        if super::hello::is_possible(highest) {
            self.highest = self.highest.max(highest);
        }
        self
    }

    /// Which cluster this Assigner is of. Its founding is not certain while it recovers.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.belonging.cluster
    }

    /// Refuses who belongs to another cluster, or does not say to which although it holds something and all builds here would
    /// say so.
    pub(super) fn admit(&self, hello: &Hello) -> Result<(), ForeignCluster> {
        let cluster = &self.belonging.cluster;
        if planted::is(Bug::ForeignHelloHeard) {
            return Ok(());
        }
        let theirs = if planted::is(Bug::LateFoundingImported) {
            ClusterId {
                founding: None,
                ..hello.cluster.clone()
            }
        } else {
            hello.cluster.clone()
        };
        cluster.admit(&theirs)?;
        let life = &hello.peer.life;
        let is_unsaid = theirs.founding.is_none() && hello.generation > Generation::NONE;
        let is_ours = self.is_living(life) || self.graves.holds(life);
        let would_be_said = cluster.founding.is_some() && self.recovery.is_none();
        if is_unsaid && would_be_said && !is_ours && !self.has_unidentified() {
            return Err(ForeignCluster::Unsaid);
        }
        Ok(())
    }

    /// Whether a member's build says neither its process nor its cluster.
    fn has_unidentified(&self) -> bool {
        self.members.values().any(|member| member.process.is_none())
            || self.assignment().is_some_and(|held| held.lists_unidentified())
    }

    /// Tells a node that this is another cluster than its own. Nothing that it said counts.
    pub(super) fn refuse_foreign(
        &mut self,
        session: SessionId,
        hello: &Hello,
        why: ForeignCluster,
        now: Timestamp,
        actions: &mut Vec<AssignerAction>,
    ) {
        let is_news = self.belonging.refuse(hello, now);
        let cluster = self.belonging.cluster.clone();
        let message = AssignerMessage::OtherCluster { cluster };
        actions.push(AssignerAction::Send { session, message });
        actions.push(AssignerAction::CloseSession { session });
        actions.push(AssignerAction::Notice(Notice::OtherCluster {
            life: hello.peer.life.clone(),
            address: hello.peer.address.clone(),
            theirs: hello.cluster.clone(),
            why,
            is_news,
        }));
    }

    /// While nothing is certain: forgets a founding whose nodes have all gone, with the assignment that was fetched of it.
    pub(super) fn reconsider_founding(&mut self, now: Timestamp) {
        let founding = self.belonging.cluster.founding;
        let Some(recovery) = self.recovery.as_mut().filter(|_| !self.belonging.is_certain) else {
            return;
        };
        let Some(left) = founding.filter(|_| self.members.values().all(|member| member.founding != founding))
        else {
            return;
        };
        self.belonging.cluster.founding = None;
        self.belonging.left = Some((left, now));
        recovery.forget_fetched();
    }

    /// Whether two foundings were heard of, and nothing may be published before somebody chooses. Said once.
    pub(super) fn is_undecided(&mut self, now: Timestamp, actions: &mut Vec<AssignerAction>) -> bool {
        let rivals = self.belonging.rivals(now);
        if rivals.is_empty() {
            self.belonging.conflict_said = false;
            return false;
        }
        if !std::mem::replace(&mut self.belonging.conflict_said, true) {
            let foundings = self
                .belonging
                .cluster
                .founding
                .into_iter()
                .chain(rivals)
                .collect();
            actions.push(AssignerAction::Notice(Notice::TwoFoundings { foundings }));
        }
        true
    }
}
