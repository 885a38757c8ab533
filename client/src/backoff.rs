//! How long to wait before trying again: exponential with jitter, bounded.

use std::time::Duration;

/// The waits of one sequence of attempts. The first failure costs `first` at most, each further one twice that, up to
/// `most`; the wait is drawn from the upper half, so that many clients do not return in step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    next: Duration,
    most: Duration,
}

impl Backoff {
    /// Between attempts of one operation.
    pub(crate) const OPERATION: Self = Self {
        next: Duration::from_millis(2),
        most: Duration::from_millis(100),
    };

    /// Between attempts to connect.
    pub(crate) const CONNECT: Self = Self {
        next: Duration::from_millis(10),
        most: Duration::from_millis(1_000),
    };

    /// Before asking other nodes than the one that is followed, while an owner is out of reach.
    pub(crate) const DOUBT: Self = Self {
        next: Duration::from_millis(1_000),
        most: Duration::from_millis(8_000),
    };

    /// The next wait.
    pub(crate) fn pause(&mut self) -> Duration {
        let ceiling = self.next;
        self.next = (self.next * 2).min(self.most);
        ceiling.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        let mut backoff = Backoff::OPERATION;
        let waits: Vec<Duration> = (0..12).map(|_| backoff.pause()).collect();
        assert!(waits[0] >= Duration::from_millis(1) && waits[0] <= Duration::from_millis(2));
        assert!(waits[3] > waits[0]);
        assert!(
            waits[8..]
                .iter()
                .all(|wait| (50..=100).contains(&wait.as_millis()))
        );
    }
}
