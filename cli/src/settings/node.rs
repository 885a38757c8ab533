//! The settings of `softstore node`. What each means in depth stands at [`NodeConfig`].

use std::net::SocketAddr;

use softstore_server::config::{NodeConfig, PullOrder, Transfer};
use softstore_sharding::{ClusterName, NodeId};

use super::settings;
use super::written::{OrOff, Size, Versions};

/// A node's name, checked.
fn node_id(text: &str) -> Result<NodeId, String> {
    NodeId::new(text).map_err(|error| error.to_string())
}

settings! {
    /// What may be said about a node.
    NodeSettings of NodeConfig, table "node", machine dependent ["id", "memory_bytes"];

    /// The node's stable name, kept over its restarts: 1 to 128 of A-Z a-z 0-9 . _ -, unlike every other node's.
    /// Default: this machine's host name.
    #[arg(long, env = "SOFTSTORE_ID", value_name = "NAME", value_parser = node_id)]
    id: NodeId,
    /// The cluster's name, the same on the Assigner and on all nodes, and unlike every other cluster's: whoever is of another one is
    /// refused. 1 to 128 of A-Z a-z 0-9 . _ -. Default: local, if listen is on loopback; beyond it, it must be said.
    #[arg(long, env = "SOFTSTORE_CLUSTER", value_name = "NAME")]
    cluster: ClusterName,
    /// Where gRPC listens, for clients and other nodes. Port 0 takes a free one.
    #[arg(long, env = "SOFTSTORE_LISTEN", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// The address under which others reach this node's gRPC port. Default: what it listens on.
    #[arg(long, env = "SOFTSTORE_ADVERTISE", value_name = "HOST:PORT")]
    advertise: String,
    /// Where /metrics, /healthz and /readyz listen, or "off". Port 0 takes a free one.
    #[arg(long, env = "SOFTSTORE_HTTP_LISTEN", value_name = "IP:PORT|off")]
    http_listen: OrOff<SocketAddr>,
    /// The Assigner's address.
    #[arg(long, env = "SOFTSTORE_ASSIGNER", value_name = "HOST:PORT")]
    assigner: String,
    /// Failure domain: a rack, a zone. Empty: none.
    #[arg(long, env = "SOFTSTORE_ZONE", value_name = "ZONE")]
    zone: String,
    /// The most that the store gets, everything counted: keys, values and metadata. 1MiB to 16TiB. It gets less while the
    /// process would otherwise exceed its memory limit.
    /// Default, and 0: 75% of the lowest limit of its cgroups, else of the machine's memory.
    #[arg(long = "memory", alias = "memory-bytes", env = "SOFTSTORE_MEMORY_BYTES", value_name = "SIZE")]
    memory_bytes: Size,
    /// Longest value accepted, up to 64MiB. (Most gRPC libraries receive at most 4MiB unless told otherwise; the Rust client
    /// receives all.)
    #[arg(long, env = "SOFTSTORE_VALUE_BYTES_MAX", help_heading = "Limits", value_name = "SIZE")]
    value_bytes_max: Size,
    /// How long a drain may take, in milliseconds; then the process ends with what is not handed over. Keep it some
    /// seconds under the time after which whatever stops the process kills it (Kubernetes: 30 s).
    #[arg(long, env = "SOFTSTORE_DRAIN_DEADLINE_MS", help_heading = "Hand-off", value_name = "MS")]
    drain_deadline_ms: u64,
    /// How long a draining node without an Assigner waits for one, in milliseconds, within the drain deadline.
    #[arg(long, env = "SOFTSTORE_ASSIGNER_WAIT_MS", help_heading = "Hand-off", value_name = "MS")]
    assigner_wait_ms: u64,
    /// Milliseconds between heartbeats to the Assigner; at most half of failure_timeout_ms.
    #[arg(long, env = "SOFTSTORE_HEARTBEAT_MS", help_heading = "Liveness", value_name = "MS")]
    heartbeat_ms: u64,
    /// A node not heard of for so many milliseconds is dead. The same as the Assigner's.
    #[arg(long, env = "SOFTSTORE_FAILURE_TIMEOUT_MS", help_heading = "Liveness", value_name = "MS")]
    failure_timeout_ms: u64,
    /// Whether entries move with their slices: on, or off (only ownership moves, and a taker starts cold).
    #[arg(long, env = "SOFTSTORE_TRANSFER", help_heading = "Hand-off", value_name = "on|off")]
    transfer: Transfer,
    /// In which order entries are handed over: hottest first, or shuffled (to measure what the order is worth).
    #[arg(long, env = "SOFTSTORE_PULL_ORDER", help_heading = "Hand-off", value_name = "hottest|shuffled")]
    pull_order: PullOrder,
    /// How long an operation waits for the old owner's answer about a key before the key counts as absent, in
    /// milliseconds.
    #[arg(long, env = "SOFTSTORE_PEEK_TIMEOUT_MS", help_heading = "Hand-off", value_name = "MS")]
    peek_timeout_ms: u64,
    /// How long taking over entries may take before the rest is given up, in milliseconds.
    #[arg(long, env = "SOFTSTORE_PULL_DEADLINE_MS", help_heading = "Hand-off", value_name = "MS")]
    pull_deadline_ms: u64,
    /// The rate that a take-over gets even when foreground operations want everything, in bytes per second.
    #[arg(long, env = "SOFTSTORE_PULL_BYTES_PER_SECOND_MIN", help_heading = "Hand-off", value_name = "SIZE")]
    pull_bytes_per_second_min: Size,
    /// How long a request is held back while it is being settled who owns its key, in milliseconds; then the client is
    /// told to try again.
    #[arg(long, env = "SOFTSTORE_HOLD_MS_MAX", help_heading = "Hand-off", value_name = "MS")]
    hold_ms_max: u64,
    /// How many requests are held back at once.
    #[arg(long, env = "SOFTSTORE_HOLD_REQUESTS_MAX", help_heading = "Hand-off", value_name = "N")]
    hold_requests_max: usize,
    /// How many bytes of requests are held back at once; at most a quarter of transit_bytes_max, in which they count.
    #[arg(long, env = "SOFTSTORE_HOLD_BYTES_MAX", help_heading = "Hand-off", value_name = "SIZE")]
    hold_bytes_max: Size,
    /// How long an operation whose client knows a newer owner waits for this node to hear of it, in milliseconds.
    #[arg(long, env = "SOFTSTORE_BEHIND_WAIT_MS", help_heading = "Hand-off", value_name = "MS")]
    behind_wait_ms: u64,
    /// How many operations one client stream may have unanswered.
    #[arg(long, env = "SOFTSTORE_IN_FLIGHT_OPS_MAX", help_heading = "Limits", value_name = "N")]
    in_flight_ops_max: usize,
    /// In an overloaded node, operations that have waited for more than twice so many milliseconds are refused; 0: none.
    #[arg(long, env = "SOFTSTORE_QUEUE_TARGET_MS", help_heading = "Limits", value_name = "MS")]
    queue_target_ms: u64,
    /// A client's queue must have been longer than that for so many milliseconds.
    #[arg(long, env = "SOFTSTORE_QUEUE_INTERVAL_MS", help_heading = "Limits", value_name = "MS")]
    queue_interval_ms: u64,
    /// How many connections are accepted at once, beside those of other nodes.
    #[arg(long, env = "SOFTSTORE_CONNECTIONS_MAX", help_heading = "Limits", value_name = "N")]
    connections_max: usize,
    /// How much is held of messages that clients have not ended, of requests held back and of replies that clients have not
    /// taken, over all connections, beside memory_bytes. Beyond that the connections that hold the most are closed. 16MiB to 1TiB.
    /// Default, and 0: half of what memory_bytes leaves of the memory limit, within 16MiB and 256MiB.
    #[arg(long, env = "SOFTSTORE_TRANSIT_BYTES_MAX", help_heading = "Limits", value_name = "SIZE")]
    transit_bytes_max: Size,
    /// How long a client may take nothing of a reply, or leave a message unfinished, in milliseconds, before its
    /// connection is closed.
    #[arg(long, env = "SOFTSTORE_STALL_MS_MAX", help_heading = "Limits", value_name = "MS")]
    stall_ms_max: u64,
    /// After so many milliseconds without access, an entry's counted frequency has halved.
    #[arg(long, env = "SOFTSTORE_FREQUENCY_HALF_LIFE_MS", help_heading = "Limits", value_name = "MS")]
    frequency_half_life_ms: u64,
    /// Accept listeners beyond loopback. There is no TLS or authentication yet: whoever reaches the port can read and
    /// change everything.
    #[arg(long, env = "SOFTSTORE_INSECURE", value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    insecure: bool,
    /// Chunk versions to speak instead of this build's, for tests of a restart into another build.
    #[arg(long, env = "SOFTSTORE_CHUNK_VERSIONS", value_name = "MIN-MAX", hide = true)]
    chunk_versions: Versions,
}
