//! Percentiles of the gaps, as a table or as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;
use softstore_server::config::Ownership;

use crate::rounds::Gaps;

/// The whole run. Its JSON is stable: `{"nodes":n,"keys":n,"every_ms":n,"modes":[{"ownership":s,"calm":P,"planned":P,
/// "drained":P,"joined":P,"stayed":P,"killed":P,"detection":P,"assigner":P}]}` with `P = {"gaps":n,"p50_ms":f,"p99_ms":f,"max_ms":f}`, all 0 if there are none.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    nodes: u32,
    keys: u32,
    every_ms: u64,
    modes: Vec<Mode>,
}

/// One mode of ownership.
#[derive(Debug, Serialize)]
struct Mode {
    ownership: String,
    calm: Percentiles,
    planned: Percentiles,
    drained: Percentiles,
    joined: Percentiles,
    stayed: Percentiles,
    killed: Percentiles,
    detection: Percentiles,
    assigner: Percentiles,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Percentiles {
    gaps: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Percentiles {
    fn of(gaps: &[Duration]) -> Self {
        let mut sorted: Vec<f64> = gaps.iter().map(|gap| gap.as_secs_f64() * 1_000.0).collect();
        sorted.sort_by(f64::total_cmp);
        // The smallest that is not exceeded by so many in a hundred.
        let at = |percent: usize| {
            let rank = (sorted.len() * percent).div_ceil(100).max(1);
            sorted.get(rank - 1).copied().unwrap_or(0.0)
        };
        Self {
            gaps: sorted.len(),
            p50_ms: at(50),
            p99_ms: at(99),
            max_ms: at(100),
        }
    }
}

impl Report {
    pub(crate) fn new(nodes: u32, keys: u32, every_ms: u64) -> Self {
        Self {
            nodes,
            keys,
            every_ms,
            modes: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, ownership: Ownership, gaps: &Gaps) {
        self.modes.push(Mode {
            ownership: ownership.to_string(),
            calm: Percentiles::of(&gaps.calm),
            planned: Percentiles::of(&[gaps.drained.as_slice(), &gaps.joined].concat()),
            drained: Percentiles::of(&gaps.drained),
            joined: Percentiles::of(&gaps.joined),
            stayed: Percentiles::of(&gaps.stayed),
            killed: Percentiles::of(&gaps.killed),
            detection: Percentiles::of(&gaps.detection),
            assigner: Percentiles::of(&gaps.assigner),
        });
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "{} nodes, {} keys, an operation on each every {} ms\n\
             the longest time without an acknowledged operation, per slice and event, in ms\n\n\
             {:>10}  {:<33} {:>6} {:>9} {:>9} {:>9}\n",
            self.nodes, self.keys, self.every_ms, "ownership", "event", "gaps", "p50", "p99", "max"
        );
        for mode in &self.modes {
            for (event, of) in [
                ("none, in half a second", mode.calm),
                ("planned move", mode.planned),
                ("  from a node that left", mode.drained),
                ("  to a node that came", mode.joined),
                ("meanwhile, slices that stayed", mode.stayed),
                ("owner killed", mode.killed),
                ("  of that, until known as dead", mode.detection),
                ("Assigner killed and replaced", mode.assigner),
            ] {
                let _ = writeln!(
                    table,
                    "{:>10}  {event:<33} {:>6} {:>9.2} {:>9.2} {:>9.2}",
                    mode.ownership, of.gaps, of.p50_ms, of.p99_ms, of.max_ms
                );
            }
        }
        table
    }
}
