//! `assignment.proto`: generations, slices, lives, assignments and their diffs, to and from `softstore_sharding`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use softstore_sharding::generation::GENERATION_NUMBER_MAX;
use softstore_sharding::session::{AssignmentUpdate, VersionRange};
use softstore_sharding::{
    Assignment, AssignmentDiff, ClusterName, Founding, Generation, Incarnation, Life, NodeEntry, NodeId,
    NodeState, Peer, ProcessId, Provider, REVIVAL_MS_MAX, RangeAssignment, Readers, Slice, SliceKey,
};

use crate::error::{WireError, each, required, text, within};
use crate::limits::{ADDRESS_BYTES_MAX, NODES_MAX, PROVIDERS_MAX, RANGES_MAX, REPLICAS_MAX, ZONE_BYTES_MAX};
use crate::session::lease;
use crate::v1;

impl From<Generation> for v1::Generation {
    fn from(generation: Generation) -> Self {
        Self {
            number: generation.number,
            assigner: generation.assigner.get(),
        }
    }
}

impl TryFrom<v1::Generation> for Generation {
    type Error = WireError;

    fn try_from(wire: v1::Generation) -> Result<Self, WireError> {
        if wire.number > GENERATION_NUMBER_MAX {
            return Err(WireError::bad("generation.number", "above the highest number"));
        }
        Ok(Self {
            number: wire.number,
            assigner: Incarnation::new(wire.assigner),
        })
    }
}

/// A generation that may be left out: [`Generation::NONE`] then.
///
/// # Errors
/// If it is there and its number is out of range.
pub fn generation_or_none(wire: Option<v1::Generation>) -> Result<Generation, WireError> {
    wire.map_or(Ok(Generation::NONE), Generation::try_from)
}

pub(crate) fn generation(field: &'static str, wire: Option<v1::Generation>) -> Result<Generation, WireError> {
    required(field, wire)?.try_into()
}

impl From<Slice> for v1::Slice {
    fn from(slice: Slice) -> Self {
        Self {
            low: slice.low().get(),
            high: slice.high_excluded().map_or(0, SliceKey::get),
        }
    }
}

impl TryFrom<v1::Slice> for Slice {
    type Error = WireError;

    fn try_from(wire: v1::Slice) -> Result<Self, WireError> {
        let high = (wire.high != 0).then(|| SliceKey::new(wire.high));
        Self::new(SliceKey::new(wire.low), high)
            .ok_or_else(|| WireError::bad("slice", "it ends before it begins"))
    }
}

pub(crate) fn slice(field: &'static str, wire: Option<v1::Slice>) -> Result<Slice, WireError> {
    required(field, wire)?.try_into()
}

/// A node's name.
pub(crate) fn node_id(field: &'static str, wire: &str) -> Result<NodeId, WireError> {
    NodeId::new(wire).map_err(|error| WireError::bad(field, error))
}

/// An incarnation that was drawn: not 0.
fn incarnation(field: &'static str, wire: u64) -> Result<Incarnation, WireError> {
    if wire == 0 {
        return Err(WireError::bad(field, "0 stands for no incarnation"));
    }
    Ok(Incarnation::new(wire))
}

/// A process; 0 is none.
pub(crate) fn process_to_wire(process: Option<ProcessId>) -> u64 {
    process.map_or(0, ProcessId::get)
}

/// A founding: 16 bytes, or none.
pub(crate) fn founding_to_wire(founding: Option<Founding>) -> Bytes {
    founding.map_or_else(Bytes::new, |founding| {
        Bytes::copy_from_slice(&founding.get().to_be_bytes())
    })
}

/// A founding that may be left out.
pub(crate) fn founding(field: &'static str, wire: &[u8]) -> Result<Option<Founding>, WireError> {
    if wire.is_empty() {
        return Ok(None);
    }
    let bits = wire
        .try_into()
        .map_err(|_| WireError::bad(field, "a founding has 16 bytes"))?;
    let founding = Founding::new(u128::from_be_bytes(bits));
    founding
        .map(Some)
        .ok_or_else(|| WireError::bad(field, "a founding is not 0"))
}

