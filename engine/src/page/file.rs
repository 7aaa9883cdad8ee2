//! The file under the page space.

use super::{AlignedBuf, META_PAGES, PAGE_BYTES};
use crate::faults::{self, Point};
use crate::map::{self, Map};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where a device answers one small read in 75 us, four at a time are about four times as many.
const PARALLEL_READS: usize = 4;

/// What the page space asks of a file. Tree pages go through the page cache, where the mapping sees them; meta pages and
/// the checks at open go past it.
pub trait PageFile: Send + Sync {
    /// For messages.
    fn name(&self) -> String;
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Reads from the device, never from the page cache. A short answer means the end of the file. Offset and length
    /// are multiples of 4096.
    fn read_at_direct(&self, offset: u64, buf: &mut AlignedBuf) -> io::Result<usize>;
    /// Reads from the device that pay off at the same time, each from a thread of its own.
    fn parallel_reads(&self) -> usize {
        1
    }
    /// Reads through the page cache. A short answer means the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes through the page cache; durable after the next `flush`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Writes one page past the page cache; durable when it returns.
    fn write_meta(&self, offset: u64, page: &AlignedBuf) -> io::Result<()>;
    fn flush(&self) -> io::Result<()>;
    /// Makes the file longer, with its blocks allocated: what fails for want of space fails here.
    fn grow(&self, len: u64) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Whether the file comes into being with its meta pages in it. Then one without them was damaged, whatever
    /// `Options::create` says.
    fn is_created_whole(&self) -> bool {
        false
    }
    /// The file's mapping, if it has one.
    fn map(&self) -> Option<Arc<Map>>;
}

/// Where the copy of another member's page file comes into being, and takes the place of this member's own.
pub trait PageDir: Send + Sync {
    /// An empty file beside the page file; one that was left there is gone.
    fn create_incoming(&self) -> io::Result<Arc<dyn PageFile>>;
    /// An empty file for what has to be read again before it is of use. It is gone when nobody has it any more, whatever
    /// happens meanwhile.
    fn create_spool(&self) -> io::Result<Arc<dyn PageFile>>;
    /// Puts the incoming file, whose content is durable, in the place of the page file. One of the two is there whatever
    /// happens meanwhile; when this returns it is the new one.
    fn install(&self) -> io::Result<Arc<dyn PageFile>>;
}

/// The page file's directory in the file system.
pub struct RealDir {
    path: PathBuf,
}

impl RealDir {
    /// `path` is that of the page file.
    pub fn new(path: &Path) -> RealDir {
        RealDir {
            path: path.to_owned(),
        }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    }

    fn incoming(&self) -> PathBuf {
        self.beside(".incoming")
    }
}

impl PageDir for RealDir {
    fn create_incoming(&self) -> io::Result<Arc<dyn PageFile>> {
        let path = self.incoming();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Arc::new(RealFile::open_or_create(&path)?))
    }

    fn create_spool(&self) -> io::Result<Arc<dyn PageFile>> {
        let path = self.beside(".spool");
        File::create(&path)?;
        let file = RealFile::open(&path)?;
        // Its name was only needed to open it.
        std::fs::remove_file(&path)?;
        Ok(Arc::new(file))
    }

    fn install(&self) -> io::Result<Arc<dyn PageFile>> {
        std::fs::rename(self.incoming(), &self.path)?;
        sync_parent(&self.path)?;
        Ok(Arc::new(RealFile::open(&self.path)?))
    }
}

/// Makes the names in a file's directory durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)?.sync_all()
}

/// A file of the file system, mapped.
pub struct RealFile {
    path: PathBuf,
    cached: File,
    direct: File,
    /// The file system refused `O_DIRECT`: meta pages are flushed, and checks read what the page cache has.
    is_direct: bool,
    map: Arc<Map>,
}

