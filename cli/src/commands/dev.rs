//! `softstore dev`: a cluster on this machine, as real processes.

use std::time::{Duration, Instant};

use eyre::{Result, bail};
use softstore_proto::v1::{ClusterStatus, NodeState};
use softstore_server::memory::{Kernel, MemoryPlan};

use crate::announce::{AssignerAnnouncement, ClusterAnnouncement, NodeAnnouncement, print};
use crate::child::Child;
use crate::control::{Control, POLL};
use crate::exit::Exit;
use crate::say;
use crate::settings::written::Size;
use crate::stop::Stop;

/// Most nodes that one `dev` starts: their gRPC ports must end below the first HTTP port.
const NODES_MAX: u16 = 99;

/// HTTP ports start so far above the Assigner's port.
const HTTP_PORTS_ABOVE: u16 = 101;

/// How long the cluster may take from its first process to settled.
const READY_MS_MAX: u64 = 60_000;

/// How long the processes may take to end before they are killed.
const END_MS_MAX: u64 = 30_000;

/// A node's memory unless told: enough to try things out.
const NODE_MEMORY_BYTES_MAX: u64 = 1 << 30;

/// The least that a node may be told for messages in transit.
const NODE_TRANSIT_BYTES_MIN: u64 = 16 << 20;

/// A cluster's flags.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  softstore dev                              an Assigner on 127.0.0.1:7400, nodes on 7401, 7402, 7403
  softstore dev --nodes 5 --memory 256MiB
  softstore dev --port 0 --json              on free ports; prints where, for a program
  softstore dev -- --transfer off            what follows -- goes to every node

Ports: the Assigner has PORT, the nodes PORT+1 and so on, their HTTP (/metrics, /readyz) PORT+101 and so on.
The processes end with this one: on Ctrl-C, on SIGTERM, and also if it is killed. One that dies is reported; the others
go on.