/// A cluster's name that may be left out.
pub(crate) fn cluster_name(field: &'static str, wire: &str) -> Result<Option<ClusterName>, WireError> {
    if wire.is_empty() {
        return Ok(None);
    }
    let name = ClusterName::new(wire).map_err(|error| WireError::bad(field, error))?;
    Ok(Some(name))
}

impl From<&Life> for v1::Life {
    fn from(life: &Life) -> Self {
        Self {
            node: life.node.as_str().to_owned(),
            incarnation: life.incarnation.get(),
        }
    }
}

impl TryFrom<v1::Life> for Life {
    type Error = WireError;

    fn try_from(wire: v1::Life) -> Result<Self, WireError> {
        Ok(Self {
            node: node_id("life.node", &wire.node)?,
            incarnation: incarnation("life.incarnation", wire.incarnation)?,
        })
    }
}

pub(crate) fn life(field: &'static str, wire: Option<v1::Life>) -> Result<Life, WireError> {
    required(field, wire)?.try_into()
}

impl From<&Peer> for v1::Peer {
    fn from(peer: &Peer) -> Self {
        Self {
            life: Some((&peer.life).into()),
            address: peer.address.as_ref().to_owned(),
        }
    }
}

impl TryFrom<v1::Peer> for Peer {
    type Error = WireError;

    fn try_from(wire: v1::Peer) -> Result<Self, WireError> {
        Ok(Self {
            life: life("peer.life", wire.life)?,
            address: text("peer.address", wire.address, ADDRESS_BYTES_MAX)?,
        })
    }
}

pub(crate) fn peer(field: &'static str, wire: Option<v1::Peer>) -> Result<Peer, WireError> {
    required(field, wire)?.try_into()
}

impl From<&Provider> for v1::Provider {
    fn from(provider: &Provider) -> Self {
        Self {
            life: Some((&provider.life).into()),
            since: Some(provider.since.into()),
        }
    }
}

impl TryFrom<v1::Provider> for Provider {
    type Error = WireError;

    fn try_from(wire: v1::Provider) -> Result<Self, WireError> {
        Ok(Self {
            life: life("provider.life", wire.life)?,
            since: generation("provider.since", wire.since)?,
        })
    }
}

pub(crate) fn range_to_wire(slice: Slice, range: &RangeAssignment) -> v1::RangeAssignment {
    v1::RangeAssignment {
        slice: Some(slice.into()),
        owner: Some((&range.owner).into()),
        since: Some(range.since.into()),
        providers: range.providers.iter().map(Into::into).collect(),
        replicas: range.readers.replicas.iter().map(Into::into).collect(),
        read_leases_out: range.readers.leases_out,
        awaits: range.awaits.iter().map(Into::into).collect(),
    }
}

fn range_from_wire(wire: v1::RangeAssignment) -> Result<(Slice, RangeAssignment), WireError> {
    let slice = slice("range.slice", wire.slice)?;
    within("range.replicas", wire.replicas.len(), REPLICAS_MAX)?;
    let replicas = wire
        .replicas
        .into_iter()
        .map(|replica| life("range.replicas", Some(replica)));
    let readers = Readers {
        replicas: replicas.collect::<Result<_, _>>()?,
        leases_out: wire.read_leases_out,
    };
    let range = RangeAssignment {
        owner: life("range.owner", wire.owner)?,
        since: generation("range.since", wire.since)?,
        providers: each("range.providers", wire.providers, PROVIDERS_MAX)?,
        readers,
        awaits: each("range.awaits", wire.awaits, PROVIDERS_MAX)?,
    };
    Ok((slice, range))
}

fn ranges_from_wire(
    field: &'static str,
    wire: Vec<v1::RangeAssignment>,
) -> Result<Vec<(Slice, RangeAssignment)>, WireError> {
    within(field, wire.len(), RANGES_MAX)?;
    wire.into_iter().map(range_from_wire).collect()
}

