//! What the system knows of this process.

use std::fs;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::sys::time::TimeValLike;

/// Numbers of the whole process. What the system does not tell is left out.
#[derive(Debug, Default)]
pub(crate) struct Process {
    /// Processor time, user and system, in microseconds.
    pub(crate) cpu: Option<u64>,
    /// Resident memory, in bytes.
    pub(crate) resident: Option<u64>,
    /// Open file descriptors.
    pub(crate) open_files: Option<u64>,
    /// Most of them that there may be.
    pub(crate) most_files: Option<u64>,
}

impl Process {
    pub(crate) fn now() -> Process {
        let cpu = getrusage(UsageWho::RUSAGE_SELF).ok().map(|usage| {
            let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
            micros.try_into().unwrap_or(0)
        });
        Process {
            cpu,
            resident: resident(),
            open_files: open_files(),
            most_files: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
        }
    }
}

fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes << 10)
}

/// Since Linux 6.2 the size of the directory is their number; before, they have to be counted.
fn open_files() -> Option<u64> {
    const DIR: &str = "/proc/self/fd";
    let size = fs::metadata(DIR).ok()?.len();
    if size > 0 { Some(size) } else { Some(fs::read_dir(DIR).ok()?.count() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_them_all() {
        let now = Process::now();
        assert!(now.cpu.is_some() && now.resident.is_some_and(|bytes| bytes > 100_000), "{now:?}");
        assert!(now.open_files.is_some_and(|count| count >= 3) && now.most_files > now.open_files, "{now:?}");
    }
}
