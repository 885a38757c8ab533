//! Runs cells, several at once, each as a process in namespaces of its own; and tells how they went as a table.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use softstore_tests::network;

use super::cell::{Cell, Seen, Tallies, Tally};
use super::fault::Fault;
use super::phase::Phase;

/// Is set inside of a test's namespaces, and names what is to be run there.
pub(crate) const INSIDE: &str = "SOFTSTORE_FAULT_INSIDE";

/// The test that runs one cell.
pub(crate) const ONE_CELL: &str = "one_cell";

/// Begins the line in which a cell tells what it saw.
const SEEN: &str = "seen: ";

/// A cell that has not ended by then hangs.
const CELL_PATIENCE: Duration = Duration::from_secs(120);

/// How often a cell that missed its phase is tried again.
const TRIES: usize = 5;

/// Cells at once: most of a cell's time is waiting.
const AT_ONCE: usize = 4;

/// Whether the tests of faults can run here. If not, it says why; with `SOFTSTORE_CI=1` that is a failure.
pub(crate) fn can_run(test: &str) -> bool {
    let Some(missing) = network::missing() else {
        return true;
    };
    eprintln!("{test}: skipped, no network of its own can be had here: {missing}");
    assert_ne!(
        std::env::var("SOFTSTORE_CI").as_deref(),
        Ok("1"),
        "with SOFTSTORE_CI=1 a skip is a failure"
    );
    false
}

/// Inside of its namespaces: runs the cell and tells what it saw.
pub(crate) fn tell(seen: &Seen) {
    println!("{SEEN}{}", serde_json::to_string(seen).expect("plain numbers"));
}

/// Runs each cell so many times. What went wrong is printed as it comes.
pub(crate) fn run(cells: &[Cell], repetitions: usize) -> Tallies {
    let queue: VecDeque<Cell> = (0..repetitions).flat_map(|_| cells.iter().copied()).collect();
    let (queue, tallies) = (Mutex::new(queue), Mutex::new(Tallies::new()));
    let at_once = std::env::var("SOFTSTORE_FAULT_AT_ONCE").ok();
    let at_once = at_once.and_then(|number| number.parse().ok()).unwrap_or(AT_ONCE);
    // Built before, and once: the cells would each look whether it is up to date.
    let binary = softstore_tests::binary::softstore();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let Some(cell) = queue.lock().expect("nobody panics here").pop_front() else {
                        return;
                    };
                    run_one(cell, binary, &tallies);
                }
            });
        }
    });
    tallies.into_inner().expect("nobody panics here")
}

fn run_one(cell: Cell, binary: &Path, tallies: &Mutex<Tallies>) {
    for _ in 0..TRIES {
        let begun = Instant::now();
        let result = in_namespaces(cell, binary);
        let took = begun.elapsed();
        let seen = match &result {
            Ok(seen) => Some(seen),
            Err(output) => {
                eprintln!("==== {} failed after {took:?}\n{output}\n====", cell.name());
                None
            }
        };
        println!("{:<48} {:>6} ms  {seen:?}", cell.name(), took.as_millis());
        let missed = seen.is_some_and(|seen| seen.missed);
        let mut tallies = tallies.lock().expect("nobody panics here");
        tallies.entry(cell.name()).or_default().add(seen);
        if !missed {
            return;
        }
    }
}

/// Runs a cell in namespaces of its own. The error is what it printed.
fn in_namespaces(cell: Cell, binary: &Path) -> Result<Seen, String> {
    let output = again_inside(ONE_CELL, &cell.name(), binary);
    let said = String::from_utf8_lossy(&output.stdout);
    let seen = said.lines().find_map(|line| line.strip_prefix(SEEN));
    match seen.and_then(|seen| serde_json::from_str(seen).ok()) {
        Some(seen) if output.status.success() => Ok(seen),
        _ => Err(format!(
            "{}: {}{}",
            output.status,
            said,
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// Runs this executable again for one of its tests, inside of namespaces of its own, where `INSIDE` says what to do.
pub(crate) fn again_inside(test: &str, what: &str, binary: &Path) -> Output {
    // `timeout` ends `unshare`, and with it everything inside.
    let mut command = Command::new("timeout");
    let (patience, unshare) = (CELL_PATIENCE.as_secs().to_string(), network::inside());
    command
        .args(["--signal=KILL", &patience])
        .arg(unshare.get_program())
        .args(unshare.get_args())
        .arg(std::env::current_exe().expect("a test knows its own executable"))
        .args([test, "--exact", "--include-ignored", "--nocapture"])
        .env(INSIDE, what)
        .env("SOFTSTORE_BINARY", binary)
        .stdin(Stdio::null());
    command.output().expect("timeout (coreutils) runs")
}

/// The table, in Markdown: green runs of all, and in words what was at its worst.
pub(crate) fn table(tallies: &Tallies) -> String {
    let mut lines = vec![
        format!(
            "| fault | {} | at worst |",
            Phase::ALL.map(Phase::name).join(" | ")
        ),
        format!("|---|{}---|", "---|".repeat(Phase::ALL.len())),
    ];
    for fault in Fault::ALL {
        let of_fault: Vec<Option<&Tally>> = Phase::ALL
            .iter()
            .map(|&phase| tallies.get(&Cell { fault, phase }.name()))
            .collect();
        let shown: Vec<String> = of_fault.iter().map(|tally| in_short(*tally)).collect();
        let worst = worst(&of_fault);
        if of_fault.iter().any(Option::is_some) {
            lines.push(format!("| {} | {} | {worst} |", fault.name(), shown.join(" | ")));
        }
    }
    lines.join("\n")
}

fn in_short(tally: Option<&Tally>) -> String {
    tally.map_or(String::new(), |tally| {
        let again = match tally.missed {
            0 => String::new(),
            missed => format!(" (+{missed})"),
        };
        format!("{}/{}{again}", tally.green, tally.green + tally.red)
    })
}

fn worst(tallies: &[Option<&Tally>]) -> String {
    let max = |of: fn(&Tally) -> u64| tallies.iter().flatten().map(|tally| of(tally)).max().unwrap_or(0);
    format!(
        "{} lost, {} writes failed, {} stale at nodes, rest after {} ms",
        max(|tally| tally.lost_max as u64),
        max(|tally| tally.failed_writes_max),
        max(|tally| tally.stale_at_nodes_max),
        max(|tally| tally.rest_ms_max),
    )
}
