//! The phases of a hand-off as log events: one target, fixed texts, so that an operator can follow a hand-off over the logs
//! of giver, taker and Assigner, and a test can wait for a phase instead of sleeping.
//!
//! What stands once per hand-off is logged at `info`, with the number of its ranges; single messages and steps at `debug`, what
//! comes once per range or chunk at `trace`. `docs/operations.md` (*Following one hand-off*) lists texts and fields: change both together.
//!
//! Not here: the cores' decisions, and the counters that go with them.

use softstore_sharding::assigner::{DeathCause, Notice as AssignerNotice};
use softstore_sharding::{Assignment, Generation, Life, Slice};
use softstore_transfer::handoff::{ColdReason, CopyEnd, Notice, PullEnd};
use softstore_transfer::message::Take;
use tracing::{debug, info, trace, warn};

/// The target of all events here, for `--log`: `warn,softstore_server::handoff=debug`.
pub const TARGET: &str = "softstore_server::handoff";

/// The Assigner published an assignment.
pub(crate) fn published(assignment: &Assignment) {
    let ranges = assignment.ranges().len();
    info!(target: TARGET, generation = %assignment.generation(), ranges, "published an assignment");
}

/// What the Assigner's core has to tell of one life's end.
pub(crate) fn died(notice: &AssignerNotice) {
    match notice {
        AssignerNotice::Died {
            cause: DeathCause::Goodbye,
            ..
        } => info!(target: TARGET, ?notice, "a node has left"),
        _ => warn!(target: TARGET, ?notice, "declared a node dead"),
    }
}

/// The taker asks a provider for ranges.
pub(crate) fn asked(take: &Take, relay: bool) {
    let ranges = take.ranges.len();
    debug!(target: TARGET, to = %take.to, ranges, relay, "asked for ranges");
}

/// The taker opens a pull's stream, or opens it again.
pub(crate) fn pull_opened(giver: &Life, resumed: bool) {
    debug!(target: TARGET, %giver, resumed, "opening a pull");
}

/// The taker imported a chunk; `number` counts within the stream, from 1.
pub(crate) fn chunk_imported(giver: &Life, number: u64) {
    if number == 1 {
        debug!(target: TARGET, %giver, "the first chunk of a pull is in");
    } else {
        trace!(target: TARGET, %giver, number, "a chunk of a pull is in");
    }
}

/// The giver begins to send what it froze for a taker.
pub(crate) fn giving(taker: &Life, ranges: usize) {
    debug!(target: TARGET, %taker, ranges, "giving what was fenced");
}

/// The giver has handed the last of it to the connection.
pub(crate) fn given(taker: &Life) {
    debug!(target: TARGET, %taker, "all that was fenced is sent");
}

