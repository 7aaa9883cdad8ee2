//! Opening a page file: which of the two meta pages can be trusted.

use super::{
    bytes_of,
    index::{Index, Written},
    meta::{self, MetaFault},
    Completed, Meta,
};
use crate::page::{
    AlignedBuf, Header, Kind, OpenError, Options, PageFile, Pages, Space, HEADER_BYTES, META_PAGES,
    PAGE_BYTES,
};
use std::{
    io,
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    },
};

/// Bytes read from the device at a time while checking.
const CHECK_BYTES: usize = 1 << 20;
/// Fewer runs are not worth a thread.
const RUNS_PER_THREAD_MIN: usize = 32;
const META_BYTES: u64 = META_PAGES as u64 * PAGE_BYTES as u64;

/// A page file that is ready.
pub struct Opened {
    pub pages: Pages,
    /// None if the file has never had a checkpoint.
    pub meta: Option<Meta>,
    pub report: OpenReport,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    pub checkpoint: u64,
    /// Pages of the last checkpoint that were read back from the device.
    pub verified_pages: u64,
    /// Why the newer meta page was not taken, if it was not. The log holds what it had.
    pub fell_back: Option<String>,
}

impl Pages {
    /// Opens a page file, reading both meta pages and the last checkpoint's pages from the device. Waits for it: to be called
    /// at start only.
    pub fn open(file: Arc<dyn PageFile>, options: Options) -> Result<Opened, OpenError> {
        let failed = |during, error| OpenError::Io {
            file: file.name(),
            during,
            error,
        };
        let mut len = file.len().map_err(|e| failed("reading the length", e))?;
        let mut metas = read_metas(&*file).map_err(|e| failed("reading the meta pages", e))?;
        if options.create && !file.is_created_whole() && is_unfinished(len, &metas) {
            lay_out(&*file).map_err(|e| failed("laying out the file", e))?;
            len = META_BYTES;
            metas = read_metas(&*file).map_err(|e| failed("reading the meta pages", e))?;
        }
        let chosen = choose(&*file, len, metas)?;
        let generation = chosen.number_max + 1;
        let completed = chosen.completed;
        let space = Space::restore(
            completed.high,
            &chosen.index.free,
            chosen.index.retired,
            completed.number,
        );
        let report = OpenReport {
            checkpoint: completed.number,
            verified_pages: chosen.verified_pages,
            fell_back: chosen.fell_back,
        };
        let shape = crate::tree::check_shape;
        let pages = Pages::assemble(file, options, generation, completed, space, shape, false);
        let meta = (report.checkpoint > 0).then(|| pages.meta());
        Ok(Opened {
            pages,
            meta,
            report,
        })
    }
}

type MetaRead = Result<(Completed, u32), MetaFault>;

fn read_metas(file: &dyn PageFile) -> io::Result<[MetaRead; 2]> {
    let read = |slot: u32| {
        let mut buf = AlignedBuf::zeroed(PAGE_BYTES);
        Ok::<_, io::Error>(
            match file.read_at_direct(u64::from(slot) * PAGE_BYTES as u64, &mut buf) {
                Ok(n) => meta::decode(&buf[..n], slot),
                Err(e) => Err(MetaFault::Damaged(format!("it cannot be read: {e}"))),
            },
        )
    };
    Ok([read(0)?, read(1)?])
}

/// Nothing but what an interrupted [`lay_out`] leaves.
fn is_unfinished(len: u64, metas: &[MetaRead; 2]) -> bool {
    let had_checkpoint = metas.iter().flatten().any(|(m, _)| m.number > 0);
    let is_complete = metas.iter().all(|m| m.is_ok());
    len <= META_BYTES && !had_checkpoint && !is_complete
}

fn lay_out(file: &dyn PageFile) -> io::Result<()> {
    for slot in 0..META_PAGES {
        let page = meta::blank_meta_page(slot);
        file.write_meta(u64::from(slot) * PAGE_BYTES as u64, &page)?;
    }
    file.flush()
}

struct Chosen {
    completed: Completed,
    index: Index,
    number_max: u64,
    verified_pages: u64,
    fell_back: Option<String>,
}

