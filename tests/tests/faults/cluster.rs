//! [`Cluster`]: an Assigner and three nodes as processes, each on a host of its own in a network of the test's own, and each
//! with a disk of its own for its log.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use softstore_client::{Client, ReadPolicy};
use softstore_proto::v1;
use softstore_proto::v1::assigner_client::AssignerClient;
use softstore_proto::v1::cache_client::CacheClient;
use softstore_tests::embedded::PATIENCE;
use softstore_tests::http::Metrics;
use softstore_tests::log_pipe::LogTo;
use softstore_tests::network::Network;
use softstore_tests::process::{Process, Signal, softstore};
use softstore_tests::processes::{life, until};
use softstore_tests::tap::Tap;
use tonic::transport::{Channel, Endpoint};

/// The host of the test itself.
pub(crate) const CLIENT: &str = "client";
/// The Assigner's host.
pub(crate) const ASSIGNER: &str = "assigner";
/// The node that drains.
pub(crate) const GIVER: &str = "n1";
/// The node that joins empty and takes all that the giver has.
pub(crate) const TAKER: &str = "n2";
/// The node that owns the other half.
pub(crate) const THIRD: &str = "n3";

/// Nobody is dead before that.
pub(crate) const FAILURE_TIMEOUT_MS: u64 = 1_000;

/// What the link from giver to taker carries: the pull takes a second or two.
pub(crate) const LINK_BYTES_PER_SECOND: u32 = 1_000_000;

/// The lease of a node, in the leased mode: a little less than the failure timeout.
const LEASE_MS: u64 = 900;

/// Names the mode to run in, `available` (the default) or `leased`.
const OWNERSHIP: &str = "SOFTSTORE_FAULT_OWNERSHIP";

/// What becomes of a node that is cut off from the Assigner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ownership {
    /// It serves on.
    Available,
    /// It stops when its lease is over.
    Leased,
}

impl Ownership {
    /// The mode of this run.
    ///
    /// # Panics
    /// If it has another name.
    pub(crate) fn of_this_run() -> Self {
        match std::env::var(OWNERSHIP).as_deref() {
            Err(_) | Ok("available") => Self::Available,
            Ok("leased") => Self::Leased,
            Ok(other) => panic!("{OWNERSHIP} is {other:?}, neither available nor leased"),
        }
    }
}

/// Room on the disk that a process logs to.
const DISK_BYTES: u32 = 1 << 20;

const ASSIGNER_PORT: u16 = 7400;
const NODE_PORT: u16 = 7401;
const HTTP_PORT: u16 = 7501;

/// A process, and what is known of it.
#[derive(Debug)]
struct Member {
    process: Process,
    tap: Tap,
}

/// The processes and what connects them.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Its links.
    pub(crate) network: Links,
    members: BTreeMap<&'static str, Member>,
    log_to: LogTo,
    starts: u32,
}

/// The network, with words for both directions at once.
#[derive(Debug)]
pub(crate) struct Links(Network);

impl std::ops::Deref for Links {
    type Target = Network;

    fn deref(&self) -> &Network {
        &self.0
    }
}

impl Links {
    /// Cuts both directions.
    pub(crate) fn cut_both(&self, one: &str, other: &str) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Heals both directions.
    pub(crate) fn heal_both(&self, one: &str, other: &str) {
        self.heal(one, other);
        self.heal(other, one);
    }
}

impl Cluster {
    /// Starts giver and third node as a settled cluster, then the taker, which joins empty and waits to take whole what
    /// drains.
    pub(crate) async fn start(log_to: LogTo) -> Self {
        let network = Network::lay(&[CLIENT, ASSIGNER, GIVER, TAKER, THIRD]);
        let mut cluster = Self {
            network: Links(network),
            members: BTreeMap::new(),
            log_to,
            starts: 0,
        };
        cluster.start_assigner(Some(2)).await;
        cluster.start_node(GIVER).await;
        cluster.start_node(THIRD).await;
        cluster.settled_with(&[GIVER, THIRD]).await;
        cluster.start_node(TAKER).await;
        cluster.settled_with(&[GIVER, TAKER, THIRD]).await;
        cluster
    }

