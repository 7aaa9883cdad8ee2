//! The floor: what one durable write costs on the bare device.

use hdrhistogram::Histogram;
use std::{
    error::Error,
    fs::OpenOptions,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    time::Instant,
};

const BLOCK_BYTES: usize = 4096;
const FILE_BLOCKS: u64 = 4096;

/// Latencies of direct, durable 4 KiB overwrites of a file that was written through before, in nanoseconds.
pub fn durable_writes(dir: &Path, writes: usize) -> Result<Histogram<u64>, Box<dyn Error>> {
    let file = tempfile::NamedTempFile::new_in(dir)?;
    let fill = vec![0x5a; BLOCK_BYTES * 256];
    for part in 0..FILE_BLOCKS / 256 {
        file.as_file()
            .write_all_at(&fill, part * fill.len() as u64)?;
    }
    file.as_file().sync_all()?;
    let direct = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
        .open(file.path())?;
    // Direct I/O wants an aligned buffer: take an aligned window of a larger one.
    let space = vec![0x5a; BLOCK_BYTES * 2];
    let skip = space.as_ptr().align_offset(BLOCK_BYTES);
    let block = &space[skip..skip + BLOCK_BYTES];
    let mut latency = Histogram::new_with_bounds(1, 60_000_000_000, 3)?;
    for number in 0..writes {
        let begun = Instant::now();
        direct.write_all_at(block, (number as u64 % FILE_BLOCKS) * BLOCK_BYTES as u64)?;
        latency.saturating_record(begun.elapsed().as_nanos() as u64);
    }
    Ok(latency)
}
