//! The shipped scenarios, one for each figure that the AutoSharder is held to.

use softstore_sharding::sharder::auto::{AutoSharder, Settings};

use super::description::{ClusterShape, DensityShape, HotKeyShape, LoadShape, Membership, Scenario, Sees};

/// A key's replicas; `dicer-chaos` has its own number.
const REPLICAS_MAX: u32 = 16;

/// What [`builtin`] knows.
pub const NAMES: [&str; 11] = [
    "dicer-chaos",
    "dicer-chaos-lagged",
    "zipf-16",
    "rolling-surge-16",
    "rolling-in-place-16",
    "stationary",
    "noise",
    "scale-1000",
    "scale-2000",
    "zone-loss",
    "flash-crowd",
];

/// The scenario of this name.
#[must_use]
pub fn builtin(name: &str) -> Option<Scenario> {
    let scenario = match name {
        "dicer-chaos" => dicer_chaos(Sees::ThisRound),
        "dicer-chaos-lagged" => dicer_chaos(Sees::PreviousRound),
        "zipf-16" => zipf(60),
        "rolling-surge-16" => rolling(true),
        "rolling-in-place-16" => rolling(false),
        "stationary" => zipf(1_020),
        "noise" => noise(),
        "scale-1000" => scale(1_000, 64_000, 120),
        "scale-2000" => scale(2_000, 100_000, 40),
        "zone-loss" => zone_loss(),
        "flash-crowd" => flash_crowd(),
        _ => return None,
    };
    Some(Scenario {
        name: name.to_owned(),
        ..scenario
    })
}

fn scenario(rounds: u32) -> Scenario {
    Scenario {
        name: String::new(),
        rounds,
        warm_up_rounds: 20,
        sees: Sees::ThisRound,
        assigner: true,
        cluster: ClusterShape::default(),
        membership: Membership::Steady,
        load: LoadShape::default(),
        settings: settings(),
    }
}

/// As the Assigner ships the AutoSharder, with more replicas.
fn settings() -> Settings {
    Settings {
        replicas_max: REPLICAS_MAX,
        ..AutoSharder::default().settings().clone()
    }
}

fn zipf_load() -> LoadShape {
    LoadShape {
        density: DensityShape::Zipf {
            keys: 10_000_000,
            exponent: 0.99,
            parts: 4_096,
        },
        ..LoadShape::default()
    }
}

/// The setting of Dicer's own chaos test.
fn dicer_chaos(sees: Sees) -> Scenario {
    Scenario {
        sees,
        // What a node that dies was to bear in this round, no Assigner can know.
        assigner: false,
        cluster: ClusterShape {
            nodes: 8,
            ..ClusterShape::default()
        },
        membership: Membership::Chaos { alive_min: 6 },
        load: LoadShape {
            density: DensityShape::RandomSlices { slices: 128 },
            of_capacity: (0.0, 1.2),
            bytes_of_capacity: 0.2,
            hot_keys: vec![HotKeyShape::Sometimes {
                of_rounds: 0.5,
                share: 0.5,
            }],
            ..LoadShape::default()
        },
        settings: Settings {
            tolerance_high: 0.008,
            tolerance_low: 0.008,
            noise: 0.0,
            // One metric: bytes matter only where they do not fit.
            memory_free_below: 1.0,
            churn_budget: 1.0,
            replicas_max: 4,
            ..settings()
        },
        ..scenario(1_000)
    }
}

/// Ten million keys on 16 equal nodes.
fn zipf(rounds: u32) -> Scenario {
    Scenario {
        load: zipf_load(),
        ..scenario(rounds)
    }
}

fn rolling(surge: bool) -> Scenario {
    Scenario {
        membership: Membership::Rolling {
            surge,
            every_rounds: 6,
        },
        load: zipf_load(),
        ..scenario(20 + 16 * 6 + 24)
    }
}

/// An hour of rounds of 10 s.
fn noise() -> Scenario {
    let quiet = zipf(20 + 360);
    Scenario {
        load: LoadShape {
            noise: 0.1,
            ..quiet.load.clone()
        },
        ..quiet
    }
}

fn scale(nodes: u32, slices: u32, rounds: u32) -> Scenario {
    Scenario {
        cluster: ClusterShape {
            nodes,
            zones: 3,
            slices_at_start: slices,
            ..ClusterShape::default()
        },
        membership: Membership::Deaths { every_rounds: 4 },
        load: LoadShape {
            density: DensityShape::Drifting {
                slices,
                sigma: 1.0,
                drift: 0.1,
            },
            ..LoadShape::default()
        },
        settings: Settings {
            slices_per_node_max: 256,
            ..settings()
        },
        ..scenario(rounds)
    }
}

fn zone_loss() -> Scenario {
    Scenario {
        cluster: ClusterShape {
            nodes: 24,
            zones: 3,
            sizes: vec![1.0, 2.0, 1.0, 0.5],
            ..ClusterShape::default()
        },
        membership: Membership::ZoneLoss {
            at_round: 60,
            back_at_round: 100,
        },
        load: LoadShape {
            of_capacity: (0.5, 0.5),
            wave: 0.3,
            ..zipf_load()
        },
        ..scenario(160)
    }
}

fn flash_crowd() -> Scenario {
    let during = |from_round, until_round, share| HotKeyShape::During {
        from_round,
        until_round,
        share,
    };
    Scenario {
        sees: Sees::PreviousRound,
        load: LoadShape {
            hot_keys: vec![during(60, 100, 0.5), during(140, 200, 0.3), during(180, 220, 0.2)],
            ..zipf_load()
        },
        ..scenario(260)
    }
}