With --json, one line is printed when all is ready:
  {\"assigner\":\"host:port\",\"assigner_pid\":n,\"nodes\":[{\"id\":s,\"pid\":n,\"grpc\":\"host:port\",\"http\":\"host:port\"}]}

Exit codes:
  0  stopped by a signal    2  error, or no process is left")]
pub(crate) struct DevArgs {
    /// How many nodes, 1 to 99.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: u16,
    /// The Assigner's port, with the others above it; 0 takes free ones.
    #[arg(long, value_name = "PORT", default_value_t = 7400)]
    port: u16,
    /// Memory per node. Default: a node's share of 75% of the memory there is, at most 1GiB.
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// What the processes log to stderr: error, warn, info, debug or trace.
    #[arg(long, env = "SOFTSTORE_LOG", value_name = "FILTER", default_value = "warn")]
    log: String,
    /// Print one line of JSON when all is ready, and nothing else.
    #[arg(long)]
    json: bool,
    /// Stop all when stdin ends.
    #[arg(long)]
    exit_with_parent: bool,
    /// More flags for every node, after --.
    #[arg(last = true, value_name = "NODE FLAGS")]
    node_flags: Vec<String>,
}

/// Starts the cluster and keeps it until a signal.
pub(crate) async fn run(args: DevArgs) -> Result<Exit> {
    if args.port > u16::MAX - HTTP_PORTS_ABOVE - NODES_MAX {
        bail!(
            "--port {} leaves no room for the nodes' ports above it: use at most 65335",
            args.port
        );
    }
    let mut stop = Stop::listen(args.exit_with_parent)?;
    // Dropped half-way, what has started is killed.
    let mut cluster = tokio::select! {
        started = Cluster::start(&args) => started?,
        _ = stop.wanted() => return Ok(Exit::Ok),
    };
    tokio::select! {
        ready = cluster.ready() => ready?,
        _ = stop.wanted() => return Ok(cluster.end(&mut stop).await),
    }
    if args.json {
        print(&cluster.announcement)?
    } else {
        let memory = NodeMemory::of(&args, &Kernel::default());
        say::result(explain(&cluster.announcement, &memory))?
    }
    loop {
        tokio::select! {
            _ = stop.wanted() => return Ok(cluster.end(&mut stop).await),
            report = next_ended(&mut cluster.children) => {
                say::remark(format_args!("softstore: {report}"));
                if cluster.children.is_empty() {
                    bail!("no process is left");
                }
            }
        }
    }
}

/// The processes. The Assigner is the first.
struct Cluster {
    children: Vec<Child>,
    announcement: ClusterAnnouncement,
}

impl Cluster {
    /// Starts all processes; they listen, but need not have an assignment yet.
    async fn start(args: &DevArgs) -> Result<Self> {
        // Its own, so that a client or a node of another one that listened here before is not mistaken for one of it.
        let name = format!("dev-{:08x}", rand::random::<u32>());
        let flags = assigner_flags(args, &name);
        let (assigner, at): (_, AssignerAnnouncement) = Child::start("the Assigner", &flags).await?;
        let announcement = ClusterAnnouncement {
            assigner: at.assigner,
            assigner_pid: at.pid,
            nodes: Vec::new(),
        };
        let mut cluster = Self {
            children: vec![assigner],
            announcement,
        };
        for index in 0..args.nodes {
            let flags = node_flags(args, index, &cluster.announcement.assigner, &name);
            let (node, at): (_, NodeAnnouncement) = Child::start(&format!("node-{index}"), &flags).await?;
            cluster.children.push(node);
            cluster.announcement.nodes.push(at);
        }
        Ok(cluster)
    }

    /// Waits until the Assigner calls the cluster settled, with every node in it.
    async fn ready(&mut self) -> Result<()> {
        let mut control = Control::at(&self.announcement.assigner)?;
        let nodes = self.announcement.nodes.len();
        let begun = Instant::now();
        loop {
            let status = control.status().await?;
            if is_ready(&status, nodes) {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_millis(READY_MS_MAX) {
                bail!(
                    "the cluster is not ready after {READY_MS_MAX} ms: {}",
                    status.unsettled_because
                );
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                report = next_ended(&mut self.children) => bail!("{report} before the cluster was ready"),
            }
        }
    }

    /// Ends all, nodes first and together; none drains, since all go.
    async fn end(mut self, stop: &mut Stop) -> Exit {
        let patience = Duration::from_millis(END_MS_MAX);
        let all = async {
            let (assigner, nodes) = match self.children.split_first_mut() {
                Some((first, rest)) if first.name() == "the Assigner" => (Some(first), rest),
                _ => (None, self.children.as_mut_slice()),
            };
            futures::future::join_all(nodes.iter_mut().map(|node| node.stop(patience))).await;
            if let Some(assigner) = assigner {
                assigner.stop(patience).await;
            }
        };
        tokio::select! {
            () = all => {}
            // A second signal: dropping the children kills them.
            _ = stop.wanted() => {}
        }
        Exit::Ok
    }
}

/// The next child that ends, as a sentence. It is taken from the list.
async fn next_ended(children: &mut Vec<Child>) -> String {
    let ends = children.iter_mut().map(|child| Box::pin(child.ended()));
    let (status, index, _) = futures::future::select_all(ends).await;
    let child = children.remove(index);
    match status {
        Ok(status) => format!("{} has ended ({status})", child.name()),
        Err(error) => format!("{} is lost: {error:#}", child.name()),
    }
}

fn is_ready(status: &ClusterStatus, nodes: usize) -> bool {
    let serving = status
        .nodes
        .iter()
        .filter(|node| node.state() == NodeState::Serving)
        .count();
    status.settled && serving >= nodes
}

/// What each node gets of the memory that all of them may have together.
struct NodeMemory {
    store_bytes: u64,
    transit_bytes: u64,
    /// Of what, for people.
    plan: MemoryPlan,
}

impl NodeMemory {
    fn of(args: &DevArgs, kernel: &Kernel) -> Self {
        let nodes = u64::from(args.nodes);
        let told = args.memory.map_or(0, |size| size.0.saturating_mul(nodes));
        let plan = MemoryPlan::new(&kernel.limit(), told, 0);
        let share = plan.store_bytes / nodes;
        Self {
            store_bytes: args
                .memory
                .map_or(share.min(NODE_MEMORY_BYTES_MAX), |size| size.0),
            transit_bytes: (plan.transit_bytes / nodes).max(NODE_TRANSIT_BYTES_MIN),
            plan,
        }
    }

    /// The sum, in a sentence.
    fn explain(&self, nodes: usize) -> String {
        let nodes = nodes as u64;
        let beside = |bytes: u64| Size((bytes * nodes) >> 20 << 20);
        format!(
            "Memory: {nodes} x {} for entries and up to {nodes} x {} for messages in transit are {} of the {} that {} allows.",
            Size(self.store_bytes >> 20 << 20),
            Size(self.transit_bytes >> 20 << 20),
            beside(self.store_bytes + self.transit_bytes),
            Size(self.plan.limit_bytes >> 20 << 20),
            self.plan.source,
        )
    }
}

fn assigner_flags(args: &DevArgs, cluster: &str) -> Vec<String> {
    [
        "assigner".to_owned(),
        format!("--listen=127.0.0.1:{}", args.port),
        "--http-listen=off".to_owned(),
        format!("--cluster={cluster}"),
        format!("--expect-nodes={}", args.nodes),
        "--founds-at-once".to_owned(),
        format!("--log={}", args.log),
    ]
    .into()
}

fn node_flags(args: &DevArgs, index: u16, assigner: &str, cluster: &str) -> Vec<String> {
    let port = |above: u16| {
        if args.port == 0 {
            0
        } else {
            args.port + above + index
        }
    };
    let memory = NodeMemory::of(args, &Kernel::default());
    let mut flags: Vec<String> = [
        "node".to_owned(),
        format!("--id=node-{index}"),
        format!("--cluster={cluster}"),
        format!("--listen=127.0.0.1:{}", port(1)),
        format!("--http-listen=127.0.0.1:{}", port(HTTP_PORTS_ABOVE)),
        format!("--assigner={assigner}"),
        format!("--memory={}", memory.store_bytes),
        format!("--transit-bytes-max={}", memory.transit_bytes),
        format!("--log={}", args.log),
    ]
    .into();
    flags.extend(args.node_flags.iter().cloned());
    flags
}

/// What runs where, and what to do next.
fn explain(cluster: &ClusterAnnouncement, memory: &NodeMemory) -> String {
    let assigner = &cluster.assigner;
    let nodes: String = cluster.nodes.iter().map(line_of).collect();
    format!(
        "A cluster of {} nodes is ready.\n\n  Assigner  {assigner}  (pid {})\n{nodes}\n{}\n\n\
         Try, in another terminal:\n\
         \x20 softstore set greeting hello --assigner {assigner}\n\
         \x20 softstore get greeting --assigner {assigner}\n\
         \x20 softstore status --watch --assigner {assigner}\n\
         \x20 softstore drain node-1 --assigner {assigner}\n\n\
         Ctrl-C stops all of it.",
        cluster.nodes.len(),
        cluster.assigner_pid,
        memory.explain(cluster.nodes.len())
    )
}

fn line_of(node: &NodeAnnouncement) -> String {
    let NodeAnnouncement { id, pid, grpc, http } = node;
    format!("  {id:8}  {grpc}  (pid {pid})  http://{http}/metrics\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::{Arguments, Command};
    use clap::Parser;

    fn dev(arguments: &[&str]) -> DevArgs {
        let all = [&["softstore", "dev"], arguments].concat();
        match Arguments::parse_from(all).command {
            Command::Dev(args) => args,
            other => panic!("{other:?}"),
        }
    }

    /// What `dev` passes on must be flags that the commands know: a renamed one would only show when it runs.
    #[test]
    fn the_flags_for_the_children_are_theirs() {
        let args = dev(&["--memory", "2GiB", "--", "--transfer", "off"]);
        let flags = node_flags(&args, 2, "127.0.0.1:7400", "dev-1");
        assert!(flags.contains(&"--listen=127.0.0.1:7403".to_owned()), "{flags:?}");
        assert!(
            flags.contains(&"--http-listen=127.0.0.1:7503".to_owned()),
            "{flags:?}"
        );
        assert!(flags.contains(&format!("--memory={}", 2u64 << 30)), "{flags:?}");
        for flags in [flags, assigner_flags(&args, "dev-1")] {
            let all = [
                vec!["softstore".to_owned()],
                flags,
                vec!["--announce".into(), "--exit-with-parent".into()],
            ];
            Arguments::try_parse_from(all.concat()).unwrap();
        }
    }

    /// Plan: the default of three nodes: their sum stays within the limit, and what is said names it.
    #[test]
    fn the_nodes_share_the_memory_there_is() {
        let memory = NodeMemory::of(&dev(&[]), &Kernel::default());
        let sum = 3 * (memory.store_bytes + memory.transit_bytes);
        assert!(
            sum <= memory.plan.limit_bytes.max(3 * NODE_TRANSIT_BYTES_MIN),
            "{sum}"
        );
        let said = memory.explain(3);
        assert!(
            said.starts_with("Memory: 3 x ") && said.contains(&memory.plan.source.to_string()),
            "{said}"
        );
    }

    #[test]
    fn port_0_stays_0_for_all() {
        let flags = node_flags(&dev(&["--port", "0"]), 5, "127.0.0.1:1", "dev-1");
        assert!(flags.contains(&"--listen=127.0.0.1:0".to_owned()), "{flags:?}");
        assert!(
            flags.contains(&"--http-listen=127.0.0.1:0".to_owned()),
            "{flags:?}"
        );
    }
}
