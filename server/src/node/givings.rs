//! [`Givings`]: how many streams this node gives to each taker at once, and how often it makes a list of what it gives. A list walks
//! all that was frozen; a taker whose stream breaks again and again, or that asks for the same again and again, must not keep
//! the store walking.
//!
//! Not here: what is given (`giving`), and whether it may be (`transfer::handoff`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use softstore_sharding::Life;
use tokio::time::Instant;

/// Streams to one taker at once. It has one for each answer to a `Take`, and one more where a broken one is not noticed yet.
const STREAMS_PER_TAKER_MAX: usize = 32;

/// Streams to all takers at once.
const STREAMS_MAX: usize = 512;

/// A taker's next list, for a stream that broke or for another, is made only after so many times as long as the last one took.
const LIST_REST_FACTOR: u32 = 4;

/// Takers that are remembered after their last stream.
const TAKERS_MAX: usize = 1_024;

/// The streams that this node gives.
#[derive(Debug, Default)]
pub(super) struct Givings(Arc<Mutex<HashMap<Life, Taker>>>);

#[derive(Debug)]
struct Taker {
    streams: usize,
    may_list: Instant,
}

/// A stream's place among them, until it is dropped.
#[derive(Debug)]
pub(super) struct GivingPlace {
    takers: Arc<Mutex<HashMap<Life, Taker>>>,
    taker: Life,
}

impl Givings {
    /// Takes a place for a stream; none if the taker, or all of them, have as many as they may.
    pub(super) fn enter(&self, taker: &Life) -> Option<GivingPlace> {
        let now = Instant::now();
        let mut takers = self.0.lock();
        if takers.len() >= TAKERS_MAX {
            takers.retain(|_, taker| taker.streams > 0);
        }
        let all: usize = takers.values().map(|taker| taker.streams).sum();
        let of_taker = takers.entry(taker.clone()).or_insert(Taker {
            streams: 0,
            may_list: now,
        });
        if all >= STREAMS_MAX || of_taker.streams >= STREAMS_PER_TAKER_MAX {
            return None;
        }
        of_taker.streams += 1;
        Some(GivingPlace {
            takers: self.0.clone(),
            taker: taker.clone(),
        })
    }
}

impl GivingPlace {
    /// When the taker's list may be made again.
    pub(super) fn may_list(&self) -> Instant {
        let takers = self.takers.lock();
        takers
            .get(&self.taker)
            .map_or_else(Instant::now, |taker| taker.may_list)
    }

    /// Its list was made, which took so long.
    pub(super) fn listed(&self, took: Duration) {
        if let Some(taker) = self.takers.lock().get_mut(&self.taker) {
            taker.may_list = Instant::now() + took * LIST_REST_FACTOR;
        }
    }
}

impl Drop for GivingPlace {
    fn drop(&mut self) {
        if let Some(taker) = self.takers.lock().get_mut(&self.taker) {
            taker.streams -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::mid_pull::peer;

    #[test]
    fn streams_are_bounded_for_each_taker_and_a_place_that_is_left_is_free() {
        let givings = Givings::default();
        let (greedy, other) = (peer("greedy", 1).life, peer("other", 2).life);
        let mut places: Vec<_> = (0..STREAMS_PER_TAKER_MAX)
            .map(|_| givings.enter(&greedy))
            .collect();
        assert!(places.iter().all(Option::is_some));
        assert!(givings.enter(&greedy).is_none());
        assert!(givings.enter(&other).is_some());
        places.pop();
        assert!(givings.enter(&greedy).is_some());
    }

    #[test]
    fn all_streams_and_takers_are_bounded() {
        let givings = Givings::default();
        let places = (0..2 * STREAMS_MAX).map(|number| givings.enter(&peer("n", number as u64).life));
        let places: Vec<_> = places.flatten().collect();
        assert_eq!(places.len(), STREAMS_MAX);
        drop(places);
        for number in 0..4 * TAKERS_MAX {
            drop(givings.enter(&peer("n", number as u64).life));
        }
        assert!(givings.0.lock().len() <= TAKERS_MAX);
    }

    #[test]
    fn a_list_is_made_again_after_a_rest() {
        let givings = Givings::default();
        let place = givings.enter(&peer("n", 1).life).unwrap();
        assert!(place.may_list() <= Instant::now());
        place.listed(Duration::from_secs(100));
        drop(place);
        let again = givings.enter(&peer("n", 1).life).unwrap();
        assert!(
            again.may_list() > Instant::now(),
            "what was listed is remembered beyond its stream"
        );
        again.listed(Duration::ZERO);
        assert!(again.may_list() <= Instant::now());
    }
}
