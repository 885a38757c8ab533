//! [`Trap`]: something that is done the next time that a hand-off reaches a certain phase, to one of its two nodes, to the
//! link between them, or to the Assigner. Faults at drawn moments seldom meet a hand-off, which is over in milliseconds;
//! these always do. Which phase and which deed are drawn from the seed; no trap knows of a bug.
//!
//! Some of the schedules that come of it:
//! - `Take`, with the answer held up and the taker drained: the range moves on to a third node, which asks the taker while
//!   that does not know yet whether the giver has fenced the range for it (`not-started-while-searching`).
//! - `Fenced`, with the taker killed before or just after it has heard: what the giver has frozen is nobody's.
//! - A granted lease, with the owner killed and back at once, and the replica cut off from the Assigner: the range starts cold
//!   while the replica still reads it (`cold-start-unwaited`).
//! - `Release` or the last chunk, with the giver killed or drained: the end of a hand-off is told to a new Assigner only.

use crate::faults;
use crate::message::{Endpoint, Message};
use crate::plan::Plan;
use crate::random::Random;
use softstore_transfer::message::Verdict;

/// How far a hand-off is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// An assignment that gives a range with a living provider to another node is published.
    Assigned,
    /// The taker asks.
    Take,
    /// A provider says that it fenced.
    Fenced,
    /// A provider says anything else.
    NotFenced,
    /// The taker opens the stream of a pull.
    Pull,
    /// A chunk that is not the last one.
    Chunk,
    /// The last chunk.
    LastChunk,
    /// The taker asks for a key.
    Peek,
    /// The giver has answered that.
    Peeked,
    /// The taker is done.
    Release,
    /// An assignment gives a range to a node that begins cold, and awaits what a silent one held. That stands for the giver.
    Awaited,
    /// An assignment names the next life of such a node as a provider.
    Revived,
    /// A replica asks its owner for leases. Here and in what follows the owner stands for the giver, the replica for the
    /// taker.
    AskLease,
    /// The owner grants some.
    Granted,
    /// The owner tells the replica to forget keys, or that its leases are over.
    Invalidate,
    /// The replica has done so.
    Invalidated,
    /// The replica asks for a key.
    Fill,
    /// The owner has answered that.
    Filled,
}

/// What happens between an owner and a replica.
const PHASES_OF_LEASES: [Phase; 6] = [
    Phase::AskLease,
    Phase::Granted,
    Phase::Invalidate,
    Phase::Invalidated,
    Phase::Fill,
    Phase::Filled,
];

/// Where slices are replicated, so many traps in a thousand are set at the phases of leases.
const TRAPS_OF_LEASES_PER_MILLE: u64 = 550;

/// The longest time that passes from such a phase to what is done then, in microseconds: within it leases are asked for again,
/// and end.
const LEASES_LATER_US_MAX: u64 = 1_100 * MS;

const PHASES: [Phase; 10] = [
    Phase::Assigned,
    Phase::Take,
    Phase::Fenced,
    Phase::NotFenced,
    Phase::Pull,
    Phase::Chunk,
    Phase::LastChunk,
    Phase::Peek,
    Phase::Peeked,
    Phase::Release,
];

/// Which of the two nodes of a hand-off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Giver,
    Taker,
}

/// What a trap does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Deed {
    /// SIGKILL, and when another process starts there.
    Kill(Role, Option<u64>),
    /// SIGTERM, likewise.
    Drain(Role, Option<u64>),
    Pause(Role, u64),
    /// Cut off from the Assigner, both ways.
    Sever(Role, u64),
    /// What one sends to the other, or both, is lost.
    Cut {
        by: Role,
        both: bool,
        for_us: u64,
    },
    /// What one sends to the other is late.
    Stall {
        by: Role,
        for_us: u64,
    },
    BreakStreams {
        for_us: u64,
    },
    RestartAssigner {
        down_us: u64,
    },
    PauseAssigner {
        for_us: u64,
    },
}

/// See the head of this file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Trap {
    pub(crate) phase: Phase,
    /// What is done, and how long after.
    deeds: [Option<(Deed, u64)>; DEEDS_MAX],
    /// What is done at once when the next hand-off reaches a phase: one that often follows from this.
    next: Option<(Phase, Deed)>,
}

