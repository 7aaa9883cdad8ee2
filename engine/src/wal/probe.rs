//! A short measurement of the real directory: what a durable write costs, inline and through a thread.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::buffer::{AlignedBuf, BLOCK_BYTES};
use super::driver::{DurableFile, LogFiles};
use super::segment::Demand;

/// Time that each of the two measurements takes at most.
const EACH: Duration = Duration::from_millis(6);
const SAMPLES_MAX: usize = 1000;
const FILE_BYTES: u64 = 256 << 10;
const NAME: &str = "measure.tmp";
/// What was measured, as one line of text. A hint and no more: without it, or where it does not read as expected, the
/// directory is measured again.
const RECORD_NAME: &str = "measured";
const RECORD_BYTES_MAX: u64 = 4096;
/// The first words of the line.
const RECORD_KIND: &str = "ringd-wal-probe 1";

/// What was measured, for one block of 4 KiB. Zero where no write ended in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// Writes go past the page cache.
    pub direct: bool,
    pub inline_p50_ns: u64,
    pub inline_p999_ns: u64,
    pub thread_p50_ns: u64,
}

/// What is known of the directory: from a measurement of an earlier start on the same device, if `is_good` for the caller,
/// else measured now, and then recorded.
pub fn probe_once(files: &LogFiles, is_good: impl Fn(&Probe) -> bool) -> io::Result<Probe> {
    let device = fs::metadata(files.path())?.dev();
    let path = files.path().join(RECORD_NAME);
    if let Some(known) = read_record(&path, device).filter(&is_good) {
        return Ok(known);
    }
    let found = probe(files)?;
    // A record that cannot be written costs a measurement at the next start.
    let _ = fs::write(&path, found.record(device));
    Ok(found)
}

fn read_record(path: &Path, device: u64) -> Option<Probe> {
    let is_plausible = |m: &fs::Metadata| m.is_file() && m.len() <= RECORD_BYTES_MAX;
    fs::metadata(path).ok().filter(is_plausible)?;
    Probe::from_record(&fs::read_to_string(path).ok()?, device)
}

impl Probe {
    fn record(&self, device: u64) -> String {
        let mut line = format!("{RECORD_KIND} device {device}");
        for (name, number) in self.numbers() {
            // Writing to a string does not fail.
            let _ = write!(line, " {name} {number}");
        }
        line.push('\n');
        line
    }

    fn numbers(&self) -> [(&'static str, u64); 4] {
        [
            ("direct", u64::from(self.direct)),
            ("inline-p50-ns", self.inline_p50_ns),
            ("inline-p99.9-ns", self.inline_p999_ns),
            ("thread-p50-ns", self.thread_p50_ns),
        ]
    }

    fn from_record(line: &str, device: u64) -> Option<Probe> {
        let numbers = line.strip_prefix(RECORD_KIND)?;
        let numbers: Vec<u64> = numbers
            .split_ascii_whitespace()
            .skip(1)
            .step_by(2)
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        let &[_, direct, inline_p50_ns, inline_p999_ns, thread_p50_ns] = &numbers[..] else {
            return None;
        };
        let read = Probe {
            direct: direct == 1,
            inline_p50_ns,
            inline_p999_ns,
            thread_p50_ns,
        };
        // Names, order and device included.
        (read.record(device) == line).then_some(read)
    }
}

/// Measures the directory of `files`, for about 20 ms at most on a disk that answers. Blocks the calling thread.
pub fn probe(files: &LogFiles) -> io::Result<Probe> {
    let path = files.path().join(NAME);
    let measured = measure(files, &path);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => measured,
    }
}

fn measure(files: &LogFiles, path: &Path) -> io::Result<Probe> {
    let file = DurableFile::create(path, files.mode()?)?;
    file.fill(FILE_BYTES, &Demand::urgent(), &AtomicBool::new(false))?;
    let block = AlignedBuf::zeroed(BLOCK_BYTES);
    // The first write pays for what the fill has left to do.
    file.write_durable(block.as_slice(), 0)?;
    let write = |i: usize| {
        file.write_durable(
            block.as_slice(),
            (i as u64 * BLOCK_BYTES as u64) % FILE_BYTES,
        )
    };
    let inline = sample(write)?;
    let threaded = thread::scope(|scope| {
        let (ask, asked) = mpsc::sync_channel::<usize>(1);
        let (answer, answered) = mpsc::sync_channel(1);
        scope.spawn(move || {
            asked
                .into_iter()
                .try_for_each(|i| answer.send(write(i)).map_err(drop))
        });
        let gone = |_| io::Error::other("the measuring thread ended");
        let result = sample(|i| {
            ask.send(i).map_err(|_| gone(()))?;
            answered.recv().map_err(|_| gone(()))?
        });
        drop(ask);
        result
    })?;
    Ok(Probe {
        direct: files.is_direct(),
        inline_p50_ns: quantile(&inline, 500),
        inline_p999_ns: quantile(&inline, 999),
        thread_p50_ns: quantile(&threaded, 500),
    })
}

/// Durations in nanoseconds, sorted.
fn sample(mut write: impl FnMut(usize) -> io::Result<()>) -> io::Result<Vec<u64>> {
    let began = Instant::now();
    let mut out = Vec::with_capacity(SAMPLES_MAX);
    while out.len() < SAMPLES_MAX && began.elapsed() < EACH {
        let start = Instant::now();
        write(out.len())?;
        out.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    out.sort_unstable();
    Ok(out)
}

fn quantile(sorted: &[u64], thousandth: usize) -> u64 {
    let at = (sorted.len() * thousandth / 1000).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(0)
}
