//! When a server is to stop: SIGTERM, SIGINT, or the end of the process that started it.
//!
//! A parent's death is noticed by its end of our stdin closing, which the kernel does even on SIGKILL: no process of a
//! `dev` cluster outlives it.

use std::io::Read;
use std::time::Duration;

use eyre::{Result, WrapErr};
use softstore_server::log_queue::stderr;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tracing::warn;

use crate::logging::LAST_LINES_WAIT;

/// Whoever sends a signal and then waits for the end often closes our stdin with that (tokio's `Child::wait` does). The
/// two arrive in any order; a signal that comes so soon after the end of stdin is what was meant.
const SIGNAL_BESIDE_END: Duration = Duration::from_millis(500);

/// Why to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// SIGTERM.
    Terminate,
    /// SIGINT (Ctrl-C).
    Interrupt,
    /// stdin closed, with `--exit-with-parent`.
    ParentGone,
}

/// Reasons to stop, as they come.
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
    parent: Option<oneshot::Receiver<()>>,
}

impl Stop {
    /// Takes the signals over from their default, which would end the process without a drain.
    pub(crate) fn listen(exit_with_parent: bool) -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).wrap_err("cannot handle SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).wrap_err("cannot handle SIGINT")?,
            parent: exit_with_parent.then(parent_gone),
        })
    }

    /// The next reason to stop. May be called again: a second signal means "at once".
    pub(crate) async fn wanted(&mut self) -> StopReason {
        let Some(gone) = self.parent.as_mut() else {
            return self.signal().await;
        };
        let signal = tokio::select! {
            _ = self.terminate.recv() => Some(StopReason::Terminate),
            _ = self.interrupt.recv() => Some(StopReason::Interrupt),
            // A dropped sender means that the watching thread is gone: the same as the parent's end.
            _ = gone => None,
        };
        if let Some(signal) = signal {
            return signal;
        }
        self.parent = None;
        tokio::time::timeout(SIGNAL_BESIDE_END, self.signal())
            .await
            .unwrap_or(StopReason::ParentGone)
    }

    async fn signal(&mut self) -> StopReason {
        tokio::select! {
            _ = self.terminate.recv() => StopReason::Terminate,
            _ = self.interrupt.recv() => StopReason::Interrupt,
        }
    }

    /// Ends the process at the next signal, with the shell's code for it.
    pub(crate) async fn exit_at_second_signal(&mut self) {
        loop {
            let code = match self.wanted().await {
                StopReason::Terminate => 143,
                StopReason::Interrupt => 130,
                // Not a second wish but the same one: whoever stops us closes stdin too.
                StopReason::ParentGone => continue,
            };
            warn!("a second signal: ending at once, without the rest of the drain");
            stderr().flush(LAST_LINES_WAIT);
            std::process::exit(code);
        }
    }
}

/// Resolves when stdin ends. Reading blocks, so a thread of its own does it; it ends with the process.
fn parent_gone() -> oneshot::Receiver<()> {
    let (tell, gone) = oneshot::channel();
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut ignored = [0; 256];
        while stdin.read(&mut ignored).is_ok_and(|bytes| bytes > 0) {}
        let _ = tell.send(());
    });
    gone
}
