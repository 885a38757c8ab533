//! `softstore drain`.

use std::time::{Duration, Instant};

use bytesize::ByteSize;
use eyre::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use softstore_proto::v1::{ClusterStatus, DrainReply, NodeStatus};

use crate::control::{ClusterArgs, Control, POLL};
use crate::exit::Exit;
use crate::say;
use crate::settings::written::span;

/// Which node.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  softstore drain cache-1

The node hands over all it owns to the others, hottest entries first, and then its process exits: whatever supervises it
(systemd, Kubernetes) may start it again, empty. It does the same on SIGTERM. What is not handed over within the node's
own drain_deadline_ms (25 s, unless set) is lost; it is the coldest. If no other node can take over, the drain is refused
and nothing changes.

Exit codes:
  0  the node has left (compare what it held with what the others took over)
  1  it had not left within --timeout; it goes on draining, and `softstore status` shows how far it is
  2  error, or refused (stderr says what to do)")]
pub(crate) struct DrainArgs {
    /// The node's name, as `softstore status` shows it.
    node: String,
    /// How long to watch the drain at most: 500ms, 30s, 5m. It does not stop the drain.
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "60s")]
    timeout: Duration,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// What nodes did last is known so much later: a little over two heartbeats.
const REPORT_LAG: Duration = Duration::from_millis(1_100);

/// What was seen of the drain so far, to show how far it is.
struct Progress<'a> {
    node: &'a str,
    start: DrainReply,
    /// What the other nodes had imported since their start when the drain began.
    imported_before: u64,
    /// The life that drains: one that comes back under the same name is another.
    incarnation: u64,
}

/// Orders the drain and watches it.
pub(crate) async fn run(args: DrainArgs) -> Result<Exit> {
    let mut control = Control::at(&args.cluster.config()?.assigner)?;
    let before = control.status().await?;
    let Some(incarnation) = named(&before, &args.node).map(incarnation) else {
        bail!(
            "no living node is called {:?}: `softstore status` shows the names",
            args.node
        );
    };
    let start = control.drain(&args.node).await?;
    let progress = Progress {
        node: &args.node,
        start,
        imported_before: imported(&before, &args.node),
        incarnation,
    };
    say::remark(format_args!(
        "{} drains; its process exits when it is done",
        args.node
    ));
    watch(&mut control, &progress, args.timeout).await
}

async fn watch(control: &mut Control, progress: &Progress<'_>, timeout: Duration) -> Result<Exit> {
    let bar = ProgressBar::new(progress.start.bytes);
    bar.set_style(
        ProgressStyle::with_template("{wide_bar} {bytes} of {total_bytes}, {msg}, {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let begun = Instant::now();
    while begun.elapsed() < timeout {
        // A drain goes on while the Assigner is away; so does the watching.
        if let Ok(status) = control.status().await {
            let Some(node) = progress.draining(&status) else {
                bar.finish_and_clear();
                let reports = last_reports(control, status).await;
                say::result(progress.farewell(begun.elapsed(), &reports))?;
                return Ok(Exit::Ok);
            };
            bar.set_position(progress.handed_over(&status));
            bar.set_message(format!("{} slices left", node.slices));
        }
        tokio::time::sleep(POLL).await;
    }
    bar.abandon();
    say::remark(format_args!(
        "softstore: {} has not left within {timeout:?}; it goes on draining",
        progress.node
    ));
    Ok(Exit::No)
}

/// The status once the others have reported what they took last: that comes with their heartbeats.
async fn last_reports(control: &mut Control, status: ClusterStatus) -> ClusterStatus {
    tokio::time::sleep(REPORT_LAG).await;
    control.status().await.unwrap_or(status)
}

impl Progress<'_> {
    /// What to say once it has left.
    fn farewell(&self, after: Duration, status: &ClusterStatus) -> String {
        let size = |bytes| ByteSize(bytes).display().iec();
        let held = format!(
            "it held {} in {} entries",
            size(self.start.bytes),
            self.start.entries
        );
        let taken = format!("the others took over {}", size(self.handed_over(status)));
        format!(
            "{} has left after {:.1} s; {held}; {taken}",
            self.node,
            after.as_secs_f64()
        )
    }

    /// The draining node, while it is there.
    fn draining<'s>(&self, status: &'s ClusterStatus) -> Option<&'s NodeStatus> {
        named(status, self.node).filter(|node| incarnation(node) == self.incarnation)
    }

    /// Bytes that the others have imported since the drain began, at most what there was.
    fn handed_over(&self, status: &ClusterStatus) -> u64 {
        imported(status, self.node)
            .saturating_sub(self.imported_before)
            .min(self.start.bytes)
    }
}

fn named<'s>(status: &'s ClusterStatus, name: &str) -> Option<&'s NodeStatus> {
    status
        .nodes
        .iter()
        .find(|node| node.life.as_ref().is_some_and(|life| life.node == name))
}

fn incarnation(node: &NodeStatus) -> u64 {
    node.life.as_ref().map_or(0, |life| life.incarnation)
}

/// What all nodes but one have imported since their start.
fn imported(status: &ClusterStatus, but: &str) -> u64 {
    let others = status
        .nodes
        .iter()
        .filter(|node| node.life.as_ref().is_none_or(|life| life.node != but));
    others
        .filter_map(|node| node.load.as_ref())
        .map(|load| load.bytes_imported)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use softstore_proto::v1::{Life, LoadReport};

    fn node(name: &str, incarnation: u64, bytes_imported: u64) -> NodeStatus {
        NodeStatus {
            life: Some(Life {
                node: name.into(),
                incarnation,
            }),
            load: Some(LoadReport {
                bytes_imported,
                ..LoadReport::default()
            }),
            ..NodeStatus::default()
        }
    }

    /// Plan: `a` drains 100 bytes into `b`, which had imported 10 before; then `a` comes back as another life, which is
    /// not the one that was drained.
    #[test]
    fn progress_is_what_the_others_take_and_a_new_life_is_another_node() {
        let start = DrainReply {
            bytes: 100,
            entries: 1,
        };
        let progress = Progress {
            node: "a",
            start,
            imported_before: 10,
            incarnation: 1,
        };
        let mid = ClusterStatus {
            nodes: vec![node("a", 1, 7), node("b", 5, 50)],
            ..ClusterStatus::default()
        };
        assert!(progress.draining(&mid).is_some());
        assert_eq!(progress.handed_over(&mid), 40);
        let back = ClusterStatus {
            nodes: vec![node("a", 2, 7), node("b", 5, 500)],
            ..ClusterStatus::default()
        };
        assert!(progress.draining(&back).is_none());
        assert_eq!(progress.handed_over(&back), 100);
    }
}
