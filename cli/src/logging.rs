//! Logs: structured, to stderr, one line each. stdout belongs to results.

use std::io::IsTerminal;

use eyre::{Result, WrapErr};
use tracing_subscriber::EnvFilter;

/// The HTTP/2 library warns of each connection that floods it: whoever can reach a port could fill the disk. Counters say the
/// same. `--log info,h2=warn` brings the warnings back.
const QUIET: &str = "h2=error";

/// How a server logs.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub(crate) struct LogArgs {
    /// What is logged: error, warn, info, debug or trace, also by part: warn,softstore_server=debug.
    #[arg(long, env = "SOFTSTORE_LOG", value_name = "FILTER", default_value = "info")]
    pub(crate) log: String,
    /// How it is written. Default: text on a terminal, else json.
    #[arg(long, env = "SOFTSTORE_LOG_FORMAT", value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// For programs: one JSON object per line.
    Json,
}

/// Starts logging for this process.
pub(crate) fn start(args: &LogArgs) -> Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIET},{}", args.log))
        .wrap_err_with(|| format!("--log {:?}", args.log))?;
    let terminal = std::io::stderr().is_terminal();
    let format = args.log_format.unwrap_or(if terminal {
        LogFormat::Text
    } else {
        LogFormat::Json
    });
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(terminal).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
