//! [`NodeConfig`].

use std::net::{Ipv4Addr, SocketAddr};

use softstore_sharding::session::VersionRange;
use softstore_sharding::{ClusterName, NodeId};

use super::check::{
    ConfigError, cluster_name, connectable, count_in_range, in_range, loopback_unless, named_unless_loopback,
};
use super::choice::{PullOrder, Transfer};

/// The largest value that any node may be told to accept: 64 MiB.
pub const VALUE_BYTES_LIMIT: usize = 64 << 20;

/// Chunk versions that a node may be told to speak.
pub const CHUNK_VERSIONS_ALL: VersionRange = VersionRange {
    min: 1,
    max: 1_000_000,
};

/// Longest name of a zone in bytes.
const ZONE_BYTES_MAX: usize = 128;

/// How a cache node is set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    /// The node's stable name, kept over its restarts: 1 to 128 of `A-Z a-z 0-9 . _ -`. Two living nodes must not share
    /// one. Default: this machine's host name, or `node`.
    pub id: NodeId,
    /// The cluster's name, the same as the Assigner's and the other nodes', and unlike every other cluster's. Default: `local` on
    /// loopback; beyond it, none: it must be said.
    pub cluster: Option<ClusterName>,
    /// Where gRPC listens: clients, other nodes. Port 0 takes a free one. Default 127.0.0.1:7401.
    pub listen: SocketAddr,
    /// `HOST:PORT` under which others reach the gRPC port. Default: what it listens on.
    pub advertise: Option<String>,
    /// Where `/metrics`, `/healthz` and `/readyz` listen; none: nowhere. Port 0 takes a free one. Default
    /// 127.0.0.1:7501.
    pub http_listen: Option<SocketAddr>,
    /// `HOST:PORT` of the Assigner. Default 127.0.0.1:7400.
    pub assigner: String,
    /// Failure domain, up to 128 bytes; empty: none. Default empty.
    pub zone: String,
    /// The most that the store's budget may be, everything counted: keys, values, metadata. It is less while the process would
    /// otherwise exceed its memory limit. Bytes, 1 MiB to 16 TiB. Default 0: 75% of the limit that counts (the lowest of its
    /// cgroups, else the machine's memory), also when that changes.
    pub memory_bytes: u64,
    /// Longest value accepted. Bytes, 1 to 64 MiB, default 8 MiB.
    pub value_bytes_max: usize,
    /// How long a drain may take before the process ends with what is not handed over. Milliseconds, 0 to 3,600,000,
    /// default 25,000: under the 30 s that Kubernetes waits before it kills.
    pub drain_deadline_ms: u64,
    /// How long a draining node without an Assigner waits for one. Milliseconds, 0 to 600,000, default 5,000; the drain
    /// deadline cuts it short.
    pub assigner_wait_ms: u64,
    /// Time between heartbeats to the Assigner. Milliseconds, 10 to 60,000 and at most half of `failure_timeout_ms`,
    /// default 500.
    pub heartbeat_ms: u64,
    /// A node not heard of for so long is dead. Milliseconds, 100 to 600,000, default 3,000; the same as the Assigner's.
    pub failure_timeout_ms: u64,
    /// Whether entries move with their slices. Default on.
    pub transfer: Transfer,
    /// In which order this node sends what it froze. Default hottest.
    pub pull_order: PullOrder,
    /// How long an operation waits for the old owner's answer about a key before the key counts as absent.
    /// Milliseconds, 1 to 10,000, default 20.
    pub peek_timeout_ms: u64,
    /// How long a pull may take before the taker gives up the rest. Milliseconds, 100 to 3,600,000, default 60,000.
    pub pull_deadline_ms: u64,
    /// The rate that a pull gets even when foreground operations want everything. Bytes per second, 64 KiB to 1 TiB,
    /// default 64 MiB.
    pub pull_bytes_per_second_min: u64,
    /// How long a request is held back while its range's owner is being settled, before it is answered `NotReady`.
    /// Milliseconds, 0 to 60,000, default 1,000.
    pub hold_ms_max: u64,
    /// How many requests are held back at once. 0 to 1,048,576, default 16,384.
    pub hold_requests_max: usize,
    /// How many bytes of requests are held back at once, and at most a quarter of `transit_bytes_max`, in which they count. 0
    /// to 1 GiB, default 64 MiB.
    pub hold_bytes_max: usize,
    /// How long an operation whose client knows a newer owner waits for this node to hear of it. Milliseconds, 0 to
    /// 10,000, default 50.
    pub behind_wait_ms: u64,
    /// How many operations one client stream may have unanswered before no more are read from it. 1 to 1,048,576,
    /// default 16,384.
    pub in_flight_ops_max: usize,
    /// Operations that have waited for more than twice so long to be read are refused (`BUSY`), while the node is overloaded:
    /// it has no time left, and its queue was longer than this for `queue_interval_ms`. Milliseconds, 0 to 10,000, default
    /// 20; 0: nothing is refused for that.
    pub queue_target_ms: u64,
    /// For how long a client's queue must have been longer than `queue_target_ms`. Milliseconds, 10 to 60,000, default 100.
    pub queue_interval_ms: u64,
    /// How many connections are accepted at once, beside those of up to 128 other nodes; also bounded by the process'
    /// limit of open files. 1 to 1,000,000, default 4,096.
    pub connections_max: usize,
    /// How much is held in memory of messages that clients have not ended, of requests held back, and of replies that they have
    /// not taken, over all connections; beyond that the connections that hold the most are closed. Not part of `memory_bytes`.
    /// Bytes, 16 MiB to 1 TiB. Default 0: half of what `memory_bytes` leaves of the memory limit, within 16 and 256 MiB, also
    /// when that changes. Clients' streams keep a buffer as large as their largest batch, and count with it.
    pub transit_bytes_max: usize,
    /// How long a client may take nothing of a reply, or leave a message unfinished (beside a second for each 64 KiB of it),
    /// before its connection is closed. Milliseconds, 1,000 to 600,000, default 20,000.
    pub stall_ms_max: u64,
    /// After so long without access an entry's counted frequency has halved. Milliseconds, 1,000 to 604,800,000 (a
    /// week), default 300,000 (5 minutes).
    pub frequency_half_life_ms: u64,
    /// Accepts listeners beyond loopback, although there is no TLS or authentication. Default false.
    pub insecure: bool,
    /// Chunk versions to speak instead of those of this build. For tests of a restart into another build. Default none.
    pub chunk_versions: Option<VersionRange>,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            id: id_by_default(),
            cluster: None,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7401)),
            advertise: None,
            http_listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 7501))),
            assigner: "127.0.0.1:7400".to_owned(),
            zone: String::new(),
            memory_bytes: 0,
            value_bytes_max: 8 << 20,
            drain_deadline_ms: 25_000,
            assigner_wait_ms: 5_000,
            heartbeat_ms: 500,
            failure_timeout_ms: 3_000,
            transfer: Transfer::On,
            pull_order: PullOrder::Hottest,
            peek_timeout_ms: 20,
            pull_deadline_ms: 60_000,
            pull_bytes_per_second_min: 64 << 20,
            hold_ms_max: 1_000,
            hold_requests_max: 16_384,
            hold_bytes_max: 64 << 20,
            behind_wait_ms: 50,
            in_flight_ops_max: 16_384,
            queue_target_ms: 20,
            queue_interval_ms: 100,
            connections_max: 4_096,
            transit_bytes_max: 0,
            stall_ms_max: 20_000,
            frequency_half_life_ms: softstore_store::FREQUENCY_HALF_LIFE_MS,
            insecure: false,
            chunk_versions: None,
        }
    }
}

