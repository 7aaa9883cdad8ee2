//! Where segment files are read from: a real directory ([`super::driver::LogFiles`]), or memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::segment::{FileOp, FileOpKind};
use super::SegmentId;

/// A segment file as the directory lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    pub id: SegmentId,
    /// Length of the file in bytes, whatever its header says.
    pub bytes: u64,
}

/// Reading side of the log's directory.
pub trait LogDir: Send + Sync {
    /// All segment files, in any order. Files of other names are not the log's and are left out.
    fn segments(&self) -> io::Result<Vec<SegmentFile>>;

    /// Reads from the device, not from a cache: what is read must be what a power loss would leave (P4). Fills `buf` but
    /// for what lies beyond the end of the file, and returns the length. Offset, length and address are block-aligned.
    fn read_at(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Makes durable what a process that died may have left in a volatile cache of the device, so that recovery does not
    /// count on a batch which the next power loss takes away.
    fn flush(&self, segment: SegmentId) -> io::Result<()>;

    /// Whether recovery may read from a second thread what it needs next.
    fn reads_ahead(&self) -> bool {
        false
    }

    /// What to call the file in an error message.
    fn name(&self, segment: SegmentId) -> String;
}

/// A log directory in memory, for tests, fuzzing and simulation. Every write is durable at once.
#[derive(Default)]
pub struct MemoryDir {
    files: Mutex<BTreeMap<SegmentId, Vec<u8>>>,
}

impl MemoryDir {
    pub fn new(files: BTreeMap<SegmentId, Vec<u8>>) -> MemoryDir {
        MemoryDir {
            files: Mutex::new(files),
        }
    }

    /// The files themselves, to look at or to damage.
    pub fn files(&self) -> MutexGuard<'_, BTreeMap<SegmentId, Vec<u8>>> {
        // A panic elsewhere leaves the map whole: every change of it is one assignment.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write_at(&self, segment: SegmentId, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut files = self.files();
        let file = files.get_mut(&segment).ok_or(io::ErrorKind::NotFound)?;
        let from = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let part = file
            .get_mut(from..from + bytes.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        part.copy_from_slice(bytes);
        Ok(())
    }

    /// Carries out a file operation of the log.
    pub fn run(&self, op: &FileOp) -> io::Result<()> {
        let mut files = self.files();
        match &op.kind {
            FileOpKind::Prepare {
                segment,
                recycle,
                bytes,
                header,
                ..
            } => {
                let len = usize::try_from(*bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
                let mut file = match recycle {
                    Some(old) => files.remove(old).ok_or(io::ErrorKind::NotFound)?,
                    None => vec![0; len],
                };
                file.resize(len, 0);
                file[..header.len()].copy_from_slice(header.as_slice());
                files.insert(*segment, file);
            }
            FileOpKind::Remove { segment } => {
                files.remove(segment).ok_or(io::ErrorKind::NotFound)?;
            }
        }
        Ok(())
    }
}

impl LogDir for MemoryDir {
    fn segments(&self) -> io::Result<Vec<SegmentFile>> {
        Ok(self
            .files()
            .iter()
            .map(|(id, file)| SegmentFile {
                id: *id,
                bytes: file.len() as u64,
            })
            .collect())
    }

    fn read_at(&self, segment: SegmentId, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let files = self.files();
        let file = files.get(&segment).ok_or(io::ErrorKind::NotFound)?;
        let from = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(file.len());
        let len = buf.len().min(file.len() - from);
        buf[..len].copy_from_slice(&file[from..from + len]);
        Ok(len)
    }

    fn flush(&self, _segment: SegmentId) -> io::Result<()> {
        Ok(())
    }

    fn name(&self, segment: SegmentId) -> String {
        segment.file_name()
    }
}
