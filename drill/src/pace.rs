//! The open loop: every request is due at its own moment, whether or not the ones before it have been answered.
//!
//! A thread of its own makes requests due (the runtime's timers are too coarse for that); one task sends them out, each as a
//! task of its own, up to a bound. When that many are in flight, due requests wait, and their latency still counts from the
//! moment they were due: a slow cluster cannot slow down its own measurement.

use std::io;
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};
use tokio_util::task::AbortOnDropHandle;

use crate::replay::Replay;
use crate::target::Target;

/// The pacing thread sleeps no shorter than this, so that high rates do not cost a processor.
const TICK_MIN: Duration = Duration::from_micros(100);
/// Requests in flight while warming up: enough to keep a cluster busy, few enough to keep its queues short.
const WARM_UP_IN_FLIGHT: usize = 64;

/// Requests a second as exact arithmetic between positions and moments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) per_second: u32,
}

impl Rate {
    /// When a position is due, from the start.
    pub(crate) fn due_us(self, position: u64) -> u64 {
        let us = u128::from(position) * 1_000_000 / u128::from(self.per_second);
        u64::try_from(us).unwrap_or(u64::MAX)
    }

    /// How many positions are due after that time: the first is due at once.
    pub(crate) fn due_count(self, elapsed: Duration) -> u64 {
        let count = elapsed.as_micros() * u128::from(self.per_second) / 1_000_000 + 1;
        u64::try_from(count).unwrap_or(u64::MAX)
    }
}

/// Replays positions as fast as they are answered, a bounded number at once.
pub(crate) async fn warm_up<T: Target>(replay: &Arc<Replay<T>>, positions: Range<u64>) {
    let next = Arc::new(AtomicU64::new(positions.start));
    let mut tasks = JoinSet::new();
    for _ in 0..WARM_UP_IN_FLIGHT {
        let (replay, next, end) = (replay.clone(), next.clone(), positions.end);
        tasks.spawn(async move {
            loop {
                let position = next.fetch_add(1, Ordering::Relaxed);
                if position >= end {
                    break;
                }
                replay.run(position, Instant::now()).await;
            }
        });
    }
    tasks.join_all().await;
}

/// A running open loop over the positions from the warm-up's end.
#[derive(Debug)]
pub(crate) struct OpenLoop {
    state: Arc<State>,
    /// The one task that sends requests out, and owns theirs.
    sender: AbortOnDropHandle<()>,
}

#[derive(Debug)]
struct State {
    start: Instant,
    rate: Rate,
    due: Semaphore,
    /// Measured positions made due so far.
    issued: AtomicU64,
    /// First measured position that is not replayed.
    end: AtomicU64,
    stop: AtomicBool,
    /// Requests that were due and had to wait because too many were in flight.
    held_up: AtomicU64,
}

impl OpenLoop {
    /// Starts to replay up to `positions_max` measured positions.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn start<T: Target>(
        replay: &Arc<Replay<T>>,
        rate: Rate,
        in_flight_max: usize,
        positions_max: u64,
    ) -> io::Result<Self> {
        let state = Arc::new(State {
            start: Instant::now(),
            rate,
            due: Semaphore::new(0),
            issued: AtomicU64::new(0),
            end: AtomicU64::new(positions_max),
            stop: AtomicBool::new(false),
            held_up: AtomicU64::new(0),
        });
        let sender = AbortOnDropHandle::new(tokio::spawn(send(replay.clone(), state.clone(), in_flight_max)));
        let pacing = state.clone();
        thread::Builder::new()
            .name("drill-pace".to_owned())
            .spawn(move || pacing.pace())?;
        Ok(Self { state, sender })
    }

    /// When position 0 was due.
    pub(crate) fn started(&self) -> Instant {
        self.state.start
    }

    /// Measured positions made due so far: the next request sent has this position or a higher one.
    pub(crate) fn position(&self) -> u64 {
        self.state.issued.load(Ordering::Acquire)
    }

    /// [`Self::position`] for others.
    pub(crate) fn position_handle(&self) -> PositionHandle {
        PositionHandle(self.state.clone())
    }

    /// All positions have been made due, before [`Self::stop`] was called.
    pub(crate) fn ran_out(&self) -> bool {
        self.position() >= self.state.end.load(Ordering::Acquire)
    }

    /// Makes no more requests due, and waits for those that are.
    pub(crate) async fn stop(self) -> Replayed {
        self.state.stop.store(true, Ordering::Release);
        self.run_out().await
    }

    /// Waits until all positions have been replayed.
    pub(crate) async fn run_out(mut self) -> Replayed {
        let sent = (&mut self.sender).await;
        raise_panic(sent);
        Replayed {
            positions: self.state.end.load(Ordering::Acquire),
            held_up: self.state.held_up.load(Ordering::Acquire),
        }
    }
}

