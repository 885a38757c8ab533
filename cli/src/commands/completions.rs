//! `softstore completions`.

use std::io::Write;

use eyre::{Result, WrapErr};

use crate::arguments::Arguments;
use crate::exit::Exit;

/// Which shell.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  softstore completions bash > /etc/bash_completion.d/softstore")]
pub(crate) struct CompletionsArgs {
    /// The shell to print for.
    shell: clap_complete::Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionsArgs) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Arguments::documented(), "softstore", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script)
        .and_then(|()| out.flush())
        .wrap_err("cannot write to stdout")?;
    Ok(Exit::Ok)
}
