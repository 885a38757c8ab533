//! A cluster in memory for tests, with faults that can be switched on: so that the ledger, the judge and the whole of an arm
//! are tested without processes.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use softstore_sharding::{Slice, Slot};

use crate::control::{ClusterControl, ClusterView, NodeView};
use crate::error::DrillError;
use crate::fleet::{Fleet, Signal};
use crate::target::{ReadOutcome, Target, WriteOutcome};

/// What is wrong with the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Fault {
    #[default]
    None,
    /// A read returns the value before the present one, if there was one.
    ServesOlder,
    /// A read of a deleted key returns what was deleted.
    Resurrects,
    /// Reads fail.
    ReadErrors,
    /// A read returns another value than was written.
    Damages,
    /// Sets are applied, but their answer is lost.
    LosesAnswers,
    /// Sets are refused, and applied all the same.
    RefusesYetApplies,
}

#[derive(Debug, Default)]
struct Contents {
    present: HashMap<Bytes, Bytes>,
    former: HashMap<Bytes, Bytes>,
    fault: Fault,
    lives: HashMap<String, u64>,
}

/// Cheap to clone; all clones are the same cluster. Three nodes, `n1` to `n3`.
#[derive(Debug, Clone, Default)]
pub(crate) struct FakeCluster {
    contents: Arc<Mutex<Contents>>,
    /// A node that goes takes its entries with it.
    pub(crate) cold: bool,
}

impl FakeCluster {
    pub(crate) fn new(cold: bool) -> Self {
        let cluster = Self {
            cold,
            ..Self::default()
        };
        for node in ["n1", "n2", "n3"] {
            cluster.contents.lock().lives.insert(node.to_owned(), 1);
        }
        cluster
    }

    pub(crate) fn set_fault(&self, fault: Fault) {
        self.contents.lock().fault = fault;
    }

    fn lose(&self, node: &str) {
        self.contents
            .lock()
            .present
            .retain(|key, _| format!("n{}", 1 + Slot::of_key(key).get() % 3) != node);
    }
}

impl Target for FakeCluster {
    async fn get(&self, key: Bytes) -> ReadOutcome {
        let contents = self.contents.lock();
        let present = contents.present.get(&key);
        let former = contents.former.get(&key);
        match contents.fault {
            Fault::ReadErrors => return ReadOutcome::Failed("as told".to_owned()),
            Fault::Damages => return ReadOutcome::Hit(Bytes::from_static(b"not what was written there")),
            _ => {}
        }
        let read = match contents.fault {
            Fault::ServesOlder if present.is_some() => former.or(present),
            Fault::Resurrects => present.or(former),
            _ => present,
        };
        read.map_or(ReadOutcome::Miss, |value| ReadOutcome::Hit(value.clone()))
    }

    async fn set(&self, key: Bytes, value: Bytes, _ttl_ms: u64) -> WriteOutcome {
        let mut contents = self.contents.lock();
        if let Some(former) = contents.present.insert(key.clone(), value) {
            contents.former.insert(key, former);
        }
        match contents.fault {
            Fault::LosesAnswers => WriteOutcome::OutcomeUnknown,
            Fault::RefusesYetApplies => WriteOutcome::Refused("as told".to_owned()),
            _ => WriteOutcome::Applied,
        }
    }

    async fn delete(&self, key: Bytes) -> WriteOutcome {
        let mut contents = self.contents.lock();
        if let Some(former) = contents.present.remove(&key) {
            contents.former.insert(key, former);
        }
        WriteOutcome::Applied
    }
}

impl ClusterControl for FakeCluster {
    async fn view(&self) -> Result<ClusterView, String> {
        let contents = self.contents.lock();
        let node = |(id, incarnation): (&String, &u64)| NodeView {
            id: id.clone(),
            incarnation: *incarnation,
            serving: true,
            entries: 10,
            bytes: 1_000,
            entries_imported: 2 * incarnation,
            bytes_imported: 200 * incarnation,
            slices: vec![Slice::FULL],
        };
        let nodes = contents
            .lives
            .iter()
            .filter(|(_, incarnation)| **incarnation > 0)
            .map(node)
            .collect();
        Ok(ClusterView {
            settled: true,
            because: String::new(),
            waiting_to_fill: 0,
            nodes,
        })
    }
}

/// The processes of a [`FakeCluster`].
#[derive(Debug)]
pub(crate) struct FakeFleet {
    pub(crate) cluster: FakeCluster,
    pub(crate) members: Vec<String>,
    starts: u64,
}

impl FakeFleet {
    pub(crate) fn new(cluster: &FakeCluster) -> Self {
        let members = ["n1", "n2", "n3"].map(str::to_owned).to_vec();
        Self {
            cluster: cluster.clone(),
            members,
            starts: 1,
        }
    }
}

impl Fleet for FakeFleet {
    fn members(&self) -> Vec<String> {
        self.members.clone()
    }

    fn signal(&mut self, node: &str, signal: Signal) -> Result<(), DrillError> {
        if self.cluster.cold || signal == Signal::Kill {
            self.cluster.lose(node);
        }
        self.cluster.contents.lock().lives.remove(node);
        Ok(())
    }

    async fn exited(&mut self, node: &str) -> Result<(), DrillError> {
        self.members.retain(|other| other != node);
        Ok(())
    }

    fn no_exit(&self, node: &str, waited_ms: u64) -> DrillError {
        DrillError::NoExit {
            node: node.to_owned(),
            waited_ms,
            log: "none".into(),
        }
    }

    async fn start(&mut self, node: &str) -> Result<(), DrillError> {
        self.starts += 1;
        self.cluster
            .contents
            .lock()
            .lives
            .insert(node.to_owned(), self.starts);
        self.members.push(node.to_owned());
        Ok(())
    }
}
