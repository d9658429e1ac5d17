//! What the system says of this process.

use std::fs;
use std::io;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// What Prometheus' own clients give of a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Process {
    /// Time on processors.
    pub cpu_seconds: f64,
    /// Memory in use.
    pub resident_bytes: u64,
    /// Address space in use.
    pub virtual_bytes: u64,
    /// Descriptors in use.
    pub open_descriptors: usize,
    /// How many there may be; `None` for as many as the system has.
    pub descriptors_max: Option<u64>,
}

impl Process {
    /// Asks the system. Blocks for as long as it takes to count the descriptors.
    pub fn read() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        // One of them is the folder's own.
        let open_descriptors = fs::read_dir("/proc/self/fd")?.count().saturating_sub(1);
        Ok(Self {
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            resident_bytes: bytes(&status, "VmRSS:"),
            virtual_bytes: bytes(&status, "VmSize:"),
            open_descriptors,
            descriptors_max: getrlimit(Resource::Nofile).current,
        })
    }
}

/// The value behind `name`, which is in KiB there.
fn bytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    value.unwrap_or(0_u64) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_there() {
        let process = Process::read().unwrap();
        assert!(process.cpu_seconds > 0.0 && process.open_descriptors >= 3);
        assert!(process.resident_bytes > 1 << 20);
        assert!(process.virtual_bytes >= process.resident_bytes);
    }
}
