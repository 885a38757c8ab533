//! [`Kernel`]: what the kernel tells of this process' memory: the limit that counts, how far it is, what is resident.
//!
//! A process is in control groups within control groups, of version 1 or 2, and the kernel kills in whichever is full
//! first. The limit that counts is the lowest up the tree, else the machine's memory: a container that is given 1 GiB on a
//! machine of 64 must not plan with 64. How much may still be taken is the least that any of them leaves: others may share
//! a group, and what they take counts as much. Pages of files do not: the kernel takes those back before it kills.
//!
//! All of it is read anew each time: limits are raised and lowered while a process runs. What is missing or is no number
//! limits nothing.

use std::fmt;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// What is assumed where the kernel tells nothing (not Linux): 1 GiB.
const LIMIT_BYTES_UNKNOWN: u64 = 1 << 30;

/// Reads files below a root.
#[derive(Clone, Debug)]
pub struct Kernel {
    root: PathBuf,
}

impl Default for Kernel {
    /// This machine's.
    fn default() -> Self {
        Self::under("/")
    }
}

/// The limit that counts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limit {
    /// How much memory this process and whoever shares the limit may have, in bytes.
    pub bytes: u64,
    /// How much may still be taken before some limit is reached, in bytes: of this one or of another.
    pub room_bytes: u64,
    /// Whose limit it is.
    pub source: Source,
}

/// Whose limit it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// A control group's, by its path.
    Group(String),
    /// The machine has no more.
    Machine,
    /// The kernel tells nothing: an assumption.
    Unknown,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(path) => write!(f, "cgroup {path}"),
            Self::Machine => f.write_str("the machine"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl Kernel {
    /// The one whose `proc` and `sys` are below `root`. For tests.
    #[must_use]
    pub fn under(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The limit that counts now.
    #[must_use]
    pub fn limit(&self) -> Limit {
        let mut bounds = self.groups();
        bounds.extend(self.machine());
        let room_bytes = bounds.iter().map(|limit| limit.room_bytes).min();
        let lowest = bounds.into_iter().min_by_key(|limit| limit.bytes);
        let unknown = Limit {
            bytes: LIMIT_BYTES_UNKNOWN,
            room_bytes: LIMIT_BYTES_UNKNOWN,
            source: Source::Unknown,
        };
        let limit = lowest.unwrap_or(unknown);
        Limit {
            room_bytes: room_bytes.unwrap_or(limit.room_bytes),
            ..limit
        }
    }

    /// The machine's memory in bytes, if the kernel tells it.
    #[must_use]
    pub fn machine_bytes(&self) -> Option<u64> {
        self.machine().map(|limit| limit.bytes)
    }

    /// Resident memory of this process in bytes, if the kernel tells it.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        let pages: u64 = number_at(&self.read("proc/self/statm")?, 1)?;
        pages.checked_mul(rustix::param::page_size() as u64)
    }

    fn read(&self, path: impl AsRef<Path>) -> Option<String> {
        fs::read_to_string(self.root.join(path)).ok()
    }

    fn machine(&self) -> Option<Limit> {
        let meminfo = self.read("proc/meminfo")?;
        let bytes_of = |name| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
            kib.checked_mul(1024)
        };
        let bytes = bytes_of("MemTotal:")?;
        Some(Limit {
            bytes,
            room_bytes: bytes_of("MemAvailable:").unwrap_or(bytes),
            source: Source::Machine,
        })
    }

    /// The groups that this process is in and that have a limit, by /proc/self/cgroup: `id:controllers:path` per line, version 2
    /// with an empty list of controllers.
    fn groups(&self) -> Vec<Limit> {
        let Some(groups) = self.read("proc/self/cgroup") else {
            return Vec::new();
        };
        let of_line = |line: &str| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            if controllers.is_empty() {
                // Beside version 1, version 2 is mounted a level lower.
                let both = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];
                let groups = both.iter().flat_map(|mount| self.up_from(mount, path, &V2));
                Some(groups.collect::<Vec<Limit>>())
            } else if controllers.split(',').any(|name| name == "memory") {
                Some(self.up_from("sys/fs/cgroup/memory", path, &V1))
            } else {
                None
            }
        };
        groups.lines().filter_map(of_line).flatten().collect()
    }

    /// The group `path` and all above it that have a limit. In a container the path often names a group that is not visible; the
    /// mount's own root then is the container's group.
    fn up_from(&self, mount: &str, path: &str, files: &Files) -> Vec<Limit> {
        let below = Path::new(path.trim_start_matches('/'));
        // An alien path with `..` would lead out of the mount.
        let inside = below
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let below = if inside { below } else { Path::new("") };
        let bound = |group: &Path| self.group(&Path::new(mount).join(group), group, files);
        below.ancestors().filter_map(bound).collect()
    }

    fn group(&self, folder: &Path, path: &Path, files: &Files) -> Option<Limit> {
        let number = |file: &str| number_at(&self.read(folder.join(file))?, 0);
        // "max" (version 2: no limit) is no number; version 1 says a number beyond any machine.
        let bytes = files.limits.iter().filter_map(|file| number(file)).min()?;
        let used_bytes = number(files.used).unwrap_or(0);
        let stat = self.read(folder.join("memory.stat")).unwrap_or_default();
        let of_files = |name: &str| {
            let line = stat
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        let of_files: u64 = files
            .of_files
            .iter()
            .map(|name| of_files(name))
            .fold(0, u64::saturating_add);
        Some(Limit {
            bytes,
            room_bytes: bytes.saturating_sub(used_bytes.saturating_sub(of_files)),
            source: Source::Group(format!("/{}", path.display())),
        })
    }
}