/// Most that one trap does.
const DEEDS_MAX: usize = 4;

const MS: u64 = 1_000;

/// Longest time that a link stands still in a gentle run, in microseconds: operations wait for longer than that.
const GENTLE_STALL_US_MAX: u64 = 700 * MS;

impl Trap {
    /// Does `deeds` at a phase, each so long after it: four of them at the most.
    pub(crate) fn new(phase: Phase, deeds: impl IntoIterator<Item = (Deed, u64)>) -> Self {
        let mut deeds = deeds.into_iter();
        Self {
            phase,
            deeds: std::array::from_fn(|_| deeds.next()),
            next: None,
        }
    }

    /// Another trap is set when this one is sprung.
    pub(crate) fn and_then(self, phase: Phase, deed: Deed) -> Self {
        let next = Some((phase, deed));
        Self { next, ..self }
    }

    pub(crate) fn next(&self) -> Option<Self> {
        let (phase, deed) = self.next?;
        Some(Self::new(phase, [(deed, 0)]))
    }

    pub(crate) fn deeds(&self) -> impl Iterator<Item = (Deed, u64)> {
        self.deeds.into_iter().flatten()
    }
}

/// A trap at a phase of leases. What the two nodes and the Assigner say to each other is lost or late, for about as long as a
/// lease is; or the owner is gone and another life of it comes back at once, so that its ranges start cold within a lease.
fn draw_of_leases(plan: &Plan, random: &mut Random) -> Trap {
    if random.chance(450) {
        return draw_owner_gone(random);
    }
    let mut deed = || {
        let for_us = random.between(50 * MS, 1_500 * MS);
        let deed = match random.below(100) {
            0..22 => Deed::Stall {
                by: role(random),
                for_us,
            },
            22..44 => Deed::Cut {
                by: role(random),
                both: random.chance(500),
                for_us,
            },
            44..64 => Deed::Sever(role(random), for_us.min(1_300 * MS)),
            64..76 => Deed::Kill(Role::Giver, Some(random.between(5 * MS, 200 * MS))),
            76..84 => Deed::Pause(role(random), for_us.min(1_300 * MS)),
            84..92 => Deed::Drain(Role::Giver, Some(random.between(5 * MS, 200 * MS))),
            _ => any_deed(plan, random),
        };
        let us_max = [1, 2 * MS, 200 * MS, LEASES_LATER_US_MAX][random.index(4)];
        (deed, random.below(us_max))
    };
    let (first, second) = (deed(), deed());
    let phase = PHASES_OF_LEASES[random.index(PHASES_OF_LEASES.len())];
    Trap::new(
        phase,
        [first].into_iter().chain(random.chance(750).then_some(second)),
    )
}

/// A trap that ends an owner's tenure while its replica does not hear of that.
fn draw_owner_gone(random: &mut Random) -> Trap {
    // Who is killed has its name again after half a second, and a lease may be one second old by then.
    let for_us = random.between(900 * MS, 1_400 * MS);
    let back_after_us = Some(random.between(5 * MS, 80 * MS));
    let gone = if random.chance(650) {
        Deed::Kill(Role::Giver, back_after_us)
    } else {
        Deed::Drain(Role::Giver, back_after_us)
    };
    let phase = [Phase::Granted, Phase::Filled][random.index(2)];
    Trap::new(
        phase,
        [
            (Deed::Sever(Role::Taker, for_us), 0),
            (gone, random.below(50 * MS)),
        ],
    )
}

/// Any trap.
pub(crate) fn draw(plan: &Plan, random: &mut Random) -> Trap {
    if plan.replication.is_some() && random.chance(TRAPS_OF_LEASES_PER_MILLE) {
        return draw_of_leases(plan, random);
    }
    let mut deed = || (any_deed(plan, random), soon_us(random));
    let (first, second) = (deed(), deed());
    let phase = PHASES[random.index(PHASES.len())];
    Trap::new(
        phase,
        [first].into_iter().chain(random.chance(500).then_some(second)),
    )
}

/// A trap that costs no entries.
pub(crate) fn draw_gentle(random: &mut Random) -> Trap {
    let mut deed = || (gentle_deed(random), soon_us(random));
    let (first, second) = (deed(), deed());
    let phase = PHASES[random.index(PHASES.len())];
    Trap::new(
        phase,
        [first].into_iter().chain(random.chance(700).then_some(second)),
    )
}

