//! How often an entry is used: a decayed count (`Frequency`) that a reader bumps without a lock.
//!
//! The count halves every half-life and grows by 1 with each access, so at a steady rate it settles at
//! rate x half-life / ln 2: a *rate*, and therefore comparable across nodes with the same half-life. Its class is
//! floor(log2(count)) + 16, clamped to 0..=31: a single access just now is class 16, and an idle entry falls by one
//! class per half-life.
//!
//! Both engines share this file, so that a simulation on the model classes entries as a node does.

use std::sync::atomic::{AtomicU64, Ordering};

use softstore_sharding::{FrequencyClass, Timestamp};

/// The default half-life in milliseconds.
pub const FREQUENCY_HALF_LIFE_MS: u64 = 300_000;

/// The class of a count of 1.
const CLASS_OF_ONE: i32 = 16;

/// A tick is 2^6 = 64 ms: 32 bits of them last 8.7 years, and no half-life in use notices the rounding.
const TICK_SHIFT: u32 = 6;

/// Heats per class: 2^3.
const HEAT_FRACTION_BITS: u32 = 3;

/// How many heats there are.
pub(crate) const HEAT_COUNT: usize = (FrequencyClass::COUNT as usize) << HEAT_FRACTION_BITS;

const F32_MANTISSA_BITS: u32 = 23;

/// The exponent of class 0's counts, 2^-16, as a float's bits have it, in heats.
const HEAT_OF_CLASS_0: u32 = (127 - 16) << HEAT_FRACTION_BITS;

/// How fast counts decay.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decay {
    ticks_per_half_life: f32,
}

impl Decay {
    /// Decay by half every `half_life_ms`, at least 1 ms.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 24 bits")]
    pub(crate) fn with_half_life_ms(half_life_ms: u64) -> Self {
        let tick_ms = 1_u64 << TICK_SHIFT;
        Self {
            ticks_per_half_life: half_life_ms.max(1) as f32 / tick_ms as f32,
        }
    }

    /// How many half-lives passed from one tick to another; 0 if `to` is not later.
    #[expect(clippy::cast_precision_loss, reason = "an age needs no more than 24 bits")]
    pub(crate) fn half_lives(self, from: Tick, to: Tick) -> f32 {
        // Divided, not multiplied by an inverse: whole half-lives come out whole.
        to.since(from) as f32 / self.ticks_per_half_life
    }
}

/// A coarse moment that fits beside a count in 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tick(u32);

impl Tick {
    /// The tick that holds a moment.
    pub(crate) fn at(now: Timestamp) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "ticks wrap around; only differences are used"
        )]
        Self((now.as_ms() >> TICK_SHIFT) as u32)
    }

    /// The tick with this number.
    pub(crate) const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub(crate) const fn number(self) -> u32 {
        self.0
    }

    fn since(self, earlier: Self) -> u32 {
        let difference = self.0.wrapping_sub(earlier.0);
        // More than half way round means that `earlier` is in truth the later one.
        if difference > u32::MAX / 2 { 0 } else { difference }
    }
}

/// A decayed access count and the tick it was counted at, packed: count (f32 bits) above, tick below.
#[derive(Debug)]
pub(crate) struct Frequency(AtomicU64);

impl Frequency {
    /// A count as of `now`.
    pub(crate) fn with_count(count: f32, now: Timestamp) -> Self {
        Self(AtomicU64::new(pack(count, Tick::at(now))))
    }

    /// What an entry starts from that brings its class along: the middle of the class, so that it neither rises nor
    /// falls by being moved, however often.
    pub(crate) fn of_class(class: FrequencyClass, now: Timestamp) -> Self {
        let exponent = f32::from(class.get()) - 16.0;
        Self::with_count(1.5 * exponent.exp2(), now)
    }

    /// The decayed count at `now`.
    pub(crate) fn count_at(&self, now: Timestamp, decay: Decay) -> f32 {
        decayed(self.0.load(Ordering::Relaxed), Tick::at(now), decay)
    }

    /// The class at `now`.
    pub(crate) fn class_at(&self, now: Timestamp, decay: Decay) -> FrequencyClass {
        class_of_count(self.count_at(now, decay))
    }

