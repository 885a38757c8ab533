//! [`Scenario`]: what a scenario file says. Every field but `rounds` has a default; `docs/scenarios.md` tells it to operators.

use serde::{Deserialize, Deserializer, Serialize};
use softstore_sharding::assigner::{AssignerConfig, NODES_MAX};
use softstore_sharding::assignment::REPLICAS_MAX;
use softstore_sharding::sharder::auto::{AutoSharder, Settings};
use thiserror::Error;

/// Most that lives times rounds may be: each round looks at all lives so far, so that a run is over within minutes.
const LIVES_BY_ROUNDS_MAX: u64 = 10_000_000_000;

/// Most rounds.
const ROUNDS_MAX: u32 = 1_000_000;

/// A cluster's life in rounds: who is there, what it bears, and what the sharder is told.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name, in the report.
    #[serde(default)]
    pub name: String,
    /// How many rounds, 1 to 1,000,000; at most 10,000,000,000 over the number of lives that begin in them.
    pub rounds: u32,
    /// What moves in the first so many rounds is not counted. At most 1,000,000; default 20.
    #[serde(default = "warm_up_rounds")]
    pub warm_up_rounds: u32,
    /// Which round's load the sharder sees.
    #[serde(default)]
    pub sees: Sees,
    /// Whether the Assigner's own core decides, with simulated nodes that talk to it; else the sharder is asked directly, and what the
    /// control plane sends is reckoned. Default true.
    #[serde(default = "yes")]
    pub assigner: bool,
    /// Who there is.
    #[serde(default)]
    pub cluster: ClusterShape,
    /// Who comes and goes.
    #[serde(default)]
    pub membership: Membership,
    /// What there is to bear.
    #[serde(default)]
    pub load: LoadShape,
    /// The AutoSharder's settings. Default: [`shipped`]; what a file says is laid over them.
    #[serde(default = "shipped", deserialize_with = "over_shipped")]
    pub settings: Settings,
}

/// As the Assigner runs the AutoSharder unless it is told otherwise. A round is a minute, so what it may move is the minute's budget.
#[must_use]
pub fn shipped() -> Settings {
    let percent = AssignerConfig::default().balance_churn_percent_per_minute;
    Settings {
        churn_budget: (f64::from(percent) / 100.0).min(1.0),
        ..AutoSharder::default().settings().clone()
    }
}

/// The settings that are named, and [`shipped`] for the others.
fn over_shipped<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Settings, D::Error> {
    let named = serde_json::Map::deserialize(deserializer)?;
    let mut all = serde_json::to_value(shipped()).map_err(serde::de::Error::custom)?;
    if let Some(all) = all.as_object_mut() {
        all.extend(named);
    }
    serde_json::from_value(all).map_err(serde::de::Error::custom)
}

fn warm_up_rounds() -> u32 {
    20
}

fn yes() -> bool {
    true
}

/// Which round's load the sharder sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sees {
    /// That of the round in which its placement is judged.
    #[default]
    ThisRound,
    /// That of the round before.
    PreviousRound,
}

/// Who there is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterShape {
    /// How many nodes, 1 to 10,000.
    pub nodes: u32,
    /// What a node of size 1 bears, in load units. Default 1,000.
    pub node_load: f64,
    /// What a node of size 1 holds, in bytes. Default 16 GiB.
    pub node_bytes: u64,
    /// Sizes, dealt to the nodes in turn. Default: all 1.
    pub sizes: Vec<f64>,
    /// How many zones the nodes are dealt to. Default 1.
    pub zones: u32,
    /// So many equal slices are dealt to the nodes before the first round, in an order that is drawn; 0: the sharder places all.
    /// At most 1,000,000; default 0.
    pub slices_at_start: u32,
}

impl Default for ClusterShape {
    fn default() -> Self {
        Self {
            nodes: 16,
            node_load: 1_000.0,
            node_bytes: 16 << 30,
            sizes: vec![1.0],
            zones: 1,
            slices_at_start: 0,
        }
    }
}

/// Who comes and goes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Membership {
    /// Nobody.
    #[default]
    Steady,
    /// In each round so many of the nodes live, drawn anew. Who dies loses all it had.
    Chaos {
        /// Least living.
        alive_min: u32,
    },
    /// After the warm-up each node in turn drains and comes back empty.
    Rolling {
        /// One node more takes part.
        surge: bool,
        /// Rounds from one node's drain to the next one's, at least 3. Who came back empty waits that long before it is
        /// filled otherwise.
        every_rounds: u32,
    },
    /// All nodes of the first zone die in one round, and come back empty in another.
    ZoneLoss {
        /// When they die.
        at_round: u32,
        /// When they are back.
        back_at_round: u32,
    },
    /// After the warm-up a node dies, in turn, and comes back empty two rounds later.
    Deaths {
        /// Rounds from one death to the next, at least 3.
        every_rounds: u32,
    },
}

