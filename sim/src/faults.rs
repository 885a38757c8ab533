//! What goes wrong, and what is done on purpose: drawn from the seed before the run begins.
//!
//! In `available` mode nodes are cut off from the Assigner (or it is down) for less than the failure timeout at a time, and
//! have time to be heard of in between, in all seeds but a few: one owner is promised there through planned moves and
//! crashes, not to a node that is taken for dead and lives. What then happens is measured, not judged. A node that stands
//! still for longer is judged, as long as it reaches the Assigner when it wakes.
//! In `leased` mode nothing is spared, and all is judged.

use crate::config::SimConfig;
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
const SILENCE_US_MAX: u64 = 1_300 * MS;

/// The shortest and longest times of those that outlast a failure timeout, in microseconds.
const LONG_US: (u64, u64) = (3_100 * MS, 8_000 * MS);

/// The faults of a run, in no order. Each has a number, by which a run can be told to keep it.
pub(crate) fn draw(plan: &Plan, config: &SimConfig, random: &mut Random) -> Vec<(u64, Fault)> {
    let active_us = config.active_ms * MS;
    let mut faults = vec![(active_us, Fault::End)];
    // With leases, nothing is served before the first Assigner has waited for one.
    let mut at_us = (1_200 + plan.assigner.lease_wait_ms(None)) * MS;
    for number in 0.. {
        if at_us >= active_us {
            break;
        }
        let fault = one(plan, random);
        if config
            .faults_kept
            .as_ref()
            .is_none_or(|kept| kept.contains(&number))
        {
            faults.push((at_us, fault));
        }
        at_us += random.between(plan.fault_pause_us / 10, plan.fault_pause_us * 2);
    }
    faults
}

fn one(plan: &Plan, random: &mut Random) -> Fault {
    let slot = random.index(plan.slots);
    let back_after_us = random.chance(800).then(|| random.between(20 * MS, 2_500 * MS));
    let long_us = random.between(LONG_US.0, LONG_US.1);
    let silence_us = random.between(10 * MS, SILENCE_US_MAX);
    let kind = random.below(100);
    let both = random.chance(500);
    let is_long = random.chance(300);
    let filled_after_us = plan.assigner.rebalance_delay_ms * MS;
    let leaves_after_us = filled_after_us + random.between(10 * MS, 900 * MS);
    if plan.is_gentle {
        return match kind {
            0..60 => Fault::Drain { slot, back_after_us },
            60..80 => Fault::Surge { slot },
            80..84 => Fault::BreakSession { slot },
            84..93 => Fault::Bounce {
                cut_from: None,
                is_killed: false,
                leaves_after_us,
            },
            _ => Fault::ScaleOut,
        };
    }
    match kind {
        0..6 => Fault::Bounce {
            cut_from: random.chance(500).then(|| random.index(plan.slots)),
            is_killed: is_long,
            leaves_after_us,
        },
        6..28 => Fault::Drain { slot, back_after_us },
        28..40 => Fault::Surge { slot },
        40..50 => Fault::Kill { slot, back_after_us },
        50..60 => Fault::Pause {
            slot,
            for_us: if is_long { long_us } else { silence_us },
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
        _ => Fault::ScaleOut,
    }
}
