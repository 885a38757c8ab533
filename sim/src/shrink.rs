//! [`shrink`]: from a run that breaks an invariant to a smaller one that breaks the same: a shorter time, fewer clients,
//! fewer faults. What is left is told to `simulate` on its command line.

use std::collections::BTreeSet;

use crate::config::SimConfig;
use crate::run::{faults_drawn, run};

/// Most runs that are spent on it.
const RUNS_MAX: usize = 150;

/// A smaller configuration with which the seed still breaks `invariant`; the given one if there is none.
#[must_use]
pub fn shrink(seed: u64, config: &SimConfig, invariant: &str) -> SimConfig {
    let mut search = Search {
        seed,
        invariant,
        runs_left: RUNS_MAX,
        best: SimConfig {
            trace: false,
            ..config.clone()
        },
    };
    search.shorten();
    search.thin_out_clients();
    search.thin_out_faults();
    search.shorten();
    SimConfig {
        trace: config.trace,
        ..search.best
    }
}

struct Search<'a> {
    seed: u64,
    invariant: &'a str,
    runs_left: usize,
    best: SimConfig,
}

impl Search<'_> {
    /// Takes a smaller configuration if it breaks the same.
    fn try_one(&mut self, smaller: SimConfig) -> bool {
        if self.runs_left == 0 {
            return false;
        }
        self.runs_left -= 1;
        let violations = run(self.seed, &smaller).violations;
        let breaks = violations
            .iter()
            .any(|violation| violation.invariant == self.invariant);
        if breaks {
            self.best = smaller;
        }
        breaks
    }

    fn shorten(&mut self) {
        for per_cent in [25, 50, 75, 90] {
            let active_ms = self.best.active_ms * per_cent / 100;
            let smaller = SimConfig {
                active_ms,
                ..self.best.clone()
            };
            if self.try_one(smaller) {
                return self.shorten();
            }
        }
    }

    fn thin_out_clients(&mut self) {
        for clients in 1..=3 {
            let smaller = SimConfig {
                clients_max: Some(clients),
                ..self.best.clone()
            };
            if self.best.clients_max.is_none_or(|most| clients < most) && self.try_one(smaller) {
                return;
            }
        }
    }

    /// Leaves out ever smaller groups of faults.
    fn thin_out_faults(&mut self) {
        let drawn = faults_drawn(self.seed, &self.best);
        let mut kept: Vec<usize> = match &self.best.faults_kept {
            None => (0..drawn).collect(),
            Some(kept) => kept.iter().copied().filter(|number| *number < drawn).collect(),
        };
        let mut group = kept.len();
        while group > 0 && !kept.is_empty() {
            let mut from = 0;
            while from < kept.len() {
                let to = (from + group).min(kept.len());
                let fewer: Vec<usize> = [&kept[..from], &kept[to..]].concat();
                let smaller = SimConfig {
                    faults_kept: Some(fewer.iter().copied().collect::<BTreeSet<usize>>()),
                    ..self.best.clone()
                };
                if self.try_one(smaller) {
                    kept = fewer;
                } else {
                    from = to;
                }
            }
            group /= 2;
        }
    }
}