fn choose(file: &dyn PageFile, len: u64, metas: [MetaRead; 2]) -> Result<Chosen, OpenError> {
    let mut reasons = [String::new(), String::new()];
    let mut found = Vec::new();
    for (slot, meta) in metas.into_iter().enumerate() {
        match meta {
            Ok(meta) => found.push(meta),
            Err(MetaFault::Damaged(why)) => reasons[slot] = why,
            Err(MetaFault::Unknown(why)) => {
                let file = file.name();
                return Err(OpenError::Unknown { file, why });
            }
        }
    }
    if len < META_BYTES {
        let file = file.name();
        return Err(OpenError::NotThere { file, len });
    }
    found.sort_by_key(|(meta, _)| std::cmp::Reverse(meta.number));
    let number_max = found.first().map_or(0, |(meta, _)| meta.number);
    for (completed, index_crc) in found {
        let needed = u64::from(completed.high) * PAGE_BYTES as u64;
        // A cut file is not something that the older meta page heals: it may reach beyond the cut as well.
        if len < needed {
            let file = file.name();
            return Err(OpenError::Truncated { file, len, needed });
        }
        match verify(file, &completed, index_crc) {
            Ok((index, verified_pages)) => {
                let fell_back = reasons.into_iter().find(|r| !r.is_empty());
                return Ok(Chosen {
                    // The other slot is written next, so it must be the one that failed.
                    completed,
                    index,
                    number_max,
                    verified_pages,
                    fell_back,
                });
            }
            Err(why) => reasons[completed.slot as usize] = why,
        }
    }
    Err(OpenError::NoMeta {
        file: file.name(),
        reasons,
    })
}

/// Reads what the checkpoint wrote back from the device.
fn verify(
    file: &dyn PageFile,
    completed: &Completed,
    index_crc: u32,
) -> Result<(Index, u64), String> {
    let extent = completed.index;
    if extent.pages == 0 {
        return Ok((Index::default(), 0));
    }
    let mut bytes = Vec::with_capacity(bytes_of(extent));
    read_extent(file, extent, |chunk| bytes.extend_from_slice(chunk))?;
    let at = format!("its index at offset {}", extent.start.offset());
    if crc32fast::hash(&bytes) != index_crc {
        return Err(format!("{at} is damaged: the checksum does not match"));
    }
    let header = Header::of_bytes(&bytes);
    let payload = HEADER_BYTES..HEADER_BYTES + header.payload_len() as usize;
    let payload = match (header.kind(), bytes.get(payload)) {
        (Some(Kind::Index), Some(payload)) => payload,
        _ => return Err(format!("{at} is not an index")),
    };
    let index = Index::decode(payload, completed.high).map_err(|why| format!("{at}: {why}"))?;
    verify_runs(file, &index.written)?;
    let pages = index.written.iter().map(|run| u64::from(run.extent.pages));
    let verified_pages = pages.sum();
    Ok((index, verified_pages))
}

/// Verifies all runs, several at a time where the file allows it: a checkpoint of scattered pages is thousands of small
/// reads, and each alone would wait for the device.
fn verify_runs(file: &dyn PageFile, runs: &[Written]) -> Result<(), String> {
    let next = AtomicUsize::new(0);
    let verify_some = || {
        while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            verify_run(file, run)?;
        }
        Ok(())
    };
    let threads = file.parallel_reads().min(runs.len() / RUNS_PER_THREAD_MIN);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads)
            .filter_map(|_| {
                let thread = std::thread::Builder::new().name("verify".into());
                thread.spawn_scoped(scope, verify_some).ok()
            })
            .collect();
        let mut result = verify_some();
        for other in others {
            let verified = other.join();
            result = result.and(verified.unwrap_or(Err("a verifying thread panicked".into())));
        }
        result
    })
}

fn verify_run(file: &dyn PageFile, run: &Written) -> Result<(), String> {
    let mut hasher = crc32fast::Hasher::new();
    read_extent(file, run.extent, |chunk| hasher.update(chunk))?;
    if hasher.finalize() == run.crc {
        return Ok(());
    }
    let (start, pages) = (run.extent.start, run.extent.pages);
    let offset = start.offset();
    Err(format!(
        "the {pages} pages that it wrote at offset {offset} are damaged: the checksum does not match"
    ))
}

fn read_extent(
    file: &dyn PageFile,
    extent: crate::page::Extent,
    mut each: impl FnMut(&[u8]),
) -> Result<(), String> {
    let end = extent.start.offset() + bytes_of(extent) as u64;
    let mut at = extent.start.offset();
    while at < end {
        let count = (end - at).min(CHECK_BYTES as u64) as usize;
        let mut buf = AlignedBuf::zeroed(count);
        match file.read_at_direct(at, &mut buf) {
            Ok(n) if n == count => each(&buf),
            Ok(n) => return Err(format!("the file ends at offset {}", at + n as u64)),
            Err(e) => return Err(format!("reading at offset {at} failed: {e}")),
        }
        at += count as u64;
    }
    Ok(())
}
