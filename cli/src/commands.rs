//! The commands, one file each: its flags with their help, and `run`.

pub(crate) mod assigner;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod del;
pub(crate) mod dev;
pub(crate) mod drain;
pub(crate) mod drill;
pub(crate) mod flush;
pub(crate) mod forget;
pub(crate) mod freeze;
pub(crate) mod get;
pub(crate) mod moves;
pub(crate) mod node;
pub(crate) mod plan;
pub(crate) mod scenario;
pub(crate) mod set;
pub(crate) mod status;
pub(crate) mod wait;

use std::future::Future;

use eyre::{Result, WrapErr};

use crate::arguments::Command;
use crate::exit::Exit;

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> Result<Exit> {
    match command {
        Command::Dev(args) => on_tokio(dev::run(args)),
        Command::Assigner(args) => on_tokio(assigner::run(args)),
        Command::Node(args) => on_tokio(node::run(*args)),
        Command::Get(args) => on_tokio(get::run(args)),
        Command::Set(args) => on_tokio(set::run(args)),
        Command::Del(args) => on_tokio(del::run(args)),
        Command::Flush(args) => on_tokio(flush::run(args)),
        Command::Status(args) => on_tokio(status::run(args)),
        Command::Wait(args) => on_tokio(wait::run(args)),
        Command::Drain(args) => on_tokio(drain::run(args)),
        Command::Plan(args) => on_tokio(plan::run(args)),
        Command::Forget(args) => on_tokio(forget::run(args)),
        Command::Freeze(args) => on_tokio(freeze::freeze(args)),
        Command::Unfreeze(args) => on_tokio(freeze::unfreeze(args)),
        Command::Drill(args) => on_tokio(drill::run(*args)),
        Command::Scenario(args) => scenario::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Completions(args) => completions::run(&args),
    }
}

/// Runs a command that does I/O on a runtime of its own.
fn on_tokio(command: impl Future<Output = Result<Exit>>) -> Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .wrap_err("cannot start the runtime")?;
    let exit = runtime.block_on(command);
    // Blocking reads of stdin may still be open; they must not hold the exit up.
    runtime.shutdown_background();
    exit
}
