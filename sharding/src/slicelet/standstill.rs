//! [`relies_until`]: how long a node may go on serving without another look around.
//!
//! A process may be stopped, or its machine suspended, between any two instructions. When it goes on, the Assigner may have
//! buried it for its silence and its ranges may be with others (H1), and nothing has told it. It finds out by the time that
//! has passed. With leased ownership the lease's end is enough; this is for `available` ownership, where a node that is merely
//! cut off goes on serving, so that silence alone must not stop it.
//!
//! Two things are known: when the newest heartbeat was *sent* that was answered, and when the node last looked around. The
//! Assigner heard that heartbeat after it was sent, and buries nobody for a failure timeout from there: so long the node lives
//! for sure, less what two clocks may differ. After that it can only tell whether it has been running. If it has, heartbeats
//! went out, and only a cut can have kept them from arriving. If it has not, silence was its own.

use crate::time::Timestamp;

/// Share of the failure timeout by which the Assigner's clock may be faster, as a divisor: 10%, as for leases.
const DRIFT_DIVISOR: u64 = 10;

/// What a node knows of its own heartbeats.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs {
    /// When it last looked around.
    pub(super) last_step: Timestamp,
    /// When the newest heartbeat was sent that was answered; `ZERO`: none was.
    pub(super) confirmed: Timestamp,
    /// Longest time between two looks around, unless it stands still.
    pub(super) heartbeat_interval_ms: u64,
    /// After so long without a heartbeat the Assigner buries it.
    pub(super) failure_timeout_ms: u64,
}

/// From this moment on a node that has not looked around since may have been buried because it stood still.
pub(super) fn relies_until(signs: Signs) -> Timestamp {
    let Signs {
        last_step,
        confirmed,
        heartbeat_interval_ms,
        failure_timeout_ms,
    } = signs;
    let patient_ms = failure_timeout_ms - failure_timeout_ms / DRIFT_DIVISOR;
    // A timer that is late by half is no standstill yet.
    let late_ms = heartbeat_interval_ms + heartbeat_interval_ms / 2;
    let lives_until = confirmed.plus_ms(patient_ms);
    if last_step < lives_until {
        // The last heartbeat may be an interval older than the last look.
        let late_ms = late_ms.min(patient_ms.saturating_sub(heartbeat_interval_ms));
        return lives_until.max(last_step.plus_ms(late_ms));
    }
    // It is cut off, or was never heard. The last heartbeat may still have been in the process when it stood still, and the
    // one before be an interval older.
    let silent_ms = patient_ms.saturating_sub(2 * heartbeat_interval_ms);
    last_step.plus_ms(silent_ms.max(late_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn until(last_step: u64, confirmed: u64) -> u64 {
        let signs = Signs {
            last_step: Timestamp::from_ms(last_step),
            confirmed: Timestamp::from_ms(confirmed),
            heartbeat_interval_ms: 500,
            failure_timeout_ms: 3_000,
        };
        relies_until(signs).as_ms()
    }

    /// Plan: the moments by which the Assigner may have buried it, worked out by hand for the default settings.
    #[test]
    fn h1_it_relies_on_what_was_answered_and_on_its_own_running() {
        // Answered, however long ago it looked around.
        assert_eq!(until(10_400, 10_000), 12_700);
        assert_eq!(until(12_699, 10_000), 13_449);
        // Cut off and running: a late timer is no standstill, most of the failure timeout is.
        assert_eq!(until(20_000, 10_000), 21_700);
        assert_eq!(until(20_000, 0), 21_700);
    }

    /// Plan: heartbeats as seldom as the settings allow. It never relies on being alive when, by the last heartbeat that may
    /// have been heard, the Assigner may have buried it.
    #[test]
    fn h1_seldom_heartbeats_leave_no_gap() {
        for (heartbeat_interval_ms, failure_timeout_ms) in
            [(500, 1_000), (400, 1_000), (100, 1_000), (10, 600_000)]
        {
            for since_heartbeat_ms in 0..=heartbeat_interval_ms {
                let heartbeat = Timestamp::from_ms(1_000_000);
                let signs = Signs {
                    last_step: heartbeat.plus_ms(since_heartbeat_ms),
                    confirmed: heartbeat,
                    heartbeat_interval_ms,
                    failure_timeout_ms,
                };
                assert!(
                    relies_until(signs) < heartbeat.plus_ms(failure_timeout_ms),
                    "{signs:?}"
                );
            }
        }
    }
}
