//! What a run came to: figures per phase, and how soon all was as before.

use std::fmt::Write;
use std::time::{Duration, Instant};

use eyre::Result;
use serde::Serialize;

use crate::Arguments;
use crate::WARM_MS;
use crate::children::{cpu_seconds, rss_mib};
use crate::tally::{SLOT_MS, Slot};

/// Slots that must be normal in a row before the node counts as back to normal: a second.
const CALM_SLOTS: usize = 10;

/// A p99 is normal up to this multiple of that before the overload ...
const NORMAL_TIMES: f64 = 2.0;

/// ... or up to so many milliseconds: what the generators' timers and a busy machine do to a p99 of single slots.
const NORMAL_MS: f64 = 5.0;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Before,
    Overload,
    After,
}

/// What was seen of the processes while they ran.
#[derive(Debug)]
pub(crate) struct Watched {
    nodes: Vec<Process>,
    generators: Vec<Process>,
    looked: Instant,
    phases: [Used; 3],
    pub(crate) hand_off: Option<HandOff>,
}

/// Processor time that nodes and generators used in a phase, in seconds, and the most memory that nodes had.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    seconds: f64,
    nodes: f64,
    generators: f64,
    rss_mib_max: f64,
}

/// A process, and its processor time when it was last looked at.
#[derive(Clone, Copy, Debug)]
struct Process {
    pid: u32,
    cpu_seconds: f64,
}

impl Process {
    fn new(pid: u32) -> Self {
        let cpu_seconds = cpu_seconds(pid);
        Self { pid, cpu_seconds }
    }

    /// What it used since the last look: nothing if it has exited.
    fn used(&mut self) -> f64 {
        let now = cpu_seconds(self.pid);
        let used = (now - self.cpu_seconds).max(0.0);
        self.cpu_seconds = now;
        used
    }
}

/// A drain in the middle of the overload.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HandOff {
    pub(crate) outcome: String,
    pub(crate) took_ms: f64,
    /// Since the generators' start.
    pub(crate) began_ms: u64,
}

impl Watched {
    pub(crate) fn new(nodes: Vec<u32>, generators: Vec<u32>) -> Self {
        Self {
            nodes: nodes.into_iter().map(Process::new).collect(),
            generators: generators.into_iter().map(Process::new).collect(),
            looked: Instant::now(),
            phases: [Used::default(); 3],
            hand_off: None,
        }
    }

    /// Looks at the processes; `phase`: the one in which the time since the last look was.
    pub(crate) fn look(&mut self, phase: Option<Phase>) {
        let now = Instant::now();
        let seconds = (now - std::mem::replace(&mut self.looked, now)).as_secs_f64();
        let nodes: f64 = self.nodes.iter_mut().map(Process::used).sum();
        let generators: f64 = self.generators.iter_mut().map(Process::used).sum();
        let rss_mib: f64 = self.nodes.iter().map(|node| rss_mib(node.pid)).sum();
        if let Some(phase) = phase {
            let used = &mut self.phases[phase as usize];
            used.seconds += seconds;
            used.nodes += nodes;
            used.generators += generators;
            used.rss_mib_max = used.rss_mib_max.max(rss_mib);
        }
    }
}

/// One phase.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PhaseReport {
    offered_per_second: f64,
    accepted_per_second: f64,
    shed_per_second: f64,
    late_per_second: f64,
    unknown_per_second: f64,
    failed_per_second: f64,
    accepted_p50_ms: f64,
    accepted_p99_ms: f64,
    accepted_p999_ms: f64,
    accepted_max_ms: f64,
    shed_p50_ms: f64,
    shed_p99_ms: f64,
    /// How late the generators began operations.
    begun_late_p50_ms: f64,
    begun_late_p99_ms: f64,
    hit_rate: f64,
    node_cores: f64,
    generator_cores: f64,
    node_rss_mib_max: f64,
}

/// What the node did when the generators kept so many operations in flight.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ClosedLoop {
    pub(crate) answered_per_second: f64,
    pub(crate) refused_per_second: f64,
    /// Cores used.
    pub(crate) node_cores: f64,
    pub(crate) generator_cores: f64,
}

