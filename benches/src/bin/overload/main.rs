//! Twice the load that a node sustains: what becomes of the operations, how soon the others are refused, what the node
//! needs meanwhile, and how soon all is as before.
//!
//! ```text
//!   this program: Assigner, clock, judge
//!     |-- nodes, on the nodes' core, and a neighbour that takes half of it   (children.rs)
//!     `-- generators, on the generators' core   (generate.rs: open loop, latency from the intended time)
//!                    `-- tally per tenth of a second (tally.rs) --> report.rs
//! ```
//!
//! First a closed loop finds out what the node sustains. Then one open-loop run has three phases: half of that, a multiple
//! of it, half of it again. With `--hand-off` a second node is there, and the first one drains in the middle of the
//! overload.

mod children;
mod generate;
mod report;
mod tally;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use eyre::{Result, WrapErr, ensure, eyre};
use softstore_benches::cluster::fill;
use softstore_benches::workload::{keys, value};
use softstore_client::Client;
use softstore_proto::v1;
use softstore_proto::v1::assigner_client::AssignerClient;
use softstore_server::assigner::AssignerServer;
use softstore_server::config::{AssignerConfig, NodeConfig};
use tonic::transport::Endpoint;

use crate::children::{Generator, Neighbour, NodeOrders, NodeProcess};
use crate::generate::{Orders, Stretch};
use crate::report::{ClosedLoop, HandOff, Phase, Report, Watched};
use crate::tally::{GeneratorRecord, SLOT_MS, Slot};

/// How long a cluster may take to settle.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the generators have to connect before the first stretch begins.
const LEAD: Duration = Duration::from_millis(1_000);

/// Load before the first phase, which nobody judges.
const WARM_MS: u64 = 1_000;

