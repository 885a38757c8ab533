//! Faults in every phase of a hand-off, with real processes in a network of the test's own.
//!
//! ```text
//!   fault      what is done: signals, cuts, a full disk; what it may cost
//!   phase      when: five moments of a hand-off, each an event in a log, held open by the network
//!   cluster    an Assigner and three nodes, each on a host and with a disk of its own
//!   cell       one fault in one phase, and what must hold
//!   matrix     cells as processes in their own namespaces, several at once; the table
//!   links      that a cut link loses, a held one holds, and a healed one carries
//!   watch      whether the machine stood still
//!   disk_full  commands whose output, or log, goes nowhere
//! ```
//!
//! All cells, twenty times each: `SOFTSTORE_FAULT_REPEAT=20 cargo test -p softstore-tests --test faults whole_matrix -- --ignored --nocapture`.
//! The same with leases: `SOFTSTORE_FAULT_OWNERSHIP=leased`. One cell: `SOFTSTORE_FAULT_CELL='SIGKILL giver / fenced' cargo test -p softstore-tests --test faults one_cell -- --ignored --nocapture`.

mod cell;
mod cluster;
mod disk_full;
mod fault;
mod links;
mod matrix;
mod phase;
mod watch;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use cell::{Cell, Seen, Tallies};
use fault::Fault;
use phase::Phase;
use watch::Watch;

/// Plan: every fault in one or two phases, those in which it has most to break; each cell as [`cell::run`] says.
#[test]
fn each_fault_in_the_phases_that_it_hurts_most() {
    if !matrix::can_run("each_fault_in_the_phases_that_it_hurts_most") {
        return;
    }
    use Phase::{Exiting, Fenced, Published, Pulled, Pulling};
    let phases = |fault| -> &[Phase] {
        match fault {
            Fault::Nothing => &[Pulling],
            Fault::KillGiver | Fault::PauseGiver => &[Fenced, Pulled],
            Fault::KillTaker | Fault::KillAssigner => &[Published, Pulling],
            Fault::PauseTaker => &[Pulling],
            Fault::PauseAssigner => &[Fenced],
            Fault::TermGiver => &[Pulling],
            Fault::TermTaker => &[Published, Pulling],
            Fault::CutGiverTaker => &[Published, Pulling],
            Fault::CutGiverToTaker => &[Fenced],
            Fault::CutTakerToGiver => &[Pulled],
            Fault::CutGiverAssigner => &[Published, Exiting],
            Fault::CutTakerAssigner => &[Pulling],
            Fault::CutGiverClient | Fault::CutTakerClient => &[Pulling],
            Fault::Slow => &[Pulling],
            Fault::GiverLogFull | Fault::TakerLogFull => &[Pulling],
            Fault::AssignerLogFull => &[Published],
            Fault::GiverLogStuck | Fault::TakerLogStuck => &[Published, Pulling],
            Fault::AssignerLogStuck => &[Published],
        }
    };
    let cells = Fault::ALL.into_iter().flat_map(|fault| {
        let phases = phases(fault).iter();
        phases.map(move |&phase| Cell { fault, phase })
    });
    all_green(&matrix::run(&cells.collect::<Vec<_>>(), 1), 1);
}

/// Plan: every fault in every phase, as often as `SOFTSTORE_FAULT_REPEAT` says (default 1). The table is printed.
#[test]
#[ignore = "takes minutes: the whole matrix, SOFTSTORE_FAULT_REPEAT times"]
fn whole_matrix() {
    if !matrix::can_run("whole_matrix") {
        return;
    }
    let repeat = std::env::var("SOFTSTORE_FAULT_REPEAT").map_or(1, |number| {
        number.parse().expect("SOFTSTORE_FAULT_REPEAT is a number")
    });
    all_green(&matrix::run(&Cell::all(), repeat), repeat);
}

/// Plan: the cell that `SOFTSTORE_FAULT_CELL` names, by default the control in mid-pull.
#[test]
#[ignore = "one cell of the matrix, by name"]
fn one_cell() {
    if let Ok(name) = std::env::var(matrix::INSIDE) {
        let cell = Cell::named(&name).expect("a cell of this name");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        let runtime = runtime.expect("a runtime");
        let watch = Watch::begin();
        let ran = catch_unwind(AssertUnwindSafe(|| runtime.block_on(cell::run(cell))));
        let seen = match watch.standstill(cell.fault.pauses()) {
            Some(standstill) => {
                eprintln!("the machine stood still: {standstill}");
                Seen::nothing()
            }
            None => ran.unwrap_or_else(|panic| resume_unwind(panic)),
        };
        matrix::tell(&seen);
        return;
    }
    if !matrix::can_run("one_cell") {
        return;
    }
    let control = Cell {
        fault: Fault::Nothing,
        phase: Phase::Pulling,
    };
    let cell = std::env::var("SOFTSTORE_FAULT_CELL").map_or(control, |name| {
        let all: Vec<String> = Cell::all().into_iter().map(Cell::name).collect();
        Cell::named(&name).unwrap_or_else(|| panic!("{name:?} is none of {all:#?}"))
    });
    all_green(&matrix::run(&[cell], 1), 1);
}

fn all_green(tallies: &Tallies, repetitions: usize) {
    println!("{}", matrix::table(tallies));
    let red: Vec<&String> = tallies
        .iter()
        .filter(|(_, tally)| tally.green < repetitions)
        .map(|(name, _)| name)
        .collect();
    assert!(red.is_empty(), "not green: {red:#?}");
}
