//! [`Tenure`]: until when a life may serve, by the Assigner's word.
//!
//! The Assigner alone knows whether ownership is *leased* or *available*, and how long a lease is: it says so in every answer
//! to a heartbeat. So no node can disagree with it, and the mode of a running cluster is changed by starting another
//! Assigner. A life that has not been told serves nothing: it does not know whether anybody would wait for it.
//!
//! It keeps H1 in that a lease counts from the *sending* of the heartbeat, however long the answer was on its way, while the
//! Assigner counts from its answer on.

use std::collections::VecDeque;

use crate::planted::{self, Bug};
use crate::time::Timestamp;

/// Heartbeats remembered until they are answered; of older ones an answer renews no lease.
const UNANSWERED_MAX: usize = 64;

/// In one lease a node sends at least so many heartbeats.
const HEARTBEATS_PER_LEASE: u64 = 4;

/// Until when a life may serve.
#[derive(Debug)]
pub(super) struct Tenure {
    kind: Kind,
    /// The lease ran out and was not renewed since.
    is_over: bool,
    /// Heartbeats that are not answered yet, with the moments of their sending; oldest first.
    unanswered: VecDeque<(u64, Timestamp)>,
    /// When the newest heartbeat was sent whose answer confirmed what this life holds; `ZERO`: none was.
    confirmed: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// The Assigner has not said.
    Untold,
    /// Until it learns better (`available`).
    Unbounded,
    /// Until the lease is over.
    Leased { lease_ms: u64, until: Timestamp },
}

/// What an answer changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    /// The Assigner says for the first time, or otherwise than before, under which leases this life serves.
    Mode(Option<u64>),
    /// A lease that was over holds again.
    Regained,
}

impl Tenure {
    pub(super) fn untold() -> Self {
        Self {
            kind: Kind::Untold,
            is_over: false,
            unanswered: VecDeque::new(),
            confirmed: Timestamp::ZERO,
        }
    }

    /// At this moment, or a little later, the Assigner held this life for living; `ZERO`: it never said so.
    pub(super) fn confirmed(&self) -> Timestamp {
        self.confirmed
    }

    /// Serving is allowed before this moment. [`Timestamp::NEVER`] if it has no end.
    pub(super) fn until(&self) -> Timestamp {
        match self.kind {
            Kind::Untold => Timestamp::ZERO,
            Kind::Unbounded => Timestamp::NEVER,
            Kind::Leased { until, .. } => until,
        }
    }

    /// Whether the Assigner has not said yet until when this life serves.
    pub(super) fn is_untold(&self) -> bool {
        self.kind == Kind::Untold
    }

    /// Whether the Assigner said that this life serves until it learns better.
    pub(super) fn is_unbounded(&self) -> bool {
        self.kind == Kind::Unbounded
    }

    /// The length of the leases under which this life serves, in milliseconds.
    pub(super) fn lease_ms(&self) -> Option<u64> {
        match self.kind {
            Kind::Leased { lease_ms, .. } => Some(lease_ms),
            Kind::Untold | Kind::Unbounded => None,
        }
    }

    /// The time between heartbeats: the configured one, unless the lease wants them more often.
    pub(super) fn heartbeat_interval_ms(&self, configured_ms: u64) -> u64 {
        let often_enough_ms = self
            .lease_ms()
            .map_or(u64::MAX, |lease_ms| lease_ms / HEARTBEATS_PER_LEASE);
        configured_ms.min(often_enough_ms.max(1))
    }

    pub(super) fn heartbeat_sent(&mut self, sequence: u64, now: Timestamp) {
        self.unanswered.push_back((sequence, now));
        if self.unanswered.len() > UNANSWERED_MAX {
            self.unanswered.pop_front();
        }
    }

    /// Whether the lease has run out since this was last asked.
    pub(super) fn has_just_ended(&mut self, now: Timestamp) -> bool {
        let is_over = self.lease_ms().is_some() && now >= self.until();
        is_over && !std::mem::replace(&mut self.is_over, true)
    }

