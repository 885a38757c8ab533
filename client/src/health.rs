//! [`Health`]: whether a client has found its cluster. For an application's own health page and metrics; operations need
//! nobody to look here first.

use std::time::Duration;

use crate::client::Client;
use crate::config::whole_ms;
use crate::error::ConnectError;

/// Whether a client has found its cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// A node tells it where everything is.
    Following,
    /// No node does. Operations go by what was known last. After a second, those that find no owner fail at once: reads are
    /// misses, writes are [`Unavailable`](crate::WriteError::Unavailable).
    Searching {
        /// For how long.
        lasting: Duration,
        /// Whether it knew where everything is before: not if it has never found the cluster.
        has_found_before: bool,
        /// Why, as far as the newest attempts tell.
        why: ConnectError,
    },
}

impl Health {
    /// Whether a node tells the client where everything is.
    #[must_use]
    pub fn is_following(&self) -> bool {
        matches!(self, Self::Following)
    }
}

impl Client {
    /// Whether this client has found its cluster. Costs no message.
    #[must_use]
    pub fn health(&self) -> Health {
        let routing = &self.shared.operator.routing;
        match routing.lost_for() {
            None => Health::Following,
            Some(lasting) => Health::Searching {
                lasting,
                has_found_before: routing.table().epoch() > 0,
                why: self.shared.attempts.why(self.config(), whole_ms(lasting)),
            },
        }
    }
}
