//! What is drawn for seeds whose theme are nodes that go away and come back ([`crate::plan::Theme::Absences`]).
//!
//! A node is stopped, or cut off from the Assigner, for longer than the failure timeout: alone, with another one at about the same
//! time, or in mid hand-off. Meanwhile, or just as it comes back, something befalls who took its place.

use crate::faults::Fault;
use crate::message::Endpoint;
use crate::plan::Plan;
use crate::random::Random;
use crate::trap::{Deed, Phase, Role, Trap};

const MS: u64 = 1_000;

/// The shortest and longest times for which a node is away, in microseconds.
const ABSENT_US: (u64, u64) = (3_100 * MS, 5_500 * MS);

/// For how long the link between two nodes of a hand-off stands still while one of them is away, in microseconds: up to about
/// the time at which that comes back.
const STALL_US: (u64, u64) = (500 * MS, 6_000 * MS);

/// How long after a node's place was taken something befalls who took it, at the most, in microseconds: until about when that node
/// is back.
const MEANWHILE_US_MAX: u64 = 3_000 * MS;

/// The phases of a hand-off in which a node goes away.
const PHASES: [Phase; 7] = [
    Phase::Assigned,
    Phase::Take,
    Phase::Fenced,
    Phase::Pull,
    Phase::Chunk,
    Phase::Peek,
    Phase::LastChunk,
];

/// A fault that sends nodes away.
pub(crate) fn draw(plan: &Plan, random: &mut Random) -> Fault {
    let slot = random.index(plan.slots);
    match random.below(100) {
        0..25 => Fault::Pause {
            slot,
            for_us: absent_us(random),
        },
        25..55 => Fault::Cut {
            from: Endpoint::Node(slot),
            to: Endpoint::Assigner,
            both: true,
            for_us: absent_us(random),
        },
        55..63 => Fault::Rack {
            slots: [slot, random.index(plan.slots)],
            apart_us: random.below(600 * MS),
            for_us: absent_us(random),
        },
        63..78 => Fault::Set(in_mid_handoff(random)),
        _ => Fault::Set(meanwhile(random)),
    }
}

fn absent_us(random: &mut Random) -> u64 {
    random.between(ABSENT_US.0, ABSENT_US.1)
}

/// A trap that is sprung when somebody has taken an absent node's place, or when that is back and asked for what it held: who took
/// its place is killed, leaves, or goes away itself; or another Assigner takes over. (Here the absent node is the giver.)
fn meanwhile(random: &mut Random) -> Trap {
    let mut deed = |soon_us_max: u64| {
        let back_after_us = random.between(20 * MS, 2_500 * MS);
        let back_after_us = random.chance(800).then_some(back_after_us);
        let deed = match random.below(100) {
            0..35 => Deed::Kill(Role::Taker, back_after_us),
            35..45 => Deed::Drain(Role::Taker, back_after_us),
            45..65 => Deed::RestartAssigner {
                down_us: random.between(MS, 900 * MS),
            },
            65..72 => Deed::Kill(Role::Giver, back_after_us),
            72..80 => Deed::Sever(Role::Taker, absent_us(random)),
            80..86 => Deed::Pause(Role::Taker, absent_us(random)),
            _ => Deed::Cut {
                by: Role::Taker,
                both: random.chance(500),
                for_us: random.between(50 * MS, 3_000 * MS),
            },
        };
        (deed, random.below(soon_us_max))
    };
    let (at_once, later) = (deed(50 * MS), deed(MEANWHILE_US_MAX));
    let phase = [Phase::Awaited, Phase::Revived][random.index(2)];
    let (first, second) = if random.chance(500) {
        (later, random.chance(500).then_some(at_once))
    } else {
        (at_once, random.chance(700).then_some(later))
    };
    Trap::new(phase, first, second)
}

/// A trap that sends one of the two nodes of a hand-off away, and may hold up what the other one has sent.
fn in_mid_handoff(random: &mut Random) -> Trap {
    let role = |random: &mut Random| {
        if random.chance(500) {
            Role::Giver
        } else {
            Role::Taker
        }
    };
    let away = role(random);
    let first = if random.chance(400) {
        Deed::Pause(away, absent_us(random))
    } else {
        Deed::Sever(away, absent_us(random))
    };
    let stall = Deed::Stall {
        by: role(random),
        for_us: random.between(STALL_US.0, STALL_US.1),
    };
    let phase = PHASES[random.index(PHASES.len())];
    let second = random.chance(500).then(|| (stall, random.below(50 * MS)));
    Trap::new(phase, (first, random.below(20 * MS)), second)
}
