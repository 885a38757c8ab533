//! A node in a control group, what it says of its memory, and the loads that it is put under.

use std::time::Duration;

use softstore_client::{Client, SetOptions};
use softstore_proto::v1;
use softstore_tests::attacker::{
    CACHE_EXECUTE, DATA, END_HEADERS, END_STREAM, HEADERS, Raw, WINDOW_UPDATE, batch, call_headers, frame,
};
use softstore_tests::cgroup::{self, MemoryGroup};
use softstore_tests::embedded::PATIENCE;
use softstore_tests::http::{self, Metrics};
use softstore_tests::process::{Process, softstore};
use softstore_tests::processes::{until, until_within};
use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;

/// What an entry of 100 bytes counts, about; so many fill a store.
const SMALL_ENTRY_BYTES: u64 = 480;
const SMALL_VALUE_BYTES: usize = 100;
const LARGE_VALUE_BYTES: usize = 60_000;

/// Bytes of values in one batch, and most operations.
const BATCH_BYTES: usize = 2 << 20;
const BATCH_OPS: usize = 1_000;

/// How long a node may take to find its way after a load.
const SETTLE_PATIENCE: Duration = Duration::from_secs(30);

/// Whether groups can be had here. If not, it says why; with `SOFTSTORE_CI=1` that is a failure where groups can be made.
pub(crate) fn can_run(test: &str) -> bool {
    let Some(missing) = cgroup::missing() else {
        return true;
    };
    eprintln!("{test}: skipped, no memory limit can be set here: {missing}");
    let is_root = rustix::process::geteuid().is_root();
    let has_controller =
        std::fs::read_to_string("/proc/cgroups").is_ok_and(|groups| groups.contains("memory"));
    let is_writable = std::fs::metadata("/sys/fs/cgroup").is_ok_and(|mount| !mount.permissions().readonly());
    assert!(
        std::env::var("SOFTSTORE_CI").as_deref() != Ok("1") || !(is_root && has_controller && is_writable),
        "with SOFTSTORE_CI=1 a skip is a failure where the machine has memory limits"
    );
    false
}

/// An Assigner and nodes, the first of them in a group.
pub(crate) struct Rig {
    pub(crate) limited: Node,
    pub(crate) limit_bytes: u64,
    assigner: String,
    // Dropped after the nodes' processes, in this order.
    _assigner: Process,
    pub(crate) group: MemoryGroup,
    logs: TempDir,
}

pub(crate) struct Node {
    pub(crate) process: Process,
    pub(crate) grpc: String,
    http: String,
}

impl Rig {
    /// A node with default settings under a limit.
    pub(crate) async fn start(limit_bytes: u64) -> Self {
        let group = MemoryGroup::new(limit_bytes).expect("it was tried before");
        let logs = TempDir::new().expect("the temporary directory is writable");
        let flags = [
            "assigner",
            "--announce",
            "--exit-with-parent",
            "--expect-nodes=1",
            "--listen=127.0.0.1:0",
            "--http-listen=off",
            "--rebalance-delay-ms=300",
        ];
        let flags: Vec<String> = flags.iter().map(ToString::to_string).collect();
        let (process, line) = Process::start("assigner", logs.path(), &flags).await;
        let assigner = line["assigner"].as_str().expect("an address").to_owned();
        let limited = Node::start("limited", &assigner, &logs, Some(&group), &[]).await;
        Self {
            group,
            limit_bytes,
            assigner,
            limited,
            _assigner: process,
            logs,
        }
    }

    /// A node that no group limits.
    pub(crate) async fn unlimited(&self, id: &str) -> Node {
        Node::start(id, &self.assigner, &self.logs, None, &["--memory=2GiB"]).await
    }

