//! The layer under a server's files (`tests/shim/faults.c`): built on demand, steered while the server runs, and asked
//! after a kill to take back what was never flushed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rand::rngs::StdRng;
use rand::Rng as _;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::server::{cache_dir, temporary_dir, Setup};

/// Devices write whole sectors.
const SECTOR_BYTES: u64 = 512;
const HEAD_BYTES: usize = 49;

/// What a power cut takes of the writes that were not flushed.
pub enum Loss<'r> {
    Everything,
    /// A random half, sector by sector.
    Some(&'r mut StdRng),
}

pub struct Shim {
    library: PathBuf,
    /// Undo log, replaced files and the control file.
    side: TempDir,
    watched: PathBuf,
}

impl Shim {
    /// For the files below `watched`.
    pub fn new(watched: &Path) -> Self {
        let side = temporary_dir();
        fs::create_dir(side.path().join("files")).expect("a directory for replaced files");
        Self {
            library: library().to_owned(),
            side,
            watched: watched.to_owned(),
        }
    }

    fn log_path(&self) -> PathBuf {
        self.side.path().join("undo")
    }

    /// Each process that ran under this layer began a log of its own.
    fn log_paths(&self) -> Vec<PathBuf> {
        (0..)
            .map(|n| self.side.path().join(format!("undo.{n}")))
            .take_while(|path| path.exists())
            .collect()
    }

    fn control_path(&self) -> PathBuf {
        self.side.path().join("control")
    }

    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: PathBuf| path.to_str().expect("a UTF-8 path").to_owned();
        [
            ("LD_PRELOAD", text(self.library.clone())),
            ("RINGD_FAULT_DIR", text(self.watched.clone())),
            ("RINGD_FAULT_LOG", text(self.log_path())),
            ("RINGD_FAULT_SIDE", text(self.side.path().join("files"))),
            ("RINGD_FAULT_CONTROL", text(self.control_path())),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    /// The server under this layer. Only calls through the C library pass it, so the log must not use the ring.
    pub fn under(&self, setup: Setup) -> Setup {
        let setup = setup.flags(["--wal-io", "thread"]);
        let environment = self.environment();
        environment
            .iter()
            .fold(setup, |setup, (name, value)| setup.env(name, value))
    }

    /// From now on: `OPERATION ACTION ARGUMENT SKIP TIMES SUBSTRING`, as the layer's source describes.
    pub fn control(&self, line: &str) {
        let new = self.side.path().join("control.new");
        fs::write(&new, line).expect("the control file can be written");
        fs::rename(&new, self.control_path()).expect("the control file can be renamed");
    }

    /// No more disturbance.
    pub fn calm(&self) {
        let _ = fs::remove_file(self.control_path());
    }

    /// Takes back what was not flushed. The server must be dead; the next one starts a new log. Gives the number of
    /// changes taken back.
    pub fn power_cut(&self, mut loss: Loss) -> usize {
        let read = |path| fs::read(path).expect("a log can be read");
        let logs: Vec<Vec<u8>> = self.log_paths().into_iter().map(read).collect();
        let records: Vec<Record> = logs.iter().flat_map(|log| parse(log)).collect();
        let flushed = flushed(&records);
        let mut undo = Undo::default();
        for (index, record) in records.iter().enumerate().rev() {
            undo.record(record, flushed.contains(&index), &mut loss);
        }
        for path in undo.changed {
            if let Ok(file) = File::open(&path) {
                file.sync_all().expect("a restored file can be flushed");
            }
        }
        for path in self.log_paths() {
            fs::remove_file(path).expect("a log can be removed");
        }
        undo.count
    }
}

/// Compiles the layer once per target directory and source.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = include_bytes!("../shim/faults.c");
        let digest = Sha256::digest(source);
        let name: String = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
        let library = cache_dir().join(format!("faults-{name}.so"));
        if library.exists() {
            return library;
        }
        let place = temporary_dir();
        let (c, so) = (
            place.path().join("faults.c"),
            place.path().join("faults.so"),
        );
        fs::write(&c, source).expect("the source can be written");
        let status = Command::new("cc")
            .args(["-O2", "-shared", "-fPIC", "-pthread", "-o"])
            .args([&so, &c])
            .status()
            .expect("the tests need a C compiler named cc");
        assert!(status.success(), "the fault layer does not compile");
        // A rename, so that no other test ever loads half of it.
        fs::rename(&so, &library).expect("the layer can be renamed");
        library
    })
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Write,
    Done,
    Flush,
    Flushed,
    Resize,
    Create,
    Rename,
    Remove,
    Kept,
    Failed,
}

