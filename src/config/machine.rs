//! Defaults that depend on the machine: memory, processors, file descriptors.

use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;

/// Worker threads: what affinity and cgroup allow, at least one.
pub fn threads() -> usize {
    // WHY: the standard library asks sched_getaffinity and the cgroup's cpu quota, version 1 and 2.
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A quarter of the memory available, at least 64 MiB.
pub fn memory_budget_bytes() -> u64 {
    (memory_bytes() / 4).max(64 * MIB)
}

/// The smaller of 256 MiB and an eighth of the memory available.
pub fn cache_bytes() -> u64 {
    (memory_bytes() / 8).min(256 * MIB)
}

/// (RLIMIT_NOFILE − 256) ÷ 2, by the hard limit, to which the soft one is raised at start; at least 64.
pub fn max_connections() -> usize {
    const ENOUGH: u64 = 1 << 20;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limit.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    usize::try_from(files.saturating_sub(256) / 2)
        .unwrap_or(usize::MAX)
        .max(64)
}

/// The memory this process may use: the tightest of the machine and every cgroup above it.
fn memory_bytes() -> u64 {
    const UNKNOWN: u64 = 1024 * MIB;
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_of_meminfo(&text));
    let cgroup = std::fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| cgroup_limit(&text, Path::new("/sys/fs/cgroup")));
    match (machine, cgroup) {
        (Some(machine), Some(cgroup)) => machine.min(cgroup),
        (Some(known), None) | (None, Some(known)) => known,
        (None, None) => UNKNOWN,
    }
}

fn total_of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// The tightest `memory.max` (version 2) or `memory.limit_in_bytes` (version 1) from our group to the root.
fn cgroup_limit(own_groups: &str, root: &Path) -> Option<u64> {
    let mut tightest = None;
    for line in own_groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (base, file): (PathBuf, &str) = if controllers.is_empty() {
            (root.to_owned(), "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        let mut folder = base.join(group.trim_start_matches('/'));
        // WHY: inside a container the group named may not exist under its own /sys; the root then holds the limit.
        while folder.starts_with(&base) {
            let limit = std::fs::read_to_string(folder.join(file))
                .ok()
                .and_then(|text| text.trim().parse::<u64>().ok());
            tightest = match (tightest, limit) {
                (Some(known), Some(limit)) => Some(limit.min(known)),
                (known, limit) => known.or(limit),
            };
            if !folder.pop() {
                break;
            }
        }
    }
    tightest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_group_wins() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::write(inner.join("memory.max"), "max\n").unwrap();
        std::fs::write(root.path().join("a/memory.max"), "1048576\n").unwrap();
        assert_eq!(cgroup_limit("0::/a/b\n", root.path()), Some(1_048_576));
        assert_eq!(cgroup_limit("0::/gone\n", root.path()), None);
        assert_eq!(cgroup_limit("nonsense", root.path()), None);
    }

    #[test]
    fn memory_is_read_from_meminfo() {
        assert_eq!(
            total_of_meminfo("MemTotal:  2048 kB\nMemFree: 1 kB"),
            Some(2 * MIB)
        );
        assert_eq!(total_of_meminfo("MemFree: 1 kB"), None);
    }

    #[test]
    fn every_default_is_usable() {
        assert!(threads() >= 1);
        assert!(memory_budget_bytes() >= 64 * MIB);
        assert!(cache_bytes() <= 256 * MIB);
        assert!(max_connections() >= 64);
    }
}
