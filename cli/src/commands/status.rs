//! `softstore status`.

use std::io::{IsTerminal, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytesize::ByteSize;
use comfy_table::{CellAlignment, Table, presets};
use eyre::{Result, WrapErr};
use serde::Serialize;
use softstore_proto::v1::balance_status::Hold;
use softstore_proto::v1::{
    Awaited, BalanceStatus, ClusterStatus, ForeignCluster, HotKeyStatus, NameWait, NodeState, NodeStatus,
};
use softstore_sharding::session::HOT_KEY_BYTES_MAX;

use crate::commands::moves::{ChangeJson, change_text};
use crate::control::{ClusterArgs, Control};
use crate::exit::Exit;
use crate::settings::written::span;

/// Most hot keys below the table; `--json` has all that the Assigner tells.
const HOT_KEYS_SHOWN: usize = 10;

/// The least time between two looks of `--watch`.
const WATCH_MIN: Duration = Duration::from_millis(100);

/// How often to look.
fn watch_interval(text: &str) -> Result<Duration, String> {
    let interval = span(text)?;
    if interval < WATCH_MIN {
        return Err(format!("it is asked every {WATCH_MIN:?} at most"));
    }
    Ok(interval)
}

/// What to show, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  softstore status
  softstore status --watch 1s
  softstore status --moves
  softstore status --json | jq '.nodes[] | {id, state, entries}'

Columns: STATE is joining (has no assignment yet), serving or draining. SLICES is ranges owned, SHARE their part of the
key space; a serving node with 0 slices is new or came back, and waits. BYTES OF is memory used of its budget; a cache
that runs full evicts, and that is no fault. HIT RATE counts from the node's start. HAND-OFFS is ranges that it is taking
from others and giving to them now. A node that is missing here is dead, or was never heard of. All is as of the last
heartbeats, half a second. OPS/S is operations served per second, decayed with a half-life of a second, BUSY how much of their
time the node's threads were.

Below the table: settled, or why not; what needs a person, in lines that begin with ! (docs/operations.md); which nodes cannot be
relied on to answer for what they own, and why; which silent nodes may still bring back what they held, should they only have been
away (revival_ms); and the hottest keys, if a node has keys that draw more than 1/256 of its operations, with
how far the rate may be off either way.

With --moves, the changes, newest first: what each was expected to pull and what its takers have pulled since, and for each move the
reason (docs/sharder.md), the operations per second that it takes off overloaded nodes, its cost in bytes and, at most, in misses, how
it ended and after how many milliseconds.

Exit codes:
  0  shown    2  error (stderr says what to do)")]
pub(crate) struct StatusArgs {
    /// Print JSON, one object per line.
    #[arg(long)]
    json: bool,
    /// Show also what the last assignments moved, why, and what it cost: so many of them (10 if not said; the Assigner remembers
    /// 256, and none from before its start).
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "10",
          value_parser = clap::value_parser!(u32).range(1..=256))]
    moves: Option<u32>,
    /// Show it again and again, every so often (2s if not said; 100ms at least: nodes report every half second).
    #[arg(long, value_name = "SPAN", value_parser = watch_interval, num_args = 0..=1, default_missing_value = "2s")]
    watch: Option<Duration>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// A cluster as `--json` prints it. Stable.
#[derive(Debug, PartialEq, Serialize)]
struct StatusJson {
    generation: String,
    settled: bool,
    unsettled_because: String,
    recovering: bool,
    /// `available` or `leased`.
    ownership: &'static str,
    /// Length of the leases; null without.
    lease_ms: Option<u64>,
    waiting_to_fill: u32,
    ranges_moving: u32,
    ranges_unreachable: u32,
    /// Silent nodes that may bring back what they held.
    awaited: Vec<AwaitedJson>,
    nodes: Vec<NodeJson>,
    /// Hottest first.
    hot_keys: Vec<HotKeyJson>,
    balance: BalanceJson,
    /// Processes that wait for a name which another one holds.
    name_waits: Vec<NameWaitJson>,
    /// The cluster's name; null if it has none.
    cluster: Option<String>,
    /// Its founding, 32 hexadecimal digits; null before the first assignment.
    founding: Option<String>,
    /// The foundings between which the operator is to choose with `--founding`; empty if there is nothing to choose.
    foundings_to_choose: Vec<String>,
    /// Other clusters whose nodes were refused lately.
    foreign: Vec<ForeignJson>,
    /// Nodes of a build that says neither its process nor its cluster.
    unidentified_nodes: u32,
    /// What a person needs to know of the Assigner and of nodes.
    conditions: Vec<ConditionJson>,
    /// Newest first; with `--moves`, else left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    changes: Option<Vec<ChangeJson>>,
}

