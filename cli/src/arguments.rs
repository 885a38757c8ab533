//! What may be typed: the commands, and the help that explains them.

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    assigner, completions, config, del, dev, drain, drill, flush, forget, freeze, get, node, plan, scenario,
    set, status, wait,
};
use crate::settings::assigner::AssignerSettings;
use crate::settings::client::ClientSettings;
use crate::settings::defaults::shown;
use crate::settings::node::NodeSettings;

/// A sharded in-memory cache that keeps its hit rate through a rolling restart.
///
/// Nodes own slices of a hashed key space; the Assigner decides who owns what. When a slice changes hands, the new owner
/// takes the old owner's entries over, hottest first, and serves at once.
#[derive(Debug, Parser)]
#[command(name = "softstore", version, max_term_width = 110, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// What was typed. Ends the process with help, or with what is wrong.
    pub(crate) fn typed() -> Self {
        let matches = Self::documented().get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// The commands, with the defaults of all settings in their help.
    pub(crate) fn documented() -> clap::Command {
        let with_defaults = |command: clap::Command| match command.get_name() {
            "node" => shown::<NodeSettings>(command),
            "assigner" => shown::<AssignerSettings>(command),
            "get" | "set" | "del" | "flush" => shown::<ClientSettings>(command),
            "status" | "wait" | "drain" | "forget" | "plan" | "freeze" | "unfreeze" => {
                without(shown::<ClientSettings>(command), &["seeds", "deadline_ms"])
            }
            _ => command,
        };
        Self::command().mut_subcommands(with_defaults)
    }
}

/// Hides from the help what the command accepts, as part of its settings, but has no use for.
fn without(command: clap::Command, unused: &[&str]) -> clap::Command {
    command.mut_args(|arg| {
        let is_unused = unused.contains(&arg.get_id().as_str());
        if is_unused { arg.hide(true) } else { arg }
    })
}

const AFTER_HELP: &str = "\
Examples:
  softstore dev                        an Assigner and three nodes on this machine
  softstore set greeting hello         write (the Assigner on 127.0.0.1:7400 says which nodes there are)
  softstore get greeting               read
  softstore drill                      restart a cluster under load, with and without hand-over, and judge

When something is wrong:
  softstore status                     who is there, what it holds, what moves, and why it is not settled
  softstore wait --settled             says what it waits for
  softstore status --moves             what moved lately, why, and what it cost
  softstore freeze                     stop balancing load; softstore plan shows what waits
  The nodes' and the Assigner's logs are on their stderr; docs/operations.md says what to look for in them.

Settings:
  Flags win over the environment (SOFTSTORE_*), that over a TOML file (--config), that over the defaults.
  `softstore config` prints a file with every setting, its meaning and its default.

Exit codes:
  0  done    1  the answer is no (absent key, not settled in time, a drill that failed)    2  error";

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start an Assigner and some nodes on this machine, to try things out
    Dev(dev::DevArgs),
    /// Run the Assigner: it decides which node owns which slice
    Assigner(assigner::AssignerArgs),
    /// Run a cache node
    Node(Box<node::NodeArgs>),
    /// Read a key
    Get(get::GetArgs),
    /// Write a key
    Set(set::SetArgs),
    /// Delete a key
    Del(del::DelArgs),
    /// Drop every entry of the cluster
    Flush(flush::FlushArgs),
    /// Show nodes, slices, memory, hit rates and hand-offs
    Status(status::StatusArgs),
    /// Wait until a cluster is settled, or filled again
    Wait(wait::WaitArgs),
    /// Make a node hand over all it owns and exit
    Drain(drain::DrainArgs),
    /// Take a node that is half dead for dead, so that another process gets its name
    Forget(forget::ForgetArgs),
    /// Show what the sharder would move now and why, without doing it
    Plan(plan::PlanArgs),
    /// Stop balancing load; what drains or dies still moves
    Freeze(freeze::FreezeArgs),
    /// Balance load again
    Unfreeze(freeze::UnfreezeArgs),
    /// Restart a cluster under load and judge hit rate, latency and staleness
    Drill(Box<drill::DrillCommand>),
    /// Run a scenario of the control plane and measure a sharder's placements
    Scenario(scenario::ScenarioArgs),
    /// Print a settings file with every setting, its meaning and its default
    Config(config::ConfigArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(command: &str) -> String {
        let mut all = Arguments::documented();
        let found = all.find_subcommand_mut(command).expect("a command of that name");
        found.render_long_help().to_string()
    }

    #[test]
    fn the_help_shows_only_what_the_command_uses_and_the_rest_is_still_accepted() {
        let status = help("status");
        assert!(
            status.contains("--assigner") && !status.contains("--seeds"),
            "{status}"
        );
        let get = help("get");
        assert!(get.contains("--assigner") && get.contains("--seeds"), "{get}");
        assert!(!help("drain").contains("--deadline-ms"));
        let typed = ["softstore", "status", "--seeds", "127.0.0.1:1"];
        assert!(Arguments::documented().try_get_matches_from(typed).is_ok());
    }

    #[test]
    fn the_key_stands_before_the_value() {
        let help = help("set");
        assert!(help.contains("softstore set [OPTIONS] <KEY> <VALUE>"), "{help}");
    }
}
