//! [`SendWindow`]: how much may be on its way to a node that says it has too much to do, and how much of what it refuses
//! may be sent again.
//!
//! A node refuses what waited there too long, but to read it and to say so is work, too: of a cheap operation it is half
//! of all. So what a node refuses must not come in the first place. A window bounds how many operations are unanswered. It
//! is as wide as can be until the node refuses something; each round trip with a refusal makes it narrower, each without
//! one a little wider, as far as it is made use of. What the window holds back waits here, where it costs the node nothing
//! and this process next to nothing, and where it is refused when it waits for too long ([`Queue`](crate::queue::Queue)).
//!
//! What was refused may be sent again, but if all were, overload would make more load. So a budget allows for one in ten
//! (Beyer et al., "Site Reliability Engineering", chapter 21), beside a stock for short trouble.
//!
//! Pure: the clock is given.

use std::time::{Duration, Instant};

/// The widest window, which is none: a connection takes in no more.
const LIMIT_MAX: u64 = 1_000_000;

/// The narrowest window.
const LIMIT_MIN: u64 = 16;

/// So many operations answered widen a window by one: each round trip by a sixteenth.
const WIDEN_EVERY: u64 = 16;

/// A window holds so many messages at least, so that the node works on one while others are on their way.
const MESSAGES_MIN: u64 = 4;

/// A window that was of no use for so long is done away with: the node refused nothing, and it held nothing back. A hand-off, in
/// which operations wait at the node, is not to be held up by an overload that is over. Sooner would be too soon: where
/// some connections are served a little better than others, theirs would come and go.
const FORGET_AFTER: Duration = Duration::from_secs(3);

/// So many operations answered allow for one to be sent again.
const ANSWERS_PER_RETRY: u32 = 10;

/// How many may be sent again at most without having been earned lately.
const RETRIES_MAX: u32 = 1_000;

/// The window of one connection.
#[derive(Clone, Debug)]
pub(crate) struct SendWindow {
    /// How many operations may be unanswered, times [`WIDEN_EVERY`].
    limit: u64,
    sent: u64,
    answered: u64,
    /// How many had been sent when it was last made narrower. A refusal of one of those says nothing new.
    narrowed_at: u64,
    /// When it was last of use; none while it is no window: the node has refused nothing since it was done away with.
    last_of_use: Option<Instant>,
    /// It has held something back since it was last widened.
    holds_back: bool,
    /// What may be sent again, times [`ANSWERS_PER_RETRY`].
    earned: u32,
}

impl Default for SendWindow {
    fn default() -> Self {
        Self {
            limit: LIMIT_MAX * WIDEN_EVERY,
            sent: 0,
            answered: 0,
            narrowed_at: 0,
            last_of_use: None,
            holds_back: false,
            earned: RETRIES_MAX * ANSWERS_PER_RETRY,
        }
    }
}

impl SendWindow {
    fn limit(&self) -> u64 {
        self.limit / WIDEN_EVERY
    }

    fn unanswered(&self) -> u64 {
        self.sent - self.answered
    }

    /// Whether the node has refused something, and not all is as before yet.
    pub(crate) fn is_bounded(&self) -> bool {
        self.last_of_use.is_some()
    }

