//! [`Loads`]: each round's load, drawn from the seed.

use std::f64::consts::TAU;

use softstore_sharding::sharder::auto::{HotSpot, Part};
use softstore_sharding::{Slice, SliceKey};

use super::description::{DensityShape, HotKeyShape, LoadShape};
use super::truth::{Truth, equal_parts};
use crate::random::Random;

/// Of a Zipf distribution, so many of the hottest keys are keys of their own. The rest is even: no part of it stands out.
const ZIPF_KEYS_APART: u64 = 20_000;

/// Bytes of a hot key's entry.
const HOT_KEY_BYTES: f64 = 1_024.0;

/// Draws one round's load after the other.
pub(super) struct Loads<'a> {
    shape: &'a LoadShape,
    random: Random,
    /// Of all nodes.
    bytes: f64,
    /// What does not change from round to round, with a whole of 1.
    base: Option<Truth>,
    /// Logarithms of the drifting slices' loads, over their deviation.
    drifting: Vec<f64>,
    /// Where the keys are that are hot for a while.
    spots: Vec<SliceKey>,
}

impl<'a> Loads<'a> {
    pub(super) fn new(shape: &'a LoadShape, seed: u64, capacity_bytes: f64) -> Self {
        let mut random = Random::new(seed ^ 0x10ad);
        let spots = shape
            .hot_keys
            .iter()
            .map(|_| SliceKey::new(random.bits()))
            .collect();
        let bytes = capacity_bytes * shape.bytes_of_capacity;
        let mut loads = Self {
            shape,
            random,
            bytes,
            base: None,
            drifting: Vec::new(),
            spots,
        };
        loads.base = match shape.density {
            DensityShape::Even { parts } => Some(loads.even(parts, 1.0, Vec::new())),
            DensityShape::Zipf {
                keys,
                exponent,
                parts,
            } => Some(loads.zipf(keys, exponent, parts)),
            DensityShape::Drifting { slices, .. } => {
                loads.drifting = (0..slices).map(|_| normal(&mut loads.random)).collect();
                None
            }
            DensityShape::RandomSlices { .. } => None,
        };
        loads
    }

    /// The load of a round in which the living nodes bear so much.
    pub(super) fn step(&mut self, round: u32, capacity_load: f64) -> Truth {
        let (from, to) = self.shape.of_capacity;
        let drawn = from + (to - from) * unit(&mut self.random);
        let turn = f64::from(round % self.shape.wave_rounds) / f64::from(self.shape.wave_rounds);
        let whole = capacity_load * drawn * (1.0 + self.shape.wave * (TAU * turn).sin());
        let mut truth = match (&self.base, &self.shape.density) {
            (Some(base), _) => base.clone(),
            (None, DensityShape::RandomSlices { slices }) => self.random_slices(*slices),
            (None, DensityShape::Drifting { sigma, drift, .. }) => self.drift(*sigma, *drift),
            (None, _) => Truth::default(),
        };
        if self.shape.noise > 0.0 {
            let (random, noise) = (&mut self.random, self.shape.noise);
            truth = truth.wavering(|| (1.0 + noise * normal(random)).max(0.0));
        }
        let hot = self.hot_keys(round);
        self.scaled(&truth, &hot, whole)
    }

    /// Which keys are hot in this round, with their parts of the load.
    fn hot_keys(&mut self, round: u32) -> Vec<(SliceKey, f64)> {
        let mut hot = Vec::new();
        for (shape, spot) in self.shape.hot_keys.iter().zip(&self.spots) {
            match *shape {
                HotKeyShape::Sometimes { of_rounds, share } => {
                    let (chance, at) = (unit(&mut self.random), self.random.bits());
                    if chance < of_rounds {
                        hot.push((SliceKey::new(at), share));
                    }
                }
                HotKeyShape::During {
                    from_round,
                    until_round,
                    share,
                } => {
                    if (from_round..until_round).contains(&round) {
                        hot.push((*spot, share));
                    }
                }
            }
        }
        hot
    }