#[derive(Debug)]
struct Record<'l> {
    kind: Kind,
    seq: u64,
    x: u64,
    y: u64,
    z: u64,
    path: PathBuf,
    other: PathBuf,
    data: &'l [u8],
}

/// The log may end in the middle of a record: the kill came while it was written, and before the change itself.
fn parse(mut log: &[u8]) -> Vec<Record<'_>> {
    let mut records = Vec::new();
    while log.len() >= HEAD_BYTES {
        let u64_at = |at: usize| u64::from_le_bytes(log[at..at + 8].try_into().expect("8 bytes"));
        let u32_at = |at: usize| u32::from_le_bytes(log[at..at + 4].try_into().expect("4 bytes"));
        let lengths = [
            u32_at(33) as usize,
            u32_at(37) as usize,
            u64_at(41) as usize,
        ];
        if log.len() < HEAD_BYTES + lengths.iter().sum::<usize>() {
            break;
        }
        let (head, rest) = log.split_at(HEAD_BYTES);
        let (path, rest) = rest.split_at(lengths[0]);
        let (other, rest) = rest.split_at(lengths[1]);
        let (data, rest) = rest.split_at(lengths[2]);
        let path_of = |bytes: &[u8]| PathBuf::from(String::from_utf8_lossy(bytes).into_owned());
        records.push(Record {
            kind: match head[0] {
                1 => Kind::Write,
                2 => Kind::Done,
                3 => Kind::Flush,
                4 => Kind::Flushed,
                5 => Kind::Resize,
                6 => Kind::Create,
                7 => Kind::Rename,
                8 => Kind::Remove,
                9 => Kind::Kept,
                10 => Kind::Failed,
                other => panic!("record kind {other}"),
            },
            seq: u64_at(1),
            x: u64_at(9),
            y: u64_at(17),
            z: u64_at(25),
            path: path_of(path),
            other: path_of(other),
            data,
        });
        log = rest;
    }
    let failed: BTreeSet<u64> = records
        .iter()
        .filter(|r| r.kind == Kind::Failed)
        .map(|r| r.seq)
        .collect();
    records.retain(|r| !failed.contains(&r.seq));
    records
}

/// The changes that a later flush made durable: of a file's content by a flush of the file, of names by one of their
/// directory. A write counts only if it had returned when the flush began.
fn flushed(records: &[Record]) -> BTreeSet<usize> {
    let mut durable = BTreeSet::new();
    let mut waiting: BTreeMap<PathBuf, Vec<usize>> = BTreeMap::new();
    let mut running: BTreeMap<u64, usize> = BTreeMap::new();
    let mut flushing: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (index, record) in records.iter().enumerate() {
        let parent = || record.path.parent().unwrap_or(Path::new("/")).to_owned();
        match record.kind {
            Kind::Write => {
                running.insert(record.seq, index);
            }
            Kind::Done => {
                if let Some(write) = running.remove(&record.seq) {
                    let path = records[write].path.clone();
                    waiting.entry(path).or_default().push(write);
                }
            }
            Kind::Resize => waiting.entry(record.path.clone()).or_default().push(index),
            Kind::Create | Kind::Remove => waiting.entry(parent()).or_default().push(index),
            Kind::Rename => {
                waiting.entry(parent()).or_default().push(index);
                // Unflushed content goes with the file to its new name.
                if let Some(content) = waiting.remove(&record.path) {
                    waiting.insert(record.other.clone(), content);
                }
            }
            Kind::Flush => {
                let covered = waiting.get(&record.path).cloned().unwrap_or_default();
                flushing.insert(record.seq, covered);
            }
            Kind::Flushed => durable.extend(flushing.remove(&record.seq).unwrap_or_default()),
            Kind::Kept | Kind::Failed => {}
        }
    }
    durable
}

/// Walks the log backwards.
#[derive(Default)]
struct Undo {
    /// Where a file of the log is now, if a rename stayed.
    moved: BTreeMap<PathBuf, PathBuf>,
    /// Ranges of files that later changes own.
    owned: BTreeMap<PathBuf, Vec<(u64, u64)>>,
    changed: BTreeSet<PathBuf>,
    count: usize,
}

impl Undo {
    fn here(&self, path: &Path) -> PathBuf {
        self.moved.get(path).cloned().unwrap_or(path.to_owned())
    }

    fn own(&mut self, path: &Path, from: u64, to: u64) {
        self.owned
            .entry(path.to_owned())
            .or_default()
            .push((from, to));
    }