    /// Starts an Assigner in place of what is there. `expected`: the nodes of a new cluster.
    pub(crate) async fn start_assigner(&mut self, expected: Option<u32>) {
        // A new cluster is there when all have said hello, however long that takes; over living nodes nobody is waited for
        // longer than a failure takes to be noticed.
        let settle_ms = if expected.is_some() {
            60_000
        } else {
            FAILURE_TIMEOUT_MS + 200
        };
        let mut flags = vec![
            "assigner".to_owned(),
            format!("--listen={}", self.address(ASSIGNER, ASSIGNER_PORT)),
            format!("--http-listen={}", self.address(ASSIGNER, HTTP_PORT)),
            format!("--settle-ms={settle_ms}"),
            "--rebalance-delay-ms=600000".to_owned(),
            // Who was killed is awaited as who was away: what is remembered for that must be given back before a cell ends.
            "--revival-ms=6000".to_owned(),
        ];
        if Ownership::of_this_run() == Ownership::Leased {
            flags.extend(["--ownership=leased".to_owned(), format!("--lease-ms={LEASE_MS}")]);
        }
        // Only the first Assigner is told how many to expect: the cluster is new to it.
        flags.extend(expected.iter().map(|nodes| format!("--expect-nodes={nodes}")));
        flags.extend(expected.map(|_| "--founds-at-once".to_owned()));
        self.start_process(ASSIGNER, flags).await;
    }

    async fn start_node(&mut self, id: &'static str) {
        let flags = vec![
            "node".to_owned(),
            format!("--id={id}"),
            format!("--listen={}", self.address(id, NODE_PORT)),
            format!("--http-listen={}", self.address(id, HTTP_PORT)),
            format!("--assigner={}", self.address(ASSIGNER, ASSIGNER_PORT)),
            "--memory=64MiB".to_owned(),
            "--heartbeat-ms=100".to_owned(),
            // A drain that hangs is to be seen hanging.
            "--drain-deadline-ms=600000".to_owned(),
        ];
        self.start_process(id, flags).await;
    }

    async fn start_process(&mut self, host: &'static str, mut flags: Vec<String>) {
        flags.extend([
            format!("--failure-timeout-ms={}", FAILURE_TIMEOUT_MS),
            "--insecure".to_owned(),
            "--cluster=faults".to_owned(),
            "--announce".to_owned(),
            "--exit-with-parent".to_owned(),
            "--log-format=json".to_owned(),
            format!("--log=info,{}=trace", softstore_server::events::TARGET),
        ]);
        self.starts += 1;
        let disk = disk(host, self.starts);
        let command = self.network.on(host, &softstore(&flags));
        let (process, _) = Process::start_logging(host, &disk, self.log_to, command).await;
        let tap = Tap::on(process.log_file());
        self.members.insert(host, Member { process, tap });
    }

    fn address(&self, host: &str, port: u16) -> String {
        format!("{}:{port}", self.network.address(host))
    }

    fn member(&mut self, host: &str) -> &mut Member {
        self.members.get_mut(host).expect("a process of this cluster")
    }

    /// A process.
    pub(crate) fn process(&self, host: &str) -> &Process {
        &self.members[host].process
    }

    /// Its log.
    pub(crate) fn tap(&mut self, host: &str) -> &mut Tap {
        &mut self.member(host).tap
    }

    /// Whether it has not ended.
    pub(crate) fn is_running(&mut self, host: &str) -> bool {
        self.member(host).process.is_running()
    }

    /// Kills a process, and waits for its end.
    pub(crate) async fn kill(&mut self, host: &str) {
        let process = &mut self.member(host).process;
        process.signal(Signal::KILL);
        process.exit_within(PATIENCE).await;
    }

    /// Waits for the end of a process; its exit code, none if a signal ended it.
    pub(crate) async fn exit_code(&mut self, host: &str) -> Option<i32> {
        self.member(host).process.exit_within(PATIENCE).await.code()
    }

    /// All that a process has logged.
    pub(crate) fn log(&self, host: &str) -> String {
        self.members[host].process.log()
    }

    /// Fills the disk that a process logs to, to the end of the page that the log's own end is on.
    pub(crate) fn fill_disk(&self, host: &str) {
        let log = self.process(host).log_file();
        let filler = log.with_file_name("filler");
        for (file, block) in [(filler.as_path(), &[b'.'; 4_096][..]), (log, b".")] {
            let opened = File::options().create(true).append(true).open(file);
            let mut file = opened.expect("there is room for an empty file");
            // The error is what is waited for: no room is left.
            while file.write_all(block).is_ok() {}
        }
    }

