//! How much memory this process may use, as the kernel tells: the tightest cgroup limit above it (v2 or v1), else the
//! machine's memory. The default budget of a node's store is 75% of it; the rest is for the allocator's slack, buffers,
//! chunks in flight and the process itself.
//!
//! A container that is given 1 GiB on a machine of 64 must not plan with 64: the kernel would kill it.

use std::fs;
use std::path::Path;

/// Part of the available memory that a node's store gets by default, in percent.
pub const MEMORY_PERCENT_BY_DEFAULT: u64 = 75;

/// What is assumed where the kernel tells nothing (not Linux): 1 GiB.
const AVAILABLE_BYTES_UNKNOWN: u64 = 1 << 30;

/// The default budget of a node's store in bytes.
#[must_use]
pub fn memory_bytes_by_default() -> u64 {
    memory_available_bytes() / 100 * MEMORY_PERCENT_BY_DEFAULT
}

/// What this process may use in bytes: the tightest cgroup limit above it, else the machine's memory.
#[must_use]
pub fn memory_available_bytes() -> u64 {
    available_under(Path::new("/"))
}

/// [`memory_available_bytes`] with `/proc` and `/sys` below `root`.
fn available_under(root: &Path) -> u64 {
    let machine = read(&root.join("proc/meminfo")).and_then(|text| mem_total_bytes(&text));
    let group = cgroup_limit_bytes(root);
    match (machine, group) {
        // Without a limit, v1 answers with a number beyond any machine.
        (Some(machine), Some(group)) => machine.min(group),
        (Some(bytes), None) | (None, Some(bytes)) => bytes,
        (None, None) => AVAILABLE_BYTES_UNKNOWN,
    }
}

/// `MemTotal` of /proc/meminfo.
fn mem_total_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The tightest limit of the groups that this process is in, by /proc/self/cgroup: `id:controllers:path` per line, v2
/// with an empty list of controllers.
fn cgroup_limit_bytes(root: &Path) -> Option<u64> {
    let groups = read(&root.join("proc/self/cgroup"))?;
    let limit_of = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        if controllers.is_empty() {
            tightest(&root.join("sys/fs/cgroup"), path, "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            tightest(&root.join("sys/fs/cgroup/memory"), path, "memory.limit_in_bytes")
        } else {
            None
        }
    };
    groups.lines().filter_map(limit_of).min()
}

/// The lowest number in `file` of the group `path` and of all groups above it. In a container the path often names a
/// group that is not visible; the mount's own root then is the container's group.
fn tightest(mount: &Path, path: &str, file: &str) -> Option<u64> {
    let below = Path::new(path.trim_start_matches('/'));
    // An alien path with `..` would lead out of the mount.
    let inside = below
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    let below = if inside { below } else { Path::new("") };
    below
        .ancestors()
        .filter_map(|group| read(&mount.join(group).join(file)))
        // "max" (v2: no limit) is no number.
        .filter_map(|text| text.trim().parse().ok())
        .min()
}

fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own with the given files; removed when dropped.
    struct Machine(std::path::PathBuf);

    impl Machine {
        fn with(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("softstore-memory-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    const MEMINFO: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:        4000 kB\nMemFree:          100 kB\n",
    );

    #[test]
    fn without_groups_the_machine_counts() {
        let machine = Machine::with("plain", &[MEMINFO]);
        assert_eq!(available_under(&machine.0), 4000 * 1024);
    }

    #[test]
    fn the_tightest_group_of_v2_counts() {
        // The process' own group has no limit, the one above it has 1,000,000 bytes, the root has more.
        let machine = Machine::with(
            "v2",
            &[
                MEMINFO,
                ("proc/self/cgroup", "0::/pods/one\n"),
                ("sys/fs/cgroup/pods/one/memory.max", "max\n"),
                ("sys/fs/cgroup/pods/memory.max", "1000000\n"),
                ("sys/fs/cgroup/memory.max", "2000000\n"),
            ],
        );
        assert_eq!(available_under(&machine.0), 1_000_000);
    }

    #[test]
    fn a_container_sees_its_group_at_the_mounts_root() {
        let machine = Machine::with(
            "container",
            &[
                MEMINFO,
                ("proc/self/cgroup", "0::/../../kubepods/x\n"),
                ("sys/fs/cgroup/memory.max", "500000\n"),
            ],
        );
        assert_eq!(available_under(&machine.0), 500_000);
    }

    #[test]
    fn v1_counts_and_its_way_to_say_no_limit_does_not() {
        let groups = ("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a\n");
        let limited = Machine::with(
            "v1",
            &[
                MEMINFO,
                groups,
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "300000\n"),
            ],
        );
        assert_eq!(available_under(&limited.0), 300_000);
        let unlimited = Machine::with(
            "v1max",
            &[
                MEMINFO,
                groups,
                (
                    "sys/fs/cgroup/memory/a/memory.limit_in_bytes",
                    "9223372036854771712\n",
                ),
            ],
        );
        assert_eq!(available_under(&unlimited.0), 4000 * 1024);
    }

    #[test]
    fn where_nothing_is_told_there_is_a_default() {
        let machine = Machine::with("nothing", &[("proc/meminfo", "rubbish")]);
        assert_eq!(available_under(&machine.0), AVAILABLE_BYTES_UNKNOWN);
    }
}
