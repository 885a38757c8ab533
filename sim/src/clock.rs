//! [`Clock`]: a simulated process's own clock. Its origin differs from every other's, and its rate may, too.

use softstore_sharding::Timestamp;

use crate::env::Env;

/// See the head of this file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    offset_ms: u64,
    /// Its seconds in a million seconds of the simulation.
    rate_ppm: u64,
}

const MILLION: u64 = 1_000_000;

impl Clock {
    pub(crate) fn draw(env: &mut Env) -> Self {
        let drift_ppm = env.plan.drift_per_mille * 1_000;
        Self {
            offset_ms: env.random.below(MILLION),
            rate_ppm: env.random.between(MILLION - drift_ppm, MILLION + drift_ppm),
        }
    }

    pub(crate) fn now(self, env: &Env) -> Timestamp {
        let local_us = u128::from(env.now_us) * u128::from(self.rate_ppm) / u128::from(MILLION);
        let local_ms = u64::try_from(local_us / 1_000).unwrap_or(u64::MAX);
        Timestamp::from_ms(local_ms + self.offset_ms)
    }

    /// The first moment of the simulation at which this clock shows `at`.
    pub(crate) fn to_us(self, at: Timestamp) -> u64 {
        let local_us = u128::from(at.as_ms().saturating_sub(self.offset_ms)) * 1_000;
        let at_us = (local_us * u128::from(MILLION)).div_ceil(u128::from(self.rate_ppm));
        u64::try_from(at_us).unwrap_or(u64::MAX)
    }
}
