//! [`StandingQueue`]: how long what comes on one stream has waited to be read, and whether that is a queue that stands.
//!
//! A queue that fills and drains again is what queues are for. One that does not drain for a while only makes everybody
//! wait: what comes in is more than what is done. So the measure is the *least* delay in an interval, as in CoDel (RFC
//! 8289), and what is done about it is that of Facebook's servers (Maurer, "Fail at Scale", ACM Queue 2015): while the queue stands, what has
//! waited for more than twice the target is not done any more. That which is done has waited less, so its delay is
//! bounded, and the queue drains as fast as the node can say no.
//!
//! The delay is measured from end to end, though the clocks differ: a batch says when its client sent it, on the client's
//! clock. The least difference to this node's clock that was ever seen is what the clocks differ by, and a way without a
//! queue; what a batch has beyond it, it has waited: in this process, in the kernel, on the wire. Of that, only what
//! waited *here* is to be judged. So a batch that was read by a node that had nothing else to do has not waited, whatever
//! the clocks say; unless the node stood still since it last looked, and does not know when the batch came. Such batches also
//! let the difference follow clocks that drift, and clocks that stood still: those of a client that was suspended.
//!
//! Messages come in order. So no batch came before the one ahead of it, and none has waited for longer than since that came:
//! whatever the clocks say, again.
//!
//! Each stream has its own, and the runtime gives all streams their turns: a client that sends little finds its own
//! queue empty, however much another one sends (as in FQ-CoDel, RFC 8290).
//!
//! Pure: the clock is given.

/// How much a clock may run faster or slower than another: a thousandth, more than any that works.
const DRIFT_DIVISOR: u64 = 1_000;

/// Clocks that differ from what they did by so much, in microseconds, were set, or one of them stood still; or the batch was
/// late on its way, and the next one that is not says so.
const JUMP_US: i64 = 50_000;

/// What has waited for more than so many times the target is not done, while the queue stands.
const WAITED_TARGETS: u64 = 2;

/// When a queue stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    /// Delays up to this are no queue, in microseconds. 0: no queue ever stands.
    pub(super) target_us: u64,
    /// A queue stands that was longer than the target for so long, in microseconds.
    pub(super) interval_us: u64,
}

/// One stream's queue.
#[derive(Clone, Debug)]
pub(super) struct StandingQueue {
    limits: Limits,
    /// What this node's clock says beyond the client's when nothing waits, in microseconds; none before the first batch.
    offset_us: Option<i64>,
    /// When the offset was last let rise.
    raised_us: u64,
    /// When there was nothing to read, if that was since the last batch.
    drained_us: Option<u64>,
    /// No batch came before this: then came the one before, or there was nothing to read.
    came_us: u64,
    interval_ends_us: u64,
    /// The least delay in this interval.
    least_us: u64,
    stands: bool,
}

