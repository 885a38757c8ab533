//! How many bytes the messages of a session are on the wire: the length of their protobuf encoding (`assigner.proto`,
//! `assignment.proto`), without gRPC's 5 bytes and what HTTP/2 and TCP put around them.
//!
//! This crate does not use the wire's own, so the lengths are computed here; `proto/tests/conversions/lengths.rs` compares them
//! with what is encoded, for arbitrary messages. The encoding: a field is its tag (1 byte, 2 for field numbers above 15)
//! and its value; fields that are 0 or empty are left out; messages, text and lists of them carry their length.

use softstore_sharding::session::{
    AssignerMessage, AssignmentUpdate, ClaimPhase, DrainReport, HandoffReport, Hello, HotKeyLoad, LoadReport,
    NodeMessage, Offer, Offers, RangeClaim, ServingReport, SliceLoad,
};
use softstore_sharding::{
    Assignment, AssignmentDiff, ClusterId, Founding, Generation, Life, NodeEntry, NodeId, ProcessId,
    Provider, RangeAssignment, Slice,
};

const TAG: u64 = 1;
/// What the tag of a field whose number is above 15 takes more.
const LONG_TAG_EXTRA: u64 = 1;
const FIXED: u64 = 8;

/// A number of variable length: 7 bits a byte.
fn varint(value: u64) -> u64 {
    u64::from((u64::BITS - (value | 1).leading_zeros()).div_ceil(7))
}

fn number(value: u64) -> u64 {
    if value == 0 { 0 } else { TAG + varint(value) }
}

fn flag(value: bool) -> u64 {
    if value { TAG + 1 } else { 0 }
}

fn fixed(value: u64) -> u64 {
    if value == 0 { 0 } else { TAG + FIXED }
}

fn double(value: f64) -> u64 {
    if value == 0.0 { 0 } else { TAG + FIXED }
}

fn text(length: usize) -> u64 {
    if length == 0 { 0 } else { message(length as u64) }
}

/// A field that is there, whatever is in it.
fn message(length: u64) -> u64 {
    TAG + varint(length) + length
}

fn each<T>(items: &[T], length: impl Fn(&T) -> u64) -> u64 {
    items.iter().map(|item| message(length(item))).sum()
}

fn slice(slice: &Slice) -> u64 {
    fixed(slice.low().get()) + fixed(slice.high_excluded().map_or(0, |high| high.get()))
}

fn generation(generation: Generation) -> u64 {
    number(generation.number) + fixed(generation.assigner.get())
}

fn life(life: &Life) -> u64 {
    text(life.node.as_str().len()) + fixed(life.incarnation.get())
}

fn provider(provider: &Provider) -> u64 {
    message(life(&provider.life)) + message(generation(provider.since))
}

fn range((of, range): &(Slice, RangeAssignment)) -> u64 {
    range_in(of, range)
}

fn range_in(of: &Slice, range: &RangeAssignment) -> u64 {
    message(slice(of))
        + message(life(&range.owner))
        + message(generation(range.since))
        + each(&range.providers, provider)
        + each(&range.readers.replicas, life)
        + flag(range.readers.leases_out)
        + each(&range.awaits, provider)
}

fn entry(id: &NodeId, entry: &NodeEntry) -> u64 {
    let of_life = text(id.as_str().len()) + fixed(entry.incarnation.get());
    // A state is one of three small numbers, none of them 0.
    message(of_life)
        + text(entry.address.len())
        + text(entry.http_address.len())
        + text(entry.zone.len())
        + TAG
        + 1
        + process(entry.process)
}

fn process(process: Option<ProcessId>) -> u64 {
    fixed(process.map_or(0, ProcessId::get))
}

/// 16 bytes, if it is said.
fn founding(founding: Option<Founding>) -> u64 {
    founding.map_or(0, |_| text(size_of::<Founding>()))
}

fn cluster(cluster: &ClusterId) -> u64 {
    let name = cluster.name.as_ref().map_or(0, |name| name.as_str().len());
    text(name) + founding(cluster.founding)
}

/// A whole assignment.
#[must_use]
pub fn assignment_bytes(assignment: &Assignment) -> u64 {
    let ranges = assignment.ranges().iter();
    let ranges: u64 = ranges.map(|(of, range)| message(range_in(&of, range))).sum();
    let directory = assignment.directory().iter();
    let directory: u64 = directory.map(|(id, node)| message(entry(id, node))).sum();
    let terms = number(assignment.lease_ms().unwrap_or(0)) + number(assignment.revival_ms());
    message(generation(assignment.generation()))
        + ranges
        + directory
        + terms
        + founding(assignment.founding())
}

/// What changed.
#[must_use]
pub fn diff_bytes(diff: &AssignmentDiff) -> u64 {
    message(generation(diff.base))
        + message(generation(diff.next))
        + each(&diff.ranges, range)
        + each(&diff.joined, |(id, node)| entry(id, node))
        + diff
            .left
            .iter()
            .map(|id| message(id.as_str().len() as u64))
            .sum::<u64>()
        + number(diff.lease_ms.unwrap_or(0))
        + founding(diff.founding)
        + number(diff.revival_ms)
}

fn update(update: &AssignmentUpdate) -> u64 {
    message(match update {
        AssignmentUpdate::Full(full) => assignment_bytes(full),
        AssignmentUpdate::Diff(diff) => diff_bytes(diff),
    })
}

