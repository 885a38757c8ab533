//! Runs a scenario of threads under many schedules (feature `shuttle`).
//!
//! Half of the schedules are drawn at random step by step; half by PCT (Burckhardt et al., "A randomized scheduler with
//! probabilistic guarantees of finding bugs", ASPLOS 2010), which finds a race that needs few preemptions however long
//! the scenario is. All are drawn from one seed.
//!
//! | variable | means | default |
//! |---|---|---|
//! | `SOFTSTORE_SCHEDULES` | schedules per scenario | what the test says |
//! | `SOFTSTORE_THREADS_SEED` | what they are drawn from | 1 |
//! | `SOFTSTORE_SCHEDULE` | the one schedule to run, as a failure printed it; name the test, too | |

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use crate::planted::{Planting, Race};

/// What a scenario's threads are made of: the names of the standard library.
pub use shuttle::{future, thread};

/// How many preemptions PCT places: a race that needs more is left to the random half.
const PCT_DEPTH: usize = 3;

/// A schedule with more steps than this hangs: threads that only wait for one another.
const STEPS_MAX: usize = 200_000;

/// A thread's stack.
const STACK_BYTES: usize = 1 << 20;

/// Runs `scenario` under `schedules` schedules.
///
/// # Panics
/// If a thread of the scenario panics, or all of them wait, under some schedule; that schedule is printed.
pub fn explore(schedules: usize, scenario: impl Fn() + Send + Sync + 'static) {
    if let Ok(schedule) = env::var("SOFTSTORE_SCHEDULE") {
        shuttle::replay(scenario, schedule.trim());
        return;
    }
    let schedules = number("SOFTSTORE_SCHEDULES")
        .map_or(schedules, |number| usize::try_from(number).unwrap_or(usize::MAX));
    let seed = number("SOFTSTORE_THREADS_SEED").unwrap_or(1);
    let run = || run_all(seed, schedules, scenario);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
        let current = std::thread::current();
        let test = current.name().unwrap_or("TEST");
        let package = env::var("CARGO_PKG_NAME").unwrap_or_else(|_| "PACKAGE".to_owned());
        eprintln!(
            "of SOFTSTORE_THREADS_SEED={seed}. To replay: SOFTSTORE_SCHEDULE='the first failing schedule above' \
             cargo test -p {package} --features shuttle --lib {test}"
        );
        resume_unwind(panic);
    }
}

/// Runs `scenario` with a race planted, until it is found. Prints within how many schedules that was.
///
/// # Panics
/// If it is not found within `schedules_max`: then the scenario says little about the code without it.
pub fn find(race: Race, schedules_max: usize, scenario: impl Fn() + Send + Sync + Clone + 'static) {
    let _planting = Planting::of(race);
    let mut tried = 1;
    loop {
        let scenario = scenario.clone();
        if catch_unwind(AssertUnwindSafe(|| run_all(tried as u64, tried, scenario))).is_err() {
            eprintln!("{race:?} is found within {} schedules", 2 * tried);
            return;
        }
        tried *= 2;
        assert!(tried <= schedules_max, "{race:?} was not found");
    }
}

/// A number below `sides`, drawn with the schedule: replayed with it.
#[must_use]
pub fn roll(sides: u64) -> u64 {
    shuttle::rand::thread_rng().gen_range(0..sides)
}

fn run_all(seed: u64, schedules: usize, scenario: impl Fn() + Send + Sync + 'static) {
    let scenario = std::sync::Arc::new(scenario);
    let pct = schedules / 2;
    let drawn = scenario.clone();
    run(RandomScheduler::new_from_seed(seed, schedules - pct), move || {
        drawn()
    });
    if pct > 0 {
        run(PctScheduler::new_from_seed(seed, PCT_DEPTH, pct), move || {
            scenario()
        });
    }
}

fn run(scheduler: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.failure_persistence = FailurePersistence::Print;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    // Orderings are loom's to judge: see `exhaust`.
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(scenario);
}

fn number(variable: &str) -> Option<u64> {
    let said = env::var(variable).ok()?;
    Some(
        said.parse()
            .unwrap_or_else(|_| panic!("{variable} must be a number, not {said}")),
    )
}