    /// Whether more may be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.unanswered() < self.limit()
    }

    /// Something waits that may not be sent yet.
    pub(crate) fn hold_back(&mut self) {
        self.holds_back = true;
    }

    /// How many operations a message should hold at most.
    pub(crate) fn message_ops_max(&self) -> usize {
        usize::try_from(self.limit() / MESSAGES_MIN).unwrap_or(usize::MAX)
    }

    /// So many operations were sent.
    pub(crate) fn sent(&mut self, ops: usize) {
        self.sent += ops as u64;
    }

    /// So many were answered, of which the node refused so many.
    pub(crate) fn answered(&mut self, now: Instant, ops: usize, refused: usize) {
        let (ops, refused) = (ops as u64, refused as u64);
        let unanswered_before = self.unanswered();
        // No node answers more than it was asked; if one does, that must not stop everything.
        self.answered = (self.answered + ops).min(self.sent);
        if refused == 0 {
            self.widen(now, ops);
            let earned = u32::try_from(ops).unwrap_or(u32::MAX);
            self.earned = self
                .earned
                .saturating_add(earned)
                .min(RETRIES_MAX * ANSWERS_PER_RETRY);
            return;
        }
        self.last_of_use = Some(now);
        if self.answered > self.narrowed_at {
            let used = unanswered_before.min(self.limit());
            let narrower = if refused * 2 > ops { used / 2 } else { used * 3 / 4 };
            self.limit = narrower.max(LIMIT_MIN) * WIDEN_EVERY;
            self.narrowed_at = self.sent;
        }
    }

    /// So many operations were answered without a refusal.
    fn widen(&mut self, now: Instant, ops: u64) {
        let holds_back = std::mem::take(&mut self.holds_back) || !self.is_open();
        let Some(last_of_use) = self.last_of_use else {
            return;
        };
        if holds_back {
            self.last_of_use = Some(now);
            self.limit = (self.limit + ops).min(LIMIT_MAX * WIDEN_EVERY);
        } else if now.saturating_duration_since(last_of_use) >= FORGET_AFTER {
            self.last_of_use = None;
            self.limit = LIMIT_MAX * WIDEN_EVERY;
        }
    }

    /// Whether an operation that was refused may be sent again; if so, it is taken from the budget.
    pub(crate) fn may_retry(&mut self) -> bool {
        let may = self.earned >= ANSWERS_PER_RETRY;
        if may {
            self.earned -= ANSWERS_PER_RETRY;
        }
        may
    }

    /// The stream has ended: nothing that was sent on it will be answered.
    pub(crate) fn end_stream(&mut self) {
        self.answered = self.sent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends what the window lets through, in messages of up to so many; how many operations those were.
    fn fill(window: &mut SendWindow, message_ops: usize) -> usize {
        let mut sent = 0;
        while window.is_open() {
            window.sent(message_ops);
            sent += message_ops;
            if sent > 2_000_000 {
                break;
            }
        }
        window.hold_back();
        sent
    }

    /// Plan: a node that does 800 operations a round trip and refuses what comes beyond 1,000; the client always has more
    /// to send. From a million on, the window must come down to about that within a few round trips, and then stay: most of
    /// the time neither idle nor refused.
    #[test]
    fn it_finds_what_the_node_takes_and_stays_there() {
        let now = Instant::now();
        let mut window = SendWindow::default();
        let mut rounds = Vec::new();
        for _ in 0..400 {
            let sent = fill(&mut window, 50);
            let refused = sent.saturating_sub(1_000);
            if refused > 0 {
                window.answered(now, refused, refused);
            }
            window.answered(now, sent - refused, 0);
            rounds.push(sent);
        }
        let settled = &rounds[30..];
        assert!(
            settled.iter().all(|sent| (600..=1_200).contains(sent)),
            "{settled:?}"
        );
        let refused: usize = settled.iter().map(|sent| sent.saturating_sub(1_000)).sum();
        let all: usize = settled.iter().sum();
        assert!(refused * 20 < all, "{refused} of {all} refused");
    }

    /// Plan: a narrow window and a node that refuses nothing any more. Within a hundred round trips it is no bound.
    #[test]
    fn it_opens_again() {
        let now = Instant::now();
        let mut window = SendWindow::default();
        window.sent(20);
        window.answered(now, 20, 20);
        assert!(fill(&mut window, 1) <= 20);
        window.answered(now, 16, 0);
        for _ in 0..100 {
            let sent = fill(&mut window, 10);
            window.answered(now, sent, 0);
        }
        assert!(fill(&mut window, 100) > 1_000);
    }

    /// Plan: a narrow window, then a calm time with a light load that it does not hold back. It is gone after a while.
    #[test]
    fn it_is_forgotten_in_a_calm_time() {
        let begun = Instant::now();
        let mut window = SendWindow::default();
        assert!(!window.is_bounded());
        window.sent(100);
        window.answered(begun, 100, 100);
        assert_eq!(window.limit(), 50);
        for ms in 0..3_000 {
            assert!(window.is_bounded() && window.limit() < 200);
            window.sent(2);
            window.answered(begun + Duration::from_millis(ms), 2, 0);
        }
        window.sent(2);
        window.answered(begun + FORGET_AFTER, 2, 0);
        assert!(!window.is_bounded());
        window.sent(100_000);
        assert!(window.is_open());
    }

    /// Plan: after a refusal there is always more to send than the window lets through, and the node refuses nothing. The
    /// window grows, but step by step: were it forgotten, all that waits would come at once.
    #[test]
    fn it_is_not_forgotten_while_it_holds_back() {
        let now = Instant::now();
        let mut window = SendWindow::default();
        window.sent(1_000);
        window.answered(now, 1_000, 1_000);
        let mut before = fill(&mut window, 10);
        for _ in 0..100 {
            window.answered(now, before, 0);
            let sent = fill(&mut window, 10);
            assert!(sent <= before + before / 8 + 10, "{sent} after {before}");
            before = sent;
        }
    }

    /// Plan: one message after the other is refused, all of which were on their way already when the first refusal came.
    /// They say nothing new, so only the first makes the window narrower.
    #[test]
    fn one_round_trip_narrows_it_once() {
        let now = Instant::now();
        let mut window = SendWindow::default();
        window.sent(4_000);
        window.answered(now, 100, 10);
        let once = window.limit();
        assert_eq!(once, 3_000);
        for _ in 0..39 {
            window.answered(now, 100, 10);
        }
        assert_eq!(window.limit(), once);
        window.sent(3_000);
        window.answered(now, 100, 10);
        assert!(window.limit() < once);
    }

    /// Plan: what it is not made use of for does not widen it, and a node that answers too much does not confuse it.
    #[test]
    fn unused_width_does_not_grow_and_lies_do_no_harm() {
        let now = Instant::now();
        let mut window = SendWindow::default();
        window.sent(1_000);
        window.answered(now, 1_000, 1_000);
        let limit = window.limit();
        for _ in 0..1_000 {
            window.sent(10);
            window.answered(now, 10, 0);
        }
        assert_eq!(window.limit(), limit);
        window.answered(now, 5_000, 0);
        window.answered(now, 5_000, 5_000);
        assert!(window.is_open());
        window.sent(1_000_000);
        assert!(!window.is_open());
        window.end_stream();
        assert!(window.is_open());
    }

    /// Plan: the stock is used up; after that, one in ten answers earns a retry.
    #[test]
    fn retries_are_a_tenth_of_what_was_answered() {
        let now = Instant::now();
        let mut window = SendWindow::default();
        let stock = std::iter::repeat_with(|| window.may_retry())
            .take_while(|may| *may)
            .count();
        assert_eq!(stock, 1_000);
        window.sent(500);
        window.answered(now, 499, 0);
        let earned = std::iter::repeat_with(|| window.may_retry())
            .take_while(|may| *may)
            .count();
        assert_eq!(earned, 49);
    }
}
