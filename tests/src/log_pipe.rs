//! [`LogTo`]: where a child's log goes. To a file, as everywhere; or through a pipe, of which the test decides whether anybody
//! reads it: a log shipper that is paused, a container's driver that is stuck.
//!
//! With `SOFTSTORE_TEST_STUCK_LOGS=1` the logs of all clusters of processes go to pipes that are full from the start. Tests that
//! read a log then fail: `hostile` reads none but to say more when it fails.

use std::fs::File;
use std::io::{ErrorKind, PipeReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Makes the logs of all processes go where nobody reads them.
const STUCK: &str = "SOFTSTORE_TEST_STUCK_LOGS";

/// Linux' O_NONBLOCK, on all machines that the tests run on.
const NONBLOCKING: i32 = 0o4000;

/// Between two looks at a pipe.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Where a child's log goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogTo {
    /// Into its file.
    File,
    /// Into its file, through a pipe that is read until [`LogPipe::stick`].
    Pipe,
    /// Into a pipe that is full and that nobody reads until [`LogPipe::let_go`].
    Stuck,
}

impl LogTo {
    /// A file, unless the environment wants logs that nobody reads.
    #[must_use]
    pub fn of_this_run() -> Self {
        if is_stuck() { Self::Stuck } else { Self::File }
    }

    /// What becomes the child's stderr, and the other end of the pipe, if it is one.
    pub(crate) fn open(self, log: &Path) -> std::io::Result<(Stdio, Option<LogPipe>)> {
        // Appended to, as a service manager does it: so others can write to it as well.
        let file = File::options().create(true).append(true).open(log)?;
        if self == Self::File {
            return Ok((file.into(), None));
        }
        let (reader, writer) = std::io::pipe()?;
        let pipe = LogPipe {
            path: format!("/proc/self/fd/{}", reader.as_raw_fd()),
            is_read: Arc::default(),
        };
        if self == Self::Stuck {
            pipe.fill()?;
        } else {
            pipe.let_go();
        }
        let is_read = pipe.is_read.clone();
        std::thread::spawn(move || pump(reader, file, &is_read));
        Ok((writer.into(), Some(pipe)))
    }
}

/// Whether this run's logs are to be stuck.
#[must_use]
pub fn is_stuck() -> bool {
    std::env::var_os(STUCK).is_some_and(|value| value == "1")
}

/// The test's end of the pipe that a child logs to.
#[derive(Debug)]
pub struct LogPipe {
    /// Leads to the pipe, as a file of its own: so that only this end of it is not waited for.
    path: String,
    is_read: Arc<AtomicBool>,
}

impl LogPipe {
    /// From now on nobody reads what the child logs, and there is no room for it.
    ///
    /// # Panics
    /// If the pipe is gone.
    pub fn stick(&self) {
        self.is_read.store(false, Ordering::SeqCst);
        // What the reader has begun to read makes room once.
        for _ in 0..3 {
            self.fill()
                .expect("the pipe is open as long as the test reads it");
            std::thread::sleep(2 * LOOK_AGAIN);
        }
    }

    /// From now on it is read again.
    pub fn let_go(&self) {
        self.is_read.store(true, Ordering::SeqCst);
    }

    /// Writes into the pipe until nothing fits.
    fn fill(&self) -> std::io::Result<()> {
        let mut pipe = File::options()
            .write(true)
            .custom_flags(NONBLOCKING)
            .open(&self.path)?;
        for block in [&[b'\n'; 4_096][..], b"\n"] {
            loop {
                match pipe.write(block) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// Copies what comes through the pipe, whenever it is to be read, until its other end is closed.
fn pump(mut from: PipeReader, mut to: File, is_read: &AtomicBool) {
    let mut bytes = [0; 4_096];
    loop {
        while !is_read.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK_AGAIN);
        }
        match from.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            // A full disk under the file is one of the tests' faults.
            Ok(read) => drop(to.write_all(&bytes[..read])),
        }
    }
}

impl Drop for LogPipe {
    fn drop(&mut self) {
        // The reader's thread reads to the end, and ends.
        self.let_go();
    }
}

/// Runs a command whose stderr nobody reads; its exit code.
///
/// # Panics
/// If it does not end within `patience`.
pub async fn run_stuck(mut command: tokio::process::Command, logs: &Path, patience: Duration) -> Option<i32> {
    let opened = LogTo::Stuck.open(&logs.join("command.log"));
    let (stderr, _pipe) = opened.expect("the directory of logs is writable");
    let ended = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .status();
    let ended = tokio::time::timeout(patience, ended).await;
    ended.expect("it ends").expect("it runs").code()
}
