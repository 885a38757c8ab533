//! [`ClientConfig`]: every number the client waits, counts or retries by, with its unit, range and default.

use std::time::Duration;

use softstore_proto::limits::{BATCH_BYTES_MAX, BATCH_OPS_MAX};
use softstore_sharding::ClusterName;
use thiserror::Error;

/// What a read becomes when no owner of the key answers within the deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadPolicy {
    /// It is a miss, and counted in [`ClientMetrics::unreachable_misses`](crate::ClientMetrics), or in `shed_misses` if
    /// the owner is overloaded. A cache must never be why its user is down.
    #[default]
    MissOnUnreachable,
    /// It is [`ReadError::Unreachable`](crate::ReadError), or [`ReadError::Busy`](crate::ReadError) if the owner is
    /// overloaded.
    Error,
}

/// How a client behaves. Built by [`Client::builder`](crate::Client::builder).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientConfig {
    /// `host:port` of any nodes of the cluster, 1 to 64. One living seed is enough; names are resolved at each attempt.
    pub seeds: Vec<String>,
    /// The cluster's name: nodes of another one refuse this client, and it follows none of them. Default: none, whichever cluster the
    /// seeds are of.
    pub cluster: Option<ClusterName>,
    /// How long an operation may take, all retries included. 1 to 3,600,000 ms; default 1,000.
    pub operation_timeout_ms: u64,
    /// How long one attempt to connect may take. 1 to 60,000 ms; default 1,000.
    pub connect_timeout_ms: u64,
    /// How long `connect()` waits for a first assignment from a node that answers. 1 to 600,000 ms; default 5,000. If no
    /// seed can be reached at all, it does not wait.
    pub ready_timeout_ms: u64,
    /// `connect()` fails if there is no assignment by then. Default: false; the client is given, and goes on looking.
    pub require_cluster: bool,
    /// How often an idle or silent connection is probed. 100 to 600,000 ms; default 1,000.
    pub keepalive_interval_ms: u64,
    /// How long the answer to a probe may take before the connection counts as broken. 100 to 60,000 ms; default 1,000.
    pub keepalive_timeout_ms: u64,
    /// How long a read whose owner cannot be reached waits for a newer assignment while the client has lost its source of
    /// assignments. 0 to 60,000 ms; default 100. Once it has lost it for so long, and for a second at least, nothing waits any
    /// more that finds no owner.
    pub unreachable_wait_ms: u64,
    /// Connections per node, each with one stream. 1 to 64; default 1. One key always uses the same one.
    pub connections_per_node: usize,
    /// Most operations pending on one connection, waiting or in flight. Further ones fail with `Busy`. 1 to 1,000,000;
    /// default 65,536.
    pub pending_ops_max: usize,
    /// Most bytes of keys and values pending on one connection. Further ones fail with `Busy`. At least 1 MiB; default
    /// 256 MiB. An operation alone on its connection always fits.
    pub pending_bytes_max: usize,
    /// Most operations in one message. 1 to 1,024; default 1,024.
    pub batch_ops_max: usize,
    /// Bytes after which a message is closed. 1 KiB to 4 MiB; default 4 MiB.
    pub batch_bytes_max: usize,
    /// What a read becomes when no owner answers. Default: a miss.
    pub read_policy: ReadPolicy,
    /// Send unconditional sets again after a loss. Default: false, since one sent twice could land on top of a newer
    /// one; such a set ends in `OutcomeUnknown`.
    pub resend_sets: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            seeds: Vec::new(),
            cluster: None,
            operation_timeout_ms: 1_000,
            connect_timeout_ms: 1_000,
            ready_timeout_ms: 5_000,
            require_cluster: false,
            keepalive_interval_ms: 1_000,
            keepalive_timeout_ms: 1_000,
            unreachable_wait_ms: 100,
            connections_per_node: 1,
            pending_ops_max: 65_536,
            pending_bytes_max: 256 << 20,
            batch_ops_max: BATCH_OPS_MAX,
            batch_bytes_max: BATCH_BYTES_MAX,
            read_policy: ReadPolicy::default(),
            resend_sets: false,
        }
    }
}

