//! The nodes, their neighbours and the generators as child processes, each pinned to its core. They end with this program.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use eyre::{Result, WrapErr, bail, ensure, eyre};
use serde::{Deserialize, Serialize};
use softstore_server::config::NodeConfig;
use softstore_server::node::Node;
use softstore_sharding::NodeId;

use crate::generate::Orders;
use crate::tally::GeneratorRecord;

/// Ticks of processor time per second in `/proc/PID/stat` (`USER_HZ`, fixed on Linux).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a node is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NodeOrders {
    pub(crate) id: String,
    pub(crate) assigner: String,
    pub(crate) memory_bytes: u64,
    pub(crate) queue_target_ms: u64,
}

/// A child that is ended when it is dropped. `taskset` replaces itself by the program, so the id is the program's.
#[derive(Debug)]
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(core: Option<usize>, role: &str) -> Result<Ended> {
    let program = std::env::current_exe().wrap_err("cannot find this program")?;
    let mut command = match core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.arg("-c").arg(core.to_string()).arg(program);
            command
        }
        None => Command::new(program),
    };
    let child = command
        .arg(role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .wrap_err("cannot start a child process")?;
    Ok(Ended(child))
}

/// Whether processes can be pinned to both cores.
pub(crate) fn can_pin(cores: [usize; 2]) -> bool {
    cores.iter().all(|core| {
        let tried = Command::new("taskset")
            .args(["-c", &core.to_string(), "true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        tried.is_ok_and(|status| status.success())
    })
}

/// A node's process.
#[derive(Debug)]
pub(crate) struct NodeProcess {
    child: Ended,
    orders: ChildStdin,
    said: BufReader<std::process::ChildStdout>,
    pub(crate) grpc: String,
}

impl NodeProcess {
    pub(crate) fn start(core: Option<usize>, orders: &NodeOrders) -> Result<Self> {
        let mut child = start(core, "--as-node")?;
        let mut stdin = child.0.stdin.take().ok_or_else(|| eyre!("no stdin"))?;
        let stdout = child.0.stdout.take().ok_or_else(|| eyre!("no stdout"))?;
        writeln!(stdin, "{}", serde_json::to_string(orders)?)?;
        let mut said = BufReader::new(stdout);
        let mut grpc = String::new();
        said.read_line(&mut grpc)?;
        ensure!(!grpc.trim().is_empty(), "a node has ended at once");
        Ok(Self {
            child,
            orders: stdin,
            said,
            grpc: grpc.trim().to_owned(),
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Drains it, and says how that ended and how long it took. Blocks.
    pub(crate) fn drain(&mut self) -> Result<(String, Duration)> {
        let begun = Instant::now();
        writeln!(self.orders, "drain")?;
        let mut outcome = String::new();
        self.said.read_line(&mut outcome)?;
        Ok((outcome.trim().to_owned(), begun.elapsed()))
    }
}

/// Is a node: prints where it listens, drains when it is told to, ends with its stdin.
pub(crate) fn be_node() -> Result<()> {
    let mut lines = std::io::stdin().lines();
    let orders = lines.next().ok_or_else(|| eyre!("no orders"))??;
    let orders: NodeOrders = serde_json::from_str(&orders)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let config = NodeConfig {
        id: NodeId::new(&orders.id)?,
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        http_listen: None,
        assigner: orders.assigner,
        memory_bytes: orders.memory_bytes,
        drain_deadline_ms: 120_000,
        queue_target_ms: orders.queue_target_ms,
        ..NodeConfig::default()
    };
    let node = runtime
        .block_on(Node::start(config))
        .wrap_err("cannot start the node")?;
    println!("{}", node.grpc_addr());
    while let Some(Ok(line)) = lines.next() {
        if line == "drain" {
            println!("{:?}", runtime.block_on(node.drain()));
            break;
        }
    }
    drop(node);
    runtime.shutdown_background();
    Ok(())
}

/// A process that does nothing but take its share of a core.
#[derive(Debug)]
pub(crate) struct Neighbour {
    _child: Ended,
}

impl Neighbour {
    pub(crate) fn start(core: Option<usize>) -> Result<Self> {
        let child = start(core, "--as-neighbour")?;
        Ok(Self { _child: child })
    }
}

/// Spins until its stdin ends.
pub(crate) fn be_neighbour() {
    std::thread::spawn(|| {
        // It ends, however it ends.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    loop {
        std::hint::spin_loop();
    }
}

/// A generator's process, at work.
#[derive(Debug)]
pub(crate) struct Generator(Ended);

impl Generator {
    pub(crate) fn start(core: Option<usize>, orders: &Orders) -> Result<Self> {
        let mut child = start(core, "--as-generator")?;
        let mut stdin = child.0.stdin.take().ok_or_else(|| eyre!("no stdin"))?;
        stdin.write_all(serde_json::to_string(orders)?.as_bytes())?;
        Ok(Self(child))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.0.id()
    }

    /// What it recorded, once it has ended. Blocks.
    pub(crate) fn finish(mut self) -> Result<GeneratorRecord> {
        let mut stdout = self.0.0.stdout.take().ok_or_else(|| eyre!("no stdout"))?;
        let mut text = String::new();
        stdout.read_to_string(&mut text)?;
        if text.is_empty() {
            bail!("a generator has ended without a record");
        }
        serde_json::from_str(&text).wrap_err("a generator's record")
    }
}

/// Processor time that a process has used, user and system, in seconds (proc(5), `/proc/PID/stat`, fields 14 and 15).
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; the fields after it are numbers.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |nth: usize| fields.get(nth).and_then(|field| field.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / TICKS_PER_SECOND
}

/// Resident memory of a process in MiB (proc(5), `/proc/PID/status`).
pub(crate) fn rss_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
