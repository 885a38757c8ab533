//! [`ConfigError`] and the checks that both configs share: ranges, addresses, and the rule that nothing listens beyond
//! loopback without TLS unless the operator says so.

use std::net::SocketAddr;

use softstore_sharding::ClusterName;
use softstore_sharding::assigner::AssignerConfigError;
use softstore_sharding::node::NodeIdError;
use thiserror::Error;

/// What is wrong with a config. The text names the field and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// A number outside its range.
    #[error("{field} = {value} is out of range: choose {min} to {max}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// Lowest allowed.
        min: u64,
        /// Highest allowed.
        max: u64,
    },
    /// A listener that other machines could reach, without `insecure`.
    #[error(
        "{field} = {address} can be reached from other machines, and there is no TLS or authentication yet: whoever \
         reaches it can read and change everything. Listen on 127.0.0.1, or set insecure = true (--insecure) if only \
         trusted machines can reach this network"
    )]
    BeyondLoopback {
        /// The field.
        field: &'static str,
        /// Its value.
        address: SocketAddr,
    },
    /// Listening on all addresses without saying which one others should use.
    #[error(
        "listen = {listen} names no address that others could connect to: set advertise = \"HOST:PORT\" (--advertise) to \
         the name or address under which this node is reached"
    )]
    AdvertiseMissing {
        /// The address listened on.
        listen: SocketAddr,
    },
    /// A string that is no `HOST:PORT`.
    #[error(
        "{field} = {value:?} is no address: write HOST:PORT, such as cache-0.cache:7401 or 10.0.0.7:7401"
    )]
    NotAnAddress {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// A node id with a character that is not allowed, empty, or too long.
    #[error("id: {0}; set --id to a name that this node keeps over its restarts")]
    Id(#[from] NodeIdError),
    /// A text longer than allowed.
    #[error("{field} is {bytes} bytes long: use at most {bytes_max}")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length.
        bytes: usize,
        /// The longest allowed.
        bytes_max: usize,
    },
    /// Settings of an Assigner that make no sense together.
    #[error(transparent)]
    Assigner(#[from] AssignerConfigError),
    /// A cluster that others could reach, and that has no name.
    #[error(
        "listen = {listen} can be reached from other machines, and the cluster has no name: set cluster = \"NAME\" (--cluster), \
         the same on the Assigner and on all nodes, and unlike every other cluster's, so that no node or client that an address \
         leads here by mistake mixes the two up"
    )]
    ClusterMissing {
        /// The address listened on.
        listen: SocketAddr,
    },
    /// Two fields that contradict each other.
    #[error("{field} = {value} does not fit {other} = {other_value}: {advice}")]
    Conflict {
        /// The field to change.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The field it contradicts.
        other: &'static str,
        /// That one's value.
        other_value: u64,
        /// What to do.
        advice: &'static str,
    },
}

/// The cluster's name: as configured, or that of a cluster on loopback that was given none.
pub(super) fn cluster_name(configured: Option<&ClusterName>) -> ClusterName {
    configured.cloned().unwrap_or_else(ClusterName::local)
}

/// That a cluster has a name if others can reach it.
pub(super) fn named_unless_loopback(
    cluster: Option<&ClusterName>,
    listen: SocketAddr,
) -> Result<(), ConfigError> {
    if cluster.is_some() || listen.ip().is_loopback() {
        return Ok(());
    }
    Err(ConfigError::ClusterMissing { listen })
}

/// That `value` lies in `range`.
pub(super) fn in_range(
    field: &'static str,
    value: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(ConfigError::OutOfRange {
        field,
        value,
        min: *range.start(),
        max: *range.end(),
    })
}

/// [`in_range`] for counts and lengths.
pub(super) fn count_in_range(
    field: &'static str,
    value: usize,
    range: std::ops::RangeInclusive<u64>,
) -> Result<(), ConfigError> {
    in_range(field, u64::try_from(value).unwrap_or(u64::MAX), range)
}

/// That a listener stays on this machine, or the operator accepted what it means if it does not.
pub(super) fn loopback_unless(
    insecure: bool,
    field: &'static str,
    address: SocketAddr,
) -> Result<(), ConfigError> {
    if insecure || address.ip().is_loopback() {
        return Ok(());
    }
    Err(ConfigError::BeyondLoopback { field, address })
}

/// That a string is `HOST:PORT` with a port that one can connect to. The host is not resolved here.
pub(super) fn connectable(field: &'static str, value: &str) -> Result<(), ConfigError> {
    let fits = value.rsplit_once(':').is_some_and(|(host, port)| {
        let plain = !host.is_empty() && !host.contains([' ', '/', '@']);
        let colons_in_brackets = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
        plain && colons_in_brackets && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if fits {
        return Ok(());
    }
    Err(ConfigError::NotAnAddress {
        field,
        value: value.chars().take(300).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_other_text() {
        for good in [
            "127.0.0.1:7400",
            "cache-0.cache.default.svc:7401",
            "[::1]:7400",
            "localhost:1",
        ] {
            assert_eq!(connectable("assigner", good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "localhost",
            "localhost:",
            ":7400",
            "localhost:0",
            "a b:1",
            "http://x:1",
            "::1:7400",
            "x:70000",
        ] {
            assert!(connectable("assigner", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_range_includes_both_ends() {
        assert_eq!(in_range("x", 1, 1..=3), Ok(()));
        assert_eq!(in_range("x", 3, 1..=3), Ok(()));
        let error = in_range("x", 4, 1..=3).unwrap_err();
        assert_eq!(error.to_string(), "x = 4 is out of range: choose 1 to 3");
    }
}
