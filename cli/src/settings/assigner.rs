//! The settings of `softstore assigner`. What each means in depth stands at [`AssignerConfig`].

use std::net::SocketAddr;
use std::path::PathBuf;

use softstore_server::config::{AssignerConfig, Ownership, SharderKind};
use softstore_sharding::assigner::QuietHours;
use softstore_sharding::{ClusterName, Founding};

use super::settings;
use super::written::OrOff;

settings! {
    /// What may be said about the Assigner.
    AssignerSettings of AssignerConfig, table "assigner", machine dependent [];

    /// Where gRPC listens, for nodes and operators. Port 0 takes a free one.
    #[arg(long, env = "SOFTSTORE_LISTEN", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Where /metrics, /healthz and /readyz listen, or "off". Port 0 takes a free one.
    #[arg(long, env = "SOFTSTORE_HTTP_LISTEN", value_name = "IP:PORT|off")]
    http_listen: OrOff<SocketAddr>,
    /// Accept listeners beyond loopback. There is no TLS or authentication yet: whoever reaches the port can drain
    /// nodes and join as one.
    #[arg(long, env = "SOFTSTORE_INSECURE", value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true")]
    insecure: bool,
    /// The cluster's name, the same on the Assigner and on all nodes, and unlike every other cluster's: whoever is of another one is
    /// refused. 1 to 128 of A-Z a-z 0-9 . _ -. Default: local, if listen is on loopback; beyond it, it must be said.
    #[arg(long, env = "SOFTSTORE_CLUSTER", value_name = "NAME")]
    cluster: ClusterName,
    /// A directory for the Assigner's small state file: the cluster's founding and the highest generation. With it, an Assigner that
    /// is started again knows its cluster, whoever comes first; it is made if it is not there.
    #[arg(long, env = "SOFTSTORE_STATE_DIR", value_name = "DIR")]
    state_dir: PathBuf,
    /// The founding of the cluster to keep, if nodes of two say hello and `softstore status` asks to choose: 32 hexadecimal digits.
    #[arg(long, env = "SOFTSTORE_FOUNDING", value_name = "FOUNDING")]
    founding: Founding,
    /// How many nodes a new cluster begins with; 0: not known. A floor, and harmless over living nodes: an Assigner that is started
    /// again finds out by itself that they hold something.
    #[arg(long, env = "SOFTSTORE_EXPECT_NODES", value_name = "N")]
    expect_nodes: u32,
    /// Begin a new cluster as soon as expect_nodes are there, without waiting for nodes that may hold something: for drills and tests.
    #[arg(long, env = "SOFTSTORE_FOUNDS_AT_ONCE", value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", hide = true)]
    founds_at_once: bool,
    /// How long a new Assigner listens for nodes before it publishes, in milliseconds, unless all that it expects came
    /// earlier. Longer than failure_timeout_ms.
    #[arg(long, env = "SOFTSTORE_SETTLE_MS", value_name = "MS")]
    settle_ms: u64,
    /// A node not heard of for so many milliseconds is dead. The same as the nodes'.
    #[arg(long, env = "SOFTSTORE_FAILURE_TIMEOUT_MS", value_name = "MS")]
    failure_timeout_ms: u64,
    /// How long a node that joined empty waits to take whole what next drains or dies, in milliseconds, before it is
    /// filled from the others. Set it a little above the time that a restart of one node takes, from drain to ready.
    #[arg(long, env = "SOFTSTORE_REBALANCE_DELAY_MS", value_name = "MS")]
    rebalance_delay_ms: u64,
    /// For how long what a silent node held may come back, in milliseconds, should it only have been away: after its ranges were
    /// taken over, and after it has learnt of that. The nodes learn it from here. 0: a node that was away comes back empty.
    #[arg(long, env = "SOFTSTORE_REVIVAL_MS", value_name = "MS")]
    revival_ms: u64,
    /// What becomes of a node that is cut off from the Assigner: available (it goes on serving what it had) or leased (it
    /// serves under a lease that its heartbeats renew, and stops when that is over). The nodes learn it from here.
    #[arg(long, env = "SOFTSTORE_OWNERSHIP", value_name = "available|leased")]
    ownership: Ownership,
    /// With leased ownership, how long a node may serve after its last heartbeat that was answered, in milliseconds. A
    /// little less than failure_timeout_ms, so that a node that is killed is missed no longer than without leases.
    #[arg(long, env = "SOFTSTORE_LEASE_MS", value_name = "MS")]
    lease_ms: u64,
    /// How many connections are accepted at once, beside the nodes' sessions.
    #[arg(long, env = "SOFTSTORE_CONNECTIONS_MAX", value_name = "N")]
    connections_max: usize,
    /// The policy that cuts the key space: auto (by load, memory and hot keys), even (equal shares, moving the least), or
    /// ring (a consistent-hash ring, the static baseline).
    #[arg(long, env = "SOFTSTORE_SHARDER", value_name = "even|ring|auto")]
    sharder: SharderKind,
    /// How often load is balanced, in milliseconds (with auto).
    #[arg(long, env = "SOFTSTORE_BALANCE_INTERVAL_MS", value_name = "MS")]
    balance_interval_ms: u64,
    /// How much of all bytes balancing may move within any minute, in per cent. What drains or dies is moved all the same. 0:
    /// no balancing of anything that has bytes; 50 is enough to fill a new node in one go.
    #[arg(long, env = "SOFTSTORE_BALANCE_CHURN_PERCENT_PER_MINUTE", value_name = "PERCENT")]
    balance_churn_percent_per_minute: u32,
    /// Times of day in which nothing is balanced, in UTC, with commas between; at most 8. They may pass midnight.
    #[arg(long, env = "SOFTSTORE_BALANCE_QUIET_HOURS", value_name = "HH:MM-HH:MM,..", value_delimiter = ',')]
    balance_quiet_hours: Vec<QuietHours>,
    /// How long the policy may take to answer, in milliseconds, before what must move is placed by even ranges.
    #[arg(long, env = "SOFTSTORE_PLACE_TIMEOUT_MS", value_name = "MS")]
    place_timeout_ms: u64,
}