    /// Looks at the node; what it saw, as a line of a table.
    ///
    /// # Panics
    /// If it was killed.
    pub(crate) async fn look(&mut self, what: &str) -> Seen {
        let limit_bytes = self.limit_bytes;
        let alive = self.limited.process.is_running();
        let peak_bytes = self.limited.peak_bytes();
        assert!(alive, "{} MiB: killed under {what}", limit_bytes / MIB);
        let metrics = self.limited.metrics().await;
        let seen = Seen {
            store_bytes: bytes(&metrics, "memory_used_bytes"),
            resident_bytes: self.limited.resident_bytes(),
        };
        println!(
            "{:>5} MiB  {what:<32}  resident {:>5} MiB (peak {:>5})  store {:>5} MiB  {}",
            limit_bytes / MIB,
            seen.resident_bytes / MIB,
            peak_bytes / MIB,
            seen.store_bytes / MIB,
            metrics.line(),
        );
        seen
    }

    /// Waits until the store counts at least 60% of what the limit leaves beside 64 MiB.
    pub(crate) async fn holds_its_share(&mut self, what: &str) {
        let least = (self.limit_bytes - 64 * MIB) / 10 * 6;
        let node = &self.limited;
        let what_for = format!(
            "{} MiB: the store counts {} MiB after {what}",
            self.limit_bytes / MIB,
            least / MIB
        );
        until_within(SETTLE_PATIENCE, &what_for, async || {
            let metrics = Metrics::read(&node.http).await.ok()?;
            (bytes(&metrics, "memory_used_bytes") >= least).then_some(())
        })
        .await;
    }
}

/// What was seen of a node.
pub(crate) struct Seen {
    pub(crate) store_bytes: u64,
    pub(crate) resident_bytes: u64,
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a gauge of bytes"
)]
fn bytes(metrics: &Metrics, name: &str) -> u64 {
    metrics.get(name) as u64
}

impl Node {
    async fn start(
        id: &str,
        assigner: &str,
        logs: &TempDir,
        group: Option<&MemoryGroup>,
        more: &[&str],
    ) -> Self {
        let flags = [
            &["node", "--announce", "--exit-with-parent", "--log-format=json"][..],
            &[
                "--listen=127.0.0.1:0",
                "--http-listen=127.0.0.1:0",
                "--id",
                id,
                "--assigner",
                assigner,
            ],
            more,
        ];
        let flags: Vec<String> = flags.concat().iter().map(ToString::to_string).collect();
        let command = softstore(&flags);
        let command = group.map(|group| group.within(&command)).unwrap_or(command);
        let (process, line) = Process::start_command(id, logs.path(), command).await;
        let text = |field: &str| line[field].as_str().expect("an address").to_owned();
        let node = Self {
            process,
            grpc: text("grpc"),
            http: text("http"),
        };
        until(&format!("{id} is ready"), async || {
            let (code, _) = http::get(&node.http, "/readyz").await.ok()?;
            (code == 200).then_some(())
        })
        .await;
        node
    }

    pub(crate) async fn metrics(&self) -> Metrics {
        until("the node shows its metrics", async || {
            Metrics::read(&self.http).await.ok()
        })
        .await
    }

    pub(crate) async fn client(&self) -> Client {
        let client = Client::builder().seeds([self.grpc.clone()]).connect().await;
        client.expect("it connects").with_timeout(PATIENCE)
    }

    fn status(&self, name: &str) -> u64 {
        let pid = self.process.pid().as_raw_nonzero();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1_024
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        self.status("VmRSS:")
    }

    fn peak_bytes(&self) -> u64 {
        self.status("VmHWM:")
    }
}