/// Another cluster whose nodes were refused, as `--json` prints it.
#[derive(Debug, PartialEq, Serialize)]
struct ForeignJson {
    cluster: Option<String>,
    founding: Option<String>,
    /// The last node that asked.
    id: String,
    grpc: String,
    refused: u64,
    ago_ms: u64,
}

impl From<ForeignCluster> for ForeignJson {
    fn from(foreign: ForeignCluster) -> Self {
        Self {
            cluster: Some(foreign.cluster).filter(|name| !name.is_empty()),
            founding: founding(&foreign.founding),
            id: foreign.node,
            grpc: foreign.address,
            refused: foreign.refused,
            ago_ms: foreign.ago_ms,
        }
    }
}

/// A founding as it is written; none if there is none.
fn founding(bytes: &[u8]) -> Option<String> {
    (!bytes.is_empty()).then(|| bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A process that waits for a node's name which another one holds, as `--json` prints it.
#[derive(Debug, PartialEq, Serialize)]
struct NameWaitJson {
    id: String,
    /// Where the process that waits listens.
    grpc: String,
    /// Where the holder does; null if it is yet to come back.
    holder: Option<String>,
    waits_ms: u64,
    holder_silent_ms: u64,
}

impl From<NameWait> for NameWaitJson {
    fn from(wait: NameWait) -> Self {
        Self {
            id: wait.node,
            grpc: wait.address,
            holder: Some(wait.holder).filter(|holder| !holder.is_empty()),
            waits_ms: wait.waits_ms,
            holder_silent_ms: wait.holder_silent_ms,
        }
    }
}

/// A silent node that may bring back what it held, as `--json` prints it.
#[derive(Debug, PartialEq, Serialize)]
struct AwaitedJson {
    id: String,
    incarnation: String,
    /// How many ranges of what it held.
    ranges: u32,
}

/// Whether and how load is balanced, as `--json` prints it.
#[derive(Debug, PartialEq, Serialize)]
struct BalanceJson {
    sharder: String,
    reacts_to_load: bool,
    /// Null if load is balanced, or the sharder does not react to it.
    held_back: Option<HeldBack>,
    /// Until a freeze ends of itself; null if it does not, or there is none.
    frozen_ms: Option<u64>,
    /// The node whose report is missing, or that cannot be relied on; null unless that is why.
    silent_node: Option<String>,
    /// What balancing may still move within this minute, as a part of the data set's bytes.
    churn_left: f64,
}

/// Why nothing is balanced. Stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum HeldBack {
    Frozen,
    QuietHours,
    SharderOverdue,
    ChurnSpent,
    NoReport,
    /// The load begins, ends or leaps.
    LoadChanging,
    /// An owner is silent, cannot be reached, or does not serve what it owns.
    Doubted,
    /// The setting leaves balancing no bytes at all.
    NoChurn,
}

/// What a person needs to know, as `--json` prints it.
#[derive(Debug, PartialEq, Serialize)]
struct ConditionJson {
    /// The node of which it is so; null: the Assigner.
    node: Option<String>,
    /// Its name, what it is, for how long, with whom and why.
    condition: String,
}

/// A hot key as `--json` prints it.
#[derive(Debug, PartialEq, Serialize)]
struct HotKeyJson {
    /// Its first 62 bytes; what is not printable ASCII as `\\xNN`.
    key: String,
    key_bytes: u32,
    /// Its position in the key space, 16 hexadecimal digits.
    position: String,
    node: String,
    /// Who else serves reads of it.
    replicas: Vec<String>,
    operations_per_second: f64,
    /// At most how much that is off, either way.
    error_per_second: f64,
}

/// A node as `--json` prints it.
#[derive(Debug, PartialEq, Serialize)]
struct NodeJson {
    id: String,
    incarnation: String,
    state: &'static str,
    grpc: String,
    http: String,
    zone: String,
    slices: u32,
    share: f64,
    entries: u64,
    bytes: u64,
    capacity_bytes: u64,
    gets: u64,
    hits: u64,
    /// Of all gets since the node's start; null before the first.
    hit_rate: Option<f64>,
    ranges_taking: u64,
    ranges_giving: u64,
    operations_per_second: f64,
    bytes_per_second: f64,
    /// Processor time that the operations are estimated to take.
    cpu_us_per_second: f64,
    /// How much of their time the node's threads were busy.
    busy_percent: u32,
    waiting_to_fill: bool,
    /// Length of the leases under which it serves; null without.
    lease_ms: Option<u64>,
    silent_ms: u64,
    /// Why it is not relied on that the node answers for what it owns; empty if it is.
    doubt: String,
}

/// Shows it.
pub(crate) async fn run(args: StatusArgs) -> Result<Exit> {
    let mut control = Control::at(&args.cluster.config()?.assigner)?;
    loop {
        let status = control.status_with_changes(args.moves.unwrap_or(0)).await?;
        let status = StatusJson::of(status, args.moves.is_some());
        let text = if args.json {
            to_line(&status)?
        } else {
            to_table(&status)
        };
        let mut out = std::io::stdout().lock();
        if args.watch.is_some() && !args.json && out.is_terminal() {
            // Clears the screen, as `watch` does.
            out.write_all(b"\x1b[H\x1b[2J")
                .wrap_err("cannot write to stdout")?;
        }
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .wrap_err("cannot write to stdout")?;
        drop(out);
        match args.watch {
            Some(interval) => tokio::time::sleep(interval).await,
            None => return Ok(Exit::Ok),
        }
    }
}

fn to_line(status: &StatusJson) -> Result<String> {
    Ok(serde_json::to_string(status).wrap_err("status as JSON")? + "\n")
}

fn to_table(status: &StatusJson) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "NODE",
        "STATE",
        "ADDRESS",
        "SLICES",
        "SHARE",
        "ENTRIES",
        "BYTES",
        "OF",
        "HIT RATE",
        "OPS/S",
        "BUSY",
        "HAND-OFFS",
    ]);
    for node in &status.nodes {
        table.add_row(row(node));
    }
    for column in table.column_iter_mut().skip(3).take(8) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let summary = if status.settled {
        format!("settled at generation {}", status.generation)
    } else {
        format!(
            "not settled: {} (generation {})",
            status.unsettled_because, status.generation
        )
    };
    let mut text = format!("{}\n\n{summary}\n", table.trim_fmt());
    if let Some(lease_ms) = status.lease_ms {
        text.push_str(&format!(
            "Ownership is leased: a node that is cut off stops serving after {lease_ms} ms.\n"
        ));
    }
    for told in &status.conditions {
        let whose = told.node.as_deref().unwrap_or("the Assigner");
        text.push_str(&format!("! {whose}: {}\n", told.condition));
    }
    for node in status.nodes.iter().filter(|node| !node.doubt.is_empty()) {
        text.push_str(&format!("{} {}.\n", node.id, node.doubt));
    }
    if status.waiting_to_fill > 0 {
        text.push_str(
            "A node that joined later waits to take whole what next drains or dies, or is being given its share.\n",
        );
    }
    if status.ranges_unreachable > 0 {
        text.push_str(&format!(
            "{} ranges have no living owner: their reads are misses.\n",
            status.ranges_unreachable
        ));
    }
    text.push_str(&belonging(status));
    for wait in &status.name_waits {
        text.push_str(&name_wait(wait));
    }
    for awaited in &status.awaited {
        text.push_str(&format!(
            "{} fell silent: what it held of {} ranges may come back with it.\n",
            awaited.id, awaited.ranges
        ));
    }
    if let Some(held) = held_back(&status.balance) {
        text.push_str(&format!("Nothing is balanced: {held}\n"));
    }
    if status.balance.is_without_load() {
        let sharder = &status.balance.sharder;
        text.push_str(&format!("Load is not balanced: the sharder is {sharder}\n"));
    }
    if !status.hot_keys.is_empty() {
        text.push_str(&format!("\nHot keys:\n{}\n", hot_keys(&status.hot_keys)));
    }
    match status.changes.as_deref() {
        None => {}
        Some([]) => text.push_str("\nThe Assigner tells of no moves since its start.\n"),
        Some(changes) => {
            text.push_str("\nMoves, newest first:\n");
            text.extend(changes.iter().map(|change| change_text(change, unix_ms())));
        }
    }
    text
}

