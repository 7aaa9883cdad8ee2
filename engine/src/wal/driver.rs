//! The log on real files: durable direct writes, direct reads, and the changes of the directory.
//!
//! Everything goes through the C library's functions, one call per operation, so that a fault shim below them sees all.

#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::buffer::{AlignedBuf, BLOCK_BYTES};
use super::dir::{LogDir, SegmentFile};
use super::segment::{Demand, FileOp, FileOpKind};
use super::writer::{is_disk_full, Write};
use super::SegmentId;
use crate::faults::{self, Point};

/// Written at once while a segment is filled with zeros, in bytes. A write of the log that comes meanwhile waits for it, so
/// this is little while the filling keeps step...
const FILL_CHUNK_BYTES: usize = 64 << 10;
/// ...and much when the log waits for it, or it is [`FILL_FAR_BEHIND_BYTES`] behind.
const FILL_CHUNK_BYTES_MAX: usize = 256 << 10;
const FILL_FAR_BEHIND_BYTES: u64 = 4 << 20;
/// Pause between two looks at how far the log has come, and between two chunks of a filling that is behind.
const FILL_PAUSE: Duration = Duration::from_millis(4);
const FILL_PAUSE_BEHIND: Duration = Duration::from_millis(1);
/// An idle log makes its segment all the same, one chunk in so many pauses: 4 MB/s.
const FILL_IDLE_PAUSES: u32 = 4;
const TEMPORARY: &str = "tmp";
const PROBE_NAME: &str = "probe.tmp";

/// How a file of this directory is written durably: found out once, at [`LogFiles::open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode {
    /// The file system accepts `O_DIRECT`.
    pub direct: bool,
    /// It accepts `RWF_DSYNC`; otherwise each write is followed by `fdatasync`.
    pub dsync: bool,
}

/// A file that is written durably, block by block.
pub(super) struct DurableFile {
    file: File,
    mode: Mode,
}

fn open_file(path: &Path, direct: bool, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create_new(create)
        .mode(0o600);
    if direct {
        options.custom_flags(libc::O_DIRECT);
    }
    options.open(path)
}

impl DurableFile {
    pub fn open(path: &Path, mode: Mode) -> io::Result<DurableFile> {
        Ok(DurableFile {
            file: open_file(path, mode.direct, false)?,
            mode,
        })
    }

