//! [`Pacer`]: how fast a giver sends. Foreground latency goes first, but a pull keeps a minimum rate.
//!
//! Additive increase, multiplicative decrease (Chiu and Jain, 1989) on the delay that foreground work sees, which the
//! shell measures as the lateness of a short timer on the same executor. Each late probe cuts the rate, each
//! punctual one raises it. The rate never falls below the minimum, so a pull ends however busy the node is.

use thiserror::Error;

/// A probe later than this cuts the rate.
pub const LAG_US_MAX: u64 = 2_000;

/// A probe earlier than this raises the rate.
pub const LAG_US_FREE: u64 = 700;

/// Highest rate, in bytes per second: more than memory can copy here.
pub const RATE_BYTES_PER_SECOND_MAX: u64 = 8 << 30;

/// Rate that a pull begins at, in bytes per second, unless the minimum is higher.
pub const RATE_BYTES_PER_SECOND_START: u64 = 256 << 20;

/// Waits shorter than this are carried forward as debt: a timer would not be that precise.
const WAIT_US_MIN: u64 = 1_000;

/// The minimum rate is zero, or above the maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the minimum rate is {0} bytes per second; it must be 1 to {RATE_BYTES_PER_SECOND_MAX}")]
pub struct RateError(u64);

/// Decides when the next chunk may be sent.
#[derive(Clone, Debug)]
pub struct Pacer {
    rate_bytes_per_second: u64,
    rate_min: u64,
    /// When what was sent so far is paid for, in microseconds of the caller's clock.
    paid_until_us: u64,
}

impl Pacer {
    /// A pacer with a minimum rate.
    ///
    /// # Errors
    /// If the minimum is 0 or above [`RATE_BYTES_PER_SECOND_MAX`].
    pub fn new(rate_bytes_per_second_min: u64) -> Result<Self, RateError> {
        if !(1..=RATE_BYTES_PER_SECOND_MAX).contains(&rate_bytes_per_second_min) {
            return Err(RateError(rate_bytes_per_second_min));
        }
        let start = RATE_BYTES_PER_SECOND_START.max(rate_bytes_per_second_min);
        Ok(Self {
            rate_bytes_per_second: start,
            rate_min: rate_bytes_per_second_min,
            paid_until_us: 0,
        })
    }

    /// Takes note of a probe that came `lag_us` late.
    pub fn probed(&mut self, lag_us: u64) {
        if lag_us > LAG_US_MAX {
            self.rate_bytes_per_second = (self.rate_bytes_per_second / 2).max(self.rate_min);
        } else if lag_us < LAG_US_FREE {
            let step = (self.rate_bytes_per_second / 8).max(1);
            self.rate_bytes_per_second = (self.rate_bytes_per_second + step).min(RATE_BYTES_PER_SECOND_MAX);
        }
    }

    /// Takes note of `bytes` sent at `now_us`; returns how long to wait before the next chunk, in microseconds.
    pub fn sent(&mut self, bytes: u64, now_us: u64) -> u64 {
        let cost_us = u128::from(bytes) * 1_000_000 / u128::from(self.rate_bytes_per_second);
        let cost_us = u64::try_from(cost_us).unwrap_or(u64::MAX);
        self.paid_until_us = self.paid_until_us.max(now_us).saturating_add(cost_us);
        let debt_us = self.paid_until_us - now_us;
        if debt_us < WAIT_US_MIN { 0 } else { debt_us }
    }

    /// The present rate in bytes per second.
    #[must_use]
    pub fn rate_bytes_per_second(&self) -> u64 {
        self.rate_bytes_per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn keeps_the_minimum_however_busy() {
        let mut pacer = Pacer::new(64 * MIB).expect("valid");
        for _ in 0..100 {
            pacer.probed(50_000);
        }
        assert_eq!(pacer.rate_bytes_per_second(), 64 * MIB);
        // 64 MiB sent in steps of 256 KiB take a second, waits included.
        let mut now_us = 5_000;
        for _ in 0..256 {
            now_us += pacer.sent(256 * 1024, now_us);
        }
        assert!((990_000..=1_010_000).contains(&(now_us - 5_000)), "{now_us}");
    }

    #[test]
    fn speeds_up_when_nobody_waits() {
        let mut pacer = Pacer::new(MIB).expect("valid");
        for _ in 0..200 {
            pacer.probed(10);
        }
        assert_eq!(pacer.rate_bytes_per_second(), RATE_BYTES_PER_SECOND_MAX);
        assert_eq!(pacer.sent(256 * 1024, 1_000_000), 0);
    }

    #[test]
    fn an_idle_stretch_earns_no_burst() {
        let mut pacer = Pacer::new(MIB).expect("valid");
        let _ = pacer.sent(100 * MIB, 0);
        // Long after the debt was paid, the next chunk costs its own time again.
        let wait = pacer.sent(256 * MIB, 3_600_000_000);
        assert!((990_000..=1_010_000).contains(&wait), "{wait}");
    }

    #[test]
    fn zero_is_no_rate() {
        assert!(Pacer::new(0).is_err());
        assert!(Pacer::new(RATE_BYTES_PER_SECOND_MAX + 1).is_err());
    }
}