/// Which cluster this is, who belongs to another one, and what to do about it.
fn belonging(status: &StatusJson) -> String {
    let mut text = String::new();
    if let Some(name) = &status.cluster {
        let founding = status.founding.as_deref().unwrap_or("none yet");
        text.push_str(&format!("Cluster {name}, founding {founding}\n"));
    }
    if !status.foundings_to_choose.is_empty() {
        text.push_str(
            "Nothing is published before one founding is chosen; nodes of the others keep what they hold:\n",
        );
        for founding in &status.foundings_to_choose {
            text.push_str(&format!("  softstore assigner --founding {founding} ...\n"));
        }
    }
    for foreign in &status.foreign {
        let name = foreign.cluster.as_deref().unwrap_or("a cluster without a name");
        let founding = foreign.founding.as_deref().unwrap_or("none");
        text.push_str(&format!(
            "Refused {} times: {} at {} of {name}, founding {founding}; it keeps what it holds\n",
            foreign.refused, foreign.id, foreign.grpc
        ));
    }
    if status.unidentified_nodes > 0 {
        text.push_str(&format!(
            "{} nodes are of a build that does not say which cluster it belongs to: upgrade them\n",
            status.unidentified_nodes
        ));
    }
    text
}

/// Who waits for whose name, and what to do about it.
fn name_wait(wait: &NameWaitJson) -> String {
    let NameWaitJson { id, grpc, .. } = wait;
    let held = match &wait.holder {
        Some(holder) => format!(
            "{holder} holds it, and was heard of {} ms ago. If that one is of no use any more: softstore forget {id}",
            wait.holder_silent_ms
        ),
        None => "its holder is given time to come back".to_owned(),
    };
    format!(
        "A second process at {grpc} has waited for the name {id} for {} s: {held}\n",
        wait.waits_ms / 1_000
    )
}