    /// A client that knows all nodes.
    pub(crate) async fn client(&self) -> Client {
        self.client_of(&[GIVER, TAKER, THIRD]).await
    }

    /// A client that knows these nodes.
    pub(crate) async fn client_of(&self, nodes: &[&str]) -> Client {
        Client::builder()
            .seeds(nodes.iter().map(|node| self.address(node, NODE_PORT)))
            .operation_timeout(Duration::from_secs(3))
            .require_cluster(true)
            .connect()
            .await
            .expect("the client connects")
    }

    /// The same, for questions at the end: what cannot be reached is an error and no miss.
    pub(crate) async fn strict_client(&self) -> Client {
        Client::builder()
            .seeds([TAKER, THIRD].map(|node| self.address(node, NODE_PORT)))
            .operation_timeout(PATIENCE)
            .read_policy(ReadPolicy::Error)
            .require_cluster(true)
            .connect()
            .await
            .expect("the client connects")
    }

    /// A node's data plane, past the client.
    pub(crate) fn direct(&self, node: &str) -> CacheClient<Channel> {
        let address = format!("http://{}", self.address(node, NODE_PORT));
        CacheClient::new(Endpoint::from_shared(address).expect("an address").connect_lazy())
    }

    /// What the Assigner says of the cluster; none while it does not answer.
    pub(crate) async fn status(&self) -> Option<v1::ClusterStatus> {
        let address = format!("http://{}", self.address(ASSIGNER, ASSIGNER_PORT));
        let endpoint = Endpoint::from_shared(address).expect("an address");
        let channel = endpoint.connect().await.ok()?;
        let status = AssignerClient::new(channel)
            .status(v1::StatusRequest::default())
            .await;
        status.ok().map(tonic::Response::into_inner)
    }

    /// Waits until these nodes and no others are there, all serve, and nothing moves.
    pub(crate) async fn settled_with(&self, nodes: &[&str]) {
        let what = format!("the cluster is settled with {nodes:?}");
        until(&what, async || {
            let status = self.status().await?;
            let mut there: Vec<&str> = status.nodes.iter().map(|node| life(node).node.as_str()).collect();
            there.sort_unstable();
            (status.settled && there == nodes).then_some(())
        })
        .await;
    }

    /// Waits until the Assigner counts a node as gone, whether it has said goodbye or was declared dead.
    pub(crate) async fn gone(&self, node: &str) {
        until(&format!("{node} is gone"), async || {
            let nodes = self.status().await?.nodes;
            nodes.iter().all(|known| life(known).node != node).then_some(())
        })
        .await;
    }

    /// From now on nobody reads any of the logs that go through pipes.
    pub(crate) fn stick_logs(&self) {
        if self.log_to != LogTo::Pipe {
            return;
        }
        for member in self.members.values() {
            member.process.log_pipe().stick();
        }
    }

    /// A process' metrics; none while it does not show them.
    pub(crate) async fn metrics(&self, host: &str) -> Option<Metrics> {
        Metrics::read(&self.address(host, HTTP_PORT)).await.ok()
    }
}

/// A small disk of its own, for one process' log.
fn disk(host: &str, number: u32) -> PathBuf {
    let dir = PathBuf::from(format!("/run/log-{host}-{number}"));
    std::fs::create_dir(&dir).expect("/run is the test's own");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "tmpfs"])
        .arg(&dir)
        .status();
    assert!(
        mounted.expect("mount runs").success(),
        "a small disk can be mounted"
    );
    dir
}

/// What all processes that ever ran here have logged, but for those of one host.
pub(crate) fn logs_but_of(host: Option<&str>) -> Vec<String> {
    let disks = std::fs::read_dir("/run").into_iter().flatten().flatten();
    let others = disks.filter(|disk| {
        let name = disk.file_name().to_string_lossy().into_owned();
        name.starts_with("log-") && host.is_none_or(|host| !name.starts_with(&format!("log-{host}-")))
    });
    let files = others.filter_map(|disk| std::fs::read_dir(disk.path()).ok());
    files
        .flatten()
        .flatten()
        .filter(|file| {
            file.path()
                .extension()
                .is_some_and(|extension| extension == "log")
        })
        .filter_map(|file| std::fs::read_to_string(file.path()).ok())
        .collect()
}