impl RealFile {
    /// Opens an existing file.
    pub fn open(path: &Path) -> io::Result<RealFile> {
        let options = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true);
            options
        };
        let cached = options().open(path)?;
        let (direct, is_direct) = match options()
            .custom_flags(libc::O_DIRECT | libc::O_DSYNC)
            .open(path)
        {
            Ok(file) => (file, true),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                (options().custom_flags(libc::O_DSYNC).open(path)?, false)
            }
            Err(e) => return Err(e),
        };
        let map = Arc::new(Map::new(&cached)?);
        Ok(RealFile {
            path: path.to_owned(),
            cached,
            direct,
            is_direct,
            map,
        })
    }

    /// Opens the file, or lays out a new one under a name of its own and moves it into place when it is durable, so that
    /// a file under the final name always has its meta pages.
    pub fn open_or_create(path: &Path) -> io::Result<RealFile> {
        if path.try_exists()? {
            return RealFile::open(path);
        }
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        let new = PathBuf::from(new);
        let file = File::create(&new)?;
        for slot in 0..META_PAGES {
            let page = crate::checkpoint::blank_meta(slot);
            file.write_all_at(&page, u64::from(slot) * PAGE_BYTES as u64)?;
        }
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        sync_parent(path)?;
        RealFile::open(path)
    }

    fn located(&self, what: &str, offset: u64, error: io::Error) -> io::Error {
        let path = self.path.display();
        io::Error::new(
            error.kind(),
            format!("{path}: {what} at offset {offset}: {error}"),
        )
    }
}

fn read_full(file: &File, mut offset: u64, mut buf: &mut [u8]) -> io::Result<usize> {
    let wanted = buf.len();
    while !buf.is_empty() {
        match file.read_at(buf, offset) {
            Ok(0) => break,
            Ok(n) => {
                offset += n as u64;
                buf = &mut buf[n..];
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(wanted - buf.len())
}

impl PageFile for RealFile {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.cached.metadata()?.len())
    }

    fn parallel_reads(&self) -> usize {
        PARALLEL_READS
    }

    fn read_at_direct(&self, offset: u64, buf: &mut AlignedBuf) -> io::Result<usize> {
        if !self.is_direct {
            map::forget_cached(&self.direct, offset, buf.len());
        }
        faults::meet(Point::PageRead)
            .and_then(|()| read_full(&self.direct, offset, buf))
            .map_err(|e| self.located("direct read failed", offset, e))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        faults::meet(Point::PageRead)
            .and_then(|()| read_full(&self.cached, offset, buf))
            .map_err(|e| self.located("read failed", offset, e))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let result =
            faults::meet(Point::PageWrite).and_then(|()| self.cached.write_all_at(bytes, offset));
        result.map_err(|e| self.located("write failed", offset, e))?;
        // At the pace of the writer, not all at once in the flush, which the log would have to queue behind.
        map::begin_writeback(&self.cached, offset, bytes.len());
        Ok(())
    }

    fn write_meta(&self, offset: u64, page: &AlignedBuf) -> io::Result<()> {
        let result =
            faults::meet(Point::MetaWrite).and_then(|()| self.direct.write_all_at(page, offset));
        result.map_err(|e| self.located("meta page write failed", offset, e))
    }

    fn flush(&self) -> io::Result<()> {
        let result = faults::meet(Point::PageFlush).and_then(|()| self.cached.sync_data());
        result.map_err(|e| self.located("flush failed", 0, e))
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        let from = self.len()?;
        if len <= from {
            return Ok(());
        }
        if len > self.map.len() {
            let error = io::Error::from(io::ErrorKind::FileTooLarge);
            return Err(self.located("growing failed: beyond the mapping's size", len, error));
        }
        map::allocate(&self.cached, from, len - from)
            .map_err(|e| self.located("growing failed", from, e))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.cached
            .set_len(len)
            .map_err(|e| self.located("truncating failed", len, e))
    }

    fn is_created_whole(&self) -> bool {
        true
    }

    fn map(&self) -> Option<Arc<Map>> {
        Some(self.map.clone())
    }
}
