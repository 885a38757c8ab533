//! [`MemoryGroup`]: a control group of the test's own, of version 1 or 2, with a memory limit; and processes in it.
//!
//! Needs a kernel that has the memory controller and a user who may make groups: [`missing`] says what is not there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::process::Command;

/// Where version 1 has the memory controller, and where version 2 has all.
const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// How long the kernel may take to let a group go whose processes have ended.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(5);

/// A group. Removed when dropped, which its processes must not outlive.
#[derive(Debug)]
pub struct MemoryGroup {
    folder: PathBuf,
    limit_file: &'static str,
}

/// Why no group can be made here; none: it can.
#[must_use]
pub fn missing() -> Option<String> {
    match MemoryGroup::new(64 << 20) {
        Ok(_) => None,
        Err(error) => Some(error.to_string()),
    }
}

impl MemoryGroup {
    /// A group that may have so many bytes.
    ///
    /// # Errors
    /// If this machine, or this user, may not have one.
    pub fn new(limit_bytes: u64) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("softstore-test-{}-{number}", std::process::id());
        let is_v1 = Path::new(V1).join("memory.limit_in_bytes").exists();
        let (mount, limit_file) = if is_v1 {
            (V1, "memory.limit_in_bytes")
        } else {
            fs::write(Path::new(V2).join("cgroup.subtree_control"), "+memory")?;
            (V2, "memory.max")
        };
        let folder = Path::new(mount).join(name);
        fs::create_dir(&folder)?;
        let group = Self { folder, limit_file };
        group.set_limit(limit_bytes)?;
        // What is swapped out is not killed, and proves nothing.
        let _ = fs::write(group.folder.join("memory.swap.max"), "0");
        let _ = fs::write(group.folder.join("memory.swappiness"), "0");
        Ok(group)
    }

    /// From now on it may have so many bytes.
    ///
    /// # Errors
    /// If the kernel refuses: it holds more.
    pub fn set_limit(&self, limit_bytes: u64) -> io::Result<()> {
        fs::write(self.folder.join(self.limit_file), limit_bytes.to_string())
    }

    /// The same command, run within.
    #[must_use]
    pub fn within(&self, command: &Command) -> Command {
        let command = command.as_std();
        let mut wrapped = Command::new("sh");
        wrapped
            .args(["-c", r#"echo $$ > "$0" && exec "$@""#])
            .arg(self.folder.join("cgroup.procs"))
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(name, value),
                None => wrapped.env_remove(name),
            };
        }
        wrapped.kill_on_drop(true);
        wrapped
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let begun = Instant::now();
        while fs::remove_dir(&self.folder).is_err() && begun.elapsed() < REMOVAL_PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
