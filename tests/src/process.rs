//! [`Process`]: one child process of a test, from its first line on stdout to its exit.
//!
//! Its stdin is held open as long as the test runs: with `--exit-with-parent` no child outlives its test, even one
//! that is killed. Its log goes to a file, or to a pipe ([`LogTo`]).

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

pub use rustix::process::Signal;

use crate::binary;
use crate::embedded::PATIENCE;
use crate::log_pipe::{LogPipe, LogTo};
use crate::processes::until;

/// A running child. Dropping it kills it, and nothing else.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    pid: Pid,
    /// Held open: its end is the child's end.
    _stdin: Option<ChildStdin>,
    /// Held open: a child must not fail by writing to a closed pipe.
    _stdout: BufReader<ChildStdout>,
    log: PathBuf,
    log_pipe: Option<LogPipe>,
}

/// `softstore` with these arguments and no settings from the environment of the tests.
#[must_use]
pub fn softstore(arguments: &[String]) -> Command {
    let mut command = Command::new(binary::softstore());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SOFTSTORE_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).kill_on_drop(true);
    command
}

/// Runs `softstore` to its end: exit code, stdout, stderr.
///
/// # Panics
/// If it does not end within the tests' patience.
pub async fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let ended = timeout(PATIENCE, softstore(&arguments).stdin(Stdio::null()).output()).await;
    let output = ended.expect("the command ends").expect("the command runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("softstore prints text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

impl Process {
    /// Starts `softstore` and reads its first line.
    ///
    /// # Panics
    /// If it prints no line of JSON in time.
    pub async fn start(name: &str, logs: &Path, arguments: &[String]) -> (Self, Value) {
        Self::start_logging(name, logs, LogTo::of_this_run(), softstore(arguments)).await
    }

    /// The same with a command that becomes `softstore` in the end, such as `nsenter`.
    ///
    /// # Panics
    /// If it prints no line of JSON in time.
    pub async fn start_command(name: &str, logs: &Path, command: Command) -> (Self, Value) {
        Self::start_logging(name, logs, LogTo::File, command).await
    }

    /// The same with its log somewhere else.
    ///
    /// # Panics
    /// If it prints no line of JSON in time.
    pub async fn start_logging(
        name: &str,
        logs: &Path,
        log_to: LogTo,
        mut command: Command,
    ) -> (Self, Value) {
        let log = logs.join(format!("{name}.log"));
        let (stderr, log_pipe) = log_to.open(&log).expect("the directory of logs is writable");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the binary runs");
        let pid = child
            .id()
            .and_then(|pid| Pid::from_raw(pid.cast_signed()))
            .expect("a child has a pid");
        let _stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut line = String::new();
        let read = timeout(PATIENCE, stdout.read_line(&mut line)).await;
        let process = Self {
            name: name.to_owned(),
            child,
            pid,
            _stdin,
            _stdout: stdout,
            log,
            log_pipe,
        };
        // The command holds an end of the pipe to the log: with it open here, the log would never end.
        drop(command);
        read.expect("it announces itself in time")
            .expect("its stdout can be read");
        let line = serde_json::from_str(&line);
        (process, line.expect("its first line is JSON"))
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Where its log is.
    #[must_use]
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// The pipe that it logs to.
    ///
    /// # Panics
    /// If it logs to a file.
    #[must_use]
    pub fn log_pipe(&self) -> &LogPipe {
        self.log_pipe.as_ref().expect("it logs to a pipe")
    }

    /// Waits until its log has this text. What a process does is seen before its log says so: lines are written by a thread of
    /// their own.
    ///
    /// # Panics
    /// If it does not come.
    pub async fn logged(&self, text: &str) {
        until(&format!("{} logs {text:?}", self.name), async || {
            self.log().contains(text).then_some(())
        })
        .await;
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have just ended by itself.
        let _ = kill_process(self.pid, signal);
    }

    /// Stops it (SIGSTOP), and waits until it stands still: the signal is sent at once, but reaches each thread in its
    /// own time.
    ///
    /// # Panics
    /// If it does not stop.
    pub async fn stand_still(&self) {
        self.signal(Signal::STOP);
        until(&format!("{} stands still", self.name), async || {
            // Asks about stopping only: its exit is left for whoever waits for that.
            let stopped = waitid(
                WaitId::Pid(self.pid),
                WaitIdOptions::STOPPED | WaitIdOptions::NOHANG,
            );
            stopped.expect("a child can be waited for").map(|_| ())
        })
        .await;
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end within `patience`.
    pub async fn exit_within(&mut self, patience: Duration) -> ExitStatus {
        let ended = timeout(patience, self.child.wait()).await;
        let Ok(status) = ended else {
            panic!("{} has not ended within {patience:?}", self.name)
        };
        status.expect("a child can be waited for")
    }

    /// Waits for its end; its exit code.
    ///
    /// # Panics
    /// If it does not end in time, or by a signal.
    pub async fn exit_code(&mut self) -> i32 {
        let status = self.exit_within(PATIENCE).await;
        status
            .code()
            .unwrap_or_else(|| panic!("{} ended by {status}", self.name))
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("a child can be waited for")
            .is_none()
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let skip = log.lines().count().saturating_sub(40);
            let last: Vec<&str> = log.lines().skip(skip).collect();
            eprintln!("---- the last of {}'s log:\n{}", self.name, last.join("\n"));
        }
    }
}
