//! What is drawn for seeds whose theme are nodes that go away and come back ([`crate::plan::Theme::Absences`]): one episode after
//! the other, each with the time that it takes to be over, so that who goes away next does so in a cluster that is whole.
//!
//! In an episode a node is stopped, or cut off from the Assigner, for longer than the failure timeout: alone, with another one at
//! about the same time, or in mid hand-off while the link to the other node of that stands still. Meanwhile, or just as it comes back,
//! something befalls who took its place.

use crate::faults::{self, Fault};
use crate::message::Endpoint;
use crate::plan::Plan;
use crate::random::Random;
use crate::trap::{Deed, Phase, Role, Trap, back_after_us, role};

const MS: u64 = 1_000;

/// The shortest and longest times for which a node is away, in microseconds: about until it is given up, or for a while longer.
const ABSENT_US: (u64, u64) = (2_900 * MS, 3_400 * MS);
const LONG_ABSENT_US: (u64, u64) = (3_400 * MS, 4_600 * MS);

/// How long after that it is back, and what it held was taken over again, in microseconds.
const BACK_US: (u64, u64) = (500 * MS, 1_500 * MS);

/// For how long the link between two nodes of a hand-off stands still while one of them is away, in microseconds, if not until just
/// after that is back.
const STALL_US: (u64, u64) = (500 * MS, 7_500 * MS);

/// How long after its return what a node held is asked for, at the most, in microseconds.
const SOON_BACK_US_MAX: u64 = 1_500 * MS;

/// How long after a node's place was taken something befalls who took it, at the most, in microseconds: until about when that node
/// is back.
const MEANWHILE_US_MAX: u64 = 3_000 * MS;

/// Who stands still for no longer than this, in microseconds, is missed by nobody.
const FAINT_US_MAX: u64 = 2_000 * MS;

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

/// The faults of an episode, each with how long after its beginning it strikes, and how long the episode lasts.
pub(crate) fn draw(plan: &Plan, random: &mut Random) -> (Vec<(u64, Fault)>, u64) {
    let slot = somebody(plan, random);
    let away_us = absent_us(random);
    let mut faults = vec![(0, Fault::Disarm)];
    let mut disturbs_per_mille = 700;
    match random.below(100) {
        0..45 => {
            faults.push((0, in_mid_handoff(away_us, random)));
            faults.push((MS, handoff(plan, random)));
            disturbs_per_mille = 200;
        }
        45..55 => faults.push((
            0,
            Fault::Rack {
                slots: [slot, somebody(plan, random)],
                apart_us: random.below(600 * MS),
                for_us: away_us,
            },
        )),
        _ => faults.push((MS, alone(slot, away_us, random))),
    }
    if random.chance(disturbs_per_mille) {
        faults.push((0, meanwhile(random)));
    } else {
        faults.push((0, asked_late(random)));
    }
    if random.chance(disturbs_per_mille / 3) {
        faults.push((random.below(away_us), faults::one(plan, random)));
    }
    let back_us = random.between(BACK_US.0, BACK_US.1);
    (faults, away_us + back_us)
}

/// Where a node is nearly always.
fn somebody(plan: &Plan, random: &mut Random) -> usize {
    random.index(plan.nodes)
}

fn absent_us(random: &mut Random) -> u64 {
    let (least, most) = [ABSENT_US, LONG_ABSENT_US][random.index(2)];
    random.between(least, most)
}

fn alone(slot: usize, for_us: u64, random: &mut Random) -> Fault {
    if random.chance(400) {
        return Fault::Pause { slot, for_us };
    }
    Fault::Cut {
        from: Endpoint::Node(slot),
        to: Endpoint::Assigner,
        both: true,
        for_us,
    }
}

/// Something that begins a hand-off.
fn handoff(plan: &Plan, random: &mut Random) -> Fault {
    let slot = somebody(plan, random);
    match random.below(100) {
        0..20 => Fault::ScaleOut,
        20..40 => Fault::Surge { slot },
        _ => Fault::Drain {
            slot,
            back_after_us: back_after_us(random),
        },
    }
}

/// A trap that is sprung when somebody has taken an absent node's place, or when that is back and asked for what it held: who took
/// its place is killed, leaves, or goes away itself; one does not hear the other; or another Assigner takes over. (Here the absent node
/// is the giver.)
fn meanwhile(random: &mut Random) -> Fault {
    if random.chance(350) {
        return handed_on(random);
    }
    let is_back = random.chance(600);
    let phase = if is_back { Phase::Revived } else { Phase::Awaited };
    let soon_us_max = [1, 50 * MS, MEANWHILE_US_MAX][random.index(3)];
    let mut deeds = Vec::new();
    // What holds up the question for what the absent node held comes before what ends its asker.
    if random.chance(if is_back { 700 } else { 300 }) {
        let for_us = random.between(50 * MS, 3_000 * MS);
        deeds.push((deaf(for_us, random), random.below(soon_us_max)));
    }
    if deeds.is_empty() || random.chance(700) {
        deeds.push((gone(random), random.below(soon_us_max)));
    }
    if random.chance(400) {
        deeds.push((gone(random), random.below(MEANWHILE_US_MAX)));
    }
    Fault::Set(Trap::new(phase, deeds))
}