/// What there is to bear.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoadShape {
    /// How it lies over the keys.
    pub density: DensityShape,
    /// All of it, as parts of what the living nodes bear: from and to, drawn anew in each round. Default 0.6 to 0.6.
    pub of_capacity: (f64, f64),
    /// Each part's and key's load wavers by this (standard deviation, independent in each round). Default 0.
    pub noise: f64,
    /// The whole goes up and down by this part, as a sine. Default 0.
    pub wave: f64,
    /// Rounds of one wave. Default 360.
    pub wave_rounds: u32,
    /// Bytes of the data set, as a part of the budgets of all nodes. Default 0.4.
    pub bytes_of_capacity: f64,
    /// Part of the load that are reads which find their key. Default 0.9.
    pub hit_part: f64,
    /// Keys that draw much.
    pub hot_keys: Vec<HotKeyShape>,
    /// How many of the hottest keys nodes report. Default 64.
    pub reported_keys: u32,
}

impl Default for LoadShape {
    fn default() -> Self {
        Self {
            density: DensityShape::Even { parts: 1_024 },
            of_capacity: (0.6, 0.6),
            noise: 0.0,
            wave: 0.0,
            wave_rounds: 360,
            bytes_of_capacity: 0.4,
            hit_part: 0.9,
            hot_keys: Vec::new(),
            reported_keys: 64,
        }
    }
}

impl LoadShape {
    /// The most that hot keys may draw together in any round.
    fn hot_share_max(&self) -> f64 {
        let sometimes = self.hot_keys.iter().map(|hot| match hot {
            HotKeyShape::Sometimes { share, .. } => *share,
            HotKeyShape::During { .. } => 0.0,
        });
        let during = |round: u32| {
            let hot = self.hot_keys.iter().map(move |hot| match hot {
                HotKeyShape::During {
                    from_round,
                    until_round,
                    share,
                } if (*from_round..*until_round).contains(&round) => *share,
                _ => 0.0,
            });
            hot.sum::<f64>()
        };
        // The most is drawn in a round in which another begins.
        let begins = self.hot_keys.iter().filter_map(|hot| match hot {
            HotKeyShape::During { from_round, .. } => Some(*from_round),
            HotKeyShape::Sometimes { .. } => None,
        });
        sometimes.sum::<f64>() + begins.map(during).fold(0.0, f64::max)
    }
}

/// How load lies over the keys.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum DensityShape {
    /// Evenly.
    Even {
        /// In how many equal parts nodes report it.
        parts: u32,
    },
    /// Slices with random borders and random loads (exponentially distributed), drawn anew in each round.
    RandomSlices {
        /// How many.
        slices: u32,
    },
    /// Keys by rank: the load of the k-th is in proportion to k to the power of minus the exponent. Keys lie where their hash
    /// says.
    Zipf {
        /// How many keys.
        keys: u64,
        /// The exponent.
        exponent: f64,
        /// In how many equal parts nodes report it.
        parts: u32,
    },
    /// Equal slices whose loads are log-normally distributed and drift.
    Drifting {
        /// How many slices; nodes report each.
        slices: u32,
        /// Standard deviation of the logarithm of a slice's load.
        sigma: f64,
        /// How much of that is drawn anew in each round, 0 to 1.
        drift: f64,
    },
}

/// A key that draws much.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "when", rename_all = "kebab-case", deny_unknown_fields)]
pub enum HotKeyShape {
    /// Another key in each round, and in a part of the rounds only.
    Sometimes {
        /// In which part of the rounds.
        of_rounds: f64,
        /// Its part of the load.
        share: f64,
    },
    /// One key, for a while.
    During {
        /// First round.
        from_round: u32,
        /// First round after it.
        until_round: u32,
        /// Its part of the load.
        share: f64,
    },
}

