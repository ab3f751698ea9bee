//! What the machine has to offer, and how many copies of the models suit it.

use std::num::NonZeroUsize;

/// Cores and memory that this process may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    /// Bytes free for use; `None` where the system does not tell.
    pub(crate) free_bytes: Option<u64>,
}

impl Machine {
    /// This machine, within the limits of its control group.
    pub(crate) fn detect() -> Self {
        let free = [system_free(), group_free()].into_iter().flatten().min();
        Self { cores: std::thread::available_parallelism().map_or(1, NonZeroUsize::get), free_bytes: free }
    }

    /// One copy per core, as long as all copies of `weights_bytes` fit into half of the free memory; at least one.
    pub(crate) fn replicas(self, weights_bytes: u64) -> usize {
        let fitting = self.free_bytes.map_or(usize::MAX, |free| {
            usize::try_from(free / 2 / weights_bytes.max(1)).unwrap_or(usize::MAX)
        });
        self.cores.min(fitting).max(1)
    }

    /// The cores shared among the copies; at least one each.
    pub(crate) fn threads(self, replicas: usize) -> usize {
        (self.cores / replicas).max(1)
    }
}

/// `MemAvailable` of Linux.
fn system_free() -> Option<u64> {
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// What the limit of a container leaves (control groups, version 2).
fn group_free() -> Option<u64> {
    let read = |file: &str| {
        std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?.trim().parse::<u64>().ok()
    };
    Some(read("memory.max")?.saturating_sub(read("memory.current")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_follow_cores_until_memory_ends() {
        let machine = |cores, free_bytes| Machine { cores, free_bytes };
        assert_eq!(machine(8, Some(16 << 30)).replicas(80 << 20), 8);
        assert_eq!(machine(8, Some(1 << 30)).replicas(200 << 20), 2);
        assert_eq!(machine(8, Some(1 << 20)).replicas(200 << 20), 1);
        assert_eq!(machine(4, None).replicas(1 << 40), 4);
        assert_eq!(machine(8, None).threads(2), 4);
        assert_eq!(machine(2, None).threads(4), 1);
    }
}
