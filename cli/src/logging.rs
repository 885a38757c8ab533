//! Logs: structured, to stderr, one line each. stdout belongs to results. Nobody waits for a line to be written: they go through
//! `softstore_server::log_queue`, panics and a command's last words too.

mod limit;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::IsTerminal;
use std::panic::PanicHookInfo;
use std::time::Duration;

use eyre::{Result, WrapErr};
use softstore_server::log_queue::stderr;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use limit::LineLimit;

/// The HTTP/2 library warns of each connection that floods it: whoever can reach a port could fill the disk. Counters say the
/// same. `--log info,h2=warn` brings the warnings back.
const QUIET: &str = "h2=error";

/// How long the end of a process waits for its last lines to be written. With a stuck stderr they are lost then.
pub(crate) const LAST_LINES_WAIT: Duration = Duration::from_secs(1);

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

/// Starts logging for this process, of panics too.
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
        .log_internal_errors(false)
        .with_writer(stderr);
    match format {
        LogFormat::Text => lines
            .with_ansi(terminal)
            .finish()
            .with(LineLimit::default())
            .init(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .finish()
            .with(LineLimit::default())
            .init(),
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// A panic as a log line. The standard library's own hook writes to stderr, and would wait for whoever does not read it.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let told = format!("thread {:?} {panic}", thread.name().unwrap_or_default()).replace('\n', " ");
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(backtrace, "{told}");
    } else {
        stderr().push(format!("{told}\n").as_bytes());
    }
}