/// What one step of a node's core has to tell: one line for each thing that happened to ranges, with whom and why, however many
/// ranges it happened to. Each range by itself is told at `trace`.
pub(crate) fn handoff(notices: &[Notice]) {
    let mut told: Vec<(Told<'_>, Ranges)> = Vec::new();
    for notice in notices {
        let Some((what, slice, since)) = Told::of(notice) else {
            pull_ended(notice);
            continue;
        };
        trace!(target: TARGET, %slice, ?notice, "a range");
        // With whom and why: a few, whatever the number of ranges.
        match told.iter_mut().find(|(known, _)| *known == what) {
            Some((_, ranges)) => ranges.add(since),
            None => told.push((what, Ranges::first(slice, since))),
        }
    }
    for (what, ranges) in told {
        what.log(&ranges);
    }
}

fn pull_ended(notice: &Notice) {
    match notice {
        Notice::PullEnded {
            giver,
            end: PullEnd::Complete,
            ..
        } => info!(target: TARGET, %giver, "a pull is complete"),
        Notice::PullEnded { giver, end, .. } => {
            warn!(target: TARGET, %giver, ?end, "a pull was given up");
        }
        Notice::NotBack { life, end } => {
            info!(target: TARGET, %life, ?end, "what a silent node held is awaited no longer");
        }
        _ => {}
    }
}

/// How many ranges something happened to, the first of them, and the newest acquisition among theirs.
struct Ranges {
    count: usize,
    first: Slice,
    since: Generation,
}

impl Ranges {
    fn first(slice: Slice, since: Generation) -> Self {
        Self {
            count: 1,
            first: slice,
            since,
        }
    }

    fn add(&mut self, since: Generation) {
        self.count += 1;
        self.since = self.since.max(since);
    }
}

/// What happened to ranges, with whom and why.
#[derive(PartialEq)]
enum Told<'a> {
    StartedCold(ColdReason),
    Fenced(&'a Life),
    Took(&'a Life),
    Awaiting(&'a Life),
    CameBack(&'a Life),
    Offered,
    Released,
    CopyDropped(CopyEnd),
    Renewed,
    Dropped,
}

impl<'a> Told<'a> {
    /// What a notice tells of a range, which, and under which acquisition. `None`: it tells of a pull.
    fn of(notice: &'a Notice) -> Option<(Self, Slice, Generation)> {
        Some(match notice {
            Notice::StartedCold { slice, since, reason } => (Self::StartedCold(*reason), *slice, *since),
            Notice::Fenced { slice, taker, since } => (Self::Fenced(taker), *slice, *since),
            Notice::Took { slice, giver, since } => (Self::Took(giver), *slice, *since),
            Notice::Awaiting { slice, since, life } => (Self::Awaiting(life), *slice, *since),
            Notice::CameBack { slice, giver, since } => (Self::CameBack(giver), *slice, *since),
            Notice::Offered { slice, since } => (Self::Offered, *slice, *since),
            Notice::CopyDropped {
                slice,
                reason: CopyEnd::Released,
            } => (Self::Released, *slice, Generation::NONE),
            Notice::CopyDropped { slice, reason } => (Self::CopyDropped(*reason), *slice, Generation::NONE),
            Notice::Renewed { slice, since } => (Self::Renewed, *slice, *since),
            Notice::Dropped { slice } => (Self::Dropped, *slice, Generation::NONE),
            Notice::PullEnded { .. } | Notice::NotBack { .. } => return None,
        })
    }

    fn log(&self, of: &Ranges) {
        let Ranges {
            count: ranges,
            first,
            since,
        } = of;
        match self {
            Self::StartedCold(reason) => {
                info!(target: TARGET, ranges, %first, %since, ?reason, "took ranges over cold");
            }
            Self::Fenced(taker) => info!(target: TARGET, ranges, %first, %taker, %since, "fenced ranges"),
            Self::Took(giver) => info!(target: TARGET, ranges, %first, %giver, %since, "took ranges over"),
            Self::Awaiting(life) => {
                info!(target: TARGET, ranges, %first, %life, %since, "what a silent node held may come back");
            }
            Self::CameBack(giver) => {
                info!(target: TARGET, ranges, %first, %giver, %since, "what a node held is back");
            }
            Self::Offered => {
                info!(target: TARGET, ranges, %first, %since, "froze what the life before held, and offer it");
            }
            Self::Released => debug!(target: TARGET, ranges, %first, "frozen copies were released"),
            Self::CopyDropped(reason) => {
                debug!(target: TARGET, ranges, %first, ?reason, "dropped frozen copies");
            }
            Self::Renewed => {
                debug!(target: TARGET, ranges, %first, %since, "kept ranges under a new acquisition");
            }
            Self::Dropped => {
                info!(target: TARGET, ranges, %first, "dropped ranges that are assigned elsewhere");
            }
        }
    }
}

/// A node begins to hand over all it owns.
pub(crate) fn draining() {
    info!(target: TARGET, "draining");
}

/// Its drain is over.
pub(crate) fn drain_ended(outcome: impl std::fmt::Debug) {
    info!(target: TARGET, ?outcome, "the drain has ended");
}
