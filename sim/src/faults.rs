//! What goes wrong, and what is done on purpose: drawn from the seed before the run begins.
//!
//! In `available` mode nodes are cut off from the Assigner (or it is down) for less than the failure timeout at a time in most
//! seeds, and have time to be heard of in between. In the others they may be taken for dead and serve on: what they then do
//! is judged by what is promised of it ([`crate::check::branches`]). In `leased` mode nothing is spared.
//!
//! Some seeds have a theme ([`Theme`]): schedules that take seconds want few other faults around them.

use crate::absence;
use crate::config::SimConfig;
use crate::message::Endpoint;
use crate::plan::{Plan, Theme};
use crate::random::Random;
use crate::trap::{self, Deed, Trap};

/// Something done to the cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// SIGTERM; a new process comes back there after a while, or never.
    Drain {
        slot: usize,
        back_after_us: Option<u64>,
    },
    /// A replacement starts; once it has joined, the node it replaces drains for good.
    Surge {
        slot: usize,
    },
    /// SIGKILL.
    Kill {
        slot: usize,
        back_after_us: Option<u64>,
    },
    Start {
        slot: usize,
    },
    /// Drain or kill that another fault led up to.
    DrainForGood {
        slot: usize,
    },
    Pause {
        slot: usize,
        for_us: u64,
    },
    PauseAssigner {
        for_us: u64,
    },
    /// A process that stood still goes on.
    Wake {
        slot: usize,
    },
    Cut {
        from: Endpoint,
        to: Endpoint,
        both: bool,
        for_us: u64,
    },
    Heal {
        from: Endpoint,
        to: Endpoint,
        both: bool,
    },
    /// A node starts, and leaves at about the time at which it is filled; perhaps it cannot reach another one meanwhile. So
    /// ranges come back to where they were, before, while and after they are handed over.
    Bounce {
        cut_from: Option<usize>,
        is_killed: bool,
        leaves_after_us: u64,
    },
    BreakSession {
        slot: usize,
    },
    /// Two nodes leave for good at about the same time.
    ScaleIn {
        slots: [usize; 2],
        apart_us: u64,
    },
    /// Two nodes stand still at about the same time, one a little longer.
    Rack {
        slots: [usize; 2],
        apart_us: u64,
        for_us: u64,
    },
    /// A link stands still, as when its packets are lost and sent again and again: nothing is lost in the end, and what is
    /// sent arrives when it is over. Each direction stands still for a time of its own, the way back a while after the way
    /// there. If it `worsens`, what is sent there from then on stays as long as what is sent back.
    ///
    /// On the link from the Assigner to a node it makes the schedule that `lease-from-reply` needs: the Assigner answers
    /// heartbeats, the answers lie on the way; then neither hears of the other any more; then those answers arrive. Who counts
    /// a lease from there serves longer than the Assigner waits.
    Waver {
        from: Endpoint,
        to: Endpoint,
        there_us: u64,
        lag_us: u64,
        back_us: u64,
        worsens: bool,
    },
    /// The way from one to the other stands still.
    Stall {
        from: Endpoint,
        to: Endpoint,
        for_us: u64,
    },
    /// A node is cut off from the control plane, and soon after another Assigner takes over. (A switch fails, with the
    /// Assigner's machine and a node behind it.)
    ///
    /// It makes the schedule that `lease-wait-skipped` needs: the new Assigner hears of all others, waits its settling time,
    /// and gives the node's ranges away, while that still serves under the lease that the former Assigner gave it.
    ///
    /// Where Assigners give leases of different lengths all others restart in between: the schedule that
    /// `former-lease-forgotten` needs, in which nobody who says hello serves under the former Assigner's leases.
    Takeover {
        slot: usize,
        silent_us: u64,
        after_us: u64,
        down_us: u64,
    },
    /// Something is done the next time that a hand-off reaches a certain phase.
    Set(Trap),
    /// What was set and not sprung is taken away.
    Disarm,
    /// What a trap does to the two nodes of the hand-off that sprang it.
    Strike {
        deed: Deed,
        giver: usize,
        taker: usize,
    },
    RestartAssigner {
        down_us: u64,
    },
    StartAssigner,
    ScaleOut,
    /// All faults end, and clients stop.
    End,
}