    /// With this whole, of which the hot keys take their parts.
    fn scaled(&self, truth: &Truth, hot: &[(SliceKey, f64)], whole: f64) -> Truth {
        let taken: f64 = hot.iter().map(|(_, share)| share).sum::<f64>().min(1.0);
        let base = truth.total().load.max(f64::MIN_POSITIVE);
        let by = whole * (1.0 - taken) / base;
        let hit_part = self.shape.hit_part;
        let (mut parts, mut keys) = truth.apart();
        for part in &mut parts {
            part.load *= by;
            part.hits = part.load * hit_part;
        }
        for key in &mut keys {
            key.load *= by;
        }
        keys.extend(hot.iter().map(|(at, share)| HotSpot {
            at: *at,
            load: whole * share,
            bytes: HOT_KEY_BYTES,
        }));
        Truth::new(parts, keys, hit_part)
    }

    fn even(&self, parts: u32, load: f64, keys: Vec<HotSpot>) -> Truth {
        let mut parts = equal_parts(parts);
        let count = parts.len() as f64;
        for part in &mut parts {
            part.load = load / count;
            part.bytes = self.bytes / count;
        }
        Truth::new(parts, keys, self.shape.hit_part)
    }

    /// Each key has the same bytes; what draws the load is where its hash says.
    fn zipf(&self, keys: u64, exponent: f64, parts: u32) -> Truth {
        let weight = |rank: u64| (rank as f64).powf(-exponent);
        let all: f64 = (1..=keys).map(weight).sum();
        let apart = keys.min(ZIPF_KEYS_APART);
        let spots: Vec<HotSpot> = (1..=apart)
            .map(|rank| HotSpot {
                at: SliceKey::of_key(format!("key:{rank}").as_bytes()),
                load: weight(rank) / all,
                bytes: self.bytes / keys as f64,
            })
            .collect();
        let rest = 1.0 - spots.iter().map(|spot| spot.load).sum::<f64>();
        self.even(parts, rest, spots)
    }

    fn random_slices(&mut self, slices: u32) -> Truth {
        let mut borders: Vec<u64> = (1..slices).map(|_| self.random.bits()).collect();
        borders.push(0);
        borders.sort_unstable();
        borders.dedup();
        let ends = borders.iter().skip(1).map(|border| Some(SliceKey::new(*border)));
        let bounds: Vec<(u64, Option<SliceKey>)> = borders.iter().copied().zip(ends.chain([None])).collect();
        let parts = bounds.into_iter().filter_map(|(low, high)| {
            let slice = Slice::new(SliceKey::new(low), high)?;
            Some(Part {
                slice,
                load: -(1.0 - unit(&mut self.random)).ln(),
                bytes: self.bytes * slice.width() as f64 / Slice::FULL.width() as f64,
                hits: 0.0,
            })
        });
        Truth::new(parts.collect(), Vec::new(), self.shape.hit_part)
    }

    fn drift(&mut self, sigma: f64, drift: f64) -> Truth {
        let kept = (1.0 - drift * drift).sqrt();
        for value in &mut self.drifting {
            *value = kept * *value + drift * normal(&mut self.random);
        }
        let count = u32::try_from(self.drifting.len()).unwrap_or(u32::MAX);
        let mut parts = equal_parts(count);
        for (part, value) in parts.iter_mut().zip(&self.drifting) {
            part.load = (sigma * value).exp();
            part.bytes = self.bytes / f64::from(count);
        }
        Truth::new(parts, Vec::new(), self.shape.hit_part)
    }
}

/// Evenly from 0 to 1.
pub(super) fn unit(random: &mut Random) -> f64 {
    (random.bits() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Normally distributed with mean 0 and deviation 1 (Box and Muller, 1958).
fn normal(random: &mut Random) -> f64 {
    let radius = (-2.0 * (1.0 - unit(random)).ln()).sqrt();
    radius * (TAU * unit(random)).cos()
}