/// Why a scenario is refused.
#[derive(Clone, PartialEq, Debug, Error)]
pub enum ScenarioError {
    /// A number is out of its range.
    #[error("{name}: {range} is expected")]
    Range {
        /// Of which field.
        name: &'static str,
        /// What is.
        range: &'static str,
    },
    /// The Assigner would not publish what the sharder says.
    #[error("the Assigner refuses what the sharder says: {0}")]
    Refused(String),
    /// The AutoSharder's settings are.
    #[error("settings: {0}")]
    Settings(#[from] softstore_sharding::sharder::auto::SettingsError),
}

impl Scenario {
    /// Checks the numbers.
    ///
    /// # Errors
    /// The first that is out of its range.
    pub fn validate(&self) -> Result<(), ScenarioError> {
        let range = |fits: bool, name, range| {
            if fits {
                Ok(())
            } else {
                Err(ScenarioError::Range { name, range })
            }
        };
        let part = |value: f64| (0.0..=1.0).contains(&value);
        let positive = |value: f64| value.is_finite() && value > 0.0;
        range(
            (1..=ROUNDS_MAX).contains(&self.rounds),
            "rounds",
            "1 to 1,000,000",
        )?;
        range(
            self.warm_up_rounds <= ROUNDS_MAX,
            "warm_up_rounds",
            "0 to 1,000,000",
        )?;
        let cluster = &self.cluster;
        range(
            (1..=10_000).contains(&cluster.nodes),
            "cluster.nodes",
            "1 to 10,000",
        )?;
        range(
            positive(cluster.node_load),
            "cluster.node_load",
            "a number above 0",
        )?;
        range(cluster.node_bytes > 0, "cluster.node_bytes", "a number above 0")?;
        let sizes = !cluster.sizes.is_empty() && cluster.sizes.iter().all(|size| positive(*size));
        range(sizes, "cluster.sizes", "numbers above 0")?;
        range(cluster.zones > 0, "cluster.zones", "1 or more")?;
        range(
            cluster.slices_at_start <= 1_000_000,
            "cluster.slices_at_start",
            "0 to 1,000,000",
        )?;
        let load = &self.load;
        let (from, to) = load.of_capacity;
        range(
            from >= 0.0 && from <= to && to.is_finite(),
            "load.of_capacity",
            "from and to, 0 or above",
        )?;
        range(
            part(load.noise) && part(load.wave),
            "load.noise and load.wave",
            "0 to 1",
        )?;
        range(load.wave_rounds > 0, "load.wave_rounds", "1 or more")?;
        range(
            part(load.bytes_of_capacity) && part(load.hit_part),
            "load.bytes_of_capacity and load.hit_part",
            "0 to 1",
        )?;
        let parts = match load.density {
            DensityShape::Even { parts } | DensityShape::Zipf { parts, .. } => parts,
            DensityShape::RandomSlices { slices } | DensityShape::Drifting { slices, .. } => slices,
        };
        range(
            (1..=1_000_000).contains(&parts),
            "load.density",
            "1 to 1,000,000 parts or slices",
        )?;
        if let DensityShape::Zipf { keys, exponent, .. } = load.density {
            let fits = (1..=1_000_000_000).contains(&keys) && (0.0..=4.0).contains(&exponent);
            range(
                fits,
                "load.density",
                "1 to 1,000,000,000 keys and an exponent of 0 to 4",
            )?;
        }
        if let DensityShape::Drifting { sigma, drift, .. } = load.density {
            range(
                (0.0..=4.0).contains(&sigma) && part(drift),
                "load.density",
                "a sigma of 0 to 4 and a drift of 0 to 1",
            )?;
        }
        for hot in &load.hot_keys {
            let (HotKeyShape::Sometimes { share, .. } | HotKeyShape::During { share, .. }) = hot;
            range(part(*share), "load.hot_keys.share", "0 to 1")?;
            if let HotKeyShape::Sometimes { of_rounds, .. } = hot {
                range(part(*of_rounds), "load.hot_keys.of_rounds", "0 to 1")?;
            }
        }
        range(
            load.hot_share_max() <= 1.0 + 1e-9,
            "load.hot_keys.share",
            "at most 1 in all, in any round",
        )?;
        match self.membership {
            Membership::Chaos { alive_min } => {
                let fits = (1..=cluster.nodes).contains(&alive_min);
                range(fits, "membership.alive_min", "1 to the number of nodes")?;
            }
            Membership::Rolling { every_rounds, .. } | Membership::Deaths { every_rounds } => {
                let fits = (3..=ROUNDS_MAX).contains(&every_rounds);
                range(fits, "membership.every_rounds", "3 to 1,000,000")?;
            }
            Membership::ZoneLoss {
                at_round,
                back_at_round,
            } => {
                range(
                    cluster.zones > 1,
                    "cluster.zones",
                    "2 or more to lose one of them",
                )?;
                range(
                    back_at_round > at_round,
                    "membership.back_at_round",
                    "a round after at_round",
                )?;
            }
            Membership::Steady => {}
        }
        range(
            self.lives_max().saturating_mul(self.rounds.into()) <= LIVES_BY_ROUNDS_MAX,
            "rounds",
            "for so many nodes and returns, fewer: lives times rounds at most 10,000,000,000",
        )?;
        if self.assigner {
            range(
                self.nodes_max() <= NODES_MAX as u64,
                "cluster.nodes",
                "at most 4,096 with the Assigner, one more of a surge included",
            )?;
            // The setting counts the owner.
            range(
                self.settings.replicas_max as usize <= 1 + REPLICAS_MAX,
                "settings.replicas_max",
                "1 to 33 with the Assigner",
            )?;
        }
        Ok(self.settings.validate()?)
    }