/// A trap by which who took an absent node's place leaves just as that is back, before one has heard the other; and which strikes
/// again when the place is handed on.
fn handed_on(random: &mut Random) -> Fault {
    let for_us = random.between(500 * MS, 3_000 * MS);
    let unheard = Deed::Cut {
        by: Role::Taker,
        both: random.chance(500),
        for_us,
    };
    let leaves = Deed::Drain(Role::Taker, back_after_us(random));
    let mut deeds = vec![(unheard, 0), (leaves, random.below(20 * MS))];
    // Who is back, and hears no more of what becomes of it, will believe others of that.
    if random.chance(850) {
        let alone_us = random.between(1_900 * MS, 2_900 * MS);
        deeds.push((Deed::Sever(Role::Giver, alone_us), random.below(60 * MS)));
    }
    // Else it is who is back that most is handed on to.
    if random.chance(500) {
        deeds.push((Deed::Drain(Role::Giver, None), random.below(20 * MS)));
    }
    let next = match random.below(100) {
        0..80 => Deed::Kill(Role::Giver, Some(random.between(20 * MS, 600 * MS))),
        80..90 => Deed::Kill(Role::Taker, back_after_us(random)),
        _ => Deed::RestartAssigner {
            down_us: random.between(MS, 900 * MS),
        },
    };
    let phase = [Phase::Assigned, Phase::Assigned, Phase::Assigned, Phase::Take][random.index(4)];
    Fault::Set(Trap::new(Phase::Revived, deeds).and_then(phase, next))
}

/// A trap by which what an absent node held is asked for only a while after that is back.
fn asked_late(random: &mut Random) -> Fault {
    let for_us = random.between(100 * MS, FAINT_US_MAX);
    Fault::Set(Trap::new(Phase::Revived, [(Deed::Pause(Role::Taker, for_us), 0)]))
}

/// One of the two is not heard by the other or the Assigner for a while, or stands still for less than anybody misses.
fn deaf(for_us: u64, random: &mut Random) -> Deed {
    match random.below(100) {
        0..25 => Deed::Cut {
            by: role(random),
            both: random.chance(500),
            for_us,
        },
        25..45 => Deed::Stall {
            by: role(random),
            for_us,
        },
        45..60 => Deed::Sever(Role::Taker, for_us.min(FAINT_US_MAX)),
        _ => Deed::Pause(role(random), for_us.min(FAINT_US_MAX)),
    }
}

/// Who took the absent node's place is gone, or goes away, too; or who knew of that is.
fn gone(random: &mut Random) -> Deed {
    match random.below(100) {
        0..35 => Deed::Kill(Role::Taker, back_after_us(random)),
        35..60 => Deed::Drain(Role::Taker, back_after_us(random)),
        60..75 => Deed::RestartAssigner {
            down_us: random.between(MS, 900 * MS),
        },
        75..82 => Deed::Kill(Role::Giver, back_after_us(random)),
        82..91 => Deed::Sever(Role::Taker, absent_us(random)),
        _ => Deed::Pause(Role::Taker, absent_us(random)),
    }
}

/// A trap that sends one of the two nodes of a hand-off away, and may hold up what the other one has sent until that is back.
fn in_mid_handoff(away_us: u64, random: &mut Random) -> Fault {
    let (away, other) = if random.chance(250) {
        (Role::Giver, Role::Taker)
    } else {
        (Role::Taker, Role::Giver)
    };
    let first = if random.chance(200) {
        Deed::Pause(away, away_us)
    } else {
        Deed::Sever(away, away_us)
    };
    let for_us = if random.chance(700) {
        away_us + random.below(SOON_BACK_US_MAX)
    } else {
        random.between(STALL_US.0, STALL_US.1)
    };
    let stall = Deed::Stall {
        by: if random.chance(800) { other } else { away },
        for_us,
    };
    let phase = PHASES[random.index(PHASES.len())];
    let soon_us_max = [1, 1, 20 * MS][random.index(3)];
    let mut deeds = vec![(first, random.below(5 * MS))];
    if random.chance(900) {
        deeds.push((stall, random.below(soon_us_max)));
    }
    Fault::Set(Trap::new(phase, deeds))
}
