//! `softstore completions`.

use eyre::Result;

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
#[expect(clippy::unnecessary_wraps, reason = "all commands end alike")]
pub(crate) fn run(args: &CompletionsArgs) -> Result<Exit> {
    clap_complete::generate(
        args.shell,
        &mut Arguments::documented(),
        "softstore",
        &mut std::io::stdout(),
    );
    Ok(Exit::Ok)
}
