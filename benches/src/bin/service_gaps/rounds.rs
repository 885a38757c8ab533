//! What is done to the cluster, and the gaps that it leaves.

use std::time::{Duration, Instant};

use eyre::Result;
use softstore_benches::cluster::fill;
use softstore_benches::workload::{keys, value};
use softstore_client::{Client, ReadPolicy};
use softstore_server::config::Ownership;
use softstore_sharding::{Assignment, Slice};

use crate::Arguments;
use crate::cluster::Cluster;
use crate::probes::Probes;

/// How long the cluster is left alone to see what a gap is when nothing happens.
const CALM: Duration = Duration::from_millis(500);

/// The longest time without service, per slice and event.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    /// Nothing happened.
    pub(crate) calm: Vec<Duration>,
    /// It moved as planned, away from a node that drains.
    pub(crate) drained: Vec<Duration>,
    /// It moved as planned, to a node that has just joined.
    pub(crate) joined: Vec<Duration>,
    /// It stayed where it was while others moved as planned: what the event does to everybody.
    pub(crate) stayed: Vec<Duration>,
    /// Its owner was killed.
    pub(crate) killed: Vec<Duration>,
    /// Of those, until the Assigner counted the owner as dead.
    pub(crate) detection: Vec<Duration>,
    /// The Assigner was killed and replaced.
    pub(crate) assigner: Vec<Duration>,
}

/// Measures one mode.
pub(crate) async fn measure(arguments: &Arguments, ownership: Ownership) -> Result<Gaps> {
    let mut cluster = Cluster::start(arguments.nodes, ownership).await?;
    let client = Client::builder()
        .seeds(cluster.nodes.iter().map(|node| node.address.clone()))
        .read_policy(ReadPolicy::Error)
        .require_cluster(true)
        .connect()
        .await?;
    fill(&client, &keys(arguments.entries), &value(100)).await?;
    let probes = Probes::start(&client, arguments.keys, Duration::from_millis(arguments.every_ms));
    probes.all_answered().await?;
    let mut gaps = Gaps::default();
    let say = |what: &str, index: u32, of: u32| {
        if !arguments.json {
            eprintln!("{ownership}: {what} {} of {of}", index + 1);
        }
    };
    for index in 0..arguments.drains {
        say("drain", index, arguments.drains);
        probes.begin();
        tokio::time::sleep(CALM).await;
        let all = cluster.assignment().await?;
        gaps.calm
            .extend(slices(&all).filter_map(|slice| probes.longest_gap(slice)));
        planned_moves(&mut cluster, &probes, &mut gaps).await?;
    }
    for index in 0..arguments.kills {
        say("kill", index, arguments.kills);
        kill(&mut cluster, &probes, &mut gaps).await?;
    }
    for index in 0..arguments.assigner_kills {
        say("kill of the Assigner", index, arguments.assigner_kills);
        let all = cluster.assignment().await?;
        probes.begin();
        cluster.replace_assigner().await?;
        cluster.settled().await?;
        probes.all_answered().await?;
        gaps.assigner
            .extend(slices(&all).filter_map(|slice| probes.longest_gap(slice)));
    }
    Ok(gaps)
}

fn slices(assignment: &Assignment) -> impl Iterator<Item = Slice> {
    assignment.ranges().iter().map(|(slice, _)| slice)
}

/// The parts of the key space that have another owner in `after` than in `before`.
fn moved(before: &Assignment, after: &Assignment) -> Vec<Slice> {
    compared(before, after, false)
}

/// The parts of the key space that have the same owner in both.
fn stayed(before: &Assignment, after: &Assignment) -> Vec<Slice> {
    compared(before, after, true)
}

fn compared(before: &Assignment, after: &Assignment, same_owner: bool) -> Vec<Slice> {
    let pairs = after.ranges().iter().flat_map(|(slice, range)| {
        before
            .ranges()
            .overlapping(slice)
            .filter(move |(_, former)| (former.owner == range.owner) == same_owner)
            .filter_map(move |(part, _)| part.intersect(slice))
    });
    pairs.collect()
}

/// The node that was there first drains and comes back: its slices move away, and others to it.
async fn planned_moves(cluster: &mut Cluster, probes: &Probes, gaps: &mut Gaps) -> Result<()> {
    let leaving = cluster.nodes.remove(0);
    let id = leaving.id.clone();
    let before = cluster.assignment().await?;
    probes.begin();
    leaving.drain().await?;
    cluster.settled().await?;
    probes.all_answered().await?;
    let away = cluster.assignment().await?;
    let longest = |slices: Vec<Slice>| slices.into_iter().filter_map(|slice| probes.longest_gap(slice));
    gaps.drained.extend(longest(moved(&before, &away)));
    gaps.stayed.extend(longest(stayed(&before, &away)));
    probes.begin();
    cluster.add(&id).await?;
    cluster.settled().await?;
    probes.all_answered().await?;
    let back = cluster.assignment().await?;
    gaps.joined.extend(longest(moved(&away, &back)));
    gaps.stayed.extend(longest(stayed(&away, &back)));
    Ok(())
}

/// The node that was there first is killed; when all is served again it comes back.
async fn kill(cluster: &mut Cluster, probes: &Probes, gaps: &mut Gaps) -> Result<()> {
    let dying = cluster.nodes.remove(0);
    let id = dying.id.clone();
    let before = cluster.assignment().await?;
    probes.begin();
    let begun = Instant::now();
    dying.kill().await?;
    cluster.buried(&id).await?;
    gaps.detection.push(begun.elapsed());
    cluster.settled().await?;
    probes.all_answered().await?;
    let after = cluster.assignment().await?;
    gaps.killed.extend(
        moved(&before, &after)
            .into_iter()
            .filter_map(|slice| probes.longest_gap(slice)),
    );
    cluster.add(&id).await?;
    cluster.settled().await
}
