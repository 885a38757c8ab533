//! `assigner.proto`: what a node and the Assigner say to each other, to and from `softstore_sharding::session`.

use std::sync::Arc;

use bytes::Bytes;
use softstore_sharding::session::{
    AssignerMessage, ClaimPhase, FORMER_LIVES_MAX, HandoffOutcome, HandoffReport, Hello, LEASE_MS_MAX,
    LastAnswer, NodeMessage, Offer, Offers, RangeClaim,
};
use softstore_sharding::{ClusterId, ProcessId, Slice};

use crate::assignment::{
    cluster_name, founding, founding_to_wire, generation, generation_or_none, life, peer, process_to_wire,
    slice, versions,
};
use crate::error::{WireError, each, required, text, within};
use crate::identity::name_to_wire;
use crate::limits::{
    ADDRESS_BYTES_MAX, PROVIDERS_MAX, RANGES_MAX, REASON_BYTES_MAX, RELAY_BYTES_MAX, ZONE_BYTES_MAX,
};
use crate::v1;
use crate::v1::offers as wire_offers;

impl From<&RangeClaim> for v1::RangeClaim {
    fn from(claim: &RangeClaim) -> Self {
        use v1::range_claim::Phase;
        let mut awaits = Vec::new();
        let (phase, other) = match &claim.phase {
            ClaimPhase::NotStarted => (Phase::NotStarted, None),
            ClaimPhase::Serving => (Phase::Serving, None),
            ClaimPhase::Pulling(giver) => (Phase::Pulling, Some(giver.into())),
            // Whoever does not know of it takes the hand-off for complete.
            ClaimPhase::Awaiting(awaited) => {
                awaits = awaited.iter().map(Into::into).collect();
                (Phase::Serving, None)
            }
            ClaimPhase::Fenced(taker) => (Phase::Fenced, Some(taker.into())),
        };
        Self {
            slice: Some(claim.slice.into()),
            since: Some(claim.since.into()),
            providers: claim.providers.iter().map(Into::into).collect(),
            phase: phase.into(),
            other,
            awaits,
        }
    }
}

impl TryFrom<v1::RangeClaim> for RangeClaim {
    type Error = WireError;

    fn try_from(wire: v1::RangeClaim) -> Result<Self, WireError> {
        use v1::range_claim::Phase;
        let phase =
            Phase::try_from(wire.phase).map_err(|error| WireError::bad("range_claim.phase", error))?;
        let phase = match phase {
            Phase::Unspecified => {
                return Err(WireError::Missing {
                    field: "range_claim.phase",
                });
            }
            Phase::NotStarted => ClaimPhase::NotStarted,
            Phase::Serving if wire.awaits.is_empty() => ClaimPhase::Serving,
            Phase::Serving => ClaimPhase::Awaiting(each("range_claim.awaits", wire.awaits, PROVIDERS_MAX)?),
            Phase::Pulling => ClaimPhase::Pulling(life("range_claim.other", wire.other)?),
            Phase::Fenced => ClaimPhase::Fenced(life("range_claim.other", wire.other)?),
        };
        Ok(Self {
            slice: slice("range_claim.slice", wire.slice)?,
            since: generation("range_claim.since", wire.since)?,
            providers: each("range_claim.providers", wire.providers, PROVIDERS_MAX)?,
            phase,
        })
    }
}

impl From<&Hello> for v1::Hello {
    fn from(hello: &Hello) -> Self {
        Self {
            peer: Some((&hello.peer).into()),
            http_address: hello.http_address.as_ref().to_owned(),
            zone: hello.zone.as_ref().to_owned(),
            capacity_bytes: hello.capacity_bytes,
            draining: hello.draining,
            generation: Some(hello.generation.into()),
            claims: hello.claims.iter().map(Into::into).collect(),
            versions: Some(hello.versions.into()),
            lease_ms: hello.lease_ms.unwrap_or(0),
            process: process_to_wire(hello.process),
            cluster: name_to_wire(&hello.cluster),
            founding: founding_to_wire(hello.cluster.founding),
            offers: hello.offers.as_ref().map(Into::into),
        }
    }
}