impl StandingQueue {
    /// An empty queue.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            offset_us: None,
            raised_us: 0,
            drained_us: Some(0),
            came_us: 0,
            interval_ends_us: 0,
            least_us: u64::MAX,
            stands: false,
        }
    }

    /// There is nothing to read at `now_us`, nor would there be if the node had looked harder.
    pub(super) fn drained(&mut self, now_us: u64) {
        self.drained_us = Some(now_us);
        self.came_us = now_us;
    }

    /// A batch was read at `now_us`, which left its client when its clock said `sent_ms` (0: not said). `stood_still(since)` tells
    /// whether this node stood still since then. Gives how long the batch has waited, in microseconds.
    pub(super) fn arrived(
        &mut self,
        now_us: u64,
        sent_ms: u64,
        stood_still: impl FnOnce(u64) -> bool,
    ) -> u64 {
        let drained_us = self.drained_us.take();
        let waited_us = if sent_ms == 0 {
            0
        } else {
            let was_idle = drained_us.is_some_and(|drained_us| !stood_still(drained_us));
            let by_clock_us = self.waited_us(now_us, sent_ms, was_idle);
            by_clock_us.min(now_us.saturating_sub(self.came_us))
        };
        self.came_us = now_us.saturating_sub(waited_us);
        self.judge(now_us, waited_us);
        waited_us
    }

    fn waited_us(&mut self, now_us: u64, sent_ms: u64, was_idle: bool) -> u64 {
        let (Ok(now), Ok(sent)) = (i64::try_from(now_us), i64::try_from(sent_ms)) else {
            return 0;
        };
        let sample = now.saturating_sub(sent.saturating_mul(1_000));
        let offset = *self.offset_us.get_or_insert(sample);
        let beyond = sample.saturating_sub(offset);
        if beyond <= 0 {
            self.offset_us = Some(sample);
            return 0;
        }
        if was_idle {
            let elapsed_us = now_us.saturating_sub(self.raised_us);
            let may_drift = i64::try_from(elapsed_us / DRIFT_DIVISOR).unwrap_or(i64::MAX);
            let rise = if beyond > JUMP_US {
                beyond
            } else {
                beyond.min(may_drift)
            };
            self.offset_us = Some(offset.saturating_add(rise));
            self.raised_us = now_us;
            return 0;
        }
        u64::try_from(beyond).unwrap_or(0)
    }

    fn judge(&mut self, now_us: u64, waited_us: u64) {
        let Limits {
            target_us,
            interval_us,
        } = self.limits;
        if now_us >= self.interval_ends_us {
            // After a pause of an interval nothing is known.
            let is_fresh = now_us < self.interval_ends_us.saturating_add(interval_us);
            self.stands = target_us > 0 && is_fresh && self.least_us > target_us && self.least_us < u64::MAX;
            self.least_us = u64::MAX;
            self.interval_ends_us = now_us.saturating_add(interval_us);
        }
        self.least_us = self.least_us.min(waited_us);
    }

    /// Whether the queue stands.
    pub(super) fn stands(&self) -> bool {
        self.stands
    }

    /// Whether an operation that has waited for so long is to be refused, if the node is saturated.
    pub(super) fn is_too_old(&self, waited_us: u64) -> bool {
        self.stands && waited_us > self.limits.target_us.saturating_mul(WAITED_TARGETS)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        target_us: 5_000,
        interval_us: 100_000,
    };

    /// A client's clock that differs from the node's, and the way between them.
    const AHEAD_MS: u64 = 7_000;
    const WAY_US: u64 = 300;

    /// A batch that waited for so long in the node before it was read at `now_us`.
    fn read(queue: &mut StandingQueue, now_us: u64, waited_us: u64) -> u64 {
        let sent_us = now_us - waited_us - WAY_US;
        queue.arrived(now_us, sent_us / 1_000 + AHEAD_MS, never)
    }

    /// The node does not stand still.
    fn never(_since_us: u64) -> bool {
        false
    }

    /// Plan: a second of batches, each read when there was nothing else to read, although some came late by the clock (a
    /// client that was paused, a slow wire). None has waited, and the queue never stands.
    #[test]
    fn what_finds_an_empty_queue_has_not_waited() {
        let mut queue = StandingQueue::new(LIMITS);
        for ms in 10_000..11_000 {
            queue.drained(ms * 1_000 - 500);
            assert_eq!(read(&mut queue, ms * 1_000, (ms % 7) * 10_000), 0);
            assert!(!queue.stands());
        }
    }

    /// Plan: after a calm time, batches come that wait longer and longer, and the queue never drains. Delays are told to a
    /// millisecond. The queue stands when the least delay of a whole interval was above the target, and then what waited
    /// for more than twice the target is too old, and nothing else. Once the queue has drained in an interval, it stands
    /// no more after that.
    #[test]
    fn a_queue_that_does_not_drain_stands_until_it_does() {
        let mut queue = StandingQueue::new(LIMITS);
        queue.drained(990_000);
        read(&mut queue, 1_000_000, 0);
        let mut stood_after_us = None;
        for step in 0..400 {
            let now_us = 1_000_000 + step * 1_000;
            let waited_us = step * 500;
            let seen = read(&mut queue, now_us, waited_us);
            assert!(seen.abs_diff(waited_us) <= 1_000, "{seen} for {waited_us}");
            if queue.stands() {
                stood_after_us.get_or_insert(step * 1_000);
            }
        }
        // The second interval is the first whose least delay is above the target.
        assert_eq!(stood_after_us, Some(200_000));
        assert!(!queue.is_too_old(10_000));
        assert!(queue.is_too_old(10_001));
        queue.drained(1_399_500);
        for step in 400..600 {
            read(&mut queue, 1_000_000 + step * 1_000, 20_000);
        }
        assert!(!queue.stands());
        assert!(!queue.is_too_old(1_000_000));
    }

    /// Plan: the queue stands, then nothing comes for a second, then a burst. What is known of the time before says nothing
    /// of now.
    #[test]
    fn a_pause_ends_it() {
        let mut queue = StandingQueue::new(LIMITS);
        read(&mut queue, 1_000_000, 0);
        for step in 1..400 {
            read(&mut queue, 1_000_000 + step * 1_000, 20_000);
        }
        assert!(queue.stands());
        read(&mut queue, 2_500_000, 20_000);
        assert!(!queue.stands());
    }

    /// Plan: an overload of ten minutes that never drains. What stands there must not be taken for the way: the delay is
    /// still seen.
    #[test]
    fn a_long_overload_is_not_taken_for_normal() {
        let mut queue = StandingQueue::new(LIMITS);
        queue.drained(990_000);
        read(&mut queue, 1_000_000, 0);
        for step in 1..60_000 {
            let seen = read(&mut queue, 1_000_000 + step * 10_000, 8_000);
            assert!((7_000..=9_000).contains(&seen), "{seen} after {step}");
        }
        assert!(queue.stands());
    }

    /// Plan: the clocks drift apart by 200 ppm for an hour of light load, then a real queue builds up. It is measured from
    /// where the clocks are then. A clock that is set ahead by an hour makes no queue either.
    #[test]
    fn drift_and_jumps_of_clocks_make_no_queue() {
        let mut queue = StandingQueue::new(LIMITS);
        let mut now_us = 1_000_000;
        let node_us = |now_us: u64| now_us + now_us / 5_000;
        for _ in 0..36_000 {
            now_us += 100_000;
            queue.drained(node_us(now_us) - 500);
            queue.arrived(node_us(now_us), now_us / 1_000, never);
        }
        for _ in 0..10 {
            now_us += 1_000;
            let seen = queue.arrived(node_us(now_us + 30_000), now_us / 1_000, never);
            assert!((28_000..=32_000).contains(&seen), "{seen}");
        }
        let set_ahead = |now_us: u64| node_us(now_us) + 3_600_000_000;
        queue.drained(set_ahead(now_us) - 500);
        queue.arrived(set_ahead(now_us), now_us / 1_000, never);
        for _ in 0..200 {
            now_us += 1_000;
            assert!(queue.arrived(set_ahead(now_us), now_us / 1_000, never) <= 2_000);
        }
        assert!(!queue.stands());
    }

    /// Plan: a client sends in bursts, of which the node finds the first batch idle and reads the others without a look for more
    /// in between. Its machine is suspended for 0.8 s, so its clock is that much behind from then on. Nothing that it sends has
    /// waited; not in the first burst either. A real queue that builds up afterwards is measured as long as it is.
    #[test]
    fn a_client_that_was_suspended_is_not_late_for_ever() {
        let mut queue = StandingQueue::new(LIMITS);
        let mut now_us = 10_000_000;
        let mut burst = |queue: &mut StandingQueue, behind_us: u64| {
            now_us += 20_000;
            queue.drained(now_us - 10_000);
            for _ in 0..5 {
                now_us += 200;
                let waited_us = read(queue, now_us, behind_us);
                assert!(waited_us <= 1_200, "{waited_us} at {now_us}, {behind_us} behind");
            }
            now_us
        };
        for _ in 0..100 {
            burst(&mut queue, 0);
        }
        let ends = (0..100).map(|_| burst(&mut queue, 800_000));
        let now_us = ends.last().expect("there were bursts");
        for step in 1..400 {
            let waited_us = step * 500;
            let seen = read(&mut queue, now_us + step * 1_000, 800_000 + waited_us);
            assert!(seen.abs_diff(waited_us) <= 1_500, "{seen} for {waited_us}");
        }
        assert!(queue.stands());
    }

    /// Plan: the node looks, finds nothing, and stands still for 0.6 s, in which three batches come. Each has waited since it
    /// came, though the node thought that it was idle; and not for longer than since it last looked, whatever its client says.
    #[test]
    fn what_came_while_the_node_stood_still_has_waited() {
        let mut queue = StandingQueue::new(LIMITS);
        queue.drained(990_000);
        read(&mut queue, 1_000_000, 0);
        queue.drained(1_001_000);
        let woke_us = 1_601_000;
        let sent_ms = |waited_us: u64| (woke_us + AHEAD_MS * 1_000 - waited_us - WAY_US) / 1_000;
        for waited_us in [500_000, 300_000, 100_000] {
            let stood_still = |since_us| since_us == 1_001_000;
            let seen = queue.arrived(woke_us, sent_ms(waited_us), stood_still);
            assert!(seen.abs_diff(waited_us) <= 1_000, "{seen} for {waited_us}");
        }
        queue.drained(woke_us);
        let seen = queue.arrived(woke_us + 100_000, sent_ms(5_000_000), |_| true);
        assert_eq!(seen, 100_000);
    }

    #[test]
    fn a_target_of_zero_switches_it_off() {
        let mut queue = StandingQueue::new(Limits {
            target_us: 0,
            ..LIMITS
        });
        for step in 0..1_000 {
            read(&mut queue, 10_000_000 + step * 1_000, step * 900);
        }
        assert!(!queue.stands());
    }

    proptest! {
        /// Whatever clients claim, nothing panics, and a batch that found the queue empty has not waited.
        #[test]
        fn lies_do_no_harm(batches in prop::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 1..50)) {
            let mut queue = StandingQueue::new(LIMITS);
            for (now_us, sent_ms, drained) in batches {
                if drained {
                    queue.drained(now_us);
                }
                let waited_us = queue.arrived(now_us, sent_ms, never);
                if drained || sent_ms == 0 {
                    prop_assert_eq!(waited_us, 0);
                }
                queue.is_too_old(waited_us);
            }
        }
    }
}
