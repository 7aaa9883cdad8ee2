//! What the kernel says of processes and devices: CPU time, memory, writes, flushes.

use std::{fs, io, path::Path, time::Duration};

/// Kernel ticks per second in `/proc`; fixed on Linux.
const TICKS_PER_SECOND: u64 = 100;
const SECTOR_BYTES: u64 = 512;

/// Counters of a process and of the device that its data lies on, at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    pub cpu: Duration,
    /// Resident bytes: all, and without file mappings.
    pub rss_bytes: u64,
    pub rss_anonymous_bytes: u64,
    pub write_bytes: u64,
    pub device_writes: u64,
    pub device_flushes: u64,
    pub device_bytes: u64,
}

pub fn own_cpu() -> Duration {
    cpu_of("self").unwrap_or_default()
}

fn cpu_of(pid: &str) -> io::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks: u64 = [11, 12]
        .iter()
        .filter_map(|at| fields.get(*at)?.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

fn field_kib(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// Reads the counters of process `pid`, whose data lies below `data`.
pub fn sample(pid: u32, data: &Path) -> io::Result<Sample> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    let device = device_stat(data).unwrap_or_default();
    let number = |at: usize| device.get(at).copied().unwrap_or(0);
    Ok(Sample {
        cpu: cpu_of(&pid.to_string())?,
        rss_bytes: field_kib(&status, "VmRSS:"),
        rss_anonymous_bytes: field_kib(&status, "RssAnon:"),
        write_bytes: io
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes: ")?.parse().ok())
            .unwrap_or(0),
        device_writes: number(4),
        device_bytes: number(6) * SECTOR_BYTES,
        device_flushes: number(15),
    })
}

/// The counters of `/sys/dev/block/<device>/stat` for the device below a path.
fn device_stat(data: &Path) -> io::Result<Vec<u64>> {
    use std::os::linux::fs::MetadataExt;
    let device = fs::metadata(data)?.st_dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let text = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat"))?;
    Ok(text
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect())
}

impl Sample {
    /// What happened since an earlier sample; memory is the present one.
    pub fn since(&self, earlier: &Sample) -> Sample {
        Sample {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            write_bytes: self.write_bytes - earlier.write_bytes,
            device_writes: self.device_writes - earlier.device_writes,
            device_flushes: self.device_flushes - earlier.device_flushes,
            device_bytes: self.device_bytes - earlier.device_bytes,
            ..*self
        }
    }
}
