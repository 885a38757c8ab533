//! `assigner.proto`: what operators are told of the cluster, from `softstore_sharding::assigner`. One way only: those who
//! ask read the wire's types.

use softstore_sharding::Life;
use softstore_sharding::assigner::{
    BalanceStatus, ChangeRecord, ClusterStatus, Departure, ForeignStatus, HeldBack, HotKeyStatus,
    MOVES_PER_CHANGE_MAX, MoveRecord, NameWaitStatus, NodeStatus, PlanReport,
};
use softstore_sharding::sharder::PlacedMove;

use crate::assignment::founding_to_wire;
use crate::identity::name_to_wire;
use crate::load::totals;
use crate::v1;

impl From<&ClusterStatus> for v1::ClusterStatus {
    fn from(status: &ClusterStatus) -> Self {
        Self {
            generation: Some(status.generation.into()),
            nodes: status.nodes.iter().map(Into::into).collect(),
            settled: status.settled,
            waiting_to_fill: status.waiting_to_fill,
            ranges_moving: status.ranges_moving,
            ranges_unreachable: status.ranges_unreachable,
            unsettled_because: status.unsettled_because.clone(),
            recovering: status.recovering,
            lease_ms: status.lease_ms.unwrap_or(0),
            hot_keys: status.hot_keys.iter().map(Into::into).collect(),
            balance: Some((&status.balance).into()),
            changes: Vec::new(),
            name_waits: status.name_waits.iter().map(Into::into).collect(),
            cluster: name_to_wire(&status.cluster),
            founding: founding_to_wire(status.cluster.founding),
            foundings_to_choose: (status.foundings_to_choose.iter())
                .map(|founding| founding_to_wire(Some(*founding)))
                .collect(),
            foreign: status.foreign.iter().map(Into::into).collect(),
            unidentified_nodes: status.unidentified_nodes,
            awaited: status.awaited.iter().map(awaited).collect(),
            // The Assigner's shell knows them.
            conditions: Vec::new(),
            departures: status.departures.iter().map(Into::into).collect(),
        }
    }
}

impl From<&ForeignStatus> for v1::ForeignCluster {
    fn from(foreign: &ForeignStatus) -> Self {
        Self {
            cluster: name_to_wire(&foreign.cluster),
            founding: founding_to_wire(foreign.cluster.founding),
            node: foreign.node.to_string(),
            address: foreign.address.as_ref().to_owned(),
            refused: foreign.refused,
            ago_ms: foreign.ago_ms,
        }
    }
}

impl From<&NameWaitStatus> for v1::NameWait {
    fn from(wait: &NameWaitStatus) -> Self {
        Self {
            node: wait.node.to_string(),
            address: wait.address.as_ref().to_owned(),
            holder: wait.holder.as_ref().to_owned(),
            waits_ms: wait.waits_ms,
            holder_silent_ms: wait.holder_silent_ms,
        }
    }
}

fn awaited((life, ranges): (&Life, &u32)) -> v1::Awaited {
    v1::Awaited {
        life: Some(life.into()),
        ranges: *ranges,
    }
}

impl From<&BalanceStatus> for v1::BalanceStatus {
    fn from(balance: &BalanceStatus) -> Self {
        use v1::balance_status::Hold;
        let (mut frozen_ms, mut silent_node) = (0, String::new());
        let hold = match &balance.held_back {
            None => Hold::Unspecified,
            Some(HeldBack::Frozen { left_ms }) => {
                // 0 would say that it does not end.
                frozen_ms = left_ms.map_or(0, |left_ms| left_ms.max(1));
                Hold::Frozen
            }
            Some(HeldBack::QuietHours) => Hold::QuietHours,
            Some(HeldBack::SharderOverdue) => Hold::SharderOverdue,
            Some(HeldBack::ChurnSpent) => Hold::ChurnSpent,
            Some(HeldBack::NoReport(node)) => {
                silent_node = node.to_string();
                Hold::NoReport
            }
            Some(HeldBack::LoadChanging) => Hold::LoadChanging,
            Some(HeldBack::Doubted(node)) => {
                silent_node = node.to_string();
                Hold::Doubted
            }
        };
        Self {
            sharder: balance.sharder.to_owned(),
            reacts_to_load: balance.reacts_to_load,
            hold: hold.into(),
            frozen_ms,
            silent_node,
            churn_left: balance.churn_left,
        }
    }
}

impl From<&Departure> for v1::Departure {
    fn from(departure: &Departure) -> Self {
        Self {
            life: Some((&departure.life).into()),
            drain: Some((&departure.drain).into()),
        }
    }
}

impl From<&ChangeRecord> for v1::Change {
    fn from(change: &ChangeRecord) -> Self {
        Self {
            generation: Some(change.generation.into()),
            unix_ms: change.unix_ms,
            cause: change.cause.as_str().to_owned(),
            moves: change.moves.iter().map(Into::into).collect(),
            moves_total: change.moves_total,
            predicted_bytes: change.predicted_bytes,
            pulled_bytes: change.pulled_bytes,
            pulled_entries: change.pulled_entries,
        }
    }
}

impl From<&MoveRecord> for v1::Move {
    fn from(record: &MoveRecord) -> Self {
        Self {
            end: record.end.map(|end| end.as_str().to_owned()).unwrap_or_default(),
            took_ms: record.took_ms,
            ..(&record.change).into()
        }
    }
}

impl From<&PlacedMove> for v1::Move {
    fn from(change: &PlacedMove) -> Self {
        let name = |node: &Option<softstore_sharding::NodeId>| {
            node.as_ref().map(ToString::to_string).unwrap_or_default()
        };
        Self {
            slice: Some(change.slice.into()),
            from: name(&change.from),
            to: name(&change.to),
            reason: change.reason.as_str().to_owned(),
            gain: change.gain,
            cost_bytes: change.cost_bytes,
            cost_misses: change.cost_misses,
            end: String::new(),
            took_ms: 0,
        }
    }
}

impl From<&PlanReport> for v1::PlanReply {
    fn from(plan: &PlanReport) -> Self {
        Self {
            sharder: plan.sharder.to_owned(),
            generation: Some(plan.generation.into()),
            moves: plan
                .moves
                .iter()
                .take(MOVES_PER_CHANGE_MAX)
                .map(Into::into)
                .collect(),
            moves_total: plan.moves.len() as u64,
            imbalance_before: plan.imbalance_before,
            imbalance_after: plan.imbalance_after,
            bytes: plan.bytes,
            moved_bytes: plan.moves.iter().map(|change| change.cost_bytes).sum(),
        }
    }
}

impl From<&HotKeyStatus> for v1::HotKeyStatus {
    fn from(hot: &HotKeyStatus) -> Self {
        Self {
            key: Some((&hot.load).into()),
            owner: Some((&hot.owner).into()),
            replicas: hot.replicas.iter().map(Into::into).collect(),
        }
    }
}

impl From<&NodeStatus> for v1::NodeStatus {
    fn from(node: &NodeStatus) -> Self {
        Self {
            life: Some((&node.life).into()),
            address: node.address.to_string(),
            http_address: node.http_address.to_string(),
            zone: node.zone.to_string(),
            state: v1::NodeState::from(node.state).into(),
            capacity_bytes: node.capacity_bytes,
            slices: node.slices,
            share: node.share,
            load: Some(totals(&node.load)),
            silent_ms: node.silent_ms,
            waiting_to_fill: node.waiting_to_fill,
            generation: Some(node.generation.into()),
            lease_ms: node.lease_ms.unwrap_or(0),
            doubt: node.doubt.clone(),
        }
    }
}