    /// The heat at `now`: the class's eighth, 0 to [`HEAT_COUNT`] - 1, hotter is higher.
    pub(crate) fn heat_at(&self, now: Timestamp, decay: Decay) -> usize {
        // The bits of floats that are not negative order as they do: exponent first, then the mantissa from its top.
        let eighth = self.count_at(now, decay).to_bits() >> (F32_MANTISSA_BITS - HEAT_FRACTION_BITS);
        let above = eighth.saturating_sub(HEAT_OF_CLASS_0);
        usize::try_from(above).map_or(HEAT_COUNT - 1, |heat| heat.min(HEAT_COUNT - 1))
    }

    /// Counts one access. Of accesses at the same instant one may be all that counts: the class is a logarithm, and a
    /// locked instruction would cost each reader as much as the rest of the count.
    pub(crate) fn record(&self, now: Timestamp, decay: Decay) {
        let tick = Tick::at(now);
        let held = self.0.load(Ordering::Relaxed);
        self.0
            .store(pack(decayed(held, tick, decay) + 1.0, tick), Ordering::Relaxed);
    }
}

impl Clone for Frequency {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

fn pack(count: f32, tick: Tick) -> u64 {
    u64::from(count.to_bits()) << 32 | u64::from(tick.0)
}

#[expect(clippy::cast_possible_truncation, reason = "takes the two halves apart")]
fn decayed(packed: u64, now: Tick, decay: Decay) -> f32 {
    let count = f32::from_bits((packed >> 32) as u32);
    let half_lives = decay.half_lives(Tick(packed as u32), now);
    if half_lives == 0.0 {
        return count;
    }
    count * (-half_lives).exp2()
}

/// floor(log2(count)) + 16, clamped. A positive float's exponent is its floor(log2).
fn class_of_count(count: f32) -> FrequencyClass {
    let exponent = i32::try_from(count.to_bits() >> F32_MANTISSA_BITS & 0xff).unwrap_or(0) - 127;
    let class = (exponent + CLASS_OF_ONE).clamp(0, i32::from(FrequencyClass::COUNT - 1));
    FrequencyClass::clamped(u8::try_from(class).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_LIFE_MS: u64 = 64_000;

    fn decay() -> Decay {
        Decay::with_half_life_ms(HALF_LIFE_MS)
    }

    #[test]
    fn one_access_is_class_16_and_falls_one_class_per_half_life() {
        let start = Timestamp::from_ms(1_000_000);
        let frequency = Frequency::with_count(1.0, start);
        for half_lives in 0..20_u8 {
            let later = start.plus_ms(u64::from(half_lives) * HALF_LIFE_MS);
            assert_eq!(
                frequency.class_at(later, decay()).get(),
                16_u8.saturating_sub(half_lives)
            );
        }
        assert_eq!(
            frequency.class_at(start.plus_ms(1 << 36), decay()),
            FrequencyClass::COLDEST
        );
    }

    #[test]
    fn the_class_is_the_logarithm_of_the_count() {
        let now = Timestamp::from_ms(5);
        let frequency = Frequency::with_count(0.0, now);
        assert_eq!(frequency.class_at(now, decay()), FrequencyClass::COLDEST);
        for count in 1..=100_000_u32 {
            frequency.record(now, decay());
            let expected = 16 + count.ilog2().min(15);
            assert_eq!(u32::from(frequency.class_at(now, decay()).get()), expected);
        }
    }

    #[test]
    fn heat_refines_the_class() {
        let now = Timestamp::from_ms(5);
        let mut last = 0;
        for step in 0..4_000_u16 {
            let count = (f32::from(step) / 100.0 - 20.0).exp2();
            let frequency = Frequency::with_count(count, now);
            let heat = frequency.heat_at(now, decay());
            assert!(heat >= last && heat < HEAT_COUNT);
            assert_eq!(heat >> 3, usize::from(frequency.class_at(now, decay()).get()));
            last = heat;
        }
        assert_eq!(Frequency::with_count(0.0, now).heat_at(now, decay()), 0);
    }

    #[test]
    fn a_class_survives_being_moved_and_a_clock_that_steps_back() {
        let now = Timestamp::from_ms(10 * HALF_LIFE_MS);
        for number in 0..FrequencyClass::COUNT {
            let class = FrequencyClass::clamped(number);
            let frequency = Frequency::of_class(class, now);
            assert_eq!(frequency.class_at(now, decay()), class);
            assert_eq!(frequency.class_at(now.plus_ms(HALF_LIFE_MS / 2), decay()), class);
            assert_eq!(frequency.class_at(Timestamp::from_ms(1), decay()), class);
        }
    }
}