/// Why nothing is balanced, and what to do about it; `None` if load is balanced.
fn held_back(balance: &BalanceJson) -> Option<String> {
    let text = match balance.held_back? {
        HeldBack::Frozen => match balance.frozen_ms {
            Some(ms) => format!(
                "frozen for another {} s (softstore unfreeze lifts it)",
                ms.div_ceil(1_000)
            ),
            None => "frozen (softstore unfreeze lifts it)".to_owned(),
        },
        HeldBack::QuietHours => "these are quiet hours (balance_quiet_hours)".to_owned(),
        HeldBack::SharderOverdue => {
            "the sharder has not answered in time; what must move is placed by even ranges".to_owned()
        }
        HeldBack::ChurnSpent => {
            "as much was moved within a minute as may be (balance_churn_percent_per_minute)".to_owned()
        }
        HeldBack::NoReport => format!(
            "{} has not reported its load lately",
            balance.silent_node.as_deref().unwrap_or("a node")
        ),
        HeldBack::Doubted => format!(
            "{} cannot be relied on, and looks idle (see above)",
            balance.silent_node.as_deref().unwrap_or("a node")
        ),
        HeldBack::LoadChanging => {
            "the load begins, ends or leaps: nothing is moved by it until it is known".to_owned()
        }
        HeldBack::NoChurn => "balance_churn_percent_per_minute is 0".to_owned(),
    };
    Some(text)
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn hot_keys(hot: &[HotKeyJson]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["OPS/S", "+-", "NODE", "KEY"]);
    for key in hot.iter().take(HOT_KEYS_SHOWN) {
        // A longer one is told by its beginning.
        let rest = if key.key_bytes as usize > HOT_KEY_BYTES_MAX {
            "..."
        } else {
            ""
        };
        table.add_row([
            format!("{:.0}", key.operations_per_second),
            format!("{:.0}", key.error_per_second),
            match key.replicas.len() {
                0 => key.node.clone(),
                more => format!("{} +{more}", key.node),
            },
            format!("{}{rest}", key.key),
        ]);
    }
    for column in table.column_iter_mut().take(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.trim_fmt()
}

fn row(node: &NodeJson) -> [String; 12] {
    let hand_offs = match (node.ranges_taking, node.ranges_giving) {
        (0, 0) if node.waiting_to_fill && node.slices > 0 => "is being filled".to_owned(),
        (0, 0) if node.waiting_to_fill => "waits to be filled".to_owned(),
        (0, 0) => "-".to_owned(),
        (taking, giving) => format!("taking {taking}, giving {giving}"),
    };
    [
        node.id.clone(),
        node.state.to_owned(),
        node.grpc.clone(),
        node.slices.to_string(),
        format!("{:.1}%", node.share * 100.0),
        node.entries.to_string(),
        ByteSize(node.bytes).display().iec().to_string(),
        ByteSize(node.capacity_bytes).display().iec().to_string(),
        node.hit_rate
            .map_or_else(|| "-".to_owned(), |rate| format!("{:.2}%", rate * 100.0)),
        format!("{:.0}", node.operations_per_second),
        format!("{}%", node.busy_percent),
        hand_offs,
    ]
}

impl StatusJson {
    /// With the changes only where they were asked for: none then is an answer, too.
    fn of(status: ClusterStatus, with_changes: bool) -> Self {
        let generation = status.generation.unwrap_or_default();
        let conditions = conditions(&status);
        Self {
            generation: format!("{}.{:x}", generation.number, generation.assigner),
            settled: status.settled,
            unsettled_because: status.unsettled_because,
            recovering: status.recovering,
            ownership: if status.lease_ms > 0 {
                "leased"
            } else {
                "available"
            },
            lease_ms: (status.lease_ms > 0).then_some(status.lease_ms),
            waiting_to_fill: status.waiting_to_fill,
            ranges_moving: status.ranges_moving,
            ranges_unreachable: status.ranges_unreachable,
            awaited: status.awaited.into_iter().map(AwaitedJson::from).collect(),
            nodes: status.nodes.into_iter().map(NodeJson::from).collect(),
            hot_keys: status.hot_keys.into_iter().map(HotKeyJson::from).collect(),
            balance: status.balance.unwrap_or_default().into(),
            name_waits: status.name_waits.into_iter().map(NameWaitJson::from).collect(),
            cluster: Some(status.cluster).filter(|name| !name.is_empty()),
            founding: founding(&status.founding),
            foundings_to_choose: status
                .foundings_to_choose
                .iter()
                .filter_map(|it| founding(it))
                .collect(),
            foreign: status.foreign.into_iter().map(ForeignJson::from).collect(),
            unidentified_nodes: status.unidentified_nodes,
            conditions,
            changes: with_changes.then(|| status.changes.into_iter().map(ChangeJson::from).collect()),
        }
    }
}

impl From<Awaited> for AwaitedJson {
    fn from(awaited: Awaited) -> Self {
        let life = awaited.life.unwrap_or_default();
        Self {
            id: life.node,
            incarnation: format!("{:x}", life.incarnation),
            ranges: awaited.ranges,
        }
    }
}

/// All that is told, of the Assigner first.
fn conditions(status: &ClusterStatus) -> Vec<ConditionJson> {
    let of = |node: Option<&str>, lines: &[String]| {
        let told = lines.iter().map(|line| ConditionJson {
            node: node.map(str::to_owned),
            condition: line.clone(),
        });
        told.collect::<Vec<_>>()
    };
    let of_nodes = status.nodes.iter().flat_map(|node| {
        let name = node.life.as_ref().map_or("", |life| life.node.as_str());
        let lines = node.load.as_ref().map_or(&[][..], |load| &load.conditions);
        of(Some(name), lines)
    });
    let of_assigner = of(None, &status.conditions);
    of_assigner.into_iter().chain(of_nodes).collect()
}

impl BalanceJson {
    /// Whether its sharder does not look at load. An Assigner that is too old to tell its sharder says nothing of it.
    fn is_without_load(&self) -> bool {
        !self.reacts_to_load && !self.sharder.is_empty()
    }
}

impl From<BalanceStatus> for BalanceJson {
    fn from(balance: BalanceStatus) -> Self {
        let hold = balance.hold();
        // An Assigner that says nothing of a budget that was spent, and has none left, never had one.
        let is_off = balance.reacts_to_load && balance.churn_left <= 0.0;
        let held_back = match hold {
            Hold::Unspecified => is_off.then_some(HeldBack::NoChurn),
            Hold::Frozen => Some(HeldBack::Frozen),
            Hold::QuietHours => Some(HeldBack::QuietHours),
            Hold::SharderOverdue => Some(HeldBack::SharderOverdue),
            Hold::ChurnSpent => Some(HeldBack::ChurnSpent),
            Hold::NoReport => Some(HeldBack::NoReport),
            Hold::LoadChanging => Some(HeldBack::LoadChanging),
            Hold::Doubted => Some(HeldBack::Doubted),
        };
        Self {
            sharder: balance.sharder,
            reacts_to_load: balance.reacts_to_load,
            held_back,
            frozen_ms: (balance.frozen_ms > 0).then_some(balance.frozen_ms),
            silent_node: matches!(hold, Hold::NoReport | Hold::Doubted).then_some(balance.silent_node),
            churn_left: balance.churn_left,
        }
    }
}

impl From<HotKeyStatus> for HotKeyJson {
    fn from(hot: HotKeyStatus) -> Self {
        let key = hot.key.unwrap_or_default();
        Self {
            key: key.key.escape_ascii().to_string(),
            key_bytes: key.key_bytes,
            position: format!("{:016x}", key.at),
            node: hot.owner.unwrap_or_default().node,
            replicas: hot.replicas.into_iter().map(|life| life.node).collect(),
            operations_per_second: key.operations_per_second,
            error_per_second: key.error_per_second,
        }
    }
}

impl From<NodeStatus> for NodeJson {
    fn from(node: NodeStatus) -> Self {
        let state = state_word(node.state());
        let life = node.life.unwrap_or_default();
        let load = node.load.unwrap_or_default();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a rate for people; 53 bits of it are plenty"
        )]
        let hit_rate = (load.gets > 0).then(|| load.hits as f64 / load.gets as f64);
        Self {
            id: life.node,
            incarnation: format!("{:x}", life.incarnation),
            state,
            grpc: node.address,
            http: node.http_address,
            zone: node.zone,
            slices: node.slices,
            share: node.share,
            entries: load.entries,
            bytes: load.bytes,
            capacity_bytes: node.capacity_bytes,
            gets: load.gets,
            hits: load.hits,
            hit_rate,
            ranges_taking: load.ranges_taking,
            ranges_giving: load.ranges_giving,
            operations_per_second: load.operations_per_second,
            bytes_per_second: load.bytes_per_second,
            cpu_us_per_second: load.cpu_us_per_second,
            busy_percent: load.busy_percent,
            waiting_to_fill: node.waiting_to_fill,
            lease_ms: (node.lease_ms > 0).then_some(node.lease_ms),
            silent_ms: node.silent_ms,
            doubt: node.doubt,
        }
    }
}