/// How the files of a group are called.
struct Files {
    /// What it may have: the kernel kills, or holds up whoever asks for more.
    limits: &'static [&'static str],
    used: &'static str,
    /// In `memory.stat`: pages of files, with those of the groups below.
    of_files: [&'static str; 2],
}

/// Linux, Documentation/admin-guide/cgroup-v2.rst.
const V2: Files = Files {
    limits: &["memory.max", "memory.high"],
    used: "memory.current",
    of_files: ["inactive_file", "active_file"],
};

/// Linux, Documentation/admin-guide/cgroup-v1/memory.rst.
const V1: Files = Files {
    limits: &["memory.limit_in_bytes"],
    used: "memory.usage_in_bytes",
    of_files: ["total_inactive_file", "total_active_file"],
};

/// The number at a place of a line of words.
fn number_at(text: &str, place: usize) -> Option<u64> {
    text.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of its own with the given files; removed when dropped.
    struct Machine(PathBuf);

    impl Machine {
        fn with(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("softstore-memory-{name}-{}", std::process::id()));
            let machine = Self(root);
            machine.write(
                "proc/meminfo",
                "MemTotal:        4000 kB\nMemFree:          100 kB\nMemAvailable:    3000 kB\n",
            );
            files.iter().for_each(|(path, text)| machine.write(path, text));
            machine
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// Limit, room and source.
        fn says(&self) -> (u64, u64, String) {
            let limit = Kernel::under(&self.0).limit();
            (limit.bytes, limit.room_bytes, limit.source.to_string())
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn said(bytes: u64, room_bytes: u64, source: &str) -> (u64, u64, String) {
        (bytes, room_bytes, source.to_owned())
    }

    #[test]
    fn without_groups_the_machine_counts() {
        let machine = Machine::with("plain", &[]);
        assert_eq!(machine.says(), said(4000 * 1024, 3000 * 1024, "the machine"));
    }

    /// Plan: nested groups of version 2. The process' own has no limit, the one above it has the lowest; its pages of files count
    /// as room. Then the root's limit, which is higher, has less room left; then limits go up and down, and away.
    #[test]
    fn the_lowest_group_of_v2_counts_and_the_fullest_bounds() {
        let machine = Machine::with(
            "v2",
            &[
                ("proc/self/cgroup", "0::/pods/one\n"),
                ("sys/fs/cgroup/pods/one/memory.max", "max\n"),
                ("sys/fs/cgroup/pods/memory.max", "1000000\n"),
                ("sys/fs/cgroup/pods/memory.current", "700000\n"),
                (
                    "sys/fs/cgroup/pods/memory.stat",
                    "anon 600000\nfile 90000\ninactive_file_x 7\ninactive_file 40000\nactive_file 50000\n",
                ),
                ("sys/fs/cgroup/memory.max", "2000000\n"),
                ("sys/fs/cgroup/memory.current", "1200000\n"),
            ],
        );
        assert_eq!(machine.says(), said(1_000_000, 390_000, "cgroup /pods"));
        machine.write("sys/fs/cgroup/memory.current", "1900000\n");
        assert_eq!(machine.says(), said(1_000_000, 100_000, "cgroup /pods"));
        machine.write("sys/fs/cgroup/pods/memory.max", "800000\n");
        machine.write("sys/fs/cgroup/memory.current", "800000\n");
        assert_eq!(machine.says(), said(800_000, 190_000, "cgroup /pods"));
        machine.write("sys/fs/cgroup/pods/memory.max", "max\n");
        machine.write("sys/fs/cgroup/pods/memory.high", "900000\n");
        assert_eq!(machine.says(), said(900_000, 290_000, "cgroup /pods"));
        fs::remove_dir_all(machine.0.join("sys/fs/cgroup/pods")).unwrap();
        assert_eq!(machine.says(), said(2_000_000, 1_200_000, "cgroup /"));
    }

    #[test]
    fn a_container_sees_its_group_at_the_mounts_root() {
        for path in ["/../../kubepods/x", "/not/visible/here"] {
            let machine = Machine::with(
                "container",
                &[
                    ("proc/self/cgroup", &format!("0::{path}\n")),
                    ("sys/fs/cgroup/memory.max", "500000\n"),
                    ("sys/fs/cgroup/memory.current", "600000\n"),
                ],
            );
            assert_eq!(machine.says(), said(500_000, 0, "cgroup /"));
        }
    }

    /// Plan: version 1 with the memory controller here, and version 2 without one beside it, as systemd has it; then the same with
    /// version 1's way to say that there is no limit.
    #[test]
    fn v1_counts_and_its_way_to_say_no_limit_does_not() {
        let groups = "9:name=systemd:/a\n5:cpu,cpuacct:/a\n4:hugetlb,memory:/a\n0::/a\n";
        let machine = Machine::with(
            "v1",
            &[
                ("proc/self/cgroup", groups),
                ("sys/fs/cgroup/unified/a/cgroup.procs", "1\n"),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "300000\n"),
                ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "200000\n"),
                (
                    "sys/fs/cgroup/memory/a/memory.stat",
                    "inactive_file 99999\ntotal_inactive_file 1000\ntotal_active_file 2000\n",
                ),
            ],
        );
        assert_eq!(machine.says(), said(300_000, 103_000, "cgroup /a"));
        machine.write(
            "sys/fs/cgroup/memory/a/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        assert_eq!(machine.says(), said(4000 * 1024, 3000 * 1024, "the machine"));
        // Version 2 that does have the controller, beside version 1 that does not.
        machine.write("proc/self/cgroup", "4:cpu:/a\n0::/a\n");
        machine.write("sys/fs/cgroup/unified/a/memory.max", "70000\n");
        assert_eq!(machine.says(), said(70_000, 70_000, "cgroup /a"));
    }

    #[test]
    fn garbage_limits_nothing() {
        let machine = Machine::with(
            "garbage",
            &[
                ("proc/self/cgroup", "0\n:::\n0:\nrubbish\n4:memory:/a\n0::/a\n"),
                ("proc/self/statm", "12 many\n"),
                ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "-1\n"),
                ("sys/fs/cgroup/a/memory.max", ""),
            ],
        );
        assert_eq!(machine.says(), said(4000 * 1024, 3000 * 1024, "the machine"));
        assert_eq!(Kernel::under(&machine.0).resident_bytes(), None);
        machine.write("proc/self/statm", "400 25 3 1 0 9 0\n");
        let page = rustix::param::page_size() as u64;
        assert_eq!(Kernel::under(&machine.0).resident_bytes(), Some(25 * page));
        machine.write("proc/meminfo", "rubbish");
        fs::remove_file(machine.0.join("proc/self/cgroup")).unwrap();
        assert_eq!(
            machine.says(),
            said(LIMIT_BYTES_UNKNOWN, LIMIT_BYTES_UNKNOWN, "unknown")
        );
    }
}
