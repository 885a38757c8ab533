//! What could have been reached: lines beside the arms that no cluster ran, computed from the sequence and from control.
//!
//! With a drain deadline (ample memory): oracles that keep the hottest entries (`oracle`). With tight memory: ideal caches of
//! the cluster's bytes (`ideal`). Neither is asked for on its own: where a loss is inherent, the drill tells how much of it is.

use std::ops::Range;

use crate::arm::{ArmRun, Load, MarkKind};
use crate::ideal::{self, Room};
use crate::judge;
use crate::options::{DrillOptions, RestartMode};
use crate::oracle::{self, Budget, Cut, Foresight};
use crate::record::Record;
use crate::report::ReferenceReport;

/// The part that is told besides what was really moved, so that runs that moved somewhat more or less can be compared.
const PART_KEPT: f64 = 0.2;

/// One computed line.
#[derive(Debug)]
pub(crate) struct Reference {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// The one to compare the transfer arm with: the chart shows it.
    pub(crate) is_drawn: bool,
    /// By measured position, up to the window's end.
    pub(crate) records: Vec<Option<Record>>,
}

/// The references that the options call for; none without both `control` and `transfer`.
pub(crate) fn all(options: &DrillOptions, load: &Load, runs: &References<'_>) -> Vec<Reference> {
    if !options.seeds.is_empty() || options.restart == RestartMode::Kill {
        return Vec::new();
    }
    match options.memory_per_node_bytes {
        None if options.drain_deadline_ms.is_some() => oracles(load, runs),
        None => Vec::new(),
        Some(bytes) => ideals(options, load, runs, bytes),
    }
}

/// What references rest on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct References<'a> {
    pub(crate) control: &'a ArmRun,
    pub(crate) transfer: &'a ArmRun,
}

fn oracles(load: &Load, runs: &References<'_>) -> Vec<Reference> {
    let replayed = oracle::Replayed {
        sequence: &load.sequence,
        warm_up: load.warm_up,
        control: &runs.control.records,
        window: &runs.transfer.window,
    };
    let cuts = cuts(runs.transfer);
    let reference = |name, about, foresight, budget| Reference {
        name,
        about,
        is_drawn: budget == Budget::Moved && foresight == Foresight::Past,
        records: oracle::replay(replayed, &cuts, foresight, budget),
    };
    vec![
        reference(
            "oracle",
            "keeps as many bytes as were moved, the hottest by the reads to come",
            Foresight::Future,
            Budget::Moved,
        ),
        reference(
            "oracle-past",
            "the same, the hottest by an exact count of the reads so far",
            Foresight::Past,
            Budget::Moved,
        ),
        reference(
            "oracle-20",
            "keeps 20% of the bytes, the hottest by the reads to come",
            Foresight::Future,
            Budget::Part(PART_KEPT),
        ),
        reference(
            "oracle-past-20",
            "the same, the hottest by an exact count of the reads so far",
            Foresight::Past,
            Budget::Part(PART_KEPT),
        ),
    ]
}

fn cuts(transfer: &ArmRun) -> Vec<Cut> {
    let signals = transfer
        .marks
        .iter()
        .filter(|mark| mark.kind == MarkKind::Signalled);
    let cut = |(mark, one): (&crate::arm::Mark, &crate::choreography::Move)| Cut {
        position: mark.position,
        slices: one.slices.clone(),
        moved_bytes: one.moved.bytes,
    };
    signals.zip(&transfer.restarts.moves).map(cut).collect()
}