impl From<NodeState> for v1::NodeState {
    fn from(state: NodeState) -> Self {
        match state {
            NodeState::Joining => Self::Joining,
            NodeState::Serving => Self::Serving,
            NodeState::Draining => Self::Draining,
        }
    }
}

impl TryFrom<v1::NodeState> for NodeState {
    type Error = WireError;

    fn try_from(wire: v1::NodeState) -> Result<Self, WireError> {
        match wire {
            v1::NodeState::Joining => Ok(Self::Joining),
            v1::NodeState::Serving => Ok(Self::Serving),
            v1::NodeState::Draining => Ok(Self::Draining),
            v1::NodeState::Unspecified => Err(WireError::Missing {
                field: "node_entry.state",
            }),
        }
    }
}

fn entry_to_wire(id: &NodeId, entry: &NodeEntry) -> v1::NodeEntry {
    v1::NodeEntry {
        life: Some(v1::Life {
            node: id.as_str().to_owned(),
            incarnation: entry.incarnation.get(),
        }),
        process: process_to_wire(entry.process),
        address: entry.address.as_ref().to_owned(),
        http_address: entry.http_address.as_ref().to_owned(),
        zone: entry.zone.as_ref().to_owned(),
        state: v1::NodeState::from(entry.state).into(),
    }
}

fn entry_from_wire(wire: v1::NodeEntry) -> Result<(NodeId, NodeEntry), WireError> {
    let life = life("node_entry.life", wire.life)?;
    let state = v1::NodeState::try_from(wire.state)
        .map_err(|error| WireError::bad("node_entry.state", error))?
        .try_into()?;
    let entry = NodeEntry {
        incarnation: life.incarnation,
        process: ProcessId::new(wire.process),
        address: text("node_entry.address", wire.address, ADDRESS_BYTES_MAX)?,
        http_address: text("node_entry.http_address", wire.http_address, ADDRESS_BYTES_MAX)?,
        zone: text("node_entry.zone", wire.zone, ZONE_BYTES_MAX)?,
        state,
    };
    Ok((life.node, entry))
}

fn entries_from_wire(
    field: &'static str,
    wire: Vec<v1::NodeEntry>,
) -> Result<Vec<(NodeId, NodeEntry)>, WireError> {
    within(field, wire.len(), NODES_MAX)?;
    wire.into_iter().map(entry_from_wire).collect()
}

impl From<&Assignment> for v1::Assignment {
    fn from(assignment: &Assignment) -> Self {
        let ranges = assignment.ranges().iter();
        let directory = assignment.directory().iter();
        Self {
            generation: Some(assignment.generation().into()),
            ranges: ranges.map(|(slice, range)| range_to_wire(slice, range)).collect(),
            directory: directory.map(|(id, entry)| entry_to_wire(id, entry)).collect(),
            lease_ms: assignment.lease_ms().unwrap_or(0),
            founding: founding_to_wire(assignment.founding()),
            revival_ms: assignment.revival_ms(),
        }
    }
}

impl TryFrom<v1::Assignment> for Assignment {
    type Error = WireError;

    fn try_from(wire: v1::Assignment) -> Result<Self, WireError> {
        let generation = generation("assignment.generation", wire.generation)?;
        let ranges = ranges_from_wire("assignment.ranges", wire.ranges)?;
        let entries = entries_from_wire("assignment.directory", wire.directory)?;
        let listed = entries.len();
        let directory: BTreeMap<NodeId, NodeEntry> = entries.into_iter().collect();
        if directory.len() != listed {
            return Err(WireError::bad("assignment.directory", "a node is listed twice"));
        }
        let lease_ms = lease("assignment.lease_ms", wire.lease_ms)?;
        let founding = founding("assignment.founding", &wire.founding)?;
        let revival_ms = revival("assignment.revival_ms", wire.revival_ms)?;
        let assignment = Self::new(generation, ranges, directory)
            .map_err(|error| WireError::bad("assignment.ranges", error))?;
        let assignment = assignment.under_leases(lease_ms).with_revival_ms(revival_ms);
        Ok(assignment.of_founding(founding))
    }
}

