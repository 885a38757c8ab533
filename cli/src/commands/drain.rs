//! `softstore drain`.

use std::time::{Duration, Instant};

use bytesize::ByteSize;
use eyre::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use softstore_proto::v1::{ClusterStatus, DrainReply, DrainReport, NodeStatus};

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
    imported_before: Imported,
    /// The life that drains: one that comes back under the same name is another.
    incarnation: u64,
}

/// What nodes have imported: one for each entry that was not there already, and its key and value.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Imported {
    entries: u64,
    bytes: u64,
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
    let bar = ProgressBar::new(progress.start.entries);
    bar.set_style(
        ProgressStyle::with_template("{wide_bar} {pos} of {len} entries, {msg}, {elapsed}")
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
            bar.set_position(progress.taken(&status).entries.min(progress.start.entries));
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
    /// What to say once it has left. Both sides count entries, and keys and values in bytes; a node of a build that does not say what
    /// it gave is told by what it held at its last heartbeat.
    fn farewell(&self, after: Duration, status: &ClusterStatus) -> String {
        let size = |bytes| ByteSize(bytes).display().iec();
        let taken = self.taken(status);
        let taken_text = format!(
            "the others took over {} entries ({})",
            taken.entries,
            size(taken.bytes)
        );
        let left = format!("{} has left after {:.1} s", self.node, after.as_secs_f64());
        let Some(drain) = self.last_word(status) else {
            let held = self.start.entries;
            return format!("{left}; it held {held} entries; {taken_text}");
        };
        let lost = drain.entries_held.saturating_sub(drain.entries_given);
        let lost = match lost {
            0 => "nothing was left behind".to_owned(),
            lost => format!("{lost} entries were not handed over, those that have expired among them"),
        };
        let refused = match drain.entries_given.saturating_sub(taken.entries) {
            0 => String::new(),
            more => format!("; {more} were newer there, have expired, or found no room"),
        };
        format!(
            "{left}; it held {} entries and gave {} ({} of keys and values); {taken_text}{refused}; {lost}",
            drain.entries_held,
            drain.entries_given,
            size(drain.bytes_given)
        )
    }

    /// What the node said last of its drain.
    fn last_word(&self, status: &ClusterStatus) -> Option<DrainReport> {
        let mut departures = status.departures.iter();
        let departure = departures.find(|departure| {
            let life = departure.life.as_ref();
            life.is_some_and(|life| life.node == self.node && life.incarnation == self.incarnation)
        })?;
        departure.drain
    }

    /// The draining node, while it is there.
    fn draining<'s>(&self, status: &'s ClusterStatus) -> Option<&'s NodeStatus> {
        named(status, self.node).filter(|node| incarnation(node) == self.incarnation)
    }

    /// What the others have imported since the drain began.
    fn taken(&self, status: &ClusterStatus) -> Imported {
        let now = imported(status, self.node);
        Imported {
            entries: now.entries.saturating_sub(self.imported_before.entries),
            bytes: now.bytes.saturating_sub(self.imported_before.bytes),
        }
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
fn imported(status: &ClusterStatus, but: &str) -> Imported {
    let others = status
        .nodes
        .iter()
        .filter(|node| node.life.as_ref().is_none_or(|life| life.node != but));
    let loads = others.filter_map(|node| node.load.as_ref());
    loads.fold(Imported::default(), |sum, load| Imported {
        entries: sum.entries + load.entries_imported,
        bytes: sum.bytes + load.bytes_imported,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use softstore_proto::v1::{Departure, Life, LoadReport};

    fn life(node: &str, incarnation: u64) -> Option<Life> {
        let node = node.into();
        Some(Life { node, incarnation })
    }

    /// A node that has imported so many entries of 100 bytes.
    fn node(name: &str, incarnation: u64, entries_imported: u64) -> NodeStatus {
        NodeStatus {
            life: life(name, incarnation),
            load: Some(LoadReport {
                entries_imported,
                bytes_imported: 100 * entries_imported,
                ..LoadReport::default()
            }),
            ..NodeStatus::default()
        }
    }

    /// Plan: `a` drains 50 entries into `b`, which had imported 10 before; then `a` comes back as another life, which is not the
    /// one that was drained. What is said counts the same on both sides, and names what was lost.
    #[test]
    fn a_drain_is_told_by_what_both_sides_count() {
        let before = ClusterStatus {
            nodes: vec![node("a", 1, 7), node("b", 5, 10)],
            ..ClusterStatus::default()
        };
        let progress = Progress {
            node: "a",
            start: DrainReply {
                bytes: 100_000,
                entries: 50,
            },
            imported_before: imported(&before, "a"),
            incarnation: 1,
        };
        let mid = ClusterStatus {
            nodes: vec![node("a", 1, 7), node("b", 5, 50)],
            ..ClusterStatus::default()
        };
        assert!(progress.draining(&mid).is_some());
        let taken = Imported {
            entries: 40,
            bytes: 4_000,
        };
        assert_eq!(progress.taken(&mid), taken);
        let mut back = ClusterStatus {
            nodes: vec![node("a", 2, 7), node("b", 5, 55)],
            ..ClusterStatus::default()
        };
        assert!(progress.draining(&back).is_none());
        let silent = progress.farewell(Duration::from_secs(1), &back);
        assert!(
            silent.contains("held 50 entries; the others took over 45"),
            "{silent}"
        );
        let mut drain = DrainReport {
            entries_held: 50,
            entries_given: 45,
            bytes_given: 4_500,
        };
        back.departures = vec![Departure {
            life: life("a", 1),
            drain: Some(drain),
        }];
        let lossy = progress.farewell(Duration::from_secs(1), &back);
        assert!(lossy.contains("held 50 entries and gave 45 (4.4 KiB"), "{lossy}");
        assert!(lossy.contains("took over 45 entries (4.4 KiB)"), "{lossy}");
        assert!(lossy.contains("5 entries were not handed over"), "{lossy}");
        (drain.entries_given, drain.entries_held) = (50, 50);
        back.departures[0].drain = Some(drain);
        let newer = progress.farewell(Duration::from_secs(1), &back);
        assert!(newer.contains("; 5 were newer there"), "{newer}");
        assert!(newer.ends_with("nothing was left behind"), "{newer}");
    }
}
