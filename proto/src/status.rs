//! `assigner.proto`: what operators are told of the cluster, from `softstore_sharding::assigner`. One way only: those who
//! ask read the wire's types.

use softstore_sharding::assigner::{ClusterStatus, HotKeyStatus, NodeStatus};

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
        }
    }
}

impl From<&HotKeyStatus> for v1::HotKeyStatus {
    fn from(hot: &HotKeyStatus) -> Self {
        Self {
            key: Some((&hot.load).into()),
            owner: Some((&hot.owner).into()),
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
        }
    }
}