const MS: u64 = 1_000;

/// When the first fault happens, from the beginning of service on, in microseconds.
const FIRST_FAULT_US: u64 = 1_200 * MS;

/// Longest time that a node is kept from the Assigner, in microseconds.
const SILENCE_US_MAX: u64 = 1_300 * MS;

/// The shortest and longest times of those that outlast a failure timeout, in microseconds. Cut off from the Assigner for so
/// long, a node with a lease of 6 s still serves when its failure timeout is over: the schedule that `lease-not-awaited`
/// needs. (Faults begin only when the first lease is waited for, or most of a run would be over by then.)
const LONG_US: (u64, u64) = (3_100 * MS, 8_000 * MS);

/// The faults of a run, in no order. Each has a number, by which a run can be told to keep it.
pub(crate) fn draw(plan: &Plan, config: &SimConfig, random: &mut Random) -> Vec<(u64, Fault)> {
    let active_us = plan.begin_us() + config.active_ms * MS;
    let mut faults = vec![(active_us, Fault::End)];
    let mut at_us = plan.begin_us() + FIRST_FAULT_US;
    let mut drawn = Vec::new();
    while at_us < active_us {
        if plan.theme == Theme::Absences {
            let (episode, lasts_us) = absence::draw(plan, random);
            drawn.extend(
                episode
                    .into_iter()
                    .map(|(after_us, fault)| (at_us + after_us, fault)),
            );
            at_us += lasts_us;
            continue;
        }
        let fault = match plan.theme {
            Theme::Leases if random.chance(THEMED_PER_MILLE) => of_leases(plan, random),
            _ => one(plan, random),
        };
        drawn.push((at_us, fault));
        at_us += random.between(plan.fault_pause_us / 10, plan.fault_pause_us * 2);
    }
    let is_kept = |number: &usize| {
        config
            .faults_kept
            .as_ref()
            .is_none_or(|kept| kept.contains(number))
    };
    let kept = (0..).zip(drawn).filter(|(number, _)| is_kept(number));
    faults.extend(kept.map(|(_, fault)| fault));
    faults
}

/// Of the faults of a run that is not gentle, so many in a thousand are of the kinds that strike at a phase of a hand-off, or
/// slow a link down.
const TRAPS_AND_LINKS_PER_MILLE: u64 = 250;

/// Where the faults of a seed have a theme, so many in a thousand belong to it.
const THEMED_PER_MILLE: u64 = 850;

/// A fault that keeps a node and the Assigner from each other for about as long as leases are, with little else around it:
/// the links to the Assigner jam or are cut, or another Assigner takes over meanwhile.
fn of_leases(plan: &Plan, random: &mut Random) -> Fault {
    let slot = random.index(plan.slots);
    let node = Endpoint::Node(slot);
    let long_us = random.between(LONG_US.0, LONG_US.1);
    match random.below(100) {
        0..45 => {
            let there_us = random.between(200 * MS, 2_500 * MS);
            Fault::Waver {
                from: Endpoint::Assigner,
                to: node,
                there_us,
                lag_us: random.below(there_us),
                back_us: long_us,
                worsens: true,
            }
        }
        45..60 => Fault::Cut {
            from: node,
            to: Endpoint::Assigner,
            both: true,
            for_us: long_us,
        },
        _ => Fault::Takeover {
            slot,
            silent_us: long_us,
            after_us: random.below(500 * MS),
            down_us: random.between(MS, 900 * MS),
        },
    }
}

