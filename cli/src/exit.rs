//! Exit codes, and errors in one line.

use std::process::ExitCode;

/// How a command ended. Errors are `Err` until `main`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or the answer is yes.
    Ok,
    /// The answer is no: an absent key, not settled in time, a drill that failed.
    No,
    /// It could not be done or asked.
    Error,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::No => 1,
            Exit::Error => 2,
        })
    }
}

/// An error and its causes in one line, each said once: many errors repeat their cause in their own text.
pub(crate) fn in_one_line(error: &eyre::Report) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let cause = cause.to_string().replace('\n', "; ");
        if !line.contains(&cause) {
            line.push_str(if line.is_empty() { "" } else { ": " });
            line.push_str(&cause);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once_and_in_one_line() {
        let error = eyre::eyre!("port\ntaken")
            .wrap_err("cannot listen: port; taken")
            .wrap_err("node");
        assert_eq!(in_one_line(&error), "node: cannot listen: port; taken");
    }
}
