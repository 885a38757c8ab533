//! What goes wrong, and what is done on purpose: drawn from the seed before the run begins.
//!
//! Nodes are kept from the Assigner (paused, cut off, or the Assigner down) for less than the failure timeout at a time,
//! and have time to be heard of in between: in `available` mode one owner is promised through planned moves and crashes,
//! not to a node that is taken for dead and lives.

use crate::message::Endpoint;
use crate::plan::Plan;
use crate::random::Random;

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
    BreakSession {
        slot: usize,
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

/// Longest time that a node is kept from the Assigner, in microseconds.
pub(crate) const SILENCE_US_MAX: u64 = 1_300 * MS;

/// The faults of a run, in no order.
pub(crate) fn draw(plan: &Plan, active_ms: u64, random: &mut Random) -> Vec<(u64, Fault)> {
    let mut faults = vec![(active_ms * MS, Fault::End)];
    let mut at_us = 1_200 * MS;
    while at_us < active_ms * MS {
        faults.push((at_us, one(plan, random)));
        at_us += random.between(plan.fault_pause_us / 10, plan.fault_pause_us * 2);
    }
    faults
}

fn one(plan: &Plan, random: &mut Random) -> Fault {
    let slot = random.index(plan.slots);
    let back_after_us = random.chance(800).then(|| random.between(20 * MS, 2_500 * MS));
    let silence_us = random.between(10 * MS, SILENCE_US_MAX);
    match random.below(100) {
        0..30 => Fault::Drain { slot, back_after_us },
        30..42 => Fault::Surge { slot },
        42..52 => Fault::Kill { slot, back_after_us },
        52..62 => Fault::Pause {
            slot,
            for_us: silence_us,
        },
        62..80 => {
            let from = Endpoint::Node(slot);
            let to = match random.below(10) {
                0..6 => Endpoint::Node(random.index(plan.slots)),
                6..8 => Endpoint::Assigner,
                _ => Endpoint::Client(random.index(plan.clients)),
            };
            let (from, to) = if random.chance(500) {
                (from, to)
            } else {
                (to, from)
            };
            Fault::Cut {
                from,
                to,
                both: random.chance(500),
                for_us: silence_us,
            }
        }
        80..86 => Fault::BreakSession { slot },
        86..93 => Fault::RestartAssigner {
            down_us: random.between(MS, 900 * MS),
        },
        _ => Fault::ScaleOut,
    }
}