    /// The parts of a range that no later change owns.
    fn free(&self, path: &Path, from: u64, to: u64) -> Vec<(u64, u64)> {
        let mut free = vec![(from, to)];
        for (start, end) in self.owned.get(path).map_or(&[][..], Vec::as_slice) {
            if *start < to && from < *end {
                let cut = |(a, b): (u64, u64)| [(a, b.min(*start)), (a.max(*end), b)];
                free = free.into_iter().flat_map(cut).collect();
                free.retain(|(a, b)| a < b);
            }
        }
        free
    }

    /// How long the file must stay for the sake of what is kept.
    fn owned_end(&self, path: &Path) -> u64 {
        let ranges = self.owned.get(path).map_or(&[][..], Vec::as_slice);
        ranges.iter().map(|(_, to)| *to).max().unwrap_or(0)
    }

    fn record(&mut self, record: &Record, durable: bool, loss: &mut Loss) {
        let path = self.here(&record.path);
        let kept = |loss: &mut Loss| match loss {
            _ if durable => true,
            Loss::Everything => false,
            Loss::Some(rng) => rng.random(),
        };
        match record.kind {
            Kind::Kept => self.own(&path, record.x, record.x + record.y),
            Kind::Write => {
                let end = record.x + record.y;
                let whole = durable || matches!(loss, Loss::Everything);
                let mut from = record.x;
                while from < end {
                    let sector_end = (from / SECTOR_BYTES + 1) * SECTOR_BYTES;
                    let to = if whole { end } else { end.min(sector_end) };
                    if kept(loss) {
                        self.own(&path, from, to);
                    } else {
                        self.restore(&path, record, from, to);
                    }
                    from = to;
                }
                self.shrink(&path, record.z, end);
            }
            Kind::Resize if kept(loss) => self.own(&path, record.y.saturating_sub(1), record.y),
            Kind::Resize => {
                self.count += 1;
                if record.y > record.x {
                    self.shrink(&path, record.x, record.y);
                } else {
                    self.restore_cut(&path, record);
                }
            }
            Kind::Create if !kept(loss) => {
                self.count += 1;
                let _ = fs::remove_file(&path);
            }
            Kind::Rename => self.rename(record, kept(loss)),
            Kind::Remove if !kept(loss) => {
                self.count += 1;
                let aside = PathBuf::from(String::from_utf8_lossy(record.data).into_owned());
                let _ = fs::rename(aside, &path);
            }
            _ => {}
        }
    }

    fn rename(&mut self, record: &Record, kept: bool) {
        let to = self.here(&record.other);
        if kept {
            self.moved.insert(record.path.clone(), to);
            // What had that name before is gone; its earlier changes have nowhere to go.
            self.moved
                .insert(record.other.clone(), PathBuf::from("/nonexistent"));
            return;
        }
        self.count += 1;
        let _ = fs::rename(&to, &record.path);
        if let Some(owned) = self.owned.remove(&to) {
            self.owned.insert(record.path.clone(), owned);
        }
        if !record.data.is_empty() {
            let aside = PathBuf::from(String::from_utf8_lossy(record.data).into_owned());
            let _ = fs::rename(aside, &to);
        }
    }

    /// Puts the old bytes back where no later change owns the place.
    fn restore(&mut self, path: &Path, record: &Record, from: u64, to: u64) {
        let Ok(file) = OpenOptions::new().write(true).open(path) else {
            return;
        };
        self.count += 1;
        self.changed.insert(path.to_owned());
        for (a, b) in self.free(path, from, to) {
            // What lay beyond the old end has no old bytes; the length is restored apart.
            let old_end = record.x + record.data.len() as u64;
            let b = b.min(old_end);
            if a < b {
                let old = &record.data[(a - record.x) as usize..(b - record.x) as usize];
                file.write_all_at(old, a).expect("old bytes fit");
            }
        }
    }

    fn restore_cut(&mut self, path: &Path, record: &Record) {
        if let Ok(file) = OpenOptions::new().write(true).open(path) {
            file.set_len(record.x).expect("the old length fits");
            file.write_all_at(record.data, record.y)
                .expect("the old end fits");
            self.changed.insert(path.to_owned());
        }
    }

    /// The file was `before` long and grew to at least `after`.
    fn shrink(&mut self, path: &Path, before: u64, after: u64) {
        let length = before.max(self.owned_end(path));
        let Ok(file) = OpenOptions::new().write(true).open(path) else {
            return;
        };
        let now = file.metadata().map_or(0, |m| m.len());
        if before < after && now == after && length < now {
            file.set_len(length).expect("a file can be cut");
            self.changed.insert(path.to_owned());
        }
    }
}
