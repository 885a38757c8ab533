//! A server started as a child process of this one: another run of this same binary.
//!
//! It announces itself on its stdout. Its stdin is a pipe that this process holds open; when that end closes, by
//! [`Child::stop`] or by this process' death of whatever kind, the child ends. It has a process group of its own, so that
//! Ctrl-C reaches it through us alone, in the order that we choose.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use eyre::{Result, WrapErr, bail, eyre};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};

/// How long a child may take from start to announcement.
const ANNOUNCE_MS_MAX: u64 = 30_000;

/// Longest announcement read, in bytes.
const ANNOUNCE_BYTES_MAX: u64 = 64 * 1024;

/// A running child.
pub(crate) struct Child {
    name: String,
    process: tokio::process::Child,
    /// Held open: its end is the child's end.
    stdin: Option<ChildStdin>,
    /// Held open: a child must not fail by writing to a closed pipe.
    _stdout: BufReader<ChildStdout>,
}

impl Child {
    /// Starts `softstore <arguments>` and reads its announcement.
    pub(crate) async fn start<A: DeserializeOwned>(name: &str, arguments: &[String]) -> Result<(Self, A)> {
        let binary = std::env::current_exe().wrap_err("cannot find this program's own file")?;
        let mut process = Command::new(binary)
            .args(arguments)
            .args(["--announce", "--exit-with-parent"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // An address for the whole machine cannot be that of each of its children.
            .env_remove("SOFTSTORE_ADVERTISE")
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .wrap_err_with(|| format!("cannot start {name}"))?;
        let stdin = process.stdin.take();
        let stdout = process
            .stdout
            .take()
            .ok_or_else(|| eyre!("{name} has no stdout"))?;
        let mut stdout = BufReader::new(stdout);
        let announcement =
            tokio::time::timeout(Duration::from_millis(ANNOUNCE_MS_MAX), read_line(&mut stdout))
                .await
                .map_err(|_| eyre!("{name} did not announce itself within {ANNOUNCE_MS_MAX} ms"))?
                .wrap_err_with(|| format!("cannot read from {name}"))?;
        if announcement.is_empty() {
            // It has said why on stderr, which is ours too.
            let status = process
                .wait()
                .await
                .wrap_err_with(|| format!("cannot wait for {name}"))?;
            bail!("{name} ended before it was ready ({status}); its reason stands above");
        }
        let announcement = serde_json::from_str(&announcement)
            .wrap_err_with(|| format!("{name} announced {announcement:?}, which is no announcement"))?;
        Ok((
            Self {
                name: name.to_owned(),
                process,
                stdin,
                _stdout: stdout,
            },
            announcement,
        ))
    }

    /// What it was called at its start.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its end, however it comes. May be called again after it was dropped half-way.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        self.process
            .wait()
            .await
            .wrap_err_with(|| format!("cannot wait for {}", self.name))
    }

    /// Tells it to end.
    pub(crate) fn ask_to_stop(&mut self) {
        self.stdin = None;
    }

    /// Waits for its end, and kills it if that takes longer than `patience`.
    pub(crate) async fn stop(&mut self, patience: Duration) {
        self.ask_to_stop();
        if tokio::time::timeout(patience, self.process.wait()).await.is_err() {
            let _ = self.process.kill().await;
        }
    }
}

async fn read_line(stdout: &mut BufReader<ChildStdout>) -> std::io::Result<String> {
    let mut line = String::new();
    stdout.take(ANNOUNCE_BYTES_MAX).read_line(&mut line).await?;
    Ok(line)
}