fn revival(field: &'static str, wire_ms: u64) -> Result<u64, WireError> {
    if wire_ms > REVIVAL_MS_MAX {
        return Err(WireError::bad(field, wire_ms));
    }
    Ok(wire_ms)
}

impl From<&AssignmentDiff> for v1::AssignmentDiff {
    fn from(diff: &AssignmentDiff) -> Self {
        let ranges = diff.ranges.iter();
        let joined = diff.joined.iter();
        Self {
            base: Some(diff.base.into()),
            next: Some(diff.next.into()),
            ranges: ranges
                .map(|(slice, range)| range_to_wire(*slice, range))
                .collect(),
            joined: joined.map(|(id, entry)| entry_to_wire(id, entry)).collect(),
            left: diff.left.iter().map(|id| id.as_str().to_owned()).collect(),
            lease_ms: diff.lease_ms.unwrap_or(0),
            founding: founding_to_wire(diff.founding),
            revival_ms: diff.revival_ms,
        }
    }
}

impl TryFrom<v1::AssignmentDiff> for AssignmentDiff {
    type Error = WireError;

    fn try_from(wire: v1::AssignmentDiff) -> Result<Self, WireError> {
        let ranges = ranges_from_wire("diff.ranges", wire.ranges)?;
        if ranges.windows(2).any(|pair| pair[0].0.last() >= pair[1].0.low()) {
            return Err(WireError::bad(
                "diff.ranges",
                "ranges overlap or are out of order",
            ));
        }
        within("diff.left", wire.left.len(), NODES_MAX)?;
        let left = wire.left.iter().map(|id| node_id("diff.left", id));
        Ok(Self {
            base: generation("diff.base", wire.base)?,
            next: generation("diff.next", wire.next)?,
            ranges,
            joined: entries_from_wire("diff.joined", wire.joined)?,
            left: left.collect::<Result<_, _>>()?,
            lease_ms: lease("diff.lease_ms", wire.lease_ms)?,
            founding: founding("diff.founding", &wire.founding)?,
            revival_ms: revival("diff.revival_ms", wire.revival_ms)?,
        })
    }
}

impl From<&AssignmentUpdate> for v1::AssignmentUpdate {
    fn from(update: &AssignmentUpdate) -> Self {
        use v1::assignment_update::Update;
        let update = match update {
            AssignmentUpdate::Full(assignment) => Update::Full(assignment.as_ref().into()),
            AssignmentUpdate::Diff(diff) => Update::Diff(diff.as_ref().into()),
        };
        Self { update: Some(update) }
    }
}

impl TryFrom<v1::AssignmentUpdate> for AssignmentUpdate {
    type Error = WireError;

    fn try_from(wire: v1::AssignmentUpdate) -> Result<Self, WireError> {
        use v1::assignment_update::Update;
        Ok(match required("assignment_update.update", wire.update)? {
            Update::Full(full) => Self::Full(Arc::new(full.try_into()?)),
            Update::Diff(diff) => Self::Diff(Arc::new(diff.try_into()?)),
        })
    }
}

impl From<VersionRange> for v1::VersionRange {
    fn from(range: VersionRange) -> Self {
        Self {
            min: range.min,
            max: range.max,
        }
    }
}

impl TryFrom<v1::VersionRange> for VersionRange {
    type Error = WireError;

    fn try_from(wire: v1::VersionRange) -> Result<Self, WireError> {
        if wire.min > wire.max {
            return Err(WireError::bad(
                "version_range",
                "its oldest is newer than its newest",
            ));
        }
        Ok(Self {
            min: wire.min,
            max: wire.max,
        })
    }
}

pub(crate) fn versions(
    field: &'static str,
    wire: Option<v1::VersionRange>,
) -> Result<VersionRange, WireError> {
    required(field, wire)?.try_into()
}