    /// Most nodes that live at once.
    fn nodes_max(&self) -> u64 {
        let spare = matches!(self.membership, Membership::Rolling { surge: true, .. });
        u64::from(self.cluster.nodes) + u64::from(spare)
    }

    /// Most lives that begin in its rounds.
    fn lives_max(&self) -> u64 {
        let (nodes, rounds) = (u64::from(self.cluster.nodes), u64::from(self.rounds));
        let returns = match self.membership {
            Membership::Steady => 0,
            Membership::Chaos { alive_min } => rounds * nodes.saturating_sub(alive_min.into()),
            Membership::Rolling { .. } | Membership::ZoneLoss { .. } => nodes,
            Membership::Deaths { every_rounds } => rounds / u64::from(every_rounds.max(1)),
        };
        self.nodes_max() + returns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Scenario, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Plan: files without settings, with one, and with one that does not exist. What is not said is what the Assigner ships: a
    /// hot key is replicated in a rehearsal as it would be in a cluster.
    #[test]
    fn what_a_file_does_not_say_is_what_ships() {
        let unsaid = read(r#"{"rounds": 3}"#).expect("rounds are enough").settings;
        assert_eq!(unsaid, shipped());
        assert_ne!(unsaid, Settings::default());
        assert!(unsaid.replicas_max > 1 && unsaid.churn_budget == 0.5);
        let said = read(r#"{"rounds": 3, "settings": {"replicas_max": 4}}"#).expect("a setting");
        assert_eq!(
            said.settings,
            Settings {
                replicas_max: 4,
                ..shipped()
            }
        );
        let wrong = read(r#"{"rounds": 3, "settings": {"replica_max": 4}}"#).expect_err("no such setting");
        assert!(wrong.to_string().contains("replica_max"), "{wrong}");
    }

    /// Plan: scenarios that are out of one range each. Each is refused by the name of the field.
    #[test]
    fn what_cannot_be_run_is_refused_by_name() {
        for (text, field) in [
            (r#"{"rounds": 3, "cluster": {"nodes": 5000}}"#, "cluster.nodes"),
            (r#"{"rounds": 3, "warm_up_rounds": 4294967295}"#, "warm_up_rounds"),
            (
                r#"{"rounds": 3, "settings": {"replicas_max": 34}}"#,
                "settings.replicas_max",
            ),
            (
                r#"{"rounds": 3, "membership": {"kind": "deaths", "every_rounds": 4294967295}}"#,
                "membership.every_rounds",
            ),
            (
                r#"{"rounds": 1000000, "membership": {"kind": "deaths", "every_rounds": 3}}"#,
                "rounds",
            ),
            (
                r#"{"rounds": 3, "cluster": {"zones": 2},
                    "membership": {"kind": "zone-loss", "at_round": 5, "back_at_round": 5}}"#,
                "membership.back_at_round",
            ),
            (
                r#"{"rounds": 3, "load": {"hot_keys": [{"when": "sometimes", "of_rounds": 10.0, "share": 0.1}]}}"#,
                "load.hot_keys.of_rounds",
            ),
            (
                r#"{"rounds": 3, "load": {"hot_keys": [{"when": "sometimes", "of_rounds": 0.1, "share": 0.5},
                    {"when": "during", "from_round": 1, "until_round": 2, "share": 0.6}]}}"#,
                "load.hot_keys.share",
            ),
        ] {
            let refused = read(text).expect("its form is right").validate();
            let is_named = matches!(refused, Err(ScenarioError::Range { name, .. }) if name == field);
            assert!(is_named, "{text}: {refused:?}");
        }
        // Crowds that do not meet may each take more than half, and many rounds are no matter where nobody comes back.
        let apart = r#"{"rounds": 1000000, "load": {"hot_keys": [
            {"when": "during", "from_round": 1, "until_round": 2, "share": 0.6},
            {"when": "during", "from_round": 2, "until_round": 3, "share": 0.6}]}}"#;
        assert_eq!(read(apart).expect("its form is right").validate(), Ok(()));
    }
}
