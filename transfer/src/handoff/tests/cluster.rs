//! Several cores, and what is on its way between them. Nothing is delivered unless the test says so.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use softstore_sharding::session::{HandoffOutcome, HandoffReport, VersionRange};
use softstore_sharding::{
    Assignment, Epoch, Generation, Incarnation, Life, NodeEntry, NodeId, NodeState, Peer, Provider, PullId,
    RangeAssignment, Readers, Slice, SliceKey, Timestamp,
};

use crate::config::HandoffConfig;
use crate::handoff::{Action, Admission, HandoffCore, Notice};
use crate::message::{LeaseRequest, PullRequest, Refusal, Release, Take, TakeRange, TakeReply};

pub(super) const CHUNK_VERSIONS: VersionRange = VersionRange { min: 1, max: 1 };

pub(super) fn since(number: u64) -> Generation {
    let assigner = Incarnation::new(1);
    Generation { number, assigner }
}

/// `"a"` is the first life of node a, `"a2"` its second.
pub(super) fn life(name: &str) -> Life {
    let (node, incarnation) = name.split_at(1);
    Life {
        node: NodeId::new(node).unwrap(),
        incarnation: Incarnation::new(incarnation.parse().unwrap_or(1)),
    }
}

pub(super) fn peer(name: &str) -> Peer {
    Peer {
        life: life(name),
        address: format!("{name}:1").into(),
    }
}

pub(super) fn name_of(life: &Life) -> String {
    match life.incarnation.get() {
        1 => life.node.to_string(),
        more => format!("{}{more}", life.node),
    }
}

pub(super) fn key(position: u64) -> SliceKey {
    SliceKey::new(position)
}

/// Positions 0 to 99 are the first half, the rest the second.
pub(super) fn halves() -> (Slice, Slice) {
    Slice::FULL.split_before(key(100)).unwrap()
}

/// What an assignment says of one range: owner, `since`, providers newest first.
pub(super) type Says<'a> = (&'a str, u64, &'a [(&'a str, u64)]);

pub(super) fn range((owner, number, providers): Says<'_>) -> RangeAssignment {
    RangeAssignment {
        owner: life(owner),
        since: since(number),
        providers: providers
            .iter()
            .map(|&(name, number)| Provider {
                life: life(name),
                since: since(number),
            })
            .collect(),
        readers: Readers::default(),
        awaits: Vec::new(),
    }
}