/// The whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pinning: String,
    queue_target_ms: u64,
    sustainable_per_second: f64,
    closed_loop: Option<ClosedLoop>,
    before: PhaseReport,
    overload: PhaseReport,
    after: PhaseReport,
    /// How long after the load dropped a second began in which all that was offered was accepted; none: not within the phase.
    all_accepted_ms: Option<u64>,
    /// The same of a second in which latencies were as before, too.
    back_to_normal_ms: Option<u64>,
    retries_busy: u64,
    hand_off: Option<HandOff>,
}

pub(crate) fn judge(
    arguments: &Arguments,
    pinned: bool,
    sustainable: f64,
    closed_loop: Option<ClosedLoop>,
    slots: &[Slot],
    watched: Watched,
    retries_busy: u64,
) -> Result<Report> {
    let slots_of = |seconds: f64| {
        let slots = Duration::from_secs_f64(seconds).as_millis() / u128::from(SLOT_MS);
        usize::try_from(slots).expect("a run is short")
    };
    let (calm, overload) = (slots_of(arguments.calm_s), slots_of(arguments.overload_s));
    let warm = (WARM_MS / SLOT_MS) as usize;
    let bounds = [
        warm,
        warm + calm,
        warm + calm + overload,
        warm + 2 * calm + overload,
    ];
    let phase = |phase: Phase| {
        let index = phase as usize;
        let of = &slots[bounds[index].min(slots.len())..bounds[index + 1].min(slots.len())];
        phase_report(of, watched.phases[index])
    };
    let (before, after) = (phase(Phase::Before)?, phase(Phase::After)?);
    let normal_ms = (before.accepted_p99_ms * NORMAL_TIMES).max(NORMAL_MS);
    let after_overload = &slots[bounds[2].min(slots.len())..];
    let is_accepted = |slot: &Slot| slot.counts.accepted == slot.counts.offered;
    let is_normal = |slot: &Slot| is_accepted(slot) && slot.accepted.percentile_ms(99.0) <= normal_ms;
    Ok(Report {
        pinning: if pinned {
            format!(
                "nodes on core {}, generators on core {}",
                arguments.node_core, arguments.generator_core
            )
        } else {
            "not pinned: no such cores, or no taskset".to_owned()
        },
        queue_target_ms: arguments.queue_target_ms,
        sustainable_per_second: sustainable,
        closed_loop,
        overload: phase(Phase::Overload)?,
        before,
        after,
        all_accepted_ms: begun_ms(after_overload, is_accepted),
        back_to_normal_ms: begun_ms(after_overload, is_normal),
        retries_busy,
        hand_off: watched.hand_off,
    })
}

fn phase_report(slots: &[Slot], used: Used) -> Result<PhaseReport> {
    let mut all = Slot::default();
    for slot in slots {
        all.add(slot)?;
    }
    let seconds = (slots.len().max(1) as u64 * SLOT_MS) as f64 / 1e3;
    let per_second = |count: u64| count as f64 / seconds;
    let counts = all.counts;
    Ok(PhaseReport {
        offered_per_second: per_second(counts.offered),
        accepted_per_second: per_second(counts.accepted),
        shed_per_second: per_second(counts.shed),
        late_per_second: per_second(counts.late),
        unknown_per_second: per_second(counts.unknown),
        failed_per_second: per_second(counts.failed),
        accepted_p50_ms: all.accepted.percentile_ms(50.0),
        accepted_p99_ms: all.accepted.percentile_ms(99.0),
        accepted_p999_ms: all.accepted.percentile_ms(99.9),
        accepted_max_ms: all.accepted.max_ms(),
        shed_p50_ms: all.shed.percentile_ms(50.0),
        shed_p99_ms: all.shed.percentile_ms(99.0),
        begun_late_p50_ms: all.begun_late.percentile_ms(50.0),
        begun_late_p99_ms: all.begun_late.percentile_ms(99.0),
        hit_rate: counts.hits as f64 / counts.reads.max(1) as f64,
        node_cores: used.nodes / used.seconds.max(0.001),
        generator_cores: used.generators / used.seconds.max(0.001),
        node_rss_mib_max: used.rss_mib_max,
    })
}