fn ideals(options: &DrillOptions, load: &Load, runs: &References<'_>, node_bytes: u64) -> Vec<Reference> {
    let restarts = &runs.transfer.restarts;
    let signal = runs.transfer.window.start as u64;
    let replayed = ideal::Replayed {
        sequence: &load.sequence,
        warm_up: load.warm_up,
        rate: load.rate,
        end: runs.transfer.window.end,
        overhead_bytes: ideal::overhead_bytes(
            &load.sequence,
            0..load.warm_up + signal,
            restarts.state_bytes,
            restarts.state_entries,
        ),
    };
    let nodes = options.nodes as u64;
    let reference = |name, about, nodes_at: Vec<(u64, u64)>| {
        let rooms: Vec<_> = nodes_at
            .into_iter()
            .map(|(from_position, nodes)| Room {
                from_position,
                bytes: nodes * node_bytes,
            })
            .collect();
        Reference {
            name,
            about,
            is_drawn: false,
            records: ideal::replay(replayed, &rooms),
        }
    };
    let mut references = vec![reference(
        "ideal",
        "one LRU of all nodes' memory, never restarted",
        vec![(0, nodes)],
    )];
    // With surge no memory is ever missing.
    if options.restart == RestartMode::Rolling {
        references.push(reference(
            "ideal-alive",
            "one LRU that has the memory of the nodes alive at each moment",
            alive(runs.transfer, nodes),
        ));
        references.push(reference(
            "ideal-owning",
            "one LRU that has one node's memory less from the first signal to the final fill",
            owning(runs.transfer, nodes),
        ));
    }
    if let Some(last) = references.last_mut() {
        last.is_drawn = true;
    }
    references
}

fn alive(transfer: &ArmRun, nodes: u64) -> Vec<(u64, u64)> {
    let mut alive = nodes;
    let mut steps = vec![(0, nodes)];
    for mark in &transfer.marks {
        match mark.kind {
            MarkKind::Signalled => alive = alive.saturating_sub(1),
            MarkKind::Returned => alive += 1,
            MarkKind::Filled => continue,
        }
        steps.push((mark.position, alive));
    }
    steps
}

/// A node that came back owns nothing until the next one drains, or all are filled.
fn owning(transfer: &ArmRun, nodes: u64) -> Vec<(u64, u64)> {
    let at = |kind| {
        let mark = transfer.marks.iter().find(|mark| mark.kind == kind);
        mark.map(|mark| mark.position)
    };
    let less = at(MarkKind::Signalled).map(|position| (position, nodes.saturating_sub(1)));
    let again = at(MarkKind::Filled).map(|position| (position, nodes));
    [Some((0, nodes)), less, again].into_iter().flatten().collect()
}

/// A reference's figures, in the transfer arm's window.
pub(crate) fn report(reference: &Reference, load: &Load, runs: &References<'_>) -> ReferenceReport {
    let window: &Range<usize> = &runs.transfer.window;
    let hit_rate = judge::hit_rate(&reference.records, window);
    ReferenceReport {
        name: reference.name,
        about: reference.about,
        hit_rate,
        dip_points: judge::dip_points(&runs.control.records, &reference.records, window),
        worst_second_hit_rate: judge::worst_second_hit_rate(&reference.records, window, load.rate),
        ahead_points: 100.0 * (hit_rate - judge::hit_rate(&runs.transfer.records, window)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arm::Mark;
    use crate::options::ArmName;

    fn transfer(marks: &[(u64, MarkKind)]) -> ArmRun {
        ArmRun {
            marks: marks
                .iter()
                .map(|(position, kind)| Mark {
                    position: *position,
                    node: "n1".to_owned(),
                    kind: *kind,
                })
                .collect(),
            ..ArmRun::empty(ArmName::Transfer)
        }
    }

    #[test]
    fn memory_goes_with_each_node_and_is_used_again_only_after_the_fill() {
        use MarkKind::{Filled, Returned, Signalled};
        let run = transfer(&[
            (10, Signalled),
            (20, Returned),
            (30, Signalled),
            (40, Returned),
            (50, Filled),
        ]);
        assert_eq!(alive(&run, 3), [(0, 3), (10, 2), (20, 3), (30, 2), (40, 3)]);
        assert_eq!(owning(&run, 3), [(0, 3), (10, 2), (50, 3)]);
    }
}