/// What an open loop did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Measured positions, all of them ended.
    pub(crate) positions: u64,
    /// Requests that had to wait because too many were in flight.
    pub(crate) held_up: u64,
}

/// Tells how far an open loop is.
#[derive(Debug, Clone)]
pub(crate) struct PositionHandle(Arc<State>);

impl PositionHandle {
    /// As [`OpenLoop::position`].
    pub(crate) fn get(&self) -> u64 {
        self.0.issued.load(Ordering::Acquire)
    }
}

impl Drop for OpenLoop {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::Release);
    }
}

impl State {
    fn pace(&self) {
        loop {
            let end = self.end.load(Ordering::Acquire);
            let issued = self.issued.load(Ordering::Acquire);
            let due = self.rate.due_count(self.start.elapsed()).min(end);
            if due > issued {
                // Told before they go out, so that a position read afterwards is one not yet sent.
                self.issued.store(due, Ordering::Release);
                self.due
                    .add_permits(usize::try_from(due - issued).unwrap_or(Semaphore::MAX_PERMITS));
            }
            if due == end || self.stop.load(Ordering::Acquire) {
                self.end.store(due, Ordering::Release);
                // One more, for the sender to find that nothing is left.
                self.due.add_permits(1);
                return;
            }
            let next = Duration::from_micros(self.rate.due_us(due));
            thread::sleep(next.saturating_sub(self.start.elapsed()).max(TICK_MIN));
        }
    }
}

async fn send<T: Target>(replay: Arc<Replay<T>>, state: Arc<State>, in_flight_max: usize) {
    let mut in_flight = JoinSet::new();
    for position in 0.. {
        match state.due.acquire().await {
            Ok(permit) => permit.forget(),
            Err(_) => break,
        }
        if position >= state.end.load(Ordering::Acquire) {
            break;
        }
        while let Some(ended) = in_flight.try_join_next() {
            raise_panic(ended);
        }
        if in_flight.len() >= in_flight_max {
            state.held_up.fetch_add(1, Ordering::Relaxed);
        }
        while in_flight.len() >= in_flight_max {
            if let Some(ended) = in_flight.join_next().await {
                raise_panic(ended);
            }
        }
        let intended = state.start + Duration::from_micros(state.rate.due_us(position));
        let replay = replay.clone();
        in_flight.spawn(async move { replay.run(replay.warm_up + position, intended).await });
    }
    in_flight.join_all().await;
}

/// A request that panicked is a defect of the drill: it must not look like one that was never answered.
fn raise_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        resume_unwind(error.into_panic());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_and_moments_agree() {
        for per_second in [1, 3, 10_000, 999_983] {
            let rate = Rate { per_second };
            for position in [0, 1, 2, 1_000, 123_456_789] {
                let due = Duration::from_micros(rate.due_us(position));
                let count = rate.due_count(due);
                assert!(
                    count == position + 1 || count == position,
                    "{per_second} {position} {count}"
                );
                assert!(rate.due_count(due + Duration::from_micros(1)) > position);
            }
        }
    }
}