/// Offers more than a node sustains, and measures what becomes of it.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Arguments {
    /// Length of the overload, in seconds.
    #[arg(long, default_value_t = 60.0)]
    overload_s: f64,
    /// Length of the phases before and after it, in seconds.
    #[arg(long, default_value_t = 10.0)]
    calm_s: f64,
    /// The overload, as a multiple of what the node sustains.
    #[arg(long, default_value_t = 2.0)]
    times: f64,
    /// What the node sustains, in operations per second. Found out in a closed loop if it is not given.
    #[arg(long)]
    sustainable: Option<f64>,
    /// Operations in flight in that closed loop, in all.
    #[arg(long, default_value_t = 2_048, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    in_flight: u32,
    /// Number of keys, of 24 bytes each. By default there are more than fit: inserts that evict are dear for the node and
    /// cheap for the generators, which must be able to offer more than the node sustains.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    keys: u64,
    /// Length of the values, in bytes.
    #[arg(long, default_value_t = 512)]
    value_bytes: usize,
    /// Percentage of operations that are gets; the others are sets.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=100))]
    get_percent: u64,
    /// A node's memory budget, in MiB.
    #[arg(long, default_value_t = 256)]
    memory_mib: u64,
    /// Deadline of an operation, in milliseconds.
    #[arg(long, default_value_t = 1_000)]
    timeout_ms: u64,
    /// Processes that generate load.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    generators: u32,
    /// Connections of each of them to a node.
    #[arg(long, default_value_t = 2)]
    connections: usize,
    /// The core that nodes are pinned to.
    #[arg(long, default_value_t = 0)]
    node_core: usize,
    /// Processes that spin on the nodes' core, so that the node has a part of it only and the generators can offer a multiple
    /// of what it sustains. By default one: half of the core.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(0..=16))]
    neighbours: u32,
    /// The core that generators are pinned to.
    #[arg(long, default_value_t = 1)]
    generator_core: usize,
    /// Drain the node into another one in the middle of the overload.
    #[arg(long)]
    hand_off: bool,
    /// The nodes' `queue_target_ms`; 0: they refuse nothing.
    #[arg(long, default_value_t = NodeConfig::default().queue_target_ms)]
    queue_target_ms: u64,
    /// One line more for each tenth of a second.
    #[arg(long)]
    timeline: bool,
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
    #[arg(long, hide = true)]
    as_node: bool,
    #[arg(long, hide = true)]
    as_generator: bool,
    #[arg(long, hide = true)]
    as_neighbour: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overload: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> Result<()> {
    if arguments.as_node {
        return children::be_node();
    }
    if arguments.as_generator {
        return generate::run();
    }
    if arguments.as_neighbour {
        children::be_neighbour();
        return Ok(());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let report = runtime.block_on(measure(arguments.clone()))?;
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(())
}

/// The cluster, and who runs where.
struct Bench {
    arguments: Arguments,
    pinned: bool,
    assigner: AssignerServer,
    nodes: Vec<NodeProcess>,
    /// They end with this.
    neighbours: Vec<Neighbour>,
}

async fn measure(arguments: Arguments) -> Result<Report> {
    let mut bench = Bench::start(arguments.clone()).await?;
    let (sustainable, closed_loop) = match arguments.sustainable {
        Some(given) => (given, None),
        None => {
            let found = bench.closed_loop().await?;
            (found.answered_per_second, Some(found))
        }
    };
    if arguments.hand_off {
        bench.add_node().await?;
    }
    let (watched, records) = bench.three_phases(sustainable).await?;
    let slots = merged(records.clone())?;
    if arguments.timeline {
        eprint!("{}", report::timeline(&slots));
    }
    let retries = records.iter().map(|record| record.retries_busy).sum();
    report::judge(
        &arguments,
        bench.pinned,
        sustainable,
        closed_loop,
        &slots,
        watched,
        retries,
    )
}

fn merged(records: Vec<GeneratorRecord>) -> Result<Vec<Slot>> {
    let mut slots: Vec<Slot> = Vec::new();
    for record in records {
        for (index, slot) in record.slots.into_iter().enumerate() {
            if slots.len() <= index {
                slots.push(Slot::default());
            }
            slots[index].add(&slot.into_slot()?)?;
        }
    }
    Ok(slots)
}

impl Bench {
    async fn start(arguments: Arguments) -> Result<Self> {
        let assigner = AssignerServer::start(AssignerConfig {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            expect_nodes: 1,
            founds_at_once: true,
            ..AssignerConfig::default()
        })
        .await?;
        let mut bench = Self {
            pinned: children::can_pin([arguments.node_core, arguments.generator_core]),
            arguments,
            assigner,
            nodes: Vec::new(),
            neighbours: Vec::new(),
        };
        bench.add_node().await?;
        let client = Client::builder()
            .seeds([bench.nodes[0].grpc.clone()])
            .require_cluster(true)
            .connect()
            .await?;
        let arguments = &bench.arguments;
        fill(&client, &keys(arguments.keys), &value(arguments.value_bytes)).await?;
        let core = bench.core(arguments.node_core);
        let neighbours = (0..arguments.neighbours).map(|_| Neighbour::start(core));
        bench.neighbours = neighbours.collect::<Result<_>>()?;
        Ok(bench)
    }

    fn core(&self, core: usize) -> Option<usize> {
        self.pinned.then_some(core)
    }

    async fn add_node(&mut self) -> Result<()> {
        let orders = NodeOrders {
            id: format!("n{}", self.nodes.len() + 1),
            assigner: self.assigner.grpc_addr().to_string(),
            memory_bytes: self.arguments.memory_mib << 20,
            queue_target_ms: self.arguments.queue_target_ms,
        };
        let core = self.core(self.arguments.node_core);
        let node = tokio::task::spawn_blocking(move || NodeProcess::start(core, &orders)).await??;
        self.nodes.push(node);
        self.settle().await
    }

    /// Waits until all nodes serve and nothing moves.
    async fn settle(&self) -> Result<()> {
        let address = format!("http://{}", self.assigner.grpc_addr());
        let channel = Endpoint::from_shared(address)?.connect().await?;
        let mut status = AssignerClient::new(channel);
        let until = Instant::now() + PATIENCE;
        loop {
            let now = status.status(v1::StatusRequest::default()).await?.into_inner();
            let serving = now
                .nodes
                .iter()
                .filter(|node| node.state() == v1::NodeState::Serving);
            if now.settled && serving.count() == self.nodes.len() {
                return Ok(());
            }
            ensure!(
                Instant::now() < until,
                "the cluster does not settle: {}",
                now.unsettled_because
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn generators(&self, stretches: &[Stretch], in_flight: Option<u32>) -> Result<(Vec<Generator>, Instant)> {
        let starts = SystemTime::now() + LEAD;
        let start = Instant::now() + LEAD;
        let starts_us = u64::try_from(starts.duration_since(UNIX_EPOCH)?.as_micros())?;
        let arguments = &self.arguments;
        let generators = (0..arguments.generators).map(|index| {
            let share = |stretch: &Stretch| Stretch {
                per_second: stretch.per_second / f64::from(arguments.generators),
                ..*stretch
            };
            let orders = Orders {
                seeds: self.nodes.iter().map(|node| node.grpc.clone()).collect(),
                connections: arguments.connections,
                keys: arguments.keys,
                value_bytes: arguments.value_bytes,
                get_percent: arguments.get_percent,
                timeout_ms: arguments.timeout_ms,
                seed: u64::from(index),
                starts_us,
                stretches: stretches.iter().map(share).collect(),
                in_flight,
            };
            Generator::start(self.core(arguments.generator_core), &orders)
        });
        Ok((generators.collect::<Result<_>>()?, start))
    }

    /// What the node does in a closed loop, and how much of their cores node and generators use at that.
    async fn closed_loop(&mut self) -> Result<ClosedLoop> {
        let stretch = Stretch {
            per_second: 0.0,
            millis: 4_000,
        };
        let in_flight = self.arguments.in_flight / self.arguments.generators;
        let (generators, start) = self.generators(&[stretch], Some(in_flight))?;
        let pids: Vec<u32> = generators.iter().map(Generator::pid).collect();
        let used = |pids: &[u32]| pids.iter().map(|pid| children::cpu_seconds(*pid)).sum::<f64>();
        let node = [self.nodes[0].pid()];
        tokio::time::sleep_until((start + Duration::from_millis(1_000)).into()).await;
        let (before, since) = ((used(&node), used(&pids)), Instant::now());
        tokio::time::sleep_until((start + Duration::from_millis(3_800)).into()).await;
        let seconds = since.elapsed().as_secs_f64();
        let after = (used(&node), used(&pids));
        let records = finished(generators).await?;
        let sum = |of: fn(&GeneratorRecord) -> f64| records.iter().map(of).sum();
        Ok(ClosedLoop {
            answered_per_second: sum(|record| record.closed_loop_per_second),
            refused_per_second: sum(|record| record.closed_loop_refused_per_second),
            node_cores: (after.0 - before.0) / seconds,
            generator_cores: (after.1 - before.1) / seconds,
        })
    }

    async fn three_phases(&mut self, sustainable: f64) -> Result<(Watched, Vec<GeneratorRecord>)> {
        let millis = |seconds: f64| {
            u64::try_from(Duration::from_secs_f64(seconds).as_millis()).expect("a run is short")
        };
        let (calm_ms, overload_ms) = (millis(self.arguments.calm_s), millis(self.arguments.overload_s));
        let stretch = |times: f64, millis| Stretch {
            per_second: sustainable * times,
            millis,
        };
        let stretches = [
            stretch(0.5, WARM_MS + calm_ms),
            stretch(self.arguments.times, overload_ms),
            stretch(0.5, calm_ms),
        ];
        let (generators, start) = self.generators(&stretches, None)?;
        let mut watched = Watched::new(
            self.nodes.iter().map(NodeProcess::pid).collect(),
            generators.iter().map(Generator::pid).collect(),
        );
        let bounds = [
            WARM_MS,
            WARM_MS + calm_ms,
            WARM_MS + calm_ms + overload_ms,
            WARM_MS + 2 * calm_ms + overload_ms,
        ];
        let drain_at = WARM_MS + calm_ms + overload_ms / 3;
        let mut draining = None;
        let mut at = 0;
        for (phase, bound) in [
            None,
            Some(Phase::Before),
            Some(Phase::Overload),
            Some(Phase::After),
        ]
        .into_iter()
        .zip(bounds)
        {
            while at < bound {
                tokio::time::sleep_until((start + Duration::from_millis(at + SLOT_MS)).into()).await;
                watched.look(phase);
                if self.arguments.hand_off && draining.is_none() && at >= drain_at {
                    let mut node = self.nodes.remove(0);
                    draining = Some((at, tokio::task::spawn_blocking(move || node.drain())));
                }
                at += SLOT_MS;
            }
        }
        if let Some((at_ms, draining)) = draining {
            let drained = tokio::time::timeout(PATIENCE, draining).await;
            watched.hand_off = Some(match drained {
                Ok(drained) => {
                    let (outcome, took) = drained??;
                    HandOff {
                        outcome,
                        took_ms: took.as_secs_f64() * 1e3,
                        began_ms: at_ms,
                    }
                }
                Err(_) => return Err(eyre!("the hand-off has not ended {PATIENCE:?} after the load")),
            });
        }
        let records = finished(generators).await.wrap_err("the generators")?;
        Ok((watched, records))
    }
}

async fn finished(generators: Vec<Generator>) -> Result<Vec<GeneratorRecord>> {
    tokio::task::spawn_blocking(move || generators.into_iter().map(Generator::finish).collect()).await?
}
