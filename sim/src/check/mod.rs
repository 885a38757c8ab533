//! The checkers: pure functions from a [`History`] to what in it must not be. They know nothing of cores, stores or
//! messages.
//!
//! ```text
//!   owners     H1: no two nodes serve a key as its owner at a time
//!   staleness  H2, H3: nothing older than what was acknowledged
//!   monotonic  H2: no read goes back, whoever served it
//!   versions   H4: versions only grow
//!   expiry     H5: nothing outlives its TTL
//!   warmth     H6, H7: what nobody lost is still there
//!   branches   what of it is judged together, where a life served on that was given up
//!   deadlines  nothing starts after its deadline, nothing hangs
//!   floors     what anybody had been told by when
//! ```

use std::collections::BTreeMap;

pub mod branches;
pub mod deadlines;
pub mod expiry;
mod floors;
pub mod monotonic;
pub mod owners;
pub mod staleness;
pub mod versions;
pub mod warmth;

use crate::history::{History, Operation};

/// Something that must not be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which invariant, as `docs/architecture.md` names it; or `liveness`.
    pub invariant: &'static str,
    /// What happened.
    pub what: String,
}

/// All that is wrong with a history.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let mut violations = owners::check(history);
    for view in branches::views(history) {
        violations.extend(staleness::check(&view));
        violations.extend(monotonic::check(&view));
        violations.extend(versions::check(&view));
        violations.extend(expiry::check(&view));
    }
    violations.extend(warmth::check(history));
    violations.extend(deadlines::check(history));
    violations
}

/// A history's operations by key, in their order.
fn by_key(history: &History) -> BTreeMap<usize, Vec<&Operation>> {
    let mut by_key: BTreeMap<usize, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        by_key.entry(operation.key).or_default().push(operation);
    }
    by_key
}

/// What the checkers' own tests are made of.
#[cfg(test)]
mod made {
    use crate::history::{Did, Ended, Operation};

    /// An operation of one client on one key, with all the time there is.
    pub(super) fn operation(did: Did, invoked_us: u64, returned_us: u64, ended: Ended) -> Operation {
        Operation {
            client: 0,
            key: 0,
            did,
            invoked_us,
            returned_us,
            deadline_us: u64::MAX,
            ended,
            may_come_again: false,
            answered: None,
            overtaken_us: None,
        }
    }
}