/// Any fault.
pub(crate) fn one(plan: &Plan, random: &mut Random) -> Fault {
    let slot = random.index(plan.slots);
    let back_after_us = random.chance(800).then(|| random.between(20 * MS, 2_500 * MS));
    let long_us = random.between(LONG_US.0, LONG_US.1);
    let silence_us = random.between(10 * MS, SILENCE_US_MAX);
    let kind = random.below(100);
    let both = random.chance(500);
    let is_long = random.chance(300);
    // Where slices are replicated, what a buried node had often starts later, so that its waking does less.
    let is_asleep = random.chance(600);
    let filled_after_us = plan.assigner.rebalance_delay_ms * MS;
    let leaves_after_us = filled_after_us + random.between(10 * MS, 900 * MS);
    if plan.is_gentle {
        return match kind {
            0..46 => Fault::Drain { slot, back_after_us },
            46..60 => Fault::Surge { slot },
            60..64 => Fault::BreakSession { slot },
            64..73 => Fault::Bounce {
                cut_from: None,
                is_killed: false,
                leaves_after_us,
            },
            73..90 => Fault::Set(trap::draw_gentle(random)),
            90..94 => Fault::ScaleIn {
                slots: [slot, random.index(plan.slots)],
                apart_us: random.below(300 * MS),
            },
            _ => Fault::ScaleOut,
        };
    }
    let kind = if random.chance(TRAPS_AND_LINKS_PER_MILLE) {
        100 + kind
    } else {
        kind
    };
    match kind {
        0..6 => Fault::Bounce {
            cut_from: random.chance(500).then(|| random.index(plan.slots)),
            is_killed: is_long,
            leaves_after_us,
        },
        6..28 => Fault::Drain { slot, back_after_us },
        28..40 => Fault::Surge { slot },
        40..50 => Fault::Kill { slot, back_after_us },
        // Any length: it may wake while it surely lives, surely is dead, or in between.
        50..60 => Fault::Pause {
            slot,
            for_us: if is_asleep {
                asleep_us(plan, random)
            } else {
                silence_us
            },
        },
        60..78 => {
            let from = Endpoint::Node(slot);
            let to = match random.below(10) {
                0..5 => Endpoint::Node(random.index(plan.slots)),
                5..8 => Endpoint::Assigner,
                _ => Endpoint::Client(random.index(plan.clients)),
            };
            let outlasts = plan.may_cut_off && to == Endpoint::Assigner && random.chance(600);
            let (from, to) = if random.chance(500) {
                (from, to)
            } else {
                (to, from)
            };
            Fault::Cut {
                from,
                to,
                both,
                for_us: if outlasts { long_us } else { silence_us },
            }
        }
        78..83 => Fault::BreakSession { slot },
        83..90 => Fault::RestartAssigner {
            down_us: random.between(MS, 900 * MS),
        },
        90..94 => Fault::PauseAssigner {
            for_us: if is_long { long_us } else { silence_us },
        },
        94..97 => Fault::ScaleOut,
        97..100 => Fault::ScaleIn {
            slots: [slot, random.index(plan.slots)],
            apart_us: random.below(300 * MS),
        },
        100..160 => Fault::Set(trap::draw(plan, random)),
        160..186 => waver(plan, slot, random),
        _ => Fault::Takeover {
            slot,
            silent_us: if plan.may_cut_off { long_us } else { silence_us },
            after_us: random.below(500 * MS),
            down_us: random.between(MS, 900 * MS),
        },
    }
}

/// How long a process stands still that may be taken for dead. Often about a failure timeout: it may wake just before it is
/// buried, or just after.
pub(crate) fn asleep_us(plan: &Plan, random: &mut Random) -> u64 {
    let timeout_us = plan.assigner.failure_timeout_ms * MS;
    if random.chance(600) {
        random.between(timeout_us * 8 / 10, timeout_us * 21 / 20)
    } else {
        random.between(SILENCE_US_MAX, LONG_US.1)
    }
}

fn waver(plan: &Plan, slot: usize, random: &mut Random) -> Fault {
    let node = Endpoint::Node(slot);
    let other = match random.below(10) {
        0..5 => Endpoint::Assigner,
        5..8 => Endpoint::Node(random.index(plan.slots)),
        _ => Endpoint::Client(random.index(plan.clients)),
    };
    let (from, to) = if random.chance(650) {
        (other, node)
    } else {
        (node, other)
    };
    let is_long = other != Endpoint::Assigner || plan.may_cut_off;
    let for_us = |random: &mut Random| {
        let us_max = if is_long { LONG_US.1 } else { SILENCE_US_MAX / 2 };
        random.between(10 * MS, us_max)
    };
    let there_us = for_us(random);
    Fault::Waver {
        from,
        to,
        there_us,
        lag_us: random.below(there_us),
        back_us: for_us(random),
        worsens: random.chance(300),
    }
}