/// A node's state in a word.
pub(crate) fn state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Joining => "joining",
        NodeState::Serving => "serving",
        NodeState::Draining => "draining",
        NodeState::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use softstore_proto::v1::{HotKey, Life, LoadReport};

    fn cluster() -> StatusJson {
        let load = LoadReport {
            gets: 4,
            hits: 3,
            entries: 10,
            ranges_giving: 2,
            conditions: vec!["own_name: it does not resolve".into()],
            operations_per_second: 1_234.4,
            busy_percent: 41,
            ..LoadReport::default()
        };
        let hot = HotKeyStatus {
            key: Some(HotKey {
                at: 0xab,
                operations_per_second: 700.2,
                error_per_second: 30.0,
                key: b"user:\xff1".as_slice().into(),
                key_bytes: 7,
            }),
            owner: Some(Life {
                node: "cache-0".into(),
                incarnation: 0xab,
            }),
            replicas: vec![Life {
                node: "cache-1".into(),
                incarnation: 1,
            }],
        };
        let node = NodeStatus {
            life: Some(Life {
                node: "cache-0".into(),
                incarnation: 0xab,
            }),
            state: NodeState::Draining.into(),
            share: 0.5,
            load: Some(load),
            ..NodeStatus::default()
        };
        let unsettled_because = "cache-0 drains".to_owned();
        shown(ClusterStatus {
            nodes: vec![node],
            hot_keys: vec![hot],
            unsettled_because,
            conditions: vec!["second_assigner: stop one".into()],
            ..ClusterStatus::default()
        })
    }

    fn shown(status: ClusterStatus) -> StatusJson {
        StatusJson::of(status, false)
    }

    #[test]
    fn the_table_says_what_moves_and_why_it_is_not_settled() {
        let text = to_table(&cluster());
        for expected in [
            "cache-0",
            "draining",
            "50.0%",
            "75.00%",
            "taking 0, giving 2",
            "not settled: cache-0 drains",
            "1234",
            "41%",
            "700",
            r"user:\xff1",
            "cache-0 +1",
            "! the Assigner: second_assigner: stop one",
            "! cache-0: own_name: it does not resolve",
        ] {
            assert!(text.contains(expected), "{expected} is missing:\n{text}");
        }
    }

    #[test]
    fn the_mode_of_ownership_is_shown() {
        let available = cluster();
        assert!(!to_table(&available).contains("leased"));
        let line = to_line(&available).unwrap();
        assert!(
            line.contains(r#""ownership":"available","lease_ms":null"#),
            "{line}"
        );
        let leased = ClusterStatus {
            lease_ms: 2_500,
            ..ClusterStatus::default()
        };
        let leased = shown(leased);
        assert!(to_table(&leased).contains("leased: a node that is cut off stops serving after 2500 ms"));
        let line = to_line(&leased).unwrap();
        assert!(line.contains(r#""ownership":"leased","lease_ms":2500"#), "{line}");
    }

    #[test]
    fn what_holds_balancing_back_is_shown() {
        let with = |balance| {
            shown(ClusterStatus {
                balance: Some(balance),
                ..ClusterStatus::default()
            })
        };
        let frozen = |frozen_ms| {
            with(BalanceStatus {
                hold: Hold::Frozen.into(),
                frozen_ms,
                ..BalanceStatus::default()
            })
        };
        let text = to_table(&frozen(61_200));
        assert!(
            text.contains("Nothing is balanced: frozen for another 62 s (softstore unfreeze"),
            "{text}"
        );
        assert!(
            to_line(&frozen(0))
                .unwrap()
                .contains(r#""held_back":"frozen","frozen_ms":null"#)
        );
        assert!(!to_table(&cluster()).contains("balanced"));
        let auto = |churn_left| BalanceStatus {
            sharder: "auto".into(),
            reacts_to_load: true,
            churn_left,
            ..BalanceStatus::default()
        };
        assert!(!to_table(&with(auto(0.5))).contains("balanced"));
        let off = with(auto(0.0));
        assert!(to_table(&off).contains("Nothing is balanced: balance_churn_percent_per_minute is 0"));
        assert!(to_line(&off).unwrap().contains(r#""held_back":"no_churn""#));
        let even = with(BalanceStatus {
            sharder: "even".into(),
            ..BalanceStatus::default()
        });
        assert!(to_table(&even).contains("Load is not balanced: the sharder is even"));
    }

    /// Plan: nothing has moved. Who asks for moves is told so; who does not hears nothing of them.
    #[test]
    fn no_moves_are_an_answer_to_who_asked_for_them() {
        let (unasked, asked) = (
            StatusJson::of(ClusterStatus::default(), false),
            StatusJson::of(ClusterStatus::default(), true),
        );
        assert!(!to_table(&unasked).contains("moves") && !to_line(&unasked).unwrap().contains("changes"));
        assert!(to_table(&asked).contains("tells of no moves since its start"));
        assert!(to_line(&asked).unwrap().contains(r#""changes":[]"#));
    }

    #[test]
    fn json_is_one_line_and_a_rate_without_gets_is_null() {
        let mut status = cluster();
        assert!(to_line(&status).unwrap().contains(r#""hit_rate":0.75"#));
        status.nodes[0] = NodeJson::from(NodeStatus::default());
        let line = to_line(&status).unwrap();
        assert!(line.contains(r#""hit_rate":null"#), "{line}");
        assert_eq!(line.matches('\n').count(), 1);
    }
}