    /// For a reader that changes nothing; `O_DIRECT` where the file system takes it.
    fn open_read_only(path: &Path) -> io::Result<DurableFile> {
        let open = |flags| OpenOptions::new().read(true).custom_flags(flags).open(path);
        let (file, direct) = match open(libc::O_DIRECT) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => (open(0)?, false),
            opened => (opened?, true),
        };
        Ok(DurableFile {
            file,
            mode: Mode {
                direct,
                dsync: false,
            },
        })
    }

    pub fn create(path: &Path, mode: Mode) -> io::Result<DurableFile> {
        Ok(DurableFile {
            file: open_file(path, mode.direct, true)?,
            mode,
        })
    }

    /// Writes `bytes` and returns once they would survive a power loss. Nothing is retried but an interrupted call.
    pub fn write_durable(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if !self.mode.dsync {
            self.file.write_all_at(bytes, offset)?;
            return self.file.sync_data();
        }
        let mut done = 0;
        while done < bytes.len() {
            match self.write_dsync(&bytes[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_dsync(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let part = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        // SAFETY: the descriptor is open for the length of the call (`self.file`), `part` describes one readable slice that
        // outlives the call, and the call only reads it.
        let written =
            unsafe { libc::pwritev2(self.file.as_raw_fd(), &part, 1, offset, libc::RWF_DSYNC) };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    /// Reads until `buf` is full or the file ends. With `O_DIRECT` everything must be aligned.
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => {
                    done += read;
                    // A length that is no whole block is the end of the file; going on from there would be misaligned.
                    if read % BLOCK_BYTES != 0 {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Reserves the space in one piece where the file system can; writing zeros does it otherwise.
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let len = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: a plain call on a descriptor that is open for its length.
        let result = unsafe { libc::fallocate(self.file.as_raw_fd(), 0, 0, len) };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINTR) => Ok(()),
            _ => Err(error),
        }
    }

    /// Writes zeros through the whole length once, so that later writes change no metadata of the file system. Keeps step
    /// with the log that will want the file; gives up once `abandoned`.
    pub fn fill(&self, bytes: u64, demand: &Demand, abandoned: &AtomicBool) -> io::Result<()> {
        self.reserve(bytes)?;
        let zeros = AlignedBuf::zeroed(FILL_CHUNK_BYTES_MAX);
        let mut at = 0;
        let mut idle = 0;
        while at < bytes {
            if abandoned.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let behind = (bytes / 1000 * demand.thousandths()).saturating_sub(at);
            let hurries = demand.is_urgent() || behind >= FILL_FAR_BEHIND_BYTES;
            if !hurries {
                let is_behind = behind >= FILL_CHUNK_BYTES as u64;
                thread::sleep(match is_behind {
                    true => FILL_PAUSE_BEHIND,
                    false => FILL_PAUSE,
                });
                idle += 1;
                if !is_behind && idle < FILL_IDLE_PAUSES {
                    continue;
                }
            }
            idle = 0;
            let chunk = match hurries {
                true => FILL_CHUNK_BYTES_MAX,
                false => FILL_CHUNK_BYTES,
            };
            let len = (bytes - at).min(chunk as u64);
            self.file
                .write_all_at(&zeros.as_slice()[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }

    /// Flushes the file and, where it is not read directly, drops it from the page cache: what is read afterwards comes
    /// from the device (P4).
    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()?;
        if !self.mode.direct {
            // SAFETY: a plain call on a descriptor that is open for its length; it is advice and changes no content.
            unsafe { libc::posix_fadvise(self.file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        }
        Ok(())
    }
}

/// The log's directory.
pub struct LogFiles {
    path: PathBuf,
    directory: File,
    /// `None`: only to be read.
    mode: Option<Mode>,
    open: Mutex<BTreeMap<SegmentId, Arc<DurableFile>>>,
    /// No segment is wanted any more.
    abandoned: AtomicBool,
}

impl LogFiles {
    /// Opens the directory, makes it if it is not there, removes what an interrupted preparation left, and finds out how
    /// its files can be written.
    pub fn open(path: &Path) -> io::Result<LogFiles> {
        if !path.is_dir() {
            fs::create_dir_all(path)?;
            if let Some(parent) = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
            {
                File::open(parent)?.sync_all()?;
            }
        }
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == TEMPORARY)
            {
                fs::remove_file(path)?;
            }
        }
        let directory = File::open(path)?;
        let mode = Some(find_mode(path)?);
        Ok(LogFiles {
            path: path.to_path_buf(),
            directory,
            mode,
            open: Mutex::default(),
            abandoned: AtomicBool::new(false),
        })
    }

    /// Opens the directory for a tool that only looks: nothing in it is changed.
    pub fn open_read_only(path: &Path) -> io::Result<LogFiles> {
        let directory = File::open(path)?;
        Ok(LogFiles {
            path: path.to_path_buf(),
            directory,
            mode: None,
            open: Mutex::default(),
            abandoned: AtomicBool::new(false),
        })
    }

    /// Whether writes and reads go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.mode.is_some_and(|mode| mode.direct)
    }

    /// How files are written, or the refusal to.
    pub(super) fn mode(&self) -> io::Result<Mode> {
        self.mode.ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::ReadOnlyFilesystem,
                "the log was opened to be read only",
            )
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a segment is, for a driver that does its writes itself.
    pub fn path_of(&self, segment: SegmentId) -> PathBuf {
        self.segment_path(segment)
    }

    /// Has a segment that is being made given up: the process ends.
    pub fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    /// Carries out a write of the log in the calling thread; returns once it is durable.
    pub fn write_inline(&self, write: &Write) -> io::Result<()> {
        faults::meet(Point::LogWrite)?;
        self.file(write.segment)?
            .write_durable(write.buf.as_slice(), write.offset)?;
        faults::meet(Point::LogFlush)
    }

    /// Carries out a file operation; for a thread that may block. If it fails, a temporary file may be left, which the
    /// next [`LogFiles::open`] removes; one that found the file system full removes it itself.
    pub fn run(&self, op: &FileOp) -> io::Result<()> {
        faults::meet(Point::LogFile)?;
        match &op.kind {
            FileOpKind::Prepare {
                segment,
                recycle: Some(old),
                header,
                ..
            } => self.recycle(*segment, *old, header),
            FileOpKind::Prepare {
                segment,
                recycle: None,
                bytes,
                header,
                demand,
            } => {
                let temporary = self.temporary(*segment);
                let made = self.create(*segment, &temporary, *bytes, header, demand);
                if made.is_err() {
                    // The error that is reported is the first one.
                    let _ = fs::remove_file(&temporary);
                }
                made
            }
            FileOpKind::Remove { segment } => {
                self.mode()?;
                fs::remove_file(self.segment_path(*segment))?;
                // A reader may have opened it until then; the space comes back with the last handle.
                self.opened().remove(segment);
                self.directory.sync_all()
            }
        }
    }

    /// Moves all segments into a new directory of this name beside them, durably. An interrupted move leaves some here.
    pub fn set_aside(&self, name: &str) -> io::Result<PathBuf> {
        self.mode()?;
        let aside = self.path.join(name);
        fs::create_dir(&aside)?;
        self.opened().clear();
        for file in self.segments()? {
            fs::rename(self.segment_path(file.id), aside.join(file.id.file_name()))?;
        }
        File::open(&aside)?.sync_all()?;
        self.directory.sync_all()?;
        Ok(aside)
    }

    fn create(
        &self,
        id: SegmentId,
        temporary: &Path,
        bytes: u64,
        header: &AlignedBuf,
        demand: &Demand,
    ) -> io::Result<()> {
        match fs::remove_file(temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = DurableFile::create(temporary, self.mode()?)?;
        file.fill(bytes, demand, &self.abandoned)?;
        self.finish(id, temporary, file, header)
    }

    fn recycle(&self, id: SegmentId, old: SegmentId, header: &AlignedBuf) -> io::Result<()> {
        let mode = self.mode()?;
        let temporary = self.temporary(id);
        fs::rename(self.segment_path(old), &temporary)?;
        self.opened().remove(&old);
        // The old name must be gone for good before the content changes under it.
        self.directory.sync_all()?;
        let file = DurableFile::open(&temporary, mode)?;
        self.finish(id, &temporary, file, header)
    }

    /// Header, flush, name, flush of the directory (P7).
    fn finish(
        &self,
        id: SegmentId,
        temporary: &Path,
        file: DurableFile,
        header: &AlignedBuf,
    ) -> io::Result<()> {
        file.write_durable(header.as_slice(), 0)?;
        file.file.sync_all()?;
        fs::rename(temporary, self.segment_path(id))?;
        self.directory.sync_all()?;
        self.opened().insert(id, Arc::new(file));
        Ok(())
    }

    fn segment_path(&self, id: SegmentId) -> PathBuf {
        self.path.join(id.file_name())
    }

    fn temporary(&self, id: SegmentId) -> PathBuf {
        self.segment_path(id).with_extension(TEMPORARY)
    }

    fn opened(&self) -> MutexGuard<'_, BTreeMap<SegmentId, Arc<DurableFile>>> {
        // The map is whole after a panic elsewhere: every change is one call.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open file of a segment. The lock is not held while a file is opened for the first time.
    fn file(&self, id: SegmentId) -> io::Result<Arc<DurableFile>> {
        if let Some(file) = self.opened().get(&id) {
            return Ok(Arc::clone(file));
        }
        let path = self.segment_path(id);
        let file = match self.mode {
            Some(mode) => DurableFile::open(&path, mode)?,
            None => DurableFile::open_read_only(&path)?,
        };
        let file = Arc::new(file);
        Ok(Arc::clone(self.opened().entry(id).or_insert(file)))
    }
}

impl LogDir for LogFiles {
    fn segments(&self) -> io::Result<Vec<SegmentFile>> {
        let mut out = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(SegmentId::from_file_name)
            {
                out.push(SegmentFile {
                    id,
                    bytes: entry.metadata()?.len(),
                });
            }
        }
        Ok(out)
    }

    fn read_at(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        faults::meet(Point::LogRead)?;
        let file = self.file(segment)?;
        let aligned = buf.as_ptr() as usize % BLOCK_BYTES == 0 && buf.len() % BLOCK_BYTES == 0;
        if aligned || !file.mode.direct {
            return file.read(buf, offset);
        }
        let mut bounce = AlignedBuf::zeroed(buf.len().div_ceil(BLOCK_BYTES) * BLOCK_BYTES);
        let read = file.read(bounce.as_mut_slice(), offset)?.min(buf.len());
        buf[..read].copy_from_slice(&bounce.as_slice()[..read]);
        Ok(read)
    }

    fn flush(&self, segment: SegmentId) -> io::Result<()> {
        match self.mode {
            Some(_) => self.file(segment)?.flush(),
            None => Ok(()),
        }
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn name(&self, segment: SegmentId) -> String {
        self.segment_path(segment).display().to_string()
    }
}

/// Tries direct and durable writes on a file of the directory itself: what is refused differs by file system and kernel.
fn find_mode(directory: &Path) -> io::Result<Mode> {
    let path = directory.join(PROBE_NAME);
    let found = try_modes(&path);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ if found.as_ref().is_err_and(is_disk_full) => Ok(cautious_mode(directory)),
        _ => found,
    }
}

/// Without room for a file to try it on: reads as the segments that are there allow, and flushes that any file knows.
fn cautious_mode(directory: &Path) -> Mode {
    let segment = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut segment = segment.filter(|entry| {
        let name = entry.file_name();
        name.to_str().and_then(SegmentId::from_file_name).is_some()
    });
    let direct = segment
        .next()
        .is_some_and(|entry| open_file(&entry.path(), true, false).is_ok());
    Mode {
        direct,
        dsync: false,
    }
}

fn try_modes(path: &Path) -> io::Result<Mode> {
    drop(open_file(path, false, true)?);
    let block = AlignedBuf::zeroed(BLOCK_BYTES);
    let refused = |error: &io::Error| {
        matches!(
            error.raw_os_error(),
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS)
        )
    };
    let modes =
        [(true, true), (true, false), (false, true)].map(|(direct, dsync)| Mode { direct, dsync });
    for mode in modes {
        match DurableFile::open(path, mode).and_then(|file| file.write_durable(block.as_slice(), 0))
        {
            Ok(()) => return Ok(mode),
            Err(error) if refused(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Mode {
        direct: false,
        dsync: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::{recover, Config, Expect, Identity, Wal};
    use proto::raftpb::Entry;

    /// Every way of writing that a file system may leave, whatever the one below accepts.
    #[test]
    fn each_mode_writes_what_is_read_back() {
        let identity = Identity {
            cluster_id: 1,
            member_id: 2,
        };
        for (direct, dsync) in [(true, false), (false, true), (false, false)] {
            let dir = tempfile::tempdir().expect("a directory");
            let mut files = LogFiles::open(dir.path()).expect("opens");
            let direct = direct && files.is_direct();
            files.mode = Some(Mode { direct, dsync });
            let mut config = Config::new(dir.path(), 1);
            config.segment_bytes = 64 << 10;
            config.batch_bytes_max = 16 << 10;
            let tail = recover(&files, Expect::default())
                .expect("an empty directory")
                .tail;
            let mut wal = Wal::new(config, identity, tail).expect("configuration");
            for index in 1..=30 {
                let data = Some(vec![index as u8; 5000].into());
                let entry = Entry {
                    r#type: Some(0),
                    term: Some(1),
                    index: Some(index),
                    data,
                };
                wal.append(&[entry], None).expect("append");
                wal.release(wal.first_needed(index.saturating_sub(5)));
                while let Some(op) = wal.next_file_op() {
                    wal.file_op_done(op.tag, files.run(&op), 0)
                        .expect("file operation");
                }
                let write = wal.next_write(0).expect("a write");
                wal.write_done(write.tag, files.write_inline(&write))
                    .expect("write");
            }
            let recovered = recover(
                &files,
                Expect {
                    applied: 25,
                    ..Expect::default()
                },
            )
            .expect("opens");
            assert_eq!(
                (recovered.last_index, recovered.entries.len()),
                (30, 5),
                "{direct} {dsync}"
            );
        }
    }

    #[test]
    fn a_filling_without_hurry_ends_when_it_is_abandoned() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = LogFiles::open(&dir.path().join("log")).expect("makes it");
        let mut block = AlignedBuf::zeroed(BLOCK_BYTES);
        block.as_mut_slice()[0] = 1;
        let op = FileOp {
            tag: 1,
            kind: FileOpKind::Prepare {
                segment: SegmentId(1),
                recycle: None,
                bytes: 1 << 30,
                header: block,
                demand: Demand::default(),
            },
        };
        let error = thread::scope(|scope| {
            let filling = scope.spawn(|| files.run(&op));
            files.abandon();
            filling.join().expect("no panic")
        })
        .expect_err("a file of this length cannot have been filled");
        assert!(
            matches!(
                error.kind(),
                io::ErrorKind::Interrupted | io::ErrorKind::StorageFull
            ),
            "{error}"
        );
        let left = fs::read_dir(files.path()).expect("lists").count();
        assert_eq!(left, 0, "the unfinished file is removed");
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error_and_no_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = LogFiles::open(&dir.path().join("log")).expect("makes it");
        let mut buf = AlignedBuf::zeroed(BLOCK_BYTES);
        let error = files
            .read_at(SegmentId(4), 0, buf.as_mut_slice())
            .expect_err("not there");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(files.segments().expect("lists").is_empty());
    }
}