/// Puts values under numbered keys, one batch after the other. One that is not stored is no matter here: what counts is that
/// the node lives.
pub(crate) async fn fill(
    client: &Client,
    prefix: &str,
    count: u64,
    value_bytes: usize,
    ttl: Option<Duration>,
) {
    let options = ttl.map_or(SetOptions::new(), |ttl| SetOptions::new().ttl(ttl));
    let per_batch = (BATCH_BYTES / value_bytes).clamp(1, BATCH_OPS) as u64;
    let mut refused = 0;
    for from in (0..count).step_by(usize::try_from(per_batch).expect("small")) {
        let numbers = from..count.min(from + per_batch);
        let entries = numbers.map(|number| (format!("{prefix}-{number}"), vec![7; value_bytes]));
        let outcomes = client.set_many(entries, options).await;
        refused += outcomes.iter().filter(|outcome| outcome.is_err()).count() as u64;
        assert!(
            refused <= count / 100 + per_batch,
            "{refused} of {count} were refused, lastly {:?}",
            outcomes.last()
        );
    }
}

/// Values of 100 bytes, as many as fill the store that a limit allows by default, and then twice as much of 60 KB.
pub(crate) async fn sizes_that_change(client: &Client, limit_bytes: u64) {
    let store_bytes = limit_bytes / 4 * 3;
    fill(
        client,
        "small",
        store_bytes / SMALL_ENTRY_BYTES * 5 / 4,
        SMALL_VALUE_BYTES,
        None,
    )
    .await;
    fill(
        client,
        "large",
        store_bytes / LARGE_VALUE_BYTES as u64 * 3 / 2,
        LARGE_VALUE_BYTES,
        None,
    )
    .await;
}

/// Values of three sizes in turn that live for a second or two, half a store of each.
pub(crate) async fn short_lives(client: &Client, limit_bytes: u64) {
    let half = limit_bytes / 8 * 3;
    for (round, (value_bytes, entry_bytes)) in [
        (100, SMALL_ENTRY_BYTES),
        (3_000, 3_500),
        (LARGE_VALUE_BYTES, 61_000),
    ]
    .into_iter()
    .cycle()
    .take(6)
    .enumerate()
    {
        let ttl = Duration::from_millis(1_000 + 500 * (round as u64 % 3));
        fill(
            client,
            &format!("ttl-{round}"),
            half / entry_bytes,
            value_bytes,
            Some(ttl),
        )
        .await;
    }
}

/// Three connections, each with twelve unary calls whose answers have 3.7 MiB, and that read nothing: for as long as the
/// returned are kept. With a window of 0, or one that takes it all.
pub(crate) async fn unread_replies(node: &Node, client: &Client, window: u32) -> Vec<Raw> {
    const ANSWER_BYTES: usize = 3_700 << 10;
    let count = ANSWER_BYTES / LARGE_VALUE_BYTES;
    fill(client, "asked", count as u64, LARGE_VALUE_BYTES, None).await;
    let ops = (0..count).map(|number| v1::Op {
        kind: v1::OpKind::Get.into(),
        key: format!("asked-{number}").into_bytes().into(),
        since_index: 9,
        ..v1::Op::default()
    });
    let question = batch(&ops.collect::<Vec<_>>());
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::open_with_window(&node.grpc, Some(window)).await;
        if window > 0 {
            raw.send(&frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()))
                .await;
        }
        for stream in (1..24).step_by(2) {
            let call = frame(HEADERS, END_HEADERS, stream, &call_headers(CACHE_EXECUTE));
            let asked = [call, frame(DATA, END_STREAM, stream, &question)].concat();
            raw.send(&asked).await;
        }
        held.push(raw);
    }
    held
}

/// What a page of metrics says of memory beside what every build has.
pub(crate) trait Line {
    /// In a line.
    fn line(&self) -> String;
}

impl Line for Metrics {
    fn line(&self) -> String {
        let of = |name: &str| self.sum(name);
        let mib = f64::from(1 << 20);
        format!(
            "budget {:>5.0} MiB  transit {:>3.0} MiB  purges {}  shrinks {}  grows {}  cut {}",
            of("memory_budget_bytes") / mib,
            of("transit_bytes") / mib,
            of("memory_purges_total"),
            of("memory_shrinks_total"),
            of("memory_grows_total"),
            of("connections_cut_for_memory_total"),
        )
    }
}