impl NodeConfig {
    /// Checks every field, and those that depend on each other.
    ///
    /// # Errors
    /// The first field that does not fit, and what to do.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_who_and_where()?;
        self.validate_times()?;
        self.validate_sizes()?;
        if let Some(VersionRange { min, max }) = self.chunk_versions {
            in_range(
                "chunk_versions",
                min.into(),
                CHUNK_VERSIONS_ALL.min.into()..=max.into(),
            )?;
            in_range(
                "chunk_versions",
                max.into(),
                min.into()..=CHUNK_VERSIONS_ALL.max.into(),
            )?;
        }
        Ok(())
    }

    /// The cluster's name: as configured, or that of a cluster on loopback that was given none.
    #[must_use]
    pub fn cluster_name(&self) -> ClusterName {
        cluster_name(self.cluster.as_ref())
    }

    fn validate_who_and_where(&self) -> Result<(), ConfigError> {
        // serde builds an id without checking it.
        NodeId::new(self.id.as_str())?;
        loopback_unless(self.insecure, "listen", self.listen)?;
        if let Some(address) = self.http_listen {
            loopback_unless(self.insecure, "http_listen", address)?;
        }
        named_unless_loopback(self.cluster.as_ref(), self.listen)?;
        match &self.advertise {
            Some(address) => connectable("advertise", address)?,
            None if self.listen.ip().is_unspecified() => {
                return Err(ConfigError::AdvertiseMissing { listen: self.listen });
            }
            None => {}
        }
        connectable("assigner", &self.assigner)?;
        if self.zone.len() > ZONE_BYTES_MAX {
            let bytes = self.zone.len();
            return Err(ConfigError::TooLong {
                field: "zone",
                bytes,
                bytes_max: ZONE_BYTES_MAX,
            });
        }
        Ok(())
    }

    fn validate_times(&self) -> Result<(), ConfigError> {
        in_range("drain_deadline_ms", self.drain_deadline_ms, 0..=3_600_000)?;
        in_range("assigner_wait_ms", self.assigner_wait_ms, 0..=600_000)?;
        in_range("heartbeat_ms", self.heartbeat_ms, 10..=60_000)?;
        in_range("failure_timeout_ms", self.failure_timeout_ms, 100..=600_000)?;
        if self.heartbeat_ms > self.failure_timeout_ms / 2 {
            return Err(ConfigError::Conflict {
                field: "heartbeat_ms",
                value: self.heartbeat_ms,
                other: "failure_timeout_ms",
                other_value: self.failure_timeout_ms,
                advice: "a node whose heartbeat comes once late must not count as dead; use at most half of it",
            });
        }
        in_range("peek_timeout_ms", self.peek_timeout_ms, 1..=10_000)?;
        in_range("pull_deadline_ms", self.pull_deadline_ms, 100..=3_600_000)?;
        in_range("hold_ms_max", self.hold_ms_max, 0..=60_000)?;
        in_range("stall_ms_max", self.stall_ms_max, 1_000..=600_000)?;
        in_range("behind_wait_ms", self.behind_wait_ms, 0..=10_000)?;
        in_range("queue_target_ms", self.queue_target_ms, 0..=10_000)?;
        in_range("queue_interval_ms", self.queue_interval_ms, 10..=60_000)?;
        in_range(
            "frequency_half_life_ms",
            self.frequency_half_life_ms,
            1_000..=604_800_000,
        )
    }

    fn validate_sizes(&self) -> Result<(), ConfigError> {
        if self.memory_bytes != 0 {
            in_range("memory_bytes", self.memory_bytes, 1 << 20..=16 << 40)?;
        }
        count_in_range(
            "value_bytes_max",
            self.value_bytes_max,
            1..=VALUE_BYTES_LIMIT as u64,
        )?;
        in_range(
            "pull_bytes_per_second_min",
            self.pull_bytes_per_second_min,
            64 << 10..=1 << 40,
        )?;
        count_in_range("hold_requests_max", self.hold_requests_max, 0..=1 << 20)?;
        count_in_range("hold_bytes_max", self.hold_bytes_max, 0..=1 << 30)?;
        count_in_range("in_flight_ops_max", self.in_flight_ops_max, 1..=1 << 20)?;
        if self.transit_bytes_max != 0 {
            count_in_range("transit_bytes_max", self.transit_bytes_max, 16 << 20..=1 << 40)?;
        }
        count_in_range("connections_max", self.connections_max, 1..=1_000_000)
    }
}

