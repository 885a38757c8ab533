//! `softstore config`.

use std::io::Write;

use eyre::{Result, WrapErr};
use softstore_server::memory::{Kernel, MemoryPlan};

use crate::exit::Exit;
use crate::settings::assigner::AssignerSettings;
use crate::settings::client::ClientSettings;
use crate::settings::node::NodeSettings;
use crate::settings::template::table;

/// Which settings.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  softstore config > softstore.toml             every setting at its default
  softstore node --config softstore.toml        a node that reads it

An unknown key or table in the file is an error, so that a misspelt one is not silently ignored.
One file can serve all commands: each reads its own table.")]
pub(crate) struct ConfigArgs {
    /// Only this command's table. Default: all of them.
    of: Option<Of>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Of {
    /// softstore node
    Node,
    /// softstore assigner
    Assigner,
    /// get, set, del, flush, status, wait, drain
    Client,
}

/// The table of a node, and what the memory settings come to on this machine.
fn node_table() -> Result<String> {
    let plan = MemoryPlan::new(&Kernel::default().limit(), 0, 0);
    Ok(format!(
        "# Memory here, with these settings: {plan}.\n{}",
        table::<NodeSettings>()?
    ))
}

/// Prints the file.
pub(crate) fn run(args: &ConfigArgs) -> Result<Exit> {
    let text = match args.of {
        Some(Of::Node) => node_table()?,
        Some(Of::Assigner) => table::<AssignerSettings>()?,
        Some(Of::Client) => table::<ClientSettings>()?,
        None => [
            node_table()?,
            table::<AssignerSettings>()?,
            table::<ClientSettings>()?,
        ]
        .join("\n"),
    };
    let intro =
        "# Settings of softstore at their defaults. Flags and SOFTSTORE_* variables win over this file.\n\n";
    let mut out = std::io::stdout().lock();
    out.write_all(intro.as_bytes())
        .and_then(|()| out.write_all(text.as_bytes()))
        .wrap_err("cannot write to stdout")?;
    Ok(Exit::Ok)
}
