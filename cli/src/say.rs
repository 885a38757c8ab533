//! Lines for people. `println!` and `eprintln!` panic when nobody can take them (a full disk, a reader that is gone): results
//! that cannot be written are an error here, and remarks are dropped, also if nobody takes them in time.

use std::fmt::Display;
use std::io::Write;

use eyre::{Result, WrapErr};
use softstore_server::log_queue::stderr;

use crate::logging::LAST_LINES_WAIT;

/// What was asked for, as a line on stdout.
pub(crate) fn result(text: impl Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .wrap_err("cannot write to stdout")
}

/// What is good to know, as a line on stderr. An exit code tells the same, or nothing depends on it.
pub(crate) fn remark(text: impl Display) {
    stderr().push(format!("{text}\n").as_bytes());
    stderr().flush(LAST_LINES_WAIT);
}