/// What became of the operations of each slot.
pub(crate) fn timeline(slots: &[Slot]) -> String {
    let mut out = String::from(
        "    ms  offered accepted     shed  others   accepted p50, p99, ms   shed p99, ms   begun late p99, ms\n",
    );
    for (index, slot) in slots.iter().enumerate() {
        let counts = &slot.counts;
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:>6} {:>8} {:>8} {:>8} {:>7} {:>11.2} {:>11.2} {:>14.2} {:>20.2}",
            index as u64 * SLOT_MS,
            counts.offered,
            counts.accepted,
            counts.shed,
            counts.late + counts.unknown + counts.failed,
            slot.accepted.percentile_ms(50.0),
            slot.accepted.percentile_ms(99.0),
            slot.shed.percentile_ms(99.0),
            slot.begun_late.percentile_ms(99.0),
        );
    }
    out
}

/// After how many milliseconds a second began of which each slot was as it should be.
fn begun_ms(slots: &[Slot], is_well: impl Fn(&Slot) -> bool) -> Option<u64> {
    let mut seconds = slots.windows(CALM_SLOTS.min(slots.len().max(1)));
    let begun = seconds.position(|second| second.iter().all(&is_well));
    begun.map(|slots| slots as u64 * SLOT_MS)
}

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(out, "{}; queue_target_ms {}", self.pinning, self.queue_target_ms)?;
        write!(out, "sustainable: {:.0}/s", self.sustainable_per_second)?;
        if let Some(found) = &self.closed_loop {
            write!(
                out,
                " (closed loop; refused {:.0}/s; cores used: node {:.2}, generators {:.2})",
                found.refused_per_second, found.node_cores, found.generator_cores
            )?;
        }
        writeln!(out)?;
        writeln!(out, "{:<28}{:>12}{:>12}{:>12}", "", "before", "overload", "after")?;
        let phases = [&self.before, &self.overload, &self.after];
        let mut row = |name: &str, digits: usize, of: fn(&PhaseReport) -> f64| {
            write!(out, "{name:<28}")?;
            for phase in phases {
                write!(out, "{:>12.digits$}", of(phase))?;
            }
            writeln!(out)
        };
        row("offered/s", 0, |phase| phase.offered_per_second)?;
        row("accepted/s", 0, |phase| phase.accepted_per_second)?;
        row("shed/s", 0, |phase| phase.shed_per_second)?;
        row("not in time/s", 0, |phase| phase.late_per_second)?;
        row("outcome unknown/s", 0, |phase| phase.unknown_per_second)?;
        row("failed/s", 0, |phase| phase.failed_per_second)?;
        row("accepted p50, ms", 2, |phase| phase.accepted_p50_ms)?;
        row("accepted p99, ms", 2, |phase| phase.accepted_p99_ms)?;
        row("accepted p99.9, ms", 2, |phase| phase.accepted_p999_ms)?;
        row("accepted max, ms", 2, |phase| phase.accepted_max_ms)?;
        row("shed p50, ms", 2, |phase| phase.shed_p50_ms)?;
        row("shed p99, ms", 2, |phase| phase.shed_p99_ms)?;
        row("begun late p50, ms", 2, |phase| phase.begun_late_p50_ms)?;
        row("begun late p99, ms", 2, |phase| phase.begun_late_p99_ms)?;
        row("hit rate", 4, |phase| phase.hit_rate)?;
        row("cores used by nodes", 2, |phase| phase.node_cores)?;
        row("cores used by generators", 2, |phase| phase.generator_cores)?;
        row("nodes' memory at most, MiB", 0, |phase| phase.node_rss_mib_max)?;
        match self.back_to_normal_ms {
            Some(ms) => writeln!(out, "back to normal {ms} ms after the load dropped")?,
            None => writeln!(out, "not back to normal within the phase")?,
        }
        writeln!(out, "retries after BUSY: {}", self.retries_busy)?;
        if let Some(hand_off) = &self.hand_off {
            writeln!(
                out,
                "hand-off in the overload: {} in {:.0} ms",
                hand_off.outcome, hand_off.took_ms
            )?;
        }
        Ok(())
    }
}