impl From<&Offers> for v1::Offers {
    fn from(offers: &Offers) -> Self {
        Self {
            former: offers.former.iter().map(Into::into).collect(),
            last_answer: offers.last_answer.map(|last| wire_offers::LastAnswer {
                sequence: last.sequence,
                ms_ago: last.ms_ago,
            }),
            ranges: offers.ranges.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<v1::Offers> for Offers {
    type Error = WireError;

    fn try_from(wire: v1::Offers) -> Result<Self, WireError> {
        Ok(Self {
            former: each("offers.former", wire.former, FORMER_LIVES_MAX)?,
            last_answer: wire.last_answer.map(|last| LastAnswer {
                sequence: last.sequence,
                ms_ago: last.ms_ago,
            }),
            ranges: each("offers.ranges", wire.ranges, RANGES_MAX)?,
        })
    }
}

impl From<&Offer> for wire_offers::Offer {
    fn from(offer: &Offer) -> Self {
        let taker = offer.taker.as_ref();
        Self {
            slice: Some(offer.slice.into()),
            since: Some(offer.since.into()),
            taker: taker.map(|(taker, _)| taker.into()),
            taken: taker.map(|(_, since)| (*since).into()),
        }
    }
}

impl TryFrom<wire_offers::Offer> for Offer {
    type Error = WireError;

    fn try_from(wire: wire_offers::Offer) -> Result<Self, WireError> {
        let taker = match (wire.taker, wire.taken) {
            (None, None) => None,
            (taker, taken) => Some((life("offer.taker", taker)?, generation("offer.taken", taken)?)),
        };
        Ok(Self {
            slice: slice("offer.slice", wire.slice)?,
            since: generation("offer.since", wire.since)?,
            taker,
        })
    }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = WireError;

    fn try_from(wire: v1::Hello) -> Result<Self, WireError> {
        Ok(Self {
            peer: peer("hello.peer", wire.peer)?,
            http_address: text("hello.http_address", wire.http_address, ADDRESS_BYTES_MAX)?,
            zone: text("hello.zone", wire.zone, ZONE_BYTES_MAX)?,
            capacity_bytes: wire.capacity_bytes,
            draining: wire.draining,
            generation: generation_or_none(wire.generation)?,
            claims: each("hello.claims", wire.claims, RANGES_MAX)?,
            versions: versions("hello.versions", wire.versions)?,
            lease_ms: lease("hello.lease_ms", wire.lease_ms)?,
            process: ProcessId::new(wire.process),
            cluster: ClusterId {
                name: cluster_name("hello.cluster", &wire.cluster)?,
                founding: founding("hello.founding", &wire.founding)?,
            },
            offers: wire.offers.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<&HandoffReport> for v1::HandoffReport {
    fn from(report: &HandoffReport) -> Self {
        use v1::handoff_report::Outcome;
        let outcome = match report.outcome {
            HandoffOutcome::Started => Outcome::Started,
            HandoffOutcome::Awaiting => Outcome::Awaiting,
            HandoffOutcome::Completed => Outcome::Completed,
            HandoffOutcome::GaveUp => Outcome::GaveUp,
        };
        Self {
            slice: Some(report.slice.into()),
            since: Some(report.since.into()),
            outcome: outcome.into(),
        }
    }
}

impl TryFrom<v1::HandoffReport> for HandoffReport {
    type Error = WireError;

    fn try_from(wire: v1::HandoffReport) -> Result<Self, WireError> {
        use v1::handoff_report::Outcome;
        const FIELD: &str = "handoff_report.outcome";
        let outcome = match Outcome::try_from(wire.outcome) {
            Ok(Outcome::Started) => HandoffOutcome::Started,
            Ok(Outcome::Awaiting) => HandoffOutcome::Awaiting,
            Ok(Outcome::Completed) => HandoffOutcome::Completed,
            Ok(Outcome::GaveUp) => HandoffOutcome::GaveUp,
            Ok(Outcome::Unspecified) => return Err(WireError::Missing { field: FIELD }),
            Err(error) => return Err(WireError::bad(FIELD, error)),
        };
        let slice: Slice = slice("handoff_report.slice", wire.slice)?;
        Ok(Self {
            slice,
            since: generation("handoff_report.since", wire.since)?,
            outcome,
        })
    }
}

impl From<&NodeMessage> for v1::NodeMessage {
    fn from(message: &NodeMessage) -> Self {
        use v1::node_message as wire;
        use wire::Message;
        let message = match message {
            NodeMessage::Hello(hello) => Message::Hello(hello.into()),
            NodeMessage::Heartbeat {
                sequence,
                generation,
                load,
                lease_ms,
            } => Message::Heartbeat(v1::Heartbeat {
                sequence: *sequence,
                generation: Some((*generation).into()),
                load: Some(load.into()),
                lease_ms: lease_ms.unwrap_or(0),
            }),
            NodeMessage::NeedFull => Message::NeedFull(wire::NeedFull {}),
            NodeMessage::Draining => Message::Draining(wire::Draining {}),
            NodeMessage::Goodbye => Message::Goodbye(wire::Goodbye {}),
            NodeMessage::Handoffs(reports) => Message::Handoffs(wire::Handoffs {
                reports: reports.iter().map(Into::into).collect(),
            }),
            NodeMessage::HeldAssignment(held) => Message::HeldAssignment(wire::HeldAssignment {
                assignment: held.as_deref().map(Into::into),
            }),
            NodeMessage::Relay { to, payload } => Message::Relay(wire::RelayTo {
                to: Some(to.into()),
                payload: payload.clone().into(),
            }),
        };
        Self {
            message: Some(message),
        }
    }
}

impl TryFrom<v1::NodeMessage> for NodeMessage {
    type Error = WireError;

    fn try_from(wire: v1::NodeMessage) -> Result<Self, WireError> {
        use v1::node_message::Message;
        Ok(match required("node_message.message", wire.message)? {
            Message::Hello(hello) => Self::Hello(hello.try_into()?),
            Message::Heartbeat(heartbeat) => Self::Heartbeat {
                sequence: heartbeat.sequence,
                generation: generation_or_none(heartbeat.generation)?,
                load: required("heartbeat.load", heartbeat.load)?.try_into()?,
                lease_ms: lease("heartbeat.lease_ms", heartbeat.lease_ms)?,
            },
            Message::NeedFull(_) => Self::NeedFull,
            Message::Draining(_) => Self::Draining,
            Message::Goodbye(_) => Self::Goodbye,
            Message::Handoffs(handoffs) => {
                Self::Handoffs(each("handoffs.reports", handoffs.reports, RANGES_MAX)?)
            }
            Message::HeldAssignment(held) => {
                let assignment = held.assignment.map(TryInto::try_into).transpose()?;
                Self::HeldAssignment(assignment.map(Arc::new))
            }
            Message::Relay(relay) => Self::Relay {
                to: life("relay.to", relay.to)?,
                payload: payload(&relay.payload)?,
            },
        })
    }
}

impl From<&AssignerMessage> for v1::AssignerMessage {
    fn from(message: &AssignerMessage) -> Self {
        use v1::assigner_message as wire;
        use wire::Message;
        let message = match message {
            AssignerMessage::Update(update) => Message::Update(update.into()),
            AssignerMessage::HeartbeatAnswer {
                sequence,
                generation,
                lease_ms,
            } => Message::HeartbeatAnswer(wire::HeartbeatAnswer {
                sequence: *sequence,
                generation: Some((*generation).into()),
                lease_ms: lease_ms.unwrap_or(0),
            }),
            AssignerMessage::YouAreDead => Message::YouAreDead(wire::YouAreDead {}),
            AssignerMessage::OffersHeard { behind_ms } => Message::OffersHeard(wire::OffersHeard {
                behind_ms: *behind_ms,
            }),
            AssignerMessage::FetchAssignment => Message::FetchAssignment(wire::FetchAssignment {}),
            AssignerMessage::Drain => Message::Drain(wire::DrainOrder {}),
            AssignerMessage::NoTaker => Message::NoTaker(wire::NoTaker {}),
            AssignerMessage::Relay { from, payload } => Message::Relay(wire::RelayFrom {
                from: Some(from.into()),
                payload: payload.clone().into(),
            }),
            AssignerMessage::NameTaken { holder } => Message::NameTaken(wire::NameTaken {
                holder: holder.as_ref().to_owned(),
            }),
            AssignerMessage::OtherCluster { cluster } => Message::OtherCluster(wire::OtherCluster {
                cluster: name_to_wire(cluster),
                founding: founding_to_wire(cluster.founding),
            }),
            AssignerMessage::Refused { reason } => Message::Refused(wire::Refused {
                reason: reason.clone(),
            }),
        };
        Self {
            message: Some(message),
        }
    }
}

impl TryFrom<v1::AssignerMessage> for AssignerMessage {
    type Error = WireError;

    fn try_from(wire: v1::AssignerMessage) -> Result<Self, WireError> {
        use v1::assigner_message::Message;
        Ok(match required("assigner_message.message", wire.message)? {
            Message::Update(update) => Self::Update(update.try_into()?),
            Message::HeartbeatAnswer(answer) => Self::HeartbeatAnswer {
                sequence: answer.sequence,
                generation: generation_or_none(answer.generation)?,
                lease_ms: lease("heartbeat_answer.lease_ms", answer.lease_ms)?,
            },
            Message::YouAreDead(_) => Self::YouAreDead,
            Message::OffersHeard(heard) => Self::OffersHeard {
                behind_ms: heard.behind_ms,
            },
            Message::FetchAssignment(_) => Self::FetchAssignment,
            Message::Drain(_) => Self::Drain,
            Message::NoTaker(_) => Self::NoTaker,
            Message::Relay(relay) => Self::Relay {
                from: life("relay.from", relay.from)?,
                payload: payload(&relay.payload)?,
            },
            Message::NameTaken(taken) => Self::NameTaken {
                holder: text("name_taken.holder", taken.holder, ADDRESS_BYTES_MAX)?,
            },
            Message::OtherCluster(other) => Self::OtherCluster {
                cluster: ClusterId {
                    name: cluster_name("other_cluster.cluster", &other.cluster)?,
                    founding: founding("other_cluster.founding", &other.founding)?,
                },
            },
            Message::Refused(refused) => Self::Refused {
                reason: text("refused.reason", refused.reason, REASON_BYTES_MAX)?,
            },
        })
    }
}

/// A lease's length; 0 is none.
pub(crate) fn lease(field: &'static str, wire_ms: u64) -> Result<Option<u64>, WireError> {
    if wire_ms > LEASE_MS_MAX {
        return Err(WireError::bad(field, wire_ms));
    }
    Ok((wire_ms > 0).then_some(wire_ms))
}

fn payload(wire: &Bytes) -> Result<Vec<u8>, WireError> {
    within("relay.payload", wire.len(), RELAY_BYTES_MAX)?;
    Ok(wire.to_vec())
}
