//! Where and when: without it a figure says nothing.

use std::fs;
use std::thread;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::Result;

/// What figures depend on.
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) processor: String,
    pub(crate) kernel: String,
    pub(crate) date: String,
}

impl Machine {
    /// This one, now.
    pub(crate) fn here() -> Machine {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = line("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Machine {
            cores: thread::available_parallelism().map_or(1, |cores| cores.get()),
            processor: model.map_or("unknown processor", |(_, model)| model).trim().to_string(),
            kernel: line("/proc/sys/kernel/osrelease").trim().to_string(),
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "cores": self.cores, "processor": self.processor, "kernel": self.kernel })
    }
}

/// Lets this process and those it starts open many files, within what the system allows.
pub(crate) fn raise_file_limit() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard.min(FILES).max(soft), hard)?)
}

const FILES: u64 = 65_536;
