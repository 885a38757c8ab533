//! The `softstore` binary: it only composes. What it starts is the `server` crate's, what it asks is the `client` crate's,
//! what it measures is the `drill` crate's.
//!
//! ```text
//! arguments.rs   what may be typed          settings.rs   flags over environment over file over defaults
//! commands/      one file per command       child.rs      processes that `dev` starts, announce.rs their first line
//! logging/       logs to stderr, bounded    stop.rs       signals, and the end of the parent
//! control.rs     questions to the Assigner  cache.rs      keys and values
//! exit.rs        exit codes                 say.rs        lines for people
//! allocator.rs   how memory is given back
//! open_files.rs  their limit, raised
//! ```
//!
//! Exit codes: 0 done, 1 the answer is no (absent key, not settled in time, a drill that failed), 2 an error, which stderr
//! tells in one line.

mod allocator;
mod announce;
mod arguments;
mod cache;
mod child;
mod commands;
mod control;
mod exit;
mod logging;
mod open_files;
mod say;
mod settings;
mod stop;

use std::process::ExitCode;

/// jemalloc gives memory back to the system after churn; a cache that evicts and hands over does little else.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    if cfg!(feature = "planted-bugs") {
        say::remark(
            "softstore: this binary was compiled with deliberate bugs (feature planted-bugs) and serves nobody",
        );
        return exit::Exit::Error.into();
    }
    let arguments = arguments::Arguments::typed();
    let code = match commands::run(arguments.command) {
        Ok(exit) => exit.into(),
        Err(error) => {
            say::remark(format_args!("softstore: {}", exit::in_one_line(&error)));
            exit::Exit::Error.into()
        }
    };
    softstore_server::log_queue::flush_stderr(logging::LAST_LINES_WAIT);
    code
}