/// Why a configuration is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// No seed, or too many.
    #[error("{0} seeds were given; 1 to {SEEDS_MAX} are needed, as host:port")]
    SeedCount(usize),
    /// A seed is no `host:port`.
    #[error("the seed {0:?} is no host:port")]
    Seed(String),
    /// A number is out of its range.
    #[error("{field} is {value}; it must be {min} to {max}")]
    Range {
        /// Which setting.
        field: &'static str,
        /// What it is.
        value: u64,
        /// The least it may be.
        min: u64,
        /// The most it may be.
        max: u64,
    },
}

/// Most seeds of one client.
pub const SEEDS_MAX: usize = 64;

impl ClientConfig {
    /// Checks every field against its range.
    ///
    /// # Errors
    /// On the first field that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.seeds.is_empty() || self.seeds.len() > SEEDS_MAX {
            return Err(ConfigError::SeedCount(self.seeds.len()));
        }
        if let Some(seed) = self.seeds.iter().find(|seed| !is_host_and_port(seed)) {
            return Err(ConfigError::Seed(seed.clone()));
        }
        let ranges = [
            ("operation_timeout_ms", self.operation_timeout_ms, 1, 3_600_000),
            ("connect_timeout_ms", self.connect_timeout_ms, 1, 60_000),
            ("ready_timeout_ms", self.ready_timeout_ms, 1, 600_000),
            ("keepalive_interval_ms", self.keepalive_interval_ms, 100, 600_000),
            ("keepalive_timeout_ms", self.keepalive_timeout_ms, 100, 60_000),
            ("unreachable_wait_ms", self.unreachable_wait_ms, 0, 60_000),
            ("connections_per_node", self.connections_per_node as u64, 1, 64),
            ("pending_ops_max", self.pending_ops_max as u64, 1, 1_000_000),
            (
                "pending_bytes_max",
                self.pending_bytes_max as u64,
                1 << 20,
                u64::MAX,
            ),
            (
                "batch_ops_max",
                self.batch_ops_max as u64,
                1,
                BATCH_OPS_MAX as u64,
            ),
            (
                "batch_bytes_max",
                self.batch_bytes_max as u64,
                1 << 10,
                BATCH_BYTES_MAX as u64,
            ),
        ];
        for (field, value, min, max) in ranges {
            if !(min..=max).contains(&value) {
                return Err(ConfigError::Range {
                    field,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }

    pub(crate) fn operation_timeout(&self) -> Duration {
        Duration::from_millis(self.operation_timeout_ms)
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }
}

/// A span in whole milliseconds.
pub(crate) fn whole_ms(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn is_host_and_port(seed: &str) -> bool {
    let Some((host, port)) = seed.rsplit_once(':') else {
        return false;
    };
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '@' | '?' | '#');
    !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok_and(|port| port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut ClientConfig)) -> Result<(), ConfigError> {
        let mut config = ClientConfig {
            seeds: vec!["localhost:7401".into()],
            ..ClientConfig::default()
        };
        change(&mut config);
        config.validate()
    }

    #[test]
    fn each_bad_setting_is_named() {
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|c| c.seeds = vec!["[::1]:7401".into()]), Ok(()));
        assert_eq!(with(|c| c.seeds.clear()), Err(ConfigError::SeedCount(0)));
        for seed in [
            "",
            "host",
            "host:",
            ":7401",
            "host:0",
            "host:70000",
            "http://host:7401",
            "a b:7401",
        ] {
            assert_eq!(
                with(|c| c.seeds = vec![seed.into()]),
                Err(ConfigError::Seed(seed.into()))
            );
        }
        let named = |result: Result<(), ConfigError>| match result {
            Err(ConfigError::Range { field, .. }) => field,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            named(with(|c| c.operation_timeout_ms = 0)),
            "operation_timeout_ms"
        );
        assert_eq!(
            named(with(|c| c.connections_per_node = 65)),
            "connections_per_node"
        );
        assert_eq!(named(with(|c| c.batch_ops_max = 2_000)), "batch_ops_max");
    }
}