/// The host's name if it is a valid id (in a StatefulSet it is the pod's stable name), else `node`.
fn id_by_default() -> NodeId {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    NodeId::new(host.trim())
        .or_else(|_| NodeId::new("node"))
        .expect("\"node\" is a valid node id")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut NodeConfig)) -> String {
        let mut config = NodeConfig {
            memory_bytes: 1 << 30,
            ..NodeConfig::default()
        };
        assert_eq!(config.validate(), Ok(()));
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn every_refusal_names_its_field() {
        let open = SocketAddr::from(([0, 0, 0, 0], 7401));
        assert!(refused(|c| c.listen = open).starts_with("listen = 0.0.0.0:7401 can be reached"));
        assert!(refused(|c| c.transit_bytes_max = 1 << 20).starts_with("transit_bytes_max = 1048576"));
        assert!(refused(|c| c.stall_ms_max = 999).starts_with("stall_ms_max = 999"));
        assert!(refused(|c| c.connections_max = 0).starts_with("connections_max = 0"));
        assert!(refused(|c| c.http_listen = Some(open)).starts_with("http_listen"));
        assert!(refused(|c| c.assigner = "nowhere".into()).starts_with("assigner"));
        assert!(refused(|c| c.value_bytes_max = VALUE_BYTES_LIMIT + 1).starts_with("value_bytes_max"));
        assert!(refused(|c| c.memory_bytes = 4).starts_with("memory_bytes"));
        assert!(refused(|c| c.heartbeat_ms = 2_000).starts_with("heartbeat_ms"));
        assert!(refused(|c| c.queue_target_ms = 10_001).starts_with("queue_target_ms"));
        assert!(refused(|c| c.queue_interval_ms = 9).starts_with("queue_interval_ms"));
        assert!(refused(|c| c.zone = "z".repeat(129)).starts_with("zone"));
        assert!(
            refused(|c| c.chunk_versions = Some(VersionRange { min: 3, max: 2 }))
                .starts_with("chunk_versions")
        );
    }

    #[test]
    fn listening_on_all_addresses_wants_one_to_advertise() {
        let open = SocketAddr::from(([0, 0, 0, 0], 7401));
        let said = refused(|c| (c.listen, c.insecure) = (open, true));
        assert!(said.contains("--cluster"), "{said}");
        let named = ClusterName::new("prod").unwrap();
        let said = refused(|c| (c.listen, c.insecure, c.cluster) = (open, true, Some(named.clone())));
        assert!(said.contains("--advertise"), "{said}");
        let config = NodeConfig {
            listen: open,
            insecure: true,
            cluster: Some(named),
            advertise: Some("cache-0.cache:7401".into()),
            memory_bytes: 1 << 30,
            ..NodeConfig::default()
        };
        assert_eq!(config.validate(), Ok(()));
    }
}