/// A message of the Assigner's.
#[must_use]
pub fn assigner_message_bytes(said: &AssignerMessage) -> u64 {
    message(match said {
        AssignerMessage::Update(new) => update(new),
        AssignerMessage::HeartbeatAnswer {
            sequence,
            generation: published,
            lease_ms,
        } => number(*sequence) + message(generation(*published)) + number(lease_ms.unwrap_or(0)),
        AssignerMessage::YouAreDead
        | AssignerMessage::FetchAssignment
        | AssignerMessage::Drain
        | AssignerMessage::NoTaker => 0,
        AssignerMessage::Relay { from, payload } => message(life(from)) + text(payload.len()),
        AssignerMessage::NameTaken { holder } => text(holder.len()),
        AssignerMessage::OtherCluster { cluster: theirs } => cluster(theirs),
        AssignerMessage::Refused { reason } => text(reason.len()),
        // A number that is there is written, even if it is 0.
        AssignerMessage::OffersHeard { behind_ms } => {
            behind_ms.map_or(0, |behind_ms| number(behind_ms.max(1)))
        }
    })
}

fn claim(claim: &RangeClaim) -> u64 {
    let other = match &claim.phase {
        ClaimPhase::NotStarted | ClaimPhase::Serving => 0,
        ClaimPhase::Awaiting(awaits) => each(awaits, provider),
        ClaimPhase::Pulling(other) | ClaimPhase::Fenced(other) => message(life(other)),
    };
    message(slice(&claim.slice))
        + message(generation(claim.since))
        + each(&claim.providers, provider)
        + TAG
        + 1
        + other
}

fn hello(hello: &Hello) -> u64 {
    let peer = message(life(&hello.peer.life)) + text(hello.peer.address.len());
    let versions = number(hello.versions.min.into()) + number(hello.versions.max.into());
    message(peer)
        + text(hello.http_address.len())
        + text(hello.zone.len())
        + number(hello.capacity_bytes)
        + flag(hello.draining)
        + message(generation(hello.generation))
        + each(&hello.claims, claim)
        + message(versions)
        + number(hello.lease_ms.unwrap_or(0))
        + process(hello.process)
        + cluster(&hello.cluster)
        + hello
            .offers
            .as_ref()
            .map_or(0, |offered| message(offers(offered)))
}

fn offers(offers: &Offers) -> u64 {
    let last = offers
        .last_answer
        .map_or(0, |last| message(number(last.sequence) + number(last.ms_ago)));
    each(&offers.former, life) + last + each(&offers.ranges, offer)
}

fn offer(offer: &Offer) -> u64 {
    let taker = offer.taker.as_ref();
    let taker = taker.map_or(0, |(taker, since)| {
        message(life(taker)) + message(generation(*since))
    });
    message(slice(&offer.slice)) + message(generation(offer.since)) + taker
}

fn slice_load(load: &SliceLoad) -> u64 {
    message(slice(&load.slice))
        + double(load.operations_per_second)
        + number(load.bytes)
        + double(load.bytes_per_second)
        + double(load.hits_per_second)
        + double(load.cpu_us_per_second)
}

fn hot_key(key: &HotKeyLoad) -> u64 {
    fixed(key.at.get())
        + double(key.operations_per_second)
        + double(key.error_per_second)
        + text(key.key.len())
        + number(key.key_bytes.into())
}

fn load(load: &LoadReport) -> u64 {
    let counts = [
        load.entries,
        load.bytes,
        load.gets,
        load.hits,
        load.ranges_taking,
        load.ranges_giving,
        load.entries_imported,
        load.bytes_imported,
        load.busy_percent.into(),
    ];
    let rates = [
        load.operations_per_second,
        load.bytes_per_second,
        load.cpu_us_per_second,
    ];
    counts.into_iter().map(number).sum::<u64>()
        + rates.into_iter().map(double).sum::<u64>()
        + each(&load.slices, slice_load)
        + each(&load.hot_keys, hot_key)
        + each(&load.conditions, |line| line.len() as u64)
        + load
            .serving
            .as_ref()
            .map_or(0, |told| LONG_TAG_EXTRA + message(serving(told)))
        + load
            .drain
            .as_ref()
            .map_or(0, |told| LONG_TAG_EXTRA + message(drain(told)))
}

fn serving(told: &ServingReport) -> u64 {
    let first = told
        .first
        .map_or(0, |(first, _)| message(slice(&first)) + TAG + 1);
    number(told.unserved) + first
}

fn drain(told: &DrainReport) -> u64 {
    number(told.entries_held) + number(told.entries_given) + number(told.bytes_given)
}

fn handoff(report: &HandoffReport) -> u64 {
    message(slice(&report.slice)) + message(generation(report.since)) + TAG + 1
}

/// A message of a node's.
#[must_use]
pub fn node_message_bytes(said: &NodeMessage) -> u64 {
    message(match said {
        NodeMessage::Hello(new) => hello(new),
        NodeMessage::Heartbeat {
            sequence,
            generation: held,
            load: report,
            lease_ms,
        } => {
            number(*sequence)
                + message(generation(*held))
                + message(load(report))
                + number(lease_ms.unwrap_or(0))
        }
        NodeMessage::NeedFull | NodeMessage::Draining | NodeMessage::Goodbye => 0,
        NodeMessage::Handoffs(reports) => each(reports, handoff),
        NodeMessage::HeldAssignment(held) => held.as_ref().map_or(0, |held| message(assignment_bytes(held))),
        NodeMessage::Relay { to, payload } => message(life(to)) + text(payload.len()),
    })
}
