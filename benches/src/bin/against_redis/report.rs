//! Medians and ratios, as a table or as JSON.

use std::fmt::Write;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use softstore_benches::measured::median;

use crate::measure::Sample;

/// The whole comparison. Its JSON is stable: `{"keys":n,"value_bytes":n,"rounds":n,"pinning":s,"cells":[{"in_flight":n,
/// "get_percent":n,"softstore":C,"redis":C,"redis_untimed":C,"ratio":f,"ratio_untimed":f}]}` with `C =
/// {"ops_per_second":f,"client_cpu_us":f,"server_cpu_us":f}`, all medians over the rounds; a ratio is the median over the
/// rounds of softstore's rate over Redis' in the same round.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    keys: u64,
    value_bytes: u32,
    rounds: u32,
    pinning: String,
    cells: Vec<Cell>,
}

/// One load.
#[derive(Debug)]
pub(crate) struct Cell {
    in_flight: u32,
    get_percent: u32,
    pub(crate) softstore: Samples,
    pub(crate) redis: Samples,
    pub(crate) redis_untimed: Samples,
}

/// One contestant's samples under one load, a round each.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Sample>);

impl Samples {
    pub(crate) fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    fn median_of(&self, figure: impl Fn(&Sample) -> f64) -> f64 {
        median(&self.0.iter().map(figure).collect::<Vec<f64>>())
    }

    fn ops_per_second(&self) -> f64 {
        self.median_of(|sample| sample.ops_per_second)
    }

    /// The median of the ratios to another's samples of the same rounds: what slows a whole round cancels out.
    fn ratio_to(&self, other: &Self) -> f64 {
        let pairs = self.0.iter().zip(&other.0);
        median(
            &pairs
                .map(|(own, other)| own.ops_per_second / other.ops_per_second)
                .collect::<Vec<f64>>(),
        )
    }
}

impl Serialize for Samples {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut medians = serializer.serialize_struct("Samples", 3)?;
        medians.serialize_field("ops_per_second", &self.ops_per_second())?;
        medians.serialize_field("client_cpu_us", &self.median_of(|sample| sample.client_cpu_us))?;
        medians.serialize_field("server_cpu_us", &self.median_of(|sample| sample.server_cpu_us))?;
        medians.end()
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut cell = serializer.serialize_struct("Cell", 7)?;
        cell.serialize_field("in_flight", &self.in_flight)?;
        cell.serialize_field("get_percent", &self.get_percent)?;
        cell.serialize_field("softstore", &self.softstore)?;
        cell.serialize_field("redis", &self.redis)?;
        cell.serialize_field("redis_untimed", &self.redis_untimed)?;
        cell.serialize_field("ratio", &self.softstore.ratio_to(&self.redis))?;
        cell.serialize_field("ratio_untimed", &self.softstore.ratio_to(&self.redis_untimed))?;
        cell.end()
    }
}

impl Report {
    pub(crate) fn new(keys: u64, value_bytes: u32, rounds: u32, pinning: String) -> Self {
        Self {
            keys,
            value_bytes,
            rounds,
            pinning,
            cells: Vec::new(),
        }
    }

    /// The samples under a load.
    pub(crate) fn cell(&mut self, in_flight: u32, get_percent: u32) -> &mut Cell {
        let known = self
            .cells
            .iter()
            .position(|cell| (cell.in_flight, cell.get_percent) == (in_flight, get_percent));
        let index = known.unwrap_or_else(|| {
            let (softstore, redis, redis_untimed) = Default::default();
            self.cells.push(Cell {
                in_flight,
                get_percent,
                softstore,
                redis,
                redis_untimed,
            });
            self.cells.len() - 1
        });
        &mut self.cells[index]
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut table = format!(
            "{} keys of 24 B, values of {} B, medians of {} rounds; {}\n\
             operations per second, and processor time per operation in us (client + server)\n\n\
             {:>9} {:>5}  {:>22}  {:>22}  {:>22}  {:>6}  {:>8}\n",
            self.keys,
            self.value_bytes,
            self.rounds,
            self.pinning,
            "in flight",
            "gets",
            "softstore",
            "redis-rs",
            "redis-rs, no timeout",
            "ratio",
            "(no t/o)",
        );
        for cell in &self.cells {
            let _ = writeln!(
                table,
                "{:>9} {:>4}%  {:>22}  {:>22}  {:>22}  {:>5.2}x  {:>7.2}x",
                cell.in_flight,
                cell.get_percent,
                one(&cell.softstore),
                one(&cell.redis),
                one(&cell.redis_untimed),
                cell.softstore.ratio_to(&cell.redis),
                cell.softstore.ratio_to(&cell.redis_untimed),
            );
        }
        table
    }
}

fn one(samples: &Samples) -> String {
    format!(
        "{:.0} ({:.2} + {:.2})",
        samples.ops_per_second(),
        samples.median_of(|sample| sample.client_cpu_us),
        samples.median_of(|sample| sample.server_cpu_us),
    )
}