    /// The Assigner answered a heartbeat and said under which leases this life serves. `confirms`: what this life holds is
    /// what the Assigner has published. One that still recovers knows neither whether this life is dead, nor to whom its
    /// ranges went, so its word changes nothing for a life that may own something.
    pub(super) fn answered(
        &mut self,
        sequence: u64,
        lease_ms: Option<u64>,
        confirms: bool,
        now: Timestamp,
    ) -> Option<Change> {
        let sent = self.unanswered.iter().find(|(sent, _)| *sent == sequence);
        let sent = sent.map(|(_, at)| *at);
        self.unanswered.retain(|(sent, _)| *sent > sequence);
        if confirms {
            self.confirmed = self.confirmed.max(sent.unwrap_or(Timestamp::ZERO));
        }
        let before = self.kind;
        match lease_ms {
            None if confirms || before == Kind::Untold => {
                self.kind = Kind::Unbounded;
                (before != Kind::Unbounded).then_some(Change::Mode(None))
            }
            Some(lease_ms) if confirms => {
                let from = if planted::is(Bug::LeaseFromReply) {
                    Some(now)
                } else {
                    sent
                };
                // Not the later of both ends: the Assigner may have made leases shorter, and waits no longer than it says.
                let until = from?.plus_ms(lease_ms);
                self.kind = Kind::Leased { lease_ms, until };
                let was_over = std::mem::replace(&mut self.is_over, now >= until);
                match before {
                    Kind::Leased { lease_ms: before, .. } if before == lease_ms => {
                        (was_over && !self.is_over).then_some(Change::Regained)
                    }
                    _ => Some(Change::Mode(Some(lease_ms))),
                }
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_ms(ms)
    }

    /// Plan: a life is told nothing, then of leases of 2 s, then of 1 s, then that there are none, each by an Assigner that
    /// first recovers. Only one that confirms what the life holds changes anything; a shorter lease ends sooner than the
    /// longer one before it would have; and what was not told holds nothing.
    #[test]
    fn h1_the_mode_changes_with_the_assigners_confirmed_word_only() {
        let mut tenure = Tenure::untold();
        assert_eq!(tenure.until(), Timestamp::ZERO);
        tenure.heartbeat_sent(1, at(100));
        assert_eq!(tenure.answered(1, Some(2_000), false, at(110)), None);
        assert_eq!(tenure.until(), Timestamp::ZERO);
        tenure.heartbeat_sent(2, at(200));
        assert_eq!(
            tenure.answered(2, Some(2_000), true, at(900)),
            Some(Change::Mode(Some(2_000)))
        );
        assert_eq!((tenure.until(), tenure.lease_ms()), (at(2_200), Some(2_000)));
        tenure.heartbeat_sent(3, at(1_000));
        assert_eq!(
            tenure.answered(3, Some(1_000), true, at(1_010)),
            Some(Change::Mode(Some(1_000)))
        );
        assert_eq!(tenure.until(), at(2_000));
        tenure.heartbeat_sent(4, at(1_500));
        assert_eq!(tenure.answered(4, None, false, at(1_510)), None);
        assert_eq!(tenure.until(), at(2_000));
        tenure.heartbeat_sent(5, at(1_600));
        assert_eq!(
            tenure.answered(5, None, true, at(1_610)),
            Some(Change::Mode(None))
        );
        assert_eq!((tenure.until(), tenure.lease_ms()), (Timestamp::NEVER, None));
        // And back: until the first lease is confirmed, the life keeps to what it was told before.
        tenure.heartbeat_sent(6, at(1_700));
        assert_eq!(tenure.answered(6, Some(500), false, at(1_710)), None);
        assert_eq!(tenure.until(), Timestamp::NEVER);
    }

    /// Plan: a lease ends, which is said once; an answer to a heartbeat that is too old renews nothing; a fresh one does, and
    /// is told as regained.
    #[test]
    fn the_end_of_a_lease_is_told_once() {
        let mut tenure = Tenure::untold();
        assert!(!tenure.has_just_ended(at(5)));
        tenure.heartbeat_sent(1, at(100));
        tenure.answered(1, Some(1_000), true, at(110));
        assert!(!tenure.has_just_ended(at(1_099)));
        assert!(tenure.has_just_ended(at(1_100)));
        assert!(!tenure.has_just_ended(at(1_200)));
        tenure.heartbeat_sent(2, at(1_200));
        assert_eq!(tenure.answered(1, Some(1_000), true, at(1_210)), None);
        assert_eq!(tenure.until(), at(1_100));
        assert_eq!(tenure.answered(2, Some(1_000), true, at(2_300)), None);
        tenure.heartbeat_sent(3, at(2_400));
        assert_eq!(
            tenure.answered(3, Some(1_000), true, at(2_410)),
            Some(Change::Regained)
        );
        assert!(tenure.has_just_ended(at(3_400)));
    }

    #[test]
    fn heartbeats_are_frequent_enough_for_the_lease() {
        let mut tenure = Tenure::untold();
        assert_eq!(tenure.heartbeat_interval_ms(500), 500);
        tenure.heartbeat_sent(1, at(1));
        tenure.answered(1, Some(1_000), true, at(1));
        assert_eq!(tenure.heartbeat_interval_ms(500), 250);
        assert_eq!(tenure.heartbeat_interval_ms(100), 100);
    }
}