/// At once, within a round trip, or a while after.
fn soon_us(random: &mut Random) -> u64 {
    let us_max = [1, 2 * MS, 200 * MS][random.index(3)];
    random.below(us_max)
}

pub(crate) fn role(random: &mut Random) -> Role {
    if random.chance(500) {
        Role::Giver
    } else {
        Role::Taker
    }
}

pub(crate) fn back_after_us(random: &mut Random) -> Option<u64> {
    let after_us = random.between(20 * MS, 2_500 * MS);
    random.chance(800).then_some(after_us)
}

fn gentle_deed(random: &mut Random) -> Deed {
    match random.below(10) {
        0..4 => Deed::Drain(role(random), back_after_us(random)),
        4..8 => Deed::Stall {
            by: role(random),
            for_us: random.between(5 * MS, GENTLE_STALL_US_MAX),
        },
        _ => Deed::BreakStreams {
            for_us: random.between(MS, 600 * MS),
        },
    }
}

fn any_deed(plan: &Plan, random: &mut Random) -> Deed {
    let short_us = random.between(5 * MS, 1_300 * MS);
    let long_us = random.between(3_100 * MS, 8_000 * MS);
    let asleep_us = faults::asleep_us(plan, random);
    let cut_us = if plan.may_cut_off && random.chance(500) {
        long_us
    } else {
        short_us
    };
    match random.below(100) {
        0..16 => Deed::Kill(role(random), back_after_us(random)),
        16..34 => Deed::Drain(role(random), back_after_us(random)),
        34..44 => Deed::Pause(
            role(random),
            if random.chance(300) { asleep_us } else { short_us },
        ),
        44..54 => Deed::Sever(role(random), cut_us),
        54..66 => Deed::Cut {
            by: role(random),
            both: random.chance(500),
            for_us: if random.chance(200) { long_us } else { short_us },
        },
        66..80 => Deed::Stall {
            by: role(random),
            for_us: if random.chance(200) { long_us } else { short_us },
        },
        80..86 => Deed::BreakStreams { for_us: short_us },
        86..96 => Deed::RestartAssigner {
            down_us: random.between(MS, 900 * MS),
        },
        _ => Deed::PauseAssigner { for_us: short_us },
    }
}

impl Phase {
    /// The phase that a message shows, with the slots of giver and taker.
    pub(crate) fn of(from: Endpoint, to: Endpoint, message: &Message) -> Option<(Self, usize, usize)> {
        let (Endpoint::Node(from), Endpoint::Node(to)) = (from, to) else {
            return None;
        };
        let (phase, by) = match message {
            Message::Take(_) => (Self::Take, Role::Taker),
            Message::TakeReply(Ok(reply)) => {
                let fenced = |verdict: &Verdict| matches!(verdict, Verdict::Fenced { .. });
                let is_fenced = reply.answers.iter().any(|answer| fenced(&answer.verdict));
                let phase = if is_fenced { Self::Fenced } else { Self::NotFenced };
                (phase, Role::Giver)
            }
            Message::OpenPull { .. } => (Self::Pull, Role::Taker),
            Message::Chunk(chunk) if chunk.is_last => (Self::LastChunk, Role::Giver),
            Message::Chunk(_) => (Self::Chunk, Role::Giver),
            Message::Peek { .. } => (Self::Peek, Role::Taker),
            Message::PeekReply { .. } => (Self::Peeked, Role::Giver),
            Message::Release(_) => (Self::Release, Role::Taker),
            Message::AskLease { .. } => (Self::AskLease, Role::Taker),
            Message::LeaseReply {
                answer: Ok(reply), ..
            } if !reply.grants.is_empty() => (Self::Granted, Role::Giver),
            Message::Invalidate { .. } => (Self::Invalidate, Role::Giver),
            Message::Invalidated { .. } => (Self::Invalidated, Role::Taker),
            Message::Fill { .. } => (Self::Fill, Role::Taker),
            Message::FillReply { .. } => (Self::Filled, Role::Giver),
            _ => return None,
        };
        Some(match by {
            Role::Giver => (phase, from, to),
            Role::Taker => (phase, to, from),
        })
    }
}