pub(super) fn assignment(generation: u64, living: &str, ranges: &[(Slice, Says<'_>)]) -> Arc<Assignment> {
    let directory = living.split(' ').map(|name| {
        let entry = NodeEntry {
            incarnation: life(name).incarnation,
            process: None,
            address: peer(name).address,
            http_address: "".into(),
            zone: "".into(),
            state: NodeState::Serving,
        };
        (life(name).node, entry)
    });
    let ranges = ranges.iter().map(|&(slice, says)| (slice, range(says))).collect();
    Arc::new(Assignment::new(since(generation), ranges, directory.collect()).unwrap())
}

/// An assignment of the whole key space as one range.
pub(super) fn whole(generation: u64, living: &str, says: Says<'_>) -> Arc<Assignment> {
    assignment(generation, living, &[(Slice::FULL, says)])
}

/// The same, read by others besides, and whether leases may be out.
pub(super) fn whole_read_by(
    generation: u64,
    living: &str,
    says: Says<'_>,
    replicas: &[&str],
    leases_out: bool,
) -> Arc<Assignment> {
    let plain = whole(generation, living, says);
    let mut range = plain.range_at(key(0)).clone();
    range.readers = Readers {
        replicas: replicas.iter().map(|name| life(name)).collect(),
        leases_out,
    };
    let ranges = vec![(Slice::FULL, range)];
    Arc::new(Assignment::new(since(generation), ranges, plain.directory().clone()).unwrap())
}

#[derive(Default)]
pub(super) struct Cluster {
    cores: BTreeMap<String, HandoffCore>,
    pub(super) now: Timestamp,
    pub(super) takes: VecDeque<(Take, bool)>,
    pub(super) replies: VecDeque<(String, TakeReply)>,
    pub(super) releases: VecDeque<Release>,
    /// Requests for read leases, with their sequences.
    pub(super) lease_requests: VecDeque<(LeaseRequest, u64)>,
    /// Leases that an owner asks back: owner, reader, slices, number.
    pub(super) recalls: VecDeque<(String, String, Vec<Slice>, u64)>,
    /// Epochs left, by node.
    pub(super) purges: Vec<(String, Slice, Epoch)>,
    /// Streams opened, by taker.
    pub(super) pulls: Vec<(String, PullId, PullRequest)>,
    /// Pulls open in each node's store.
    pub(super) store_pulls: Vec<(String, PullId)>,
    pub(super) notices: Vec<(String, Notice)>,
    pub(super) reports: Vec<(String, HandoffReport)>,
    pub(super) wakes: usize,
    /// Who was given what it will not serve.
    pub(super) contradicted: Vec<String>,
}

impl Cluster {
    pub(super) fn of(names: &str) -> Self {
        Self::with(names, HandoffConfig::default())
    }

    pub(super) fn with(names: &str, config: HandoffConfig) -> Self {
        let mut cluster = Self {
            now: Timestamp::from_ms(1_000),
            ..Self::default()
        };
        for name in names.split(' ') {
            cluster.add(name, config.clone(), CHUNK_VERSIONS);
        }
        cluster
    }

    pub(super) fn add(&mut self, name: &str, config: HandoffConfig, versions: VersionRange) {
        let core = HandoffCore::new(peer(name), config, versions);
        self.cores.insert(name.to_owned(), core);
    }

    pub(super) fn node(&mut self, name: &str) -> &mut HandoffCore {
        self.cores.get_mut(name).unwrap()
    }

    /// A node is told that its life is dead, and goes on as the next one.
    pub(super) fn reborn(&mut self, name: &str, next: &str) {
        let mut core = self.cores.remove(name).unwrap();
        let actions = core.reborn(peer(next), self.now);
        self.cores.insert(next.to_owned(), core);
        // What its store holds is the process's.
        for open in self.store_pulls.iter_mut().filter(|open| open.0 == name) {
            open.0 = next.to_owned();
        }
        self.carry_out(next, actions);
    }

    /// Nodes take note of an assignment.
    pub(super) fn adopt(&mut self, names: &str, assignment: &Arc<Assignment>) {
        for name in names.split(' ') {
            let now = self.now;
            let actions = self.node(name).adopt(assignment, now);
            self.carry_out(name, actions);
        }
    }

    /// Time passes and a node is ticked.
    pub(super) fn later(&mut self, name: &str, ms: u64) {
        self.now = self.now.plus_ms(ms);
        let now = self.now;
        let actions = self.node(name).tick(now);
        self.carry_out(name, actions);
    }

    /// A pull of a node ends, or something else that it did has consequences.
    pub(super) fn carry_out(&mut self, name: &str, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::SendTake { take, relay, .. } => self.takes.push_back((take, relay)),
                Action::BeginPull(pull) | Action::BeginAwaiting(pull) => {
                    self.store_pulls.push((name.to_owned(), pull))
                }
                Action::EndPull(pull) => self.store_pulls.retain(|open| *open != (name.to_owned(), pull)),
                Action::StartPull { pull, request, .. } => self.pulls.push((name.to_owned(), pull, request)),
                Action::StopPull(_) => {}
                Action::Purge(slice, epoch) => self.purges.push((name.to_owned(), slice, epoch)),
                Action::AskLease {
                    request, sequence, ..
                } => {
                    self.lease_requests.push_back((request, sequence));
                }
                Action::Recall {
                    reader,
                    slices,
                    number,
                } => {
                    let recall = (name.to_owned(), name_of(&reader.life), slices, number);
                    self.recalls.push_back(recall);
                }
                Action::SendRelease { release, .. } => self.releases.push_back(release),
                Action::Report(reports) => {
                    let reports = reports.into_iter().map(|report| (name.to_owned(), report));
                    self.reports.extend(reports);
                }
                Action::Contradicted => self.contradicted.push(name.to_owned()),
                Action::Wake => self.wakes += 1,
                Action::Notice(notice) => self.notices.push((name.to_owned(), notice)),
            }
        }
    }

    /// Delivers a `Take`; the answer is on its way then.
    pub(super) fn deliver_take(&mut self, take: &Take) -> Result<(), Refusal> {
        let (to, taker, now) = (name_of(&take.to), name_of(&take.taker.life), self.now);
        let (reply, actions) = self.node(&to).take(take, now)?;
        self.carry_out(&to, actions);
        self.replies.push_back((taker, reply));
        Ok(())
    }

    pub(super) fn deliver_reply(&mut self, (taker, reply): (String, TakeReply)) {
        let now = self.now;
        let actions = self.node(&taker).take_answered(&reply, now);
        self.carry_out(&taker, actions);
    }

    /// Delivers all takes, answers and releases until there are none, except to nodes that are not there.
    pub(super) fn settle(&mut self) {
        for _ in 0..100 {
            if let Some((take, _)) = self.takes.pop_front() {
                if self.cores.contains_key(&name_of(&take.to)) {
                    self.deliver_take(&take).unwrap();
                }
            } else if let Some(reply) = self.replies.pop_front() {
                self.deliver_reply(reply);
            } else if let Some(release) = self.releases.pop_front() {
                let to = name_of(&release.to);
                let actions = self.node(&to).release(&release).unwrap();
                self.carry_out(&to, actions);
            } else {
                return;
            }
        }
        panic!("the nodes send each other messages without end");
    }

    /// The only `Take` on its way, taken off it.
    pub(super) fn only_take(&mut self) -> Take {
        assert_eq!(self.takes.len(), 1, "{:?}", self.takes);
        self.takes.pop_front().unwrap().0
    }

    /// What a node says to an operation that knows of no acquisition.
    pub(super) fn says(&mut self, name: &str, at: u64) -> String {
        self.says_to(name, at, Generation::NONE)
    }

    pub(super) fn says_to(&mut self, name: &str, at: u64, known: Generation) -> String {
        match self.node(name).admit(key(at), known) {
            Admission::Serve(serving) => format!("serve {}", serving.since.number),
            Admission::Hold => "hold".to_owned(),
            Admission::Moved(moved) => format!("moved {} {}", name_of(&moved.owner), moved.since.number),
            Admission::Behind => "behind".to_owned(),
            Admission::NotReady => "not ready".to_owned(),
        }
    }

    /// Who serves a position (H1: never more than one).
    pub(super) fn owner_of(&mut self, at: u64) -> Option<String> {
        let names: Vec<String> = self.cores.keys().cloned().collect();
        let owners: Vec<String> = names
            .into_iter()
            .filter(|name| self.says(name, at).starts_with("serve"))
            .collect();
        assert!(owners.len() <= 1, "H1: {owners:?} serve {at}");
        owners.into_iter().next()
    }

    pub(super) fn reported(&self, name: &str, number: u64) -> Vec<HandoffOutcome> {
        self.reports
            .iter()
            .filter(|(node, report)| node == name && report.since == since(number))
            .map(|(_, report)| report.outcome)
            .collect()
    }

    pub(super) fn noticed(&self, which: impl Fn(&Notice) -> bool) -> usize {
        self.notices.iter().filter(|(_, notice)| which(notice)).count()
    }
}

pub(super) fn take(to: &str, taker: &str, slice: Slice, number: u64, from: u64) -> Take {
    let (since, from) = (since(number), since(from));
    Take {
        to: life(to),
        taker: peer(taker),
        ranges: vec![TakeRange { slice, since, from }],
    }
}

/// The named nodes hold nothing, but a holds all since 1.
pub(super) fn held_by_a(names: &str) -> Cluster {
    let mut cluster = Cluster::of(names);
    cluster.adopt("a", &whole(1, names, ("a", 1, &[])));
    cluster
}

/// The epoch under which a node serves position 5.
pub(super) fn epoch(cluster: &mut Cluster, name: &str) -> Epoch {
    match cluster.node(name).admit(key(5), Generation::NONE) {
        Admission::Serve(serving) => serving.epoch,
        other => panic!("{name} does not serve: {other:?}"),
    }
}
